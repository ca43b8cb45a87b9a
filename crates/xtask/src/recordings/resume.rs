//! A file of finished lines, one JSON object each, so that a long experiment can be interrupted and gone on with.
//!
//! A line that found something wrong is not taken as finished: it is run again. Whoever changes the sources starts a new file; what
//! the lines were made with is not recorded.
//!
//! Invariant: a line is in the file only when its run is over.

use super::Error;
use super::experiment::Line;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Names of checks, to be read back.
const CHECKS: [&str; 5] = ["import", "native", "cycle", "reference", "again"];

/// What was done before, and where what is done now is noted.
pub(crate) struct Done {
    lines: Vec<Line>,
    file: Option<(PathBuf, Mutex<File>)>,
}

impl Done {
    /// Reads `path`, if there is one; it may not exist yet.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else {
            return Ok(Self {
                lines: Vec::new(),
                file: None,
            });
        };
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(failed(source)),
        };
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = parse(line).ok_or_else(|| Error::Resume {
                path: path.to_owned(),
                line: number + 1,
            })?;
            lines.push(line);
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        Ok(Self {
            lines,
            file: Some((path.to_owned(), Mutex::new(file))),
        })
    }

    /// The line of one run that went well.
    pub(crate) fn find(&self, recording: &str, config: &str, check: &str) -> Option<&Line> {
        let same = |l: &&Line| {
            l.wrong.is_empty()
                && (l.recording.as_str(), l.config.as_str(), l.check) == (recording, config, check)
        };
        self.lines.iter().rev().find(same)
    }

    /// Notes a line.
    pub(crate) fn note(&self, line: &Line) -> Result<(), Error> {
        let Some((path, file)) = &self.file else {
            return Ok(());
        };
        let text = serde_json::to_string(line).expect("a line has string keys and finite numbers");
        let mut file = file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        writeln!(file, "{text}").map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })
    }
}

fn parse(text: &str) -> Option<Line> {
    let v: Value = serde_json::from_str(text).ok()?;
    let word = |key: &str| v[key].as_str().map(str::to_owned);
    let number = |key: &str| v[key].as_u64();
    let check = v["check"].as_str()?;
    let check = CHECKS.into_iter().find(|c| *c == check)?;
    let mut line = Line::new(&word("recording")?, word("config")?, check);
    line.operations = number("operations")?;
    line.instructions = number("instructions")?;
    line.cycles = number("cycles")?;
    line.seconds = v["seconds"].as_f64()?;
    line.host_bytes = number("host_bytes")?;
    line.memory_hash = word("memory_hash");
    line.note = word("note")?;
    for wrong in v["wrong"].as_array()? {
        line.wrong.push(wrong.as_str()?.to_owned());
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back_but_not_those_that_went_wrong() {
        let dir = std::env::temp_dir().join(format!("lowmem-resume-{}", std::process::id()));
        let _ = std::fs::remove_file(&dir);
        let mut good = Line::new("a", "anon_vma/3g1g".to_owned(), "native");
        (good.operations, good.seconds) = (7, 1.5);
        good.memory_hash = Some("ff".to_owned());
        let mut bad = Line::new("b", "anon_vma/3g1g".to_owned(), "native");
        bad.wrong.push("lost".to_owned());
        let done = Done::open(Some(&dir)).expect("a new file");
        for line in [&good, &bad] {
            done.note(line).expect("it can be written");
        }
        let again = Done::open(Some(&dir)).expect("it is there");
        std::fs::remove_file(&dir).expect("it is ours");
        let found = again.find("a", "anon_vma/3g1g", "native").expect("noted");
        assert_eq!(
            (found.operations, found.memory_hash.as_deref()),
            (7, Some("ff"))
        );
        assert!(again.find("b", "anon_vma/3g1g", "native").is_none());
        assert!(again.find("a", "anon_vma/3g1g", "cycle").is_none());
    }
}
