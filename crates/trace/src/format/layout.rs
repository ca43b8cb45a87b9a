//! Prelude and section table as bytes.
//!
//! The prelude is the one part that no later version may change, so that every version can say of a
//! newer file that it is newer.
//!
//! Invariant: `Section::from_bytes(x.to_bytes()) == x`, the same for the prelude.

/// The first eight bytes: a byte that is not text, the name, and a line end that text-mode transfers break.
pub const MAGIC: [u8; 8] = *b"\x89LMT\r\n\x1a\n";

/// The version written by this program and the latest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Length of the prelude in bytes.
pub(super) const PRELUDE_BYTES: usize = 32;
/// Length of a row of the section table in bytes.
pub(super) const ROW_BYTES: usize = 32;
/// Most sections in a file: at [`CHUNK_OPS`] operations each, four thousand million operations.
pub(super) const MAX_SECTIONS: u32 = 1 << 16;
/// Largest file: a hundred times the largest recording known, and still small enough to be read into memory.
pub(super) const MAX_FILE_BYTES: u64 = 4 << 30;
/// Largest decompressed section in bytes.
pub(super) const MAX_RAW_BYTES: u32 = 1 << 24;
/// Operations in a full chunk.
pub(super) const CHUNK_OPS: usize = 1 << 18;
/// Decompressed bytes after which a chunk is closed early, so that large exec images keep it under [`MAX_RAW_BYTES`].
pub(super) const CHUNK_RAW_BYTES: usize = 1 << 22;

/// Section kinds.
pub(super) const KIND_HEADER: u32 = 1;
pub(super) const KIND_OPS: u32 = 2;
pub(super) const KIND_FOOTER: u32 = 3;
/// Flag: a reader that does not know the kind must refuse the file.
pub(super) const FLAG_REQUIRED: u32 = 1;

/// Where one chunk of operations lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Index of its first operation.
    pub(crate) first: u64,
    /// Its section.
    pub(crate) section: Section,
}

/// The prelude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prelude {
    pub(super) version: u32,
    pub(super) sections: u32,
    pub(super) file_bytes: u64,
    pub(super) table_crc: u32,
}

impl Prelude {
    pub(super) fn to_bytes(self) -> [u8; PRELUDE_BYTES] {
        let mut out = [0; PRELUDE_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&self.sections.to_le_bytes());
        out[16..24].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[24..28].copy_from_slice(&self.table_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The prelude and whether its CRC is right.
    pub(super) fn from_bytes(bytes: &[u8; PRELUDE_BYTES]) -> (Self, bool) {
        let prelude = Self {
            version: u32_at(bytes, 8),
            sections: u32_at(bytes, 12),
            file_bytes: u64_at(bytes, 16),
            table_crc: u32_at(bytes, 24),
        };
        (prelude, crc32fast::hash(&bytes[..28]) == u32_at(bytes, 28))
    }
}

/// One row of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) stored_bytes: u32,
    pub(super) raw_bytes: u32,
    pub(super) items: u32,
    pub(super) crc: u32,
}

impl Section {
    pub(super) fn to_bytes(self) -> [u8; ROW_BYTES] {
        let mut out = [0; ROW_BYTES];
        out[..4].copy_from_slice(&self.kind.to_le_bytes());
        out[4..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..20].copy_from_slice(&self.stored_bytes.to_le_bytes());
        out[20..24].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[24..28].copy_from_slice(&self.items.to_le_bytes());
        out[28..].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            kind: u32_at(bytes, 0),
            flags: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            stored_bytes: u32_at(bytes, 16),
            raw_bytes: u32_at(bytes, 20),
            items: u32_at(bytes, 24),
            crc: u32_at(bytes, 28),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
