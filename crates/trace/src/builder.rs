//! `TraceBuilder`: traces made by a program, for tests and benchmarks.
//!
//! Operations are written at once, so a trace takes no more memory than its file. The writer keeps the plain model of all address spaces, so that the caller names pages and lengths and the
//! builder fills in addresses: the bottom-up first-fit search from 0x4000_0000 that 2.6's
//! `arch_get_unmapped_area` makes (`TASK_UNMAPPED_BASE` = TASK_SIZE / 3 rounded, 2.6.7 `include/asm-i386/processor.h`).
//!
//! Every operation on a process that is not running first switches to it; the slice of the other one ends as preempted.
//!
//! Invariant: a trace that `finish` returns passes `Trace::check`.

use crate::{
    error::TraceError,
    format::TraceWriter,
    header::{FileInfo, Header, SegmentInfo, TaskInfo, TraceKind},
    model::{HUGE_USER_END, Model, USER_END},
    op::*,
    space::page_up,
    trace::Trace,
};

/// Where the search for a free range begins: `TASK_SIZE / 3` on i386.
pub const TASK_UNMAPPED_BASE: u32 = 0x4000_0000;

/// First address of the program text: where i386 ELF programs are linked.
pub const TEXT_BASE: u32 = 0x0804_8000;

/// Collects operations and tables.
#[derive(Debug)]
pub struct TraceBuilder {
    writer: TraceWriter,
    len: usize,
    program: FileId,
    unmapped_base: u32,
    user_end: u64,
}

