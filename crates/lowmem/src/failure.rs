//! Errors of the command, and the exit code of each.
//!
//! Invariant: a message is one line, lower case, and names what it is about.

use lowmem_cost::PresetError;
use lowmem_report::ConfigError;
use lowmem_report::axis::AxisError;
use lowmem_trace::TraceError;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code when some row did not complete.
pub(crate) const INCOMPLETE: u8 = 3;
/// Exit code of a bad command line.
const USAGE: u8 = 2;
/// Exit code of every other failure.
const OTHER: u8 = 1;

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Part of the design, not built.
    #[error("{0}: not yet")]
    NotYet(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A value of an axis.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The CPU preset.
    #[error(transparent)]
    Preset(#[from] PresetError),
    /// The trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A configuration file.
    #[error("{}: {message}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        message: String,
    },
    /// The machine could not be made, or failed.
    #[error("{0}")]
    Machine(String),
    /// Ctrl-C.
    #[error("interrupted: {done} of {all} configurations finished")]
    Interrupted {
        /// Rows that were printed.
        done: usize,
        /// Rows that were asked for.
        all: usize,
    },
    /// stdout refused.
    #[error("cannot write the result: {0}")]
    Output(std::io::Error),
}

impl From<AxisError> for Failure {
    fn from(error: AxisError) -> Self {
        Failure::Config(error.into())
    }
}

impl Failure {
    /// The exit code of the design.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::NotYet(_) | Failure::Usage(_) | Failure::Config(_) => USAGE,
            Failure::Preset(
                PresetError::Unknown { .. }
                | PresetError::NotYet { .. }
                | PresetError::UnknownSetting { .. }
                | PresetError::Setting { .. },
            ) => USAGE,
            Failure::Preset(_)
            | Failure::Trace(_)
            | Failure::ConfigFile { .. }
            | Failure::Machine(_)
            | Failure::Interrupted { .. }
            | Failure::Output(_) => OTHER,
        })
    }
}
