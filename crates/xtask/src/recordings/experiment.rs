//! What is checked of one configuration of a recording, in both modes.
//!
//! Invariant: a check that was not made is not counted as passed.

use super::matrix::label;
use super::watch::Watch;
use emu_cpu::Engine;
use lowmem_machine::identity::KeptMemory;
use lowmem_machine::replay::preset;
use lowmem_machine::{Check, MachineError, ReplayOptions, replay, replay_keeping};
use lowmem_report::result::Row;
use lowmem_report::{Config, Measurement, Mode, Outcome};
use lowmem_trace::Trace;
use serde::Serialize;

/// Words named when two memories differ.
const WORDS_NAMED: usize = 8;

/// One line of the experiment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// The recording.
    pub(crate) recording: String,
    /// Reverse map and split, or `-` for what is no replay.
    pub(crate) config: String,
    /// What was checked.
    pub(crate) check: &'static str,
    /// Trace operations done.
    pub(crate) operations: u64,
    /// Guest instructions retired.
    pub(crate) instructions: u64,
    /// Simulated cycles.
    pub(crate) cycles: u64,
    /// Wall-clock seconds of the host.
    pub(crate) seconds: f64,
    /// Most host memory in use by the machine, bytes.
    pub(crate) host_bytes: u64,
    /// Hash of everything the processes wrote.
    pub(crate) memory_hash: Option<String>,
    /// Figures in words.
    pub(crate) note: String,
    /// What is wrong; empty when all is well.
    pub(crate) wrong: Vec<String>,
}

impl Checks {
    /// The lines that a configuration has when it is done.
    pub(crate) fn lines(self, engines: Engines) -> Vec<&'static str> {
        let mut all = vec!["native"];
        if self != Checks::Native {
            all.push("cycle");
            if engines == Engines::Both {
                all.push("reference");
            }
        }
        if self == Checks::All {
            all.push("again");
        }
        all
    }
}

impl Line {
    /// A line without figures.
    pub(crate) fn new(recording: &str, config: String, check: &'static str) -> Self {
        Self {
            recording: recording.to_owned(),
            config,
            check,
            operations: 0,
            instructions: 0,
            cycles: 0,
            seconds: 0.0,
            host_bytes: 0,
            memory_hash: None,
            note: String::new(),
            wrong: Vec::new(),
        }
    }

    /// Millions of guest instructions per second of the host.
    pub(crate) fn mips(&self) -> f64 {
        if self.seconds > 0.0 {
            self.instructions as f64 / self.seconds / 1e6
        } else {
            0.0
        }
    }
}

/// How one run is made.
struct Run<'a> {
    trace: &'a Trace,
    config: &'a Config,
    check: &'static str,
    options: ReplayOptions,
}

impl Run<'_> {
    fn line(&self) -> Line {
        Line::new(self.trace.name(), label(self.config), self.check)
    }

    fn watch(&self) -> Watch {
        Watch::new(format!(
            "{} {} {}",
            self.trace.name(),
            label(self.config),
            self.check
        ))
    }

    /// Fills a line; the measurement's text without host figures, to be compared.
    fn describe(&self, m: &Measurement, line: &mut Line) -> String {
        let row = Row::new(m, preset(self.config).ok().as_ref());
        line.operations = m.host.operations;
        line.instructions = m.host.instructions;
        line.cycles = row.cycles.total;
        line.seconds = m.host.seconds;
        line.host_bytes = m.host.peak_bytes;
        line.memory_hash = row.memory_hash.clone();
        if m.outcome != Outcome::Complete {
            let reason = m.reason.as_deref().unwrap_or("no reason");
            line.wrong.push(format!("{}: {reason}", m.outcome.name()));
        }
        if m.host.operations != self.trace.len() {
            line.wrong.push(format!(
                "{} of {} operations",
                m.host.operations,
                self.trace.len()
            ));
        }
        let json = serde_json::to_string_pretty(&row)
            .expect("maps have string keys and numbers are whole");
        format!("{json}\n{:?}", m.account)
    }

    fn keep(&self) -> (Line, Option<Kept>) {
        let (mut line, watch) = (self.line(), self.watch());
        let run = replay_keeping(self.trace, self.config, &self.options, &watch);
        watch.clear();
        match run {
            Ok((m, memory)) => {
                let text = self.describe(&m, &mut line);
                (line, Some(Kept { text, memory }))
            }
            Err(e) => {
                failed(&mut line, &e);
                (line, None)
            }
        }
    }

    fn plain(&self) -> (Line, Option<String>) {
        let (mut line, watch) = (self.line(), self.watch());
        let run = replay(self.trace, self.config, &self.options, &watch);
        watch.clear();
        match run {
            Ok(m) => {
                let text = self.describe(&m, &mut line);
                (line, Some(text))
            }
            Err(e) => {
                failed(&mut line, &e);
                (line, None)
            }
        }
    }
}

