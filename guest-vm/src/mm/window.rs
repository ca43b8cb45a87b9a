//! The five ways of a page fault where a page has several frames (pgcl's do_anonymous_page, do_no_page, do_wp_page, do_swap_page; the
//! rules are this kernel's, the cover letter of 2007 names them only: "a fault fills up to PAGE_MMUCOUNT ptes").
//!
//! A fault serves the window of its pte ([`crate::cluster::Window`]), as far as it lies in the vma: a read of anonymous memory maps
//! the zero page wherever nothing is mapped, a write a page of zeros, a page of a file is mapped at every empty pte, a
//! page of the swap cache at every pte that names its slot. Breaking a share copies the sub-pages that this window maps, and moves their
//! ptes together. Two rules keep what a process sees exactly as with pages of 4 KB: of a *file's* page only the sub-page that is written
//! is copied, because the others must go on showing the file; and a page of the window's own that nobody else can see
//! (`own_page`) takes further sub-pages in, cleared or copied first, so that a window of a private mapping has one page,
//! not one for each write. Ptes filled in advance are clean. What is copied depends on the ptes, so it is copied under page_table_lock.
//!
//! Invariant: a sub-page is cleared or copied before its first pte is set; a page that is in a window only partly is never
//! shown by more ptes than it has sub-pages.

use crate::bug_on;
use crate::cluster::{self, Window, maps};
use crate::kernel::{Kernel, Oom};
use crate::kmap::{KmType, kmap_atomic, kunmap_atomic};
use crate::layout::{Page, Vma, pg, vm};
use crate::lru::mark_page_accessed;
use crate::mm::fault::{Access, At, Served};
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{self, Gfp, pfn_to_page, pfn_valid};
use crate::page_cache::{self, clear_highpage};
use crate::percpu::{State, mod_page_state};
use crate::pgtable::{
    ACCESSED, DIRTY, Pte, RW, mk_pte_sub, pte_get, pte_unmap, ptep_establish,
    ptep_set_access_flags, set_pte,
};
use crate::ptr::{Kmapped, Low};
use crate::reclaim::lru_cache_add_anon;
use crate::rmap::{PteAt, ReverseMap};
use crate::swap::{self, SwapEntry};
use lowmem_abi::owner::Owner;
use lowmem_abi::probe::Probe;

type SpareOf<K> = <<K as Kernel>::Rmap as ReverseMap<K>>::Spare;

/// Which sub-page belongs at `addr`.
#[inline(always)]
fn sub_at<K: Kernel>(k: K, vma: Low<Vma>, addr: u32) -> u32 {
    cluster::sub_of(k, cluster::linear_pgoff(k, vma, addr))
}

/// Fills one sub-page with zeros.
fn clear_sub<K: Kernel>(k: K, page: Low<Page>, sub: u32) {
    let at = kmap_atomic(k, page, KmType::User0);
    k.clear_page(at.at(sub << 12));
    kunmap_atomic(k, at, KmType::User0);
}

/// Copies one sub-page.
fn copy_sub<K: Kernel>(k: K, (to, to_sub): (Low<Page>, u32), (from, from_sub): (Low<Page>, u32)) {
    let source = kmap_atomic(k, from, KmType::User0);
    let target = kmap_atomic(k, to, KmType::User1);
    k.copy_page(target.at(to_sub << 12), source.at(from_sub << 12));
    kunmap_atomic(k, source, KmType::User0);
    kunmap_atomic(k, target, KmType::User1);
}

/// Before a further add under the lock: false if there is no memory for it.
#[inline(always)]
fn renew<K: Kernel>(k: K, spare: &mut SpareOf<K>) -> bool {
    if !K::Rmap::spare_used(k, spare) {
        return true;
    }
    match K::Rmap::spare_atomic(k) {
        Ok(s) => {
            *spare = s;
            true
        }
        Err(_) => false,
    }
}

/// The anonymous page that a pte maps, not the zero page; null if none.
#[inline(always)]
fn anonymous_at<K: Kernel>(k: K, entry: Pte) -> Low<Page> {
    if !entry.present() || !pfn_valid(k, entry.pfn()) {
        return Low::NULL;
    }
    let page = pfn_to_page(k, entry.pfn());
    if page::test(k, page, pg::RESERVED) || !page::is_anon(k, page) {
        return Low::NULL;
    }
    page
}

