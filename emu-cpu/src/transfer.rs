//! Returns and far transfers: iret, sysenter and sysexit, far jmp, call and ret; loading of segment
//! registers, LDTR and TR.
//!
//! Checks in the SDM's order, with exact error codes; everything is read before anything changes.
//! Left out: call gates, task gates, TSS selectors and nested-task returns (#GP with the selector,
//! or 0), returns to virtual-8086 mode (#GP(0)), 16-bit code segments (#GP with the selector).

use crate::cpu::Cpu;
use crate::fault::{self, Fault, Raised};
use crate::flags::{IF, NT, RF, VM};
use crate::op::{Exec, Op, Out};
use crate::regs::{ECX, EDX, ESP};
use crate::segment::{CODE32, DATA32, Descriptor, Seg, Segment};
use crate::word::{Dword, Half};
use lowmem_cost::{Event, Side};

impl Cpu {
    fn fail_with<T>(&mut self, vector: u8, selector: u16) -> Result<T, Raised> {
        Err(self.raise_fault(Fault::with_code(vector, u32::from(selector & !3))))
    }

    /// mov, pop to a segment register other than CS.
    pub(crate) fn load_segment(&mut self, seg: Seg, selector: u16) -> Result<(), Raised> {
        if seg == Seg::Cs {
            return Err(self.ud());
        }
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if seg == Seg::Ss {
                return Err(self.gp(0));
            }
            self.segs[seg as usize] = Segment {
                selector,
                ..Segment::default()
            };
            self.refresh_segments();
            return Ok(());
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return self.fail_with(fault::GP, selector);
        };
        let allowed = if seg == Seg::Ss {
            rpl == self.cpl && d.dpl() == self.cpl && d.is_writable_data()
        } else {
            d.is_readable() && (d.is_conforming() || (d.dpl() >= rpl && d.dpl() >= self.cpl))
        };
        if !allowed {
            return self.fail_with(fault::GP, selector);
        }
        if !d.present() {
            let vector = if seg == Seg::Ss { fault::SS } else { fault::NP };
            return self.fail_with(vector, selector);
        }
        let d = self.set_type_bit(d, at, 1)?;
        self.segs[seg as usize] = d.segment(selector);
        self.refresh_segments();
        Ok(())
    }

    /// lldt.
    pub(crate) fn load_ldt(&mut self, selector: u16) -> Result<(), Raised> {
        if selector & !3 == 0 {
            self.ldtr = Segment {
                selector,
                ..Segment::default()
            };
            return Ok(());
        }
        if selector & 4 != 0 {
            return self.fail_with(fault::GP, selector);
        }
        match self.descriptor(selector)? {
            Some((d, _)) if d.system_type() == Some(2) => {
                if !d.present() {
                    return self.fail_with(fault::NP, selector);
                }
                self.ldtr = d.segment(selector);
                Ok(())
            }
            _ => self.fail_with(fault::GP, selector),
        }
    }

    /// ltr: an available 32-bit TSS, which becomes busy.
    pub(crate) fn load_task(&mut self, selector: u16) -> Result<(), Raised> {
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        if selector & 4 != 0 {
            return self.fail_with(fault::GP, selector);
        }
        match self.descriptor(selector)? {
            Some((d, at)) if d.system_type() == Some(9) => {
                if !d.present() {
                    return self.fail_with(fault::NP, selector);
                }
                let d = self.set_type_bit(d, at, 2)?;
                self.tr = d.segment(selector);
                Ok(())
            }
            _ => self.fail_with(fault::GP, selector),
        }
    }

    /// The code segment of a far jump or call at the same level.
    fn far_target(&mut self, selector: u16, offset: u32) -> Result<Segment, Raised> {
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return self.fail_with(fault::GP, selector);
        };
        let rpl = (selector & 3) as u8;
        let allowed = d.is_code()
            && if d.is_conforming() {
                d.dpl() <= self.cpl
            } else {
                rpl <= self.cpl && d.dpl() == self.cpl
            };
        if !allowed {
            return self.fail_with(fault::GP, selector);
        }
        if !d.present() {
            return self.fail_with(fault::NP, selector);
        }
        self.checked_code(d, at, selector & !3 | u16::from(self.cpl), offset)
    }

    /// Last checks of a code segment: 32-bit, offset inside its limit.
    fn checked_code(
        &mut self,
        d: Descriptor,
        at: u32,
        selector: u16,
        offset: u32,
    ) -> Result<Segment, Raised> {
        let s = d.segment(selector);
        if !s.is_32bit() {
            return self.fail_with(fault::GP, selector);
        }
        if offset > s.limit {
            return Err(self.gp(0));
        }
        Ok(self.set_type_bit(d, at, 1)?.segment(selector))
    }

    /// A far transfer has counted itself.
    fn far_done(&mut self) -> Exec {
        self.count(Event::Instructions);
        self.count(Event::InsnFar);
        Ok(Out::Far)
    }

    fn far_jump(&mut self, selector: u16, offset: u32) -> Exec {
        let cs = self.far_target(selector, offset)?;
        self.segs[Seg::Cs as usize] = cs;
        self.refresh_segments();
        self.eip = offset;
        self.far_done()
    }

    fn far_call(&mut self, op: &Op, selector: u16, offset: u32) -> Exec {
        let cs = self.far_target(selector, offset)?;
        let esp = self.regs[ESP];
        let old = u32::from(self.segs[Seg::Cs as usize].selector);
        self.push::<Dword>(old)?;
        let back = self.eip.wrapping_add(u32::from(op.len));
        if let Err(raised) = self.push::<Dword>(back) {
            self.regs[ESP] = esp;
            return Err(raised);
        }
        self.segs[Seg::Cs as usize] = cs;
        self.refresh_segments();
        self.eip = offset;
        self.far_done()
    }

    /// The code segment a return goes to; its RPL is the new CPL.
    fn return_target(&mut self, selector: u16, offset: u32) -> Result<Segment, Raised> {
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return self.fail_with(fault::GP, selector);
        };
        let rpl = (selector & 3) as u8;
        let level = if d.is_conforming() {
            d.dpl() <= rpl
        } else {
            d.dpl() == rpl
        };
        if !d.is_code() || rpl < self.cpl || !level {
            return self.fail_with(fault::GP, selector);
        }
        if !d.present() {
            return self.fail_with(fault::NP, selector);
        }
        self.checked_code(d, at, selector, offset)
    }

    /// The stack segment of a return to a less privileged level.
    fn return_stack(&mut self, selector: u16, cpl: u8) -> Result<Segment, Raised> {
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return self.fail_with(fault::GP, selector);
        };
        if selector & 3 != u16::from(cpl) || d.dpl() != cpl || !d.is_writable_data() {
            return self.fail_with(fault::GP, selector);
        }
        if !d.present() {
            return self.fail_with(fault::SS, selector);
        }
        Ok(self.set_type_bit(d, at, 1)?.segment(selector))
    }

    /// Data segments too privileged for the new CPL become null.
    fn drop_privileged_segments(&mut self) {
        for seg in [Seg::Es, Seg::Fs, Seg::Gs, Seg::Ds] {
            let s = self.segs[seg as usize];
            let conforming = s.access & 0x1c == 0x1c;
            if s.usable() && s.dpl() < self.cpl && !conforming {
                self.segs[seg as usize] = Segment::default();
            }
        }
    }

    /// CPL 3 is reached by a return: from here on user code is charged.
    fn stand_at_user(&mut self) {
        self.sides.clear();
        self.mmu.account.set_side(Side::User);
        self.user.returned();
    }

    /// Return to CS:EIP and, at a lower privilege, SS:ESP; shared by iret and retf.
    fn return_to(&mut self, cs: Segment, eip: u32, outer: Option<(Segment, u32)>, inner_esp: u32) {
        self.segs[Seg::Cs as usize] = cs;
        self.eip = eip;
        match outer {
            Some((ss, esp)) => {
                self.segs[Seg::Ss as usize] = ss;
                self.regs[ESP] = esp;
                self.set_cpl((cs.selector & 3) as u8);
                self.drop_privileged_segments();
            }
            None => self.regs[ESP] = inner_esp,
        }
        self.refresh_segments();
    }

    pub(crate) fn sysenter(&mut self) -> Exec {
        if !self.features.sep {
            return Err(self.ud());
        }
        let selector = self.sysenter.cs as u16 & !3;
        if selector == 0 {
            return Err(self.gp(0));
        }
        self.count(Event::Instructions);
        self.enter_by_sysenter(selector);
        Ok(Out::Far)
    }

    /// What sysenter does once it is allowed; the instruction itself is counted by the caller.
    pub(crate) fn enter_by_sysenter(&mut self, selector: u16) {
        self.mmu.account.set_side(Side::EntryExit);
        self.sides.clear();
        self.count(Event::Sysenter);
        self.other_flags &= !(VM | IF | RF);
        self.segs[Seg::Cs as usize] = Segment::flat(selector, CODE32);
        self.segs[Seg::Ss as usize] = Segment::flat(selector + 8, DATA32);
        self.set_cpl(0);
        self.refresh_segments();
        self.eip = self.sysenter.eip;
        self.regs[ESP] = self.sysenter.esp;
        self.last_loaded = 0;
    }

    pub(crate) fn sysexit(&mut self) -> Exec {
        if !self.features.sep {
            return Err(self.ud());
        }
        let selector = self.sysenter.cs as u16 & !3;
        if selector == 0 || self.cpl != 0 {
            return Err(self.gp(0));
        }
        self.count(Event::Instructions);
        self.count(Event::Sysexit);
        self.segs[Seg::Cs as usize] = Segment::flat((selector + 16) | 3, CODE32 | 0x60);
        self.segs[Seg::Ss as usize] = Segment::flat((selector + 24) | 3, DATA32 | 0x60);
        self.set_cpl(3);
        self.refresh_segments();
        self.eip = self.regs[EDX];
        self.regs[ESP] = self.regs[ECX];
        self.stand_at_user();
        Ok(Out::Far)
    }
}

