//! The recordings in a folder: pairs `NAME.strace[.xz]` and `NAME.perf[.xz]`, groups `NAME.PID.lackey[.xz]`.
//!
//! Invariant: the smallest comes first, by bytes of its files, so that failures show early.

use super::Error;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One recording.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    /// Name, up to the first dot of its files.
    pub(crate) name: String,
    /// Its files, sorted.
    pub(crate) files: Vec<PathBuf>,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Whether it holds every reference.
    pub(crate) lackey: bool,
}

/// All recordings in `folder`, smallest first; `only` those names unless it is empty.
pub(crate) fn find(folder: &Path, only: &[String]) -> Result<Vec<Recording>, Error> {
    let failed = |source| Error::Io {
        path: folder.to_owned(),
        source,
    };
    let mut found: BTreeMap<String, Recording> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let parts: Vec<&str> = file.trim_end_matches(".xz").split('.').collect();
        let (name, lackey) = match parts[..] {
            [name, "strace" | "perf"] => (name, false),
            [name, _, "lackey"] => (name, true),
            _ => continue,
        };
        if !only.is_empty() && !only.iter().any(|o| o == name) {
            continue;
        }
        let recording = found.entry(name.to_owned()).or_insert_with(|| Recording {
            name: name.to_owned(),
            files: Vec::new(),
            bytes: 0,
            lackey,
        });
        recording.bytes += entry.metadata().map_err(failed)?.len();
        recording.files.push(entry.path());
    }
    if let Some(missing) = only.iter().find(|o| !found.contains_key(*o)) {
        return Err(Error::NoRecording {
            name: missing.clone(),
            folder: folder.to_owned(),
        });
    }
    let mut all: Vec<Recording> = found.into_values().collect();
    if all.is_empty() {
        return Err(Error::Empty(folder.to_owned()));
    }
    for recording in &mut all {
        recording.files.sort();
    }
    all.sort_by_key(|r| r.bytes);
    Ok(all)
}
