//! PAE page tables (asm-i386/pgtable-3level.h, arch/i386/mm/pgtable.c; fact sheets "PAE pte primitives" and "Page tables: birth
//! and death").
//!
//! A pgd is a 32-byte slab object whose user slots get their page directories at once; page directories are constructed
//! zero and must be zero again when freed; a page table is a plain page, cleared when made. Kernel and directory entries are
//! made with Accessed and Dirty set, so that hardware writes only user ptes. Leaves out: highpte (page tables are in low
//! memory), hugetlb.
//!
//! Invariant: a page table exists exactly where its directory entry is present; munmap leaves empty ones behind until exit.

use crate::arch::arch;
use crate::cluster;
use crate::kernel::{Kernel, Oom};
use crate::kmap::{KmType, kmap_atomic, kunmap_atomic};
use crate::layout::{Mm, Page, Pgd, Vma, vm};
use crate::page_alloc::{Gfp, alloc_pages, free_pages, page_to_pfn, pfn_to_page};
use crate::percpu::{State, mod_page_state};
use crate::ptr::{Kmapped, Low};
use crate::rmap::ReverseMap;
use crate::slab::{self, CacheId};
use crate::tlb;
use lowmem_abi::layout::PAGE_SIZE;
use lowmem_abi::owner::Owner;

/// Present.
pub const PRESENT: u32 = 0x001;
/// Writable.
pub const RW: u32 = 0x002;
/// Reachable from ring 3.
pub const USER: u32 = 0x004;
/// Accessed: bit number for [`Kernel::pte_test_and_clear_bit`].
pub const ACCESSED_BIT: u32 = 5;
/// Accessed.
pub const ACCESSED: u32 = 0x020;
/// Dirty.
pub const DIRTY: u32 = 0x040;
/// Large page, in a pmd entry.
pub const PSE: u32 = 0x080;
/// Present for the kernel, not for the MMU (PROT_NONE).
pub const PROTNONE: u32 = 0x080;
/// Global.
pub const GLOBAL: u32 = 0x100;
/// A page-directory entry that names a page table (_PAGE_TABLE).
pub const TABLE: u32 = PRESENT | RW | USER | ACCESSED | DIRTY;
/// Not present and this bit: a file pte (nonlinear vma), page offset in the high word.
pub const FILE: u32 = 0x040;

/// A page-table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pte(pub u64);

/// Low word of a new entry's rights (a `pgprot_t`): see [`prot_of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prot(pub u32);

impl Pte {
    /// No entry.
    pub const NONE: Self = Self(0);
    /// Entry for a frame (mk_pte).
    #[inline(always)]
    pub const fn new(pfn: u32, prot: Prot) -> Self {
        Self(((pfn as u64) << 12) | prot.0 as u64)
    }
    /// Low word.
    #[inline(always)]
    pub const fn low(self) -> u32 {
        self.0 as u32
    }
    /// High word.
    #[inline(always)]
    pub const fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// Whether it is empty (pte_none).
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.low() == 0 && self.high() == 0
    }
    /// Present or PROT_NONE (pte_present).
    #[inline(always)]
    pub const fn present(self) -> bool {
        self.low() & (PRESENT | PROTNONE) != 0
    }
    /// Frame of a present entry (pte_pfn).
    #[inline(always)]
    pub const fn pfn(self) -> u32 {
        (self.low() >> 12) | (self.high() << 20)
    }
    /// Writable.
    #[inline(always)]
    pub const fn write(self) -> bool {
        self.low() & RW != 0
    }
    /// Dirty.
    #[inline(always)]
    pub const fn dirty(self) -> bool {
        self.low() & DIRTY != 0
    }
    /// Accessed.
    #[inline(always)]
    pub const fn young(self) -> bool {
        self.low() & ACCESSED != 0
    }
    /// With these bits of the low word set.
    #[inline(always)]
    pub const fn with(self, bits: u32) -> Self {
        Self(self.0 | bits as u64)
    }
    /// Without these bits of the low word.
    #[inline(always)]
    pub const fn without(self, bits: u32) -> Self {
        Self(self.0 & !(bits as u64))
    }
    /// Not present, non-zero and a file pte (ask only when not present).
    #[inline(always)]
    pub const fn is_file(self) -> bool {
        self.low() & FILE != 0
    }
    /// File pte for a page offset (pgoff_to_pte).
    #[inline(always)]
    pub const fn file(pgoff: u32) -> Self {
        Self(((pgoff as u64) << 32) | FILE as u64)
    }
    /// Page offset of a file pte.
    #[inline(always)]
    pub const fn file_pgoff(self) -> u32 {
        self.high()
    }
    /// Same frame, A and D, new rights (pte_modify).
    #[inline(always)]
    pub const fn modify(self, prot: Prot) -> Self {
        Self((self.0 & (0xffff_ffff_ffff_f000 | (ACCESSED | DIRTY) as u64)) | prot.0 as u64)
    }
}

