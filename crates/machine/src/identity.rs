//! The strongest test: both modes leave identical guest memory (decision D3).
//!
//! Compared is all RAM but kernel stacks, the boot stack and the declared time words: jiffies and the clock in the root of
//! tasks, utime and stime of each task. Free frames are compared, too, because they keep their last content; so the stacks and
//! task_structs of tasks that are gone are left out as well.
//!
//! Invariant: comparing changes nothing.

use crate::error::MachineError;
use crate::machine::Machine;
use crate::native::Row;
use crate::replay::{ReplayOptions, run_to_end};
use crate::rows::row_of;
use crate::with_row;
use emu_mmu::{Pfn, PhysAddr};
use guest_vm::arch::THREAD_SIZE;
use guest_vm::layout::Task;
use guest_vm::page_alloc::{owner_of, pfn_to_page};
use guest_vm::ptr::Low;
use guest_vm::task::{TIME_WORDS, tasks};
use lowmem_abi::layout::{BOOT_STACK, BOOT_STACK_END};
use lowmem_abi::owner::Owner;
use lowmem_report::{Config, Mode};
use lowmem_trace::Trace;
use std::collections::BTreeSet;

/// A word that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub at: PhysAddr,
    /// Natively.
    pub native: u32,
    /// On the CPU.
    pub cycle: u32,
    /// Whose page it is.
    pub owner: &'static str,
}

/// Replays `trace` in both modes and compares guest memory at the end: the first few words that differ.
pub fn compare_modes(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
) -> Result<Vec<Difference>, MachineError> {
    let row = row_of(config).map_err(|reason| MachineError::Guest {
        operation: 0,
        reason,
    })?;
    with_row!(row, I => compare_row::<I>(trace, config, options))
}

fn compare_row<I: Row>(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
) -> Result<Vec<Difference>, MachineError> {
    let in_mode = |mode| ReplayOptions {
        mode,
        ..options.clone()
    };
    let (native, _) = run_to_end::<I>(trace, config, &in_mode(Mode::Native))?;
    let (cycle, _) = run_to_end::<I>(trace, config, &in_mode(Mode::Cycle))?;
    Ok(differences(&native, &cycle, 32))
}

/// Bytes of a task_struct that are time.
const TASK_TIME: std::ops::Range<u32> = 68..76;

/// The first `most` words that differ between two machines of one row.
pub fn differences<I: Row>(
    native: &Machine<I>,
    cycle: &Machine<I>,
    most: usize,
) -> Vec<Difference> {
    let k = native.handle();
    let offset = native.host.page_offset();
    let mut time = BTreeSet::new();
    let root = tasks(k).va() - offset;
    time.extend(TIME_WORDS.map(|b| (root + b) & !3));
    let mut task_time = |task: Low<Task>| {
        time.extend(TASK_TIME.map(|b| (task.va() - offset + b) & !3));
    };
    task_time(tasks(k).idle(k));
    let mut stacks = BTreeSet::new();
    for &(task, stack) in native.seen.tasks.iter().chain(&cycle.seen.tasks) {
        task_time(Low::new(task));
        let first = (stack - offset) >> 12;
        stacks.extend(first..first + THREAD_SIZE.div_ceil(4096));
    }
    let mut found = Vec::new();
    let mut pages = (vec![0u8; 4096], vec![0u8; 4096]);
    let frames = (native.mem().ram_bytes() >> 12) as u32;
    for pfn in 0..frames {
        let pa = u64::from(pfn) << 12;
        if (u64::from(BOOT_STACK)..u64::from(BOOT_STACK_END)).contains(&pa) {
            continue;
        }
        if pa >= native.mem().low_bytes() {
            // High frames are sparse: compare what they hold.
            let (a, b) = (
                native.mem().page_words(Pfn(pfn)),
                cycle.mem().page_words(Pfn(pfn)),
            );
            if a.eq(b) {
                continue;
            }
        }
        native.mem().read_bytes(PhysAddr(pa), &mut pages.0);
        cycle.mem().read_bytes(PhysAddr(pa), &mut pages.1);
        if pages.0 == pages.1 {
            continue;
        }
        if stacks.contains(&pfn) {
            continue;
        }
        let owner = Owner::from_u32(owner_of(k, pfn_to_page(k, pfn))).map_or("?", Owner::name);
        if owner == Owner::Stack.name() {
            continue;
        }
        let words = pages.0.chunks_exact(4).zip(pages.1.chunks_exact(4));
        for (i, (n, c)) in words.enumerate() {
            let at = pa + i as u64 * 4;
            if n != c && !u32::try_from(at).is_ok_and(|at| time.contains(&at)) {
                let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                found.push(Difference {
                    at: PhysAddr(at),
                    native: word(n),
                    cycle: word(c),
                    owner,
                });
                if found.len() == most {
                    return found;
                }
            }
        }
    }
    found
}
