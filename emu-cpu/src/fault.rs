//! Exceptions an instruction can raise.
//!
//! Guest faults are values (D17). So that an instruction's outcome stays one byte, a handler that
//! fails stores the [`Fault`] in the CPU and returns the marker `Raised`. Invariant: `Raised`
//! exists only while [`crate::Cpu`] holds a fault.

/// Divide error.
pub const DE: u8 = 0;
/// Debug.
pub const DB: u8 = 1;
/// Breakpoint (int3).
pub const BP: u8 = 3;
/// Overflow (into).
pub const OFLOW: u8 = 4;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// BOUND range exceeded.
pub const BR: u8 = 5;
/// Invalid opcode.
pub const UD: u8 = 6;
/// No coprocessor.
pub const NM: u8 = 7;
/// Double fault.
pub const DFAULT: u8 = 8;
/// Invalid TSS.
pub const TS: u8 = 10;
/// Segment not present.
pub const NP: u8 = 11;
/// Stack-segment fault.
pub const SS: u8 = 12;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;
/// Alignment check.
pub const AC: u8 = 17;

/// An exception on its way to its handler. CR2 is set already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Vector.
    pub vector: u8,
    /// Error code, where the vector has one.
    pub code: Option<u32>,
}

impl Fault {
    pub(crate) fn plain(vector: u8) -> Self {
        Self { vector, code: None }
    }
    pub(crate) fn with_code(vector: u8, code: u32) -> Self {
        Self {
            vector,
            code: Some(code),
        }
    }

    /// The contributory exceptions of the double-fault table.
    fn contributory(self) -> bool {
        matches!(self.vector, DE | TS | NP | SS | GP)
    }

    /// `second` while this one was being delivered makes a double fault (SDM vol. 3, table 6-5).
    pub(crate) fn doubles(self, second: Fault) -> bool {
        (self.contributory() && second.contributory())
            || (self.vector == PF && (second.contributory() || second.vector == PF))
    }
}

/// An exception was stored in the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raised;
