//! Semantics: one function per instruction form, a file per family.
//!
//! A family has a `pick` that looks at an instruction's operand kinds and size and names the
//! handler. Handlers are restartable: all accesses that can fault come before the first change of a
//! register (string operations keep their progress in registers).

pub(crate) mod access;
pub(crate) mod alu;
pub(crate) mod atomic;
pub(crate) mod bcd;
pub(crate) mod bits;
pub(crate) mod branch;
pub(crate) mod control;
pub(crate) mod mov;
pub(crate) mod muldiv;
pub(crate) mod port;
pub(crate) mod protect;
pub(crate) mod shift;
pub(crate) mod stack;
pub(crate) mod string;
pub(crate) mod system;

use iced_x86::{Instruction, OpKind, Register};

/// What the operands of an instruction are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// General register.
    Reg,
    /// Memory addressed by ModRM or moffs.
    Mem,
    /// Immediate.
    Imm,
    /// Segment register.
    Sreg,
    /// Control register.
    Cr,
    /// Debug register.
    Dr,
    /// None of these, or no such operand.
    None,
}

pub(crate) fn kind(i: &Instruction, operand: u32) -> Kind {
    if operand >= i.op_count() {
        return Kind::None;
    }
    match i.op_kind(operand) {
        OpKind::Register => {
            let r = i.op_register(operand);
            if r.is_gpr() {
                Kind::Reg
            } else if r.is_segment_register() {
                Kind::Sreg
            } else if r.is_cr() {
                Kind::Cr
            } else if r.is_dr() {
                Kind::Dr
            } else {
                Kind::None
            }
        }
        OpKind::Memory => Kind::Mem,
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32 => Kind::Imm,
        _ => Kind::None,
    }
}

/// Both operands' kinds.
pub(crate) fn kinds(i: &Instruction) -> (Kind, Kind) {
    (kind(i, 0), kind(i, 1))
}

/// Operand size in bytes, from the first register operand or the memory operand.
pub(crate) fn size(i: &Instruction) -> usize {
    if i.op_count() > 0 && i.op0_kind() == OpKind::Register && i.op0_register() != Register::None {
        return i.op0_register().size();
    }
    i.memory_size().size()
}

/// Picks a handler generic over the operand size.
macro_rules! by_size {
    ($size:expr, $handler:ident $(, $param:ty)*) => {
        match $size {
            1 => $handler::<$($param,)* $crate::word::Byte>,
            2 => $handler::<$($param,)* $crate::word::Half>,
            4 => $handler::<$($param,)* $crate::word::Dword>,
            _ => return None,
        }
    };
}
pub(crate) use by_size;

/// The same without a byte form.
macro_rules! by_wide_size {
    ($size:expr, $handler:ident $(, $param:ty)*) => {
        match $size {
            2 => $handler::<$($param,)* $crate::word::Half>,
            4 => $handler::<$($param,)* $crate::word::Dword>,
            _ => return None,
        }
    };
}
pub(crate) use by_wide_size;
