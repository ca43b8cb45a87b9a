//! Returns: iret and retf, to the same or an outer level, to virtual-8086 mode, to another task, and
//! in real and virtual-8086 mode (SDM vol. 2, IRET and RET).
//!
//! Checks in the manual's order, with exact error codes; everything is read before anything
//! changes.

use crate::cpu::Cpu;
use crate::fault::{self, Raised};
use crate::flags::{ARITH, IOPL, NT, RF, VM};
use crate::load::{BUSY, TSS16, TSS32};
use crate::op::{Exec, Op, Out};
use crate::regs::ESP;
use crate::segment::{Seg, Segment};
use crate::task::{Resume, Switch};
use crate::word::{Dword, Word};
use lowmem_cost::{Event, Side};

impl Cpu {
    /// The code segment a return goes to; its RPL is the new CPL.
    fn return_target(&mut self, selector: u16, offset: u32) -> Result<Segment, Raised> {
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return Err(self.selector_fault(fault::GP, selector));
        };
        let rpl = (selector & 3) as u8;
        let level = if d.is_conforming() {
            d.dpl() <= rpl
        } else {
            d.dpl() == rpl
        };
        if !d.is_code() || rpl < self.cpl || !level {
            return Err(self.selector_fault(fault::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(fault::NP, selector));
        }
        self.checked_code(d, at, selector, offset)
    }

    /// The stack segment of a return to a less privileged level.
    fn return_stack(&mut self, selector: u16, cpl: u8) -> Result<Segment, Raised> {
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return Err(self.selector_fault(fault::GP, selector));
        };
        if selector & 3 != u16::from(cpl) || d.dpl() != cpl || !d.is_writable_data() {
            return Err(self.selector_fault(fault::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(fault::SS, selector));
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
    pub(crate) fn stand_at_user(&mut self) {
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
                let mask = if ss.is_32bit() { u32::MAX } else { 0xffff };
                self.segs[Seg::Ss as usize] = ss;
                self.regs[ESP] = self.regs[ESP] & !mask | esp & mask;
                self.set_cpl((cs.selector & 3) as u8);
                self.drop_privileged_segments();
            }
            None => self.regs[ESP] = inner_esp,
        }
        self.refresh_segments();
    }

    /// iret in real mode, and in virtual-8086 mode with IOPL 3.
    fn iret_plain<W: Word>(&mut self) -> Exec {
        let size = u32::from(W::SIZE);
        let eip = self.peek_stack::<W>(0)?;
        let selector = self.peek_stack::<W>(size)? as u16;
        let flags = self.peek_stack::<W>(size * 2)?;
        self.check_plain_target(eip)?;
        self.count(Event::Instructions);
        self.count(Event::Iret);
        self.regs[ESP] = self.stack_plus(size * 3);
        self.change_eflags(flags, W::MASK & !VM);
        self.set_plain_segment(Seg::Cs, selector);
        self.refresh_segments();
        self.eip = eip;
        self.leave_interruption();
        Ok(Out::Far)
    }

    /// The side that was interrupted at CPL 0 goes on.
    fn leave_interruption(&mut self) {
        if let Some(side) = self.sides.pop() {
            self.mmu.account.set_side(side);
        }
    }

    /// iretd with VM set in the flags that are popped, at CPL 0.
    fn iret_to_v86(&mut self, eip: u32, cs: u16, flags: u32) -> Exec {
        let mut words = [0; 6];
        for (n, word) in (0..).zip(&mut words) {
            *word = self.peek_stack::<Dword>(12 + n * 4)?;
        }
        self.count(Event::Instructions);
        self.count(Event::Iret);
        self.set_eflags(flags);
        self.eip = eip;
        self.set_cpl(3);
        self.set_plain_segment(Seg::Cs, cs);
        let [esp, rest @ ..] = words;
        for (seg, word) in [Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs]
            .into_iter()
            .zip(rest)
        {
            self.set_plain_segment(seg, word as u16);
        }
        self.regs[ESP] = esp;
        self.refresh_segments();
        self.stand_at_user();
        Ok(Out::Far)
    }

