//! `lowmem compare` and `lowmem replay`: run configurations, print their results.
//!
//! Invariant: finished rows are printed whatever happens to the others.

use crate::axes::{self, Unset};
use crate::cli::{AssumptionArgs, CompareArgs, ModeArg, OutputArgs, ReplayArgs};
use crate::echo::{self, Echo};
use crate::failure::{Failure, INCOMPLETE};
use crate::session::{self, Options, Rows};
use crate::{output, workload};
use lowmem_report::result::{Document, TraceSummary, UserWork};
use lowmem_report::text::{self, Detail};
use lowmem_report::{Mode, Outcome, csv};
use lowmem_trace::{Assumptions, RetouchDepth, Trace, TraceKind};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::process::ExitCode;

/// Runs the product of the axes.
pub(crate) fn compare(args: &CompareArgs) -> Result<ExitCode, Failure> {
    go(args, Unset::AllPairs, Detail::Compare)
}

/// Runs one configuration.
pub(crate) fn replay(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    if args.interval.is_some() {
        return Err(Failure::NotYet("--interval".to_owned()));
    }
    go(&args.compare, Unset::Default, Detail::Replay)
}

fn go(args: &CompareArgs, unset: Unset, detail: Detail) -> Result<ExitCode, Failure> {
    let mode = mode(args)?;
    if args.run.jobs == 0 {
        return Err(Failure::Usage("--jobs 0: at least one".to_owned()));
    }
    let echo = match &args.axes.config {
        Some(path) => echo::read(path)?,
        None => Echo::default(),
    };
    let configs = axes::matrix(&args.axes, unset, echo.configs)?;
    if detail == Detail::Replay && configs.len() != 1 {
        return Err(Failure::Usage(format!(
            "replay runs one configuration, these are {}; use compare",
            configs.len()
        )));
    }
    let trace = workload::open(args.trace.as_deref())?;
    let trace = workload::fit(trace, &configs, args.run.layout)?;
    let options = Options {
        mode,
        engine: args.run.engine,
        check: args.run.check,
        jobs: args.run.jobs,
        assumptions: assumptions(&args.assumptions, echo.assumptions, &trace)?,
    };
    let rows = session::run(&trace, &configs, &options)?;
    if args.run.host_stats {
        host_stats(&rows);
    }
    let summary = summary(&trace, &options.assumptions);
    let document = Document::new(env!("CARGO_PKG_VERSION"), summary, mode, &rows.rows);
    if !rows.rows.is_empty() {
        output::print(&print(&document, detail, &args.output))?;
    }
    for (row, label) in document.results.iter().zip(text::labels(&document.results)) {
        if !matches!(row.outcome, Outcome::Complete | Outcome::Refused) {
            let reason = row.reason.as_deref().unwrap_or("no reason was given");
            eprintln!("lowmem: {label}: {}: {reason}", row.outcome.name());
        }
    }
    if let Some(failure) = rows.failure {
        return Err(failure);
    }
    if rows.rows.len() < rows.asked {
        return Err(Failure::Interrupted {
            done: rows.rows.len(),
            all: rows.asked,
        });
    }
    Ok(
        match (document.all_complete(), document.results.as_slice()) {
            // A product may hold combinations that make no sense; a single row that is refused is no result.
            (true, [only]) if only.outcome == Outcome::Refused => ExitCode::from(INCOMPLETE),
            (true, _) => ExitCode::SUCCESS,
            (false, _) => ExitCode::from(INCOMPLETE),
        },
    )
}

fn mode(args: &CompareArgs) -> Result<Mode, Failure> {
    let run = &args.run;
    if run.layouts.is_some() {
        return Err(Failure::NotYet("--layouts".to_owned()));
    }
    match run.mode {
        ModeArg::Cycle => Ok(Mode::Cycle),
        ModeArg::Native => Ok(Mode::Native),
        ModeArg::Sampled => Err(Failure::NotYet("--mode sampled".to_owned())),
    }
}

fn assumptions(
    args: &AssumptionArgs,
    echoed: Option<Assumptions>,
    trace: &Trace,
) -> Result<Assumptions, Failure> {
    let mut out = echoed.unwrap_or_else(|| Assumptions {
        retouch: match trace.header().kind {
            TraceKind::FirstTouch => RetouchDepth::default(),
            TraceKind::EveryReference | TraceKind::Synthetic => RetouchDepth::NONE,
        },
        ..Assumptions::default()
    });
    if let Some(text) = &args.retouch {
        let parts = text.split_once(',').and_then(|(data, code)| {
            let parse = |s: &str| s.trim().parse::<u32>().ok();
            Some((parse(data)?, parse(code)?))
        });
        let (data, code) = parts
            .filter(|(d, c)| *d <= MAX_RETOUCH && *c <= MAX_RETOUCH)
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "--retouch {text:?}: not two numbers to {MAX_RETOUCH} such as 8,4"
                ))
            })?;
        out.retouch = RetouchDepth { data, code };
    }
    if let Some(n) = args.user_work {
        out.user_work = n;
    }
    if let Some(word) = &args.fault_around {
        out.fault_around = by_name("--fault-around", word)?;
    }
    if let Some(word) = &args.vfork {
        out.vfork = by_name("--vfork", word)?;
    }
    if let Some(word) = &args.copied_bytes {
        out.copied_bytes = by_name("--copied-bytes", word)?;
    }
    Ok(out)
}

/// A value of a closed set by its serde name; the error lists the names.
fn by_name<T: DeserializeOwned>(option: &str, word: &str) -> Result<T, Failure> {
    serde_json::from_value(Value::String(word.to_owned()))
        .map_err(|e| Failure::Usage(format!("{option}: {e}")))
}

/// Most re-touches per kind after a return: the model's list holds no more pages.
const MAX_RETOUCH: u32 = 512;

fn summary(trace: &Trace, assumptions: &Assumptions) -> TraceSummary {
    let header = trace.header();
    let assumed = match serde_json::to_value(assumptions) {
        Ok(Value::Object(map)) => map,
        _ => unreachable!("assumptions are a struct with string keys"),
    };
    TraceSummary {
        name: trace.name().to_owned(),
        sha256: trace.sha256_hex(),
        operations: trace.summary().operations,
        events: trace.summary().events,
        processes: match header.totals.get("processes") {
            0 => header.tasks.len() as u64,
            n => n,
        },
        user_work: match (header.kind, assumptions.user_work) {
            (TraceKind::EveryReference, _) => UserWork::InTrace,
            (_, 0) => UserWork::None,
            _ => UserWork::Assumed,
        },
        assumptions: assumed,
    }
}

fn print(document: &Document, detail: Detail, args: &OutputArgs) -> String {
    match (args.json, args.csv) {
        (true, _) => document.json(),
        (_, true) => csv::render(document),
        _ => text::render(document, detail),
    }
}

fn host_stats(rows: &Rows) {
    for (m, _) in &rows.rows {
        let h = m.host;
        let per_second = |n: u64| n as f64 / h.seconds.max(1e-9) / 1e6;
        eprintln!(
            "lowmem: {}: {:.2} s, {:.2} M operations/s, {:.1} M instructions/s, at most {} MiB of host memory",
            m.config.label(rows.rows.iter().map(|(m, _)| &m.config)),
            h.seconds,
            per_second(h.operations),
            per_second(h.instructions),
            h.peak_bytes >> 20
        );
    }
}
