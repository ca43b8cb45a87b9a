//! The slab allocator of 2.6.7 (mm/slab.c), SMP build: per-CPU array, shared array, partial/full/free slabs.
//!
//! Rules: fact sheets, "Slab and kmap details" and "Other objects". Cache descriptors lie in the root object; their per-CPU and
//! shared arrays, which the real kernel takes from its general caches, lie in pages taken at boot (owner `per_cpu`). Off-slab
//! management comes from the general caches as there. [`reap`] is the timer that trims arrays and free slabs. Leaves out: NUMA, debugging.
//!
//! Invariant: objects in the arrays + objects in use = sum of `inuse` over a cache's slabs.

use crate::arch::THREAD_SIZE;
use crate::axes::Era;
use crate::bug_on;
use crate::cluster;
use crate::file::{Dentry, Inode};
use crate::guest_struct;
use crate::guest_struct::Layout;
use crate::kernel::{Kernel, Oom};
use crate::layout::{File, Mm, Page, Pgd, Task, Vma, page_struct_bytes, pg};
use crate::list::ListHead;
use crate::page_alloc::{Gfp, alloc_pages, free_pages, page_address, virt_to_page, zone};
use crate::page_cache::buffers::{self, BufferHead};
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::radix_tree::RadixNode;
use crate::rmap::ReverseMap;
use crate::root;
use crate::sync::SpinLock;
use lowmem_abi::layout::PAGE_SIZE;
use lowmem_abi::owner::Owner;

pub mod reap;

use reap::{REAP_SLABS_MS, reap_if_due};

