//! The reverse map's rules of 2.6.5-aa, one by one and beside those of 2.6.7: whose vma ends a walk, what a young pte stops, who is visited, and
//! which locked operations that takes. Fact sheet, "Reverse-map checks in their exact order".
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check;
use guest_vm::kernel::Kernel;
use guest_vm::layout::{Page, pg};
use guest_vm::lru;
use guest_vm::page;
use guest_vm::page_alloc::pfn_to_page;
use guest_vm::pgtable::Pte;
use guest_vm::ptr::Low;
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::{ReverseMap, Unmap};
use guest_vm::swap;
use harness::{Access, Clustered, Direct, Harness, Listed, Up};
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::probe::Probe;

const BASE: u32 = 0x0840_0000;
const ANON: (u32, u32) = (0x22, NO_FILE);
const SHARED: (u32, u32) = (1, 7);

type Machine<U> = Harness<AnonVmaMap, U>;

/// `Listed` follows 2.6.5-aa, `Direct` 2.6.7; files have lists in both.
fn start<U: Access>(nonlinear: u32) -> Machine<U> {
    let mut h = Machine::<U>::with_info(BootInfo {
        file_vmas: 0,
        nonlinear,
        swap_slots: 2048 << U::SHIFT.unwrap_or(0),
        ..Machine::<U>::info(32)
    });
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    h
}

fn map<U: Access>(
    h: &mut Machine<U>,
    at: u32,
    (pages, pgoff): (u32, u32),
    (flags, file): (u32, u32),
) {
    let args = [at, pages << 12, 3, flags | 0x10, file, pgoff];
    assert_eq!(h.syscall(call::MMAP2, args), at);
}

fn lock<U: Access>(h: &mut Machine<U>, at: u32, pages: u32) {
    assert_eq!(h.syscall(call::MLOCK, [at, pages << 12, 0, 0, 0, 0]), 0);
}

fn fork<U: Access>(h: &mut Machine<U>, child: u32) {
    h.mailbox().child = child;
    assert_eq!(h.syscall(call::FORK, [0; 6]), child);
}

fn switch<U: Access>(h: &mut Machine<U>, pid: u32) {
    h.mailbox().next = pid;
    h.enter(VECTOR_RESCHED);
}

/// As reclaim does it, from page_referenced on.
fn unmap<U: Access>(h: &mut Machine<U>, pfn: u32) -> Outcome {
    lru::lru_add_drain(h.k);
    h.context().probes.borrow_mut().clear();
    reclaim::unmap_page(h.k, pfn_to_page(h.k, pfn))
}

fn try_to_unmap_of<K: Kernel>(k: K, page: Low<Page>) -> Unmap {
    assert!(page::trylock_page(k, page));
    page::map_lock(k, page);
    let result = K::Rmap::try_to_unmap(k, page);
    page::map_unlock(k, page);
    page::unlock_page(k, page);
    result
}

fn page_referenced_of<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    page::map_lock(k, page);
    let referenced = K::Rmap::page_referenced(k, page);
    page::map_unlock(k, page);
    referenced
}

/// try_to_unmap alone.
fn try_to_unmap<U: Access>(h: &Machine<U>, pfn: u32) -> Unmap {
    h.context().probes.borrow_mut().clear();
    try_to_unmap_of(h.k, pfn_to_page(h.k, pfn))
}

/// page_referenced alone.
fn page_referenced<U: Access>(h: &Machine<U>, pfn: u32) -> u32 {
    h.context().probes.borrow_mut().clear();
    page_referenced_of(h.k, pfn_to_page(h.k, pfn))
}

fn counts<U: Access, const N: usize>(h: &Machine<U>, probes: [Probe; N]) -> [u64; N] {
    probes.map(|p| h.probe_count(p))
}

/// Addresses that map the page, and whether their ptes are young.
fn mappers<U: Access>(h: &Machine<U>, pfn: u32) -> Vec<(u32, bool)> {
    let mut found = Vec::new();
    check::mappers(h.k, pfn_to_page(h.k, pfn), |m| {
        found.push((m.addr, Pte(m.pte).young()));
    });
    found.sort_unstable();
    found
}

