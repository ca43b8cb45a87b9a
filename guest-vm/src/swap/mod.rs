//! Swap: slots, the swap cache, swap-in (mm/{swapfile,swap_state,page_io}.c of 2.6.7). One device of type 0.
//!
//! A slot's count is the number of swap ptes plus one if the page is in the cache. The entry of a cached page is
//! in page->private under PG_swapcache ("rmap 2"), before 2.6.6 in page->index ([`keyed_by_mapping`]); the cache has a tree of its own. The map is in low memory, where vmalloc put it
//! mostly in high (2 bytes a slot). Left out: several devices, priorities.
//!
//! Invariant: the sum of non-zero counts' slots is `inuse_pages`.

pub mod swapoff;

use crate::axes::{Era, MapKind};
use crate::bug_on;
use crate::cluster;
use crate::guest_struct;
use crate::io;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mapping, Page, pg};
use crate::lru;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{self, Gfp, page_to_pfn};
use crate::page_cache;
use crate::page_cache::lists;
use crate::page_cache::track::set_page_writeback;
use crate::percpu::{self, State, mod_page_state};
use crate::pgtable::Pte;
use crate::ptr::Low;
use crate::radix_tree::{self, Tag};
use crate::reclaim::{PF_MEMALLOC, lru_cache_add_anon};
use crate::sync::SpinLock;
use lowmem_abi::owner::Owner;
use lowmem_abi::port::TransferKind;

/// SWAPFILE_CLUSTER: slots handed out in a run.
const SWAPFILE_CLUSTER: u32 = 256;
/// A count that is never lowered again.
const SWAP_MAP_MAX: u16 = 0x7fff;
/// A slot that is never used.
pub const SWAP_MAP_BAD: u16 = 0x8000;
/// log2 of the block of slots that swap-in reads ahead.
const PAGE_CLUSTER: u32 = 3;
/// log2 of slots per piece of the map (4 MB pieces of two bytes a slot).
const CHUNK_SHIFT: u32 = 21;
/// Pieces; 24 bits of offset.
const CHUNKS: u32 = 8;

guest_struct! {
    /// swap_info_struct of the one device, with the two locks.
    pub struct SwapInfo [K] size 96;
    at 0 => part device_lock: SpinLock;
    at 4 => part list_lock: SpinLock;
    /// Slots, slot 0 (the header) included.
    at 8 => word max, set_max: u32;
    at 12 => word lowest_bit, set_lowest_bit: u32;
    at 16 => word highest_bit, set_highest_bit: u32;
    at 20 => word cluster_next, set_cluster_next: u32;
    at 24 => word cluster_nr, set_cluster_nr: u32;
    at 28 => word inuse_pages, set_inuse_pages: u32;
    /// Pages in the swap cache.
    at 32 => word total_swapcache, set_total_swapcache: u32;
    /// Slots that can be used.
    at 36 => word total_slots, set_total_slots: u32;
    at 40 => words map, set_map: u32, 8;
}

/// A slot: swp_entry_t of type 0, that is its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwapEntry(pub u32);

impl SwapEntry {
    /// The entry of a pte that is neither present, none nor a file pte.
    #[inline(always)]
    pub const fn of_pte(pte: Pte) -> Self {
        Self(pte.low() >> 8)
    }
    /// The pte for it: offset in bits 8-31. Bits 1-5 were the device's number; there is one device, so of a clustered page they say
    /// which sub-page the pte showed: what mremap moves stays right.
    #[inline(always)]
    pub const fn to_pte(self, sub: u32) -> Pte {
        Pte((self.0 << 8 | sub << 1) as u64)
    }
    /// The sub-page of such a pte.
    #[inline(always)]
    pub const fn sub_of_pte(pte: Pte) -> u32 {
        pte.low() >> 1 & 0x1f
    }
}

#[inline(always)]
fn info<K: Kernel>(k: K) -> Low<SwapInfo> {
    objects(k).swap(k)
}

/// Whether a page of the swap cache is keyed as a page of a file is: mapping is the swap cache's, index the slot, page->list on
/// its lists (2.4, and 2.6.0 to 2.6.5 with chains or none; "rmap 7" came with the other form). Else PG_swapcache is set and the slot in private.
#[inline(always)]
pub fn keyed_by_mapping<K: Kernel>(k: K) -> bool {
    matches!(k.axes().era(), Era::V2_4 | Era::V2_6_0) && !matches!(k.axes().rmap, MapKind::Objrmap)
}

