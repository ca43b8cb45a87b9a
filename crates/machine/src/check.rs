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
    /// Checks that owners sum to the pages taken from the zones, and that the report's books of low memory do.
    pub fn check_owners(&self, operation: u64) -> Result<(), MachineError> {
        let failed = |reason| MachineError::Check { operation, reason };
        let books = guarded(|| {
            guest_vm::check::owners(self.k)
                .map(|()| (self.lowmem(), u64::from(self.low_pages_used()) << 12))
        })
        .map_err(|e| failed(e.to_string()))?;
        let (books, taken) = books.map_err(|violation| failed(format!("{violation:?}")))?;
        let sum: u64 = books.by_owner.iter().sum();
        if sum != taken {
            return Err(failed(format!(
                "owners of low memory sum to {sum} bytes, {taken} are taken from its zones"
            )));
        }
        Ok(())
    }

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
