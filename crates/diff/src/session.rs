//! The fuzzing loop: three machines, one case after the other.
//!
//! Cases come in batches of [`BATCH`]; memory is filled at the start of a batch and carried from case
//! to case inside it. Registers, flags and ends are compared after every case, memory at the end of
//! the batch; if memory differs, the batch runs again with a comparison after every case. Order:
//! `reference` first (it judges whether the host may run the case), then `fast`, then the host. A
//! dropped case leaves the host's memory alone, and the reference's is copied back from it.
//!
//! Invariant: a case depends on seed and number alone, so any one can be run again.

use crate::case::{Case, Generator, fill};
use crate::coverage::Coverage;
use crate::host::{Host, HostError};
use crate::machine::{Dropped, Machine, MachineError, Path};
use crate::outcome::{End, Outcome};
use crate::random::Random;
use crate::tolerate::{self, Judgement};
use emu_cpu::Engine;
use emu_cpu::regs::ESP;
use iced_x86::Code;
use std::collections::BTreeMap;

/// Cases that share memory.
pub const BATCH: u64 = 64;

/// The three machines could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The emulated machines.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Who disagrees with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The reference engine.
    Reference,
    /// The fast engine.
    Fast,
}

/// A case on which the machines disagree.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Its number.
    pub number: u64,
    /// The case.
    pub case: Case,
    /// Memory before it.
    pub image: Vec<u8>,
    /// Who differs from the host (the reference, if both).
    pub who: Who,
    /// In what.
    pub what: String,
    /// Ends: host, reference, fast.
    pub outcomes: [Outcome; 3],
    /// The last instruction that was executed.
    pub last: Option<Code>,
}

/// What was compared so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Cases compared.
    pub compared: u64,
    /// Cases generated.
    pub generated: u64,
    /// Differences that were gone when the case ran again: an interrupt of the host's.
    pub unstable: u64,
    /// Compared cases that ended without a fault.
    pub exits: u64,
    /// Compared cases by vector.
    pub vectors: BTreeMap<u8, u64>,
    /// Cases not compared, by reason.
    pub dropped: BTreeMap<Dropped, u64>,
    /// Instructions executed by form.
    pub coverage: Coverage,
}

/// Host, reference and fast engine.
#[derive(Debug)]
pub struct Session {
    seed: u64,
    generator: Generator,
    host: Host,
    reference: Machine,
    fast: Machine,
    path: Path,
    /// Counts.
    pub tally: Tally,
}

/// What came of a case.
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack of the loop"
)]
enum Verdict {
    Same,
    Dropped(Dropped),
    Different(Who, String, [Outcome; 3]),
}

impl Session {
    /// A session over all forms; with `only`, every case has one of these forms in it.
    pub fn new(seed: u64, only: &[Code]) -> Result<Session, SetupError> {
        let host = Host::new()?;
        let reference = Machine::new(Engine::Reference, host.layout())?;
        let fast = Machine::new(Engine::Fast, host.layout())?;
        Ok(Session {
            seed,
            generator: Generator::new(only),
            host,
            reference,
            fast,
            path: Path::default(),
            tally: Tally::default(),
        })
    }