impl TraceBuilder {
    /// An empty trace. The first [`TraceBuilder::spawn`] makes the first task.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut builder = Self {
            writer: TraceWriter::new(Header::new(name, TraceKind::Synthetic)),
            len: 0,
            program: FileId(0),
            unmapped_base: TASK_UNMAPPED_BASE,
            user_end: USER_END,
        };
        builder.program = builder.file("/bin/program", 64);
        builder
    }

    /// Lets the search for free addresses begin elsewhere (mapped_base of the vendor kernels of the time).
    pub fn set_unmapped_base(&mut self, base: u32) {
        self.unmapped_base = base;
    }

    /// Gives all processes the user space of 4G/4G, where alone the trace then runs. To be called before the first is made.
    pub fn set_huge(&mut self) {
        self.user_end = HUGE_USER_END;
    }

    /// Adds a file of that many pages.
    pub fn file(&mut self, path: &str, pages: u32) -> FileId {
        let id = self.writer.header_mut().files.len() as u32;
        self.writer.header_mut().files.push(FileInfo {
            path: path.to_owned(),
            device: "00:00".to_owned(),
            inode: u64::from(id) + 1,
            pages,
        });
        FileId(id)
    }

    /// Adds a System V segment, to be attached with [`OnTask::shmat`].
    pub fn segment(&mut self, bytes: u32) -> SegmentId {
        let id = self.writer.header_mut().segments.len() as u32;
        self.writer.header_mut().segments.push(SegmentInfo {
            recorded_id: id,
            bytes,
        });
        self.writer.model_mut().add_segment(bytes);
        SegmentId(id)
    }

    fn new_task(&mut self, name: &str) -> TaskId {
        let task = self.writer.model_mut().add_task();
        let number = task.0 + 1;
        self.writer.header_mut().tasks.push(TaskInfo {
            name: name.to_owned(),
            pid: number,
            tid: number,
        });
        task
    }

    /// The image that [`TraceBuilder::spawn`] gives a process: 16 pages of text, 4 of data, 4 of bss, a stack of 33.
    #[must_use]
    pub fn image(&self) -> ExecImage {
        let mapping = |start: u32, pages: u32, prot, page_offset: Option<u32>, kind| ExecMapping {
            start,
            end: start + pages * PAGE_SIZE,
            prot,
            flags: match kind {
                MappingKind::Stack => MapFlags::PRIVATE
                    .union(MapFlags::ANONYMOUS)
                    .union(MapFlags::GROWSDOWN),
                MappingKind::Bss => MapFlags::PRIVATE.union(MapFlags::ANONYMOUS),
                _ => MapFlags::PRIVATE,
            },
            file: page_offset.map(|page_offset| FileRef {
                file: self.program,
                page_offset,
            }),
            kind,
        };
        let data = TEXT_BASE + 16 * PAGE_SIZE;
        let bss = data + 4 * PAGE_SIZE;
        let stack_top = self.user_end as u32;
        ExecImage {
            name: "program".to_owned(),
            mappings: vec![
                mapping(TEXT_BASE, 16, Prot::RX, Some(0), MappingKind::Text),
                mapping(data, 4, Prot::RW, Some(16), MappingKind::Data),
                mapping(bss, 4, Prot::RW, None, MappingKind::Bss),
                mapping(
                    stack_top - 33 * PAGE_SIZE,
                    33,
                    Prot::RW,
                    None,
                    MappingKind::Stack,
                ),
            ],
            brk: bss + 4 * PAGE_SIZE,
            stack_top,
        }
    }

    /// Makes a process with the standard image. The first is the root; later ones are forked from the
    /// root and exec.
    pub fn spawn(&mut self) -> TaskId {
        let image = self.image();
        let task = if self.writer.header().tasks.is_empty() {
            self.new_task("program")
        } else {
            self.on(TaskId::FIRST).fork()
        };
        self.on(task).exec(image);
        task
    }

    /// Operations of that task follow.
    pub fn on(&mut self, task: TaskId) -> OnTask<'_> {
        self.switch(task, SliceEnd::Preempt);
        OnTask {
            builder: self,
            task,
        }
    }

    /// Ends the running task's slice as asleep, and goes on with `to`.
    pub fn sleep(&mut self, to: TaskId) {
        self.push(Op::Switch {
            to,
            how: SliceEnd::Sleep,
        });
    }

    fn switch(&mut self, to: TaskId, how: SliceEnd) {
        let current = self.writer.model().current();
        if current != to {
            let how = if self.writer.model().is_alive(current) {
                how
            } else {
                SliceEnd::Exit
            };
            self.push(Op::Switch { to, how });
        }
    }

    /// Appends any operation of the running task.
    ///
    /// # Panics
    /// If it is impossible: a builder program with such an operation is wrong.
    pub fn push(&mut self, op: impl Into<Op>) {
        let op = op.into();
        if let Err(e) = self.writer.push(&op) {
            panic!("trace builder: {e}");
        }
        self.len += 1;
    }

    /// The model of the state so far.
    #[must_use]
    pub const fn model(&self) -> &Model {
        self.writer.model()
    }

    /// Number of operations so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was done yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The finished trace.
    ///
    /// # Errors
    /// If it is too large for the format.
    pub fn try_finish(self) -> Result<Trace, TraceError> {
        self.writer.finish()
    }

    /// The finished trace.
    ///
    /// # Panics
    /// If it is too large for the format.
    #[must_use]
    pub fn finish(self) -> Trace {
        self.try_finish()
            .expect("a builder trace is valid and fits the format")
    }
}

/// Appends operations of one task. Methods return the address or task that the operation made, or the builder for chaining.
#[derive(Debug)]
pub struct OnTask<'a> {
    builder: &'a mut TraceBuilder,
    task: TaskId,
}