/// Rights of a vma's pages (protection_map of mm/mmap.c, with the i386 values).
#[inline(always)]
pub const fn prot_of(vm_flags: u32) -> Prot {
    let access = vm_flags & (vm::READ | vm::WRITE | vm::EXEC);
    if access == 0 {
        return Prot(PROTNONE | ACCESSED);
    }
    if vm_flags & vm::SHARED != 0 && vm_flags & vm::WRITE != 0 {
        return Prot(PRESENT | RW | USER | ACCESSED);
    }
    Prot(PRESENT | USER | ACCESSED)
}

/// Entry for sub-page `sub` of `page` with `prot` (mk_pte).
#[inline(always)]
pub fn mk_pte_sub<K: Kernel>(k: K, page: Low<Page>, sub: u32, prot: Prot) -> Pte {
    Pte::new(page_to_pfn(k, page) + sub, prot)
}

/// Entry for a page of one frame.
#[inline(always)]
pub fn mk_pte<K: Kernel>(k: K, page: Low<Page>, prot: Prot) -> Pte {
    mk_pte_sub(k, page, 0, prot)
}

/// First address that is not a user's (TASK_SIZE): PAGE_OFFSET, or the shared 16 MB of 4G/4G.
#[inline(always)]
pub fn task_size<K: Kernel>(k: K) -> u32 {
    if k.two_tables() {
        0xff00_0000
    } else {
        k.page_offset()
    }
}

/// User page directories of a process: one for each GB below PAGE_OFFSET, or 4 of 4G/4G, the last with the shared top entries.
#[inline(always)]
fn user_pmds<K: Kernel>(k: K) -> u32 {
    if k.two_tables() {
        4
    } else {
        k.page_offset() >> 30
    }
}

/// Entries of the last 4G/4G directory that a process has for itself; the rest is the shared top 16 MB.
const TOP_PRIVATE: u32 = 504;

/// Constructor of slab "pgd": only the kernel's slots are ever the same (3G/1G: one page directory).
pub(crate) fn pgd_ctor<K: Kernel>(k: K, pgd: Low<Pgd>) {
    let mut i = 0;
    while i < 8 {
        pgd.set_half(k, i, 0);
        i += 1;
    }
    if !k.two_tables() {
        let mut slot = user_pmds(k);
        while slot < 4 {
            pgd.set_half(k, slot * 2, arch(k).swapper(k, slot * 2));
            slot += 1;
        }
    }
}

/// Constructor of slab "kpmd": zero but for the entries of the shared top 16 MB.
pub(crate) fn kpmd_ctor<K: Kernel>(k: K, pmd: u32) {
    k.clear_page(Kmapped(pmd));
    let top = arch(k).top_pmd(k);
    let mut i = TOP_PRIVATE * 8;
    while i < PAGE_SIZE {
        let word: Low<u32> = Low::new(top.wrapping_add(i));
        Low::<u32>::new(pmd.wrapping_add(i)).write(k, word.read(k));
        i += 4;
    }
}

/// Slab of the page directory of slot `i`.
const fn pmd_cache(i: u32) -> CacheId {
    if i == 3 { CacheId::Kpmd } else { CacheId::Pmd }
}

/// Direct-map address of the page directory of pgd slot `i` (0 when absent).
#[inline(always)]
fn pmd_page<K: Kernel>(k: K, pgd: Low<Pgd>, i: u32) -> u32 {
    k.page_offset().wrapping_add(pgd.half(k, i * 2) & !0xfff)
}

/// Makes mm's page directories; sets mm->pgd. A pgd entry carries Present only (PAE).
pub fn pgd_alloc<K: Kernel>(k: K, mm: Low<Mm>) -> Result<(), Oom> {
    let pgd: Low<Pgd> = slab::kmem_cache_alloc(k, CacheId::Pgd, Gfp::Kernel)?;
    let mut i = 0;
    while i < user_pmds(k) {
        match slab::kmem_cache_alloc::<K, u32>(k, pmd_cache(i), Gfp::Kernel) {
            Ok(pmd) => {
                let pa = pmd.va().wrapping_sub(k.page_offset());
                k.pte_set_64(Kmapped(pgd.va() + i * 8), u64::from(pa | PRESENT));
            }
            Err(oom) => {
                free_pmds(k, pgd, i);
                slab::kmem_cache_free(k, CacheId::Pgd, pgd);
                return Err(oom);
            }
        }
        i += 1;
    }
    mm.set_pgd(k, pgd);
    Ok(())
}

