//! Far jumps and calls: code segments, call gates, task gates, TSS (SDM vol. 2, JMP and CALL).
//!
//! Checks in the manual's order with exact error codes; everything is read, and every word pushed,
//! before a register changes.

use crate::cpu::Cpu;
use crate::fault::{self, Raised};
use crate::load::{TSS16, TSS32};
use crate::op::{Exec, Op, Out};
use crate::regs::ESP;
use crate::segment::{Descriptor, Seg, Segment};
use crate::task::{Resume, Switch};
use crate::word::{Dword, Half, Word};
use lowmem_cost::Event;

/// Gate types.
const CALL_GATE16: u8 = 4;
const CALL_GATE32: u8 = 0xc;
pub(crate) const TASK_GATE: u8 = 5;

/// Where a far pointer leads.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// A code segment at the current level.
    Code(Segment),
    /// A call gate that passed its own checks.
    Gate(Descriptor),
    /// A TSS, by itself or through a task gate.
    Task(u16),
}

/// A far jump or a far call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Jump,
    Call,
}

impl Cpu {
    /// Finds and checks what `selector` names, up to the offset.
    fn far_target(&mut self, selector: u16, offset: u32) -> Result<Target, Raised> {
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return Err(self.selector_fault(fault::GP, selector));
        };
        let rpl = (selector & 3) as u8;
        let Some(kind) = d.system_type() else {
            let allowed = d.is_code()
                && if d.is_conforming() {
                    d.dpl() <= self.cpl
                } else {
                    rpl <= self.cpl && d.dpl() == self.cpl
                };
            if !allowed {
                return Err(self.selector_fault(fault::GP, selector));
            }
            if !d.present() {
                return Err(self.selector_fault(fault::NP, selector));
            }
            let selector = selector & !3 | u16::from(self.cpl);
            return Ok(Target::Code(self.checked_code(d, at, selector, offset)?));
        };
        if d.dpl() < self.cpl || d.dpl() < rpl {
            return Err(self.selector_fault(fault::GP, selector));
        }
        match kind {
            CALL_GATE16 | CALL_GATE32 | TASK_GATE | TSS16 | TSS32 => {}
            _ => return Err(self.selector_fault(fault::GP, selector)),
        }
        if matches!(kind, TSS16 | TSS32) && selector & 4 != 0 {
            return Err(self.selector_fault(fault::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(fault::NP, selector));
        }
        match kind {
            CALL_GATE16 | CALL_GATE32 => Ok(Target::Gate(d)),
            TASK_GATE => {
                let task = d.gate_selector();
                self.available_task(task, 0)?;
                Ok(Target::Task(task))
            }
            _ => Ok(Target::Task(selector)),
        }
    }

    /// The TSS that a task gate names must be in the GDT, available and present.
    pub(crate) fn available_task(&mut self, selector: u16, ext: u32) -> Result<(), Raised> {
        let code = u32::from(selector & !3) | ext;
        if selector & 4 != 0 || selector & !3 == 0 {
            return self.fail(fault::GP, code);
        }
        match self.descriptor(selector)? {
            Some((d, _)) if matches!(d.system_type(), Some(TSS16 | TSS32)) => {
                if d.present() {
                    Ok(())
                } else {
                    self.fail(fault::NP, code)
                }
            }
            _ => self.fail(fault::GP, code),
        }
    }

    /// The code segment behind a call gate, and its offset.
    fn gate_target(&mut self, gate: Descriptor, kind: Kind) -> Result<(Segment, u32), Raised> {
        let selector = gate.gate_selector();
        let offset = gate_offset(gate);
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return Err(self.selector_fault(fault::GP, selector));
        };
        let allowed = d.is_code()
            && d.dpl() <= self.cpl
            && (kind == Kind::Call || d.is_conforming() || d.dpl() == self.cpl);
        if !allowed {
            return Err(self.selector_fault(fault::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(fault::NP, selector));
        }
        let cpl = if d.is_conforming() { self.cpl } else { d.dpl() };
        let cs = self.checked_code(d, at, selector & !3 | u16::from(cpl), offset)?;
        Ok((cs, offset))
    }

    /// A far transfer has counted itself.
    fn far_done(&mut self) -> Exec {
        self.count(Event::Instructions);
        self.count(Event::InsnFar);
        Ok(Out::Far)
    }

    fn go_to(&mut self, cs: Segment, eip: u32) -> Exec {
        self.segs[Seg::Cs as usize] = cs;
        self.refresh_segments();
        self.eip = eip;
        self.far_done()
    }

    fn far_task(&mut self, op: &Op, selector: u16, how: Switch) -> Exec {
        let resume = Resume {
            eip: self.eip.wrapping_add(u32::from(op.len)),
            flags: self.eflags(),
        };
        self.task_switch(selector, how, resume, 0)?;
        self.far_done()
    }

