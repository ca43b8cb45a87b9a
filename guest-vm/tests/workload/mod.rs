//! Random address-space operations on the native harness beside a plain model of what every process must read.
//!
//! The model knows pages, not vmas: for each page of each process its rights and where its word comes from. After every operation
//! the caller may check all invariants; each read is compared.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "part of a test"
)]

use crate::harness::Access;
use crate::harness::Harness;
use guest_vm::check::{self, Mapper};
use guest_vm::kernel::Kernel;
use guest_vm::page_alloc::{page_to_pfn, pfn_to_page};
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::Scheme;
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED, VECTOR_UNMAP};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::port::file_word;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// First page of the window that operations work in, and its pages: across a page-table boundary.
const BASE: u32 = 0x0850_0000;
const FIRST: u32 = BASE >> 12;
const PAGES: u32 = 3 * 512;

const SHARED: u32 = 1;
const PRIVATE: u32 = 2;
const FIXED: u32 = 0x10;
const ANONYMOUS: u32 = 0x20;
const READ: u32 = 1;
const WRITE: u32 = 2;

/// One operation; numbers are reduced to what makes sense.
#[derive(Debug, Clone)]
pub enum Op {
    Map {
        at: u32,
        pages: u32,
        kind: u8,
        prot: u32,
        offset: u32,
    },
    Unmap {
        at: u32,
        pages: u32,
    },
    Protect {
        at: u32,
        pages: u32,
        prot: u32,
    },
    Remap {
        at: u32,
        pages: u32,
        grown: u32,
        to: u32,
    },
    Nonlinear {
        at: u32,
        pages: u32,
        offset: u32,
    },
    DontNeed {
        at: u32,
        pages: u32,
    },
    Lock {
        at: u32,
        pages: u32,
        on: bool,
    },
    Touch {
        at: u32,
        write: bool,
    },
    TouchMany {
        at: u32,
        pages: u32,
        write: bool,
    },
    Fork,
    Exit,
    Switch {
        to: usize,
    },
    UnmapProbe {
        which: prop::sample::Index,
        fail: u32,
    },
    PageOut {
        which: prop::sample::Index,
    },
    /// Reclaim everywhere, with every n-th trylock and page allocation failing (0: none); writes it begins stay under way.
    Reclaim {
        rounds: u32,
        fail_trylock: u32,
        fail_alloc: u32,
    },
    /// Swap off and on again.
    SwapOff,
    /// An operation that has so few pages that it may fail.
    ForkWithFew {
        pages: u32,
    },
    /// See `Remap`.
    RemapWithFew {
        at: u32,
        pages: u32,
        to: u32,
        few: u32,
    },
}

/// Operations under memory pressure.
pub fn pressure_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => op(),
        4 => (1u32..4, prop_oneof![3 => Just(0u32), 1 => 1u32..5], prop_oneof![3 => Just(0u32), 1 => 1u32..4])
            .prop_map(|(rounds, fail_trylock, fail_alloc)| Op::Reclaim { rounds, fail_trylock, fail_alloc }),
        1 => Just(Op::SwapOff),
        1 => (0u32..24).prop_map(|pages| Op::ForkWithFew { pages }),
        1 => (place(), 1u32..12, place(), 0u32..3)
            .prop_map(|(at, pages, to, few)| Op::RemapWithFew { at, pages, to, few }),
    ]
}

/// Addresses that often meet: few clusters of pages in the window.
fn place() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..24, 500u32..530, 1020u32..1040]
}

