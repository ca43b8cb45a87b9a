//! String instructions.
//!
//! With a repeat prefix each element is done and its progress kept in ECX, ESI and EDI, so that a
//! fault restarts where it happened. An interrupt point comes inside only after [`LOOPS`]
//! repetitions, so that no instruction runs for ever. Elements count as they are done, the instruction when it retires. Ascending `rep stos` and
//! `rep movs` over flat segments go a page at a time through the MMU, which counts every element.

use crate::cpu::Cpu;
use crate::exec::access::Want;
use crate::exec::alu::{Alu, Cmp};
use crate::exec::by_size;
use crate::fault::Raised;
use crate::flags::{DF, TF};
use crate::op::{Exec, Handler, Op, Out, REP, REPNE};
use crate::regs::{EAX, ECX, EDI, ESI};
use crate::segment::Seg;
use crate::word::{Dword, Half, Word};
use emu_mmu::{Span, VirtAddr};
use iced_x86::{Instruction, OpKind};
use lowmem_cost::Event;

/// Repetitions of one execution; then it begins anew, behind an interrupt point. An assumption:
/// longer than any copy of a kernel, shorter than a time slice.
pub(crate) const LOOPS: u32 = 1 << 16;

/// Bytes of an element, and whether SI, DI and CX are used instead of ESI, EDI and ECX.
fn shape(i: &Instruction) -> (usize, bool) {
    let narrow = |k: OpKind| {
        matches!(
            k,
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI
        )
    };
    let narrow = (0..i.op_count()).any(|n| narrow(i.op_kind(n)));
    (i.memory_size().size(), narrow)
}
/// A handler by element and address size.
macro_rules! by_shape {
    ($i:expr, $handler:ident) => {
        match shape($i) {
            (bytes, true) => by_size!(bytes, $handler, Half),
            (bytes, false) => by_size!(bytes, $handler, Dword),
        }
    };
}
pub(crate) fn movs(i: &Instruction) -> Option<Handler> {
    Some(by_shape!(i, run_movs))
}
pub(crate) fn stos(i: &Instruction) -> Option<Handler> {
    Some(by_shape!(i, run_stos))
}
pub(crate) fn lods(i: &Instruction) -> Option<Handler> {
    Some(by_shape!(i, run_lods))
}
pub(crate) fn scas(i: &Instruction) -> Option<Handler> {
    Some(by_shape!(i, run_scas))
}
pub(crate) fn cmps(i: &Instruction) -> Option<Handler> {
    Some(by_shape!(i, run_cmps))
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
#[inline(always)]
fn source<A: Word, W: Word>(cpu: &mut Cpu, op: &Op) -> Result<VirtAddr, Raised> {
    let esi = A::get(&cpu.regs, ESI as u8);
    let seg = Seg::ALL[usize::from(op.seg & 7)];
    cpu.linear(seg, esi, u32::from(W::SIZE), Want::Read)
}
#[inline(always)]
fn target<A: Word, W: Word>(cpu: &mut Cpu, want: Want) -> Result<VirtAddr, Raised> {
    let edi = A::get(&cpu.regs, EDI as u8);
    cpu.linear(Seg::Es, edi, u32::from(W::SIZE), want)
}
#[inline(always)]
fn advance<A: Word, W: Word>(cpu: &mut Cpu, register: usize) {
    let number = register as u8;
    let moved = A::get(&cpu.regs, number).wrapping_add(step::<W>(cpu)) & A::MASK;
    A::set(&mut cpu.regs, number, moved);
}

/// Does `element` once, or ECX times; `element` says whether to go on. Counts `event` by `weight`
/// per element of a rep. A debug trap comes after each element.
#[inline(always)]
fn repeat<A: Word>(
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
    let mut loops = 0;
    loop {
        let left = A::get(&cpu.regs, ECX as u8);
        if left == 0 {
            break;
        }
        let more = element(cpu)?;
        cpu.mmu.account.add(event, weight);
        A::set(&mut cpu.regs, ECX as u8, left - 1);
        if !more {
            break;
        }
        if left != 1 {
            cpu.repeated(1);
            loops += 1;
            if loops == LOOPS || cpu.traps_elements() {
                return Ok(Out::Again);
            }
        }
    }
    Ok(Out::Next)
}

impl Cpu {
    /// A debug trap is due between two elements of a repeated string instruction.
    #[inline(always)]
    pub(crate) fn traps_elements(&self) -> bool {
        self.other_flags & TF != 0 || self.debug_pending != 0
    }
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
    // All but the last element of all lead back to the instruction.
    let last = u32::from(cpu.regs[ECX] == 0 && span.done != 0);
    cpu.repeated(u64::from(span.done - last));
    match span.fault {
        Some(f) => Err(cpu.page_fault(f)),
        None => Ok(()),
    }
}
/// Addresses are 32 bits wide, segments `reads` and ES are flat, the direction is up.
#[inline(always)]
fn spans_apply<A: Word>(cpu: &Cpu, op: &Op, reads: u32) -> bool {
    A::SIZE == 4
        && op.x != 0
        && cpu.other_flags & (DF | TF) == 0
        && cpu.flat_writes >> Seg::Es as u8 & 1 != 0
        && cpu.flat_reads & reads == reads
}

fn run_movs<A: Word, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    if spans_apply::<A>(cpu, op, 1 << (op.seg & 7)) {
        let mut left = LOOPS;
        while cpu.regs[ECX] != 0 {
            if left == 0 {
                return Ok(Out::Again);
            }
            let (to, from) = (VirtAddr(cpu.regs[EDI]), VirtAddr(cpu.regs[ESI]));
            let count = cpu.regs[ECX].min(left);
            let span = cpu.mmu.rep_movs(to, from, W::SIZE, count, cpu.privilege);
            left -= span.done;
            spanned::<W>(cpu, span, Event::RepMovsBytes, &[ESI, EDI])?;
        }
        return Ok(Out::Next);
    }
    let weight = u64::from(W::SIZE);
    repeat::<A>(cpu, op, Event::RepMovsBytes, weight, |cpu| {
        let from = source::<A, W>(cpu, op)?;
        let v = cpu.read::<W>(from)?;
        let to = target::<A, W>(cpu, Want::Write)?;
        cpu.write::<W>(to, v)?;
        advance::<A, W>(cpu, ESI);
        advance::<A, W>(cpu, EDI);
        Ok(true)
    })
}
fn run_stos<A: Word, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = W::get(&cpu.regs, EAX as u8);
    if spans_apply::<A>(cpu, op, 0) {
        let mut left = LOOPS;
        while cpu.regs[ECX] != 0 {
            if left == 0 {
                return Ok(Out::Again);
            }
            let to = VirtAddr(cpu.regs[EDI]);
            let count = cpu.regs[ECX].min(left);
            let span = cpu.mmu.rep_stos(to, W::SIZE, count, v, cpu.privilege);
            left -= span.done;
            spanned::<W>(cpu, span, Event::RepStosBytes, &[EDI])?;
        }
        return Ok(Out::Next);
    }
    let weight = u64::from(W::SIZE);
    repeat::<A>(cpu, op, Event::RepStosBytes, weight, |cpu| {
        let to = target::<A, W>(cpu, Want::Write)?;
        cpu.write::<W>(to, v)?;
        advance::<A, W>(cpu, EDI);
        Ok(true)
    })
}
fn run_lods<A: Word, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat::<A>(cpu, op, Event::RepOther, 1, |cpu| {
        let from = source::<A, W>(cpu, op)?;
        let v = cpu.read::<W>(from)?;
        W::set(&mut cpu.regs, EAX as u8, v);
        advance::<A, W>(cpu, ESI);
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
/// A fault or a debug trap inside puts the flags back to what they were before the instruction; the
/// registers keep their progress (SDM vol. 2, REP).
fn compare<A: Word>(
    cpu: &mut Cpu,
    op: &Op,
    element: impl FnMut(&mut Cpu) -> Result<bool, Raised>,
) -> Exec {
    let before = cpu.flags;
    let result = repeat::<A>(cpu, op, Event::RepOther, 1, element);
    if !matches!(result, Ok(Out::Next)) {
        cpu.flags = before;
    }
    result
}
fn run_scas<A: Word, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    compare::<A>(cpu, op, |cpu| {
        let at = target::<A, W>(cpu, Want::Read)?;
        let b = cpu.read::<W>(at)?;
        let a = W::get(&cpu.regs, EAX as u8);
        Cmp::run::<W>(&mut cpu.flags, a, b);
        advance::<A, W>(cpu, EDI);
        Ok(goes_on(cpu, op))
    })
}
fn run_cmps<A: Word, W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    compare::<A>(cpu, op, |cpu| {
        let from = source::<A, W>(cpu, op)?;
        let at = target::<A, W>(cpu, Want::Read)?;
        let a = cpu.read::<W>(from)?;
        let b = cpu.read::<W>(at)?;
        Cmp::run::<W>(&mut cpu.flags, a, b);
        advance::<A, W>(cpu, ESI);
        advance::<A, W>(cpu, EDI);
        Ok(goes_on(cpu, op))
    })
}
