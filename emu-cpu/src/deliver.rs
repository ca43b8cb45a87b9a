//! Delivery of exceptions, software and external interrupts (SDM vol. 3, chapter 6).
//!
//! 32-bit interrupt and trap gates to the same or a more privileged level, stack switch through the
//! TSS, error codes with EXT, double and triple faults. Accesses to IDT, GDT, TSS and the new stack
//! are supervisor accesses and count on the side `entry_exit`. Left out: task gates and 16-bit
//! gates (#GP with the vector's error code), RF is pushed set for faults but not kept. Invariant: a
//! delivery that faults has changed nothing but the side, and that is put back.

use crate::cpu::Cpu;
use crate::exit::Exit;
use crate::fault::{self, Fault, Raised};
use crate::flags::{IF, NT, RF, TF, VM};
use crate::op::{Exec, Out};
use crate::regs::ESP;
use crate::segment::{Descriptor, Seg, Segment};
use emu_mmu::{Privilege, VirtAddr};
use lowmem_cost::{Event, Side};

/// Where an interruption comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// int n, int3, into: the gate's DPL is checked.
    Software,
    /// The interrupt controller.
    External,
    /// An exception, with the error code it pushes.
    Exception(Option<u32>),
}

/// Most words a delivery pushes: SS, ESP, EFLAGS, CS, EIP, error code.
const FRAME: usize = 6;

impl Cpu {
    /// Delivers `fault`, and what comes of it. EIP must be that of the faulting instruction.
    pub(crate) fn deliver_fault(&mut self, fault: Fault) -> Option<Exit> {
        self.enter_kernel_side();
        self.last_loaded = 0;
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
                    return None;
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
                None
            }
            Err(Raised) => {
                self.restore_side(saved);
                let fault = self.fault.take().expect("raised means stored");
                self.deliver_fault(fault)
            }
        }
    }

    /// int n of `len` bytes: counts itself.
    pub(crate) fn software_interrupt(&mut self, vector: u8, len: u8) -> Exec {
        self.enter_by_int(vector, len, Event::Instructions)
    }

    /// A software interrupt; the instruction counts as `instructions` on the side it left.
    pub(crate) fn enter_by_int(&mut self, vector: u8, len: u8, instructions: Event) -> Exec {
        let from = self.mmu.account.side();
        let saved = self.enter_kernel_side();
        let next = self.eip.wrapping_add(u32::from(len));
        match self.interrupt(vector, Origin::Software, next) {
            Ok(()) => {
                self.count(Event::EntryInt);
                self.count_on(from, instructions);
                self.last_loaded = 0;
                Ok(Out::Far)
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

    fn fail<T>(&mut self, vector: u8, code: u32) -> Result<T, Raised> {
        Err(self.raise_fault(Fault::with_code(vector, code)))
    }

    /// Goes through the gate of `vector`, or raises what prevents it. `eip` is what returns.
    fn interrupt(&mut self, vector: u8, origin: Origin, eip: u32) -> Result<(), Raised> {
        let ext = u32::from(origin != Origin::Software);
        let gate = self.gate(vector, origin, ext)?;
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
        let target = self.set_type_bit(target, at, 1)?;
        let new_cs = target.segment(selector & !3 | u16::from(cpl));
        if gate.gate_offset() > new_cs.limit {
            return self.fail(fault::GP, ext);
        }
        let (stack, mut esp) = if cpl < self.cpl {
            self.inner_stack(cpl, ext)?
        } else {
            (self.segs[Seg::Ss as usize], self.regs[ESP])
        };

        let mut flags = self.eflags();
        if let Origin::Exception(_) = origin
            && !matches!(vector, fault::DB | fault::DFAULT)
        {
            flags |= RF;
        }
        let mut frame = [0; FRAME];
        let mut n = 0;
        let mut add = |word: u32| {
            frame[n] = word;
            n += 1;
        };
        if cpl < self.cpl {
            add(u32::from(self.segs[Seg::Ss as usize].selector));
            add(self.regs[ESP]);
        }
        add(flags);
        add(u32::from(self.segs[Seg::Cs as usize].selector));
        add(eip);
        if let Origin::Exception(Some(code)) = origin {
            add(code);
        }
        let stack_code = if cpl < self.cpl {
            u32::from(stack.selector & !3) | ext
        } else {
            ext
        };
        let mask = if stack.is_32bit() { u32::MAX } else { 0xffff };
        let rights = if cpl == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        };
        for &word in &frame[..n] {
            let offset = esp.wrapping_sub(4) & mask;
            if !stack.contains(offset, 4) {
                return self.fail(fault::SS, stack_code);
            }
            let va = VirtAddr(stack.base.wrapping_add(offset));
            self.mmu
                .write(va, 4, u64::from(word), rights)
                .map_err(|f| self.page_fault(f))?;
            esp = esp & !mask | offset;
        }

        self.segs[Seg::Ss as usize] = stack;
        self.regs[ESP] = esp;
        self.segs[Seg::Cs as usize] = new_cs;
        self.set_cpl(cpl);
        self.refresh_segments();
        self.eip = gate.gate_offset();
        self.other_flags &= !(TF | NT | RF | VM);
        if gate.system_type() == Some(0xe) {
            self.other_flags &= !IF;
        }
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
        if !matches!(gate.system_type(), Some(0xe | 0xf)) {
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

    /// The stack of a more privileged level, from the TSS.
    fn inner_stack(&mut self, cpl: u8, ext: u32) -> Result<(Segment, u32), Raised> {
        let tr = self.tr;
        let at = 4 + 8 * u32::from(cpl);
        if !tr.usable() || at + 5 > tr.limit {
            return self.fail(fault::TS, u32::from(tr.selector & !3) | ext);
        }
        let esp = self.system_read(tr.base.wrapping_add(at), 4)? as u32;
        let selector = self.system_read(tr.base.wrapping_add(at + 4), 2)? as u16;
        let code = u32::from(selector & !3) | ext;
        if selector & !3 == 0 {
            return self.fail(fault::TS, ext);
        }
        let Some((descriptor, va)) = self.descriptor(selector)? else {
            return self.fail(fault::TS, code);
        };
        if selector & 3 != u16::from(cpl)
            || descriptor.dpl() != cpl
            || !descriptor.is_writable_data()
        {
            return self.fail(fault::TS, code);
        }
        if !descriptor.present() {
            return self.fail(fault::SS, code);
        }
        let descriptor = self.set_type_bit(descriptor, va, 1)?;
        Ok((descriptor.segment(selector), esp))
    }
}
