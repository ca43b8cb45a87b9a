//! Free lists by order, with one bit for each pair of buddies (mm/page_alloc.c, __free_pages_bulk and expand).
//!
//! Freed and merged blocks go to the head of their list; splitting keeps the lower half and puts the upper half on the list
//! (which half was kept changed between versions; lower is the assumption here). Leaves out: nothing.
//!
//! Invariant: the bit of a pair is set exactly when one of the two buddies is free as a block of that order.

use super::Zone;
use super::zone::{FreeArea, MAX_ORDER};
use crate::bug_on;
use crate::kernel::Kernel;
use crate::layout::{Page, page_struct_bytes};
use crate::list::ListHead;
use crate::page::of_lru;
use crate::ptr::Low;

/// Struct page of index `i` in `zone`.
#[inline(always)]
fn page_at<K: Kernel>(k: K, zone: Low<Zone>, i: u32) -> Low<Page> {
    Low::new(
        zone.zone_mem_map(k)
            .wrapping_add(i.wrapping_mul(page_struct_bytes(k))),
    )
}

/// Inverts the bit of pair `index`; its old value.
#[inline(always)]
fn change_bit<K: Kernel>(k: K, area: Low<FreeArea>, index: u32) -> bool {
    let word: Low<u32> = area.map(k).field((index >> 5) << 2);
    let mask = 1u32 << (index & 31);
    let old = word.read(k);
    word.write(k, old ^ mask);
    old & mask != 0
}

/// Gives a block of 2^`order` pages back, merging it with its buddies (zone lock held).
pub fn free_block<K: Kernel>(k: K, zone: Low<Zone>, page: Low<Page>, order: u32) {
    let mut idx = page.va().wrapping_sub(zone.zone_mem_map(k)) / page_struct_bytes(k);
    let mut order = order;
    bug_on!(k, Buddy, idx & ((1 << order) - 1) != 0, page.va());
    bug_on!(k, Buddy, idx >= zone.spanned_pages(k), page.va());
    zone.set_free_pages(k, zone.free_pages(k).wrapping_add(1 << order));
    while order < MAX_ORDER - 1 {
        let area = zone.free_area(k, order);
        if !change_bit(k, area, idx >> (order + 1)) {
            break;
        }
        page_at(k, zone, idx ^ (1 << order)).lru(k).del(k);
        idx &= !(1 << order);
        order += 1;
    }
    page_at(k, zone, idx)
        .lru(k)
        .add_to(k, zone.free_area(k, order).free_list(k));
}

/// Takes a block of 2^`order` pages off the smallest list that has one (__rmqueue; zone lock held).
pub fn take_block<K: Kernel>(k: K, zone: Low<Zone>, order: u32) -> Option<Low<Page>> {
    let mut high = order;
    while high < MAX_ORDER {
        let area = zone.free_area(k, high);
        let list = area.free_list(k);
        if !list.is_empty(k) {
            let lru = list.next(k);
            lru.del(k);
            let page: Low<Page> = of_lru(k, lru);
            let idx = page.va().wrapping_sub(zone.zone_mem_map(k)) / page_struct_bytes(k);
            if high != MAX_ORDER - 1 {
                change_bit(k, area, idx >> (high + 1));
            }
            zone.set_free_pages(k, zone.free_pages(k).wrapping_sub(1 << order));
            expand(k, zone, idx, (order, high));
            return Some(page);
        }
        high += 1;
    }
    None
}

/// Splits the block at `idx` from order `high` down to `low`, giving the upper halves back.
fn expand<K: Kernel>(k: K, zone: Low<Zone>, idx: u32, (low, high): (u32, u32)) {
    let mut order = high;
    while order > low {
        order -= 1;
        let area = zone.free_area(k, order);
        let upper = idx + (1 << order);
        page_at(k, zone, upper).lru(k).add_to(k, area.free_list(k));
        change_bit(k, area, upper >> (order + 1));
    }
}

/// Moves up to `count` single pages from the free lists to the tail of `list` (rmqueue_bulk); how many.
pub fn take_bulk<K: Kernel>(k: K, zone: Low<Zone>, count: u32, list: Low<ListHead>) -> u32 {
    let flags = k.irq_save();
    zone.lock(k).lock(k);
    let mut taken = 0;
    while taken < count {
        match take_block(k, zone, 0) {
            Some(page) => page.lru(k).add_tail_to(k, list),
            None => break,
        }
        taken += 1;
    }
    zone.lock(k).unlock(k);
    k.irq_restore(flags);
    taken
}

/// Gives up to `count` blocks of 2^`order` pages from the tail of `list` back (free_pages_bulk); how many.
pub fn free_bulk<K: Kernel>(
    k: K,
    zone: Low<Zone>,
    count: u32,
    list: Low<ListHead>,
    order: u32,
) -> u32 {
    let flags = k.irq_save();
    zone.lock(k).lock(k);
    zone.set_all_unreclaimable(k, 0);
    zone.set_pages_scanned(k, 0);
    let mut freed = 0;
    while freed < count && !list.is_empty(k) {
        let lru = list.prev(k);
        lru.del(k);
        free_block(k, zone, of_lru(k, lru), order);
        freed += 1;
    }
    zone.lock(k).unlock(k);
    k.irq_restore(flags);
    freed
}
