//! vm_area_struct: look-up, linking, growing a stack, the end (mm/mmap.c of 2.6.7).
//!
//! A vma is on a sorted list, in a red-black tree, in its file's i_mmap and on its reverse map's lists. Bounds of a linked
//! vma move in `adjust.rs` only, but for a stack's start.
//!
//! Invariant: list and tree hold the same vmas, sorted, not overlapping; `map_count` counts them.

use crate::file;
use crate::guest_struct::Layout;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mapping, Mm, RbNode, Vma, has_tree_words, vm, vm_ops};
pub use crate::mm::adjust::{NewBounds, NewHalf, split_vma, vma_adjust};
use crate::mm::{Errno, shm};
use crate::page_alloc::Gfp;
use crate::ptr::Low;
use crate::rbtree::{self, Link};
use crate::rmap::file::{i_mmap_insert, i_mmap_unlink, lock_i_mmap, unlock_i_mmap};
use crate::rmap::{Adjust, ReverseMap};
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::task::tasks;

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

/// Puts `vma` on the list behind `prev` (__vma_link_list).
fn link_list<K: Kernel>(k: K, mm: Low<Mm>, vma: Low<Vma>, prev: Low<Vma>, parent: Low<RbNode>) {
    if !prev.is_null() {
        vma.set_next(k, prev.next(k));
        prev.set_next(k, vma);
    } else {
        mm.set_mmap(k, vma);
        // Without a vma before it, its parent in the tree is its successor.
        vma.set_next(
            k,
            if parent.is_null() {
                Low::NULL
            } else {
                entry(parent)
            },
        );
    }
}

/// Puts `vma` into list and tree at `place`.
pub(super) fn link_list_and_tree<K: Kernel>(k: K, mm: Low<Mm>, vma: Low<Vma>, place: &Place) {
    link_list(k, mm, vma, place.prev, place.parent);
    rbtree::link(k, vma.rb(k), place.parent, place.link);
    rbtree::insert_color(k, vma.rb(k), root_of(mm));
}

/// Puts `vma` into list and tree as the last one; `at` is updated for the next (dup_mmap: input is sorted, so each new vma is the
/// right child of the one before).
pub fn link_last<K: Kernel>(k: K, mm: Low<Mm>, vma: Low<Vma>, prev: Low<Vma>) {
    let (parent, link) = if prev.is_null() {
        (Low::NULL, root_of(mm))
    } else {
        (prev.rb(k), prev.rb(k).right_link())
    };
    if prev.is_null() {
        mm.set_mmap(k, vma);
    } else {
        prev.set_next(k, vma);
    }
    rbtree::link(k, vma.rb(k), parent, link);
    rbtree::insert_color(k, vma.rb(k), root_of(mm));
}

/// The address_space a vma maps, or null.
#[inline(always)]
pub fn mapping_of<K: Kernel>(k: K, vma: Low<Vma>) -> Low<Mapping> {
    let f = vma.file(k);
    if f.is_null() {
        Low::NULL
    } else {
        f.f_mapping(k)
    }
}

#[inline(always)]
pub(super) fn lock_mapping<K: Kernel>(k: K, mapping: Low<Mapping>) {
    if !mapping.is_null() {
        lock_i_mmap(k, mapping);
    }
}

#[inline(always)]
pub(super) fn unlock_mapping<K: Kernel>(k: K, mapping: Low<Mapping>) {
    if !mapping.is_null() {
        unlock_i_mmap(k, mapping);
    }
}

/// Whether two copies of the same vma: the reverse map's state of a vma about to be linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// Made by mmap or brk: no pages, no anon_vma.
    New,
    /// A copy of another vma with its anon_vma (mremap).
    CopyOf(Low<Vma>),
}

/// Links a new vma everywhere (vma_link): list, tree, reverse map, file.
pub fn vma_link<K: Kernel>(k: K, mm: Low<Mm>, vma: Low<Vma>, place: &Place, how: Linked) {
    let mapping = mapping_of(k, vma);
    lock_mapping(k, mapping);
    link_list_and_tree(k, mm, vma, place);
    match how {
        Linked::New => {}
        Linked::CopyOf(original) => K::Rmap::vma_forked(k, original, vma),
    }
    if !mapping.is_null() {
        i_mmap_insert(k, vma);
    }
    unlock_mapping(k, mapping);
    mm.set_map_count(k, mm.map_count(k).wrapping_add(1));
}

