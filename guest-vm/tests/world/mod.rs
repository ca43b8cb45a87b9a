//! A native machine with processes, each followed by the interval model; what both must agree on.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use crate::harness::Access;
use crate::harness::{Harness, Native};
use crate::space_model::{Area, DIRECT, Fails, PAGE, Space};
use guest_vm::axes::MapKind;
use guest_vm::cluster;
use guest_vm::kernel::Kernel;
use guest_vm::layout::{Mm, RbNode, Task, Vma, vm};
use guest_vm::mm;
use guest_vm::page_alloc::{self, zone};
use guest_vm::ptr::Low;
use guest_vm::rbtree::{BLACK, RED};
use guest_vm::rmap::{Scheme, anon_vma, anon_vma_chain};
use guest_vm::slab::{self, CacheId};
use guest_vm::task;
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED};
use lowmem_abi::call;
use lowmem_abi::mailbox::{ExecMapping, NO_FILE, NO_RESULT};
use lowmem_abi::owner::Owner;
use std::collections::{BTreeMap, BTreeSet};

pub const R: u32 = vm::READ;
pub const W: u32 = vm::WRITE;
pub const X: u32 = vm::EXEC;
pub const MAP_SHARED: u32 = 1;
pub const MAP_PRIVATE: u32 = 2;
pub const MAP_FIXED: u32 = 0x10;
pub const MAP_ANON: u32 = 0x20;
/// Base of the region the random operations play in.
pub const BASE: u32 = 0x4000_0000;
/// Its pages.
pub const PAGES: u32 = 48;
pub const BRK: u32 = 0x0900_0000;
pub const STACK: u32 = 0xbfff_0000;

/// A machine with processes, and their models.
pub struct World<S: Scheme, A: Access> {
    pub h: Harness<S, A>,
    pub models: BTreeMap<u32, Space>,
    pub current: u32,
    pub next_pid: u32,
    /// The model's anon_vmas made so far.
    pub anons: u32,
    /// Shared anonymous objects made so far: the model gives each a file of its own.
    pub objects: u32,
}

impl<S: Scheme, A: Access> World<S, A> {
    pub fn new() -> Self {
        Self::with_ram(64)
    }

    pub fn with_ram(mb: u32) -> Self {
        Self::with_info(Harness::<S, A>::info(mb))
    }

