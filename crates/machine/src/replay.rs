//! One replay: boot, run the trace to its end, and what was measured.
//!
//! Invariant: a measurement depends on trace, configuration and options only; the host's clock and memory appear in
//! [`lowmem_report::HostStats`] alone.

use crate::cycle::{CycleOptions, CycleState, SLICE};
use crate::decisions::{Decisions, Keep};
use crate::drive_native::Stop;
use crate::error::{MachineError, describe};
use crate::identity::{DeadTasks, KeptMemory};
use crate::image::{Image, ImageError};
use crate::machine::{Eviction, Hardware, Machine, want_of_memory};
use crate::plain::Plain;
use crate::replayer::{Pause, PauseAfter, ReplayError, Replayer};
use emu_cpu::{Engine, Via};
use lowmem_abi::probe::Probe;
use lowmem_cost::{Account, Preset};
use lowmem_report::config::Entry as CallEntry;
use lowmem_report::{
    Config, HostStats, LowmemUse, Measurement, Mode, Outcome, Progress, Silent, UnmapMeasure,
};
use lowmem_trace::{Assumptions, Trace};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Whether the kernel's invariants are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// No.
    #[default]
    Off,
    /// What each operation touched after it; by full scan at doubling intervals, at the trace's peak and at the end.
    Doubling,
    /// What each operation touched, and by full scan, after every operation.
    Every,
}

/// How a trace is replayed; what is measured is in the configuration.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Native or cycle.
    pub mode: Mode,
    /// Engine of cycle mode.
    pub engine: Engine,
    /// What is added to the recording.
    pub assumptions: Assumptions,
    /// Checking.
    pub check: Check,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Cycle,
            engine: Engine::Fast,
            assumptions: Assumptions::default(),
            check: Check::Off,
        }
    }
}

/// Recorded operations in a tick of the trace clock ([`lowmem_abi::mailbox`]).
const OPERATIONS_PER_TICK: u64 = 1024;
/// Operations between two calls of the progress listener, native mode.
const PROGRESS_OPERATIONS: u64 = 4096;
/// Adding up what a machine uses of the host looks at every frame, so it is done the more seldom the more that is: an operation pays for
/// this many bytes (some frames).
const HOST_BYTES_PER_OPERATION: u64 = 256;

/// The CPU preset that a configuration names, with its overrides.
pub fn preset(config: &Config) -> Result<Preset, MachineError> {
    let name = match config.cpu.as_str() {
        // Without accounting any geometry does.
        "none" => "pentium3",
        name => name,
    };
    let mut preset = Preset::open(name).map_err(|e| MachineError::Preset(e.to_string()))?;
    for (key, value) in &config.cpu_overrides {
        preset = preset
            .set(key, value)
            .map_err(|e| MachineError::Preset(e.to_string()))?;
    }
    Ok(preset)
}

/// A run that whoever listens may stop.
#[derive(Debug)]
pub enum Stoppable {
    /// It came to its end.
    Ended(Box<Measurement>),
    /// It was stopped.
    Stopped {
        /// Operations that were done.
        operations: u64,
        /// Low memory then.
        lowmem: Box<LowmemUse>,
    },
}

/// Replays `trace` under one configuration.
pub fn replay(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
    progress: &dyn Progress,
) -> Result<Measurement, MachineError> {
    match replay_or_stop(trace, config, options, progress)? {
        Stoppable::Ended(measurement) => Ok(*measurement),
        Stoppable::Stopped { operations, .. } => Err(MachineError::Interrupted {
            operation: operations,
        }),
    }
}

/// Replays as [`replay`] does; a run that is stopped is no error but tells how far it came.
pub fn replay_or_stop(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
    progress: &dyn Progress,
) -> Result<Stoppable, MachineError> {
    config.check()?;
    let began = Instant::now();
    let never_ran = |outcome, reason| {
        let mut m = Measurement::refused(config.clone(), options.mode, reason);
        m.outcome = outcome;
        Ok(Stoppable::Ended(Box::new(m)))
    };
    let mut run = match Run::new(trace, config, options, progress) {
        Ok(run) => run,
        Err(MachineError::BootMemory { reason }) => return never_ran(Outcome::Enomem, reason),
        Err(MachineError::Refused(reason)) => return never_ran(Outcome::Refused, reason),
        Err(MachineError::Image(e @ ImageError::Missing { .. })) => {
            return never_ran(Outcome::Refused, e.to_string());
        }
        Err(e) => return Err(e),
    };
    match run.go() {
        Ok(ending) => Ok(Stoppable::Ended(Box::new(run.measurement(ending, began)?))),
        Err(MachineError::Interrupted { operation }) => Ok(Stoppable::Stopped {
            operations: operation,
            lowmem: Box::new(run.machine.lowmem()),
        }),
        Err(e) => Err(e),
    }
}

