//! Locked read-modify-writes and TLB flushes of every kernel preset and build, per operation, against the fact sheet's two tables
//! ("UP build or SMP build", "TLB flushes: what each operation really does").
//!
//! Each operation is counted where no list or slab needs refilling: the least of several equal ones. What the sheet gives as a sum
//! ("about 12") is its parts here: the fault itself, and a full vector's drain.

mod harness;

use guest_vm::lru;
use guest_vm::page_alloc::pfn_to_page;
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anon_vma_chain::AnonVmaChain;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::objrmap::Hybrid;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use harness::{Access, Counts, Direct, Harness, Listed, Old, OldSplitHigh, Split, Up};
use lowmem_abi::boot::VECTOR_RESCHED;
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};

const BASE: u32 = 0x0840_0000;
const FAR: u32 = 0x1000_0000;
const ANON: (u32, u32) = (0x22, NO_FILE);
const SHARED: (u32, u32) = (1, 7);

/// A machine whose lists and slabs are filled by what it does before.
fn warm<R: Scheme, U: Access>(file_vmas: u32) -> Harness<R, U> {
    let mut info = Harness::<R, U>::info(256);
    info.file_vmas = file_vmas;
    let mut h = Harness::with_info(info);
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    map(&mut h, BASE, ANON);
    for i in 0..64 {
        h.touch(BASE + (i << 12), true);
    }
    fork(&mut h, 2);
    switch(&mut h, 2);
    h.mailbox().next = 1;
    h.syscall(call::EXIT, [0; 6]);
    unmap(&mut h, BASE, 64);
    h
}

fn map<R: Scheme, U: Access>(h: &mut Harness<R, U>, at: u32, (flags, file): (u32, u32)) {
    let args = [at, 64 << 12, 3, flags | 0x10, file, 0];
    assert_eq!(h.syscall(call::MMAP2, args), at);
}

fn unmap<R: Scheme, U: Access>(h: &mut Harness<R, U>, at: u32, pages: u32) {
    let args = [at, pages << 12, 0, 0, 0, 0];
    assert_eq!(h.syscall(call::MUNMAP, args), 0);
}

fn fork<R: Scheme, U: Access>(h: &mut Harness<R, U>, child: u32) {
    h.mailbox().child = child;
    assert_eq!(h.syscall(call::FORK, [0; 6]), child);
}

fn switch<R: Scheme, U: Access>(h: &mut Harness<R, U>, pid: u32) {
    h.mailbox().next = pid;
    h.enter(VECTOR_RESCHED);
}

fn locked<R: Scheme, U: Access>(h: &mut Harness<R, U>, f: impl FnOnce(&mut Harness<R, U>)) -> u64 {
    let before = h.counts().locked;
    f(h);
    h.counts().locked - before
}

/// The least that an access costs among pages 1 to 8.
fn each_touch<R: Scheme, U: Access>(h: &mut Harness<R, U>, write: bool) -> u64 {
    lru::lru_add_drain(h.k);
    (1..9)
        .map(|i| {
            locked(h, |h| {
                h.touch(BASE + (i << 12), write);
            })
        })
        .min()
        .expect("eight faults")
}

/// The same operation on many pages less that on few, for each page more.
fn each_of(cost: impl Fn(u32) -> u64) -> u64 {
    let (few, many) = (cost(16), cost(32));
    // A refill of a list takes its zone's lock, once or twice in so many.
    assert!((many - few) % 16 <= 2, "{few} for 16, {many} for 32");
    (many - few) / 16
}

const OPERATIONS: [&str; 15] = [
    "anonymous write fault",
    "anonymous read fault",
    "write to the zero page",
    "file read fault",
    "copy on write",
    "reuse",
    "fork, COW pte",
    "fork, shared pte",
    "zap of a mapped file page",
    "remap of a page",
    "mprotect of a page",
    "LRU vector, each page",
    "unmap, anonymous pte",
    "unmap, file pte",
    "write() into a cached page",
];

