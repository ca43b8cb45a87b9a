//! The slab allocator of 2.6.7 (mm/slab.c). (skeleton: the public signatures are stable)

use crate::kernel::{Kernel, Oom};
use crate::page_alloc::Gfp;
use crate::ptr::Low;
use lowmem_abi::owner::Owner;

/// A cache. The set is closed: no function pointer or name lies in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(
    missing_docs,
    reason = "each variant is the historic cache of that name"
)]
pub enum CacheId {
    Pgd,
    Pmd,
    Kpmd,
    PteChain,
    AnonVma,
    Vma,
    Mm,
    Task,
    Sighand,
    Signal,
    Files,
    Fs,
    Filp,
    Inode,
    Dentry,
    BufferHead,
    RadixNode,
    ShmInode,
    Shm,
    Size32,
    Size64,
    Size128,
    Size256,
    Size512,
    Size1024,
    Size2048,
}

/// Allocates an object; constructed caches return it in constructed state.
pub fn kmem_cache_alloc<K: Kernel, T>(k: K, id: CacheId, gfp: Gfp) -> Result<Low<T>, Oom> {
    let _ = (k, id, gfp);
    Err(Oom {
        owner: Owner::Kmalloc,
    })
}

/// Gives an object back.
pub fn kmem_cache_free<K: Kernel, T>(k: K, id: CacheId, object: Low<T>) {
    let _ = (k, id, object);
}
