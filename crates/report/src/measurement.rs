//! What a machine hands back after a replay: counts, not costs.
//!
//! A [`Measurement`] holds events and states; prices are applied later (decision D4), so one measurement can be priced
//! many ways. The machine fills it; nothing here knows how.
//!
//! Invariant: a measurement holds no wall-clock time except in [`HostStats`], which never reaches a result.

use crate::Config;
use lowmem_cost::{Account, Event};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every operation of the trace was done.
    Complete,
    /// A system call failed for lack of memory where the recorded one had succeeded.
    Enomem,
    /// The guest kernel found no memory and would have killed a process.
    OomKill,
    /// An operation never completed, or a watchdog ended the run.
    Livelock,
    /// The configuration cannot run this trace.
    Refused,
}

impl Outcome {
    /// Name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Enomem => "enomem",
            Outcome::OomKill => "oom_kill",
            Outcome::Livelock => "livelock",
            Outcome::Refused => "refused",
        }
    }
}

/// How the machine ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every instruction emulated and counted.
    Cycle,
    /// The same kernel source in the host's code: state only, no counts.
    Native,
}

lowmem_stats::declare! {
    /// Who owns a byte of low memory.
    pub enum Owner {
        /// Text and data of the kernel.
        KernelImage: "kernel_image", "bytes";
        /// The struct page array.
        MemMap: "mem_map", "bytes";
        /// Tables made at boot: kernel page tables, hashes, bitmaps, reserved frames.
        Boot: "boot", "bytes";
        /// Low pages behind vmalloc, kmap and fixmap tables.
        Vmalloc: "vmalloc", "bytes";
        /// Page global directories (PDPTs).
        Pgd: "pgd", "bytes";
        /// Page middle directories.
        Pmd: "pmd", "bytes";
        /// Page tables.
        Pte: "pte", "bytes";
        /// Elements of pte_chain.
        PteChain: "pte_chain", "bytes";
        /// struct anon_vma.
        AnonVma: "anon_vma", "bytes";
        /// struct anonmm.
        Anonmm: "anonmm", "bytes";
        /// struct anon_vma_chain.
        AnonVmaChain: "anon_vma_chain", "bytes";
        /// vm_area_struct.
        Vma: "vma", "bytes";
        /// mm_struct.
        Mm: "mm", "bytes";
        /// task_struct.
        Task: "task", "bytes";
        /// Kernel stacks.
        Stack: "stack", "bytes";
        /// Signal, file and credential structures of a process.
        ProcessOther: "process_other", "bytes";
        /// Inodes.
        Inode: "inode", "bytes";
        /// Dentries.
        Dentry: "dentry", "bytes";
        /// Buffer heads.
        BufferHead: "buffer_head", "bytes";
        /// Nodes of radix trees.
        RadixTree: "radix_tree", "bytes";
        /// kmalloc of general sizes.
        Kmalloc: "kmalloc", "bytes";
        /// Free objects, headers and tails of slabs.
        SlabWaste: "slab_waste", "bytes";
        /// Per-CPU areas, and pages on per-CPU lists.
        PerCpu: "per_cpu", "bytes";
        /// Pages of user processes that lie in low memory.
        User: "user", "bytes";
        /// Pages of files that lie in low memory.
        PageCache: "page_cache", "bytes";
    }
}

lowmem_stats::declare! {
    /// Why the kernel was entered.
    pub enum Operation {
        /// System calls with a null body and no copied bytes.
        NullCall: "null_call", "entries";
        /// Other system calls without effect on mappings: they copy bytes.
        CopyCall: "copy_call", "entries";
        /// Page faults.
        PageFault: "page_fault", "entries";
        /// mmap and shmat.
        Mmap: "mmap", "entries";
        /// munmap and shmdt.
        Munmap: "munmap", "entries";
        /// mprotect.
        Mprotect: "mprotect", "entries";
        /// mremap.
        Mremap: "mremap", "entries";
        /// brk.
        Brk: "brk", "entries";
        /// madvise, mlock, munlock, remap_file_pages.
        Advice: "advice", "entries";
        /// fork, vfork and clone.
        Fork: "fork", "entries";
        /// exec.
        Exec: "exec", "entries";
        /// exit.
        Exit: "exit", "entries";
        /// write to a file's cached pages.
        FileWrite: "file_write", "entries";
        /// fsync.
        Fsync: "fsync", "entries";
        /// ftruncate.
        Truncate: "truncate", "entries";
        /// Resched interrupts: switches that are not the end of a system call.
        Resched: "resched", "entries";
        /// Timer interrupts.
        Tick: "tick", "entries";
    }
}

/// What was counted from the entries of one kind of operation to the return to CPL 3.
#[derive(Debug, Clone, Default)]
pub struct OperationCount {
    /// Kernel entries of this kind.
    pub entries: u64,
    /// Events from the entry to the return.
    pub account: Account,
}

/// Low memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowmemUse {
    /// Low memory there is.
    pub total_bytes: u64,
    /// The most that was ever in use.
    pub peak_bytes: u64,
    /// Bytes by owner at the trace's `peak_op` (the operation with most mappings); index by `Owner as usize`. What
    /// is in use then is the sum.
    pub by_owner: [u64; Owner::COUNT],
    /// Internal waste of page clustering at `peak_op`, in all zones: bytes of mapped user pages that no pte maps.
    pub unmapped_bytes: u64,
}

