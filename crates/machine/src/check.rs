//! `--check`: the kernel's invariants by brute-force scan, at a boundary.
//!
//! The scan is the guest kernel's own ([`guest_vm::check`]), run natively on the machine's memory. Invariant: it changes nothing.

use crate::error::MachineError;
use crate::machine::{Machine, guarded};
use crate::native::Row;

impl<I: Row> Machine<I> {
    /// Checks everything; `operation` is for the message.
    pub fn check(&self, operation: u64) -> Result<(), MachineError> {
        let k = self.k;
        let found = guarded(|| guest_vm::check::all(k)).map_err(|e| MachineError::Check {
            operation,
            reason: e.to_string(),
        })?;
        found.map_err(|violation| MachineError::Check {
            operation,
            reason: format!("{violation:?}"),
        })
    }
}
