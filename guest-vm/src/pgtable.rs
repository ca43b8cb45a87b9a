//! Page tables (asm-i386/pgtable-3level.h, arch/i386/mm/pgtable.c). (skeleton: the public signatures are stable)

use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Page, Vma, vm};
use crate::page_alloc::page_to_pfn;
use crate::ptr::{Kmapped, Low};
use lowmem_abi::owner::Owner;

/// Present.
pub const PRESENT: u32 = 0x001;
/// Writable.
pub const RW: u32 = 0x002;
/// Reachable from ring 3.
pub const USER: u32 = 0x004;
/// Accessed: bit number for [`Kernel::pte_test_and_clear_bit`].
pub const ACCESSED_BIT: u32 = 5;
/// Dirty: bit number.
pub const DIRTY_BIT: u32 = 6;
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

/// Entry for `page` with `prot` (mk_pte).
#[inline(always)]
pub fn mk_pte<K: Kernel>(k: K, page: Low<Page>, prot: Prot) -> Pte {
    Pte::new(page_to_pfn(k, page), prot)
}

/// First address that is not a user's (TASK_SIZE): PAGE_OFFSET, or the shared 16 MB of 4G/4G.
#[inline(always)]
pub fn task_size<K: Kernel>(k: K) -> u32 {
    if K::SPLIT {
        0xff00_0000
    } else {
        k.page_offset()
    }
}

/// Makes mm's page directories; sets mm->pgd.
pub fn pgd_alloc<K: Kernel>(k: K, mm: Low<Mm>) -> Result<(), Oom> {
    let _ = (k, mm);
    Err(Oom { owner: Owner::Pgd })
}
/// Frees mm's page directories, whose page tables are gone.
pub fn pgd_free<K: Kernel>(k: K, mm: Low<Mm>) {
    let _ = (k, mm);
}
/// The pte of `addr`, its table made if missing (page_table_lock held; dropped and retaken around the allocation).
pub fn pte_alloc_map<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Result<Kmapped, Oom> {
    let _ = (k, mm, addr);
    Err(Oom { owner: Owner::Pte })
}
/// The pte of `addr` if its table exists.
pub fn pte_lookup<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Option<Kmapped> {
    let _ = (k, mm, addr);
    None
}
/// Ends a use of [`pte_alloc_map`] or [`pte_lookup`] (nothing without highpte).
#[inline(always)]
pub fn pte_unmap<K: Kernel>(k: K, pte: Kmapped) {
    let _ = (k, pte);
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
/// Clears Dirty by a locked bit operation; whether it was set.
#[inline(always)]
pub fn ptep_test_and_clear_dirty<K: Kernel>(k: K, p: Kmapped) -> bool {
    k.pte_test_and_clear_bit(p, DIRTY_BIT)
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
/// munmap: frees page tables only where `start..end` with the surrounding free space covers a whole page-directory slot
/// (1 GB). `prev` is the vma below the hole, or null.
pub fn free_pgtables<K: Kernel>(k: K, mm: Low<Mm>, prev: Low<Vma>, start: u32, end: u32) {
    let _ = (k, mm, prev, start, end);
}
/// exit: frees all page tables of mm, one pass over its page directories.
pub fn clear_page_tables<K: Kernel>(k: K, mm: Low<Mm>) {
    let _ = (k, mm);
}