/// Whether nobody but `own` ptes can see the page: every reference is theirs, the swap cache's or an LRU vector's, and no swap pte
/// names its slot. A page that is locked is taken as somebody's.
fn is_own<K: Kernel>(k: K, page: Low<Page>, own: u32) -> bool {
    let cached = page::swap_cached(k, page);
    let in_vector = !page::test(k, page, pg::LRU);
    if page.count(k) != own + cached as u32 + in_vector as u32 || !page::trylock_page(k, page) {
        return false;
    }
    let alone = !cached || swap::map_count(k, swap::entry_of(k, page)) == 1;
    page::unlock_page(k, page);
    alone
}

/// A page of the window's own, whose sub-page for `at` nobody shows; null if there is none. page_table_lock is held.
fn own_page<K: Kernel>(k: K, at: At, not: Low<Page>) -> Low<Page> {
    let mut found = Low::NULL;
    let mut last = Low::NULL;
    let sub = sub_at(k, at.vma, at.addr);
    Window::of(k, at.vma, at.addr).each(k, at.mm, at.pte_at(), |other| {
        let page = anonymous_at(k, pte_get(k, other.pte));
        if page.is_null() || page == last || page == not {
            return true;
        }
        last = page;
        let own = Window::whole(k, at.addr, sub).count(k, at.mm, at.pte_at(), page);
        if is_own(k, page, own) {
            found = page;
        }
        found.is_null()
    });
    found
}

/// Maps an anonymous page's sub-page at a pte that is empty or whose page is already accounted for; takes a reference over.
#[inline(always)]
fn map_anon<K: Kernel>(
    k: K,
    at: At,
    to: PteAt,
    (page, entry): (Low<Page>, Pte),
    spare: &mut SpareOf<K>,
) {
    K::Rmap::add_anon(k, page, at.vma, to, spare);
    if pte_get(k, to.pte).present() {
        ptep_establish(k, at.vma, to.addr, to.pte, entry);
    } else {
        set_pte(k, to.pte, entry);
    }
}

/// A new entry for the sub-page of `page` that belongs at `addr`, writable if the vma is.
#[inline(always)]
fn writable<K: Kernel>(k: K, at: At, page: Low<Page>, addr: u32) -> Pte {
    let sub = sub_at(k, at.vma, addr);
    at.maybe_write(k, mk_pte_sub(k, page, sub, at.prot(k)))
}

/// A page of zeros goes to all ptes of the window that show zeros: none yet, or the zero page.
fn fill_zeros<K: Kernel>(k: K, at: At, page: Low<Page>, spare: &mut SpareOf<K>) {
    let zero = objects(k).zero_page(k);
    Window::of(k, at.vma, at.addr).each(k, at.mm, at.pte_at(), |other| {
        let entry = pte_get(k, other.pte);
        let zeros = entry.is_none() || (entry.present() && maps(k, other.pte, zero));
        if other.addr == at.addr || !zeros {
            return true;
        }
        if !renew(k, spare) {
            return false;
        }
        page::get_page(k, page);
        at.rss_inc(k);
        let new = writable(k, at, page, other.addr);
        map_anon(k, at, other, (page, new), spare);
        true
    });
}

fn new_page<K: Kernel>(k: K) -> Result<Low<Page>, Oom> {
    page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::User)
}

/// do_anonymous_page.
pub(super) fn do_anonymous_page<K: Kernel>(k: K, at: At, access: Access) -> Result<Served, Oom> {
    if !access.writes() {
        let zero = objects(k).zero_page(k);
        Window::of(k, at.vma, at.addr).each(k, at.mm, at.pte_at(), |other| {
            if pte_get(k, other.pte).is_none() {
                let sub = sub_at(k, at.vma, other.addr);
                set_pte(
                    k,
                    other.pte,
                    mk_pte_sub(k, zero, sub, at.prot(k)).without(RW),
                );
            }
            true
        });
        at.leave(k);
        return Ok(Served::Minor);
    }
    at.leave(k);
    K::Rmap::prepare_anon(k, at.vma)?;
    let mut spare = K::Rmap::spare(k)?;
    let result = write_zeros(k, at, &mut spare);
    K::Rmap::spare_free(k, spare);
    result.map(|()| Served::Minor)
}

