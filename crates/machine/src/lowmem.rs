//! Low memory: who holds how much of it.
//!
//! The owner of a page stands in its flags; slab pages are divided into objects in use (their cache's owner) and the
//! rest (`slab_waste`). Pages on per-CPU lists are free to the kernel but not to the buddy allocator: they count as
//! `per_cpu`. Invariant: owners sum to low memory less the buddy allocator's free pages.

use crate::machine::Machine;
use crate::native::Native;

use guest_vm::cluster;
use guest_vm::layout::pg;
use guest_vm::page_alloc::zone::{ZoneKind, zone};
use guest_vm::page_alloc::{pfn_to_page, pfn_valid};
use guest_vm::slab::{self, CacheId};
use lowmem_abi::owner::Owner as PageOwner;
use lowmem_report::{LowmemUse, Owner};
use std::collections::BTreeMap;

/// The report's row for a page's owner; `None` for free pages.
fn row(owner: PageOwner) -> Option<Owner> {
    Some(match owner {
        PageOwner::Free => return None,
        PageOwner::KernelImage => Owner::KernelImage,
        PageOwner::MemMap => Owner::MemMap,
        PageOwner::Boot => Owner::Boot,
        PageOwner::Vmalloc => Owner::Vmalloc,
        PageOwner::Pgd => Owner::Pgd,
        PageOwner::Pmd => Owner::Pmd,
        PageOwner::Pte => Owner::Pte,
        PageOwner::PteChain => Owner::PteChain,
        PageOwner::AnonVma => Owner::AnonVma,
        PageOwner::Anonmm => Owner::Anonmm,
        PageOwner::AnonVmaChain => Owner::AnonVmaChain,
        PageOwner::Vma => Owner::Vma,
        PageOwner::Mm => Owner::Mm,
        PageOwner::Task => Owner::Task,
        PageOwner::Stack => Owner::Stack,
        PageOwner::ProcessOther => Owner::ProcessOther,
        PageOwner::Inode => Owner::Inode,
        PageOwner::Dentry => Owner::Dentry,
        PageOwner::BufferHead => Owner::BufferHead,
        PageOwner::RadixTree => Owner::RadixTree,
        PageOwner::Kmalloc => Owner::Kmalloc,
        PageOwner::SlabWaste => Owner::SlabWaste,
        PageOwner::PerCpu => Owner::PerCpu,
        PageOwner::User => Owner::User,
        PageOwner::PageCache => Owner::PageCache,
    })
}

/// See [`Machine::low_pages_used`].
#[inline]
pub(crate) fn low_pages_used(k: Native, low_pages: u32) -> u32 {
    let free = zone(k, ZoneKind::Dma).free_pages(k) + zone(k, ZoneKind::Normal).free_pages(k);
    low_pages - (free << cluster::mmu_shift(k))
}

impl Machine {
    /// Pages of low memory that are not on the buddy allocator's free lists.
    #[inline]
    pub fn low_pages_used(&self) -> u32 {
        low_pages_used(self.k, self.low_pages())
    }

    /// Free and present pages of each zone, for the end of a run that found no memory.
    pub fn memory_in_words(&self) -> String {
        let zones = ZoneKind::ALL.map(|kind| {
            let z = zone(self.k, kind);
            format!(
                "{kind:?} {} of {} pages free",
                z.free_pages(self.k),
                z.present_pages(self.k)
            )
        });
        let books = self.lowmem();
        let mut owners: Vec<(u64, &str)> = Owner::ALL
            .iter()
            .map(|&o| (books.owner(o), o.name()))
            .filter(|(bytes, _)| *bytes > 0)
            .collect();
        owners.sort_unstable_by(|a, b| b.cmp(a));
        let owners: Vec<String> = owners
            .iter()
            .take(5)
            .map(|(bytes, name)| format!("{name} {} kB", bytes >> 10))
            .collect();
        format!("{}; low memory: {}", zones.join(", "), owners.join(", "))
    }

    pub(crate) fn low_pages(&self) -> u32 {
        (self.mem().low_bytes() >> 12) as u32
    }

    /// Low memory by owner now; `peak_bytes` is what is in use now.
    pub fn lowmem(&self) -> LowmemUse {
        let unmapped_bytes = self.unmapped_bytes();
        LowmemUse {
            unmapped_bytes,
            ..of_kernel(self.k, self.low_pages())
        }
    }

    /// Bytes of the frames that no pte maps of pages of which one maps another frame.
    fn unmapped_bytes(&self) -> u64 {
        let k = self.k;
        if !cluster::clustered(k) {
            return 0;
        }
        let mut pages: BTreeMap<u32, u32> = BTreeMap::new();
        guest_vm::check::each_mm(k, |mm| {
            self.each_pte(mm, |_, pte, _| {
                if !pte.present() || !pfn_valid(k, pte.pfn()) {
                    return;
                }
                let flags = pfn_to_page(k, pte.pfn()).flags(k);
                if flags & (1 << pg::RESERVED) == 0 {
                    let page = pte.pfn() >> cluster::mmu_shift(k);
                    *pages.entry(page).or_default() |= 1 << cluster::sub_of(k, pte.pfn());
                }
            });
        });
        let mapped: u32 = pages.values().map(|subs| subs.count_ones()).sum();
        (pages.len() as u64 * u64::from(cluster::mmu_count(k)) - u64::from(mapped)) * 4096
    }
}

/// See [`Machine::lowmem`]; what clustered pages waste is not looked for.
pub(crate) fn of_kernel(k: Native, low_pages: u32) -> LowmemUse {
    let mut by_owner = [0u64; Owner::COUNT];
    let page_bytes = u64::from(cluster::page_bytes(k));
    for pfn in 0..low_pages {
        let number = guest_vm::page_alloc::owner_of(k, pfn_to_page(k, pfn));
        if let Some(owner) = PageOwner::from_u32(number).and_then(row) {
            by_owner[owner as usize] += 4096;
        }
    }
    for &cache in CacheId::ALL {
        let (pages, objects, bytes) = slab::usage(k, cache);
        let waste = u64::from(pages) * page_bytes - u64::from(objects) * u64::from(bytes);
        if let Some(owner) = row(cache.owner()) {
            by_owner[owner as usize] -= waste;
            by_owner[Owner::SlabWaste as usize] += waste;
        }
    }
    for kind in [ZoneKind::Dma, ZoneKind::Normal] {
        for list in 0..2 {
            let count = zone(k, kind).pageset(k, list).count(k);
            by_owner[Owner::PerCpu as usize] += u64::from(count) * page_bytes;
        }
    }
    LowmemUse {
        total_bytes: u64::from(low_pages) << 12,
        peak_bytes: by_owner.iter().sum(),
        by_owner,
        unmapped_bytes: 0,
    }
}
