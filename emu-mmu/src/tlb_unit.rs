//! One side's translation: architectural TLB of one or two levels, its shadow, the host TLB, and their counting.
//!
//! The caller counts the access; everything that follows from it (miss, class, second level, walk, dirty assist) is
//! counted here. A second level is filled by walks and keeps what it gives to the first.
//!
//! Invariant: hits + misses = accesses at each level; [`TlbUnit::lookup`] succeeds only where [`TlbUnit::translate`] would
//! hit, in both TLBs, without any event.

use crate::addr::{PhysAddr, Region, VirtAddr};
use crate::control::Cr3Load;
use crate::counted_walk::WalkContext;
use crate::entry::{TlbEntry, Why};
use crate::host_tlb::{Guess, HostTlb};
use crate::shadow::{Miss, Shadow, Spared};
use crate::tlb::Tlb;
use lowmem_cost::geometry::{Replacement, TlbGeometry};
use lowmem_cost::{Event, Purpose};

/// The events of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TlbEvents {
    pub(crate) access: Event,
    miss: Event,
    flush: Event,
    remap: Event,
    cold: Event,
    capacity: Event,
    spared: Event,
    access2: Event,
    miss2: Event,
    walk: Event,
    pub(crate) purpose: Purpose,
}

/// Instruction side.
pub(crate) const ITLB: TlbEvents = TlbEvents {
    access: Event::ItlbAccess,
    miss: Event::ItlbMiss,
    flush: Event::ItlbFlush,
    remap: Event::ItlbRemap,
    cold: Event::ItlbCold,
    capacity: Event::ItlbCapacity,
    spared: Event::ItlbSpared,
    access2: Event::Itlb2Access,
    miss2: Event::Itlb2Miss,
    walk: Event::ItlbWalk,
    purpose: Purpose::ItlbWalk,
};

/// Data side.
pub(crate) const DTLB: TlbEvents = TlbEvents {
    access: Event::DtlbAccess,
    miss: Event::DtlbMiss,
    flush: Event::DtlbFlush,
    remap: Event::DtlbRemap,
    cold: Event::DtlbCold,
    capacity: Event::DtlbCapacity,
    spared: Event::DtlbSpared,
    access2: Event::Dtlb2Access,
    miss2: Event::Dtlb2Miss,
    walk: Event::DtlbWalk,
    purpose: Purpose::DtlbWalk,
};

/// Whether the shortcuts of decision D15 are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortcuts {
    /// Fast.
    On,
    /// The slow twin.
    Off,
}

/// The page used last, while nothing else has touched either TLB: using it again is a hit that changes nothing.
#[derive(Debug, Clone, Copy)]
struct Last {
    vpn: u32,
    flags: u64,
    base: PhysAddr,
}

impl Last {
    const NONE: Last = Last {
        vpn: u32::MAX,
        flags: 0,
        base: PhysAddr(0),
    };
}

/// ITLB or DTLB.
#[derive(Debug, Clone)]
pub(crate) struct TlbUnit {
    first: Tlb,
    second: Option<Tlb>,
    shadow: Shadow,
    host: HostTlb,
    last: Last,
    pub(crate) events: TlbEvents,
    shortcuts: Shortcuts,
}

impl TlbUnit {
    pub(crate) fn new(
        g: &TlbGeometry,
        replacement: Replacement,
        events: TlbEvents,
        shortcuts: Shortcuts,
    ) -> TlbUnit {
        let first = Tlb::new(g.small, g.large, replacement);
        TlbUnit {
            shadow: Shadow::new(first.clone()),
            first,
            second: g.second.map(|s| Tlb::second(s, replacement)),
            host: HostTlb::new(),
            last: Last::NONE,
            events,
            shortcuts,
        }
    }

