//! Guest-physical memory: RAM flat from 0, low memory below, high memory above (decision D9).
//!
//! Low memory is one host mapping (`low`); high frames are sparse and exact (`frame`). Beyond RAM reads
//! give all ones and writes are dropped, as on an empty bus. A ROM ([`PhysMem::install_rom`]) ends at 4 GiB and is seen again
//! below 1 MiB; writes to it are dropped. Nothing is counted here: cost belongs to [`crate::Mmu`].
//!
//! Invariant: whatever the representation, a read returns the bytes last written.

use crate::addr::{PAGE_SIZE, Pfn, PhysAddr};
use crate::frame::{Frame, PageWords};
use crate::high::HighMem;
use crate::low::LowMem;
use std::sync::Arc;

/// Least RAM.
pub const MIN_RAM_BYTES: u64 = 1 << 20;
/// Most RAM: 36 address bits.
pub const MAX_RAM_BYTES: u64 = 64 << 30;
/// Most low memory: the 4 GiB a linear address reaches, less what a split kernel keeps for itself.
pub const MAX_LOW_BYTES: u64 = (4 << 30) - (32 << 20);

/// A write this long to a sparse frame makes it full at once.
const LONG_WRITE_BYTES: usize = 512;

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PhysError {
    /// RAM outside 1 MiB to 64 GiB, or no whole number of pages.
    #[error("ram of {0} bytes is not a whole number of pages between 1 MiB and 64 GiB")]
    RamSize(u64),
    /// Low memory larger than RAM or than 4 GiB - 32 MiB, or no whole number of pages.
    #[error(
        "low memory of {low} bytes is not a whole number of pages, at most {ram} (the ram) and \
         {MAX_LOW_BYTES}"
    )]
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
pub struct PhysMem {
    low: LowMem,
    high: HighMem,
    low_bytes: u64,
    ram_bytes: u64,
    rom: Option<Arc<[u8]>>,
}

/// Where a ROM ends in the 32-bit address space.
const ROM_END: u64 = 1 << 32;
/// Where its alias ends.
const ALIAS_END: u64 = 1 << 20;

impl PhysMem {
    /// `ram_bytes` of zeroes (1 MiB to 64 GiB), the first `low_bytes` of them low memory (at most 4 GiB - 32 MiB; 0 is
    /// allowed). Takes milliseconds and next to no host memory, whatever the size.
    pub fn new(ram_bytes: u64, low_bytes: u64) -> Result<PhysMem, PhysError> {
        let page = u64::from(PAGE_SIZE);
        if !(MIN_RAM_BYTES..=MAX_RAM_BYTES).contains(&ram_bytes) || !ram_bytes.is_multiple_of(page)
        {
            return Err(PhysError::RamSize(ram_bytes));
        }
        if low_bytes > ram_bytes.min(MAX_LOW_BYTES) || !low_bytes.is_multiple_of(page) {
            return Err(PhysError::LowSize {
                low: low_bytes,
                ram: ram_bytes,
            });
        }
        Ok(PhysMem {
            low: LowMem::new(low_bytes)?,
            high: HighMem::new(((ram_bytes - low_bytes) / page) as usize),
            low_bytes,
            ram_bytes,
            rom: None,
        })
    }

    /// Puts a ROM (whole pages, at most 1 MiB) at the end of the first 4 GiB and of the first 1 MiB, over the RAM there. To be
    /// done before an MMU is made of this memory: that is what keeps the machine from writing to the alias.
    ///
    /// # Panics
    /// If RAM reaches into the ROM, or the size is no such size.
    pub fn install_rom(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u64;
        assert!(len <= ALIAS_END && len.is_multiple_of(u64::from(PAGE_SIZE)));
        assert!(self.ram_bytes <= ROM_END - len);
        self.write_bytes(PhysAddr(ALIAS_END - len), bytes);
        self.rom = Some(bytes.into());
    }

    /// The frames below 1 MiB that show the ROM.
    pub(crate) fn rom_alias(&self) -> std::ops::Range<u32> {
        let end = (ALIAS_END / u64::from(PAGE_SIZE)) as u32;
        let pages = self
            .rom
            .as_ref()
            .map_or(0, |rom| rom.len() as u32 / PAGE_SIZE);
        end - pages..end
    }

