//! Task switches through TSS descriptors and task gates (SDM vol. 3, chapter 7).
//!
//! The old task is saved and the new one's image read before anything changes, so that a page fault
//! there restarts the instruction. From then on the CPU is in the new task: what fails while its
//! segments are loaded is an exception of the new task, with the segments not yet loaded unusable.
//! Writes of the images are supervisor accesses. A 16-bit TSS leaves FS and GS null and the upper
//! halves of the registers all ones, as the 386 does. Invariant: exactly the running task and those
//! on its chain of back links are busy.

use crate::cpu::{CR0_PG, CR0_TS, Cpu};
use crate::debug::{DR6_BT, DR7_LOCAL};
use crate::fault::{self, Raised};
use crate::flags::{NT, VM};
use crate::load::BUSY;
use crate::segment::{Seg, Segment};
use emu_mmu::{Cr3Load, Privilege, VirtAddr};
use lowmem_cost::Side;

/// How the new task is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    /// The old task ends to be busy.
    Jump,
    /// A call or an interruption: the new task is nested in the old one.
    Call,
    /// iret with NT set.
    Return,
}

/// Where the old task goes on, and with which flags.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    pub(crate) eip: u32,
    pub(crate) flags: u32,
}

/// What a TSS says of a task, whatever its width.
#[derive(Debug, Clone, Copy, Default)]
struct Image {
    cr3: u32,
    eip: u32,
    flags: u32,
    regs: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    segments: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// Offsets of a TSS of one width.
#[derive(Debug)]
struct Layout {
    /// Bytes of a register slot.
    word: u8,
    /// Highest byte that must lie inside the limit.
    last: u32,
    eip: u32,
    segments: u32,
    segment_count: u32,
    ldt: u32,
}

const LAYOUT16: Layout = Layout {
    word: 2,
    last: 0x2b,
    eip: 0xe,
    segments: 0x22,
    segment_count: 4,
    ldt: 0x2a,
};
const LAYOUT32: Layout = Layout {
    word: 4,
    last: 0x67,
    eip: 0x20,
    segments: 0x48,
    segment_count: 6,
    ldt: 0x60,
};
const CR3_AT: u32 = 0x1c;
const TRAP_AT: u32 = 0x64;

fn layout(access: u16) -> &'static Layout {
    if access & 8 != 0 {
        &LAYOUT32
    } else {
        &LAYOUT16
    }
}

impl Cpu {
    /// Switches to the task of `selector`, which the caller has found to be a TSS of the right kind.
    pub(crate) fn task_switch(
        &mut self,
        selector: u16,
        how: Switch,
        resume: Resume,
        ext: u32,
    ) -> Result<(), Raised> {
        let code = u32::from(selector & !3) | ext;
        let Some((descriptor, at)) = self.descriptor(selector)? else {
            return self.fail(fault::TS, code);
        };
        let new = descriptor.segment(selector);
        let to = layout(new.access);
        if new.limit < to.last {
            return self.fail(fault::TS, code);
        }
        let old = self.tr;
        let from = layout(old.access);
        if !old.usable() || old.limit < from.last {
            return self.fail(fault::TS, u32::from(old.selector & !3) | ext);
        }
        let image = self.read_image(new.base, to)?;
        self.foresee_writes(old, from, new, how)?;

        let flags = match how {
            Switch::Return => resume.flags & !NT,
            Switch::Jump | Switch::Call => resume.flags,
        };
        self.write_image(old.base, from, resume.eip, flags)?;
        if how != Switch::Call
            && let Some((_, at)) = self.descriptor(old.selector)?
        {
            self.change_busy(at, false)?;
        }
        if how != Switch::Return {
            self.change_busy(at, true)?;
        }
        if how == Switch::Call {
            self.system_write(new.base, 2, u32::from(old.selector))?;
        }
        let busy = Segment {
            access: new.access | u16::from(BUSY),
            ..new
        };
        self.enter_task(busy, &image, how, ext)
    }

