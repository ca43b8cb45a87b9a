//! anon_vma_chain, Linux 2.6.34 (mm/rmap.c after commit 5beb49305251): an anon_vma for every vma, and links to those of its ancestors.
//!
//! Under 2.6.7 all descendants of one vma share one anon_vma, so a page that one of a thousand children wrote is looked for in a thousand
//! vmas. Here a forked vma has an anon_vma of its own, for the pages it writes, and one 24-byte link for each anon_vma that
//! its pages may point to: its own and all its parent's. A link is on two lists: of its vma, from the newest anon_vma to the
//! root's, and of its anon_vma, parent first. fork, split, mremap and importing merges copy the whole chain. A page first mapped
//! while it is in the swap cache may belong to anyone, so it goes to the root's; a write fault that finds a page alone takes it to its own.
//!
//! Boot parameter `anon_vma_reuse`: the rule of 2015 against chains that grow without end when a process forks and its parent exits:
//! fork reuses an ancestor's anon_vma that no vma has as its own and that has at most one child; in the form of 2022, which
//! counts the two apart. It costs 12 bytes more an anon_vma. Checks before unmapping are 2.6.7's, so that schemes differ in the
//! search alone. Left out: root locks (2.6.37 on), KSM, migration. List order and sizes recalled.
//!
//! Invariant: a vma's chain holds, with an anon_vma, that anon_vma's ancestors, behind it; vmas with the same anon_vma have the same
//! chain; the page's vmas are all on the list of page->mapping.

use super::anon_vma::{compatible, find_mergeable};
use super::object::{self, Checks};
use super::{Adjust, PteAt, ReverseMap, Unmap, mapcount};
use crate::bug_on;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom, Planted};
use crate::layout::{Page, Vma, pg};
use crate::list::ListHead;
use crate::page;
use crate::page_alloc::Gfp;
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::sync::SpinLock;
use crate::task::boot_word;
use core::mem::offset_of;
use lowmem_abi::boot::BootInfo;
use lowmem_abi::probe::Probe;

guest_struct! {
    /// anon_vma: 12 bytes as in 2.6.7; the rest only with the rule of 2015. Constructed: lock free, list empty.
    pub struct AnonVma [K] size 24;
    at 0 => part lock: SpinLock;
    at 4 => part head: ListHead;
    /// The parent's, or itself.
    at 12 => word parent, set_parent: Low<AnonVma>;
    /// anon_vmas whose parent it is, itself included for a root.
    at 16 => word children, set_children: u32;
    /// Vmas that have it as their own.
    at 20 => word active, set_active: u32;
}

guest_struct! {
    /// anon_vma_chain: a link between a vma and an anon_vma.
    pub struct Link [K] size 24;
    at 0 => word vma, set_vma: Low<Vma>;
    at 4 => word anon_vma, set_anon_vma: Low<AnonVma>;
    at 8 => part same_vma: ListHead;
    at 16 => part same_anon_vma: ListHead;
}

guest_struct! {
    /// What a vma carries: the list of its links and its own anon_vma.
    pub struct VmaPart [K] size 12;
    at 0 => part chain: ListHead;
    at 8 => word anon_vma, set_anon_vma: Low<AnonVma>;
}

/// Offset of `same_vma` in a link.
const SAME_VMA: u32 = 8;
/// Offset of `same_anon_vma` in a link.
const SAME_ANON_VMA: u32 = 16;

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum AnonVmaChain {}

impl super::Scheme for AnonVmaChain {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::AnonVmaChain;
    type Map<K: Kernel> = Self;
}

#[inline(always)]
fn part<K: Kernel>(k: K, vma: Low<Vma>) -> Low<VmaPart> {
    vma.rmap_fields(k)
}

#[inline(always)]
fn chain<K: Kernel>(k: K, vma: Low<Vma>) -> Low<ListHead> {
    part(k, vma).chain(k)
}

/// The vma's own anon_vma, or null.
#[inline(always)]
pub fn of_vma<K: Kernel>(k: K, vma: Low<Vma>) -> Low<AnonVma> {
    part(k, vma).anon_vma(k)
}

