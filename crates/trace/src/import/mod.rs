//! Importers: recordings of real programs become traces.
//!
//! A recording is either a pair of strace and perf files, or one lackey file per process (`lackey`). Formats are told from content;
//! compressed files (xz) are read directly. Path of a pair: `input` -> `strace`, `perf` -> `recorder`
//! (merge by time, understand, count with `tally`) -> `order` (what must not be swapped) ->
//! [`crate::schedule`](mod@crate::schedule) -> `lower` (32-bit addresses by `pack`, operations) -> the writer, whose model checks every operation.
//!
//! Invariant: counting happens in recorded order, before schedule and packing.

mod calls;
mod input;
mod lackey;
mod lower;
mod order;
mod pack;
mod perf;
mod raw;
mod recorder;
mod strace;
pub mod syscalls;
mod tally;

use std::path::PathBuf;

use input::{Format, Text};

use crate::{error::TraceError, trace::Trace};

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Name of the trace; by default what the names of the files have in common before their first dot.
    pub name: Option<String>,
}

/// Reads the files of one recording and makes a trace. `progress` is called with work done and all work, now and then.
///
/// # Errors
/// If a file cannot be read or understood, if half of a pair is missing, or if the recording contradicts itself.
pub fn import(
    paths: &[PathBuf],
    options: &ImportOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Trace, TraceError> {
    if paths.is_empty() {
        return Err(TraceError::Inputs("no file to import".to_owned()));
    }
    let texts: Vec<Text> = paths
        .iter()
        .map(|p| Text::read(p))
        .collect::<Result<_, _>>()?;
    let name = options.name.clone().unwrap_or_else(|| common_name(&texts));
    if texts.iter().all(|t| t.format == Format::Lackey) {
        return lackey::import(&name, texts, &mut progress);
    }
    let of = |format| {
        texts
            .iter()
            .filter(move |t| t.format == format)
            .collect::<Vec<_>>()
    };
    let (strace, perf, lackey) = (of(Format::Strace), of(Format::Perf), of(Format::Lackey));
    match (strace[..].as_ref(), perf[..].as_ref(), lackey.len()) {
        ([s], [p], 0) => {
            let mut recording = recorder::record(&name, strace::parse(s)?, perf::parse(p)?)?;
            recording.header.inputs = vec![s.input.clone(), p.input.clone()];
            lower::lower(recording, &mut progress)
        }
        ([s], [], 0) => Err(half(s, "strace", "perf script")),
        ([], [p], 0) => Err(half(p, "perf script", "strace")),
        _ => Err(TraceError::Inputs(format!(
            "a recording is one strace and one perf file, or lackey files only; these are {} strace, {} perf and {} lackey files",
            strace.len(),
            perf.len(),
            lackey.len()
        ))),
    }
}

fn half(text: &Text, is: &str, missing: &str) -> TraceError {
    TraceError::Inputs(format!(
        "{}: half a recording: this is its {is} file, the {missing} file is missing",
        text.name
    ))
}

fn common_name(texts: &[Text]) -> String {
    let name = texts[0].name.split('.').next().unwrap_or("");
    if name.is_empty() {
        "recording".to_owned()
    } else {
        name.to_owned()
    }
}
