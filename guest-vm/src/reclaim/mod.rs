//! Page reclaim (mm/vmscan.c): who scans how much, in the versions of 2.6.0, 2.6.7 and 2.6.8.
//!
//! | module | owns |
//! |---|---|
//! | [`scan`] | the two lists of a zone: refill_inactive_zone, shrink_cache, shrink_zone |
//! | [`shrink_list`] | what becomes of one isolated page, in its exact order of checks; pageout |
//! | [`kswapd`] | balance_pgdat, run at a return to user mode |
//! | [`shrinker`] | slab caches that can be shrunk: files nobody uses |
//! | [`oom`] | when a request has failed for good: out_of_memory, livelock |
//! | [`mod@unmap_probe`] | one page through the steps, for measurement |
//!
//! This file has the state, the parameters and direct reclaim (try_to_free_pages). Which version runs is a boot parameter; the
//! differences are those of the fact sheet ("2.6.0 against 2.6.7 vmscan"). Left out: laptop mode, software suspend, NUMA,
//! buffer heads.
//!
//! Invariant: between calls no page is off its LRU list, but those in the per-CPU vectors.

pub mod kswapd;
pub mod oom;
pub mod scan;
pub mod shrink_list;
pub mod shrinker;
pub mod unmap_probe;

use crate::clock::{nap, now_ms};
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::{Page, Task};
use crate::list::ListHead;
use crate::lru::{Pagevec, lru_cache_add, lru_cache_add_active};
use crate::page_alloc::{Gfp, Zone, ZoneKind, zone};
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::root;
use crate::task::current;
use crate::writeback::balance::wakeup_bdflush;
use lowmem_abi::boot::BootInfo;
use lowmem_abi::owner::Owner;
use lowmem_abi::probe::Probe;
pub use unmap_probe::{Outcome, pageout, unmap_page, unmap_probe};

/// DEF_PRIORITY: the first round looks at 1/4096 of a zone.
pub const DEF_PRIORITY: u32 = 12;
/// SWAP_CLUSTER_MAX: pages handled, and wanted, together.
pub const SWAP_CLUSTER_MAX: u32 = 32;
/// vm_swappiness.
pub const SWAPPINESS: u32 = 60;
/// task->flags: allocates for reclaim itself; may take the last page and never reclaims.
pub const PF_MEMALLOC: u32 = 0x0800;
/// task->flags: is kswapd.
pub const PF_KSWAPD: u32 = 0x4_0000;
/// Milliseconds of a nap between two rounds (HZ/10).
const ROUND_NAP_MS: u32 = 100;

guest_struct! {
    /// State of reclaim, at [`root::RECLAIM`]. The lists and vectors stand for those on the stack of the historic functions; reclaim
    /// never nests.
    pub struct ReclaimState [K] size 4096;
    /// Pages that shrink_cache isolated.
    at 0 => part page_list: ListHead;
    /// Those that shrink_list hands back.
    at 8 => part ret_pages: ListHead;
    at 16 => part l_hold: ListHead;
    at 24 => part l_inactive: ListHead;
    at 32 => part l_active: ListHead;
    /// Which kernel's reclaim: [`Version`] as a number.
    at 48 => word version, set_version: u32;
    /// Milliseconds that kernel code has slept ([`crate::clock`]).
    at 52 => word slept_ms, set_slept_ms: u32;
    /// Objects the shrinkers still owe.
    at 56 => word shrinker_nr, set_shrinker_nr: u32;
    /// Where the file shrinker goes on: bucket of the file table.
    at 60 => word shrinker_hand, set_shrinker_hand: u32;
    /// Pages given back by slab during the present round (reclaim_state).
    at 64 => word reclaimed_slab, set_reclaimed_slab: u32;
    /// out_of_memory: first and last failure, failures since, last kill.
    at 68 => word oom_first, set_oom_first: u32;
    at 72 => word oom_last, set_oom_last: u32;
    at 76 => word oom_count, set_oom_count: u32;
    /// dentry_stat.nr_unused: files that only the table holds ([`crate::file`]).
    at 80 => word nr_unused, set_nr_unused: u32;
    /// out_of_memory: 1 after the first failure of the boot (jiffies begin where no failure can have been).
    at 84 => word oom_seen, set_oom_seen: u32;
    /// VM time at which the arrays of slab are trimmed next (reap_timers).
    at 88 => word next_reap, set_next_reap: u32;
    /// 1 while the kernel can reclaim: boot has made tasks and lists.
    at 92 => word ready, set_ready: u32;
    /// 2.6.0: refill_counter of each zone.
    at 96 => words refill_counter, set_refill_counter: u32, 3;
    /// 2.4: zone->need_balance of each zone.
    at 108 => words need_balance, set_need_balance: u32, 3;
    at 128 => part freed: Pagevec;
    at 256 => part release: Pagevec;
    at 0x200 => part kswapd: Task;
}

