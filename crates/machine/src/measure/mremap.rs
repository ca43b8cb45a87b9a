//! mremap of pages that fork shared, then swapoff: what a reverse map that finds pages by their address has to copy.
//!
//! anonmm keeps the one user address of a page in `page->index`. A page that relatives share cannot take its index along when
//! one of them moves it, so mremap copies it early; a page in swap moves as a pte without being looked at, and is copied when it comes
//! back to an address that is not its index: by a fault, or by swapoff, which gives the page to the first process it finds and a copy of
//! its own to each whose address is another, even where those agree among themselves. Maps that find a page by its vma, or by its ptes, copy nothing.
//!
//! - *resident*: n pages in memory, shared by a parent and its children; the parent moves them;
//! - *swapped*: the same, pushed out to swap first;
//! - *private*: the parent has written them again after the forks: they are its own and move without a copy everywhere.
//!
//! Afterwards swap is turned off, and every process reads its pages. Of swapoff only copies are reported: its cycles are those of looking at
//! half a million slots, 20 or 40 each by what the branch predictor makes of the loop.
//!
//! Invariant: every configuration replays the same trace, and the processes read the same words.

use super::{Pieces, as_recorded, failure};
use crate::drive_native::Stop;
use crate::error::MachineError;
use crate::machine::Machine;
use crate::replay::{boot, preset};
use crate::replayer::{Pause, PauseAfter, Replayer};
use emu_cpu::Engine;
use lowmem_abi::call::SWAPOFF;
use lowmem_abi::probe::Probe;
use lowmem_cost::Side;
use lowmem_report::Config;
use lowmem_trace::{Trace, TraceBuilder};
use std::collections::BTreeSet;

/// Bytes of a page.
const PAGE: u32 = 4096;
/// Pages that are moved.
pub const PAGES: u32 = 64;
/// Processes that share them.
pub const SHARERS: u32 = 4;
/// RAM in which the pages are pushed out.
pub const RAM_BYTES: u64 = 24 << 20;

/// Which pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// See the module.
    Resident,
    /// See the module.
    Swapped,
    /// See the module.
    Private,
}

impl Case {
    /// All, in the order of the tables.
    pub const ALL: [Case; 3] = [Case::Resident, Case::Swapped, Case::Private];

    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Case::Resident => "resident",
            Case::Swapped => "swapped",
            Case::Private => "private",
        }
    }
}

/// One case of one configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveRow {
    /// Which pages.
    pub case: Case,
    /// Of the pages, how many were in memory when they were moved.
    pub resident: u32,
    /// Copies that mremap made.
    pub mremap_copies: u64,
    /// Cycles of mremap.
    pub mremap_cycles: u64,
    /// Copies that swapoff made.
    pub swapoff_copies: u64,
    /// Frames that show the pages to their processes at the end; shared, it is one for each page.
    pub frames: u32,
}

/// A trace and the numbers of the operations where its pieces begin.
#[derive(Debug, Clone)]
pub struct Load {
    /// The trace.
    pub trace: Trace,
    mremap: u64,
    swapoff: u64,
    end: u64,
    /// Where the pages were, and where they are for the parent.
    from: u32,
    to: u32,
}

