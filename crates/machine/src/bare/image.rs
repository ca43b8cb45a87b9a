//! Bytes of a file to an image: which format it is, what lies where, where it starts.
//!
//! The format is told from the content, in this order: a multiboot header that says how to load the file (it is ELF, or has the
//! address fields), an ELF header, the size of a ROM. A ROM that happens to hold a kernel with a multiboot header stays a ROM.
//!
//! Invariant: pieces of an accepted image do not overlap, lie below 4 GiB, and hold its entry.

use crate::bare::{elf, multiboot};
use std::ops::Range;

/// Sizes of a ROM: 64 KB, the reset segment; 128 KB, what PCs of the nineties had.
pub const ROM_BYTES: [usize; 2] = [64 << 10, 128 << 10];

/// How an image is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Multiboot 1: loaded by address fields or as ELF; entered with 2BADB002 in EAX and the information structure at EBX.
    Multiboot,
    /// ELF32 for i386, linked to fixed addresses; entered in flat protected mode.
    Elf,
    /// A ROM below 4 GiB and again below 1 MiB; entered by reset.
    Rom,
}

impl Format {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Format::Multiboot => "multiboot",
            Format::Elf => "elf",
            Format::Rom => "rom",
        }
    }
}

/// Why an image is refused. Offsets are those in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefused {
    /// No format fits.
    #[error(
        "neither a multiboot image (header in the first 8192 bytes), nor ELF32, nor a ROM of 65536 or 131072 bytes: it has \
         {bytes} bytes and begins with {start:02x?}"
    )]
    Unknown {
        /// Size of the file.
        bytes: usize,
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// Not the size of a ROM.
    #[error("a rom has 65536 or 131072 bytes, this file {0}")]
    RomSize(usize),
    /// No multiboot header.
    #[error(
        "no multiboot header (1badb002 on a multiple of 4, with flags and checksum that sum to 0) in the first 8192 bytes"
    )]
    NoHeader,
    /// The multiboot header asks for the impossible.
    #[error("multiboot header at offset {at:#x}: {reason}")]
    Header {
        /// Where.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// The ELF header.
    #[error("elf header: {0}")]
    Elf(String),
    /// A program header.
    #[error("elf program header {number} at offset {at:#x}: {reason}")]
    Segment {
        /// Number, from 0.
        number: usize,
        /// Where.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// Two pieces claim the same memory.
    #[error(
        "what is loaded at {first_start:#x} to {first_end:#x} overlaps what is loaded at {second:#x}"
    )]
    Overlap {
        /// First byte of the lower piece.
        first_start: u32,
        /// Byte behind it.
        first_end: u64,
        /// First byte of the other.
        second: u32,
    },
    /// A piece lies outside RAM.
    #[error("what is loaded at {start:#x} to {end:#x} lies outside the ram of {ram:#x} bytes")]
    OutsideRam {
        /// First byte.
        start: u32,
        /// Byte behind.
        end: u64,
        /// RAM.
        ram: u64,
    },
    /// The entry is in no piece.
    #[error("the entry {0:#x} lies outside everything that is loaded")]
    Entry(u32),
    /// Nothing to load.
    #[error("nothing in it is to be loaded")]
    Empty,
    /// No page left for the information structure.
    #[error("the image leaves no page of ram for the multiboot information structure")]
    NoRoom,
    /// RAM and ROM would lie on each other.
    #[error("ram of {ram:#x} bytes reaches into the rom at {rom:#x}")]
    RamOverRom {
        /// RAM.
        ram: u64,
        /// First byte of the ROM.
        rom: u64,
    },
}

/// A part of memory that the image fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Physical address.
    pub(crate) at: u32,
    /// Bytes of the file.
    pub(crate) file: Range<usize>,
    /// Bytes of memory, zeroes behind those of the file; never fewer.
    pub(crate) memory: u64,
}

impl Piece {
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.at) + self.memory
    }
}

/// An image that can be loaded.
#[derive(Debug, Clone)]
pub struct BareImage {
    pub(crate) bytes: Vec<u8>,
    pub(crate) format: Format,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) entry: u32,
}

impl BareImage {
    /// Reads an image in the format it turns out to have.
    pub fn parse(bytes: Vec<u8>) -> Result<BareImage, ImageRefused> {
        match Self::told(&bytes) {
            Some(format) => Self::parse_as(bytes, format),
            None => Err(ImageRefused::Unknown {
                bytes: bytes.len(),
                start: bytes[..bytes.len().min(4)].to_vec(),
            }),
        }
    }

    /// The format that the content tells.
    pub fn told(bytes: &[u8]) -> Option<Format> {
        let is_rom = ROM_BYTES.contains(&bytes.len());
        match multiboot::Header::find(bytes) {
            Some(h) if h.has_addresses() || elf::is_elf(bytes) => Some(Format::Multiboot),
            // Refused later, by a message about the header.
            Some(_) if !is_rom => Some(Format::Multiboot),
            _ if elf::is_elf(bytes) => Some(Format::Elf),
            _ if is_rom => Some(Format::Rom),
            _ => None,
        }
    }

    /// Reads an image as `format`.
    pub fn parse_as(bytes: Vec<u8>, format: Format) -> Result<BareImage, ImageRefused> {
        let (mut pieces, entry) = match format {
            Format::Multiboot => multiboot::pieces(&bytes)?,
            Format::Elf => elf::pieces(&bytes)?,
            Format::Rom if ROM_BYTES.contains(&bytes.len()) => (Vec::new(), 0),
            Format::Rom => return Err(ImageRefused::RomSize(bytes.len())),
        };
        pieces.retain(|p| p.memory != 0);
        pieces.sort_by_key(|p| p.at);
        for pair in pieces.windows(2) {
            if pair[0].end() > u64::from(pair[1].at) {
                return Err(ImageRefused::Overlap {
                    first_start: pair[0].at,
                    first_end: pair[0].end(),
                    second: pair[1].at,
                });
            }
        }
        if format != Format::Rom {
            if pieces.is_empty() {
                return Err(ImageRefused::Empty);
            }
            let inside = |p: &Piece| (u64::from(p.at)..p.end()).contains(&u64::from(entry));
            if !pieces.iter().any(inside) {
                return Err(ImageRefused::Entry(entry));
            }
        }
        Ok(BareImage {
            bytes,
            format,
            pieces,
            entry,
        })
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Physical address of the first instruction; meaningless for a ROM, which is entered by reset.
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The little-endian word at `at`, if it lies in the file.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(
        four.try_into().expect("a slice of four bytes"),
    ))
}

/// The little-endian half-word at `at`, if it lies in the file.
pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(
        two.try_into().expect("a slice of two bytes"),
    ))
}
