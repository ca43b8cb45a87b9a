//! Every reverse map behind one type, chosen by the handle's axes: native only (decision D11).
//!
//! An image has one scheme compiled in; the host program has one copy of the kernel that serves them all, or its size and build time
//! would grow with the table of images. `for_scheme!` holds the only list of schemes.
//!
//! Invariant: nothing is decided here; each function calls the same function of the scheme that the axes name.

use super::{Adjust, Move, Moving, PteAt, ReverseMap, Spare, Unmap};
use super::{anon_vma, anon_vma_chain, anon_vma_rfc, anonmm};
use super::{objrmap, pte_chain, pte_chain_dl, pte_chain_v1, swap_out};
use crate::axes::MapKind;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mm, Page, Vma};
use crate::page_alloc::Zone;
use crate::ptr::{Kmapped, Low};
use crate::slab::CacheId;

/// The scheme of the handle's axes.
#[derive(Debug, Clone, Copy)]
pub enum Any {}

/// A spare of whichever scheme it is.
#[derive(Debug, Clone, Copy)]
pub struct AnySpare(u32);

impl Spare for AnySpare {
    /// Only the scheme knows; [`ReverseMap::spare_used`] asks it.
    fn used(self) -> bool {
        false
    }
    fn to_word(self) -> u32 {
        self.0
    }
    fn from_word(word: u32) -> Self {
        AnySpare(word)
    }
}

/// Evaluates `$body` with `$Map` as the scheme that the axes of `$k` name.
macro_rules! for_scheme {
    ($k:expr, $Map:ident => $body:expr) => {
        for_scheme!(@ $k, $Map => $body;
            AnonVma: anon_vma::AnonVmaMap,
            PteChain: pte_chain::PteChains,
            Anonmm: anonmm::AnonmmMap,
            PteChainV1: pte_chain_v1::SingleChains,
            PteChainDl: pte_chain_dl::DoubleChains,
            Objrmap: objrmap::Hybrid,
            AnonVmaRfc: anon_vma_rfc::AnonVmaRfc,
            SwapOut: swap_out::SwapOut,
            AnonVmaChain: anon_vma_chain::AnonVmaChain,
        )
    };
    (@ $k:expr, $Map:ident => $body:expr; $($Kind:ident: $Type:ty,)*) => {
        match $k.axes().rmap {
            $(MapKind::$Kind => {
                type $Map = $Type;
                $body
            })*
        }
    };
}

/// A spare in the scheme's own type.
#[inline]
fn own<K: Kernel, M: ReverseMap<K>>(spare: AnySpare) -> M::Spare {
    M::Spare::from_word(spare.0)
}

/// A call that may use up a spare.
macro_rules! with_spare {
    ($spare:expr, $Map:ident, $own:ident => $body:expr) => {{
        let mut $own = own::<K, $Map>(*$spare);
        let result = $body;
        $spare.0 = $own.to_word();
        result
    }};
}

macro_rules! delegate {
    ($(fn $name:ident($($arg:ident: $T:ty),*) $(-> $R:ty)?;)*) => { $(
        #[inline]
        fn $name(k: K, $($arg: $T),*) $(-> $R)? {
            for_scheme!(k, Map => <Map as ReverseMap<K>>::$name(k, $($arg),*))
        }
    )* };
}

impl<K: Kernel> ReverseMap<K> for Any {
    type Spare = AnySpare;

