//! The page cache: look-up, insertion, reading, the nopage methods of files and shared memory, populate (mm/{filemap,shmem}.c
//! of 2.6.7).
//!
//! A page of a file that is not cached is read by the device at once (synthetic content, [`lowmem_abi::port::file_word`]); a
//! page of a shared object is made of zeros. Left out: read-around (a trace has no file sizes, so a page is read only when asked
//! for; the hit and miss counts it would look at are kept), the end of files. A read through the call interface is
//! [`file_read_page`].
//!
//! | file | owns |
//! |---|---|
//! | [`buffers`] | buffer heads: what pages have for each block on the disk |
//! | [`track`] | what a mapping knows of its dirty pages and of those being written, with tags and with lists |
//! | [`lists`] | the four lists of 2.6.0 |
//! | [`truncate`] | pages behind a file's new end: out of page tables, out of the cache |
//! | [`mod@write`] | write() |
//!
//! Invariant: a page with a mapping is in that mapping's tree at its index and holds one reference for it.

pub mod buffers;
pub mod lists;
pub mod track;
pub mod truncate;
pub mod write;

use crate::bug_on;
use crate::cluster;
use crate::file;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::kmap::{KmType, kmap_atomic, kunmap_atomic};
use crate::layout::{File, Mapping, Page, Vma, pg, vm_ops};
use crate::lru;
use crate::page;
use crate::page_alloc::{self, Gfp};
use crate::percpu::{State, mod_page_state};
use crate::ptr::Low;
use crate::radix_tree;
use crate::root;
use crate::shmem;
use lowmem_abi::layout::PAGE_SHIFT;
use lowmem_abi::owner::Owner;
use lowmem_abi::port::TransferKind;
use lowmem_abi::probe::Probe;

guest_struct! {
    /// pagecache_acct's per-CPU word.
    pub struct CacheAccount [K] size 4;
    at 0 => word nr_pagecache, set_nr_pagecache: u32;
}

/// pagecache_acct: per CPU, without disabling interrupts.
#[inline(always)]
fn account<K: Kernel>(k: K, n: u32) {
    let at = root::part::<K, CacheAccount>(k, root::PER_CPU_OBJECTS);
    at.set_nr_pagecache(k, at.nr_pagecache(k).wrapping_add(n));
}

/// What a nopage method found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The page, with a reference.
    pub page: Low<Page>,
    /// Whether it was read from a device.
    pub major: bool,
}

/// find_get_page: the page at `index` with a reference, or null.
pub fn find_get_page<K: Kernel>(k: K, mapping: Low<Mapping>, index: u32) -> Low<Page> {
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    let page = radix_tree::lookup(k, mapping.page_tree(k), index);
    if !page.is_null() {
        page::get_page(k, page);
    }
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    page
}

/// add_to_page_cache_lru: a new page into the tree, locked, and towards the inactive list.
pub fn add_to_page_cache_lru<K: Kernel>(
    k: K,
    page: Low<Page>,
    mapping: Low<Mapping>,
    index: u32,
) -> Result<(), Oom> {
    radix_tree::preload(k, Gfp::Kernel)?;
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    page::get_page(k, page);
    page::set(k, page, pg::LOCKED);
    insert_locked(k, page, mapping, index);
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    lru::lru_cache_add(k, page);
    Ok(())
}

/// The page becomes the mapping's at `index`: tree lock held, nodes preloaded, the tree's reference taken by the caller.
#[inline]
pub fn insert_locked<K: Kernel>(k: K, page: Low<Page>, mapping: Low<Mapping>, index: u32) {
    let free = radix_tree::insert(k, mapping.page_tree(k), index, page);
    bug_on!(k, PageCache, !free, index);
    page.set_mapping(k, mapping.va());
    page.set_index(k, index);
    mapping.set_nrpages(k, mapping.nrpages(k) + 1);
    lists::added(k, mapping, page);
    account(k, 1);
}

/// __remove_from_page_cache: tree lock held; the tree's reference becomes the caller's.
#[inline]
pub fn remove_from_page_cache_locked<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) {
    radix_tree::delete(k, mapping.page_tree(k), page.index(k));
    lists::removed(k, page);
    page.set_mapping(k, 0);
    mapping.set_nrpages(k, mapping.nrpages(k) - 1);
    account(k, u32::MAX);
}

/// Pages in the page cache (get_page_cache_size).
pub fn cached_pages<K: Kernel>(k: K) -> u32 {
    root::part::<K, CacheAccount>(k, root::PER_CPU_OBJECTS).nr_pagecache(k)
}

