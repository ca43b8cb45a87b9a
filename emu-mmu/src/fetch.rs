//! Instruction fetches (decision D5).
//!
//! With an L1I: one ITLB access per page and one L1I access per line an instruction touches; an L1I miss goes to L2.
//! With a trace cache: one look-up per line of it; only a miss consults the ITLB, once per page of the instruction, and is
//! filled from L2. Bytes are not read here: the CPU reads them from memory at the address it is given.
//!
//! Invariant: pages are translated in order before the lines on them are accessed.

use crate::addr::{PhysAddr, VirtAddr};
use crate::entry::{ACCESSED, TlbEntry};
use crate::front_end::{FrontEnd, Held};
use crate::mmu::{AccessKind, Mmu, PageFault, PagingMode, Privilege};
use crate::phys::MAX_RAM_BYTES;
use crate::tlb_unit::Shortcuts;
use lowmem_cost::{Event, Level, Purpose};

impl Mmu {
    /// Counts the fetch of an instruction of `len` bytes (1 to 15); gives the physical address of its first byte.
    #[inline]
    pub fn fetch(&mut self, va: VirtAddr, len: u8, p: Privilege) -> Result<PhysAddr, PageFault> {
        if let FrontEnd::Trace(_) = self.front_end {
            return self.fetch_traces(va, len, p);
        }
        if u32::from(len) > va.to_page_end() {
            return self.fetch_across(va, len, p);
        }
        let a = self.code_page(va, p)?;
        self.code_lines(a, len);
        Ok(a)
    }

    /// As `n` fetches in a row of the same instruction (`n` at least 1).
    pub fn fetch_many(
        &mut self,
        va: VirtAddr,
        len: u8,
        n: u64,
        p: Privilege,
    ) -> Result<PhysAddr, PageFault> {
        let a = self.fetch(va, len, p)?;
        let shift = self.code_line_shift();
        let last = va.wrapping_add(u32::from(len) - 1);
        let one_line = (va.0 ^ last.0) >> shift == 0 && a.0 < MAX_RAM_BYTES;
        if self.shortcuts == Shortcuts::Off || !one_line {
            for _ in 1..n {
                self.fetch(va, len, p)?;
            }
            return Ok(a);
        }
        self.refetch(n - 1);
        Ok(a)
    }

    /// Counts `n` more fetches of instructions that lie wholly in the line of the last fetch. The caller knows that the
    /// last fetch succeeded, ended in that line, and that nothing was invalidated since: no CR or EFER load, no invlpg, no
    /// #PF. Data accesses in between do not matter: the repeats are hits of page and line that change nothing.
    #[inline]
    pub fn refetch(&mut self, n: u64) {
        match &self.front_end {
            FrontEnd::L1i(_) => {
                if self.control.mode != PagingMode::Off {
                    self.account.add(Event::ItlbAccess, n);
                }
                self.account.add(Event::FetchL1, n);
            }
            FrontEnd::Trace(_) => self.account.add(Event::TcAccess, n),
        }
    }

    /// log2 of the linear bytes of code that one line of the front end holds, for [`Mmu::refetch`].
    pub fn code_line_shift(&self) -> u32 {
        match &self.front_end {
            FrontEnd::L1i(cache) => cache.shift(),
            FrontEnd::Trace(t) => t.shift(),
        }
    }

    /// Where the instruction bytes at `va` are, as the next fetch would find them: trace cache, ITLB, then the tables.
    /// Counts and changes nothing; it is for reading the bytes before their number is known. After an `Err`, call
    /// [`Mmu::fetch`] to count and raise the fault.
    pub fn peek_code(&self, va: VirtAddr, p: Privilege) -> Result<PhysAddr, PageFault> {
        if let FrontEnd::Trace(t) = &self.front_end
            && let Some(held) = t.peek(va, p)
            && let Some(a) = self.proved(va, held)
        {
            return Ok(a);
        }
        self.foresee(va, AccessKind::Fetch, p)
            .map_err(|why| PageFault {
                addr: va,
                code: self.control.error_code(AccessKind::Fetch, p, why),
            })
    }

    #[cold]
    fn fetch_across(&mut self, va: VirtAddr, len: u8, p: Privilege) -> Result<PhysAddr, PageFault> {
        let first = va.to_page_end();
        let a = self.code_page(va, p)?;
        let b = self.code_page(va.wrapping_add(first), p)?;
        self.code_lines(a, first as u8);
        self.code_lines(b, len - first as u8);
        Ok(a)
    }

