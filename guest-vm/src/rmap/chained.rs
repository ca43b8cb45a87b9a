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
use crate::cluster::{self, maps};
use crate::kernel::Kernel;
use crate::kmap::{KmType, kmap_atomic, kmap_atomic_to_phys, kunmap_atomic};
use crate::layout::{Mm, Page, Vma, pg, vm};
use crate::mm::vma::find_vma;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{pfn_to_page, virt_to_page};
use crate::percpu::{State, mod_page_state};
use crate::pgtable::{Pte, ptep_get_and_clear, ptep_test_and_clear_young, set_pte};
use crate::ptr::{Kmapped, Low};
use crate::swap::{self, swap_duplicate};
use crate::tlb::flush_tlb_page;
use lowmem_abi::layout::PAGE_SHIFT;
use lowmem_abi::probe::Probe;

/// What a scheme does alike for every pte, of an anonymous or a file page: from its functions `add`, `remove_entry` and `moved_within` (a
/// group).
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
            if $crate::rmap::chained::same_group(k, old.pte, new.pte) {
                moved_within(k, page, old.pte, new.pte);
                return;
            }
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

    /// The name of a pte that is mapped at `pte` (ptep_to_paddr); of a clustered page the name of its group.
    #[inline(always)]
    pub fn of<K: Kernel>(k: K, pte: Kmapped) -> Self {
        let mask = group_mask(k);
        if !k.highpte() {
            return Self::from_words(pte.0 & mask, 0);
        }
        let at = kmap_atomic_to_phys(k, pte);
        Self::from_words(at as u32 & mask, (at >> 32) as u32)
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
            kmap_atomic(k, self.table(k), KmType::Pte2).at(self.low & (cluster::page_bytes(k) - 1))
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
        let offset = self.low & (cluster::page_bytes(k) - 1);
        self.table(k).index(k).wrapping_add(offset << 9)
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

/// Bits of a pte's address that name its group: N consecutive ptes, aligned. A chain has one entry for a page and a group in which any
/// pte maps it, as pgcl had one for a kernel page; a pte that is no group of its own keeps all its bits.
#[inline(always)]
pub fn group_mask<K: Kernel>(k: K) -> u32 {
    !(8 * cluster::mmu_count(k) - 8)
}

/// Whether two ptes of a clustered kernel are in one group: the entry stays.
#[inline(always)]
pub fn same_group<K: Kernel>(k: K, a: Kmapped, b: Kmapped) -> bool {
    cluster::clustered(k) && PteAddr::of(k, a) == PteAddr::of(k, b)
}

/// Whether a pte of the group other than that at `pte` maps the page, so that the chain has an entry for the group already, or
/// needs it still.
#[inline(always)]
pub fn group_has_other<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped) -> bool {
    first_other(k, page, pte).is_some()
}

/// The first such pte.
#[inline(always)]
pub fn first_other<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped) -> Option<Kmapped> {
    if !cluster::clustered(k) {
        return None;
    }
    let first = pte.0 & group_mask(k);
    let mut i = 0;
    while i < cluster::mmu_count(k) {
        let at = Kmapped(first + i * 8);
        if at != pte && maps(k, at, page) {
            return Some(at);
        }
        i += 1;
    }
    None
}

