//! One test per rule of translation and invalidation (SDM vol. 3A, chapter 4) and of counting (decision D5), on hand-made
//! page tables, with exact counts.

mod common;

use common::*;
use emu_mmu::{
    AccessKind, ControlError, Cr3Load, Mmu, PageFault, PagingMode, Pfn, PhysAddr, PhysMem,
    Privilege, Span, VirtAddr,
};
use lowmem_cost::Event::{self, *};
use lowmem_cost::Geometry;

const USER: Privilege = Privilege::User;
const KERNEL: Privilege = Privilege::Supervisor;

/// Address `offset` on page `page`.
fn va(page: u32, offset: u32) -> VirtAddr {
    VirtAddr(page << 12 | offset)
}

fn pte_at(page: u32) -> PhysAddr {
    PhysAddr(PT0 + 8 * u64::from(page))
}

/// The event counts since the last call of this on the same unit.
fn counted(mmu: &mut Mmu) -> Vec<(Event, u64)> {
    let all = Event::ALL.iter().map(|&e| (e, mmu.account.total(e)));
    let some = all.filter(|&(_, n)| n != 0).collect();
    mmu.account = Default::default();
    some
}

fn p3() -> Mmu {
    let mut mmu = paged(&Geometry::pentium3());
    counted(&mut mmu);
    mmu
}

fn fault(addr: VirtAddr, code: u32) -> PageFault {
    PageFault { addr, code }
}

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
fn netburst_fetches_a_large_page_in_4k_pieces_and_invlpg_drops_them_all() {
    let mut mmu = paged(&netburst(true));
    mmu.mem
        .write_u64(PhysAddr(PD0 + 8), 2 << 21 | P | W | U | PS | A | D);
    counted(&mut mmu);
    for page in 512..520 {
        mmu.translate(va(page, 0), AccessKind::Fetch, USER).unwrap();
        mmu.translate(va(page, 0), AccessKind::Read, USER).unwrap();
    }
    let n = counted(&mut mmu);
    assert!(
        n.contains(&(ItlbMiss, 8)) && n.contains(&(DtlbMiss, 1)),
        "{n:?}"
    );
    mmu.invlpg(va(1000, 0));
    counted(&mut mmu);
    for page in 512..520 {
        mmu.translate(va(page, 0), AccessKind::Fetch, USER).unwrap();
    }
    assert!(counted(&mut mmu).contains(&(ItlbMiss, 8)));
}

#[test]
fn pdptes_are_registers() {
    let mut mmu = p3();
    mmu.mem.write_u64(PhysAddr(PDPT), 0);
    assert!(
        mmu.read(va(0, 0), 4, USER).is_ok(),
        "memory is not looked at"
    );
    counted(&mut mmu);
    mmu.set_cr3(PDPT as u32, Cr3Load::Other).unwrap();
    assert_eq!(
        counted(&mut mmu),
        [(PdpteLoad, 1), (PdpteUncached, 4), (FlushCr3, 1)]
    );
    assert_eq!(mmu.read(va(0, 0), 4, USER), Err(fault(va(0, 0), 0b0100)));
}

#[test]
fn a_bad_pdpte_loads_nothing() {
    let mut mmu = p3();
    mmu.read(va(0, 0), 4, USER).unwrap();
    let other = 0x7000u64;
    for bad in [1 << 1, 1 << 2, 1 << 5, 1 << 8, 1 << 36, NX] {
        mmu.mem.write_u64(PhysAddr(other + 24), bad | P);
        let result = mmu.set_cr3(other as u32, Cr3Load::Other);
        assert_eq!(result, Err(ControlError::GeneralProtection), "{bad:#x}");
        assert_eq!(mmu.cr3(), PDPT as u32);
        counted(&mut mmu);
        mmu.read(va(0, 0), 4, USER).unwrap();
        assert_eq!(
            counted(&mut mmu),
            [(DtlbAccess, 1), (LoadL1, 1)],
            "nothing was flushed"
        );
        // Without P the bits are free.
        mmu.mem.write_u64(PhysAddr(other + 24), bad);
        assert_eq!(mmu.set_cr3(other as u32, Cr3Load::Other), Ok(()));
        mmu.set_cr3(PDPT as u32, Cr3Load::Other).unwrap();
        mmu.read(va(0, 0), 4, USER).unwrap();
    }
}

