//! The images: one in protected mode with PAE paging, one ROM in real mode.
//!
//! Written to use what compiled code uses and what engines get wrong: nested loops, calls, tables, string operations over
//! pages' ends, stores into code, interrupts at any instruction. Results are computed here a second time.

use iced_x86::code_asm::*;
use lowmem_machine::bare::{BareImage, Format};

/// Where an ELF image's code is.
const LOAD: u32 = 0x10_0000;
const PDPT: u32 = 0x1_0000;
const DIRECTORY: u32 = 0x1_1000;
const TABLES: u32 = 0x1_2000;
/// Bytes that are summed.
const BYTES: u32 = 0x30_0000;
const BYTES_N: u32 = 0x3000;
/// A list of words: each is the offset of the next.
const LIST: u32 = 0x38_0000;
const LIST_N: u32 = 1 << 15;
const STEPS: u32 = 60_000;
/// Keys to sort.
const KEYS: u32 = 0x40_0000;
const KEYS_N: u32 = 2000;
const STACK: u32 = 0x9_0000;
/// Calls of the function that calls itself twice.
const DEPTH: u32 = 16;

type Piece = Result<(), IcedError>;

/// EAX = EAX * 1664525 + 1013904223.
fn random(a: &mut CodeAssembler) -> Piece {
    a.imul_3(eax, eax, 1_664_525)?;
    a.add(eax, 1_013_904_223)
}

fn next(x: u32) -> u32 {
    x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)
}

/// Identity for 8 MiB in 4 KiB pages, nothing marked accessed.
fn paging(a: &mut CodeAssembler) -> Piece {
    a.mov(dword_ptr(PDPT), DIRECTORY | 1)?;
    for i in 0..4 {
        a.mov(dword_ptr(DIRECTORY + 8 * i), (TABLES + (i << 12)) | 3)?;
    }
    let mut fill = a.create_label();
    a.mov(eax, 3)?;
    a.mov(edi, TABLES)?;
    a.set_label(&mut fill)?;
    a.mov(dword_ptr(edi), eax)?;
    a.add(eax, 0x1000)?;
    a.add(edi, 8)?;
    a.cmp(edi, TABLES + 0x4000)?;
    a.jb(fill)?;
    a.mov(eax, 0x20)?;
    a.mov(cr4, eax)?;
    a.mov(eax, PDPT)?;
    a.mov(cr3, eax)?;
    a.mov(eax, cr0)?;
    a.or(eax, 0x8001_0000u32)?;
    a.mov(cr0, eax)
}

/// Fills the bytes; CRC-32 of them, bit by bit, to ESI.
fn crc(a: &mut CodeAssembler) -> Piece {
    let (mut fill, mut byte, mut bit, mut even) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.mov(eax, 1)?;
    a.mov(edi, BYTES)?;
    a.set_label(&mut fill)?;
    random(a)?;
    a.mov(edx, eax)?;
    a.shr(edx, 24)?;
    a.mov(byte_ptr(edi), dl)?;
    a.inc(edi)?;
    a.cmp(edi, BYTES + BYTES_N)?;
    a.jne(fill)?;
    a.mov(eax, -1)?;
    a.mov(edi, BYTES)?;
    a.set_label(&mut byte)?;
    a.movzx(edx, byte_ptr(edi))?;
    a.xor(eax, edx)?;
    a.mov(ecx, 8)?;
    a.set_label(&mut bit)?;
    a.shr(eax, 1)?;
    a.jnc(even)?;
    a.xor(eax, 0xedb8_8320u32)?;
    a.set_label(&mut even)?;
    a.loop_(bit)?;
    a.inc(edi)?;
    a.cmp(edi, BYTES + BYTES_N)?;
    a.jne(byte)?;
    a.not(eax)?;
    a.mov(esi, eax)
}

