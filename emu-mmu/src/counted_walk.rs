//! The counted page walk: the same translation as [`crate::walk`], with its loads, its A and D updates and its faults.
//!
//! One cache access per entry read that no walk cache holds, one more for each entry whose A (or A and D) must be set
//! (decisions D5, D8; SDM vol. 3A, sections 4.3, 4.4.2, 4.7, 4.8). A of a directory entry is set as soon as the entry is found
//! good (PAE), or only when the access is allowed (32-bit paging, as the 386 did and test suites for it expect; the manual
//! allows both), A and D of the leaf only when the access is allowed. PDPTEs are registers and cost nothing here.
//!
//! Invariant: for every state of memory the outcome equals the plain walker's plus the rights check, and memory differs
//! only by A and D bits.

use crate::addr::{PhysAddr, VirtAddr};
use crate::cache::Hierarchy;
use crate::code_watch::CodeWatch;
use crate::entry::{ACCESSED, Control, DIRTY, PageSize, Rights, Root, TlbEntry, Why};
use crate::mmu::PagingMode;
use crate::pde_cache::PdeCache;
use crate::phys::PhysMem;
use crate::walk;
use lowmem_cost::{Account, Event, Purpose};

/// Everything a walk works on.
pub(crate) struct WalkContext<'a> {
    pub(crate) mem: &'a mut PhysMem,
    /// Tables may lie in frames that hold decoded code, or in the ROM.
    pub(crate) code: &'a mut CodeWatch,
    pub(crate) account: &'a mut Account,
    pub(crate) caches: &'a mut Hierarchy,
    pub(crate) pde_cache: &'a mut PdeCache,
    pub(crate) root: &'a Root,
    pub(crate) control: Control,
    /// `ItlbWalk` or `DtlbWalk`.
    pub(crate) purpose: Purpose,
}

impl WalkContext<'_> {
    /// Walks for `va`; the access needs these flags of the result.
    pub(crate) fn walk(&mut self, va: VirtAddr, need: u64) -> Result<TlbEntry, Why> {
        let control = self.control;
        let pde_at = control.pde_address(self.root, va);
        let pde_at = pde_at.ok_or(Why::NotPresent)?;
        let mut unmarked = false;
        let pde = match self.pde_cache.get(va) {
            Some(pde) => pde,
            None => {
                let pde = self.load(pde_at);
                let size = control.size(pde);
                walk::check(control, pde, size)?;
                if size != PageSize::Small {
                    let entry = control.leaf(Rights::ALL, pde, size);
                    return self.use_leaf(pde_at, pde, entry, need);
                }
                if control.mode == PagingMode::Bits32 {
                    unmarked = true;
                } else {
                    self.mark_directory(va, pde_at, pde);
                }
                pde
            }
        };
        let at = control.pte_address(pde, va);
        let pte = self.load(at);
        walk::check(control, pte, PageSize::Small)?;
        let entry = control.leaf(Rights::ALL.and(pde), pte, PageSize::Small);
        if unmarked && entry.has(need & !TlbEntry::D) {
            self.mark_directory(va, pde_at, pde);
        }
        self.use_leaf(at, pte, entry, need)
    }

    /// A directory entry is used: marks it accessed and keeps it.
    fn mark_directory(&mut self, va: VirtAddr, at: PhysAddr, pde: u64) {
        self.set(at, pde, ACCESSED);
        self.pde_cache.insert(va, pde | ACCESSED);
    }

    /// A write hit an entry with D=0: sets D (and A) in the leaf that memory holds now, by one access of its own. The
    /// translation is looked up again, as the microcode does; the result replaces the TLB's.
    pub(crate) fn dirty_assist(&mut self, va: VirtAddr, need: u64) -> Result<TlbEntry, Why> {
        let walked = walk::walk(self.mem, self.root, self.control, va)?;
        if !walked.entry.has(need & !TlbEntry::D) {
            return Err(Why::Rights);
        }
        self.account.add(Event::DirtyAssist, 1);
        // Only after software has cleared it, or put another table in its place.
        if let Some((at, pde)) = walked.above {
            self.set(at, pde, ACCESSED);
        }
        self.charge(walked.leaf_at);
        self.write_bits(walked.leaf_at, walked.leaf, ACCESSED | DIRTY);
        Ok(TlbEntry(walked.entry.0 | TlbEntry::D))
    }

    fn use_leaf(
        &mut self,
        at: PhysAddr,
        leaf: u64,
        entry: TlbEntry,
        need: u64,
    ) -> Result<TlbEntry, Why> {
        if !entry.has(need & !TlbEntry::D) {
            return Err(Why::Rights);
        }
        if need & TlbEntry::D != 0 {
            self.set(at, leaf, ACCESSED | DIRTY);
            Ok(TlbEntry(entry.0 | TlbEntry::D))
        } else {
            self.set(at, leaf, ACCESSED);
            Ok(entry)
        }
    }

    fn load(&mut self, at: PhysAddr) -> u64 {
        self.charge(at);
        self.control.entry_at(self.mem, at)
    }

    /// Sets bits of an entry, if they are not all set.
    fn set(&mut self, at: PhysAddr, entry: u64, bits: u64) {
        if entry & bits != bits {
            self.charge(at);
            self.write_bits(at, entry, bits);
        }
    }

    /// A and D lie in the low word; writing only that keeps sparse frames sparse.
    fn write_bits(&mut self, at: PhysAddr, entry: u64, bits: u64) {
        if entry & bits != bits && self.code.may_write(at) {
            self.mem.write_u32(at, (entry | bits) as u32);
        }
    }

    fn charge(&mut self, at: PhysAddr) {
        let level = self.caches.access(at, self.purpose);
        self.account.add(Event::of(self.purpose, level), 1);
    }
}
