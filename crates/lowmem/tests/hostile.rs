//! The built command against a hostile user: damaged files, endless devices, absurd numbers, closed pipes, Ctrl-C.
//!
//! Every case ends with one line that names the file or option, the exit code of the design, and nothing half-written.

mod common;

use common::{bad, command, good, small};
use lowmem_trace::Trace;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../traces")
        .join(name)
}

/// CRC-32 (IEEE 802.3), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg())
        })
    })
}

#[test]
fn every_damage_to_a_trace_is_found_and_placed() {
    let bytes = std::fs::read(shipped("sort64.lmt")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.lmt");
    let refused = |damaged: &[u8], what: &str| {
        std::fs::write(&path, damaged).unwrap();
        let line = bad(1, &["trace", "info", path.to_str().unwrap()]);
        assert!(line.contains("x.lmt"), "{what}: {line}");
        line
    };
    for n in (0..100).chain((100..bytes.len()).step_by(97)) {
        refused(&bytes[..n], &format!("cut at {n}"));
    }
    for i in (0..bytes.len() * 8).step_by(173) {
        let mut damaged = bytes.clone();
        damaged[i / 8] ^= 1 << (i % 8);
        refused(&damaged, &format!("bit {i}"));
    }
    for i in (0..bytes.len() - 64).step_by(61) {
        let mut damaged = bytes.clone();
        for (k, b) in damaged[i..i + 64].iter_mut().enumerate() {
            *b = b.wrapping_mul(31).wrapping_add(k as u8 | 1);
        }
        refused(&damaged, &format!("64 bytes at {i}"));
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(refused(&longer, "a byte more").contains("behind the length"));
    let mut future = bytes.clone();
    future[8] = 99;
    let crc = crc32(&future[..28]).to_le_bytes();
    future[28..32].copy_from_slice(&crc);
    assert!(refused(&future, "version 99").contains("comes from a newer lowmem"));
}

/// A device without end is refused after its first bytes, not when memory is full.
#[test]
fn endless_files_are_refused() {
    for args in [
        &["compare", "/dev/zero"][..],
        &["compare", "--config", "/dev/zero"],
        &["presets", "show", "/dev/zero"],
        &["trace", "import", "/dev/zero", "-o", "never.lmt"],
    ] {
        assert!(bad(1, args).contains("/dev/zero"));
    }
    let dir = tempfile::tempdir().unwrap();
    let huge = dir.path().join("huge.lmt");
    let file = std::fs::File::create(&huge).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(bad(1, &["compare", huge.to_str().unwrap()]).contains("not with the magic bytes"));
}

#[test]
fn half_and_garbled_recordings_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.lmt");
    let refused = |name: &str, text: &str, message: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let args = ["trace", "import", path.to_str().unwrap(), "-o"];
        let line = bad(1, &[&args[..], &[out.to_str().unwrap()]].concat());
        assert!(line.contains(name) && line.contains(message), "{line}");
        assert!(!out.exists());
    };
    let strace = "12 1394.208957 brk(NULL) = 0x1000\n";
    let perf = "1/1 [001] 1394.4108: raw_syscalls:sys_enter: NR 383\n";
    let lackey =
        "==12== Lackey, an example Valgrind tool\n==12== Command: /bin/true\nI  08048000,2\n";
    refused("a.strace", strace, "the perf script file is missing");
    refused("a.perf", perf, "the strace file is missing");
    refused(
        "cut.strace",
        "12 1394.208957 brk(NULL) = 0x1000\n12 1394.3",
        "line 2: the file ends",
    );
    refused(
        "a.12.lackey",
        &format!("{lackey}I  08zz8000,2\n"),
        "line 4: address,size expected",
    );
    refused(
        "b.12.lackey",
        &format!("{lackey}\u{1}\u{2}garbage\n"),
        "line 4: no line of lackey",
    );
    refused(
        "c.12.lackey",
        lackey,
        "line 3: the file ends before lackey's summary",
    );
}

