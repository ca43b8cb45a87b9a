//! Page faults (arch/i386/mm/fault.c, mm/memory.c of 2.6.7): entry, handle_mm_fault and its five ways.
//!
//! Order of steps and locks is the historic one; where pte_chain kernels differ (a spare block before each add) the reverse map's
//! `spare` is asked at the place of 2.6.0. Left out: vmalloc faults, signals (a bad access is fatal: the trace does not fit the
//! kernel), the check of the address against the stack pointer (a trace knows no stack pointer).
//!
//! Invariant: page_table_lock is taken on entry of each `do_*` function and free on its return.

use crate::bug_on;
use crate::cluster;
use crate::kernel::{Efault, Kernel, Oom};
use crate::layout::{Frame, Mm, Page, Vma, pg, vm, vm_ops};
use crate::lru::mark_page_accessed;
use crate::mm::vma::{expand_stack, find_vma};
use crate::mm::window;
use crate::mm::{Errno, current_mm};
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{self, Gfp, ZoneKind, pfn_to_page, pfn_valid};
use crate::page_cache::{self, clear_highpage, copy_highpage};
use crate::percpu::{State, mod_page_state};
use crate::pgtable::{
    ACCESSED, DIRTY, Prot, Pte, RW, mk_pte, pte_alloc_map, pte_get, pte_lookup, pte_unmap,
    ptep_establish, ptep_set_access_flags, set_pte, task_size,
};
use crate::ptr::{Kmapped, Low};
use crate::reclaim::lru_cache_add_anon;
use crate::rmap::{PteAt, ReverseMap};
use crate::swap::{self, SwapEntry};
use crate::task;
use lowmem_abi::layout::PAGE_SIZE;
use lowmem_abi::owner::Owner;
use lowmem_abi::port::ReportKind;
use lowmem_abi::probe::Probe;

/// Error code of #PF: the page was present (a rights violation).
pub const ERROR_PRESENT: u32 = 1;
/// Error code of #PF: a write.
pub const ERROR_WRITE: u32 = 2;
/// Error code of #PF: from ring 3.
pub const ERROR_USER: u32 = 4;
/// Error code of #PF: an instruction fetch (only with EFER.NXE).
pub const ERROR_FETCH: u32 = 16;

/// How a fault was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Without a device.
    Minor,
    /// Something was read.
    Major,
}

/// Why it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// No mapping, or not with this right.
    BadArea,
    /// No page.
    Oom(Owner),
}

impl From<Oom> for Unserved {
    #[inline(always)]
    fn from(e: Oom) -> Self {
        Unserved::Oom(e.owner)
    }
}

/// #PF. False: a kernel-mode access that no mapping serves; the caller looks for a fix-up. A user access that none serves,
/// or for which no page is left, is fatal. Opens and closes the path [`Probe::Fault`].
pub fn do_page_fault<K: Kernel>(k: K, frame: Low<Frame>, addr: u32, error: u32) -> bool {
    k.begin(Probe::Fault);
    let served = user_fault(k, addr, error);
    let done = match served {
        Ok(_) => true,
        Err(Unserved::Oom(owner)) => out_of_memory(k, owner),
        Err(Unserved::BadArea) => {
            if error & ERROR_USER != 0 {
                k.fatal(ReportKind::BadAccess, error, frame.eip(k), addr)
            }
            false
        }
    };
    k.end(Probe::Fault);
    done
}

/// Reports that a fault found no page, by the zone its owner's pages come from first.
#[cold]
fn out_of_memory<K: Kernel>(k: K, owner: Owner) -> ! {
    let zone = match owner {
        Owner::User | Owner::PageCache => ZoneKind::HighMem,
        _ => ZoneKind::Normal,
    };
    k.fatal(ReportKind::OutOfMemory, zone as u32, 0, owner as u32)
}

