//! Shifts and rotates.
//!
//! Counts are taken modulo 32; a count of 0 changes no flag. Where the manual leaves OF undefined
//! (counts above 1) the formula of count 1 is applied to the last step, as P6 and later do.

use super::{Kind, by_size, by_wide_size, kind, kinds};
use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::ECX;
use crate::word::Word;
use iced_x86::Instruction;

/// A shift or rotate by a count of 1 to 31.
pub(crate) trait Shift: 'static {
    fn run<W: Word>(flags: &mut Flags, a: u32, count: u32) -> u32;
}

macro_rules! shifts {
    ($($name:ident, |$f:ident, $a:ident, $n:ident| $body:expr;)*) => {$(
        #[derive(Debug)]
        pub(crate) struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn run<W: Word>($f: &mut Flags, $a: u32, $n: u32) -> u32 {
                $body
            }
        }
    )*};
}

shifts! {
    Shl, |f, a, n| {
        let wide = u64::from(a) << n;
        let r = wide as u32 & W::MASK;
        let cf = wide >> W::BITS & 1 != 0;
        f.shift::<W>(r, cf, cf ^ (r & W::SIGN != 0));
        r
    };
    Shr, |f, a, n| {
        let r = a >> n;
        f.shift::<W>(r, a >> (n - 1) & 1 != 0, (r << 1 ^ r) & W::SIGN != 0);
        r
    };
    Sar, |f, a, n| {
        let wide = W::sign_extend(a) as i32;
        let r = (wide >> n) as u32 & W::MASK;
        f.shift::<W>(r, wide >> (n - 1) & 1 != 0, false);
        r
    };
    Rol, |f, a, n| {
        let k = n % W::BITS;
        let r = if k == 0 { a } else { (a << k | a >> (W::BITS - k)) & W::MASK };
        let cf = r & 1 != 0;
        f.set_cf_of(cf, cf ^ (r & W::SIGN != 0));
        r
    };
    Ror, |f, a, n| {
        let k = n % W::BITS;
        let r = if k == 0 { a } else { (a >> k | a << (W::BITS - k)) & W::MASK };
        f.set_cf_of(r & W::SIGN != 0, (r ^ r << 1) & W::SIGN != 0);
        r
    };
    Rcl, |f, a, n| {
        let k = n % (W::BITS + 1);
        let all = u64::from(f.cf()) << W::BITS | u64::from(a);
        if k == 0 {
            return a;
        }
        let turned = all << k | all >> (W::BITS + 1 - k);
        let r = turned as u32 & W::MASK;
        let cf = turned >> W::BITS & 1 != 0;
        f.set_cf_of(cf, cf ^ (r & W::SIGN != 0));
        r
    };
    Rcr, |f, a, n| {
        let k = n % (W::BITS + 1);
        let all = u64::from(f.cf()) << W::BITS | u64::from(a);
        if k == 0 {
            return a;
        }
        let turned = all >> k | all << (W::BITS + 1 - k);
        let r = turned as u32 & W::MASK;
        f.set_cf_of(turned >> W::BITS & 1 != 0, (r ^ r << 1) & W::SIGN != 0);
        r
    };
}

pub(crate) fn pick<S: Shift>(i: &Instruction) -> Option<Handler> {
    let bytes = match kind(i, 0) {
        Kind::Reg => i.op0_register().size(),
        _ => i.memory_size().size(),
    };
    Some(match kinds(i) {
        (Kind::Reg, Kind::Imm) => by_size!(bytes, reg_imm, S),
        (Kind::Reg, Kind::Reg) => by_size!(bytes, reg_cl, S),
        (Kind::Mem, Kind::Imm) => by_size!(bytes, mem_imm, S),
        (Kind::Mem, Kind::Reg) => by_size!(bytes, mem_cl, S),
        _ => return None,
    })
}

#[inline(always)]
fn by<S: Shift, W: Word>(flags: &mut Flags, a: u32, count: u32) -> u32 {
    match count & 31 {
        0 => a,
        n => S::run::<W>(flags, a, n),
    }
}
#[inline(always)]
fn on_reg<S: Shift, W: Word>(cpu: &mut Cpu, op: &Op, count: u32) -> Exec {
    let a = W::get(&cpu.regs, op.r1);
    let r = by::<S, W>(&mut cpu.flags, a, count);
    W::set(&mut cpu.regs, op.r1, r);
    Ok(Out::Next)
}
#[inline(always)]
fn on_mem<S: Shift, W: Word>(cpu: &mut Cpu, op: &Op, count: u32) -> Exec {
    let va = cpu.writable_at(op, u32::from(W::SIZE))?;
    cpu.modify::<W>(va, |flags, a| Some(by::<S, W>(flags, a, count)))?;
    Ok(Out::Next)
}
fn reg_imm<S: Shift, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    on_reg::<S, W>(cpu, op, op.imm)
}
fn reg_cl<S: Shift, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = cpu.regs[ECX];
    on_reg::<S, W>(cpu, op, count)
}
fn mem_imm<S: Shift, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    on_mem::<S, W>(cpu, op, op.imm)
}
fn mem_cl<S: Shift, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = cpu.regs[ECX];
    on_mem::<S, W>(cpu, op, count)
}

