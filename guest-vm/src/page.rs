//! struct page: reference counts, flag bits, the page lock and the bit lock of the reverse map (include/linux/{mm,page-flags,
//! pagemap,rmap}.h of 2.6.7).
//!
//! Each bit operation is the locked instruction the macros of the time compiled to; plain tests are plain loads. The
//! count is the 2.6.7 one: 0 is free (the -1 base came with 2.6.8). Left out: waiting. With one CPU and a kernel that runs
//! to completion nobody else can hold a page lock, so `lock_page` on a locked page is a BUG.
//!
//! Invariant: a page's bit lock is free whenever no function of a reverse map runs.

use crate::bug_on;
use crate::cluster;
use crate::kernel::Kernel;
use crate::layout::{Mapping, Page, Vma, pg};
use crate::list::ListHead;
pub use crate::page_cache::track::set_page_dirty;
use crate::ptr::Low;
use crate::rmap::ReverseMap;
use crate::struct_page;
use crate::swap;

/// The page whose `lru` element this is.
#[inline(always)]
pub fn of_lru<K: Kernel>(k: K, entry: Low<ListHead>) -> Low<Page> {
    entry.container(struct_page::lru(k.axes()))
}

/// Whether flag `bit` is set: a plain load.
#[inline(always)]
pub fn test<K: Kernel>(k: K, page: Low<Page>, bit: u32) -> bool {
    page.flags(k) & (1 << bit) != 0
}

/// SetPageX: one locked bit set.
#[inline(always)]
pub fn set<K: Kernel>(k: K, page: Low<Page>, bit: u32) {
    k.set_bit(page.flags_word(k), bit);
}

/// ClearPageX: one locked bit reset.
#[inline(always)]
pub fn clear<K: Kernel>(k: K, page: Low<Page>, bit: u32) {
    k.clear_bit(page.flags_word(k), bit);
}

/// TestSetPageX.
#[inline(always)]
pub fn test_and_set<K: Kernel>(k: K, page: Low<Page>, bit: u32) -> bool {
    k.test_and_set_bit(page.flags_word(k), bit)
}

/// TestClearPageX.
#[inline(always)]
pub fn test_and_clear<K: Kernel>(k: K, page: Low<Page>, bit: u32) -> bool {
    k.test_and_clear_bit(page.flags_word(k), bit)
}

/// Takes a reference: one locked increment, on reserved pages too.
#[inline(always)]
pub fn get_page<K: Kernel>(k: K, page: Low<Page>) {
    k.atomic_add(page.count_word(k), 1);
}

/// Drops a reference; the last one takes the page off its LRU list and frees it. Reserved pages are left alone.
#[inline]
pub fn put_page<K: Kernel>(k: K, page: Low<Page>) {
    if !test(k, page, pg::RESERVED) && k.atomic_dec_and_test(page.count_word(k)) {
        crate::lru::page_cache_release_last(k, page);
    }
}

/// Takes the page lock if it is free (TestSetPageLocked, negated).
#[inline(always)]
pub fn trylock_page<K: Kernel>(k: K, page: Low<Page>) -> bool {
    !k.inject_trylock_failure() && !test_and_set(k, page, pg::LOCKED)
}

/// Takes the page lock, which must be free.
#[inline(always)]
pub fn lock_page<K: Kernel>(k: K, page: Low<Page>) {
    bug_on!(k, Page, test_and_set(k, page, pg::LOCKED), page.va());
}

/// Gives the page lock back: one locked bit reset (and a look at the wait queue, which is always empty).
#[inline(always)]
pub fn unlock_page<K: Kernel>(k: K, page: Low<Page>) {
    bug_on!(k, Page, !test_and_clear(k, page, pg::LOCKED), page.va());
}

/// Takes the bit lock of the reverse map (pte_chain_lock, page_map_lock). An `up` build has none, nor has a scheme whose mapcount is
/// atomic.
#[inline(always)]
pub fn map_lock<K: Kernel>(k: K, page: Low<Page>) {
    if k.smp() && !K::Rmap::atomic_mapcount(k) {
        bug_on!(k, Page, test_and_set(k, page, pg::MAPLOCK), page.va());
    }
}

/// Gives it back.
#[inline(always)]
pub fn map_unlock<K: Kernel>(k: K, page: Low<Page>) {
    if k.smp() && !K::Rmap::atomic_mapcount(k) {
        clear(k, page, pg::MAPLOCK);
    }
}

/// PageSwapCache: by its flag, or before 2.6.6 by its mapping.
#[inline(always)]
pub fn swap_cached<K: Kernel>(k: K, page: Low<Page>) -> bool {
    if swap::keyed_by_mapping(k) {
        page.mapping(k) == swap::swapper_space(k).va()
    } else {
        test(k, page, pg::SWAPCACHE)
    }
}

/// page_mapping: the swap cache's for pages in it, null for anonymous pages, else the file's.
#[inline]
pub fn page_mapping<K: Kernel>(k: K, page: Low<Page>) -> Low<Mapping> {
    let flags = page.flags(k);
    if flags & (1 << pg::SWAPCACHE) != 0 {
        swap::swapper_space(k)
    } else if flags & (1 << pg::ANON) != 0 {
        Low::NULL
    } else {
        Low::new(page.mapping(k))
    }
}

/// Whether the page is anonymous. pte_chain kernels have no PG_anon: an anonymous page is one without mapping.
#[inline(always)]
pub fn is_anon<K: Kernel>(k: K, page: Low<Page>) -> bool {
    test(k, page, pg::ANON)
        || page.mapping(k) == 0
        || swap::keyed_by_mapping(k) && swap_cached(k, page)
}

/// Whether the page is one of a file or shared object, in its cache; for checks too.
#[inline(always)]
pub fn in_file<K: Kernel>(k: K, page: Low<Page>) -> bool {
    page.mapping(k) != 0 && !is_anon(k, page)
}

/// Index of the page that `addr` of `vma` shows when the vma is linear.
#[inline(always)]
pub fn linear_page_index<K: Kernel>(k: K, vma: Low<Vma>, addr: u32) -> u32 {
    cluster::index_of(k, cluster::linear_pgoff(k, vma, addr))
}
