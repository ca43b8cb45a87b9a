//! The memory-management unit: what a linear access costs and finds (decisions D5 to D8).
//!
//! This file has the unit itself and translation; its other operations are in their own files: `control`
//! (control registers and invalidation), `data` (reads, writes, read-modify-writes), `fetch`
//! (instruction fetches) and `span` (repeated string operations).
//!
//! [`Mmu::reference`] builds the slow twin: the same unit with every shortcut off. Property tests hold the two together.
//! Invariant: the account depends only on the sequence of operations, not on shortcuts or on representations of memory.

use crate::addr::{PhysAddr, VirtAddr};
use crate::cache::Hierarchy;
use crate::code_watch::CodeWatch;
use crate::counted_walk::WalkContext;
use crate::entry::{Control, Root, TlbEntry, Why};
use crate::front_end::FrontEnd;
use crate::geometry::{GeometryError, check_geometry};
use crate::pde_cache::PdeCache;
use crate::phys::{PhysError, PhysMem};
use crate::tlb_unit::{DTLB, ITLB, Shortcuts, TlbUnit};
use crate::walk;
use lowmem_cost::geometry::PdpteRead;
use lowmem_cost::{Account, Geometry};

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write, read-modify-writes included.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// With whose rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// CPL 3.
    User,
    /// CPL 0 to 2, and implicit accesses to descriptor tables and TSS at any CPL.
    Supervisor,
}

/// #PF: the faulting linear address (CR2) and the error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFault {
    /// Goes to CR2.
    pub addr: VirtAddr,
    /// Bits P (0), W/R (1), U/S (2), RSVD (3), I/D (4, only with PAE paging and EFER.NXE).
    pub code: u32,
}

/// How linear addresses become physical ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagingMode {
    /// CR0.PG=0: identity, no TLB.
    Off,
    /// CR0.PG=1, CR4.PAE=0: two levels of four-byte entries, pages of 4 KiB and, with CR4.PSE, of 4 MiB.
    Bits32,
    /// CR0.PG=1, CR4.PAE=1: PDPTE registers, two levels of eight-byte entries, pages of 4 KiB and 2 MiB.
    Pae,
}

/// Physical memory, TLBs, caches, and the account they count into.
#[derive(Debug)]
pub struct Mmu {
    /// Guest-physical memory. Writing it directly is the machine's right, not counted, and not seen by
    /// [`Mmu::code_written`].
    pub mem: PhysMem,
    /// Where everything is counted; the CPU counts here too.
    pub account: Account,
    pub(crate) control: Control,
    pub(crate) cr0: u32,
    pub(crate) cr4: u32,
    pub(crate) efer: u32,
    pub(crate) root: Root,
    pub(crate) pdpte_read: PdpteRead,
    pub(crate) itlb: TlbUnit,
    pub(crate) dtlb: TlbUnit,
    pub(crate) pde_cache: PdeCache,
    pub(crate) caches: Hierarchy,
    pub(crate) l1d_ways: u32,
    pub(crate) front_end: FrontEnd,
    pub(crate) shortcuts: Shortcuts,
    pub(crate) code: CodeWatch,
}

impl Mmu {
    /// A unit with empty TLBs and caches, paging off.
    pub fn new(mem: PhysMem, geometry: &Geometry) -> Result<Mmu, GeometryError> {
        Self::build(mem, geometry, Shortcuts::On)
    }

    /// The slow twin: equal in every result and every count, without any shortcut.
    pub fn reference(mem: PhysMem, geometry: &Geometry) -> Result<Mmu, GeometryError> {
        Self::build(mem, geometry, Shortcuts::Off)
    }

