//! Which TLB operation each flush is (asm-i386/tlbflush.h, arch/i386/kernel/smp.c of 2.6.7 and RHEL4; SMP build, one CPU).
//! (skeleton: the public signatures are stable)

use crate::kernel::{Flush, Kernel};
use crate::layout::{Mm, Vma};
use crate::percpu::this_cpu;
use crate::ptr::Low;

/// One user page of `vma`'s mm.
pub fn flush_tlb_page<K: Kernel>(k: K, vma: Low<Vma>, addr: u32) {
    let current = this_cpu(k).current(k);
    if current.active_mm(k) == vma.mm(k) && !K::SPLIT {
        k.flush(Flush::Page(addr));
    }
}
/// All user pages of `mm`.
pub fn flush_tlb_mm<K: Kernel>(k: K, mm: Low<Mm>) {
    let current = this_cpu(k).current(k);
    if current.active_mm(k) == mm {
        k.flush(Flush::Local);
    }
}
/// A range of user pages: the whole mm, as 2.6 did.
pub fn flush_tlb_range<K: Kernel>(k: K, vma: Low<Vma>, start: u32, end: u32) {
    let _ = (start, end);
    flush_tlb_mm(k, vma.mm(k));
}
/// Everything, global entries too.
pub fn flush_tlb_all<K: Kernel>(k: K) {
    k.flush(Flush::Global);
}