#[test]
fn pdptes_load_with_the_control_bits_the_manual_names() {
    let mut mmu = paged(&opteron());
    let mut loads = |f: &mut dyn FnMut(&mut Mmu)| {
        counted(&mut mmu);
        f(&mut mmu);
        mmu.account.total(PdpteLoad)
    };
    assert_eq!(loads(&mut |m| m.set_cr4(m.cr4() ^ CR4_PGE).unwrap()), 1);
    assert_eq!(
        loads(&mut |m| m.set_cr4(m.cr4() ^ 1 << 4).unwrap()),
        1,
        "PSE"
    );
    assert_eq!(
        loads(&mut |m| m.set_cr4(m.cr4() ^ 1 << 9).unwrap()),
        0,
        "OSFXSR"
    );
    assert_eq!(
        loads(&mut |m| m.set_cr0(m.cr0() ^ 1 << 30).unwrap()),
        1,
        "CD"
    );
    assert_eq!(
        loads(&mut |m| m.set_cr0(m.cr0() ^ 1 << 29).unwrap()),
        1,
        "NW"
    );
    assert_eq!(
        loads(&mut |m| m.set_cr0(m.cr0() ^ CR0_WP).unwrap()),
        0,
        "WP"
    );
    assert_eq!(loads(&mut |m| m.set_cr0(1).unwrap()), 0, "PG cleared");
    assert_eq!(
        loads(&mut |m| m.set_cr3(0, Cr3Load::Other).unwrap()),
        0,
        "paging off"
    );
    assert_eq!(loads(&mut |m| m.set_cr0(CR0_PE_PG).unwrap()), 1, "PG set");
    // Through the caches: one line, a load that has been made before.
    assert_eq!(loads(&mut |m| m.set_cr3(0, Cr3Load::Split).unwrap()), 1);
    assert_eq!(
        counted(&mut mmu),
        [(PdpteLoad, 1), (PdpteL1, 1), (FlushSplit, 1)]
    );
}

#[test]
fn paging_without_pae_is_refused() {
    let mut mmu = p3();
    assert_eq!(mmu.set_cr4(CR4_PGE), Err(ControlError::LegacyPaging));
    mmu.set_cr0(1).unwrap();
    assert_eq!(mmu.paging_mode(), PagingMode::Off);
    assert_eq!(
        mmu.translate(va(3, 5), AccessKind::Read, USER),
        Ok(PhysAddr(0x3005))
    );
    mmu.set_cr4(0).unwrap();
    assert_eq!(mmu.set_cr0(CR0_PE_PG), Err(ControlError::LegacyPaging));
}

/// Misses of a read of page 3, in all since the last look.
fn misses(mmu: &mut Mmu) -> u64 {
    mmu.account = Default::default();
    mmu.read(va(3, 0), 4, KERNEL).unwrap();
    mmu.account.total(DtlbMiss)
}

