//! The slow twin of `mm/`: an address space as a plain sorted list of intervals, with merging as the table of cases says,
//! without trees, locks or pages. Follows the behaviour of mm/mmap.c, mm/mremap.c, mm/mprotect.c and mm/mlock.c of 2.6.7.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use guest_vm::layout::vm;
use std::collections::{BTreeMap, BTreeSet};

pub const PAGE: u32 = 4096;
const RWX: u32 = vm::READ | vm::WRITE | vm::EXEC;
/// [`Area::anon`] of an area that has pages and no anon_vma (anon_vma_rfc before a fork).
pub const DIRECT: u32 = 0;
const SPECIAL: u32 = vm::IO | vm::DONTCOPY | vm::DONTEXPAND | vm::RESERVED;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    pub start: u32,
    pub end: u32,
    pub flags: u32,
    /// File id, or None.
    pub file: Option<u32>,
    pub pgoff: u32,
    /// Which anon_vma it has, if any (numbers of the model's own); always None for schemes without.
    pub anon: Option<u32>,
}

impl Area {
    fn pages(&self) -> u32 {
        (self.end - self.start) / PAGE
    }
    fn cut(&self, start: u32, end: u32) -> Area {
        Area {
            start,
            end,
            pgoff: self.pgoff.wrapping_add((start - self.start) / PAGE),
            ..*self
        }
    }
    fn anon_vma(&self) -> Option<u32> {
        self.anon.filter(|&a| a != DIRECT)
    }
    /// Whether `self` and `next` can be one vma.
    fn joins(&self, next: &Area) -> bool {
        self.end == next.start
            && self.flags == next.flags
            && self.flags & SPECIAL == 0
            && self.file == next.file
            && self.pgoff.wrapping_add(self.pages()) == next.pgoff
            && self
                .anon_vma()
                .is_none_or(|a| next.anon_vma().is_none_or(|b| a == b))
    }
    /// Whether `self` and `next` could be one vma if their access were the same and neither had an anon_vma.
    fn could_join(&self, next: &Area) -> bool {
        let alike = |a: &Area| Area {
            flags: a.flags & !RWX,
            anon: None,
            ..*a
        };
        alike(self).joins(&alike(next))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    Enomem,
    Efault,
    Einval,
    Eacces,
}

#[derive(Debug, Clone)]
pub struct Space {
    pub areas: Vec<Area>,
    pub cache: u32,
    pub base: u32,
    pub limit: u32,
    pub start_brk: u32,
    pub brk: u32,
    /// Frames of a page less 1: what moves keeps these bits of its page offset.
    pub phase: u32,
    /// Whether the scheme has anon_vmas.
    pub anon_vmas: bool,
    /// Under anon_vma_chain: of which anon_vma an anon_vma is the child.
    pub above: BTreeMap<u32, u32>,
}

impl Space {
    pub fn new(base: u32, limit: u32) -> Self {
        Space {
            phase: 0,
            anon_vmas: false,
            above: BTreeMap::new(),
            areas: vec![],
            cache: base,
            base,
            limit,
            start_brk: 0,
            brk: 0,
        }
    }

    pub fn total_vm(&self) -> u32 {
        self.areas.iter().map(Area::pages).sum()
    }
    pub fn locked_vm(&self) -> u32 {
        self.areas
            .iter()
            .filter(|a| a.flags & vm::LOCKED != 0)
            .map(Area::pages)
            .sum()
    }
    pub fn committed(&self) -> u32 {
        self.areas
            .iter()
            .filter(|a| a.flags & vm::ACCOUNT != 0)
            .map(Area::pages)
            .sum()
    }

    pub fn at(&self, addr: u32) -> Option<Area> {
        self.areas
            .iter()
            .copied()
            .find(|a| a.start <= addr && addr < a.end)
    }

    fn split_at(&mut self, addr: u32) {
        if let Some(i) = self
            .areas
            .iter()
            .position(|a| a.start < addr && addr < a.end)
        {
            let a = self.areas[i];
            self.areas[i] = a.cut(a.start, addr);
            self.areas.insert(i + 1, a.cut(addr, a.end));
        }
    }

    /// Puts an area into free space and joins it with its neighbours.
    fn insert_merged(&mut self, area: Area) {
        let mut i = self.areas.partition_point(|a| a.start < area.start);
        self.areas.insert(i, area);
        if i > 0 && self.areas[i - 1].joins(&self.areas[i]) {
            self.areas[i - 1].end = area.end;
            self.areas[i - 1].anon = self.areas[i - 1].anon.max(area.anon);
            self.areas.remove(i);
            i -= 1;
        }
        if i + 1 < self.areas.len() && self.areas[i].joins(&self.areas[i + 1]) {
            self.areas[i].end = self.areas[i + 1].end;
            self.areas[i].anon = self.areas[i].anon.max(self.areas[i + 1].anon);
            self.areas.remove(i + 1);
        }
    }

