//! Exact cases in which the reverse maps differ: who is visited, what is copied, what is found after mremap, swap-in and exit.
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check::{self, Violation};
use guest_vm::kernel::Planted;
use guest_vm::lru;
use guest_vm::page_alloc::pfn_to_page;
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anon_vma_chain::AnonVmaChain;
use guest_vm::rmap::anon_vma_rfc::AnonVmaRfc;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::objrmap::Hybrid;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use guest_vm::slab::{self, CacheId};
use harness::{Access, Direct, Harness};
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::probe::Probe;

const BASE: u32 = 0x0840_0000;
const ELSEWHERE: u32 = 0x0a40_0000;
const ANON: (u32, u32) = (0x22, NO_FILE);

type Machine<R> = Harness<R, Direct>;

fn start<R: Scheme>() -> Machine<R> {
    start_with(Machine::<R>::info(32))
}

fn start_with<R: Scheme>(info: BootInfo) -> Machine<R> {
    let mut h = Machine::<R>::with_info(info);
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
        // Its own vma is first on the list of its own anon_vma, on which all children are.
        assert_eq!(parents_private_page::<AnonVmaChain>(n), (2, 2));
        assert_eq!(parents_private_page::<AnonVmaRfc>(n), (2, 2));
        // One round takes the young bit, the next begins with the parent.
        let scanned = u64::from(n) + 2;
        assert_eq!(parents_private_page::<SwapOut>(n), (scanned, scanned));
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
    assert_eq!(moved_after_fork::<AnonVmaRfc>(), (0, 0));
    assert_eq!(moved_after_fork::<AnonVmaChain>(), (0, 0));
    assert_eq!(moved_after_fork::<SwapOut>(), (0, 0));
}

/// How pages come back from swap.
#[derive(Clone, Copy)]
enum Back {
    ByReading,
    BySwapoff,
}

/// A child moves swapped-out pages, which it shares with its parent, and gets them back while the parent has them in: copies.
fn swapped_in_elsewhere<R: Scheme>(back: Back) -> u64 {
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
    if let Back::BySwapoff = back {
        assert_eq!(h.syscall(call::SWAPOFF, [0; 6]), 0);
        check(&h);
    }
    for i in 0..4 {
        assert_eq!(h.read_user(ELSEWHERE + (i << 12)), 300 + i);
    }
    check(&h);
    h.probe_count(Probe::CowCopied) - before
}

