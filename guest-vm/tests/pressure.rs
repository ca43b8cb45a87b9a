//! Memory pressure, end to end: more is written than fits, everything comes back, all invariants hold; the ends that a run can
//! have (a kill, a livelock); swapoff; what the pin check is for.
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check;
use guest_vm::kernel::{Kernel, Planted};
use guest_vm::page_alloc::{ZoneKind, pfn_to_page, zone};
use guest_vm::percpu::{State, page_state};
use guest_vm::reclaim::{self, Version};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anon_vma_chain::AnonVmaChain;
use guest_vm::rmap::anon_vma_rfc::AnonVmaRfc;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use guest_vm::swap;
use harness::{Access, Direct, Harness, Listed, Old, OldSplitHigh, Split};
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::port::file_word;
use lowmem_abi::probe::Probe;

const SHARED: u32 = 1;
const PRIVATE: u32 = 2;
const FIXED: u32 = 0x10;
const ANONYMOUS: u32 = 0x20;
const READ: u32 = 1;
const WRITE: u32 = 2;
const BASE: u32 = 0x0850_0000;

fn machine<R: Scheme, U: Access>(info: BootInfo) -> Harness<R, U> {
    let mut h = Harness::<R, U>::with_info(info);
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    h
}

fn info<R: Scheme, U: Access>(ram_mb: u32, version: Version) -> BootInfo {
    BootInfo {
        swap_slots: 16384,
        reclaim: version as u32,
        ..Harness::<R, U>::info(ram_mb)
    }
}

fn map<R: Scheme, U: Access>(h: &mut Harness<R, U>, pages: u32, flags: u32, id: u32) {
    let got = h.syscall(
        call::MMAP2,
        [BASE, pages << 12, READ | WRITE, flags | FIXED, id, 0],
    );
    assert_eq!(got, BASE);
}

fn free_pages<K: Kernel>(k: K) -> u32 {
    ZoneKind::ALL
        .iter()
        .map(|z| zone::zone(k, *z).free_pages(k))
        .sum()
}

fn word(page: u32, round: u32) -> u32 {
    page.wrapping_mul(0x9e37_79b1) ^ round << 28 | 1
}

fn ok<R: Scheme, U: Access>(h: &Harness<R, U>, when: &str) {
    if let Err(v) = check::all(h.k) {
        panic!("{when}: {v:?}");
    }
}

/// Writes more than fits, twice, reads it back.
fn storm<R: Scheme, U: Access>(version: Version, flags: u32, id: u32) -> Harness<R, U> {
    let mut h = machine::<R, U>(info::<R, U>(24, version));
    let pages = free_pages(h.k) * 3 / 2;
    map(&mut h, pages, flags, id);
    for round in 0..2 {
        for p in 0..pages {
            h.write_user(BASE + (p << 12), word(p, round));
        }
        ok(&h, "after writing");
        for p in (0..pages).rev() {
            assert_eq!(h.read_user(BASE + (p << 12)), word(p, round), "page {p}");
        }
        ok(&h, "after reading");
    }
    let k = h.k;
    assert!(page_state(k, State::PageOutRun) > 0, "kswapd never ran");
    assert!(page_state(k, State::PgSteal) >= pages / 3);
    assert!(h.probe_count(Probe::Reclaim) > 0);
    h
}

fn anonymous<R: Scheme, U: Access>(version: Version) {
    let mut h = storm::<R, U>(version, PRIVATE | ANONYMOUS, NO_FILE);
    assert!(page_state(h.k, State::PswpOut) > 0);
    assert!(page_state(h.k, State::PswpIn) > 0);
    assert_eq!(h.syscall(call::MUNMAP, [BASE, 0x1000_0000, 0, 0, 0, 0]), 0);
    // What is still in the swap cache (under writeback while it was unmapped) goes with the next pressure.
    h.enter(VECTOR_RESCHED);
    // A pass at priority 0 sees 32 of every 33 pages of a list; a single one that is left, when 32 passes have asked for it.
    for _ in 0..34 {
        reclaim::shrink_all(h.k, 0);
    }
    assert_eq!(swap::usage(h.k).1, 0, "slots leaked");
    ok(&h, "at the end");
}

#[test]
fn anonymous_memory_anon_vma_2_6_7() {
    anonymous::<AnonVmaMap, Direct>(Version::V2_6_7);
}

#[test]
fn anonymous_memory_pte_chain_2_6_7() {
    anonymous::<PteChains, Split>(Version::V2_6_7);
}

#[test]
fn anonymous_memory_pte_chain_2_6_0() {
    anonymous::<PteChains, Direct>(Version::V2_6_0);
}

#[test]
fn anonymous_memory_anon_vma_2_6_8() {
    anonymous::<AnonVmaMap, Split>(Version::V2_6_8);
}