#[test]
fn jobs_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.lmt");
    small().save(&path).unwrap();
    let args = [
        "compare",
        path.to_str().unwrap(),
        "--mode",
        "native",
        "--jobs",
    ];
    let jobs = |n: &'static str| [&args[..], &[n]].concat();
    assert!(bad(2, &jobs("0")).contains("--jobs 0"));
    assert_eq!(good(&jobs("1000000")), good(&jobs("1")));
}

/// Only regular files are replaced, and a full disk leaves nothing behind.
#[test]
fn traces_are_saved_whole_or_not_at_all() {
    let message = small().save("/dev/null").unwrap_err().to_string();
    assert!(
        message.contains("/dev/null: cannot write: not a regular file"),
        "{message}"
    );
    let dir = tempfile::tempdir().unwrap();
    assert!(small().save(dir.path()).is_err());
    let missing = dir.path().join("missing/x.lmt");
    let message = small().save(&missing).unwrap_err().to_string();
    assert!(message.contains("missing/x.lmt"), "{message}");

    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24k", "none"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        eprintln!("skipped the full disk: a tmpfs cannot be mounted here");
        return;
    }
    let trace = Trace::open(shipped("mremapfork1.lmt")).unwrap();
    let saved = trace.save(disk.join("x.lmt"));
    let left = std::fs::read_dir(&disk).unwrap().count();
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    assert!(unmounted.success());
    let message = saved.unwrap_err().to_string();
    assert!(message.contains("x.lmt: cannot write"), "{message}");
    assert_eq!(left, 0, "files left on the full disk");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let lksh = shipped("lksh.lmt");
    let mut child = command(&[
        "trace",
        "view",
        lksh.to_str().unwrap(),
        "--count",
        "99999999",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut first).unwrap();
    drop(reader);
    assert!(first.trim_start().starts_with("0  exec"), "{first}");
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert!(out.stderr.is_empty());
}

/// Finished rows are printed when the user interrupts.
#[test]
fn an_interrupted_comparison_prints_what_it_has() {
    let rams: Vec<String> = (0..64).map(|i| format!("{}M", 512 + 4 * i)).collect();
    let child = command(&["compare", "--mode", "native", "--ram", &rams.join(",")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(killed.success());
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    let words: Vec<&str> = stderr.split_whitespace().collect();
    assert_eq!(words[..2], ["lowmem:", "interrupted:"], "{stderr}");
    assert_eq!(words[3..5], ["of", "256"], "{stderr}");
    assert_eq!(words[2] == "0", out.stdout.is_empty(), "{stderr}");
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value}: not a whole number"))
}

fn sum(map: &Value) -> u64 {
    map.as_object().unwrap().values().map(number).sum()
}

/// The sums that the schema promises.
#[test]
fn sums_of_results_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.lmt");
    small().save(&path).unwrap();
    let path = path.to_str().unwrap();
    for args in [
        &["compare", path, "--json"][..],
        &[
            "replay", path, "--split", "4g4g", "--cpu", "pentium3", "--json",
        ],
    ] {
        let json: Value = serde_json::from_str(&good(args)).unwrap();
        assert_eq!(json["schema"], "lowmem.result/1");
        for row in json["results"].as_array().unwrap() {
            let lowmem = &row["lowmem"];
            assert_eq!(sum(&lowmem["by_owner"]), number(&lowmem["used_bytes"]));
            let by = row["cycles"]["by"].as_object().unwrap();
            let total: u64 = by.values().map(sum).sum();
            assert!(total > 0);
            assert_eq!(total, number(&row["cycles"]["total"]));
            let operations = row["operations"].as_object().unwrap().values();
            let entered: u64 = operations.map(|o| number(&o["cycles"])).sum();
            assert_eq!(entered, total - sum(&by["user"]));
            for tlb in ["dtlb", "itlb"] {
                let n = |key: &str| number(&row["tlb"][tlb][key]);
                assert_eq!(n("hits") + n("misses"), n("accesses"), "{tlb}");
            }
        }
    }
}
