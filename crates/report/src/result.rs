//! The JSON document `lowmem.result/1`: measurements with their prices on.
//!
//! Sets are closed and every key is always present; numbers are integers. Keys beyond those that the schema promises may
//! be added within a version, none is ever removed or renamed.
//!
//! Invariant: sums hold by construction. `cycles.by` sums to `cycles.total`, the cycles of `operations` to those of all sides but
//! `user`, `lowmem.by_owner` to `lowmem.used_bytes`, and hits plus misses are the accesses.

use crate::balance::{self, Balance};
use crate::explain::{self, Explanation};
use crate::measurement::{
    DeviceUse, Measurement, Mode, Operation, OperationCount, Outcome, Owner, UnmapSource,
};
use crate::unmap::Unmap;
use crate::{Config, LowmemUse};
use lowmem_cost::{Account, Cause, CostTable, Event, Preset, Side, Variant};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// Kind and version of the document.
pub const SCHEMA: &str = "lowmem.result/1";

/// A map with a fixed order of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered<V>(pub Vec<(&'static str, V)>);

impl<V> Ordered<V> {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }
}

impl<V: Serialize> Serialize for Ordered<V> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Whether user instructions are known: only then is a percentage of run time more than an artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UserWork {
    /// The trace has none and none was assumed.
    None,
    /// Every reference of the program is in the trace.
    InTrace,
    /// Assumed on the command line.
    Assumed,
}

/// What a trace is, for the document's head.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TraceSummary {
    /// Its name.
    pub name: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Operations, as `trace info` counts them and messages number them: events and the switches between tasks.
    pub operations: u64,
    /// Operations that are no switches: what was recorded or generated.
    pub events: u64,
    /// Processes.
    pub processes: u64,
    /// Whether user instructions are known.
    pub user_work: UserWork,
    /// What is assumed where the recording is silent: each an option, echoed.
    pub assumptions: Map<String, Value>,
}

/// The program that wrote a document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Tool {
    /// Its version.
    pub version: String,
}

/// A whole result.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The program.
    pub tool: Tool,
    /// The workload.
    pub trace: TraceSummary,
    /// How it was run.
    pub mode: Mode,
    /// One row per configuration, in the order asked for.
    pub results: Vec<Row>,
    /// Pairs of rows that differ in the split alone, explained.
    pub splits: Vec<Explanation>,
    /// Pairs of rows that differ in the reverse map alone, one of them with chains: low memory saved and added.
    pub balances: Vec<Balance>,
}

/// Cycles of a run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Cycles {
    /// All of them.
    pub total: u64,
    /// By side and cause.
    pub by: Ordered<Ordered<u64>>,
    /// The total at each end of the preset's brackets.
    pub variants: Ordered<u64>,
}

/// Instructions retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Instructions {
    /// All of them.
    pub total: u64,
    /// In ring 3.
    pub user: u64,
    /// In the kernel.
    pub kernel: u64,
}

/// A first-level TLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Tlb {
    /// Look-ups.
    pub accesses: u64,
    /// Look-ups that hit.
    pub hits: u64,
    /// Look-ups that missed.
    pub misses: u64,
    /// Misses on what only the split's flushes had removed.
    pub flush: u64,
    /// Misses where a TLB without those flushes holds another pte.
    pub remap: u64,
    /// Misses on pages not seen before.
    pub cold: u64,
    /// Misses on pages lost to others.
    pub capacity: u64,
    /// Hits that a TLB without the split's flushes would have missed.
    pub spared: u64,
}

/// A second-level TLB; zero where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct SecondTlb {
    /// Look-ups.
    pub accesses: u64,
    /// Look-ups that hit.
    pub hits: u64,
    /// Look-ups that missed.
    pub misses: u64,
}

/// TLB flushes by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Flushes {
    /// CR3 loads of a split kernel's entries and exits.
    pub split: u64,
    /// CR3 loads of flush_tlb.
    pub cr3: u64,
    /// Single pages.
    pub invlpg: u64,
    /// CR3 loads of a change of address space.
    pub switch: u64,
    /// Times everything went because the kmap range wrapped.
    pub kmap_wrap: u64,
    /// Flushes of everything, global entries too.
    pub global: u64,
}

