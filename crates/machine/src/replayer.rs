//! Ring 3 from a trace: one global cursor over the scheduled operations, expanded into steps (decision D2).
//!
//! The guest runs exactly the task the schedule says: before every entry the mailbox names the task that must run when the
//! kernel next returns to CPL 3, and the replayer compares. A slice that ended asleep right after a system call
//! switches at the end of that call; any other end of a slice is a resched interrupt. (A sleep inside a page fault or
//! before a recorded wait is therefore replayed as a resched interrupt: the recording has no call there.)
//!
//! What a recording lacks is added here, by the trace's assumptions: re-touches after each recorded event, pages that
//! fault-around mapped, bytes copied by calls, user work. Steps say whether they are recorded: only recorded loads enter the
//! load hash, only recorded touches enter the re-touch lists.
//!
//! Left out: signals, time.
//!
//! Invariant: what is replayed depends on the trace and its assumptions only, never on the configuration, so that the same
//! trace leaves the same user memory everywhere.

use crate::call::{CallRegs, Marshalled, marshal};
use crate::mailbox;
use emu_mmu::PhysMem;
use lowmem_abi::mailbox::{Mailbox, NO_RESULT};
use lowmem_report::Operation;
use lowmem_trace::retouch::{Pick, mix};
use lowmem_trace::{
    Access, Advice, Assumptions, Call, Op, OpStream, Prot, Retouch, RetouchDepth, SliceEnd, Span,
    TaskId, Trace, TraceKind, Vfork,
    model::Model,
    space::{Area, Object},
};
use std::collections::VecDeque;

/// Bytes fetched for an instruction whose length was not recorded: an assumption (mean of i386 code, 3 to 4).
const INSTRUCTION_BYTES: u8 = 4;

/// One thing that ring 3 does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Fetch an instruction.
    Fetch {
        /// Address.
        va: u32,
        /// Bytes.
        len: u8,
    },
    /// Load.
    Load {
        /// Address.
        va: u32,
        /// Bytes.
        len: u16,
    },
    /// Store.
    Store {
        /// Address.
        va: u32,
        /// Bytes.
        len: u16,
        /// What.
        value: u64,
    },
    /// Read-modify-write.
    Modify {
        /// Address.
        va: u32,
        /// Bytes.
        len: u16,
        /// What is left there.
        value: u64,
    },
    /// Instructions without memory operands.
    Work(u32),
    /// System call.
    Call(CallRegs),
    /// The resched interrupt.
    Resched,
}

/// What happens between two steps; the machine does it at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The running task is the last user of its address space, and its next call ends it: fold its memory.
    LastUser {
        /// Owner of the address space in the memory hash.
        owner: u32,
        /// Top of its stack, 0 if it has none.
        stack_top: u32,
    },
    /// Operations from the first to the second number are done.
    Done(u64, u64),
    /// The trace is at its end.
    End,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A step of the running task.
    Step(Step),
    /// A pause; ask again afterwards.
    Pause(Pause),
}

/// Why the kernel was entered, as far as a return is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The pending call or resched interrupt.
    Asked,
    /// A page fault of the pending step, or a tick: the step is asked for again.
    Unasked,
}

/// Where the trace and the guest disagree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The trace, or the guest's answer to it.
    #[error("{0}")]
    Mismatch(String),
    /// An operation faults again and again.
    #[error("faulted 8 times without completing: {0}")]
    Livelock(String),
}

/// When the replayer pauses after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PauseAfter {
    /// After none.
    #[default]
    Never,
    /// After the operation with this number.
    Operation(u64),
    /// After every operation.
    Every,
}

#[derive(Debug, Clone)]
struct Task {
    retouch: Retouch,
    /// Address of the last fetch.
    ip: u32,
    mm: usize,
    /// Fold of the recorded loads.
    loads: u64,
    /// Stack pointer for sysenter.
    stack: u32,
}

