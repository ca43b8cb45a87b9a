//! `lowmem measure evictions`: which pages reclaim takes, by reverse map, and why two maps differ.
//!
//! Invariant: the same command prints the same bytes.

use crate::axes::{self, Unset};
use crate::cli::{AxisArgs, EvictionArgs};
use crate::failure::{Failure, INCOMPLETE};
use crate::{measure, workload};
use lowmem_machine::decisions::{Decision, Reclaimer};
use lowmem_machine::measure::evictions::{self, Cause, Equal, EvictionRow, First, Placed};
use lowmem_report::axis::Status;
use lowmem_report::config::{Reclaim, Rmap};
use lowmem_report::table::{Table, grouped};
use lowmem_report::{Config, Outcome};
use lowmem_trace::Trace;
use serde_json::{Value, json};
use std::process::ExitCode;

/// RAM that is too small for the default trace.
const RAM_BYTES: u64 = 24 << 20;

/// Runs the subcommand.
pub(crate) fn run(args: &EvictionArgs) -> Result<ExitCode, Failure> {
    let trace = workload::open_or_storm(args.trace.as_deref())?;
    let configs = small_matrix(&args.axes, RAM_BYTES)?;
    let trace = workload::fit(trace, &configs, workload::Layout::Recorded)?;
    let rows = evictions::measure(&trace, &configs).map_err(|e| Failure::Machine(e.to_string()))?;
    measure::print(
        &args.output,
        || document(&trace, &rows),
        || tables(&trace, &rows),
    )?;
    Ok(match rows.iter().all(|r| r.outcome == Outcome::Complete) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(INCOMPLETE),
    })
}

/// The matrix of measurements under pressure: every reverse map where none is named, RAM of `ram_bytes` where none is given.
pub(crate) fn small_matrix(args: &AxisArgs, ram_bytes: u64) -> Result<Vec<Config>, Failure> {
    let mut configs = axes::matrix(args, Unset::Default, Vec::new())?;
    if args.ram.is_empty() {
        for config in &mut configs {
            config.ram_bytes = ram_bytes;
        }
    }
    if args.rmap.is_empty() && args.kernel.is_empty() {
        configs = configs.iter().flat_map(every_map).collect();
    }
    for config in &mut configs {
        config.overrides = axes::overrides(config);
        config.check()?;
    }
    Ok(configs)
}

fn every_map(config: &Config) -> Vec<Config> {
    Rmap::VALUES
        .iter()
        .filter(|(.., status)| *status == Status::Built)
        .map(|&(_, rmap, _)| Config {
            rmap,
            // 2.4 scans page tables and has a reclaim of its own for it.
            reclaim: match rmap {
                Rmap::SwapOut => Reclaim::V2_4,
                _ => config.reclaim,
            },
            ..config.clone()
        })
        .collect()
}

fn label(row: &EvictionRow, rows: &[EvictionRow]) -> String {
    row.config.label(rows.iter().map(|r| &r.config))
}

fn what(decision: Decision) -> &'static str {
    match decision {
        Decision::Stays => "stays_active",
        Decision::Goes => "deactivated",
        Decision::Freed => "freed",
        Decision::Activated => "activated",
        Decision::Kept => "kept",
        Decision::Mapped => "mapped",
    }
}

fn who(reclaimer: Reclaimer) -> &'static str {
    match reclaimer {
        Reclaimer::Direct => "direct",
        Reclaimer::Kswapd => "kswapd",
    }
}

fn tables(trace: &Trace, rows: &[EvictionRow]) -> String {
    let mut table = Table::new(
        format!(
            "{}: decisions of reclaim, compared one by one with those of the first row",
            trace.name()
        ),
        &[
            "kernel",
            "decisions",
            "evictions",
            "equal",
            "evictions",
            "cause",
            "apart: equal",
            "of",
        ],
    );
    for row in rows {
        let (equal, of) = match row.leveled {
            Some(l) => (
                grouped(l.equal.decisions as u64),
                grouped(l.decisions as u64),
            ),
            None => ("-".to_owned(), "-".to_owned()),
        };
        table.row(vec![
            label(row, rows),
            grouped(row.decisions as u64),
            grouped(row.evictions as u64),
            grouped(row.equal.decisions as u64),
            grouped(row.equal.evictions as u64),
            row.cause.name().to_owned(),
            equal,
            of,
        ]);
    }
    table.note(
        "A decision: a page of the active list stays or goes, a page of the inactive list is freed, activated or kept. Apart: both \
         kernels once more, equal free pages after boot and all kernel objects outside the zones, so that a map's own memory \
         moves no watermark. Cause: memory, if then all decisions are equal; answer, if not; reclaim, if the versions of reclaim differ.",
    );
    for row in rows {
        if let Some(first) = &row.first {
            table.note(difference(row, rows, first));
        }
    }
    table.render()
}

