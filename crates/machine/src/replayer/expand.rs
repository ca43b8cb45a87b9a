//! From operations to steps: what the recording says, and what the assumptions add to it.
//!
//! A touch becomes the fetch of its instruction and the reference itself, then the neighbours that fault-around mapped; a call takes the
//! switch behind it along when the task fell asleep in it; after each recorded event come the re-touches.
//!
//! Invariant: only re-touches, neighbours and user work are not marked as recorded.

use super::{INSTRUCTION_BYTES, Queued, ReplayError, Replayer, Step, WRITTEN_KEPT};
use crate::call::marshal;
use lowmem_report::Operation;
use lowmem_trace::retouch::{Pick, mix};
use lowmem_trace::space::Object;
use lowmem_trace::{Access, Call, Op, Prot, RetouchDepth, SliceEnd, Span, TaskId};

impl Replayer {
    /// Expands the operation at the cursor into steps.
    pub(super) fn start(&mut self) -> Result<(), ReplayError> {
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
                self.note_code(va);
            }
            Access::Read | Access::Write => {
                if ip != 0 && self.area(ip).is_some_and(|a| a.prot.allows(Access::Exec)) {
                    self.push(fetch(ip), true);
                    self.note_code(ip);
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
                self.note_data(va);
            }
        }
        if span == Span::Around {
            self.queue_around(va);
        }
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
        if marshalled.bytes_in != 0 || marshalled.bytes_out != 0 {
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

    fn note_code(&mut self, va: u32) {
        if self.depth.code > 0 {
            self.task_mut().retouch.code.note(va);
        }
    }

    fn note_data(&mut self, va: u32) {
        if self.depth.data > 0 {
            self.task_mut().retouch.data.note(va);
        }
    }

    pub(super) fn queue_retouches(&mut self) {
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
