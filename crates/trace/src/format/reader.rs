//! Reading and checking a trace file.
//!
//! Order of checks: prelude, version, length, table, places of the sections, CRCs, decompression to exactly the
//! declared length, decoding to exactly the declared items, references to tables. Nothing is
//! allocated by a length that was not checked first.
//!
//! Invariant: any byte string gives a trace or an error, never a panic.

use std::{fs, io::Read, path::Path, sync::Arc};

use sha2::{Digest, Sha256};

use super::layout::*;
use super::{delta::Delta, wire::config};
use crate::{
    error::TraceError,
    header::{Header, Summary},
    op::{Call, Op},
    trace::{Inner, Trace},
};

/// Reads and checks a file.
pub(crate) fn open(path: &Path) -> Result<Trace, TraceError> {
    let io = |e| TraceError::io(path, "read", e);
    let name = path.display().to_string();
    let mut file = fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    let first = PRELUDE_BYTES as u64;
    file.by_ref()
        .take(first)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    let prelude = prelude(&name, &bytes)?;
    // No more is read than the prelude announces and one byte, so that a device, or a file far larger than a trace, is
    // refused before it fills memory. The buffer grows with what is there, not with what is announced.
    file.take(prelude.file_bytes.saturating_sub(first).min(MAX_FILE_BYTES) + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    parse(&name, Arc::from(bytes))
}

/// What is wrong and where, before the file's name is added.
struct Damage {
    place: String,
    reason: String,
}

fn damage<T>(place: impl Into<String>, reason: impl Into<String>) -> Result<T, Damage> {
    Err(Damage {
        place: place.into(),
        reason: reason.into(),
    })
}

/// Checks a file that is in memory; `name` is used in messages.
pub(crate) fn parse(name: &str, bytes: Arc<[u8]>) -> Result<Trace, TraceError> {
    let prelude = prelude(name, &bytes)?;
    contents(prelude, bytes).map_err(|d| TraceError::Damaged {
        name: name.to_owned(),
        place: d.place,
        reason: d.reason,
    })
}

fn prelude(name: &str, bytes: &[u8]) -> Result<Prelude, TraceError> {
    let not = |reason: String| TraceError::NotATrace {
        name: name.to_owned(),
        reason,
    };
    if !bytes.starts_with(&MAGIC) {
        let found = &bytes[..bytes.len().min(MAGIC.len())];
        return Err(not(if bytes.is_empty() {
            "the file is empty".to_owned()
        } else {
            format!(
                "it begins with {}, not with the magic bytes",
                super::hex(found)
            )
        }));
    }
    let Some(first) = bytes.first_chunk::<PRELUDE_BYTES>() else {
        return Err(TraceError::Damaged {
            name: name.to_owned(),
            place: format!("offset {}", bytes.len()),
            reason: "the file ends inside the prelude".to_owned(),
        });
    };
    let (prelude, crc_right) = Prelude::from_bytes(first);
    if !crc_right {
        return Err(TraceError::Damaged {
            name: name.to_owned(),
            place: "offset 0, prelude".to_owned(),
            reason: "wrong CRC".to_owned(),
        });
    }
    if prelude.version > FORMAT_VERSION {
        return Err(TraceError::FromTheFuture {
            name: name.to_owned(),
            found: prelude.version,
            supported: FORMAT_VERSION,
        });
    }
    if prelude.version == 0 {
        return Err(not("version 0 was never written".to_owned()));
    }
    Ok(prelude)
}

fn contents(prelude: Prelude, bytes: Arc<[u8]>) -> Result<Trace, Damage> {
    let length = bytes.len() as u64;
    if prelude.file_bytes > MAX_FILE_BYTES {
        return damage(
            "offset 16",
            format!(
                "{} bytes announced, at most {MAX_FILE_BYTES}",
                prelude.file_bytes
            ),
        );
    }
    if length == prelude.file_bytes + 1 {
        return damage(
            format!("offset {}", prelude.file_bytes),
            "bytes behind the length that the prelude says",
        );
    }
    if prelude.file_bytes != length {
        return damage(
            format!("offset {}", length.min(prelude.file_bytes)),
            format!(
                "the file has {length} bytes, its prelude says {}",
                prelude.file_bytes
            ),
        );
    }
    let sections = table(&prelude, &bytes)?;
    let mut header: Option<Header> = None;
    let mut summary: Option<Summary> = None;
    let mut chunks = Vec::new();
    let mut operations = 0;
    for (number, section) in sections.iter().enumerate() {
        let place = || format!("section {number}, offset {}", section.offset);
        if crc32fast::hash(stored(&bytes, section)) != section.crc {
            return damage(place(), "wrong CRC");
        }
        match section.kind {
            KIND_HEADER if header.is_none() => header = Some(single(&bytes, section, place)?),
            KIND_FOOTER if summary.is_none() => summary = Some(single(&bytes, section, place)?),
            KIND_HEADER | KIND_FOOTER => return damage(place(), "a second section of its kind"),
            KIND_OPS => {
                chunks.push(Chunk {
                    first: operations,
                    section: *section,
                });
                operations += u64::from(section.items);
            }
            kind if section.flags & FLAG_REQUIRED != 0 => {
                return damage(
                    place(),
                    format!("unknown section kind {kind} that must be understood"),
                );
            }
            _ => {}
        }
    }
    let Some(header) = header else {
        return damage("section table", "no header section");
    };
    let Some(summary) = summary else {
        return damage("section table", "no footer section");
    };
    if summary.operations != operations {
        return damage(
            "footer",
            format!(
                "it counts {} operations, the chunks hold {operations}",
                summary.operations
            ),
        );
    }
    if summary.peak_op >= operations.max(1) {
        return damage(
            "footer",
            format!("peak operation {} of {operations}", summary.peak_op),
        );
    }
    if header.tasks.is_empty() && operations > 0 {
        return damage("header", "operations without a task");
    }
    for (number, chunk) in chunks.iter().enumerate() {
        let place = |at: u64| {
            format!(
                "chunk {number}, offset {}, operation {at}",
                chunk.section.offset
            )
        };
        let ops =
            decode_chunk(&bytes, chunk).or_else(|reason| damage(place(chunk.first), reason))?;
        for (i, op) in ops.iter().enumerate() {
            references(&header, op)
                .or_else(|reason| damage(place(chunk.first + i as u64), reason))?;
        }
    }
    let sha256 = Sha256::digest(&bytes).into();
    let inner = Inner {
        bytes,
        header,
        summary,
        chunks,
        sha256,
        version: prelude.version,
    };
    Ok(Trace {
        inner: Arc::new(inner),
    })
}

/// The section table, with every section's place checked.
fn table(prelude: &Prelude, bytes: &[u8]) -> Result<Vec<Section>, Damage> {
    if prelude.sections > MAX_SECTIONS {
        return damage(
            "offset 12",
            format!("{} sections, at most {MAX_SECTIONS}", prelude.sections),
        );
    }
    let end = PRELUDE_BYTES + ROW_BYTES * prelude.sections as usize;
    let Some(table) = bytes.get(PRELUDE_BYTES..end) else {
        return damage(
            format!("offset {}", bytes.len()),
            "the file ends inside the section table",
        );
    };
    if crc32fast::hash(table) != prelude.table_crc {
        return damage(
            format!("offset {PRELUDE_BYTES}, section table"),
            "wrong CRC",
        );
    }
    let sections: Vec<_> = table
        .chunks_exact(ROW_BYTES)
        .map(Section::from_bytes)
        .collect();
    let mut next = end as u64;
    for (number, s) in sections.iter().enumerate() {
        let place = format!(
            "offset {}, row {number} of the section table",
            PRELUDE_BYTES + ROW_BYTES * number
        );
        if s.offset != next {
            return damage(
                place,
                format!("section at {} where {next} was due", s.offset),
            );
        }
        next = s.offset + u64::from(s.stored_bytes);
        if next > bytes.len() as u64 {
            return damage(
                place,
                format!("section ends at {next}, behind the end of the file"),
            );
        }
        if s.raw_bytes > MAX_RAW_BYTES {
            return damage(
                place,
                format!(
                    "{} decompressed bytes, at most {MAX_RAW_BYTES}",
                    s.raw_bytes
                ),
            );
        }
        // The shortest operation takes two bytes, hence the items are bounded by the bytes.
        if s.kind == KIND_OPS && (s.items == 0 || s.items > s.raw_bytes) {
            return damage(
                place,
                format!("{} operations in {} bytes", s.items, s.raw_bytes),
            );
        }
    }
    if next != bytes.len() as u64 {
        return damage(format!("offset {next}"), "bytes behind the last section");
    }
    Ok(sections)
}

fn stored<'a>(bytes: &'a [u8], section: &Section) -> &'a [u8] {
    // `table` has checked both ends against the length of the file.
    &bytes[section.offset as usize..][..section.stored_bytes as usize]
}

