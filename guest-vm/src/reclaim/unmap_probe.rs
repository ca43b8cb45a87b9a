//! The unmap probe: one page through the steps shrink_list takes to unmap it (mm/vmscan.c of 2.6.7).
//!
//! The page is isolated from its LRU list with a reference, locked, bit-locked; page_referenced; an anonymous page gets a slot and
//! goes into the swap cache; try_to_unmap; then everything is put back. page_referenced's answer is not followed (the probe
//! measures unmapping, not choosing), but it must run first: it clears the young bits on which 2.6.7's
//! try_to_unmap gives up. Left out: scanning, writing, freeing.
//!
//! Invariant: the probe holds no reference or lock at its end.

use crate::kernel::Kernel;
use crate::layout::{Page, pg};
use crate::lru::{self, lru_add_drain};
use crate::mailbox::mailbox;
use crate::page;
use crate::page_alloc::{self, pfn_to_page, pfn_valid};
use crate::ptr::Low;
use crate::rmap::{ReverseMap, Unmap};
use crate::swap;
use lowmem_abi::probe::Probe;

/// Outcome of a probe, as the mailbox has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// Nothing maps the page any more.
    Success = 1,
    /// A lock was missed.
    Again = 2,
    /// Locked vma, young, pinned, or no swap slot.
    Fail = 3,
    /// Free, reserved, not mapped or not on an LRU list.
    NotACandidate = 4,
}

/// Unmaps the frame named in the mailbox and writes the outcome there.
pub fn unmap_probe<K: Kernel>(k: K) {
    k.begin(Probe::Unmap);
    let pfn = mailbox(k).unmap_pfn(k);
    let outcome = if pfn_valid(k, pfn) {
        unmap_page(k, pfn_to_page(k, pfn))
    } else {
        Outcome::NotACandidate
    };
    mailbox(k).set_unmap_outcome(k, outcome as u32);
    k.end(Probe::Unmap);
}

/// The probe for a page.
pub fn unmap_page<K: Kernel>(k: K, page: Low<Page>) -> Outcome {
    lru_add_drain(k);
    if page::test(k, page, pg::RESERVED) || page.count(k) == 0 || !page::test(k, page, pg::LRU) {
        return Outcome::NotACandidate;
    }
    isolate(k, page);
    let outcome = if page::trylock_page(k, page) {
        let o = unmap_locked(k, page);
        page::unlock_page(k, page);
        o
    } else {
        Outcome::Again
    };
    put_back(k, page);
    outcome
}

fn unmap_locked<K: Kernel>(k: K, page: Low<Page>) -> Outcome {
    page::map_lock(k, page);
    if !K::Rmap::mapped(k, page) {
        page::map_unlock(k, page);
        return Outcome::NotACandidate;
    }
    k.begin(Probe::PageReferenced);
    K::Rmap::page_referenced(k, page);
    k.end(Probe::PageReferenced);
    if page::is_anon(k, page) && !page::swap_cached(k, page) {
        page::map_unlock(k, page);
        if !swap::add_to_swap(k, page) {
            return Outcome::Fail;
        }
        page::map_lock(k, page);
    }
    k.begin(Probe::TryToUnmap);
    let result = K::Rmap::try_to_unmap(k, page);
    k.end(Probe::TryToUnmap);
    page::map_unlock(k, page);
    match result {
        Unmap::Success => Outcome::Success,
        Unmap::Again => Outcome::Again,
        Unmap::Fail => Outcome::Fail,
    }
}

/// Off its LRU list with a reference, as shrink_cache takes pages.
fn isolate<K: Kernel>(k: K, page: Low<Page>) {
    let zone = page_alloc::zone_of(k, page);
    let irq = k.irq_save();
    zone.lru_lock(k).lock(k);
    page::clear(k, page, pg::LRU);
    page.lru(k).del(k);
    if page::test(k, page, pg::ACTIVE) {
        zone.set_nr_active(k, zone.nr_active(k) - 1);
    } else {
        zone.set_nr_inactive(k, zone.nr_inactive(k) - 1);
    }
    page::get_page(k, page);
    zone.lru_lock(k).unlock(k);
    k.irq_restore(irq);
}

/// Back to the head of the list it came from; the reference goes.
fn put_back<K: Kernel>(k: K, page: Low<Page>) {
    let zone = page_alloc::zone_of(k, page);
    let irq = k.irq_save();
    zone.lru_lock(k).lock(k);
    page::set(k, page, pg::LRU);
    if page::test(k, page, pg::ACTIVE) {
        lru::add_to_active(k, zone, page);
    } else {
        lru::add_to_inactive(k, zone, page);
    }
    zone.lru_lock(k).unlock(k);
    k.irq_restore(irq);
    page::put_page(k, page);
}

/// For tests of swap-in: writes an unmapped page of the swap cache to its slot and drops it, as pageout and the end of
/// shrink_list do. False if somebody uses it.
pub fn pageout<K: Kernel>(k: K, page: Low<Page>) -> bool {
    lru_add_drain(k);
    if page.count(k) == 0 || K::Rmap::mapped(k, page) || !page::swap_cached(k, page) {
        return false;
    }
    if !page::trylock_page(k, page) {
        return false;
    }
    page::get_page(k, page);
    let done = swap::write_and_drop(k, page);
    page::unlock_page(k, page);
    page::put_page(k, page);
    done
}
