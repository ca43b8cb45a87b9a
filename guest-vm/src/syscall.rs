//! System calls: dispatch by the numbers of i386 Linux, and the null call with the copies its class makes.
//!
//! Every number without a body here is a null call: entry, the bytes the mailbox names copied from and to user memory, exit.
//! Copies go through one kernel page, as a pipe's or a stat buffer's do; the page cache is not read.
//! What the recording says is expected: if the mailbox carries a result (any value but NO_RESULT) and the call fails, the run ends
//! with the call named. shmat returns its address in eax (the historic ipc call stores it through a pointer).
//!
//! Invariant: every path that is opened is closed before eax is written.

use crate::file;
use crate::kernel::Kernel;
use crate::layout::{File, Frame};
use crate::mailbox::mailbox;
use crate::mm::madvise::sys_madvise;
use crate::mm::mlock::{Lock, sys_mlock};
use crate::mm::mmap::{Request, sys_mmap2};
use crate::mm::mprotect::sys_mprotect;
use crate::mm::mremap::{self, sys_mremap};
use crate::mm::munmap::sys_munmap;
use crate::mm::{Errno, brk, exec, exit, fork, fremap, shm};
use crate::page_cache::truncate::vmtruncate;
use crate::page_cache::write;
use crate::ptr::{Kmapped, Low};
use crate::swap::swapoff;
use crate::task::tasks;
use crate::uaccess::{copy_from_user, copy_to_user};
use crate::writeback::sync;
use lowmem_abi::call;
use lowmem_abi::layout::{PAGE_SHIFT, PAGE_SIZE};
use lowmem_abi::mailbox::NO_RESULT;
use lowmem_abi::port::ReportKind;
use lowmem_abi::probe::Probe;

/// Carries out the call in `frame` (number in orig_eax, arguments in ebx to ebp), its result in eax.
pub fn dispatch<K: Kernel>(k: K, frame: Low<Frame>) {
    let nr = frame.orig_eax(k);
    let result = match nr {
        call::EXIT | call::EXIT_GROUP => {
            exit::sys_exit(k);
            return;
        }
        call::FORK | call::VFORK | call::CLONE => path(k, Probe::Fork, |k| forks(k, frame, nr)),
        // exec opens its own paths: tear-down and mappings.
        call::EXECVE => exec::sys_execve(k, frame),
        call::MMAP2
        | call::MUNMAP
        | call::MPROTECT
        | call::MREMAP
        | call::BRK
        | call::MADVISE
        | call::MLOCK
        | call::MUNLOCK
        | call::REMAP_FILE_PAGES
        | call::SWAPON
        | call::SWAPOFF
        | call::IPC => path(k, Probe::Mmap, |k| address_space(k, frame, nr)),
        call::PWRITE64 => path(k, Probe::Copy, |k| pwrite(k, frame)),
        call::FSYNC | call::FDATASYNC => path(k, Probe::Writeback, |k| {
            with_file(k, frame.ebx(k), |file| {
                sync::fsync(k, file.f_mapping(k));
                Ok(0)
            })
        }),
        call::FTRUNCATE64 => path(k, Probe::Mmap, |k| ftruncate(k, frame)),
        _ => path(k, Probe::NullCall, |k| null_call(k)),
    };
    let eax = match result {
        Ok(v) => v,
        Err(e) => {
            if mailbox(k).result(k) != NO_RESULT {
                k.fatal(ReportKind::CallFailed, nr, e as u32, frame.ebx(k));
            }
            e.in_eax()
        }
    };
    frame.set_eax(k, eax);
}

#[inline(always)]
fn path<K: Kernel, R, F: FnOnce(K) -> R>(k: K, probe: Probe, f: F) -> R {
    k.begin(probe);
    let r = f(k);
    k.end(probe);
    r
}

fn forks<K: Kernel>(k: K, frame: Low<Frame>, nr: u32) -> Result<u32, Errno> {
    match nr {
        call::FORK => fork::sys_fork(k, frame),
        call::VFORK => fork::sys_vfork(k, frame),
        _ => fork::sys_clone(k, frame, frame.ebx(k), frame.ecx(k)),
    }
}

fn address_space<K: Kernel>(k: K, f: Low<Frame>, nr: u32) -> Result<u32, Errno> {
    let (a, b, c) = (f.ebx(k), f.ecx(k), f.edx(k));
    match nr {
        call::MMAP2 => {
            let r = Request {
                addr: a,
                len: b,
                prot: c,
                flags: f.esi(k),
                file: Low::NULL,
                ops: 0,
                pgoff: f.ebp(k),
            };
            sys_mmap2(k, r, f.edi(k))
        }
        call::MUNMAP => sys_munmap(k, a, b),
        call::MPROTECT => sys_mprotect(k, a, b, c),
        call::MREMAP => {
            let r = mremap::Request {
                addr: a,
                old_len: b,
                new_len: c,
                flags: f.esi(k),
                new_addr: f.edi(k),
            };
            sys_mremap(k, r)
        }
        call::BRK => {
            let end = brk::sys_brk(k, a);
            let recorded = mailbox(k).result(k);
            if recorded != NO_RESULT && recorded != end {
                return Err(Errno::Enomem);
            }
            Ok(end)
        }
        call::SWAPON => swapoff::sys_swapon(k),
        call::SWAPOFF => swapoff::sys_swapoff(k),
        call::MADVISE => sys_madvise(k, a, b, c),
        call::MLOCK => sys_mlock(k, a, b, Lock::On),
        call::MUNLOCK => sys_mlock(k, a, b, Lock::Off),
        call::REMAP_FILE_PAGES => {
            let r = fremap::Request {
                start: a,
                size: b,
                prot: c,
                pgoff: f.esi(k),
                flags: f.edi(k),
            };
            fremap::sys_remap_file_pages(k, r)
        }
        _ => ipc(k, f, a & 0xffff),
    }
}

