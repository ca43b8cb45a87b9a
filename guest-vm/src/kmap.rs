//! Fixmap, kmap and kmap_atomic (asm-i386/{fixmap,kmap_types,highmem}.h, arch/i386/mm/highmem.c, mm/highmem.c).
//!
//! kmap_atomic: a slot for each CPU and use; one pte store and one-page flush (4G/4G, after RHEL4: not if the slot already has
//! that pte). kmap: 512 slots with use counts behind one lock, found through the page_address hash (2.4: page->virtual); when the cursor wraps,
//! slots without users are unmapped and everything is flushed. Who still used it: exec for the argument pages
//! ([`crate::mm::exec`]), in 2.4 write() too. Order of fixmap slots: fact sheet VM 1 and 7.1.
//!
//! Invariant: a slot's pte is the truth on both ways; natively the host's slot table mirrors it.

use crate::arch::{ArchRoot, arch};
use crate::bug_on;
use crate::cluster;
use crate::guest_struct;
use crate::kernel::{Half, Kernel};
use crate::layout::{Page, has_page_virtual, pg};
use crate::list::ListHead;
use crate::page_alloc::{page_address, page_to_pfn, pfn_to_page};
use crate::percpu::{dec_preempt_count, inc_preempt_count, smp_processor_id};
use crate::pgtable::{Prot, Pte, set_pte};
use crate::ptr::{Kmapped, Low};
use crate::root;
use crate::sync::SpinLock;
use crate::tlb;
use lowmem_abi::probe::Probe;

/// Slots of kmap_atomic (asm-i386/kmap_types.h; the last group exists on 4G/4G only).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "historic names")]
pub enum KmType {
    BounceRead = 0,
    SkbSunrpcData = 1,
    SkbDataSoftirq = 2,
    User0 = 3,
    User1 = 4,
    BioSrcIrq = 5,
    BioDstIrq = 6,
    Pte0 = 7,
    Pte1 = 8,
    Pte2 = 9,
    Irq0 = 10,
    Irq1 = 11,
    Softirq0 = 12,
    Softirq1 = 13,
    UserCopy = 14,
    /// Upper page of the virtual stack.
    VstackTop = 15,
    /// Lower page of the virtual stack.
    VstackBase = 16,
}

/// kmap types of a CPU: 14, on 4G/4G 34 (LDT pages and more the rebuilt kernel has no use for).
fn km_type_nr<K: Kernel>(k: K) -> u32 {
    if k.two_tables() { 34 } else { 14 }
}

/// Address of fixmap slot 0; slots grow downwards.
pub const FIXADDR_TOP: u32 = 0xffff_f000;
/// Slot of the vsyscall page.
pub const FIX_VSYSCALL: u32 = 1;
/// 4G/4G: two pages of trampoline text, in ascending order of address from this slot down.
pub const FIX_TRAMPOLINE: u32 = 3;
/// 4G/4G: four pages of TSS.
pub const FIX_TSS: u32 = 7;
/// 4G/4G: two pages of GDT.
pub const FIX_GDT: u32 = 9;
/// 4G/4G: the IDT.
pub const FIX_IDT: u32 = 10;
/// First kmap_atomic slot: 11 on 3G/1G (with APIC slots before it), behind the tables on 4G/4G. Odd there, so that
/// [`KmType::VstackBase`] starts an aligned stack.
fn fix_kmap_begin<K: Kernel>(k: K) -> u32 {
    if k.two_tables() { 21 } else { 11 }
}

/// Address of fixmap slot `index` (fix_to_virt).
#[inline(always)]
pub const fn fix_to_virt(index: u32) -> u32 {
    FIXADDR_TOP - (index << 12)
}

/// Start of the kmap window of 512 slots.
pub fn pkmap_base<K: Kernel>(k: K) -> u32 {
    k.axes().pkmap_base()
}
/// Slots of the kmap window: one page-table page, or with clustered pages one for each frame of a page.
pub const LAST_PKMAP: u32 = 512;

/// Page tables of the window that clustered kernels have instead: that for kmap, and one for kmap_atomic, whose slots grow by the same
/// factor and do not fit the fixmap's table any more.
pub fn cluster_tables<K: Kernel>(k: K) -> u32 {
    cluster::mmu_count(k) + 1
}