fn words(p: &Option<Placed>) -> String {
    match p {
        None => "nothing more".to_owned(),
        Some(p) => {
            format!(
                "{} from operation {} on, page {} ({}): {}",
                who(p.run.who),
                grouped(p.run.operation),
                grouped(u64::from(p.page)),
                p.born.map_or("of boot".to_owned(), |o| format!(
                    "of operation {}",
                    grouped(o)
                )),
                what(p.what).replace('_', " ")
            ) + &p
                .gave_up
                .map_or(String::new(), |g| format!(" ({})", g.name()))
        }
    }
}

fn difference(row: &EvictionRow, rows: &[EvictionRow], first: &First) -> String {
    let owners: Vec<String> = first
        .owners
        .iter()
        .map(|(owner, a, b)| format!("{} {:+}", owner.name(), *b as i64 - *a as i64))
        .collect();
    let memory = match owners.is_empty() {
        true => String::new(),
        false => format!(
            "; low memory against the first row, bytes: {}",
            owners.join(", ")
        ),
    };
    let apart = match row.leveled.and_then(|l| Some((l.first?, l.equal))) {
        None => String::new(),
        Some(((reference, own), equal)) => format!(
            " Apart, after {} decisions: {}; the first row: {}.",
            grouped(equal.decisions as u64),
            words(&own),
            words(&reference)
        ),
    };
    format!(
        "{} after {} decisions: {}; the first row: {}{memory}.{apart}",
        label(row, rows),
        grouped(row.equal.decisions as u64),
        words(&first.own),
        words(&first.reference),
    )
}

fn document(trace: &Trace, rows: &[EvictionRow]) -> Value {
    let results: Vec<Value> = rows.iter().map(result).collect();
    json!({
        "schema": crate::measure::SCHEMA,
        "tool": {"version": env!("CARGO_PKG_VERSION")},
        "measure": "evictions",
        "trace": {"name": trace.name(), "sha256": trace.sha256_hex()},
        "results": results,
    })
}

fn equal(e: &Equal) -> Value {
    json!({"decisions": e.decisions, "evictions": e.evictions, "all": e.all})
}

fn placed(p: &Option<Placed>) -> Value {
    match p {
        None => Value::Null,
        Some(p) => json!({
            "decision": what(p.what),
            "gave_up": p.gave_up.map(lowmem_machine::decisions::Probe::name),
            "page": p.page,
            "page_of_operation": p.born,
            "reclaimer": who(p.run.who),
            "reclaim_of_operation": p.run.operation,
            "free_pages": p.run.zones.iter().map(|z| z.free).collect::<Vec<_>>(),
        }),
    }
}

fn result(row: &EvictionRow) -> Value {
    let first = row.first.as_ref().map(|f| {
        let owners: serde_json::Map<String, Value> = f
            .owners
            .iter()
            .map(|(o, a, b)| (o.name().to_owned(), json!({"first_row": a, "own": b})))
            .collect();
        json!({"first_row": placed(&f.reference), "own": placed(&f.own), "lowmem_bytes": owners})
    });
    let apart = row.leveled.as_ref().map(|l| {
        json!({
            "decisions": l.decisions,
            "evictions": l.evictions,
            "equal": equal(&l.equal),
            "object_pages": l.objects_pages,
            "first_difference": l.first.map(|(reference, own)| {
                json!({"first_row": placed(&reference), "own": placed(&own)})
            }),
        })
    });
    json!({
        "config": row.config,
        "outcome": row.outcome.name(),
        "memory_hash": row.memory_hash.map(|h| format!("{h:032x}")),
        "decisions": row.decisions,
        "evictions": row.evictions,
        "swap_writes": row.swap_writes,
        "equal": equal(&row.equal),
        "first_difference": first,
        "apart": apart,
        "cause": match row.cause {
            Cause::Same => Value::Null,
            cause => json!(cause.name()),
        },
    })
}
