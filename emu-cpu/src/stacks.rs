//! A stack that control is about to be switched to: the inner stacks of the TSS, and pushes on a
//! stack that is not SS:ESP yet.
//!
//! Invariant: nothing of the CPU changes before [`Cpu::switch_stack`]; a push that faults has
//! written memory at most.

use crate::cpu::Cpu;
use crate::fault::{self, Fault, Raised};
use crate::load::TSS32;
use crate::regs::ESP;
use crate::segment::{Seg, Segment};
use emu_mmu::{Privilege, VirtAddr};

/// SS and ESP to be, and how pushes on them are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) segment: Segment,
    pub(crate) esp: u32,
    /// Error code of a #SS.
    pub(crate) code: u32,
    /// Bytes of a word: 2 or 4.
    pub(crate) word: u8,
    pub(crate) rights: Privilege,
}

impl Stack {
    fn mask(&self) -> u32 {
        if self.segment.is_32bit() {
            u32::MAX
        } else {
            0xffff
        }
    }
}

impl Cpu {
    /// The stack in use, for pushes of `word` bytes.
    pub(crate) fn current_stack(&self, word: u8, ext: u32) -> Stack {
        Stack {
            segment: self.segs[Seg::Ss as usize],
            esp: self.regs[ESP],
            code: ext,
            word,
            rights: self.privilege,
        }
    }

    pub(crate) fn push_on(&mut self, stack: &mut Stack, value: u32) -> Result<(), Raised> {
        let size = u32::from(stack.word);
        let mask = stack.mask();
        let offset = stack.esp.wrapping_sub(size) & mask;
        if !stack.segment.usable() || !stack.segment.contains(offset, size) {
            return Err(self.raise_fault(Fault::with_code(fault::SS, stack.code)));
        }
        let va = VirtAddr(stack.segment.base.wrapping_add(offset));
        self.mmu
            .write(va, stack.word, u64::from(value), stack.rights)
            .map_err(|f| self.page_fault(f))?;
        stack.esp = stack.esp & !mask | offset;
        Ok(())
    }

    /// Takes over the stack. A 16-bit one leaves the upper half of ESP.
    pub(crate) fn switch_stack(&mut self, stack: &Stack) {
        let mask = stack.mask();
        self.segs[Seg::Ss as usize] = stack.segment;
        self.regs[ESP] = self.regs[ESP] & !mask | stack.esp & mask;
    }

    /// The stack of a more privileged level, from the TSS.
    pub(crate) fn inner_stack(&mut self, cpl: u8, word: u8, ext: u32) -> Result<Stack, Raised> {
        let tr = self.tr;
        let level = u32::from(cpl);
        let wide = tr.access & u16::from(TSS32 & 8) != 0;
        let (at, last) = if wide {
            (4 + 8 * level, 5)
        } else {
            (2 + 4 * level, 3)
        };
        if !tr.usable() || at + last > tr.limit {
            return self.fail(fault::TS, u32::from(tr.selector & !3) | ext);
        }
        let at = tr.base.wrapping_add(at);
        let (esp, ss) = if wide {
            (self.system_read(at, 4)?, at.wrapping_add(4))
        } else {
            (self.system_read(at, 2)?, at.wrapping_add(2))
        };
        let selector = self.system_read(ss, 2)? as u16;
        let code = u32::from(selector & !3) | ext;
        if selector & !3 == 0 {
            return self.fail(fault::TS, ext);
        }
        let Some((descriptor, va)) = self.descriptor(selector)? else {
            return self.fail(fault::TS, code);
        };
        if selector & 3 != u16::from(cpl)
            || descriptor.dpl() != cpl
            || !descriptor.is_writable_data()
        {
            return self.fail(fault::TS, code);
        }
        if !descriptor.present() {
            return self.fail(fault::SS, code);
        }
        let descriptor = self.set_type_bit(descriptor, va, 1)?;
        Ok(Stack {
            segment: descriptor.segment(selector),
            esp: esp as u32,
            code,
            word,
            rights: Privilege::Supervisor,
        })
    }

    pub(crate) fn fail<T>(&mut self, vector: u8, code: u32) -> Result<T, Raised> {
        Err(self.raise_fault(Fault::with_code(vector, code)))
    }
}
