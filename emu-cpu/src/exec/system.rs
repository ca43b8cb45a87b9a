//! Flag instructions and system instructions.
//!
//! Instructions that change CPL or side answer [`Out::Far`] and have counted themselves. `sti` is
//! no interrupt point (see `tick`), which is its one-instruction shadow: the next point comes after
//! the next instruction at the earliest.

use super::protect::half_operand;
use super::{Kind, by_wide_size, kind};
use crate::cpu::{CR0_EM, CR0_MP, CR0_PE, CR0_TS, CR4_PCE, CR4_TSD, Cpu};
use crate::fault::{self, Fault, Raised};
use crate::flags::{AF, CF, DF, IF, IOPL, PF, SF, ZF};
use crate::op::{ADDR16, Exec, Handler, Op, Out};
use crate::regs::{EAX, ECX, EDX};
use crate::segment::TableRegister;
use crate::word::{Dword, Half, Word};
use emu_mmu::VirtAddr;
use iced_x86::{Code, Instruction};

macro_rules! plain {
    ($($pick:ident, $run:ident, |$cpu:ident| $body:expr;)*) => {$(
        pub(crate) fn $pick(_: &Instruction) -> Option<Handler> {
            Some($run)
        }
        fn $run($cpu: &mut Cpu, _op: &Op) -> Exec {
            $body
        }
    )*};
}

plain! {
    clc, run_clc, |cpu| {
        cpu.flags.set_cf(false);
        Ok(Out::Next)
    };
    stc, run_stc, |cpu| {
        cpu.flags.set_cf(true);
        Ok(Out::Next)
    };
    cmc, run_cmc, |cpu| {
        let cf = cpu.flags.cf();
        cpu.flags.set_cf(!cf);
        Ok(Out::Next)
    };
    cld, run_cld, |cpu| {
        cpu.other_flags &= !DF;
        Ok(Out::Next)
    };
    std, run_std, |cpu| {
        cpu.other_flags |= DF;
        Ok(Out::Next)
    };
    lahf, run_lahf, |cpu| {
        let v = cpu.flags.arith() & (SF | ZF | AF | PF | CF) | 2;
        cpu.regs.set8(4, v);
        Ok(Out::Next)
    };
    sahf, run_sahf, |cpu| {
        const LOW: u32 = SF | ZF | AF | PF | CF;
        let v = cpu.flags.arith() & !LOW | cpu.regs.get8(4) & LOW;
        cpu.flags.set_arith(v);
        Ok(Out::Next)
    };
    cli, run_cli, |cpu| {
        need_iopl(cpu)?;
        cpu.other_flags &= !IF;
        Ok(Out::Next)
    };
    sti, run_sti, |cpu| {
        need_iopl(cpu)?;
        if cpu.other_flags & IF == 0 {
            cpu.if_sets += 1;
            cpu.other_flags |= IF;
        }
        Ok(Out::Next)
    };
    fence, run_fence, |_cpu| Ok(Out::Next);
    ud, run_ud, |cpu| Err(cpu.ud());
    hlt, run_hlt, |cpu| {
        cpu.need_cpl0()?;
        Ok(Out::Halt)
    };
    rdtsc, run_rdtsc, |cpu| {
        if cpu.cpl != 0 && cpu.cr4 & CR4_TSD != 0 {
            return Err(cpu.gp(0));
        }
        let v = cpu.tsc();
        cpu.regs[EAX] = v as u32;
        cpu.regs[EDX] = (v >> 32) as u32;
        Ok(Out::Next)
    };
    cpuid, run_cpuid, |cpu| {
        cpu.identify();
        Ok(Out::Serial)
    };
    rdmsr, run_rdmsr, |cpu| {
        cpu.need_cpl0()?;
        cpu.read_msr()?;
        Ok(Out::Next)
    };
    wrmsr, run_wrmsr, |cpu| {
        cpu.need_cpl0()?;
        cpu.write_msr()?;
        Ok(Out::Serial)
    };
    clts, run_clts, |cpu| {
        cpu.need_cpl0()?;
        let v = cpu.cr0 & !CR0_TS;
        cpu.load_cr0(v)?;
        Ok(Out::Serial)
    };
    wbinvd, run_wbinvd, |cpu| {
        cpu.need_cpl0()?;
        Ok(Out::Serial)
    };
    rdpmc, run_rdpmc, |cpu| {
        if cpu.cpl != 0 && cpu.cr4 & CR4_PCE == 0 {
            return Err(cpu.gp(0));
        }
        // Two counters that nothing can start (their event MSRs do not exist): zero.
        if cpu.regs[ECX] > 1 {
            return Err(cpu.gp(0));
        }
        cpu.regs[EAX] = 0;
        cpu.regs[EDX] = 0;
        Ok(Out::Next)
    };
    wait, run_wait, |cpu| {
        const BOTH: u32 = CR0_MP | CR0_TS;
        if cpu.cr0 & BOTH == BOTH {
            return Err(cpu.raise_fault(Fault::plain(fault::NM)));
        }
        Ok(Out::Next)
    };
    sysenter, run_sysenter, |cpu| cpu.sysenter();
    sysexit, run_sysexit, |cpu| cpu.sysexit();
}