/// The state.
#[inline(always)]
pub fn state<K: Kernel>(k: K) -> Low<ReclaimState> {
    root::part(k, root::RECLAIM)
}

/// Which kernel's reclaim; numbers are those of the boot information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Version {
    /// Linux 2.6.7.
    V2_6_7 = 0,
    /// Linux 2.6.0.
    V2_6_0 = 1,
    /// Linux 2.6.8.
    V2_6_8 = 2,
    /// Linux 2.4, with page-table scanning in place of a reverse map.
    V2_4 = 3,
}

/// The version of this boot.
#[inline(always)]
pub fn version<K: Kernel>(k: K) -> Version {
    match state(k).version(k) {
        1 => Version::V2_6_0,
        2 => Version::V2_6_8,
        3 => Version::V2_4,
        _ => Version::V2_6_7,
    }
}

/// Puts a new anonymous page, or one that comes from swap, on the list where its kernel puts it: 2.6 on the active one, 2.4, which has
/// lru_cache_add only, on the inactive one.
#[inline]
pub fn lru_cache_add_anon<K: Kernel>(k: K, page: Low<Page>) {
    match version(k) {
        Version::V2_4 => lru_cache_add(k, page),
        Version::V2_6_7 | Version::V2_6_0 | Version::V2_6_8 => lru_cache_add_active(k, page),
    }
}

/// Who reclaims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A task that needs a page.
    Direct,
    /// kswapd.
    Kswapd,
}

/// What one round goes by (the arguments that the historic functions hand down).
#[derive(Debug, Clone, Copy)]
pub struct Control {
    /// Who scans.
    pub who: Who,
    /// What the request in trouble allows.
    pub gfp: Gfp,
    /// From [`DEF_PRIORITY`] down to 0: 2^-priority of a zone is looked at.
    pub priority: u32,
    /// Mapped pages when the round began.
    pub nr_mapped: u32,
    /// Pages looked at; mapped ones and those of the swap cache count twice.
    pub scanned: u32,
    /// Of these, mapped pages and those of the swap cache, once.
    pub mapped: u32,
    /// Pages freed.
    pub reclaimed: u32,
}

impl Control {
    /// For a round of `priority`.
    pub fn new<K: Kernel>(k: K, who: Who, gfp: Gfp, priority: u32) -> Self {
        Self {
            who,
            gfp,
            priority,
            nr_mapped: crate::percpu::page_state(k, State::NrMapped),
            scanned: 0,
            mapped: 0,
            reclaimed: 0,
        }
    }
}

/// Boot, after tasks: reads the version, makes lists, kswapd.
pub fn init<K: Kernel>(k: K) {
    let s = state(k);
    for head in [
        s.page_list(k),
        s.ret_pages(k),
        s.l_hold(k),
        s.l_inactive(k),
        s.l_active(k),
    ] {
        head.init(k);
    }
    s.set_version(
        k,
        crate::task::boot_word(k, core::mem::offset_of!(BootInfo, reclaim)),
    );
    for pvec in [s.freed(k), s.release(k)] {
        pvec.set_nr(k, 0);
        // Pages that reclaim frees are not in the CPU's caches.
        pvec.set_cold(k, 1);
    }
    crate::io::init(k);
    kswapd::init(k);
    s.set_next_reap(k, now_ms(k).wrapping_add(crate::slab::reap::REAP_ARRAYS_MS));
    s.set_ready(k, 1);
}

