//! The address-space operations on a plain native machine, held to an interval model: vma list, tree, merging, accounting,
//! and that nothing is left when the last process has gone.
mod harness;
mod space_model;

use guest_vm::kernel::Kernel;
use guest_vm::layout::{Mm, RbNode, Task, Vma, vm};
use guest_vm::mm;
use guest_vm::page_alloc::{self, zone};
use guest_vm::ptr::Low;
use guest_vm::rbtree::{BLACK, RED};
use guest_vm::rmap::anon_vma::{self, AnonVmaMap};
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::{ReverseMap, Scheme};
use guest_vm::slab::{self, CacheId};
use guest_vm::task;
use guest_vm::uaccess::Access;
use guest_vm::uaccess_direct::Direct;
use guest_vm::uaccess_split::Split;
use harness::Harness;
use lowmem_abi::boot::VECTOR_RESCHED;
use lowmem_abi::call;
use lowmem_abi::mailbox::{ExecMapping, NO_FILE, NO_RESULT};
use lowmem_abi::owner::Owner;
use lowmem_abi::probe::Probe;
use proptest::prelude::*;
use space_model::{Area, Fails, PAGE, Space};
use std::collections::{BTreeMap, BTreeSet};

const R: u32 = vm::READ;
const W: u32 = vm::WRITE;
const X: u32 = vm::EXEC;
const MAP_SHARED: u32 = 1;
const MAP_PRIVATE: u32 = 2;
const MAP_FIXED: u32 = 0x10;
const MAP_ANON: u32 = 0x20;
/// Base of the region the random operations play in.
const BASE: u32 = 0x4000_0000;
/// Its pages.
const PAGES: u32 = 48;
const BRK: u32 = 0x0900_0000;
const STACK: u32 = 0xbfff_0000;

/// A machine with processes, and their models.
struct World<S: Scheme, A: Access> {
    h: Harness<S, A>,
    models: BTreeMap<u32, Space>,
    current: u32,
    next_pid: u32,
    /// The model's anon_vmas made so far.
    anons: u32,
    /// Shared anonymous objects made so far: the model gives each a file of its own.
    objects: u32,
}

impl<S: Scheme, A: Access> World<S, A> {
    fn new() -> Self {
        Self::with_ram(64)
    }

    fn with_ram(mb: u32) -> Self {
        let mut h = Harness::<S, A>::new(mb);
        h.boot();
        h.mailbox().result = NO_RESULT;
        h.mailbox().next = 1;
        let k = h.k;
        let mut w = World {
            h,
            models: BTreeMap::new(),
            current: 1,
            next_pid: 2,
            objects: 0,
            anons: 0,
        };
        w.models
            .insert(1, Space::new(mm::unmapped_base(k), mm::task_size(k)));
        w
    }

    fn mm(&self) -> Low<Mm> {
        mm::current_mm(self.h.k)
    }

    fn model(&mut self) -> &mut Space {
        self.models
            .get_mut(&self.current)
            .expect("the running process has a model")
    }

    fn call(&mut self, nr: u32, args: &[u32]) -> u32 {
        let mut a = [0; 6];
        a[..args.len()].copy_from_slice(args);
        self.h.syscall(nr, a)
    }

    /// exec with a heap and a stack.
    fn exec(&mut self) {
        self.h.exec_list(&[ExecMapping {
            start: STACK - 4 * PAGE,
            end: STACK,
            prot: R | W,
            flags: MAP_PRIVATE | MAP_ANON | 0x100,
            file: NO_FILE,
            pgoff: 0,
        }]);
        let m = self.h.mailbox();
        m.exec_brk = BRK;
        m.exec_stack_top = STACK;
        m.exec_entry = 0x0804_8000;
        assert_eq!(self.call(call::EXECVE, &[]), 0);
        let k = self.h.k;
        let mut s = Space::new(mm::unmapped_base(k), mm::task_size(k));
        s.anon_vmas = w_anon::<S, A>(k);
        s.start_brk = BRK;
        s.brk = BRK;
        s.areas.push(Area {
            start: STACK - 4 * PAGE,
            end: STACK,
            flags: R
                | W
                | X
                | vm::MAYREAD
                | vm::MAYWRITE
                | vm::MAYEXEC
                | vm::GROWSDOWN
                | vm::ACCOUNT,
            file: None,
            pgoff: (STACK - 4 * PAGE) / PAGE,
            anon: None,
        });
        self.models.insert(self.current, s);
    }

