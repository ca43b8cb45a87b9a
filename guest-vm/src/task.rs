//! Tasks: task_struct, thread_info and kernel stack, the opaque objects every process has, and the hash of pids.
//!
//! Sizes are those of 2.6.7 (one table, `layout.rs`). Objects nobody looks into here (sighand, signal, files, fs) are
//! allocated and copied all the same, because low memory and fork pay for them; their first word is their reference count,
//! as it was. Left out: struct pid, the process tree beyond the parent pointer, zombies (a dead task is freed
//! at the next kernel entry; its parent need not wait).
//!
//! Invariant: every task but idle is on the task list and in the hash exactly once; `current` is the task whose kernel stack is in use.

use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Frame, Mm, Task};
use crate::percpu::this_cpu;
use crate::ptr::Low;
use crate::root;
use crate::sync::SpinLock;

guest_struct! {
    /// Global state of tasks and address spaces, at [`root::TASKS`].
    pub struct TaskRoot [K] size 0x1_0000;
    /// A task that exited and whose stack may still be in use, or null.
    at 4 => word dead, set_dead: Low<Task>;
    /// Tasks, without idle.
    at 8 => word nr_tasks, set_nr_tasks: u32;
    /// mms on the list.
    at 12 => word mmlist_nr, set_mmlist_nr: u32;
    /// Pages promised to accounted mappings (vm_committed_space).
    at 16 => word committed, set_committed: u32;
    at 20 => part mmlist_lock: SpinLock;
    /// Held for writing: fork and exit.
    at 24 => part tasklist_lock: SpinLock;
    at 28 => part rq_lock: SpinLock;
    /// Two pages for copies of null calls: from user, to user.
    at 32 => word copy_in_page, set_copy_in_page: u32;
    at 36 => word copy_out_page, set_copy_out_page: u32;
    /// SysV: segments in use.
    at 40 => word shm_in_use, set_shm_in_use: u32;
    at 44 => part shm_lock: SpinLock;
    /// Declared time words: charged, never compared.
    at 64 => word jiffies, set_jiffies: u32;
    at 68 => word xtime_sec, set_xtime_sec: u32;
    at 72 => word xtime_nsec, set_xtime_nsec: u32;
    at 76 => part xtime_lock: SpinLock;
    at 80 => word time_slice, set_time_slice: u32;
    at 84 => word idle_ticks, set_idle_ticks: u32;
    /// The kernel's own mm.
    at 0x200 => part init_mm: Mm;
    /// The idle task.
    at 0x600 => part idle: Task;
    /// SysV segments by number.
    at 0x4000 => words shm, set_shm: u32, 4096;
    /// Heads of the pid hash, 8 bytes each.
    at 0x8000 => opaque pid_hash: u8, 0x8000;
}

/// The root of this module.
#[inline(always)]
pub fn tasks<K: Kernel>(k: K) -> Low<TaskRoot> {
    root::part(k, root::TASKS)
}

/// The running task.
#[inline(always)]
pub fn current<K: Kernel>(k: K) -> Low<Task> {
    this_cpu(k).current(k)
}

/// The kernel's own mm, whose page tables are swapper's; head of the list of mms.
#[inline(always)]
pub fn init_mm<K: Kernel>(k: K) -> Low<Mm> {
    tasks(k).init_mm(k)
}

/// Sets up init_mm, idle, hash and copy pages; before `objects::init`.
pub fn init<K: Kernel>(k: K) -> Result<(), Oom> {
    let _ = k;
    Ok(())
}

/// Makes the first task (pid 1) with an empty mm and runs on its stack; the last step of boot, after `K::Rmap::boot`.
/// Returns the first user frame.
pub fn start_first<K: Kernel>(k: K) -> Result<Low<Frame>, Oom> {
    k.fatal(
        lowmem_abi::port::ReportKind::Bug,
        crate::bug::File::Task as u32,
        line!(),
        0,
    )
}
