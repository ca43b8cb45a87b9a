//! Reading recording files: decompression and telling formats apart.
//!
//! The format is told from content, never from the name: xz by its magic bytes, strace, perf script and lackey by the shape of
//! their first lines.
//!
//! Invariant: `Text::text` is the whole file as UTF-8 (stray bytes replaced).

use std::{fs::File, io::Read, path::Path};

use sha2::{Digest, Sha256};

use crate::{error::TraceError, header::Input};

/// Largest decompressed recording: a limit against a compressed bomb, far above any recording known; checked again on plain files, because devices never end.
const MAX_TEXT_BYTES: u64 = 4 << 30;

/// Bytes from which the format is told.
const FIRST_BYTES: u64 = 1 << 16;

/// The formats that can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Strace,
    Perf,
    Lackey,
}

/// One file of a recording.
pub(super) struct Text {
    pub(super) name: String,
    pub(super) input: Input,
    pub(super) format: Format,
    pub(super) text: String,
}

impl Text {
    pub(super) fn read(path: &Path) -> Result<Self, TraceError> {
        let io = |e| TraceError::io(path, "read", e);
        let not = || {
            TraceError::Inputs(format!(
                "{}: not a recording: none of the first lines is of strace -f -ttt, perf script or lackey",
                path.display()
            ))
        };
        let mut file = File::open(path).map_err(io)?;
        let mut stored = Vec::new();
        file.by_ref()
            .take(FIRST_BYTES)
            .read_to_end(&mut stored)
            .map_err(io)?;
        // What is nothing of ours, a device without end, say, is refused before the rest is read.
        let xz = stored.starts_with(b"\xfd7zXZ\0");
        if !xz && format_of(&String::from_utf8_lossy(&stored)).is_none() {
            return Err(not());
        }
        file.take(MAX_TEXT_BYTES)
            .read_to_end(&mut stored)
            .map_err(io)?;
        let too_large = || {
            let name = path.display();
            TraceError::Inputs(format!("{name}: more than {MAX_TEXT_BYTES} bytes"))
        };
        if stored.len() as u64 > MAX_TEXT_BYTES {
            return Err(too_large());
        }
        let name = path
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let sha256 = crate::format::hex(&Sha256::digest(&stored));
        let raw = if xz {
            let mut raw = Vec::new();
            liblzma::read::XzDecoder::new_multi_decoder(&stored[..])
                .take(MAX_TEXT_BYTES + 1)
                .read_to_end(&mut raw)
                .map_err(|e| TraceError::io(path, "decompress", e))?;
            if raw.len() as u64 > MAX_TEXT_BYTES {
                return Err(too_large());
            }
            raw
        } else {
            stored
        };
        let text = match String::from_utf8(raw) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        };
        let format = format_of(&text).ok_or_else(not)?;
        // The tools end every line; a recording that stops inside one was cut.
        if !text.ends_with('\n') {
            return Err(TraceError::Line {
                name,
                line: text.lines().count() as u64,
                reason: "the file ends inside this line".to_owned(),
            });
        }
        Ok(Self {
            input: Input {
                name: name.clone(),
                sha256,
            },
            name,
            format,
            text,
        })
    }
}

/// Format of a text, told from its first lines.
fn format_of(text: &str) -> Option<Format> {
    text.lines().take(50).find_map(format_of_line)
}

fn format_of_line(line: &str) -> Option<Format> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if line.starts_with("==") && line.contains("Lackey") {
        return Some(Format::Lackey);
    }
    let (first, rest) = line.split_once(' ')?;
    let second = rest.trim_start().split(' ').next()?;
    if let Some((pid, tid)) = first.split_once('/') {
        let number = |s: &str| digits(s.strip_prefix('-').unwrap_or(s));
        return (number(pid) && number(tid) && second.starts_with('[')).then_some(Format::Perf);
    }
    let stamp = second
        .split_once('.')
        .is_some_and(|(s, f)| digits(s) && digits(f));
    (digits(first) && stamp).then_some(Format::Strace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_from_lines() {
        assert_eq!(
            format_of_line("12 1394.208957 brk(NULL) = 0x1"),
            Some(Format::Strace)
        );
        assert_eq!(
            format_of_line("1/1 [001] 1394.4108: raw_syscalls:sys_enter: NR 383"),
            Some(Format::Perf)
        );
        assert_eq!(
            format_of_line("0/0 [000] 0.000000000: PERF_RECORD_COMM: gate:1/1"),
            Some(Format::Perf)
        );
        assert_eq!(
            format_of_line("==12== Lackey, an example Valgrind tool"),
            Some(Format::Lackey)
        );
        assert_eq!(format_of_line("@ 12.5 pid=1 comm=x"), None);
        assert_eq!(format_of_line("# perf script --ns"), None);
    }
}
