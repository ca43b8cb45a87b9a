//! Replaying from the command line: results repeat byte for byte, can be read back, and survive Ctrl-C.

mod common;

use common::lowmem;
use lowmem_trace::TraceBuilder;
use serde_json::Value;
use std::path::PathBuf;

/// Runs and expects exit code 0 and silence on stderr; returns stdout.
fn good(args: &[&str]) -> String {
    let out = lowmem(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {stderr}");
    assert!(stderr.is_empty(), "{args:?}: {stderr}");
    String::from_utf8(out.stdout).unwrap()
}

/// Null calls of that trace: 20, one more by each process, and a wait.
const CALLS: u64 = 23;

/// Two processes that share, copy, unmap and make calls.
fn trace() -> (tempfile::TempDir, PathBuf) {
    let mut t = TraceBuilder::new("small");
    let p = t.spawn();
    let at = t.on(p).mmap_anon(64 * 4096);
    t.on(p).write_pages(at, 64 * 4096);
    for _ in 0..20 {
        t.on(p).null_call();
    }
    let child = t.on(p).fork();
    t.on(p).read(at);
    t.sleep(child);
    t.on(child).write_pages(at, 16 * 4096).null_call().exit();
    t.on(p).wait(child).munmap(at, 32 * 4096).null_call().exit();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.lmt");
    t.finish().save(&path).unwrap();
    (dir, path)
}

/// The whole matrix in `mode`: complete rows, one memory hash, the same bytes again and with two jobs, and read back.
fn matrix_repeats(mode: &str) {
    let (dir, path) = trace();
    let path = path.to_str().unwrap();
    let args = ["compare", path, "--mode", mode, "--check", "--json"];
    let first = good(&args);
    assert_eq!(first, good(&args));
    assert_eq!(first, good(&[&args[..], &["--jobs", "2"]].concat()));
    let result = dir.path().join("r.json");
    std::fs::write(&result, &first).unwrap();
    let again = [&args[..], &["--config", result.to_str().unwrap()]].concat();
    assert_eq!(first, good(&again));

    let json: Value = serde_json::from_str(&first).unwrap();
    let rows = json["results"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    let hash = rows[0]["memory_hash"].as_str().unwrap();
    assert_eq!(hash.len(), 32);
    for row in rows {
        assert_eq!(row["outcome"], "complete");
        assert_eq!(row["memory_hash"], hash);
        assert!(row["lowmem"]["used_bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_native_matrix_repeats() {
    matrix_repeats("native");
}

#[test]
fn a_cycle_matrix_repeats() {
    matrix_repeats("cycle");
}

/// 4G/4G loads CR3 twice per entry and costs more by what the lines say; the unmap probe has its samples.
#[test]
fn a_cycle_matrix_explains_the_split() {
    let (_dir, path) = trace();
    let out = good(&["compare", path.to_str().unwrap(), "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    let splits = json["splits"].as_array().unwrap();
    assert_eq!(splits.len(), 2);
    for pair in splits {
        let null = &pair["null_call"];
        assert_eq!(null["entries"], CALLS);
        let lines = null["lines"].as_object().unwrap();
        let sum: i64 = lines.values().map(|n| n.as_i64().unwrap()).sum();
        assert_eq!(sum, null["total"].as_i64().unwrap());
        // pentium4: a load of CR3 is 405 cycles, its PDPTEs 1150.
        assert_eq!(lines["cr3_loads"], 2 * 405 * CALLS);
        assert_eq!(lines["pdpte_loads"], 2 * 1150 * CALLS);
    }
    for row in json["results"].as_array().unwrap() {
        assert_eq!(
            row["unmap"]["source"], "probe",
            "{}",
            row["unmap"]["reason"]
        );
        let calls = &row["operations"]["null_call"];
        let per_entry = if row["config"]["split"] == "4g4g" {
            2
        } else {
            0
        };
        assert_eq!(calls["flushes"]["split"], per_entry * CALLS);
        for tlb in ["dtlb", "itlb"] {
            let t = &row["tlb"][tlb];
            let n = |key: &str| t[key].as_u64().unwrap();
            let causes = n("flush") + n("remap") + n("cold") + n("capacity");
            assert_eq!(causes, n("misses"));
        }
    }
}

#[test]
fn too_little_memory_is_exit_3_with_zone_and_owner() {
    let mut t = TraceBuilder::new("large");
    let p = t.spawn();
    let at = t.on(p).mmap_anon(64 << 20);
    // Locked, so that nothing can go to swap.
    t.on(p).mlock(at, 64 << 20).exit();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.lmt");
    t.finish().save(&path).unwrap();
    let args = [
        "replay",
        path.to_str().unwrap(),
        "--ram",
        "24M",
        "--mode",
        "native",
    ];
    let out = lowmem(&args);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(3), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("livelock") && stderr.contains("zone"),
        "{stderr}"
    );
    assert!(!out.stdout.is_empty(), "the row is printed");
}
