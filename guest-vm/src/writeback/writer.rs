//! One writer's walk over the dirty pages of one mapping: mpage_writepages (fs/mpage.c of 2.6.7 and 2.6.0), in steps.
//!
//! A step ends where the real function could sleep, and so let others run: before it takes a page's lock, and inside writepage,
//! between clearing a page's dirty flag and marking it as under writeback (there get_block may read metadata). Between steps all
//! there is to know lies in the [`Writer`]. In a replay a writer runs all its steps at once; tests and `measure` interleave
//! two writers exactly.
//!
//! With tags: 16 pages at a time by DIRTY tag in file-offset order, from writeback_index for background writing (once from the start
//! if nothing was found), from 0 for fsync. With lists: dirty_pages in front of io_pages, then page by page from io_pages' tail.
//!
//! Invariant: a writer in [`Phase::Locking`] or [`Phase::Writing`] holds a reference to its page, in `Writing` its lock.

use crate::axes::CacheKind;
use crate::bug_on;
use crate::file::mpage_writepage;
use crate::guest_struct;
use crate::io::{congested, wait_on_page_writeback};
use crate::kernel::Kernel;
use crate::layout::{Mapping, Page, pg};
use crate::lru::{self, Pagevec};
use crate::page;
use crate::page_cache::lists;
use crate::page_cache::track::clear_page_dirty_for_io;
use crate::ptr::Low;
use crate::radix_tree::{self, Tag};
use crate::writeback::state;
use lowmem_abi::probe::Probe;

guest_struct! {
    /// A writer between two steps: writeback_control, and the locals of mpage_writepages.
    pub struct Writer [K] size 256;
    at 0 => word mapping, set_mapping: Low<Mapping>;
    /// A [`Phase`].
    at 4 => word phase, set_phase: u32;
    at 8 => word page, set_page: Low<Page>;
    /// A [`Sync`].
    at 12 => word sync_mode, set_sync_mode: u32;
    at 16 => word nr_to_write, set_nr_to_write: u32;
    /// 1: stops when the queue is congested.
    at 20 => word nonblocking, set_nonblocking: u32;
    at 24 => word index, set_index: u32;
    at 28 => word scanned, set_scanned: u32;
    at 32 => word done, set_done: u32;
    /// It stopped at a congested queue.
    at 36 => word congestion, set_congestion: u32;
    /// Next page of the batch.
    at 40 => word batch_at, set_batch_at: u32;
    at 128 => part batch: Pagevec;
}

/// Where a writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Nothing is being written.
    Idle = 0,
    /// Looks for the next page.
    Next = 1,
    /// Has a page and wants its lock.
    Locking = 2,
    /// Holds a page that is neither dirty nor under writeback yet.
    Writing = 3,
}

/// sync_mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Sync {
    /// WB_SYNC_NONE: what is being written already may be passed over.
    None = 0,
    /// WB_SYNC_ALL: everything, for fsync.
    All = 1,
}

/// How a writer behaves towards a queue that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Waits (fsync, balance_dirty_pages).
    Waits,
    /// Stops (nonblocking: background_writeout).
    Stops,
    /// Stops, and is the periodic run (for_kupdate).
    Periodic,
}

/// writeback_control.
#[derive(Debug, Clone, Copy)]
pub struct Control {
    /// Whether everything must be written.
    pub sync: Sync,
    /// Most pages to write.
    pub nr_to_write: u32,
    /// What a full queue does.
    pub patience: Patience,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    More,
    /// Somebody else holds the page's lock.
    Blocked,
    /// The walk is over.
    Done,
}

/// Boot.
pub fn init<K: Kernel>(k: K, w: Low<Writer>) {
    w.set_phase(k, Phase::Idle as u32);
    w.set_page(k, Low::NULL);
    w.batch(k).set_nr(k, 0);
}

/// The phase of a writer.
pub fn phase<K: Kernel>(k: K, w: Low<Writer>) -> Phase {
    match w.phase(k) {
        1 => Phase::Next,
        2 => Phase::Locking,
        3 => Phase::Writing,
        _ => Phase::Idle,
    }
}

