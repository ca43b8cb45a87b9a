//! The mappings of one address space, and sets of its pages.
//!
//! A plain ordered map of disjoint areas with the merging that any `mmap` implementation shows to the outside: neighbours
//! of equal protection and object, continuous in the object, are one. Addresses are 64 bits wide here, because recordings
//! of 64-bit programs are replayed before they are packed.
//!
//! Left out: vma flags other than protection, limits, accounting.
//!
//! Invariant: areas are disjoint, not empty and page-aligned; `footprint` and `accessible` are their sums.

use std::collections::BTreeMap;

use crate::op::{PAGE_SIZE, Prot};

/// [`PAGE_SIZE`] for 64-bit addresses.
pub const PAGE: u64 = PAGE_SIZE as u64;

/// `x` rounded up to a page.
#[must_use]
pub const fn page_up(x: u64) -> u64 {
    x.saturating_add(PAGE - 1) & !(PAGE - 1)
}

/// `x` rounded down to a page.
#[must_use]
pub const fn page_down(x: u64) -> u64 {
    x & !(PAGE - 1)
}

/// What an area shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// Private anonymous memory.
    Anon,
    /// Pages lent by the recording kernel (vdso, vvar).
    Special,
    /// A file, copied on write.
    FilePrivate(u32),
    /// A file, written through.
    FileShared(u32),
    /// Shared memory without a file.
    Shm(u32),
}

/// One area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    /// Protection.
    pub prot: Prot,
    /// What it shows.
    pub object: Object,
    /// Place of `start` in the object, in bytes. Without meaning for anonymous memory.
    pub offset: u64,
}

impl Area {
    fn continues(&self, next: &Self) -> bool {
        self.end == next.start
            && self.prot == next.prot
            && self.object == next.object
            && (self.object == Object::Anon
                || self.offset.wrapping_add(self.end - self.start) == next.offset)
    }
}

/// All areas of an address space.
#[derive(Clone, Debug, Default)]
pub struct Space {
    areas: BTreeMap<u64, Area>,
    footprint: u64,
    accessible: u64,
}

impl Space {
    /// Number of areas.
    #[must_use]
    pub fn len(&self) -> usize {
        self.areas.len()
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// Mapped bytes.
    #[must_use]
    pub const fn footprint(&self) -> u64 {
        self.footprint
    }

    /// Mapped bytes with any right.
    #[must_use]
    pub const fn accessible(&self) -> u64 {
        self.accessible
    }

    /// The areas, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Area> {
        self.areas.values()
    }

    /// The area that holds `addr`.
    #[must_use]
    pub fn find(&self, addr: u64) -> Option<&Area> {
        self.areas
            .range(..=addr)
            .next_back()
            .map(|(_, a)| a)
            .filter(|a| addr < a.end)
    }

    /// The first area that begins behind `addr`.
    #[must_use]
    pub fn above(&self, addr: u64) -> Option<&Area> {
        self.areas
            .range(addr.checked_add(1)?..)
            .next()
            .map(|(_, a)| a)
    }

    /// The first area that overlaps `[start, end)`.
    #[must_use]
    pub fn overlap(&self, start: u64, end: u64) -> Option<&Area> {
        self.find(start)
            .or_else(|| self.above(start).filter(|a| a.start < end))
    }

    /// The lowest gap of `len` bytes at or above `base`: the bottom-up first-fit search of
    /// `arch_get_unmapped_area` in 2.6, without its cached hint.
    #[must_use]
    pub fn gap(&self, base: u64, len: u64, limit: u64) -> Option<u64> {
        let mut at = base;
        while at.checked_add(len)? <= limit {
            match self.overlap(at, at + len) {
                None => return Some(at),
                Some(area) => at = area.end,
            }
        }
        None
    }

    fn put(&mut self, area: Area) {
        self.footprint += area.end - area.start;
        if area.prot != Prot::NONE {
            self.accessible += area.end - area.start;
        }
        self.areas.insert(area.start, area);
    }

    fn take(&mut self, start: u64) -> Option<Area> {
        let area = self.areas.remove(&start)?;
        self.footprint -= area.end - area.start;
        if area.prot != Prot::NONE {
            self.accessible -= area.end - area.start;
        }
        Some(area)
    }

