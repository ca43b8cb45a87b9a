//! The built command: exit codes and messages for good and bad input.

mod common;

use common::{bad, command, good, lowmem, small};
use lowmem_trace::Trace;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A small trace in a temporary folder.
fn trace() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.lmt");
    small().save(&path).unwrap();
    (dir, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_is_planned_is_answered_with_its_name() {
    let (_dir, path) = trace();
    let t = text(&path);
    for (args, message) in [
        (&["validate"][..], "lowmem: validate: not yet"),
        (&["trace", "upgrade", t], "lowmem: trace upgrade: not yet"),
        (
            &["compare", t, "--cpu", "zen4"],
            "lowmem: cpu zen4: not yet",
        ),
        (
            &["compare", t, "--cpu", "none"],
            "lowmem: cpu none in cycle mode: not yet",
        ),
        (
            &["compare", t, "--layouts", "5"],
            "lowmem: --layouts: not yet",
        ),
        (
            &["compare", t, "--mode", "sampled"],
            "lowmem: --mode sampled: not yet",
        ),
        (
            &["replay", t, "--interval", "100"],
            "lowmem: --interval: not yet",
        ),
    ] {
        assert_eq!(bad(2, args), message);
    }
}

#[test]
fn a_bad_command_line_is_exit_2() {
    let (_dir, path) = trace();
    let t = text(&path);
    for (args, message) in [
        (
            &["compare", t, "--ram", "65G"][..],
            "ram of 69793218560 bytes: must be 24M to 64G",
        ),
        (&["compare", t, "--ram", "4X"], "--ram \"4X\": not a size"),
        (
            &["compare", t, "--rmap", "anonvma"],
            "unknown rmap \"anonvma\", did you mean \"anon_vma\"?",
        ),
        (
            &["compare", t, "--cpu", "pentium5"],
            "unknown cpu preset \"pentium5\", did you mean",
        ),
        (
            &["compare", t, "--set", "l2.latncy=3"],
            "unknown preset key \"l2.latncy\", did you mean \"l2.latency\"?",
        ),
        (&["compare", t, "--set", "l2.latency"], "not KEY=VALUE"),
        (&["compare", t, "--hz", "0"], "hz 0: must be 1 to 10000"),
        (
            &["compare", t, "--cluster", "5"],
            "cluster 5: must be 0 to 4",
        ),
        (
            &["compare", t, "--cluster", "4", "--ram", "32772K"],
            "ram of 33558528 bytes: no multiple of the 65536 bytes of a page",
        ),
        (
            &["compare", t, "--retouch", "8"],
            "--retouch \"8\": not two numbers",
        ),
        (
            &["compare", t, "--fault-around", "some"],
            "--fault-around: unknown variant `some`, expected one of `none`, `resident`, `all`",
        ),
        (
            &["replay", t, "--split", "3g1g,4g4g"],
            "replay runs one configuration, these are 2; use compare",
        ),
        (
            &["trace", "view", t, "--from", "1000000"],
            "--from 1000000: small has",
        ),
        (&["presets", "show", "pentium5"], "unknown cpu preset"),
    ] {
        let line = bad(2, args);
        assert!(line.contains(message), "{args:?}: {line}");
    }
    for args in [
        &["compare", "--jsn"][..],
        &["nothing"],
        &["compare", "--json", "--csv"],
        &[],
    ] {
        assert_eq!(lowmem(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn bad_files_are_exit_1_and_named() {
    let (dir, path) = trace();
    let bytes = std::fs::read(&path).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    for path in [
        file("cut.lmt", &bytes[..bytes.len() - 1]),
        file("flipped.lmt", &flipped),
        file("empty.lmt", b""),
        file("text.lmt", b"hello\n"),
        dir.path().join("missing.lmt"),
        dir.path().to_owned(),
    ] {
        for args in [
            &["compare", text(&path)][..],
            &["trace", "info", text(&path)],
        ] {
            let line = bad(1, args);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(line.contains(name), "{line}");
        }
    }
    let preset = file(
        "p.toml",
        b"name = \"p\"\ninherits = \"pentium3\"\n[l2]\nlatncy = 3\n",
    );
    let line = bad(1, &["presets", "show", text(&preset)]);
    assert!(line.contains("p.toml:4:1: unknown key \"l2.latncy\", did you mean \"l2.latency\"?"));
    let config = file("c.json", b"{\"kernel\": \"2.6.7\",\n \"splt\": \"3g1g\"}");
    let line = bad(1, &["compare", text(&path), "--config", text(&config)]);
    assert!(
        line.contains("c.json: not a configuration: unknown field `splt`")
            && line.contains("line 2"),
        "{line}"
    );
}

#[test]
fn traces_are_described_printed_and_checked() {
    let (_dir, path) = trace();
    let info = good(&["trace", "info", text(&path)]);
    assert!(info.starts_with("small: Synthetic"), "{info}");
    let json: Value =
        serde_json::from_str(&good(&["trace", "info", text(&path), "--json"])).unwrap();
    assert_eq!(json["schema"], "lowmem.trace/1");
    let operations = Trace::open(&path).unwrap().len();
    assert_eq!(json["summary"]["operations"], operations);
    let view = good(&["trace", "view", text(&path), "--count", "3"]);
    assert_eq!(view.lines().count(), 3);
    let all = good(&["trace", "view", text(&path), "--count", "999999", "--json"]);
    assert_eq!(all.lines().count() as u64, operations);
    for (i, line) in all.lines().enumerate() {
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["index"], i);
    }
    assert!(good(&["trace", "check", text(&path)]).contains("checked"));
    assert!(
        good(&["trace", "info"]).starts_with("mremapfork1: FirstTouch"),
        "the built-in trace"
    );
}

#[test]
fn import_refuses_what_it_cannot_read_or_write() {
    let (dir, path) = trace();
    let file = dir.path().join("x.strace");
    std::fs::write(&file, "this is no recording\n").unwrap();
    let out = dir.path().join("out.lmt");
    let line = bad(1, &["trace", "import", text(&file), "-o", text(&out)]);
    assert!(line.contains("x.strace"), "{line}");
    assert!(!out.exists());
    let line = bad(2, &["trace", "import", text(&path), "-o", text(dir.path())]);
    assert!(line.contains("not a regular file"), "{line}");
    let missing = dir.path().join("none.strace.xz");
    let line = bad(1, &["trace", "import", text(&missing), "-o", text(&out)]);
    assert!(line.contains("none.strace.xz"), "{line}");
}

#[test]
fn presets_are_shown_with_mark_and_source() {
    let list = good(&["presets"]);
    assert!(list.contains("pentium3") && list.contains("pentium4") && list.contains("assumption"));
    assert_eq!(list, good(&["presets", "list"]));
    let show = good(&["presets", "show", "pentium4", "--set", "l2.latency=20"]);
    let line = show.lines().find(|l| l.starts_with("l2.latency")).unwrap();
    assert!(line.contains("20") && line.contains("assumption") && line.contains("command line"));
    let json: Value = serde_json::from_str(&good(&["presets", "--json"])).unwrap();
    assert_eq!(json["cpu"].as_array().unwrap().len(), 2);
    assert_eq!(json["cpu"][0]["entries"]["insn.mov_cr3"]["mark"], "derived");
}

#[test]
fn every_subcommand_has_help_with_an_example() {
    for args in [
        &["compare"][..],
        &["replay"],
        &["trace", "import"],
        &["trace", "info"],
        &["trace", "view"],
        &["trace", "check"],
        &["trace", "generate"],
        &["presets"],
        &["presets", "show"],
        &["run"],
        &["capacity"],
        &["measure"],
        &["measure", "writeback"],
        &["measure", "unmap"],
        &["measure", "evictions"],
        &["measure", "mremap"],
        &["measure", "nonlinear"],
        &["validate"],
    ] {
        let help = good(&[args, &["--help"]].concat());
        assert!(help.contains("Example"), "{args:?}");
        assert!(help.lines().all(|l| l.chars().count() <= 100), "{args:?}");
    }
}

/// No line of what people read is wider than a terminal of 100 columns, whatever the names of rows are.
#[test]
fn output_fits_100_columns() {
    let (_dir, path) = trace();
    let maps = "anon_vma_chain,pte_chain,pte_chain_v1";
    for args in [
        &["presets"][..],
        &["presets", "show", "pentium4"],
        &["presets", "show", "pentium3"],
        &["presets", "show", "rhel3-hugemem"],
        &[
            "compare",
            text(&path),
            "--rmap",
            maps,
            "--highpte",
            "off",
            "--cluster",
            "0,3",
        ],
    ] {
        let out = lowmem(args);
        let out = String::from_utf8(out.stdout).unwrap();
        assert!(!out.is_empty(), "{args:?}");
        for line in out.lines() {
            assert!(line.chars().count() <= 100, "{args:?}: {line}");
        }
    }
    // What goes below is not lost.
    let json: Value =
        serde_json::from_str(&good(&["presets", "show", "pentium4", "--json"])).unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = words(&good(&["presets", "show", "pentium4"]));
    for entry in json["entries"].as_object().unwrap().values() {
        let source = words(entry["source"].as_str().unwrap());
        assert!(shown.contains(&source), "{source}");
    }
}

fn measured(args: &[&str]) -> Vec<serde_json::Value> {
    let json = good(&[&["measure"], args, &["--json"]].concat());
    let document: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["schema"], "lowmem.measure/1", "{args:?}");
    assert_eq!(document["measure"], args[0]);
    let results = document["results"].as_array().unwrap().clone();
    assert!(results.iter().all(|r| r["config"].is_object()));
    results
}

/// Chains examine a pte for each sharer and visit nobody in vain; the object's vmas are as many.
#[test]
fn measure_unmap_counts() {
    let args = [
        "unmap",
        "--rmap",
        "anon_vma,pte_chain",
        "--split",
        "3g1g",
        "--sharers",
        "1,3",
    ];
    let results = measured(&args);
    assert_eq!(results.len(), 2);
    for result in &results {
        let points = result["points"].as_array().unwrap();
        // Seven cases of two numbers of sharers.
        assert_eq!(points.len(), 14);
        let removals = result["removals"].as_array().unwrap();
        assert_eq!(removals.len(), 2);
        assert!(removals.iter().all(|r| r["cycles"].as_u64().unwrap() > 0));
        for p in points {
            assert_eq!(p["end"], "unmapped", "{p}");
            let parts = p["cycles"].as_object().unwrap().values();
            assert!(parts.map(|c| c.as_u64().unwrap()).sum::<u64>() > 0, "{p}");
        }
        let shared = points
            .iter()
            .find(|p| p["case"] == "shared_anonymous" && p["n"] == 3);
        assert_eq!(shared.unwrap()["ptes_cleared"], 3);
    }
    let table = good(&[&["measure"], &args[..]].concat());
    assert!(
        table.contains("An anonymous page that n processes share"),
        "{table}"
    );
}

/// What two maps evict differs by their memory alone.
#[test]
fn measure_evictions_names_the_cause() {
    let args = [
        "evictions",
        "--rmap",
        "anon_vma,pte_chain",
        "--file-vmas",
        "prio_tree,list",
    ];
    let results = measured(&args);
    assert_eq!(results.len(), 4);
    for r in &results {
        // How a file's vmas are found takes no memory and decides nothing.
        if r["config"]["rmap"] == "anon_vma" {
            assert_eq!(r["cause"], serde_json::Value::Null, "{r}");
            assert_eq!(r["equal"]["all"], true);
            continue;
        }
        assert_eq!(r["cause"], "memory");
        assert_eq!(r["apart"]["equal"]["all"], true);
        let owners = &r["first_difference"]["lowmem_bytes"];
        assert!(owners["pte_chain"]["own"].as_u64() > owners["pte_chain"]["first_row"].as_u64());
    }
    for r in &results {
        assert_eq!(r["memory_hash"], results[0]["memory_hash"]);
    }
    let table = good(&[&["measure"], &args[..]].concat());
    assert!(table.contains("decisions of reclaim"), "{table}");
}

/// The CSV of a measure has a line per row of its tables, and the numbers of the JSON.
#[test]
fn measures_are_csv_as_well() {
    let args = [
        "unmap",
        "--rmap",
        "pte_chain",
        "--split",
        "3g1g",
        "--sharers",
        "1,3",
    ];
    let csv = good(&[&["measure"], &args[..], &["--csv"]].concat());
    let mut lines = csv.lines().map(|l| l.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|c| *c == name).unwrap();
    let lines: Vec<Vec<&str>> = lines.collect();
    assert_eq!(lines.len(), 14 + 2);
    assert!(lines.iter().all(|l| l.len() == header.len()));
    assert!(
        lines
            .iter()
            .all(|l| l[column("config.rmap")] == "pte_chain")
    );
    let results = measured(&args);
    let points = results[0]["points"].as_array().unwrap();
    let of = |table: &'static str| {
        let at = column("table");
        lines.iter().filter(move |l| l[at] == table)
    };
    for (line, point) in of("points").zip(points) {
        assert_eq!(line[column("case")], point["case"].as_str().unwrap());
        for name in ["n", "rounds", "ptes_cleared"] {
            assert_eq!(line[column(name)], point[name].to_string(), "{name}");
        }
    }
    let removals = results[0]["removals"].as_array().unwrap();
    for (line, removal) in of("removals").zip(removals) {
        assert_eq!(line[column("cycles")], removal["cycles"].to_string());
        assert_eq!(line[column("case")], "");
    }
    assert_eq!(bad_form(&["measure", "unmap", "--csv", "--json"]), 2);
}

fn bad_form(args: &[&str]) -> i32 {
    lowmem(args).status.code().unwrap()
}

#[test]
fn measure_mremap_counts_copies() {
    let args = ["mremap", "--rmap", "anonmm", "--split", "3g1g"];
    let results = measured(&args);
    let rows = results[0]["rows"].as_array().unwrap();
    let copies: Vec<_> = rows
        .iter()
        .map(|r| {
            (
                r["mremap"]["copies"].as_u64(),
                r["swapoff"]["copies"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        copies,
        [
            (Some(64), Some(0)),
            (Some(0), Some(192)),
            (Some(0), Some(0))
        ]
    );
}

#[test]
fn measure_nonlinear_knows_both_sweeps() {
    let args = ["nonlinear", "--rmap", "anon_vma", "--split", "3g1g"];
    let results = measured(&args);
    assert_eq!(results.len(), 2);
    assert_eq!(results[1]["config"]["nonlinear"], "whole");
    for result in &results {
        let rows = result["rows"].as_array().unwrap();
        let ways: Vec<_> = rows.iter().map(|r| r["way"].as_str().unwrap()).collect();
        assert_eq!(ways, ["nonlinear", "many_vmas", "locked"]);
        assert!(rows[1]["vma_bytes"].as_u64() > rows[0]["vma_bytes"].as_u64());
    }
}

/// A result that cannot be written is an error; a reader that has gone away is not.
#[test]
fn a_full_disk_is_exit_1() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let out = command(&["presets", "show", "pentium4"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(
        stderr.starts_with("lowmem: cannot write the result:"),
        "{stderr}"
    );
}

/// Each load of `trace generate`, small: written, valid, and replayed by both kinds of reverse map to the same memory.
#[test]
fn generated_loads_replay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("load.lmt");
    let out = text(&path);
    for load in [
        &[
            "shared-segment",
            "--processes",
            "3",
            "--segment",
            "1M",
            "--private",
            "40K",
            "--vmas",
            "6",
        ][..],
        &[
            "prefork",
            "--children",
            "3",
            "--requests",
            "30",
            "--parent",
            "100K",
            "--vmas",
            "6",
        ],
        &["compile", "--files", "3", "--jobs", "2", "--cc1", "200K"],
        &[
            "worst-case",
            "--tasks",
            "4",
            "--vmas",
            "5",
            "--window",
            "40K",
        ],
        &["many-vmas", "--count", "30", "--areas", "nonlinear"],
        &["many-vmas", "--count", "30", "--areas", "guards"],
        &[
            "swap-storm",
            "--memory",
            "400K",
            "--order",
            "zipf",
            "--zipf",
            "0.8",
        ],
        &["mremap-fork", "--pages", "20", "--children", "2"],
    ] {
        good(&[&["trace", "generate", "-o", out], load].concat());
        good(&["trace", "check", out]);
        let args = [
            "compare", out, "--mode", "native", "--split", "3g1g", "--check", "--json",
        ];
        let result: Value = serde_json::from_str(&good(&args)).unwrap();
        let rows = result["results"].as_array().unwrap();
        assert!(rows.iter().all(|r| r["outcome"] == "complete"), "{load:?}");
        assert!(
            rows.iter()
                .all(|r| r["memory_hash"] == rows[0]["memory_hash"]),
            "{load:?}"
        );
    }
}

#[test]
fn kernels_are_shown_with_what_they_lack() {
    let text = good(&["presets", "show", "2.6.6"]);
    assert!(
        text.contains("pte_chain") && text.contains("not covered"),
        "{text}"
    );
    let json: Value =
        serde_json::from_str(&good(&["presets", "show", "2.6.34", "--json"])).unwrap();
    assert_eq!(json["config"]["rmap"], "anon_vma_chain");
    assert_eq!(json["config"]["young_flush"], "on");
}

/// Kernels are combinations of axes: the rows say so, and an axis set apart is an override.
#[test]
fn kernels_set_the_axes() {
    let (_dir, path) = trace();
    let args = [
        "compare",
        text(&path),
        "--kernel",
        "2.6.6,2.6.7",
        "--hz",
        "100",
        "--mode",
        "native",
        "--json",
    ];
    let result: Value = serde_json::from_str(&good(&args)).unwrap();
    let rows = result["results"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["config"]["rmap"], "pte_chain");
    assert_eq!(rows[0]["config"]["file_vmas"], "list");
    assert_eq!(
        rows[0]["config"]["overrides"],
        serde_json::json!({"hz": "100"})
    );
    assert_eq!(rows[0]["memory_hash"], rows[1]["memory_hash"]);
}