/// Serves an access to user address `addr` of the current mm that failed with #PF's `error`. Also what a native
/// user copy calls.
pub fn user_fault<K: Kernel>(k: K, addr: u32, error: u32) -> Result<Served, Unserved> {
    let mm = current_mm(k);
    if addr >= task_size(k) || mm.is_null() {
        return Err(Unserved::BadArea);
    }
    mm.mmap_sem(k).down_read(k);
    let result = fault_locked(k, mm, addr, error);
    mm.mmap_sem(k).up_read(k);
    let task = task::current(k);
    match result {
        Ok(Served::Minor) => task.set_min_flt(k, task.min_flt(k).wrapping_add(1)),
        Ok(Served::Major) => task.set_maj_flt(k, task.maj_flt(k).wrapping_add(1)),
        Err(_) => {}
    }
    result
}

fn fault_locked<K: Kernel>(k: K, mm: Low<Mm>, addr: u32, error: u32) -> Result<Served, Unserved> {
    let vma = find_vma(k, mm, addr);
    if vma.is_null() {
        return Err(Unserved::BadArea);
    }
    if vma.start(k) > addr {
        if vma.flags(k) & vm::GROWSDOWN == 0 {
            return Err(Unserved::BadArea);
        }
        match expand_stack(k, vma, addr) {
            Ok(()) => {}
            Err(Errno::Enomem) => return Err(Unserved::Oom(Owner::AnonVma)),
            Err(_) => return Err(Unserved::BadArea),
        }
    }
    let flags = vma.flags(k);
    let write = error & ERROR_WRITE != 0;
    let allowed = if write {
        flags & vm::WRITE != 0
    } else if error & ERROR_FETCH != 0 {
        flags & vm::EXEC != 0
    } else {
        error & ERROR_PRESENT == 0 && flags & (vm::READ | vm::EXEC) != 0
    };
    if !allowed {
        return Err(Unserved::BadArea);
    }
    Ok(handle_mm_fault(k, mm, vma, addr, Access::of(write))?)
}

/// What a fault wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read or fetch.
    Read,
    /// To write.
    Write,
}

impl Access {
    #[inline(always)]
    pub(super) const fn of(write: bool) -> Self {
        if write { Access::Write } else { Access::Read }
    }
    #[inline(always)]
    pub(super) fn writes(self) -> bool {
        matches!(self, Access::Write)
    }
}

/// One fault: where.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) mm: Low<Mm>,
    pub(crate) vma: Low<Vma>,
    /// Aligned to 4 KB.
    pub(crate) addr: u32,
    pub(crate) pte: Kmapped,
}

impl At {
    #[inline(always)]
    pub(super) fn lock<K: Kernel>(self, k: K) {
        self.mm.page_table_lock(k).lock(k);
    }
    #[inline(always)]
    pub(super) fn unlock<K: Kernel>(self, k: K) {
        self.mm.page_table_lock(k).unlock(k);
    }
    /// pte_unmap and unlock.
    #[inline(always)]
    pub(super) fn leave<K: Kernel>(self, k: K) {
        pte_unmap(k, self.pte);
        self.unlock(k);
    }
    /// Locks again and maps the pte again; its table cannot have gone.
    #[inline(always)]
    pub(super) fn enter<K: Kernel>(self, k: K) -> At {
        self.lock(k);
        let pte = pte_lookup(k, self.mm, self.addr);
        bug_on!(k, Fault, pte.is_none(), self.addr);
        At {
            pte: pte.unwrap_or(self.pte),
            ..self
        }
    }
    #[inline(always)]
    pub(super) fn prot<K: Kernel>(self, k: K) -> Prot {
        Prot(self.vma.page_prot(k))
    }
    #[inline(always)]
    pub(super) fn rss_inc<K: Kernel>(self, k: K) {
        self.mm.set_rss(k, self.mm.rss(k).wrapping_add(1));
    }
    #[inline(always)]
    pub(super) fn pte_at(self) -> PteAt {
        PteAt {
            pte: self.pte,
            addr: self.addr,
        }
    }
    /// Writable if the vma is (maybe_mkwrite).
    #[inline(always)]
    pub(super) fn maybe_write<K: Kernel>(self, k: K, pte: Pte) -> Pte {
        if self.vma.flags(k) & vm::WRITE != 0 {
            pte.with(RW)
        } else {
            pte
        }
    }
}

