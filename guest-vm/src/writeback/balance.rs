//! Thresholds and ages (mm/page-writeback.c of 2.6.7): who has to write when too much memory is dirty, or dirty for too long.
//!
//! Background writing starts at 10 % of the memory that can hold page cache, writers are stopped at 40 % (less where more than 20 % of
//! memory is mapped: half of what is not, at least 5 %); every 5 seconds what has been dirty for 30 is written. The numbers
//! are the kernel's defaults; what a second is, see [`crate::clock`].
//!
//! Invariant: a writer leaves [`balance_dirty_pages_ratelimited`] below the limit, or after it has written its share.

use crate::clock::now_ms;
use crate::cluster;
use crate::io::congestion_wait;
use crate::kernel::Kernel;
use crate::layout::Mapping;
use crate::page_alloc::zone::{MAX_NR_ZONES, node};
use crate::percpu::{State, page_state};
use crate::ptr::Low;
use crate::writeback::inode::{background, writeback_inodes};
use crate::writeback::writer::Patience;
use crate::writeback::{EXPIRE_MS, state, wake};
use lowmem_abi::layout::PAGE_SIZE;
use lowmem_abi::probe::Probe;

/// dirty_background_ratio.
const BACKGROUND_RATIO: u32 = 10;
/// vm_dirty_ratio.
const DIRTY_RATIO: u32 = 40;
/// MAX_WRITEBACK_PAGES: pages pdflush writes before it looks around.
const MAX_WRITEBACK_PAGES: u32 = 1024;
/// Rate limit once the threshold was exceeded.
const RATELIMIT_EXCEEDED: u32 = 8;

/// Frames that a CPU may dirty at most between two looks: 4 MB.
const RATELIMIT_MOST_FRAMES: u32 = (4 << 20) / PAGE_SIZE;

/// page_writeback_init, set_ratelimit: total pages, and how many a CPU may dirty between two looks: 1/32 of memory, at least 16
/// pages, at most 4 MB.
pub fn init<K: Kernel>(k: K) {
    let mut total = 0;
    let mut kind = 0;
    while kind < MAX_NR_ZONES {
        let zone = node(k).zone(k, kind);
        total += zone.present_pages(k).saturating_sub(zone.pages_high(k));
        kind += 1;
    }
    let w = state(k);
    let most = RATELIMIT_MOST_FRAMES >> cluster::mmu_shift(k);
    w.set_total_pages(k, total);
    w.set_ratelimit_pages(k, (total / 32).max(16).min(most));
}

/// The two limits, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// pdflush starts here.
    pub background: u32,
    /// Writers stop here.
    pub dirty: u32,
}

/// get_dirty_limits.
pub fn dirty_limits<K: Kernel>(k: K) -> Limits {
    let total = state(k).total_pages(k);
    let mapped = page_state(k, State::NrMapped);
    let unmapped_ratio = 100u32.saturating_sub(mapped.saturating_mul(100) / total.max(1));
    let dirty_ratio = DIRTY_RATIO.min(unmapped_ratio / 2).max(5);
    let background_ratio = if BACKGROUND_RATIO >= dirty_ratio {
        dirty_ratio / 2
    } else {
        BACKGROUND_RATIO
    };
    Limits {
        background: percent(total, background_ratio),
        dirty: percent(total, dirty_ratio),
    }
}

/// `ratio` percent of `total`, which is below 2^24 pages.
#[inline(always)]
fn percent(total: u32, ratio: u32) -> u32 {
    total * ratio / 100
}

/// balance_dirty_pages_ratelimited: a page of `mapping` was dirtied by the running task.
#[inline]
pub fn balance_dirty_pages_ratelimited<K: Kernel>(k: K, _mapping: Low<Mapping>) {
    let w = state(k);
    let limit = if w.dirty_exceeded(k) != 0 {
        RATELIMIT_EXCEEDED
    } else {
        w.ratelimit_pages(k)
    };
    let n = w.ratelimits(k) + 1;
    if n < limit {
        w.set_ratelimits(k, n);
        return;
    }
    w.set_ratelimits(k, 0);
    k.begin(Probe::Writeback);
    balance_dirty_pages(k);
    k.end(Probe::Writeback);
}

