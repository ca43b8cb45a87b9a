//! brk (mm/mmap.c of 2.6.7): the heap's end, by munmap downwards and do_brk upwards.
//!
//! Invariant: `brk` lies at or behind `start_brk`.

use crate::kernel::Kernel;
use crate::layout::{Mm, vm};
use crate::mm::fault::make_pages_present;
use crate::mm::merge::{Area, vma_merge};
use crate::mm::munmap::do_munmap;
use crate::mm::vma::{Linked, acct_memory, find_vma, find_vma_prepare, vma_alloc, vma_link};
use crate::mm::{Errno, MAX_MAP_COUNT, current_mm, page_align, task_size};
use crate::pgtable::prot_of;
use crate::ptr::Low;

/// VM_DATA_DEFAULT_FLAGS of i386: data is executable.
pub const DATA_DEFAULT_FLAGS: u32 =
    vm::READ | vm::WRITE | vm::EXEC | vm::MAYREAD | vm::MAYWRITE | vm::MAYEXEC;

/// brk(address): the new end, or the old one if that cannot be.
pub fn sys_brk<K: Kernel>(k: K, brk: u32) -> u32 {
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let result = set_brk(k, mm, brk);
    mm.mmap_sem(k).up_write(k);
    result
}

fn set_brk<K: Kernel>(k: K, mm: Low<Mm>, brk: u32) -> u32 {
    let old = mm.brk(k);
    // end_code in 2.6; exec lists do not say where code ends, so the heap's start bounds it.
    if brk < mm.start_brk(k) || brk > task_size(k) {
        return old;
    }
    let (new_page, old_page) = (page_align(brk), page_align(old));
    let done = if new_page == old_page {
        true
    } else if brk <= old {
        do_munmap(k, mm, new_page, old_page - new_page).is_ok()
    } else {
        let beyond = find_vma(k, mm, old_page);
        let blocked = !beyond.is_null() && new_page.wrapping_add(4096) > beyond.start(k);
        !blocked && do_brk(k, mm, old_page, new_page - old_page).is_ok()
    };
    if !done {
        return old;
    }
    mm.set_brk(k, brk);
    brk
}

/// Maps anonymous memory at `addr` as brk and the bss do.
pub fn do_brk<K: Kernel>(k: K, mm: Low<Mm>, addr: u32, len: u32) -> Result<(), Errno> {
    let len = page_align(len);
    if len == 0 {
        return Ok(());
    }
    let mut place = find_vma_prepare(k, mm, addr);
    while !place.next.is_null() && place.next.start(k) < addr + len {
        do_munmap(k, mm, addr, len)?;
        place = find_vma_prepare(k, mm, addr);
    }
    if mm.map_count(k) > MAX_MAP_COUNT {
        return Err(Errno::Enomem);
    }
    let pages = len >> 12;
    let flags = DATA_DEFAULT_FLAGS | vm::ACCOUNT | mm.def_flags(k);
    let area = Area {
        start: addr,
        end: addr + len,
        flags,
        file: Low::NULL,
        pgoff: addr >> 12,
        like: Low::NULL,
    };
    if vma_merge(k, mm, place.prev, &area)?.is_none() {
        let vma = vma_alloc(k, mm)?;
        vma.set_start(k, addr);
        vma.set_end(k, addr + len);
        vma.set_pgoff(k, addr >> 12);
        vma.set_flags(k, flags);
        vma.set_page_prot(k, prot_of(flags).0);
        vma_link(k, mm, vma, &place, Linked::New);
    }
    acct_memory(k, pages);
    mm.set_total_vm(k, mm.total_vm(k).wrapping_add(pages));
    if flags & vm::LOCKED != 0 {
        mm.set_locked_vm(k, mm.locked_vm(k).wrapping_add(pages));
        // What cannot be faulted in (no right to) is no error here.
        let _ = make_pages_present(k, addr, addr + len);
    }
    Ok(())
}
