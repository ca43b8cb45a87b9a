//! exec (fs/exec.c, fs/binfmt_elf.c of 2.6.7): a new mm, the old one torn down, then what the mailbox lists is mapped.
//!
//! The list stands for the ELF headers of program and interpreter. Order: new mm made; switched to; old mm given up (its tear-down is
//! the *exit* half); stack with its argument page; the other mappings in list order by do_mmap with MAP_FIXED; brk. Left out: reading the
//! files, the strings themselves (the page of arguments and environment stays zero), the credentials' work.
//!
//! copy_strings of 2.4 and 2.6 maps a new page by kmap, the sleeping one: its callers are what was left of kmap in 2.6. It runs three times
//! (file name, environment, arguments), each with a mapping of its own. Assumption: all fits in one page, as it does for most programs.
//!
//! Invariant: CR3 (4G/4G: user_pgd) shows the new mm before the old one is given up.

use crate::cluster;
use crate::file;
use crate::kernel::{Kernel, Oom};
use crate::kmap::{kmap, kunmap};
use crate::layout::{Frame, Mm, Page, Vma, vm};
use crate::mailbox::{exec_mapping, mailbox};
use crate::mm::brk::DATA_DEFAULT_FLAGS;
use crate::mm::merge::Area;
use crate::mm::mm_struct::{mm_alloc, mmdrop, mmlist_add, mmput};
use crate::mm::mmap::{MAP_FIXED, MAP_GROWSDOWN, Request, do_mmap};
use crate::mm::vma::{Linked, acct_memory, find_vma_prepare, vma_alloc, vma_link};
use crate::mm::{Errno, page_align, task_size};
use crate::page;
use crate::page_alloc::{Gfp, alloc_pages};
use crate::pgtable::{DIRTY, Prot, RW, mk_pte, prot_of, pte_alloc_map, pte_unmap, set_pte};
use crate::ptr::Low;
use crate::reclaim::lru_cache_add_anon;
use crate::rmap::{PteAt, ReverseMap};
use crate::sched::activate_mm;
use crate::task::{self, current, init_mm};
use lowmem_abi::layout::PAGE_SIZE;
use lowmem_abi::mailbox::{EXEC_LIST_MAX, NO_FILE, NO_RESULT};
use lowmem_abi::owner::Owner;
use lowmem_abi::probe::Probe;

/// execve: see the module's documentation.
pub fn sys_execve<K: Kernel>(k: K, frame: Low<Frame>) -> Result<u32, Errno> {
    let m = mailbox(k);
    if m.exec_count(k) > EXEC_LIST_MAX {
        return Err(Errno::Einval);
    }
    let task = current(k);
    let mm = mm_alloc(k)?;
    k.begin(Probe::Mmap);
    let arguments = copy_strings(k);
    k.end(Probe::Mmap);
    let arguments = match arguments {
        Ok(page) => page,
        Err(oom) => {
            mmdrop(k, mm);
            return Err(oom.into());
        }
    };
    if let Err(oom) = task::unshare_objects(k, task) {
        if !arguments.is_null() {
            page::put_page(k, arguments);
        }
        mmdrop(k, mm);
        return Err(oom.into());
    }
    k.begin(Probe::Exit);
    mmlist_add(k, mm, init_mm(k));
    let old = task.mm(k);
    let old_active = task.active_mm(k);
    task.set_mm(k, mm);
    task.set_active_mm(k, mm);
    activate_mm(k, old_active, mm);
    if !old.is_null() {
        mmput(k, old);
    }
    k.end(Probe::Exit);
    k.begin(Probe::Mmap);
    mm.mmap_sem(k).down_write(k);
    let mapped = map_image(k, mm, arguments);
    mm.mmap_sem(k).up_write(k);
    k.end(Probe::Mmap);
    mapped?;
    task::start_thread(k, frame, m.exec_entry(k), m.exec_stack_top(k));
    Ok(0)
}

/// Calls of copy_strings: file name, environment, arguments.
const STRING_LISTS: u32 = 3;

/// copy_strings, for all three lists: a new page, mapped once for each; what is not string is cleared at the first. None with clustered
/// pages, whose kernels are not rebuilt that far.
fn copy_strings<K: Kernel>(k: K) -> Result<Low<Page>, Oom> {
    if cluster::clustered(k) {
        return Ok(Low::NULL);
    }
    let page = alloc_pages(k, Gfp::HighUser, 0, Owner::User)?;
    let mut list = 0;
    while list < STRING_LISTS {
        let at = kmap(k, page);
        if list == 0 {
            k.clear_page(at);
        }
        kunmap(k, page);
        list += 1;
    }
    Ok(page)
}

