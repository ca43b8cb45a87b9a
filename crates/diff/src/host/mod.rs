//! The host CPU as oracle.
//!
//! On x86-64 Linux a 64-bit process may run 32-bit code: CS 0x23 is a compatibility-mode segment.
//! A case is entered by `iretq` and leaves by a far jump from [`crate::layout::EXIT`] back to 64-bit
//! code, without a signal; an exception comes as a signal, whose context holds all registers, vector,
//! error code and CR2. Elsewhere [`Host::new`] says that there is no oracle.
//!
//! Invariant: at most one [`Host`] in a process, used by the thread that made it.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use linux::Host;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use none::Host;

/// The host is no oracle.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not x86-64 Linux.
    #[error("the host is not x86-64 linux")]
    Unsupported,
    /// A system call failed.
    #[error("{what}: {source}")]
    Call {
        /// Which.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// Something of the process lies below 4 GiB, where a case could reach it.
    #[error("the process has a mapping below 4 GiB: {0}")]
    Mapped(String),
}

impl HostError {
    /// The host simply cannot do this: a test that needs it is skipped.
    pub fn is_unsupported(&self) -> bool {
        match self {
            HostError::Unsupported => true,
            HostError::Call { source, .. } => matches!(
                source.raw_os_error(),
                // EPERM, ENOSYS, EACCES, EINVAL: a sandbox, or a kernel without modify_ldt.
                Some(1 | 38 | 13 | 22)
            ),
            HostError::Mapped(_) => false,
        }
    }
}
