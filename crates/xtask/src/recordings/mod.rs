//! `cargo run --release -p xtask -- recordings DIR`: the long experiment over a folder of recordings.
//!
//! | file | owns |
//! |---|---|
//! | [`mod@find`] | which recordings there are |
//! | [`totals`] | the totals of their reference replay |
//! | [`mod@loads`] | small generated loads |
//! | [`matrix`] | the configurations |
//! | [`experiment`] | the runs of one configuration and what must agree |
//! | [`resume`] | what was done before |
//! | [`watch`] | progress |
//!
//! Of each recording: it imports with no unresolved event; its totals equal `totals.json`; the switches that will be replayed are
//! within 10 % of those recorded. Of each reverse map on each split: native and cycle mode run to the end with the kernel's
//! invariants checked by full scans at doubling intervals, and leave identical guest memory, at the peak and at the end; a second
//! run in cycle mode gives the same result to the last count; the reference engine does, too (only for traces named by `--reference`).
//! And all runs have one memory hash.
//!
//! A checked run is also compared with the plain model of its trace, which no reverse map has a part in.
//!
//! With `--generated` small loads of every kind are made and replayed instead; `--cluster 0,3` runs everything with pages of one and of eight
//! frames, `--ram 24M` in RAM that is too small for `swapstorm1` and `swap-storm`.
//!
//! With `--matrix spread --checks native` every reverse map replays every recording natively, on both splits, with prio_tree and list,
//! highpte on and off in turn: 18 runs a recording. `--resume FILE` notes what is done and goes on from there.
//!
//! Invariant: the exit code is 0 only if everything that was asked for was run and agreed.

mod experiment;
mod find;
mod loads;
mod matrix;
mod resume;
mod totals;
mod watch;

use clap::Args;
use experiment::{Checks, Engines, Line};
pub(crate) use find::{Recording, find};
use loads::{Load, loads};
use lowmem_report::Config;
use lowmem_report::config::parse_bytes;
use lowmem_trace::Trace;
use lowmem_trace::import::{ImportOptions, import};
use matrix::Machine;
use matrix::Matrix;
pub(crate) use matrix::{configs, label};
use rayon::prelude::*;
use resume::Done;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;
use totals::Totals;
pub(crate) use watch::Watch;

/// Replayed switches may differ from the recorded ones by one part in this many.
const SWITCH_TOLERANCE: u64 = 10;

/// Options of `recordings`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder with NAME.strace.xz and NAME.perf.xz, or NAME.PID.lackey.xz, and perhaps totals.json
    #[arg(required_unless_present = "generated")]
    dir: Option<PathBuf>,
    /// Small generated loads of every kind instead of a folder's recordings
    #[arg(long, conflicts_with = "dir")]
    generated: bool,
    /// Only these recordings
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Recordings that the reference engine replays whole, too
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME",
        default_value = "mremapfork1"
    )]
    reference: Vec<String>,
    /// Which configurations
    #[arg(long, value_enum, default_value = "pairs")]
    matrix: Matrix,
    /// Note each finished run in this file, and do not repeat those that it has
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Which checks of each configuration
    #[arg(long, value_enum, default_value = "all")]
    checks: Checks,
    /// CPU preset
    #[arg(long, default_value = "pentium4")]
    cpu: String,
    /// Cluster shifts; all must leave the same memory
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "0")]
    cluster: Vec<u8>,
    /// RAM of the machines
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = ram)]
    ram: u64,
    /// Configurations at once; each machine takes some hundred megabytes
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print JSON on stdout, lines on stderr
    #[arg(long)]
    json: bool,
}

