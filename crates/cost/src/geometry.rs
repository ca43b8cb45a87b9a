//! Sizes and policies of TLBs, caches and front end: the part of a CPU preset that decides *which* events happen.
//!
//! Sources of the shipped values are with each value in the preset files. Any count of sets and ways is allowed: a
//! TLB is limited by the hardware modelled, not by the implementation.

use serde::{Deserialize, Serialize};

/// Entries and ways of a set-associative structure; `ways == entries` is fully associative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAssoc {
    /// Entries in all.
    pub entries: u32,
    /// Ways per set.
    pub ways: u32,
}

/// Which entry a full set gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replacement {
    /// True least recently used.
    Lru,
    /// Tree pseudo-LRU (ways a power of two, else LRU).
    Plru,
}

/// How a TLB holds 2 MB pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LargePages {
    /// In entries of their own.
    Separate(SetAssoc),
    /// In the same entries as 4 KB pages.
    Shared,
    /// Broken into 4 KB entries (NetBurst ITLB).
    Fragment4k,
}

/// One first-level TLB and its optional second level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlbGeometry {
    /// Entries for 4 KB pages.
    pub small: SetAssoc,
    /// Where 2 MB pages go.
    pub large: LargePages,
    /// Second level for 4 KB pages, if any.
    pub second: Option<SetAssoc>,
}

/// One cache level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheGeometry {
    /// Capacity in KiB.
    pub kib: u32,
    /// Ways per set.
    pub ways: u32,
    /// Line in bytes.
    pub line: u32,
}

/// What feeds the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrontEnd {
    /// A first-level instruction cache; every instruction consults the ITLB.
    L1i(CacheGeometry),
    /// A linear-tagged trace cache; the ITLB is consulted only when it misses, and the fill comes from L2.
    TraceCache {
        /// Lines in all (capacity in uops / 6 uops a line on NetBurst).
        lines: u32,
        /// Ways per set.
        ways: u32,
        /// Linear bytes of code that one line is taken to hold.
        line_bytes: u32,
        /// A CR3 load empties it.
        flush_on_cr3: bool,
    },
}

/// How PDPTEs are read when CR3 is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PdpteRead {
    /// Through the caches.
    Cached,
    /// Four uncached reads.
    Uncached,
}

/// Direction and target prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchGeometry {
    /// Two-bit counters with target, direct mapped by address.
    pub btb_entries: u32,
    /// Depth of the return stack.
    pub return_stack: u32,
}

/// Everything about a CPU that decides which events happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Physical address bits (MAXPHYADDR).
    pub maxphyaddr: u8,
    /// EFER.NXE can be set.
    pub nx: bool,
    /// CR4.PGE exists.
    pub pge: bool,
    /// sysenter exists.
    pub sep: bool,
    /// Instruction TLB.
    pub itlb: TlbGeometry,
    /// Data TLB.
    pub dtlb: TlbGeometry,
    /// Replacement in the TLBs.
    pub tlb_replacement: Replacement,
    /// Entries of the cache of page-directory entries (fully associative), 0 for none.
    pub pde_cache: u32,
    /// How PDPTEs are read.
    pub pdpte_read: PdpteRead,
    /// Front end.
    pub front_end: FrontEnd,
    /// First-level data cache.
    pub l1d: CacheGeometry,
    /// Second level.
    pub l2: CacheGeometry,
    /// Third level, if any.
    pub l3: Option<CacheGeometry>,
    /// Replacement in the caches.
    pub cache_replacement: Replacement,
    /// Bytes of one DRAM page, for telling open from random accesses.
    pub dram_page_bytes: u32,
    /// Branch prediction.
    pub branch: BranchGeometry,
}

impl Geometry {
    /// Pentium III (Tualatin), `facts` table of the `pentium3` preset: the geometry tests use when none is named.
    pub fn pentium3() -> Self {
        Self {
            maxphyaddr: 36,
            nx: false,
            pge: true,
            sep: true,
            itlb: TlbGeometry {
                small: SetAssoc {
                    entries: 32,
                    ways: 4,
                },
                large: LargePages::Separate(SetAssoc {
                    entries: 2,
                    ways: 2,
                }),
                second: None,
            },
            dtlb: TlbGeometry {
                small: SetAssoc {
                    entries: 64,
                    ways: 4,
                },
                large: LargePages::Separate(SetAssoc {
                    entries: 8,
                    ways: 4,
                }),
                second: None,
            },
            tlb_replacement: Replacement::Plru,
            pde_cache: 4,
            pdpte_read: PdpteRead::Uncached,
            front_end: FrontEnd::L1i(CacheGeometry {
                kib: 16,
                ways: 4,
                line: 32,
            }),
            l1d: CacheGeometry {
                kib: 16,
                ways: 4,
                line: 32,
            },
            l2: CacheGeometry {
                kib: 512,
                ways: 8,
                line: 32,
            },
            l3: None,
            cache_replacement: Replacement::Plru,
            dram_page_bytes: 4096,
            branch: BranchGeometry {
                btb_entries: 512,
                return_stack: 16,
            },
        }
    }
}
