//! The comparison of decision D3: both modes, and both engines, must leave identical guest memory.
//!
//! Compared are all words of RAM, frames that are free again included, but for three kinds:
//! - kernel stacks above `thread_info`: compilers lay out their frames differently;
//! - the stack on which boot runs when it runs on the CPU;
//! - the words that guest-vm declares to be time ([`guest_vm::task::TIME_WORDS`], and `utime` and `stime` of every task): the timer
//!   interrupt, which only the CPU has, counts in them.
//!
//! Such words would spread when a task's stack or `task_struct` is freed and its memory used again without being cleared. A run
//! whose memory is kept therefore clears them in every dead task, at the boundary at which its stack is out of use and
//! not yet freed (`clear_dead`). The kernel never reads what is cleared there.
//!
//! Invariant: keeping memory changes nothing that a run measures.

use crate::error::MachineError;
use crate::machine::{Machine, Memory};
use crate::replay::{ReplayOptions, replay_keeping};
use emu_mmu::{Pfn, PhysAddr, PhysMem};
use guest_vm::arch::THREAD_SIZE;
use guest_vm::kernel::Kernel;
use guest_vm::layout::Task;
use guest_vm::page_alloc::{owner_of, pfn_to_page};
use guest_vm::ptr::Low;
use guest_vm::task::{TIME_WORDS, tasks};
use lowmem_abi::layout::{BOOT_STACK, BOOT_STACK_END};
use lowmem_abi::owner::Owner;
use lowmem_report::{Config, Mode, Silent};
use lowmem_trace::Trace;
use lowmem_trace::retouch::mix;
use std::ops::Range;

/// Bytes of `thread_info` at the low end of a kernel stack, which are compared.
const THREAD_INFO_BYTES: u32 = 52;
/// `utime` and `stime` in a `task_struct`.
const TASK_TIMES: Range<u32> = 68..76;
/// Offset of the link in the list of all tasks, whose head is idle's.
const TASK_LINK: u32 = 28;

/// Whether the words that differ between modes are cleared when a task dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeadTasks {
    /// They are left as they are.
    #[default]
    Left,
    /// They are cleared, so that memory can be compared at the end.
    Cleared,
}

/// Clears stack and times of the task that has exited and waits to be freed, if there is one. At a boundary only.
pub(crate) fn clear_dead<K: Kernel>(k: K) {
    let dead = tasks(k).dead(k);
    if dead.is_null() {
        return;
    }
    for word in TASK_TIMES.step_by(4) {
        dead.field::<u32>(word).write(k, 0);
    }
    for word in (THREAD_INFO_BYTES..THREAD_SIZE).step_by(4) {
        dead.thread_info(k).field::<u32>(word).write(k, 0);
    }
}

/// Replays `trace` in both modes and compares guest memory: the first few words that differ at the end.
///
/// An error also if memory differs at the trace's peak alone.
pub fn compare_modes(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
) -> Result<Vec<Difference>, MachineError> {
    let run = |mode| {
        let options = ReplayOptions {
            mode,
            ..options.clone()
        };
        replay_keeping(trace, config, &options, &Silent)
    };
    let (_, native) = run(Mode::Native)?;
    let (_, cycle) = run(Mode::Cycle)?;
    let (found, _) = native.differences(&cycle, 32);
    if found.is_empty() && native.peak != cycle.peak {
        return Err(MachineError::Guest {
            operation: trace.summary().peak_op,
            reason: "guest memory differs between the modes at the peak only".to_owned(),
        });
    }
    Ok(found)
}

/// A word that two memories do not agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub at: PhysAddr,
    /// The first memory's word.
    pub first: u32,
    /// The second memory's word.
    pub second: u32,
    /// Whom the page belongs to in the first memory, an [`Owner`].
    pub owner: u32,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let owner = match Owner::from_u32(self.owner) {
            Some(owner) => format!("{owner:?}"),
            None => format!("owner {}", self.owner),
        };
        write!(
            f,
            "{:#x} ({owner}): {:#010x} and {:#010x}",
            self.at.0, self.first, self.second
        )
    }
}

/// Guest memory at the end of a run.
#[derive(Debug)]
pub struct KeptMemory {
    mem: PhysMem,
    /// What is not compared, ascending and disjoint.
    exempt: Vec<Range<u64>>,
    /// Owner of every frame.
    owners: Vec<u8>,
    /// Digest at the trace's peak, if the run reached it.
    peak: Option<u128>,
}

impl KeptMemory {
    /// Digest of the memory at the trace's peak, if the run reached it.
    pub fn peak_digest(&self) -> Option<u128> {
        self.peak
    }

