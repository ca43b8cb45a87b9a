//! The engines: `reference` decodes every instruction, `fast` keeps decoded blocks. Both count the
//! same events.
//!
//! The loop around both decides what comes next: an interrupt at an interrupt point, an operation
//! of the source at CPL 3, or instructions. Invariant: an engine is left only between two
//! instructions, all counts in the account.

pub(crate) mod blocks;
mod fast;
mod fetch;
mod reference;
mod single;

use self::blocks::Blocks;
use crate::bus::{Bus, Flow};
use crate::cpu::Cpu;
use crate::debug::DR6_BS;
use crate::decode::Translator;
use crate::exec::port::{PortString, port_of};
use crate::exit::{Exit, Watchdog};
use crate::fault::{self, Fault, Raised};
use crate::flags::{RF, TF};
use crate::op::{Op, Out, SHADOW};
use crate::regs::EAX;
use crate::source::Source;
use crate::word::{Byte, Dword, Half, Word};
use lowmem_cost::Event;

/// Which engine executes instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// Decodes each instruction when it comes to it.
    Reference,
    /// Keeps decoded blocks.
    #[default]
    Fast,
}

/// What an engine remembers between runs: nothing that matters, only decoded code.
#[derive(Debug)]
pub struct EngineState {
    engine: Engine,
    translator: Translator,
    blocks: Blocks,
}

impl EngineState {
    /// An engine that has decoded nothing yet.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            translator: Translator::new(),
            blocks: Blocks::new(),
        }
    }
    /// Which one.
    pub fn engine(&self) -> Engine {
        self.engine
    }
    /// Forgets all decoded code: needed after memory changed behind the MMU's back (host writes,
    /// native mode, a reset clone), and before the engine is used with another CPU.
    pub fn flush(&mut self) {
        self.blocks.clear();
    }
}

/// What happened to one instruction.
#[derive(Debug)]
pub(crate) enum Step {
    /// Retired; the next one follows.
    Next,
    /// Retired or faulted, and an interrupt may be taken here.
    Point,
    /// The run ends.
    Leave(Exit),
}

impl Cpu {
    /// Runs until something in [`Exit`] happens; [`Exit::Limit`] at the first interrupt point at
    /// which `limit` more instructions have retired.
    pub fn run<B: Bus, S: Source>(
        &mut self,
        engine: &mut EngineState,
        bus: &mut B,
        source: &mut S,
        limit: u64,
    ) -> Exit {
        self.set_limit(limit);
        self.refresh_segments();
        loop {
            // Every return is told, before an interrupt can lead away from it again.
            if self.user.take_returned() {
                source.returned_to_user(self);
            }
            if self.at_point {
                self.at_point = false;
                if self.attention_due()
                    && let Some(exit) = self.attend(bus)
                {
                    self.at_point = true;
                    return exit;
                }
                if self.halted {
                    self.at_point = true;
                    return Exit::Halted;
                }
            }
            let step = if self.cpl == 3 && !self.user.decoding() {
                self.user_step(source)
            } else {
                match engine.engine {
                    Engine::Reference => self.run_reference(&mut engine.translator, bus),
                    Engine::Fast => self.run_fast(&mut engine.blocks, &mut engine.translator, bus),
                }
            };
            match step {
                Step::Next => {}
                Step::Point => self.at_point = true,
                Step::Leave(exit) => return exit,
            }
        }
    }

    /// Executes one instruction at CS:EIP (also at CPL 3), without looking at interrupts. `None` if
    /// nothing special happened.
    pub fn step<B: Bus>(&mut self, engine: &mut EngineState, bus: &mut B) -> Option<Exit> {
        match self.step_reference(&mut engine.translator, bus) {
            Step::Next => None,
            Step::Point => {
                self.at_point = true;
                None
            }
            Step::Leave(exit) => Some(exit),
        }
    }

    /// Counts an instruction as retired, and its load-use stall.
    #[inline(always)]
    pub(crate) fn retire(&mut self, op: &Op, class: Event) {
        self.retired += 1;
        if self.last_loaded & op.reads != 0 {
            self.count(Event::LoadUse);
        }
        self.last_loaded = op.loads;
        self.count(Event::Instructions);
        self.count(class);
    }

    /// Delivers the fault that [`Raised`] stands for.
    #[cold]
    pub(crate) fn faulted(&mut self) -> Step {
        let fault = self.fault.take().expect("raised means stored");
        if self.faults_in_place() {
            return Step::Leave(Exit::Watchdog {
                which: Watchdog::Faults,
                eip: self.eip,
            });
        }
        match self.deliver_fault(fault) {
            None => Step::Point,
            Some(exit) => Step::Leave(exit),
        }
    }

