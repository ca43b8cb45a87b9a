//! Data movement: mov in all its forms, extensions, lea, xchg, bswap, sign extensions of the
//! accumulator.

use super::{Kind, by_size, by_wide_size, control, kinds};
use crate::cpu::Cpu;
use crate::exec::access::Want;
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::{EAX, EBX, EDX};
use crate::segment::Seg;
use crate::word::{Byte, Dword, Half, Word};
use iced_x86::Instruction;

pub(crate) fn mov(i: &Instruction) -> Option<Handler> {
    let bytes = super::size(i);
    Some(match kinds(i) {
        (Kind::Reg, Kind::Reg) => by_size!(bytes, reg_reg),
        (Kind::Reg, Kind::Imm) => by_size!(bytes, reg_imm),
        (Kind::Reg, Kind::Mem) => by_size!(bytes, reg_mem),
        (Kind::Mem, Kind::Reg) => by_size!(bytes, mem_reg),
        (Kind::Mem, Kind::Imm) => by_size!(bytes, mem_imm),
        (Kind::Reg, Kind::Sreg) => by_wide_size!(bytes, reg_sreg),
        (Kind::Mem, Kind::Sreg) => mem_sreg,
        (Kind::Sreg, Kind::Reg) => sreg_reg,
        (Kind::Sreg, Kind::Mem) => sreg_mem,
        (Kind::Reg, Kind::Cr) => control::from_cr,
        (Kind::Cr, Kind::Reg) => control::to_cr,
        (Kind::Reg, Kind::Dr) => control::from_dr,
        (Kind::Dr, Kind::Reg) => control::to_dr,
        _ => return None,
    })
}
fn reg_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = W::get(&cpu.regs, op.r2);
    W::set(&mut cpu.regs, op.r1, v);
    Ok(Out::Next)
}
fn reg_imm<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    W::set(&mut cpu.regs, op.r1, op.imm);
    Ok(Out::Next)
}
fn reg_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = cpu.load::<W>(op)?;
    W::set(&mut cpu.regs, op.r1, v);
    Ok(Out::Next)
}
fn mem_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = W::get(&cpu.regs, op.r2);
    cpu.store::<W>(op, v)?;
    Ok(Out::Next)
}
fn mem_imm<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.store::<W>(op, op.imm)?;
    Ok(Out::Next)
}
fn reg_sreg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    // A 32-bit destination is zero-extended (P6 and later).
    let v = u32::from(cpu.segs[usize::from(op.r2)].selector);
    W::set(&mut cpu.regs, op.r1, v);
    Ok(Out::Next)
}
fn mem_sreg(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = u32::from(cpu.segs[usize::from(op.r2)].selector);
    cpu.store::<Half>(op, v)?;
    Ok(Out::Next)
}
fn sreg_reg(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = Half::get(&cpu.regs, op.r2) as u16;
    cpu.load_segment(Seg::ALL[usize::from(op.r1)], selector)?;
    Ok(Out::Next)
}
fn sreg_mem(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.load::<Half>(op)? as u16;
    cpu.load_segment(Seg::ALL[usize::from(op.r1)], selector)?;
    Ok(Out::Next)
}

pub(crate) fn movzx(i: &Instruction) -> Option<Handler> {
    extend::<Zero>(i)
}
pub(crate) fn movsx(i: &Instruction) -> Option<Handler> {
    extend::<Sign>(i)
}
trait Extend: 'static {
    fn extend<From: Word>(v: u32) -> u32;
}
struct Zero;
struct Sign;
impl Extend for Zero {
    #[inline(always)]
    fn extend<From: Word>(v: u32) -> u32 {
        v
    }
}
impl Extend for Sign {
    #[inline(always)]
    fn extend<From: Word>(v: u32) -> u32 {
        From::sign_extend(v)
    }
}
fn extend<E: Extend>(i: &Instruction) -> Option<Handler> {
    let to = i.op0_register().size();
    let (kind, from) = match kinds(i).1 {
        Kind::Reg => (Kind::Reg, i.op1_register().size()),
        Kind::Mem => (Kind::Mem, i.memory_size().size()),
        _ => return None,
    };
    Some(match (kind, from, to) {
        (Kind::Reg, 1, 2) => extend_reg::<E, Byte, Half>,
        (Kind::Reg, 1, 4) => extend_reg::<E, Byte, Dword>,
        (Kind::Reg, 2, 4) => extend_reg::<E, Half, Dword>,
        (Kind::Reg, 2, 2) => extend_reg::<E, Half, Half>,
        (Kind::Mem, 1, 2) => extend_mem::<E, Byte, Half>,
        (Kind::Mem, 1, 4) => extend_mem::<E, Byte, Dword>,
        (Kind::Mem, 2, 4) => extend_mem::<E, Half, Dword>,
        (Kind::Mem, 2, 2) => extend_mem::<E, Half, Half>,
        _ => return None,
    })
}
fn extend_reg<E: Extend, From: Word, To: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = From::get(&cpu.regs, op.r2);
    To::set(&mut cpu.regs, op.r1, E::extend::<From>(v));
    Ok(Out::Next)
}
fn extend_mem<E: Extend, From: Word, To: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = cpu.load::<From>(op)?;
    To::set(&mut cpu.regs, op.r1, E::extend::<From>(v));
    Ok(Out::Next)
}