    /// Runs the batch with this number and gives the differences found.
    pub fn batch(&mut self, batch: u64) -> Vec<Difference> {
        let mut random = self.begin(batch);
        let mut found = Vec::new();
        for k in 0..BATCH {
            let case = self.generator.case(&mut random);
            self.tally.generated += 1;
            match self.compare(&case) {
                Verdict::Same => {
                    self.tally.compared += 1;
                    self.path.cover(&mut self.tally.coverage);
                }
                Verdict::Dropped(why) => *self.tally.dropped.entry(why).or_default() += 1,
                Verdict::Different(who, what, outcomes) => {
                    found.push((batch * BATCH + k, case, who, what, outcomes, self.last()));
                    self.resync();
                }
            }
        }
        let memory = self.memory_difference();
        if found.is_empty() && memory.is_none() {
            return Vec::new();
        }
        if memory.is_some() {
            // Somewhere in between: run it again, looking each time.
            let found = self.again(batch, u64::MAX);
            self.tally.unstable += u64::from(found.is_none());
            return found.into_iter().collect();
        }
        let numbers: Vec<u64> = found.iter().map(|f| f.0).collect();
        let differences: Vec<Difference> = numbers
            .into_iter()
            .zip(found)
            .map(
                |(number, (_, case, who, what, outcomes, last))| Difference {
                    image: self.image_before(number),
                    number,
                    case,
                    who,
                    what,
                    outcomes,
                    last,
                },
            )
            .collect();
        let all = differences.len();
        let stable: Vec<Difference> = differences
            .into_iter()
            .filter(|d| self.examine(&d.case, &d.image).is_some())
            .collect();
        self.tally.unstable += (all - stable.len()) as u64;
        stable
    }

    /// Runs one case again, with the memory it had; `None` if nothing differs.
    pub fn replay(&mut self, number: u64) -> Option<Difference> {
        self.again(number / BATCH, number % BATCH)
    }

    /// The case with this number, and memory before it.
    pub fn reproduce(&mut self, number: u64) -> (Case, Vec<u8>) {
        let image = self.image_before(number);
        let mut random = self.begin(number / BATCH);
        let mut case = self.generator.case(&mut random);
        for _ in 0..number % BATCH {
            case = self.generator.case(&mut random);
        }
        (case, image)
    }

    /// Runs a case over an image on all three machines: what differs, and the three ends; `None` if
    /// nothing does or the case cannot be compared.
    pub fn examine(&mut self, case: &Case, image: &[u8]) -> Option<(Who, String, [Outcome; 3])> {
        self.host.image_mut().copy_from_slice(image);
        self.resync();
        match self.compare(case) {
            Verdict::Different(who, what, outcomes) => Some((who, what, outcomes)),
            Verdict::Dropped(_) => None,
            Verdict::Same => {
                let (who, what, outcome) = self.memory_difference().map(|(who, at)| {
                    (
                        who,
                        format!("memory at {at:#x}"),
                        self.reference_outcome(case, image),
                    )
                })?;
                Some((who, what, outcome))
            }
        }
    }

    /// Bytes of memory that differ from `before` on the host and on the two engines, after
    /// [`Session::examine`]: linear address and the four bytes.
    pub fn memory_changes(&self, before: &[u8]) -> Vec<(u32, [u8; 4])> {
        let (h, r, f) = (self.host.image(), self.reference.image(), self.fast.image());
        (0..before.len())
            .filter(|&i| h[i] != before[i] || r[i] != before[i] || f[i] != before[i])
            .map(|i| (self.host.layout().linear(i), [before[i], h[i], r[i], f[i]]))
            .collect()
    }

    fn reference_outcome(&mut self, case: &Case, image: &[u8]) -> [Outcome; 3] {
        self.host.image_mut().copy_from_slice(image);
        self.resync();
        self.reference.start(case);
        let r = self.reference.step_through(&mut self.path);
        self.fast.start(case);
        let f = self.fast.run();
        let h = self.host.run(case);
        [h, r.unwrap_or(f), f]
    }

    fn begin(&mut self, batch: u64) -> Random {
        let mut random = Random::new(self.seed, batch);
        fill(&mut random, self.host.image_mut());
        self.resync();
        random
    }

    /// Makes the emulated machines' memory the host's.
    fn resync(&mut self) {
        self.reference.load(self.host.image());
        self.fast.load(self.host.image());
    }

