//! Shared memory objects that can be swapped: the swap vector of a tmpfs inode (mm/shmem.c of 2.6.7).
//!
//! A page of an object is in the page cache, or its slot is in the object's vector. writepage takes a slot, stores it and moves the
//! page from the page cache to the swap cache, still dirty: reclaim writes it when it meets it again. A look-up moves it back.
//! The vector: 16 entries in the inode, then pages of 1,024 entries (or more, if pages are larger) found through one index page, whose upper half leads to a second
//! level; index pages come from high memory first. They are made with the page they are for, so that writing needs
//! no memory. Left out: sizes and quotas, tmpfs files by name, the list of objects with swap (swapoff walks the file table).
//!
//! Invariant: an index has a page in the cache or an entry in the vector, never both; `swapped` counts the entries.

use crate::bug_on;
use crate::cluster;
use crate::file::{self, Inode};
use crate::guest_struct;
use crate::guest_struct::Layout;
use crate::io;
use crate::kernel::{Kernel, Oom};
use crate::kmap::{KmType, kmap_atomic, kunmap_atomic};
use crate::layout::{File, Mapping, Page, pg};
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{self, Gfp, page_to_pfn, pfn_to_page};
use crate::page_cache::{self, Found};
use crate::percpu::{State, mod_page_state};
use crate::ptr::{Kmapped, Low};
use crate::radix_tree;
use crate::reclaim::shrink_list::Written;
use crate::swap::{self, SwapEntry};
use crate::sync::SpinLock;
use lowmem_abi::owner::Owner;
use lowmem_abi::probe::Probe;

/// SHMEM_NR_DIRECT: entries in the inode.
const DIRECT: u32 = 16;
/// ENTRIES_PER_PAGE.
#[inline(always)]
fn per_page<K: Kernel>(k: K) -> u32 {
    cluster::page_bytes(k) / 4
}
/// Entries of the index page that lead to pages of entries; the rest lead to further index pages.
#[inline(always)]
fn half<K: Kernel>(k: K) -> u32 {
    per_page(k) / 2
}

guest_struct! {
    /// What shmem_inode_info has behind the inode: 88 bytes (recalled, fact sheet; the order of fields is an assumption).
    pub struct Info [K] size 88;
    at 0 => part lock: SpinLock;
    /// Pages in the page cache (i_blocks stands elsewhere).
    at 4 => word alloced, set_alloced: u32;
    /// Entries of the vector in use.
    at 8 => word swapped, set_swapped: u32;
    /// One more than the largest index that was ever asked for.
    at 12 => word next_index, set_next_index: u32;
    /// The index page's frame, or 0.
    at 20 => word indirect, set_indirect: u32;
    at 24 => words direct, set_direct: u32, 16;
}

/// The object's own part.
#[inline(always)]
pub fn info<K: Kernel>(k: K, mapping: Low<Mapping>) -> Low<Info> {
    Low::<Inode>::new(mapping.host(k)).field(Inode::size(k))
}

/// A new object: no page, no entry.
pub fn init<K: Kernel>(k: K, mapping: Low<Mapping>) {
    let info = info(k, mapping);
    info.lock(k).init(k);
    info.set_alloced(k, 0);
    info.set_swapped(k, 0);
    info.set_next_index(k, 0);
    info.set_indirect(k, 0);
    let mut i = 0;
    while i < DIRECT {
        info.set_direct(k, i, 0);
        i += 1;
    }
}

/// A word of an index page.
fn read_word<K: Kernel>(k: K, pfn: u32, i: u32) -> u32 {
    let at = kmap_atomic(k, pfn_to_page(k, pfn), KmType::User1);
    let v = k.kread(Kmapped(at.0 + i * 4));
    kunmap_atomic(k, at, KmType::User1);
    v
}

fn write_word<K: Kernel>(k: K, pfn: u32, i: u32, v: u32) {
    let at = kmap_atomic(k, pfn_to_page(k, pfn), KmType::User1);
    k.kwrite(Kmapped(at.0 + i * 4), v);
    kunmap_atomic(k, at, KmType::User1);
}

fn index_page<K: Kernel>(k: K) -> Result<u32, Oom> {
    let page = page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::Inode)?;
    page_cache::clear_highpage(k, page);
    Ok(page_to_pfn(k, page))
}

/// Whether a missing index page is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

/// Frame and word of the entry of `index` beyond the direct ones; None: no such page.
fn entry_at<K: Kernel>(
    k: K,
    info: Low<Info>,
    index: u32,
    missing: Missing,
) -> Result<Option<(u32, u32)>, Oom> {
    let i = index - DIRECT;
    // By shifts: a page of entries is a power of two.
    let shift = 10 + cluster::mmu_shift(k);
    let (leaf, word) = (i >> shift, i & (per_page(k) - 1));
    let mut root = info.indirect(k);
    if root == 0 {
        if missing == Missing::Leave {
            return Ok(None);
        }
        root = index_page(k)?;
        info.set_indirect(k, root);
    }
    let (mut at, mut slot) = (root, leaf);
    if leaf >= half(k) {
        let far = leaf - half(k);
        let first = half(k) + (far >> shift);
        let Some(mid) = child(k, root, first, missing)? else {
            return Ok(None);
        };
        (at, slot) = (mid, far & (per_page(k) - 1));
    }
    Ok(child(k, at, slot, missing)?.map(|leaf| (leaf, word)))
}

