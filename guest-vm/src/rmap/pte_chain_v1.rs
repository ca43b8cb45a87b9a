//! pte_chains as they were first (January 2002, rmap patches for 2.4; in 2.5.27-2.5.35): a list element of 8 bytes for every mapping.
//!
//! An element is `next` and the address of the pte; page->rmap heads the list, also for a page with one mapping (PG_direct is later).
//! Elements come from one free list behind its own lock, which takes a whole page when it is empty and never gives one back.
//! What one pte is found by is as in 2.6.0 ([`super::chained`]). Differences: the first code panicked when it found no memory under
//! the page's lock; here an element is taken in advance, as later kernels did, so that want of memory is an error. The layout
//! is recalled, not read: pointer and next are all that 8 bytes hold. Pte pages lie in low memory: HIGHPTE came later.
//!
//! Invariant: an element is on the free list, in exactly one page's list, or somebody's spare.

use super::chained::{self, PteAddr, each_pte_alike, entry_young, unmap_asserts, unmap_entry};
use super::{PteAt, ReverseMap, Unmap};
use crate::bug_on;
use crate::cluster;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Page, Vma, pg};
use crate::page;
use crate::page_alloc::{Gfp, alloc_pages, page_address};
use crate::percpu::{State, mod_page_state};
use crate::ptr::{Kmapped, Low};
use crate::root;
use crate::sync::SpinLock;
use lowmem_abi::owner::Owner;
use lowmem_abi::probe::Probe;

guest_struct! {
    /// pte_chain of then: one pte.
    pub struct Element [K] size 8;
    at 0 => word next, set_next: Low<Element>;
    at 4 => word pte, set_pte: u32;
}

guest_struct! {
    /// pte_chain_freelist and its lock.
    pub struct FreeList [K] size 8;
    at 0 => part lock: SpinLock;
    at 4 => word head, set_head: Low<Element>;
}

#[inline(always)]
fn free_list<K: Kernel>(k: K) -> Low<FreeList> {
    root::part(k, root::PER_CPU_OBJECTS + 0x48)
}

/// pte_chain_alloc: the head of the free list; an empty one is refilled by a page.
fn alloc<K: Kernel>(k: K, gfp: Gfp) -> Result<Low<Element>, Oom> {
    let list = free_list(k);
    list.lock(k).lock(k);
    if list.head(k).is_null() {
        list.lock(k).unlock(k);
        let page = match k.lend(0, Owner::PteChain) {
            Some(page) => page,
            None => alloc_pages(k, gfp, 0, Owner::PteChain)?,
        };
        list.lock(k).lock(k);
        refill(k, list, page);
    }
    let element = list.head(k);
    list.set_head(k, element.next(k));
    list.lock(k).unlock(k);
    k.probe(Probe::ChainAllocated);
    Ok(element)
}

/// alloc_new_pte_chains: 512 elements.
#[cold]
fn refill<K: Kernel>(k: K, list: Low<FreeList>, page: Low<Page>) {
    let va = page_address(k, page).unwrap_or(0);
    bug_on!(k, PteChainV1, va == 0, page.va());
    let mut at = 0;
    while at < cluster::page_bytes(k) {
        let element: Low<Element> = Low::new(va.wrapping_add(at));
        element.set_pte(k, 0);
        element.set_next(k, list.head(k));
        list.set_head(k, element);
        at += 8;
    }
}

/// pte_chain_free.
fn free<K: Kernel>(k: K, element: Low<Element>) {
    let list = free_list(k);
    element.set_pte(k, 0);
    list.lock(k).lock(k);
    element.set_next(k, list.head(k));
    list.set_head(k, element);
    list.lock(k).unlock(k);
    k.probe(Probe::ChainFreed);
}

#[inline(always)]
fn head<K: Kernel>(k: K, page: Low<Page>) -> Low<Element> {
    Low::new(page.rmap(k))
}

/// Calls `f` with the address of each pte recorded for the page; for checks.
pub fn each_entry<K: Kernel>(k: K, page: Low<Page>, f: &mut dyn FnMut(PteAddr)) {
    let mut at = head(k, page);
    while !at.is_null() {
        f(PteAddr::from_words(at.pte(k), 0));
        at = at.next(k);
    }
}

