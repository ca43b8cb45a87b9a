//! Page-table entries of 32-bit and PAE paging and what a TLB keeps of them (SDM vol. 3A, sections 4.3 and 4.4).
//!
//! Both formats have the same low bits, so an entry of four bytes is one of eight with the high half clear. Bits that the
//! MMU does not use (PWT, PCD, PAT, available) are ignored; the processor is taken to have PAT, so bit 7 of a PTE and bit
//! 12 of a large PDE are not reserved. It does not have PSE-36 (its CPUID does not say so): bits 21:13 of a PDE that maps
//! 4 MiB are reserved. 32-bit paging reserves nothing else, and nothing at all with CR4.PSE=0, where PS is ignored.
//!
//! Invariant: [`TlbEntry`] holds the conjunction of the rights on the path, never an entry that was not present, had a
//! reserved bit set, or was not yet marked accessed.

use crate::addr::{PAGE_SIZE, PhysAddr, Region, VirtAddr};
use crate::mmu::{AccessKind, PagingMode, Privilege};
use crate::phys::PhysMem;

/// P.
pub(crate) const PRESENT: u64 = 1;
/// R/W.
pub(crate) const WRITABLE: u64 = 1 << 1;
/// U/S.
pub(crate) const USER: u64 = 1 << 2;
/// A.
pub(crate) const ACCESSED: u64 = 1 << 5;
/// D, in a leaf.
pub(crate) const DIRTY: u64 = 1 << 6;
/// PS, in a PDE.
pub(crate) const LARGE_PAGE: u64 = 1 << 7;
/// G, in a leaf.
pub(crate) const GLOBAL: u64 = 1 << 8;
/// XD.
pub(crate) const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
/// Address bits below the base of a large page are reserved from here up; bit 12 is PAT.
const LARGE_RESERVED: u64 = !0x1FFF;
/// PDPTE bits 2:1 and 8:5.
const PDPTE_RESERVED: u64 = 0b1_1110_0110;

/// Where walks start: CR3 in 32-bit paging, the PDPTE registers under PAE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root {
    /// CR3 as last loaded.
    pub(crate) cr3: u32,
    /// The PDPTE registers.
    pub(crate) pdpte: [u64; 4],
}

/// The control-register bits that paging obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control {
    /// CR0.PG and CR4.PAE.
    pub(crate) mode: PagingMode,
    /// CR4.PSE, which only 32-bit paging looks at.
    pub(crate) pse: bool,
    /// CR0.WP.
    pub(crate) wp: bool,
    /// CR4.PGE.
    pub(crate) pge: bool,
    /// EFER.NXE, under PAE paging; the bit it enables does not exist elsewhere.
    pub(crate) nxe: bool,
    /// Physical address bits.
    pub(crate) maxphyaddr: u8,
}

impl Control {
    /// Bits 62:MAXPHYADDR.
    fn beyond(self) -> u64 {
        !NO_EXECUTE & !((1u64 << self.maxphyaddr) - 1)
    }

    /// What a directory entry covers in this mode.
    pub(crate) fn region(self) -> Region {
        match self.mode {
            PagingMode::Bits32 => Region::Mib4,
            PagingMode::Off | PagingMode::Pae => Region::Mib2,
        }
    }

    /// Address of the PDE of `va`, unless its PDPTE is not present.
    pub(crate) fn pde_address(self, root: &Root, va: VirtAddr) -> Option<PhysAddr> {
        if self.mode == PagingMode::Bits32 {
            let directory = table(u64::from(root.cr3));
            return Some(directory.plus(u64::from(Region::Mib4.of(va)) * 4));
        }
        let pdpte = root.pdpte[(va.0 >> 30) as usize];
        let index = u64::from(Region::Mib2.of(va) & 511);
        (pdpte & PRESENT != 0).then(|| table(pdpte).plus(index * 8))
    }

    /// Address of the PTE of `va` in the page table of `pde`.
    pub(crate) fn pte_address(self, pde: u64, va: VirtAddr) -> PhysAddr {
        let index = match self.mode {
            PagingMode::Bits32 => (va.vpn() & 1023) * 4,
            PagingMode::Off | PagingMode::Pae => (va.vpn() & 511) * 8,
        };
        table(pde).plus(u64::from(index))
    }

    /// The entry of a directory or table at `at`.
    pub(crate) fn entry_at(self, mem: &PhysMem, at: PhysAddr) -> u64 {
        match self.mode {
            PagingMode::Bits32 => u64::from(mem.read_u32(at)),
            PagingMode::Off | PagingMode::Pae => mem.read_u64(at),
        }
    }

    /// What a directory entry maps, if anything.
    pub(crate) fn size(self, pde: u64) -> PageSize {
        let large = pde & LARGE_PAGE != 0 && (self.pse || self.mode != PagingMode::Bits32);
        if large {
            PageSize::Large(self.region())
        } else {
            PageSize::Small
        }
    }

    /// True if a present entry has a reserved bit set.
    pub(crate) fn reserved(self, entry: u64, size: PageSize) -> bool {
        let nx = if self.nxe { 0 } else { NO_EXECUTE };
        let large = match size {
            PageSize::Large(region) => region.offset() & LARGE_RESERVED,
            PageSize::Small => 0,
        };
        entry & (self.beyond() | nx | large) != 0
    }