    /// Reads beyond RAM: the ROM, else ones.
    #[cold]
    fn read_beyond(&self, a: PhysAddr, out: &mut [u8]) {
        out.fill(0xFF);
        let Some(rom) = &self.rom else { return };
        let Some(start) = a.0.checked_sub(ROM_END - rom.len() as u64) else {
            return;
        };
        let Some(from) = rom.get(start as usize..) else {
            return;
        };
        let n = from.len().min(out.len());
        out[..n].copy_from_slice(&from[..n]);
    }

    /// Bytes of RAM.
    #[inline(always)]
    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// Bytes of low memory.
    #[inline(always)]
    pub fn low_bytes(&self) -> u64 {
        self.low_bytes
    }

    /// Host address of guest-physical 0. Low memory is accessible from there, the rest of 4 GiB is reserved and faults.
    pub fn low_base(&self) -> *mut u8 {
        self.low.base()
    }

    /// Where a frame is.
    #[inline(always)]
    fn place(&self, pfn: Pfn) -> Place {
        let at = pfn.base().0;
        if at < self.low_bytes {
            Place::Low(pfn.0 as usize)
        } else if at < self.ram_bytes {
            Place::High(((at - self.low_bytes) / u64::from(PAGE_SIZE)) as usize)
        } else {
            Place::Nowhere
        }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, a: PhysAddr) -> [u8; N] {
        if a.0.saturating_add(N as u64) <= self.low_bytes {
            return self.low.read(a.0 as usize);
        }
        self.read_high(a)
    }

    fn read_high<const N: usize>(&self, a: PhysAddr) -> [u8; N] {
        let offset = a.offset() as usize;
        if offset + N > PAGE_SIZE as usize {
            let mut out = [0; N];
            self.read_bytes(a, &mut out);
            return out;
        }
        if a.0 >= self.ram_bytes {
            let mut out = [0; N];
            self.read_beyond(a, &mut out);
            return out;
        }
        match self.place(a.pfn()) {
            Place::Low(_) => self.low.read(a.0 as usize),
            Place::Nowhere => unreachable!("below the end of ram"),
            Place::High(i) => match self.high.frame(i) {
                None | Some(Frame::Zero) => [0; N],
                // SAFETY: `offset + N` lies within the page of 4096 bytes; `&self` keeps writers out.
                Some(Frame::Full(f)) => unsafe { f.ptr().add(offset).cast::<[u8; N]>().read() },
                Some(frame) => std::array::from_fn(|k| {
                    let at = offset + k;
                    (frame.word(at / 4) >> (8 * (at % 4))) as u8
                }),
            },
        }
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, a: PhysAddr, value: [u8; N]) {
        if a.0.saturating_add(N as u64) <= self.low_bytes {
            return self.low.write(a.0 as usize, value);
        }
        self.write_high(a, value)
    }

    fn write_high<const N: usize>(&mut self, a: PhysAddr, value: [u8; N]) {
        let offset = a.offset() as usize;
        if offset + N > PAGE_SIZE as usize {
            return self.write_bytes(a, &value);
        }
        if a.0 >= self.ram_bytes {
            return;
        }
        match self.place(a.pfn()) {
            Place::Low(_) => self.low.write(a.0 as usize, value),
            Place::Nowhere => {}
            Place::High(i) => match self.high.owned_ptr(i) {
                // SAFETY: the page is unshared, `&mut self` is held, and `offset + N` lies within it.
                Some(p) => unsafe { p.add(offset).cast::<[u8; N]>().write(value) },
                None => self.write_sparse(i, offset, &value),
            },
        }
    }

