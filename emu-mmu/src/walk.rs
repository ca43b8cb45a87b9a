//! The plain walker: PAE translation by reading the tables in memory, without caches, counts or side effects.
//!
//! It is the reference for the counted walk and serves debugging, probing and the dirty assist. PDPTEs come from the four
//! registers, as the manual demands, never from memory.
//!
//! Invariant: it changes nothing.

use crate::addr::{PhysAddr, VirtAddr};
use crate::entry::{
    Control, LARGE_PAGE, PRESENT, PageSize, Rights, TlbEntry, Why, pde_address, pte_address,
};
use crate::phys::PhysMem;

/// A complete path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Walked {
    /// What a TLB would keep (before any fragmenting).
    pub(crate) entry: TlbEntry,
    /// Where the leaf is.
    pub(crate) leaf_at: PhysAddr,
    /// The leaf as it is in memory.
    pub(crate) leaf: u64,
}

/// Follows the path of `va`. Rights are not checked.
pub(crate) fn walk(
    mem: &PhysMem,
    pdpte: &[u64; 4],
    control: Control,
    va: VirtAddr,
) -> Result<Walked, Why> {
    let pdpte = pdpte[(va.0 >> 30) as usize];
    if pdpte & PRESENT == 0 {
        return Err(Why::NotPresent);
    }
    let pde_at = pde_address(pdpte, va);
    let pde = mem.read_u64(pde_at);
    let size = if pde & LARGE_PAGE != 0 {
        PageSize::Large
    } else {
        PageSize::Small
    };
    check(control, pde, size)?;
    if size == PageSize::Large {
        return Ok(Walked {
            entry: control.leaf(Rights::ALL, pde, size),
            leaf_at: pde_at,
            leaf: pde,
        });
    }
    let pte_at = pte_address(pde, va);
    let pte = mem.read_u64(pte_at);
    check(control, pte, PageSize::Small)?;
    Ok(Walked {
        entry: control.leaf(Rights::ALL.and(pde), pte, PageSize::Small),
        leaf_at: pte_at,
        leaf: pte,
    })
}

/// Present, and no reserved bit set.
pub(crate) fn check(control: Control, entry: u64, size: PageSize) -> Result<(), Why> {
    if entry & PRESENT == 0 {
        Err(Why::NotPresent)
    } else if control.reserved(entry, size) {
        Err(Why::Reserved)
    } else {
        Ok(())
    }
}
