//! User copies of 4G/4G: by software walk (RHEL4 mm/usercopy.c). (skeleton)

use crate::kernel::{Efault, Kernel};
use crate::ptr::Kmapped;
use crate::uaccess::UserAccess;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub enum Split {}

impl<K: Kernel> UserAccess<K> for Split {
    fn copy_to_user(k: K, user: u32, from: Kmapped, bytes: u32) -> Result<(), Efault> {
        let _ = (k, user, from, bytes);
        Err(Efault)
    }
    fn copy_from_user(k: K, to: Kmapped, user: u32, bytes: u32) -> Result<(), Efault> {
        let _ = (k, user, to, bytes);
        Err(Efault)
    }
}
