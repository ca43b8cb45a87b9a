//! anon_vma, the object-based reverse map of 2.6.7 (mm/rmap.c, "rmap 39/40"), with its two later fixes.
//!
//! An anonymous page points to its anon_vma (page->mapping under PG_anon) and to its place in it (page->index, by the linear rule
//! of the vma, so that it survives mremap); every vma that may map such a page is on the anon_vma's list. File pages are found through
//! i_mmap ([`super::file`]). page->rmap is the mapcount. Fixes included: adopting a neighbour's anon_vma takes the list lock
//! (2004-06-26); when vma_adjust moves a boundary, the vma that grows gets the other's anon_vma (2004-06-20). With the structures of 2.6.5-aa pages
//! are searched for by that tree's rules (`object_aa.rs`); how vmas share an anon_vma is 2.6.7's there too.
//!
//! Invariant: every present anonymous pte lies in a vma on the list of its page's anon_vma, at the address index says; an anon_vma
//! lives while its list is not empty.

use super::object::{self, Checks};
use super::{Adjust, PteAt, ReverseMap, Unmap, mapcount, object_aa};
use crate::bug_on;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom, Planted};
use crate::layout::{Page, Vma, pg, vm, vm_ops, vma_rmap_at};
use crate::list::ListHead;
use crate::mm::vma::find_vma_prev;
use crate::page;
use crate::page_alloc::Gfp;
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::sync::SpinLock;
use lowmem_abi::probe::Probe;

guest_struct! {
    /// anon_vma: lock and list of vmas, 12 bytes. Constructed: lock free, list empty.
    pub struct AnonVma [K] size 12;
    at 0 => part lock: SpinLock;
    at 4 => part head: ListHead;
}

guest_struct! {
    /// What a vma carries: anon_vma_node and anon_vma.
    pub struct VmaPart [K] size 12;
    at 0 => part node: ListHead;
    at 8 => word anon_vma, set_anon_vma: Low<AnonVma>;
}

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum AnonVmaMap {}

impl super::Scheme for AnonVmaMap {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::AnonVma;
    type Map<K: Kernel> = Self;
}

#[inline(always)]
pub(super) fn part<K: Kernel>(k: K, vma: Low<Vma>) -> Low<VmaPart> {
    vma.rmap_fields(k)
}

/// The vma's anon_vma, or null.
#[inline(always)]
pub fn of_vma<K: Kernel>(k: K, vma: Low<Vma>) -> Low<AnonVma> {
    part(k, vma).anon_vma(k)
}

/// The vma whose anon_vma_node this is.
#[inline(always)]
pub fn vma_of_node<K: Kernel>(k: K, node: Low<ListHead>) -> Low<Vma> {
    node.container(vma_rmap_at(k))
}

/// __anon_vma_link: to the head of the list; the lock is held.
#[inline(always)]
pub(super) fn link<K: Kernel>(k: K, vma: Low<Vma>, anon_vma: Low<AnonVma>) {
    part(k, vma).node(k).add_to(k, anon_vma.head(k));
}

/// Puts a vma without anon_vma on the list of `anon_vma`, whose lock is held.
#[inline(always)]
pub(super) fn join<K: Kernel>(k: K, vma: Low<Vma>, anon_vma: Low<AnonVma>) {
    part(k, vma).set_anon_vma(k, anon_vma);
    link(k, vma, anon_vma);
}

/// `vma`, to which the adjustment `a` gives pages of its neighbour, joins that one's anon_vma, whose lock is held: where the neighbour is swallowed,
/// at its place in the list (anon_vma_merge), else at the head.
#[inline(always)]
pub(super) fn import<K: Kernel>(k: K, a: &Adjust, vma: Low<Vma>, anon_vma: Low<AnonVma>) {
    if a.swallow {
        part(k, vma).set_anon_vma(k, anon_vma);
        part(k, vma).node(k).add_to(k, part(k, a.next).node(k));
    } else {
        join(k, vma, anon_vma);
    }
}