    fn switch_to(&mut self, pid: u32) {
        self.h.mailbox().next = pid;
        self.h.enter(VECTOR_RESCHED);
        assert_eq!(self.h.mailbox().current, pid);
        self.current = pid;
    }

    fn fork(&mut self, nr: u32) -> u32 {
        let pid = self.next_pid;
        self.next_pid += 1;
        self.h.mailbox().child = pid;
        assert_eq!(self.call(nr, &[]), pid);
        let child = self.model().fork();
        self.models.insert(pid, child);
        pid
    }

    /// Exits the running process; `next` runs then (0: none).
    fn exit(&mut self, next: u32) {
        self.h.mailbox().next = next;
        self.models.remove(&self.current);
        self.call(call::EXIT, &[]);
        self.current = next;
    }

    /// Everything about all processes: lists, trees, sums, equality with the models.
    fn check(&self) {
        let k = self.h.k;
        let mut committed = 0;
        let mut anons = BTreeMap::new();
        for (&pid, model) in &self.models {
            let t: Low<Task> = task::find(k, pid);
            assert!(!t.is_null());
            let areas = check_mm(k, t.mm(k));
            assert_eq!(
                areas,
                self.renamed(&model.areas, &areas, &mut anons),
                "vmas of process {pid}"
            );
            assert_eq!(t.mm(k).total_vm(k), model.total_vm());
            assert_eq!(t.mm(k).locked_vm(k), model.locked_vm());
            assert_eq!(
                t.mm(k).free_area_cache(k),
                model.cache,
                "search cache of {pid}"
            );
            committed += model.committed();
        }
        let distinct: BTreeSet<u32> = anons.values().copied().collect();
        assert_eq!(
            distinct.len(),
            anons.len(),
            "two anon_vmas of the model are one"
        );
        assert_eq!(slab::usage(k, CacheId::AnonVma).1, distinct.len() as u32);
        assert_eq!(task::tasks(k).committed(k), committed);
        assert_eq!(task::tasks(k).nr_tasks(k), self.models.len() as u32);
        guest_vm::check::all(k).expect("invariants");
    }

    /// The model's areas, with its numbers of shared objects replaced by the kernel's ids, one to one.
    fn renamed(&self, model: &[Area], real: &[Area], anons: &mut BTreeMap<u32, u32>) -> Vec<Area> {
        let mut names: BTreeMap<u32, u32> = BTreeMap::new();
        let mut out = vec![];
        for (i, a) in model.iter().enumerate() {
            let mut a = *a;
            if let (Some(f), Some(r)) = (a.file, real.get(i).and_then(|r| r.file)) {
                if f >= 0x8000_0000 {
                    a.file = Some(*names.entry(f).or_insert(r));
                }
            }
            if let (Some(n), Some(r)) = (a.anon, real.get(i).and_then(|r| r.anon)) {
                a.anon = Some(*anons.entry(n).or_insert(r));
            }
            out.push(a);
        }
        out
    }
}

/// Whether the machine's scheme has anon_vmas.
fn w_anon<S: Scheme, A: Access>(_: harness::Native<S, A>) -> bool {
    <S::Map<harness::Native<S, A>> as ReverseMap<harness::Native<S, A>>>::VMA_BYTES == 12
}

/// Checks list against tree, colours, order and map_count of an mm; its vmas as the model writes them.
fn check_mm<K: Kernel>(k: K, mm: Low<Mm>) -> Vec<Area> {
    let mut list = vec![];
    let mut vma = mm.mmap(k);
    let mut end = 0;
    while !vma.is_null() {
        assert!(vma.start(k) >= end && vma.start(k) < vma.end(k));
        assert_eq!(vma.mm(k), mm);
        end = vma.end(k);
        list.push(vma);
        vma = vma.next(k);
    }
    let mut inorder = vec![];
    let root = mm.mm_rb(k);
    if !root.is_null() {
        assert_eq!(root.color(k), BLACK);
    }
    black_height(k, root, Low::NULL, &mut inorder);
    assert_eq!(inorder, list, "list and tree");
    assert_eq!(mm.map_count(k), list.len() as u32);
    let cache = mm.mmap_cache(k);
    assert!(cache.is_null() || list.contains(&cache));
    list.iter()
        .map(|v| Area {
            start: v.start(k),
            end: v.end(k),
            flags: v.flags(k),
            anon: anon_of(k, *v),
            file: if v.file(k).is_null() {
                None
            } else {
                Some(v.file(k).id(k))
            },
            pgoff: v.pgoff(k),
        })
        .collect()
}