    /// Writes into one high frame, word by word.
    fn write_sparse(&mut self, i: usize, offset: usize, bytes: &[u8]) {
        if self.high.frame(i).is_none() && bytes.iter().all(|&b| b == 0) {
            return;
        }
        let (frame, epoch) = self.high.frame_mut(i);
        if bytes.len() >= LONG_WRITE_BYTES || matches!(frame, Frame::Full(_)) {
            let p = frame.make_full(epoch);
            // SAFETY: `make_full` gave an unshared page of 4096 bytes; the caller keeps the range within one page.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), p.add(offset), bytes.len()) };
            return;
        }
        let (mut at, end) = (offset, offset + bytes.len());
        while at < end {
            let (word, first) = (at / 4, at % 4);
            let n = (4 - first).min(end - at);
            let mut value = frame.word(word).to_le_bytes();
            value[first..first + n].copy_from_slice(&bytes[at - offset..at - offset + n]);
            frame.set_word(word, u32::from_le_bytes(value), epoch);
            at += n;
        }
    }

    /// Reads bytes; ones beyond RAM.
    pub fn read_bytes(&self, mut a: PhysAddr, mut out: &mut [u8]) {
        while !out.is_empty() {
            let offset = a.offset() as usize;
            let n = out.len().min(PAGE_SIZE as usize - offset);
            let (part, rest) = out.split_at_mut(n);
            let place = if a.0 < self.ram_bytes {
                self.place(a.pfn())
            } else {
                Place::Nowhere
            };
            match place {
                Place::Nowhere => self.read_beyond(a, part),
                Place::Low(page) => part.copy_from_slice(&self.low.page(page)[offset..offset + n]),
                Place::High(i) => match self.high.frame(i) {
                    None | Some(Frame::Zero) => part.fill(0),
                    Some(Frame::Full(f)) => part.copy_from_slice(&f.bytes()[offset..offset + n]),
                    Some(frame) => {
                        for (k, b) in part.iter_mut().enumerate() {
                            let at = offset + k;
                            *b = (frame.word(at / 4) >> (8 * (at % 4))) as u8;
                        }
                    }
                },
            }
            out = rest;
            a = a.plus(n as u64);
        }
    }

