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
use crate::{far, returns};
use iced_x86::{Code, Instruction, OpKind};
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
    /// A branch's target: 16-bit operand size cuts it to 16 bits.
    #[inline(always)]
    fn target<W: Word>(&self, op: &Op) -> u32 {
        self.after(op).wrapping_add(op.imm) & W::MASK
    }
    #[inline(always)]
    fn conditional<W: Word>(&mut self, op: &Op, taken: bool) -> Exec {
        let target = self.target::<W>(op);
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

/// Bytes of the target of a direct branch.
fn target_size(i: &Instruction) -> Option<usize> {
    match i.op0_kind() {
        OpKind::NearBranch16 => Some(2),
        OpKind::NearBranch32 => Some(4),
        _ => None,
    }
}

pub(crate) fn jcc(i: &Instruction) -> Option<Handler> {
    Some(match target_size(i)? {
        2 => by_condition!(i, run_jcc, Half),
        _ => by_condition!(i, run_jcc, Dword),
    })
}
fn run_jcc<W: Word, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let taken = cpu.flags.condition(CC);
    cpu.conditional::<W>(op, taken)
}

pub(crate) fn jmp(i: &Instruction) -> Option<Handler> {
    let register = kind(i, 0) == Kind::Reg;
    Some(match i.code() {
        Code::Jmp_rel8_16 | Code::Jmp_rel16 => jmp_direct::<Half>,
        Code::Jmp_rel8_32 | Code::Jmp_rel32_32 => jmp_direct::<Dword>,
        Code::Jmp_rm16 if register => jmp_reg::<Half>,
        Code::Jmp_rm16 => jmp_mem::<Half>,
        Code::Jmp_rm32 if register => jmp_reg::<Dword>,
        Code::Jmp_rm32 => jmp_mem::<Dword>,
        Code::Jmp_ptr1616 | Code::Jmp_ptr1632 => far::jmp_far_imm,
        Code::Jmp_m1616 => far::jmp_far_mem::<Half>,
        Code::Jmp_m1632 => far::jmp_far_mem::<Dword>,
        _ => return None,
    })
}
fn jmp_direct<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.target::<W>(op);
    cpu.check_target(target)?;
    cpu.eip = target;
    Ok(Out::Taken)
}
fn jmp_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = W::get(&cpu.regs, op.r1);
    cpu.indirect(target)
}
fn jmp_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.load::<W>(op)?;
    cpu.indirect(target)
}

pub(crate) fn call(i: &Instruction) -> Option<Handler> {
    let register = kind(i, 0) == Kind::Reg;
    Some(match i.code() {
        Code::Call_rel16 => call_direct::<Half>,
        Code::Call_rel32_32 => call_direct::<Dword>,
        Code::Call_rm16 if register => call_reg::<Half>,
        Code::Call_rm16 => call_mem::<Half>,
        Code::Call_rm32 if register => call_reg::<Dword>,
        Code::Call_rm32 => call_mem::<Dword>,
        Code::Call_ptr1616 => far::call_far_imm::<Half>,
        Code::Call_ptr1632 => far::call_far_imm::<Dword>,
        Code::Call_m1616 => far::call_far_mem::<Half>,
        Code::Call_m1632 => far::call_far_mem::<Dword>,
        _ => return None,
    })
}
#[inline(always)]
fn push_return<W: Word>(cpu: &mut Cpu, op: &Op, target: u32) -> Result<(), Raised> {
    cpu.check_target(target)?;
    let back = cpu.after(op) & W::MASK;
    cpu.push::<W>(back)?;
    cpu.predictor.call(back);
    Ok(())
}
fn call_direct<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.target::<W>(op);
    push_return::<W>(cpu, op, target)?;
    cpu.eip = target;
    Ok(Out::Taken)
}
fn call_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = W::get(&cpu.regs, op.r1);
    push_return::<W>(cpu, op, target)?;
    cpu.indirect(target)
}
fn call_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.load::<W>(op)?;
    push_return::<W>(cpu, op, target)?;
    cpu.indirect(target)
}

pub(crate) fn ret(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Retnw | Code::Retnw_imm16 => run_ret::<Half>,
        Code::Retnd | Code::Retnd_imm16 => run_ret::<Dword>,
        _ => return None,
    })
}
fn run_ret<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.peek_stack::<W>(0)?;
    cpu.check_target(target)?;
    cpu.regs[ESP] = cpu.stack_plus(u32::from(W::SIZE) + op.imm);
    let wrong = cpu.predictor.ret(target);
    cpu.judge(wrong);
    cpu.eip = target;
    Ok(Out::Taken)
}
pub(crate) fn retf(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Retfw | Code::Retfw_imm16 => returns::ret_far::<Half>,
        Code::Retfd | Code::Retfd_imm16 => returns::ret_far::<Dword>,
        _ => return None,
    })
}

/// Picks by the size of the target and that of the counter, CX or ECX.
macro_rules! by_counter {
    ($i:expr, $handler:ident, $codes16:pat) => {{
        let cx = matches!($i.code(), $codes16);
        match (target_size($i)?, cx) {
            (2, true) => $handler::<Half, Half>,
            (2, false) => $handler::<Half, Dword>,
            (_, true) => $handler::<Dword, Half>,
            (_, false) => $handler::<Dword, Dword>,
        }
    }};
}

/// jcxz and jecxz.
pub(crate) fn jcxz(i: &Instruction) -> Option<Handler> {
    Some(by_counter!(
        i,
        run_jcxz,
        Code::Jcxz_rel8_16 | Code::Jcxz_rel8_32
    ))
}
fn run_jcxz<W: Word, C: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let taken = C::get(&cpu.regs, ECX as u8) == 0;
    cpu.conditional::<W>(op, taken)
}

pub(crate) fn loop_(i: &Instruction) -> Option<Handler> {
    Some(by_counter!(
        i,
        run_loop,
        Code::Loop_rel8_16_CX | Code::Loop_rel8_32_CX
    ))
}
pub(crate) fn loope(i: &Instruction) -> Option<Handler> {
    Some(by_counter!(
        i,
        run_loope,
        Code::Loope_rel8_16_CX | Code::Loope_rel8_32_CX
    ))
}
pub(crate) fn loopne(i: &Instruction) -> Option<Handler> {
    Some(by_counter!(
        i,
        run_loopne,
        Code::Loopne_rel8_16_CX | Code::Loopne_rel8_32_CX
    ))
}
/// Counts down, then asks the extra condition.
#[inline(always)]
fn looping<W: Word, C: Word>(cpu: &mut Cpu, op: &Op, also: bool) -> Exec {
    let left = C::get(&cpu.regs, ECX as u8).wrapping_sub(1) & C::MASK;
    let out = cpu.conditional::<W>(op, left != 0 && also)?;
    C::set(&mut cpu.regs, ECX as u8, left);
    Ok(out)
}
fn run_loop<W: Word, C: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    looping::<W, C>(cpu, op, true)
}
fn run_loope<W: Word, C: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let also = cpu.flags.zf();
    looping::<W, C>(cpu, op, also)
}
fn run_loopne<W: Word, C: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let also = !cpu.flags.zf();
    looping::<W, C>(cpu, op, also)
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