#[test]
fn global_entries_survive_cr3_loads_only() {
    let mut mmu = p3();
    mmu.mem
        .write_u64(pte_at(3), 0x103 << 12 | P | W | A | D | G);
    assert_eq!(misses(&mut mmu), 1);
    mmu.set_cr3(PDPT as u32, Cr3Load::Other).unwrap();
    assert_eq!(misses(&mut mmu), 0);
    mmu.set_cr3(PDPT as u32, Cr3Load::Split).unwrap();
    assert_eq!(misses(&mut mmu), 0);
    mmu.invlpg(va(3, 0x123));
    assert_eq!(misses(&mut mmu), 1);
    // Without PGE the bit means nothing; changing PGE drops all.
    mmu.set_cr4(CR4_PAE).unwrap();
    assert_eq!(misses(&mut mmu), 1);
    mmu.set_cr3(PDPT as u32, Cr3Load::Other).unwrap();
    assert_eq!(misses(&mut mmu), 1);
    mmu.set_cr4(CR4_PAE | CR4_PGE).unwrap();
    assert_eq!(misses(&mut mmu), 1);
    mmu.set_cr0(1).unwrap();
    mmu.set_cr0(CR0_PE_PG).unwrap();
    assert_eq!(misses(&mut mmu), 1);
}

#[test]
fn changes_of_a_pte_show_only_after_invalidation() {
    let mut mmu = p3();
    mmu.mem.write_u32(PhysAddr(0x10_3000), 3);
    mmu.mem.write_u32(PhysAddr(0x10_9000), 9);
    assert_eq!(mmu.read(va(3, 0), 4, USER), Ok(3));
    mmu.mem
        .write_u64(pte_at(3), 0x109 << 12 | P | W | U | A | D);
    assert_eq!(mmu.read(va(3, 0), 4, USER), Ok(3));
    mmu.invlpg(va(3, 0));
    assert_eq!(mmu.read(va(3, 0), 4, USER), Ok(9));
}

#[test]
fn not_present_entries_are_not_cached() {
    let mut mmu = p3();
    let good = mmu.mem.read_u64(pte_at(3));
    mmu.mem.write_u64(pte_at(3), 0);
    for _ in 0..2 {
        counted(&mut mmu);
        assert!(mmu.read(va(3, 0), 4, USER).is_err());
        assert!(counted(&mut mmu).contains(&(DtlbWalk, 1)));
    }
    mmu.mem.write_u64(pte_at(3), good);
    assert!(mmu.read(va(3, 0), 4, USER).is_ok());
}

#[test]
fn a_fault_drops_the_entries_of_its_address_so_it_is_spurious_at_most_once() {
    let mut mmu = p3();
    mmu.mem.write_u64(pte_at(3), 0x103 << 12 | P | U | A);
    mmu.read(va(3, 0), 4, USER).unwrap();
    // R/W 0 to 1 without invalidation: one spurious fault.
    mmu.mem.write_u64(pte_at(3), 0x103 << 12 | P | W | U | A);
    assert_eq!(
        mmu.write(va(3, 0), 4, 1, USER),
        Err(fault(va(3, 0), 0b0111))
    );
    counted(&mut mmu);
    assert_eq!(mmu.write(va(3, 0), 4, 1, USER), Ok(()));
    assert!(counted(&mut mmu).contains(&(DtlbMiss, 1)));
    // The same through the PDE cache: the directory's rights were cached.
    mmu.mem.write_u64(PhysAddr(PD0), PT0 | P | U | A);
    mmu.set_cr3(PDPT as u32, Cr3Load::Other).unwrap();
    mmu.read(va(4, 0), 4, USER).unwrap();
    mmu.mem.write_u64(PhysAddr(PD0), PT0 | P | W | U | A);
    assert!(mmu.write(va(5, 0), 4, 1, USER).is_err());
    assert!(mmu.write(va(5, 0), 4, 1, USER).is_ok());
}