impl Default for LowmemUse {
    fn default() -> Self {
        Self {
            total_bytes: 0,
            peak_bytes: 0,
            by_owner: [0; Owner::COUNT],
            unmapped_bytes: 0,
        }
    }
}

impl LowmemUse {
    /// Bytes in use at `peak_op`: the sum over owners.
    pub fn used_bytes(&self) -> u64 {
        self.by_owner.iter().sum()
    }

    /// Bytes of one owner.
    pub fn owner(&self, owner: Owner) -> u64 {
        self.by_owner[owner as usize]
    }
}

/// Occurrences of each event, whatever the side; index by `Event as usize`.
pub type EventCounts = [u64; Event::COUNT];

/// A part of reclaim's treatment of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnmapPart {
    /// Locking the page and page_referenced.
    Referenced,
    /// add_to_swap.
    SwapSlot,
    /// try_to_unmap.
    Unmap,
}

impl UnmapPart {
    /// Every part, in the order they happen.
    pub const ALL: [UnmapPart; 3] = [UnmapPart::Referenced, UnmapPart::SwapSlot, UnmapPart::Unmap];
    /// Name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            UnmapPart::Referenced => "page_referenced",
            UnmapPart::SwapSlot => "add_to_swap",
            UnmapPart::Unmap => "try_to_unmap",
        }
    }
}

/// What became of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnmapEnd {
    /// No pte maps it any more.
    Unmapped,
    /// A pte was young.
    Young,
    /// A lock could not be had, or a vma is locked in memory.
    Locked,
    /// The page is pinned.
    Pinned,
}

/// Reclaim's treatment of one page.
#[derive(Debug, Clone)]
pub struct UnmapSample {
    /// What became of it.
    pub end: UnmapEnd,
    /// Vmas visited by page_referenced and try_to_unmap.
    pub vmas_visited: u32,
    /// Ptes examined.
    pub ptes_examined: u32,
    /// Ptes cleared.
    pub ptes_cleared: u32,
    /// Events of each [`UnmapPart`], in that order.
    pub parts: [Box<EventCounts>; UnmapPart::ALL.len()],
}

/// Where unmap samples come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnmapSource {
    /// The probe: sampled pages at the trace's peak, in a clone of the machine.
    Probe,
    /// Reclaim during the replay itself.
    Replay,
}

/// The unmap measurement, or why there is none.
#[derive(Debug, Clone)]
pub enum UnmapMeasure {
    /// It was made.
    Sampled {
        /// Where the samples come from.
        source: UnmapSource,
        /// One per page.
        samples: Vec<UnmapSample>,
    },
    /// It was not made; the reason completes "no unmap measurement: ...".
    None {
        /// Why.
        reason: String,
    },
}

/// What the host did. Printed as progress, never part of a result.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HostStats {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Most host memory in use, bytes.
    pub peak_bytes: u64,
    /// Trace operations done.
    pub operations: u64,
    /// Guest instructions retired, user and kernel.
    pub instructions: u64,
}

/// What reclaim and the page cache asked of the devices during the replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceUse {
    /// Pages read from swap.
    pub swap_reads: u64,
    /// Pages written to swap.
    pub swap_writes: u64,
    /// Times the swap device had to seek: a slot that was not the one behind the last.
    pub swap_seeks: u64,
    /// Microseconds it was busy, by the disk model (seek, half a revolution, transfer); waiting, not cycles.
    pub swap_us: u64,
    /// Pages read from files.
    pub file_reads: u64,
    /// Pages written to files.
    pub file_writes: u64,
    /// Milliseconds that the kernel slept for want of memory, in the VM's time; the CPU is idle then.
    pub slept_ms: u64,
}

/// Everything a replay of one configuration measured.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// What was run.
    pub config: Config,
    /// How it ran.
    pub mode: Mode,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in words; `None` when complete.
    pub reason: Option<String>,
    /// Every event of the run (nothing of boot or of the unmap probe). All zero in native mode.
    pub account: Account,
    /// The same by kind of operation, as far as events fall between an entry and its return; empty in native mode.
    pub operations: BTreeMap<Operation, OperationCount>,
    /// Times the kmap address range wrapped.
    pub kmap_wraps: u64,
    /// Low memory; the guest's books, or zero when the run was refused.
    pub lowmem: LowmemUse,
    /// Unmap probe.
    pub unmap: UnmapMeasure,
    /// Page transfers and naps.
    pub devices: DeviceUse,
    /// Hash of everything the processes wrote; `None` unless complete.
    pub memory_hash: Option<u128>,
    /// What the host did.
    pub host: HostStats,
}

impl Measurement {
    /// A run that never started, with its reason.
    pub fn refused(config: Config, mode: Mode, reason: String) -> Self {
        Self {
            config,
            mode,
            outcome: Outcome::Refused,
            reason: Some(reason),
            account: Account::default(),
            operations: BTreeMap::new(),
            kmap_wraps: 0,
            lowmem: LowmemUse::default(),
            unmap: UnmapMeasure::None {
                reason: "the run was refused".to_owned(),
            },
            devices: DeviceUse::default(),
            memory_hash: None,
            host: HostStats::default(),
        }
    }
}