    fn split(&mut self, at: u64) {
        let Some(area) = self.find(at).copied().filter(|a| a.start < at) else {
            return;
        };
        self.take(area.start);
        self.put(Area { end: at, ..area });
        self.put(Area {
            start: at,
            offset: area.offset.wrapping_add(at - area.start),
            ..area
        });
    }

    /// Removes `[start, end)` and returns what was there.
    pub fn cut(&mut self, start: u64, end: u64) -> Vec<Area> {
        if start >= end {
            return Vec::new();
        }
        self.split(start);
        self.split(end);
        let keys: Vec<u64> = self.areas.range(start..end).map(|(&k, _)| k).collect();
        keys.into_iter().filter_map(|k| self.take(k)).collect()
    }

    /// Adds an area where nothing is mapped and merges it with its neighbours. An empty one changes nothing.
    ///
    /// # Errors
    /// The first area that is in the way; nothing is changed then.
    pub fn add(&mut self, area: Area) -> Result<(), Area> {
        match self.overlap(area.start, area.end) {
            Some(&other) => Err(other),
            None => {
                self.put_merged(area);
                Ok(())
            }
        }
    }

    /// Replaces whatever is in the way. An empty area changes nothing.
    pub fn replace(&mut self, area: Area) {
        self.cut(area.start, area.end);
        self.put_merged(area);
    }

    /// Nothing is in the way of `area`.
    fn put_merged(&mut self, area: Area) {
        if area.start < area.end {
            self.put(area);
            self.merge_at(area.start);
            self.merge_at(area.end);
        }
    }

    /// Merges the areas that meet at `boundary`.
    fn merge_at(&mut self, boundary: u64) {
        let Some(right) = self.areas.get(&boundary).copied() else {
            return;
        };
        let Some((_, left)) = self.areas.range(..boundary).next_back() else {
            return;
        };
        let left = *left;
        if left.continues(&right) {
            self.take(left.start);
            self.take(right.start);
            self.put(Area {
                end: right.end,
                ..left
            });
        }
    }

    /// Changes the protection of whatever is mapped in `[start, end)`.
    pub fn protect(&mut self, start: u64, end: u64, prot: Prot) {
        if start >= end {
            return;
        }
        self.split(start);
        self.split(end);
        let keys: Vec<u64> = self.areas.range(start..end).map(|(&k, _)| k).collect();
        for &key in &keys {
            if let Some(area) = self.take(key) {
                self.put(Area { prot, ..area });
            }
        }
        keys.into_iter().for_each(|k| self.merge_at(k));
        self.merge_at(end);
    }

    /// Moves the start of the area at `start` down to `to`: growth of a stack.
    pub fn grow_down(&mut self, start: u64, to: u64) {
        if let Some(area) = self.take(start) {
            self.put(Area {
                start: to,
                offset: area.offset.wrapping_sub(start - to),
                ..area
            });
        }
    }
}

/// A set of page numbers: bitmaps of 512 pages, one per page-table page.
#[derive(Clone, Debug, Default)]
pub struct PageSet {
    tables: BTreeMap<u64, [u64; 8]>,
    len: u64,
}

impl PageSet {
    /// Number of pages.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the page of `addr`; false if it was there.
    pub fn insert(&mut self, addr: u64) -> bool {
        let page = addr / PAGE;
        let word = &mut self.tables.entry(page >> 9).or_default()[(page >> 6 & 7) as usize];
        let bit = 1u64 << (page & 63);
        let fresh = *word & bit == 0;
        *word |= bit;
        self.len += u64::from(fresh);
        fresh
    }

    /// Whether the page of `addr` is there.
    #[must_use]
    pub fn contains(&self, addr: u64) -> bool {
        let page = addr / PAGE;
        self.tables
            .get(&(page >> 9))
            .is_some_and(|t| t[(page >> 6 & 7) as usize] >> (page & 63) & 1 != 0)
    }

