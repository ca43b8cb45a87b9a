//! Physical memory to 64 GiB, the PAE walk, TLBs and caches of the emulated machine.

pub mod addr;
mod frame;
mod high;
mod low;
pub mod mmu;
pub mod phys;

pub use addr::{PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
pub use frame::PageWords;
pub use mmu::{AccessKind, ControlError, Cr3Load, GeometryError, Mmu, PageFault, Privilege, Span};
pub use phys::{PhysError, PhysMem};