/// What a run left.
struct Kept {
    text: String,
    memory: KeptMemory,
}

fn failed(line: &mut Line, error: &MachineError) {
    line.wrong.push(error.to_string());
}

/// Which checks are made of each configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Checks {
    /// Native mode only.
    Native,
    /// Native and cycle mode, and that they leave the same memory.
    Modes,
    /// All: also that a second run of cycle mode gives the same result.
    All,
}

/// Whether the reference engine runs the trace, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engines {
    /// Only the fast one.
    Fast,
    /// Both, and they must agree.
    Both,
}

/// Replays one configuration and checks what must agree; `say` is given each line when it is complete.
pub(crate) fn configuration(
    trace: &Trace,
    config: &Config,
    checks: Checks,
    engines: Engines,
    say: &(dyn Fn(&Line) + Sync),
) -> Vec<Line> {
    let run = |check, mode, engine, scan| Run {
        trace,
        config,
        check,
        options: ReplayOptions {
            mode,
            engine,
            check: scan,
            ..ReplayOptions::default()
        },
    };
    let mut lines = Vec::new();
    let mut tell = |line: Line| {
        say(&line);
        lines.push(line);
    };
    let native = run("native", Mode::Native, Engine::Fast, Check::Doubling);
    if checks == Checks::Native {
        tell(native.plain().0);
        return lines;
    }
    let (line, native) = native.keep();
    tell(line);
    let (mut line, cycle) = run("cycle", Mode::Cycle, Engine::Fast, Check::Doubling).keep();
    if let (Some(native), Some(cycle)) = (&native, &cycle) {
        same_memory(&mut line, "native", &native.memory, &cycle.memory);
    }
    tell(line);
    drop(native);
    let Some(cycle) = cycle else {
        return lines;
    };
    if engines == Engines::Both {
        let one = run("reference", Mode::Cycle, Engine::Reference, Check::Off);
        let (mut line, reference) = one.keep();
        if let Some(reference) = &reference {
            same_text(&mut line, "the fast engine's", &cycle.text, &reference.text);
            same_memory(&mut line, "fast", &cycle.memory, &reference.memory);
        }
        tell(line);
    }
    let text = cycle.text;
    drop(cycle.memory);
    if checks == Checks::All {
        // Without scans and without keeping memory: neither may show in a result.
        let (mut line, again) = run("again", Mode::Cycle, Engine::Fast, Check::Off).plain();
        if let Some(again) = &again {
            same_text(&mut line, "the first run's", &text, again);
        }
        tell(line);
    }
    lines
}

fn same_text(line: &mut Line, whose: &str, first: &str, second: &str) {
    let mut pairs = first.lines().zip(second.lines());
    match pairs.find(|(a, b)| a != b) {
        Some((a, b)) => line
            .wrong
            .push(format!("result differs from {whose}: {a} / {b}")),
        None if first != second => line
            .wrong
            .push(format!("result differs in length from {whose}")),
        None => line.note = format!("result equals {whose}"),
    }
}

fn same_memory(line: &mut Line, first: &str, a: &KeptMemory, b: &KeptMemory) {
    let (named, all) = a.differences(b, WORDS_NAMED);
    if all > 0 {
        let named: Vec<String> = named.iter().map(ToString::to_string).collect();
        line.wrong.push(format!(
            "{all} words of guest memory differ from {first} (its word first): {}",
            named.join("; ")
        ));
    }
    if a.peak_digest() != b.peak_digest() {
        line.wrong
            .push(format!("guest memory at the peak differs from {first}"));
    }
    if line.wrong.is_empty() {
        let also = if line.note.is_empty() { "" } else { ", " };
        line.note = format!("{}{also}{} words as {first}", line.note, a.words());
    }
}
