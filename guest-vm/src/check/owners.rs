//! Rule of the books: in every zone the pages of all owners are the pages taken from it, and those of a slab's owner that its caches
//! hold are what its caches say.
//!
//! A page without owner is on a free list of its zone or on a per-CPU list; a page on such a list has no owner. Cost: one pass over
//! mem_map.
//!
//! Invariant: per zone, owners' pages + free pages + pages on per-CPU lists = pages present.

use super::Violation;
use crate::cluster;
use crate::guest_struct::Layout;
use crate::kernel::Kernel;
use crate::layout::{Page, pg};
use crate::list::ListHead;
use crate::page;
use crate::page_alloc::zone::{MAX_ORDER, Zone};
use crate::page_alloc::{ZoneKind, owner_of, pfn_to_page, zone};
use crate::ptr::Low;
use crate::slab::{self, CacheId};
use lowmem_abi::owner::Owner;

fn name(number: u32) -> &'static str {
    Owner::from_u32(number).map_or("unknown", Owner::name)
}

/// Checks the owners of every zone.
pub(super) fn check<K: Kernel>(k: K) -> Result<(), Violation> {
    let mut of_slabs = [0u32; 64];
    for kind in ZoneKind::ALL {
        let z = zone::zone(k, kind);
        if z.spanned_pages(k) != 0 {
            one_zone(k, kind, z, &mut of_slabs)?;
        }
    }
    slabs(k, &of_slabs)
}

fn one_zone<K: Kernel>(
    k: K,
    kind: ZoneKind,
    z: Low<Zone>,
    of_slabs: &mut [u32; 64],
) -> Result<(), Violation> {
    let start = z.zone_start_pfn(k);
    let mut by_owner = [0u32; 64];
    for i in 0..z.spanned_pages(k) {
        let p = pfn_to_page(k, start + (i << cluster::mmu_shift(k)));
        let number = owner_of(k, p);
        by_owner[number as usize] += 1;
        if page::test(k, p, pg::SLAB) {
            of_slabs[number as usize] += 1;
        }
    }
    let wrong = |number: u32, pages, expected| Violation::Owners {
        zone: kind,
        owner: name(number),
        pages,
        expected,
    };
    for (number, &pages) in by_owner.iter().enumerate() {
        let known = Owner::from_u32(number as u32).is_some_and(|o| o != Owner::SlabWaste);
        if pages != 0 && !known {
            return Err(wrong(number as u32, pages, 0));
        }
    }
    let mut free = 0;
    for order in 0..MAX_ORDER {
        let (blocks, owned) = on_list(k, z.free_area(k, order).free_list(k), 1 << order);
        if let Some(number) = owned {
            return Err(wrong(number, 1 << order, 0));
        }
        free += blocks << order;
    }
    if free != z.free_pages(k) {
        return Err(wrong(Owner::Free as u32, free, z.free_pages(k)));
    }
    for i in 0..2 {
        let list = z.pageset(k, i);
        let (pages, owned) = on_list(k, list.list(k), 1);
        if let Some(number) = owned {
            return Err(wrong(number, 1, 0));
        }
        if pages != list.count(k) {
            return Err(wrong(Owner::PerCpu as u32, pages, list.count(k)));
        }
        free += pages;
    }
    let none = by_owner[Owner::Free as usize];
    if none != free {
        return Err(wrong(Owner::Free as u32, none, free));
    }
    Ok(())
}

/// Blocks on a list of free blocks of `size` pages, and the owner of a page among them that has one.
fn on_list<K: Kernel>(k: K, head: Low<ListHead>, size: u32) -> (u32, Option<u32>) {
    let (mut n, mut owned) = (0, None);
    let mut at = head.next(k);
    while at != head {
        let first = page::of_lru(k, at);
        for i in 0..size {
            let p: Low<Page> = first.field(i * Page::size(k));
            if owner_of(k, p) != Owner::Free as u32 {
                owned = Some(owner_of(k, p));
            }
        }
        n += 1;
        at = at.next(k);
    }
    (n, owned)
}

fn slabs<K: Kernel>(k: K, of_slabs: &[u32; 64]) -> Result<(), Violation> {
    let mut expected = [0u32; 64];
    for id in CacheId::ALL.iter().filter(|id| id.exists(k)) {
        let cachep = slab::cache(k, *id);
        let pages = cachep.num_slabs(k) << cachep.gfporder(k);
        expected[id.owner() as usize] += pages;
    }
    for (number, (&pages, &expected)) in of_slabs.iter().zip(&expected).enumerate() {
        if pages != expected {
            return Err(Violation::Owners {
                // Slabs lie in low memory: which of its two zones, their caches do not know.
                zone: ZoneKind::Normal,
                owner: name(number as u32),
                pages,
                expected,
            });
        }
    }
    Ok(())
}