/// anon_vma_link: `child`, a struct copy, comes onto the list of the anon_vma that it was copied with, if any.
pub(super) fn link_copy<K: Kernel>(k: K, child: Low<Vma>, anon_vma: Low<AnonVma>) {
    if !anon_vma.is_null() {
        anon_vma.lock(k).lock(k);
        link(k, child, anon_vma);
        anon_vma.lock(k).unlock(k);
    }
}

/// anon_vma_unlink: `vma` leaves its anon_vma, if it has one; the last frees it.
pub(super) fn unlink<K: Kernel>(k: K, vma: Low<Vma>, anon_vma: Low<AnonVma>) {
    if anon_vma.is_null() {
        return;
    }
    anon_vma.lock(k).lock(k);
    part(k, vma).node(k).del(k);
    let empty = anon_vma.head(k).is_empty(k);
    anon_vma.lock(k).unlock(k);
    if empty {
        k.probe(Probe::AnonVmaFreed);
        kmem_cache_free(k, CacheId::AnonVma, anon_vma);
    }
}

/// Whether vmas with these anon_vmas can be one: they have the same, or one has none.
#[inline(always)]
pub(super) fn compatible<T>(a: Low<T>, b: Low<T>) -> bool {
    a.is_null() || b.is_null() || a == b
}

/// find_mergeable_anon_vma: next's, else previous', if the two could merge once R/W/X are those of the neighbour. `of_vma` tells a
/// vma's anon_vma, `sharable` whether a neighbour may share it.
#[inline(always)]
pub(super) fn find_mergeable<K: Kernel, T>(
    k: K,
    vma: Low<Vma>,
    of_vma: impl Fn(K, Low<Vma>) -> Low<T>,
    sharable: impl Fn(K, Low<Vma>) -> bool,
) -> Low<T> {
    let next = vma.next(k);
    if !next.is_null() {
        let found = of_vma(k, next);
        if !found.is_null() && joins(k, vma, next) && same_kind(k, vma, next) && sharable(k, next) {
            return found;
        }
    }
    let (me, prev) = find_vma_prev(k, vma.mm(k), vma.start(k));
    bug_on!(k, AnonVma, me != vma, vma.va());
    if !prev.is_null() {
        let found = of_vma(k, prev);
        if !found.is_null() && joins(k, prev, vma) && same_kind(k, vma, prev) && sharable(k, prev) {
            return found;
        }
    }
    Low::NULL
}

/// `b` begins where `a` ends, in addresses and in offsets.
fn joins<K: Kernel>(k: K, a: Low<Vma>, b: Low<Vma>) -> bool {
    a.end(k) == b.start(k) && a.pgoff(k).wrapping_add((a.end(k) - a.start(k)) >> 12) == b.pgoff(k)
}

fn same_kind<K: Kernel>(k: K, a: Low<Vma>, b: Low<Vma>) -> bool {
    let access = vm::READ | vm::WRITE | vm::EXEC;
    let special = vm::IO | vm::DONTCOPY | vm::DONTEXPAND | vm::RESERVED;
    (a.flags(k) ^ b.flags(k)) & !access == 0
        && a.flags(k) & special == 0
        && a.file(k) == b.file(k)
        && b.ops(k) != vm_ops::SHM
}

/// The anon_vma whose lock vma_adjust takes: the vma's, else its neighbour's.
pub(super) fn adjust_lock<K: Kernel>(
    k: K,
    a: &Adjust,
    of_vma: impl Fn(K, Low<Vma>) -> Low<AnonVma>,
) -> Low<AnonVma> {
    let own = of_vma(k, a.vma);
    if own.is_null() && !a.next.is_null() {
        of_vma(k, a.next)
    } else {
        own
    }
}

/// Second half of vma_adjust: lists follow, the lock is given back.
pub(super) fn adjust_end<K: Kernel>(
    k: K,
    a: &Adjust,
    of_vma: impl Fn(K, Low<Vma>) -> Low<AnonVma>,
) {
    let lock = adjust_lock(k, a, &of_vma);
    if lock.is_null() {
        return;
    }
    if a.swallow {
        if !of_vma(k, a.next).is_null() {
            part(k, a.next).node(k).del(k);
        }
    } else if !a.insert.is_null() {
        link(k, a.insert, lock);
    }
    // Not taken when only the end moved.
    if !lock.lock(k).is_free(k) {
        lock.lock(k).unlock(k);
    }
}

