//! Events, then prices (decision D4).
//!
//! A simulation counts *events* into an [`Account`], by [`Side`] (on whose behalf the machine worked). A preset
//! *prices* events; pricing is a linear function of the counts, in integers of 1/64 cycle, so one run can be priced
//! many ways and the parts always sum to the total. The *geometry* of TLBs and caches is part of the machine, because it
//! decides which events happen; prices are not.
//!
//! | module | owns |
//! |---|---|
//! | [`event`] | the closed list of events, and the [`Cause`] under which each is reported |
//! | [`side`] | the closed list of sides |
//! | [`account`] | counts of events by side |
//! | [`geometry`] | sizes and policies of TLBs, caches, front end |
//!
//! Invariant: no module here knows what an instruction or a page is; it only adds and multiplies.

pub mod account;
pub mod event;
pub mod geometry;
pub mod side;
pub mod suggest;

pub use account::Account;
pub use event::{Cause, Event, Level, Purpose};
pub use geometry::Geometry;
pub use side::Side;
