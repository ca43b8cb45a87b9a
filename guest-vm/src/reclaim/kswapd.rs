//! kswapd: balance_pgdat (mm/vmscan.c), on a task of its own.
//!
//! Woken by the allocator, it runs to completion at the next return to user mode (decision D3): a switch to a kernel thread that
//! borrows the address space, the rounds, a switch back. So try_to_unmap's flushes see a borrowed mm, as they did (leave_mm). Its
//! work is on the path `reclaim`. Left out: priorities against other tasks; it never competes.
//!
//! Invariant: it allocates with PF_MEMALLOC only and never sleeps but in naps.

use super::{
    Control, DEF_PRIORITY, PF_KSWAPD, PF_MEMALLOC, ROUND_NAP_MS, SWAP_CLUSTER_MAX, Version, Who,
    reclaim_slab, scan, state, version,
};
use crate::clock::nap;
use crate::guest_struct::Layout;
use crate::kernel::Kernel;
use crate::layout::Task;
use crate::page_alloc::zone::MAX_NR_ZONES;
use crate::page_alloc::{Gfp, Zone, zone};
use crate::percpu::{self, State, mod_page_state, page_state};
use crate::ptr::Low;
use crate::sched::RUNNING;
use lowmem_abi::probe::Probe;

/// Boot: its task_struct; it has no stack of its own, because it runs on that of the task whose return it delays.
pub fn init<K: Kernel>(k: K) {
    let task: Low<Task> = state(k).kswapd(k);
    crate::task::clear_low(k, task.cast(), Task::size(k));
    task.set_state(k, RUNNING);
    task.set_usage(k, 2);
    task.set_flags(k, PF_MEMALLOC | PF_KSWAPD);
    task.tasks(k).init(k);
    task.pid_hash(k).init(k);
}

/// wakeup_kswapd for every zone of a request that is at or below pages_low; 2.4: the first zone of the request needs balance.
#[cold]
pub fn wake<K: Kernel>(k: K, highest: u32) {
    if version(k) == Version::V2_4 {
        state(k).set_need_balance(k, highest, 1);
        percpu::add_work(k, percpu::WORK_KSWAPD);
        return;
    }
    let mut kind = 0;
    while kind <= highest {
        let z = zone::node(k).zone(k, kind);
        if z.present_pages(k) != 0 && z.free_pages(k) <= z.pages_low(k) {
            percpu::add_work(k, percpu::WORK_KSWAPD);
        }
        kind += 1;
    }
}

/// One run.
pub fn run<K: Kernel>(k: K) {
    k.begin(Probe::Reclaim);
    crate::slab::reap::reap_if_due(k);
    mod_page_state(k, State::PageOutRun, 1);
    match version(k) {
        Version::V2_6_7 | Version::V2_6_8 => balance(k),
        Version::V2_6_0 => balance_2_6_0(k),
        Version::V2_4 => balance_2_4(k),
    }
    k.end(Probe::Reclaim);
}

#[inline(always)]
fn zone_at<K: Kernel>(k: K, kind: u32) -> Low<Zone> {
    zone::node(k).zone(k, kind)
}

/// Whether a zone is to be left alone at this priority.
#[inline(always)]
fn hopeless<K: Kernel>(k: K, z: Low<Zone>, priority: u32) -> bool {
    z.present_pages(k) == 0 || (z.all_unreclaimable(k) != 0 && priority != DEF_PRIORITY)
}

/// After two full scans without a free page in between, a zone is given up until one is freed.
#[inline(always)]
fn give_up<K: Kernel>(k: K, z: Low<Zone>) {
    if z.pages_scanned(k) > z.present_pages(k) * 2 {
        z.set_all_unreclaimable(k, 1);
    }
}

/// Every zone before the first round.
fn begin_priorities<K: Kernel>(k: K) {
    let mut kind = 0;
    while kind < MAX_NR_ZONES {
        zone_at(k, kind).set_temp_priority(k, DEF_PRIORITY);
        kind += 1;
    }
}

/// Every zone after the last round: where it got to decides how hard the next scan presses mapped pages.
fn settle_priorities<K: Kernel>(k: K) {
    let mut kind = 0;
    while kind < MAX_NR_ZONES {
        let z = zone_at(k, kind);
        z.set_prev_priority(k, z.temp_priority(k));
        kind += 1;
    }
}

