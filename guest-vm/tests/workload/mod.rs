//! Random address-space operations on the native harness beside a plain model of what every process must read.
//!
//! The model knows pages, not vmas: for each page of each process its rights and where its word comes from. After every operation
//! [`World::check`] holds kernel and model together; each read is compared. A call that fails for want of memory changes nothing,
//! or the part of its range that it had come to.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "part of a test"
)]

mod ops;

use crate::harness::Access;
use crate::harness::{Harness, Ring};
use guest_vm::axes::{Era, MapKind};
use guest_vm::check::{self, Mapper, Violation};
use guest_vm::cluster;
use guest_vm::kernel::Kernel;
use guest_vm::layout::{Page, vm};
use guest_vm::mm::current_mm;
use guest_vm::mm::fault::{Unserved, user_fault};
use guest_vm::page;
use guest_vm::page_alloc::{Gfp, page_to_pfn, pfn_to_page};
use guest_vm::pgtable::Pte;
use guest_vm::ptr::Low;
use guest_vm::reclaim::{self, Outcome};
use guest_vm::rmap::Scheme;
use guest_vm::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use guest_vm::task;
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED, VECTOR_UNMAP};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::port::file_word;
#[allow(
    unused_imports,
    reason = "a test takes one of the two kinds of histories"
)]
pub use ops::{Op, op, pressure_op};
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