#[test]
fn invlpg_empties_the_pde_cache() {
    let mut mmu = p3();
    mmu.mem
        .write_u64(PhysAddr(PD0 + 0x18), 0x7000 | P | W | U | A);
    mmu.mem
        .write_u64(PhysAddr(0x7000), 0x111 << 12 | P | W | U | A | D);
    mmu.mem
        .write_u64(PhysAddr(0x8008), 0x122 << 12 | P | W | U | A | D);
    mmu.read(VirtAddr(3 << 21), 4, USER).unwrap();
    // Another table for the region: the cached PDE still leads to the old one.
    mmu.mem
        .write_u64(PhysAddr(PD0 + 0x18), 0x8000 | P | W | U | A);
    assert!(
        mmu.read(VirtAddr(3 << 21 | 1 << 12), 4, USER).is_err(),
        "old table"
    );
    assert!(
        mmu.read(VirtAddr(3 << 21 | 1 << 12), 4, USER).is_ok(),
        "#PF dropped the PDE"
    );
    mmu.mem
        .write_u64(PhysAddr(PD0 + 0x18), 0x7000 | P | W | U | A);
    mmu.invlpg(va(0, 0));
    assert!(
        mmu.read(VirtAddr(3 << 21 | 2 << 12), 4, USER).is_err(),
        "the old table again"
    );
    assert_eq!(
        mmu.translate(VirtAddr(3 << 21), AccessKind::Read, USER),
        Ok(PhysAddr(0x11_1000))
    );
}

#[test]
fn page_crossing_accesses_are_two_and_write_all_or_nothing() {
    let mut mmu = p3();
    mmu.mem.write_u32(PhysAddr(0x10_1FFC), 0x4433_2211);
    mmu.mem.write_u32(PhysAddr(0x10_2000), 0x8877_6655);
    assert_eq!(mmu.read(va(1, 0xFFE), 4, USER), Ok(0x6655_4433));
    assert_eq!(mmu.account.total(DtlbAccess), 2);
    mmu.mem.write_u64(pte_at(2), 0);
    mmu.invlpg(va(2, 0));
    assert_eq!(
        mmu.write(va(1, 0xFFE), 4, 0, USER),
        Err(fault(va(2, 0), 0b0110))
    );
    assert_eq!(mmu.mem.read_u32(PhysAddr(0x10_1FFC)), 0x4433_2211);
    // Across the end of the linear address space.
    let end = VirtAddr(0xFFFF_FFFE);
    assert_eq!(mmu.read(end, 4, USER), Err(fault(end, 0b0100)));
}

#[test]
fn a_read_modify_write_is_one_write() {
    let mut mmu = p3();
    mmu.read(va(3, 0), 4, USER).unwrap();
    counted(&mut mmu);
    assert_eq!(mmu.modify(va(3, 0), 4, USER, |old| Some(old + 5)), Ok(0));
    assert_eq!(counted(&mut mmu), [(DtlbAccess, 1), (StoreL1, 1)]);
    assert_eq!(mmu.modify(va(3, 0), 4, USER, |_| None), Ok(5));
    mmu.mem.write_u64(pte_at(3), 0x103 << 12 | P | U | A);
    mmu.invlpg(va(3, 0));
    assert_eq!(
        mmu.modify(va(3, 0), 4, USER, |_| None),
        Err(fault(va(3, 0), 0b0111))
    );
}

#[test]
fn a_line_crossing_access_is_one_translation_and_two_lines() {
    let mut mmu = p3();
    mmu.read(va(3, 0), 4, USER).unwrap();
    mmu.read(va(3, 32), 4, USER).unwrap();
    counted(&mut mmu);
    mmu.read(va(3, 30), 4, USER).unwrap();
    assert_eq!(counted(&mut mmu), [(DtlbAccess, 1), (LoadL1, 2)]);
}

