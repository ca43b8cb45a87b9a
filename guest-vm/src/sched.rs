//! Who runs: schedule, context switch, the way back to user mode, the tick, idle (kernel/sched.c, asm-i386/mmu_context.h of 2.6.7).
//!
//! The trace decides who runs: the mailbox is the run queue. The kernel runs to completion, so a task that does not run is exactly
//! the one frame at the top of its stack, and switching is returning another task's frame. What that leaves out of a real
//! switch: the callee-saved registers pushed and popped by switch_to and the return through two schedule() frames
//! (about 20 instructions), priority arrays, and FPU state.
//! 3G/1G loads CR3 when the address space differs; 4G/4G records the next tables in thread_info and re-maps the virtual stack.
//! Idle borrows the last address space lazily.
//!
//! Invariant: at a boundary the mailbox's `current` is the task whose frame is restored.

use crate::arch;
use crate::bug_on;
use crate::kernel::Kernel;
use crate::layout::{Frame, Mm, Task};
use crate::mailbox::mailbox;
use crate::mm::mm_struct::{mmdrop, mmgrab};
use crate::percpu::{WORK_IO, WORK_KSWAPD, WORK_WRITEBACK, this_cpu};
use crate::ptr::Low;
use crate::reclaim;
use crate::task::{self, current, init_mm, tasks};
use lowmem_abi::probe::Probe;

/// TASK_RUNNING.
pub const RUNNING: u32 = 0;
/// TASK_INTERRUPTIBLE.
pub const SLEEPING: u32 = 1;
/// TASK_DEAD: its task_struct waits to be freed.
pub const DEAD: u32 = 16;

/// cpu_tlbstate.state: the loaded tables are current's own.
pub const TLBSTATE_OK: u32 = 1;
/// cpu_tlbstate.state: a borrower runs.
pub const TLBSTATE_LAZY: u32 = 2;

/// What becomes of work that was put off to the return to user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOff {
    /// It is done now.
    Done,
    /// It waits for the next return.
    Waits,
}

/// Last step of every kernel entry that returns to user mode: frees what an earlier exit left, schedules if the mailbox names another
/// task (or a sleep), and returns the frame to restore.
pub fn return_to_user<K: Kernel>(k: K, frame: Low<Frame>, work: PutOff) -> Low<Frame> {
    task::reap(k);
    let m = mailbox(k);
    let next = m.next(k);
    let running = current(k);
    let mut out = frame;
    let dead = running.state(k) == DEAD;
    // 0 names nobody: a live task goes on, after a dead one only idle is left.
    if dead || (next != 0 && next != running.pid(k)) {
        out = schedule(k, frame, next);
    } else if m.via_idle(k) != 0 {
        sleep_and_wake(k);
    }
    m.set_via_idle(k, 0);
    if this_cpu(k).work(k) != 0 && work == PutOff::Done {
        do_work(k);
    }
    m.set_current(k, current(k).pid(k));
    out
}

/// What was put off to here: pdflush looks whether something is due, page writes complete, kswapd runs if it was woken (it may
/// begin writes, which then complete at the next return).
#[cold]
#[inline(never)]
fn do_work<K: Kernel>(k: K) {
    let work = this_cpu(k).work(k);
    // pdflush takes its bit back itself.
    this_cpu(k).set_work(k, work & WORK_WRITEBACK);
    if work & WORK_WRITEBACK != 0 {
        crate::writeback::run(k);
    }
    if work & WORK_IO != 0 {
        k.begin(Probe::Writeback);
        crate::io::complete_all(k);
        k.end(Probe::Writeback);
    }
    let task = current(k);
    if work & WORK_KSWAPD == 0 || task.mm(k).is_null() {
        return;
    }
    let kswapd = reclaim::state(k).kswapd(k);
    // It runs on the stack of the task that it delays.
    kswapd.set_thread_info(k, task.thread_info(k));
    switch_kernel(k, task, kswapd);
    reclaim::kswapd::run(k);
    switch_kernel(k, kswapd, task);
}

