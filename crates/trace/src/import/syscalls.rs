//! System call numbers, and the bytes that the class of a call copies.
//!
//! perf's `raw_syscalls` give numbers without arguments. Numbers of x86-64 recordings are translated to those of i386
//! (`arch/x86/entry/syscalls/syscall_32.tbl` and `syscall_64.tbl` of Linux 6.x name both).
//! Bytes: structures have their i386 sizes; what depends on cut arguments (lengths of reads, writes and paths) is an
//! *assumption*, marked below.
//!
//! Left out: what a call reads of its own stack or writes with a signal frame.

/// Assumption: bytes a read or write copies, where the recording has no arguments.
pub const IO_BYTES: u32 = 1024;
/// Assumption: length of a path with its end.
pub const PATH_BYTES: u32 = 32;

/// Whose numbers a recording uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// i386.
    I386,
    /// x86-64.
    Amd64,
}

/// (name, i386 number, x86-64 number or `NONE`) of the calls that strace prints (classes memory, process, ipc)
/// and of those that 64-bit programs make most.
const NUMBERS: &[(&str, u32, u32)] = &[
    ("read", 3, 0),
    ("write", 4, 1),
    ("open", 5, 2),
    ("close", 6, 3),
    ("stat", 195, 4),
    ("fstat", 197, 5),
    ("lstat", 196, 6),
    ("poll", 168, 7),
    ("lseek", 19, 8),
    ("mmap2", 192, NONE),
    ("mmap", 192, 9),
    ("old_mmap", 90, NONE),
    ("mprotect", 125, 10),
    ("munmap", 91, 11),
    ("brk", 45, 12),
    ("rt_sigaction", 174, 13),
    ("rt_sigprocmask", 175, 14),
    ("rt_sigreturn", 173, 15),
    ("ioctl", 54, 16),
    ("pread64", 180, 17),
    ("pwrite64", 181, 18),
    ("readv", 145, 19),
    ("writev", 146, 20),
    ("access", 33, 21),
    ("pipe", 42, 22),
    ("select", 142, 23),
    ("sched_yield", 158, 24),
    ("mremap", 163, 25),
    ("msync", 144, 26),
    ("mincore", 218, 27),
    ("madvise", 219, 28),
    ("shmget", 395, 29),
    ("shmat", 397, 30),
    ("shmctl", 396, 31),
    ("dup", 41, 32),
    ("dup2", 63, 33),
    ("nanosleep", 162, 35),
    ("getpid", 20, 39),
    ("clone", 120, 56),
    ("fork", 2, 57),
    ("vfork", 190, 58),
    ("execve", 11, 59),
    ("exit", 1, 60),
    ("wait4", 114, 61),
    ("waitpid", 7, NONE),
    ("kill", 37, 62),
    ("uname", 122, 63),
    ("semget", 393, 64),
    ("semctl", 394, 66),
    ("shmdt", 398, 67),
    ("msgget", 399, 68),
    ("msgsnd", 400, 69),
    ("msgrcv", 401, 70),
    ("msgctl", 402, 71),
    ("fcntl", 221, 72),
    ("ftruncate", 194, 77),
    ("getcwd", 183, 79),
    ("chdir", 12, 80),
    ("mkdir", 39, 83),
    ("unlink", 10, 87),
    ("readlink", 85, 89),
    ("gettimeofday", 78, 96),
    ("getrlimit", 191, 97),
    ("getrusage", 77, 98),
    ("sysinfo", 116, 99),
    ("getuid", 199, 102),
    ("getgid", 200, 104),
    ("geteuid", 201, 107),
    ("getegid", 202, 108),
    ("getppid", 64, 110),
    ("sigaltstack", 186, 131),
    ("statfs", 268, 137),
    ("mlock", 150, 149),
    ("munlock", 151, 150),
    ("mlockall", 152, 151),
    ("munlockall", 153, 152),
    ("prctl", 172, 157),
    ("arch_prctl", 384, 158),
    ("gettid", 224, 186),
    ("tkill", 238, 200),
    ("futex", 240, 202),
    ("sched_getaffinity", 242, 204),
    ("remap_file_pages", 257, 216),
    ("getdents64", 220, 217),
    ("set_tid_address", 258, 218),
    ("fadvise64", 250, 221),
    ("clock_gettime", 265, 228),
    ("clock_getres", 266, 229),
    ("clock_nanosleep", 267, 230),
    ("exit_group", 252, 231),
    ("tgkill", 270, 234),
    ("waitid", 284, 247),
    ("openat", 295, 257),
    ("newfstatat", 300, 262),
    ("set_robust_list", 311, 273),
    ("dup3", 330, 292),
    ("pipe2", 331, 293),
    ("prlimit64", 340, 302),
    ("getrandom", 355, 318),
    ("execveat", 358, 322),
    ("mlock2", 376, 325),
    ("statx", 383, 332),
    ("rseq", 386, 334),
    ("clone3", 435, 435),
];

const NONE: u32 = u32::MAX;

/// The number of a call in the recording's own numbering.
#[must_use]
pub fn recorded_number(name: &str, abi: Abi) -> Option<u32> {
    let row = NUMBERS.iter().find(|r| r.0 == name)?;
    let nr = match abi {
        Abi::I386 => row.1,
        Abi::Amd64 => row.2,
    };
    (nr != NONE).then_some(nr)
}

