//! The page cache of 2.6.6 and later (tags) against that of 2.6.0 (lists), on five small workloads:
//!
//! - *orders*: who writes how, and in which order the pages reach the disk; what a disk needs for that order;
//! - *densities*: what fsync pays to find few dirty pages among many cached ones;
//! - *race*: fsync beside a flusher that was interrupted between two of its steps, exactly interleaved, in native mode.
//!
//! Every workload is one trace for every configuration. What one CPU cannot show is left out: contention for the tree's lock,
//! which is why some parallel writers on SMP became slower with tags.
//!
//! Invariant: page contents on the disk are the same with tags and with lists.

use super::{Piece, Pieces, natively};
use crate::disk::{DiskTime, Elevator};
use crate::error::MachineError;
use crate::machine::guarded;
use crate::replay::preset;
use crate::replayer::PauseAfter;
use emu_cpu::Engine;
use guest_vm::io::complete_all;
use guest_vm::layout::Mapping;
use guest_vm::ptr::Low;
use guest_vm::writeback::state;
use guest_vm::writeback::sync::{filemap_fdatawait, start_fdatawrite};
use guest_vm::writeback::writer::{self, Control, Patience, Phase, Step, Sync};
use lowmem_abi::probe::Probe;
use lowmem_cost::Side;
use lowmem_report::Config;
use lowmem_trace::retouch::mix;
use lowmem_trace::{FileId, TaskId, Trace, TraceBuilder};

/// Bytes of a page.
const PAGE: u32 = 4096;
/// Pages that each order workload writes.
pub const ORDER_PAGES: u32 = 1024;
/// Pages cached where dirty ones are looked for: 64 leaves of the tree.
pub const CACHED_PAGES: u32 = 4096;
/// Pages an elevator may sort: the requests of a queue.
pub const ELEVATOR_WINDOW: usize = 128;
/// Shares of dirty pages: all, one in 64, one in 4,096.
pub const DENSITIES: [u32; 3] = [1, 64, 4096];

/// How the pages of [`ORDER_PAGES`] are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// One task, from the first page to the last.
    Sequential,
    /// One task, in an order drawn from the seed.
    Random,
    /// Two tasks in turn, each half of one file, each from its first page to its last.
    TwoOneFile,
    /// Two tasks in turn, each a file of its own.
    TwoFiles,
}

impl Writers {
    /// All, in the order of the table.
    pub const ALL: [Writers; 4] = [
        Writers::Sequential,
        Writers::Random,
        Writers::TwoOneFile,
        Writers::TwoFiles,
    ];

    /// Name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Writers::Sequential => "sequential",
            Writers::Random => "random",
            Writers::TwoOneFile => "two_writers_one_file",
            Writers::TwoFiles => "two_writers_two_files",
        }
    }
}

/// One way of writing, measured.
#[derive(Debug, Clone, Copy)]
pub struct OrderRow {
    /// How.
    pub writers: Writers,
    /// What the disk needs in the order of submission.
    pub disk: DiskTime,
    /// What it needs when an elevator sorts what is in the queue.
    pub sorted: DiskTime,
    /// Cycles of write(), a page: copying, page cache, dirtying.
    pub write_cycles: u64,
    /// Cycles of fsync's own work, a page.
    pub fsync_cycles: u64,
}

/// One density, measured.
#[derive(Debug, Clone, Copy)]
pub struct DensityRow {
    /// Dirty pages.
    pub dirty: u32,
    /// Cached pages.
    pub cached: u32,
    /// Tag bits, or pages on lists, that fsync looked at.
    pub looked_at: u64,
    /// Cycles of its own work.
    pub cycles: u64,
}

/// fsync beside a flusher, with one interleaving.
#[derive(Debug, Clone, Copy)]
pub struct RaceRow {
    /// Where the flusher stood when fsync began.
    pub point: &'static str,
    /// Whether the dirty page was on the disk when fsync returned.
    pub durable: bool,
}

