//! No reverse map: Linux 2.4's swap_out (mm/vmscan.c of 2.5.7), which walks page tables until it has freed enough.
//!
//! A cursor goes round the mms: swap_mm, and in each mm swap_address. Each present pte on the way is looked at: a young one (or one
//! in a locked vma) marks its page accessed; an active page, one of a zone that does not matter, or a locked one is passed over;
//! any other is unmapped, an anonymous dirty one after it got a slot in the swap cache. It stops after 32 pages that only the
//! caches hold, or when every mm had its turn. A page shared n times is freed only after n encounters.
//!
//! [`ReverseMap::try_to_unmap`] has nothing to ask, so it *is* this scan, run until the page in hand has lost all its ptes:
//! what 2.4 had to do to the rest of memory to get one chosen page is what the probe then counts. The page itself is taken as
//! inactive and its lock as held by the caller. After three rounds over everything it gives up.
//!
//! Differences: swap_address is the last word of the mm (2.4 had it inside); ptes of nonlinear vmas, which 2.4 did not have, keep their
//! offset as a file pte. There is no mapcount, so nothing here can say that a page is mapped but its reference count.
//!
//! Invariant: swap_mm is init_mm's list head or an mm on the list.

use super::object::clear_young;
use super::{PteAt, ReverseMap, Unmap};
use crate::cluster;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Page, Vma, mm_rmap_at, pg, vm};
use crate::lru::mark_page_accessed;
use crate::mm::mm_struct::mmput;
use crate::mm::vma::find_vma;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{Zone, pfn_to_page, pfn_valid, zone_of};
use crate::page_cache::buffers;
use crate::pgtable::{Pte, pte_get, pte_lookup, pte_unmap, ptep_get_and_clear, set_pte, task_size};
use crate::ptr::{Kmapped, Low};
use crate::slab::CacheId;
use crate::swap::{self, swap_duplicate};
use crate::task::{init_mm, tasks};
use crate::tlb::flush_tlb_page;
use lowmem_abi::layout::PAGE_SIZE;
use lowmem_abi::probe::Probe;

/// Pages one call frees at most (SWAP_CLUSTER_MAX).
const SWAP_CLUSTER_MAX: u32 = 32;
/// Bytes one page table covers.
const PMD_SIZE: u32 = 1 << 21;
/// Rounds over all mms after which the scan for one page gives up: one takes the young bits, one unmaps, one is for what
/// was behind the cursor.
const ROUNDS: u32 = 3;
/// Offset of mmlist in an mm.
const MMLIST: u32 = 52;

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum SwapOut {}

impl super::Scheme for SwapOut {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::SwapOut;
    type Map<K: Kernel> = Self;
}

/// What a scan is for.
#[derive(Clone, Copy)]
enum Aim {
    /// To free pages of zones up to this number.
    Zone(u32),
    /// To unmap one page, locked by the caller.
    Page(Low<Page>),
}

#[inline(always)]
fn swap_address<K: Kernel>(k: K, mm: Low<Mm>) -> u32 {
    mm.field::<u32>(mm_rmap_at(k)).read(k)
}

#[inline(always)]
fn set_swap_address<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) {
    mm.field::<u32>(mm_rmap_at(k)).write(k, addr);
}

/// The next mm on the list, init_mm included.
#[inline(always)]
fn next_mm<K: Kernel>(k: K, mm: Low<Mm>) -> Low<Mm> {
    mm.mmlist(k).next(k).container(MMLIST)
}

/// References to the page that are neither the caller's nor its cache's nor its buffers': its ptes, and LRU vectors.
fn other_references<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let cached = page::swap_cached(k, page) || page.mapping(k) != 0;
    page.count(k)
        .saturating_sub(1 + cached as u32 + buffers::references(k, page))
}

/// The mm to scan: the cursor's, or the first behind it that is not scanned to its end. Those that are begin anew. Null after
/// a full circle.
fn pick<K: Kernel>(k: K) -> Low<Mm> {
    let o = objects(k);
    let init = init_mm(k);
    let mut start = o.swap_mm(k);
    if start.is_null() {
        start = init;
    }
    let end = task_size(k);
    let mut mm = start;
    while mm == init || swap_address(k, mm) == end {
        if mm != init {
            set_swap_address(k, mm, 0);
        }
        mm = next_mm(k, mm);
        o.set_swap_mm(k, mm);
        if mm == start {
            return Low::NULL;
        }
    }
    o.set_swap_mm(k, mm);
    mm
}

/// Where a pte is.
#[derive(Clone, Copy)]
struct Place {
    mm: Low<Mm>,
    vma: Low<Vma>,
    addr: u32,
    pte: Kmapped,
}

/// Whether a scan is at its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    On,
    Enough,
}

/// One scan's state.
struct Scanner {
    aim: Aim,
    /// Pages it may still free.
    left: u32,
}

