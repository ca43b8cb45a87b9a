//! Zones (include/linux/mmzone.h, 2.6.7): free lists, watermarks, LRU lists, per-CPU page lists.
//!
//! Field order follows 2.6.7 with its padding to cache lines of 128 bytes (2,048 bytes a zone; fact sheet, VM 1). Watermarks: fact
//! sheet "Watermarks": lowmem zones share min_free_kbytes (1,024 kB in 2.6.0, later sqrt(lowmem kB)) in proportion, HIGHMEM takes
//! present/1024 within 32..128 (2.4: each zone present/128 within 20..255, zone_balance_ratio); low = 2 min, high = 3 min; `protection` is the incremental minimum. Leaves out: NUMA, wait tables.
//!
//! Invariant: `free_pages` is the number of pages on the free lists of the buddy allocator (not on per-CPU lists).

use crate::cluster;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::list::ListHead;
use crate::ptr::Low;
use crate::reclaim::Version;
use crate::root;
use crate::sync::SpinLock;
use crate::task::boot_word;
use core::mem::offset_of;
use lowmem_abi::boot::BootInfo;

/// Zones of a node.
pub const MAX_NR_ZONES: u32 = 3;
/// Orders of the buddy allocator: 0 to 10.
pub const MAX_ORDER: u32 = 11;

/// Kind of zone, as kept in page->flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum ZoneKind {
    /// 0 to 16 MB.
    Dma = 0,
    /// To the end of the direct map.
    Normal = 1,
    /// The rest.
    HighMem = 2,
}

impl ZoneKind {
    /// All, ascending.
    pub const ALL: [ZoneKind; 3] = [ZoneKind::Dma, ZoneKind::Normal, ZoneKind::HighMem];
}

guest_struct! {
    /// free_area: free blocks of one order, and the bitmap of their buddies (one bit a pair).
    pub struct FreeArea [K] size 12;
    at 0 => part free_list: ListHead;
    at 8 => word map, set_map: Low<u32>;
}

guest_struct! {
    /// per_cpu_pages: a hot or cold list.
    pub struct PerCpuPages [K] size 24;
    at 0 => word count, set_count: u32;
    at 4 => word low, set_low: u32;
    at 8 => word high, set_high: u32;
    at 12 => word batch, set_batch: u32;
    at 16 => part list: ListHead;
}

guest_struct! {
    /// struct zone.
    pub struct Zone [K] size 2048;
    at 0 => part lock: SpinLock;
    at 4 => word free_pages, set_free_pages: u32;
    at 8 => word pages_min, set_pages_min: u32;
    at 12 => word pages_low, set_pages_low: u32;
    at 16 => word pages_high, set_pages_high: u32;
    /// Pages to leave free for a request that would rather have zone `i`.
    at 20 => words protection, set_protection: u32, 3;
    at 128 => part lru_lock: SpinLock;
    at 132 => part active_list: ListHead;
    at 140 => part inactive_list: ListHead;
    at 148 => word nr_scan_active, set_nr_scan_active: u32;
    at 152 => word nr_scan_inactive, set_nr_scan_inactive: u32;
    at 156 => word nr_active, set_nr_active: u32;
    at 160 => word nr_inactive, set_nr_inactive: u32;
    at 164 => word all_unreclaimable, set_all_unreclaimable: u32;
    at 168 => word pages_scanned, set_pages_scanned: u32;
    at 256 => word temp_priority, set_temp_priority: u32;
    at 260 => word prev_priority, set_prev_priority: u32;
    at 264 => parts free_area: FreeArea, 11;
    /// hot and cold list of CPU 0, each CPU on lines of its own.
    at 512 => parts pageset: PerCpuPages, 2;
    at 1536 => word zone_mem_map, set_zone_mem_map: u32;
    at 1540 => word zone_start_pfn, set_zone_start_pfn: u32;
    at 1544 => word spanned_pages, set_spanned_pages: u32;
    at 1548 => word present_pages, set_present_pages: u32;
    /// A [`ZoneKind`].
    at 1552 => word kind, set_kind: u32;
}

