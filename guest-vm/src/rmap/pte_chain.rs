//! pte_chains, the reverse map of 2.5.27-2.6.6 (mm/rmap.c of 2.6.0): a list of ptes for each page, anonymous and file pages alike.
//!
//! One mapping: page->rmap is the address of the pte itself (PG_direct). More: it heads a chain of cache-line sized blocks of a word
//! `next | index of the first used slot` and N = line/4 - 1 entries. From a pte's address its mm and user address follow through the
//! struct page of the page table (mapping = mm, index = base address; [`super::chained`]). An entry is 4 bytes, with HIGHPTE 8, and then struct
//! page is 4 bytes larger for the direct pte. The block size is a boot parameter where history compiled it in: one load more per
//! walk. PG_anon does not exist; an anonymous page is one without mapping.
//!
//! Invariant: only the head block has holes, at its low end; a chain of one entry stays a chain until page_referenced collapses it.

use super::{PteAt, ReverseMap, Unmap};
use crate::bug_on;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Page, Vma, pg};
use crate::objects::objects;
use crate::page;
use crate::page_alloc::Gfp;
use crate::percpu::{State, mod_page_state};
use crate::ptr::{Kmapped, Low};
use crate::rmap::chained::{
    self, PteAddr, each_pte_alike, entry_young, unmap_asserts, unmap_entry,
};
use crate::root;
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use lowmem_abi::probe::Probe;

/// A block: `next | idx`, then N entries; N + 1 is a power of two (3 entries of 8 bytes leave 4 of 32 unused), so the mask of the index is N. Constructed: all zero.
#[derive(Debug)]
pub enum PteChain {}

guest_struct! {
    /// The one-deep per-CPU cache in front of the slab (local_pte_chain).
    pub struct LocalChain [K] size 4;
    at 0 => word chain, set_chain: Low<PteChain>;
}

#[inline(always)]
fn local<K: Kernel>(k: K) -> Low<LocalChain> {
    root::part(k, root::PER_CPU_OBJECTS + 0x40)
}

/// NRPTE: entries of a block.
#[inline(always)]
pub fn nrpte<K: Kernel>(k: K) -> u32 {
    (objects(k).chain_line(k) >> PteAddr::shift(k)) - 1
}

impl Low<PteChain> {
    #[inline(always)]
    fn next_and_idx<K: Kernel>(self, k: K) -> u32 {
        self.field::<u32>(0).read(k)
    }
    #[inline(always)]
    fn set_next_and_idx<K: Kernel>(self, k: K, v: u32) {
        self.field::<u32>(0).write(k, v);
    }
    /// The next block.
    #[inline(always)]
    pub fn next<K: Kernel>(self, k: K, n: u32) -> Self {
        Low::new(self.next_and_idx(k) & !n)
    }
    /// Its first used slot.
    #[inline(always)]
    pub fn idx<K: Kernel>(self, k: K, n: u32) -> u32 {
        self.next_and_idx(k) & n
    }
    /// Where entry `i` lies.
    #[inline(always)]
    pub fn slot<K: Kernel>(self, k: K, i: u32) -> Low<u32> {
        self.field(4 + (i << PteAddr::shift(k)))
    }
    /// Entry `i`; none if free.
    #[inline(always)]
    pub fn entry<K: Kernel>(self, k: K, i: u32) -> PteAddr {
        PteAddr::read(k, self.slot(k, i))
    }
    #[inline(always)]
    fn set_entry<K: Kernel>(self, k: K, i: u32, v: PteAddr) {
        v.write(k, self.slot(k, i));
    }
}

/// pte_chain_alloc: the CPU's spare block, else one from slab.
fn alloc<K: Kernel>(k: K, gfp: Gfp) -> Result<Low<PteChain>, Oom> {
    let local = local(k);
    let spare = local.chain(k);
    if !spare.is_null() {
        local.set_chain(k, Low::NULL);
        return Ok(spare);
    }
    let new = kmem_cache_alloc(k, CacheId::PteChain, gfp)?;
    k.probe(Probe::ChainAllocated);
    Ok(new)
}

