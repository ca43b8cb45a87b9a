//! Single cases of the address-space operations: each way of merging, the holes of 2.6.7, recorded results, births and deaths,
//! page-table switches, exact TLB operations, segments, remapped pages, limits.
mod harness;
mod space_model;
mod world;

use guest_vm::axes::MapKind;
use guest_vm::kernel::Kernel;
use guest_vm::layout::{Vma, vm};
use guest_vm::mm::vma::find_vma;
use guest_vm::mm::{self, shm};
use guest_vm::page_alloc::Gfp;
use guest_vm::pgtable::Pte;
use guest_vm::ptr::Low;
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anon_vma_chain::AnonVmaChain;
use guest_vm::rmap::anon_vma_rfc::AnonVmaRfc;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use guest_vm::slab::{self, CacheId, kmem_cache_alloc};
use guest_vm::task;
use harness::{Access, Direct, Split};
use lowmem_abi::boot::{VECTOR_RESCHED, VECTOR_TICK};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::port::file_word;
use lowmem_abi::probe::Probe;
use space_model::PAGE;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::*;

const EINVAL: u32 = 22u32.wrapping_neg();
const ENOMEM: u32 = 12u32.wrapping_neg();
const PRIVATE_ANON: u32 = MAP_PRIVATE | MAP_ANON;

impl<S: Scheme, A: Access> World<S, A> {
    /// A fresh program.
    fn started() -> Self {
        let mut w = Self::new();
        w.exec();
        w
    }
    /// Maps `len` pages at page `at` of the region.
    fn map(&mut self, at: u32, len: u32, prot: u32) {
        let flags = PRIVATE_ANON | MAP_FIXED;
        let got = self.call(call::MMAP2, &[va(at), len * PAGE, prot, flags, NO_FILE, 0]);
        assert_eq!(got, va(at));
    }
    fn protect(&mut self, at: u32, len: u32, prot: u32) {
        assert_eq!(self.call(call::MPROTECT, &[va(at), len * PAGE, prot]), 0);
    }
    fn unmap(&mut self, at: u32, len: u32) {
        assert_eq!(self.call(call::MUNMAP, &[va(at), len * PAGE]), 0);
    }
    /// The vma that covers a page.
    fn vma(&self, page: u32) -> Low<Vma> {
        let v = find_vma(self.h.k, self.mm(), va(page));
        assert!(
            !v.is_null() && v.start(self.h.k) <= va(page),
            "page {page} is not mapped"
        );
        v
    }
    /// Bounds of the vmas in the region, in pages.
    fn layout(&self) -> Vec<(u32, u32)> {
        check_mm(self.h.k, self.mm())
            .iter()
            .filter(|a| a.start >= BASE && a.start < va(4096))
            .map(|a| ((a.start - BASE) / PAGE, (a.end - BASE) / PAGE))
            .collect()
    }
    fn clean(&self) {
        guest_vm::check::all(self.h.k).expect("invariants");
    }
    fn merges(&self) -> u64 {
        self.h.probe_count(Probe::VmaMerged)
    }
}

