//! What can go wrong with a trace: one enum for reading, writing, checking and importing.
//!
//! Every message names the file and, where there is one, the place: byte offset, section, chunk,
//! operation or line.

use std::{io, path::PathBuf};

use thiserror::Error;

/// An error of the trace layer.
#[derive(Debug, Error)]
pub enum TraceError {
    /// Opening, reading or writing failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: "read", "write", "rename".
        action: &'static str,
        /// The reason given by the system.
        source: io::Error,
    },
    /// The file does not begin as a trace does.
    #[error("{name}: not a lowmem trace: {reason}")]
    NotATrace {
        /// The file.
        name: String,
        /// What was found.
        reason: String,
    },
    /// The file was written by a later version.
    #[error(
        "{name}: trace format version {found}, but this program reads versions up to {supported}: it comes from a newer lowmem"
    )]
    FromTheFuture {
        /// The file.
        name: String,
        /// Version in the file.
        found: u32,
        /// The latest version this program reads.
        supported: u32,
    },
    /// The file is damaged.
    #[error("{name}: damaged trace: {place}: {reason}")]
    Damaged {
        /// The file.
        name: String,
        /// Offset, section or chunk.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// An operation contradicts the address-space model.
    #[error("{name}: operation {index}: {reason}")]
    Invalid {
        /// The trace.
        name: String,
        /// Index of the operation.
        index: u64,
        /// The contradiction.
        reason: String,
    },
    /// A line of a recording cannot be understood.
    #[error("{name}: line {line}: {reason}")]
    Line {
        /// The file.
        name: String,
        /// Line number from 1.
        line: u64,
        /// What was expected and found.
        reason: String,
    },
    /// The set of input files is not a recording.
    #[error("{0}")]
    Inputs(String),
    /// A recording cannot be packed or scheduled.
    #[error("{name}: {reason}")]
    Recording {
        /// The recording.
        name: String,
        /// Why not.
        reason: String,
    },
}

impl TraceError {
    /// An input or output error.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            action,
            source,
        }
    }
}
