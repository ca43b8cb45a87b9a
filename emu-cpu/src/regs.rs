//! The eight general registers.
//!
//! Numbered as instructions encode them. A ninth slot, `ZERO`, stands for "no base" and "no index"
//! in an effective address. Invariant: the slot `ZERO` is 0.

use std::ops::{Index, IndexMut};

/// Number of EAX.
pub const EAX: usize = 0;
/// Number of ECX.
pub const ECX: usize = 1;
/// Number of EDX.
pub const EDX: usize = 2;
/// Number of EBX.
pub const EBX: usize = 3;
/// Number of ESP.
pub const ESP: usize = 4;
/// Number of EBP.
pub const EBP: usize = 5;
/// Number of ESI.
pub const ESI: usize = 6;
/// Number of EDI.
pub const EDI: usize = 7;
/// The slot that is always zero.
pub(crate) const ZERO: usize = 8;

/// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Regs([u32; 16]);

impl Regs {
    /// The eight registers in encoding order.
    pub fn all(&self) -> [u32; 8] {
        self.0[..8].try_into().expect("eight of sixteen")
    }

    /// A register, or zero for [`ZERO`].
    #[inline(always)]
    pub(crate) fn get(&self, number: u8) -> u32 {
        self.0[usize::from(number & 15)]
    }

    /// Writes all 32 bits.
    #[inline(always)]
    pub(crate) fn set(&mut self, number: u8, value: u32) {
        self.0[usize::from(number & 7)] = value;
    }

    /// AL, CL, DL, BL, AH, CH, DH, BH.
    #[inline(always)]
    pub(crate) fn get8(&self, number: u8) -> u32 {
        self.0[usize::from(number & 3)] >> ((number & 4) << 1) & 0xff
    }

    #[inline(always)]
    pub(crate) fn set8(&mut self, number: u8, value: u32) {
        let shift = (number & 4) << 1;
        let r = &mut self.0[usize::from(number & 3)];
        *r = *r & !(0xff << shift) | (value & 0xff) << shift;
    }

    #[inline(always)]
    pub(crate) fn set16(&mut self, number: u8, value: u32) {
        let r = &mut self.0[usize::from(number & 7)];
        *r = *r & 0xffff_0000 | value & 0xffff;
    }
}

impl Index<usize> for Regs {
    type Output = u32;
    #[inline(always)]
    fn index(&self, number: usize) -> &u32 {
        debug_assert!(number < 8);
        &self.0[number & 7]
    }
}

impl IndexMut<usize> for Regs {
    #[inline(always)]
    fn index_mut(&mut self, number: usize) -> &mut u32 {
        debug_assert!(number < 8);
        &mut self.0[number & 7]
    }
}
