//! Which frames hold decoded code, and which of those were written: self-modifying code made visible to the CPU.
//!
//! The same bits keep writes off the ROM's alias below 1 MiB: its frames are watched for ever and a write to them is dropped, so
//! that memory without a ROM pays nothing for it.
//!
//! Only writes through the MMU are seen, those of A and D bits by walks with them; whoever writes guest memory behind it must tell the CPU. Not part of the modelled
//! machine: it counts nothing and is not copied with a clone, whose CPU starts without decoded code.
//!
//! Invariant: a frame is reported once for each time it was watched.

use crate::addr::{PAGE_SIZE, Pfn, PhysAddr};
use crate::phys::PhysMem;
use std::ops::Range;

/// One bit per frame of RAM.
#[derive(Debug)]
pub(crate) struct CodeWatch {
    bits: Box<[u64]>,
    written: Vec<Pfn>,
    /// Frames that cannot be written.
    rom: Range<u32>,
}

impl CodeWatch {
    /// Nothing of `mem` is watched but its ROM.
    pub(crate) fn new(mem: &PhysMem) -> CodeWatch {
        let frames = (mem.ram_bytes() / u64::from(PAGE_SIZE)) as usize;
        let mut watch = CodeWatch {
            bits: vec![0; frames.div_ceil(64)].into(),
            written: Vec::new(),
            rom: mem.rom_alias(),
        };
        for frame in watch.rom.clone() {
            watch.watch(Pfn(frame));
        }
        watch
    }

    pub(crate) fn watch(&mut self, pfn: Pfn) {
        if let Some(word) = self.bits.get_mut(pfn.0 as usize / 64) {
            *word |= 1 << (pfn.0 % 64);
        }
    }

    /// The frame of `a` is about to be written; false if it is ROM and must not be.
    #[inline(always)]
    #[must_use]
    pub(crate) fn may_write(&mut self, a: PhysAddr) -> bool {
        let frame = (a.0 >> 12) as usize;
        match self.bits.get(frame / 64) {
            Some(word) if *word >> (frame % 64) & 1 != 0 => self.watched_write(a),
            _ => true,
        }
    }

    #[cold]
    fn watched_write(&mut self, a: PhysAddr) -> bool {
        let pfn = a.pfn();
        if self.rom.contains(&pfn.0) {
            return false;
        }
        self.bits[pfn.0 as usize / 64] &= !(1 << (pfn.0 % 64));
        self.written.push(pfn);
        true
    }

    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        !self.written.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<Pfn> {
        std::mem::take(&mut self.written)
    }
}
