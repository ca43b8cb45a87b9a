//! Measurements of one mechanism each, on small workloads made for them: what `lowmem measure NAME` prints.
//!
//! | file | measures |
//! |---|---|
//! | [`evictions`] | which pages reclaim decides to take, by reverse map, and why two of them differ |
//! | [`mremap`] | moving pages that fork shared, then swapoff: copies, by reverse map |
//! | [`nonlinear`] | a window in another order: nonlinear, many vmas, locked; under pressure |
//! | [`unmap`] | unmapping one page against its sharers, by reverse map |
//! | [`writeback`] | page cache with tags and with lists: order on the disk, the search for dirty pages, fsync beside a flusher |
//!
//! Invariant: a measurement depends on configuration and seed only.

pub mod evictions;
pub mod mremap;
pub mod nonlinear;
pub mod unmap;
pub mod writeback;

use crate::cycle::CycleState;
use crate::drive_native::Stop;
use crate::error::{MachineError, describe};
use crate::machine::Machine;
use crate::replay::{boot, cycle_options, preset};
use crate::replayer::{Pause, PauseAfter, ReplayError, Replayer};
use emu_cpu::Engine;
use lowmem_abi::probe::Probe;
use lowmem_cost::{CostTable, Preset, Side, Variant};
use lowmem_report::Config;
use lowmem_trace::{Assumptions, RetouchDepth, Trace};

/// What happened in a piece of a trace, in cycle mode.
#[derive(Debug, Clone)]
pub struct Piece {
    before: CostTable,
    after: CostTable,
    probes: [u64; 64],
    /// File pages written before it, and until its end.
    pub written: std::ops::Range<usize>,
}

impl Piece {
    /// Cycles of one side.
    pub fn cycles(&self, side: Side) -> u64 {
        self.after.side(side) - self.before.side(side)
    }
    /// Times a probe was passed.
    pub fn probe(&self, probe: Probe) -> u64 {
        self.probes[probe as usize & 63]
    }
}

/// A machine in cycle mode on its way through a trace, piece by piece.
pub(crate) struct Pieces {
    pub(crate) machine: Machine,
    replayer: Replayer,
    state: CycleState,
    preset: Preset,
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pieces")
    }
}

impl Pieces {
    /// At the start of `trace`, which is replayed as it is: without re-touches.
    pub(crate) fn new(
        trace: &Trace,
        config: &Config,
        engine: Engine,
    ) -> Result<Self, MachineError> {
        config.check()?;
        let preset = preset(config)?;
        let machine = boot(config, &preset)?;
        let replayer = Replayer::new(trace, as_recorded());
        Self::enter(config, preset, machine, replayer, engine)
    }

    /// Behind the operation before number `end`, of which nothing was timed.
    pub(crate) fn natively_until(
        trace: &Trace,
        config: &Config,
        end: u64,
    ) -> Result<Self, MachineError> {
        config.check()?;
        let preset = preset(config)?;
        let (machine, replayer) = natively(trace, config, &preset, pause_before(end))?;
        Self::enter(config, preset, machine, replayer, Engine::Fast)
    }

    fn enter(
        config: &Config,
        preset: Preset,
        mut machine: Machine,
        replayer: Replayer,
        engine: Engine,
    ) -> Result<Self, MachineError> {
        let state = machine.enter_cycle(&cycle_options(&preset, config, engine))?;
        Ok(Self {
            machine,
            replayer,
            state,
            preset,
        })
    }

    /// Replays up to the operation before number `end`.
    pub(crate) fn until(&mut self, end: u64) -> Result<Piece, MachineError> {
        let before = self.table();
        let probes = self.state.books.probes;
        let first = self.machine.host.devices.write_log().len();
        self.replayer.pause_after = pause_before(end);
        loop {
            let stop = self.machine.run_cycle(&mut self.replayer, &mut self.state);
            match stop {
                Some(Stop::Pause(Pause::Done(_, to))) if to + 1 >= end => break,
                Some(Stop::Pause(Pause::End)) => break,
                None | Some(Stop::Pause(_)) => {}
                Some(failed) => return Err(failure(failed, self.replayer.operation())),
            }
        }
        let mut passed = self.state.books.probes;
        for (now, then) in passed.iter_mut().zip(probes) {
            *now -= then;
        }
        Ok(Piece {
            before,
            after: self.table(),
            probes: passed,
            written: first..self.machine.host.devices.write_log().len(),
        })
    }

    fn table(&self) -> CostTable {
        let cpu = self.machine.cpu().expect("pieces are run in cycle mode");
        self.preset.prices(Variant::Mid).price(&cpu.mmu.account)
    }
}

/// Most RAM of the measurements in which one process wants more memory than there is.
pub const MOST_RAM: u64 = 1 << 30;

/// A pause before operation number `end`.
fn pause_before(end: u64) -> PauseAfter {
    PauseAfter::Operation(end.saturating_sub(1))
}

/// A machine that has run `trace` natively, as it is, until `pause` is over; where that never is, to the end.
pub(crate) fn natively(
    trace: &Trace,
    config: &Config,
    preset: &Preset,
    pause: PauseAfter,
) -> Result<(Machine, Replayer), MachineError> {
    let mut machine = boot(config, preset)?;
    let mut replayer = Replayer::new(trace, as_recorded());
    replayer.pause_after = pause;
    loop {
        match machine.run_native(&mut replayer) {
            Stop::Pause(Pause::Done(..) | Pause::End) => return Ok((machine, replayer)),
            Stop::Pause(_) => {}
            failed => return Err(failure(failed, replayer.operation())),
        }
    }
}

/// A synthetic trace says everything: nothing is added to it.
pub(crate) fn as_recorded() -> Assumptions {
    Assumptions {
        retouch: RetouchDepth::NONE,
        ..Assumptions::default()
    }
}

/// A stop that is no pause, as an error.
pub(crate) fn failure(stop: Stop, operation: u64) -> MachineError {
    let reason = match stop {
        Stop::Guest(ended) => describe(&ended.report),
        Stop::Replay(ReplayError::Livelock(reason) | ReplayError::Mismatch(reason)) => reason,
        Stop::Pause(pause) => format!("unexpected {pause:?}"),
    };
    MachineError::Guest { operation, reason }
}