fn check_all<U: Access>(h: &Machine<U>) {
    check::all(h.k).expect("invariants");
}

/// A file whose first page one vma maps; a vma before it in the list is locked and shows other pages.
fn locked_elsewhere<U: Access>() -> (Machine<U>, u32, Outcome) {
    let mut h = start::<U>(0);
    map(&mut h, BASE, (2, 64), SHARED);
    lock(&mut h, BASE, 2);
    map(&mut h, BASE + 0x10000, (1, 0), SHARED);
    let pfn = h.touch(BASE + 0x10000, false);
    let outcome = unmap(&mut h, pfn);
    check_all(&h);
    (h, pfn, outcome)
}

#[test]
fn a_locked_vma_of_a_file_fails_at_once_wherever_the_page_is() {
    let seen = [Probe::UnmapLocked, Probe::PteCleared, Probe::VmaVisited];
    fn aa<U: Access>(seen: [Probe; 3]) {
        let (mut h, pfn, outcome) = locked_elsewhere::<U>();
        assert_eq!(outcome, Outcome::Fail);
        // Both by page_referenced, for which a locked vma is like another; then the first.
        assert_eq!(counts(&h, seen), [1, 0, 3]);
        assert_eq!(unmap(&mut h, pfn), Outcome::Fail);
        assert_eq!(counts(&h, seen), [1, 0, 3]);
    }
    aa::<Listed>(seen);
    aa::<Up<Listed>>(seen);
    aa::<Clustered<Listed, 3>>(seen);
    // 2.6.7's page_referenced ends at the locked shared vma; try_to_unmap makes the pte old, and the next unmaps it.
    let (mut h, pfn, outcome) = locked_elsewhere::<Direct>();
    assert_eq!((outcome, counts(&h, seen)), (Outcome::Fail, [0, 0, 3]));
    assert_eq!(unmap(&mut h, pfn), Outcome::Success);
    assert_eq!(counts(&h, seen), [0, 1, 3]);
}

/// A page of the parent's own; the child, whose vmas come first, has locked another page of the same old vma.
fn locked_elsewhere_in_a_child<U: Access>() -> (Machine<U>, Outcome) {
    let mut h = start::<U>(0);
    map(&mut h, BASE, (64, 0), ANON);
    for i in 0..64 {
        h.write_user(BASE + (i << 12), i);
    }
    fork(&mut h, 2);
    switch(&mut h, 2);
    lock(&mut h, BASE, 8);
    h.write_user(BASE + (32 << 12), 99);
    switch(&mut h, 1);
    let pfn = h.touch(BASE + (32 << 12), true);
    let outcome = unmap(&mut h, pfn);
    check_all(&h);
    assert_eq!(h.read_user(BASE + (32 << 12)), 32);
    (h, outcome)
}

#[test]
fn a_locked_vma_of_an_anon_vma_fails_at_once_wherever_the_page_is() {
    let seen = [Probe::UnmapLocked, Probe::PteCleared];
    let (h, outcome) = locked_elsewhere_in_a_child::<Listed>();
    assert_eq!((outcome, counts(&h, seen)), (Outcome::Fail, [1, 0]));
    let (h, outcome) = locked_elsewhere_in_a_child::<Clustered<Listed, 3>>();
    assert_eq!((outcome, counts(&h, seen)), (Outcome::Fail, [1, 0]));
    let (h, outcome) = locked_elsewhere_in_a_child::<Direct>();
    assert_eq!((outcome, counts(&h, seen)), (Outcome::Success, [0, 1]));
}

/// Page 0 of a file at three places, in order of its list, all old; then those of `used` are used again.
fn three_places<U: Access>(used: &[u32]) -> (Machine<U>, u32) {
    let mut h = start::<U>(0);
    let mut pfn = 0;
    for i in 0..3 {
        map(&mut h, BASE + (i << 16), (1, 0), SHARED);
        pfn = h.touch(BASE + (i << 16), false);
    }
    lru::lru_add_drain(h.k);
    page_referenced(&h, pfn);
    for i in used {
        h.touch(BASE + (i << 16), false);
    }
    (h, pfn)
}