/// All of it for one configuration.
#[derive(Debug, Clone)]
pub struct WritebackMeasure {
    /// By [`Writers`].
    pub orders: Vec<OrderRow>,
    /// By [`DENSITIES`].
    pub densities: Vec<DensityRow>,
    /// Cycles of an fsync that finds nothing, with [`CACHED_PAGES`] cached.
    pub clean_fsync_cycles: u64,
    /// By point of interruption.
    pub race: Vec<RaceRow>,
}

/// Measures one configuration.
pub fn measure(config: &Config) -> Result<WritebackMeasure, MachineError> {
    let orders = Writers::ALL
        .into_iter()
        .map(|w| order(config, w))
        .collect::<Result<_, _>>()?;
    let mut densities = Vec::new();
    let mut clean_fsync_cycles = 0;
    for one_in in DENSITIES {
        let (row, clean) = density(config, one_in)?;
        densities.push(row);
        clean_fsync_cycles = clean;
    }
    Ok(WritebackMeasure {
        orders,
        densities,
        clean_fsync_cycles,
        race: race(config)?,
    })
}

/// A task with one buffer page.
struct Setup {
    t: TraceBuilder,
    task: TaskId,
    buffer: u32,
}

impl Setup {
    fn new(name: &str) -> Self {
        let mut t = TraceBuilder::new(name);
        let task = t.spawn();
        let buffer = t.on(task).mmap_anon(PAGE);
        t.on(task).write_pages(buffer, PAGE);
        Self { t, task, buffer }
    }

    fn write(&mut self, task: TaskId, file: FileId, index: u32) {
        let at = u64::from(index) * u64::from(PAGE);
        self.t.on(task).file_write(file, at, self.buffer, PAGE);
    }

    fn here(&self) -> u64 {
        self.t.len() as u64
    }
}

/// The trace of a way of writing; operation numbers where writing begins, where fsync begins, where it ends.
fn order_trace(writers: Writers, seed: u64) -> (Trace, [u64; 3]) {
    let mut s = Setup::new(writers.name());
    let first = s.task;
    let a = s.t.file("/a", ORDER_PAGES);
    let b = s.t.file("/b", ORDER_PAGES);
    let half = ORDER_PAGES / 2;
    let second = match writers {
        Writers::Sequential | Writers::Random => first,
        Writers::TwoOneFile | Writers::TwoFiles => {
            let child = s.t.on(first).fork();
            // Its own buffer, and warm.
            let buffer = s.buffer;
            s.t.on(child).write_pages(buffer, PAGE);
            child
        }
    };
    s.t.on(first).null_call();
    let begin = s.here();
    match writers {
        Writers::Sequential => (0..ORDER_PAGES).for_each(|i| s.write(first, a, i)),
        Writers::Random => {
            let mut order: Vec<u32> = (0..ORDER_PAGES).collect();
            order.sort_by_key(|&i| mix(seed, u64::from(i), 0x7762));
            order.into_iter().for_each(|i| s.write(first, a, i));
        }
        Writers::TwoOneFile => {
            for i in 0..half {
                s.write(first, a, i);
                s.write(second, a, half + i);
            }
        }
        Writers::TwoFiles => {
            for i in 0..half {
                s.write(first, a, i);
                s.write(second, b, i);
            }
        }
    }
    s.t.on(first).null_call();
    let sync = s.here();
    s.t.on(first).fsync(a);
    if writers == Writers::TwoFiles {
        s.t.on(first).fsync(b);
    }
    let end = s.here();
    s.t.on(first).null_call();
    (s.t.finish(), [begin, sync, end])
}

fn order(config: &Config, writers: Writers) -> Result<OrderRow, MachineError> {
    let (trace, [begin, sync, end]) = order_trace(writers, config.seed);
    let mut run = Pieces::new(&trace, config, Engine::Fast)?;
    run.until(begin)?;
    let writing = run.until(sync)?;
    let syncing = run.until(end)?;
    let log = &run.machine.host.devices.write_log()[writing.written.start..syncing.written.end];
    let disk = run.machine.host.devices.disk();
    let pages = u64::from(ORDER_PAGES);
    Ok(OrderRow {
        writers,
        disk: disk.time(log, Elevator::Noop),
        sorted: disk.time(log, Elevator::Sorted(ELEVATOR_WINDOW)),
        write_cycles: (writing.cycles(Side::Copy) + writing.cycles(Side::Writeback)) / pages,
        fsync_cycles: syncing.cycles(Side::Writeback) / pages,
    })
}

