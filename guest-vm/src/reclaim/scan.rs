//! The LRU lists of a zone under pressure: refill_inactive_zone, shrink_cache, shrink_zone (mm/vmscan.c of 2.6.0, 2.6.7, 2.6.8),
//! and the single pass of 2.4.
//!
//! Active pages are looked at from the tail: mapped ones go back unasked while `mapped_ratio/2 + distress + swappiness` is below
//! 100, else page_referenced decides; 2.6.0 asks page_referenced first, of every one, and so clears its young bits. Inactive pages are isolated 32 at a time and handed to
//! [`super::shrink_list`]. Left out: a page whose count is 0 (being freed on another CPU).
//!
//! Invariant: a zone's counters equal its lists whenever its lock is free.

use super::shrink_list::{shrink_list, try_to_free_one_2_4};
use super::{Control, Request, SWAP_CLUSTER_MAX, SWAPPINESS, Version, Who, state, version};
use crate::bug_on;
use crate::kernel::{Decision, Kernel};
use crate::layout::{Page, pg};
use crate::list::ListHead;
use crate::lru::{PAGEVEC_SIZE, add_to_active, add_to_inactive, lru_add_drain, release_pages};
use crate::page;
use crate::page_alloc::{Gfp, Zone, zone};
use crate::page_cache::buffers;
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::rmap::ReverseMap;
use crate::swap;

/// `a * b / c` where the quotient fits 32 bits: 64-bit product, long division by shifts (the image has no 64-bit division).
pub(super) fn mul_div(a: u32, b: u32, c: u32) -> u32 {
    let product = u64::from(a) * u64::from(b);
    let (mut rest, mut quotient) = ((product >> 32) as u32, 0u32);
    if c == 0 || rest >= c {
        return u32::MAX;
    }
    let low = product as u32;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        let carry = rest >> 31;
        rest = rest << 1 | (low >> bit & 1);
        quotient <<= 1;
        if carry != 0 || rest >= c {
            rest = rest.wrapping_sub(c);
            quotient |= 1;
        }
    }
    quotient
}

/// No number of pages is wanted of [`shrink_cache`].
const NO_NUMBER: u32 = u32::MAX;

/// Scans a zone by the version's rule; adds what was scanned and freed to `c`.
pub fn shrink_zone<K: Kernel>(k: K, z: Low<Zone>, c: &mut Control) {
    match version(k) {
        Version::V2_6_8 => shrink_zone_2_6_8(k, z, c),
        Version::V2_6_7 | Version::V2_6_0 | Version::V2_4 => shrink_zone_2_6_7(k, z, c),
    }
}

/// 2.6.7: both lists by 2^-priority of their sum, the active one in proportion to the lists' sizes, each when 32 have
/// accumulated.
fn shrink_zone_2_6_7<K: Kernel>(k: K, z: Low<Zone>, c: &mut Control) {
    let (active, inactive) = (z.nr_active(k), z.nr_inactive(k));
    let scan_inactive = (active + inactive) >> c.priority;
    let twice = inactive * 2 + 1;
    let scan_active = if active >= 4 * twice {
        4 * scan_inactive
    } else {
        mul_div(scan_inactive, active, twice)
    };
    let due = z.nr_scan_active(k) + scan_active + 1;
    if due >= SWAP_CLUSTER_MAX {
        z.set_nr_scan_active(k, 0);
        refill_inactive_zone(k, z, due, c);
    } else {
        z.set_nr_scan_active(k, due);
    }
    let due = z.nr_scan_inactive(k) + scan_inactive;
    if due >= SWAP_CLUSTER_MAX {
        z.set_nr_scan_inactive(k, 0);
        shrink_cache(k, z, due, NO_NUMBER, c);
    } else {
        z.set_nr_scan_inactive(k, due);
    }
}

/// 2.6.8: the same share of both lists, in chunks of 32 in turn, until 32 pages are freed.
fn shrink_zone_2_6_8<K: Kernel>(k: K, z: Low<Zone>, c: &mut Control) {
    let mut active = z.nr_scan_active(k) + (z.nr_active(k) >> c.priority) + 1;
    let mut inactive = z.nr_scan_inactive(k) + (z.nr_inactive(k) >> c.priority) + 1;
    let (mut keep_active, mut keep_inactive) = (active, inactive);
    if active >= SWAP_CLUSTER_MAX {
        keep_active = 0;
    } else {
        active = 0;
    }
    if inactive >= SWAP_CLUSTER_MAX {
        keep_inactive = 0;
    } else {
        inactive = 0;
    }
    z.set_nr_scan_active(k, keep_active);
    z.set_nr_scan_inactive(k, keep_inactive);
    let before = c.reclaimed;
    while active != 0 || inactive != 0 {
        if active != 0 {
            let n = active.min(SWAP_CLUSTER_MAX);
            active -= n;
            refill_inactive_zone(k, z, n, c);
        }
        if inactive != 0 {
            let n = inactive.min(SWAP_CLUSTER_MAX);
            inactive -= n;
            shrink_cache(k, z, n, NO_NUMBER, c);
            if c.reclaimed - before >= SWAP_CLUSTER_MAX {
                break;
            }
        }
    }
}

