//! What the machine and the guest kernel share: where things lie in low physical memory, what the mailbox says, which
//! ports and probes exist.
//!
//! Compiled twice, for i686 and for the host. Everything in guest memory is made of 32-bit words, so that no layout depends
//! on a compiler's alignment of `u64`.
//!
//! | module | owns |
//! |---|---|
//! | [`layout`] | physical addresses of the shared pages and of the kernel image |
//! | [`boot`] | [`boot::BootInfo`], read by the guest once; [`boot::CpuStart`], written by boot |
//! | [`mailbox`] | what the trace source tells the kernel before each entry |
//! | [`call`] | system-call numbers (those of i386 Linux) |
//! | [`port`] | I/O ports, fatal reports, transfer requests |
//! | [`probe`] | measuring points in guest code |
//! | [`owner`] | whom a page of low memory belongs to |
//!
//! Invariant: append only. A number once given is never given another meaning.
#![no_std]

pub mod boot;
pub mod call;
pub mod layout;
pub mod mailbox;
pub mod owner;
pub mod port;
pub mod probe;