guest_struct! {
    /// The node: its zones and what the allocator knows of memory as a whole.
    pub struct Node [K] size 8192;
    at 0 => parts zone: Zone, 3;
    at 6144 => word mem_map, set_mem_map: u32;
    /// Frames in all.
    at 6148 => word max_pfn, set_max_pfn: u32;
    /// First frame outside the direct map.
    at 6152 => word max_low_pfn, set_max_low_pfn: u32;
    /// Pages handed to the allocator at boot.
    at 6156 => word totalram_pages, set_totalram_pages: u32;
    /// Of these, in HIGHMEM.
    at 6160 => word totalhigh_pages, set_totalhigh_pages: u32;
    /// Bytes of a cache line the kernel was built for (chain_line of the boot information).
    at 6164 => word l1_line, set_l1_line: u32;
    /// PAGE_MMUSHIFT, read by clustered kernels only ([`crate::cluster`]).
    at 6168 => word mmu_shift, set_mmu_shift: u32;
}

/// The node.
#[inline(always)]
pub fn node<K: Kernel>(k: K) -> Low<Node> {
    root::part(k, root::PAGE_ALLOC)
}

/// A zone by kind.
#[inline(always)]
pub fn zone<K: Kernel>(k: K, kind: ZoneKind) -> Low<Zone> {
    node(k).zone(k, kind as u32)
}

/// Square root, rounded down (int_sqrt).
const fn int_sqrt(x: u32) -> u32 {
    let mut root = 0;
    let mut bit = 1 << 15;
    while bit != 0 {
        let t: u32 = root | bit;
        if t <= 0xffff && t * t <= x {
            root = t;
        }
        bit >>= 1;
    }
    root
}

/// min_free_kbytes of 2.6.0 (mm/page_alloc.c), for any memory size.
const MIN_FREE_KBYTES_2_6_0: u32 = 1024;

/// Watermarks of all zones (init_per_zone_pages_min and setup_per_zone_pages_min), and the incremental minimum. The version is read
/// from the boot information: watermarks come before the state of reclaim.
pub fn setup_watermarks<K: Kernel>(k: K) {
    let lowmem =
        zone(k, ZoneKind::Dma).present_pages(k) + zone(k, ZoneKind::Normal).present_pages(k);
    let version = boot_word(k, offset_of!(BootInfo, reclaim));
    let shift = 2 + cluster::mmu_shift(k);
    let kbytes = if version == Version::V2_6_0 as u32 {
        MIN_FREE_KBYTES_2_6_0
    } else {
        // sqrt(lowmem kB * 16) of later versions is sqrt(lowmem kB) in 2.6.7: 957 kB for 896 MB.
        int_sqrt(lowmem << shift).clamp(128, 16_384)
    };
    let pages_min = kbytes >> shift;
    for kind in ZoneKind::ALL {
        let zone = zone(k, kind);
        let present = zone.present_pages(k);
        let min = match kind {
            _ if version == Version::V2_4 as u32 => (present / 128).clamp(20, 255),
            ZoneKind::HighMem => (present / 1024).clamp(32, 128),
            ZoneKind::Dma | ZoneKind::Normal => {
                // 32-bit as there: pages_min is at most 4,096 and present below 2^20.
                (pages_min * present).checked_div(lowmem).unwrap_or(0)
            }
        };
        zone.set_pages_min(k, min);
        zone.set_pages_low(k, 2 * min);
        zone.set_pages_high(k, 3 * min);
    }
    let mut wanted = 0;
    while wanted < MAX_NR_ZONES {
        let mut sum = 0;
        let mut i = wanted + 1;
        while i > 0 {
            i -= 1;
            let zone = node(k).zone(k, i);
            if zone.present_pages(k) != 0 {
                sum += zone.pages_low(k);
            }
            zone.set_protection(k, wanted, sum);
        }
        wanted += 1;
    }
}
