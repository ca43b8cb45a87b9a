//! The re-touch model: which pages a task uses again between two recorded events.
//!
//! Each task has two lists, data and code, of the pages it touched by *recorded* events, most
//! recent first, at most [`CAPACITY`] long. After each return from the kernel a few picks are made: position
//! floor(L^u) − 1 for list length L and u uniform in [0, 1), which makes the logarithm of the stack distance uniform. u and the cache line inside the page
//! come from a hash of (trace, operation, pick), so they are the same in every configuration.
//! Picks are loads and fetches only: they never break a sharing.
//!
//! Invariant: picks do not change the list; only recorded touches and unmapping do.

use crate::op::PAGE_SIZE;

/// Longest list kept.
pub const CAPACITY: usize = 512;

/// Bytes between two possible picks inside a page.
pub const LINE_BYTES: u32 = 64;

/// The most recently touched pages of one task, of one kind (data or code).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageList {
    /// Page numbers, most recent last, so that a touch near the top moves few entries.
    pages: Vec<u32>,
}

impl PageList {
    /// Records a touch of the page that holds `va`.
    pub fn note(&mut self, va: u32) {
        let page = va / PAGE_SIZE;
        match self.pages.iter().rposition(|&p| p == page) {
            Some(at) => self.pages[at..].rotate_left(1),
            None => {
                if self.pages.len() == CAPACITY {
                    self.pages.remove(0);
                }
                self.pages.push(page);
            }
        }
    }

    /// Forgets the pages in `[start, end)`.
    pub fn forget(&mut self, start: u32, end: u32) {
        self.pages.retain(|&p| {
            let va = u64::from(p) * u64::from(PAGE_SIZE);
            va + u64::from(PAGE_SIZE) <= u64::from(start) || va >= u64::from(end)
        });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pages.clear();
    }

    /// Number of pages known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether no page is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The page at a position, 0 being the most recent; its first address.
    #[must_use]
    pub fn at(&self, position: usize) -> Option<u32> {
        let index = self.pages.len().checked_sub(position + 1)?;
        Some(self.pages[index] * PAGE_SIZE)
    }

    /// The address chosen by 64 random bits, `None` if no page is known.
    #[must_use]
    pub fn pick(&self, bits: u64) -> Option<u32> {
        let len = self.pages.len();
        if len == 0 {
            return None;
        }
        let page = self.at(position(len, (bits >> 32) as u32))?;
        let lines = PAGE_SIZE / LINE_BYTES;
        Some(page + (bits as u32 % lines) * LINE_BYTES)
    }
}

/// log2(n) in units of 2⁻³² for n in 1..=CAPACITY.
const LOG2: [u64; CAPACITY + 1] = {
    let mut table = [0; CAPACITY + 1];
    let mut n = 1;
    while n <= CAPACITY {
        table[n] = log2_q32(n as u64);
        n += 1;
    }
    table
};

/// floor(len^u) − 1 with u = `bits` / 2³²: the largest n with log2(n) ≤ u·log2(len), less one.
///
/// Found in a table and not by `powf`, because results must not depend on the host's mathematics library.
fn position(len: usize, bits: u32) -> usize {
    let exponent = ((u128::from(LOG2[len]) * bits as u128) >> 32) as u64;
    LOG2[1..=len].partition_point(|&log| log <= exponent) - 1
}

/// log2 of `n` ≥ 1 in units of 2⁻³², rounded down: repeated squaring of the mantissa.
const fn log2_q32(n: u64) -> u64 {
    let whole = n.ilog2();
    let mut mantissa = (n as u128) << (63 - whole); // in [1, 2), 63 fraction bits
    let mut fraction = 0u64;
    let mut bit = 0;
    while bit < 32 {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            fraction |= 1;
            mantissa >>= 1;
        }
        bit += 1;
    }
    (whole as u64) << 32 | fraction
}

/// One pick: an address and how to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Load from this address.
    Data(u32),
    /// Fetch from this address.
    Code(u32),
}

/// The re-touch model of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retouch {
    /// Data pages.
    pub data: PageList,
    /// Code pages, known from the faults' instruction addresses.
    pub code: PageList,
}

impl Retouch {
    /// An empty model.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the pages in `[start, end)`: they were unmapped or moved.
    pub fn forget(&mut self, start: u32, end: u32) {
        self.data.forget(start, end);
        self.code.forget(start, end);
    }