/// Allocates a zeroed vma of `mm`.
pub fn vma_alloc<K: Kernel>(k: K, mm: Low<Mm>) -> Result<Low<Vma>, Oom> {
    let vma: Low<Vma> = kmem_cache_alloc(k, CacheId::Vma, Gfp::Kernel)?;
    let words = Vma::size(k) / 4;
    let mut i = 0;
    while i < words {
        vma.field::<u32>(i * 4).write(k, 0);
        i += 1;
    }
    vma.set_mm(k, mm);
    K::Rmap::vma_init(k, vma);
    Ok(vma)
}

/// Allocates a copy of `vma`, on no list (the struct copy of split, mremap and fork).
pub fn vma_copy<K: Kernel>(k: K, vma: Low<Vma>) -> Result<Low<Vma>, Oom> {
    let new: Low<Vma> = kmem_cache_alloc(k, CacheId::Vma, Gfp::Kernel)?;
    crate::task::copy_low(k, new.cast(), vma.cast(), Vma::size(k));
    // vma_prio_tree_init: on no tree.
    if has_tree_words(k) {
        new.set_tree_parent(k, Low::NULL);
        new.set_tree_head(k, Low::NULL);
    }
    Ok(new)
}

/// A copied vma holds its file and tells its object (get_file, vm_ops->open).
pub fn vma_open<K: Kernel>(k: K, vma: Low<Vma>) {
    let f = vma.file(k);
    if !f.is_null() {
        file::get_file(k, f);
    }
    if vma.ops(k) == vm_ops::SHM {
        shm::open(k, vma);
    }
}

/// The last steps of a vma whose pages are unmapped and which is on neither list nor tree (remove_vm_struct):
/// i_mmap, close, fput, reverse map, free.
pub fn remove_vm_struct<K: Kernel>(k: K, vma: Low<Vma>) {
    i_mmap_unlink(k, vma);
    if vma.ops(k) == vm_ops::SHM {
        shm::close(k, vma);
    }
    let f = vma.file(k);
    if !f.is_null() {
        file::fput(k, f);
    }
    K::Rmap::vma_gone(k, vma);
    kmem_cache_free(k, CacheId::Vma, vma);
}

/// Takes `vma`, the successor of `prev`, out of list and tree (__vma_unlink).
pub(super) fn unlink<K: Kernel>(k: K, mm: Low<Mm>, vma: Low<Vma>, prev: Low<Vma>) {
    prev.set_next(k, vma.next(k));
    rbtree::erase(k, vma.rb(k), root_of(mm));
    if mm.mmap_cache(k) == vma {
        mm.set_mmap_cache(k, prev);
    }
}

/// Takes the vmas from `first` up to `end` out of list and tree; they stay chained to each other.
pub fn detach<K: Kernel>(k: K, mm: Low<Mm>, first: Low<Vma>, prev: Low<Vma>, end: u32) {
    let mut vma = first;
    let mut tail = first;
    while !vma.is_null() && vma.start(k) < end {
        rbtree::erase(k, vma.rb(k), root_of(mm));
        mm.set_map_count(k, mm.map_count(k).wrapping_sub(1));
        tail = vma;
        vma = vma.next(k);
    }
    if prev.is_null() {
        mm.set_mmap(k, vma);
    } else {
        prev.set_next(k, vma);
    }
    tail.set_next(k, Low::NULL);
    mm.set_mmap_cache(k, Low::NULL);
}

/// Frees an opened vma that was never linked.
pub fn vma_discard<K: Kernel>(k: K, vma: Low<Vma>) {
    if vma.ops(k) == vm_ops::SHM {
        shm::close(k, vma);
    }
    let f = vma.file(k);
    if !f.is_null() {
        file::fput(k, f);
    }
    kmem_cache_free(k, CacheId::Vma, vma);
}

/// Charges `pages` to the commit counter (vm_enough_memory with overcommit: never refuses).
#[inline(always)]
pub fn acct_memory<K: Kernel>(k: K, pages: u32) {
    let t = tasks(k);
    t.set_committed(k, t.committed(k).wrapping_add(pages));
}

/// Gives `pages` back to the commit counter.
#[inline(always)]
pub fn unacct_memory<K: Kernel>(k: K, pages: u32) {
    let t = tasks(k);
    t.set_committed(k, t.committed(k).wrapping_sub(pages));
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
        if vma.flags(k) & vm::ACCOUNT != 0 {
            acct_memory(k, grow);
        }
        if vma.flags(k) & vm::LOCKED != 0 {
            mm.set_locked_vm(k, mm.locked_vm(k).wrapping_add(grow));
        }
        K::Rmap::adjust_end(k, &a);
    }
    Ok(())
}
