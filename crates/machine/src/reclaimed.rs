//! What reclaim took off its lists, and the order in which it left them, operation by operation, in either mode.
//!
//! Natively the kernel tells each decision ([`crate::decisions`]); on the CPU it tells nobody, so that no instruction is added. What it
//! decided can be read from the lists of each zone: after every operation in which reclaim ran, the pages that left them since the
//! last time are known by frame and content, and the order of those that stay is what the next decisions follow from.
//!
//! Left out: the order of pages taken in one operation. Pages that a process freed in between count as gone, too.
//!
//! Invariant: looking changes nothing.

use crate::drive_native::Stop;
use crate::error::MachineError;
use crate::machine::Machine;
use crate::measure::failure;
use crate::replay::{ReplayOptions, boot, cycle_options, preset};
use crate::replayer::{Pause, PauseAfter, Replayer};
use guest_vm::kernel::Kernel;
use guest_vm::layout::Page;
use guest_vm::page;
use guest_vm::page_alloc::page_to_pfn;
use guest_vm::page_alloc::zone::{ZoneKind, node};
use guest_vm::ptr::Low;
use guest_vm::swap::entry_of;
use lowmem_abi::probe::Probe;
use lowmem_report::{Config, Mode};
use lowmem_trace::Trace;
use lowmem_trace::retouch::mix;
use std::collections::BTreeMap;

/// What a frame on the lists shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Address of the object in the guest, or of its anon_vma, or 0.
    pub mapping: u32,
    /// Its page of the object.
    pub index: u32,
    /// The slot, of a page of the swap cache.
    pub slot: Option<u32>,
}

/// Reclaim ran in an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclaimed {
    /// Number of the operation.
    pub operation: u64,
    /// Runs of reclaim until here.
    pub runs: u64,
    /// Frames that left the lists since the last time, or show something else, ascending; with what they showed.
    pub gone: Vec<(u32, Content)>,
    /// Digest of all lists in their order.
    pub order: u64,
}

/// Replays `trace` in the mode of `options` and tells what reclaim did in each operation in which it ran.
pub fn reclaimed(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
) -> Result<Vec<Reclaimed>, MachineError> {
    config.check()?;
    let preset = preset(config)?;
    let mut machine = boot(config, &preset)?;
    let mut replayer = Replayer::new(trace, options.assumptions);
    replayer.pause_after = PauseAfter::Every;
    let mut cycle = match options.mode {
        Mode::Native => None,
        Mode::Cycle => {
            Some(machine.enter_cycle(&cycle_options(&preset, config, options.engine))?)
        }
    };
    let (mut out, mut runs, mut before) = (Vec::new(), 0, BTreeMap::new());
    loop {
        let stop = match &mut cycle {
            None => Some(machine.run_native(&mut replayer)),
            Some(state) => machine.run_cycle(&mut replayer, state),
        };
        match stop {
            Some(Stop::Pause(Pause::Done(_, operation))) => {
                let probes = match &cycle {
                    None => &machine.host.probes,
                    Some(state) => &state.books.probes,
                };
                let now = probes[Probe::Reclaim as usize & 63];
                if now == runs {
                    continue;
                }
                runs = now;
                let (order, listed) = machine.listed();
                let gone = before
                    .into_iter()
                    .filter(|(frame, content)| listed.get(frame) != Some(content))
                    .collect();
                before = listed;
                out.push(Reclaimed {
                    operation,
                    runs,
                    gone,
                    order,
                });
            }
            Some(Stop::Pause(Pause::End)) => return Ok(out),
            None | Some(Stop::Pause(_)) => {}
            Some(failed) => return Err(failure(failed, replayer.operation())),
        }
    }
}

impl Machine {
    /// Digest of the order of all lists, and what the frames on them show.
    fn listed(&self) -> (u64, BTreeMap<u32, Content>) {
        let k = self.k;
        let (mut order, mut listed) = (0, BTreeMap::new());
        for kind in ZoneKind::ALL {
            let zone = node(k).zone(k, kind as u32);
            if zone.present_pages(k) == 0 {
                continue;
            }
            for list in [zone.active_list(k), zone.inactive_list(k)] {
                let mut at = list.next(k);
                while at != list {
                    let page = page::of_lru(k, at);
                    let frame = page_to_pfn(k, page);
                    order = mix(order, u64::from(frame), kind as u32);
                    listed.insert(frame, content(k, page));
                    at = at.next(k);
                }
                // Where one list ends and the next begins.
                order = mix(order, u64::MAX, kind as u32);
            }
        }
        (order, listed)
    }
}

fn content<K: Kernel>(k: K, page: Low<Page>) -> Content {
    Content {
        mapping: page.mapping(k),
        index: page.index(k),
        slot: page::swap_cached(k, page).then(|| entry_of(k, page).0),
    }
}
