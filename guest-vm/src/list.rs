//! Circular doubly linked lists of embedded heads (include/linux/list.h). Kernels of the time prefetch the next element in
//! list walks; prefetches are not modelled, and reports say so.
//!
//! Invariant: a head points to itself, or every `next.prev` is the element.

use crate::guest_struct;
use crate::kernel::Kernel;
use crate::ptr::Low;

guest_struct! {
    /// list_head.
    pub struct ListHead [K] size 8;
    at 0 => word next, set_next: Low<ListHead>;
    at 4 => word prev, set_prev: Low<ListHead>;
}

impl Low<ListHead> {
    /// Makes it an empty list (or an element on no list).
    #[inline(always)]
    pub fn init<K: Kernel>(self, k: K) {
        self.set_next(k, self);
        self.set_prev(k, self);
    }
    /// Whether the list is empty.
    #[inline(always)]
    pub fn is_empty<K: Kernel>(self, k: K) -> bool {
        self.next(k) == self
    }
    #[inline(always)]
    fn insert_between<K: Kernel>(self, k: K, prev: Self, next: Self) {
        next.set_prev(k, self);
        self.set_next(k, next);
        self.set_prev(k, prev);
        prev.set_next(k, self);
    }
    /// Adds this element right behind `head` (list_add).
    #[inline(always)]
    pub fn add_to<K: Kernel>(self, k: K, head: Self) {
        self.insert_between(k, head, head.next(k));
    }
    /// Adds this element at the end of the list (list_add_tail).
    #[inline(always)]
    pub fn add_tail_to<K: Kernel>(self, k: K, head: Self) {
        self.insert_between(k, head.prev(k), head);
    }
    /// Takes this element off its list; its own links stay as they were.
    #[inline(always)]
    pub fn del<K: Kernel>(self, k: K) {
        let (next, prev) = (self.next(k), self.prev(k));
        next.set_prev(k, prev);
        prev.set_next(k, next);
    }
    /// Takes this element off its list and makes it empty (list_del_init).
    #[inline(always)]
    pub fn del_init<K: Kernel>(self, k: K) {
        self.del(k);
        self.init(k);
    }
}
