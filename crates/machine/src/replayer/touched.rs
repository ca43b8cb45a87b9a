//! Which user pages an operation referenced, kept for the check after it.
//!
//! A reference gives its page, in the task that made it; a call on a range gives the first and the last page of the range and up
//! to eight between them; a fork gives the pages that the parent wrote last, in both address spaces. Left out: pages that a
//! call copies from or to, which are among those written before.
//!
//! Invariant: nothing is kept unless asked for, and what is replayed does not depend on it.

use super::{Replayer, Step, pid};
use lowmem_trace::Call;

/// A page that an operation referenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touch {
    /// Guest id of a task that has the address space.
    pub pid: u32,
    /// Address of the page.
    pub page: u32,
}

/// Pages looked at between the first and the last of a range.
const SAMPLED: u64 = 8;

impl Replayer {
    /// Keeps referenced pages from now on.
    pub fn keep_touched(&mut self) {
        self.touched = Some(Vec::new());
    }

    /// What was referenced since this was called last, in order, each page once.
    pub fn take_touched(&mut self) -> Vec<Touch> {
        let mut touched = match &mut self.touched {
            Some(kept) => std::mem::take(kept),
            None => Vec::new(),
        };
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    pub(super) fn note_step(&mut self, step: &Step) {
        let pid = pid(self.current);
        let Some(kept) = &mut self.touched else {
            return;
        };
        let (va, len) = match *step {
            Step::Fetch { va, len } => (va, u16::from(len)),
            Step::Load { va, len } | Step::Store { va, len, .. } | Step::Modify { va, len, .. } => {
                (va, len)
            }
            Step::Work(_) | Step::Call(_) | Step::Resched => return,
        };
        let last = va.saturating_add(u32::from(len.max(1)) - 1);
        for page in [va & !0xfff, last & !0xfff] {
            kept.push(Touch { pid, page });
        }
    }

    /// The call is over, its effects on the books are not yet made.
    pub(super) fn note_call(&mut self, call: &Call) {
        if self.touched.is_none() {
            return;
        }
        let caller = pid(self.current);
        match call {
            Call::Mmap { result, len, .. } => self.note_range(caller, *result, *len),
            Call::Munmap { addr, len }
            | Call::Mprotect { addr, len, .. }
            | Call::Madvise { addr, len, .. }
            | Call::Mlock { addr, len }
            | Call::Munlock { addr, len }
            | Call::RemapFilePages { addr, len, .. } => self.note_range(caller, *addr, *len),
            Call::Mremap {
                old,
                old_len,
                new_len,
                result,
                ..
            } => {
                self.note_range(caller, *old, *old_len);
                self.note_range(caller, *result, *new_len);
            }
            // The page before the end and the one behind it.
            Call::Brk { result, .. } => self.note_range(caller, result.wrapping_sub(1), 2),
            Call::Shmat { result: addr, .. } | Call::Shmdt { addr } => {
                self.note_range(caller, *addr, 1);
            }
            Call::Fork { child } | Call::Vfork { child } | Call::Clone { child } => {
                let mm = self.task().mm;
                for i in 0..self.spaces[mm].written.len() {
                    let page = self.spaces[mm].written[i];
                    self.note_range(caller, page, 1);
                    self.note_range(pid(*child), page, 1);
                }
            }
            _ => {}
        }
    }

    fn note_range(&mut self, pid: u32, start: u32, len: u32) {
        let Some(kept) = &mut self.touched else {
            return;
        };
        if len == 0 {
            return;
        }
        let first = start >> 12;
        let steps = u64::from((start.saturating_add(len - 1) >> 12) - first);
        for i in 0..=SAMPLED + 1 {
            let page = (first + (steps * i / (SAMPLED + 1)) as u32) << 12;
            if kept.last() != Some(&Touch { pid, page }) {
                kept.push(Touch { pid, page });
            }
        }
    }
}
