//! Multiplication and division.
//!
//! SF, ZF, AF and PF are undefined after multiplication (here: from the low half) and all flags
//! after division (here: unchanged).

use super::{Kind, by_size, by_wide_size, kind, size};
use crate::cpu::Cpu;
use crate::fault::{self, Fault, Raised};
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::{EAX, EDX};
use crate::word::Word;
use iced_x86::Instruction;

fn operand_size(i: &Instruction) -> usize {
    size(i)
}

pub(crate) fn mul(i: &Instruction) -> Option<Handler> {
    Some(match kind(i, 0) {
        Kind::Reg => by_size!(operand_size(i), mul_reg),
        Kind::Mem => by_size!(operand_size(i), mul_mem),
        _ => return None,
    })
}
pub(crate) fn imul(i: &Instruction) -> Option<Handler> {
    let bytes = operand_size(i);
    Some(match (i.op_count(), kind(i, 0), kind(i, 1)) {
        (1, Kind::Reg, _) => by_size!(bytes, imul_wide_reg),
        (1, Kind::Mem, _) => by_size!(bytes, imul_wide_mem),
        (2, Kind::Reg, Kind::Reg) => by_wide_size!(bytes, imul_reg),
        (2, Kind::Reg, Kind::Mem) => by_wide_size!(bytes, imul_mem),
        (3, Kind::Reg, Kind::Reg) => by_wide_size!(bytes, imul_reg_imm),
        (3, Kind::Reg, Kind::Mem) => by_wide_size!(bytes, imul_mem_imm),
        _ => return None,
    })
}
pub(crate) fn div(i: &Instruction) -> Option<Handler> {
    Some(match kind(i, 0) {
        Kind::Reg => by_size!(operand_size(i), div_reg),
        Kind::Mem => by_size!(operand_size(i), div_mem),
        _ => return None,
    })
}
pub(crate) fn idiv(i: &Instruction) -> Option<Handler> {
    Some(match kind(i, 0) {
        Kind::Reg => by_size!(operand_size(i), idiv_reg),
        Kind::Mem => by_size!(operand_size(i), idiv_mem),
        _ => return None,
    })
}

/// Low and high half of a double-width value to AX, DX:AX or EDX:EAX.
#[inline(always)]
fn set_wide<W: Word>(cpu: &mut Cpu, low: u32, high: u32) {
    if W::SIZE == 1 {
        cpu.regs.set16(EAX as u8, low | high << 8);
    } else {
        W::set(&mut cpu.regs, EAX as u8, low);
        W::set(&mut cpu.regs, EDX as u8, high);
    }
}
#[inline(always)]
fn get_wide<W: Word>(cpu: &Cpu) -> u64 {
    if W::SIZE == 1 {
        u64::from(cpu.regs[EAX] & 0xffff)
    } else {
        let (low, high) = (W::get(&cpu.regs, EAX as u8), W::get(&cpu.regs, EDX as u8));
        u64::from(high) << W::BITS | u64::from(low)
    }
}

#[inline(always)]
fn mul_by<W: Word>(cpu: &mut Cpu, b: u32) -> Exec {
    let wide = u64::from(W::get(&cpu.regs, EAX as u8)) * u64::from(b);
    let (low, high) = (wide as u32 & W::MASK, (wide >> W::BITS) as u32);
    set_wide::<W>(cpu, low, high);
    cpu.flags.shift::<W>(low, high != 0, high != 0);
    Ok(Out::Next)
}
fn mul_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = W::get(&cpu.regs, op.r1);
    mul_by::<W>(cpu, b)
}
fn mul_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = cpu.load::<W>(op)?;
    mul_by::<W>(cpu, b)
}

/// Signed product, truncated to the low half, and whether that lost anything.
#[inline(always)]
fn signed_product<W: Word>(a: u32, b: u32) -> (i64, bool) {
    let wide = i64::from(W::sign_extend(a) as i32) * i64::from(W::sign_extend(b) as i32);
    let kept = i64::from(W::sign_extend(wide as u32 & W::MASK) as i32);
    (wide, kept != wide)
}
#[inline(always)]
fn imul_wide_by<W: Word>(cpu: &mut Cpu, b: u32) -> Exec {
    let (wide, lost) = signed_product::<W>(W::get(&cpu.regs, EAX as u8), b);
    let low = wide as u32 & W::MASK;
    set_wide::<W>(cpu, low, (wide >> W::BITS) as u32 & W::MASK);
    cpu.flags.shift::<W>(low, lost, lost);
    Ok(Out::Next)
}
fn imul_wide_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = W::get(&cpu.regs, op.r1);
    imul_wide_by::<W>(cpu, b)
}
fn imul_wide_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = cpu.load::<W>(op)?;
    imul_wide_by::<W>(cpu, b)
}
#[inline(always)]
fn imul_to<W: Word>(cpu: &mut Cpu, op: &Op, a: u32, b: u32) -> Exec {
    let (wide, lost) = signed_product::<W>(a, b);
    let low = wide as u32 & W::MASK;
    W::set(&mut cpu.regs, op.r1, low);
    cpu.flags.shift::<W>(low, lost, lost);
    Ok(Out::Next)
}
fn imul_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (a, b) = (W::get(&cpu.regs, op.r1), W::get(&cpu.regs, op.r2));
    imul_to::<W>(cpu, op, a, b)
}
fn imul_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = cpu.load::<W>(op)?;
    let a = W::get(&cpu.regs, op.r1);
    imul_to::<W>(cpu, op, a, b)
}
fn imul_reg_imm<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = W::get(&cpu.regs, op.r2);
    imul_to::<W>(cpu, op, a, op.imm)
}
fn imul_mem_imm<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = cpu.load::<W>(op)?;
    imul_to::<W>(cpu, op, a, op.imm)
}

#[cold]
fn divide_error(cpu: &mut Cpu) -> Raised {
    cpu.raise_fault(Fault::plain(fault::DE))
}
#[inline(always)]
fn div_by<W: Word>(cpu: &mut Cpu, divisor: u32) -> Exec {
    let dividend = get_wide::<W>(cpu);
    let d = u64::from(divisor);
    if d == 0 || dividend / d > u64::from(W::MASK) {
        return Err(divide_error(cpu));
    }
    set_wide::<W>(cpu, (dividend / d) as u32, (dividend % d) as u32);
    Ok(Out::Next)
}
fn div_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let d = W::get(&cpu.regs, op.r1);
    div_by::<W>(cpu, d)
}
fn div_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let d = cpu.load::<W>(op)?;
    div_by::<W>(cpu, d)
}
#[inline(always)]
fn idiv_by<W: Word>(cpu: &mut Cpu, divisor: u32) -> Exec {
    let unused = 64 - 2 * W::BITS;
    let dividend = (get_wide::<W>(cpu) << unused) as i64 >> unused;
    let d = i64::from(W::sign_extend(divisor) as i32);
    let quotient = match dividend.checked_div(d) {
        Some(q) if q == i64::from(W::sign_extend(q as u32 & W::MASK) as i32) => q,
        _ => return Err(divide_error(cpu)),
    };
    let remainder = dividend - quotient * d;
    set_wide::<W>(cpu, quotient as u32 & W::MASK, remainder as u32 & W::MASK);
    Ok(Out::Next)
}
fn idiv_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let d = W::get(&cpu.regs, op.r1);
    idiv_by::<W>(cpu, d)
}
fn idiv_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let d = cpu.load::<W>(op)?;
    idiv_by::<W>(cpu, d)
}
