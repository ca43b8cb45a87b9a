//! mmap (body follows).
