//! The request for comment of 10 March 2004: a page points directly at its vma until fork. A paper design.
//!
//! Andrea Arcangeli's first anon_vma needed no anon_vma at all for a process that never forks: page->mapping is the vma itself, and a
//! flag says so. He withdrew it two days later, because splitting a vma leaves the pages of one half pointing at
//! the wrong vma. Here it is made sound: whoever changes hands is walked. fork gives a vma with anonymous pages an anon_vma, with both
//! vmas on it, and turns each page to it while copying; a COW copy is direct again, and so is a page that is swapped
//! in by the first of several. A direct page that a second process swaps in turns to the anon_vma. split, merge, a boundary
//! shifted by mprotect, and mremap point direct pages at their new vma: O(pages of the range), the reason the design was dropped.
//!
//! The vma has the 12 bytes of 2.6.7; value 1 of its anon_vma word says that direct pages may point to it. The flag is bit 16 of
//! page->flags, as in pte_chain kernels. Checks before unmapping are 2.6.7's. File pages go through i_mmap.
//!
//! Invariant: a direct page is mapped exactly once, in the vma it points to; the vmas of every process that shares pages by fork have one
//! anon_vma.

use super::anon_vma::{self, AnonVma, join, part};
use super::object::{self, Checks};
use super::{Adjust, Move, PteAt, ReverseMap, Unmap, anon_page_at, mapcount};
use crate::bug_on;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Page, Vma, pg};
use crate::page;
use crate::page_alloc::Gfp;
use crate::percpu::{State, mod_page_state};
use crate::pgtable::{pte_lookup, pte_unmap};
use crate::ptr::{Kmapped, Low};
use crate::slab::{CacheId, kmem_cache_alloc};
use lowmem_abi::layout::PAGE_SIZE;
use lowmem_abi::probe::Probe;

/// The anon_vma word of a vma that has direct pages and no anon_vma.
const DIRECT_ONLY: Low<AnonVma> = Low::new(1);
/// Bytes one page table covers.
const PMD_SIZE: u32 = 1 << 21;

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum AnonVmaRfc {}

impl super::Scheme for AnonVmaRfc {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::AnonVmaRfc;
    type Map<K: Kernel> = Self;
}

/// The vma's anon_vma, or null.
#[inline(always)]
pub fn of_vma<K: Kernel>(k: K, vma: Low<Vma>) -> Low<AnonVma> {
    let word = part(k, vma).anon_vma(k);
    if word == DIRECT_ONLY { Low::NULL } else { word }
}

/// Whether pages may be found through this vma: directly or by its anon_vma.
#[inline(always)]
fn marked<K: Kernel>(k: K, vma: Low<Vma>) -> bool {
    !part(k, vma).anon_vma(k).is_null()
}

#[inline(always)]
fn is_direct<K: Kernel>(k: K, page: Low<Page>) -> bool {
    page::test(k, page, pg::DIRECT)
}

/// The vma of a direct page.
#[inline(always)]
fn direct_vma<K: Kernel>(k: K, page: Low<Page>) -> Low<Vma> {
    Low::new(page.mapping(k))
}

/// A direct page is about to be mapped a second time: it goes over to the anon_vma of its vma. The bit lock is held.
fn share<K: Kernel>(k: K, page: Low<Page>) -> Low<AnonVma> {
    let anon_vma = of_vma(k, direct_vma(k, page));
    bug_on!(k, AnonVmaRfc, anon_vma.is_null(), page.va());
    page::clear(k, page, pg::DIRECT);
    page.set_mapping(k, anon_vma.va());
    anon_vma
}

/// Points a page that is direct to another vma, if it is.
fn repoint<K: Kernel>(k: K, page: Low<Page>, to: Low<Vma>) {
    if page.is_null() {
        return;
    }
    page::map_lock(k, page);
    if is_direct(k, page) {
        page.set_mapping(k, to.va());
    }
    page::map_unlock(k, page);
}

/// Direct pages of `start..end` change hands: their ptes are walked.
fn repoint_range<K: Kernel>(k: K, to: Low<Vma>, start: u32, end: u32) {
    let mm = to.mm(k);
    mm.page_table_lock(k).lock(k);
    let mut addr = start;
    while addr < end {
        let mut stop = (addr & !(PMD_SIZE - 1)).wrapping_add(PMD_SIZE);
        if stop > end || stop < addr {
            stop = end;
        }
        if let Some(first) = pte_lookup(k, mm, addr) {
            let mut at = first;
            loop {
                repoint(k, anon_page_at(k, at), to);
                addr += PAGE_SIZE;
                if addr >= stop {
                    break;
                }
                at = at.at(8);
            }
            pte_unmap(k, at);
        }
        addr = stop;
    }
    mm.page_table_lock(k).unlock(k);
}