/// The counts of [`OPERATIONS`].
fn counts<R: Scheme, U: Access>(file_vmas: u32) -> [u64; 15] {
    let start = || warm::<R, U>(file_vmas);
    // Faults.
    let mut h = start();
    map(&mut h, BASE, ANON);
    h.touch(BASE, true);
    let anon_write = each_touch(&mut h, true);
    let mut h = start();
    map(&mut h, BASE, ANON);
    h.touch(BASE, false);
    let anon_read = each_touch(&mut h, false);
    h.touch(BASE, true);
    let zero_write = each_touch(&mut h, true);
    let mut h = start();
    map(&mut h, BASE, SHARED);
    for i in 0..9 {
        h.touch(BASE + (i << 12), false);
    }
    map(&mut h, FAR, SHARED);
    h.touch(FAR, false);
    lru::lru_add_drain(h.k);
    let file_read = (1..9)
        .map(|i| {
            locked(&mut h, |h| {
                h.touch(FAR + (i << 12), false);
            })
        })
        .min()
        .expect("eight faults");
    let mut h = start();
    map(&mut h, BASE, ANON);
    for i in 0..9 {
        h.touch(BASE + (i << 12), true);
    }
    fork(&mut h, 2);
    h.touch(BASE, true);
    let copy = each_touch(&mut h, true);
    switch(&mut h, 2);
    h.touch(BASE, true);
    let reuse = each_touch(&mut h, true);
    // Fork, zap, mremap, mprotect.
    let forked = |kind: (u32, u32)| {
        each_of(|pages| {
            let mut h = start();
            map(&mut h, BASE, kind);
            for i in 0..pages {
                h.touch(BASE + (i << 12), true);
            }
            fork(&mut h, 9);
            locked(&mut h, |h| fork(h, 2))
        })
    };
    let zapped = each_of(|pages| {
        let mut h = start();
        map(&mut h, BASE, SHARED);
        for i in 0..64 {
            h.touch(BASE + (i << 12), false);
        }
        fork(&mut h, 2);
        fork(&mut h, 3);
        lru::lru_add_drain(h.k);
        switch(&mut h, 2);
        locked(&mut h, |h| unmap(h, BASE, pages))
    });
    let moved = each_of(|pages| {
        let mut h = start();
        map(&mut h, BASE, ANON);
        map(&mut h, FAR, ANON);
        h.touch(FAR, true);
        unmap(&mut h, FAR, 64);
        for i in 0..pages {
            h.touch(BASE + (i << 12), true);
        }
        lru::lru_add_drain(h.k);
        let args = [BASE, 64 << 12, 64 << 12, 3, FAR, 0];
        locked(&mut h, |h| assert_eq!(h.syscall(call::MREMAP, args), FAR))
    });
    let protected = each_of(|pages| {
        let mut h = start();
        map(&mut h, BASE, ANON);
        for i in 0..pages {
            h.touch(BASE + (i << 12), true);
        }
        let args = [BASE, 64 << 12, 1, 0, 0, 0];
        locked(&mut h, |h| assert_eq!(h.syscall(call::MPROTECT, args), 0))
    });
    let drained = |pages: u32| {
        let mut h = start();
        map(&mut h, BASE, ANON);
        lru::lru_add_drain(h.k);
        for i in 0..pages {
            h.touch(BASE + (i << 12), true);
        }
        locked(&mut h, |h| lru::lru_add_drain(h.k))
    };
    let drain = (drained(14) - drained(4)) / 10;
    // Reclaim.
    let unmapped = |kind: (u32, u32)| {
        each_of(|n| {
            let mut h = start();
            map(&mut h, BASE, kind);
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
    };
    let (unmap_anon, unmap_file) = (unmapped(ANON), unmapped(SHARED));
    // write() of 4 bytes into pages that are cached and dirty.
    let mut h = start();
    map(&mut h, BASE, ANON);
    h.touch(BASE, true);
    let mut written = u64::MAX;
    for _ in 0..4 {
        let args = [7, BASE, 4, 0, 0, 0];
        let n = locked(&mut h, |h| assert_eq!(h.syscall(call::PWRITE64, args), 4));
        written = written.min(n);
    }
    [
        anon_write,
        anon_read,
        zero_write,
        file_read,
        copy,
        reuse,
        forked(ANON),
        forked(SHARED),
        zapped,
        moved,
        protected,
        drain,
        unmap_anon,
        unmap_file,
        written,
    ]
}

/// Where the numbers come from, for 2.6.7 (sheet, and the parts of what it gives as a sum):
/// anonymous write fault: mmap_sem 2, page_table_lock 2, the vector's reference 1, PG_referenced 1, bit lock 2, PG_anon 1; with the drained
/// vector's 3 "about 12". Zero page: mmap_sem 2, page_table_lock 1. File: mmap_sem 2, page_table_lock 2, tree_lock and get_page 2,
/// mark_page_accessed of a referenced page 3 (flag, lru_lock, PG_active), bit lock 2. COW: mmap_sem 2, page_table_lock 2, page lock 2, get_page
/// 1, the old page's bit lock 2, the vector's reference 1, the new page's 3, two put_page. Reuse: mmap_sem 2, page_table_lock 1, page
/// lock 2. Fork: write protection, get_page, bit lock 2; zap: exchange, bit lock 2, put_page. Unmap: trylock and young test by
/// page_referenced; trylock, young test, exchange, put_page; anonymous 2 for the swap slot, and 1 for the dirty flag.
///
/// Others: chains mark a page direct (1) where 2.6.7 marks it anonymous, the hybrid both; the second mapping of a file's page clears that
/// (1); a moved page is removed and added (6 more); their try_to_unmap tests no young bit and page_referenced takes no lock. anonmm
/// counts its pages (1), and rewrites the index of a moved page under the bit lock (2). 2.4 has no bit lock; 4G/4G copies from
/// user memory through page tables (6 more). 2.6.5-aa looks at a young bit before it clears it: none is set in a child's ptes, 2 less. From 2.6.9 on the mapcount is atomic: 1 instead of the bit lock's 2 and the flag's 1 wherever a
/// pte is added, copied or removed, and 1 in try_to_unmap.
#[test]
fn locked_operations_of_every_preset_and_build() {
    let table: [(&str, [u64; 15], [u64; 15]); 9] = [
        (
            "2.4-aa",
            counts::<SwapOut, Old>(0),
            [6, 3, 8, 9, 10, 5, 2, 1, 2, 1, 1, 3, 10, 7, 10],
        ),
        (
            "2.6.0",
            counts::<PteChains, Listed>(0),
            [9, 3, 11, 12, 15, 5, 4, 3, 4, 7, 1, 3, 7, 4, 10],
        ),
        (
            "2.6.5-aa",
            counts::<AnonVmaMap, Listed>(0),
            [9, 3, 11, 11, 15, 5, 4, 3, 4, 1, 1, 3, 7, 4, 10],
        ),
        (
            "2.6.6",
            counts::<PteChains, Direct>(0),
            [9, 3, 11, 12, 15, 5, 4, 3, 4, 7, 1, 3, 7, 4, 10],
        ),
        (
            "2.6.6-objrmap",
            counts::<Hybrid, Direct>(0),
            [10, 3, 12, 11, 16, 5, 4, 3, 4, 7, 1, 3, 7, 6, 10],
        ),
        (
            "2.6-anonmm",
            counts::<AnonmmMap, Direct>(1),
            [10, 3, 12, 11, 16, 5, 4, 3, 4, 3, 1, 3, 9, 6, 10],
        ),
        (
            "2.6.7",
            counts::<AnonVmaMap, Direct>(1),
            [9, 3, 11, 11, 15, 5, 4, 3, 4, 1, 1, 3, 9, 6, 10],
        ),
        (
            "rhel3-hugemem",
            counts::<PteChains, OldSplitHigh>(0),
            [9, 3, 11, 12, 15, 5, 4, 3, 4, 7, 1, 3, 7, 4, 16],
        ),
        (
            "2.6.34",
            counts::<AnonVmaChain, Direct>(1),
            [7, 3, 9, 10, 12, 5, 3, 2, 3, 1, 1, 3, 10, 7, 10],
        ),
    ];
    let mut wrong = Vec::new();
    for (kernel, is, expected) in table {
        for ((operation, is), expected) in OPERATIONS.iter().zip(is).zip(expected) {
            if is != expected {
                wrong.push(format!(
                    "{kernel}: {operation}: {is}, {expected} in the table"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Without SMP only exchanges with memory are locked: of a pte that is zapped, moved, protected or unmapped.
#[test]
fn locked_operations_of_up_builds_are_exchanges_of_ptes() {
    let only = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0];
    for is in [
        counts::<SwapOut, Up<Old>>(0),
        counts::<PteChains, Up<Listed>>(0),
        counts::<AnonVmaMap, Up<Listed>>(0),
        counts::<PteChains, Up<Direct>>(0),
        counts::<Hybrid, Up<Direct>>(0),
        counts::<AnonmmMap, Up<Direct>>(1),
        counts::<AnonVmaMap, Up<Direct>>(1),
        counts::<PteChains, Up<OldSplitHigh>>(0),
        counts::<AnonVmaChain, Up<Direct>>(1),
    ] {
        assert_eq!(is, only);
    }
}

/// Locked operations of page_referenced and try_to_unmap for each vma in vain: one whose range fits, and one that does not.
fn vain_visits<In: Scheme, Out: Scheme, U: Access>() -> (u64, u64) {
    let in_range = each_of(|children| {
        let mut h = warm::<In, U>(0);
        map(&mut h, BASE, ANON);
        h.touch(BASE, true);
        for i in 0..children {
            fork(&mut h, 2 + i);
        }
        // A copy of the parent's own, which the children's equal vmas may map for all that is known.
        let pfn = h.touch(BASE, true);
        lru::lru_add_drain(h.k);
        let page = pfn_to_page(h.k, pfn);
        locked(&mut h, |h| {
            assert_eq!(reclaim::unmap_page(h.k, page), Outcome::Success);
        })
    });
    let out_of_range = each_of(|vmas| {
        let mut h = warm::<Out, U>(0);
        map(&mut h, BASE, SHARED);
        let pfn = h.touch(BASE, false);
        for i in 0..vmas {
            let args = [FAR + (i << 14), 1 << 12, 3, 0x11, 7, 100];
            assert_eq!(h.syscall(call::MMAP2, args), FAR + (i << 14));
        }
        lru::lru_add_drain(h.k);
        let page = pfn_to_page(h.k, pfn);
        locked(&mut h, |h| {
            assert_eq!(reclaim::unmap_page(h.k, page), Outcome::Success);
        })
    });
    (in_range, out_of_range)
}

/// page_table_lock by page_referenced and again by try_to_unmap; nothing if the range excludes the page.
#[test]
fn a_vain_visit_takes_one_lock_or_none() {
    assert_eq!(vain_visits::<AnonVmaMap, Hybrid, Direct>(), (2, 0));
    assert_eq!(vain_visits::<AnonVmaMap, AnonVmaMap, Direct>(), (2, 0));
    assert_eq!(vain_visits::<AnonVmaMap, AnonVmaMap, Up<Direct>>(), (0, 0));
    // 2.6.5-aa takes it before it looks at the range; try_to_unmap ends with the page's vma, which comes first in a file's list.
    assert_eq!(vain_visits::<AnonVmaMap, AnonVmaMap, Listed>(), (2, 1));
}

/// Flushes of an operation: one page, all of user space, everything, and loads of CR3.
fn flushes<R: Scheme, U: Access>(
    h: &mut Harness<R, U>,
    f: impl FnOnce(&mut Harness<R, U>),
) -> [u64; 4] {
    let all = |c: Counts| [c.flush_page, c.flush_local, c.flush_global, c.cr3_loads];
    let before = all(h.counts());
    f(h);
    let after = all(h.counts());
    [0, 1, 2, 3].map(|i| after[i] - before[i])
}

/// Copy on write; mprotect, munmap, fork of 16 pages; mremap of 16; two page_referenced that clear Accessed.
fn flush_table<U: Access>() -> [[u64; 4]; 6] {
    let start = || {
        let mut h = warm::<AnonVmaMap, U>(1);
        map(&mut h, BASE, ANON);
        for i in 0..16 {
            h.touch(BASE + (i << 12), true);
        }
        lru::lru_add_drain(h.k);
        h
    };
    let mut h = start();
    let forked = flushes(&mut h, |h| fork(h, 2));
    let copied = flushes(&mut h, |h| {
        h.touch(BASE, true);
    });
    let mut h = start();
    let args = [BASE, 16 << 12, 1, 0, 0, 0];
    let protected = flushes(&mut h, |h| assert_eq!(h.syscall(call::MPROTECT, args), 0));
    let mut h = start();
    let unmapped = flushes(&mut h, |h| unmap(h, BASE, 16));
    let mut h = start();
    let args = [BASE, 16 << 12, 16 << 12, 3, FAR, 0];
    let moved = flushes(&mut h, |h| assert_eq!(h.syscall(call::MREMAP, args), FAR));
    let mut h = start();
    let pfn = h.touch(BASE, true);
    let page = pfn_to_page(h.k, pfn);
    let stolen = flushes(&mut h, |h| {
        assert_eq!(reclaim::unmap_page(h.k, page), Outcome::Success);
    });
    [copied, forked, protected, unmapped, moved, stolen]
}

#[test]
fn flushes_of_every_build_and_split() {
    let (none, one, all) = ([0; 4], [1, 0, 0, 0], [0, 1, 0, 0]);
    let each = [16, 0, 0, 0];
    // One page for COW, each moved page and each unmapped pte of the running mm; CR3 for fork, mprotect and munmap.
    let direct = [one, all, all, all, each, one];
    assert_eq!(flush_table::<Direct>(), direct);
    assert_eq!(flush_table::<Up<Direct>>(), direct);
    // 4G/4G flushes user pages on every exit: no page, but SMP reloads the kernel's table for a range.
    assert_eq!(flush_table::<Split>(), [none, all, all, all, none, none]);
    assert_eq!(flush_table::<Up<Split>>(), [none; 6]);
}
