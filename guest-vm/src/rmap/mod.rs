//! Reverse mapping: from a page to the ptes that map it. One scheme is one file implementing [`ReverseMap`].
//!
//! The trait names the places where the historic kernels call their reverse map; a scheme that has nothing to do there has
//! an empty function, which compiles to nothing. Order of checks inside page_referenced and try_to_unmap is the historic
//! one of each scheme (fact sheets, "Reverse-map checks in their exact order").
//!
//! Invariant: after every operation, what a scheme finds for a page equals what a scan of all page tables finds.

pub mod anon_vma;
pub mod anon_vma_chain;
pub mod anon_vma_rfc;
pub mod anonmm;
#[cfg(not(target_os = "none"))]
pub mod any;
pub mod chained;
pub mod file;
mod mapcount;
pub mod object;
mod object_aa;
pub mod objrmap;
pub mod pte_chain;
pub mod pte_chain_dl;
pub mod pte_chain_v1;
pub mod swap_out;
mod window;

use crate::axes::MapKind;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Page, Vma, pg};
use crate::page;
use crate::page_alloc::{Zone, pfn_to_page, pfn_valid, zone};
use crate::pgtable::pte_get;
use crate::ptr::{Kmapped, Low};
use crate::slab::CacheId;

/// Outcome of try_to_unmap (include/linux/rmap.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmap {
    /// Nothing maps the page any more (SWAP_SUCCESS).
    Success,
    /// A lock was missed; try later (SWAP_AGAIN).
    Again,
    /// The page is in use, locked or pinned (SWAP_FAIL).
    Fail,
}

/// Whether a pte may be moved by mremap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// The page will be found at its new place.
    Go,
    /// Not while others map it: the caller breaks sharing by a write fault at the old place and asks again.
    Again,
}

/// A pte of a clustered page that mremap is about to move.
#[derive(Debug, Clone, Copy)]
pub struct Moving {
    /// Whose it is.
    pub mm: Low<Mm>,
    /// Where it is.
    pub from: u32,
    /// Where it goes.
    pub to: u32,
    /// First address and end of all that this call moves.
    pub range: (u32, u32),
}

/// Where a pte lies, as a scheme may need to remember it.
#[derive(Debug, Clone, Copy)]
pub struct PteAt {
    /// Through which address it is reached now.
    pub pte: Kmapped,
    /// User address it translates.
    pub addr: u32,
}

/// How vma_adjust changes two neighbouring vmas; see `mm/merge.rs`.
#[derive(Debug, Clone, Copy)]
pub struct Adjust {
    /// The vma whose bounds change.
    pub vma: Low<Vma>,
    /// Its new bounds.
    pub start: u32,
    /// See `start`.
    pub end: u32,
    /// Its neighbour when the boundary between both moves or the neighbour is swallowed, else null.
    pub next: Low<Vma>,
    /// Whether `next` disappears.
    pub swallow: bool,
    /// A new vma split off `vma`, else null.
    pub insert: Low<Vma>,
}

/// Memory taken in advance fits in a word: nothing, or the address of a block.
pub trait Spare: Copy {
    /// Whether it was consumed.
    fn used(self) -> bool;
    /// As a word.
    fn to_word(self) -> u32;
    /// From a word that [`Spare::to_word`] made.
    fn from_word(word: u32) -> Self;
}

impl Spare for () {
    #[inline(always)]
    fn used(self) -> bool {
        false
    }
    #[inline(always)]
    fn to_word(self) -> u32 {
        0
    }
    #[inline(always)]
    fn from_word(_: u32) {}
}

impl<T> Spare for Low<T> {
    #[inline(always)]
    fn used(self) -> bool {
        self.is_null()
    }
    #[inline(always)]
    fn to_word(self) -> u32 {
        self.va()
    }
    #[inline(always)]
    fn from_word(word: u32) -> Self {
        Low::new(word)
    }
}

/// See the module's documentation. What a scheme does not define costs it nothing; of adding, removing and counting the default is a
/// mapcount in page->rmap.
pub trait ReverseMap<K: Kernel> {
    /// Bytes added to a vma, at offset 56.
    #[inline(always)]
    fn vma_bytes(_k: K) -> u32 {
        0
    }
    /// Bytes added to an mm, at its end.
    #[inline(always)]
    fn mm_bytes(_k: K) -> u32 {
        0
    }
    /// Memory taken before a page-table lock so that adding cannot fail under it (pte_chain: one block).
    type Spare: Spare;

    /// Sets up what the scheme keeps beside pages, vmas and mms; once, in boot.
    #[inline(always)]
    fn boot(_k: K) -> Result<(), Oom> {
        Ok(())
    }
    /// Takes a spare (pte_chain_alloc, sleeping).
    #[inline(always)]
    fn spare(_k: K) -> Result<Self::Spare, Oom> {
        Ok(Self::Spare::from_word(0))
    }
    /// Takes a spare without sleeping: tried first, under the page-table lock.
    #[inline(always)]
    fn spare_atomic(_k: K) -> Result<Self::Spare, Oom> {
        Ok(Self::Spare::from_word(0))
    }
    /// Gives an unused spare back.
    #[inline(always)]
    fn spare_free(_k: K, _spare: Self::Spare) {}
    /// Whether `spare` was consumed and must be renewed before the next add.
    #[inline(always)]
    fn spare_used(_k: K, spare: &Self::Spare) -> bool {
        spare.used()
    }

