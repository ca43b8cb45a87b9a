//! The flags that the manual leaves undefined: the only tolerance of the comparison.
//!
//! One table, after the section "Flags Affected" of each instruction in the Intel SDM, volume 2
//! (the AMD APM, volume 3, agrees or leaves fewer undefined). Undefined flags are followed through
//! the case: a later instruction that reads one ends the case uncompared, one that defines it clears
//! the mark.
//!
//! Invariant: whatever is not in the table is compared bit for bit.

use crate::exclude::Reason;
use emu_cpu::Regs;
use emu_cpu::flags::{AF, ARITH, CF, OF, PF, SF, ZF};
use emu_cpu::regs::ECX;
use iced_x86::{Instruction, Mnemonic, OpKind, Register, RflagsBits};

/// When a line applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// The masked count is not 0.
    Shifted,
    /// The masked count is above 1.
    Above1,
    /// The masked count is at least the operand's width in bits.
    AtLeastWidth,
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Instructions.
    pub mnemonics: &'static [Mnemonic],
    /// Condition.
    pub when: When,
    /// Undefined flags.
    pub flags: u32,
    /// Where it says so.
    pub source: &'static str,
}

const fn line(
    mnemonics: &'static [Mnemonic],
    when: When,
    flags: u32,
    source: &'static str,
) -> Line {
    Line {
        mnemonics,
        when,
        flags,
        source,
    }
}

use Mnemonic::*;

/// Every undefined flag.
pub const TABLE: &[Line] = &[
    line(
        &[And, Or, Xor, Test],
        When::Always,
        AF,
        "SDM vol. 2, AND, OR, XOR, TEST: the state of AF is undefined",
    ),
    line(
        &[Shl, Sal, Shr, Sar],
        When::Shifted,
        AF,
        "SDM vol. 2, SAL/SAR/SHL/SHR: for a non-zero count AF is undefined",
    ),
    line(
        &[Shl, Sal, Shr, Sar],
        When::Above1,
        OF,
        "SDM vol. 2, SAL/SAR/SHL/SHR: OF is affected only for 1-bit shifts, otherwise undefined",
    ),
    line(
        &[Shl, Sal, Shr],
        When::AtLeastWidth,
        CF,
        "SDM vol. 2, SAL/SAR/SHL/SHR: CF is undefined for SHL and SHR with a count of at least the size",
    ),
    line(
        &[Rol, Ror, Rcl, Rcr],
        When::Above1,
        OF,
        "SDM vol. 2, RCL/RCR/ROL/ROR: OF is defined only for the 1-bit rotates",
    ),
    line(
        &[Shld, Shrd],
        When::Shifted,
        AF,
        "SDM vol. 2, SHLD, SHRD: AF is undefined if the count is not 0",
    ),
    line(
        &[Shld, Shrd],
        When::Above1,
        OF,
        "SDM vol. 2, SHLD, SHRD: OF is undefined for more than a 1-bit shift",
    ),
    line(
        &[Mul, Imul],
        When::Always,
        SF | ZF | AF | PF,
        "SDM vol. 2, MUL, IMUL: SF, ZF, AF and PF are undefined",
    ),
    line(
        &[Div, Idiv],
        When::Always,
        ARITH,
        "SDM vol. 2, DIV, IDIV: CF, OF, SF, ZF, AF and PF are undefined",
    ),
    line(
        &[Bt, Bts, Btr, Btc],
        When::Always,
        OF | SF | AF | PF,
        "SDM vol. 2, BT, BTS, BTR, BTC: OF, SF, AF and PF are undefined",
    ),
    line(
        &[Bsf, Bsr],
        When::Always,
        CF | OF | SF | AF | PF,
        "SDM vol. 2, BSF, BSR: CF, OF, SF, AF and PF are undefined",
    ),
    line(
        &[Aaa, Aas],
        When::Always,
        OF | SF | ZF | PF,
        "SDM vol. 2, AAA, AAS: OF, SF, ZF and PF are undefined",
    ),
    line(
        &[Aad, Aam],
        When::Always,
        OF | AF | CF,
        "SDM vol. 2, AAD, AAM: OF, AF and CF are undefined",
    ),
    line(
        &[Daa, Das],
        When::Always,
        OF,
        "SDM vol. 2, DAA, DAS: OF is undefined",
    ),
];

