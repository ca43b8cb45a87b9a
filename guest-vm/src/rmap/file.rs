//! From a file to the vmas that map it: the i_mmap of an address_space, as a list or as a prio_tree (boot parameter `file_vmas`).
//!
//! prio_tree: 2.6.7, one tree for shared and private vmas. list: 2.6.0, i_mmap for private and i_mmap_shared for shared vmas (VM_SHARED),
//! new mappings at the tail, a fork's copy right in front of its parent's; a search walks the private list, then the shared one.
//! Nonlinear vmas are on a list of their own with either (with lists they stayed on i_mmap_shared and were passed over). 2.6.0 to
//! 2.6.6 guard them by a semaphore, 2.6.7 and 2.4 by a spin lock ([`lock_i_mmap`]). Left out: a holder of the semaphore that sleeps, so that
//! reclaim's try fails on one CPU too. Every function but [`i_mmap_fork`] and [`i_mmap_unlink`] is called with that lock held.
//!
//! Invariant: every vma with a file is exactly once in tree, list or nonlinear list of its file.

use crate::cluster;
use crate::kernel::Kernel;
use crate::layout::{Mapping, Vma, has_i_mmap_writable, has_shared_sem, vm};
use crate::list::ListHead;
use crate::objects::objects;
use crate::prio_tree::{self, PrioRoot, Walk};
use crate::ptr::Low;

/// Offset of the list element (or tree node) in a vma.
pub const SHARED: u32 = 40;

#[inline(always)]
fn tree<K: Kernel>(k: K) -> bool {
    objects(k).file_vmas(k) != 0
}

/// A mapping without vmas.
pub fn i_mmap_init<K: Kernel>(k: K, mapping: Low<Mapping>) {
    if tree(k) {
        PrioRoot(mapping.i_mmap(k)).init(k);
    } else {
        mapping.i_mmap(k).init(k);
        mapping.i_mmap_shared(k).init(k);
    }
    if has_i_mmap_writable(k) {
        mapping.set_i_mmap_writable(k, 0);
    }
    mapping.i_mmap_nonlinear(k).init(k);
    if has_shared_sem(k) {
        mapping.i_shared_sem(k).init(k);
    } else {
        mapping.i_mmap_spin(k).init(k);
    }
}

/// mapping_mapped: whether any vma maps the file.
pub fn mapping_mapped<K: Kernel>(k: K, mapping: Low<Mapping>) -> bool {
    let linear = if tree(k) {
        !PrioRoot(mapping.i_mmap(k)).is_empty(k)
    } else {
        !(mapping.i_mmap(k).is_empty(k) && mapping.i_mmap_shared(k).is_empty(k))
    };
    linear || !mapping.i_mmap_nonlinear(k).is_empty(k)
}

/// Takes the lock of a mapping's vmas: i_mmap_lock, or i_shared_sem before 2.6.7.
#[inline(always)]
pub fn lock_i_mmap<K: Kernel>(k: K, mapping: Low<Mapping>) {
    if has_shared_sem(k) {
        mapping.i_shared_sem(k).down(k);
    } else {
        mapping.i_mmap_spin(k).lock(k);
    }
}

/// Takes it if it is free.
#[inline(always)]
pub fn trylock_i_mmap<K: Kernel>(k: K, mapping: Low<Mapping>) -> bool {
    if has_shared_sem(k) {
        mapping.i_shared_sem(k).down_trylock(k)
    } else {
        mapping.i_mmap_spin(k).trylock(k)
    }
}

/// Gives it back.
#[inline(always)]
pub fn unlock_i_mmap<K: Kernel>(k: K, mapping: Low<Mapping>) {
    if has_shared_sem(k) {
        mapping.i_shared_sem(k).up(k);
    } else {
        mapping.i_mmap_spin(k).unlock(k);
    }
}