/// Which slot a page of the swap cache has.
#[inline(always)]
pub fn entry_of<K: Kernel>(k: K, page: Low<Page>) -> SwapEntry {
    SwapEntry(if keyed_by_mapping(k) {
        page.index(k)
    } else {
        page.private(k)
    })
}

/// A page becomes one of the swap cache: tree lock held.
#[inline(always)]
fn set_key<K: Kernel>(k: K, page: Low<Page>, entry: SwapEntry) {
    if keyed_by_mapping(k) {
        let space = swapper_space(k);
        page.set_mapping(k, space.va());
        page.set_index(k, entry.0);
        lists::added(k, space, page);
    } else {
        page::set(k, page, pg::SWAPCACHE);
        page.set_private(k, entry.0);
    }
}

/// It is no longer.
#[inline(always)]
fn clear_key<K: Kernel>(k: K, page: Low<Page>) {
    if keyed_by_mapping(k) {
        lists::removed(k, page);
        page.set_mapping(k, 0);
    } else {
        page.set_private(k, 0);
        page::clear(k, page, pg::SWAPCACHE);
    }
}

/// The swap cache's mapping.
#[inline(always)]
pub fn swapper_space<K: Kernel>(k: K) -> Low<Mapping> {
    objects(k).swapper_space(k)
}

/// Boot: makes the map of a device of so many frames; a slot holds a page.
pub fn init<K: Kernel>(k: K, frames: u32) -> Result<(), Oom> {
    let slots = frames >> cluster::mmu_shift(k);
    let s = info(k);
    s.device_lock(k).init(k);
    s.list_lock(k).init(k);
    let limit = CHUNKS << CHUNK_SHIFT;
    let max = if slots > limit { limit } else { slots };
    let mut i = 0;
    while i < CHUNKS {
        s.set_map(k, i, 0);
        let first = i << CHUNK_SHIFT;
        if first < max {
            let here = if max - first > 1 << CHUNK_SHIFT {
                1 << CHUNK_SHIFT
            } else {
                max - first
            };
            let mut order = 0;
            while cluster::page_bytes(k) << order < here * 2 {
                order += 1;
            }
            let page = page_alloc::alloc_pages(k, Gfp::Kernel, order, Owner::Vmalloc)?;
            let va = k.page_offset().wrapping_add(page_to_pfn(k, page) << 12);
            let mut n = 0;
            while n < (cluster::page_bytes(k) >> 2 << order) {
                Low::<u32>::new(va + n * 4).write(k, 0);
                n += 1;
            }
            s.set_map(k, i, va);
        }
        i += 1;
    }
    s.set_max(k, max);
    s.set_lowest_bit(k, 1);
    s.set_highest_bit(k, max.saturating_sub(1));
    s.set_cluster_next(k, 1);
    s.set_cluster_nr(k, 0);
    s.set_inuse_pages(k, 0);
    s.set_total_swapcache(k, 0);
    s.set_total_slots(k, max.saturating_sub(1));
    if max > 0 {
        slot(k, 0).write(k, SWAP_MAP_BAD);
    }
    Ok(())
}

#[inline(always)]
fn slot<K: Kernel>(k: K, offset: u32) -> Low<u16> {
    let base = info(k).map(k, offset >> CHUNK_SHIFT & (CHUNKS - 1));
    Low::new(base + (offset & ((1 << CHUNK_SHIFT) - 1)) * 2)
}

/// The count of a slot.
pub fn map_count<K: Kernel>(k: K, entry: SwapEntry) -> u16 {
    slot(k, entry.0).read(k)
}

/// Slots of the device, and slots in use.
pub fn usage<K: Kernel>(k: K) -> (u32, u32) {
    (info(k).max(k), info(k).inuse_pages(k))
}

/// vm_swap_full: more than half of the slots are taken.
#[inline(always)]
pub fn vm_swap_full<K: Kernel>(k: K) -> bool {
    let s = info(k);
    // Also while the device is being turned off: no slot may be used then.
    s.total_slots(k) < s.inuse_pages(k).wrapping_mul(2) || s.total_slots(k) == 0
}