#[derive(Debug, Clone, Default)]
struct Space {
    owner: u32,
    stack_top: u32,
    users: u32,
    tasks: Vec<u32>,
    /// Pages written lately, most recent last: candidates for the buffer of a copying call.
    written: Vec<u32>,
}

/// Pages remembered as candidates for a call's buffer.
const WRITTEN_KEPT: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Queued {
    step: Step,
    /// A load of the recording: enters the load hash.
    recorded: bool,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Replayer {
    name: String,
    seed: u64,
    ops: OpStream,
    total: u64,
    assumptions: Assumptions,
    depth: RetouchDepth,
    model: Model,
    tasks: Vec<Option<Task>>,
    spaces: Vec<Space>,
    current: TaskId,
    /// Operation whose steps are queued.
    op: u64,
    started: bool,
    steps: VecDeque<Queued>,
    /// A call ends its address space: the pause before it was made.
    folded: bool,
    /// Steps of the operation proper are done; what is queued are its re-touches.
    retouched: bool,
    call: Option<Marshalled>,
    /// Task after the pending entry.
    next_task: TaskId,
    via_idle: bool,
    /// Operations taken together with the call: the switch behind it.
    taken: u64,
    attempts: u32,
    kind: Operation,
    /// Commutative sum of the load hashes of tasks that ended.
    load_sum: u128,
    /// Pause after which operations.
    pub pause_after: PauseAfter,
    /// Also pause after operations whose number is a power of two.
    pub pause_doubling: DoublingPauses,
    /// Also pause after every so many operations; 0: never.
    pub pause_every: u64,
    paused_done: bool,
}

/// Pauses at doubling intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DoublingPauses {
    /// None.
    #[default]
    Off,
    /// After operations 1, 2, 4, 8 ...
    On,
}

impl Replayer {
    /// A replayer at the first operation of `trace`.
    pub fn new(trace: &Trace, assumptions: Assumptions) -> Self {
        let depth = match trace.header().kind {
            TraceKind::FirstTouch | TraceKind::Synthetic => assumptions.retouch,
            TraceKind::EveryReference => RetouchDepth::NONE,
        };
        let sha = trace.sha256();
        let mut seed = [0; 8];
        seed.copy_from_slice(&sha[..8]);
        let mut replayer = Self {
            name: trace.name().to_owned(),
            seed: u64::from_le_bytes(seed),
            ops: trace.ops(),
            total: trace.len(),
            assumptions,
            depth,
            model: Model::new(trace.header()),
            tasks: vec![None; trace.tasks()],
            spaces: vec![Space {
                owner: pid(TaskId::FIRST),
                stack_top: 0,
                users: 1,
                tasks: vec![TaskId::FIRST.0],
                written: Vec::new(),
            }],
            current: TaskId::FIRST,
            op: 0,
            started: false,
            steps: VecDeque::new(),
            folded: false,
            retouched: false,
            call: None,
            next_task: TaskId::FIRST,
            via_idle: false,
            taken: 1,
            attempts: 0,
            kind: Operation::NullCall,
            load_sum: 0,
            pause_after: PauseAfter::Never,
            pause_doubling: DoublingPauses::Off,
            pause_every: 0,
            paused_done: false,
        };
        if let Some(first) = replayer.tasks.first_mut() {
            *first = Some(Task::new(0));
        }
        replayer
    }

