//! The guest's compiler: Debian's web-rust 1.85.0, from its own archive by the package client, unpacked privately.
//!
//! rustup has no library source for a stable compiler, and the machine code is an input of the experiment, so compiler and
//! library are pinned by SHA-256. Nothing is installed; rustup and PATH stay as they are. The directory lies outside the
//! checkout, because cargo would name a library below it by relative paths and change the debug information.
//!
//! Invariant: a directory that holds `rustc` was unpacked completely.

use super::{Error, manifest, read, write};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of the packages.
pub(super) const VERSION: &str = "1.85.0+dfsg3-1~deb12u3";

/// Packages, with the file each becomes and its SHA-256.
const PACKAGES: [(&str, &str, &str); 5] = [
    (
        "rustc-web=1.85.0+dfsg3-1~deb12u3",
        "rustc-web_1.85.0+dfsg3-1~deb12u3_amd64.deb",
        "ef797a56697a0b6a82c1d704119ccaa85ab3486ccf805472de46c31971346702",
    ),
    (
        "libstd-rust-web-1.85=1.85.0+dfsg3-1~deb12u3",
        "libstd-rust-web-1.85_1.85.0+dfsg3-1~deb12u3_amd64.deb",
        "c8b03bff73b2990b2a3e56b0cfb100eb4c70a9331f4232dc9783c9e50b1038be",
    ),
    (
        "libstd-rust-web-dev=1.85.0+dfsg3-1~deb12u3",
        "libstd-rust-web-dev_1.85.0+dfsg3-1~deb12u3_amd64.deb",
        "5360a1aa03979ccc4cc91dd3d9bad1d5ff30f36d615ed01e2c5209c5e8ece21b",
    ),
    (
        "rust-web-src=1.85.0+dfsg3-1~deb12u3",
        "rust-web-src_1.85.0+dfsg3-1~deb12u3_all.deb",
        "48849a40ac3490b6ed45b0813c6c92d4c689448b0c4251997f56399b8f899d0d",
    ),
    (
        "libllvm19=1:19.1.7-3~deb12u1",
        "libllvm19_1%3a19.1.7-3~deb12u1_amd64.deb",
        "6edf3a8b28495cdba883d9760e0dca1a81983fc497a5f989dc64d0d96d23b4aa",
    ),
];

/// What rustc needs to find its own LLVM, wherever it was unpacked.
const WRAPPER: &str = r#"#!/bin/sh
d=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH=$d/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$d/usr/bin/rustc" "$@"
"#;

/// An unpacked compiler.
#[derive(Debug)]
pub(super) struct Toolchain {
    /// Its directory.
    pub(super) dir: PathBuf,
}

impl Toolchain {
    /// The compiler.
    pub(super) fn rustc(&self) -> PathBuf {
        self.dir.join("rustc")
    }
    /// The library source, as the compiler names it.
    pub(super) fn library(&self) -> PathBuf {
        self.dir.join("usr/lib/rustlib/src/rust")
    }
}

/// The compiler, fetched and unpacked if it is not there yet.
pub(super) fn get() -> Result<Toolchain, Error> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache")))
        .ok_or_else(|| Error::Command("neither XDG_CACHE_HOME nor HOME is set".to_owned()))?;
    let toolchain = Toolchain {
        dir: cache.join("lowmem/guest-rustc-1.85.0"),
    };
    if toolchain.rustc().exists() {
        return Ok(toolchain);
    }
    eprintln!(
        "fetching the guest toolchain (136 MB) into {}",
        toolchain.dir.display()
    );
    let debs = toolchain.dir.join("debs");
    fs::create_dir_all(&debs).map_err(|source| Error::File {
        path: debs.clone(),
        source,
    })?;
    let names = PACKAGES.map(|(name, _, _)| name);
    run(Command::new("apt-get")
        .arg("-q")
        .arg("download")
        .args(names)
        .current_dir(&debs))?;
    for (_, file, pinned) in PACKAGES {
        let path = debs.join(file);
        let found = manifest::sha256(&read(&path)?);
        if found != pinned {
            return Err(Error::Pin {
                file: file.to_owned(),
                found,
                pinned,
            });
        }
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(&path)
            .arg(&toolchain.dir))?;
    }
    let usr = toolchain.dir.join("usr");
    for unused in [usr.join("share"), debs] {
        fs::remove_dir_all(&unused).map_err(|source| Error::File {
            path: unused,
            source,
        })?;
    }
    write(&toolchain.rustc(), WRAPPER.as_bytes())?;
    run(Command::new("chmod").arg("+x").arg(toolchain.rustc()))?;
    Ok(toolchain)
}

/// Runs a command to success.
pub(super) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command
        .status()
        .map_err(|e| Error::Command(format!("{}: {e}", command.get_program().to_string_lossy())))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command(format!(
        "{} ended with {status}",
        command.get_program().to_string_lossy()
    )))
}

/// What a command prints.
pub(super) fn output(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command
        .output()
        .map_err(|e| Error::Command(format!("{name}: {e}")))?;
    if !out.status.success() {
        return Err(Error::Command(format!("{name} ended with {}", out.status)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
