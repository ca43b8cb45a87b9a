//! The page allocator of 2.6.7 (mm/page_alloc.c).
//!
//! | file | owns |
//! |---|---|
//! | [`zone`] | struct zone, watermarks |
//! | [`buddy`] | free lists by order, splitting and merging |
//! | [`pcp`] | hot and cold per-CPU lists |
//!
//! The owner of a page is written with its flags when it is handed out: the one store that prep_new_page does anyway. Direct
//! reclaim and kswapd do not exist yet: where the watermark passes fail the request fails.
//!
//! Invariant: no page is handed out twice; the sum of pages by owner and free pages is the zone.

pub mod buddy;
pub mod pcp;
pub mod zone;

use crate::kernel::{Kernel, Oom};
use crate::layout::{Page, pg};
use crate::ptr::Low;
use lowmem_abi::owner::Owner;
pub use zone::{Zone, ZoneKind};

/// What a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gfp {
    /// GFP_KERNEL: low memory, may sleep.
    Kernel,
    /// GFP_ATOMIC: low memory, may go deeper into the reserve.
    Atomic,
    /// GFP_HIGHUSER: any zone, high first.
    HighUser,
}

/// Allocates 2^`order` pages, physically contiguous and aligned to their size in their zone; count 1.
pub fn alloc_pages<K: Kernel>(k: K, gfp: Gfp, order: u32, owner: Owner) -> Result<Low<Page>, Oom> {
    let _ = (gfp, order);
    let _ = k;
    Err(Oom { owner })
}

/// Drops the reference of an allocation of 2^`order` pages; frees it when it was the last (__free_pages).
pub fn free_pages<K: Kernel>(k: K, page: Low<Page>, order: u32) {
    let _ = (k, page, order);
}

/// Frees a page whose count has become 0, to the hot list (free_hot_page).
pub fn free_hot_page<K: Kernel>(k: K, page: Low<Page>) {
    let _ = (k, page);
}

/// Frees a page whose count has become 0, to the cold list (free_cold_page).
pub fn free_cold_page<K: Kernel>(k: K, page: Low<Page>) {
    let _ = (k, page);
}

/// Frame number of a page.
#[inline(always)]
pub fn page_to_pfn<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    page.va().wrapping_sub(zone::node(k).mem_map(k)) / 32
}

/// Page of a frame number; the frame must exist ([`pfn_valid`]).
#[inline(always)]
pub fn pfn_to_page<K: Kernel>(k: K, pfn: u32) -> Low<Page> {
    Low::new(zone::node(k).mem_map(k).wrapping_add(pfn.wrapping_mul(32)))
}

/// Whether a frame has a struct page.
#[inline(always)]
pub fn pfn_valid<K: Kernel>(k: K, pfn: u32) -> bool {
    pfn < zone::node(k).max_pfn(k)
}

/// Address of a page in the direct map, if it is in low memory (lowmem_page_address).
#[inline(always)]
pub fn page_address<K: Kernel>(k: K, page: Low<Page>) -> Option<u32> {
    if page.flags(k) & (1 << pg::HIGHMEM) != 0 {
        return None;
    }
    Some(k.page_offset().wrapping_add(page_to_pfn(k, page) << 12))
}

/// Page of an address in the direct map (virt_to_page).
#[inline(always)]
pub fn virt_to_page<K: Kernel>(k: K, va: u32) -> Low<Page> {
    pfn_to_page(k, va.wrapping_sub(k.page_offset()) >> 12)
}

/// Zone of a page, from its flags.
#[inline(always)]
pub fn zone_of<K: Kernel>(k: K, page: Low<Page>) -> Low<Zone> {
    zone::node(k).zone(k, page.flags(k) >> pg::ZONE_SHIFT)
}
