//! What tests of the built command share: running it, and a small trace.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use lowmem_trace::{Trace, TraceBuilder};
use std::process::{Command, Output};

/// The built command with arguments, not yet run.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowmem"));
    command.args(args);
    command
}

pub fn lowmem(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Runs and expects exit code 0; returns stdout.
pub fn good(args: &[&str]) -> String {
    let out = lowmem(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {stderr}");
    String::from_utf8(out.stdout).unwrap()
}

/// Runs and expects failure with `code`, one line on stderr and nothing on stdout; returns the line.
pub fn bad(code: i32, args: &[&str]) -> String {
    let out = lowmem(args);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(out.stdout.is_empty(), "{args:?}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    stderr.trim_end().to_owned()
}

/// A parent that touches 64 pages and a child that writes 16 of them.
pub fn small() -> Trace {
    let mut t = TraceBuilder::new("small");
    let p = t.spawn();
    let at = t.on(p).mmap_anon(64 * 4096);
    t.on(p).write_pages(at, 64 * 4096).null_call();
    let child = t.on(p).fork();
    t.on(child).write_pages(at, 16 * 4096).exit();
    t.on(p).wait(child).munmap(at, 64 * 4096).exit();
    t.finish()
}