/// The address of a vma's anon_vma, if the scheme has them.
fn anon_of<K: Kernel>(k: K, vma: Low<Vma>) -> Option<u32> {
    if <K::Rmap as ReverseMap<K>>::VMA_BYTES != 12 {
        return None;
    }
    Some(anon_vma::of_vma(k, vma).va()).filter(|&a| a != 0)
}

fn black_height<K: Kernel>(
    k: K,
    node: Low<RbNode>,
    parent: Low<RbNode>,
    out: &mut Vec<Low<Vma>>,
) -> u32 {
    if node.is_null() {
        return 1;
    }
    assert_eq!(node.parent(k), parent);
    if node.color(k) == RED {
        assert!(
            !parent.is_null() && parent.color(k) == BLACK,
            "red below red"
        );
    }
    let left = black_height(k, node.left(k), node, out);
    out.push(node.container(24));
    let right = black_height(k, node.right(k), node, out);
    assert_eq!(left, right, "black height");
    left + u32::from(node.color(k) == BLACK)
}

/// Objects in use of every cache that processes own, and pages by owner that are not a slab's.
fn in_use<K: Kernel>(k: K) -> BTreeMap<&'static str, u32> {
    use CacheId::*;
    let mut m = BTreeMap::new();
    for id in [
        Pgd,
        Pmd,
        Kpmd,
        AnonVma,
        Vma,
        slab::CacheId::Mm,
        slab::CacheId::Task,
        Sighand,
        Signal,
        Files,
        Fs,
        Filp,
        Inode,
        Dentry,
        Size128,
    ] {
        m.insert(id.name(), slab::usage(k, id).1);
    }
    guest_vm::lru::lru_add_drain(k);
    for pfn in 0..zone::node(k).max_pfn(k) {
        let owner = page_alloc::owner_of(k, page_alloc::pfn_to_page(k, pfn));
        for (o, name) in [
            (Owner::User, "user pages"),
            (Owner::Pte, "page tables"),
            (Owner::Stack, "stacks"),
            (Owner::PageCache, "page cache"),
        ] {
            if owner == o as u32 {
                *m.entry(name).or_default() += 1;
            }
        }
    }
    m
}

/// A random operation on the running process, in units of pages of the region.
#[derive(Debug, Clone)]
enum Op {
    Mmap {
        at: Option<u32>,
        len: u32,
        prot: u32,
    },
    MmapFile {
        at: u32,
        len: u32,
        prot: u32,
        shared: bool,
        file: u32,
        pgoff: u32,
    },
    MmapShared {
        at: u32,
        len: u32,
        prot: u32,
    },
    Munmap {
        at: u32,
        len: u32,
    },
    Mprotect {
        at: u32,
        len: u32,
        prot: u32,
    },
    Mremap {
        at: u32,
        old: u32,
        new: u32,
        may_move: bool,
        to: Option<u32>,
    },
    Brk {
        pages: u32,
    },
    Mlock {
        at: u32,
        len: u32,
        on: bool,
    },
    DontNeed {
        at: u32,
        len: u32,
    },
    Touch {
        at: u32,
        write: bool,
    },
    Fork,
    Switch {
        n: u32,
    },
    Exit {
        n: u32,
    },
}

fn prot() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(R),
        Just(R | W),
        Just(R | W),
        Just(R | W),
        Just(0),
        Just(R | X)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..PAGES;
    let len = 1..9u32;
    prop_oneof![
        4 => (proptest::option::of(at.clone()), len.clone(), prot())
            .prop_map(|(at, len, prot)| Op::Mmap { at, len, prot }),
        2 => (at.clone(), len.clone(), prot(), any::<bool>(), 1..3u32, 0..6u32).prop_map(
            |(at, len, prot, shared, file, pgoff)| Op::MmapFile { at, len, prot, shared, file, pgoff }
        ),
        1 => (at.clone(), len.clone(), prot())
            .prop_map(|(at, len, prot)| Op::MmapShared { at, len, prot }),
        3 => (at.clone(), len.clone()).prop_map(|(at, len)| Op::Munmap { at, len }),
        5 => (at.clone(), len.clone(), prot())
            .prop_map(|(at, len, prot)| Op::Mprotect { at, len, prot }),
        3 => (at.clone(), 1..9u32, 1..12u32, any::<bool>(), proptest::option::of(at.clone()))
            .prop_map(|(at, old, new, may_move, to)| Op::Mremap { at, old, new, may_move, to }),
        1 => (0..12u32).prop_map(|pages| Op::Brk { pages }),
        1 => (at.clone(), len.clone(), any::<bool>())
            .prop_map(|(at, len, on)| Op::Mlock { at, len, on }),
        1 => (at.clone(), len).prop_map(|(at, len)| Op::DontNeed { at, len }),
        8 => (at, any::<bool>()).prop_map(|(at, write)| Op::Touch { at, write }),
        1 => Just(Op::Fork),
        1 => (0..4u32).prop_map(|n| Op::Switch { n }),
        1 => (0..4u32).prop_map(|n| Op::Exit { n }),
    ]
}

