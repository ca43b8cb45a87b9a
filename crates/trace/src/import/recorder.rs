//! strace and perf merged by time and understood, event by event.
//!
//! Both streams are stamped by one clock; they are merged by time, strace first on a tie, ends of processes last. Calls come from strace, where it prints
//! them with arguments, and else from perf's numbers; the perf record of a call that strace printed is recognised and dropped. exec's own
//! mappings come from the MMAP2 records between `COMM exec` and the task's first call.
//!
//! Left out: signals; a fault that ended in one is dropped and counted, as is a fault without the right.
//!
//! Invariant: every perf `sys_enter` becomes exactly one call, or is the record of exactly one call of strace.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::{
    calls, perf,
    raw::{Call, Image, Mapping, Raw, Recording, What},
    strace,
    syscalls::{self, Abi},
    tally::{Landing, Sharing, Tally},
};
use crate::{
    error::TraceError,
    header::{FileInfo, Header, SegmentInfo, TaskInfo, TraceKind},
    op::{Access, FileId, FileRef, MappingKind, Origin, Prot, SliceEnd, Span},
    space::{Area, Object, PAGE, page_up},
};

/// strace stamps are cut to microseconds; a call's stamp may seem later than its perf record by less than this.
const STAMP_SLACK_NS: u64 = 1_000;

pub(super) struct Recorder {
    pub(super) tally: Tally,
    pub(super) name: String,
    pub(super) abi: Abi,
    pub(super) header: Header,
    events: Vec<Raw>,
    images: Vec<Image>,
    /// Task of a living thread.
    task: HashMap<u32, u32>,
    exited: HashSet<u32>,
    /// Threads between `COMM exec` and their first call, with the image being built.
    in_exec: BTreeMap<u32, u32>,
    /// Kinds of the mappings of an image being built, by start address.
    kinds: HashMap<u32, BTreeMap<u64, MappingKind>>,
    /// Objects of the tally, by what names them; and the file behind an object.
    objects: HashMap<String, u32>,
    file_of_object: HashMap<u32, FileId>,
    files: HashMap<(String, u64, String), FileId>,
    inodes: HashMap<String, Vec<(u64, String, u64)>>,
    segments: HashMap<u64, u32>,
    expected: HashMap<u32, VecDeque<(u64, u32)>>,
    dropped: BTreeMap<&'static str, u64>,
}

/// Merges and understands both halves of a recording.
pub(super) fn record(
    name: &str,
    strace: Vec<strace::Event<'_>>,
    perf: Vec<perf::Event<'_>>,
) -> Result<Recording, TraceError> {
    let wide =
        |m: &perf::Mmap<'_>| m.start.saturating_add(m.len) > 1 << 32 && m.path != "[vsyscall]";
    let amd64 = perf
        .iter()
        .any(|e| matches!(&e.what, perf::What::Mmap(m) if wide(m)));
    let mut recorder = Recorder {
        tally: Tally::new(),
        name: name.to_owned(),
        abi: if amd64 { Abi::Amd64 } else { Abi::I386 },
        header: Header::new(name, TraceKind::FirstTouch),
        events: Vec::new(),
        images: Vec::new(),
        task: HashMap::new(),
        exited: HashSet::new(),
        in_exec: BTreeMap::new(),
        kinds: HashMap::new(),
        objects: HashMap::new(),
        file_of_object: HashMap::new(),
        files: HashMap::new(),
        inodes: HashMap::new(),
        segments: HashMap::new(),
        expected: HashMap::new(),
        dropped: BTreeMap::new(),
    };
    recorder.look_ahead(&strace, &perf);
    let mut strace = strace.into_iter().peekable();
    let mut perf = perf.into_iter().peekable();
    loop {
        // An end of a process comes after perf records of the same time, a call before them.
        let strace_key = strace.peek().map(|e| {
            (
                e.time,
                if matches!(e.what, strace::What::Exit) {
                    2
                } else {
                    0
                },
            )
        });
        let perf_key = perf.peek().map(|e| (e.time, 1));
        match (strace_key, perf_key) {
            (None, None) => break,
            (Some(s), p) if p.is_none_or(|p| s <= p) => {
                let event = strace.next().expect("peeked");
                recorder.strace_event(event)?;
            }
            _ => {
                let event = perf.next().expect("peeked");
                recorder.perf_event(event)?;
            }
        }
    }
    recorder.finish()
}

