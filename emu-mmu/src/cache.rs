//! Tag caches and memory: which level answers an access (decisions D5, D8).
//!
//! L1D, L2 and an optional L3, indexed and tagged by physical address, write-allocate; a miss fills every level on its
//! way back. Below them one DRAM bank remembers its open page, and ascending runs of line misses are told from single
//! ones, for loads, stores and fetches apart. No data is held here, only tags.
//!
//! Left out: write-backs and write-through traffic, exclusive levels (K8), the adjacent line of a NetBurst sector.
//! Addresses above 64 GiB are not cached: nothing is there.
//!
//! Invariant: the answer depends only on the sequence of accesses.

use crate::addr::PhysAddr;
use crate::phys::MAX_RAM_BYTES;
use crate::sets::SetTable;
use lowmem_cost::geometry::{CacheGeometry, Geometry, Replacement};
use lowmem_cost::{Level, Purpose};

/// From this member on, an ascending run of line misses is a stream (decision D4).
const STREAM_FROM: u32 = 3;
/// No address has this line.
const NO_LINE: u32 = u32::MAX;

/// One level.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    table: SetTable,
    shift: u32,
    /// The line used last in each set: using it again changes nothing. With a count of sets that is no power of two, the
    /// line used last in all.
    newest: Box<[u32]>,
}

impl Cache {
    pub(crate) fn new(g: &CacheGeometry, replacement: Replacement) -> Cache {
        let lines = g.kib * 1024 / g.line;
        let sets = lines / g.ways;
        let newest = if sets.is_power_of_two() { sets } else { 1 };
        Cache {
            table: SetTable::new(lines, g.ways, replacement),
            shift: g.line.trailing_zeros(),
            newest: vec![NO_LINE; newest as usize].into(),
        }
    }

    /// log2 of the line size.
    #[inline(always)]
    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }

    /// Number of the line of an address below 64 GiB.
    #[inline(always)]
    fn line(&self, a: PhysAddr) -> u32 {
        (a.0 >> self.shift) as u32
    }

    /// True if the line of `a` is the one used last in its set, so that using it is a hit that changes nothing.
    #[inline(always)]
    pub(crate) fn is_newest(&self, a: PhysAddr) -> bool {
        let line = self.line(a);
        self.newest[self.place(line)] == line
    }

    #[inline(always)]
    fn place(&self, line: u32) -> usize {
        line as usize & (self.newest.len() - 1)
    }

    /// Uses the line of `a`, filling it if it was missing; true if it was there.
    #[inline]
    pub(crate) fn access(&mut self, a: PhysAddr) -> bool {
        let line = self.line(a);
        let place = self.place(line);
        self.newest[place] = line;
        let set = self.table.set_of(line);
        match self.table.find(set, line) {
            Some(slot) => {
                self.table.touch(slot);
                true
            }
            None => {
                self.table.insert(set, line);
                false
            }
        }
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) {
        self.table.flush(|_| false);
        self.newest.fill(NO_LINE);
    }
}

/// The data side and what instruction fetches share with it.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    /// First-level data cache.
    pub(crate) l1d: Cache,
    l2: Cache,
    l3: Option<Cache>,
    dram: Dram,
}

impl Hierarchy {
    pub(crate) fn new(g: &Geometry) -> Hierarchy {
        let last_level = g.l3.as_ref().unwrap_or(&g.l2);
        Hierarchy {
            l1d: Cache::new(&g.l1d, g.cache_replacement),
            l2: Cache::new(&g.l2, g.cache_replacement),
            l3: g.l3.as_ref().map(|l3| Cache::new(l3, g.cache_replacement)),
            dram: Dram {
                page_shift: g.dram_page_bytes.trailing_zeros(),
                line_shift: last_level.line.trailing_zeros(),
                open_page: u64::MAX,
                runs: [Run::default(); 3],
            },
        }
    }

    /// One line access of the data side.
    #[inline]
    pub(crate) fn access(&mut self, a: PhysAddr, purpose: Purpose) -> Level {
        if a.0 >= MAX_RAM_BYTES {
            return Level::MemoryRandom;
        }
        if self.l1d.access(a) {
            Level::L1
        } else {
            self.beyond_l1(a, purpose)
        }
    }

