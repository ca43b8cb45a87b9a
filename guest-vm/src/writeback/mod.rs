//! Writeback: who writes dirty pages of files to disk, when, and who waits for it (mm/page-writeback.c, fs/fs-writeback.c,
//! fs/mpage.c, mm/filemap.c, mm/pdflush.c of 2.6.7; what the lists of 2.6.0 do otherwise stands beside it).
//!
//! | file | owns |
//! |---|---|
//! | [`inode`] | dirty inodes: s_dirty, s_io, one pass over them |
//! | [`writer`] | one writer's walk over one mapping (mpage_writepages), in steps |
//! | [`sync`] | fsync: write all, wait for all |
//! | [`balance`] | thresholds and ages: balance_dirty_pages, background_writeout, wb_kupdate |
//!
//! pdflush runs at the end of a kernel stay when there is work, on its own side, until nothing is due or the queue ([`crate::io`]) is
//! congested; the two switches of a real kernel thread are left out. Time is VM time ([`crate::clock`]), equal in every
//! configuration. How long the disk really took is the machine's to say (its disk model); it is waiting time, not CPU time.
//!
//! Left out: metadata, several block devices, laptop mode.
//!
//! Invariant: at a boundary [`WORK_WRITEBACK`] is set whenever an inode is dirty or a page is under way.

pub mod balance;
pub mod inode;
pub mod sync;
pub mod writer;

use crate::clock::now_ms;
use crate::guest_struct;
use crate::io;
use crate::kernel::Kernel;
use crate::list::ListHead;
use crate::percpu::{WORK_WRITEBACK, this_cpu};
use crate::ptr::Low;
use crate::root;
use crate::sync::SpinLock;
use lowmem_abi::probe::Probe;
use writer::Writer;

/// dirty_writeback_centisecs: 5 s.
pub const KUPDATE_MS: u32 = 5_000;
/// dirty_expire_centisecs: 30 s.
pub const EXPIRE_MS: u32 = 30_000;

guest_struct! {
    /// The global variables of writeback, at [`root::WRITEBACK`].
    pub struct Writeback [K] size 1024;
    at 0 => part inode_lock: SpinLock;
    /// A writer was stopped at the limit: everybody looks more often.
    at 4 => word dirty_exceeded, set_dirty_exceeded: u32;
    /// Pages this CPU has dirtied since it last looked (per CPU).
    at 8 => word ratelimits, set_ratelimits: u32;
    /// How many it may.
    at 12 => word ratelimit_pages, set_ratelimit_pages: u32;
    /// nr_free_pagecache_pages: what the percentages are of.
    at 16 => word total_pages, set_total_pages: u32;
    /// VM time of the next periodic run.
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
    /// Pages that background_writeout is to write however few are dirty.
    at 56 => word min_pages, set_min_pages: u32;
    /// wb_kupdate, stopped by a congested queue: pages that it may still write, and the VM time of the oldest that it leaves alone.
    at 60 => word kupdate_left, set_kupdate_left: u32;
    at 64 => word kupdate_oldest, set_kupdate_oldest: u32;
    /// Of the running task.
    at 256 => part task_writer: Writer;
    /// Of pdflush.
    at 512 => part flusher: Writer;
}

/// The state.
#[inline(always)]
pub fn state<K: Kernel>(k: K) -> Low<Writeback> {
    root::part(k, root::WRITEBACK)
}

/// Boot.
pub fn init<K: Kernel>(k: K) {
    let w = state(k);
    w.inode_lock(k).init(k);
    w.set_dirty_exceeded(k, 0);
    w.set_ratelimits(k, 0);
    w.set_next_kupdate(k, 0);
    w.set_background(k, 0);
    w.set_min_pages(k, 0);
    w.set_kupdate_left(k, 0);
    w.set_kupdate_oldest(k, 0);
    w.set_nr_inodes(k, 0);
    w.s_dirty(k).init(k);
    w.s_io(k).init(k);
    w.inode_in_use(k).init(k);
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
        state(k).set_next_kupdate(k, now_ms(k).wrapping_add(KUPDATE_MS));
    }
}

/// pdflush at the end of a kernel stay: arrivals, the periodic run if it is due, background writeout if it was asked for.
#[cold]
#[inline(never)]
pub fn run<K: Kernel>(k: K) {
    let w = state(k);
    let now = now_ms(k);
    let arrivals = io::arrivals_due(k);
    let due = (w.next_kupdate(k).wrapping_sub(now) as i32) <= 0;
    let waiting = w.background(k) != 0 || w.kupdate_left(k) != 0;
    if !(arrivals || due || waiting && !io::congested(k)) {
        return;
    }
    k.begin(Probe::Writeback);
    if arrivals {
        io::complete_all(k);
    }
    if due {
        w.set_next_kupdate(k, now.wrapping_add(KUPDATE_MS));
        balance::begin_kupdate(k);
    }
    if w.kupdate_left(k) != 0 && !io::congested(k) {
        balance::wb_kupdate(k);
    }
    if w.background(k) != 0 && !io::congested(k) {
        balance::background_writeout(k);
    }
    let idle = io::queue(k).nr(k) == 0
        && w.background(k) == 0
        && w.s_dirty(k).is_empty(k)
        && w.s_io(k).is_empty(k);
    if idle {
        w.set_kupdate_left(k, 0);
        let cpu = this_cpu(k);
        cpu.set_work(k, cpu.work(k) & !WORK_WRITEBACK);
    }
    k.end(Probe::Writeback);
}
