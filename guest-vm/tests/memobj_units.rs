//! Exact counts: locked operations, visits and flushes per operation; the COW reuse rule; trees against plain models.
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check;
use guest_vm::layout::{Mapping, Vma};
use guest_vm::lru;
use guest_vm::page_alloc::{Gfp, pfn_to_page};
use guest_vm::prio_tree::{self, PrioRoot, Walk};
use guest_vm::ptr::Low;
use guest_vm::radix_tree::{self, TAGS};
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::slab::{CacheId, kmem_cache_alloc};
use guest_vm::swap;
use harness::Access;
use harness::Harness;
use harness::{Direct, Split};
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::probe::Probe;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const BASE: u32 = 0x0840_0000;
const ANON: (u32, u32) = (0x22, NO_FILE);
const FILE_SHARED: (u32, u32) = (1, 7);

fn start<R: Scheme, U: Access>() -> Harness<R, U> {
    start_with(32)
}

fn start_with<R: Scheme, U: Access>(ram_mb: u32) -> Harness<R, U> {
    let mut h = Harness::<R, U>::new(ram_mb);
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    h
}

fn map<R: Scheme, U: Access>(
    h: &mut Harness<R, U>,
    at: u32,
    pages: u32,
    (flags, file): (u32, u32),
) {
    let got = h.syscall(call::MMAP2, [at, pages << 12, 3, flags | 0x10, file, 0]);
    assert_eq!(got, at);
}

fn fork<R: Scheme, U: Access>(h: &mut Harness<R, U>, child: u32) {
    h.mailbox().child = child;
    assert_eq!(h.syscall(call::FORK, [0; 6]), child);
}

fn switch<R: Scheme, U: Access>(h: &mut Harness<R, U>, pid: u32) {
    h.mailbox().next = pid;
    h.enter(VECTOR_RESCHED);
}

fn exit_to<R: Scheme, U: Access>(h: &mut Harness<R, U>, pid: u32) {
    h.mailbox().next = pid;
    h.syscall(call::EXIT, [0; 6]);
}

/// Locked operations of `f`.
fn locked<R: Scheme, U: Access>(h: &mut Harness<R, U>, f: impl FnOnce(&mut Harness<R, U>)) -> u64 {
    let before = h.counts().locked;
    f(h);
    h.counts().locked - before
}

/// Locked operations per pte that fork copies: from the difference of two forks of ranges `pages` apart.
fn per_forked_pte<R: Scheme>(kind: (u32, u32), forks_before: u32) -> u64 {
    let cost = |pages: u32| {
        let mut h = start::<R, Direct>();
        map(&mut h, BASE, 64, kind);
        for i in 0..pages {
            h.touch(BASE + (i << 12), true);
        }
        for n in 0..forks_before {
            fork(&mut h, 10 + n);
        }
        let n = locked(&mut h, |h| fork(h, 2));
        check::all(h.k).unwrap();
        n
    };
    // Slab and page allocation take locks of their own now and then; 16 more pages of one page table need none
    // but the chain's.
    (cost(32) - cost(16)) / 16
}

#[test]
fn fork_takes_four_locked_operations_per_cow_pte_three_per_shared() {
    assert_eq!(per_forked_pte::<AnonVmaMap>(ANON, 0), 4);
    assert_eq!(per_forked_pte::<AnonVmaMap>(FILE_SHARED, 0), 3);
    // A second mapping turns the direct pointer into a chain: one bit cleared more. Later ones do not.
    assert_eq!(per_forked_pte::<PteChains>(ANON, 0), 5);
    assert_eq!(per_forked_pte::<PteChains>(ANON, 1), 4);
    assert_eq!(per_forked_pte::<PteChains>(FILE_SHARED, 1), 3);
}

#[test]
fn zap_takes_one_exchange_two_of_the_rmap_and_one_put() {
    fn run<R: Scheme>() -> u64 {
        let cost = |pages: u32| {
            let mut h = start::<R, Direct>();
            map(&mut h, BASE, 64, FILE_SHARED);
            for i in 0..64 {
                h.touch(BASE + (i << 12), false);
            }
            fork(&mut h, 2);
            fork(&mut h, 3);
            lru::lru_add_drain(h.k);
            // The child's ptes are old and clean: nothing but the four.
            switch(&mut h, 2);
            locked(&mut h, |h| {
                assert_eq!(h.syscall(call::MUNMAP, [BASE, pages << 12, 0, 0, 0, 0]), 0);
            })
        };
        let (few, many) = (cost(16), cost(48));
        assert_eq!((many - few) % 32, 0);
        (many - few) / 32
    }
    assert_eq!(run::<AnonVmaMap>(), 4);
    assert_eq!(run::<PteChains>(), 4);
}

