//! Ring 3 as data.

/// What the CPU remembers of a source's user code.
#[derive(Debug, Clone, Default)]
pub(crate) struct UserState {}
