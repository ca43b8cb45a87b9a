//! Exact cases in which the reverse maps differ: who is visited, what is copied, what is found after mremap, swap-in and exit.
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check;
use guest_vm::lru;
use guest_vm::page_alloc::pfn_to_page;
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::slab::{self, CacheId};
use harness::{Access, Direct, Harness};
use lowmem_abi::boot::VECTOR_RESCHED;
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::probe::Probe;

const BASE: u32 = 0x0840_0000;
const ELSEWHERE: u32 = 0x0a40_0000;
const ANON: (u32, u32) = (0x22, NO_FILE);

type Machine<R> = Harness<R, Direct>;

fn start<R: Scheme>() -> Machine<R> {
    let mut h = Machine::<R>::new(32);
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    h
}

fn map<R: Scheme>(h: &mut Machine<R>, at: u32, pages: u32) {
    let (flags, file) = ANON;
    let got = h.syscall(call::MMAP2, [at, pages << 12, 3, flags | 0x10, file, 0]);
    assert_eq!(got, at);
}

fn fork<R: Scheme>(h: &mut Machine<R>, child: u32) {
    h.mailbox().child = child;
    assert_eq!(h.syscall(call::FORK, [0; 6]), child);
}

fn switch<R: Scheme>(h: &mut Machine<R>, pid: u32) {
    h.mailbox().next = pid;
    h.enter(VECTOR_RESCHED);
}

fn exit_to<R: Scheme>(h: &mut Machine<R>, pid: u32) {
    h.mailbox().next = pid;
    h.syscall(call::EXIT, [0; 6]);
}

fn remap<R: Scheme>(h: &mut Machine<R>, from: u32, pages: u32, to: u32) {
    let len = pages << 12;
    assert_eq!(h.syscall(call::MREMAP, [from, len, len, 3, to, 0]), to);
}

fn unmap<R: Scheme>(h: &mut Machine<R>, pfn: u32) -> Outcome {
    lru::lru_add_drain(h.k);
    reclaim::unmap_page(h.k, pfn_to_page(h.k, pfn))
}

fn check<R: Scheme, A: Access>(h: &Harness<R, A>) {
    check::all(h.k).expect("invariants");
}

/// Visits, examined ptes (page_referenced and try_to_unmap together) of a page that only the parent has after `n` forks.
fn parents_private_page<R: Scheme>(n: u32) -> (u64, u64) {
    let mut h = start::<R>();
    map(&mut h, BASE, 1);
    h.touch(BASE, true);
    for i in 0..n {
        fork(&mut h, 2 + i);
    }
    let pfn = h.touch(BASE, true);
    h.context().probes.borrow_mut().clear();
    assert_eq!(unmap(&mut h, pfn), Outcome::Success);
    check(&h);
    (
        h.probe_count(Probe::VmaVisited),
        h.probe_count(Probe::PteExamined),
    )
}

#[test]
fn a_parents_private_page_costs_anonmm_one_visit_and_anon_vma_one_of_every_child() {
    for n in [0, 1, 8, 40] {
        let all = u64::from(n) + 1;
        assert_eq!(parents_private_page::<AnonmmMap>(n), (2, 2));
        assert_eq!(parents_private_page::<AnonVmaMap>(n), (2 * all, 2 * all));
        assert_eq!(parents_private_page::<PteChains>(n), (1, 2));
    }
}

/// Copies made for a move of 8 pages, of which 5 are shared with a child; then the pages' contents on both sides.
fn moved_after_fork<R: Scheme>() -> (u64, u64) {
    let mut h = start::<R>();
    map(&mut h, BASE, 8);
    for i in 0..8 {
        h.write_user(BASE + (i << 12), 100 + i);
    }
    fork(&mut h, 2);
    for i in 0..3 {
        h.write_user(BASE + (i << 12), 200 + i);
    }
    let copied = h.probe_count(Probe::CowCopied);
    remap(&mut h, BASE, 8, ELSEWHERE);
    let counts = (
        h.probe_count(Probe::MoveCopied),
        h.probe_count(Probe::CowCopied) - copied,
    );
    check(&h);
    for i in 0..8 {
        let at = ELSEWHERE + (i << 12);
        assert_eq!(h.read_user(at), if i < 3 { 200 + i } else { 100 + i });
        let pfn = h.touch(at, false);
        assert_eq!(unmap(&mut h, pfn), Outcome::Success);
    }
    switch(&mut h, 2);
    for i in 0..8 {
        assert_eq!(h.read_user(BASE + (i << 12)), 100 + i);
    }
    check(&h);
    counts
}

#[test]
fn mremap_copies_what_is_shared_under_anonmm_alone() {
    assert_eq!(moved_after_fork::<AnonmmMap>(), (5, 5));
    assert_eq!(moved_after_fork::<AnonVmaMap>(), (0, 0));
    assert_eq!(moved_after_fork::<PteChains>(), (0, 0));
}

/// A child moves swapped-out pages, which it shares with its parent, and reads them while the parent has them in: copies.
fn swapped_in_elsewhere<R: Scheme>() -> u64 {
    let mut h = start::<R>();
    map(&mut h, BASE, 4);
    let pfns: Vec<u32> = (0..4)
        .map(|i| {
            h.write_user(BASE + (i << 12), 300 + i);
            h.touch(BASE + (i << 12), true)
        })
        .collect();
    fork(&mut h, 2);
    for pfn in pfns {
        assert_eq!(unmap(&mut h, pfn), Outcome::Success);
    }
    // The parent has them back at the old addresses.
    for i in 0..4 {
        assert_eq!(h.read_user(BASE + (i << 12)), 300 + i);
    }
    switch(&mut h, 2);
    remap(&mut h, BASE, 4, ELSEWHERE);
    assert_eq!(h.probe_count(Probe::MoveCopied), 0, "swap ptes just move");
    let before = h.probe_count(Probe::CowCopied);
    for i in 0..4 {
        assert_eq!(h.read_user(ELSEWHERE + (i << 12)), 300 + i);
    }
    check(&h);
    h.probe_count(Probe::CowCopied) - before
}

#[test]
fn a_page_swapped_in_at_another_address_is_copied_under_anonmm_alone() {
    assert_eq!(swapped_in_elsewhere::<AnonmmMap>(), 4);
    assert_eq!(swapped_in_elsewhere::<AnonVmaMap>(), 0);
    assert_eq!(swapped_in_elsewhere::<PteChains>(), 0);
}

#[test]
fn an_anonmm_outlives_its_mm_until_page_referenced_moves_its_pages_on() {
    let used = |h: &Machine<AnonmmMap>| slab::usage(h.k, CacheId::Anonmm).1;
    let mut h = start::<AnonmmMap>();
    let idle = used(&h);
    fork(&mut h, 2);
    switch(&mut h, 2);
    map(&mut h, BASE, 1);
    h.write_user(BASE, 7);
    let pfn = h.touch(BASE, true);
    fork(&mut h, 3);
    exit_to(&mut h, 3);
    assert_eq!(used(&h), idle + 2, "the page keeps the dead mm's object");
    check(&h);
    lru::lru_add_drain(h.k);
    assert_eq!(unmap(&mut h, pfn), Outcome::Success);
    assert_eq!(used(&h), idle + 1, "the page went over and was unmapped");
    check(&h);
    assert_eq!(h.read_user(BASE), 7);
    exit_to(&mut h, 1);
    assert_eq!(used(&h), idle);
    check(&h);
}
