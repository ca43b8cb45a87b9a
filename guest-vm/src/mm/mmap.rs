//! mmap: the search for free addresses and do_mmap_pgoff (mm/mmap.c of 2.6.7).
//!
//! A replay carries the address the recorded kernel chose: the search is carried out and charged, then the recorded
//! address is taken (decision D2); `free_area_cache` keeps what this kernel's own search left there, so that
//! its next search starts where the historic one would have. An occupied recorded address ends the run. MAP_POPULATE faults its
//! pages in for every mapping, as recorded kernels did (2.6.7 only for shared ones). Left out: limits, file modes
//! (a shared file mapping is taken to be of a file opened for writing: an assumption), deny-write.
//!
//! Invariant: total_vm is the sum of the lengths of all vmas, in pages.

use crate::file;
use crate::kernel::{Kernel, Oom};
use crate::layout::{File, Mm, Vma, vm, vm_ops};
use crate::mailbox::mailbox;
use crate::mm::fault::make_pages_present;
use crate::mm::merge::{Area, vma_merge};
use crate::mm::munmap::do_munmap;
use crate::mm::vma::{
    Linked, Place, acct_memory, find_vma, find_vma_prepare, unacct_memory, vma_alloc, vma_discard,
    vma_link,
};
use crate::mm::{Errno, MAX_MAP_COUNT, current_mm, page_align, task_size, unmapped_base};
use crate::pgtable::prot_of;
use crate::ptr::Low;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::port::ReportKind;

/// MAP_SHARED.
pub const MAP_SHARED: u32 = 0x01;
/// MAP_FIXED.
pub const MAP_FIXED: u32 = 0x10;
/// MAP_ANONYMOUS.
pub const MAP_ANONYMOUS: u32 = 0x20;
/// MAP_GROWSDOWN.
pub const MAP_GROWSDOWN: u32 = 0x100;
/// MAP_LOCKED.
pub const MAP_LOCKED: u32 = 0x2000;
/// MAP_NORESERVE.
pub const MAP_NORESERVE: u32 = 0x4000;
/// MAP_POPULATE.
pub const MAP_POPULATE: u32 = 0x8000;

/// What a mapping is to be.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Hint, or with MAP_FIXED the address.
    pub addr: u32,
    /// Bytes.
    pub len: u32,
    /// PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4 (the values of vm_flags).
    pub prot: u32,
    /// MAP_*.
    pub flags: u32,
    /// The object, or null.
    pub file: Low<File>,
    /// Its vm_operations, see [`vm_ops`].
    pub ops: u32,
    /// First page of it.
    pub pgoff: u32,
}

/// mmap2: takes its file by id, its result from the mailbox.
pub fn sys_mmap2<K: Kernel>(k: K, r: Request, file_id: u32) -> Result<u32, Errno> {
    let mut r = r;
    if file_id != NO_FILE {
        r.file = file::fget(k, file_id)?;
        r.ops = file::vm_ops(k, r.file);
    }
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let result = do_mmap(k, mm, &r, mailbox(k).result(k));
    mm.mmap_sem(k).up_write(k);
    if !r.file.is_null() {
        file::fput(k, r.file);
    }
    result
}

/// Where a mapping of `len` bytes can go (arch_get_unmapped_area): the hint if free, else the first hole from free_area_cache
/// on, else from the start.
pub fn get_unmapped_area<K: Kernel>(k: K, mm: Low<Mm>, hint: u32, len: u32) -> Result<u32, Errno> {
    let limit = task_size(k);
    if len > limit {
        return Err(Errno::Enomem);
    }
    let hint = page_align(hint);
    if hint != 0 {
        let vma = find_vma(k, mm, hint);
        if limit - len >= hint && (vma.is_null() || hint + len <= vma.start(k)) {
            return Ok(hint);
        }
    }
    let base = unmapped_base(k);
    let mut from = mm.free_area_cache(k);
    loop {
        let mut addr = from;
        let mut vma = find_vma(k, mm, addr);
        loop {
            if limit - len < addr {
                break;
            }
            if vma.is_null() || addr + len <= vma.start(k) {
                mm.set_free_area_cache(k, addr + len);
                return Ok(addr);
            }
            addr = vma.end(k);
            vma = vma.next(k);
        }
        if from == base {
            return Err(Errno::Enomem);
        }
        from = base;
    }
}

/// Takes the recorded address instead of `found`, if there is one; it must be free.
pub fn take_recorded<K: Kernel>(k: K, mm: Low<Mm>, found: u32, len: u32, recorded: u32) -> u32 {
    if recorded == NO_RESULT || recorded == found {
        return found;
    }
    let vma = find_vma(k, mm, recorded);
    let limit = task_size(k);
    let fits = len <= limit && recorded <= limit - len && recorded & 0xfff == 0;
    if !fits || (!vma.is_null() && vma.start(k) < recorded + len) {
        let (place, detail) = if vma.is_null() {
            (0, 0)
        } else {
            (vma.start(k), vma.end(k))
        };
        k.fatal(ReportKind::BadResult, place, detail, recorded);
    }
    recorded
}

