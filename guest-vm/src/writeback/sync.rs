//! fsync: filemap_fdatawrite, then filemap_fdatawait (mm/filemap.c, fs/buffer.c of 2.6.7 and 2.6.0); msync is not built.
//!
//! Waiting with tags looks pages up by WRITEBACK tag, 16 at a time. Waiting with lists takes locked_pages from the head and puts each
//! page on dirty_pages or clean_pages *before* it waits; a page that another writer has put on locked_pages and is about to
//! write is then passed over, because it is not under writeback yet, and fsync returns with it unwritten. That race
//! was in 2.6.0.
//!
//! Invariant: with tags, when fsync returns every page that was dirty at its start is on disk.

use crate::axes::CacheKind;
use crate::io::wait_on_page_writeback;
use crate::kernel::Kernel;
use crate::layout::{Mapping, pg};
use crate::lru;
use crate::page;
use crate::page_cache::lists;
use crate::ptr::Low;
use crate::radix_tree::Tag;
use crate::writeback::state;
use crate::writeback::writer::{self, Control, Patience, Sync, lookup_tag};
use lowmem_abi::probe::Probe;

/// fsync of a file's mapping.
pub fn fsync<K: Kernel>(k: K, mapping: Low<Mapping>) {
    k.begin(Probe::Writeback);
    let w = state(k).task_writer(k);
    start_fdatawrite(k, mapping);
    writer::finish(k, w);
    filemap_fdatawait(k, mapping);
    k.end(Probe::Writeback);
}

/// The beginning of filemap_fdatawrite, by the running task's writer.
pub fn start_fdatawrite<K: Kernel>(k: K, mapping: Low<Mapping>) {
    let control = Control {
        sync: Sync::All,
        nr_to_write: mapping.nrpages(k).saturating_mul(2).saturating_add(1),
        patience: Patience::Waits,
    };
    writer::start(k, state(k).task_writer(k), mapping, control);
}

/// filemap_fdatawait: waits for every page under writeback that can be found.
pub fn filemap_fdatawait<K: Kernel>(k: K, mapping: Low<Mapping>) {
    match k.axes().page_cache {
        CacheKind::Tagged => wait_tagged(k, mapping),
        CacheKind::Lists => wait_listed(k, mapping),
    }
}

fn wait_tagged<K: Kernel>(k: K, mapping: Low<Mapping>) {
    let pvec = lru::vectors(k).lookup(k);
    let mut index = 0;
    loop {
        index = lookup_tag(k, mapping, index, Tag::Writeback, pvec);
        let nr = pvec.nr(k);
        if nr == 0 {
            return;
        }
        let mut i = 0;
        while i < nr {
            wait_on_page_writeback(k, pvec.page(k, i));
            i += 1;
        }
        lru::release_pages(k, pvec);
        if index == 0 {
            return;
        }
    }
}

fn wait_listed<K: Kernel>(k: K, mapping: Low<Mapping>) {
    let l = lists::of(k, mapping);
    mapping.tree_lock(k).lock(k);
    while !l.locked_pages(k).is_empty(k) {
        let page = lists::page_of(k, l.locked_pages(k).next(k));
        k.probe(Probe::DirtyScanned);
        let to = if page::test(k, page, pg::DIRTY) {
            l.dirty_pages(k)
        } else {
            l.clean_pages(k)
        };
        lists::move_to(k, page, to);
        if !page::test(k, page, pg::WRITEBACK) {
            continue;
        }
        page::get_page(k, page);
        mapping.tree_lock(k).unlock(k);
        wait_on_page_writeback(k, page);
        page::put_page(k, page);
        mapping.tree_lock(k).lock(k);
    }
    mapping.tree_lock(k).unlock(k);
}
