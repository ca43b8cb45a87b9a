//! An instruction decoded: what the engines execute.
//!
//! Flat and small: a handler, its operands, and what the accounting needs to know. Positions are
//! relative to the block, so an operation means the same wherever its page is mapped. Invariant: a
//! handler looks only at fields its form fills.

use crate::cpu::Cpu;
use crate::fault::Raised;
use lowmem_cost::Event;

/// How an instruction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Out {
    /// The next instruction follows; EIP was not touched.
    Next,
    /// A serialising instruction: as `Next`, and an interrupt point.
    Serial,
    /// EIP is set to the target.
    Taken,
    /// EIP is set, CPL, segments or side may have changed; the handler has counted the instruction
    /// itself.
    Far,
    /// As `Far`, but into the handler of an interruption: a single-step trap does not follow.
    Entered,
    /// A repeated string instruction stops before its next element for a debug trap: EIP stays,
    /// nothing is counted as retired.
    Again,
    /// `in`: the engine asks the bus.
    Input,
    /// `out`: the engine tells the bus.
    Output,
    /// ins, outs: the engine goes through the elements.
    PortString,
    /// `hlt`.
    Halt,
}

/// Outcome of a handler; the fault of an `Err` is in the CPU.
pub(crate) type Exec = Result<Out, Raised>;

/// One implementation of an instruction form.
pub(crate) type Handler = fn(&mut Cpu, &Op) -> Exec;

/// Ends a block: EIP must be exact when the handler runs.
pub(crate) const END: u8 = 1 << 0;
/// Everything before must be counted when the handler runs (it reads counts or changes the side).
pub(crate) const SYNC: u8 = 1 << 1;
/// Needs a look-up of its own in the front end: another line than the operation before, or two
/// lines. Set by the block builder.
pub(crate) const NEW_LINE: u8 = 1 << 2;
/// Accesses memory.
pub(crate) const ACCESSES: u8 = 1 << 3;
/// A probe (D10); `imm` is its id.
pub(crate) const PROBE: u8 = 1 << 4;

/// No interrupt is taken right after it, even at a page's end: sti, and loads of SS.
pub(crate) const SHADOW: u8 = 1 << 5;

/// Bit of `seg` that marks 16-bit addressing.
pub(crate) const ADDR16: u8 = 8;

/// REPE/REP in `x` of a string operation.
pub(crate) const REP: u8 = 1;
/// REPNE in `x` of a string operation.
pub(crate) const REPNE: u8 = 2;

/// A decoded instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    pub(crate) run: Handler,
    /// Immediate, or displacement of a branch.
    pub(crate) imm: u32,
    /// Displacement of the memory operand; second immediate of a far transfer.
    pub(crate) disp: u32,
    /// Bytes from the start of the block.
    pub(crate) at: u16,
    pub(crate) len: u8,
    /// [`END`], [`SYNC`] ...
    pub(crate) marks: u8,
    /// Register number or 8 for none.
    pub(crate) base: u8,
    pub(crate) index: u8,
    /// log2 of the factor.
    pub(crate) scale: u8,
    /// Segment register of the memory operand, [`ADDR16`] added.
    pub(crate) seg: u8,
    /// First register operand.
    pub(crate) r1: u8,
    /// Second register operand.
    pub(crate) r2: u8,
    /// [`REP`], [`REPNE`], or what the form says.
    pub(crate) x: u8,
    /// Registers read, a bit each (for the load-use rule).
    pub(crate) reads: u8,
    /// Registers loaded from memory.
    pub(crate) loads: u8,
    pub(crate) class: Event,
}