/// The page that word `i` of index page `pfn` names.
fn child<K: Kernel>(k: K, pfn: u32, i: u32, missing: Missing) -> Result<Option<u32>, Oom> {
    let there = read_word(k, pfn, i);
    if there != 0 {
        return Ok(Some(there));
    }
    if missing == Missing::Leave {
        return Ok(None);
    }
    let new = index_page(k)?;
    write_word(k, pfn, i, new);
    Ok(Some(new))
}

/// shmem_swp_entry: the slot of `index`, 0 if it has none.
pub fn entry<K: Kernel>(k: K, mapping: Low<Mapping>, index: u32) -> u32 {
    let info = info(k, mapping);
    if index < DIRECT {
        return info.direct(k, index);
    }
    match entry_at(k, info, index, Missing::Leave) {
        Ok(Some((pfn, word))) => read_word(k, pfn, word),
        _ => 0,
    }
}

/// shmem_swp_set. The place exists.
fn set_entry<K: Kernel>(k: K, mapping: Low<Mapping>, index: u32, slot: u32) {
    let info = info(k, mapping);
    if index < DIRECT {
        info.set_direct(k, index, slot);
    } else {
        match entry_at(k, info, index, Missing::Leave) {
            Ok(Some((pfn, word))) => write_word(k, pfn, word, slot),
            _ => crate::bug::bug(k, crate::bug::File::Shmem, line!(), index),
        }
    }
    let swapped = info.swapped(k);
    info.set_swapped(
        k,
        if slot != 0 {
            swapped + 1
        } else {
            swapped.wrapping_sub(1)
        },
    );
}

/// shmem_getpage: the object's page at `index` with a reference: from the cache, from swap, or of zeros.
pub fn getpage<K: Kernel>(k: K, file: Low<File>, index: u32) -> Result<Found, Oom> {
    let mapping = file::mapping(k, file);
    let page = page_cache::find_get_page(k, mapping, index);
    if !page.is_null() {
        return Ok(Found { page, major: false });
    }
    let info = info(k, mapping);
    if index >= DIRECT {
        entry_at(k, info, index, Missing::Make)?;
    }
    info.lock(k).lock(k);
    if info.next_index(k) <= index {
        info.set_next_index(k, index + 1);
    }
    let slot = entry(k, mapping, index);
    info.lock(k).unlock(k);
    if slot != 0 {
        return swap_in(k, mapping, index, SwapEntry(slot));
    }
    let page = page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::PageCache)?;
    if let Err(e) = page_cache::add_to_page_cache_lru(k, page, mapping, index) {
        page::put_page(k, page);
        return Err(e);
    }
    info.set_alloced(k, info.alloced(k) + 1);
    page_cache::clear_highpage(k, page);
    page::set(k, page, pg::UPTODATE);
    page::unlock_page(k, page);
    Ok(Found { page, major: false })
}

fn swap_in<K: Kernel>(
    k: K,
    mapping: Low<Mapping>,
    index: u32,
    entry: SwapEntry,
) -> Result<Found, Oom> {
    let mut major = false;
    let mut page = swap::lookup_swap_cache(k, entry);
    if page.is_null() {
        swap::swapin_readahead(k, entry);
        page = swap::read_swap_cache(k, entry)?;
        bug_on!(k, Shmem, page.is_null(), entry.0);
        major = true;
        mod_page_state(k, State::PgMajFault, 1);
        k.probe(Probe::MajorFault);
    }
    if let Err(e) = radix_tree::preload(k, Gfp::Kernel) {
        page::put_page(k, page);
        return Err(e);
    }
    page::lock_page(k, page);
    io::wait_on_page_writeback(k, page);
    move_from_swap_cache(k, mapping, index, page);
    page::unlock_page(k, page);
    Ok(Found { page, major })
}

/// move_from_swap_cache: a locked page of the swap cache becomes the object's page again, dirty; its slot goes. Nodes for the
/// tree are preloaded.
fn move_from_swap_cache<K: Kernel>(k: K, mapping: Low<Mapping>, index: u32, page: Low<Page>) {
    let info = info(k, mapping);
    let space = swap::swapper_space(k);
    info.lock(k).lock(k);
    let irq = k.irq_save();
    space.tree_lock(k).lock(k);
    mapping.tree_lock(k).lock(k);
    let slot = swap::delete_from_swap_cache_locked(k, page);
    page_cache::insert_locked(k, page, mapping, index);
    mapping.tree_lock(k).unlock(k);
    space.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    set_entry(k, mapping, index, 0);
    info.set_alloced(k, info.alloced(k) + 1);
    info.lock(k).unlock(k);
    page_alloc::set_owner(k, page, Owner::PageCache);
    page::clear(k, page, pg::DIRTY);
    page::set_page_dirty(k, page);
    // The cache's use of the slot, and the object's.
    swap::swap_free(k, slot);
    swap::swap_free(k, slot);
}