/// Replays as [`replay`] does, and keeps guest memory as it is at the end, to be compared with that of another run
/// ([`crate::identity`]). Anything but a complete run is an error.
pub fn replay_keeping(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
    progress: &dyn Progress,
) -> Result<(Measurement, KeptMemory), MachineError> {
    let began = Instant::now();
    let mut run = Run::new(trace, config, options, progress)?;
    run.machine.seen.dead_tasks = DeadTasks::Cleared;
    let ending = run.go()?;
    if let Some(reason) = ending.reason {
        return Err(MachineError::Guest {
            operation: run.replayer.operation(),
            reason,
        });
    }
    let peak = run.peak_digest;
    let (machine, measurement) = run.into_parts(ending, began)?;
    Ok((measurement, machine.into_memory(peak)))
}

/// Replays as [`replay`] does, natively, and tells which pages reclaim freed, in order: what schemes are compared by.
pub fn replay_evictions(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
    progress: &dyn Progress,
) -> Result<(Measurement, Vec<Eviction>), MachineError> {
    let began = Instant::now();
    let mut run = Run::new(trace, config, options, progress)?;
    let ending = run.go()?;
    let (machine, measurement) = run.into_parts(ending, began)?;
    Ok((measurement, machine.evictions().to_vec()))
}

/// Replays as [`replay`] does, natively, and tells what reclaim decided about which page.
pub fn replay_decisions(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
    keep: Keep,
) -> Result<(Measurement, Decisions), MachineError> {
    let began = Instant::now();
    let options = ReplayOptions {
        mode: Mode::Native,
        ..options.clone()
    };
    let mut run = Run::new(trace, config, &options, &Silent)?;
    run.machine.keep_decisions(keep)?;
    let ending = run.go()?;
    let (mut machine, measurement) = run.into_parts(ending, began)?;
    let decisions = machine.take_decisions();
    Ok((measurement, decisions))
}

/// How the CPU of a configuration is made.
pub fn cycle_options(preset: &Preset, config: &Config, engine: Engine) -> CycleOptions {
    CycleOptions {
        geometry: preset.geometry().clone(),
        engine,
        instructions_per_tick: preset.instructions_per_tick(config.hz),
        via: match config.entry {
            CallEntry::Int80 => Via::Int80,
            CallEntry::Sysenter => Via::Sysenter {
                stub: guest_vm::arch::SYSENTER_RETURN - emu_cpu::SYSENTER_RETURN,
            },
        },
        slice: SLICE,
    }
}

/// A machine of that configuration, booted, in native mode.
pub(crate) fn boot(config: &Config, preset: &Preset) -> Result<Machine, MachineError> {
    let axes = crate::rows::axes_of(config).map_err(MachineError::Refused)?;
    let image = Image::for_row(&crate::rows::image_name(config), axes.page_offset())?;
    Machine::boot(config, Arc::new(image), Hardware::of(preset))
}

struct Run<'a> {
    machine: Machine,
    replayer: Replayer,
    cycle: Option<CycleState>,
    hash: u128,
    lowmem: LowmemUse,
    unmap: UnmapMeasure,
    options: &'a ReplayOptions,
    progress: &'a dyn Progress,
    peak_op: u64,
    host_peak: u64,
    /// Operation from which on the host's memory is added up again.
    next_host_sample: u64,
    next_doubling: u64,
    peak_digest: Option<u128>,
    /// What processes must see, if it is checked.
    plain: Option<Plain>,
}

/// How the trace ended.
struct Ending {
    outcome: Outcome,
    reason: Option<String>,
}