fn crc_result() -> u32 {
    let mut x = 1;
    let mut crc = u32::MAX;
    for _ in 0..BYTES_N {
        x = next(x);
        crc ^= x >> 24;
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// Builds the list and follows it; where it ends is added to ESI.
fn list(a: &mut CodeAssembler) -> Piece {
    let (mut build, mut follow) = (a.create_label(), a.create_label());
    a.xor(ecx, ecx)?;
    a.set_label(&mut build)?;
    a.imul_3(eax, ecx, 0x2c55)?;
    a.add(eax, 1)?;
    a.and(eax, LIST_N - 1)?;
    a.shl(eax, 2)?;
    a.mov(dword_ptr(LIST + ecx * 4), eax)?;
    a.inc(ecx)?;
    a.cmp(ecx, LIST_N)?;
    a.jb(build)?;
    a.xor(eax, eax)?;
    a.mov(ecx, STEPS)?;
    a.set_label(&mut follow)?;
    a.mov(eax, dword_ptr(LIST + eax))?;
    a.dec(ecx)?;
    a.jne(follow)?;
    a.add(esi, eax)
}

fn list_result() -> u32 {
    let mut at = 0u32;
    for _ in 0..STEPS {
        at = at.wrapping_mul(0x2c55).wrapping_add(1) & (LIST_N - 1);
    }
    at * 4
}

/// Random keys, Shell's sort by thirds, a sum weighted by position to ESI.
fn sort(a: &mut CodeAssembler) -> Piece {
    let (mut fill, mut gap, mut outer, mut inner, mut place, mut sum) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.mov(eax, 7)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut fill)?;
    random(a)?;
    a.mov(dword_ptr(KEYS + ecx * 4), eax)?;
    a.inc(ecx)?;
    a.cmp(ecx, KEYS_N)?;
    a.jb(fill)?;
    // EBX is the gap, ECX the key that is placed, EDI where.
    a.mov(ebx, 1093)?;
    a.set_label(&mut gap)?;
    a.mov(ecx, ebx)?;
    a.set_label(&mut outer)?;
    a.mov(eax, dword_ptr(KEYS + ecx * 4))?;
    a.mov(edi, ecx)?;
    a.set_label(&mut inner)?;
    a.mov(edx, edi)?;
    a.sub(edx, ebx)?;
    a.jb(place)?;
    a.mov(ebp, dword_ptr(KEYS + edx * 4))?;
    a.cmp(ebp, eax)?;
    a.jbe(place)?;
    a.mov(dword_ptr(KEYS + edi * 4), ebp)?;
    a.mov(edi, edx)?;
    a.jmp(inner)?;
    a.set_label(&mut place)?;
    a.mov(dword_ptr(KEYS + edi * 4), eax)?;
    a.inc(ecx)?;
    a.cmp(ecx, KEYS_N)?;
    a.jb(outer)?;
    a.mov(eax, ebx)?;
    a.xor(edx, edx)?;
    a.mov(ebx, 3)?;
    a.div(ebx)?;
    a.mov(ebx, eax)?;
    a.test(ebx, ebx)?;
    a.jne(gap)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut sum)?;
    a.mov(eax, dword_ptr(KEYS + ecx * 4))?;
    a.imul_2(eax, ecx)?;
    a.add(esi, eax)?;
    a.inc(ecx)?;
    a.cmp(ecx, KEYS_N)?;
    a.jb(sum)
}

fn sort_result() -> u32 {
    let mut x = 7;
    let mut keys: Vec<u32> = (0..KEYS_N)
        .map(|_| {
            x = next(x);
            x
        })
        .collect();
    keys.sort_unstable();
    (0..).zip(keys).fold(0, |sum: u32, (n, key): (u32, u32)| {
        sum.wrapping_add(n.wrapping_mul(key))
    })
}

/// Repeated moves and stores over pages' ends, forwards and backwards, and a search.
fn strings(a: &mut CodeAssembler) -> Piece {
    let mut again = a.create_label();
    a.mov(ebx, 40)?;
    a.set_label(&mut again)?;
    a.push(esi)?;
    a.mov(esi, BYTES + 5)?;
    a.mov(edi, KEYS + 0x8003)?;
    a.mov(ecx, 0x1800)?;
    a.rep().movsb()?;
    a.std()?;
    a.mov(ecx, 0x300)?;
    a.rep().movsd()?;
    a.cld()?;
    a.mov(eax, ebx)?;
    a.mov(edi, KEYS + 0x8ff1)?;
    a.mov(ecx, 0x500)?;
    a.rep().stosd()?;
    a.mov(edi, KEYS + 0x8000)?;
    a.mov(ecx, 0x1000)?;
    a.repne().scasb()?;
    a.pop(esi)?;
    a.dec(ebx)?;
    a.jne(again)
}

