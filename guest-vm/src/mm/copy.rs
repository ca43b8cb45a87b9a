//! copy_page_range: fork copies the page tables of one vma (mm/memory.c of 2.6.7, and of 2.6.0 for the chain's spare).
//!
//! Every vma is copied, file mappings too; there is no TLB flush per page, fork flushes the parent once at the end.
//! Invariant: parent and child ptes of a private writable page are both read-only afterwards.

use crate::bug_on;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Vma, pg, vm};
use crate::page;
use crate::page_alloc::{pfn_to_page, pfn_valid};
use crate::pgtable::{
    ACCESSED, DIRTY, pte_alloc_map, pte_get, pte_lookup_nested, pte_table_present, pte_unmap,
    ptep_set_wrprotect, set_pte,
};
use crate::ptr::{Kmapped, Low};
use crate::rmap::{PteAt, ReverseMap};
use crate::swap::{SwapEntry, swap_duplicate};
use lowmem_abi::layout::PAGE_SIZE;

/// Bytes one page table covers.
const PMD_SIZE: u32 = 1 << 21;

/// One fork's copy of one vma: what every pte needs.
#[derive(Clone, Copy)]
struct Copying {
    dst: Low<Mm>,
    src: Low<Mm>,
    cow: bool,
    shared: bool,
}

/// Copies the ptes of `vma` from `src_mm` into the same addresses of `dst_mm`. The caller holds `dst_mm`'s page_table_lock, as
/// dup_mmap does; `child_vma` is the linked copy.
pub fn copy_page_range<K: Kernel>(
    k: K,
    dst_mm: Low<Mm>,
    src_mm: Low<Mm>,
    vma: Low<Vma>,
    child_vma: Low<Vma>,
) -> Result<(), Oom> {
    bug_on!(k, Fork, child_vma.start(k) != vma.start(k), child_vma.va());
    let flags = vma.flags(k);
    let c = Copying {
        dst: dst_mm,
        src: src_mm,
        cow: flags & (vm::SHARED | vm::MAYWRITE) == vm::MAYWRITE,
        shared: flags & vm::SHARED != 0,
    };
    let mut spare = match K::Rmap::spare_atomic(k) {
        Ok(s) => s,
        Err(_) => spare_sleeping(k, c)?,
    };
    let end = vma.end(k);
    let mut addr = vma.start(k);
    let mut result = Ok(());
    while addr < end {
        let mut stop = (addr & !(PMD_SIZE - 1)).wrapping_add(PMD_SIZE);
        if stop > end || stop < addr {
            stop = end;
        }
        if pte_table_present(k, src_mm, addr) {
            result = copy_table(k, c, (addr, stop), &mut spare);
            if result.is_err() {
                break;
            }
        }
        addr = stop;
    }
    K::Rmap::spare_free(k, spare);
    result
}

/// Copies the ptes of one page table.
fn copy_table<K: Kernel>(
    k: K,
    c: Copying,
    (mut addr, end): (u32, u32),
    spare: &mut <K::Rmap as ReverseMap<K>>::Spare,
) -> Result<(), Oom> {
    let mut to = pte_alloc_map(k, c.dst, addr)?;
    let lock = c.src.page_table_lock(k);
    lock.lock(k);
    let Some(mut from) = pte_lookup_nested(k, c.src, addr) else {
        lock.unlock(k);
        return Ok(());
    };
    let mut result = Ok(());
    loop {
        copy_pte(k, c, (from, to), addr, spare);
        addr += PAGE_SIZE;
        if K::Rmap::spare_used(k, spare) {
            match K::Rmap::spare_atomic(k) {
                Ok(s) => *spare = s,
                Err(_) => {
                    // Sleeping allocation with both locks dropped.
                    lock.unlock(k);
                    result = spare_sleeping(k, c).map(|s| *spare = s);
                    lock.lock(k);
                }
            }
        }
        if addr >= end || result.is_err() {
            break;
        }
        from = from.at(8);
        to = to.at(8);
    }
    pte_unmap(k, from);
    lock.unlock(k);
    pte_unmap(k, to);
    result
}

/// Takes a spare with the child's lock dropped, after the atomic attempt has failed.
#[cold]
fn spare_sleeping<K: Kernel>(k: K, c: Copying) -> Result<<K::Rmap as ReverseMap<K>>::Spare, Oom> {
    c.dst.page_table_lock(k).unlock(k);
    let s = K::Rmap::spare(k);
    c.dst.page_table_lock(k).lock(k);
    s
}

#[inline(always)]
fn copy_pte<K: Kernel>(
    k: K,
    c: Copying,
    (from, to): (Kmapped, Kmapped),
    addr: u32,
    spare: &mut <K::Rmap as ReverseMap<K>>::Spare,
) {
    let mut pte = pte_get(k, from);
    if pte.is_none() {
        return;
    }
    if !pte.present() {
        if !pte.is_file() {
            let entry = SwapEntry::of_pte(pte);
            bug_on!(k, Fork, !swap_duplicate(k, entry), entry.0);
        }
        set_pte(k, to, pte);
        return;
    }
    let pfn = pte.pfn();
    if !pfn_valid(k, pfn) {
        set_pte(k, to, pte);
        return;
    }
    let page = pfn_to_page(k, pfn);
    if page::test(k, page, pg::RESERVED) {
        set_pte(k, to, pte);
        return;
    }
    if c.cow {
        ptep_set_wrprotect(k, from);
        pte = pte_get(k, from);
    }
    if c.shared {
        pte = pte.without(DIRTY);
    }
    pte = pte.without(ACCESSED);
    page::get_page(k, page);
    c.dst.set_rss(k, c.dst.rss(k).wrapping_add(1));
    set_pte(k, to, pte);
    K::Rmap::dup(k, page, PteAt { pte: to, addr }, spare);
}
