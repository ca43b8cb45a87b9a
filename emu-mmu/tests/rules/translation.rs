//! Walks, accessed and dirty bits, rights and error codes of PAE paging (SDM vol. 3A, sections 4.4, 4.6 to 4.8).

use crate::common::*;
use emu_mmu::{AccessKind, Mmu, PhysAddr, PhysMem, VirtAddr};
use lowmem_cost::Event::*;
use lowmem_cost::Geometry;

#[test]
fn a_first_load_walks_and_a_second_does_not() {
    let mut mmu = p3();
    mmu.mem.write_u32(PhysAddr(0x10_3010), 77);
    assert_eq!(mmu.read(va(3, 0x10), 4, USER), Ok(77));
    // PDE and PTE lie in different DRAM pages and lines; so does the data.
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
    // The next page: its PDE is in the PDE cache, its PTE (four to a line) in L1D; its data page of DRAM is another.
    assert_eq!(mmu.read(va(2, 0), 4, USER), Ok(0));
    let next = [
        (DtlbAccess, 1),
        (DtlbMiss, 1),
        (DtlbCold, 1),
        (DtlbWalk, 1),
        (LoadMemoryRandom, 1),
        (DtlbWalkL1, 1),
    ];
    assert_eq!(counted(&mut mmu), next);
}

#[test]
fn netburst_has_no_pde_cache() {
    let mut mmu = paged(&netburst(true));
    mmu.read(va(3, 0), 4, USER).unwrap();
    counted(&mut mmu);
    mmu.read(va(4, 0), 4, USER).unwrap();
    assert!(counted(&mut mmu).contains(&(DtlbWalkL1, 2)));
}

#[test]
fn accessed_and_dirty_are_set_by_accesses_of_their_own() {
    let mut mmu = p3();
    let (clean, pde_at) = (0x103 << 12 | P | W | U, PhysAddr(PD0));
    mmu.mem.write_u64(pte_at(3), clean);
    mmu.mem.write_u64(pde_at, PT0 | P | W | U);
    mmu.read(va(3, 0), 4, USER).unwrap();
    assert_eq!(mmu.mem.read_u64(pte_at(3)), clean | A);
    assert_eq!(mmu.mem.read_u64(pde_at), PT0 | P | W | U | A);
    // Two loads, and two updates that hit the lines just loaded.
    let n = counted(&mut mmu);
    assert!(
        n.contains(&(DtlbWalkMemory, 2)) && n.contains(&(DtlbWalkL1, 2)),
        "{n:?}"
    );
    // A write through the clean entry is a hit, an assist, and one access of the pte.
    mmu.write(va(3, 0), 4, 1, USER).unwrap();
    let assist = [
        (DtlbAccess, 1),
        (DirtyAssist, 1),
        (StoreL1, 1),
        (DtlbWalkL1, 1),
    ];
    assert_eq!(counted(&mut mmu), assist);
    assert_eq!(mmu.mem.read_u64(pte_at(3)), clean | A | D);
    mmu.write(va(3, 0), 4, 1, USER).unwrap();
    assert_eq!(counted(&mut mmu), [(DtlbAccess, 1), (StoreL1, 1)]);
    // A first write walks once and sets both bits at once.
    mmu.mem.write_u64(pte_at(5), 0x105 << 12 | P | W | U);
    mmu.write(va(5, 0), 4, 1, USER).unwrap();
    assert_eq!(mmu.mem.read_u64(pte_at(5)), 0x105 << 12 | P | W | U | A | D);
    let n = counted(&mut mmu);
    assert!(
        n.contains(&(DtlbWalk, 1)) && !n.iter().any(|&(e, _)| e == DirtyAssist),
        "{n:?}"
    );
}

#[test]
fn a_dirty_assist_looks_at_the_tables_again() {
    let mut mmu = p3();
    mmu.mem.write_u64(pte_at(3), 0x103 << 12 | P | W | U | A);
    mmu.read(va(3, 0), 4, USER).unwrap();
    mmu.mem.write_u64(pte_at(3), 0x108 << 12 | P | W | U | A);
    mmu.write(va(3, 0), 4, 9, USER).unwrap();
    assert_eq!(mmu.mem.read_u32(PhysAddr(0x10_8000)), 9);
    mmu.mem.write_u64(pte_at(4), 0x104 << 12 | P | W | U | A);
    mmu.read(va(4, 0), 4, USER).unwrap();
    mmu.mem.write_u64(pte_at(4), 0);
    assert_eq!(mmu.write(va(4, 0), 4, 9, USER), Err(fault(va(4, 0), 0b110)));
}

#[test]
fn error_codes_are_exact() {
    let mut mmu = p3();
    mmu.mem.write_u64(pte_at(1), 0);
    mmu.mem.write_u64(pte_at(2), 0x102 << 12 | P | U | A);
    mmu.mem.write_u64(pte_at(3), 0x103 << 12 | P | W | A);
    mmu.mem
        .write_u64(pte_at(4), 0x104 << 12 | P | W | U | A | 1 << 36);
    mmu.mem
        .write_u64(pte_at(5), 0x105 << 12 | P | W | U | A | NX);
    let mut code = |page, kind, p| match mmu.translate(va(page, 0), kind, p) {
        Ok(_) => None,
        Err(f) => {
            assert_eq!(f.addr, va(page, 0));
            Some(f.code)
        }
    };
    use AccessKind::{Fetch, Read, Write};
    assert_eq!(code(1, Read, KERNEL), Some(0b0000));
    assert_eq!(code(1, Write, KERNEL), Some(0b0010));
    assert_eq!(code(1, Read, USER), Some(0b0100));
    assert_eq!(code(1, Fetch, USER), Some(0b0100), "no I/D bit without NXE");
    assert_eq!(code(2, Read, USER), None);
    assert_eq!(code(2, Write, USER), Some(0b0111));
    assert_eq!(code(2, Write, KERNEL), Some(0b0011), "WP=1");
    assert_eq!(code(3, Read, USER), Some(0b0101));
    assert_eq!(code(3, Write, KERNEL), None);
    assert_eq!(code(4, Read, USER), Some(0b1101));
    assert_eq!(code(4, Write, KERNEL), Some(0b1011));
    assert_eq!(
        code(5, Read, USER),
        Some(0b1101),
        "XD is reserved without NXE"
    );
    // The directory index beyond the one directory entry, and a whole directory without PDPTE.
    assert_eq!(code(512, Read, USER), Some(0b0100));
}

