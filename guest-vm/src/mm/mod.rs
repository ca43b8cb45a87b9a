//! Address spaces: one file per operation, so that the folder reads like the system-call table.
//!
//! | module | owns |
//! |---|---|
//! | [`mm_struct`] | mm_alloc, mmput, mmdrop; the list of all mms |
//! | [`vma`] | finding and linking vmas; stack growth |
//! | [`adjust`] | vma_adjust, split_vma: where bounds move |
//! | [`merge`] | vma_merge: the eight cases |
//! | [`mmap`], [`munmap`], [`mprotect`], [`mremap`], [`brk`] | the calls of those names |
//! | [`madvise`], [`mlock`], [`fremap`], [`shm`] | likewise; `fremap` is remap_file_pages |
//! | [`fork`], [`exec`], [`exit`] | birth, change and death of an address space and its task |
//! | [`fault`], [`copy`], [`zap`], [`populate`] | page faults; copying, clearing and filling page tables |
//! | [`window`] | page faults where a page has several frames |
//!
//! Callers of the operations hold `mmap_sem` as the historic ones did; a system call takes it in its own file.

use crate::kernel::{Kernel, Oom};
use crate::layout::Mm;
pub use crate::pgtable::task_size;
use crate::ptr::Low;

pub mod adjust;
pub mod brk;
pub mod copy;
pub mod exec;
pub mod exit;
pub mod fault;
pub mod fork;
pub mod fremap;
pub mod madvise;
pub mod merge;
pub mod mlock;
pub mod mm_struct;
pub mod mmap;
pub mod mprotect;
pub mod mremap;
pub mod munmap;
pub mod populate;
pub mod shm;
pub mod vma;
pub mod window;
pub mod zap;

/// Why a system call fails; the numbers of i386.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// A bare -1.
    Eperm = 1,
    /// No such segment.
    Enoent = 2,
    /// Try again.
    Eagain = 11,
    /// Out of memory, of address space, or of map_count.
    Enomem = 12,
    /// The mapping does not allow it.
    Eacces = 13,
    /// Bad address.
    Efault = 14,
    /// Bad argument.
    Einval = 22,
    /// No room for another segment.
    Enospc = 28,
}

impl Errno {
    /// What the call leaves in eax.
    #[inline(always)]
    pub const fn in_eax(self) -> u32 {
        (self as u32).wrapping_neg()
    }
}

impl From<Oom> for Errno {
    #[inline(always)]
    fn from(_: Oom) -> Self {
        Errno::Enomem
    }
}

/// Most vmas of one mm (DEFAULT_MAX_MAP_COUNT).
pub const MAX_MAP_COUNT: u32 = 65536;

/// Where the search for free addresses begins: a third of user space, page aligned (TASK_UNMAPPED_BASE).
#[inline(always)]
pub fn unmapped_base<K: Kernel>(k: K) -> u32 {
    page_align(task_size(k) / 3)
}

/// Rounds up to a page; 0 if that overflows.
#[inline(always)]
pub const fn page_align(bytes: u32) -> u32 {
    bytes.wrapping_add(0xfff) & !0xfff
}

/// The running task's mm; null for idle.
#[inline(always)]
pub fn current_mm<K: Kernel>(k: K) -> Low<Mm> {
    crate::task::current(k).mm(k)
}