/// vm_flags of a request (calc_vm_prot_bits, calc_vm_flag_bits, the mm's defaults).
fn flags_of<K: Kernel>(mm: Low<Mm>, k: K, r: &Request) -> u32 {
    let mut flags = r.prot & (vm::READ | vm::WRITE | vm::EXEC)
        | r.flags & (MAP_GROWSDOWN | MAP_LOCKED)
        | mm.def_flags(k)
        | vm::MAYREAD
        | vm::MAYWRITE
        | vm::MAYEXEC;
    if r.flags & MAP_SHARED != 0 {
        flags |= vm::SHARED | vm::MAYSHARE;
    }
    flags
}

/// Makes a mapping; mmap_sem is held for writing. `recorded`: its address in the recording, or NO_RESULT.
pub fn do_mmap<K: Kernel>(k: K, mm: Low<Mm>, r: &Request, recorded: u32) -> Result<u32, Errno> {
    let len = page_align(r.len);
    if len == 0 || len > task_size(k) || r.pgoff.checked_add(len >> 12).is_none() {
        return Err(Errno::Einval);
    }
    if mm.map_count(k) > MAX_MAP_COUNT {
        return Err(Errno::Enomem);
    }
    let addr = if r.flags & MAP_FIXED != 0 {
        if r.addr & 0xfff != 0 || r.addr > task_size(k) - len {
            return Err(Errno::Einval);
        }
        r.addr
    } else {
        let found = get_unmapped_area(k, mm, r.addr, len)?;
        take_recorded(k, mm, found, len, recorded)
    };
    let mut place = find_vma_prepare(k, mm, addr);
    while !place.next.is_null() && place.next.start(k) < addr + len {
        do_munmap(k, mm, addr, len)?;
        place = find_vma_prepare(k, mm, addr);
    }
    let mut flags = flags_of(mm, k, r);
    let shared = flags & vm::SHARED != 0;
    // Memory of a shared object is charged to the object, not to the vma.
    if r.flags & MAP_NORESERVE == 0 && !shared && flags & vm::WRITE != 0 {
        flags |= vm::ACCOUNT;
        acct_memory(k, len >> 12);
    }
    let mut area = Area {
        start: addr,
        end: addr + len,
        flags,
        file: r.file,
        pgoff: if r.file.is_null() && !shared {
            addr >> 12
        } else {
            r.pgoff
        },
        like: Low::NULL,
    };
    if let Err(oom) = add_area(k, mm, r, &place, &mut area) {
        if flags & vm::ACCOUNT != 0 {
            unacct_memory(k, len >> 12);
        }
        return Err(oom.into());
    }
    mm.set_total_vm(k, mm.total_vm(k).wrapping_add(len >> 12));
    if flags & vm::LOCKED != 0 {
        mm.set_locked_vm(k, mm.locked_vm(k).wrapping_add(len >> 12));
        // What cannot be faulted in (no right to) is no error here.
        let _ = make_pages_present(k, addr, addr + len);
    } else if r.flags & MAP_POPULATE != 0 {
        // What cannot be faulted in (no right to) is no error here.
        let _ = make_pages_present(k, addr, addr + len);
    }
    Ok(addr)
}

/// Lets a neighbour grow over `area`, or links a vma of its own.
fn add_area<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    r: &Request,
    place: &Place,
    area: &mut Area,
) -> Result<(), Oom> {
    let anonymous = r.file.is_null() && area.flags & vm::SHARED == 0;
    if anonymous && vma_merge(k, mm, place.prev, area)?.is_some() {
        return Ok(());
    }
    let vma = new_vma(k, mm, r, area)?;
    let merged = match r.file.is_null() {
        true => Ok(None),
        false => vma_merge(k, mm, place.prev, area),
    };
    match merged {
        Ok(None) => vma_link(k, mm, vma, place, Linked::New),
        Ok(Some(_)) => vma_discard(k, vma),
        Err(oom) => {
            vma_discard(k, vma);
            return Err(oom);
        }
    }
    Ok(())
}

/// The vma for `area`, holding its object: the file, or a new shmem object for shared anonymous memory.
fn new_vma<K: Kernel>(k: K, mm: Low<Mm>, r: &Request, area: &mut Area) -> Result<Low<Vma>, Oom> {
    let vma = vma_alloc(k, mm)?;
    vma.set_start(k, area.start);
    vma.set_end(k, area.end);
    vma.set_flags(k, area.flags);
    vma.set_page_prot(k, prot_of(area.flags).0);
    vma.set_pgoff(k, area.pgoff);
    if !r.file.is_null() {
        vma.set_file(k, r.file);
        vma.set_ops(k, r.ops);
        crate::mm::vma::vma_open(k, vma);
    } else if area.flags & vm::SHARED != 0 {
        // shmem_zero_setup: an unnamed object; offsets start where the request says, 0.
        match file::shmem_new(k) {
            Ok(f) => {
                vma.set_file(k, f);
                vma.set_ops(k, vm_ops::SHMEM);
            }
            Err(oom) => {
                vma_discard(k, vma);
                return Err(oom);
            }
        }
    }
    Ok(vma)
}
