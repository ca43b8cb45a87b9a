//! Rule 9 and its like for lists: what mappings, inodes, counters and buffers say of dirty pages and of pages under way, against the
//! pages themselves.

use super::{Violation, each_file};
use crate::axes::CacheKind;
use crate::cluster;
use crate::file::{I_DATA, Inode};
use crate::io;
use crate::kernel::Kernel;
use crate::layout::{Mapping, Page, pg, vm_ops};
use crate::list::ListHead;
use crate::page;
use crate::page_cache::buffers::{self, BufferHead, bh};
use crate::page_cache::lists;
use crate::percpu::{State, WORK_WRITEBACK, page_state, this_cpu};
use crate::ptr::Low;
use crate::radix_tree::{self, Tag};
use crate::writeback::inode::{I_DIRTY_PAGES, of_list};
use crate::writeback::state;
use crate::writeback::writer::{Phase, phase};
use std::collections::{BTreeMap, BTreeSet};

/// Whether a writer has cleared the dirty flag of `p` and not yet marked it as under writeback.
fn on_its_way<K: Kernel>(k: K, p: Low<Page>) -> bool {
    let s = state(k);
    [s.task_writer(k), s.flusher(k)]
        .iter()
        .any(|w| phase(k, *w) == Phase::Writing && w.page(k) == p)
}

/// The tags that a page must have in its tree.
pub(super) fn tags_of<K: Kernel>(k: K, p: Low<Page>) -> [bool; 2] {
    let mut tags = [false; 2];
    if k.axes().page_cache == CacheKind::Tagged {
        tags[Tag::Dirty as usize] = page::test(k, p, pg::DIRTY) || on_its_way(k, p);
        tags[Tag::Writeback as usize] = page::test(k, p, pg::WRITEBACK);
    }
    tags
}

/// Every page of `mapping` with its index.
fn pages_of<K: Kernel>(k: K, mapping: Low<Mapping>) -> Vec<(u32, Low<Page>)> {
    let mut found = Vec::new();
    let mut from = Some(0);
    while let Some(at) = from {
        let Some((index, p)) = radix_tree::next(k, mapping.page_tree(k), at, None) else {
            break;
        };
        found.push((index, p));
        from = index.checked_add(1);
    }
    found
}

/// What hangs on a list, with links checked.
fn walk<K: Kernel>(k: K, head: Low<ListHead>) -> Result<Vec<Low<ListHead>>, Violation> {
    let mut found = Vec::new();
    let mut at = head;
    loop {
        let next = at.next(k);
        if next.prev(k) != at {
            return Err(wrong(0, next.va(), "list link"));
        }
        if next == head {
            return Ok(found);
        }
        found.push(next);
        at = next;
    }
}

fn wrong(file: u32, index: u32, what: &'static str) -> Violation {
    Violation::PageTree { file, index, what }
}

/// The buffers of page `index` of a file, counted: a ring of one for each block, of this page, dirty ones only where the page is, locked
/// ones only where it is under way.
fn buffers_of<K: Kernel>(k: K, id: u32, index: u32, p: Low<Page>) -> Result<u32, Violation> {
    if !buffers::has(k, p) {
        return match page::test(k, p, pg::PRIVATE) || p.private(k) != 0 {
            true => Err(wrong(id, index, "PG_private without buffers")),
            false => Ok(0),
        };
    }
    let (blocks, mut seen) = (cluster::mmu_count(k), BTreeSet::new());
    let dirty = page::test(k, p, pg::DIRTY) || on_its_way(k, p);
    let under_way = page::test(k, p, pg::WRITEBACK);
    let mut b = Low::<BufferHead>::new(p.private(k));
    while seen.len() < blocks as usize && !b.is_null() && seen.insert(b.va()) {
        let state = b.b_state(k);
        let rules = [
            (b.b_page(k) == p, "buffer of another page"),
            (b.b_count(k) == 0, "buffer in use"),
            (
                state & 1 << bh::DIRTY == 0 || dirty,
                "dirty buffer, clean page",
            ),
            (state & 1 << bh::LOCK == 0 || under_way, "locked buffer"),
            (
                state & 1 << bh::DIRTY == 0 || state & 1 << bh::UPTODATE != 0,
                "dirty buffer without data",
            ),
        ];
        if let Some((_, what)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(wrong(id, index, what));
        }
        b = b.b_this_page(k);
    }
    if seen.len() != blocks as usize || b.va() != p.private(k) {
        return Err(wrong(id, index, "ring of buffers"));
    }
    Ok(blocks)
}