#[test]
fn anonymous_memory_by_object_2_6_7() {
    anonymous::<AnonmmMap, Direct>(Version::V2_6_7);
    anonymous::<AnonVmaRfc, Split>(Version::V2_6_7);
    anonymous::<AnonVmaChain, Direct>(Version::V2_6_7);
}

#[test]
fn anonymous_memory_by_page_table_scan_2_4() {
    anonymous::<SwapOut, Direct>(Version::V2_4);
}

#[test]
fn a_shared_object_swaps_through_its_vector() {
    for version in [Version::V2_6_7, Version::V2_6_0, Version::V2_6_8] {
        let mut h = storm::<AnonVmaMap, Direct>(version, SHARED | ANONYMOUS, NO_FILE);
        assert!(page_state(h.k, State::PswpOut) > 0);
        assert_eq!(h.syscall(call::MUNMAP, [BASE, 0x1000_0000, 0, 0, 0, 0]), 0);
        h.enter(VECTOR_RESCHED);
        reclaim::shrink_all(h.k, 0);
        reclaim::shrink_all(h.k, 0);
        assert_eq!(swap::usage(h.k).1, 0, "slots leaked");
        ok(&h, "after the object has gone");
    }
}

#[test]
fn a_shared_file_is_written_back_and_read_again() {
    let mut h = storm::<PteChains, Direct>(Version::V2_6_7, SHARED, 7);
    assert_eq!(page_state(h.k, State::PswpOut), 0);
    // Never written: as the device made it.
    assert_eq!(h.syscall(call::MUNMAP, [BASE, 0x1000_0000, 0, 0, 0, 0]), 0);
    map(&mut h, 64, SHARED, 8);
    for p in 0..64 {
        assert_eq!(h.read_user(BASE + (p << 12)), file_word(8, p, 0));
    }
}

#[test]
fn clean_file_pages_go_without_swap() {
    let mut h = machine::<AnonVmaMap, Direct>(BootInfo {
        swap_slots: 0,
        ..info::<AnonVmaMap, Direct>(24, Version::V2_6_7)
    });
    let pages = free_pages(h.k) * 2;
    map(&mut h, pages, PRIVATE, 3);
    for p in 0..pages {
        assert_eq!(h.read_user(BASE + (p << 12)), file_word(3, p, 0));
    }
    ok(&h, "after reading");
    let evictions = h.context().evictions.borrow();
    assert!(evictions.len() as u32 > pages / 2);
    assert!(evictions.iter().all(|(file, _)| *file == 3));
}

/// Swaps out, forks, turns swap off: everything is in memory again, in both processes.
fn swapoff<R: Scheme, U: Access>(flags: u32) {
    let mut h = machine::<R, U>(info::<R, U>(24, Version::V2_6_7));
    let pages = 400;
    map(&mut h, pages, flags | ANONYMOUS, NO_FILE);
    for p in 0..pages {
        h.write_user(BASE + (p << 12), word(p, 0));
    }
    for _ in 0..3 {
        reclaim::shrink_all(h.k, 0);
        h.enter(VECTOR_RESCHED);
    }
    let out = swap::usage(h.k).1;
    assert!(out > pages / 2, "only {out} slots in use");
    h.mailbox().child = 2;
    assert_eq!(h.syscall(call::FORK, [0; 6]), 2);
    ok(&h, "after fork");
    // Some come back before, as pages of the swap cache.
    for p in 0..pages / 4 {
        assert_eq!(h.read_user(BASE + (p << 12)), word(p, 0));
    }
    assert_eq!(h.syscall(call::SWAPOFF, [0; 6]), 0);
    assert_eq!(swap::usage(h.k).1, 0);
    ok(&h, "after swapoff");
    for pid in [2, 1] {
        h.mailbox().next = pid;
        h.enter(VECTOR_RESCHED);
        for p in 0..pages {
            assert_eq!(h.read_user(BASE + (p << 12)), word(p, 0), "{pid}: {p}");
        }
    }
    ok(&h, "after reading");
    assert_eq!(h.syscall(call::SWAPON, [0; 6]), 0);
    reclaim::shrink_all(h.k, 0);
    reclaim::shrink_all(h.k, 0);
    ok(&h, "with swap again");
}

#[test]
fn swapoff_brings_private_pages_back() {
    swapoff::<AnonVmaMap, Direct>(PRIVATE);
    swapoff::<PteChains, Direct>(PRIVATE);
    swapoff::<AnonmmMap, Direct>(PRIVATE);
    swapoff::<AnonVmaRfc, Direct>(PRIVATE);
    swapoff::<AnonVmaChain, Direct>(PRIVATE);
}

#[test]
fn swapoff_brings_shared_objects_back() {
    swapoff::<AnonVmaMap, Split>(SHARED);
    swapoff::<PteChains, Direct>(SHARED);
}

