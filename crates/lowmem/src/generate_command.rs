//! `lowmem trace generate`: synthetic loads to measure.
//!
//! Invariant: options and their defaults are those of the load's parameters in the trace crate.

use crate::failure::Failure;
use crate::output;
use clap::{Args, Subcommand, ValueEnum};
use lowmem_report::config::{Split, parse_bytes};
use lowmem_report::table::grouped;
use lowmem_trace::PAGE_SIZE;
use lowmem_trace::generate::build::Compile;
use lowmem_trace::generate::pressure::{MremapFork, Order, SwapStorm};
use lowmem_trace::generate::server::{Prefork, SharedSegment};
use lowmem_trace::generate::vmas::{Areas, ManyVmas, WorstCase};
use lowmem_trace::generate::{self, Workload};
use std::path::PathBuf;

/// `lowmem trace generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// The load
    #[command(subcommand)]
    pub(crate) load: Load,
    /// The trace to write
    #[arg(short, long, value_name = "OUT.lmt", global = true)]
    pub(crate) output: Option<PathBuf>,
    /// Seed of everything that is drawn
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    pub(crate) seed: u64,
}

/// Pages from a size such as 64M or 3.4G.
pub(crate) fn pages(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)
        .or_else(|| decimal_bytes(text))
        .ok_or_else(|| format!("{text:?} is not a size such as 64M or 3.4G"))?;
    u32::try_from(bytes.div_ceil(u64::from(PAGE_SIZE))).map_err(|_| format!("{text}: too large"))
}

/// Bytes of a size with digits behind the point: `3.4G`.
fn decimal_bytes(text: &str) -> Option<u64> {
    let (whole, rest) = text.split_once('.')?;
    let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &rest[..rest.len() - unit.len()];
    if unit.is_empty() || !(1..=9).contains(&digits.len()) {
        return None;
    }
    let one = parse_bytes(&format!("1{unit}"))?;
    let tail = digits.parse::<u64>().ok()? as u128 * u128::from(one);
    let tail = tail / 10u128.pow(digits.len() as u32);
    parse_bytes(&format!("{whole}{unit}"))?.checked_add(tail as u64)
}

/// An exponent of Zipf's law such as 0.8, per mille.
fn exponent(text: &str) -> Result<u32, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=1.5).contains(&s) => Ok((s * 1000.0).round() as u32),
        _ => Err(format!(
            "{text:?} is not an exponent from 0 to 1.5, in steps of 0.001"
        )),
    }
}

/// A share such as 0.25, per mille.
pub(crate) fn share(text: &str) -> Result<u32, String> {
    match text.parse::<f64>() {
        Ok(f) if (0.0..=1.0).contains(&f) && (f == 0.0 || f >= 0.0005) => {
            Ok((f * 1000.0).round() as u32)
        }
        _ => Err(format!(
            "{text:?} is not a share from 0 to 1, in steps of 0.001"
        )),
    }
}

