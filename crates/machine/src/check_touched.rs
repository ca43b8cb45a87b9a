//! `--check`, the part after each operation: the pages it referenced, each by what is near it.
//!
//! For a page: the vma that covers it, its rights, the pte, and of the frame the owner, the reference count, the mapcount, and what the scheme
//! keeps for just this mapping (chains: the pte is in the chain once, and its page table knows mm and base; anon_vma: the
//! page belongs to the vma's anon_vma, the vma hangs in a list, the index gives the address). Mapping and index of a file page
//! are those of the vma. Left out, because they need a scan ([`Machine::check`]): mapcounts and reference counts that are wrong by the same
//! number, other mappings of the page, exact rss, counters, trees, LRU lists.
//!
//! Invariant: it changes nothing, and takes time in the pages touched (and the length of their chains), not in memory.

use crate::error::MachineError;
use crate::machine::{Machine, guarded};
use crate::replayer::Touch;
use crate::walk;
use guest_vm::check::owner;
use guest_vm::kernel::Kernel;
use guest_vm::layout::{Mm, Page, Vma, pg, vm};
use guest_vm::mm::vma::find_vma_prev;
use guest_vm::page::linear_page_index;
use guest_vm::page_alloc::{pfn_to_page, pfn_valid};
use guest_vm::page_cache::buffers;
use guest_vm::pgtable::{Pte, task_size};
use guest_vm::ptr::Low;
use guest_vm::rmap::chained::PteAddr;
use guest_vm::rmap::{ReverseMap, anon_vma, pte_chain, pte_chain_dl, pte_chain_v1};
use guest_vm::swap::{SwapEntry, map_count};
use guest_vm::{cluster, lru, page, task};
use lowmem_abi::owner::Owner;
use lowmem_report::config::Rmap;

impl Machine {
    /// Checks the pages that operations up to `operation` have touched.
    pub fn check_touched(&self, operation: u64, touched: &[Touch]) -> Result<(), MachineError> {
        for touch in touched {
            let found = guarded(|| self.check_touch(*touch)).unwrap_or_else(|e| Err(e.to_string()));
            found.map_err(|reason| MachineError::Check {
                operation,
                reason: format!("page {:#x} of task {}: {reason}", touch.page, touch.pid),
            })?;
        }
        Ok(())
    }

    fn check_touch(&self, touch: Touch) -> Result<(), String> {
        let k = self.k;
        let task = task::find(k, touch.pid);
        if task.is_null() || task.mm(k).is_null() || touch.page >= task_size(k) {
            return Ok(());
        }
        let (mm, addr) = (task.mm(k), touch.page);
        let root = mm.pgd(k).va().wrapping_sub(self.host.page_offset());
        let Some(leaf) = walk::lookup(self.mem(), root, addr) else {
            return Ok(());
        };
        let pte = Pte(leaf.entry);
        if pte.is_none() || leaf.large {
            return Ok(());
        }
        let (vma, _) = find_vma_prev(k, mm, addr);
        if vma.is_null() || vma.start(k) > addr {
            return Err(format!("pte {:#x} outside every vma", pte.0));
        }
        if !pte.present() {
            if !pte.is_file() && map_count(k, SwapEntry::of_pte(pte)) == 0 {
                return Err(format!("pte {:#x} shows a free swap slot", pte.0));
            }
            return Ok(());
        }
        let rights = vma.flags(k) & (vm::READ | vm::WRITE | vm::EXEC);
        if pte.write() && rights & vm::WRITE == 0 || pte.0 & walk::P != 0 && rights == 0 {
            return Err(format!("pte {:#x} has rights its vma lacks", pte.0));
        }
        if !pfn_valid(k, pte.pfn()) {
            return Ok(());
        }
        let page = pfn_to_page(k, pte.pfn());
        if page::test(k, page, pg::RESERVED) {
            return Ok(());
        }
        if mm.rss(k) == 0 || mm.map_count(k) == 0 {
            let (rss, vmas) = (mm.rss(k), mm.map_count(k));
            return Err(format!("present, but rss {rss}, map_count {vmas}"));
        }
        self.check_counts(page)
            .and_then(|()| self.check_object(page, vma, addr))
            .and_then(|()| match self.config.rmap {
                Rmap::PteChain | Rmap::PteChainV1 | Rmap::PteChainDl => {
                    self.check_chain(page, (mm, addr), leaf.at.0)
                }
                Rmap::Objrmap if self.in_file(page) => Ok(()),
                Rmap::Objrmap => self.check_chain(page, (mm, addr), leaf.at.0),
                Rmap::AnonVma => self.check_anon(page, vma, addr),
                _ => <crate::native::Native as Kernel>::Rmap::check_mapping(k, page, vma, addr)
                    .map_err(str::to_owned),
            })
            .map_err(|reason| format!("frame {:#x}: {reason}", pte.pfn()))
    }

