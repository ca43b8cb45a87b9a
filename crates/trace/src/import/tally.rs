//! What a recording did, counted as the recordings' reference replay (`check.py`) counts it.
//!
//! The life of every address space in *recorded* order: mappings, pages, who shares them. Its totals must equal
//! `totals.json` number by number, which is the test that the importer understood the recording. It also answers the
//! importer's questions: which area a fault fell in, what a call changed.
//!
//! Left out: everything about scheduling and packing.
//!
//! Invariant: `sharers` holds, for each page key, the number of page-table entries that show it.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    op::{Access, Prot},
    space::{Area, Object, PAGE, Space, page_down, page_up},
};

/// How far a stack may grow below its first mapping; the reference replay's constant.
const STACK_REACH: u64 = 64 << 20;

/// What one page-table entry shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Anon(u32),
    Zero,
    FilePrivate(u32, u64),
    FileShared(u32, u64),
    Shm(u32, u64),
}

impl Key {
    const fn class(self) -> &'static str {
        match self {
            Self::Anon(_) => "anon",
            Self::Zero => "zero",
            Self::FilePrivate(..) => "fpriv",
            Self::FileShared(..) => "fshared",
            Self::Shm(..) => "shm",
        }
    }
}

/// One address space.
#[derive(Debug, Default)]
pub(super) struct Mm {
    pub(super) space: Space,
    pages: HashMap<u64, Key>,
    users: u32,
    pub(super) brk: Option<u64>,
    pub(super) stack: Option<(u64, u64)>,
    pub(super) lineage: u32,
    /// The image whose heap is not yet known.
    pub(super) image: Option<u32>,
}

/// Where a fault fell.
#[derive(Clone, Copy, Debug)]
pub(super) enum Landing {
    Area(Area),
    /// The null page: the program gets SIGSEGV.
    Signal,
    Nowhere,
}

/// How a child shares the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    Copy,
    Vfork,
    Thread,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    mms: Vec<Mm>,
    of: HashMap<u32, u32>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    sharers: HashMap<Key, u32>,
    max_sharers: BTreeMap<&'static str, u64>,
    touched: HashSet<(u32, u64)>,
    next_anon: u32,
    live: u64,
    lineages: u32,
}