/// Slots that may be used (total_swap_pages): 0 without a device and while it is being turned off.
#[inline]
pub fn total_slots<K: Kernel>(k: K) -> u32 {
    info(k).total_slots(k)
}

/// Whether a slot holds a page.
#[inline]
fn slot_in_use<K: Kernel>(k: K, entry: SwapEntry) -> bool {
    let count = map_count(k, entry);
    count != 0 && count != SWAP_MAP_BAD
}

#[inline(always)]
fn lock_both<K: Kernel>(k: K) -> Low<SwapInfo> {
    let s = info(k);
    s.list_lock(k).lock(k);
    s.device_lock(k).lock(k);
    s
}

#[inline(always)]
fn unlock_both<K: Kernel>(k: K, s: Low<SwapInfo>) {
    s.device_lock(k).unlock(k);
    s.list_lock(k).unlock(k);
}

/// get_swap_page: a free slot with count 1 (the cache's), or none.
pub fn get_swap_page<K: Kernel>(k: K) -> Option<SwapEntry> {
    let s = lock_both(k);
    let offset = if s.total_slots(k) <= s.inuse_pages(k) {
        0
    } else {
        scan_swap_map(k, s)
    };
    if offset != 0 {
        if offset == s.lowest_bit(k) {
            s.set_lowest_bit(k, offset + 1);
        }
        if offset == s.highest_bit(k) {
            s.set_highest_bit(k, offset - 1);
        }
        if s.lowest_bit(k) > s.highest_bit(k) {
            s.set_lowest_bit(k, s.max(k));
            s.set_highest_bit(k, 0);
        }
        slot(k, offset).write(k, 1);
        s.set_inuse_pages(k, s.inuse_pages(k) + 1);
        s.set_cluster_next(k, offset + 1);
    }
    unlock_both(k, s);
    if offset == 0 {
        None
    } else {
        Some(SwapEntry(offset))
    }
}

/// Next slot of the current run; else the first wholly free run; else the first free slot. 0: none.
fn scan_swap_map<K: Kernel>(k: K, s: Low<SwapInfo>) -> u32 {
    if s.cluster_nr(k) != 0 {
        while s.cluster_next(k) <= s.highest_bit(k) {
            let offset = s.cluster_next(k);
            s.set_cluster_next(k, offset + 1);
            if slot(k, offset).read(k) == 0 {
                s.set_cluster_nr(k, s.cluster_nr(k) - 1);
                return offset;
            }
        }
    }
    s.set_cluster_nr(k, SWAPFILE_CLUSTER);
    let highest = s.highest_bit(k);
    let mut offset = s.lowest_bit(k);
    while offset + SWAPFILE_CLUSTER - 1 <= highest {
        let mut n = offset;
        while n < offset + SWAPFILE_CLUSTER && slot(k, n).read(k) == 0 {
            n += 1;
        }
        if n == offset + SWAPFILE_CLUSTER {
            return offset;
        }
        offset = n + 1;
    }
    offset = s.lowest_bit(k);
    while offset <= highest {
        if slot(k, offset).read(k) == 0 {
            return offset;
        }
        offset += 1;
    }
    0
}

/// swap_duplicate: one more user of a slot in use. False: the entry is not valid.
pub fn swap_duplicate<K: Kernel>(k: K, entry: SwapEntry) -> bool {
    let s = lock_both(k);
    let mut ok = false;
    if entry.0 < s.max(k) {
        let at = slot(k, entry.0);
        let count = at.read(k);
        if count != 0 && count <= SWAP_MAP_MAX {
            if count < SWAP_MAP_MAX {
                at.write(k, count + 1);
            }
            ok = true;
        }
    }
    unlock_both(k, s);
    ok
}

/// swap_free: one user less.
pub fn swap_free<K: Kernel>(k: K, entry: SwapEntry) {
    let s = lock_both(k);
    entry_free(k, s, entry);
    unlock_both(k, s);
}