/// Whether a writer is at work and never waits for the queue.
#[inline(always)]
pub fn stops_when_congested<K: Kernel>(k: K, w: Low<Writer>) -> bool {
    w.phase(k) == Phase::Writing as u32 && w.nonblocking(k) != 0
}

/// do_writepages' beginning; with lists, whoever does not carry on a periodic run takes what became dirty meanwhile.
pub fn start<K: Kernel>(k: K, w: Low<Writer>, mapping: Low<Mapping>, control: Control) {
    bug_on!(k, Writeback, w.phase(k) != Phase::Idle as u32, w.phase(k));
    w.set_mapping(k, mapping);
    w.set_phase(k, Phase::Next as u32);
    w.set_sync_mode(k, control.sync as u32);
    w.set_nr_to_write(k, control.nr_to_write);
    w.set_nonblocking(k, (control.patience != Patience::Waits) as u32);
    w.set_done(k, 0);
    w.set_congestion(k, 0);
    w.set_batch_at(k, 0);
    w.batch(k).set_nr(k, 0);
    match k.axes().page_cache {
        CacheKind::Tagged => {
            let all = control.sync == Sync::All;
            w.set_scanned(k, all as u32);
            w.set_index(k, if all { 0 } else { mapping.writeback_index(k) });
        }
        CacheKind::Lists => {
            let l = lists::of(k, mapping);
            mapping.tree_lock(k).lock(k);
            if control.patience != Patience::Periodic || l.io_pages(k).is_empty(k) {
                lists::splice(k, l.dirty_pages(k), l.io_pages(k));
            }
            mapping.tree_lock(k).unlock(k);
        }
    }
}

/// Runs a writer to its end. If another writer holds a page it wants, that one gets on first (it would run while this
/// one sleeps on the lock).
pub fn finish<K: Kernel>(k: K, w: Low<Writer>) {
    loop {
        match step(k, w) {
            Step::More => {}
            Step::Done => return,
            Step::Blocked => {
                let s = state(k);
                let other = if w == s.flusher(k) {
                    s.task_writer(k)
                } else {
                    s.flusher(k)
                };
                bug_on!(k, Writeback, other.page(k) != w.page(k), w.page(k).va());
                let _ = step(k, other);
            }
        }
    }
}

/// One step.
#[inline]
pub fn step<K: Kernel>(k: K, w: Low<Writer>) -> Step {
    match phase(k, w) {
        Phase::Idle => Step::Done,
        Phase::Next => match k.axes().page_cache {
            CacheKind::Tagged => next_tagged(k, w),
            CacheKind::Lists => next_listed(k, w),
        },
        Phase::Locking => lock(k, w),
        Phase::Writing => write(k, w),
    }
}

/// Has a page, referenced.
#[inline(always)]
fn found<K: Kernel>(k: K, w: Low<Writer>, page: Low<Page>) -> Step {
    w.set_page(k, page);
    w.set_phase(k, Phase::Locking as u32);
    Step::More
}

#[inline(always)]
fn ended<K: Kernel>(k: K, w: Low<Writer>) -> Step {
    w.set_phase(k, Phase::Idle as u32);
    Step::Done
}

/// pagevec_lookup_tag: up to 16 pages with `tag` from `from` on, with references; where to go on.
pub fn lookup_tag<K: Kernel>(
    k: K,
    mapping: Low<Mapping>,
    from: u32,
    tag: Tag,
    pvec: Low<Pagevec>,
) -> u32 {
    pvec.set_nr(k, 0);
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    let range = (from, lru::PAGEVEC_SIZE);
    let next = radix_tree::gang_lookup_tag(k, mapping.page_tree(k), range, tag, pvec);
    let nr = pvec.nr(k);
    let mut i = 0;
    while i < nr {
        page::get_page(k, pvec.page(k, i));
        i += 1;
    }
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    next
}

