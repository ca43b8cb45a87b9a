//! The guest kernel: the Linux 2.4-2.6 virtual-memory layer and its rivals, no_std
