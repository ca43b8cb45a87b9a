//! What each event costs, and under which cause it is reported.
//!
//! # Derivation
//!
//! Prices are derived here and nowhere else. With `l1`, `l2`, `l3`, `open`, `random` the load-to-use latencies of a preset:
//!
//! | event | price |
//! |---|---|
//! | instruction classes, locks, entries, walks' base | the key of that name |
//! | `load_use` | l1 − 1: an L1 hit costs more than its instruction only when the next one reads it |
//! | `load_l2`, `load_l3`, `load_memory_*` | the level's latency − l1 |
//! | `store_*` | the same × `store.miss_percent`: the store buffer hides the rest |
//! | `fetch_*` | the level's latency, of L2's only `fetch.l2_percent`; L1I and trace-cache hits are free |
//! | `load_stream`, `fetch_stream` | line bytes / `memory.stream_bytes_per_cycle` |
//! | `store_stream` | twice that: the line is read, then written back |
//! | `*_walk_l1`, ... | the level's latency in full: nothing overlaps a walk; memory is taken as random |
//! | `pdpte_uncached` | `pdpte.each_ns` × clock; nothing when the preset prices `pdpte.load` as a whole |
//! | `pdpte_l1`, ... | the level's latency, likewise |
//! | `rep_movs_bytes`, `rep_stos_bytes` | 1 / bytes per cycle |
//! | `entry_irq` | `entry.irq` + (`entry.irq_iret` − `entry.iret`): the machine counts one kind of iret |
//! | counts (accesses, misses, flushes ...) | nothing: their work is in the events above |
//!
//! # Units
//!
//! A price is an integer in [`Prices::UNIT`]ths of a cycle. 1/64 would do for all but bytes of `rep movs`, where it is 6 %
//! off (64 / 7.5 = 8.53); so the unit is 1/64 of 1/64. Costs are added exactly and rounded once per cell of a table;
//! totals are sums of the rounded cells, and parts of an account are rounded so that they sum to the whole.
//!
//! Invariant: every event has exactly one cause, and pricing is linear in the counts.

use crate::preset::Numbers;
use crate::{Account, Cause, Event, Side};

impl Cause {
    /// How many causes there are.
    pub const COUNT: usize = Cause::ALL.len();
}

impl Event {
    /// The cause under which this event's price is reported. Events that are only counted have one too.
    pub const fn cause(self) -> Cause {
        use Event::*;
        match self {
            Instructions | UserInstructions | InsnSimple | InsnTaken | InsnPusha | InsnImul
            | InsnMul | InsnDiv | InsnBitScan | InsnShiftDouble | InsnCmpxchg | InsnCmpxchg8b
            | InsnMicrocoded | InsnCli | InsnSti | InsnPushf | InsnPopf | InsnCld | InsnLahf
            | InsnRdtsc => Cause::Base,
            LockRmw | LockXchg | LockCmpxchg8b => Cause::Lock,
            InsnCpuid | InsnRdmsr | InsnWrmsr | InsnReadCr | InsnMovCr0 | InsnMovCr2
            | InsnMovCr4 | InsnClts | InsnInvlpg | InsnLgdt | InsnLidt | InsnLldt | InsnLtr
            | InsnLoadSeg | InsnFar | InsnPort | InsnHlt | InsnWbinvd | InsnMfence | InsnLfence
            | InsnSfence => Cause::Serialise,
            RepStart | RepMovsBytes | RepStosBytes | RepOther => Cause::Rep,
            EntryInt | EntryException | EntryPageFault | EntryIrq | Iret | Sysenter | Sysexit => {
                Cause::Entry
            }
            Mispredict => Cause::Mispredict,
            LoadUse | LoadL1 | StoreL1 | FetchL1 | TcAccess | TcMiss => Cause::L1,
            LoadL2 | StoreL2 | FetchL2 => Cause::L2,
            LoadL3 | StoreL3 | FetchL3 => Cause::L3,
            LoadMemoryOpen | LoadMemoryRandom | LoadStream | StoreMemoryOpen
            | StoreMemoryRandom | StoreStream | FetchMemoryOpen | FetchMemoryRandom
            | FetchStream => Cause::Memory,
            ItlbAccess | ItlbMiss | ItlbFlush | ItlbRemap | ItlbCold | ItlbCapacity
            | ItlbSpared | Itlb2Access | Itlb2Miss | ItlbWalk | ItlbWalkL1 | ItlbWalkL2
            | ItlbWalkL3 | ItlbWalkMemory => Cause::ItlbWalk,
            DtlbAccess | DtlbMiss | DtlbFlush | DtlbRemap | DtlbCold | DtlbCapacity
            | DtlbSpared | Dtlb2Access | Dtlb2Miss | DtlbWalk | DirtyAssist | DtlbWalkL1
            | DtlbWalkL2 | DtlbWalkL3 | DtlbWalkMemory => Cause::DtlbWalk,
            InsnMovCr3 | PdpteLoad | PdpteL1 | PdpteL2 | PdpteL3 | PdpteMemory | PdpteUncached
            | FlushSplit | FlushSwitch | FlushCr3 | FlushInvlpg | FlushGlobal => Cause::Cr3,
        }
    }
}