/// The writing half: a page of the window's own, or a new one.
fn write_zeros<K: Kernel>(k: K, at: At, spare: &mut SpareOf<K>) -> Result<(), Oom> {
    let at = at.enter(k);
    if !pte_get(k, at.pte).is_none() {
        at.leave(k);
        return Ok(());
    }
    let own = own_page(k, at, Low::NULL);
    if !own.is_null() {
        clear_sub(k, own, sub_at(k, at.vma, at.addr));
        page::get_page(k, own);
        at.rss_inc(k);
        let entry = writable(k, at, own, at.addr).with(DIRTY);
        map_anon(k, at, at.pte_at(), (own, entry), spare);
        at.leave(k);
        return Ok(());
    }
    at.leave(k);
    let page = new_page(k)?;
    clear_highpage(k, page);
    let at = at.enter(k);
    if !pte_get(k, at.pte).is_none() {
        at.leave(k);
        page::put_page(k, page);
        return Ok(());
    }
    at.rss_inc(k);
    lru_cache_add_anon(k, page);
    mark_page_accessed(k, page);
    let entry = writable(k, at, page, at.addr).with(DIRTY);
    map_anon(k, at, at.pte_at(), (page, entry), spare);
    fill_zeros(k, at, page, spare);
    at.leave(k);
    Ok(())
}

/// do_wp_page: reuse if nobody else has the page, else copy what the window shows of it.
pub(super) fn do_wp_page<K: Kernel>(k: K, at: At, pte: Pte) -> Result<Served, Oom> {
    bug_on!(k, Fault, !pfn_valid(k, pte.pfn()), pte.low());
    let old = pfn_to_page(k, pte.pfn());
    if page::trylock_page(k, old) {
        let whole = Window::whole(k, at.addr, cluster::sub_of(k, pte.pfn()));
        let own = whole.count(k, at.mm, at.pte_at(), old);
        let reuse = swap::can_share_swap_page(k, old, own);
        if reuse {
            let inside = Window::of(k, at.vma, at.addr).count(k, at.mm, at.pte_at(), old);
            if inside == own {
                K::Rmap::reused(k, old, at.vma);
            }
        }
        page::unlock_page(k, old);
        if reuse {
            reuse_window(k, at, pte, old);
            at.leave(k);
            k.probe(Probe::CowReused);
            return Ok(Served::Minor);
        }
    }
    pte_unmap(k, at.pte);
    page::get_page(k, old);
    at.unlock(k);
    let result = K::Rmap::prepare_anon(k, at.vma)
        .and_then(|()| K::Rmap::spare(k))
        .and_then(|mut spare| {
            let copied = copy_on_write(k, at, pte, old, &mut spare);
            K::Rmap::spare_free(k, spare);
            copied
        });
    page::put_page(k, old);
    result.map(|()| Served::Minor)
}

/// Every pte of the window in this vma becomes writable, the one that faulted also dirty.
fn reuse_window<K: Kernel>(k: K, at: At, pte: Pte, page: Low<Page>) {
    Window::of(k, at.vma, at.addr).each(k, at.mm, at.pte_at(), |other| {
        let entry = pte_get(k, other.pte);
        if other.addr != at.addr && !entry.write() && maps(k, other.pte, page) {
            let new = at.maybe_write(k, entry);
            ptep_set_access_flags(k, at.vma, other.addr, (other.pte, new), true);
        }
        true
    });
    let new = at.maybe_write(k, pte.with(ACCESSED | DIRTY));
    ptep_set_access_flags(k, at.vma, at.addr, (at.pte, new), true);
}

