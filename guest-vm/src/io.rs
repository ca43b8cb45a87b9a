//! Page writes under way: the block layer's queue, as far as reclaim sees it (mm/page_io.c, mm/filemap.c, mm/swap.c of 2.6.7).
//!
//! A write begins with PG_writeback set and ends with it clear. In between the device has the page's content already (the
//! transfer is made at once), but for the kernel the request is under way: such a page cannot be freed. Requests complete in order,
//! all together: when somebody waits (a nap, a full queue, truncation) or at the next return to user mode. That rule
//! depends on nothing but the order of kernel work, so it is the same in both modes. Left out: merging, read requests
//! (a read is waited for where it is made), errors.
//!
//! Invariant: a page has PG_writeback exactly while it is in the queue.

use crate::bug_on;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::{Page, pg};
use crate::page;
use crate::page_alloc::{self, page_to_pfn};
use crate::percpu::{self, State, mod_page_state};
use crate::ptr::Low;
use crate::radix_tree::{self, Tag};
use crate::root;
use lowmem_abi::port::{Transfer, TransferKind};

/// Requests a queue holds (BLKDEV_MAX_RQ).
pub const MAX_REQUESTS: u32 = 128;

guest_struct! {
    /// The queue.
    pub struct Queue [K] size 520;
    at 0 => word nr, set_nr: u32;
    at 8 => words page, set_page: Low<Page>, 128;
}

/// The queue of writes.
#[inline(always)]
pub fn queue<K: Kernel>(k: K) -> Low<Queue> {
    root::part(k, root::IO_QUEUE)
}

/// Boot: nothing under way.
pub fn init<K: Kernel>(k: K) {
    queue(k).set_nr(k, 0);
}

/// Index of a page in its mapping's tree.
#[inline(always)]
fn tree_index<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    if page::test(k, page, pg::SWAPCACHE) {
        page.private(k)
    } else {
        page.index(k)
    }
}

/// set_page_writeback of a locked page: the flag, tag WRITEBACK on, tag DIRTY off unless the page is dirty again.
pub fn set_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    let mapping = page::page_mapping(k, page);
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    bug_on!(k, Io, page::test_and_set(k, page, pg::WRITEBACK), page.va());
    mod_page_state(k, State::NrWriteback, 1);
    let (tree, index) = (mapping.page_tree(k), tree_index(k, page));
    radix_tree::tag_set(k, tree, index, Tag::Writeback);
    if !page::test(k, page, pg::DIRTY) {
        radix_tree::tag_clear(k, tree, index, Tag::Dirty);
    }
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
}

/// test_clear_page_writeback, which must find it set.
fn clear_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    let mapping = page::page_mapping(k, page);
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    bug_on!(
        k,
        Io,
        !page::test_and_clear(k, page, pg::WRITEBACK),
        page.va()
    );
    mod_page_state(k, State::NrWriteback, u32::MAX);
    radix_tree::tag_clear(k, mapping.page_tree(k), tree_index(k, page), Tag::Writeback);
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
}

/// submit_bio of one page that is under writeback: to slot or file page `index`.
pub fn submit_write<K: Kernel>(
    k: K,
    page: Low<Page>,
    kind: TransferKind,
    (file, index): (u32, u32),
) {
    let q = queue(k);
    if q.nr(k) == MAX_REQUESTS {
        complete_all(k);
    }
    k.transfer(Transfer {
        kind: kind as u32,
        pfn: page_to_pfn(k, page),
        file,
        index,
    });
    let nr = q.nr(k);
    q.set_page(k, nr, page);
    q.set_nr(k, nr + 1);
    percpu::add_work(k, percpu::WORK_IO);
}

/// All requests complete (end_swap_bio_write, mpage_end_io_write), oldest first.
pub fn complete_all<K: Kernel>(k: K) {
    let q = queue(k);
    let nr = q.nr(k);
    let mut i = 0;
    while i < nr {
        end_page_writeback(k, q.page(k, i));
        i += 1;
    }
    q.set_nr(k, 0);
}

/// end_page_writeback: a page that reclaim wanted goes to the inactive list's tail, where it is met next.
fn end_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    if page::test_and_clear(k, page, pg::RECLAIM) {
        rotate_reclaimable_page(k, page);
    }
    clear_page_writeback(k, page);
}

fn rotate_reclaimable_page<K: Kernel>(k: K, page: Low<Page>) {
    let skip = 1 << pg::LOCKED | 1 << pg::DIRTY | 1 << pg::ACTIVE;
    if page.flags(k) & skip != 0 || !page::test(k, page, pg::LRU) {
        return;
    }
    let zone = page_alloc::zone_of(k, page);
    let irq = k.irq_save();
    zone.lru_lock(k).lock(k);
    page.lru(k).del(k);
    page.lru(k).add_tail_to(k, zone.inactive_list(k));
    mod_page_state(k, State::PgRotated, 1);
    zone.lru_lock(k).unlock(k);
    k.irq_restore(irq);
}

/// wait_on_page_writeback: what the page waits for completes, and what was asked for before it.
#[inline]
pub fn wait_on_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    if page::test(k, page, pg::WRITEBACK) {
        complete_all(k);
    }
}
