//! Instruction forms as byte templates, and random legal encodings of them.
//!
//! Built from the decoder's own list of forms (`Code`): its opcode string ("o16 0F A4 /r ib") says
//! prefixes, opcode bytes, ModRM and immediates. Invariant: an encoding made here and not mutated
//! decodes to its form in 32-bit code, unless a random redundant prefix changed its meaning.

use crate::exclude;
use crate::layout::{CODE, EXIT, LDT, LOW, PAGE, USER_CS, USER_DS, ldt_selector};
use crate::random::Random;
use iced_x86::{Code, Mnemonic, OpCodeOperandKind};

/// ModRM of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModRm {
    None,
    /// Any register in the reg field.
    Register,
    /// An opcode extension in the reg field.
    Group(u8),
    /// All eight bits are opcode.
    Fixed(u8),
}

/// What r/m may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rm {
    Either,
    Memory,
    Register,
}

/// Parts after ModRM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    Imm8,
    Imm16,
    Imm32,
    Rel8,
    Rel16,
    Rel32,
    Far16,
    Far32,
    Moffs,
}

/// A form.
#[derive(Debug, Clone)]
pub struct Template {
    /// The decoder's name.
    pub code: Code,
    prefixes: Vec<u8>,
    opcode: Vec<u8>,
    /// The last opcode byte takes a register number in its low bits.
    register_in_opcode: bool,
    modrm: ModRm,
    rm: Rm,
    sreg: bool,
    lockable: bool,
    string: bool,
    tail: Vec<Tail>,
    /// 67 is part of the form: 16-bit addressing.
    address16: bool,
}

/// All templates of the integer forms.
pub fn all() -> Vec<Template> {
    exclude::integer_forms().filter_map(Template::new).collect()
}

impl Template {
    fn new(code: Code) -> Option<Template> {
        let o = code.op_code();
        let mut t = Template {
            code,
            prefixes: Vec::new(),
            opcode: Vec::new(),
            register_in_opcode: false,
            modrm: ModRm::None,
            rm: Rm::Either,
            sreg: false,
            lockable: o.can_use_lock_prefix(),
            string: o.can_use_rep_prefix() || o.can_use_repne_prefix(),
            tail: Vec::new(),
            address16: false,
        };
        for token in o.op_code_string().split_whitespace() {
            match token {
                "o16" => t.prefixes.push(0x66),
                "a16" => {
                    t.prefixes.push(0x67);
                    t.address16 = true;
                }
                "o32" | "a32" | "NP" | "NFx" => {}
                "/r" => t.modrm = ModRm::Register,
                "ib" => t.tail.push(Tail::Imm8),
                "iw" => t.tail.push(Tail::Imm16),
                "id" => t.tail.push(Tail::Imm32),
                "cb" => t.tail.push(Tail::Rel8),
                "cw" => t.tail.push(Tail::Rel16),
                "cd" if o.op_kinds().contains(&OpCodeOperandKind::farbr2_2) => {
                    t.tail.push(Tail::Far16);
                }
                "cd" => t.tail.push(Tail::Rel32),
                "cp" => t.tail.push(Tail::Far32),
                "mo" => t.tail.push(Tail::Moffs),
                _ if token.starts_with('/') => {
                    t.modrm = ModRm::Group(token[1..].parse().ok()?);
                }
                _ => {
                    let (hex, register) = match token.split_once('+') {
                        Some((hex, _)) => (hex, true),
                        None => (token, false),
                    };
                    t.register_in_opcode |= register;
                    let byte = u8::from_str_radix(hex, 16).ok()?;
                    if t.opcode.is_empty() && matches!(byte, 0xf2 | 0xf3) {
                        t.prefixes.push(byte);
                    } else {
                        t.opcode.push(byte);
                    }
                }
            }
        }
        if t.opcode.len() == 3 && t.opcode[0] == 0x0f {
            t.modrm = ModRm::Fixed(t.opcode.pop()?);
        }
        use OpCodeOperandKind as K;
        for &kind in o.op_kinds() {
            match kind {
                K::mem | K::mem_mib => t.rm = Rm::Memory,
                K::r16_rm | K::r32_rm => t.rm = Rm::Register,
                K::cr_reg | K::dr_reg | K::tr_reg => t.rm = Rm::Register,
                K::seg_reg => t.sreg = true,
                _ => {}
            }
        }
        Some(t)
    }

