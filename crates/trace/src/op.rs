//! Operations: what a trace asks of the machine, one after the other.
//!
//! An operation is either a reference of the running task (`Touch` from a fault recording, `Fetch`,
//! `Load`, `Store`, `Modify` from a recording of every reference), a number of instructions without a
//! memory operand (`Work`), a system call (`Call`), or the end of a slice (`Switch`). Operations
//! carry no task: the running task is the target of the last `Switch`, and [`TaskId::FIRST`] before
//! the first one. The first operation of a root task is always [`Call::Exec`], which gives it
//! its address space.
//!
//! Left out: signals (a fault that ended in one is dropped at import and counted), file
//! descriptors, and the contents of memory, which the source of ring 3 derives from operation
//! number and address.
//!
//! Invariant: an [`Op`] is 16 bytes, so that a recording of every reference stays small in
//! memory; everything larger is boxed.

use serde::{Deserialize, Serialize};

/// Bytes in a page, the unit of every mapping.
pub const PAGE_SIZE: u32 = 4096;

/// The index of a thread of the trace in [`crate::Header::tasks`]; dense, in order of first appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u32);

impl TaskId {
    /// The task that runs before the first [`Op::Switch`].
    pub const FIRST: Self = Self(0);

    /// The index into a table with one row per task.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The index of a mapped file in [`crate::Header::files`]; one per (device, inode).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u32);

/// The index of a System V shared memory segment in [`crate::Header::segments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId(pub u32);

/// How a reference uses its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Access {
    /// A load.
    Read = 0,
    /// A store.
    Write = 1,
    /// An instruction fetch.
    Exec = 2,
}

/// Who faulted when the touch was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Origin {
    /// The program, in ring 3.
    User = 0,
    /// The kernel, inside a call (a copy to or from user memory, or exec clearing a bss). A replay
    /// may let the call's copy make the touch or make it from ring 3 after the call.
    Kernel = 1,
}

/// How many pages one recorded touch stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Span {
    /// Exactly the page of the address.
    Page = 0,
    /// A read fault on a file or on shared memory: the recording kernel mapped up to 16 neighbours
    /// with it (fault-around), so it stands for 1 to 16 pages of the aligned 64 KiB window.
    Around = 1,
}

/// How the slice before a [`Op::Switch`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum SliceEnd {
    /// The task went to sleep: it switches at the end of its last kernel entry.
    Sleep = 0,
    /// The task stayed runnable: a resched interrupt takes the CPU from it.
    Preempt = 1,
    /// The task is gone.
    Exit = 2,
    /// Not recorded: the slice was cut because another task's fork, wait, exec, exit or a conflicting
    /// change of a shared address space had to come first. Replayed as a preemption.
    Forced = 3,
}

/// Page protection with the values of `PROT_READ` (1), `PROT_WRITE` (2) and `PROT_EXEC` (4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Prot(pub u8);

impl Prot {
    /// No access.
    pub const NONE: Self = Self(0);
    /// Readable.
    pub const READ: Self = Self(1);
    /// Writable.
    pub const WRITE: Self = Self(2);
    /// Executable.
    pub const EXEC: Self = Self(4);
    /// Readable and writable.
    pub const RW: Self = Self(3);
    /// Readable and executable.
    pub const RX: Self = Self(5);

    /// Whether all rights of `other` are in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether an access is allowed, as an i386 page table without NX decides: any right makes
    /// a page readable and executable.
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        match access {
            Access::Read | Access::Exec => self.0 != 0,
            Access::Write => self.contains(Self::WRITE),
        }
    }
}

/// `mmap` flags with their i386 values (`include/asm-i386/mman.h`, 2.6.7).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MapFlags(pub u32);