const OF_UNMAP: [Probe; 4] = [
    Probe::VmaVisited,
    Probe::PteExamined,
    Probe::PteCleared,
    Probe::UnmapYoung,
];

#[test]
fn a_young_pte_anywhere_stops_unmapping_but_not_the_walk() {
    fn aa<U: Access>() {
        let (a, b, c) = (BASE, BASE + 0x10000, BASE + 0x20000);
        // Gone before the young one was met; behind it, old ptes stay.
        let (h, pfn) = three_places::<U>(&[1]);
        assert_eq!(try_to_unmap(&h, pfn), Unmap::Again);
        assert_eq!(counts(&h, OF_UNMAP), [3, 3, 1, 1]);
        assert_eq!(mappers(&h, pfn), [(b, false), (c, false)]);
        check_all(&h);
        // All young: all are made old, and that is all.
        let (h, pfn) = three_places::<U>(&[0, 1, 2]);
        assert_eq!(try_to_unmap(&h, pfn), Unmap::Again);
        assert_eq!(counts(&h, OF_UNMAP), [3, 3, 0, 1]);
        assert_eq!(mappers(&h, pfn), [(a, false), (b, false), (c, false)]);
        assert_eq!(try_to_unmap(&h, pfn), Unmap::Success);
        assert_eq!(counts(&h, OF_UNMAP), [3, 3, 3, 0]);
        check_all(&h);
    }
    aa::<Listed>();
    aa::<Up<Listed>>();
    // 2.6.7 ends at the first.
    let (h, pfn) = three_places::<Direct>(&[1, 2]);
    assert_eq!(try_to_unmap(&h, pfn), Unmap::Fail);
    assert_eq!(counts(&h, OF_UNMAP), [2, 2, 1, 1]);
    assert_eq!(
        mappers(&h, pfn),
        [(BASE + 0x10000, false), (BASE + 0x20000, true)]
    );
}

/// Pages of 32 KB: two processes map one page by eight ptes each; one pte of the second walked is used again.
#[test]
fn a_window_is_unmapped_whole_or_made_old_whole() {
    let mut h = start::<Clustered<Listed, 3>>(0);
    map(&mut h, BASE, (8, 0), ANON);
    for i in 0..8 {
        h.write_user(BASE + (i << 12), 10 + i);
    }
    let pfn = h.touch(BASE, true);
    fork(&mut h, 2);
    lru::lru_add_drain(h.k);
    let page = pfn_to_page(h.k, pfn);
    assert!(page::trylock_page(h.k, page));
    assert!(swap::add_to_swap(h.k, page));
    page::unlock_page(h.k, page);
    page_referenced(&h, pfn);
    assert_eq!(mappers(&h, pfn).len(), 16);
    h.touch(BASE + (3 << 12), false);
    // The child is visited first and goes; the parent's window stays whole.
    assert_eq!(try_to_unmap(&h, pfn), Unmap::Again);
    let left = mappers(&h, pfn);
    assert_eq!(left.len(), 8);
    assert!(left.iter().all(|(_, young)| !young), "{left:?}");
    assert_eq!(h.probe_count(Probe::UnmapYoung), 1);
    assert_eq!(h.probe_count(Probe::PteCleared), 8);
    check_all(&h);
    assert_eq!(try_to_unmap(&h, pfn), Unmap::Success);
    for pid in [1, 2] {
        switch(&mut h, pid);
        for i in 0..8 {
            assert_eq!(h.read_user(BASE + (i << 12)), 10 + i);
        }
    }
    check_all(&h);
}