    fn build(mem: PhysMem, g: &Geometry, shortcuts: Shortcuts) -> Result<Mmu, GeometryError> {
        check_geometry(g)?;
        let repl = g.tlb_replacement;
        Ok(Mmu {
            account: Account::default(),
            control: Control {
                mode: PagingMode::Off,
                pse: false,
                wp: false,
                pge: false,
                nxe: false,
                maxphyaddr: g.maxphyaddr,
            },
            cr0: 0,
            cr4: 0,
            efer: 0,
            root: Root {
                cr3: 0,
                pdpte: [0; 4],
            },
            pdpte_read: g.pdpte_read,
            itlb: TlbUnit::new(&g.itlb, repl, ITLB, shortcuts),
            dtlb: TlbUnit::new(&g.dtlb, repl, DTLB, shortcuts),
            pde_cache: PdeCache::new(g.pde_cache, repl),
            caches: Hierarchy::new(g),
            l1d_ways: g.l1d.ways,
            front_end: FrontEnd::new(&g.front_end, g.cache_replacement),
            shortcuts,
            code: CodeWatch::new(&mem),
            mem,
        })
    }

    /// The same unit over a copy-on-write copy of memory (see [`PhysMem::clone_cow`] for what the original must not do
    /// meanwhile). Watched code is not copied.
    pub fn clone_cow(&self) -> Result<Mmu, PhysError> {
        Ok(Mmu {
            mem: self.mem.clone_cow()?,
            account: self.account.clone(),
            itlb: self.itlb.clone(),
            dtlb: self.dtlb.clone(),
            pde_cache: self.pde_cache.clone(),
            caches: self.caches.clone(),
            front_end: self.front_end.clone(),
            code: CodeWatch::new(&self.mem),
            ..*self
        })
    }

    /// A clone goes back to the state of `original`, which it was cloned from and which has stood still: memory in time
    /// proportional to what was written, TLBs and caches by copying. Watched code is forgotten.
    ///
    /// # Panics
    /// If this unit's memory is not a clone.
    pub fn reset_to(&mut self, original: &Mmu) {
        self.mem.reset();
        self.account.clone_from(&original.account);
        self.control = original.control;
        (self.cr0, self.cr4) = (original.cr0, original.cr4);
        self.efer = original.efer;
        self.root = original.root;
        self.itlb.clone_from(&original.itlb);
        self.dtlb.clone_from(&original.dtlb);
        self.pde_cache.clone_from(&original.pde_cache);
        self.caches.clone_from(&original.caches);
        self.front_end.clone_from(&original.front_end);
        self.code = CodeWatch::new(&self.mem);
    }

    /// One counted data or instruction translation, without a cache access.
    pub fn translate(
        &mut self,
        va: VirtAddr,
        kind: AccessKind,
        p: Privilege,
    ) -> Result<PhysAddr, PageFault> {
        match kind {
            AccessKind::Fetch => self.code_page(va, p),
            AccessKind::Read | AccessKind::Write => self.data_page(va, kind, p),
        }
    }

    /// Debugging translation by the plain walker over the tables in memory. Counts and changes nothing, checks no rights.
    pub fn peek(&self, va: VirtAddr) -> Option<PhysAddr> {
        match self.control.mode {
            PagingMode::Off => Some(PhysAddr(u64::from(va.0))),
            PagingMode::Bits32 | PagingMode::Pae => {
                let walked = walk::walk(&self.mem, &self.root, self.control, va).ok()?;
                Some(walked.entry.translate(va))
            }
        }
    }

    /// What the next access of this kind would find, TLB first, then the tables. Counts and changes nothing.
    pub(crate) fn foresee(
        &self,
        va: VirtAddr,
        kind: AccessKind,
        p: Privilege,
    ) -> Result<PhysAddr, Why> {
        if self.control.mode == PagingMode::Off {
            return Ok(PhysAddr(u64::from(va.0)));
        }
        let unit = match kind {
            AccessKind::Fetch => &self.itlb,
            AccessKind::Read | AccessKind::Write => &self.dtlb,
        };
        let need = self.control.need(kind, p);
        let allowed = |entry: TlbEntry| {
            if entry.has(need & !TlbEntry::D) {
                Ok(entry)
            } else {
                Err(Why::Rights)
            }
        };
        let held = unit.peek(va).map(allowed).transpose()?;
        let entry = match held {
            Some(entry) if entry.has(need) => entry,
            // Held clean, which the dirty assist looks up again in memory.
            Some(_) => allowed(walk::walk(&self.mem, &self.root, self.control, va)?.entry)?,
            None => allowed(self.foresee_walk(va)?.entry)?,
        };
        Ok(entry.translate(va))
    }

