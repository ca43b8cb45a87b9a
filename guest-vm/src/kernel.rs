//! The handle through which guest code reaches memory, the CPU and the outside.
//!
//! One `Copy` value carries everything, so signatures stay short: `fn try_to_unmap<K: Kernel>(k: K, page: Low<Page>)`. On
//! x86 it is zero-sized and its methods are instructions ([`crate::x86`](self)); natively it is a pointer to the
//! machine's context. What differs between images is an associated type or constant (decision D11); everything else is
//! a boot parameter.
//!
//! Invariant: a primitive leaves the same guest memory on both ways. Plain accesses are plain (LLVM may keep values in registers);
//! page-table entries are read and written through the volatile `pte_*` primitives, because the MMU sets A and D behind
//! the compiler's back.

use crate::axes::{Axes, BuildKind, PteKind};
use crate::layout::Page;
use crate::ptr::{Kmapped, Low};
use crate::rmap::ReverseMap;
use lowmem_abi::owner::Owner;
use lowmem_abi::port::{ReportKind, Transfer};
use lowmem_abi::probe::Probe;

/// A TLB operation, by what it must achieve (`facts`: which of them each build and split really performs is decided
/// in `tlb.rs`, once).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// invlpg of this address.
    Page(u32),
    /// Reload of CR3 with its current value: all non-global entries.
    Local,
    /// CR4.PGE off and on: everything.
    Global,
}

/// Why a user access failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Efault;

/// See the module's documentation.
pub trait Kernel: Copy {
    /// The reverse map compiled into this image.
    type Rmap: ReverseMap<Self>;

    /// What this image was compiled for: a constant on x86.
    fn axes(self) -> Axes;
    /// Kernel and user have page tables of their own (4G/4G).
    #[inline(always)]
    fn two_tables(self) -> bool {
        self.axes().two_tables()
    }
    /// Locks and lock prefixes as an SMP build has them.
    #[inline(always)]
    fn smp(self) -> bool {
        matches!(self.axes().build, BuildKind::Smp)
    }
    /// Pte pages may lie in high memory (CONFIG_HIGHPTE).
    #[inline(always)]
    fn highpte(self) -> bool {
        matches!(self.axes().pte, PteKind::High)
    }
    /// First virtual address of the direct map.
    #[inline(always)]
    fn page_offset(self) -> u32 {
        self.axes().page_offset()
    }
    /// Host pointer to the low virtual address `va`. x86: the address itself.
    fn low(self, va: u32) -> *mut u8;

    /// Reads a word through `p`, whatever zone its frame is in.
    fn kread(self, p: Kmapped) -> u32;
    /// Writes a word through `p`.
    fn kwrite(self, p: Kmapped, v: u32);
    /// Fills the page at `p` with zeros (`rep stosd`).
    fn clear_page(self, p: Kmapped);
    /// Copies a page (`rep movsd`).
    fn copy_page(self, to: Kmapped, from: Kmapped);
    /// Copies `bytes` within one page on each side (`rep movs`).
    fn copy_bytes(self, to: Kmapped, from: Kmapped, bytes: u32);
    /// Tells the host which frame the slot at `slot_va` shows now. x86: nothing, the slot's pte says it.
    fn slot_mapped(self, slot_va: u32, pfn: u32);

    /// Reads a page-table entry: low word, then high word.
    fn pte_read(self, p: Kmapped) -> u64;
    /// Writes one half of a page-table entry (`high` = false: the word with Present).
    fn pte_write_half(self, p: Kmapped, high: Half, v: u32);
    /// Exchanges the low word with `v` (`xchg`, locked), returning the old one.
    fn pte_xchg_low(self, p: Kmapped, v: u32) -> u32;
    /// Clears `bit` of the low word by a locked bit test and reset; whether it was set.
    fn pte_test_and_clear_bit(self, p: Kmapped, bit: u32) -> bool;
    /// Replaces the entry by the 8-byte compare-exchange of set_pmd/set_pgd (`lock cmpxchg8b`).
    fn pte_set_64(self, p: Kmapped, v: u64);

    /// `lock add [p], v` (plain `add` in an `up` build).
    fn atomic_add(self, p: Low<u32>, v: u32);
    /// `lock xadd`: adds and returns the new value.
    fn atomic_add_return(self, p: Low<u32>, v: u32) -> u32;
    /// `lock dec`: whether the result is zero.
    fn atomic_dec_and_test(self, p: Low<u32>) -> bool;
    /// `lock bts`.
    fn set_bit(self, p: Low<u32>, bit: u32);
    /// `lock btr`.
    fn clear_bit(self, p: Low<u32>, bit: u32);
    /// `lock bts`: whether it was set before.
    fn test_and_set_bit(self, p: Low<u32>, bit: u32) -> bool;
    /// `lock btr`: whether it was set before.
    fn test_and_clear_bit(self, p: Low<u32>, bit: u32) -> bool;
    /// `lock dec byte` of a spin lock (1 = free); whether it was free.
    fn spin_lock_byte(self, p: Low<u32>) -> bool;
    /// `xchg byte` of a spin lock with 0; whether it was free.
    fn spin_trylock_byte(self, p: Low<u32>) -> bool;
    /// Plain byte store of 1.
    fn spin_unlock_byte(self, p: Low<u32>);
    /// pushf, cli: saves and clears IF. Natively nothing; returns a token.
    fn irq_save(self) -> u32;
    /// popf.
    fn irq_restore(self, flags: u32);