#[test]
fn page_referenced_walks_every_vma() {
    /// Visits for a page that only the first of 20 vmas of a file shows, and for one of the newest of 20 relatives.
    fn visits<U: Access>() -> [[u64; 2]; 2] {
        let seen = [Probe::VmaVisited, Probe::PteExamined];
        let mut h = start::<U>(0);
        for i in 0..20 {
            map(&mut h, BASE + (i << 16), (1, i), SHARED);
        }
        let pfn = h.touch(BASE, false);
        assert_eq!(page_referenced(&h, pfn), 2);
        let file = counts(&h, seen);
        let mut h = start::<U>(0);
        map(&mut h, BASE, (1, 0), ANON);
        h.touch(BASE, true);
        for child in 2..=20 {
            fork(&mut h, child);
        }
        switch(&mut h, 20);
        let pfn = h.touch(BASE, true);
        page_referenced(&h, pfn);
        [file, counts(&h, seen)]
    }
    assert_eq!(visits::<Listed>(), [[20, 1], [20, 20]]);
    assert_eq!(visits::<Direct>(), [[1, 1], [1, 1]]);
}

#[test]
fn page_referenced_says_nothing_of_an_unmapped_page() {
    fn unmapped<U: Access>() -> (u32, bool) {
        let mut h = start::<U>(0);
        map(&mut h, BASE, (1, 0), SHARED);
        let pfn = h.touch(BASE, false);
        assert_eq!(h.syscall(call::MUNMAP, [BASE, 0x1000, 0, 0, 0, 0]), 0);
        let page = pfn_to_page(h.k, pfn);
        page::set(h.k, page, pg::REFERENCED);
        (
            page_referenced(&h, pfn),
            page::test(h.k, page, pg::REFERENCED),
        )
    }
    assert_eq!(unmapped::<Listed>(), (0, true));
    assert_eq!(unmapped::<Direct>(), (1, false));
}

/// Locked operations of page_referenced on a page with three young mappings, then old.
fn locked_of_page_referenced<U: Access>() -> (u64, u64) {
    let (h, pfn) = three_places::<U>(&[0, 1, 2]);
    let locked = || {
        let before = h.counts().locked;
        page_referenced(&h, pfn);
        h.counts().locked - before
    };
    (locked(), locked())
}

#[test]
fn an_old_pte_costs_page_referenced_no_locked_operation() {
    // The page's bit lock 2, PG_referenced, the semaphore 2, a trylock for each vma; and the young bits.
    assert_eq!(locked_of_page_referenced::<Listed>(), (11, 8));
    assert_eq!(locked_of_page_referenced::<Up<Listed>>(), (0, 0));
    // A spin lock of i_mmap costs its trylock; its young bits are cleared without a look.
    let (young, old) = locked_of_page_referenced::<Direct>();
    assert_eq!(young, old);
}

#[test]
fn an_old_pte_costs_try_to_unmap_no_locked_operation_and_each_visit_a_lock() {
    /// try_to_unmap where all ptes are old, and where the last is young.
    fn locked<U: Access>(used: &[u32]) -> u64 {
        let (h, pfn) = three_places::<U>(used);
        let before = h.counts().locked;
        try_to_unmap(&h, pfn);
        h.counts().locked - before
    }
    // Page lock 2 and bit lock 2, semaphore 2; each pte: trylock, exchange, put_page.
    assert_eq!(locked::<Listed>(&[]), 6 + 3 * 3);
    // The last is young instead: trylock, young bit.
    assert_eq!(locked::<Listed>(&[2]), 6 + 3 * 2 + 2);
    // All young.
    assert_eq!(locked::<Listed>(&[0, 1, 2]), 6 + 2 * 3);
    // The young bit of each is cleared by a locked operation under 2.6.7.
    assert_eq!(
        locked::<Direct>(&[]) - locked::<Listed>(&[]) + semaphore_over_spin_lock(),
        3
    );
}

/// Locked operations of a semaphore taken and given back, beyond those of a spin lock.
fn semaphore_over_spin_lock() -> u64 {
    let locked = |(young, _): (u64, u64)| young;
    locked(locked_of_page_referenced::<Listed>()) - locked(locked_of_page_referenced::<Direct>())
}

