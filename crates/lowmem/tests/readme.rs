//! The README, `.ci/run` and the command say the same.

use std::path::{Path, PathBuf};

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
