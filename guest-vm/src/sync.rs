//! Spin locks, bit locks, semaphores and atomics as the `smp` build of 2.6 had them (asm-i386/{spinlock,bitops,atomic}.h; counts per
//! operation: design D12). On one CPU a lock is never contended, so waiting is a BUG; what the experiment needs is the
//! instruction and the store. `up` builds drop lock prefixes (`Kernel::SMP` is false) and spin locks.
//!
//! Invariant: every lock is free at a boundary.

use crate::bug_on;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::ptr::Low;

guest_struct! {
    /// spinlock_t: one word, 1 = free (no debugging).
    pub struct SpinLock [K] size 4;
    at 0 => word slock, set_slock: u32;
}

impl Low<SpinLock> {
    /// Makes it free.
    #[inline(always)]
    pub fn init<K: Kernel>(self, k: K) {
        self.set_slock(k, 1);
    }
    /// Takes it.
    #[inline(always)]
    pub fn lock<K: Kernel>(self, k: K) {
        if k.smp() {
            let free = k.spin_lock_byte(self.cast());
            bug_on!(k, Sync, !free, self.va());
        }
    }
    /// Takes it if free.
    #[inline(always)]
    pub fn trylock<K: Kernel>(self, k: K) -> bool {
        if k.inject_trylock_failure() {
            return false;
        }
        !k.smp() || k.spin_trylock_byte(self.cast())
    }
    /// Gives it back.
    #[inline(always)]
    pub fn unlock<K: Kernel>(self, k: K) {
        if k.smp() {
            k.spin_unlock_byte(self.cast());
        }
    }
    /// Whether it is free (for checks).
    pub fn is_free<K: Kernel>(self, k: K) -> bool {
        self.slock(k) & 0xff == 1
    }
}

guest_struct! {
    /// struct semaphore: count, sleepers, wait queue (20 bytes). 1 = free.
    pub struct Semaphore [K] size 20;
    at 0 => word count, set_count: u32;
    at 4 => word sleepers, set_sleepers: u32;
    at 8 => part wait_lock: SpinLock;
    at 12 => word wait_next, set_wait_next: u32;
    at 16 => word wait_prev, set_wait_prev: u32;
}

impl Low<Semaphore> {
    /// Makes it free (init_MUTEX).
    pub fn init<K: Kernel>(self, k: K) {
        self.set_count(k, 1);
        self.set_sleepers(k, 0);
        self.wait_lock(k).init(k);
        self.set_wait_next(k, self.va() + 12);
        self.set_wait_prev(k, self.va() + 12);
    }
    /// Takes it: one locked decrement.
    #[inline(always)]
    pub fn down<K: Kernel>(self, k: K) {
        let free = k.atomic_dec_and_test(self.field(0));
        bug_on!(k, Sync, !free, self.va());
    }
    /// Takes it if free: one locked decrement. (Its holder may sleep, so on one CPU too it can be taken; here never.)
    #[inline(always)]
    pub fn down_trylock<K: Kernel>(self, k: K) -> bool {
        if k.inject_trylock_failure() {
            return false;
        }
        self.down(k);
        true
    }
    /// Gives it back: one locked increment.
    #[inline(always)]
    pub fn up<K: Kernel>(self, k: K) {
        k.atomic_add(self.field(0), 1);
    }
    /// Whether it is free (for checks).
    pub fn is_free<K: Kernel>(self, k: K) -> bool {
        self.count(k) == 1
    }
}

guest_struct! {
    /// rw_semaphore: count, wait lock, wait list (16 bytes). Readers add 1, a writer adds 0xffff0001.
    pub struct RwSem [K] size 16;
    at 0 => word count, set_count: u32;
    at 4 => part wait_lock: SpinLock;
    at 8 => word wait_next, set_wait_next: u32;
    at 12 => word wait_prev, set_wait_prev: u32;
}

impl Low<RwSem> {
    /// Makes it free.
    pub fn init<K: Kernel>(self, k: K) {
        self.set_count(k, 0);
        self.wait_lock(k).init(k);
        self.set_wait_next(k, self.va() + 8);
        self.set_wait_prev(k, self.va() + 8);
    }
    /// Takes it for reading: one locked increment.
    #[inline(always)]
    pub fn down_read<K: Kernel>(self, k: K) {
        k.atomic_add(self.field(0), 1);
    }
    /// Gives a reader's hold back: one locked xadd.
    #[inline(always)]
    pub fn up_read<K: Kernel>(self, k: K) {
        k.atomic_add_return(self.field(0), u32::MAX);
    }
    /// Takes it for writing: one locked xadd.
    #[inline(always)]
    pub fn down_write<K: Kernel>(self, k: K) {
        let now = k.atomic_add_return(self.field(0), 0xffff_0001);
        bug_on!(k, Sync, now != 0xffff_0001, self.va());
    }
    /// Gives the writer's hold back.
    #[inline(always)]
    pub fn up_write<K: Kernel>(self, k: K) {
        k.atomic_add_return(self.field(0), 0x0000_ffff);
    }
    /// Turns a writer's hold into a reader's.
    #[inline(always)]
    pub fn downgrade_write<K: Kernel>(self, k: K) {
        k.atomic_add_return(self.field(0), 0x0001_0000);
    }
}
