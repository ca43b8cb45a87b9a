//! The trace to run: a file, or the built-in one.
//!
//! Invariant: the built-in trace goes through the same checks as any file.

use crate::failure::Failure;
use lowmem_trace::Trace;
use std::path::Path;

/// Opens `path`, or the built-in trace.
pub(crate) fn open(path: Option<&Path>) -> Result<Trace, Failure> {
    match path {
        Some(path) => Ok(Trace::open(path)?),
        None => Err(Failure::NotYet("a built-in trace".to_owned())),
    }
}
