//! vm_area_struct: look-up, linking, splitting, adjusting (mm/mmap.c of 2.6.7).
//!
//! A vma is on a sorted list, in a red-black tree, in its file's i_mmap and on its reverse map's lists. [`vma_adjust`] is the one
//! place where bounds move while a vma is linked; its order of locks and steps is that of 2.6.7 with the two later
//! fixes (the importer of a shifted boundary gets the other's anon_vma, 2004-06-20; adopted lists are locked, 2004-06-26),
//! both of which live behind [`ReverseMap::adjust_begin`].
//!
//! Invariant: list and tree hold the same vmas, sorted, not overlapping; `map_count` counts them.

use crate::bug_on;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, RbNode, Vma, vm};
use crate::mm::{Errno, MAX_MAP_COUNT};
use crate::ptr::Low;
use crate::rbtree::{self, Link};
use crate::rmap::{Adjust, ReverseMap};

/// Offset of the tree node in a vma.
const RB: u32 = 24;
/// Offset of the tree's root in an mm.
const MM_RB: u32 = 4;

/// The vma whose tree node this is.
#[inline(always)]
fn entry(node: Low<RbNode>) -> Low<Vma> {
    node.container(RB)
}

/// Address of the tree's root word.
#[inline(always)]
fn root_of(mm: Low<Mm>) -> Link {
    mm.field(MM_RB)
}

/// The first vma that ends behind `addr`; null if none. The last one found is tried first.
pub fn find_vma<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Low<Vma> {
    let cached = mm.mmap_cache(k);
    if !cached.is_null() && cached.end(k) > addr && cached.start(k) <= addr {
        return cached;
    }
    let mut found = Low::NULL;
    let mut node = mm.mm_rb(k);
    while !node.is_null() {
        let vma = entry(node);
        if vma.end(k) > addr {
            found = vma;
            if vma.start(k) <= addr {
                break;
            }
            node = node.left(k);
        } else {
            node = node.right(k);
        }
    }
    if !found.is_null() {
        mm.set_mmap_cache(k, found);
    }
    found
}

/// As [`find_vma`], with the vma before it (null if it is the first).
pub fn find_vma_prev<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> (Low<Vma>, Low<Vma>) {
    let first = mm.mmap(k);
    let mut prev = Low::NULL;
    let mut node = mm.mm_rb(k);
    while !node.is_null() {
        let vma = entry(node);
        if addr < vma.end(k) {
            node = node.left(k);
        } else {
            prev = vma;
            let next = vma.next(k);
            if next.is_null() || addr < next.end(k) {
                break;
            }
            node = node.right(k);
        }
    }
    (if prev.is_null() { first } else { prev.next(k) }, prev)
}

/// Where a new vma goes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The vma before it, or null.
    pub prev: Low<Vma>,
    /// Its parent in the tree, or null.
    pub parent: Low<RbNode>,
    /// The child word of `parent` (or root) that will hold it.
    pub link: Link,
    /// The first vma that ends behind the address, or null. If it also starts at or before it, the rest of
    /// this value is not valid.
    pub next: Low<Vma>,
}

/// Finds the place of a vma starting at `addr` (find_vma_prepare).
pub fn find_vma_prepare<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Place {
    let mut place = Place {
        prev: Low::NULL,
        parent: Low::NULL,
        link: root_of(mm),
        next: Low::NULL,
    };
    let mut before: Low<RbNode> = Low::NULL;
    loop {
        let node = place.link.read(k);
        if node.is_null() {
            break;
        }
        let vma = entry(node);
        place.parent = node;
        if vma.end(k) > addr {
            place.next = vma;
            if vma.start(k) <= addr {
                return place;
            }
            place.link = node.left_link();
        } else {
            before = node;
            place.link = node.right_link();
        }
    }
    if !before.is_null() {
        place.prev = entry(before);
    }
    place
}

/// Lets a stack vma grow down to the page of `address` (2.6.7: anon_vma first, its lock serialises).
pub fn expand_stack<K: Kernel>(k: K, vma: Low<Vma>, address: u32) -> Result<(), Errno> {
    K::Rmap::prepare_anon(k, vma)?;
    let address = address & !0xfff;
    let start = vma.start(k);
    if address < start {
        let grow = (start - address) >> 12;
        let a = Adjust {
            vma,
            start: address,
            end: vma.end(k),
            next: Low::NULL,
            swallow: false,
            insert: Low::NULL,
        };
        K::Rmap::adjust_begin(k, &a)?;
        vma.set_start(k, address);
        vma.set_pgoff(k, vma.pgoff(k).wrapping_sub(grow));
        let mm = vma.mm(k);
        mm.set_total_vm(k, mm.total_vm(k).wrapping_add(grow));
        if vma.flags(k) & vm::LOCKED != 0 {
            mm.set_locked_vm(k, mm.locked_vm(k).wrapping_add(grow));
        }
        K::Rmap::adjust_end(k, &a);
    }
    Ok(())
}