/// #UD is an ordinary handler so that undecodable bytes are fetched and counted like an
/// instruction.
pub(crate) fn undefined(cpu: &mut Cpu, _: &Op) -> Exec {
    Err(cpu.ud())
}

/// An escape to a coprocessor that is not there: #NM where CR0 asks for it, else #UD (CPUID has no
/// FPU).
pub(crate) fn x87(cpu: &mut Cpu, _: &Op) -> Exec {
    if cpu.cr0 & (CR0_EM | CR0_TS) != 0 {
        return Err(cpu.raise_fault(Fault::plain(fault::NM)));
    }
    Err(cpu.ud())
}

fn need_iopl(cpu: &mut Cpu) -> Result<(), Raised> {
    if u32::from(cpu.cpl) <= (cpu.other_flags & IOPL) >> 12 {
        Ok(())
    } else {
        Err(cpu.gp(0))
    }
}

pub(crate) fn int(_: &Instruction) -> Option<Handler> {
    Some(run_int)
}
fn run_int(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.v86() && cpu.other_flags & IOPL != IOPL {
        return Err(cpu.gp(0));
    }
    cpu.software_interrupt(op.imm as u8, op.len)
}
pub(crate) fn int3(_: &Instruction) -> Option<Handler> {
    Some(run_int3)
}
/// Prefixes count: the address after them is pushed.
fn run_int3(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.software_interrupt(fault::BP, op.len)
}
pub(crate) fn into(_: &Instruction) -> Option<Handler> {
    Some(run_into)
}
fn run_into(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.flags.of() {
        cpu.software_interrupt(fault::OFLOW, op.len)
    } else {
        Ok(Out::Next)
    }
}
pub(crate) fn int1(_: &Instruction) -> Option<Handler> {
    Some(run_int1)
}
fn run_int1(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.int1(op.len)
}
pub(crate) fn iret(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Iretw => crate::returns::iret::<Half>,
        Code::Iretd => crate::returns::iret::<Dword>,
        _ => return None,
    })
}

