//! mm_struct: allocation, the two counts, the list of all mms (kernel/fork.c of 2.6.7).
//!
//! `users` counts tasks that run in the address space; with the last of them the mappings go (exit_mmap). `count` counts those plus
//! lazy borrowers of the page tables; with the last of these page directories and mm go. A task that exits keeps a lazy
//! reference until another address space is loaded, so CR3 never shows freed tables.
//!
//! Invariant: every user mm is on the list exactly while `users` > 0; a child lies behind its parent.

use crate::guest_struct::Layout;
use crate::kernel::{Kernel, Oom};
use crate::layout::Mm;
use crate::mm::exit::exit_mmap;
use crate::mm::unmapped_base;
use crate::page_alloc::Gfp;
use crate::pgtable::{pgd_alloc, pgd_free};
use crate::ptr::Low;
use crate::rmap::ReverseMap;
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::task::{clear_low, copy_low, init_mm, tasks};

/// Bytes of an mm in this image.
fn mm_bytes<K: Kernel>(k: K) -> u32 {
    Mm::size(k)
}

/// A new, empty mm (mm_alloc), not yet on the list.
pub fn mm_alloc<K: Kernel>(k: K) -> Result<Low<Mm>, Oom> {
    let mm: Low<Mm> = kmem_cache_alloc(k, CacheId::Mm, Gfp::Kernel)?;
    clear_low(k, mm.cast(), mm_bytes(k));
    mm_init(k, mm, Low::NULL)
}

/// A copy of `parent`'s struct with page directories of its own and no mappings yet (first part of copy_mm).
pub fn mm_copy<K: Kernel>(k: K, parent: Low<Mm>) -> Result<Low<Mm>, Oom> {
    let mm: Low<Mm> = kmem_cache_alloc(k, CacheId::Mm, Gfp::Kernel)?;
    copy_low(k, mm.cast(), parent.cast(), mm_bytes(k));
    mm_init(k, mm, parent)
}

fn mm_init<K: Kernel>(k: K, mm: Low<Mm>, parent: Low<Mm>) -> Result<Low<Mm>, Oom> {
    mm.set_users(k, 1);
    mm.set_count(k, 1);
    mm.mmap_sem(k).init(k);
    mm.page_table_lock(k).init(k);
    mm.mmlist(k).init(k);
    mm.set_free_area_cache(k, unmapped_base(k));
    mm.set_mmap(k, Low::NULL);
    mm.set_mm_rb(k, Low::NULL);
    mm.set_mmap_cache(k, Low::NULL);
    mm.set_map_count(k, 0);
    mm.set_rss(k, 0);
    mm.set_locked_vm(k, 0);
    mm.set_cpu_vm_mask(k, 0);
    let made = pgd_alloc(k, mm).and_then(|()| match K::Rmap::mm_init(k, mm, parent) {
        Ok(()) => Ok(()),
        Err(oom) => {
            pgd_free(k, mm);
            Err(oom)
        }
    });
    match made {
        Ok(()) => Ok(mm),
        Err(oom) => {
            kmem_cache_free(k, CacheId::Mm, mm);
            Err(oom)
        }
    }
}

/// Puts a new mm on the list: behind its parent (swapoff relies on it), or first (`init_mm` as parent).
pub fn mmlist_add<K: Kernel>(k: K, mm: Low<Mm>, behind: Low<Mm>) {
    let t = tasks(k);
    t.mmlist_lock(k).lock(k);
    mm.mmlist(k).add_to(k, behind.mmlist(k));
    t.set_mmlist_nr(k, t.mmlist_nr(k).wrapping_add(1));
    t.mmlist_lock(k).unlock(k);
}

/// One user less; the last one tears the mappings down (mmput).
pub fn mmput<K: Kernel>(k: K, mm: Low<Mm>) {
    // atomic_dec_and_lock: the list's lock is taken by the last user only.
    if k.atomic_dec_and_test(mm.field(20)) {
        let t = tasks(k);
        t.mmlist_lock(k).lock(k);
        mm.mmlist(k).del(k);
        t.set_mmlist_nr(k, t.mmlist_nr(k).wrapping_sub(1));
        t.mmlist_lock(k).unlock(k);
        exit_mmap(k, mm);
        K::Rmap::mm_gone(k, mm);
        mmdrop(k, mm);
    }
}

/// One reference less; the last one frees page directories and mm (mmdrop).
pub fn mmdrop<K: Kernel>(k: K, mm: Low<Mm>) {
    if k.atomic_dec_and_test(mm.field(24)) {
        crate::bug_on!(k, Exit, mm == init_mm(k), mm.va());
        pgd_free(k, mm);
        kmem_cache_free(k, CacheId::Mm, mm);
    }
}

/// One lazy reference more.
#[inline(always)]
pub fn mmgrab<K: Kernel>(k: K, mm: Low<Mm>) {
    k.atomic_add(mm.field(24), 1);
}
