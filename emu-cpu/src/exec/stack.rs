//! push, pop and their relatives.
//!
//! Every slot is one data access. Invariant: ESP changes only after the last access that can fault.

use super::{Kind, by_wide_size, kind};
use crate::cpu::Cpu;
use crate::exec::access::Want;
use crate::fault::Raised;
use crate::flags::{IOPL, RF, VM};
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::{EBP, ESP};
use crate::segment::Seg;
use crate::word::{Dword, Half, Word};
use iced_x86::{Code, Instruction, Register};

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
    // The stack that was popped from decides how wide its pointer is.
    let esp = cpu.stack_plus(u32::from(W::SIZE));
    cpu.load_segment(Seg::ALL[usize::from(op.r1)], selector)?;
    cpu.regs[ESP] = esp;
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
/// Virtual-8086 mode leaves the flags image to the monitor unless IOPL is 3.
fn need_flags_access(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.v86() && cpu.other_flags & IOPL != IOPL {
        return Err(cpu.gp(0));
    }
    Ok(())
}
fn pushf<W: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    need_flags_access(cpu)?;
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
    need_flags_access(cpu)?;
    let new = cpu.pop::<W>()?;
    cpu.change_eflags(new, W::MASK & !RF);
    Ok(Out::Serial)
}

pub(crate) fn leave(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Leavew => run_leave::<Half>,
        Code::Leaved => run_leave::<Dword>,
        _ => return None,
    })
}
fn run_leave<W: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let (ebp, mask, size) = (cpu.regs[EBP], cpu.stack_mask, u32::from(W::SIZE));
    let va = cpu.linear(Seg::Ss, ebp & mask, size, Want::Read)?;
    let v = cpu.read::<W>(va)?;
    cpu.regs[ESP] = cpu.regs[ESP] & !mask | ebp.wrapping_add(size) & mask;
    W::set(&mut cpu.regs, EBP as u8, v);
    Ok(Out::Next)
}

pub(crate) fn enter(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Enterw_imm16_imm8 => run_enter::<Half>,
        Code::Enterd_imm16_imm8 => run_enter::<Dword>,
        _ => return None,
    })
}
/// `imm` is the size of the frame, `disp` the nesting level.
fn run_enter<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (mask, size) = (cpu.stack_mask, u32::from(W::SIZE));
    let level = op.disp & 31;
    let mut pushed = 0;
    let mut push = |cpu: &mut Cpu, value: u32| {
        pushed += size;
        let esp = cpu.stack_plus(0u32.wrapping_sub(pushed));
        let va = cpu.linear(Seg::Ss, esp & mask, size, Want::Write)?;
        cpu.write::<W>(va, value)?;
        Ok(esp)
    };
    let ebp = cpu.regs[EBP];
    let frame = push(cpu, ebp & W::MASK)?;
    let mut esp = frame;
    for n in 1..level {
        let at = ebp.wrapping_sub(n * size) & mask;
        let va = cpu.linear(Seg::Ss, at, size, Want::Read)?;
        let link = cpu.read::<W>(va)?;
        esp = push(cpu, link)?;
    }
    if level > 0 {
        esp = push(cpu, frame & W::MASK)?;
    }
    esp = esp & !mask | esp.wrapping_sub(op.imm) & mask;
    // A write to the top of the new frame must be possible (SDM); it is not made.
    let top = cpu.linear(Seg::Ss, esp & mask, size, Want::Write)?;
    let rights = cpu.privilege;
    cpu.mmu
        .probe_write(top, W::SIZE, rights)
        .map_err(|f| cpu.page_fault(f))?;
    W::set(&mut cpu.regs, EBP as u8, frame & W::MASK);
    cpu.regs[ESP] = esp;
    Ok(Out::Next)
}
