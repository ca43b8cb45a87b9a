//! `lowmem measure`: one mechanism, on small workloads made for it.
//!
//! Invariant: the same command prints the same bytes.

use crate::axes::{self, Unset};
use crate::cli::{MeasureArgs, MeasureCommand, MeasureOutput, WritebackArgs};
use crate::failure::Failure;
use crate::output;
use lowmem_machine::disk::{DiskModel, DiskTime};
use lowmem_machine::measure::writeback::{self, ELEVATOR_WINDOW, WritebackMeasure};
use lowmem_machine::replay;
use lowmem_report::config::PageCache;
use lowmem_report::table::{Table, grouped, wrap};
use lowmem_report::{Config, csv};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Schema of the JSON form.
pub(crate) const SCHEMA: &str = "lowmem.measure/1";

/// Runs the subcommand.
pub(crate) fn run(args: &MeasureArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        MeasureCommand::Unmap(args) => crate::measure_unmap::run(args),
        MeasureCommand::Writeback(args) => writeback(args),
        MeasureCommand::Evictions(args) => crate::measure_evictions::run(args),
        MeasureCommand::Mremap(args) => crate::measure_moves::run_mremap(args),
        MeasureCommand::Nonlinear(args) => crate::measure_moves::run_nonlinear(args),
    }
}

/// Prints a measure in the form asked for. The CSV is the JSON's results.
pub(crate) fn print(
    form: &MeasureOutput,
    document: impl Fn() -> Value,
    tables: impl Fn() -> String,
) -> Result<(), Failure> {
    let text = match (form.json, form.csv) {
        (true, _) => format!("{:#}\n", document()),
        (_, true) => csv::tables(document()["results"].as_array().map_or(&[], Vec::as_slice)),
        _ => tables(),
    };
    output::print(&text)?;
    Ok(())
}