/// Gives the first `n` page directories back, all of whose entries are clear again.
fn free_pmds<K: Kernel>(k: K, pgd: Low<Pgd>, n: u32) {
    let mut i = 0;
    while i < n {
        let pmd: Low<u32> = Low::new(pmd_page(k, pgd, i));
        // The constructed state of "pgd": no user directory.
        pgd.set_half(k, i * 2, 0);
        slab::kmem_cache_free(k, pmd_cache(i), pmd);
        i += 1;
    }
}

/// Frees mm's page directories, whose page tables are gone.
pub fn pgd_free<K: Kernel>(k: K, mm: Low<Mm>) {
    let pgd = mm.pgd(k);
    free_pmds(k, pgd, user_pmds(k));
    slab::kmem_cache_free(k, CacheId::Pgd, pgd);
    mm.set_pgd(k, Low::NULL);
}

/// Direct-map address of `addr`'s page-directory entry (pmd_offset of pgd_offset).
#[inline(always)]
pub fn pmd_offset<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Low<u32> {
    let pmd = pmd_page(k, mm.pgd(k), addr >> 30);
    Low::new(pmd + ((addr >> 21) & 511) * 8)
}

/// Frame of the table that the page-directory entry at `pmd` names. A high one needs the upper word, too.
#[inline(always)]
fn pmd_pfn<K: Kernel>(k: K, pmd: Low<u32>) -> u32 {
    let low = pmd.read(k) >> 12;
    if k.highpte() {
        low | pmd.field::<u32>(4).read(k) << 20
    } else {
        low
    }
}

/// Which atomic slot shows a pte page in high memory (KM_PTE0, KM_PTE1); the same place without HIGHPTE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// pte_offset_map.
    First,
    /// pte_offset_map_nested: while another table is shown.
    Nested,
}

/// Address of `addr`'s pte in the table that the page-directory entry at `pmd` names: in the direct map, or in the slot that
/// shows the table now.
#[inline(always)]
fn pte_offset<K: Kernel>(k: K, pmd: Low<u32>, addr: u32, shown: Shown) -> Kmapped {
    let offset = ((addr >> 12) & 511) * 8;
    if k.highpte() {
        let slot = match shown {
            Shown::First => KmType::Pte0,
            Shown::Nested => KmType::Pte1,
        };
        let table = pmd_pfn(k, pmd);
        let sub = cluster::sub_of(k, table) << 12;
        kmap_atomic(k, pfn_to_page(k, table), slot).at(sub + offset)
    } else {
        let table = k.page_offset().wrapping_add(pmd.read(k) & !0xfff);
        Kmapped(table + offset)
    }
}

/// The pte of `addr`, its table made if missing (page_table_lock held; dropped and retaken around the allocation).
#[inline]
pub fn pte_alloc_map<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Result<Kmapped, Oom> {
    let pmd = pmd_offset(k, mm, addr);
    if pmd.read(k) & PRESENT == 0 {
        pte_alloc(k, mm, pmd, addr)?;
    }
    Ok(pte_offset(k, pmd, addr, Shown::First))
}

/// Makes the page table of the page-directory entry at `pmd` (pte_alloc_one and pmd_populate).
#[cold]
#[inline(never)]
fn pte_alloc<K: Kernel>(k: K, mm: Low<Mm>, pmd: Low<u32>, addr: u32) -> Result<(), Oom> {
    mm.page_table_lock(k).unlock(k);
    let gfp = if k.highpte() {
        Gfp::HighUser
    } else {
        Gfp::Kernel
    };
    let page = alloc_pages(k, gfp, 0, Owner::Pte);
    let page = page.and_then(|page| pte_page(k, page));
    mm.page_table_lock(k).lock(k);
    let page = page?;
    // Another thread may have filled the entry while the lock was free.
    if pmd.read(k) & PRESENT != 0 {
        <K::Rmap as ReverseMap<K>>::pte_page_free(k, page);
        free_pages(k, page, 0);
        return Ok(());
    }
    let base = addr & !(table_span(k) - 1);
    <K::Rmap as ReverseMap<K>>::pte_page_init(k, page, mm, base);
    mod_page_state(k, State::NrPageTablePages, 1);
    populate(k, pmd, addr, page_to_pfn(k, page));
    Ok(())
}

