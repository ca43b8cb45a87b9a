//! mremap (body follows).
