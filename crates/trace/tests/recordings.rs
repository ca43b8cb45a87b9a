//! All recordings against the totals of their reference replay.
//!
//! The recordings are not in the repository (12 MB). With them in a folder:
//! `LOWMEM_RECORDINGS=FOLDER cargo test --release -p lowmem-trace --test recordings -- --ignored --nocapture`

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lowmem_trace::{
    Trace, TraceError,
    import::{ImportOptions, import},
};
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(
        std::env::var_os("LOWMEM_RECORDINGS").expect("LOWMEM_RECORDINGS names the folder"),
    )
}

fn import_pair(folder: &Path, name: &str) -> Result<Trace, TraceError> {
    let file = |half: &str| folder.join(format!("{name}.{half}.xz"));
    import(
        &[file("strace"), file("perf")],
        &ImportOptions::default(),
        |_, _| {},
    )
}

/// Names of all pairs, or those in `LOWMEM_ONLY`, separated by commas.
fn wanted(name: &str) -> bool {
    std::env::var("LOWMEM_ONLY").map_or(true, |only| only.split(',').any(|n| n == name))
}

fn compare(totals: &serde_json::Map<String, Value>, trace: &Trace) -> Vec<String> {
    let found = &trace.header().totals;
    let mut wrong = Vec::new();
    for (key, value) in totals {
        let ours = match (key.as_str(), value) {
            (
                "name" | "seconds" | "top_syscalls" | "max_vmas_comm" | "footprint_comm"
                | "fits_3G",
                _,
            ) => continue,
            ("addr_hi", Value::String(hex)) => {
                let want = u64::from_str_radix(&hex[2..], 16).unwrap();
                (found.get("addr_hi") == want)
                    .then_some(())
                    .ok_or(found.get("addr_hi").to_string())
            }
            ("max_sharers", Value::Object(want)) => {
                let want: BTreeMap<String, u64> = want
                    .iter()
                    .map(|(k, v)| (k.clone(), v.as_u64().unwrap()))
                    .collect();
                (found.max_sharers == want)
                    .then_some(())
                    .ok_or(format!("{:?}", found.max_sharers))
            }
            (_, Value::Number(n)) => match found.counts.get(key) {
                Some(&x) if Some(x) == n.as_u64() => Ok(()),
                x => Err(format!("{x:?}")),
            },
            _ => Err("unknown kind of total".to_owned()),
        };
        if let Err(ours) = ours {
            wrong.push(format!("{key}: {value} wanted, {ours} found"));
        }
    }
    wrong
}

#[test]
#[ignore = "needs the recordings: see the head of this file"]
fn pairs_equal_their_totals() {
    let folder = folder();
    let text = std::fs::read_to_string(folder.join("totals.json")).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut wrong = Vec::new();
    for totals in all.iter().filter_map(Value::as_object) {
        let name = totals["name"].as_str().unwrap();
        if !wanted(name) {
            continue;
        }
        let begin = std::time::Instant::now();
        let trace = match import_pair(&folder, name) {
            Ok(trace) => trace,
            Err(e) => {
                println!("{name}: {e}");
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        let took = begin.elapsed();
        trace.check(|_| {}).unwrap();
        if let Err(e) = trace.check_vfork_as_fork(|_| {}) {
            wrong.push(format!("vfork as fork: {e}"));
        }
        let (s, recorded) = (trace.summary(), trace.info().recorded_switches);
        println!(
            "{name}: {} operations, {} bytes, switches {} of {recorded} ({} forced), peak {} ptes, {:.1} s",
            s.operations,
            trace.bytes().len(),
            s.switches,
            s.forced_switches,
            s.peak_ptes,
            took.as_secs_f64()
        );
        trace
            .header()
            .notes
            .iter()
            .for_each(|n| println!("    {n}"));
        // Beyond perf's records: the root's image, what strace saw of the root before perf came, and
        // calls that packing split.
        println!(
            "    {} calls beyond perf's",
            s.calls - trace.header().totals.get("syscalls")
        );
        for line in compare(totals, &trace) {
            println!("    {line}");
            wrong.push(format!("{name}: {line}"));
        }
        if s.switches.abs_diff(recorded) * 10 > recorded {
            wrong.push(format!(
                "{name}: {} switches, {recorded} recorded",
                s.switches
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "needs the recordings: see the head of this file"]
fn lackey_files_equal_their_totals() {
    let folder = folder();
    let text = std::fs::read_to_string(folder.join("totals.json")).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    for files in all.iter().filter_map(Value::as_array) {
        let paths: Vec<PathBuf> = files
            .iter()
            .map(|f| folder.join(f["name"].as_str().unwrap()))
            .collect();
        let begin = std::time::Instant::now();
        let trace = import(&paths, &ImportOptions::default(), |_, _| {}).unwrap();
        let took = begin.elapsed();
        trace.check(|_| {}).unwrap();
        println!(
            "{}: {} operations, {} bytes, {} switches, peak {} ptes, {:.1} s",
            trace.name(),
            trace.len(),
            trace.bytes().len(),
            trace.summary().switches,
            trace.summary().peak_ptes,
            took.as_secs_f64()
        );
        let mut references = 0;
        for file in files {
            let pid = file["name"].as_str().unwrap().split('.').nth(1).unwrap();
            references += file["refs"].as_u64().unwrap();
            for (key, value) in file.as_object().unwrap() {
                let want = match value {
                    Value::Number(n) => n.as_u64().unwrap(),
                    Value::String(hex) if key == "addr_hi" => {
                        u64::from_str_radix(&hex[2..], 16).unwrap()
                    }
                    _ => continue,
                };
                assert_eq!(
                    trace.header().totals.get(&format!("{pid}.{key}")),
                    want,
                    "{pid} {key}"
                );
            }
        }
        assert_eq!(trace.summary().references, references);
    }
}