impl Recorder {
    /// What later records say about earlier events: inodes of paths, and the calls of each thread.
    fn look_ahead(&mut self, strace: &[strace::Event<'_>], perf: &[perf::Event<'_>]) {
        for e in perf {
            if let perf::What::Mmap(m) = &e.what
                && m.inode != 0
            {
                let known = self.inodes.entry(m.path.to_owned()).or_default();
                if known
                    .last()
                    .is_none_or(|(_, d, i)| (d.as_str(), *i) != (m.device, m.inode))
                {
                    known.push((e.time, m.device.to_owned(), m.inode));
                }
            }
        }
        let mut calls: Vec<(u32, u64, u32)> = strace
            .iter()
            .filter_map(|e| match &e.what {
                strace::What::Call { name, .. } => {
                    Some((e.tid, e.entry, syscalls::recorded_number(name, self.abi)?))
                }
                strace::What::Exit => None,
            })
            .collect();
        calls.sort_by_key(|c| c.1);
        for (tid, entry, nr) in calls {
            self.expected.entry(tid).or_default().push_back((entry, nr));
        }
    }

    fn error(&self, reason: String) -> TraceError {
        TraceError::Recording {
            name: self.name.clone(),
            reason,
        }
    }

    fn drop_event(&mut self, why: &'static str) {
        *self.dropped.entry(why).or_default() += 1;
    }

    /// Appends an event of a thread.
    pub(super) fn emit(&mut self, tid: u32, time: u64, what: What) {
        let Some(&task) = self.task.get(&tid) else {
            self.drop_event("events of threads that never began");
            return;
        };
        if self.exited.contains(&task) {
            if !matches!(what, What::Switch(_) | What::Exit) {
                self.drop_event("events of threads that had exited");
            }
            return;
        }
        let mm = self.tally.mm_id(tid);
        let lineage = self.tally.mm(tid).map_or(0, |m| m.lineage);
        self.events.push(Raw {
            task,
            lineage,
            mm: mm.unwrap_or(u32::MAX),
            time,
            what,
        });
    }

    pub(super) fn emit_call(&mut self, tid: u32, time: u64, call: Call) {
        self.emit(tid, time, What::Call(Box::new(call)));
    }

    /// A call of which only the number is known.
    pub(super) fn emit_number(&mut self, tid: u32, time: u64, nr: u32) {
        let nr = syscalls::i386_number(nr, self.abi);
        self.emit_call(tid, time, Call::Other { nr });
    }

    pub(super) fn task_of(&self, tid: u32) -> Option<u32> {
        self.task.get(&tid).copied()
    }

    fn new_task(&mut self, pid: u32, tid: u32, parent: Option<u32>) -> u32 {
        let task = self.header.tasks.len() as u32;
        let name = parent.map_or_else(String::new, |p| self.header.tasks[p as usize].name.clone());
        self.header.tasks.push(TaskInfo { name, pid, tid });
        self.task.insert(tid, task);
        task
    }

    /// A thread seen for the first time without a fork: only the root may appear so.
    fn appear(&mut self, tid: u32, time: u64) -> Result<(), TraceError> {
        if self.tally.knows(tid) {
            return Ok(());
        }
        if !self.header.tasks.is_empty() {
            return Err(self.error(format!("thread {tid} appears without a fork")));
        }
        self.tally.appear(tid);
        self.new_task(tid, tid, None);
        self.begin_image(tid, time);
        Ok(())
    }

    /// A child is born; called by strace's line at the call's entry, else by perf's record.
    pub(super) fn fork(
        &mut self,
        parent: u32,
        child: u32,
        pid: Option<u32>,
        sharing: Sharing,
        time: u64,
    ) {
        if self.tally.knows(child) || !self.tally.knows(parent) {
            return;
        }
        let parent_task = self.task_of(parent);
        let pid = pid.unwrap_or_else(|| match (sharing, parent_task) {
            (Sharing::Thread, Some(p)) => self.header.tasks[p as usize].pid,
            _ => child,
        });
        let task = self.new_task(pid, child, parent_task);
        let call = match sharing {
            Sharing::Copy => Call::Fork { child: task },
            Sharing::Vfork => Call::Vfork { child: task },
            Sharing::Thread => Call::Clone { child: task },
        };
        self.emit_call(parent, time, call);
        self.tally.fork(parent, child, sharing);
    }

    // ---- exec ----