/// handle_mm_fault: mmap_sem is held, the vma allows the access.
pub fn handle_mm_fault<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    vma: Low<Vma>,
    addr: u32,
    access: Access,
) -> Result<Served, Oom> {
    mod_page_state(k, State::PgFault, 1);
    mm.page_table_lock(k).lock(k);
    let addr = addr & !(PAGE_SIZE - 1);
    let pte = match pte_alloc_map(k, mm, addr) {
        Ok(pte) => pte,
        Err(e) => {
            mm.page_table_lock(k).unlock(k);
            return Err(e);
        }
    };
    handle_pte_fault(k, At { mm, vma, addr, pte }, access)
}

fn handle_pte_fault<K: Kernel>(k: K, at: At, access: Access) -> Result<Served, Oom> {
    let entry = pte_get(k, at.pte);
    if !entry.present() {
        return if entry.is_none() {
            do_no_page(k, at, access)
        } else if entry.is_file() {
            do_file_page(k, at, entry, access)
        } else {
            do_swap_page(k, at, entry, access)
        };
    }
    let mut new = entry;
    if access.writes() {
        if !entry.write() {
            return do_wp_page(k, at, entry);
        }
        new = new.with(DIRTY);
    }
    new = new.with(ACCESSED);
    ptep_set_access_flags(k, at.vma, at.addr, (at.pte, new), access.writes());
    at.leave(k);
    Ok(Served::Minor)
}

/// do_wp_page: reuse if nobody else has the page, else copy.
fn do_wp_page<K: Kernel>(k: K, at: At, pte: Pte) -> Result<Served, Oom> {
    if cluster::clustered(k) {
        return window::do_wp_page(k, at, pte);
    }
    bug_on!(k, Fault, !pfn_valid(k, pte.pfn()), pte.low());
    let old = pfn_to_page(k, pte.pfn());
    if page::trylock_page(k, old) {
        let reuse = swap::can_share_swap_page(k, old, 1);
        if reuse {
            K::Rmap::reused(k, old, at.vma);
        }
        page::unlock_page(k, old);
        if reuse {
            let new = at.maybe_write(k, pte.with(ACCESSED | DIRTY));
            ptep_set_access_flags(k, at.vma, at.addr, (at.pte, new), true);
            at.leave(k);
            k.probe(Probe::CowReused);
            return Ok(Served::Minor);
        }
    }
    pte_unmap(k, at.pte);
    page::get_page(k, old);
    at.unlock(k);
    let result = copy_on_write(k, at, pte, old);
    page::put_page(k, old);
    result
}

/// The copying half of do_wp_page; the caller holds a reference on `old`.
fn copy_on_write<K: Kernel>(k: K, at: At, pte: Pte, old: Low<Page>) -> Result<Served, Oom> {
    K::Rmap::prepare_anon(k, at.vma)?;
    let mut spare = K::Rmap::spare(k)?;
    let new = match page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::User) {
        Ok(page) => page,
        Err(e) => {
            K::Rmap::spare_free(k, spare);
            return Err(e);
        }
    };
    if old == objects(k).zero_page(k) {
        clear_highpage(k, new);
    } else {
        k.probe(Probe::CowCopied);
        copy_highpage(k, new, old);
    }
    let at = at.enter(k);
    let mut unneeded = new;
    if pte_get(k, at.pte) == pte {
        if page::test(k, old, pg::RESERVED) {
            at.rss_inc(k);
        } else {
            K::Rmap::remove(k, old, at.pte);
        }
        let entry = at.maybe_write(k, mk_pte(k, new, at.prot(k)).with(DIRTY));
        ptep_establish(k, at.vma, at.addr, at.pte, entry);
        lru_cache_add_anon(k, new);
        K::Rmap::add_anon(k, new, at.vma, at.pte_at(), &mut spare);
        // The pte's reference on the old page goes.
        unneeded = old;
    }
    pte_unmap(k, at.pte);
    page::put_page(k, unneeded);
    at.unlock(k);
    K::Rmap::spare_free(k, spare);
    Ok(Served::Minor)
}

