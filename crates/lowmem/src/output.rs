//! Writing to stdout.
//!
//! Invariant: a full disk is an error, a closed pipe is not.

use crate::failure::Failure;
use std::io::{ErrorKind, Write};

/// Writes `text` to stdout, all of it.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::Output),
    }
}