/// Caches that calls and faults allocate from.
const CACHES: [CacheId; 5] = [
    CacheId::Vma,
    CacheId::AnonVma,
    CacheId::AnonVmaChain,
    CacheId::PteChain,
    CacheId::RadixNode,
];
/// Pages that are pinned at a time.
const PINS: usize = 4;

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
    /// From which page on a file that was truncated has nothing of its own.
    ends: BTreeMap<u32, u32>,
    /// Pages with a reference of ours.
    pins: Vec<Low<Page>>,
    /// Whether calls may fail for want of memory.
    few: bool,
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
            ends: BTreeMap::new(),
            pins: Vec::new(),
            few: false,
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
                if self.taken(got == 0) {
                    self.space().retain(|p, _| !r.contains(p));
                }
            }
            Op::Protect { at, pages, prot } => self.protect(Self::range(at, pages), prot),
            Op::Remap {
                at,
                pages,
                grown,
                to,
            } => self.remap(Self::range(at, pages), grown, to),
            Op::Nonlinear { at, pages, offset } => self.nonlinear(Self::range(at, pages), offset),
            Op::DontNeed { at, pages } => {
                let r = Self::range(at, pages);
                if self.whole(&r) {
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
            Op::Truncate { file, first } => self.truncate(file, first),
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
                    let got = self.call(nr, [r.start << 12, (r.end - r.start) << 12, 0, 0, 0, 0]);
                    self.taken(got == 0);
                }
            }
            Op::Touch { at, write } if self.few => self.fault(FIRST + at % PAGES, write),
            Op::Touch { at, write } => self.touch(FIRST + at % PAGES, write),
            Op::TouchMany { at, pages, write } => {
                for p in Self::range(at, pages) {
                    self.touch(p, write);
                }
            }
            Op::Fork => {
                if self.spaces.len() < 6 {
                    let child = self.next_pid;
                    self.h.mailbox().child = child;
                    let got = self.call(call::FORK, [0; 6]);
                    if self.taken(got == child) {
                        self.next_pid += 1;
                        let copy = self.space().clone();
                        self.spaces.insert(child, copy);
                    }
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
            Op::UnmapProbe { which, fail } => self.reclaiming(|w| w.unmap_probe(which, fail)),
            Op::PageOut { which } => self.reclaiming(|w| {
                let k = w.h.k;
                let cached = swap_cached(k);
                if !cached.is_empty() {
                    reclaim::pageout(k, pfn_to_page(k, cached[which.index(cached.len())]));
                }
            }),
            Op::Reclaim {
                rounds,
                fail_trylock,
                fail_alloc,
            } => self.reclaiming(|w| {
                let c = w.h.context();
                c.fail_trylock.set(fail_trylock);
                c.fail_alloc.set(fail_alloc);
                for _ in 0..rounds {
                    w.freed += reclaim::shrink_all(w.h.k, 0);
                }
                c.fail_trylock.set(0);
                c.fail_alloc.set(0);
            }),
            Op::SwapOff => {
                let got = self.call(call::SWAPOFF, [0; 6]);
                assert_eq!(got, 0, "swapoff");
                assert_eq!(guest_vm::swap::usage(self.h.k).1, 0, "slots after swapoff");
                assert_eq!(self.call(call::SWAPON, [0; 6]), 0);
            }
            Op::WithFew {
                ref op,
                pages,
                objects,
            } => self.with_few((pages, objects), op),
            Op::Pin { at } => self.pin(FIRST + at % PAGES),
            Op::Unpin => self.unpin(),
        }
    }

    /// Whether a call was done; one that was not must have been short of memory.
    fn taken(&self, done: bool) -> bool {
        assert!(done || self.few, "refused without need");
        done
    }

    /// Applies `op` while so many page allocations succeed and each cache has so many free objects.
    fn with_few(&mut self, (pages, objects): (u32, u32), op: &Op) {
        let k = self.h.k;
        let budget = &self.h.context().alloc_budget;
        let alloc = |id| kmem_cache_alloc(k, id, Gfp::Kernel).ok();
        let caches = CACHES.into_iter().filter(|id| id.object_bytes(k) != 0);
        for id in caches.clone() {
            let free: Vec<Low<u32>> = (0..objects).filter_map(|_| alloc(id)).collect();
            for object in free {
                kmem_cache_free(k, id, object);
            }
        }
        budget.set(Some(0));
        let mut held: Vec<(CacheId, Low<u32>)> = Vec::new();
        for id in caches {
            let free = std::iter::from_fn(|| alloc(id));
            let mut free: Vec<_> = free.map(|object| (id, object)).collect();
            let left = free.split_off(free.len().saturating_sub(objects as usize));
            for (id, object) in left {
                kmem_cache_free(k, id, object);
            }
            held.append(&mut free);
        }
        budget.set(Some(pages));
        self.few = true;
        self.apply_one(op);
        self.few = false;
        budget.set(None);
        for (id, object) in held {
            kmem_cache_free(k, id, object);
        }
    }

    /// A fault that may find no memory; nothing is read or written.
    fn fault(&mut self, page: u32, write: bool) {
        let need = if write { WRITE } else { READ };
        if self.space().get(&page).is_none_or(|m| m.prot & need == 0) {
            return;
        }
        let k = self.h.k;
        self.h.mailbox().next = self.current;
        if let Err(error) = k.mmu(page << 12, write, Ring::User) {
            match user_fault(k, page << 12, error) {
                Ok(_) | Err(Unserved::Oom(_)) => {}
                Err(Unserved::BadArea) => panic!("page {page:#x} is mapped"),
            }
        }
    }

    /// Writes to a private page and keeps a reference.
    fn pin(&mut self, page: u32) {
        let private = |m: &PageModel| !m.shared && m.prot & WRITE != 0;
        if !self.space().get(&page).is_some_and(private) {
            return;
        }
        self.touch(page, true);
        let k = self.h.k;
        let pinned = pfn_to_page(k, self.h.touch(page << 12, true));
        page::get_page(k, pinned);
        self.pins.push(pinned);
        if self.pins.len() > PINS {
            page::put_page(k, self.pins.remove(0));
        }
    }

    fn unpin(&mut self) {
        for page in self.pins.drain(..) {
            page::put_page(self.h.k, page);
        }
    }

    /// The ptes of pinned pages.
    fn pinned(&self) -> Vec<(u32, u32, u32)> {
        let mut ptes = Vec::new();
        for &page in &self.pins {
            check::mappers(self.h.k, page, |m| ptes.push((page.va(), m.mm, m.addr)));
        }
        ptes
    }

    /// Runs a part of reclaim. Where 2.6.7's try_to_unmap is followed it leaves pinned anonymous pages mapped: unmapped, they
    /// would be copied by the next write, and whoever holds the reference would have another page than the process.
    fn reclaiming(&mut self, f: impl FnOnce(&mut Self)) {
        let before = self.pinned();
        f(self);
        let asks = match R::KIND {
            // 2.6.5-aa did not.
            MapKind::AnonVma => self.h.k.axes().era() != Era::V2_6_5Aa,
            MapKind::AnonVmaRfc | MapKind::AnonVmaChain => true,
            _ => false,
        };
        if asks {
            assert_eq!(self.pinned(), before, "a pinned page was unmapped");
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
        if !self.taken(got == r.start << 12) {
            self.forget_hole(&r);
            return;
        }
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

    /// A call that first unmaps `r` was refused, before or after that.
    fn forget_hole(&mut self, r: &std::ops::Range<u32>) {
        let mapped = self.mapped();
        if r.clone().any(|p| mapped.contains_key(&p)) {
            assert!(self.few, "no hole was made");
        } else {
            self.space().retain(|p, _| !r.contains(p));
        }
    }

    /// What the running process has in the window by its vmas: rights of each page.
    fn mapped(&self) -> BTreeMap<u32, u32> {
        let k = self.h.k;
        let mut pages = BTreeMap::new();
        check::each_vma(k, current_mm(k), |vma| {
            let prot = vma.flags(k) & (vm::READ | vm::WRITE | vm::EXEC);
            pages.extend((vma.start(k) >> 12..vma.end(k) >> 12).map(|p| (p, prot)));
        });
        pages
    }

    fn protect(&mut self, r: std::ops::Range<u32>, prot: u32) {
        if !self.whole(&r) {
            return;
        }
        let len = (r.end - r.start) << 12;
        let got = self.call(call::MPROTECT, [r.start << 12, len, prot, 0, 0, 0]);
        let done = if self.taken(got == 0) {
            r.len()
        } else {
            // It goes from vma to vma, and stops at one.
            let mapped = self.mapped();
            r.clone().take_while(|p| mapped[p] == prot).count()
        };
        for p in r.take(done) {
            self.space().get_mut(&p).expect("whole").prot = prot;
        }
    }

    fn nonlinear(&mut self, r: std::ops::Range<u32>, offset: u32) {
        let len = (r.end - r.start) << 12;
        let args = [r.start << 12, len, 0, offset, 0, 0];
        let wanted: Vec<(u32, u32)> = r.zip(offset..).collect();
        let done = match self.call(call::REMAP_FILE_PAGES, args) {
            0 => wanted.len(),
            _ if !self.few => 0,
            // It goes from page to page, and stops at one.
            _ => {
                let shown = self.shown();
                wanted
                    .iter()
                    .take_while(|(p, o)| shown.get(p) == Some(o))
                    .count()
            }
        };
        for &(p, o) in &wanted[..done] {
            let page = self.space().get_mut(&p).expect("the kernel took it");
            // A page that was refused may look as one that was taken.
            if let Some((id, _)) = page.object.filter(|_| page.shared) {
                page.object = Some((id, o));
                page.linear = false;
            }
        }
    }

    /// Which page of its object each present pte of the running process shows.
    fn shown(&self) -> BTreeMap<u32, u32> {
        let k = self.h.k;
        let mut pages = BTreeMap::new();
        check::each_pte(k, current_mm(k), |m| {
            let pte = Pte(m.pte);
            if pte.present() {
                let index = pfn_to_page(k, pte.pfn()).index(k);
                pages.insert(m.addr >> 12, cluster::pgoff_of(k, index, pte));
            }
        });
        pages
    }

    /// Private copies of what is cut off go; who looks there afterwards finds zeros.
    fn truncate(&mut self, file: u32, first: u32) {
        let got = self.call(call::FTRUNCATE64, [file, first << 12, 0, 0, 0, 0]);
        assert_eq!(got, 0, "ftruncate");
        let cut = |(id, index): (u32, u32)| id == file && index >= first;
        self.objects.retain(|&at, _| !cut(at));
        let end = self.ends.entry(file).or_insert(first);
        *end = first.min(*end);
        for page in self.spaces.values_mut().flat_map(BTreeMap::values_mut) {
            if page.object.is_some_and(cut) {
                page.own = None;
            }
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
            self.forget_hole(&new);
            return;
        }
        assert_eq!(got, new.start << 12, "mremap");
        let moved: Vec<PageModel> = r.clone().map(|p| self.space()[&p]).collect();
        let left = self.left_behind(&r);
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
        self.space().extend(left);
    }

    /// What is at `r` after its pages were moved away: nothing, or for want of memory to split its vma an empty mapping.
    fn left_behind(&mut self, r: &std::ops::Range<u32>) -> Space {
        let k = self.h.k;
        let mut left = Space::new();
        check::each_vma(k, current_mm(k), |vma| {
            for p in r.clone() {
                if (vma.start(k)..vma.end(k)).contains(&(p << 12)) {
                    let pgoff = cluster::linear_pgoff(k, vma, p << 12);
                    let was = self.spaces[&self.current][&p];
                    let page = PageModel {
                        object: was.object.map(|(id, _)| (id, pgoff)),
                        linear: true,
                        own: None,
                        ..was
                    };
                    left.insert(p, page);
                }
            }
        });
        assert!(left.is_empty() || self.few, "the old range is there");
        left
    }

    fn expected(&self, p: &PageModel) -> u32 {
        if let Some(own) = p.own {
            return own;
        }
        match p.object {
            None => 0,
            Some(o) => self.objects.get(&o).copied().unwrap_or(
                if self.ends.get(&o.0).is_none_or(|end| o.1 < *end) && o.0 < 0x8000_0000 {
                    file_word(o.0, o.1, 0)
                } else {
                    0
                },
            ),
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

    fn unmap_probe(&mut self, which: proptest::sample::Index, fail: u32) {
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
            // 2.4 counts references, not mappings: a pin holds out like one.
            let pinned = R::KIND == MapKind::SwapOut && self.pins.contains(&pfn_to_page(k, pfn));
            assert!(
                pinned || !left.is_empty(),
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
            if let Err(v) = self.check() {
                panic!("after operation {i}, {op:?}: {v:?}");
            }
            self.accounts(|| format!("after operation {i}, {op:?}"));
        }
        self.read_all();
        self.check().expect("after reading everything");
        self.wind_up();
        check::all(self.h.k).expect("after the end");
        let scan = check::scan(self.h.k).expect("scan");
        assert!(scan.pages.is_empty(), "pages still mapped");
        assert_eq!(guest_vm::swap::usage(self.h.k).1, 0, "swap slots leaked");
    }

    /// All invariants of `check`, without the references that pins are.
    fn check(&mut self) -> Result<(), Violation> {
        let k = self.h.k;
        let all = self.pins.clone();
        // Nobody else has these pages any more.
        self.pins.retain(|&page| {
            let ours = all.iter().filter(|&&p| p == page).count() as u32;
            let shared = page.count(k) > ours;
            if !shared {
                page::put_page(k, page);
            }
            shared
        });
        for pin in &self.pins {
            k.atomic_add(pin.count_word(k), u32::MAX);
        }
        let result = check::all(k);
        for pin in &self.pins {
            page::get_page(k, *pin);
        }
        result
    }

    /// The running process has the pages and rights of its model; sums of pages are those of the vmas.
    fn accounts(&mut self, when: impl Fn() -> String) {
        let k = self.h.k;
        let model: BTreeMap<u32, u32> = self.space().iter().map(|(p, m)| (*p, m.prot)).collect();
        assert_eq!(self.mapped(), model, "{}", when());
        let mut committed = 0;
        check::each_mm(k, |mm| {
            let (mut total, mut locked) = (0, 0);
            check::each_vma(k, mm, |vma| {
                let pages = (vma.end(k) - vma.start(k)) >> 12;
                let having = |flag| if vma.flags(k) & flag != 0 { pages } else { 0 };
                total += pages;
                locked += having(vm::LOCKED);
                committed += having(vm::ACCOUNT);
            });
            assert_eq!(mm.total_vm(k), total, "total_vm {}", when());
            assert_eq!(mm.locked_vm(k), locked, "locked_vm {}", when());
        });
        assert_eq!(
            task::tasks(k).committed(k),
            committed,
            "committed {}",
            when()
        );
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
        self.unpin();
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
