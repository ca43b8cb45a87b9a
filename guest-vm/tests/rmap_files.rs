//! Reverse maps of files and chains in exact numbers: order of a file's lists, nonlinear vmas, locked operations of each scheme with and
//! without locks; and planted bugs, which the checks must find.
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check::{self, Violation};
use guest_vm::layout::{Mapping, Page, Vma, page_struct_bytes};
use guest_vm::lru;
use guest_vm::mm::current_mm;
use guest_vm::mm::vma::find_vma;
use guest_vm::page_alloc::pfn_to_page;
use guest_vm::pgtable::Pte;
use guest_vm::ptr::Low;
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::{self, AnonVmaMap};
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::chained::PteAddr;
use guest_vm::rmap::file::FileVmas;
use guest_vm::rmap::objrmap::Hybrid;
use guest_vm::rmap::pte_chain::{PteChain, PteChains, nrpte};
use guest_vm::rmap::pte_chain_dl::{DoubleChains, Link};
use guest_vm::rmap::pte_chain_v1::{Element, SingleChains, free_elements};
use harness::{Access, Direct, DirectHigh, DirectUp, Harness, cases};
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::probe::Probe;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BASE: u32 = 0x0840_0000;
const ANON: (u32, u32) = (0x22, NO_FILE);
const SHARED: (u32, u32) = (1, 7);
const PRIVATE: (u32, u32) = (2, 7);

fn start<R: Scheme, U: Access>(change: impl FnOnce(&mut BootInfo)) -> Harness<R, U> {
    let mut info = Harness::<R, U>::info(32);
    change(&mut info);
    let mut h = Harness::with_info(info);
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    h
}

fn map<R: Scheme, U: Access>(
    h: &mut Harness<R, U>,
    at: u32,
    (pages, pgoff): (u32, u32),
    (flags, file): (u32, u32),
) {
    let args = [at, pages << 12, 3, flags | 0x10, file, pgoff];
    assert_eq!(h.syscall(call::MMAP2, args), at);
}

fn fork<R: Scheme, U: Access>(h: &mut Harness<R, U>, child: u32) {
    h.mailbox().child = child;
    assert_eq!(h.syscall(call::FORK, [0; 6]), child);
}

fn switch<R: Scheme, U: Access>(h: &mut Harness<R, U>, pid: u32) {
    h.mailbox().next = pid;
    h.enter(VECTOR_RESCHED);
}

fn vma_at<R: Scheme, U: Access>(h: &Harness<R, U>, addr: u32) -> Low<Vma> {
    find_vma(h.k, current_mm(h.k), addr)
}

fn mapping_at<R: Scheme, U: Access>(h: &Harness<R, U>, addr: u32) -> Low<Mapping> {
    vma_at(h, addr).file(h.k).f_mapping(h.k)
}

/// The vmas that a search for page `pgoff` of the file visits, in order.
fn searched<R: Scheme, U: Access>(h: &Harness<R, U>, addr: u32, pgoff: u32) -> Vec<u32> {
    let mut walk = FileVmas::new(h.k, mapping_at(h, addr), pgoff);
    let mut found = Vec::new();
    while let Some(vma) = walk.next(h.k).get() {
        found.push(vma.va());
    }
    found
}

fn unmap<R: Scheme, U: Access>(h: &mut Harness<R, U>, pfn: u32) -> Outcome {
    lru::lru_add_drain(h.k);
    h.context().probes.borrow_mut().clear();
    reclaim::unmap_page(h.k, pfn_to_page(h.k, pfn))
}

fn lists(info: &mut BootInfo) {
    info.file_vmas = 0;
}

