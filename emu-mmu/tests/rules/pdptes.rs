//! The PDPTE registers: when they are loaded and what refuses them (SDM vol. 3A, section 4.4.1).

use crate::common::*;
use emu_mmu::{ControlError, Cr3Load, Mmu, PhysAddr};
use lowmem_cost::Event::*;

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
