//! zap_pte_range, unmap_vmas and mmu_gather (mm/memory.c, asm-generic/tlb.h of 2.6.7).
//!
//! The gather is in the per-CPU area. While one CPU is online it works in "fast mode": pages are freed at once, before the one
//! full flush at the end of the gather; otherwise up to 506 are collected. rss is corrected once, at the end. Left out: breaking for
//! a reschedule between blocks (the kernel runs to completion).
//!
//! Invariant: between [`tlb_gather_mmu`] and [`tlb_finish_mmu`] rss is too large by `freed`.

use crate::bug_on;
use crate::cluster;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::{Mm, Page, Vma, pg};
use crate::lru::{lru_add_drain, mark_page_accessed};
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{pfn_to_page, pfn_valid};
use crate::pgtable::{Pte, pte_get, pte_lookup, pte_unmap, ptep_get_and_clear, set_pte};
use crate::ptr::{Kmapped, Low};
use crate::rmap::ReverseMap;
use crate::root;
use crate::swap::{SwapEntry, free_page_and_swap_cache, free_swap_and_cache};
use crate::tlb::flush_tlb_mm;
use lowmem_abi::layout::PAGE_SIZE;

/// FREE_PTE_NR: pages a gather collects.
pub const FREE_PTE_NR: u32 = 506;
/// Bytes one page table covers.
const PMD_SIZE: u32 = 1 << 21;
/// `nr` in fast mode.
const FAST: u32 = u32::MAX;

guest_struct! {
    /// struct mmu_gather.
    pub struct MmuGather [K] size 2048;
    at 0 => word mm, set_mm: Low<Mm>;
    /// Pages collected, or all ones in fast mode.
    at 4 => word nr, set_nr: u32;
    at 8 => word need_flush, set_need_flush: u32;
    at 12 => word fullmm, set_fullmm: u32;
    /// Pages unmapped.
    at 16 => word freed, set_freed: u32;
    at 20 => words page, set_page: Low<Page>, 506;
}

/// Whether a gather tears down a whole mm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Part of it: munmap.
    Range,
    /// All of it: exit.
    FullMm,
}

/// Starts a gather (mm's page_table_lock held).
pub fn tlb_gather_mmu<K: Kernel>(k: K, mm: Low<Mm>, extent: Extent) -> Low<MmuGather> {
    let tlb: Low<MmuGather> = root::part(k, root::PER_CPU_OBJECTS + 0x1000);
    tlb.set_mm(k, mm);
    tlb.set_nr(k, if objects(k).cpus(k) > 1 { 0 } else { FAST });
    tlb.set_need_flush(k, 0);
    tlb.set_fullmm(k, (extent == Extent::FullMm) as u32);
    tlb.set_freed(k, 0);
    tlb
}

/// tlb_flush_mmu: one full flush for all that was unmapped; then frees what was collected.
pub fn tlb_flush_mmu<K: Kernel>(k: K, tlb: Low<MmuGather>) {
    if tlb.need_flush(k) == 0 {
        return;
    }
    tlb.set_need_flush(k, 0);
    flush_tlb_mm(k, tlb.mm(k));
    let nr = tlb.nr(k);
    if nr != FAST {
        lru_add_drain(k);
        let mut i = 0;
        while i < nr {
            free_page_and_swap_cache(k, tlb.page(k, i));
            i += 1;
        }
        tlb.set_nr(k, 0);
    }
}

/// Ends a gather: corrects rss, flushes.
pub fn tlb_finish_mmu<K: Kernel>(k: K, tlb: Low<MmuGather>) {
    let mm = tlb.mm(k);
    let freed = tlb.freed(k);
    let rss = mm.rss(k);
    bug_on!(k, Zap, freed > rss, freed);
    mm.set_rss(k, rss - freed);
    tlb_flush_mmu(k, tlb);
}

/// tlb_remove_page: the page of a cleared pte.
#[inline(always)]
pub fn tlb_remove_page<K: Kernel>(k: K, tlb: Low<MmuGather>, page: Low<Page>) {
    tlb.set_need_flush(k, 1);
    let nr = tlb.nr(k);
    if nr == FAST {
        free_page_and_swap_cache(k, page);
        return;
    }
    tlb.set_page(k, nr, page);
    tlb.set_nr(k, nr + 1);
    if nr + 1 >= FREE_PTE_NR {
        tlb_flush_mmu(k, tlb);
    }
}