/// `dest` shifted, bits coming in from `fill`. 16-bit counts above 16 (undefined) go on with `dest`
/// itself.
trait Double: 'static {
    fn run<W: Word>(flags: &mut Flags, dest: u32, fill: u32, n: u32) -> u32;
}
struct Left;
struct Right;
impl Double for Left {
    #[inline(always)]
    fn run<W: Word>(flags: &mut Flags, dest: u32, fill: u32, n: u32) -> u32 {
        // dest:fill:dest, so that 16-bit counts above 16 find something to shift in.
        let bits = W::BITS;
        let all = u128::from(dest) << (2 * bits) | u128::from(fill) << bits | u128::from(dest);
        let turned = all << n;
        let r = (turned >> (2 * bits)) as u32 & W::MASK;
        let cf = turned >> (3 * bits) & 1 != 0;
        flags.shift::<W>(r, cf, (r ^ dest) & W::SIGN != 0);
        r
    }
}
impl Double for Right {
    #[inline(always)]
    fn run<W: Word>(flags: &mut Flags, dest: u32, fill: u32, n: u32) -> u32 {
        let bits = W::BITS;
        let all = u128::from(dest) << (2 * bits) | u128::from(fill) << bits | u128::from(dest);
        let r = (all >> n) as u32 & W::MASK;
        let cf = all >> (n - 1) & 1 != 0;
        flags.shift::<W>(r, cf, (r ^ dest) & W::SIGN != 0);
        r
    }
}

pub(crate) fn shld(i: &Instruction) -> Option<Handler> {
    pick_double::<Left>(i)
}
pub(crate) fn shrd(i: &Instruction) -> Option<Handler> {
    pick_double::<Right>(i)
}
fn pick_double<D: Double>(i: &Instruction) -> Option<Handler> {
    let bytes = i.op1_register().size();
    Some(match (kind(i, 0), kind(i, 2)) {
        (Kind::Reg, Kind::Imm) => by_wide_size!(bytes, double_reg_imm, D),
        (Kind::Reg, Kind::Reg) => by_wide_size!(bytes, double_reg_cl, D),
        (Kind::Mem, Kind::Imm) => by_wide_size!(bytes, double_mem_imm, D),
        (Kind::Mem, Kind::Reg) => by_wide_size!(bytes, double_mem_cl, D),
        _ => return None,
    })
}
#[inline(always)]
fn double_by<D: Double, W: Word>(flags: &mut Flags, a: u32, fill: u32, count: u32) -> u32 {
    match count & 31 {
        0 => a,
        n => D::run::<W>(flags, a, fill, n),
    }
}
fn double_reg<D: Double, W: Word>(cpu: &mut Cpu, op: &Op, count: u32) -> Exec {
    let (a, fill) = (W::get(&cpu.regs, op.r1), W::get(&cpu.regs, op.r2));
    let r = double_by::<D, W>(&mut cpu.flags, a, fill, count);
    W::set(&mut cpu.regs, op.r1, r);
    Ok(Out::Next)
}
fn double_mem<D: Double, W: Word>(cpu: &mut Cpu, op: &Op, count: u32) -> Exec {
    let va = cpu.writable_at(op, u32::from(W::SIZE))?;
    let fill = W::get(&cpu.regs, op.r2);
    cpu.modify::<W>(va, |flags, a| {
        Some(double_by::<D, W>(flags, a, fill, count))
    })?;
    Ok(Out::Next)
}
fn double_reg_imm<D: Double, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    double_reg::<D, W>(cpu, op, op.imm)
}
fn double_reg_cl<D: Double, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = cpu.regs[ECX];
    double_reg::<D, W>(cpu, op, count)
}
fn double_mem_imm<D: Double, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    double_mem::<D, W>(cpu, op, op.imm)
}
fn double_mem_cl<D: Double, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = cpu.regs[ECX];
    double_mem::<D, W>(cpu, op, count)
}
