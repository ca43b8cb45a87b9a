//! A window into a file whose pages lie in another order: as one nonlinear vma, as many small vmas, or as one that is locked; what each
//! costs when memory runs short.
//!
//! Four processes each show all of a file in chunks of four pages, each in an order of its own drawn from the seed, and read it.
//! Then one of them writes more private memory than there is. The kernel must find the mappings of the file's pages to free
//! them: chains have them; objects are asked: with many vmas the tree names those that show a page; in a nonlinear vma a page can be anywhere, so
//! 2.6.7 unmaps a cluster of 32 old ptes round-robin and hopes, 2.6.5-aa the whole vma ([`Config`]'s `nonlinear`); a locked one is
//! not touched. Then all processes read their windows again.
//!
//! - *nonlinear*: one vma a process, remap_file_pages for each chunk;
//! - *many_vmas*: one vma for each chunk;
//! - *locked*: as *nonlinear*, and mlock.
//!
//! Left out: windows that are written (their pages would have to go to the disk, which is the same for all).
//!
//! Invariant: every configuration replays the same three traces.

use super::{Piece, Pieces};
use crate::error::MachineError;
use emu_cpu::Engine;
use lowmem_abi::probe::Probe;
use lowmem_cost::Side;
use lowmem_report::{Config, Owner};
use lowmem_trace::retouch::mix;
use lowmem_trace::{FileRef, MapFlags, Prot, Trace, TraceBuilder};

/// Bytes of a page.
const PAGE: u32 = 4096;
/// Pages of the file.
pub const FILE_PAGES: u32 = 1024;
/// Pages of a chunk.
pub const CHUNK_PAGES: u32 = 4;
/// Processes.
pub const PROCESSES: u32 = 4;
/// RAM that is too small.
pub const RAM_BYTES: u64 = 24 << 20;

/// How the window is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// See the module.
    Nonlinear,
    /// See the module.
    ManyVmas,
    /// See the module.
    Locked,
}

impl Way {
    /// All, in the order of the table.
    pub const ALL: [Way; 3] = [Way::Nonlinear, Way::ManyVmas, Way::Locked];

    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Way::Nonlinear => "nonlinear",
            Way::ManyVmas => "many_vmas",
            Way::Locked => "locked",
        }
    }
}

/// One way in one configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRow {
    /// How the window was made.
    pub way: Way,
    /// Cycles of the calls that made it, of all processes: mmap, remap_file_pages, mlock, and the faults of reading it.
    pub setup_cycles: u64,
    /// Bytes of vmas then, with what of their slabs is not in use.
    pub vma_bytes: u64,
    /// Bytes of reverse maps then.
    pub rmap_bytes: u64,
    /// Cycles of reclaim under pressure, but for the next.
    pub reclaim_cycles: u64,
    /// Cycles of page_referenced and try_to_unmap under pressure.
    pub unmap_cycles: u64,
    /// Vmas visited under pressure, for pages of the file and for private ones.
    pub vmas_visited: u64,
    /// Ptes examined.
    pub ptes_examined: u64,
    /// Ptes cleared.
    pub ptes_cleared: u64,
    /// Pages completely unmapped.
    pub pages_unmapped: u64,
    /// Pages of the file that had to be read from the disk when the windows were read again.
    pub read_again: u64,
    /// Cycles of the faults then.
    pub again_cycles: u64,
}

/// A trace and the numbers of the operations where its pieces begin.
#[derive(Debug, Clone)]
pub struct Load {
    /// The trace.
    pub trace: Trace,
    setup: u64,
    pressure: u64,
    again: u64,
    end: u64,
}

