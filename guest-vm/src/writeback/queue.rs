//! Pages on their way to the disk: the end of writepage (submit_bio and the request queue of drivers/block/ll_rw_blk.c) and their
//! arrival (mpage_end_io_write, end_page_writeback).
//!
//! Stands for bios, requests and the driver, which the rebuilt kernel does not have: a ring of pages in the order of submission. The
//! device takes a page's content at submission. Neighbouring pages of a file make one request of up to 128 KB, as merging did;
//! 128 requests are the queue's room, 113 of them congest it (queue_congestion_on_threshold). The order within the
//! queue is the submitters': which order the device makes of it is the machine's disk model.
//!
//! Invariant: the pages in the ring are exactly those with PG_writeback.

use crate::bug_on;
use crate::file::id_of_mapping;
use crate::kernel::Kernel;
use crate::layout::{Mapping, Page, pg};
use crate::page;
use crate::page_alloc::page_to_pfn;
use crate::page_cache::track::{end_page_writeback, set_page_writeback};
use crate::ptr::Low;
use crate::sched;
use crate::writeback::{now, state, wake, writer};
use lowmem_abi::port::{Transfer, TransferKind};
use lowmem_abi::probe::Probe;

/// Pages the ring holds.
const RING: u32 = 1024;
/// BLKDEV_MAX_RQ: requests of a queue.
const MAX_REQUESTS: u32 = 128;
/// Requests at which it counts as congested: 128 - 128/8 + 1.
const CONGESTED: u32 = 113;
/// Pages of the largest request: MAX_SECTORS is 255 sectors of 512 bytes, so 31 whole pages.
const REQUEST_PAGES: u32 = 31;

/// bdi_write_congested.
#[inline(always)]
pub fn congested<K: Kernel>(k: K) -> bool {
    let w = state(k);
    w.queue_requests(k) >= CONGESTED || w.queue_pages(k) >= RING - REQUEST_PAGES
}

/// writepage of a locked, clean page of a file (mpage_writepage, block_write_full_page): under writeback, unlocked, submitted.
/// Reclaim's pageout calls it too.
pub fn writepage<K: Kernel>(k: K, page: Low<Page>) {
    set_page_writeback(k, page);
    page::unlock_page(k, page);
    submit(k, page);
}

fn submit<K: Kernel>(k: K, page: Low<Page>) {
    let w = state(k);
    // get_request_wait: a full queue makes the submitter wait. pdflush, which stops when the queue is congested, may finish its
    // batch (a batching process could exceed the limit).
    let full = w.queue_requests(k) >= MAX_REQUESTS || w.queue_pages(k) >= RING;
    if full && !writer::stops_when_congested(k, w.flusher(k)) {
        io_schedule(k);
        complete_all(k);
    }
    let mapping = page.mapping(k);
    let index = page.index(k);
    k.transfer(Transfer {
        kind: TransferKind::FileWrite as u32,
        pfn: page_to_pfn(k, page),
        file: id_of_mapping(k, Low::<Mapping>::new(mapping)),
        index,
    });
    k.probe(Probe::PageWritten);
    let n = w.queue_pages(k);
    let merges = n != 0
        && w.last_mapping(k) == mapping
        && w.last_index(k).wrapping_add(1) == index
        && index % REQUEST_PAGES != 0;
    if !merges {
        w.set_queue_requests(k, w.queue_requests(k) + 1);
    }
    w.set_last_mapping(k, mapping);
    w.set_last_index(k, index);
    w.set_queue(k, (w.queue_head(k) + n) & (RING - 1), page);
    w.set_queue_pages(k, n + 1);
    w.set_queue_tick(k, now(k));
    wake(k);
}

/// The oldest page under way has arrived.
fn complete_one<K: Kernel>(k: K) -> Low<Page> {
    let w = state(k);
    let head = w.queue_head(k);
    let page = w.queue(k, head);
    w.set_queue_head(k, (head + 1) & (RING - 1));
    w.set_queue_pages(k, w.queue_pages(k) - 1);
    end_page_writeback(k, page);
    page
}

/// All pages under way have arrived.
pub fn complete_all<K: Kernel>(k: K) {
    let w = state(k);
    while w.queue_pages(k) != 0 {
        complete_one(k);
    }
    w.set_queue_requests(k, 0);
}

/// wait_on_page_writeback: sleeps until `page` has arrived; all that was submitted before it arrives first.
pub fn wait_on_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    if !page::test(k, page, pg::WRITEBACK) {
        return;
    }
    let w = state(k);
    io_schedule(k);
    loop {
        bug_on!(k, Writeback, w.queue_pages(k) == 0, page.va());
        if complete_one(k) == page {
            break;
        }
    }
    if w.queue_pages(k) == 0 {
        w.set_queue_requests(k, 0);
    }
}

/// blk_congestion_wait: sleeps until there is room. False: nothing is under way.
pub fn congestion_wait<K: Kernel>(k: K) -> bool {
    if state(k).queue_pages(k) == 0 {
        return false;
    }
    io_schedule(k);
    complete_all(k);
    true
}

/// io_schedule: the task sleeps for a device, to idle and back.
fn io_schedule<K: Kernel>(k: K) {
    let irq = k.irq_save();
    sched::sleep_and_wake(k);
    k.irq_restore(irq);
}