impl<K: Kernel> ReverseMap<K> for AnonVmaMap {
    #[inline(always)]
    fn vma_bytes(_: K) -> u32 {
        12
    }
    type Spare = ();

    #[inline(always)]
    fn vma_init(k: K, vma: Low<Vma>) {
        part(k, vma).set_anon_vma(k, Low::NULL);
    }

    fn prepare_anon(k: K, vma: Low<Vma>) -> Result<(), Oom> {
        if !of_vma(k, vma).is_null() {
            return Ok(());
        }
        let adopted = find_mergeable(k, vma, of_vma, |_, _| true);
        let anon_vma = if adopted.is_null() {
            let new = kmem_cache_alloc(k, CacheId::AnonVma, Gfp::Kernel)?;
            k.probe(Probe::AnonVmaAllocated);
            new
        } else {
            adopted.lock(k).lock(k);
            adopted
        };
        let lock = vma.mm(k).page_table_lock(k);
        lock.lock(k);
        join(k, vma, anon_vma);
        lock.unlock(k);
        if !adopted.is_null() {
            adopted.lock(k).unlock(k);
        }
        Ok(())
    }

    #[inline(always)]
    fn vma_forked(k: K, _: Low<Vma>, child: Low<Vma>) {
        link_copy(k, child, of_vma(k, child));
    }
    #[inline(always)]
    fn vma_gone(k: K, vma: Low<Vma>) {
        unlink(k, vma, of_vma(k, vma));
    }
    #[inline(always)]
    fn mergeable(k: K, a: Low<Vma>, b: Low<Vma>) -> bool {
        compatible(of_vma(k, a), of_vma(k, b))
    }
    #[inline(always)]
    fn pgoff_bound(k: K, vma: Low<Vma>) -> bool {
        !of_vma(k, vma).is_null()
    }

    fn adopt(k: K, vma: Low<Vma>, from: Low<Vma>) -> Result<(), Oom> {
        let anon_vma = of_vma(k, from);
        if anon_vma.is_null() || !of_vma(k, vma).is_null() {
            return Ok(());
        }
        anon_vma.lock(k).lock(k);
        join(k, vma, anon_vma);
        anon_vma.lock(k).unlock(k);
        Ok(())
    }

    fn adjust_begin(k: K, a: &Adjust) -> Result<(), Oom> {
        // Moving only the end of a vma concerns no page: no lock, unless a neighbour or new vma is involved.
        if a.next.is_null() && a.insert.is_null() && a.start == a.vma.start(k) {
            return Ok(());
        }
        let lock = adjust_lock(k, a, of_vma);
        if lock.is_null() {
            return Ok(());
        }
        lock.lock(k).lock(k);
        if !a.next.is_null() {
            let importer = if a.swallow || a.end > a.vma.end(k) {
                a.vma
            } else {
                a.next
            };
            let forgotten = !a.swallow && k.planted(Planted::ShiftWithoutAnonVma);
            if of_vma(k, importer).is_null() && !forgotten {
                import(k, a, importer, lock);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn adjust_end(k: K, a: &Adjust) {
        adjust_end(k, a, of_vma);
    }

    fn add_anon(k: K, page: Low<Page>, vma: Low<Vma>, at: PteAt, (): &mut ()) {
        let anon_vma = of_vma(k, vma);
        bug_on!(k, AnonVma, anon_vma.is_null(), vma.va());
        let index = page::linear_page_index(k, vma, at.addr);
        page::map_lock(k, page);
        let count = page.rmap(k);
        if count == 0 {
            bug_on!(k, AnonVma, page.mapping(k) != 0, page.va());
            page::set(k, page, pg::ANON);
            page.set_index(k, index);
            page.set_mapping(k, anon_vma.va());
            mod_page_state(k, State::NrMapped, 1);
        } else {
            bug_on!(k, AnonVma, page.index(k) != index, page.va());
            bug_on!(k, AnonVma, page.mapping(k) != anon_vma.va(), page.va());
        }
        page.set_rmap(k, count + 1);
        page::map_unlock(k, page);
    }

    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        if object_aa::followed(k) {
            return object_aa::page_referenced(k, page);
        }
        object::page_referenced(k, page, referenced_anon)
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        if object_aa::followed(k) {
            return object_aa::try_to_unmap(k, page);
        }
        object::try_to_unmap(k, page, Checks::V2_6_7, unmap_anon, mapcount::last_gone)
    }

    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        ptes: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)> {
        object::check::check_page(k, page, ptes, || check_anon_page(k, page, ptes))
    }

    #[cfg(not(target_os = "none"))]
    fn check_vma(k: K, vma: Low<Vma>) -> Result<(), &'static str> {
        check_listed(k, vma, of_vma(k, vma))
    }
}

