//! SysV shared memory (ipc/shm.c of 2.6.7): segments are shmem objects; an attachment is a shared mapping whose open and close count it.
//!
//! Segments are named by the trace's dense numbers. Left out: keys, permissions, modes, SHM_HUGETLB, limits but the number of
//! segments. A vma of an attachment never merges, because it has a close method.
//!
//! Invariant: nattch equals the number of vmas that map the segment; a removed segment lives until it is 0.

use crate::bug_on;
use crate::file;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::layout::{File, Mm, Vma, vm, vm_ops};
use crate::mailbox::mailbox;
use crate::mm::mmap::{MAP_FIXED, MAP_NORESERVE, MAP_SHARED, Request, do_mmap};
use crate::mm::munmap::do_munmap;
use crate::mm::vma::find_vma;
use crate::mm::{Errno, current_mm};
use crate::page_alloc::Gfp;
use crate::ptr::Low;
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::sync::SpinLock;
use crate::task::tasks;

/// Most segments (SHMMNI).
pub const SHMMNI: u32 = 4096;
/// File id of segment 0.
pub const FIRST_SEGMENT_FILE: u32 = 0xa000_0000;
/// SHM_RDONLY.
const SHM_RDONLY: u32 = 0o10000;
/// SHM_REMAP.
const SHM_REMAP: u32 = 0o40000;
/// SHM_EXEC, younger than 2.6.8.
const SHM_EXEC: u32 = 0o100000;

guest_struct! {
    /// shmid_kernel with the header of ipc_rcu_alloc, from kmalloc: 128 bytes is an assumption, as are the offsets (the
    /// sheets have none).
    pub struct Shm [K] size 64;
    at 0 => part lock: SpinLock;
    /// Removed: goes with its last attachment (SHM_DEST).
    at 4 => word dest, set_dest: u32;
    at 8 => word file, set_file: Low<File>;
    at 12 => word id, set_id: u32;
    at 16 => word nattch, set_nattch: u32;
    at 20 => word pages, set_pages: u32;
}

fn segment<K: Kernel>(k: K, id: u32) -> Result<Low<Shm>, Errno> {
    if id >= SHMMNI {
        return Err(Errno::Einval);
    }
    match Low::<Shm>::new(tasks(k).shm(k, id)).get() {
        Some(shm) => Ok(shm),
        None => Err(Errno::Enoent),
    }
}

/// ipc(SHMGET): makes the mailbox's segment unless it exists; its number.
pub fn sys_shmget<K: Kernel>(k: K) -> Result<u32, Errno> {
    let id = mailbox(k).shm_segment(k);
    if id >= SHMMNI {
        return Err(Errno::Enospc);
    }
    let t = tasks(k);
    t.shm_lock(k).lock(k);
    let there = t.shm(k, id) != 0;
    t.shm_lock(k).unlock(k);
    if there {
        return Ok(id);
    }
    let shm: Low<Shm> = kmem_cache_alloc(k, CacheId::Size128, Gfp::Kernel)?;
    let object = match file::fget(k, FIRST_SEGMENT_FILE + id) {
        Ok(f) => f,
        Err(oom) => {
            kmem_cache_free(k, CacheId::Size128, shm);
            return Err(oom.into());
        }
    };
    shm.lock(k).init(k);
    shm.set_dest(k, 0);
    shm.set_file(k, object);
    shm.set_id(k, id);
    shm.set_nattch(k, 0);
    shm.set_pages(k, mailbox(k).shm_pages(k));
    t.shm_lock(k).lock(k);
    t.set_shm(k, id, shm.va());
    t.set_shm_in_use(k, t.shm_in_use(k).wrapping_add(1));
    t.shm_lock(k).unlock(k);
    Ok(id)
}

