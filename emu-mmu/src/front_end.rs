//! What feeds the decoder: a first-level instruction cache, or NetBurst's trace cache (decision D6).
//!
//! The trace cache is tagged by linear address, so its hits need no translation and the ITLB is consulted only when it
//! misses; the fill then comes from L2. Each line here stands for a fixed number of linear bytes of code and keeps where
//! they are and whose rights they need. A CR3 load empties it or, in the other variant, leaves its lines to be told apart
//! by root (global pages excepted), which is the "re-tag" reading of the sources. A line that outlived a CR3 load is
//! *unsure*: it hits only if the tables still say what it says, which whoever asks must find out, once ([`Held`]); the
//! architecture would not let it be used otherwise. Whatever drops a page's TLB entries drops its lines.
//!
//! Left out: traces as such (order of execution, several traces over the same bytes), micro-op capacity.
//! Invariant: a line never outlives an invalidation of its page.

use crate::addr::{PhysAddr, Region, VirtAddr};
use crate::cache::Cache;
use crate::entry::TlbEntry;
use crate::mmu::Privilege;
use crate::sets::SetTable;
use lowmem_cost::geometry::{FrontEnd as Geometry, Replacement};

/// Root tag of a line of a global page.
const ANY_ROOT: u32 = u32::MAX;
/// Buckets that count lines by page, so that most invalidations need not search. Few, because each CR3 load clears them.
const BUCKETS: usize = 256;
/// The same by region of a directory entry.
const REGIONS: usize = 64;
/// Flags of a line that came from a large page.
const WIDE: u64 = TlbEntry::LARGE | TlbEntry::FRAGMENT;

/// The front end.
#[derive(Debug, Clone)]
pub(crate) enum FrontEnd {
    L1i(Cache),
    Trace(TraceCache),
}

impl FrontEnd {
    pub(crate) fn new(g: &Geometry, replacement: Replacement) -> FrontEnd {
        match *g {
            Geometry::L1i(ref cache) => FrontEnd::L1i(Cache::new(cache, replacement)),
            Geometry::TraceCache {
                lines,
                ways,
                line_bytes,
                flush_on_cr3,
            } => FrontEnd::Trace(TraceCache {
                table: SetTable::new(lines, ways, replacement),
                lines: vec![TraceLine::default(); lines as usize].into(),
                shift: line_bytes.trailing_zeros(),
                on_cr3: if flush_on_cr3 {
                    OnCr3::Flush
                } else {
                    OnCr3::Retag
                },
                root: 0,
                epoch: 0,
                by_page: vec![0; BUCKETS].into(),
                by_region: vec![0; REGIONS].into(),
                region: Region::Mib2,
            }),
        }
    }

    /// A CR3 load.
    pub(crate) fn load_cr3(&mut self, root: u32) {
        if let FrontEnd::Trace(t) = self {
            t.root = root;
            match t.on_cr3 {
                OnCr3::Flush => t.clear(),
                OnCr3::Retag => t.epoch += 1,
            }
        }
    }

    /// All translations are void; from now on large pages cover `region`.
    pub(crate) fn flush_translations(&mut self, region: Region) {
        if let FrontEnd::Trace(t) = self {
            t.clear();
            t.region = region;
        }
    }

