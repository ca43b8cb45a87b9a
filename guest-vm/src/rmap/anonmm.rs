//! anonmm, Hugh Dickins' object-based reverse map of anonymous pages (-mm and the tree of 22 May 2004, "rmap 37").
//!
//! One 24-byte object for each mm; all mms descended by fork from one exec are on a circular list, whose head is the exec's own
//! object. An anonymous page points to the anonmm of the mm that mapped it first (page->mapping under PG_anon), and page->index is the
//! *user address*: it is the same in every mm, as long as nobody moves it. A page is searched in the indicated mm first,
//! then in the whole circle from there. An mm that exits leaves its anonmm behind while pages point to it;
//! page_referenced moves such pages to a living one. mremap may move a page that is mapped once (its index is rewritten); a
//! shared one is copied early. A page swapped in at another address than its index says is copied too.
//!
//! File pages are found through i_mmap. page->rmap is the mapcount. try_to_unmap has no test for pinned pages (it came with 2.6.7); the
//! object's 4-byte pointer is the last word of the mm. Left out: nothing of the scheme.
//!
//! Invariant: count of an anonmm = 1 if its mm lives + pages that point to it; of a head also 1 for each object on the list, itself
//! included. Every pte of an anonymous page is at page->index.

use super::object::{self, Candidate, Checks};
use super::window::{self, Searched};
use super::{Move, Moving, PteAt, ReverseMap, Unmap, anon_page_at, mapcount};
use crate::bug_on;
use crate::cluster::{self, Window, maps};
use crate::guest_struct;
use crate::kernel::{Kernel, Oom, Planted};
use crate::layout::{Mm, Page, Vma, mm_rmap_at, pg};
use crate::list::ListHead;
use crate::mm::vma::find_vma;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::Gfp;
use crate::percpu::{State, mod_page_state};
use crate::pgtable::{pte_get, pte_lookup, pte_unmap, ptep_test_and_clear_young};
use crate::ptr::{Kmapped, Low};
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::sync::SpinLock;
use crate::tlb::flush_tlb_page;
use lowmem_abi::layout::PAGE_SHIFT;
use lowmem_abi::probe::Probe;

guest_struct! {
    /// anonmm: 24 bytes. Constructed: lock free, list empty.
    pub struct Anonmm [K] size 24;
    at 0 => word count, set_count: u32;
    at 4 => part lock: SpinLock;
    /// Null once the mm is gone.
    at 8 => word mm, set_mm: Low<Mm>;
    at 12 => word head, set_head: Low<Anonmm>;
    at 16 => part list: ListHead;
}

/// Offset of `list` in an anonmm.
const LIST: u32 = 16;

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum AnonmmMap {}

impl super::Scheme for AnonmmMap {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::Anonmm;
    type Map<K: Kernel> = Self;
}

/// The anonmm of an mm.
#[inline(always)]
pub fn of_mm<K: Kernel>(k: K, mm: Low<Mm>) -> Low<Anonmm> {
    mm.field::<Low<Anonmm>>(mm_rmap_at(k)).read(k)
}

/// The anonmm that an anonymous page points to.
#[inline(always)]
fn of_page<K: Kernel>(k: K, page: Low<Page>) -> Low<Anonmm> {
    Low::new(page.mapping(k))
}

#[inline(always)]
fn get<K: Kernel>(k: K, anonmm: Low<Anonmm>) {
    k.atomic_add(anonmm.field(0), 1);
}

/// One reference less. A member that nobody needs leaves the list, which may have been all that kept its head.
fn put<K: Kernel>(k: K, anonmm: Low<Anonmm>) {
    let head = anonmm.head(k);
    let left = k.atomic_add_return(anonmm.field(0), u32::MAX);
    if anonmm != head {
        if left != 0 {
            return;
        }
        head.lock(k).lock(k);
        anonmm.list(k).del_init(k);
        head.lock(k).unlock(k);
        kmem_cache_free(k, CacheId::Anonmm, anonmm);
        put(k, head);
    } else if left == 1 {
        kmem_cache_free(k, CacheId::Anonmm, head);
    }
}

/// The last mapping of a page went; the bit lock is held.
fn last_gone<K: Kernel>(k: K, page: Low<Page>) {
    mod_page_state(k, State::NrMapped, u32::MAX);
    if page::test(k, page, pg::ANON) {
        let anonmm = of_page(k, page);
        page.set_mapping(k, 0);
        page::clear(k, page, pg::ANON);
        put(k, anonmm);
    }
}

