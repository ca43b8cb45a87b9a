//! Random numbers and values that instructions care about.
//!
//! xoshiro256++ (Blackman and Vigna) seeded by SplitMix64: the same case for the same seed and
//! number on every machine. Invariant: nothing here reads a clock or the host.

use crate::layout::{CODE, DATA, LOW, PAGE, STACK, WRAP};

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random([u64; 4]);

impl Random {
    /// The stream of a seed's batch.
    pub fn new(seed: u64, batch: u64) -> Random {
        let mut x = seed ^ batch.wrapping_mul(0xd134_2543_de82_ef95);
        Random(std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// True `n` times of a hundred.
    pub fn percent(&mut self, n: u32) -> bool {
        self.below(100) < n
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    /// A random byte.
    pub fn byte(&mut self) -> u8 {
        (self.bits() >> 32) as u8
    }

    /// Small, near a sign change, or anything.
    pub fn value(&mut self) -> u32 {
        let v = self.bits();
        let w = (v >> 32) as u32;
        match v & 7 {
            0 | 1 => w & 0x3f,
            2 => [
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0xffff,
                0x7fff_ffff,
                0x8000_0000,
            ][w as usize & 7],
            3 => (w & 3).wrapping_sub(2),
            4 => w & 0xffff,
            _ => w,
        }
    }

    /// An address in a data window, often near a page's edge.
    pub fn address(&mut self) -> u32 {
        let base = match self.below(16) {
            0..=8 => DATA.wrapping_add((self.below(7) * PAGE).wrapping_sub(PAGE)),
            9..=11 => STACK.wrapping_add((self.below(4) * PAGE).wrapping_sub(PAGE)),
            12 => CODE + self.below(3) * PAGE,
            13 => LOW + self.below(4) * PAGE,
            14 => WRAP + self.below(3) * PAGE,
            // What most often works.
            _ => DATA + self.below(2) * PAGE,
        };
        let offset = match self.below(4) {
            0 => self.below(16).wrapping_sub(8),
            1 => PAGE - self.below(20),
            _ => self.below(PAGE),
        };
        base.wrapping_add(offset)
    }

    /// An address whose surroundings are writable.
    pub fn writable(&mut self) -> u32 {
        let base = self.pick(&[DATA, DATA, STACK, DATA + 4 * PAGE - PAGE / 2]);
        base + PAGE / 2 + self.below(PAGE)
    }

    /// What a register holds.
    pub fn register(&mut self) -> u32 {
        match self.below(10) {
            0..=2 => self.writable(),
            3 | 4 => self.address(),
            _ => self.value(),
        }
    }
}
