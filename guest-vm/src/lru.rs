//! LRU lists of a zone and the per-CPU vectors of 16 in front of them (mm/swap.c, include/linux/{pagevec,mm_inline}.h, 2.6.7).
//!
//! A page in a vector holds one extra reference and is on no list yet; a vector is drained when it is full and
//! before zaps and reclaim. The extra reference is visible to the COW reuse rule, so these vectors are part of what is
//! measured. Left out: scanning.
//!
//! Invariant: a page is on exactly one of active list, inactive list, vector; counters equal list lengths.

use crate::bug_on;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::{Page, pg};
use crate::page::{self, get_page};
use crate::page_alloc::{self, Zone};
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::root;

/// PAGEVEC_SIZE.
pub const PAGEVEC_SIZE: u32 = 16;

/// Where the vectors lie in the per-CPU area: inactive, active, to free.
const OFFSET: u32 = root::PER_CPU_OBJECTS + 0x200;

guest_struct! {
    /// struct pagevec: nr, cold, 16 pages (72 bytes), here on a line of its own.
    pub struct Pagevec [K] size 128;
    at 0 => word nr, set_nr: u32;
    at 4 => word cold, set_cold: u32;
    at 8 => words page, set_page: Low<Page>, 16;
}

guest_struct! {
    /// The vectors of one CPU.
    pub struct LruVectors [K] size 512;
    at 0 => part inactive: Pagevec;
    at 128 => part active: Pagevec;
    at 256 => part to_free: Pagevec;
    /// Of truncation.
    at 384 => part lookup: Pagevec;
}

/// Which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lru {
    /// Inactive.
    Inactive,
    /// Active.
    Active,
}

/// The vectors of this CPU.
#[inline(always)]
pub fn vectors<K: Kernel>(k: K) -> Low<LruVectors> {
    root::part(k, OFFSET)
}

/// lru_cache_add: the page will go to the inactive list.
pub fn lru_cache_add<K: Kernel>(k: K, page: Low<Page>) {
    add(k, vectors(k).inactive(k), page, Lru::Inactive);
}

/// lru_cache_add_active: the page will go to the active list.
pub fn lru_cache_add_active<K: Kernel>(k: K, page: Low<Page>) {
    add(k, vectors(k).active(k), page, Lru::Active);
}

#[inline(always)]
fn add<K: Kernel>(k: K, pvec: Low<Pagevec>, page: Low<Page>, lru: Lru) {
    get_page(k, page);
    let nr = pvec.nr(k);
    pvec.set_page(k, nr, page);
    pvec.set_nr(k, nr + 1);
    if nr + 1 == PAGEVEC_SIZE {
        drain_one(k, pvec, lru);
    }
}

/// lru_add_drain: empties this CPU's vectors onto the lists.
pub fn lru_add_drain<K: Kernel>(k: K) {
    let v = vectors(k);
    if v.inactive(k).nr(k) != 0 {
        drain_one(k, v.inactive(k), Lru::Inactive);
    }
    if v.active(k).nr(k) != 0 {
        drain_one(k, v.active(k), Lru::Active);
    }
}

/// __pagevec_lru_add(_active): moves all pages of a vector to the lists, one lock per run of pages of a zone, then drops
/// the vector's references.
fn drain_one<K: Kernel>(k: K, pvec: Low<Pagevec>, lru: Lru) {
    let mut zone: Low<Zone> = Low::NULL;
    let mut irq = 0;
    let nr = pvec.nr(k);
    let mut i = 0;
    while i < nr {
        let page = pvec.page(k, i);
        let of = page_alloc::zone_of(k, page);
        if of != zone {
            if !zone.is_null() {
                zone.lru_lock(k).unlock(k);
                k.irq_restore(irq);
            }
            zone = of;
            irq = k.irq_save();
            zone.lru_lock(k).lock(k);
        }
        bug_on!(k, Lru, page::test_and_set(k, page, pg::LRU), page.va());
        match lru {
            Lru::Active => {
                bug_on!(k, Lru, page::test_and_set(k, page, pg::ACTIVE), page.va());
                add_to_active(k, zone, page);
            }
            Lru::Inactive => add_to_inactive(k, zone, page),
        }
        i += 1;
    }
    if !zone.is_null() {
        zone.lru_lock(k).unlock(k);
        k.irq_restore(irq);
    }
    release_pages(k, pvec);
}