/// 2.6.0: at least twice the wanted pages of the inactive list, at most 128 of the active one.
pub fn shrink_zone_2_6_0<K: Kernel>(k: K, z: Low<Zone>, c: &mut Control, wanted: u32) {
    let mut max_scan = z.nr_inactive(k) >> c.priority;
    if max_scan < wanted * 2 {
        max_scan = wanted * 2;
    }
    if max_scan < SWAP_CLUSTER_MAX {
        max_scan = SWAP_CLUSTER_MAX;
    }
    let ratio = mul_div(wanted, z.nr_active(k), (z.nr_inactive(k) | 1) * 2);
    let s = state(k);
    let kind = z.kind(k);
    // Like the signed counter it stands for, up to 2^31.
    let due = s
        .refill_counter(k, kind)
        .saturating_add(ratio)
        .saturating_add(1)
        .min(i32::MAX as u32);
    s.set_refill_counter(k, kind, due);
    if due > SWAP_CLUSTER_MAX {
        // What is above 128 is left for later scans.
        let count = due.min(4 * SWAP_CLUSTER_MAX);
        s.set_refill_counter(k, kind, due - count);
        refill_inactive_zone(k, z, count, c);
    }
    let (scanned, mapped) = (c.scanned, c.mapped);
    shrink_cache(k, z, max_scan, wanted, c);
    // What counts as scanned is what was asked for, and mapped pages once more.
    c.scanned = scanned + max_scan + (c.mapped - mapped);
}

#[inline(always)]
fn lock<K: Kernel>(k: K, z: Low<Zone>) -> u32 {
    let irq = k.irq_save();
    z.lru_lock(k).lock(k);
    irq
}

#[inline(always)]
fn unlock<K: Kernel>(k: K, z: Low<Zone>, irq: u32) {
    z.lru_lock(k).unlock(k);
    k.irq_restore(irq);
}

/// The page at the tail of a list, taken off it.
#[inline(always)]
fn take_tail<K: Kernel>(k: K, head: Low<ListHead>) -> Low<Page> {
    let entry = head.prev(k);
    entry.del(k);
    page::of_lru(k, entry)
}

/// refill_inactive_zone: looks at `count` active pages from the tail.
fn refill_inactive_zone<K: Kernel>(k: K, z: Low<Zone>, count: u32, c: &Control) {
    let s = state(k);
    let (hold, inactive, active) = (s.l_hold(k), s.l_inactive(k), s.l_active(k));
    lru_add_drain(k);
    let irq = lock(k, z);
    let mut moved = 0;
    while moved < count && !z.active_list(k).is_empty(k) {
        let page = take_tail(k, z.active_list(k));
        bug_on!(
            k,
            Reclaim,
            !page::test_and_clear(k, page, pg::LRU),
            page.va()
        );
        page::get_page(k, page);
        page.lru(k).add_to(k, hold);
        moved += 1;
    }
    z.set_nr_active(k, z.nr_active(k) - moved);
    unlock(k, z, irq);

    let reclaim_mapped = swap_tendency(k, z, c) >= 100;
    let asks_all = version(k) == Version::V2_6_0;
    let no_swap = swap::total_slots(k) == 0;
    while !hold.is_empty(k) {
        let page = take_tail(k, hold);
        let stays = if K::Rmap::mapped(k, page) {
            if asks_all || reclaim_mapped {
                referenced(k, page) || !reclaim_mapped
            } else {
                true
            }
        } else {
            false
        };
        let to = if stays || (no_swap && page::is_anon(k, page)) {
            active
        } else {
            inactive
        };
        let what = if to == active {
            Decision::Stays
        } else {
            Decision::Goes
        };
        k.decided(page, what);
        page.lru(k).add_to(k, to);
    }
    put_back_refilled(k, z);
    mod_page_state(k, State::PgRefill, moved);
}

fn referenced<K: Kernel>(k: K, page: Low<Page>) -> bool {
    page::map_lock(k, page);
    let referenced = K::Rmap::page_referenced(k, page) != 0;
    page::map_unlock(k, page);
    referenced
}

/// How inclined the VM is to take mapped pages: half the mapped share of memory, the distress of the last scan, and swappiness.
fn swap_tendency<K: Kernel>(k: K, z: Low<Zone>, c: &Control) -> u32 {
    let distress = 100 >> z.prev_priority(k);
    let total = zone::node(k).totalram_pages(k);
    let mapped_ratio = mul_div(c.nr_mapped, 100, total | (total == 0) as u32);
    mapped_ratio / 2 + distress + SWAPPINESS
}

