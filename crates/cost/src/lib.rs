//! Events, then prices (decision D4).
//!
//! A simulation counts *events* into an [`Account`], by [`Side`] (on whose behalf the machine worked). A preset
//! *prices* events; pricing is a linear function of the counts, in integer fractions of a cycle, so one run can be priced
//! many ways and the parts always sum to the total. The *geometry* of TLBs and caches is part of the machine, because it
//! decides which events happen; prices are not.
//!
//! | module | owns |
//! |---|---|
//! | [`event`] | the closed list of events, and the [`Cause`] under which each is reported |
//! | [`side`] | the closed list of sides |
//! | [`account`] | counts of events by side |
//! | [`geometry`] | sizes and policies of TLBs, caches, front end |
//! | [`preset`] | CPU presets: TOML schema, marks and sources, geometry and prices |
//! | [`prices`] | the derivation of prices, and the table of costs by side and cause |
//! | [`suggest`] | the nearest known name |
//!
//! Invariant: no module here knows what an instruction or a page is; it only adds and multiplies.

pub mod account;
pub mod event;
pub mod geometry;
pub mod preset;
pub mod prices;
pub mod side;
pub mod suggest;

pub use account::Account;
pub use event::{Cause, Event, Level, Purpose};
pub use geometry::Geometry;
pub use preset::{DiskKey, Preset, PresetError, Variant};
pub use prices::{CostTable, Prices};
pub use side::Side;
