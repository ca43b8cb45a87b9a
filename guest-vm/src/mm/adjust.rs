//! vma_adjust and split_vma (mm/mmap.c of 2.6.7): the one place where bounds move while a vma is linked.
//!
//! Order of locks and steps is that of 2.6.7 with the two later fixes (the importer of a shifted boundary gets the other's
//! anon_vma, 2004-06-20; adopted lists are locked, 2004-06-26), both of which live behind
//! [`ReverseMap::adjust_begin`].
//!
//! Invariant: between taking and giving back the locks, no page of the range changes hands unseen by its reverse map.

use crate::bug_on;
use crate::file;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Vma};
use crate::mm::vma::{
    find_vma_prepare, link_list_and_tree, lock_mapping, mapping_of, unlink, unlock_mapping,
    vma_copy, vma_discard, vma_open,
};
use crate::mm::{Errno, MAX_MAP_COUNT};
use crate::ptr::Low;
use crate::rmap::file::{i_mmap_adjust_begin, i_mmap_adjust_end, i_mmap_insert, i_mmap_remove};
use crate::rmap::{Adjust, ReverseMap};
use crate::slab::{CacheId, kmem_cache_free};
use lowmem_abi::probe::Probe;

/// Where a vma's bounds move to.
#[derive(Debug, Clone, Copy)]
pub struct NewBounds {
    /// Its first address.
    pub start: u32,
    /// First address behind it.
    pub end: u32,
    /// Its page offset.
    pub pgoff: u32,
}

/// Moves bounds (vma_adjust). Without `insert`, the boundary to the next vma moves along, or the next one or two are
/// swallowed; with it, `insert` (not yet linked) takes what `vma` gives up.
pub fn vma_adjust<K: Kernel>(
    k: K,
    vma: Low<Vma>,
    to: NewBounds,
    insert: Low<Vma>,
) -> Result<(), Oom> {
    let mm = vma.mm(k);
    let mut end = to.end;
    loop {
        let next = vma.next(k);
        let mut a = Adjust {
            vma,
            start: to.start,
            end,
            next: Low::NULL,
            swallow: false,
            insert,
        };
        let mut shift = 0u32;
        let mut twice = false;
        if !next.is_null() && insert.is_null() {
            if end >= next.end(k) {
                // Cases 1, 6, 7 (as far as the area is a vma), 8: all of next, perhaps one more behind it.
                twice = end > next.end(k);
                end = next.end(k);
                a.end = end;
                a.next = next;
                a.swallow = true;
            } else if end > next.start(k) {
                // Case 5: the boundary moves up.
                shift = end.wrapping_sub(next.start(k));
                a.next = next;
            } else if end < vma.end(k) {
                // Case 4: the boundary moves down.
                shift = end.wrapping_sub(vma.end(k));
                a.next = next;
            }
        }
        let mapping = mapping_of(k, vma);
        lock_mapping(k, mapping);
        if !mapping.is_null() && !insert.is_null() {
            i_mmap_insert(k, insert);
        }
        if let Err(oom) = K::Rmap::adjust_begin(k, &a) {
            if !mapping.is_null() && !insert.is_null() {
                i_mmap_remove(k, insert);
            }
            unlock_mapping(k, mapping);
            return Err(oom);
        }
        i_mmap_adjust_begin(k, vma);
        if shift != 0 {
            i_mmap_adjust_begin(k, next);
        }
        vma.set_start(k, to.start);
        vma.set_end(k, end);
        vma.set_pgoff(k, to.pgoff);
        if shift != 0 {
            next.set_start(k, next.start(k).wrapping_add(shift));
            // The shift is signed.
            let pages = ((shift as i32) >> 12) as u32;
            next.set_pgoff(k, next.pgoff(k).wrapping_add(pages));
        }
        if shift != 0 {
            i_mmap_adjust_end(k, next);
        }
        i_mmap_adjust_end(k, vma);
        if a.swallow {
            unlink(k, mm, next, vma);
            if !mapping.is_null() {
                i_mmap_remove(k, next);
            }
        } else if !insert.is_null() {
            let place = find_vma_prepare(k, mm, insert.start(k));
            bug_on!(
                k,
                Vma,
                !place.next.is_null() && place.next.start(k) < insert.end(k),
                insert.start(k)
            );
            link_list_and_tree(k, mm, insert, &place);
            mm.set_map_count(k, mm.map_count(k).wrapping_add(1));
        }
        K::Rmap::adjust_end(k, &a);
        unlock_mapping(k, mapping);
        if a.swallow {
            let f = next.file(k);
            if !f.is_null() {
                file::fput(k, f);
            }
            mm.set_map_count(k, mm.map_count(k).wrapping_sub(1));
            kmem_cache_free(k, CacheId::Vma, next);
            if twice {
                end = to.end;
                continue;
            }
        }
        return Ok(());
    }
}

/// Which half of a split is the new vma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewHalf {
    /// The lower one.
    Below,
    /// The upper one.
    Above,
}

/// Splits `vma` at `addr`, which lies inside it.
pub fn split_vma<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    vma: Low<Vma>,
    addr: u32,
    half: NewHalf,
) -> Result<(), Errno> {
    if mm.map_count(k) >= MAX_MAP_COUNT {
        return Err(Errno::Enomem);
    }
    let new = vma_copy(k, vma)?;
    let pages_below = (addr - vma.start(k)) >> 12;
    let pgoff_above = vma.pgoff(k).wrapping_add(pages_below);
    match half {
        NewHalf::Below => new.set_end(k, addr),
        NewHalf::Above => {
            new.set_start(k, addr);
            new.set_pgoff(k, pgoff_above);
        }
    }
    vma_open(k, new);
    let to = match half {
        NewHalf::Below => NewBounds {
            start: addr,
            end: vma.end(k),
            pgoff: pgoff_above,
        },
        NewHalf::Above => NewBounds {
            start: vma.start(k),
            end: addr,
            pgoff: vma.pgoff(k),
        },
    };
    if let Err(oom) = vma_adjust(k, vma, to, new) {
        vma_discard(k, new);
        return Err(oom.into());
    }
    k.probe(Probe::VmaSplit);
    Ok(())
}
