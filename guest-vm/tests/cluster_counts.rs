//! Exact counts of page clustering: what 2^N frames a page divide by (faults, struct pages, chain entries, LRU entries), and what they do
//! not (ptes); sub-page copies; swap slots; what mremap of a part of a window costs each scheme.
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check;
use guest_vm::layout::page_struct_bytes;
use guest_vm::lru;
use guest_vm::page_alloc::{owner_of, pfn_to_page, zone};
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::pte_chain::{self, PteChains};
use guest_vm::rmap::pte_chain_dl::DoubleChains;
use guest_vm::swap;
use guest_vm::{mm, task};
use harness::{Clustered, Direct, Harness};
use lowmem_abi::boot::VECTOR_RESCHED;
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::owner::Owner;
use lowmem_abi::port::file_word;
use lowmem_abi::probe::Probe;

const BASE: u32 = 0x0840_0000;
const ELSEWHERE: u32 = 0x0a40_0000;
const PAGES: u32 = 64;
const PRIVATE: u32 = 2;
const ANON: u32 = 0x22;

type Machine<R, const N: u32> = Harness<R, Clustered<Direct, N>>;

fn start<R: Scheme, const N: u32>() -> Machine<R, N> {
    let mut h = Machine::<R, N>::new(48);
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    h
}

fn map<R: Scheme, const N: u32>(h: &mut Machine<R, N>, at: u32, flags: u32, file: u32) {
    let args = [at, PAGES << 12, 3, flags | 0x10, file, 0];
    assert_eq!(h.syscall(call::MMAP2, args), at);
}

fn fork<R: Scheme, const N: u32>(h: &mut Machine<R, N>) {
    h.mailbox().child = 2;
    assert_eq!(h.syscall(call::FORK, [0; 6]), 2);
}

fn switch<R: Scheme, const N: u32>(h: &mut Machine<R, N>, pid: u32) {
    h.mailbox().next = pid;
    h.enter(VECTOR_RESCHED);
}

fn write_all<R: Scheme, const N: u32>(h: &mut Machine<R, N>, at: u32) {
    for i in 0..PAGES {
        h.write_user(at + (i << 12), 0x1000 + i);
    }
}

/// Struct pages that belong to `owner`.
fn pages_of<R: Scheme, const N: u32>(h: &Machine<R, N>, owner: Owner) -> u32 {
    check::frames(h.k)
        .filter(|&pfn| owner_of(h.k, pfn_to_page(h.k, pfn)) == owner as u32)
        .count() as u32
}

fn frames_of<R: Scheme, const N: u32>(h: &Machine<R, N>) -> Vec<u32> {
    check::scan(h.k)
        .expect("scan")
        .pages
        .keys()
        .copied()
        .collect()
}

fn what_a_window_divides<const N: u32>() {
    let mut h = start::<PteChains, N>();
    map(&mut h, BASE, ANON, NO_FILE);
    let (user, faults) = (pages_of(&h, Owner::User), h.counts().faults);
    write_all(&mut h, BASE);
    assert_eq!(h.counts().faults - faults, u64::from(PAGES >> N));
    assert_eq!(pages_of(&h, Owner::User) - user, PAGES >> N);
    assert_eq!(mm::current_mm(h.k).rss(h.k), PAGES);
    fork(&mut h);
    check::all(h.k).expect("invariants");
    // Two groups of ptes for each page: the parent's and the child's.
    let mut entries = 0;
    for pfn in frames_of(&h) {
        pte_chain::each_entry(h.k, pfn_to_page(h.k, pfn), &mut |_| entries += 1);
    }
    assert_eq!(entries, 2 * (PAGES >> N));
    // A block of chain for each page, and none for a page of one mapping.
    assert_eq!(
        h.probe_count(Probe::ChainAllocated) as u32 & !7,
        (PAGES >> N) & !7
    );
    // The first write to a window copies it whole; the others find it writable.
    switch(&mut h, 2);
    let faults = h.counts().faults;
    write_all(&mut h, BASE);
    assert_eq!(h.counts().faults - faults, u64::from(PAGES >> N));
    assert_eq!(h.probe_count(Probe::CowCopied), u64::from(PAGES));
    check::all(h.k).expect("invariants");
    for i in 0..PAGES {
        assert_eq!(h.read_user(BASE + (i << 12)), 0x1000 + i);
    }
    // mem_map: a struct page for 2^N frames.
    let n = zone::node(h.k);
    assert_eq!(n.mmu_shift(h.k), N);
    let structs = (n.max_pfn(h.k) >> N) * page_struct_bytes(h.k);
    let mem_map = pages_of(&h, Owner::MemMap) << (12 + N);
    assert_eq!(mem_map, structs.next_multiple_of(4096 << N));
}

#[test]
fn faults_struct_pages_and_chain_entries_divide_by_the_frames_of_a_page() {
    what_a_window_divides::<0>();
    what_a_window_divides::<1>();
    what_a_window_divides::<2>();
    what_a_window_divides::<3>();
    what_a_window_divides::<4>();
}

#[test]
fn a_private_file_mapping_copies_the_sub_pages_that_are_written_into_one_page() {
    const FILE: u32 = 7;
    let mut h = start::<AnonVmaMap, 3>();
    map(&mut h, BASE, PRIVATE, FILE);
    let faults = h.counts().faults;
    assert_eq!(h.read_user(BASE), file_word(FILE, 0, 0));
    // The whole window shows the file after one fault.
    for i in 0..8 {
        assert_eq!(h.read_user(BASE + (i << 12)), file_word(FILE, i, 0));
    }
    assert_eq!(h.counts().faults - faults, 1);
    let user = pages_of(&h, Owner::User);
    for i in [1, 4, 6] {
        h.write_user(BASE + (i << 12), i);
        check::all(h.k).expect("invariants");
    }
    assert_eq!(pages_of(&h, Owner::User) - user, 1);
    assert_eq!(h.probe_count(Probe::CowCopied), 3);
    for i in 0..8 {
        let expected = if [1, 4, 6].contains(&i) {
            i
        } else {
            file_word(FILE, i, 0)
        };
        assert_eq!(h.read_user(BASE + (i << 12)), expected);
    }
}

