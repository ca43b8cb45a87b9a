//! User copies of 4G/4G: by software walk, because the kernel's page tables show no user memory (RHEL4 mm/usercopy.c, rw_vm;
//! fact sheet "4G/4G step by step").
//!
//! The whole loop runs under page_table_lock. For each page: walk; a write through a clean pte makes the struct page dirty
//! (the pte's Dirty bit stays as it is); mark_page_accessed; pin; kmap_atomic; copy to the page's end; unpin. An absent
//! page is faulted in with the lock dropped (get_user_pages of one page), then the walk is repeated.
//!
//! Leaves out: user pages without struct page, strings, the set_fs exception.
//! Invariant: no reference and no kmap slot outlives the copy of its page.

use crate::kernel::{CopyDir, Efault, Kernel};
use crate::kmap::{KmType, kmap_atomic, kunmap_atomic};
use crate::layout::{Mm, Page};
use crate::mm::current_mm;
use crate::mm::fault::{Access, follow_page, get_user_page};
use crate::page::{get_page, put_page};
use crate::ptr::{Kmapped, Low};
use crate::uaccess_direct::access_ok;
use lowmem_abi::layout::{PAGE_SHIFT, PAGE_SIZE};

/// See [`crate::uaccess::copy_to_user`].
pub fn copy_to_user<K: Kernel>(k: K, user: u32, from: Kmapped, bytes: u32) -> Result<(), Efault> {
    rw_vm(k, CopyDir::ToUser, user, from, bytes)
}

/// See [`crate::uaccess::copy_from_user`].
pub fn copy_from_user<K: Kernel>(k: K, to: Kmapped, user: u32, bytes: u32) -> Result<(), Efault> {
    rw_vm(k, CopyDir::FromUser, user, to, bytes)
}

/// Copies `bytes` between the current mm's memory at `user` and low kernel memory at `kernel`.
fn rw_vm<K: Kernel>(
    k: K,
    dir: CopyDir,
    user: u32,
    kernel: Kmapped,
    bytes: u32,
) -> Result<(), Efault> {
    if !access_ok(k, user, bytes) {
        return Err(Efault);
    }
    let mm = current_mm(k);
    if mm.is_null() {
        return Err(Efault);
    }
    let access = match dir {
        CopyDir::ToUser => Access::Write,
        CopyDir::FromUser => Access::Read,
    };
    let (mut user, mut kernel, mut left) = (user, kernel, bytes);
    mm.page_table_lock(k).lock(k);
    while left != 0 {
        let offset = user & (PAGE_SIZE - 1);
        let room = PAGE_SIZE - offset;
        let n = if left < room { left } else { room };
        let (page, sub) = match follow_page(k, mm, user, access) {
            Some(found) => {
                get_page(k, found.0);
                found
            }
            None => fault_in(k, mm, user, access)?,
        };
        let at = kmap_atomic(k, page, KmType::UserCopy);
        let offset = (sub << PAGE_SHIFT) + offset;
        match dir {
            CopyDir::ToUser => copy_part(k, at.at(offset), kernel, n),
            CopyDir::FromUser => copy_part(k, kernel, at.at(offset), n),
        }
        kunmap_atomic(k, at, KmType::UserCopy);
        put_page(k, page);
        left -= n;
        user = user.wrapping_add(n);
        kernel = Kmapped(kernel.0.wrapping_add(n));
    }
    mm.page_table_lock(k).unlock(k);
    Ok(())
}

/// Faults the page of `user` in, the lock dropped meanwhile; pinned. On failure the lock stays dropped.
#[inline(never)]
fn fault_in<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    user: u32,
    access: Access,
) -> Result<(Low<Page>, u32), Efault> {
    mm.page_table_lock(k).unlock(k);
    mm.mmap_sem(k).down_read(k);
    let found = get_user_page(k, mm, user, access);
    mm.mmap_sem(k).up_read(k);
    let found = found?;
    mm.page_table_lock(k).lock(k);
    Ok(found)
}

/// One part within a page: a word at once (the fast case of get_user), else by string moves.
#[inline(always)]
fn copy_part<K: Kernel>(k: K, to: Kmapped, from: Kmapped, n: u32) {
    if n == 4 && (to.0 | from.0) & 3 == 0 {
        k.kwrite(to, k.kread(from));
    } else {
        k.copy_bytes(to, from, n);
    }
}
