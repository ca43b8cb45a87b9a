//! Operand access: effective addresses, segment checks, memory, stack, descriptor tables.
//!
//! Invariant: every access to guest memory an instruction makes goes through here, so it is checked
//! and counted once.

use crate::cpu::{CR0_PE, Cpu};
use crate::fault::{self, Fault, Raised};
use crate::flags::Flags;
use crate::op::{ADDR16, Op};
use crate::regs::ESP;
use crate::segment::{Descriptor, Seg};
use crate::word::Word;
use emu_mmu::{PageFault, Privilege, VirtAddr};

/// What a segment check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Read,
    Write,
}

/// Address bits that must be clear for an aligned access. Table registers (6 bytes) are aligned like
/// double words, far pointers by their first part (SDM vol. 3, table 6-7).
fn alignment(size: u32) -> u32 {
    match size {
        6 => 3,
        size => size - 1,
    }
}

impl Cpu {
    /// Offset of the memory operand in its segment.
    #[inline(always)]
    pub(crate) fn offset(&self, op: &Op) -> u32 {
        op.disp
            .wrapping_add(self.regs.get(op.base))
            .wrapping_add(self.regs.get(op.index) << op.scale)
    }

    /// Linear address of the memory operand, of which `size` bytes will be read.
    #[inline(always)]
    pub(crate) fn readable_at(&mut self, op: &Op, size: u32) -> Result<VirtAddr, Raised> {
        let offset = self.offset(op);
        if self.flat_reads >> op.seg & 1 != 0 {
            Ok(VirtAddr(offset))
        } else {
            self.checked(op.seg, offset, size, Want::Read)
        }
    }

    /// Linear address of a later part of an operand made of several (far pointers, bounds), `delta`
    /// bytes on. Each part is checked by itself, and 16-bit addresses wrap between them.
    pub(crate) fn readable_part(
        &mut self,
        op: &Op,
        delta: u32,
        size: u32,
    ) -> Result<VirtAddr, Raised> {
        let offset = self.offset(op).wrapping_add(delta);
        if self.flat_reads >> op.seg & 1 != 0 {
            Ok(VirtAddr(offset))
        } else {
            self.checked(op.seg, offset, size, Want::Read)
        }
    }

    /// Linear address of the memory operand, of which `size` bytes will be written.
    #[inline(always)]
    pub(crate) fn writable_at(&mut self, op: &Op, size: u32) -> Result<VirtAddr, Raised> {
        let offset = self.offset(op);
        if self.flat_writes >> op.seg & 1 != 0 {
            Ok(VirtAddr(offset))
        } else {
            self.checked(op.seg, offset, size, Want::Write)
        }
    }

    /// Linear address of an offset in a segment, rights and limit checked.
    #[inline(always)]
    pub(crate) fn linear(
        &mut self,
        seg: Seg,
        offset: u32,
        size: u32,
        want: Want,
    ) -> Result<VirtAddr, Raised> {
        let flat = match want {
            Want::Read => self.flat_reads,
            Want::Write => self.flat_writes,
        };
        if flat >> seg as u8 & 1 != 0 {
            Ok(VirtAddr(offset))
        } else {
            self.checked(seg as u8, offset, size, want)
        }
    }

    /// The long way: `seg` may carry [`ADDR16`].
    #[cold]
    #[inline(never)]
    fn checked(&mut self, seg: u8, offset: u32, size: u32, want: Want) -> Result<VirtAddr, Raised> {
        let offset = if seg & ADDR16 != 0 {
            offset & 0xffff
        } else {
            offset
        };
        let number = usize::from(seg & 7);
        let s = &self.segs[number];
        // Real mode knows no rights, only limits.
        let allowed = self.cr0 & CR0_PE == 0
            || match want {
                Want::Read => s.readable(),
                Want::Write => s.writable(),
            };
        let va = s.base.wrapping_add(offset);
        let (usable, inside) = (s.usable() && allowed, s.contains(offset, size));
        // An access over the end of a flat 4 GiB segment is unaligned first (found on hardware).
        let over_end = s.base == 0 && offset.checked_add(size - 1).is_none();
        let over_end = over_end && s.contains(offset, 1);
        let reached = usable && (inside || over_end);
        if reached && self.checks_alignment() && va & alignment(size) != 0 {
            return Err(self.raise_fault(Fault::with_code(fault::AC, 0)));
        }
        if usable && inside {
            if self.breakpoints_on() {
                self.watch_data(va, size, want);
            }
            return Ok(VirtAddr(va));
        }
        let vector = if number == Seg::Ss as usize {
            fault::SS
        } else {
            fault::GP
        };
        Err(self.raise_fault(Fault::with_code(vector, 0)))
    }

    /// Stores a page fault for delivery.
    #[cold]
    #[inline(never)]
    pub(crate) fn page_fault(&mut self, f: PageFault) -> Raised {
        self.cr2 = f.addr.0;
        self.raise_fault(Fault::with_code(fault::PF, f.code))
    }

    /// #GP with an error code.
    #[cold]
    pub(crate) fn gp(&mut self, code: u32) -> Raised {
        self.raise_fault(Fault::with_code(fault::GP, code))
    }

    /// #UD where selectors name no descriptors: real and virtual-8086 mode.
    #[inline(always)]
    pub(crate) fn need_protected(&mut self) -> Result<(), Raised> {
        if self.protected() {
            Ok(())
        } else {
            Err(self.ud())
        }
    }