fn ipc<K: Kernel>(k: K, f: Low<Frame>, what: u32) -> Result<u32, Errno> {
    match what {
        call::IPC_SHMGET => shm::sys_shmget(k),
        call::IPC_SHMAT => shm::sys_shmat(k, f.edx(k), f.edi(k)),
        call::IPC_SHMDT => shm::sys_shmdt(k, f.edi(k)),
        // IPC_RMID is command 0; others do not concern memory.
        call::IPC_SHMCTL if f.edx(k) & 0xff == 0 => shm::sys_shm_remove(k),
        _ => null_call(k),
    }
}

/// Runs `f` with a reference to the file `id`.
fn with_file<K: Kernel>(
    k: K,
    id: u32,
    f: impl FnOnce(Low<File>) -> Result<u32, Errno>,
) -> Result<u32, Errno> {
    if id >= file::FIRST_SHARED {
        return Err(Errno::Einval);
    }
    let file = file::fget(k, id)?;
    let result = f(file);
    file::fput(k, file);
    result
}

/// pwrite64: the position's high word is in edi.
fn pwrite<K: Kernel>(k: K, f: Low<Frame>) -> Result<u32, Errno> {
    let (low, high) = (f.esi(k), f.edi(k));
    let r = write::Request {
        from: f.ecx(k),
        bytes: f.edx(k),
        index: low >> PAGE_SHIFT | high << (32 - PAGE_SHIFT),
        offset: low & (PAGE_SIZE - 1),
    };
    let pages = (r.offset as u64 + r.bytes as u64).div_ceil(PAGE_SIZE as u64) as u32;
    if r.bytes > i32::MAX as u32 || high >= 1 << PAGE_SHIFT || r.index.checked_add(pages).is_none()
    {
        return Err(Errno::Einval);
    }
    with_file(k, f.ebx(k), |file| write::file_write(k, file, r))
}

/// ftruncate64, to whole pages.
fn ftruncate<K: Kernel>(k: K, f: Low<Frame>) -> Result<u32, Errno> {
    let (low, high) = (f.ecx(k), f.edx(k));
    if high >= 1 << PAGE_SHIFT {
        return Err(Errno::Einval);
    }
    let whole = low >> PAGE_SHIFT | high << (32 - PAGE_SHIFT);
    let first = whole.saturating_add((low & (PAGE_SIZE - 1) != 0) as u32);
    with_file(k, f.ebx(k), |file| {
        vmtruncate(k, file.f_mapping(k), file.id(k), first);
        Ok(0)
    })
}

/// A call without effect on memory but its copies.
fn null_call<K: Kernel>(k: K) -> Result<u32, Errno> {
    let m = mailbox(k);
    let (bytes_in, bytes_out) = (m.copy_in_bytes(k), m.copy_out_bytes(k));
    if bytes_in != 0 {
        path(k, Probe::Copy, |k| copy_in(k, m.copy_in_addr(k), bytes_in))?;
    }
    if bytes_out != 0 {
        path(k, Probe::Copy, |k| {
            copy_out(k, m.copy_out_addr(k), bytes_out)
        })?;
    }
    Ok(0)
}

fn copy_in<K: Kernel>(k: K, user: u32, bytes: u32) -> Result<(), Errno> {
    let page = Kmapped(tasks(k).copy_in_page(k));
    let mut done = 0;
    while done < bytes {
        let n = chunk(bytes - done);
        copy_from_user(k, page, user.wrapping_add(done), n).map_err(|_| Errno::Efault)?;
        done += n;
    }
    Ok(())
}

fn copy_out<K: Kernel>(k: K, user: u32, bytes: u32) -> Result<(), Errno> {
    let page = Kmapped(tasks(k).copy_out_page(k));
    // Something that depends on the operation, so that a copy to the wrong place shows in the memory hash.
    k.kwrite(page, mailbox(k).operation(k) | 1);
    let mut done = 0;
    while done < bytes {
        let n = chunk(bytes - done);
        copy_to_user(k, user.wrapping_add(done), page, n).map_err(|_| Errno::Efault)?;
        done += n;
    }
    Ok(())
}

/// At most a page at a time.
#[inline(always)]
fn chunk(left: u32) -> u32 {
    if left > 4096 { 4096 } else { left }
}
