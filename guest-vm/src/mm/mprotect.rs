//! mprotect (mm/mprotect.c of 2.6.7): merge or split, then rewrite the protection bits of present ptes in place.
//!
//! change_protection keeps Accessed and Dirty and ends with one flush of the range, which is a full flush of the mm. No
//! reverse-map work is done on pages; vmas may change their lists by merging and splitting.
//!
//! Invariant: a private page's new protection never has RW: writing is granted by the fault that breaks sharing.

use crate::kernel::Kernel;
use crate::layout::{Mm, Vma, vm};
use crate::mm::merge::{Area, vma_merge};
use crate::mm::vma::{NewHalf, acct_memory, find_vma_prev, split_vma, unacct_memory};
use crate::mm::{Errno, current_mm, page_align};
use crate::pgtable::{Prot, prot_of, pte_get, pte_lookup, pte_unmap, ptep_get_and_clear, set_pte};
use crate::ptr::Low;
use crate::tlb::flush_tlb_range;

const RWX: u32 = vm::READ | vm::WRITE | vm::EXEC;
/// PROT_GROWSDOWN and PROT_GROWSUP.
const PROT_GROWS: u32 = 0x0300_0000;

/// mprotect(address, length, prot).
pub fn sys_mprotect<K: Kernel>(k: K, start: u32, len: u32, prot: u32) -> Result<u32, Errno> {
    if start & 0xfff != 0 {
        return Err(Errno::Einval);
    }
    let len = page_align(len);
    let Some(end) = start.checked_add(len) else {
        return Err(Errno::Enomem);
    };
    if prot & !(RWX | PROT_GROWS) != 0 {
        return Err(Errno::Einval);
    }
    if len == 0 {
        return Ok(0);
    }
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let result = protect_range(k, mm, (start, end), prot);
    mm.mmap_sem(k).up_write(k);
    result.map(|()| 0)
}

/// Goes through the vmas of the range, which must be mapped without holes.
fn protect_range<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    (start, end): (u32, u32),
    prot: u32,
) -> Result<(), Errno> {
    let (mut vma, mut prev) = find_vma_prev(k, mm, start);
    if vma.is_null() {
        return Err(Errno::Enomem);
    }
    let mut from = start;
    if prot & PROT_GROWS != 0 && vma.flags(k) & vm::GROWSDOWN != 0 {
        if vma.start(k) >= end {
            return Err(Errno::Einval);
        }
        from = vma.start(k);
    } else if vma.start(k) > start {
        return Err(Errno::Enomem);
    }
    if from > vma.start(k) {
        prev = vma;
    }
    loop {
        let flags = prot & RWX | vma.flags(k) & !RWX;
        if flags & !(flags >> 4) & RWX != 0 {
            return Err(Errno::Eacces);
        }
        let to = if vma.end(k) < end { vma.end(k) } else { end };
        prev = fixup(k, mm, (vma, prev), (from, to), flags)?;
        from = if to < prev.end(k) { prev.end(k) } else { to };
        if from >= end {
            return Ok(());
        }
        vma = prev.next(k);
        if vma.is_null() || vma.start(k) != from {
            return Err(Errno::Enomem);
        }
    }
}

/// Gives `start..end`, a part of `vma`, new flags (mprotect_fixup). Returns the first vma that ends at or behind `end`.
fn fixup<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    (vma, prev): (Low<Vma>, Low<Vma>),
    (start, end): (u32, u32),
    flags: u32,
) -> Result<Low<Vma>, Errno> {
    let old = vma.flags(k);
    if flags == old {
        return Ok(vma);
    }
    let mut flags = flags;
    // A private area that becomes writable is charged, once.
    let mut charged = 0;
    if flags & vm::WRITE != 0 && old & (vm::ACCOUNT | vm::WRITE | vm::SHARED) == 0 {
        charged = (end - start) >> 12;
        acct_memory(k, charged);
        flags |= vm::ACCOUNT;
    }
    let prot = prot_of(flags);
    let area = Area {
        start,
        end,
        flags,
        file: vma.file(k),
        pgoff: vma.pgoff(k).wrapping_add((start - vma.start(k)) >> 12),
        like: vma,
    };
    let target = match vma_of_its_own(k, mm, prev, &area) {
        Ok(target) => target,
        Err(e) => {
            unacct_memory(k, charged);
            return Err(e);
        }
    };
    target.set_flags(k, flags);
    target.set_page_prot(k, prot.0);
    change_protection(k, target, start, end, prot);
    Ok(target)
}

/// The vma that is to have the area's flags: a neighbour that takes the area over, or what splits leave of the vma it lies in.
fn vma_of_its_own<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    prev: Low<Vma>,
    area: &Area,
) -> Result<Low<Vma>, Errno> {
    if let Some(merged) = vma_merge(k, mm, prev, area)? {
        return Ok(merged);
    }
    let vma = area.like;
    if area.start != vma.start(k) {
        split_vma(k, mm, vma, area.start, NewHalf::Below)?;
    }
    if area.end != vma.end(k) {
        split_vma(k, mm, vma, area.end, NewHalf::Above)?;
    }
    Ok(vma)
}

/// Rewrites the rights of the present ptes of a range, then flushes it.
fn change_protection<K: Kernel>(k: K, vma: Low<Vma>, start: u32, end: u32, prot: Prot) {
    let mm = vma.mm(k);
    mm.page_table_lock(k).lock(k);
    let mut addr = start;
    while addr < end {
        // To the end of this page table, or of the range.
        let table_end = (addr | 0x1f_ffff).wrapping_add(1);
        let stop = if table_end == 0 || table_end > end {
            end
        } else {
            table_end
        };
        if let Some(first) = pte_lookup(k, mm, addr) {
            let mut at = first;
            while addr < stop {
                if pte_get(k, at).present() {
                    let pte = ptep_get_and_clear(k, at);
                    set_pte(k, at, pte.modify(prot));
                }
                addr = addr.wrapping_add(4096);
                if addr < stop {
                    at = at.at(8);
                }
            }
            pte_unmap(k, first);
        }
        addr = stop;
    }
    flush_tlb_range(k, vma, start, end);
    mm.page_table_lock(k).unlock(k);
}