/// __pte_chain_free: entries are zero already; the block becomes the CPU's spare, the old spare goes to slab.
fn free<K: Kernel>(k: K, chain: Low<PteChain>) {
    let local = local(k);
    if chain.next_and_idx(k) != 0 {
        chain.set_next_and_idx(k, 0);
    }
    let old = local.chain(k);
    if !old.is_null() {
        k.probe(Probe::ChainFreed);
        kmem_cache_free(k, CacheId::PteChain, old);
    }
    local.set_chain(k, chain);
}

/// The chain's head block; only if the page is mapped and not direct.
#[inline(always)]
fn head<K: Kernel>(k: K, page: Low<Page>) -> Low<PteChain> {
    Low::new(page.rmap(k))
}

/// Whether a pte is recorded: page->pte.direct is not 0. A physical address may end in 32 zeros.
#[inline(always)]
pub(super) fn mapped<K: Kernel>(k: K, page: Low<Page>) -> bool {
    page.rmap(k) != 0 || k.highpte() && page.rmap_high(k) != 0
}

/// The one pte of a direct page.
#[inline(always)]
fn direct<K: Kernel>(k: K, page: Low<Page>) -> PteAddr {
    let high = if k.highpte() { page.rmap_high(k) } else { 0 };
    PteAddr::from_words(page.rmap(k), high)
}

#[inline(always)]
fn set_direct<K: Kernel>(k: K, page: Low<Page>, pte: PteAddr) {
    page.set_rmap(k, pte.low());
    if k.highpte() {
        page.set_rmap_high(k, pte.high());
    }
}

#[inline(always)]
fn set_head<K: Kernel>(k: K, page: Low<Page>, head: Low<PteChain>) {
    set_direct(k, page, PteAddr::from_words(head.va(), 0));
}

/// Calls `f` with each pte recorded for the page; for checks.
pub fn each_entry<K: Kernel>(k: K, page: Low<Page>, f: &mut dyn FnMut(PteAddr)) {
    if !mapped(k, page) {
        return;
    }
    if page::test(k, page, pg::DIRECT) {
        f(direct(k, page));
        return;
    }
    let n = nrpte(k);
    let mut chain = head(k, page);
    while !chain.is_null() {
        let mut i = chain.idx(k, n);
        while i < n {
            f(chain.entry(k, i));
            i += 1;
        }
        chain = chain.next(k, n);
    }
}

/// page_add_rmap.
pub(super) fn add<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped, spare: &mut Low<PteChain>) {
    if page::test(k, page, pg::RESERVED) || chained::group_has_other(k, page, pte) {
        return;
    }
    let pte = PteAddr::of(k, pte);
    page::map_lock(k, page);
    if !mapped(k, page) {
        set_direct(k, page, pte);
        page::set(k, page, pg::DIRECT);
        mod_page_state(k, State::NrMapped, 1);
    } else {
        let n = nrpte(k);
        if page::test(k, page, pg::DIRECT) {
            // A direct pointer becomes a block of two.
            page::clear(k, page, pg::DIRECT);
            let new = take(k, spare);
            new.set_entry(k, n - 1, direct(k, page));
            new.set_entry(k, n - 2, pte);
            new.set_next_and_idx(k, n - 2);
            set_head(k, page, new);
        } else {
            let first = head(k, page);
            if !first.entry(k, 0).is_none() {
                let new = take(k, spare);
                new.set_next_and_idx(k, first.va() | (n - 1));
                new.set_entry(k, n - 1, pte);
                set_head(k, page, new);
            } else {
                first.set_entry(k, first.idx(k, n) - 1, pte);
                first.set_next_and_idx(k, first.next_and_idx(k) - 1);
            }
        }
    }
    page::map_unlock(k, page);
}