/// Looks for the page at its index in the mm of `anonmm`.
fn find_pte<K: Kernel>(k: K, page: Low<Page>, anonmm: Low<Anonmm>) -> Candidate {
    k.probe(Probe::VmaVisited);
    let mm = anonmm.mm(k);
    if mm.is_null() || mm.rss(k) == 0 {
        return Candidate::Vain;
    }
    object::find_pte_at(k, page, mm, page.index(k))
}

/// The page's window in the mm of `anonmm`, its page_table_lock taken; None: no page there.
fn enter<K: Kernel>(k: K, page: Low<Page>, anonmm: Low<Anonmm>) -> Result<Option<Searched>, Unmap> {
    k.probe(Probe::VmaVisited);
    let mm = anonmm.mm(k);
    if mm.is_null() || mm.rss(k) == 0 {
        return Ok(None);
    }
    if !mm.page_table_lock(k).trylock(k) {
        k.probe(Probe::UnmapAgain);
        return Err(Unmap::Again);
    }
    Ok(Some(Searched {
        mm,
        vma: Low::NULL,
        window: Window::at_base(k, page.index(k)),
    }))
}

/// Whether a walk over the family goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    On,
    Stop,
}

/// Visits the family under its head's lock: the page's own anonmm, then the circle from there (the head is a member like others: after
/// swap-in an older mm may share a younger one's page).
fn each_of_family<K: Kernel>(k: K, page: Low<Page>, mut visit: impl FnMut(Low<Anonmm>) -> Walk) {
    let first = of_page(k, page);
    let head = first.head(k);
    head.lock(k).lock(k);
    let mut at = first;
    loop {
        if visit(at) == Walk::Stop {
            break;
        }
        at = at.list(k).next(k).container(LIST);
        if at == first {
            break;
        }
    }
    head.lock(k).unlock(k);
}

/// page_referenced_anon. If every pte was found and the page's own mm is gone, the page goes over to the first mm that has it.
fn referenced_anon<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let mut left = page.rmap(k);
    let mut referenced = 0;
    let mut living: Low<Anonmm> = Low::NULL;
    each_of_family(k, page, |anonmm| {
        if cluster::clustered(k) {
            let before = left;
            if let Ok(Some(s)) = enter(k, page, anonmm) {
                referenced += window::referenced(k, page, s, &mut left);
                s.mm.page_table_lock(k).unlock(k);
            }
            if living.is_null() && left != before {
                living = anonmm;
            }
            return if left == 0 { Walk::Stop } else { Walk::On };
        }
        if let Candidate::At(pte, _) = find_pte(k, page, anonmm) {
            let mm = anonmm.mm(k);
            let young = ptep_test_and_clear_young(k, pte);
            if young && objects(k).young_flush(k) != 0 {
                let vma = find_vma(k, mm, page.index(k));
                if !vma.is_null() {
                    flush_tlb_page(k, vma, page.index(k));
                }
            }
            referenced += young as u32;
            left -= 1;
            if living.is_null() {
                living = anonmm;
            }
            pte_unmap(k, pte);
            mm.page_table_lock(k).unlock(k);
        }
        if left == 0 { Walk::Stop } else { Walk::On }
    });
    let own = of_page(k, page);
    if left == 0 && own.mm(k).is_null() {
        get(k, living);
        page.set_mapping(k, living.va());
        put(k, own);
    }
    referenced
}

/// try_to_unmap_anon.
fn unmap_anon<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    let mut result = Unmap::Again;
    each_of_family(k, page, |anonmm| {
        if unmap_one(k, page, anonmm) == Unmap::Fail {
            result = Unmap::Fail;
            return Walk::Stop;
        }
        if page.rmap(k) == 0 {
            Walk::Stop
        } else {
            Walk::On
        }
    });
    result
}

/// try_to_unmap_one. `Success` means: go on with the next mm.
fn unmap_one<K: Kernel>(k: K, page: Low<Page>, anonmm: Low<Anonmm>) -> Unmap {
    if cluster::clustered(k) {
        return match enter(k, page, anonmm) {
            Ok(None) => Unmap::Success,
            Ok(Some(s)) => {
                let r = window::unmap(k, page, s, Checks::Hybrid);
                s.mm.page_table_lock(k).unlock(k);
                r
            }
            Err(r) => r,
        };
    }
    let pte = match find_pte(k, page, anonmm) {
        Candidate::Vain => return Unmap::Success,
        Candidate::Busy => return Unmap::Again,
        Candidate::At(pte, _) => pte,
    };
    let mm = anonmm.mm(k);
    let r = unmap_found(k, page, mm, pte);
    pte_unmap(k, pte);
    mm.page_table_lock(k).unlock(k);
    r
}

