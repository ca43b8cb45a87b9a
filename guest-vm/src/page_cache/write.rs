//! write(): user bytes into pages of the cache (generic_file_aio_write_nolock, mm/filemap.c of 2.6.7).
//!
//! For each page: the user's bytes are touched first, so that the copy under kmap_atomic cannot fault; the page is found or made and
//! locked; it gets its buffers, and if it is new and only part of it is written it is read (prepare_write); the copy; dirty (commit_write); unlocked; then
//! the writer may have to help with writeback (balance_dirty_pages_ratelimited). Left out: i_sem, file sizes, timestamps,
//! journals, O_SYNC, O_DIRECT.
//!
//! Invariant: a page is up to date before its lock is given back.

use crate::cluster;
use crate::kernel::{Efault, Kernel, Oom};
use crate::kmap::{KmType, kmap, kmap_atomic, kunmap, kunmap_atomic};
use crate::layout::{File, Page, has_page_virtual, pg, vm_ops};
use crate::lru;
use crate::mm::Errno;
use crate::page;
use crate::page_alloc::{self, Gfp};
use crate::page_cache::{self, add_to_page_cache_lru, buffers, clear_highpage, find_get_page};
use crate::percpu::this_cpu;
use crate::ptr::{Kmapped, Low};
use crate::uaccess::copy_from_user;
use crate::writeback::balance::balance_dirty_pages_ratelimited;
use lowmem_abi::layout::{PAGE_SHIFT, PAGE_SIZE};
use lowmem_abi::owner::Owner;

/// Where in the per-CPU page the byte that touches the user's buffer is read to.
const TOUCHED: u32 = 244;

/// Which bytes to write: where they lie in user memory, how many, and to which byte of the file.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// User address.
    pub from: u32,
    /// Bytes.
    pub bytes: u32,
    /// First page of 4 KB of the file.
    pub index: u32,
    /// Byte in that page.
    pub offset: u32,
}

/// Carries `r` out; the bytes written.
pub fn file_write<K: Kernel>(k: K, file: Low<File>, r: Request) -> Result<u32, Errno> {
    let mapping = file.f_mapping(k);
    let mut left = r.bytes;
    let (mut from, mut offset) = (r.from, r.offset);
    let mut index = cluster::index_of(k, r.index);
    offset += cluster::sub_of(k, r.index) << PAGE_SHIFT;
    while left != 0 {
        let room = cluster::page_bytes(k) - offset;
        let n = if left < room { left } else { room };
        fault_in_pages_readable(k, from, first_part(k, n, offset))?;
        let page = grab_cache_page(k, file, index).map_err(|_| Errno::Enomem)?;
        let range = (offset, offset + n);
        if let Err(e) = prepare_write(k, file, page, range, from) {
            if !page::test(k, page, pg::UPTODATE) {
                read(k, file, page, index);
                page::set(k, page, pg::UPTODATE);
            }
            page::unlock_page(k, page);
            page::put_page(k, page);
            return Err(e);
        }
        let copied = if cluster::clustered(k) {
            copy_frames(k, page, (from, n), offset)
        } else {
            let at = map(k, page);
            let copied = copy_from_user(k, at.at(offset), from, n);
            unmap(k, page, at);
            copied
        };
        page::set(k, page, pg::UPTODATE);
        if is_file(k, file) && buffers::has(k, page) {
            buffers::commit_write(k, page, range);
        } else {
            page::set_page_dirty(k, page);
        }
        page::unlock_page(k, page);
        lru::mark_page_accessed(k, page);
        page::put_page(k, page);
        copied.map_err(|_| Errno::Efault)?;
        balance_dirty_pages_ratelimited(k, mapping);
        left -= n;
        from = from.wrapping_add(n);
        offset = 0;
        index = index.wrapping_add(1);
    }
    Ok(r.bytes)
}