macro_rules! caches {
    ($( $(#[$doc:meta])* $Name:ident, $text:literal, $owner:ident, $align:ident; )*) => {
        /// A cache. The set is closed: no function pointer or name lies in guest memory.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum CacheId { $( $(#[$doc])* $Name ),* }
        impl CacheId {
            /// Every cache, in order of number.
            pub const ALL: &'static [CacheId] = &[ $( CacheId::$Name ),* ];
            /// Name as in /proc/slabinfo.
            pub const fn name(self) -> &'static str { match self { $( CacheId::$Name => $text ),* } }
            /// Whom its pages belong to.
            pub const fn owner(self) -> Owner { match self { $( CacheId::$Name => Owner::$owner ),* } }
            const fn align(self) -> Align { match self { $( CacheId::$Name => Align::$align ),* } }
        }
    };
}

/// How objects are aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    /// To a word.
    Word,
    /// To a cache line, or the largest half, quarter ... of one that holds the object (SLAB_HWCACHE_ALIGN).
    Line,
    /// To their own size.
    Size,
}

// The general caches come first: off-slab management of the others is allocated from them.
caches! {
    /// kmalloc of 32 bytes.
    Size32, "size-32", Kmalloc, Line;
    /// kmalloc of 64 bytes.
    Size64, "size-64", Kmalloc, Line;
    /// kmalloc of 128 bytes.
    Size128, "size-128", Kmalloc, Line;
    /// kmalloc of 256 bytes.
    Size256, "size-256", Kmalloc, Line;
    /// kmalloc of 512 bytes.
    Size512, "size-512", Kmalloc, Line;
    /// kmalloc of 1,024 bytes.
    Size1024, "size-1024", Kmalloc, Line;
    /// kmalloc of 2,048 bytes.
    Size2048, "size-2048", Kmalloc, Line;
    /// Page directory pointers; constructed with the kernel's slot.
    Pgd, "pgd", Pgd, Size;
    /// Page directories; constructed zero.
    Pmd, "pmd", Pmd, Size;
    /// Last page directory of a 4G/4G process; constructed with the shared top entries.
    Kpmd, "kpmd", Pmd, Size;
    /// pte_chain blocks of one cache line; constructed zero.
    PteChain, "pte_chain", PteChain, Size;
    /// anon_vma; constructed unlocked and empty.
    AnonVma, "anon_vma", AnonVma, Word;
    /// vm_area_struct.
    Vma, "vm_area_struct", Vma, Word;
    /// mm_struct.
    Mm, "mm_struct", Mm, Line;
    /// task_struct.
    Task, "task_struct", Task, Line;
    /// sighand_struct.
    Sighand, "sighand_cache", ProcessOther, Line;
    /// signal_struct.
    Signal, "signal_cache", ProcessOther, Line;
    /// files_struct.
    Files, "files_cache", ProcessOther, Line;
    /// fs_struct.
    Fs, "fs_cache", ProcessOther, Line;
    /// struct file.
    Filp, "filp", ProcessOther, Line;
    /// inode.
    Inode, "inode_cache", Inode, Line;
    /// dentry.
    Dentry, "dentry_cache", Dentry, Word;
    /// buffer_head; constructed zero, on no list.
    BufferHead, "buffer_head", BufferHead, Word;
    /// radix_tree_node; constructed zero.
    RadixNode, "radix_tree_node", RadixTree, Word;
    /// Inode of a shared-memory object.
    ShmInode, "shmem_inode_cache", Inode, Line;
    /// anonmm objects; only there under that scheme.
    Anonmm, "anonmm", Anonmm, Word;
    /// anon_vma_chain links; only there under that scheme.
    AnonVmaChain, "anon_vma_chain", AnonVmaChain, Word;
    /// Kernel stacks; only there when a page is larger than one.
    Stack, "kernel_stack", Stack, Size;
}

impl CacheId {
    /// Bytes of an object as its creator asked for (fact sheet, "Other objects").
    pub fn object_bytes<K: Kernel>(self, k: K) -> u32 {
        match self {
            CacheId::Size32 => 32,
            CacheId::Size64 => 64,
            CacheId::Size128 => 128,
            CacheId::Size256 => 256,
            CacheId::Size512 => 512,
            CacheId::Size1024 => 1024,
            CacheId::Size2048 => 2048,
            CacheId::Pgd => Pgd::size(k),
            CacheId::Pmd | CacheId::Kpmd => PAGE_SIZE,
            CacheId::PteChain | CacheId::AnonVma | CacheId::Anonmm | CacheId::AnonVmaChain => {
                K::Rmap::cache_bytes(k, self).unwrap_or(0)
            }
            CacheId::Vma => Vma::size(k),
            CacheId::Mm => Mm::size(k),
            CacheId::Task => Task::size(k),
            CacheId::Sighand => 1288,
            // Grew by the time of 2.6.6.
            CacheId::Signal => match k.axes().era() {
                Era::V2_4 | Era::V2_6_0 | Era::V2_6_5Aa => 44,
                Era::V2_6_6 | Era::V2_6_7 => 72,
            },
            CacheId::Files => 416,
            CacheId::Fs => 36,
            CacheId::Filp => File::size(k),
            CacheId::Inode => Inode::size(k),
            CacheId::Dentry => Dentry::size(k),
            CacheId::BufferHead => BufferHead::size(k),
            CacheId::RadixNode => RadixNode::size(k),
            // shmem_inode_info: the bare inode and 88 bytes of its own, of which 16 direct swap entries (recalled).
            CacheId::ShmInode => Inode::size(k) + crate::shmem::Info::size(k),
            CacheId::Stack if cluster::page_bytes(k) > THREAD_SIZE => THREAD_SIZE,
            CacheId::Stack => 0,
        }
    }

    /// Whether this image has the cache: those of other reverse maps are not created.
    pub fn exists<K: Kernel>(self, k: K) -> bool {
        self.object_bytes(k) != 0
    }

    /// General cache for `bytes` (kmem_find_general_cachep); the largest if none holds them.
    pub const fn general(bytes: u32) -> CacheId {
        match bytes {
            0..=32 => CacheId::Size32,
            33..=64 => CacheId::Size64,
            65..=128 => CacheId::Size128,
            129..=256 => CacheId::Size256,
            257..=512 => CacheId::Size512,
            513..=1024 => CacheId::Size1024,
            _ => CacheId::Size2048,
        }
    }
}

guest_struct! {
    /// array_cache: a stack of free objects; `limit` pointers follow.
    pub struct ArrayCache [K] size 16;
    at 0 => word avail, set_avail: u32;
    at 4 => word limit, set_limit: u32;
    at 8 => word batchcount, set_batchcount: u32;
    at 12 => word touched, set_touched: u32;
}

guest_struct! {
    /// kmem_cache_t (SMP, one CPU's array pointer used of eight), without name and debugging.
    pub struct Cache [K] size 256;
    at 0 => words array, set_array: u32, 8;
    at 32 => word batchcount, set_batchcount: u32;
    at 36 => word limit, set_limit: u32;
    at 40 => part slabs_partial: ListHead;
    at 48 => part slabs_full: ListHead;
    at 56 => part slabs_free: ListHead;
    at 64 => word free_objects, set_free_objects: u32;
    at 68 => word free_touched, set_free_touched: u32;
    at 72 => word next_reap, set_next_reap: u32;
    at 76 => word shared, set_shared: Low<ArrayCache>;
    at 80 => word objsize, set_objsize: u32;
    at 84 => word flags, set_flags: u32;
    /// Objects of a slab.
    at 88 => word num, set_num: u32;
    at 92 => word free_limit, set_free_limit: u32;
    at 96 => part spinlock: SpinLock;
    at 100 => word gfporder, set_gfporder: u32;
    at 104 => word colour, set_colour: u32;
    at 108 => word colour_off, set_colour_off: u32;
    at 112 => word colour_next, set_colour_next: u32;
    at 116 => word slab_size, set_slab_size: u32;
    /// 1: management of its slabs comes from a general cache.
    at 120 => word off_slab, set_off_slab: u32;
    at 124 => word id, set_id: u32;
    /// Slabs now held (a statistic; debugging kernels have it).
    at 128 => word num_slabs, set_num_slabs: u32;
}

guest_struct! {
    /// struct slab: 24 bytes, at the front of an on-slab slab; a 16-bit kmem_bufctl_t for each object follows.
    pub struct Slab [K] size 24;
    at 0 => part list: ListHead;
    at 8 => word colouroff, set_colouroff: u32;
    at 12 => word s_mem, set_s_mem: u32;
    at 16 => word inuse, set_inuse: u32;
    at 20 => word free, set_free: u16;
}

/// End of a slab's chain of free objects.
pub(crate) const BUFCTL_END: u16 = 0xffff;
/// Most objects an untouched per-CPU array is refilled with.
const BATCHREFILL_LIMIT: u32 = 16;
/// Bytes of one cache's arrays: per-CPU array of up to 120, shared array of up to 480 pointers.
const ARRAYS_BYTES: u32 = 16 + 120 * 4 + 16 + 480 * 4;

/// Bytes that boot must give [`init`] for the arrays of all caches.
pub fn boot_bytes<K: Kernel>(k: K) -> u32 {
    let mut bytes = 0;
    for id in CacheId::ALL {
        if id.exists(k) {
            bytes += ARRAYS_BYTES;
        }
    }
    bytes
}

/// A cache's descriptor.
#[inline(always)]
pub fn cache<K: Kernel>(k: K, id: CacheId) -> Low<Cache> {
    root::part::<K, Cache>(k, root::SLAB).field(id as u32 * 256)
}

#[inline(always)]
fn entry(array: Low<ArrayCache>, i: u32) -> Low<u32> {
    array.field(16 + i * 4)
}

/// The per-CPU array.
#[inline(always)]
fn cpu_array<K: Kernel>(k: K, cachep: Low<Cache>) -> Low<ArrayCache> {
    Low::new(cachep.array(k, 0))
}

/// Allocates an object; constructed caches return it in constructed state.
#[inline]
pub fn kmem_cache_alloc<K: Kernel, T>(k: K, id: CacheId, gfp: Gfp) -> Result<Low<T>, Oom> {
    let cachep = cache(k, id);
    let flags = k.irq_save();
    let ac = cpu_array(k, cachep);
    let avail = ac.avail(k);
    let object = if avail != 0 {
        ac.set_touched(k, 1);
        ac.set_avail(k, avail - 1);
        Ok(Low::new(entry(ac, avail - 1).read(k)))
    } else {
        refill(k, id, gfp)
    };
    k.irq_restore(flags);
    object
}

/// Gives an object back.
#[inline]
pub fn kmem_cache_free<K: Kernel, T>(k: K, id: CacheId, object: Low<T>) {
    let cachep = cache(k, id);
    let flags = k.irq_save();
    let ac = cpu_array(k, cachep);
    if ac.avail(k) >= ac.limit(k) {
        flush_array(k, id, ac);
    }
    let avail = ac.avail(k);
    entry(ac, avail).write(k, object.va());
    ac.set_avail(k, avail + 1);
    k.irq_restore(flags);
}

/// cache_alloc_refill: the per-CPU array is empty.
#[inline(never)]
fn refill<K: Kernel, T>(k: K, id: CacheId, gfp: Gfp) -> Result<Low<T>, Oom> {
    reap_if_due(k);
    let cachep = cache(k, id);
    let ac = cpu_array(k, cachep);
    loop {
        let mut batch = ac.batchcount(k);
        if ac.touched(k) == 0 && batch > BATCHREFILL_LIMIT {
            batch = BATCHREFILL_LIMIT;
        }
        cachep.spinlock(k).lock(k);
        if !take_shared(k, cachep, ac, batch) {
            take_from_slabs(k, cachep, ac, batch);
            cachep.set_free_objects(k, cachep.free_objects(k).wrapping_sub(ac.avail(k)));
        }
        cachep.spinlock(k).unlock(k);
        if let Some(object) = take_top(k, ac) {
            return Ok(object);
        }
        grow(k, id, gfp)?;
        // Reclaim inside may have freed objects into the array.
        if let Some(object) = take_top(k, ac) {
            return Ok(object);
        }
    }
}

/// The newest object of the array.
#[inline(always)]
fn take_top<K: Kernel, T>(k: K, ac: Low<ArrayCache>) -> Option<Low<T>> {
    let avail = ac.avail(k);
    if avail == 0 {
        return None;
    }
    ac.set_touched(k, 1);
    ac.set_avail(k, avail - 1);
    Some(Low::new(entry(ac, avail - 1).read(k)))
}

/// Moves objects from the shared array; whether it had any.
fn take_shared<K: Kernel>(k: K, cachep: Low<Cache>, ac: Low<ArrayCache>, batch: u32) -> bool {
    let shared = cachep.shared(k);
    if shared.is_null() || shared.avail(k) == 0 {
        return false;
    }
    let have = shared.avail(k);
    let n = if batch < have { batch } else { have };
    shared.set_avail(k, have - n);
    let mut i = 0;
    while i < n {
        entry(ac, i).write(k, entry(shared, have - n + i).read(k));
        i += 1;
    }
    ac.set_avail(k, n);
    shared.set_touched(k, 1);
    true
}

/// Fills the array from partial, then free slabs.
fn take_from_slabs<K: Kernel>(k: K, cachep: Low<Cache>, ac: Low<ArrayCache>, batch: u32) {
    let num = cachep.num(k);
    let objsize = cachep.objsize(k);
    let mut left = batch;
    while left > 0 {
        let mut head = cachep.slabs_partial(k);
        if head.is_empty(k) {
            cachep.set_free_touched(k, 1);
            head = cachep.slabs_free(k);
            if head.is_empty(k) {
                return;
            }
        }
        let slab: Low<Slab> = head.next(k).container(0);
        let mut inuse = slab.inuse(k);
        let mut free = slab.free(k);
        let mut avail = ac.avail(k);
        let s_mem = slab.s_mem(k);
        while inuse < num && left > 0 {
            entry(ac, avail).write(k, s_mem.wrapping_add(u32::from(free) * objsize));
            avail += 1;
            inuse += 1;
            left -= 1;
            free = bufctl(slab, u32::from(free)).read(k);
        }
        slab.set_inuse(k, inuse);
        slab.set_free(k, free);
        ac.set_avail(k, avail);
        slab.list(k).del(k);
        let to = if free == BUFCTL_END {
            cachep.slabs_full(k)
        } else {
            cachep.slabs_partial(k)
        };
        slab.list(k).add_to(k, to);
    }
}

/// slab_bufctl: which free object follows object `i`, behind the slab's management.
#[inline(always)]
pub(crate) fn bufctl(slab: Low<Slab>, i: u32) -> Low<u16> {
    slab.field(24 + i * 2)
}

/// cache_grow: one more slab on the free list.
fn grow<K: Kernel>(k: K, id: CacheId, gfp: Gfp) -> Result<(), Oom> {
    let cachep = cache(k, id);
    cachep.spinlock(k).lock(k);
    let mut colour = cachep.colour_next(k);
    let next = if colour + 1 >= cachep.colour(k) {
        0
    } else {
        colour + 1
    };
    cachep.set_colour_next(k, next);
    cachep.spinlock(k).unlock(k);
    colour *= cachep.colour_off(k);

    let order = cachep.gfporder(k);
    let num = cachep.num(k);
    let page = match k.lend(order, id.owner()) {
        Some(page) => page,
        None => alloc_pages(k, gfp, order, id.owner())?,
    };
    mod_page_state(k, State::NrSlab, 1 << order);
    let Some(memory) = page_address(k, page) else {
        crate::bug::bug(k, crate::bug::File::Slab, line!(), page.va())
    };
    let slab: Low<Slab> = if cachep.off_slab(k) != 0 {
        match kmem_cache_alloc(k, CacheId::general(cachep.slab_size(k)), gfp) {
            Ok(slab) => slab,
            Err(oom) => {
                mod_page_state(k, State::NrSlab, (1u32 << order).wrapping_neg());
                free_pages(k, page, order);
                return Err(oom);
            }
        }
    } else {
        let slab = Low::new(memory.wrapping_add(colour));
        colour += cachep.slab_size(k);
        slab
    };
    slab.set_inuse(k, 0);
    slab.set_colouroff(k, colour);
    slab.set_s_mem(k, memory.wrapping_add(colour));

    // Each page says its cache and slab (in page->lru).
    let mut i = 0;
    while i < 1 << order {
        let p: Low<Page> = page.field(i * page_struct_bytes(k));
        p.set_flags(k, p.flags(k) | (1 << pg::SLAB));
        p.lru(k).set_next(k, cachep.cast());
        p.lru(k).set_prev(k, slab.cast());
        i += 1;
    }

    let objsize = cachep.objsize(k);
    let mut i = 0;
    while i < num {
        construct(k, id, slab.s_mem(k).wrapping_add(i * objsize));
        bufctl(slab, i).write(k, (i + 1) as u16);
        i += 1;
    }
    bufctl(slab, num - 1).write(k, BUFCTL_END);
    slab.set_free(k, 0);

    cachep.spinlock(k).lock(k);
    slab.list(k).add_tail_to(k, cachep.slabs_free(k));
    cachep.set_free_objects(k, cachep.free_objects(k).wrapping_add(num));
    cachep.set_num_slabs(k, cachep.num_slabs(k) + 1);
    cachep.spinlock(k).unlock(k);
    Ok(())
}

/// Constructors of constructed caches.
fn construct<K: Kernel>(k: K, id: CacheId, object: u32) {
    match id {
        CacheId::Pgd => crate::pgtable::pgd_ctor(k, Low::new(object)),
        CacheId::Pmd => k.clear_page(crate::ptr::Kmapped(object)),
        CacheId::Kpmd => crate::pgtable::kpmd_ctor(k, object),
        CacheId::PteChain | CacheId::RadixNode => {
            let mut at = 0;
            while at < id.object_bytes(k) {
                Low::<u32>::new(object.wrapping_add(at)).write(k, 0);
                at += 4;
            }
        }
        CacheId::BufferHead => buffers::construct(k, Low::new(object)),
        CacheId::AnonVma => {
            Low::<SpinLock>::new(object).init(k);
            Low::<ListHead>::new(object.wrapping_add(4)).init(k);
        }
        CacheId::Anonmm => {
            Low::<SpinLock>::new(object.wrapping_add(4)).init(k);
            Low::<ListHead>::new(object.wrapping_add(16)).init(k);
        }
        CacheId::Size32
        | CacheId::Size64
        | CacheId::Size128
        | CacheId::Size256
        | CacheId::Size512
        | CacheId::Size1024
        | CacheId::Size2048
        | CacheId::Vma
        | CacheId::Mm
        | CacheId::Task
        | CacheId::Sighand
        | CacheId::Signal
        | CacheId::Files
        | CacheId::Fs
        | CacheId::Filp
        | CacheId::Inode
        | CacheId::Dentry
        | CacheId::ShmInode
        | CacheId::AnonVmaChain
        | CacheId::Stack => {}
    }
}

/// cache_flusharray: the per-CPU array is full; the oldest batch goes to the shared array or back to its slabs.
#[inline(never)]
fn flush_array<K: Kernel>(k: K, id: CacheId, ac: Low<ArrayCache>) {
    let cachep = cache(k, id);
    let mut batch = ac.batchcount(k);
    cachep.spinlock(k).lock(k);
    let shared = cachep.shared(k);
    let room = if shared.is_null() {
        0
    } else {
        shared.limit(k) - shared.avail(k)
    };
    if room != 0 {
        if batch > room {
            batch = room;
        }
        let have = shared.avail(k);
        let mut i = 0;
        while i < batch {
            entry(shared, have + i).write(k, entry(ac, i).read(k));
            i += 1;
        }
        shared.set_avail(k, have + batch);
    } else {
        free_block(k, id, entry(ac, 0), batch);
    }
    cachep.spinlock(k).unlock(k);
    drop_oldest(k, ac, batch);
}

/// The oldest `n` objects of an array have gone: the others move up.
fn drop_oldest<K: Kernel>(k: K, ac: Low<ArrayCache>, n: u32) {
    let left = ac.avail(k) - n;
    ac.set_avail(k, left);
    let mut i = 0;
    while i < left {
        entry(ac, i).write(k, entry(ac, n + i).read(k));
        i += 1;
    }
}

/// free_block: gives `n` objects, whose addresses start at `from`, back to their slabs (cache lock held).
fn free_block<K: Kernel>(k: K, id: CacheId, from: Low<u32>, n: u32) {
    let cachep = cache(k, id);
    let objsize = cachep.objsize(k);
    cachep.set_free_objects(k, cachep.free_objects(k).wrapping_add(n));
    let mut i = 0;
    while i < n {
        let object = from.field::<u32>(i * 4).read(k);
        let page = virt_to_page(k, object);
        bug_on!(k, Slab, page.lru(k).next(k).va() != cachep.va(), object);
        let slab: Low<Slab> = page.lru(k).prev(k).cast();
        slab.list(k).del(k);
        let nr = object.wrapping_sub(slab.s_mem(k)) / objsize;
        bufctl(slab, nr).write(k, slab.free(k));
        slab.set_free(k, nr as u16);
        let inuse = slab.inuse(k) - 1;
        slab.set_inuse(k, inuse);
        if inuse != 0 {
            slab.list(k).add_tail_to(k, cachep.slabs_partial(k));
        } else if cachep.free_objects(k) > cachep.free_limit(k) {
            cachep.set_free_objects(k, cachep.free_objects(k) - cachep.num(k));
            destroy(k, id, slab);
        } else {
            slab.list(k).add_to(k, cachep.slabs_free(k));
        }
        i += 1;
    }
}

/// slab_destroy: an empty slab's pages go back to the page allocator.
fn destroy<K: Kernel>(k: K, id: CacheId, slab: Low<Slab>) {
    let cachep = cache(k, id);
    let order = cachep.gfporder(k);
    let memory = slab.s_mem(k).wrapping_sub(slab.colouroff(k));
    let page = virt_to_page(k, memory);
    let mut i = 0;
    while i < 1 << order {
        let p: Low<Page> = page.field(i * page_struct_bytes(k));
        p.set_flags(k, p.flags(k) & !(1 << pg::SLAB));
        i += 1;
    }
    mod_page_state(k, State::NrSlab, (1u32 << order).wrapping_neg());
    cachep.set_num_slabs(k, cachep.num_slabs(k) - 1);
    let reclaim = crate::reclaim::state(k);
    reclaim.set_reclaimed_slab(k, reclaim.reclaimed_slab(k) + (1 << order));
    if !k.take_back(page) {
        free_pages(k, page, order);
    }
    if cachep.off_slab(k) != 0 {
        kmem_cache_free(k, CacheId::general(cachep.slab_size(k)), slab);
    }
}

/// Sets all caches up (kmem_cache_init and the kmem_cache_create calls of boot); `arrays` has [`boot_bytes`].
pub fn init<K: Kernel>(k: K, arrays: u32) {
    let mut at = arrays;
    for id in CacheId::ALL {
        if id.exists(k) {
            create(k, *id, at);
            at = at.wrapping_add(ARRAYS_BYTES);
        }
    }
}

const fn align_up(x: u32, align: u32) -> u32 {
    (x + align - 1) & !(align - 1)
}

/// cache_estimate: objects of a slab of so many bytes, and bytes left over.
const fn estimate(bytes: u32, size: u32, align: u32, off_slab: bool) -> (u32, u32) {
    let (base, extra) = if off_slab { (0, 0) } else { (24, 2) };
    let mut n = 0;
    while (n + 1) * size + align_up(base + (n + 1) * extra, align) <= bytes {
        n += 1;
    }
    if n == 0 {
        return (0, bytes);
    }
    (n, bytes - n * size - align_up(base + n * extra, align))
}

/// kmem_cache_create: order, objects a slab, colours; then the arrays of enable_cpucache.
fn create<K: Kernel>(k: K, id: CacheId, arrays: u32) {
    let cachep = cache(k, id);
    let line = zone::node(k).l1_line(k);
    let wanted = align_up(id.object_bytes(k), 4);
    let align = match id.align() {
        Align::Word => 4,
        Align::Size => wanted,
        Align::Line => {
            let mut align = line;
            while align > 4 && wanted <= align / 2 {
                align /= 2;
            }
            align
        }
    };
    let size = align_up(wanted, align);
    let page_bytes = cluster::page_bytes(k);
    let mut off_slab = size >= page_bytes / 8;
    // Machines above 32 MB may use order 1 against waste.
    let break_order = if zone::node(k).max_low_pfn(k) > (32 << 20) / PAGE_SIZE {
        1
    } else {
        0
    };
    let mut order = 0;
    let (num, mut left) = loop {
        let (num, left) = estimate(page_bytes << order, size, align, off_slab);
        let done = num != 0 && (order >= break_order || left * 8 <= page_bytes << order);
        if done || order >= 5 {
            break (num, left);
        }
        order += 1;
    };
    bug_on!(k, Slab, num == 0, id as u32);
    let slab_size = align_up(24 + num * 2, align);
    if off_slab && left >= slab_size {
        off_slab = false;
        left -= slab_size;
    }
    let colour_off = if align > line { align } else { line };

    cachep.set_id(k, id as u32);
    cachep.slabs_partial(k).init(k);
    cachep.slabs_full(k).init(k);
    cachep.slabs_free(k).init(k);
    cachep.set_free_objects(k, 0);
    cachep.set_objsize(k, size);
    cachep.set_num(k, num);
    cachep.spinlock(k).init(k);
    cachep.set_gfporder(k, order);
    cachep.set_colour(k, left / colour_off);
    cachep.set_colour_off(k, colour_off);
    cachep.set_colour_next(k, 0);
    cachep.set_slab_size(k, if off_slab { 24 + num * 2 } else { slab_size });
    cachep.set_off_slab(k, u32::from(off_slab));
    cachep.set_num_slabs(k, 0);
    cachep.set_free_touched(k, 0);
    // Caches take turns: the real kernel spreads them by the addresses of their descriptors.
    cachep.set_next_reap(k, REAP_SLABS_MS + (id as u32 * 256) % REAP_SLABS_MS);
    enable_cpucache(k, cachep, (size, num), arrays);
}

/// enable_cpucache: arrays by object size.
fn enable_cpucache<K: Kernel>(k: K, cachep: Low<Cache>, (size, num): (u32, u32), arrays: u32) {
    let limit = match size {
        0..=256 => 120,
        257..=1024 => 54,
        1025..=4096 => 24,
        _ => 8,
    };
    let batch = limit / 2;
    let ac: Low<ArrayCache> = Low::new(arrays);
    ac.set_avail(k, 0);
    ac.set_limit(k, limit);
    ac.set_batchcount(k, batch);
    ac.set_touched(k, 0);
    cachep.set_array(k, 0, ac.va());
    let shared: Low<ArrayCache> = if k.smp() && size <= cluster::page_bytes(k) {
        Low::new(arrays + 16 + 120 * 4)
    } else {
        Low::NULL
    };
    if !shared.is_null() {
        shared.set_avail(k, 0);
        shared.set_limit(k, batch * 8);
        shared.set_batchcount(k, batch);
        shared.set_touched(k, 0);
    }
    cachep.set_shared(k, shared);
    cachep.set_batchcount(k, batch);
    cachep.set_limit(k, limit);
    // (1 + CPUs) batches and a slab's worth.
    cachep.set_free_limit(k, 2 * batch + num);
}

/// What a cache holds: (slab pages, objects in use, bytes an object). Objects in arrays count as free.
pub fn usage<K: Kernel>(k: K, id: CacheId) -> (u32, u32, u32) {
    if !id.exists(k) {
        return (0, 0, 0);
    }
    let cachep = cache(k, id);
    let mut inuse = 0;
    for head in [cachep.slabs_partial(k), cachep.slabs_full(k)] {
        let mut at = head.next(k);
        while at != head {
            let slab: Low<Slab> = at.container(0);
            inuse += slab.inuse(k);
            at = at.next(k);
        }
    }
    let shared = cachep.shared(k);
    let cached = cpu_array(k, cachep).avail(k) + if shared.is_null() { 0 } else { shared.avail(k) };
    (
        cachep.num_slabs(k) << cachep.gfporder(k),
        inuse - cached,
        cachep.objsize(k),
    )
}
