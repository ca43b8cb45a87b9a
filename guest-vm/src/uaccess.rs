//! Copies between kernel and user memory. Direct where kernel and user share page tables; by software walk with lock, pin and
//! kmap_atomic on 4G/4G (fact sheets, "User copy (rw_vm)").

use crate::kernel::{Efault, Kernel};
use crate::ptr::Kmapped;
use crate::{uaccess_direct, uaccess_split};

/// Copies to user memory of the current mm.
#[inline(always)]
pub fn copy_to_user<K: Kernel>(k: K, user: u32, from: Kmapped, bytes: u32) -> Result<(), Efault> {
    if k.two_tables() {
        uaccess_split::copy_to_user(k, user, from, bytes)
    } else {
        uaccess_direct::copy_to_user(k, user, from, bytes)
    }
}

/// Copies from user memory of the current mm.
#[inline(always)]
pub fn copy_from_user<K: Kernel>(k: K, to: Kmapped, user: u32, bytes: u32) -> Result<(), Efault> {
    if k.two_tables() {
        uaccess_split::copy_from_user(k, to, user, bytes)
    } else {
        uaccess_direct::copy_from_user(k, to, user, bytes)
    }
}
