//! The per-CPU area (one CPU now, design D16): what lies in `%esp`-relative thread_info, per_cpu variables and the page_state
//! structure of 2.6.
//!
//! `current` stands here as a word so that natively and on the CPU one load finds the running task; a real kernel masks
//! %esp instead (one instruction, no load). Invariant: `preempt_count` is zero at a boundary.

use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::{Mm, Task};
use crate::ptr::Low;
use crate::root;

guest_struct! {
    /// First page of the per-CPU area.
    pub struct PerCpu [K] size 256;
    /// The task that runs.
    at 0 => word current, set_current: Low<Task>;
    /// Depth of kmap_atomic and of interrupts.
    at 4 => word preempt_count, set_preempt_count: u32;
    /// cpu_tlbstate: whether the loaded tables are current's own ([`crate::sched::TLBSTATE_OK`]) or borrowed.
    at 8 => word tlb_state, set_tlb_state: u32;
    /// cpu_tlbstate: whose tables are loaded.
    at 12 => word tlb_active_mm, set_tlb_active_mm: Low<Mm>;
    /// What is to be done before the next return to user mode: [`WORK_IO`], [`WORK_KSWAPD`], [`WORK_WRITEBACK`] (TIF_NEED_RESCHED of
    /// a real kernel, which wakes threads for it).
    at 16 => word work, set_work: u32;
    /// Counters of the VM (include/linux/page-flags.h, struct page_state), one word each, see [`State`].
    at 64 => words page_state, set_page_state: u32, 32;
}

/// Page writes that reclaim began are under way.
pub const WORK_IO: u32 = 1;
/// kswapd was woken.
pub const WORK_KSWAPD: u32 = 2;
/// Something is dirty, or under way to the disk: pdflush looks at the clock.
pub const WORK_WRITEBACK: u32 = 4;

/// Asks for work before the next return to user mode.
#[inline]
pub fn add_work<K: Kernel>(k: K, work: u32) {
    let cpu = this_cpu(k);
    cpu.set_work(k, cpu.work(k) | work);
}

/// This CPU's area.
#[inline(always)]
pub fn this_cpu<K: Kernel>(k: K) -> Low<PerCpu> {
    root::part(k, root::PER_CPU)
}

/// Number of this CPU: there is one.
#[inline(always)]
pub fn smp_processor_id<K: Kernel>(_: K) -> u32 {
    0
}

/// A counter of struct page_state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Dirty page-cache pages.
    NrDirty = 0,
    /// Pages being written.
    NrWriteback = 1,
    /// NFS: unused here, keeps the historic place of the next.
    NrUnstable = 2,
    /// Pages used by page tables.
    NrPageTablePages = 3,
    /// Pages mapped into page tables.
    NrMapped = 4,
    /// Pages of slabs.
    NrSlab = 5,
    /// Page allocations.
    PgAlloc = 10,
    /// Page frees.
    PgFree = 11,
    /// Moved to the active list.
    PgActivate = 12,
    /// Moved to the inactive list.
    PgDeactivate = 13,
    /// Faults.
    PgFault = 14,
    /// Faults that read from a device.
    PgMajFault = 15,
    /// Pages of the active list that were looked at.
    PgRefill = 16,
    /// Pages of the inactive list that kswapd looked at.
    PgScanKswapd = 17,
    /// Pages of the inactive list that direct reclaim looked at.
    PgScanDirect = 18,
    /// Pages that reclaim freed.
    PgSteal = 19,
    /// Of these, by kswapd.
    KswapdSteal = 20,
    /// Runs of kswapd.
    PageOutRun = 21,
    /// Direct reclaims.
    AllocStall = 22,
    /// Pages moved to the inactive list's tail when their write had completed.
    PgRotated = 23,
    /// Objects that slab shrinkers looked at.
    SlabsScanned = 24,
    /// Pages read from swap.
    PswpIn = 25,
    /// Pages written to swap.
    PswpOut = 26,
}

/// Adds `delta` (two's complement) to a counter: save flags, cli, add, restore (the historic `mod_page_state`).
#[inline(always)]
pub fn mod_page_state<K: Kernel>(k: K, counter: State, delta: u32) {
    let flags = k.irq_save();
    let cpu = this_cpu(k);
    let now = cpu.page_state(k, counter as u32).wrapping_add(delta);
    cpu.set_page_state(k, counter as u32, now);
    k.irq_restore(flags);
}

/// Reads a counter.
#[inline(always)]
pub fn page_state<K: Kernel>(k: K, counter: State) -> u32 {
    this_cpu(k).page_state(k, counter as u32)
}

/// Enters a section without preemption (kmap_atomic).
#[inline(always)]
pub fn inc_preempt_count<K: Kernel>(k: K) {
    let cpu = this_cpu(k);
    cpu.set_preempt_count(k, cpu.preempt_count(k).wrapping_add(1));
}

/// Leaves it.
#[inline(always)]
pub fn dec_preempt_count<K: Kernel>(k: K) {
    let cpu = this_cpu(k);
    cpu.set_preempt_count(k, cpu.preempt_count(k).wrapping_sub(1));
}
