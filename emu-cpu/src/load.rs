//! Loading of segment registers, LDTR and TR (SDM vol. 2, MOV, POP, LLDT, LTR).
//!
//! In protected mode from descriptors, with the checks in the manual's order and exact error codes;
//! in real and virtual-8086 mode from the selector alone. A load in real mode keeps limit and
//! rights, so "unreal" mode works. Invariant: a load that faults has changed no register.

use crate::cpu::Cpu;
use crate::fault::{self, Raised};
use crate::segment::{Descriptor, Seg, Segment};

/// Rights of a segment loaded in real mode: present, writable data, accessed.
const REAL: u16 = 0x93;
/// The same at DPL 3, as virtual-8086 mode has it.
const V86: u16 = 0xf3;

/// Descriptor types of LDT and TSS.
const LDT: u8 = 2;
pub(crate) const TSS16: u8 = 1;
pub(crate) const TSS32: u8 = 9;
/// Bit of a TSS's type that says busy.
pub(crate) const BUSY: u8 = 2;

impl Cpu {
    /// mov, pop, lds ... to a segment register other than CS.
    pub(crate) fn load_segment(&mut self, seg: Seg, selector: u16) -> Result<(), Raised> {
        if seg == Seg::Cs {
            return Err(self.ud());
        }
        if !self.protected() {
            self.set_plain_segment(seg, selector);
            self.refresh_segments();
            return Ok(());
        }
        let loaded = if selector & !3 != 0 {
            self.data_segment(seg, selector)?
        } else if seg == Seg::Ss {
            return Err(self.gp(0));
        } else {
            Segment {
                selector,
                ..Segment::default()
            }
        };
        self.segs[seg as usize] = loaded;
        self.refresh_segments();
        Ok(())
    }

    fn data_segment(&mut self, seg: Seg, selector: u16) -> Result<Segment, Raised> {
        let rpl = (selector & 3) as u8;
        let Some((d, at)) = self.descriptor(selector)? else {
            return Err(self.selector_fault(fault::GP, selector));
        };
        let allowed = if seg == Seg::Ss {
            rpl == self.cpl && d.dpl() == self.cpl && d.is_writable_data()
        } else {
            d.is_readable() && (d.is_conforming() || (d.dpl() >= rpl && d.dpl() >= self.cpl))
        };
        if !allowed {
            return Err(self.selector_fault(fault::GP, selector));
        }
        if !d.present() {
            let vector = if seg == Seg::Ss { fault::SS } else { fault::NP };
            return Err(self.selector_fault(vector, selector));
        }
        Ok(self.set_type_bit(d, at, 1)?.segment(selector))
    }

    /// Real and virtual-8086 mode: the base is sixteen times the selector. The caller refreshes
    /// what derives from segments.
    pub(crate) fn set_plain_segment(&mut self, seg: Seg, selector: u16) {
        let virtual_8086 = self.v86();
        let s = &mut self.segs[seg as usize];
        s.selector = selector;
        s.base = u32::from(selector) << 4;
        if virtual_8086 {
            s.limit = 0xffff;
            s.access = V86;
        } else if !s.usable() {
            s.limit = 0xffff;
            s.access = REAL;
        } else if seg == Seg::Cs {
            // Code in real mode may be written: its rights become data's.
            s.access = s.access & 0xf000 | REAL;
        }
    }

    /// lldt.
    pub(crate) fn load_ldt(&mut self, selector: u16) -> Result<(), Raised> {
        if selector & !3 == 0 {
            self.ldtr = Segment {
                selector,
                ..Segment::default()
            };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(self.selector_fault(fault::GP, selector));
        }
        match self.descriptor(selector)? {
            Some((d, _)) if d.system_type() == Some(LDT) => {
                if !d.present() {
                    return Err(self.selector_fault(fault::NP, selector));
                }
                self.ldtr = d.segment(selector);
                Ok(())
            }
            _ => Err(self.selector_fault(fault::GP, selector)),
        }
    }

    /// ltr: an available TSS, which becomes busy.
    pub(crate) fn load_task(&mut self, selector: u16) -> Result<(), Raised> {
        if selector & !3 == 0 {
            return Err(self.gp(0));
        }
        if selector & 4 != 0 {
            return Err(self.selector_fault(fault::GP, selector));
        }
        match self.descriptor(selector)? {
            Some((d, at)) if matches!(d.system_type(), Some(TSS16 | TSS32)) => {
                if !d.present() {
                    return Err(self.selector_fault(fault::NP, selector));
                }
                let d = self.set_type_bit(d, at, BUSY)?;
                self.tr = d.segment(selector);
                Ok(())
            }
            _ => Err(self.selector_fault(fault::GP, selector)),
        }
    }

    /// Last checks of a code segment that control goes to: the offset inside its limit; it becomes
    /// accessed.
    pub(crate) fn checked_code(
        &mut self,
        d: Descriptor,
        at: u32,
        selector: u16,
        offset: u32,
    ) -> Result<Segment, Raised> {
        if offset > d.segment(selector).limit {
            return Err(self.gp(0));
        }
        Ok(self.set_type_bit(d, at, 1)?.segment(selector))
    }
}