    fn far_jump(&mut self, op: &Op, selector: u16, offset: u32) -> Exec {
        if !self.protected() {
            self.check_plain_target(offset)?;
            self.set_plain_segment(Seg::Cs, selector);
            self.refresh_segments();
            self.eip = offset;
            return self.far_done();
        }
        match self.far_target(selector, offset)? {
            Target::Code(cs) => self.go_to(cs, offset),
            Target::Gate(gate) => {
                let (cs, offset) = self.gate_target(gate, Kind::Jump)?;
                self.go_to(cs, offset)
            }
            Target::Task(task) => self.far_task(op, task, Switch::Jump),
        }
    }

    /// In real and virtual-8086 mode the limit of CS does not change with it.
    pub(crate) fn check_plain_target(&mut self, offset: u32) -> Result<(), Raised> {
        let limit = if self.v86() { 0xffff } else { self.code_limit };
        if offset > limit {
            return Err(self.gp(0));
        }
        Ok(())
    }

    fn far_call<W: Word>(&mut self, op: &Op, selector: u16, offset: u32) -> Exec {
        let back = self.eip.wrapping_add(u32::from(op.len));
        if !self.protected() {
            self.check_plain_target(offset)?;
            self.push_return(W::SIZE, back)?;
            self.set_plain_segment(Seg::Cs, selector);
            self.refresh_segments();
            self.eip = offset;
            return self.far_done();
        }
        match self.far_target(selector, offset)? {
            Target::Code(cs) => {
                self.push_return(W::SIZE, back)?;
                self.go_to(cs, offset)
            }
            Target::Gate(gate) => self.call_gate(gate, back),
            Target::Task(task) => self.far_task(op, task, Switch::Call),
        }
    }

    /// Pushes CS and the return offset on the current stack.
    fn push_return(&mut self, word: u8, back: u32) -> Result<(), Raised> {
        let cs = u32::from(self.segs[Seg::Cs as usize].selector);
        let esp = self.regs[ESP];
        for value in [cs, back] {
            let pushed = if word == 2 {
                self.push::<Half>(value & 0xffff)
            } else {
                self.push::<Dword>(value)
            };
            if let Err(raised) = pushed {
                self.regs[ESP] = esp;
                return Err(raised);
            }
        }
        Ok(())
    }

    fn call_gate(&mut self, gate: Descriptor, back: u32) -> Exec {
        let (cs, offset) = self.gate_target(gate, Kind::Call)?;
        let word = if gate.system_type() == Some(CALL_GATE32) {
            4
        } else {
            2
        };
        let cpl = (cs.selector & 3) as u8;
        if cpl == self.cpl {
            self.push_return(word, back)?;
            return self.go_to(cs, offset);
        }
        let mut stack = self.inner_stack(cpl, word, 0)?;
        let old_ss = u32::from(self.segs[Seg::Ss as usize].selector);
        let old_esp = self.regs[ESP];
        let old_cs = u32::from(self.segs[Seg::Cs as usize].selector);
        self.push_on(&mut stack, old_ss)?;
        self.push_on(&mut stack, old_esp)?;
        for n in (0..u32::from(gate.parameters())).rev() {
            let value = if word == 4 {
                self.peek_stack::<Dword>(n * 4)?
            } else {
                self.peek_stack::<Half>(n * 2)?
            };
            self.push_on(&mut stack, value)?;
        }
        self.push_on(&mut stack, old_cs)?;
        self.push_on(&mut stack, back)?;
        self.switch_stack(&stack);
        self.segs[Seg::Cs as usize] = cs;
        self.set_cpl(cpl);
        self.refresh_segments();
        self.eip = offset;
        self.far_done()
    }
}

/// A 16-bit gate has a 16-bit offset.
pub(crate) fn gate_offset(gate: Descriptor) -> u32 {
    match gate.system_type() {
        Some(kind) if kind & 8 != 0 => gate.gate_offset(),
        _ => gate.gate_offset() & 0xffff,
    }
}

pub(crate) fn jmp_far_imm(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.far_jump(op, op.disp as u16, op.imm)
}
pub(crate) fn call_far_imm<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.far_call::<W>(op, op.disp as u16, op.imm)
}
/// The pointer in memory: two accesses, offset first.
pub(crate) fn far_pointer<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<(u16, u32), Raised> {
    let size = u32::from(W::SIZE);
    let va = cpu.readable_at(op, size)?;
    let offset = cpu.read::<W>(va)?;
    let va = cpu.readable_part(op, size, 2)?;
    let selector = cpu.read::<Half>(va)? as u16;
    Ok((selector, offset))
}
pub(crate) fn jmp_far_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (selector, offset) = far_pointer::<W>(cpu, op)?;
    cpu.far_jump(op, selector, offset)
}
pub(crate) fn call_far_mem<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (selector, offset) = far_pointer::<W>(cpu, op)?;
    cpu.far_call::<W>(op, selector, offset)
}