    /// Executes an operation that was fetched; everything before it is counted, EIP is its address.
    pub(crate) fn execute<B: Bus>(&mut self, op: &Op, bus: &mut B) -> Step {
        let stepping = self.other_flags & TF != 0;
        if self.other_flags & RF != 0 {
            // It holds for one instruction; iret may set it anew.
            self.other_flags &= !RF;
        }
        let shadowed = std::mem::take(&mut self.debug_shadow);
        let from = self.eip;
        let next = from.wrapping_add(u32::from(op.len));
        let out = match (op.run)(self, op) {
            Ok(out) => out,
            Err(Raised) => return self.faulted(),
        };
        let mut step = Step::Point;
        let mut again = false;
        match out {
            Out::Next => {
                self.eip = next;
                self.retire(op, op.class);
                if !self.crossed_page(from) || op.marks & SHADOW != 0 {
                    step = Step::Next;
                }
            }
            Out::Serial => {
                self.eip = next;
                self.retire(op, op.class);
            }
            Out::Taken => self.retire(op, taken_class(op)),
            Out::Far | Out::Entered => {
                self.retired += 1;
                self.last_loaded = 0;
            }
            Out::Again => again = true,
            Out::PortString => match self.port_string(op, bus) {
                Ok(PortString::Done) => {
                    self.eip = next;
                    self.retire(op, op.class);
                }
                Ok(PortString::Again) => again = true,
                Ok(PortString::Stop { more }) => {
                    if !more {
                        self.eip = next;
                        self.retire(op, op.class);
                    }
                    again = more;
                    step = Step::Leave(Exit::Port);
                }
                Err(Raised) => return self.faulted(),
            },
            Out::Input => {
                let (port, size) = port_of(self, op);
                self.watch_port(port, size);
                bus.clock(self.retired);
                let v = bus.port_in(port, size);
                self.ask_bus(bus);
                match size {
                    1 => Byte::set(&mut self.regs, EAX as u8, v),
                    2 => Half::set(&mut self.regs, EAX as u8, v),
                    _ => Dword::set(&mut self.regs, EAX as u8, v),
                }
                self.eip = next;
                self.retire(op, op.class);
            }
            Out::Output => {
                let (port, size) = port_of(self, op);
                self.watch_port(port, size);
                let v = match size {
                    1 => Byte::get(&self.regs, EAX as u8),
                    2 => Half::get(&self.regs, EAX as u8),
                    _ => Dword::get(&self.regs, EAX as u8),
                };
                self.eip = next;
                self.retire(op, op.class);
                bus.clock(self.retired);
                let flow = bus.port_out(port, size, v);
                self.ask_bus(bus);
                if flow == Flow::Stop {
                    step = Step::Leave(Exit::Port);
                }
            }
            Out::Halt => {
                self.eip = next;
                self.retire(op, op.class);
                self.halted = true;
            }
        }
        if matches!(step, Step::Leave(_)) {
            self.at_point = true;
        }
        if stepping && out != Out::Entered {
            self.debug_pending |= DR6_BS;
        }
        if is_stack_load(op) && !shadowed && (stepping || self.breakpoints_on()) {
            // Nothing comes between a load of SS and the instruction after it. The step itself is
            // not told at all.
            self.debug_pending &= !DR6_BS;
            self.debug_shadow = true;
            return Step::Next;
        }
        if self.debug_pending == 0 {
            return step;
        }
        self.debug_trap(again, step)
    }

    /// Delivers the debug trap after an instruction, or between two elements of a string.
    #[cold]
    fn debug_trap(&mut self, between_elements: bool, step: Step) -> Step {
        self.dr[6] |= std::mem::take(&mut self.debug_pending);
        if between_elements {
            self.other_flags |= RF;
        }
        match self.deliver_fault(Fault::plain(fault::DB)) {
            None => step,
            Some(exit) => Step::Leave(exit),
        }
    }
}

/// mov and pop to SS.
fn is_stack_load(op: &Op) -> bool {
    op.marks & SHADOW != 0 && op.class == Event::InsnLoadSeg
}

/// A conditional transfer counts as simple when it is not taken.
#[inline(always)]
pub(crate) fn taken_class(op: &Op) -> Event {
    match op.class {
        Event::InsnSimple => Event::InsnTaken,
        class => class,
    }
}
