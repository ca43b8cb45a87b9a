//! How a case ended, and whether two ends are the same.
//!
//! Invariant: [`Outcome::differs`] knows no tolerance but the mask of undefined flags it is given.

use emu_cpu::flags::{ARITH, RF};
use std::fmt;

/// What stopped a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It jumped to the exit.
    Exit,
    /// An exception.
    Fault {
        /// Vector.
        vector: u8,
        /// Error code, 0 where there is none.
        code: u32,
        /// CR2 of a page fault, else 0.
        cr2: u32,
        /// EIP that was pushed.
        eip: u32,
        /// CS that was pushed.
        cs: u16,
    },
    /// It never ended.
    Hang,
    /// The emulated machine shut down or left its path.
    Broken,
}

/// The state at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub regs: [u32; 8],
    /// EFLAGS, as pushed by a fault.
    pub eflags: u32,
    /// ES, SS, DS, FS, GS.
    pub segments: [u16; 5],
}

/// Names in the order of [`Outcome::regs`].
pub const NAMES: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
/// Names in the order of [`Outcome::segments`].
pub const SEGMENTS: [&str; 5] = ["es", "ss", "ds", "fs", "gs"];

impl Outcome {
    /// What differs, in words; `None` if nothing does but the flags in `undefined`.
    pub fn differs(&self, other: &Outcome, undefined: u32) -> Option<String> {
        let undefined = undefined & ARITH;
        let mine = self.segments.map(null_as_zero);
        let theirs = other.segments.map(null_as_zero);
        // RF has a meaning only in the flags that a fault pushes.
        let mask = match self.end {
            End::Fault { .. } => !undefined,
            _ => !(undefined | RF),
        };
        if self.end == other.end
            && self.regs == other.regs
            && mine == theirs
            && (self.eflags ^ other.eflags) & mask == 0
        {
            return None;
        }
        let mut parts = Vec::new();
        if self.end != other.end {
            parts.push("end".to_owned());
        }
        for (i, name) in NAMES.iter().enumerate() {
            if self.regs[i] != other.regs[i] {
                parts.push((*name).to_owned());
            }
        }
        for (i, name) in SEGMENTS.iter().enumerate() {
            if mine[i] != theirs[i] {
                parts.push((*name).to_owned());
            }
        }
        let flags = (self.eflags ^ other.eflags) & mask;
        if flags != 0 {
            parts.push(format!("eflags bits {flags:#x}"));
        }
        Some(parts.join(", "))
    }
}

/// A null selector keeps its RPL only until the host's kernel is entered and left: IRET to an outer
/// level writes 0 (SDM vol. 2, IRET, "RETURN-TO-OUTER-PRIVILEGE-LEVEL").
fn null_as_zero(selector: u16) -> u16 {
    if selector < 4 { 0 } else { selector }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exit => f.write_str("exit"),
            End::Fault {
                vector,
                code,
                cr2,
                eip,
                cs,
            } => write!(
                f,
                "vector {vector} error {code:#x} cr2 {cr2:08x} at {cs:04x}:{eip:08x}"
            ),
            End::Hang => f.write_str("hang"),
            End::Broken => f.write_str("broken"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in NAMES.iter().zip(self.regs) {
            write!(f, "{name} {value:08x} ")?;
        }
        write!(f, "eflags {:08x}", self.eflags)?;
        for (name, value) in SEGMENTS.iter().zip(self.segments) {
            write!(f, " {name} {value:04x}")?;
        }
        write!(f, "  {}", self.end)
    }
}
