//! Delivery of exceptions, software and external interrupts (SDM vol. 3, chapter 6).
//!
//! Interrupt and trap gates of 16 and 32 bits to the same or a more privileged level and out of
//! virtual-8086 mode, task gates, the vector table of real mode; stack switch through the TSS, error
//! codes with EXT, double and triple faults. Accesses to IDT, GDT, TSS and the new stack are
//! supervisor accesses and count on the side `entry_exit`. Invariant: a delivery that faults has
//! changed nothing but the side, and that is put back; unless it was a task switch that had begun
//! (see `task`).

use crate::cpu::Cpu;
use crate::debug::DR7_GD;
use crate::exit::Exit;
use crate::far::{TASK_GATE, gate_offset};
use crate::fault::{self, Fault, Raised};
use crate::flags::{AC, IF, NT, RF, TF, VM};
use crate::op::{Exec, Out};
use crate::regs::ESP;
use crate::segment::{Descriptor, Seg, Segment};
use crate::task::{Resume, Switch};
use lowmem_cost::{Event, Side};

/// Where an interruption comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// int n, int3, into: the gate's DPL is checked.
    Software,
    /// int1: an instruction, but the gate's DPL is not checked.
    Unchecked,
    /// The interrupt controller.
    External,
    /// An exception, with the error code it pushes.
    Exception(Option<u32>),
}

/// Sides remembered under nested interruptions; a guest that never returns loses the oldest.
const MOST_SIDES: usize = 256;

impl Cpu {
    /// Delivers `fault`, and what comes of it. EIP must be that of the faulting instruction.
    pub(crate) fn deliver_fault(&mut self, fault: Fault) -> Option<Exit> {
        self.enter_kernel_side();
        self.last_loaded = 0;
        self.debug_pending = 0;
        self.debug_shadow = false;
        let mut vectors = Vec::new();
        let mut current = fault;
        loop {
            vectors.push(current.vector);
            let eip = self.eip;
            match self.interrupt(current.vector, Origin::Exception(current.code), eip) {
                Ok(()) => {
                    self.count(match current.vector {
                        fault::PF => Event::EntryPageFault,
                        _ => Event::EntryException,
                    });
                    return self.trap_of_new_task();
                }
                Err(Raised) => {
                    let second = self.fault.take().expect("raised means stored");
                    if current.vector == fault::DFAULT {
                        vectors.push(second.vector);
                        let mut dump = self.dump();
                        dump.vectors = vectors;
                        return Some(Exit::TripleFault(Box::new(dump)));
                    }
                    current = if current.doubles(second) {
                        Fault::with_code(fault::DFAULT, 0)
                    } else {
                        second
                    };
                }
            }
        }
    }

    /// Takes an external interrupt between two instructions.
    pub(crate) fn take_interrupt(&mut self, vector: u8) -> Option<Exit> {
        let saved = self.enter_kernel_side();
        self.last_loaded = 0;
        let eip = self.eip;
        match self.interrupt(vector, Origin::External, eip) {
            Ok(()) => {
                self.count(Event::EntryIrq);
                self.trap_of_new_task()
            }
            Err(Raised) => {
                self.restore_side(saved);
                let fault = self.fault.take().expect("raised means stored");
                self.deliver_fault(fault)
            }
        }
    }

    /// The handler was a task whose T bit is set: #DB comes before its first instruction.
    fn trap_of_new_task(&mut self) -> Option<Exit> {
        if self.debug_pending == 0 {
            return None;
        }
        self.dr[6] |= self.debug_pending;
        self.deliver_fault(Fault::plain(fault::DB))
    }

    /// int n of `len` bytes: counts itself.
    pub(crate) fn software_interrupt(&mut self, vector: u8, len: u8) -> Exec {
        self.enter_by_int(vector, len, Event::Instructions)
    }

