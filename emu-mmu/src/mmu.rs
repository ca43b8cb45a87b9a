//! The memory-management unit (skeleton; the public signatures are stable).

use crate::addr::{Pfn, PhysAddr, VirtAddr};
use crate::phys::{PhysError, PhysMem};
use lowmem_cost::{Account, Geometry};

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write, read-modify-writes included.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// With whose rights: CPL 3, or CPL 0 to 2 and implicit accesses to descriptor tables and TSS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// CPL 3.
    User,
    /// CPL 0 to 2, and implicit accesses at any CPL.
    Supervisor,
}

/// #PF: the faulting linear address (CR2) and the error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFault {
    /// Goes to CR2.
    pub addr: VirtAddr,
    /// Bits P, W/R, U/S, RSVD, I/D.
    pub code: u32,
}

/// Why a control register could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// #GP(0): a present PDPTE has a reserved bit set; nothing was loaded.
    #[error("reserved bit set in a present pdpte")]
    GeneralProtection,
    /// CR0.PG=1 with CR4.PAE=0 is not modelled yet.
    #[error("32-bit paging without pae is not modelled")]
    LegacyPaging,
}

/// Whose load of CR3 it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cr3Load {
    /// By the declared trampoline of a split kernel (counts `FlushSplit`).
    Split,
    /// Any other: `FlushSwitch` when the value changes, else `FlushCr3`.
    Other,
}

/// A geometry that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cpu geometry: {what}")]
pub struct GeometryError {
    /// What is wrong, with its numbers.
    pub what: String,
}

/// How far a repeated string operation came in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Elements done, counted and stored. At least 1 if there is no fault and the count was not 0.
    pub done: u32,
    /// The fault of element number `done`, if it faulted.
    pub fault: Option<PageFault>,
}

/// Physical memory, TLBs, caches, and the account they count into.
#[derive(Debug)]
pub struct Mmu {
    /// Guest-physical memory.
    pub mem: PhysMem,
    /// Where everything is counted; the CPU counts here too.
    pub account: Account,
}

#[allow(unused_variables, missing_docs, reason = "skeleton")]
impl Mmu {
    pub fn new(mem: PhysMem, geometry: &Geometry) -> Result<Mmu, GeometryError> {
        todo!()
    }
    /// The slow twin: same counts, no shortcut.
    pub fn reference(mem: PhysMem, geometry: &Geometry) -> Result<Mmu, GeometryError> {
        todo!()
    }
    pub fn clone_cow(&self) -> Result<Mmu, PhysError> {
        todo!()
    }
    pub fn set_cr0(&mut self, new: u32) -> Result<(), ControlError> {
        todo!()
    }
    pub fn set_cr3(&mut self, new: u32, why: Cr3Load) -> Result<(), ControlError> {
        todo!()
    }
    pub fn set_cr4(&mut self, new: u32) -> Result<(), ControlError> {
        todo!()
    }
    pub fn set_efer(&mut self, new: u32) {}
    /// D7: the shadow's user entries go when the running mm changes.
    pub fn set_running_mm(&mut self, id: u32) {}
    pub fn invlpg(&mut self, va: VirtAddr) {}
    /// Empties all TLBs and walk caches, global entries too, and the caches of code and data: a machine just entering cycle mode.
    pub fn reset_state(&mut self) {}
    pub fn read(&mut self, va: VirtAddr, size: u8, p: Privilege) -> Result<u64, PageFault> {
        todo!()
    }
    pub fn write(
        &mut self,
        va: VirtAddr,
        size: u8,
        value: u64,
        p: Privilege,
    ) -> Result<(), PageFault> {
        todo!()
    }
    /// Read-modify-write: one DTLB access, a write. `None` from `f` stores nothing but needed the rights. Gives the old value.
    pub fn modify(
        &mut self,
        va: VirtAddr,
        size: u8,
        p: Privilege,
        f: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64, PageFault> {
        todo!()
    }
    /// Would a write fault? Counts nothing; a fault drops the address's TLB entries as any #PF does.
    pub fn probe_write(&mut self, va: VirtAddr, size: u8, p: Privilege) -> Result<(), PageFault> {
        todo!()
    }
    /// Counts the fetch of an instruction of `len` bytes (D5); gives the physical address of its first byte.
    pub fn fetch(&mut self, va: VirtAddr, len: u8, p: Privilege) -> Result<PhysAddr, PageFault> {
        todo!()
    }
    /// As `n` fetches in a row of the same `len` bytes (n >= 1); the repeats are merged.
    pub fn fetch_many(
        &mut self,
        va: VirtAddr,
        len: u8,
        n: u64,
        p: Privilege,
    ) -> Result<PhysAddr, PageFault> {
        todo!()
    }
    /// Where the instruction bytes at `va` are, as the next fetch would find them (TLB first, then the tables). Counts and
    /// changes nothing: for reading the bytes before the length is known. On `Err` call `fetch` to count and raise the fault.
    pub fn peek_code(&self, va: VirtAddr, p: Privilege) -> Result<PhysAddr, PageFault> {
        todo!()
    }
    /// Debugging translation by the plain walker over the tables in memory; counts and changes nothing, checks no rights.
    pub fn peek(&self, va: VirtAddr) -> Option<PhysAddr> {
        todo!()
    }
    /// One counted TLB access without a cache access.
    pub fn translate(
        &mut self,
        va: VirtAddr,
        kind: AccessKind,
        p: Privilege,
    ) -> Result<PhysAddr, PageFault> {
        todo!()
    }
    /// `rep stos`, ascending: as many elements as lie on the page of `va` (one, if it crosses), exact counts.
    pub fn rep_stos(
        &mut self,
        va: VirtAddr,
        size: u8,
        count: u32,
        value: u32,
        p: Privilege,
    ) -> Span {
        todo!()
    }
    /// `rep movs`, ascending: as many elements as lie on both current pages (one, if it crosses), exact counts.
    pub fn rep_movs(
        &mut self,
        to: VirtAddr,
        from: VirtAddr,
        size: u8,
        count: u32,
        p: Privilege,
    ) -> Span {
        todo!()
    }
    /// Self-modifying code: watch a frame that holds decoded code. A write to it through this MMU is reported once by
    /// [`Mmu::take_code_writes`], and the frame is then no longer watched.
    pub fn watch_code(&mut self, pfn: Pfn) {}
    /// True if a watched frame was written since the last [`Mmu::take_code_writes`]. Cheap enough to ask after each store.
    #[inline(always)]
    pub fn code_written(&self) -> bool {
        false
    }
    pub fn take_code_writes(&mut self) -> Vec<Pfn> {
        Vec::new()
    }
    /// Misses of the shadow ITLB and DTLB (D7), for the identity.
    pub fn shadow_misses(&self) -> (u64, u64) {
        todo!()
    }
}
