//! Doubly linked pte_chains: removal without a walk, which the second article of the series wishes for. A paper design: no kernel
//! had it.
//!
//! Removing a pte from a singly linked chain means searching it, because nothing leads from the pte to its element. Here every
//! page-table page has a *shadow* page, whose 8 bytes at the same offset are the pte's element: `next` and `prev`. pte and
//! element find each other by address alone (page->private of either page leads to the other), so an element holds no pointer to its
//! pte, and adding needs no memory: the shadow page is made with the page table. Price: 4 KB of low memory for every page table,
//! however few of its ptes are used (owner pte_chain), where chains pay 4.1 to 10.7 bytes a mapping. The alternative of one block of two
//! pages for both would spare a load and need blocks of two pages for ever. With HIGHPTE the page table goes to high memory, its shadow
//! stays: a list in high memory would map a page for every link.
//!
//! Of a clustered page a group of ptes has one element, that of the first of them that maps the page (several pages may be mapped in a
//! group): the shadow is as large as the page table and used in part.
//!
//! Invariant: page->rmap is the first element; an element is on the list of the page that its pte maps; first.prev is null.

use super::chained::{self, PteAddr, each_pte_alike, entry_young, unmap_asserts, unmap_entry};
use super::{PteAt, ReverseMap, Unmap};
use crate::bug_on;
use crate::cluster;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::kmap::kmap_atomic_to_phys;
use crate::layout::{Page, Vma, pg};
use crate::page;
use crate::page_alloc::{
    Gfp, alloc_pages, free_pages, page_address, page_to_pfn, pfn_to_page, virt_to_page,
};
use crate::percpu::{State, mod_page_state};
use crate::ptr::{Kmapped, Low};
use lowmem_abi::owner::Owner;
use lowmem_abi::probe::Probe;

guest_struct! {
    /// What the shadow page holds for a pte.
    pub struct Link [K] size 8;
    at 0 => word next, set_next: Low<Link>;
    at 4 => word prev, set_prev: Low<Link>;
}

/// The element of a pte: in the shadow page of its page table, at the same offset.
#[inline(always)]
fn link_of<K: Kernel>(k: K, pte: Kmapped) -> Low<Link> {
    let table = if k.highpte() {
        pfn_to_page(k, (kmap_atomic_to_phys(k, pte) >> 12) as u32)
    } else {
        virt_to_page(k, pte.0)
    };
    Low::new(table.private(k) + (pte.0 & (cluster::page_bytes(k) - 1)))
}

/// The pte of an element; of a clustered page its group.
#[inline(always)]
fn pte_of<K: Kernel>(k: K, link: Low<Link>) -> PteAddr {
    let twin = virt_to_page(k, link.va()).private(k);
    let offset = link.va() & (cluster::page_bytes(k) - 1);
    let mask = chained::group_mask(k);
    if k.highpte() {
        PteAddr::from_words(((twin << 12) + offset) & mask, twin >> 20)
    } else {
        PteAddr::from_words((twin + offset) & mask, 0)
    }
}

#[inline(always)]
fn first<K: Kernel>(k: K, page: Low<Page>) -> Low<Link> {
    Low::new(page.rmap(k))
}

/// Calls `f` with the address of each pte recorded for the page; for checks.
pub fn each_entry<K: Kernel>(k: K, page: Low<Page>, f: &mut dyn FnMut(PteAddr)) {
    let mut at = first(k, page);
    while !at.is_null() {
        f(pte_of(k, at));
        at = at.next(k);
    }
}

/// To the head of the list; the bit lock is held.
fn add<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped, (): &mut ()) {
    if page::test(k, page, pg::RESERVED) {
        return;
    }
    if let Some(first) = chained::first_other(k, page, pte) {
        if pte.0 < first.0 {
            page::map_lock(k, page);
            relink(k, page, link_of(k, first), link_of(k, pte));
            page::map_unlock(k, page);
        }
        return;
    }
    let link = link_of(k, pte);
    page::map_lock(k, page);
    let old = first(k, page);
    link.set_prev(k, Low::NULL);
    link.set_next(k, old);
    if old.is_null() {
        mod_page_state(k, State::NrMapped, 1);
    } else {
        old.set_prev(k, link);
    }
    page.set_rmap(k, link.va());
    page::map_unlock(k, page);
}

#[inline(always)]
fn unlink<K: Kernel>(k: K, page: Low<Page>, link: Low<Link>) {
    let (next, prev) = (link.next(k), link.prev(k));
    if !next.is_null() {
        next.set_prev(k, prev);
    }
    if prev.is_null() {
        bug_on!(k, PteChainDl, page.rmap(k) != link.va(), page.va());
        page.set_rmap(k, next.va());
    } else {
        prev.set_next(k, next);
    }
}

