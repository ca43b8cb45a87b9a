//! Developer commands. `cargo xtask guest` rebuilds the guest images; the rest of the workspace uses the committed ones and needs
//! none of this.
//!
//! Invariant: nothing here is needed by `cargo build` or `cargo test` on stable Rust.

mod guest;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developer commands of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the guest images into target/guest (fetches the guest toolchain on first use)
    Guest(guest::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Guest(options) => guest::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