    /// Words that are compared and not zero.
    pub fn words(&self) -> u64 {
        let frames = self.mem.touched_frames();
        frames
            .map(|pfn| compared(&self.mem, &self.exempt, pfn).count() as u64)
            .sum()
    }

    /// The first `limit` words in which the two memories differ, and how many there are in all.
    pub fn differences(&self, other: &KeptMemory, limit: usize) -> (Vec<Difference>, u64) {
        let mut frames: Vec<Pfn> = self.mem.touched_frames().collect();
        frames.extend(other.mem.touched_frames());
        frames.sort_unstable_by_key(|pfn| pfn.0);
        frames.dedup();
        let (mut found, mut all) = (Vec::new(), 0);
        for pfn in frames {
            let (mut a, mut b) = ([0u32; 1024], [0u32; 1024]);
            for (kept, page) in [(self, &mut a), (other, &mut b)] {
                for (offset, word) in compared(&kept.mem, &kept.exempt, pfn) {
                    page[(offset >> 2) as usize] = word;
                }
            }
            for (i, (&first, &second)) in a.iter().zip(&b).enumerate() {
                if first == second {
                    continue;
                }
                all += 1;
                if found.len() < limit {
                    found.push(Difference {
                        at: pfn.base().plus(i as u64 * 4),
                        first,
                        second,
                        owner: self
                            .owners
                            .get(pfn.0 as usize)
                            .copied()
                            .map_or(0, u32::from),
                    });
                }
            }
        }
        (found, all)
    }
}

/// The non-zero words of a frame, less what is exempt.
fn compared<'a>(
    mem: &'a PhysMem,
    exempt: &'a [Range<u64>],
    pfn: Pfn,
) -> impl Iterator<Item = (u32, u32)> + 'a {
    let base = pfn.base().0;
    let first = exempt.partition_point(|r| r.end <= base);
    let here = &exempt[first..];
    let here = &here[..here.partition_point(|r| r.start < base + 4096)];
    mem.page_words(pfn).filter(move |&(offset, _)| {
        let at = base + u64::from(offset);
        !here.iter().any(|r| r.contains(&at))
    })
}

impl Machine {
    /// What is not compared now, ascending.
    fn exempt(&self) -> Vec<Range<u64>> {
        let k = self.k;
        let pa = |va: u32| u64::from(va.wrapping_sub(k.page_offset()));
        let words = |va: u32, r: Range<u32>| pa(va) + u64::from(r.start)..pa(va) + u64::from(r.end);
        let mut out = vec![
            u64::from(BOOT_STACK)..u64::from(BOOT_STACK_END),
            words(tasks(k).va(), TIME_WORDS),
            words(tasks(k).idle(k).va(), TASK_TIMES),
        ];
        let mut task = |task: Low<Task>| {
            if task.is_null() {
                return;
            }
            out.push(words(task.va(), TASK_TIMES));
            let ti = task.thread_info(k);
            if !ti.is_null() {
                out.push(words(ti.va(), THREAD_INFO_BYTES..THREAD_SIZE));
            }
        };
        task(tasks(k).dead(k));
        let head = tasks(k).idle(k).tasks(k);
        let mut at = head.next(k);
        while at != head {
            task(at.container(TASK_LINK));
            at = at.next(k);
        }
        out.sort_unstable_by_key(|r| r.start);
        out
    }

    /// Digest of everything that is compared: a commutative sum over (address, word).
    pub(crate) fn digest(&self) -> u128 {
        let exempt = self.exempt();
        let mut sum = 0u128;
        for pfn in self.mem().touched_frames() {
            for (offset, word) in compared(self.mem(), &exempt, pfn) {
                let at = pfn.base().0 + u64::from(offset);
                let low = mix(at, u64::from(word), 0);
                sum = sum.wrapping_add(u128::from(mix(low, at, word)) << 64 | u128::from(low));
            }
        }
        sum
    }

    /// The memory, taken out of a machine that has done its work.
    pub(crate) fn into_memory(self, peak: Option<u128>) -> KeptMemory {
        let exempt = self.exempt();
        let frames = (self.mem().ram_bytes() >> 12) as u32;
        let owners = (0..frames)
            .map(|pfn| owner_of(self.k, pfn_to_page(self.k, pfn)) as u8)
            .collect();
        let mem = match self.memory {
            Memory::Native(mem) => *mem,
            Memory::Cycle(cpu) => cpu.mmu.mem,
            Memory::Moving => unreachable!("memory moves inside one function only"),
        };
        KeptMemory {
            mem,
            exempt,
            owners,
            peak,
        }
    }
}
