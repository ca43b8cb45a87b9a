//! exit (body follows).
