//! System calls: dispatch by the numbers of i386 Linux, and the null call with its copies.

use crate::kernel::Kernel;
use crate::layout::Frame;
use crate::ptr::Low;

/// Carries out the call in `frame` (number in orig_eax, arguments in ebx to ebp), its result in eax.
pub fn dispatch<K: Kernel>(k: K, frame: Low<Frame>) {
    let _ = (k, frame);
}
