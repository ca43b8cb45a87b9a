//! What reclaim decided, in order, and the counterfactual in which kernel objects take no memory: why two reverse maps evict in
//! different orders (article 5: "the core decision-making code has not changed").
//!
//! A page's name in the log is its number among the user pages that were handed out: as long as two runs decide alike, page n of
//! one shows what page n of the other shows, in whatever frame it lies. File pages are named so, too.
//!
//! Decisions of two kernels of one source differ for two kinds of reasons: the scheme answers otherwise (who referenced
//! the page, can it be unmapped), or it is asked at another time, because what it keeps takes memory: watermarks
//! are crossed earlier. The counterfactual ([`Level`]) takes the second away: every kernel begins with the same free pages in
//! each zone, and slabs (of all caches) and the tables of `pte_chain_v1` and `pte_chain_dl` lie outside the zones. What still differs then is the scheme's answer.
//!
//! Invariant: keeping decisions changes nothing that the kernel does.

use crate::error::MachineError;
use crate::lowmem;
use crate::machine::{Machine, guarded};
use crate::native::Native;
pub use guest_vm::kernel::Decision;
use guest_vm::layout::{Page, pg};
use guest_vm::page_alloc::zone::{ZoneKind, node};
use guest_vm::page_alloc::{buddy, page_to_pfn, pcp, set_owner};
use guest_vm::percpu::{State, page_state};
use guest_vm::ptr::Low;
use guest_vm::reclaim::PF_KSWAPD;
use guest_vm::task::current;
use lowmem_abi::owner::Owner as PageOwner;
pub use lowmem_abi::probe::Probe;
use lowmem_report::LowmemUse;
use std::collections::BTreeSet;

/// Zones of the machine.
pub const ZONES: usize = ZoneKind::ALL.len();

/// One decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// What.
    pub what: Decision,
    /// About which page: index of [`Decisions::pages`].
    pub page: u32,
    /// In which run of reclaim: index of [`Decisions::runs`].
    pub run: u32,
    /// Why try_to_unmap gave up on it, if it did: young, locked, pinned or a missed lock. No part of the comparison.
    pub gave_up: Option<Probe>,
}

/// Probes that try_to_unmap passes when it gives up.
const GIVING_UP: [Probe; 4] = [
    Probe::UnmapYoung,
    Probe::UnmapLocked,
    Probe::UnmapPinned,
    Probe::UnmapAgain,
];

/// Who ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimer {
    /// The task that wanted memory.
    Direct,
    /// kswapd.
    Kswapd,
}

/// A zone as reclaim found it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ZoneState {
    /// Free pages.
    pub free: u32,
    /// Pages on the active list.
    pub active: u32,
    /// Pages on the inactive list.
    pub inactive: u32,
}

/// Reclaim has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReclaimRun {
    /// Operation of the trace.
    pub operation: u64,
    /// Who.
    pub who: Reclaimer,
    /// Zones then.
    pub zones: [ZoneState; ZONES],
    /// Mapped pages then.
    pub mapped: u32,
    /// Number of its first decision.
    pub first: u32,
}

/// When a user page was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Born {
    /// Operation of the trace.
    pub operation: u64,
    /// Address of the last fault.
    pub va: u32,
    /// For whom.
    pub owner: PageOwner,
}

/// All decisions of a run.
#[derive(Debug, Clone, Default)]
pub struct Decisions {
    /// In order.
    pub decided: Vec<Decided>,
    /// Runs of reclaim.
    pub runs: Vec<ReclaimRun>,
    /// User pages in the order in which they were handed out; the first stands for those of boot.
    pub pages: Vec<Option<Born>>,
    /// Low memory by owner just before the decision that [`Keep::look_at`] named.
    pub seen: Option<LowmemUse>,
    /// Most pages lent at once.
    pub most_lent: u32,
    /// The reserve was too small: some kernel objects lay in the zones after all.
    pub overdrawn: bool,
}

/// What is to be kept, and under which conditions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep {
    /// The number of a decision before which low memory is divided by owner.
    pub look_at: Option<u32>,
    /// Every kernel begins at this level, and slabs lie outside the zones.
    pub level: Option<Level>,
}

