//! Files and shared memory objects of the trace, by id: struct file, dentry and inode of historic size, with the
//! address_space inside the inode (include/linux/fs.h, 2.6.7; fs/file_table.c, mm/shmem.c).
//!
//! A trace names files by identity, not by descriptor, so one struct file per id stands in the table; opening is the first
//! use. Ids from [`FIRST_SHARED`] are shared anonymous objects and SysV segments: zero-filled, kept in the object's own
//! mapping, and gone with their last reference, where files stay cached until reclaim takes them. Left out: descriptors,
//! per-process struct files, sizes (nothing is ever beyond the end of a file: what truncation took off reads as zeros).
//!
//! Invariant: `f_count` of a file is 1 + the vmas mapping it; of a shared object the vmas and segments naming it.

use crate::axes::Era;
use crate::bug_on;
use crate::guest_struct;
use crate::io::{end_page_writeback, submit_write};
use crate::kernel::{Kernel, Oom};
use crate::layout::{File, Mapping, Page, vm_ops as ops};
use crate::list::ListHead;
use crate::objects::objects;
use crate::page::unlock_page;
use crate::page_alloc::Gfp;
use crate::page_cache::buffers;
use crate::page_cache::lists;
use crate::page_cache::track::set_page_writeback;
use crate::page_cache::truncate::truncate_inode_pages;
use crate::ptr::Low;
use crate::radix_tree;
use crate::reclaim::state;
use crate::rmap::file::i_mmap_init;
use crate::shmem;
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use crate::writeback::inode::{inode_created, inode_gone};
use lowmem_abi::port::TransferKind;

/// First id of shared anonymous objects and SysV segments.
pub const FIRST_SHARED: u32 = 0x8000_0000;
/// First id of objects made for MAP_SHARED|MAP_ANONYMOUS without an id.
pub const FIRST_UNNAMED: u32 = 0xc000_0000;

/// mapping->a_ops of files.
const FILE_OPS: u32 = ops::FILE;
/// mapping->a_ops of the swap cache; of files and shared objects it is their [`vm_ops`].
pub const OPS_SWAP: u32 = 4;

/// Where i_data lies in an inode. Assumption: the sheets give sizes only; this is near the place of 2.6.7.
pub const I_DATA: u32 = 176;

guest_struct! {
    /// struct dentry: 152 bytes since 2.6.6, 160 before.
    pub struct Dentry [K k] size if lists::has_lists(k) { 160 } else { 152 };
    at 0 => word d_count, set_d_count: u32;
    at 12 => word d_inode, set_d_inode: Low<Inode>;
}

/// Bytes of a bare inode without its address_space: 348 - 128 in 2.6.0, 348 - 124 in 2.6.5, 336 - 96 in 2.6.6, 324 - 84 in 2.6.7.
#[inline(always)]
fn around_i_data<K: Kernel>(k: K) -> u32 {
    match k.axes().era() {
        Era::V2_4 | Era::V2_6_0 => 220,
        Era::V2_6_5Aa => 224,
        Era::V2_6_6 | Era::V2_6_7 => 240,
    }
}

/// Where i_state is. Assumption: near the end; behind the largest i_data of the image.
#[inline(always)]
fn i_state_at<K: Kernel>(k: K) -> u32 {
    if lists::has_lists(k) { 316 } else { 300 }
}

guest_struct! {
    /// struct inode: 324 bytes in 2.6.7, with i_data inside.
    pub struct Inode [K k] size around_i_data(k) + Mapping::size(k);
    /// On inode_in_use, s_dirty or s_io.
    at 8 => part i_list: ListHead;
    at 24 => word i_ino, set_i_ino: u32;
    at 28 => word i_count, set_i_count: u32;
    /// The address_space of its pages: i_data. 2.6.0 goes through it.
    at I_DATA - 4 => word i_mapping, set_i_mapping: Low<Mapping>;
    at I_DATA => part i_data: Mapping;
    /// I_DIRTY_PAGES, I_LOCK.
    at i_state_at(k) => word i_state, set_i_state: u32;
    /// Trace clock when it became dirty.
    at i_state_at(k) + 4 => word dirtied_when, set_dirtied_when: u32;
}

/// The object with this id; one reference more. Made at its first use.
pub fn fget<K: Kernel>(k: K, id: u32) -> Result<Low<File>, Oom> {
    let found = find(k, id);
    if !found.is_null() {
        get_file(k, found);
        return Ok(found);
    }
    let kind = if id >= FIRST_SHARED {
        ops::SHMEM
    } else {
        ops::FILE
    };
    let file = create(k, id, kind)?;
    if id < FIRST_SHARED {
        get_file(k, file);
    }
    Ok(file)
}

