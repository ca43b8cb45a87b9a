//! Free lists by order. (skeleton)
