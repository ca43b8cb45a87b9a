//! `lowmem capacity`: add processes of a described load until the machine stops, and say what ran out and who had it.
//!
//! The load is `trace generate shared-segment` with more processes than can be; each is complete before the next one starts, so the
//! operation at which the machine stops says how many there were. Kernel state is exact and nothing is timed: runs are native.
//!
//! Invariant: a configuration that reaches the limit is reported as "at least".

use crate::axes::{self, Unset};
use crate::cli::{AxisArgs, EngineArg};
use crate::failure::{Failure, INCOMPLETE};
use crate::generate_command::{pages, share};
use crate::session::{self, Options};
use crate::workload::Layout;
use crate::{output, workload};
use clap::Args;
use lowmem_report::config::{Split, bytes};
use lowmem_report::measurement::Owner;
use lowmem_report::table::{grouped, size, wrap};
use lowmem_report::{Measurement, Mode, Outcome};
use lowmem_trace::generate::Workload;
use lowmem_trace::generate::server::SharedSegment;
use lowmem_trace::{Assumptions, Call, Op, RetouchDepth, Trace, generate};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Schema of the JSON form.
const SCHEMA: &str = "lowmem.capacity/1";

/// `lowmem capacity`.
#[derive(Debug, Args)]
pub(crate) struct CapacityArgs {
    /// Size of the segment that all processes share
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = pages)]
    segment: u32,
    /// Share of the segment that each process touches
    #[arg(long, value_name = "SHARE", default_value = "1.0", value_parser = share)]
    touched: u32,
    /// Private memory of each process
    #[arg(long, value_name = "SIZE", default_value = "400K", value_parser = pages)]
    private: u32,
    /// Library areas of each process
    #[arg(long, value_name = "N", default_value_t = 20)]
    vmas: u32,
    /// Stop at this many processes
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u32,
    /// Configurations run at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// JSON, schema lowmem.capacity/1
    #[arg(long)]
    json: bool,
    /// Axes.
    #[command(flatten)]
    axes: AxisArgs,
}

/// One configuration's end.
struct Frontier<'a> {
    label: String,
    processes: u32,
    reached_limit: bool,
    measured: &'a Measurement,
}