/// Whether it is free (for checks).
pub fn i_mmap_is_free<K: Kernel>(k: K, mapping: Low<Mapping>) -> bool {
    if has_shared_sem(k) {
        mapping.i_shared_sem(k).is_free(k)
    } else {
        mapping.i_mmap_spin(k).is_free(k)
    }
}

/// Takes the lock of `vma`'s file, if it has one.
#[inline(always)]
pub fn i_mmap_lock<K: Kernel>(k: K, vma: Low<Vma>) {
    let file = vma.file(k);
    if !file.is_null() {
        lock_i_mmap(k, file.f_mapping(k));
    }
}

/// Gives it back.
#[inline(always)]
pub fn i_mmap_unlock<K: Kernel>(k: K, vma: Low<Vma>) {
    let file = vma.file(k);
    if !file.is_null() {
        unlock_i_mmap(k, file.f_mapping(k));
    }
}

/// __vma_link_file: a vma with final bounds joins its file. Nothing for anonymous vmas.
pub fn i_mmap_insert<K: Kernel>(k: K, vma: Low<Vma>) {
    let file = vma.file(k);
    if file.is_null() {
        return;
    }
    let mapping = file.f_mapping(k);
    let flags = vma.flags(k);
    if flags & vm::SHARED != 0 && has_i_mmap_writable(k) {
        mapping.set_i_mmap_writable(k, mapping.i_mmap_writable(k).wrapping_add(1));
    }
    if flags & vm::NONLINEAR != 0 {
        vma.shared(k)
            .list(k)
            .add_tail_to(k, mapping.i_mmap_nonlinear(k));
    } else if tree(k) {
        prio_tree::insert(k, PrioRoot(mapping.i_mmap(k)), vma);
    } else {
        let head = if flags & vm::SHARED != 0 {
            mapping.i_mmap_shared(k)
        } else {
            mapping.i_mmap(k)
        };
        vma.shared(k).list(k).add_tail_to(k, head);
    }
}

/// __remove_shared_vm_struct: a vma leaves its file.
pub fn i_mmap_remove<K: Kernel>(k: K, vma: Low<Vma>) {
    let file = vma.file(k);
    if file.is_null() {
        return;
    }
    let mapping = file.f_mapping(k);
    let flags = vma.flags(k);
    if flags & vm::SHARED != 0 && has_i_mmap_writable(k) {
        mapping.set_i_mmap_writable(k, mapping.i_mmap_writable(k).wrapping_sub(1));
    }
    if flags & vm::NONLINEAR != 0 || !tree(k) {
        vma.shared(k).list(k).del_init(k);
    } else {
        prio_tree::remove(k, PrioRoot(mapping.i_mmap(k)), vma);
    }
}

/// remove_shared_vm_struct: takes the lock, removes.
pub fn i_mmap_unlink<K: Kernel>(k: K, vma: Low<Vma>) {
    i_mmap_lock(k, vma);
    i_mmap_remove(k, vma);
    i_mmap_unlock(k, vma);
}

/// fork: `child`, a struct copy of `parent`, joins beside it. Takes the lock.
pub fn i_mmap_fork<K: Kernel>(k: K, parent: Low<Vma>, child: Low<Vma>) {
    let file = child.file(k);
    if file.is_null() {
        return;
    }
    let mapping = file.f_mapping(k);
    lock_i_mmap(k, mapping);
    if child.flags(k) & vm::SHARED != 0 && has_i_mmap_writable(k) {
        mapping.set_i_mmap_writable(k, mapping.i_mmap_writable(k).wrapping_add(1));
    }
    if child.flags(k) & vm::NONLINEAR != 0 || !tree(k) {
        child
            .shared(k)
            .list(k)
            .add_tail_to(k, parent.shared(k).list(k));
    } else {
        prio_tree::add(k, child, parent);
    }
    unlock_i_mmap(k, mapping);
}