/// What a kernel has after boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Free pages of each zone, per-CPU lists empty.
    pub free: [u32; ZONES],
    /// Pages that boot freed.
    pub total: u32,
}

impl Level {
    /// The level that kernels on both can be brought to.
    pub fn lower(self, other: Level) -> Level {
        let mut free = self.free;
        for (a, b) in free.iter_mut().zip(other.free) {
            *a = (*a).min(b);
        }
        Level {
            free,
            total: self.total.min(other.total),
        }
    }

    /// Lower by so many pages of low memory, DMA last; a zone gives half of what it has at most. High memory gives none: the
    /// reserve is for slabs, which need an address.
    pub fn less(mut self, pages: u32) -> Level {
        let mut left = pages;
        for kind in [ZoneKind::Normal, ZoneKind::Dma] {
            let free = &mut self.free[kind as usize];
            let n = left.min(*free / 2);
            *free -= n;
            left -= n;
        }
        self
    }
}

/// The log while it is written.
#[derive(Debug, Clone, Default)]
pub struct DecisionLog {
    out: Decisions,
    /// Name of the page in each frame.
    names: Vec<u32>,
    look_at: Option<u32>,
    low_pages: u32,
    /// Counts of [`GIVING_UP`] at the last decision.
    gave_up: [u64; GIVING_UP.len()],
}

impl DecisionLog {
    /// Reclaim begins.
    pub(crate) fn begun(&mut self, k: Native, operation: u64) {
        let zones = ZoneKind::ALL.map(|kind| {
            let z = node(k).zone(k, kind as u32);
            ZoneState {
                free: z.free_pages(k),
                active: z.nr_active(k),
                inactive: z.nr_inactive(k),
            }
        });
        let kswapd = current(k).flags(k) & PF_KSWAPD != 0;
        self.out.runs.push(ReclaimRun {
            operation,
            who: match kswapd {
                true => Reclaimer::Kswapd,
                false => Reclaimer::Direct,
            },
            zones,
            mapped: page_state(k, State::NrMapped),
            first: self.out.decided.len() as u32,
        });
    }

    /// Reclaim has decided.
    pub(crate) fn decided(&mut self, k: Native, page: Low<Page>, what: Decision, probes: &[u64]) {
        let now = GIVING_UP.map(|p| probes[p as usize]);
        let grown = now.iter().zip(self.gave_up).position(|(n, b)| *n > b);
        self.gave_up = now;
        if self.look_at == Some(self.out.decided.len() as u32) {
            self.out.seen = Some(lowmem::of_kernel(k, self.low_pages));
        }
        let pfn = page_to_pfn(k, page) as usize;
        self.out.decided.push(Decided {
            what,
            page: self.names.get(pfn).copied().unwrap_or(0),
            run: self.out.runs.len().saturating_sub(1) as u32,
            gave_up: grown.map(|i| GIVING_UP[i]),
        });
    }

    /// A page was handed out at (operation, address).
    pub(crate) fn handed_out(&mut self, pfn: u32, owner: PageOwner, at: (u64, u32)) {
        if !matches!(owner, PageOwner::User | PageOwner::PageCache) {
            return;
        }
        let pfn = pfn as usize;
        if self.names.len() <= pfn {
            self.names.resize(pfn + 1, 0);
        }
        self.names[pfn] = self.out.pages.len() as u32;
        self.out.pages.push(Some(Born {
            operation: at.0,
            va: at.1,
            owner,
        }));
    }
}

/// Pages outside the zones, for slabs of one page.
#[derive(Debug, Clone, Default)]
pub struct Reserve {
    free: Vec<u32>,
    lent: BTreeSet<u32>,
    most_lent: u32,
    /// Somebody asked in vain: the counterfactual does not hold.
    overdrawn: bool,
}

impl Reserve {
    pub(crate) fn lend(&mut self, k: Native, order: u32, owner: PageOwner) -> Option<Low<Page>> {
        if order != 0 {
            return None;
        }
        let Some(va) = self.free.pop() else {
            self.overdrawn = true;
            return None;
        };
        self.lent.insert(va);
        self.most_lent = self.most_lent.max(self.lent.len() as u32);
        let page = Low::new(va);
        set_owner(k, page, owner);
        Some(page)
    }

