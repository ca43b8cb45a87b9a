//! The mailbox: what the trace source tells the kernel before it enters it (decision D2).
//!
//! The guest reads it as a real kernel would read its run queue, an ELF header or a file descriptor table. Task ids
//! are dense indices of the trace's threads, starting at 1; 0 is the idle task.

use crate::layout;

/// At physical [`layout::MAILBOX`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mailbox {
    /// Task that must run when the kernel next returns to user mode.
    pub next: u32,
    /// Written by the guest: the task that runs.
    pub current: u32,
    /// Id of the task that the coming fork, vfork or clone makes.
    pub child: u32,
    /// Recorded result of the coming mmap, mremap, shmat or brk, or [`NO_RESULT`].
    pub result: u32,
    /// Trace clock: recorded operations so far, in ticks of 1/1024; the only time VM policy sees.
    pub clock: u32,
    /// Bytes the coming call copies from user memory, and from where.
    pub copy_in_addr: u32,
    /// See `copy_in_addr`.
    pub copy_in_bytes: u32,
    /// Bytes the coming call copies to user memory, and where to.
    pub copy_out_addr: u32,
    /// See `copy_out_addr`.
    pub copy_out_bytes: u32,
    /// Exec: entries in the list at [`EXEC_LIST`].
    pub exec_count: u32,
    /// Exec: where brk starts.
    pub exec_brk: u32,
    /// Exec: top of the stack.
    pub exec_stack_top: u32,
    /// Exec, fork: lowest and first user instruction address (EIP of the first frame).
    pub exec_entry: u32,
    /// SysV: segment named by the coming shmget, shmat or shmdt, and its pages.
    pub shm_segment: u32,
    /// See `shm_segment`.
    pub shm_pages: u32,
    /// Number of the operation, for messages.
    pub operation: u32,
    /// 1: the task sleeps before it goes on although it is its own successor: schedule to idle and back (CR3 kept).
    pub via_idle: u32,
    /// Unmap probe ([`crate::boot::VECTOR_UNMAP`]): the frame to unmap.
    pub unmap_pfn: u32,
    /// Unmap probe: outcome, written by the guest: 1 success, 2 again, 3 fail, 4 not a candidate.
    pub unmap_outcome: u32,
}

/// No recorded result: the kernel uses what it found.
pub const NO_RESULT: u32 = 0xffff_ffff;

/// Physical address of the exec list.
pub const EXEC_LIST: u32 = layout::MAILBOX + 0x100;
/// Most mappings an exec list can hold.
pub const EXEC_LIST_MAX: u32 = (layout::MAILBOX_END - EXEC_LIST) / 24;

/// One mapping that exec makes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExecMapping {
    /// First address.
    pub start: u32,
    /// First address behind it.
    pub end: u32,
    /// PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4.
    pub prot: u32,
    /// Flags of mmap (MAP_SHARED 1, MAP_PRIVATE 2, MAP_ANONYMOUS 0x20, MAP_GROWSDOWN 0x100).
    pub flags: u32,
    /// File id, or [`NO_FILE`].
    pub file: u32,
    /// Offset in the file, in pages.
    pub pgoff: u32,
}

/// Anonymous.
pub const NO_FILE: u32 = 0xffff_ffff;

const _: () = assert!(core::mem::size_of::<Mailbox>() <= 0x100);
const _: () = assert!(core::mem::size_of::<ExecMapping>() == 24);
