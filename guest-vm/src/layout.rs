//! The table of historic structures that several modules share: sizes and offsets of the kernel whose structures the image has
//! ([`crate::axes::Era`]), SMP, PAE, no NUMA (the project's fact sheets, compiled or counted from the headers of each tag; asserted by
//! `tests/layout.rs`).
//!
//! What a reverse map adds to a structure comes from `K::Rmap`; whether files keep their vmas in lists or in a prio_tree is a boot
//! parameter, so it decides sizes, never an offset that a hot path uses. Structures private to one module are declared there.
//!
//! Invariant: in the image of 2.6.7 every offset and size is a constant.

use crate::axes::Era;
use crate::file::Dentry;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::list::ListHead;
use crate::objects::objects;
use crate::page_cache::lists;
use crate::ptr::Low;
use crate::rmap::ReverseMap;
use crate::struct_page;
use crate::sync::{RwSem, Semaphore, SpinLock};
use core::mem::offset_of;
use lowmem_abi::boot::BootInfo;

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
    /// struct page. 2.6.7: 32 bytes, also with PAE; what others had, and in which order: [`crate::struct_page`].
    pub struct Page [K k] size page_struct_bytes(k);
    at struct_page::flags(k.axes()) => word flags, set_flags: u32;
    at struct_page::count(k.axes()) => word count, set_count: u32;
    /// mapcount, or the pte_chain kernels' union of direct pte and chain.
    at struct_page::rmap(k.axes()) => word rmap, set_rmap: u32;
    at struct_page::private(k.axes()) => word private, set_private: u32;
    at struct_page::mapping(k.axes()) => word mapping, set_mapping: u32;
    at struct_page::index(k.axes()) => word index, set_index: u32;
    at struct_page::lru(k.axes()) => part lru: ListHead;
}

/// Bytes of a struct page.
#[inline(always)]
pub fn page_struct_bytes<K: Kernel>(k: K) -> u32 {
    struct_page::bytes(k.axes())
}

/// Whether page->virtual says where kmap shows a page: 2.4. Later a hash does.
#[inline(always)]
pub fn has_page_virtual<K: Kernel>(k: K) -> bool {
    k.axes().era() as u32 == Era::V2_4 as u32
}