    fn begin_image(&mut self, tid: u32, time: u64) {
        let image = self.images.len() as u32;
        let name = self
            .task_of(tid)
            .map_or_else(String::new, |t| self.header.tasks[t as usize].name.clone());
        self.images.push(Image {
            name,
            ..Image::default()
        });
        self.kinds.insert(image, BTreeMap::new());
        self.in_exec.insert(tid, image);
        if let Some(mm) = self.tally.mm(tid) {
            mm.image = Some(image);
        }
        self.emit(tid, time, What::Exec(image));
    }

    /// The image is complete: what is mapped now is what exec mapped.
    pub(super) fn end_image(&mut self, tid: u32) {
        let Some(image) = self.in_exec.remove(&tid) else {
            return;
        };
        let kinds = self.kinds.remove(&image).unwrap_or_default();
        let Some(mm) = self.tally.mm(tid) else { return };
        let stack = mm.stack;
        let areas: Vec<Area> = mm.space.iter().copied().collect();
        let mappings = areas
            .into_iter()
            .map(|area| {
                let in_stack =
                    stack.is_some_and(|(low, high)| area.start >= low && area.end <= high);
                // Merging and growth may have moved the start that the record gave.
                let named = kinds.range(area.start..area.end).next().map(|(_, &k)| k);
                let kind = match (area.object, named) {
                    _ if in_stack => MappingKind::Stack,
                    (Object::Special, _) => MappingKind::Special,
                    (Object::FileShared(_) | Object::Shm(_), _) => MappingKind::Shared,
                    (Object::FilePrivate(_), _) if area.prot.contains(Prot::EXEC) => {
                        MappingKind::Text
                    }
                    (Object::FilePrivate(_), _) => MappingKind::Data,
                    (Object::Anon, Some(MappingKind::Heap)) => MappingKind::Heap,
                    (Object::Anon, _) => MappingKind::Bss,
                };
                let file = match area.object {
                    Object::FilePrivate(o) | Object::FileShared(o) => {
                        self.file_of_object.get(&o).map(|&file| FileRef {
                            file,
                            page_offset: (area.offset / PAGE) as u32,
                        })
                    }
                    _ => None,
                };
                Mapping { area, kind, file }
            })
            .collect();
        self.images[image as usize].mappings = mappings;
        self.images[image as usize].stack_top = stack.map_or(0, |(_, high)| high);
    }

    /// The first end of the heap that a new address space reports is where its heap begins.
    pub(super) fn first_brk(&mut self, tid: u32, brk: u64) {
        let Some(image) = self.tally.mm(tid).and_then(|m| m.image.take()) else {
            return;
        };
        let image = &mut self.images[image as usize];
        image.brk = Some(brk);
        // The calls that made this heap follow.
        image
            .mappings
            .retain(|m| m.kind != MappingKind::Heap || m.area.start < brk);
    }

    // ---- objects ----

    /// The number by which the tally knows an object.
    fn object(&mut self, key: String) -> u32 {
        if let Some(&object) = self.objects.get(&key) {
            return object;
        }
        let object = self.tally.fresh_object();
        self.objects.insert(key, object);
        object
    }

    fn file(&mut self, path: &str, device: &str, inode: u64) -> FileId {
        // A path alone names a file of which no mapping record exists.
        let key = (
            device.to_owned(),
            inode,
            if inode == 0 {
                path.to_owned()
            } else {
                String::new()
            },
        );
        if let Some(&id) = self.files.get(&key) {
            return id;
        }
        let id = FileId(self.header.files.len() as u32);
        self.header.files.push(FileInfo {
            path: path.to_owned(),
            device: device.to_owned(),
            inode,
            pages: 0,
        });
        self.files.insert(key, id);
        id
    }

    fn reach(&mut self, file: FileId, pages: u64) {
        let known = &mut self.header.files[file.0 as usize].pages;
        *known = (*known).max(u32::try_from(pages).unwrap_or(u32::MAX));
    }

    /// The object and the file that a path names in a call.
    pub(super) fn path(&mut self, path: &str, time: u64, end_page: u64) -> (u32, FileId) {
        let known = self.inodes.get(path).and_then(|list| {
            // The record of this very mapping follows the call's entry.
            list.iter()
                .find(|(t, ..)| *t >= time)
                .or(list.last())
                .map(|(_, d, i)| (d.clone(), *i))
        });
        let (device, inode) = known.unwrap_or_default();
        let file = self.file(path, &device, inode);
        self.reach(file, end_page);
        (self.object(format!("path {path}")), file)
    }