    /// A fault whose error code is a selector.
    #[cold]
    pub(crate) fn selector_fault(&mut self, vector: u8, selector: u16) -> Raised {
        self.raise_fault(Fault::with_code(vector, u32::from(selector & !3)))
    }

    /// #UD.
    #[cold]
    pub(crate) fn ud(&mut self) -> Raised {
        self.raise_fault(Fault::plain(fault::UD))
    }

    /// Most system instructions need CPL 0.
    #[inline(always)]
    pub(crate) fn need_cpl0(&mut self) -> Result<(), Raised> {
        if self.cpl == 0 {
            Ok(())
        } else {
            Err(self.gp(0))
        }
    }

    #[inline(always)]
    pub(crate) fn read<W: Word>(&mut self, va: VirtAddr) -> Result<u32, Raised> {
        match self.mmu.read(va, W::SIZE, self.privilege) {
            Ok(v) => Ok(v as u32),
            Err(f) => Err(self.page_fault(f)),
        }
    }

    #[inline(always)]
    pub(crate) fn write<W: Word>(&mut self, va: VirtAddr, value: u32) -> Result<(), Raised> {
        match self
            .mmu
            .write(va, W::SIZE, u64::from(value), self.privilege)
        {
            Ok(()) => Ok(()),
            Err(f) => Err(self.page_fault(f)),
        }
    }

    /// Read-modify-write, which may set flags. Gives the old value.
    #[inline(always)]
    pub(crate) fn modify<W: Word>(
        &mut self,
        va: VirtAddr,
        change: impl FnOnce(&mut Flags, u32) -> Option<u32>,
    ) -> Result<u32, Raised> {
        let flags = &mut self.flags;
        let done = self.mmu.modify(va, W::SIZE, self.privilege, |old| {
            change(flags, old as u32).map(u64::from)
        });
        match done {
            Ok(old) => Ok(old as u32),
            Err(f) => Err(self.page_fault(f)),
        }
    }

    /// Reads the memory operand.
    #[inline(always)]
    pub(crate) fn load<W: Word>(&mut self, op: &Op) -> Result<u32, Raised> {
        let va = self.readable_at(op, u32::from(W::SIZE))?;
        self.read::<W>(va)
    }

    /// Writes the memory operand.
    #[inline(always)]
    pub(crate) fn store<W: Word>(&mut self, op: &Op, value: u32) -> Result<(), Raised> {
        let va = self.writable_at(op, u32::from(W::SIZE))?;
        self.write::<W>(va, value)
    }

    /// ESP (or SP) plus `n`.
    #[inline(always)]
    pub(crate) fn stack_plus(&self, n: u32) -> u32 {
        let esp = self.regs[ESP];
        esp & !self.stack_mask | esp.wrapping_add(n) & self.stack_mask
    }

    #[inline(always)]
    pub(crate) fn push<W: Word>(&mut self, value: u32) -> Result<(), Raised> {
        let size = u32::from(W::SIZE);
        let esp = self.stack_plus(size.wrapping_neg());
        let va = self.linear(Seg::Ss, esp & self.stack_mask, size, Want::Write)?;
        self.write::<W>(va, value)?;
        self.regs[ESP] = esp;
        Ok(())
    }

    /// Reads `n` bytes above the top of the stack without popping.
    #[inline(always)]
    pub(crate) fn peek_stack<W: Word>(&mut self, n: u32) -> Result<u32, Raised> {
        let esp = self.stack_plus(n) & self.stack_mask;
        let va = self.linear(Seg::Ss, esp, u32::from(W::SIZE), Want::Read)?;
        self.read::<W>(va)
    }

    #[inline(always)]
    pub(crate) fn pop<W: Word>(&mut self) -> Result<u32, Raised> {
        let value = self.peek_stack::<W>(0)?;
        self.regs[ESP] = self.stack_plus(u32::from(W::SIZE));
        Ok(value)
    }

    /// An implicit supervisor read of a table or the TSS.
    pub(crate) fn system_read(&mut self, va: u32, size: u8) -> Result<u64, Raised> {
        self.mmu
            .read(VirtAddr(va), size, Privilege::Supervisor)
            .map_err(|f| self.page_fault(f))
    }

    /// The descriptor a selector names and its linear address; `None` outside its table.
    pub(crate) fn descriptor(
        &mut self,
        selector: u16,
    ) -> Result<Option<(Descriptor, u32)>, Raised> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u32::from(self.gdtr.limit))
        } else if self.ldtr.usable() {
            (self.ldtr.base, self.ldtr.limit)
        } else {
            return Ok(None);
        };
        let at = u32::from(selector & !7);
        if at + 7 > limit {
            return Ok(None);
        }
        let va = base.wrapping_add(at);
        Ok(Some((Descriptor(self.system_read(va, 8)?), va)))
    }

    /// Sets the accessed bit (or, with `bit` 2, the busy bit of a TSS) of a descriptor if it is
    /// clear.
    pub(crate) fn set_type_bit(
        &mut self,
        descriptor: Descriptor,
        va: u32,
        bit: u8,
    ) -> Result<Descriptor, Raised> {
        if descriptor.rights() & bit != 0 {
            return Ok(descriptor);
        }
        self.mmu
            .modify(
                VirtAddr(va.wrapping_add(5)),
                1,
                Privilege::Supervisor,
                |old| Some(old | u64::from(bit)),
            )
            .map_err(|f| self.page_fault(f))?;
        Ok(Descriptor(descriptor.0 | u64::from(bit) << 40))
    }
}