#[test]
fn lists_take_new_vmas_at_the_tail_and_children_in_front_of_parents() {
    let mut h = start::<AnonVmaMap, Direct>(lists);
    let (a, b, c, d) = (BASE, BASE + 0x10000, BASE + 0x20000, BASE + 0x30000);
    map(&mut h, a, (4, 0), SHARED);
    map(&mut h, b, (4, 0), PRIVATE);
    map(&mut h, c, (4, 0), SHARED);
    let parent: Vec<u32> = [a, b, c].map(|at| vma_at(&h, at).va()).to_vec();
    // Private before shared, each in order of mapping.
    assert_eq!(searched(&h, a, 0), [parent[1], parent[0], parent[2]]);
    fork(&mut h, 2);
    switch(&mut h, 2);
    let child: Vec<u32> = [a, b, c].map(|at| vma_at(&h, at).va()).to_vec();
    map(&mut h, d, (4, 0), PRIVATE);
    let new = vma_at(&h, d).va();
    let order = [
        child[1], parent[1], new, child[0], parent[0], child[2], parent[2],
    ];
    assert_eq!(searched(&h, a, 0), order);
    check::all(h.k).unwrap();
}

#[test]
fn a_list_visits_every_vma_of_the_file_a_tree_those_of_the_page() {
    fn visits<R: Scheme>(file_vmas: u32, page: u32) -> (u64, u64) {
        let mut h = start::<R, Direct>(|i| i.file_vmas = file_vmas);
        for i in 0..20 {
            map(&mut h, BASE + (i << 16), (1, i), SHARED);
        }
        let pfn = h.touch(BASE + (page << 16), false);
        assert_eq!(unmap(&mut h, pfn), Outcome::Success);
        check::all(h.k).unwrap();
        (
            h.probe_count(Probe::VmaVisited),
            h.probe_count(Probe::PteExamined),
        )
    }
    fn both<R: Scheme>() {
        // In page_referenced and again in try_to_unmap; both end with the last mapping.
        assert_eq!(visits::<R>(1, 19), (2, 2));
        assert_eq!(visits::<R>(0, 19), (40, 2));
        assert_eq!(visits::<R>(0, 0), (2, 2));
    }
    both::<AnonVmaMap>();
    both::<AnonmmMap>();
    both::<Hybrid>();
    // Chains ask no file: find_vma once, in try_to_unmap.
    assert_eq!(visits::<PteChains>(0, 19), (1, 2));
    assert_eq!(visits::<SingleChains>(0, 19), (1, 2));
    assert_eq!(visits::<DoubleChains>(0, 19), (1, 2));
}

/// 128 pages of a file whose halves have changed places, all present.
fn nonlinear<R: Scheme>(whole: u32) -> Harness<R, Direct> {
    let mut h = start::<R, Direct>(|i| i.nonlinear = whole);
    map(&mut h, BASE, (128, 0), SHARED);
    for (at, pgoff) in [(BASE, 64), (BASE + (64 << 12), 0)] {
        let args = [at, 64 << 12, 0, pgoff, 0, 0];
        assert_eq!(h.syscall(call::REMAP_FILE_PAGES, args), 0);
    }
    check::all(h.k).unwrap();
    h
}

/// Every page still reads as the remapping says.
fn read_nonlinear<R: Scheme>(h: &mut Harness<R, Direct>) {
    read_nonlinear_pages(h, 128);
}

fn read_nonlinear_pages<R: Scheme>(h: &mut Harness<R, Direct>, pages: u32) {
    for i in 0..pages {
        let word = lowmem_abi::port::file_word(7, (i + 64) % 128, 0);
        assert_eq!(h.read_user(BASE + (i << 12)), word, "page {i}");
    }
    check::all(h.k).unwrap();
}

