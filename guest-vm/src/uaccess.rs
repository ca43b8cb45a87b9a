//! Copies between kernel and user memory. Direct where kernel and user share page tables; by software walk with lock, pin and
//! kmap_atomic on 4G/4G (fact sheets, "User copy (rw_vm)").

use crate::kernel::{Efault, Kernel};
use crate::ptr::Kmapped;

/// How user memory is reached.
pub trait UserAccess<K: Kernel> {
    /// Copies to user memory of the current mm.
    fn copy_to_user(k: K, user: u32, from: Kmapped, bytes: u32) -> Result<(), Efault>;
    /// Copies from user memory of the current mm.
    fn copy_from_user(k: K, to: Kmapped, user: u32, bytes: u32) -> Result<(), Efault>;
}

/// User access chosen by type before the handle's type exists, see [`crate::rmap::Scheme`].
pub trait Access: 'static {
    /// Its copies.
    type User<K: Kernel>: UserAccess<K>;
    /// [`Kernel::SPLIT`].
    const SPLIT: bool;
}

impl Access for crate::uaccess_direct::Direct {
    type User<K: Kernel> = Self;
    const SPLIT: bool = false;
}

impl Access for crate::uaccess_split::Split {
    type User<K: Kernel> = Self;
    const SPLIT: bool = true;
}
