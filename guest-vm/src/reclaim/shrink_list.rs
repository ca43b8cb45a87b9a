//! shrink_list: what becomes of each isolated page (mm/vmscan.c), and pageout, which starts its write.
//!
//! Order of checks, 2.6.7: trylock; under writeback: keep; page_referenced and in use: activate; anonymous without slot: add_to_swap;
//! try_to_unmap; dirty: keep if referenced or the caller may not write, else pageout; buffers must go; last, under the tree lock, free if nobody but
//! cache and reclaim holds it and it is clean. 2.6.0 asks for "mapped, but without a mapping" where 2.6.7 asks for
//! PG_anon: the same pages here, as pte_chain kernels have no PG_anon. Left out: laptop mode.
//!
//! Invariant: a page that is freed is clean, unmapped, in no tree, and held by nobody else.

use super::scan::Freeing;
use super::{Control, PF_KSWAPD, Version, state, version};
use crate::file;
use crate::io;
use crate::kernel::{Decision, Kernel};
use crate::layout::{Mapping, Page, pg, vm_ops};
use crate::list::ListHead;
use crate::lru::{PAGEVEC_SIZE, Pagevec};
use crate::page;
use crate::page_alloc::{self, Gfp};
use crate::page_cache::track::{clear_page_dirty_for_io, move_for_pageout};
use crate::page_cache::{self, buffers};
use crate::percpu::{self, State, mod_page_state};
use crate::ptr::Low;
use crate::rmap::{ReverseMap, Unmap};
use crate::swap;
use crate::task::current;
use lowmem_abi::probe::Probe;

/// What to do with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is in no cache any more and locked: free it.
    Free,
    /// Back to the head of the active list; locked.
    Activate,
    /// Back to the inactive list; locked.
    KeepLocked,
    /// Back to the inactive list; not locked.
    Keep,
}

