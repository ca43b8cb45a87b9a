//! The page allocator of 2.6.7 (mm/page_alloc.c), with the minima of 2.6.0 and 2.4 where these reclaim.
//!
//! | file | owns |
//! |---|---|
//! | [`zone`] | struct zone, watermarks |
//! | [`buddy`] | free lists by order, splitting and merging |
//! | [`pcp`] | hot and cold per-CPU lists |
//!
//! The owner of a page is written with its flags when it is handed out: the one store that prep_new_page does anyway. Where the
//! watermark passes fail, [`crate::reclaim`] is asked.
//!
//! Invariant: no page is handed out twice; the sum of pages by owner and free pages is the zone.

pub mod buddy;
pub mod pcp;
pub mod zone;

use crate::bug_on;
use crate::clock::nap;
use crate::cluster;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Page, page_struct_bytes, pg};
use crate::percpu;
use crate::ptr::Low;
use crate::reclaim::oom::{Rounds, is_livelock};
use crate::reclaim::{self, Request, Version};
use crate::slab;
use lowmem_abi::owner::Owner;
pub use zone::{Zone, ZoneKind};

/// What a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gfp {
    /// GFP_KERNEL: low memory, may sleep.
    Kernel,
    /// GFP_ATOMIC: low memory, may go deeper into the reserve.
    Atomic,
    /// GFP_NOFS: low memory, may sleep, but reclaim may not write pages of files for it.
    NoFs,
    /// GFP_HIGHUSER: any zone, high first.
    HighUser,
}

impl Gfp {
    /// __GFP_WAIT: the request may reclaim and sleep.
    #[inline(always)]
    pub const fn may_wait(self) -> bool {
        !matches!(self, Gfp::Atomic)
    }
    /// __GFP_FS: reclaim may write pages of files for it.
    #[inline(always)]
    pub const fn may_enter_fs(self) -> bool {
        !matches!(self, Gfp::Atomic | Gfp::NoFs)
    }
}

/// Allocates 2^`order` pages, physically contiguous and aligned to their size in their zone; count 1.
///
/// Passes of __alloc_pages: with the incremental minimum; then, kswapd woken, with it less a quarter of pages_low for
/// GFP_ATOMIC; then reclaim, and the first minimum again (2.6.0 and 2.4: the sum of pages_min); requests of up to 8 pages go round until they succeed, or until
/// [`crate::reclaim::oom`] ends the run. Callers that cannot wait may also take a zone that is above pages_high.
pub fn alloc_pages<K: Kernel>(k: K, gfp: Gfp, order: u32, owner: Owner) -> Result<Low<Page>, Oom> {
    let r = Request { gfp, order, owner };
    if k.inject_alloc_failure() {
        return Err(Oom { owner });
    }
    match take_page(k, &r, Pass::Low) {
        Some(page) => Ok(page),
        None => slow_path(k, &r),
    }
}

/// A pass of __alloc_pages over the zones: which minimum it leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The incremental minimum.
    Low,
    /// The same, deeper for GFP_ATOMIC; 2.6.0 and 2.4: the sum of pages_min.
    Min,
    /// None: reclaim itself allocates.
    Nothing,
}

/// Tries the zones of a request in order.
#[inline(always)]
fn take_page<K: Kernel>(k: K, r: &Request, pass: Pass) -> Option<Low<Page>> {
    let highest = r.highest();
    let node = zone::node(k);
    let mut kind = highest + 1;
    while kind > 0 {
        kind -= 1;
        let zone = node.zone(k, kind);
        if zone.present_pages(k) == 0 {
            continue;
        }
        let min = match pass {
            Pass::Low => (1 << r.order) + zone.protection(k, highest),
            Pass::Min => deep_minimum(k, r, (kind, highest)),
            Pass::Nothing => 0,
        };
        let free = zone.free_pages(k);
        if free >= min || (r.gfp == Gfp::Atomic && free >= zone.pages_high(k)) {
            if let Some(page) = rmqueue(k, zone, r.order) {
                prep_new_page(k, page, r.order, r.owner);
                return Some(page);
            }
        }
    }
    None
}

