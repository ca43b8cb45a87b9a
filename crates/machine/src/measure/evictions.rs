//! Which pages reclaim takes from one trace under pressure, by reverse map, and why two maps differ.
//!
//! Every decision of reclaim is compared with that of the first configuration, page by page ([`crate::decisions`]). Where the first
//! difference lies, low memory is divided by owner in both. Then both run again with the memory that the maps themselves take out of
//! play: if now every decision is equal, the maps differ by their memory alone, because watermarks are crossed at other times; if not,
//! a map has answered a question otherwise than the other. Two such answers are known. try_to_unmap of 2.6.7 refuses a page of the
//! swap cache that somebody pins, and reclaim activates it; with chains (2.6.0's routine, which does not ask) the page is unmapped, and
//! kept because it cannot be written while it is pinned. And anonmm has other pages: mremap copies those that fork shared.
//!
//! Left out: cycle mode. Natively every reference sets Accessed; with `young_flush=off` a CPU's TLB may hide some of them.
//!
//! Invariant: the counterfactual changes where kernel objects lie and how much is free after boot, nothing else.

use super::as_recorded;
use crate::decisions::{Decided, Decisions, Keep, Level, ReclaimRun};
use crate::error::MachineError;
use crate::replay::{ReplayOptions, boot, preset, replay_decisions};
use guest_vm::kernel::Decision;
use lowmem_abi::probe::Probe;
use lowmem_report::{Config, LowmemUse, Measurement, Outcome, Owner};
use lowmem_trace::{Assumptions, RetouchDepth, Trace};

/// Pages outside the zones in the counterfactual: at least, and as a part of RAM. Slabs of the default trace need 50.
const RESERVE_PAGES: u64 = 1024;
const RESERVE_PART: u64 = 16;

/// Why two configurations differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// They do not.
    Same,
    /// By the memory of their kernel objects and of the kernel's text.
    Memory,
    /// By what a map answered.
    Answer,
    /// They have different versions of reclaim.
    Reclaim,
    /// Not found out: the counterfactual could not be made.
    Unknown,
}

impl Cause {
    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Same => "same",
            Cause::Memory => "memory",
            Cause::Answer => "answer",
            Cause::Reclaim => "reclaim",
            Cause::Unknown => "unknown",
        }
    }
}

/// How long two logs are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equal {
    /// Decisions.
    pub decisions: usize,
    /// Pages freed among them.
    pub evictions: usize,
    /// Whether that is all there is in both.
    pub all: bool,
}

/// A decision in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// What was decided.
    pub what: Decision,
    /// The page's number among the user pages handed out.
    pub page: u32,
    /// Operation in which it was handed out; `None`: at boot.
    pub born: Option<u64>,
    /// The run of reclaim that it belongs to.
    pub run: ReclaimRun,
    /// Why try_to_unmap gave up, if it did.
    pub gave_up: Option<Probe>,
}

/// The first difference.
#[derive(Debug, Clone)]
pub struct First {
    /// The first configuration's decision; `None`: it had no more.
    pub reference: Option<Placed>,
    /// This one's.
    pub own: Option<Placed>,
    /// Low memory then, first configuration and this one: owners that differ, bytes.
    pub owners: Vec<(Owner, u64, u64)>,
}

/// The pair in the counterfactual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leveled {
    /// Where the two differ all the same: the first configuration's decision and this one's.
    pub first: Option<(Option<Placed>, Option<Placed>)>,
    /// Decisions of this configuration.
    pub decisions: usize,
    /// Its evictions.
    pub evictions: usize,
    /// How long equal.
    pub equal: Equal,
    /// Most pages of kernel objects at once.
    pub objects_pages: u32,
}

/// One configuration.
#[derive(Debug, Clone)]
pub struct EvictionRow {
    /// Which.
    pub config: Config,
    /// How the run ended.
    pub outcome: Outcome,
    /// Decisions of reclaim.
    pub decisions: usize,
    /// Pages freed.
    pub evictions: usize,
    /// Pages written to swap.
    pub swap_writes: u64,
    /// Hash of what the processes see at the end of a complete run.
    pub memory_hash: Option<u128>,
    /// How long equal with the first configuration.
    pub equal: Equal,
    /// Where it differs.
    pub first: Option<First>,
    /// The counterfactual; `None`: not made.
    pub leveled: Option<Leveled>,
    /// Why it differs.
    pub cause: Cause,
}

