//! Physical memory to 64 GiB, page walks (32-bit and PAE), TLBs and caches of the emulated machine.
//!
//! Everything that decides what a memory access finds and which *events* it causes is here; what events cost is not
//! (decision D4). The rules of translation and invalidation are those of the SDM, volume 3A, chapter 4; the rules of counting
//! are decision D5.
//!
//! | module | owns |
//! |---|---|
//! | [`addr`] | addresses and frame numbers |
//! | [`phys`], `low`, `high`, `frame` | guest memory, its representations and clones |
//! | `entry`, `walk`, `counted_walk` | page-table entries, the plain walker, the counted one |
//! | `sets` | the set-associative table under all TLBs and caches |
//! | `tlb`, `shadow`, `host_tlb`, `tlb_unit` | the architectural TLB, its shadow, the shortcut, the three together |
//! | `pde_cache`, `cache`, `front_end` | walk cache, L1D/L2/L3 and memory, L1I or trace cache |
//! | [`mmu`], `control`, `data`, `fetch`, `span` | the unit the CPU talks to, by kind of operation |
//!
//! Principles: exact before fast, and every shortcut has a slow twin ([`Mmu::reference`]); memory representations, host
//! pointers and shortcuts never change a count; no global state, so machines are values.

pub mod addr;
mod cache;
mod code_watch;
mod control;
mod counted_walk;
mod data;
mod entry;
mod fetch;
mod frame;
mod front_end;
mod geometry;
mod high;
mod host_tlb;
mod low;
pub mod mmu;
mod pde_cache;
pub mod phys;
mod sets;
mod shadow;
mod span;
mod tlb;
mod tlb_unit;
mod walk;

pub use addr::{PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
pub use control::{ControlError, Cr3Load};
pub use frame::PageWords;
pub use geometry::{GeometryError, check_geometry};
pub use mmu::{AccessKind, Mmu, PageFault, PagingMode, Privilege};
pub use phys::{PhysError, PhysMem};
pub use span::Span;
