//! cmpxchg, cmpxchg8b, xadd. One CPU, so the lock prefix changes only the event counted.

use super::{Kind, by_size, kind};
use crate::cpu::Cpu;
use crate::exec::alu::{Add, Alu, Cmp};
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::{EAX, EBX, ECX, EDX};
use crate::word::Word;
use iced_x86::Instruction;

pub(crate) fn cmpxchg(i: &Instruction) -> Option<Handler> {
    let bytes = i.op1_register().size();
    Some(match kind(i, 0) {
        Kind::Reg => by_size!(bytes, cmpxchg_reg),
        Kind::Mem => by_size!(bytes, cmpxchg_mem),
        _ => return None,
    })
}
fn cmpxchg_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (acc, old, new) = (
        W::get(&cpu.regs, EAX as u8),
        W::get(&cpu.regs, op.r1),
        W::get(&cpu.regs, op.r2),
    );
    Cmp::run::<W>(&mut cpu.flags, acc, old);
    if acc == old {
        W::set(&mut cpu.regs, op.r1, new);
    } else {
        W::set(&mut cpu.regs, EAX as u8, old);
    }
    Ok(Out::Next)
}
fn cmpxchg_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let va = cpu.writable_at(op, u32::from(W::SIZE))?;
    let (acc, new) = (W::get(&cpu.regs, EAX as u8), W::get(&cpu.regs, op.r2));
    let old = cpu.modify::<W>(va, |flags, old| {
        Cmp::run::<W>(flags, acc, old);
        (acc == old).then_some(new)
    })?;
    if acc != old {
        W::set(&mut cpu.regs, EAX as u8, old);
    }
    Ok(Out::Next)
}

pub(crate) fn cmpxchg8b(i: &Instruction) -> Option<Handler> {
    (kind(i, 0) == Kind::Mem).then_some(cmpxchg8b_mem as Handler)
}
fn cmpxchg8b_mem(cpu: &mut Cpu, op: &Op) -> Exec {
    let va = cpu.writable_at(op, 8)?;
    let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let expected = pair(cpu.regs[EDX], cpu.regs[EAX]);
    let new = pair(cpu.regs[ECX], cpu.regs[EBX]);
    let old = cpu
        .mmu
        .modify(va, 8, cpu.privilege, |old| (old == expected).then_some(new))
        .map_err(|f| cpu.page_fault(f))?;
    cpu.flags.set_zf(old == expected);
    if old != expected {
        cpu.regs[EDX] = (old >> 32) as u32;
        cpu.regs[EAX] = old as u32;
    }
    Ok(Out::Next)
}

pub(crate) fn xadd(i: &Instruction) -> Option<Handler> {
    let bytes = i.op1_register().size();
    Some(match kind(i, 0) {
        Kind::Reg => by_size!(bytes, xadd_reg),
        Kind::Mem => by_size!(bytes, xadd_mem),
        _ => return None,
    })
}
fn xadd_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (a, b) = (W::get(&cpu.regs, op.r1), W::get(&cpu.regs, op.r2));
    let sum = Add::run::<W>(&mut cpu.flags, a, b);
    W::set(&mut cpu.regs, op.r2, a);
    W::set(&mut cpu.regs, op.r1, sum);
    Ok(Out::Next)
}
fn xadd_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let va = cpu.writable_at(op, u32::from(W::SIZE))?;
    let b = W::get(&cpu.regs, op.r2);
    let old = cpu.modify::<W>(va, |flags, a| Some(Add::run::<W>(flags, a, b)))?;
    W::set(&mut cpu.regs, op.r2, old);
    Ok(Out::Next)
}