/// pmd_populate. A page of several frames is as many page tables, for consecutive entries of the directory, aligned (as pgcl's
/// pmd_populate did; recalled); the last directory's entries of the shared top are not a process' own.
#[inline(always)]
fn populate<K: Kernel>(k: K, pmd: Low<u32>, addr: u32, pfn: u32) {
    let entry = |pfn: u32| (u64::from(pfn) << 12) | u64::from(TABLE);
    if !cluster::clustered(k) {
        k.pte_set_64(Kmapped(pmd.va()), entry(pfn));
        return;
    }
    let at = addr >> 21 & 511;
    let first = at & !(cluster::mmu_count(k) - 1);
    let limit = own_entries(k, addr >> 30);
    let mut i = 0;
    while i < cluster::mmu_count(k) && first + i < limit {
        let to = pmd.va().wrapping_sub(at * 8).wrapping_add((first + i) * 8);
        k.pte_set_64(Kmapped(to), entry(pfn + i));
        i += 1;
    }
}

/// Entries of the page directory of `slot` that belong to the process.
#[inline(always)]
fn own_entries<K: Kernel>(k: K, slot: u32) -> u32 {
    if k.two_tables() && slot == 3 {
        TOP_PRIVATE
    } else {
        512
    }
}

/// Bytes that the page tables of one page translate.
#[inline(always)]
fn table_span<K: Kernel>(k: K) -> u32 {
    1 << (21 + cluster::mmu_shift(k))
}

/// Whether `addr` has a page table (page_table_present).
#[inline(always)]
pub fn pte_table_present<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> bool {
    pmd_offset(k, mm, addr).read(k) & PRESENT != 0
}

/// Clears a new page-table page and gives it what the reverse map wants beside it.
#[inline(always)]
fn pte_page<K: Kernel>(k: K, page: Low<Page>) -> Result<Low<Page>, Oom> {
    let at = kmap_atomic(k, page, KmType::User0);
    cluster::clear_page(k, at);
    kunmap_atomic(k, at, KmType::User0);
    match <K::Rmap as ReverseMap<K>>::pte_page_alloc(k, page) {
        Ok(()) => Ok(page),
        Err(oom) => {
            free_pages(k, page, 0);
            Err(oom)
        }
    }
}

/// The pte of `addr` if its table exists.
#[inline]
pub fn pte_lookup<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Option<Kmapped> {
    lookup(k, mm, addr, Shown::First)
}

/// The same while another pte is in use.
#[inline]
pub fn pte_lookup_nested<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Option<Kmapped> {
    lookup(k, mm, addr, Shown::Nested)
}

#[inline(always)]
fn lookup<K: Kernel>(k: K, mm: Low<Mm>, addr: u32, shown: Shown) -> Option<Kmapped> {
    let pmd = pmd_offset(k, mm, addr);
    if pmd.read(k) & PRESENT == 0 {
        None
    } else {
        Some(pte_offset(k, pmd, addr, shown))
    }
}

