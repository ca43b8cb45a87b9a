//! What differs between guest images (decision D11): the axes that change code or layout.
//!
//! On x86 an image is compiled for one value of each and [`Axes::of_image`] is a constant, so what belongs to the other values is not
//! in its text. Natively one copy of this kernel serves every image: the machine chooses the values at run time, and
//! [`crate::rmap::any`] calls the reverse map they name. All other differences are boot parameters.
//!
//! Invariant: the axes of a handle never change after boot.

/// Which reverse map is compiled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapKind {
    /// [`crate::rmap::anon_vma`].
    AnonVma,
    /// [`crate::rmap::pte_chain`].
    PteChain,
    /// [`crate::rmap::anonmm`].
    Anonmm,
    /// [`crate::rmap::pte_chain_v1`].
    PteChainV1,
    /// [`crate::rmap::pte_chain_dl`].
    PteChainDl,
    /// [`crate::rmap::objrmap`].
    Objrmap,
    /// [`crate::rmap::anon_vma_rfc`].
    AnonVmaRfc,
    /// [`crate::rmap::swap_out`].
    SwapOut,
    /// [`crate::rmap::anon_vma_chain`].
    AnonVmaChain,
}

/// How the 4 GB of linear addresses are divided between user and kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitKind {
    /// 3 GB user, 1 GB kernel.
    G3G1,
    /// 2 GB user, 2 GB kernel.
    G2G2,
    /// 1 GB user, 3 GB kernel.
    G1G3,
    /// 4 GB each, two sets of page tables.
    G4G4,
}

/// How the pages of a file are tracked for writeback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// Two tags in the radix tree (2.6.6 on).
    Tagged,
    /// Lists of clean, dirty, locked and io pages (until 2.6.5).
    Lists,
}

/// Whether locks and lock prefixes are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildKind {
    /// They are, also on one CPU.
    Smp,
    /// Spin locks are nothing, atomics are plain instructions.
    Up,
}

/// Where pte pages may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PteKind {
    /// In low memory.
    Low,
    /// In high memory, reached through kmap_atomic (CONFIG_HIGHPTE).
    High,
}

/// Whose structures a kernel with lists has. A kernel with tags has those of 2.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StructKind {
    /// 2.6.
    V2_6,
    /// 2.4: 2.4-aa, and RHEL3 with its chains.
    V2_4,
}

/// Whose sizes and offsets the structures have: derived from the axes, see [`Axes::era`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 2.4.21.
    V2_4,
    /// 2.6.0.
    V2_6_0,
    /// 2.6.5 with anon_vma (2.6.5-aa).
    V2_6_5Aa,
    /// 2.6.6, also with objects for files ("rmap 7").
    V2_6_6,
    /// 2.6.7, and the anonmm tree shortly before it.
    V2_6_7,
}

/// How many frames a page has ([`crate::cluster`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterKind {
    /// One: the shift is the constant 0.
    Single,
    /// 2^shift, a boot parameter.
    Clustered,
}

/// One value of each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axes {
    /// Reverse map.
    pub rmap: MapKind,
    /// Address-space split.
    pub split: SplitKind,
    /// Page-cache index.
    pub page_cache: CacheKind,
    /// Locks.
    pub build: BuildKind,
    /// Pte pages.
    pub pte: PteKind,
    /// Structures.
    pub structs: StructKind,
    /// Page clustering.
    pub cluster: ClusterKind,
}

impl Axes {
    /// Linux 2.6.7 on 3G/1G, as an SMP build, without HIGHPTE.
    pub const DEFAULT: Axes = Axes {
        rmap: MapKind::AnonVma,
        split: SplitKind::G3G1,
        page_cache: CacheKind::Tagged,
        build: BuildKind::Smp,
        pte: PteKind::Low,
        structs: StructKind::V2_6,
        cluster: ClusterKind::Single,
    };

