//! install_page: what remap_file_pages' populate puts into page tables (mm/fremap.c of 2.6.7). Left out: install_file_pte of
//! non-blocking populate (everything is read at once).
//!
//! Invariant: what a replaced pte held is released exactly once.

use crate::kernel::{Kernel, Oom};
use crate::layout::{Page, Vma, pg};
use crate::page;
use crate::page_alloc::{pfn_to_page, pfn_valid};
use crate::pgtable::{
    Prot, Pte, mk_pte_sub, pte_alloc_map, pte_get, pte_unmap, ptep_get_and_clear, set_pte,
};
use crate::ptr::{Kmapped, Low};
use crate::rmap::{PteAt, ReverseMap};
use crate::swap::{SwapEntry, free_swap_and_cache};
use crate::tlb::flush_tlb_page;

/// Releases what the pte holds and clears it (zap_pte). The page-table lock is held.
fn zap_pte<K: Kernel>(k: K, vma: Low<Vma>, addr: u32, pte: Kmapped) {
    let old = pte_get(k, pte);
    if old.is_none() {
        return;
    }
    if !old.present() {
        if !old.is_file() {
            free_swap_and_cache(k, SwapEntry::of_pte(old));
        }
        set_pte(k, pte, Pte::NONE);
        return;
    }
    let old = ptep_get_and_clear(k, pte);
    flush_tlb_page(k, vma, addr);
    if !pfn_valid(k, old.pfn()) {
        return;
    }
    let page = pfn_to_page(k, old.pfn());
    if page::test(k, page, pg::RESERVED) {
        return;
    }
    if old.dirty() {
        page::set_page_dirty(k, page);
    }
    K::Rmap::remove(k, page, pte);
    page::put_page(k, page);
    let mm = vma.mm(k);
    mm.set_rss(k, mm.rss(k).wrapping_sub(1));
}

/// Maps a sub-page of a file page at `addr`, with the vma's rights; takes over the caller's reference.
pub fn install_page<K: Kernel>(
    k: K,
    vma: Low<Vma>,
    addr: u32,
    (page, sub): (Low<Page>, u32),
) -> Result<(), Oom> {
    let mut spare = K::Rmap::spare(k)?;
    let mm = vma.mm(k);
    mm.page_table_lock(k).lock(k);
    let pte = match pte_alloc_map(k, mm, addr) {
        Ok(pte) => pte,
        Err(e) => {
            mm.page_table_lock(k).unlock(k);
            K::Rmap::spare_free(k, spare);
            return Err(e);
        }
    };
    zap_pte(k, vma, addr, pte);
    mm.set_rss(k, mm.rss(k).wrapping_add(1));
    let prot = Prot(vma.page_prot(k));
    set_pte(k, pte, mk_pte_sub(k, page, sub, prot));
    K::Rmap::add_file(k, page, PteAt { pte, addr }, &mut spare);
    pte_unmap(k, pte);
    mm.page_table_lock(k).unlock(k);
    K::Rmap::spare_free(k, spare);
    Ok(())
}
