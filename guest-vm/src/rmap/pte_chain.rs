//! pte_chains, the reverse map of 2.5.27-2.6.6 (mm/rmap.c of 2.6.0): a list of ptes for each page, anonymous and file pages alike.
//!
//! One mapping: page->rmap is the address of the pte itself (PG_direct). More: it heads a chain of cache-line sized blocks of a word
//! `next | index of the first used slot` and N = line/4 - 1 entries. From a pte's address its mm and user address follow through the
//! struct page of the page table (mapping = mm, index = base address). Low pte pages, so an entry is 4 bytes. The block
//! size is a boot parameter where history compiled it in: one load more per walk. PG_anon does not exist; an
//! anonymous page is one without mapping.
//!
//! Invariant: only the head block has holes, at its low end; a chain of one entry stays a chain until page_referenced collapses it.

use super::{Adjust, PteAt, ReverseMap, Unmap};
use crate::bug_on;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Page, Vma, pg, vm};
use crate::mm::vma::find_vma;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{Gfp, virt_to_page};
use crate::percpu::{State, mod_page_state};
use crate::pgtable::{Pte, ptep_get_and_clear, ptep_test_and_clear_young, set_pte};
use crate::ptr::{Kmapped, Low};
use crate::root;
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::swap::{SwapEntry, swap_duplicate};
use crate::tlb::flush_tlb_page;
use lowmem_abi::probe::Probe;