impl<'a> Run<'a> {
    fn new(
        trace: &Trace,
        config: &Config,
        options: &'a ReplayOptions,
        progress: &'a dyn Progress,
    ) -> Result<Self, MachineError> {
        let preset = preset(config)?;
        let mut machine = boot(config, &preset)?;
        let cycle = match options.mode {
            Mode::Native => None,
            Mode::Cycle => {
                Some(machine.enter_cycle(&cycle_options(&preset, config, options.engine))?)
            }
        };
        Ok(Run {
            machine,
            replayer: Replayer::new(trace, options.assumptions),
            cycle,
            hash: 0,
            lowmem: LowmemUse::default(),
            unmap: UnmapMeasure::None {
                reason: "the trace did not reach its peak".to_owned(),
            },
            options,
            progress,
            peak_op: trace.summary().peak_op,
            host_peak: 0,
            next_host_sample: 0,
            next_doubling: 1,
            peak_digest: None,
            plain: (options.check != Check::Off).then(|| Plain::new(trace, options.assumptions)),
        })
    }

    /// Runs to the end, and compares with the plain model whatever the outcome is.
    fn go(&mut self) -> Result<Ending, MachineError> {
        let ending = self.run()?;
        if let Some(mut plain) = self.plain.take() {
            let same = self.machine.check_against(&mut plain, &self.replayer);
            same.map_err(|reason| MachineError::Check {
                operation: self.replayer.operation(),
                reason: format!("{}, but memory is lost: {reason}", ending.outcome.name()),
            })?;
        }
        Ok(ending)
    }

    fn run(&mut self) -> Result<Ending, MachineError> {
        self.replayer.pause_after = match self.options.check {
            Check::Doubling | Check::Every => PauseAfter::Every,
            Check::Off => PauseAfter::Operation(self.peak_op),
        };
        if self.options.check != Check::Off {
            self.replayer.keep_touched();
        }
        self.replayer.pause_every = PROGRESS_OPERATIONS;
        loop {
            let stop = match &mut self.cycle {
                None => Some(self.machine.run_native(&mut self.replayer)),
                Some(state) => self.machine.run_cycle(&mut self.replayer, state),
            };
            let operation = self.replayer.operation();
            match stop {
                None => self.tell()?,
                Some(Stop::Pause(Pause::LastUser { owner, stack_top })) => {
                    let mm = guest_vm::task::current(self.machine.k).mm(self.machine.k);
                    let hash = self.machine.hash_space(owner, mm, stack_top);
                    self.hash = self.hash.wrapping_add(hash);
                }
                Some(Stop::Pause(Pause::Done(from, to))) => self.pause(from, to)?,
                Some(Stop::Pause(Pause::End)) => return self.end(),
                Some(Stop::Guest(ended)) => {
                    if let Some(outcome) = want_of_memory(&ended.report) {
                        return Ok(Ending {
                            outcome,
                            reason: Some(format!(
                                "operation {operation}: {}; {}",
                                describe(&ended.report),
                                self.machine.memory_in_words()
                            )),
                        });
                    }
                    return Err(MachineError::Guest {
                        operation,
                        reason: ended.to_string(),
                    });
                }
                Some(Stop::Replay(ReplayError::Livelock(reason))) => {
                    return Ok(Ending {
                        outcome: Outcome::Livelock,
                        reason: Some(format!("operation {operation}: {reason}")),
                    });
                }
                Some(Stop::Replay(ReplayError::Mismatch(reason))) => {
                    return Err(MachineError::Trace {
                        trace: self.replayer.trace_name().to_owned(),
                        operation,
                        reason,
                    });
                }
            }
        }
    }

    fn tell(&mut self) -> Result<(), MachineError> {
        let operation = self.replayer.operation();
        let instructions = self.machine.cpu().map_or(0, |cpu| cpu.retired());
        self.progress.lowmem(
            u64::from(self.machine.low_pages_used()) << 12,
            self.machine.mem().low_bytes(),
        );
        self.progress
            .at(operation, self.replayer.total(), instructions);
        if operation >= self.next_host_sample {
            self.sample_host();
            self.next_host_sample = operation + self.host_peak / HOST_BYTES_PER_OPERATION;
        }
        if self.progress.cancelled() {
            return Err(MachineError::Interrupted { operation });
        }
        Ok(())
    }

