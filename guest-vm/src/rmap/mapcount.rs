//! The mapcount in page->rmap of the schemes that search by object: how many ptes map the page (page_add_file_rmap, page_dup_rmap,
//! page_remove_rmap of 2.6.7's mm/rmap.c).
//!
//! Schemes differ in what an anonymous page names and therefore in what its last mapping gives back (`last_gone`). Chains keep ptes
//! in this word instead, except [`super::objrmap`] for file pages.
//!
//! Invariant: the word changes under the bit lock only; nr_mapped counts the pages in which it is not 0.

use crate::bug_on;
use crate::kernel::Kernel;
use crate::layout::{Page, pg};
use crate::page;
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;

/// One mapping of a file page more.
#[inline(always)]
pub(super) fn add_file<K: Kernel>(k: K, page: Low<Page>) {
    if page::test(k, page, pg::RESERVED) {
        return;
    }
    page::map_lock(k, page);
    let count = page.rmap(k);
    page.set_rmap(k, count + 1);
    if count == 0 {
        mod_page_state(k, State::NrMapped, 1);
    }
    page::map_unlock(k, page);
}

/// One mapping more of a page that has some.
#[inline(always)]
pub(super) fn dup<K: Kernel>(k: K, page: Low<Page>) {
    page::map_lock(k, page);
    page.set_rmap(k, page.rmap(k) + 1);
    page::map_unlock(k, page);
}

/// Takes one mapping off the count; the last ends with `last_gone`, still under the bit lock.
#[inline(always)]
pub(super) fn remove_then<K: Kernel>(k: K, page: Low<Page>, last_gone: impl FnOnce(K, Low<Page>)) {
    page::map_lock(k, page);
    let count = page.rmap(k);
    bug_on!(k, Mapcount, count == 0, page.va());
    page.set_rmap(k, count - 1);
    if count == 1 {
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
        page::clear(k, page, pg::ANON);
    }
    mod_page_state(k, State::NrMapped, u32::MAX);
}