/// The pte of an address in a clustered kernel's window, whose tables lie one behind the other.
#[inline(always)]
fn window_pte<K: Kernel>(k: K, va: u32) -> Kmapped {
    Kmapped(arch(k).pkmap_pte(k) + ((va - pkmap_base(k)) >> 12) * 8)
}

/// Address of the slot `ty` of a clustered kernel.
#[inline(always)]
fn cluster_slot<K: Kernel>(k: K, ty: KmType) -> u32 {
    pkmap_base(k) + ((LAST_PKMAP + ty as u32) << (12 + cluster::mmu_shift(k)))
}

/// Shows every frame of a page at `va` of the window.
fn map_frames<K: Kernel>(k: K, va: u32, pfn: u32) {
    let mut i = 0;
    while i < cluster::mmu_count(k) {
        let pte = Pte::new(pfn + i, kmap_prot(k));
        set_pte(k, window_pte(k, va + (i << 12)), pte);
        k.slot_mapped(va + (i << 12), pfn + i);
        i += 1;
    }
}

/// kmap_atomic of a clustered page: all its frames; 4G/4G not if the slot shows it already.
#[inline]
fn kmap_atomic_frames<K: Kernel>(k: K, page: Low<Page>, ty: KmType) -> Kmapped {
    let (va, pfn) = (cluster_slot(k, ty), page_to_pfn(k, page));
    let first = Pte::new(pfn, kmap_prot(k));
    if k.two_tables() && k.pte_read(window_pte(k, va)) == first.0 {
        return Kmapped(va);
    }
    map_frames(k, va, pfn);
    let mut i = 0;
    while i < cluster::mmu_count(k) {
        tlb::flush_tlb_one(k, va + (i << 12));
        i += 1;
    }
    Kmapped(va)
}

/// kmap_prot: present, writable, accessed, dirty; the real one is global where PGE is, the slots are flushed one by one.
fn kmap_prot<K: Kernel>(k: K) -> Prot {
    Prot(if k.two_tables() { 0x063 } else { 0x163 })
}

/// Address of this CPU's slot `ty`.
#[inline(always)]
pub fn slot_va<K: Kernel>(k: K, ty: KmType) -> u32 {
    let cpu = smp_processor_id(k) * km_type_nr(k);
    fix_to_virt(fix_kmap_begin(k) + ty as u32 + cpu)
}

/// Writes the pte of a fixmap slot and tells the host (set_fixmap without the flush).
pub fn set_fixmap_pte<K: Kernel>(k: K, va: u32, pte: Pte) {
    let at = Kmapped(arch(k).fixmap_pte(k).wrapping_add(((va >> 12) & 511) * 8));
    set_pte(k, at, pte);
    k.slot_mapped(va, pte.pfn());
}

/// Maps a page for a short time into this CPU's slot `ty`; a low page at its direct address, at no cost.
#[inline]
pub fn kmap_atomic<K: Kernel>(k: K, page: Low<Page>, ty: KmType) -> Kmapped {
    inc_preempt_count(k);
    if let Some(va) = page_address(k, page) {
        return Kmapped(va);
    }
    k.probe(Probe::KmapAtomic);
    if cluster::clustered(k) {
        return kmap_atomic_frames(k, page, ty);
    }
    let va = slot_va(k, ty);
    map_slot(k, va, Pte::new(page_to_pfn(k, page), kmap_prot(k)));
    Kmapped(va)
}

/// Puts `pte` into the slot at `va` and flushes it; 4G/4G only if it differs (RHEL4).
#[inline(always)]
pub fn map_slot<K: Kernel>(k: K, va: u32, pte: Pte) {
    let at = Kmapped(arch(k).fixmap_pte(k).wrapping_add(((va >> 12) & 511) * 8));
    if k.two_tables() && k.pte_read(at) == pte.0 {
        return;
    }
    set_pte(k, at, pte);
    k.slot_mapped(va, pte.pfn());
    tlb::flush_tlb_one(k, va);
}

/// Ends it: the slot keeps its pte.
#[inline(always)]
pub fn kunmap_atomic<K: Kernel>(k: K, at: Kmapped, ty: KmType) {
    let _ = (at, ty);
    dec_preempt_count(k);
}

