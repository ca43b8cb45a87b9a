//! The direct user copy of 3G/1G, natively: `rep movs` with an exception table on the CPU, here a walk and a call.
//!
//! This is the only user access that exists twice; the native/cycle identity test holds both together. A missing page
//! calls the kernel's own fault handler, as the nested #PF of the copy would; a page that stays missing ends the copy
//! with the bytes not copied. The copy runs with CPL 0 and CR0.WP set, so rights are checked as for the user, and pages
//! get A and D.
//!
//! Invariant: bytes are copied ascending, page by page, and nothing behind the first fault that cannot be resolved.

use crate::native::Native;
use crate::walk::{self, Access};
use guest_vm::kernel::{CopyDir, Kernel};
use guest_vm::ptr::Kmapped;

/// See [`guest_vm::kernel::Kernel::direct_copy`].
pub(crate) fn direct_copy(k: Native, dir: CopyDir, user: u32, kernel: Kmapped, bytes: u32) -> u32 {
    let access = match dir {
        CopyDir::FromUser => Access::Read,
        CopyDir::ToUser => Access::Write,
    };
    let mut done = 0;
    while done < bytes {
        let va = user.wrapping_add(done);
        let n = (bytes - done).min(4096 - (va & 0xfff));
        let Some(leaf) = user_page(k, va, access) else {
            return bytes - done;
        };
        let frame = leaf.frame(va).base().plus(u64::from(va & 0xfff));
        let mut rest = n;
        let mut at = 0;
        while rest > 0 {
            let p = kernel.at(done + at);
            let part = rest.min(4096 - (p.0 & 0xfff));
            let mut buffer = [0; 4096];
            let part_bytes = &mut buffer[..part as usize];
            let pa = k.physical(p);
            let user_pa = frame.plus(u64::from(at));
            let (from, to) = match dir {
                CopyDir::FromUser => (user_pa, pa),
                CopyDir::ToUser => (pa, user_pa),
            };
            k.memory().read_bytes(from, part_bytes);
            k.memory().write_bytes(to, part_bytes);
            at += part;
            rest -= part;
        }
        done += n;
    }
    0
}

/// Makes the page present and gives its leaf, with A and D set.
fn user_page(k: Native, va: u32, access: Access) -> Option<walk::Leaf> {
    for _ in 0..8 {
        match walk::user_leaf(k.memory(), k.read_cr3(), va, access) {
            Ok(leaf) => {
                walk::touch(k.memory(), &leaf, access);
                return Some(leaf);
            }
            Err(code) => {
                k.set_cr2(va);
                // The CPU runs the copy at CPL 0.
                if !guest_vm::trap::kernel_fault(k, va, code & !walk::FAULT_USER) {
                    return None;
                }
            }
        }
    }
    None
}
