//! How an invariant of the kernel fails: no text in the image, only which file and which line (decision D13).

use crate::kernel::Kernel;
use lowmem_abi::port::ReportKind;

macro_rules! files {
    ($($Name:ident => $text:literal),* $(,)?) => {
        /// Source files that can report a BUG, in order of their number.
        pub const FILES: &[&str] = &[$($text),*];
        /// Number of a source file in [`FILES`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        #[allow(missing_docs, reason = "each variant is the file of that name")]
        pub enum File { $($Name),* }
    };
}
files! {
    Boot => "boot.rs", Buddy => "page_alloc/buddy.rs", Pcp => "page_alloc/pcp.rs", Slab => "slab.rs",
    Pgtable => "pgtable.rs", Kmap => "kmap.rs", Uaccess => "uaccess.rs", Trap => "trap.rs", Sched => "sched.rs",
    Vma => "mm/vma.rs", Merge => "mm/merge.rs", Mmap => "mm/mmap.rs", Munmap => "mm/munmap.rs",
    Mprotect => "mm/mprotect.rs", Mremap => "mm/mremap.rs", Brk => "mm/brk.rs", Shm => "mm/shm.rs",
    Fremap => "mm/fremap.rs", Fork => "mm/fork.rs", Exec => "mm/exec.rs", Exit => "mm/exit.rs",
    Fault => "mm/fault.rs", Zap => "mm/zap.rs", PageCache => "page_cache", RadixTree => "radix_tree.rs",
    Swap => "swap/mod.rs", Lru => "lru.rs", PteChain => "rmap/pte_chain.rs", AnonVma => "rmap/anon_vma.rs",
    FileRmap => "rmap/file.rs", Page => "page.rs", Syscall => "syscall.rs", Sync => "sync.rs", Panic => "panic",
    Objrmap => "rmap/objrmap.rs", PteChainV1 => "rmap/pte_chain_v1.rs", PteChainDl => "rmap/pte_chain_dl.rs",
    RbTree => "rbtree.rs", PrioTree => "prio_tree.rs", Task => "task.rs", List => "list.rs",
    Anonmm => "rmap/anonmm.rs", AnonVmaRfc => "rmap/anon_vma_rfc.rs",
    AnonVmaChain => "rmap/anon_vma_chain.rs", SwapOut => "rmap/swap_out.rs",
    Io => "io.rs", Shmem => "shmem.rs", Reclaim => "reclaim/scan.rs",
    Writeback => "writeback", Object => "rmap/object.rs", Mapcount => "rmap/mapcount.rs",
}

/// Stops: the invariant at this place does not hold.
#[cold]
#[inline(never)]
pub fn bug<K: Kernel>(k: K, file: File, line: u32, value: u32) -> ! {
    k.fatal(ReportKind::Bug, file as u32, line, value)
}

/// `bug_on!(k, File, condition)` or `bug_on!(k, File, condition, value)`: stops if `condition` holds.
#[macro_export]
macro_rules! bug_on {
    ($k:expr, $File:ident, $cond:expr) => {
        $crate::bug_on!($k, $File, $cond, 0)
    };
    ($k:expr, $File:ident, $cond:expr, $value:expr) => {
        if $cond {
            $crate::bug::bug($k, $crate::bug::File::$File, line!(), $value)
        }
    };
}