pub fn op() -> impl Strategy<Value = Op> {
    let len = 1u32..12;
    prop_oneof![
        4 => (place(), len.clone(), 0u8..7, 0u32..8, 0u32..20)
            .prop_map(|(at, pages, kind, prot, offset)| Op::Map { at, pages, kind, prot, offset }),
        2 => (place(), len.clone()).prop_map(|(at, pages)| Op::Unmap { at, pages }),
        2 => (place(), len.clone(), 0u32..4).prop_map(|(at, pages, prot)| Op::Protect { at, pages, prot }),
        2 => (place(), len.clone(), 0u32..6, place())
            .prop_map(|(at, pages, grown, to)| Op::Remap { at, pages, grown, to }),
        1 => (place(), 1u32..4, 0u32..20).prop_map(|(at, pages, offset)| Op::Nonlinear { at, pages, offset }),
        1 => (place(), len.clone()).prop_map(|(at, pages)| Op::DontNeed { at, pages }),
        1 => (place(), len.clone(), any::<bool>()).prop_map(|(at, pages, on)| Op::Lock { at, pages, on }),
        8 => (place(), any::<bool>()).prop_map(|(at, write)| Op::Touch { at, write }),
        5 => (place(), len, any::<bool>()).prop_map(|(at, pages, write)| Op::TouchMany { at, pages, write }),
        3 => Just(Op::Fork),
        1 => Just(Op::Exit),
        3 => (0usize..8).prop_map(|to| Op::Switch { to }),
        4 => (any::<prop::sample::Index>(), prop_oneof![3 => Just(0u32), 1 => 1u32..4])
            .prop_map(|(which, fail)| Op::UnmapProbe { which, fail }),
        2 => any::<prop::sample::Index>().prop_map(|which| Op::PageOut { which }),
    ]
}

/// Where a page's word comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PageModel {
    prot: u32,
    shared: bool,
    /// Object and page of it; none: private anonymous.
    object: Option<(u32, u32)>,
    /// False after remap_file_pages: the pte alone knows the offset.
    linear: bool,
    /// Private content, once written.
    own: Option<u32>,
}

type Space = BTreeMap<u32, PageModel>;

pub struct World<R, U> {
    pub h: Harness<R, U>,
    spaces: BTreeMap<u32, Space>,
    current: u32,
    next_pid: u32,
    objects: BTreeMap<(u32, u32), u32>,
    stamp: u32,
    /// Ids of unnamed shared objects so far, in step with the kernel's.
    unnamed: u32,
    pub outcomes: BTreeMap<u32, u32>,
    /// Pages that reclaim freed.
    pub freed: u32,
}

impl<R: Scheme, U: Access> World<R, U> {
    pub fn new(info: BootInfo) -> Self {
        let mut h = Harness::with_info(info);
        h.boot();
        h.mailbox().result = NO_RESULT;
        h.mailbox().next = 1;
        Self {
            h,
            spaces: BTreeMap::from([(1, Space::new())]),
            current: 1,
            next_pid: 2,
            objects: BTreeMap::new(),
            stamp: 0x1000_0000,
            unnamed: 0,
            outcomes: BTreeMap::new(),
            freed: 0,
        }
    }

    fn space(&mut self) -> &mut Space {
        self.spaces.get_mut(&self.current).expect("current lives")
    }

    fn range(at: u32, pages: u32) -> std::ops::Range<u32> {
        let first = FIRST + at % PAGES;
        first..(first + pages).min(FIRST + PAGES)
    }

    /// Whether every page of the range is mapped.
    fn whole(&mut self, range: &std::ops::Range<u32>) -> bool {
        let space = self.space();
        range.clone().all(|p| space.contains_key(&p))
    }

    fn call(&mut self, nr: u32, args: [u32; 6]) -> u32 {
        self.h.mailbox().next = self.current;
        self.h.syscall(nr, args)
    }

    pub fn apply(&mut self, op: &Op) {
        self.apply_one(op);
        self.forget_dead_objects();
    }