    /// The new task runs from here on.
    fn enter_task(
        &mut self,
        tss: Segment,
        image: &Image,
        how: Switch,
        ext: u32,
    ) -> Result<(), Raised> {
        let was_user = self.cpl == 3;
        self.tr = tss;
        self.cr0 |= CR0_TS;
        let set = self.mmu.set_cr0(self.cr0);
        self.accepted(set)?;
        self.dr[7] &= !DR7_LOCAL;
        if image.trap {
            self.debug_pending |= DR6_BT;
        }
        for (n, &value) in (0..8).zip(&image.regs) {
            self.regs.set(n, value);
        }
        self.eip = image.eip;
        let nested = if how == Switch::Call { NT } else { 0 };
        self.set_eflags(image.flags | nested);
        for (seg, &selector) in Seg::ALL.into_iter().zip(&image.segments) {
            self.segs[seg as usize] = Segment {
                selector,
                ..Segment::default()
            };
        }
        self.ldtr = Segment {
            selector: image.ldt,
            ..Segment::default()
        };
        let virtual_8086 = image.flags & VM != 0;
        let cpl = if virtual_8086 {
            3
        } else {
            (image.segments[Seg::Cs as usize] & 3) as u8
        };
        self.set_cpl(cpl);
        self.refresh_segments();
        if cpl == 3 {
            self.stand_at_user();
        } else if was_user {
            self.mmu.account.set_side(Side::EntryExit);
        }
        if layout(tss.access).word == 4 && self.cr0 & CR0_PG != 0 {
            let loaded = self.mmu.set_cr3(image.cr3, Cr3Load::Other);
            self.accepted(loaded)?;
            self.cr3 = image.cr3;
        }
        self.load_task_ldt(image.ldt, ext)?;
        if virtual_8086 {
            for (seg, &selector) in Seg::ALL.into_iter().zip(&image.segments) {
                self.set_plain_segment(seg, selector);
            }
        } else {
            self.load_task_code(image.segments[Seg::Cs as usize], ext)?;
            for seg in [Seg::Ss, Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
                self.load_task_data(seg, image.segments[seg as usize], ext)?;
            }
        }
        self.refresh_segments();
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16, ext: u32) -> Result<(), Raised> {
        if selector & !3 == 0 {
            return Ok(());
        }
        let found = match selector & 4 {
            0 => self.descriptor(selector)?,
            _ => None,
        };
        match found {
            Some((d, _)) if d.system_type() == Some(2) && d.present() => {
                self.ldtr = d.segment(selector);
                Ok(())
            }
            _ => self.fail(fault::TS, u32::from(selector & !3) | ext),
        }
    }

    fn load_task_code(&mut self, selector: u16, ext: u32) -> Result<(), Raised> {
        let code = u32::from(selector & !3) | ext;
        let found = match selector & !3 {
            0 => None,
            _ => self.descriptor(selector)?,
        };
        let Some((d, at)) = found else {
            return self.fail(fault::TS, code);
        };
        let level = if d.is_conforming() {
            d.dpl() <= self.cpl
        } else {
            d.dpl() == self.cpl
        };
        if !d.is_code() || !level {
            return self.fail(fault::TS, code);
        }
        if !d.present() {
            return self.fail(fault::NP, code);
        }
        let d = self.set_type_bit(d, at, 1)?;
        self.segs[Seg::Cs as usize] = d.segment(selector);
        self.refresh_segments();
        Ok(())
    }

