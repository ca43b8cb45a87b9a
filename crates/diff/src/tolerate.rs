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

/// How far below ESP a 32-bit `push` or `pop` of a segment register moves its selector; `None` for
/// other instructions.
pub fn selector_below_stack(code: Code) -> Option<u32> {
    match (pushes_selector(code), pops_selector(code)) {
        (true, _) => Some(4),
        (_, true) => Some(0),
        _ => None,
    }
}

/// Whether a 32-bit `push` or `pop` of a segment register, whose operand is at `at`, faults only
/// because it moves four bytes.
///
/// SDM vol. 2, PUSH and POP: a selector may be moved by a 16-bit access also when the operand size is
/// 32 (recent Intel cores do). That cannot fault in the upper half, and it is aligned at an even
/// address (#AC, SDM vol. 3, 6.15). Such a host goes on where we fault, in instructions that nobody
/// has judged, so the case must not reach it.
pub fn only_upper_half(at: u32, end: End) -> bool {
    match end {
        // A limit; a selector that SS cannot be loaded with has itself as error code.
        End::Fault {
            vector: 12, code, ..
        } => code == 0,
        End::Fault {
            vector: 14, cr2, ..
        } => cr2.wrapping_sub(at) >= 2,
        End::Fault { vector: 17, .. } => at & 1 == 0,
        _ => false,
    }
}

/// Judges a case by its last instruction and both ends.
pub fn judge(last: Option<&Executed>, host: &Outcome, reference: &Outcome) -> Judgement {
    let Some(last) = last else {
        return Judgement::Compare;
    };
    let (End::Fault { vector: r, .. }, false) = (reference.end, last.completed) else {
        return Judgement::Compare;
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(vector: u8, code: u32, cr2: u32) -> End {
        End::Fault {
            vector,
            code,
            cr2,
            eip: 0,
            cs: 0x23,
        }
    }

    #[test]
    fn a_selector_is_two_bytes_at_least() {
        let upper = |at, vector, cr2| only_upper_half(at, fault(vector, 0, cr2));
        assert!(upper(0x1ffe, 14, 0x2000), "the upper half alone is absent");
        assert!(!upper(0x1fff, 14, 0x2000), "a byte of the selector is");
        assert!(!upper(0x2000, 14, 0x2000));
        assert!(upper(0x2002, 17, 0), "aligned for two bytes");
        assert!(!upper(0x2001, 17, 0));
        assert!(upper(0x2000, 12, 0), "a limit");
        assert!(!only_upper_half(0x2000, fault(12, 0x23, 0)), "a selector");
        assert!(!upper(0x2000, 13, 0));
    }
}