fn errno(f: Fails) -> u32 {
    let n: u32 = match f {
        Fails::Enomem => 12,
        Fails::Efault => 14,
        Fails::Einval => 22,
        Fails::Eacces => 13,
    };
    n.wrapping_neg()
}

fn va(page: u32) -> u32 {
    BASE + page * PAGE
}

impl<S: Scheme, A: Access> World<S, A> {
    /// Runs `op` in kernel and model; both must agree on the result.
    fn step(&mut self, op: &Op) {
        match *op {
            Op::Mmap { at, len, prot } => {
                let fixed = at.map(va);
                let flags = MAP_PRIVATE | MAP_ANON | if at.is_some() { MAP_FIXED } else { 0 };
                let got = self.call(
                    call::MMAP2,
                    &[fixed.unwrap_or(0), len * PAGE, prot, flags, NO_FILE, 0],
                );
                let want = self.model().mmap((fixed, 0), len * PAGE, prot, (None, 0));
                assert_eq!(got, want.unwrap_or_else(errno));
            }
            Op::MmapFile {
                at,
                len,
                prot,
                shared,
                file,
                pgoff,
            } => {
                let flags = MAP_FIXED | if shared { MAP_SHARED } else { MAP_PRIVATE };
                let got = self.call(call::MMAP2, &[va(at), len * PAGE, prot, flags, file, pgoff]);
                let f = prot | if shared { vm::SHARED | vm::MAYSHARE } else { 0 };
                let want = self
                    .model()
                    .mmap((Some(va(at)), 0), len * PAGE, f, (Some(file), pgoff));
                assert_eq!(got, want.unwrap_or_else(errno));
            }
            Op::MmapShared { at, len, prot } => {
                let flags = MAP_FIXED | MAP_SHARED | MAP_ANON;
                let got = self.call(call::MMAP2, &[va(at), len * PAGE, prot, flags, NO_FILE, 0]);
                self.objects += 1;
                let id = 0x8000_0000 + self.objects;
                let f = prot | vm::SHARED | vm::MAYSHARE;
                let want = self
                    .model()
                    .mmap((Some(va(at)), 0), len * PAGE, f, (Some(id), 0));
                assert_eq!(got, want.unwrap_or_else(errno));
            }
            Op::Munmap { at, len } => {
                assert_eq!(self.call(call::MUNMAP, &[va(at), len * PAGE]), 0);
                self.model().munmap(va(at), len * PAGE);
            }
            Op::Mprotect { at, len, prot } => {
                let got = self.call(call::MPROTECT, &[va(at), len * PAGE, prot]);
                let want = self.model().mprotect(va(at), len * PAGE, prot);
                assert_eq!(got, want.map_or_else(errno, |()| 0));
            }
            Op::Mremap {
                at,
                old,
                new,
                may_move,
                to,
            } => {
                let to = to.filter(|_| may_move);
                let flags = u32::from(may_move) | if to.is_some() { 2 } else { 0 };
                let got = self.call(
                    call::MREMAP,
                    &[va(at), old * PAGE, new * PAGE, flags, to.map_or(0, va)],
                );
                let want =
                    self.model()
                        .mremap(va(at), (old * PAGE, new * PAGE), may_move, to.map(va));
                assert_eq!(got, want.unwrap_or_else(errno));
            }
            Op::Brk { pages } => {
                let got = self.call(call::BRK, &[BRK + pages * PAGE - pages]);
                let want = self.model().brk(BRK + pages * PAGE - pages);
                assert_eq!(got, want);
            }
            Op::Mlock { at, len, on } => {
                // Locking what cannot be faulted in fails in the middle; keep to what can.
                let (start, end) = (va(at), va(at + len));
                if on
                    && self
                        .model()
                        .areas
                        .iter()
                        .any(|a| a.start < end && a.end > start && a.flags & (R | W | X) == 0)
                {
                    return;
                }
                let nr = if on { call::MLOCK } else { call::MUNLOCK };
                let got = self.call(nr, &[start, len * PAGE]);
                let want = self.lock_in_model(start, len, on);
                assert_eq!(got, want.map_or_else(errno, |()| 0));
            }
            Op::DontNeed { at, len } => {
                let (start, end) = (va(at), va(at + len));
                let whole = (at..at + len).all(|p| {
                    self.model()
                        .at(va(p))
                        .is_some_and(|a| a.flags & vm::LOCKED == 0)
                });
                let got = self.call(call::MADVISE, &[start, end - start, 4]);
                assert_eq!(got == 0, whole);
            }
            Op::Touch { at, write } => {
                let a = self.model().at(va(at));
                let need = if write { W } else { R };
                if a.is_some_and(|a| a.flags & need != 0) {
                    self.h.touch(va(at), write);
                    if write {
                        self.note_write(va(at));
                    }
                }
            }
            Op::Fork => {
                if self.models.len() < 5 {
                    self.fork(call::FORK);
                }
            }
            Op::Switch { n } => {
                let pid = self.nth(n);
                self.switch_to(pid);
            }
            Op::Exit { n } => {
                if self.models.len() > 1 {
                    let me = self.current;
                    let next = self.nth(n);
                    if next != me {
                        self.exit(next);
                    }
                }
            }
        }
    }