/// A new shared anonymous object (shmem_zero_setup, shmget); one reference.
pub fn shmem_new<K: Kernel>(k: K) -> Result<Low<File>, Oom> {
    let o = objects(k);
    let n = o.anonymous_objects(k);
    let file = create(k, FIRST_UNNAMED.wrapping_add(n), ops::SHMEM)?;
    o.set_anonymous_objects(k, n.wrapping_add(1));
    Ok(file)
}

/// Takes a reference; a file that only the table held is in use again (dget_locked).
#[inline]
pub fn get_file<K: Kernel>(k: K, file: Low<File>) {
    if nobody_uses(k, file) {
        count_unused(k, u32::MAX);
    }
    k.atomic_add(file.field(0), 1);
}

/// Drops a reference. The last one of a shared object frees its pages and itself; a file that only the table is left to hold is
/// unused (dput).
pub fn fput<K: Kernel>(k: K, file: Low<File>) {
    if k.atomic_dec_and_test(file.field(0)) {
        bug_on!(k, PageCache, file.id(k) < FIRST_SHARED, file.id(k));
        destroy(k, file);
    } else if nobody_uses(k, file) {
        count_unused(k, 1);
    }
}

/// Whether only the table holds a file. Shared objects are not held by the table.
#[inline(always)]
fn nobody_uses<K: Kernel>(k: K, file: Low<File>) -> bool {
    file.f_count(k) == 1 && file.id(k) < FIRST_SHARED
}

/// Adds to dentry_stat.nr_unused.
fn count_unused<K: Kernel>(k: K, n: u32) {
    let s = state(k);
    s.set_nr_unused(k, s.nr_unused(k).wrapping_add(n));
}

/// Its mapping.
#[inline(always)]
pub fn mapping<K: Kernel>(k: K, file: Low<File>) -> Low<Mapping> {
    file.f_mapping(k)
}

/// What vma->ops of a mapping of it is.
#[inline(always)]
pub fn vm_ops<K: Kernel>(k: K, file: Low<File>) -> u32 {
    file.f_op(k)
}

/// The file whose inode holds `mapping`; for checks and reports.
pub fn id_of_mapping<K: Kernel>(k: K, mapping: Low<Mapping>) -> u32 {
    Low::<Inode>::new(mapping.va() - I_DATA).i_ino(k)
}

/// Where a page of a file is written to.
#[inline(always)]
fn place<K: Kernel>(k: K, page: Low<Page>) -> (u32, u32) {
    (id_of_mapping(k, Low::new(page.mapping(k))), page.index(k))
}

/// mpage_writepage of a locked page whose dirty flag was cleared, for writeback: under writeback, unlocked, submitted, whole if its buffers allow
/// it.
pub fn mpage_writepage<K: Kernel>(k: K, page: Low<Page>) {
    if !buffers::written_whole(k, page) {
        return block_write_full_page(k, page);
    }
    let to = place(k, page);
    set_page_writeback(k, page);
    unlock_page(k, page);
    submit_write(k, page, TransferKind::FileWrite, to);
}

/// block_write_full_page of a locked page whose dirty flag was cleared, for reclaim's pageout: through buffers, where there are any.
pub fn block_write_full_page<K: Kernel>(k: K, page: Low<Page>) {
    let to = place(k, page);
    let through_buffers = buffers::begin_write(k, page);
    set_page_writeback(k, page);
    unlock_page(k, page);
    if through_buffers && !buffers::submit(k, page) {
        end_page_writeback(k, page);
    } else {
        submit_write(k, page, TransferKind::FileWrite, to);
    }
}

#[inline(always)]
fn bucket(id: u32) -> u32 {
    (id ^ id >> 10 ^ id >> 20) & 1023
}

fn find<K: Kernel>(k: K, id: u32) -> Low<File> {
    let o = objects(k);
    o.files_lock(k).lock(k);
    let mut file = o.file_hash(k, bucket(id));
    while !file.is_null() && file.id(k) != id {
        file = file.hash_next(k);
    }
    o.files_lock(k).unlock(k);
    file
}

