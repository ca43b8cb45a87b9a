//! Addresses and frame numbers as types: no raw integer crosses a module boundary.
//!
//! A linear ("virtual") address has 32 bits; a physical address up to 52, of which at most 36 reach RAM here. Pages are
//! 4 KiB, large pages the `Region` of a directory entry: 2 MiB under PAE, 4 MiB in 32-bit paging. Invariant: arithmetic on [`VirtAddr`] wraps at 4 GiB as the CPU's does.

/// Bytes of a page.
pub const PAGE_SIZE: u32 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// What one directory entry covers: the size of a large page, and the reach of a cached directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Region {
    /// PAE paging.
    Mib2,
    /// 32-bit paging.
    Mib4,
}

impl Region {
    /// log2 of its bytes.
    #[inline(always)]
    pub(crate) const fn shift(self) -> u32 {
        match self {
            Region::Mib2 => 21,
            Region::Mib4 => 22,
        }
    }
    /// Number of the region of an address.
    #[inline(always)]
    pub(crate) const fn of(self, va: VirtAddr) -> u32 {
        va.0 >> self.shift()
    }
    /// Names a large page: no other size of page, large or small, has this number.
    #[inline(always)]
    pub(crate) const fn key(self, va: VirtAddr) -> u32 {
        let mark = match self {
            Region::Mib2 => 1 << 20,
            // A region number has at most 11 bits.
            Region::Mib4 => 1 << 20 | 1 << 19,
        };
        self.of(va) | mark
    }
    /// Number of the region of a page.
    #[inline(always)]
    pub(crate) const fn of_page(self, vpn: u32) -> u32 {
        vpn >> (self.shift() - PAGE_SHIFT)
    }
    /// The address bits below its base.
    pub(crate) const fn offset(self) -> u64 {
        (1 << self.shift()) - 1
    }
}

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
