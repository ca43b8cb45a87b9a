//! remap_file_pages (mm/fremap.c of 2.6.7), by the plain rule: the range's ptes are made to show other pages of the same object.
//!
//! Needs a shared vma with a populate method that holds the whole range, and prot 0. The first non-linear use moves the vma from its
//! file's tree to the list of nonlinear vmas, for good; then every page of the range is populated (blocking: what is not
//! cached is read), with mmap_sem downgraded to reading.
//!
//! Invariant: a vma with VM_NONLINEAR is on its file's nonlinear list and not in the tree.

use crate::kernel::Kernel;
use crate::layout::{Vma, vm};
use crate::mm::vma::find_vma;
use crate::mm::{Errno, current_mm};
use crate::page_cache::{can_populate, populate};
use crate::ptr::Low;
use crate::rmap::file::i_mmap_make_nonlinear;

/// The call's arguments.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// First address.
    pub start: u32,
    /// Bytes.
    pub size: u32,
    /// Must be 0.
    pub prot: u32,
    /// Page of the object to appear at `start`.
    pub pgoff: u32,
    /// MAP_NONBLOCK is taken as blocking: nothing is in flight here.
    pub flags: u32,
}

/// remap_file_pages(address, length, prot, page offset, flags).
pub fn sys_remap_file_pages<K: Kernel>(k: K, r: Request) -> Result<u32, Errno> {
    let start = r.start & !0xfff;
    let size = r.size & !0xfff;
    let Some(end) = start.checked_add(size) else {
        return Err(Errno::Einval);
    };
    if r.prot != 0 || size == 0 || r.pgoff.checked_add(size >> 12).is_none() {
        return Err(Errno::Einval);
    }
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let vma = find_vma(k, mm, start);
    if !accepts(k, vma, start, end) {
        mm.mmap_sem(k).up_write(k);
        return Err(Errno::Einval);
    }
    make_nonlinear(k, vma, &r);
    mm.mmap_sem(k).downgrade_write(k);
    let populated = populate(k, vma, start, size, r.pgoff);
    mm.mmap_sem(k).up_read(k);
    populated?;
    Ok(0)
}

/// Whether `vma` holds the range and can be remapped.
fn accepts<K: Kernel>(k: K, vma: Low<Vma>, start: u32, end: u32) -> bool {
    !vma.is_null()
        && vma.flags(k) & vm::SHARED != 0
        && can_populate(k, vma)
        && start >= vma.start(k)
        && end <= vma.end(k)
        // Of a linear vma the word must be free: it becomes reclaim's cursor.
        && (vma.private(k) == 0 || vma.flags(k) & vm::NONLINEAR != 0)
}

/// Marks the vma unless the request is where the pages are anyway.
fn make_nonlinear<K: Kernel>(k: K, vma: Low<Vma>, r: &Request) {
    let linear = vma
        .pgoff(k)
        .wrapping_add(((r.start & !0xfff) - vma.start(k)) >> 12);
    if r.pgoff != linear && vma.flags(k) & vm::NONLINEAR == 0 {
        i_mmap_make_nonlinear(k, vma);
    }
}