impl Scanner {
    /// swap_out_mm: from the mm's cursor on. page_table_lock is taken here: nobody holds it.
    fn mm<K: Kernel>(&mut self, k: K, mm: Low<Mm>) -> Scan {
        mm.page_table_lock(k).lock(k);
        let addr = swap_address(k, mm);
        let mut vma = find_vma(k, mm, addr);
        let mut from = addr;
        let mut state = Scan::On;
        while !vma.is_null() {
            if from < vma.start(k) {
                from = vma.start(k);
            }
            state = self.vma(k, mm, vma, from);
            if state == Scan::Enough {
                break;
            }
            vma = vma.next(k);
        }
        if state == Scan::On {
            set_swap_address(k, mm, task_size(k));
        }
        mm.page_table_lock(k).unlock(k);
        state
    }

    fn vma<K: Kernel>(&mut self, k: K, mm: Low<Mm>, vma: Low<Vma>, from: u32) -> Scan {
        if vma.flags(k) & vm::RESERVED != 0 {
            return Scan::On;
        }
        k.probe(Probe::VmaVisited);
        let end = vma.end(k);
        let mut addr = from;
        while addr < end {
            let mut stop = (addr & !(PMD_SIZE - 1)).wrapping_add(PMD_SIZE);
            if stop > end || stop < addr {
                stop = end;
            }
            let Some(mut pte) = pte_lookup(k, mm, addr) else {
                addr = stop;
                continue;
            };
            let state = loop {
                let place = Place { mm, vma, addr, pte };
                addr += PAGE_SIZE;
                let state = self.pte(k, place);
                if state == Scan::Enough || addr >= stop {
                    break state;
                }
                pte = pte.at(8);
            };
            pte_unmap(k, pte);
            set_swap_address(k, mm, addr);
            if state == Scan::Enough {
                return state;
            }
        }
        Scan::On
    }

    fn pte<K: Kernel>(&mut self, k: K, at: Place) -> Scan {
        k.probe(Probe::PteExamined);
        let entry = pte_get(k, at.pte);
        if !entry.present() || !pfn_valid(k, entry.pfn()) {
            return Scan::On;
        }
        let page = pfn_to_page(k, entry.pfn());
        if page::test(k, page, pg::RESERVED) {
            return Scan::On;
        }
        match self.aim {
            Aim::Page(wanted) if wanted == page => {
                if may_go(k, page, at) {
                    unmap(k, page, at);
                }
                if other_references(k, page) == 0 {
                    return Scan::Enough;
                }
                return Scan::On;
            }
            Aim::Page(_) | Aim::Zone(_) => {}
        }
        if try_to_swap_out(k, page, at, self.aim) {
            self.left -= 1;
        }
        if self.left == 0 {
            Scan::Enough
        } else {
            Scan::On
        }
    }
}

/// A locked vma or a young pte keeps its page.
fn may_go<K: Kernel>(k: K, page: Low<Page>, at: Place) -> bool {
    if at.vma.flags(k) & vm::LOCKED != 0 {
        k.probe(Probe::UnmapLocked);
        mark_page_accessed(k, page);
        return false;
    }
    if clear_young(k, at.vma, (at.pte, at.addr)) {
        k.probe(Probe::UnmapYoung);
        mark_page_accessed(k, page);
        return false;
    }
    true
}

/// try_to_swap_out: whether only caches hold the page now.
fn try_to_swap_out<K: Kernel>(k: K, page: Low<Page>, at: Place, aim: Aim) -> bool {
    if !may_go(k, page, at) || page::test(k, page, pg::ACTIVE) {
        return false;
    }
    if let Aim::Zone(highest) = aim {
        if zone_of(k, page).kind(k) > highest {
            return false;
        }
    }
    if !page::trylock_page(k, page) {
        k.probe(Probe::UnmapAgain);
        return false;
    }
    let freed = unmap(k, page, at);
    page::unlock_page(k, page);
    freed
}

/// Clears the pte of a locked page, leaving what can bring the page back. False if it had to stay, or others hold the page.
fn unmap<K: Kernel>(k: K, page: Low<Page>, at: Place) -> bool {
    let old = ptep_get_and_clear(k, at.pte);
    flush_tlb_page(k, at.vma, at.addr);
    if old.dirty() {
        page::set_page_dirty(k, page);
    }
    if page.mapping(k) != 0 && !page::swap_cached(k, page) {
        let pgoff = cluster::pgoff_of(k, page.index(k), old);
        if pgoff != cluster::linear_pgoff(k, at.vma, at.addr)
            && at.vma.flags(k) & vm::NONLINEAR != 0
        {
            set_pte(k, at.pte, Pte::file(pgoff));
        }
    } else if page::swap_cached(k, page) || page::test(k, page, pg::DIRTY) {
        if !page::swap_cached(k, page) && !swap::add_to_swap(k, page) {
            // No slot: as it was.
            set_pte(k, at.pte, old);
            return false;
        }
        let entry = swap::entry_of(k, page);
        crate::bug_on!(k, SwapOut, !swap_duplicate(k, entry), entry.0);
        set_pte(k, at.pte, entry.to_pte(cluster::sub_of(k, old.pfn())));
    }
    k.probe(Probe::PteCleared);
    at.mm.set_rss(k, at.mm.rss(k).wrapping_sub(1));
    // One reference is the pte's, one the cache's (`freeable`).
    let freed = page.count(k) - buffers::references(k, page) <= 2;
    page::put_page(k, page);
    freed
}