/// Runs the subcommand.
pub(crate) fn run(args: &CapacityArgs) -> Result<ExitCode, Failure> {
    if args.jobs == 0 {
        return Err(Failure::Usage("--jobs 0: at least one".to_owned()));
    }
    let configs = axes::matrix(&args.axes, Unset::AllPairs, Vec::new())?;
    let load = SharedSegment {
        processes: args.limit,
        segment_pages: args.segment,
        touched: args.touched,
        private_pages: args.private,
        vmas: args.vmas,
        transactions: 0,
        ..SharedSegment::default()
    };
    if std::io::stderr().is_terminal() {
        eprintln!(
            "lowmem: making the load: about {} operations",
            grouped(load.operations())
        );
    }
    let trace = generate::generate(&load, args.axes.seed.unwrap_or(1))
        .map_err(|e| Failure::Usage(e.to_string()))?;
    // A split with a smaller user space packs the load for all.
    let small = configs
        .iter()
        .any(|c| c.split.user_end() < Split::G3G1.user_end());
    let layout = match small {
        true => Layout::Packed,
        false => Layout::Recorded,
    };
    let trace = workload::fit(trace, &configs, layout)?;
    let options = Options {
        mode: Mode::Native,
        engine: EngineArg::Fast,
        check: false,
        jobs: args.jobs,
        assumptions: Assumptions {
            retouch: RetouchDepth::NONE,
            ..Assumptions::default()
        },
    };
    let rows = session::run(&trace, &configs, &options)?;
    let frontiers: Vec<Frontier<'_>> = rows
        .rows
        .iter()
        .map(|(measured, _)| Frontier {
            label: measured.config.label(&configs),
            processes: completed(&trace, measured),
            reached_limit: measured.outcome == Outcome::Complete,
            measured,
        })
        .collect();
    if !frontiers.is_empty() {
        let text = match args.json {
            true => format!("{:#}\n", to_json(args, &frontiers)),
            false => to_text(args, &frontiers),
        };
        output::print(&text)?;
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
    let refused = frontiers
        .iter()
        .any(|f| f.measured.outcome == Outcome::Refused);
    Ok(match refused {
        true => ExitCode::from(INCOMPLETE),
        false => ExitCode::SUCCESS,
    })
}

/// Server processes that were complete when the run stopped: every fork but the last was followed by all its touches.
fn completed(trace: &Trace, measured: &Measurement) -> u32 {
    let forks = trace
        .ops()
        .take(measured.host.operations as usize)
        .filter(|op| matches!(op, Op::Call(call) if matches!(**call, Call::Fork { .. })))
        .count() as u32;
    match measured.outcome {
        Outcome::Complete => forks,
        _ => forks.saturating_sub(1),
    }
}

/// The owners with most low memory, largest first.
fn eaters(measured: &Measurement) -> Vec<(Owner, u64)> {
    let mut owners: Vec<(Owner, u64)> = Owner::ALL
        .iter()
        .map(|&owner| (owner, measured.lowmem.owner(owner)))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    owners.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    owners
}

/// The RAM of all configurations.
fn ram(frontiers: &[Frontier<'_>]) -> String {
    let mut sizes: Vec<u64> = frontiers
        .iter()
        .map(|f| f.measured.config.ram_bytes)
        .collect();
    sizes.dedup();
    let words: Vec<String> = sizes.into_iter().map(bytes).collect();
    words.join(", ")
}

fn to_text(args: &CapacityArgs, frontiers: &[Frontier<'_>]) -> String {
    let page = u64::from(lowmem_trace::PAGE_SIZE);
    let mut out = String::new();
    let load = format!(
        "Processes over a shared segment of {}, {} % of it touched by each, {} private, {} library areas each, {} RAM",
        size(u64::from(args.segment) * page),
        f64::from(args.touched) / 10.0,
        size(u64::from(args.private) * page),
        args.vmas,
        ram(frontiers),
    );
    wrap(&mut out, "", &load);
    out.push('\n');
    let wide = frontiers.iter().map(|f| f.label.len()).max().unwrap_or(0);
    out.push_str(&format!(
        "  {:<wide$}  {:>10}  {:<9}  {:>8} {:>8}  most low memory\n",
        "", "processes", "ended", "low", "of"
    ));
    for f in frontiers {
        let count = match f.reached_limit {
            true => format!(">= {}", grouped(f.processes.into())),
            false => grouped(f.processes.into()),
        };
        let m = f.measured;
        let eaters: Vec<String> = eaters(m)
            .iter()
            .take(4)
            .map(|(owner, bytes)| format!("{} {}", owner.name(), size(*bytes)))
            .collect();
        out.push_str(&format!(
            "  {:<wide$}  {count:>10}  {:<9}  {:>8} {:>8}  {}\n",
            f.label,
            m.outcome.name(),
            size(m.lowmem.used_bytes()),
            size(m.lowmem.total_bytes),
            eaters.join(", ")
        ));
    }
    out.push('\n');
    wrap(
        &mut out,
        "",
        "A process counts when it has touched all that it is to touch; the one in which memory ran out does not.",
    );
    for f in frontiers {
        if let Some(reason) = &f.measured.reason {
            wrap(&mut out, "", &format!("{}: {reason}", f.label));
        }
    }
    out
}

fn to_json(args: &CapacityArgs, frontiers: &[Frontier<'_>]) -> Value {
    let rows: Vec<Value> = frontiers
        .iter()
        .map(|f| {
            let m = f.measured;
            let owners: serde_json::Map<String, Value> = Owner::ALL
                .iter()
                .map(|&owner| (owner.name().to_owned(), json!(m.lowmem.owner(owner))))
                .collect();
            json!({
                "config": m.config,
                "processes": f.processes,
                "at_least": f.reached_limit,
                "outcome": m.outcome.name(),
                "reason": m.reason,
                "lowmem": {
                    "total_bytes": m.lowmem.total_bytes,
                    "used_bytes": m.lowmem.used_bytes(),
                    "by_owner": owners,
                },
            })
        })
        .collect();
    json!({
        "schema": SCHEMA,
        "tool": { "version": env!("CARGO_PKG_VERSION") },
        "load": {
            "segment_pages": args.segment,
            "touched_per_mille": args.touched,
            "private_pages": args.private,
            "vmas": args.vmas,
            "limit": args.limit,
        },
        "results": rows,
    })
}
