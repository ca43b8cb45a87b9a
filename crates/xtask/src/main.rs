//! Developer commands. `cargo xtask guest` rebuilds the guest images; the rest of the workspace uses the committed ones and needs
//! none of this. `cargo run --release -p xtask -- recordings DIR` and `... retouch-error DIR` are the long experiments over a folder of
//! recordings.
//!
//! Invariant: nothing here is needed by `cargo build` or `cargo test` on stable Rust.

mod diff;
mod guest;
#[cfg(feature = "experiments")]
mod recordings;
#[cfg(feature = "experiments")]
mod retouch_error;

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
    /// Compare the emulated CPU with the host CPU by random cases
    Diff(diff::Options),
    /// Build the guest images into target/guest (fetches the guest toolchain on first use)
    Guest(guest::Options),
    /// Import and replay every recording of a folder, and check what must agree: both modes, four to 68 configurations
    #[cfg(feature = "experiments")]
    Recordings(recordings::Options),
    /// Compare replays of every reference with replays of first touches and the re-touch model
    #[cfg(feature = "experiments")]
    RetouchError(retouch_error::Options),
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn std::error::Error>> = match Cli::parse().command {
        Command::Diff(options) => diff::run(&options).map_err(Into::into),
        Command::Guest(options) => guest::run(&options).map_err(Into::into),
        #[cfg(feature = "experiments")]
        Command::Recordings(options) => recordings::run(&options).map_err(Into::into),
        #[cfg(feature = "experiments")]
        Command::RetouchError(options) => retouch_error::run(&options).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
