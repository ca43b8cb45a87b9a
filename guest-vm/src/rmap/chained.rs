//! A pte as a chain names it: by its address, from which mm and user address follow (asm-generic/rmap.h of 2.6.0).
//!
//! The struct page of a page table of such a kernel knows its mm (mapping) and the first address it translates (index). Shared by
//! the chains of 2.6.0 ([`super::pte_chain`]), of January 2002 ([`super::pte_chain_v1`]), the doubly linked ones
//! ([`super::pte_chain_dl`]) and the anonymous half of [`super::objrmap`]. Order of checks: fact sheet, "try_to_unmap of one
//! candidate", column pte_chain 2.6.0.
//!
//! With HIGHPTE a page table has no address of its own: the name is the physical address of the pte, 8 bytes in a chain, and each entry
//! that is visited is mapped by kmap_atomic (KM_PTE2).
//!
//! Invariant: a page table that is in use knows its mm and base; one that is free knows nothing.

use super::Unmap;
use crate::bug_on;
use crate::kernel::Kernel;
use crate::kmap::{KmType, kmap_atomic, kmap_atomic_to_phys, kunmap_atomic};
use crate::layout::{Mm, Page, pg, vm};
use crate::mm::vma::find_vma;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{pfn_to_page, virt_to_page};
use crate::percpu::{State, mod_page_state};
use crate::pgtable::{Pte, ptep_get_and_clear, ptep_test_and_clear_young, set_pte};
use crate::ptr::{Kmapped, Low};
use crate::swap::{self, swap_duplicate};
use crate::tlb::flush_tlb_page;
use lowmem_abi::probe::Probe;

/// What a scheme does alike for every pte, of an anonymous or a file page: from its functions `add` and `remove_entry`.
macro_rules! each_pte_alike {
    ($K:ident, $Spare:ty) => {
        type Spare = $Spare;

        #[inline(always)]
        fn pte_page_init(k: $K, page: Low<Page>, mm: Low<crate::layout::Mm>, addr: u32) {
            $crate::rmap::chained::pte_page_init(k, page, mm, addr);
        }
        #[inline(always)]
        fn pte_page_exit(k: $K, page: Low<Page>) {
            $crate::rmap::chained::pte_page_exit(k, page);
        }
        fn add_anon(k: $K, page: Low<Page>, _: Low<Vma>, at: PteAt, spare: &mut $Spare) {
            add(k, page, at.pte, spare);
        }
        fn add_file(k: $K, page: Low<Page>, at: PteAt, spare: &mut $Spare) {
            add(k, page, at.pte, spare);
        }
        fn dup(k: $K, page: Low<Page>, child: PteAt, spare: &mut $Spare) {
            add(k, page, child.pte, spare);
        }
        fn remove(k: $K, page: Low<Page>, pte: Kmapped) {
            remove_entry(k, page, pte);
        }
        fn moved(k: $K, page: Low<Page>, old: PteAt, new: PteAt, spare: &mut $Spare) {
            remove_entry(k, page, old.pte);
            add(k, page, new.pte, spare);
        }
    };
}
pub(super) use each_pte_alike;

/// How a chain names a pte (pte_addr_t): its address in the direct map, or with HIGHPTE its physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PteAddr {
    low: u32,
    high: u32,
}

impl PteAddr {
    /// No pte.
    pub const NONE: Self = Self { low: 0, high: 0 };

    /// The name of a pte that is mapped at `pte` (ptep_to_paddr).
    #[inline(always)]
    pub fn of<K: Kernel>(k: K, pte: Kmapped) -> Self {
        if !k.highpte() {
            return Self::from_words(pte.0, 0);
        }
        let at = kmap_atomic_to_phys(k, pte);
        Self::from_words(at as u32, (at >> 32) as u32)
    }

    /// From its two words; the second is 0 without HIGHPTE.
    #[inline(always)]
    pub const fn from_words(low: u32, high: u32) -> Self {
        Self { low, high }
    }

    /// Its first word.
    #[inline(always)]
    pub const fn low(self) -> u32 {
        self.low
    }

    /// Its second word.
    #[inline(always)]
    pub const fn high(self) -> u32 {
        self.high
    }

