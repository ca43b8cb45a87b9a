//! The `lowmem` command: replay a recorded workload on an emulated 32-bit PAE machine and report what each VM design costs.
//!
//! Data goes to stdout, progress to stderr and only to a terminal. Exit codes: 0 every row complete (or refused inside a
//! product), 3 some row ended otherwise, 2 bad command line, 1 the rest.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`axes`] | axis options to configurations |
//! | [`echo`] | reading configurations back from a result |
//! | [`session`] | running configurations, in parallel, until done or interrupted |
//! | [`progress`] | progress bars and Ctrl-C |
//! | [`host_memory`] | the guard of the host's memory |
//! | [`capacity`] | how many processes a machine holds |
//! | [`workload`] | the built-in trace |
//! | [`compare`], [`trace_command`], [`generate_command`], [`capacity_command`], [`presets`], [`run_command`] | the subcommands |
//! | [`measure`], [`measure_unmap`], [`measure_evictions`], [`measure_moves`] | `lowmem measure` |
//! | [`failure`] | errors and their exit codes |
//! | [`output`] | writing to stdout |
//!
//! Invariant: nothing here knows what a page is; it parses, runs, prints.

mod axes;
mod capacity;
mod capacity_command;
mod cli;
mod compare;
mod echo;
mod failure;
mod generate_command;
mod host_memory;
mod measure;
mod measure_evictions;
mod measure_moves;
mod measure_unmap;
mod output;
mod presets;
mod progress;
mod run_command;
mod session;
mod trace_command;
mod workload;

use clap::Parser;
use cli::{Cli, Command};
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("lowmem: {failure}");
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Compare(args) => compare::compare(&args),
        Command::Replay(args) => compare::replay(&args),
        Command::Trace(args) => trace_command::run(&args),
        Command::Presets(args) => presets::run(&args),
        Command::Run(args) => run_command::run(&args),
        Command::Capacity(args) => capacity_command::run(&args),
        Command::Measure(args) => measure::run(&args),
        Command::Validate(_) => Err(Failure::NotYet("validate".to_owned())),
    }
}
