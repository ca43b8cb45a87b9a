//! The table of historic structures that several modules share: sizes and offsets of Linux 2.6.7, SMP, PAE, no NUMA (the
//! project's fact sheets, compiled or counted from the headers of that tag; asserted by `tests/layout.rs`).
//!
//! What a reverse map adds to a structure comes from `K::Rmap`: a pte_chain kernel has no anon_vma link in its vmas, so
//! its vma is 12 bytes smaller, as it was before 2.6.7. Structures private to one module are declared there.

use crate::axes::{CacheKind, MapKind};
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::list::ListHead;
use crate::ptr::Low;
use crate::rmap::ReverseMap;
use crate::sync::{RwSem, SpinLock};

guest_struct! {
    /// What an entry stub leaves on the kernel stack (pt_regs of i386).
    pub struct Frame [K] size 60;
    at 0 => word ebx, set_ebx: u32;
    at 4 => word ecx, set_ecx: u32;
    at 8 => word edx, set_edx: u32;
    at 12 => word esi, set_esi: u32;
    at 16 => word edi, set_edi: u32;
    at 20 => word ebp, set_ebp: u32;
    at 24 => word eax, set_eax: u32;
    at 28 => word ds, set_ds: u32;
    at 32 => word es, set_es: u32;
    /// Error code of an exception, number of a system call, or the interrupt's vector.
    at 36 => word orig_eax, set_orig_eax: u32;
    at 40 => word eip, set_eip: u32;
    at 44 => word cs, set_cs: u32;
    at 48 => word eflags, set_eflags: u32;
    at 52 => word esp, set_esp: u32;
    at 56 => word ss, set_ss: u32;
}

/// struct page, page->flags: bits of 2.6.7 (include/linux/page-flags.h), owner and zone in the top byte.
pub mod pg {
    /// Page lock.
    pub const LOCKED: u32 = 0;
    /// Referenced through a system call or when first mapped.
    pub const REFERENCED: u32 = 2;
    /// Content is valid.
    pub const UPTODATE: u32 = 3;
    /// Differs from its backing store.
    pub const DIRTY: u32 = 4;
    /// On an LRU list.
    pub const LRU: u32 = 5;
    /// On the active list.
    pub const ACTIVE: u32 = 6;
    /// Belongs to slab.
    pub const SLAB: u32 = 7;
    /// In the highmem zone.
    pub const HIGHMEM: u32 = 8;
    /// Never touched by the VM (kernel image, holes, zero page).
    pub const RESERVED: u32 = 11;
    /// page->private holds something.
    pub const PRIVATE: u32 = 12;
    /// Being written.
    pub const WRITEBACK: u32 = 13;
    /// Bit lock of the reverse map (PG_chainlock, PG_maplock).
    pub const MAPLOCK: u32 = 15;
    /// pte_chain kernels: the rmap word is the one pte itself.
    pub const DIRECT: u32 = 16;
    /// Reclaim waits for its write.
    pub const RECLAIM: u32 = 18;
    /// Part of a higher-order allocation.
    pub const COMPOUND: u32 = 19;
    /// page->mapping is an anonymous object.
    pub const ANON: u32 = 20;
    /// In the swap cache, page->private is the entry.
    pub const SWAPCACHE: u32 = 21;
    /// First of six bits: [`lowmem_abi::owner::Owner`].
    pub const OWNER_SHIFT: u32 = 24;
    /// First of two bits: the zone.
    pub const ZONE_SHIFT: u32 = 30;
}

guest_struct! {
    /// struct page: 32 bytes since 2.6.6/rmap 9, also with PAE. A page cache of lists needs page->list besides, behind the
    /// rest ([`PAGE_LIST`]); chains with HIGHPTE the high half of a physical address, at the end.
    pub struct Page [K k] size page_struct_bytes(k);
    at 0 => word flags, set_flags: u32;
    at 4 => word count, set_count: u32;
    /// mapcount, or the pte_chain kernels' union of direct pte and chain.
    at 8 => word rmap, set_rmap: u32;
    at 12 => word private, set_private: u32;
    at 16 => word mapping, set_mapping: u32;
    at 20 => word index, set_index: u32;
    at 24 => part lru: ListHead;
}

