//! Reads, writes and read-modify-writes of data (decision D5).
//!
//! One DTLB access per page touched, one cache access per line touched; a read-modify-write is one access, a write. Both
//! halves of a page-crossing access are translated, and their rights checked, before a line is accessed or a byte
//! written. Sizes are 1, 2, 4 or 8 bytes.
//!
//! Invariant: an access that faults changes no byte of memory but A and D bits.

use crate::addr::{PhysAddr, VirtAddr};
use crate::cache::Cache;
use crate::mmu::{AccessKind, Mmu, PageFault, Privilege};
use crate::phys::MAX_RAM_BYTES;
use crate::tlb_unit::Shortcuts;
use lowmem_cost::{Event, Level, Purpose};

impl Mmu {
    /// Reads `size` bytes, little-endian.
    #[inline]
    pub fn read(&mut self, va: VirtAddr, size: u8, p: Privilege) -> Result<u64, PageFault> {
        if u32::from(size) > va.to_page_end() {
            return self.read_across(va, size, p);
        }
        let a = self.data_page(va, AccessKind::Read, p)?;
        self.data_lines(a, size, Purpose::Load);
        Ok(self.get(a, size))
    }

    /// Writes the low `size` bytes of `value`.
    #[inline]
    pub fn write(
        &mut self,
        va: VirtAddr,
        size: u8,
        value: u64,
        p: Privilege,
    ) -> Result<(), PageFault> {
        if u32::from(size) > va.to_page_end() {
            return self.modify_across(va, size, p, |_| Some(value)).map(|_| ());
        }
        let a = self.data_page(va, AccessKind::Write, p)?;
        self.data_lines(a, size, Purpose::Store);
        self.put(a, size, value);
        Ok(())
    }

