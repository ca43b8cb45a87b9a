//! The one way into the kernel and out of it (decision D3): a frame and a vector in, a frame out.
//!
//! Entry stubs (natively: the machine) save the registers of the interrupted code in a [`Frame`]; what comes back is
//! restored, whether it is the same frame or another task's. Follows entry.S and traps.c of 2.6.7. Frames of kernel mode
//! (a fault in a direct user copy, an interrupt) are returned straight, without any thought of switching.
//!
//! Leaves out: signals, ptrace, debug and machine-check exceptions: those are BUGs.
//! Invariant: interrupts are off when this returns to user mode.

use crate::bug;
use crate::kernel::{Efault, Kernel};
use crate::layout::Frame;
use crate::mm::fault::do_page_fault;
use crate::percpu::this_cpu;
use crate::ptr::{Kmapped, Low};
use crate::sched::PutOff;
use crate::uaccess::copy_from_user;
use lowmem_abi::boot::{
    VECTOR_RESCHED, VECTOR_SYSENTER, VECTOR_SYSTEM_CALL, VECTOR_TICK, VECTOR_UNMAP,
};
use lowmem_abi::port::ReportKind;
use lowmem_abi::probe::Probe;

/// Vector of the page fault.
pub const VECTOR_PAGE_FAULT: u32 = 14;
/// Where in the per-CPU page the sixth argument of sysenter is read to.
const SIXTH_ARGUMENT: u32 = 248;
/// EFLAGS.IF.
const EFLAGS_IF: u32 = 0x200;

/// Handles `vector` with the registers in `frame`; returns the frame to restore, maybe another task's.
#[inline]
pub fn kernel_main<K: Kernel>(k: K, frame: Low<Frame>, vector: u32) -> Low<Frame> {
    let user_mode = frame.cs(k) & 3 != 0;
    match vector {
        VECTOR_PAGE_FAULT => page_fault(k, frame),
        VECTOR_SYSTEM_CALL => crate::syscall::dispatch(k, frame),
        VECTOR_SYSENTER => sysenter(k, frame),
        VECTOR_TICK => {
            k.begin(Probe::Tick);
            crate::sched::tick(k, frame);
            k.end(Probe::Tick);
        }
        VECTOR_RESCHED => {}
        VECTOR_UNMAP => crate::reclaim::unmap_probe(k),
        _ => k.fatal(
            ReportKind::Bug,
            bug::File::Trap as u32,
            vector,
            frame.eip(k),
        ),
    }
    if !user_mode {
        return frame;
    }
    let _ = k.irq_save();
    // The timer changes no state of the VM: work that was put off waits for an entry that both modes have.
    let work = match vector {
        VECTOR_TICK => PutOff::Waits,
        _ => PutOff::Done,
    };
    crate::sched::return_to_user(k, frame, work)
}

/// do_page_fault's beginning: the address before anything can fault again, then interrupts as they were.
fn page_fault<K: Kernel>(k: K, frame: Low<Frame>) {
    let addr = k.read_cr2();
    let error = frame.orig_eax(k);
    // Not a system call: nothing to restart.
    frame.set_orig_eax(k, u32::MAX);
    if frame.eflags(k) & EFLAGS_IF != 0 {
        k.irq_restore(EFLAGS_IF | 2);
    }
    if !do_page_fault(k, frame, addr, error) {
        // Only the direct user copy may meet a bad address in kernel mode: it goes on at its fix-up and fails.
        let symbols = crate::boot::info(k).symbols(k);
        let eip = frame.eip(k);
        if eip < symbols.user_copy_start(k) || eip >= symbols.user_copy_end(k) {
            k.fatal(ReportKind::Bug, bug::File::Trap as u32, eip, addr);
        }
        frame.set_eip(k, symbols.user_copy_fixup(k));
    }
}

/// A page fault of the kernel's own access to user memory, as a native copy routine raises it (on the CPU it arrives as a
/// nested frame). `error` as the CPU would push it, User clear. False: the copy
/// fails here.
pub fn kernel_fault<K: Kernel>(k: K, addr: u32, error: u32) -> bool {
    do_page_fault(k, Low::NULL, addr, error)
}

/// A system call by sysenter: the sixth argument lies on the user's stack, where ebp points.
fn sysenter<K: Kernel>(k: K, frame: Low<Frame>) {
    let word = Kmapped(this_cpu(k).va() + SIXTH_ARGUMENT);
    match copy_from_user(k, word, frame.ebp(k), 4) {
        Ok(()) => {
            frame.set_ebp(k, k.kread(word));
            crate::syscall::dispatch(k, frame);
        }
        Err(Efault) => frame.set_eax(k, 14u32.wrapping_neg()),
    }
}
