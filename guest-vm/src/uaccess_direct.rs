//! User copies where kernel and user share page tables.

use crate::kernel::{CopyDir, Efault, Kernel};
use crate::pgtable::task_size;
use crate::ptr::Kmapped;

/// access_ok: the range ends at or below TASK_SIZE.
#[inline(always)]
pub(crate) fn access_ok<K: Kernel>(k: K, user: u32, bytes: u32) -> bool {
    let end = user.wrapping_add(bytes);
    end >= user && end <= task_size(k)
}

/// See [`crate::uaccess::copy_to_user`].
pub fn copy_to_user<K: Kernel>(k: K, user: u32, from: Kmapped, bytes: u32) -> Result<(), Efault> {
    copy(k, CopyDir::ToUser, user, from, bytes)
}

/// See [`crate::uaccess::copy_from_user`].
pub fn copy_from_user<K: Kernel>(k: K, to: Kmapped, user: u32, bytes: u32) -> Result<(), Efault> {
    copy(k, CopyDir::FromUser, user, to, bytes)
}

fn copy<K: Kernel>(
    k: K,
    dir: CopyDir,
    user: u32,
    kernel: Kmapped,
    bytes: u32,
) -> Result<(), Efault> {
    if access_ok(k, user, bytes) && k.direct_copy(dir, user, kernel, bytes) == 0 {
        return Ok(());
    }
    Err(Efault)
}
