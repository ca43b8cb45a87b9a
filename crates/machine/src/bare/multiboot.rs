//! Multiboot 1 (Multiboot Specification 0.6.96): the header, and the structure that tells the kernel about the machine.
//!
//! Given to the kernel: lower and upper memory, the memory map, the loader's name. Not given: modules, symbols, drives, APM,
//! video; an image whose header *requires* a video mode or anything unknown is refused, as the specification says.
//!
//! Invariant: the information structure lies in RAM that the image does not cover.

use crate::bare::elf;
use crate::bare::image::{ImageRefused, Piece, word};
use emu_mmu::{PhysAddr, PhysMem};

/// Header magic.
const MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at entry.
pub(crate) const BOOTED: u32 = 0x2bad_b002;
/// The header lies in so many bytes of the file.
const SEARCHED: usize = 8192;
/// Flags 0 and 1: aligned modules (there are none), memory information (always given).
const CAN: u32 = 3;
/// Flag 2: a video mode is required.
const VIDEO: u32 = 1 << 2;
/// Flag 16: the address fields are valid.
const ADDRESSES: u32 = 1 << 16;
/// Flags whose requirements a loader must meet.
const REQUIRED: u32 = 0xffff;

/// Where conventional memory ends on a PC: the BIOS data area behind, then video memory.
const LOWER_END: u64 = 640 << 10;
/// Where extended memory begins.
const UPPER_START: u64 = 1 << 20;

/// A header in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    at: usize,
    flags: u32,
}

impl Header {
    /// The first header of the file.
    pub(crate) fn find(bytes: &[u8]) -> Option<Header> {
        (0..bytes.len().min(SEARCHED))
            .step_by(4)
            .take_while(|at| at + 12 <= SEARCHED)
            .find_map(|at| {
                let (magic, flags, sum) =
                    (word(bytes, at)?, word(bytes, at + 4)?, word(bytes, at + 8)?);
                let whole = magic.wrapping_add(flags).wrapping_add(sum) == 0;
                (magic == MAGIC && whole).then_some(Header { at, flags })
            })
    }

    /// The header says itself where the file goes.
    pub(crate) fn has_addresses(self) -> bool {
        self.flags & ADDRESSES != 0
    }
}

/// The pieces of a multiboot image and its entry.
pub(crate) fn pieces(bytes: &[u8]) -> Result<(Vec<Piece>, u32), ImageRefused> {
    let header = Header::find(bytes).ok_or(ImageRefused::NoHeader)?;
    let bad = |reason: String| ImageRefused::Header {
        at: header.at,
        reason,
    };
    if header.flags & VIDEO != 0 {
        return Err(bad("requires a video mode, there is no video".to_owned()));
    }
    if header.flags & REQUIRED & !CAN != 0 {
        return Err(bad(format!(
            "requires what flags {:#x} ask for, only flags 0 and 1 are known",
            header.flags & REQUIRED & !CAN
        )));
    }
    if !header.has_addresses() {
        if !elf::is_elf(bytes) {
            return Err(bad(
                "has no address fields (flag 16) and the file is not ELF".to_owned(),
            ));
        }
        return elf::pieces(bytes);
    }
    let field = |n: usize| {
        word(bytes, header.at + 12 + 4 * n)
            .ok_or_else(|| bad("its address fields lie outside the file".to_owned()))
    };
    let (at, load, load_end) = (field(0)?, field(1)?, field(2)?);
    let (bss_end, entry) = (field(3)?, field(4)?);
    let before = at
        .checked_sub(load)
        .map(|n| n as usize)
        .filter(|&n| n <= header.at)
        .ok_or_else(|| {
            bad(format!(
                "header_addr {at:#x} and load_addr {load:#x} put the load's first byte before the file's"
            ))
        })?;
    let start = header.at - before;
    let len = match load_end {
        0 => bytes.len() - start,
        _ => load_end.checked_sub(load).ok_or_else(|| {
            bad(format!(
                "load_end_addr {load_end:#x} is below load_addr {load:#x}"
            ))
        })? as usize,
    };
    if len > bytes.len() - start {
        return Err(bad(format!(
            "asks for {len:#x} bytes from offset {start:#x} of a file of {:#x} bytes",
            bytes.len()
        )));
    }
    let memory = match bss_end {
        0 => len as u64,
        _ => u64::from(bss_end)
            .checked_sub(u64::from(load))
            .filter(|&n| n >= len as u64)
            .ok_or_else(|| {
                bad(format!(
                    "bss_end_addr {bss_end:#x} is below the end of what is loaded"
                ))
            })?,
    };
    if u64::from(load) + memory > 1 << 32 {
        return Err(bad(format!(
            "{memory:#x} bytes at {load:#x} reach beyond 4 GiB"
        )));
    }
    let piece = Piece {
        at: load,
        file: start..start + len,
        memory,
    };
    Ok((vec![piece], entry))
}

/// Bytes that the structure, its map and the name take.
const INFO_BYTES: u64 = 0x400;
/// Offsets of the map and of the name in those bytes.
const MAP: u32 = 0x100;
const NAME: u32 = 0x300;

/// Writes the information structure to a free page; its address.
pub(crate) fn write_info(mem: &mut PhysMem, pieces: &[Piece]) -> Result<u32, ImageRefused> {
    let ram = mem.ram_bytes();
    let free = |at: u64| {
        at + INFO_BYTES <= ram
            && pieces
                .iter()
                .all(|p| p.end() <= at || u64::from(p.at) >= at + INFO_BYTES)
    };
    // As high in conventional memory as it goes, but not in page 0, whose address says "none"; else behind the image.
    let low = (1..LOWER_END >> 12).rev().map(|page| page << 12);
    let behind = pieces.last().map(|p| p.end().next_multiple_of(4096));
    let info = low
        .chain(behind)
        .filter(|at| at + INFO_BYTES <= 1 << 32)
        .find(|&at| free(at))
        .ok_or(ImageRefused::NoRoom)? as u32;
    let mut put = |offset: u32, value: u32| {
        mem.write_u32(PhysAddr(u64::from(info) + u64::from(offset)), value);
    };
    let upper = ram.saturating_sub(UPPER_START);
    // Flags 0, 6 and 9: mem_*, mmap_*, boot_loader_name.
    put(0, 1 | 1 << 6 | 1 << 9);
    put(4, (LOWER_END >> 10) as u32);
    put(8, (upper >> 10).min(u64::from(u32::MAX)) as u32);
    let map: [(u64, u64, u32); 3] = [
        (0, LOWER_END, 1),
        (LOWER_END, UPPER_START - LOWER_END, 2),
        (UPPER_START, upper, 1),
    ];
    let mut at = MAP;
    for (base, len, kind) in map.into_iter().filter(|&(_, len, _)| len != 0) {
        // An entry's own size does not count itself.
        for value in [
            20,
            base as u32,
            (base >> 32) as u32,
            len as u32,
            (len >> 32) as u32,
            kind,
        ] {
            put(at, value);
            at += 4;
        }
    }
    put(44, at - MAP);
    put(48, info + MAP);
    put(64, info + NAME);
    mem.write_bytes(PhysAddr(u64::from(info + NAME)), b"lowmem\0");
    Ok(info)
}
