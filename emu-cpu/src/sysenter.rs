//! sysenter and sysexit (SDM vol. 2): flat segments from the MSRs, no tables read.

use crate::cpu::{CR0_PE, Cpu};
use crate::flags::{IF, RF, VM};
use crate::op::{Exec, Out};
use crate::regs::{ECX, EDX, ESP};
use crate::segment::{CODE32, DATA32, Seg, Segment};
use lowmem_cost::{Event, Side};

impl Cpu {
    pub(crate) fn sysenter(&mut self) -> Exec {
        if !self.features.sep {
            return Err(self.ud());
        }
        let selector = self.sysenter.cs as u16 & !3;
        if selector == 0 || self.cr0 & CR0_PE == 0 {
            return Err(self.gp(0));
        }
        self.count(Event::Instructions);
        self.enter_by_sysenter(selector);
        Ok(Out::Far)
    }

    /// What sysenter does once it is allowed; the instruction itself is counted by the caller.
    pub(crate) fn enter_by_sysenter(&mut self, selector: u16) {
        self.mmu.account.set_side(Side::EntryExit);
        self.sides.clear();
        self.count(Event::Sysenter);
        self.other_flags &= !(VM | IF | RF);
        self.segs[Seg::Cs as usize] = Segment::flat(selector, CODE32);
        self.segs[Seg::Ss as usize] = Segment::flat(selector.wrapping_add(8), DATA32);
        self.set_cpl(0);
        self.refresh_segments();
        self.eip = self.sysenter.eip;
        self.regs[ESP] = self.sysenter.esp;
        self.last_loaded = 0;
    }

    pub(crate) fn sysexit(&mut self) -> Exec {
        if !self.features.sep {
            return Err(self.ud());
        }
        let selector = self.sysenter.cs as u16 & !3;
        if selector == 0 || self.cr0 & CR0_PE == 0 || self.cpl != 0 {
            return Err(self.gp(0));
        }
        self.count(Event::Instructions);
        self.count(Event::Sysexit);
        self.segs[Seg::Cs as usize] = Segment::flat(selector.wrapping_add(16) | 3, CODE32 | 0x60);
        self.segs[Seg::Ss as usize] = Segment::flat(selector.wrapping_add(24) | 3, DATA32 | 0x60);
        self.set_cpl(3);
        self.refresh_segments();
        self.eip = self.regs[EDX];
        self.regs[ESP] = self.regs[ECX];
        self.stand_at_user();
        Ok(Out::Far)
    }
}