/// The loads.
#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Server processes over one shared segment: Oracle, PostgreSQL
    #[command(
        after_help = "Example:\n  lowmem trace generate shared-segment --processes 100 \
        --segment 512M --touched 0.05 -o oracle.lmt"
    )]
    SharedSegment {
        /// Server processes
        #[arg(long, value_name = "N", default_value_t = 100)]
        processes: u32,
        /// Size of the segment
        #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = pages)]
        segment: u32,
        /// Share of the segment that each process touches first
        #[arg(long, value_name = "SHARE", default_value = "0.25", value_parser = share)]
        touched: u32,
        /// Private memory of each process
        #[arg(long, value_name = "SIZE", default_value = "4000K", value_parser = pages)]
        private: u32,
        /// Library areas of each process
        #[arg(long, value_name = "N", default_value_t = 60)]
        vmas: u32,
        /// Transactions of each process, round robin
        #[arg(long, value_name = "N", default_value_t = 10)]
        transactions: u32,
        /// 8 KiB blocks that a transaction uses, by Zipf's law
        #[arg(long, value_name = "N", default_value_t = 10)]
        blocks: u32,
        /// Reads among them, per cent
        #[arg(long, value_name = "N", default_value_t = 80)]
        reads: u32,
        /// System calls of a transaction
        #[arg(long, value_name = "N", default_value_t = 16)]
        calls: u32,
        /// Exponent of Zipf's law: 0 all blocks alike, 1 the n-th is used n times as seldom
        #[arg(long, value_name = "S", default_value = "1", value_parser = exponent)]
        zipf: u32,
    },
    /// A prefork web server with CGI programs
    #[command(after_help = "Example:\n  lowmem trace generate prefork --children 150 -o web.lmt")]
    Prefork {
        /// Children at work
        #[arg(long, value_name = "N", default_value_t = 50)]
        children: u32,
        /// Anonymous memory of the parent
        #[arg(long, value_name = "SIZE", default_value = "2000K", value_parser = pages)]
        parent: u32,
        /// Library areas
        #[arg(long, value_name = "N", default_value_t = 60)]
        vmas: u32,
        /// Requests
        #[arg(long, value_name = "N", default_value_t = 2000)]
        requests: u32,
        /// Requests a child serves before it is replaced
        #[arg(long, value_name = "N", default_value_t = 100)]
        per_child: u32,
        /// Every n-th request is a CGI program, 0 for none
        #[arg(long, value_name = "N", default_value_t = 10)]
        cgi_every: u32,
        /// Pages that a request uses, half of them written
        #[arg(long, value_name = "N", default_value_t = 20)]
        written: u32,
    },
    /// make -jN: shell, compiler driver, cc1, assembler for each file
    #[command(
        after_help = "Example:\n  lowmem trace generate compile --files 100 --jobs 8 -o make.lmt"
    )]
    Compile {
        /// Files compiled
        #[arg(long, value_name = "N", default_value_t = 40)]
        files: u32,
        /// Compilations at once
        #[arg(long, value_name = "N", default_value_t = 4)]
        jobs: u32,
        /// Memory that cc1 writes
        #[arg(long, value_name = "SIZE", default_value = "10000K", value_parser = pages)]
        cc1: u32,
        /// Library areas of each program
        #[arg(long, value_name = "N", default_value_t = 12)]
        vmas: u32,
    },
    /// N tasks with M windows each on one file: the worst case for object-based reverse mapping
    #[command(
        after_help = "Example:\n  lowmem trace generate worst-case --tasks 100 --vmas 100 -o worst.lmt"
    )]
    WorstCase {
        /// Tasks
        #[arg(long, value_name = "N", default_value_t = 100)]
        tasks: u32,
        /// Windows of each
        #[arg(long, value_name = "M", default_value_t = 100)]
        vmas: u32,
        /// Size of a window
        #[arg(long, value_name = "SIZE", default_value = "2400K", value_parser = pages)]
        window: u32,
        /// Pages touched in each window
        #[arg(long, value_name = "N", default_value_t = 6)]
        touched_pages: u32,
        /// Tasks that touch them [default: all]
        #[arg(long, value_name = "K")]
        sharers: Option<u32>,
    },
    /// Thousands of vmas in a process
    #[command(
        after_help = "Example:\n  lowmem trace generate many-vmas --areas nonlinear --count 8192 -o vlm.lmt"
    )]
    ManyVmas {
        /// What they are
        #[arg(long, value_name = "A", default_value = "windows")]
        areas: AreasArg,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 8192)]
        count: u32,
        /// Size of each
        #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = pages)]
        size: u32,
        /// Processes that have them
        #[arg(long, value_name = "N", default_value_t = 1)]
        processes: u32,
    },
    /// Processes that want more memory than there is
    #[command(
        after_help = "Example:\n  lowmem trace generate swap-storm --processes 3 --memory 16M -o storm.lmt\n  \
        lowmem replay storm.lmt --ram 32M --check"
    )]
    SwapStorm {
        /// Processes
        #[arg(long, value_name = "N", default_value_t = 3)]
        processes: u32,
        /// Anonymous memory of each
        #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = pages)]
        memory: u32,
        /// How often each goes through it
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: u32,
        /// In which order
        #[arg(long, value_name = "O", default_value = "cyclic")]
        order: OrderArg,
        /// Pages that a process uses before the next one runs
        #[arg(long, value_name = "N", default_value_t = 256)]
        slice: u32,
        /// Exponent of Zipf's law, with --order zipf: 0 all pages alike, 1 the n-th is used n times as seldom
        #[arg(long, value_name = "S", default_value = "1", value_parser = exponent)]
        zipf: u32,
    },
    /// mremap of pages that fork has shared
    #[command(
        after_help = "Example:\n  lowmem trace generate mremap-fork --children 20 -o moves.lmt"
    )]
    MremapFork {
        /// Segments
        #[arg(long, value_name = "N", default_value_t = 8)]
        segments: u32,
        /// Most pages of a segment
        #[arg(long, value_name = "N", default_value_t = 600)]
        pages: u32,
        /// Children that keep sharing
        #[arg(long, value_name = "N", default_value_t = 8)]
        children: u32,
        /// Steps of the parent between two forks
        #[arg(long, value_name = "N", default_value_t = 40)]
        steps: u32,
    },
}