    /// A software interrupt; the instruction counts as `instructions` on the side it left.
    pub(crate) fn enter_by_int(&mut self, vector: u8, len: u8, instructions: Event) -> Exec {
        self.enter_by(vector, len, instructions, Origin::Software)
    }

    /// int1: as a debug exception, but a trap and without a bit of DR6.
    pub(crate) fn int1(&mut self, len: u8) -> Exec {
        self.enter_by(fault::DB, len, Event::Instructions, Origin::Unchecked)
    }

    fn enter_by(&mut self, vector: u8, len: u8, instructions: Event, origin: Origin) -> Exec {
        let from = self.mmu.account.side();
        let saved = self.enter_kernel_side();
        let next = self.eip.wrapping_add(u32::from(len));
        match self.interrupt(vector, origin, next) {
            Ok(()) => {
                self.count(Event::EntryInt);
                self.count_on(from, instructions);
                self.last_loaded = 0;
                Ok(Out::Entered)
            }
            Err(raised) => {
                self.restore_side(saved);
                Err(raised)
            }
        }
    }

    /// From here on the entry is charged. What ran at CPL 0 is remembered for its iret.
    fn enter_kernel_side(&mut self) -> (Side, usize) {
        let depth = self.sides.len();
        let side = self.mmu.account.set_side(Side::EntryExit);
        if self.cpl == 0 {
            if self.sides.len() == MOST_SIDES {
                self.sides.remove(0);
            }
            self.sides.push(side);
        }
        (side, depth)
    }
    fn restore_side(&mut self, (side, depth): (Side, usize)) {
        self.mmu.account.set_side(side);
        self.sides.truncate(depth);
    }
    /// Counts on another side than the current one.
    pub(crate) fn count_on(&mut self, side: Side, event: Event) {
        let current = self.mmu.account.set_side(side);
        self.count(event);
        self.mmu.account.set_side(current);
    }