#[test]
fn nx_forbids_fetches_only() {
    let mut mmu = paged(&opteron());
    mmu.set_efer(EFER_NXE);
    mmu.mem
        .write_u64(pte_at(5), 0x105 << 12 | P | W | U | A | NX);
    mmu.mem.write_u64(pte_at(6), 0);
    assert!(mmu.read(va(5, 0), 4, USER).is_ok());
    assert_eq!(mmu.fetch(va(5, 0), 1, USER), Err(fault(va(5, 0), 0b1_0101)));
    assert_eq!(
        mmu.fetch(va(6, 0), 1, KERNEL),
        Err(fault(va(6, 0), 0b1_0000))
    );
    // The directory's bit counts as well.
    mmu.mem.write_u64(PhysAddr(PD0), PT0 | P | W | U | A | NX);
    mmu.reset_state();
    assert_eq!(mmu.fetch(va(7, 0), 1, USER), Err(fault(va(7, 0), 0b1_0101)));
}

#[test]
fn without_wp_the_supervisor_writes_anywhere() {
    let mut mmu = p3();
    mmu.mem.write_u64(pte_at(2), 0x102 << 12 | P | U | A);
    mmu.read(va(2, 0), 4, KERNEL).unwrap();
    assert!(mmu.write(va(2, 0), 4, 1, KERNEL).is_err());
    mmu.set_cr0(CR0_PE_PG).unwrap();
    assert!(mmu.write(va(2, 0), 4, 1, KERNEL).is_ok());
    assert_eq!(mmu.mem.read_u64(pte_at(2)) & (A | D), A | D);
    assert!(mmu.write(va(2, 0), 4, 1, USER).is_err());
}

#[test]
fn large_pages_map_two_megabytes_without_pse() {
    let mut mmu = p3();
    mmu.mem
        .write_u64(PhysAddr(PD0 + 8), 2 << 21 | P | W | U | PS);
    let at = VirtAddr(1 << 21 | 0x12_3456);
    let peek = mmu.peek(at);
    assert_eq!(
        mmu.translate(at, AccessKind::Write, USER),
        Ok(PhysAddr(2 << 21 | 0x12_3456))
    );
    assert_eq!(peek, Some(PhysAddr(2 << 21 | 0x12_3456)));
    assert_eq!(
        mmu.mem.read_u64(PhysAddr(PD0 + 8)),
        2 << 21 | P | W | U | PS | A | D
    );
    // One load and one update, no second level of the walk.
    let n = counted(&mut mmu);
    assert!(
        n.contains(&(DtlbWalkMemory, 1)) && n.contains(&(DtlbWalkL1, 1)),
        "{n:?}"
    );
    // Another 4 KiB of it hits.
    mmu.translate(VirtAddr(1 << 21), AccessKind::Write, USER)
        .unwrap();
    assert_eq!(counted(&mut mmu), [(DtlbAccess, 1)]);
    // Bits 20:13 of the base are reserved.
    mmu.mem
        .write_u64(PhysAddr(PD0 + 8), 2 << 21 | 1 << 13 | P | W | U | PS);
    mmu.invlpg(at);
    assert_eq!(mmu.read(at, 4, USER), Err(fault(at, 0b1101)));
}

#[test]
fn probes_change_nothing_and_count_nothing() {
    let mut mmu = p3();
    mmu.mem.write_u64(pte_at(3), 0x103 << 12 | P | W | U);
    mmu.mem.write_u64(pte_at(4), 0);
    assert_eq!(mmu.probe_write(va(3, 0), 4, USER), Ok(()));
    assert_eq!(
        mmu.probe_write(va(3, 0xFFE), 4, USER),
        Err(fault(va(4, 0), 0b0110))
    );
    assert_eq!(mmu.probe_read(va(4, 0), 4, KERNEL), Err(fault(va(4, 0), 0)));
    assert_eq!(mmu.mem.read_u64(pte_at(3)), 0x103 << 12 | P | W | U);
    assert_eq!(counted(&mut mmu), []);
}

#[test]
fn paging_off_is_identity_without_a_tlb() {
    let mut mmu = Mmu::new(PhysMem::new(1 << 20, 0).unwrap(), &Geometry::pentium3()).unwrap();
    mmu.write(VirtAddr(0x500), 4, 5, KERNEL).unwrap();
    assert_eq!(mmu.read(VirtAddr(0x500), 4, KERNEL), Ok(5));
    mmu.fetch(VirtAddr(0x500), 4, KERNEL).unwrap();
    mmu.rep_stos(VirtAddr(0x500), 1, 4, 0, KERNEL);
    let expected = [
        (LoadL1, 1),
        (StoreL1, 4),
        (StoreMemoryRandom, 1),
        (FetchL2, 1),
    ];
    assert_eq!(counted(&mut mmu), expected);
}