#[test]
fn sixteen_anonymous_write_faults_take_about_twelve_each() {
    // Large enough for per-CPU page lists that refill 15 at a time.
    let mut h = start_with::<AnonVmaMap, Direct>(256);
    map(&mut h, BASE, 64, ANON);
    h.touch(BASE, true);
    lru::lru_add_drain(h.k);
    let n = locked(&mut h, |h| {
        for i in 1..=16 {
            h.touch(BASE + (i << 12), true);
        }
    });
    // Semaphore 2, page-table lock 2, vector's reference 1, PG_referenced 1, rmap 3; then for the batch one lru_lock
    // and three per page; refills of the per-CPU page list take the zone's lock.
    let exact = 16 * 9 + 1 + 16 * 3;
    assert!((exact..=exact + 3).contains(&n), "{n} locked operations");
}

fn probe_unmap<R: Scheme, U: Access>(h: &mut Harness<R, U>, pfn: u32) -> (Outcome, u64) {
    let page = pfn_to_page(h.k, pfn);
    lru::lru_add_drain(h.k);
    let mut outcome = Outcome::NotACandidate;
    let n = locked(h, |h| outcome = reclaim::unmap_page(h.k, page));
    (outcome, n)
}

/// One anonymous page shared by `n` processes: (locked operations, probes) of its unmap.
fn shared_unmap<R: Scheme>(n: u32) -> (u64, BTreeMap<Probe, u64>) {
    let mut h = start::<R, Direct>();
    map(&mut h, BASE, 1, ANON);
    let pfn = h.touch(BASE, true);
    for i in 1..n {
        fork(&mut h, i + 1);
    }
    // A first round takes the young bits, so that the measured one finds them clear.
    h.context().probes.borrow_mut().clear();
    let (outcome, locked) = probe_unmap(&mut h, pfn);
    assert_eq!(outcome, Outcome::Success);
    check::all(h.k).unwrap();
    let probes = h.context().probes.borrow().clone();
    (locked, probes)
}

#[test]
fn unmap_of_a_found_pte_costs_what_the_table_says() {
    // page_referenced: trylock 1, young 1; try_to_unmap: trylock 1, young 1, clear 1, put 1, and 2 for the swap slot.
    let (one, _) = shared_unmap::<AnonVmaMap>(10);
    let (two, probes) = shared_unmap::<AnonVmaMap>(20);
    // fork copied a dirty pte: set_page_dirty tests the flag, 1 more each.
    assert_eq!((two - one) / 10, 2 + 4 + 2 + 1);
    assert_eq!(probes[&Probe::PteCleared], 20);
    assert_eq!(probes[&Probe::PageUnmapped], 1);
    // Chains: page_referenced takes no page-table lock, try_to_unmap does not look at the young bit.
    let (one, _) = shared_unmap::<PteChains>(10);
    let (two, probes) = shared_unmap::<PteChains>(20);
    assert_eq!((two - one) / 10, 1 + 3 + 2 + 1);
    assert_eq!(probes[&Probe::PteCleared], 20);
    assert!(!probes.contains_key(&Probe::VmaOutOfRange));
}

#[test]
fn a_page_only_the_parent_has_costs_a_visit_of_every_child() {
    fn visits<R: Scheme>() -> (u64, u64) {
        let mut h = start::<R, Direct>();
        map(&mut h, BASE, 1, ANON);
        h.touch(BASE, true);
        for i in 0..8 {
            fork(&mut h, 2 + i);
        }
        let pfn = h.touch(BASE, true);
        h.context().probes.borrow_mut().clear();
        assert_eq!(probe_unmap(&mut h, pfn).0, Outcome::Success);
        (
            h.probe_count(Probe::VmaVisited),
            h.probe_count(Probe::PteExamined),
        )
    }
    // Newest child first, the parent last, in page_referenced and again in try_to_unmap.
    assert_eq!(visits::<AnonVmaMap>(), (18, 18));
    assert_eq!(visits::<PteChains>(), (1, 2));
}

#[test]
fn a_reference_of_the_lru_vector_forces_a_copy() {
    fn run(drain: bool) -> (u64, u64) {
        let mut h = start::<AnonVmaMap, Split>();
        map(&mut h, BASE, 1, ANON);
        h.write_user(BASE, 5);
        fork(&mut h, 2);
        switch(&mut h, 2);
        exit_to(&mut h, 1);
        if drain {
            lru::lru_add_drain(h.k);
        }
        h.write_user(BASE, 6);
        assert_eq!(h.read_user(BASE), 6);
        check::all(h.k).unwrap();
        (
            h.probe_count(Probe::CowCopied),
            h.probe_count(Probe::CowReused),
        )
    }
    assert_eq!(run(true), (0, 1));
    // Exit drains before it zaps, so the vector must hold the page again: a fresh page does.
    let mut h = start::<AnonVmaMap, Direct>();
    map(&mut h, BASE, 1, ANON);
    h.write_user(BASE, 5);
    fork(&mut h, 2);
    h.write_user(BASE, 6);
    // The child is the only one left with the old page, which is in the vector still.
    switch(&mut h, 2);
    h.write_user(BASE, 7);
    assert_eq!(h.probe_count(Probe::CowCopied), 2);
    assert_eq!(h.read_user(BASE), 7);
    switch(&mut h, 1);
    assert_eq!(h.read_user(BASE), 6);
    check::all(h.k).unwrap();
}