#[test]
fn a_sweep_takes_a_cluster_of_old_ptes_at_a_time() {
    fn run<R: Scheme>() {
        let mut h = nonlinear::<R>(0);
        let pfn = h.touch(BASE + (100 << 12), false);
        // Fresh ptes are young: the first round only makes them old, and starts again at the beginning.
        assert_eq!(unmap(&mut h, pfn), Outcome::Again);
        assert_eq!(h.probe_count(Probe::PteExamined), 128);
        assert_eq!(h.probe_count(Probe::PteCleared), 0);
        // Then each round drops the next cluster, whosever pages are in it; page 100 is in the fourth.
        for round in 1..=4 {
            let outcome = unmap(&mut h, pfn);
            let last = if round == 4 {
                Outcome::Success
            } else {
                Outcome::Again
            };
            assert_eq!(outcome, last, "round {round}");
            assert_eq!(h.probe_count(Probe::PteCleared), 32);
            check::all(h.k).unwrap();
        }
        read_nonlinear(&mut h);
    }
    run::<AnonVmaMap>();
    run::<AnonmmMap>();
    run::<Hybrid>();
}

/// Two processes map the same pages nonlinear, the second only `rest` of them. Pages are unmapped, with every n-th trylock failing (0: none).
/// What a cursor passes in a sweep was looked at: no pte behind it is left that was old before. Whose lock was missed stays behind.
fn sweeps_with_missed_locks<R: Scheme>(rest: u32, sweeps: &[(prop::sample::Index, u32)]) {
    let mut h = nonlinear::<R>(0);
    let first = vma_at(&h, BASE);
    fork(&mut h, 2);
    switch(&mut h, 2);
    let (cut, pages) = (BASE + (rest << 12), 128 - rest);
    if pages != 0 {
        assert_eq!(h.syscall(call::MUNMAP, [cut, pages << 12, 0, 0, 0, 0]), 0);
    }
    let vmas = [first, vma_at(&h, BASE)];
    let k = h.k;
    let ptes = |vma: Low<Vma>| {
        let mut present = BTreeMap::new();
        check::each_pte(k, vma.mm(k), |m| {
            if Pte(m.pte).present() {
                present.insert(m.addr, Pte(m.pte).young());
            }
        });
        present
    };
    for (which, fail) in sweeps {
        let mapped: Vec<u32> = check::scan(k).expect("scan").pages.into_keys().collect();
        if mapped.is_empty() {
            break;
        }
        let before = vmas.map(|vma| (vma.private(k), ptes(vma)));
        h.context().fail_trylock.set(*fail);
        unmap(&mut h, mapped[which.index(mapped.len())]);
        h.context().fail_trylock.set(0);
        check::all(k).expect("after a sweep");
        for (vma, (from, were)) in vmas.into_iter().zip(before) {
            // At the end of a round cursors go back to 0.
            let passed = vma.start(k) + from..vma.start(k) + vma.private(k).max(from);
            for (addr, _) in ptes(vma).range(passed) {
                assert!(were[addr], "the old pte at {addr:#x} was passed by");
            }
        }
    }
    read_nonlinear_pages(&mut h, rest);
    switch(&mut h, 1);
    read_nonlinear(&mut h);
}

proptest! {
    #![proptest_config(cases(24))]
    #[test]
    fn a_sweep_does_not_pass_a_vma_whose_lock_it_missed(
        rest in 1u32..=128,
        sweeps in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 1..12),
    ) {
        sweeps_with_missed_locks::<AnonVmaMap>(rest, &sweeps);
        sweeps_with_missed_locks::<Hybrid>(rest, &sweeps);
        sweeps_with_missed_locks::<AnonmmMap>(rest, &sweeps);
    }
}

#[test]
fn a_whole_vma_goes_at_once_where_2_6_5_aa_is_followed() {
    fn run<R: Scheme>() {
        let mut h = nonlinear::<R>(1);
        let pfn = h.touch(BASE + (100 << 12), false);
        assert_eq!(unmap(&mut h, pfn), Outcome::Again);
        // One of them is used again: it stays.
        h.touch(BASE + (3 << 12), false);
        assert_eq!(unmap(&mut h, pfn), Outcome::Success);
        assert_eq!(h.probe_count(Probe::PteExamined), 128);
        assert_eq!(h.probe_count(Probe::PteCleared), 127);
        check::all(h.k).unwrap();
        read_nonlinear(&mut h);
    }
    run::<AnonVmaMap>();
    run::<Hybrid>();
}