pub(super) fn check<K: Kernel>(k: K) -> Result<(), Violation> {
    let mut buffers = 0;
    let mut files = Vec::new();
    each_file(k, |f| files.push((f.id(k), f.f_mapping(k))));
    let mut dirty = 0;
    let mut must_be_listed = Vec::new();
    for (id, mapping) in files {
        let pages = pages_of(k, mapping);
        if lists::has_lists(k) {
            on_lists(k, id, mapping, &pages)?;
        }
        if mapping.a_ops(k) != vm_ops::FILE {
            continue;
        }
        let mut any = false;
        for (index, p) in pages {
            buffers += buffers_of(k, id, index, p)?;
            if page::test(k, p, pg::DIRTY) {
                dirty += 1;
                any = true;
            }
        }
        must_be_listed.push((id, Low::<Inode>::new(mapping.va() - I_DATA), any));
    }
    inodes(k, &must_be_listed)?;
    if buffers::count(k) != buffers {
        return Err(wrong(buffers, buffers::count(k), "bh_accounting"));
    }
    if page_state(k, State::NrDirty) != dirty {
        return Err(wrong(dirty, page_state(k, State::NrDirty), "nr_dirty"));
    }
    let (kept, counted) = (
        crate::reclaim::state(k).nr_unused(k),
        crate::file::count_unused_files(k),
    );
    if kept != counted {
        return Err(wrong(counted, kept, "nr_unused"));
    }
    let s = state(k);
    let idle = io::queue(k).nr(k) == 0 && s.s_dirty(k).is_empty(k) && s.s_io(k).is_empty(k);
    if !idle && this_cpu(k).work(k) & WORK_WRITEBACK == 0 {
        return Err(wrong(0, dirty, "nobody will write"));
    }
    Ok(())
}

/// Inodes of files: each on one list; one with dirty pages on a dirty list.
fn inodes<K: Kernel>(k: K, files: &[(u32, Low<Inode>, bool)]) -> Result<(), Violation> {
    let s = state(k);
    let mut place = BTreeMap::new();
    for (head, dirty) in [
        (s.inode_in_use(k), false),
        (s.s_dirty(k), true),
        (s.s_io(k), true),
    ] {
        for at in walk(k, head)? {
            if place.insert(of_list(at).va(), dirty).is_some() {
                return Err(wrong(of_list(at).i_ino(k), 0, "inode on two lists"));
            }
        }
    }
    for (id, inode, any) in files {
        match place.remove(&inode.va()) {
            None => return Err(wrong(*id, 0, "inode on no list")),
            Some(listed) => {
                let flag = inode.i_state(k) & I_DIRTY_PAGES != 0;
                let busy = inode.i_state(k) & crate::writeback::inode::I_LOCK != 0;
                if !busy && ((*any && !flag) || (flag && !listed)) {
                    return Err(wrong(*id, inode.i_state(k), "dirty pages, clean inode"));
                }
            }
        }
    }
    if place.is_empty() {
        Ok(())
    } else {
        Err(wrong(0, place.len() as u32, "inodes of no file"))
    }
}

/// Lists: every page on exactly one of four; a dirty one on dirty_pages or io_pages, unless a writer has it in hand.
fn on_lists<K: Kernel>(
    k: K,
    id: u32,
    mapping: Low<Mapping>,
    pages: &[(u32, Low<Page>)],
) -> Result<(), Violation> {
    let l = lists::of(k, mapping);
    let s = state(k);
    let in_hand = [s.task_writer(k).page(k), s.flusher(k).page(k)];
    let mut place = BTreeMap::new();
    for (head, name) in [
        (l.clean_pages(k), "clean"),
        (l.dirty_pages(k), "dirty"),
        (l.locked_pages(k), "locked"),
        (l.io_pages(k), "io"),
    ] {
        for at in walk(k, head)? {
            if place.insert(lists::page_of(k, at).va(), name).is_some() {
                return Err(wrong(id, at.va(), "page on two lists"));
            }
        }
    }
    for (index, p) in pages {
        let Some(name) = place.remove(&p.va()) else {
            return Err(wrong(id, *index, "page on no list"));
        };
        let dirty = page::test(k, *p, pg::DIRTY);
        if dirty && !matches!(name, "dirty" | "io") && !in_hand.contains(p) {
            return Err(wrong(id, *index, "dirty page on a list of others"));
        }
    }
    if place.is_empty() {
        Ok(())
    } else {
        Err(wrong(id, place.len() as u32, "stale page on a list"))
    }
}
