//! munmap (mm/mmap.c of 2.6.7): split at both ends, detach, unmap the pages in one gather, then close and free the vmas.
//!
//! The order matters to the reverse map: pages go first, vmas leave their lists afterwards, so that no page is ever on a list
//! without a vma that could map it.
//!
//! Invariant: afterwards no vma and no pte lies in the range.

use crate::kernel::Kernel;
use crate::layout::{Mm, Vma, vm};
use crate::lru::lru_add_drain;
use crate::mm::vma::{
    NewHalf, detach, find_vma, find_vma_prev, remove_vm_struct, split_vma, unacct_memory,
};
use crate::mm::zap::{Extent, tlb_finish_mmu, tlb_gather_mmu, unmap_vmas};
use crate::mm::{Errno, current_mm, page_align, task_size, unmapped_base};
use crate::pgtable::free_pgtables;
use crate::ptr::Low;

/// munmap(address, length).
pub fn sys_munmap<K: Kernel>(k: K, addr: u32, len: u32) -> Result<u32, Errno> {
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let result = do_munmap(k, mm, addr, len);
    mm.mmap_sem(k).up_write(k);
    result.map(|()| 0)
}

/// Unmaps a range; mmap_sem is held for writing.
pub fn do_munmap<K: Kernel>(k: K, mm: Low<Mm>, start: u32, len: u32) -> Result<(), Errno> {
    let limit = task_size(k);
    if start & 0xfff != 0 || start > limit || len > limit - start {
        return Err(Errno::Einval);
    }
    let len = page_align(len);
    if len == 0 {
        return Err(Errno::Einval);
    }
    let (first, mut prev) = find_vma_prev(k, mm, start);
    if first.is_null() {
        return Ok(());
    }
    let end = start + len;
    if first.start(k) >= end {
        return Ok(());
    }
    if start > first.start(k) {
        split_vma(k, mm, first, start, NewHalf::Above)?;
        prev = first;
    }
    let last = find_vma(k, mm, end);
    if !last.is_null() && end > last.start(k) {
        split_vma(k, mm, last, end, NewHalf::Below)?;
    }
    let first = if prev.is_null() {
        mm.mmap(k)
    } else {
        prev.next(k)
    };
    detach(k, mm, first, prev, end);
    unmap_region(k, mm, first, prev, (start, end));
    free_vmas(k, mm, first);
    Ok(())
}

/// Unmaps the pages of the detached vmas from `first` on, in one gather.
fn unmap_region<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    first: Low<Vma>,
    prev: Low<Vma>,
    (start, end): (u32, u32),
) {
    mm.page_table_lock(k).lock(k);
    lru_add_drain(k);
    let tlb = tlb_gather_mmu(k, mm, Extent::Range);
    unmap_vmas(k, tlb, first, start, end);
    free_pgtables(k, mm, prev, start, end);
    tlb_finish_mmu(k, tlb);
    mm.page_table_lock(k).unlock(k);
}

/// Closes and frees the detached vmas from `first` on (unmap_vma_list).
fn free_vmas<K: Kernel>(k: K, mm: Low<Mm>, first: Low<Vma>) {
    let base = unmapped_base(k);
    let mut vma = first;
    while !vma.is_null() {
        let next = vma.next(k);
        let (start, flags) = (vma.start(k), vma.flags(k));
        let pages = (vma.end(k) - start) >> 12;
        mm.set_total_vm(k, mm.total_vm(k).wrapping_sub(pages));
        if flags & vm::LOCKED != 0 {
            mm.set_locked_vm(k, mm.locked_vm(k).wrapping_sub(pages));
        }
        if flags & vm::ACCOUNT != 0 {
            unacct_memory(k, pages);
        }
        if start >= base && start < mm.free_area_cache(k) {
            mm.set_free_area_cache(k, start);
        }
        remove_vm_struct(k, vma);
        vma = next;
    }
}
