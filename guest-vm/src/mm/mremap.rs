//! mremap (mm/mremap.c of 2.6.7): shrink, grow in place, or move a mapping page by page.
//!
//! A move makes the new vma first (copy_vma, which may merge), then moves one pte at a time: i_mmap_lock for files,
//! page_table_lock, clear-and-flush of the source, set of the destination; the reverse map is told of each (pte_chain has work
//! to do, anon_vma none; anonmm refuses shared pages, which are copied early by a write fault at the old address). An anonymous vma without pages takes the pgoff of its new place, others keep theirs so that page->index stays
//! right. In a replay the recording decides between growing in place and moving. Left out: duplicating a shared
//! mapping by old_len 0 beyond what do_munmap's rule gives (it is refused as an empty range).
//!
//! Invariant: no pte is lost: each page is mapped at the old or at the new address after every step.

use crate::cluster;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Vma, vm};
use crate::mailbox::mailbox;
use crate::mm::fault::{Access, handle_mm_fault, make_pages_present};
use crate::mm::merge::{Area, vma_merge};
use crate::mm::mmap::{get_unmapped_area, take_recorded};
use crate::mm::munmap::do_munmap;
use crate::mm::vma::{
    Linked, NewBounds, acct_memory, find_vma, find_vma_prepare, mapping_of, unacct_memory,
    vma_adjust, vma_copy, vma_link, vma_open,
};
use crate::mm::{Errno, current_mm, page_align, task_size, window};
use crate::page_alloc::{pfn_to_page, pfn_valid};
use crate::pgtable::{
    pte_alloc_map, pte_get, pte_lookup_nested, pte_table_present, pte_unmap, ptep_get_and_clear,
    set_pte,
};
use crate::ptr::{Kmapped, Low};
use crate::rmap::file::{lock_i_mmap, unlock_i_mmap};
use crate::rmap::{Move, Moving, PteAt, ReverseMap};
use crate::slab::{CacheId, kmem_cache_free};
use crate::tlb::flush_tlb_page;
use lowmem_abi::mailbox::NO_RESULT;
use lowmem_abi::port::ReportKind;
use lowmem_abi::probe::Probe;

/// MREMAP_MAYMOVE.
pub const MAYMOVE: u32 = 1;
/// MREMAP_FIXED.
pub const FIXED: u32 = 2;

/// What is to be moved where.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// First address now.
    pub addr: u32,
    /// Bytes now.
    pub old_len: u32,
    /// Bytes wanted.
    pub new_len: u32,
    /// MAYMOVE, FIXED.
    pub flags: u32,
    /// With FIXED: where to.
    pub new_addr: u32,
}

/// mremap(old, old_len, new_len, flags, new_addr).
pub fn sys_mremap<K: Kernel>(k: K, r: Request) -> Result<u32, Errno> {
    let mm = current_mm(k);
    mm.mmap_sem(k).down_write(k);
    let result = do_mremap(k, mm, r, mailbox(k).result(k));
    mm.mmap_sem(k).up_write(k);
    result
}

fn do_mremap<K: Kernel>(k: K, mm: Low<Mm>, r: Request, recorded: u32) -> Result<u32, Errno> {
    let limit = task_size(k);
    let addr = r.addr;
    let mut old_len = page_align(r.old_len);
    let new_len = page_align(r.new_len);
    if r.flags & !(FIXED | MAYMOVE) != 0 || addr & 0xfff != 0 || new_len == 0 {
        return Err(Errno::Einval);
    }
    let fixed = r.flags & FIXED != 0;
    if fixed {
        let to = r.new_addr;
        let overlaps = (to <= addr && to.wrapping_add(new_len) > addr)
            || (addr <= to && addr.wrapping_add(old_len) > to);
        if to & 0xfff != 0
            || r.flags & MAYMOVE == 0
            || new_len > limit
            || to > limit - new_len
            || overlaps
        {
            return Err(Errno::Einval);
        }
        do_munmap(k, mm, to, new_len)?;
    }
    if old_len >= new_len {
        if old_len > new_len {
            do_munmap(k, mm, addr + new_len, old_len - new_len)?;
        }
        if !fixed {
            return Ok(addr);
        }
        old_len = new_len;
    }
    let vma = find_vma(k, mm, addr);
    if vma.is_null() || vma.start(k) > addr || old_len == 0 || old_len > vma.end(k) - addr {
        return Err(Errno::Efault);
    }
    if vma.flags(k) & vm::DONTEXPAND != 0 && new_len > old_len {
        return Err(Errno::Efault);
    }
    let grown = (new_len - old_len) >> 12;
    if vma.flags(k) & vm::ACCOUNT != 0 {
        acct_memory(k, grown);
    }
    let stays = recorded == NO_RESULT || recorded == addr;
    if old_len == vma.end(k) - addr && !fixed && stays {
        let next = vma.next(k);
        let room = if next.is_null() { limit } else { next.start(k) } - addr;
        if room >= new_len {
            let to = NewBounds {
                start: vma.start(k),
                end: addr + new_len,
                pgoff: vma.pgoff(k),
            };
            vma_adjust(k, vma, to, Low::NULL)?;
            mm.set_total_vm(k, mm.total_vm(k).wrapping_add(grown));
            if vma.flags(k) & vm::LOCKED != 0 {
                mm.set_locked_vm(k, mm.locked_vm(k).wrapping_add(grown));
                // What cannot be faulted in (no right to) is no error here.
                let _ = make_pages_present(k, addr + old_len, addr + new_len);
            }
            return Ok(addr);
        }
    }
    let moved = if r.flags & MAYMOVE == 0 {
        Err(Errno::Enomem)
    } else if fixed {
        move_vma(k, mm, vma, (addr, old_len), (r.new_addr, new_len))
    } else if recorded == addr {
        // The recording grew in place; here something is in the way.
        let next = vma.next(k);
        let (place, detail) = if next.is_null() {
            (0, 0)
        } else {
            (next.start(k), next.end(k))
        };
        k.fatal(ReportKind::BadResult, place, detail, recorded)
    } else {
        get_unmapped_area(k, mm, 0, new_len).and_then(|found| {
            let to = take_recorded(k, mm, found, new_len, recorded);
            move_vma(k, mm, vma, (addr, old_len), (to, new_len))
        })
    };
    if moved.is_err() && vma.flags(k) & vm::ACCOUNT != 0 {
        unacct_memory(k, grown);
    }
    moved
}

