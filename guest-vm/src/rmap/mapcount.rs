//! The mapcount in page->rmap of the schemes that search by object: how many ptes map the page (page_add_file_rmap, page_dup_rmap,
//! page_remove_rmap of 2.6.7's mm/rmap.c).
//!
//! Schemes differ in what an anonymous page names and therefore in what its last mapping gives back (`last_gone`). Chains keep ptes
//! in this word instead, except [`super::objrmap`] for file pages.
//!
//! Until 2.6.8 the count changed under a bit lock of the page; from 2.6.9 on it is atomic and the lock is gone
//! ([`ReverseMap::atomic_mapcount`]).
//!
//! Invariant: the word changes under the bit lock only, where there is one; nr_mapped counts the pages in which it is not 0.

use crate::bug_on;
use crate::kernel::Kernel;
use crate::layout::{Page, pg};
use crate::page;
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::rmap::ReverseMap;

/// Whether a page is anonymous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anon {
    /// It is.
    Yes,
    /// It is no more.
    No,
}

/// PG_anon by a plain store. From 2.6.9 on it is bit 0 of page->mapping, stored with the pointer, so it costs no locked operation.
#[inline(always)]
pub(super) fn store_anon<K: Kernel>(k: K, page: Low<Page>, anon: Anon) {
    let flags = page.flags(k);
    let flags = match anon {
        Anon::Yes => flags | 1 << pg::ANON,
        Anon::No => flags & !(1 << pg::ANON),
    };
    page.set_flags(k, flags);
}

/// One mapping of a file page more.
#[inline(always)]
pub(super) fn add_file<K: Kernel>(k: K, page: Low<Page>) {
    if page::test(k, page, pg::RESERVED) {
        return;
    }
    page::map_lock(k, page);
    if raise(k, page) == 1 {
        mod_page_state(k, State::NrMapped, 1);
    }
    page::map_unlock(k, page);
}

/// Counts one pte more; the new count.
#[inline(always)]
pub(super) fn raise<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    change(k, page, 1)
}

/// Counts one pte less; the new count.
#[inline(always)]
pub(super) fn lower<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let count = change(k, page, u32::MAX);
    bug_on!(k, Mapcount, count == u32::MAX, page.va());
    count
}

#[inline(always)]
fn change<K: Kernel>(k: K, page: Low<Page>, by: u32) -> u32 {
    if K::Rmap::atomic_mapcount(k) {
        return k.atomic_add_return(page.rmap_word(k), by);
    }
    let count = page.rmap(k).wrapping_add(by);
    page.set_rmap(k, count);
    count
}

/// One mapping more of a page that has some.
#[inline(always)]
pub(super) fn dup<K: Kernel>(k: K, page: Low<Page>) {
    page::map_lock(k, page);
    raise(k, page);
    page::map_unlock(k, page);
}

/// Takes one mapping off the count; the last ends with `last_gone`, still under the bit lock.
#[inline(always)]
pub(super) fn remove_then<K: Kernel>(k: K, page: Low<Page>, last_gone: impl FnOnce(K, Low<Page>)) {
    page::map_lock(k, page);
    if lower(k, page) == 0 {
        last_gone(k, page);
    }
    page::map_unlock(k, page);
}

/// Takes one mapping off the count of a file page, or of an anonymous one whose object does not count its pages.
pub(super) fn remove<K: Kernel>(k: K, page: Low<Page>) {
    remove_then(k, page, last_gone);
}

/// The last mapping went: an anonymous page forgets its object.
pub(super) fn last_gone<K: Kernel>(k: K, page: Low<Page>) {
    if page::test(k, page, pg::ANON) {
        page.set_mapping(k, 0);
        if K::Rmap::atomic_mapcount(k) {
            store_anon(k, page, Anon::No);
        } else {
            page::clear(k, page, pg::ANON);
        }
    }
    mod_page_state(k, State::NrMapped, u32::MAX);
}
