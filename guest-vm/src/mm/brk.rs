//! brk (body follows).