    fn note_write(&mut self, addr: u32) {
        self.anons += 1;
        let fresh = self.anons;
        self.model().written(addr, fresh);
    }

    /// mlock in the model: vma by vma, and each newly locked one is written (or read) through.
    fn lock_in_model(&mut self, start: u32, len: u32, on: bool) -> Result<(), Fails> {
        let end = start + len * PAGE;
        let mut from = start;
        while from < end {
            let a = self.model().at(from).ok_or(Fails::Enomem)?;
            let to = a.end.min(end);
            self.model().mlock(from, to - from, on)?;
            if on && a.flags & vm::LOCKED == 0 && a.flags & W != 0 {
                self.note_write(from);
            }
            from = to;
        }
        Ok(())
    }

    fn nth(&self, n: u32) -> u32 {
        let i = n as usize % self.models.len();
        *self.models.keys().nth(i).expect("one process lives")
    }

    /// All processes exit.
    fn finish(&mut self) {
        while self.current != 0 {
            let next = self
                .models
                .keys()
                .copied()
                .find(|&p| p != self.current)
                .unwrap_or(0);
            self.exit(next);
        }
        task::reap(self.h.k);
    }
}

fn random_operations<S: Scheme, A: Access>(ops: &[Op]) {
    let mut w = World::<S, A>::new();
    w.exec();
    w.check();
    for op in ops {
        w.step(op);
        w.check();
    }
    w.finish();
    let k = w.h.k;
    let left = in_use(k);
    for (what, n) in &left {
        // Files (two at most) stay open in the table, their pages in the cache.
        let stays = ["filp", "inode_cache", "dentry_cache", "page cache"].contains(what);
        assert!(*n == 0 || stays, "{n} of {what} left");
    }
    assert!(left["filp"] <= 2 && left["inode_cache"] <= 2);
    assert_eq!(task::tasks(k).committed(k), 0);
    assert_eq!(task::tasks(k).mmlist_nr(k), 0);
}

/// mremap's growth of a locked area faults its new pages in; the model does not follow that.
fn without_locked_growth(ops: Vec<Op>) -> Vec<Op> {
    let locks = ops.iter().any(|o| matches!(o, Op::Mlock { on: true, .. }));
    if !locks {
        return ops;
    }
    ops.into_iter()
        .filter(|o| !matches!(o, Op::Mremap { .. }))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn operations_agree_with_the_interval_model(ops in proptest::collection::vec(op(), 1..60)) {
        random_operations::<PteChains, Direct>(&ops);
    }

    #[test]
    fn operations_agree_with_the_interval_model_on_4g4g(
        ops in proptest::collection::vec(op(), 1..60)
    ) {
        random_operations::<PteChains, Split>(&ops);
    }

    #[test]
    fn operations_agree_with_the_interval_model_under_anon_vma(
        ops in proptest::collection::vec(op(), 1..60)
    ) {
        random_operations::<AnonVmaMap, Direct>(&without_locked_growth(ops));
    }

    #[test]
    fn operations_agree_with_the_interval_model_under_anon_vma_on_4g4g(
        ops in proptest::collection::vec(op(), 1..60)
    ) {
        random_operations::<AnonVmaMap, Split>(&without_locked_growth(ops));
    }
}