/// A price per event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    per_event: Box<[u64; Event::COUNT]>,
}

impl Prices {
    /// Fractions of a cycle in which prices are integers.
    pub const UNIT: u64 = 64 * 64;

    pub(crate) fn derive(n: &Numbers) -> Prices {
        let mut per_event = Box::new([0; Event::COUNT]);
        for &event in Event::ALL {
            per_event[event as usize] = price(event, n);
        }
        Prices { per_event }
    }

    /// Price of one occurrence, in [`Prices::UNIT`]ths of a cycle.
    #[inline]
    pub fn get(&self, event: Event) -> u64 {
        self.per_event[event as usize]
    }

    /// Cost of `counts`, one per event, in [`Prices::UNIT`]ths.
    pub fn cost(&self, counts: &[u64; Event::COUNT]) -> u128 {
        let parts = counts.iter().zip(self.per_event.iter());
        parts.map(|(&n, &p)| u128::from(n) * u128::from(p)).sum()
    }

    /// The same in cycles, rounded.
    pub fn cycles(&self, counts: &[u64; Event::COUNT]) -> u64 {
        round(self.cost(counts))
    }

    /// Prices an account: cycles by side and cause.
    pub fn price(&self, account: &Account) -> CostTable {
        CostTable {
            by: self.units(account).map(|cells| cells.map(round)),
        }
    }

    /// Prices the parts of an account so that cell by cell they sum to the table of the whole: what a part's cell has over whole
    /// cycles is carried into that of the next part.
    pub fn price_parts<'a>(&self, parts: impl IntoIterator<Item = &'a Account>) -> Vec<CostTable> {
        let mut sum = [[0u128; Cause::COUNT]; Side::COUNT];
        let part = |account: &Account| {
            let own = self.units(account);
            let mut table = CostTable::default();
            for ((sums, own), cells) in sum.iter_mut().zip(own).zip(&mut table.by) {
                for ((sum, own), cell) in sums.iter_mut().zip(own).zip(cells) {
                    let before = round(*sum);
                    *sum += own;
                    *cell = round(*sum) - before;
                }
            }
            table
        };
        parts.into_iter().map(part).collect()
    }

    /// Costs by side and cause, in [`Prices::UNIT`]ths.
    fn units(&self, account: &Account) -> [[u128; Cause::COUNT]; Side::COUNT] {
        let mut out = [[0; Cause::COUNT]; Side::COUNT];
        for (&side, cells) in Side::ALL.iter().zip(&mut out) {
            let row = account.row(side);
            for &event in Event::ALL {
                let n = u128::from(row[event as usize]);
                cells[event.cause() as usize] += n * u128::from(self.get(event));
            }
        }
        out
    }
}

/// [`Prices::UNIT`]ths to cycles, rounded to nearest.
pub fn round(units: u128) -> u64 {
    let unit = u128::from(Prices::UNIT);
    u64::try_from((units + unit / 2) / unit).unwrap_or(u64::MAX)
}

