//! The timer of slab (reap_timer_fnc, cache_reap of mm/slab.c): arrays that nobody uses and slabs without objects shrink with time.
//!
//! It goes by VM time ([`crate::clock`]), so it does not depend on the mode; it is looked at where an array is refilled, and by whoever
//! reclaims. Leaves out: 2.4's kmem_cache_reap, in whose place it stands.
//!
//! Invariant: a cache is locked while its lists change, and no cache is when the timer is looked at.

use super::{ArrayCache, CacheId, Slab, cache, cpu_array, destroy, drop_oldest, entry, free_block};
use crate::clock::now_ms;
use crate::kernel::Kernel;
use crate::percpu::{State, page_state};
use crate::ptr::Low;

/// REAPTIMEOUT_CPUC: VM time between two looks at all caches, in milliseconds.
pub const REAP_ARRAYS_MS: u32 = 2_000;
/// REAPTIMEOUT_LIST3: VM time between two looks at one cache's shared array and free slabs.
pub const REAP_SLABS_MS: u32 = 4_000;

/// The timer of slab (reap_timer_fnc), if VM time has come to it: pages that it gave back. No cache may be locked.
#[inline]
pub fn reap_if_due<K: Kernel>(k: K) -> u32 {
    let s = crate::reclaim::state(k);
    if s.ready(k) == 0 || (s.next_reap(k).wrapping_sub(now_ms(k)) as i32) > 0 {
        return 0;
    }
    cache_reap(k)
}

/// cache_reap: every cache's array that nobody took from since the last look loses a fifth; each 4 s the shared array likewise, and of the
/// free slabs a fifth of what the limit allows, unless one was taken into use since.
#[cold]
#[inline(never)]
fn cache_reap<K: Kernel>(k: K) -> u32 {
    let now = now_ms(k);
    crate::reclaim::state(k).set_next_reap(k, now.wrapping_add(REAP_ARRAYS_MS));
    let before = page_state(k, State::NrSlab);
    for id in CacheId::ALL {
        if id.exists(k) {
            let irq = k.irq_save();
            reap_cache(k, *id, now);
            k.irq_restore(irq);
        }
    }
    before.wrapping_sub(page_state(k, State::NrSlab))
}

fn reap_cache<K: Kernel>(k: K, id: CacheId, now: u32) {
    let cachep = cache(k, id);
    cachep.spinlock(k).lock(k);
    drain_array(k, id, cpu_array(k, cachep));
    if (cachep.next_reap(k).wrapping_sub(now) as i32) > 0 {
        cachep.spinlock(k).unlock(k);
        return;
    }
    cachep.set_next_reap(k, now.wrapping_add(REAP_SLABS_MS));
    if !cachep.shared(k).is_null() {
        drain_array(k, id, cachep.shared(k));
    }
    if cachep.free_touched(k) != 0 {
        cachep.set_free_touched(k, 0);
        cachep.spinlock(k).unlock(k);
        return;
    }
    let fifth = 5 * cachep.num(k);
    // Checked: the image has no panic path for a division.
    let mut left = (cachep.free_limit(k) + fifth - 1)
        .checked_div(fifth)
        .unwrap_or(0);
    while left > 0 && !cachep.slabs_free(k).is_empty(k) {
        left -= 1;
        let slab: Low<Slab> = cachep.slabs_free(k).next(k).container(0);
        slab.list(k).del(k);
        cachep.set_free_objects(k, cachep.free_objects(k) - cachep.num(k));
        // Its management may go back to another cache.
        cachep.spinlock(k).unlock(k);
        destroy(k, id, slab);
        cachep.spinlock(k).lock(k);
    }
    cachep.spinlock(k).unlock(k);
}

/// drain_array_locked: an array in use is spared once; else its oldest fifth goes back to the slabs, or half of what is left of it.
fn drain_array<K: Kernel>(k: K, id: CacheId, ac: Low<ArrayCache>) {
    let avail = ac.avail(k);
    if ac.touched(k) != 0 {
        ac.set_touched(k, 0);
        return;
    }
    if avail == 0 {
        return;
    }
    let mut n = ac.limit(k).div_ceil(5);
    if n > avail {
        n = avail.div_ceil(2);
    }
    free_block(k, id, entry(ac, 0), n);
    drop_oldest(k, ac, n);
}
