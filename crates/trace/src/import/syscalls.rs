//! System call numbers and the bytes their classes copy.