/// Thousandths of a cycle to [`Prices::UNIT`]ths, rounded to nearest.
fn units(milli: u64) -> u64 {
    (milli * Prices::UNIT + 500) / 1000
}

fn price(event: Event, n: &Numbers) -> u64 {
    use Event::*;
    let load = |latency: u64| units(latency.saturating_sub(n.l1));
    let store = |latency: u64| units(latency.saturating_sub(n.l1) * n.store_percent / 100);
    let pdpte = |latency: u64| match n.pdpte_load {
        Some(_) => 0,
        None => units(latency),
    };
    let per_byte = |rate: u64| (Prices::UNIT * 1000 + rate / 2) / rate;
    match event {
        LoadUse => units(n.l1 - 1000),
        LoadL2 => load(n.l2),
        LoadL3 => load(n.l3),
        LoadMemoryOpen => load(n.open),
        LoadMemoryRandom => load(n.random),
        StoreL2 => store(n.l2),
        StoreL3 => store(n.l3),
        StoreMemoryOpen => store(n.open),
        StoreMemoryRandom => store(n.random),
        FetchL2 => units(n.l2 * n.fetch_percent / 100),
        FetchL3 => units(n.l3),
        FetchMemoryOpen => units(n.open),
        FetchMemoryRandom => units(n.random),
        LoadStream | FetchStream => units(n.stream),
        StoreStream => units(2 * n.stream),
        ItlbWalkL1 | DtlbWalkL1 => units(n.l1),
        ItlbWalkL2 | DtlbWalkL2 => units(n.l2),
        ItlbWalkL3 | DtlbWalkL3 => units(n.l3),
        ItlbWalkMemory | DtlbWalkMemory => units(n.random),
        PdpteLoad => n.pdpte_load.map_or(0, units),
        PdpteL1 => pdpte(n.l1),
        PdpteL2 => pdpte(n.l2),
        PdpteL3 => pdpte(n.l3),
        PdpteMemory => pdpte(n.random),
        PdpteUncached => units(n.pdpte_each),
        RepMovsBytes => per_byte(n.movs_rate),
        RepStosBytes => per_byte(n.stos_rate),
        _ => units(n.direct[event as usize]),
    }
}

/// Cycles by side and cause. The parts sum to the total because the total is their sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CostTable {
    /// Cycles; index by `Side as usize`, `Cause as usize`.
    pub by: [[u64; Cause::COUNT]; Side::COUNT],
}

impl CostTable {
    /// One cell.
    pub fn get(&self, side: Side, cause: Cause) -> u64 {
        self.by[side as usize][cause as usize]
    }

    /// All causes of one side.
    pub fn side(&self, side: Side) -> u64 {
        self.by[side as usize].iter().sum()
    }

    /// One cause on all sides.
    pub fn cause(&self, cause: Cause) -> u64 {
        self.by.iter().map(|row| row[cause as usize]).sum()
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        self.by.iter().flatten().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each part alone would round its half cycle up.
    #[test]
    fn parts_sum_to_the_whole_cell_by_cell() {
        let half = Prices {
            per_event: Box::new([Prices::UNIT / 2; Event::COUNT]),
        };
        let part = |side, n| {
            let mut a = Account::default();
            a.set_side(side);
            a.add(Event::InsnSimple, n);
            a.add(Event::DtlbWalk, 3);
            a
        };
        let parts = [
            part(Side::Fault, 1),
            part(Side::Fork, 1),
            part(Side::Fault, 1),
        ];
        let tables = half.price_parts(&parts);
        let mut all = Account::default();
        for a in &parts {
            for &side in Side::ALL {
                all.set_side(side);
                for &event in Event::ALL {
                    all.add(event, a.get(side, event));
                }
            }
        }
        let whole = half.price(&all);
        for &side in Side::ALL {
            for cause in Cause::ALL {
                let sum: u64 = tables.iter().map(|t| t.get(side, cause)).sum();
                assert_eq!(sum, whole.get(side, cause), "{side:?} {cause:?}");
            }
        }
        let base: Vec<u64> = tables
            .iter()
            .map(|t| t.get(Side::Fault, Cause::Base))
            .collect();
        assert_eq!(base, [1, 0, 0]);
    }
}