    /// Runs a case on all three.
    #[inline]
    fn compare(&mut self, case: &Case) -> Verdict {
        self.reference.start(case);
        let reference = match self.reference.step_through(&mut self.path) {
            Ok(outcome) => outcome,
            Err(why) => {
                self.reference.load(self.host.image());
                return Verdict::Dropped(why);
            }
        };
        self.fast.start(case);
        let fast = self.fast.run();
        if reference.end == End::Broken {
            return Verdict::Different(
                Who::Reference,
                "the machine broke".to_owned(),
                [reference, reference, fast],
            );
        }
        let mut host = self.host.run(case);
        let undefined = self.path.undefined;
        match tolerate::judge(self.path.executed.last(), &host, &reference) {
            Judgement::Compare => {}
            Judgement::NotRegisters => {
                let esp = host.regs[ESP];
                host.regs = reference.regs;
                host.regs[ESP] = esp;
            }
            Judgement::NotBelowStack(bytes) => {
                let top = self.reference.user_stack(&reference);
                let below = (1..=bytes).map(|n| top.wrapping_sub(n));
                let below = below.filter_map(|at| self.host.layout().offset(at));
                self.path.may_stay.extend(below);
            }
            Judgement::Open => {
                self.resync();
                return Verdict::Dropped(Dropped::Open);
            }
        }
        self.reference.adopt(&self.path.may_stay, self.host.image());
        self.fast.adopt(&self.path.may_stay, self.host.image());
        let all = [host, reference, fast];
        if let Some(what) = host.differs(&reference, undefined) {
            return Verdict::Different(Who::Reference, what, all);
        }
        if let Some(what) = reference.differs(&fast, 0) {
            return Verdict::Different(Who::Fast, what, all);
        }
        match host.end {
            End::Exit => self.tally.exits += 1,
            End::Fault { vector, .. } => *self.tally.vectors.entry(vector).or_default() += 1,
            End::Hang | End::Broken => {}
        }
        Verdict::Same
    }

    /// Whose memory differs from the host's, and where first.
    fn memory_difference(&self) -> Option<(Who, u32)> {
        let host = self.host.image();
        for (who, other) in [
            (Who::Reference, self.reference.image()),
            (Who::Fast, self.fast.image()),
        ] {
            if host != other {
                let at = (0..host.len()).find(|&i| host[i] != other[i])?;
                return Some((who, self.host.layout().linear(at)));
            }
        }
        None
    }

    fn last(&self) -> Option<Code> {
        self.path.executed.last().map(|e| e.code)
    }

    /// Runs a batch up to and with its case `upto`, comparing memory after each; the first
    /// difference, or the one of the case `upto`.
    fn again(&mut self, batch: u64, upto: u64) -> Option<Difference> {
        let saved = self.tally.clone();
        let mut random = self.begin(batch);
        let mut found = None;
        for k in 0..BATCH.min(upto.saturating_add(1)) {
            let case = self.generator.case(&mut random);
            let image = self.host.image().to_vec();
            let verdict = self.compare(&case);
            let different = match verdict {
                Verdict::Different(who, what, outcomes) => Some((who, what, outcomes)),
                Verdict::Dropped(_) => None,
                Verdict::Same => self.memory_difference().map(|(who, at)| {
                    let outcomes = self.reference_outcome(&case, &image);
                    (who, format!("memory at {at:#x}"), outcomes)
                }),
            };
            if let Some((who, what, outcomes)) = different {
                if upto == u64::MAX || k == upto {
                    found = Some(Difference {
                        number: batch * BATCH + k,
                        case,
                        image,
                        who,
                        what,
                        outcomes,
                        last: self.last(),
                    });
                    break;
                }
                self.resync();
            }
        }
        self.tally = saved;
        found
    }

    /// Memory before a case: the host's, after the cases before it.
    fn image_before(&mut self, number: u64) -> Vec<u8> {
        let saved = self.tally.clone();
        let mut random = self.begin(number / BATCH);
        for _ in 0..number % BATCH {
            let case = self.generator.case(&mut random);
            if let Verdict::Different(..) = self.compare(&case) {
                self.resync();
            }
        }
        self.tally = saved;
        self.host.image().to_vec()
    }
}