    pub(super) fn sysv_object(&mut self, segment: u32) -> u32 {
        self.object(format!("sysv {segment}"))
    }

    pub(super) fn segment(&mut self, id: u64) -> u32 {
        if let Some(&segment) = self.segments.get(&id) {
            return segment;
        }
        let segment = self.header.segments.len() as u32;
        // The size of a segment that no shmget showed: one page, as in the reference replay.
        self.header.segments.push(SegmentInfo {
            recorded_id: id as u32,
            bytes: PAGE as u32,
        });
        self.segments.insert(id, segment);
        segment
    }

    fn mapping_record(&mut self, m: &perf::Mmap<'_>) {
        let prot = Prot(
            u8::from(m.perms.contains('r'))
                | u8::from(m.perms.contains('w')) << 1
                | u8::from(m.perms.contains('x')) << 2,
        );
        let named = [
            "[stack]",
            "[vdso]",
            "[vvar]",
            "[vvar_vclock]",
            "[heap]",
            "//anon",
            "[uprobes]",
        ];
        let (object, offset) = if named.contains(&m.path) || m.inode == 0 {
            (
                if m.path.starts_with("[v") {
                    Object::Special
                } else {
                    Object::Anon
                },
                0,
            )
        } else {
            let object = self.object(format!("inode {} {}", m.device, m.inode));
            let file = self.file(m.path, m.device, m.inode);
            self.reach(file, m.offset.saturating_add(page_up(m.len)) / PAGE);
            self.file_of_object.insert(object, file);
            let shared = m.perms.ends_with('s');
            (
                if shared {
                    Object::FileShared(object)
                } else {
                    Object::FilePrivate(object)
                },
                m.offset,
            )
        };
        let end = m.start.saturating_add(page_up(m.len));
        if let Some(mm) = self.tally.mm(m.tid)
            && m.path == "[stack]"
        {
            mm.stack = Some((m.start, end));
        }
        if m.path == "[heap]"
            && let Some(kinds) = self.in_exec.get(&m.tid).and_then(|i| self.kinds.get_mut(i))
        {
            kinds.insert(m.start, MappingKind::Heap);
        }
        self.tally.map(
            m.tid,
            Area {
                start: m.start,
                end,
                prot,
                object,
                offset,
            },
        );
    }

    // ---- events ----

    fn start_of_time(&mut self, time: u64) {
        // Records at time 0 are the state of the root when the recording began.
        if time > 0
            && let Some(&image) = self.in_exec.values().next()
            && image == 0
        {
            let tid = self.header.tasks[0].tid;
            self.end_image(tid);
        }
    }

    fn strace_event(&mut self, event: strace::Event<'_>) -> Result<(), TraceError> {
        self.start_of_time(event.time);
        match &event.what {
            strace::What::Exit => {
                self.end_image(event.tid);
                self.exit(event.tid, event.time);
                self.tally.exit(event.tid);
                Ok(())
            }
            strace::What::Call { name, args, result } => {
                if *name != "execve" {
                    self.end_image(event.tid);
                }
                calls::apply(self, &event, name, args, result)
            }
        }
    }

    fn exit(&mut self, tid: u32, time: u64) {
        if let Some(task) = self.task_of(tid)
            && !self.exited.contains(&task)
        {
            self.emit(tid, time, What::Exit);
            self.exited.insert(task);
        }
    }

