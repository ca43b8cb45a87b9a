//! EFLAGS: the arithmetic flags, kept lazily, and the bits of the rest.
//!
//! An arithmetic instruction stores its sign-extended result and its carry vector (the carries, or
//! borrows, out of every bit); a flag is derived when it is read. Carry out of the top bit is CF,
//! top and next-to-top differ means OF, carry out of bit 3 is AF. Two delta fields let POPF and
//! SAHF store combinations no result has. Invariant: `Flags::arith` after `Flags::set_arith` gives
//! back what was stored.

use crate::word::Word;

/// Carry.
pub const CF: u32 = 1 << 0;
/// Parity of the low byte.
pub const PF: u32 = 1 << 2;
/// Carry out of bit 3.
pub const AF: u32 = 1 << 4;
/// Zero.
pub const ZF: u32 = 1 << 6;
/// Sign.
pub const SF: u32 = 1 << 7;
/// Trap after each instruction.
pub const TF: u32 = 1 << 8;
/// Interrupts are taken.
pub const IF: u32 = 1 << 9;
/// String instructions go down.
pub const DF: u32 = 1 << 10;
/// Overflow.
pub const OF: u32 = 1 << 11;
/// I/O privilege level, two bits.
pub const IOPL: u32 = 3 << 12;
/// Nested task.
pub const NT: u32 = 1 << 14;
/// Resume.
pub const RF: u32 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u32 = 1 << 17;
/// Alignment check.
pub const AC: u32 = 1 << 18;
/// Can be toggled where CPUID exists.
pub const ID: u32 = 1 << 21;

/// The six arithmetic flags.
pub const ARITH: u32 = CF | PF | AF | ZF | SF | OF;

/// The six arithmetic flags, derived on demand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flags {
    /// Sign-extended result of the last operation.
    result: u32,
    /// Bit 31: CF. Bit 30: CF ^ OF. Bit 3: AF. Bits 8-15: what the result's low byte is xored with
    /// before its parity is taken. Bit 0: what the result's sign is xored with.
    aux: u32,
}

const TOP: u32 = 1 << 31;
const NEXT: u32 = 1 << 30;

impl Default for Flags {
    fn default() -> Self {
        let mut f = Self { result: 1, aux: 0 };
        f.set_arith(0);
        f
    }
}

impl PartialEq for Flags {
    fn eq(&self, other: &Self) -> bool {
        self.arith() == other.arith()
    }
}

impl Flags {
    #[inline(always)]
    pub(crate) fn cf(&self) -> bool {
        self.aux & TOP != 0
    }
    #[inline(always)]
    pub(crate) fn zf(&self) -> bool {
        self.result == 0
    }
    #[inline(always)]
    pub(crate) fn sf(&self) -> bool {
        (self.result >> 31 ^ self.aux) & 1 != 0
    }
    #[inline(always)]
    pub(crate) fn of(&self) -> bool {
        (self.aux ^ self.aux << 1) & TOP != 0
    }
    #[inline(always)]
    pub(crate) fn pf(&self) -> bool {
        ((self.result ^ self.aux >> 8) & 0xff).count_ones() & 1 == 0
    }
    #[inline(always)]
    pub(crate) fn af(&self) -> bool {
        self.aux & 8 != 0
    }

    /// The six flags at their EFLAGS positions.
    pub(crate) fn arith(&self) -> u32 {
        let bit = |on: bool, flag: u32| if on { flag } else { 0 };
        bit(self.cf(), CF)
            | bit(self.pf(), PF)
            | bit(self.af(), AF)
            | bit(self.zf(), ZF)
            | bit(self.sf(), SF)
            | bit(self.of(), OF)
    }

    /// Stores the six flags from their EFLAGS positions.
    pub(crate) fn set_arith(&mut self, eflags: u32) {
        // A result with a zero low byte and a clear sign: the deltas then are PF's and SF's
        // complement and value.
        self.result = if eflags & ZF != 0 { 0 } else { 1 << 8 };
        self.aux = u32::from(eflags & SF != 0);
        if eflags & PF == 0 {
            self.aux |= 1 << 8;
        }
        if eflags & AF != 0 {
            self.aux |= 8;
        }
        self.set_cf_of(eflags & CF != 0, eflags & OF != 0);
    }

    #[inline(always)]
    pub(crate) fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.aux = self.aux & !(TOP | NEXT) | u32::from(cf) << 31 | u32::from(cf ^ of) << 30;
    }
    #[inline(always)]
    pub(crate) fn set_cf(&mut self, cf: bool) {
        let of = self.of();
        self.set_cf_of(cf, of);
    }
    #[inline]
    pub(crate) fn set_zf(&mut self, zf: bool) {
        let arith = self.arith() & !ZF;
        self.set_arith(arith | if zf { ZF } else { 0 });
    }

    /// Result of an operation whose carry vector over `W` bits is `carries`.
    #[inline(always)]
    fn set<W: Word>(&mut self, result: u32, carries: u32) {
        self.result = W::sign_extend(result);
        self.aux = (carries << (32 - W::BITS)) & (TOP | NEXT) | carries & 8;
    }

    /// a + b (+ carry) gave `r`.
    #[inline(always)]
    pub(crate) fn add<W: Word>(&mut self, a: u32, b: u32, r: u32) {
        self.set::<W>(r, a & b | (a | b) & !r);
    }
    /// a - b (- borrow) gave `r`.
    #[inline(always)]
    pub(crate) fn sub<W: Word>(&mut self, a: u32, b: u32, r: u32) {
        self.set::<W>(r, !a & b | (!a | b) & r);
    }
    /// A logical operation: CF, OF and (by choice: it is undefined) AF are clear.
    #[inline(always)]
    pub(crate) fn logic<W: Word>(&mut self, r: u32) {
        self.result = W::sign_extend(r);
        self.aux = 0;
    }
    /// A shift: SF, ZF, PF from the result, AF clear (undefined), CF and OF as told.
    #[inline(always)]
    pub(crate) fn shift<W: Word>(&mut self, r: u32, cf: bool, of: bool) {
        self.logic::<W>(r);
        self.set_cf_of(cf, of);
    }

    /// The condition encoded in the low four bits of Jcc, SETcc and CMOVcc.
    #[inline(always)]
    pub(crate) fn condition(&self, cc: u8) -> bool {
        let holds = match cc >> 1 & 7 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() | self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() | (self.sf() != self.of()),
        };
        holds ^ (cc & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives_a_round_trip() {
        for bits in 0..64u32 {
            let all = [CF, PF, AF, ZF, SF, OF];
            let eflags = (0..6)
                .filter(|i| bits >> i & 1 != 0)
                .map(|i| all[i as usize])
                .sum::<u32>();
            let mut f = Flags::default();
            f.set_arith(eflags);
            assert_eq!(f.arith(), eflags);
            f.set_zf(true);
            assert_eq!(f.arith(), eflags | ZF);
        }
    }
}
