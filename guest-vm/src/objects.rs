//! Root of the memory objects: boot parameters of the reverse maps, zero page, file table, swap.
//!
//! Stands for the global variables of mm/{memory,swapfile,swap_state}.c and fs/{file_table,inode}.c. Invariant: written by [`init`]
//! before the first fault.

use crate::cluster;
use crate::file;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::kmap::{KmType, kmap_atomic, kunmap_atomic};
use crate::layout::{File, Mapping, Mm, Page, pg};
use crate::lru;
use crate::page_alloc::{self, Gfp};
use crate::page_cache::buffers;
use crate::ptr::Low;
use crate::root;
use crate::swap::{self, SwapInfo};
use crate::sync::SpinLock;
use crate::writeback;
use core::mem::offset_of;
use lowmem_abi::boot::BootInfo;
use lowmem_abi::layout::BOOT_INFO;
use lowmem_abi::owner::Owner;

guest_struct! {
    /// At [`root::OBJECTS`].
    pub struct Objects [K] size 0x2000;
    /// The page of zeros that read faults on anonymous memory map.
    at 0 => word zero_page, set_zero_page: Low<Page>;
    /// 0: i_mmap lists, 1: prio_tree.
    at 4 => word file_vmas, set_file_vmas: u32;
    /// Bytes of a pte_chain block.
    at 8 => word chain_line, set_chain_line: u32;
    /// 1: page_referenced flushes what it clears.
    at 12 => word young_flush, set_young_flush: u32;
    /// Shared anonymous objects made without an id so far.
    at 16 => word anonymous_objects, set_anonymous_objects: u32;
    at 20 => part files_lock: SpinLock;
    /// CPUs of this boot: one of them means mmu_gather's fast mode.
    at 24 => word cpus, set_cpus: u32;
    /// swap_out's cursor: the mm it works on (init_mm's place before the first).
    at 60 => word swap_mm, set_swap_mm: Low<Mm>;
    /// 0: clusters of nonlinear vmas are unmapped, 1: whole vmas.
    at 28 => word nonlinear, set_nonlinear: u32;
    /// Which pages of files have buffer heads ([`buffers`]), the limit of their number, and whether it is passed.
    at 36 => word buffers, set_buffers: u32;
    at 40 => word max_buffer_heads, set_max_buffer_heads: u32;
    at 44 => word buffer_heads_over_limit, set_buffer_heads_over_limit: u32;
    at 48 => part page_uptodate_lock: SpinLock;
    at 64 => part swapper_space: Mapping;
    at 192 => part swap: SwapInfo;
    /// Heads of the file table's hash chains.
    at 0x1000 => words file_hash, set_file_hash: Low<File>, 1024;
}

/// The root of the memory objects.
#[inline(always)]
pub fn objects<K: Kernel>(k: K) -> Low<Objects> {
    root::part(k, root::OBJECTS)
}

/// A word of the boot information, by byte offset.
#[inline(always)]
fn boot_word<K: Kernel>(k: K, offset: usize) -> u32 {
    root::low_at::<K, u32>(k, BOOT_INFO)
        .field::<u32>(offset as u32)
        .read(k)
}

/// Boot: reads the parameters, makes the zero page, the empty file table and the swap map.
pub fn init<K: Kernel>(k: K) -> Result<(), Oom> {
    let o = objects(k);
    o.set_file_vmas(k, boot_word(k, offset_of!(BootInfo, file_vmas)));
    let line = boot_word(k, offset_of!(BootInfo, chain_line));
    o.set_chain_line(k, if line == 0 { 128 } else { line });
    o.set_young_flush(k, boot_word(k, offset_of!(BootInfo, young_flush)));
    o.set_nonlinear(k, boot_word(k, offset_of!(BootInfo, nonlinear)));
    buffers::init(k, boot_word(k, offset_of!(BootInfo, buffers)));
    o.set_cpus(k, boot_word(k, offset_of!(BootInfo, cpus)));
    o.set_anonymous_objects(k, 0);
    o.set_swap_mm(k, Low::NULL);
    o.files_lock(k).init(k);
    let mut i = 0;
    while i < 1024 {
        o.set_file_hash(k, i, Low::NULL);
        i += 1;
    }
    lru::init(k);
    crate::reclaim::init(k);
    let zero = page_alloc::alloc_pages(k, Gfp::Kernel, 0, Owner::Boot)?;
    let at = kmap_atomic(k, zero, KmType::User0);
    cluster::clear_page(k, at);
    kunmap_atomic(k, at, KmType::User0);
    zero.set_flags(k, zero.flags(k) | 1 << pg::RESERVED);
    o.set_zero_page(k, zero);
    file::mapping_init(k, o.swapper_space(k), file::OPS_SWAP);
    writeback::init(k);
    swap::init(k, boot_word(k, offset_of!(BootInfo, swap_slots)))
}
