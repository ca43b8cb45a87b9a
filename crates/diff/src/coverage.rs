//! What was executed, by form.
//!
//! Counted on the reference engine as it steps: every instruction that was reached, and how many of
//! them retired without a fault. Invariant: only cases that were compared count.

use crate::exclude;
use iced_x86::Code;
use serde::Serialize;
use std::collections::BTreeMap;

/// Counts by form.
#[derive(Debug, Clone)]
pub struct Coverage {
    executed: Vec<u64>,
    completed: Vec<u64>,
}

/// A form's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Count {
    /// Times it was executed.
    pub executed: u64,
    /// Times it retired without a fault.
    pub completed: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        let n = Code::values().len();
        Coverage {
            executed: vec![0; n],
            completed: vec![0; n],
        }
    }
}

impl Coverage {
    /// An instruction was executed.
    #[inline]
    pub fn add(&mut self, code: Code, completed: bool) {
        self.executed[code as usize] += 1;
        self.completed[code as usize] += u64::from(completed);
    }

    /// The counts by the form's name: every integer form, and whatever else was executed.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        let wanted: Vec<Code> = exclude::integer_forms().collect();
        Code::values()
            .filter(|&c| self.executed[c as usize] != 0 || wanted.contains(&c))
            .map(|c| {
                let count = Count {
                    executed: self.executed[c as usize],
                    completed: self.completed[c as usize],
                };
                (format!("{c:?}"), count)
            })
            .collect()
    }
}