    fn apply_one(&mut self, op: &Op) {
        match *op {
            Op::Map {
                at,
                pages,
                kind,
                prot,
                offset,
            } => self.map(Self::range(at, pages), kind, prot, offset),
            Op::Unmap { at, pages } => {
                let r = Self::range(at, pages);
                let got = self.call(
                    call::MUNMAP,
                    [r.start << 12, (r.end - r.start) << 12, 0, 0, 0, 0],
                );
                assert_eq!(got, 0);
                self.space().retain(|p, _| !r.contains(p));
            }
            Op::Protect { at, pages, prot } => {
                let r = Self::range(at, pages);
                if self.whole(&r) {
                    let got = self.call(
                        call::MPROTECT,
                        [r.start << 12, (r.end - r.start) << 12, prot, 0, 0, 0],
                    );
                    assert_eq!(got, 0);
                    for p in r {
                        self.space().get_mut(&p).expect("whole").prot = prot;
                    }
                }
            }
            Op::Remap {
                at,
                pages,
                grown,
                to,
            } => self.remap(Self::range(at, pages), grown, to),
            Op::Nonlinear { at, pages, offset } => {
                let r = Self::range(at, pages);
                let n = r.end - r.start;
                let got = self.call(
                    call::REMAP_FILE_PAGES,
                    [r.start << 12, n << 12, 0, offset, 0, 0],
                );
                if got == 0 {
                    for (i, p) in r.enumerate() {
                        let page = self.space().get_mut(&p).expect("the kernel took it");
                        let id = page.object.expect("shared").0;
                        page.object = Some((id, offset + i as u32));
                        page.linear = false;
                    }
                }
            }
            Op::DontNeed { at, pages } => {
                let r = Self::range(at, pages);
                let space = self.space();
                if r.clone().all(|p| space.get(&p).is_some_and(|m| m.linear)) {
                    let got = self.call(
                        call::MADVISE,
                        [r.start << 12, (r.end - r.start) << 12, 4, 0, 0, 0],
                    );
                    if got == 0 {
                        for p in r {
                            let page = self.space().get_mut(&p).expect("whole");
                            page.own = None;
                        }
                    }
                }
            }
            // Locking a writable private file mapping copies its pages at once: left to the unit tests.
            Op::Lock { at, pages, on } => {
                let r = Self::range(at, pages);
                let space = self.space();
                if r.clone().all(|p| {
                    space
                        .get(&p)
                        .is_some_and(|m| m.prot & READ != 0 && (m.shared || m.object.is_none()))
                }) {
                    let nr = if on { call::MLOCK } else { call::MUNLOCK };
                    self.call(nr, [r.start << 12, (r.end - r.start) << 12, 0, 0, 0, 0]);
                }
            }
            Op::Touch { at, write } => self.touch(FIRST + at % PAGES, write),
            Op::TouchMany { at, pages, write } => {
                for p in Self::range(at, pages) {
                    self.touch(p, write);
                }
            }
            Op::Fork => {
                if self.spaces.len() < 6 {
                    let child = self.next_pid;
                    self.next_pid += 1;
                    self.h.mailbox().child = child;
                    let got = self.call(call::FORK, [0; 6]);
                    assert_eq!(got, child);
                    let copy = self.space().clone();
                    self.spaces.insert(child, copy);
                }
            }
            Op::Exit => {
                if self.spaces.len() > 1 {
                    self.spaces.remove(&self.current);
                    self.current = *self.spaces.keys().next().expect("one is left");
                    self.h.mailbox().next = self.current;
                    self.h.syscall(call::EXIT, [0; 6]);
                }
            }
            Op::Switch { to } => {
                let pids: Vec<u32> = self.spaces.keys().copied().collect();
                self.switch(pids[to % pids.len()]);
            }
            Op::UnmapProbe { which, fail } => self.unmap_probe(which, fail),
            Op::PageOut { which } => {
                let k = self.h.k;
                let cached = swap_cached(k);
                if !cached.is_empty() {
                    reclaim::pageout(k, pfn_to_page(k, cached[which.index(cached.len())]));
                }
            }
            Op::Reclaim {
                rounds,
                fail_trylock,
                fail_alloc,
            } => {
                let c = self.h.context();
                c.fail_trylock.set(fail_trylock);
                c.fail_alloc.set(fail_alloc);
                for _ in 0..rounds {
                    self.freed += reclaim::shrink_all(self.h.k, 0);
                }
                c.fail_trylock.set(0);
                c.fail_alloc.set(0);
            }
            Op::SwapOff => {
                let got = self.call(call::SWAPOFF, [0; 6]);
                assert_eq!(got, 0, "swapoff");
                assert_eq!(guest_vm::swap::usage(self.h.k).1, 0, "slots after swapoff");
                assert_eq!(self.call(call::SWAPON, [0; 6]), 0);
            }
            Op::ForkWithFew { pages } => {
                if self.spaces.len() < 6 {
                    let child = self.next_pid;
                    self.h.mailbox().child = child;
                    self.h.context().alloc_budget.set(Some(pages));
                    let got = self.call(call::FORK, [0; 6]);
                    self.h.context().alloc_budget.set(None);
                    if got == child {
                        self.next_pid += 1;
                        let copy = self.space().clone();
                        self.spaces.insert(child, copy);
                    }
                }
            }
            Op::RemapWithFew { at, pages, to, few } => {
                self.h.context().alloc_budget.set(Some(few));
                self.remap(Self::range(at, pages), 0, to);
                self.h.context().alloc_budget.set(None);
                // A refused move may or may not have made a hole: make it.
                let new = Self::range(to, pages);
                if !new.clone().any(|p| self.space().contains_key(&p)) {
                    let got = self.call(
                        call::MUNMAP,
                        [new.start << 12, (new.end - new.start) << 12, 0, 0, 0, 0],
                    );
                    assert_eq!(got, 0);
                }
            }
        }
    }

