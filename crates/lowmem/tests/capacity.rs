//! `lowmem capacity` as a command: rows as they come, Ctrl-C, loads that only one split has room for.

mod common;

use common::{bad, command, good};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

const SMALL: [&str; 10] = [
    "capacity",
    "--segment",
    "4M",
    "--touched",
    "1",
    "--vmas",
    "4",
    "--split",
    "3g1g",
    "--rmap",
];

/// The first row is printed while the second one runs; Ctrl-C then gives what the second one holds so far.
#[test]
fn rows_come_as_they_are_known_and_ctrl_c_keeps_the_one_under_way() {
    let args = [
        &SMALL[..],
        &["anon_vma", "--ram", "32M,8G", "--limit", "9000"],
    ]
    .concat();
    let mut child = command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("anon_vma 3g1g 32M") {
        assert!(reader.read_line(&mut seen).unwrap() > 0, "{seen}");
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert_eq!(
        stderr,
        "lowmem: interrupted: 1 of 2 configurations finished\n"
    );
    let row = rest.lines().next().unwrap();
    assert!(
        row.contains(">= ") && row.contains(" interrupted "),
        "{rest}"
    );
    let words = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("at least ") && words.contains(" processes, interrupted, at operation ")
    );
}

#[test]
fn json_and_csv_have_the_same_rows() {
    let args = |form| {
        [
            &SMALL[..],
            &["anon_vma,pte_chain", "--ram", "64M", "--limit", "5", form],
        ]
        .concat()
    };
    let json: Value = serde_json::from_str(&good(&args("--json"))).unwrap();
    let csv = good(&args("--csv"));
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let at = |name| names.iter().position(|n| *n == name).unwrap();
    let (processes, at_least) = (at("processes"), at("at_least"));
    let used = at("lowmem.used_bytes");
    for (row, line) in json["results"].as_array().unwrap().iter().zip(lines) {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), names.len(), "{line}");
        assert_eq!(cells[processes], row["processes"].to_string());
        assert_eq!(cells[at_least], row["at_least"].to_string());
        assert_eq!(cells[used], row["lowmem"]["used_bytes"].to_string());
        assert_eq!(
            (&row["processes"], &row["at_least"]),
            (&5.into(), &true.into())
        );
    }
    bad_form(&args("--json"));
}

fn bad_form(args: &[&str]) {
    let out = command(args).arg("--csv").output().unwrap();
    assert_eq!(out.status.code(), Some(2));
}

/// The largest segment of 4G/4G: 3.4 GB.
#[test]
fn a_segment_of_3_4_gb_runs_on_4g4g_only() {
    let segment = ["--segment", "3.4G", "--touched", "0.001", "--vmas", "4"];
    let capacity = |split| {
        [
            &["capacity"],
            &segment[..],
            &[
                "--rmap",
                "pte_chain",
                "--limit",
                "3",
                "--ram",
                "4G",
                "--split",
                split,
            ],
        ]
        .concat()
    };
    let text = good(&capacity("4g4g"));
    assert!(text.contains(">= 3  complete"), "{text}");
    for split in ["3g1g", "3g1g,4g4g", "2g2g"] {
        let e = bad(2, &capacity(split));
        assert!(e.contains("a process maps 3,"), "{e}");
        assert!(e.contains("--split 4g4g has room for"), "{e}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sga.lmt");
    let path = path.to_str().unwrap();
    let generate = [
        &[
            "trace",
            "generate",
            "shared-segment",
            "--processes",
            "3",
            "--transactions",
            "2",
            "--zipf",
            "0.8",
            "-o",
            path,
        ],
        &segment[..],
    ]
    .concat();
    let said = good(&generate);
    assert!(said.contains("only split 4g4g has room for it"), "{said}");
    good(&["trace", "check", path]);
    let replay = |split| {
        [
            "replay", path, "--mode", "native", "--check", "--rmap", "anon_vma", "--ram", "4G",
            "--split", split,
        ]
    };
    good(&replay("4g4g"));
    let e = bad(2, &replay("3g1g"));
    assert!(
        e.contains("split 3g1g: user space ends at 0xc0000000"),
        "{e}"
    );
    let packed = [&replay("3g1g")[..], &["--layout", "packed"]].concat();
    let e = bad(1, &packed);
    assert!(e.contains("cannot be packed below 0xc0000000"), "{e}");
}

#[test]
fn exponents_and_sizes_out_of_range_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.lmt");
    let path = path.to_str().unwrap();
    for (option, value, why) in [
        ("--zipf", "1.6", "is not an exponent from 0 to 1.5"),
        ("--zipf", "-0.1", "is not an exponent from 0 to 1.5"),
        ("--zipf", "much", "is not an exponent from 0 to 1.5"),
        ("--segment", "3.4", "is not a size such as 64M or 3.4G"),
        ("--segment", ".5G", "is not a size such as 64M or 3.4G"),
        ("--segment", "1.x5G", "is not a size such as 64M or 3.4G"),
    ] {
        let option = format!("{option}={value}");
        let out = command(&["trace", "generate", "shared-segment", &option, "-o", path])
            .output()
            .unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(why), "{option}: {stderr}");
    }
    let e = bad(
        2,
        &[
            "trace",
            "generate",
            "shared-segment",
            "--segment",
            "3.9G",
            "-o",
            path,
        ],
    );
    assert!(e.contains("pages of address space"), "{e}");
}