    /// The shortcut: a hit of both TLBs with all these flags, found by the host TLB.
    #[inline(always)]
    pub(crate) fn lookup(&mut self, va: VirtAddr, need: u64) -> Option<PhysAddr> {
        if va.vpn() == self.last.vpn && self.last.flags & need == need {
            return Some(self.last.base.plus(u64::from(va.offset())));
        }
        self.lookup_host(va, need)
    }

    #[inline]
    fn lookup_host(&mut self, va: VirtAddr, need: u64) -> Option<PhysAddr> {
        let guess = self.host.get(va)?;
        let entry = self.first.entry(guess.slot);
        let held = self.first.key(guess.slot) == guess.key
            && self.shadow.key(guess.shadow) == Some(guess.key);
        if !held || !entry.has(need) {
            return None;
        }
        self.first.touch(guess.slot);
        self.shadow.touch(guess.shadow);
        let at = entry.translate(va);
        self.last = Last {
            vpn: va.vpn(),
            flags: entry.0,
            base: PhysAddr(at.0 - u64::from(va.offset())),
        };
        Some(at)
    }

    /// One translation, the access itself being counted already.
    #[inline(never)]
    pub(crate) fn translate(
        &mut self,
        ctx: &mut WalkContext<'_>,
        va: VirtAddr,
        need: u64,
    ) -> Result<PhysAddr, Why> {
        self.last = Last::NONE;
        if let Some(slot) = self.first.find(va) {
            self.first.touch(slot);
            let (shadow, spared) = self.shadow.real_hit(va, self.first.entry(slot));
            if spared == Spared::Yes {
                ctx.account.add(self.events.spared, 1);
            }
            return self.use_slot(ctx, va, need, (slot, shadow));
        }
        ctx.account.add(self.events.miss, 1);
        if let Some(second) = &mut self.second {
            ctx.account.add(self.events.access2, 1);
            if let Some(slot) = second.find(va) {
                second.touch(slot);
                let entry = second.entry(slot);
                let (slot, entry) = self.fill_first(va, entry);
                let shadow = self.classify(ctx, va, Some(entry));
                let shadow = shadow.expect("the shadow keeps what it is given");
                return self.use_slot(ctx, va, need, (slot, shadow));
            }
            ctx.account.add(self.events.miss2, 1);
        }
        ctx.account.add(self.events.walk, 1);
        match ctx.walk(va, need) {
            Ok(entry) => {
                let (slot, entry) = self.fill_first(va, entry);
                if let Some(second) = &mut self.second {
                    second.insert(va, entry);
                }
                if let Some(shadow) = self.classify(ctx, va, Some(entry)) {
                    self.guess(va, slot, shadow);
                }
                Ok(entry.translate(va))
            }
            Err(why) => {
                self.classify(ctx, va, None);
                Err(why)
            }
        }
    }

    fn fill_first(&mut self, va: VirtAddr, entry: TlbEntry) -> (u32, TlbEntry) {
        let kept = self.first.insert(va, entry);
        kept.expect("a first level holds every page size")
    }

    fn classify(
        &mut self,
        ctx: &mut WalkContext<'_>,
        va: VirtAddr,
        outcome: Option<TlbEntry>,
    ) -> Option<u32> {
        let (class, slot) = self.shadow.real_miss(va, outcome);
        let event = match class {
            Miss::Flush => self.events.flush,
            Miss::Remap => self.events.remap,
            Miss::Cold => self.events.cold,
            Miss::Capacity => self.events.capacity,
        };
        ctx.account.add(event, 1);
        slot
    }

    /// Rights and D of an entry that the first level holds.
    fn use_slot(
        &mut self,
        ctx: &mut WalkContext<'_>,
        va: VirtAddr,
        need: u64,
        (slot, shadow): (u32, u32),
    ) -> Result<PhysAddr, Why> {
        let entry = self.first.entry(slot);
        if !entry.has(need & !TlbEntry::D) {
            return Err(Why::Rights);
        }
        if !entry.has(need) {
            let fresh = ctx.dirty_assist(va, need)?;
            return Ok(self.refresh(va, slot, fresh).translate(va));
        }
        self.guess(va, slot, shadow);
        Ok(entry.translate(va))
    }