    pub fn switch(&mut self, pid: u32) {
        self.current = pid;
        self.h.mailbox().next = pid;
        self.h.enter(VECTOR_RESCHED);
    }

    fn map(&mut self, r: std::ops::Range<u32>, kind: u8, prot: u32, offset: u32) {
        let prot = [
            READ,
            READ | WRITE,
            READ | WRITE,
            READ | WRITE,
            READ | WRITE,
            0,
            WRITE | READ,
            READ | 4,
        ][prot as usize & 7];
        let (flags, id) = match kind {
            0 | 1 => (PRIVATE | ANONYMOUS, NO_FILE),
            2 => (PRIVATE, 1),
            3 => (SHARED, 1),
            4 => (PRIVATE, 2),
            5 => (SHARED, 0x8000_0001),
            _ => (SHARED | ANONYMOUS, NO_FILE),
        };
        let pgoff = if kind < 2 || kind == 6 { 0 } else { offset };
        let len = (r.end - r.start) << 12;
        let got = self.call(
            call::MMAP2,
            [r.start << 12, len, prot, flags | FIXED, id, pgoff],
        );
        assert_eq!(got, r.start << 12, "mmap");
        let shared = flags & SHARED != 0;
        let id = if kind == 6 {
            self.unnamed += 1;
            0xc000_0000 + self.unnamed - 1
        } else {
            id
        };
        let first = r.start;
        for p in r {
            let object = (id != NO_FILE).then(|| (id, pgoff + (p - first)));
            let page = PageModel {
                prot,
                shared,
                object,
                linear: true,
                own: None,
            };
            self.space().insert(p, page);
        }
    }

    /// An object dies with its last mapping; the model forgets its content then.
    fn forget_dead_objects(&mut self) {
        let alive: Vec<u32> = self
            .spaces
            .values()
            .flat_map(|s| s.values().filter_map(|p| p.object.map(|o| o.0)))
            .collect();
        self.objects
            .retain(|(id, _), _| *id < 0x8000_0000 || alive.contains(id));
    }

    fn remap(&mut self, r: std::ops::Range<u32>, grown: u32, to: u32) {
        // What a nonlinear mapping grows by continues its vma's offsets, which the model does not keep.
        let space = self.space();
        let linear = r.clone().all(|p| space.get(&p).is_none_or(|m| m.linear));
        let grown = if linear { grown } else { 0 };
        let new = Self::range(to, r.end - r.start + grown);
        let n = (r.end - r.start).min(new.end - new.start);
        if !self.whole(&r) || (r.start < new.end && new.start < r.end) {
            return;
        }
        let args = [
            r.start << 12,
            (r.end - r.start) << 12,
            (new.end - new.start) << 12,
            3,
            new.start << 12,
            0,
        ];
        let got = self.call(call::MREMAP, args);
        if got > 0xffff_f000 {
            // Refused: a hole was made at the target at most.
            self.space().retain(|p, _| !new.contains(p));
            // What the kernel still has there is asked for below, by reads.
            return;
        }
        assert_eq!(got, new.start << 12, "mremap");
        let moved: Vec<PageModel> = r.clone().map(|p| self.space()[&p]).collect();
        self.space()
            .retain(|p, _| !r.contains(p) && !new.contains(p));
        for (i, p) in new.clone().enumerate() {
            let page = match moved.get(i) {
                Some(m) => *m,
                // Grown: continues the last page's object.
                None => {
                    let last = moved[n as usize - 1];
                    let beyond = i as u32 + 1 - n;
                    PageModel {
                        object: last.object.map(|(id, o)| (id, o + beyond)),
                        own: None,
                        ..last
                    }
                }
            };
            self.space().insert(p, page);
        }
    }

    fn expected(&self, p: &PageModel) -> u32 {
        if let Some(own) = p.own {
            return own;
        }
        match p.object {
            None => 0,
            Some(o) => self
                .objects
                .get(&o)
                .copied()
                .unwrap_or(if o.0 < 0x8000_0000 {
                    file_word(o.0, o.1, 0)
                } else {
                    0
                }),
        }
    }

