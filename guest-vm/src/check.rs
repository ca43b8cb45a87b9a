//! Invariants over the whole state, by brute force (native only): the slow twin of the reverse maps (design D15).
//!
//! [`mappers`] finds the ptes of a page by reading every page table of every mm; [`all`] compares what that scan sees with
//! what counters, chains, lists and trees claim. It holds at a boundary: no lock taken, no gather open, no page pinned.
//! The list of rules is the fact sheet's ("Invariants worth checking after every operation", 1-5 and 7-11).
//!
//! Invariant: nothing here writes guest memory.

mod cache;
mod lru;
mod owners;
mod slabs;
mod trees;

use crate::cluster;
use crate::guest_struct::Word;
use crate::kernel::Kernel;
use crate::layout::{Mm, Page, Vma, pg};
use crate::page;
use crate::page_alloc::{page_to_pfn, pfn_to_page, pfn_valid, zone};
use crate::page_cache::buffers;
use crate::percpu::{State, page_state};
use crate::pgtable::{PRESENT, PSE, Pte, task_size};
use crate::ptr::Low;
use crate::rmap::ReverseMap;
use crate::swap::{self, SwapEntry};
use crate::task::init_mm;
use lowmem_abi::owner::Owner;
use std::collections::{BTreeMap, BTreeSet};
pub use trees::{each_file, prio_tree_order};

