//! Two-operand arithmetic and logic; inc, dec, neg, not.

use super::{Kind, by_size, kind, kinds, size};
use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::op::{Exec, Handler, Op, Out};
use crate::word::Word;
use iced_x86::Instruction;

/// A two-operand operation.
pub(crate) trait Alu: 'static {
    /// The result is stored (not for cmp and test).
    const STORES: bool;
    fn run<W: Word>(flags: &mut Flags, a: u32, b: u32) -> u32;
}

macro_rules! alu {
    ($($name:ident, $stores:literal, |$f:ident, $a:ident, $b:ident| $body:expr;)*) => {$(
        #[derive(Debug)]
        pub(crate) struct $name;
        impl Alu for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn run<W: Word>($f: &mut Flags, $a: u32, $b: u32) -> u32 {
                $body
            }
        }
    )*};
}

alu! {
    Add, true, |f, a, b| {
        let r = a.wrapping_add(b) & W::MASK;
        f.add::<W>(a, b, r);
        r
    };
    Adc, true, |f, a, b| {
        let r = a.wrapping_add(b).wrapping_add(u32::from(f.cf())) & W::MASK;
        f.add::<W>(a, b, r);
        r
    };
    Sub, true, |f, a, b| {
        let r = a.wrapping_sub(b) & W::MASK;
        f.sub::<W>(a, b, r);
        r
    };
    Sbb, true, |f, a, b| {
        let r = a.wrapping_sub(b).wrapping_sub(u32::from(f.cf())) & W::MASK;
        f.sub::<W>(a, b, r);
        r
    };
    Cmp, false, |f, a, b| Sub::run::<W>(f, a, b);
    And, true, |f, a, b| {
        f.logic::<W>(a & b);
        a & b
    };
    Or, true, |f, a, b| {
        f.logic::<W>(a | b);
        a | b
    };
    Xor, true, |f, a, b| {
        f.logic::<W>(a ^ b);
        a ^ b
    };
    Test, false, |f, a, b| And::run::<W>(f, a, b);
}

pub(crate) fn pick<A: Alu>(i: &Instruction) -> Option<Handler> {
    Some(match kinds(i) {
        (Kind::Reg, Kind::Reg) => by_size!(size(i), reg_reg, A),
        (Kind::Reg, Kind::Imm) => by_size!(size(i), reg_imm, A),
        (Kind::Reg, Kind::Mem) => by_size!(size(i), reg_mem, A),
        (Kind::Mem, Kind::Reg) => by_size!(size(i), mem_reg, A),
        (Kind::Mem, Kind::Imm) => by_size!(size(i), mem_imm, A),
        _ => return None,
    })
}

#[inline(always)]
fn to_reg<A: Alu, W: Word>(cpu: &mut Cpu, op: &Op, b: u32) -> Exec {
    let a = W::get(&cpu.regs, op.r1);
    let r = A::run::<W>(&mut cpu.flags, a, b);
    if A::STORES {
        W::set(&mut cpu.regs, op.r1, r);
    }
    Ok(Out::Next)
}

#[inline(always)]
fn to_mem<A: Alu, W: Word>(cpu: &mut Cpu, op: &Op, b: u32) -> Exec {
    if A::STORES {
        let va = cpu.writable_at(op, u32::from(W::SIZE))?;
        cpu.modify::<W>(va, |flags, a| Some(A::run::<W>(flags, a, b)))?;
    } else {
        let a = cpu.load::<W>(op)?;
        A::run::<W>(&mut cpu.flags, a, b);
    }
    Ok(Out::Next)
}

fn reg_reg<A: Alu, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = W::get(&cpu.regs, op.r2);
    to_reg::<A, W>(cpu, op, b)
}
fn reg_imm<A: Alu, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    to_reg::<A, W>(cpu, op, op.imm)
}
fn reg_mem<A: Alu, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = cpu.load::<W>(op)?;
    to_reg::<A, W>(cpu, op, b)
}
fn mem_reg<A: Alu, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = W::get(&cpu.regs, op.r2);
    to_mem::<A, W>(cpu, op, b)
}
fn mem_imm<A: Alu, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    to_mem::<A, W>(cpu, op, op.imm)
}

/// A one-operand operation.
pub(crate) trait Unary: 'static {
    fn run<W: Word>(flags: &mut Flags, a: u32) -> u32;
}

macro_rules! unary {
    ($($name:ident, $pick:ident, |$f:ident, $a:ident| $body:expr;)*) => {$(
        #[derive(Debug)]
        pub(crate) struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn run<W: Word>($f: &mut Flags, $a: u32) -> u32 {
                $body
            }
        }
        pub(crate) fn $pick(i: &Instruction) -> Option<Handler> {
            Some(match kind(i, 0) {
                Kind::Reg => by_size!(size(i), unary_reg, $name),
                Kind::Mem => by_size!(size(i), unary_mem, $name),
                _ => return None,
            })
        }
    )*};
}

unary! {
    Inc, inc, |f, a| {
        let cf = f.cf();
        let r = Add::run::<W>(f, a, 1);
        f.set_cf(cf);
        r
    };
    Dec, dec, |f, a| {
        let cf = f.cf();
        let r = Sub::run::<W>(f, a, 1);
        f.set_cf(cf);
        r
    };
    Neg, neg, |f, a| Sub::run::<W>(f, 0, a);
    Not, not, |_f, a| !a & W::MASK;
}

fn unary_reg<U: Unary, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = W::get(&cpu.regs, op.r1);
    let r = U::run::<W>(&mut cpu.flags, a);
    W::set(&mut cpu.regs, op.r1, r);
    Ok(Out::Next)
}
fn unary_mem<U: Unary, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let va = cpu.writable_at(op, u32::from(W::SIZE))?;
    cpu.modify::<W>(va, |flags, a| Some(U::run::<W>(flags, a)))?;
    Ok(Out::Next)
}