impl MapFlags {
    /// `MAP_SHARED`.
    pub const SHARED: Self = Self(0x01);
    /// `MAP_PRIVATE`.
    pub const PRIVATE: Self = Self(0x02);
    /// `MAP_FIXED`.
    pub const FIXED: Self = Self(0x10);
    /// `MAP_ANONYMOUS`.
    pub const ANONYMOUS: Self = Self(0x20);
    /// `MAP_GROWSDOWN`.
    pub const GROWSDOWN: Self = Self(0x100);
    /// `MAP_DENYWRITE`.
    pub const DENYWRITE: Self = Self(0x800);
    /// `MAP_EXECUTABLE`.
    pub const EXECUTABLE: Self = Self(0x1000);
    /// `MAP_LOCKED`.
    pub const LOCKED: Self = Self(0x2000);
    /// `MAP_NORESERVE`.
    pub const NORESERVE: Self = Self(0x4000);
    /// `MAP_POPULATE`.
    pub const POPULATE: Self = Self(0x8000);
    /// `MAP_NONBLOCK`.
    pub const NONBLOCK: Self = Self(0x10000);

    /// Whether all flags of `other` are in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `mremap` flags: `MREMAP_MAYMOVE` (1) and `MREMAP_FIXED` (2).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct RemapFlags(pub u8);

impl RemapFlags {
    /// `MREMAP_MAYMOVE`.
    pub const MAYMOVE: Self = Self(1);
    /// `MREMAP_FIXED`.
    pub const FIXED: Self = Self(2);

    /// Whether all flags of `other` are in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What `madvise` advises. Advice that 2.6.7 does not know is [`Advice::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Advice {
    /// `MADV_NORMAL`, `MADV_RANDOM`, `MADV_SEQUENTIAL`: flags of the vma, which may split it.
    Normal = 0,
    /// `MADV_RANDOM`.
    Random = 1,
    /// `MADV_SEQUENTIAL`.
    Sequential = 2,
    /// `MADV_WILLNEED`.
    WillNeed = 3,
    /// `MADV_DONTNEED` (also `MADV_FREE`, which came in 4.5 and frees at leisure): the pages go.
    DontNeed = 4,
    /// Advice of a later kernel: entry, refusal, exit.
    Other = 5,
}

/// A place in a mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileRef {
    /// The file.
    pub file: FileId,
    /// The first page of the mapping, in pages from the start of the file (`vm_pgoff`).
    pub page_offset: u32,
}

/// What a mapping made by exec is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum MappingKind {
    /// Executable pages of a file.
    Text = 0,
    /// Other pages of a file.
    Data = 1,
    /// Anonymous memory behind the data.
    Bss = 2,
    /// The stack, which grows down.
    Stack = 3,
    /// The heap of a process that was running before the recording began.
    Heap = 4,
    /// Pages that the recording kernel lent (vdso, vvar). A 2004 kernel had one page in the fixmap
    /// instead; replayed as private anonymous memory.
    Special = 5,
    /// A shared mapping of a process that was running before the recording began.
    Shared = 6,
}

/// One mapping of an [`ExecImage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecMapping {
    /// First address, page-aligned.
    pub start: u32,
    /// Address behind the last byte, page-aligned.
    pub end: u32,
    /// Protection.
    pub prot: Prot,
    /// `MAP_PRIVATE` or `MAP_SHARED`, with `MAP_ANONYMOUS` and `MAP_GROWSDOWN` where they apply.
    pub flags: MapFlags,
    /// The mapped file, if any.
    pub file: Option<FileRef>,
    /// What it is for.
    pub kind: MappingKind,
}

/// The address space that exec builds: ELF segments of program and interpreter, bss, stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecImage {
    /// Name of the program (`comm`).
    pub name: String,
    /// The mappings, ascending and disjoint.
    pub mappings: Vec<ExecMapping>,
    /// Start of the heap (`mm->start_brk`); the byte, not rounded.
    pub brk: u32,
    /// Address behind the last byte of the stack.
    pub stack_top: u32,
}

