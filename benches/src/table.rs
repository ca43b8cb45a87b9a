//! The README's table of simulated cycles, in Markdown, from the benchmark's own scenarios and seeds.

use crate::scenario::Scenario;
use crate::{Sampler, configurations};
use lowmem_machine::MachineError;

/// Samples a cell.
const SAMPLES: u64 = 64;
/// The line before the table in a document.
pub const BEGIN: &str = "<!-- table: begin (made by `cargo run --release -p lowmem-benches --bin table -- --write README.md`) -->";
/// The line behind it.
pub const END: &str = "<!-- table: end -->";

/// The table.
pub fn markdown() -> Result<String, MachineError> {
    let configurations = configurations();
    let mut out = format!("| guest cycles, median (5th–95th percentile of {SAMPLES}) |");
    for (label, _) in &configurations {
        out += &format!(" {label} |");
    }
    out += &format!("\n|---|{}\n", "---:|".repeat(configurations.len()));
    for scenario in Scenario::ALL {
        out += &format!("| {} |", scenario.title());
        for (_, config) in &configurations {
            let sampler = Sampler::new(scenario, config)?;
            let mut cycles = (0..SAMPLES)
                .map(|seed| sampler.cycles(seed))
                .collect::<Result<Vec<_>, _>>()?;
            cycles.sort_unstable();
            let at = |percent: u64| cycles[((SAMPLES - 1) * percent / 100) as usize];
            out += &format!(" {} ({}–{}) |", at(50), at(5), at(95));
        }
        out.push('\n');
    }
    Ok(out)
}

/// The text before the table, the table and the text behind it; `None` without the marker lines.
pub fn split(document: &str) -> Option<(&str, &str, &str)> {
    let (head, rest) = document.split_once(BEGIN)?;
    let (table, tail) = rest.split_once(END)?;
    Some((head, table.trim_start_matches('\n'), tail))
}
