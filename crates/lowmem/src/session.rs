//! Running configurations, several at once, until all are done or the user interrupts.
//!
//! Invariant: the rows come out in the order of the configurations, whatever the number of jobs.

use crate::axes;
use crate::cli::EngineArg;
use crate::failure::Failure;
use crate::progress::{Board, Interrupt};
use emu_cpu::Engine;
use lowmem_cost::Preset;
use lowmem_machine::{Check, ReplayOptions};
use lowmem_report::{Config, Measurement, Mode, Outcome, Progress};
use lowmem_trace::{Assumptions, Trace};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// How to run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Cycle or native.
    pub(crate) mode: Mode,
    /// Interpreter.
    pub(crate) engine: EngineArg,
    /// Verify while running.
    pub(crate) check: bool,
    /// At once.
    pub(crate) jobs: usize,
    /// What the recording does not say.
    pub(crate) assumptions: Assumptions,
}

/// What came of a run.
pub(crate) type Run = (Measurement, Option<Preset>);

/// Rows that finished, in order.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The rows.
    pub(crate) rows: Vec<Run>,
    /// How many there should be.
    pub(crate) asked: usize,
    /// Why the first of the others failed, unless the user interrupted.
    pub(crate) failure: Option<Failure>,
}

/// Runs every configuration on `trace`.
pub(crate) fn run(trace: &Trace, configs: &[Config], options: &Options) -> Result<Rows, Failure> {
    // Every preset is opened before the first run starts: a bad key costs no time.
    let presets: Vec<Option<Preset>> =
        configs.iter().map(axes::preset).collect::<Result<_, _>>()?;
    if options.mode == Mode::Cycle && presets.iter().any(Option::is_none) {
        return Err(Failure::NotYet("cpu none in cycle mode".to_owned()));
    }
    let interrupt = Interrupt::listen();
    let board = Board::new();
    let one = |config: &Config, preset: &Option<Preset>| -> Result<Option<Run>, Failure> {
        if interrupt.requested() {
            return Ok(None);
        }
        let watcher = board.row(&config.label(configs), &interrupt);
        let measured = replay(trace, config, options, &watcher);
        watcher.finish();
        match measured {
            Ok(m) => Ok(Some((m, preset.clone()))),
            Err(_) if interrupt.requested() => Ok(None),
            Err(e) => Err(e),
        }
    };
    let mut out = Rows {
        rows: Vec::new(),
        asked: configs.len(),
        failure: None,
    };
    each(
        options.jobs,
        configs.len(),
        |i| one(&configs[i], &presets[i]),
        |row| match row {
            Ok(run) => out.rows.extend(run),
            Err(e) => {
                out.failure.get_or_insert(e);
            }
        },
    )?;
    Ok(out)
}

/// Calls `one` with 0 to `count` - 1, `jobs` at once, and hands what it returns to `ended` in this order: each as soon as those
/// before it are there.
pub(crate) fn each<T: Send>(
    jobs: usize,
    count: usize,
    one: impl Fn(usize) -> T + Sync,
    ended: impl FnMut(T) + Send,
) -> Result<(), Failure> {
    // More threads than configurations would only wait for each other.
    let jobs = jobs.min(count);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(jobs)
        .build()
        .map_err(|e| Failure::Machine(format!("cannot start {jobs} jobs: {e}")))?;
    let next = AtomicUsize::new(0);
    let queue = Mutex::new((0, BTreeMap::new(), ended));
    pool.broadcast(|_| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            let row = one(i);
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let (due, waiting, ended) = &mut *queue;
            waiting.insert(i, row);
            while let Some(row) = waiting.remove(due) {
                ended(row);
                *due += 1;
            }
        }
    });
    Ok(())
}

fn replay(
    trace: &Trace,
    config: &Config,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Measurement, Failure> {
    let options = ReplayOptions {
        mode: options.mode,
        engine: match options.engine {
            EngineArg::Fast => Engine::Fast,
            EngineArg::Reference => Engine::Reference,
        },
        assumptions: options.assumptions,
        check: match options.check {
            true => Check::Doubling,
            false => Check::Off,
        },
    };
    let fail = |message: String| Failure::Machine(format!("{}: {message}", config.label([])));
    let measured = lowmem_machine::replay(trace, config, &options, progress)
        .map_err(|e| fail(e.to_string()))?;
    // A run that ends early must never pass for a result.
    let (done, all) = (measured.host.operations, trace.len());
    match measured.outcome {
        Outcome::Complete if done < all => Err(fail(format!(
            "the machine calls the run complete after {done} of {all} operations"
        ))),
        _ => Ok(measured),
    }
}
