//! Object-based reverse mapping: from a vma of the page's object to the pte, in 2.6.7's order of checks (mm/rmap.c).
//!
//! Used for file pages by every scheme that has no chain for them, and for anonymous pages by anon_vma. One candidate
//! vma: skip if its mm has no pages or the page lies outside; trylock page_table_lock; pgd, pmd, pte; present and same
//! frame. Order against the fault path is reversed, hence only trylocks. [`page_referenced`] and [`try_to_unmap`] serve every
//! scheme whose pages carry a mapcount; what an anonymous page leads to, and what its last mapping gives back, they are told.
//!
//! anon_vma with the structures of 2.6.5-aa follows `object_aa.rs` instead.
//!
//! Invariant: functions here are called with the page lock and the bit lock held and leave every other lock free.

use crate::bug_on;
use crate::cluster;
use crate::kernel::{Kernel, Planted};
use crate::layout::{Mapping, Mm, Page, Vma, pg, vm};
use crate::list::ListHead;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{page_to_pfn, pfn_to_page, pfn_valid};
use crate::pgtable::{
    Pte, pte_get, pte_lookup, pte_unmap, ptep_get_and_clear, ptep_test_and_clear_young, set_pte,
};
use crate::ptr::{Kmapped, Low};
use crate::rmap::file::{FileVmas, SHARED, trylock_i_mmap, unlock_i_mmap};
use crate::rmap::{Unmap, mapcount, object_aa, window};
use crate::swap::{self, swap_duplicate};
use crate::tlb::flush_tlb_page;
use lowmem_abi::layout::{PAGE_SHIFT, PAGE_SIZE};
use lowmem_abi::probe::Probe;

#[cfg(not(target_os = "none"))]
pub(super) mod check;

/// Pages of a nonlinear vma unmapped together (CLUSTER_SIZE: 32 pages).
const CLUSTER_SIZE: u32 = 32 * PAGE_SIZE;

/// Address at which linear `vma` shows the page, if inside (vma_address). As in 2.6.7 an offset difference of 2^20 pages wraps; the
/// comparison of frames catches that.
#[inline(always)]
pub fn vma_address<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>) -> Option<u32> {
    let start = vma.start(k);
    let addr = start.wrapping_add(page.index(k).wrapping_sub(vma.pgoff(k)) << PAGE_SHIFT);
    if addr < start || addr >= vma.end(k) {
        return None;
    }
    Some(addr)
}

/// Outcome of looking for the page's pte in one mm.
pub(super) enum Candidate {
    /// Cannot map it, or does not.
    Vain,
    /// The page-table lock was missed.
    Busy,
    /// Here; the mm's page_table_lock is held.
    At(Kmapped, u32),
}

#[inline(always)]
fn find_pte<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>) -> Candidate {
    k.probe(Probe::VmaVisited);
    let mm = vma.mm(k);
    if mm.rss(k) == 0 {
        return Candidate::Vain;
    }
    let Some(addr) = vma_address(k, page, vma) else {
        k.probe(Probe::VmaOutOfRange);
        return Candidate::Vain;
    };
    find_pte_at(k, page, mm, addr)
}

/// The page's pte at `addr` of an mm, if it is there.
#[inline(always)]
pub(super) fn find_pte_at<K: Kernel>(k: K, page: Low<Page>, mm: Low<Mm>, addr: u32) -> Candidate {
    if !mm.page_table_lock(k).trylock(k) {
        k.probe(Probe::UnmapAgain);
        return Candidate::Busy;
    }
    if let Some(pte) = pte_of_page(k, page, mm, addr) {
        return Candidate::At(pte, addr);
    }
    mm.page_table_lock(k).unlock(k);
    Candidate::Vain
}

/// The pte at `addr` of an mm, if it maps the page. page_table_lock is held.
#[inline(always)]
pub(super) fn pte_of_page<K: Kernel>(
    k: K,
    page: Low<Page>,
    mm: Low<Mm>,
    addr: u32,
) -> Option<Kmapped> {
    let pte = pte_lookup(k, mm, addr)?;
    k.probe(Probe::PteExamined);
    let entry = pte_get(k, pte);
    if entry.present() && entry.pfn() == page_to_pfn(k, page) {
        return Some(pte);
    }
    pte_unmap(k, pte);
    None
}