    /// Number of the operation at hand.
    pub fn operation(&self) -> u64 {
        self.op
    }
    /// Number of operations.
    pub fn total(&self) -> u64 {
        self.total
    }
    /// Name of the trace.
    pub fn trace_name(&self) -> &str {
        &self.name
    }
    /// Guest id of the running task.
    pub fn current_pid(&self) -> u32 {
        pid(self.current)
    }
    /// Guest id of the task that runs after the pending entry.
    pub fn next_pid(&self) -> u32 {
        pid(self.next_task)
    }
    /// Whether the pending call leaves no task to return to.
    pub fn is_last_exit(&self) -> bool {
        self.next_task == TaskId(u32::MAX)
    }
    /// What kind of entry the pending call or interrupt is.
    pub fn kind(&self) -> Operation {
        self.kind
    }
    /// Address of the running task's last fetch.
    pub fn ip(&self) -> u32 {
        self.task().ip
    }
    /// Stack pointer of the running task.
    pub fn stack(&self) -> u32 {
        self.task().stack
    }
    /// Number of the running task's address space, unique in a replay; `u32::MAX` when no task is left.
    pub fn space_id(&self) -> u32 {
        match self.tasks.get(self.current.index()) {
            Some(Some(task)) => task.mm as u32,
            _ => u32::MAX,
        }
    }
    /// Owners of the address spaces that are alive, with the guest id of one task of each and the top of its stack.
    pub fn living_spaces(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        self.spaces
            .iter()
            .filter(|s| s.users > 0)
            .filter_map(|s| Some((s.owner, s.tasks.first()? + 1, s.stack_top)))
    }
    /// Commutative sum of all load hashes, those of living tasks included.
    pub fn load_sum(&self) -> u128 {
        let mut sum = self.load_sum;
        for (i, task) in self.tasks.iter().enumerate() {
            if let Some(task) = task {
                sum = sum.wrapping_add(fold_loads(i as u32 + 1, task.loads));
            }
        }
        sum
    }

    fn task(&self) -> &Task {
        self.tasks[self.current.index()]
            .as_ref()
            .expect("the running task is alive: the model checked the switch")
    }
    fn task_mut(&mut self) -> &mut Task {
        self.tasks[self.current.index()]
            .as_mut()
            .expect("the running task is alive: the model checked the switch")
    }

    /// What to do now. Asked again without [`Replayer::done`] or [`Replayer::returned`] it answers the same; a pause is
    /// over once it was given.
    pub fn next(&mut self, mem: &mut PhysMem) -> Result<Next, ReplayError> {
        loop {
            if let Some(queued) = self.steps.front() {
                let step = queued.step;
                match step {
                    Step::Call(_) => {
                        if !self.folded {
                            self.folded = true;
                            if let Some((owner, stack_top)) = self.ends_space() {
                                let pause = Pause::LastUser { owner, stack_top };
                                return Ok(Next::Pause(pause));
                            }
                        }
                        self.post_call(mem);
                    }
                    Step::Resched => {
                        mailbox::update(mem, |m| self.address(m));
                    }
                    _ => {}
                }
                return Ok(Next::Step(step));
            }
            if self.started {
                if !self.retouched {
                    self.retouched = true;
                    self.queue_retouches();
                    continue;
                }
                if !self.paused_done && self.wants_pause(self.op) {
                    self.paused_done = true;
                    let last = self.op + self.taken - 1;
                    return Ok(Next::Pause(Pause::Done(self.op, last)));
                }
                self.op += self.taken;
                self.started = false;
            }
            if self.op >= self.total {
                return Ok(Next::Pause(Pause::End));
            }
            self.start()?;
        }
    }

