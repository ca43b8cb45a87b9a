//! fork (body follows).