/// Whether the rule of 2015 is on.
#[inline(always)]
fn reuses<K: Kernel>(k: K) -> bool {
    boot_word(k, offset_of!(BootInfo, anon_vma_reuse)) != 0
}

fn new_link<K: Kernel>(k: K) -> Result<Low<Link>, Oom> {
    kmem_cache_alloc(k, CacheId::AnonVmaChain, Gfp::Kernel)
}

/// A new anon_vma, its own parent.
fn new_anon_vma<K: Kernel>(k: K) -> Result<Low<AnonVma>, Oom> {
    let new: Low<AnonVma> = kmem_cache_alloc(k, CacheId::AnonVma, Gfp::Kernel)?;
    k.probe(Probe::AnonVmaAllocated);
    if reuses(k) {
        new.set_parent(k, new);
        new.set_children(k, 0);
        new.set_active(k, 0);
    }
    Ok(new)
}

/// anon_vma_chain_link: in front of the vma's chain, at the end of the anon_vma's list.
fn add_link<K: Kernel>(k: K, vma: Low<Vma>, link: Low<Link>, anon_vma: Low<AnonVma>) {
    link.set_vma(k, vma);
    link.set_anon_vma(k, anon_vma);
    link.same_vma(k).add_to(k, chain(k, vma));
    anon_vma.lock(k).lock(k);
    link.same_anon_vma(k).add_tail_to(k, anon_vma.head(k));
    anon_vma.lock(k).unlock(k);
}

/// anon_vma_clone: links `vma` to all that `from` is linked to, in the same order. On failure `vma` has no link and no anon_vma.
fn clone_chain<K: Kernel>(k: K, vma: Low<Vma>, from: Low<Vma>) -> Result<(), Oom> {
    let head = chain(k, from);
    let mut at = head.prev(k);
    while at != head {
        let link: Low<Link> = at.container(SAME_VMA);
        let anon_vma = link.anon_vma(k);
        match new_link(k) {
            Ok(new) => add_link(k, vma, new, anon_vma),
            Err(oom) => {
                // Not counted yet.
                part(k, vma).set_anon_vma(k, Low::NULL);
                unlink_all(k, vma);
                return Err(oom);
            }
        }
        if reuses(k) && of_vma(k, vma).is_null() && reusable(k, anon_vma) {
            part(k, vma).set_anon_vma(k, anon_vma);
        }
        at = at.prev(k);
    }
    count_active(k, of_vma(k, vma), 1);
    Ok(())
}

/// Whether an ancestor's anon_vma may become a child's own: nobody's, and no more than one branch below it.
#[inline(always)]
fn reusable<K: Kernel>(k: K, anon_vma: Low<AnonVma>) -> bool {
    let (children, active) = (anon_vma.children(k), anon_vma.active(k));
    if k.planted(Planted::OneDegree) {
        return children + active < 2;
    }
    children < 2 && active == 0
}

/// Counts the vmas that have `anon_vma` as their own.
#[inline(always)]
fn count_active<K: Kernel>(k: K, anon_vma: Low<AnonVma>, by: u32) {
    if !anon_vma.is_null() && reuses(k) {
        anon_vma.set_active(k, anon_vma.active(k).wrapping_add(by));
    }
}

/// anon_vma_fork: the child's vma gets the parent's links and an anon_vma of its own.
fn fork_chain<K: Kernel>(k: K, parent: Low<Vma>, child: Low<Vma>) -> Result<(), Oom> {
    part(k, child).set_anon_vma(k, Low::NULL);
    clone_chain(k, child, parent)?;
    if !of_vma(k, child).is_null() {
        return Ok(());
    }
    let made = new_anon_vma(k).and_then(|own| match new_link(k) {
        Ok(link) => Ok((own, link)),
        Err(oom) => {
            kmem_cache_free(k, CacheId::AnonVma, own);
            Err(oom)
        }
    });
    match made {
        Ok((own, link)) => {
            if reuses(k) {
                let above = of_vma(k, parent);
                own.set_parent(k, above);
                above.set_children(k, above.children(k) + 1);
                own.set_active(k, 1);
            }
            part(k, child).set_anon_vma(k, own);
            add_link(k, child, link, own);
            Ok(())
        }
        Err(oom) => {
            unlink_all(k, child);
            Err(oom)
        }
    }
}