    fn insert_plain(&mut self, area: Area) {
        let i = self.areas.partition_point(|a| a.start < area.start);
        self.areas.insert(i, area);
    }

    pub fn munmap(&mut self, start: u32, len: u32) {
        let end = start + len;
        if !self.areas.iter().any(|a| a.start < end && a.end > start) {
            return;
        }
        self.split_at(start);
        self.split_at(end);
        for a in self
            .areas
            .iter()
            .filter(|a| a.start >= start && a.end <= end)
        {
            if a.start >= self.base && a.start < self.cache {
                self.cache = a.start;
            }
        }
        self.areas.retain(|a| a.end <= start || a.start >= end);
    }

    fn free(&self, start: u32, len: u32) -> bool {
        self.areas
            .iter()
            .all(|a| a.end <= start || a.start >= start + len)
    }

    pub fn search(&mut self, hint: u32, len: u32) -> Result<u32, Fails> {
        if hint != 0 && self.limit - len >= hint && self.free(hint, len) {
            return Ok(hint);
        }
        for from in [self.cache, self.base] {
            let mut addr = from;
            while self.limit - len >= addr {
                match self.areas.iter().find(|a| a.end > addr) {
                    Some(a) if addr + len > a.start => addr = a.end,
                    _ => {
                        self.cache = addr + len;
                        return Ok(addr);
                    }
                }
            }
        }
        Err(Fails::Enomem)
    }

    /// `fixed`: the address; else by search from `hint`. `file`: id of a file, or of the shared object made for it.
    pub fn mmap(
        &mut self,
        (fixed, hint): (Option<u32>, u32),
        len: u32,
        mut flags: u32,
        (file, pgoff): (Option<u32>, u32),
    ) -> Result<u32, Fails> {
        let addr = match fixed {
            Some(a) => a,
            None => self.search(hint, len)?,
        };
        self.munmap(addr, len);
        flags |= vm::MAYREAD | vm::MAYWRITE | vm::MAYEXEC;
        if flags & vm::SHARED == 0 && flags & vm::WRITE != 0 {
            flags |= vm::ACCOUNT;
        }
        let pgoff = if file.is_none() { addr / PAGE } else { pgoff };
        self.insert_merged(Area {
            start: addr,
            end: addr + len,
            flags,
            file,
            pgoff,
            anon: None,
        });
        Ok(addr)
    }

    pub fn mprotect(&mut self, start: u32, len: u32, prot: u32) -> Result<(), Fails> {
        let end = start + len;
        let mut from = start;
        while from < end {
            let Some(a) = self.at(from) else {
                return Err(Fails::Enomem);
            };
            let to = a.end.min(end);
            let mut flags = a.flags & !RWX | prot;
            if flags != a.flags {
                if prot & vm::WRITE != 0 && a.flags & (vm::ACCOUNT | vm::WRITE | vm::SHARED) == 0 {
                    flags |= vm::ACCOUNT;
                }
                self.split_at(from);
                self.split_at(to);
                self.areas.retain(|x| x.start != from);
                self.insert_merged(Area {
                    flags,
                    ..a.cut(from, to)
                });
                from = to;
            } else {
                from = to;
            }
        }
        Ok(())
    }

    pub fn mlock(&mut self, start: u32, len: u32, on: bool) -> Result<(), Fails> {
        let end = start + len;
        let mut from = start;
        while from < end {
            let Some(a) = self.at(from) else {
                return Err(Fails::Enomem);
            };
            let to = a.end.min(end);
            let flags = if on {
                a.flags | vm::LOCKED
            } else {
                a.flags & !vm::LOCKED
            };
            if flags != a.flags {
                self.split_at(from);
                self.split_at(to);
                let i = self
                    .areas
                    .iter()
                    .position(|x| x.start == from)
                    .expect("just split");
                self.areas[i].flags = flags;
            }
            from = to;
        }
        Ok(())
    }