/// Physical address behind `at`, a slot or the direct map (kmap_atomic_to_page: a slot's own pte says it).
#[inline(always)]
pub fn kmap_atomic_to_phys<K: Kernel>(k: K, at: Kmapped) -> u64 {
    if at.0 < pkmap_base(k) {
        return u64::from(at.0.wrapping_sub(k.page_offset()));
    }
    let slot = if cluster::clustered(k) && at.0 - pkmap_base(k) < cluster_tables(k) << 21 {
        window_pte(k, at.0)
    } else {
        Kmapped(arch(k).fixmap_pte(k).wrapping_add(((at.0 >> 12) & 511) * 8))
    };
    (u64::from(Pte(k.pte_read(slot)).pfn()) << 12) | u64::from(at.0 & 0xfff)
}

guest_struct! {
    /// State of the kmap window.
    pub struct Pkmap [K] size 16384;
    at 0 => part lock: SpinLock;
    /// Slot handed out last.
    at 4 => word last, set_last: u32;
    /// Free page_address_map objects, singly linked through `list.next`.
    at 8 => part pool: ListHead;
    /// Uses of a slot: 0 unmapped, 1 mapped without user, n: n - 1 users.
    at 128 => words count, set_count: u32, 512;
    /// page_address hash: 128 slots of a list and its lock, a line each.
    at 4096 => parts hash: PageAddressSlot, 128;
    at 8192 => parts map: PageAddressMap, 512;
}

guest_struct! {
    /// page_address_slot.
    pub struct PageAddressSlot [K] size 32;
    at 0 => part lh: ListHead;
    at 8 => part lock: SpinLock;
}

guest_struct! {
    /// page_address_map: which page is mapped where.
    pub struct PageAddressMap [K] size 16;
    at 0 => word page, set_page: Low<Page>;
    at 4 => word window, set_window: u32;
    at 8 => part list: ListHead;
}

#[inline(always)]
fn pkmap<K: Kernel>(k: K) -> Low<Pkmap> {
    root::part(k, root::ARCH + ArchRoot::PKMAP)
}

/// Sets the kmap window up, empty.
pub fn init<K: Kernel>(k: K) {
    let pk = pkmap(k);
    pk.lock(k).init(k);
    pk.set_last(k, 0);
    pk.pool(k).init(k);
    let mut i = 0;
    while i < LAST_PKMAP {
        pk.set_count(k, i, 0);
        pk.map(k, i).list(k).add_tail_to(k, pk.pool(k));
        i += 1;
    }
    let mut i = 0;
    while i < 128 {
        pk.hash(k, i).lh(k).init(k);
        pk.hash(k, i).lock(k).init(k);
        i += 1;
    }
}

/// Multiplicative hash of a pointer (hash_ptr with 7 bits: golden ratio prime of 2.6).
#[inline(always)]
fn hash_slot<K: Kernel>(k: K, page: Low<Page>) -> Low<PageAddressSlot> {
    pkmap(k).hash(k, page.va().wrapping_mul(0x9e37_0001) >> 25)
}

/// Where a high page is mapped in the window, if it is (page_address of a high page).
fn window_address<K: Kernel>(k: K, page: Low<Page>) -> Option<u32> {
    if has_page_virtual(k) {
        let va = page.window(k).read(k);
        return if va == 0 { None } else { Some(va) };
    }
    let slot = hash_slot(k, page);
    let flags = k.irq_save();
    slot.lock(k).lock(k);
    let mut found = None;
    let head = slot.lh(k);
    let mut at = head.next(k);
    while at != head {
        let map: Low<PageAddressMap> = at.container(8);
        if map.page(k) == page {
            found = Some(map.window(k));
            break;
        }
        at = at.next(k);
    }
    slot.lock(k).unlock(k);
    k.irq_restore(flags);
    found
}

/// Enters a page into the hash (set_page_address).
fn set_window_address<K: Kernel>(k: K, page: Low<Page>, va: u32) {
    if has_page_virtual(k) {
        page.window(k).write(k, va);
        return;
    }
    let pool = pkmap(k).pool(k);
    bug_on!(k, Kmap, pool.is_empty(k));
    let map: Low<PageAddressMap> = pool.next(k).container(8);
    map.list(k).del(k);
    map.set_page(k, page);
    map.set_window(k, va);
    let slot = hash_slot(k, page);
    let flags = k.irq_save();
    slot.lock(k).lock(k);
    map.list(k).add_tail_to(k, slot.lh(k));
    slot.lock(k).unlock(k);
    k.irq_restore(flags);
}