/// unlink_anon_vmas: newest first, so that an anon_vma goes before its parent does.
fn unlink_all<K: Kernel>(k: K, vma: Low<Vma>) {
    count_active(k, of_vma(k, vma), u32::MAX);
    part(k, vma).set_anon_vma(k, Low::NULL);
    let head = chain(k, vma);
    let mut at = head.next(k);
    while at != head {
        let link: Low<Link> = at.container(SAME_VMA);
        let anon_vma = link.anon_vma(k);
        at = at.next(k);
        anon_vma.lock(k).lock(k);
        link.same_anon_vma(k).del(k);
        let empty = anon_vma.head(k).is_empty(k);
        anon_vma.lock(k).unlock(k);
        if empty {
            if reuses(k) {
                let above = anon_vma.parent(k);
                above.set_children(k, above.children(k).wrapping_sub(1));
            }
            k.probe(Probe::AnonVmaFreed);
            kmem_cache_free(k, CacheId::AnonVma, anon_vma);
        }
        kmem_cache_free(k, CacheId::AnonVmaChain, link);
    }
    head.init(k);
}

/// Whether a neighbour's anon_vma may be shared by a vma without: only if the neighbour has no other.
fn singular<K: Kernel>(k: K, vma: Low<Vma>) -> bool {
    let head = chain(k, vma);
    !head.is_empty(k) && head.next(k) == head.prev(k)
}

/// `to` gets the chain and the anon_vma of `from`, if it has none.
fn import<K: Kernel>(k: K, to: Low<Vma>, from: Low<Vma>) -> Result<(), Oom> {
    let anon_vma = of_vma(k, from);
    if anon_vma.is_null() || !of_vma(k, to).is_null() {
        return Ok(());
    }
    part(k, to).set_anon_vma(k, anon_vma);
    clone_chain(k, to, from)
}

/// Visits the vmas on a page's anon_vma's list under its lock, until `visit` says that was enough.
fn each_vma_of<K: Kernel>(k: K, page: Low<Page>, mut visit: impl FnMut(Low<Vma>) -> bool) {
    let anon_vma: Low<AnonVma> = Low::new(page.mapping(k));
    anon_vma.lock(k).lock(k);
    let head = anon_vma.head(k);
    let mut at = head.next(k);
    while at != head {
        let link: Low<Link> = at.container(SAME_ANON_VMA);
        if visit(link.vma(k)) {
            break;
        }
        at = at.next(k);
    }
    anon_vma.lock(k).unlock(k);
}

/// page_referenced_anon.
fn referenced_anon<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let mut left = page.rmap(k);
    let mut referenced = 0;
    each_vma_of(k, page, |vma| {
        referenced += object::referenced_one(k, page, vma, &mut left);
        left == 0
    });
    referenced
}

/// try_to_unmap_anon.
fn unmap_anon<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
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

impl<K: Kernel> ReverseMap<K> for AnonVmaChain {
    type Spare = ();

    #[inline(always)]
    fn atomic_mapcount(_: K) -> bool {
        true
    }
    #[inline(always)]
    fn vma_bytes(_: K) -> u32 {
        12
    }
    fn cache_bytes(k: K, id: CacheId) -> Option<u32> {
        match id {
            CacheId::AnonVma => Some(if reuses(k) { 24 } else { 12 }),
            CacheId::AnonVmaChain => Some(24),
            _ => None,
        }
    }

    #[inline(always)]
    fn vma_init(k: K, vma: Low<Vma>) {
        chain(k, vma).init(k);
        part(k, vma).set_anon_vma(k, Low::NULL);
    }

    fn prepare_anon(k: K, vma: Low<Vma>) -> Result<(), Oom> {
        if !of_vma(k, vma).is_null() {
            return Ok(());
        }
        let link = new_link(k)?;
        let found = find_mergeable(k, vma, of_vma, singular);
        let anon_vma = if found.is_null() {
            match new_anon_vma(k) {
                Ok(new) => {
                    if reuses(k) {
                        // A root is its own child.
                        new.set_children(k, 1);
                    }
                    new
                }
                Err(oom) => {
                    kmem_cache_free(k, CacheId::AnonVmaChain, link);
                    return Err(oom);
                }
            }
        } else {
            found
        };
        let lock = vma.mm(k).page_table_lock(k);
        lock.lock(k);
        part(k, vma).set_anon_vma(k, anon_vma);
        add_link(k, vma, link, anon_vma);
        count_active(k, anon_vma, 1);
        lock.unlock(k);
        Ok(())
    }