/// [`CACHED_PAGES`] clean pages, one in `one_in` dirtied, fsync; then an fsync that finds nothing.
fn density(config: &Config, one_in: u32) -> Result<(DensityRow, u64), MachineError> {
    let mut s = Setup::new("density");
    let task = s.task;
    let file = s.t.file("/file", CACHED_PAGES);
    for i in 0..CACHED_PAGES {
        s.write(task, file, i);
    }
    s.t.on(task).fsync(file);
    // The last of each group: what lies before it must be passed over.
    let dirty: Vec<u32> = (1..=CACHED_PAGES / one_in)
        .map(|n| n * one_in - 1)
        .collect();
    for &i in &dirty {
        s.write(task, file, i);
    }
    s.t.on(task).null_call();
    let begin = s.here();
    s.t.on(task).fsync(file);
    let middle = s.here();
    s.t.on(task).fsync(file);
    let end = s.here();
    s.t.on(task).null_call();
    let trace = s.t.finish();
    let mut run = Pieces::new(&trace, config, Engine::Fast)?;
    run.until(begin)?;
    let found: Piece = run.until(middle)?;
    let clean = run.until(end)?;
    let row = DensityRow {
        dirty: dirty.len() as u32,
        cached: CACHED_PAGES,
        looked_at: found.probe(Probe::DirtyScanned),
        cycles: found.cycles(Side::Writeback),
    };
    Ok((row, clean.cycles(Side::Writeback)))
}

/// Points between the steps of a flusher, by what it has done with the page.
const POINTS: [(Phase, &str); 3] = [
    (Phase::Next, "before it takes the page"),
    (Phase::Locking, "page taken, not locked"),
    (Phase::Writing, "page clean, not under writeback"),
];

fn race(config: &Config) -> Result<Vec<RaceRow>, MachineError> {
    POINTS
        .into_iter()
        .map(|(phase, point)| {
            let durable = fsync_beside_flusher(config, phase)?;
            Ok(RaceRow { point, durable })
        })
        .collect()
}

/// One dirty page; a flusher goes as far as `point`, then fsync runs to its end, the flusher going on only while fsync sleeps on
/// the page's lock. Whether the page was on the disk then.
fn fsync_beside_flusher(config: &Config, point: Phase) -> Result<bool, MachineError> {
    let mut s = Setup::new("race");
    let task = s.task;
    let file = s.t.file("/file", 16);
    s.write(task, file, 5);
    s.t.on(task).null_call();
    let trace = s.t.finish();
    let (machine, replayer) = natively(&trace, config, &preset(config)?, PauseAfter::Never)?;
    let k = machine.k;
    let on_disk = || !machine.host.devices.write_log().is_empty();
    let failed = |e: crate::machine::Ended| MachineError::Guest {
        operation: replayer.operation(),
        reason: e.to_string(),
    };
    let flusher = state(k).flusher(k);
    guarded(|| {
        let mapping = mapping_of(k, file.0);
        let control = Control {
            sync: Sync::None,
            nr_to_write: 1024,
            patience: Patience::Stops,
        };
        writer::start(k, flusher, mapping, control);
        while writer::phase(k, flusher) != point {
            if writer::step(k, flusher) != Step::More {
                break;
            }
        }
        start_fdatawrite(k, mapping);
        writer::finish(k, state(k).task_writer(k));
        filemap_fdatawait(k, mapping);
    })
    .map_err(failed)?;
    let durable = on_disk();
    guarded(|| {
        writer::finish(k, flusher);
        complete_all(k);
    })
    .map_err(failed)?;
    if !on_disk() {
        return Err(MachineError::Guest {
            operation: replayer.operation(),
            reason: "the flusher lost the page".to_owned(),
        });
    }
    Ok(durable)
}

fn mapping_of(k: crate::native::Native, file: u32) -> Low<Mapping> {
    let mut found = Low::NULL;
    guest_vm::check::each_file(k, |f| {
        if f.id(k) == file {
            found = f.f_mapping(k);
        }
    });
    found
}
