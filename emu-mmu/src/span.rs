//! Repeated string operations, a page at a time, with the counts of one element after the other (decision D5).
//!
//! Each element is one DTLB access (two for movs) and one cache access per line it touches. After the first element on a
//! page the rest hit the TLB, after the first on a line the rest hit L1D, and neither changes any state; so those are
//! counted by multiplication. Where that is not certain (a direct-mapped structure in which source and destination push
//! each other out) the elements go one by one, as they always do in the slow twin.
//!
//! Whole pages cleared or copied in high memory switch representation instead of moving bytes; they cost the guest the
//! same. Only ascending operations (DF=0) are here; descending ones are single elements of the CPU.
//!
//! Invariant: equal to [`Mmu::read`] and [`Mmu::write`] per element in memory, counts and faults.

use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::mmu::{AccessKind, Mmu, PageFault, PagingMode, Privilege};
use crate::phys::MAX_RAM_BYTES;
use crate::tlb_unit::Shortcuts;
use lowmem_cost::{Event, Level, Purpose};

/// How far a repeated string operation came in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Elements done, counted and stored. At least 1, unless the count was 0 or the first element faulted.
    pub done: u32,
    /// The fault of element number `done`, if it faulted.
    pub fault: Option<PageFault>,
}

impl Span {
    const fn done(n: u32) -> Span {
        Span {
            done: n,
            fault: None,
        }
    }

    fn one(result: Result<(), PageFault>) -> Span {
        match result {
            Ok(()) => Span::done(1),
            Err(fault) => Span {
                done: 0,
                fault: Some(fault),
            },
        }
    }
}

/// Elements of `size` bytes that lie wholly on the page of `va`, at most `count`.
fn on_page(va: VirtAddr, size: u8, count: u32) -> u32 {
    count.min(va.to_page_end() / u32::from(size))
}

impl Mmu {
    /// `rep stos`, ascending: as many of `count` elements as lie on the page of `va` (one, if that one crosses).
    pub fn rep_stos(
        &mut self,
        va: VirtAddr,
        size: u8,
        count: u32,
        value: u32,
        p: Privilege,
    ) -> Span {
        let n = on_page(va, size, count);
        if count == 0 {
            return Span::done(0);
        }
        if n <= 1 || self.shortcuts == Shortcuts::Off {
            return Span::one(self.write(va, size, u64::from(value), p));
        }
        let a = match self.data_page(va, AccessKind::Write, p) {
            Ok(a) => a,
            Err(fault) => return Span::one(Err(fault)),
        };
        self.repeat_dtlb(u64::from(n - 1));
        self.count_stores(a, size, n);
        self.fill(a, size, n, value);
        Span::done(n)
    }

    /// `rep movs`, ascending: as many of `count` elements as lie on the pages of both `to` and `from` (one, if either
    /// crosses).
    pub fn rep_movs(
        &mut self,
        to: VirtAddr,
        from: VirtAddr,
        size: u8,
        count: u32,
        p: Privilege,
    ) -> Span {
        if count == 0 {
            return Span::done(0);
        }
        let n = on_page(to, size, on_page(from, size, count));
        // With one way, source and destination may push each other out at every element.
        if n <= 1 || self.shortcuts == Shortcuts::Off || self.l1d_ways < 2 {
            return Span::one(self.move_one(to, from, size, p));
        }
        let pages = self
            .data_page(from, AccessKind::Read, p)
            .and_then(|source| {
                self.data_lines(source, size, Purpose::Load);
                // Read before the target's walk, which may mark an entry dirty that lies in the source.
                let value = self.get(source, size);
                Ok((source, value, self.data_page(to, AccessKind::Write, p)?))
            });
        let (source, value, target) = match pages {
            Ok(pages) => pages,
            Err(fault) => return Span::one(Err(fault)),
        };
        self.data_lines(target, size, Purpose::Store);
        if !self.both_hit((to, target), (from, source), p) || self.get(source, size) != value {
            self.put(target, size, value);
            return Span::done(1);
        }
        self.repeat_dtlb(2 * u64::from(n - 1));
        self.count_moves(source, target, size, n);
        self.copy(target, source, size, n);
        Span::done(n)
    }

    fn move_one(
        &mut self,
        to: VirtAddr,
        from: VirtAddr,
        size: u8,
        p: Privilege,
    ) -> Result<(), PageFault> {
        let value = self.read(from, size, p)?;
        self.write(to, size, value, p)
    }

