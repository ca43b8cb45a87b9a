//! Page clustering: one struct page for 2^PAGE_MMUSHIFT frames (Hugh Dickins 2000/2001 "large PAGE_SIZE", William Irwin's "pgcl").
//!
//! MMUPAGE is 4 KB: what hardware and the user's interface see, in which ptes, vm_pgoff, the granularity of mmap and a pte's frame
//! number count. A *page* is a cluster of N = 1 << PAGE_MMUSHIFT frames, aligned to its size: one struct page, one LRU entry, one
//! index of the page cache, one swap slot. The image has the feature or has not ([`crate::axes::ClusterKind`]); without it the shift is
//! the constant 0 and none of this costs an instruction. With it the shift is a boot parameter, 0 to 4.
//!
//! Frame `i` of a page is its *sub-page* `i`. Where an object has the page at index I, sub-page `i` belongs at page offset
//! `(I << PAGE_MMUSHIFT) + i`, for files and for anonymous memory alike: a pte knows from its frame number which sub-page it
//! shows, and from its vma where the others belong. Those places are the [`Window`] of the pte: aligned by page offset, not by address, so
//! that it stays whole when mremap moves a vma to an address of another phase. Leaves out: a granularity of mmap that is larger
//! than 4 KB, which pgcl refused as well.
//!
//! Invariant: a pte that maps sub-page `i` of a page of a linear mapping lies at a page offset that is `i` modulo N.

use crate::axes::ClusterKind;
use crate::kernel::Kernel;
use crate::layout::{Mm, Page, Vma};
use crate::page_alloc::{page_to_pfn, zone};
use crate::pgtable::{Pte, pte_get, pte_lookup, pte_lookup_nested, pte_unmap, task_size};
use crate::ptr::{Kmapped, Low};
use crate::rmap::PteAt;
use lowmem_abi::layout::{PAGE_SHIFT, PAGE_SIZE};
use lowmem_abi::port::{Transfer, TransferKind};

/// Largest PAGE_MMUSHIFT: pages of 64 KB.
pub const MAX_SHIFT: u32 = 4;

/// Whether pages may be larger than frames.
#[inline(always)]
pub fn clustered<K: Kernel>(k: K) -> bool {
    matches!(k.axes().cluster, ClusterKind::Clustered)
}

/// PAGE_MMUSHIFT: log2 of the frames of a page.
#[inline(always)]
pub fn mmu_shift<K: Kernel>(k: K) -> u32 {
    if clustered(k) {
        zone::node(k).mmu_shift(k)
    } else {
        0
    }
}

/// PAGE_MMUCOUNT: frames of a page.
#[inline(always)]
pub fn mmu_count<K: Kernel>(k: K) -> u32 {
    1 << mmu_shift(k)
}

/// Bytes of a page.
#[inline(always)]
pub fn page_bytes<K: Kernel>(k: K) -> u32 {
    PAGE_SIZE << mmu_shift(k)
}

/// Which sub-page a frame, or the frame at a page offset, is.
#[inline(always)]
pub fn sub_of<K: Kernel>(k: K, frame: u32) -> u32 {
    frame & (mmu_count(k) - 1)
}

/// Index of the page that holds a page offset.
#[inline(always)]
pub fn index_of<K: Kernel>(k: K, pgoff: u32) -> u32 {
    pgoff >> mmu_shift(k)
}

/// The page offset that a present pte shows of the object its page is at `index` of.
#[inline(always)]
pub fn pgoff_of<K: Kernel>(k: K, index: u32, pte: Pte) -> u32 {
    (index << mmu_shift(k)) | sub_of(k, pte.pfn())
}

/// Page offset in 4 KB that `addr` of a linear `vma` shows.
#[inline(always)]
pub fn linear_pgoff<K: Kernel>(k: K, vma: Low<Vma>, addr: u32) -> u32 {
    (addr.wrapping_sub(vma.start(k)) >> PAGE_SHIFT).wrapping_add(vma.pgoff(k))
}

/// Fills a page with zeros, mapped whole at `at`.
#[inline(always)]
pub fn clear_page<K: Kernel>(k: K, at: Kmapped) {
    let mut i = 0;
    while i < mmu_count(k) {
        k.clear_page(at.at(i << PAGE_SHIFT));
        i += 1;
    }
}

/// Copies a page, both mapped whole.
#[inline(always)]
pub fn copy_page<K: Kernel>(k: K, to: Kmapped, from: Kmapped) {
    let mut i = 0;
    while i < mmu_count(k) {
        k.copy_page(to.at(i << PAGE_SHIFT), from.at(i << PAGE_SHIFT));
        i += 1;
    }
}

/// Has a device read or write a page: page `index` of `file`, or swap slot `index`. The device knows frames only.
#[inline(always)]
pub fn transfer<K: Kernel>(k: K, kind: TransferKind, page: Low<Page>, (file, index): (u32, u32)) {
    let pfn = page_to_pfn(k, page);
    let mut i = 0;
    while i < mmu_count(k) {
        k.transfer(Transfer {
            kind: kind as u32,
            pfn: pfn + i,
            file,
            index: (index << mmu_shift(k)) + i,
        });
        i += 1;
    }
}

/// The ptes that may map the page that one pte maps, or would: those at page offsets of the same index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Address of the first.
    pub start: u32,
    /// Address behind the last.
    pub end: u32,
}

