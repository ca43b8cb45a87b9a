//! Paging in each mode: rights, reserved bits, error codes, accessed and dirty bits (SDM vol. 3A, sections 4.3 to 4.8).
//!
//! Each attempt starts with the entries it looks at as written here and with nothing cached.

use crate::program::*;
use iced_x86::code_asm::*;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;

pub(crate) const PDPT: u32 = TABLES;
const DIRECTORY: u32 = TABLES + 0x1000;
const IDENTITY: u32 = TABLES + 0x2000;
const TABLE: u32 = TABLES + 0x3000;
/// The page that is looked at, in a region of its own in every mode, and the one after it.
const PAGE: u32 = 0x0080_5000;
/// Its frame; the next page has the next frame.
const FRAME: u32 = FRAMES + 0x3000;
/// A large page's frame, beyond the image.
const LARGE_FRAME: u32 = 0x40_0000;

const CR0_WP: u32 = 1 << 16;

/// A mode of paging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Bits32,
    Bits32Pse,
    Pae,
    PaeNx,
}

impl Mode {
    fn pae(self) -> bool {
        matches!(self, Mode::Pae | Mode::PaeNx)
    }
    fn width(self) -> u32 {
        if self.pae() { 8 } else { 4 }
    }
    fn region_shift(self) -> u32 {
        if self.pae() { 21 } else { 22 }
    }
    fn pde(self) -> u32 {
        DIRECTORY + (PAGE >> self.region_shift()) * self.width()
    }
    fn pte(self) -> u32 {
        let entries = 4096 / self.width();
        TABLE + (PAGE >> 12) % entries * self.width()
    }
    fn cr4(self) -> u32 {
        match self {
            Mode::Bits32 => 0,
            Mode::Bits32Pse => 1 << 4,
            Mode::Pae | Mode::PaeNx => 1 << 5,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Read,
    Write,
    Modify,
    Compare,
    Call,
    /// A write of two bytes before the end of the page and two after it.
    Cross,
    Copy,
}

const ALL: [What; 7] = [
    What::Read,
    What::Write,
    What::Modify,
    What::Compare,
    What::Call,
    What::Cross,
    What::Copy,
];

fn perform(a: &mut CodeAssembler, what: What) -> Piece {
    match what {
        What::Read => a.mov(eax, dword_ptr(PAGE + 0x10)),
        What::Write => a.mov(dword_ptr(PAGE + 0x20), ebx),
        // Without the prefix QEMU loads and then stores, where a processor asks for the right to write at once.
        What::Modify => a.lock().add(dword_ptr(PAGE + 0x10), 1),
        // One that does not match writes all the same.
        What::Compare => a.lock().cmpxchg(dword_ptr(PAGE + 0x10), ebx),
        What::Call => {
            a.mov(edx, PAGE + 0x800)?;
            a.call(edx)
        }
        What::Cross => a.mov(dword_ptr(PAGE + 0xFFE), ebx),
        What::Copy => {
            a.mov(esi, FRAMES)?;
            a.mov(edi, PAGE + 0xFF8)?;
            a.rep().movsd()
        }
    }
}

/// The program of one mode.
pub(crate) fn program(mode: Mode) -> Program {
    let mut p = Program::new(&[]);
    tables(&mut p, mode);
    for page in 0..16 {
        let at = FRAMES + page * 0x1000;
        for offset in [0, 4, 8, 0x10, 0xFFC] {
            p.put32(at + offset, 0x0101_0101 * (page + 1) + offset);
        }
        p.put32(at + 0x800, 0xC3);
    }
    p.store(LARGE_FRAME + (PAGE & 0x1F_FFFF) + 0x10, 0x77);
    p.store(LARGE_FRAME + (PAGE & 0x1F_FFFF) + 0x800, 0xC3);
    p.store(LARGE_FRAME + (PAGE & 0x3F_FFFF) + 0x10, 0x77);
    p.store(LARGE_FRAME + (PAGE & 0x3F_FFFF) + 0x800, 0xC3);
    enable(&mut p, mode);
    for wp in [0, CR0_WP] {
        p.emit(|a| {
            a.mov(eax, cr0)?;
            a.and(eax, !(CR0_WP as i32))?;
            a.or(eax, wp as i32)?;
            a.mov(cr0, eax)
        });
        for ring in [Ring::Kernel, Ring::User] {
            for (name, pde, pte) in cases(mode) {
                for what in ALL {
                    set(&mut p, mode, pde, pte);
                    let name = format!("{mode:?} wp={} {ring:?} {what:?}: {name}", wp != 0);
                    let watch = [mode.pde(), mode.pte(), FRAME + 0x10, FRAME + 0xFFC];
                    p.attempt(ring, name, &watch, |a| perform(a, what));
                }
            }
        }
    }
    p
}

fn entry(p: &mut Program, mode: Mode, at: u32, value: u64) {
    if mode.pae() {
        p.put64(at, value);
    } else {
        p.put32(at, value as u32);
    }
}

fn tables(p: &mut Program, mode: Mode) {
    if mode.pae() {
        p.put64(PDPT, u64::from(DIRECTORY) | P);
    }
    let all = P | W | U | A | D;
    entry(p, mode, DIRECTORY, u64::from(IDENTITY) | all);
    for i in 0..4096 / mode.width() {
        entry(
            p,
            mode,
            IDENTITY + i * mode.width(),
            u64::from(i) << 12 | all,
        );
    }
    // The page after the one that is looked at is there, but its A is clear.
    entry(
        p,
        mode,
        mode.pte() + mode.width(),
        u64::from(FRAME + 0x1000) | P | W | U,
    );
}

fn enable(p: &mut Program, mode: Mode) {
    let root = if mode.pae() { PDPT } else { DIRECTORY };
    p.emit(|a| {
        if mode == Mode::PaeNx {
            a.mov(ecx, 0xC000_0080u32)?;
            a.rdmsr()?;
            a.or(eax, 0x800)?;
            a.wrmsr()?;
        }
        a.mov(eax, mode.cr4())?;
        a.mov(cr4, eax)?;
        a.mov(eax, root)?;
        a.mov(cr3, eax)?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)
    });
}

fn set(p: &mut Program, mode: Mode, pde: u64, pte: u64) {
    for (at, value) in [(mode.pde(), pde), (mode.pte(), pte)] {
        p.store(at, value as u32);
        if mode.pae() {
            p.store(at + 4, (value >> 32) as u32);
        }
    }
    p.store(FRAME + 0x10, 0x1111_1111);
    p.store(FRAME + 0xFFC, 0x9999_9999);
    p.emit(|a| {
        a.invlpg(dword_ptr(PAGE))?;
        a.mov(eax, cr3)?;
        a.mov(cr3, eax)
    });
}

/// Directory and table entries to try.
fn cases(mode: Mode) -> Vec<(String, u64, u64)> {
    let table = |flags: u64| u64::from(TABLE) | flags;
    let page = |flags: u64| u64::from(FRAME) | flags;
    let large = |flags: u64| u64::from(LARGE_FRAME) | PS | flags;
    let (good, leaf) = (table(P | W | U | A), page(P | W | U));
    let mut cases = vec![
        ("absent", good, 0),
        ("absent, all else set", good, !1),
        ("supervisor read-only", good, page(P)),
        ("supervisor", good, page(P | W)),
        ("user read-only", good, page(P | U)),
        ("user", good, leaf),
        ("user, accessed", good, page(P | W | U | A)),
        ("user, dirty", good, page(P | W | U | A | D)),
        ("dirty, not accessed", good, page(P | W | U | D)),
        ("global", good, page(P | W | U | G)),
        ("pat", good, page(P | W | U | PS)),
        ("directory absent", 0, leaf),
        ("directory not accessed", table(P | W | U), leaf),
        ("directory supervisor", table(P | W), leaf),
        ("directory read-only", table(P | U), leaf),
        ("directory supervisor, leaf absent", table(P), 0),
    ];
    if mode == Mode::Bits32 {
        cases.push(("ps without pse", table(P | W | U | PS), leaf));
    } else {
        cases.extend([
            ("large", large(P | W | U), 0),
            ("large, accessed", large(P | W | U | A), 0),
            ("large, dirty, global", large(P | W | U | A | D | G), 0),
            ("large supervisor", large(P | W), 0),
            ("large read-only", large(P | U), 0),
            ("large, pat", large(P | W | U | 1 << 12), 0),
            ("large absent", large(W | U | 1 << 20), 0),
        ]);
    }
    if mode == Mode::Bits32Pse {
        // Bits 20:13 mean nothing here and a frame above 4 GiB to a processor with PSE-36, as QEMU's is.
        cases.push(("large, bit 21", large(P | W | U | 1 << 21), 0));
    }
    if mode.pae() {
        cases.extend([
            ("bit 36", good, leaf | 1 << 36),
            ("bit 51", good, leaf | 1 << 51),
            ("bit 62", good, leaf | 1 << 62),
            ("bit 63", good, leaf | NX),
            ("bit 63, absent", good, NX | W | U),
            ("directory bit 36", good | 1 << 36, leaf),
            ("directory bit 63", good | NX, leaf),
            ("directory bit 63, leaf absent", good | NX, 0),
            ("large, bit 13", large(P | W | U | 1 << 13), 0),
            ("large, bit 20", large(P | W | U | 1 << 20), 0),
            ("large, bit 36", large(P | W | U | 1 << 36), 0),
            ("large, bit 63", large(P | W | U | NX), 0),
        ]);
    }
    cases
        .into_iter()
        .map(|(name, pde, pte)| (name.to_owned(), pde, pte))
        .collect()
}