/// Ends a use of [`pte_alloc_map`] or a look-up (nothing without HIGHPTE).
#[inline(always)]
pub fn pte_unmap<K: Kernel>(k: K, pte: Kmapped) {
    if k.highpte() {
        kunmap_atomic(k, pte, KmType::Pte0);
    }
}
/// Reads a pte.
#[inline(always)]
pub fn pte_get<K: Kernel>(k: K, p: Kmapped) -> Pte {
    Pte(k.pte_read(p))
}
/// Writes a pte: high word first, Present last.
#[inline(always)]
pub fn set_pte<K: Kernel>(k: K, p: Kmapped, pte: Pte) {
    use crate::kernel::Half;
    k.pte_write_half(p, Half::High, pte.high());
    k.pte_write_half(p, Half::Low, pte.low());
}
/// Reads and clears a pte: exchange of the low word, then read and clear the high one.
#[inline(always)]
pub fn ptep_get_and_clear<K: Kernel>(k: K, p: Kmapped) -> Pte {
    use crate::kernel::Half;
    let low = k.pte_xchg_low(p, 0);
    let high = k.kread(p.at(4));
    k.pte_write_half(p, Half::High, 0);
    Pte(((high as u64) << 32) | low as u64)
}
/// Clears Accessed by a locked bit operation; whether it was set.
#[inline(always)]
pub fn ptep_test_and_clear_young<K: Kernel>(k: K, p: Kmapped) -> bool {
    k.pte_test_and_clear_bit(p, ACCESSED_BIT)
}
/// Clears RW (ptep_set_wrprotect: locked bit reset).
#[inline(always)]
pub fn ptep_set_wrprotect<K: Kernel>(k: K, p: Kmapped) {
    k.pte_test_and_clear_bit(p, 1);
}
/// Puts a new pte over a present one and flushes that page (ptep_establish).
#[inline(always)]
pub fn ptep_establish<K: Kernel>(k: K, vma: Low<Vma>, addr: u32, p: Kmapped, pte: Pte) {
    set_pte(k, p, pte);
    crate::tlb::flush_tlb_page(k, vma, addr);
}
/// Access-flag upgrade (ptep_set_access_flags): on a write, rewrites the low word and flushes the page; else nothing.
#[inline(always)]
pub fn ptep_set_access_flags<K: Kernel>(
    k: K,
    vma: Low<Vma>,
    addr: u32,
    (p, pte): (Kmapped, Pte),
    write: bool,
) {
    if write {
        k.pte_write_half(p, crate::kernel::Half::Low, pte.low());
        crate::tlb::flush_tlb_page(k, vma, addr);
    }
}
/// munmap: frees page tables only where `start..end` with the free space around it covers a whole page-directory slot
/// (1 GB). `prev` is the vma below the hole, or null.
pub fn free_pgtables<K: Kernel>(k: K, mm: Low<Mm>, prev: Low<Vma>, start: u32, end: u32) {
    let mut first = start & PGDIR_MASK;
    let mut last = end.wrapping_add(!PGDIR_MASK);
    if last < end {
        last = u32::MAX;
    }
    let mut prev = prev;
    if prev.is_null() {
        prev = mm.mmap(k);
    }
    if !prev.is_null() && prev.end(k) > start && prev.start(k) >= end {
        // No vma below the hole: the first one bounds it from above.
        if last > prev.start(k) {
            last = prev.start(k);
        }
    } else {
        while let Some(at) = prev.get() {
            let next = at.next(k);
            if !next.is_null() {
                if next.start(k) < start {
                    prev = next;
                    continue;
                }
                if last > next.start(k) {
                    last = next.start(k);
                }
            }
            if at.end(k) > first {
                first = at.end(k).wrapping_add(!PGDIR_MASK);
                if first < at.end(k) {
                    return;
                }
            }
            break;
        }
    }
    if last < first {
        return;
    }
    let mut slot = first >> 30;
    let mut cleared = false;
    while slot < last >> 30 {
        clear_directory(k, mm, slot);
        cleared = true;
        slot += 1;
    }
    if cleared {
        tlb::flush_tlb_mm(k, mm);
    }
}

/// Start of an address's page-directory slot.
const PGDIR_MASK: u32 = 0xc000_0000;

/// exit: frees all page tables of mm, one pass over its page directories.
pub fn clear_page_tables<K: Kernel>(k: K, mm: Low<Mm>) {
    let mut slot = 0;
    while slot < user_pmds(k) {
        clear_directory(k, mm, slot);
        slot += 1;
    }
}

/// Frees the page tables of one page directory, entry by entry (free_one_pgd).
fn clear_directory<K: Kernel>(k: K, mm: Low<Mm>, slot: u32) {
    let pmd = pmd_page(k, mm.pgd(k), slot);
    let entries = if slot == 3 { TOP_PRIVATE } else { 512 };
    let mut i = 0;
    while i < entries {
        let at: Low<u32> = Low::new(pmd + i * 8);
        let entry = at.read(k);
        if entry & PRESENT != 0 {
            let pfn = pmd_pfn(k, at);
            k.pte_set_64(Kmapped(at.va()), 0);
            // The other tables of the same page.
            let mut rest = cluster::mmu_count(k) - 1;
            while rest > 0 && i + 1 < entries {
                i += 1;
                rest -= 1;
                k.pte_set_64(Kmapped(pmd + i * 8), 0);
            }
            let page = pfn_to_page(k, pfn);
            <K::Rmap as ReverseMap<K>>::pte_page_exit(k, page);
            <K::Rmap as ReverseMap<K>>::pte_page_free(k, page);
            mod_page_state(k, State::NrPageTablePages, 1u32.wrapping_neg());
            free_pages(k, page, 0);
        }
        i += 1;
    }
}