/// install_arg_page: the argument page becomes the stack's last.
fn install_arg_page<K: Kernel>(k: K, vma: Low<Vma>, page: Low<Page>, addr: u32) -> Result<(), Oom> {
    K::Rmap::prepare_anon(k, vma)?;
    let mm = vma.mm(k);
    let mut spare = K::Rmap::spare(k)?;
    mm.page_table_lock(k).lock(k);
    let pte = match pte_alloc_map(k, mm, addr) {
        Ok(pte) => pte,
        Err(oom) => {
            mm.page_table_lock(k).unlock(k);
            K::Rmap::spare_free(k, spare);
            return Err(oom);
        }
    };
    mm.set_rss(k, mm.rss(k).wrapping_add(1));
    lru_cache_add_anon(k, page);
    let entry = mk_pte(k, page, Prot(vma.page_prot(k))).with(DIRTY).with(RW);
    set_pte(k, pte, entry);
    K::Rmap::add_anon(k, page, vma, PteAt { pte, addr }, &mut spare);
    pte_unmap(k, pte);
    mm.page_table_lock(k).unlock(k);
    K::Rmap::spare_free(k, spare);
    Ok(())
}

/// Maps the stack, then the rest of the list, and places brk. Takes `arguments` over.
fn map_image<K: Kernel>(k: K, mm: Low<Mm>, arguments: Low<Page>) -> Result<(), Errno> {
    let m = mailbox(k);
    let count = m.exec_count(k);
    let mut arguments = arguments;
    let mut stack = Ok(());
    let mut i = 0;
    while i < count && stack.is_ok() {
        let e = exec_mapping(k, i);
        if e.flags(k) & MAP_GROWSDOWN != 0 {
            stack = map_stack(k, mm, e.start(k), e.end(k)).and_then(|vma| {
                if !arguments.is_null() {
                    install_arg_page(k, vma, arguments, vma.end(k) - PAGE_SIZE)?;
                    arguments = Low::NULL;
                }
                Ok(())
            });
        }
        i += 1;
    }
    if !arguments.is_null() {
        page::put_page(k, arguments);
    }
    stack?;
    i = 0;
    while i < count {
        let e = exec_mapping(k, i);
        if e.flags(k) & MAP_GROWSDOWN == 0 {
            map_one(k, mm, i)?;
        }
        i += 1;
    }
    let brk = m.exec_brk(k);
    mm.set_start_brk(k, brk);
    mm.set_brk(k, brk);
    mm.set_start_stack(k, m.exec_stack_top(k));
    mm.set_start_code(k, m.exec_entry(k));
    Ok(())
}

/// setup_arg_pages: the stack's vma.
fn map_stack<K: Kernel>(k: K, mm: Low<Mm>, start: u32, end: u32) -> Result<Low<Vma>, Errno> {
    let (start, end) = (start & !0xfff, page_align(end));
    if start >= end || end > task_size(k) {
        return Err(Errno::Einval);
    }
    let pages = (end - start) >> 12;
    let place = find_vma_prepare(k, mm, start);
    if !place.next.is_null() && place.next.start(k) < end {
        return Err(Errno::Einval);
    }
    let area = Area {
        start,
        end,
        flags: DATA_DEFAULT_FLAGS | vm::GROWSDOWN | vm::ACCOUNT | mm.def_flags(k),
        file: Low::NULL,
        pgoff: start >> 12,
        like: Low::NULL,
    };
    let vma = vma_alloc(k, mm)?;
    vma.set_start(k, start);
    vma.set_end(k, end);
    vma.set_pgoff(k, area.pgoff);
    vma.set_flags(k, area.flags);
    vma.set_page_prot(k, prot_of(area.flags).0);
    acct_memory(k, pages);
    vma_link(k, mm, vma, &place, Linked::New);
    mm.set_total_vm(k, mm.total_vm(k).wrapping_add(pages));
    Ok(vma)
}

/// elf_map: entry `i` of the list.
fn map_one<K: Kernel>(k: K, mm: Low<Mm>, i: u32) -> Result<(), Errno> {
    let e = exec_mapping(k, i);
    let id = e.file(k);
    let mut r = Request {
        addr: e.start(k),
        len: e.end(k).wrapping_sub(e.start(k)),
        prot: e.prot(k),
        flags: e.flags(k) | MAP_FIXED,
        file: Low::NULL,
        ops: 0,
        pgoff: e.pgoff(k),
    };
    if id != NO_FILE {
        r.file = file::fget(k, id)?;
        r.ops = file::vm_ops(k, r.file);
    }
    let result = do_mmap(k, mm, &r, NO_RESULT);
    if !r.file.is_null() {
        file::fput(k, r.file);
    }
    result.map(|_| ())
}