/// What the second pass leaves in zone `kind` for a request whose first choice is `highest`.
#[cold]
fn deep_minimum<K: Kernel>(k: K, r: &Request, (kind, highest): (u32, u32)) -> u32 {
    let node = zone::node(k);
    let high_priority = r.gfp == Gfp::Atomic;
    let min = 1 << r.order;
    if !sums_pages_min(k) {
        let zone = node.zone(k, kind);
        let less = if high_priority {
            zone.pages_low(k) >> 2
        } else {
            0
        };
        return min + zone.protection(k, highest) - less;
    }
    let mut sum = min;
    let mut i = kind;
    while i <= highest {
        let pages_min = node.zone(k, i).pages_min(k);
        sum += if high_priority {
            pages_min >> 2
        } else {
            pages_min
        };
        i += 1;
    }
    sum
}

/// Whether the passes behind the first go by pages_min: __alloc_pages of 2.4 and 2.6.0.
fn sums_pages_min<K: Kernel>(k: K) -> bool {
    matches!(reclaim::version(k), Version::V2_6_0 | Version::V2_4)
}

/// Everything behind the first pass.
#[cold]
#[inline(never)]
fn slow_path<K: Kernel>(k: K, r: &Request) -> Result<Low<Page>, Oom> {
    let oom = Oom { owner: r.owner };
    reclaim::kswapd::wake(k, r.highest());
    if let Some(page) = take_page(k, r, Pass::Min) {
        return Ok(page);
    }
    if reclaim::privileged(k) {
        return take_page(k, r, Pass::Nothing).ok_or(oom);
    }
    if !r.gfp.may_wait() || !reclaim::possible(k) {
        return Err(oom);
    }
    // Only a request that may wait comes here, so the sum of pages_min is whole.
    let after_reclaim = if sums_pages_min(k) {
        Pass::Min
    } else {
        Pass::Low
    };
    let mut rounds = Rounds::new(k);
    loop {
        let freed = reclaim::direct(k, r);
        if let Some(page) = take_page(k, r, after_reclaim) {
            return Ok(page);
        }
        if r.order > 3 {
            return Err(oom);
        }
        // What the timer of slab finds is progress: no request hangs while it goes on finding pages.
        rounds.add(k, freed + slab::reap::reap_if_due(k));
        if is_livelock(k, &rounds) {
            reclaim::oom::livelock(k, r);
        }
        nap(k, RETRY_NAP_MS);
    }
}

/// Milliseconds between two attempts (HZ/50).
const RETRY_NAP_MS: u32 = 20;

/// buffered_rmqueue.
#[inline]
fn rmqueue<K: Kernel>(k: K, zone: Low<Zone>, order: u32) -> Option<Low<Page>> {
    if order == 0 {
        return pcp::take(k, zone, pcp::Temperature::Hot);
    }
    let flags = k.irq_save();
    zone.lock(k).lock(k);
    let page = buddy::take_block(k, zone, order);
    zone.lock(k).unlock(k);
    k.irq_restore(flags);
    page
}

/// Bits of page->flags that never change: the zone.
const FIXED_FLAGS: u32 = (3 << pg::ZONE_SHIFT) | (1 << pg::HIGHMEM);

/// Bits that must be clear in a page that is free or becomes free.
const BUSY_FLAGS: u32 = (1 << pg::LRU)
    | (1 << pg::PRIVATE)
    | (1 << pg::LOCKED)
    | (1 << pg::ACTIVE)
    | (1 << pg::SLAB)
    | (1 << pg::SWAPCACHE)
    | (1 << pg::WRITEBACK)
    | (1 << pg::RESERVED)
    | (1 << pg::MAPLOCK);

