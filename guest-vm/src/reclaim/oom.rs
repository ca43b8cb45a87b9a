//! When reclaim has failed for good: out_of_memory (mm/oom_kill.c of 2.6.7), and the state the real kernel hangs in.
//!
//! out_of_memory kills only if no swap is free, failures have lasted 1 s without a gap over 5 s, at least 10 came after that second,
//! and the last kill is 5 s ago; time is VM time ([`crate::clock`]). A kill ends the run as an outcome: the recording knows no killed process.
//! So low memory exhausted *with* free swap never kills: requests of up to 8 pages loop for ever, the "lock-up" reported
//! in 2004. [`is_livelock`] is this project's definition of that state: for one request, reclaims in a row, each through all
//! priorities, that freed no page in any zone the request may use, nor did the timer of slab find one ([`crate::slab::reap::reap_if_due`]); at least [`LIVELOCK_ROUNDS`] of them, over at least
//! [`LIVELOCK_MS`] of VM time (longer than any rule above waits).
//!
//! Invariant: a run that ends here says for which zone and for whom.

use super::{Request, state};
use crate::clock::now_ms;
use crate::kernel::Kernel;
use crate::layout::Task;
use crate::list::ListHead;
use crate::ptr::Low;
use crate::swap;
use crate::task::tasks;
use lowmem_abi::port::ReportKind;

/// Fruitless reclaims of one request, down to priority 0 each, before the run may end as livelock. Our definition.
pub const LIVELOCK_ROUNDS: u32 = 32;
/// VM time that they must have lasted, in milliseconds. Our definition.
pub const LIVELOCK_MS: u32 = 10_000;
/// Reclaims of one request, fruitful or not, after which the run ends as livelock all the same: pages that were freed went
/// elsewhere each time. Our definition.
pub const MOST_ROUNDS: u32 = 1024;

/// How long failures must have lasted, and between two kills at least, in milliseconds.
const LASTING_MS: u32 = 1000;
/// A gap this long makes the next failure the first.
const GAP_MS: u32 = 5000;
/// Failures before a kill, not counting those of the first second.
const FAILURES: u32 = 10;
/// Offset of `tasks` in a task.
const TASKS: u32 = 28;

/// How a request that goes round has fared.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    /// Reclaims in all.
    all: u32,
    /// In a row, without a page.
    fruitless: u32,
    /// VM time when the fruitless ones began.
    since_ms: u32,
}

impl Rounds {
    /// None yet.
    pub fn new<K: Kernel>(k: K) -> Self {
        Self {
            all: 0,
            fruitless: 0,
            since_ms: now_ms(k),
        }
    }
    /// One reclaim more, which freed so many pages.
    pub fn add<K: Kernel>(&mut self, k: K, freed: u32) {
        self.all += 1;
        self.fruitless += 1;
        if freed != 0 {
            self.fruitless = 0;
            self.since_ms = now_ms(k);
        }
    }
}

/// Whether a request is to be taken for looping for ever.
pub fn is_livelock<K: Kernel>(k: K, r: &Rounds) -> bool {
    let fruitless =
        r.fruitless >= LIVELOCK_ROUNDS && now_ms(k).wrapping_sub(r.since_ms) >= LIVELOCK_MS;
    fruitless || r.all >= MOST_ROUNDS
}

/// Direct reclaim has failed at all priorities: kills, which ends the run, if the rules say so.
#[cold]
pub fn out_of_memory<K: Kernel>(k: K, r: &Request) {
    let (slots, used) = (swap::total_slots(k), swap::usage(k).1);
    if slots > used {
        return;
    }
    let s = state(k);
    let now = now_ms(k);
    let last = s.oom_last(k);
    let fresh = s.oom_seen(k) == 0 || now.wrapping_sub(last) > GAP_MS;
    s.set_oom_seen(k, 1);
    s.set_oom_last(k, now);
    if fresh {
        // The first one starts the clock and is not counted, nor are those of the first second.
        s.set_oom_first(k, now);
        s.set_oom_count(k, 0);
        return;
    }
    if now.wrapping_sub(s.oom_first(k)) < LASTING_MS {
        return;
    }
    let count = s.oom_count(k) + 1;
    s.set_oom_count(k, count);
    if count < FAILURES {
        return;
    }
    let victim = select_victim(k);
    end(k, ReportKind::OomKill, r, victim)
}

/// The task with the largest address space (badness without its time factors: the trace has no CPU times; and none of its
/// processes is root's).
fn select_victim<K: Kernel>(k: K) -> u32 {
    let head = tasks(k).idle(k).tasks(k);
    let (mut pid, mut most) = (0, 0);
    let mut at: Low<ListHead> = head.next(k);
    while at != head {
        let task: Low<Task> = at.container(TASKS);
        let mm = task.mm(k);
        if !mm.is_null() && mm.total_vm(k) > most {
            most = mm.total_vm(k);
            pid = task.pid(k);
        }
        at = at.next(k);
    }
    pid
}

/// The request loops for ever: the run ends.
#[cold]
pub fn livelock<K: Kernel>(k: K, r: &Request) -> ! {
    end(k, ReportKind::Livelock, r, 0)
}

fn end<K: Kernel>(k: K, kind: ReportKind, r: &Request, victim: u32) -> ! {
    // Order in the low byte, the victim above it.
    k.fatal(kind, r.highest(), r.order | victim << 8, r.owner as u32)
}
