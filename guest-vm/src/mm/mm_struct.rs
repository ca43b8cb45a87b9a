//! mm_struct (body follows).