fn unmap_found<K: Kernel>(k: K, page: Low<Page>, mm: Low<Mm>, pte: Kmapped) -> Unmap {
    let addr = page.index(k);
    let vma = find_vma(k, mm, addr);
    if vma.is_null() || vma.start(k) > addr {
        return Unmap::Success;
    }
    object::unmap_found(k, page, vma, (pte, addr), Checks::Hybrid)
}

impl<K: Kernel> ReverseMap<K> for AnonmmMap {
    type Spare = ();

    #[inline(always)]
    fn mm_bytes(_: K) -> u32 {
        4
    }
    #[inline(always)]
    fn cache_bytes(_: K, id: CacheId) -> Option<u32> {
        match id {
            CacheId::Anonmm => Some(24),
            _ => None,
        }
    }
    /// exec begins a family of its own; fork joins the parent's at its end.
    fn mm_init(k: K, mm: Low<Mm>, parent: Low<Mm>) -> Result<(), Oom> {
        let new: Low<Anonmm> = kmem_cache_alloc(k, CacheId::Anonmm, Gfp::Kernel)?;
        new.set_mm(k, mm);
        mm.field::<Low<Anonmm>>(mm_rmap_at(k)).write(k, new);
        if parent.is_null() {
            new.set_count(k, 2);
            new.set_head(k, new);
            return Ok(());
        }
        let head = of_mm(k, parent).head(k);
        new.set_count(k, 1);
        new.set_head(k, head);
        get(k, head);
        head.lock(k).lock(k);
        new.list(k).add_tail_to(k, head.list(k));
        head.lock(k).unlock(k);
        Ok(())
    }

    fn mm_gone(k: K, mm: Low<Mm>) {
        let anonmm = of_mm(k, mm);
        mm.field::<Low<Anonmm>>(mm_rmap_at(k)).write(k, Low::NULL);
        anonmm.set_mm(k, Low::NULL);
        put(k, anonmm);
    }

    fn add_anon(k: K, page: Low<Page>, vma: Low<Vma>, at: PteAt, (): &mut ()) {
        page::map_lock(k, page);
        let count = page.rmap(k);
        if count == 0 {
            let anonmm = of_mm(k, vma.mm(k));
            bug_on!(k, Anonmm, page.mapping(k) != 0, page.va());
            page::set(k, page, pg::ANON);
            let sub = cluster::sub_of(k, cluster::linear_pgoff(k, vma, at.addr));
            page.set_index(k, at.addr.wrapping_sub(sub << PAGE_SHIFT));
            page.set_mapping(k, anonmm.va());
            get(k, anonmm);
            mod_page_state(k, State::NrMapped, 1);
        }
        page.set_rmap(k, count + 1);
        page::map_unlock(k, page);
    }

    fn remove(k: K, page: Low<Page>, _: Kmapped) {
        mapcount::remove_then(k, page, last_gone);
    }

    /// can_move: the only mapping takes its index along.
    fn moving(k: K, from: Kmapped, _: Low<Vma>, addr: u32) -> Move {
        let page = anon_page_at(k, from);
        if page.is_null() {
            return Move::Go;
        }
        page::map_lock(k, page);
        let alone = page.rmap(k) == 1 || k.planted(Planted::MoveShared);
        if alone {
            page.set_index(k, addr);
        }
        page::map_unlock(k, page);
        if alone { Move::Go } else { Move::Again }
    }

    /// can_move of a window: its ptes take the index along if nobody else maps the page. Those that went before are counted where they
    /// are now; a part of a window that stays behind, or another mm, is in the way.
    fn moving_frames(k: K, m: &Moving) -> Move {
        let Some(pte) = pte_lookup(k, m.mm, m.from) else {
            return Move::Go;
        };
        let (page, entry) = (anon_page_at(k, pte), pte_get(k, pte));
        pte_unmap(k, pte);
        if page.is_null() {
            return Move::Go;
        }
        let offset = cluster::sub_of(k, entry.pfn()) << PAGE_SHIFT;
        let base = m.to.wrapping_sub(offset);
        if page.index(k) == base {
            return Move::Go;
        }
        let mut here = Window::at_base(k, m.from.wrapping_sub(offset));
        here.start = here.start.max(m.range.0);
        here.end = here.end.min(m.range.1);
        // A short move ends inside the window it starts from: a pte counts where its sub-page belongs.
        let mut own = 0;
        let places = [
            (here, m.from.wrapping_sub(offset)),
            (Window::at_base(k, base), base),
        ];
        for (window, first) in places {
            window.scan(k, m.mm, |at| {
                let sub = cluster::sub_of(k, pte_get(k, at.pte).pfn());
                let belongs = at.addr.wrapping_sub(first) == sub << PAGE_SHIFT;
                own += (belongs && maps(k, at.pte, page)) as u32;
                true
            });
        }
        page::map_lock(k, page);
        let alone = page.rmap(k) == own;
        if alone {
            page.set_index(k, base);
        }
        page::map_unlock(k, page);
        if alone { Move::Go } else { Move::Again }
    }