    /// Performs (natively: counts) a TLB operation.
    fn flush(self, flush: Flush);
    /// Loads CR3 with the physical address `root`.
    fn load_cr3(self, root: u32);
    /// Physical address in CR3.
    fn read_cr3(self) -> u32;
    /// Faulting address of the page fault being handled.
    fn read_cr2(self) -> u32;
    /// Enables interrupts, waits for one, disables them: idle.
    fn idle(self);

    /// Copies `bytes` between user memory of the current mm and low kernel memory by the CPU itself, user page
    /// faults handled on the way. Only direct splits call it. Returns bytes *not* copied.
    fn direct_copy(self, dir: CopyDir, user: u32, kernel: Kmapped, bytes: u32) -> u32;

    /// A counting point.
    fn probe(self, p: Probe);
    /// Opens a path.
    fn begin(self, p: Probe);
    /// Closes it.
    fn end(self, p: Probe);

    /// Has a device fill or write a frame now.
    fn transfer(self, t: Transfer);
    /// Reports and never returns.
    fn fatal(self, kind: ReportKind, place: u32, detail: u32, value: u32) -> !;
    /// A word of a frame in any zone, read past all mappings: for checks that scan page tables.
    #[cfg(not(target_os = "none"))]
    fn frame_word(self, pfn: u32, offset: u32) -> u32;
    /// A page has left its cache and is free: `file` and page, or `u32::MAX` and swap slot. Natively a log for tests.
    fn evicted(self, _file: u32, _index: u32) {}
    /// Reclaim has decided about a page that it looked at. Natively a log, by which reverse maps are compared; nothing on x86.
    #[inline(always)]
    fn decided(self, _page: Low<Page>, _what: Decision) {}
    /// A page was handed out: in that log it gets a name. Nothing on x86.
    #[inline(always)]
    fn handed_out(self, _page: Low<Page>, _owner: Owner) {}
    /// A page for a slab, or for a reverse map's own tables, from outside the zones, for the counterfactual in which kernel objects
    /// take no memory; none on x86 and
    /// in normal runs.
    #[inline(always)]
    fn lend(self, _order: u32, _owner: Owner) -> Option<Low<Page>> {
        None
    }
    /// Takes a lent page back: false if it was not lent.
    #[inline(always)]
    fn take_back(self, _page: Low<Page>) -> bool {
        false
    }
    /// Injected failure of a page allocation, for tests: false on x86 and in normal runs.
    #[inline(always)]
    fn inject_alloc_failure(self) -> bool {
        false
    }
    /// A bug planted on purpose, for tests of the checks: none on x86 and in normal runs.
    #[inline(always)]
    fn planted(self, _bug: Planted) -> bool {
        false
    }
    /// Injected failure of a trylock, for tests: false on x86 and in normal runs.
    fn inject_trylock_failure(self) -> bool;
}

/// What reclaim decided about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// refill: it stays on the active list.
    Stays,
    /// refill: it goes to the inactive list.
    Goes,
    /// Freed.
    Freed,
    /// Back to the active list.
    Activated,
    /// Left on the inactive list: locked, dirty, under way, or its write has begun.
    Kept,
    /// 2.4: left, because page tables map it.
    Mapped,
}

/// A bug that a test may plant, to see that it is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// try_to_unmap does not ask whether somebody pins a page of the swap cache.
    NoPinCheck,
    /// vma_adjust of 2.6.7: when mprotect shifts a boundary, the vma that grows gets no anon_vma (mended 2004-06-20).
    ShiftWithoutAnonVma,
    /// mremap moves a page that others map although it is found by its address (anonmm).
    MoveShared,
    /// fork counts an anon_vma's vmas and children as one (anon_vma_chain, the rule of 2015 before 2022).
    OneDegree,
}

/// Which word of a page-table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31, with Present.
    Low,
    /// Bits 32 to 63.
    High,
}

/// Direction of a user copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDir {
    /// From user memory.
    FromUser,
    /// To user memory.
    ToUser,
}

/// No memory: which request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oom {
    /// For whom.
    pub owner: Owner,
}