/// A block: `next | idx`, then N entries; N + 1 is a power of two, so the mask of the index is N. Constructed: all zero.
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
    (objects(k).chain_line(k) >> 2) - 1
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
    /// Entry `i`: address of a pte, 0 if free.
    #[inline(always)]
    pub fn entry<K: Kernel>(self, k: K, i: u32) -> u32 {
        self.field::<u32>(4 + i * 4).read(k)
    }
    #[inline(always)]
    fn set_entry<K: Kernel>(self, k: K, i: u32, v: u32) {
        self.field::<u32>(4 + i * 4).write(k, v);
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

/// The mm whose page table holds the pte (ptep_to_mm).
#[inline(always)]
fn mm_of<K: Kernel>(k: K, pte: u32) -> Low<Mm> {
    Low::new(virt_to_page(k, pte).mapping(k))
}

/// The user address it translates (ptep_to_address): 8 bytes of pte are 4096 of address.
#[inline(always)]
fn address_of<K: Kernel>(k: K, pte: u32) -> u32 {
    virt_to_page(k, pte)
        .index(k)
        .wrapping_add((pte & 0xfff) << 9)
}

/// The chain's head block; only if the page is mapped and not direct.
#[inline(always)]
fn head<K: Kernel>(k: K, page: Low<Page>) -> Low<PteChain> {
    Low::new(page.rmap(k))
}

/// Calls `f` with the address of each pte recorded for the page; for checks.
pub fn each_entry<K: Kernel>(k: K, page: Low<Page>, f: &mut dyn FnMut(u32)) {
    if page.rmap(k) == 0 {
        return;
    }
    if page::test(k, page, pg::DIRECT) {
        f(page.rmap(k));
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
fn add<K: Kernel>(k: K, page: Low<Page>, pte: u32, spare: &mut Low<PteChain>) {
    if page::test(k, page, pg::RESERVED) {
        return;
    }
    page::map_lock(k, page);
    let rmap = page.rmap(k);
    if rmap == 0 {
        page.set_rmap(k, pte);
        page::set(k, page, pg::DIRECT);
        mod_page_state(k, State::NrMapped, 1);
    } else {
        let n = nrpte(k);
        if page::test(k, page, pg::DIRECT) {
            // A direct pointer becomes a block of two.
            page::clear(k, page, pg::DIRECT);
            let new = take(k, spare);
            new.set_entry(k, n - 1, rmap);
            new.set_entry(k, n - 2, pte);
            new.set_next_and_idx(k, n - 2);
            page.set_rmap(k, new.va());
        } else {
            let first = head(k, page);
            if first.entry(k, 0) != 0 {
                let new = take(k, spare);
                new.set_next_and_idx(k, first.va() | (n - 1));
                new.set_entry(k, n - 1, pte);
                page.set_rmap(k, new.va());
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
    first.set_entry(k, victim, 0);
    if victim == n - 1 {
        let next = first.next(k, n);
        page.set_rmap(k, next.va());
        free(k, first);
        return next;
    }
    first.set_next_and_idx(k, first.next_and_idx(k) + 1);
    first
}

/// page_remove_rmap: walks the chain until it finds the pte.
fn remove_entry<K: Kernel>(k: K, page: Low<Page>, pte: u32) {
    if page::test(k, page, pg::RESERVED) {
        return;
    }
    page::map_lock(k, page);
    let rmap = page.rmap(k);
    bug_on!(k, PteChain, rmap == 0, page.va());
    if page::test(k, page, pg::DIRECT) {
        bug_on!(k, PteChain, rmap != pte, page.va());
        page.set_rmap(k, 0);
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
    if page.rmap(k) == 0 {
        mod_page_state(k, State::NrMapped, u32::MAX);
    }
    page::map_unlock(k, page);
}

/// Young test of one entry. The 2.6.8 flush (`young_flush`) needs the vma, which this scheme must look for.
fn entry_young<K: Kernel>(k: K, pte: u32) -> u32 {
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

/// try_to_unmap_one of 2.6.0: no look at the young bit.
fn unmap_one<K: Kernel>(k: K, page: Low<Page>, pte: u32) -> Unmap {
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

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum PteChains {}

impl super::Scheme for PteChains {
    type Map<K: Kernel> = Self;
}

impl<K: Kernel> ReverseMap<K> for PteChains {
    #[inline(always)]
    fn vma_bytes(_: K) -> u32 {
        0
    }
    #[inline(always)]
    fn mm_bytes(_: K) -> u32 {
        0
    }
    type Spare = Low<PteChain>;

    fn boot(k: K) -> Result<(), Oom> {
        local(k).set_chain(k, Low::NULL);
        Ok(())
    }
    fn spare(k: K) -> Result<Low<PteChain>, Oom> {
        alloc(k, Gfp::Kernel)
    }
    fn spare_atomic(k: K) -> Result<Low<PteChain>, Oom> {
        alloc(k, Gfp::Atomic)
    }
    fn spare_free(k: K, spare: Low<PteChain>) {
        if !spare.is_null() {
            free(k, spare);
        }
    }

    #[inline(always)]
    fn vma_init(_: K, _: Low<Vma>) {}
    #[inline(always)]
    fn prepare_anon(_: K, _: Low<Vma>) -> Result<(), Oom> {
        Ok(())
    }
    #[inline(always)]
    fn vma_forked(_: K, _: Low<Vma>, _: Low<Vma>) {}
    #[inline(always)]
    fn vma_gone(_: K, _: Low<Vma>) {}
    #[inline(always)]
    fn mergeable(_: K, _: Low<Vma>, _: Low<Vma>) -> bool {
        true
    }
    #[inline(always)]
    fn adjust_begin(_: K, _: &Adjust) -> Result<(), Oom> {
        Ok(())
    }
    #[inline(always)]
    fn adjust_end(_: K, _: &Adjust) {}
    #[inline(always)]
    fn mm_init(_: K, _: Low<Mm>, _: Low<Mm>) -> Result<(), Oom> {
        Ok(())
    }
    #[inline(always)]
    fn mm_gone(_: K, _: Low<Mm>) {}

    #[inline(always)]
    fn pte_page_init(k: K, page: Low<Page>, mm: Low<Mm>, addr: u32) {
        page.set_mapping(k, mm.va());
        page.set_index(k, addr & !0x1f_ffff);
    }
    #[inline(always)]
    fn pte_page_exit(k: K, page: Low<Page>) {
        page.set_mapping(k, 0);
        page.set_index(k, 0);
    }

    fn add_anon(k: K, page: Low<Page>, _: Low<Vma>, at: PteAt, spare: &mut Low<PteChain>) {
        add(k, page, at.pte.0, spare);
    }
    fn add_file(k: K, page: Low<Page>, at: PteAt, spare: &mut Low<PteChain>) {
        add(k, page, at.pte.0, spare);
    }
    fn dup(k: K, page: Low<Page>, child: PteAt, spare: &mut Low<PteChain>) {
        add(k, page, child.pte.0, spare);
    }
    #[inline(always)]
    fn spare_used(_: K, spare: &Low<PteChain>) -> bool {
        spare.is_null()
    }
    fn remove(k: K, page: Low<Page>, pte: Kmapped) {
        remove_entry(k, page, pte.0);
    }
    fn moved(k: K, page: Low<Page>, old: PteAt, new: PteAt, spare: &mut Low<PteChain>) {
        remove_entry(k, page, old.pte.0);
        add(k, page, new.pte.0, spare);
    }

    #[inline(always)]
    fn mapped(k: K, page: Low<Page>) -> bool {
        page.rmap(k) != 0
    }
    fn mapcount(k: K, page: Low<Page>) -> u32 {
        let mut n = 0;
        each_entry(k, page, &mut |_| n += 1);
        n
    }

    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        let mut referenced = page::test_and_clear(k, page, pg::REFERENCED) as u32;
        let rmap = page.rmap(k);
        if rmap == 0 {
            return referenced;
        }
        if page::test(k, page, pg::DIRECT) {
            return referenced + entry_young(k, rmap);
        }
        let n = nrpte(k);
        let mut entries = 0;
        let mut chain = head(k, page);
        while !chain.is_null() {
            // From the top slot down to the first empty one.
            let mut i = n;
            while i > 0 {
                let pte = chain.entry(k, i - 1);
                if pte == 0 {
                    break;
                }
                referenced += entry_young(k, pte);
                entries += 1;
                i -= 1;
            }
            chain = chain.next(k, n);
        }
        if entries == 1 {
            let only = head(k, page);
            page.set_rmap(k, only.entry(k, n - 1));
            page::set(k, page, pg::DIRECT);
            only.set_entry(k, n - 1, 0);
            free(k, only);
        }
        referenced
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
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
        let result = if page::test(k, page, pg::DIRECT) {
            let r = unmap_one(k, page, page.rmap(k));
            if r == Unmap::Success {
                page.set_rmap(k, 0);
                page::clear(k, page, pg::DIRECT);
            }
            r
        } else {
            unmap_chain(k, page)
        };
        if page.rmap(k) != 0 {
            return result;
        }
        mod_page_state(k, State::NrMapped, u32::MAX);
        k.probe(Probe::PageUnmapped);
        Unmap::Success
    }

    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        ptes: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)> {
        let mut entries = Vec::new();
        each_entry(k, page, &mut |pte| entries.push(pte));
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
        let direct = page::test(k, page, pg::DIRECT);
        if page.rmap(k) == 0 || direct {
            return if direct == (ptes.len() == 1) {
                Ok(())
            } else {
                Err(("direct flag", page.flags(k)))
            };
        }
        let n = nrpte(k);
        let mut chain = head(k, page);
        while !chain.is_null() {
            let idx = chain.idx(k, n);
            if chain != head(k, page) && idx != 0 {
                return Err(("hole in a block behind the head", chain.va()));
            }
            for i in 0..n {
                if (chain.entry(k, i) != 0) != (i >= idx) {
                    return Err(("hole not at the low end", chain.va()));
                }
            }
            chain = chain.next(k, n);
        }
        Ok(())
    }
    #[cfg(not(target_os = "none"))]
    fn check_vma(_: K, _: Low<Vma>) -> Result<(), &'static str> {
        Ok(())
    }
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
            match unmap_one(k, page, chain.entry(k, i)) {
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