/// A system call, with its recorded result where replay must reproduce it.
///
/// Lengths are as the program gave them, not rounded to pages. `result` is an address unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// `mmap2`. Without a file the memory is anonymous: private, or a new shared object of its own
    /// that children inherit.
    Mmap {
        /// The address asked for, 0 for none.
        hint: u32,
        /// Length in bytes.
        len: u32,
        /// Protection.
        prot: Prot,
        /// Flags.
        flags: MapFlags,
        /// The file, if any.
        file: Option<FileRef>,
        /// Where the mapping was placed.
        result: u32,
    },
    /// `munmap`.
    Munmap {
        /// First address.
        addr: u32,
        /// Length in bytes.
        len: u32,
    },
    /// `mprotect`.
    Mprotect {
        /// First address.
        addr: u32,
        /// Length in bytes.
        len: u32,
        /// The new protection.
        prot: Prot,
    },
    /// `mremap`.
    Mremap {
        /// First address of the old mapping.
        old: u32,
        /// Old length in bytes.
        old_len: u32,
        /// New length in bytes.
        new_len: u32,
        /// Flags.
        flags: RemapFlags,
        /// The address asked for with `MREMAP_FIXED`, else 0.
        new_addr: u32,
        /// Where the mapping is now.
        result: u32,
    },
    /// `brk`.
    Brk {
        /// The end of the heap asked for, 0 to ask where it is.
        addr: u32,
        /// The end of the heap after the call.
        result: u32,
    },
    /// `madvise`.
    Madvise {
        /// First address.
        addr: u32,
        /// Length in bytes.
        len: u32,
        /// The advice.
        advice: Advice,
    },
    /// `mlock`.
    Mlock {
        /// First address.
        addr: u32,
        /// Length in bytes.
        len: u32,
    },
    /// `munlock`.
    Munlock {
        /// First address.
        addr: u32,
        /// Length in bytes.
        len: u32,
    },
    /// `remap_file_pages`.
    RemapFilePages {
        /// First address, inside one shared mapping.
        addr: u32,
        /// Length in bytes.
        len: u32,
        /// The page of the file that `addr` shows from now on.
        page_offset: u32,
    },
    /// `shmget` that created or found a segment.
    Shmget {
        /// The segment.
        segment: SegmentId,
        /// Length in bytes as asked for.
        len: u32,
    },
    /// `shmat`.
    Shmat {
        /// The segment.
        segment: SegmentId,
        /// The address asked for, 0 for none.
        hint: u32,
        /// Protection that the flags give (`SHM_RDONLY` makes it read-only).
        prot: Prot,
        /// Where the segment was attached.
        result: u32,
    },
    /// `shmdt`.
    Shmdt {
        /// Where the segment was attached.
        addr: u32,
    },
    /// `fork`, or `clone` without `CLONE_VM`.
    Fork {
        /// The new task, with a copy of the address space.
        child: TaskId,
    },
    /// `vfork`, or `clone` with `CLONE_VM` and without `CLONE_THREAD`. The child shares the address
    /// space until it execs or exits; a replay may turn it into a fork ([`crate::Vfork`]).
    Vfork {
        /// The new task.
        child: TaskId,
    },
    /// `clone` of a thread: the child shares the address space for good.
    Clone {
        /// The new task.
        child: TaskId,
    },
    /// `execve` at the point of no return.
    Exec {
        /// The new address space.
        image: Box<ExecImage>,
    },
    /// `exit`, `exit_group` or death by a signal: the last operation of a task before its switch.
    Exit {},
    /// `wait4` or `waitpid` that returned. It stands where the call returned; the sleep before it is
    /// a [`SliceEnd::Sleep`] of its own.
    Wait {
        /// The child that was reaped, whose [`Call::Exit`] comes earlier.
        child: TaskId,
    },
    /// A call without effect on memory management: entry, null body, copied bytes, exit.
    Other {
        /// i386 system call number; [`Call::FOREIGN`] plus the number where i386 has none.
        nr: u32,
        /// Bytes its class copies from user memory: an assumption, see [`crate::import::syscalls`].
        bytes_in: u32,
        /// Bytes its class copies to user memory.
        bytes_out: u32,
    },
    /// A call that failed: entry, refusal, exit.
    Failed {
        /// i386 system call number, as in [`Call::Other`].
        nr: u32,
    },
    /// `pwrite64`: bytes of user memory into the cached pages of a file.
    FileWrite {
        /// The file.
        file: FileId,
        /// First byte of the file.
        position: u64,
        /// First byte of user memory.
        addr: u32,
        /// How many.
        len: u32,
    },
    /// `fsync`: every dirty page of a file to the disk, and a wait until they are there.
    Fsync {
        /// The file.
        file: FileId,
    },
    /// `ftruncate64`: what lies behind is dropped, from mappings too. Replays keep whole pages.
    Truncate {
        /// The file.
        file: FileId,
        /// The file's length in bytes from now on.
        len: u64,
    },
}

