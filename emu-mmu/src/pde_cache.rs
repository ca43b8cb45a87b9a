//! The cache of page-directory entries, indexed by linear address bits 31:21, or 31:22 in 32-bit paging (SDM vol. 3A,
//! section 4.10.3).
//!
//! Holds only entries that are present, do not map a large page, have A set and no reserved bit set. Not affected by G.
//! invlpg and every CR3 load empty it; a #PF drops the entry of its address. It may have no entries at all (NetBurst).
//!
//! Invariant: fully associative; what it returns is what the walker last read from memory for that address.

use crate::addr::{Region, VirtAddr};
use crate::sets::SetTable;
use lowmem_cost::geometry::Replacement;

/// Cached directory entries.
#[derive(Debug, Clone)]
pub(crate) struct PdeCache {
    table: Option<SetTable>,
    pdes: Box<[u64]>,
    region: Region,
}

impl PdeCache {
    /// `entries` may be 0.
    pub(crate) fn new(entries: u32, replacement: Replacement) -> PdeCache {
        PdeCache {
            table: (entries > 0).then(|| SetTable::new(entries, entries, replacement)),
            pdes: vec![0; entries as usize].into(),
            region: Region::Mib2,
        }
    }

    /// The cached entry for `va`, used.
    pub(crate) fn get(&mut self, va: VirtAddr) -> Option<u64> {
        let table = self.table.as_mut()?;
        let slot = table.find(0, self.region.of(va))?;
        table.touch(slot);
        Some(self.pdes[slot as usize])
    }

    /// The cached entry for `va`. Changes nothing.
    pub(crate) fn peek(&self, va: VirtAddr) -> Option<u64> {
        let slot = self.table.as_ref()?.find(0, self.region.of(va))?;
        Some(self.pdes[slot as usize])
    }

    /// Keeps the entry for `va`, which was not there.
    pub(crate) fn insert(&mut self, va: VirtAddr, pde: u64) {
        if let Some(table) = &mut self.table {
            let slot = table.insert(0, self.region.of(va));
            self.pdes[slot as usize] = pde;
        }
    }

    /// Drops the entry for `va`.
    pub(crate) fn invalidate(&mut self, va: VirtAddr) {
        if let Some(table) = &mut self.table
            && let Some(slot) = table.find(0, self.region.of(va))
        {
            table.clear(slot);
        }
    }

    /// Empties it; from now on an entry covers `region`.
    pub(crate) fn reset(&mut self, region: Region) {
        self.clear();
        self.region = region;
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) {
        if let Some(table) = &mut self.table {
            table.flush(|_| false);
        }
    }
}