    /// iret with NT set: back to the task that called.
    fn iret_to_task(&mut self, op: &Op) -> Exec {
        let link = self.system_read(self.tr.base, 2)? as u16;
        let found = match link & 4 {
            0 => self.descriptor(link)?,
            _ => None,
        };
        let Some((d, _)) = found else {
            return Err(self.selector_fault(fault::TS, link));
        };
        const BUSY16: u8 = TSS16 | BUSY;
        const BUSY32: u8 = TSS32 | BUSY;
        if !matches!(d.system_type(), Some(BUSY16 | BUSY32)) {
            return Err(self.selector_fault(fault::TS, link));
        }
        if !d.present() {
            return Err(self.selector_fault(fault::NP, link));
        }
        let resume = Resume {
            eip: self.eip.wrapping_add(u32::from(op.len)),
            flags: self.eflags(),
        };
        self.task_switch(link, Switch::Return, resume, 0)?;
        self.count(Event::Instructions);
        self.count(Event::Iret);
        Ok(Out::Far)
    }
}

/// retf and retf imm16.
pub(crate) fn ret_far<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let size = u32::from(W::SIZE);
    let eip = cpu.peek_stack::<W>(0)?;
    let selector = cpu.peek_stack::<W>(size)? as u16;
    let inner_esp = cpu.stack_plus(size * 2 + op.imm);
    if !cpu.protected() {
        cpu.check_plain_target(eip)?;
        cpu.regs[ESP] = inner_esp;
        cpu.set_plain_segment(Seg::Cs, selector);
        cpu.refresh_segments();
        cpu.eip = eip;
        cpu.count(Event::Instructions);
        cpu.count(Event::InsnFar);
        return Ok(Out::Far);
    }
    let cs = cpu.return_target(selector, eip)?;
    let rpl = (selector & 3) as u8;
    let outer = if rpl > cpu.cpl {
        let esp = cpu.peek_stack::<W>(size * 2 + op.imm)?;
        let ss = cpu.peek_stack::<W>(size * 3 + op.imm)? as u16;
        Some((cpu.return_stack(ss, rpl)?, esp.wrapping_add(op.imm)))
    } else {
        None
    };
    cpu.count(Event::Instructions);
    cpu.count(Event::InsnFar);
    cpu.return_to(cs, eip, outer, inner_esp);
    if outer.is_some() && cpu.cpl == 3 {
        cpu.stand_at_user();
    }
    Ok(Out::Far)
}

/// iret and iretd.
pub(crate) fn iret<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let out = iret_by_mode::<W>(cpu, op)?;
    cpu.irq.nmi_blocked = false;
    Ok(out)
}

fn iret_by_mode<W: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.v86() && cpu.other_flags & IOPL != IOPL {
        return Err(cpu.gp(0));
    }
    if !cpu.protected() {
        return cpu.iret_plain::<W>();
    }
    if cpu.other_flags & NT != 0 {
        return cpu.iret_to_task(op);
    }
    let size = u32::from(W::SIZE);
    let eip = cpu.peek_stack::<W>(0)?;
    let selector = cpu.peek_stack::<W>(size)? as u16;
    let flags = cpu.peek_stack::<W>(size * 2)?;
    if W::SIZE == 4 && flags & VM != 0 && cpu.cpl == 0 {
        return cpu.iret_to_v86(eip, selector, flags);
    }
    let cs = cpu.return_target(selector, eip)?;
    let rpl = (selector & 3) as u8;
    let outer = if rpl > cpu.cpl {
        let esp = cpu.peek_stack::<W>(size * 3)?;
        let ss = cpu.peek_stack::<W>(size * 4)? as u16;
        Some((cpu.return_stack(ss, rpl)?, esp))
    } else {
        None
    };
    cpu.count(Event::Instructions);
    cpu.count(Event::Iret);
    // Flags by the rights of the CPL that is left.
    cpu.change_eflags(flags, W::MASK);
    let inner_esp = cpu.stack_plus(size * 3);
    cpu.return_to(cs, eip, outer, inner_esp);
    if outer.is_some() && cpu.cpl == 3 {
        cpu.stand_at_user();
    } else {
        cpu.leave_interruption();
    }
    Ok(Out::Far)
}

impl Cpu {
    /// POPF and IRET: takes from `new` the flags this CPL may change, within `mask`.
    pub(crate) fn change_eflags(&mut self, new: u32, mask: u32) {
        use crate::flags::{AC, DF, ID, IF, TF};
        let mut may = ARITH | TF | DF | NT | RF | AC | ID;
        if self.cpl == 0 {
            may |= IOPL;
        }
        if u32::from(self.cpl) <= (self.other_flags & IOPL) >> 12 {
            may |= IF;
        }
        may &= mask;
        self.set_eflags(self.eflags() & !may | new & may);
    }
}
