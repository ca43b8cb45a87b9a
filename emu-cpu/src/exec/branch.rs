//! Near transfers of control, setcc, cmovcc.
//!
//! Targets are computed from EIP, so an operation is the same at every address. Predictions are
//! checked after everything that can fault; a transfer beyond the code segment's limit is #GP(0)
//! before it.

use super::{Kind, kind};
use crate::cpu::Cpu;
use crate::fault::Raised;
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::{ECX, ESP};
use crate::word::{Byte, Dword, Half, Word};
use iced_x86::{Code, Instruction};
use lowmem_cost::Event;

impl Cpu {
    #[inline(always)]
    fn after(&self, op: &Op) -> u32 {
        self.eip.wrapping_add(u32::from(op.len))
    }
    #[inline(always)]
    fn check_target(&mut self, target: u32) -> Result<(), Raised> {
        if target <= self.code_limit {
            Ok(())
        } else {
            Err(self.gp(0))
        }
    }
    #[inline(always)]
    fn judge(&mut self, mispredicted: bool) {
        if mispredicted {
            self.count(Event::Mispredict);
        }
    }
    #[inline(always)]
    fn conditional(&mut self, op: &Op, taken: bool) -> Exec {
        let target = self.after(op).wrapping_add(op.imm);
        if taken {
            self.check_target(target)?;
        }
        let wrong = self.predictor.conditional(self.eip, target, taken);
        self.judge(wrong);
        if taken {
            self.eip = target;
            Ok(Out::Taken)
        } else {
            Ok(Out::Next)
        }
    }
    #[inline(always)]
    fn indirect(&mut self, target: u32) -> Exec {
        self.check_target(target)?;
        let wrong = self.predictor.indirect(self.eip, target);
        self.judge(wrong);
        self.eip = target;
        Ok(Out::Taken)
    }
}

/// The condition of Jcc, SETcc and CMOVcc as encoded.
macro_rules! by_condition {
    ($i:expr, $handler:ident $(, $param:ty)*) => {
        match $i.condition_code() as u8 {
            1 => $handler::<$($param,)* 0>,
            2 => $handler::<$($param,)* 1>,
            3 => $handler::<$($param,)* 2>,
            4 => $handler::<$($param,)* 3>,
            5 => $handler::<$($param,)* 4>,
            6 => $handler::<$($param,)* 5>,
            7 => $handler::<$($param,)* 6>,
            8 => $handler::<$($param,)* 7>,
            9 => $handler::<$($param,)* 8>,
            10 => $handler::<$($param,)* 9>,
            11 => $handler::<$($param,)* 10>,
            12 => $handler::<$($param,)* 11>,
            13 => $handler::<$($param,)* 12>,
            14 => $handler::<$($param,)* 13>,
            15 => $handler::<$($param,)* 14>,
            16 => $handler::<$($param,)* 15>,
            _ => return None,
        }
    };
}

/// Near branches with a 16-bit operand size cut EIP to 16 bits; nothing uses them in 32-bit code,
/// so they are #UD here.
fn is_32bit(i: &Instruction) -> bool {
    i.near_branch_target() <= u64::from(u32::MAX)
        && matches!(i.op0_kind(), iced_x86::OpKind::NearBranch32)
}

pub(crate) fn jcc(i: &Instruction) -> Option<Handler> {
    is_32bit(i).then_some(by_condition!(i, run_jcc))
}
fn run_jcc<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let taken = cpu.flags.condition(CC);
    cpu.conditional(op, taken)
}

pub(crate) fn jmp(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Jmp_rel8_32 | Code::Jmp_rel32_32 => jmp_direct,
        Code::Jmp_rm32 if kind(i, 0) == Kind::Reg => jmp_reg,
        Code::Jmp_rm32 => jmp_mem,
        Code::Jmp_ptr1632 => crate::transfer::jmp_far_imm,
        Code::Jmp_m1632 => crate::transfer::jmp_far_mem,
        _ => return None,
    })
}
fn jmp_direct(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.after(op).wrapping_add(op.imm);
    cpu.check_target(target)?;
    cpu.eip = target;
    Ok(Out::Taken)
}
fn jmp_reg(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.regs.get(op.r1);
    cpu.indirect(target)
}
fn jmp_mem(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.load::<Dword>(op)?;
    cpu.indirect(target)
}

pub(crate) fn call(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Call_rel32_32 => call_direct,
        Code::Call_rm32 if kind(i, 0) == Kind::Reg => call_reg,
        Code::Call_rm32 => call_mem,
        Code::Call_ptr1632 => crate::transfer::call_far_imm,
        Code::Call_m1632 => crate::transfer::call_far_mem,
        _ => return None,
    })
}
#[inline(always)]
fn push_return(cpu: &mut Cpu, op: &Op, target: u32) -> Result<(), Raised> {
    cpu.check_target(target)?;
    let back = cpu.after(op);
    cpu.push::<Dword>(back)?;
    cpu.predictor.call(back);
    Ok(())
}
fn call_direct(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.after(op).wrapping_add(op.imm);
    push_return(cpu, op, target)?;
    cpu.eip = target;
    Ok(Out::Taken)
}
fn call_reg(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.regs.get(op.r1);
    push_return(cpu, op, target)?;
    cpu.indirect(target)
}
fn call_mem(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.load::<Dword>(op)?;
    push_return(cpu, op, target)?;
    cpu.indirect(target)
}