/// Takes a page out of the hash.
fn clear_window_address<K: Kernel>(k: K, page: Low<Page>) {
    if has_page_virtual(k) {
        page.window(k).write(k, 0);
        return;
    }
    let slot = hash_slot(k, page);
    let flags = k.irq_save();
    slot.lock(k).lock(k);
    let head = slot.lh(k);
    let mut at = head.next(k);
    while at != head {
        let map: Low<PageAddressMap> = at.container(8);
        if map.page(k) == page {
            map.list(k).del(k);
            map.list(k).add_tail_to(k, pkmap(k).pool(k));
            break;
        }
        at = at.next(k);
    }
    slot.lock(k).unlock(k);
    k.irq_restore(flags);
}

#[inline(always)]
fn pkmap_pte<K: Kernel>(k: K, i: u32) -> Kmapped {
    Kmapped(
        arch(k)
            .pkmap_pte(k)
            .wrapping_add(i << (3 + cluster::mmu_shift(k))),
    )
}

/// Maps a page into the kmap window (kmap, kmap_high); a low page at its direct address.
pub fn kmap<K: Kernel>(k: K, page: Low<Page>) -> Kmapped {
    if page.flags(k) & (1 << pg::HIGHMEM) == 0 {
        if let Some(va) = page_address(k, page) {
            return Kmapped(va);
        }
    }
    let pk = pkmap(k);
    pk.lock(k).lock(k);
    let va = match window_address(k, page) {
        Some(va) => va,
        None => map_new(k, page),
    };
    let i = (va - pkmap_base(k)) >> (12 + cluster::mmu_shift(k));
    pk.set_count(k, i, pk.count(k, i) + 1);
    bug_on!(k, Kmap, pk.count(k, i) < 2, va);
    pk.lock(k).unlock(k);
    Kmapped(va)
}

/// map_new_virtual: the next free slot. Nothing waits here: a window full of users is a BUG of the kernel.
fn map_new<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let pk = pkmap(k);
    let mut left = LAST_PKMAP;
    let mut i;
    loop {
        i = (pk.last(k) + 1) & (LAST_PKMAP - 1);
        pk.set_last(k, i);
        if i == 0 {
            flush_all_zero_pkmaps(k);
            left = LAST_PKMAP;
        }
        if pk.count(k, i) == 0 {
            break;
        }
        left -= 1;
        bug_on!(k, Kmap, left == 0);
    }
    let va = pkmap_base(k) + (i << (12 + cluster::mmu_shift(k)));
    if cluster::clustered(k) {
        map_frames(k, va, page_to_pfn(k, page));
    } else {
        let pte = Pte::new(page_to_pfn(k, page), kmap_prot(k));
        set_pte(k, pkmap_pte(k, i), pte);
        k.slot_mapped(va, pte.pfn());
    }
    pk.set_count(k, i, 1);
    set_window_address(k, page, va);
    va
}

/// Unmaps every slot without user, then flushes everything.
fn flush_all_zero_pkmaps<K: Kernel>(k: K) {
    k.probe(Probe::KmapWrap);
    let pk = pkmap(k);
    let mut i = 0;
    while i < LAST_PKMAP {
        if pk.count(k, i) == 1 {
            pk.set_count(k, i, 0);
            let at = pkmap_pte(k, i);
            let pte = Pte(k.pte_read(at));
            bug_on!(k, Kmap, pte.is_none(), i);
            let mut frame = 0;
            while frame < cluster::mmu_count(k) {
                k.pte_write_half(at.at(frame * 8), Half::Low, 0);
                k.pte_write_half(at.at(frame * 8), Half::High, 0);
                frame += 1;
            }
            clear_window_address(k, pfn_to_page(k, pte.pfn()));
        }
        i += 1;
    }
    tlb::flush_tlb_all(k);
}

/// Gives a use of the window back; the slot stays mapped until the next wrap.
pub fn kunmap<K: Kernel>(k: K, page: Low<Page>) {
    if page.flags(k) & (1 << pg::HIGHMEM) == 0 {
        return;
    }
    let pk = pkmap(k);
    pk.lock(k).lock(k);
    let va = match window_address(k, page) {
        Some(va) => va,
        None => crate::bug::bug(k, crate::bug::File::Kmap, line!(), page.va()),
    };
    let i = (va - pkmap_base(k)) >> (12 + cluster::mmu_shift(k));
    let count = pk.count(k, i);
    bug_on!(k, Kmap, count < 2, va);
    pk.set_count(k, i, count - 1);
    pk.lock(k).unlock(k);
}