/// Where page->list lies, with a page cache of lists: 2.6.0 had it at 8, before `mapping`; behind the fields of 2.6.7 here.
pub const PAGE_LIST: u32 = 32;

/// Bytes of a struct page.
#[inline(always)]
pub fn page_struct_bytes<K: Kernel>(k: K) -> u32 {
    let wide = if wide_direct_pte(k) { 4 } else { 0 };
    match k.axes().page_cache {
        CacheKind::Tagged => 32 + wide,
        CacheKind::Lists => 40 + wide,
    }
}

/// Whether page->pte.direct is 8 bytes: a chain's name of a pte in high memory.
#[inline(always)]
fn wide_direct_pte<K: Kernel>(k: K) -> bool {
    k.highpte() && matches!(k.axes().rmap, MapKind::PteChain | MapKind::Objrmap)
}

impl Low<Page> {
    /// High half of a direct pte's physical address (chains with HIGHPTE; 2.6.0 had it next to the low half).
    #[inline(always)]
    pub fn rmap_high<K: Kernel>(self, k: K) -> u32 {
        self.field::<u32>(page_struct_bytes(k) - 4).read(k)
    }
    /// Sets it.
    #[inline(always)]
    pub fn set_rmap_high<K: Kernel>(self, k: K, v: u32) {
        self.field::<u32>(page_struct_bytes(k) - 4).write(k, v);
    }
    /// A struct page of mem_map before its page is free for the first time: nothing maps it.
    #[inline(always)]
    pub fn init_rmap<K: Kernel>(self, k: K) {
        self.set_rmap(k, 0);
        if wide_direct_pte(k) {
            self.set_rmap_high(k, 0);
        }
    }
    /// Address of the flags word, for bit operations.
    #[inline(always)]
    pub fn flags_word(self) -> Low<u32> {
        self.field(0)
    }
    /// Address of the reference count.
    #[inline(always)]
    pub fn count_word(self) -> Low<u32> {
        self.field(4)
    }
}

/// vm_flags (include/linux/mm.h).
pub mod vm {
    /// May be read now.
    pub const READ: u32 = 0x1;
    /// May be written now.
    pub const WRITE: u32 = 0x2;
    /// May be executed now.
    pub const EXEC: u32 = 0x4;
    /// Shared.
    pub const SHARED: u32 = 0x8;
    /// mprotect may add reading.
    pub const MAYREAD: u32 = 0x10;
    /// mprotect may add writing.
    pub const MAYWRITE: u32 = 0x20;
    /// mprotect may add execution.
    pub const MAYEXEC: u32 = 0x40;
    /// mprotect may add sharing.
    pub const MAYSHARE: u32 = 0x80;
    /// Stack.
    pub const GROWSDOWN: u32 = 0x100;
    /// mlocked.
    pub const LOCKED: u32 = 0x2000;
    /// Mapped from a device.
    pub const IO: u32 = 0x4000;
    /// Not copied on fork.
    pub const DONTCOPY: u32 = 0x2_0000;
    /// Cannot be expanded by mremap.
    pub const DONTEXPAND: u32 = 0x4_0000;
    /// Not to be unmapped by reclaim.
    pub const RESERVED: u32 = 0x8_0000;
    /// Charged to commit.
    pub const ACCOUNT: u32 = 0x10_0000;
    /// remap_file_pages was used.
    pub const NONLINEAR: u32 = 0x80_0000;
}

