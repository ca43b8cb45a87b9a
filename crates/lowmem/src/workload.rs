//! The trace to run: a file, or the built-in one.
//!
//! Invariant: the built-in trace goes through the same checks as any file.

use crate::failure::Failure;
use clap::ValueEnum;
use lowmem_report::Config;
use lowmem_trace::Trace;
use std::path::Path;

/// The built-in trace; `traces/README.md` says what it is and where it comes from.
const BUILT_IN: &[u8] = include_bytes!("../../../traces/mremapfork1.lmt");
const BUILT_IN_NAME: &str = "mremapfork1 (built in)";

/// Opens `path`, or the built-in trace.
pub(crate) fn open(path: Option<&Path>) -> Result<Trace, Failure> {
    match path {
        Some(path) => Ok(Trace::open(path)?),
        None => Ok(Trace::from_bytes(BUILT_IN_NAME, BUILT_IN)?),
    }
}

/// The trace that runs out of memory where RAM is small.
const STORM: &[u8] = include_bytes!("../../../traces/swapstorm1.lmt");
const STORM_NAME: &str = "swapstorm1 (built in)";

/// Opens `path`, or the built-in trace that needs more memory than there is.
pub(crate) fn open_or_storm(path: Option<&Path>) -> Result<Trace, Failure> {
    match path {
        Some(path) => Ok(Trace::open(path)?),
        None => Ok(Trace::from_bytes(STORM_NAME, STORM)?),
    }
}

/// What to do with recorded addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// As they are
    Recorded,
    /// Moved below the smallest user space of all configurations compared
    Packed,
}

/// The trace as all configurations can run it: every split must hold its addresses.
pub(crate) fn fit(trace: Trace, configs: &[Config], layout: Layout) -> Result<Trace, Failure> {
    let smallest = configs.iter().map(|c| (c.split.user_end(), c.split)).min();
    let Some((end, split)) = smallest else {
        return Ok(trace);
    };
    // Addresses of a trace end where user space of 3G/1G does, but for generated ones that only 4G/4G has room for.
    let recorded_end = trace.user_end();
    match layout {
        Layout::Packed => Ok(trace.packed(end.min(recorded_end))?),
        Layout::Recorded => {
            let highest = match end < recorded_end {
                true => trace.highest_address(),
                false => 0,
            };
            match highest > end {
                false => Ok(trace),
                true => Err(Failure::Usage(format!(
                    "split {split}: user space ends at {end:#x}, {} uses addresses to {highest:#x}; \
                     --layout packed moves them, for all configurations compared",
                    trace.name()
                ))),
            }
        }
    }
}
