//! 32-bit paging with and without 4 MiB pages, and changes of paging mode (SDM vol. 3A, sections 4.1 and 4.3).
//!
//! The tables: a directory in frame 0x20, a table in frame 0x21 for the first 4 MiB, whose page `i` maps frame 0x100 + i.

use crate::common::*;
use emu_mmu::{
    AccessKind, ControlError, Cr3Load, Mmu, PagingMode, PhysAddr, PhysMem, Privilege, VirtAddr,
};
use lowmem_cost::Event::{self, *};
use lowmem_cost::Geometry;

const DIRECTORY: u64 = 0x2_0000;
const TABLE: u64 = 0x2_1000;
/// In the region of directory entry 1.
const LARGE: u32 = 1 << 22;

fn word(mmu: &mut Mmu, at: u64, entry: u64) {
    mmu.mem
        .write_u32(PhysAddr(at), u32::try_from(entry).unwrap());
}

fn pde(index: u64) -> u64 {
    DIRECTORY + 4 * index
}

fn pte(page: u64) -> u64 {
    TABLE + 4 * page
}

fn paged32(g: &Geometry, cr4: u32) -> Mmu {
    let mut mmu = Mmu::new(PhysMem::new(8 << 20, 4 << 20).unwrap(), g).unwrap();
    word(&mut mmu, pde(0), TABLE | P | W | U | A);
    for i in 0..1024 {
        word(&mut mmu, pte(i), (0x100 + i) << 12 | P | W | U | A | D);
    }
    mmu.set_cr4(cr4).unwrap();
    mmu.set_cr3(DIRECTORY as u32, Cr3Load::Other).unwrap();
    mmu.set_cr0(CR0_PE_PG | CR0_WP).unwrap();
    assert_eq!(mmu.paging_mode(), PagingMode::Bits32);
    counted(&mut mmu);
    mmu
}

fn p3(cr4: u32) -> Mmu {
    paged32(&Geometry::pentium3(), cr4)
}

fn at(mmu: &mut Mmu, va: VirtAddr) -> Result<u64, u32> {
    let found = mmu.translate(va, AccessKind::Read, USER);
    found.map(|a| a.0).map_err(|f| f.code)
}

fn total(n: &[(Event, u64)], event: Event) -> u64 {
    n.iter().filter(|(e, _)| *e == event).map(|(_, n)| n).sum()
}

#[test]
fn a_walk_loads_two_words() {
    let mut mmu = p3(0);
    mmu.mem.write_u32(PhysAddr(0x10_3010), 77);
    assert_eq!(mmu.peek(va(3, 0x10)), Some(PhysAddr(0x10_3010)));
    assert_eq!(mmu.read(va(3, 0x10), 4, USER), Ok(77));
    let first = [
        (DtlbAccess, 1),
        (DtlbMiss, 1),
        (DtlbCold, 1),
        (DtlbWalk, 1),
        (LoadMemoryRandom, 1),
        (DtlbWalkMemory, 2),
    ];
    assert_eq!(counted(&mut mmu), first);
    assert_eq!(mmu.read(va(3, 0x14), 4, USER), Ok(0));
    assert_eq!(counted(&mut mmu), [(DtlbAccess, 1), (LoadL1, 1)]);
    // Eight entries to a line of 32 bytes; the directory entry is cached, for all of its 4 MiB.
    mmu.read(va(7, 0), 4, USER).unwrap();
    assert_eq!(total(&counted(&mut mmu), DtlbWalkL1), 1);
    mmu.read(va(1023, 0), 4, USER).unwrap();
    let n = counted(&mut mmu);
    let loads: u64 = [DtlbWalkL1, DtlbWalkL2, DtlbWalkMemory]
        .map(|e| total(&n, e))
        .iter()
        .sum();
    assert_eq!(loads, 1, "{n:?}");
}

#[test]
fn a_cr3_load_reads_nothing_and_ignores_its_low_bits() {
    let mut mmu = p3(0);
    mmu.set_cr3(DIRECTORY as u32 | 0xFFF, Cr3Load::Other)
        .unwrap();
    assert_eq!(counted(&mut mmu), [(FlushSwitch, 1)]);
    assert_eq!(at(&mut mmu, va(3, 5)), Ok(0x10_3005));
}

