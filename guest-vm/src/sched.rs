//! Who runs: schedule, context switch, the way back to user mode, the tick, idle.

use crate::kernel::Kernel;
use crate::layout::Frame;
use crate::ptr::Low;

/// Last step of every kernel entry that returns to user mode: frees what the last exit left, schedules if the mailbox names another
/// task, and returns the frame to restore.
pub fn return_to_user<K: Kernel>(k: K, frame: Low<Frame>) -> Low<Frame> {
    let _ = k;
    frame
}

/// Timer interrupt: charged work on declared time words.
pub fn tick<K: Kernel>(k: K, frame: Low<Frame>) {
    let _ = (k, frame);
}