pub(crate) fn lgdt(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Lgdt_m1632 => run_lgdt::<Dword>,
        Code::Lgdt_m1632_16 => run_lgdt::<Half>,
        _ => return None,
    })
}
pub(crate) fn lidt(i: &Instruction) -> Option<Handler> {
    Some(match i.code() {
        Code::Lidt_m1632 => run_lidt::<Dword>,
        Code::Lidt_m1632_16 => run_lidt::<Half>,
        _ => return None,
    })
}
/// With 16-bit operand size the base has 24 bits.
fn load_table<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<TableRegister, Raised> {
    cpu.need_cpl0()?;
    let va = cpu.readable_at(op, 6)?;
    let limit = cpu.read::<Half>(va)? as u16;
    let mut base = cpu.read::<Dword>(va.wrapping_add(2))?;
    if W::SIZE == 2 {
        base &= 0x00ff_ffff;
    }
    Ok(TableRegister { base, limit })
}
fn run_lgdt<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.gdtr = load_table::<W>(cpu, op)?;
    Ok(Out::Serial)
}
fn run_lidt<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.idtr = load_table::<W>(cpu, op)?;
    Ok(Out::Serial)
}
pub(crate) fn sgdt(_: &Instruction) -> Option<Handler> {
    Some(run_sgdt)
}
pub(crate) fn sidt(_: &Instruction) -> Option<Handler> {
    Some(run_sidt)
}
fn store_table(cpu: &mut Cpu, op: &Op, table: TableRegister) -> Exec {
    let va: VirtAddr = cpu.writable_at(op, 6)?;
    cpu.write::<Half>(va, u32::from(table.limit))?;
    cpu.write::<Dword>(va.wrapping_add(2), table.base)?;
    Ok(Out::Next)
}
fn run_sgdt(cpu: &mut Cpu, op: &Op) -> Exec {
    let table = cpu.gdtr;
    store_table(cpu, op, table)
}
fn run_sidt(cpu: &mut Cpu, op: &Op) -> Exec {
    let table = cpu.idtr;
    store_table(cpu, op, table)
}

macro_rules! store_half {
    ($($pick:ident, $reg:ident, $mem:ident, |$cpu:ident| $check:block $value:expr;)*) => {$(
        pub(crate) fn $pick(i: &Instruction) -> Option<Handler> {
            Some(match kind(i, 0) {
                Kind::Reg => by_wide_size!(i.op0_register().size(), $reg),
                Kind::Mem => $mem,
                _ => return None,
            })
        }
        fn $reg<W: Word>($cpu: &mut Cpu, op: &Op) -> Exec {
            $check
            let v = $value;
            W::set(&mut $cpu.regs, op.r1, v);
            Ok(Out::Next)
        }
        fn $mem($cpu: &mut Cpu, op: &Op) -> Exec {
            $check
            let v = $value;
            $cpu.store::<Half>(op, v & 0xffff)?;
            Ok(Out::Next)
        }
    )*};
}
store_half! {
    sldt, sldt_reg, sldt_mem, |cpu| { cpu.need_protected()?; } u32::from(cpu.ldtr.selector);
    str, str_reg, str_mem, |cpu| { cpu.need_protected()?; } u32::from(cpu.tr.selector);
    smsw, smsw_reg, smsw_mem, |cpu| {} cpu.cr0;
}

pub(crate) fn lmsw(_: &Instruction) -> Option<Handler> {
    Some(run_lmsw)
}
fn run_lmsw(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.need_cpl0()?;
    let v = u32::from(half_operand(cpu, op)?);
    const LOW: u32 = CR0_MP | CR0_EM | CR0_TS;
    // lmsw can set PE but not clear it.
    let new = cpu.cr0 & !LOW | v & (LOW | CR0_PE);
    cpu.load_cr0(new)?;
    Ok(Out::Serial)
}

pub(crate) fn invlpg(i: &Instruction) -> Option<Handler> {
    (kind(i, 0) == Kind::Mem).then_some(run_invlpg as Handler)
}
fn run_invlpg(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.need_cpl0()?;
    // No access is made, so no rights or limits are checked.
    let base = cpu.segs[usize::from(op.seg & 7)].base;
    let mut offset = cpu.offset(op);
    if op.seg & ADDR16 != 0 {
        offset &= 0xffff;
    }
    let va = VirtAddr(base.wrapping_add(offset));
    cpu.mmu.invlpg(va);
    Ok(Out::Serial)
}

/// More than fifteen bytes: #GP(0).
pub(crate) fn too_long(cpu: &mut Cpu, _: &Op) -> Exec {
    Err(cpu.gp(0))
}