    /// Read-modify-write: one DTLB access, a write. `f` gives what to store for what was there; `None` stores nothing but
    /// needed the rights, and set D, all the same. Gives what was there.
    #[inline]
    pub fn modify(
        &mut self,
        va: VirtAddr,
        size: u8,
        p: Privilege,
        f: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64, PageFault> {
        if u32::from(size) > va.to_page_end() {
            return self.modify_across(va, size, p, f);
        }
        let a = self.data_page(va, AccessKind::Write, p)?;
        self.data_lines(a, size, Purpose::Store);
        let old = self.get(a, size);
        if let Some(new) = f(old) {
            self.put(a, size, new);
        }
        Ok(old)
    }

    /// Would a write fault? Counts nothing and sets no bit; a fault drops what is cached of its address, as any #PF does.
    pub fn probe_write(&mut self, va: VirtAddr, size: u8, p: Privilege) -> Result<(), PageFault> {
        self.probe(va, size, AccessKind::Write, p)
    }

    /// As [`Mmu::probe_write`] for a read.
    pub fn probe_read(&mut self, va: VirtAddr, size: u8, p: Privilege) -> Result<(), PageFault> {
        self.probe(va, size, AccessKind::Read, p)
    }

    fn probe(
        &mut self,
        va: VirtAddr,
        size: u8,
        kind: AccessKind,
        p: Privilege,
    ) -> Result<(), PageFault> {
        let mut pages = [Some(va), None];
        if u32::from(size) > va.to_page_end() {
            pages[1] = Some(va.wrapping_add(va.to_page_end()));
        }
        for va in pages.into_iter().flatten() {
            if let Err(why) = self.foresee(va, kind, p) {
                return Err(self.raise(va, kind, p, why));
            }
        }
        Ok(())
    }

    #[cold]
    fn read_across(&mut self, va: VirtAddr, size: u8, p: Privilege) -> Result<u64, PageFault> {
        let (a, b, first) = self.both_pages(va, AccessKind::Read, p)?;
        self.data_lines(a, first, Purpose::Load);
        self.data_lines(b, size - first, Purpose::Load);
        Ok(self.get_split(a, b, first, size))
    }

    #[cold]
    fn modify_across(
        &mut self,
        va: VirtAddr,
        size: u8,
        p: Privilege,
        f: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64, PageFault> {
        let (a, b, first) = self.both_pages(va, AccessKind::Write, p)?;
        self.data_lines(a, first, Purpose::Store);
        self.data_lines(b, size - first, Purpose::Store);
        let old = self.get_split(a, b, first, size);
        if let Some(new) = f(old) {
            let bytes = new.to_le_bytes();
            let (low, high) = bytes[..usize::from(size)].split_at(usize::from(first));
            for (at, part) in [(a, low), (b, high)] {
                if self.code.may_write(at) {
                    self.mem.write_bytes(at, part);
                }
            }
        }
        Ok(old)
    }

    /// Translates both halves: their addresses, and the bytes in the first.
    fn both_pages(
        &mut self,
        va: VirtAddr,
        kind: AccessKind,
        p: Privilege,
    ) -> Result<(PhysAddr, PhysAddr, u8), PageFault> {
        let first = va.to_page_end();
        let a = self.data_page(va, kind, p)?;
        let b = self.data_page(va.wrapping_add(first), kind, p)?;
        Ok((a, b, first as u8))
    }

    fn get_split(&self, a: PhysAddr, b: PhysAddr, first: u8, size: u8) -> u64 {
        let mut bytes = [0; 8];
        let (low, high) = bytes[..usize::from(size)].split_at_mut(usize::from(first));
        self.mem.read_bytes(a, low);
        self.mem.read_bytes(b, high);
        u64::from_le_bytes(bytes)
    }

    /// Counts the lines of an access within a page.
    #[inline(always)]
    pub(crate) fn data_lines(&mut self, a: PhysAddr, size: u8, purpose: Purpose) {
        self.data_line(a, purpose);
        let last = a.plus(u64::from(size) - 1);
        if (a.0 ^ last.0) >> self.caches.l1d.shift() != 0 {
            self.data_line(last, purpose);
        }
    }

    /// Counts one line access.
    #[inline(always)]
    pub(crate) fn data_line(&mut self, a: PhysAddr, purpose: Purpose) {
        let level = if self.is_newest_line(&self.caches.l1d, a) {
            Level::L1
        } else {
            self.caches.access(a, purpose)
        };
        self.account.add(Event::of(purpose, level), 1);
    }

    /// The shortcut for the line that was used last in its set.
    #[inline(always)]
    pub(crate) fn is_newest_line(&self, cache: &Cache, a: PhysAddr) -> bool {
        self.shortcuts == Shortcuts::On && a.0 < MAX_RAM_BYTES && cache.is_newest(a)
    }

    #[inline(always)]
    pub(crate) fn get(&self, a: PhysAddr, size: u8) -> u64 {
        match size {
            1 => self.mem.read_u8(a).into(),
            2 => self.mem.read_u16(a).into(),
            4 => self.mem.read_u32(a).into(),
            8 => self.mem.read_u64(a),
            _ => unreachable!("an operand has 1, 2, 4 or 8 bytes, not {size}"),
        }
    }

    #[inline(always)]
    pub(crate) fn put(&mut self, a: PhysAddr, size: u8, value: u64) {
        if !self.code.may_write(a) {
            return;
        }
        match size {
            1 => self.mem.write_u8(a, value as u8),
            2 => self.mem.write_u16(a, value as u16),
            4 => self.mem.write_u32(a, value as u32),
            8 => self.mem.write_u64(a, value),
            _ => unreachable!("an operand has 1, 2, 4 or 8 bytes, not {size}"),
        }
    }

    /// Watches a frame that holds decoded code. A write to it through this MMU is reported once, by
    /// [`Mmu::take_code_writes`], and the frame is then no longer watched.
    pub fn watch_code(&mut self, pfn: crate::Pfn) {
        self.code.watch(pfn);
    }

    /// True if a watched frame was written since the last [`Mmu::take_code_writes`]. Cheap enough to ask after each store.
    #[inline(always)]
    pub fn code_written(&self) -> bool {
        self.code.any()
    }

    /// The watched frames that were written, in order.
    pub fn take_code_writes(&mut self) -> Vec<crate::Pfn> {
        self.code.take()
    }
}