/// page_referenced_one: 1 if the pte of `vma` was young. `left` counts down found ptes.
pub fn referenced_one<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>, left: &mut u32) -> u32 {
    if cluster::clustered(k) {
        return window::referenced_one(k, page, vma, left);
    }
    match find_pte(k, page, vma) {
        Candidate::Vain | Candidate::Busy => 0,
        Candidate::At(pte, addr) => {
            let young = clear_young(k, vma, (pte, addr));
            *left = left.wrapping_sub(1);
            pte_unmap(k, pte);
            vma.mm(k).page_table_lock(k).unlock(k);
            young as u32
        }
    }
}

/// Clears Accessed; whether it was set. 2.6.5-aa reads it first, so that the line of an old pte stays clean. With the rule of 2.6.8
/// (ptep_clear_flush_young) the translation is then flushed.
#[inline(always)]
pub(super) fn clear_young<K: Kernel>(k: K, vma: Low<Vma>, (pte, addr): (Kmapped, u32)) -> bool {
    if object_aa::followed(k) && !pte_get(k, pte).young() {
        return false;
    }
    let young = ptep_test_and_clear_young(k, pte);
    if young && objects(k).young_flush(k) != 0 {
        flush_tlb_page(k, vma, addr);
    }
    young
}

/// What is asked of a pte that was found, beside the vma's flags and the young bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// "rmap 7", May 2004: no more.
    Hybrid,
    /// 2.6.7: a page of the swap cache that somebody pins stays mapped.
    V2_6_7,
}

/// try_to_unmap_one. `Success` means: go on with the next vma.
pub fn unmap_one<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>, checks: Checks) -> Unmap {
    if cluster::clustered(k) {
        return window::unmap_one(k, page, vma, checks);
    }
    let (pte, addr) = match find_pte(k, page, vma) {
        Candidate::Vain => return Unmap::Success,
        Candidate::Busy => return Unmap::Again,
        Candidate::At(pte, addr) => (pte, addr),
    };
    let mm = vma.mm(k);
    let r = unmap_found(k, page, vma, (pte, addr), checks);
    pte_unmap(k, pte);
    mm.page_table_lock(k).unlock(k);
    r
}

/// The checks of a pte that was found, and if none objects, its end. page_table_lock is held.
pub(super) fn unmap_found<K: Kernel>(
    k: K,
    page: Low<Page>,
    vma: Low<Vma>,
    (pte, addr): (Kmapped, u32),
    checks: Checks,
) -> Unmap {
    if vma.flags(k) & (vm::LOCKED | vm::RESERVED) != 0 {
        k.probe(Probe::UnmapLocked);
        return Unmap::Fail;
    }
    if clear_young(k, vma, (pte, addr)) {
        k.probe(Probe::UnmapYoung);
        return Unmap::Fail;
    }
    // Somebody pins the page (get_user_pages): its content may change behind a pte's back.
    if checks == Checks::V2_6_7
        && page::swap_cached(k, page)
        && page.count(k) != page.rmap(k).wrapping_add(2)
        && !k.planted(Planted::NoPinCheck)
    {
        k.probe(Probe::UnmapPinned);
        return Unmap::Fail;
    }
    clear_found(k, page, vma, (pte, addr));
    Unmap::Success
}

/// The end of a pte to which nothing objects.
#[inline(always)]
pub(super) fn clear_found<K: Kernel>(
    k: K,
    page: Low<Page>,
    vma: Low<Vma>,
    (pte, addr): (Kmapped, u32),
) {
    let old = ptep_get_and_clear(k, pte);
    flush_tlb_page(k, vma, addr);
    k.probe(Probe::PteCleared);
    if old.dirty() {
        page::set_page_dirty(k, page);
    }
    if page::test(k, page, pg::ANON) {
        bug_on!(k, Object, !page::swap_cached(k, page), page.va());
        let entry = swap::entry_of(k, page);
        bug_on!(k, Object, !swap_duplicate(k, entry), entry.0);
        set_pte(k, pte, entry.to_pte(cluster::sub_of(k, old.pfn())));
    }
    drop_mapping(k, vma.mm(k), page);
}