fn next_tagged<K: Kernel>(k: K, w: Low<Writer>) -> Step {
    let batch = w.batch(k);
    let at = w.batch_at(k);
    // A batch is written to its end, whatever made the walk done.
    if at < batch.nr(k) {
        w.set_batch_at(k, at + 1);
        return found(k, w, batch.page(k, at));
    }
    lru::release_pages(k, batch);
    w.set_batch_at(k, 0);
    let mapping = w.mapping(k);
    while w.done(k) == 0 {
        let next = lookup_tag(k, mapping, w.index(k), Tag::Dirty, batch);
        if batch.nr(k) != 0 {
            w.set_scanned(k, 1);
            // 0 behind the last index there can be: nothing more will be found from the largest.
            w.set_index(k, if next == 0 { u32::MAX } else { next });
            w.set_batch_at(k, 1);
            return found(k, w, batch.page(k, 0));
        }
        if w.scanned(k) != 0 {
            break;
        }
        w.set_scanned(k, 1);
        w.set_index(k, 0);
    }
    mapping.set_writeback_index(k, w.index(k));
    ended(k, w)
}

fn next_listed<K: Kernel>(k: K, w: Low<Writer>) -> Step {
    let mapping = w.mapping(k);
    let l = lists::of(k, mapping);
    let all = w.sync_mode(k) == Sync::All as u32;
    mapping.tree_lock(k).lock(k);
    while w.done(k) == 0 && !l.io_pages(k).is_empty(k) {
        let page = lists::page_of(k, l.io_pages(k).prev(k));
        k.probe(Probe::DirtyScanned);
        lists::links(k, page).del(k);
        let dirty = page::test(k, page, pg::DIRTY);
        if page::test(k, page, pg::WRITEBACK) && !all {
            let to = if dirty {
                l.dirty_pages(k)
            } else {
                l.locked_pages(k)
            };
            lists::links(k, page).add_to(k, to);
            continue;
        }
        if !dirty {
            lists::links(k, page).add_to(k, l.clean_pages(k));
            continue;
        }
        lists::links(k, page).add_to(k, l.locked_pages(k));
        page::get_page(k, page);
        mapping.tree_lock(k).unlock(k);
        return found(k, w, page);
    }
    mapping.tree_lock(k).unlock(k);
    ended(k, w)
}

/// Takes the lock; a page that is still the mapping's, dirty and not under writeback becomes clean.
fn lock<K: Kernel>(k: K, w: Low<Writer>) -> Step {
    let page = w.page(k);
    if page::test_and_set(k, page, pg::LOCKED) {
        return Step::Blocked;
    }
    let ours = page.mapping(k) == w.mapping(k).va();
    if ours && w.sync_mode(k) == Sync::All as u32 {
        wait_on_page_writeback(k, page);
    }
    if !ours || page::test(k, page, pg::WRITEBACK) || !clear_page_dirty_for_io(k, page) {
        page::unlock_page(k, page);
        release(k, w, page);
        return Step::More;
    }
    w.set_phase(k, Phase::Writing as u32);
    Step::More
}

/// The rest of writepage, and the accounts.
fn write<K: Kernel>(k: K, w: Low<Writer>) -> Step {
    let page = w.page(k);
    mpage_writepage(k, page);
    release(k, w, page);
    let left = w.nr_to_write(k).saturating_sub(1);
    w.set_nr_to_write(k, left);
    if left == 0 {
        w.set_done(k, 1);
    }
    if w.nonblocking(k) != 0 && congested(k) {
        w.set_congestion(k, 1);
        w.set_done(k, 1);
    }
    Step::More
}

/// A page is dealt with. With tags its reference goes with the batch.
fn release<K: Kernel>(k: K, w: Low<Writer>, page: Low<Page>) {
    w.set_page(k, Low::NULL);
    w.set_phase(k, Phase::Next as u32);
    if matches!(k.axes().page_cache, CacheKind::Lists) {
        page::put_page(k, page);
    }
}