/// Lowers the count with the locks held; the new one.
fn entry_free<K: Kernel>(k: K, s: Low<SwapInfo>, entry: SwapEntry) -> u16 {
    bug_on!(k, Swap, entry.0 >= s.max(k), entry.0);
    let at = slot(k, entry.0);
    let mut count = at.read(k);
    bug_on!(k, Swap, count == 0 || count > SWAP_MAP_MAX, entry.0);
    if count < SWAP_MAP_MAX {
        count -= 1;
        at.write(k, count);
        if count == 0 {
            if entry.0 < s.lowest_bit(k) {
                s.set_lowest_bit(k, entry.0);
            }
            if entry.0 > s.highest_bit(k) {
                s.set_highest_bit(k, entry.0);
            }
            s.set_inuse_pages(k, s.inuse_pages(k) - 1);
        }
    }
    count
}

/// add_to_swap: gives a locked anonymous page a slot and puts it into the cache, dirty. False: no slot or no memory. Nodes
/// for the tree are taken without PF_MEMALLOC, so that swapping cannot eat the last pages.
pub fn add_to_swap<K: Kernel>(k: K, page: Low<Page>) -> bool {
    bug_on!(k, Swap, !page::test(k, page, pg::LOCKED), page.va());
    let Some(entry) = get_swap_page(k) else {
        return false;
    };
    let task = crate::task::current(k);
    let flags = task.flags(k);
    task.set_flags(k, flags & !PF_MEMALLOC);
    let added = add_to_swap_cache_locked_page(k, page, entry, Gfp::Atomic);
    task.set_flags(k, flags);
    if added.is_err() {
        swap_free(k, entry);
        return false;
    }
    page::set(k, page, pg::UPTODATE);
    // The flag may be set from a zapped pte, without a tree to tag; begin anew.
    page::clear(k, page, pg::DIRTY);
    page::set_page_dirty(k, page);
    true
}

/// __add_to_swap_cache: the slot's count already includes the cache; the page is locked.
pub fn add_to_swap_cache_locked_page<K: Kernel>(
    k: K,
    page: Low<Page>,
    entry: SwapEntry,
    gfp: Gfp,
) -> Result<(), Oom> {
    radix_tree::preload(k, gfp)?;
    let space = swapper_space(k);
    let irq = k.irq_save();
    space.tree_lock(k).lock(k);
    let free = radix_tree::insert(k, space.page_tree(k), entry.0, page);
    bug_on!(k, Swap, !free, entry.0);
    page::get_page(k, page);
    set_key(k, page, entry);
    info(k).set_total_swapcache(k, info(k).total_swapcache(k) + 1);
    space.set_nrpages(k, space.nrpages(k) + 1);
    space.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    Ok(())
}

/// move_to_swap_cache of 2.6.0 ([`keyed_by_mapping`]): a locked page of `mapping` leaves it for the swap cache, both trees' locks held,
/// because it cannot be keyed by both. Nodes are taken first, so that nothing fails between.
pub fn move_to_swap_cache<K: Kernel>(
    k: K,
    page: Low<Page>,
    mapping: Low<Mapping>,
    entry: SwapEntry,
) -> Result<(), Oom> {
    radix_tree::preload(k, Gfp::Atomic)?;
    let space = swapper_space(k);
    let irq = k.irq_save();
    space.tree_lock(k).lock(k);
    mapping.tree_lock(k).lock(k);
    page_cache::remove_from_page_cache_locked(k, mapping, page);
    let free = radix_tree::insert(k, space.page_tree(k), entry.0, page);
    bug_on!(k, Swap, !free, entry.0);
    set_key(k, page, entry);
    info(k).set_total_swapcache(k, info(k).total_swapcache(k) + 1);
    space.set_nrpages(k, space.nrpages(k) + 1);
    mapping.tree_lock(k).unlock(k);
    space.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    Ok(())
}

/// __delete_from_swap_cache: with the tree lock held; the cache's reference and slot count stay the caller's to drop.
pub fn delete_from_swap_cache_locked<K: Kernel>(k: K, page: Low<Page>) -> SwapEntry {
    bug_on!(k, Swap, !page::swap_cached(k, page), page.va());
    let entry = entry_of(k, page);
    let space = swapper_space(k);
    radix_tree::delete(k, space.page_tree(k), entry.0);
    clear_key(k, page);
    info(k).set_total_swapcache(k, info(k).total_swapcache(k) - 1);
    space.set_nrpages(k, space.nrpages(k) - 1);
    entry
}

