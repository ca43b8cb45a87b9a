//! What the manual leaves to the implementation when an instruction faults.
//!
//! One table beside [`crate::undefined::TABLE`]: which of several accesses of one instruction faults
//! first, and what an instruction that faults late has done to memory below the stack pointer or to
//! registers that its restart loads again. Only the last instruction of a case can fault, so nothing
//! of this spreads.
//!
//! Invariant: a tolerance applies only to the mnemonics and the fault named in its line.

use crate::machine::Executed;
use crate::outcome::{End, Outcome};
use emu_cpu::regs::ESP;
use iced_x86::{Code, Mnemonic};

/// What may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Several reads: any of them may fault first, so CR2 and the kind of fault may differ.
    Order,
    /// General registers but ESP, which the restart loads again.
    Registers,
    /// This many bytes below the old ESP: pushed before the fault.
    BelowStack(u32),
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Instructions.
    pub mnemonics: &'static [Mnemonic],
    /// What.
    pub what: What,
    /// Where it says so, or why it is left open.
    pub source: &'static str,
}

/// Every tolerance for instructions that fault.
pub const TABLE: &[Line] = &[
    Line {
        mnemonics: &[
            Mnemonic::Retf,
            Mnemonic::Iret,
            Mnemonic::Iretd,
            Mnemonic::Cmpsb,
            Mnemonic::Cmpsw,
            Mnemonic::Cmpsd,
        ],
        what: What::Order,
        source: "SDM vol. 3, 6.9: the order among the faults of one instruction's operands is not defined; \
                 Intel family 6 reads CS of RETF, EFLAGS of IRET and ES:[EDI] of CMPS first",
    },
    Line {
        mnemonics: &[Mnemonic::Popa, Mnemonic::Popad],
        what: What::Registers,
        source: "SDM vol. 2, POPA: the pops are a sequence; ESP changes last, so the restart loads the registers \
                 again (Intel family 6 leaves those popped so far)",
    },
    Line {
        mnemonics: &[Mnemonic::Call],
        what: What::BelowStack(8),
        source: "SDM vol. 2, CALL: checks the target before it pushes; Intel family 6 pushes first and leaves \
                 ESP (memory below ESP is nobody's)",
    },
];

/// What to do about the end of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Compare everything.
    Compare,
    /// Compare all but the general registers other than ESP.
    NotRegisters,
    /// Compare all, but take this many bytes below ESP from the host.
    NotBelowStack(u32),
    /// The ends cannot be compared.
    Open,
}

/// A 32-bit `pop` of a segment register, which may read two bytes or four.
fn pops_selector(code: Code) -> bool {
    matches!(
        code,
        Code::Popd_ES | Code::Popd_SS | Code::Popd_DS | Code::Popd_FS | Code::Popd_GS
    )
}

/// A 32-bit `push` of a segment register, which may write two bytes or four.
pub fn pushes_selector(code: Code) -> bool {
    matches!(
        code,
        Code::Pushd_ES
            | Code::Pushd_CS
            | Code::Pushd_SS
            | Code::Pushd_DS
            | Code::Pushd_FS
            | Code::Pushd_GS
    )
}

/// Judges a case by its last instruction and both ends.
pub fn judge(last: Option<&Executed>, host: &Outcome, reference: &Outcome) -> Judgement {
    let Some(last) = last else {
        return Judgement::Compare;
    };
    let (End::Fault { vector: r, .. }, false) = (reference.end, last.completed) else {
        return Judgement::Compare;
    };
    // SDM vol. 2, PUSH and POP: a selector may be moved by a 16-bit access also when the operand
    // size is 32, which cannot fault in the upper half.
    if (pops_selector(last.code) || pushes_selector(last.code)) && matches!(r, 12 | 14 | 17) {
        return match host.end == reference.end {
            true => Judgement::Compare,
            false => Judgement::Open,
        };
    }
    let line = TABLE
        .iter()
        .find(|l| l.mnemonics.contains(&last.code.mnemonic()));
    match line.map(|l| l.what) {
        None => Judgement::Compare,
        Some(What::Registers) if r == 14 || r == 12 || r == 17 => Judgement::NotRegisters,
        Some(What::Registers) => Judgement::Compare,
        // It may fault in the push or by the target.
        Some(What::BelowStack(_))
            if host.end != reference.end && at_same_place(host, reference) =>
        {
            Judgement::Open
        }
        Some(What::BelowStack(n)) => Judgement::NotBelowStack(n),
        Some(What::Order) if host.end != reference.end && at_same_place(host, reference) => {
            Judgement::Open
        }
        Some(What::Order) => Judgement::Compare,
    }
}

/// Both faulted at the same instruction, with a vector that an operand can raise.
fn at_same_place(host: &Outcome, reference: &Outcome) -> bool {
    let place = |o: &Outcome| match o.end {
        End::Fault {
            vector: 12..=14 | 17,
            eip,
            cs,
            ..
        } => Some((eip, cs, o.regs[ESP])),
        _ => None,
    };
    place(host).is_some() && place(host) == place(reference)
}