    /// A vma was created (not by fork or split); its scheme fields are set up.
    #[inline(always)]
    fn vma_init(_k: K, _vma: Low<Vma>) {}
    /// Before the first anonymous page goes into `vma` (anon_vma_prepare).
    #[inline(always)]
    fn prepare_anon(_k: K, _vma: Low<Vma>) -> Result<(), Oom> {
        Ok(())
    }
    /// `child` is a struct copy of `parent`, in a forked mm or by mremap's copy_vma (anon_vma_link). File linkage is not
    /// the scheme's.
    #[inline(always)]
    fn vma_forked(_k: K, _parent: Low<Vma>, _child: Low<Vma>) {}
    /// All pages of `vma` are unmapped; it goes away (anon_vma_unlink).
    #[inline(always)]
    fn vma_gone(_k: K, _vma: Low<Vma>) {}
    /// Whether two vmas' scheme state allows merging them.
    #[inline(always)]
    fn mergeable(_k: K, _a: Low<Vma>, _b: Low<Vma>) -> bool {
        true
    }
    /// Whether pages of this anonymous vma may already be found through its pgoff (its anon_vma exists), so that a
    /// move must keep it.
    fn pgoff_bound(_k: K, _vma: Low<Vma>) -> bool {
        false
    }
    /// Takes what [`ReverseMap::vma_forked`] needs, while a failure can still be undone by freeing `child`, a struct copy of
    /// `parent` that is on no list yet.
    fn vma_prepare_copy(_k: K, _parent: Low<Vma>, _child: Low<Vma>) -> Result<(), Oom> {
        Ok(())
    }
    /// mremap moves pages of `from` into `vma`, with which the new area was merged: `vma` must be able to find them. (2.6.7 forgot
    /// this for a vma that had no anonymous page yet; the hole was closed in current kernels only.)
    fn adopt(_k: K, _vma: Low<Vma>, _from: Low<Vma>) -> Result<(), Oom> {
        Ok(())
    }
    /// First half of vma_adjust: takes the lock(s), carries scheme state to vmas that receive pages.
    #[inline(always)]
    fn adjust_begin(_k: K, _a: &Adjust) -> Result<(), Oom> {
        Ok(())
    }
    /// Second half, after bounds have changed: links `insert` (a struct copy of `vma`), unlinks a swallowed `next` (for
    /// which [`ReverseMap::vma_gone`] is then not called), gives the lock(s) back.
    #[inline(always)]
    fn adjust_end(_k: K, _a: &Adjust) {}

    /// A new mm by exec (null parent) or fork.
    #[inline(always)]
    fn mm_init(_k: K, _mm: Low<Mm>, _parent: Low<Mm>) -> Result<(), Oom> {
        Ok(())
    }
    /// The mm's last user has gone, all its vmas are unmapped.
    #[inline(always)]
    fn mm_gone(_k: K, _mm: Low<Mm>) {}
    /// A page for a page table was allocated, nobody sees it yet: takes what the scheme keeps beside each page table.
    #[inline(always)]
    fn pte_page_alloc(_k: K, _page: Low<Page>) -> Result<(), Oom> {
        Ok(())
    }
    /// The page is about to be freed: gives that back.
    #[inline(always)]
    fn pte_page_free(_k: K, _page: Low<Page>) {}
    /// A page-table page for `addr` (2 MB aligned) came into use or goes out of it.
    #[inline(always)]
    fn pte_page_init(_k: K, _page: Low<Page>, _mm: Low<Mm>, _addr: u32) {}
    /// See `pte_page_init`.
    #[inline(always)]
    fn pte_page_exit(_k: K, _page: Low<Page>) {}

    /// A pte that maps an anonymous page was set (page_add_anon_rmap).
    fn add_anon(k: K, page: Low<Page>, vma: Low<Vma>, at: PteAt, spare: &mut Self::Spare);
    /// A pte that maps a file page was set (page_add_file_rmap).
    fn add_file(k: K, page: Low<Page>, _at: PteAt, _spare: &mut Self::Spare) {
        mapcount::add_file(k, page);
    }
    /// fork copied a pte (page_dup_rmap); `child` is the new pte.
    #[inline(always)]
    fn dup(k: K, page: Low<Page>, _child: PteAt, _spare: &mut Self::Spare) {
        mapcount::dup(k, page);
    }
    /// A pte was cleared (page_remove_rmap).
    #[inline(always)]
    fn remove(k: K, page: Low<Page>, _pte: Kmapped) {
        mapcount::remove(k, page);
    }
    /// mremap moved a pte of `page` from `old` to `new`.
    #[inline(always)]
    fn moved(_k: K, _page: Low<Page>, _old: PteAt, _new: PteAt, _spare: &mut Self::Spare) {}
    /// mremap is about to move the pte at `from` to `addr` in `vma`; page_table_lock is held.
    fn moving(_k: K, _from: Kmapped, _vma: Low<Vma>, _addr: u32) -> Move {
        Move::Go
    }
    /// The same of a clustered page, before either pte is mapped; `Again` asks the caller to split what moves off the page.
    fn moving_frames(_k: K, _m: &Moving) -> Move {
        Move::Go
    }
    /// Whether a page that was just swapped in at `addr` (of a clustered page: with its first sub-page there) is mapped elsewhere at a place from which this pte cannot be
    /// found, so that it must be copied at once. Swap-in and swapoff ask after [`ReverseMap::add_anon`].
    fn clashes(_k: K, _page: Low<Page>, _addr: u32) -> bool {
        false
    }
    /// A write fault found that nobody else has the page: it now belongs to `vma` alone.
    fn reused(_k: K, _page: Low<Page>, _vma: Low<Vma>) {}