/// Checks a page that was free and hands it out: flags with its owner, no private data, one reference. The real routine writes
/// the first page only; the others of a block get their owner here, because each page of low memory has one.
#[inline]
fn prep_new_page<K: Kernel>(k: K, page: Low<Page>, order: u32, owner: Owner) {
    percpu::mod_page_state(k, percpu::State::PgAlloc, 1 << order);
    let flags = page.flags(k);
    bug_on!(
        k,
        Buddy,
        page.mapping(k) | page.rmap(k) | page.count(k) != 0,
        page.va()
    );
    bug_on!(k, Buddy, flags & BUSY_FLAGS != 0, page.va());
    page.set_flags(
        k,
        (flags & FIXED_FLAGS) | ((owner as u32) << pg::OWNER_SHIFT),
    );
    page.set_private(k, 0);
    page.set_count(k, 1);
    k.handed_out(page, owner);
    let mut i = 1;
    while i < 1 << order {
        let other: Low<Page> = page.field(i * page_struct_bytes(k));
        let flags = other.flags(k) & FIXED_FLAGS;
        other.set_flags(k, flags | ((owner as u32) << pg::OWNER_SHIFT));
        i += 1;
    }
}

/// Drops the reference of an allocation of 2^`order` pages; frees it when it was the last (__free_pages).
pub fn free_pages<K: Kernel>(k: K, page: Low<Page>, order: u32) {
    if page.flags(k) & (1 << pg::RESERVED) != 0 || !k.atomic_dec_and_test(page.count_word(k)) {
        return;
    }
    if order == 0 {
        free_hot_page(k, page);
        return;
    }
    percpu::mod_page_state(k, percpu::State::PgFree, 1 << order);
    let mut i = 0;
    while i < 1 << order {
        free_pages_check(k, page.field(i * page_struct_bytes(k)));
        i += 1;
    }
    let zone = zone_of(k, page);
    let flags = k.irq_save();
    zone.lock(k).lock(k);
    zone.set_all_unreclaimable(k, 0);
    zone.set_pages_scanned(k, 0);
    buddy::free_block(k, zone, page, order);
    zone.lock(k).unlock(k);
    k.irq_restore(flags);
}

/// A page that becomes free is in use nowhere, and has no owner any more.
#[inline]
fn free_pages_check<K: Kernel>(k: K, page: Low<Page>) {
    let flags = page.flags(k);
    bug_on!(
        k,
        Buddy,
        page.mapping(k) | page.rmap(k) | page.count(k) != 0,
        page.va()
    );
    bug_on!(k, Buddy, flags & BUSY_FLAGS != 0, page.va());
    page.set_flags(k, flags & FIXED_FLAGS);
}

/// Frees a page whose count has become 0, to the hot list (free_hot_page).
pub fn free_hot_page<K: Kernel>(k: K, page: Low<Page>) {
    percpu::mod_page_state(k, percpu::State::PgFree, 1);
    free_pages_check(k, page);
    pcp::give(k, page, pcp::Temperature::Hot);
}

/// Frees a page whose count has become 0, to the cold list (free_cold_page).
pub fn free_cold_page<K: Kernel>(k: K, page: Low<Page>) {
    percpu::mod_page_state(k, percpu::State::PgFree, 1);
    free_pages_check(k, page);
    pcp::give(k, page, pcp::Temperature::Cold);
}

/// Owner of a page, from its flags.
#[inline(always)]
pub fn owner_of<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    (page.flags(k) >> pg::OWNER_SHIFT) & 0x3f
}

/// Gives a page another owner (a page-cache page that becomes anonymous keeps its frame).
#[inline(always)]
pub fn set_owner<K: Kernel>(k: K, page: Low<Page>, owner: Owner) {
    let flags = page.flags(k) & !(0x3f << pg::OWNER_SHIFT);
    page.set_flags(k, flags | ((owner as u32) << pg::OWNER_SHIFT));
}

/// Number of a page's first frame.
#[inline(always)]
pub fn page_to_pfn<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let number = page.va().wrapping_sub(zone::node(k).mem_map(k)) / page_struct_bytes(k);
    number << cluster::mmu_shift(k)
}

/// Page of a frame number; the frame must exist ([`pfn_valid`]).
#[inline(always)]
pub fn pfn_to_page<K: Kernel>(k: K, pfn: u32) -> Low<Page> {
    let number = pfn >> cluster::mmu_shift(k);
    Low::new(
        zone::node(k)
            .mem_map(k)
            .wrapping_add(number.wrapping_mul(page_struct_bytes(k))),
    )
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
