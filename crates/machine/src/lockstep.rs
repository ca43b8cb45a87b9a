//! The fast engine against the reference over a whole replay (decision D15).
//!
//! Two machines replay the same trace, one with each engine; where both pause, registers, retired instructions, every
//! event count, the probes and all of guest memory must be equal. The reference also comes back every few thousand
//! instructions, in the kernel or out of it, so the length of a slice is shown to change nothing.
//!
//! Memory is compared byte by byte, without the exceptions of [`crate::identity`]: nothing may differ between engines.
//! Invariant: comparing changes nothing.

use crate::cycle::CycleState;
use crate::drive_native::Stop;
use crate::error::MachineError;
use crate::machine::Machine;
use crate::replay::{ReplayOptions, boot, cycle_options, preset};
use crate::replayer::{Pause, Replayer};
use emu_cpu::Engine;
use emu_mmu::{Pfn, PhysAddr};
use lowmem_cost::{Event, Side};
use lowmem_report::Config;
use lowmem_trace::Trace;

/// Instructions between two returns of the reference: a prime, so that slices end anywhere.
const REFERENCE_SLICE: u64 = 9973;

/// What comparing found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lockstep {
    /// How often the machines were compared, the end included.
    pub compared: u32,
    /// Instructions retired, of user and kernel.
    pub instructions: u64,
    /// What differed first, in words; empty when nothing did.
    pub differences: Vec<String>,
}

/// Replays `trace` with both engines and compares them `pauses` times on the way and at the end.
pub fn compare_engines(
    trace: &Trace,
    config: &Config,
    options: &ReplayOptions,
    pauses: u64,
) -> Result<Lockstep, MachineError> {
    let every = trace.len() / (pauses + 1) + 1;
    let mut fast = One::new(trace, config, options, Engine::Fast)?;
    let mut reference = One::new(trace, config, options, Engine::Reference)?;
    fast.replayer.pause_every = every;
    reference.replayer.pause_every = every;
    let mut found = Lockstep::default();
    loop {
        let (a, b) = (fast.go()?, reference.go()?);
        found.compared += 1;
        if a != b {
            found.differences.push(format!("{a:?} against {b:?}"));
        }
        fast.differences(&reference, &mut found.differences);
        if a == Pause::End || !found.differences.is_empty() {
            found.instructions = fast.machine.cpu().map_or(0, |cpu| cpu.retired());
            return Ok(found);
        }
    }
}

/// One of the two.
struct One {
    machine: Machine,
    state: CycleState,
    replayer: Replayer,
}

impl One {
    fn new(
        trace: &Trace,
        config: &Config,
        options: &ReplayOptions,
        engine: Engine,
    ) -> Result<Self, MachineError> {
        let preset = preset(config)?;
        let mut machine = boot(config, &preset)?;
        let mut cycle = cycle_options(&preset, config, engine);
        if engine == Engine::Reference {
            cycle.slice = REFERENCE_SLICE;
        }
        Ok(One {
            state: machine.enter_cycle(&cycle)?,
            machine,
            replayer: Replayer::new(trace, options.assumptions),
        })
    }

    /// Runs to the next pause at which machines are compared.
    fn go(&mut self) -> Result<Pause, MachineError> {
        loop {
            match self.machine.run_cycle(&mut self.replayer, &mut self.state) {
                None | Some(Stop::Pause(Pause::LastUser { .. })) => {}
                Some(Stop::Pause(pause)) => return Ok(pause),
                Some(Stop::Guest(ended)) => return Err(self.failed(ended.to_string())),
                Some(Stop::Replay(e)) => return Err(self.failed(e.to_string())),
            }
        }
    }

    fn failed(&self, reason: String) -> MachineError {
        let operation = self.replayer.operation();
        MachineError::Guest { operation, reason }
    }

    fn differences(&self, other: &Self, found: &mut Vec<String>) {
        let operation = self.replayer.operation();
        let mut differ = |what: &str, a: String, b: String| {
            if a != b {
                found.push(format!("operation {operation}: {what} {a}, reference {b}"));
            }
        };
        let (Some(a), Some(b)) = (self.machine.cpu(), other.machine.cpu()) else {
            differ("mode", "not cycle".to_owned(), "or not cycle".to_owned());
            return;
        };
        let registers = |cpu: &emu_cpu::Cpu| {
            let control = (cpu.eip, cpu.eflags(), cpu.cr2, cpu.cr3(), cpu.cpl());
            format!("{:x?} {control:x?} at {}", cpu.regs.all(), cpu.retired())
        };
        differ("registers", registers(a), registers(b));
        for &side in Side::ALL {
            for &event in Event::ALL {
                let count = |cpu: &emu_cpu::Cpu| cpu.mmu.account.get(side, event).to_string();
                differ(&format!("{side:?} {event:?}"), count(a), count(b));
            }
        }
        let (books, others) = (&self.state.books, &other.state.books);
        if books.probes != others.probes {
            let (a, b) = (&books.probes, &others.probes);
            differ("probes", format!("{a:?}"), format!("{b:?}"));
        }
        let kinds = books.operations.keys().chain(others.operations.keys());
        for kind in kinds {
            let (a, b) = (books.operations.get(kind), others.operations.get(kind));
            let same = a.map(|c| (c.entries, &c.account)) == b.map(|c| (c.entries, &c.account));
            if !same {
                found.push(format!("operation {operation}: entries of kind {kind:?}"));
            }
        }
        self.compare_memory(other, found);
    }

    fn compare_memory(&self, other: &Self, found: &mut Vec<String>) {
        let (a, b) = (self.machine.mem(), other.machine.mem());
        let mut pages = (vec![0u8; 4096], vec![0u8; 4096]);
        for pfn in 0..(a.ram_bytes() >> 12) as u32 {
            let at = u64::from(pfn) << 12;
            let same = if at >= a.low_bytes() {
                // High frames are sparse: compare what they hold.
                a.page_words(Pfn(pfn)).eq(b.page_words(Pfn(pfn)))
            } else {
                a.read_bytes(PhysAddr(at), &mut pages.0);
                b.read_bytes(PhysAddr(at), &mut pages.1);
                pages.0 == pages.1
            };
            if !same {
                let operation = self.replayer.operation();
                found.push(format!("operation {operation}: memory at {at:#x}"));
                return;
            }
        }
    }
}