    /// Whether it names no pte.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.low | self.high == 0
    }

    /// log2 of its bytes in memory.
    #[inline(always)]
    pub fn shift<K: Kernel>(k: K) -> u32 {
        if k.highpte() { 3 } else { 2 }
    }

    /// Reads one from low memory.
    #[inline(always)]
    pub fn read<K: Kernel>(k: K, at: Low<u32>) -> Self {
        let high = if k.highpte() {
            at.field::<u32>(4).read(k)
        } else {
            0
        };
        Self::from_words(at.read(k), high)
    }

    /// Writes one to low memory.
    #[inline(always)]
    pub fn write<K: Kernel>(self, k: K, at: Low<u32>) {
        at.write(k, self.low);
        if k.highpte() {
            at.field::<u32>(4).write(k, self.high);
        }
    }

    /// struct page of its page table.
    #[inline(always)]
    fn table<K: Kernel>(self, k: K) -> Low<Page> {
        if k.highpte() {
            pfn_to_page(k, (self.low >> 12) | (self.high << 20))
        } else {
            virt_to_page(k, self.low)
        }
    }

    /// Where the pte can be read and written until [`PteAddr::unmap`] (rmap_ptep_map).
    #[inline(always)]
    fn map<K: Kernel>(self, k: K) -> Kmapped {
        if k.highpte() {
            kmap_atomic(k, self.table(k), KmType::Pte2).at(self.low & 0xfff)
        } else {
            Kmapped(self.low)
        }
    }

    /// Ends it (rmap_ptep_unmap).
    #[inline(always)]
    fn unmap<K: Kernel>(self, k: K, at: Kmapped) {
        if k.highpte() {
            kunmap_atomic(k, at, KmType::Pte2);
        }
    }

    /// The mm whose page table holds the pte (ptep_to_mm).
    #[inline(always)]
    pub fn mm<K: Kernel>(self, k: K) -> Low<Mm> {
        Low::new(self.table(k).mapping(k))
    }

    /// The user address it translates (ptep_to_address): 8 bytes of pte are 4096 of address.
    #[inline(always)]
    pub fn address<K: Kernel>(self, k: K) -> u32 {
        self.table(k).index(k).wrapping_add((self.low & 0xfff) << 9)
    }

    /// Physical address of the pte; for checks.
    pub fn phys<K: Kernel>(self, k: K) -> u64 {
        if k.highpte() {
            u64::from(self.high) << 32 | u64::from(self.low)
        } else {
            u64::from(self.low.wrapping_sub(k.page_offset()))
        }
    }
}

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

/// Young test of one entry. The 2.6.8 flush (`young_flush`) needs the vma, which these schemes must look for.
pub fn entry_young<K: Kernel>(k: K, pte: PteAddr) -> u32 {
    k.probe(Probe::PteExamined);
    let at = pte.map(k);
    let young = ptep_test_and_clear_young(k, at);
    pte.unmap(k, at);
    if young && objects(k).young_flush(k) != 0 {
        let addr = pte.address(k);
        let vma = find_vma(k, pte.mm(k), addr);
        if !vma.is_null() {
            flush_tlb_page(k, vma, addr);
        }
    }
    young as u32
}

/// try_to_unmap_one of 2.6.0: no look at the young bit. `Success` leaves the entry to the caller, to be taken off the chain.
pub fn unmap_entry<K: Kernel>(k: K, page: Low<Page>, pte: PteAddr) -> Unmap {
    k.probe(Probe::PteExamined);
    let at = pte.map(k);
    let result = unmap_mapped(k, page, pte, at);
    pte.unmap(k, at);
    result
}

#[inline(always)]
fn unmap_mapped<K: Kernel>(k: K, page: Low<Page>, pte: PteAddr, at: Kmapped) -> Unmap {
    let mm = pte.mm(k);
    let addr = pte.address(k);
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
    let old = ptep_get_and_clear(k, at);
    flush_tlb_page(k, vma, addr);
    k.probe(Probe::PteCleared);
    if page::swap_cached(k, page) {
        let entry = swap::entry_of(k, page);
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
}

/// The end of a try_to_unmap of chains that left no entry.
#[inline(always)]
pub fn unmapped<K: Kernel>(k: K) -> Unmap {
    mod_page_state(k, State::NrMapped, u32::MAX);
    k.probe(Probe::PageUnmapped);
    Unmap::Success
}

/// The entries of a page are exactly the ptes of the scan, each in a page table that knows its mm and base.
#[cfg(not(target_os = "none"))]
pub fn check_entries<K: Kernel>(
    k: K,
    entries: &[PteAddr],
    ptes: &[crate::check::Mapper],
) -> Result<(), (&'static str, u32)> {
    let mut named: Vec<u64> = entries.iter().map(|e| e.phys(k)).collect();
    named.sort_unstable();
    let mut scan: Vec<u64> = ptes.iter().map(|m| m.pte_pa).collect();
    scan.sort_unstable();
    if named != scan {
        return Err((
            "chain entries are not the ptes of the scan",
            entries.len() as u32,
        ));
    }
    for m in ptes {
        let table = pfn_to_page(k, (m.pte_pa >> 12) as u32);
        let addr = table.index(k).wrapping_add((m.pte_pa as u32 & 0xfff) << 9);
        if table.mapping(k) != m.mm || addr != m.addr {
            return Err(("pte page does not know its mm and base", m.pte_pa as u32));
        }
    }
    Ok(())
}
