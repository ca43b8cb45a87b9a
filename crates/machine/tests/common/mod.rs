//! What tests of both modes share: a random load, and the comparison of the modes.
#![allow(dead_code, reason = "each test file uses a part of it")]

use lowmem_machine::{Check, MachineError, ReplayOptions, replay_keeping};
use lowmem_report::config::Split;
use lowmem_report::{Config, Measurement, Mode, Silent};
use lowmem_trace::retouch::mix;
use lowmem_trace::{FileRef, MapFlags, PAGE_SIZE, Prot, TaskId, Trace, TraceBuilder};

pub(crate) fn options(mode: Mode) -> ReplayOptions {
    ReplayOptions {
        mode,
        check: Check::Off,
        ..ReplayOptions::default()
    }
}

/// Both modes, memory compared word by word, at the peak and at the end.
pub(crate) fn both(trace: &Trace, config: &Config) -> Result<[Measurement; 2], MachineError> {
    let (native, kept) = replay_keeping(trace, config, &options(Mode::Native), &Silent)?;
    let (cycle, other) = replay_keeping(trace, config, &options(Mode::Cycle), &Silent)?;
    let row = format!("{} {}", config.rmap, config.split);
    let (found, all) = kept.differences(&other, 8);
    assert_eq!(all, 0, "{row}: {found:#x?}");
    assert!(kept.peak_digest().is_some(), "{row}");
    assert_eq!(kept.peak_digest(), other.peak_digest(), "{row}");
    Ok([native, cycle])
}

/// Pages of the regions of [`random_load`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages {
    /// Anonymous memory of each process.
    pub(crate) private: u32,
    /// Anonymous memory that all share.
    pub(crate) shared: u32,
    /// A file that all map, shared and private.
    pub(crate) file: u32,
}

/// Three processes that use, copy, remap, unmap and give back private, shared and file pages, in an order that `seed` gives.
pub(crate) fn random_load(seed: u64, pages: Pages, steps: u32) -> Trace {
    let mut draws = 0;
    let mut below = |n: u32| {
        draws += 1;
        (mix(seed, draws, 0) % u64::from(n)) as u32
    };
    let mut t = TraceBuilder::new("random");
    let parent = t.spawn();
    let file = FileRef {
        file: t.file("/file", pages.file),
        page_offset: 0,
    };
    let len = |pages: u32| pages * PAGE_SIZE;
    let regions = [
        (t.on(parent).mmap_anon(len(pages.private)), pages.private),
        (t.on(parent).mmap_shared(len(pages.shared)), pages.shared),
        (
            t.on(parent)
                .mmap_file(file, len(pages.file), Prot::RW, MapFlags::SHARED),
            pages.file,
        ),
        (
            t.on(parent)
                .mmap_file(file, len(pages.file), Prot::RW, MapFlags::PRIVATE),
            pages.file,
        ),
    ];
    t.on(parent).write_pages(regions[0].0, len(pages.private));
    let mut tasks: Vec<TaskId> = vec![parent];
    for _ in 0..2 {
        tasks.push(t.on(parent).fork());
    }
    for _ in 0..steps {
        let task = tasks[below(tasks.len() as u32) as usize];
        let (at, all) = regions[below(regions.len() as u32) as usize];
        let first = below(all);
        let count = (1 + below(all)).min(all - first);
        let (va, bytes) = (at + len(first), len(count));
        match below(12) {
            0 => {
                // Memory of its own that comes, is used, grows, and goes.
                let own = t.on(task).mmap_anon(bytes);
                t.on(task).write_pages(own, bytes);
                let more = len(count + 16);
                let moved = t.on(task).mremap(own, bytes, more);
                t.on(task).write_pages(moved, more).munmap(moved, more);
            }
            1 if task != parent => {
                // A child goes, and another one takes its place.
                t.on(task).exit();
                t.on(parent).wait(task);
                let child = t.on(parent).fork();
                let place = tasks.iter_mut().find(|t| **t == task);
                *place.expect("a living task") = child;
            }
            2..=6 => {
                t.on(task).read_pages(va, bytes);
            }
            _ => {
                t.on(task).write_pages(va, bytes);
            }
        }
    }
    for task in tasks {
        t.on(task).read_pages(regions[0].0, len(pages.private));
    }
    t.finish()
}

/// The load where a split can hold it.
pub(crate) fn fitted(trace: Trace, split: Split) -> Trace {
    match split.user_end() < Split::G3G1.user_end() {
        true => trace.packed(split.user_end()).expect("a small load"),
        false => trace,
    }
}
