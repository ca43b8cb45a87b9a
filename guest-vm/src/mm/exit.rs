//! exit (body follows).

use crate::kernel::Kernel;
use crate::layout::Mm;
use crate::ptr::Low;

/// Unmaps and frees everything of an mm without users.
pub fn exit_mmap<K: Kernel>(k: K, mm: Low<Mm>) {
    crate::bug_on!(k, Exit, true, mm.va())
}