fn a_slot_for_a_page<R: Scheme>() {
    let mut h = start::<R, 3>();
    map(&mut h, BASE, ANON, NO_FILE);
    write_all(&mut h, BASE);
    lru::lru_add_drain(h.k);
    let reads = |h: &Machine<R, 3>| h.probe_count(Probe::MajorFault);
    for pfn in frames_of(&h) {
        assert_eq!(
            reclaim::unmap_page(h.k, pfn_to_page(h.k, pfn)),
            Outcome::Success
        );
    }
    check::all(h.k).expect("invariants");
    assert_eq!(swap::usage(h.k).1, PAGES >> 3);
    assert_eq!(mm::current_mm(h.k).rss(h.k), 0);
    // One fault brings a window back (from the swap cache: nothing is read).
    let faults = h.counts().faults;
    for i in 0..PAGES {
        assert_eq!(h.read_user(BASE + (i << 12)), 0x1000 + i);
    }
    assert_eq!(h.counts().faults - faults, u64::from(PAGES >> 3));
    assert_eq!(reads(&h), 0);
    check::all(h.k).expect("invariants");
}

#[test]
fn swap_has_a_slot_for_a_page_and_a_fault_brings_a_window_back() {
    a_slot_for_a_page::<AnonVmaMap>();
    a_slot_for_a_page::<PteChains>();
    a_slot_for_a_page::<DoubleChains>();
    a_slot_for_a_page::<AnonmmMap>();
}

/// Early copies of `pages` moved from `from`, in 4 KB, to a place of another phase.
fn copies<R: Scheme>(from: u32, pages: u32) -> u64 {
    let mut h = start::<R, 3>();
    map(&mut h, BASE, ANON, NO_FILE);
    write_all(&mut h, BASE);
    let (at, to, len) = (BASE + (from << 12), ELSEWHERE + 0x3000, pages << 12);
    assert_eq!(h.syscall(call::MREMAP, [at, len, len, 3, to, 0]), to);
    check::all(h.k).expect("invariants");
    for i in 0..pages {
        assert_eq!(h.read_user(to + (i << 12)), 0x1000 + from + i);
    }
    // It is found at its new place.
    lru::lru_add_drain(h.k);
    for pfn in frames_of(&h) {
        assert_eq!(
            reclaim::unmap_page(h.k, pfn_to_page(h.k, pfn)),
            Outcome::Success
        );
    }
    check::all(h.k).expect("invariants");
    for i in 0..pages {
        assert_eq!(h.read_user(to + (i << 12)), 0x1000 + from + i);
    }
    h.probe_count(Probe::MoveCopied)
}

#[test]
fn mremap_of_whole_windows_copies_nothing_and_of_parts_one_page_at_each_end_with_anonmm() {
    assert_eq!(copies::<AnonVmaMap>(4, 16), 0);
    assert_eq!(copies::<PteChains>(4, 16), 0);
    assert_eq!(copies::<AnonmmMap>(8, 16), 0);
    assert_eq!(copies::<AnonmmMap>(4, 16), 2);
    assert_eq!(copies::<AnonmmMap>(2, 3), 1);
}

/// Moves `pages` by their own length, inside a window, once before and once after a fork.
fn short_moves<R: Scheme>(pages: u32) {
    for forked in [false, true] {
        let mut h = start::<R, 3>();
        map(&mut h, BASE, ANON, NO_FILE);
        write_all(&mut h, BASE);
        if forked {
            fork(&mut h);
        }
        let len = pages << 12;
        let to = BASE + len;
        assert_eq!(h.syscall(call::MREMAP, [BASE, len, len, 3, to, 0]), to);
        check::all(h.k).expect("invariants");
        for i in 0..pages {
            assert_eq!(h.read_user(to + (i << 12)), 0x1000 + i);
        }
        if forked {
            switch(&mut h, 2);
            for i in 0..PAGES {
                assert_eq!(h.read_user(BASE + (i << 12)), 0x1000 + i);
            }
        }
    }
}

#[test]
fn a_move_may_end_in_the_window_it_starts_from() {
    for pages in [1, 3, 4, 7, 12] {
        short_moves::<AnonmmMap>(pages);
        short_moves::<AnonVmaMap>(pages);
        short_moves::<PteChains>(pages);
        short_moves::<DoubleChains>(pages);
    }
}

#[test]
fn a_kernel_stack_is_an_object_where_a_page_is_larger() {
    let mut h = start::<AnonVmaMap, 4>();
    let before = pages_of(&h, Owner::Stack);
    fork(&mut h);
    // Seven stacks of 8 kB and their slab's own 24 bytes share 64 kB.
    assert_eq!(pages_of(&h, Owner::Stack), before);
    assert_eq!(task::tasks(h.k).nr_tasks(h.k), 2);
    assert_eq!(start::<AnonVmaMap, 1>().boot_stack_pages(), 1);
}

trait Stacks {
    fn boot_stack_pages(&self) -> u32;
}

impl<R: Scheme, const N: u32> Stacks for Machine<R, N> {
    fn boot_stack_pages(&self) -> u32 {
        pages_of(self, Owner::Stack)
    }
}