#[test]
fn swapped_pages_come_back_from_the_device_with_their_block() {
    fn run<R: Scheme>() {
        let mut h = start::<R, Direct>();
        map(&mut h, BASE, 8, ANON);
        let pfns: Vec<u32> = (0..8u32)
            .map(|i| {
                h.write_user(BASE + (i << 12), 100 + i);
                h.touch(BASE + (i << 12), true)
            })
            .collect();
        for pfn in &pfns {
            assert_eq!(probe_unmap(&mut h, *pfn).0, Outcome::Success);
            assert!(reclaim::pageout(h.k, pfn_to_page(h.k, *pfn)));
        }
        assert_eq!(swap::swapper_space(h.k).nrpages(h.k), 0);
        check::all(h.k).unwrap();
        assert_eq!(h.read_user(BASE), 100);
        assert_eq!(h.probe_count(Probe::MajorFault), 1);
        // Slots 1 to 7 are one aligned block; the eighth page is in the next.
        assert_eq!(swap::swapper_space(h.k).nrpages(h.k), 7);
        for i in 1..8u32 {
            let v = h.read_user(BASE + (i << 12));
            h.write_user(BASE + (i << 12), v + 1);
        }
        assert_eq!(h.probe_count(Probe::MajorFault), 2);
        for i in 1..8u32 {
            assert_eq!(h.read_user(BASE + (i << 12)), 101 + i);
        }
        check::all(h.k).unwrap();
    }
    run::<AnonVmaMap>();
    run::<PteChains>();
}

#[test]
fn a_lock_that_is_missed_is_tried_again_and_a_locked_vma_holds_out() {
    // `last`: which trylock is the second mapping's in try_to_unmap; the page lock is the first.
    fn run<R: Scheme>(last: u32) {
        let mut h = start::<R, Direct>();
        map(&mut h, BASE, 2, ANON);
        let pfn = h.touch(BASE, true);
        fork(&mut h, 2);
        h.context().fail_trylock.set(last);
        assert_eq!(probe_unmap(&mut h, pfn).0, Outcome::Again);
        h.context().fail_trylock.set(0);
        check::all(h.k).unwrap();
        let mut left = 0;
        check::mappers(h.k, pfn_to_page(h.k, pfn), |_| left += 1);
        assert_eq!(left, 1);
        assert_eq!(probe_unmap(&mut h, pfn).0, Outcome::Success);
        check::all(h.k).unwrap();
        let pfn = h.touch(BASE + 0x1000, true);
        assert_eq!(h.syscall(call::MLOCK, [BASE, 0x2000, 0, 0, 0, 0]), 0);
        assert_eq!(probe_unmap(&mut h, pfn).0, Outcome::Fail);
        assert_eq!(h.probe_count(Probe::UnmapLocked), 1);
        check::all(h.k).unwrap();
    }
    run::<AnonVmaMap>(5);
    run::<PteChains>(3);
}

