//! `lowmem capacity`: add processes of a described load until the machine stops, and say what ran out and who had it.
//!
//! The load is `trace generate shared-segment` with more processes than can be; each is complete before the next one starts, so the
//! operation at which the machine stops says how many there were ([`crate::capacity`]). Kernel state is exact and nothing is timed:
//! runs are native. As text a row is printed as soon as it and those before it are known.
//!
//! Invariant: a configuration that reaches the limit, or is stopped before its end, is reported as "at least".

use crate::axes::{self, Unset};
use crate::capacity::{End, Frontier, Search};
use crate::cli::AxisArgs;
use crate::failure::{Failure, INCOMPLETE};
use crate::generate_command::{pages, share};
use crate::host_memory::HostMemory;
use crate::progress::Interrupt;
use crate::workload::Layout;
use crate::{output, workload};
use clap::Args;
use lowmem_report::config::{Split, bytes};
use lowmem_report::measurement::Owner;
use lowmem_report::table::{grouped, size, wrap};
use lowmem_report::{Config, Outcome, csv};
use lowmem_trace::generate;
use lowmem_trace::generate::Workload;
use lowmem_trace::generate::server::SharedSegment;
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
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// CSV, one line per configuration
    #[arg(long)]
    csv: bool,
    /// Axes.
    #[command(flatten)]
    axes: AxisArgs,
}

/// Runs the subcommand.
pub(crate) fn run(args: &CapacityArgs) -> Result<ExitCode, Failure> {
    if args.jobs == 0 {
        return Err(Failure::Usage("--jobs 0: at least one".to_owned()));
    }
    let configs = axes::matrix(&args.axes, Unset::AllPairs, Vec::new())?;
    // A bad key of a preset is told before the load is made.
    for config in &configs {
        axes::preset(config)?;
    }
    let load = SharedSegment {
        processes: args.limit,
        segment_pages: args.segment,
        touched: args.touched,
        private_pages: args.private,
        vmas: args.vmas,
        transactions: 0,
        ..SharedSegment::default()
    };
    has_room(&load, &configs)?;
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
    let interrupt = Interrupt::listen();
    let search = Search {
        trace: &trace,
        configs: &configs,
        interrupt: &interrupt,
        host: &HostMemory::of_host(),
    };
    let labels = Labels::of(&configs);
    let as_text = !args.json && !args.csv;
    if as_text {
        output::print(&labels.head(args))?;
    }
    let mut rows: Vec<Frontier> = Vec::new();
    let ran = search.run(args.jobs, |row| {
        if as_text {
            output::print(&labels.line(&row))?;
        }
        rows.push(row);
        Ok(())
    });
    if !rows.is_empty() {
        output::print(&match (args.json, args.csv) {
            (true, _) => format!("{:#}\n", to_json(args, &rows)),
            (_, true) => csv::render_rows(&rows.iter().map(to_row).collect::<Vec<_>>()),
            _ => labels.foot(&rows),
        })?;
    }
    ran?;
    let whole = |row: &&Frontier| row.end != End::Interrupted;
    let done = rows.iter().filter(whole).count();
    if done < configs.len() {
        return Err(Failure::Interrupted {
            done,
            all: configs.len(),
        });
    }
    let unanswered =
        |row: &Frontier| matches!(row.end, End::Ran(Outcome::Refused) | End::HostMemory);
    Ok(match rows.iter().any(unanswered) {
        true => ExitCode::from(INCOMPLETE),
        false => ExitCode::SUCCESS,
    })
}

/// Refuses a load of which the smallest user space cannot hold one process.
fn has_room(load: &SharedSegment, configs: &[Config]) -> Result<(), Failure> {
    let page = u64::from(lowmem_trace::PAGE_SIZE);
    for split in configs.iter().map(|c| c.split) {
        let (used, room) = (load.mapped_pages(), SharedSegment::room(split.user_end()));
        if used > room {
            return Err(Failure::Usage(format!(
                "split {split}: a process maps {} (segment {}), and user space has room for {}; \
                 --split 4g4g has room for {}",
                size(used * page),
                size(u64::from(load.segment_pages) * page),
                size(room * page),
                size(SharedSegment::room(Split::G4G4.user_end()) * page),
            )));
        }
    }
    Ok(())
}

/// The owners with most low memory, largest first.
fn eaters(row: &Frontier) -> Vec<(Owner, u64)> {
    let mut owners: Vec<(Owner, u64)> = Owner::ALL
        .iter()
        .map(|&owner| (owner, row.lowmem.owner(owner)))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    owners.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    owners
}

/// The RAM of all configurations.
fn ram(configs: &[Config]) -> String {
    let mut sizes: Vec<u64> = configs.iter().map(|c| c.ram_bytes).collect();
    sizes.dedup();
    let words: Vec<String> = sizes.into_iter().map(bytes).collect();
    words.join(", ")
}