/// rss, mapcount and the pte's reference.
fn drop_mapping<K: Kernel>(k: K, mm: Low<Mm>, page: Low<Page>) {
    mm.set_rss(k, mm.rss(k).wrapping_sub(1));
    mapcount::lower(k, page);
    page::put_page(k, page);
}

/// page_referenced of a page with a mapcount: PG_referenced, and what `anon` or the file's vmas find.
#[inline(always)]
pub fn page_referenced<K: Kernel>(
    k: K,
    page: Low<Page>,
    anon: impl FnOnce(K, Low<Page>) -> u32,
) -> u32 {
    let mut referenced = page::test_and_clear(k, page, pg::REFERENCED) as u32;
    if page.rmap(k) != 0 && page.mapping(k) != 0 {
        if page::test(k, page, pg::ANON) {
            referenced += anon(k, page);
        } else {
            referenced += referenced_file(k, page);
        }
    }
    referenced
}

/// try_to_unmap of a page with a mapcount. `anon` searches for an anonymous page; `last_gone` ends the last mapping.
#[inline(always)]
pub fn try_to_unmap<K: Kernel>(
    k: K,
    page: Low<Page>,
    checks: Checks,
    anon: impl FnOnce(K, Low<Page>) -> Unmap,
    last_gone: impl FnOnce(K, Low<Page>),
) -> Unmap {
    let search = |k, page| {
        if page::test(k, page, pg::ANON) {
            anon(k, page)
        } else {
            unmap_file(k, page, checks)
        }
    };
    unmap_by(k, page, search, last_gone)
}

/// What surrounds the search of try_to_unmap.
#[inline(always)]
pub(super) fn unmap_by<K: Kernel>(
    k: K,
    page: Low<Page>,
    search: impl FnOnce(K, Low<Page>) -> Unmap,
    last_gone: impl FnOnce(K, Low<Page>),
) -> Unmap {
    bug_on!(k, Object, !page::test(k, page, pg::LOCKED), page.va());
    bug_on!(k, Object, page::test(k, page, pg::RESERVED), page.va());
    bug_on!(k, Object, page.rmap(k) == 0, page.va());
    let result = search(k, page);
    if page.rmap(k) != 0 {
        return result;
    }
    // The sweep through nonlinear vmas accounts for what it removes.
    if result != Unmap::Success {
        last_gone(k, page);
    }
    k.probe(Probe::PageUnmapped);
    Unmap::Success
}

/// page_referenced_file: i_mmap_lock by trylock; a locked shared vma counts as a reference at once.
pub fn referenced_file<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let mapping: Low<Mapping> = Low::new(page.mapping(k));
    let mut left = page.rmap(k);
    if !trylock_i_mmap(k, mapping) {
        k.probe(Probe::UnmapAgain);
        return 0;
    }
    let mut referenced = 0;
    let mut vmas = FileVmas::of_page(k, mapping, page.index(k));
    while let Some(vma) = vmas.next(k).get() {
        let both = vm::LOCKED | vm::MAYSHARE;
        if vma.flags(k) & both == both {
            k.probe(Probe::VmaVisited);
            referenced += 1;
            break;
        }
        referenced += referenced_one(k, page, vma, &mut left);
        if left == 0 {
            break;
        }
    }
    unlock_i_mmap(k, mapping);
    referenced
}

