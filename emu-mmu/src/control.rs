//! Control registers, the paging mode they choose, and invalidation (SDM vol. 3A, sections 4.1, 4.4.1 and 4.10.4).
//!
//! | operation | entries dropped | PDPTE registers |
//! |---|---|---|
//! | CR3 load | non-global, PDE cache | loaded |
//! | CR4.PGE or PAE changes | all | loaded, if PAE paging results |
//! | CR4.PSE changes | all (from the Pentium 4 on: edition 032 of 2009, section 11.9; see below) | loaded, if PAE (section 4.4.1) |
//! | CR0.PG cleared | all | - |
//! | CR0.PG set | none (none is there) | loaded, if PAE paging results |
//! | CR0.CD or NW changes | none | loaded, if PAE |
//! | CR0.WP changes | none: it is looked at with every access | - |
//! | EFER.NXE changes | all (the manual leaves it to software; more may always be dropped) | - |
//! | invlpg | that page, PDE cache whole | - |
//!
//! Section 4.10.4.1 of later editions no longer names CR4.PSE among what invalidates, but leaves the processor free to
//! invalidate more; the 2006 edition (section 3.7.2) tells software to flush on the Pentium only. So to flush is right by all.
//!
//! Modes are switched at run time, with paging on too: CR4.PAE changes the format of every table at once. What raises #GP
//! by the value of a bit is the CPU's to check; only CR0.PG without PE and a bad PDPTE are found here. A load that fails
//! loads nothing and drops nothing. SMEP and PCID are not modelled; a task switch loads CR3 as MOV does.
//!
//! Invariant: under PAE, translation never reads CR3 or the PDPT in memory.

use crate::addr::{PhysAddr, VirtAddr};
use crate::entry::{Control, PRESENT};
use crate::mmu::{Mmu, PagingMode};
use lowmem_cost::geometry::PdpteRead;
use lowmem_cost::{Event, Level, Purpose};

const CR0_PE: u32 = 1;
const CR0_WP: u32 = 1 << 16;
const CR0_NW: u32 = 1 << 29;
const CR0_CD: u32 = 1 << 30;
const CR0_PG: u32 = 1 << 31;
const CR4_PSE: u32 = 1 << 4;
const CR4_PAE: u32 = 1 << 5;
const CR4_PGE: u32 = 1 << 7;
const EFER_NXE: u32 = 1 << 11;

/// Why a control register could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// #GP(0): a present PDPTE has a reserved bit set, or CR0.PG is set without PE; nothing was loaded.
    #[error("paging without protection, or reserved bit set in a present pdpte")]
    GeneralProtection,
}

/// Whose load of CR3 it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cr3Load {
    /// By the declared trampoline of a split kernel (counts `FlushSplit`).
    Split,
    /// Any other: counts `FlushSwitch` when the value changes, else `FlushCr3`.
    Other,
}

impl Mmu {
    /// Loads CR0.
    pub fn set_cr0(&mut self, new: u32) -> Result<(), ControlError> {
        if new & (CR0_PG | CR0_PE) == CR0_PG {
            return Err(ControlError::GeneralProtection);
        }
        let changed = new ^ self.cr0;
        let mode = mode(new, self.cr4);
        if mode == PagingMode::Pae && changed & (CR0_PG | CR0_CD | CR0_NW) != 0 {
            self.root.pdpte = self.load_pdptes(self.root.cr3)?;
        }
        self.cr0 = new;
        self.obey();
        if changed & CR0_PG != 0 {
            if mode == PagingMode::Off {
                self.account.add(Event::FlushGlobal, 1);
            }
            self.drop_all();
        }
        Ok(())
    }

    /// Loads CR3. The PDPTE registers are loaded with it under PAE paging.
    pub fn set_cr3(&mut self, new: u32, why: Cr3Load) -> Result<(), ControlError> {
        match self.control.mode {
            PagingMode::Off => {
                self.root.cr3 = new;
                return Ok(());
            }
            PagingMode::Bits32 => {}
            PagingMode::Pae => self.root.pdpte = self.load_pdptes(new)?,
        }
        let event = match why {
            Cr3Load::Split => Event::FlushSplit,
            Cr3Load::Other if new != self.root.cr3 => Event::FlushSwitch,
            Cr3Load::Other => Event::FlushCr3,
        };
        self.account.add(event, 1);
        self.root.cr3 = new;
        let root = self.root_tag();
        self.itlb.load_cr3(root, why);
        self.dtlb.load_cr3(root, why);
        self.pde_cache.clear();
        self.front_end.load_cr3(root);
        Ok(())
    }

