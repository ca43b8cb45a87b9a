//! `cargo xtask guest`: build, check, commit and compare the guest images (decision D13).
//!
//! | file | owns |
//! |---|---|
//! | [`toolchain`] | the pinned compiler, unpacked into the user's cache directory |
//! | [`rows`] | the table of images |
//! | [`build`] | how one is built |
//! | [`inspect`] | what an image must and must not contain |
//! | [`manifest`] | hashes: of the sources, of the images |
//!
//! Invariant: an image is committed only after it passed inspection.

mod build;
mod inspect;
mod manifest;
mod rows;
mod toolchain;

#[path = "../../../machine/src/archive.rs"]
#[allow(
    unreachable_pub,
    reason = "the same file is a public module of lowmem-machine"
)]
mod archive;

use clap::Args;
use manifest::{ImageEntry, Manifest};
use rows::Row;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Options of `cargo xtask guest`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Compare the rebuilt images with the committed archive, byte by byte
    #[arg(long, conflicts_with_all = ["fresh", "commit"])]
    verify: bool,
    /// Only compare the committed manifest with the sources: no toolchain, no build
    #[arg(long, conflicts_with = "commit")]
    fresh: bool,
    /// Write the rebuilt images to guest-vm/images
    #[arg(long)]
    commit: bool,
    /// Build only these, into target/guest (LOWMEM_GUEST_IMAGES=target/guest makes the machine use them), such as
    /// pte_chain-4g4g-highpte; images that are not committed can be built this way
    #[arg(conflicts_with_all = ["fresh", "commit", "verify"])]
    images: Vec<String>,
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A command could not be started or failed.
    #[error("{0}")]
    Command(String),
    /// A download is not what was pinned.
    #[error("{file} has sha-256 {found}, pinned is {pinned}")]
    Pin {
        file: String,
        found: String,
        pinned: &'static str,
    },
    /// An image breaks a rule.
    #[error("image {image}: {reason}")]
    Image { image: String, reason: String },
    /// The manifest cannot be read.
    #[error("guest-vm/images/manifest.json: {0}")]
    Manifest(String),
    /// Sources changed since the images were committed.
    #[error(
        "the committed guest images are older than their sources: run `cargo xtask guest --commit`"
    )]
    Stale,
}

/// Reads a file, naming it on failure.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file under its final name only when it is whole.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let part = path.with_extension("part");
    let fail = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(path.parent().expect("a file has a directory")).map_err(fail)?;
    fs::write(&part, bytes).map_err(fail)?;
    fs::rename(&part, path).map_err(fail)
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/xtask lies two directories below the workspace")
        .to_owned();
    let committed = root.join("guest-vm/images");
    let sources = manifest::source_hash(&root)?;
    if options.fresh {
        return fresh(&committed, &sources);
    }
    let compiler = toolchain::get()?;
    let mut built = Vec::new();
    let mut entries = Vec::new();
    for row in &asked(options)? {
        let bytes = build::build(&root, &compiler, row)?;
        let found = inspect::inspect(row, &bytes)?;
        println!(
            "{:<32} text {:>6} bytes, probes {:>5} bytes ({:.1} %)",
            row.name,
            found.text_bytes,
            found.probe_bytes,
            100.0 * f64::from(found.probe_bytes) / f64::from(found.text_bytes.max(1)),
        );
        write(&root.join(format!("target/guest/{}.elf", row.name)), &bytes)?;
        entries.push(ImageEntry::new(&row.name, &bytes, &found));
        built.push((row.rmap, row.name.clone(), bytes));
    }
    if !options.images.is_empty() {
        return Ok(());
    }
    let mut archives = BTreeMap::new();
    for rmap in rows::schemes() {
        let images: Vec<_> = built
            .iter()
            .filter(|b| b.0 == rmap)
            .map(|(_, name, bytes)| (name.clone(), bytes.clone()))
            .collect();
        archives.insert(rmap.to_owned(), compress(&archive::pack(&images))?);
    }
    let hashes = archives
        .iter()
        .map(|(rmap, bytes)| (rmap.clone(), manifest::sha256(bytes)))
        .collect();
    let manifest = Manifest::new(&sources, hashes, entries);
    write(
        &root.join("target/guest/manifest.json"),
        manifest.to_json().as_bytes(),
    )?;
    if options.verify {
        verify(&committed, &built)?;
    }
    if options.commit {
        for (rmap, bytes) in &archives {
            write(&committed.join(format!("{rmap}.zst")), bytes)?;
        }
        write(
            &committed.join("manifest.json"),
            manifest.to_json().as_bytes(),
        )?;
        let bytes: usize = archives.values().map(Vec::len).sum();
        println!("committed {} images, {bytes} bytes", built.len());
    }
    Ok(())
}

/// The images asked for, or all that are committed.
fn asked(options: &Options) -> Result<Vec<Row>, Error> {
    if options.images.is_empty() {
        return Ok(rows::committed());
    }
    let parse = |name: &String| {
        rows::parse(name).ok_or_else(|| Error::Image {
            image: name.clone(),
            reason: "no such image: RMAP-SPLIT[-highpte][-lists][-up]".to_owned(),
        })
    };
    options.images.iter().map(parse).collect()
}

/// One zstd frame with a window over the whole archive, so that images share what they have in common.
fn compress(archive: &[u8]) -> Result<Vec<u8>, Error> {
    let fail = |e: std::io::Error| Error::Command(format!("zstd: {e}"));
    let mut encoder = zstd::Encoder::new(Vec::new(), 19).map_err(fail)?;
    encoder.long_distance_matching(true).map_err(fail)?;
    encoder.write_all(archive).map_err(fail)?;
    encoder.finish().map_err(fail)
}

/// The committed archive is the one the manifest names, and both belong to the sources as they are.
fn fresh(committed: &Path, sources: &str) -> Result<(), Error> {
    let manifest = Manifest::read(&committed.join("manifest.json"))?;
    for (rmap, hash) in &manifest.archives {
        let archive = read(&committed.join(format!("{rmap}.zst")))?;
        if *hash != manifest::sha256(&archive) {
            return Err(Error::Manifest(format!(
                "{rmap}.zst is not the archive it names"
            )));
        }
    }
    if manifest.source_sha256 != sources {
        return Err(Error::Stale);
    }
    println!("guest images are up to date");
    Ok(())
}

/// Every rebuilt image is byte-identical with the committed one.
fn verify(committed: &Path, images: &[(&str, String, Vec<u8>)]) -> Result<(), Error> {
    let mut old = Vec::new();
    for rmap in rows::schemes() {
        let archive = zstd::decode_all(read(&committed.join(format!("{rmap}.zst")))?.as_slice())
            .map_err(|e| Error::Manifest(format!("{rmap}.zst: {e}")))?;
        old.extend(archive::unpack(&archive).map_err(|e| Error::Manifest(e.0.to_owned()))?);
    }
    if old.len() != images.len() {
        return Err(Error::Manifest(format!(
            "{} images, built {}",
            old.len(),
            images.len()
        )));
    }
    for (_, name, bytes) in images {
        if !old.iter().any(|(n, b)| n == name && b == bytes) {
            return Err(Error::Image {
                image: name.clone(),
                reason: "rebuilt, it differs from the committed one".to_owned(),
            });
        }
    }
    println!(
        "all {} images are byte-identical with the committed ones",
        images.len()
    );
    Ok(())
}