/// The copying half; the caller holds a reference on `old`.
fn copy_on_write<K: Kernel>(
    k: K,
    at: At,
    pte: Pte,
    old: Low<Page>,
    spare: &mut SpareOf<K>,
) -> Result<(), Oom> {
    let zero = old == objects(k).zero_page(k);
    let at = at.enter(k);
    if pte_get(k, at.pte) != pte {
        at.leave(k);
        return Ok(());
    }
    let own = own_page(k, at, old);
    if !own.is_null() {
        page::get_page(k, own);
        if zero {
            clear_sub(k, own, sub_at(k, at.vma, at.addr));
        }
        replace(k, at, at.pte_at(), (old, own), spare);
        at.leave(k);
        return Ok(());
    }
    at.leave(k);
    let new = new_page(k)?;
    if zero {
        clear_highpage(k, new);
    }
    let at = at.enter(k);
    if pte_get(k, at.pte) != pte {
        at.leave(k);
        page::put_page(k, new);
        return Ok(());
    }
    let anonymous = page::is_anon(k, old);
    replace(k, at, at.pte_at(), (old, new), spare);
    lru_cache_add_anon(k, new);
    if zero {
        fill_zeros(k, at, new, spare);
    } else if anonymous {
        replace_others(k, at, Window::of(k, at.vma, at.addr), (old, new), spare);
    }
    at.leave(k);
    Ok(())
}

/// The other ptes of a window part that show `old` go over to `new`.
fn replace_others<K: Kernel>(
    k: K,
    at: At,
    part: Window,
    (old, new): (Low<Page>, Low<Page>),
    spare: &mut SpareOf<K>,
) {
    part.each(k, at.mm, at.pte_at(), |other| {
        if other.addr == at.addr || !maps(k, other.pte, old) {
            return true;
        }
        if !renew(k, spare) {
            return false;
        }
        page::get_page(k, new);
        replace(k, at, other, (old, new), spare);
        true
    });
}

/// One pte goes over from `old` to its sub-page of `new`, copied here unless `old` is the zero page; takes over a reference on `new`.
fn replace<K: Kernel>(
    k: K,
    at: At,
    to: PteAt,
    (old, new): (Low<Page>, Low<Page>),
    spare: &mut SpareOf<K>,
) {
    let from = pte_get(k, to.pte);
    let reserved = page::test(k, old, pg::RESERVED);
    if reserved {
        at.rss_inc(k);
    } else {
        k.probe(Probe::CowCopied);
        let sub = sub_at(k, at.vma, to.addr);
        copy_sub(k, (new, sub), (old, cluster::sub_of(k, from.pfn())));
        K::Rmap::remove(k, old, to.pte);
    }
    let entry = writable(k, at, new, to.addr).with(DIRTY);
    ptep_establish(k, at.vma, to.addr, to.pte, entry);
    K::Rmap::add_anon(k, new, at.vma, to, spare);
    if !reserved {
        page::put_page(k, old);
    }
}

/// do_no_page of a file: the object's page at every empty pte of the window; a private write copies its sub-page at once.
pub(super) fn do_no_page<K: Kernel>(k: K, at: At, access: Access) -> Result<Served, Oom> {
    at.leave(k);
    let found = page_cache::nopage(k, at.vma, at.addr)?;
    let served = if found.major {
        Served::Major
    } else {
        Served::Minor
    };
    let early_cow = access.writes() && at.vma.flags(k) & vm::SHARED == 0;
    let prepared = if early_cow {
        K::Rmap::prepare_anon(k, at.vma)
    } else {
        Ok(())
    };
    let result = prepared
        .and_then(|()| K::Rmap::spare(k))
        .and_then(|mut spare| {
            let mapped = if early_cow {
                early_copy(k, at, found.page, &mut spare)
            } else {
                map_file(k, at, found.page, access, &mut spare);
                Ok(())
            };
            K::Rmap::spare_free(k, spare);
            mapped
        });
    page::put_page(k, found.page);
    result.map(|()| served)
}

/// Maps a page of a file for a read or a shared write.
fn map_file<K: Kernel>(k: K, at: At, page: Low<Page>, access: Access, spare: &mut SpareOf<K>) {
    let at = at.enter(k);
    if pte_get(k, at.pte).is_none() {
        page::get_page(k, page);
        at.rss_inc(k);
        let sub = sub_at(k, at.vma, at.addr);
        let mut entry = mk_pte_sub(k, page, sub, at.prot(k));
        if access.writes() {
            entry = at.maybe_write(k, entry.with(DIRTY));
        }
        set_pte(k, at.pte, entry);
        K::Rmap::add_file(k, page, at.pte_at(), spare);
        fill_file(k, at, page, spare);
    }
    at.leave(k);
}