/// try_to_unmap_file: linear vmas, then, if mappings are left, the sweep through nonlinear ones, which alone answers `Success`.
pub fn unmap_file<K: Kernel>(k: K, page: Low<Page>, checks: Checks) -> Unmap {
    let mapping: Low<Mapping> = Low::new(page.mapping(k));
    if !trylock_i_mmap(k, mapping) {
        k.probe(Probe::UnmapAgain);
        return Unmap::Again;
    }
    let mut result = Unmap::Again;
    let mut vmas = FileVmas::of_page(k, mapping, page.index(k));
    while let Some(vma) = vmas.next(k).get() {
        if unmap_one(k, page, vma, checks) == Unmap::Fail {
            result = Unmap::Fail;
            break;
        }
        if page.rmap(k) == 0 {
            break;
        }
    }
    if result != Unmap::Fail && page.rmap(k) != 0 {
        result = sweep(k, mapping, page);
    }
    unlock_i_mmap(k, mapping);
    result
}

/// Unmaps what nonlinear vmas show, by the rule of the boot parameter. `Success`: the page is accounted as no longer mapped.
#[inline(always)]
pub(super) fn sweep<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) -> Unmap {
    if mapping.i_mmap_nonlinear(k).is_empty(k) {
        Unmap::Again
    } else if objects(k).nonlinear(k) == 0 {
        sweep_nonlinear(k, mapping, page)
    } else {
        sweep_whole(k, mapping, page)
    }
}

#[inline(always)]
fn in_sweep<K: Kernel>(k: K, vma: Low<Vma>) -> bool {
    vma.flags(k) & (vm::LOCKED | vm::RESERVED) == 0
}

#[inline(always)]
fn vma_bytes<K: Kernel>(k: K, vma: Low<Vma>) -> u32 {
    vma.end(k).wrapping_sub(vma.start(k))
}

/// Nonlinear vmas cannot be asked where a page is: clusters of every one are unmapped, round-robin from their cursors
/// (`vma->private`), until as many ptes were dropped as the page has mappings. `Success`: the page happened to be among
/// them, and is accounted as no longer mapped.
fn sweep_nonlinear<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) -> Unmap {
    let head = mapping.i_mmap_nonlinear(k);
    let (mut max_cursor, mut max_size) = (0, 0);
    each(k, head, |vma| {
        if in_sweep(k, vma) {
            max_cursor = max_cursor.max(vma.private(k));
            max_size = max_size.max(vma_bytes(k, vma));
        }
        true
    });
    if max_size == 0 {
        k.probe(Probe::UnmapLocked);
        return Unmap::Fail;
    }
    let mut left = page.rmap(k);
    page::map_unlock(k, page);
    max_size = max_size.wrapping_add(CLUSTER_SIZE - 1) & !(CLUSTER_SIZE - 1);
    if max_cursor == 0 {
        max_cursor = CLUSTER_SIZE;
    }
    let mut enough = false;
    loop {
        each(k, head, |vma| {
            if in_sweep(k, vma) {
                let mut missed = false;
                let mut cursor = vma.private(k);
                while vma.mm(k).rss(k) != 0 && cursor < max_cursor && cursor < vma_bytes(k, vma) {
                    missed = !unmap_cluster(k, cursor, &mut left, vma);
                    if missed {
                        break;
                    }
                    cursor = cursor.wrapping_add(CLUSTER_SIZE);
                    vma.set_private(k, cursor);
                    if left == 0 {
                        enough = true;
                        return false;
                    }
                }
                // A vma whose lock was missed stays behind.
                if !missed {
                    vma.set_private(k, max_cursor);
                }
            }
            true
        });
        max_cursor = max_cursor.wrapping_add(CLUSTER_SIZE);
        if enough || max_cursor > max_size {
            break;
        }
    }
    if !enough {
        // All were scanned to their ends: start again at the beginning next time.
        each(k, head, |vma| {
            if vma.flags(k) & vm::RESERVED == 0 {
                vma.set_private(k, 0);
            }
            true
        });
    }
    page::map_lock(k, page);
    if page.rmap(k) == 0 {
        Unmap::Success
    } else {
        Unmap::Again
    }
}