fn message(r: Result<(), Box<dyn std::any::Any + Send>>) -> String {
    match r {
        Ok(()) => String::new(),
        Err(e) => e.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

fn each_merge_case<S: Scheme, A: Access>() {
    let n = |w: &World<S, A>| slab::usage(w.h.k, CacheId::Vma).1;
    // Case 1: fills the hole.
    let mut w = World::<S, A>::started();
    let before = n(&w);
    w.map(0, 2, R | W);
    w.map(4, 2, R | W);
    let prev = w.vma(0);
    w.map(2, 2, R | W);
    assert_eq!((w.layout(), w.vma(5)), (vec![(0, 6)], prev));
    assert_eq!((n(&w) - before, w.merges()), (1, 1));
    w.clean();
    // Case 2: fits prev only.
    w.unmap(0, 6);
    w.map(0, 2, R | W);
    w.map(4, 2, R);
    let prev = w.vma(0);
    w.map(2, 2, R | W);
    assert_eq!((w.layout(), w.vma(3)), (vec![(0, 4), (4, 6)], prev));
    // Case 3: fits next only.
    w.unmap(0, 6);
    w.map(0, 2, R);
    w.map(4, 2, R | W);
    let next = w.vma(4);
    w.map(2, 2, R | W);
    assert_eq!((w.layout(), w.vma(2)), (vec![(0, 2), (2, 6)], next));
    assert_eq!(next.pgoff(w.h.k), va(2) / PAGE);
    // Case 4: the tail of prev joins next. Both accounted, so that flags can be equal.
    w.unmap(0, 6);
    w.map(0, 8, R | W);
    w.protect(4, 4, R);
    assert_eq!(w.layout(), vec![(0, 4), (4, 8)]);
    let (prev, next) = (w.vma(0), w.vma(4));
    w.protect(2, 2, R);
    assert_eq!(
        (w.layout(), w.vma(0), w.vma(2)),
        (vec![(0, 2), (2, 8)], prev, next)
    );
    assert_eq!(next.pgoff(w.h.k), va(2) / PAGE);
    // Case 5: the head of next joins prev.
    w.protect(2, 3, R | W);
    assert_eq!(
        (w.layout(), w.vma(4), w.vma(5)),
        (vec![(0, 5), (5, 8)], prev, next)
    );
    assert_eq!(next.pgoff(w.h.k), va(5) / PAGE);
    w.clean();
    // Case 6: a whole vma joins both.
    w.protect(6, 2, R | W);
    assert_eq!(w.layout(), vec![(0, 5), (5, 6), (6, 8)]);
    let (merges, vmas) = (w.merges(), n(&w));
    w.protect(5, 1, R | W);
    assert_eq!((w.layout(), w.vma(7)), (vec![(0, 8)], prev));
    assert_eq!((n(&w), w.merges()), (vmas - 2, merges + 1));
    w.clean();
    // Case 7: a whole vma joins prev.
    w.protect(4, 2, R);
    w.protect(6, 2, R | X);
    let prev = w.vma(0);
    w.protect(4, 2, R | W);
    assert_eq!((w.layout(), w.vma(5)), (vec![(0, 6), (6, 8)], prev));
    // Case 8: a whole vma joins next.
    w.protect(4, 2, R);
    let area = w.vma(4);
    w.protect(4, 2, R | X);
    assert_eq!((w.layout(), w.vma(7)), (vec![(0, 4), (4, 8)], area));
    assert_eq!(area.flags(w.h.k) & X, X);
    w.clean();
}

#[test]
fn each_merge_case_keeps_the_vma_that_history_kept() {
    each_merge_case::<PteChains, Direct>();
    each_merge_case::<AnonVmaMap, Direct>();
    each_merge_case::<AnonVmaMap, Split>();
}

#[test]
fn different_anon_vmas_do_not_merge_and_offsets_must_be_continuous() {
    let mut w = World::<AnonVmaMap, Direct>::started();
    // Two vmas with pages of their own: faulted apart, so that neither finds the other.
    w.map(0, 2, R | W);
    w.map(4, 2, R | W);
    w.h.touch(va(0), true);
    w.h.touch(va(4), true);
    w.map(2, 2, R | W);
    assert_eq!(w.layout(), vec![(0, 4), (4, 6)], "prev grows, next stays");
    w.clean();
    // The same without pages merges; and with chains always.
    let mut w = World::<PteChains, Direct>::started();
    w.map(0, 2, R | W);
    w.map(4, 2, R | W);
    w.h.touch(va(0), true);
    w.h.touch(va(4), true);
    w.map(2, 2, R | W);
    assert_eq!(w.layout(), vec![(0, 6)]);
    w.clean();
    // File pages: the offset decides.
    let file = |w: &mut World<PteChains, Direct>, at: u32, pgoff: u32| {
        w.call(
            call::MMAP2,
            &[va(at), 2 * PAGE, R, MAP_PRIVATE | MAP_FIXED, 1, pgoff],
        )
    };
    let mut w = World::<PteChains, Direct>::started();
    file(&mut w, 0, 10);
    file(&mut w, 2, 12);
    file(&mut w, 4, 20);
    assert_eq!(w.layout(), vec![(0, 4), (4, 6)]);
    w.clean();
}

/// The hole of 2.6.7 closed on 2004-06-20: the vma that grows in cases 4 and 5 must be given the other's anon_vma, or the
/// pages that change hands cannot be found.
#[test]
fn a_shifted_boundary_carries_the_anon_vma() {
    for case in [4, 5] {
        let mut w = World::<AnonVmaMap, Direct>::started();
        let k = w.h.k;
        w.map(0, 8, R | W);
        // `receiver` has no page, `giver` has one where the boundary will move over it.
        let (receiver, giver, page, moved) = if case == 4 {
            (4, 0, 3, 2)
        } else {
            (0, 4, 4, 4)
        };
        w.protect(receiver, 4, R);
        w.h.touch(va(page), true);
        assert_eq!(anon_of(k, w.vma(receiver)), None);
        let anon = anon_of(k, w.vma(giver));
        assert!(anon.is_some());
        w.protect(moved, 2, R);
        let want = if case == 4 {
            vec![(0, 2), (2, 8)]
        } else {
            vec![(0, 6), (6, 8)]
        };
        assert_eq!(w.layout(), want);
        assert_eq!(anon_of(k, w.vma(page)), anon, "case {case}");
        w.clean();
    }
}

/// A hole of all kernels with anon_vma up to recent times: pages moved back beside an unfaulted vma with which the moved area merges.
#[test]
fn a_move_into_an_unfaulted_neighbour_carries_the_anon_vma() {
    let mut w = World::<AnonVmaMap, Direct>::started();
    let k = w.h.k;
    w.map(0, 4, R | W);
    w.map(4, 1, R);
    w.unmap(4, 1);
    w.map(4, 4, R | W);
    // Apart: 4..8 is written and moves away, 0..4 stays untouched.
    w.protect(0, 4, R);
    w.h.touch(va(4), true);
    w.h.write_user(va(4) + 8, 77);
    let old = anon_of(k, w.vma(4));
    let go = [va(4), 4 * PAGE, 4 * PAGE, 3, va(20)];
    assert_eq!(w.call(call::MREMAP, &go), va(20));
    assert_eq!(w.vma(20).pgoff(k), va(4) / PAGE);
    w.protect(0, 4, R | W);
    assert_eq!(anon_of(k, w.vma(0)), None);
    let back = [va(20), 4 * PAGE, 4 * PAGE, 3, va(4)];
    assert_eq!(w.call(call::MREMAP, &back), va(4));
    assert_eq!(
        w.layout(),
        vec![(0, 8)],
        "the moved area joins its old neighbour"
    );
    assert_eq!(anon_of(k, w.vma(0)), old);
    assert_eq!(w.h.read_user(va(4) + 8), 77);
    w.clean();
}

#[test]
fn recorded_addresses_are_taken_and_occupied_ones_end_the_run() {
    let mut w = World::<AnonVmaMap, Direct>::started();
    w.h.mailbox().result = va(100);
    let args = [0, 2 * PAGE, R | W, PRIVATE_ANON, NO_FILE, 0];
    assert_eq!(w.call(call::MMAP2, &args), va(100));
    // Its own search went on from where it was, and has not used that place.
    let cache = w.mm().free_area_cache(w.h.k);
    assert_eq!(cache, mm::unmapped_base(w.h.k) + 2 * PAGE);
    // A recorded move instead of the growth in place that would be possible.
    w.h.mailbox().result = va(200);
    assert_eq!(
        w.call(call::MREMAP, &[va(100), 2 * PAGE, 4 * PAGE, 1, 0]),
        va(200)
    );
    assert_eq!(w.layout(), vec![(200, 204)]);
    // A recorded growth in place.
    w.h.mailbox().result = va(200);
    assert_eq!(
        w.call(call::MREMAP, &[va(200), 4 * PAGE, 6 * PAGE, 1, 0]),
        va(200)
    );
    w.clean();
    w.h.mailbox().result = va(203);
    let r = catch_unwind(AssertUnwindSafe(|| {
        w.call(call::MMAP2, &args);
    }));
    assert!(message(r).starts_with("BadResult"));
}

#[test]
fn a_call_that_succeeded_in_the_recording_must_not_fail() {
    let mut w = World::<AnonVmaMap, Direct>::started();
    assert_eq!(w.call(call::MPROTECT, &[va(0), PAGE, R]), ENOMEM);
    w.h.mailbox().result = 0;
    let r = catch_unwind(AssertUnwindSafe(|| {
        w.call(call::MPROTECT, &[va(0), PAGE, R]);
    }));
    assert!(message(r).starts_with("CallFailed: place 125, detail 0xc"));
}

#[test]
fn an_mm_holds_65536_vmas() {
    let mut w = World::<PteChains, Direct>::started();
    let k = w.h.k;
    // Alternating access: nothing merges. The program has one vma already, its stack.
    let mut at = 0;
    while w.mm().map_count(k) < 65536 {
        w.map(at, 1, if at % 2 == 0 { R } else { R | X });
        at += 1;
    }
    // mmap allows one more than the limit, a split none.
    w.map(at, 2, if at % 2 == 0 { R } else { R | X });
    assert_eq!(w.mm().map_count(k), 65537);
    let flags = PRIVATE_ANON | MAP_FIXED;
    let more = [va(at + 10), PAGE, R, flags, NO_FILE, 0];
    assert_eq!(w.call(call::MMAP2, &more), ENOMEM);
    assert_eq!(w.call(call::MPROTECT, &[va(at), PAGE, R | W]), ENOMEM);
}

/// Exact TLB operations and CR3 loads, in the SMP build on one CPU.
fn flushes<A: Access>() {
    let mut w = World::<AnonVmaMap, A>::started();
    let split = guest_vm::pgtable::task_size(w.h.k) == 0xff00_0000;
    let count = |w: &mut World<AnonVmaMap, A>, f: &mut dyn FnMut(&mut World<AnonVmaMap, A>)| {
        let a = w.h.counts();
        f(w);
        let b = w.h.counts();
        (
            b.flush_page - a.flush_page,
            b.flush_local - a.flush_local,
            b.cr3_loads - a.cr3_loads,
        )
    };
    w.map(0, 8, R | W);
    for i in 0..8 {
        w.h.touch(va(i), true);
    }
    let pages = |n: u64| if split { 0 } else { n };
    assert_eq!(
        count(&mut w, &mut |w| w.protect(0, 8, R)),
        (0, 1, 0),
        "mprotect"
    );
    assert_eq!(count(&mut w, &mut |w| w.unmap(6, 2)), (0, 1, 0), "munmap");
    let moves = |w: &mut World<AnonVmaMap, A>| {
        w.call(call::MREMAP, &[va(0), 6 * PAGE, 6 * PAGE, 3, va(20)]);
    };
    // One page flush per moved page; the munmap of the empty old range unmaps nothing.
    assert_eq!(count(&mut w, &mut { moves }), (pages(6), 0, 0), "mremap");
    assert_eq!(
        count(&mut w, &mut |w| {
            w.fork(call::FORK);
        }),
        (0, 1, 0),
        "fork"
    );
    // exit of the child: its tables are given up while borrowed (leave_mm), then the parent's are loaded.
    let stack_slots = |n: u64| if split { n } else { 0 };
    let switched = count(&mut w, &mut |w| w.switch_to(2));
    assert_eq!(switched, (stack_slots(2), 0, u64::from(!split)), "switch");
    let exited = count(&mut w, &mut |w| w.exit(1));
    assert_eq!(
        exited,
        (stack_slots(2), 0, 1 + u64::from(!split)),
        "exit and switch"
    );
    // To idle and back: the address space stays loaded.
    let idled = count(&mut w, &mut |w| {
        w.h.mailbox().via_idle = 1;
        w.h.enter(VECTOR_RESCHED);
    });
    assert_eq!(idled, (0, 0, 0), "idle");
    assert_eq!(w.h.probe_count(Probe::Idle), 1);
    w.clean();
}

#[test]
fn flushes_and_loads_are_those_of_the_table() {
    flushes::<Direct>();
    flushes::<Split>();
}

fn births_and_deaths<S: Scheme, A: Access>() {
    let mut w = World::<S, A>::started();
    let k = w.h.k;
    let before = in_use(k);
    w.map(0, 4, R | W);
    w.h.write_user(va(0), 1);
    // vfork: the child runs in the parent's mm until it execs.
    let child = w.fork(call::VFORK);
    let parent_mm = w.mm();
    assert_eq!(parent_mm.users(k), 2);
    w.switch_to(child);
    assert_eq!(w.mm(), parent_mm);
    assert_eq!(w.h.frame().eax(k), 0, "the child's result");
    w.h.write_user(va(0), 2);
    w.exec();
    assert_ne!(w.mm(), parent_mm);
    assert_eq!((parent_mm.users(k), parent_mm.count(k)), (1, 1));
    assert_eq!(w.h.frame().eip(k), 0x0804_8000);
    assert_eq!(w.h.frame().esp(k), STACK);
    w.exit(1);
    assert_eq!(
        w.h.read_user(va(0)),
        2,
        "the child's write in the shared mm"
    );
    // A thread: same mm, own stack pointer, shared objects; a switch between both loads nothing.
    let flags = call::CLONE_VM | 0x200 | 0x400 | 0x800 | 0x1_0000;
    w.h.mailbox().child = 9;
    assert_eq!(w.call(call::CLONE, &[flags, va(3)]), 9);
    let thread = task::find(k, 9);
    assert_eq!(thread.files(k), task::current(k).files(k));
    let loads = w.h.counts().cr3_loads;
    w.h.mailbox().next = 9;
    w.h.enter(VECTOR_RESCHED);
    assert_eq!((w.h.frame().esp(k), w.h.frame().eax(k)), (va(3), 0));
    assert_eq!(w.h.counts().cr3_loads, loads);
    w.h.mailbox().next = 1;
    w.call(call::EXIT, &[]);
    assert_eq!(
        w.h.counts().cr3_loads,
        loads,
        "exit of a thread keeps the tables"
    );
    w.current = 1;
    // exit: the address space is loaded until the next one is, and gone then.
    let child = w.fork(call::FORK);
    w.switch_to(child);
    let dying = w.mm().pgd(k);
    w.exit(1);
    if !w.h.k.axes().two_tables() {
        let loaded = k_cr3(&w);
        assert_eq!(loaded, w.mm().pgd(k).va() - page_offset(&w));
        assert_ne!(loaded, dying.va() - page_offset(&w));
    } else {
        let ti = task::current(k).thread_info(k);
        assert_eq!(ti.user_pgd(k), w.mm().pgd(k).va() - page_offset(&w));
    }
    w.unmap(0, 4);
    w.h.enter(VECTOR_RESCHED);
    let after = in_use(k);
    for what in [
        "mm_struct",
        "task_struct",
        "pgd",
        "pmd",
        "sighand_cache",
        "stacks",
        "user pages",
    ] {
        assert_eq!(before.get(what), after.get(what), "{what}");
    }
    w.clean();
}

fn page_offset<S: Scheme, A: Access>(w: &World<S, A>) -> u32 {
    guest_vm::kernel::Kernel::page_offset(w.h.k)
}

fn k_cr3<S: Scheme, A: Access>(w: &World<S, A>) -> u32 {
    guest_vm::kernel::Kernel::read_cr3(w.h.k)
}

#[test]
fn processes_and_threads_are_born_and_die_without_trace() {
    births_and_deaths::<PteChains, Direct>();
    births_and_deaths::<PteChains, Split>();
    births_and_deaths::<AnonVmaMap, Direct>();
    births_and_deaths::<AnonVmaMap, Split>();
}

#[test]
fn segments_live_until_their_last_attachment_goes() {
    let mut w = World::<AnonVmaMap, Direct>::started();
    let k = w.h.k;
    w.h.mailbox().shm_segment = 5;
    w.h.mailbox().shm_pages = 4;
    assert_eq!(w.call(call::IPC, &[call::IPC_SHMGET, 0, 4 * PAGE]), 5);
    let at = w.call(call::IPC, &[call::IPC_SHMAT, 5, 0, 0, va(0)]);
    assert_eq!(at, va(0));
    let second = w.call(call::IPC, &[call::IPC_SHMAT, 5, 0, 0, va(4)]);
    assert_eq!(second, va(4));
    assert_eq!(w.layout(), vec![(0, 4), (4, 8)], "attachments never merge");
    w.h.write_user(va(1), 42);
    assert_eq!(w.h.read_user(va(5)), 42);
    let segment: Low<shm::Shm> = Low::new(task::tasks(k).shm(k, 5));
    assert_eq!(segment.nattch(k), 2);
    assert_eq!(
        w.call(call::IPC, &[call::IPC_SHMAT, 5, 0, 0, va(2)]),
        EINVAL,
        "occupied"
    );
    // A split counts twice, a fork as often as there are vmas.
    w.unmap(1, 1);
    assert_eq!(segment.nattch(k), 3);
    w.models.clear();
    w.h.mailbox().child = 2;
    w.call(call::FORK, &[]);
    assert_eq!(segment.nattch(k), 6);
    assert_eq!(w.call(call::IPC, &[call::IPC_SHMCTL, 5, 0]), 0);
    w.h.mailbox().next = 2;
    w.call(call::EXIT, &[]);
    assert_eq!(segment.nattch(k), 3);
    assert_eq!(w.call(call::IPC, &[call::IPC_SHMDT, 0, 0, 0, va(0)]), 0);
    assert_eq!(
        (segment.nattch(k), w.layout()),
        (1, vec![(4, 8)]),
        "both parts of one attachment"
    );
    w.clean();
    assert_eq!(w.h.read_user(va(5)), 42);
    assert_eq!(w.call(call::IPC, &[call::IPC_SHMDT, 0, 0, 0, va(4)]), 0);
    assert_eq!(
        (task::tasks(k).shm(k, 5), task::tasks(k).shm_in_use(k)),
        (0, 0)
    );
    let left = in_use(k);
    assert_eq!((left["size-128"], left["inode_cache"]), (0, 0));
    assert_eq!(left.get("page cache"), None);
}

fn remapped_pages<S: Scheme>() {
    let mut w = World::<S, Direct>::started();
    let k = w.h.k;
    let shared = MAP_SHARED | MAP_FIXED;
    assert_eq!(
        w.call(call::MMAP2, &[va(0), 8 * PAGE, R | W, shared, 3, 0]),
        va(0)
    );
    w.h.write_user(va(2) + 12, 99);
    assert_eq!(
        w.call(call::REMAP_FILE_PAGES, &[va(4), 2 * PAGE, 0, 1, 0]),
        0
    );
    assert_eq!(w.vma(0).flags(k) & vm::NONLINEAR, vm::NONLINEAR);
    assert_eq!(w.h.read_user(va(4)), file_word(3, 1, 0));
    assert_eq!(w.h.read_user(va(5) + 1024), file_word(3, 2, 1));
    assert_eq!(
        w.h.read_user(va(5) + 12),
        99,
        "the page written through its old place"
    );
    assert_eq!(w.h.read_user(va(6)), file_word(3, 6, 0));
    w.clean();
    // Refused: private, several vmas, a protection.
    assert_eq!(
        w.call(call::REMAP_FILE_PAGES, &[va(4), 2 * PAGE, 1, 1, 0]),
        EINVAL
    );
    assert_eq!(
        w.call(call::REMAP_FILE_PAGES, &[va(4), 20 * PAGE, 0, 1, 0]),
        EINVAL
    );
    w.map(20, 2, R | W);
    assert_eq!(
        w.call(call::REMAP_FILE_PAGES, &[va(20), PAGE, 0, 1, 0]),
        EINVAL
    );
    // Split, forked and unmapped, a nonlinear vma stays what it is.
    w.protect(2, 2, R);
    w.h.mailbox().child = 2;
    w.call(call::FORK, &[]);
    w.clean();
    w.unmap(0, 8);
    w.clean();
}

#[test]
fn remap_file_pages_shows_other_pages_of_the_file() {
    remapped_pages::<PteChains>();
    remapped_pages::<AnonVmaMap>();
}

#[test]
fn a_stack_grows_with_its_offset() {
    let mut w = World::<AnonVmaMap, Direct>::started();
    let k = w.h.k;
    let stack = find_vma(k, w.mm(), STACK - PAGE);
    let (start, pgoff, total) = (stack.start(k), stack.pgoff(k), w.mm().total_vm(k));
    let committed = task::tasks(k).committed(k);
    w.h.frame().set_esp(k, start - 5 * PAGE);
    w.h.write_user(start - 5 * PAGE + 16, 5);
    assert_eq!(stack.start(k), start - 5 * PAGE);
    assert_eq!(stack.pgoff(k), pgoff - 5);
    assert_eq!(w.mm().total_vm(k), total + 5);
    assert_eq!(task::tasks(k).committed(k), committed + 5);
    w.clean();
}

#[test]
fn a_tick_changes_time_words_only() {
    let mut w = World::<AnonVmaMap, Direct>::started();
    let k = w.h.k;
    let task = task::current(k);
    let root = task::tasks(k).va();
    let words = |w: &World<AnonVmaMap, Direct>| -> Vec<u32> {
        let first = page_offset(w);
        let free = |a: u32| {
            !(a >= root + task::TIME_WORDS.start && a < root + task::TIME_WORDS.end)
                && a != task.va() + 68
                && a != task.va() + 72
        };
        (0..8 << 18)
            .map(|i| first + i * 4)
            .filter(|&a| free(a))
            .map(|a| Low::<u32>::new(a).read(w.h.k))
            .collect()
    };
    let before = words(&w);
    for _ in 0..3 {
        w.h.enter(VECTOR_TICK);
    }
    assert_eq!(task.utime(k), 3);
    assert_eq!(task::tasks(k).jiffies(k), 3);
    assert!(before == words(&w), "a tick wrote something else");
}

fn copies<A: Access>() {
    let mut w = World::<AnonVmaMap, A>::started();
    w.map(0, 4, R | W);
    let m = w.h.mailbox();
    m.operation = 0x1234;
    m.copy_out_addr = va(0) + 4000;
    m.copy_out_bytes = 5000;
    m.copy_in_addr = va(2) + 100;
    m.copy_in_bytes = 300;
    assert_eq!(w.call(call::READ, &[]), 0);
    let m = w.h.mailbox();
    m.copy_in_bytes = 0;
    m.copy_out_bytes = 0;
    assert_eq!(w.h.read_user(va(0) + 4000), 0x1235);
    assert_eq!(
        w.h.read_user(va(1) + 4000),
        0x1235,
        "the second page of the copy"
    );
    assert_eq!(w.h.probe_count(Probe::Copy), 2);
    w.clean();
    // Above the stack: below it, the kernel's own access would let the stack grow, as it did.
    let m = w.h.mailbox();
    m.copy_out_addr = STACK + PAGE;
    m.copy_out_bytes = 4;
    assert_eq!(w.call(call::READ, &[]), 14u32.wrapping_neg());
}

#[test]
fn null_calls_copy_what_the_mailbox_names() {
    copies::<Direct>();
    copies::<Split>();
}

#[test]
fn results_are_not_expected_unless_recorded() {
    let mut w = World::<AnonVmaMap, Direct>::started();
    assert_eq!(w.h.mailbox().result, NO_RESULT);
    assert_eq!(w.call(call::MUNMAP, &[va(0) + 1, PAGE]), EINVAL);
    assert_eq!(w.call(call::BRK, &[BRK - 1]), BRK);
    // Advice: a hole makes it fail after the rest was advised; unknown advice does nothing.
    w.map(0, 2, R | W);
    w.map(4, 2, R | W);
    assert_eq!(w.call(call::MADVISE, &[va(0), 6 * PAGE, 2]), ENOMEM);
    assert_eq!(w.vma(4).flags(w.h.k) & 0x8000, 0x8000);
    assert_eq!(w.call(call::MADVISE, &[va(0), 2 * PAGE, 14]), 0);
    // DONTFORK is honoured.
    assert_eq!(w.call(call::MADVISE, &[va(4), PAGE, 10]), 0);
    w.h.mailbox().child = 2;
    w.call(call::FORK, &[]);
    let child = task::find(w.h.k, 2).mm(w.h.k);
    let vma = find_vma(w.h.k, child, va(4));
    assert_eq!(vma.start(w.h.k), va(5));
    let mapped: u32 = check_mm(w.h.k, child)
        .iter()
        .map(|a| (a.end - a.start) / PAGE)
        .sum();
    assert_eq!(child.total_vm(w.h.k), mapped);
    w.clean();
}

/// From here on so many page allocations succeed (a GFP_KERNEL request of one page would rather reclaim for ever).
fn allow<S: Scheme, A: Access>(w: &World<S, A>, pages: Option<u32>) {
    w.h.context().alloc_budget.set(pages);
}

/// Empties the slab arrays and free slabs that fork could live on.
fn use_up_slabs<S: Scheme, A: Access>(w: &World<S, A>) {
    allow(w, Some(0));
    for id in CacheId::ALL {
        // A scheme does not create the caches of others.
        if slab::cache(w.h.k, *id).num(w.h.k) == 0 {
            continue;
        }
        while kmem_cache_alloc::<_, u32>(w.h.k, *id, Gfp::Kernel).is_ok() {}
    }
    allow(w, None);
}

fn fork_with_few_pages<S: Scheme, A: Access>() {
    let mut w = World::<S, A>::with_ram(24);
    w.exec();
    let k = w.h.k;
    w.map(0, 8, R | W);
    w.map(1024, 2, R | W);
    w.call(
        call::MMAP2,
        &[va(16), 4 * PAGE, R, MAP_SHARED | MAP_FIXED, 1, 0],
    );
    for at in [0, 1, 5, 1024] {
        w.h.touch(va(at), true);
    }
    w.h.touch(va(17), false);
    use_up_slabs(&w);
    let before = in_use(k);
    let committed = task::tasks(k).committed(k);
    w.h.mailbox().child = 2;
    let (mut failed, mut result) = (0, ENOMEM);
    while result == ENOMEM {
        // One page more at each try.
        allow(&w, Some(failed));
        result = w.call(call::FORK, &[]);
        allow(&w, None);
        w.clean();
        if result == ENOMEM {
            failed += 1;
            assert!(task::find(k, 2).is_null());
            assert_eq!(
                task::tasks(k).committed(k),
                committed,
                "after {failed} failures"
            );
            assert_eq!((w.mm().users(k), task::tasks(k).mmlist_nr(k)), (1, 1));
            let mut now = in_use(k);
            now.retain(|what, n| before.get(what) != Some(n) && *what != "stacks");
            if S::KIND == MapKind::AnonVmaRfc {
                // The parent keeps what its vmas got for sharing.
                now.remove("anon_vma");
            }
            assert!(now.is_empty(), "left by a failed fork: {now:?}");
        }
    }
    assert_eq!(result, 2);
    assert!(failed >= 5, "only {failed} ways to fail");
}

#[test]
fn a_fork_that_runs_out_of_memory_leaves_nothing() {
    fork_with_few_pages::<PteChains, Direct>();
    fork_with_few_pages::<AnonVmaMap, Direct>();
    fork_with_few_pages::<AnonVmaMap, Split>();
    fork_with_few_pages::<AnonmmMap, Direct>();
    fork_with_few_pages::<AnonVmaRfc, Direct>();
    fork_with_few_pages::<AnonVmaChain, Split>();
    fork_with_few_pages::<SwapOut, Direct>();
}

fn move_without_memory<S: Scheme>() {
    let mut w = World::<S, Direct>::with_ram(24);
    w.exec();
    let k = w.h.k;
    // Across a page-table boundary at the destination: the first part of the move succeeds, the second has no table.
    w.map(0, 8, R | W);
    for i in 0..8 {
        w.h.write_user(va(i) + 4, 100 + i);
    }
    w.map(508, 1, R | W);
    w.h.touch(va(508), true);
    w.unmap(508, 1);
    let total = w.mm().total_vm(k);
    let committed = task::tasks(k).committed(k);
    allow(&w, Some(0));
    let args = [va(0), 8 * PAGE, 8 * PAGE, 3, va(508)];
    assert_eq!(w.call(call::MREMAP, &args), ENOMEM);
    allow(&w, None);
    assert_eq!(w.layout(), vec![(0, 8)]);
    w.clean();
    assert_eq!(
        (w.mm().total_vm(k), task::tasks(k).committed(k)),
        (total, committed)
    );
    for i in 0..8 {
        assert_eq!(w.h.read_user(va(i) + 4), 100 + i);
    }
    assert_eq!(w.call(call::MREMAP, &args), va(508));
    for i in 0..8 {
        assert_eq!(w.h.read_user(va(508 + i) + 4), 100 + i);
    }
    w.clean();
}

#[test]
fn a_move_that_runs_out_of_page_tables_is_taken_back() {
    move_without_memory::<PteChains>();
    move_without_memory::<AnonVmaMap>();
    move_without_memory::<AnonmmMap>();
    move_without_memory::<AnonVmaRfc>();
    move_without_memory::<AnonVmaChain>();
    move_without_memory::<SwapOut>();
}

/// Which of the vma's pages are there.
fn present<S: Scheme, A: Access>(w: &World<S, A>, at: u32, pages: u32) -> Vec<bool> {
    let mut there = Vec::new();
    guest_vm::check::each_pte(w.h.k, w.mm(), |m| {
        if Pte(m.pte).present() {
            there.push(m.addr);
        }
    });
    (at..at + pages).map(|p| there.contains(&va(p))).collect()
}

fn lock_without_memory<S: Scheme, A: Access>() {
    const EPERM: u32 = 1u32.wrapping_neg();
    const EAGAIN: u32 = 11u32.wrapping_neg();
    let mut w = World::<S, A>::with_ram(24);
    w.exec();
    let k = w.h.k;
    let locked = |w: &World<S, A>, page| w.vma(page).flags(k) & vm::LOCKED != 0;
    w.map(0, 6, R | W);
    w.h.write_user(va(0), 77);
    // A page behind the first cannot be had: -1. The vma is locked and counted, the pages so far stay.
    allow(&w, Some(2));
    assert_eq!(w.call(call::MLOCK, &[va(0), 6 * PAGE]), EPERM);
    allow(&w, None);
    assert_eq!(present(&w, 0, 6), [true, true, true, false, false, false]);
    assert!(locked(&w, 0));
    assert_eq!(w.mm().locked_vm(k), 6);
    w.clean();
    // Locked already: nothing is tried again.
    assert_eq!(w.call(call::MLOCK, &[va(0), 6 * PAGE]), 0);
    assert_eq!(w.call(call::MUNLOCK, &[va(0), 6 * PAGE]), 0);
    assert_eq!(w.mm().locked_vm(k), 0);
    assert_eq!(w.call(call::MLOCK, &[va(0), 6 * PAGE]), 0);
    assert_eq!(present(&w, 0, 6), [true; 6]);
    assert_eq!(w.h.read_user(va(0)), 77);
    // The first of a vma: what the fault said. The call ends there, with the next vma as it was.
    w.map(16, 2, R | W);
    w.map(18, 2, R);
    allow(&w, Some(0));
    assert_eq!(w.call(call::MLOCK, &[va(16), 4 * PAGE]), ENOMEM);
    allow(&w, None);
    assert_eq!((locked(&w, 16), locked(&w, 18)), (true, false));
    assert_eq!(w.mm().locked_vm(k), 6 + 2);
    w.clean();
    assert_eq!(w.call(call::MUNLOCK, &[va(16), 4 * PAGE]), 0);
    // No memory for the second half of a vma: nothing was done.
    w.map(32, 3, R | W);
    use_up_slabs(&w);
    allow(&w, Some(0));
    for nr in [call::MLOCK, call::MUNLOCK] {
        let at = if nr == call::MLOCK { 33 } else { 1 };
        assert_eq!(w.call(nr, &[va(at), PAGE]), EAGAIN);
    }
    allow(&w, None);
    assert_eq!((locked(&w, 33), locked(&w, 1)), (false, true));
    assert_eq!(w.mm().locked_vm(k), 6);
    w.clean();
}

#[test]
fn a_lock_that_runs_out_of_memory_fails_and_keeps_what_it_has() {
    lock_without_memory::<PteChains, Direct>();
    lock_without_memory::<AnonVmaMap, Direct>();
    lock_without_memory::<AnonVmaMap, Split>();
    lock_without_memory::<AnonmmMap, Direct>();
    lock_without_memory::<AnonVmaRfc, Direct>();
    lock_without_memory::<AnonVmaChain, Split>();
    lock_without_memory::<SwapOut, Direct>();
}