/// a_ops->prepare_write of the bytes `range` of a locked page: buffers, and what the write leaves of a new page. Then the first byte of
/// the source, at user address `from`, is touched again: reclaim on behalf of page or buffers may have taken it. (The real copy would fail then, and
/// be made again by kmap.)
fn prepare_write<K: Kernel>(
    k: K,
    file: Low<File>,
    page: Low<Page>,
    range: (u32, u32),
    from: u32,
) -> Result<(), Errno> {
    let n = range.1 - range.0;
    let fresh = !page::test(k, page, pg::UPTODATE);
    let bare = is_file(k, file) && !buffers::has(k, page);
    if is_file(k, file) {
        buffers::prepare_write(k, page, range).map_err(|_| Errno::Enomem)?;
    }
    if fresh && n != cluster::page_bytes(k) {
        read(k, file, page, page.index(k));
    }
    if fresh || bare {
        fault_in_pages_readable(k, from, first_part(k, n, range.0))?;
    }
    Ok(())
}

/// Whether it is a file on the disk, not a shared object.
#[inline(always)]
fn is_file<K: Kernel>(k: K, file: Low<File>) -> bool {
    file.f_mapping(k).a_ops(k) == vm_ops::FILE
}

/// Where the copy goes: kmap of 2.4 (generic_file_write), kmap_atomic since 2003-07.
#[inline(always)]
fn map<K: Kernel>(k: K, page: Low<Page>) -> Kmapped {
    if has_page_virtual(k) {
        kmap(k, page)
    } else {
        kmap_atomic(k, page, KmType::User0)
    }
}

/// Ends [`map`].
#[inline(always)]
fn unmap<K: Kernel>(k: K, page: Low<Page>, at: Kmapped) {
    if has_page_virtual(k) {
        kunmap(k, page);
    } else {
        kunmap_atomic(k, at, KmType::User0);
    }
}

/// Of `n` bytes for a page from `offset` on, those in the first frame.
#[inline(always)]
fn first_part<K: Kernel>(k: K, n: u32, offset: u32) -> u32 {
    if !cluster::clustered(k) {
        return n;
    }
    let room = PAGE_SIZE - (offset & (PAGE_SIZE - 1));
    if n < room { n } else { room }
}

/// The copy into a clustered page, frame by frame, each part of the buffer touched right before.
fn copy_frames<K: Kernel>(
    k: K,
    page: Low<Page>,
    (mut from, mut left): (u32, u32),
    mut offset: u32,
) -> Result<(), Efault> {
    while left != 0 {
        let n = first_part(k, left, offset);
        fault_in_pages_readable(k, from, n).map_err(|_| Efault)?;
        let at = map(k, page);
        let copied = copy_from_user(k, at.at(offset), from, n);
        unmap(k, page, at);
        copied?;
        from = from.wrapping_add(n);
        offset += n;
        left -= n;
    }
    Ok(())
}

/// Reads a byte of each page that `bytes` at `user` touch (at most two).
fn fault_in_pages_readable<K: Kernel>(k: K, user: u32, bytes: u32) -> Result<(), Errno> {
    let word = Kmapped(this_cpu(k).va() + TOUCHED);
    let touch = |at: u32| copy_from_user(k, word, at & !3, 4).map_err(|_| Errno::Efault);
    touch(user)?;
    let last = user.wrapping_add(bytes - 1);
    if (user ^ last) >> PAGE_SHIFT != 0 {
        touch(last)?;
    }
    Ok(())
}

/// grab_cache_page: the page at `index`, locked and with a reference; a new one has no content yet.
fn grab_cache_page<K: Kernel>(k: K, file: Low<File>, index: u32) -> Result<Low<Page>, Oom> {
    let mapping = file.f_mapping(k);
    let page = find_get_page(k, mapping, index);
    if !page.is_null() {
        page::lock_page(k, page);
        return Ok(page);
    }
    let page = page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::PageCache)?;
    if let Err(e) = add_to_page_cache_lru(k, page, mapping, index) {
        page::put_page(k, page);
        return Err(e);
    }
    Ok(page)
}

/// prepare_write of a part: the rest comes from the device, or is zero.
fn read<K: Kernel>(k: K, file: Low<File>, page: Low<Page>, index: u32) {
    if is_file(k, file) {
        page_cache::read_page(k, page, (file.id(k), index));
    } else {
        clear_highpage(k, page);
    }
}
