//! madvise (mm/madvise.c of 2.6.7): read-ahead advice changes flags (splitting, never merging), DONTNEED drops the pages.
//!
//! Advice younger than 2.6.8 in a recording has no effect here, except DONTFORK and DOFORK, which are given their meaning because a
//! later fork depends on it.
//!
//! Invariant: total_vm does not change.

use crate::kernel::Kernel;
use crate::layout::{Mm, Vma, vm};
use crate::mm::vma::{NewHalf, find_vma, split_vma};
use crate::mm::zap::{zap_nonlinear, zap_page_range};
use crate::mm::{Errno, current_mm, page_align};
use crate::ptr::Low;

/// VM_SEQ_READ.
const SEQ_READ: u32 = 0x8000;
/// VM_RAND_READ.
const RAND_READ: u32 = 0x1_0000;

#[derive(Clone, Copy)]
enum Advice {
    /// Flags to clear and to set.
    Flags(u32, u32),
    DontNeed,
    Nothing,
}

fn advice(n: u32) -> Advice {
    match n {
        0 => Advice::Flags(SEQ_READ | RAND_READ, 0),
        1 => Advice::Flags(SEQ_READ | RAND_READ, RAND_READ),
        2 => Advice::Flags(SEQ_READ | RAND_READ, SEQ_READ),
        4 => Advice::DontNeed,
        10 => Advice::Flags(0, vm::DONTCOPY),
        11 => Advice::Flags(vm::DONTCOPY, 0),
        // 3 is WILLNEED: read-ahead has no effect on what is mapped.
        _ => Advice::Nothing,
    }
}

/// madvise(address, length, advice).
pub fn sys_madvise<K: Kernel>(k: K, start: u32, len: u32, n: u32) -> Result<u32, Errno> {
    if start & 0xfff != 0 {
        return Err(Errno::Einval);
    }
    let aligned = page_align(len);
    if len != 0 && aligned == 0 {
        return Err(Errno::Einval);
    }
    let Some(end) = start.checked_add(aligned) else {
        return Err(Errno::Einval);
    };
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let result = advise_range(k, mm, (start, end), advice(n));
    mm.mmap_sem(k).up_write(k);
    result.map(|()| 0)
}

/// Advises vma by vma; holes are skipped, and make the call fail at its end.
fn advise_range<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    (start, end): (u32, u32),
    advice: Advice,
) -> Result<(), Errno> {
    let mut hole = false;
    let mut start = start;
    let mut vma = find_vma(k, mm, start);
    while start < end {
        if vma.is_null() {
            return Err(Errno::Enomem);
        }
        if start < vma.start(k) {
            hole = true;
            start = vma.start(k);
            if start >= end {
                break;
            }
        }
        let stop = if end < vma.end(k) { end } else { vma.end(k) };
        advise_vma(k, mm, vma, (start, stop), advice)?;
        start = stop;
        // A split leaves the advised part in `vma`.
        vma = vma.next(k);
    }
    if hole { Err(Errno::Enomem) } else { Ok(()) }
}

fn advise_vma<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    vma: Low<Vma>,
    (start, end): (u32, u32),
    advice: Advice,
) -> Result<(), Errno> {
    match advice {
        Advice::Nothing => Ok(()),
        Advice::DontNeed => {
            if vma.flags(k) & vm::LOCKED != 0 {
                return Err(Errno::Einval);
            }
            match vma.flags(k) & vm::NONLINEAR {
                0 => zap_page_range(k, vma, start, end - start),
                _ => zap_nonlinear(k, vma, (start, end), 0),
            }
            Ok(())
        }
        Advice::Flags(clear, set) => {
            let flags = vma.flags(k) & !clear | set;
            if start != vma.start(k) {
                split_vma(k, mm, vma, start, NewHalf::Below)?;
            }
            if end != vma.end(k) {
                split_vma(k, mm, vma, end, NewHalf::Above)?;
            }
            vma.set_flags(k, flags);
            Ok(())
        }
    }
}
