//! Control registers and invalidation (SDM vol. 3A, sections 4.4.1 and 4.10.4).
//!
//! | operation | entries dropped | PDPTE registers |
//! |---|---|---|
//! | CR3 load | non-global, PDE cache | loaded |
//! | CR4.PGE or PAE changes | all | loaded, if PAE paging results |
//! | CR4.PSE changes | none | loaded |
//! | CR0.PG cleared | all | - |
//! | CR0.PG set | none (none is there) | loaded |
//! | CR0.CD or NW changes | none | loaded |
//! | EFER.NXE changes | all (the manual leaves it to software; more may always be dropped) | - |
//! | invlpg | that page, PDE cache whole | - |
//!
//! What raises #GP by the value of a bit is the CPU's to check; only a bad PDPTE is found here. A load that fails loads
//! nothing and drops nothing. SMEP, PCID and task switches' own rules are not modelled.
//!
//! Invariant: translation never reads CR3 or the PDPT in memory.

use crate::addr::{PhysAddr, VirtAddr};
use crate::entry::PRESENT;
use crate::mmu::{Mmu, PagingMode};
use lowmem_cost::geometry::PdpteRead;
use lowmem_cost::{Event, Level, Purpose};

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
    /// #GP(0): a present PDPTE has a reserved bit set; nothing was loaded.
    #[error("reserved bit set in a present pdpte")]
    GeneralProtection,
    /// CR0.PG=1 with CR4.PAE=0 is not modelled yet.
    #[error("32-bit paging without pae is not modelled")]
    LegacyPaging,
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
        let changed = new ^ self.cr0;
        let mode = mode(new, self.cr4)?;
        if mode == PagingMode::Pae && changed & (CR0_PG | CR0_CD | CR0_NW) != 0 {
            self.pdpte = self.load_pdptes(self.cr3)?;
        }
        self.cr0 = new;
        self.control.wp = new & CR0_WP != 0;
        if changed & CR0_PG != 0 {
            if mode == PagingMode::Off {
                self.account.add(Event::FlushGlobal, 1);
            }
            self.mode = mode;
            self.drop_all();
        }
        Ok(())
    }

    /// Loads CR3. The PDPTE registers are loaded with it under PAE paging.
    pub fn set_cr3(&mut self, new: u32, why: Cr3Load) -> Result<(), ControlError> {
        if self.mode == PagingMode::Off {
            self.cr3 = new;
            return Ok(());
        }
        self.pdpte = self.load_pdptes(new)?;
        let event = match why {
            Cr3Load::Split => Event::FlushSplit,
            Cr3Load::Other if new != self.cr3 => Event::FlushSwitch,
            Cr3Load::Other => Event::FlushCr3,
        };
        self.account.add(event, 1);
        self.cr3 = new;
        let root = root(new);
        self.itlb.load_cr3(root, why);
        self.dtlb.load_cr3(root, why);
        self.pde_cache.clear();
        self.front_end.load_cr3(root);
        Ok(())
    }

    /// Loads CR4.
    pub fn set_cr4(&mut self, new: u32) -> Result<(), ControlError> {
        let changed = new ^ self.cr4;
        let mode = mode(self.cr0, new)?;
        if mode == PagingMode::Pae && changed & (CR4_PAE | CR4_PGE | CR4_PSE) != 0 {
            self.pdpte = self.load_pdptes(self.cr3)?;
        }
        self.cr4 = new;
        self.control.pge = new & CR4_PGE != 0;
        if mode == PagingMode::Pae && changed & (CR4_PAE | CR4_PGE) != 0 {
            self.account.add(Event::FlushGlobal, 1);
            self.drop_all();
        }
        Ok(())
    }

    /// Loads the low half of EFER.
    pub fn set_efer(&mut self, new: u32) {
        let changed = new ^ self.efer;
        self.efer = new;
        self.control.nxe = new & EFER_NXE != 0;
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
        self.cr3
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
        self.mode
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
        let root = root(self.cr3);
        self.itlb.flush_all(root);
        self.dtlb.flush_all(root);
        self.pde_cache.clear();
        self.front_end.flush_translations();
        self.front_end.load_cr3(root);
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

fn mode(cr0: u32, cr4: u32) -> Result<PagingMode, ControlError> {
    match (cr0 & CR0_PG != 0, cr4 & CR4_PAE != 0) {
        (false, _) => Ok(PagingMode::Off),
        (true, true) => Ok(PagingMode::Pae),
        (true, false) => Err(ControlError::LegacyPaging),
    }
}

/// The page-table root in CR3, as the shadow tells them apart.
fn root(cr3: u32) -> u32 {
    cr3 >> 5
}
