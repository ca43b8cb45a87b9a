//! Why 4G/4G costs more: the difference of two runs that differ in the split alone, line by line.
//!
//! Both runs replay the same trace, so the difference of their costs is what the split costs. It is cut into lines that
//! overlap nowhere: first by event (CR3 loads, PDPTE loads, walks of either TLB, invlpg, wherever they happened), then what
//! remains by side (the trampoline and stubs; copies from and to users), then caches, then the rest. The low and high
//! totals price the same two runs at the ends of the preset's brackets.
//!
//! Invariant: the lines sum to the total.

use crate::Operation;
use crate::config::Split;
use crate::measurement::{Measurement, Outcome};
use crate::result::Ordered;
use lowmem_cost::{Account, Cause, Event, Preset, Prices, Side, Variant};
use serde::Serialize;

lowmem_stats::declare! {
    /// A line of the explanation.
    pub enum Line {
        /// Loads of CR3, without the PDPTEs.
        Cr3Loads: "cr3_loads", "cycles";
        /// Loading the four PDPTEs at each CR3 load.
        PdpteLoads: "pdpte_loads", "cycles";
        /// Walks to refill the instruction TLB, on every side.
        ItlbRefills: "itlb_refills", "cycles";
        /// Walks to refill the data TLB, on every side.
        DtlbRefills: "dtlb_refills", "cycles";
        /// Entry stubs and trampoline: their instructions, caches and gates.
        Trampoline: "trampoline", "cycles";
        /// invlpg: a 4G/4G kernel need not flush single user pages, its exit flushes them all.
        PageFlushes: "page_flushes", "cycles";
        /// Copying from and to user memory: software walks, pins, kmap_atomic, the copy.
        UserCopy: "user_copy", "cycles";
        /// Cache misses elsewhere.
        Caches: "caches", "cycles";
        /// All else.
        Rest: "rest", "cycles";
    }
}

/// The line that `event` on `side` belongs to.
fn line(side: Side, event: Event) -> Line {
    match (event.cause(), side) {
        (Cause::Cr3, _) if event == Event::InsnMovCr3 => Line::Cr3Loads,
        (Cause::Cr3, _) => Line::PdpteLoads,
        (Cause::ItlbWalk, _) => Line::ItlbRefills,
        (Cause::DtlbWalk, _) => Line::DtlbRefills,
        _ if event == Event::InsnInvlpg => Line::PageFlushes,
        (_, Side::EntryExit) => Line::Trampoline,
        (_, Side::Copy) => Line::UserCopy,
        (Cause::L1 | Cause::L2 | Cause::L3 | Cause::Memory, _) => Line::Caches,
        _ => Line::Rest,
    }
}

/// The difference of two runs, in cycles of all entries together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Kernel entries over which it spreads.
    pub entries: u64,
    /// Cycles by line.
    pub lines: Ordered<i64>,
    /// Their sum.
    pub total: i64,
    /// The sum at the low end of the preset's brackets.
    pub low: i64,
    /// The sum at the high end.
    pub high: i64,
}

impl Difference {
    /// Tenths of a cycle per entry: each line, then the total, rounded so that they sum.
    pub fn tenths_per_entry(&self) -> (Vec<(Line, i64)>, i64) {
        let entries = i128::from(self.entries.max(1));
        let tenth = |cycles: i128| {
            let n = cycles * 10;
            let half = if n < 0 { -entries / 2 } else { entries / 2 };
            i64::try_from((n + half) / entries).unwrap_or(i64::MAX)
        };
        let mut sum = 0i128;
        let mut lines = Vec::new();
        for (&line, (_, cycles)) in Line::ALL.iter().zip(&self.lines.0) {
            let before = tenth(sum);
            sum += i128::from(*cycles);
            lines.push((line, tenth(sum) - before));
        }
        (lines, tenth(sum))
    }
}

