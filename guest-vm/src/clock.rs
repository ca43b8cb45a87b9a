//! VM time: the trace clock and the naps of kernel code (decision D3).
//!
//! What ages, delays and out-of-memory rules of the VM see is not the timer: it is the number of recorded operations so far, the
//! same in every mode, plus what kernel code slept itself (blk_congestion_wait), which under the same load is the same in both modes
//! as well. [`MS_PER_CLOCK_TICK`] is an assumption: recordings carry no common speed. A nap lets all device requests
//! complete; the machine is told its length and accounts it as waiting, not as work of the CPU.
//!
//! Invariant: time never goes back and never depends on prices or the timer.

use crate::kernel::Kernel;
use crate::mailbox::mailbox;
use crate::reclaim::state;
use lowmem_abi::port::{Transfer, TransferKind};

/// Milliseconds of VM time in one tick of the mailbox's clock, which is 1,024 recorded operations: about 100,000 operations
/// (faults, calls) a second. Assumption.
pub const MS_PER_CLOCK_TICK: u32 = 10;

/// VM time in milliseconds; wraps after 49 days.
#[inline]
pub fn now_ms<K: Kernel>(k: K) -> u32 {
    mailbox(k)
        .clock(k)
        .wrapping_mul(MS_PER_CLOCK_TICK)
        .wrapping_add(state(k).slept_ms(k))
}

/// Sleeps: requests under way complete, VM time goes on by `ms`.
#[cold]
pub fn nap<K: Kernel>(k: K, ms: u32) {
    crate::io::complete_all(k);
    let s = state(k);
    s.set_slept_ms(k, s.slept_ms(k).wrapping_add(ms));
    k.transfer(Transfer {
        kind: TransferKind::Wait as u32,
        pfn: 0,
        file: 0,
        index: ms,
    });
}