fn writeback(args: &WritebackArgs) -> Result<ExitCode, Failure> {
    let mut configs = axes::matrix(&args.axes, Unset::Default, Vec::new())?;
    if args.axes.page_cache.is_empty() {
        configs = configs.into_iter().flat_map(both_caches).collect();
    }
    let disk = one_disk(&configs)?;
    let mut rows = Vec::new();
    for config in configs {
        let measured = writeback::measure(&config)
            .map_err(|e| Failure::Machine(format!("{}: {e}", label(&config))))?;
        rows.push((config, measured));
    }
    print(
        &args.output,
        || document(disk, &rows),
        || tables(disk, &rows),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The disk of all configurations: tables of times on different disks would compare disks.
fn one_disk(configs: &[Config]) -> Result<DiskModel, Failure> {
    let mut disks = Vec::new();
    for config in configs {
        let preset = replay::preset(config).map_err(|e| Failure::Usage(e.to_string()))?;
        disks.push(DiskModel::of(&preset));
    }
    disks.dedup();
    match disks[..] {
        [disk] => Ok(disk),
        _ => Err(Failure::Usage(
            "--cpu: the presets have different disks (disk.*), and writeback is compared on one"
                .to_owned(),
        )),
    }
}

fn both_caches(config: Config) -> [Config; 2] {
    [PageCache::Tagged, PageCache::Lists].map(|page_cache| {
        let mut c = Config {
            page_cache,
            ..config.clone()
        };
        c.overrides = axes::overrides(&c);
        c
    })
}

fn label(config: &Config) -> String {
    format!("{} {} {}", config.page_cache, config.rmap, config.split)
}

fn ms(time: DiskTime) -> String {
    grouped(time.us.div_ceil(1000))
}

fn tables(disk: DiskModel, rows: &[(Config, WritebackMeasure)]) -> String {
    let mut out = String::new();
    let mut orders = Table::new(
        format!(
            "{} dirty pages to the disk by fsync: order, disk time, cycles per page",
            grouped(u64::from(writeback::ORDER_PAGES))
        ),
        &[
            "written",
            "page cache",
            "seeks",
            "ms",
            "sorted ms",
            "write()",
            "fsync",
        ],
    );
    for (i, writers) in writeback::Writers::ALL.into_iter().enumerate() {
        for (config, m) in rows {
            let row = &m.orders[i];
            orders.row(vec![
                writers.name().replace('_', " "),
                label(config),
                grouped(row.disk.seeks),
                ms(row.disk),
                ms(row.sorted),
                grouped(row.write_cycles),
                grouped(row.fsync_cycles),
            ]);
        }
    }
    orders.note(format!(
        "Disk: {} us a seek, {} us half a revolution, {} us a page; files in one piece, every seek the average one. Sorted: an elevator puts \
         each {ELEVATOR_WINDOW} pages in order.",
        disk.seek_us, disk.rotation_us, disk.page_us
    ));
    out.push_str(&orders.render());
    let mut densities = Table::new(
        format!(
            "fsync of a file with {} cached pages",
            grouped(u64::from(writeback::CACHED_PAGES))
        ),
        &[
            "dirty",
            "page cache",
            "looked at",
            "cycles",
            "a dirty page",
            "nothing dirty",
        ],
    );
    for i in 0..writeback::DENSITIES.len() {
        for (config, m) in rows {
            let row = &m.densities[i];
            densities.row(vec![
                grouped(u64::from(row.dirty)),
                label(config),
                grouped(row.looked_at),
                grouped(row.cycles),
                grouped(row.cycles / u64::from(row.dirty.max(1))),
                grouped(m.clean_fsync_cycles),
            ]);
        }
    }
    densities.note(
        "Looked at: tag bits on all levels of the tree, or pages on lists, in the search for dirty pages and for pages under way.",
    );
    out.push('\n');
    out.push_str(&densities.render());
    let mut race = Table::new(
        "fsync beside a flusher of the same file, stopped between two of its steps",
        &[
            "the flusher stands",
            "page cache",
            "when fsync returns, the page is",
        ],
    );
    for i in 0..rows.first().map_or(0, |r| r.1.race.len()) {
        for (config, m) in rows {
            let row = &m.race[i];
            let on_disk = if row.durable {
                "on disk"
            } else {
                "NOT ON DISK"
            };
            race.row(vec![
                row.point.to_owned(),
                label(config),
                on_disk.to_owned(),
            ]);
        }
    }
    out.push('\n');
    out.push_str(&race.render());
    out.push('\n');
    wrap(
        &mut out,
        "",
        "Contention for the tree's lock, which slowed some parallel writers with tags on SMP, cannot appear on one CPU.",
    );
    out
}

fn document(disk: DiskModel, rows: &[(Config, WritebackMeasure)]) -> Value {
    let time = |t: DiskTime| json!({"pages": t.pages, "seeks": t.seeks, "us": t.us});
    let results: Vec<Value> = rows
        .iter()
        .map(|(config, m)| {
            json!({
                "config": config,
                "orders": m.orders.iter().map(|r| json!({
                    "writers": r.writers.name(),
                    "disk": time(r.disk),
                    "disk_sorted": time(r.sorted),
                    "write_cycles_per_page": r.write_cycles,
                    "fsync_cycles_per_page": r.fsync_cycles,
                })).collect::<Vec<_>>(),
                "densities": m.densities.iter().map(|r| json!({
                    "dirty": r.dirty,
                    "cached": r.cached,
                    "looked_at": r.looked_at,
                    "cycles": r.cycles,
                })).collect::<Vec<_>>(),
                "clean_fsync_cycles": m.clean_fsync_cycles,
                "race": m.race.iter().map(|r| json!({
                    "flusher": r.point,
                    "durable": r.durable,
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "schema": SCHEMA,
        "tool": {"version": env!("CARGO_PKG_VERSION")},
        "measure": "writeback",
        "disk": {"seek_us": disk.seek_us, "rotation_us": disk.rotation_us, "page_us": disk.page_us},
        "results": results,
    })
}
