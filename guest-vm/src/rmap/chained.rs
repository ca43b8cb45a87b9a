//! A pte as a chain names it: by its address, from which mm and user address follow (asm-generic/rmap.h of 2.6.0).
//!
//! The struct page of a page table of such a kernel knows its mm (mapping) and the first address it translates (index). Shared by
//! the chains of 2.6.0 ([`super::pte_chain`]), of January 2002 ([`super::pte_chain_v1`]), the doubly linked ones
//! ([`super::pte_chain_dl`]) and the anonymous half of [`super::objrmap`]. Order of checks: fact sheet, "try_to_unmap of one
//! candidate", column pte_chain 2.6.0.
//!
//! Invariant: a page table that is in use knows its mm and base; one that is free knows nothing.

use super::Unmap;
use crate::bug_on;
use crate::kernel::Kernel;
use crate::layout::{Mm, Page, pg, vm};
use crate::mm::vma::find_vma;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::virt_to_page;
use crate::pgtable::{Pte, ptep_get_and_clear, ptep_test_and_clear_young, set_pte};
use crate::ptr::{Kmapped, Low};
use crate::swap::{SwapEntry, swap_duplicate};
use crate::tlb::flush_tlb_page;
use lowmem_abi::probe::Probe;

/// pgtable_add_rmap: the page table at `page` translates for `mm` from `addr` on.
#[inline(always)]
pub fn pte_page_init<K: Kernel>(k: K, page: Low<Page>, mm: Low<Mm>, addr: u32) {
    page.set_mapping(k, mm.va());
    page.set_index(k, addr & !0x1f_ffff);
}

/// pgtable_remove_rmap: the page table goes out of use.
#[inline(always)]
pub fn pte_page_exit<K: Kernel>(k: K, page: Low<Page>) {
    page.set_mapping(k, 0);
    page.set_index(k, 0);
}

/// The mm whose page table holds the pte (ptep_to_mm).
#[inline(always)]
pub fn mm_of<K: Kernel>(k: K, pte: u32) -> Low<Mm> {
    Low::new(virt_to_page(k, pte).mapping(k))
}

/// The user address it translates (ptep_to_address): 8 bytes of pte are 4096 of address.
#[inline(always)]
pub fn address_of<K: Kernel>(k: K, pte: u32) -> u32 {
    virt_to_page(k, pte)
        .index(k)
        .wrapping_add((pte & 0xfff) << 9)
}

/// Young test of one entry. The 2.6.8 flush (`young_flush`) needs the vma, which these schemes must look for.
pub fn entry_young<K: Kernel>(k: K, pte: u32) -> u32 {
    k.probe(Probe::PteExamined);
    let young = ptep_test_and_clear_young(k, Kmapped(pte));
    if young && objects(k).young_flush(k) != 0 {
        let addr = address_of(k, pte);
        let vma = find_vma(k, mm_of(k, pte), addr);
        if !vma.is_null() {
            flush_tlb_page(k, vma, addr);
        }
    }
    young as u32
}

/// try_to_unmap_one of 2.6.0: no look at the young bit. `Success` leaves the entry to the caller, to be taken off the chain.
pub fn unmap_entry<K: Kernel>(k: K, page: Low<Page>, pte: u32) -> Unmap {
    k.probe(Probe::PteExamined);
    let mm = mm_of(k, pte);
    let addr = address_of(k, pte);
    let lock = mm.page_table_lock(k);
    if !lock.trylock(k) {
        k.probe(Probe::UnmapAgain);
        return Unmap::Again;
    }
    let vma = find_vma(k, mm, addr);
    if vma.is_null() {
        lock.unlock(k);
        return Unmap::Fail;
    }
    k.probe(Probe::VmaVisited);
    if vma.flags(k) & vm::LOCKED != 0 {
        lock.unlock(k);
        k.probe(Probe::UnmapLocked);
        return Unmap::Fail;
    }
    let at = Kmapped(pte);
    let old = ptep_get_and_clear(k, at);
    flush_tlb_page(k, vma, addr);
    k.probe(Probe::PteCleared);
    if page::test(k, page, pg::SWAPCACHE) {
        let entry = SwapEntry(page.private(k));
        bug_on!(k, PteChain, !swap_duplicate(k, entry), entry.0);
        set_pte(k, at, entry.to_pte());
    } else if page.index(k) != page::linear_page_index(k, vma, addr) {
        // Found through a nonlinear mapping: only the pte remembers which page it was.
        set_pte(k, at, Pte::file(page.index(k)));
    }
    if old.dirty() {
        page::set_page_dirty(k, page);
    }
    mm.set_rss(k, mm.rss(k).wrapping_sub(1));
    page::put_page(k, page);
    lock.unlock(k);
    Unmap::Success
}

/// What every try_to_unmap of chains asks of its page.
#[inline(always)]
pub fn unmap_asserts<K: Kernel>(k: K, page: Low<Page>) {
    bug_on!(k, PteChain, !page::test(k, page, pg::LOCKED), page.va());
    bug_on!(k, PteChain, page::test(k, page, pg::RESERVED), page.va());
    // There must be a place the content can come back from.
    bug_on!(
        k,
        PteChain,
        page::page_mapping(k, page).is_null(),
        page.va()
    );
    bug_on!(k, PteChain, page.rmap(k) == 0, page.va());
}

/// The entries of a page are exactly the ptes of the scan, each in a page table that knows its mm and base.
#[cfg(not(target_os = "none"))]
pub fn check_entries<K: Kernel>(
    k: K,
    mut entries: Vec<u32>,
    ptes: &[crate::check::Mapper],
) -> Result<(), (&'static str, u32)> {
    entries.sort_unstable();
    let mut scan: Vec<u32> = ptes.iter().map(|m| m.pte_va).collect();
    scan.sort_unstable();
    if entries != scan {
        return Err((
            "chain entries are not the ptes of the scan",
            entries.len() as u32,
        ));
    }
    for m in ptes {
        if mm_of(k, m.pte_va).va() != m.mm || address_of(k, m.pte_va) != m.addr {
            return Err(("pte page does not know its mm and base", m.pte_va));
        }
    }
    Ok(())
}
