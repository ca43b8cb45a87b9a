//! External interrupts: the timer tick by retired instructions, raised vectors, the instruction
//! limit, the watchdogs.
//!
//! All of it is looked at only at *interrupt points* (D4): after a taken transfer of control, a
//! page crossing or a serialising instruction, and at every operation boundary of a source; so
//! every engine sees the same. One compare with
//! `attention` says whether there is anything to look at. Priorities are the local APIC's: the
//! highest vector first. Invariant: `attention` is never above the count at which something becomes
//! due.

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exit::{Exit, Watchdog};
use crate::fault;
use crate::flags::IF;

/// Faults without an instruction between them. Silicon would go on for ever; an assumption, far
/// above what a fault in a fault handler ever needs.
const FAULTS: u32 = 1 << 16;
/// Instructions between two looks of the watchdogs.
const POLL: u64 = 1 << 20;
/// D16: instructions with IF=0, in polls.
const IF_OFF_POLLS: u32 = 1 << 7;
/// D16: instructions per operation.
const OPERATION: u64 = 1 << 30;

/// What may interrupt the stream of instructions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupts {
    /// A bit per vector.
    pending: [u64; 4],
    /// Period in retired instructions, 0 for none.
    tick_period: u64,
    tick_vector: u8,
    next_tick: u64,
    /// [`Cpu::run`] ends here.
    limit: u64,
    /// Nothing is due before this count of retired instructions.
    attention: u64,
    next_poll: u64,
    operation_start: u64,
    if_off_polls: u32,
    if_sets_seen: u64,
    unwatched: bool,
    /// Level of the bus's INTR line when last asked.
    line: bool,
    /// The bus wants to be told of this count of retired instructions.
    bus_due: u64,
    /// Repetitions of string instructions that led back to the instruction.
    repeats: u64,
    /// Work done at the last fault, and faults since without any.
    fault_at: u64,
    faults_here: u32,
    /// An NMI waits.
    nmi: bool,
    /// An NMI was taken and no iret has followed.
    pub(crate) nmi_blocked: bool,
}

impl Interrupts {
    fn highest(&self) -> Option<u8> {
        (0..4).rev().find_map(|i| {
            let word = self.pending[i];
            (word != 0).then(|| (i * 64 + 63 - word.leading_zeros() as usize) as u8)
        })
    }
}

impl Cpu {
    /// A timer interrupt every `period` retired instructions (0: none), the first one `period` from
    /// now.
    pub fn set_tick(&mut self, period: u64, vector: u8) {
        self.irq.tick_period = period;
        self.irq.tick_vector = vector;
        self.irq.next_tick = self.retired + period;
        self.irq.attention = 0;
    }

    /// Raises an external interrupt; it is taken at the next interrupt point with IF=1.
    pub fn raise(&mut self, vector: u8) {
        self.irq.pending[usize::from(vector >> 6)] |= 1 << (vector & 63);
        self.irq.attention = 0;
    }

    /// Raises a non-maskable interrupt; it is taken at the next interrupt point unless another one
    /// is being handled (up to its iret).
    pub fn raise_nmi(&mut self) {
        self.irq.nmi = true;
        self.irq.attention = 0;
    }

    /// Forgets every interrupt that waits, the tick and NMI blocking: a reset.
    pub(crate) fn reset_interrupts(&mut self) {
        self.irq.pending = [0; 4];
        self.irq.nmi = false;
        self.irq.nmi_blocked = false;
        self.irq.tick_period = 0;
        self.irq.attention = 0;
    }

    /// Asks the bus for its interrupt line and its next event, after a port access.
    pub(crate) fn ask_bus<B: Bus>(&mut self, bus: &B) {
        self.irq.line = bus.intr();
        self.irq.bus_due = bus.next_event();
        self.irq.attention = match self.irq.line {
            true => 0,
            false => self.irq.attention.min(self.irq.bus_due),
        };
    }

    /// Raises the timer tick now, as if its count had come: how a machine passes idle time after
    /// [`Exit::Halted`].
    pub fn tick_now(&mut self) {
        if self.irq.tick_period != 0 {
            self.irq.next_tick = self.retired;
            self.irq.attention = 0;
        }
    }

    /// Retired instructions until the tick is due; `None` without a tick.
    pub fn until_tick(&self) -> Option<u64> {
        (self.irq.tick_period != 0).then(|| self.irq.next_tick.saturating_sub(self.retired))
    }

