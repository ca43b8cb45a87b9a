//! System-call numbers: those of i386 Linux (arch/i386/kernel/entry.S of 2.6), so that recordings need no mapping.
//!
//! Arguments are in ebx, ecx, edx, esi, edi, ebp as there. File descriptors are replaced by file ids of the trace
//! (`NO_FILE` for none); `mmap2` takes its offset in pages. Every number without a body of its own is a null call: entry,
//! the copies the mailbox asks for, exit.

/// exit(status).
pub const EXIT: u32 = 1;
/// fork().
pub const FORK: u32 = 2;
/// read: a null call with a copy to user memory.
pub const READ: u32 = 3;
/// write: a null call with a copy from user memory.
pub const WRITE: u32 = 4;
/// waitpid: a null call.
pub const WAITPID: u32 = 7;
/// execve: what to map is in the mailbox.
pub const EXECVE: u32 = 11;
/// getpid: the null call of benchmarks.
pub const GETPID: u32 = 20;
/// brk(address).
pub const BRK: u32 = 45;
/// swapon: the one device may be used again.
pub const SWAPON: u32 = 87;
/// swapoff: everything is read back from the one device.
pub const SWAPOFF: u32 = 115;
/// munmap(address, length).
pub const MUNMAP: u32 = 91;
/// ipc(call, first, second, third, ptr, fifth): SHMAT 21, SHMDT 22, SHMGET 23, SHMCTL 24.
pub const IPC: u32 = 117;
/// clone(flags, stack): CLONE_VM shares the mm.
pub const CLONE: u32 = 120;
/// mprotect(address, length, prot).
pub const MPROTECT: u32 = 125;
/// mlock(address, length).
pub const MLOCK: u32 = 150;
/// munlock(address, length).
pub const MUNLOCK: u32 = 151;
/// mremap(old, old_len, new_len, flags, new_addr).
pub const MREMAP: u32 = 163;
/// vfork().
pub const VFORK: u32 = 190;
/// fsync(file id).
pub const FSYNC: u32 = 118;
/// fdatasync(file id).
pub const FDATASYNC: u32 = 148;
/// pwrite64(file id, buffer, bytes, position low, position high).
pub const PWRITE64: u32 = 181;
/// mmap2(address, length, prot, flags, file id, page offset).
pub const MMAP2: u32 = 192;
/// ftruncate64(file id, length low, length high).
pub const FTRUNCATE64: u32 = 194;
/// madvise(address, length, advice).
pub const MADVISE: u32 = 219;
/// exit_group(status).
pub const EXIT_GROUP: u32 = 252;
/// remap_file_pages(address, length, prot, page offset, flags).
pub const REMAP_FILE_PAGES: u32 = 257;

/// ipc: shmat.
pub const IPC_SHMAT: u32 = 21;
/// ipc: shmdt.
pub const IPC_SHMDT: u32 = 22;
/// ipc: shmget.
pub const IPC_SHMGET: u32 = 23;
/// ipc: shmctl(IPC_RMID).
pub const IPC_SHMCTL: u32 = 24;

/// clone: share the mm.
pub const CLONE_VM: u32 = 0x100;
/// clone: parent sleeps until exec or exit.
pub const CLONE_VFORK: u32 = 0x4000;