fn decompress(bytes: &[u8], section: &Section) -> Result<Vec<u8>, String> {
    let raw = zstd::bulk::decompress(stored(bytes, section), section.raw_bytes as usize)
        .map_err(|e| format!("cannot be decompressed: {e}"))?;
    if raw.len() != section.raw_bytes as usize {
        return Err(format!(
            "{} bytes decompressed, {} declared",
            raw.len(),
            section.raw_bytes
        ));
    }
    Ok(raw)
}

/// Decodes a section that is one value.
fn single<T: bincode::Decode<()>>(
    bytes: &[u8],
    section: &Section,
    place: impl Fn() -> String,
) -> Result<T, Damage> {
    let raw = decompress(bytes, section).or_else(|reason| damage(place(), reason))?;
    match bincode::decode_from_slice(&raw, config()) {
        Ok((value, used)) if used == raw.len() => Ok(value),
        Ok((_, used)) => damage(
            place(),
            format!("{} bytes behind its value", raw.len() - used),
        ),
        Err(e) => damage(place(), format!("cannot be decoded: {e}")),
    }
}

/// Decodes one chunk, or says why not.
pub(crate) fn decode_chunk(bytes: &[u8], chunk: &Chunk) -> Result<Vec<Op>, String> {
    let raw = decompress(bytes, &chunk.section)?;
    let mut ops = Vec::with_capacity(chunk.section.items as usize);
    let mut at = 0;
    let mut delta = Delta::default();
    for item in 0..chunk.section.items {
        let (mut op, used) = bincode::decode_from_slice::<Op, _>(&raw[at..], config())
            .map_err(|e| format!("operation {item} of the chunk cannot be decoded: {e}"))?;
        at += used;
        delta.restore(&mut op);
        ops.push(op);
    }
    if at != raw.len() {
        return Err(format!(
            "{} bytes behind the last operation",
            raw.len() - at
        ));
    }
    Ok(ops)
}

/// Whether all tasks, files and segments of an operation are in the tables.
fn references(header: &Header, op: &Op) -> Result<(), String> {
    let within = |what: &str, id: u32, len: usize| {
        if (id as usize) < len {
            Ok(())
        } else {
            Err(format!("{what} {id} of {len}"))
        }
    };
    let task = |id: crate::TaskId| within("task", id.0, header.tasks.len());
    let file = |r: Option<crate::FileRef>| {
        r.map_or(Ok(()), |r| within("file", r.file.0, header.files.len()))
    };
    match op {
        Op::Switch { to, .. } => task(*to),
        Op::Call(call) => match &**call {
            Call::Mmap { file: f, .. } => file(*f),
            Call::Exec { image } => image.mappings.iter().try_for_each(|m| file(m.file)),
            Call::Fork { child }
            | Call::Vfork { child }
            | Call::Clone { child }
            | Call::Wait { child } => task(*child),
            Call::Shmget { segment, .. } | Call::Shmat { segment, .. } => {
                within("segment", segment.0, header.segments.len())
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
