//! What the CPU sees of the machine around it: ports, the interrupt line, time and probes.
//!
//! Interrupts come in two ways: [`Cpu::raise`] (a vector, as a local APIC would) and, for machines
//! with 8259s, the INTR line with its acknowledge cycle. A20 is not modelled. Invariant: the bus is
//! called in the order of execution, the same for every engine.

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

    /// Tells how many instructions have retired: before every port access, at the start of every
    /// [`Cpu::run`] and at the first interrupt point at or after [`Bus::next_event`]. Devices that
    /// keep time by it are up to date afterwards.
    fn clock(&mut self, retired: u64) {
        let _ = retired;
    }
    /// The count of retired instructions at which [`Bus::clock`] must be called next; asked after
    /// every port access and every [`Bus::clock`].
    fn next_event(&self) -> u64 {
        u64::MAX
    }
    /// The level of the INTR line; asked when [`Bus::next_event`] is. While it is up and IF=1, the
    /// next interrupt point takes an interrupt.
    fn intr(&self) -> bool {
        false
    }
    /// The interrupt acknowledge cycle: the vector of the interrupt that is taken now.
    fn acknowledge(&mut self) -> u8 {
        u8::MAX
    }
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