    /// What the next walk would find, which may go through a cached directory entry.
    pub(crate) fn foresee_walk(&self, va: VirtAddr) -> Result<walk::Walked, Why> {
        // Without its PDPTE no cached entry is used either.
        self.control
            .pde_address(&self.root, va)
            .ok_or(Why::NotPresent)?;
        match self.pde_cache.peek(va) {
            Some(pde) => walk::walk_table(&self.mem, self.control, va, pde),
            None => walk::walk(&self.mem, &self.root, self.control, va),
        }
    }

    /// Misses of the shadow ITLB and DTLB since the start, for the identity of decision D7.
    pub fn shadow_misses(&self) -> (u64, u64) {
        (self.itlb.shadow_misses(), self.dtlb.shadow_misses())
    }

    /// One counted DTLB access.
    #[inline(always)]
    pub(crate) fn data_page(
        &mut self,
        va: VirtAddr,
        kind: AccessKind,
        p: Privilege,
    ) -> Result<PhysAddr, PageFault> {
        if self.control.mode == PagingMode::Off {
            return Ok(PhysAddr(u64::from(va.0)));
        }
        self.account.add(self.dtlb.events.access, 1);
        let need = self.control.need(kind, p);
        match self.dtlb.lookup(va, need) {
            Some(a) => Ok(a),
            None => self.data_page_slow(va, kind, p),
        }
    }

    #[inline(never)]
    fn data_page_slow(
        &mut self,
        va: VirtAddr,
        kind: AccessKind,
        p: Privilege,
    ) -> Result<PhysAddr, PageFault> {
        let need = self.control.need(kind, p);
        let mut ctx = WalkContext {
            mem: &mut self.mem,
            code: &mut self.code,
            account: &mut self.account,
            caches: &mut self.caches,
            pde_cache: &mut self.pde_cache,
            root: &self.root,
            control: self.control,
            purpose: self.dtlb.events.purpose,
        };
        let result = self.dtlb.translate(&mut ctx, va, need);
        result.map_err(|why| self.raise(va, kind, p, why))
    }

    /// One counted ITLB access.
    #[inline(always)]
    pub(crate) fn code_page(&mut self, va: VirtAddr, p: Privilege) -> Result<PhysAddr, PageFault> {
        if self.control.mode == PagingMode::Off {
            return Ok(PhysAddr(u64::from(va.0)));
        }
        self.account.add(self.itlb.events.access, 1);
        let need = self.control.need(AccessKind::Fetch, p);
        match self.itlb.lookup(va, need) {
            Some(a) => Ok(a),
            None => self.code_page_slow(va, p),
        }
    }

    #[inline(never)]
    fn code_page_slow(&mut self, va: VirtAddr, p: Privilege) -> Result<PhysAddr, PageFault> {
        let need = self.control.need(AccessKind::Fetch, p);
        let mut ctx = WalkContext {
            mem: &mut self.mem,
            code: &mut self.code,
            account: &mut self.account,
            caches: &mut self.caches,
            pde_cache: &mut self.pde_cache,
            root: &self.root,
            control: self.control,
            purpose: self.itlb.events.purpose,
        };
        let result = self.itlb.translate(&mut ctx, va, need);
        result.map_err(|why| self.raise(va, AccessKind::Fetch, p, why))
    }

    /// A #PF: everything cached for the address is dropped (SDM vol. 3A, section 4.10.4.1).
    #[cold]
    pub(crate) fn raise(
        &mut self,
        va: VirtAddr,
        kind: AccessKind,
        p: Privilege,
        why: Why,
    ) -> PageFault {
        self.itlb.invalidate(va);
        self.dtlb.invalidate(va);
        self.front_end.invalidate(va);
        self.pde_cache.invalidate(va);
        PageFault {
            addr: va,
            code: self.control.error_code(kind, p, why),
        }
    }
}
