//! Instructions about segments and rights: far pointer loads, LDTR and TR, lar, lsl, verr, verw,
//! arpl, bound (SDM vol. 2).
//!
//! Where selectors name no descriptors (real and virtual-8086 mode) those that need them are #UD.
//! Invariant: a look at a descriptor (lar, lsl, verr, verw) never faults for what it says, it clears
//! ZF.

use super::{Kind, by_wide_size, kind};
use crate::cpu::Cpu;
use crate::far::far_pointer;
use crate::fault::{self, Fault, Raised};
use crate::op::{Exec, Handler, Op, Out};
use crate::segment::{Descriptor, Seg};
use crate::word::{Dword, Half, Word};
use iced_x86::{Instruction, Register};

/// lds, les, lfs, lgs, lss: `x` is the segment register.
pub(crate) fn load_pointer(i: &Instruction) -> Option<Handler> {
    Some(by_wide_size!(i.op0_register().size(), run_load_pointer))
}
fn run_load_pointer<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (selector, offset) = far_pointer::<W>(cpu, op)?;
    cpu.load_segment(Seg::ALL[usize::from(op.x)], selector)?;
    W::set(&mut cpu.regs, op.r1, offset);
    Ok(Out::Next)
}

/// A 16-bit operand that is a register or memory.
pub(crate) fn half_operand(cpu: &mut Cpu, op: &Op) -> Result<u16, Raised> {
    let v = if op.x == 1 {
        Half::get(&cpu.regs, op.r1)
    } else {
        cpu.load::<Half>(op)?
    };
    Ok(v as u16)
}

macro_rules! plain {
    ($($pick:ident, $run:ident, |$cpu:ident, $op:ident| $body:block;)*) => {$(
        pub(crate) fn $pick(_: &Instruction) -> Option<Handler> {
            Some($run)
        }
        fn $run($cpu: &mut Cpu, $op: &Op) -> Exec {
            $body
        }
    )*};
}
plain! {
    lldt, run_lldt, |cpu, op| {
        cpu.need_protected()?;
        cpu.need_cpl0()?;
        let selector = half_operand(cpu, op)?;
        cpu.load_ldt(selector)?;
        Ok(Out::Serial)
    };
    ltr, run_ltr, |cpu, op| {
        cpu.need_protected()?;
        cpu.need_cpl0()?;
        let selector = half_operand(cpu, op)?;
        cpu.load_task(selector)?;
        Ok(Out::Serial)
    };
    verr, run_verr, |cpu, op| {
        cpu.need_protected()?;
        let selector = half_operand(cpu, op)?;
        let good = cpu.visible(selector)?.is_some_and(|d| d.is_readable());
        cpu.flags.set_zf(good);
        Ok(Out::Next)
    };
    verw, run_verw, |cpu, op| {
        cpu.need_protected()?;
        let selector = half_operand(cpu, op)?;
        let good = cpu.visible(selector)?.is_some_and(|d| d.is_writable_data());
        cpu.flags.set_zf(good);
        Ok(Out::Next)
    };
}

/// System descriptor types that lar accepts: TSS, LDT, call and task gates.
const LAR_TYPES: u16 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 0xb | 1 << 0xc;
/// System descriptor types that have a limit: TSS and LDT.
const LSL_TYPES: u16 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 0xb;

impl Cpu {
    /// The descriptor of a selector, if it exists and CPL and RPL may see it.
    fn visible(&mut self, selector: u16) -> Result<Option<Descriptor>, Raised> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        let Some((d, _)) = self.descriptor(selector)? else {
            return Ok(None);
        };
        let rpl = (selector & 3) as u8;
        let seen = d.is_conforming() || (d.dpl() >= self.cpl && d.dpl() >= rpl);
        Ok(seen.then_some(d))
    }
    /// As `visible`, for code, data and the system types of a set.
    fn visible_of(&mut self, selector: u16, types: u16) -> Result<Option<Descriptor>, Raised> {
        let found = self.visible(selector)?;
        Ok(found.filter(|d| d.system_type().is_none_or(|kind| types >> kind & 1 != 0)))
    }
}

