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
//! | [`suggest`] | the nearest known name |
//!
//! Invariant: nothing here reads a clock, a file or the environment.

pub mod axis;
pub mod config;
pub mod measurement;
pub mod suggest;

pub use config::{Config, ConfigError};
pub use measurement::{
    EventCounts, HostStats, LowmemUse, Measurement, Mode, Operation, OperationCount, Outcome,
    Owner, UnmapEnd, UnmapMeasure, UnmapPart, UnmapSample, UnmapSource,
};
