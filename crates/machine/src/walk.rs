//! The page walk in software, over guest memory: what native mode uses where the emulated CPU has an MMU.
//!
//! PAE only, from a physical root: page directory pointers, directory, table. [`touch`] does what the MMU does to a leaf:
//! Accessed on any access, Dirty on a write. Upper levels are left alone: the kernel creates them with A set, so the MMU
//! never writes them either. Error codes are those of the manual's #PF (Intel SDM 3A, 4.7), without the I/D bit.
//!
//! Invariant: a lookup changes nothing; a touch changes only A and D of one leaf.

use emu_mmu::{Pfn, PhysAddr, PhysMem};

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const RW: u64 = 1 << 1;
/// User.
pub const US: u64 = 1 << 2;
/// Accessed.
pub const A: u64 = 1 << 5;
/// Dirty.
pub const D: u64 = 1 << 6;
/// Large page, in a directory entry.
pub const PS: u64 = 1 << 7;
/// Bits 12 to 51.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The entry that translates an address, or the first that is not present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// Physical address of the entry.
    pub at: PhysAddr,
    /// The entry.
    pub entry: u64,
    /// It is a directory entry for 2 MB.
    pub large: bool,
    /// R/W and U/S of all levels together.
    pub rights: u64,
}

impl Leaf {
    /// Whether the translation is present.
    pub fn present(&self) -> bool {
        self.entry & P != 0
    }
    /// The frame that holds `va`.
    pub fn frame(&self, va: u32) -> Pfn {
        let base = (self.entry & FRAME) >> 12;
        if self.large {
            Pfn((base as u32 & !0x1ff) + (va >> 12 & 0x1ff))
        } else {
            Pfn(base as u32)
        }
    }
}

/// The page-table entry for `va` below the directory pointers at `root`; `None` where there is no page table.
pub fn lookup(mem: &PhysMem, root: u32, va: u32) -> Option<Leaf> {
    let pdpte = mem.read_u64(PhysAddr(u64::from(root & !31) + u64::from(va >> 30) * 8));
    if pdpte & P == 0 {
        return None;
    }
    let at = PhysAddr((pdpte & FRAME) + u64::from(va >> 21 & 0x1ff) * 8);
    let pde = mem.read_u64(at);
    if pde & P == 0 {
        return None;
    }
    if pde & PS != 0 {
        return Some(Leaf {
            at,
            entry: pde,
            large: true,
            rights: pde & (RW | US),
        });
    }
    let at = PhysAddr((pde & FRAME) + u64::from(va >> 12 & 0x1ff) * 8);
    let entry = mem.read_u64(at);
    Some(Leaf {
        at,
        entry,
        large: false,
        rights: entry & pde & (RW | US),
    })
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read or fetch.
    Read,
    /// Write.
    Write,
}

/// Error code bit: the page was present.
pub const FAULT_PRESENT: u32 = 1;
/// Error code bit: a write.
pub const FAULT_WRITE: u32 = 2;
/// Error code bit: from CPL 3.
pub const FAULT_USER: u32 = 4;

/// Translates a user page as an access of CPL 3 does, without changing anything: the leaf, or the error code of the fault.
pub fn user_leaf(mem: &PhysMem, root: u32, va: u32, access: Access) -> Result<Leaf, u32> {
    let code = match access {
        Access::Read => FAULT_USER,
        Access::Write => FAULT_USER | FAULT_WRITE,
    };
    let leaf = lookup(mem, root, va).filter(Leaf::present).ok_or(code)?;
    let needed = match access {
        Access::Read => US,
        Access::Write => US | RW,
    };
    if leaf.rights & needed != needed {
        return Err(code | FAULT_PRESENT);
    }
    Ok(leaf)
}

/// Sets A, and D on a write.
pub fn touch(mem: &mut PhysMem, leaf: &Leaf, access: Access) {
    let bits = match access {
        Access::Read => A,
        Access::Write => A | D,
    };
    if leaf.entry & bits != bits {
        mem.write_u64(leaf.at, leaf.entry | bits);
    }
}
