//! Rule of the slab allocator: each slab is on the list that its objects in use put it on, its chain of free objects holds the others, and
//! a cache has as many slabs as it says.
//!
//! A write past the end of an object of a full slab lands in the next page, where often the management of another slab lies; this is
//! where it shows. Cost: one visit of each free object's index.
//!
//! Invariant: objects in use + objects on the chain = objects of a slab.

use super::Violation;
use crate::kernel::Kernel;
use crate::list::ListHead;
use crate::ptr::Low;
use crate::slab::{self, BUFCTL_END, Cache, CacheId, Slab, bufctl};

/// Checks all caches.
pub(super) fn check<K: Kernel>(k: K) -> Result<(), Violation> {
    for id in CacheId::ALL.iter().filter(|id| id.exists(k)) {
        one_cache(k, slab::cache(k, *id)).map_err(|(what, value)| Violation::Slab {
            cache: id.name(),
            what,
            value,
        })?;
    }
    Ok(())
}

fn one_cache<K: Kernel>(k: K, cachep: Low<Cache>) -> Result<(), (&'static str, u32)> {
    let num = cachep.num(k);
    let (mut slabs, mut free) = (0, 0);
    let mut list = |head: Low<ListHead>, what, fits: &dyn Fn(u32) -> bool| {
        each(k, head, |slab| {
            slabs += 1;
            let inuse = slab.inuse(k);
            if inuse > num || !fits(inuse) {
                return Err((what, slab.va()));
            }
            free += num - inuse;
            chain(k, slab, num)
        })
    };
    list(cachep.slabs_full(k), "a slab that is not full", &|n| {
        n == num
    })?;
    list(
        cachep.slabs_partial(k),
        "a slab that is full or free",
        &|n| n != 0 && n != num,
    )?;
    list(cachep.slabs_free(k), "a slab that is not free", &|n| n == 0)?;
    if slabs != cachep.num_slabs(k) {
        return Err(("slabs on its lists", slabs));
    }
    if free != cachep.free_objects(k) {
        return Err(("objects free in its slabs", free));
    }
    Ok(())
}

fn each<K: Kernel>(
    k: K,
    head: Low<ListHead>,
    mut f: impl FnMut(Low<Slab>) -> Result<(), (&'static str, u32)>,
) -> Result<(), (&'static str, u32)> {
    let mut at = head;
    loop {
        let next = at.next(k);
        if next.va() < k.page_offset() || next.prev(k) != at {
            return Err(("broken links behind a slab", at.va()));
        }
        if next == head {
            return Ok(());
        }
        f(next.container(0))?;
        at = next;
    }
}

/// The indices of free objects, through the array behind the slab's management.
fn chain<K: Kernel>(k: K, slab: Low<Slab>, num: u32) -> Result<(), (&'static str, u32)> {
    let mut left = num - slab.inuse(k);
    let mut at = slab.free(k);
    while at != BUFCTL_END {
        if u32::from(at) >= num || left == 0 {
            return Err(("chain of free objects of a slab", slab.va()));
        }
        left -= 1;
        at = bufctl(slab, u32::from(at)).read(k);
    }
    match left {
        0 => Ok(()),
        _ => Err(("chain of free objects of a slab", slab.va())),
    }
}
