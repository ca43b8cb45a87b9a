//! How one row of the image table is built.
//!
//! The host's stable cargo and linker drive the guest's compiler; core is built with the image for a soft-float i686 target. Paths
//! are remapped (of several matching prefixes the last wins: the checkout, which may hold the others, comes first) and the link
//! script is named relatively, so that the image does not depend on where anything lies.
//!
//! Invariant: one row, one image (decision D11).

use super::rows::Row;
use super::toolchain::{Toolchain, output, run};
use super::{Error, read};
use std::path::Path;
use std::process::Command;

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
                &row.features,
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
