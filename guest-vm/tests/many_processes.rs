//! More processes at once than one slab holds objects for, with the structures of every kernel preset: no object is written past its end,
//! and all slabs come back.

mod harness;

use guest_vm::check::{self, Violation};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anon_vma_chain::AnonVmaChain;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::objrmap::Hybrid;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use guest_vm::slab::{self, CacheId};
use harness::{Access, Direct, Harness, Listed, Old, OldSplitHigh};
use lowmem_abi::boot::VECTOR_RESCHED;
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};

const BASE: u32 = 0x0840_0000;
/// Several slabs of every object of a process.
const CHILDREN: u32 = 120;

fn family<R: Scheme, U: Access>() -> Harness<R, U> {
    let mut h = Harness::<R, U>::new(256);
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    let args = [BASE, 16 << 12, 3, 0x32, NO_FILE, 0];
    assert_eq!(h.syscall(call::MMAP2, args), BASE);
    for i in 0..16 {
        h.touch(BASE + (i << 12), true);
    }
    for pid in 2..2 + CHILDREN {
        h.mailbox().child = pid;
        assert_eq!(h.syscall(call::FORK, [0; 6]), pid);
    }
    h
}

fn live_and_die<R: Scheme, U: Access>() {
    let mut h = family::<R, U>();
    assert_eq!(check::all(h.k), Ok(()));
    let used = |h: &Harness<R, U>, id| slab::usage(h.k, id).1;
    for id in [
        CacheId::Signal,
        CacheId::Sighand,
        CacheId::Mm,
        CacheId::Task,
    ] {
        assert!(used(&h, id) > CHILDREN, "{}", id.name());
    }
    for pid in 2..2 + CHILDREN {
        h.mailbox().next = pid;
        h.enter(VECTOR_RESCHED);
        h.touch(BASE + ((pid % 16) << 12), true);
        h.mailbox().next = 1;
        h.syscall(call::EXIT, [0; 6]);
    }
    h.syscall(call::GETPID, [0; 6]);
    assert_eq!(check::all(h.k), Ok(()));
    assert_eq!(used(&h, CacheId::Mm), 1);
}

#[test]
fn every_presets_objects_stay_in_their_bounds() {
    live_and_die::<SwapOut, Old>();
    live_and_die::<PteChains, Listed>();
    live_and_die::<AnonVmaMap, Listed>();
    live_and_die::<PteChains, Direct>();
    live_and_die::<Hybrid, Direct>();
    live_and_die::<AnonmmMap, Direct>();
    live_and_die::<AnonVmaMap, Direct>();
    live_and_die::<PteChains, OldSplitHigh>();
    live_and_die::<AnonVmaChain, Direct>();
}

/// What a copy of 72 bytes into a 44-byte object at the end of its slab did.
#[test]
fn a_write_into_the_management_of_a_slab_is_found() {
    let h = family::<PteChains, Listed>();
    let full = slab::cache(h.k, CacheId::Mm).slabs_full(h.k);
    let slab = full.next(h.k);
    let was = slab.prev(h.k);
    slab.set_prev(h.k, slab);
    let found = check::all(h.k);
    assert!(
        matches!(
            found,
            Err(Violation::Slab {
                cache: "mm_struct",
                ..
            })
        ),
        "{found:?}"
    );
    slab.set_prev(h.k, was);
    assert_eq!(check::all(h.k), Ok(()));
}