/// The first rule that does not hold. Numbers in the text are the sheet's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub enum Violation {
    /// 1: what the scheme counts for a page and what the scan finds.
    Mapcount { pfn: u32, scheme: u32, scan: u32 },
    /// 1: pages mapped, by counter and by scan.
    NrMapped { counter: u32, scan: u32 },
    /// A pte that shows, or names of a slot, another sub-page than belongs there.
    SubPage { mm: u32, addr: u32, pte: u64 },
    /// 2: present ptes on non-reserved pages.
    Rss { mm: u32, rss: u32, scan: u32 },
    /// A pte outside every vma.
    StrayPte { mm: u32, addr: u32, pte: u64 },
    /// A pte with rights its vma does not give.
    PteRights { mm: u32, addr: u32, pte: u64 },
    /// 3: reference count.
    PageCount { pfn: u32, count: u32, expected: u32 },
    /// 4: count of a swap slot.
    SwapCount {
        slot: u32,
        count: u32,
        expected: u32,
    },
    /// 4: slots in use.
    SwapInUse { counter: u32, scan: u32 },
    /// 5, 7: the scheme's own structure is wrong for a page.
    Scheme {
        pfn: u32,
        what: &'static str,
        value: u32,
    },
    /// 5: the scheme's own structure is wrong for a vma.
    SchemeVma { vma: u32, what: &'static str },
    /// 6: what the scheme keeps beyond pages and vmas is wrong.
    SchemeAll { what: &'static str, value: u32 },
    /// 8: i_mmap of a file.
    FileVmas {
        file: u32,
        what: &'static str,
        value: u32,
    },
    /// 9: the tree of a mapping.
    PageTree {
        file: u32,
        index: u32,
        what: &'static str,
    },
    /// 10: LRU lists and vectors.
    Lru {
        pfn: u32,
        what: &'static str,
        value: u32,
    },
    /// Page writes under way: flag, queue and counter.
    Writes { pfn: u32, what: &'static str },
    /// 11: page-table pages, by counter and by scan.
    PageTables { counter: u32, scan: u32 },
    /// Pages of an owner in a zone; `free`: pages without one.
    Owners {
        zone: zone::ZoneKind,
        owner: &'static str,
        pages: u32,
        expected: u32,
    },
    /// The lists and slabs of a cache.
    Slab {
        cache: &'static str,
        what: &'static str,
        value: u32,
    },
    /// A lock that is taken at a boundary.
    Locked { at: u32, what: &'static str },
}

/// A pte that maps a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapper {
    /// Address of the mm.
    pub mm: u32,
    /// User address.
    pub addr: u32,
    /// Physical address of the pte.
    pub pte_pa: u64,
    /// Its address in the direct map; meaningless for a pte page in high memory.
    pub pte_va: u32,
    /// The pte.
    pub pte: u64,
}

/// Calls `f` for every mm on the list.
pub fn each_mm<K: Kernel>(k: K, mut f: impl FnMut(Low<Mm>)) {
    let head = init_mm(k).mmlist(k);
    let mut at = head.next(k);
    while at != head {
        f(at.container(52));
        at = at.next(k);
    }
}

/// Calls `f` for every vma of an mm, in order.
pub fn each_vma<K: Kernel>(k: K, mm: Low<Mm>, mut f: impl FnMut(Low<Vma>)) {
    let mut vma = mm.mmap(k);
    while !vma.is_null() {
        f(vma);
        vma = vma.next(k);
    }
}

fn entry<K: Kernel>(k: K, va: u32) -> u64 {
    let low = u32::load(k, Low::new(va));
    let high = u32::load(k, Low::new(va + 4));
    (high as u64) << 32 | low as u64
}

/// Calls `f` for every non-empty user pte of an mm; returns the number of page-table pages met.
pub fn each_pte<K: Kernel>(k: K, mm: Low<Mm>, mut f: impl FnMut(Mapper)) -> u32 {
    let pgd = mm.pgd(k);
    if pgd.is_null() {
        return 0;
    }
    let mut tables = 0;
    for slot in 0..4u32 {
        let dir = (pgd.half(k, slot * 2 + 1) as u64) << 32 | pgd.half(k, slot * 2) as u64;
        if dir as u32 & PRESENT == 0 {
            continue;
        }
        let pmd = k.page_offset().wrapping_add(dir as u32 & !0xfff);
        for i in 0..512u32 {
            let base = slot << 30 | i << 21;
            if base >= task_size(k) {
                break;
            }
            let e = entry(k, pmd + i * 8);
            if e as u32 & PRESENT == 0 || e as u32 & PSE != 0 {
                continue;
            }
            // A page of several frames is as many tables, the first always there.
            tables += (cluster::sub_of(k, i) == 0) as u32;
            let table = Pte(e).pfn();
            for j in 0..512u32 {
                let (low, high) = (k.frame_word(table, j * 8), k.frame_word(table, j * 8 + 4));
                let pte = u64::from(high) << 32 | u64::from(low);
                if pte != 0 {
                    let pte_pa = (u64::from(table) << 12) + u64::from(j) * 8;
                    let pte_va = k.page_offset().wrapping_add(pte_pa as u32);
                    let addr = base | j << 12;
                    f(Mapper {
                        mm: mm.va(),
                        addr,
                        pte_pa,
                        pte_va,
                        pte,
                    });
                }
            }
        }
    }
    tables
}

/// Calls `f` for every pte in the system that maps `page`: the brute-force reverse map.
pub fn mappers<K: Kernel>(k: K, page: Low<Page>, mut f: impl FnMut(Mapper)) {
    let pfn = page_to_pfn(k, page);
    each_mm(k, |mm| {
        each_pte(k, mm, |m| {
            if Pte(m.pte).present() && first_frame(k, Pte(m.pte).pfn()) == pfn {
                f(m);
            }
        });
    });
}

/// What one scan of all page tables saw.
#[derive(Debug, Default)]
pub struct Scan {
    /// Mappers of each mapped, non-reserved frame, in order of mm list and address.
    pub pages: BTreeMap<u32, Vec<Mapper>>,
    /// Swap ptes of each slot.
    pub slots: BTreeMap<u32, u32>,
    /// Page-table pages.
    pub tables: u32,
}

/// Reads all page tables, checking each pte against its vma and each mm's rss.
pub fn scan<K: Kernel>(k: K) -> Result<Scan, Violation> {
    let mut s = Scan::default();
    let mut bad = None;
    each_mm(k, |mm| {
        let mut vmas = Vec::new();
        each_vma(k, mm, |v| vmas.push((v.start(k), v.end(k), v)));
        let mut rss = 0;
        let mut i = 0;
        s.tables += each_pte(k, mm, |m| {
            while i < vmas.len() && vmas[i].1 <= m.addr {
                i += 1;
            }
            let Some(&(_, _, vma)) = vmas.get(i).filter(|v| v.0 <= m.addr) else {
                bad.get_or_insert(Violation::StrayPte {
                    mm: m.mm,
                    addr: m.addr,
                    pte: m.pte,
                });
                return;
            };
            let pte = Pte(m.pte);
            if !sub_belongs(k, vma, m.addr, pte) {
                bad.get_or_insert(Violation::SubPage {
                    mm: m.mm,
                    addr: m.addr,
                    pte: m.pte,
                });
            }
            if !pte.present() {
                if !pte.is_file() {
                    *s.slots.entry(SwapEntry::of_pte(pte).0).or_default() += 1;
                }
                return;
            }
            if pte.write() && vma.flags(k) & crate::layout::vm::WRITE == 0 {
                bad.get_or_insert(Violation::PteRights {
                    mm: m.mm,
                    addr: m.addr,
                    pte: m.pte,
                });
            }
            if pfn_valid(k, pte.pfn()) && !reserved(k, pte.pfn()) {
                rss += 1;
                s.pages
                    .entry(first_frame(k, pte.pfn()))
                    .or_default()
                    .push(m);
            }
        });
        if rss != mm.rss(k) {
            bad.get_or_insert(Violation::Rss {
                mm: mm.va(),
                rss: mm.rss(k),
                scan: rss,
            });
        }
        if !mm.page_table_lock(k).is_free(k) {
            bad.get_or_insert(Violation::Locked {
                at: mm.va(),
                what: "page_table_lock",
            });
        }
        if mm.mmap_sem(k).count(k) != 0 {
            bad.get_or_insert(Violation::Locked {
                at: mm.va(),
                what: "mmap_sem",
            });
        }
    });
    match bad {
        Some(v) => Err(v),
        None => Ok(s),
    }
}

/// First frame of the page with this one.
fn first_frame<K: Kernel>(k: K, pfn: u32) -> u32 {
    pfn & !(cluster::mmu_count(k) - 1)
}

/// Whether a pte shows the sub-page that belongs at its page offset; a nonlinear vma may show any.
fn sub_belongs<K: Kernel>(k: K, vma: Low<Vma>, addr: u32, pte: Pte) -> bool {
    if vma.flags(k) & crate::layout::vm::NONLINEAR != 0 {
        return true;
    }
    let wanted = cluster::sub_of(k, cluster::linear_pgoff(k, vma, addr));
    if pte.present() {
        reserved(k, pte.pfn()) || cluster::sub_of(k, pte.pfn()) == wanted
    } else {
        pte.is_file() || SwapEntry::sub_of_pte(pte) == wanted
    }
}

fn reserved<K: Kernel>(k: K, pfn: u32) -> bool {
    page::test(k, pfn_to_page(k, pfn), pg::RESERVED)
}

/// Owner of a page, from its flags.
pub fn owner<K: Kernel>(k: K, page: Low<Page>) -> Option<Owner> {
    Owner::from_u32(page.flags(k) >> pg::OWNER_SHIFT & 0x3f)
}

/// Rules 8 and 9 alone, which also hold while a writer stands between two steps.
pub fn caches<K: Kernel>(k: K) -> Result<(), Violation> {
    trees::check(k)?;
    cache::check(k)
}

/// Owners sum to the pages taken from each zone. Cheaper than [`all`]: one pass over mem_map.
pub fn owners<K: Kernel>(k: K) -> Result<(), Violation> {
    owners::check(k)
}

/// Checks everything; the first violation found.
pub fn all<K: Kernel>(k: K) -> Result<(), Violation> {
    slabs::check(k)?;
    let s = scan(k)?;
    let vectors = lru::check(k)?;
    pages(k, &s, &vectors)?;
    slots(k, &s)?;
    trees::check(k)?;
    writes(k)?;
    K::Rmap::check_all(k).map_err(|(what, value)| Violation::SchemeAll { what, value })?;
    cache::check(k)?;
    owners(k)?;
    let counter = page_state(k, State::NrPageTablePages);
    if counter != s.tables {
        return Err(Violation::PageTables {
            counter,
            scan: s.tables,
        });
    }
    Ok(())
}

/// Rules 1, 3, 5, 7 for one page, given its mappers: what a check after an operation needs.
pub fn one_page<K: Kernel>(k: K, page: Low<Page>, ptes: &[Mapper]) -> Result<(), Violation> {
    let pfn = page_to_pfn(k, page);
    let scheme = K::Rmap::mapcount(k, page);
    let scan = K::Rmap::counted(k, page, ptes);
    if K::Rmap::counts(k) && scheme != scan {
        return Err(Violation::Mapcount { pfn, scheme, scan });
    }
    for (bit, what) in [(pg::LOCKED, "PG_locked"), (pg::MAPLOCK, "PG_maplock")] {
        if page::test(k, page, bit) {
            return Err(Violation::Locked {
                at: page.va(),
                what,
            });
        }
    }
    K::Rmap::check_page(k, page, ptes).map_err(|(what, value)| Violation::Scheme {
        pfn,
        what,
        value,
    })
}

fn pages<K: Kernel>(k: K, s: &Scan, vectors: &BTreeMap<u32, u32>) -> Result<(), Violation> {
    let mut mapped = 0;
    let none = Vec::new();
    for pfn in frames(k) {
        let page = pfn_to_page(k, pfn);
        let ours = matches!(owner(k, page), Some(Owner::User | Owner::PageCache));
        if !ours || page::test(k, page, pg::RESERVED) {
            if let Some(ptes) = s.pages.get(&pfn) {
                return Err(Violation::Mapcount {
                    pfn,
                    scheme: 0,
                    scan: ptes.len() as u32,
                });
            }
            continue;
        }
        if page.count(k) == 0 && !s.pages.contains_key(&pfn) {
            continue;
        }
        let ptes = s.pages.get(&pfn).unwrap_or(&none);
        one_page(k, page, ptes)?;
        let count = page.count(k);
        let in_file = page::in_file(k, page);
        let expected = ptes.len() as u32
            + page::swap_cached(k, page) as u32
            + in_file as u32
            + buffers::references(k, page)
            + vectors.get(&pfn).copied().unwrap_or(0);
        if count != expected {
            return Err(Violation::PageCount {
                pfn,
                count,
                expected,
            });
        }
        mapped += !ptes.is_empty() as u32;
    }
    let counter = page_state(k, State::NrMapped);
    if K::Rmap::counts(k) && counter != mapped {
        return Err(Violation::NrMapped {
            counter,
            scan: mapped,
        });
    }
    Ok(())
}

/// The first frame of each page.
pub fn frames<K: Kernel>(k: K) -> impl Iterator<Item = u32> {
    (0..zone::node(k).max_pfn(k)).step_by(cluster::mmu_count(k) as usize)
}

/// A page has PG_writeback exactly while it is in the queue.
fn writes<K: Kernel>(k: K) -> Result<(), Violation> {
    let q = crate::io::queue(k);
    let mut under_way = BTreeSet::new();
    for i in 0..q.nr(k) {
        let pfn = page_to_pfn(k, q.page(k, i));
        if !under_way.insert(pfn) {
            return Err(Violation::Writes {
                pfn,
                what: "twice in the queue",
            });
        }
    }
    for pfn in frames(k) {
        let flagged = page::test(k, pfn_to_page(k, pfn), pg::WRITEBACK);
        if flagged != under_way.contains(&pfn) {
            return Err(Violation::Writes {
                pfn,
                what: "PG_writeback differs from the queue",
            });
        }
    }
    if page_state(k, State::NrWriteback) != under_way.len() as u32 {
        return Err(Violation::Writes {
            pfn: 0,
            what: "nr_writeback",
        });
    }
    Ok(())
}

fn slots<K: Kernel>(k: K, s: &Scan) -> Result<(), Violation> {
    let (max, counter) = swap::usage(k);
    let mut used = 0;
    let mut objects: BTreeMap<u32, u32> = BTreeMap::new();
    trees::each_file(k, |file| {
        if file.id(k) >= crate::file::FIRST_SHARED {
            crate::shmem::each_entry(k, file.f_mapping(k), |_, slot| {
                *objects.entry(slot).or_default() += 1;
                false
            });
        }
    });
    let tree = swap::swapper_space(k).page_tree(k);
    for slot in 1..max {
        let cached = !crate::radix_tree::lookup(k, tree, slot).is_null();
        let expected = s.slots.get(&slot).copied().unwrap_or(0)
            + objects.get(&slot).copied().unwrap_or(0)
            + cached as u32;
        let count = swap::map_count(k, SwapEntry(slot)) as u32;
        if count != expected {
            return Err(Violation::SwapCount {
                slot,
                count,
                expected,
            });
        }
        used += (count != 0) as u32;
    }
    if used != counter {
        return Err(Violation::SwapInUse {
            counter,
            scan: used,
        });
    }
    Ok(())
}
