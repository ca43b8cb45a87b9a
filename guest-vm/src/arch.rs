//! GDT, IDT, TSS and the stack a user-mode entry lands on. (skeleton: the public signatures are stable)

use crate::kernel::Kernel;
use crate::layout::ThreadInfo;
use crate::ptr::Low;

/// Kernel code selector (2.6's GDT).
pub const KERNEL_CS: u32 = 0x60;
/// Kernel data selector.
pub const KERNEL_DS: u32 = 0x68;
/// User code selector, RPL 3.
pub const USER_CS: u32 = 0x73;
/// User data selector, RPL 3.
pub const USER_DS: u32 = 0x7b;
/// TSS selector.
pub const TSS: u32 = 0x80;
/// Bytes of a kernel stack.
pub const THREAD_SIZE: u32 = 8192;

/// Makes the next entry from user mode land on `ti`'s stack: esp0 of the TSS; 4G/4G also maps the stack's pages into the
/// virtual-stack slots where they differ and sets `virtual_stack` (part of __switch_to).
pub fn load_esp0<K: Kernel>(k: K, ti: Low<ThreadInfo>) {
    let _ = (k, ti);
}

/// Physical address of the kernel's own page-directory pointers (swapper_pg_dir).
pub fn swapper_pg_dir<K: Kernel>(k: K) -> u32 {
    let _ = k;
    0
}
