//! Writing to stdout, and what may be written to.
//!
//! Invariant: a full disk is an error, a closed pipe is not.

use crate::failure::Failure;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Whether somebody still reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// All was taken.
    There,
    /// The pipe is closed: more output is pointless.
    Gone,
}

/// Writes `text` to stdout, all of it.
pub(crate) fn print(text: &str) -> Result<Reader, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(e) => Err(Failure::Output(e)),
    }
}

/// Refuses a device, a pipe or a folder as the name of a trace, before the work; saving refuses it, too.
pub(crate) fn refuse_special(path: &Path) -> Result<(), Failure> {
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        let message = format!("{}: not a regular file", path.display());
        return Err(Failure::Usage(message));
    }
    Ok(())
}
