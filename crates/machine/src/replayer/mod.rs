//! Ring 3 from a trace: one global cursor over the scheduled operations, expanded into steps (decision D2).
//!
//! The guest runs exactly the task the schedule says: before every entry the mailbox names the task that must run when the
//! kernel next returns to CPL 3, and the replayer compares. A slice that ended asleep right after a system call
//! switches at the end of that call; any other end of a slice is a resched interrupt. (A sleep inside a page fault or
//! before a recorded wait is therefore replayed as a resched interrupt: the recording has no call there.)
//!
//! What a recording lacks is added here, by the trace's assumptions: re-touches after each recorded event, pages that
//! fault-around mapped, bytes copied by calls, user work. Steps say whether they are recorded: only recorded loads enter the
//! load hash, only recorded touches enter the re-touch lists. Loads of the three words below the stack's top, which a
//! sysenter entry writes and int 0x80 does not, stay out of the load hash whatever the entry is.
//!
//! Left out: signals, time.
//!
//! Invariant: what is replayed depends on the trace and its assumptions only, never on the configuration, so that the same
//! trace leaves the same user memory everywhere.

use crate::call::{CallRegs, Marshalled};
use crate::mailbox;
use emu_mmu::PhysMem;
use lowmem_abi::mailbox::{Mailbox, NO_RESULT};
use lowmem_report::Operation;
use lowmem_trace::retouch::mix;
use lowmem_trace::{
    Assumptions, Call, OpStream, Retouch, RetouchDepth, TaskId, Trace, TraceKind, model::Model,
    space::Area,
};
use std::collections::VecDeque;

mod effects;
mod expand;
mod state;
mod touched;

pub use state::Position;
pub use touched::Touch;

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

/// Bytes that the sysenter stub pushes: ecx, edx, ebp.
pub const STUB_STACK_BYTES: u32 = 12;

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
    /// Also pause after every so many operations; 0: never.
    pub pause_every: u64,
    paused_done: bool,
    /// Pages that the operation at hand has referenced, if they are kept.
    touched: Option<Vec<Touch>>,
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
            pause_every: 0,
            paused_done: false,
            touched: None,
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
                    Step::Call(_) if !self.folded => {
                        self.folded = true;
                        if let Some((owner, stack_top)) = self.ends_space() {
                            let pause = Pause::LastUser { owner, stack_top };
                            return Ok(Next::Pause(pause));
                        }
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
        self.note_step(&queued.step);
        match queued.step {
            Step::Fetch { va, .. } => self.task_mut().ip = va,
            Step::Load { va, len } | Step::Modify { va, len, .. }
                if queued.recorded && !self.is_stub_stack(va, len) =>
            {
                let task = self.task_mut();
                task.loads = (task.loads.rotate_left(5) ^ u64::from(value))
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            _ => {}
        }
    }

    /// Whether an access meets the words that the sysenter stub pushes.
    fn is_stub_stack(&self, va: u32, len: u16) -> bool {
        let top = self.spaces[self.task().mm].stack_top;
        va < top && va.saturating_add(u32::from(len)) > top.saturating_sub(STUB_STACK_BYTES)
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

    /// The mapping of the running task that holds `va`, as it is after the operation at hand.
    pub(crate) fn area(&self, va: u32) -> Option<Area> {
        self.area_of(self.current, va)
    }

    fn wants_pause(&self, op: u64) -> bool {
        let op = op + self.taken - 1;
        let due = |at: u64| (self.op..=op).contains(&at);
        (match self.pause_after {
            PauseAfter::Never => false,
            PauseAfter::Operation(n) => due(n),
            PauseAfter::Every => true,
        }) || (self.pause_every != 0
            && (self.op..=op).any(|n| n != 0 && n.is_multiple_of(self.pause_every)))
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

    /// The pending call has entered the kernel, or is about to with nothing left that can fault: its mailbox words are
    /// written. Until then the mailbox names the running task as the next one.
    pub fn entered(&self, mem: &mut PhysMem) {
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
            self.note_call(&call.call);
            self.effects(&call.call);
        }
        self.current = self.next_task;
        Ok(())
    }
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
