//! The engines: `reference` decodes every instruction, `fast` keeps decoded blocks. Both count the same events.

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::exit::Exit;
use crate::source::Source;

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
}

impl EngineState {
    /// An engine that has decoded nothing yet.
    pub fn new(engine: Engine) -> Self {
        Self { engine }
    }
    /// Which one.
    pub fn engine(&self) -> Engine {
        self.engine
    }
    /// Forgets all decoded code: needed after memory changed behind the MMU's back (host writes, native mode, a reset clone).
    pub fn flush(&mut self) {}
}

impl Cpu {
    /// Runs until something in [`Exit`] happens, or `limit` instructions were retired.
    pub fn run<B: Bus, S: Source>(
        &mut self,
        engine: &mut EngineState,
        bus: &mut B,
        source: &mut S,
        limit: u64,
    ) -> Exit {
        self.set_limit(limit);
        let _ = (engine, bus, source);
        todo!()
    }
}
