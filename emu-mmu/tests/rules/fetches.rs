//! Counting of instruction fetches (decision D5), with an L1I and with a trace cache.

use crate::common::*;
use emu_mmu::{Cr3Load, PhysAddr};
use lowmem_cost::Event::*;

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
