//! fork, vfork and clone (kernel/fork.c of 2.6.7): the task, then the address space vma by vma.
//!
//! dup_mmap's order per vma: charge, allocate, copy, reverse map (anon_vma_link), file (same tree node as the parent's), list and
//! tree under the child's page_table_lock, page tables, open. At the end one flush of the parent, whose private pages
//! are write-protected now. Children run nothing before the mailbox says so; vfork's waiting is the trace's.
//!
//! Invariant: after a failed fork nothing of the child is left.

use crate::file;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Frame, Mm, Vma, vm, vm_ops};
use crate::mailbox::mailbox;
use crate::mm::copy::copy_page_range;
use crate::mm::mm_struct::{mm_copy, mmlist_add, mmput};
use crate::mm::vma::{acct_memory, link_last, vma_copy};
use crate::mm::{Errno, shm, unmapped_base};
use crate::ptr::Low;
use crate::rmap::ReverseMap;
use crate::rmap::file::i_mmap_fork;
use crate::slab::{CacheId, kmem_cache_free};
use crate::task::{self, Share, boot_word, current};
use crate::tlb::flush_tlb_mm;
use lowmem_abi::boot::BootInfo;
use lowmem_abi::call::{CLONE_VFORK, CLONE_VM};

/// CLONE_FS.
pub const CLONE_FS: u32 = 0x200;
/// CLONE_FILES.
pub const CLONE_FILES: u32 = 0x400;
/// CLONE_SIGHAND.
pub const CLONE_SIGHAND: u32 = 0x800;
/// CLONE_THREAD.
pub const CLONE_THREAD: u32 = 0x1_0000;

/// fork(): clone without sharing.
pub fn sys_fork<K: Kernel>(k: K, frame: Low<Frame>) -> Result<u32, Errno> {
    do_fork(k, frame, 0, 0)
}

/// vfork(): the child runs in the parent's mm until exec, or, by boot parameter, in a copy.
pub fn sys_vfork<K: Kernel>(k: K, frame: Low<Frame>) -> Result<u32, Errno> {
    let copies = boot_word(k, core::mem::offset_of!(BootInfo, vfork_is_fork)) != 0;
    let share = if copies { 0 } else { CLONE_VM };
    do_fork(k, frame, CLONE_VFORK | share, 0)
}

/// clone(flags, stack). A clone with CLONE_VFORK obeys the same boot parameter as vfork.
pub fn sys_clone<K: Kernel>(k: K, frame: Low<Frame>, flags: u32, stack: u32) -> Result<u32, Errno> {
    let mut flags = flags;
    if flags & CLONE_VFORK != 0 && boot_word(k, core::mem::offset_of!(BootInfo, vfork_is_fork)) != 0
    {
        flags &= !CLONE_VM;
    }
    do_fork(k, frame, flags, stack)
}

/// Makes the mailbox's child: a copy of current whose frame returns 0.
fn do_fork<K: Kernel>(k: K, frame: Low<Frame>, flags: u32, stack: u32) -> Result<u32, Errno> {
    let parent = current(k);
    let pid = mailbox(k).child(k);
    let child = task::dup_task(k, parent)?;
    let mut share = Share(0);
    if flags & CLONE_FS != 0 {
        share = share.with(Share::FS);
    }
    if flags & CLONE_FILES != 0 {
        share = share.with(Share::FILES);
    }
    if flags & CLONE_SIGHAND != 0 {
        share = share.with(Share::SIGHAND);
    }
    if flags & CLONE_THREAD != 0 {
        share = share.with(Share::SIGNAL);
    }
    if let Err(oom) = task::copy_objects(k, parent, child, share) {
        task::free_task(k, child);
        return Err(oom.into());
    }
    let old = parent.mm(k);
    let mm = if flags & CLONE_VM != 0 {
        k.atomic_add(old.field(20), 1);
        Ok(old)
    } else {
        copy_mm(k, old)
    };
    let mm = match mm {
        Ok(mm) => mm,
        Err(oom) => {
            task::put_objects(k, child);
            task::free_task(k, child);
            return Err(oom.into());
        }
    };
    child.set_mm(k, mm);
    child.set_active_mm(k, mm);
    task::copy_thread(k, child, frame, stack);
    task::attach(k, child, parent, pid);
    Ok(pid)
}

/// A copy of an address space (copy_mm, dup_mmap).
fn copy_mm<K: Kernel>(k: K, old: Low<Mm>) -> Result<Low<Mm>, Oom> {
    let mm = mm_copy(k, old)?;
    old.mmap_sem(k).down_write(k);
    mmlist_add(k, mm, old);
    let copied = dup_mmap(k, mm, old);
    flush_tlb_mm(k, old);
    old.mmap_sem(k).up_write(k);
    match copied {
        Ok(()) => Ok(mm),
        Err(oom) => {
            mmput(k, mm);
            Err(oom)
        }
    }
}

fn dup_mmap<K: Kernel>(k: K, mm: Low<Mm>, old: Low<Mm>) -> Result<(), Oom> {
    mm.set_free_area_cache(k, unmapped_base(k));
    let mut prev: Low<Vma> = Low::NULL;
    let mut vma = old.mmap(k);
    while !vma.is_null() {
        let flags = vma.flags(k);
        let pages = (vma.end(k) - vma.start(k)) >> 12;
        if flags & vm::DONTCOPY != 0 {
            // 2.6.7 left total_vm as it was; later kernels correct it, and so does this one.
            mm.set_total_vm(k, mm.total_vm(k).wrapping_sub(pages));
            vma = vma.next(k);
            continue;
        }
        let child = vma_copy(k, vma)?;
        child.set_mm(k, mm);
        if let Err(oom) = K::Rmap::vma_prepare_copy(k, vma, child) {
            kmem_cache_free(k, CacheId::Vma, child);
            return Err(oom);
        }
        if flags & vm::ACCOUNT != 0 {
            acct_memory(k, pages);
        }
        child.set_flags(k, flags & !vm::LOCKED);
        child.set_next(k, Low::NULL);
        K::Rmap::vma_forked(k, vma, child);
        if !child.file(k).is_null() {
            file::get_file(k, child.file(k));
            i_mmap_fork(k, vma, child);
        }
        mm.page_table_lock(k).lock(k);
        link_last(k, mm, child, prev);
        mm.set_map_count(k, mm.map_count(k).wrapping_add(1));
        let copied = copy_page_range(k, mm, old, vma, child);
        mm.page_table_lock(k).unlock(k);
        if child.ops(k) == vm_ops::SHM {
            shm::open(k, child);
        }
        copied?;
        prev = child;
        vma = vma.next(k);
    }
    Ok(())
}