/// ipc(SHMAT, segment, flags, address): maps the segment; its address.
pub fn sys_shmat<K: Kernel>(k: K, flags: u32, addr: u32) -> Result<u32, Errno> {
    let m = mailbox(k);
    // A segment older than the recording is made by its first attachment.
    let id = sys_shmget(k)?;
    let shm = segment(k, id)?;
    let mut prot = vm::READ;
    if flags & SHM_RDONLY == 0 {
        prot |= vm::WRITE;
    }
    if flags & SHM_EXEC != 0 {
        prot |= vm::EXEC;
    }
    let mm = current_mm(k);
    shm.lock(k).lock(k);
    let object = shm.file(k);
    // Held across the mapping, as the historic code does.
    shm.set_nattch(k, shm.nattch(k).wrapping_add(1));
    shm.lock(k).unlock(k);
    let r = Request {
        addr,
        len: shm.pages(k) << 12,
        prot,
        flags: MAP_SHARED | MAP_NORESERVE | if addr != 0 { MAP_FIXED } else { 0 },
        file: object,
        ops: vm_ops::SHM,
        pgoff: 0,
    };
    mm.mmap_sem(k).down_write(k);
    let occupied = addr != 0 && flags & SHM_REMAP == 0 && {
        let vma = find_vma(k, mm, addr);
        !vma.is_null() && vma.start(k) < addr.wrapping_add(r.len)
    };
    let result = if occupied {
        Err(Errno::Einval)
    } else {
        do_mmap(k, mm, &r, m.result(k))
    };
    mm.mmap_sem(k).up_write(k);
    detach_one(k, shm);
    result
}

/// ipc(SHMDT, address): unmaps every vma of the attachment that began at `addr`.
pub fn sys_shmdt<K: Kernel>(k: K, addr: u32) -> Result<u32, Errno> {
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let result = detach_at(k, mm, addr);
    mm.mmap_sem(k).up_write(k);
    result.map(|()| 0)
}

fn detach_at<K: Kernel>(k: K, mm: Low<Mm>, addr: u32) -> Result<(), Errno> {
    let mut found = Err(Errno::Einval);
    let mut limit = u32::MAX;
    let mut vma = find_vma(k, mm, addr);
    while !vma.is_null() && vma.end(k) <= limit {
        let next = vma.next(k);
        let offset = vma.pgoff(k) << 12;
        let (start, end) = (vma.start(k), vma.end(k));
        if vma.ops(k) == vm_ops::SHM && start.wrapping_sub(addr) == offset {
            if found.is_err() {
                // The first part tells how long the attachment was.
                let pages = segment_of(k, vma).pages(k);
                limit = addr.wrapping_add(pages << 12);
                found = Ok(());
            }
            do_munmap(k, mm, start, end - start)?;
        }
        vma = next;
    }
    found
}

/// ipc(SHMCTL, IPC_RMID): the segment goes with its last attachment.
pub fn sys_shm_remove<K: Kernel>(k: K) -> Result<u32, Errno> {
    let shm = segment(k, mailbox(k).shm_segment(k))?;
    shm.lock(k).lock(k);
    shm.set_dest(k, 1);
    let unused = shm.nattch(k) == 0;
    shm.lock(k).unlock(k);
    if unused {
        destroy(k, shm);
    }
    Ok(0)
}

/// The segment a vma attaches, by the id of its file.
fn segment_of<K: Kernel>(k: K, vma: Low<Vma>) -> Low<Shm> {
    let id = vma.file(k).id(k).wrapping_sub(FIRST_SEGMENT_FILE);
    bug_on!(k, Shm, id >= SHMMNI, id);
    Low::new(tasks(k).shm(k, id))
}

/// vm_ops->open: one attachment more (mmap, fork, split, mremap).
pub fn open<K: Kernel>(k: K, vma: Low<Vma>) {
    let shm = segment_of(k, vma);
    shm.lock(k).lock(k);
    shm.set_nattch(k, shm.nattch(k).wrapping_add(1));
    shm.lock(k).unlock(k);
}

/// vm_ops->close: one attachment less.
pub fn close<K: Kernel>(k: K, vma: Low<Vma>) {
    detach_one(k, segment_of(k, vma));
}

fn detach_one<K: Kernel>(k: K, shm: Low<Shm>) {
    shm.lock(k).lock(k);
    let left = shm.nattch(k).wrapping_sub(1);
    shm.set_nattch(k, left);
    let last = left == 0 && shm.dest(k) != 0;
    shm.lock(k).unlock(k);
    if last {
        destroy(k, shm);
    }
}

fn destroy<K: Kernel>(k: K, shm: Low<Shm>) {
    let t = tasks(k);
    t.shm_lock(k).lock(k);
    t.set_shm(k, shm.id(k), 0);
    t.set_shm_in_use(k, t.shm_in_use(k).wrapping_sub(1));
    t.shm_lock(k).unlock(k);
    file::fput(k, shm.file(k));
    kmem_cache_free(k, CacheId::Size128, shm);
}