#[test]
fn a_locked_nonlinear_vma_holds_out() {
    fn run<R: Scheme>(whole: u32) {
        let mut h = nonlinear::<R>(whole);
        assert_eq!(h.syscall(call::MLOCK, [BASE, 128 << 12, 0, 0, 0, 0]), 0);
        let pfn = h.touch(BASE + (100 << 12), false);
        for _ in 0..3 {
            assert_eq!(unmap(&mut h, pfn), Outcome::Fail);
            assert_eq!(h.probe_count(Probe::UnmapLocked), 1);
            assert_eq!(h.probe_count(Probe::PteCleared), 0);
        }
        check::all(h.k).unwrap();
    }
    for whole in [0, 1] {
        run::<AnonVmaMap>(whole);
        run::<Hybrid>(whole);
    }
    run::<PteChains>(0);
}

#[test]
fn a_chain_finds_a_nonlinear_pte_and_leaves_its_offset() {
    fn run<R: Scheme>() {
        let mut h = nonlinear::<R>(0);
        let pfn = h.touch(BASE + (100 << 12), false);
        assert_eq!(unmap(&mut h, pfn), Outcome::Success);
        assert_eq!(h.probe_count(Probe::PteExamined), 2);
        assert_eq!(h.probe_count(Probe::PteCleared), 1);
        check::all(h.k).unwrap();
        read_nonlinear(&mut h);
    }
    run::<PteChains>();
    run::<SingleChains>();
    run::<DoubleChains>();
}

#[test]
fn objrmap_keeps_chains_for_anonymous_pages_only() {
    let mut h = start::<Hybrid, Direct>(|i| i.chain_line = 32);
    map(&mut h, BASE, (1, 0), ANON);
    map(&mut h, BASE + 0x10000, (1, 0), SHARED);
    let anon = h.touch(BASE, true);
    let file = h.touch(BASE + 0x10000, false);
    for child in 2..=5 {
        fork(&mut h, child);
    }
    // A page with five mappings takes one block of seven entries; the file's page has a count.
    assert_eq!(pfn_to_page(h.k, file).rmap(h.k), 5);
    let chain: Low<PteChain> = Low::new(pfn_to_page(h.k, anon).rmap(h.k));
    assert_eq!(chain.idx(h.k, nrpte(h.k)), 7 - 5);
    assert_eq!(unmap(&mut h, file), Outcome::Success);
    assert_eq!(h.probe_count(Probe::VmaVisited), 10);
    assert_eq!(unmap(&mut h, anon), Outcome::Success);
    assert_eq!(h.probe_count(Probe::PteExamined), 10);
    check::all(h.k).unwrap();
}

#[test]
fn chains_with_highpte_map_every_entry_they_visit() {
    // Blocks of 32, 64 and 128 bytes hold 3, 7 and 15 entries; struct page grows by 4 bytes.
    fn run<R: Scheme>(chain_line: u32, page_bytes: u32) {
        let mut h = start::<R, DirectHigh>(|i| {
            i.ram_frames = 1000 << 8;
            i.chain_line = chain_line;
        });
        assert_eq!(page_struct_bytes(h.k), page_bytes);
        assert_eq!(nrpte(h.k), chain_line / 8 - 1);
        map(&mut h, BASE, (1, 0), ANON);
        let pfn = h.touch(BASE, true);
        for child in 2..=20 {
            fork(&mut h, child);
            check::all(h.k).unwrap();
        }
        assert_eq!(unmap(&mut h, pfn), Outcome::Success);
        assert_eq!(h.probe_count(Probe::PteExamined), 40);
        assert_eq!(h.probe_count(Probe::KmapAtomic), 40);
        check::all(h.k).unwrap();
    }
    for line in [32, 64, 128] {
        run::<PteChains>(line, 36);
        run::<Hybrid>(line, 36);
        run::<DoubleChains>(line, 32);
    }
}

