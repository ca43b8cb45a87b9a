//! Page writes under way: the block layer's queue as the VM sees it (drivers/block/ll_rw_blk.c, mm/page_io.c, mm/filemap.c, mm/swap.c of
//! 2.6.7). It stands for bios, requests and the driver, which the rebuilt kernel does not have.
//!
//! A write begins with PG_writeback set and ends with it clear. In between the device has the page's content already (the
//! transfer is made at once), but for the kernel the request is under way: such a page cannot be freed. Neighbouring pages of
//! one file, or of swap, make one request of up to 31 pages, as merging did; 128 requests are the queue's room, 113 of them
//! congest it. Requests complete in order, all together: when somebody waits (a nap, a full queue, truncation), at the next
//! return to user mode after reclaim has begun one, else when the trace clock has moved on. That rule depends on nothing but the
//! order of kernel work, so it is the same in both modes. Which order the device makes of the queue is the
//! machine's disk model. Left out: read requests (a read is waited for where it is made), errors, completion interrupts.
//!
//! Invariant: a page has PG_writeback exactly while it is in the queue.

use crate::bug_on;
use crate::clock::now_ms;
use crate::cluster;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::{Page, pg};
use crate::page;
use crate::page_alloc;
use crate::page_cache::{buffers, track};
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::root;
use crate::sched;
use crate::task::current;
use crate::writeback::writer::stops_when_congested;
use crate::writeback::{state, wake};
use lowmem_abi::port::TransferKind;
use lowmem_abi::probe::Probe;

/// Requests a queue holds (BLKDEV_MAX_RQ).
pub const MAX_REQUESTS: u32 = 128;
/// Requests at which it counts as congested (queue_congestion_on_threshold): 128 - 128/8 + 1.
const CONGESTED: u32 = 113;
/// Frames of the largest request: MAX_SECTORS is 255 sectors of 512 bytes, so 31 whole frames.
const REQUEST_FRAMES: u32 = 31;

/// Pages of the largest request.
#[inline(always)]
fn request_pages<K: Kernel>(k: K) -> u32 {
    REQUEST_FRAMES >> cluster::mmu_shift(k)
}
/// Pages that all requests may have.
const RING: u32 = 1024;

guest_struct! {
    /// The queue: a ring of pages.
    pub struct Queue [K] size 4224;
    at 0 => word nr, set_nr: u32;
    at 4 => word head, set_head: u32;
    at 8 => word requests, set_requests: u32;
    /// VM time of the last submission.
    at 12 => word submitted, set_submitted: u32;
    /// Of the last page: kind of transfer, file, index, and pages of its request.
    at 16 => word last_kind, set_last_kind: u32;
    at 20 => word last_file, set_last_file: u32;
    at 24 => word last_index, set_last_index: u32;
    at 28 => word last_pages, set_last_pages: u32;
    at 128 => words slot, set_slot: Low<Page>, 1024;
}

impl Low<Queue> {
    /// The `i`-th page under way, oldest first.
    #[inline(always)]
    pub fn page<K: Kernel>(self, k: K, i: u32) -> Low<Page> {
        self.slot(k, self.head(k).wrapping_add(i) & (RING - 1))
    }
}

/// The queue of writes.
#[inline(always)]
pub fn queue<K: Kernel>(k: K) -> Low<Queue> {
    root::part(k, root::IO_QUEUE)
}

/// Boot: nothing under way.
pub fn init<K: Kernel>(k: K) {
    let q = queue(k);
    q.set_nr(k, 0);
    q.set_head(k, 0);
    q.set_requests(k, 0);
    q.set_submitted(k, 0);
    q.set_last_kind(k, 0);
    q.set_last_file(k, 0);
    q.set_last_index(k, 0);
    q.set_last_pages(k, 0);
}

/// bdi_write_congested.
#[inline(always)]
pub fn congested<K: Kernel>(k: K) -> bool {
    let q = queue(k);
    q.requests(k) >= CONGESTED || q.nr(k) >= RING - REQUEST_FRAMES
}

