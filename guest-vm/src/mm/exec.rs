//! exec (body follows).
