//! Operand sizes: byte, 16-bit word, double word.
//!
//! Values travel zero-extended in a `u32`; a marker type says how many bits count and how registers
//! are read and written. Invariant: a value of `W` has no bit set above `W::BITS`.

use crate::regs::Regs;

/// An operand size.
pub(crate) trait Word: Copy + 'static {
    /// Bytes.
    const SIZE: u8;
    /// Bits.
    const BITS: u32;
    /// The bits that count.
    const MASK: u32;
    /// The sign bit.
    const SIGN: u32 = 1 << (Self::BITS - 1);
    /// Copies the sign bit upwards.
    #[inline(always)]
    fn sign_extend(value: u32) -> u32 {
        ((value << (32 - Self::BITS)) as i32 >> (32 - Self::BITS)) as u32
    }
    fn get(regs: &Regs, number: u8) -> u32;
    fn set(regs: &mut Regs, number: u8, value: u32);
}

/// 8 bits; registers AL..BH.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Byte;
/// 16 bits; registers AX..DI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Half;
/// 32 bits; registers EAX..EDI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dword;

impl Word for Byte {
    const SIZE: u8 = 1;
    const BITS: u32 = 8;
    const MASK: u32 = 0xff;
    #[inline(always)]
    fn get(regs: &Regs, number: u8) -> u32 {
        regs.get8(number)
    }
    #[inline(always)]
    fn set(regs: &mut Regs, number: u8, value: u32) {
        regs.set8(number, value);
    }
}

impl Word for Half {
    const SIZE: u8 = 2;
    const BITS: u32 = 16;
    const MASK: u32 = 0xffff;
    #[inline(always)]
    fn get(regs: &Regs, number: u8) -> u32 {
        regs.get(number) & 0xffff
    }
    #[inline(always)]
    fn set(regs: &mut Regs, number: u8, value: u32) {
        regs.set16(number, value);
    }
}

impl Word for Dword {
    const SIZE: u8 = 4;
    const BITS: u32 = 32;
    const MASK: u32 = u32::MAX;
    #[inline(always)]
    fn get(regs: &Regs, number: u8) -> u32 {
        regs.get(number)
    }
    #[inline(always)]
    fn set(regs: &mut Regs, number: u8, value: u32) {
        regs.set(number, value);
    }
}
