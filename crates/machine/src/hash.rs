//! memory_hash: one number for everything the processes wrote (design, section 5).
//!
//! A commutative sum over (owner, address, word) of the non-zero words of every present or swapped private page of an
//! address space, folded in when its last user exits or execs and at the end; of dirtied pages of shared objects over
//! (object, byte, word) at the end; and of the hashes of what each task loaded. A file page whose content was never changed
//! adds nothing, wherever it is mapped, nor do the three words below the stack's top that only a sysenter entry writes;
//! boundaries of vmas and places of frames stay out. So the hash is equal for all configurations of one trace (a program that
//! moves the top of its own stack by mremap would be an exception).
//!
//! The walk is the host's, from mm->pgd, and changes nothing. Invariant: the order of folding does not matter.

use crate::device::{SHMEM_FILES, synthetic_words};
use crate::machine::Machine;
use crate::replayer::STUB_STACK_BYTES;
use crate::walk;
use emu_mmu::{Pfn, PhysAddr};
use guest_vm::cluster;
use guest_vm::kernel::Kernel;
use guest_vm::layout::{Mapping, Mm, pg};
use guest_vm::page_alloc::{pfn_to_page, pfn_valid};
use guest_vm::pgtable::Pte;
use guest_vm::ptr::Low;
use guest_vm::swap::SwapEntry;
use lowmem_trace::retouch::mix;
use std::collections::BTreeSet;

/// First byte of the shared window of 4G/4G, and an upper bound of user addresses on every split.
const USER_END: u64 = 0xff00_0000;

/// One (owner, place, word).
fn word_hash(owner: u64, place: u64, word: u32) -> u128 {
    let a = mix(owner.wrapping_mul(0xa24b_aed4_963e_e407), place, word);
    let b = mix(a ^ place, owner, word);
    u128::from(a) << 64 | u128::from(b)
}

/// Where an owner number of a shared object begins: task ids stay far below.
const OBJECTS: u64 = 1 << 40;

impl Machine {
    /// The words of one address space, as owned by `owner`.
    pub fn hash_space(&self, owner: u32, mm: Low<Mm>, stack_top: u32) -> u128 {
        let mut sum = 0u128;
        self.each_private_page(mm, |va, words| {
            for (offset, word) in words {
                let place = va + offset;
                // The three words that a sysenter stub pushes.
                if stack_top != 0
                    && (stack_top.saturating_sub(STUB_STACK_BYTES)..stack_top).contains(&place)
                {
                    continue;
                }
                let hash = word_hash(u64::from(owner), u64::from(place), word);
                sum = sum.wrapping_add(hash);
            }
        });
        sum
    }

    /// Calls `f(address, non-zero words)` for each page of `mm` that is no file's, present or swapped, ascending.
    pub(crate) fn each_private_page(
        &self,
        mm: Low<Mm>,
        mut f: impl FnMut(u32, &mut dyn Iterator<Item = (u32, u32)>),
    ) {
        self.each_pte(mm, |va, pte, _| {
            if pte.present() {
                if let Some(pfn) = self.private_frame(pte) {
                    f(va, &mut self.mem().page_words(pfn));
                }
            } else if !pte.is_file() {
                let sub = SwapEntry::sub_of_pte(pte);
                f(va, &mut self.slot_words(SwapEntry::of_pte(pte), sub));
            }
        });
    }

    /// Calls `f(address, pte, physical address of the pte)` for each non-zero user pte of `mm`, ascending.
    pub fn each_pte(&self, mm: Low<Mm>, mut f: impl FnMut(u32, Pte, PhysAddr)) {
        let mem = self.mem();
        let k = self.k;
        let root = mm.pgd(k).va().wrapping_sub(rows_offset(self));
        let end = if k.two_tables() {
            USER_END
        } else {
            u64::from(rows_offset(self))
        };
        let mut va = 0u64;
        while va < end {
            let pdpte = mem.read_u64(PhysAddr(u64::from(root) + (va >> 30) * 8));
            if pdpte & walk::P == 0 {
                va += 1 << 30;
                continue;
            }
            let pde_at = (pdpte & 0x000f_ffff_ffff_f000) + (va >> 21 & 0x1ff) * 8;
            let pde = mem.read_u64(PhysAddr(pde_at));
            if pde & walk::P == 0 || pde & walk::PS != 0 {
                va += 1 << 21;
                continue;
            }
            let table = pde & 0x000f_ffff_ffff_f000;
            for i in 0..512 {
                let at = PhysAddr(table + i * 8);
                let pte = Pte(mem.read_u64(at));
                if !pte.is_none() {
                    f((va + i * 4096) as u32, pte, at);
                }
            }
            va += 1 << 21;
        }
    }

