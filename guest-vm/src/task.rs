//! Tasks: task_struct, thread_info and kernel stack, the opaque objects every process has, and the hash of pids.
//!
//! Sizes are those of 2.6.7 (one table, `layout.rs`). Objects nobody looks into here (sighand, signal, files, fs) are
//! allocated and copied all the same, because low memory and fork pay for them; their first word is their reference count,
//! as it was. Left out: struct pid, the process tree beyond the parent pointer, zombies (a dead task is freed
//! at the next kernel entry; its parent need not wait).
//!
//! Invariant: every task but idle is on the task list and in the hash exactly once; `current` is the task whose kernel stack is in use.

use crate::arch::{THREAD_SIZE, USER_CS, USER_DS, load_esp0, swapper_pg_dir};
use crate::bug_on;
use crate::cluster;
use crate::guest_struct;
use crate::guest_struct::Layout;
use crate::guest_struct::Word;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Frame, Mm, Task, ThreadInfo};
use crate::list::ListHead;
use crate::mailbox::mailbox;
use crate::mm::mm_struct::{mm_alloc, mmlist_add};
use crate::page_alloc::{Gfp, alloc_pages, free_pages, page_address, virt_to_page};
use crate::percpu::this_cpu;
use crate::ptr::{Kmapped, Low};
use crate::root;
use crate::sched::{self, DEAD, RUNNING};
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::sync::SpinLock;
use core::mem::offset_of;
use core::ops::Range;
use lowmem_abi::boot::BootInfo;
use lowmem_abi::layout::BOOT_INFO;
use lowmem_abi::owner::Owner;

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
    /// While switching: the address space the last task had borrowed or given up.
    at 48 => word prev_mm, set_prev_mm: Low<Mm>;
    /// Declared time words ([`TIME_WORDS`]): charged, never compared.
    at 64 => word jiffies, set_jiffies: u32;
    at 68 => word xtime_sec, set_xtime_sec: u32;
    at 72 => word xtime_nsec, set_xtime_nsec: u32;
    at 76 => part xtime_lock: SpinLock;
    at 80 => word time_slice, set_time_slice: u32;
    at 84 => word idle_ticks, set_idle_ticks: u32;
    /// Nanoseconds of a tick: constant.
    at 88 => word tick_nsec, set_tick_nsec: u32;
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

/// Bytes of [`TaskRoot`] that are time: never compared between modes.
pub const TIME_WORDS: Range<u32> = 64..88;

/// log2 of the number of chains of the pid hash (that of a machine with 1 GB or more).
const PIDHASH_SHIFT: u32 = 12;
/// Offset of the hash in [`TaskRoot`].
const PID_HASH: u32 = 0x8000;
/// Offset of the hash link in a task.
const PID_CHAIN: u32 = 36;
/// log2 of the pages of a kernel stack.
const STACK_ORDER: u32 = if THREAD_SIZE == 8192 { 1 } else { 0 };

/// alloc_thread_info: a stack is a block of pages; where a page is larger, an object of a cache.
fn stack_alloc<K: Kernel>(k: K) -> Result<u32, Oom> {
    if cluster::page_bytes(k) > THREAD_SIZE {
        return kmem_cache_alloc::<K, ThreadInfo>(k, CacheId::Stack, Gfp::Kernel).map(Low::va);
    }
    let order = STACK_ORDER - cluster::mmu_shift(k);
    let page = alloc_pages(k, Gfp::Kernel, order, Owner::Stack)?;
    Ok(page_address(k, page).unwrap_or(0))
}

/// free_thread_info.
fn stack_free<K: Kernel>(k: K, stack: u32) {
    if cluster::page_bytes(k) > THREAD_SIZE {
        kmem_cache_free(k, CacheId::Stack, Low::<ThreadInfo>::new(stack));
    } else {
        let order = STACK_ORDER - cluster::mmu_shift(k);
        free_pages(k, virt_to_page(k, stack), order);
    }
}

/// A word of the boot information, by byte offset.
#[inline(always)]
pub fn boot_word<K: Kernel>(k: K, offset: usize) -> u32 {
    root::low_at::<K, u32>(k, BOOT_INFO)
        .field::<u32>(offset as u32)
        .read(k)
}