/// The masked count of a shift or rotate.
fn count(i: &Instruction, before: &Regs) -> u32 {
    let last = i.op_count().saturating_sub(1);
    let raw = match i.op_kind(last) {
        OpKind::Register if i.op_register(last) == Register::CL => before[ECX],
        OpKind::Immediate8 => u32::from(i.immediate8()),
        _ => 1,
    };
    raw & 31
}

/// Bits of the first operand.
fn width(i: &Instruction) -> u32 {
    8 * match i.op0_kind() {
        OpKind::Register => i.op0_register().size() as u32,
        _ => i.memory_size().size() as u32,
    }
}

/// What an instruction that completes does to the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// Flags it leaves undefined.
    pub undefined: u32,
    /// Flags it gives a defined value.
    pub defined: u32,
}

/// The decoder's flag bits as EFLAGS bits, arithmetic ones only.
pub fn eflags(bits: u32) -> u32 {
    [
        (RflagsBits::OF, OF),
        (RflagsBits::SF, SF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::AF, AF),
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
    ]
    .iter()
    .filter(|(b, _)| bits & b != 0)
    .fold(0, |sum, (_, f)| sum | f)
}

/// The effect of `i` executed with `before`.
pub fn effect(i: &Instruction, before: &Regs) -> Effect {
    let modified = eflags(i.rflags_modified());
    if modified == 0 {
        return Effect::default();
    }
    let m = i.mnemonic();
    let counted = matches!(
        m,
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd
    );
    let n = if counted { count(i, before) } else { 0 };
    if counted && n == 0 {
        return Effect::default();
    }
    if (i.has_rep_prefix() || i.has_repne_prefix()) && i.is_string_instruction() {
        // None may have run: whatever was undefined stays so.
        return Effect::default();
    }
    let undefined = TABLE
        .iter()
        .filter(|l| l.mnemonics.contains(&m))
        .filter(|l| match l.when {
            When::Always => true,
            When::Shifted => n != 0,
            When::Above1 => n > 1,
            When::AtLeastWidth => n >= width(i),
        })
        .fold(0, |sum, l| sum | l.flags);
    Effect {
        undefined,
        defined: modified & !undefined,
    }
}

/// Results, not only flags, that the manual leaves undefined.
pub fn result(i: &Instruction, before: &Regs) -> Option<Reason> {
    // SDM vol. 2, SHLD, SHRD: a count above the operand's size leaves the destination undefined.
    (matches!(i.mnemonic(), Shld | Shrd) && count(i, before) > width(i))
        .then_some(Reason::UndefinedResult)
}

/// Some operand is in memory, or on the stack.
pub fn touches_memory(i: &Instruction) -> bool {
    i.is_stack_instruction()
        || (0..i.op_count()).any(|n| {
            !matches!(
                i.op_kind(n),
                OpKind::Register
                    | OpKind::NearBranch16
                    | OpKind::NearBranch32
                    | OpKind::FarBranch16
                    | OpKind::FarBranch32
                    | OpKind::Immediate8
                    | OpKind::Immediate16
                    | OpKind::Immediate32
                    | OpKind::Immediate8to16
                    | OpKind::Immediate8to32
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exclude;

    /// The table says no more and no less than the decoder's own tables, whose source is the manual
    /// too; conditions are ours.
    #[test]
    fn the_table_agrees_with_the_decoder() {
        // Those of ring 0 never complete here.
        for code in exclude::integer_forms().filter(|c| c.op_code().cpl3()) {
            let m = code.mnemonic();
            let ours = TABLE
                .iter()
                .filter(|l| l.mnemonics.contains(&m))
                .fold(0, |sum, l| sum | l.flags);
            let mut i = Instruction::default();
            i.set_code(code);
            let theirs = eflags(i.rflags_undefined());
            assert_eq!(theirs & !ours, 0, "{code:?}: missing in the table");
        }
    }
}