    /// The frame of a present pte, if it belongs to this process alone or to its relatives: neither a page of a file
    /// nor reserved (the zero page).
    fn private_frame(&self, pte: Pte) -> Option<Pfn> {
        let k = self.k;
        let pfn = pte.pfn();
        if !pfn_valid(k, pfn) {
            return None;
        }
        let page = pfn_to_page(k, pfn);
        let flags = page.flags(k);
        let has = |bit: u32| flags & (1 << bit) != 0;
        let of_file = guest_vm::page::in_file(k, page);
        (!has(pg::RESERVED) && !of_file).then_some(Pfn(pfn))
    }

    /// The words of sub-page `sub` of a slot: from the swap cache, or from the device.
    fn slot_words(&self, entry: SwapEntry, sub: u32) -> Box<dyn Iterator<Item = (u32, u32)> + '_> {
        let k = self.k;
        let cache = guest_vm::swap::swapper_space(k).page_tree(k);
        let page = guest_vm::radix_tree::lookup(k, cache, entry.0);
        if !page.is_null() {
            let pfn = Pfn(guest_vm::page_alloc::page_to_pfn(k, page) + sub);
            return Box::new(self.mem().page_words(pfn));
        }
        let frame = (entry.0 << cluster::mmu_shift(k)) + sub;
        match self.host.devices.swap_slot(frame) {
            Some(words) => Box::new(words.iter().copied()),
            None => Box::new(std::iter::empty()),
        }
    }

    /// The words of all pages of files and shared objects that differ from what the device first had.
    pub fn hash_objects(&self) -> u128 {
        let mut sum = 0u128;
        self.each_changed_object_page(|file, index, words| {
            for (offset, word) in words {
                let place = u64::from(index) * 4096 + u64::from(offset);
                sum = sum.wrapping_add(word_hash(OBJECTS + u64::from(file), place, word));
            }
        });
        sum
    }

    /// Calls `f(file, page, non-zero words)` for each page of a file that differs from what the device first had, and each of a
    /// shared object that has ever been there.
    pub(crate) fn each_changed_object_page(
        &self,
        mut fold: impl FnMut(u32, u32, &mut dyn Iterator<Item = (u32, u32)>),
    ) {
        let k = self.k;
        let changed = |file: u32, index: u32, pfn: Pfn| {
            !self.mem().page_words(pfn).eq(synthetic_words(file, index))
        };
        let mut cached = BTreeSet::new();
        let max = (self.mem().ram_bytes() >> 12) as u32;
        for pfn in 0..max {
            let page = pfn_to_page(k, pfn);
            let flags = page.flags(k);
            let has = |bit: u32| flags & (1 << bit) != 0;
            let mapping = page.mapping(k);
            // Pages of files are up to date; pte pages of pte_chain kernels keep their mm in the same field.
            if mapping == 0
                || !has(pg::UPTODATE)
                || has(pg::ANON)
                || guest_vm::page::swap_cached(k, page)
                || has(pg::SLAB)
                || has(pg::RESERVED)
            {
                continue;
            }
            let file = guest_vm::file::id_of_mapping(k, Low::<Mapping>::new(mapping));
            let index = (page.index(k) << cluster::mmu_shift(k)) + cluster::sub_of(k, pfn);
            if file >= SHMEM_FILES || changed(file, index, Pfn(pfn)) {
                fold(file, index, &mut self.mem().page_words(Pfn(pfn)));
            }
            cached.insert((file, index));
        }
        // Written back and evicted since.
        for ((file, index), words) in self.host.devices.written_pages() {
            let words = || words.iter().copied();
            if !cached.contains(&(file, index)) && !words().eq(synthetic_words(file, index)) {
                fold(file, index, &mut words());
            }
        }
        guest_vm::check::each_file(k, |file| {
            let id = file.id(k);
            if id >= SHMEM_FILES {
                guest_vm::shmem::each_entry(k, file.f_mapping(k), |index, slot| {
                    for sub in 0..cluster::mmu_count(k) {
                        let index = (index << cluster::mmu_shift(k)) + sub;
                        fold(id, index, &mut self.slot_words(SwapEntry(slot), sub));
                    }
                    false
                });
            }
        });
    }
}

fn rows_offset(machine: &Machine) -> u32 {
    machine.host.page_offset()
}
