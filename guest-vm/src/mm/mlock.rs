//! mlock and munlock (mm/mlock.c of 2.6.7): the flag, by splitting and never by merging; locking faults every page in.
//!
//! A failure ends the call where it is, and what was done stays: a vma that cannot be split is EAGAIN; one whose pages cannot all be had is locked
//! and counted all the same, and mlock returns what make_pages_present returned (mlock_fixup, alike in 2.6.0 to 2.6.8).
//!
//! Invariant: locked_vm is the sum of the lengths of the vmas with VM_LOCKED, in pages.

use crate::kernel::Kernel;
use crate::layout::{Mm, Vma, vm};
use crate::mm::fault::make_pages_present;
use crate::mm::vma::{NewHalf, find_vma_prev, split_vma};
use crate::mm::{Errno, current_mm, page_align};
use crate::ptr::Low;

/// Which of the two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// mlock.
    On,
    /// munlock.
    Off,
}

/// mlock(address, length), munlock(address, length).
pub fn sys_mlock<K: Kernel>(k: K, start: u32, len: u32, lock: Lock) -> Result<u32, Errno> {
    let len = page_align(len.wrapping_add(start & 0xfff));
    let start = start & !0xfff;
    let Some(end) = start.checked_add(len) else {
        return Err(Errno::Einval);
    };
    if len == 0 {
        return Ok(0);
    }
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let result = lock_range(k, mm, (start, end), lock);
    mm.mmap_sem(k).up_write(k);
    result.map(|()| 0)
}

fn lock_range<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    (start, end): (u32, u32),
    lock: Lock,
) -> Result<(), Errno> {
    let (mut vma, _) = find_vma_prev(k, mm, start);
    if vma.is_null() || vma.start(k) > start {
        return Err(Errno::Enomem);
    }
    let mut from = start;
    loop {
        let to = if vma.end(k) < end { vma.end(k) } else { end };
        fixup(k, mm, vma, (from, to), lock)?;
        if to >= end {
            return Ok(());
        }
        from = to;
        vma = vma.next(k);
        if vma.is_null() || vma.start(k) != from {
            return Err(Errno::Enomem);
        }
    }
}

/// Gives `start..end`, a part of `vma`, the flag; the part is `vma` afterwards.
fn fixup<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    vma: Low<Vma>,
    (start, end): (u32, u32),
    lock: Lock,
) -> Result<(), Errno> {
    let old = vma.flags(k);
    let flags = match lock {
        Lock::On => old | vm::LOCKED,
        Lock::Off => old & !vm::LOCKED,
    };
    if flags == old {
        return Ok(());
    }
    if start != vma.start(k) {
        split_vma(k, mm, vma, start, NewHalf::Below).map_err(|_| Errno::Eagain)?;
    }
    if end != vma.end(k) {
        split_vma(k, mm, vma, end, NewHalf::Above).map_err(|_| Errno::Eagain)?;
    }
    vma.set_flags(k, flags);
    let pages = (end - start) >> 12;
    match lock {
        Lock::On => {
            mm.set_locked_vm(k, mm.locked_vm(k).wrapping_add(pages));
            make_pages_present(k, start, end)
        }
        Lock::Off => {
            mm.set_locked_vm(k, mm.locked_vm(k).wrapping_sub(pages));
            Ok(())
        }
    }
}
