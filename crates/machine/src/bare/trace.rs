//! A line per executed instruction: where, its bytes, its text, and the registers it changed.
//!
//! `CS:EIP linear bytes text ; eax=... efl=...`. A line whose instruction did not complete ends in `; not completed`, and the next
//! line is the first of the handler. Invariant: looking changes and counts nothing.

use emu_cpu::{Cpu, Seg};
use emu_mmu::VirtAddr;
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use std::fmt::Write;

/// Longest instruction.
const MAX_LEN: usize = 15;
/// Column of the text: after the address and eight bytes.
const BYTES_WIDTH: usize = 24;
/// Width of the text before the registers.
const TEXT_WIDTH: usize = 36;

/// How the instruction fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Retired,
    Interrupted,
}

/// The state before an instruction.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    registers: [u32; 8],
    eflags: u32,
    selectors: [u16; 6],
    control: [u32; 4],
    eip: u32,
    linear: u32,
    bytes: Vec<u8>,
    bits: u32,
}

/// Turns states into lines.
pub(crate) struct Disassembler {
    formatter: IntelFormatter,
    text: String,
}

impl std::fmt::Debug for Disassembler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disassembler")
    }
}

fn control(cpu: &Cpu) -> [u32; 4] {
    [cpu.cr0(), cpu.cr2, cpu.cr3(), cpu.cr4()]
}

fn selectors(cpu: &Cpu) -> [u16; 6] {
    Seg::ALL.map(|s| cpu.segment(s).selector)
}

impl Disassembler {
    pub(crate) fn new() -> Disassembler {
        let mut formatter = IntelFormatter::new();
        formatter.options_mut().set_hex_prefix("0x");
        formatter.options_mut().set_hex_suffix("");
        formatter.options_mut().set_uppercase_hex(false);
        formatter
            .options_mut()
            .set_space_after_operand_separator(true);
        Disassembler {
            formatter,
            text: String::new(),
        }
    }

    /// The state now.
    pub(crate) fn look(&self, cpu: &Cpu) -> Seen {
        let cs = cpu.segment(Seg::Cs);
        let linear = cs.base.wrapping_add(cpu.eip);
        let bytes = (0..MAX_LEN as u32)
            .map_while(|i| {
                let at = cpu.mmu.peek(VirtAddr(linear.wrapping_add(i)))?;
                Some(cpu.mmu.mem.read_u8(at))
            })
            .collect();
        Seen {
            registers: cpu.regs.all(),
            eflags: cpu.eflags(),
            selectors: selectors(cpu),
            control: control(cpu),
            eip: cpu.eip,
            linear,
            bytes,
            bits: if cs.is_32bit() { 32 } else { 16 },
        }
    }

    /// The line about the instruction at `seen`, now that it is over.
    pub(crate) fn line(&mut self, seen: &Seen, cpu: &Cpu, done: Done, out: &mut String) {
        let options = DecoderOptions::NONE;
        let mut decoder = Decoder::with_ip(seen.bits, &seen.bytes, u64::from(seen.eip), options);
        let mut instruction = Instruction::default();
        decoder.decode_out(&mut instruction);
        self.text.clear();
        if seen.bytes.is_empty() {
            self.text.push_str("(not mapped)");
        } else if instruction.is_invalid() {
            self.text.push_str("(bad)");
        } else {
            self.formatter.format(&instruction, &mut self.text);
        }
        let len = match instruction.is_invalid() {
            true => seen.bytes.len().min(8),
            false => instruction.len(),
        };
        let hex =
            seen.bytes[..len.min(seen.bytes.len())]
                .iter()
                .fold(String::new(), |mut hex, b| {
                    let _ = write!(hex, "{b:02x} ");
                    hex
                });
        let mut changes = String::new();
        let mut changed = |name: &str, before: u32, after: u32| {
            if before != after {
                let _ = write!(changes, " {name}={after:08x}");
            }
        };
        let names = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
        for ((name, before), after) in names.iter().zip(seen.registers).zip(cpu.regs.all()) {
            changed(name, before, after);
        }
        changed("efl", seen.eflags, cpu.eflags());
        for ((name, before), after) in ["es", "cs", "ss", "ds", "fs", "gs"]
            .iter()
            .zip(seen.selectors)
            .zip(selectors(cpu))
        {
            changed(name, before.into(), after.into());
        }
        for ((name, before), after) in ["cr0", "cr2", "cr3", "cr4"]
            .iter()
            .zip(seen.control)
            .zip(control(cpu))
        {
            changed(name, before, after);
        }
        if done == Done::Interrupted {
            changes.push_str(" not completed");
        }
        let (text, cs) = (&self.text, seen.selectors[Seg::Cs as usize]);
        let _ = write!(
            out,
            "{cs:04x}:{:08x} {:08x}  {hex:BYTES_WIDTH$} ",
            seen.eip, seen.linear
        );
        let _ = match changes.is_empty() {
            true => writeln!(out, "{text}"),
            false => writeln!(out, "{text:TEXT_WIDTH$} ;{changes}"),
        };
    }
}
