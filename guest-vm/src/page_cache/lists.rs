//! The page cache of 2.6.0–2.6.5: every page of a mapping is on one of four lists through page->list (include/linux/fs.h,
//! mm/filemap.c, fs/mpage.c of 2.6.0).
//!
//! A new page is put on `clean_pages`; dirtying moves it to the head of `dirty_pages`; writeback takes `dirty_pages` in one piece in
//! front of `io_pages` and works from that list's tail, so pages leave in the order in which they became dirty;
//! a page being written stands on `locked_pages` until somebody waits for it. A kernel with tags has neither lists nor links. The swap
//! cache is a mapping like others where its pages are keyed as others are ([`crate::swap::keyed_by_mapping`]); under 2.6.5-aa its heads
//! stay empty.
//!
//! Invariant: a page of a file's mapping is on exactly one of its four lists.

use crate::axes::CacheKind;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::{Mapping, Page};
use crate::list::ListHead;
use crate::ptr::Low;
use crate::struct_page;

guest_struct! {
    /// What address_space has besides with lists: 32 bytes.
    pub struct MappingLists [K] size 32;
    at 0 => part clean_pages: ListHead;
    at 8 => part dirty_pages: ListHead;
    at 16 => part locked_pages: ListHead;
    at 24 => part io_pages: ListHead;
}

/// Where the lists lie in a mapping: behind tree and lock.
const MAPPING_LISTS: u32 = 20;

/// Whether this kernel has lists.
#[inline(always)]
pub fn has_lists<K: Kernel>(k: K) -> bool {
    matches!(k.axes().page_cache, CacheKind::Lists)
}

/// The lists of a mapping; only where [`has_lists`].
#[inline(always)]
pub fn of<K: Kernel>(_: K, mapping: Low<Mapping>) -> Low<MappingLists> {
    mapping.field(MAPPING_LISTS)
}

/// The links of a page; only where [`has_lists`].
#[inline(always)]
pub fn links<K: Kernel>(k: K, page: Low<Page>) -> Low<ListHead> {
    page.list(k)
}

/// The page with these links.
#[inline(always)]
pub fn page_of<K: Kernel>(k: K, links: Low<ListHead>) -> Low<Page> {
    links.container(struct_page::list(k.axes()))
}

/// Empty lists of a new mapping.
#[inline(always)]
pub fn init<K: Kernel>(k: K, mapping: Low<Mapping>) {
    if has_lists(k) {
        let l = of(k, mapping);
        l.clean_pages(k).init(k);
        l.dirty_pages(k).init(k);
        l.locked_pages(k).init(k);
        l.io_pages(k).init(k);
    }
}

/// A page came into `mapping`; its lock is held.
#[inline(always)]
pub fn added<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) {
    if has_lists(k) {
        links(k, page).add_to(k, of(k, mapping).clean_pages(k));
    }
}

/// A page left its mapping, whose lock is held.
#[inline(always)]
pub fn removed<K: Kernel>(k: K, page: Low<Page>) {
    if has_lists(k) {
        links(k, page).del(k);
    }
}

/// list_move of a page.
#[inline(always)]
pub fn move_to<K: Kernel>(k: K, page: Low<Page>, head: Low<ListHead>) {
    links(k, page).del(k);
    links(k, page).add_to(k, head);
}

/// list_splice_init: all of `list` in front of what `head` has.
pub fn splice<K: Kernel>(k: K, list: Low<ListHead>, head: Low<ListHead>) {
    if list.is_empty(k) {
        return;
    }
    let (first, last, at) = (list.next(k), list.prev(k), head.next(k));
    first.set_prev(k, head);
    head.set_next(k, first);
    last.set_next(k, at);
    at.set_prev(k, last);
    list.init(k);
}