/// Every pte of an anonymous page lies in exactly one vma on its anon_vma's list.
#[cfg(not(target_os = "none"))]
pub(super) fn check_anon_page<K: Kernel>(
    k: K,
    page: Low<Page>,
    ptes: &[crate::check::Mapper],
) -> Result<(), (&'static str, u32)> {
    let anon_vma: Low<AnonVma> = Low::new(page.mapping(k));
    if !anon_vma.lock(k).is_free(k) {
        return Err(("anon_vma lock taken", anon_vma.va()));
    }
    let mut places = Vec::new();
    let head = anon_vma.head(k);
    let mut at = head.next(k);
    while at != head {
        if at.next(k).prev(k) != at {
            return Err(("broken links of an anon_vma's list", anon_vma.va()));
        }
        let vma = vma_of_node(k, at);
        object::check::add_places(k, page, vma, &mut places);
        at = at.next(k);
    }
    object::check::once_each(places, ptes)
        .map_err(|m| ("pte not in exactly one vma of the anon_vma", m.addr))
}

/// A vma is exactly once on the list of its anon_vma, if it has one.
#[cfg(not(target_os = "none"))]
pub(super) fn check_listed<K: Kernel>(
    k: K,
    vma: Low<Vma>,
    anon_vma: Low<AnonVma>,
) -> Result<(), &'static str> {
    if anon_vma.is_null() {
        return Ok(());
    }
    let head = anon_vma.head(k);
    let mut at = head.next(k);
    let mut hits = 0;
    while at != head {
        if at.next(k).prev(k) != at {
            return Err("broken links of an anon_vma's list");
        }
        hits += (vma_of_node(k, at) == vma) as u32;
        at = at.next(k);
    }
    if hits == 1 {
        Ok(())
    } else {
        Err("vma not exactly once on its anon_vma's list")
    }
}

/// Calls `visit` with each vma of an anonymous page's anon_vma, whose lock is held, until it answers true.
#[inline(always)]
pub(super) fn each_vma_of<K: Kernel>(
    k: K,
    page: Low<Page>,
    mut visit: impl FnMut(Low<Vma>) -> bool,
) {
    let anon_vma: Low<AnonVma> = Low::new(page.mapping(k));
    anon_vma.lock(k).lock(k);
    let head = anon_vma.head(k);
    let mut at = head.next(k);
    while at != head {
        if visit(vma_of_node(k, at)) {
            break;
        }
        at = at.next(k);
    }
    anon_vma.lock(k).unlock(k);
}

/// page_referenced_anon: all vmas of the anon_vma until every mapping was seen.
pub(super) fn referenced_anon<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let mut left = page.rmap(k);
    let mut referenced = 0;
    each_vma_of(k, page, |vma| {
        referenced += object::referenced_one(k, page, vma, &mut left);
        left == 0
    });
    referenced
}

/// try_to_unmap_anon.
pub(super) fn unmap_anon<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    let mut result = Unmap::Again;
    each_vma_of(k, page, |vma| {
        if object::unmap_one(k, page, vma, Checks::V2_6_7) == Unmap::Fail {
            result = Unmap::Fail;
            return true;
        }
        page.rmap(k) == 0
    });
    result
}
