//! swapoff and swapon of the one device (mm/swapfile.c of 2.6.7, try_to_unuse).
//!
//! For each used slot: read the page, lock it, wait for its write; then every mm, all vmas, all ptes, until the slot has no user but
//! the cache; shared objects are asked last. A pte that is found is set old and read-only; one per mm and slot is enough, because
//! a slot is at one address of an mm at most once (mremap moves, it does not copy). Leftover users (none here: nothing
//! races) would have the page written and dropped. Left out: starting with the mm that helped last, which changes only
//! the order of search.
//!
//! Invariant: afterwards no slot is in use, or the call has failed and the device is on again.

use super::{
    SwapEntry, delete_from_swap_cache, info, map_count, read_swap_cache, slot_in_use, swap_free,
};
use crate::cluster;
use crate::io;
use crate::kernel::Kernel;
use crate::layout::{Mm, Page, Vma, pg};
use crate::mm::Errno;
use crate::mm::fault::{Access, At, handle_mm_fault};
use crate::mm::window;
use crate::page;
use crate::page_alloc::zone::{self, MAX_NR_ZONES};
use crate::pgtable::{
    ACCESSED, DIRTY, Prot, Pte, RW, mk_pte, pte_get, pte_lookup, pte_unmap, set_pte,
};
use crate::ptr::Low;
use crate::rmap::{PteAt, ReverseMap};
use crate::shmem;
use crate::task::{init_mm, tasks};
use lowmem_abi::layout::{PAGE_SHIFT, PAGE_SIZE};

/// Offset of `mmlist` in an mm.
const MMLIST: u32 = 52;

/// swapon: the device may be used (again).
pub fn sys_swapon<K: Kernel>(k: K) -> Result<u32, Errno> {
    let s = info(k);
    s.set_total_slots(k, s.max(k).saturating_sub(1));
    Ok(0)
}

/// swapoff: nothing is written to the device any more, everything is read back. Refused if it cannot fit (the check of
/// vm_enough_memory: free pages and the page cache).
pub fn sys_swapoff<K: Kernel>(k: K) -> Result<u32, Errno> {
    let s = info(k);
    if s.max(k) == 0 || s.total_slots(k) == 0 {
        return Err(Errno::Einval);
    }
    let mut room = crate::page_cache::cached_pages(k);
    let mut kind = 0;
    while kind < MAX_NR_ZONES {
        room += zone::node(k).zone(k, kind).free_pages(k);
        kind += 1;
    }
    if s.inuse_pages(k) > room {
        return Err(Errno::Enomem);
    }
    s.set_total_slots(k, 0);
    let mut slot = 1;
    while slot < s.max(k) {
        if slot_in_use(k, SwapEntry(slot)) {
            if let Err(e) = unuse_slot(k, SwapEntry(slot)) {
                sys_swapon(k)?;
                return Err(e);
            }
        }
        slot += 1;
    }
    Ok(0)
}

/// Everything that names `entry` gets its page back.
fn unuse_slot<K: Kernel>(k: K, entry: SwapEntry) -> Result<(), Errno> {
    let page = read_swap_cache(k, entry)?;
    if page.is_null() {
        return Ok(());
    }
    page::lock_page(k, page);
    io::wait_on_page_writeback(k, page);
    let result = unuse_locked(k, entry, page);
    if result.is_ok() && page::swap_cached(k, page) {
        delete_from_swap_cache(k, page);
    }
    if page::is_anon(k, page) {
        page::set(k, page, pg::DIRTY);
    }
    page::unlock_page(k, page);
    page::put_page(k, page);
    result
}

fn unuse_locked<K: Kernel>(k: K, entry: SwapEntry, page: Low<Page>) -> Result<(), Errno> {
    let head = init_mm(k).mmlist(k);
    let mut at = head.next(k);
    while at != head && map_count(k, entry) > 1 {
        unuse_mm(k, at.container(MMLIST), entry, page)?;
        at = at.next(k);
    }
    if map_count(k, entry) > 1 && shmem::unuse(k, entry, page)? {
        return Ok(());
    }
    crate::bug_on!(k, Swap, map_count(k, entry) > 1, entry.0);
    Ok(())
}