#[test]
#[should_panic(expected = "OomKill")]
fn without_swap_too_much_kills() {
    let mut h = machine::<AnonVmaMap, Direct>(BootInfo {
        swap_slots: 0,
        ..info::<AnonVmaMap, Direct>(24, Version::V2_6_7)
    });
    let pages = free_pages(h.k) * 2;
    map(&mut h, pages, PRIVATE | ANONYMOUS, NO_FILE);
    for p in 0..pages {
        h.write_user(BASE + (p << 12), 1);
    }
}

#[test]
#[should_panic(expected = "Livelock")]
fn locked_memory_with_free_swap_never_kills() {
    let mut h = machine::<PteChains, Direct>(info::<PteChains, Direct>(24, Version::V2_6_7));
    let pages = free_pages(h.k) * 2;
    map(&mut h, pages, PRIVATE | ANONYMOUS, NO_FILE);
    h.syscall(call::MLOCK, [BASE, pages << 12, 0, 0, 0, 0]);
    for p in 0..pages {
        h.write_user(BASE + (p << 12), 1);
    }
}

/// What reclaim frees, in order, when it is called on the same 2,000 pages, some of which are used meanwhile. Memory is plentiful: under
/// pressure maps differ, for each keeps other objects and so reaches a watermark at another time.
fn evicted<R: Scheme>(version: Version) -> Vec<(u32, u32)> {
    let pages = 2000;
    let mut h = machine::<R, Direct>(info::<R, Direct>(48, version));
    map(&mut h, pages, PRIVATE | ANONYMOUS, NO_FILE);
    for p in 0..pages {
        h.write_user(BASE + (p << 12), word(p, 0));
    }
    for round in 0..40 {
        reclaim::shrink_all(h.k, 0);
        h.enter(VECTOR_RESCHED);
        for p in (round..pages).step_by(97) {
            assert_eq!(h.read_user(BASE + (p << 12)), word(p, 0));
        }
    }
    ok(&h, "after all rounds");
    let order = h.context().evictions.borrow().clone();
    assert!(order.len() > 100, "{} pages", order.len());
    order
}

#[test]
fn the_same_order_of_eviction_under_chains_and_anon_vma() {
    for version in [Version::V2_6_7, Version::V2_6_8] {
        assert_eq!(
            evicted::<PteChains>(version),
            evicted::<AnonVmaMap>(version)
        );
    }
}

#[test]
fn the_order_of_eviction_is_deterministic() {
    let a = storm::<AnonVmaMap, Direct>(Version::V2_6_7, PRIVATE | ANONYMOUS, NO_FILE);
    let b = storm::<AnonVmaMap, Direct>(Version::V2_6_7, PRIVATE | ANONYMOUS, NO_FILE);
    assert_eq!(
        *a.context().evictions.borrow(),
        *b.context().evictions.borrow(),
        "two runs differ"
    );
}

/// A page of the swap cache that somebody pins must stay mapped: else its next write goes to another page than the pinned one.
fn pinned(planted: Option<Planted>) -> bool {
    let mut h = machine::<AnonVmaMap, Direct>(info::<AnonVmaMap, Direct>(24, Version::V2_6_7));
    map(&mut h, 100, PRIVATE | ANONYMOUS, NO_FILE);
    // Enough company that the zone's lists are scanned at all.
    for p in 0..100 {
        h.write_user(BASE + (p << 12), 5);
    }
    let k = h.k;
    let pinned = pfn_to_page(k, h.touch(BASE, true));
    // A device writes to the user's page, as get_user_pages lets it.
    guest_vm::page::get_page(k, pinned);
    h.context().planted.set(planted);
    for _ in 0..4 {
        reclaim::shrink_all(k, 0);
        h.enter(VECTOR_RESCHED);
    }
    h.write_user(BASE, 6);
    let same = pfn_to_page(k, h.touch(BASE, true)) == pinned;
    guest_vm::page::put_page(k, pinned);
    same
}

#[test]
fn a_pinned_page_of_the_swap_cache_stays_mapped() {
    assert!(pinned(None));
    assert!(!pinned(Some(Planted::NoPinCheck)), "the planted bug shows");
}

#[test]
fn a_page_cache_of_lists_under_pressure() {
    anonymous::<PteChains, Listed>(Version::V2_6_0);
    for (flags, id) in [(SHARED | ANONYMOUS, NO_FILE), (SHARED, 7)] {
        let h = storm::<PteChains, Listed>(Version::V2_6_0, flags, id);
        ok(&h, "pages of an object or file on lists");
        let h = storm::<AnonVmaMap, Listed>(Version::V2_6_7, flags, id);
        ok(&h, "pages of an object or file on lists");
    }
    swapoff::<PteChains, Listed>(SHARED);
    anonymous::<SwapOut, Old>(Version::V2_4);
    for flags in [SHARED, PRIVATE] {
        swapoff::<SwapOut, Old>(flags);
        swapoff::<PteChains, OldSplitHigh>(flags);
        swapoff::<AnonVmaMap, Listed>(flags);
    }
}