impl OnTask<'_> {
    fn op(&mut self, op: impl Into<Op>) -> &mut Self {
        self.builder.push(op);
        self
    }

    fn gap(&self, len: u32) -> u32 {
        let mm = self
            .builder
            .writer
            .model()
            .mm(self.task)
            .expect("the task has an address space");
        let len = page_up(u64::from(len));
        mm.space
            .gap(
                u64::from(self.builder.unmapped_base),
                len,
                self.builder.user_end,
            )
            .expect("a builder program maps no more than 2 GiB") as u32
    }

    fn mmap(&mut self, len: u32, prot: Prot, flags: MapFlags, file: Option<FileRef>) -> u32 {
        let result = self.gap(len);
        self.op(Call::Mmap {
            hint: 0,
            len,
            prot,
            flags,
            file,
            result,
        });
        result
    }

    /// Maps private anonymous memory, readable and writable; returns its address.
    pub fn mmap_anon(&mut self, len: u32) -> u32 {
        self.mmap(
            len,
            Prot::RW,
            MapFlags::PRIVATE.union(MapFlags::ANONYMOUS),
            None,
        )
    }

    /// Maps shared anonymous memory, readable and writable; returns its address.
    pub fn mmap_shared(&mut self, len: u32) -> u32 {
        self.mmap(
            len,
            Prot::RW,
            MapFlags::SHARED.union(MapFlags::ANONYMOUS),
            None,
        )
    }

    /// Maps a file, `flags` being `MAP_PRIVATE` or `MAP_SHARED`; returns its address.
    pub fn mmap_file(&mut self, file: FileRef, len: u32, prot: Prot, flags: MapFlags) -> u32 {
        self.mmap(len, prot, flags, Some(file))
    }

    /// Maps anonymous private memory at a fixed address, replacing what is there.
    pub fn mmap_fixed(&mut self, addr: u32, len: u32, prot: Prot) -> &mut Self {
        let flags = MapFlags::PRIVATE
            .union(MapFlags::ANONYMOUS)
            .union(MapFlags::FIXED);
        self.op(Call::Mmap {
            hint: addr,
            len,
            prot,
            flags,
            file: None,
            result: addr,
        })
    }

    /// Unmaps.
    pub fn munmap(&mut self, addr: u32, len: u32) -> &mut Self {
        self.op(Call::Munmap { addr, len })
    }

    /// Changes protection.
    pub fn mprotect(&mut self, addr: u32, len: u32, prot: Prot) -> &mut Self {
        self.op(Call::Mprotect { addr, len, prot })
    }

    /// Grows, shrinks or moves a mapping: in place if there is room, else to the lowest gap; returns its address.
    pub fn mremap(&mut self, old: u32, old_len: u32, new_len: u32) -> u32 {
        let mm = self
            .builder
            .writer
            .model()
            .mm(self.task)
            .expect("the task has an address space");
        let (from, to) = (page_up(u64::from(old_len)), page_up(u64::from(new_len)));
        let start = u64::from(old);
        let room = to <= from || mm.space.overlap(start + from, start + to).is_none();
        let result = if room && start + to <= self.builder.user_end {
            old
        } else {
            self.gap(new_len)
        };
        self.op(Call::Mremap {
            old,
            old_len,
            new_len,
            flags: RemapFlags::MAYMOVE,
            new_addr: 0,
            result,
        });
        result
    }

    /// Moves a mapping to a given address, replacing what is there.
    pub fn mremap_fixed(&mut self, old: u32, len: u32, to: u32) -> &mut Self {
        let flags = RemapFlags(RemapFlags::MAYMOVE.0 | RemapFlags::FIXED.0);
        self.op(Call::Mremap {
            old,
            old_len: len,
            new_len: len,
            flags,
            new_addr: to,
            result: to,
        })
    }

    /// Grows or shrinks the heap by bytes; returns its new end.
    pub fn brk(&mut self, by: i32) -> u32 {
        let old = self
            .builder
            .writer
            .model()
            .brk(self.task)
            .expect("the task has an address space") as u32;
        let addr = old
            .checked_add_signed(by)
            .expect("the heap stays inside 32 bits");
        self.op(Call::Brk { addr, result: addr });
        addr
    }

    /// Advises.
    pub fn madvise(&mut self, addr: u32, len: u32, advice: Advice) -> &mut Self {
        self.op(Call::Madvise { addr, len, advice })
    }

    /// Locks pages.
    pub fn mlock(&mut self, addr: u32, len: u32) -> &mut Self {
        self.op(Call::Mlock { addr, len })
    }

    /// Unlocks pages.
    pub fn munlock(&mut self, addr: u32, len: u32) -> &mut Self {
        self.op(Call::Munlock { addr, len })
    }

    /// Shows other pages of the object in part of a shared mapping.
    pub fn remap_file_pages(&mut self, addr: u32, len: u32, page_offset: u32) -> &mut Self {
        self.op(Call::RemapFilePages {
            addr,
            len,
            page_offset,
        })
    }

    /// Creates a segment, or finds it.
    pub fn shmget(&mut self, segment: SegmentId) -> &mut Self {
        let len = self.builder.writer.header().segments[segment.0 as usize].bytes;
        self.op(Call::Shmget { segment, len })
    }

    /// Attaches a segment; returns its address.
    pub fn shmat(&mut self, segment: SegmentId) -> u32 {
        let len = self.builder.writer.header().segments[segment.0 as usize].bytes;
        let result = self.gap(len);
        // With a base of its own the program says where: the kernel's search begins elsewhere.
        let own = self.builder.unmapped_base != TASK_UNMAPPED_BASE;
        self.op(Call::Shmat {
            segment,
            hint: if own { result } else { 0 },
            prot: Prot::RW,
            result,
        });
        result
    }

    /// Detaches a segment.
    pub fn shmdt(&mut self, addr: u32) -> &mut Self {
        self.op(Call::Shmdt { addr })
    }

    /// Forks; returns the child.
    pub fn fork(&mut self) -> TaskId {
        let child = self.builder.new_task("program");
        self.op(Call::Fork { child });
        child
    }

    /// Makes a child that shares the address space until it execs or exits.
    pub fn vfork(&mut self) -> TaskId {
        let child = self.builder.new_task("program");
        self.op(Call::Vfork { child });
        child
    }

    /// Makes a thread.
    pub fn clone_thread(&mut self) -> TaskId {
        let child = self.builder.new_task("program");
        self.op(Call::Clone { child });
        child
    }

    /// Replaces the address space.
    pub fn exec(&mut self, image: ExecImage) -> &mut Self {
        self.op(Call::Exec {
            image: Box::new(image),
        })
    }

    /// Ends the task. The next operation must be on another one.
    pub fn exit(&mut self) {
        self.op(Call::Exit {});
    }

    /// Reaps a child that has exited.
    pub fn wait(&mut self, child: TaskId) -> &mut Self {
        self.op(Call::Wait { child })
    }

    /// A call without effect on memory: `getpid`, number 20, copies nothing.
    pub fn null_call(&mut self) -> &mut Self {
        self.other(20, 0, 0)
    }

    /// Any call without effect on memory, with the bytes it copies from and to user memory.
    pub fn other(&mut self, nr: u32, bytes_in: u32, bytes_out: u32) -> &mut Self {
        self.op(Call::Other {
            nr,
            bytes_in,
            bytes_out,
        })
    }

    /// A call that fails.
    pub fn failed(&mut self, nr: u32) -> &mut Self {
        self.op(Call::Failed { nr })
    }

    /// `pwrite64` of `len` bytes at `addr` to byte `position` of `file`.
    pub fn file_write(&mut self, file: FileId, position: u64, addr: u32, len: u32) -> &mut Self {
        self.op(Call::FileWrite {
            file,
            position,
            addr,
            len,
        })
    }

    /// `fsync`.
    pub fn fsync(&mut self, file: FileId) -> &mut Self {
        self.op(Call::Fsync { file })
    }

    /// `ftruncate64` to `len` bytes.
    pub fn truncate(&mut self, file: FileId, len: u64) -> &mut Self {
        self.op(Call::Truncate { file, len })
    }

    fn touch(&mut self, va: u32, access: Access) -> &mut Self {
        let ip = if access == Access::Exec {
            va
        } else {
            TEXT_BASE
        };
        self.op(Op::Touch {
            va,
            ip,
            access,
            origin: Origin::User,
            span: Span::Page,
        })
    }

    /// Touches a page by a load from text.
    pub fn read(&mut self, va: u32) -> &mut Self {
        self.touch(va, Access::Read)
    }

    /// Touches a page by a store from text.
    pub fn write(&mut self, va: u32) -> &mut Self {
        self.touch(va, Access::Write)
    }

    /// Touches a page by executing in it.
    pub fn execute(&mut self, va: u32) -> &mut Self {
        self.touch(va, Access::Exec)
    }

    /// Reads one word of each page of a range.
    pub fn read_pages(&mut self, addr: u32, len: u32) -> &mut Self {
        self.each_page(addr, len, Access::Read)
    }

    /// Writes one word of each page of a range.
    pub fn write_pages(&mut self, addr: u32, len: u32) -> &mut Self {
        self.each_page(addr, len, Access::Write)
    }

    fn each_page(&mut self, addr: u32, len: u32, access: Access) -> &mut Self {
        for page in 0..len.div_ceil(PAGE_SIZE) {
            self.touch(addr + page * PAGE_SIZE, access);
        }
        self
    }

    /// Fetches an instruction.
    pub fn fetch(&mut self, va: u32, len: u8) -> &mut Self {
        self.op(Op::Fetch { va, len })
    }

    /// Loads.
    pub fn load(&mut self, va: u32, len: u8) -> &mut Self {
        self.op(Op::Load { va, len })
    }

    /// Stores.
    pub fn store(&mut self, va: u32, len: u8) -> &mut Self {
        self.op(Op::Store { va, len })
    }

    /// Reads, modifies and writes.
    pub fn modify(&mut self, va: u32, len: u8) -> &mut Self {
        self.op(Op::Modify { va, len })
    }

    /// Retires instructions without memory operands.
    pub fn work(&mut self, instructions: u32) -> &mut Self {
        self.op(Op::Work { instructions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_trace_is_what_was_said() {
        let mut t = TraceBuilder::new("small");
        let p = t.spawn();
        let a = t.on(p).mmap_anon(3 * PAGE_SIZE);
        let b = t.on(p).mmap_anon(PAGE_SIZE);
        assert_eq!(
            (a, b),
            (TASK_UNMAPPED_BASE, TASK_UNMAPPED_BASE + 3 * PAGE_SIZE)
        );
        t.on(p).write_pages(a, 3 * PAGE_SIZE).read(b);
        let c = t.on(p).fork();
        t.on(c).write(a).exit();
        t.on(p).wait(c).munmap(a, 3 * PAGE_SIZE);
        let moved = t.on(p).mremap(b, PAGE_SIZE, 5 * PAGE_SIZE);
        assert_eq!(moved, b, "there is room behind it");
        let trace = t.finish();
        assert_eq!(trace.check(|_| {}).unwrap(), *trace.summary());
        let s = trace.summary();
        assert_eq!((s.touches, s.calls, s.switches), (5, 8, 2));
        assert_eq!((s.peak_ptes, s.max_spaces), (8, 2));
        assert_eq!(trace.op(s.peak_op), Some(Op::from(Call::Fork { child: c })));
        assert_eq!(trace.ops().count() as u64, trace.len());
    }

    #[test]
    fn spawned_processes_have_images_of_their_own() {
        let mut t = TraceBuilder::new("two");
        let p = t.spawn();
        let q = t.spawn();
        let a = t.on(q).mmap_anon(PAGE_SIZE);
        t.on(p).null_call();
        t.on(q).write(a).exit();
        t.on(p).exit();
        assert_eq!(t.finish().summary().max_spaces, 2);
    }

    #[test]
    #[should_panic(expected = "where nothing is mapped")]
    fn a_stray_touch_is_refused() {
        let mut t = TraceBuilder::new("stray");
        let p = t.spawn();
        t.on(p).read(0x2000_0000);
    }
}
