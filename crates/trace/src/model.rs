//! The plain model of tasks and address spaces that every trace is held to.
//!
//! It applies operations in scheduled order and refuses what no kernel could do: a touch outside a mapping or without
//! rights, a mapping placed on another, a task that runs before its fork or after its exit, a wait for a
//! living child. On the way it counts page mappings and finds the peak. Writer, builder and `trace check` use it.
//!
//! Left out: contents, sharing of pages, costs.
//!
//! Invariant: `ptes` is the sum of `pages.len()` over all address spaces.

use crate::{
    assumptions::Vfork,
    error::TraceError,
    header::{Header, Summary},
    op::{Access, Advice, Call, ExecImage, MapFlags, Op, Prot, RemapFlags, SliceEnd, Span, TaskId},
    space::{Area, Object, PAGE, PageSet, Space, page_down, page_up},
    trace::Trace,
};

/// End of user addresses in a 3G/1G split: no recorded trace reaches above.
pub const USER_END: u64 = 0xc000_0000;

/// End of user addresses in a 4G/4G split. A generated trace whose processes have their stacks above [`USER_END`] reaches up to it, and
/// runs there only.
pub const HUGE_USER_END: u64 = 0xff00_0000;

/// End of the user space that an image is laid out for: its stack lies at the top.
#[must_use]
pub fn user_end_of(image: &ExecImage) -> u64 {
    match u64::from(image.stack_top) > USER_END {
        true => HUGE_USER_END,
        false => USER_END,
    }
}

/// How far below its mapping a stack may grow: the usual limit of 8 MiB is the guest's business, this
/// only tells growth from a stray touch.
const STACK_REACH: u64 = 64 << 20;

/// A contradiction found by the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// Index of the operation.
    pub index: u64,
    /// What is impossible.
    pub reason: String,
}

impl Contradiction {
    pub(crate) fn at(self, name: &str) -> TraceError {
        TraceError::Invalid {
            name: name.to_owned(),
            index: self.index,
            reason: self.reason,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Unborn,
    Alive,
    Zombie,
    Reaped,
}

#[derive(Clone, Debug)]
struct Task {
    life: Life,
    mm: Option<usize>,
}

/// One address space.
#[derive(Clone, Debug, Default)]
pub struct Mm {
    /// Its mappings.
    pub space: Space,
    /// Pages that were touched and are still mapped.
    pub pages: PageSet,
    around: PageSet,
    brk: u64,
    stack: Option<(u64, u64)>,
    /// End of its addresses.
    user_end: u64,
    users: u32,
}

/// The state of all tasks after some operations.
#[derive(Clone, Debug)]
pub struct Model {
    tasks: Vec<Task>,
    mms: Vec<Option<Mm>>,
    segments: Vec<u32>,
    current: TaskId,
    /// End of all address spaces, from the first exec on.
    user_end: Option<u64>,
    ptes: u64,
    spaces: u64,
    shared_objects: u32,
    summary: Summary,
    /// Last area that a reference hit, to spare the search: start, end, rights.
    hint: (u64, u64, Prot),
    vfork: Vfork,
}

type Check<T = ()> = Result<T, String>;

fn fail<T>(reason: impl Into<String>) -> Check<T> {
    Err(reason.into())
}

impl Model {
    /// The state before the first operation: the first task lives, without an address space.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        let mut model = Self {
            tasks: Vec::new(),
            mms: Vec::new(),
            segments: header.segments.iter().map(|s| s.bytes).collect(),
            current: TaskId::FIRST,
            user_end: None,
            ptes: 0,
            spaces: 0,
            shared_objects: 0,
            summary: Summary::default(),
            hint: (0, 0, Prot::NONE),
            vfork: Vfork::Share,
        };
        for _ in &header.tasks {
            model.add_task();
        }
        model
    }

    /// The same model with another reading of recorded vforks.
    #[must_use]
    pub const fn with_vfork(mut self, vfork: Vfork) -> Self {
        self.vfork = vfork;
        self
    }

