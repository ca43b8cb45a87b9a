//! Invariants over the whole state, by brute force; native only.