#[test]
fn fetches_count_pages_and_lines() {
    let mut mmu = p3();
    assert_eq!(mmu.fetch(va(3, 0x100), 4, USER), Ok(PhysAddr(0x10_3100)));
    let first = [
        (ItlbAccess, 1),
        (ItlbMiss, 1),
        (ItlbCold, 1),
        (ItlbWalk, 1),
        (FetchMemoryRandom, 1),
        (ItlbWalkMemory, 2),
    ];
    assert_eq!(counted(&mut mmu), first);
    mmu.fetch(va(3, 0x104), 4, USER).unwrap();
    assert_eq!(counted(&mut mmu), [(ItlbAccess, 1), (FetchL1, 1)]);
    mmu.fetch(va(3, 0x11E), 4, USER).unwrap();
    assert_eq!(
        counted(&mut mmu),
        [(ItlbAccess, 1), (FetchL1, 1), (FetchMemoryOpen, 1)]
    );
    mmu.fetch(va(3, 0xFFE), 4, USER).unwrap();
    mmu.fetch(va(3, 0xFFE), 4, USER).unwrap();
    assert_eq!(
        (mmu.account.total(ItlbAccess), mmu.account.total(ItlbMiss)),
        (4, 1)
    );
    counted(&mut mmu);
    mmu.fetch_many(va(3, 0x100), 4, 1000, USER).unwrap();
    assert_eq!(counted(&mut mmu), [(ItlbAccess, 1000), (FetchL1, 1000)]);
    assert_eq!(mmu.peek_code(va(3, 7), USER), Ok(PhysAddr(0x10_3007)));
    assert_eq!(counted(&mut mmu), []);
}

#[test]
fn fetches_of_one_line_can_be_counted_together() {
    for g in geometries() {
        let mut one_by_one = paged(&g);
        let mut together = paged(&g);
        for page in [3, 4, 3, 7] {
            let line = 1 << together.code_line_shift();
            together.fetch(va(page, line), 4, USER).unwrap();
            one_by_one.fetch(va(page, line), 4, USER).unwrap();
            for i in 1..line / 4 {
                let data = va(page + i % 3, 0x800 + i);
                together.read(data, 4, USER).unwrap();
                one_by_one.fetch(va(page, line + 4 * i), 4, USER).unwrap();
                one_by_one.read(data, 4, USER).unwrap();
            }
            together.refetch(u64::from(line / 4 - 1));
            assert_eq!(together.account, one_by_one.account);
        }
    }
}

#[test]
fn a_trace_cache_hit_consults_no_itlb() {
    let mut mmu = paged(&netburst(true));
    counted(&mut mmu);
    mmu.fetch(va(3, 0), 4, USER).unwrap();
    let n = counted(&mut mmu);
    assert!(
        n.contains(&(TcMiss, 1)) && n.contains(&(ItlbMiss, 1)),
        "{n:?}"
    );
    mmu.fetch(va(3, 4), 4, USER).unwrap();
    assert_eq!(counted(&mut mmu), [(TcAccess, 1)]);
    mmu.fetch_many(va(3, 4), 4, 10, USER).unwrap();
    assert_eq!(counted(&mut mmu), [(TcAccess, 10)]);
    // The next trace line misses, its page hits the ITLB, its 64-byte line has come from memory before.
    mmu.fetch(va(3, 16), 4, USER).unwrap();
    assert_eq!(
        counted(&mut mmu),
        [(ItlbAccess, 1), (TcAccess, 1), (TcMiss, 1), (FetchL2, 1)]
    );
    // Another privilege must not use a supervisor's line; a CR3 load empties it.
    mmu.mem.write_u64(pte_at(4), 0x104 << 12 | P | W | A | G);
    mmu.fetch(va(4, 0), 4, KERNEL).unwrap();
    assert!(mmu.fetch(va(4, 0), 4, USER).is_err());
    mmu.fetch(va(4, 0), 4, KERNEL).unwrap();
    mmu.set_cr3(PDPT as u32, Cr3Load::Split).unwrap();
    counted(&mut mmu);
    mmu.fetch(va(4, 0), 4, KERNEL).unwrap();
    assert!(counted(&mut mmu).contains(&(TcMiss, 1)));
}

