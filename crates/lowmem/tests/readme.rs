//! The README, `.ci/run` and the command say the same.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Marks of the result in the README.
const BEGIN: &str = "<!-- result of `lowmem compare`, written by a test -->";
const END: &str = "<!-- end of result -->";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let readme = read("README.md");
    let commands: Vec<&str> = readme
        .split("```")
        .skip(1)
        .step_by(2)
        .map(str::trim)
        .filter(|block| block.starts_with("cargo "))
        .collect();
    assert_eq!(
        commands,
        [
            "cargo run --release -- compare",
            "cargo test --workspace --release"
        ]
    );
    assert!(read(".ci/run").contains(&format!("step {}\n", commands[1])));
}

/// The result on the README's first screen is what the command prints. `UPDATE_README=1` writes it anew.
#[test]
fn the_result_of_the_readme_is_what_the_command_prints() {
    let out = Command::new(env!("CARGO_BIN_EXE_lowmem"))
        .arg("compare")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    let result = String::from_utf8(out.stdout).unwrap();
    let readme = read("README.md");
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    let expected = format!("\n```\n{result}```\n");
    if std::env::var_os("UPDATE_README").is_some() {
        let text = format!("{before}{BEGIN}{expected}{END}{after}");
        std::fs::write(root().join("README.md"), text).unwrap();
        return;
    }
    assert!(
        shown == expected,
        "the README shows another result; if the change is meant, run: \
         UPDATE_README=1 cargo test --release -p lowmem --test readme"
    );
}

#[test]
fn every_file_that_the_readme_names_exists() {
    let readme = read("README.md");
    for link in readme.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        if !target.contains("://") {
            assert!(root().join(target).exists(), "{target}");
        }
    }
}