#[test]
fn accessed_and_dirty_are_set_in_words() {
    let mut mmu = p3(CR4_PSE);
    word(&mut mmu, pde(0), TABLE | P | W | U);
    word(&mut mmu, pte(3), 0x103 << 12 | P | W | U);
    word(&mut mmu, pde(1), P | W | U | PS);
    let neighbour = mmu.mem.read_u32(PhysAddr(pte(4)));
    mmu.write(va(3, 0), 4, 1, USER).unwrap();
    let leaf = (0x103 << 12 | P | W | U | A | D) as u32;
    assert_eq!(mmu.mem.read_u32(PhysAddr(pte(3))), leaf);
    assert_eq!(mmu.mem.read_u32(PhysAddr(pte(4))), neighbour);
    assert_eq!(
        mmu.mem.read_u32(PhysAddr(pde(0))),
        (TABLE | P | W | U | A) as u32
    );
    at(&mut mmu, VirtAddr(LARGE)).unwrap();
    assert_eq!(
        mmu.mem.read_u32(PhysAddr(pde(1))),
        (P | W | U | PS | A) as u32
    );
    counted(&mut mmu);
    mmu.translate(VirtAddr(LARGE + 5), AccessKind::Write, USER)
        .unwrap();
    let n = counted(&mut mmu);
    assert_eq!((total(&n, DirtyAssist), total(&n, DtlbMiss)), (1, 0));
    assert_eq!(
        mmu.mem.read_u32(PhysAddr(pde(1))),
        (P | W | U | PS | A | D) as u32
    );
    assert_eq!(mmu.mem.read_u32(PhysAddr(pde(2))), 0);
}

#[test]
fn a_page_of_four_megabytes_needs_pse() {
    let mut mmu = p3(CR4_PSE);
    // Bit 12 is PAT's; one entry holds both halves.
    word(
        &mut mmu,
        pde(1),
        u64::from(LARGE) | 1 << 12 | P | W | U | PS | A | D,
    );
    assert_eq!(
        at(&mut mmu, VirtAddr(LARGE | 0x12_3456)),
        Ok(u64::from(LARGE) | 0x12_3456)
    );
    counted(&mut mmu);
    assert_eq!(
        at(&mut mmu, VirtAddr(LARGE | 0x3F_FFFF)),
        Ok(u64::from(LARGE) | 0x3F_FFFF)
    );
    assert_eq!(counted(&mut mmu), [(DtlbAccess, 1)]);
    // Without PSE-36, bits 21:13 are reserved.
    for bit in 13..22 {
        word(&mut mmu, pde(1), 1 << bit | P | W | U | PS);
        mmu.invlpg(VirtAddr(LARGE));
        assert_eq!(at(&mut mmu, VirtAddr(LARGE)), Err(0b1101), "bit {bit}");
    }
    // Without PSE the same entry leads to a table.
    word(&mut mmu, pde(1), TABLE | P | W | U | PS);
    mmu.set_cr4(0).unwrap();
    assert_eq!(at(&mut mmu, VirtAddr(LARGE | 0x3123)), Ok(0x10_3123));
    // PS of a table's entry is PAT.
    word(&mut mmu, pte(4), 0x104 << 12 | P | W | U | PS);
    assert_eq!(at(&mut mmu, va(4, 1)), Ok(0x10_4001));
}

#[test]
fn error_codes_have_neither_fetch_nor_reserved_bits() {
    let mut mmu = paged32(&opteron(), CR4_PSE | CR4_PGE);
    mmu.set_efer(EFER_NXE);
    word(&mut mmu, pte(1), 0);
    word(&mut mmu, pte(2), 0x102 << 12 | P | U | A);
    word(&mut mmu, pte(3), 0x103 << 12 | P | W | A);
    word(&mut mmu, pde(2), TABLE | P | W | A);
    word(&mut mmu, pde(3), TABLE | P | U | A);
    let mut code = |at: VirtAddr, kind, p: Privilege| match mmu.translate(at, kind, p) {
        Ok(_) => None,
        Err(f) => {
            assert_eq!(f.addr, at);
            Some(f.code)
        }
    };
    use AccessKind::{Fetch, Read, Write};
    assert_eq!(code(va(1, 0), Fetch, USER), Some(0b0100));
    assert_eq!(code(va(1, 0), Write, KERNEL), Some(0b0010));
    assert_eq!(code(va(2, 0), Write, USER), Some(0b0111));
    assert_eq!(code(va(2, 0), Write, KERNEL), Some(0b0011), "WP=1");
    assert_eq!(code(va(3, 0), Fetch, USER), Some(0b0101));
    assert_eq!(code(va(3, 0), Write, KERNEL), None);
    assert_eq!(code(va(1024, 0), Read, USER), Some(0b0100));
    // The directory's rights count as well.
    assert_eq!(code(va(2 * 1024 + 9, 0), Read, USER), Some(0b0101));
    assert_eq!(code(va(2 * 1024 + 9, 0), Write, KERNEL), None);
    assert_eq!(code(va(3 * 1024 + 9, 0), Write, USER), Some(0b0111));
    assert_eq!(code(va(3 * 1024 + 9, 0), Fetch, USER), None);
    mmu.set_cr0(CR0_PE_PG).unwrap();
    let write = mmu.translate(va(3 * 1024 + 9, 0), AccessKind::Write, KERNEL);
    assert_eq!(write, Ok(PhysAddr(0x10_9000)), "WP=0");
}