/// A request that found no page.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// What it may have.
    pub gfp: Gfp,
    /// log2 of the pages wanted.
    pub order: u32,
    /// For whom.
    pub owner: Owner,
}

impl Request {
    /// The zone that is tried first.
    #[inline(always)]
    pub fn highest(&self) -> u32 {
        match self.gfp {
            Gfp::Kernel | Gfp::Atomic | Gfp::NoFs => ZoneKind::Normal as u32,
            Gfp::HighUser => ZoneKind::HighMem as u32,
        }
    }
}

/// Whether the running context may reclaim: not while booting and not out of reclaim itself.
#[inline]
pub fn possible<K: Kernel>(k: K) -> bool {
    state(k).ready(k) != 0 && current(k).flags(k) & PF_MEMALLOC == 0
}

/// Whether the running context may ignore watermarks (PF_MEMALLOC).
#[inline]
pub fn privileged<K: Kernel>(k: K) -> bool {
    state(k).ready(k) != 0 && current(k).flags(k) & PF_MEMALLOC != 0
}

/// Direct reclaim for a request: try_to_free_pages under PF_MEMALLOC. Pages freed.
#[cold]
#[inline(never)]
pub fn direct<K: Kernel>(k: K, r: &Request) -> u32 {
    k.begin(Probe::Reclaim);
    let task = current(k);
    task.set_flags(k, task.flags(k) | PF_MEMALLOC);
    mod_page_state(k, State::AllocStall, 1);
    let freed = match version(k) {
        Version::V2_6_7 | Version::V2_6_8 => try_to_free_pages(k, r),
        Version::V2_6_0 => try_to_free_pages_2_6_0(k, r),
        Version::V2_4 => crate::reclaim::scan::try_to_free_pages_2_4(k, r),
    };
    task.set_flags(k, task.flags(k) & !PF_MEMALLOC);
    k.end(Probe::Reclaim);
    freed
}

/// shrink_slab; pages that slab gave back.
fn reclaim_slab<K: Kernel>(k: K, scanned: u32) -> u32 {
    state(k).set_reclaimed_slab(k, 0);
    shrinker::shrink_slab(k, scanned);
    state(k).reclaimed_slab(k)
}

/// One round over every zone at `priority`, wherever the watermarks stand: pressure on demand, as software suspend makes it
/// (shrink_all_memory). Pages freed.
pub fn shrink_all<K: Kernel>(k: K, priority: u32) -> u32 {
    k.begin(Probe::Reclaim);
    let task = current(k);
    task.set_flags(k, task.flags(k) | PF_MEMALLOC);
    let mut c = Control::new(k, Who::Direct, Gfp::Kernel, priority);
    each_zone(k, ZoneKind::HighMem as u32, |z| {
        z.set_prev_priority(k, priority);
        match version(k) {
            Version::V2_6_0 => {
                let wanted = z.nr_inactive(k) / 2 + SWAP_CLUSTER_MAX;
                scan::shrink_zone_2_6_0(k, z, &mut c, wanted);
            }
            Version::V2_6_7 | Version::V2_6_8 => scan::shrink_zone(k, z, &mut c),
            Version::V2_4 => {
                c.reclaimed += scan::shrink_zone_2_4(k, z, c.gfp, (1, SWAP_CLUSTER_MAX));
            }
        }
    });
    let freed = c.reclaimed + reclaim_slab(k, c.scanned);
    task.set_flags(k, task.flags(k) & !PF_MEMALLOC);
    k.end(Probe::Reclaim);
    freed
}

