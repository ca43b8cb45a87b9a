//! Page-table entries of PAE paging and what a TLB keeps of them (SDM vol. 3A, section 4.4).
//!
//! Bits that the MMU does not use (PWT, PCD, PAT, available) are ignored; the processor is taken to have PAT, so bit 7 of
//! a PTE and bit 12 of a large PDE are not reserved.
//!
//! Invariant: [`TlbEntry`] holds the conjunction of the rights on the path, never an entry that was not present, had a
//! reserved bit set, or was not yet marked accessed.

use crate::addr::{LARGE_SHIFT, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::mmu::{AccessKind, Privilege};

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
/// Address bits below the base of a large page; 20:13 are reserved there.
const LARGE_OFFSET: u64 = (1 << LARGE_SHIFT) - 1;
const LARGE_RESERVED: u64 = LARGE_OFFSET & !0x1FFF;
/// PDPTE bits 2:1 and 8:5.
const PDPTE_RESERVED: u64 = 0b1_1110_0110;

/// The control-register bits that paging obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control {
    /// CR0.WP.
    pub(crate) wp: bool,
    /// CR4.PGE.
    pub(crate) pge: bool,
    /// EFER.NXE.
    pub(crate) nxe: bool,
    /// Physical address bits.
    pub(crate) maxphyaddr: u8,
}

impl Control {
    /// Bits 62:MAXPHYADDR.
    fn beyond(self) -> u64 {
        !NO_EXECUTE & !((1u64 << self.maxphyaddr) - 1)
    }

    /// True if a present entry has a reserved bit set. `large`: it is a PDE with PS=1.
    pub(crate) fn reserved(self, entry: u64, size: PageSize) -> bool {
        let nx = if self.nxe { 0 } else { NO_EXECUTE };
        let large = match size {
            PageSize::Large => LARGE_RESERVED,
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
            PageSize::Large => (leaf & ADDRESS & !LARGE_OFFSET, TlbEntry::LARGE),
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
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
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
pub(crate) fn table(entry: u64) -> PhysAddr {
    PhysAddr(entry & ADDRESS)
}

/// Address of the PDE of `va` in a page directory.
pub(crate) fn pde_address(pdpte: u64, va: VirtAddr) -> PhysAddr {
    table(pdpte).plus(u64::from(va.large() & 511) * 8)
}

/// Address of the PTE of `va` in a page table.
pub(crate) fn pte_address(pde: u64, va: VirtAddr) -> PhysAddr {
    table(pde).plus(u64::from(va.vpn() & 511) * 8)
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
    /// Maps 2 MiB.
    pub(crate) const LARGE: u64 = 1 << 5;
    /// A 4 KiB piece of a 2 MiB page.
    pub(crate) const FRAGMENT: u64 = 1 << 6;

    /// True if all these flags are set.
    #[inline(always)]
    pub(crate) fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// Where `va` is.
    #[inline(always)]
    pub(crate) fn translate(self, va: VirtAddr) -> PhysAddr {
        let offset = if self.has(Self::LARGE) {
            LARGE_OFFSET
        } else {
            u64::from(PAGE_SIZE) - 1
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