/// A page of a file goes to all empty ptes of the window.
fn fill_file<K: Kernel>(k: K, at: At, page: Low<Page>, spare: &mut SpareOf<K>) {
    Window::of(k, at.vma, at.addr).each(k, at.mm, at.pte_at(), |other| {
        if !pte_get(k, other.pte).is_none() {
            return true;
        }
        if !renew(k, spare) {
            return false;
        }
        page::get_page(k, page);
        at.rss_inc(k);
        let sub = sub_at(k, at.vma, other.addr);
        set_pte(k, other.pte, mk_pte_sub(k, page, sub, at.prot(k)));
        K::Rmap::add_file(k, page, other, spare);
        true
    });
}

/// Early COW: the sub-page that is written is copied into a page of the window's own, or a new one; the others show the file.
fn early_copy<K: Kernel>(k: K, at: At, from: Low<Page>, spare: &mut SpareOf<K>) -> Result<(), Oom> {
    let mut at = at.enter(k);
    let mut page = Low::NULL;
    let mut own = false;
    if pte_get(k, at.pte).is_none() {
        page = own_page(k, at, Low::NULL);
        own = !page.is_null();
        if own {
            page::get_page(k, page);
        } else {
            at.leave(k);
            page = new_page(k)?;
            at = at.enter(k);
        }
    }
    if !pte_get(k, at.pte).is_none() {
        at.leave(k);
        if !page.is_null() {
            page::put_page(k, page);
        }
        return Ok(());
    }
    k.probe(Probe::CowCopied);
    let sub = sub_at(k, at.vma, at.addr);
    copy_sub(k, (page, sub), (from, sub));
    at.rss_inc(k);
    let entry = writable(k, at, page, at.addr).with(DIRTY);
    set_pte(k, at.pte, entry);
    if !own {
        lru_cache_add_anon(k, page);
    }
    K::Rmap::add_anon(k, page, at.vma, at.pte_at(), spare);
    if renew(k, spare) {
        fill_file(k, at, from, spare);
    }
    at.leave(k);
    Ok(())
}

/// do_swap_page: the page of a slot at every pte of the window that names it.
pub(super) fn do_swap_page<K: Kernel>(
    k: K,
    at: At,
    pte: Pte,
    access: Access,
) -> Result<Served, Oom> {
    let entry = SwapEntry::of_pte(pte);
    at.leave(k);
    let mut served = Served::Minor;
    let mut page = swap::lookup_swap_cache(k, entry);
    if page.is_null() {
        swap::swapin_readahead(k, entry);
        page = swap::read_swap_cache(k, entry)?;
        bug_on!(k, Fault, page.is_null(), entry.0);
        served = Served::Major;
        mod_page_state(k, State::PgMajFault, 1);
        k.probe(Probe::MajorFault);
    }
    mark_page_accessed(k, page);
    let mut spare = match K::Rmap::prepare_anon(k, at.vma).and_then(|()| K::Rmap::spare(k)) {
        Ok(s) => s,
        Err(e) => {
            page::put_page(k, page);
            return Err(e);
        }
    };
    page::lock_page(k, page);
    let at = at.enter(k);
    if pte_get(k, at.pte) != pte {
        at.leave(k);
        page::unlock_page(k, page);
        page::put_page(k, page);
        K::Rmap::spare_free(k, spare);
        return Ok(Served::Minor);
    }
    // The caller's reference becomes the first pte's.
    restore(k, at, at.pte_at(), (entry, page), &mut spare);
    restore_others(k, at, (entry, page), &mut spare);
    let window = Window::whole(k, at.addr, SwapEntry::sub_of_pte(pte));
    let own = window.count(k, at.mm, at.pte_at(), page);
    if swap::vm_swap_full(k) {
        swap::remove_exclusive(k, page, own);
    }
    let mut write = access.writes();
    let alone = write && swap::can_share_swap_page(k, page, own);
    let mut new = pte_get(k, at.pte);
    if alone {
        new = at.maybe_write(k, new.with(DIRTY));
        set_pte(k, at.pte, new);
        write = false;
    }
    page::unlock_page(k, page);
    if alone && Window::of(k, at.vma, at.addr).count(k, at.mm, at.pte_at(), page) == own {
        K::Rmap::reused(k, page, at.vma);
    }
    K::Rmap::spare_free(k, spare);
    let base = at.addr.wrapping_sub(SwapEntry::sub_of_pte(pte) << 12);
    if write || K::Rmap::clashes(k, page, base) {
        do_wp_page(k, at, new)?;
        return Ok(served);
    }
    at.leave(k);
    Ok(served)
}