    /// Writes bytes; those beyond RAM are dropped.
    pub fn write_bytes(&mut self, mut a: PhysAddr, mut bytes: &[u8]) {
        while !bytes.is_empty() && a.0 < self.ram_bytes {
            let offset = a.offset() as usize;
            let (part, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE as usize - offset));
            match self.place(a.pfn()) {
                Place::Nowhere => {}
                Place::Low(page) => {
                    self.low.page_mut(page)[offset..offset + part.len()].copy_from_slice(part);
                }
                Place::High(i) => self.write_sparse(i, offset, part),
            }
            bytes = rest;
            a = a.plus(part.len() as u64);
        }
    }

    /// Host pointer to a low frame or a full high frame. It is valid until the frame is cleared or copied over, or the
    /// memory is cloned, reset or dropped.
    pub fn host_page(&mut self, pfn: Pfn) -> Option<*mut u8> {
        match self.place(pfn) {
            Place::Nowhere => None,
            Place::Low(page) => Some(self.low.page_mut(page).as_mut_ptr()),
            Place::High(i) => match self.high.frame(i) {
                Some(Frame::Full(_)) => {
                    let (frame, epoch) = self.high.frame_mut(i);
                    Some(frame.make_full(epoch))
                }
                _ => None,
            },
        }
    }

    /// Makes a frame full, exactly, and gives its host pointer as [`PhysMem::host_page`] does; `None` beyond RAM.
    pub fn make_full(&mut self, pfn: Pfn) -> Option<*mut u8> {
        match self.place(pfn) {
            Place::High(i) => {
                let (frame, epoch) = self.high.frame_mut(i);
                Some(frame.make_full(epoch))
            }
            _ => self.host_page(pfn),
        }
    }

    /// Fills a frame with zeroes.
    pub fn clear_page(&mut self, pfn: Pfn) {
        match self.place(pfn) {
            Place::Nowhere => {}
            Place::Low(page) => self.low.page_mut(page).fill(0),
            Place::High(i) => self.high.clear(i),
        }
    }

    /// Makes frame `to` equal to frame `from`.
    pub fn copy_page(&mut self, to: Pfn, from: Pfn) {
        match (self.place(to), self.place(from)) {
            (Place::Nowhere, _) => {}
            (Place::Low(to), Place::Low(from)) => self.low.copy_page(to, from),
            (Place::High(to), Place::High(from)) => self.high.copy(to, from),
            (Place::High(to), Place::Low(from)) => self.high.set_bytes(to, self.low.page(from)),
            (Place::Low(to), Place::High(from)) => match self.high.frame(from) {
                Some(frame) => frame.copy_to(self.low.page_mut(to)),
                None => self.low.page_mut(to).fill(0),
            },
            (_, Place::Nowhere) => {
                let mut bytes = [0; PAGE_SIZE as usize];
                self.read_beyond(from.base(), &mut bytes);
                self.write_bytes(to.base(), &bytes);
            }
        }
    }

    /// The non-zero words of a frame as (byte offset, word), ascending; nothing beyond RAM. Cheap for sparse frames.
    pub fn page_words(&self, pfn: Pfn) -> PageWords<'_> {
        match self.place(pfn) {
            Place::Nowhere => PageWords::List([].iter()),
            Place::Low(page) => PageWords::bytes(self.low.page(page)),
            Place::High(i) => self.high.words(i),
        }
    }

    /// The frames that may hold anything but zeroes, ascending. All others are zero, and reading those in low memory
    /// would make the host back them: compare memories over the union of both lists.
    pub fn touched_frames(&self) -> impl Iterator<Item = Pfn> + '_ {
        let first_high = (self.low_bytes / u64::from(PAGE_SIZE)) as u32;
        let low = self.low.touched_pages().into_iter().map(|p| Pfn(p as u32));
        low.chain(self.high.touched().map(move |i| Pfn(first_high + i as u32)))
    }

    /// A copy-on-write copy. The original must not be written while a clone of it lives (low memory would show through).
    pub fn clone_cow(&self) -> Result<PhysMem, PhysError> {
        Ok(PhysMem {
            low: self.low.clone_cow()?,
            high: self.high.clone_cow(),
            low_bytes: self.low_bytes,
            ram_bytes: self.ram_bytes,
            rom: self.rom.clone(),
        })
    }

    /// True if this memory was made by [`PhysMem::clone_cow`].
    pub fn is_clone(&self) -> bool {
        self.low.is_clone()
    }

    /// A clone goes back to what it was cloned from, in time proportional to what it has written since.
    ///
    /// # Panics
    /// If this memory is not a clone.
    pub fn reset(&mut self) {
        self.low.reset();
        self.high.reset();
    }

    /// Host memory really used.
    pub fn resident_bytes(&self) -> u64 {
        self.low.resident_bytes() + self.high.resident_bytes()
    }

    /// Reads one byte.
    #[inline(always)]
    pub fn read_u8(&self, a: PhysAddr) -> u8 {
        self.read::<1>(a)[0]
    }
    /// Reads two bytes, little-endian, any alignment.
    #[inline(always)]
    pub fn read_u16(&self, a: PhysAddr) -> u16 {
        u16::from_le_bytes(self.read(a))
    }
    /// Reads four bytes.
    #[inline(always)]
    pub fn read_u32(&self, a: PhysAddr) -> u32 {
        u32::from_le_bytes(self.read(a))
    }
    /// Reads eight bytes.
    #[inline(always)]
    pub fn read_u64(&self, a: PhysAddr) -> u64 {
        u64::from_le_bytes(self.read(a))
    }
    /// Writes one byte.
    #[inline(always)]
    pub fn write_u8(&mut self, a: PhysAddr, v: u8) {
        self.write(a, [v]);
    }
    /// Writes two bytes, little-endian, any alignment.
    #[inline(always)]
    pub fn write_u16(&mut self, a: PhysAddr, v: u16) {
        self.write(a, v.to_le_bytes());
    }
    /// Writes four bytes.
    #[inline(always)]
    pub fn write_u32(&mut self, a: PhysAddr, v: u32) {
        self.write(a, v.to_le_bytes());
    }
    /// Writes eight bytes.
    #[inline(always)]
    pub fn write_u64(&mut self, a: PhysAddr, v: u64) {
        self.write(a, v.to_le_bytes());
    }
}

/// Which part of memory holds a frame, and as which number there.
#[derive(Debug, Clone, Copy)]
enum Place {
    Low(usize),
    High(usize),
    Nowhere,
}