    /// Counts the L1I lines of bytes within a page.
    #[inline(always)]
    fn code_lines(&mut self, a: PhysAddr, len: u8) {
        let FrontEnd::L1i(cache) = &self.front_end else {
            unreachable!("a trace cache has no lines of physical addresses");
        };
        let shift = cache.shift();
        self.code_line(a);
        let last = a.plus(u64::from(len) - 1);
        if (a.0 ^ last.0) >> shift != 0 {
            self.code_line(last);
        }
    }

    #[inline(always)]
    fn code_line(&mut self, a: PhysAddr) {
        let FrontEnd::L1i(cache) = &self.front_end else {
            unreachable!("a trace cache has no lines of physical addresses");
        };
        let level = if self.is_newest_line(cache, a) {
            Level::L1
        } else {
            self.code_line_slow(a)
        };
        self.account.add(Event::of(Purpose::Fetch, level), 1);
    }

    fn code_line_slow(&mut self, a: PhysAddr) -> Level {
        if a.0 >= MAX_RAM_BYTES {
            return Level::MemoryRandom;
        }
        let hit = match &mut self.front_end {
            FrontEnd::L1i(cache) => cache.access(a),
            FrontEnd::Trace(_) => false,
        };
        if hit {
            Level::L1
        } else {
            self.caches.beyond_l1(a, Purpose::Fetch)
        }
    }

    /// A fetch through the trace cache.
    fn fetch_traces(&mut self, va: VirtAddr, len: u8, p: Privilege) -> Result<PhysAddr, PageFault> {
        let FrontEnd::Trace(t) = &self.front_end else {
            unreachable!("called for a trace cache");
        };
        let line = 1u32 << t.shift();
        let (mut at, mut left) = (va, u32::from(len));
        let mut first = None;
        // The page this instruction has translated last, and where it is.
        let mut page: Option<(u32, PhysAddr)> = None;
        loop {
            let a = self.trace_line(at, p, &mut page)?;
            first.get_or_insert(a);
            let step = line - (at.0 & (line - 1));
            if step >= left {
                break;
            }
            left -= step;
            at = at.wrapping_add(step);
        }
        Ok(first.expect("an instruction has at least one line"))
    }

    fn trace_line(
        &mut self,
        va: VirtAddr,
        p: Privilege,
        page: &mut Option<(u32, PhysAddr)>,
    ) -> Result<PhysAddr, PageFault> {
        self.account.add(Event::TcAccess, 1);
        if let FrontEnd::Trace(t) = &mut self.front_end {
            match t.access(va, p) {
                Some(Held::Sure(a)) => return Ok(a),
                Some(held @ Held::Unsure(slot, ..)) => {
                    if let Some(a) = self.proved(va, held) {
                        self.confirm_line(slot);
                        return Ok(a);
                    }
                }
                None => {}
            }
        }
        self.account.add(Event::TcMiss, 1);
        let base = match *page {
            Some((vpn, base)) if vpn == va.vpn() => base,
            _ => {
                let a = self.code_page(va, p)?;
                let base = PhysAddr(a.0 - u64::from(va.offset()));
                *page = Some((va.vpn(), base));
                base
            }
        };
        let a = base.plus(u64::from(va.offset()));
        let level = self.caches.beyond_l1(a, Purpose::Fetch);
        self.account.add(Event::of(Purpose::Fetch, level), 1);
        let entry = match self.control.mode {
            PagingMode::Off => TlbEntry(TlbEntry::U),
            PagingMode::Bits32 | PagingMode::Pae => {
                let entry = self.itlb.peek(va);
                entry.expect("the ITLB holds what it has just translated")
            }
        };
        if let FrontEnd::Trace(t) = &mut self.front_end {
            t.insert(va, a, entry);
        }
        Ok(a)
    }

    /// Where a held line has `va`, if the next translation would say the same of it: through the ITLB, or through tables
    /// that are marked accessed. Counts and changes nothing.
    fn proved(&self, va: VirtAddr, held: Held) -> Option<PhysAddr> {
        let (at, flags) = match held {
            Held::Sure(at) => return Some(at),
            Held::Unsure(_, at, flags) => (at, flags),
        };
        let entry = match self.itlb.peek(va) {
            Some(entry) => entry,
            None => {
                let walked = self.foresee_walk(va).ok()?;
                let above = walked.above.map_or(ACCESSED, |(_, pde)| pde);
                if walked.leaf & above & ACCESSED == 0 {
                    return None;
                }
                walked.entry
            }
        };
        let user = (entry.0 ^ flags.0) & TlbEntry::U == 0;
        (user && entry.has(TlbEntry::X) && entry.translate(va) == at).then_some(at)
    }

    fn confirm_line(&mut self, slot: u32) {
        if let FrontEnd::Trace(t) = &mut self.front_end {
            t.confirm(slot);
        }
    }
}