    pub(crate) fn take_back(&mut self, page: Low<Page>) -> bool {
        let lent = self.lent.remove(&page.va());
        if lent {
            self.free.push(page.va());
        }
        lent
    }
}

impl Machine {
    /// What the kernel has now, its per-CPU lists emptied. Directly after boot only.
    pub fn level(&mut self) -> Result<Level, MachineError> {
        let k = self.k;
        self.quietly(|| {
            for kind in ZoneKind::ALL {
                let z = node(k).zone(k, kind as u32);
                if z.present_pages(k) != 0 {
                    pcp::drain(k, z);
                }
            }
        })?;
        Ok(Level {
            free: ZoneKind::ALL.map(|kind| node(k).zone(k, kind as u32).free_pages(k)),
            total: node(k).totalram_pages(k),
        })
    }

    /// From here on decisions are kept. Directly after boot only.
    pub(crate) fn keep_decisions(&mut self, keep: Keep) -> Result<(), MachineError> {
        if let Some(level) = keep.level {
            self.bring_to(level)?;
        }
        let mut log = DecisionLog {
            look_at: keep.look_at,
            low_pages: self.low_pages(),
            ..DecisionLog::default()
        };
        log.out.pages.push(None);
        self.host.log = Some(Box::new(log));
        Ok(())
    }

    /// What was kept.
    pub(crate) fn take_decisions(&mut self) -> Decisions {
        let mut out = self
            .host
            .log
            .take()
            .map_or_else(Default::default, |l| l.out);
        if let Some(reserve) = &self.host.reserve {
            out.most_lent = reserve.most_lent;
            out.overdrawn = reserve.overdrawn;
        }
        out
    }

    /// Takes what is free above `level` out of the zones.
    fn bring_to(&mut self, level: Level) -> Result<(), MachineError> {
        self.level()?;
        let k = self.k;
        let mut free = Vec::new();
        self.quietly(|| {
            for kind in ZoneKind::ALL {
                let z = node(k).zone(k, kind as u32);
                while z.free_pages(k) > level.free[kind as usize] {
                    let Some(page) = buddy::take_block(k, z, 0) else {
                        break;
                    };
                    page.set_count(k, 1);
                    page.set_private(k, 0);
                    // Slabs need an address.
                    if page.flags(k) & (1 << pg::HIGHMEM) == 0 {
                        free.push(page.va());
                    }
                }
            }
            node(k).set_totalram_pages(k, level.total);
        })?;
        self.host.reserve = Some(Box::new(Reserve {
            free,
            ..Reserve::default()
        }));
        Ok(())
    }

    fn quietly(&self, f: impl FnOnce()) -> Result<(), MachineError> {
        guarded(f).map_err(|e| MachineError::Guest {
            operation: 0,
            reason: e.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{ReplayOptions, boot, preset, replay_decisions};
    use lowmem_report::Config;
    use lowmem_report::config::Rmap;
    use lowmem_trace::Trace;

    const STORM: &[u8] = include_bytes!("../../../traces/swapstorm1.lmt");

    #[test]
    fn the_reserve_comes_from_low_memory_dma_last() {
        let level = Level {
            free: [1000, 5000, 90_000],
            total: 96_000,
        };
        assert_eq!(level.less(2000).free, [1000, 3000, 90_000]);
        assert_eq!(level.less(2800).free, [700, 2500, 90_000]);
        assert_eq!(level.less(9000).free, [500, 2500, 90_000]);
    }

    #[test]
    fn a_reserve_that_is_too_small_is_said() {
        let trace = Trace::from_bytes("swapstorm1", STORM).expect("a committed trace");
        let config = Config {
            rmap: Rmap::PteChain,
            ram_bytes: 24 << 20,
            ..Config::default()
        };
        let after_boot = boot(&config, &preset(&config).expect("a preset"))
            .and_then(|mut m| m.level())
            .expect("it boots");
        let run = |reserve: u32| {
            let keep = Keep {
                look_at: None,
                level: Some(after_boot.less(reserve)),
            };
            replay_decisions(&trace, &config, &ReplayOptions::default(), keep)
                .expect("it runs")
                .1
        };
        let small = run(4);
        assert!(small.overdrawn);
        assert_eq!(small.most_lent, 4);
        assert!(!run(200).overdrawn);
    }
}