/// 2.6.7: the highest zone at or below pages_high, then all zones up to it from DMA on.
fn balance<K: Kernel>(k: K) {
    begin_priorities(k);
    // Once a run, as there: the mapped share does not follow what the run itself unmaps.
    let nr_mapped = page_state(k, State::NrMapped);
    let mut kind;
    let mut scanned = 0;
    let mut priority = DEF_PRIORITY + 1;
    while priority > 0 {
        priority -= 1;
        let mut end = MAX_NR_ZONES;
        while end > 0 {
            let z = zone_at(k, end - 1);
            if !hopeless(k, z, priority) && z.free_pages(k) <= z.pages_high(k) {
                break;
            }
            end -= 1;
        }
        if end == 0 {
            break;
        }
        let mut all_ok = true;
        kind = 0;
        while kind < end {
            let z = zone_at(k, kind);
            kind += 1;
            if hopeless(k, z, priority) {
                continue;
            }
            if z.free_pages(k) <= z.pages_high(k) {
                all_ok = false;
            }
            z.set_temp_priority(k, priority);
            if z.prev_priority(k) > priority {
                z.set_prev_priority(k, priority);
            }
            let mut c = Control::new(k, Who::Kswapd, Gfp::Kernel, priority);
            c.nr_mapped = nr_mapped;
            scan::shrink_zone(k, z, &mut c);
            scanned += c.scanned;
            reclaim_slab(k, c.scanned);
            if z.all_unreclaimable(k) == 0 {
                give_up(k, z);
            }
        }
        if all_ok {
            break;
        }
        if scanned != 0 && priority < DEF_PRIORITY - 2 {
            nap(k, ROUND_NAP_MS);
        }
    }
    settle_priorities(k);
}

/// 2.6.0: from DMA on, each zone that is below pages_high; slab for low zones. No nap between rounds: balance_pgdat there naps only while
/// it has a number of pages to free, which software suspend alone asks for.
fn balance_2_6_0<K: Kernel>(k: K) {
    begin_priorities(k);
    let nr_mapped = page_state(k, State::NrMapped);
    let mut priority = DEF_PRIORITY + 1;
    while priority > 1 {
        priority -= 1;
        let mut all_ok = true;
        let mut kind = 0;
        while kind < MAX_NR_ZONES {
            let z = zone_at(k, kind);
            kind += 1;
            if hopeless(k, z, priority) || z.free_pages(k) >= z.pages_high(k) {
                continue;
            }
            all_ok = false;
            z.set_temp_priority(k, priority);
            let wanted = z.pages_high(k) - z.free_pages(k);
            let mut c = Control::new(k, Who::Kswapd, Gfp::Kernel, priority);
            c.nr_mapped = nr_mapped;
            scan::shrink_zone_2_6_0(k, z, &mut c, wanted);
            if kind < MAX_NR_ZONES {
                reclaim_slab(k, c.scanned);
            }
            if z.all_unreclaimable(k) == 0 {
                give_up(k, z);
            }
        }
        if all_ok {
            break;
        }
    }
    settle_priorities(k);
}

/// 2.4 (kswapd_balance_pgdat): each zone that a request wanted first and found low, with the zones below it: all priorities, again while that
/// frees 32 pages and none of these zones is above pages_high. Left out: its sleep of a second after a failure, and that such a
/// failure counts for out_of_memory.
fn balance_2_4<K: Kernel>(k: K) {
    let s = state(k);
    let mut more = true;
    while more {
        more = false;
        let mut kind = MAX_NR_ZONES;
        while kind > 0 {
            kind -= 1;
            if s.need_balance(k, kind) == 0 {
                continue;
            }
            let freed = scan::shrink_classzone_2_4(k, kind, Gfp::Kernel);
            if freed >= SWAP_CLUSTER_MAX && classzone_needs_balance(k, kind) {
                more = true;
            } else {
                s.set_need_balance(k, kind, 0);
            }
        }
    }
}

/// check_classzone_need_balance of 2.4: no zone from `kind` down is above pages_high.
fn classzone_needs_balance<K: Kernel>(k: K, kind: u32) -> bool {
    let mut i = 0;
    while i <= kind {
        let z = zone_at(k, i);
        if z.present_pages(k) != 0 && z.free_pages(k) > z.pages_high(k) {
            return false;
        }
        i += 1;
    }
    true
}