pub(crate) fn jmp_far_imm(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.far_jump(op.disp as u16, op.imm)
}
pub(crate) fn call_far_imm(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.far_call(op, op.disp as u16, op.imm)
}
/// The pointer in memory: two accesses, offset first.
fn far_pointer(cpu: &mut Cpu, op: &Op) -> Result<(u16, u32), Raised> {
    let va = cpu.readable_at(op, 6)?;
    let offset = cpu.read::<Dword>(va)?;
    let selector = cpu.read::<Half>(va.wrapping_add(4))? as u16;
    Ok((selector, offset))
}
pub(crate) fn jmp_far_mem(cpu: &mut Cpu, op: &Op) -> Exec {
    let (selector, offset) = far_pointer(cpu, op)?;
    cpu.far_jump(selector, offset)
}
pub(crate) fn call_far_mem(cpu: &mut Cpu, op: &Op) -> Exec {
    let (selector, offset) = far_pointer(cpu, op)?;
    cpu.far_call(op, selector, offset)
}

/// retf and retf imm16.
pub(crate) fn ret_far(cpu: &mut Cpu, op: &Op) -> Exec {
    let eip = cpu.peek_stack::<Dword>(0)?;
    let selector = cpu.peek_stack::<Dword>(4)? as u16;
    let cs = cpu.return_target(selector, eip)?;
    let rpl = (selector & 3) as u8;
    let outer = if rpl > cpu.cpl {
        let esp = cpu.peek_stack::<Dword>(8 + op.imm)?;
        let ss = cpu.peek_stack::<Dword>(12 + op.imm)? as u16;
        Some((cpu.return_stack(ss, rpl)?, esp.wrapping_add(op.imm)))
    } else {
        None
    };
    let out = cpu.far_done();
    let inner_esp = cpu.stack_plus(8 + op.imm);
    cpu.return_to(cs, eip, outer, inner_esp);
    if outer.is_some() && cpu.cpl == 3 {
        cpu.stand_at_user();
    }
    out
}