/// The load of a case, for a machine with so much RAM.
pub fn load(case: Case, ram_bytes: u64) -> Load {
    let mut t = TraceBuilder::new(case.name());
    let parent = t.spawn();
    let len = PAGES * PAGE;
    let from = t.on(parent).mmap_anon(len);
    t.on(parent).write_pages(from, len);
    let mut all = vec![parent];
    for _ in 1..SHARERS {
        all.push(t.on(parent).fork());
    }
    if case == Case::Private {
        t.on(parent).write_pages(from, len);
    }
    // Swap is in use in every case: something else is in it.
    let big = ram_bytes as u32;
    let other = t.on(parent).mmap_anon(big);
    t.on(parent).write_pages(other, big);
    if case != Case::Swapped {
        for &task in &all {
            t.on(task).read_pages(from, len);
        }
    }
    t.on(parent).null_call();
    let mremap = t.len() as u64;
    // A place of the same offset in its page table would share the table: anywhere else does.
    let to = other.wrapping_add(big).wrapping_add(0x10_0000) & !0xfff;
    t.on(parent).mremap_fixed(from, len, to);
    t.on(parent).munmap(other, big);
    let swapoff = t.len() as u64;
    t.on(parent).other(SWAPOFF, 0, 0);
    let end = t.len() as u64;
    t.on(parent).read_pages(to, len);
    for &task in &all[1..] {
        t.on(task).read_pages(from, len);
    }
    t.on(parent).null_call();
    Load {
        trace: t.finish(),
        mremap,
        swapoff,
        end,
        from,
        to,
    }
}

/// Measures one configuration.
pub fn measure(config: &Config) -> Result<Vec<MoveRow>, MachineError> {
    Case::ALL
        .into_iter()
        .map(|case| row(config, case))
        .collect()
}

fn row(config: &Config, case: Case) -> Result<MoveRow, MachineError> {
    let load = load(case, config.ram_bytes);
    let mut run = Pieces::new(&load.trace, config, Engine::Fast)?;
    run.until(load.mremap)?;
    let moving = run.until(load.mremap + 1)?;
    run.until(load.swapoff)?;
    let off = run.until(load.end)?;
    let natively = natively(config, &load)?;
    Ok(MoveRow {
        case,
        resident: natively.resident,
        mremap_copies: moving.probe(Probe::CowCopied),
        mremap_cycles: moving.cycles(Side::Mmap) + moving.cycles(Side::Fault),
        swapoff_copies: off.probe(Probe::CowCopied),
        frames: natively.frames,
    })
}

/// What needs no cycles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Natively {
    /// Of the pages, how many were in memory when they were moved.
    pub resident: u32,
    /// Copies that mremap made.
    pub mremap_copies: u64,
    /// Copies that swapoff made.
    pub swapoff_copies: u64,
    /// Frames that show the pages at the end.
    pub frames: u32,
}

/// The same load natively, with a look at page tables before mremap and at the end.
pub fn natively(config: &Config, load: &Load) -> Result<Natively, MachineError> {
    let mut machine = boot(config, &preset(config)?)?;
    let mut replayer = Replayer::new(&load.trace, as_recorded());
    replayer.pause_after = PauseAfter::Every;
    let mut out = Natively::default();
    let copied = |m: &Machine| m.host.probes[Probe::CowCopied as usize];
    let mut before = 0;
    loop {
        match machine.run_native(&mut replayer) {
            Stop::Pause(Pause::End) => break,
            Stop::Pause(Pause::Done(from, to)) => {
                let now = copied(&machine);
                if to + 1 == load.mremap {
                    let parent = replayer.living_spaces().map(|s| s.1).min().unwrap_or(0);
                    out.resident = shown(&machine, parent, load.from).len() as u32;
                }
                if (from..=to).contains(&load.mremap) {
                    out.mremap_copies = now - before;
                }
                if (from..=to).contains(&load.swapoff) {
                    out.swapoff_copies = now - before;
                }
                before = now;
            }
            Stop::Pause(_) => {}
            failed => return Err(failure(failed, replayer.operation())),
        }
    }
    let parent = replayer.living_spaces().map(|s| s.1).min().unwrap_or(0);
    let mut frames = BTreeSet::new();
    for (_, pid, _) in replayer.living_spaces() {
        let at = if pid == parent { load.to } else { load.from };
        frames.extend(shown(&machine, pid, at));
    }
    out.frames = frames.len() as u32;
    Ok(out)
}

/// Frames that a process has in memory at the pages from `at`.
fn shown(machine: &Machine, pid: u32, at: u32) -> BTreeSet<u32> {
    (0..PAGES)
        .filter_map(|i| super::unmap::frame_of(machine, pid, at + i * PAGE))
        .collect()
}
