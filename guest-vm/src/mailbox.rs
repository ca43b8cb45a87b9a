//! The mailbox page as guest code sees it: the words of [`lowmem_abi::mailbox::Mailbox`] and of the exec list, by
//! accessors. It stands for what a real kernel reads from its run queue, an ELF header or a descriptor table.
//!
//! Invariant: offsets equal those of the abi (checked at compile time).

use crate::guest_struct;
use crate::kernel::Kernel;
use crate::ptr::Low;
use crate::root::low_at;
use core::mem::offset_of;
use lowmem_abi::mailbox as abi;

guest_struct! {
    /// See [`lowmem_abi::mailbox::Mailbox`].
    pub struct Mailbox [K] size 76;
    at 0 => word next, set_next: u32;
    at 4 => word current, set_current: u32;
    at 8 => word child, set_child: u32;
    at 12 => word result, set_result: u32;
    at 16 => word clock, set_clock: u32;
    at 20 => word copy_in_addr, set_copy_in_addr: u32;
    at 24 => word copy_in_bytes, set_copy_in_bytes: u32;
    at 28 => word copy_out_addr, set_copy_out_addr: u32;
    at 32 => word copy_out_bytes, set_copy_out_bytes: u32;
    at 36 => word exec_count, set_exec_count: u32;
    at 40 => word exec_brk, set_exec_brk: u32;
    at 44 => word exec_stack_top, set_exec_stack_top: u32;
    at 48 => word exec_entry, set_exec_entry: u32;
    at 52 => word shm_segment, set_shm_segment: u32;
    at 56 => word shm_pages, set_shm_pages: u32;
    at 60 => word operation, set_operation: u32;
    at 64 => word via_idle, set_via_idle: u32;
    at 68 => word unmap_pfn, set_unmap_pfn: u32;
    at 72 => word unmap_outcome, set_unmap_outcome: u32;
}

const _: () = {
    assert!(offset_of!(abi::Mailbox, result) == 12);
    assert!(offset_of!(abi::Mailbox, copy_out_bytes) == 32);
    assert!(offset_of!(abi::Mailbox, exec_entry) == 48);
    assert!(offset_of!(abi::Mailbox, via_idle) == 64);
    assert!(offset_of!(abi::Mailbox, unmap_outcome) == 72);
    assert!(offset_of!(abi::ExecMapping, pgoff) == 20);
};

guest_struct! {
    /// See [`lowmem_abi::mailbox::ExecMapping`].
    pub struct ExecMapping [K] size 24;
    at 0 => word start, set_start: u32;
    at 4 => word end, set_end: u32;
    at 8 => word prot, set_prot: u32;
    at 12 => word flags, set_flags: u32;
    at 16 => word file, set_file: u32;
    at 20 => word pgoff, set_pgoff: u32;
}

/// The mailbox.
#[inline(always)]
pub fn mailbox<K: Kernel>(k: K) -> Low<Mailbox> {
    low_at(k, lowmem_abi::layout::MAILBOX)
}

/// Entry `i` of the exec list.
#[inline(always)]
pub fn exec_mapping<K: Kernel>(k: K, i: u32) -> Low<ExecMapping> {
    low_at(k, abi::EXEC_LIST.wrapping_add(i.wrapping_mul(24)))
}