/// balance_dirty_pages: writes and waits while there is too much; wakes pdflush above the background limit.
fn balance_dirty_pages<K: Kernel>(k: K) {
    let w = state(k);
    let write_chunk = w.ratelimit_pages(k) + w.ratelimit_pages(k) / 2;
    let mut written = 0;
    let mut exceeded = true;
    loop {
        if !over_limit(k) {
            exceeded = false;
            break;
        }
        w.set_dirty_exceeded(k, 1);
        if page_state(k, State::NrDirty) != 0 {
            let pass = writeback_inodes(k, background(k, write_chunk, Patience::Waits), None);
            written += write_chunk - pass.left;
            if !over_limit(k) {
                exceeded = false;
                break;
            }
            if written >= write_chunk {
                break;
            }
        }
        if !congestion_wait(k) {
            break;
        }
    }
    if !exceeded {
        w.set_dirty_exceeded(k, 0);
    }
    if w.background(k) == 0 && page_state(k, State::NrDirty) > dirty_limits(k).background {
        w.set_background(k, 1);
        wake(k);
    }
}

fn over_limit<K: Kernel>(k: K) -> bool {
    let held = page_state(k, State::NrDirty) + page_state(k, State::NrWriteback);
    held > dirty_limits(k).dirty
}

/// wakeup_bdflush: reclaim has looked at `pages` pages in vain; pdflush is to write as many, however few are dirty, at its next turn.
pub fn wakeup_bdflush<K: Kernel>(k: K, pages: u32) {
    let w = state(k);
    w.set_min_pages(k, w.min_pages(k).max(pages));
    w.set_background(k, 1);
    wake(k);
}

/// background_writeout: pdflush writes until dirty memory is below the background limit and it has written what reclaim asked for,
/// nothing more can be written, or the queue is congested; then it comes back when pages have arrived.
pub fn background_writeout<K: Kernel>(k: K) {
    let w = state(k);
    loop {
        let min_pages = w.min_pages(k);
        if min_pages == 0 && page_state(k, State::NrDirty) < dirty_limits(k).background {
            break;
        }
        let control = background(k, MAX_WRITEBACK_PAGES, Patience::Stops);
        let pass = writeback_inodes(k, control, None);
        let written = MAX_WRITEBACK_PAGES.saturating_sub(pass.left);
        w.set_min_pages(k, min_pages.saturating_sub(written));
        if pass.congested {
            return;
        }
        if pass.left > 0 {
            break;
        }
    }
    w.set_background(k, 0);
    w.set_min_pages(k, 0);
}

/// The periodic run begins: what became dirty 30 seconds ago or earlier, at most so many pages.
pub fn begin_kupdate<K: Kernel>(k: K) {
    let w = state(k);
    w.set_kupdate_oldest(k, now_ms(k).wrapping_sub(EXPIRE_MS));
    w.set_kupdate_left(k, page_state(k, State::NrDirty) + w.nr_inodes(k));
}

/// wb_kupdate: goes on with the periodic run until it is done or the queue is congested. Where the real one then waits for room
/// (blk_congestion_wait, at most HZ/10), this one comes back when pages have arrived.
pub fn wb_kupdate<K: Kernel>(k: K) {
    let w = state(k);
    let oldest = w.kupdate_oldest(k);
    let mut left = w.kupdate_left(k);
    while left > 0 {
        let control = background(k, MAX_WRITEBACK_PAGES, Patience::Periodic);
        let pass = writeback_inodes(k, control, Some(oldest));
        left = left.saturating_sub(MAX_WRITEBACK_PAGES.saturating_sub(pass.left));
        if pass.left > 0 {
            if pass.congested {
                break;
            }
            // All the old data is written.
            left = 0;
        }
    }
    w.set_kupdate_left(k, left);
}
