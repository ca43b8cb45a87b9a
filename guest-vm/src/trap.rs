//! The one way into the kernel and out of it. (skeleton: the public signature is stable)

use crate::kernel::Kernel;
use crate::layout::Frame;
use crate::ptr::Low;

/// Handles `vector` with the registers in `frame`; returns the frame to restore, maybe another task's.
pub fn kernel_main<K: Kernel>(k: K, frame: Low<Frame>, vector: u32) -> Low<Frame> {
    let _ = (k, vector);
    frame
}
