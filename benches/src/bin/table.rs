//! Prints the README's table of simulated cycles, in Markdown, from the benchmark's own scenarios and seeds; with
//! `--write FILE` it replaces what stands between the table's two marker lines in FILE.

use lowmem_benches::scenario::Scenario;
use lowmem_benches::{Sampler, configurations};
use std::fmt::Write as _;
use std::process::ExitCode;

/// Samples a cell.
const SAMPLES: u64 = 64;
const BEGIN: &str =
    "<!-- table: begin (made by `cargo run --release -p lowmem-benches --bin table`) -->";
const END: &str = "<!-- table: end -->";

fn table() -> Result<String, Box<dyn std::error::Error>> {
    let configurations = configurations();
    let mut out = String::new();
    write!(
        out,
        "| guest cycles, median (5th–95th percentile of {SAMPLES}) |"
    )?;
    for (label, _) in &configurations {
        write!(out, " {label} |")?;
    }
    write!(out, "\n|---|{}\n", "---:|".repeat(configurations.len()))?;
    for scenario in Scenario::ALL {
        write!(out, "| {} |", scenario.title())?;
        for (_, config) in &configurations {
            let sampler = Sampler::new(scenario, config)?;
            let mut cycles = (0..SAMPLES)
                .map(|seed| sampler.cycles(seed))
                .collect::<Result<Vec<_>, _>>()?;
            cycles.sort_unstable();
            let at = |percent: u64| cycles[((SAMPLES - 1) * percent / 100) as usize];
            write!(out, " {} ({}–{}) |", at(50), at(5), at(95))?;
        }
        out.push('\n');
    }
    Ok(out)
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let table = table()?;
    match (args.next().as_deref(), args.next()) {
        (None, _) => print!("{table}"),
        (Some("--write"), Some(file)) => {
            let text = std::fs::read_to_string(&file)?;
            let (head, rest) = text
                .split_once(BEGIN)
                .ok_or_else(|| format!("{file}: no line {BEGIN}"))?;
            let (_, tail) = rest
                .split_once(END)
                .ok_or_else(|| format!("{file}: no line {END}"))?;
            std::fs::write(&file, format!("{head}{BEGIN}\n{table}{END}{tail}"))?;
        }
        _ => return Err("usage: table [--write FILE]".into()),
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
