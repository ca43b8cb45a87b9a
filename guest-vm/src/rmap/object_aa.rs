//! The searches of [`super::object`] in the order of checks of the 2.6.5-aa tree (its mm/objrmap.c), which anon_vma has with that kernel's
//! structures ([`Era::V2_6_5Aa`]).
//!
//! page_referenced: an unmapped page returns at once, its PG_referenced kept; every vma is walked, also when all ptes were seen, and a locked
//! one is no answer. try_to_unmap: a locked vma fails at once, even if the page is not in it; a young pte anywhere ends the unmapping, but not
//! the walk, which from there on only clears the other young bits; nobody asks who pins the page; an anonymous page outside the
//! swap cache is put off. Both take page_table_lock before anything is known of a vma (rss is not asked, the range is tested under it), and
//! test Accessed before the locked operation that clears it ([`super::object::clear_young`]). A window of ptes is asked whole before any of it goes,
//! as in [`super::window`]. Left out: nonlinear vmas stay on i_mmap_shared there, in order of mapping; here they have a list of their own and come last.
//!
//! Invariant: as of [`super::object`].

use super::anon_vma::each_vma_of;
use super::file::{FileVmas, trylock_i_mmap, unlock_i_mmap};
use super::{PteAt, Unmap, mapcount, object, window};
use crate::axes::{Era, MapKind};
use crate::bug_on;
use crate::cluster::{self, Window};
use crate::kernel::Kernel;
use crate::layout::{Mapping, Page, Vma, pg, vm};
use crate::page;
use crate::pgtable::pte_unmap;
use crate::ptr::Low;
use lowmem_abi::probe::Probe;

/// Whether this kernel follows them. A constant on x86.
#[inline(always)]
pub(super) fn followed<K: Kernel>(k: K) -> bool {
    let axes = k.axes();
    matches!((axes.rmap, axes.era()), (MapKind::AnonVma, Era::V2_6_5Aa))
}

/// page_referenced.
pub(super) fn page_referenced<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    if page.rmap(k) == 0 {
        return 0;
    }
    bug_on!(k, Object, page.mapping(k) == 0, page.va());
    let mut referenced = page::test_and_clear(k, page, pg::REFERENCED) as u32;
    if page::test(k, page, pg::ANON) {
        each_vma_of(k, page, |vma| {
            referenced += referenced_one(k, page, vma);
            false
        });
    } else {
        referenced += referenced_file(k, page);
    }
    referenced
}

/// page_referenced_inode.
fn referenced_file<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    let mapping: Low<Mapping> = Low::new(page.mapping(k));
    if !trylock_i_mmap(k, mapping) {
        k.probe(Probe::UnmapAgain);
        return 0;
    }
    let mut referenced = 0;
    let mut vmas = FileVmas::of_page(k, mapping, page.index(k));
    while let Some(vma) = vmas.next(k).get() {
        referenced += referenced_one(k, page, vma);
    }
    unlock_i_mmap(k, mapping);
    referenced
}

/// page_referenced_one: how many ptes of `vma` were young.
fn referenced_one<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>) -> u32 {
    let mut young = 0;
    visit(k, vma, || {
        each_pte(k, page, vma, |at| {
            young += object::clear_young(k, vma, (at.pte, at.addr)) as u32;
        });
    });
    young
}

/// try_to_unmap.
pub(super) fn try_to_unmap<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    object::unmap_by(k, page, search, mapcount::last_gone)
}

/// try_to_unmap_anon or try_to_unmap_inode.
fn search<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    if page::test(k, page, pg::ANON) {
        unmap_anon(k, page)
    } else {
        unmap_file(k, page)
    }
}

fn unmap_anon<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    if !page::swap_cached(k, page) {
        return Unmap::Again;
    }
    let (mut result, mut young) = (Unmap::Again, false);
    each_vma_of(k, page, |vma| {
        result = unmap_one(k, page, vma, &mut young);
        result == Unmap::Fail || page.rmap(k) == 0
    });
    result
}