    /// Adds a task that is not yet born (but the first one lives).
    pub fn add_task(&mut self) -> TaskId {
        let life = if self.tasks.is_empty() {
            Life::Alive
        } else {
            Life::Unborn
        };
        self.tasks.push(Task { life, mm: None });
        TaskId(self.tasks.len() as u32 - 1)
    }

    /// Adds a segment of that size.
    pub fn add_segment(&mut self, bytes: u32) {
        self.segments.push(bytes);
    }

    /// The running task.
    #[must_use]
    pub const fn current(&self) -> TaskId {
        self.current
    }

    /// The address space of a task, `None` before its birth and after its exit.
    #[must_use]
    pub fn mm(&self, task: TaskId) -> Option<&Mm> {
        self.mms[self.tasks.get(task.index())?.mm?].as_ref()
    }

    /// Whether the task was born and has not exited.
    #[must_use]
    pub fn is_alive(&self, task: TaskId) -> bool {
        self.tasks
            .get(task.index())
            .is_some_and(|t| t.life == Life::Alive)
    }

    /// End of the heap of a task.
    #[must_use]
    pub fn brk(&self, task: TaskId) -> Option<u64> {
        self.mm(task).map(|m| m.brk)
    }

    /// Counts so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary.clone()
    }

    /// Applies one operation of the running task.
    ///
    /// # Errors
    /// If it is impossible in this state, which is then unspecified.
    pub fn apply(&mut self, op: &Op) -> Result<(), Contradiction> {
        let index = self.summary.operations;
        self.step(op).map_err(|reason| Contradiction {
            index,
            reason: format!("task {}: {reason}", self.current.0),
        })?;
        let s = &mut self.summary;
        s.operations += 1;
        s.events += u64::from(op.is_event());
        match op {
            Op::Touch { .. } => s.touches += 1,
            Op::Fetch { .. } | Op::Load { .. } | Op::Store { .. } | Op::Modify { .. } => {
                s.references += 1
            }
            Op::Call(_) => s.calls += 1,
            Op::Switch { how, .. } => {
                s.switches += 1;
                s.forced_switches += u64::from(*how == SliceEnd::Forced);
            }
            Op::Work { .. } => {}
        }
        if self.ptes > s.peak_ptes {
            s.peak_ptes = self.ptes;
            s.peak_op = index;
        }
        s.max_spaces = s.max_spaces.max(self.spaces);
        Ok(())
    }

    fn step(&mut self, op: &Op) -> Check {
        if let Op::Switch { to, how } = op {
            return self.switch(*to, *how);
        }
        if !self.is_alive(self.current) {
            return fail(format!("{op:?} of a task that has exited"));
        }
        match op {
            Op::Touch {
                va, access, span, ..
            } => self.touch(*va, 1, *access, *span),
            Op::Fetch { va, len } => self.touch(*va, *len, Access::Exec, Span::Page),
            Op::Load { va, len } => self.touch(*va, *len, Access::Read, Span::Page),
            Op::Store { va, len } | Op::Modify { va, len } => {
                self.touch(*va, *len, Access::Write, Span::Page)
            }
            Op::Work { .. } => Ok(()),
            Op::Call(call) => {
                self.hint = (0, 0, Prot::NONE);
                self.call(call)
            }
            Op::Switch { .. } => unreachable!("handled above"),
        }
    }

    fn switch(&mut self, to: TaskId, how: SliceEnd) -> Check {
        let ended = !self.is_alive(self.current);
        if ended != (how == SliceEnd::Exit) {
            return fail(format!(
                "slice end {how:?}, but the task {}",
                if ended { "has exited" } else { "lives" }
            ));
        }
        if !self.is_alive(to) {
            return fail(format!("switch to task {}, which is not alive", to.0));
        }
        self.current = to;
        self.hint = (0, 0, Prot::NONE);
        Ok(())
    }

    fn space_index(&self) -> Check<usize> {
        match self.tasks[self.current.index()].mm {
            Some(mm) => Ok(mm),
            None => fail("it has no address space; exec must come first"),
        }
    }

    fn current_mm(&mut self) -> Check<&mut Mm> {
        let mm = self.space_index()?;
        Ok(self.mms[mm]
            .as_mut()
            .expect("a task's address space lives as long as the task"))
    }

    fn touch(&mut self, va: u32, len: u8, access: Access, span: Span) -> Check {
        let first = u64::from(va);
        let last = first + u64::from(len.max(1)) - 1;
        for addr in [first, last] {
            if !(self.hint.0..self.hint.1).contains(&addr) {
                let area = self.area_for(addr)?;
                self.hint = (area.start, area.end, area.prot);
            }
            if !self.hint.2.allows(access) {
                return fail(format!(
                    "{access:?} at {addr:#x} in a mapping with protection {}",
                    self.hint.2.0
                ));
            }
            let (start, end, _) = self.hint;
            let mm = self.current_mm()?;
            let fresh = mm.pages.insert(addr);
            let mut more = 0;
            if span == Span::Around {
                let window = addr & !0xffff;
                for page in (window.max(start)..(window + 0x1_0000).min(end)).step_by(PAGE as usize)
                {
                    more += u64::from(mm.around.insert(page) && !mm.pages.contains(page));
                }
            }
            self.ptes += u64::from(fresh);
            self.summary.around_pages += more;
            if page_down(first) == page_down(last) {
                break;
            }
        }
        Ok(())
    }

    /// The kernel reads the buffer of a write, so its pages are there afterwards.
    fn file_write(&mut self, position: u64, addr: u32, len: u32) -> Check {
        let end = u64::from(addr) + u64::from(len);
        if len > i32::MAX as u32 || end > 1 << 32 {
            return fail(format!("write of {len} bytes from {addr:#x}"));
        }
        if position > Call::MAX_FILE_BYTES || position + u64::from(len) > Call::MAX_FILE_BYTES {
            return fail(format!("write of {len} bytes at {position:#x} of a file"));
        }
        let mut at = u64::from(addr);
        while at < end {
            self.touch(at as u32, 1, Access::Read, Span::Page)?;
            at = page_down(at) + PAGE;
        }
        Ok(())
    }

    /// The area of an address, grown down if it is the stack's.
    fn area_for(&mut self, addr: u64) -> Check<Area> {
        let mm = self.current_mm()?;
        if let Some(area) = mm.space.find(addr) {
            return Ok(*area);
        }
        if let (Some(above), Some((low, high))) = (mm.space.above(addr).copied(), mm.stack)
            && above.start == low
            && above.end <= high
            && low - addr < STACK_REACH
        {
            let to = page_down(addr);
            mm.space.grow_down(low, to);
            mm.stack = Some((to, high));
            return Ok(Area { start: to, ..above });
        }
        fail(format!("touch of {addr:#x}, where nothing is mapped"))
    }

    fn call(&mut self, call: &Call) -> Check {
        match call {
            Call::Fork { child } => self.fork(*child),
            Call::Vfork { child } if self.vfork == Vfork::Fork => self.fork(*child),
            Call::Vfork { child } | Call::Clone { child } => self.share(*child),
            Call::Exec { image } => self.exec(image),
            Call::Exit {} => {
                self.drop_mm();
                self.tasks[self.current.index()].life = Life::Zombie;
                Ok(())
            }
            Call::Wait { child } => match self.tasks.get_mut(child.index()) {
                Some(task) if task.life == Life::Zombie => {
                    task.life = Life::Reaped;
                    Ok(())
                }
                _ => fail(format!("wait for task {}, which is no zombie", child.0)),
            },
            Call::Other { .. } | Call::Failed { .. } | Call::Shmget { .. } => Ok(()),
            Call::FileWrite {
                position,
                addr,
                len,
                ..
            } => self.file_write(*position, *addr, *len),
            // Which pages of mappings a truncation takes is not followed: `peak_op` is a little late then.
            Call::Fsync { .. } => Ok(()),
            Call::Truncate { len, .. } if *len <= Call::MAX_FILE_BYTES => Ok(()),
            Call::Truncate { len, .. } => fail(format!("a file of {len} bytes")),
            Call::Shmat {
                segment,
                prot,
                result,
                ..
            } => {
                let bytes = self.segments.get(segment.0 as usize).copied().unwrap_or(0);
                self.place(*result, bytes, MapFlags::SHARED, |start, end| Area {
                    start,
                    end,
                    prot: *prot,
                    // Numbers from the other end: segments never collide with shared anonymous objects.
                    object: Object::Shm(u32::MAX - segment.0),
                    offset: 0,
                })
            }
            Call::Mmap {
                len,
                prot,
                flags,
                file,
                result,
                ..
            } => {
                let shared = flags.contains(MapFlags::SHARED);
                let (object, offset) = match file {
                    Some(f) if shared => (
                        Object::FileShared(f.file.0),
                        u64::from(f.page_offset) * PAGE,
                    ),
                    Some(f) => (
                        Object::FilePrivate(f.file.0),
                        u64::from(f.page_offset) * PAGE,
                    ),
                    None if shared => {
                        self.shared_objects += 1;
                        (Object::Shm(self.shared_objects), 0)
                    }
                    None => (Object::Anon, 0),
                };
                let prot = *prot;
                self.place(*result, *len, *flags, |start, end| Area {
                    start,
                    end,
                    prot,
                    object,
                    offset,
                })
            }
            _ => {
                let before = self.current_mm()?.pages.len();
                let mm = self.current_mm()?;
                mm.change(call)?;
                let after = mm.pages.len();
                self.ptes = self.ptes + after - before;
                Ok(())
            }
        }
    }

    fn place(
        &mut self,
        result: u32,
        len: u32,
        flags: MapFlags,
        area: impl Fn(u64, u64) -> Area,
    ) -> Check {
        let start = u64::from(result);
        let end = start + page_up(u64::from(len));
        let mm = self.current_mm()?;
        if len == 0 || !start.is_multiple_of(PAGE) || end > mm.user_end {
            return fail(format!("mapping of {len} bytes at {start:#x}"));
        }
        let gone = match flags.contains(MapFlags::FIXED) {
            true => mm.unmap(start, end),
            false => 0,
        };
        let added = mm.space.add(area(start, end));
        self.ptes -= gone;
        added.or_else(|other| {
            fail(format!(
                "recorded result {start:#x}..{end:#x} is occupied by {:#x}..{:#x}",
                other.start, other.end
            ))
        })
    }

    fn birth(&mut self, child: TaskId, mm: usize) -> Check {
        match self.tasks.get_mut(child.index()) {
            Some(task) if task.life == Life::Unborn => {
                *task = Task {
                    life: Life::Alive,
                    mm: Some(mm),
                };
                Ok(())
            }
            _ => fail(format!("task {} is born twice", child.0)),
        }
    }

    fn fork(&mut self, child: TaskId) -> Check {
        let copy = Mm {
            users: 1,
            ..self.current_mm()?.clone()
        };
        let pages = copy.pages.len();
        self.mms.push(Some(copy));
        self.birth(child, self.mms.len() - 1)?;
        self.ptes += pages;
        self.spaces += 1;
        Ok(())
    }

    fn share(&mut self, child: TaskId) -> Check {
        let mm = self.space_index()?;
        self.current_mm()?.users += 1;
        self.birth(child, mm)
    }

    fn drop_mm(&mut self) {
        let Some(index) = self.tasks[self.current.index()].mm.take() else {
            return;
        };
        let mm = self.mms[index]
            .as_mut()
            .expect("a task's address space lives as long as the task");
        mm.users -= 1;
        if mm.users == 0 {
            self.ptes -= mm.pages.len();
            self.spaces -= 1;
            self.mms[index] = None;
        }
    }

    fn exec(&mut self, image: &ExecImage) -> Check {
        self.drop_mm();
        let user_end = user_end_of(image);
        let first = *self.user_end.get_or_insert(user_end);
        if first != user_end {
            return fail(format!(
                "exec of an image for addresses to {user_end:#x}, after one to {first:#x}"
            ));
        }
        let mut mm = Mm {
            users: 1,
            brk: u64::from(image.brk),
            user_end,
            ..Mm::default()
        };
        for m in &image.mappings {
            let (start, end) = (u64::from(m.start), u64::from(m.end));
            if start >= end || start % PAGE != 0 || end % PAGE != 0 || end > user_end {
                return fail(format!("exec mapping {start:#x}..{end:#x}"));
            }
            let shared = m.flags.contains(MapFlags::SHARED);
            let (object, offset) = match m.file {
                Some(f) if shared => (
                    Object::FileShared(f.file.0),
                    u64::from(f.page_offset) * PAGE,
                ),
                Some(f) => (
                    Object::FilePrivate(f.file.0),
                    u64::from(f.page_offset) * PAGE,
                ),
                None if shared => {
                    self.shared_objects += 1;
                    (Object::Shm(self.shared_objects), 0)
                }
                None if m.kind == crate::MappingKind::Special => (Object::Special, 0),
                None => (Object::Anon, 0),
            };
            if m.kind == crate::MappingKind::Stack {
                mm.stack = Some((start, u64::from(image.stack_top)));
            }
            let area = Area {
                start,
                end,
                prot: m.prot,
                object,
                offset,
            };
            if let Err(other) = mm.space.add(area) {
                return fail(format!("exec mappings overlap at {:#x}", other.start));
            }
        }
        self.mms.push(Some(mm));
        self.tasks[self.current.index()].mm = Some(self.mms.len() - 1);
        self.spaces += 1;
        Ok(())
    }
}

