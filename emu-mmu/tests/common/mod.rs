//! Geometries and page tables that several tests share.
#![allow(dead_code, reason = "each test file uses its part")]

use emu_mmu::{Cr3Load, Mmu, PageFault, PhysAddr, PhysMem, Privilege, VirtAddr};
use lowmem_cost::Event;
use lowmem_cost::geometry::{
    CacheGeometry, FrontEnd, Geometry, LargePages, PdpteRead, Replacement, SetAssoc, TlbGeometry,
};

pub(crate) const P: u64 = 1;
pub(crate) const W: u64 = 2;
pub(crate) const U: u64 = 4;
pub(crate) const A: u64 = 0x20;
pub(crate) const D: u64 = 0x40;
pub(crate) const PS: u64 = 0x80;
pub(crate) const G: u64 = 0x100;
pub(crate) const NX: u64 = 1 << 63;

pub(crate) const USER: Privilege = Privilege::User;
pub(crate) const KERNEL: Privilege = Privilege::Supervisor;

pub(crate) const CR0_PE_PG: u32 = 0x8000_0001;
pub(crate) const CR0_WP: u32 = 1 << 16;
pub(crate) const CR4_PSE: u32 = 1 << 4;
pub(crate) const CR4_PAE: u32 = 1 << 5;
pub(crate) const CR4_PGE: u32 = 1 << 7;
pub(crate) const EFER_NXE: u32 = 1 << 11;

fn sets(entries: u32, ways: u32) -> SetAssoc {
    SetAssoc { entries, ways }
}

/// NetBurst-like: fully associative, broken ITLB pages, trace cache, no PDE cache, three levels.
pub(crate) fn netburst(flush_on_cr3: bool) -> Geometry {
    let tlb = |large| TlbGeometry {
        small: sets(64, 64),
        large,
        second: None,
    };
    Geometry {
        itlb: tlb(LargePages::Fragment4k),
        dtlb: tlb(LargePages::Shared),
        pde_cache: 0,
        front_end: FrontEnd::TraceCache {
            lines: 64,
            ways: 8,
            line_bytes: 16,
            flush_on_cr3,
        },
        l1d: CacheGeometry {
            kib: 8,
            ways: 4,
            line: 64,
        },
        l2: CacheGeometry {
            kib: 64,
            ways: 8,
            line: 64,
        },
        l3: Some(CacheGeometry {
            kib: 256,
            ways: 8,
            line: 64,
        }),
        ..Geometry::pentium3()
    }
}

/// K8-like: two levels, LRU, NX, PDPTEs through the caches.
pub(crate) fn opteron() -> Geometry {
    let tlb = TlbGeometry {
        small: sets(32, 32),
        large: LargePages::Separate(sets(8, 8)),
        second: Some(sets(512, 4)),
    };
    Geometry {
        maxphyaddr: 40,
        nx: true,
        itlb: tlb,
        dtlb: tlb,
        tlb_replacement: Replacement::Lru,
        pde_cache: 24,
        pdpte_read: PdpteRead::Cached,
        ..Geometry::pentium3()
    }
}

/// As small and odd as is allowed: everything conflicts.
pub(crate) fn tiny() -> Geometry {
    let small = |entries, ways| TlbGeometry {
        small: sets(entries, ways),
        large: LargePages::Shared,
        second: Some(sets(9, 3)),
    };
    let cache = |kib, ways| CacheGeometry {
        kib,
        ways,
        line: 32,
    };
    Geometry {
        itlb: small(1, 1),
        dtlb: small(3, 1),
        tlb_replacement: Replacement::Lru,
        pde_cache: 1,
        front_end: FrontEnd::L1i(cache(1, 1)),
        l1d: cache(1, 1),
        l2: cache(3, 2),
        cache_replacement: Replacement::Lru,
        ..Geometry::pentium3()
    }
}

/// Few entries in few sets, trees, shared large pages.
pub(crate) fn small_plru() -> Geometry {
    let tlb = TlbGeometry {
        small: sets(8, 4),
        large: LargePages::Shared,
        second: None,
    };
    Geometry {
        itlb: tlb,
        dtlb: tlb,
        ..Geometry::pentium3()
    }
}

pub(crate) fn geometries() -> Vec<Geometry> {
    vec![
        Geometry::pentium3(),
        netburst(true),
        netburst(false),
        opteron(),
        tiny(),
        small_plru(),
    ]
}

/// The hand-made tables: PDPT at 0x1000, page directories in frames 2 to 5, a page table in frame 6 for the first 2 MiB.
pub(crate) const PDPT: u64 = 0x1000;
pub(crate) const PD0: u64 = 0x2000;
pub(crate) const PT0: u64 = 0x6000;

/// 8 MiB of RAM, half of it low, with those tables: page `i` below 2 MiB maps frame 0x100 + i, present, writable, user,
/// accessed and dirty; nothing else is mapped. Paging on, WP and PGE set.
pub(crate) fn paged(g: &Geometry) -> Mmu {
    let mut mem = PhysMem::new(8 << 20, 4 << 20).unwrap();
    for i in 0..4 {
        mem.write_u64(PhysAddr(PDPT + 8 * i), (PD0 + 0x1000 * i) | P);
    }
    mem.write_u64(PhysAddr(PD0), PT0 | P | W | U | A);
    for i in 0..512 {
        mem.write_u64(PhysAddr(PT0 + 8 * i), (0x100 + i) << 12 | P | W | U | A | D);
    }
    let mut mmu = Mmu::new(mem, g).unwrap();
    enable(&mut mmu);
    mmu
}

/// Switches paging on with CR3 at [`PDPT`].
pub(crate) fn enable(mmu: &mut Mmu) {
    mmu.set_cr4(CR4_PAE | CR4_PGE).unwrap();
    mmu.set_cr3(PDPT as u32, Cr3Load::Other).unwrap();
    mmu.set_cr0(CR0_PE_PG | CR0_WP).unwrap();
}

/// [`paged`] of a Pentium III, nothing counted yet.
pub(crate) fn p3() -> Mmu {
    let mut mmu = paged(&Geometry::pentium3());
    counted(&mut mmu);
    mmu
}

/// Address `offset` on page `page`.
pub(crate) fn va(page: u32, offset: u32) -> VirtAddr {
    VirtAddr(page << 12 | offset)
}

/// Where [`paged`] has the entry of a page below 2 MiB.
pub(crate) fn pte_at(page: u32) -> PhysAddr {
    PhysAddr(PT0 + 8 * u64::from(page))
}

/// The event counts since the last call of this on the same unit.
pub(crate) fn counted(mmu: &mut Mmu) -> Vec<(Event, u64)> {
    let all = Event::ALL.iter().map(|&e| (e, mmu.account.total(e)));
    let some = all.filter(|&(_, n)| n != 0).collect();
    mmu.account = Default::default();
    some
}

pub(crate) fn fault(addr: VirtAddr, code: u32) -> PageFault {
    PageFault { addr, code }
}
