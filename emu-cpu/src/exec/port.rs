//! Ports: in, out, ins, outs, and who may use them (SDM vol. 1, chapter 19.5).
//!
//! A handler checks the permission; the engine, which holds the bus, moves the data. With a repeat
//! prefix the elements are done one by one, each with its own check, and progress is kept in the
//! registers. Invariant: the bus is asked only after everything of the element that can fault has
//! been found good.

use crate::bus::{Bus, Flow};
use crate::cpu::Cpu;
use crate::exec::access::Want;
use crate::exec::string::LOOPS;
use crate::fault::Raised;
use crate::flags::{DF, IOPL};
use crate::load::TSS32;
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::{ECX, EDI, EDX, ESI};
use crate::segment::Seg;
use crate::word::{Byte, Dword, Half, Word};
use emu_mmu::VirtAddr;
use iced_x86::Instruction;
use lowmem_cost::Event;

/// How far ins or outs came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortString {
    /// All elements are done.
    Done,
    /// A debug trap or an interrupt point comes before the next element.
    Again,
    /// The bus stops the run; `more` elements are left.
    Stop { more: bool },
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
    cpu.need_port(port, size)?;
    Ok(Out::Input)
}
fn run_out(cpu: &mut Cpu, op: &Op) -> Exec {
    let (port, size) = port_of(cpu, op);
    cpu.need_port(port, size)?;
    Ok(Out::Output)
}

/// `imm` tells the direction; `r1` and `r2` are the sizes of an element and of the address.
pub(crate) fn ins(_: &Instruction) -> Option<Handler> {
    Some(run_string)
}
/// See [`ins`].
pub(crate) fn outs(_: &Instruction) -> Option<Handler> {
    Some(run_string)
}
fn run_string(_: &mut Cpu, _: &Op) -> Exec {
    Ok(Out::PortString)
}

impl Cpu {
    /// The I/O permission check: IOPL, else (and always in virtual-8086 mode) the bitmap of the TSS:
    /// one bit per port, 0 allows; two bytes are always read.
    fn need_port(&mut self, port: u16, size: u8) -> Result<(), Raised> {
        let allowed = u32::from(self.cpl) <= (self.other_flags & IOPL) >> 12;
        if allowed && !self.v86() {
            return Ok(());
        }
        let tr = self.tr;
        let wide = tr.access & u16::from(TSS32 & 8) != 0;
        if !tr.usable() || !wide || tr.limit < 0x67 {
            return Err(self.gp(0));
        }
        let map = self.system_read(tr.base.wrapping_add(0x66), 2)? as u32;
        let at = map + u32::from(port >> 3);
        if at + 1 > tr.limit {
            return Err(self.gp(0));
        }
        let bits = self.system_read(tr.base.wrapping_add(at), 2)? as u32 >> (port & 7);
        if bits & ((1 << size) - 1) != 0 {
            return Err(self.gp(0));
        }
        Ok(())
    }

    /// ins and outs, all elements.
    pub(crate) fn port_string<B: Bus>(
        &mut self,
        op: &Op,
        bus: &mut B,
    ) -> Result<PortString, Raised> {
        if op.r2 == 2 {
            self.port_elements::<Half, B>(op, bus)
        } else {
            self.port_elements::<Dword, B>(op, bus)
        }
    }

    fn port_elements<A: Word, B: Bus>(
        &mut self,
        op: &Op,
        bus: &mut B,
    ) -> Result<PortString, Raised> {
        let repeated = op.x != 0;
        let mut loops = 0;
        if repeated && A::get(&self.regs, ECX as u8) == 0 {
            // The permission is checked even if there is nothing to do.
            let size = op.r1;
            self.need_port(self.regs[EDX] as u16, size)?;
        }
        loop {
            let left = A::get(&self.regs, ECX as u8);
            if repeated && left == 0 {
                return Ok(PortString::Done);
            }
            let flow = match op.r1 {
                1 => self.port_element::<A, Byte, B>(op, bus)?,
                2 => self.port_element::<A, Half, B>(op, bus)?,
                _ => self.port_element::<A, Dword, B>(op, bus)?,
            };
            let mut more = false;
            if repeated {
                self.mmu.account.add(Event::RepOther, 1);
                A::set(&mut self.regs, ECX as u8, left - 1);
                more = left != 1;
                self.repeated(u64::from(more));
                loops += 1;
            }
            if flow == Flow::Stop {
                return Ok(PortString::Stop { more });
            }
            if !more {
                return Ok(PortString::Done);
            }
            if loops == LOOPS || self.traps_elements() {
                return Ok(PortString::Again);
            }
        }
    }

    fn port_element<A: Word, W: Word, B: Bus>(
        &mut self,
        op: &Op,
        bus: &mut B,
    ) -> Result<Flow, Raised> {
        let port = self.regs[EDX] as u16;
        let size = u32::from(W::SIZE);
        self.need_port(port, W::SIZE)?;
        let register = if is_input(op) { EDI } else { ESI };
        let offset = A::get(&self.regs, register as u8);
        let flow = if is_input(op) {
            let va: VirtAddr = self.linear(Seg::Es, offset, size, Want::Write)?;
            let rights = self.privilege;
            self.mmu
                .probe_write(va, W::SIZE, rights)
                .map_err(|f| self.page_fault(f))?;
            self.watch_port(port, W::SIZE);
            bus.clock(self.retired);
            let value = bus.port_in(port, W::SIZE) & W::MASK;
            self.write::<W>(va, value)?;
            Flow::Continue
        } else {
            let seg = Seg::ALL[usize::from(op.seg & 7)];
            let va = self.linear(seg, offset, size, Want::Read)?;
            let value = self.read::<W>(va)?;
            self.watch_port(port, W::SIZE);
            bus.clock(self.retired);
            bus.port_out(port, W::SIZE, value)
        };
        self.ask_bus(bus);
        let step = if self.other_flags & DF == 0 {
            size
        } else {
            size.wrapping_neg()
        };
        A::set(
            &mut self.regs,
            register as u8,
            offset.wrapping_add(step) & A::MASK,
        );
        Ok(flow)
    }
}

/// ins, not outs: the decoder puts it into `imm`.
fn is_input(op: &Op) -> bool {
    op.imm == 0
}
