//! Stand-ins for what the guest kernel does not export yet. To be removed.
#![allow(missing_docs, clippy::todo, reason = "to be removed")]

pub(crate) mod check {
    use guest_vm::kernel::Kernel;
    pub(crate) fn all<K: Kernel>(_: K) -> Result<(), u32> {
        todo!()
    }
}