    /// The translation of `va` is void.
    pub(crate) fn invalidate(&mut self, va: VirtAddr) {
        if let FrontEnd::Trace(t) = self {
            t.invalidate(va);
        }
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) {
        match self {
            FrontEnd::L1i(cache) => cache.clear(),
            FrontEnd::Trace(t) => t.clear(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnCr3 {
    Flush,
    Retag,
}

/// NetBurst's trace cache.
#[derive(Debug, Clone)]
pub(crate) struct TraceCache {
    table: SetTable,
    lines: Box<[TraceLine]>,
    shift: u32,
    on_cr3: OnCr3,
    root: u32,
    /// CR3 loads that lines outlived.
    epoch: u64,
    by_page: Box<[u32]>,
    /// Lines of large pages, by region.
    by_region: Box<[u32]>,
    region: Region,
}

/// What a line keeps beside its tag.
#[derive(Debug, Clone, Copy, Default)]
struct TraceLine {
    at: PhysAddr,
    root: u32,
    flags: u64,
    /// When it was last known to be good.
    epoch: u64,
}

/// A line that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// The address is there.
    Sure(PhysAddr),
    /// It was there before a CR3 load, with these flags of a TLB entry.
    Unsure(u32, PhysAddr, TlbEntry),
}

impl TraceCache {
    /// log2 of the linear bytes of a line.
    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }

    fn key(&self, va: VirtAddr) -> u32 {
        va.0 >> self.shift
    }

    fn find(&self, va: VirtAddr, p: Privilege) -> Option<u32> {
        let key = self.key(va);
        self.table.find_where(self.table.set_of(key), key, |slot| {
            let line = &self.lines[slot as usize];
            let root = line.root == self.root || line.root == ANY_ROOT;
            root && (p == Privilege::Supervisor || line.flags & TlbEntry::U != 0)
        })
    }

    /// Where `va` is, if its line is held. Changes nothing.
    pub(crate) fn peek(&self, va: VirtAddr, p: Privilege) -> Option<Held> {
        let slot = self.find(va, p)?;
        Some(self.held(slot, va))
    }

    /// As [`TraceCache::peek`], and uses the line, if that is sure.
    #[inline]
    pub(crate) fn access(&mut self, va: VirtAddr, p: Privilege) -> Option<Held> {
        let slot = self.find(va, p)?;
        let held = self.held(slot, va);
        if let Held::Sure(_) = held {
            self.table.touch(slot);
        }
        Some(held)
    }

    #[inline]
    fn held(&self, slot: u32, va: VirtAddr) -> Held {
        let line = &self.lines[slot as usize];
        let offset = va.0 & ((1 << self.shift) - 1);
        let at = line.at.plus(u64::from(offset));
        if line.epoch == self.epoch || line.root == ANY_ROOT {
            Held::Sure(at)
        } else {
            Held::Unsure(slot, at, TlbEntry(line.flags))
        }
    }

    /// An unsure line proved good, and is used.
    pub(crate) fn confirm(&mut self, slot: u32) {
        self.lines[slot as usize].epoch = self.epoch;
        self.table.touch(slot);
    }

    /// Keeps the line of `va`, which is at `at` and was missing.
    pub(crate) fn insert(&mut self, va: VirtAddr, at: PhysAddr, entry: TlbEntry) {
        let key = self.key(va);
        let set = self.table.set_of(key);
        // The same line under lesser rights or another root must not be found beside the new one.
        let same = |slot: u32| {
            let root = self.lines[slot as usize].root;
            root == self.root || root == ANY_ROOT
        };
        if let Some(slot) = self.table.find_where(set, key, same) {
            self.drop_line(slot);
        }
        if let Some(victim) = self.table.victim(set) {
            self.count(victim, u32::wrapping_sub);
        }
        let slot = self.table.insert(set, key);
        let offset = u64::from(va.0 & ((1 << self.shift) - 1));
        self.lines[slot as usize] = TraceLine {
            at: PhysAddr(at.0 - offset),
            root: if entry.has(TlbEntry::G) {
                ANY_ROOT
            } else {
                self.root
            },
            flags: entry.0,
            epoch: self.epoch,
        };
        self.count(slot, u32::wrapping_add);
    }

    /// Adds a line to the counts of its page and region, or takes it away.
    fn count(&mut self, slot: u32, op: fn(u32, u32) -> u32) {
        let page = self.page_of(slot);
        let n = &mut self.by_page[page as usize % BUCKETS];
        *n = op(*n, 1);
        if self.lines[slot as usize].flags & WIDE != 0 {
            let n = &mut self.by_region[self.region.of_page(page) as usize % REGIONS];
            *n = op(*n, 1);
        }
    }

    fn page_of(&self, slot: u32) -> u32 {
        VirtAddr(self.table.tag(slot) << self.shift).vpn()
    }

    fn drop_line(&mut self, slot: u32) {
        self.count(slot, u32::wrapping_sub);
        self.table.clear(slot);
    }

    /// Drops the lines of the page of `va`, and of its region if they came from a large page.
    fn invalidate(&mut self, va: VirtAddr) {
        let page = self.by_page[va.vpn() as usize % BUCKETS];
        if page == 0 && self.by_region[self.region.of(va) as usize % REGIONS] == 0 {
            return;
        }
        let lines: Vec<u32> = self
            .table
            .filled()
            .filter(|&slot| {
                let page = self.page_of(slot);
                let wide = self.lines[slot as usize].flags & WIDE != 0;
                page == va.vpn() || wide && self.region.of_page(page) == self.region.of(va)
            })
            .collect();
        for slot in lines {
            self.drop_line(slot);
        }
    }

    fn clear(&mut self) {
        self.table.flush(|_| false);
        self.by_page.fill(0);
        self.by_region.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trace() -> FrontEnd {
        let geometry = Geometry::TraceCache {
            lines: 64,
            ways: 4,
            line_bytes: 64,
            flush_on_cr3: false,
        };
        FrontEnd::new(&geometry, Replacement::Lru)
    }

    fn peek(f: &FrontEnd, va: VirtAddr) -> Option<PhysAddr> {
        match f {
            // Roots change here without tables that could say otherwise.
            FrontEnd::Trace(t) => match t.peek(va, Privilege::Supervisor)? {
                Held::Sure(at) | Held::Unsure(_, at, _) => Some(at),
            },
            FrontEnd::L1i(_) => None,
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Insert(VirtAddr, u64),
        Invalidate(VirtAddr),
        Root(u32),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Pages and regions that share buckets, and some that do not.
        let page = || {
            prop_oneof![
                0u32..6,
                256u32..258,
                64 * 512u32..64 * 512 + 3,
                Just(0xFFFFF)
            ]
        };
        let va = move || (page(), 0u32..4096).prop_map(|(p, o)| VirtAddr(p << 12 | o));
        let flags = prop_oneof![Just(0), Just(TlbEntry::G), Just(TlbEntry::FRAGMENT)];
        prop_oneof![
            12 => (va(), flags).prop_map(|(va, f)| Step::Insert(va, f)),
            3 => va().prop_map(Step::Invalidate),
            1 => (0u32..2).prop_map(Step::Root),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        #[test]
        fn no_line_outlives_the_invalidation_of_its_page(steps in prop::collection::vec(step(), 1..200)) {
            let mut front = trace();
            // Lines inserted since their page was last invalidated, with the place each must be found at.
            let mut valid: Vec<(VirtAddr, u64, u64)> = Vec::new();
            for (i, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(va, flags) => {
                        if peek(&front, va).is_none() {
                            let at = (i as u64 + 1) << 12 | u64::from(va.offset());
                            if let FrontEnd::Trace(t) = &mut front {
                                t.insert(va, PhysAddr(at), TlbEntry(flags));
                            }
                            prop_assert_eq!(peek(&front, va), Some(PhysAddr(at)));
                            valid.push((va, flags, at >> 12));
                        }
                    }
                    Step::Invalidate(va) => {
                        front.invalidate(va);
                        valid.retain(|&(v, flags, _)| {
                            v.vpn() != va.vpn() && (flags & WIDE == 0 || Region::Mib2.of(v) != Region::Mib2.of(va))
                        });
                    }
                    Step::Root(root) => front.load_cr3(root),
                    Step::Clear => {
                        front.clear();
                        valid.clear();
                    }
                }
                for page in [0, 1, 2, 3, 4, 5, 256, 257, 64 * 512, 64 * 512 + 1, 64 * 512 + 2, 0xFFFFF] {
                    for line in 0..64 {
                        let va = VirtAddr(page << 12 | line << 6);
                        if let Some(at) = peek(&front, va) {
                            prop_assert_eq!(at.offset(), va.offset());
                            let known = valid.iter().any(|&(v, _, frame)| {
                                v.0 >> 6 == va.0 >> 6 && frame == at.0 >> 12
                            });
                            prop_assert!(known, "stale line at {:?}", va);
                        }
                    }
                }
            }
        }
    }
}