    /// The mnemonic.
    pub fn mnemonic(&self) -> Mnemonic {
        self.code.mnemonic()
    }

    /// Appends a random encoding. `at` is the linear address it will have.
    pub fn encode(&self, r: &mut Random, at: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let mut address16 = self.address16;
        if r.percent(10) {
            out.push(r.pick(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]));
        }
        if !address16 && r.percent(5) {
            out.push(0x67);
            address16 = true;
        }
        if self.string && r.percent(60) || r.percent(1) {
            out.push(r.pick(&[0xf2, 0xf3]));
        }
        let lock = self.lockable && r.percent(30) || r.percent(1);
        if lock {
            out.push(0xf0);
        }
        out.extend(&self.prefixes);
        out.extend(&self.opcode);
        if self.register_in_opcode
            && let Some(last) = out.last_mut()
        {
            *last |= (r.byte() & 7) * u8::from(!r.percent(2) || *last & 7 == 0);
        }
        match self.modrm {
            ModRm::None => {}
            ModRm::Fixed(byte) => out.push(byte),
            ModRm::Register => {
                let reg = if self.sreg {
                    r.pick(&[0, 0, 2, 3, 3, 4, 5, 1, 6])
                } else {
                    r.byte() & 7
                };
                self.operand(r, reg, lock, address16, out);
            }
            ModRm::Group(reg) => self.operand(r, reg, lock, address16, out),
        }
        let here = at.wrapping_add((out.len() - start) as u32);
        for &part in &self.tail {
            tail(part, r, here, address16, out);
        }
        if self.mnemonic() == Mnemonic::Enter
            && let Some(level) = out.last_mut()
            && r.percent(80)
        {
            *level &= 3;
        }
    }

    fn operand(&self, r: &mut Random, reg: u8, lock: bool, address16: bool, out: &mut Vec<u8>) {
        let register = match self.rm {
            Rm::Register => true,
            Rm::Memory => r.percent(2),
            Rm::Either => !lock && r.percent(50),
        };
        if register {
            out.push(0xc0 | reg << 3 | r.byte() & 7);
        } else if address16 {
            memory16(r, reg, out);
        } else {
            memory32(r, reg, out);
        }
    }
}

/// A 32-bit address form.
fn memory32(r: &mut Random, reg: u8, out: &mut Vec<u8>) {
    let reg = reg << 3;
    match r.below(10) {
        0..=3 => {
            out.push(0x05 | reg);
            let at = if r.percent(60) {
                r.writable()
            } else {
                r.address()
            };
            out.extend(at.to_le_bytes());
        }
        4..=6 => {
            // [register] or [register + disp8]; without the codes that mean SIB or disp32.
            let base = r.pick(&[0, 1, 2, 3, 5, 6, 7]);
            out.push(0x40 | reg | base);
            out.push(r.byte() & r.pick(&[0, 0x0f, 0xff]));
        }
        7 => {
            let base = r.pick(&[0, 1, 2, 3, 6, 7]);
            out.push(reg | base);
        }
        8 => {
            let mode = r.pick(&[0x04, 0x44, 0x84]);
            let sib = r.byte();
            out.push(mode | reg);
            out.push(sib);
            match mode {
                0x44 => out.push(r.byte()),
                0x84 => out.extend(r.address().to_le_bytes()),
                _ if sib & 7 == 5 => out.extend(r.address().to_le_bytes()),
                _ => {}
            }
        }
        _ => {
            let base = r.pick(&[0, 1, 2, 3, 5, 6, 7]);
            out.push(0x80 | reg | base);
            let small = r.value();
            out.extend(small.to_le_bytes());
        }
    }
}