#[test]
fn single_chains_never_give_a_page_back_and_lose_no_element() {
    let mut h = start::<SingleChains, Direct>(|_| ());
    map(&mut h, BASE, (600, 0), ANON);
    for i in 0..600 {
        h.touch(BASE + (i << 12), true);
    }
    // 600 mappings and two pages of elements.
    let free = free_elements(h.k);
    assert_eq!(free, 1024 - 600);
    fork(&mut h, 2);
    switch(&mut h, 2);
    assert_eq!(free_elements(h.k), 3 * 512 - 1200);
    assert_eq!(h.syscall(call::MUNMAP, [BASE, 600 << 12, 0, 0, 0, 0]), 0);
    assert_eq!(free_elements(h.k), 3 * 512 - 600);
    check::all(h.k).unwrap();
}

/// Locked operations of `f`.
fn locked<R: Scheme, U: Access>(h: &mut Harness<R, U>, f: impl FnOnce(&mut Harness<R, U>)) -> u64 {
    let before = h.counts().locked;
    f(h);
    h.counts().locked - before
}

/// A machine with free pages, page tables and chain blocks at hand, so that no refill of a list or slab falls into a measurement.
fn warm<R: Scheme, U: Access>() -> Harness<R, U> {
    let mut h = start::<R, U>(|_| ());
    map(&mut h, BASE, (64, 0), ANON);
    for i in 0..64 {
        h.touch(BASE + (i << 12), true);
    }
    fork(&mut h, 2);
    switch(&mut h, 2);
    h.mailbox().next = 1;
    h.syscall(call::EXIT, [0; 6]);
    let args = [BASE, 64 << 12, 0, 0, 0, 0];
    assert_eq!(h.syscall(call::MUNMAP, args), 0);
    h
}

/// The same operation on many pages less that on few, for each page more. A refill of lists or slabs would show as a remainder.
fn each_of(cost: impl Fn(u32) -> u64) -> u64 {
    let (few, many) = (cost(16), cost(32));
    assert_eq!((many - few) % 16, 0, "{few} for 16, {many} for 32");
    (many - few) / 16
}

/// Locked operations of fork for each pte of a page that has `mapped` mappings before.
fn forked<R: Scheme, U: Access>(kind: (u32, u32), mapped: u32) -> u64 {
    each_of(|pages| {
        let mut h = warm::<R, U>();
        map(&mut h, BASE, (64, 0), kind);
        for i in 0..pages {
            h.touch(BASE + (i << 12), true);
        }
        for n in 1..mapped {
            fork(&mut h, 10 + n);
        }
        locked(&mut h, |h| fork(h, 2))
    })
}

/// Of munmap for each old, clean pte of a file that two others map.
fn zapped<R: Scheme, U: Access>() -> u64 {
    each_of(|pages| {
        let mut h = warm::<R, U>();
        map(&mut h, BASE, (64, 0), SHARED);
        for i in 0..64 {
            h.touch(BASE + (i << 12), false);
        }
        fork(&mut h, 2);
        fork(&mut h, 3);
        lru::lru_add_drain(h.k);
        switch(&mut h, 2);
        locked(&mut h, |h| {
            let args = [BASE, pages << 12, 0, 0, 0, 0];
            assert_eq!(h.syscall(call::MUNMAP, args), 0);
        })
    })
}

/// Of page_referenced and try_to_unmap for each old pte of a shared page.
fn unmapped<R: Scheme, U: Access>(kind: (u32, u32)) -> u64 {
    each_of(|n| {
        let mut h = warm::<R, U>();
        map(&mut h, BASE, (1, 0), kind);
        let pfn = h.touch(BASE, kind == ANON);
        for child in 2..=n {
            fork(&mut h, child);
        }
        lru::lru_add_drain(h.k);
        let page = pfn_to_page(h.k, pfn);
        locked(&mut h, |h| {
            assert_eq!(reclaim::unmap_page(h.k, page), Outcome::Success);
        })
    })
}

