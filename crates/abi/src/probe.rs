//! Measuring points in guest code (decision D10).
//!
//! On x86 a probe is the 8-byte NOP `0F 1F 84 00 imm32` with `imm32 = 0x4C4D0000 | id`, known to the decoder only in our
//! images; it retires nothing and costs nothing but its bytes. Natively it is a call on the handle. Paths come in pairs:
//! `id` opens, `id | END` closes; pairs nest and are matched per kernel frame.

/// High half of a probe's 32-bit displacement.
pub const MAGIC: u32 = 0x4c4d_0000;
/// Closes the path with the same low bits.
pub const END: u16 = 0x8000;

macro_rules! probes {
    ($( $(#[$doc:meta])* $Name:ident = $n:literal, $text:literal; )*) => {
        /// A measuring point.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Probe { $( $(#[$doc])* $Name = $n, )* }
        impl Probe {
            /// Every probe.
            pub const ALL: &'static [Probe] = &[ $( Probe::$Name, )* ];
            /// Name in reports.
            pub const fn name(self) -> &'static str { match self { $( Probe::$Name => $text, )* } }
            /// The probe with this id (without [`END`]).
            pub const fn from_id(id: u16) -> Option<Probe> {
                match id { $( $n => Some(Probe::$Name), )* _ => None }
            }
        }
    };
}

probes! {
    /// Path: page fault.
    Fault = 1, "fault";
    /// Path: fork.
    Fork = 2, "fork";
    /// Path: exit, and the tear-down half of exec.
    Exit = 3, "exit";
    /// Path: mmap, munmap, mprotect, mremap, brk, exec's mappings.
    Mmap = 4, "mmap";
    /// Path: copying from or to user memory.
    Copy = 5, "copy";
    /// Path: schedule and context switch.
    Switch = 6, "switch";
    /// Path: reclaim.
    Reclaim = 7, "reclaim";
    /// Path: page_referenced and try_to_unmap of one page.
    Unmap = 8, "unmap";
    /// Path: writeback.
    Writeback = 9, "writeback";
    /// Path: timer interrupt.
    Tick = 10, "tick";
    /// Path: a system call without effect on memory.
    NullCall = 11, "null_call";
    /// Path: idle.
    Idle = 12, "idle";
    /// Path: page_referenced (inside unmap).
    PageReferenced = 13, "page_referenced";
    /// Path: try_to_unmap (inside unmap).
    TryToUnmap = 14, "try_to_unmap";
    /// Count: a vma visited by a reverse-map walk.
    VmaVisited = 32, "vmas_visited";
    /// Count: a vma visited whose address range excludes the page.
    VmaOutOfRange = 33, "vmas_out_of_range";
    /// Count: a pte examined by a reverse-map walk.
    PteExamined = 34, "ptes_examined";
    /// Count: a pte cleared by try_to_unmap.
    PteCleared = 35, "ptes_cleared";
    /// Count: a page completely unmapped.
    PageUnmapped = 36, "pages_unmapped";
    /// Count: try_to_unmap ended early on a young pte.
    UnmapYoung = 37, "unmap_young";
    /// Count: try_to_unmap ended early on a locked vma.
    UnmapLocked = 38, "unmap_locked";
    /// Count: try_to_unmap ended early on a pinned swap-cache page.
    UnmapPinned = 39, "unmap_pinned";
    /// Count: a trylock failed in a reverse-map walk.
    UnmapAgain = 40, "unmap_again";
    /// Count: a page copied for COW.
    CowCopied = 41, "cow_copied";
    /// Count: a COW fault that reused the page.
    CowReused = 42, "cow_reused";
    /// Count: kmap_atomic of a highmem page.
    KmapAtomic = 43, "kmap_atomic";
    /// Count: the kmap window wrapped.
    KmapWrap = 44, "kmap_wrap";
    /// Count: a pte_chain block allocated.
    ChainAllocated = 45, "chains_allocated";
    /// Count: a pte_chain block freed.
    ChainFreed = 46, "chains_freed";
    /// Count: an anon_vma allocated.
    AnonVmaAllocated = 47, "anon_vmas_allocated";
    /// Count: an anon_vma freed.
    AnonVmaFreed = 48, "anon_vmas_freed";
    /// Count: a major fault (the page was read from a device).
    MajorFault = 49, "major_faults";
    /// Count: two vmas merged.
    VmaMerged = 50, "vmas_merged";
    /// Count: a vma split.
    VmaSplit = 51, "vmas_split";
    /// Count: a shared page that mremap had to copy before moving it (anonmm).
    MoveCopied = 52, "move_copied";
    /// Count: a tag bit, or a page of a list, looked at in the search for dirty pages or pages under writeback.
    DirtyScanned = 60, "dirty_scanned";
    /// Count: a page of a file submitted to the disk.
    PageWritten = 61, "pages_written";
}
