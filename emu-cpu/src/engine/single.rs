//! One instruction at a time for whoever watches: the pieces of [`Cpu::run`] around [`Cpu::step`].
//!
//! Invariant: [`Cpu::take_due`], then [`Cpu::breakpoint_due`], then [`Cpu::step`], over and over, is what [`Cpu::run`] does
//! without a limit.

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exit::Exit;

impl Cpu {
    /// At an interrupt point: takes what is due, with the state of the run after it. [`Exit::Halted`] if the CPU sleeps on.
    pub fn take_due<B: Bus>(&mut self, bus: &mut B) -> Option<Exit> {
        if !self.at_point {
            return None;
        }
        self.set_limit(u64::MAX);
        let exit = self.attend(bus);
        if exit.is_some() {
            return exit;
        }
        if self.halted {
            return Some(Exit::Halted);
        }
        self.at_point = false;
        None
    }

    /// The exit at a breakpoint that has not been reported yet.
    pub fn breakpoint_due(&mut self) -> Option<Exit> {
        self.breakpoint_here()
    }
}