/// unmap_vmas: clears the ptes of `start..end` in `vma` and all that follow it. mm's page_table_lock is held.
pub fn unmap_vmas<K: Kernel>(k: K, tlb: Low<MmuGather>, vma: Low<Vma>, start: u32, end: u32) {
    let mut vma = vma;
    while !vma.is_null() && vma.start(k) < end {
        let from = vma.start(k).max(start);
        let to = vma.end(k).min(end);
        if from < to {
            unmap_page_range(k, tlb, from, to);
        }
        vma = vma.next(k);
    }
}

/// zap_page_range: unmaps part of one vma, with locks and gather (madvise, truncation).
pub fn zap_page_range<K: Kernel>(k: K, vma: Low<Vma>, start: u32, bytes: u32) {
    let end = start.wrapping_add(bytes).min(vma.end(k));
    zap_locked(k, vma, |tlb| unmap_vmas(k, tlb, vma, start, end));
}

/// zap_page_range with nonlinear details: of `start..end` in a nonlinear `vma`, what shows page `first` of the object or one behind it. A
/// pte that is not at its linear place leaves its page offset behind; file ptes stay.
pub fn zap_nonlinear<K: Kernel>(k: K, vma: Low<Vma>, (start, end): (u32, u32), first: u32) {
    zap_locked(k, vma, |tlb| {
        each_pte(k, tlb.mm(k), (start, end), |at, addr| {
            zap_nonlinear_pte(k, tlb, vma, (at, addr), first);
        });
    });
}

#[inline(always)]
fn zap_locked<K: Kernel>(k: K, vma: Low<Vma>, zap: impl FnOnce(Low<MmuGather>)) {
    let mm = vma.mm(k);
    lru_add_drain(k);
    mm.page_table_lock(k).lock(k);
    let tlb = tlb_gather_mmu(k, mm, Extent::Range);
    zap(tlb);
    tlb_finish_mmu(k, tlb);
    mm.page_table_lock(k).unlock(k);
}

fn zap_nonlinear_pte<K: Kernel>(
    k: K,
    tlb: Low<MmuGather>,
    vma: Low<Vma>,
    (at, addr): (Kmapped, u32),
    first: u32,
) {
    let pte = pte_get(k, at);
    if !pte.present() || !pfn_valid(k, pte.pfn()) {
        return;
    }
    let page = pfn_to_page(k, pte.pfn());
    let pgoff = cluster::pgoff_of(k, page.index(k), pte);
    if pgoff < first {
        return;
    }
    zap_present(k, tlb, at);
    if pgoff != cluster::linear_pgoff(k, vma, addr) {
        set_pte(k, at, Pte::file(pgoff));
    }
}

fn unmap_page_range<K: Kernel>(k: K, tlb: Low<MmuGather>, start: u32, end: u32) {
    each_pte(k, tlb.mm(k), (start, end), |at, _| zap_pte(k, tlb, at));
}

/// Calls `f` with each pte of `start..end` whose table exists; a table is looked up once.
#[inline(always)]
fn each_pte<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    (start, end): (u32, u32),
    mut f: impl FnMut(Kmapped, u32),
) {
    let mut addr = start;
    while addr < end {
        let mut stop = (addr & !(PMD_SIZE - 1)).wrapping_add(PMD_SIZE);
        if stop > end || stop < addr {
            stop = end;
        }
        if let Some(pte) = pte_lookup(k, mm, addr) {
            let mut n = (stop - addr) / PAGE_SIZE;
            let mut at = pte;
            loop {
                f(at, addr);
                n -= 1;
                if n == 0 {
                    break;
                }
                at = at.at(8);
                addr = addr.wrapping_add(PAGE_SIZE);
            }
            pte_unmap(k, at);
        }
        addr = stop;
    }
}

/// One pte (the body of zap_pte_range).
#[inline(always)]
fn zap_pte<K: Kernel>(k: K, tlb: Low<MmuGather>, at: Kmapped) {
    let pte = pte_get(k, at);
    if pte.is_none() {
        return;
    }
    if !pte.present() {
        if !pte.is_file() {
            free_swap_and_cache(k, SwapEntry::of_pte(pte));
        }
        set_pte(k, at, Pte::NONE);
        return;
    }
    zap_present(k, tlb, at);
}

#[inline(always)]
fn zap_present<K: Kernel>(k: K, tlb: Low<MmuGather>, at: Kmapped) {
    let old = ptep_get_and_clear(k, at);
    tlb.set_need_flush(k, 1);
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
    if old.young() && !page::page_mapping(k, page).is_null() {
        mark_page_accessed(k, page);
    }
    tlb.set_freed(k, tlb.freed(k) + 1);
    K::Rmap::remove(k, page, at);
    tlb_remove_page(k, tlb, page);
}
