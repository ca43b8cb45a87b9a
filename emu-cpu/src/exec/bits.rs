//! Bit tests and scans.
//!
//! A bit test with a register index and a memory operand addresses memory beyond the operand; only
//! CF changes. A scan of zero sets ZF and leaves the destination (undefined in the manual, so on
//! every P6 and later). The other flags of a scan are undefined and left alone.

use super::{Kind, by_wide_size, kinds};
use crate::cpu::Cpu;
use crate::exec::access::Want;
use crate::op::{Exec, Handler, Op, Out};
use crate::segment::Seg;
use crate::word::Word;
use emu_mmu::VirtAddr;
use iced_x86::Instruction;

/// What is done to the bit: `None` for a plain test.
trait Change: 'static {
    const STORES: bool;
    fn change(value: u32, bit: u32) -> u32;
}
macro_rules! changes {
    ($($name:ident, $pick:ident, $stores:literal, |$v:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl Change for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn change($v: u32, $b: u32) -> u32 {
                $body
            }
        }
        pub(crate) fn $pick(i: &Instruction) -> Option<Handler> {
            pick::<$name>(i)
        }
    )*};
}
changes! {
    Bt,  bt,  false, |v, _b| v;
    Bts, bts, true,  |v, b| v | b;
    Btr, btr, true,  |v, b| v & !b;
    Btc, btc, true,  |v, b| v ^ b;
}

fn pick<C: Change>(i: &Instruction) -> Option<Handler> {
    let bytes = match kinds(i).0 {
        Kind::Reg => i.op0_register().size(),
        _ => i.memory_size().size(),
    };
    Some(match kinds(i) {
        (Kind::Reg, Kind::Reg) => by_wide_size!(bytes, reg_reg, C),
        (Kind::Reg, Kind::Imm) => by_wide_size!(bytes, reg_imm, C),
        (Kind::Mem, Kind::Reg) => by_wide_size!(bytes, mem_reg, C),
        (Kind::Mem, Kind::Imm) => by_wide_size!(bytes, mem_imm, C),
        _ => return None,
    })
}
#[inline(always)]
fn on_reg<C: Change, W: Word>(cpu: &mut Cpu, op: &Op, index: u32) -> Exec {
    let a = W::get(&cpu.regs, op.r1);
    let n = index & (W::BITS - 1);
    cpu.flags.set_cf(a >> n & 1 != 0);
    if C::STORES {
        W::set(&mut cpu.regs, op.r1, C::change(a, 1 << n));
    }
    Ok(Out::Next)
}
#[inline(always)]
fn on_mem<C: Change, W: Word>(cpu: &mut Cpu, va: VirtAddr, index: u32) -> Exec {
    let n = index & (W::BITS - 1);
    let old = if C::STORES {
        cpu.modify::<W>(va, |_, a| Some(C::change(a, 1 << n)))?
    } else {
        cpu.read::<W>(va)?
    };
    cpu.flags.set_cf(old >> n & 1 != 0);
    Ok(Out::Next)
}
fn reg_reg<C: Change, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let index = W::get(&cpu.regs, op.r2);
    on_reg::<C, W>(cpu, op, index)
}
fn reg_imm<C: Change, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    on_reg::<C, W>(cpu, op, op.imm)
}
fn mem_imm<C: Change, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let va = address::<C, W>(cpu, op, 0)?;
    on_mem::<C, W>(cpu, va, op.imm)
}
fn mem_reg<C: Change, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let index = W::sign_extend(W::get(&cpu.regs, op.r2)) as i32;
    let words = index >> W::BITS.trailing_zeros();
    let va = address::<C, W>(cpu, op, (words * i32::from(W::SIZE)) as u32)?;
    on_mem::<C, W>(cpu, va, index as u32)
}
#[inline(always)]
fn address<C: Change, W: Word>(
    cpu: &mut Cpu,
    op: &Op,
    beyond: u32,
) -> Result<VirtAddr, crate::fault::Raised> {
    let size = u32::from(W::SIZE);
    if op.seg & crate::op::ADDR16 != 0 {
        let want = if C::STORES { Want::Write } else { Want::Read };
        let offset = cpu.offset(op).wrapping_add(beyond) & 0xffff;
        return cpu.linear(Seg::ALL[usize::from(op.seg & 7)], offset, size, want);
    }
    let moved = Op {
        disp: op.disp.wrapping_add(beyond),
        ..*op
    };
    if C::STORES {
        cpu.writable_at(&moved, size)
    } else {
        cpu.readable_at(&moved, size)
    }
}

pub(crate) fn bsf(i: &Instruction) -> Option<Handler> {
    let bytes = i.op0_register().size();
    Some(match kinds(i).1 {
        Kind::Reg => by_wide_size!(bytes, bsf_reg),
        Kind::Mem => by_wide_size!(bytes, bsf_mem),
        _ => return None,
    })
}
pub(crate) fn bsr(i: &Instruction) -> Option<Handler> {
    let bytes = i.op0_register().size();
    Some(match kinds(i).1 {
        Kind::Reg => by_wide_size!(bytes, bsr_reg),
        Kind::Mem => by_wide_size!(bytes, bsr_mem),
        _ => return None,
    })
}
#[inline(always)]
fn scanned<W: Word>(cpu: &mut Cpu, op: &Op, found: Option<u32>) -> Exec {
    cpu.flags.set_zf(found.is_none());
    if let Some(n) = found {
        W::set(&mut cpu.regs, op.r1, n);
    }
    Ok(Out::Next)
}
fn lowest(a: u32) -> Option<u32> {
    (a != 0).then(|| a.trailing_zeros())
}
fn highest(a: u32) -> Option<u32> {
    (a != 0).then(|| 31 - a.leading_zeros())
}
fn bsf_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = W::get(&cpu.regs, op.r2);
    scanned::<W>(cpu, op, lowest(a))
}
fn bsf_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = cpu.load::<W>(op)?;
    scanned::<W>(cpu, op, lowest(a))
}
fn bsr_reg<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = W::get(&cpu.regs, op.r2);
    scanned::<W>(cpu, op, highest(a))
}
fn bsr_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = cpu.load::<W>(op)?;
    scanned::<W>(cpu, op, highest(a))
}
