//! Brute-force checks that the schemes with objects share; native only.
//!
//! Each takes what a scan of all page tables found for a page and asks whether the page's object leads to exactly that.
//!
//! Invariant: nothing is changed here.

use super::vma_address;
use crate::check::Mapper;
use crate::cluster::{self, Window};
use crate::kernel::Kernel;
use crate::layout::{Mapping, Page, Vma, pg};
use crate::page;
use crate::ptr::Low;
use crate::rmap::file::{FileVmas, SHARED};

/// A failed check of a page: what is wrong, and a number that helps to find it.
type Wrong = (&'static str, u32);

/// What holds for every page of a scheme with objects, whatever an anonymous one points to; `anon` checks that.
pub(in crate::rmap) fn check_page<K: Kernel>(
    k: K,
    page: Low<Page>,
    ptes: &[Mapper],
    anon: impl FnOnce() -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    let is_anon = page::test(k, page, pg::ANON);
    if ptes.is_empty() {
        return if is_anon {
            Err(("PG_anon on an unmapped page", page.flags(k)))
        } else {
            Ok(())
        };
    }
    if page.mapping(k) == 0 {
        return Err(("mapped page without object", page.flags(k)));
    }
    if is_anon {
        anon()
    } else {
        check_file_page(k, page, ptes)
    }
}

/// Every pte of a file page lies in a linear vma at the right address, or in a nonlinear one.
pub(in crate::rmap) fn check_file_page<K: Kernel>(
    k: K,
    page: Low<Page>,
    ptes: &[Mapper],
) -> Result<(), Wrong> {
    let mapping: Low<Mapping> = Low::new(page.mapping(k));
    let mut places = Vec::new();
    let mut vmas = FileVmas::of_page(k, mapping, page.index(k));
    while let Some(vma) = vmas.next(k).get() {
        add_places(k, page, vma, &mut places);
    }
    let head = mapping.i_mmap_nonlinear(k);
    let mut at = head.next(k);
    while at != head {
        let vma: Low<Vma> = at.container(SHARED);
        for m in ptes {
            if vma.mm(k).va() == m.mm && vma.start(k) <= m.addr && m.addr < vma.end(k) {
                places.push((m.mm, m.addr));
            }
        }
        at = at.next(k);
    }
    once_each(places, ptes).map_err(|m| ("file pte not in exactly one vma of the file", m.addr))
}

/// Adds the places at which `vma` shows the page, if it does: one, or of a clustered page its window.
pub(in crate::rmap) fn add_places<K: Kernel>(
    k: K,
    page: Low<Page>,
    vma: Low<Vma>,
    places: &mut Vec<(u32, u32)>,
) {
    let mm = vma.mm(k).va();
    if !cluster::clustered(k) {
        places.extend(vma_address(k, page, vma).map(|addr| (mm, addr)));
    } else if let Some(w) = Window::of_index(k, vma, page.index(k)) {
        places.extend((w.start..w.end).step_by(0x1000).map(|addr| (mm, addr)));
    }
}

/// Whether `vma` shows the page, or a sub-page of it, at `addr`.
pub(in crate::rmap) fn shows<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>, addr: u32) -> bool {
    let mut places = Vec::new();
    add_places(k, page, vma, &mut places);
    places.iter().any(|p| p.1 == addr)
}

/// Whether each pte's (mm, address) is among `places` exactly once; else the pte.
pub(in crate::rmap) fn once_each(
    mut places: Vec<(u32, u32)>,
    ptes: &[Mapper],
) -> Result<(), Mapper> {
    places.sort_unstable();
    for m in ptes {
        let first = places.partition_point(|p| *p < (m.mm, m.addr));
        let behind = places.partition_point(|p| *p <= (m.mm, m.addr));
        if behind - first != 1 {
            return Err(*m);
        }
    }
    Ok(())
}
