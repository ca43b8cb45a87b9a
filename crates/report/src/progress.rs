//! How a long run says how far it is, and hears that it should stop.
//!
//! Invariant: nothing a run does depends on who listens, except that it ends early when told to.

/// Somebody who listens to a run. Called every few thousand operations, from the thread that runs.
pub trait Progress: Sync {
    /// `done` of `total` operations are done, `instructions` guest instructions retired so far.
    fn at(&self, done: u64, total: u64, instructions: u64);

    /// Low memory in use now, and all of it; said before [`Progress::at`].
    fn lowmem(&self, _used_bytes: u64, _total_bytes: u64) {}

    /// The run should end as soon as it can.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn at(&self, _done: u64, _total: u64, _instructions: u64) {}
}