/// Moves `old` (address, bytes) of `vma` to `new`.
fn move_vma<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    vma: Low<Vma>,
    (old_addr, old_len): (u32, u32),
    (new_addr, new_len): (u32, u32),
) -> Result<u32, Errno> {
    let flags = vma.flags(k);
    let mut vma = vma;
    let new_vma = copy_vma(k, mm, &mut vma, old_addr, (new_addr, new_len))?;
    if let Err(at) = move_page_tables(k, (vma, old_addr), (new_vma, new_addr), old_len) {
        // Out of page tables: move back what was moved; the source's tables are all there.
        let back = move_page_tables(k, (new_vma, new_addr), (vma, old_addr), at);
        crate::bug_on!(k, Mremap, back.is_err(), old_addr);
        mm.set_total_vm(k, mm.total_vm(k).wrapping_add(new_len >> 12));
        unmap_moved(k, mm, new_vma, (new_addr, new_len));
        return Err(Errno::Enomem);
    }
    unmap_moved(k, mm, vma, (old_addr, old_len));
    mm.set_total_vm(k, mm.total_vm(k).wrapping_add(new_len >> 12));
    if flags & vm::LOCKED != 0 {
        mm.set_locked_vm(k, mm.locked_vm(k).wrapping_add(new_len >> 12));
        // What cannot be faulted in (no right to) is no error here.
        let _ = make_pages_present(k, new_addr + old_len, new_addr + new_len);
    }
    Ok(new_addr)
}

/// Unmaps the range of `vma` that pages have left. Its reservation has gone with them: VM_ACCOUNT is hidden meanwhile, and shown again on
/// what is left of the vma. Without memory for a split the range stays, empty, and only the accounts are put right: nothing of the vma
/// is charged any more.
fn unmap_moved<K: Kernel>(k: K, mm: Low<Mm>, vma: Low<Vma>, (addr, len): (u32, u32)) {
    let flags = vma.flags(k);
    let (start, end) = (vma.start(k), vma.end(k));
    vma.set_flags(k, flags & !vm::ACCOUNT);
    let unmapped = do_munmap(k, mm, addr, len);
    if flags & vm::ACCOUNT == 0 {
        return;
    }
    if unmapped.is_err() {
        unacct_memory(k, (end - start - len) >> 12);
        return;
    }
    // A piece below is `vma` itself; one above is its successor then, else `vma` itself.
    let (below, above) = (start < addr, end > addr + len);
    if below || above {
        vma.set_flags(k, vma.flags(k) | vm::ACCOUNT);
    }
    if below && above {
        let upper = vma.next(k);
        upper.set_flags(k, upper.flags(k) | vm::ACCOUNT);
    }
}