/// Both lists of refill_inactive_zone back to the zone; the references go 16 at a time.
fn put_back_refilled<K: Kernel>(k: K, z: Low<Zone>) {
    let s = state(k);
    let mut irq = lock(k, z);
    let mut deactivated = 0;
    while !s.l_inactive(k).is_empty(k) {
        let page = take_tail(k, s.l_inactive(k));
        bug_on!(k, Reclaim, page::test_and_set(k, page, pg::LRU), page.va());
        bug_on!(
            k,
            Reclaim,
            !page::test_and_clear(k, page, pg::ACTIVE),
            page.va()
        );
        add_to_inactive(k, z, page);
        deactivated += 1;
        irq = release_later(k, z, page, irq, buffers::over_limit(k));
    }
    if buffers::over_limit(k) {
        unlock(k, z, irq);
        buffers::strip(k, s.release(k));
        irq = lock(k, z);
    }
    while !s.l_active(k).is_empty(k) {
        let page = take_tail(k, s.l_active(k));
        bug_on!(k, Reclaim, page::test_and_set(k, page, pg::LRU), page.va());
        add_to_active(k, z, page);
        irq = release_later(k, z, page, irq, false);
    }
    unlock(k, z, irq);
    release_pages(k, s.release(k));
    mod_page_state(k, State::PgDeactivate, deactivated);
}

/// Puts a page whose reference must go into the vector; a full vector is emptied with the lock dropped, its pages stripped of their buffers
/// before if `strips`.
#[inline]
fn release_later<K: Kernel>(k: K, z: Low<Zone>, page: Low<Page>, irq: u32, strips: bool) -> u32 {
    let pvec = state(k).release(k);
    let nr = pvec.nr(k);
    pvec.set_page(k, nr, page);
    pvec.set_nr(k, nr + 1);
    if nr + 1 < PAGEVEC_SIZE {
        return irq;
    }
    unlock(k, z, irq);
    if strips {
        buffers::strip(k, pvec);
    }
    release_pages(k, pvec);
    lock(k, z)
}

/// shrink_cache: up to `max_scan` pages from the inactive list's tail, 32 at a time, until `wanted` are freed (2.6.0: as many at a time as are
/// wanted, if that is more; the others want no number).
fn shrink_cache<K: Kernel>(k: K, z: Low<Zone>, max_scan: u32, wanted: u32, c: &mut Control) {
    let s = state(k);
    lru_add_drain(k);
    let chunk = match wanted {
        NO_NUMBER => SWAP_CLUSTER_MAX,
        n => n.max(SWAP_CLUSTER_MAX),
    };
    let mut left = max_scan;
    let mut freed = 0;
    let mut irq = lock(k, z);
    while left > 0 && freed < wanted {
        let (mut taken, mut looked) = (0, 0);
        while looked < chunk && !z.inactive_list(k).is_empty(k) {
            looked += 1;
            let page = take_tail(k, z.inactive_list(k));
            bug_on!(
                k,
                Reclaim,
                !page::test_and_clear(k, page, pg::LRU),
                page.va()
            );
            page::get_page(k, page);
            page.lru(k).add_to(k, s.page_list(k));
            taken += 1;
        }
        z.set_nr_inactive(k, z.nr_inactive(k) - taken);
        z.set_pages_scanned(k, z.pages_scanned(k) + taken);
        unlock(k, z, irq);
        if taken == 0 {
            irq = lock(k, z);
            break;
        }
        // `nr_scan++ < SWAP_CLUSTER_MAX` has counted the look that ended the loop.
        let nr_scan = looked + 1;
        left = left.saturating_sub(nr_scan);
        let scan = match c.who {
            Who::Direct => State::PgScanDirect,
            Who::Kswapd => State::PgScanKswapd,
        };
        mod_page_state(k, scan, nr_scan);
        let n = shrink_list(k, c);
        freed += n;
        c.reclaimed += n;
        if c.who == Who::Kswapd {
            mod_page_state(k, State::KswapdSteal, n);
        }
        mod_page_state(k, State::PgSteal, n);
        irq = lock(k, z);
        while !s.page_list(k).is_empty(k) {
            let page = take_tail(k, s.page_list(k));
            bug_on!(k, Reclaim, page::test_and_set(k, page, pg::LRU), page.va());
            if page::test(k, page, pg::ACTIVE) {
                add_to_active(k, z, page);
            } else {
                add_to_inactive(k, z, page);
            }
            irq = release_later(k, z, page, irq, false);
        }
    }
    unlock(k, z, irq);
    release_pages(k, s.release(k));
}