    /// After a dirty assist: both levels keep what memory says now.
    fn refresh(&mut self, va: VirtAddr, slot: u32, fresh: TlbEntry) -> TlbEntry {
        let old = self.first.entry(slot);
        let fresh = if old.has(TlbEntry::FRAGMENT) && fresh.has(TlbEntry::LARGE) {
            fresh.fragment(va)
        } else {
            fresh
        };
        if old.same_page(fresh) {
            self.first.set_entry(slot, fresh);
            if let Some(second) = &mut self.second
                && let Some(slot) = second.find(va)
            {
                second.set_entry(slot, fresh);
            }
            return fresh;
        }
        self.first.invalidate(va);
        let (_, fresh) = self.fill_first(va, fresh);
        if let Some(second) = &mut self.second {
            second.invalidate(va);
            second.insert(va, fresh);
        }
        fresh
    }

    fn guess(&mut self, va: VirtAddr, slot: u32, shadow: u32) {
        let key = self.first.key(slot);
        if self.shortcuts == Shortcuts::On && self.shadow.key(shadow) == Some(key) {
            self.host.set(Guess {
                vpn: va.vpn(),
                key,
                slot,
                shadow,
            });
        }
    }

    /// The entry the next access to `va` would hit, in either level. Changes nothing.
    pub(crate) fn peek(&self, va: VirtAddr) -> Option<TlbEntry> {
        let first = self.first.find(va).map(|slot| self.first.entry(slot));
        first.or_else(|| {
            let second = self.second.as_ref()?;
            second.find(va).map(|slot| second.entry(slot))
        })
    }

    /// Where the next access to `va` hits, if that is a hit of both TLBs without an event. Changes nothing.
    pub(crate) fn would_hit(&self, va: VirtAddr, need: u64) -> Option<PhysAddr> {
        let entry = self.first.entry(self.first.find(va)?);
        (entry.has(need) && self.shadow.holds(va)).then(|| entry.translate(va))
    }

    /// Misses of the shadow.
    pub(crate) fn shadow_misses(&self) -> u64 {
        self.shadow.misses()
    }

    /// A CR3 load: the real entries that are not global go, the shadow has its own rules.
    pub(crate) fn load_cr3(&mut self, root: u32, why: Cr3Load) {
        self.last = Last::NONE;
        self.first.flush(|_, entry| entry.has(TlbEntry::G));
        if let Some(second) = &mut self.second {
            second.flush(|_, entry| entry.has(TlbEntry::G));
        }
        match why {
            Cr3Load::Split => self.shadow.load_split(root),
            Cr3Load::Other => self.shadow.load_other(root),
        }
    }

    /// Drops everything, in the shadow too, whose root is `root` from now on. Large pages cover `region` from now on.
    pub(crate) fn flush_all(&mut self, root: u32, region: Region) {
        self.last = Last::NONE;
        self.first.reset(region);
        if let Some(second) = &mut self.second {
            second.reset(region);
        }
        self.shadow.flush_all(region);
        // It is empty, so no entry has to pass to the new root.
        self.shadow.load_split(root);
    }

    /// invlpg, or a #PF at `va`.
    pub(crate) fn invalidate(&mut self, va: VirtAddr) {
        self.last = Last::NONE;
        self.first.invalidate(va);
        if let Some(second) = &mut self.second {
            second.invalidate(va);
        }
        self.shadow.invalidate(va);
    }

    /// Another mm runs.
    pub(crate) fn set_running_mm(&mut self, mm: u32) {
        self.last = Last::NONE;
        self.shadow.set_running_mm(mm);
    }

    /// An mm is gone.
    pub(crate) fn forget_mm(&mut self, mm: u32) {
        self.shadow.forget_mm(mm);
    }
}