/// do_anonymous_page: a read maps the zero page, a write gets a page of zeros.
fn do_anonymous_page<K: Kernel>(k: K, at: At, access: Access) -> Result<Served, Oom> {
    if cluster::clustered(k) {
        return window::do_anonymous_page(k, at, access);
    }
    let mut at = at;
    let mut spare = match K::Rmap::spare_atomic(k) {
        Ok(s) => s,
        Err(_) => {
            at.leave(k);
            let s = K::Rmap::spare(k)?;
            at = at.enter(k);
            s
        }
    };
    if !access.writes() {
        set_pte(
            k,
            at.pte,
            mk_pte(k, objects(k).zero_page(k), at.prot(k)).without(RW),
        );
        at.leave(k);
        K::Rmap::spare_free(k, spare);
        return Ok(Served::Minor);
    }
    at.leave(k);
    let page = match anonymous_page(k, at.vma) {
        Ok(page) => page,
        Err(e) => {
            K::Rmap::spare_free(k, spare);
            return Err(e);
        }
    };
    let at = at.enter(k);
    if !pte_get(k, at.pte).is_none() {
        pte_unmap(k, at.pte);
        page::put_page(k, page);
        at.unlock(k);
        K::Rmap::spare_free(k, spare);
        return Ok(Served::Minor);
    }
    at.rss_inc(k);
    let entry = at.maybe_write(k, mk_pte(k, page, at.prot(k)).with(DIRTY));
    lru_cache_add_anon(k, page);
    mark_page_accessed(k, page);
    K::Rmap::add_anon(k, page, at.vma, at.pte_at(), &mut spare);
    set_pte(k, at.pte, entry);
    at.leave(k);
    K::Rmap::spare_free(k, spare);
    Ok(Served::Minor)
}

fn anonymous_page<K: Kernel>(k: K, vma: Low<Vma>) -> Result<Low<Page>, Oom> {
    K::Rmap::prepare_anon(k, vma)?;
    let page = page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::User)?;
    clear_highpage(k, page);
    Ok(page)
}

/// do_no_page: the object's page; a private write copies it at once (early COW).
fn do_no_page<K: Kernel>(k: K, at: At, access: Access) -> Result<Served, Oom> {
    if at.vma.ops(k) == vm_ops::NONE {
        return do_anonymous_page(k, at, access);
    }
    if cluster::clustered(k) {
        return window::do_no_page(k, at, access);
    }
    at.leave(k);
    let found = page_cache::nopage(k, at.vma, at.addr)?;
    let served = if found.major {
        Served::Major
    } else {
        Served::Minor
    };
    let mut page = found.page;
    let mut spare = match K::Rmap::spare(k) {
        Ok(s) => s,
        Err(e) => {
            page::put_page(k, page);
            return Err(e);
        }
    };
    let early_cow = access.writes() && at.vma.flags(k) & vm::SHARED == 0;
    if early_cow {
        let copy = early_copy(k, at.vma, page);
        page::put_page(k, page);
        match copy {
            Ok(copy) => page = copy,
            Err(e) => {
                K::Rmap::spare_free(k, spare);
                return Err(e);
            }
        }
    }
    let at = at.enter(k);
    if pte_get(k, at.pte).is_none() {
        if !page::test(k, page, pg::RESERVED) {
            at.rss_inc(k);
        }
        let mut entry = mk_pte(k, page, at.prot(k));
        if access.writes() {
            entry = at.maybe_write(k, entry.with(DIRTY));
        }
        set_pte(k, at.pte, entry);
        if early_cow {
            lru_cache_add_anon(k, page);
            K::Rmap::add_anon(k, page, at.vma, at.pte_at(), &mut spare);
        } else {
            K::Rmap::add_file(k, page, at.pte_at(), &mut spare);
        }
        pte_unmap(k, at.pte);
    } else {
        pte_unmap(k, at.pte);
        page::put_page(k, page);
    }
    at.unlock(k);
    K::Rmap::spare_free(k, spare);
    Ok(served)
}