impl Low<Page> {
    /// page->list; only with a page cache of lists.
    #[inline(always)]
    pub fn list<K: Kernel>(self, k: K) -> Low<ListHead> {
        self.field(struct_page::list(k.axes()))
    }
    /// High half of a direct pte's physical address (chains with HIGHPTE), next to the low half.
    #[inline(always)]
    pub fn rmap_high<K: Kernel>(self, k: K) -> u32 {
        self.field::<u32>(struct_page::rmap(k.axes()) + 4).read(k)
    }
    /// Sets it.
    #[inline(always)]
    pub fn set_rmap_high<K: Kernel>(self, k: K, v: u32) {
        self.field::<u32>(struct_page::rmap(k.axes()) + 4)
            .write(k, v);
    }
    /// page->virtual (2.4): where kmap shows a high page.
    #[inline(always)]
    pub fn window<K: Kernel>(self, k: K) -> Low<u32> {
        self.field(struct_page::window(k.axes()))
    }
    /// A struct page of mem_map before its page is free for the first time: nothing maps it.
    #[inline(always)]
    pub fn init_rmap<K: Kernel>(self, k: K) {
        self.set_rmap(k, 0);
        if struct_page::wide(k.axes()) {
            self.set_rmap_high(k, 0);
        }
        if has_page_virtual(k) {
            self.window(k).write(k, 0);
        }
    }
    /// Address of the flags word, for bit operations.
    #[inline(always)]
    pub fn flags_word<K: Kernel>(self, k: K) -> Low<u32> {
        self.field(struct_page::flags(k.axes()))
    }
    /// The mapcount, for atomic operations.
    #[inline(always)]
    pub fn rmap_word<K: Kernel>(self, k: K) -> Low<u32> {
        self.field(struct_page::rmap(k.axes()))
    }
    /// Address of the reference count.
    #[inline(always)]
    pub fn count_word<K: Kernel>(self, k: K) -> Low<u32> {
        self.field(struct_page::count(k.axes()))
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

/// Whether `file_vmas` says prio_tree: read from the boot information, for sizes, which boot asks for before the objects' root
/// is set up.
#[inline(always)]
pub fn prio_trees<K: Kernel>(k: K) -> bool {
    crate::task::boot_word(k, offset_of!(BootInfo, file_vmas)) != 0
}

/// Whether vma and address_space have the form of a tree without prio_tree, so that lists decide their size: up to 2.6.6. A constant.
#[inline(always)]
fn list_form<K: Kernel>(k: K) -> bool {
    k.axes().era() as u32 != Era::V2_6_7 as u32
}

/// Whether a vma has the words of a tree node.
#[inline(always)]
pub fn has_tree_words<K: Kernel>(k: K) -> bool {
    !list_form(k) || prio_trees(k)
}

/// Where a vma has what the reverse map adds: behind `shared`, which is a list or a tree node. (In the -aa tree: assumption.)
#[inline(always)]
pub fn vma_rmap_at<K: Kernel>(k: K) -> u32 {
    if list_form(k) { 48 } else { 56 }
}

/// Where vm_ops is.
#[inline(always)]
fn vma_ops_at<K: Kernel>(k: K) -> u32 {
    vma_rmap_at(k) + K::Rmap::vma_bytes(k)
}

/// Where vm_private_data is: 2.4 has vm_raend before it.
#[inline(always)]
fn vma_private_at<K: Kernel>(k: K) -> u32 {
    match k.axes().era() {
        Era::V2_4 => vma_ops_at(k) + 16,
        _ => vma_ops_at(k) + 12,
    }
}

/// Where parent and head of a prio_tree node are: 2.6.7 in the middle. A kernel that never had prio_tree has them at the end.
#[inline(always)]
fn vma_tree_at<K: Kernel>(k: K) -> u32 {
    if list_form(k) {
        vma_private_at(k) + 4
    } else {
        48
    }
}

/// Bytes of a vma.
#[inline(always)]
fn vma_bytes<K: Kernel>(k: K) -> u32 {
    let tree = if list_form(k) && prio_trees(k) { 8 } else { 0 };
    vma_private_at(k) + 4 + tree
}

guest_struct! {
    /// vm_area_struct: 84 bytes with prio_tree and anon_vma (2.6.7), 64 with neither (2.6.0 to 2.6.6), 68 in 2.4.
    pub struct Vma [K k] size vma_bytes(k);
    at 0 => word mm, set_mm: Low<Mm>;
    at 4 => word start, set_start: u32;
    at 8 => word end, set_end: u32;
    at 12 => word next, set_next: Low<Vma>;
    at 16 => word page_prot, set_page_prot: u32;
    at 20 => word flags, set_flags: u32;
    at 24 => part rb: RbNode;
    /// List form: links; tree form: left and right of a prio_tree_node.
    at 40 => part shared: VmaShared;
    /// Tree node: its parent. Null of a vma on a node's list.
    at vma_tree_at(k) => word tree_parent, set_tree_parent: Low<Vma>;
    /// Tree node: head of the list of vmas with the same range; of that head: the node.
    at vma_tree_at(k) + 4 => word tree_head, set_tree_head: Low<Vma>;
    /// What the reverse map adds (anon_vma: list head and pointer).
    at vma_rmap_at(k) => opaque rmap_part: u8, 0;
    at vma_ops_at(k) => word ops, set_ops: u32;
    at vma_ops_at(k) + 4 => word pgoff, set_pgoff: u32;
    at vma_ops_at(k) + 8 => word file, set_file: Low<File>;
    at vma_private_at(k) => word private, set_private: u32;
}

impl Low<Vma> {
    /// Address of the reverse map's own fields.
    #[inline(always)]
    pub fn rmap_fields<K: Kernel, T>(self, k: K) -> Low<T> {
        self.field(vma_rmap_at(k))
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
    /// vma->shared: a list of i_mmap, or the first half of a prio_tree node.
    pub struct VmaShared [K] size 8;
    at 0 => part list: ListHead;
}

/// Where an mm has what the reverse map adds: behind what its kernel had.
#[inline(always)]
pub fn mm_rmap_at<K: Kernel>(k: K) -> u32 {
    match k.axes().era() {
        Era::V2_4 | Era::V2_6_0 => 528,
        Era::V2_6_5Aa | Era::V2_6_6 | Era::V2_6_7 => 524,
    }
}

guest_struct! {
    /// mm_struct: 528 bytes in 2.6.0, 524 since 2.6.5, rss at 104. Offsets are those of 2.6.7 in every image.
    pub struct Mm [K k] size mm_rmap_at(k) + K::Rmap::mm_bytes(k);
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
    at mm_rmap_at(k) => opaque rmap_part: u8, 0;
}

guest_struct! {
    /// Page directory pointer table: four 64-bit entries, from slab "pgd".
    pub struct Pgd [K] size 32;
    at 0 => words half, set_half: u32, 8;
}

/// Bytes of a task_struct.
#[inline(always)]
fn task_bytes<K: Kernel>(k: K) -> u32 {
    match k.axes().era() {
        Era::V2_4 | Era::V2_6_0 => 1584,
        Era::V2_6_5Aa => 1456,
        Era::V2_6_6 | Era::V2_6_7 => 1424,
    }
}

guest_struct! {
    /// task_struct: 1,424 bytes in 2.6.7, of which the rebuilt kernel uses these; the rest is copied on fork as it was.
    pub struct Task [K k] size task_bytes(k);
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
    /// thread_info at the low end of the kernel stack: 52 bytes since 2.6.6, 48 before (4G/4G: real and virtual stack, user pgd).
    pub struct ThreadInfo [K k] size if lists::has_lists(k) { 48 } else { 52 };
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

/// Whether struct file has f_mapping (2.6.5 on): before, the way led through dentry and inode.
#[inline(always)]
fn has_f_mapping<K: Kernel>(k: K) -> bool {
    !matches!(k.axes().era(), Era::V2_4 | Era::V2_6_0)
}

guest_struct! {
    /// struct file of a mapped file: 148 bytes, f_mapping behind the rest; 136 without it.
    pub struct File [K k] size if has_f_mapping(k) { 148 } else { 136 };
    at 0 => word f_count, set_f_count: u32;
    at 4 => word f_dentry, set_f_dentry: Low<Dentry>;
    /// File id of the trace.
    at 8 => word id, set_id: u32;
    /// Next in the table's hash chain.
    at 12 => word hash_next, set_hash_next: Low<File>;
    /// What vma->ops of its mappings is, see `file.rs`.
    at 16 => word f_op, set_f_op: u32;
    /// Read-around state (f_ra): hits and misses of faults.
    at 96 => word mmap_hit, set_mmap_hit: u32;
    at 100 => word mmap_miss, set_mmap_miss: u32;
}

impl Low<File> {
    /// The address_space it maps: f_mapping, or f_dentry->d_inode->i_mapping.
    #[inline(always)]
    pub fn f_mapping<K: Kernel>(self, k: K) -> Low<Mapping> {
        if has_f_mapping(k) {
            self.field::<Low<Mapping>>(144).read(k)
        } else {
            self.f_dentry(k).d_inode(k).i_mapping(k)
        }
    }
    /// Sets f_mapping where there is one.
    #[inline(always)]
    pub fn set_f_mapping<K: Kernel>(self, k: K, mapping: Low<Mapping>) {
        if has_f_mapping(k) {
            self.field::<Low<Mapping>>(144).write(k, mapping);
        }
    }
}

/// Where nrpages of an address_space is: behind the lists, if it has them.
#[inline(always)]
fn mapping_nrpages_at<K: Kernel>(k: K) -> u32 {
    if lists::has_lists(k) { 52 } else { 20 }
}

/// Where a_ops is: 2.6.6 and later have writeback_index before it.
#[inline(always)]
fn mapping_a_ops_at<K: Kernel>(k: K) -> u32 {
    if lists::has_lists(k) { 56 } else { 28 }
}

/// Where i_mmap is.
#[inline(always)]
fn mapping_i_mmap_at<K: Kernel>(k: K) -> u32 {
    mapping_a_ops_at(k) + 4
}

/// Where truncate_count is: behind the semaphore up to 2.6.6, behind the spin lock since.
#[inline(always)]
fn mapping_truncate_at<K: Kernel>(k: K) -> u32 {
    mapping_i_mmap_at(k) + if list_form(k) { 36 } else { 24 }
}

/// Bytes of an address_space. Lists of vmas and a semaphore: 128 bytes in 2.6.0, 124 in 2.6.5, 96 in 2.6.6; a prio_tree and a spin
/// lock: 84 in 2.6.7, and 28 more for the lists of pages where both are combined.
#[inline(always)]
fn mapping_bytes<K: Kernel>(k: K) -> u32 {
    match (k.axes().era(), list_form(k) && !prio_trees(k)) {
        (Era::V2_4 | Era::V2_6_0, true) => 128,
        (Era::V2_6_5Aa, true) => 124,
        (Era::V2_6_6, true) => 96,
        (Era::V2_4 | Era::V2_6_0 | Era::V2_6_5Aa, false) => 112,
        (Era::V2_6_6 | Era::V2_6_7, _) => 84,
    }
}

guest_struct! {
    /// address_space, inside the inode. Up to 2.6.6 (list form): i_mmap, i_mmap_shared, the semaphore i_shared_sem; words at its end that
    /// nobody reads here (private_list) hold what only the rebuilt kernel has. 2.6.7: one prio_tree, the list of
    /// nonlinear vmas, a spin lock.
    pub struct Mapping [K k] size mapping_bytes(k);
    at 0 => word host, set_host: u32;
    at 4 => part page_tree: RadixRoot;
    at 16 => part tree_lock: SpinLock;
    at mapping_nrpages_at(k) => word nrpages, set_nrpages: u32;
    at mapping_i_mmap_at(k) => part i_mmap: ListHead;
    at mapping_a_ops_at(k) => word a_ops, set_a_ops: u32;
    at mapping_truncate_at(k) => word truncate_count, set_truncate_count: u32;
    at mapping_truncate_at(k) + 4 => word mapping_flags, set_mapping_flags: u32;
}

impl Low<Mapping> {
    /// writeback_index; only with tags.
    #[inline(always)]
    pub fn writeback_index<K: Kernel>(self, k: K) -> u32 {
        self.field::<u32>(24).read(k)
    }
    /// Sets it; nothing with lists.
    #[inline(always)]
    pub fn set_writeback_index<K: Kernel>(self, k: K, index: u32) {
        if !lists::has_lists(k) {
            self.field::<u32>(24).write(k, index);
        }
    }
    /// List of shared vmas; only with `file_vmas = list`. A kernel that had prio_tree has it in words that nobody reads.
    #[inline(always)]
    pub fn i_mmap_shared<K: Kernel>(self, k: K) -> Low<ListHead> {
        self.field(if list_form(k) {
            mapping_i_mmap_at(k) + 8
        } else {
            72
        })
    }
    /// List of nonlinear vmas. Before 2.6.7 they were on i_mmap_shared and passed over: the list is then in private_list.
    #[inline(always)]
    pub fn i_mmap_nonlinear<K: Kernel>(self, k: K) -> Low<ListHead> {
        self.field(if !list_form(k) {
            mapping_i_mmap_at(k) + 12
        } else if objects(k).file_vmas(k) != 0 {
            mapping_i_mmap_at(k) + 16
        } else {
            mapping_truncate_at(k) + 16
        })
    }
    /// i_mmap_lock, a spin lock (2.6.7, and i_shared_lock of 2.4).
    #[inline(always)]
    pub fn i_mmap_spin<K: Kernel>(self, k: K) -> Low<SpinLock> {
        self.field(mapping_i_mmap_at(k) + if list_form(k) { 24 } else { 20 })
    }
    /// i_shared_sem (2.6.0 to 2.6.6).
    #[inline(always)]
    pub fn i_shared_sem<K: Kernel>(self, k: K) -> Low<Semaphore> {
        self.field(mapping_i_mmap_at(k) + 16)
    }
    /// private_lock, which guards the buffers of its pages.
    #[inline(always)]
    pub fn private_lock<K: Kernel>(self, k: K) -> Low<SpinLock> {
        self.field(mapping_truncate_at(k) + 12)
    }
    /// i_mmap_writable, counted where [`has_i_mmap_writable`].
    #[inline(always)]
    pub fn i_mmap_writable<K: Kernel>(self, k: K) -> u32 {
        self.field::<u32>(mapping_i_mmap_at(k) + 8).read(k)
    }
    /// Sets it.
    #[inline(always)]
    pub fn set_i_mmap_writable<K: Kernel>(self, k: K, n: u32) {
        self.field::<u32>(mapping_i_mmap_at(k) + 8).write(k, n);
    }
}

/// Whether i_mmap is guarded by the semaphore i_shared_sem: 2.6.0 to 2.6.6 with lists.
#[inline(always)]
pub fn has_shared_sem<K: Kernel>(k: K) -> bool {
    list_form(k) && k.axes().era() as u32 != Era::V2_4 as u32 && objects(k).file_vmas(k) == 0
}

/// Whether an address_space counts its shared vmas: since 2.6.7, not in a kernel of lists.
#[inline(always)]
pub fn has_i_mmap_writable<K: Kernel>(k: K) -> bool {
    !list_form(k) || objects(k).file_vmas(k) != 0
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
