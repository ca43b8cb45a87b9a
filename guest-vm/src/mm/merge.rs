//! merge (body follows).
