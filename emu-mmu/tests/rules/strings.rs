//! Counting and effects of repeated string operations (decision D5).

use crate::common::*;
use emu_mmu::{Pfn, PhysAddr, Span};
use lowmem_cost::Event::{self, *};

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