#[test]
fn large_pages_lie_where_the_geometry_says_and_invlpg_drops_all_of_them() {
    for g in geometries() {
        let mut mmu = paged32(&g, CR4_PSE);
        word(&mut mmu, pde(1), u64::from(LARGE) | P | W | U | PS | A | D);
        let pages = [LARGE >> 12, (LARGE >> 12) + 1, (LARGE >> 12) + 1023];
        for kind in [AccessKind::Fetch, AccessKind::Read] {
            for page in pages {
                assert_eq!(
                    mmu.translate(va(page, 7), kind, USER),
                    Ok(PhysAddr(va(page, 7).0.into()))
                );
            }
        }
        // Elsewhere from now on; nothing may lead to the old place after invlpg of any address of the page.
        word(&mut mmu, pde(1), P | W | U | PS | A | D);
        mmu.invlpg(va(pages[0] + 500, 0));
        for kind in [AccessKind::Fetch, AccessKind::Read] {
            for page in pages {
                let there = u64::from(va(page, 7).0 - LARGE);
                assert_eq!(
                    mmu.translate(va(page, 7), kind, USER),
                    Ok(PhysAddr(there)),
                    "{kind:?} of {page:#x}"
                );
            }
        }
        // The same through the trace cache.
        let far = va(pages[2], 0x40);
        mmu.fetch(far, 4, USER).unwrap();
        word(&mut mmu, pde(1), u64::from(LARGE) | P | W | U | PS | A | D);
        mmu.invlpg(va(pages[0], 0));
        assert_eq!(mmu.fetch(far, 4, USER), Ok(PhysAddr(far.0.into())));
    }
}

#[test]
fn global_pages_survive_cr3_loads_only() {
    let changes: [(u32, u64); 4] = [(0, 0), (CR4_PSE, 1), (CR4_PGE, 1), (CR4_PAE, 1)];
    for (bits, dropped) in changes {
        let mut mmu = p3(CR4_PSE | CR4_PGE);
        // A PDPT that PAE accepts lies where CR3 points: the low words of its entries are directory entries.
        for i in 0..4 {
            word(&mut mmu, pde(2 * i + 1), 0);
        }
        word(&mut mmu, pde(1), P | W | PS | A | D | G);
        word(&mut mmu, pte(3), 0x103 << 12 | P | W | A | D | G);
        let small = va(3, 0);
        for at in [small, VirtAddr(LARGE)] {
            mmu.read(at, 4, KERNEL).unwrap();
        }
        mmu.set_cr3(DIRECTORY as u32, Cr3Load::Other).unwrap();
        let cr4 = mmu.cr4();
        word(&mut mmu, pde(1), 0);
        word(&mut mmu, pde(0), 0);
        mmu.set_cr4(cr4 ^ bits).unwrap();
        mmu.set_cr4(cr4).unwrap();
        counted(&mut mmu);
        let held =
            mmu.read(small, 4, KERNEL).is_ok() && mmu.read(VirtAddr(LARGE), 4, KERNEL).is_ok();
        let n = counted(&mut mmu);
        assert_eq!(
            (held, total(&n, DtlbMiss)),
            (dropped == 0, dropped),
            "{bits:#x}"
        );
    }
}

