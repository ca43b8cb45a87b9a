//! Who uses the sleeping kmap: exec for its argument page, in 2.4 write() too; the window's wrap every 512 new mappings.

mod harness;

use guest_vm::check;
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use harness::{Access, Direct, Harness, Listed, Old, OldSplitHigh, Split};
use lowmem_abi::boot::VECTOR_RESCHED;
use lowmem_abi::call;
use lowmem_abi::mailbox::{ExecMapping, NO_FILE, NO_RESULT};
use lowmem_abi::probe::Probe;

const BASE: u32 = 0x0840_0000;
const STACK_TOP: u32 = 0xbfff_f000;
const GROWSDOWN: u32 = 0x100;

fn start<R: Scheme, U: Access>(ram_mb: u32) -> Harness<R, U> {
    let mut h = Harness::<R, U>::new(ram_mb);
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    h
}

/// A program that is its stack.
fn exec<R: Scheme, U: Access>(h: &mut Harness<R, U>) {
    h.exec_list(&[ExecMapping {
        start: STACK_TOP - 0x3000,
        end: STACK_TOP,
        prot: 3,
        flags: 0x22 | GROWSDOWN,
        file: NO_FILE,
        pgoff: 0,
    }]);
    h.mailbox().exec_stack_top = STACK_TOP - 0x200;
    h.mailbox().exec_entry = BASE;
    h.syscall(call::EXECVE, [0; 6]);
}

/// Wraps of the window and global flushes.
fn wraps<R: Scheme, U: Access>(h: &Harness<R, U>) -> (u64, u64) {
    (h.probe_count(Probe::KmapWrap), h.counts().flush_global)
}

/// 512 programs with argument pages in high memory wrap the window once: slot 1 is the first, slot 0 the last. One process that runs
/// them one after the other does not: the page that it freed comes back, and is still in the window.
#[test]
fn five_hundred_and_twelve_execs_wrap_the_window() {
    fn run<R: Scheme, U: Access>(ram_mb: u32) {
        let mut h = start::<R, U>(ram_mb);
        let before = h.counts().flush_global;
        for child in 2..=1025 {
            h.mailbox().child = child;
            assert_eq!(h.syscall(call::FORK, [0; 6]), child);
            h.mailbox().next = child;
            h.enter(VECTOR_RESCHED);
            exec(&mut h);
            let n = u64::from((child - 1) / 512);
            assert_eq!(wraps(&h), (n, before + n), "{child}");
        }
        for _ in 0..600 {
            exec(&mut h);
        }
        assert!(wraps(&h).0 <= 3);
        check::all(h.k).expect("after the execs");
    }
    run::<AnonVmaMap, Direct>(1000);
    run::<PteChains, Listed>(1000);
    run::<SwapOut, Old>(1000);
    run::<AnonVmaMap, Split>(4000);
}

/// The argument page is there at the first touch, zero, dirty and anonymous; low pages need no slot.
#[test]
fn the_argument_page_is_the_stacks_last() {
    let mut h = start::<AnonVmaMap, Direct>(64);
    exec(&mut h);
    let faults = h.counts().faults;
    assert_eq!(h.read_user(STACK_TOP - 4), 0);
    h.write_user(STACK_TOP - 4, 5);
    assert_eq!(h.counts().faults, faults, "no fault");
    h.touch(STACK_TOP - 0x1004, true);
    assert_eq!(h.counts().faults, faults + 1);
    assert_eq!(h.read_user(STACK_TOP - 4), 5);
    assert_eq!(wraps(&h).0, 0);
    check::all(h.k).expect("after exec");
}

/// write() of 2.4 maps each page of the file by kmap; later kernels by kmap_atomic.
#[test]
fn writes_of_2_4_wrap_the_window() {
    fn run<R: Scheme, U: Access>(ram_mb: u32) -> u64 {
        let mut h = start::<R, U>(ram_mb);
        let args = [BASE, 0x1000, 3, 0x32, NO_FILE, 0];
        assert_eq!(h.syscall(call::MMAP2, args), BASE);
        h.write_user(BASE, 77);
        let before = h.counts().flush_global;
        for i in 0..600u32 {
            let args = [7, BASE, 4, i << 12, 0, 0];
            assert_eq!(h.syscall(call::PWRITE64, args), 4);
        }
        check::all(h.k).expect("after the writes");
        assert_eq!(h.counts().flush_global - before, wraps(&h).0);
        wraps(&h).0
    }
    assert_eq!(run::<SwapOut, Old>(1000), 1);
    assert_eq!(run::<PteChains, OldSplitHigh>(4000), 1);
    assert_eq!(run::<PteChains, Listed>(1000), 0);
    assert_eq!(run::<AnonVmaMap, Direct>(1000), 0);
}
