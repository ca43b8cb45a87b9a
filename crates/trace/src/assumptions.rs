//! What a replay adds to a recording: named, with defaults, echoed in every result.
//!
//! A recording of first touches lacks re-references, the bytes that calls copy, user instructions
//! and the neighbours that fault-around mapped. None of these is hidden in the importer: each is a
//! field here and marked with where its default comes from.

use serde::{Deserialize, Serialize};

/// How many pages are touched again after each return from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetouchDepth {
    /// Data pages (loads).
    pub data: u32,
    /// Code pages (fetches).
    pub code: u32,
}

impl RetouchDepth {
    /// No re-touching.
    pub const NONE: Self = Self { data: 0, code: 0 };
}

impl Default for RetouchDepth {
    /// 8 data and 4 code pages: an assumption. Its error against recordings of every reference is measured (the report's
    /// `retouch_error.toml`); the value was not fitted to them.
    fn default() -> Self {
        Self { data: 8, code: 4 }
    }
}

/// What one recorded read fault on a file or shared page stands for.
///
/// The recording kernel maps up to 16 neighbours with one read fault; a kernel of 2004 took a fault for each page that the
/// program *uses*. Calibrated on the `smaps` snapshots of two recordings (`traces/fault_around.py` repeats it):
///
/// | recording, mappings | read faults | resident pages a fault | referenced again a fault |
/// |---|---|---|---|
/// | pg40, private files | 6493 | 15.19 | 4.45 |
/// | pg40, shared files | 826 | 9.38 | 3.71 |
/// | redis1, private files | 716 | 11.75 | 4.55 |
///
/// *Resident* counts what the kernel mapped and bounds the pages used from above; *referenced again* counts, in the best interval
/// without a fault in that mapping, pages whose accessed bit was set after it had been cleared, and bounds them from below
/// (pages used only once are missed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultAround {
    /// The faulting page only.
    None,
    /// The faulting page and its neighbours in the aligned 64 KiB window, [`FaultAround::RESIDENT_PAGES`] pages in all, as far as the
    /// mapping reaches.
    #[default]
    Resident,
    /// All pages of the window that the mapping holds: an upper bound.
    All,
}

impl FaultAround {
    /// Pages used for each recorded read fault: the measured lower bound of 4.45 (pg40) and 4.55 (redis1), rounded up.
    pub const RESIDENT_PAGES: u32 = 5;

    /// Pages in the window that the recording kernel considers at most (`fault_around_bytes` = 64 KiB).
    pub const WINDOW_PAGES: u32 = 16;

    /// How many pages one fault maps at most, the faulting one included.
    #[must_use]
    pub const fn pages(self) -> u32 {
        match self {
            Self::None => 1,
            Self::Resident => Self::RESIDENT_PAGES,
            Self::All => Self::WINDOW_PAGES,
        }
    }
}

/// What a recorded `vfork` becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vfork {
    /// The child shares the parent's address space until it execs, as recorded.
    #[default]
    Share,
    /// The child gets a copy, as the shells and `make` of 2004 would have done.
    Fork,
}

/// The bytes that calls without effect on memory copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopiedBytes {
    /// None.
    None,
    /// As many as the class of the call copies ([`crate::import::syscalls`]), to the task's most
    /// recently written, still writable private page.
    #[default]
    ByClass,
}

/// All assumptions of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Assumptions {
    /// Pages touched again after each return from the kernel. Recordings of every reference need none.
    pub retouch: RetouchDepth,
    /// User instructions retired after each return from the kernel; 0 by default, and then no
    /// percentage of run time may be printed.
    pub user_work: u32,
    /// What one recorded read fault maps.
    pub fault_around: FaultAround,
    /// What a recorded vfork becomes.
    pub vfork: Vfork,
    /// What calls copy.
    pub copied_bytes: CopiedBytes,
}