/// shmem_writepage: a locked, unmapped page of an object goes to the swap cache, where reclaim will meet it again; or stays, if
/// there is no slot or no memory for the tree.
pub fn writepage<K: Kernel>(k: K, page: Low<Page>, mapping: Low<Mapping>) -> Written {
    let index = page.index(k);
    let Some(slot) = swap::get_swap_page(k) else {
        page::set_page_dirty(k, page);
        return Written::Activate;
    };
    let info = info(k, mapping);
    info.lock(k).lock(k);
    bug_on!(k, Shmem, entry(k, mapping, index) != 0, index);
    if to_swap_cache(k, page, mapping, slot).is_err() {
        info.lock(k).unlock(k);
        swap::swap_free(k, slot);
        page::set_page_dirty(k, page);
        return Written::Activate;
    }
    bug_on!(k, Shmem, !swap::swap_duplicate(k, slot), slot.0);
    set_entry(k, mapping, index, slot.0);
    info.set_alloced(k, info.alloced(k).wrapping_sub(1));
    info.lock(k).unlock(k);
    page::set_page_dirty(k, page);
    page::unlock_page(k, page);
    Written::Yes
}

/// Out of the object's tree, into the swap cache's, which takes over the reference.
#[inline(always)]
fn to_swap_cache<K: Kernel>(
    k: K,
    page: Low<Page>,
    mapping: Low<Mapping>,
    slot: SwapEntry,
) -> Result<(), Oom> {
    if swap::keyed_by_mapping(k) {
        return swap::move_to_swap_cache(k, page, mapping, slot);
    }
    swap::add_to_swap_cache_locked_page(k, page, slot, Gfp::Atomic)?;
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    page_cache::remove_from_page_cache_locked(k, mapping, page);
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    // The page cache's reference.
    k.atomic_add(page.count_word(k), u32::MAX);
    Ok(())
}

/// The object goes, its cached pages are gone: frees entries and index pages (shmem_truncate to 0).
pub fn free_all<K: Kernel>(k: K, mapping: Low<Mapping>) {
    let info = info(k, mapping);
    let mut i = 0;
    while i < DIRECT {
        free_entry(k, info.direct(k, i));
        info.set_direct(k, i, 0);
        i += 1;
    }
    let root = info.indirect(k);
    if root != 0 {
        let mut i = 0;
        while i < per_page(k) {
            let child = read_word(k, root, i);
            if child != 0 {
                if i < half(k) {
                    free_leaf(k, child);
                } else {
                    free_middle(k, child);
                }
            }
            i += 1;
        }
        page::put_page(k, pfn_to_page(k, root));
        info.set_indirect(k, 0);
    }
    info.set_swapped(k, 0);
    info.set_alloced(k, 0);
}

fn free_entry<K: Kernel>(k: K, slot: u32) {
    if slot != 0 {
        swap::free_swap_and_cache(k, SwapEntry(slot));
    }
}

fn free_leaf<K: Kernel>(k: K, pfn: u32) {
    let mut i = 0;
    while i < per_page(k) {
        free_entry(k, read_word(k, pfn, i));
        i += 1;
    }
    page::put_page(k, pfn_to_page(k, pfn));
}

fn free_middle<K: Kernel>(k: K, pfn: u32) {
    let mut i = 0;
    while i < per_page(k) {
        let leaf = read_word(k, pfn, i);
        if leaf != 0 {
            free_leaf(k, leaf);
        }
        i += 1;
    }
    page::put_page(k, pfn_to_page(k, pfn));
}

/// Calls `f` with index and slot of each entry of an object, ascending by place in the vector, until it says stop (true).
pub fn each_entry<K: Kernel>(
    k: K,
    mapping: Low<Mapping>,
    mut f: impl FnMut(u32, u32) -> bool,
) -> bool {
    let end = info(k, mapping).next_index(k);
    let mut index = 0;
    while index < end {
        let slot = entry(k, mapping, index);
        if slot != 0 && f(index, slot) {
            return true;
        }
        index += 1;
    }
    false
}

/// shmem_unuse: swapoff has read `entry` into locked `page` of the swap cache; if an object names it, the page becomes that
/// object's again. Whether one did.
pub fn unuse<K: Kernel>(k: K, entry: SwapEntry, page: Low<Page>) -> Result<bool, Oom> {
    radix_tree::preload(k, Gfp::Kernel)?;
    let o = objects(k);
    let mut bucket = 0;
    while bucket < 1024 {
        let mut file = o.file_hash(k, bucket);
        while !file.is_null() {
            let mapping = file::mapping(k, file);
            if file.id(k) >= file::FIRST_SHARED && info(k, mapping).swapped(k) != 0 {
                let mut at = None;
                each_entry(k, mapping, |index, slot| {
                    if slot == entry.0 {
                        at = Some(index);
                    }
                    slot == entry.0
                });
                if let Some(index) = at {
                    move_from_swap_cache(k, mapping, index, page);
                    return Ok(true);
                }
            }
            file = file.hash_next(k);
        }
        bucket += 1;
    }
    Ok(false)
}
