//! Which frames hold decoded code, and which of those were written: self-modifying code made visible to the CPU.
//!
//! Only writes through the MMU are seen; whoever writes guest memory behind it must tell the CPU. Not part of the modelled
//! machine: it counts nothing and is not copied with a clone, whose CPU starts without decoded code.
//!
//! Invariant: a frame is reported once for each time it was watched.

use crate::addr::{PAGE_SIZE, Pfn, PhysAddr};

/// One bit per frame of RAM.
#[derive(Debug)]
pub(crate) struct CodeWatch {
    bits: Box<[u64]>,
    written: Vec<Pfn>,
}

impl CodeWatch {
    pub(crate) fn new(ram_bytes: u64) -> CodeWatch {
        let frames = (ram_bytes / u64::from(PAGE_SIZE)) as usize;
        CodeWatch {
            bits: vec![0; frames.div_ceil(64)].into(),
            written: Vec::new(),
        }
    }

    pub(crate) fn watch(&mut self, pfn: Pfn) {
        if let Some(word) = self.bits.get_mut(pfn.0 as usize / 64) {
            *word |= 1 << (pfn.0 % 64);
        }
    }

    /// The frame of `a` is written.
    #[inline(always)]
    pub(crate) fn note(&mut self, a: PhysAddr) {
        let frame = (a.0 >> 12) as usize;
        if let Some(word) = self.bits.get_mut(frame / 64)
            && *word >> (frame % 64) & 1 != 0
        {
            *word &= !(1 << (frame % 64));
            self.written.push(a.pfn());
        }
    }

    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        !self.written.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<Pfn> {
        std::mem::take(&mut self.written)
    }
}