/// The number of ways to write [`DEPTH`] as a sum of ones and twos, by calls; added to ESI.
fn calls(a: &mut CodeAssembler) -> Piece {
    let (mut f, mut leaf, mut over) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(eax, DEPTH)?;
    a.call(f)?;
    a.jmp(over)?;
    a.set_label(&mut f)?;
    a.cmp(eax, 2)?;
    a.jb(leaf)?;
    a.push(eax)?;
    a.dec(eax)?;
    a.call(f)?;
    a.xchg(dword_ptr(esp), eax)?;
    a.sub(eax, 2)?;
    a.call(f)?;
    a.pop(edx)?;
    a.add(eax, edx)?;
    a.ret()?;
    a.set_label(&mut leaf)?;
    a.mov(eax, 1)?;
    a.ret()?;
    a.set_label(&mut over)?;
    a.add(esi, eax)
}

fn calls_result() -> u32 {
    let (mut x, mut y) = (1, 1);
    for _ in 1..DEPTH {
        (x, y) = (y, x + y);
    }
    y
}

/// An add whose immediate the instruction before it changes, 3000 times; the sum is added to ESI.
fn changes(a: &mut CodeAssembler) -> Piece {
    let (mut here, mut again) = (a.create_label(), a.create_label());
    a.call(here)?;
    a.set_label(&mut here)?;
    // Its own address; the immediate is that many bytes on: pop, mov, xor, mov, opcode.
    a.pop(edi)?;
    a.mov(ecx, 3000)?;
    a.xor(eax, eax)?;
    a.set_label(&mut again)?;
    a.mov(dword_ptr(edi + (1 + 5 + 2 + 3 + 1)), ecx)?;
    a.db(&[0x05, 0, 0, 0, 0])?;
    a.dec(ecx)?;
    a.jne(again)?;
    a.add(esi, eax)
}

/// ESI to port E9.
fn tell(a: &mut CodeAssembler) -> Piece {
    let mut more = a.create_label();
    a.mov(ecx, 4)?;
    a.set_label(&mut more)?;
    a.mov(eax, esi)?;
    a.out(0xe9u32, al)?;
    a.ror(esi, 8)?;
    a.dec(ecx)?;
    a.jne(more)?;
    a.xor(eax, eax)?;
    a.out(0xf4u32, al)
}