#[test]
fn chains_of_every_line_size_hold_forty_mappings() {
    for line in [32, 64, 128] {
        let info = BootInfo {
            chain_line: line,
            ..Harness::<PteChains, Direct>::info(32)
        };
        let mut h = Harness::<PteChains, Direct>::with_info(info);
        h.boot();
        h.mailbox().result = NO_RESULT;
        h.mailbox().next = 1;
        map(&mut h, BASE, 2, FILE_SHARED);
        h.touch(BASE, false);
        for i in 2..=40 {
            fork(&mut h, i);
            check::all(h.k).unwrap();
        }
        // Leave in an order that makes holes in the middle.
        for i in (2..=40).rev().step_by(3) {
            switch(&mut h, i);
            exit_to(&mut h, 1);
            check::all(h.k).unwrap();
        }
        for i in 2..=40u32 {
            if (40 - i) % 3 != 0 {
                switch(&mut h, i);
                exit_to(&mut h, 1);
            }
        }
        check::all(h.k).unwrap();
        // A chain of one is collapsed by page_referenced only.
        let pfn = h.touch(BASE, false);
        assert_eq!(probe_unmap(&mut h, pfn).0, Outcome::Success);
        check::all(h.k).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prio_tree_finds_what_a_scan_finds(
        ops in prop::collection::vec((any::<bool>(), prop_oneof![0u32..40, 0u32..5000, 0u32..0xfff0_0000], 1u32..40, any::<prop::sample::Index>()), 1..200)
    ) {
        let h = start::<AnonVmaMap, Direct>();
        let k = h.k;
        let mapping: Low<Mapping> = kmem_cache_alloc(k, CacheId::Size128, Gfp::Kernel).unwrap();
        let root = PrioRoot(mapping.i_mmap(k));
        root.init(k);
        let mut model: Vec<(u32, u32, Low<Vma>)> = Vec::new();
        for (insert, from, pages, which) in ops {
            if insert || model.is_empty() {
                let vma: Low<Vma> = kmem_cache_alloc(k, CacheId::Vma, Gfp::Kernel).unwrap();
                vma.set_start(k, 0x1000_0000);
                vma.set_end(k, 0x1000_0000 + (pages << 12));
                vma.set_pgoff(k, from);
                match model.iter().find(|m| m.0 == from && m.1 == from + pages - 1) {
                    // fork's way for an equal range, half of the time.
                    Some(m) if pages % 2 == 0 => prio_tree::add(k, vma, m.2),
                    _ => prio_tree::insert(k, root, vma),
                }
                model.push((from, from + pages - 1, vma));
            } else {
                let (_, _, vma) = model.swap_remove(which.index(model.len()));
                prio_tree::remove(k, root, vma);
            }
            let all = check::prio_tree_order(k, root).unwrap();
            prop_assert_eq!(all.len(), model.len());
            for a in [from.saturating_sub(1), from, from + pages - 1, from + pages] {
                let mut found = BTreeSet::new();
                let mut walk = Walk::new(root, a, a);
                while let Some(v) = walk.next(k).get() {
                    prop_assert!(found.insert(v.va()), "found twice");
                }
                let expected: BTreeSet<u32> = model
                    .iter()
                    .filter(|m| m.0 <= a && a <= m.1)
                    .map(|m| m.2.va())
                    .collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn radix_tree_and_its_tags_follow_the_model(
        ops in prop::collection::vec((0u8..5, prop_oneof![0u32..70, 0u32..5000, any::<u32>()], 0usize..2, 1u32..1000), 1..250)
    ) {
        let h = start::<AnonVmaMap, Direct>();
        let k = h.k;
        let mapping: Low<Mapping> = kmem_cache_alloc(k, CacheId::Size128, Gfp::Kernel).unwrap();
        let tree = mapping.page_tree(k);
        radix_tree::init(k, tree);
        let mut model: BTreeMap<u32, (u32, [bool; 2])> = BTreeMap::new();
        for (op, index, tag, pfn) in ops {
            let page = pfn_to_page(k, pfn);
            match op {
                0 | 1 => {
                    radix_tree::preload(k, guest_vm::page_alloc::Gfp::Kernel).unwrap();
                    let free = radix_tree::insert(k, tree, index, page);
                    prop_assert_eq!(free, !model.contains_key(&index));
                    model.entry(index).or_insert((page.va(), [false; 2]));
                }
                2 => {
                    let gone = radix_tree::delete(k, tree, index);
                    prop_assert_eq!(gone.va(), model.remove(&index).map_or(0, |m| m.0));
                }
                3 => {
                    if let Some(m) = model.get_mut(&index) {
                        radix_tree::tag_set(k, tree, index, TAGS[tag]);
                        m.1[tag] = true;
                    }
                }
                _ => {
                    radix_tree::tag_clear(k, tree, index, TAGS[tag]);
                    if let Some(m) = model.get_mut(&index) {
                        m.1[tag] = false;
                    }
                }
            }
            prop_assert_eq!(radix_tree::lookup(k, tree, index).va(), model.get(&index).map_or(0, |m| m.0));
            for t in TAGS {
                let expected = model.range(index..).find(|m| m.1.1[t as usize]).map(|m| *m.0);
                prop_assert_eq!(radix_tree::next(k, tree, index, Some(t)).map(|n| n.0), expected);
                prop_assert_eq!(radix_tree::tagged(k, tree, t), model.values().any(|m| m.1[t as usize]));
                prop_assert_eq!(radix_tree::tag_get(k, tree, index, t), model.get(&index).is_some_and(|m| m.1[t as usize]));
            }
            let next = radix_tree::next(k, tree, index, None).map(|n| (n.0, n.1.va()));
            prop_assert_eq!(next, model.range(index..).next().map(|m| (*m.0, m.1.0)));
        }
        for index in model.keys() {
            radix_tree::delete(k, tree, *index);
        }
        prop_assert_eq!(tree.rnode(k), 0);
        prop_assert_eq!(tree.height(k), 0);
    }
}
