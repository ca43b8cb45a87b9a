//! String instructions.
//!
//! With a repeat prefix each element is done and its progress kept in ECX, ESI and EDI, so that a
//! fault restarts where it happened; interrupts are never taken inside (D4). Elements count as they
//! are done, the instruction when it retires. Ascending `rep stos` and
//! `rep movs` over flat segments go a page at a time through the MMU, which counts every element.

use crate::cpu::Cpu;
use crate::exec::access::Want;
use crate::exec::alu::{Alu, Cmp};
use crate::exec::by_size;
use crate::fault::Raised;
use crate::flags::DF;
use crate::op::{Exec, Handler, Op, Out, REP, REPNE};
use crate::regs::{EAX, ECX, EDI, ESI};
use crate::segment::Seg;
use crate::word::Word;
use emu_mmu::{Span, VirtAddr};
use iced_x86::{Instruction, OpKind};
use lowmem_cost::Event;

/// Element size, if the instruction uses ESI, EDI and ECX (16-bit addressing is #UD).
fn element(i: &Instruction) -> Option<usize> {
    let wide = |k: OpKind| {
        !matches!(
            k,
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI
        )
    };
    (0..i.op_count())
        .all(|n| wide(i.op_kind(n)))
        .then(|| i.memory_size().size())
}
pub(crate) fn movs(i: &Instruction) -> Option<Handler> {
    Some(by_size!(element(i)?, run_movs))
}
pub(crate) fn stos(i: &Instruction) -> Option<Handler> {
    Some(by_size!(element(i)?, run_stos))
}
pub(crate) fn lods(i: &Instruction) -> Option<Handler> {
    Some(by_size!(element(i)?, run_lods))
}
pub(crate) fn scas(i: &Instruction) -> Option<Handler> {
    Some(by_size!(element(i)?, run_scas))
}
pub(crate) fn cmps(i: &Instruction) -> Option<Handler> {
    Some(by_size!(element(i)?, run_cmps))
}

#[inline(always)]
fn step<W: Word>(cpu: &Cpu) -> u32 {
    let size = u32::from(W::SIZE);
    if cpu.other_flags & DF == 0 {
        size
    } else {
        size.wrapping_neg()
    }
}
fn source<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<VirtAddr, Raised> {
    let esi = cpu.regs[ESI];
    let seg = Seg::ALL[usize::from(op.seg & 7)];
    cpu.linear(seg, esi, u32::from(W::SIZE), Want::Read)
}
fn target<W: Word>(cpu: &mut Cpu, want: Want) -> Result<VirtAddr, Raised> {
    let edi = cpu.regs[EDI];
    cpu.linear(Seg::Es, edi, u32::from(W::SIZE), want)
}
#[inline(always)]
fn advance<W: Word>(cpu: &mut Cpu, register: usize) {
    cpu.regs[register] = cpu.regs[register].wrapping_add(step::<W>(cpu));
}

/// Does `element` once, or ECX times; `element` says whether to go on. Counts `event` by `weight`
/// per element of a rep.
#[inline(always)]
fn repeat(
    cpu: &mut Cpu,
    op: &Op,
    event: Event,
    weight: u64,
    mut element: impl FnMut(&mut Cpu) -> Result<bool, Raised>,
) -> Exec {
    if op.x == 0 {
        element(cpu)?;
        return Ok(Out::Next);
    }
    while cpu.regs[ECX] != 0 {
        let more = element(cpu)?;
        cpu.mmu.account.add(event, weight);
        cpu.regs[ECX] -= 1;
        if !more {
            break;
        }
    }
    Ok(Out::Next)
}