/// unuse_process: the first pte of `mm` that names the slot.
fn unuse_mm<K: Kernel>(k: K, mm: Low<Mm>, entry: SwapEntry, page: Low<Page>) -> Result<(), Errno> {
    // Of a clustered page several ptes may name the slot, in several windows.
    loop {
        let found = unuse_one(k, mm, entry, page)?;
        if !found || !cluster::clustered(k) || map_count(k, entry) == 1 {
            return Ok(());
        }
    }
}

/// The first pte, or window, of `mm` that names the slot; false: none.
fn unuse_one<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    entry: SwapEntry,
    page: Low<Page>,
) -> Result<bool, Errno> {
    // Held over the search as the real call holds the list's.
    let t = tasks(k);
    let mut spare = K::Rmap::spare(k)?;
    t.mmlist_lock(k).lock(k);
    mm.page_table_lock(k).lock(k);
    let mut vma = mm.mmap(k);
    let mut found = None;
    while !vma.is_null() && found.is_none() {
        found = unuse_vma(k, vma, (entry, page), &mut spare).map(|addr| (vma, addr));
        vma = vma.next(k);
    }
    mm.page_table_lock(k).unlock(k);
    t.mmlist_lock(k).unlock(k);
    K::Rmap::spare_free(k, spare);
    match found {
        // A place from which the scheme cannot find the pte: copied now, while the page is locked and so cannot be reused.
        Some((vma, addr)) if K::Rmap::clashes(k, page, first_address(k, vma, addr)) => {
            handle_mm_fault(k, mm, vma, addr, Access::Write)?;
            Ok(true)
        }
        _ => Ok(found.is_some()),
    }
}

/// Looks for the slot in a vma; where it was.
fn unuse_vma<K: Kernel>(
    k: K,
    vma: Low<Vma>,
    (entry, page): (SwapEntry, Low<Page>),
    spare: &mut <K::Rmap as ReverseMap<K>>::Spare,
) -> Option<u32> {
    let mm = vma.mm(k);
    let (mut addr, end) = (vma.start(k), vma.end(k));
    while addr < end {
        let Some(pte) = pte_lookup(k, mm, addr) else {
            addr = (addr & !0x1f_ffff).wrapping_add(0x20_0000);
            if addr == 0 {
                break;
            }
            continue;
        };
        if cluster::clustered(k) {
            if names(pte_get(k, pte), entry) {
                window::unuse(k, At { mm, vma, addr, pte }, (entry, page), spare);
                pte_unmap(k, pte);
                return Some(addr);
            }
        } else if pte_get(k, pte) == entry.to_pte(0) {
            mm.set_rss(k, mm.rss(k).wrapping_add(1));
            page::get_page(k, page);
            let new = mk_pte(k, page, Prot(vma.page_prot(k)));
            set_pte(k, pte, new.without(ACCESSED | DIRTY | RW));
            K::Rmap::add_anon(k, page, vma, PteAt { pte, addr }, spare);
            pte_unmap(k, pte);
            swap_free(k, entry);
            return Some(addr);
        }
        pte_unmap(k, pte);
        addr = addr.wrapping_add(PAGE_SIZE);
    }
    None
}

/// Where the first sub-page of the page that `addr` shows would be.
fn first_address<K: Kernel>(k: K, vma: Low<Vma>, addr: u32) -> u32 {
    let sub = cluster::sub_of(k, cluster::linear_pgoff(k, vma, addr));
    addr.wrapping_sub(sub << PAGE_SHIFT)
}

/// Whether a pte names the slot, for whichever sub-page.
fn names(pte: Pte, entry: SwapEntry) -> bool {
    !pte.present() && !pte.is_none() && !pte.is_file() && SwapEntry::of_pte(pte) == entry
}