macro_rules! look {
    ($($pick:ident, $reg:ident, $mem:ident, $types:ident, |$d:ident| $value:expr;)*) => {$(
        pub(crate) fn $pick(i: &Instruction) -> Option<Handler> {
            let bytes = i.op0_register().size();
            Some(match kind(i, 1) {
                Kind::Reg => by_wide_size!(bytes, $reg),
                Kind::Mem => by_wide_size!(bytes, $mem),
                _ => return None,
            })
        }
        fn $reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
            cpu.need_protected()?;
            let selector = Half::get(&cpu.regs, op.r2) as u16;
            let found = cpu.visible_of(selector, $types)?;
            looked::<W>(cpu, op, found.map(|$d| $value))
        }
        fn $mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
            cpu.need_protected()?;
            let selector = cpu.load::<Half>(op)? as u16;
            let found = cpu.visible_of(selector, $types)?;
            looked::<W>(cpu, op, found.map(|$d| $value))
        }
    )*};
}
fn looked<W: Word>(cpu: &mut Cpu, op: &Op, found: Option<u32>) -> Exec {
    cpu.flags.set_zf(found.is_some());
    if let Some(v) = found {
        W::set(&mut cpu.regs, op.r1, v & W::MASK);
    }
    Ok(Out::Next)
}
look! {
    lar, lar_reg, lar_mem, LAR_TYPES, |d| (d.0 >> 32) as u32 & 0x00ff_ff00;
    lsl, lsl_reg, lsl_mem, LSL_TYPES, |d| d.segment(0).limit;
}

pub(crate) fn arpl(i: &Instruction) -> Option<Handler> {
    Some(match kind(i, 0) {
        Kind::Reg => arpl_reg,
        Kind::Mem => arpl_mem,
        _ => return None,
    })
}
/// The selector with its RPL raised to that of `by`, if it was lower.
fn raised_rpl(selector: u32, by: u32) -> Option<u32> {
    (selector & 3 < by & 3).then_some(selector & !3 | by & 3)
}
fn arpl_reg(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.need_protected()?;
    let (selector, by) = (Half::get(&cpu.regs, op.r1), Half::get(&cpu.regs, op.r2));
    let new = raised_rpl(selector, by);
    cpu.flags.set_zf(new.is_some());
    if let Some(v) = new {
        Half::set(&mut cpu.regs, op.r1, v);
    }
    Ok(Out::Next)
}
/// A selector that stays what it is is not written: the operand may be read-only then.
fn arpl_mem(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.need_protected()?;
    let by = Half::get(&cpu.regs, op.r2);
    let new = raised_rpl(cpu.load::<Half>(op)?, by);
    if let Some(v) = new {
        cpu.store::<Half>(op, v)?;
    }
    cpu.flags.set_zf(new.is_some());
    Ok(Out::Next)
}

pub(crate) fn bound(i: &Instruction) -> Option<Handler> {
    Some(match i.op0_register().size() {
        _ if i.op0_register() == Register::None => return None,
        2 => run_bound::<Half>,
        _ => run_bound::<Dword>,
    })
}
/// Signed, both bounds included. The upper one is read only if the lower one holds (hardware does).
fn run_bound<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let size = u32::from(W::SIZE);
    let va = cpu.readable_at(op, size)?;
    let lower = cpu.read::<W>(va)?;
    let signed = |v: u32| W::sign_extend(v) as i32;
    let index = signed(W::get(&cpu.regs, op.r1));
    if index < signed(lower) {
        return Err(cpu.raise_fault(Fault::plain(fault::BR)));
    }
    let va = cpu.readable_part(op, size, size)?;
    let upper = cpu.read::<W>(va)?;
    if index > signed(upper) {
        return Err(cpu.raise_fault(Fault::plain(fault::BR)));
    }
    Ok(Out::Next)
}
