//! The host TLB: the way from a guest page to the slots of the architectural and the shadow TLB that hold it (decision D6).
//!
//! Direct-mapped by page number. An entry is a guess: before use it is compared with what the slots hold now, so no flush,
//! eviction or change of root has to touch it, and flushing it costs nothing. When the guess is right the access is a hit
//! of both TLBs and all that is left to do is what a hit does to their replacement state. Host pointers need no table of
//! their own: low memory is one mapping, and a full high frame is three loads away ([`crate::PhysMem`]).
//!
//! Invariant: with or without this table every count and every replacement state is the same.

use crate::addr::VirtAddr;

/// Entries. Power of two; 16 bytes each, so that the table stays in the host's L1.
const SIZE: usize = 256;

/// Where a page was last found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guess {
    /// Page number, [`NO_PAGE`] if none.
    pub(crate) vpn: u32,
    /// Key that both slots must hold.
    pub(crate) key: u32,
    /// Slot of the real TLB.
    pub(crate) slot: u32,
    /// Slot of the shadow.
    pub(crate) shadow: u32,
}

/// No page has this number.
const NO_PAGE: u32 = u32::MAX;

/// Guesses by page number.
#[derive(Debug, Clone)]
pub(crate) struct HostTlb(Box<[Guess; SIZE]>);

impl HostTlb {
    pub(crate) fn new() -> HostTlb {
        let none = Guess {
            vpn: NO_PAGE,
            key: 0,
            slot: 0,
            shadow: 0,
        };
        HostTlb(Box::new([none; SIZE]))
    }

    /// The guess for the page of `va`.
    #[inline(always)]
    pub(crate) fn get(&self, va: VirtAddr) -> Option<Guess> {
        let guess = self.0[va.vpn() as usize % SIZE];
        (guess.vpn == va.vpn()).then_some(guess)
    }

    /// Remembers where the page was found.
    #[inline]
    pub(crate) fn set(&mut self, guess: Guess) {
        self.0[guess.vpn as usize % SIZE] = guess;
    }
}
