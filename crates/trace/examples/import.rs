//! Imports a recording: `cargo run --release -p lowmem-trace --example import -- OUT.lmt FILE...`

use std::{path::PathBuf, process::ExitCode};

use lowmem_trace::import::{ImportOptions, import};

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let Some((out, inputs)) = paths.split_first() else {
        eprintln!("usage: import OUT.lmt FILE...");
        return ExitCode::from(2);
    };
    match import(inputs, &ImportOptions::default(), |_, _| {}).and_then(|t| t.save(out).map(|()| t))
    {
        Ok(trace) => {
            println!(
                "{}: {} operations, sha256 {}",
                out.display(),
                trace.len(),
                trace.sha256_hex()
            );
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