    pub fn mremap(
        &mut self,
        addr: u32,
        (old_len, new_len): (u32, u32),
        may_move: bool,
        fixed: Option<u32>,
    ) -> Result<u32, Fails> {
        let mut old_len = old_len;
        if let Some(to) = fixed {
            if (to <= addr && to + new_len > addr) || (addr <= to && addr + old_len > to) {
                return Err(Fails::Einval);
            }
            self.munmap(to, new_len);
        }
        if old_len >= new_len {
            if old_len > new_len {
                self.munmap(addr + new_len, old_len - new_len);
            }
            if fixed.is_none() {
                return Ok(addr);
            }
            old_len = new_len;
        }
        let Some(a) = self.at(addr) else {
            return Err(Fails::Efault);
        };
        if old_len > a.end - addr {
            return Err(Fails::Efault);
        }
        if fixed.is_none() && addr + old_len == a.end {
            let i = self
                .areas
                .iter()
                .position(|x| x.start == a.start)
                .expect("found above");
            let room = self.areas.get(i + 1).map_or(self.limit, |n| n.start);
            if room - addr >= new_len {
                self.areas[i].end = addr + new_len;
                return Ok(addr);
            }
        }
        if !may_move {
            return Err(Fails::Enomem);
        }
        let to = match fixed {
            Some(to) => to,
            None => self.search(0, new_len)?,
        };
        let kept = a.cut(addr, a.end).pgoff;
        let in_phase = ((to / PAGE) ^ kept) & self.phase == 0;
        let pgoff = if a.file.is_none() && a.anon.is_none() && in_phase {
            to / PAGE
        } else {
            kept
        };
        self.insert_merged(Area {
            start: to,
            end: to + new_len,
            pgoff,
            ..a
        });
        self.munmap(addr, old_len);
        Ok(to)
    }

    pub fn brk(&mut self, brk: u32) -> u32 {
        let up = |x: u32| x.next_multiple_of(PAGE);
        if brk < self.start_brk || brk > self.limit {
            return self.brk;
        }
        let (new, old) = (up(brk), up(self.brk));
        if new < old {
            self.munmap(new, old - new);
        } else if new > old {
            if self
                .areas
                .iter()
                .any(|a| a.end > old && a.start < new + PAGE)
            {
                return self.brk;
            }
            self.insert_merged(Area {
                start: old,
                end: new,
                flags: RWX | vm::MAYREAD | vm::MAYWRITE | vm::MAYEXEC | vm::ACCOUNT,
                file: None,
                pgoff: old / PAGE,
                anon: None,
            });
        }
        self.brk = brk;
        brk
    }

    pub fn fork(&self) -> Space {
        let mut child = self.clone();
        child.cache = self.base;
        child.areas.retain(|a| a.flags & vm::DONTCOPY == 0);
        for a in &mut child.areas {
            a.flags &= !vm::LOCKED;
        }
        child
    }

    /// Each area that has pages directly gets an anon_vma.
    pub fn share(&mut self, mut fresh: impl FnMut() -> u32) {
        for a in self.areas.iter_mut().filter(|a| a.anon == Some(DIRECT)) {
            a.anon = Some(fresh());
        }
    }

    /// Each area gets an anon_vma of its own, a child of the one that it was copied with.
    pub fn branch(&mut self, mut fresh: impl FnMut() -> u32) {
        for a in &mut self.areas {
            if let Some(parent) = a.anon {
                let child = fresh();
                self.above.insert(child, parent);
                a.anon = Some(child);
            }
        }
    }

    /// The anon_vmas of its areas and all above them.
    pub fn with_ancestors(&self) -> BTreeSet<u32> {
        let mut all = BTreeSet::new();
        for a in &self.areas {
            let mut at = a.anon_vma();
            while let Some(id) = at {
                all.insert(id);
                at = self.above.get(&id).copied();
            }
        }
        all
    }

    /// A write at `addr`: a private area gets an anon_vma before its first anonymous page, its neighbour's (next first) if they could
    /// merge and it is nobody's child, else a new one, numbered `fresh`.
    pub fn written(&mut self, addr: u32, fresh: u32) {
        let i = self
            .areas
            .iter()
            .position(|a| a.start <= addr && addr < a.end);
        let i = i.expect("written addresses are mapped");
        let a = self.areas[i];
        if !self.anon_vmas || a.anon.is_some() || a.flags & vm::SHARED != 0 {
            return;
        }
        let sharable = |n: &Area| n.anon.is_some_and(|id| !self.above.contains_key(&id));
        let next = self.areas.get(i + 1);
        let next = next.filter(|n| fresh != DIRECT && sharable(n) && a.could_join(n));
        let prev = i.checked_sub(1).map(|p| self.areas[p]);
        let prev = prev.filter(|p| fresh != DIRECT && sharable(p) && p.could_join(&a));
        self.areas[i].anon = next.copied().or(prev).map_or(Some(fresh), |n| n.anon);
    }
}