/// Copies `bytes` of low memory (`rep movs`, page by page).
pub fn copy_low<K: Kernel>(k: K, to: Low<u32>, from: Low<u32>, bytes: u32) {
    let (mut to, mut from, mut left) = (to.va(), from.va(), bytes);
    while left != 0 {
        let mut n = 4096 - (to & 0xfff);
        let room = 4096 - (from & 0xfff);
        if room < n {
            n = room;
        }
        if left < n {
            n = left;
        }
        k.copy_bytes(Kmapped(to), Kmapped(from), n);
        to = to.wrapping_add(n);
        from = from.wrapping_add(n);
        left -= n;
    }
}

/// Clears `bytes`, a multiple of 4, of low memory.
pub fn clear_low<K: Kernel>(k: K, at: Low<u32>, bytes: u32) {
    let mut i = 0;
    while i < bytes {
        u32::store(k, at.field(i), 0);
        i += 4;
    }
}

/// Sets up init_mm, idle, hash and copy pages; before `objects::init`.
pub fn init<K: Kernel>(k: K) -> Result<(), Oom> {
    let t = tasks(k);
    clear_low(k, t.cast(), 0x1000);
    t.mmlist_lock(k).init(k);
    t.tasklist_lock(k).init(k);
    t.rq_lock(k).init(k);
    t.shm_lock(k).init(k);
    t.xtime_lock(k).init(k);
    let mut i = 0;
    while i < SHM_SLOTS {
        t.set_shm(k, i, 0);
        i += 1;
    }
    i = 0;
    while i < 1 << PIDHASH_SHIFT {
        t.field::<ListHead>(PID_HASH + i * 8).init(k);
        i += 1;
    }
    let hz = boot_word(k, offset_of!(BootInfo, hz));
    t.set_tick_nsec(k, 1_000_000_000u32.checked_div(hz).unwrap_or(0));
    let mm = t.init_mm(k);
    mm.set_users(k, 2);
    mm.set_count(k, 1);
    mm.mmap_sem(k).init(k);
    mm.page_table_lock(k).init(k);
    mm.mmlist(k).init(k);
    mm.set_pgd(k, Low::new(k.page_offset().wrapping_add(swapper_pg_dir(k))));
    let idle = t.idle(k);
    idle.set_state(k, RUNNING);
    idle.set_usage(k, 2);
    idle.set_active_mm(k, mm);
    idle.tasks(k).init(k);
    idle.pid_hash(k).init(k);
    this_cpu(k).set_current(k, idle);
    t.set_copy_in_page(k, copy_page(k)?);
    t.set_copy_out_page(k, copy_page(k)?);
    Ok(())
}

/// Slots of the segment table.
const SHM_SLOTS: u32 = 4096;

fn copy_page<K: Kernel>(k: K) -> Result<u32, Oom> {
    let page = alloc_pages(k, Gfp::Kernel, 0, Owner::PerCpu)?;
    match page_address(k, page) {
        Some(va) => {
            k.clear_page(Kmapped(va));
            Ok(va)
        }
        None => Err(Oom {
            owner: Owner::PerCpu,
        }),
    }
}

/// Makes the first task (pid 1) with an empty mm and runs on its stack; the last step of boot, after `K::Rmap::boot`.
/// Returns the first user frame.
pub fn start_first<K: Kernel>(k: K) -> Result<Low<Frame>, Oom> {
    let idle = tasks(k).idle(k);
    let task = dup_task(k, idle)?;
    let mut i = 0;
    while i < 4 {
        let (cache, slot, bytes) = object(k, i);
        let o: Low<u32> = kmem_cache_alloc(k, cache, Gfp::Kernel)?;
        clear_low(k, o, bytes);
        o.write(k, 1);
        task.field::<u32>(slot).write(k, o.va());
        i += 1;
    }
    let mm = mm_alloc(k)?;
    mmlist_add(k, mm, init_mm(k));
    task.set_mm(k, mm);
    task.set_active_mm(k, mm);
    let frame = user_frame(k, task);
    start_thread(k, frame, 0, 0);
    task.set_frame(k, frame);
    attach(k, task, idle, 1);
    idle.set_active_mm(k, init_mm(k));
    this_cpu(k).set_current(k, task);
    sched::switch_mm(k, Low::NULL, mm, task);
    load_esp0(k, task.thread_info(k));
    mailbox(k).set_current(k, 1);
    Ok(frame)
}

/// Where the registers of user mode lie on a task's kernel stack: at its very top.
#[inline(always)]
pub fn user_frame<K: Kernel>(k: K, task: Low<Task>) -> Low<Frame> {
    task.thread_info(k).field(THREAD_SIZE - 60)
}