    #[inline(always)]
    fn clashes(k: K, page: Low<Page>, addr: u32) -> bool {
        page.index(k) != addr
    }

    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        object::page_referenced(k, page, referenced_anon)
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        object::try_to_unmap(k, page, Checks::Hybrid, unmap_anon, last_gone)
    }

    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        ptes: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)> {
        object::check::check_page(k, page, ptes, || {
            let head = of_page(k, page).head(k);
            for m in ptes {
                let offset = cluster::sub_of(k, crate::pgtable::Pte(m.pte).pfn()) << PAGE_SHIFT;
                if m.addr.wrapping_sub(offset) != page.index(k) {
                    return Err(("pte of an anonymous page not at its index", m.addr));
                }
                if of_mm(k, Low::new(m.mm)).head(k) != head {
                    return Err(("pte of an anonymous page outside its family", m.addr));
                }
            }
            Ok(())
        })
    }

    #[cfg(not(target_os = "none"))]
    fn check_mapping(k: K, page: Low<Page>, vma: Low<Vma>, addr: u32) -> Result<(), &'static str> {
        if !page::test(k, page, pg::ANON) {
            return Ok(());
        }
        let sub = cluster::sub_of(k, cluster::linear_pgoff(k, vma, addr));
        if page.index(k) != addr.wrapping_sub(sub << PAGE_SHIFT) {
            return Err("pte of an anonymous page not at its index");
        }
        if of_page(k, page).head(k) != of_mm(k, vma.mm(k)).head(k) {
            return Err("pte of an anonymous page outside its family");
        }
        Ok(())
    }

    /// Rule 6: counts, lists and number of the objects.
    #[cfg(not(target_os = "none"))]
    fn check_all(k: K) -> Result<(), (&'static str, u32)> {
        use std::collections::BTreeMap;
        let mut expected: BTreeMap<u32, u32> = BTreeMap::new();
        let mut wrong = None;
        crate::check::each_mm(k, |mm| {
            let anonmm = of_mm(k, mm);
            if anonmm.mm(k) != mm {
                wrong = Some(("anonmm of another mm", mm.va()));
            }
            *expected.entry(anonmm.va()).or_default() += 1;
        });
        for pfn in crate::check::frames(k) {
            let page = crate::page_alloc::pfn_to_page(k, pfn);
            if page.count(k) != 0 && page::test(k, page, pg::ANON) {
                *expected.entry(page.mapping(k)).or_default() += 1;
            }
        }
        if let Some(w) = wrong {
            return Err(w);
        }
        let known: Vec<u32> = expected.keys().copied().collect();
        let mut heads: Vec<u32> = known
            .iter()
            .map(|&a| Low::<Anonmm>::new(a).head(k).va())
            .collect();
        heads.sort_unstable();
        heads.dedup();
        for head in heads {
            let head: Low<Anonmm> = Low::new(head);
            if !head.lock(k).is_free(k) {
                return Err(("lock of a family taken", head.va()));
            }
            let mut at = head;
            loop {
                if at.head(k) != head {
                    return Err(("member of another family's list", at.va()));
                }
                expected.entry(at.va()).or_default();
                *expected.entry(head.va()).or_default() += 1;
                at = at.list(k).next(k).container(LIST);
                if at == head {
                    break;
                }
            }
        }
        for (&a, &n) in &expected {
            if Low::<Anonmm>::new(a).count(k) != n {
                return Err(("count of an anonmm", a));
            }
        }
        // More may be in use: an mm that is being made has one before it is on the list.
        let used = crate::slab::usage(k, CacheId::Anonmm).1;
        if (used as usize) < expected.len() {
            return Err(("anonmm objects in use that slab has free", used));
        }
        Ok(())
    }
}