impl Window {
    /// The part inside `vma` of the window of `addr`.
    #[inline]
    pub fn of<K: Kernel>(k: K, vma: Low<Vma>, addr: u32) -> Self {
        let sub = sub_of(k, linear_pgoff(k, vma, addr));
        let below = sub.min((addr - vma.start(k)) >> PAGE_SHIFT);
        let above = (mmu_count(k) - 1 - sub).min((vma.end(k) - 1 - addr) >> PAGE_SHIFT);
        Self::around(addr, below, above)
    }

    /// The window of `addr`, which shows or would show sub-page `sub`, whatever vmas it touches.
    #[inline]
    pub fn whole<K: Kernel>(k: K, addr: u32, sub: u32) -> Self {
        let below = sub.min(addr >> PAGE_SHIFT);
        let above = (mmu_count(k) - 1 - sub).min((task_size(k) - 1 - addr) >> PAGE_SHIFT);
        Self::around(addr, below, above)
    }

    /// The addresses of `vma` at which it shows sub-pages of the page at `index`; None: outside.
    #[inline]
    pub fn of_index<K: Kernel>(k: K, vma: Low<Vma>, index: u32) -> Option<Self> {
        let (first, n) = (index << mmu_shift(k), mmu_count(k));
        let (pgoff, pages) = (vma.pgoff(k), (vma.end(k) - vma.start(k)) >> PAGE_SHIFT);
        // How far into the vma the page begins, or how many of its sub-pages lie before it.
        let into = first.wrapping_sub(pgoff);
        let before = pgoff.wrapping_sub(first);
        let (from, to) = if into < pages {
            (into, into.saturating_add(n).min(pages))
        } else if before < n {
            (0, (n - before).min(pages))
        } else {
            return None;
        };
        Some(Self {
            start: vma.start(k) + (from << PAGE_SHIFT),
            end: vma.start(k) + (to << PAGE_SHIFT),
        })
    }

    /// The window of a page whose first sub-page belongs at address `base`, which may lie before the first address.
    #[inline]
    pub fn at_base<K: Kernel>(k: K, base: u32) -> Self {
        let limit = task_size(k);
        let end = base.wrapping_add(page_bytes(k));
        Self {
            start: if base < limit { base } else { 0 },
            end: if end > limit { limit } else { end },
        }
    }

    #[inline]
    const fn around(addr: u32, below: u32, above: u32) -> Self {
        Self {
            start: addr - (below << PAGE_SHIFT),
            end: addr + ((above + 1) << PAGE_SHIFT),
        }
    }

    /// Calls `f` with each pte of the window whose table exists, ascending, until it answers false. `at` is one of them, mapped by the
    /// caller; tables other than its own are shown in the slot of nested look-ups. page_table_lock is held.
    #[inline]
    pub fn each<K: Kernel>(self, k: K, mm: Low<Mm>, at: PteAt, mut f: impl FnMut(PteAt) -> bool) {
        let mut addr = self.start;
        while addr < self.end {
            let own = (addr ^ at.addr) >> 21 == 0;
            let pte = if own {
                let entries = (addr >> PAGE_SHIFT).wrapping_sub(at.addr >> PAGE_SHIFT);
                Some(Kmapped(at.pte.0.wrapping_add(entries.wrapping_mul(8))))
            } else {
                pte_lookup_nested(k, mm, addr)
            };
            let mut on = true;
            if let Some(pte) = pte {
                on = f(PteAt { pte, addr });
                if !own {
                    pte_unmap(k, pte);
                }
            }
            if !on {
                return;
            }
            addr = addr.wrapping_add(PAGE_SIZE);
            if addr == 0 {
                return;
            }
        }
    }

    /// The same without a pte at hand: each table of the window is looked up.
    #[inline]
    pub fn scan<K: Kernel>(self, k: K, mm: Low<Mm>, mut f: impl FnMut(PteAt) -> bool) {
        let mut addr = self.start;
        while addr < self.end {
            let table_end = (addr | 0x1f_ffff).wrapping_add(1);
            let stop = if table_end == 0 || table_end > self.end {
                self.end
            } else {
                table_end
            };
            if let Some(first) = pte_lookup(k, mm, addr) {
                let mut pte = first;
                let mut on = true;
                while on && addr < stop {
                    on = f(PteAt { pte, addr });
                    addr = addr.wrapping_add(PAGE_SIZE);
                    pte = Kmapped(pte.0.wrapping_add(8));
                }
                pte_unmap(k, first);
                if !on {
                    return;
                }
            }
            addr = stop;
        }
    }

    /// How many of its ptes map a frame of `page`.
    pub fn count<K: Kernel>(self, k: K, mm: Low<Mm>, at: PteAt, page: Low<Page>) -> u32 {
        let mut n = 0;
        self.each(k, mm, at, |other| {
            n += maps(k, other.pte, page) as u32;
            true
        });
        n
    }
}

/// Whether the pte at `pte` maps a frame of `page`.
#[inline(always)]
pub fn maps<K: Kernel>(k: K, pte: Kmapped, page: Low<Page>) -> bool {
    let entry = pte_get(k, pte);
    entry.present() && entry.pfn() >> mmu_shift(k) == page_to_pfn(k, page) >> mmu_shift(k)
}
