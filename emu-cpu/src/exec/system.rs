//! Flag instructions, system instructions, ports.
//!
//! Instructions that change CPL or side answer [`Out::Far`] and have counted themselves. `sti` is
//! no interrupt point (see `tick`), which is its one-instruction shadow: the next point comes after
//! the next instruction at the earliest.

use super::{Kind, by_wide_size, kind};
use crate::cpu::{CR0_EM, CR0_MP, CR0_PE, CR0_TS, CR4_TSD, Cpu};
use crate::fault::{self, Raised};
use crate::flags::{AF, CF, DF, IF, IOPL, PF, SF, ZF};
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::{EAX, EDX};
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
    int3, run_int3, |cpu| cpu.software_interrupt(fault::BP, 1);
    sysenter, run_sysenter, |cpu| cpu.sysenter();
    sysexit, run_sysexit, |cpu| cpu.sysexit();
}

/// #UD is an ordinary handler so that undecodable bytes are fetched and counted like an
/// instruction.
pub(crate) fn undefined(cpu: &mut Cpu, _: &Op) -> Exec {
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
    cpu.software_interrupt(op.imm as u8, op.len)
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
pub(crate) fn iret(_: &Instruction) -> Option<Handler> {
    Some(crate::transfer::iret)
}

/// Ports: `imm` or DX; the engine asks the bus after this check.
fn need_port(cpu: &mut Cpu, port: u16, size: u32) -> Result<(), Raised> {
    if u32::from(cpu.cpl) <= (cpu.other_flags & IOPL) >> 12 {
        return Ok(());
    }
    // The I/O permission bitmap: one bit per port, 0 allows; two bytes are always read.
    let tr = cpu.tr;
    if !tr.usable() || tr.limit < 0x67 {
        return Err(cpu.gp(0));
    }
    let map = cpu.system_read(tr.base.wrapping_add(0x66), 2)? as u32;
    let at = map + u32::from(port >> 3);
    if at + 1 > tr.limit {
        return Err(cpu.gp(0));
    }
    let bits = cpu.system_read(tr.base.wrapping_add(at), 2)? as u32 >> (port & 7);
    if bits & ((1 << size) - 1) != 0 {
        return Err(cpu.gp(0));
    }
    Ok(())
}
/// `x` holds the size; bit 7 says that the port is an immediate.
pub(crate) fn port_of(cpu: &Cpu, op: &Op) -> (u16, u8) {
    let port = if op.x & 0x80 != 0 {
        op.imm as u16
    } else {
        cpu.regs[EDX] as u16
    };
    (port, op.x & 7)
}
pub(crate) fn port_in(_: &Instruction) -> Option<Handler> {
    Some(run_in)
}
pub(crate) fn port_out(_: &Instruction) -> Option<Handler> {
    Some(run_out)
}
fn run_in(cpu: &mut Cpu, op: &Op) -> Exec {
    let (port, size) = port_of(cpu, op);
    need_port(cpu, port, u32::from(size))?;
    Ok(Out::Input)
}
fn run_out(cpu: &mut Cpu, op: &Op) -> Exec {
    let (port, size) = port_of(cpu, op);
    need_port(cpu, port, u32::from(size))?;
    Ok(Out::Output)
}

pub(crate) fn lgdt(i: &Instruction) -> Option<Handler> {
    (i.code() == Code::Lgdt_m1632).then_some(run_lgdt as Handler)
}
pub(crate) fn lidt(i: &Instruction) -> Option<Handler> {
    (i.code() == Code::Lidt_m1632).then_some(run_lidt as Handler)
}
fn load_table(cpu: &mut Cpu, op: &Op) -> Result<TableRegister, Raised> {
    cpu.need_cpl0()?;
    let va = cpu.readable_at(op, 6)?;
    let limit = cpu.read::<Half>(va)? as u16;
    let base = cpu.read::<Dword>(va.wrapping_add(2))?;
    Ok(TableRegister { base, limit })
}
fn run_lgdt(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.gdtr = load_table(cpu, op)?;
    Ok(Out::Serial)
}
fn run_lidt(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.idtr = load_table(cpu, op)?;
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

/// A 16-bit operand that is a register or memory.
fn half_operand(cpu: &mut Cpu, op: &Op) -> Result<u16, Raised> {
    let v = if op.x == 1 {
        Half::get(&cpu.regs, op.r1)
    } else {
        cpu.load::<Half>(op)?
    };
    Ok(v as u16)
}
pub(crate) fn lldt(_: &Instruction) -> Option<Handler> {
    Some(run_lldt)
}
fn run_lldt(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.need_cpl0()?;
    let selector = half_operand(cpu, op)?;
    cpu.load_ldt(selector)?;
    Ok(Out::Serial)
}
pub(crate) fn ltr(_: &Instruction) -> Option<Handler> {
    Some(run_ltr)
}
fn run_ltr(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.need_cpl0()?;
    let selector = half_operand(cpu, op)?;
    cpu.load_task(selector)?;
    Ok(Out::Serial)
}

macro_rules! store_half {
    ($($pick:ident, $reg:ident, $mem:ident, |$cpu:ident| $value:expr;)*) => {$(
        pub(crate) fn $pick(i: &Instruction) -> Option<Handler> {
            Some(match kind(i, 0) {
                Kind::Reg => by_wide_size!(i.op0_register().size(), $reg),
                Kind::Mem => $mem,
                _ => return None,
            })
        }
        fn $reg<W: Word>($cpu: &mut Cpu, op: &Op) -> Exec {
            let v = $value;
            W::set(&mut $cpu.regs, op.r1, v);
            Ok(Out::Next)
        }
        fn $mem($cpu: &mut Cpu, op: &Op) -> Exec {
            let v = $value;
            $cpu.store::<Half>(op, v & 0xffff)?;
            Ok(Out::Next)
        }
    )*};
}
store_half! {
    sldt, sldt_reg, sldt_mem, |cpu| u32::from(cpu.ldtr.selector);
    str, str_reg, str_mem, |cpu| u32::from(cpu.tr.selector);
    smsw, smsw_reg, smsw_mem, |cpu| cpu.cr0;
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
    let va = VirtAddr(base.wrapping_add(cpu.offset(op)));
    cpu.mmu.invlpg(va);
    Ok(Out::Serial)
}

/// More than fifteen bytes: #GP(0).
pub(crate) fn too_long(cpu: &mut Cpu, _: &Op) -> Exec {
    Err(cpu.gp(0))
}
