//! The classes of misses (decision D7).

use crate::common::*;
use emu_mmu::{Cr3Load, Mmu, PhysAddr, Privilege};
use lowmem_cost::Event::{self, *};

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
