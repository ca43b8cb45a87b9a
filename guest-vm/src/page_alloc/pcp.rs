//! Per-CPU page lists. (skeleton)
