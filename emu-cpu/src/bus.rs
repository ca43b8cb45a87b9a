//! What the CPU sees of the machine around it: ports and probes.

use crate::cpu::Cpu;

/// What the CPU does after a port was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Leave [`Cpu::run`] with [`crate::Exit::Port`], after the instruction.
    Stop,
}

/// The machine around the CPU.
pub trait Bus {
    /// `in` of 1, 2 or 4 bytes.
    fn port_in(&mut self, port: u16, size: u8) -> u32;
    /// `out` of 1, 2 or 4 bytes.
    fn port_out(&mut self, port: u16, size: u8, value: u32) -> Flow;
    /// A probe was executed (only with [`Cpu::probes`] set). All counts of earlier instructions are
    /// in the account. It may look at everything and change the side that is charged; it must not
    /// change EIP, CPL or the paging registers.
    fn probe(&mut self, id: u16, cpu: &mut Cpu);
}

/// A machine without devices: ports read all ones, writes and probes are ignored.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBus;

impl Bus for NoBus {
    fn port_in(&mut self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32) -> Flow {
        Flow::Continue
    }
    fn probe(&mut self, _id: u16, _cpu: &mut Cpu) {}
}
