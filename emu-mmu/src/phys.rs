//! Guest-physical memory (skeleton; the public signatures are stable).

use crate::addr::{Pfn, PhysAddr};

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PhysError {
    /// RAM outside 1 MiB to 64 GiB, or no whole number of pages.
    #[error("ram of {0} bytes is not a whole number of pages between 1 MiB and 64 GiB")]
    RamSize(u64),
    /// Low memory larger than RAM or than 4 GiB - 32 MiB, or no whole number of pages.
    #[error("low memory of {low} bytes does not fit ram of {ram} bytes")]
    LowSize {
        /// Asked for.
        low: u64,
        /// RAM in all.
        ram: u64,
    },
    /// The host refused memory.
    #[error("host refused to {what} {bytes} bytes: {source}")]
    Host {
        /// What was asked.
        what: &'static str,
        /// How much.
        bytes: u64,
        /// Its answer.
        source: std::io::Error,
    },
}

/// Guest-physical memory.
#[derive(Debug)]
pub struct PhysMem;

#[allow(unused_variables, missing_docs, reason = "skeleton")]
impl PhysMem {
    pub fn new(ram_bytes: u64, low_bytes: u64) -> Result<PhysMem, PhysError> {
        todo!()
    }
    pub fn ram_bytes(&self) -> u64 {
        todo!()
    }
    pub fn low_bytes(&self) -> u64 {
        todo!()
    }
    /// Host address of guest-physical 0; 4 GiB from there are reserved.
    pub fn low_base(&self) -> *mut u8 {
        todo!()
    }
    pub fn read_u8(&self, a: PhysAddr) -> u8 {
        todo!()
    }
    pub fn read_u16(&self, a: PhysAddr) -> u16 {
        todo!()
    }
    pub fn read_u32(&self, a: PhysAddr) -> u32 {
        todo!()
    }
    pub fn read_u64(&self, a: PhysAddr) -> u64 {
        todo!()
    }
    pub fn write_u8(&mut self, a: PhysAddr, v: u8) {}
    pub fn write_u16(&mut self, a: PhysAddr, v: u16) {}
    pub fn write_u32(&mut self, a: PhysAddr, v: u32) {}
    pub fn write_u64(&mut self, a: PhysAddr, v: u64) {}
    pub fn read_bytes(&self, a: PhysAddr, out: &mut [u8]) {}
    pub fn write_bytes(&mut self, a: PhysAddr, bytes: &[u8]) {}
    /// Host pointer of a low frame or a full high frame, valid until the frame is cleared, copied over, cloned or reset.
    pub fn host_page(&mut self, pfn: Pfn) -> Option<*mut u8> {
        todo!()
    }
    /// Makes a frame full (exact) and gives its host pointer; `None` beyond RAM.
    pub fn make_full(&mut self, pfn: Pfn) -> Option<*mut u8> {
        todo!()
    }
    pub fn clear_page(&mut self, pfn: Pfn) {}
    pub fn copy_page(&mut self, to: Pfn, from: Pfn) {}
    /// The non-zero words of a frame as (byte offset, word), ascending.
    pub fn page_words(&self, pfn: Pfn) -> impl Iterator<Item = (u32, u32)> + '_ {
        std::iter::empty()
    }
    pub fn clone_cow(&self) -> Result<PhysMem, PhysError> {
        todo!()
    }
    /// A clone goes back to what it was cloned from. Panics on memory that is no clone.
    pub fn reset(&mut self) {}
    pub fn resident_bytes(&self) -> u64 {
        todo!()
    }
}