/// [`Areas`] by name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum AreasArg {
    /// Allocations with a guard page behind each
    Guards,
    /// Thread stacks with a guard page below each
    Stacks,
    /// Windows on a large object, a vma each
    Windows,
    /// The same windows by remap_file_pages in one vma
    Nonlinear,
    /// Windows locked in memory
    Locked,
}

/// [`Order`] by name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OrderArg {
    /// One page after the other
    Cyclic,
    /// By Zipf's law
    Zipf,
}

impl Load {
    fn workload(&self) -> Box<dyn Workload> {
        match *self {
            Load::SharedSegment {
                processes,
                segment,
                touched,
                private,
                vmas,
                transactions,
                blocks,
                reads,
                calls,
                zipf,
            } => Box::new(SharedSegment {
                processes,
                segment_pages: segment,
                touched,
                private_pages: private,
                vmas,
                transactions,
                blocks,
                reads,
                calls,
                exponent: zipf,
            }),
            Load::Prefork {
                children,
                parent,
                vmas,
                requests,
                per_child,
                cgi_every,
                written,
            } => Box::new(Prefork {
                children,
                parent_pages: parent,
                vmas,
                requests,
                per_child,
                cgi_every,
                written,
            }),
            Load::Compile {
                files,
                jobs,
                cc1,
                vmas,
            } => Box::new(Compile {
                files,
                jobs,
                cc1_pages: cc1,
                vmas,
            }),
            Load::WorstCase {
                tasks,
                vmas,
                window,
                touched_pages,
                sharers,
            } => Box::new(WorstCase {
                tasks,
                vmas,
                window_pages: window,
                touched_pages,
                sharers: sharers.unwrap_or(tasks),
            }),
            Load::ManyVmas {
                areas,
                count,
                size,
                processes,
            } => Box::new(ManyVmas {
                areas: match areas {
                    AreasArg::Guards => Areas::Guards,
                    AreasArg::Stacks => Areas::Stacks,
                    AreasArg::Windows => Areas::Windows,
                    AreasArg::Nonlinear => Areas::Nonlinear,
                    AreasArg::Locked => Areas::Locked,
                },
                count,
                pages: size,
                processes,
            }),
            Load::SwapStorm {
                processes,
                memory,
                rounds,
                order,
                slice,
                zipf,
            } => Box::new(SwapStorm {
                processes,
                pages: memory,
                rounds,
                order: match order {
                    OrderArg::Cyclic => Order::Cyclic,
                    OrderArg::Zipf => Order::Zipf,
                },
                slice,
                exponent: zipf,
            }),
            Load::MremapFork {
                segments,
                pages,
                children,
                steps,
            } => Box::new(MremapFork {
                segments,
                pages,
                children,
                steps,
            }),
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let Some(path) = &args.output else {
        return Err(Failure::Usage(
            "trace generate: say where to write it: -o OUT.lmt".to_owned(),
        ));
    };
    output::refuse_special(path)?;
    let load = args.load.workload();
    let trace = generate::generate(&*load, args.seed).map_err(|e| Failure::Usage(e.to_string()))?;
    trace.save(path)?;
    let where_it_runs = match trace.user_end() > Split::G3G1.user_end() {
        true => "; only split 4g4g has room for it",
        false => "",
    };
    let s = trace.summary();
    output::print(&format!(
        "{}: {} operations, {} processes at most, {} ptes at the peak, written to {}{where_it_runs}\n",
        trace.name(),
        grouped(s.operations),
        grouped(s.max_spaces),
        grouped(s.peak_ptes),
        path.display()
    ))?;
    Ok(())
}
