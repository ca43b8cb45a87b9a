//! What probes and entries tell: on whose behalf the CPU works, and which kind of entry each event belongs to.
//!
//! Paths nest: a begin probe names the side, its end probe gives back the side that was charged before. From the delivery
//! of an entry to the first path, and from the end of the outermost path to the return, the CPU charges `entry_exit`
//! (decision D10; crate `lowmem_cost`, module `side`).
//!
//! Invariant: at CPL 3 no path is open.

use lowmem_abi::probe::{END, Probe};
use lowmem_cost::{Account, Event, Side};
use lowmem_report::{Operation, OperationCount};
use std::collections::BTreeMap;

/// What a kernel stay began with, as its first probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstPath {
    /// The timer.
    Tick,
    /// A fault, or what was asked for.
    Other,
}

/// Counters of cycle mode.
#[derive(Debug, Clone)]
pub struct Books {
    paths: Vec<(Probe, Side)>,
    pub(crate) first: Option<FirstPath>,
    /// Times each probe was passed, by id.
    pub probes: [u64; 64],
    /// By kind of entry.
    pub operations: BTreeMap<Operation, OperationCount>,
    last: Account,
    /// A probe that does not fit the open paths: kernel and machine disagree.
    pub mismatch: Option<String>,
    /// Events inside the innermost parts of an unmap, when they are collected.
    pub(crate) parts: Option<Parts>,
    /// Port that stopped the CPU.
    pub(crate) port: Option<u16>,
}

/// Events of page_referenced and try_to_unmap while one page is unmapped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    /// At the begin of path unmap.
    pub(crate) start: Option<Account>,
    /// At the end of page_referenced.
    pub(crate) referenced: Option<Account>,
    /// At the begin of try_to_unmap.
    pub(crate) unmap_start: Option<Account>,
    /// At the end of try_to_unmap.
    pub(crate) end: Option<Account>,
}

impl Default for Books {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            first: None,
            probes: [0; 64],
            operations: BTreeMap::new(),
            last: Account::default(),
            mismatch: None,
            parts: None,
            port: None,
        }
    }
}

/// The side that pays for a path.
const fn side_of(path: Probe) -> Option<Side> {
    Some(match path {
        Probe::Fault => Side::Fault,
        Probe::Fork => Side::Fork,
        Probe::Exit => Side::Exit,
        Probe::Mmap => Side::Mmap,
        Probe::Copy => Side::Copy,
        Probe::Switch => Side::Switch,
        Probe::Reclaim => Side::Reclaim,
        Probe::Unmap | Probe::PageReferenced | Probe::TryToUnmap => Side::Unmap,
        Probe::Writeback => Side::Writeback,
        Probe::Tick => Side::Tick,
        Probe::NullCall => Side::OtherKernel,
        Probe::Idle => Side::Idle,
        Probe::VmaVisited
        | Probe::VmaOutOfRange
        | Probe::PteExamined
        | Probe::PteCleared
        | Probe::PageUnmapped
        | Probe::UnmapYoung
        | Probe::UnmapLocked
        | Probe::UnmapPinned
        | Probe::UnmapAgain
        | Probe::CowCopied
        | Probe::CowReused
        | Probe::KmapAtomic
        | Probe::KmapWrap
        | Probe::ChainAllocated
        | Probe::ChainFreed
        | Probe::AnonVmaAllocated
        | Probe::AnonVmaFreed
        | Probe::MajorFault
        | Probe::VmaMerged
        | Probe::VmaSplit
        | Probe::MoveCopied
        | Probe::DirtyScanned
        | Probe::PageWritten => return None,
    })
}

impl Books {
    /// A probe was passed.
    pub fn probe(&mut self, id: u16, account: &mut Account) {
        let Some(probe) = Probe::from_id(id & !END) else {
            self.mismatch = Some(format!("probe {id:#x} does not exist"));
            return;
        };
        if id & END != 0 {
            self.close(probe, account);
            return;
        }
        self.probes[probe as usize & 63] += 1;
        if let Some(side) = side_of(probe) {
            if self.first.is_none() {
                self.first = Some(match probe {
                    Probe::Tick => FirstPath::Tick,
                    _ => FirstPath::Other,
                });
            }
            if let Some(parts) = &mut self.parts {
                match probe {
                    Probe::Unmap => parts.start = Some(account.clone()),
                    Probe::TryToUnmap => parts.unmap_start = Some(account.clone()),
                    _ => {}
                }
            }
            let before = account.set_side(side);
            self.paths.push((probe, before));
        }
    }

    fn close(&mut self, probe: Probe, account: &mut Account) {
        match self.paths.pop() {
            Some((open, before)) if open == probe => {
                account.set_side(before);
            }
            open => {
                self.mismatch = Some(format!(
                    "path {} closed while {open:?} is open",
                    probe.name()
                ));
            }
        }
        if let Some(parts) = &mut self.parts {
            match probe {
                Probe::PageReferenced => parts.referenced = Some(account.clone()),
                Probe::TryToUnmap => parts.end = Some(account.clone()),
                _ => {}
            }
        }
    }

    /// Paths open now.
    pub fn depth(&self) -> usize {
        self.paths.len()
    }

    /// The kernel has returned to CPL 3: everything but user work since the last return belongs to an entry of this kind.
    pub(crate) fn entry(&mut self, kind: Operation, account: &Account) {
        let row = self.operations.entry(kind).or_default();
        row.entries += 1;
        add_kernel_sides(&mut row.account, account, &self.last);
        self.last.clone_from(account);
        self.first = None;
    }

    /// Starts counting entries from this state of the account.
    pub fn restart(&mut self, account: &Account) {
        self.last.clone_from(account);
        self.first = None;
    }
}

/// Adds `now - earlier` on every side but `user`.
fn add_kernel_sides(sum: &mut Account, now: &Account, earlier: &Account) {
    for &side in Side::ALL {
        if side == Side::User {
            continue;
        }
        let (now, earlier) = (now.row(side), earlier.row(side));
        if now == earlier {
            continue;
        }
        let before = sum.set_side(side);
        for &event in Event::ALL {
            let n = now[event as usize] - earlier[event as usize];
            if n != 0 {
                sum.add(event, n);
            }
        }
        sum.set_side(before);
    }
}
