//! `lowmem measure unmap`: the curve of each reverse map, cycles against sharers.
//!
//! Invariant: the same command prints the same bytes.

use crate::axes::{self, Unset};
use crate::cli::UnmapArgs;
use crate::failure::Failure;
use crate::output;
use lowmem_machine::measure::unmap::{self, COUNTS, Case, UnmapPoint};
use lowmem_report::table::{Table, grouped};
use lowmem_report::{Config, UnmapEnd, UnmapPart};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Most sharers: a task of the machine each.
const MOST: u32 = 5000;

/// Runs the subcommand.
pub(crate) fn run(args: &UnmapArgs) -> Result<ExitCode, Failure> {
    let counts = if args.sharers.is_empty() {
        COUNTS.to_vec()
    } else {
        args.sharers.clone()
    };
    if let Some(n) = counts.iter().find(|n| !(1..=MOST).contains(*n)) {
        return Err(Failure::Usage(format!(
            "--sharers {n}: must be 1 to {MOST}"
        )));
    }
    let configs = axes::matrix(&args.axes, Unset::AllPairs, Vec::new())?;
    let mut rows = Vec::new();
    for config in configs {
        let points = unmap::measure(&config, &counts)
            .map_err(|e| Failure::Machine(format!("{}: {e}", label(&config))))?;
        rows.push((config, points));
    }
    let text = if args.json {
        format!("{:#}\n", document(&rows))
    } else {
        tables(&rows)
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn label(config: &Config) -> String {
    config.label(&Config::default())
}

fn end(point: &UnmapPoint) -> &'static str {
    match point.end {
        UnmapEnd::Unmapped => "unmapped",
        UnmapEnd::Young => "young",
        UnmapEnd::Locked => "locked",
        UnmapEnd::Pinned => "pinned",
    }
}

fn tables(rows: &[(Config, Vec<UnmapPoint>)]) -> String {
    let mut out = String::new();
    for case in Case::ALL {
        let mut table = Table::new(
            case.sentence().to_owned(),
            &[
                "n", "kernel", "rounds", "vmas", "ptes", "cleared", "cycles", "end",
            ],
        );
        let counts = rows.first().map_or(&[][..], |r| &r.1);
        for (i, first) in counts.iter().enumerate() {
            if first.case != case {
                continue;
            }
            for (config, points) in rows {
                let p = &points[i];
                table.row(vec![
                    grouped(u64::from(p.n)),
                    label(config),
                    grouped(u64::from(p.rounds)),
                    grouped(u64::from(p.vmas_visited)),
                    grouped(u64::from(p.ptes_examined)),
                    grouped(u64::from(p.ptes_cleared)),
                    grouped(p.cycles.iter().sum()),
                    end(p).to_owned(),
                ]);
            }
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&table.render());
    }
    out
}

fn document(rows: &[(Config, Vec<UnmapPoint>)]) -> Value {
    let results: Vec<Value> = rows
        .iter()
        .map(|(config, points)| {
            let points: Vec<Value> = points.iter().map(point).collect();
            json!({"config": config, "points": points})
        })
        .collect();
    json!({
        "schema": crate::measure::SCHEMA,
        "tool": {"version": env!("CARGO_PKG_VERSION")},
        "measure": "unmap",
        "results": results,
    })
}

fn point(p: &UnmapPoint) -> Value {
    let cycles: serde_json::Map<String, Value> = UnmapPart::ALL
        .into_iter()
        .map(|part| (part.name().to_owned(), json!(p.cycles[part as usize])))
        .collect();
    json!({
        "case": p.case.name(),
        "n": p.n,
        "end": end(p),
        "rounds": p.rounds,
        "vmas_visited": p.vmas_visited,
        "ptes_examined": p.ptes_examined,
        "ptes_cleared": p.ptes_cleared,
        "cycles": cycles,
    })
}
