//! How many processes of a load a machine holds: one run per configuration, until memory is gone, the load is through, or
//! somebody stops it.
//!
//! Each process of the load is complete before the next one is forked, so the operation at which the machine stops says how many there
//! were. A run is stopped by Ctrl-C, or before it takes the last of the host's memory; what it held until then is an answer, too:
//! "at least".
//!
//! Invariant: rows come in the order of the configurations; a row that stands for less than a whole run says so.

use crate::failure::Failure;
use crate::host_memory::HostMemory;
use crate::progress::{Board, Interrupt, Watcher};
use crate::session;
use lowmem_machine::{Check, ReplayOptions, Stoppable, replay_or_stop};
use lowmem_report::table::{grouped, size};
use lowmem_report::{Config, LowmemUse, Mode, Outcome, Progress};
use lowmem_trace::{Assumptions, Call, Op, RetouchDepth, Trace};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The run came to its end.
    Ran(Outcome),
    /// Ctrl-C.
    Interrupted,
    /// The host had no more memory to give.
    HostMemory,
}

impl End {
    /// Name in JSON and tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            End::Ran(outcome) => outcome.name(),
            End::Interrupted => "interrupted",
            End::HostMemory => "host_memory",
        }
    }
}

/// What one configuration holds.
#[derive(Debug)]
pub(crate) struct Frontier {
    /// The configuration.
    pub(crate) config: Config,
    /// Complete processes.
    pub(crate) processes: u32,
    /// How the row ended.
    pub(crate) end: End,
    /// Why, in words.
    pub(crate) reason: Option<String>,
    /// Low memory at the end.
    pub(crate) lowmem: LowmemUse,
}

impl Frontier {
    /// Whether the machine may hold more.
    pub(crate) fn at_least(&self) -> bool {
        match self.end {
            End::Ran(outcome) => outcome == Outcome::Complete,
            End::Interrupted | End::HostMemory => true,
        }
    }
}

/// The load, its configurations, and what may stop them.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    /// The load.
    pub(crate) trace: &'a Trace,
    /// One row each.
    pub(crate) configs: &'a [Config],
    /// Ctrl-C.
    pub(crate) interrupt: &'a Interrupt,
    /// The host.
    pub(crate) host: &'a HostMemory,
}

impl Search<'_> {
    /// Runs all configurations, `jobs` at once, and calls `ended` with every row that was begun. Says why the first of those that have
    /// no row failed.
    pub(crate) fn run(
        &self,
        jobs: usize,
        mut ended: impl FnMut(Frontier) -> Result<(), Failure> + Send,
    ) -> Result<(), Failure> {
        let processes = Processes::of(self.trace);
        let board = Board::new();
        let mut failure = None;
        session::each(
            jobs,
            self.configs.len(),
            |i| self.row(&self.configs[i], &processes, &board),
            |row| {
                let printed = match row {
                    Ok(None) => Ok(()),
                    Ok(Some(frontier)) => board.aside(|| ended(frontier)),
                    Err(e) => Err(e),
                };
                if let Err(e) = printed {
                    failure.get_or_insert(e);
                }
            },
        )?;
        failure.map_or(Ok(()), Err)
    }

    fn row(
        &self,
        config: &Config,
        processes: &Processes,
        board: &Board,
    ) -> Result<Option<Frontier>, Failure> {
        if self.interrupt.requested() {
            return Ok(None);
        }
        let watch = Watch {
            watcher: board.row(&config.label(self.configs), self.interrupt),
            processes,
            host: self.host,
            short: AtomicBool::new(false),
            low: AtomicU64::new(0),
        };
        // A load of the generator says all that is done: nothing is added to it.
        let options = ReplayOptions {
            mode: Mode::Native,
            check: Check::Off,
            assumptions: Assumptions {
                retouch: RetouchDepth::NONE,
                ..Assumptions::default()
            },
            ..ReplayOptions::default()
        };
        let stoppable = replay_or_stop(self.trace, config, &options, &watch);
        watch.watcher.finish();
        let label = || config.label(self.configs);
        Ok(Some(
            match stoppable.map_err(|e| Failure::Machine(format!("{}: {e}", label())))? {
                Stoppable::Ended(m) => Frontier {
                    processes: processes.complete(m.host.operations),
                    end: End::Ran(m.outcome),
                    reason: m.reason,
                    lowmem: m.lowmem,
                    config: m.config,
                },
                Stoppable::Stopped { operations, lowmem } => {
                    let end = match watch.short.load(Ordering::Relaxed) {
                        true => End::HostMemory,
                        false => End::Interrupted,
                    };
                    let why = match end {
                        End::HostMemory => "stopped before the host's memory was used up",
                        _ => "interrupted",
                    };
                    let at = format!(
                        "{why}, at operation {} of {}",
                        grouped(operations),
                        grouped(self.trace.len())
                    );
                    Frontier {
                        config: config.clone(),
                        processes: processes.complete(operations),
                        end,
                        reason: Some(at),
                        lowmem: *lowmem,
                    }
                }
            },
        ))
    }
}

/// Operations at which the processes of a load are complete.
#[derive(Debug)]
struct Processes(Vec<u64>);

impl Processes {
    fn of(trace: &Trace) -> Self {
        let forks = trace.ops().zip(0..).filter_map(|(op, at)| match op {
            Op::Call(call) if matches!(*call, Call::Fork { .. }) => Some(at),
            _ => None,
        });
        // Each is complete where the next one is forked, the last one at the end.
        let mut ends: Vec<u64> = forks.skip(1).collect();
        ends.push(trace.len());
        Self(ends)
    }