/// delete_from_swap_cache: out of the cache; slot count and reference go with it.
pub fn delete_from_swap_cache<K: Kernel>(k: K, page: Low<Page>) {
    let space = swapper_space(k);
    let irq = k.irq_save();
    space.tree_lock(k).lock(k);
    let entry = delete_from_swap_cache_locked(k, page);
    space.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    swap_free(k, entry);
    page::put_page(k, page);
}

/// can_share_swap_page: whether a locked page has no user but `own` ptes, those of the window that faulted (and the cache).
pub fn can_share_swap_page<K: Kernel>(k: K, page: Low<Page>, own: u32) -> bool {
    let others = own - 1;
    match page.count(k).wrapping_sub(others) {
        3 => page::test(k, page, pg::PRIVATE) && exclusive(k, page, others),
        2 => exclusive(k, page, others),
        1 => !page::test(k, page, pg::RESERVED),
        _ => false,
    }
}

/// exclusive_swap_page: in the cache, nobody else on the slot, the count still 2 (and `others`) under the tree lock.
fn exclusive<K: Kernel>(k: K, page: Low<Page>, others: u32) -> bool {
    if !page::swap_cached(k, page) {
        return false;
    }
    let s = lock_both(k);
    let mut only = false;
    if slot(k, entry_of(k, page).0).read(k) == 1 {
        let space = swapper_space(k);
        let irq = k.irq_save();
        space.tree_lock(k).lock(k);
        only = page.count(k) == 2 + others;
        space.tree_lock(k).unlock(k);
        k.irq_restore(irq);
    }
    unlock_both(k, s);
    only
}

/// remove_exclusive_swap_page: takes a locked page out of the cache if only the cache and the caller hold it.
pub fn remove_exclusive_swap_page<K: Kernel>(k: K, page: Low<Page>) -> bool {
    remove_exclusive(k, page, 1)
}

/// The same for a caller that has mapped the page by `own` ptes.
pub fn remove_exclusive<K: Kernel>(k: K, page: Low<Page>, own: u32) -> bool {
    let alone = own + 1;
    if !page::swap_cached(k, page) || page::test(k, page, pg::WRITEBACK) || page.count(k) != alone {
        return false;
    }
    let entry = entry_of(k, page);
    let s = lock_both(k);
    let mut removed = false;
    if slot(k, entry.0).read(k) == 1 {
        let space = swapper_space(k);
        let irq = k.irq_save();
        space.tree_lock(k).lock(k);
        if page.count(k) == alone && !page::test(k, page, pg::WRITEBACK) {
            delete_from_swap_cache_locked(k, page);
            page::set(k, page, pg::DIRTY);
            removed = true;
        }
        space.tree_lock(k).unlock(k);
        k.irq_restore(irq);
    }
    unlock_both(k, s);
    if removed {
        swap_free(k, entry);
        page::put_page(k, page);
    }
    removed
}

/// free_swap_and_cache: a swap pte goes away; if only the cache is left and nobody uses the page, the page goes too.
pub fn free_swap_and_cache<K: Kernel>(k: K, entry: SwapEntry) {
    let s = lock_both(k);
    let mut page: Low<Page> = Low::NULL;
    if entry_free(k, s, entry) == 1 {
        let space = swapper_space(k);
        let irq = k.irq_save();
        space.tree_lock(k).lock(k);
        page = radix_tree::lookup(k, space.page_tree(k), entry.0);
        if !page.is_null() && !page::trylock_page(k, page) {
            page = Low::NULL;
        }
        if !page.is_null() {
            page::get_page(k, page);
        }
        space.tree_lock(k).unlock(k);
        k.irq_restore(irq);
    }
    unlock_both(k, s);
    if page.is_null() {
        return;
    }
    let one_user = page.count(k) == 2;
    if page::swap_cached(k, page)
        && !page::test(k, page, pg::WRITEBACK)
        && (one_user || vm_swap_full(k))
    {
        delete_from_swap_cache(k, page);
        page::set(k, page, pg::DIRTY);
    }
    page::unlock_page(k, page);
    page::put_page(k, page);
}

