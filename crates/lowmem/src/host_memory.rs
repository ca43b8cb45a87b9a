//! Whether the host's memory is nearly used up.
//!
//! Every frame that the guest touches takes host memory, and a machine of 32 GB may take 32 GB: without a guard the host's
//! own OOM killer would end the command, or the host would swap for hours.
//!
//! What is left is Linux's own estimate, `MemAvailable` of `/proc/meminfo` (proc_meminfo(5)). Left out: limits of control groups, and
//! hosts without that file, which are not guarded.
//!
//! Invariant: while memory is left, looking changes nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two looks: a machine touches some hundred MB in it at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What is left to the host at least.
const LEAST_RESERVE: u64 = 512 << 20;
/// What is left to the host is this part of its memory, if that is more.
const RESERVE_PART: u64 = 32;

/// The host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it, bytes.
    pub(crate) total: u64,
    /// What programs can have without swapping, bytes.
    pub(crate) available: u64,
}

/// Looks at the host's memory, but seldom.
pub(crate) struct HostMemory {
    look: Box<dyn Fn() -> Option<Memory> + Send + Sync>,
    next_look: Mutex<Instant>,
    short: AtomicBool,
}

impl std::fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostMemory")
            .field("short", &self.short)
            .finish_non_exhaustive()
    }
}

impl HostMemory {
    /// This host's.
    pub(crate) fn of_host() -> Self {
        Self::seen_by(|| parse(&std::fs::read_to_string("/proc/meminfo").ok()?))
    }

    /// What `look` sees.
    pub(crate) fn seen_by(look: impl Fn() -> Option<Memory> + Send + Sync + 'static) -> Self {
        Self {
            look: Box::new(look),
            next_look: Mutex::new(Instant::now()),
            short: AtomicBool::new(false),
        }
    }

    /// Whether less is left than the reserve, as the last look saw it.
    pub(crate) fn is_short(&self) -> bool {
        // Whoever finds another one looking takes what that one saw last.
        if let Ok(mut next) = self.next_look.try_lock() {
            let now = Instant::now();
            if now >= *next {
                *next = now + LOOK_EVERY;
                let short = (self.look)().is_some_and(|m| m.available < reserve(m.total));
                self.short.store(short, Ordering::Relaxed);
            }
        }
        self.short.load(Ordering::Relaxed)
    }
}

fn reserve(total: u64) -> u64 {
    LEAST_RESERVE.max(total / RESERVE_PART)
}

/// The two lines of `/proc/meminfo`, which count in kB.
fn parse(meminfo: &str) -> Option<Memory> {
    let of = |name: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
        let kb: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kb << 10)
    };
    Some(Memory {
        total: of("MemTotal:")?,
        available: of("MemAvailable:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_of_meminfo_are_read() {
        let text = "MemTotal:       8000000 kB\nMemFree: 1 kB\nMemAvailable:    500000 kB\n";
        let memory = Memory {
            total: 8_000_000 << 10,
            available: 500_000 << 10,
        };
        assert_eq!(parse(text), Some(memory));
        assert_eq!(parse("MemTotal: 8000000 kB\n"), None);
    }

    #[test]
    fn memory_is_short_below_the_reserve_and_not_where_nothing_is_known() {
        let at = |look: fn() -> Option<Memory>| HostMemory::seen_by(look).is_short();
        assert_eq!(reserve(8 << 30), LEAST_RESERVE);
        assert_eq!(reserve(64 << 30), 2 << 30);
        assert!(at(|| Some(Memory {
            total: 8 << 30,
            available: LEAST_RESERVE - 1
        })));
        assert!(!at(|| Some(Memory {
            total: 8 << 30,
            available: LEAST_RESERVE
        })));
        assert!(!at(|| None));
    }
}