pub(crate) fn ret(i: &Instruction) -> Option<Handler> {
    matches!(i.code(), Code::Retnd | Code::Retnd_imm16).then_some(run_ret as Handler)
}
fn run_ret(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.peek_stack::<Dword>(0)?;
    cpu.check_target(target)?;
    cpu.regs[ESP] = cpu.stack_plus(4 + op.imm);
    let wrong = cpu.predictor.ret(target);
    cpu.judge(wrong);
    cpu.eip = target;
    Ok(Out::Taken)
}
pub(crate) fn retf(i: &Instruction) -> Option<Handler> {
    matches!(i.code(), Code::Retfd | Code::Retfd_imm16)
        .then_some(crate::transfer::ret_far as Handler)
}

pub(crate) fn jecxz(i: &Instruction) -> Option<Handler> {
    is_32bit(i).then_some(run_jecxz as Handler)
}
fn run_jecxz(cpu: &mut Cpu, op: &Op) -> Exec {
    let taken = cpu.regs[ECX] == 0;
    cpu.conditional(op, taken)
}
pub(crate) fn jcxz(i: &Instruction) -> Option<Handler> {
    is_32bit(i).then_some(run_jcxz as Handler)
}
fn run_jcxz(cpu: &mut Cpu, op: &Op) -> Exec {
    let taken = cpu.regs[ECX] & 0xffff == 0;
    cpu.conditional(op, taken)
}

/// loop with ECX (CX forms are #UD): counts down, then asks the extra condition.
fn is_ecx_loop(i: &Instruction) -> bool {
    is_32bit(i)
        && matches!(
            i.code(),
            Code::Loop_rel8_32_ECX | Code::Loope_rel8_32_ECX | Code::Loopne_rel8_32_ECX
        )
}
pub(crate) fn loop_(i: &Instruction) -> Option<Handler> {
    is_ecx_loop(i).then_some(run_loop as Handler)
}
pub(crate) fn loope(i: &Instruction) -> Option<Handler> {
    is_ecx_loop(i).then_some(run_loope as Handler)
}
pub(crate) fn loopne(i: &Instruction) -> Option<Handler> {
    is_ecx_loop(i).then_some(run_loopne as Handler)
}
#[inline(always)]
fn looping(cpu: &mut Cpu, op: &Op, also: bool) -> Exec {
    let left = cpu.regs[ECX].wrapping_sub(1);
    let out = cpu.conditional(op, left != 0 && also)?;
    cpu.regs[ECX] = left;
    Ok(out)
}
fn run_loop(cpu: &mut Cpu, op: &Op) -> Exec {
    looping(cpu, op, true)
}
fn run_loope(cpu: &mut Cpu, op: &Op) -> Exec {
    let also = cpu.flags.zf();
    looping(cpu, op, also)
}
fn run_loopne(cpu: &mut Cpu, op: &Op) -> Exec {
    let also = !cpu.flags.zf();
    looping(cpu, op, also)
}

pub(crate) fn setcc(i: &Instruction) -> Option<Handler> {
    Some(match kind(i, 0) {
        Kind::Reg => by_condition!(i, set_reg),
        Kind::Mem => by_condition!(i, set_mem),
        _ => return None,
    })
}
fn set_reg<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = u32::from(cpu.flags.condition(CC));
    Byte::set(&mut cpu.regs, op.r1, v);
    Ok(Out::Next)
}
fn set_mem<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = u32::from(cpu.flags.condition(CC));
    cpu.store::<Byte>(op, v)?;
    Ok(Out::Next)
}

pub(crate) fn cmovcc(i: &Instruction) -> Option<Handler> {
    let bytes = i.op0_register().size();
    Some(match kind(i, 1) {
        Kind::Reg if bytes == 2 => by_condition!(i, move_reg, Half),
        Kind::Reg => by_condition!(i, move_reg, Dword),
        Kind::Mem if bytes == 2 => by_condition!(i, move_mem, Half),
        Kind::Mem => by_condition!(i, move_mem, Dword),
        _ => return None,
    })
}
fn move_reg<W: Word, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.flags.condition(CC) {
        let v = W::get(&cpu.regs, op.r2);
        W::set(&mut cpu.regs, op.r1, v);
    }
    Ok(Out::Next)
}
fn move_mem<W: Word, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    // The load is made whether the condition holds or not.
    let v = cpu.load::<W>(op)?;
    if cpu.flags.condition(CC) {
        W::set(&mut cpu.regs, op.r1, v);
    }
    Ok(Out::Next)
}