    /// Forgets everything: exec.
    pub fn clear(&mut self) {
        self.data.clear();
        self.code.clear();
    }

    /// The picks after operation `op` of a trace, data before code.
    ///
    /// `trace` is the first eight bytes of the trace's SHA-256 (or any seed).
    pub fn picks(
        &self,
        trace: u64,
        op: u64,
        depth: crate::RetouchDepth,
    ) -> impl Iterator<Item = Pick> + '_ {
        let data =
            (0..depth.data).filter_map(move |i| self.data.pick(mix(trace, op, i)).map(Pick::Data));
        let code = (0..depth.code).filter_map(move |i| {
            self.code
                .pick(mix(trace, op, depth.data + i))
                .map(Pick::Code)
        });
        data.chain(code)
    }
}

/// 64 bits from (trace, operation, i): the finaliser of SplitMix64 (Steele, Lea and Flood 2014) over a
/// weighted sum.
#[must_use]
pub fn mix(trace: u64, op: u64, i: u32) -> u64 {
    let mut z = trace
        .wrapping_add(op.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(u64::from(i).wrapping_mul(0xd1b5_4a32_d192_ed03));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RetouchDepth;

    fn list(pages: impl Iterator<Item = u32>) -> PageList {
        let mut list = PageList::default();
        pages.for_each(|p| list.note(p * PAGE_SIZE));
        list
    }

    #[test]
    fn positions_are_floor_of_power_minus_one() {
        for len in [1usize, 2, 3, 5, 16, 100, 511, 512] {
            for k in 0..64u32 {
                let bits = k << 26;
                let exact = (len as f64).powf(f64::from(bits) / 4_294_967_296.0);
                // Away from whole numbers the two must agree.
                if (exact - exact.round()).abs() > 1e-6 {
                    assert_eq!(position(len, bits), exact as usize - 1, "{len} {bits}");
                }
            }
            assert_eq!(position(len, 0), 0);
            assert!(position(len, u32::MAX) < len);
        }
    }

    #[test]
    fn most_recent_first_and_no_page_twice() {
        let mut l = list([1, 2, 3].into_iter());
        l.note(PAGE_SIZE + 17);
        assert_eq!(
            [l.at(0), l.at(1), l.at(2), l.at(3)],
            [Some(4096), Some(12288), Some(8192), None]
        );
    }

    #[test]
    fn capacity_drops_the_oldest() {
        let l = list(0..600);
        assert_eq!(l.len(), CAPACITY);
        assert_eq!(l.at(0), Some(599 * PAGE_SIZE));
        assert_eq!(l.at(511), Some(88 * PAGE_SIZE));
    }

    #[test]
    fn forgetting_takes_exactly_the_overlapping_pages() {
        let mut l = list(0..10);
        l.forget(3 * PAGE_SIZE, 5 * PAGE_SIZE + 1);
        let left: Vec<_> = (0..l.len()).map(|i| l.at(i).unwrap() / PAGE_SIZE).collect();
        assert_eq!(left, [9, 8, 7, 6, 2, 1, 0]);
    }

    #[test]
    fn picks_are_deterministic_known_and_as_many_as_asked() {
        let mut r = Retouch::new();
        (0..100).for_each(|p| r.data.note(p * PAGE_SIZE));
        let depth = RetouchDepth { data: 8, code: 4 };
        let picks: Vec<_> = r.picks(7, 42, depth).collect();
        assert_eq!(
            picks.len(),
            8,
            "no code page is known, so only data is picked"
        );
        assert_eq!(picks, r.picks(7, 42, depth).collect::<Vec<_>>());
        assert_ne!(picks, r.picks(7, 43, depth).collect::<Vec<_>>());
        for pick in picks {
            let Pick::Data(va) = pick else {
                panic!("{pick:?}")
            };
            assert!(va < 100 * PAGE_SIZE && va.is_multiple_of(LINE_BYTES));
        }
        r.code.note(0x0804_8000);
        assert_eq!(r.picks(7, 42, depth).count(), 12);
    }

    #[test]
    fn the_most_recent_page_is_picked_with_the_share_of_the_model() {
        // P(position 0) = P(512^u < 2) = 1/9.
        let l = list(0..512);
        let first = (0..90_000)
            .filter(|&i| l.pick(mix(1, i, 0)).unwrap() / PAGE_SIZE == 511)
            .count();
        assert!((9_500..10_500).contains(&first), "{first}");
    }
}