    fn touch(&mut self, page: u32, write: bool) {
        let Some(m) = self.space().get(&page).copied() else {
            return;
        };
        let need = if write { WRITE } else { READ };
        if m.prot & need == 0 {
            return;
        }
        let va = page << 12;
        if !write {
            assert_eq!(
                self.h.read_user(va),
                self.expected(&m),
                "content at {va:#x} of {m:?}"
            );
            return;
        }
        self.stamp += 1;
        let v = self.stamp;
        self.h.write_user(va, v);
        match m.object {
            Some(o) if m.shared => {
                self.objects.insert(o, v);
            }
            _ => self.space().get_mut(&page).expect("there").own = Some(v),
        }
    }

    fn unmap_probe(&mut self, which: prop::sample::Index, fail: u32) {
        let k = self.h.k;
        let scan = check::scan(k).expect("scan");
        let pfns: Vec<u32> = scan.pages.keys().copied().collect();
        if pfns.is_empty() {
            return;
        }
        let pfn = pfns[which.index(pfns.len())];
        self.h.context().fail_trylock.set(fail);
        self.h.mailbox().next = self.current;
        self.h.mailbox().unmap_pfn = pfn;
        self.h.mailbox().unmap_outcome = 0;
        self.h.enter(VECTOR_UNMAP);
        self.h.context().fail_trylock.set(0);
        let outcome = self.h.mailbox().unmap_outcome;
        *self.outcomes.entry(outcome).or_default() += 1;
        let mut left: Vec<Mapper> = Vec::new();
        check::mappers(k, pfn_to_page(k, pfn), |m| left.push(m));
        if outcome == Outcome::Success as u32 {
            assert!(left.is_empty(), "{left:?} still map {pfn:#x}");
        } else {
            assert!(
                !left.is_empty(),
                "outcome {outcome} but nothing maps {pfn:#x}"
            );
            // Without injected failures only locked vmas and nonlinear mappings hold out.
            assert_ne!(outcome, 0);
            assert!(fail != 0 || outcome != Outcome::NotACandidate as u32);
        }
    }

    /// One random history: all invariants after every operation, every word at the end, nothing left behind it.
    pub fn history(&mut self, ops: &[Op]) {
        for (i, op) in ops.iter().enumerate() {
            self.apply(op);
            if let Err(v) = check::all(self.h.k) {
                panic!("after operation {i}, {op:?}: {v:?}");
            }
        }
        self.read_all();
        check::all(self.h.k).expect("after reading everything");
        self.wind_up();
        check::all(self.h.k).expect("after the end");
        let scan = check::scan(self.h.k).expect("scan");
        assert!(scan.pages.is_empty(), "pages still mapped");
        assert_eq!(guest_vm::swap::usage(self.h.k).1, 0, "swap slots leaked");
    }

    /// Reads everything every process may read.
    pub fn read_all(&mut self) {
        let pids: Vec<u32> = self.spaces.keys().copied().collect();
        for pid in pids {
            self.switch(pid);
            let pages: Vec<u32> = self.space().keys().copied().collect();
            for p in pages {
                self.touch(p, false);
            }
        }
    }

    /// Unmaps everything and exits all but one process.
    pub fn wind_up(&mut self) {
        while self.spaces.len() > 1 {
            self.apply(&Op::Exit);
        }
        let got = self.call(call::MUNMAP, [BASE, PAGES << 12, 0, 0, 0, 0]);
        assert_eq!(got, 0);
        self.space().clear();
        // Pages that a COW copied away from stay in the swap cache until reclaim meets them.
        let k = self.h.k;
        for pfn in swap_cached(k) {
            assert!(
                reclaim::pageout(k, pfn_to_page(k, pfn)),
                "{pfn:#x} has users"
            );
        }
    }
}

/// Frames in the swap cache.
fn swap_cached<K: Kernel>(k: K) -> Vec<u32> {
    let tree = guest_vm::swap::swapper_space(k).page_tree(k);
    let mut from = 0;
    let mut out = Vec::new();
    while let Some((index, page)) = guest_vm::radix_tree::next(k, tree, from, None) {
        out.push(page_to_pfn(k, page));
        from = index + 1;
    }
    out
}
