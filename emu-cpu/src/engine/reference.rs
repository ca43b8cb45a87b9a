//! The slow twin: one instruction at a time, decoded when it is come to.

use super::Step;
use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::decode::Translator;
use crate::exit::Exit;
use crate::fault::{self, Fault, Raised};
use crate::flags::RF;
use crate::op::PROBE;

impl Cpu {
    /// Executes instructions up to an interrupt point where something is due, a change to a
    /// source's ring 3, or an exit.
    pub(super) fn run_reference<B: Bus>(
        &mut self,
        translator: &mut Translator,
        bus: &mut B,
    ) -> Step {
        loop {
            if let Some(exit) = self.breakpoint_here() {
                return Step::Leave(exit);
            }
            match self.step_reference(translator, bus) {
                Step::Next => {}
                Step::Point => {
                    if self.attention_due()
                        || self.halted
                        || (self.cpl == 3 && !self.user.decoding())
                    {
                        return Step::Point;
                    }
                }
                leave => return leave,
            }
        }
    }

    /// The exit at a breakpoint, once: a run that starts at one executes it.
    #[inline]
    pub(super) fn breakpoint_here(&mut self) -> Option<Exit> {
        if self.breakpoints.is_empty() || !self.breakpoints.contains(&self.code_address().0) {
            return None;
        }
        let here = Some(self.retired);
        if self.broke_at == here {
            return None;
        }
        self.broke_at = here;
        Some(Exit::Breakpoint(self.code_address().0))
    }

    /// An instruction breakpoint at EIP: a fault before the instruction, unless RF or a load of SS
    /// keeps it off.
    #[cold]
    fn instruction_breakpoint(&mut self) -> Option<Step> {
        if self.other_flags & RF != 0 || self.debug_shadow {
            return None;
        }
        let bits = self.code_breakpoint(self.code_address().0);
        if bits == 0 {
            return None;
        }
        self.dr[6] |= bits;
        self.raise_fault(Fault::plain(fault::DB));
        Some(self.faulted())
    }

    /// Executes one instruction, or one probe.
    pub(super) fn step_reference<B: Bus>(
        &mut self,
        translator: &mut Translator,
        bus: &mut B,
    ) -> Step {
        if self.breakpoints_on()
            && let Some(step) = self.instruction_breakpoint()
        {
            return step;
        }
        let found = match self.fetch_decode(translator) {
            Ok(found) => found,
            Err(Raised) => return self.faulted(),
        };
        if found.op.marks & PROBE != 0 {
            self.eip = self.eip.wrapping_add(u32::from(found.op.len));
            bus.probe(found.op.imm as u16, self);
            return Step::Next;
        }
        self.execute(&found.op, bus)
    }
}