    /// How many of them are after so many operations.
    fn complete(&self, operations: u64) -> u32 {
        self.0.partition_point(|&end| end <= operations) as u32
    }
}

/// Shows processes and low memory, and stops the run.
struct Watch<'a> {
    watcher: Watcher,
    processes: &'a Processes,
    host: &'a HostMemory,
    /// The host's memory was short.
    short: AtomicBool,
    /// Low memory in use, bytes.
    low: AtomicU64,
}

impl Progress for Watch<'_> {
    fn lowmem(&self, used_bytes: u64, _total_bytes: u64) {
        self.low.store(used_bytes, Ordering::Relaxed);
    }

    fn at(&self, done: u64, total: u64, _instructions: u64) {
        self.watcher.show(done, total, || {
            format!(
                "{} processes, low {}",
                grouped(self.processes.complete(done).into()),
                size(self.low.load(Ordering::Relaxed))
            )
        });
    }

    fn cancelled(&self) -> bool {
        if self.host.is_short() {
            self.short.store(true, Ordering::Relaxed);
            return true;
        }
        self.watcher.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_memory::Memory;
    use lowmem_report::config::Rmap;
    use lowmem_trace::generate::generate;
    use lowmem_trace::generate::server::SharedSegment;

    fn load(processes: u32) -> Trace {
        let load = SharedSegment {
            processes,
            segment_pages: 512,
            touched: 1000,
            private_pages: 16,
            vmas: 4,
            transactions: 0,
            ..SharedSegment::default()
        };
        generate(&load, 1).expect("a load")
    }

    fn configs() -> Vec<Config> {
        [Rmap::AnonVma, Rmap::PteChain]
            .map(|rmap| Config {
                rmap,
                cpu: "none".to_owned(),
                ram_bytes: 64 << 20,
                probe_unmap: 0,
                ..Config::default()
            })
            .to_vec()
    }

    fn plenty() -> Option<Memory> {
        Some(Memory {
            total: 8 << 30,
            available: 8 << 30,
        })
    }

    fn rows(
        trace: &Trace,
        interrupt: &Interrupt,
        host: &HostMemory,
        mut ended: impl FnMut(&Frontier) + Send,
    ) -> Vec<Frontier> {
        let configs = configs();
        let search = Search {
            trace,
            configs: &configs,
            interrupt,
            host,
        };
        let mut rows = Vec::new();
        let all = search.run(1, |frontier| {
            ended(&frontier);
            rows.push(frontier);
            Ok(())
        });
        all.expect("no row fails");
        rows
    }

    #[test]
    fn a_process_is_complete_where_the_next_one_is_forked() {
        let trace = load(3);
        let processes = Processes::of(&trace);
        assert_eq!(processes.complete(0), 0);
        let second = processes.0[0];
        assert_eq!(processes.complete(second - 1), 0);
        assert_eq!(processes.complete(second), 1);
        assert_eq!(processes.complete(trace.len() - 1), 2);
        assert_eq!(processes.complete(trace.len()), 3);
    }

    #[test]
    fn a_run_that_nobody_stops_holds_all() {
        let trace = load(10);
        let rows = rows(
            &trace,
            &Interrupt::default(),
            &HostMemory::seen_by(plenty),
            |_| {},
        );
        for row in &rows {
            assert_eq!(row.end, End::Ran(Outcome::Complete), "{row:?}");
            assert_eq!((row.processes, row.at_least()), (10, true));
        }
        assert_eq!(rows.len(), 2);
    }

    /// The row after the one at whose end Ctrl-C is pressed is never begun.
    #[test]
    fn rows_that_were_not_begun_are_not_reported() {
        let interrupt = Interrupt::default();
        let rows = rows(&load(10), &interrupt, &HostMemory::seen_by(plenty), |_| {
            interrupt.press()
        });
        assert_eq!(rows.len(), 1);
    }

    /// Ctrl-C is pressed when the first row looks at the host's memory for the first time.
    #[test]
    fn an_interrupted_row_says_at_least_how_many() {
        let interrupt = Interrupt::default();
        let pressed = interrupt.clone();
        let host = HostMemory::seen_by(move || {
            pressed.press();
            plenty()
        });
        let trace = load(100);
        let rows = rows(&trace, &interrupt, &host, |_| {});
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.end, row.at_least()), (End::Interrupted, true));
        assert!((1..100).contains(&row.processes), "{row:?}");
        assert!(row.lowmem.used_bytes() > 1 << 20, "{row:?}");
        let reason = row.reason.as_deref().expect("a reason");
        assert!(reason.starts_with("interrupted, at operation "), "{reason}");
    }

    /// Memory is short from the first look on: the first boundary ends each row, and all rows are tried.
    #[test]
    fn a_row_ends_before_the_host_has_no_memory() {
        let none = || {
            Some(Memory {
                total: 8 << 30,
                available: 0,
            })
        };
        let host = HostMemory::seen_by(none);
        let rows = rows(&load(100), &Interrupt::default(), &host, |_| {});
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert_eq!(row.end, End::HostMemory);
            assert!(row.at_least() && row.processes < 100, "{row:?}");
            let reason = row.reason.expect("a reason");
            assert!(reason.contains("host's memory"), "{reason}");
        }
    }
}