impl Mm {
    /// The pages of a call that a kernel would not have carried out unless they begin with a page and end in user space.
    fn range(&self, call: &Call, addr: u32, len: u32) -> Check<(u64, u64)> {
        let start = u64::from(addr);
        let end = start + page_up(u64::from(len));
        match start.is_multiple_of(PAGE) && end <= self.user_end {
            true => Ok((start, end)),
            false => fail(format!("{call:?} of {start:#x}..{end:#x}")),
        }
    }

    fn unmap(&mut self, start: u64, end: u64) -> u64 {
        self.space.cut(start, end);
        self.forget(start, end)
    }

    fn forget(&mut self, start: u64, end: u64) -> u64 {
        self.around.remove(start, end);
        self.pages.remove(start, end).len() as u64
    }

    /// Calls that change only this address space.
    fn change(&mut self, call: &Call) -> Check {
        match call {
            Call::Munmap { addr, len } => {
                let (start, end) = self.range(call, *addr, *len)?;
                self.unmap(start, end);
            }
            Call::Mprotect { addr, len, prot } => {
                let (start, end) = self.range(call, *addr, *len)?;
                self.space.protect(start, end, *prot);
            }
            Call::Madvise {
                addr,
                len,
                advice: Advice::DontNeed,
            } => {
                let (start, end) = self.range(call, *addr, *len)?;
                self.forget(start, end);
            }
            Call::Mlock { addr, len } => {
                let (start, end) = self.range(call, page_down(u64::from(*addr)) as u32, *len)?;
                for area in self.space.iter() {
                    for page in (area.start.max(start)..area.end.min(end)).step_by(PAGE as usize) {
                        if area.prot != Prot::NONE {
                            self.pages.insert(page);
                        }
                    }
                }
            }
            Call::Brk { result, .. } => return self.set_brk(u64::from(*result)),
            Call::Mremap { .. } => return self.remap(call),
            Call::RemapFilePages {
                addr,
                len,
                page_offset,
            } => {
                let (start, end) = self.range(call, *addr, *len)?;
                let Some(area) = self.space.find(start).copied() else {
                    return fail(format!(
                        "remap_file_pages at {start:#x}, where nothing is mapped"
                    ));
                };
                self.forget(start, end);
                let offset = u64::from(*page_offset) * PAGE;
                self.space.replace(Area {
                    start,
                    end,
                    offset,
                    ..area
                });
            }
            Call::Shmdt { addr } => match self.space.find(u64::from(*addr)).copied() {
                Some(area) => {
                    self.unmap(area.start, area.end);
                }
                None => return fail(format!("shmdt of {addr:#x}, where nothing is mapped")),
            },
            Call::Madvise { .. } | Call::Munlock { .. } => {}
            _ => unreachable!(
                "calls that concern more than one address space are handled by the model"
            ),
        }
        Ok(())
    }