    fn sample_host(&mut self) {
        self.host_peak = self.host_peak.max(self.machine.mem().resident_bytes());
    }

    /// Operations `from..=to` are done.
    fn pause(&mut self, from: u64, to: u64) -> Result<(), MachineError> {
        let at_peak = (from..=to).contains(&self.peak_op);
        let due = match self.options.check {
            Check::Off => false,
            Check::Every => true,
            Check::Doubling => {
                let due = at_peak || to >= self.next_doubling;
                while self.next_doubling <= to {
                    self.next_doubling *= 2;
                }
                due
            }
        };
        let touched = self.replayer.take_touched();
        self.machine.check_touched(to, &touched)?;
        if due {
            self.machine.check(to)?;
        }
        // A tick of the trace clock has passed.
        if self.options.check != Check::Off
            && (due || to / OPERATIONS_PER_TICK != (from.max(1) - 1) / OPERATIONS_PER_TICK)
        {
            self.machine.check_owners(to)?;
        }
        if at_peak {
            self.lowmem = self.machine.lowmem();
            if self.machine.seen.dead_tasks == DeadTasks::Cleared {
                self.peak_digest = Some(self.machine.digest());
            }
            self.unmap = self
                .machine
                .probe_unmap(self.cycle.as_ref(), &self.replayer)?;
        }
        if to / PROGRESS_OPERATIONS != (from.max(1) - 1) / PROGRESS_OPERATIONS {
            self.tell()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Ending, MachineError> {
        if self.options.check != Check::Off {
            self.machine.check(self.replayer.operation())?;
        }
        let k = self.machine.k;
        for (owner, pid, stack_top) in self.replayer.living_spaces() {
            let task = guest_vm::task::find(k, pid);
            if task.is_null() {
                return Err(MachineError::Guest {
                    operation: self.replayer.operation(),
                    reason: format!("task {pid} is gone at the end of the trace"),
                });
            }
            let hash = self.machine.hash_space(owner, task.mm(k), stack_top);
            self.hash = self.hash.wrapping_add(hash);
        }
        self.hash = self
            .hash
            .wrapping_add(self.machine.hash_objects())
            .wrapping_add(self.replayer.load_sum());
        Ok(Ending {
            outcome: Outcome::Complete,
            reason: None,
        })
    }

    fn measurement(self, ending: Ending, began: Instant) -> Result<Measurement, MachineError> {
        Ok(self.into_parts(ending, began)?.1)
    }

    fn into_parts(
        mut self,
        ending: Ending,
        began: Instant,
    ) -> Result<(Machine, Measurement), MachineError> {
        self.sample_host();
        if self.lowmem == LowmemUse::default() {
            self.lowmem = self.machine.lowmem();
        }
        self.lowmem.peak_bytes = self
            .lowmem
            .peak_bytes
            .max(u64::from(self.machine.seen.low_peak_pages) << 12);
        let instructions = self.machine.cpu().map_or(0, |cpu| cpu.retired());
        let (account, operations, kmap_wraps) = match (&self.cycle, self.machine.cpu()) {
            (Some(state), Some(cpu)) => (
                cpu.mmu.account.clone(),
                state.books.operations.clone(),
                state.books.probes[Probe::KmapWrap as usize],
            ),
            _ => (
                Account::default(),
                BTreeMap::new(),
                self.machine.host.probes[Probe::KmapWrap as usize],
            ),
        };
        let complete = ending.outcome == Outcome::Complete;
        let measurement = Measurement {
            config: self.machine.config.clone(),
            mode: self.options.mode,
            outcome: ending.outcome,
            reason: ending.reason,
            account,
            operations,
            kmap_wraps,
            lowmem: self.lowmem,
            unmap: self.unmap,
            devices: self.machine.host.devices.used(),
            memory_hash: complete.then_some(self.hash),
            host: HostStats {
                seconds: began.elapsed().as_secs_f64(),
                peak_bytes: self.host_peak,
                operations: self.replayer.operation(),
                instructions,
            },
        };
        Ok((self.machine, measurement))
    }
}
