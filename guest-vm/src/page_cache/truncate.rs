//! Truncation: what lies behind a file's new end leaves page tables and page cache (vmtruncate, unmap_mapping_range in mm/memory.c,
//! truncate_inode_pages in mm/truncate.c of 2.6.7).
//!
//! Page tables first, private copies included, under i_mmap_lock and with truncate_count raised, so that a fault that had looked the
//! page up before asks again; then the cache, in two passes: what is free at once, then what is locked or being written.
//! Left out: the part of the last frame behind a length that is no multiple of 4 KB, SIGBUS beyond the end (such pages read
//! as zeros).
//!
//! Invariant: afterwards no page of the mapping has an index of `first` or more, and no pte shows one that had.

use crate::cluster;
use crate::io::wait_on_page_writeback;
use crate::kernel::Kernel;
use crate::kmap::{KmType, kmap_atomic, kunmap_atomic};
use crate::layout::pg;
use crate::layout::{Mapping, Vma};
use crate::list::ListHead;
use crate::lru;
use crate::mm::zap::{zap_nonlinear, zap_page_range};
use crate::page;
use crate::page_cache::{self, buffers};
use crate::ptr::Low;
use crate::radix_tree;
use crate::rmap::file::{FileVmas, SHARED, lock_i_mmap, unlock_i_mmap};
use lowmem_abi::layout::PAGE_SHIFT;
use lowmem_abi::port::{Transfer, TransferKind};

/// vmtruncate of the file `id` to `first` pages of 4 KB.
pub fn vmtruncate<K: Kernel>(k: K, mapping: Low<Mapping>, id: u32, first: u32) {
    unmap_mapping_range(k, mapping, first);
    let whole = cluster::index_of(k, first);
    if cluster::sub_of(k, first) == 0 {
        truncate_inode_pages(k, mapping, whole);
    } else {
        truncate_inode_pages(k, mapping, whole + 1);
        truncate_partial_page(k, mapping, first);
    }
    k.transfer(Transfer {
        kind: TransferKind::FileTruncate as u32,
        pfn: 0,
        file: id,
        index: first,
    });
}

/// truncate_partial_page: the sub-pages of the last page that lie behind the end become zeros, if it is cached.
fn truncate_partial_page<K: Kernel>(k: K, mapping: Low<Mapping>, first: u32) {
    let page = page_cache::find_get_page(k, mapping, cluster::index_of(k, first));
    if page.is_null() {
        return;
    }
    page::lock_page(k, page);
    wait_on_page_writeback(k, page);
    if page::in_file(k, page) {
        buffers::invalidate_page(k, page, cluster::sub_of(k, first));
    }
    let at = kmap_atomic(k, page, KmType::User0);
    let mut sub = cluster::sub_of(k, first);
    while sub < cluster::mmu_count(k) {
        k.clear_page(at.at(sub << PAGE_SHIFT));
        sub += 1;
    }
    kunmap_atomic(k, at, KmType::User0);
    page::unlock_page(k, page);
    page::put_page(k, page);
}

/// unmap_mapping_range from page offset `first` to the end, private copies as well.
pub fn unmap_mapping_range<K: Kernel>(k: K, mapping: Low<Mapping>, first: u32) {
    lock_i_mmap(k, mapping);
    mapping.set_truncate_count(k, mapping.truncate_count(k).wrapping_add(1));
    let mut linear = FileVmas::range(k, mapping, first, u32::MAX);
    loop {
        let vma = linear.next(k);
        if vma.is_null() {
            break;
        }
        zap_linear(k, vma, first);
    }
    each(k, mapping.i_mmap_nonlinear(k), |vma| {
        zap_nonlinear(k, vma, (vma.start(k), vma.end(k)), first);
    });
    unlock_i_mmap(k, mapping);
}

fn each<K: Kernel>(k: K, head: Low<ListHead>, f: impl Fn(Low<Vma>)) {
    let mut at = head.next(k);
    while at != head {
        f(at.container(SHARED));
        at = at.next(k);
    }
}

/// The part of a linear vma that shows pages from `first` on.
fn zap_linear<K: Kernel>(k: K, vma: Low<Vma>, first: u32) {
    let (start, end, pgoff) = (vma.start(k), vma.end(k), vma.pgoff(k));
    let pages = (end - start) >> PAGE_SHIFT;
    let skip = first.saturating_sub(pgoff);
    if skip < pages {
        zap_page_range(
            k,
            vma,
            start + (skip << PAGE_SHIFT),
            (pages - skip) << PAGE_SHIFT,
        );
    }
}

/// truncate_inode_pages: every page from `first` on leaves the cache; nothing maps them.
pub fn truncate_inode_pages<K: Kernel>(k: K, mapping: Low<Mapping>, first: u32) {
    if mapping.nrpages(k) == 0 {
        return;
    }
    truncate_pass(k, mapping, first, Pass::Free);
    truncate_pass(k, mapping, first, Pass::All);
}

/// Which pages a pass takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Those that are neither locked nor being written.
    Free,
    /// All, waiting for them.
    All,
}

fn truncate_pass<K: Kernel>(k: K, mapping: Low<Mapping>, first: u32, pass: Pass) {
    let pvec = lru::vectors(k).lookup(k);
    let mut from = first;
    loop {
        from = find_get_pages(k, mapping, from);
        let nr = pvec.nr(k);
        if nr == 0 {
            return;
        }
        let mut i = 0;
        while i < nr {
            let page = pvec.page(k, i);
            i += 1;
            match pass {
                Pass::Free => {
                    if !page::trylock_page(k, page) {
                        continue;
                    }
                    if page::test(k, page, pg::WRITEBACK) {
                        page::unlock_page(k, page);
                        continue;
                    }
                }
                Pass::All => {
                    page::lock_page(k, page);
                    wait_on_page_writeback(k, page);
                }
            }
            page_cache::truncate_complete_page(k, mapping, page);
            page::unlock_page(k, page);
        }
        lru::lru_add_drain(k);
        lru::release_pages(k, pvec);
        if from == 0 {
            return;
        }
    }
}

/// pagevec_lookup: up to 16 pages from `from` on, referenced, into the look-up vector; where to go on, 0 at the end of indices.
fn find_get_pages<K: Kernel>(k: K, mapping: Low<Mapping>, from: u32) -> u32 {
    let pvec = lru::vectors(k).lookup(k);
    let irq = k.irq_save();
    mapping.tree_lock(k).lock(k);
    let mut next = from;
    let mut nr = 0;
    while nr < lru::PAGEVEC_SIZE {
        match radix_tree::next(k, mapping.page_tree(k), next, None) {
            None => break,
            Some((index, page)) => {
                page::get_page(k, page);
                pvec.set_page(k, nr, page);
                nr += 1;
                next = index.wrapping_add(1);
                if next == 0 {
                    break;
                }
            }
        }
    }
    pvec.set_nr(k, nr);
    mapping.tree_lock(k).unlock(k);
    k.irq_restore(irq);
    next
}
