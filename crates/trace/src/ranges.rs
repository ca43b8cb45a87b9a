//! Sets of address ranges, and where each range of a set was moved to.
//!
//! Both ways of packing use them: that of 64-bit recordings ([`crate::import`]), lineage by lineage, and that of whole traces into a
//! smaller user space.
//!
//! Invariant: ranges are disjoint and not empty.

use std::collections::BTreeMap;

/// Disjoint ranges: start -> end.
#[derive(Debug, Default)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range and makes it one with all from which it is not further than `gap` away.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64, gap: u64) {
        if start >= end || self.containing(start).is_some_and(|(_, e)| end <= e) {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..=end.saturating_add(gap)).next_back() {
            if e.saturating_add(gap) < start {
                break;
            }
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    /// The range that holds `at`.
    pub(crate) fn containing(&self, at: u64) -> Option<(u64, u64)> {
        let (&start, &end) = self.0.range(..=at).next_back()?;
        (at < end).then_some((start, end))
    }

    /// All, rising.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.0.iter().map(|(&s, &e)| (s, e))
    }

    /// Parts of `[start, end)` that are not in the set.
    pub(crate) fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = start;
        let first = self
            .0
            .range(..=start)
            .next_back()
            .map_or(start, |(&s, _)| s);
        for (&s, &e) in self.0.range(first..end) {
            if s > at {
                gaps.push((at, s));
            }
            at = at.max(e);
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }
}

/// Where ranges were moved to: start -> (end, new start).
#[derive(Debug, Default)]
pub(crate) struct Moved(BTreeMap<u64, (u64, u64)>);

/// A part of a range that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it was.
    pub(crate) from: u64,
    /// Where it is.
    pub(crate) to: u32,
    /// Its bytes.
    pub(crate) len: u32,
}

impl Moved {
    /// Says where a range has gone; ends below 4 GiB.
    pub(crate) fn insert(&mut self, start: u64, end: u64, to: u64) {
        self.0.insert(start, (end, to));
    }

    /// Whether the range that begins at `start` has its place.
    pub(crate) fn has(&self, start: u64) -> bool {
        self.0.contains_key(&start)
    }

    /// Where the byte at `at` is now; `None` if it lies in no range.
    pub(crate) fn address(&self, at: u64) -> Option<u32> {
        let (&start, &(end, to)) = self.0.range(..=at).next_back()?;
        (at < end).then(|| (to + (at - start)) as u32)
    }

    /// The parts of `[start, end)` that lie in ranges, rising.
    pub(crate) fn parts(&self, start: u64, end: u64) -> impl DoubleEndedIterator<Item = Part> {
        let before = self.0.range(..=start).next_back();
        let first = before.map_or(start, |(&s, _)| s);
        self.0
            .range(first..end.max(first))
            .filter_map(move |(&s, &(e, to))| {
                let (from, until) = (s.max(start), e.min(end));
                (from < until).then(|| Part {
                    from,
                    to: (to + (from - s)) as u32,
                    len: (until - from) as u32,
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_across_the_gap_asked_for_and_no_further() {
        let mut r = Ranges::default();
        r.insert(10, 20, 0);
        r.insert(20, 30, 0);
        r.insert(34, 40, 2);
        r.insert(5, 5, 0);
        assert_eq!(r.iter().collect::<Vec<_>>(), [(10, 30), (34, 40)]);
        assert_eq!(r.gaps(0, 50), [(0, 10), (30, 34), (40, 50)]);
        assert_eq!((r.containing(29), r.containing(30)), (Some((10, 30)), None));
        r.insert(0, 7, 3);
        assert_eq!(r.iter().collect::<Vec<_>>(), [(0, 30), (34, 40)]);
        r.insert(31, 33, 1);
        assert_eq!(r.iter().collect::<Vec<_>>(), [(0, 40)]);
    }

    #[test]
    fn moved_ranges_are_found_byte_by_byte_and_part_by_part() {
        let mut m = Moved::default();
        m.insert(100, 110, 0);
        m.insert(200, 210, 20);
        assert!(m.has(100) && !m.has(101));
        assert_eq!(
            [99, 100, 109, 110].map(|at| m.address(at)),
            [None, Some(0), Some(9), None]
        );
        let part = |from, to, len| Part { from, to, len };
        let parts: Vec<Part> = m.parts(105, 203).collect();
        assert_eq!(parts, [part(105, 5, 5), part(200, 20, 3)]);
        assert_eq!(m.parts(0, 50).next(), None);
        assert_eq!(m.parts(120, 130).next(), None);
    }
}
