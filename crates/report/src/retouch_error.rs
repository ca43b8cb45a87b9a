//! How far the re-touch model is from recordings of every reference: measured, committed, printed with every verdict that
//! rests on the model.
//!
//! `data/retouch_error.toml` is the output of `cargo run --release -p xtask -- retouch-error DIR`, which replays two recordings of every
//! reference as they are and reduced to the faults that a recording of first touches would hold. An error is a
//! ratio: the model's misses over the true ones (and no percentage, which a reader might take for run time). The misses that 4G/4G *adds* are judged apart, because they are
//! what a comparison of splits says, and because the model is made for them.
//!
//! Left out: any claim for other programs. Two small ones were measured, and the range is theirs.
//!
//! Invariant: an error is printed only for the depth, the fault-around and the CPU that were measured.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const TABLE: &str = include_str!("../data/retouch_error.toml");

/// The reduction that is like a recording of first touches.
const AS_RECORDED: &str = "window";

#[derive(Debug, Deserialize)]
struct Data {
    retouch_data: u32,
    retouch_code: u32,
    fault_around: String,
    run: Vec<Run>,
}

#[derive(Debug, Deserialize)]
struct Run {
    recording: String,
    reduction: String,
    cpu: String,
    rmap: String,
    split: String,
    dtlb_every_reference: u64,
    dtlb_model: u64,
    itlb_every_reference: u64,
    itlb_model: u64,
}

impl Run {
    /// (true, model) misses.
    fn dtlb(&self) -> (u64, u64) {
        (self.dtlb_every_reference, self.dtlb_model)
    }

    fn itlb(&self) -> (u64, u64) {
        (self.itlb_every_reference, self.itlb_model)
    }
}

/// What is said about TLB misses of a trace with these assumptions on `cpu`; `None` if nothing was touched again.
pub fn sentence(assumptions: &Map<String, Value>, cpu: &str) -> Option<String> {
    let depth = assumptions.get("retouch")?;
    let (data, code) = (&depth["data"], &depth["code"]);
    if *data == 0 && *code == 0 {
        return None;
    }
    let modelled = format!(
        "Re-references between kernel entries are modelled (--retouch {data},{code}), not recorded."
    );
    let table: Data = toml::from_str(TABLE).expect("a test reads the committed table");
    let around = assumptions.get("fault_around").and_then(Value::as_str);
    let measured = *data == table.retouch_data
        && *code == table.retouch_code
        && around.is_none_or(|a| a == table.fault_around);
    let runs: Vec<&Run> = table
        .run
        .iter()
        .filter(|r| r.cpu == cpu && r.reduction == AS_RECORDED)
        .collect();
    if !measured || runs.is_empty() {
        return Some(format!(
            "{modelled} The error of this setting was not measured (only: {},{}, fault-around {}).",
            table.retouch_data, table.retouch_code, table.fault_around
        ));
    }
    let names: BTreeSet<&str> = runs.iter().map(|r| r.recording.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    Some(format!(
        "{modelled} Against replays of every reference ({}), the model has {} times the DTLB misses and {} times the ITLB misses; \
         of those that 4G/4G adds, {} and {} times.",
        names.join(", "),
        range(runs.iter().map(|r| r.dtlb())),
        range(runs.iter().map(|r| r.itlb())),
        range(added(&runs, Run::dtlb)),
        range(added(&runs, Run::itlb)),
    ))
}

/// What 4G/4G adds to 3G/1G, as (true, model).
fn added<'a>(
    runs: &'a [&'a Run],
    misses: fn(&Run) -> (u64, u64),
) -> impl Iterator<Item = (u64, u64)> + 'a {
    runs.iter()
        .filter(|r| r.split == "4g4g")
        .filter_map(move |r| {
            let base = runs
                .iter()
                .find(|b| b.split == "3g1g" && b.rmap == r.rmap && b.recording == r.recording)?;
            let ((true_4g, model_4g), (true_3g, model_3g)) = (misses(r), misses(base));
            Some((
                true_4g.checked_sub(true_3g)?,
                model_4g.checked_sub(model_3g)?,
            ))
        })
}

/// The model's misses over the true ones, from the least to the greatest, in hundredths.
fn range(pairs: impl Iterator<Item = (u64, u64)>) -> String {
    let ratios: Vec<u64> = pairs
        .map(|(truth, model)| (model * 200 + truth) / (truth.max(1) * 2))
        .collect();
    let text = |n: u64| format!("{}.{:02}", n / 100, n % 100);
    match (ratios.iter().min(), ratios.iter().max()) {
        (Some(&least), Some(&most)) => format!("{} to {}", text(least), text(most)),
        _ => "an unknown number of".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assumptions(data: u32) -> Map<String, Value> {
        let json = serde_json::json!({"retouch": {"data": data, "code": data / 2}, "fault_around": "resident"});
        json.as_object().unwrap().clone()
    }

    #[test]
    fn errors_are_ratios_in_hundredths() {
        let pairs = [(389, 542), (4213, 3716), (1000, 995)];
        assert_eq!(range(pairs.into_iter()), "0.88 to 1.39");
        assert_eq!(range([(200, 199)].into_iter()), "1.00 to 1.00");
        assert_eq!(range(std::iter::empty()), "an unknown number of");
    }

    #[test]
    fn an_error_is_said_only_of_what_was_measured() {
        let said = |data, cpu| sentence(&assumptions(data), cpu);
        assert_eq!(said(0, "pentium4"), None);
        let measured = said(8, "pentium4").unwrap();
        assert!(measured.contains("lkbtree, lksh"), "{measured}");
        assert!(
            measured.contains("4G/4G adds, 0.73 to 0.83 and"),
            "{measured}"
        );
        for other in [said(9, "pentium4"), said(8, "opteron")] {
            assert!(other.unwrap().contains("not measured"));
        }
    }

    #[test]
    fn every_run_of_4g4g_has_its_3g1g() {
        let table: Data = toml::from_str(TABLE).unwrap();
        let runs: Vec<&Run> = table.run.iter().collect();
        assert_eq!(added(&runs, Run::dtlb).count() * 2, runs.len());
    }
}