/// Takes over what a page-sized span did.
fn spanned<W: Word>(
    cpu: &mut Cpu,
    span: Span,
    event: Event,
    moves: &[usize],
) -> Result<(), Raised> {
    let bytes = span.done * u32::from(W::SIZE);
    cpu.mmu.account.add(event, u64::from(bytes));
    for &register in moves {
        cpu.regs[register] = cpu.regs[register].wrapping_add(bytes);
    }
    cpu.regs[ECX] -= span.done;
    match span.fault {
        Some(f) => Err(cpu.page_fault(f)),
        None => Ok(()),
    }
}
/// Segments `segs` are flat and the direction is up.
fn spans_apply(cpu: &Cpu, op: &Op, reads: u32) -> bool {
    op.x != 0
        && cpu.other_flags & DF == 0
        && cpu.flat_writes >> Seg::Es as u8 & 1 != 0
        && cpu.flat_reads & reads == reads
}

fn run_movs<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    if spans_apply(cpu, op, 1 << (op.seg & 7)) {
        while cpu.regs[ECX] != 0 {
            let (to, from) = (VirtAddr(cpu.regs[EDI]), VirtAddr(cpu.regs[ESI]));
            let span = cpu
                .mmu
                .rep_movs(to, from, W::SIZE, cpu.regs[ECX], cpu.privilege);
            spanned::<W>(cpu, span, Event::RepMovsBytes, &[ESI, EDI])?;
        }
        return Ok(Out::Next);
    }
    repeat(cpu, op, Event::RepMovsBytes, u64::from(W::SIZE), |cpu| {
        let from = source::<W>(cpu, op)?;
        let to = target::<W>(cpu, Want::Write)?;
        let v = cpu.read::<W>(from)?;
        cpu.write::<W>(to, v)?;
        advance::<W>(cpu, ESI);
        advance::<W>(cpu, EDI);
        Ok(true)
    })
}
fn run_stos<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = W::get(&cpu.regs, EAX as u8);
    if spans_apply(cpu, op, 0) {
        while cpu.regs[ECX] != 0 {
            let to = VirtAddr(cpu.regs[EDI]);
            let span = cpu
                .mmu
                .rep_stos(to, W::SIZE, cpu.regs[ECX], v, cpu.privilege);
            spanned::<W>(cpu, span, Event::RepStosBytes, &[EDI])?;
        }
        return Ok(Out::Next);
    }
    repeat(cpu, op, Event::RepStosBytes, u64::from(W::SIZE), |cpu| {
        let to = target::<W>(cpu, Want::Write)?;
        cpu.write::<W>(to, v)?;
        advance::<W>(cpu, EDI);
        Ok(true)
    })
}
fn run_lods<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat(cpu, op, Event::RepOther, 1, |cpu| {
        let from = source::<W>(cpu, op)?;
        let v = cpu.read::<W>(from)?;
        W::set(&mut cpu.regs, EAX as u8, v);
        advance::<W>(cpu, ESI);
        Ok(true)
    })
}
/// Does a repeated comparison go on after this result?
fn goes_on(cpu: &Cpu, op: &Op) -> bool {
    match op.x {
        REP => cpu.flags.zf(),
        REPNE => !cpu.flags.zf(),
        _ => false,
    }
}
fn run_scas<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat(cpu, op, Event::RepOther, 1, |cpu| {
        let at = target::<W>(cpu, Want::Read)?;
        let b = cpu.read::<W>(at)?;
        let a = W::get(&cpu.regs, EAX as u8);
        Cmp::run::<W>(&mut cpu.flags, a, b);
        advance::<W>(cpu, EDI);
        Ok(goes_on(cpu, op))
    })
}
fn run_cmps<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat(cpu, op, Event::RepOther, 1, |cpu| {
        let from = source::<W>(cpu, op)?;
        let at = target::<W>(cpu, Want::Read)?;
        let a = cpu.read::<W>(from)?;
        let b = cpu.read::<W>(at)?;
        Cmp::run::<W>(&mut cpu.flags, a, b);
        advance::<W>(cpu, ESI);
        advance::<W>(cpu, EDI);
        Ok(goes_on(cpu, op))
    })
}
