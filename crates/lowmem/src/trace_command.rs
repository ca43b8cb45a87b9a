//! `lowmem trace`: import, describe, print and check traces.
//!
//! Invariant: everything about the format is the trace crate's; this prints.

use crate::cli::{ImportArgs, InfoArgs, TraceArgs, TraceCommand, ViewArgs};
use crate::failure::Failure;
use crate::output::Reader;
use crate::progress::{Board, Interrupt};
use crate::{generate_command, output, workload};
use lowmem_report::Progress;
use lowmem_report::table::grouped;
use lowmem_trace::Info;
use lowmem_trace::import::ImportOptions;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Schema of `trace info --json`.
const SCHEMA: &str = "lowmem.trace/1";

/// Bytes of a view that are written at once.
const VIEW_BYTES: usize = 1 << 16;

/// Runs the subcommand.
pub(crate) fn run(args: &TraceArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        TraceCommand::Import(args) => import(args)?,
        TraceCommand::Info(args) => info(args)?,
        TraceCommand::View(args) => view(args)?,
        TraceCommand::Check(args) => {
            let trace = workload::open(args.trace.as_deref())?;
            let found = trace.check(|_| {})?;
            output::print(&format!(
                "{}: {} operations, every byte and every operation checked\n",
                trace.name(),
                grouped(found.operations)
            ))?;
        }
        TraceCommand::Generate(args) => generate_command::run(args)?,
        TraceCommand::Upgrade(_) => return Err(Failure::NotYet("trace upgrade".to_owned())),
    }
    Ok(ExitCode::SUCCESS)
}

fn import(args: &ImportArgs) -> Result<(), Failure> {
    output::refuse_special(&args.output)?;
    let interrupt = Interrupt::listen();
    let watcher = Board::new().row("import", &interrupt);
    let options = ImportOptions {
        name: args.name.clone(),
    };
    let trace = lowmem_trace::import::import(&args.files, &options, |done, total| {
        watcher.at(done, total, 0);
    });
    watcher.finish();
    let trace = trace?;
    trace.save(&args.output)?;
    let s = trace.summary();
    output::print(&format!(
        "{}: {} operations, {} switches ({} recorded), written to {}\n",
        trace.name(),
        grouped(s.operations),
        grouped(s.switches),
        grouped(trace.info().recorded_switches),
        args.output.display()
    ))?;
    Ok(())
}

fn info(args: &InfoArgs) -> Result<(), Failure> {
    let info = workload::open(args.trace.as_deref())?.info();
    let text = match args.json {
        true => {
            let mut value = serde_json::to_value(&info).expect("info has string keys");
            if let Value::Object(map) = &mut value {
                map.insert("schema".to_owned(), json!(SCHEMA));
            }
            format!("{value:#}\n")
        }
        false => describe(&info),
    };
    output::print(&text)?;
    Ok(())
}

fn describe(info: &Info) -> String {
    let (h, s) = (&info.header, &info.summary);
    let mut out = format!(
        "{}: {:?}, format {}, {} bytes\nsha256 {}\n",
        h.name,
        h.kind,
        info.version,
        grouped(info.bytes),
        info.sha256
    );
    for input in &h.inputs {
        out.push_str(&format!("from {} (sha256 {})\n", input.name, input.sha256));
    }
    for note in &h.notes {
        out.push_str(&format!("note: {note}\n"));
    }
    out.push_str("\nrecorded\n");
    let mut line = |name: &str, n: u64| {
        out.push_str(&format!("  {name:<28}{:>14}\n", grouped(n)));
    };
    for (name, n) in &h.totals.counts {
        line(name, *n);
    }
    for (name, n) in &h.totals.max_sharers {
        line(&format!("max_sharers {name}"), *n);
    }
    out.push_str("\nas scheduled\n");
    let touched = h.totals.get("touched_pages_mm");
    for (name, n) in [
        ("operations", s.operations),
        ("events", s.events),
        ("touches", s.touches),
        ("references", s.references),
        ("calls", s.calls),
        ("switches", s.switches),
        ("forced switches", s.forced_switches),
        ("recorded switches", info.recorded_switches),
        ("peak operation", s.peak_op),
        ("ptes at the peak", s.peak_ptes),
        ("address spaces at most", s.max_spaces),
        ("touched pages, at least", touched),
        ("touched pages, at most", touched + s.around_pages),
    ] {
        out.push_str(&format!("  {name:<28}{:>14}\n", grouped(n)));
    }
    out
}

fn view(args: &ViewArgs) -> Result<(), Failure> {
    let trace = workload::open(args.trace.as_deref())?;
    if args.from > trace.len() {
        return Err(Failure::Usage(format!(
            "--from {}: {} has {} operations",
            args.from,
            trace.name(),
            trace.len()
        )));
    }
    let mut ops = trace.ops();
    ops.seek(args.from);
    let end = trace.len().min(args.from.saturating_add(args.count));
    let mut text = String::new();
    for index in args.from..end {
        let Some(op) = ops.next_op() else { break };
        match args.json {
            true => text.push_str(&format!("{}\n", json!({ "index": index, "op": op }))),
            false => text.push_str(&format!("{index:>10}  {op}\n")),
        }
        // Long views are written as they grow, and end when nobody reads on.
        if text.len() >= VIEW_BYTES {
            if output::print(&text)? == Reader::Gone {
                return Ok(());
            }
            text.clear();
        }
    }
    output::print(&text)?;
    Ok(())
}
