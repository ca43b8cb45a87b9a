//! Boot. (skeleton: the public signature is stable)

use crate::kernel::Kernel;

/// Brings the machine up and writes CpuStart.
pub fn boot<K: Kernel>(k: K) {
    let _ = k;
}