/// Elements on the free list; for checks.
pub fn free_elements<K: Kernel>(k: K) -> u32 {
    let mut n = 0;
    let mut at = free_list(k).head(k);
    while !at.is_null() {
        n += 1;
        at = at.next(k);
    }
    n
}

/// page_add_rmap.
fn add<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped, spare: &mut Low<Element>) {
    if page::test(k, page, pg::RESERVED) || chained::group_has_other(k, page, pte) {
        return;
    }
    let element = *spare;
    bug_on!(k, PteChainV1, element.is_null(), page.va());
    *spare = Low::NULL;
    page::map_lock(k, page);
    let first = head(k, page);
    element.set_pte(k, PteAddr::of(k, pte).low());
    element.set_next(k, first);
    page.set_rmap(k, element.va());
    if first.is_null() {
        mod_page_state(k, State::NrMapped, 1);
    }
    page::map_unlock(k, page);
}

/// Takes `element`, which follows `prev` (null: it is the head), out of the page's list.
#[inline(always)]
fn unlink<K: Kernel>(k: K, page: Low<Page>, prev: Low<Element>, element: Low<Element>) {
    let next = element.next(k);
    if prev.is_null() {
        page.set_rmap(k, next.va());
    } else {
        prev.set_next(k, next);
    }
    free(k, element);
}

/// page_remove_rmap: walks the list until it finds the pte.
fn remove_entry<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped) {
    if page::test(k, page, pg::RESERVED) || chained::group_has_other(k, page, pte) {
        return;
    }
    page::map_lock(k, page);
    let name = PteAddr::of(k, pte).low();
    let mut prev: Low<Element> = Low::NULL;
    let mut at = head(k, page);
    loop {
        bug_on!(k, PteChainV1, at.is_null(), page.va());
        if at.pte(k) == name {
            break;
        }
        prev = at;
        at = at.next(k);
    }
    unlink(k, page, prev, at);
    if page.rmap(k) == 0 {
        mod_page_state(k, State::NrMapped, u32::MAX);
    }
    page::map_unlock(k, page);
}

/// A group is named as a whole: nothing changes.
#[inline(always)]
fn moved_within<K: Kernel>(_: K, _: Low<Page>, _: Kmapped, _: Kmapped) {}

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum SingleChains {}

impl super::Scheme for SingleChains {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::PteChainV1;
    type Map<K: Kernel> = Self;
}

impl<K: Kernel> ReverseMap<K> for SingleChains {
    each_pte_alike!(K, Low<Element>);

    fn boot(k: K) -> Result<(), Oom> {
        free_list(k).lock(k).init(k);
        free_list(k).set_head(k, Low::NULL);
        Ok(())
    }
    fn spare(k: K) -> Result<Low<Element>, Oom> {
        alloc(k, Gfp::Kernel)
    }
    fn spare_atomic(k: K) -> Result<Low<Element>, Oom> {
        alloc(k, Gfp::Atomic)
    }
    fn spare_free(k: K, spare: Low<Element>) {
        if !spare.is_null() {
            free(k, spare);
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
        let mut at = head(k, page);
        while !at.is_null() {
            referenced += entry_young(k, page, PteAddr::from_words(at.pte(k), 0));
            at = at.next(k);
        }
        referenced
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        unmap_asserts(k, page);
        bug_on!(k, PteChainV1, page.rmap(k) == 0, page.va());
        let mut result = Unmap::Success;
        let mut prev: Low<Element> = Low::NULL;
        let mut at = head(k, page);
        while !at.is_null() {
            let next = at.next(k);
            match unmap_entry(k, page, PteAddr::from_words(at.pte(k), 0)) {
                Unmap::Success => unlink(k, page, prev, at),
                Unmap::Again => {
                    result = Unmap::Again;
                    prev = at;
                }
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
        let mut entries = Vec::new();
        each_entry(k, page, &mut |pte| entries.push(pte));
        chained::check_entries(k, &entries, ptes)
    }
}
