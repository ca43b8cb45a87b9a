//! Counting of data accesses (decision D5): pages, lines, read-modify-writes, second level, watched code.

use crate::common::*;
use emu_mmu::{Pfn, PhysAddr, VirtAddr};
use lowmem_cost::Event::*;

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