/// A 16-bit address form.
fn memory16(r: &mut Random, reg: u8, out: &mut Vec<u8>) {
    let reg = reg << 3;
    let low = |r: &mut Random| -> u16 {
        match r.below(3) {
            0 => (LOW + r.below(3 * PAGE)) as u16,
            1 => 0xf000 | r.below(0x1000) as u16,
            _ => r.below(0x2000) as u16,
        }
    };
    match r.below(4) {
        0 | 1 => {
            out.push(0x06 | reg);
            out.extend(low(r).to_le_bytes());
        }
        2 => {
            out.push(0x80 | reg | r.byte() & 7);
            out.extend(low(r).to_le_bytes());
        }
        _ => {
            let rm = r.byte() & 7;
            out.push(0x40 | reg | rm);
            out.push(r.byte());
        }
    }
}

fn tail(part: Tail, r: &mut Random, here: u32, address16: bool, out: &mut Vec<u8>) {
    match part {
        Tail::Imm8 => out.push(r.value() as u8),
        Tail::Imm16 => out.extend((r.value() as u16).to_le_bytes()),
        Tail::Imm32 => {
            let v = if r.percent(20) {
                r.address()
            } else {
                r.value()
            };
            out.extend(v.to_le_bytes());
        }
        Tail::Rel8 => out.push(r.pick(&[0, 0, 1, 2, 3, 5, 8, 0xfe, 0xf0, 0x80, 0x7f])),
        Tail::Rel16 => out.extend((r.value() as u16).to_le_bytes()),
        Tail::Rel32 => {
            let v = match r.below(4) {
                0 => 0,
                1 => r.below(16),
                2 => EXIT.wrapping_sub(here.wrapping_add(4)),
                _ => r.value(),
            };
            out.extend(v.to_le_bytes());
        }
        Tail::Far16 => {
            out.extend((r.value() as u16).to_le_bytes());
            out.extend(code_selector(r).to_le_bytes());
        }
        Tail::Far32 => {
            let to = match r.below(3) {
                0 => EXIT,
                1 => r.below(2 * PAGE),
                _ => CODE + r.below(2 * PAGE),
            };
            out.extend(to.to_le_bytes());
            out.extend(code_selector(r).to_le_bytes());
        }
        Tail::Moffs if address16 => out.extend(((LOW + r.below(2 * PAGE)) as u16).to_le_bytes()),
        Tail::Moffs => {
            let at = if r.percent(60) {
                r.writable()
            } else {
                r.address()
            };
            out.extend(at.to_le_bytes());
        }
    }
}

/// A selector for CS: mostly one that can be loaded.
pub fn code_selector(r: &mut Random) -> u16 {
    match r.below(8) {
        0..=4 => USER_CS,
        5 => ldt_selector(6 + r.below(3) as u16),
        _ => selector(r),
    }
}

/// A selector: what Linux gives a process, the LDT, null, and others with their RPL.
pub fn selector(r: &mut Random) -> u16 {
    match r.below(8) {
        0..=2 => USER_DS,
        3..=5 => ldt_selector(r.below(LDT.len() as u32 + 1) as u16) & !(r.below(8) as u16 / 4),
        6 => r.pick(&[0, 3, USER_CS, 0x28, 0x2a, 0x20]),
        _ => r.below(0x100) as u16 & !0x78 | r.pick(&[0, 0x10, 0x20, 0x28, 0x40, 0x48]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn every_integer_form_has_a_template_that_decodes_to_it() {
        let mut r = Random::new(1, 1);
        let missing: Vec<_> = exclude::integer_forms()
            .filter(|&c| !all().iter().any(|t| t.code == c))
            .collect();
        assert!(missing.is_empty(), "no template: {missing:?}");
        let mut wrong = Vec::new();
        for t in all() {
            let hit = (0..400).any(|_| {
                let mut bytes = Vec::new();
                t.encode(&mut r, CODE, &mut bytes);
                let i = Decoder::with_ip(32, &bytes, 0, DecoderOptions::NONE).decode();
                i.code() == t.code && i.len() == bytes.len()
            });
            if !hit {
                wrong.push(t.code);
            }
        }
        assert!(wrong.is_empty(), "templates miss {wrong:?}");
    }
}