fn ram(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "not a size, such as 24M or 4G".to_owned())
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of totals is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Totals {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file of finished runs is not what it should be.
    #[error("{path}, line {line}: not a finished run", path = path.display())]
    Resume {
        /// Which.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// A recording that was asked for is not there.
    #[error("{folder} has no recording {name}", folder = folder.display())]
    NoRecording {
        /// Its name.
        name: String,
        /// Where.
        folder: PathBuf,
    },
    /// A load that nobody makes.
    #[error("no generated load is called {name}: there are {known}")]
    NoLoad {
        /// Its name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// No recording is there.
    #[error("{folder} has no recording", folder = .0.display())]
    Empty(PathBuf),
    /// A recording cannot be imported.
    #[error(transparent)]
    Trace(#[from] lowmem_trace::TraceError),
    /// A replay failed.
    #[error(transparent)]
    Machine(#[from] lowmem_machine::MachineError),
    /// Another failure of a replay.
    #[error("{0}")]
    Replay(String),
    /// A number of threads that cannot be had.
    #[error("cannot start {jobs} jobs: {source}")]
    Jobs {
        /// How many.
        jobs: usize,
        /// Why.
        source: rayon::ThreadPoolBuildError,
    },
    /// Checks failed; they were printed.
    #[error("{0} checks failed")]
    Failed(usize),
}

/// What is replayed.
enum Subject {
    Recorded(Recording),
    Generated(Load),
}

impl Subject {
    fn name(&self) -> &str {
        match self {
            Subject::Recorded(recording) => &recording.name,
            Subject::Generated(load) => load.name(),
        }
    }

    /// What is wrong with a trace that was just made goes into its line.
    fn trace(&self, totals: Option<&Totals>) -> (Line, Option<Trace>) {
        match self {
            Subject::Recorded(recording) => import_one(recording, totals),
            Subject::Generated(load) => generate_one(load),
        }
    }
}

/// What an experiment is about.
struct Material {
    subjects: Vec<Subject>,
    /// Names of all that there are, also of those not asked for, in order.
    names: Vec<String>,
    totals: Option<Totals>,
}

fn material(options: &Options) -> Result<Material, Error> {
    let Some(dir) = &options.dir else {
        let names: Vec<String> = loads(&[]).iter().map(|l| l.name().to_owned()).collect();
        if let Some(unknown) = options.only.iter().find(|name| !names.contains(name)) {
            return Err(Error::NoLoad {
                name: unknown.clone(),
                known: names.join(", "),
            });
        }
        let chosen = loads(&options.only).into_iter().map(Subject::Generated);
        return Ok(Material {
            subjects: chosen.collect(),
            names,
            totals: None,
        });
    };
    let mut names: Vec<String> = find(dir, &[])?.into_iter().map(|r| r.name).collect();
    names.sort();
    let chosen = find(dir, &options.only)?.into_iter().map(Subject::Recorded);
    Ok(Material {
        subjects: chosen.collect(),
        names,
        totals: Totals::read(dir)?,
    })
}

/// Runs the experiment.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let material = material(options)?;
    let jobs = options.jobs.max(1);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(jobs)
        .build()
        .map_err(|source| Error::Jobs { jobs, source })?;
    let out = Out {
        json: options.json,
        lock: Mutex::new(()),
    };
    let done = Done::open(options.resume.as_deref())?;
    let machine = Machine {
        cpu: &options.cpu,
        clusters: &options.cluster,
        ram_bytes: options.ram,
    };
    let mut all = Vec::new();
    for subject in &material.subjects {
        let name = subject.name();
        let place = material.names.iter().position(|n| n == name);
        let configs = options.matrix.on(&machine, place.unwrap_or_default());
        let engines = if options.reference.iter().any(|n| n == name) {
            Engines::Both
        } else {
            Engines::Fast
        };
        let checks = options.checks.lines(engines);
        let before = |config: &Config| -> Option<Vec<Line>> {
            let find = |check: &&str| done.find(name, &label(config), check).cloned();
            checks.iter().map(find).collect()
        };
        let imported = done.find(name, "-", "import");
        let trace = match imported {
            Some(line) if configs.iter().all(|c| before(c).is_some()) => {
                all.push(line.clone());
                None
            }
            _ => {
                let (line, trace) = subject.trace(material.totals.as_ref());
                out.line(&line);
                if imported.is_none() {
                    done.note(&line)?;
                }
                all.push(line);
                // The line says what is wrong.
                if trace.is_none() {
                    continue;
                }
                trace
            }
        };
        let one = |config: &Config| -> Result<Vec<Line>, Error> {
            if let Some(lines) = before(config) {
                return Ok(lines);
            }
            let trace = trace.as_ref().expect("made if a configuration is left");
            let say = |line: &Line| out.line(line);
            let lines = experiment::configuration(trace, config, options.checks, engines, &say);
            for line in &lines {
                done.note(line)?;
            }
            Ok(lines)
        };
        let lines: Vec<Vec<Line>> =
            pool.install(|| configs.par_iter().map(one).collect::<Result<_, Error>>())?;
        let lines: Vec<Line> = lines.into_iter().flatten().collect();
        let same = hashes(name, &lines);
        out.line(&same);
        all.extend(lines);
        all.push(same);
    }
    let failed = all.iter().filter(|l| !l.wrong.is_empty()).count();
    out.summary(&all);
    match failed {
        0 => Ok(()),
        n => Err(Error::Failed(n)),
    }
}

/// Makes a load.
fn generate_one(load: &Load) -> (Line, Option<Trace>) {
    let mut line = Line::new(load.name(), "-".to_owned(), "import");
    match load.trace() {
        Ok(trace) => {
            line.operations = trace.len();
            line.note = "generated".to_owned();
            (line, Some(trace))
        }
        Err(e) => {
            line.wrong.push(e.to_string());
            (line, None)
        }
    }
}

/// Imports a recording and checks what is known of it.
fn import_one(recording: &Recording, totals: Option<&Totals>) -> (Line, Option<Trace>) {
    let mut line = Line::new(&recording.name, "-".to_owned(), "import");
    let begun = Instant::now();
    let trace = match import(&recording.files, &ImportOptions::default(), |_, _| {}) {
        Ok(trace) => trace,
        Err(e) => {
            line.wrong.push(e.to_string());
            return (line, None);
        }
    };
    line.seconds = begun.elapsed().as_secs_f64();
    line.operations = trace.len();
    if let Err(e) = trace.check(|_| {}) {
        line.wrong.push(e.to_string());
    }
    let unresolved = trace.header().totals.get("unresolved");
    if unresolved > 0 {
        line.wrong.push(format!("{unresolved} unresolved events"));
    }
    let (switches, recorded) = (trace.summary().switches, trace.info().recorded_switches);
    // lackey has no times: who ran when is not recorded there.
    if !recording.lackey && switches.abs_diff(recorded) * SWITCH_TOLERANCE > recorded {
        line.wrong
            .push(format!("{switches} switches, {recorded} recorded"));
    }
    let compared = match totals {
        None => "no totals.json".to_owned(),
        Some(totals) => {
            let (wrong, compared) = totals.compare(&trace);
            line.wrong.extend(wrong);
            format!("{compared} totals compared")
        }
    };
    line.note = match recording.lackey {
        true => format!("{compared}; {switches} switches"),
        false => format!("{unresolved} unresolved; {compared}; {switches} switches of {recorded}"),
    };
    (line, Some(trace))
}

/// All runs of a recording must have one memory hash.
fn hashes(recording: &str, lines: &[Line]) -> Line {
    let mut line = Line::new(recording, "-".to_owned(), "memory_hash");
    let mut seen: Vec<&String> = lines
        .iter()
        .filter_map(|l| l.memory_hash.as_ref())
        .collect();
    let runs = seen.len();
    seen.sort_unstable();
    seen.dedup();
    match seen[..] {
        [one] if runs == lines.len() => {
            line.memory_hash = Some(one.clone());
            line.note = format!("equal over {runs} runs");
        }
        [_] => line.wrong.push(format!(
            "only {runs} of {} runs have a memory hash",
            lines.len()
        )),
        _ => line
            .wrong
            .push(format!("{} different hashes in {runs} runs", seen.len())),
    }
    line
}

/// Where lines go.
struct Out {
    json: bool,
    lock: Mutex<()>,
}

impl Out {
    fn print(&self, text: &str) {
        let _guard = self.lock.lock();
        // A closed pipe shows in the exit code of whoever closed it.
        let _ = match self.json {
            true => writeln!(std::io::stderr(), "{text}"),
            false => writeln!(std::io::stdout(), "{text}"),
        };
    }

    fn line(&self, line: &Line) {
        let state = if line.wrong.is_empty() { "ok" } else { "WRONG" };
        let mut text = format!(
            "{:12} {:32} {:11} {state:5}",
            line.recording, line.config, line.check
        );
        if line.operations > 0 {
            text.push_str(&format!(
                " {:>8} ops {:>8.2} s",
                line.operations, line.seconds
            ));
        }
        if line.instructions > 0 {
            text.push_str(&format!(
                " {:>12} instr {:>13} cycles {:>6.1} MIPS",
                line.instructions,
                line.cycles,
                line.mips()
            ));
        }
        if line.host_bytes > 0 {
            text.push_str(&format!(" {:>5} MB", line.host_bytes >> 20));
        }
        if !line.note.is_empty() {
            text.push_str(&format!("  {}", line.note));
        }
        for wrong in &line.wrong {
            text.push_str(&format!("\n    {wrong}"));
        }
        self.print(&text);
    }

    fn summary(&self, lines: &[Line]) {
        let mut names: Vec<&str> = lines.iter().map(|l| l.recording.as_str()).collect();
        names.dedup();
        self.print(&format!(
            "\n{:12} {:>9} {:>6} {:>5} {:>15} {:>9} {:>8} {:>8}",
            "recording", "ops", "checks", "wrong", "instructions", "seconds", "MIPS", "host MB"
        ));
        for name in names {
            let of: Vec<&Line> = lines.iter().filter(|l| l.recording == name).collect();
            let instructions: u64 = of.iter().map(|l| l.instructions).sum();
            let on_cpu = of.iter().filter(|l| l.instructions > 0);
            let cpu_seconds: f64 = on_cpu.map(|l| l.seconds).sum();
            let seconds: f64 = of.iter().map(|l| l.seconds).sum();
            self.print(&format!(
                "{name:12} {:>9} {:>6} {:>5} {instructions:>15} {seconds:>9.1} {:>8.1} {:>8}",
                of.iter().map(|l| l.operations).max().unwrap_or(0),
                of.len(),
                of.iter().filter(|l| !l.wrong.is_empty()).count(),
                instructions as f64 / cpu_seconds.max(0.001) / 1e6,
                of.iter().map(|l| l.host_bytes >> 20).max().unwrap_or(0),
            ));
        }
        let wrong = lines.iter().filter(|l| !l.wrong.is_empty()).count();
        self.print(&format!("{} checks, {wrong} failed", lines.len()));
        if self.json {
            let json = serde_json::to_string_pretty(lines)
                .expect("a line has string keys and finite numbers");
            println!("{json}");
        }
    }
}
