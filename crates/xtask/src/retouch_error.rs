//! `cargo run --release -p xtask -- retouch-error DIR`: how far the re-touch model is from the truth.
//!
//! Recordings of every reference (lackey) are replayed as they are; and reduced to the faults that a recording of first touches
//! would hold, with the model's re-touches in place of the rest. DTLB and ITLB misses of both, by configuration, go to stdout as
//! the table that crates/report prints with its verdicts (`crates/report/data/retouch_error.toml`).
//!
//! Invariant: both replays of a pair have the same calls and switches under the same configuration.

use crate::recordings::{Error, Watch, configs, find, label};
use clap::Args;
use lowmem_cost::Event;
use lowmem_machine::{ReplayOptions, replay};
use lowmem_report::{Config, Measurement, Outcome};
use lowmem_trace::import::{ImportOptions, import};
use lowmem_trace::reduce::{Around, first_touches};
use lowmem_trace::{Assumptions, Trace};
use serde::Serialize;
use std::path::PathBuf;

/// CPU presets that are compared.
const CPUS: [&str; 2] = ["pentium4", "pentium3"];

/// Options of `retouch-error`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder with NAME.PID.lackey.xz
    dir: PathBuf,
    /// Only these recordings
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
}

/// The table.
#[derive(Debug, Serialize)]
struct Document {
    command: &'static str,
    retouch_data: u32,
    retouch_code: u32,
    fault_around: lowmem_trace::FaultAround,
    run: Vec<Run>,
}

/// One configuration of one recording.
#[derive(Debug, Serialize)]
struct Run {
    recording: String,
    reduction: &'static str,
    cpu: String,
    rmap: String,
    split: String,
    entries: u64,
    dtlb_every_reference: u64,
    dtlb_model: u64,
    itlb_every_reference: u64,
    itlb_model: u64,
}

/// Measures and prints the table.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let assumptions = Assumptions::default();
    let mut document = Document {
        command: "cargo run --release -p xtask -- retouch-error DIR",
        retouch_data: assumptions.retouch.data,
        retouch_code: assumptions.retouch.code,
        fault_around: assumptions.fault_around,
        run: Vec::new(),
    };
    let recordings = find(&options.dir, &options.only)?;
    for recording in recordings.iter().filter(|r| r.lackey) {
        let whole = import(&recording.files, &ImportOptions::default(), |_, _| {})?;
        let reduced = [
            ("window", first_touches(&whole, Around::Window)?),
            ("page", first_touches(&whole, Around::Page)?),
        ];
        for cpu in CPUS {
            for config in configs(cpu) {
                let truth = measure(&whole, &config)?;
                for (reduction, trace) in &reduced {
                    let model = measure(trace, &config)?;
                    let misses = |event| (truth.account.total(event), model.account.total(event));
                    let (dtlb_every_reference, dtlb_model) = misses(Event::DtlbMiss);
                    let (itlb_every_reference, itlb_model) = misses(Event::ItlbMiss);
                    document.run.push(Run {
                        recording: recording.name.clone(),
                        reduction,
                        cpu: cpu.to_owned(),
                        rmap: config.rmap.to_string(),
                        split: config.split.to_string(),
                        entries: truth.operations.values().map(|o| o.entries).sum(),
                        dtlb_every_reference,
                        dtlb_model,
                        itlb_every_reference,
                        itlb_model,
                    });
                }
            }
        }
    }
    if document.run.is_empty() {
        return Err(Error::Empty(options.dir.clone()));
    }
    let text = toml::to_string(&document).map_err(|e| Error::Replay(e.to_string()))?;
    print!("{text}");
    Ok(())
}

fn measure(trace: &Trace, config: &Config) -> Result<Measurement, Error> {
    let config = Config {
        probe_unmap: 0,
        ..config.clone()
    };
    let watch = Watch::new(format!("{} {}", trace.name(), label(&config)));
    let m = replay(trace, &config, &ReplayOptions::default(), &watch);
    watch.clear();
    let m = m?;
    match m.outcome {
        Outcome::Complete => Ok(m),
        other => Err(Error::Replay(format!(
            "{} {} on {}: {}: {}",
            trace.name(),
            label(&config),
            config.cpu,
            other.name(),
            m.reason.unwrap_or_default()
        ))),
    }
}
