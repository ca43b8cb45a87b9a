//! What a mapping knows of its dirty pages, and of those being written: two tags in its tree (2.6.6 on), or its lists (until 2.6.5).
//!
//! Follows set_page_dirty, clear_page_dirty_for_io, set_page_writeback, test_clear_page_writeback (mm/page-writeback.c, mm/filemap.c of 2.6.7
//! and 2.6.0). With tags, clear_page_dirty_for_io clears the page's flag only: the DIRTY tag stays until set_page_writeback, so a page
//! on its way to the disk can be found at every moment by one tag or the other. With lists no such thing holds between
//! the two calls. nr_dirty counts pages of files (shared memory and swap are memory_backed, as there), nr_writeback all.
//!
//! Invariant: between calls DIRTY tag = PG_dirty and WRITEBACK tag = PG_writeback, but for locked pages between
//! clear_page_dirty_for_io and set_page_writeback.

use crate::axes::CacheKind;
use crate::bug_on;
use crate::kernel::Kernel;
use crate::layout::{Mapping, Page, pg, vm_ops};
use crate::page;
use crate::page_cache::{buffers, lists};
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::radix_tree::{self, Tag};
use crate::swap;
use crate::writeback::inode::mark_inode_dirty;

/// Whether pages of `mapping` count as dirty memory that writeback can clean (not memory_backed).
#[inline(always)]
fn accounted<K: Kernel>(k: K, mapping: Low<Mapping>) -> bool {
    mapping.a_ops(k) == vm_ops::FILE
}

/// Where `page` is in its mapping's tree (page_index).
#[inline(always)]
fn index_of<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    if page::swap_cached(k, page) {
        swap::entry_of(k, page).0
    } else {
        page.index(k)
    }
}

/// set_page_dirty: the flag; for pages of a mapping also tag or list, and for files their buffers and the inode.
pub fn set_page_dirty<K: Kernel>(k: K, page: Low<Page>) {
    let mapping = page::page_mapping(k, page);
    if mapping.is_null() {
        if !page::test(k, page, pg::DIRTY) {
            page::set(k, page, pg::DIRTY);
        }
        return;
    }
    if accounted(k, mapping) {
        buffers::set_dirty(k, mapping, page);
    }
    set_page_dirty_nobuffers(k, page);
}

/// __set_page_dirty_nobuffers of a page of a mapping.
pub fn set_page_dirty_nobuffers<K: Kernel>(k: K, page: Low<Page>) {
    if page::test_and_set(k, page, pg::DIRTY) {
        return;
    }
    let mapping = page::page_mapping(k, page);
    let file = accounted(k, mapping);
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    if file {
        mod_page_state(k, State::NrDirty, 1);
    }
    match k.axes().page_cache {
        CacheKind::Tagged => {
            radix_tree::tag_set(k, mapping.page_tree(k), index_of(k, page), Tag::Dirty);
        }
        CacheKind::Lists => {
            if swap::keyed_by_mapping(k) || !page::swap_cached(k, page) {
                lists::move_to(k, page, lists::of(k, mapping).dirty_pages(k));
            }
        }
    }
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    if file {
        mark_inode_dirty(k, mapping);
    }
}

/// A locked page is about to be dropped: it is not dirty any more (the flag and the count; its tag goes with the tree's slot).
pub fn cancel_dirty<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) {
    if page::test_and_clear(k, page, pg::DIRTY) && accounted(k, mapping) {
        mod_page_state(k, State::NrDirty, u32::MAX);
    }
}

/// clear_page_dirty of a page of a file: it need not be written after all.
pub fn clear_page_dirty<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) {
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    if page::test_and_clear(k, page, pg::DIRTY) {
        if matches!(k.axes().page_cache, CacheKind::Tagged) {
            radix_tree::tag_clear(k, mapping.page_tree(k), page.index(k), Tag::Dirty);
        }
        mod_page_state(k, State::NrDirty, u32::MAX);
    }
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
}

/// clear_page_dirty_for_io (2.6.0: test_clear_page_dirty) of a locked page of a file: whether it was dirty. What follows must be
/// [`set_page_writeback`] or [`set_page_dirty`].
pub fn clear_page_dirty_for_io<K: Kernel>(k: K, page: Low<Page>) -> bool {
    bug_on!(k, PageCache, !page::test(k, page, pg::LOCKED), page.va());
    if !page::test_and_clear(k, page, pg::DIRTY) {
        return false;
    }
    let mapping = page::page_mapping(k, page);
    if !mapping.is_null() && accounted(k, mapping) {
        mod_page_state(k, State::NrDirty, u32::MAX);
    }
    true
}

/// With lists, reclaim's pageout moves a page that it is about to write to locked_pages (shrink_list of 2.6.0).
#[inline(always)]
pub fn move_for_pageout<K: Kernel>(k: K, page: Low<Page>) {
    if lists::has_lists(k) && (swap::keyed_by_mapping(k) || !page::swap_cached(k, page)) {
        let mapping = page::page_mapping(k, page);
        mapping.tree_lock(k).lock(k);
        lists::move_to(k, page, lists::of(k, mapping).locked_pages(k));
        mapping.tree_lock(k).unlock(k);
    }
}

/// set_page_writeback: the page is being written from now on; with tags it changes from one to the other.
pub fn set_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    let mapping = page::page_mapping(k, page);
    bug_on!(k, PageCache, mapping.is_null(), page.va());
    match k.axes().page_cache {
        CacheKind::Tagged => {
            let irq = k.irq_save();
            mapping.tree_lock(k).lock(k);
            let was = page::test_and_set(k, page, pg::WRITEBACK);
            bug_on!(k, PageCache, was, page.va());
            let (tree, index) = (mapping.page_tree(k), index_of(k, page));
            radix_tree::tag_set(k, tree, index, Tag::Writeback);
            if !page::test(k, page, pg::DIRTY) {
                radix_tree::tag_clear(k, tree, index, Tag::Dirty);
            }
            mapping.tree_lock(k).unlock(k);
            k.irq_restore(irq);
        }
        CacheKind::Lists => {
            let was = page::test_and_set(k, page, pg::WRITEBACK);
            bug_on!(k, PageCache, was, page.va());
        }
    }
    mod_page_state(k, State::NrWriteback, 1);
}

/// test_clear_page_writeback: the device has it.
pub fn clear_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    let mapping = page::page_mapping(k, page);
    bug_on!(k, PageCache, mapping.is_null(), page.va());
    match k.axes().page_cache {
        CacheKind::Tagged => {
            let irq = k.irq_save();
            mapping.tree_lock(k).lock(k);
            let was = page::test_and_clear(k, page, pg::WRITEBACK);
            bug_on!(k, PageCache, !was, page.va());
            let (tree, index) = (mapping.page_tree(k), index_of(k, page));
            radix_tree::tag_clear(k, tree, index, Tag::Writeback);
            mapping.tree_lock(k).unlock(k);
            k.irq_restore(irq);
        }
        CacheKind::Lists => {
            let was = page::test_and_clear(k, page, pg::WRITEBACK);
            bug_on!(k, PageCache, !was, page.va());
        }
    }
    mod_page_state(k, State::NrWriteback, u32::MAX);
}
