//! ELF32 executables for i386 (System V ABI, chapters 4 and 5): what of them goes where.
//!
//! Only program headers are read. Segments are loaded at their physical addresses; an entry that lies in a segment's virtual
//! range is moved with it. Position-independent files and those that need an interpreter are refused: nobody here relocates.
//!
//! Invariant: no value of the file is trusted; all sums are checked.

use crate::bare::image::{ImageRefused, Piece, half, word};

/// Bytes of the file header.
const HEADER_BYTES: usize = 52;
/// Bytes of a program header.
const PROGRAM_HEADER_BYTES: usize = 32;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;

/// Whether the file says it is ELF.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// The pieces of an executable and its physical entry.
pub(crate) fn pieces(bytes: &[u8]) -> Result<(Vec<Piece>, u32), ImageRefused> {
    let bad = |reason: String| Err(ImageRefused::Elf(reason));
    if !is_elf(bytes) {
        return bad("no 7f 45 4c 46 at the start".to_owned());
    }
    if bytes.len() < HEADER_BYTES {
        return bad(format!("the file ends after {} bytes", bytes.len()));
    }
    match (bytes[4], bytes[5]) {
        (1, 1) => {}
        (2, _) => return bad("a 64-bit file, wanted 32 bits".to_owned()),
        (class, data) => {
            return bad(format!(
                "class {class}, encoding {data}, wanted 1 and 1 (32 bits, little-endian)"
            ));
        }
    }
    let halves = |at| half(bytes, at).expect("inside the header, whose size was checked");
    let words = |at| word(bytes, at).expect("inside the header, whose size was checked");
    match halves(16) {
        ET_EXEC => {}
        ET_DYN => {
            return bad(
                "position-independent (type 3), wanted an executable with fixed addresses \
                        (link with -static -no-pie)"
                    .to_owned(),
            );
        }
        other => return bad(format!("type {other}, wanted 2 (an executable)")),
    }
    if halves(18) != EM_386 {
        return bad(format!("machine {}, wanted 3 (i386)", halves(18)));
    }
    let (table, size, count) = (words(28) as usize, usize::from(halves(42)), halves(44));
    if count != 0 && size < PROGRAM_HEADER_BYTES {
        return bad(format!("program headers of {size} bytes, wanted 32"));
    }
    let mut entry = words(24);
    let mut moved = None;
    let mut pieces = Vec::new();
    for number in 0..usize::from(count) {
        let at = table.saturating_add(number * size);
        let refuse = |reason: String| ImageRefused::Segment { number, at, reason };
        let header = at
            .checked_add(PROGRAM_HEADER_BYTES)
            .and_then(|end| bytes.get(at..end))
            .ok_or_else(|| refuse(format!("lies outside the file of {} bytes", bytes.len())))?;
        let field = |i: usize| word(header, 4 * i).expect("eight words in 32 bytes");
        match field(0) {
            PT_LOAD => {}
            PT_INTERP => return Err(refuse("wants an interpreter".to_owned())),
            _ => continue,
        }
        let (offset, va, pa) = (field(1), field(2), field(3));
        let (in_file, in_memory) = (field(4), field(5));
        if in_memory == 0 && in_file == 0 {
            continue;
        }
        if in_file > in_memory {
            return Err(refuse(format!(
                "{in_file:#x} bytes in the file, only {in_memory:#x} in memory"
            )));
        }
        if u64::from(pa) + u64::from(in_memory) > 1 << 32 {
            return Err(refuse(format!(
                "{in_memory:#x} bytes at {pa:#x} reach beyond 4 GiB"
            )));
        }
        let start = offset as usize;
        let end = start + in_file as usize;
        if end > bytes.len() {
            return Err(refuse(format!(
                "bytes {start:#x} to {end:#x} lie outside the file of {:#x} bytes",
                bytes.len()
            )));
        }
        if entry.wrapping_sub(va) < in_memory {
            moved.get_or_insert(pa.wrapping_add(entry.wrapping_sub(va)));
        }
        pieces.push(Piece {
            at: pa,
            file: start..end,
            memory: u64::from(in_memory),
        });
    }
    if let Some(at) = moved {
        entry = at;
    }
    Ok((pieces, entry))
}