pub(crate) fn lea(i: &Instruction) -> Option<Handler> {
    (kinds(i).1 == Kind::Mem).then_some(match i.op0_register().size() {
        2 => lea_to::<Half>,
        4 => lea_to::<Dword>,
        _ => return None,
    })
}
fn lea_to<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let mut v = cpu.offset(op);
    if op.seg & crate::op::ADDR16 != 0 {
        v &= 0xffff;
    }
    W::set(&mut cpu.regs, op.r1, v);
    Ok(Out::Next)
}

pub(crate) fn xchg(i: &Instruction) -> Option<Handler> {
    Some(match kinds(i) {
        (Kind::Reg, Kind::Reg) => by_size!(i.op0_register().size(), xchg_reg),
        (Kind::Mem, Kind::Reg) => by_size!(i.op1_register().size(), xchg_mem),
        _ => return None,
    })
}
fn xchg_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (a, b) = (W::get(&cpu.regs, op.r1), W::get(&cpu.regs, op.r2));
    W::set(&mut cpu.regs, op.r1, b);
    W::set(&mut cpu.regs, op.r2, a);
    Ok(Out::Next)
}
fn xchg_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let va = cpu.writable_at(op, u32::from(W::SIZE))?;
    let new = W::get(&cpu.regs, op.r2);
    let old = cpu.modify::<W>(va, |_, _| Some(new))?;
    W::set(&mut cpu.regs, op.r2, old);
    Ok(Out::Next)
}

pub(crate) fn bswap(i: &Instruction) -> Option<Handler> {
    Some(match i.op0_register().size() {
        2 => bswap16,
        _ => bswap32,
    })
}
/// Undefined in the manual; processors clear the register.
fn bswap16(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.regs.set16(op.r1, 0);
    Ok(Out::Next)
}
fn bswap32(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = cpu.regs.get(op.r1);
    cpu.regs.set(op.r1, v.swap_bytes());
    Ok(Out::Next)
}

macro_rules! plain {
    ($($pick:ident, $run:ident, |$cpu:ident| $body:block;)*) => {$(
        pub(crate) fn $pick(_: &Instruction) -> Option<Handler> {
            Some($run)
        }
        fn $run($cpu: &mut Cpu, _op: &Op) -> Exec {
            $body
            Ok(Out::Next)
        }
    )*};
}
plain! {
    cbw, run_cbw, |cpu| {
        let v = Byte::sign_extend(cpu.regs[EAX] & 0xff);
        cpu.regs.set16(EAX as u8, v);
    };
    cwde, run_cwde, |cpu| { cpu.regs[EAX] = Half::sign_extend(cpu.regs[EAX] & 0xffff); };
    cwd, run_cwd, |cpu| {
        let v = if cpu.regs[EAX] & 0x8000 != 0 { 0xffff } else { 0 };
        cpu.regs.set16(EDX as u8, v);
    };
    cdq, run_cdq, |cpu| { cpu.regs[EDX] = (cpu.regs[EAX] as i32 >> 31) as u32; };
}

/// Also the multi-byte `0F 1F`: its memory operand is not accessed.
pub(crate) fn nop(_: &Instruction) -> Option<Handler> {
    Some(run_nop)
}
fn run_nop(_: &mut Cpu, _: &Op) -> Exec {
    Ok(Out::Next)
}

pub(crate) fn xlat(i: &Instruction) -> Option<Handler> {
    Some(match i.memory_base() {
        iced_x86::Register::BX => run_xlat::<Half>,
        _ => run_xlat::<Dword>,
    })
}
fn run_xlat<A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let offset = cpu.regs[EBX].wrapping_add(cpu.regs[EAX] & 0xff) & A::MASK;
    let va = cpu.linear(Seg::ALL[usize::from(op.seg & 7)], offset, 1, Want::Read)?;
    let v = cpu.read::<Byte>(va)?;
    cpu.regs.set8(EAX as u8, v);
    Ok(Out::Next)
}
