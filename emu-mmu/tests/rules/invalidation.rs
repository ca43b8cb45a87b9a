//! What is cached, for how long, and what drops it (SDM vol. 3A, section 4.10).

use crate::common::*;
use emu_mmu::{AccessKind, Cr3Load, Mmu, PhysAddr, VirtAddr};
use lowmem_cost::Event::*;

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
