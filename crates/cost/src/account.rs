//! Counts of events by side.

use crate::{Event, Side};

/// Counts of every event on every side. The *current* side is where [`Account::add`] counts.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    counts: Box<[[u64; Event::COUNT]; Side::COUNT]>,
    side: Side,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            counts: Box::new([[0; Event::COUNT]; Side::COUNT]),
            side: Side::OtherKernel,
        }
    }
}

impl Account {
    /// Counts `n` occurrences of `event` on the current side.
    #[inline(always)]
    pub fn add(&mut self, event: Event, n: u64) {
        self.counts[self.side as usize][event as usize] += n;
    }

    /// The side that is being charged.
    #[inline(always)]
    pub fn side(&self) -> Side {
        self.side
    }

    /// Charges `side` from now on; returns the side charged so far.
    #[inline(always)]
    pub fn set_side(&mut self, side: Side) -> Side {
        std::mem::replace(&mut self.side, side)
    }

    /// Occurrences of `event` on `side`.
    pub fn get(&self, side: Side, event: Event) -> u64 {
        self.counts[side as usize][event as usize]
    }

    /// Occurrences of `event` on all sides.
    pub fn total(&self, event: Event) -> u64 {
        self.counts.iter().map(|row| row[event as usize]).sum()
    }

    /// The counts of one side, indexed by `Event as usize`.
    pub fn row(&self, side: Side) -> &[u64; Event::COUNT] {
        &self.counts[side as usize]
    }

    /// What was counted since `earlier`, an older copy of the same account.
    pub fn since(&self, earlier: &Account) -> Account {
        let mut out = self.clone();
        for (row, old) in out.counts.iter_mut().zip(earlier.counts.iter()) {
            for (n, o) in row.iter_mut().zip(old) {
                *n -= o;
            }
        }
        out
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut map = f.debug_map();
        for &side in Side::ALL {
            for &event in Event::ALL {
                let n = self.get(side, event);
                if n != 0 {
                    map.entry(&format_args!("{}.{}", side.name(), event.name()), &n);
                }
            }
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_count_on_the_current_side_only() {
        let mut a = Account::default();
        a.set_side(Side::Fault);
        a.add(Event::DtlbMiss, 3);
        let before = a.clone();
        assert_eq!(a.set_side(Side::User), Side::Fault);
        a.add(Event::DtlbMiss, 2);
        assert_eq!(
            (
                a.get(Side::Fault, Event::DtlbMiss),
                a.total(Event::DtlbMiss)
            ),
            (3, 5)
        );
        assert_eq!(a.since(&before).total(Event::DtlbMiss), 2);
    }
}
