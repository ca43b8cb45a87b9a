//! Many samples of one piece of a trace, each from a clone of the machine perturbed by its own seed.
//!
//! A [`Bench`] replays a trace in cycle mode up to an operation and stands still there. [`Bench::sample`] clones it
//! copy-on-write, lets the running task read a seeded number of pages it already has (what the TLBs, caches and the
//! LRU of either hold when the measured piece begins is the machine's real source of spread), replays the rest
//! and hands back the events of that rest. [`Bench::sample_unmap`] has one page unmapped instead.
//!
//! Invariant: equal seeds give equal samples; the prepared machine never changes.

use crate::cycle::{CycleOptions, CycleState};
use crate::drive_native::Stop;
use crate::error::{MachineError, describe};
use crate::machine::{Machine, Memory};
use crate::replay::{boot, cycle_options, preset};
use crate::replayer::{Pause, PauseAfter, ReplayError, Replayer};
use emu_cpu::{Engine, EngineState};
use emu_mmu::{Privilege, VirtAddr};
use lowmem_cost::Account;
use lowmem_report::{Config, UnmapSample};
use lowmem_trace::retouch::mix;
use lowmem_trace::{Assumptions, Trace};

/// Fewest and most pages that a perturbation reads.
const PERTURB_PAGES: std::ops::Range<u64> = 1..64;

/// A machine that stands before the piece to be measured.
pub struct Bench(Standing);

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bench")
    }
}

struct Standing {
    machine: Machine,
    replayer: Replayer,
    state: CycleState,
}

impl Bench {
    /// Replays `trace` in cycle mode until its first `before` operations are done.
    pub fn prepare(
        trace: &Trace,
        config: &Config,
        engine: Engine,
        before: u64,
    ) -> Result<Bench, MachineError> {
        config.check()?;
        Standing::prepare(trace, config, engine, before).map(Bench)
    }

    /// Events of the operations behind those prepared, in the state that `seed` gives.
    pub fn sample(&self, seed: u64) -> Result<Account, MachineError> {
        self.0.sample(seed)
    }

    /// Cost of unmapping the page that the running task has at `va`, in the state that `seed` gives.
    pub fn sample_unmap(&self, seed: u64, va: u32) -> Result<UnmapSample, MachineError> {
        self.0.sample_unmap(seed, va)
    }
}

impl Standing {
    fn prepare(
        trace: &Trace,
        config: &Config,
        engine: Engine,
        before: u64,
    ) -> Result<Self, MachineError> {
        let preset = preset(config)?;
        let mut machine = boot(config, &preset)?;
        let options: CycleOptions = cycle_options(&preset, config, engine);
        let state = machine.enter_cycle(&options)?;
        let mut standing = Self {
            machine,
            replayer: Replayer::new(trace, Assumptions::default()),
            state,
        };
        if before > 0 {
            standing.replayer.pause_after = PauseAfter::Operation(before - 1);
            standing.run(|pause| matches!(pause, Pause::Done(_, to) if to + 1 >= before))?;
            standing.replayer.pause_after = PauseAfter::Never;
        }
        Ok(standing)
    }

    /// Runs to the first pause that `done` accepts, or to the end.
    fn run(&mut self, done: impl Fn(Pause) -> bool) -> Result<(), MachineError> {
        loop {
            let stop = self.machine.run_cycle(&mut self.replayer, &mut self.state);
            let operation = self.replayer.operation();
            match stop {
                None => {}
                Some(Stop::Pause(Pause::End)) => return Ok(()),
                Some(Stop::Pause(pause)) if done(pause) => return Ok(()),
                Some(Stop::Pause(_)) => {}
                Some(Stop::Guest(ended)) => {
                    return Err(MachineError::Guest {
                        operation,
                        reason: describe(&ended.report),
                    });
                }
                Some(Stop::Replay(
                    ReplayError::Livelock(reason) | ReplayError::Mismatch(reason),
                )) => {
                    return Err(MachineError::Guest { operation, reason });
                }
            }
        }
    }

    /// A clone of the machine in which the running task has read pages as `seed` says.
    fn perturbed(&self, seed: u64) -> Result<Self, MachineError> {
        let mut clone = Self {
            machine: self.machine.clone_cow()?,
            replayer: self.replayer.clone(),
            state: self
                .state
                .restarted(self.machine.cpu().expect("a bench stands in cycle mode")),
        };
        let k = clone.machine.k;
        let mut pages = Vec::new();
        let mm = guest_vm::task::current(k).mm(k);
        clone.machine.each_pte(mm, |va, pte, _| {
            if pte.present() {
                pages.push(va);
            }
        });
        let Memory::Cycle(cpu) = &mut clone.machine.memory else {
            panic!("a bench stands in cycle mode");
        };
        let span = PERTURB_PAGES.end - PERTURB_PAGES.start;
        if pages.is_empty() {
            return Ok(clone);
        }
        let count = PERTURB_PAGES.start + mix(seed, 0, 0) % span;
        for i in 0..count as u32 {
            let r = mix(seed, u64::from(i), 1);
            let va = pages[(r % pages.len() as u64) as usize] + ((r >> 32) as u32 & 0xffc);
            // A present page of the running task: it may be read, and if not, nothing happened.
            let _ = cpu.mmu.read(VirtAddr(va), 4, Privilege::User);
        }
        Ok(clone)
    }
}

impl Standing {
    fn sample(&self, seed: u64) -> Result<Account, MachineError> {
        let mut clone = self.perturbed(seed)?;
        let cpu = clone.machine.cpu().expect("a bench stands in cycle mode");
        let before = cpu.mmu.account.clone();
        clone.run(|_| false)?;
        let cpu = clone.machine.cpu().expect("a bench stands in cycle mode");
        Ok(cpu.mmu.account.since(&before))
    }

    fn sample_unmap(&self, seed: u64, va: u32) -> Result<UnmapSample, MachineError> {
        let mut clone = self.perturbed(seed)?;
        let operation = clone.replayer.operation();
        let missing = || MachineError::Guest {
            operation,
            reason: format!("{va:#010x} is not mapped where it is to be unmapped"),
        };
        let root = clone.machine.user_root();
        let leaf = crate::walk::lookup(clone.machine.mem(), root, va).ok_or_else(missing)?;
        let mut engine = EngineState::new(clone.state.engine.engine());
        clone
            .machine
            .unmap_one(&mut engine, leaf.frame(va).0, operation)?
            .ok_or_else(missing)
    }
}