    fn load_task_data(&mut self, seg: Seg, selector: u16, ext: u32) -> Result<(), Raised> {
        let code = u32::from(selector & !3) | ext;
        if selector & !3 == 0 {
            if seg == Seg::Ss {
                return self.fail(fault::TS, code);
            }
            return Ok(());
        }
        let Some((d, at)) = self.descriptor(selector)? else {
            return self.fail(fault::TS, code);
        };
        let rpl = (selector & 3) as u8;
        let allowed = if seg == Seg::Ss {
            d.is_writable_data() && d.dpl() == self.cpl && rpl == self.cpl
        } else {
            d.is_readable() && (d.is_conforming() || (d.dpl() >= self.cpl && d.dpl() >= rpl))
        };
        if !allowed {
            return self.fail(fault::TS, code);
        }
        if !d.present() {
            let vector = if seg == Seg::Ss { fault::SS } else { fault::NP };
            return self.fail(vector, code);
        }
        let d = self.set_type_bit(d, at, 1)?;
        self.segs[seg as usize] = d.segment(selector);
        self.refresh_segments();
        Ok(())
    }

    fn read_image(&mut self, base: u32, l: &Layout) -> Result<Image, Raised> {
        let word = u32::from(l.word);
        let mut image = Image::default();
        let mut read = |at: u32, size: u8| self.system_read(base.wrapping_add(at), size);
        image.eip = read(l.eip, l.word)? as u32;
        image.flags = read(l.eip + word, l.word)? as u32;
        for (n, slot) in (0..).zip(&mut image.regs) {
            *slot = read(l.eip + (2 + n) * word, l.word)? as u32;
            if l.word == 2 {
                *slot |= 0xffff_0000;
            }
        }
        for (n, slot) in (0..l.segment_count).zip(&mut image.segments) {
            *slot = read(l.segments + n * word, 2)? as u16;
        }
        image.ldt = read(l.ldt, 2)? as u16;
        if l.word == 4 {
            image.cr3 = read(CR3_AT, 4)? as u32;
            image.trap = read(TRAP_AT, 2)? & 1 != 0;
        }
        Ok(image)
    }

    /// Faults now if a later write would.
    fn foresee_writes(
        &mut self,
        old: Segment,
        from: &Layout,
        new: Segment,
        how: Switch,
    ) -> Result<(), Raised> {
        let last = from.segments + (from.segment_count - 1) * u32::from(from.word) + 1;
        let mut places = vec![
            old.base.wrapping_add(from.eip),
            old.base.wrapping_add(last),
            self.gdtr
                .base
                .wrapping_add(u32::from(old.selector & !7) + 5),
            self.gdtr
                .base
                .wrapping_add(u32::from(new.selector & !7) + 5),
        ];
        if how == Switch::Call {
            places.extend([new.base, new.base.wrapping_add(1)]);
        }
        for at in places {
            self.mmu
                .probe_write(VirtAddr(at), 1, Privilege::Supervisor)
                .map_err(|f| self.page_fault(f))?;
        }
        Ok(())
    }

    fn write_image(&mut self, base: u32, l: &Layout, eip: u32, flags: u32) -> Result<(), Raised> {
        let word = u32::from(l.word);
        self.system_write(base.wrapping_add(l.eip), l.word, eip)?;
        self.system_write(base.wrapping_add(l.eip + word), l.word, flags)?;
        for n in 0..8 {
            let value = self.regs.get(n);
            let at = l.eip + (2 + u32::from(n)) * word;
            self.system_write(base.wrapping_add(at), l.word, value)?;
        }
        for n in 0..l.segment_count {
            let value = u32::from(self.segs[n as usize].selector);
            self.system_write(base.wrapping_add(l.segments + n * word), 2, value)?;
        }
        Ok(())
    }

    fn change_busy(&mut self, descriptor_at: u32, busy: bool) -> Result<(), Raised> {
        let bit = u64::from(BUSY);
        self.mmu
            .modify(
                VirtAddr(descriptor_at.wrapping_add(5)),
                1,
                Privilege::Supervisor,
                |old| Some(if busy { old | bit } else { old & !bit }),
            )
            .map_err(|f| self.page_fault(f))?;
        Ok(())
    }

    fn system_write(&mut self, va: u32, size: u8, value: u32) -> Result<(), Raised> {
        self.mmu
            .write(VirtAddr(va), size, u64::from(value), Privilege::Supervisor)
            .map_err(|f| self.page_fault(f))
    }
}
