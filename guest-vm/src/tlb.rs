//! Which TLB operation each flush is (asm-i386/tlbflush.h, arch/i386/kernel/smp.c of 2.6.7 and RHEL4): the table of the fact sheet
//! "TLB flushes: what each operation really does", one CPU.
//!
//! | | 3G/1G | 4G/4G |
//! |---|---|---|
//! | one user page | invlpg if the mm is active | nothing |
//! | mm or range | CR3 reload if the mm is active | the same: the kernel's table is reloaded |
//! | mm that a kernel thread borrowed | leave_mm: CR3 of the kernel, once | the same |
//! | a kernel slot | invlpg | the same |
//! | everything (kmap wrap) | CR4.PGE off and on | the same |
//!
//! `up` builds on 4G/4G flush nothing for user pages, and none leaves an mm. Leaves out: IPIs (one CPU).
//!
//! Invariant: this file alone decides; callers say what changed.

use crate::arch::swapper_pg_dir;
use crate::kernel::{Flush, Kernel};
use crate::layout::{Mm, Vma};
use crate::percpu::this_cpu;
use crate::ptr::Low;

/// Whether `mm` is loaded, and by whom.
enum Active {
    /// Another mm, or none.
    No,
    /// The running task's own.
    Own,
    /// A kernel thread runs and borrows it (SMP; without, a borrowed mm is flushed like its own).
    Borrowed,
}

#[inline(always)]
fn active<K: Kernel>(k: K, mm: Low<Mm>) -> Active {
    let current = this_cpu(k).current(k);
    if current.active_mm(k) != mm {
        Active::No
    } else if k.smp() && current.mm(k).is_null() {
        Active::Borrowed
    } else {
        Active::Own
    }
}

/// One user page of `vma`'s mm.
#[inline]
pub fn flush_tlb_page<K: Kernel>(k: K, vma: Low<Vma>, addr: u32) {
    flush_tlb_mm_page(k, vma.mm(k), addr);
}

/// One user page of `mm`.
#[inline]
pub fn flush_tlb_mm_page<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) {
    match active(k, mm) {
        Active::No => {}
        Active::Own => {
            if !k.two_tables() {
                k.flush(Flush::Page(addr));
            }
        }
        Active::Borrowed => leave_mm(k, mm),
    }
}

/// All user pages of `mm`.
#[inline]
pub fn flush_tlb_mm<K: Kernel>(k: K, mm: Low<Mm>) {
    match active(k, mm) {
        Active::No => {}
        Active::Own => {
            if k.smp() || !k.two_tables() {
                k.flush(Flush::Local);
            }
        }
        Active::Borrowed => leave_mm(k, mm),
    }
}

/// A range of user pages: the whole mm, as 2.6 did.
#[inline]
pub fn flush_tlb_range<K: Kernel>(k: K, vma: Low<Vma>, start: u32, end: u32) {
    let _ = (start, end);
    flush_tlb_mm(k, vma.mm(k));
}

/// Everything, global entries too.
#[inline]
pub fn flush_tlb_all<K: Kernel>(k: K) {
    k.flush(Flush::Global);
}

/// One page of the kernel (__flush_tlb_one).
#[inline(always)]
pub fn flush_tlb_one<K: Kernel>(k: K, addr: u32) {
    k.flush(Flush::Page(addr));
}

/// A borrowed mm is given up: this CPU leaves its mask and loads the kernel's own table, once.
#[cold]
fn leave_mm<K: Kernel>(k: K, mm: Low<Mm>) {
    if mm.cpu_vm_mask(k) & 1 != 0 {
        mm.set_cpu_vm_mask(k, mm.cpu_vm_mask(k) & !1);
        k.load_cr3(swapper_pg_dir(k));
    }
}
