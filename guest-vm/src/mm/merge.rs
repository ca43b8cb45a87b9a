//! vma_merge of 2.6.7 (mm/mmap.c): the eight ways in which a new or re-protected area joins its neighbours.
//!
//! | case | situation | action |
//! |---|---|---|
//! | 1 | fills the hole, prev and next both fit and agree | prev grows over next, next is freed |
//! | 2 | fits prev only | prev grows |
//! | 3 | fits next only | next grows down |
//! | 4 | mprotect, tail of prev joins next | prev shrinks, next grows down |
//! | 5 | mprotect, head of next joins prev | prev grows, next shrinks |
//! | 6 | mprotect of a whole vma, joins both | prev grows over both |
//! | 7 | mprotect of a whole vma, joins prev | prev grows over it |
//! | 8 | mprotect of a whole vma, joins next | the area's vma grows over next |
//!
//! Used by mmap, brk, mremap's copy_vma and mprotect; never by mlock and madvise. Offsets must be continuous for
//! anonymous vmas too, which is why their pgoff starts as address / 4096.
//!
//! Invariant: the union of all mapped ranges is the same before and after.

use crate::kernel::{Kernel, Oom};
use crate::layout::{File, Mm, Vma, vm, vm_ops};
use crate::mm::vma::{NewBounds, vma_adjust};
use crate::ptr::Low;
use crate::rmap::ReverseMap;
use lowmem_abi::probe::Probe;

/// Flags that forbid merging (VM_SPECIAL).
const SPECIAL: u32 = vm::IO | vm::DONTCOPY | vm::DONTEXPAND | vm::RESERVED;

/// An area that wants to join its neighbours.
#[derive(Debug, Clone, Copy)]
pub struct Area {
    /// First address.
    pub start: u32,
    /// First address behind it.
    pub end: u32,
    /// Its vm_flags.
    pub flags: u32,
    /// Its file, or null.
    pub file: Low<File>,
    /// Its page offset.
    pub pgoff: u32,
    /// A vma whose pages it holds (its anon_vma must agree), or null if it has none yet.
    pub like: Low<Vma>,
}

/// Whether `vma` may join an area with these flags and file (is_mergeable_vma).
fn alike<K: Kernel>(k: K, vma: Low<Vma>, area: &Area) -> bool {
    vma.flags(k) == area.flags && vma.file(k) == area.file && vma.ops(k) != vm_ops::SHM
}

/// Whether the reverse map lets both join; an area without pages joins anything.
fn schemes_agree<K: Kernel>(k: K, vma: Low<Vma>, like: Low<Vma>) -> bool {
    like.is_null() || K::Rmap::mergeable(k, vma, like)
}

fn fits_after<K: Kernel>(k: K, prev: Low<Vma>, area: &Area) -> bool {
    alike(k, prev, area)
        && schemes_agree(k, prev, area.like)
        && prev
            .pgoff(k)
            .wrapping_add((prev.end(k) - prev.start(k)) >> 12)
            == area.pgoff
}

fn fits_before<K: Kernel>(k: K, next: Low<Vma>, area: &Area) -> bool {
    alike(k, next, area)
        && schemes_agree(k, next, area.like)
        && next.pgoff(k) == area.pgoff.wrapping_add((area.end - area.start) >> 12)
}

/// Joins `area` with its neighbours if one fits. `prev` is the vma that ends at or contains its start, or null. Returns the vma that now
/// covers it.
pub fn vma_merge<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    prev: Low<Vma>,
    area: &Area,
) -> Result<Option<Low<Vma>>, Oom> {
    if area.flags & SPECIAL != 0 {
        return Ok(None);
    }
    let covered = if prev.is_null() {
        mm.mmap(k)
    } else {
        prev.next(k)
    };
    let mut next = covered;
    if !next.is_null() && next.end(k) == area.end {
        // Cases 6, 7, 8: the area is this vma.
        next = next.next(k);
    }
    let joins_next = !next.is_null() && area.end == next.start(k) && fits_before(k, next, area);
    if !prev.is_null() && prev.end(k) == area.start && fits_after(k, prev, area) {
        // Cases 1 and 6, else 2, 5 and 7.
        let end = if joins_next && K::Rmap::mergeable(k, prev, next) {
            next.end(k)
        } else {
            area.end
        };
        let to = NewBounds {
            start: prev.start(k),
            end,
            pgoff: prev.pgoff(k),
        };
        vma_adjust(k, prev, to, Low::NULL)?;
        k.probe(Probe::VmaMerged);
        return Ok(Some(prev));
    }
    if joins_next {
        if !prev.is_null() && area.start < prev.end(k) {
            // Case 4.
            let to = NewBounds {
                start: prev.start(k),
                end: area.start,
                pgoff: prev.pgoff(k),
            };
            vma_adjust(k, prev, to, Low::NULL)?;
        } else {
            // Cases 3 and 8.
            let pgoff = next.pgoff(k).wrapping_sub((area.end - area.start) >> 12);
            let to = NewBounds {
                start: area.start,
                end: next.end(k),
                pgoff,
            };
            vma_adjust(k, covered, to, Low::NULL)?;
        }
        k.probe(Probe::VmaMerged);
        return Ok(Some(covered));
    }
    Ok(None)
}
