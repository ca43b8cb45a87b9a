//! Reduction of a recording of every reference to what a recording of page faults would hold.
//!
//! It answers how good the re-touch model is: the same program replayed with all its references, and with its first touches and the
//! model ([`crate::retouch`]). Calls and switches stay. A reference becomes a [`Op::Touch`] where the recording kernel would have
//! faulted: at the first reference of a page by an address space; and at the first store to a page that was only read before, or
//! that a fork made shared (copy on write). `ip` is the last fetch. The pages of unmapped, moved or discarded memory are forgotten.
//! [`Around`] says whether read faults on files map their neighbours, as the recording kernels did.
//!
//! Left out: faults on pages that only a protection change made inaccessible, and the pages of files that a fork does not copy.
//!
//! Invariant: in the reduction every page of every address space is touched that was referenced, or lies in the window of
//! a touch with [`Span::Around`].

use std::collections::BTreeMap;

use crate::{
    error::TraceError,
    format::TraceWriter,
    header::TraceKind,
    model::Model,
    op::{Access, Advice, Call, MapFlags, Op, Origin, PAGE_SIZE, Prot, Span, TaskId},
    space::Object,
    trace::Trace,
};

/// Bytes of the window in which a read fault on a file maps its neighbours (`fault_around_bytes`).
const WINDOW: u32 = crate::FaultAround::WINDOW_PAGES * PAGE_SIZE;

/// Whether a read fault on a file or shared page maps the neighbours in its aligned 64 KiB window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Around {
    /// It does, as on the kernels of the recordings; such touches are [`Span::Around`].
    Window,
    /// It maps its page only, so that each page's first reference is a touch.
    Page,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Mapped for reading: the next store faults.
    Read,
    Written,
}

type Pages = BTreeMap<u32, Seen>;

/// The trace with its references reduced to touches; its kind is [`TraceKind::FirstTouch`].
///
/// # Errors
/// If the reduction does not fit the format. A trace without references is returned as it is, but for its name.
pub fn first_touches(trace: &Trace, around: Around) -> Result<Trace, TraceError> {
    let mut header = trace.header().clone();
    header.kind = TraceKind::FirstTouch;
    header.notes.push(match around {
        Around::Window => {
            "references reduced to the faults of a kernel with fault-around".to_owned()
        }
        Around::Page => "references reduced to the first touch of each page".to_owned(),
    });
    let mut reduction = Reduction {
        model: Model::new(&header),
        writer: TraceWriter::new(header),
        around,
        space_of: BTreeMap::new(),
        spaces: vec![Pages::new()],
        ip: BTreeMap::new(),
    };
    reduction.space_of.insert(TaskId::FIRST, 0);
    let mut ops = trace.ops();
    while let Some(op) = ops.next_op() {
        reduction.step(op, trace.name())?;
    }
    reduction.writer.finish()
}

struct Reduction {
    /// Of the whole trace: the writer's own sees the touches only.
    model: Model,
    writer: TraceWriter,
    around: Around,
    space_of: BTreeMap<TaskId, usize>,
    spaces: Vec<Pages>,
    ip: BTreeMap<TaskId, u32>,
}

impl Reduction {
    fn step(&mut self, op: &Op, name: &str) -> Result<(), TraceError> {
        let task = self.model.current();
        self.model.apply(op).map_err(|e| e.at(name))?;
        match *op {
            Op::Fetch { va, len } => {
                self.ip.insert(task, va);
                self.reference(task, va, len, Access::Exec)
            }
            Op::Load { va, len } => self.reference(task, va, len, Access::Read),
            Op::Store { va, len } | Op::Modify { va, len } => {
                self.reference(task, va, len, Access::Write)
            }
            // User instructions are what a recording of faults lacks.
            Op::Work { .. } => Ok(()),
            Op::Call(ref call) => {
                self.call(task, call);
                self.writer.push(op)
            }
            Op::Touch { .. } | Op::Switch { .. } => self.writer.push(op),
        }
    }

    fn reference(
        &mut self,
        task: TaskId,
        va: u32,
        len: u8,
        access: Access,
    ) -> Result<(), TraceError> {
        let last = va.saturating_add(u32::from(len.max(1)) - 1);
        self.page(task, va, access)?;
        if last / PAGE_SIZE != va / PAGE_SIZE {
            self.page(task, last & !(PAGE_SIZE - 1), access)?;
        }
        Ok(())
    }

    fn page(&mut self, task: TaskId, va: u32, access: Access) -> Result<(), TraceError> {
        let page = va / PAGE_SIZE;
        let space = self.space_of[&task];
        let state = match access {
            Access::Write => Seen::Written,
            Access::Read | Access::Exec => Seen::Read,
        };
        match self.spaces[space].get(&page) {
            Some(Seen::Written) => return Ok(()),
            Some(Seen::Read) if state == Seen::Read => return Ok(()),
            Some(Seen::Read) | None => {}
        }
        self.spaces[space].insert(page, state);
        let area = self.model.mm(task).and_then(|mm| {
            let area = mm.space.find(u64::from(va))?;
            let file = !matches!(area.object, Object::Anon | Object::Special);
            file.then_some((area.start, area.end))
        });
        let span = match (self.around, area) {
            (Around::Window, Some((start, end))) if state == Seen::Read => {
                let window = u64::from(va & !(WINDOW - 1));
                let first = window.max(start) / u64::from(PAGE_SIZE);
                let end = (window + u64::from(WINDOW)).min(end) / u64::from(PAGE_SIZE);
                for neighbour in first..end {
                    let pages = &mut self.spaces[space];
                    pages.entry(neighbour as u32).or_insert(Seen::Read);
                }
                Span::Around
            }
            _ => Span::Page,
        };
        let ip = match access {
            Access::Exec => va,
            Access::Read | Access::Write => self.ip.get(&task).copied().unwrap_or(0),
        };
        self.writer.push(&Op::Touch {
            va,
            ip,
            access,
            origin: Origin::User,
            span,
        })
    }