#[test]
fn a_page_swapped_in_at_another_address_is_copied_under_anonmm_alone() {
    for back in [Back::ByReading, Back::BySwapoff] {
        assert_eq!(swapped_in_elsewhere::<AnonmmMap>(back), 4);
        assert_eq!(swapped_in_elsewhere::<AnonVmaMap>(back), 0);
        assert_eq!(swapped_in_elsewhere::<PteChains>(back), 0);
        assert_eq!(swapped_in_elsewhere::<AnonVmaRfc>(back), 0);
        assert_eq!(swapped_in_elsewhere::<AnonVmaChain>(back), 0);
        assert_eq!(swapped_in_elsewhere::<SwapOut>(back), 0);
    }
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

/// Visits (page_referenced and try_to_unmap) of a page that the middle one of 20 children wrote.
fn childs_private_page<R: Scheme>() -> u64 {
    let mut h = start::<R>();
    map(&mut h, BASE, 1);
    h.touch(BASE, true);
    for i in 0..20 {
        fork(&mut h, 2 + i);
    }
    switch(&mut h, 11);
    let pfn = h.touch(BASE, true);
    h.context().probes.borrow_mut().clear();
    assert_eq!(unmap(&mut h, pfn), Outcome::Success);
    check(&h);
    h.probe_count(Probe::VmaVisited)
}

#[test]
fn a_childs_private_page_is_where_it_was_written() {
    // Eleven younger children are in front of it.
    assert_eq!(childs_private_page::<AnonVmaMap>(), 2 * 11);
    assert_eq!(childs_private_page::<AnonmmMap>(), 2);
    assert_eq!(childs_private_page::<AnonVmaRfc>(), 2);
    assert_eq!(childs_private_page::<AnonVmaChain>(), 2);
}

/// Links and anon_vmas after `n` generations, each of which forks, writes, and exits.
fn generations(n: u32, reuse: u32) -> (u32, u32) {
    let mut h = start_with::<AnonVmaChain>(BootInfo {
        anon_vma_reuse: reuse,
        ..Machine::<AnonVmaChain>::info(32)
    });
    map(&mut h, BASE, 1);
    h.write_user(BASE, 1);
    for i in 0..n {
        fork(&mut h, 2 + i);
        exit_to(&mut h, 2 + i);
        assert_eq!(h.read_user(BASE), 1 + i);
        h.write_user(BASE, 2 + i);
        check(&h);
    }
    (
        slab::usage(h.k, CacheId::AnonVmaChain).1,
        slab::usage(h.k, CacheId::AnonVma).1,
    )
}

#[test]
fn a_chain_grows_with_each_generation_unless_ancestors_are_reused() {
    assert_eq!(generations(30, 0), (31, 31));
    assert_eq!(generations(30, 1), (3, 3));
}

/// The family in which a leaf's anon_vma is abandoned and then reused by two: see the module's rule of 2022.
fn abandoned_leaf(planted: Option<Planted>) -> Result<(), Violation> {
    let mut h = start_with::<AnonVmaChain>(BootInfo {
        anon_vma_reuse: 1,
        ..Machine::<AnonVmaChain>::info(32)
    });
    h.context().planted.set(planted);
    map(&mut h, BASE, 1);
    h.write_user(BASE, 1);
    // 1 forks 2 forks 3; 2 exits; 3 forks 4, which reuses what was 2's, and 5, which gets its own below 3's.
    fork(&mut h, 2);
    switch(&mut h, 2);
    fork(&mut h, 3);
    exit_to(&mut h, 3);
    fork(&mut h, 4);
    fork(&mut h, 5);
    // 3 and 5 exit: what was 3's has neither vma nor child, but 4 is linked to it.
    exit_to(&mut h, 5);
    exit_to(&mut h, 4);
    check::all(h.k)?;
    fork(&mut h, 6);
    fork(&mut h, 7);
    check::all(h.k)
}

#[test]
fn an_abandoned_anon_vma_has_one_new_owner() {
    assert_eq!(abandoned_leaf(None), Ok(()));
    let caught = abandoned_leaf(Some(Planted::OneDegree));
    assert!(
        matches!(caught, Err(Violation::SchemeAll { what, .. }) if what.starts_with("two mms")),
        "{caught:?}"
    );
}

/// mprotect moves a boundary between a vma with an anonymous page and one without (cases 4 and 5), over the page; then the page
/// is unmapped.
fn shifted<R: Scheme>(
    (written, moved, prot): (u32, u32, u32),
    planted: Option<Planted>,
) -> (Result<(), Violation>, Outcome) {
    let mut h = start::<R>();
    h.context().planted.set(planted);
    map(&mut h, BASE, 4);
    // The upper half may be executed, so the two halves are two vmas.
    let upper = [BASE + 0x2000, 0x2000, 7, 0, 0, 0];
    assert_eq!(h.syscall(call::MPROTECT, upper), 0);
    let at = BASE + (written << 12);
    h.write_user(at, 5);
    let change = [BASE + (moved << 12), 0x1000, prot, 0, 0, 0];
    assert_eq!(h.syscall(call::MPROTECT, change), 0);
    assert_eq!(h.probe_count(Probe::VmaMerged), 1);
    let checked = check::all(h.k);
    let pfn = h.touch(at, false);
    let outcome = unmap(&mut h, pfn);
    if outcome == Outcome::Success {
        assert_eq!(h.read_user(at), 5);
    }
    (checked, outcome)
}

#[test]
fn a_shifted_boundary_takes_the_anon_vma_along_and_2_6_7_forgot_it() {
    // Case 4: the tail of the lower one joins the upper; case 5: the head of the upper one joins the lower.
    for case in [(1, 1, 7), (2, 2, 3)] {
        for (checked, outcome) in [
            shifted::<AnonVmaMap>(case, None),
            shifted::<AnonVmaRfc>(case, None),
            shifted::<AnonVmaChain>(case, None),
            shifted::<AnonmmMap>(case, None),
            shifted::<SwapOut>(case, None),
            shifted::<PteChains>(case, None),
        ] {
            assert_eq!((checked, outcome), (Ok(()), Outcome::Success), "{case:?}");
        }
        let (checked, outcome) = shifted::<AnonVmaMap>(case, Some(Planted::ShiftWithoutAnonVma));
        assert!(
            matches!(checked, Err(Violation::Scheme { .. })),
            "{checked:?}"
        );
        assert_eq!(outcome, Outcome::Again, "the page cannot be found");
    }
}

#[test]
fn a_shared_page_that_anonmm_moved_all_the_same_is_noticed() {
    let mut h = start::<AnonmmMap>();
    h.context().planted.set(Some(Planted::MoveShared));
    map(&mut h, BASE, 1);
    h.write_user(BASE, 1);
    fork(&mut h, 2);
    remap(&mut h, BASE, 1, ELSEWHERE);
    let caught = check::all(h.k);
    assert!(
        matches!(caught, Err(Violation::Scheme { .. })),
        "{caught:?}"
    );
}

/// A page that one of three processes has locked stays; unlocked, it goes.
fn locked_page<R: Scheme>(flags: u32, file: u32) {
    let mut h = start::<R>();
    let got = h.syscall(call::MMAP2, [BASE, 0x2000, 3, flags | 0x10, file, 0]);
    assert_eq!(got, BASE);
    h.write_user(BASE, 9);
    fork(&mut h, 2);
    fork(&mut h, 3);
    switch(&mut h, 2);
    // Locking a writable private page writes to it: read-only, so that it stays shared.
    assert_eq!(h.syscall(call::MPROTECT, [BASE, 0x1000, 1, 0, 0, 0]), 0);
    assert_eq!(h.syscall(call::MLOCK, [BASE, 0x1000, 0, 0, 0, 0]), 0);
    let pfn = h.touch(BASE, false);
    for _ in 0..2 {
        assert_eq!(unmap(&mut h, pfn), Outcome::Fail);
        check(&h);
    }
    assert!(h.probe_count(Probe::UnmapLocked) > 0);
    assert_eq!(h.touch(BASE, false), pfn, "the locked mapping was kept");
    assert_eq!(h.syscall(call::MUNLOCK, [BASE, 0x1000, 0, 0, 0, 0]), 0);
    assert_eq!(unmap(&mut h, pfn), Outcome::Success);
    check(&h);
    for pid in [1, 2, 3] {
        switch(&mut h, pid);
        assert_eq!(h.read_user(BASE), 9);
    }
    check(&h);
}

#[test]
fn a_locked_mapping_keeps_its_page_under_every_scheme() {
    for (flags, file) in [ANON, (1, 7), (0x21, NO_FILE)] {
        locked_page::<AnonVmaMap>(flags, file);
        locked_page::<PteChains>(flags, file);
        locked_page::<Hybrid>(flags, file);
        locked_page::<AnonmmMap>(flags, file);
        locked_page::<AnonVmaRfc>(flags, file);
        locked_page::<AnonVmaChain>(flags, file);
        locked_page::<SwapOut>(flags, file);
    }
}

/// A locked nonlinear mapping: the sweep passes it by.
fn locked_nonlinear<R: Scheme>() {
    let mut h = start::<R>();
    let got = h.syscall(call::MMAP2, [BASE, 0x4000, 3, 0x11, 7, 0]);
    assert_eq!(got, BASE);
    assert_eq!(
        h.syscall(call::REMAP_FILE_PAGES, [BASE, 0x1000, 0, 3, 0, 0]),
        0
    );
    assert_eq!(h.syscall(call::MLOCK, [BASE, 0x4000, 0, 0, 0, 0]), 0);
    h.write_user(BASE, 77);
    let pfn = h.touch(BASE, true);
    assert_eq!(h.touch(BASE + 0x3000, true), pfn, "page 3 of the file");
    for _ in 0..3 {
        assert_eq!(unmap(&mut h, pfn), Outcome::Fail);
        check(&h);
    }
    assert_eq!(h.syscall(call::MUNLOCK, [BASE, 0x4000, 0, 0, 0, 0]), 0);
    let mut tries = 1;
    while unmap(&mut h, pfn) != Outcome::Success {
        tries += 1;
        assert!(tries < 4, "a sweep takes young bits, the next one pages");
    }
    check(&h);
    assert_eq!(h.read_user(BASE), 77);
    assert_eq!(h.read_user(BASE + 0x3000), 77);
    check(&h);
}

#[test]
fn a_locked_nonlinear_mapping_keeps_its_page_under_every_scheme() {
    locked_nonlinear::<AnonVmaMap>();
    locked_nonlinear::<PteChains>();
    locked_nonlinear::<Hybrid>();
    locked_nonlinear::<AnonmmMap>();
    locked_nonlinear::<AnonVmaRfc>();
    locked_nonlinear::<AnonVmaChain>();
    locked_nonlinear::<SwapOut>();
}

/// Nothing is left of a scheme's objects when a family has gone.
#[test]
fn objects_go_with_their_last_user() {
    fn run<R: Scheme>(caches: &[CacheId]) {
        let mut h = start::<R>();
        let used = |h: &Machine<R>| -> Vec<u32> {
            caches.iter().map(|&c| slab::usage(h.k, c).1).collect()
        };
        let idle = used(&h);
        fork(&mut h, 2);
        switch(&mut h, 2);
        map(&mut h, BASE, 6);
        for i in 0..6 {
            h.write_user(BASE + (i << 12), i);
        }
        fork(&mut h, 3);
        fork(&mut h, 4);
        switch(&mut h, 3);
        for at in [1, 4] {
            assert_eq!(
                h.syscall(call::MPROTECT, [BASE + (at << 12), 0x1000, 1, 0, 0, 0]),
                0
            );
        }
        remap(&mut h, BASE, 1, ELSEWHERE);
        h.write_user(BASE + 0x2000, 1);
        fork(&mut h, 5);
        assert_ne!(used(&h), idle);
        check(&h);
        exit_to(&mut h, 5);
        check(&h);
        exit_to(&mut h, 2);
        check(&h);
        exit_to(&mut h, 4);
        check(&h);
        exit_to(&mut h, 1);
        lru::lru_add_drain(h.k);
        assert_eq!(used(&h), idle);
        check(&h);
    }
    run::<AnonmmMap>(&[CacheId::Anonmm]);
    run::<AnonVmaRfc>(&[CacheId::AnonVma]);
    run::<AnonVmaMap>(&[CacheId::AnonVma]);
    run::<AnonVmaChain>(&[CacheId::AnonVma, CacheId::AnonVmaChain]);
}
