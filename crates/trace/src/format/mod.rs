//! The `.lmt` file, version 1.
//!
//! ```text
//! prelude   32 bytes, never changes: magic, version, number of sections, length of the file,
//!           CRC of the section table, CRC of the prelude
//! table     one row of 32 bytes per section: kind, flags, offset, stored and raw length, items, CRC
//! sections  back to back in the order of the table, each one zstd frame
//! ```
//!
//! Numbers are little-endian. Kinds: 1 header, 2 chunk of operations, 3 footer. A section of unknown kind is skipped,
//! unless its *required* flag is set. Every byte lies under a CRC-32, sections touch without gaps and the last one ends the file;
//! lengths are checked against the file and against constants before anything is allocated.
//!
//! Left out: encryption, signatures, streaming from a pipe.
//!
//! Invariant: `parse` has decoded every section before it returns, so later reads cannot fail.

mod atomic;
mod delta;
mod layout;
mod reader;
mod wire;
mod writer;

pub use layout::{FORMAT_VERSION, MAGIC};
pub(crate) use reader::{decode_chunk, open, parse};
pub use writer::TraceWriter;
pub(crate) use {atomic::save, layout::Chunk};

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut s, b| {
            write!(s, "{b:02x}").expect("a String takes everything");
            s
        })
}