    fn call(&mut self, task: TaskId, call: &Call) {
        match *call {
            Call::Munmap { addr, len } => self.forget(task, addr, len),
            Call::Mprotect { addr, len, prot } if prot == Prot::NONE => {
                self.forget(task, addr, len);
            }
            Call::Mremap { old, old_len, .. } => self.forget(task, old, old_len),
            Call::Madvise {
                addr,
                len,
                advice: Advice::DontNeed,
            } => self.forget(task, addr, len),
            Call::Mmap {
                result, len, flags, ..
            } if flags.contains(MapFlags::FIXED) => self.forget(task, result, len),
            Call::RemapFilePages { addr, len, .. } => self.forget(task, addr, len),
            Call::Brk { .. } | Call::Shmdt { .. } => self.forget_unmapped(task),
            Call::Fork { child } => {
                let mut pages = self.spaces[self.space_of[&task]].clone();
                // Copy on write: the next store of either faults.
                pages.values_mut().for_each(|seen| *seen = Seen::Read);
                self.spaces[self.space_of[&task]] = pages.clone();
                self.spaces.push(pages);
                self.space_of.insert(child, self.spaces.len() - 1);
                self.inherit(task, child);
            }
            Call::Vfork { child } | Call::Clone { child } => {
                self.space_of.insert(child, self.space_of[&task]);
                self.inherit(task, child);
            }
            Call::Exec { .. } => {
                self.spaces.push(Pages::new());
                self.space_of.insert(task, self.spaces.len() - 1);
            }
            _ => {}
        }
    }

    fn inherit(&mut self, task: TaskId, child: TaskId) {
        if let Some(&ip) = self.ip.get(&task) {
            self.ip.insert(child, ip);
        }
    }

    fn forget(&mut self, task: TaskId, addr: u32, len: u32) {
        let end = u64::from(addr) + u64::from(len);
        let last = end.div_ceil(u64::from(PAGE_SIZE)) as u32;
        let space = self.space_of[&task];
        self.spaces[space].retain(|&page, _| page < addr / PAGE_SIZE || page >= last);
    }

    /// Forgets the pages that lie in no mapping any more.
    fn forget_unmapped(&mut self, task: TaskId) {
        if let Some(mm) = self.model.mm(task) {
            let space = self.space_of[&task];
            self.spaces[space].retain(|&page, _| {
                let va = u64::from(page) * u64::from(PAGE_SIZE);
                mm.space.find(va).is_some()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TraceBuilder;

    fn touches(trace: &Trace) -> Vec<(u32, u32, Access)> {
        let touch = |op| match op {
            Op::Touch { va, ip, access, .. } => Some((va, ip, access)),
            _ => None,
        };
        trace.ops().filter_map(touch).collect()
    }

    #[test]
    fn each_page_is_touched_once_and_again_when_a_store_would_fault() {
        let mut t = TraceBuilder::new("small");
        let p = t.spawn();
        let a = t.on(p).mmap_anon(4 * PAGE_SIZE);
        t.on(p)
            .load(a, 4)
            .load(a + 8, 4)
            .store(a + 4, 4)
            .store(a, 4);
        t.on(p).store(a + PAGE_SIZE - 2, 4).load(a + PAGE_SIZE, 4);
        let c = t.on(p).fork();
        t.on(p)
            .load(a, 4)
            .store(a, 4)
            .store(a, 4)
            .munmap(a, PAGE_SIZE);
        t.on(p).mmap_fixed(a, PAGE_SIZE, Prot::RW).store(a, 4);
        t.on(c).load(a, 4).store(a + PAGE_SIZE, 4).exit();
        let trace = t.finish();
        let reduced = first_touches(&trace, Around::Page).unwrap();
        use Access::{Read, Write};
        assert_eq!(
            touches(&reduced),
            [
                (a, 0, Read),
                (a + 4, 0, Write),
                (a + PAGE_SIZE, 0, Write),
                (a, 0, Write),
                (a, 0, Write),
                (a + PAGE_SIZE, 0, Write),
            ]
        );
        assert_eq!(reduced.summary().calls, trace.summary().calls);
        assert_eq!(reduced.summary().switches, trace.summary().switches);
        assert_eq!(reduced.header().kind, TraceKind::FirstTouch);
        reduced.check(|_| {}).unwrap();
    }

    #[test]
    fn a_read_of_a_file_stands_for_its_window() {
        let mut t = TraceBuilder::new("file");
        let p = t.spawn();
        let file = t.file("/f", 64);
        let map = crate::FileRef {
            file,
            page_offset: 0,
        };
        let a = t
            .on(p)
            .mmap_file(map, 40 * PAGE_SIZE, Prot::RX, MapFlags::PRIVATE);
        for i in 0..40 {
            t.on(p)
                .fetch(a + i * PAGE_SIZE, 4)
                .load(a + i * PAGE_SIZE, 4);
        }
        let trace = t.finish();
        let windows = (a..a + 40 * PAGE_SIZE)
            .step_by(PAGE_SIZE as usize)
            .map(|va| va / WINDOW)
            .collect::<std::collections::BTreeSet<_>>();
        let reduced = first_touches(&trace, Around::Window).unwrap();
        assert_eq!(touches(&reduced).len(), windows.len());
        let whole = first_touches(&trace, Around::Page).unwrap();
        assert_eq!(touches(&whole).len(), 40);
        assert!(touches(&whole).iter().all(|&(va, ip, _)| va == ip));
    }
}