#[test]
fn modes_change_at_run_time_and_leave_nothing_behind() {
    for g in geometries() {
        // PAE tables as 32-bit paging sees them: the PDPT is a directory, directory 0 a table, its first entry leads to
        // frame 6, and every second word is 0.
        let mut mmu = paged(&g);
        let read = |mmu: &mut Mmu, page: u32| {
            let data = mmu.translate(va(page, 5), AccessKind::Read, KERNEL);
            let code = mmu.translate(va(page, 5), AccessKind::Fetch, KERNEL);
            assert_eq!(data, code);
            data.map(|a| a.0).map_err(|f| f.code)
        };
        for _ in 0..2 {
            assert_eq!(read(&mut mmu, 0), Ok(0x10_0005));
            assert_eq!(read(&mut mmu, 1), Ok(0x10_1005));
            mmu.set_cr4(CR4_PGE).unwrap();
            assert_eq!(mmu.paging_mode(), PagingMode::Bits32);
            assert_eq!(read(&mut mmu, 0), Ok(0x6005));
            assert_eq!(read(&mut mmu, 1), Err(0));
            mmu.set_cr0(1).unwrap();
            assert_eq!(mmu.paging_mode(), PagingMode::Off);
            assert_eq!(read(&mut mmu, 1), Ok(0x1005));
            mmu.set_cr0(CR0_PE_PG | CR0_WP).unwrap();
            assert_eq!(read(&mut mmu, 0), Ok(0x6005));
            // The walks have set A in a directory entry, which is a reserved bit of a PDPTE.
            let refused = mmu.set_cr4(CR4_PGE | CR4_PAE);
            assert_eq!(refused, Err(ControlError::GeneralProtection));
            word(&mut mmu, PDPT, PD0 | P);
            counted(&mut mmu);
            mmu.set_cr4(CR4_PGE | CR4_PAE).unwrap();
            let n = counted(&mut mmu);
            assert_eq!((total(&n, PdpteLoad), total(&n, FlushGlobal)), (1, 1));
        }
    }
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut mmu = p3(CR4_PSE);
    let refused = Err(ControlError::GeneralProtection);
    assert_eq!(mmu.set_cr0(CR0_PE_PG & !1), refused, "PG without PE");
    // The directory's first entry, read as a PDPTE, has W set.
    assert_eq!(mmu.set_cr4(CR4_PAE), refused);
    assert_eq!(
        (mmu.cr4(), mmu.paging_mode()),
        (CR4_PSE, PagingMode::Bits32)
    );
    assert_eq!(at(&mut mmu, va(3, 0)), Ok(0x10_3000));
    mmu.set_cr0(1).unwrap();
    mmu.set_cr4(CR4_PAE).unwrap();
    assert_eq!(mmu.set_cr0(CR0_PE_PG), refused);
    assert_eq!((mmu.cr0(), mmu.paging_mode()), (1, PagingMode::Off));
}

#[test]
fn nxe_without_pae_waits() {
    let mut mmu = paged(&opteron());
    mmu.set_efer(EFER_NXE);
    mmu.mem
        .write_u64(pte_at(5), 0x105 << 12 | P | W | U | A | NX);
    let at = va(5, 0);
    assert_eq!(mmu.fetch(at, 1, USER), Err(fault(at, 0b1_0101)));
    mmu.set_cr4(0).unwrap();
    assert_eq!(mmu.fetch(at, 1, USER), Err(fault(at, 0b0_0100)));
    word(&mut mmu, PDPT, PD0 | P);
    mmu.set_cr4(CR4_PAE).unwrap();
    assert_eq!(mmu.fetch(at, 1, USER), Err(fault(at, 0b1_0101)));
}

#[test]
fn a_large_page_of_one_mode_is_not_taken_for_one_of_another() {
    // 4 MiB and 2 MiB pages number 0, in the same slot one after the other.
    let mut mmu = p3(CR4_PSE | CR4_PGE);
    word(&mut mmu, pde(0), P | W | U | PS | A | D);
    mmu.mem.write_u64(PhysAddr(PDPT), PD0 | P);
    mmu.mem.write_u64(PhysAddr(PD0), P | W | U | PS | A | D);
    let (first, second) = (VirtAddr(0x5000), VirtAddr(0x20_1000));
    for _ in 0..2 {
        assert_eq!(at(&mut mmu, second), Ok(0x20_1000));
    }
    mmu.set_cr0(1).unwrap();
    mmu.set_cr4(CR4_PAE | CR4_PGE).unwrap();
    mmu.set_cr3(PDPT as u32, Cr3Load::Other).unwrap();
    mmu.set_cr0(CR0_PE_PG).unwrap();
    assert_eq!(at(&mut mmu, first), Ok(0x5000));
    assert_eq!(at(&mut mmu, second), Err(0b0100));
}