/// Two rows that differ in the split alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Index of the row with one set of page tables.
    pub from: usize,
    /// Index of the row with two.
    pub to: usize,
    /// The whole run, refills in user mode included.
    pub run: Difference,
    /// Null system calls alone, from entry to return; null when the trace has none.
    pub null_call: Option<Difference>,
}

/// Every pair of complete rows that differ in the split alone (and in what follows from it).
pub fn pairs(measurements: &[(Measurement, Option<Preset>)]) -> Vec<Explanation> {
    let mut out = Vec::new();
    for (from, (a, preset)) in measurements.iter().enumerate() {
        for (to, (b, _)) in measurements.iter().enumerate() {
            let complete = a.outcome == Outcome::Complete && b.outcome == Outcome::Complete;
            if let (true, Some(preset), true) = (complete, preset, differ_in_split(a, b)) {
                out.push(Explanation {
                    from,
                    to,
                    run: difference(preset, &a.account, &b.account, entries(a)),
                    null_call: null_call(preset, a, b),
                });
            }
        }
    }
    out
}

fn differ_in_split(a: &Measurement, b: &Measurement) -> bool {
    if a.config.split != Split::G3G1 || b.config.split != Split::G4G4 {
        return false;
    }
    let mut config = a.config.clone();
    config.split = b.config.split;
    config.overrides.clone_from(&b.config.overrides);
    config == b.config
}

fn entries(m: &Measurement) -> u64 {
    let counted: u64 = m.operations.values().map(|op| op.entries).sum();
    if counted > 0 {
        return counted;
    }
    [
        Event::EntryInt,
        Event::EntryException,
        Event::EntryPageFault,
        Event::EntryIrq,
        Event::Sysenter,
    ]
    .iter()
    .map(|&e| m.account.total(e))
    .sum()
}

fn null_call(preset: &Preset, a: &Measurement, b: &Measurement) -> Option<Difference> {
    let a = a.operations.get(&Operation::NullCall)?;
    let b = b.operations.get(&Operation::NullCall)?;
    // Ticks that fall into a call make no difference of kind, but the number of calls must be equal.
    (a.entries == b.entries && a.entries > 0)
        .then(|| difference(preset, &a.account, &b.account, a.entries))
}

fn difference(preset: &Preset, a: &Account, b: &Account, entries: u64) -> Difference {
    let lines = |variant| {
        let prices = preset.prices(variant);
        let mut units = [0i128; Line::COUNT];
        for &side in Side::ALL {
            for &event in Event::ALL {
                let delta = i128::from(b.get(side, event)) - i128::from(a.get(side, event));
                units[line(side, event) as usize] += delta * i128::from(prices.get(event));
            }
        }
        units.map(|u| {
            let unit = i128::from(Prices::UNIT);
            let half = if u < 0 { -unit / 2 } else { unit / 2 };
            i64::try_from((u + half) / unit).unwrap_or(i64::MAX)
        })
    };
    let mid = lines(Variant::Mid);
    Difference {
        entries,
        lines: Ordered(
            Line::ALL
                .iter()
                .map(|&l| (l.name(), mid[l as usize]))
                .collect(),
        ),
        total: mid.iter().sum(),
        low: lines(Variant::Low).iter().sum(),
        high: lines(Variant::High).iter().sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_per_entry_sum_to_the_total() {
        let lines = [7, -3, 11, 0, 1, 0, 1, 1, -20];
        let d = Difference {
            entries: 7,
            lines: Ordered(
                Line::ALL
                    .iter()
                    .map(|&l| (l.name(), lines[l as usize]))
                    .collect(),
            ),
            total: lines.iter().sum(),
            low: 0,
            high: 0,
        };
        let (parts, total) = d.tenths_per_entry();
        assert_eq!(parts.iter().map(|(_, n)| n).sum::<i64>(), total);
        assert_eq!(total, -3, "-2 cycles over 7 entries");
    }
}