    /// True if a present PDPTE has a reserved bit set.
    pub(crate) fn pdpte_reserved(self, pdpte: u64) -> bool {
        pdpte & (PDPTE_RESERVED | NO_EXECUTE | self.beyond()) != 0
    }

    /// What a TLB keeps of a leaf below a path with these rights.
    pub(crate) fn leaf(self, path: Rights, leaf: u64, size: PageSize) -> TlbEntry {
        let rights = path.and(leaf);
        let (base, large) = match size {
            PageSize::Large(region) => (leaf & ADDRESS & !region.offset(), TlbEntry::large(region)),
            PageSize::Small => (leaf & ADDRESS, 0),
        };
        let bit = |on: bool, flag: u64| if on { flag } else { 0 };
        TlbEntry(
            base | large
                | bit(rights.0 & WRITABLE != 0, TlbEntry::W)
                | bit(rights.0 & USER != 0, TlbEntry::U)
                | bit(rights.0 & NO_EXECUTE == 0, TlbEntry::X)
                | bit(leaf & DIRTY != 0, TlbEntry::D)
                | bit(leaf & GLOBAL != 0 && self.pge, TlbEntry::G),
        )
    }

    /// The flags an access needs in the TLB entry it goes through.
    #[inline(always)]
    pub(crate) fn need(self, kind: AccessKind, p: Privilege) -> u64 {
        let user = match p {
            Privilege::User => TlbEntry::U,
            Privilege::Supervisor => 0,
        };
        match kind {
            AccessKind::Read => user,
            AccessKind::Fetch => user | TlbEntry::X,
            AccessKind::Write if user != 0 || self.wp => user | TlbEntry::W | TlbEntry::D,
            AccessKind::Write => TlbEntry::D,
        }
    }

    /// The error code of a fault.
    pub(crate) fn error_code(self, kind: AccessKind, p: Privilege, why: Why) -> u32 {
        let present = match why {
            Why::NotPresent => 0,
            Why::Rights => 1,
            Why::Reserved => 1 | 1 << 3,
        };
        let write = u32::from(kind == AccessKind::Write) << 1;
        let user = u32::from(p == Privilege::User) << 2;
        let fetch = u32::from(kind == AccessKind::Fetch && self.nxe) << 4;
        present | write | user | fetch
    }
}

/// Why a translation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// P=0 somewhere on the path.
    NotPresent,
    /// A reserved bit is set in a present entry.
    Reserved,
    /// The path is complete but does not allow the access.
    Rights,
}

/// What a directory entry maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageSize {
    /// 4 KiB, by a table.
    Small,
    /// All it covers.
    Large(Region),
}

/// Rights gathered along a path: R/W and U/S of all entries, XD of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights(u64);

impl Rights {
    /// Of a path with no entry yet (PDPTEs have no rights).
    pub(crate) const ALL: Rights = Rights(WRITABLE | USER);

    /// With one more entry.
    pub(crate) fn and(self, entry: u64) -> Rights {
        Rights(self.0 & entry & (WRITABLE | USER) | (self.0 | entry) & NO_EXECUTE)
    }
}

/// The physical address in an entry of any level.
fn table(entry: u64) -> PhysAddr {
    PhysAddr(entry & ADDRESS)
}

/// A translation: physical base in bits 51:12, flags below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TlbEntry(pub(crate) u64);

impl TlbEntry {
    /// Writable.
    pub(crate) const W: u64 = 1;
    /// User.
    pub(crate) const U: u64 = 1 << 1;
    /// Executable.
    pub(crate) const X: u64 = 1 << 2;
    /// Known dirty.
    pub(crate) const D: u64 = 1 << 3;
    /// Global.
    pub(crate) const G: u64 = 1 << 4;
    /// Maps a large page.
    pub(crate) const LARGE: u64 = 1 << 5;
    /// A 4 KiB piece of a large page.
    pub(crate) const FRAGMENT: u64 = 1 << 6;
    /// The large page has 4 MiB, not 2.
    const MIB4: u64 = 1 << 7;

    /// The flags of a large page.
    fn large(region: Region) -> u64 {
        match region {
            Region::Mib2 => Self::LARGE,
            Region::Mib4 => Self::LARGE | Self::MIB4,
        }
    }

    /// True if all these flags are set.
    #[inline(always)]
    pub(crate) fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// Where `va` is.
    #[inline(always)]
    pub(crate) fn translate(self, va: VirtAddr) -> PhysAddr {
        let offset = if !self.has(Self::LARGE) {
            u64::from(PAGE_SIZE) - 1
        } else if self.has(Self::MIB4) {
            Region::Mib4.offset()
        } else {
            Region::Mib2.offset()
        };
        PhysAddr(self.0 & ADDRESS | u64::from(va.0) & offset)
    }

    /// The 4 KiB piece of this large page that holds `va`.
    pub(crate) fn fragment(self, va: VirtAddr) -> TlbEntry {
        let base = self.translate(va).0 & ADDRESS;
        TlbEntry(base | self.0 & !ADDRESS & !Self::LARGE | Self::FRAGMENT)
    }

    /// True if both say the same of the page: a shadow's comparison, to which D does not matter.
    pub(crate) fn same_page(self, other: TlbEntry) -> bool {
        (self.0 ^ other.0) & !Self::D == 0
    }
}