/// Both TLBs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Tlbs {
    /// Data.
    pub dtlb: Tlb,
    /// Instructions.
    pub itlb: Tlb,
    /// Data, second level.
    pub dtlb2: SecondTlb,
    /// Instructions, second level.
    pub itlb2: SecondTlb,
    /// Page walks.
    pub walks: u64,
    /// Flushes.
    pub flushes: Flushes,
}

/// Low memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lowmem {
    /// What there is.
    pub total_bytes: u64,
    /// In use at the trace's peak (the operation with most mappings).
    pub used_bytes: u64,
    /// The most ever in use.
    pub peak_bytes: u64,
    /// What is in use, by owner.
    pub by_owner: Ordered<u64>,
    /// Bytes of mapped user pages, in all zones, that no pte maps: what pages of several frames waste; 0 without clustering.
    pub unmapped_bytes: u64,
}

/// One kind of kernel entry, from the entry to the return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct OperationRow {
    /// Entries.
    pub entries: u64,
    /// Cycles from entry to return; refills of the user's TLB entries come later and are not in it.
    pub cycles: u64,
    /// TLB flushes.
    pub flushes: Flushes,
}

/// One configuration's result.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    /// The configuration.
    pub config: Config,
    /// How the run ended.
    pub outcome: Outcome,
    /// Why, unless complete.
    pub reason: Option<String>,
    /// Cycles.
    pub cycles: Cycles,
    /// Instructions.
    pub instructions: Instructions,
    /// TLBs.
    pub tlb: Tlbs,
    /// Low memory.
    pub lowmem: Lowmem,
    /// Unmap measurement.
    pub unmap: Unmap,
    /// Page transfers and naps of the kernel.
    pub devices: DeviceUse,
    /// By kind of operation.
    pub operations: Ordered<OperationRow>,
    /// Hash of everything the processes wrote, hexadecimal; null unless complete.
    pub memory_hash: Option<String>,
    /// Spread over layouts; null for a single run.
    pub spread: Option<u64>,
}

impl Document {
    /// Prices `measurements`, each with the preset it was run on (none when nothing was counted).
    pub fn new(
        tool_version: &str,
        trace: TraceSummary,
        mode: Mode,
        measurements: &[(Measurement, Option<Preset>)],
    ) -> Document {
        let results: Vec<Row> = measurements
            .iter()
            .map(|(m, preset)| Row::new(m, preset.as_ref()))
            .collect();
        Document {
            schema: SCHEMA,
            tool: Tool {
                version: tool_version.to_owned(),
            },
            trace,
            mode,
            splits: explain::pairs(measurements),
            balances: balance::pairs(&results),
            results,
        }
    }

    /// The document as JSON, ending in a line feed.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self)
            .expect("maps have string keys and numbers are whole");
        text.push('\n');
        text
    }

    /// Every row complete, or refused.
    pub fn all_complete(&self) -> bool {
        self.results
            .iter()
            .all(|r| matches!(r.outcome, Outcome::Complete | Outcome::Refused))
    }
}

impl Row {
    /// Prices one measurement.
    pub fn new(m: &Measurement, preset: Option<&Preset>) -> Row {
        Row {
            config: m.config.clone(),
            outcome: m.outcome,
            reason: m.reason.clone(),
            cycles: Cycles::new(&m.account, preset),
            instructions: instructions(&m.account),
            tlb: Tlbs::new(&m.account, m.kmap_wraps),
            lowmem: Lowmem::new(&m.lowmem),
            unmap: Unmap::new(&m.unmap, preset),
            devices: m.devices,
            operations: operations(m, preset),
            memory_hash: m.memory_hash.map(|h| format!("{h:032x}")),
            spread: None,
        }
    }

    /// Kernel entries of all kinds.
    pub fn entries(&self) -> u64 {
        self.operations.0.iter().map(|(_, op)| op.entries).sum()
    }

    /// Cycles outside `user` and `idle`.
    pub fn kernel_cycles(&self) -> u64 {
        let outside = [Side::User, Side::Idle].map(Side::name);
        let sides = self.cycles.by.0.iter();
        sides
            .filter(|(side, _)| !outside.contains(side))
            .flat_map(|(_, causes)| causes.0.iter().map(|(_, n)| n))
            .sum()
    }
}