/// vma_adjust, before bounds change: a linear vma leaves the tree; a list does not care.
pub fn i_mmap_adjust_begin<K: Kernel>(k: K, vma: Low<Vma>) {
    let file = vma.file(k);
    if !file.is_null() && tree(k) && vma.flags(k) & vm::NONLINEAR == 0 {
        prio_tree::remove(k, PrioRoot(file.f_mapping(k).i_mmap(k)), vma);
    }
}

/// vma_adjust, after bounds have changed: it comes back.
pub fn i_mmap_adjust_end<K: Kernel>(k: K, vma: Low<Vma>) {
    let file = vma.file(k);
    if !file.is_null() && tree(k) && vma.flags(k) & vm::NONLINEAR == 0 {
        prio_tree::insert(k, PrioRoot(file.f_mapping(k).i_mmap(k)), vma);
    }
}

/// First nonlinear use of a vma (remap_file_pages): to the tail of the nonlinear list, for good. Takes the lock; sets VM_NONLINEAR.
pub fn i_mmap_make_nonlinear<K: Kernel>(k: K, vma: Low<Vma>) {
    let mapping = vma.file(k).f_mapping(k);
    lock_i_mmap(k, mapping);
    if tree(k) {
        prio_tree::remove(k, PrioRoot(mapping.i_mmap(k)), vma);
    } else {
        vma.shared(k).list(k).del_init(k);
    }
    vma.set_flags(k, vma.flags(k) | vm::NONLINEAR);
    vma.shared(k)
        .list(k)
        .add_tail_to(k, mapping.i_mmap_nonlinear(k));
    unlock_i_mmap(k, mapping);
}

/// A walk over the linear vmas of a mapping that may map page offset `pgoff`: with lists all of them, private before shared,
/// with a tree those that do.
#[derive(Debug, Clone, Copy)]
pub enum FileVmas {
    /// Through the lists.
    List(ListWalk),
    /// Through the tree.
    Tree(Walk),
}

impl FileVmas {
    /// A walk.
    pub fn new<K: Kernel>(k: K, mapping: Low<Mapping>, pgoff: u32) -> Self {
        Self::range(k, mapping, pgoff, pgoff)
    }

    /// A walk over the vmas that may map the page at `index`.
    #[inline(always)]
    pub fn of_page<K: Kernel>(k: K, mapping: Low<Mapping>, index: u32) -> Self {
        if cluster::clustered(k) {
            let first = index << cluster::mmu_shift(k);
            Self::range(k, mapping, first, first + (cluster::mmu_count(k) - 1))
        } else {
            Self::new(k, mapping, index)
        }
    }

    /// A walk over the vmas that may map any page offset from `first` to `last`.
    #[inline(always)]
    pub fn range<K: Kernel>(k: K, mapping: Low<Mapping>, first: u32, last: u32) -> Self {
        let head = mapping.i_mmap(k);
        if tree(k) {
            FileVmas::Tree(Walk::new(PrioRoot(head), first, last))
        } else {
            FileVmas::List(ListWalk {
                head,
                at: head,
                shared: mapping.i_mmap_shared(k),
            })
        }
    }

    /// The next vma, or null.
    pub fn next<K: Kernel>(&mut self, k: K) -> Low<Vma> {
        match self {
            FileVmas::Tree(walk) => walk.next(k),
            FileVmas::List(walk) => walk.next(k),
        }
    }
}

/// Where a walk through both lists stands.
#[derive(Debug, Clone, Copy)]
pub struct ListWalk {
    /// Head of the list being walked.
    head: Low<ListHead>,
    at: Low<ListHead>,
    /// Head of the list that comes last.
    shared: Low<ListHead>,
}

impl ListWalk {
    fn next<K: Kernel>(&mut self, k: K) -> Low<Vma> {
        self.at = self.at.next(k);
        if self.at == self.head && self.head != self.shared {
            self.head = self.shared;
            self.at = self.shared.next(k);
        }
        if self.at == self.head {
            Low::NULL
        } else {
            self.at.container(SHARED)
        }
    }
}