/// Lets the scanner have the next mm; false when all had their turn.
fn scan_next<K: Kernel>(k: K, scanner: &mut Scanner) -> Option<Scan> {
    let t = tasks(k);
    t.mmlist_lock(k).lock(k);
    let mm = pick(k);
    if mm.is_null() {
        t.mmlist_lock(k).unlock(k);
        return None;
    }
    k.atomic_add(mm.field(20), 1);
    t.mmlist_lock(k).unlock(k);
    let state = scanner.mm(k, mm);
    mmput(k, mm);
    Some(state)
}

impl<K: Kernel> ReverseMap<K> for SwapOut {
    type Spare = ();

    #[inline(always)]
    fn mm_bytes(_: K) -> u32 {
        4
    }
    #[inline(always)]
    fn cache_bytes(_: K, _: CacheId) -> Option<u32> {
        None
    }

    fn mm_init(k: K, mm: Low<Mm>, _: Low<Mm>) -> Result<(), Oom> {
        set_swap_address(k, mm, 0);
        Ok(())
    }
    /// The cursor steps back from an mm that goes.
    fn mm_gone(k: K, mm: Low<Mm>) {
        let o = objects(k);
        if o.swap_mm(k) == mm {
            o.set_swap_mm(k, mm.mmlist(k).prev(k).container(MMLIST));
        }
    }

    #[inline(always)]
    fn add_anon(_: K, _: Low<Page>, _: Low<Vma>, _: PteAt, (): &mut ()) {}
    #[inline(always)]
    fn add_file(_: K, _: Low<Page>, _: PteAt, (): &mut ()) {}
    #[inline(always)]
    fn dup(_: K, _: Low<Page>, _: PteAt, (): &mut ()) {}
    #[inline(always)]
    fn remove(_: K, _: Low<Page>, _: Kmapped) {}

    /// By the reference count, as far as that can tell: who asks holds one reference.
    fn mapped(k: K, page: Low<Page>) -> bool {
        other_references(k, page) != 0
    }
    /// 2.4 cannot count mappings.
    fn mapcount(_: K, _: Low<Page>) -> u32 {
        0
    }
    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        page::test_and_clear(k, page, pg::REFERENCED) as u32
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        let mms = tasks(k).mmlist_nr(k) + 1;
        let mut turns = ROUNDS * mms;
        while other_references(k, page) != 0 && turns != 0 {
            let mut scanner = Scanner {
                aim: Aim::Page(page),
                left: SWAP_CLUSTER_MAX,
            };
            match scan_next(k, &mut scanner) {
                Some(Scan::Enough) => {}
                Some(Scan::On) | None => turns -= 1,
            }
        }
        if other_references(k, page) != 0 {
            return Unmap::Fail;
        }
        k.probe(Probe::PageUnmapped);
        Unmap::Success
    }

    fn swap_out(k: K, zone: Low<Zone>, _priority: u32) -> u32 {
        let mut scanner = Scanner {
            aim: Aim::Zone(zone.kind(k)),
            left: SWAP_CLUSTER_MAX,
        };
        let mut turns = tasks(k).mmlist_nr(k) + 1;
        while turns != 0 && scan_next(k, &mut scanner) == Some(Scan::On) {
            turns -= 1;
        }
        SWAP_CLUSTER_MAX - scanner.left
    }

    #[cfg(not(target_os = "none"))]
    fn counts(_: K) -> bool {
        false
    }
    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        _: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)> {
        if page.rmap(k) != 0 || page::test(k, page, pg::ANON) {
            return Err(("a reverse map's word or flag", page.rmap(k)));
        }
        Ok(())
    }
    #[cfg(not(target_os = "none"))]
    fn check_all(k: K) -> Result<(), (&'static str, u32)> {
        let cursor = objects(k).swap_mm(k);
        let mut known = cursor.is_null() || cursor == init_mm(k);
        crate::check::each_mm(k, |mm| known |= mm == cursor);
        if known {
            Ok(())
        } else {
            Err(("swap_mm is an mm that is gone", cursor.va()))
        }
    }
}