const ZEROS: [&str; 38] = [
    "processes",
    "threads",
    "forks",
    "vforks",
    "execs",
    "exits",
    "mmaps",
    "munmaps",
    "mremaps",
    "mremap_moves",
    "mprotects",
    "brks",
    "remaps",
    "madvises",
    "shmats",
    "segv",
    "syscalls_failed",
    "faults",
    "faults_user",
    "faults_kernel",
    "faults_write",
    "faults_exec",
    "faults_cow",
    "unresolved",
    "unresolved_dead",
    "syscalls",
    "ctxsw",
    "ctxsw_ptrace",
    "mmap2",
    "lost",
    "faults_file",
    "faults_shared",
    "faults_anon",
    "max_live_mms",
    "max_vmas",
    "max_footprint",
    "max_accessible",
    "addr_hi",
];

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            counts: ZEROS.into_iter().map(|k| (k, 0)).collect(),
            ..Self::default()
        }
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn at_least(&mut self, what: &'static str, value: u64) {
        let max = self.counts.entry(what).or_default();
        *max = value.max(*max);
    }

    /// The totals under their public names.
    pub(super) fn totals(&mut self) -> crate::Totals {
        for id in 0..self.mms.len() {
            self.stat(id as u32);
        }
        let mut counts: BTreeMap<String, u64> = self
            .counts
            .iter()
            .map(|(&k, &v)| (k.to_owned(), v))
            .collect();
        for (bytes, mib) in [
            ("max_footprint", "max_footprint_MiB"),
            ("max_accessible", "max_accessible_MiB"),
        ] {
            let value = counts.remove(bytes).unwrap_or(0);
            counts.insert(mib.to_owned(), value >> 20);
        }
        counts.insert("touched_pages_mm".to_owned(), self.touched.len() as u64);
        let max_sharers = self
            .max_sharers
            .iter()
            .filter(|(k, _)| **k != "zero")
            .map(|(&k, &v)| (k.to_owned(), v))
            .collect();
        crate::Totals {
            counts,
            max_sharers,
        }
    }

    pub(super) const fn lineages(&self) -> u32 {
        self.lineages
    }

    pub(super) fn knows(&self, tid: u32) -> bool {
        self.of.contains_key(&tid)
    }

    pub(super) fn mm_id(&self, tid: u32) -> Option<u32> {
        self.of.get(&tid).copied()
    }

    pub(super) fn mm(&mut self, tid: u32) -> Option<&mut Mm> {
        let id = *self.of.get(&tid)?;
        Some(&mut self.mms[id as usize])
    }

    pub(super) fn fresh_object(&mut self) -> u32 {
        self.next_anon += 1;
        self.next_anon
    }

    fn stat(&mut self, id: u32) {
        let space = &self.mms[id as usize].space;
        let high = space.iter().next_back().map_or(0, |a| a.end);
        let (len, footprint, accessible) =
            (space.len() as u64, space.footprint(), space.accessible());
        self.at_least("max_vmas", len);
        self.at_least("max_footprint", footprint);
        self.at_least("max_accessible", accessible);
        self.at_least("addr_hi", high);
    }

    fn inc(&mut self, key: Key) {
        let n = self.sharers.entry(key).or_default();
        *n += 1;
        let max = self.max_sharers.entry(key.class()).or_default();
        *max = u64::from(*n).max(*max);
    }

    fn dec(&mut self, key: Key) {
        if let Some(n) = self.sharers.get_mut(&key) {
            *n -= 1;
            if *n == 0 {
                self.sharers.remove(&key);
            }
        }
    }

    fn unmap_pages(&mut self, id: u32, start: u64, end: u64) {
        let pages = &mut self.mms[id as usize].pages;
        let gone: Vec<Key> = if end.saturating_sub(start) / PAGE > pages.len() as u64 {
            let mut gone = Vec::new();
            pages.retain(|&p, &mut key| {
                let inside = (start..end).contains(&p);
                if inside {
                    gone.push(key);
                }
                !inside
            });
            gone
        } else {
            (start..end)
                .step_by(PAGE as usize)
                .filter_map(|p| pages.remove(&p))
                .collect()
        };
        gone.into_iter().for_each(|k| self.dec(k));
    }

    fn drop_mm(&mut self, id: u32) {
        let mm = &mut self.mms[id as usize];
        mm.users -= 1;
        if mm.users == 0 {
            self.live -= 1;
            self.stat(id);
            let mm = &mut self.mms[id as usize];
            let pages = std::mem::take(&mut mm.pages);
            mm.space = Space::default();
            pages.into_values().for_each(|k| self.dec(k));
        }
    }

    fn new_mm(&mut self) -> u32 {
        let lineage = self.lineages;
        self.lineages += 1;
        self.live += 1;
        self.mms.push(Mm {
            users: 1,
            lineage,
            ..Mm::default()
        });
        self.mms.len() as u32 - 1
    }

    /// A thread that was running before the recording began.
    pub(super) fn appear(&mut self, tid: u32) {
        let id = self.new_mm();
        self.of.insert(tid, id);
        self.count("processes");
    }

    /// Gives a child its address space. False if the child is known already.
    pub(super) fn fork(&mut self, parent: u32, child: u32, sharing: Sharing) -> bool {
        let Some(from) = self.mm_id(parent) else {
            return false;
        };
        if self.knows(child) {
            return false;
        }
        if sharing != Sharing::Copy {
            self.mms[from as usize].users += 1;
            self.of.insert(child, from);
            if sharing == Sharing::Thread {
                self.count("threads");
            } else {
                self.count("vforks");
                self.count("processes");
            }
        } else {
            let source = &self.mms[from as usize];
            let copied: HashMap<u64, Key> = source
                .pages
                .iter()
                .filter(|&(&p, key)| matches!(key, Key::Anon(_)) && source.space.find(p).is_some())
                .map(|(&p, &key)| (p, key))
                .collect();
            let mm = Mm {
                space: source.space.clone(),
                users: 1,
                brk: source.brk,
                stack: source.stack,
                lineage: source.lineage,
                ..Mm::default()
            };
            copied.values().for_each(|&k| self.inc(k));
            self.mms.push(Mm {
                pages: copied,
                ..mm
            });
            self.live += 1;
            self.of.insert(child, self.mms.len() as u32 - 1);
            self.count("forks");
            self.count("processes");
        }
        self.at_least("max_live_mms", self.live);
        true
    }

    /// A new, empty address space.
    pub(super) fn exec(&mut self, tid: u32) {
        match self.of.remove(&tid) {
            Some(old) => self.drop_mm(old),
            None => self.count("processes"),
        }
        let id = self.new_mm();
        self.of.insert(tid, id);
        self.at_least("max_live_mms", self.live);
    }

    pub(super) fn exit(&mut self, tid: u32) {
        if let Some(id) = self.of.remove(&tid) {
            self.count("exits");
            self.drop_mm(id);
        }
    }

    /// Places a mapping, in the way of nothing.
    pub(super) fn map(&mut self, tid: u32, area: Area) {
        let Some(id) = self.mm_id(tid) else { return };
        self.unmap_pages(id, area.start, area.end);
        if area.start < area.end {
            self.mms[id as usize].space.replace(area);
        }
    }

    pub(super) fn stat_of(&mut self, tid: u32) {
        if let Some(id) = self.mm_id(tid) {
            self.stat(id);
        }
    }

    pub(super) fn unmap(&mut self, tid: u32, start: u64, end: u64) {
        let Some(id) = self.mm_id(tid) else { return };
        self.stat(id);
        self.unmap_pages(id, start, end);
        self.mms[id as usize].space.cut(start, end);
        self.stat(id);
    }

    /// Forgets pages, keeps the mapping.
    pub(super) fn discard(&mut self, tid: u32, start: u64, end: u64) {
        if let Some(id) = self.mm_id(tid) {
            self.unmap_pages(id, start, end);
        }
    }

    pub(super) fn protect(&mut self, tid: u32, start: u64, end: u64, prot: Prot) {
        let Some(id) = self.mm_id(tid) else { return };
        self.mms[id as usize].space.protect(start, end, prot);
        self.stat(id);
    }

    /// Sets the end of the heap; returns what it was, `None` if it was not known.
    pub(super) fn brk(&mut self, tid: u32, to: u64) -> Option<u64> {
        let id = self.mm_id(tid)?;
        let before = self.mms[id as usize].brk.replace(to);
        if let Some(before) = before
            && before != to
        {
            let (old, new) = (page_up(before), page_up(to));
            if to > before {
                if new > old {
                    let heap = Area {
                        start: old,
                        end: new,
                        prot: Prot::RW,
                        object: Object::Anon,
                        offset: 0,
                    };
                    self.mms[id as usize].space.replace(heap);
                }
            } else {
                self.unmap_pages(id, new, old);
                self.mms[id as usize].space.cut(new, old);
            }
            self.stat(id);
        }
        before
    }

    /// `mremap`; true if the old address was mapped.
    pub(super) fn remap(
        &mut self,
        tid: u32,
        from: u64,
        old_len: u64,
        to: u64,
        new_len: u64,
    ) -> bool {
        let Some(id) = self.mm_id(tid) else {
            return false;
        };
        let Some(source) = self.mms[id as usize].space.find(from).copied() else {
            return false;
        };
        let offset = |at: u64| source.offset.wrapping_add(at - source.start);
        if to == from {
            let (old_end, new_end) = (from.saturating_add(old_len), from.saturating_add(new_len));
            if new_len < old_len {
                self.unmap_pages(id, new_end, old_end);
                self.mms[id as usize].space.cut(new_end, old_end);
            } else if new_len > old_len {
                let more = Area {
                    start: old_end,
                    end: new_end,
                    offset: offset(old_end),
                    ..source
                };
                self.mms[id as usize].space.replace(more);
            }
        } else {
            self.count("mremap_moves");
            let moving = from..from.saturating_add(old_len.min(new_len));
            let pages = &mut self.mms[id as usize].pages;
            let moved: Vec<(u64, Key)> = pages
                .iter()
                .filter(|(p, _)| moving.contains(p))
                .map(|(&p, &k)| (p, k))
                .collect();
            for (page, _) in &moved {
                pages.remove(page);
            }
            self.unmap_pages(id, from, from.saturating_add(old_len));
            self.mms[id as usize]
                .space
                .cut(from, from.saturating_add(old_len));
            self.unmap_pages(id, to, to.saturating_add(new_len));
            let there = Area {
                start: to,
                end: to.saturating_add(new_len),
                offset: offset(from),
                ..source
            };
            self.mms[id as usize].space.replace(there);
            self.mms[id as usize].pages.extend(
                moved
                    .into_iter()
                    .map(|(p, k)| ((p - from).wrapping_add(to), k)),
            );
        }
        self.stat(id);
        true
    }

    /// Counts a fault and says where it fell.
    pub(super) fn fault(
        &mut self,
        tid: u32,
        addr: u64,
        access: Access,
        write: bool,
        kernel: bool,
    ) -> Landing {
        self.count("faults");
        self.count(if kernel {
            "faults_kernel"
        } else {
            "faults_user"
        });
        if write {
            self.count("faults_write");
        }
        if access == Access::Exec {
            self.count("faults_exec");
        }
        let Some(id) = self.mm_id(tid) else {
            self.count("unresolved_dead");
            return Landing::Nowhere;
        };
        let mm = &mut self.mms[id as usize];
        let mut area = mm.space.find(addr).copied();
        if area.is_none()
            && let (Some((low, high)), Some(above)) = (mm.stack, mm.space.above(addr).copied())
            && above.start - addr < STACK_REACH
            && above.start >= low.saturating_sub(STACK_REACH)
            && above.end <= high
        {
            let to = page_down(addr);
            mm.space.grow_down(above.start, to);
            mm.stack = Some((to, high));
            area = Some(Area { start: to, ..above });
        }
        let Some(area) = area else {
            let signal = addr < PAGE;
            self.count(if signal { "segv" } else { "unresolved" });
            return if signal {
                Landing::Signal
            } else {
                Landing::Nowhere
            };
        };
        self.fault_page(id, page_down(addr), &area, write);
        Landing::Area(area)
    }

    fn fault_page(&mut self, id: u32, page: u64, area: &Area, write: bool) {
        let old = self.mms[id as usize].pages.get(&page).copied();
        let offset = area.offset.wrapping_add(page).wrapping_sub(area.start);
        let key = match area.object {
            Object::FileShared(f) => {
                self.count("faults_shared");
                Key::FileShared(f, offset)
            }
            Object::Shm(s) => {
                self.count("faults_shared");
                Key::Shm(s, offset)
            }
            Object::FilePrivate(f) if !write => {
                self.count("faults_file");
                if matches!(old, Some(Key::Anon(_))) {
                    return;
                }
                Key::FilePrivate(f, offset)
            }
            _ if write => {
                self.count("faults_anon");
                if let Some(key @ Key::Anon(_)) = old {
                    if self.sharers.get(&key).copied().unwrap_or(0) <= 1 {
                        return;
                    }
                    self.count("faults_cow");
                } else if matches!(area.object, Object::FilePrivate(_)) {
                    self.count("faults_cow");
                }
                Key::Anon(self.fresh_object())
            }
            _ => {
                self.count("faults_anon");
                if old.is_some() {
                    return;
                }
                Key::Zero
            }
        };
        if old == Some(key) {
            return;
        }
        if let Some(old) = old {
            self.dec(old);
        }
        self.mms[id as usize].pages.insert(page, key);
        self.inc(key);
        self.touched.insert((id, page));
    }
}