/// iretd.
pub(crate) fn iret(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.irq.nmi_blocked = false;
    if cpu.other_flags & NT != 0 {
        return Err(cpu.gp(0));
    }
    let eip = cpu.peek_stack::<Dword>(0)?;
    let selector = cpu.peek_stack::<Dword>(4)? as u16;
    let flags = cpu.peek_stack::<Dword>(8)?;
    if flags & VM != 0 && cpu.cpl == 0 {
        return Err(cpu.gp(0));
    }
    let cs = cpu.return_target(selector, eip)?;
    let rpl = (selector & 3) as u8;
    let outer = if rpl > cpu.cpl {
        let esp = cpu.peek_stack::<Dword>(12)?;
        let ss = cpu.peek_stack::<Dword>(16)? as u16;
        Some((cpu.return_stack(ss, rpl)?, esp))
    } else {
        None
    };
    cpu.count(Event::Instructions);
    cpu.count(Event::Iret);
    // Flags by the rights of the CPL that is left.
    cpu.change_eflags(flags & !RF, u32::MAX);
    let inner_esp = cpu.stack_plus(12);
    cpu.return_to(cs, eip, outer, inner_esp);
    if outer.is_some() && cpu.cpl == 3 {
        cpu.stand_at_user();
    } else if let Some(side) = cpu.sides.pop() {
        cpu.mmu.account.set_side(side);
    }
    Ok(Out::Far)
}
