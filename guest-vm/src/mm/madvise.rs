//! madvise (body follows).
