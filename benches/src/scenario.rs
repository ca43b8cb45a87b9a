//! What is measured: small synthetic traces, each with a last piece that is the measurement.
//!
//! | scenario | piece |
//! |---|---|
//! | `null_call` | one system call without effect (getpid), warm |
//! | `read_4k` | one call that copies 4 KB to user memory |
//! | `page_fault` | first write to an anonymous page, page table present |
//! | `context_switch` | a null call that ends asleep, the switch, a null call of the other process, the switch back, halved |
//! | `unmap/N` | reclaim's sequence for one anonymous page that N processes share |
//!
//! Invariant: a scenario's trace is the same for every configuration.

use lowmem_trace::{Trace, TraceBuilder};

/// Page size.
const PAGE: u32 = 4096;
/// Calls that warm the path before it is measured.
const WARM_CALLS: u32 = 32;

/// One benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// A system call without effect.
    NullCall,
    /// A call that copies 4 KB to the user.
    Read4k,
    /// An anonymous write fault.
    PageFault,
    /// Two processes in turn.
    ContextSwitch,
    /// One page mapped by so many processes is unmapped.
    Unmap(u32),
}

/// How a sample's events become the figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Everything behind the prepared part, divided by so many.
    Tail {
        /// Repetitions in the piece.
        divide: u64,
    },
    /// Unmapping of the page at this address.
    Unmap {
        /// Address in the running task.
        va: u32,
    },
}

/// A trace, how much of it is preparation, and what is measured then.
#[derive(Debug)]
pub struct Prepared {
    /// The trace.
    pub trace: Trace,
    /// Operations before the measured piece.
    pub before: u64,
    /// The piece.
    pub piece: Piece,
}

impl Scenario {
    /// Every scenario, in the order of the README's table.
    pub const ALL: [Scenario; 7] = [
        Scenario::NullCall,
        Scenario::Read4k,
        Scenario::PageFault,
        Scenario::ContextSwitch,
        Scenario::Unmap(1),
        Scenario::Unmap(10),
        Scenario::Unmap(100),
    ];

    /// Name of the benchmark.
    pub fn name(self) -> String {
        match self {
            Scenario::NullCall => "null_call".to_owned(),
            Scenario::Read4k => "read_4k".to_owned(),
            Scenario::PageFault => "page_fault".to_owned(),
            Scenario::ContextSwitch => "context_switch".to_owned(),
            Scenario::Unmap(n) => format!("unmap/{n}"),
        }
    }

    /// What the README calls it.
    pub fn title(self) -> String {
        match self {
            Scenario::NullCall => "null system call".to_owned(),
            Scenario::Read4k => "read of 4 KB".to_owned(),
            Scenario::PageFault => "page fault, anonymous write".to_owned(),
            Scenario::ContextSwitch => "context switch, with a null call".to_owned(),
            Scenario::Unmap(1) => "unmap a page of 1 process".to_owned(),
            Scenario::Unmap(n) => format!("unmap a page shared by {n}"),
        }
    }

    /// Its trace.
    pub fn prepare(self) -> Prepared {
        let mut t = TraceBuilder::new(&self.name().replace('/', "_"));
        let first = t.spawn();
        let buffer = t.on(first).mmap_anon(16 * PAGE);
        t.on(first).write_pages(buffer, 8 * PAGE);
        let piece = match self {
            Scenario::NullCall => {
                for _ in 0..WARM_CALLS {
                    t.on(first).null_call();
                }
                Piece::Tail { divide: 1 }
            }
            Scenario::Read4k => {
                for _ in 0..WARM_CALLS {
                    t.on(first).other(3, 0, PAGE);
                }
                Piece::Tail { divide: 1 }
            }
            Scenario::PageFault => {
                t.on(first).write_pages(buffer + 8 * PAGE, 4 * PAGE);
                Piece::Tail { divide: 1 }
            }
            Scenario::ContextSwitch => {
                let second = t.on(first).fork();
                t.on(second).write_pages(buffer, 8 * PAGE);
                for _ in 0..WARM_CALLS {
                    t.on(second).null_call();
                    t.sleep(first);
                    t.on(first).null_call();
                    t.sleep(second);
                }
                Piece::Tail { divide: 2 }
            }
            Scenario::Unmap(sharers) => {
                for _ in 1..sharers {
                    t.on(first).fork();
                }
                for _ in 0..WARM_CALLS {
                    t.on(first).null_call();
                }
                Piece::Unmap { va: buffer }
            }
        };
        let before = t.len() as u64;
        match self {
            Scenario::NullCall | Scenario::Unmap(_) => {
                t.on(first).null_call();
            }
            Scenario::Read4k => {
                t.on(first).other(3, 0, PAGE);
            }
            Scenario::PageFault => {
                t.on(first).write(buffer + 12 * PAGE);
            }
            Scenario::ContextSwitch => {
                let second = lowmem_trace::TaskId(first.0 + 1);
                t.on(second).null_call();
                t.sleep(first);
                t.on(first).null_call();
                t.sleep(second);
            }
        }
        Prepared {
            trace: t.finish(),
            before,
            piece,
        }
    }
}