/// The zones a request may use, first choice first.
fn each_zone<K: Kernel>(k: K, highest: u32, mut f: impl FnMut(Low<Zone>)) {
    let mut kind = highest + 1;
    while kind > 0 {
        kind -= 1;
        let z = zone::node(k).zone(k, kind);
        if z.present_pages(k) != 0 {
            f(z);
        }
    }
}

/// 2.6.7: every zone in each round; done at 32 pages.
fn try_to_free_pages<K: Kernel>(k: K, r: &Request) -> u32 {
    each_zone(k, r.highest(), |z| z.set_temp_priority(k, DEF_PRIORITY));
    let (mut freed, mut scanned, mut enough) = (0, 0, false);
    let mut priority = DEF_PRIORITY + 1;
    while priority > 0 && !enough {
        priority -= 1;
        let mut c = Control::new(k, Who::Direct, r.gfp, priority);
        shrink_caches(k, r, &mut c);
        freed += c.reclaimed + reclaim_slab(k, c.scanned);
        enough = freed >= SWAP_CLUSTER_MAX;
        scanned += c.scanned;
        if !enough && scanned > SWAP_CLUSTER_MAX + SWAP_CLUSTER_MAX / 2 {
            wakeup_bdflush(k, scanned);
        }
        if !enough && c.scanned != 0 && priority < DEF_PRIORITY - 2 {
            nap(k, ROUND_NAP_MS);
        }
    }
    if !enough && r.gfp.may_enter_fs() {
        oom::out_of_memory(k, r);
    }
    settle_priorities(k, r);
    freed
}

fn shrink_caches<K: Kernel>(k: K, r: &Request, c: &mut Control) {
    each_zone(k, r.highest(), |z| {
        z.set_temp_priority(k, c.priority);
        if z.prev_priority(k) > c.priority {
            z.set_prev_priority(k, c.priority);
        }
        if z.all_unreclaimable(k) == 0 || c.priority == DEF_PRIORITY {
            scan::shrink_zone(k, z, c);
        }
    });
}

/// 2.6.0: stops at the first zone that gave enough; slab only for low zones, after a nap; one round without __GFP_FS. How hard the next
/// scan presses mapped pages (prev_priority) is settled at the end, by the zones that were below pages_high.
fn try_to_free_pages_2_6_0<K: Kernel>(k: K, r: &Request) -> u32 {
    each_zone(k, r.highest(), |z| z.set_temp_priority(k, DEF_PRIORITY));
    let mut freed = 0;
    let (mut priority, mut enough) = (DEF_PRIORITY + 1, false);
    while priority > 0 {
        priority -= 1;
        let mut c = Control::new(k, Who::Direct, r.gfp, priority);
        each_zone(k, r.highest(), |z| {
            if c.reclaimed >= SWAP_CLUSTER_MAX {
                return;
            }
            if z.free_pages(k) < z.pages_high(k) {
                z.set_temp_priority(k, priority);
            }
            if z.all_unreclaimable(k) == 0 || priority == DEF_PRIORITY {
                scan::shrink_zone_2_6_0(k, z, &mut c, SWAP_CLUSTER_MAX);
            }
        });
        freed += c.reclaimed;
        enough = freed >= SWAP_CLUSTER_MAX;
        if enough || !r.gfp.may_enter_fs() {
            break;
        }
        wakeup_bdflush(k, c.scanned);
        nap(k, ROUND_NAP_MS);
        if r.highest() < ZoneKind::HighMem as u32 {
            freed += reclaim_slab(k, c.scanned);
        }
    }
    if !enough && r.gfp.may_enter_fs() {
        oom::out_of_memory(k, r);
    }
    settle_priorities(k, r);
    freed
}

/// The priority at which a zone was last scanned decides how hard the next scan presses mapped pages.
fn settle_priorities<K: Kernel>(k: K, r: &Request) {
    each_zone(k, r.highest(), |z| {
        z.set_prev_priority(k, z.temp_priority(k))
    });
}