/// Puts `to` into `from`'s place: the group has another first pte now.
fn relink<K: Kernel>(k: K, page: Low<Page>, from: Low<Link>, to: Low<Link>) {
    let (next, prev) = (from.next(k), from.prev(k));
    to.set_next(k, next);
    to.set_prev(k, prev);
    if !next.is_null() {
        next.set_prev(k, to);
    }
    if prev.is_null() {
        bug_on!(k, PteChainDl, page.rmap(k) != from.va(), page.va());
        page.set_rmap(k, to.va());
    } else {
        prev.set_next(k, to);
    }
}

fn remove_entry<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped) {
    if page::test(k, page, pg::RESERVED) {
        return;
    }
    if let Some(first) = chained::first_other(k, page, pte) {
        if pte.0 < first.0 {
            page::map_lock(k, page);
            relink(k, page, link_of(k, pte), link_of(k, first));
            page::map_unlock(k, page);
        }
        return;
    }
    page::map_lock(k, page);
    unlink(k, page, link_of(k, pte));
    if page.rmap(k) == 0 {
        mod_page_state(k, State::NrMapped, u32::MAX);
    }
    page::map_unlock(k, page);
}

/// A pte was moved inside its group: the element stands at the first that maps the page.
fn moved_within<K: Kernel>(k: K, page: Low<Page>, old: Kmapped, new: Kmapped) {
    let offset = |pte: Kmapped| pte.0 & 0xfff;
    let before = |a: Kmapped, b: Kmapped| if offset(a) < offset(b) { a } else { b };
    let (mut from, mut to) = (old, new);
    if let Some(other) = chained::first_other(k, page, new) {
        from = before(old, other);
        to = before(new, other);
    }
    if offset(from) != offset(to) && !page::test(k, page, pg::RESERVED) {
        page::map_lock(k, page);
        relink(k, page, link_of(k, from), link_of(k, to));
        page::map_unlock(k, page);
    }
}

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum DoubleChains {}

impl super::Scheme for DoubleChains {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::PteChainDl;
    type Map<K: Kernel> = Self;
}

impl<K: Kernel> ReverseMap<K> for DoubleChains {
    each_pte_alike!(K, ());

    fn pte_page_alloc(k: K, page: Low<Page>) -> Result<(), Oom> {
        let shadow = match k.lend(0, Owner::PteChain) {
            Some(page) => page,
            None => alloc_pages(k, Gfp::Kernel, 0, Owner::PteChain)?,
        };
        let links = page_address(k, shadow).unwrap_or(0);
        bug_on!(k, PteChainDl, links == 0, page.va());
        let twin = if k.highpte() {
            page_to_pfn(k, page)
        } else {
            page_address(k, page).unwrap_or(0)
        };
        page.set_private(k, links);
        shadow.set_private(k, twin);
        k.probe(Probe::ChainAllocated);
        Ok(())
    }
    fn pte_page_free(k: K, page: Low<Page>) {
        let shadow = virt_to_page(k, page.private(k));
        page.set_private(k, 0);
        shadow.set_private(k, 0);
        k.probe(Probe::ChainFreed);
        if !k.take_back(shadow) {
            free_pages(k, shadow, 0);
        }
    }

    #[cfg(not(target_os = "none"))]
    fn counted(k: K, _: Low<Page>, ptes: &[crate::check::Mapper]) -> u32 {
        chained::groups(k, ptes).len() as u32
    }
    fn mapcount(k: K, page: Low<Page>) -> u32 {
        let mut n = 0;
        each_entry(k, page, &mut |_| n += 1);
        n
    }

    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        let mut referenced = page::test_and_clear(k, page, pg::REFERENCED) as u32;
        let mut at = first(k, page);
        while !at.is_null() {
            referenced += entry_young(k, page, pte_of(k, at));
            at = at.next(k);
        }
        referenced
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        unmap_asserts(k, page);
        bug_on!(k, PteChainDl, page.rmap(k) == 0, page.va());
        let mut result = Unmap::Success;
        let mut at = first(k, page);
        while !at.is_null() {
            let next = at.next(k);
            match unmap_entry(k, page, pte_of(k, at)) {
                Unmap::Success => unlink(k, page, at),
                Unmap::Again => result = Unmap::Again,
                Unmap::Fail => return Unmap::Fail,
            }
            at = next;
        }
        if page.rmap(k) != 0 {
            return result;
        }
        chained::unmapped(k)
    }

    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        ptes: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)> {
        let mut prev = Low::NULL;
        let mut at = first(k, page);
        while !at.is_null() {
            if at.prev(k) != prev {
                return Err(("element's prev", at.va()));
            }
            let table = pfn_to_page(k, (pte_of(k, at).phys(k) >> 12) as u32);
            if table.private(k) != at.va() & !(cluster::page_bytes(k) - 1) {
                return Err(("shadow page of another page table", at.va()));
            }
            prev = at;
            at = at.next(k);
        }
        let mut entries = Vec::new();
        each_entry(k, page, &mut |pte| entries.push(pte));
        chained::check_entries(k, &entries, ptes)
    }
}
