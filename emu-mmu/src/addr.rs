//! Addresses and frame numbers as types: no raw integer crosses a module boundary.
//!
//! A linear ("virtual") address has 32 bits; a physical address up to 52, of which at most 36 reach RAM here. Pages are
//! 4 KiB, large pages 2 MiB (PAE). Invariant: arithmetic on [`VirtAddr`] wraps at 4 GiB as the CPU's does.

/// Bytes of a page.
pub const PAGE_SIZE: u32 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// log2 of a large (2 MiB) page.
pub const LARGE_SHIFT: u32 = 21;

/// A linear address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(pub u32);

/// A guest-physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(pub u64);

/// A guest-physical page frame number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(pub u32);

impl VirtAddr {
    /// Offset within the 4 KiB page.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        self.0 & (PAGE_SIZE - 1)
    }
    /// Number of the 4 KiB page.
    #[inline(always)]
    pub const fn vpn(self) -> u32 {
        self.0 >> PAGE_SHIFT
    }
    /// Number of the 2 MiB region, the index of a page-directory entry over all four directories.
    #[inline(always)]
    pub const fn large(self) -> u32 {
        self.0 >> LARGE_SHIFT
    }
    /// The address `n` bytes on, wrapping at 4 GiB.
    #[inline(always)]
    pub const fn wrapping_add(self, n: u32) -> VirtAddr {
        VirtAddr(self.0.wrapping_add(n))
    }
    /// Bytes from here to the end of the page, at least 1.
    #[inline(always)]
    pub const fn to_page_end(self) -> u32 {
        PAGE_SIZE - self.offset()
    }
}

impl PhysAddr {
    /// The frame that holds this address (must be below 2^44).
    #[inline(always)]
    pub const fn pfn(self) -> Pfn {
        Pfn((self.0 >> PAGE_SHIFT) as u32)
    }
    /// Offset within the frame.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        (self.0 as u32) & (PAGE_SIZE - 1)
    }
    /// The address `n` bytes on.
    #[inline(always)]
    pub const fn plus(self, n: u64) -> PhysAddr {
        PhysAddr(self.0.wrapping_add(n))
    }
}

impl Pfn {
    /// Address of the frame's first byte.
    #[inline(always)]
    pub const fn base(self) -> PhysAddr {
        PhysAddr((self.0 as u64) << PAGE_SHIFT)
    }
}