/// page_referenced_anon: a direct page's one vma, or the list.
fn referenced_anon<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    if !is_direct(k, page) {
        return anon_vma::referenced_anon(k, page);
    }
    let mut left = 1;
    object::referenced_one(k, page, direct_vma(k, page), &mut left)
}

/// try_to_unmap_anon.
fn unmap_anon<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    if !is_direct(k, page) {
        return anon_vma::unmap_anon(k, page);
    }
    match object::unmap_one(k, page, direct_vma(k, page), Checks::V2_6_7) {
        Unmap::Fail => Unmap::Fail,
        Unmap::Success | Unmap::Again => Unmap::Again,
    }
}

/// The last mapping of a page went; the bit lock is held.
fn last_gone<K: Kernel>(k: K, page: Low<Page>) {
    if is_direct(k, page) {
        page::clear(k, page, pg::DIRECT);
    }
    mapcount::last_gone(k, page);
}

impl<K: Kernel> ReverseMap<K> for AnonVmaRfc {
    type Spare = ();

    #[inline(always)]
    fn vma_bytes(_: K) -> u32 {
        12
    }
    #[inline(always)]
    fn cache_bytes(_: K, id: CacheId) -> Option<u32> {
        match id {
            CacheId::AnonVma => Some(12),
            _ => None,
        }
    }

    #[inline(always)]
    fn vma_init(k: K, vma: Low<Vma>) {
        part(k, vma).set_anon_vma(k, Low::NULL);
    }
    #[inline(always)]
    fn prepare_anon(k: K, vma: Low<Vma>) -> Result<(), Oom> {
        if !marked(k, vma) {
            part(k, vma).set_anon_vma(k, DIRECT_ONLY);
        }
        Ok(())
    }

    /// fork: the parent's vma gets its anon_vma, if it has direct pages.
    fn vma_prepare_copy(k: K, parent: Low<Vma>, child: Low<Vma>) -> Result<(), Oom> {
        if parent.mm(k) == child.mm(k) || part(k, parent).anon_vma(k) != DIRECT_ONLY {
            return Ok(());
        }
        let new: Low<AnonVma> = kmem_cache_alloc(k, CacheId::AnonVma, Gfp::Kernel)?;
        k.probe(Probe::AnonVmaAllocated);
        new.lock(k).lock(k);
        join(k, parent, new);
        new.lock(k).unlock(k);
        part(k, child).set_anon_vma(k, new);
        Ok(())
    }
    #[inline(always)]
    fn vma_forked(k: K, _: Low<Vma>, child: Low<Vma>) {
        anon_vma::link_copy(k, child, of_vma(k, child));
    }
    #[inline(always)]
    fn vma_gone(k: K, vma: Low<Vma>) {
        anon_vma::unlink(k, vma, of_vma(k, vma));
    }
    #[inline(always)]
    fn mergeable(k: K, a: Low<Vma>, b: Low<Vma>) -> bool {
        anon_vma::compatible(of_vma(k, a), of_vma(k, b))
    }
    #[inline(always)]
    fn pgoff_bound(k: K, vma: Low<Vma>) -> bool {
        marked(k, vma)
    }

    fn adopt(k: K, vma: Low<Vma>, from: Low<Vma>) -> Result<(), Oom> {
        let anon_vma = of_vma(k, from);
        if !anon_vma.is_null() && of_vma(k, vma).is_null() {
            anon_vma.lock(k).lock(k);
            join(k, vma, anon_vma);
            anon_vma.lock(k).unlock(k);
        } else if marked(k, from) && !marked(k, vma) {
            part(k, vma).set_anon_vma(k, DIRECT_ONLY);
        }
        Ok(())
    }

    fn adjust_begin(k: K, a: &Adjust) -> Result<(), Oom> {
        if a.next.is_null() && a.insert.is_null() && a.start == a.vma.start(k) {
            return Ok(());
        }
        let lock = anon_vma::adjust_lock(k, a, of_vma);
        if !lock.is_null() {
            lock.lock(k).lock(k);
        }
        if !a.insert.is_null() {
            if marked(k, a.vma) {
                repoint_range(k, a.insert, a.insert.start(k), a.insert.end(k));
            }
            return Ok(());
        }
        if a.next.is_null() {
            return Ok(());
        }
        let (importer, exporter, from, to) = if a.swallow {
            (a.vma, a.next, a.next.start(k), a.next.end(k))
        } else if a.end > a.vma.end(k) {
            (a.vma, a.next, a.vma.end(k), a.end)
        } else {
            (a.next, a.vma, a.end, a.vma.end(k))
        };
        if of_vma(k, importer).is_null() && !lock.is_null() {
            anon_vma::import(k, a, importer, lock);
        } else if marked(k, exporter) && !marked(k, importer) {
            part(k, importer).set_anon_vma(k, DIRECT_ONLY);
        }
        if marked(k, exporter) {
            repoint_range(k, importer, from, to);
        }
        Ok(())
    }