    fn vma_prepare_copy(k: K, parent: Low<Vma>, child: Low<Vma>) -> Result<(), Oom> {
        // The struct copy has the parent's list head in it.
        chain(k, child).init(k);
        if of_vma(k, parent).is_null() {
            return Ok(());
        }
        if parent.mm(k) == child.mm(k) {
            clone_chain(k, child, parent)
        } else {
            fork_chain(k, parent, child)
        }
    }
    fn vma_gone(k: K, vma: Low<Vma>) {
        if !of_vma(k, vma).is_null() {
            unlink_all(k, vma);
        }
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
        import(k, vma, from)
    }

    fn adjust_begin(k: K, a: &Adjust) -> Result<(), Oom> {
        if !a.insert.is_null() {
            chain(k, a.insert).init(k);
            if !of_vma(k, a.vma).is_null() {
                clone_chain(k, a.insert, a.vma)?;
            }
        } else if !a.next.is_null() {
            if a.swallow || a.end > a.vma.end(k) {
                import(k, a.vma, a.next)?;
            } else {
                import(k, a.next, a.vma)?;
            }
        } else if a.start == a.vma.start(k) {
            return Ok(());
        }
        let own = of_vma(k, a.vma);
        if !own.is_null() {
            own.lock(k).lock(k);
        }
        Ok(())
    }

    fn adjust_end(k: K, a: &Adjust) {
        let own = of_vma(k, a.vma);
        // Not taken when only the end moved.
        if !own.is_null() && !own.lock(k).is_free(k) {
            own.lock(k).unlock(k);
        }
        if a.swallow && !of_vma(k, a.next).is_null() {
            unlink_all(k, a.next);
        }
    }

    fn add_anon(k: K, page: Low<Page>, vma: Low<Vma>, at: PteAt, (): &mut ()) {
        let own = of_vma(k, vma);
        bug_on!(k, AnonVmaChain, own.is_null(), vma.va());
        let index = page::linear_page_index(k, vma, at.addr);
        if mapcount::raise(k, page) == 1 {
            bug_on!(k, AnonVmaChain, page.mapping(k) != 0, page.va());
            let anon_vma = if page::swap_cached(k, page) {
                let oldest: Low<Link> = chain(k, vma).prev(k).container(SAME_VMA);
                oldest.anon_vma(k)
            } else {
                own
            };
            mapcount::store_anon(k, page, mapcount::Anon::Yes);
            page.set_index(k, index);
            page.set_mapping(k, anon_vma.va());
            mod_page_state(k, State::NrMapped, 1);
        } else {
            bug_on!(k, AnonVmaChain, page.index(k) != index, page.va());
        }
    }

