//! The rows of the image table and how each is built.
//!
//! The host's stable cargo and linker drive the guest's compiler; core is built with the image for a soft-float i686 target. Paths
//! are remapped (of several matching prefixes the last wins: the checkout, which may hold the others, comes first) and the link
//! script is named relatively, so that the image does not depend on where anything lies.
//!
//! Invariant: one row, one image (decision D11).

use super::toolchain::{Toolchain, output, run};
use super::{Error, read};
use std::path::Path;
use std::process::Command;

/// One image.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name: reverse map and split.
    pub(super) name: &'static str,
    /// Features of guest-vm.
    pub(super) features: &'static str,
    /// Its link script.
    pub(super) script: &'static str,
    /// Probes that this row need not have.
    pub(super) without: &'static [&'static str],
}

const CHAINS: &[&str] = &["chains_allocated", "chains_freed"];
/// Chains visit no vmas, and 2.6.0's try_to_unmap asks neither for young ptes nor for pinned swap-cache pages.
const ANON_VMAS: &[&str] = &[
    "anon_vmas_allocated",
    "anon_vmas_freed",
    "vmas_visited",
    "vmas_out_of_range",
    "unmap_young",
    "unmap_pinned",
];

/// Every image.
pub(super) const ROWS: &[Row] = &[
    Row {
        name: "anon_vma-3g1g",
        features: "image",
        script: "link_3g1g.ld",
        without: CHAINS,
    },
    Row {
        name: "anon_vma-4g4g",
        features: "image,split",
        script: "link_4g4g.ld",
        without: CHAINS,
    },
    Row {
        name: "pte_chain-3g1g",
        features: "image,pte_chain",
        script: "link_3g1g.ld",
        without: ANON_VMAS,
    },
    Row {
        name: "pte_chain-4g4g",
        features: "image,pte_chain,split",
        script: "link_4g4g.ld",
        without: ANON_VMAS,
    },
];

/// Builds one row; the ELF file's bytes.
pub(super) fn build(root: &Path, compiler: &Toolchain, row: &Row) -> Result<Vec<u8>, Error> {
    let out = root.join("target/guest-build");
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .unwrap_or_default();
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|h| format!("{h}/.cargo")))
        .map_err(|_| Error::Command("neither CARGO_HOME nor HOME is set".to_owned()))?;
    let library = compiler.library();
    let source = library.canonicalize().unwrap_or_else(|_| library.clone());
    let flags = [
        format!("--remap-path-prefix={}=/lowmem", root.display()),
        format!("--remap-path-prefix={}=/out", out.display()),
        format!("--remap-path-prefix={cargo_home}=/cargo"),
        format!("--remap-path-prefix={}=/rust", library.display()),
        format!("--remap-path-prefix={}=/rust", source.display()),
        format!("-Clinker={sysroot}/lib/rustlib/{host}/bin/rust-lld"),
    ];
    run(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(root)
            .args([
                "rustc",
                "-q",
                "-p",
                "guest-vm",
                "--bin",
                "guest",
                "--profile",
                "guest",
            ])
            .args([
                "--target",
                "guest-vm/image/i686-guest.json",
                "--features",
                row.features,
            ])
            .args(["-Zbuild-std=core,compiler_builtins", "-Zjson-target-spec"])
            .arg("-Zbuild-std-features=compiler-builtins-mem")
            .arg("--")
            .arg(format!("-Clink-arg=-Tguest-vm/image/{}", row.script))
            .arg("-Clink-arg=--build-id=none")
            .env("RUSTC", compiler.rustc())
            // Opens cargo's -Z flags; the guest's sources use no unstable feature.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", &out)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTFLAGS"),
    )?;
    read(&out.join("i686-guest/guest/guest"))
}