guest_struct! {
    /// vm_area_struct: 84 bytes with prio_tree and anon_vma (2.6.7), less what the reverse map does not need.
    pub struct Vma [K k] size 72 + K::Rmap::vma_bytes(k);
    at 0 => word mm, set_mm: Low<Mm>;
    at 4 => word start, set_start: u32;
    at 8 => word end, set_end: u32;
    at 12 => word next, set_next: Low<Vma>;
    at 16 => word page_prot, set_page_prot: u32;
    at 20 => word flags, set_flags: u32;
    at 24 => part rb: RbNode;
    /// List form: links and parent word; tree form: prio_tree_node.
    at 40 => part shared: VmaShared;
    /// What the reverse map adds (anon_vma: list head and pointer).
    at 56 => opaque rmap_part: u8, 0;
    at 56 + K::Rmap::vma_bytes(k) => word ops, set_ops: u32;
    at 60 + K::Rmap::vma_bytes(k) => word pgoff, set_pgoff: u32;
    at 64 + K::Rmap::vma_bytes(k) => word file, set_file: Low<File>;
    at 68 + K::Rmap::vma_bytes(k) => word private, set_private: u32;
}

impl Low<Vma> {
    /// Address of the reverse map's own fields.
    #[inline(always)]
    pub fn rmap_fields<T>(self) -> Low<T> {
        self.field(56)
    }
}

guest_struct! {
    /// rb_node: parent, colour, right, left.
    pub struct RbNode [K] size 16;
    at 0 => word parent, set_parent: Low<RbNode>;
    at 4 => word color, set_color: u32;
    at 8 => word right, set_right: Low<RbNode>;
    at 12 => word left, set_left: Low<RbNode>;
}

guest_struct! {
    /// vma->shared: a list of i_mmap, or a node of the prio_tree and the list of vmas with the same range.
    pub struct VmaShared [K] size 16;
    at 0 => part list: ListHead;
    at 8 => word parent, set_parent: u32;
    at 12 => word head, set_head: Low<Vma>;
}

guest_struct! {
    /// mm_struct, 2.6.7: 524 bytes, rss at 104.
    pub struct Mm [K k] size 524 + K::Rmap::mm_bytes(k);
    at 0 => word mmap, set_mmap: Low<Vma>;
    at 4 => word mm_rb, set_mm_rb: Low<RbNode>;
    at 8 => word mmap_cache, set_mmap_cache: Low<Vma>;
    at 12 => word free_area_cache, set_free_area_cache: u32;
    at 16 => word pgd, set_pgd: Low<Pgd>;
    at 20 => word users, set_users: u32;
    at 24 => word count, set_count: u32;
    at 28 => word map_count, set_map_count: u32;
    at 32 => part mmap_sem: RwSem;
    at 48 => part page_table_lock: SpinLock;
    at 52 => part mmlist: ListHead;
    at 60 => word start_code, set_start_code: u32;
    at 64 => word end_code, set_end_code: u32;
    at 68 => word start_data, set_start_data: u32;
    at 72 => word end_data, set_end_data: u32;
    at 76 => word start_brk, set_start_brk: u32;
    at 80 => word brk, set_brk: u32;
    at 84 => word start_stack, set_start_stack: u32;
    at 104 => word rss, set_rss: u32;
    at 108 => word total_vm, set_total_vm: u32;
    at 112 => word locked_vm, set_locked_vm: u32;
    at 116 => word def_flags, set_def_flags: u32;
    at 120 => word cpu_vm_mask, set_cpu_vm_mask: u32;
    /// What the reverse map adds.
    at 524 => opaque rmap_part: u8, 0;
}

guest_struct! {
    /// Page directory pointer table: four 64-bit entries, from slab "pgd".
    pub struct Pgd [K] size 32;
    at 0 => words half, set_half: u32, 8;
}

guest_struct! {
    /// task_struct, 2.6.7: 1,424 bytes, of which the rebuilt kernel uses these; the rest is copied on fork as it was.
    pub struct Task [K] size 1424;
    at 0 => word state, set_state: u32;
    at 4 => word thread_info, set_thread_info: Low<ThreadInfo>;
    at 8 => word usage, set_usage: u32;
    /// Index of the trace's thread.
    at 12 => word pid, set_pid: u32;
    at 16 => word mm, set_mm: Low<Mm>;
    at 20 => word active_mm, set_active_mm: Low<Mm>;
    at 24 => word parent, set_parent: Low<Task>;
    at 28 => part tasks: ListHead;
    at 36 => part pid_hash: ListHead;
    /// Frame on its kernel stack while it does not run.
    at 44 => word frame, set_frame: Low<Frame>;
    at 48 => word flags, set_flags: u32;
    at 52 => word signal, set_signal: u32;
    at 56 => word sighand, set_sighand: u32;
    at 60 => word files, set_files: u32;
    at 64 => word fs, set_fs: u32;
    /// Declared time words: charged, never compared between modes.
    at 68 => word utime, set_utime: u32;
    at 72 => word stime, set_stime: u32;
    at 76 => word min_flt, set_min_flt: u32;
    at 80 => word maj_flt, set_maj_flt: u32;
}