/// A copy of `parent`'s task_struct and thread_info on a new stack (dup_task_struct).
pub fn dup_task<K: Kernel>(k: K, parent: Low<Task>) -> Result<Low<Task>, Oom> {
    let task: Low<Task> = kmem_cache_alloc(k, CacheId::Task, Gfp::Kernel)?;
    let stack = match stack_alloc(k) {
        Ok(stack) => stack,
        Err(oom) => {
            kmem_cache_free(k, CacheId::Task, task);
            return Err(oom);
        }
    };
    let ti: Low<ThreadInfo> = Low::new(stack);
    copy_low(k, task.cast(), parent.cast(), Task::size(k));
    let from = parent.thread_info(k);
    if from.is_null() {
        clear_low(k, ti.cast(), 52);
    } else {
        copy_low(k, ti.cast(), from.cast(), 52);
    }
    task.set_thread_info(k, ti);
    task.set_usage(k, 2);
    task.set_state(k, RUNNING);
    task.set_utime(k, 0);
    task.set_stime(k, 0);
    task.set_min_flt(k, 0);
    task.set_maj_flt(k, 0);
    ti.set_task(k, task);
    ti.set_preempt_count(k, 0);
    ti.set_real_stack(k, ti.va());
    Ok(task)
}

/// Frees a task's stack and struct.
pub fn free_task<K: Kernel>(k: K, task: Low<Task>) {
    let ti = task.thread_info(k);
    stack_free(k, ti.va());
    kmem_cache_free(k, CacheId::Task, task);
}

/// Which opaque objects a clone shares with its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// sighand (CLONE_SIGHAND).
    pub const SIGHAND: u32 = 1;
    /// signal (CLONE_THREAD).
    pub const SIGNAL: u32 = 2;
    /// files (CLONE_FILES).
    pub const FILES: u32 = 4;
    /// fs (CLONE_FS).
    pub const FS: u32 = 8;

    /// With one more shared.
    #[inline(always)]
    pub const fn with(self, bit: u32) -> Self {
        Self(self.0 | bit)
    }
}

/// Cache, offset of the pointer in the task, and bytes of object `i`, in the order copy_process makes them.
#[inline(always)]
fn object<K: Kernel>(k: K, i: u32) -> (CacheId, u32, u32) {
    let (cache, slot) = match i {
        0 => (CacheId::Files, 60),
        1 => (CacheId::Fs, 64),
        2 => (CacheId::Sighand, 56),
        _ => (CacheId::Signal, 52),
    };
    (cache, slot, cache.object_bytes(k))
}

/// Gives `child` its own copies of the parent's objects, or a share of them (copy_files, copy_fs, copy_sighand, copy_signal).
pub fn copy_objects<K: Kernel>(
    k: K,
    parent: Low<Task>,
    child: Low<Task>,
    share: Share,
) -> Result<(), Oom> {
    let mut i = 0;
    while i < 4 {
        let (_, slot, _) = object(k, i);
        child.field::<u32>(slot).write(k, 0);
        i += 1;
    }
    i = 0;
    while i < 4 {
        let (cache, slot, bytes) = object(k, i);
        let from: Low<u32> = Low::new(parent.field::<u32>(slot).read(k));
        let shared = match i {
            0 => share.0 & Share::FILES,
            1 => share.0 & Share::FS,
            2 => share.0 & Share::SIGHAND,
            _ => share.0 & Share::SIGNAL,
        };
        if shared != 0 {
            k.atomic_add(from, 1);
            child.field::<u32>(slot).write(k, from.va());
        } else {
            match kmem_cache_alloc::<K, u32>(k, cache, Gfp::Kernel) {
                Ok(to) => {
                    copy_low(k, to, from, bytes);
                    to.write(k, 1);
                    child.field::<u32>(slot).write(k, to.va());
                }
                Err(oom) => {
                    put_objects(k, child);
                    return Err(oom);
                }
            }
        }
        i += 1;
    }
    Ok(())
}

/// Drops a task's objects (exit_files, exit_fs, __exit_sighand, __exit_signal).
pub fn put_objects<K: Kernel>(k: K, task: Low<Task>) {
    let mut i = 0;
    while i < 4 {
        let (cache, slot, _) = object(k, i);
        let o: Low<u32> = Low::new(task.field::<u32>(slot).read(k));
        if !o.is_null() {
            task.field::<u32>(slot).write(k, 0);
            if k.atomic_dec_and_test(o) {
                kmem_cache_free(k, cache, o);
            }
        }
        i += 1;
    }
}