/// free_page_and_swap_cache: drops a zapped pte's reference; an exclusive page leaves the swap cache first.
pub fn free_page_and_swap_cache<K: Kernel>(k: K, page: Low<Page>) {
    if page::swap_cached(k, page) && page::trylock_page(k, page) {
        remove_exclusive_swap_page(k, page);
        page::unlock_page(k, page);
    }
    page::put_page(k, page);
}

/// lookup_swap_cache: the cached page of a slot with a reference, or null.
pub fn lookup_swap_cache<K: Kernel>(k: K, entry: SwapEntry) -> Low<Page> {
    page_cache::find_get_page(k, swapper_space(k), entry.0)
}

/// read_swap_cache_async: the page of a slot, from cache or device, with a reference; null if the slot is not in use.
pub fn read_swap_cache<K: Kernel>(k: K, entry: SwapEntry) -> Result<Low<Page>, Oom> {
    let found = lookup_swap_cache(k, entry);
    if !found.is_null() {
        return Ok(found);
    }
    let page = page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::User)?;
    if !swap_duplicate(k, entry) {
        page::put_page(k, page);
        return Ok(Low::NULL);
    }
    page::set(k, page, pg::LOCKED);
    if let Err(e) = add_to_swap_cache_locked_page(k, page, entry, Gfp::Kernel) {
        page::clear(k, page, pg::LOCKED);
        swap_free(k, entry);
        page::put_page(k, page);
        return Err(e);
    }
    lru_cache_add_anon(k, page);
    cluster::transfer(k, TransferKind::SwapRead, page, (0, entry.0));
    mod_page_state(k, State::PswpIn, 1);
    page::set(k, page, pg::UPTODATE);
    page::unlock_page(k, page);
    Ok(page)
}

/// swapin_readahead: reads the aligned block of 8 slots around `entry`, up to the first free or bad one.
pub fn swapin_readahead<K: Kernel>(k: K, entry: SwapEntry) {
    let s = info(k);
    let mut first = entry.0 >> PAGE_CLUSTER << PAGE_CLUSTER;
    let mut left = 1 << PAGE_CLUSTER;
    if first == 0 {
        first = 1;
        left -= 1;
    }
    s.device_lock(k).lock(k);
    let mut end = first;
    while left > 0 && end < s.max(k) {
        let count = slot(k, end).read(k);
        if count == 0 || count == SWAP_MAP_BAD {
            break;
        }
        end += 1;
        left -= 1;
    }
    s.device_lock(k).unlock(k);
    while first < end {
        match read_swap_cache(k, SwapEntry(first)) {
            Ok(page) if !page.is_null() => page::put_page(k, page),
            _ => break,
        }
        first += 1;
    }
    lru::lru_add_drain(k);
}

/// swap_writepage: a locked page of the swap cache whose dirty flag was cleared. If nobody else needs it, it just leaves the cache;
/// else its write begins. Unlocked in both cases.
pub fn writepage<K: Kernel>(k: K, page: Low<Page>) {
    if remove_exclusive_swap_page(k, page) {
        page::unlock_page(k, page);
        return;
    }
    let entry = entry_of(k, page).0;
    mod_page_state(k, State::PswpOut, 1);
    set_page_writeback(k, page);
    page::unlock_page(k, page);
    io::submit_write(k, page, TransferKind::SwapWrite, (0, entry));
    percpu::add_work(k, percpu::WORK_IO);
}

/// pageout and the last check of shrink_list for a locked, unmapped page that only cache and caller hold: written to its
/// slot, clean, out of the cache. False: somebody else holds it.
pub fn write_and_drop<K: Kernel>(k: K, page: Low<Page>) -> bool {
    io::wait_on_page_writeback(k, page);
    if !page::swap_cached(k, page) || page.count(k) != 2 {
        return false;
    }
    let entry = entry_of(k, page);
    if page::test_and_clear(k, page, pg::DIRTY) {
        cluster::transfer(k, TransferKind::SwapWrite, page, (0, entry.0));
    }
    let space = swapper_space(k);
    let irq = k.irq_save();
    space.tree_lock(k).lock(k);
    radix_tree::tag_clear(k, space.page_tree(k), entry.0, Tag::Dirty);
    delete_from_swap_cache_locked(k, page);
    space.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    swap_free(k, entry);
    page::put_page(k, page);
    true
}