    fn set_brk(&mut self, to: u64) -> Check {
        let (old, new) = (page_up(self.brk), page_up(to));
        if new > old {
            if new > self.user_end {
                return fail(format!("brk {to:#x}"));
            }
            let added = self.space.add(Area {
                start: old,
                end: new,
                prot: Prot::RW,
                object: Object::Anon,
                offset: 0,
            });
            if let Err(other) = added {
                return fail(format!(
                    "brk {to:#x} runs into {:#x}..{:#x}",
                    other.start, other.end
                ));
            }
        } else {
            self.unmap(new, old);
        }
        self.brk = to;
        Ok(())
    }

    fn remap(&mut self, call: &Call) -> Check {
        let Call::Mremap {
            old,
            old_len,
            new_len,
            flags,
            result,
            ..
        } = call
        else {
            unreachable!("only called for mremap")
        };
        let (from, old_end) = self.range(call, *old, *old_len)?;
        let (to, end) = self.range(call, *result, *new_len)?;
        let (old_len, new_len) = (old_end - from, end - to);
        if new_len == 0 {
            return fail(format!("mremap to {to:#x}..{end:#x}"));
        }
        let Some(area) = self.space.find(from).copied() else {
            return fail(format!("mremap of {from:#x}, where nothing is mapped"));
        };
        if to == from {
            if new_len < old_len {
                self.unmap(end, old_end);
            } else if new_len > old_len {
                let added = self.space.add(Area {
                    start: old_end,
                    end,
                    offset: area.offset.wrapping_add(old_end - area.start),
                    ..area
                });
                if let Err(other) = added {
                    return fail(format!("mremap grows {from:#x} into {:#x}", other.start));
                }
            }
            return Ok(());
        }
        if to < old_end && from < end {
            return fail(format!("mremap moves {from:#x} onto itself"));
        }
        if flags.contains(RemapFlags::FIXED) {
            self.unmap(to, end);
        } else if let Some(other) = self.space.overlap(to, end) {
            return fail(format!(
                "mremap moves {from:#x} onto {:#x}..{:#x}",
                other.start, other.end
            ));
        }
        let moved = self.pages.remove(from, from + old_len.min(new_len));
        // A nonlinear mapping is several areas here, each of which shows what it showed.
        let parts = self.space.cut(from, from + old_len.min(new_len));
        self.unmap(from, old_end);
        for part in parts {
            self.space.replace(Area {
                start: part.start - from + to,
                end: part.end - from + to,
                ..part
            });
        }
        self.space.replace(Area {
            start: to + old_len.min(new_len),
            end,
            offset: area.offset.wrapping_add(old_end - area.start),
            ..area
        });
        for page in moved {
            self.pages.insert(page - from + to);
        }
        Ok(())
    }
}

