//! exit (kernel/exit.c, mm/mmap.c of 2.6.7): the address space goes with its last user, the task at the next kernel entry.
//!
//! exit_mmap unmaps everything in one gather, frees the page tables in one pass, then closes and frees the vmas one by one. The
//! task keeps its mm as active_mm (a lazy reference), so its page directories outlive it until another address space is loaded.
//!
//! Invariant: after exit_mmap the mm has no vma, no page table and rss 0.

use crate::bug_on;
use crate::kernel::Kernel;
use crate::layout::{Mm, vm};
use crate::lru::lru_add_drain;
use crate::mm::mm_struct::{mmgrab, mmput};
use crate::mm::vma::{remove_vm_struct, unacct_memory};
use crate::mm::zap::{Extent, tlb_finish_mmu, tlb_gather_mmu, unmap_vmas};
use crate::pgtable::clear_page_tables;
use crate::ptr::Low;
use crate::sched::enter_lazy_tlb;
use crate::task::{self, current};
use lowmem_abi::probe::Probe;

/// exit and exit_group of the running thread: the trace has an exit for each thread.
pub fn sys_exit<K: Kernel>(k: K) {
    k.begin(Probe::Exit);
    let dead = current(k);
    let mm = dead.mm(k);
    bug_on!(k, Exit, mm.is_null(), dead.pid(k));
    // exit_mm: the address space stays loaded, by a lazy reference.
    mmgrab(k, mm);
    dead.set_mm(k, Low::NULL);
    enter_lazy_tlb(k, mm);
    mmput(k, mm);
    task::put_objects(k, dead);
    task::detach(k, dead);
    k.end(Probe::Exit);
}

/// Unmaps and frees everything of an mm without users.
pub fn exit_mmap<K: Kernel>(k: K, mm: Low<Mm>) {
    lru_add_drain(k);
    mm.page_table_lock(k).lock(k);
    let tlb = tlb_gather_mmu(k, mm, Extent::FullMm);
    unmap_vmas(k, tlb, mm.mmap(k), 0, u32::MAX);
    clear_page_tables(k, mm);
    tlb_finish_mmu(k, tlb);
    let mut vma = mm.mmap(k);
    mm.set_mmap(k, Low::NULL);
    mm.set_mmap_cache(k, Low::NULL);
    mm.set_mm_rb(k, Low::NULL);
    bug_on!(k, Exit, mm.rss(k) != 0, mm.rss(k));
    mm.set_total_vm(k, 0);
    mm.set_locked_vm(k, 0);
    mm.set_map_count(k, 0);
    mm.page_table_lock(k).unlock(k);
    while !vma.is_null() {
        let next = vma.next(k);
        if vma.flags(k) & vm::ACCOUNT != 0 {
            unacct_memory(k, (vma.end(k) - vma.start(k)) >> 12);
        }
        remove_vm_struct(k, vma);
        vma = next;
    }
}
