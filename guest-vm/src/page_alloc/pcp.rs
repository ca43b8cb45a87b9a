//! Hot and cold per-CPU lists of single pages (mm/page_alloc.c, buffered_rmqueue and free_hot_cold_page).
//!
//! Fact sheet "Per-CPU batches": batch = zone/1024 pages, at most 64, then a quarter, at least 1; hot: refilled at <= 2 batches, gives
//! a batch back at >= 6; cold: 0 and 2. Freed pages come back last in, first out.
//!
//! Invariant: `count` is the length of the list.

use super::zone::PerCpuPages;
use super::{Zone, buddy, zone_of};
use crate::cluster;
use crate::kernel::Kernel;
use crate::layout::Page;
use crate::ptr::Low;

/// Which of the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Temperature {
    /// Probably in the CPU's caches.
    Hot = 0,
    /// Probably not.
    Cold = 1,
}

/// Sets a zone's lists up for its size.
pub fn init<K: Kernel>(k: K, zone: Low<Zone>) {
    let mut batch = zone.present_pages(k) / 1024;
    // 256 kB.
    let most = 64 >> cluster::mmu_shift(k);
    if batch > most {
        batch = most;
    }
    batch /= 4;
    if batch < 1 {
        batch = 1;
    }
    let hot = zone.pageset(k, Temperature::Hot as u32);
    set_up(k, hot, (2 * batch, 6 * batch, batch));
    let cold = zone.pageset(k, Temperature::Cold as u32);
    set_up(k, cold, (0, 2 * batch, batch));
}

fn set_up<K: Kernel>(k: K, pcp: Low<PerCpuPages>, (low, high, batch): (u32, u32, u32)) {
    pcp.set_count(k, 0);
    pcp.set_low(k, low);
    pcp.set_high(k, high);
    pcp.set_batch(k, batch);
    pcp.list(k).init(k);
}

/// Takes one page, refilling the list first if it is low.
#[inline]
pub fn take<K: Kernel>(k: K, zone: Low<Zone>, which: Temperature) -> Option<Low<Page>> {
    let pcp = zone.pageset(k, which as u32);
    let flags = k.irq_save();
    let mut count = pcp.count(k);
    if count <= pcp.low(k) {
        count += buddy::take_bulk(k, zone, pcp.batch(k), pcp.list(k));
        pcp.set_count(k, count);
    }
    let mut page = None;
    if count != 0 {
        let lru = pcp.list(k).next(k);
        lru.del(k);
        pcp.set_count(k, count - 1);
        page = Some(crate::page::of_lru(k, lru));
    }
    k.irq_restore(flags);
    page
}

/// Gives one page back, a batch to the buddy allocator first if the list is full.
#[inline]
pub fn give<K: Kernel>(k: K, page: Low<Page>, which: Temperature) {
    let zone = zone_of(k, page);
    let pcp = zone.pageset(k, which as u32);
    let flags = k.irq_save();
    let mut count = pcp.count(k);
    if count >= pcp.high(k) {
        count -= buddy::free_bulk(k, zone, pcp.batch(k), pcp.list(k), 0);
    }
    page.lru(k).add_to(k, pcp.list(k));
    pcp.set_count(k, count + 1);
    k.irq_restore(flags);
}

/// Gives all pages of a zone's lists back (drain_local_pages); for checks and capacity figures.
pub fn drain<K: Kernel>(k: K, zone: Low<Zone>) {
    for which in [Temperature::Hot, Temperature::Cold] {
        let pcp = zone.pageset(k, which as u32);
        let count = pcp.count(k);
        let freed = buddy::free_bulk(k, zone, count, pcp.list(k), 0);
        pcp.set_count(k, count - freed);
    }
}
