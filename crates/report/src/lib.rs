//! Configurations, measurements, and how measurements become results: tables, JSON, CSV.
//!
//! A machine runs a [`Config`] and hands back a [`Measurement`] (counts). Priced with a CPU preset it becomes a result
//! whose parts sum to its totals. Every name that is printed comes from a declaration.
//!
//! | module | owns |
//! |---|---|
//! | [`axis`] | closed sets of named values, "not yet" and "did you mean" |
//! | [`config`] | one configuration, resolved; echoed in every result and valid input |
//! | [`measurement`] | what a machine hands back |
//! | [`progress`] | how a run says how far it is |
//! | [`result`] | the JSON document: measurements with prices on |
//! | [`unmap`] | the unmap measurement, priced |
//! | [`explain`] | why 4G/4G costs more, line by line |
//! | [`retouch_error`] | how far the re-touch model is from the truth |
//! | [`verdict`], [`text`], [`table`] | a result for people |
//! | [`csv`] | a result for spreadsheets |
//! | [`suggest`] | the nearest known name |
//!
//! Invariant: nothing here reads a clock, a file or the environment.

pub mod axis;
pub mod balance;
pub mod config;
pub mod csv;
pub mod explain;
pub mod kernels;
pub mod measurement;
pub mod progress;
pub mod result;
pub mod retouch_error;
pub mod suggest;
pub mod table;
pub mod text;
pub mod unmap;
pub mod verdict;

pub use config::{Config, ConfigError};
pub use measurement::{
    DeviceUse, EventCounts, HostStats, LowmemUse, Measurement, Mode, Operation, OperationCount,
    Outcome, Owner, UnmapEnd, UnmapMeasure, UnmapPart, UnmapSample, UnmapSource,
};
pub use progress::{Progress, Silent};
pub use result::{Document, TraceSummary, UserWork};