    /// What this image was compiled for.
    pub const fn of_image() -> Axes {
        Axes {
            rmap: if cfg!(feature = "pte_chain") {
                MapKind::PteChain
            } else if cfg!(feature = "anonmm") {
                MapKind::Anonmm
            } else if cfg!(feature = "pte_chain_v1") {
                MapKind::PteChainV1
            } else if cfg!(feature = "pte_chain_dl") {
                MapKind::PteChainDl
            } else if cfg!(feature = "objrmap") {
                MapKind::Objrmap
            } else if cfg!(feature = "anon_vma_rfc") {
                MapKind::AnonVmaRfc
            } else if cfg!(feature = "swap_out") {
                MapKind::SwapOut
            } else if cfg!(feature = "anon_vma_chain") {
                MapKind::AnonVmaChain
            } else {
                MapKind::AnonVma
            },
            split: if cfg!(feature = "split_4g4g") {
                SplitKind::G4G4
            } else if cfg!(feature = "split_2g2g") {
                SplitKind::G2G2
            } else if cfg!(feature = "split_1g3g") {
                SplitKind::G1G3
            } else {
                SplitKind::G3G1
            },
            page_cache: if cfg!(feature = "lists") {
                CacheKind::Lists
            } else {
                CacheKind::Tagged
            },
            build: if cfg!(feature = "up") {
                BuildKind::Up
            } else {
                BuildKind::Smp
            },
            pte: if cfg!(feature = "highpte") {
                PteKind::High
            } else {
                PteKind::Low
            },
            structs: if cfg!(feature = "v2_4") {
                StructKind::V2_4
            } else {
                StructKind::V2_6
            },
            cluster: if cfg!(feature = "clustered") {
                ClusterKind::Clustered
            } else {
                ClusterKind::Single
            },
        }
    }

    /// Whose structures these axes have: a kernel with lists and a reverse map that finds anonymous pages by object is the -aa
    /// tree, any other with lists 2.6.0 (or 2.4); with tags, chains ended at 2.6.6.
    #[inline(always)]
    pub const fn era(self) -> Era {
        let by_object = matches!(
            self.rmap,
            MapKind::AnonVma | MapKind::AnonVmaRfc | MapKind::AnonVmaChain | MapKind::Anonmm
        );
        match (self.structs, self.page_cache, by_object) {
            (StructKind::V2_4, ..) => Era::V2_4,
            (_, CacheKind::Lists, true) => Era::V2_6_5Aa,
            (_, CacheKind::Lists, false) => Era::V2_6_0,
            (_, CacheKind::Tagged, false) => Era::V2_6_6,
            (_, CacheKind::Tagged, true) => Era::V2_6_7,
        }
    }

    /// Kernel and user have page tables of their own.
    #[inline(always)]
    pub const fn two_tables(self) -> bool {
        matches!(self.split, SplitKind::G4G4)
    }

    /// First virtual address of the direct map.
    #[inline(always)]
    pub const fn page_offset(self) -> u32 {
        match self.split {
            SplitKind::G3G1 => 0xc000_0000,
            SplitKind::G2G2 => 0x8000_0000,
            SplitKind::G1G3 => 0x4000_0000,
            SplitKind::G4G4 => lowmem_abi::layout::PAGE_OFFSET_4G4G,
        }
    }

    /// Start of the kmap window of 512 slots; everything above is slots. Slots of clustered pages lie below the window of
    /// single frames: room for the largest page.
    #[inline(always)]
    pub const fn pkmap_base(self) -> u32 {
        let base = if self.two_tables() {
            0xff00_0000
        } else {
            0xff80_0000
        };
        match self.cluster {
            ClusterKind::Single => base,
            ClusterKind::Clustered => base - (17 << 21),
        }
    }

    /// The same where pages have 2^`shift` frames. The kmap window grows by that factor at the cost of the direct map, as pgcl's
    /// did (at shift 4 its MAXMEM was 834 MB of 896: one window of kmap_atomic for each of many CPUs; here 32 MB go).
    #[inline(always)]
    pub const fn maxmem_of(self, shift: u32) -> u32 {
        match self.cluster {
            ClusterKind::Single => self.maxmem(),
            ClusterKind::Clustered => self.maxmem() - (1 << (21 + shift)),
        }
    }

    /// Most low memory in bytes: what lies between the direct map's start and 128 MB of vmalloc space, which ends at the top
    /// (4G/4G: at the shared 16 MB).
    #[inline(always)]
    pub const fn maxmem(self) -> u32 {
        match self.split {
            SplitKind::G4G4 => lowmem_abi::layout::MAXMEM_4G4G,
            _ => 0u32.wrapping_sub(self.page_offset()) - 0x0800_0000,
        }
    }
}