impl Verdict {
    #[inline(always)]
    fn decision(self) -> Decision {
        match self {
            Verdict::Free => Decision::Freed,
            Verdict::Activate => Decision::Activated,
            Verdict::KeepLocked | Verdict::Keep => Decision::Kept,
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOut {
    /// It cannot be written now.
    Keep,
    /// Its object has no place to write it to.
    Activate,
    /// The write has begun or is complete, the page is not locked any more.
    Success,
    /// It was clean; still locked.
    Clean,
}

/// What an object's writepage method did with a locked page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Begun or complete; not locked any more.
    Yes,
    /// No room: dirty again, still locked, wanted on the active list (WRITEPAGE_ACTIVATE).
    Activate,
}

#[inline(always)]
fn splice<K: Kernel>(k: K, from: Low<ListHead>, to: Low<ListHead>) {
    if from.is_empty(k) {
        return;
    }
    let (first, last, at) = (from.next(k), from.prev(k), to.next(k));
    first.set_prev(k, to);
    to.set_next(k, first);
    last.set_next(k, at);
    at.set_prev(k, last);
    from.init(k);
}

/// Treats every page on `page_list`; those that stay are on it again afterwards. Pages freed.
pub fn shrink_list<K: Kernel>(k: K, c: &mut Control) -> u32 {
    let s = state(k);
    let (list, kept) = (s.page_list(k), s.ret_pages(k));
    let (mut freed, mut activated) = (0, 0);
    while !list.is_empty(k) {
        let entry = list.prev(k);
        entry.del(k);
        let page = page::of_lru(k, entry);
        let verdict = if page::trylock_page(k, page) {
            shrink_one(k, page, c)
        } else {
            Verdict::Keep
        };
        k.decided(page, verdict.decision());
        match verdict {
            Verdict::Free => {
                page::unlock_page(k, page);
                freed += 1;
                free_later(k, s.freed(k), page);
                continue;
            }
            Verdict::Activate => {
                page::set(k, page, pg::ACTIVE);
                activated += 1;
                page::unlock_page(k, page);
            }
            Verdict::KeepLocked => page::unlock_page(k, page),
            Verdict::Keep => {}
        }
        page.lru(k).add_to(k, kept);
    }
    splice(k, kept, list);
    release_nonlru(k, s.freed(k));
    mod_page_state(k, State::PgActivate, activated);
    freed
}

fn free_later<K: Kernel>(k: K, pvec: Low<Pagevec>, page: Low<Page>) {
    let nr = pvec.nr(k);
    pvec.set_page(k, nr, page);
    pvec.set_nr(k, nr + 1);
    if nr + 1 == PAGEVEC_SIZE {
        release_nonlru(k, pvec);
    }
}

/// __pagevec_release_nonlru: the last references of pages on no list.
fn release_nonlru<K: Kernel>(k: K, pvec: Low<Pagevec>) {
    let nr = pvec.nr(k);
    let mut i = 0;
    while i < nr {
        let page = pvec.page(k, i);
        if k.atomic_dec_and_test(page.count_word(k)) {
            page_alloc::free_cold_page(k, page);
        }
        i += 1;
    }
    pvec.set_nr(k, 0);
}

/// page_mapping_inuse: mapped, or a page of the swap cache, or of a file that somebody maps.
fn mapping_in_use<K: Kernel>(k: K, page: Low<Page>) -> bool {
    if K::Rmap::mapped(k, page) || page::swap_cached(k, page) {
        return true;
    }
    let mapping = page::page_mapping(k, page);
    !mapping.is_null() && crate::rmap::file::mapping_mapped(k, mapping)
}

/// The body of shrink_list's loop, for a locked page.
fn shrink_one<K: Kernel>(k: K, page: Low<Page>, c: &mut Control) -> Verdict {
    // 2.6.0 counts a mapped page before it looks for writeback, 2.6.7 after.
    let counts_twice = K::Rmap::mapped(k, page) || page::swap_cached(k, page);
    c.mapped += counts_twice as u32;
    if page::test(k, page, pg::WRITEBACK) {
        return Verdict::KeepLocked;
    }
    c.scanned += 1 + counts_twice as u32;
    page::map_lock(k, page);
    k.begin(Probe::PageReferenced);
    let referenced = K::Rmap::page_referenced(k, page) != 0;
    k.end(Probe::PageReferenced);
    if referenced && mapping_in_use(k, page) {
        page::map_unlock(k, page);
        return Verdict::Activate;
    }
    if page::is_anon(k, page) && !page::swap_cached(k, page) {
        page::map_unlock(k, page);
        // An anonymous page that nobody maps is about to be freed by whoever holds it.
        if !K::Rmap::mapped(k, page) {
            return Verdict::KeepLocked;
        }
        if !swap::add_to_swap(k, page) {
            return Verdict::Activate;
        }
        page::map_lock(k, page);
    }
    let mapping = page::page_mapping(k, page);
    if K::Rmap::mapped(k, page) && !mapping.is_null() {
        k.begin(Probe::TryToUnmap);
        let unmapped = K::Rmap::try_to_unmap(k, page);
        k.end(Probe::TryToUnmap);
        match unmapped {
            Unmap::Fail => {
                page::map_unlock(k, page);
                return Verdict::Activate;
            }
            Unmap::Again => {
                page::map_unlock(k, page);
                return Verdict::KeepLocked;
            }
            Unmap::Success => {}
        }
    }
    page::map_unlock(k, page);
    if page::test(k, page, pg::DIRTY) {
        let may_enter_fs = c.gfp.may_enter_fs() || (page::swap_cached(k, page) && c.gfp.may_wait());
        if referenced || !may_enter_fs {
            return Verdict::KeepLocked;
        }
        match pageout(k, page, mapping) {
            PageOut::Keep => return Verdict::KeepLocked,
            PageOut::Activate => return Verdict::Activate,
            PageOut::Success => {
                if page.flags(k) & (1 << pg::WRITEBACK | 1 << pg::DIRTY) != 0
                    || !page::trylock_page(k, page)
                {
                    return Verdict::Keep;
                }
                if page.flags(k) & (1 << pg::WRITEBACK | 1 << pg::DIRTY) != 0 {
                    return Verdict::KeepLocked;
                }
            }
            PageOut::Clean => {}
        }
    }
    if buffers::references(k, page) != 0 && !buffers::try_to_release_page(k, page) {
        return Verdict::Activate;
    }
    if remove_from_cache(k, page) {
        Verdict::Free
    } else {
        Verdict::KeepLocked
    }
}

/// The last step: under the tree lock, a clean page that only its cache and the caller hold leaves the cache.
fn remove_from_cache<K: Kernel>(k: K, page: Low<Page>) -> bool {
    // A write that drops an exclusive page from the swap cache leaves none.
    let mapping = page::page_mapping(k, page);
    if mapping.is_null() {
        return false;
    }
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    if page.count(k) != 2 || page::test(k, page, pg::DIRTY) {
        mapping.tree_lock(k).unlock(k);
        k.irq_restore(irq);
        return false;
    }
    if page::swap_cached(k, page) {
        let entry = swap::delete_from_swap_cache_locked(k, page);
        mapping.tree_lock(k).unlock(k);
        k.irq_restore(irq);
        k.evicted(u32::MAX, entry.0);
        swap::swap_free(k, entry);
    } else {
        let index = page.index(k);
        page_cache::remove_from_page_cache_locked(k, mapping, page);
        mapping.tree_lock(k).unlock(k);
        k.irq_restore(irq);
        k.evicted(file::id_of_mapping(k, mapping), index);
    }
    page.set_private(k, 0);
    // The cache's reference; the caller's is left.
    k.atomic_add(page.count_word(k), u32::MAX);
    true
}

/// is_page_cache_freeable: only its cache, its buffers and the caller hold the page.
#[inline(always)]
fn is_page_cache_freeable<K: Kernel>(k: K, page: Low<Page>) -> bool {
    page.count(k) - buffers::references(k, page) == 2
}

/// pageout: starts the write of a locked, dirty, unmapped page if nobody else holds it.
fn pageout<K: Kernel>(k: K, page: Low<Page>, mapping: Low<Mapping>) -> PageOut {
    if !is_page_cache_freeable(k, page) || mapping.is_null() || !may_write_to_queue(k, mapping) {
        return PageOut::Keep;
    }
    if !clear_page_dirty_for_io(k, page) {
        return PageOut::Clean;
    }
    move_for_pageout(k, page);
    page::set(k, page, pg::RECLAIM);
    match writepage(k, page, mapping) {
        Written::Activate => {
            page::clear(k, page, pg::RECLAIM);
            PageOut::Activate
        }
        Written::Yes => {
            if !page::test(k, page, pg::WRITEBACK) {
                page::clear(k, page, pg::RECLAIM);
            }
            PageOut::Success
        }
    }
}

/// may_write_to_queue of 2.6: while the queue of files is congested, kswapd alone may wait in it. Swap and shared objects have backing_dev_infos
/// of their own, which are never congested. Left out: a task inside write() may wait for the queue that it fills (current->backing_dev_info).
fn may_write_to_queue<K: Kernel>(k: K, mapping: Low<Mapping>) -> bool {
    mapping.a_ops(k) != vm_ops::FILE
        || version(k) == Version::V2_4
        || current(k).flags(k) & PF_KSWAPD != 0
        || !io::congested(k)
}

/// mapping->a_ops->writepage, by kind of mapping.
fn writepage<K: Kernel>(k: K, page: Low<Page>, mapping: Low<Mapping>) -> Written {
    match mapping.a_ops(k) {
        file::OPS_SWAP => {
            swap::writepage(k, page);
            Written::Yes
        }
        vm_ops::SHMEM | vm_ops::SHM => crate::shmem::writepage(k, page, mapping),
        _ => {
            file::block_write_full_page(k, page);
            percpu::add_work(k, percpu::WORK_IO);
            Written::Yes
        }
    }
}

/// One page as 2.4's shrink_cache treats it: never unmapped here. The caller holds a reference, the page stays on its list
/// unless it is freed.
pub(super) fn try_to_free_one_2_4<K: Kernel>(k: K, page: Low<Page>, gfp: Gfp) -> Freeing {
    if page::test(k, page, pg::WRITEBACK) {
        return Freeing::Kept;
    }
    // Cache and reclaim alone hold it, or it is in use. A page with buffers is looked at behind its lock.
    let buffered = buffers::references(k, page) != 0;
    if !buffered && (page.count(k) != 2 || page::page_mapping(k, page).is_null()) {
        return Freeing::Mapped;
    }
    if !page::trylock_page(k, page) {
        return Freeing::Kept;
    }
    if page::test(k, page, pg::DIRTY) && is_page_cache_freeable(k, page) {
        if !gfp.may_enter_fs() {
            page::unlock_page(k, page);
            return Freeing::Kept;
        }
        let mapping = page::page_mapping(k, page);
        match pageout(k, page, mapping) {
            PageOut::Success => return Freeing::Kept,
            PageOut::Keep | PageOut::Activate => {
                page::unlock_page(k, page);
                return Freeing::Kept;
            }
            PageOut::Clean => {}
        }
    }
    if buffers::references(k, page) != 0 && !buffers::try_to_release_page(k, page) {
        page::unlock_page(k, page);
        return Freeing::Kept;
    }
    let free = remove_from_cache(k, page);
    page::unlock_page(k, page);
    if free {
        Freeing::Freed
    } else {
        Freeing::Mapped
    }
}