    /// True if the next element's accesses hit at these addresses: neither page pushed the other out, and no dirty assist
    /// of the target changed what the source's stale entry said.
    fn both_hit(
        &self,
        (to, target): (VirtAddr, PhysAddr),
        (from, source): (VirtAddr, PhysAddr),
        p: Privilege,
    ) -> bool {
        let hit = |va, kind| self.dtlb.would_hit(va, self.control.need(kind, p));
        self.control.mode == PagingMode::Off
            || hit(from, AccessKind::Read) == Some(source)
                && hit(to, AccessKind::Write) == Some(target)
    }

    fn repeat_dtlb(&mut self, n: u64) {
        if self.control.mode != PagingMode::Off {
            self.account.add(Event::DtlbAccess, n);
        }
    }

    /// Counts the lines of `n` stores in a row.
    fn count_stores(&mut self, a: PhysAddr, size: u8, n: u32) {
        let (size, n) = (u64::from(size), u64::from(n));
        let line = 1u64 << self.caches.l1d.shift();
        let end = a.0 + size * n;
        let mut at = a.0 & !(line - 1);
        while at < end {
            // Elements that touch this line: from the one that holds its first byte to the one that holds its last.
            let first = at.saturating_sub(a.0) / size;
            let last = (at + line - a.0).div_ceil(size).min(n);
            self.data_line(PhysAddr(at.max(a.0)), Purpose::Store);
            self.hits(at, Purpose::Store, last - first - 1);
            at += line;
        }
    }

    /// Counts the lines of elements 1 to `n - 1` of a move; element 0 has been counted.
    fn count_moves(&mut self, source: PhysAddr, target: PhysAddr, size: u8, n: u32) {
        let (size, n) = (u64::from(size), u64::from(n));
        let line = 1u64 << self.caches.l1d.shift();
        let mut i = 1;
        while i < n {
            let (s, t) = (source.plus(i * size), target.plus(i * size));
            self.data_lines(s, size as u8, Purpose::Load);
            self.data_lines(t, size as u8, Purpose::Store);
            i += 1;
            // The elements after this one that lie on the same two lines hit both.
            let room = |a: PhysAddr| (line - (a.0 & (line - 1))) / size;
            let same = room(s).min(room(t)).saturating_sub(1).min(n - i);
            self.hits(s.0, Purpose::Load, same);
            self.hits(t.0, Purpose::Store, same);
            i += same;
        }
    }

    /// `n` more accesses of a line just used.
    fn hits(&mut self, at: u64, purpose: Purpose, n: u64) {
        let level = if at < MAX_RAM_BYTES {
            Level::L1
        } else {
            Level::MemoryRandom
        };
        self.account.add(Event::of(purpose, level), n);
    }

    fn fill(&mut self, a: PhysAddr, size: u8, n: u32, value: u32) {
        if !self.code.may_write(a) {
            return;
        }
        let zero = u64::from(value) & (u64::MAX >> (64 - 8 * u32::from(size))) == 0;
        if zero && u32::from(size) * n == PAGE_SIZE {
            return self.mem.clear_page(a.pfn());
        }
        let mut bytes = [0; PAGE_SIZE as usize];
        let bytes = &mut bytes[..usize::from(size) * n as usize];
        for element in bytes.chunks_exact_mut(usize::from(size)) {
            element.copy_from_slice(&value.to_le_bytes()[..usize::from(size)]);
        }
        self.mem.write_bytes(a, bytes);
    }

    /// Moves elements forward: where the target overlaps what is still to be read, bytes repeat.
    fn copy(&mut self, to: PhysAddr, from: PhysAddr, size: u8, n: u32) {
        if !self.code.may_write(to) {
            return;
        }
        let len = u64::from(size) * u64::from(n);
        if len == u64::from(PAGE_SIZE) {
            return self.mem.copy_page(to.pfn(), from.pfn());
        }
        let distance = to.0.wrapping_sub(from.0);
        if (1..u64::from(size)).contains(&distance) {
            for i in 0..u64::from(n) {
                let at = i * u64::from(size);
                let value = self.get(from.plus(at), size);
                self.put(to.plus(at), size, value);
            }
            return;
        }
        // Pieces no longer than the distance read only what is final.
        let piece = if distance < len { distance.max(1) } else { len };
        let mut bytes = [0; PAGE_SIZE as usize];
        let mut done = 0;
        while done < len && distance != 0 {
            let part = &mut bytes[..piece.min(len - done) as usize];
            self.mem.read_bytes(from.plus(done), part);
            self.mem.write_bytes(to.plus(done), part);
            done += part.len() as u64;
        }
    }
}