#[test]
fn a_retagged_trace_cache_keeps_global_lines_and_tells_roots_apart() {
    let mut mmu = paged(&netburst(false));
    for i in 0..4 {
        mmu.mem
            .write_u64(PhysAddr(PDPT + 32 + 8 * i), (PD0 + 0x1000 * i) | P);
    }
    mmu.mem
        .write_u64(pte_at(4), 0x104 << 12 | P | W | U | A | G);
    mmu.fetch(va(3, 0), 4, USER).unwrap();
    mmu.fetch(va(4, 0), 4, USER).unwrap();
    let mut missed = |root: u64, page| {
        mmu.set_cr3((PDPT + root) as u32, Cr3Load::Other).unwrap();
        counted(&mut mmu);
        mmu.fetch(va(page, 0), 4, USER).unwrap();
        mmu.account.total(TcMiss)
    };
    assert_eq!((missed(0, 3), missed(0, 4)), (0, 0));
    assert_eq!((missed(32, 3), missed(32, 4)), (1, 0));
    assert_eq!(missed(0, 3), 0);
    // invlpg drops a page's lines.
    mmu.invlpg(va(3, 0x800));
    counted(&mut mmu);
    mmu.fetch(va(3, 0), 4, USER).unwrap();
    assert_eq!(mmu.account.total(TcMiss), 1);
}

#[test]
fn a_second_level_has_its_own_row() {
    let mut mmu = paged(&opteron());
    for page in 0..33 {
        mmu.read(va(page, 0), 4, USER).unwrap();
    }
    counted(&mut mmu);
    // Page 0 fell out of the 32 entries of the first level, not of the second.
    mmu.read(va(0, 0), 4, USER).unwrap();
    let n = counted(&mut mmu);
    assert_eq!(
        n[..4],
        [
            (DtlbAccess, 1),
            (DtlbMiss, 1),
            (DtlbCapacity, 1),
            (Dtlb2Access, 1)
        ]
    );
    assert!(
        !n.iter().any(|&(e, _)| e == Dtlb2Miss || e == DtlbWalk),
        "{n:?}"
    );
    mmu.invlpg(va(0, 0));
    mmu.read(va(0, 0), 4, USER).unwrap();
    assert_eq!(mmu.account.total(Dtlb2Miss), 1);
}

/// The class of the one miss, or spared hit, of a read of page 3.
fn class(mmu: &mut Mmu, p: Privilege) -> Vec<Event> {
    mmu.account = Default::default();
    let _ = mmu.read(va(3, 0), 4, p);
    let classes = [DtlbFlush, DtlbRemap, DtlbCold, DtlbCapacity, DtlbSpared];
    classes
        .into_iter()
        .filter(|&e| mmu.account.total(e) != 0)
        .collect()
}

#[test]
fn misses_are_classed_by_the_shadow() {
    let mut mmu = p3();
    let split = |m: &mut Mmu| m.set_cr3(PDPT as u32, Cr3Load::Split).unwrap();
    assert_eq!(class(&mut mmu, USER), [DtlbCold]);
    assert_eq!(class(&mut mmu, USER), []);
    split(&mut mmu);
    assert_eq!(class(&mut mmu, USER), [DtlbFlush]);
    // Another pte behind a flush of the split's.
    mmu.mem
        .write_u64(pte_at(3), 0x109 << 12 | P | W | U | A | D);
    split(&mut mmu);
    assert_eq!(class(&mut mmu, USER), [DtlbRemap]);
    split(&mut mmu);
    assert_eq!(
        class(&mut mmu, USER),
        [DtlbFlush],
        "the shadow has taken the new pte"
    );
    // invlpg empties both.
    mmu.invlpg(va(3, 0));
    assert_eq!(class(&mut mmu, USER), [DtlbCapacity]);
    // The split's load and then a change of mm: the shadow lost it too.
    split(&mut mmu);
    mmu.set_running_mm(1);
    assert_eq!(class(&mut mmu, USER), [DtlbCold], "never seen in this mm");
    mmu.set_running_mm(0);
    // The real TLB was not flushed, the shadow was.
    assert_eq!(class(&mut mmu, USER), [DtlbSpared]);
    // Any other CR3 load flushes user entries of both.
    mmu.set_cr3(PDPT as u32, Cr3Load::Other).unwrap();
    assert_eq!(class(&mut mmu, USER), [DtlbCapacity]);
    // A fault behind a flush of the split's: the shadow still holds a pte.
    mmu.mem.write_u64(pte_at(3), 0);
    split(&mut mmu);
    assert_eq!(class(&mut mmu, USER), [DtlbRemap]);
    assert_eq!(class(&mut mmu, USER), [DtlbCapacity], "#PF dropped it");
}