/// 2.6.5-aa: vma after vma loses every pte that is not young, until the page has no mapping left. A locked vma ends it.
fn sweep_whole<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) -> Unmap {
    let mut result = Unmap::Again;
    page::map_unlock(k, page);
    each(k, mapping.i_mmap_nonlinear(k), |vma| {
        k.probe(Probe::VmaVisited);
        if !in_sweep(k, vma) {
            k.probe(Probe::UnmapLocked);
            result = Unmap::Fail;
            return false;
        }
        let lock = vma.mm(k).page_table_lock(k);
        if !lock.trylock(k) {
            k.probe(Probe::UnmapAgain);
            return true;
        }
        // Clusters are aligned to their size in the address, so the last may begin before the vma's last page.
        let first = vma.start(k) & (CLUSTER_SIZE - 1);
        let end = vma_bytes(k, vma).wrapping_add(first);
        let mut cursor = 0;
        // Counts ptes that were dropped; here nothing ends with a number of them.
        let mut left = u32::MAX;
        while cursor < end {
            drop_cluster(k, cursor, &mut left, vma);
            cursor = cursor.wrapping_add(CLUSTER_SIZE);
        }
        lock.unlock(k);
        page.rmap(k) != 0
    });
    page::map_lock(k, page);
    if page.rmap(k) == 0 {
        Unmap::Success
    } else {
        result
    }
}

pub(super) fn each<K: Kernel>(k: K, head: Low<ListHead>, mut f: impl FnMut(Low<Vma>) -> bool) {
    let mut at = head.next(k);
    while at != head {
        let next = at.next(k);
        if !f(at.container(SHARED)) {
            return;
        }
        at = next;
    }
}

/// try_to_unmap_cluster: up to 32 ptes of one nonlinear vma; false if its lock was missed.
fn unmap_cluster<K: Kernel>(k: K, cursor: u32, left: &mut u32, vma: Low<Vma>) -> bool {
    let mm = vma.mm(k);
    k.probe(Probe::VmaVisited);
    if !mm.page_table_lock(k).trylock(k) {
        k.probe(Probe::UnmapAgain);
        return false;
    }
    drop_cluster(k, cursor, left, vma);
    mm.page_table_lock(k).unlock(k);
    true
}

/// The ptes of one cluster; page_table_lock is held.
fn drop_cluster<K: Kernel>(k: K, cursor: u32, left: &mut u32, vma: Low<Vma>) {
    let mut addr = vma.start(k).wrapping_add(cursor) & !(CLUSTER_SIZE - 1);
    let mut end = addr.wrapping_add(CLUSTER_SIZE);
    if addr < vma.start(k) {
        addr = vma.start(k);
    }
    if end > vma.end(k) || end < addr {
        end = vma.end(k);
    }
    if addr >= end {
        return;
    }
    // A cluster is aligned to its size, so it lies in one page table: found once.
    let Some(mut pte) = pte_lookup(k, vma.mm(k), addr) else {
        return;
    };
    loop {
        k.probe(Probe::PteExamined);
        cluster_pte(k, vma, (pte, addr), left);
        addr += PAGE_SIZE;
        if addr >= end {
            break;
        }
        pte = pte.at(8);
    }
    pte_unmap(k, pte);
}

fn cluster_pte<K: Kernel>(k: K, vma: Low<Vma>, (pte, addr): (Kmapped, u32), left: &mut u32) {
    let entry = pte_get(k, pte);
    if !entry.present() || !pfn_valid(k, entry.pfn()) {
        return;
    }
    let page = pfn_to_page(k, entry.pfn());
    if page::test(k, page, pg::RESERVED) || clear_young(k, vma, (pte, addr)) {
        return;
    }
    let old = ptep_get_and_clear(k, pte);
    flush_tlb_page(k, vma, addr);
    k.probe(Probe::PteCleared);
    let pgoff = cluster::pgoff_of(k, page.index(k), old);
    if pgoff != cluster::linear_pgoff(k, vma, addr) {
        set_pte(k, pte, Pte::file(pgoff));
    }
    if old.dirty() {
        page::set_page_dirty(k, page);
    }
    mapcount::remove(k, page);
    page::put_page(k, page);
    let mm = vma.mm(k);
    mm.set_rss(k, mm.rss(k).wrapping_sub(1));
    *left = left.saturating_sub(1);
}