/// Compares every configuration with the first. Configurations without an image or refused are errors.
pub fn measure(trace: &Trace, configs: &[Config]) -> Result<Vec<EvictionRow>, MachineError> {
    let options = ReplayOptions {
        assumptions: assumptions(trace),
        ..ReplayOptions::default()
    };
    let run = |config: &Config, keep| {
        config.check()?;
        replay_decisions(trace, config, &options, keep)
    };
    let Some(first) = configs.first() else {
        return Ok(Vec::new());
    };
    let (measured, log) = run(first, Keep::default())?;
    let mut rows = vec![row(first, &measured, &log, &log)];
    let roomy: Vec<Config> = configs.iter().map(with_reserve).collect();
    let mut leveled_first: Option<(Level, Decisions)> = None;
    for (config, roomier) in configs.iter().zip(&roomy).skip(1) {
        let (m, own) = run(config, Keep::default())?;
        let mut row = row(config, &m, &log, &own);
        if !row.equal.all {
            let look = |c: &Config| {
                let keep = Keep {
                    look_at: Some(row.equal.decisions as u32),
                    level: None,
                };
                Ok::<_, MachineError>(run(c, keep)?.1.seen)
            };
            let owners = differing(look(first)?.as_ref(), look(config)?.as_ref());
            row.first = Some(First {
                reference: placed(&log, row.equal.decisions),
                own: placed(&own, row.equal.decisions),
                owners,
            });
            row.cause = Cause::Reclaim;
            if config.reclaim == first.reclaim {
                if leveled_first.is_none() {
                    let level = level(&roomy)?;
                    let keep = at(level);
                    leveled_first = Some((level, run(&roomy[0], keep)?.1));
                }
                let Some((level, reference)) = &leveled_first else {
                    unreachable!("made above");
                };
                let leveled = run(roomier, at(*level))?.1;
                row.cause = cause(reference, &leveled);
                let still = equal(reference, &leveled);
                row.leveled = Some(Leveled {
                    first: (!still.all).then(|| {
                        let n = still.decisions;
                        (placed(reference, n), placed(&leveled, n))
                    }),
                    decisions: leveled.decided.len(),
                    evictions: freed(&leveled.decided),
                    equal: still,
                    objects_pages: leveled.most_lent,
                });
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Synthetic traces are complete; recordings of first touches need their re-touches, as `replay` adds them.
fn assumptions(trace: &Trace) -> Assumptions {
    match trace.header().kind {
        lowmem_trace::TraceKind::FirstTouch => Assumptions {
            retouch: RetouchDepth::default(),
            ..Assumptions::default()
        },
        _ => as_recorded(),
    }
}

fn row(config: &Config, m: &Measurement, reference: &Decisions, own: &Decisions) -> EvictionRow {
    EvictionRow {
        config: config.clone(),
        outcome: m.outcome,
        decisions: own.decided.len(),
        evictions: freed(&own.decided),
        swap_writes: m.devices.swap_writes,
        memory_hash: m.memory_hash,
        equal: equal(reference, own),
        first: None,
        leveled: None,
        cause: Cause::Same,
    }
}

fn freed(decided: &[Decided]) -> usize {
    let freed = |d: &&Decided| d.what == Decision::Freed;
    decided.iter().filter(freed).count()
}

fn equal(a: &Decisions, b: &Decisions) -> Equal {
    let pairs = a.decided.iter().zip(&b.decided);
    let decisions = pairs
        .take_while(|(a, b)| (a.what, a.page) == (b.what, b.page))
        .count();
    Equal {
        decisions,
        evictions: freed(&a.decided[..decisions]),
        all: decisions == a.decided.len() && decisions == b.decided.len(),
    }
}

fn placed(log: &Decisions, n: usize) -> Option<Placed> {
    let d = log.decided.get(n)?;
    Some(Placed {
        what: d.what,
        page: d.page,
        born: log.pages.get(d.page as usize)?.map(|b| b.operation),
        run: *log.runs.get(d.run as usize)?,
        gave_up: d.gave_up,
    })
}

fn differing(a: Option<&LowmemUse>, b: Option<&LowmemUse>) -> Vec<(Owner, u64, u64)> {
    let (Some(a), Some(b)) = (a, b) else {
        return Vec::new();
    };
    Owner::ALL
        .iter()
        .map(|&o| (o, a.owner(o), b.owner(o)))
        .filter(|(_, a, b)| a != b)
        .collect()
}

fn reserve_pages(config: &Config) -> u64 {
    RESERVE_PAGES.max((config.ram_bytes >> 12) / RESERVE_PART)
}

fn with_reserve(config: &Config) -> Config {
    Config {
        ram_bytes: config.ram_bytes + (reserve_pages(config) << 12),
        ..config.clone()
    }
}

/// What all of them have after boot, less the reserve.
fn level(roomy: &[Config]) -> Result<Level, MachineError> {
    let mut lowest: Option<Level> = None;
    for config in roomy {
        let own = boot(config, &preset(config)?)?.level()?;
        lowest = Some(lowest.map_or(own, |l| l.lower(own)));
    }
    let lowest = lowest.expect("there is a first configuration");
    let reserve = roomy.first().map_or(0, reserve_pages);
    Ok(lowest.less(reserve as u32))
}

fn at(level: Level) -> Keep {
    Keep {
        look_at: None,
        level: Some(level),
    }
}

fn cause(a: &Decisions, b: &Decisions) -> Cause {
    if a.overdrawn || b.overdrawn {
        Cause::Unknown
    } else if equal(a, b).all {
        Cause::Memory
    } else {
        Cause::Answer
    }
}
