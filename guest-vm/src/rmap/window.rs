//! Searching for a page of several frames: all ptes of a window at once, in the order of checks that [`super::object`] has for one.
//!
//! One candidate is still one vma (or mm) and one page_table_lock; inside, the ptes of the page's window are read one after the other. For
//! unmapping they are asked together: a locked vma, a young pte or a pin keeps all of them, and only if none objects are they cleared.
//! (That is this kernel's choice: a page is in use if one of its sub-pages is, and a page that stays half mapped would be no gain.)
//!
//! Invariant: a window is unmapped in one vma wholly or not at all.

use super::object::{Checks, clear_found, clear_young};
use super::{PteAt, Unmap};
use crate::cluster::{Window, maps};
use crate::kernel::{Kernel, Planted};
use crate::layout::{Mm, Page, Vma, vm};
use crate::mm::vma::find_vma;
use crate::page;
use crate::ptr::{Kmapped, Low};
use lowmem_abi::probe::Probe;

/// Whose window is searched: of one vma, or of an mm whatever its vmas are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Searched {
    pub(super) mm: Low<Mm>,
    /// Null: every pte's vma is looked up.
    pub(super) vma: Low<Vma>,
    pub(super) window: Window,
}

impl Searched {
    /// The vma of a pte at `addr`, or null.
    fn vma_at<K: Kernel>(self, k: K, addr: u32) -> Low<Vma> {
        if !self.vma.is_null() {
            return self.vma;
        }
        let vma = find_vma(k, self.mm, addr);
        if !vma.is_null() && vma.start(k) > addr {
            Low::NULL
        } else {
            vma
        }
    }

    /// Calls `f` with each pte that maps `page` and its vma.
    pub(super) fn each<K: Kernel>(self, k: K, page: Low<Page>, mut f: impl FnMut(PteAt, Low<Vma>)) {
        self.window.scan(k, self.mm, |at| {
            k.probe(Probe::PteExamined);
            if maps(k, at.pte, page) {
                let vma = self.vma_at(k, at.addr);
                if !vma.is_null() {
                    f(at, vma);
                }
            }
            true
        });
    }
}

/// The part of the page's window in `vma`, its page_table_lock taken; None: outside, or the lock was missed.
fn enter<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>) -> Result<Option<Searched>, Unmap> {
    k.probe(Probe::VmaVisited);
    let mm = vma.mm(k);
    if mm.rss(k) == 0 {
        return Ok(None);
    }
    let Some(window) = Window::of_index(k, vma, page.index(k)) else {
        k.probe(Probe::VmaOutOfRange);
        return Ok(None);
    };
    if !mm.page_table_lock(k).trylock(k) {
        k.probe(Probe::UnmapAgain);
        return Err(Unmap::Again);
    }
    Ok(Some(Searched { mm, vma, window }))
}

/// page_referenced_one: how many of the window's ptes were young.
pub(super) fn referenced_one<K: Kernel>(
    k: K,
    page: Low<Page>,
    vma: Low<Vma>,
    left: &mut u32,
) -> u32 {
    let Ok(Some(found)) = enter(k, page, vma) else {
        return 0;
    };
    let referenced = referenced(k, page, found, left);
    found.mm.page_table_lock(k).unlock(k);
    referenced
}

/// The same under page_table_lock.
pub(super) fn referenced<K: Kernel>(k: K, page: Low<Page>, s: Searched, left: &mut u32) -> u32 {
    let mut referenced = 0;
    s.each(k, page, |at, vma| {
        let young = clear_young(k, vma, (at.pte, at.addr));
        *left = left.wrapping_sub(1);
        referenced += young as u32;
    });
    referenced
}

/// try_to_unmap_one. `Success` means: go on with the next vma.
pub(super) fn unmap_one<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>, checks: Checks) -> Unmap {
    match enter(k, page, vma) {
        Ok(None) => Unmap::Success,
        Ok(Some(found)) => {
            let result = unmap(k, page, found, checks);
            found.mm.page_table_lock(k).unlock(k);
            result
        }
        Err(result) => result,
    }
}

/// The same under page_table_lock.
pub(super) fn unmap<K: Kernel>(k: K, page: Low<Page>, s: Searched, checks: Checks) -> Unmap {
    let (mut there, mut locked, mut young) = (0, false, false);
    s.each(k, page, |at, vma| {
        there += 1;
        locked |= vma.flags(k) & (vm::LOCKED | vm::RESERVED) != 0;
        young |= !locked && clear_young(k, vma, (at.pte, at.addr));
    });
    if there == 0 {
        return Unmap::Success;
    }
    if locked {
        k.probe(Probe::UnmapLocked);
        return Unmap::Fail;
    }
    if young {
        k.probe(Probe::UnmapYoung);
        return Unmap::Fail;
    }
    if checks == Checks::V2_6_7
        && page::swap_cached(k, page)
        && page.count(k) != page.rmap(k).wrapping_add(2)
        && !k.planted(Planted::NoPinCheck)
    {
        k.probe(Probe::UnmapPinned);
        return Unmap::Fail;
    }
    s.each(k, page, |at, vma| {
        let place: (Kmapped, u32) = (at.pte, at.addr);
        clear_found(k, page, vma, place);
    });
    Unmap::Success
}
