//! Importers.
pub mod syscalls;
