//! push, pop and their relatives.
//!
//! Every slot is one data access. Invariant: ESP changes only after the last access that can fault.

use super::{Kind, by_wide_size, kind};
use crate::cpu::Cpu;
use crate::exec::access::Want;
use crate::flags::{AC, ARITH, DF, ID, IF, IOPL, NT, RF, TF, VM};
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::{EBP, ESP};
use crate::segment::Seg;
use crate::word::{Dword, Half, Word};
use iced_x86::{Instruction, Register};

/// Bytes the instruction moves ESP by.
fn slot(i: &Instruction) -> usize {
    i.stack_pointer_increment().unsigned_abs() as usize
}

pub(crate) fn push(i: &Instruction) -> Option<Handler> {
    Some(match kind(i, 0) {
        Kind::Reg => by_wide_size!(slot(i), push_reg),
        Kind::Mem => by_wide_size!(slot(i), push_mem),
        Kind::Imm => by_wide_size!(slot(i), push_imm),
        Kind::Sreg => by_wide_size!(slot(i), push_sreg),
        _ => return None,
    })
}
fn push_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = W::get(&cpu.regs, op.r1);
    cpu.push::<W>(v)?;
    Ok(Out::Next)
}
fn push_imm<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.push::<W>(op.imm & W::MASK)?;
    Ok(Out::Next)
}
fn push_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = cpu.load::<W>(op)?;
    cpu.push::<W>(v)?;
    Ok(Out::Next)
}
fn push_sreg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = u32::from(cpu.segs[usize::from(op.r1)].selector);
    cpu.push::<W>(v)?;
    Ok(Out::Next)
}

pub(crate) fn pop(i: &Instruction) -> Option<Handler> {
    Some(match kind(i, 0) {
        Kind::Reg => by_wide_size!(slot(i), pop_reg),
        Kind::Mem => by_wide_size!(slot(i), pop_mem),
        Kind::Sreg if i.op0_register() != Register::CS => by_wide_size!(slot(i), pop_sreg),
        _ => return None,
    })
}
fn pop_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = cpu.pop::<W>()?;
    W::set(&mut cpu.regs, op.r1, v);
    Ok(Out::Next)
}
fn pop_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    // The address is computed with the ESP after the pop.
    let esp = cpu.regs[ESP];
    let v = cpu.pop::<W>()?;
    match cpu.store::<W>(op, v) {
        Ok(()) => Ok(Out::Next),
        Err(raised) => {
            cpu.regs[ESP] = esp;
            Err(raised)
        }
    }
}
fn pop_sreg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.peek_stack::<W>(0)? as u16;
    cpu.load_segment(Seg::ALL[usize::from(op.r1)], selector)?;
    cpu.regs[ESP] = cpu.stack_plus(u32::from(W::SIZE));
    Ok(Out::Next)
}

pub(crate) fn pusha16(_: &Instruction) -> Option<Handler> {
    Some(pusha::<Half>)
}
pub(crate) fn pusha32(_: &Instruction) -> Option<Handler> {
    Some(pusha::<Dword>)
}
fn pusha<W: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let size = u32::from(W::SIZE);
    let mut esp = cpu.regs[ESP];
    for number in 0..8 {
        let v = W::get(&cpu.regs, number);
        esp = cpu.stack_plus((size * (u32::from(number) + 1)).wrapping_neg());
        let va = cpu.linear(Seg::Ss, esp & cpu.stack_mask, size, Want::Write)?;
        cpu.write::<W>(va, v)?;
    }
    cpu.regs[ESP] = esp;
    Ok(Out::Next)
}
pub(crate) fn popa16(_: &Instruction) -> Option<Handler> {
    Some(popa::<Half>)
}
pub(crate) fn popa32(_: &Instruction) -> Option<Handler> {
    Some(popa::<Dword>)
}
fn popa<W: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let size = u32::from(W::SIZE);
    let mut values = [0; 8];
    for (slot, value) in (0..).zip(&mut values) {
        *value = cpu.peek_stack::<W>(size * slot)?;
    }
    for number in 0..8u8 {
        // The slot of ESP is read and dropped.
        if usize::from(number) != ESP {
            W::set(&mut cpu.regs, number, values[usize::from(7 - number)]);
        }
    }
    cpu.regs[ESP] = cpu.stack_plus(size * 8);
    Ok(Out::Next)
}

pub(crate) fn pushf16(_: &Instruction) -> Option<Handler> {
    Some(pushf::<Half>)
}
pub(crate) fn pushf32(_: &Instruction) -> Option<Handler> {
    Some(pushf::<Dword>)
}
fn pushf<W: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let v = cpu.eflags() & !(VM | RF) & W::MASK;
    cpu.push::<W>(v)?;
    Ok(Out::Next)
}
pub(crate) fn popf16(_: &Instruction) -> Option<Handler> {
    Some(popf::<Half>)
}
pub(crate) fn popf32(_: &Instruction) -> Option<Handler> {
    Some(popf::<Dword>)
}
fn popf<W: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let new = cpu.pop::<W>()?;
    cpu.change_eflags(new, W::MASK);
    Ok(Out::Serial)
}

impl Cpu {
    /// POPF and IRET: takes from `new` the flags this CPL may change, within `mask`.
    pub(crate) fn change_eflags(&mut self, new: u32, mask: u32) {
        let mut may = ARITH | TF | DF | NT | AC | ID;
        if self.cpl == 0 {
            may |= IOPL;
        }
        if u32::from(self.cpl) <= (self.other_flags & IOPL) >> 12 {
            may |= IF;
        }
        may &= mask;
        self.set_eflags(self.eflags() & !may | new & may);
    }
}

pub(crate) fn leave(i: &Instruction) -> Option<Handler> {
    (i.code() == iced_x86::Code::Leaved).then_some(run_leave as Handler)
}
fn run_leave(cpu: &mut Cpu, _: &Op) -> Exec {
    let ebp = cpu.regs[EBP];
    let va = cpu.linear(Seg::Ss, ebp & cpu.stack_mask, 4, Want::Read)?;
    let v = cpu.read::<Dword>(va)?;
    cpu.regs[ESP] = cpu.regs[ESP] & !cpu.stack_mask | ebp.wrapping_add(4) & cpu.stack_mask;
    cpu.regs[EBP] = v;
    Ok(Out::Next)
}