    /// Whether the mapcount is atomic, as from 2.6.9 on: then there is no bit lock around it, and that a page is anonymous is a bit of its
    /// mapping, stored without a lock.
    #[inline(always)]
    fn atomic_mapcount(_k: K) -> bool {
        false
    }
    /// Whether any pte maps the page (page_mapped).
    #[inline(always)]
    fn mapped(k: K, page: Low<Page>) -> bool {
        page.rmap(k) != 0
    }
    /// How many ptes map it, as far as the scheme counts cheaply; checks only.
    #[inline(always)]
    fn mapcount(k: K, page: Low<Page>) -> u32 {
        page.rmap(k)
    }
    /// How many that is for these ptes: each, or of a clustered page with chains each group of ptes. Native only.
    #[cfg(not(target_os = "none"))]
    fn counted(_k: K, _page: Low<Page>, ptes: &[crate::check::Mapper]) -> u32 {
        ptes.len() as u32
    }
    /// Counts and clears the references of a locked page. The caller holds the page lock and the bit lock
    /// ([`crate::page::map_lock`]), as shrink_list does.
    fn page_referenced(k: K, page: Low<Page>) -> u32;
    /// Unmaps a locked page everywhere; locks as for `page_referenced`. An anonymous page is in the swap cache.
    fn try_to_unmap(k: K, page: Low<Page>) -> Unmap;

    /// Linux 2.4's search for pages to unmap, by scanning page tables: stops when enough pages of `zone` or lower ones can be
    /// freed. Returns how many; 0 of a scheme that has a reverse map.
    fn swap_out(_k: K, _zone: Low<Zone>, _priority: u32) -> u32 {
        0
    }

    /// Bytes of an object of a cache that belongs to reverse maps; none: this scheme does not create the cache.
    fn cache_bytes(k: K, id: CacheId) -> Option<u32> {
        match id {
            CacheId::PteChain => Some(zone::node(k).l1_line(k)),
            CacheId::AnonVma => Some(12),
            _ => None,
        }
    }

    /// Whether the scheme counts mappings: else neither [`ReverseMap::mapcount`] nor nr_mapped can be checked. Native only.
    #[cfg(not(target_os = "none"))]
    fn counts(_k: K) -> bool {
        true
    }
    /// Check of what the scheme keeps for one mapping, found in `vma` at `addr`, without a scan; native only.
    #[cfg(not(target_os = "none"))]
    fn check_mapping(
        _k: K,
        _page: Low<Page>,
        _vma: Low<Vma>,
        _addr: u32,
    ) -> Result<(), &'static str> {
        Ok(())
    }
    /// Brute-force check of what belongs to no single page or vma; native only.
    #[cfg(not(target_os = "none"))]
    fn check_all(_k: K) -> Result<(), (&'static str, u32)> {
        Ok(())
    }
    /// Brute-force check of what the scheme keeps for a page against the ptes that a scan found; native only.
    #[cfg(not(target_os = "none"))]
    fn check_page(
        k: K,
        page: Low<Page>,
        ptes: &[crate::check::Mapper],
    ) -> Result<(), (&'static str, u32)>;
    /// Brute-force check of what the scheme keeps for a vma; native only.
    #[cfg(not(target_os = "none"))]
    #[inline(always)]
    fn check_vma(_k: K, _vma: Low<Vma>) -> Result<(), &'static str> {
        Ok(())
    }
}

/// The anonymous page that a pte maps, by PG_anon; null if none.
pub(crate) fn anon_page_at<K: Kernel>(k: K, pte: Kmapped) -> Low<Page> {
    let entry = pte_get(k, pte);
    if !entry.present() || !pfn_valid(k, entry.pfn()) {
        return Low::NULL;
    }
    let page = pfn_to_page(k, entry.pfn());
    if page::test(k, page, pg::ANON) {
        page
    } else {
        Low::NULL
    }
}

/// A scheme chosen by type before the handle's type exists: a generic native handle `Native<S: Scheme>` has
/// `type Rmap = S::Map<Self>`. (Demanding `R: ReverseMap<Native<R>>` instead would be circular.)
pub trait Scheme: 'static {
    /// Its value of the axis.
    const KIND: MapKind;
    /// Its reverse map.
    type Map<K: Kernel>: ReverseMap<K>;
}
