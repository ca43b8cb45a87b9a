//! mlock (body follows).
