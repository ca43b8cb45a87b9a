//! guest-vm/images/manifest.json: from which sources and with which tools the committed images were built.
//!
//! Invariant: `source_sha256` covers everything of the checkout that enters an image: the guest's and the abi's sources, link
//! scripts, assembly, the target, and the profile.

use super::inspect::Found;
use super::{Error, read, rows, toolchain};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The manifest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Name and version of this format.
    schema: String,
    /// Version of the compiler's packages.
    compiler: String,
    /// See the module.
    pub(super) source_sha256: String,
    /// Of each archive, by its reverse map.
    pub(super) archives: BTreeMap<String, String>,
    /// Its images.
    images: Vec<ImageEntry>,
}

/// One image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageEntry {
    name: String,
    sha256: String,
    bytes: u64,
    text_bytes: u32,
    probe_bytes: u32,
}

impl ImageEntry {
    pub(super) fn new(name: &str, bytes: &[u8], found: &Found) -> Self {
        Self {
            name: name.to_owned(),
            sha256: sha256(bytes),
            bytes: bytes.len() as u64,
            text_bytes: found.text_bytes,
            probe_bytes: found.probe_bytes,
        }
    }
}

impl Manifest {
    pub(super) fn new(
        sources: &str,
        archives: BTreeMap<String, String>,
        images: Vec<ImageEntry>,
    ) -> Self {
        Self {
            schema: "lowmem.guest-images/2".to_owned(),
            compiler: format!("rustc-web {}", toolchain::VERSION),
            source_sha256: sources.to_owned(),
            archives,
            images,
        }
    }
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        serde_json::from_slice(&read(path)?).map_err(|e| Error::Manifest(e.to_string()))
    }
    pub(super) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest is plain data");
        text.push('\n');
        text
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Hash of everything that enters an image.
pub(super) fn source_hash(root: &Path) -> Result<String, Error> {
    let mut files: Vec<PathBuf> = ["guest-vm/Cargo.toml", "crates/abi/Cargo.toml"]
        .iter()
        .map(|f| root.join(f))
        .collect();
    for dir in ["guest-vm/src", "guest-vm/image", "crates/abi/src"] {
        collect(&root.join(dir), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let bytes = read(&file)?;
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        hash.update(name.as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    let workspace = read(&root.join("Cargo.toml"))?;
    for section in ["[profile.release]", "[profile.guest]"] {
        let text = String::from_utf8_lossy(&workspace);
        let body = text
            .split(section)
            .nth(1)
            .and_then(|s| s.split("\n[").next());
        // Comments may change.
        for line in body
            .unwrap_or_default()
            .lines()
            .filter(|l| !l.starts_with('#'))
        {
            hash.update(line.as_bytes());
        }
    }
    for row in rows::committed() {
        hash.update(row.name.as_bytes());
        hash.update(row.features.as_bytes());
        hash.update(row.script.as_bytes());
    }
    hash.update(toolchain::VERSION.as_bytes());
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// Every file below `dir`.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let fail = |source| Error::File {
        path: dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
