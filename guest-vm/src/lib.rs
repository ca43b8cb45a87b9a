//! The guest kernel: the virtual-memory layer of Linux 2.4-2.6 and its rivals, as real 32-bit code.
//!
//! Principles (decision D3): one source, two ways to run it. Compiled for i686 it is the image that the emulated CPU
//! executes; compiled for the host it works on the *same* guest memory, without timing. Both ways must leave identical memory.
//! Hence: no mutable statics; one [`root`] object at a fixed address; guest objects are reached only through
//! [`ptr::Low`] and accessors with *written* offsets ([`guest_struct!`]), which are the table of historic layouts (D12);
//! no reference, `usize`, function pointer or niche enum ever lies in guest memory; the kernel runs to completion and
//! a task is switched only on its way back to user mode ([`trap::kernel_main`] takes a frame and returns a frame).
//!
//! Everything the kernel asks of the world goes through one [`kernel::Kernel`] handle.
//!
//! | module | owns |
//! |---|---|
//! | [`kernel`] | the handle: memory, primitives, probes; the types that differ between images |
//! | [`ptr`], [`mod@guest_struct`] | guest pointers; structures with written offsets |
//! | [`layout`], [`struct_page`] | every historic structure, one table |
//! | [`sync`], [`list`] | locks, bit operations and atomics as `smp` had them; list heads |
//! | [`rmap`] | reverse maps: the trait, one file per scheme |
//! | [`mm`] | address spaces: one file per operation |
//! | [`rbtree`] | red-black trees |
//! | [`task`], [`sched`], [`syscall`], [`mailbox`] | tasks, who runs, system calls, what the trace says |
//! | [`uaccess`] | copies between kernel and user memory |
//! | [`root`] | the one root object, by module |
//! | [`boot`], [`arch`], [`trap`] | start, descriptor tables, the one way in and out |
//! | [`page_alloc`], [`slab`], [`kmap`], [`pgtable`], [`tlb`] | memory below the VM layer |
//! | [`percpu`] | current, counters |
//! | [`page`], [`lru`] | struct page, its flags and locks; LRU lists and their vectors |
//! | [`page_cache`], [`radix_tree`], [`mod@file`], [`swap`] | files, shared memory and their pages; swap |
//! | [`prio_tree`] | which vmas map a page of a file |
//! | [`writeback`] | dirty inodes, thresholds and ages, pdflush, fsync |
//! | [`reclaim`], [`shmem`] | page reclaim, kswapd, out of memory; shared memory that can be swapped |
//! | [`io`], [`clock`] | page writes under way; VM time |
//! | [`check`] | invariants by brute force (native only) |
//! | [`bug`] | how an invariant fails |
//!
//! Invariant: this crate knows nothing of the emulator.
#![cfg_attr(target_os = "none", no_std)]

pub mod arch;
pub mod axes;
pub mod boot;
pub mod bug;
#[cfg(not(target_os = "none"))]
pub mod check;
pub mod clock;
pub mod cluster;
pub mod file;
pub mod guest_struct;
pub mod io;
pub mod kernel;
pub mod kmap;
pub mod layout;
pub mod list;
pub mod lru;
pub mod mailbox;
pub mod mm;
pub mod objects;
pub mod page;
pub mod page_alloc;
pub mod page_cache;
pub mod percpu;
pub mod pgtable;
pub mod prio_tree;
pub mod ptr;
pub mod radix_tree;
pub mod rbtree;
pub mod reclaim;
pub mod rmap;
pub mod root;
pub mod sched;
pub mod shmem;
pub mod slab;
pub mod struct_page;
pub mod swap;
pub mod sync;
pub mod syscall;
pub mod task;
pub mod tlb;
pub mod trap;
pub mod uaccess;
pub mod uaccess_direct;
pub mod uaccess_split;
pub mod writeback;
#[cfg(all(target_arch = "x86", target_os = "none"))]
pub mod x86;