    delegate! {
        fn atomic_mapcount() -> bool;
        fn vma_bytes() -> u32;
        fn mm_bytes() -> u32;
        fn boot() -> Result<(), Oom>;
        fn vma_init(vma: Low<Vma>);
        fn prepare_anon(vma: Low<Vma>) -> Result<(), Oom>;
        fn vma_forked(parent: Low<Vma>, child: Low<Vma>);
        fn vma_gone(vma: Low<Vma>);
        fn mergeable(a: Low<Vma>, b: Low<Vma>) -> bool;
        fn pgoff_bound(vma: Low<Vma>) -> bool;
        fn vma_prepare_copy(parent: Low<Vma>, child: Low<Vma>) -> Result<(), Oom>;
        fn adopt(vma: Low<Vma>, from: Low<Vma>) -> Result<(), Oom>;
        fn moving(from: Kmapped, vma: Low<Vma>, addr: u32) -> Move;
        fn clashes(page: Low<Page>, addr: u32) -> bool;
        fn reused(page: Low<Page>, vma: Low<Vma>);
        fn swap_out(zone: Low<Zone>, priority: u32) -> u32;
        fn cache_bytes(id: CacheId) -> Option<u32>;
        fn counts() -> bool;
        fn check_mapping(page: Low<Page>, vma: Low<Vma>, addr: u32) -> Result<(), &'static str>;
        fn check_all() -> Result<(), (&'static str, u32)>;
        fn adjust_begin(a: &Adjust) -> Result<(), Oom>;
        fn adjust_end(a: &Adjust);
        fn mm_init(mm: Low<Mm>, parent: Low<Mm>) -> Result<(), Oom>;
        fn mm_gone(mm: Low<Mm>);
        fn pte_page_alloc(page: Low<Page>) -> Result<(), Oom>;
        fn pte_page_free(page: Low<Page>);
        fn pte_page_init(page: Low<Page>, mm: Low<Mm>, addr: u32);
        fn pte_page_exit(page: Low<Page>);
        fn remove(page: Low<Page>, pte: Kmapped);
        fn mapped(page: Low<Page>) -> bool;
        fn mapcount(page: Low<Page>) -> u32;
        fn counted(page: Low<Page>, ptes: &[crate::check::Mapper]) -> u32;
        fn moving_frames(m: &Moving) -> Move;
        fn page_referenced(page: Low<Page>) -> u32;
        fn try_to_unmap(page: Low<Page>) -> Unmap;
        fn check_page(page: Low<Page>, ptes: &[crate::check::Mapper])
            -> Result<(), (&'static str, u32)>;
        fn check_vma(vma: Low<Vma>) -> Result<(), &'static str>;
    }

    #[inline]
    fn spare(k: K) -> Result<AnySpare, Oom> {
        for_scheme!(k, Map => <Map as ReverseMap<K>>::spare(k).map(|s| AnySpare(s.to_word())))
    }
    #[inline]
    fn spare_atomic(k: K) -> Result<AnySpare, Oom> {
        for_scheme!(k, Map => <Map as ReverseMap<K>>::spare_atomic(k).map(|s| AnySpare(s.to_word())))
    }
    #[inline]
    #[allow(clippy::unit_arg, reason = "some schemes need no spare")]
    fn spare_free(k: K, spare: AnySpare) {
        for_scheme!(k, Map => <Map as ReverseMap<K>>::spare_free(k, own::<K, Map>(spare)))
    }
    #[inline]
    fn spare_used(k: K, spare: &AnySpare) -> bool {
        for_scheme!(k, Map => <Map as ReverseMap<K>>::spare_used(k, &own::<K, Map>(*spare)))
    }
    #[inline]
    fn add_anon(k: K, page: Low<Page>, vma: Low<Vma>, at: PteAt, spare: &mut AnySpare) {
        for_scheme!(k, Map => with_spare!(spare, Map, own =>
            <Map as ReverseMap<K>>::add_anon(k, page, vma, at, &mut own)))
    }
    #[inline]
    fn add_file(k: K, page: Low<Page>, at: PteAt, spare: &mut AnySpare) {
        for_scheme!(k, Map => with_spare!(spare, Map, own =>
            <Map as ReverseMap<K>>::add_file(k, page, at, &mut own)))
    }
    #[inline]
    fn dup(k: K, page: Low<Page>, child: PteAt, spare: &mut AnySpare) {
        for_scheme!(k, Map => with_spare!(spare, Map, own =>
            <Map as ReverseMap<K>>::dup(k, page, child, &mut own)))
    }
    #[inline]
    fn moved(k: K, page: Low<Page>, old: PteAt, new: PteAt, spare: &mut AnySpare) {
        for_scheme!(k, Map => with_spare!(spare, Map, own =>
            <Map as ReverseMap<K>>::moved(k, page, old, new, &mut own)))
    }
}