    /// The step at hand (no call, no resched) is done; `value` is what it loaded.
    pub fn done(&mut self, value: u32) {
        self.attempts = 0;
        let Some(queued) = self.steps.pop_front() else {
            return;
        };
        match queued.step {
            Step::Fetch { va, .. } => self.task_mut().ip = va,
            Step::Load { .. } | Step::Modify { .. } if queued.recorded => {
                let task = self.task_mut();
                task.loads = (task.loads.rotate_left(5) ^ u64::from(value))
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            _ => {}
        }
    }

    /// The kernel has returned to CPL 3 with `eax`.
    pub fn returned(
        &mut self,
        mem: &mut PhysMem,
        entry: Entry,
        eax: u32,
    ) -> Result<(), ReplayError> {
        let current = mailbox::read(mem).current;
        match entry {
            Entry::Unasked => {
                if current != pid(self.current) {
                    return Err(ReplayError::Mismatch(format!(
                        "task {current} runs after a fault or tick of task {}",
                        pid(self.current)
                    )));
                }
                Ok(())
            }
            Entry::Asked => {
                let expected = pid(self.next_task);
                if current != expected {
                    return Err(ReplayError::Mismatch(format!(
                        "task {current} runs, the schedule says {expected}"
                    )));
                }
                self.complete(eax)
            }
        }
    }

    /// Counts a fault of the step at hand.
    pub fn faulted(&mut self, va: u32) -> Result<(), ReplayError> {
        self.attempts += 1;
        if self.attempts < 8 {
            return Ok(());
        }
        Err(ReplayError::Livelock(format!(
            "{:?}, fault at {va:#x} in {}",
            self.steps.front().map(|q| q.step),
            self.mapping(va)
        )))
    }

    /// The mapping of the running task that holds `va`, in words.
    pub fn mapping(&self, va: u32) -> String {
        match self.area(va) {
            Some(a) => format!(
                "mapping {:#x}..{:#x} prot {} {:?}",
                a.start, a.end, a.prot.0, a.object
            ),
            None => "no mapping".to_owned(),
        }
    }

    fn area(&self, va: u32) -> Option<Area> {
        self.model
            .mm(self.current)
            .and_then(|mm| mm.space.find(u64::from(va)))
            .copied()
    }

    fn wants_pause(&self, op: u64) -> bool {
        let op = op + self.taken - 1;
        let due = |at: u64| (self.op..=op).contains(&at);
        (match self.pause_after {
            PauseAfter::Never => false,
            PauseAfter::Operation(n) => due(n),
            PauseAfter::Every => true,
        }) || (self.pause_doubling == DoublingPauses::On
            && (self.op..=op).any(|n| n.is_power_of_two()))
            || (self.pause_every != 0
                && (self.op..=op).any(|n| n != 0 && n.is_multiple_of(self.pause_every)))
    }

    /// Expands the operation at the cursor into steps.
    fn start(&mut self) -> Result<(), ReplayError> {
        self.ops.seek(self.op);
        let Some(op) = self.ops.peek().cloned() else {
            return Err(ReplayError::Mismatch("the trace ends early".to_owned()));
        };
        self.started = true;
        self.taken = 1;
        self.retouched = true;
        self.paused_done = false;
        self.attempts = 0;
        match &op {
            Op::Touch { .. } => {
                self.apply(&op)?;
                self.start_touch(&op);
                self.retouched = false;
            }
            Op::Fetch { va, len } => {
                self.apply(&op)?;
                self.push(Step::Fetch { va: *va, len: *len }, true);
            }
            Op::Load { va, len } => {
                self.apply(&op)?;
                let len = u16::from(*len);
                self.push(Step::Load { va: *va, len }, true);
            }
            Op::Store { va, len } => {
                self.apply(&op)?;
                self.wrote(*va);
                let (len, value) = (u16::from(*len), self.value(*va));
                self.push(
                    Step::Store {
                        va: *va,
                        len,
                        value,
                    },
                    true,
                );
            }
            Op::Modify { va, len } => {
                self.apply(&op)?;
                self.wrote(*va);
                let (len, value) = (u16::from(*len), self.value(*va));
                self.push(
                    Step::Modify {
                        va: *va,
                        len,
                        value,
                    },
                    true,
                );
            }
            Op::Work { instructions } => self.push(Step::Work(*instructions), true),
            Op::Call(call) => {
                self.start_call(call)?;
                self.apply(&op)?;
                if self.taken > 1 {
                    let switch = self.ops.get(self.op + 1).cloned();
                    if let Some(switch) = switch {
                        self.apply(&switch)?;
                    }
                }
                self.retouched = false;
            }
            Op::Switch { to, how: _ } => {
                self.apply(&op)?;
                self.kind = Operation::Resched;
                self.next_task = *to;
                self.via_idle = *to == self.current;
                self.call = None;
                self.push(Step::Resched, true);
                self.retouched = false;
            }
        }
        Ok(())
    }

    fn apply(&mut self, op: &Op) -> Result<(), ReplayError> {
        self.model
            .apply(op)
            .map_err(|e| ReplayError::Mismatch(e.reason))
    }

    fn push(&mut self, step: Step, recorded: bool) {
        self.steps.push_back(Queued { step, recorded });
    }

    /// What a store of the operation at hand leaves at `va`: never zero in any word.
    fn value(&self, va: u32) -> u64 {
        mix(self.seed, self.op, va) | 0x0000_0001_0000_0001
    }

    fn start_touch(&mut self, op: &Op) {
        let Op::Touch {
            va,
            ip,
            access,
            span,
            ..
        } = *op
        else {
            return;
        };
        let fetch = |va: u32| Step::Fetch {
            va,
            len: INSTRUCTION_BYTES.min((4096 - (va & 0xfff)).min(255) as u8),
        };
        let word = va & !3;
        match access {
            Access::Exec => {
                self.push(fetch(va), true);
                self.task_mut().retouch.code.note(va);
            }
            Access::Read | Access::Write => {
                if ip != 0 && self.area(ip).is_some_and(|a| a.prot.allows(Access::Exec)) {
                    self.push(fetch(ip), true);
                    self.task_mut().retouch.code.note(ip);
                }
                if access == Access::Read {
                    self.push(Step::Load { va: word, len: 4 }, true);
                } else {
                    let value = self.value(word);
                    self.push(
                        Step::Store {
                            va: word,
                            len: 4,
                            value,
                        },
                        true,
                    );
                    self.wrote(word);
                }
                self.task_mut().retouch.data.note(va);
            }
        }
        if span == Span::Around {
            self.queue_around(va);
        }
        let mm = self.task().mm;
        let _ = mm;
        if let Some(area) = self.area(va)
            && va < self.task().stack
            && self.task().stack <= area.end as u32
        {
            self.task_mut().stack = word;
        }
    }

    /// The neighbours that the recording kernel mapped with a read fault.
    fn queue_around(&mut self, va: u32) {
        let pages = self.assumptions.fault_around.pages();
        let Some(area) = self.area(va) else { return };
        let page = u64::from(va) & !0xfff;
        let window = page & !0xffff;
        let end = (window + 0x1_0000).min(area.end);
        let start = window.max(area.start);
        // Beginning with the faulting page, then from the window's start.
        let behind = (page + 0x1000..end).step_by(4096);
        let before = (start..page).step_by(4096);
        for neighbour in behind.chain(before).take(pages as usize - 1) {
            let va = neighbour as u32;
            self.push(Step::Load { va, len: 4 }, false);
        }
    }

    fn wrote(&mut self, va: u32) {
        let mm = self.task().mm;
        let written = &mut self.spaces[mm].written;
        let page = va & !0xfff;
        if written.last() == Some(&page) {
            return;
        }
        written.retain(|&p| p != page);
        if written.len() == WRITTEN_KEPT {
            written.remove(0);
        }
        written.push(page);
    }

    /// The task's most recently written page that is still private and writable.
    fn buffer(&self) -> Option<u32> {
        let written = &self.spaces[self.task().mm].written;
        written.iter().rev().copied().find(|&page| {
            self.area(page).is_some_and(|a| {
                a.prot.contains(Prot::RW)
                    && matches!(a.object, Object::Anon | Object::FilePrivate(_))
            })
        })
    }

    fn start_call(&mut self, call: &Call) -> Result<(), ReplayError> {
        let mut marshalled =
            marshal(call, self.assumptions).map_err(|e| ReplayError::Mismatch(e.to_string()))?;
        if marshalled.bytes_in + marshalled.bytes_out > 0 {
            match self.buffer() {
                // Larger copies would leave the one page that is known to be there.
                Some(page) => {
                    marshalled.bytes_in = marshalled.bytes_in.min(4096);
                    marshalled.bytes_out = marshalled.bytes_out.min(4096);
                    marshalled.buffer = page;
                }
                None => (marshalled.bytes_in, marshalled.bytes_out) = (0, 0),
            }
        }
        self.kind = marshalled.kind;
        self.next_task = self.current;
        self.via_idle = false;
        if let Some(Op::Switch { to, how }) = self.ops.get(self.op + 1) {
            let together = match how {
                SliceEnd::Sleep | SliceEnd::Exit => true,
                SliceEnd::Preempt | SliceEnd::Forced => false,
            };
            if together {
                self.taken = 2;
                self.next_task = *to;
                self.via_idle = *to == self.current;
            }
        }
        if matches!(call, Call::Exit {}) && self.next_task == self.current {
            // The last task of the trace: nobody is left to return to.
            self.next_task = TaskId(u32::MAX);
        }
        self.folded = false;
        let regs = marshalled.regs;
        self.call = Some(marshalled);
        self.push(Step::Call(regs), true);
        Ok(())
    }

    /// Owner of the address space that the pending call ends.
    fn ends_space(&self) -> Option<(u32, u32)> {
        let call = self.call.as_ref()?;
        let space = &self.spaces[self.task().mm];
        let ends = matches!(call.call, Call::Exit {} | Call::Exec { .. });
        // The first exec of the first task replaces an address space that has never been used.
        (ends && space.users == 1 && self.op > 0).then_some((space.owner, space.stack_top))
    }

    fn address(&self, m: &mut Mailbox) {
        m.next = pid(self.next_task);
        m.via_idle = u32::from(self.via_idle);
        m.operation = self.op as u32;
        m.clock = (self.op / 1024) as u32;
        m.copy_in_bytes = 0;
        m.copy_out_bytes = 0;
        m.result = NO_RESULT;
    }

    fn post_call(&self, mem: &mut PhysMem) {
        let Some(call) = &self.call else { return };
        mailbox::update(mem, |m| {
            self.address(m);
            call.post(m);
        });
        call.post_exec_list(mem);
    }

    /// The pending call or resched interrupt is over.
    fn complete(&mut self, eax: u32) -> Result<(), ReplayError> {
        self.attempts = 0;
        self.steps.pop_front();
        let from = self.current;
        if let Some(call) = self.call.take() {
            // A task that sleeps has its result in its own frame; only a call that came back at once is compared.
            if self.next_task == from
                && let Some(expected) = call.expected
                && eax != expected
            {
                return Err(ReplayError::Mismatch(format!(
                    "{} returned {eax:#x}, recorded {expected:#x}",
                    call.call.name()
                )));
            }
            self.effects(&call.call);
        }
        self.current = self.next_task;
        Ok(())
    }

    /// What a call changes in the replayer's own books.
    fn effects(&mut self, call: &Call) {
        let mm = self.task().mm;
        match call {
            Call::Munmap { addr, len } => self.forget(mm, *addr, *len),
            Call::Mprotect { addr, len, prot } if *prot == Prot::NONE => {
                self.forget(mm, *addr, *len)
            }
            Call::Mremap { old, old_len, .. } => self.forget(mm, *old, *old_len),
            Call::Madvise {
                addr,
                len,
                advice: Advice::DontNeed,
            } => self.forget(mm, *addr, *len),
            Call::Brk { result, .. } => {
                // Pages above the new end, up to the next mapping.
                if let Some(space) = self.model.mm(self.current) {
                    let start = (*result + 0xfff) & !0xfff;
                    let end = space
                        .space
                        .above(u64::from(start).saturating_sub(1))
                        .map_or(start, |a| a.start as u32);
                    self.forget(mm, start, end.saturating_sub(start));
                }
            }
            Call::Mmap {
                flags, result, len, ..
            } if flags.contains(lowmem_trace::MapFlags::FIXED) => self.forget(mm, *result, *len),
            Call::RemapFilePages { addr, len, .. } => self.forget(mm, *addr, *len),
            Call::Shmdt { addr } => self.forget(mm, *addr, 4096),
            Call::Fork { child } => self.birth(*child, Sharing::Copy),
            Call::Vfork { child } => self.birth(
                *child,
                match self.assumptions.vfork {
                    Vfork::Share => Sharing::Share,
                    Vfork::Fork => Sharing::Copy,
                },
            ),
            Call::Clone { child } => self.birth(*child, Sharing::Share),
            Call::Exec { image } => {
                self.leave_space();
                let owner = pid(self.current);
                self.spaces.push(Space {
                    owner,
                    stack_top: image.stack_top,
                    users: 1,
                    tasks: vec![self.current.0],
                    written: Vec::new(),
                });
                let mm = self.spaces.len() - 1;
                let task = self.task_mut();
                task.mm = mm;
                task.retouch.clear();
                task.stack = image.stack_top;
                task.ip = crate::call::exec_entry(image);
            }
            Call::Exit {} => {
                self.leave_space();
                let pid = pid(self.current);
                if let Some(task) = self.tasks[self.current.index()].take() {
                    self.load_sum = self.load_sum.wrapping_add(fold_loads(pid, task.loads));
                }
            }
            _ => {}
        }
    }

    fn leave_space(&mut self) {
        let current = self.current.0;
        let mm = self.task().mm;
        let space = &mut self.spaces[mm];
        space.users -= 1;
        space.tasks.retain(|&t| t != current);
    }

    fn birth(&mut self, child: TaskId, sharing: Sharing) {
        let parent = self.task().clone();
        let mm = match sharing {
            Sharing::Share => {
                let space = &mut self.spaces[parent.mm];
                space.users += 1;
                space.tasks.push(child.0);
                parent.mm
            }
            Sharing::Copy => {
                let written = self.spaces[parent.mm].written.clone();
                self.spaces.push(Space {
                    owner: pid(child),
                    stack_top: self.spaces[parent.mm].stack_top,
                    users: 1,
                    tasks: vec![child.0],
                    written,
                });
                self.spaces.len() - 1
            }
        };
        self.tasks[child.index()] = Some(Task {
            ip: parent.ip,
            stack: parent.stack,
            ..Task::new(mm)
        });
    }

    fn forget(&mut self, mm: usize, start: u32, len: u32) {
        let end = start.saturating_add(len.saturating_add(0xfff) & !0xfff);
        for &t in &self.spaces[mm].tasks {
            if let Some(task) = &mut self.tasks[t as usize] {
                task.retouch.forget(start, end);
            }
        }
        self.spaces[mm].written.retain(|&p| p < start || p >= end);
    }

    fn queue_retouches(&mut self) {
        let Some(Some(task)) = self.tasks.get(self.current.index()) else {
            return;
        };
        if self.assumptions.user_work > 0 {
            let work = Step::Work(self.assumptions.user_work);
            self.steps.push_back(Queued {
                step: work,
                recorded: false,
            });
        }
        if self.depth == RetouchDepth::NONE {
            return;
        }
        let Some(mm) = self.model.mm(self.current) else {
            return;
        };
        for pick in task.retouch.picks(self.seed, self.op, self.depth) {
            let (va, step) = match pick {
                Pick::Data(va) => (va, Step::Load { va, len: 4 }),
                Pick::Code(va) => (
                    va,
                    Step::Fetch {
                        va,
                        len: INSTRUCTION_BYTES,
                    },
                ),
            };
            // Another thread may have changed the mapping since.
            if mm
                .space
                .find(u64::from(va))
                .is_some_and(|a| a.prot != Prot::NONE)
            {
                self.steps.push_back(Queued {
                    step,
                    recorded: false,
                });
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Copy,
    Share,
}

impl Task {
    fn new(mm: usize) -> Self {
        Task {
            retouch: Retouch::new(),
            ip: 0,
            mm,
            loads: 0,
            stack: 0,
        }
    }
}

/// Guest id of a task: the mailbox counts from 1.
pub fn pid(task: TaskId) -> u32 {
    task.0.wrapping_add(1)
}

fn fold_loads(pid: u32, loads: u64) -> u128 {
    let low = mix(loads, u64::from(pid), 0);
    let high = mix(loads, u64::from(pid), 1);
    u128::from(high) << 64 | u128::from(low)
}
