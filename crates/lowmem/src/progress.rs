//! Progress on stderr, only on a terminal; and Ctrl-C.
//!
//! The first Ctrl-C asks runs to end, the second ends the program. Invariant: stdout never sees any of this, and whether
//! somebody watches changes no result.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowmem_report::Progress;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Exit code of a program ended by SIGINT, as shells give it.
const BY_SIGINT: i32 = 130;

/// Whether the user has had enough.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to Ctrl-C.
    pub(crate) fn listen() -> Interrupt {
        let interrupt = Interrupt::default();
        let flag = interrupt.0.clone();
        // Without a handler Ctrl-C still ends the program, only without printing finished rows.
        let _ = ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(BY_SIGINT);
            }
        });
        interrupt
    }

    /// As if it had been pressed.
    #[cfg(test)]
    pub(crate) fn press(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was pressed.
    pub(crate) fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The progress of all configurations.
#[derive(Debug)]
pub(crate) struct Board {
    bars: MultiProgress,
}

impl Board {
    /// A board on stderr when that is a terminal, else one that shows nothing.
    pub(crate) fn new() -> Board {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Board {
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// Calls `print` while the lines are out of its way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }

    /// A line for one configuration.
    pub(crate) fn row(&self, label: &str, interrupt: &Interrupt) -> Watcher {
        let style =
            ProgressStyle::with_template("{prefix:24} {percent:>3} % {wide_bar} {msg} {eta}")
                .expect("the template is constant and well formed");
        let bar = self.bars.add(ProgressBar::new(0).with_style(style));
        bar.set_prefix(label.to_owned());
        Watcher {
            bar,
            interrupt: interrupt.clone(),
            begun: Instant::now(),
        }
    }
}

/// Watches one run.
#[derive(Debug)]
pub(crate) struct Watcher {
    bar: ProgressBar,
    interrupt: Interrupt,
    begun: Instant,
}

impl Watcher {
    /// The run is over: its line goes.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// `done` of `total`, and a message that is made only if somebody sees it.
    pub(crate) fn show(&self, done: u64, total: u64, message: impl FnOnce() -> String) {
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_message(message());
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Progress for Watcher {
    fn at(&self, done: u64, total: u64, instructions: u64) {
        self.show(done, total, || {
            let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
            match instructions {
                0 => format!("{:.1} M operations/s", done as f64 / seconds / 1e6),
                n => format!("{:.1} MIPS", n as f64 / seconds / 1e6),
            }
        });
    }

    fn cancelled(&self) -> bool {
        self.interrupt.requested()
    }
}