fn early_copy<K: Kernel>(k: K, vma: Low<Vma>, from: Low<Page>) -> Result<Low<Page>, Oom> {
    K::Rmap::prepare_anon(k, vma)?;
    let page = page_alloc::alloc_pages(k, Gfp::HighUser, 0, Owner::User)?;
    k.probe(Probe::CowCopied);
    copy_highpage(k, page, from);
    Ok(page)
}

/// do_file_page: a nonlinear mapping's pte that was cleared by reclaim; it remembers its page offset.
fn do_file_page<K: Kernel>(k: K, at: At, pte: Pte, access: Access) -> Result<Served, Oom> {
    let private_write = access.writes() && at.vma.flags(k) & vm::SHARED == 0;
    if private_write || !page_cache::can_populate(k, at.vma) {
        set_pte(k, at.pte, Pte::NONE);
        return do_no_page(k, at, access);
    }
    at.leave(k);
    page_cache::populate(k, at.vma, at.addr, PAGE_SIZE, pte.file_pgoff())?;
    Ok(Served::Major)
}

/// do_swap_page: from the swap cache, or the device with the block around it.
fn do_swap_page<K: Kernel>(k: K, at: At, pte: Pte, access: Access) -> Result<Served, Oom> {
    if cluster::clustered(k) {
        return window::do_swap_page(k, at, pte, access);
    }
    let entry = SwapEntry::of_pte(pte);
    at.leave(k);
    let mut served = Served::Minor;
    let mut page = swap::lookup_swap_cache(k, entry);
    if page.is_null() {
        swap::swapin_readahead(k, entry);
        page = swap::read_swap_cache(k, entry)?;
        bug_on!(k, Fault, page.is_null(), entry.0);
        served = Served::Major;
        mod_page_state(k, State::PgMajFault, 1);
        k.probe(Probe::MajorFault);
    }
    mark_page_accessed(k, page);
    let mut spare = match K::Rmap::prepare_anon(k, at.vma).and_then(|()| K::Rmap::spare(k)) {
        Ok(s) => s,
        Err(e) => {
            page::put_page(k, page);
            return Err(e);
        }
    };
    page::lock_page(k, page);
    let at = at.enter(k);
    if pte_get(k, at.pte) != pte {
        at.leave(k);
        page::unlock_page(k, page);
        page::put_page(k, page);
        K::Rmap::spare_free(k, spare);
        return Ok(Served::Minor);
    }
    swap::swap_free(k, entry);
    if swap::vm_swap_full(k) {
        swap::remove_exclusive_swap_page(k, page);
    }
    at.rss_inc(k);
    let mut new = mk_pte(k, page, at.prot(k));
    let mut write = access.writes();
    let mut alone = false;
    if write && swap::can_share_swap_page(k, page, 1) {
        new = at.maybe_write(k, new.with(DIRTY));
        write = false;
        alone = true;
    }
    page::unlock_page(k, page);
    set_pte(k, at.pte, new);
    K::Rmap::add_anon(k, page, at.vma, at.pte_at(), &mut spare);
    if alone {
        K::Rmap::reused(k, page, at.vma);
    }
    if write || K::Rmap::clashes(k, page, at.addr) {
        K::Rmap::spare_free(k, spare);
        do_wp_page(k, at, new)?;
        return Ok(served);
    }
    at.leave(k);
    K::Rmap::spare_free(k, spare);
    Ok(served)
}