#[inline(always)]
fn take<K: Kernel>(k: K, spare: &mut Low<PteChain>) -> Low<PteChain> {
    let new = *spare;
    bug_on!(k, PteChain, new.is_null());
    *spare = Low::NULL;
    new
}

/// Fills the hole at slot `i` of `chain` with the head's first used entry; frees a head that became empty. Returns the head.
fn fill_hole<K: Kernel>(k: K, page: Low<Page>, chain: Low<PteChain>, i: u32) -> Low<PteChain> {
    let n = nrpte(k);
    let first = head(k, page);
    let victim = first.idx(k, n);
    chain.set_entry(k, i, first.entry(k, victim));
    first.set_entry(k, victim, PteAddr::NONE);
    if victim == n - 1 {
        let next = first.next(k, n);
        set_head(k, page, next);
        free(k, first);
        return next;
    }
    first.set_next_and_idx(k, first.next_and_idx(k) + 1);
    first
}

/// page_remove_rmap: walks the chain until it finds the pte.
pub(super) fn remove_entry<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped) {
    if page::test(k, page, pg::RESERVED) || chained::group_has_other(k, page, pte) {
        return;
    }
    let pte = PteAddr::of(k, pte);
    page::map_lock(k, page);
    bug_on!(k, PteChain, !mapped(k, page), page.va());
    if page::test(k, page, pg::DIRECT) {
        bug_on!(k, PteChain, direct(k, page) != pte, page.va());
        set_direct(k, page, PteAddr::NONE);
        page::clear(k, page, pg::DIRECT);
    } else {
        let n = nrpte(k);
        let mut chain = head(k, page);
        'found: loop {
            bug_on!(k, PteChain, chain.is_null(), page.va());
            let mut i = chain.idx(k, n);
            while i < n {
                if chain.entry(k, i) == pte {
                    fill_hole(k, page, chain, i);
                    break 'found;
                }
                i += 1;
            }
            chain = chain.next(k, n);
        }
    }
    if !mapped(k, page) {
        mod_page_state(k, State::NrMapped, u32::MAX);
    }
    page::map_unlock(k, page);
}

/// A group is named as a whole: nothing changes.
#[inline(always)]
fn moved_within<K: Kernel>(_: K, _: Low<Page>, _: Kmapped, _: Kmapped) {}

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum PteChains {}

impl super::Scheme for PteChains {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::PteChain;
    type Map<K: Kernel> = Self;
}

impl<K: Kernel> ReverseMap<K> for PteChains {
    each_pte_alike!(K, Low<PteChain>);

    fn boot(k: K) -> Result<(), Oom> {
        boot(k);
        Ok(())
    }
    fn spare(k: K) -> Result<Low<PteChain>, Oom> {
        alloc(k, Gfp::Kernel)
    }
    fn spare_atomic(k: K) -> Result<Low<PteChain>, Oom> {
        alloc(k, Gfp::Atomic)
    }
    fn spare_free(k: K, spare: Low<PteChain>) {
        give_back(k, spare);
    }

    #[inline(always)]
    fn mapped(k: K, page: Low<Page>) -> bool {
        mapped(k, page)
    }
    #[cfg(not(target_os = "none"))]
    fn counted(k: K, _: Low<Page>, ptes: &[crate::check::Mapper]) -> u32 {
        chained::groups(k, ptes).len() as u32
    }
    fn mapcount(k: K, page: Low<Page>) -> u32 {
        count(k, page)
    }

    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        let referenced = page::test_and_clear(k, page, pg::REFERENCED) as u32;
        if !mapped(k, page) {
            return referenced;
        }
        referenced + chain_referenced(k, page)
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        unmap_asserts(k, page);
        bug_on!(k, PteChain, !mapped(k, page), page.va());
        let result = unmap_all(k, page);
        if mapped(k, page) {
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
        check_chain(k, page, ptes)
    }
}

/// No spare block yet.
pub(super) fn boot<K: Kernel>(k: K) {
    local(k).set_chain(k, Low::NULL);
}

