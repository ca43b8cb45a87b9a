//! The tables and totals that stand beside the operations of a trace.
//!
//! [`Totals`] are counted at import in *recorded* order by the rules of the recordings' reference
//! replay, before the schedule; [`Summary`] is counted over the operations in scheduled order.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Where the operations came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum TraceKind {
    /// System calls and page faults (strace and perf): first touches only.
    FirstTouch = 0,
    /// Every reference (lackey).
    EveryReference = 1,
    /// Made by a program.
    Synthetic = 2,
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Last name of the program it ran (`comm`).
    pub name: String,
    /// Recorded process number.
    pub pid: u32,
    /// Recorded thread number.
    pub tid: u32,
}

/// One mapped file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its path when recorded.
    pub path: String,
    /// Device, `major:minor` in hexadecimal as recorded; empty where only the path is known.
    pub device: String,
    /// Inode number, 0 where only the path is known.
    pub inode: u64,
    /// Pages that mappings reach: a lower bound of the file's size.
    pub pages: u32,
}

/// One System V segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// The recorded identifier.
    pub recorded_id: u32,
    /// Size in bytes.
    pub bytes: u32,
}

/// One file that was imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Input {
    /// File name without folders.
    pub name: String,
    /// SHA-256 of the file as it was given (compressed or not), in hexadecimal.
    pub sha256: String,
}

/// What was counted in a recording, in recorded order.
///
/// The names are those of the recordings' `totals.json`. All are counts of events unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Totals {
    /// Named counts: `processes`, `threads`, `forks`, ..., `touched_pages_mm`.
    pub counts: BTreeMap<String, u64>,
    /// Most address spaces that map one page at once, by kind of page.
    pub max_sharers: BTreeMap<String, u64>,
}

impl Totals {
    /// The count of that name, 0 if it was not counted.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }
}

/// The tables of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Header {
    /// Name of the recording.
    pub name: String,
    /// Where the operations came from.
    pub kind: TraceKind,
    /// The threads, by [`crate::TaskId`].
    pub tasks: Vec<TaskInfo>,
    /// The files, by [`crate::FileId`].
    pub files: Vec<FileInfo>,
    /// The segments, by [`crate::SegmentId`].
    pub segments: Vec<SegmentInfo>,
    /// What was imported.
    pub inputs: Vec<Input>,
    /// Remarks of the importer: what was dropped, packed or assumed.
    pub notes: Vec<String>,
    /// Counts in recorded order.
    pub totals: Totals,
}

impl Header {
    /// A header without tables.
    #[must_use]
    pub fn new(name: &str, kind: TraceKind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            tasks: Vec::new(),
            files: Vec::new(),
            segments: Vec::new(),
            inputs: Vec::new(),
            notes: Vec::new(),
            totals: Totals::default(),
        }
    }
}

/// What was counted over the operations in scheduled order. Stored in the footer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Summary {
    /// All operations.
    pub operations: u64,
    /// Operations that were recorded, that is all but switches.
    pub events: u64,
    /// Touches.
    pub touches: u64,
    /// Fetches, loads, stores and modifications.
    pub references: u64,
    /// System calls.
    pub calls: u64,
    /// Switches, forced ones included.
    pub switches: u64,
    /// Forced switches.
    pub forced_switches: u64,
    /// The operation after which most page mappings exist.
    pub peak_op: u64,
    /// Page mappings at that moment: present ptes, summed over address spaces.
    pub peak_ptes: u64,
    /// Most address spaces at once.
    pub max_spaces: u64,
    /// Pages that fault-around could have mapped without a recorded touch, summed: the width of the
    /// range in which the number of touched pages lies.
    pub around_pages: u64,
}

/// Everything `trace info` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The tables.
    pub header: Header,
    /// Counts over the operations.
    pub summary: Summary,
    /// SHA-256 of the trace file, in hexadecimal.
    pub sha256: String,
    /// Size of the trace file in bytes.
    pub bytes: u64,
    /// Format version.
    pub version: u32,
    /// Recorded switches: `sched_switch` records plus task exits.
    pub recorded_switches: u64,
}
