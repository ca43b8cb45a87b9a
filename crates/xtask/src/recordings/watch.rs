//! Progress on stderr, once a second, only on a terminal.
//!
//! Invariant: whether somebody watches changes no result.

use lowmem_report::Progress;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Says how far one replay is.
#[derive(Debug)]
pub(crate) struct Watch {
    what: String,
    begun: Instant,
    last: Mutex<Instant>,
    shown: bool,
}

impl Watch {
    /// For a replay called `what`.
    pub(crate) fn new(what: String) -> Self {
        let now = Instant::now();
        Self {
            what,
            begun: now,
            last: Mutex::new(now),
            shown: std::io::stderr().is_terminal(),
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

impl Progress for Watch {
    fn at(&self, done: u64, total: u64, instructions: u64) {
        if !self.shown {
            return;
        }
        let Ok(mut last) = self.last.lock() else {
            return;
        };
        if last.elapsed() < EVERY {
            return;
        }
        *last = Instant::now();
        let seconds = self.begun.elapsed().as_secs_f64();
        eprint!(
            "\r\x1b[K{}: {} % of {total} operations, {:.1} MIPS",
            self.what,
            done * 100 / total.max(1),
            instructions as f64 / seconds / 1e6
        );
        let _ = std::io::stderr().flush();
    }
}