/// pte_chain_free of a block that was not needed.
#[inline(always)]
pub(super) fn give_back<K: Kernel>(k: K, spare: Low<PteChain>) {
    if !spare.is_null() {
        free(k, spare);
    }
}

/// How many ptes are recorded for the page.
pub(super) fn count<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let mut n = 0;
    each_entry(k, page, &mut |_| n += 1);
    n
}

/// The ptes' half of page_referenced; a chain of one entry is collapsed.
pub(super) fn chain_referenced<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    if page::test(k, page, pg::DIRECT) {
        return entry_young(k, page, direct(k, page));
    }
    let n = nrpte(k);
    let mut referenced = 0;
    let mut entries = 0;
    let mut chain = head(k, page);
    while !chain.is_null() {
        // From the top slot down to the first empty one.
        let mut i = n;
        while i > 0 {
            let pte = chain.entry(k, i - 1);
            if pte.is_none() {
                break;
            }
            referenced += entry_young(k, page, pte);
            entries += 1;
            i -= 1;
        }
        chain = chain.next(k, n);
    }
    if entries == 1 {
        let only = head(k, page);
        set_direct(k, page, only.entry(k, n - 1));
        page::set(k, page, pg::DIRECT);
        only.set_entry(k, n - 1, PteAddr::NONE);
        free(k, only);
    }
    referenced
}

/// The ptes' half of try_to_unmap.
pub(super) fn unmap_all<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    if !page::test(k, page, pg::DIRECT) {
        return unmap_chain(k, page);
    }
    let result = unmap_entry(k, page, direct(k, page));
    if result == Unmap::Success {
        set_direct(k, page, PteAddr::NONE);
        page::clear(k, page, pg::DIRECT);
    }
    result
}

/// Every entry of the chain; each success leaves a hole that the head's first used entry fills. The head may be freed on the way, so the
/// next block is read before the current one is worked on.
fn unmap_chain<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    let n = nrpte(k);
    let mut result = Unmap::Success;
    let mut chain = head(k, page);
    while !chain.is_null() {
        let next = chain.next(k, n);
        let mut i = chain.idx(k, n);
        while i < n {
            match unmap_entry(k, page, chain.entry(k, i)) {
                Unmap::Success => {
                    fill_hole(k, page, chain, i);
                }
                Unmap::Again => result = Unmap::Again,
                Unmap::Fail => return Unmap::Fail,
            }
            i += 1;
        }
        chain = next;
    }
    result
}

/// The chain holds exactly these ptes, and only its head has holes, at the low end; direct means one.
#[cfg(not(target_os = "none"))]
pub(super) fn check_chain<K: Kernel>(
    k: K,
    page: Low<Page>,
    ptes: &[crate::check::Mapper],
) -> Result<(), (&'static str, u32)> {
    let direct = page::test(k, page, pg::DIRECT);
    if !mapped(k, page) || direct {
        if direct != mapped(k, page) {
            return Err(("direct flag without pte", page.flags(k)));
        }
    } else {
        check_blocks(k, head(k, page))?;
    }
    let mut entries = Vec::new();
    each_entry(k, page, &mut |pte| entries.push(pte));
    chained::check_entries(k, &entries, ptes)
}

#[cfg(not(target_os = "none"))]
fn check_blocks<K: Kernel>(k: K, first: Low<PteChain>) -> Result<(), (&'static str, u32)> {
    let n = nrpte(k);
    let mut chain = first;
    while !chain.is_null() {
        let idx = chain.idx(k, n);
        if chain != first && idx != 0 {
            return Err(("hole in a block behind the head", chain.va()));
        }
        if idx == n {
            return Err(("block without entries", chain.va()));
        }
        for i in 0..n {
            if chain.entry(k, i).is_none() == (i >= idx) {
                return Err(("hole not at the low end", chain.va()));
            }
        }
        chain = chain.next(k, n);
    }
    Ok(())
}