/// First priority of 2.4; the last is 1.
const DEF_PRIORITY_2_4: u32 = 6;

/// 2.4 (mm/vmscan.c of 2.4.18 to 2.4.22): refill by the lists' ratio, one pass over the inactive list, and page tables are
/// scanned when too many mapped pages were met. The lists are per zone here, where 2.4 had one pair.
pub fn try_to_free_pages_2_4<K: Kernel>(k: K, r: &Request) -> u32 {
    let freed = shrink_classzone_2_4(k, r.highest(), r.gfp);
    if freed < SWAP_CLUSTER_MAX && r.gfp.may_enter_fs() {
        super::oom::out_of_memory(k, r);
    }
    freed
}

/// try_to_free_pages_zone of 2.4 without its out_of_memory: all priorities over the zones from `highest` down, until 32 pages are freed.
pub fn shrink_classzone_2_4<K: Kernel>(k: K, highest: u32, gfp: Gfp) -> u32 {
    let mut freed = 0;
    let mut priority = DEF_PRIORITY_2_4 + 1;
    while priority > 1 && freed < SWAP_CLUSTER_MAX {
        priority -= 1;
        let mut kind = highest + 1;
        while kind > 0 && freed < SWAP_CLUSTER_MAX {
            kind -= 1;
            let z = zone::node(k).zone(k, kind);
            if z.present_pages(k) != 0 {
                freed += shrink_zone_2_4(k, z, gfp, (priority, SWAP_CLUSTER_MAX - freed));
            }
        }
        freed += super::reclaim_slab(k, SWAP_CLUSTER_MAX);
        if freed < SWAP_CLUSTER_MAX {
            crate::io::complete_all(k);
        }
    }
    freed
}

/// One zone at one priority: pages freed.
pub fn shrink_zone_2_4<K: Kernel>(
    k: K,
    z: Low<Zone>,
    gfp: Gfp,
    (priority, wanted): (u32, u32),
) -> u32 {
    lru_add_drain(k);
    let ratio = mul_div(wanted, z.nr_active(k), (z.nr_inactive(k) + 1) * 2);
    refill_inactive_2_4(k, z, ratio);
    // Checked: the image has no panic path for a division.
    let mut scan = z.nr_inactive(k).checked_div(priority).unwrap_or(0);
    let mut mapped_left = (wanted << (10 - priority)).min(scan / 10);
    let (mut freed, mut swapped) = (0, false);
    while scan > 0 && freed < wanted && !swapped && !z.inactive_list(k).is_empty(k) {
        scan -= 1;
        let irq = lock(k, z);
        let page = take_tail(k, z.inactive_list(k));
        page.lru(k).add_to(k, z.inactive_list(k));
        page::get_page(k, page);
        unlock(k, z, irq);
        mod_page_state(k, State::PgScanDirect, 1);
        let freeing = try_to_free_one_2_4(k, page, gfp);
        k.decided(page, freeing.decision());
        match freeing {
            Freeing::Freed => freed += 1,
            Freeing::Mapped if mapped_left == 0 => swapped = true,
            Freeing::Mapped => mapped_left -= 1,
            Freeing::Kept => {}
        }
        page::put_page(k, page);
    }
    mod_page_state(k, State::PgSteal, freed);
    if swapped {
        // What it unmaps is met, and freed, by a later pass.
        K::Rmap::swap_out(k, z, priority);
    }
    freed
}

/// What became of a page that 2.4 looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeing {
    /// It is free.
    Freed,
    /// Page tables map it, or it has no place outside memory.
    Mapped,
    /// Locked, dirty or under way.
    Kept,
}

impl Freeing {
    #[inline(always)]
    fn decision(self) -> Decision {
        match self {
            Freeing::Freed => Decision::Freed,
            Freeing::Mapped => Decision::Mapped,
            Freeing::Kept => Decision::Kept,
        }
    }
}

/// refill_inactive of 2.4: moves `count` pages; one touched by system calls since the last look stays and does not count.
fn refill_inactive_2_4<K: Kernel>(k: K, z: Low<Zone>, count: u32) {
    let irq = lock(k, z);
    let mut left = count;
    while left > 0 && !z.active_list(k).is_empty(k) {
        let page = take_tail(k, z.active_list(k));
        if page::test_and_clear(k, page, pg::REFERENCED) {
            k.decided(page, Decision::Stays);
            page.lru(k).add_to(k, z.active_list(k));
            continue;
        }
        left -= 1;
        k.decided(page, Decision::Goes);
        page::clear(k, page, pg::ACTIVE);
        z.set_nr_active(k, z.nr_active(k) - 1);
        add_to_inactive(k, z, page);
        page::set(k, page, pg::REFERENCED);
    }
    unlock(k, z, irq);
    mod_page_state(k, State::PgRefill, count - left);
}
