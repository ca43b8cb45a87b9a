//! fremap (body follows).