/// The i386 number of a recorded one; [`crate::Call::FOREIGN`] plus the number where i386 has no such call
/// or the table does not know it.
#[must_use]
pub fn i386_number(nr: u32, abi: Abi) -> u32 {
    match abi {
        Abi::I386 => nr,
        Abi::Amd64 => NUMBERS
            .iter()
            .find(|r| r.2 == nr)
            .map_or(crate::Call::FOREIGN.saturating_add(nr), |r| r.1),
    }
}

/// `ipc`, the one number that carried all System V calls before 5.1 gave each its own.
const IPC: u32 = 117;

/// Whether a perf record of `nr` may be the call that strace printed with the number `printed`: strace
/// decodes `ipc`.
#[must_use]
pub const fn is_same_call(nr: u32, printed: u32, abi: Abi) -> bool {
    let ipc = matches!(abi, Abi::I386) && nr == IPC && printed >= 393 && printed <= 402;
    nr == printed || ipc
}

/// Bytes copied (from user memory, to user memory) by a call with that i386 number.
#[must_use]
pub const fn copied_bytes(nr: u32) -> (u32, u32) {
    match nr {
        // read, pread64, readv; recv is in socketcall
        3 | 180 | 145 | 371 => (0, IO_BYTES),
        4 | 181 | 146 | 369 => (IO_BYTES, 0),
        // calls with one path: open, unlink, chdir, access, mkdir, rmdir, openat, ...
        5 | 10 | 12 | 14 | 15 | 33 | 39 | 40 | 61 | 94 | 295 | 296 | 301 | 307 | 439 => {
            (PATH_BYTES, 0)
        }
        // two paths: link, rename, symlink
        9 | 38 | 83 | 302 | 303 | 304 | 353 => (2 * PATH_BYTES, 0),
        // readlink, readlinkat
        85 | 305 => (PATH_BYTES, PATH_BYTES),
        // stat64, lstat64, fstatat64: struct stat64 has 96 bytes; fstat64 takes no path
        195 | 196 | 300 => (PATH_BYTES, 96),
        197 => (0, 96),
        // statfs64 (84 bytes), fstatfs64
        268 => (PATH_BYTES, 84),
        269 => (0, 84),
        // statx: struct statx has 256 bytes
        383 => (PATH_BYTES, 256),
        // pipe, pipe2
        42 | 331 => (0, 8),
        // ioctl: struct termios (36 bytes) is the usual one
        54 => (0, 36),
        // sigaction: 20 bytes each way
        67 | 174 => (20, 20),
        // rt_sigprocmask, sigaltstack (12)
        175 => (8, 8),
        186 => (12, 12),
        // gettimeofday, clock_gettime, clock_getres, getrlimit, llseek
        78 | 265 | 266 | 191 | 140 => (0, 8),
        // nanosleep, clock_nanosleep
        162 | 267 => (8, 0),
        // the same with 64-bit time: struct __kernel_timespec has 16 bytes
        403 | 406 => (0, 16),
        407 => (16, 0),
        // time
        13 => (0, 4),
        // times (16), getrusage (72), sysinfo (64)
        43 => (0, 16),
        77 => (0, 72),
        116 => (0, 64),
        // wait4, waitpid: the status
        7 | 114 => (0, 4),
        // uname: six fields of 65
        122 => (0, 390),
        // select (three sets of 128 bytes at most: assumed 16 each), poll (two descriptors), ppoll, pselect6
        142 | 308 | 413 => (48, 48),
        168 | 309 | 414 => (16, 16),
        // epoll_ctl (12), epoll_wait (one event)
        255 => (12, 0),
        256 | 319 => (0, 12),
        // getcwd, getdents, getdents64
        183 => (0, PATH_BYTES),
        141 | 220 => (0, IO_BYTES),
        // setitimer (16 each way)
        104 => (16, 16),
        // socketcall: its argument block; socket calls of their own number
        102 => (12, 0),
        361 | 362 | 364 => (16, 0),
        367 | 368 => (0, 16),
        366 | 365 => (4, 4),
        // sendto, sendmsg, recvfrom, recvmsg: assumed like write and read
        370 => (IO_BYTES, 0),
        372 => (0, IO_BYTES),
        // futex: the word
        240 | 422 => (4, 0),
        // sched_getaffinity: one word; prlimit64: 16 each way; getrandom: 16 assumed
        242 => (0, 4),
        340 => (16, 16),
        355 => (0, 16),
        // prctl(PR_SET_NAME): 16
        172 => (16, 0),
        // sigreturn: struct sigframe without FPU state, rt_sigreturn with siginfo
        119 => (88, 0),
        173 => (232, 0),
        // exec's strings and set_thread_area's descriptor (16 bytes)
        11 | 358 => (PATH_BYTES, 0),
        243 => (16, 16),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways() {
        assert_eq!(recorded_number("mmap", Abi::Amd64), Some(9));
        assert_eq!(recorded_number("mmap2", Abi::I386), Some(192));
        assert_eq!(recorded_number("nosuch", Abi::I386), None);
        assert_eq!(i386_number(231, Abi::Amd64), 252);
        assert_eq!(i386_number(999, Abi::Amd64), 0x1_0000 + 999);
        assert_eq!(i386_number(999, Abi::I386), 999);
    }

    #[test]
    fn no_name_and_no_number_is_listed_twice() {
        for (i, a) in NUMBERS.iter().enumerate() {
            for b in &NUMBERS[i + 1..] {
                assert_ne!(a.0, b.0);
                assert!(a.2 == NONE || a.2 != b.2, "{} {}", a.0, b.0);
            }
        }
    }
}
