//! `lowmem measure mremap` and `lowmem measure nonlinear`: claims about single calls, under pressure.
//!
//! Invariant: the same command prints the same bytes.

use crate::cli::{AxisArgs, PlainMeasureArgs};
use crate::failure::Failure;
use crate::measure::print;
use crate::measure_evictions::small_matrix;
use lowmem_machine::MachineError;
use lowmem_machine::measure::{MOST_RAM, mremap, nonlinear};
use lowmem_report::Config;
use lowmem_report::config::{Nonlinear, Rmap, bytes};
use lowmem_report::table::{Table, grouped};
use serde_json::{Value, json};
use std::process::ExitCode;

/// `lowmem measure mremap`.
pub(crate) fn run_mremap(args: &PlainMeasureArgs) -> Result<ExitCode, Failure> {
    let configs = outgrown(small_matrix(&args.axes, mremap::RAM_BYTES)?)?;
    let rows = each(&configs, mremap::measure)?;
    let of = json!({"pages": mremap::PAGES, "sharers": mremap::SHARERS});
    let one = |r: &mremap::MoveRow| {
        json!({
            "case": r.case.name(),
            "resident": r.resident,
            "mremap": {"copies": r.mremap_copies, "cycles": r.mremap_cycles},
            "swapoff": {"copies": r.swapoff_copies},
            "frames": r.frames,
        })
    };
    print(
        &args.output,
        || document("mremap", &of, &rows, one),
        || mremap_table(&rows),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Configurations whose RAM one process can outgrow.
fn outgrown(configs: Vec<Config>) -> Result<Vec<Config>, Failure> {
    match configs.iter().find(|c| c.ram_bytes > MOST_RAM) {
        None => Ok(configs),
        Some(c) => Err(Failure::Usage(format!(
            "--ram {}: at most {}, because one process must want more than there is",
            bytes(c.ram_bytes),
            bytes(MOST_RAM)
        ))),
    }
}

/// `lowmem measure nonlinear`.
pub(crate) fn run_nonlinear(args: &PlainMeasureArgs) -> Result<ExitCode, Failure> {
    let mut configs = outgrown(small_matrix(&args.axes, nonlinear::RAM_BYTES)?)?;
    if args.axes.nonlinear.is_empty() && args.axes.kernel.is_empty() {
        configs = configs
            .into_iter()
            .flat_map(|c| sweeps(&args.axes, c))
            .collect();
    }
    let rows = each(&configs, nonlinear::measure)?;
    let of = json!({
        "file_pages": nonlinear::FILE_PAGES,
        "chunk_pages": nonlinear::CHUNK_PAGES,
        "processes": nonlinear::PROCESSES,
    });
    let one = |r: &nonlinear::WindowRow| {
        json!({
                "way": r.way.name(),
                "setup_cycles": r.setup_cycles,
                "vma_bytes": r.vma_bytes,
                "rmap_bytes": r.rmap_bytes,
                "reclaim_cycles": r.reclaim_cycles,
                "unmap_cycles": r.unmap_cycles,
                "vmas_visited": r.vmas_visited,
                "ptes_examined": r.ptes_examined,
                "ptes_cleared": r.ptes_cleared,
                "pages_unmapped": r.pages_unmapped,
                "read_again": r.read_again,
                "again_cycles": r.again_cycles,
        })
    };
    print(
        &args.output,
        || document("nonlinear", &of, &rows, one),
        || nonlinear_table(&rows),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Both sweeps of a map that sweeps. Only anon_vma is asked for both where no map is named: the sweep is the same code in all.
fn sweeps(args: &AxisArgs, config: Config) -> Vec<Config> {
    let both = match args.rmap.is_empty() {
        true => config.rmap == Rmap::AnonVma,
        false => true,
    };
    let one = |nonlinear| {
        let mut c = Config {
            nonlinear,
            ..config.clone()
        };
        c.overrides = crate::axes::overrides(&c);
        c
    };
    match both {
        true => vec![one(Nonlinear::Clusters), one(Nonlinear::Whole)],
        false => vec![config],
    }
}

fn each<R>(
    configs: &[Config],
    measure: impl Fn(&Config) -> Result<Vec<R>, MachineError>,
) -> Result<Vec<(Config, Vec<R>)>, Failure> {
    configs
        .iter()
        .map(|config| {
            let rows = measure(config)
                .map_err(|e| Failure::Machine(format!("{}: {e}", config.label(configs))))?;
            Ok((config.clone(), rows))
        })
        .collect()
}

/// The kernel of a row, told from that of the first.
fn label<R>(config: &Config, rows: &[(Config, Vec<R>)]) -> String {
    config.label(rows.iter().map(|r| &r.0))
}

fn document<R>(
    name: &str,
    load: &Value,
    rows: &[(Config, Vec<R>)],
    one: impl Fn(&R) -> Value,
) -> Value {
    let results: Vec<Value> = rows
        .iter()
        .map(|(config, rows)| {
            let rows: Vec<Value> = rows.iter().map(&one).collect();
            json!({"config": config, "rows": rows})
        })
        .collect();
    json!({
        "schema": crate::measure::SCHEMA,
        "tool": {"version": env!("CARGO_PKG_VERSION")},
        "measure": name,
        "load": load,
        "results": results,
    })
}

fn mremap_table(rows: &[(Config, Vec<mremap::MoveRow>)]) -> String {
    let mut table = Table::new(
        format!(
            "mremap of {} pages that {} processes have from fork, then swapoff",
            mremap::PAGES,
            mremap::SHARERS
        ),
        &[
            "pages",
            "kernel",
            "in memory",
            "mremap copies",
            "cycles",
            "swapoff copies",
            "frames",
        ],
    );
    for (i, case) in mremap::Case::ALL.into_iter().enumerate() {
        for (config, r) in rows {
            let r = &r[i];
            table.row(vec![
                case.name().to_owned(),
                label(config, rows),
                grouped(u64::from(r.resident)),
                grouped(r.mremap_copies),
                grouped(r.mremap_cycles),
                grouped(r.swapoff_copies),
                grouped(u64::from(r.frames)),
            ]);
        }
    }
    table.note(
        "resident: shared and in memory when the parent moves them. swapped: shared and in swap. private: the parent has written them \
         since the forks. Frames: those that show the pages at the end.",
    );
    table.render()
}

fn nonlinear_table(rows: &[(Config, Vec<nonlinear::WindowRow>)]) -> String {
    let mut table = Table::new(
        format!(
            "{} processes show a file of {} pages in chunks of {}, each in an order of its own; thousands of cycles, under pressure",
            nonlinear::PROCESSES,
            grouped(u64::from(nonlinear::FILE_PAGES)),
            nonlinear::CHUNK_PAGES
        ),
        &[
            "window", "kernel", "made", "vmas", "rmap", "reclaim", "unmap", "visited", "examined", "cleared",
            "gone", "reread", "faults",
        ],
    )
    .tight();
    let thousands = |cycles: u64| grouped(cycles.div_ceil(1000));
    for (i, way) in nonlinear::Way::ALL.into_iter().enumerate() {
        for (config, r) in rows {
            let r = &r[i];
            table.row(vec![
                way.name().replace('_', " "),
                label(config, rows),
                thousands(r.setup_cycles),
                lowmem_report::table::size(r.vma_bytes),
                lowmem_report::table::size(r.rmap_bytes),
                thousands(r.reclaim_cycles),
                thousands(r.unmap_cycles),
                grouped(r.vmas_visited),
                grouped(r.ptes_examined),
                grouped(r.ptes_cleared),
                grouped(r.pages_unmapped),
                grouped(r.read_again),
                thousands(r.again_cycles),
            ]);
        }
    }
    table.note(
        "made: the calls that make the windows and the faults of reading them. vmas, rmap: bytes of their objects then. reclaim, unmap, \
         visited, examined, cleared, gone: while one process writes as much private memory as there is RAM; its own pages are among \
         them. reread: pages of the file read from the disk when all windows are read again; faults: cycles of that.",
    );
    table.render()
}