#[test]
fn supervisor_entries_stay_in_the_shadow_and_roots_are_told_apart() {
    let mut mmu = p3();
    for i in 0..4 {
        mmu.mem
            .write_u64(PhysAddr(PDPT + 32 + 8 * i), (PD0 + 0x1000 * i) | P);
    }
    let (user_root, kernel_root) = (PDPT as u32, PDPT as u32 + 32);
    mmu.mem.write_u64(pte_at(3), 0x103 << 12 | P | W | A | D);
    mmu.set_cr3(kernel_root, Cr3Load::Split).unwrap();
    assert_eq!(class(&mut mmu, KERNEL), [DtlbCold]);
    // Under the other root the same address is another page: the kernel's entry must not be found.
    mmu.set_cr3(user_root, Cr3Load::Split).unwrap();
    assert_eq!(class(&mut mmu, KERNEL), [DtlbCapacity]);
    mmu.set_cr3(kernel_root, Cr3Load::Split).unwrap();
    assert_eq!(class(&mut mmu, KERNEL), [DtlbFlush]);
    // It stays over a change of mm and over other CR3 loads, as a global page would, and passes to the new root.
    mmu.set_running_mm(7);
    mmu.set_cr3(kernel_root, Cr3Load::Other).unwrap();
    assert_eq!(class(&mut mmu, KERNEL), [DtlbFlush]);
    mmu.set_cr3(user_root, Cr3Load::Other).unwrap();
    assert_eq!(class(&mut mmu, KERNEL), [DtlbFlush]);
    mmu.set_cr4(CR4_PAE).unwrap();
    assert_eq!(
        class(&mut mmu, KERNEL),
        [DtlbCapacity],
        "a global flush empties it"
    );
}

#[test]
fn a_page_of_stos_counts_each_element_and_clears_by_representation() {
    let mut mmu = p3();
    // Page 3 in high memory, full.
    let frame = Pfn(0x500);
    mmu.mem.make_full(frame).unwrap();
    mmu.mem
        .write_u64(pte_at(3), 0x500 << 12 | P | W | U | A | D);
    assert_eq!(
        mmu.rep_stos(va(3, 0), 4, 5000, 0, USER),
        Span {
            done: 1024,
            fault: None
        }
    );
    assert!(mmu.mem.host_page(frame).is_none(), "no longer full");
    let n = counted(&mut mmu);
    assert!(
        n.contains(&(DtlbAccess, 1024)) && n.contains(&(DtlbMiss, 1)),
        "{n:?}"
    );
    // 128 lines of 32 bytes, 8 elements each: two single misses, then a stream.
    let lines = [
        (StoreL1, 896),
        (StoreMemoryOpen, 1),
        (StoreMemoryRandom, 1),
        (StoreStream, 126),
    ];
    for line in lines {
        assert!(n.contains(&line), "{line:?} {n:?}");
    }
    assert_eq!(
        mmu.rep_stos(va(600, 0), 4, 5, 0, USER),
        Span {
            done: 0,
            fault: Some(fault(va(600, 0), 0b0110))
        }
    );
    assert_eq!(mmu.rep_stos(va(3, 0xFFF), 1, 5, 7, USER).done, 1);
    assert_eq!(
        mmu.rep_stos(va(3, 0), 4, 0, 0, USER),
        Span {
            done: 0,
            fault: None
        }
    );
}

