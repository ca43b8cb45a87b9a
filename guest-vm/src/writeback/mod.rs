//! Writeback: who writes dirty pages of files to disk, when, and who waits for it (mm/page-writeback.c, fs/fs-writeback.c,
//! fs/mpage.c, mm/filemap.c, mm/pdflush.c of 2.6.7; what the lists of 2.6.0 do otherwise stands beside it).
//!
//! | file | owns |
//! |---|---|
//! | [`inode`] | dirty inodes: s_dirty, s_io, one pass over them |
//! | [`writer`] | one writer's walk over one mapping (mpage_writepages), in steps |
//! | [`sync`] | fsync: write all, wait for all |
//! | [`balance`] | thresholds and ages: balance_dirty_pages, background_writeout, wb_kupdate |
//! | [`queue`] | pages on their way to the disk, and what their arrival does |
//!
//! pdflush runs to completion at the end of a kernel stay when there is work, on its own side; the two switches of a real
//! kernel thread are left out. Time is the trace clock, equal in every configuration: a tick is 1,024 recorded operations, and a
//! second [`TICKS_PER_SECOND`] ticks. A page arrives at the disk when somebody waits for it, or at the next tick. How long
//! the disk really took is the machine's to say (its disk model); it is waiting time, not CPU time.
//!
//! Left out: metadata, several block devices, laptop mode, the interrupts that announce arrivals.
//!
//! Invariant: at a boundary [`WORK_WRITEBACK`] is set whenever an inode is dirty or a page is under way.

pub mod balance;
pub mod inode;
pub mod queue;
pub mod sync;
pub mod writer;

use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::Page;
use crate::list::ListHead;
use crate::mailbox::mailbox;
use crate::percpu::{WORK_WRITEBACK, this_cpu};
use crate::ptr::Low;
use crate::root;
use crate::sync::SpinLock;
use lowmem_abi::probe::Probe;
use writer::Writer;

/// Ticks of the trace clock in a second. Assumption: recordings have 5,000 to 50,000 operations a second (pg40: 330,000 in 5.8 s under
/// strace), so 1,024 x 32 is of their order.
pub const TICKS_PER_SECOND: u32 = 32;
/// dirty_writeback_centisecs: 5 s.
pub const KUPDATE_TICKS: u32 = 5 * TICKS_PER_SECOND;
/// dirty_expire_centisecs: 30 s.
pub const EXPIRE_TICKS: u32 = 30 * TICKS_PER_SECOND;

guest_struct! {
    /// The global variables of writeback, at [`root::WRITEBACK`].
    pub struct Writeback [K] size 0x2000;
    at 0 => part inode_lock: SpinLock;
    /// A writer was stopped at the limit: everybody looks more often.
    at 4 => word dirty_exceeded, set_dirty_exceeded: u32;
    /// Pages this CPU has dirtied since it last looked (per CPU).
    at 8 => word ratelimits, set_ratelimits: u32;
    /// How many it may.
    at 12 => word ratelimit_pages, set_ratelimit_pages: u32;
    /// nr_free_pagecache_pages: what the percentages are of.
    at 16 => word total_pages, set_total_pages: u32;
    /// Tick of the next periodic run.
    at 20 => word next_kupdate, set_next_kupdate: u32;
    /// background_writeout was asked for.
    at 24 => word background, set_background: u32;
    /// inodes_stat.nr_inodes, of files.
    at 28 => word nr_inodes, set_nr_inodes: u32;
    /// Inodes by the time they became dirty, newest first.
    at 32 => part s_dirty: ListHead;
    /// Inodes of the pass at hand, to be taken from the tail.
    at 40 => part s_io: ListHead;
    at 48 => part inode_in_use: ListHead;
    /// Pages under way: first, number, requests they make, tick of the last submission, where the last one was.
    at 64 => word queue_head, set_queue_head: u32;
    at 68 => word queue_pages, set_queue_pages: u32;
    at 72 => word queue_requests, set_queue_requests: u32;
    at 76 => word queue_tick, set_queue_tick: u32;
    at 80 => word last_mapping, set_last_mapping: u32;
    at 84 => word last_index, set_last_index: u32;
    /// Of the running task.
    at 256 => part task_writer: Writer;
    /// Of pdflush.
    at 512 => part flusher: Writer;
    at 0x1000 => words queue, set_queue: Low<Page>, 1024;
}

/// The state.
#[inline(always)]
pub fn state<K: Kernel>(k: K) -> Low<Writeback> {
    root::part(k, root::WRITEBACK)
}

/// The trace clock.
#[inline(always)]
pub fn now<K: Kernel>(k: K) -> u32 {
    mailbox(k).clock(k)
}

/// Boot.
pub fn init<K: Kernel>(k: K) {
    let w = state(k);
    w.inode_lock(k).init(k);
    w.set_dirty_exceeded(k, 0);
    w.set_ratelimits(k, 0);
    w.set_next_kupdate(k, 0);
    w.set_background(k, 0);
    w.set_nr_inodes(k, 0);
    w.s_dirty(k).init(k);
    w.s_io(k).init(k);
    w.inode_in_use(k).init(k);
    w.set_queue_head(k, 0);
    w.set_queue_pages(k, 0);
    w.set_queue_requests(k, 0);
    w.set_queue_tick(k, 0);
    w.set_last_mapping(k, 0);
    w.set_last_index(k, 0);
    writer::init(k, w.task_writer(k));
    writer::init(k, w.flusher(k));
    balance::init(k);
}

/// There is something that time will make due: [`run`] looks at every end of a kernel stay from now on.
#[inline(always)]
pub fn wake<K: Kernel>(k: K) {
    let cpu = this_cpu(k);
    let work = cpu.work(k);
    if work & WORK_WRITEBACK == 0 {
        cpu.set_work(k, work | WORK_WRITEBACK);
        state(k).set_next_kupdate(k, now(k).wrapping_add(KUPDATE_TICKS));
    }
}

/// pdflush at the end of a kernel stay: arrivals, the periodic run if it is due, background writeout if it was asked for.
#[cold]
#[inline(never)]
pub fn run<K: Kernel>(k: K) {
    let w = state(k);
    let now = now(k);
    let arrivals = w.queue_pages(k) != 0 && now != w.queue_tick(k);
    let due = (w.next_kupdate(k).wrapping_sub(now) as i32) <= 0;
    let background = w.background(k) != 0 && !queue::congested(k);
    if !(arrivals || due || background) {
        return;
    }
    k.begin(Probe::Writeback);
    if arrivals {
        queue::complete_all(k);
    }
    if due {
        w.set_next_kupdate(k, now.wrapping_add(KUPDATE_TICKS));
        balance::wb_kupdate(k);
    }
    if w.background(k) != 0 && !queue::congested(k) {
        balance::background_writeout(k);
    }
    let idle = w.queue_pages(k) == 0
        && w.background(k) == 0
        && w.s_dirty(k).is_empty(k)
        && w.s_io(k).is_empty(k);
    if idle {
        let cpu = this_cpu(k);
        cpu.set_work(k, cpu.work(k) & !WORK_WRITEBACK);
    }
    k.end(Probe::Writeback);
}