/// submit_bio of one page that is under writeback: to slot or file page `index`.
pub fn submit_write<K: Kernel>(
    k: K,
    page: Low<Page>,
    kind: TransferKind,
    (file, index): (u32, u32),
) {
    let q = queue(k);
    // get_request_wait: a full queue makes the submitter wait. pdflush, which stops when the queue is congested, may finish its
    // batch (a batching process could exceed the limit).
    let full = q.requests(k) >= MAX_REQUESTS && !stops_when_congested(k, state(k).flusher(k));
    if full || q.nr(k) >= RING {
        io_schedule(k);
        complete_all(k);
    }
    cluster::transfer(k, kind, page, (file, index));
    let nr = q.nr(k);
    let merges = nr != 0
        && q.last_pages(k) < request_pages(k)
        && q.last_kind(k) == kind as u32
        && q.last_file(k) == file
        && q.last_index(k).wrapping_add(1) == index;
    if merges {
        q.set_last_pages(k, q.last_pages(k) + 1);
    } else {
        q.set_requests(k, q.requests(k) + 1);
        q.set_last_pages(k, 1);
    }
    q.set_last_kind(k, kind as u32);
    q.set_last_file(k, file);
    q.set_last_index(k, index);
    q.set_slot(k, q.head(k).wrapping_add(nr) & (RING - 1), page);
    q.set_nr(k, nr + 1);
    q.set_submitted(k, now_ms(k));
    if matches!(kind, TransferKind::FileWrite) {
        k.probe(Probe::PageWritten);
    }
    wake(k);
}

/// Whether the clock has moved on since the last submission.
pub fn arrivals_due<K: Kernel>(k: K) -> bool {
    let q = queue(k);
    q.nr(k) != 0 && q.submitted(k) != now_ms(k)
}

/// The oldest request completes (end_swap_bio_write, mpage_end_io_write); its page.
fn complete_one<K: Kernel>(k: K) -> Low<Page> {
    let q = queue(k);
    let page = q.page(k, 0);
    q.set_head(k, q.head(k).wrapping_add(1) & (RING - 1));
    q.set_nr(k, q.nr(k) - 1);
    if q.nr(k) == 0 {
        q.set_requests(k, 0);
    }
    buffers::end_async_write(k, page);
    end_page_writeback(k, page);
    page
}

/// All requests complete, oldest first.
pub fn complete_all<K: Kernel>(k: K) {
    while queue(k).nr(k) != 0 {
        complete_one(k);
    }
}

/// end_page_writeback: a page that reclaim wanted goes to the inactive list's tail, where it is met next.
pub fn end_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    if page::test_and_clear(k, page, pg::RECLAIM) {
        rotate_reclaimable_page(k, page);
    }
    track::clear_page_writeback(k, page);
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

/// wait_on_page_writeback: sleeps until `page` has arrived; what was submitted before it arrives first.
#[inline]
pub fn wait_on_page_writeback<K: Kernel>(k: K, page: Low<Page>) {
    if page::test(k, page, pg::WRITEBACK) {
        wait(k, page);
    }
}

fn wait<K: Kernel>(k: K, page: Low<Page>) {
    io_schedule(k);
    loop {
        bug_on!(k, Io, queue(k).nr(k) == 0, page.va());
        if complete_one(k) == page {
            break;
        }
    }
}

/// blk_congestion_wait on behalf of a writer: sleeps until there is room. False: nothing is under way.
pub fn congestion_wait<K: Kernel>(k: K) -> bool {
    if queue(k).nr(k) == 0 {
        return false;
    }
    io_schedule(k);
    complete_all(k);
    true
}

/// io_schedule: a task sleeps for the device, to idle and back. A kernel thread's or an exiting task's wait is not switched for.
fn io_schedule<K: Kernel>(k: K) {
    if current(k).mm(k).is_null() {
        return;
    }
    let irq = k.irq_save();
    sched::sleep_and_wake(k);
    k.irq_restore(irq);
}