#[test]
fn a_page_of_movs_counts_both_sides() {
    let mut mmu = p3();
    for i in 0..1024u64 {
        mmu.mem.write_u32(PhysAddr(0x10_3000 + 4 * i), i as u32 + 1);
    }
    mmu.read(va(4, 0), 4, USER).unwrap();
    mmu.read(va(3, 0), 4, USER).unwrap();
    counted(&mut mmu);
    assert_eq!(mmu.rep_movs(va(4, 0), va(3, 0), 4, 1024, USER).done, 1024);
    let n = counted(&mut mmu);
    assert!(
        n.contains(&(DtlbAccess, 2048)) && !n.iter().any(|&(e, _)| e == DtlbMiss),
        "{n:?}"
    );
    let of = |kinds: &[Event]| -> u64 {
        n.iter()
            .filter(|(e, _)| kinds.contains(e))
            .map(|&(_, n)| n)
            .sum()
    };
    let loads = [LoadL1, LoadL2, LoadMemoryOpen, LoadMemoryRandom, LoadStream];
    let stores = [
        StoreL1,
        StoreL2,
        StoreMemoryOpen,
        StoreMemoryRandom,
        StoreStream,
    ];
    assert_eq!((of(&loads), of(&stores)), (1024, 1024));
    assert_eq!(mmu.mem.read_u32(PhysAddr(0x10_4FFC)), 1024);
}

#[test]
fn a_dirty_assist_within_movs_moves_the_source_too() {
    // Both operands on one page whose entry is clean and stale: the first store finds the new frame.
    let run = |n: &[u32]| {
        let mut mmu = p3();
        mmu.mem.write_u64(pte_at(3), 0x103 << 12 | P | W | U | A);
        mmu.read(va(3, 0), 4, USER).unwrap();
        mmu.mem.write_u64(pte_at(3), 0x109 << 12 | P | W | U | A);
        for i in 0..64 {
            mmu.mem.write_u32(PhysAddr(0x10_3000 + 4 * i), 3);
            mmu.mem.write_u32(PhysAddr(0x10_9000 + 4 * i), 9);
        }
        let mut done = 0;
        for &n in n {
            let mut left = n;
            while left > 0 {
                let span = mmu.rep_movs(va(3, 0x100 + 4 * done), va(3, 4 * done), 4, left, USER);
                left -= span.done;
                done += span.done;
            }
        }
        let words: Vec<u32> = (0..10)
            .map(|i| mmu.mem.read_u32(PhysAddr(0x10_9100 + 4 * i)))
            .collect();
        (words, counted(&mut mmu))
    };
    let at_once = run(&[10]);
    assert_eq!(at_once, run(&[1; 10]));
    assert_eq!(at_once.0, [3, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
}

#[test]
fn writes_to_watched_code_are_reported_once() {
    let mut mmu = p3();
    mmu.watch_code(Pfn(0x103));
    mmu.watch_code(Pfn(0x104));
    mmu.write(va(5, 0), 4, 1, USER).unwrap();
    mmu.read(va(3, 0), 4, USER).unwrap();
    assert!(!mmu.code_written());
    mmu.write(va(3, 0xFFF), 2, 1, USER).unwrap();
    assert!(mmu.code_written());
    assert_eq!(mmu.take_code_writes(), [Pfn(0x103), Pfn(0x104)]);
    mmu.write(va(3, 0), 4, 1, USER).unwrap();
    assert!(!mmu.code_written());
    mmu.watch_code(Pfn(0x103));
    mmu.rep_stos(va(3, 0), 1, 100, 0, USER);
    assert_eq!(mmu.take_code_writes(), [Pfn(0x103)]);
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

#[test]
fn units_are_values() {
    fn send<T: Send>() {}
    send::<Mmu>();
}