    /// Removes the pages of `[start, end)` and returns their addresses, ascending.
    pub fn remove(&mut self, start: u64, end: u64) -> Vec<u64> {
        if start >= end {
            return Vec::new();
        }
        let (first, last) = (start / PAGE, (end - 1) / PAGE);
        let mut gone = Vec::new();
        for (&table, words) in self.tables.range_mut(first >> 9..=last >> 9) {
            for (i, word) in words.iter_mut().enumerate() {
                let base = table << 9 | (i as u64) << 6;
                let mut bits = *word;
                while bits != 0 {
                    let bit = bits.trailing_zeros();
                    bits &= bits - 1;
                    let page = base + u64::from(bit);
                    if (first..=last).contains(&page) {
                        *word &= !(1 << bit);
                        gone.push(page * PAGE);
                    }
                }
            }
        }
        self.len -= gone.len() as u64;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anon(start: u64, end: u64, prot: Prot) -> Area {
        Area {
            start: start * PAGE,
            end: end * PAGE,
            prot,
            object: Object::Anon,
            offset: 0,
        }
    }

    fn shape(s: &Space) -> Vec<(u64, u64, u8)> {
        s.iter()
            .map(|a| (a.start / PAGE, a.end / PAGE, a.prot.0))
            .collect()
    }

    #[test]
    fn neighbours_merge_and_protection_splits() {
        let mut s = Space::default();
        for (from, to) in [(1, 3), (5, 7), (3, 5)] {
            s.add(anon(from, to, Prot::RW)).unwrap();
        }
        assert_eq!(shape(&s), [(1, 7, 3)]);
        s.protect(2 * PAGE, 4 * PAGE, Prot::NONE);
        assert_eq!(shape(&s), [(1, 2, 3), (2, 4, 0), (4, 7, 3)]);
        assert_eq!((s.footprint(), s.accessible()), (6 * PAGE, 4 * PAGE));
        s.protect(2 * PAGE, 4 * PAGE, Prot::RW);
        assert_eq!(shape(&s), [(1, 7, 3)]);
        s.cut(3 * PAGE, 4 * PAGE);
        assert_eq!(shape(&s), [(1, 3, 3), (4, 7, 3)]);
        assert_eq!(s.gap(PAGE, PAGE, 100 * PAGE), Some(3 * PAGE));
        assert_eq!(s.gap(PAGE, 2 * PAGE, 100 * PAGE), Some(7 * PAGE));
        assert_eq!(s.gap(PAGE, 2 * PAGE, 8 * PAGE), None);
    }

    #[test]
    fn file_areas_merge_only_when_continuous() {
        let mut s = Space::default();
        let file = |start: u64, offset: u64| Area {
            start: start * PAGE,
            end: (start + 1) * PAGE,
            prot: Prot::READ,
            object: Object::FilePrivate(0),
            offset: offset * PAGE,
        };
        for (page, offset) in [(1, 0), (2, 1), (3, 9)] {
            s.add(file(page, offset)).unwrap();
        }
        assert_eq!(s.len(), 2);
    }

    #[test]
    fn what_is_in_the_way_is_named_and_stays() {
        let mut s = Space::default();
        s.add(anon(4, 6, Prot::RW)).unwrap();
        for (from, to) in [(3, 5), (4, 6), (5, 9), (2, 8)] {
            assert_eq!(s.add(anon(from, to, Prot::READ)), Err(anon(4, 6, Prot::RW)));
        }
        s.replace(anon(5, 5, Prot::READ));
        s.replace(anon(9, 9, Prot::READ));
        assert_eq!(shape(&s), [(4, 6, 3)]);
        assert_eq!((s.footprint(), s.accessible()), (2 * PAGE, 2 * PAGE));
    }

    #[test]
    fn page_set_counts_and_removes() {
        let mut p = PageSet::default();
        for page in [1u64, 511, 512, 513, 5000] {
            assert!(p.insert(page * PAGE + 5));
            assert!(!p.insert(page * PAGE));
        }
        assert_eq!(p.remove(511 * PAGE, 513 * PAGE), [511 * PAGE, 512 * PAGE]);
        assert_eq!(p.len(), 3);
        assert!(p.contains(513 * PAGE) && !p.contains(512 * PAGE));
    }
}