fn unmap_file<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    let mapping: Low<Mapping> = Low::new(page.mapping(k));
    if !trylock_i_mmap(k, mapping) {
        k.probe(Probe::UnmapAgain);
        return Unmap::Again;
    }
    let (mut result, mut young) = (Unmap::Again, false);
    let mut vmas = FileVmas::of_page(k, mapping, page.index(k));
    while let Some(vma) = vmas.next(k).get() {
        result = unmap_one(k, page, vma, &mut young);
        if result == Unmap::Fail || page.rmap(k) == 0 {
            break;
        }
    }
    if result != Unmap::Fail && page.rmap(k) != 0 {
        result = if young {
            pass_nonlinear(k, mapping)
        } else {
            object::sweep(k, mapping, page)
        };
    }
    unlock_i_mmap(k, mapping);
    result
}

/// try_to_unmap_one. `young` says whether a young pte was met; from then on nothing is unmapped. Only `Fail` ends the walk.
fn unmap_one<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>, young: &mut bool) -> Unmap {
    bug_on!(k, Object, vma.flags(k) & vm::RESERVED != 0, vma.va());
    if vma.flags(k) & vm::LOCKED != 0 {
        k.probe(Probe::VmaVisited);
        k.probe(Probe::UnmapLocked);
        return Unmap::Fail;
    }
    visit(k, vma, || {
        if cluster::clustered(k) {
            let mut there = false;
            each_pte(k, page, vma, |at| {
                there = true;
                ask(k, vma, at, young);
            });
            if there && !*young {
                each_pte(k, page, vma, |at| {
                    object::clear_found(k, page, vma, (at.pte, at.addr));
                });
            }
        } else {
            each_pte(k, page, vma, |at| {
                ask(k, vma, at, young);
                if !*young {
                    object::clear_found(k, page, vma, (at.pte, at.addr));
                }
            });
        }
    });
    Unmap::Again
}

/// Makes a pte old, and remembers if it was young.
fn ask<K: Kernel>(k: K, vma: Low<Vma>, at: PteAt, young: &mut bool) {
    if object::clear_young(k, vma, (at.pte, at.addr)) {
        if !*young {
            k.probe(Probe::UnmapYoung);
        }
        *young = true;
    }
}

/// Nonlinear vmas behind a young pte: their locks are tried and nothing is swept.
fn pass_nonlinear<K: Kernel>(k: K, mapping: Low<Mapping>) -> Unmap {
    let mut result = Unmap::Again;
    object::each(k, mapping.i_mmap_nonlinear(k), |vma| {
        if vma.flags(k) & vm::LOCKED != 0 {
            k.probe(Probe::VmaVisited);
            k.probe(Probe::UnmapLocked);
            result = Unmap::Fail;
            return false;
        }
        visit(k, vma, || {});
        true
    });
    result
}

/// Calls `look` under the page_table_lock of `vma`'s mm, unless it is missed.
#[inline(always)]
fn visit<K: Kernel>(k: K, vma: Low<Vma>, look: impl FnOnce()) {
    k.probe(Probe::VmaVisited);
    let lock = vma.mm(k).page_table_lock(k);
    if !lock.trylock(k) {
        k.probe(Probe::UnmapAgain);
        return;
    }
    look();
    lock.unlock(k);
}

/// Calls `f` with the pte by which `vma` maps the page (find_pte), or with those of its window. page_table_lock is held.
#[inline(always)]
fn each_pte<K: Kernel>(k: K, page: Low<Page>, vma: Low<Vma>, mut f: impl FnMut(PteAt)) {
    let mm = vma.mm(k);
    if cluster::clustered(k) {
        match Window::of_index(k, vma, page.index(k)) {
            Some(window) => window::Searched { mm, vma, window }.each(k, page, |at, _| f(at)),
            None => k.probe(Probe::VmaOutOfRange),
        }
        return;
    }
    let Some(addr) = object::vma_address(k, page, vma) else {
        k.probe(Probe::VmaOutOfRange);
        return;
    };
    if let Some(pte) = object::pte_of_page(k, page, mm, addr) {
        f(PteAt { pte, addr });
        pte_unmap(k, pte);
    }
}
