//! Physical memory to 64 GiB, the PAE walk, TLBs and caches of the emulated machine