/// Fork of a COW pte of a page with one and with two mappings, fork of a file's pte, zap, unmap anonymous, unmap file.
fn table<R: Scheme, U: Access>() -> [u64; 6] {
    [
        forked::<R, U>(ANON, 1),
        forked::<R, U>(ANON, 2),
        forked::<R, U>(SHARED, 2),
        zapped::<R, U>(),
        unmapped::<R, U>(ANON),
        unmapped::<R, U>(SHARED),
    ]
}

#[test]
fn locked_operations_of_every_scheme_are_those_of_the_table() {
    // Fork: write protection, get_page, bit lock and unlock; a file's pte needs no write protection. Zap: exchange, bit lock pair,
    // put_page. Unmap: trylock and young test in page_referenced; trylock, young test, clear, put_page; an anonymous page 2 for the
    // swap slot, and as fork copies dirty ptes, the test of the dirty flag.
    assert_eq!(table::<AnonVmaMap, Direct>(), [4, 4, 3, 4, 9, 6]);
    // Chains: the second mapping clears PG_direct; page_referenced takes no lock, try_to_unmap tests no young bit.
    assert_eq!(table::<PteChains, Direct>(), [5, 4, 3, 4, 7, 4]);
    // Files as anon_vma, anonymous pages as chains.
    assert_eq!(table::<Hybrid, Direct>(), [5, 4, 3, 4, 7, 6]);
    // The free list's lock at every add and remove, and no PG_direct.
    assert_eq!(table::<SingleChains, Direct>(), [5, 5, 4, 5, 8, 5]);
    assert_eq!(table::<DoubleChains, Direct>(), [4, 4, 3, 4, 7, 4]);
}

#[test]
fn without_locks_only_exchanges_with_memory_are_left() {
    // Zap's and try_to_unmap's exchange of the pte.
    let up = [0, 0, 0, 1, 1, 1];
    assert_eq!(table::<AnonVmaMap, DirectUp>(), up);
    assert_eq!(table::<AnonmmMap, DirectUp>(), up);
    assert_eq!(table::<PteChains, DirectUp>(), up);
    assert_eq!(table::<Hybrid, DirectUp>(), up);
    assert_eq!(table::<SingleChains, DirectUp>(), up);
    assert_eq!(table::<DoubleChains, DirectUp>(), up);
}

/// A page of `kind` that `n` processes map.
fn shared_page<R: Scheme>(kind: (u32, u32), n: u32) -> (Harness<R, Direct>, Low<Page>) {
    let mut h = start::<R, Direct>(|i| {
        i.chain_line = 32;
        i.file_vmas = 0;
    });
    map(&mut h, BASE, (1, 0), kind);
    let pfn = h.touch(BASE, kind == ANON);
    for child in 2..=n {
        fork(&mut h, child);
    }
    check::all(h.k).unwrap();
    let page = pfn_to_page(h.k, pfn);
    (h, page)
}

