//! The kernel's one root object, at physical [`lowmem_abi::layout::ROOT`]: what would be global variables in C.
//!
//! Each module has a region of its own and declares its structure there. Invariant: regions do not overlap and start page
//! aligned.

use crate::kernel::Kernel;
use crate::ptr::Low;
use lowmem_abi::layout::ROOT;

/// Offset of the zones, buddy allocator and page-table roots (`page_alloc`).
pub const PAGE_ALLOC: u32 = 0x0000;
/// Offset of the slab caches (`slab`).
pub const SLAB: u32 = 0x4000;
/// Offset of kmap, fixmap, GDT, IDT, TSS and of the kernel's own tables (`boot`, `kmap`).
pub const ARCH: u32 = 0xc000;
/// Offset of per-CPU areas: page lists, pagevecs, mmu_gather, scratch lists (each module its own page).
pub const PER_CPU: u32 = 0x2_0000;
/// Offset, inside the per-CPU area, of pagevecs, radix preload, mmu_gather and the spare pte_chain.
pub const PER_CPU_OBJECTS: u32 = PER_CPU + 0x8000;
/// Offset, inside the per-CPU area, of what reclaim needs: lists, vectors, kswapd (`reclaim`).
pub const RECLAIM: u32 = PER_CPU_OBJECTS + 0x2000;
/// Offset, inside the per-CPU area, of the queue of page writes (`io`).
pub const IO_QUEUE: u32 = PER_CPU_OBJECTS + 0x3000;
/// Offset of tasks, pid hash, run state, SysV segments (`sched`, `task`, `mm`).
pub const TASKS: u32 = 0x4_0000;
/// Offset of file table, page cache, LRU, swap, reverse-map caches.
pub const OBJECTS: u32 = 0x5_0000;
/// Offset of writeback's state: thresholds, inode lists, writers, the device's queue (`writeback`).
pub const WRITEBACK: u32 = OBJECTS + 0x1_0000;
/// Size of all.
pub const BYTES: u32 = lowmem_abi::layout::ROOT_END - ROOT;

/// The part of the root object at `offset`, as a `T`.
#[inline(always)]
pub fn part<K: Kernel, T>(k: K, offset: u32) -> Low<T> {
    Low::new(k.page_offset().wrapping_add(ROOT + offset))
}

/// The virtual address of physical low address `pa`.
#[inline(always)]
pub fn low_at<K: Kernel, T>(k: K, pa: u32) -> Low<T> {
    Low::new(k.page_offset().wrapping_add(pa))
}