/// release_pages: drops one reference of each page of the vector and empties it; pages that die leave their list under
/// the zone's lock and are freed together afterwards.
pub fn release_pages<K: Kernel>(k: K, pvec: Low<Pagevec>) {
    let to_free = vectors(k).to_free(k);
    let mut zone: Low<Zone> = Low::NULL;
    let mut irq = 0;
    let nr = pvec.nr(k);
    let cold = pvec.cold(k);
    let mut i = 0;
    while i < nr {
        let page = pvec.page(k, i);
        i += 1;
        if page::test(k, page, pg::RESERVED) || !k.atomic_dec_and_test(page.count_word(k)) {
            continue;
        }
        let of = page_alloc::zone_of(k, page);
        if of != zone {
            if !zone.is_null() {
                zone.lru_lock(k).unlock(k);
                k.irq_restore(irq);
            }
            zone = of;
            irq = k.irq_save();
            zone.lru_lock(k).lock(k);
        }
        if page::test_and_clear(k, page, pg::LRU) {
            del_page_from_lru(k, zone, page);
        }
        let n = to_free.nr(k);
        to_free.set_page(k, n, page);
        to_free.set_nr(k, n + 1);
    }
    if !zone.is_null() {
        zone.lru_lock(k).unlock(k);
        k.irq_restore(irq);
    }
    pvec.set_nr(k, 0);
    let dead = to_free.nr(k);
    to_free.set_nr(k, 0);
    let mut n = dead;
    while n > 0 {
        n -= 1;
        let page = to_free.page(k, n);
        if cold != 0 {
            page_alloc::free_cold_page(k, page);
        } else {
            page_alloc::free_hot_page(k, page);
        }
    }
}

#[inline(always)]
pub(crate) fn add_to_active<K: Kernel>(k: K, zone: Low<Zone>, page: Low<Page>) {
    page.lru(k).add_to(k, zone.active_list(k));
    zone.set_nr_active(k, zone.nr_active(k) + 1);
}

#[inline(always)]
pub(crate) fn add_to_inactive<K: Kernel>(k: K, zone: Low<Zone>, page: Low<Page>) {
    page.lru(k).add_to(k, zone.inactive_list(k));
    zone.set_nr_inactive(k, zone.nr_inactive(k) + 1);
}

/// del_page_from_lru: off its list; the caller holds the zone's lock and has cleared PG_lru.
pub fn del_page_from_lru<K: Kernel>(k: K, zone: Low<Zone>, page: Low<Page>) {
    page.lru(k).del(k);
    if page::test(k, page, pg::ACTIVE) {
        page::clear(k, page, pg::ACTIVE);
        zone.set_nr_active(k, zone.nr_active(k) - 1);
    } else {
        zone.set_nr_inactive(k, zone.nr_inactive(k) - 1);
    }
}

/// __page_cache_release: the last reference has gone; off the list, to the hot list of the allocator.
#[inline(never)]
pub fn page_cache_release_last<K: Kernel>(k: K, page: Low<Page>) {
    let zone = page_alloc::zone_of(k, page);
    let irq = k.irq_save();
    zone.lru_lock(k).lock(k);
    if page::test_and_clear(k, page, pg::LRU) {
        del_page_from_lru(k, zone, page);
    }
    zone.lru_lock(k).unlock(k);
    k.irq_restore(irq);
    page_alloc::free_hot_page(k, page);
}

/// activate_page: from the inactive to the active list.
pub fn activate_page<K: Kernel>(k: K, page: Low<Page>) {
    let zone = page_alloc::zone_of(k, page);
    let irq = k.irq_save();
    zone.lru_lock(k).lock(k);
    if page::test(k, page, pg::LRU) && !page::test(k, page, pg::ACTIVE) {
        page.lru(k).del(k);
        zone.set_nr_inactive(k, zone.nr_inactive(k) - 1);
        page::set(k, page, pg::ACTIVE);
        add_to_active(k, zone, page);
        mod_page_state(k, State::PgActivate, 1);
    }
    zone.lru_lock(k).unlock(k);
    k.irq_restore(irq);
}

/// mark_page_accessed: not referenced -> referenced; referenced and inactive -> active, not referenced.
pub fn mark_page_accessed<K: Kernel>(k: K, page: Low<Page>) {
    let flags = page.flags(k);
    let both = 1 << pg::REFERENCED | 1 << pg::LRU;
    if flags & (1 << pg::ACTIVE) == 0 && flags & both == both {
        activate_page(k, page);
        page::clear(k, page, pg::REFERENCED);
    } else if flags & (1 << pg::REFERENCED) == 0 {
        page::set(k, page, pg::REFERENCED);
    }
}

/// Boot: empty vectors.
pub fn init<K: Kernel>(k: K) {
    let v = vectors(k);
    for pvec in [v.inactive(k), v.active(k), v.to_free(k), v.lookup(k)] {
        pvec.set_nr(k, 0);
        pvec.set_cold(k, 0);
    }
}