#[test]
fn an_anonymous_page_outside_the_swap_cache_is_put_off() {
    let mut h = start::<Listed>(0);
    map(&mut h, BASE, (1, 0), ANON);
    let pfn = h.touch(BASE, true);
    page_referenced(&h, pfn);
    assert_eq!(try_to_unmap(&h, pfn), Unmap::Again);
    assert_eq!(counts(&h, OF_UNMAP), [0; 4]);
    check_all(&h);
}

#[test]
fn nobody_asks_who_pins_a_page_of_the_swap_cache() {
    fn pinned<U: Access>() -> (Outcome, u64) {
        let mut h = start::<U>(0);
        map(&mut h, BASE, (1, 0), ANON);
        let pfn = h.touch(BASE, true);
        lru::lru_add_drain(h.k);
        let page = pfn_to_page(h.k, pfn);
        page::get_page(h.k, page);
        let outcome = unmap(&mut h, pfn);
        page::put_page(h.k, page);
        check_all(&h);
        (outcome, h.probe_count(Probe::UnmapPinned))
    }
    assert_eq!(pinned::<Listed>(), (Outcome::Success, 0));
    assert_eq!(pinned::<Direct>(), (Outcome::Fail, 1));
}

/// A page of a file mapped linearly, and in a nonlinear vma at another place; all old.
fn mapped_nonlinear(whole: u32) -> (Machine<Listed>, u32) {
    let mut h = start::<Listed>(whole);
    map(&mut h, BASE, (1, 0), SHARED);
    map(&mut h, BASE + 0x20000, (32, 0), SHARED);
    let args = [BASE + 0x20000, 0x1000, 0, 16, 0, 0];
    assert_eq!(h.syscall(call::REMAP_FILE_PAGES, args), 0);
    let args = [BASE + 0x30000, 0x1000, 0, 0, 0, 0];
    assert_eq!(h.syscall(call::REMAP_FILE_PAGES, args), 0);
    let pfn = h.touch(BASE, false);
    lru::lru_add_drain(h.k);
    // The first sweep makes nonlinear ptes old.
    while h.probe_count(Probe::PteCleared) == 0 {
        unmap(&mut h, pfn);
    }
    for at in [BASE, BASE + 0x20000, BASE + 0x30000] {
        h.touch(at, false);
    }
    (h, pfn)
}

#[test]
fn nonlinear_vmas_are_not_swept_behind_a_young_pte() {
    for whole in [0, 1] {
        let (mut h, pfn) = mapped_nonlinear(whole);
        // The linear pte is young: the nonlinear vma's lock is tried, none of its ptes is looked at.
        assert_eq!(try_to_unmap(&h, pfn), Unmap::Again);
        assert_eq!(counts(&h, OF_UNMAP), [2, 1, 0, 1]);
        // It is old now and goes; so the rest is swept, whose young ptes are spared once.
        assert_eq!(try_to_unmap(&h, pfn), Unmap::Again);
        assert!(h.probe_count(Probe::PteExamined) > 1);
        assert_eq!(h.probe_count(Probe::PteCleared), 1);
        assert_eq!(try_to_unmap(&h, pfn), Unmap::Success);
        check_all(&h);
        // A locked one fails, behind a young pte too.
        h.touch(BASE, false);
        lock(&mut h, BASE + 0x20000, 32);
        h.touch(BASE, false);
        for cleared in [0, 1] {
            assert_eq!(try_to_unmap(&h, pfn), Unmap::Fail);
            assert_eq!(
                counts(&h, [Probe::UnmapLocked, Probe::PteCleared]),
                [1, cleared]
            );
        }
        check_all(&h);
    }
}

#[test]
fn a_missed_lock_counts_nothing_and_unmapping_goes_on() {
    let (h, pfn) = three_places::<Listed>(&[0, 1, 2]);
    // page_referenced tries the semaphore and three locks: every second one is missed.
    h.context().fail_trylock.set(2);
    let referenced = page_referenced(&h, pfn);
    h.context().fail_trylock.set(0);
    let missed = h.probe_count(Probe::UnmapAgain);
    assert_eq!(u64::from(referenced) + missed, 3);
    assert!(missed > 0);
    check_all(&h);
}