    /// Loads CR4.
    pub fn set_cr4(&mut self, new: u32) -> Result<(), ControlError> {
        let paging = (new ^ self.cr4) & (CR4_PAE | CR4_PGE | CR4_PSE) != 0;
        let mode = mode(self.cr0, new);
        if mode == PagingMode::Pae && paging {
            self.root.pdpte = self.load_pdptes(self.root.cr3)?;
        }
        self.cr4 = new;
        self.obey();
        if mode != PagingMode::Off && paging {
            self.account.add(Event::FlushGlobal, 1);
            self.drop_all();
        }
        Ok(())
    }

    /// Loads the low half of EFER.
    pub fn set_efer(&mut self, new: u32) {
        let changed = new ^ self.efer;
        self.efer = new;
        self.obey();
        if changed & EFER_NXE != 0 {
            self.drop_all();
        }
    }

    /// CR0 as last loaded.
    pub fn cr0(&self) -> u32 {
        self.cr0
    }

    /// CR3 as last loaded.
    pub fn cr3(&self) -> u32 {
        self.root.cr3
    }

    /// CR4 as last loaded.
    pub fn cr4(&self) -> u32 {
        self.cr4
    }

    /// The low half of EFER as last loaded.
    pub fn efer(&self) -> u32 {
        self.efer
    }

    /// How addresses are translated now.
    pub fn paging_mode(&self) -> PagingMode {
        self.control.mode
    }

    /// invlpg: counts `FlushInvlpg`.
    pub fn invlpg(&mut self, va: VirtAddr) {
        self.account.add(Event::FlushInvlpg, 1);
        self.itlb.invalidate(va);
        self.dtlb.invalidate(va);
        self.front_end.invalidate(va);
        self.pde_cache.clear();
    }

    /// The running mm changes: decision D7's shadow drops its user entries. No event, no effect on the real TLBs.
    pub fn set_running_mm(&mut self, id: u32) {
        self.itlb.set_running_mm(id);
        self.dtlb.set_running_mm(id);
    }

    /// An mm is gone and its id may be used again: its pages will count as cold.
    pub fn forget_mm(&mut self, id: u32) {
        self.itlb.forget_mm(id);
        self.dtlb.forget_mm(id);
    }

    /// Empties TLBs, walk caches, shadows, caches and trace cache without counting: a machine that enters cycle mode.
    pub fn reset_state(&mut self) {
        self.drop_all();
        self.caches.clear();
        self.front_end.clear();
    }

    /// Everything that is a translation goes, global ones too.
    fn drop_all(&mut self) {
        let (root, region) = (self.root_tag(), self.control.region());
        self.itlb.flush_all(root, region);
        self.dtlb.flush_all(root, region);
        self.pde_cache.reset(region);
        self.front_end.flush_translations(region);
        self.front_end.load_cr3(root);
    }

    /// Translation follows the control registers as they are now.
    fn obey(&mut self) {
        let mode = mode(self.cr0, self.cr4);
        self.control = Control {
            mode,
            pse: self.cr4 & CR4_PSE != 0,
            wp: self.cr0 & CR0_WP != 0,
            pge: self.cr4 & CR4_PGE != 0,
            nxe: self.efer & EFER_NXE != 0 && mode == PagingMode::Pae,
            maxphyaddr: self.control.maxphyaddr,
        };
    }

    /// The page-table root in CR3, as the shadow tells them apart.
    fn root_tag(&self) -> u32 {
        match self.control.mode {
            PagingMode::Bits32 => self.root.cr3 >> 12,
            PagingMode::Off | PagingMode::Pae => self.root.cr3 >> 5,
        }
    }

    /// Reads the four PDPTEs at CR3[31:5], through the caches or past them.
    fn load_pdptes(&mut self, cr3: u32) -> Result<[u64; 4], ControlError> {
        let at = PhysAddr(u64::from(cr3 & !31));
        self.account.add(Event::PdpteLoad, 1);
        match self.pdpte_read {
            // One line holds all four.
            PdpteRead::Cached => {
                let level = self.caches.access(at, Purpose::Pdpte);
                self.account.add(Event::of(Purpose::Pdpte, level), 1);
            }
            PdpteRead::Uncached => {
                let event = Event::of(Purpose::Pdpte, Level::Uncached);
                self.account.add(event, 4);
            }
        }
        let pdptes = std::array::from_fn(|i| self.mem.read_u64(at.plus(8 * i as u64)));
        let bad = |&p: &u64| p & PRESENT != 0 && self.control.pdpte_reserved(p);
        if pdptes.iter().any(bad) {
            return Err(ControlError::GeneralProtection);
        }
        Ok(pdptes)
    }
}

fn mode(cr0: u32, cr4: u32) -> PagingMode {
    match (cr0 & CR0_PG != 0, cr4 & CR4_PAE != 0) {
        (false, _) => PagingMode::Off,
        (true, false) => PagingMode::Bits32,
        (true, true) => PagingMode::Pae,
    }
}
