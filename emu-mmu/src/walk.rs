//! The plain walker: PAE translation by reading the tables in memory, without caches, counts or side effects.
//!
//! It is the reference for the counted walk and serves debugging, probing and the dirty assist. PDPTEs come from the four
//! registers, as the manual demands, never from memory.
//!
//! Invariant: it changes nothing.

use crate::addr::{PhysAddr, VirtAddr};
use crate::entry::{Control, PRESENT, PageSize, Rights, Root, TlbEntry, Why};
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
    /// Where the directory entry above it is, and what, if one was read from memory.
    pub(crate) above: Option<(PhysAddr, u64)>,
}

/// Follows the path of `va`. Rights are not checked.
pub(crate) fn walk(
    mem: &PhysMem,
    root: &Root,
    control: Control,
    va: VirtAddr,
) -> Result<Walked, Why> {
    let pde_at = control.pde_address(root, va).ok_or(Why::NotPresent)?;
    let pde = control.entry_at(mem, pde_at);
    let size = control.size(pde);
    check(control, pde, size)?;
    if size != PageSize::Small {
        return Ok(Walked {
            entry: control.leaf(Rights::ALL, pde, size),
            leaf_at: pde_at,
            leaf: pde,
            above: None,
        });
    }
    Ok(Walked {
        above: Some((pde_at, pde)),
        ..walk_table(mem, control, va, pde)?
    })
}

/// The rest of the path of `va` below a directory entry that maps a table, which may come from a cache.
pub(crate) fn walk_table(
    mem: &PhysMem,
    control: Control,
    va: VirtAddr,
    pde: u64,
) -> Result<Walked, Why> {
    let pte_at = control.pte_address(pde, va);
    let pte = control.entry_at(mem, pte_at);
    check(control, pte, PageSize::Small)?;
    Ok(Walked {
        entry: control.leaf(Rights::ALL.and(pde), pte, PageSize::Small),
        leaf_at: pte_at,
        leaf: pte,
        above: None,
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
