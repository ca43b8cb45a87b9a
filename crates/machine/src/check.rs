//! `--check`: the kernel's invariants by brute-force scan, at a boundary.
//!
//! The scan is the guest kernel's own ([`guest_vm::check`]), run natively on the machine's memory. Invariant: it changes nothing.

use crate::error::MachineError;
use crate::machine::{Machine, guarded};

impl Machine {
    /// Checks everything; `operation` is for the message.
    pub fn check(&self, operation: u64) -> Result<(), MachineError> {
        let k = self.k;
        let found = guarded(|| guest_vm::check::all(k)).map_err(|e| MachineError::Check {
            operation,
            reason: e.to_string(),
        })?;
        found.map_err(|violation| MachineError::Check {
            operation,
            reason: format!("{violation:?}\n{}", self.maps()),
        })
    }
}

impl Machine {
    /// The running task's vmas in words, one a line.
    pub fn maps(&self) -> String {
        let k = self.k;
        let mut out = String::new();
        guest_vm::check::each_vma(k, guest_vm::task::current(k).mm(k), |vma| {
            out.push_str(&format!(
                "{:08x}-{:08x} flags {:#x} pgoff {:#x} file {:?} part {:08x?}\n",
                vma.start(k),
                vma.end(k),
                vma.flags(k),
                vma.pgoff(k),
                vma.file(k),
                (0..3)
                    .map(|i| vma.rmap_fields::<_, u32>(k).field::<u32>(i * 4).read(k))
                    .collect::<Vec<_>>(),
            ));
        });
        out
    }
}