/// How many entries a chain has for these ptes.
#[cfg(not(target_os = "none"))]
pub fn groups<K: Kernel>(k: K, ptes: &[crate::check::Mapper]) -> Vec<u64> {
    let bytes = 8 * u64::from(cluster::mmu_count(k));
    let mut groups: Vec<u64> = ptes.iter().map(|m| m.pte_pa & !(bytes - 1)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Young test of one entry. The 2.6.8 flush (`young_flush`) needs the vma, which these schemes must look for.
pub fn entry_young<K: Kernel>(k: K, page: Low<Page>, pte: PteAddr) -> u32 {
    k.probe(Probe::PteExamined);
    let at = pte.map(k);
    if cluster::clustered(k) {
        let young = group_young(k, page, pte, at);
        pte.unmap(k, at);
        return young;
    }
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

/// The young ptes of a group.
fn group_young<K: Kernel>(k: K, page: Low<Page>, group: PteAddr, at: Kmapped) -> u32 {
    let (mut young, mut i) = (0, 0);
    while i < cluster::mmu_count(k) {
        let pte = at.at(i * 8);
        if maps(k, pte, page) && ptep_test_and_clear_young(k, pte) {
            young += 1;
            let addr = group.address(k).wrapping_add(i << PAGE_SHIFT);
            let vma = if objects(k).young_flush(k) != 0 {
                find_vma(k, group.mm(k), addr)
            } else {
                Low::NULL
            };
            if !vma.is_null() {
                flush_tlb_page(k, vma, addr);
            }
        }
        i += 1;
    }
    young
}

/// try_to_unmap_one of 2.6.0: no look at the young bit. `Success` leaves the entry to the caller, to be taken off the chain.
pub fn unmap_entry<K: Kernel>(k: K, page: Low<Page>, pte: PteAddr) -> Unmap {
    k.probe(Probe::PteExamined);
    let at = pte.map(k);
    let result = if cluster::clustered(k) {
        unmap_group(k, page, pte, at)
    } else {
        unmap_mapped(k, page, pte, at)
    };
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
    clear_entry(k, page, (mm, vma), (at, addr));
    lock.unlock(k);
    Unmap::Success
}

/// All ptes of a group that map the page, whatever vmas they are in; if one of these is locked, none.
fn unmap_group<K: Kernel>(k: K, page: Low<Page>, group: PteAddr, at: Kmapped) -> Unmap {
    let mm = group.mm(k);
    let first = group.address(k);
    let lock = mm.page_table_lock(k);
    if !lock.trylock(k) {
        k.probe(Probe::UnmapAgain);
        return Unmap::Again;
    }
    for clear in [false, true] {
        let mut i = 0;
        while i < cluster::mmu_count(k) {
            let (pte, addr) = (at.at(i * 8), first.wrapping_add(i << PAGE_SHIFT));
            i += 1;
            if !maps(k, pte, page) {
                continue;
            }
            let vma = find_vma(k, mm, addr);
            let locked = !vma.is_null() && vma.flags(k) & vm::LOCKED != 0;
            if locked {
                k.probe(Probe::UnmapLocked);
            }
            if vma.is_null() || locked {
                lock.unlock(k);
                return Unmap::Fail;
            }
            k.probe(Probe::VmaVisited);
            if clear {
                clear_entry(k, page, (mm, vma), (pte, addr));
            }
        }
    }
    lock.unlock(k);
    Unmap::Success
}

/// The end of one pte; page_table_lock is held.
#[inline(always)]
fn clear_entry<K: Kernel>(
    k: K,
    page: Low<Page>,
    (mm, vma): (Low<Mm>, Low<Vma>),
    (at, addr): (Kmapped, u32),
) {
    let old = ptep_get_and_clear(k, at);
    flush_tlb_page(k, vma, addr);
    k.probe(Probe::PteCleared);
    if page::swap_cached(k, page) {
        let entry = swap::entry_of(k, page);
        bug_on!(k, PteChain, !swap_duplicate(k, entry), entry.0);
        set_pte(k, at, entry.to_pte(cluster::sub_of(k, old.pfn())));
    } else if cluster::pgoff_of(k, page.index(k), old) != cluster::linear_pgoff(k, vma, addr) {
        // Found through a nonlinear mapping: only the pte remembers which page it was.
        set_pte(k, at, Pte::file(cluster::pgoff_of(k, page.index(k), old)));
    }
    if old.dirty() {
        page::set_page_dirty(k, page);
    }
    mm.set_rss(k, mm.rss(k).wrapping_sub(1));
    page::put_page(k, page);
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
    if named != groups(k, ptes) {
        return Err((
            "chain entries are not the ptes of the scan",
            entries.len() as u32,
        ));
    }
    for m in ptes {
        let table = pfn_to_page(k, (m.pte_pa >> 12) as u32);
        let offset = m.pte_pa as u32 & (cluster::page_bytes(k) - 1);
        let addr = table.index(k).wrapping_add(offset << 9);
        if table.mapping(k) != m.mm || addr != m.addr {
            return Err(("pte page does not know its mm and base", m.pte_pa as u32));
        }
    }
    Ok(())
}