fn create<K: Kernel>(k: K, id: u32, ops: u32) -> Result<Low<File>, Oom> {
    let file: Low<File> = kmem_cache_alloc(k, CacheId::Filp, Gfp::Kernel)?;
    let dentry: Low<Dentry> = match kmem_cache_alloc(k, CacheId::Dentry, Gfp::Kernel) {
        Ok(d) => d,
        Err(e) => {
            kmem_cache_free(k, CacheId::Filp, file);
            return Err(e);
        }
    };
    let inode: Low<Inode> = match kmem_cache_alloc(k, inode_cache(ops), Gfp::Kernel) {
        Ok(i) => i,
        Err(e) => {
            kmem_cache_free(k, CacheId::Dentry, dentry);
            kmem_cache_free(k, CacheId::Filp, file);
            return Err(e);
        }
    };
    inode.set_i_ino(k, id);
    inode.set_i_count(k, 1);
    mapping_init(k, inode.i_data(k), ops);
    inode.i_data(k).set_host(k, inode.va());
    if lists::has_lists(k) {
        inode.set_i_mapping(k, inode.i_data(k));
    }
    if ops != self::ops::FILE {
        shmem::init(k, inode.i_data(k));
    }
    inode.i_list(k).init(k);
    inode.set_i_state(k, 0);
    inode.set_dirtied_when(k, 0);
    dentry.set_d_count(k, 1);
    dentry.set_d_inode(k, inode);
    file.set_f_count(k, 1);
    file.set_f_dentry(k, dentry);
    file.set_id(k, id);
    file.set_f_op(k, ops);
    file.set_mmap_hit(k, 0);
    file.set_mmap_miss(k, 0);
    file.set_f_mapping(k, inode.i_data(k));
    if ops == FILE_OPS {
        inode_created(k, inode);
        count_unused(k, 1);
    }
    let o = objects(k);
    o.files_lock(k).lock(k);
    file.set_hash_next(k, o.file_hash(k, bucket(id)));
    o.set_file_hash(k, bucket(id), file);
    o.files_lock(k).unlock(k);
    Ok(file)
}

/// Slab of the inode: shared objects have their swap vector in it.
#[inline(always)]
const fn inode_cache(ops: u32) -> CacheId {
    match ops {
        ops::FILE => CacheId::Inode,
        _ => CacheId::ShmInode,
    }
}

/// Makes an empty mapping.
pub fn mapping_init<K: Kernel>(k: K, mapping: Low<Mapping>, ops: u32) {
    mapping.set_host(k, 0);
    radix_tree::init(k, mapping.page_tree(k));
    mapping.tree_lock(k).init(k);
    mapping.set_nrpages(k, 0);
    mapping.set_writeback_index(k, 0);
    mapping.set_a_ops(k, ops);
    i_mmap_init(k, mapping);
    lists::init(k, mapping);
    mapping.private_lock(k).init(k);
    mapping.set_truncate_count(k, 0);
    mapping.set_mapping_flags(k, 0);
}

/// The last reference of a shared object has gone: out of the table, its pages out of the cache, then itself.
fn destroy<K: Kernel>(k: K, file: Low<File>) {
    let o = objects(k);
    o.files_lock(k).lock(k);
    unhash(k, file);
    o.files_lock(k).unlock(k);
    truncate_inode_pages(k, file.f_mapping(k), 0);
    shmem::free_all(k, file.f_mapping(k));
    free(k, file);
}

/// Off its hash chain.
fn unhash<K: Kernel>(k: K, file: Low<File>) {
    let mut link: Low<Low<File>> = objects(k).field(0x1000 + bucket(file.id(k)) * 4);
    while link.read(k) != file {
        bug_on!(k, PageCache, link.read(k).is_null(), file.va());
        link = link.read(k).field(12);
    }
    link.write(k, file.hash_next(k));
}

fn free<K: Kernel>(k: K, file: Low<File>) {
    let dentry = file.f_dentry(k);
    if file.f_op(k) == ops::FILE {
        inode_gone(k, dentry.d_inode(k));
    }
    kmem_cache_free(k, inode_cache(file.f_op(k)), dentry.d_inode(k));
    kmem_cache_free(k, CacheId::Dentry, dentry);
    kmem_cache_free(k, CacheId::Filp, file);
}

/// Whether only the table holds a file, and none of its pages is cached: what [`prune`] frees.
fn is_prunable<K: Kernel>(k: K, file: Low<File>) -> bool {
    nobody_uses(k, file) && file.f_mapping(k).nrpages(k) == 0
}

/// Files that only the table holds, counted; for checks.
pub fn count_unused_files<K: Kernel>(k: K) -> u32 {
    let o = objects(k);
    let (mut n, mut bucket) = (0, 0);
    while bucket < 1024 {
        let mut file = o.file_hash(k, bucket);
        while !file.is_null() {
            n += nobody_uses(k, file) as u32;
            file = file.hash_next(k);
        }
        bucket += 1;
    }
    n
}

/// Looks at `count` files from hash bucket `from` on and frees those that nobody uses and of which no page is cached; where to go on.
pub fn prune<K: Kernel>(k: K, from: u32, count: u32) -> u32 {
    let o = objects(k);
    let (mut bucket, mut left, mut buckets) = (from & 1023, count, 0);
    while left > 0 && buckets < 1024 {
        let mut file = o.file_hash(k, bucket);
        while !file.is_null() {
            let next = file.hash_next(k);
            if is_prunable(k, file) {
                count_unused(k, u32::MAX);
                o.files_lock(k).lock(k);
                unhash(k, file);
                o.files_lock(k).unlock(k);
                free(k, file);
            }
            left = left.saturating_sub(1);
            file = next;
        }
        bucket = (bucket + 1) & 1023;
        buckets += 1;
    }
    bucket
}
