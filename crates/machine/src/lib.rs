//! One machine: CPU, MMU, guest image, trace source, devices and probes, in native and in cycle mode.
//!
//! Principles: the same guest kernel runs natively or on the emulated CPU, on the same memory (decision D3); ring 3 is a trace
//! (D2); machines are values, nothing is global (D16); what a guest does wrong is a value, what a host does wrong an
//! error (D17).
//!
//! | module | owns |
//! |---|---|
//! | [`image`], [`archive`] | the guest kernel's ELF file and its symbols; where they are kept |
//! | [`device`] | file content and swap |
//! | [`native`] | the kernel's handle on the host |
//! | `user_copy` | the direct user copy, natively |
//! | [`walk`] | the page walk in software |
//! | [`rows`] | the image rows as types |
//! | [`machine`] | a machine: memory with a booted kernel, at a boundary |
//! | [`replayer`], [`call`], [`mailbox`] | the trace as steps of ring 3; system calls and the mailbox |
//! | [`drive_native`], [`cycle`], [`books`] | both modes; what probes tell |
//! | [`mod@replay`] | one replay and its measurement |
//! | [`hash`], [`lowmem`], [`identity`] | memory_hash, low memory by owner, native against cycle |
//! | [`reclaimed`] | what reclaim took, in either mode |
//! | [`lockstep`] | the fast engine against the reference |
//! | [`bare`] | the machine for images of the user's own
//! | [`sample`] | many samples of one piece of a trace |
//!
//! Invariant: both modes leave the same guest memory, but for kernel stacks and declared time words.

pub mod archive;
pub mod bare;
pub mod books;
pub mod call;
mod check;
mod check_touched;
pub mod cycle;
pub mod decisions;
pub mod device;
pub mod disk;
pub mod drive_native;
pub mod error;
pub mod hash;
pub mod identity;
pub mod image;
pub mod lockstep;
pub mod lowmem;
pub mod machine;
pub mod mailbox;
pub mod measure;
pub mod native;
pub mod plain;
pub mod reclaimed;
pub mod replay;
pub mod replayer;
pub mod rows;
pub mod sample;
mod unmap_probe;
mod user_copy;
pub mod walk;

pub use error::MachineError;
pub use machine::Eviction;
pub use replay::{
    Check, ReplayOptions, Stoppable, replay, replay_decisions, replay_evictions, replay_keeping,
    replay_or_stop,
};