fn scheme_violation(h: &Harness<impl Scheme, Direct>, expected: &str) {
    match check::all(h.k) {
        Err(Violation::Scheme { what, .. }) => assert_eq!(what, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn planted_hole_behind_the_head_of_a_chain_is_found() {
    let (h, page) = shared_page::<PteChains>(ANON, 10);
    let (k, n) = (h.k, nrpte(h.k));
    let head: Low<PteChain> = Low::new(page.rmap(k));
    let second = head.next(k, n);
    assert!(head.idx(k, n) > 0 && second.idx(k, n) == 0);
    // The second block's first entry moves to the head: nothing is lost, but the hole is in the wrong block.
    let moved = second.entry(k, 0);
    moved.write(k, head.slot(k, head.idx(k, n) - 1));
    head.field::<u32>(0)
        .write(k, second.va() | (head.idx(k, n) - 1));
    PteAddr::NONE.write(k, second.slot(k, 0));
    second.field::<u32>(0).write(k, 1);
    scheme_violation(&h, "hole in a block behind the head");
}

#[test]
fn planted_wrong_mapcounts_are_found() {
    fn run<R: Scheme>(kind: (u32, u32)) {
        for wrong in [2, 4] {
            let (h, page) = shared_page::<R>(kind, 3);
            page.set_rmap(h.k, wrong);
            match check::all(h.k) {
                Err(Violation::Mapcount { scheme, scan, .. }) => {
                    assert_eq!((scheme, scan), (wrong, 3));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    run::<AnonVmaMap>(ANON);
    run::<AnonVmaMap>(SHARED);
    run::<AnonmmMap>(SHARED);
    run::<Hybrid>(SHARED);
}

#[test]
fn planted_effects_of_a_missing_list_lock_are_found() {
    // Two writers without the lock lose an element of the list: the vma is not met when its file is searched.
    fn run<R: Scheme>() {
        let (mut h, page) = shared_page::<R>(SHARED, 3);
        let vma = vma_at(&h, BASE);
        vma.shared(h.k).list(h.k).del_init(h.k);
        scheme_violation(&h, "file pte not in exactly one vma of the file");
        // And reclaim leaves that mapping behind.
        let pfn = guest_vm::page_alloc::page_to_pfn(h.k, page);
        assert_eq!(unmap(&mut h, pfn), Outcome::Again);
        assert_eq!(page.rmap(h.k), 1);
    }
    run::<AnonVmaMap>();
    run::<AnonmmMap>();
    run::<Hybrid>();
    // Chains do not search files; the list itself is checked.
    let (h, _) = shared_page::<PteChains>(PRIVATE, 3);
    let vma = vma_at(&h, BASE);
    vma.shared(h.k).list(h.k).del_init(h.k);
    match check::all(h.k) {
        Err(Violation::FileVmas { what, .. }) => assert_eq!(what, "a vma is missing or stale"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn planted_effects_of_a_missing_lock_of_an_anon_vma_are_found() {
    let head = |h: &Harness<AnonVmaMap, Direct>| {
        let family = anon_vma::of_vma(h.k, vma_at(h, BASE));
        family.head(h.k)
    };
    // Of two forks at a time one child is lost from the list: its pte is not met.
    let (h, _) = shared_page::<AnonVmaMap>(ANON, 3);
    head(&h).next(h.k).del_init(h.k);
    scheme_violation(&h, "pte not in exactly one vma of the anon_vma");
    // Without pages the list itself is checked: one is missing, or linked a second time.
    for (twice, found) in [
        (false, "vma not exactly once on its anon_vma's list"),
        (true, "broken links of an anon_vma's list"),
    ] {
        let (mut h, _) = shared_page::<AnonVmaMap>(ANON, 3);
        for pid in 1..=3 {
            switch(&mut h, pid);
            assert_eq!(h.syscall(call::MADVISE, [BASE, 4096, 4, 0, 0, 0]), 0);
        }
        check::all(h.k).unwrap();
        let (k, head) = (h.k, head(&h));
        let second = head.next(k).next(k);
        if twice {
            second.add_to(k, head);
        } else {
            second.del_init(k);
        }
        match check::all(k) {
            Err(Violation::SchemeVma { what, .. }) => assert_eq!(what, found),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn planted_broken_links_of_lists_are_found() {
    let (h, page) = shared_page::<DoubleChains>(ANON, 3);
    let first: Low<Link> = Low::new(page.rmap(h.k));
    first.next(h.k).set_prev(h.k, Low::NULL);
    scheme_violation(&h, "element's prev");
    let (h, page) = shared_page::<SingleChains>(ANON, 3);
    let first: Low<Element> = Low::new(page.rmap(h.k));
    first.set_pte(h.k, first.next(h.k).pte(h.k));
    scheme_violation(&h, "chain entries are not the ptes of the scan");
    let (h, page) = shared_page::<Hybrid>(ANON, 3);
    guest_vm::page::clear(h.k, page, guest_vm::layout::pg::ANON);
    assert!(check::all(h.k).is_err());
}