    /// page_move_anon_rmap.
    fn reused(k: K, page: Low<Page>, vma: Low<Vma>) {
        if page::test(k, page, pg::ANON) {
            page.set_mapping(k, of_vma(k, vma).va());
        }
    }

    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        object::page_referenced(k, page, referenced_anon)
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        object::try_to_unmap(k, page, Checks::V2_6_7, unmap_anon, mapcount::last_gone)
    }

    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        ptes: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)> {
        object::check::check_page(k, page, ptes, || {
            let mut places = Vec::new();
            each_vma_of(k, page, |vma| {
                object::check::add_places(k, page, vma, &mut places);
                false
            });
            object::check::once_each(places, ptes)
                .map_err(|m| ("pte not in exactly one vma of the anon_vma", m.addr))
        })
    }

    #[cfg(not(target_os = "none"))]
    fn check_mapping(k: K, page: Low<Page>, vma: Low<Vma>, addr: u32) -> Result<(), &'static str> {
        if !page::test(k, page, pg::ANON) {
            return Ok(());
        }
        let head = chain(k, vma);
        let mut at = head.next(k);
        while at != head && at.container::<Link>(SAME_VMA).anon_vma(k).va() != page.mapping(k) {
            at = at.next(k);
        }
        if at == head {
            return Err("page of an anon_vma that its vma is not linked to");
        }
        if !object::check::shows(k, page, vma, addr) {
            return Err("anonymous page not at its index");
        }
        Ok(())
    }

    #[cfg(not(target_os = "none"))]
    fn check_vma(k: K, vma: Low<Vma>) -> Result<(), &'static str> {
        let own = of_vma(k, vma);
        let mut met = own.is_null();
        let head = chain(k, vma);
        let mut at = head.next(k);
        let mut before: Vec<u32> = Vec::new();
        while at != head {
            let link: Low<Link> = at.container(SAME_VMA);
            let anon_vma = link.anon_vma(k);
            if link.vma(k) != vma || at.next(k).prev(k) != at {
                return Err("link of another vma in its chain");
            }
            if before.contains(&anon_vma.va()) {
                return Err("two links to one anon_vma");
            }
            if reuses(k) && before.contains(&anon_vma.parent(k).va()) {
                return Err("anon_vma behind its parent in a chain");
            }
            before.push(anon_vma.va());
            if !anon_vma.lock(k).is_free(k) {
                return Err("lock of an anon_vma taken");
            }
            let here = link.same_anon_vma(k);
            if here.next(k).prev(k) != here || here.prev(k).next(k) != here {
                return Err("broken links of an anon_vma's list");
            }
            met |= anon_vma == own;
            at = at.next(k);
        }
        match (met, own.is_null() && !before.is_empty()) {
            (false, _) => Err("the vma's own anon_vma is not in its chain"),
            (_, true) => Err("links of a vma without anon_vma"),
            (true, false) => Ok(()),
        }
    }

    /// Numbers of objects; with the rule of 2015 also its counts; vmas of one anon_vma have one chain.
    #[cfg(not(target_os = "none"))]
    fn check_all(k: K) -> Result<(), (&'static str, u32)> {
        use std::collections::BTreeMap;
        let mut links = 0u32;
        let mut heads: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        let mut chains: BTreeMap<u32, (u32, Vec<u32>)> = BTreeMap::new();
        let mut wrong = None;
        crate::check::each_mm(k, |mm| {
            crate::check::each_vma(k, mm, |vma| {
                let head = chain(k, vma);
                let mut at = head.next(k);
                let mut whole = Vec::new();
                while at != head {
                    let anon_vma = at.container::<Link>(SAME_VMA).anon_vma(k).va();
                    heads.entry(anon_vma).or_default();
                    whole.push(anon_vma);
                    links += 1;
                    at = at.next(k);
                }
                let own = of_vma(k, vma);
                if own.is_null() {
                    return;
                }
                heads.entry(own.va()).or_default().1 += 1;
                let first = chains
                    .entry(own.va())
                    .or_insert_with(|| (mm.va(), whole.clone()));
                if first.0 != mm.va() {
                    wrong = Some(("two mms have one anon_vma as their own", vma.va()));
                } else if first.1 != whole {
                    wrong = Some(("vmas of one anon_vma with different chains", vma.va()));
                }
            });
        });
        if let Some(w) = wrong {
            return Err(w);
        }
        if reuses(k) {
            let all: Vec<u32> = heads.keys().copied().collect();
            for a in all {
                let parent = Low::<AnonVma>::new(a).parent(k).va();
                match heads.get_mut(&parent) {
                    Some(p) => p.0 += 1,
                    None => return Err(("parent of an anon_vma is gone", a)),
                }
            }
            for (&a, &(children, active)) in &heads {
                let anon_vma: Low<AnonVma> = Low::new(a);
                if anon_vma.children(k) != children || anon_vma.active(k) != active {
                    return Err(("children or active vmas of an anon_vma", a));
                }
            }
        }
        let used = crate::slab::usage(k, CacheId::AnonVmaChain).1;
        if used < links {
            return Err(("links in use that slab has free", used));
        }
        let used = crate::slab::usage(k, CacheId::AnonVma).1;
        if (used as usize) < heads.len() {
            return Err(("anon_vmas in use that slab has free", used));
        }
        Ok(())
    }
}