/// truncate_complete_page: a locked page leaves its mapping; the tree's reference goes.
pub fn truncate_complete_page<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) {
    bug_on!(k, PageCache, page.mapping(k) != mapping.va(), page.va());
    if page::in_file(k, page) {
        buffers::invalidate_page(k, page, 0);
    }
    track::cancel_dirty(k, mapping, page);
    page::clear(k, page, pg::UPTODATE);
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    remove_from_page_cache_locked(k, mapping, page);
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    page::put_page(k, page);
}

/// Fills a page with zeros through kmap_atomic (clear_user_highpage).
pub fn clear_highpage<K: Kernel>(k: K, page: Low<Page>) {
    let at = kmap_atomic(k, page, KmType::User0);
    cluster::clear_page(k, at);
    kunmap_atomic(k, at, KmType::User0);
}

/// Copies a page through two slots of kmap_atomic (copy_user_highpage).
pub fn copy_highpage<K: Kernel>(k: K, to: Low<Page>, from: Low<Page>) {
    let source = kmap_atomic(k, from, KmType::User0);
    let target = kmap_atomic(k, to, KmType::User1);
    cluster::copy_page(k, target, source);
    kunmap_atomic(k, source, KmType::User0);
    kunmap_atomic(k, target, KmType::User1);
}

/// a_ops->readpage of a locked page of a file: what the device has at (file, index).
pub(crate) fn read_page<K: Kernel>(k: K, page: Low<Page>, place: (u32, u32)) {
    buffers::begin_read(k, page);
    cluster::transfer(k, TransferKind::FileRead, page, place);
    buffers::end_read(k, page);
}

/// The page of `file` at `index` with a reference: from the cache, or read (zero-filled for shared objects).
pub fn file_read_page<K: Kernel>(k: K, file: Low<File>, index: u32) -> Result<Found, Oom> {
    let mapping = file::mapping(k, file);
    if mapping.a_ops(k) != vm_ops::FILE {
        return shmem::getpage(k, file, index);
    }
    let page = find_get_page(k, mapping, index);
    if !page.is_null() {
        return Ok(Found { page, major: false });
    }
    let page = page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::PageCache)?;
    if let Err(e) = add_to_page_cache_lru(k, page, mapping, index) {
        page::put_page(k, page);
        return Err(e);
    }
    read_page(k, page, (file.id(k), index));
    page::set(k, page, pg::UPTODATE);
    page::unlock_page(k, page);
    Ok(Found { page, major: true })
}

/// vm_ops->nopage: the page that linear `vma` shows at `addr`.
pub fn nopage<K: Kernel>(k: K, vma: Low<Vma>, addr: u32) -> Result<Found, Oom> {
    let file = vma.file(k);
    let index = page::linear_page_index(k, vma, addr);
    let found = file_read_page(k, file, index)?;
    match vma.ops(k) {
        vm_ops::SHMEM | vm_ops::SHM => {
            // shmem_getpage holds the page lock over the look at the swap vector.
            if !found.major && page::trylock_page(k, found.page) {
                page::unlock_page(k, found.page);
            }
        }
        _ => {
            if found.major {
                mod_page_state(k, State::PgMajFault, 1);
                k.probe(Probe::MajorFault);
                file.set_mmap_miss(k, file.mmap_miss(k).wrapping_add(1));
            } else {
                file.set_mmap_hit(k, file.mmap_hit(k).wrapping_add(1));
            }
        }
    }
    lru::mark_page_accessed(k, found.page);
    Ok(found)
}

/// vm_ops->populate: maps `bytes` at `addr` of `vma` to what the file has from page offset `pgoff` on, reading what is not cached
/// (filemap_populate, shmem_populate; blocking). mmap_sem is held.
pub fn populate<K: Kernel>(
    k: K,
    vma: Low<Vma>,
    addr: u32,
    bytes: u32,
    pgoff: u32,
) -> Result<(), Oom> {
    let file = vma.file(k);
    let mut done = 0;
    while done < bytes >> PAGE_SHIFT {
        let at = pgoff.wrapping_add(done);
        let found = file_read_page(k, file, cluster::index_of(k, at))?;
        lru::mark_page_accessed(k, found.page);
        let sub = cluster::sub_of(k, at);
        let to = addr + (done << PAGE_SHIFT);
        let r = crate::mm::populate::install_page(k, vma, to, (found.page, sub));
        if r.is_err() {
            page::put_page(k, found.page);
            return r;
        }
        done += 1;
    }
    Ok(())
}

/// Whether `vma` has a populate method.
pub fn can_populate<K: Kernel>(k: K, vma: Low<Vma>) -> bool {
    matches!(vma.ops(k), vm_ops::FILE | vm_ops::SHMEM)
}