    fn perf_event(&mut self, event: perf::Event<'_>) -> Result<(), TraceError> {
        self.start_of_time(event.time);
        let (tid, time) = (event.tid, event.time);
        match event.what {
            perf::What::Fault {
                address,
                ip,
                error,
                kernel,
            } => {
                let tid = if !self.tally.knows(tid) && self.tally.knows(event.pid) {
                    event.pid
                } else {
                    tid
                };
                self.fault(
                    tid,
                    time,
                    Fault {
                        address,
                        ip,
                        error,
                        kernel,
                    },
                );
            }
            perf::What::Switch { state } => {
                if state.contains('t') {
                    self.tally.count("ctxsw_ptrace");
                } else {
                    self.tally.count("ctxsw");
                    let end = if state.starts_with('R') {
                        SliceEnd::Preempt
                    } else {
                        SliceEnd::Sleep
                    };
                    self.emit(tid, time, What::Switch(end));
                }
            }
            perf::What::Enter { nr } => {
                self.tally.count("syscalls");
                if !self.is_printed(tid, time, nr) {
                    self.emit_number(tid, time, nr);
                }
            }
            perf::What::Fork {
                pid,
                tid: child,
                parent_pid,
                parent_tid,
            } => {
                let thread = pid == parent_pid;
                let parent = if thread || self.tally.knows(parent_tid) {
                    parent_tid
                } else {
                    parent_pid
                };
                let sharing = if thread {
                    Sharing::Thread
                } else {
                    Sharing::Copy
                };
                self.fork(parent, child, Some(pid), sharing, time);
            }
            perf::What::Exit => self.exit(tid, time),
            perf::What::Comm { name, tid, exec } => {
                if exec {
                    if !self.tally.knows(tid) {
                        self.appear(tid, time)?;
                    }
                    self.name_task(tid, name);
                    self.tally.exec(tid);
                    self.in_exec.remove(&tid);
                    self.begin_image(tid, time);
                } else {
                    self.appear(tid, time)?;
                    self.name_task(tid, name);
                }
            }
            perf::What::Mmap(m) => {
                self.tally.count("mmap2");
                if time == 0 {
                    self.appear(m.tid, time)?;
                }
                if time == 0 || self.in_exec.contains_key(&m.tid) {
                    self.mapping_record(&m);
                }
            }
            perf::What::Lost => self.tally.count("lost"),
        }
        Ok(())
    }

    fn name_task(&mut self, tid: u32, name: &str) {
        if let Some(task) = self.task_of(tid) {
            name.clone_into(&mut self.header.tasks[task as usize].name);
            if let Some(&image) = self.in_exec.get(&tid) {
                name.clone_into(&mut self.images[image as usize].name);
            }
        }
    }

    /// Whether a perf record of a call is the one that strace printed.
    fn is_printed(&mut self, tid: u32, time: u64, nr: u32) -> bool {
        let abi = self.abi;
        let Some(queue) = self.expected.get_mut(&tid) else {
            return false;
        };
        let latest = time.saturating_add(STAMP_SLACK_NS);
        let found = queue
            .iter()
            .take_while(|(entry, _)| *entry <= latest)
            .position(|&(_, printed)| syscalls::is_same_call(nr, printed, abi));
        if let Some(at) = found {
            queue.drain(..=at);
        }
        found.is_some()
    }

    fn fault(&mut self, tid: u32, time: u64, f: Fault) {
        let write = f.error & 2 != 0;
        let access = if f.error & 0x10 != 0 {
            Access::Exec
        } else if write {
            Access::Write
        } else {
            Access::Read
        };
        match self.tally.fault(tid, f.address, access, write, f.kernel) {
            Landing::Area(area) if area.prot.allows(access) => {
                let file = matches!(
                    area.object,
                    Object::FilePrivate(_) | Object::FileShared(_) | Object::Shm(_)
                );
                let span = if file && !write {
                    Span::Around
                } else {
                    Span::Page
                };
                let origin = if f.kernel {
                    Origin::Kernel
                } else {
                    Origin::User
                };
                self.emit(
                    tid,
                    time,
                    What::Touch {
                        va: f.address,
                        ip: f.ip,
                        access,
                        origin,
                        span,
                    },
                );
            }
            Landing::Area(_) => self.drop_event("faults without the right (ended in a signal)"),
            Landing::Signal => self.drop_event("faults in the null page (ended in a signal)"),
            Landing::Nowhere => self.drop_event("faults where nothing was mapped"),
        }
    }

    fn finish(mut self) -> Result<Recording, TraceError> {
        let open: Vec<u32> = self.in_exec.keys().copied().collect();
        open.into_iter().for_each(|tid| self.end_image(tid));
        if self.header.tasks.is_empty() {
            return Err(self.error("no process in it".to_owned()));
        }
        let inodes = self.inodes.len() as u64;
        self.header.totals = self.tally.totals();
        self.header
            .totals
            .counts
            .insert("files_with_inode".to_owned(), inodes);
        for (why, n) in &self.dropped {
            self.header.notes.push(format!("dropped: {n} {why}"));
        }
        Ok(Recording {
            lineages: self.tally.lineages(),
            header: self.header,
            events: self.events,
            images: self.images,
        })
    }
}

struct Fault {
    address: u64,
    ip: u64,
    error: u32,
    kernel: bool,
}