impl Trace {
    /// Applies all operations to the model again: what `trace check` does. `progress` is called with
    /// the number of operations done, now and then.
    ///
    /// # Errors
    /// At the first operation that contradicts the model, or if the stored summary is not what the model counts.
    pub fn check(&self, mut progress: impl FnMut(u64)) -> Result<Summary, TraceError> {
        let found = self.apply(Model::new(self.header()), &mut progress)?;
        if found != *self.summary() {
            return Err(TraceError::Damaged {
                name: self.name().to_owned(),
                place: "footer".to_owned(),
                reason: format!(
                    "its summary is {:?}, the operations give {found:?}",
                    self.summary()
                ),
            });
        }
        Ok(found)
    }

    /// As [`Trace::check`], with each vfork taken as a fork; the counts are those of that reading.
    ///
    /// # Errors
    /// At the first operation that contradicts the model.
    pub fn check_vfork_as_fork(
        &self,
        mut progress: impl FnMut(u64),
    ) -> Result<Summary, TraceError> {
        self.apply(
            Model::new(self.header()).with_vfork(Vfork::Fork),
            &mut progress,
        )
    }

    fn apply(
        &self,
        mut model: Model,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Summary, TraceError> {
        let mut stream = self.ops();
        let mut done = 0u64;
        while let Some(op) = stream.next_op() {
            model.apply(op).map_err(|e| e.at(self.name()))?;
            done += 1;
            if done.is_multiple_of(1 << 16) {
                progress(done);
            }
        }
        Ok(model.summary())
    }
}
