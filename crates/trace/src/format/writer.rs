//! Building a trace file from operations.
//!
//! The whole compressed file is built in memory (the largest recordings are a few megabytes), checked by the
//! reader like any other file, and only then saved.
//!
//! Invariant: equal header and operations give equal bytes.

use std::sync::Arc;

use super::layout::*;
use super::{delta::Delta, wire::config};
use crate::{error::TraceError, header::Header, model::Model, op::Op, trace::Trace};

/// Compression level of zstd: past it files shrink by a few per cent and import slows down twofold.
const LEVEL: i32 = 12;

/// Takes operations in scheduled order and makes a [`Trace`].
#[derive(Debug)]
pub struct TraceWriter {
    header: Header,
    model: Model,
    /// Operations that the model does not know.
    unchecked: u64,
    delta: Delta,
    raw: Vec<u8>,
    items: u32,
    sections: Vec<Section>,
    body: Vec<u8>,
}

impl TraceWriter {
    /// A writer for a trace with these tables. Totals and notes may still change until [`TraceWriter::finish`].
    #[must_use]
    pub fn new(header: Header) -> Self {
        let model = Model::new(&header);
        let mut writer = Self {
            header,
            model,
            unchecked: 0,
            delta: Delta::default(),
            raw: Vec::new(),
            items: 0,
            sections: Vec::new(),
            body: Vec::new(),
        };
        // Row 0 is the header, written last because totals are known last.
        writer.sections.push(Section {
            kind: KIND_HEADER,
            flags: FLAG_REQUIRED,
            offset: 0,
            stored_bytes: 0,
            raw_bytes: 0,
            items: 1,
            crc: 0,
        });
        writer
    }

    /// The tables, to be changed before [`TraceWriter::finish`].
    pub fn header_mut(&mut self) -> &mut Header {
        &mut self.header
    }

    /// The tables so far.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The model of the state so far.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) const fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Appends an operation.
    ///
    /// # Errors
    /// If it contradicts the model of the address spaces.
    pub fn push(&mut self, op: &Op) -> Result<(), TraceError> {
        self.model.apply(op).map_err(|e| e.at(&self.header.name))?;
        self.store(op)
    }

    /// Appends an operation that the model is not asked about, as a hostile writer would: the file is well formed, its
    /// contents may be impossible. For tests of what reads traces; the footer counts the operation and nothing else of it.
    ///
    /// # Errors
    /// If a chunk becomes larger than the format allows.
    pub fn push_unchecked(&mut self, op: &Op) -> Result<(), TraceError> {
        self.unchecked += 1;
        self.store(op)
    }

    fn store(&mut self, op: &Op) -> Result<(), TraceError> {
        let mut stored = op.clone();
        self.delta.store(&mut stored);
        bincode::encode_into_std_write(&stored, &mut self.raw, config())
            .expect("a Vec takes everything and an operation has no unencodable part");
        self.items += 1;
        if self.items as usize == CHUNK_OPS || self.raw.len() >= CHUNK_RAW_BYTES {
            self.close_chunk()?;
        }
        Ok(())
    }

    fn close_chunk(&mut self) -> Result<(), TraceError> {
        if self.items > 0 {
            let raw = std::mem::take(&mut self.raw);
            let (section, stored) = self.section(KIND_OPS, self.items, &raw)?;
            self.sections.push(section);
            self.body.extend(stored);
            self.items = 0;
            self.delta = Delta::default();
        }
        Ok(())
    }

    fn section(&self, kind: u32, items: u32, raw: &[u8]) -> Result<(Section, Vec<u8>), TraceError> {
        if raw.len() > MAX_RAW_BYTES as usize {
            return Err(TraceError::Recording {
                name: self.header.name.clone(),
                reason: format!(
                    "a section of {} bytes is larger than the format allows",
                    raw.len()
                ),
            });
        }
        let stored = zstd::bulk::compress(raw, LEVEL).expect("zstd compresses any bytes in memory");
        let section = Section {
            kind,
            flags: FLAG_REQUIRED,
            offset: 0,
            stored_bytes: stored.len() as u32,
            raw_bytes: raw.len() as u32,
            items,
            crc: crc32fast::hash(&stored),
        };
        Ok((section, stored))
    }

    /// Writes header and footer and reads the result back.
    ///
    /// # Errors
    /// If tasks are left in an impossible state, or a table is too large for the format.
    pub fn finish(mut self) -> Result<Trace, TraceError> {
        self.close_chunk()?;
        let mut summary = self.model.summary();
        summary.operations += self.unchecked;
        let encode = |v: &dyn Fn() -> Vec<u8>| v();
        let header_raw = encode(&|| {
            bincode::encode_to_vec(&self.header, config())
                .expect("a header has no unencodable part")
        });
        let footer_raw = encode(&|| {
            bincode::encode_to_vec(&summary, config()).expect("a footer has no unencodable part")
        });
        let (header, header_stored) = self.section(KIND_HEADER, 1, &header_raw)?;
        let (footer, footer_stored) = self.section(KIND_FOOTER, 1, &footer_raw)?;
        self.sections[0] = header;
        self.sections.push(footer);
        if self.sections.len() > MAX_SECTIONS as usize {
            return Err(TraceError::Recording {
                name: self.header.name.clone(),
                reason: format!(
                    "{} sections are more than the format allows",
                    self.sections.len()
                ),
            });
        }

        let mut offset = (PRELUDE_BYTES + ROW_BYTES * self.sections.len()) as u64;
        let mut table = Vec::with_capacity(ROW_BYTES * self.sections.len());
        for section in &mut self.sections {
            section.offset = offset;
            offset += u64::from(section.stored_bytes);
            table.extend(section.to_bytes());
        }
        let prelude = Prelude {
            version: FORMAT_VERSION,
            sections: self.sections.len() as u32,
            file_bytes: offset,
            table_crc: crc32fast::hash(&table),
        };
        let mut file = Vec::with_capacity(offset as usize);
        file.extend(prelude.to_bytes());
        file.extend(table);
        file.extend(header_stored);
        file.extend(&self.body);
        file.extend(footer_stored);
        super::parse(&self.header.name, Arc::from(file))
    }
}