    /// Goes through the gate of `vector`, or raises what prevents it. `eip` is what returns.
    fn interrupt(&mut self, vector: u8, origin: Origin, eip: u32) -> Result<(), Raised> {
        if vector == fault::DB && !matches!(origin, Origin::Software) {
            self.dr[7] &= !DR7_GD;
        }
        if !self.protected() && !self.v86() {
            return self.interrupt_in_real_mode(vector, eip);
        }
        let ext = u32::from(origin != Origin::Software);
        let gate = self.gate(vector, origin, ext)?;
        // Faults push RF set, so that an instruction breakpoint does not hit again on return.
        let mut flags = self.eflags();
        if let Origin::Exception(_) = origin
            && !matches!(vector, fault::DB | fault::DFAULT)
        {
            flags |= RF;
        }
        let code = match origin {
            Origin::Exception(code) => code,
            _ => None,
        };
        if gate.system_type() == Some(TASK_GATE) {
            let task = gate.gate_selector();
            self.available_task(task, ext)?;
            self.task_switch(task, Switch::Call, Resume { eip, flags }, ext)?;
            if let Some(code) = code {
                let word = if self.tr.access & 8 != 0 { 4 } else { 2 };
                let mut stack = self.current_stack(word, ext);
                self.push_on(&mut stack, code)?;
                self.switch_stack(&stack);
            }
            return Ok(());
        }

        let (new_cs, cpl) = self.handler_segment(gate, ext)?;
        let word = match gate.system_type() {
            Some(kind) if kind & 8 != 0 => 4,
            _ => 2,
        };
        let virtual_8086 = self.v86();
        let inner = cpl < self.cpl;
        let mut stack = if inner {
            self.inner_stack(cpl, word, ext)?
        } else {
            self.current_stack(word, ext)
        };
        if virtual_8086 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                let selector = u32::from(self.segs[seg as usize].selector);
                self.push_on(&mut stack, selector)?;
            }
        }
        if inner {
            let old = (self.segs[Seg::Ss as usize].selector, self.regs[ESP]);
            self.push_on(&mut stack, u32::from(old.0))?;
            self.push_on(&mut stack, old.1)?;
        }
        self.push_on(&mut stack, flags)?;
        let old_cs = u32::from(self.segs[Seg::Cs as usize].selector);
        self.push_on(&mut stack, old_cs)?;
        self.push_on(&mut stack, eip)?;
        if let Some(code) = code {
            self.push_on(&mut stack, code)?;
        }

        self.switch_stack(&stack);
        if virtual_8086 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                self.segs[seg as usize] = Segment::default();
            }
        }
        self.segs[Seg::Cs as usize] = new_cs;
        self.set_cpl(cpl);
        self.eip = gate_offset(gate);
        self.other_flags &= !(TF | NT | RF | VM);
        if gate.system_type().is_some_and(|kind| kind & 1 == 0) {
            self.other_flags &= !IF;
        }
        self.refresh_segments();
        Ok(())
    }

    /// The code segment an interrupt or trap gate leads to, and the level it runs at.
    fn handler_segment(&mut self, gate: Descriptor, ext: u32) -> Result<(Segment, u8), Raised> {
        let selector = gate.gate_selector();
        let code = u32::from(selector & !3) | ext;
        if selector & !3 == 0 {
            return self.fail(fault::GP, ext);
        }
        let Some((target, at)) = self.descriptor(selector)? else {
            return self.fail(fault::GP, code);
        };
        if !target.is_code() || target.dpl() > self.cpl {
            return self.fail(fault::GP, code);
        }
        if !target.present() {
            return self.fail(fault::NP, code);
        }
        let cpl = if target.is_conforming() {
            self.cpl
        } else {
            target.dpl()
        };
        // Virtual-8086 mode is left for level 0 only.
        if self.v86() && cpl != 0 {
            return self.fail(fault::GP, code);
        }
        if gate_offset(gate) > target.segment(selector).limit {
            return self.fail(fault::GP, ext);
        }
        let target = self.set_type_bit(target, at, 1)?;
        Ok((target.segment(selector & !3 | u16::from(cpl)), cpl))
    }

    /// Real mode: the vector table, three words, no error code.
    fn interrupt_in_real_mode(&mut self, vector: u8, eip: u32) -> Result<(), Raised> {
        let at = u32::from(vector) * 4;
        if at + 3 > u32::from(self.idtr.limit) {
            return self.fail(fault::GP, 0);
        }
        let entry = self.system_read(self.idtr.base.wrapping_add(at), 4)? as u32;
        let mut stack = self.current_stack(2, 0);
        let flags = self.eflags();
        let cs = u32::from(self.segs[Seg::Cs as usize].selector);
        for word in [flags, cs, eip] {
            self.push_on(&mut stack, word)?;
        }
        self.switch_stack(&stack);
        self.other_flags &= !(TF | IF | RF | AC);
        self.set_plain_segment(Seg::Cs, (entry >> 16) as u16);
        self.refresh_segments();
        self.eip = entry & 0xffff;
        Ok(())
    }

    /// Reads and checks the gate of a vector.
    fn gate(&mut self, vector: u8, origin: Origin, ext: u32) -> Result<Descriptor, Raised> {
        let at = u32::from(vector) * 8;
        let code = at | 2 | ext;
        if at + 7 > u32::from(self.idtr.limit) {
            return self.fail(fault::GP, code);
        }
        let gate = Descriptor(self.system_read(self.idtr.base.wrapping_add(at), 8)?);
        if !matches!(gate.system_type(), Some(TASK_GATE | 6 | 7 | 0xe | 0xf)) {
            return self.fail(fault::GP, code);
        }
        if origin == Origin::Software && gate.dpl() < self.cpl {
            return self.fail(fault::GP, code);
        }
        if !gate.present() {
            return self.fail(fault::NP, code);
        }
        Ok(gate)
    }
}