/// One swap pte becomes present, read-only; takes a reference on the page over.
fn restore<K: Kernel>(
    k: K,
    at: At,
    to: PteAt,
    (entry, page): (SwapEntry, Low<Page>),
    spare: &mut SpareOf<K>,
) {
    let sub = SwapEntry::sub_of_pte(pte_get(k, to.pte));
    swap::swap_free(k, entry);
    at.rss_inc(k);
    set_pte(k, to.pte, mk_pte_sub(k, page, sub, at.prot(k)));
    K::Rmap::add_anon(k, page, at.vma, to, spare);
}

/// The same for all other ptes of the window that name the slot.
fn restore_others<K: Kernel>(
    k: K,
    at: At,
    (entry, page): (SwapEntry, Low<Page>),
    spare: &mut SpareOf<K>,
) {
    Window::of(k, at.vma, at.addr).each(k, at.mm, at.pte_at(), |other| {
        let named = pte_get(k, other.pte);
        let same = !named.present()
            && !named.is_none()
            && !named.is_file()
            && SwapEntry::of_pte(named) == entry;
        if !same {
            return true;
        }
        if !renew(k, spare) {
            return false;
        }
        page::get_page(k, page);
        restore(k, at, other, (entry, page), spare);
        true
    });
}

/// mremap is about to move part of the window of `addr`, and the scheme cannot find a page at two places: what lies in `range`
/// gets a page of its own (early COW).
pub(super) fn split<K: Kernel>(
    k: K,
    vma: Low<Vma>,
    addr: u32,
    (start, end): (u32, u32),
) -> Result<(), Oom> {
    K::Rmap::prepare_anon(k, vma)?;
    let mut spare = K::Rmap::spare(k)?;
    let new = match new_page(k) {
        Ok(page) => page,
        Err(e) => {
            K::Rmap::spare_free(k, spare);
            return Err(e);
        }
    };
    let mm = vma.mm(k);
    let at = At {
        mm,
        vma,
        addr,
        pte: Kmapped(0),
    };
    let at = at.enter(k);
    let old = anonymous_at(k, pte_get(k, at.pte));
    if old.is_null() {
        // The allocation has sent it to swap.
        at.leave(k);
        page::put_page(k, new);
    } else {
        let mut part = Window::of(k, vma, addr);
        part.start = part.start.max(start);
        part.end = part.end.min(end);
        replace(k, at, at.pte_at(), (old, new), &mut spare);
        lru_cache_add_anon(k, new);
        replace_others(k, at, part, (old, new), &mut spare);
        at.leave(k);
    }
    K::Rmap::spare_free(k, spare);
    Ok(())
}

/// swapoff has read `entry` into `page`, which it holds and has locked, and found a pte that names it: this pte and the others of its
/// window get their page back, old, clean and read-only as swapoff leaves them.
pub(crate) fn unuse<K: Kernel>(
    k: K,
    at: At,
    (entry, page): (SwapEntry, Low<Page>),
    spare: &mut SpareOf<K>,
) {
    page::get_page(k, page);
    restore(k, at, at.pte_at(), (entry, page), spare);
    restore_others(k, at, (entry, page), spare);
    Window::of(k, at.vma, at.addr).each(k, at.mm, at.pte_at(), |other| {
        if maps(k, other.pte, page) {
            let entry = pte_get(k, other.pte);
            set_pte(k, other.pte, entry.without(ACCESSED | DIRTY | RW));
        }
        true
    });
}