    pub fn with_info(info: BootInfo) -> Self {
        let mut h = Harness::<S, A>::with_info(info);
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

    pub fn mm(&self) -> Low<Mm> {
        mm::current_mm(self.h.k)
    }

    pub fn model(&mut self) -> &mut Space {
        self.models
            .get_mut(&self.current)
            .expect("the running process has a model")
    }

    pub fn call(&mut self, nr: u32, args: &[u32]) -> u32 {
        let mut a = [0; 6];
        a[..args.len()].copy_from_slice(args);
        self.h.syscall(nr, a)
    }

    /// exec with a heap and a stack.
    pub fn exec(&mut self) {
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
        s.anon_vmas = w_anon(k);
        s.phase = cluster::mmu_count(k) - 1;
        // The argument page is in the stack.
        let anon = (s.anon_vmas && A::SHIFT.is_none()).then_some(self.fresh_anon());
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
            anon,
        });
        self.models.insert(self.current, s);
    }

    pub fn switch_to(&mut self, pid: u32) {
        self.h.mailbox().next = pid;
        self.h.enter(VECTOR_RESCHED);
        assert_eq!(self.h.mailbox().current, pid);
        self.current = pid;
    }

    pub fn fork(&mut self, nr: u32) -> u32 {
        let pid = self.next_pid;
        self.next_pid += 1;
        self.h.mailbox().child = pid;
        assert_eq!(self.call(nr, &[]), pid);
        let mut anons = self.anons;
        let mut fresh = || {
            anons += 1;
            anons
        };
        if S::KIND == MapKind::AnonVmaRfc {
            self.model().share(&mut fresh);
        }
        let mut child = self.model().fork();
        if S::KIND == MapKind::AnonVmaChain {
            child.branch(&mut fresh);
        }
        self.anons = anons;
        self.models.insert(pid, child);
        pid
    }

    /// What the first write to a vma gives it.
    pub fn fresh_anon(&mut self) -> u32 {
        self.anons += 1;
        match S::KIND {
            MapKind::AnonVmaRfc => DIRECT,
            _ => self.anons,
        }
    }

    /// Exits the running process; `next` runs then (0: none).
    pub fn exit(&mut self, next: u32) {
        self.h.mailbox().next = next;
        self.models.remove(&self.current);
        self.call(call::EXIT, &[]);
        self.current = next;
    }

    /// Everything about all processes: lists, trees, sums, equality with the models.
    pub fn check(&self) {
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
        // An ancestor's lives while a descendant's does.
        let used: BTreeSet<u32> = self
            .models
            .values()
            .flat_map(Space::with_ancestors)
            .collect();
        assert_eq!(slab::usage(k, CacheId::AnonVma).1, used.len() as u32);
        assert_eq!(task::tasks(k).committed(k), committed);
        assert_eq!(task::tasks(k).nr_tasks(k), self.models.len() as u32);
        guest_vm::check::all(k).expect("invariants");
    }

    /// The model's areas, with its numbers of shared objects replaced by the kernel's ids, one to one.
    pub fn renamed(
        &self,
        model: &[Area],
        real: &[Area],
        anons: &mut BTreeMap<u32, u32>,
    ) -> Vec<Area> {
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

/// Whether the machine's scheme marks a vma from the first write on: by an anon_vma, or as having pages.
pub fn w_anon(k: Native) -> bool {
    matches!(
        k.axes().rmap,
        MapKind::AnonVma | MapKind::AnonVmaChain | MapKind::AnonVmaRfc
    )
}

/// Checks list against tree, colours, order and map_count of an mm; its vmas as the model writes them.
pub fn check_mm<K: Kernel>(k: K, mm: Low<Mm>) -> Vec<Area> {
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
pub fn anon_of<K: Kernel>(k: K, vma: Low<Vma>) -> Option<u32> {
    let at = match k.axes().rmap {
        // Under anon_vma_rfc before a fork all that have pages are alike.
        MapKind::AnonVma | MapKind::AnonVmaRfc => {
            let part: Low<anon_vma::VmaPart> = vma.rmap_fields(k);
            part.anon_vma(k).va()
        }
        MapKind::AnonVmaChain => anon_vma_chain::of_vma(k, vma).va(),
        _ => 0,
    };
    Some(at).filter(|&a| a != 0)
}

pub fn black_height<K: Kernel>(
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
pub fn in_use<K: Kernel>(k: K) -> BTreeMap<&'static str, u32> {
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
            (Owner::PageCache, "page cache"),
        ] {
            if owner == o as u32 {
                *m.entry(name).or_default() += 1;
            }
        }
    }
    // Where a page is larger than a stack, stacks are objects of a cache.
    let stacks = if cluster::page_bytes(k) > 8192 {
        slab::usage(k, Stack).1
    } else {
        pages_of(k, Owner::Stack)
    };
    m.insert("stacks", stacks);
    m
}

/// Frames of pages with this owner.
fn pages_of<K: Kernel>(k: K, owner: Owner) -> u32 {
    (0..zone::node(k).max_pfn(k))
        .filter(|&pfn| page_alloc::owner_of(k, page_alloc::pfn_to_page(k, pfn)) == owner as u32)
        .count() as u32
}

impl<S: Scheme, A: Access> World<S, A> {
    pub fn nth(&self, n: u32) -> u32 {
        let i = n as usize % self.models.len();
        *self.models.keys().nth(i).expect("one process lives")
    }

    /// All processes exit.
    pub fn finish(&mut self) {
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

pub fn errno(f: Fails) -> u32 {
    let n: u32 = match f {
        Fails::Enomem => 12,
        Fails::Efault => 14,
        Fails::Einval => 22,
        Fails::Eacces => 13,
    };
    n.wrapping_neg()
}

pub fn va(page: u32) -> u32 {
    BASE + page * PAGE
}