/// Makes (or finds by merging) the vma that receives the pages; `source` is updated if it was merged itself.
fn copy_vma<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    source: &mut Low<Vma>,
    old_addr: u32,
    (addr, len): (u32, u32),
) -> Result<Low<Vma>, Oom> {
    let vma = *source;
    let source_start = vma.start(k);
    let mut pgoff = vma.pgoff(k).wrapping_add((old_addr - source_start) >> 12);
    // A clustered kernel keeps the phase of the pages inside their windows, whatever the scheme needs.
    let fresh = addr >> 12;
    if vma.file(k).is_null()
        && !K::Rmap::pgoff_bound(k, vma)
        && cluster::sub_of(k, fresh ^ pgoff) == 0
    {
        pgoff = fresh;
    }
    let place = find_vma_prepare(k, mm, addr);
    let area = Area {
        start: addr,
        end: addr + len,
        flags: vma.flags(k),
        file: vma.file(k),
        pgoff,
        like: vma,
    };
    if let Some(merged) = vma_merge(k, mm, place.prev, &area)? {
        if source_start >= merged.start(k) && source_start < merged.end(k) {
            // The source is part of it: was swallowed with its pages, or has grown itself.
            *source = merged;
        } else {
            let adopted = K::Rmap::adopt(k, merged, vma);
            if let Err(oom) = adopted {
                // Nothing was moved yet: what the merge added goes again.
                mm.set_total_vm(k, mm.total_vm(k).wrapping_add(len >> 12));
                unmap_moved(k, mm, merged, (addr, len));
                return Err(oom);
            }
        }
        return Ok(merged);
    }
    let new = vma_copy(k, vma)?;
    new.set_start(k, addr);
    new.set_end(k, addr + len);
    new.set_pgoff(k, pgoff);
    if let Err(oom) = K::Rmap::vma_prepare_copy(k, vma, new) {
        kmem_cache_free(k, CacheId::Vma, new);
        return Err(oom);
    }
    vma_open(k, new);
    vma_link(k, mm, new, &place, Linked::CopyOf(vma));
    Ok(new)
}

/// Moves the ptes of `len` bytes between two places, each a vma and an address in it; on failure tells how many bytes were moved.
fn move_page_tables<K: Kernel>(
    k: K,
    (vma, old): (Low<Vma>, u32),
    (to, new): (Low<Vma>, u32),
    len: u32,
) -> Result<(), u32> {
    let mut done = 0;
    while done < len {
        match move_one_page(k, (vma, old + done), (to, new + done), (old, old + len)) {
            Ok(Move::Go) => done += 4096,
            Ok(Move::Again) => {
                // Early COW: the copy is mapped nowhere else and may move.
                k.probe(Probe::MoveCopied);
                let parted = if cluster::clustered(k) {
                    window::split(k, vma, old + done, (old, old + len))
                } else {
                    handle_mm_fault(k, vma.mm(k), vma, old + done, Access::Write).map(|_| ())
                };
                if parted.is_err() {
                    return Err(done);
                }
            }
            Err(_) => return Err(done),
        }
    }
    Ok(())
}

fn move_one_page<K: Kernel>(
    k: K,
    (vma, old): (Low<Vma>, u32),
    to: (Low<Vma>, u32),
    range: (u32, u32),
) -> Result<Move, Oom> {
    let mm = vma.mm(k);
    let mapping = mapping_of(k, vma);
    let mut spare = K::Rmap::spare(k)?;
    if !mapping.is_null() {
        lock_i_mmap(k, mapping);
    }
    mm.page_table_lock(k).lock(k);
    let moving = Moving {
        mm,
        from: old,
        to: to.1,
        range,
    };
    let result = if cluster::clustered(k) && K::Rmap::moving_frames(k, &moving) == Move::Again {
        Ok(Move::Again)
    } else {
        move_locked(k, (vma, old), to, &mut spare)
    };
    mm.page_table_lock(k).unlock(k);
    if !mapping.is_null() {
        unlock_i_mmap(k, mapping);
    }
    K::Rmap::spare_free(k, spare);
    result
}

fn move_locked<K: Kernel>(
    k: K,
    (vma, old): (Low<Vma>, u32),
    (to_vma, new): (Low<Vma>, u32),
    spare: &mut <K::Rmap as ReverseMap<K>>::Spare,
) -> Result<Move, Oom> {
    let mm = vma.mm(k);
    let Some(mut from) = source(k, mm, old) else {
        return Ok(Move::Go);
    };
    let to = if pte_table_present(k, mm, new) {
        pte_alloc_map(k, mm, new)?
    } else {
        // Making the destination's table may drop the lock: the source is looked up again behind it.
        pte_unmap(k, from);
        let to = pte_alloc_map(k, mm, new)?;
        match source(k, mm, old) {
            Some(again) => from = again,
            None => {
                pte_unmap(k, to);
                return Ok(Move::Go);
            }
        }
        to
    };
    if !cluster::clustered(k) && K::Rmap::moving(k, from, to_vma, new) == Move::Again {
        pte_unmap(k, from);
        pte_unmap(k, to);
        return Ok(Move::Again);
    }
    let pte = ptep_get_and_clear(k, from);
    flush_tlb_page(k, vma, old);
    set_pte(k, to, pte);
    if pte.present() && pfn_valid(k, pte.pfn()) {
        let page = pfn_to_page(k, pte.pfn());
        let (at, then) = (
            PteAt {
                pte: from,
                addr: old,
            },
            PteAt { pte: to, addr: new },
        );
        K::Rmap::moved(k, page, at, then, spare);
    }
    pte_unmap(k, from);
    pte_unmap(k, to);
    Ok(Move::Go)
}

/// The pte to be moved, if there is one (get_one_pte_map_nested).
#[inline(always)]
fn source<K: Kernel>(k: K, mm: Low<Mm>, old: u32) -> Option<Kmapped> {
    let pte = pte_lookup_nested(k, mm, old)?;
    if pte_get(k, pte).is_none() {
        pte_unmap(k, pte);
        return None;
    }
    Some(pte)
}
