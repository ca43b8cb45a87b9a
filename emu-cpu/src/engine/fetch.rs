//! Finding, counting and decoding the instruction at EIP.
//!
//! The length of an instruction must be known before its fetch can be counted, so its bytes are
//! first read where the next fetch would find them (nothing counted), decoded, and then fetched.
//! Should the fetch be answered from elsewhere (code remapped without any invalidation), what it
//! found is decoded. Invariant: one counted fetch per executed instruction, none per probe.

use crate::cpu::Cpu;
use crate::decode::{CodeSize, Decoded, MAX_LEN, Translator};
use crate::fault::Raised;
use crate::op::{Op, PROBE};
use emu_mmu::{PhysAddr, VirtAddr};

/// An instruction found and, unless it is a probe, fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) op: Op,
}

impl Cpu {
    /// Finds, decodes and fetches the instruction at EIP.
    pub(crate) fn fetch_decode(&mut self, translator: &mut Translator) -> Result<Found, Raised> {
        let va = self.code_address();
        let size = self.code_size();
        let op = match self.bytes_at(va, None) {
            Some((at, bytes, n)) => match translator.decode(&bytes[..n], size, self.probes) {
                Decoded::Op(op) if op.marks & PROBE != 0 => return Ok(Found { op }),
                Decoded::Op(op) => Some((op, at)),
                Decoded::MoreBytes => None,
            },
            None => None,
        };
        if let Some((op, expected)) = op {
            self.check_code_limit(op.len)?;
            let at = self.counted_fetch(va, op.len)?;
            if at == expected {
                return Ok(Found { op });
            }
            return self.decode_found(translator, va, at);
        }
        // The page is absent, or the instruction runs into one that is: the fetch says so.
        // The segment's limit comes first.
        let len = match self.bytes_at(va, None) {
            None => 1,
            Some((_, _, n)) => n as u8 + 1,
        };
        self.check_code_limit(len)?;
        let at = self.counted_fetch(va, len)?;
        self.decode_found(translator, va, at)
    }

    /// D of the code segment.
    #[inline(always)]
    pub(crate) fn code_size(&self) -> CodeSize {
        if self.segs[1].is_32bit() {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    /// Linear address of EIP.
    #[inline(always)]
    pub(crate) fn code_address(&self) -> VirtAddr {
        VirtAddr(self.segs[1].base.wrapping_add(self.eip))
    }

    /// EIP lies in another linear page than it did at `from`, in the same segment.
    #[inline(always)]
    pub(crate) fn crossed_page(&self, from: u32) -> bool {
        let base = self.segs[1].base;
        (base.wrapping_add(from) ^ base.wrapping_add(self.eip)) >> 12 != 0
    }

    fn check_code_limit(&mut self, len: u8) -> Result<(), Raised> {
        let last = self.eip.wrapping_add(u32::from(len) - 1);
        if self.code_limit != u32::MAX && (last > self.code_limit || last < self.eip) {
            return Err(self.gp(0));
        }
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn counted_fetch(&mut self, va: VirtAddr, len: u8) -> Result<PhysAddr, Raised> {
        match self.mmu.fetch(va, len, self.privilege) {
            Ok(at) => Ok(at),
            Err(f) => Err(self.page_fault(f)),
        }
    }

    /// Decodes what a fetch found elsewhere than expected.
    #[cold]
    pub(super) fn decode_found(
        &mut self,
        translator: &mut Translator,
        va: VirtAddr,
        at: PhysAddr,
    ) -> Result<Found, Raised> {
        let (_, bytes, n) = self
            .bytes_at(va, Some(at))
            .expect("the first page was just fetched");
        match translator.decode(&bytes[..n], self.code_size(), self.probes) {
            Decoded::Op(op) => Ok(Found { op }),
            Decoded::MoreBytes => {
                let rest = VirtAddr(va.0.wrapping_add(n as u32));
                self.counted_fetch(rest, 1)?;
                // It was absent a moment ago and is not now: only possible if nothing was decoded
                // yet.
                Err(self.ud())
            }
        }
    }

    /// Up to fifteen bytes from `va`: as many as are mapped. `None` if the first page is absent.
    fn bytes_at(
        &self,
        va: VirtAddr,
        first: Option<PhysAddr>,
    ) -> Option<(PhysAddr, [u8; MAX_LEN], usize)> {
        let at = match first {
            Some(at) => at,
            None => self.mmu.peek_code(va, self.privilege).ok()?,
        };
        let mut bytes = [0; MAX_LEN];
        let here = (va.to_page_end() as usize).min(MAX_LEN);
        self.mmu.mem.read_bytes(at, &mut bytes[..here]);
        if here == MAX_LEN {
            return Some((at, bytes, MAX_LEN));
        }
        match self
            .mmu
            .peek_code(va.wrapping_add(here as u32), self.privilege)
        {
            Ok(rest) => {
                self.mmu.mem.read_bytes(rest, &mut bytes[here..]);
                Some((at, bytes, MAX_LEN))
            }
            Err(_) => Some((at, bytes, here)),
        }
    }
}
