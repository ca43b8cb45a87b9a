//! munmap (body follows).