/// The load of one way.
pub fn load(way: Way, config: &Config) -> Load {
    let mut t = TraceBuilder::new(way.name());
    let first = t.spawn();
    let file = t.file("/window", FILE_PAGES);
    let mut all = vec![first];
    for _ in 1..PROCESSES {
        all.push(t.on(first).fork());
    }
    t.on(first).null_call();
    let setup = t.len() as u64;
    let mut windows = Vec::new();
    for (n, &task) in all.iter().enumerate() {
        let mut chunks: Vec<u32> = (0..FILE_PAGES / CHUNK_PAGES).collect();
        chunks.sort_by_key(|&c| mix(config.seed, u64::from(c), 0x6e6c + n as u32));
        let map = |t: &mut TraceBuilder, pages: u32, page_offset: u32| {
            let file = FileRef { file, page_offset };
            t.on(task)
                .mmap_file(file, pages * PAGE, Prot::RW, MapFlags::SHARED)
        };
        let mut places = Vec::new();
        match way {
            Way::Nonlinear | Way::Locked => {
                let at = map(&mut t, FILE_PAGES, 0);
                for (i, chunk) in chunks.iter().enumerate() {
                    let va = at + i as u32 * CHUNK_PAGES * PAGE;
                    t.on(task)
                        .remap_file_pages(va, CHUNK_PAGES * PAGE, chunk * CHUNK_PAGES);
                }
                if way == Way::Locked {
                    t.on(task).mlock(at, FILE_PAGES * PAGE);
                }
                places.push((at, FILE_PAGES));
            }
            Way::ManyVmas => {
                for chunk in chunks {
                    places.push((map(&mut t, CHUNK_PAGES, chunk * CHUNK_PAGES), CHUNK_PAGES));
                }
            }
        }
        for &(at, pages) in &places {
            t.on(task).read_pages(at, pages * PAGE);
        }
        windows.push((task, places));
    }
    t.on(first).null_call();
    let pressure = t.len() as u64;
    let bytes = config.ram_bytes as u32;
    let hog = t.on(first).mmap_anon(bytes);
    t.on(first).write_pages(hog, bytes);
    t.on(first).munmap(hog, bytes);
    t.on(first).null_call();
    let again = t.len() as u64;
    for (task, places) in windows {
        for (at, pages) in places {
            t.on(task).read_pages(at, pages * PAGE);
        }
    }
    let end = t.len() as u64;
    t.on(first).null_call();
    Load {
        trace: t.finish(),
        setup,
        pressure,
        again,
        end,
    }
}

/// Measures one configuration.
pub fn measure(config: &Config) -> Result<Vec<WindowRow>, MachineError> {
    Way::ALL.into_iter().map(|way| row(config, way)).collect()
}

fn row(config: &Config, way: Way) -> Result<WindowRow, MachineError> {
    let load = load(way, config);
    let mut run = Pieces::new(&load.trace, config, Engine::Fast)?;
    run.until(load.setup)?;
    let setup = run.until(load.pressure)?;
    let low = run.machine.lowmem();
    let pressure = run.until(load.again)?;
    let read = |run: &Pieces| run.machine.host.devices.file_reads;
    let before = read(&run);
    let again = run.until(load.end)?;
    let read_again = read(&run) - before;
    let owners = |owners: &[Owner]| owners.iter().map(|&o| low.owner(o)).sum();
    Ok(WindowRow {
        way,
        setup_cycles: cycles(&setup, &[Side::Mmap, Side::Fault, Side::OtherKernel]),
        vma_bytes: owners(&[Owner::Vma]),
        rmap_bytes: owners(&[
            Owner::PteChain,
            Owner::AnonVma,
            Owner::Anonmm,
            Owner::AnonVmaChain,
        ]),
        reclaim_cycles: pressure.cycles(Side::Reclaim),
        unmap_cycles: pressure.cycles(Side::Unmap),
        vmas_visited: pressure.probe(Probe::VmaVisited),
        ptes_examined: pressure.probe(Probe::PteExamined),
        ptes_cleared: pressure.probe(Probe::PteCleared),
        pages_unmapped: pressure.probe(Probe::PageUnmapped),
        read_again,
        again_cycles: again.cycles(Side::Fault),
    })
}

fn cycles(piece: &Piece, sides: &[Side]) -> u64 {
    sides.iter().map(|&side| piece.cycles(side)).sum()
}