/// Protected mode, PAE paging, 4 KiB pages.
pub(crate) fn protected() -> BareImage {
    let mut a = CodeAssembler::new(32).unwrap();
    a.mov(esp, STACK).unwrap();
    a.cld().unwrap();
    for piece in [paging, crc, list, sort, strings, calls, changes, tell] {
        piece(&mut a).unwrap();
    }
    let code = a.assemble(LOAD.into()).unwrap();
    let n = code.len() as u32;
    let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    bytes.extend(words(&[1, LOAD, 52, 0, 0]));
    for half in [52u16, 32, 1, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(words(&[1, 84, LOAD, LOAD, n, n, 7, 1]));
    bytes.extend(code);
    BareImage::parse_as(bytes, Format::Elf).unwrap()
}

/// What it writes.
pub(crate) fn protected_output() -> Vec<u8> {
    let changes: u32 = (1..=3000).sum();
    [
        crc_result(),
        list_result(),
        sort_result(),
        calls_result(),
        changes,
    ]
    .into_iter()
    .fold(0u32, u32::wrapping_add)
    .to_le_bytes()
    .to_vec()
}

/// Where the ROM copies itself, and runs: a segment that starts inside a page.
const SEGMENT: u32 = 0x1234;
/// Offset of the timer's handler.
const HANDLER: u32 = 0x400;
/// Offset of `add bp, imm16; ret`, whose immediate is stored to.
const CHANGED: u32 = 0x480;
/// Ticks, below the copy.
const TICKS: u32 = 0x600;

/// Real mode: the ROM copies itself to RAM, and counts timer ticks there while it computes.
pub(crate) fn real() -> BareImage {
    let mut bytes = vec![0xf4; 1 << 16];
    // The far return leads behind the copying, whose length does not depend on where that is.
    let there = piece16(0, |a| copy(a, 0)).len() as u32;
    let mut code = piece16(0, |a| copy(a, there));
    code.extend(piece16(there, |a| {
        timer(a)?;
        work(a)
    }));
    assert!(code.len() <= HANDLER as usize);
    for (at, code) in [
        (0, code),
        (HANDLER, piece16(HANDLER, handler)),
        (CHANGED, vec![0x81, 0xc5, 0, 0, 0xc3]),
        (0xfff0, vec![0xea, 0, 0, 0, 0xf0]),
    ] {
        bytes[at as usize..at as usize + code.len()].copy_from_slice(&code);
    }
    BareImage::parse_as(bytes, Format::Rom).unwrap()
}

fn piece16(at: u32, f: impl FnOnce(&mut CodeAssembler) -> Piece) -> Vec<u8> {
    let mut a = CodeAssembler::new(16).unwrap();
    f(&mut a).unwrap();
    a.assemble(at.into()).unwrap()
}

fn copy(a: &mut CodeAssembler, there: u32) -> Piece {
    a.cld()?;
    a.mov(ax, 0xf000)?;
    a.mov(ds, ax)?;
    a.mov(ax, SEGMENT)?;
    a.mov(es, ax)?;
    a.xor(si, si)?;
    a.xor(di, di)?;
    a.mov(cx, 0x1000)?;
    a.rep().movsb()?;
    a.mov(ss, ax)?;
    a.mov(sp, 0xff00)?;
    a.mov(bx, there)?;
    a.push(ax)?;
    a.push(bx)?;
    a.retf()
}

/// PIC and PIT: IRQ 0 is vector 8.
fn timer(a: &mut CodeAssembler) -> Piece {
    a.mov(ax, cs)?;
    a.mov(ds, ax)?;
    a.mov(es, ax)?;
    a.xor(ax, ax)?;
    a.mov(fs, ax)?;
    a.mov(word_ptr(TICKS).fs(), ax)?;
    a.mov(ax, HANDLER)?;
    a.mov(word_ptr(8 * 4).fs(), ax)?;
    a.mov(ax, cs)?;
    a.mov(word_ptr(8 * 4 + 2).fs(), ax)?;
    for (port, value) in [
        (0x20u32, 0x11u32),
        (0x21, 8),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xfe),
        (0x43, 0x34),
        (0x40, 40),
        (0x40, 0),
    ] {
        a.mov(al, value)?;
        a.out(port, al)?;
    }
    a.sti()
}

fn handler(a: &mut CodeAssembler) -> Piece {
    a.push(ax)?;
    a.inc(word_ptr(TICKS).fs())?;
    a.mov(al, 0x20)?;
    a.out(0x20u32, al)?;
    a.pop(ax)?;
    a.iret()
}

/// Sums, calls, strings and stores into code until 400 ticks have come.
fn work(a: &mut CodeAssembler) -> Piece {
    let (mut again, mut sum, mut f, mut enough) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.xor(bx, bx)?;
    a.set_label(&mut again)?;
    a.mov(si, 0x100)?;
    a.mov(cx, 200)?;
    a.set_label(&mut sum)?;
    a.lodsw()?;
    a.add(bx, ax)?;
    a.adc(edx, 0x1_0001)?;
    a.loop_(sum)?;
    a.mov(word_ptr(CHANGED + 2), bx)?;
    a.call(u64::from(CHANGED))?;
    a.call(f)?;
    a.mov(di, 0x2001)?;
    a.mov(cx, 0x90)?;
    a.mov(ax, bx)?;
    a.rep().stosw()?;
    a.mov(cx, 30)?;
    a.mov(di, 0x2001)?;
    a.repe().scasw()?;
    a.cmp(word_ptr(TICKS).fs(), 400)?;
    a.jae(enough)?;
    a.jmp(again)?;
    a.set_label(&mut f)?;
    a.enter(8, 1)?;
    a.push(bx)?;
    a.imul_3(eax, edx, 77)?;
    a.mov(dword_ptr(bp - 4), eax)?;
    a.pop(cx)?;
    a.leave()?;
    a.ret()?;
    a.set_label(&mut enough)?;
    a.cli()?;
    for byte in *b"ok" {
        a.mov(al, u32::from(byte))?;
        a.out(0xe9u32, al)?;
    }
    a.xor(ax, ax)?;
    a.out(0xf4u32, al)
}