/// A switch to a kernel thread, or back from it.
fn switch_kernel<K: Kernel>(k: K, prev: Low<Task>, next: Low<Task>) {
    let t = tasks(k);
    k.begin(Probe::Switch);
    t.rq_lock(k).lock(k);
    context_switch(k, prev, next);
    t.rq_lock(k).unlock(k);
    finish(k, prev);
    k.end(Probe::Switch);
}

/// Switches to the task `pid`; its frame.
fn schedule<K: Kernel>(k: K, frame: Low<Frame>, pid: u32) -> Low<Frame> {
    k.begin(Probe::Switch);
    let t = tasks(k);
    let prev = current(k);
    prev.set_frame(k, frame);
    t.rq_lock(k).lock(k);
    let next = if pid == 0 {
        t.idle(k)
    } else {
        task::find(k, pid)
    };
    bug_on!(k, Sched, next.is_null(), pid);
    context_switch(k, prev, next);
    t.rq_lock(k).unlock(k);
    finish(k, prev);
    k.end(Probe::Switch);
    if pid == 0 {
        // Nobody is left to run: the trace is at its end. The frame is the dead task's; the machine stops at it.
        if k.two_tables() {
            prev.thread_info(k).set_user_pgd(k, arch::swapper_pg_dir(k));
        }
        return frame;
    }
    next.frame(k)
}

/// The running task sleeps and is the next to run, or waits for a device: to idle and back, page tables kept.
pub fn sleep_and_wake<K: Kernel>(k: K) {
    let t = tasks(k);
    let task = current(k);
    k.begin(Probe::Switch);
    task.set_state(k, SLEEPING);
    t.rq_lock(k).lock(k);
    context_switch(k, task, t.idle(k));
    t.rq_lock(k).unlock(k);
    finish(k, task);
    k.end(Probe::Switch);
    k.begin(Probe::Idle);
    k.idle();
    k.end(Probe::Idle);
    k.begin(Probe::Switch);
    task.set_state(k, RUNNING);
    t.rq_lock(k).lock(k);
    context_switch(k, t.idle(k), task);
    t.rq_lock(k).unlock(k);
    finish(k, t.idle(k));
    k.end(Probe::Switch);
}

/// Loads what `next` needs and makes it current.
fn context_switch<K: Kernel>(k: K, prev: Low<Task>, next: Low<Task>) {
    let mm = next.mm(k);
    let old = prev.active_mm(k);
    if mm.is_null() {
        // A kernel thread borrows the tables that are loaded.
        next.set_active_mm(k, old);
        mmgrab(k, old);
        enter_lazy_tlb(k, old);
    } else {
        switch_mm(k, old, mm, next);
    }
    if prev.mm(k).is_null() {
        // prev borrowed (idle) or has given up (exit): its reference goes in finish().
        prev.set_active_mm(k, Low::NULL);
        tasks(k).set_prev_mm(k, old);
    }
    this_cpu(k).set_current(k, next);
    let idle = next == tasks(k).idle(k);
    if !idle {
        arch::load_esp0(k, next.thread_info(k));
    }
}

/// finish_task_switch: drops the address space that `prev` had borrowed or given up.
fn finish<K: Kernel>(k: K, prev: Low<Task>) {
    let t = tasks(k);
    let mm = t.prev_mm(k);
    if !mm.is_null() {
        t.set_prev_mm(k, Low::NULL);
        if current(k).mm(k).is_null() && prev.state(k) == DEAD {
            // Only at the end of a trace: idle must not keep the last address space.
            leave_mm(k);
            this_cpu(k).set_tlb_active_mm(k, Low::NULL);
            let idle = current(k);
            let borrowed = idle.active_mm(k);
            idle.set_active_mm(k, init_mm(k));
            mmgrab(k, init_mm(k));
            mmdrop(k, borrowed);
        }
        mmdrop(k, mm);
    }
    if prev.state(k) == DEAD {
        t.set_dead(k, prev);
    }
}

