//! mprotect (body follows).