    #[inline(always)]
    fn adjust_end(k: K, a: &Adjust) {
        anon_vma::adjust_end(k, a, of_vma);
    }

    fn add_anon(k: K, page: Low<Page>, vma: Low<Vma>, at: PteAt, (): &mut ()) {
        let index = page::linear_page_index(k, vma, at.addr);
        page::map_lock(k, page);
        let count = page.rmap(k);
        if count == 0 {
            bug_on!(k, AnonVmaRfc, page.mapping(k) != 0, page.va());
            bug_on!(k, AnonVmaRfc, !marked(k, vma), vma.va());
            page::set(k, page, pg::ANON);
            page::set(k, page, pg::DIRECT);
            page.set_index(k, index);
            page.set_mapping(k, vma.va());
            mod_page_state(k, State::NrMapped, 1);
        } else {
            bug_on!(k, AnonVmaRfc, page.index(k) != index, page.va());
            let shared = if is_direct(k, page) {
                share(k, page)
            } else {
                Low::new(page.mapping(k))
            };
            bug_on!(k, AnonVmaRfc, of_vma(k, vma) != shared, page.va());
        }
        page.set_rmap(k, count + 1);
        page::map_unlock(k, page);
    }

    fn dup(k: K, page: Low<Page>, _: PteAt, (): &mut ()) {
        page::map_lock(k, page);
        if is_direct(k, page) {
            share(k, page);
        }
        page.set_rmap(k, page.rmap(k) + 1);
        page::map_unlock(k, page);
    }

    fn remove(k: K, page: Low<Page>, _: Kmapped) {
        mapcount::remove_then(k, page, last_gone);
    }

    fn moving(k: K, from: Kmapped, vma: Low<Vma>, _: u32) -> Move {
        repoint(k, anon_page_at(k, from), vma);
        Move::Go
    }

    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        object::page_referenced(k, page, referenced_anon)
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        object::try_to_unmap(k, page, Checks::V2_6_7, unmap_anon, last_gone)
    }

    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        ptes: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)> {
        if ptes.is_empty() && is_direct(k, page) {
            return Err(("direct flag on an unmapped page", page.flags(k)));
        }
        object::check::check_page(k, page, ptes, || check_anon_page(k, page, ptes))
    }
    #[cfg(not(target_os = "none"))]
    fn check_mapping(k: K, page: Low<Page>, vma: Low<Vma>, addr: u32) -> Result<(), &'static str> {
        if !page::test(k, page, pg::ANON) {
            return Ok(());
        }
        if is_direct(k, page) && direct_vma(k, page) != vma {
            return Err("direct page points at another vma");
        }
        if !is_direct(k, page) && of_vma(k, vma).va() != page.mapping(k) {
            return Err("page of another anon_vma than its vma's");
        }
        if !object::check::shows(k, page, vma, addr) {
            return Err("anonymous page not at its index");
        }
        Ok(())
    }
    #[cfg(not(target_os = "none"))]
    fn check_vma(k: K, vma: Low<Vma>) -> Result<(), &'static str> {
        anon_vma::check_listed(k, vma, of_vma(k, vma))
    }
}

/// A direct page has one pte, in the vma it points to and at its index; another is on the list of its anon_vma.
#[cfg(not(target_os = "none"))]
fn check_anon_page<K: Kernel>(
    k: K,
    page: Low<Page>,
    ptes: &[crate::check::Mapper],
) -> Result<(), (&'static str, u32)> {
    if !is_direct(k, page) {
        return anon_vma::check_anon_page(k, page, ptes);
    }
    let [pte] = ptes else {
        return Err(("direct page mapped more than once", ptes.len() as u32));
    };
    let mut real = Low::NULL;
    crate::check::each_vma(k, Low::new(pte.mm), |vma| {
        if vma.start(k) <= pte.addr && pte.addr < vma.end(k) {
            real = vma;
        }
    });
    if real != direct_vma(k, page) {
        return Err(("direct page points at another vma", pte.addr));
    }
    if !object::check::shows(k, page, real, pte.addr) {
        return Err(("direct page not at its index", pte.addr));
    }
    Ok(())
}