impl Call {
    /// Bytes of the largest file: 2^32 pages, less the last.
    pub const MAX_FILE_BYTES: u64 = (u32::MAX as u64) << 12;

    /// Added to the number of a call of the recording's ABI that i386 does not have.
    pub const FOREIGN: u32 = 0x1_0000;

    /// A short name for views and counters: the name of the system call.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Mmap { .. } => "mmap",
            Self::Munmap { .. } => "munmap",
            Self::Mprotect { .. } => "mprotect",
            Self::Mremap { .. } => "mremap",
            Self::Brk { .. } => "brk",
            Self::Madvise { .. } => "madvise",
            Self::Mlock { .. } => "mlock",
            Self::Munlock { .. } => "munlock",
            Self::RemapFilePages { .. } => "remap_file_pages",
            Self::Shmget { .. } => "shmget",
            Self::Shmat { .. } => "shmat",
            Self::Shmdt { .. } => "shmdt",
            Self::Fork { .. } => "fork",
            Self::Vfork { .. } => "vfork",
            Self::Clone { .. } => "clone",
            Self::Exec { .. } => "exec",
            Self::Exit {} => "exit",
            Self::Wait { .. } => "wait",
            Self::Other { .. } => "other",
            Self::Failed { .. } => "failed",
            Self::FileWrite { .. } => "file_write",
            Self::Fsync { .. } => "fsync",
            Self::Truncate { .. } => "truncate",
        }
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A recorded page fault: the first touch of a page, a copy on write, or a refault.
    Touch {
        /// The faulting address.
        va: u32,
        /// The instruction, 0 where the recording has none (faults of the kernel).
        ip: u32,
        /// How.
        access: Access,
        /// By whom.
        origin: Origin,
        /// For how many pages.
        span: Span,
    },
    /// The fetch of one instruction; data operations up to the next fetch belong to it.
    Fetch {
        /// Address of the instruction.
        va: u32,
        /// Its length in bytes.
        len: u8,
    },
    /// A load.
    Load {
        /// Address.
        va: u32,
        /// Length in bytes.
        len: u8,
    },
    /// A store.
    Store {
        /// Address.
        va: u32,
        /// Length in bytes.
        len: u8,
    },
    /// A read-modify-write.
    Modify {
        /// Address.
        va: u32,
        /// Length in bytes.
        len: u8,
    },
    /// Instructions without a memory operand.
    Work {
        /// How many.
        instructions: u32,
    },
    /// A system call.
    Call(Box<Call>),
    /// The end of the running task's slice. `to` may be the same task: to idle and back, with no
    /// change of address space.
    Switch {
        /// The task that runs next.
        to: TaskId,
        /// How the slice ended.
        how: SliceEnd,
    },
}

impl Op {
    /// Whether this operation is a recorded event and not part of the schedule.
    #[must_use]
    pub const fn is_event(&self) -> bool {
        !matches!(self, Self::Switch { .. })
    }
}

const _: () = assert!(size_of::<Op>() == 16);

impl From<Call> for Op {
    fn from(call: Call) -> Self {
        Self::Call(Box::new(call))
    }
}