/// follow_page: the page that `addr` shows, and which sub-page of it, if present and usable for the access; page_table_lock is
/// held. A write through a clean pte dirties the page.
pub fn follow_page<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    addr: u32,
    access: Access,
) -> Option<(Low<Page>, u32)> {
    let at = pte_lookup(k, mm, addr)?;
    let pte = pte_get(k, at);
    pte_unmap(k, at);
    if !pte.present() || (access.writes() && !pte.write()) || !pfn_valid(k, pte.pfn()) {
        return None;
    }
    let page = pfn_to_page(k, pte.pfn());
    if access.writes() && !pte.dirty() && !page::test(k, page, pg::DIRTY) {
        page::set_page_dirty(k, page);
    }
    mark_page_accessed(k, page);
    Some((page, cluster::sub_of(k, pte.pfn())))
}

/// get_user_pages for one page: faults it in as often as needed. mmap_sem is held; takes and drops page_table_lock. The page
/// comes with a reference.
pub fn get_user_page<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    addr: u32,
    access: Access,
) -> Result<(Low<Page>, u32), Efault> {
    let found = match fault_in(k, mm, addr, access) {
        Ok(found) => found,
        Err(Unserved::BadArea) => return Err(Efault),
        Err(Unserved::Oom(owner)) => out_of_memory(k, owner),
    };
    page::get_page(k, found.0);
    mm.page_table_lock(k).unlock(k);
    Ok(found)
}

/// Leaves page_table_lock held on success.
fn fault_in<K: Kernel>(
    k: K,
    mm: Low<Mm>,
    addr: u32,
    access: Access,
) -> Result<(Low<Page>, u32), Unserved> {
    let vma = find_vma(k, mm, addr);
    if vma.is_null() {
        return Err(Unserved::BadArea);
    }
    if vma.start(k) > addr
        && (vma.flags(k) & vm::GROWSDOWN == 0 || expand_stack(k, vma, addr).is_err())
    {
        return Err(Unserved::BadArea);
    }
    let need = if access.writes() { vm::WRITE } else { vm::READ };
    if vma.flags(k) & need == 0 {
        return Err(Unserved::BadArea);
    }
    let lock = mm.page_table_lock(k);
    lock.lock(k);
    loop {
        if let Some(found) = follow_page(k, mm, addr, access) {
            return Ok(found);
        }
        lock.unlock(k);
        handle_mm_fault(k, mm, vma, addr, access)?;
        lock.lock(k);
    }
}

/// make_pages_present: faults `start..end` of the current mm in (mlock). mmap_sem is held. Where it cannot, what was faulted in stays, and the
/// answer is that of 2.6.0 to 2.6.8: get_user_pages' error if the first page failed, else -1, for fewer pages than were asked for.
pub fn make_pages_present<K: Kernel>(k: K, start: u32, end: u32) -> Result<(), Errno> {
    let mm = current_mm(k);
    let vma = find_vma(k, mm, start);
    if vma.is_null() {
        return Err(Errno::Eperm);
    }
    let access = Access::of(vma.flags(k) & vm::WRITE != 0);
    let first = start & !(PAGE_SIZE - 1);
    let mut addr = first;
    while addr < end {
        match fault_in(k, mm, addr, access) {
            Ok(_) => mm.page_table_lock(k).unlock(k),
            Err(_) if addr != first => return Err(Errno::Eperm),
            Err(Unserved::BadArea) => return Err(Errno::Efault),
            Err(Unserved::Oom(_)) => return Err(Errno::Enomem),
        }
        addr = addr.wrapping_add(PAGE_SIZE);
    }
    Ok(())
}