/// Names of the rows, and the table that they are the first column of.
struct Labels<'a> {
    configs: &'a [Config],
    width: usize,
}

impl<'a> Labels<'a> {
    fn of(configs: &'a [Config]) -> Self {
        let widths = configs.iter().map(|c| c.label(configs).len());
        Self {
            configs,
            width: widths.max().unwrap_or(0),
        }
    }

    fn head(&self, args: &CapacityArgs) -> String {
        let page = u64::from(lowmem_trace::PAGE_SIZE);
        let mut out = String::new();
        let load = format!(
            "Processes over a shared segment of {}, {} % of it touched by each, {} private, {} library areas each, {} RAM",
            size(u64::from(args.segment) * page),
            f64::from(args.touched) / 10.0,
            size(u64::from(args.private) * page),
            args.vmas,
            ram(self.configs),
        );
        wrap(&mut out, "", &load);
        out.push_str(&format!(
            "\n  {:<wide$}  {:>10}  {:<11}  {:>8} {:>8}  most low memory\n",
            "",
            "processes",
            "ended",
            "low",
            "of",
            wide = self.width
        ));
        out
    }

    fn line(&self, row: &Frontier) -> String {
        let count = match row.at_least() {
            true => format!(">= {}", grouped(row.processes.into())),
            false => grouped(row.processes.into()),
        };
        let eaters: Vec<String> = eaters(row)
            .iter()
            .take(4)
            .map(|(owner, bytes)| format!("{} {}", owner.name(), size(*bytes)))
            .collect();
        format!(
            "  {:<wide$}  {count:>10}  {:<11}  {:>8} {:>8}  {}\n",
            row.config.label(self.configs),
            row.end.name(),
            size(row.lowmem.used_bytes()),
            size(row.lowmem.total_bytes),
            eaters.join(", "),
            wide = self.width
        )
    }

    fn foot(&self, rows: &[Frontier]) -> String {
        let mut out = "\n".to_owned();
        wrap(
            &mut out,
            "",
            "A process counts when it has touched all that it is to touch; the one in which memory ran out does not.",
        );
        for row in rows {
            let label = row.config.label(self.configs);
            match (&row.reason, row.end) {
                (None, _) => {}
                (Some(reason), End::Ran(_)) => wrap(&mut out, "", &format!("{label}: {reason}")),
                (Some(reason), End::Interrupted | End::HostMemory) => {
                    let n = grouped(row.processes.into());
                    let answer = format!("{label}: at least {n} processes, {reason}");
                    wrap(&mut out, "", &answer);
                }
            }
        }
        out
    }
}

/// A row of the JSON and CSV forms.
fn to_row(row: &Frontier) -> Value {
    let owners: serde_json::Map<String, Value> = Owner::ALL
        .iter()
        .map(|&owner| (owner.name().to_owned(), json!(row.lowmem.owner(owner))))
        .collect();
    json!({
        "config": row.config,
        "processes": row.processes,
        "at_least": row.at_least(),
        "outcome": row.end.name(),
        "reason": row.reason,
        "lowmem": {
            "total_bytes": row.lowmem.total_bytes,
            "used_bytes": row.lowmem.used_bytes(),
            "by_owner": owners,
        },
    })
}

fn to_json(args: &CapacityArgs, rows: &[Frontier]) -> Value {
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
        "results": rows.iter().map(to_row).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use lowmem_report::LowmemUse;

    fn interrupted() -> Frontier {
        Frontier {
            config: Config::default(),
            processes: 7,
            end: End::Interrupted,
            reason: Some("interrupted, at operation 5 of 9".to_owned()),
            lowmem: LowmemUse::default(),
        }
    }

    #[test]
    fn a_partial_answer_is_marked_in_every_form() {
        let Command::Capacity(args) = Cli::parse_from(["lowmem", "capacity"]).command else {
            panic!("the capacity command");
        };
        let configs = [Config::default()];
        let labels = Labels::of(&configs);
        let line = labels.line(&interrupted());
        assert!(line.contains(">= 7  interrupted"), "{line}");
        let foot = labels.foot(&[interrupted()]);
        let words = foot.split_whitespace().collect::<Vec<_>>().join(" ");
        let answer = "at least 7 processes, interrupted, at operation 5 of 9";
        assert!(words.contains(answer), "{words}");
        let row = &to_json(&args, &[interrupted()])["results"][0];
        assert_eq!(row["processes"], 7);
        assert_eq!(row["at_least"], true);
        assert_eq!(row["outcome"], "interrupted");
        let host = Frontier {
            end: End::HostMemory,
            ..interrupted()
        };
        assert_eq!(to_row(&host)["outcome"], "host_memory");
        let csv = csv::render_rows(&[to_row(&host)]);
        assert_eq!(csv.lines().count(), 2);
        assert!(csv.contains(",host_memory,"), "{csv}");
    }
}
