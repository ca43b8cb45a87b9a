//! The verdict: what the tables say, in a few sentences.
//!
//! Invariant: every number in a sentence is also in the document; nothing is said of rows that did not complete but
//! that they did not.

use crate::config::Split;
use crate::measurement::{Mode, Outcome, Owner};
use crate::result::{Document, Row, UserWork};
use crate::table::{grouped, size, tenths};

/// What is said about `document`, its rows being called `labels`.
pub fn sentences(document: &Document, labels: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    splits(document, labels, &mut out);
    schemes(document, labels, &mut out);
    if let [row] = document.results.as_slice() {
        single(row, &mut out);
    }
    hashes(document, &mut out);
    for (row, label) in document.results.iter().zip(labels) {
        if row.outcome != Outcome::Complete {
            let reason = row.reason.as_deref().unwrap_or("no reason was given");
            out.push(format!("{label}: {}: {reason}.", row.outcome.name()));
        }
    }
    out.push(run_time(document, labels));
    out
}

fn splits(document: &Document, labels: &[String], out: &mut Vec<String>) {
    if document.mode == Mode::Native {
        // Nothing was counted.
        return;
    }
    for e in &document.splits {
        let (lines, total) = e.run.tenths_per_entry();
        let largest = lines.iter().max_by_key(|(_, n)| *n);
        let mut text = format!(
            "{}: 4G/4G adds {} cycles to each kernel entry",
            labels[e.from],
            tenths(total).trim_start_matches('+')
        );
        if let Some((line, n)) = largest {
            text.push_str(&format!(
                ", {} of them {}",
                tenths(*n).trim_start_matches('+'),
                line.name().replace('_', " ")
            ));
        }
        let (a, b) = (&document.results[e.from].tlb, &document.results[e.to].tlb);
        text.push_str(&format!(
            "; DTLB misses go from {} to {}, ITLB misses from {} to {}.",
            grouped(a.dtlb.misses),
            grouped(b.dtlb.misses),
            grouped(a.itlb.misses),
            grouped(b.itlb.misses)
        ));
        out.push(text);
    }
}

/// Owners that a reverse-mapping scheme decides.
const RMAP: [Owner; 4] = [
    Owner::PteChain,
    Owner::AnonVma,
    Owner::Anonmm,
    Owner::AnonVmaChain,
];

/// Compares rows that differ in the reverse map alone, on the first split that has several.
fn schemes(document: &Document, labels: &[String], out: &mut Vec<String>) {
    let complete: Vec<(&Row, &String)> = document
        .results
        .iter()
        .zip(labels)
        .filter(|(r, _)| r.outcome == Outcome::Complete)
        .collect();
    for (i, (a, a_label)) in complete.iter().enumerate() {
        let same = |b: &&(&Row, &String)| {
            let mut config = b.0.config.clone();
            config.rmap = a.config.rmap;
            config.overrides.clone_from(&a.config.overrides);
            config == a.config && b.0.config.rmap != a.config.rmap
        };
        let Some((b, b_label)) = complete[i + 1..].iter().find(same) else {
            continue;
        };
        let rmap = |row: &Row| size(row.lowmem.of(&RMAP));
        out.push(format!(
            "Low memory for reverse maps at the peak: {a_label} {}, {b_label} {} (in use in all: {} and {}).",
            rmap(a),
            rmap(b),
            size(a.lowmem.used_bytes),
            size(b.lowmem.used_bytes)
        ));
        let per_page = |row: &Row| row.unmap.cycles.checked_div(row.unmap.pages);
        if let (Some(x), Some(y)) = (per_page(a), per_page(b)) {
            out.push(format!(
                "Unmapping a page costs {} cycles on average under {a_label}, {} under {b_label} \
                 ({} and {} pages).",
                grouped(x),
                grouped(y),
                grouped(a.unmap.pages),
                grouped(b.unmap.pages)
            ));
        }
        return;
    }
}

fn single(row: &Row, out: &mut Vec<String>) {
    if row.cycles.total > 0 {
        let entries = row.entries();
        let mut text = format!(
            "{} kernel instructions in {} cycles",
            grouped(row.instructions.kernel),
            grouped(row.kernel_cycles())
        );
        if let Some(each) = row.kernel_cycles().checked_div(entries) {
            text.push_str(&format!(
                ", {} for each of {} kernel entries",
                grouped(each),
                grouped(entries)
            ));
        }
        text.push('.');
        out.push(text);
    }
    if row.lowmem.total_bytes > 0 {
        out.push(format!(
            "Low memory in use where most ptes were: {} of {}; at most {}.",
            size(row.lowmem.used_bytes),
            size(row.lowmem.total_bytes),
            size(row.lowmem.peak_bytes)
        ));
    }
    let d = &row.devices;
    if d.swap_reads + d.swap_writes > 0 || d.slept_ms > 0 {
        out.push(format!(
            "Memory ran short: {} pages written to swap, {} read from it; the kernel slept {} ms for want of memory.",
            grouped(d.swap_writes),
            grouped(d.swap_reads),
            grouped(d.slept_ms)
        ));
    }
    if let Some(hash) = &row.memory_hash {
        out.push(format!("Hash of all that processes wrote: {hash}."));
    }
}

fn hashes(document: &Document, out: &mut Vec<String>) {
    let complete = document
        .results
        .iter()
        .filter(|r| r.outcome == Outcome::Complete);
    let mut hashes: Vec<&String> = complete.filter_map(|r| r.memory_hash.as_ref()).collect();
    let rows = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    match (rows, hashes.len()) {
        (0 | 1, _) => {}
        (_, 1) => out.push(format!("All {rows} configurations left the same memory.")),
        (_, n) => out.push(format!(
            "WARNING: the configurations left {n} different memories; this is a fault of the program."
        )),
    }
}

fn run_time(document: &Document, labels: &[String]) -> String {
    match document.trace.user_work {
        UserWork::None => {
            "No share of run time is given: the trace has no user work, and none was \
                           assumed (--user-work)."
                .to_owned()
        }
        UserWork::InTrace | UserWork::Assumed => {
            let source = match document.trace.user_work {
                UserWork::Assumed => "assumed",
                _ => "recorded",
            };
            let shares: Vec<String> = document
                .splits
                .iter()
                .filter(|e| document.results[e.to].config.split == Split::G4G4)
                .map(|e| {
                    let total = document.results[e.from].cycles.total.max(1);
                    let tenths = i128::from(e.run.total) * 1000 / i128::from(total);
                    let sign = if tenths < 0 { "-" } else { "+" };
                    let tenths = tenths.unsigned_abs();
                    format!("{} {sign}{}.{} %", labels[e.from], tenths / 10, tenths % 10)
                })
                .collect();
            match shares.is_empty() {
                true => format!("User work is {source}."),
                false => format!(
                    "With user work as {source}, 4G/4G changes the run time by: {}.",
                    shares.join(", ")
                ),
            }
        }
    }
}