    /// Restarts the watchdog that limits the instructions of one operation.
    pub fn pet_watchdog(&mut self) {
        self.irq.operation_start = self.retired;
    }

    /// Turns both watchdogs off: for images that are no guest kernel of ours.
    pub fn disable_watchdogs(&mut self) {
        self.irq.unwatched = true;
    }

    /// Instructions retired, each repetition of a string instruction counted as one: what a limit
    /// counts.
    pub fn work(&self) -> u64 {
        self.retired + self.irq.repeats
    }

    /// `n` repetitions led back to their instruction.
    #[inline(always)]
    pub(crate) fn repeated(&mut self, n: u64) {
        self.irq.repeats += n;
        // The limit has come nearer.
        self.irq.attention = self.irq.attention.saturating_sub(n);
    }

    /// A fault is to be delivered: whether too many have been since anything was done.
    pub(crate) fn faults_in_place(&mut self) -> bool {
        let here = self.work();
        if self.irq.fault_at != here {
            self.irq.fault_at = here;
            self.irq.faults_here = 0;
        }
        self.irq.faults_here += 1;
        self.irq.faults_here > FAULTS
    }

    pub(crate) fn set_limit(&mut self, instructions: u64) {
        self.irq.limit = self.work().saturating_add(instructions);
        self.irq.bus_due = 0;
        self.irq.attention = 0;
    }

    /// Is there anything to look at at this interrupt point?
    #[inline(always)]
    pub(crate) fn attention_due(&self) -> bool {
        self.retired >= self.irq.attention
    }

    /// Looks at everything that may be due. Delivers at most one interrupt.
    pub(crate) fn attend<B: Bus>(&mut self, bus: &mut B) -> Option<Exit> {
        if let Some(which) = self.poll_watchdogs() {
            return Some(Exit::Watchdog {
                which,
                eip: self.eip,
            });
        }
        if self.irq.tick_period != 0 && self.retired >= self.irq.next_tick {
            let late = self.retired - self.irq.next_tick;
            self.irq.next_tick += (late / self.irq.tick_period + 1) * self.irq.tick_period;
            let vector = self.irq.tick_vector;
            self.raise(vector);
        }
        if self.retired >= self.irq.bus_due {
            bus.clock(self.retired);
            self.irq.bus_due = bus.next_event();
        }
        self.irq.line = bus.intr();
        let waiting = self.irq.highest();
        let nmi = self.irq.nmi && !self.irq.nmi_blocked;
        // A pending interrupt that cannot be taken keeps us looking at every point: IF may be set
        // anywhere.
        self.irq.attention = match waiting {
            Some(_) => 0,
            None if nmi || self.irq.line => 0,
            None => {
                let tick = match self.irq.tick_period {
                    0 => u64::MAX,
                    _ => self.irq.next_tick,
                };
                tick.min(self.irq.limit.saturating_sub(self.irq.repeats))
                    .min(self.irq.next_poll)
                    .min(self.irq.bus_due)
            }
        };
        if self.work() >= self.irq.limit {
            return Some(Exit::Limit);
        }
        if nmi {
            self.irq.nmi = false;
            self.irq.nmi_blocked = true;
            self.halted = false;
            return self.take_interrupt(fault::NMI);
        }
        if self.other_flags & IF == 0 {
            return None;
        }
        let vector = match waiting {
            Some(vector) => {
                self.irq.pending[usize::from(vector >> 6)] &= !(1 << (vector & 63));
                vector
            }
            None if self.irq.line => {
                let vector = bus.acknowledge();
                self.ask_bus(bus);
                vector
            }
            None => return None,
        };
        self.halted = false;
        self.take_interrupt(vector)
    }

    fn poll_watchdogs(&mut self) -> Option<Watchdog> {
        if self.retired < self.irq.next_poll {
            return None;
        }
        self.irq.next_poll = self.retired + POLL;
        if self.irq.unwatched {
            return None;
        }
        if self.retired - self.irq.operation_start > OPERATION {
            return Some(Watchdog::Operation);
        }
        if self.other_flags & IF == 0 && self.irq.if_sets_seen == self.if_sets {
            self.irq.if_off_polls += 1;
        } else {
            self.irq.if_off_polls = 0;
            self.irq.if_sets_seen = self.if_sets;
        }
        (self.irq.if_off_polls > IF_OFF_POLLS).then_some(Watchdog::InterruptsOff)
    }
}