/// exec: files and sighand that are shared with other tasks become copies (unshare_files, de_thread).
pub fn unshare_objects<K: Kernel>(k: K, task: Low<Task>) -> Result<(), Oom> {
    let mut i = 0;
    while i < 3 {
        let (cache, slot, bytes) = object(k, i);
        let from: Low<u32> = Low::new(task.field::<u32>(slot).read(k));
        if i != 1 && from.read(k) > 1 {
            let to: Low<u32> = kmem_cache_alloc(k, cache, Gfp::Kernel)?;
            copy_low(k, to, from, bytes);
            to.write(k, 1);
            task.field::<u32>(slot).write(k, to.va());
            if k.atomic_dec_and_test(from) {
                kmem_cache_free(k, cache, from);
            }
        }
        i += 1;
    }
    Ok(())
}

/// The child's registers: the parent's, with 0 as result and a stack of its own if the call names one.
pub fn copy_thread<K: Kernel>(k: K, child: Low<Task>, frame: Low<Frame>, stack: u32) {
    let to = user_frame(k, child);
    copy_low(k, to.cast(), frame.cast(), 60);
    to.set_eax(k, 0);
    if stack != 0 {
        to.set_esp(k, stack);
    }
    child.set_frame(k, to);
    let mm = child.mm(k);
    if k.two_tables() {
        let pgd = mm.pgd(k).va().wrapping_sub(k.page_offset());
        child.thread_info(k).set_user_pgd(k, pgd);
    }
}

/// Registers of a program's first instruction (start_thread, ELF_PLAT_INIT).
pub fn start_thread<K: Kernel>(k: K, frame: Low<Frame>, eip: u32, esp: u32) {
    frame.set_ebx(k, 0);
    frame.set_ecx(k, 0);
    frame.set_edx(k, 0);
    frame.set_esi(k, 0);
    frame.set_edi(k, 0);
    frame.set_ebp(k, 0);
    frame.set_eax(k, 0);
    frame.set_ds(k, USER_DS);
    frame.set_es(k, USER_DS);
    frame.set_eip(k, eip);
    frame.set_cs(k, USER_CS);
    // Interrupts on; bit 1 is always set.
    frame.set_eflags(k, 0x202);
    frame.set_esp(k, esp);
    frame.set_ss(k, USER_DS);
}

#[inline(always)]
fn chain<K: Kernel>(k: K, pid: u32) -> Low<ListHead> {
    let h = pid.wrapping_mul(0x9e37_0001) >> (32 - PIDHASH_SHIFT);
    tasks(k).field(PID_HASH + h * 8)
}

/// The task with this pid, or null.
pub fn find<K: Kernel>(k: K, pid: u32) -> Low<Task> {
    let head = chain(k, pid);
    let mut at = head.next(k);
    while at != head {
        let task: Low<Task> = at.container(PID_CHAIN);
        if task.pid(k) == pid {
            return task;
        }
        at = at.next(k);
    }
    Low::NULL
}

/// Makes a new task known: list, hash.
pub fn attach<K: Kernel>(k: K, task: Low<Task>, parent: Low<Task>, pid: u32) {
    let t = tasks(k);
    t.tasklist_lock(k).lock(k);
    bug_on!(k, Task, pid == 0 || !find(k, pid).is_null(), pid);
    task.set_pid(k, pid);
    task.set_parent(k, parent);
    task.tasks(k).add_tail_to(k, t.idle(k).tasks(k));
    task.pid_hash(k).add_to(k, chain(k, pid));
    t.set_nr_tasks(k, t.nr_tasks(k).wrapping_add(1));
    t.tasklist_lock(k).unlock(k);
}

/// A task that exits leaves list and hash; it is freed when another one runs.
pub fn detach<K: Kernel>(k: K, task: Low<Task>) {
    let t = tasks(k);
    t.tasklist_lock(k).lock(k);
    task.tasks(k).del_init(k);
    task.pid_hash(k).del_init(k);
    task.set_state(k, DEAD);
    t.set_nr_tasks(k, t.nr_tasks(k).wrapping_sub(1));
    t.tasklist_lock(k).unlock(k);
}

/// Frees the task that exited in an earlier kernel entry: its stack is not in use any more.
pub fn reap<K: Kernel>(k: K) {
    let t = tasks(k);
    let dead = t.dead(k);
    if dead.is_null() {
        return;
    }
    t.set_dead(k, Low::NULL);
    free_task(k, dead);
}