guest_struct! {
    /// thread_info at the low end of the kernel stack: 52 bytes (4G/4G: real and virtual stack, user pgd).
    pub struct ThreadInfo [K] size 52;
    at 0 => word task, set_task: Low<Task>;
    at 4 => word flags, set_flags: u32;
    at 8 => word cpu, set_cpu: u32;
    at 12 => word preempt_count, set_preempt_count: u32;
    /// Offset-carrying address of the real stack in the direct map.
    at 16 => word real_stack, set_real_stack: u32;
    /// Its virtual address in the shared window.
    at 20 => word virtual_stack, set_virtual_stack: u32;
    /// Physical address of the user page directory pointers.
    at 24 => word user_pgd, set_user_pgd: u32;
}

guest_struct! {
    /// struct file of a mapped file: 148 bytes, f_mapping behind the rest.
    pub struct File [K] size 148;
    at 0 => word f_count, set_f_count: u32;
    at 4 => word f_dentry, set_f_dentry: u32;
    /// File id of the trace.
    at 8 => word id, set_id: u32;
    /// Next in the table's hash chain.
    at 12 => word hash_next, set_hash_next: Low<File>;
    /// What vma->ops of its mappings is, see `file.rs`.
    at 16 => word f_op, set_f_op: u32;
    /// Read-around state (f_ra): hits and misses of faults.
    at 96 => word mmap_hit, set_mmap_hit: u32;
    at 100 => word mmap_miss, set_mmap_miss: u32;
    at 144 => word f_mapping, set_f_mapping: Low<Mapping>;
}

guest_struct! {
    /// address_space: 84 bytes, inside the inode (2.6.7). Without NR_RESERVED fields nobody reads. A page cache of lists has
    /// four list heads behind it ([`crate::page_cache::lists`]).
    pub struct Mapping [K] size 84;
    at 0 => word host, set_host: u32;
    at 4 => part page_tree: RadixRoot;
    at 16 => part tree_lock: SpinLock;
    at 20 => word nrpages, set_nrpages: u32;
    at 24 => word writeback_index, set_writeback_index: u32;
    at 28 => word a_ops, set_a_ops: u32;
    /// prio_tree root (node, index_bits); with `file_vmas = list` the list of private mappings.
    at 32 => part i_mmap: ListHead;
    at 40 => word i_mmap_writable, set_i_mmap_writable: u32;
    at 44 => part i_mmap_nonlinear: ListHead;
    at 52 => part i_mmap_lock: SpinLock;
    at 56 => word truncate_count, set_truncate_count: u32;
    at 60 => word mapping_flags, set_mapping_flags: u32;
    /// `file_vmas = list` only: shared mappings, in words (private_list) that nobody reads here.
    at 72 => part i_mmap_shared: ListHead;
}

guest_struct! {
    /// radix_tree_root: height, gfp mask, node.
    pub struct RadixRoot [K] size 12;
    at 0 => word height, set_height: u32;
    at 4 => word gfp_mask, set_gfp_mask: u32;
    at 8 => word rnode, set_rnode: u32;
}

/// Values of vma->ops: which vm_operations_struct. A closed set, because no function pointer lies in guest memory.
pub mod vm_ops {
    /// Anonymous.
    pub const NONE: u32 = 0;
    /// A file: nopage and populate of the page cache.
    pub const FILE: u32 = 1;
    /// Shared anonymous memory (shmem): nopage; no open, no close.
    pub const SHMEM: u32 = 2;
    /// A SysV segment: nopage of its shmem file, and open and close, which count attachments.
    pub const SHM: u32 = 3;
}
