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
    /// 8 data and 4 code pages: an assumption until it is measured on recordings of every reference.
    fn default() -> Self {
        Self { data: 8, code: 4 }
    }
}

/// What one recorded read fault on a file or shared page maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultAround {
    /// The faulting page only: a lower bound.
    None,
    /// The first [`FaultAround::RESIDENT_PAGES`] pages of the aligned 64 KiB window beginning with the
    /// faulting one, as far as its mapping reaches.
    #[default]
    Resident,
    /// All pages of the window that its mapping holds: an upper bound.
    All,
}

impl FaultAround {
    /// Pages of the window that a mean recorded read fault made resident. See [`FaultAround::pages`].
    pub const RESIDENT_PAGES: u32 = 8;

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
