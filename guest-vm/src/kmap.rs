//! kmap and kmap_atomic (arch/i386/mm/highmem.c, mm/highmem.c). (skeleton: the public signatures are stable)

use crate::kernel::Kernel;
use crate::layout::Page;
use crate::page_alloc::page_address;
use crate::ptr::Kmapped;
use crate::ptr::Low;

/// Slots of kmap_atomic (asm-i386/kmap_types.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "historic names")]
pub enum KmType {
    BounceRead,
    SkbSunrpcData,
    SkbDataSoftirq,
    User0,
    User1,
    BioSrcIrq,
    BioDstIrq,
    Pte0,
    Pte1,
    Pte2,
    Irq0,
    Irq1,
    Softirq0,
    Softirq1,
    UserCopy,
    VstackBase,
    VstackTop,
}

/// Maps a page for a short time into this CPU's slot `ty`; a low page at its direct address, at no cost.
pub fn kmap_atomic<K: Kernel>(k: K, page: Low<Page>, ty: KmType) -> Kmapped {
    let _ = ty;
    Kmapped(page_address(k, page).unwrap_or(0))
}
/// Ends it.
pub fn kunmap_atomic<K: Kernel>(k: K, at: Kmapped, ty: KmType) {
    let _ = (k, at, ty);
}
/// Maps a page into the kmap window.
pub fn kmap<K: Kernel>(k: K, page: Low<Page>) -> Kmapped {
    Kmapped(page_address(k, page).unwrap_or(0))
}
/// Gives a use of the window back.
pub fn kunmap<K: Kernel>(k: K, page: Low<Page>) {
    let _ = (k, page);
}