    /// One line access that a first-level cache did not answer.
    #[inline(never)]
    pub(crate) fn beyond_l1(&mut self, a: PhysAddr, purpose: Purpose) -> Level {
        if a.0 >= MAX_RAM_BYTES {
            return Level::MemoryRandom;
        }
        if self.l2.access(a) {
            return Level::L2;
        }
        if let Some(l3) = &mut self.l3
            && l3.access(a)
        {
            return Level::L3;
        }
        self.dram.access(a, purpose)
    }

    /// Empties all levels and closes the DRAM page.
    pub(crate) fn clear(&mut self) {
        self.l1d.clear();
        self.l2.clear();
        if let Some(l3) = &mut self.l3 {
            l3.clear();
        }
        self.dram.open_page = u64::MAX;
        self.dram.runs = [Run::default(); 3];
    }
}

/// One bank of memory.
#[derive(Debug, Clone)]
struct Dram {
    page_shift: u32,
    line_shift: u32,
    open_page: u64,
    /// Of loads, stores and fetches.
    runs: [Run; 3],
}

/// An ascending run of line misses.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    next: u64,
    len: u32,
}

impl Dram {
    fn access(&mut self, a: PhysAddr, purpose: Purpose) -> Level {
        let page = a.0 >> self.page_shift;
        let open = page == self.open_page;
        self.open_page = page;
        let run = match purpose {
            Purpose::Load => Some(0),
            Purpose::Store => Some(1),
            Purpose::Fetch => Some(2),
            Purpose::ItlbWalk | Purpose::DtlbWalk | Purpose::Pdpte => None,
        };
        if let Some(run) = run {
            let (run, line) = (&mut self.runs[run], a.0 >> self.line_shift);
            run.len = if run.len > 0 && line == run.next {
                run.len.saturating_add(1)
            } else {
                1
            };
            run.next = line + 1;
            if run.len >= STREAM_FROM {
                return Level::Stream;
            }
        }
        if open {
            Level::MemoryOpen
        } else {
            Level::MemoryRandom
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_answer_in_turn() {
        let mut h = Hierarchy::new(&Geometry::pentium3());
        let at = |line: u64| PhysAddr(line * 32);
        // Another page, then the open page, then a stream; each line hits once it is there.
        let levels: Vec<Level> = (0..5).map(|i| h.access(at(i), Purpose::Load)).collect();
        use Level::*;
        assert_eq!(levels, [MemoryRandom, MemoryOpen, Stream, Stream, Stream]);
        assert_eq!(h.access(at(4), Purpose::Store), L1);
        // 512 lines of 16 KB push everything out of L1D, nothing out of L2.
        for i in 1000..1512 {
            h.access(at(i), Purpose::DtlbWalk);
        }
        assert_eq!(h.access(at(0), Purpose::Load), L2);
        assert_eq!(h.access(at(0), Purpose::Load), L1);
    }

    #[test]
    fn runs_of_loads_and_stores_are_apart_and_walks_do_not_disturb() {
        let mut h = Hierarchy::new(&Geometry::pentium3());
        let mut last = (Level::L1, Level::L1);
        for i in 0..3u64 {
            last.0 = h.access(PhysAddr(0x10_0000 + i * 32), Purpose::Load);
            h.access(PhysAddr(0x30_0000 + i * 4096), Purpose::DtlbWalk);
            last.1 = h.access(PhysAddr(0x20_0000 + i * 32), Purpose::Store);
        }
        assert_eq!(last, (Level::Stream, Level::Stream));
        assert_eq!(
            h.access(PhysAddr(0x40_0000), Purpose::Load),
            Level::MemoryRandom
        );
        assert_eq!(
            h.access(PhysAddr(0x10_0060), Purpose::Load),
            Level::MemoryRandom
        );
    }

    #[test]
    fn nothing_is_cached_above_ram() {
        let mut h = Hierarchy::new(&Geometry::pentium3());
        for _ in 0..2 {
            assert_eq!(
                h.access(PhysAddr(1 << 36), Purpose::Load),
                Level::MemoryRandom
            );
        }
    }
}