/// The CPU runs a borrower of `mm` from now on (enter_lazy_tlb).
pub fn enter_lazy_tlb<K: Kernel>(k: K, _mm: Low<Mm>) {
    let cpu = this_cpu(k);
    if cpu.tlb_state(k) == TLBSTATE_OK {
        cpu.set_tlb_state(k, TLBSTATE_LAZY);
    }
}

/// Loads the kernel's own tables in place of borrowed ones (leave_mm); the mm is not told of flushes any more.
pub fn leave_mm<K: Kernel>(k: K) {
    let cpu = this_cpu(k);
    let mm = cpu.tlb_active_mm(k);
    bug_on!(
        k,
        Sched,
        mm.is_null() || cpu.tlb_state(k) == TLBSTATE_OK,
        mm.va()
    );
    k.clear_bit(mm.field(120), 0);
    k.load_cr3(arch::swapper_pg_dir(k));
}

/// Makes the tables of `next` the loaded ones, on behalf of `task` (switch_mm).
pub fn switch_mm<K: Kernel>(k: K, prev: Low<Mm>, next: Low<Mm>, task: Low<Task>) {
    let cpu = this_cpu(k);
    if k.two_tables() {
        // The tables are loaded on the way back to user mode.
        let root = physical(k, next);
        task.thread_info(k).set_user_pgd(k, root);
    }
    if prev != next {
        if !prev.is_null() {
            k.clear_bit(prev.field(120), 0);
        }
        cpu.set_tlb_state(k, TLBSTATE_OK);
        cpu.set_tlb_active_mm(k, next);
        k.set_bit(next.field(120), 0);
        if !k.two_tables() {
            k.load_cr3(physical(k, next));
        }
    } else {
        cpu.set_tlb_state(k, TLBSTATE_OK);
        bug_on!(k, Sched, cpu.tlb_active_mm(k) != next, next.va());
        if !k.test_and_set_bit(next.field(120), 0) {
            // It was left while lazy: its tables must be loaded again.
            cpu.set_tlb_active_mm(k, next);
            if !k.two_tables() {
                k.load_cr3(physical(k, next));
            }
        }
    }
}

/// exec: current runs in `next` from now on.
pub fn activate_mm<K: Kernel>(k: K, prev: Low<Mm>, next: Low<Mm>) {
    switch_mm(k, prev, next, current(k));
}

/// Physical address of an mm's page directory pointers.
#[inline(always)]
fn physical<K: Kernel>(k: K, mm: Low<Mm>) -> u32 {
    mm.pgd(k).va().wrapping_sub(k.page_offset())
}

/// Timer interrupt: what do_timer, update_process_times and scheduler_tick do to plain words. No VM state changes.
pub fn tick<K: Kernel>(k: K, frame: Low<Frame>) {
    let t = tasks(k);
    t.xtime_lock(k).lock(k);
    t.set_jiffies(k, t.jiffies(k).wrapping_add(1));
    let ns = t.xtime_nsec(k).wrapping_add(t.tick_nsec(k));
    if ns >= 1_000_000_000 {
        t.set_xtime_nsec(k, ns.wrapping_sub(1_000_000_000));
        t.set_xtime_sec(k, t.xtime_sec(k).wrapping_add(1));
    } else {
        t.set_xtime_nsec(k, ns);
    }
    t.xtime_lock(k).unlock(k);
    let task = current(k);
    if frame.cs(k) & 3 != 0 {
        task.set_utime(k, task.utime(k).wrapping_add(1));
    } else {
        task.set_stime(k, task.stime(k).wrapping_add(1));
    }
    if task.mm(k).is_null() {
        t.set_idle_ticks(k, t.idle_ticks(k).wrapping_add(1));
        return;
    }
    // The time slice runs out; who runs next is the trace's decision.
    let left = t.time_slice(k);
    t.set_time_slice(k, if left == 0 { 100 } else { left.wrapping_sub(1) });
}
