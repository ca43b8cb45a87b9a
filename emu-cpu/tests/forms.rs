//! Behaviour of instruction forms as data: the files in `forms/`, one line per case.
//!
//! `bytes | disassembly | before | after`. Before and after are lists of `register=hex`,
//! `flags=letters` (of `oszapc`, `-` for none; only after: letters not named are not looked at when
//! the list ends with `?`), `[hex]=hex` for 32 bits of memory, and after also `fault=vector` or
//! `fault=vector:code`, `eip=+n` (relative to the instruction) and `cr2=hex`. Registers and memory
//! not named after must be as before. Each case runs on both engines, at CPL 0, with every
//! interrupt gate to a stub that halts. Lines starting with `#` are comments.

mod common;

use common::*;
use emu_cpu::*;
use emu_mmu::PhysAddr;
use iced_x86::{Decoder, DecoderOptions, FastFormatter};
use std::path::Path;

const NAMES: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
const LETTERS: [(char, u32); 7] = [
    ('o', flags::OF),
    ('s', flags::SF),
    ('z', flags::ZF),
    ('a', flags::AF),
    ('p', flags::PF),
    ('c', flags::CF),
    ('d', flags::DF),
];

fn hex(s: &str) -> u32 {
    u32::from_str_radix(s, 16).unwrap_or_else(|_| panic!("not hexadecimal: {s}"))
}
fn flag_bits(s: &str) -> u32 {
    s.chars()
        .filter(|&c| c != '-' && c != '?')
        .map(|c| {
            LETTERS
                .iter()
                .find(|(l, _)| *l == c)
                .expect("a flag letter")
                .1
        })
        .sum()
}
fn memory_at(key: &str) -> Option<u32> {
    key.strip_prefix('[').map(|k| hex(k.trim_end_matches(']')))
}
/// Linear to physical in the test machine.
fn physical(at: u32) -> PhysAddr {
    PhysAddr(if at < USER_CODE {
        u64::from(at)
    } else {
        u64::from(at - USER_CODE) + CODE_FRAME
    })
}

fn check(place_of_line: &str, line: &str, engine: Engine) {
    let parts: Vec<&str> = line.split('|').map(str::trim).collect();
    let [bytes, text, before, after] = parts[..] else {
        panic!("{place_of_line}: four fields are needed")
    };
    let bytes: Vec<u8> = bytes.split(' ').map(|b| hex(b) as u8).collect();
    let i = Decoder::with_ip(32, &bytes, u64::from(KERNEL), DecoderOptions::NONE).decode();
    let mut shown = String::new();
    FastFormatter::new().format(&i, &mut shown);
    assert_eq!(shown, text, "{place_of_line}: disassembly");

    let mut cpu = machine();
    place(&mut cpu, KERNEL, &bytes);
    for vector in 0..=255u8 {
        let at = STUBS + u32::from(vector) * 4;
        place(&mut cpu, at, &[0xf4]);
        gate(&mut cpu, vector, at, 0xe, 0);
    }
    cpu.regs[regs::ESP] = KSTACK - 0x100;
    cpu.set_eflags(2);
    let mut cells = Vec::new();
    for (key, value) in before
        .split_whitespace()
        .map(|t| t.split_once('=').expect("key=value"))
    {
        if let Some(at) = memory_at(key) {
            cpu.mmu.mem.write_u32(physical(at), hex(value));
            cells.push((at, hex(value)));
        } else if key == "flags" {
            cpu.set_eflags(2 | flag_bits(value));
        } else {
            let n = NAMES.iter().position(|n| *n == key).expect("a register");
            cpu.regs[n] = hex(value);
        }
    }
    let mut want = cpu.regs.all();
    let mut fault = None;
    let mut eip = KERNEL + bytes.len() as u32;
    let (mut want_flags, mut flag_mask) = (cpu.eflags(), flags::ARITH | flags::DF);
    let mut cr2 = 0;
    for (key, value) in after
        .split_whitespace()
        .map(|t| t.split_once('=').expect("key=value"))
    {
        if let Some(at) = memory_at(key) {
            cells.retain(|c| c.0 != at);
            cells.push((at, hex(value)));
        } else {
            match key {
                "flags" => {
                    want_flags = flag_bits(value);
                    if value.ends_with('?') {
                        flag_mask = want_flags;
                    }
                }
                "fault" => {
                    let (vector, code) = match value.split_once(':') {
                        Some((v, c)) => (hex(v), Some(hex(c))),
                        None => (hex(value), None),
                    };
                    fault = Some((vector, code));
                }
                "eip" => {
                    let n: i32 = value.parse().expect("a decimal offset");
                    eip = KERNEL.wrapping_add(n as u32);
                }
                "cr2" => cr2 = hex(value),
                _ => {
                    let n = NAMES.iter().position(|n| *n == key).expect("a register");
                    want[n] = hex(value);
                }
            }
        }
    }

    // The fast engine runs up to the end of a block: a hlt after the instruction, and at a branch's
    // target, ends it.
    let mut state = EngineState::new(engine);
    let after_insn = KERNEL + bytes.len() as u32;
    place(&mut cpu, after_insn, &[0xf4]);
    if fault.is_none() {
        place(&mut cpu, eip, &[0xf4]);
    }
    assert_eq!(
        cpu.run(&mut state, &mut NoBus, &mut DecodeAll, 1000),
        Exit::Halted,
        "{place_of_line}: {}",
        cpu.dump()
    );
    if let Some((vector, code)) = fault {
        assert_eq!(cpu.eip, STUBS + vector * 4 + 1, "{place_of_line}: vector");
        let words = if code.is_some() { 4 } else { 3 };
        let frame = want[regs::ESP].wrapping_sub(words * 4);
        assert_eq!(cpu.regs[regs::ESP], frame, "{place_of_line}: frame");
        let mut slot = frame;
        if let Some(code) = code {
            assert_eq!(
                cpu.mmu.mem.read_u32(physical(slot)),
                code,
                "{place_of_line}: error code"
            );
            slot += 4;
        }
        assert_eq!(
            cpu.mmu.mem.read_u32(physical(slot)),
            KERNEL,
            "{place_of_line}: faults push their own EIP"
        );
        assert_eq!(cpu.cr2, cr2, "{place_of_line}: cr2");
        want[regs::ESP] = frame;
    } else {
        assert_eq!(cpu.eip, eip + 1, "{place_of_line}: eip (of the hlt after)");
    }
    assert_eq!(
        cpu.regs.all(),
        want,
        "{place_of_line}: registers {:x?} wanted {want:x?}",
        cpu.regs.all()
    );
    assert_eq!(
        cpu.eflags() & flag_mask,
        want_flags & flag_mask,
        "{place_of_line}: flags {:#x}",
        cpu.eflags()
    );
    for (at, value) in cells {
        let found = cpu.mmu.mem.read_u32(physical(at));
        assert_eq!(found, value, "{place_of_line}: [{at:x}] is {found:x}");
    }
}

#[test]
fn every_line_holds_on_both_engines() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/forms");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of forms")
        .map(|f| f.expect("a file").path())
        .collect();
    files.sort();
    let (mut lines, mut failed) = (0, 0);
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a text file");
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        for (n, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            for engine in [Engine::Reference, Engine::Fast] {
                let at = format!("{name}:{} ({engine:?})", n + 1);
                // All lines are tried, so that one run shows every difference.
                failed += u32::from(std::panic::catch_unwind(|| check(&at, line, engine)).is_err());
            }
            lines += 1;
        }
    }
    assert_eq!(failed, 0, "lines that do not hold");
    assert!(lines >= 100, "{lines} lines");
}