    /// Owner, mapcount and reference count of a mapped page.
    fn check_counts(&self, page: Low<Page>) -> Result<(), String> {
        let k = self.k;
        if !matches!(owner(k, page), Some(Owner::User | Owner::PageCache)) {
            return Err(format!("owned by {:?}", owner(k, page)));
        }
        if !<crate::native::Native as Kernel>::Rmap::counts(k) {
            return Ok(());
        }
        let mapcount = <crate::native::Native as Kernel>::Rmap::mapcount(k, page);
        if mapcount == 0 {
            return Err("mapcount 0 of a mapped page".to_owned());
        }
        let vectors = lru::vectors(k);
        let mut held = 0;
        for vector in [vectors.inactive(k), vectors.active(k)] {
            held += (0..vector.nr(k))
                .filter(|&i| vector.page(k, i) == page)
                .count() as u32;
        }
        let expected = mapcount
            + u32::from(page::swap_cached(k, page))
            + u32::from(self.in_file(page))
            + buffers::references(k, page)
            + held;
        // Chains count groups of ptes of a clustered page, each of at least one.
        let groups = cluster::clustered(k) && page.count(k) > expected;
        if page.count(k) != expected && !groups {
            return Err(format!(
                "count {}, expected {expected} with mapcount {mapcount}",
                page.count(k)
            ));
        }
        Ok(())
    }

    fn in_file(&self, page: Low<Page>) -> bool {
        page::in_file(self.k, page)
    }

    /// A file page lies where its vma shows it.
    fn check_object(&self, page: Low<Page>, vma: Low<Vma>, addr: u32) -> Result<(), String> {
        let k = self.k;
        if !self.in_file(page) {
            return Ok(());
        }
        let file = vma.file(k);
        if file.is_null() || file.f_mapping(k).va() != page.mapping(k) {
            return Err("page of another file than its vma's".to_owned());
        }
        let linear = vma.flags(k) & vm::NONLINEAR == 0;
        if linear && page.index(k) != linear_page_index(k, vma, addr) {
            return Err(format!("index {:#x} is another address", page.index(k)));
        }
        Ok(())
    }

    fn check_chain(
        &self,
        page: Low<Page>,
        (mm, addr): (Low<Mm>, u32),
        pte_pa: u64,
    ) -> Result<(), String> {
        let k = self.k;
        let mut entries = 0;
        let group = pte_pa & !(8 * u64::from(cluster::mmu_count(k)) - 8);
        let mut count = |entry: PteAddr| entries += u32::from(entry.phys(k) == group);
        match self.config.rmap {
            Rmap::PteChainV1 => pte_chain_v1::each_entry(k, page, &mut count),
            Rmap::PteChainDl => pte_chain_dl::each_entry(k, page, &mut count),
            _ => pte_chain::each_entry(k, page, &mut count),
        }
        if entries != 1 {
            return Err(format!("pte {entries} times in the chain"));
        }
        let table = pfn_to_page(k, (pte_pa >> 12) as u32);
        let base = addr & !((0x20_0000 << cluster::mmu_shift(k)) - 1);
        if table.mapping(k) != mm.va() || table.index(k) != base {
            return Err("page table does not know its mm and base".to_owned());
        }
        Ok(())
    }

    fn check_anon(&self, page: Low<Page>, vma: Low<Vma>, addr: u32) -> Result<(), String> {
        let k = self.k;
        if self.in_file(page) {
            return Ok(());
        }
        let anon_vma = anon_vma::of_vma(k, vma);
        if anon_vma.is_null() || anon_vma.va() != page.mapping(k) {
            return Err("page of another anon_vma than its vma's".to_owned());
        }
        let node = vma.rmap_fields::<_, anon_vma::VmaPart>(k).node(k);
        if node.next(k) == node || node.next(k).prev(k) != node || node.prev(k).next(k) != node {
            return Err("vma not on its anon_vma's list".to_owned());
        }
        if page.index(k) != linear_page_index(k, vma, addr) {
            return Err(format!("index {:#x} is another address", page.index(k)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
