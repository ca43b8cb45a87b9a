//! The trace to run: a file, or the built-in one.
//!
//! Invariant: the built-in trace goes through the same checks as any file.

use crate::failure::Failure;
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
