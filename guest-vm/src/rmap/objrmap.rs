//! Partial object-based reverse mapping: files by object, anonymous pages by pte_chains ("rmap 7", May 2004; the idea is McCracken's
//! of 2.5.62).
//!
//! One word of struct page is shared: for an anonymous page (PG_anon, set by its first mapping) it is the pte_chains' union
//! of direct pte and chain ([`super::pte_chain`]), for a file page the mapcount. File pages are looked for in every vma of the file
//! ([`super::object`], with the hybrid's order of checks: no look at pins of the swap cache). Nothing is added to vmas or mms. i_mmap
//! is guarded by a spin lock as in 2.6.7 where this patch met a semaphore in 2.6.6; both are only tried.
//!
//! Invariant: PG_anon on a page if and only if it is mapped and not a page of a file.

use super::object::{self, Checks};
use super::pte_chain::{self, PteChain};
use super::{PteAt, ReverseMap, Unmap, chained, mapcount};
use crate::bug_on;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Page, Vma, pg};
use crate::page;
use crate::ptr::{Kmapped, Low};

/// The scheme.
#[derive(Debug, Clone, Copy)]
pub enum Hybrid {}

impl super::Scheme for Hybrid {
    const KIND: crate::axes::MapKind = crate::axes::MapKind::Objrmap;
    type Map<K: Kernel> = Self;
}

#[inline(always)]
fn anon<K: Kernel>(k: K, page: Low<Page>) -> bool {
    page::test(k, page, pg::ANON)
}

/// page_remove_rmap of an anonymous page.
fn remove_anon<K: Kernel>(k: K, page: Low<Page>, pte: Kmapped) {
    pte_chain::remove_entry(k, page, pte);
    if !pte_chain::mapped(k, page) {
        page::clear(k, page, pg::ANON);
    }
}

impl<K: Kernel> ReverseMap<K> for Hybrid {
    type Spare = Low<PteChain>;

    fn boot(k: K) -> Result<(), Oom> {
        <pte_chain::PteChains as ReverseMap<K>>::boot(k)
    }
    fn spare(k: K) -> Result<Low<PteChain>, Oom> {
        <pte_chain::PteChains as ReverseMap<K>>::spare(k)
    }
    fn spare_atomic(k: K) -> Result<Low<PteChain>, Oom> {
        <pte_chain::PteChains as ReverseMap<K>>::spare_atomic(k)
    }
    fn spare_free(k: K, spare: Low<PteChain>) {
        pte_chain::give_back(k, spare);
    }

    #[inline(always)]
    fn pte_page_init(k: K, page: Low<Page>, mm: Low<Mm>, addr: u32) {
        chained::pte_page_init(k, page, mm, addr);
    }
    #[inline(always)]
    fn pte_page_exit(k: K, page: Low<Page>) {
        chained::pte_page_exit(k, page);
    }

    fn add_anon(k: K, page: Low<Page>, _: Low<Vma>, at: PteAt, spare: &mut Low<PteChain>) {
        if !pte_chain::mapped(k, page) {
            page::set(k, page, pg::ANON);
        }
        pte_chain::add(k, page, at.pte, spare);
    }
    fn dup(k: K, page: Low<Page>, child: PteAt, spare: &mut Low<PteChain>) {
        if anon(k, page) {
            pte_chain::add(k, page, child.pte, spare);
        } else {
            mapcount::dup(k, page);
        }
    }
    fn remove(k: K, page: Low<Page>, pte: Kmapped) {
        if anon(k, page) {
            remove_anon(k, page, pte);
        } else {
            mapcount::remove(k, page);
        }
    }
    fn moved(k: K, page: Low<Page>, old: PteAt, new: PteAt, spare: &mut Low<PteChain>) {
        if !anon(k, page) || chained::same_group(k, old.pte, new.pte) {
            return;
        }
        pte_chain::remove_entry(k, page, old.pte);
        pte_chain::add(k, page, new.pte, spare);
    }

    #[inline(always)]
    fn mapped(k: K, page: Low<Page>) -> bool {
        pte_chain::mapped(k, page)
    }
    #[cfg(not(target_os = "none"))]
    fn counted(k: K, page: Low<Page>, ptes: &[crate::check::Mapper]) -> u32 {
        if anon(k, page) {
            chained::groups(k, ptes).len() as u32
        } else {
            ptes.len() as u32
        }
    }
    fn mapcount(k: K, page: Low<Page>) -> u32 {
        if anon(k, page) {
            pte_chain::count(k, page)
        } else {
            page.rmap(k)
        }
    }

    fn page_referenced(k: K, page: Low<Page>) -> u32 {
        let referenced = page::test_and_clear(k, page, pg::REFERENCED) as u32;
        if !pte_chain::mapped(k, page) {
            referenced
        } else if anon(k, page) {
            referenced + pte_chain::chain_referenced(k, page)
        } else if page.mapping(k) != 0 {
            referenced + object::referenced_file(k, page)
        } else {
            referenced
        }
    }

    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap {
        if !anon(k, page) {
            let no_anon = |_, _| Unmap::Fail;
            return object::try_to_unmap(k, page, Checks::Hybrid, no_anon, mapcount::last_gone);
        }
        chained::unmap_asserts(k, page);
        bug_on!(k, Objrmap, !pte_chain::mapped(k, page), page.va());
        let result = pte_chain::unmap_all(k, page);
        if pte_chain::mapped(k, page) {
            return result;
        }
        page::clear(k, page, pg::ANON);
        chained::unmapped(k)
    }

    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        ptes: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)> {
        if anon(k, page) {
            if ptes.is_empty() {
                return Err(("PG_anon on an unmapped page", page.flags(k)));
            }
            return pte_chain::check_chain(k, page, ptes);
        }
        if page::test(k, page, pg::DIRECT) {
            return Err(("direct pte of a file page", page.flags(k)));
        }
        if ptes.is_empty() {
            return Ok(());
        }
        if page.mapping(k) == 0 {
            return Err(("anonymous page without PG_anon", page.flags(k)));
        }
        object::check::check_file_page(k, page, ptes)
    }
}