impl Cycles {
    fn new(account: &Account, preset: Option<&Preset>) -> Cycles {
        let table = |v| {
            preset
                .map(|p| p.prices(v).price(account))
                .unwrap_or_default()
        };
        let mid = table(Variant::Mid);
        let causes = |side| {
            let cells = Cause::ALL.iter().map(|&c| (c.name(), mid.get(side, c)));
            Ordered(cells.collect())
        };
        Cycles {
            total: mid.total(),
            by: Ordered(Side::ALL.iter().map(|&s| (s.name(), causes(s))).collect()),
            variants: Ordered(
                Variant::ALL
                    .iter()
                    .map(|&v| (v.name(), table(v).total()))
                    .collect(),
            ),
        }
    }
}

fn instructions(account: &Account) -> Instructions {
    let user =
        account.total(Event::UserInstructions) + account.get(Side::User, Event::Instructions);
    let total = account.total(Event::UserInstructions) + account.total(Event::Instructions);
    Instructions {
        total,
        user,
        kernel: total - user,
    }
}

impl Tlbs {
    fn new(account: &Account, kmap_wraps: u64) -> Tlbs {
        use Event::*;
        let n = |event| account.total(event);
        let tlb = |access, miss, [flush, remap, cold, capacity, spared]: [Event; 5]| Tlb {
            accesses: n(access),
            hits: n(access).saturating_sub(n(miss)),
            misses: n(miss),
            flush: n(flush),
            remap: n(remap),
            cold: n(cold),
            capacity: n(capacity),
            spared: n(spared),
        };
        let second = |access, miss| SecondTlb {
            accesses: n(access),
            hits: n(access).saturating_sub(n(miss)),
            misses: n(miss),
        };
        Tlbs {
            dtlb: tlb(
                DtlbAccess,
                DtlbMiss,
                [DtlbFlush, DtlbRemap, DtlbCold, DtlbCapacity, DtlbSpared],
            ),
            itlb: tlb(
                ItlbAccess,
                ItlbMiss,
                [ItlbFlush, ItlbRemap, ItlbCold, ItlbCapacity, ItlbSpared],
            ),
            dtlb2: second(Dtlb2Access, Dtlb2Miss),
            itlb2: second(Itlb2Access, Itlb2Miss),
            walks: n(ItlbWalk) + n(DtlbWalk),
            flushes: Flushes::new(account, kmap_wraps),
        }
    }
}

impl Flushes {
    fn new(account: &Account, kmap_wrap: u64) -> Flushes {
        Flushes {
            split: account.total(Event::FlushSplit),
            cr3: account.total(Event::FlushCr3),
            invlpg: account.total(Event::FlushInvlpg),
            switch: account.total(Event::FlushSwitch),
            kmap_wrap,
            global: account.total(Event::FlushGlobal),
        }
    }
}

impl Lowmem {
    fn new(lowmem: &LowmemUse) -> Lowmem {
        Lowmem {
            total_bytes: lowmem.total_bytes,
            used_bytes: lowmem.used_bytes(),
            peak_bytes: lowmem.peak_bytes.max(lowmem.used_bytes()),
            by_owner: Ordered(
                Owner::ALL
                    .iter()
                    .map(|&o| (o.name(), lowmem.owner(o)))
                    .collect(),
            ),
            unmapped_bytes: lowmem.unmapped_bytes,
        }
    }

    /// Bytes of some owners together.
    pub fn of(&self, owners: &[Owner]) -> u64 {
        let bytes = owners.iter().filter_map(|o| self.by_owner.get(o.name()));
        bytes.sum()
    }
}

fn operations(m: &Measurement, preset: Option<&Preset>) -> Ordered<OperationRow> {
    let counts: Vec<OperationCount> = Operation::ALL
        .iter()
        .map(|op| m.operations.get(op).cloned().unwrap_or_default())
        .collect();
    let accounts = counts.iter().map(|c| &c.account);
    let tables = match preset {
        Some(preset) => preset.prices(Variant::Mid).price_parts(accounts),
        None => vec![CostTable::default(); counts.len()],
    };
    let row = |((op, count), table): ((&Operation, &OperationCount), &CostTable)| {
        let row = OperationRow {
            entries: count.entries,
            cycles: table.total(),
            flushes: Flushes::new(&count.account, 0),
        };
        (op.name(), row)
    };
    let rows = Operation::ALL.iter().zip(&counts).zip(&tables);
    Ordered(rows.map(row).collect())
}

/// What the unmap table calls its source.
pub(crate) fn source_name(source: UnmapSource) -> &'static str {
    match source {
        UnmapSource::Probe => "probe",
        UnmapSource::Replay => "replay",
    }
}
