//! `lowmem measure unmap`: the curve of each reverse map, cycles against sharers.
//!
//! Invariant: the same command prints the same bytes.

use crate::axes::{self, Unset};
use crate::cli::UnmapArgs;
use crate::failure::Failure;
use crate::measure;
use lowmem_machine::measure::unmap::{self, COUNTS, Case, Removal, UnmapPoint};
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
    let mut rows: Vec<Curves> = Vec::new();
    for config in &configs {
        let failed = |e| Failure::Machine(format!("{}: {e}", config.label(&configs)));
        rows.push(Curves {
            config: config.clone(),
            label: config.label(&configs),
            points: unmap::measure(config, &counts).map_err(failed)?,
            removals: unmap::removals(config, &counts).map_err(failed)?,
        });
    }
    measure::print(&args.output, || document(&rows), || tables(&rows))?;
    Ok(ExitCode::SUCCESS)
}

/// The curves of one configuration.
struct Curves {
    config: Config,
    label: String,
    points: Vec<UnmapPoint>,
    removals: Vec<Removal>,
}

fn end(point: &UnmapPoint) -> &'static str {
    match point.end {
        UnmapEnd::Unmapped => "unmapped",
        UnmapEnd::Young => "young",
        UnmapEnd::Locked => "locked",
        UnmapEnd::Pinned => "pinned",
    }
}

fn tables(rows: &[Curves]) -> String {
    let mut out = String::from(
        "A page is unmapped as reclaim does: page_referenced, a slot of swap, try_to_unmap. Vmas and ptes are those of both searches, in all\nrounds; cycles are those of each.\n\n",
    );
    for case in Case::ALL {
        let mut table = Table::new(
            case.sentence().to_owned(),
            &[
                "n",
                "kernel",
                "rounds",
                "vmas",
                "ptes",
                "cleared",
                "referenced",
                "swap",
                "unmap",
                "cycles",
                "end",
            ],
        );
        let counts = rows.first().map_or(&[][..], |r| &r.points);
        for (i, first) in counts.iter().enumerate() {
            if first.case != case {
                continue;
            }
            for row in rows {
                let p = &row.points[i];
                table.row(vec![
                    grouped(u64::from(p.n)),
                    row.label.clone(),
                    grouped(u64::from(p.rounds)),
                    grouped(u64::from(p.vmas_visited)),
                    grouped(u64::from(p.ptes_examined)),
                    grouped(u64::from(p.ptes_cleared)),
                    grouped(p.cycles[0]),
                    grouped(p.cycles[1]),
                    grouped(p.cycles[2]),
                    grouped(p.cycles.iter().sum()),
                    end(p).to_owned(),
                ]);
            }
        }
        out.push_str(&table.render());
        out.push('\n');
    }
    let mut table = Table::new(
        "The first of n processes that use a page of a file unmaps it: cycles of munmap",
        &["n", "kernel", "cycles"],
    );
    let counts = rows.first().map_or(0, |r| r.removals.len());
    for i in 0..counts {
        for row in rows {
            let r = row.removals[i];
            table.row(vec![
                grouped(r.n.into()),
                row.label.clone(),
                grouped(r.cycles),
            ]);
        }
    }
    out.push_str(&table.render());
    out
}

fn document(rows: &[Curves]) -> Value {
    let results: Vec<Value> = rows
        .iter()
        .map(|row| {
            let points: Vec<Value> = row.points.iter().map(point).collect();
            let removals: Vec<Value> = row
                .removals
                .iter()
                .map(|r| json!({"n": r.n, "cycles": r.cycles}))
                .collect();
            json!({"config": row.config, "points": points, "removals": removals})
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
