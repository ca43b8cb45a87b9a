//! The state after RESET# (SDM vol. 3, table 9-1): real mode, CS F000 with base FFFF0000, EIP FFF0.
//!
//! What the manual leaves undefined is zero. Caches and TLBs are empty; the counts of a run go on,
//! only the time-stamp counter starts from 0. Invariant: two CPUs that were reset execute alike,
//! whatever they did before.

use crate::cpu::{CR0_CD, CR0_ET, CR0_NW, Cpu};
use crate::exec::control::SIGNATURE;
use crate::regs::{EDX, Regs};
use crate::segment::{Seg, Segment, TableRegister};
use emu_mmu::Mmu;
use lowmem_cost::Geometry;

/// Offset of the first instruction after a reset; its linear address is FFFFFFF0.
const RESET_EIP: u32 = 0xfff0;

impl Cpu {
    /// A CPU in its reset state. The geometry must be the MMU's.
    pub fn at_reset(mmu: Mmu, geometry: &Geometry) -> Cpu {
        let mut cpu = Cpu::new(mmu, geometry);
        cpu.reset();
        cpu
    }

    /// Puts the CPU into its reset state: what the RESET# line, a triple fault's shutdown on a PC
    /// or the keyboard controller do. Counts and memory stay.
    pub fn reset(&mut self) {
        let data = Segment {
            selector: 0,
            base: 0,
            limit: 0xffff,
            access: 0x93,
        };
        let cr0 = CR0_CD | CR0_NW | CR0_ET;
        self.mmu
            .set_cr0(cr0)
            .expect("turning paging off loads no table");
        self.cr0 = cr0;
        self.set_control(cr0, 0, 0, 0)
            .expect("with paging off no table is loaded");
        self.mmu.reset_state();
        self.regs = Regs::default();
        self.regs[EDX] = SIGNATURE;
        self.cr2 = 0;
        self.dr = [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400];
        self.sysenter = Default::default();
        self.gdtr = TableRegister {
            base: 0,
            limit: 0xffff,
        };
        self.idtr = self.gdtr;
        self.ldtr = Segment {
            access: 0x82,
            ..data
        };
        self.tr = Segment {
            access: 0x8b,
            ..data
        };
        self.segs = [data; 6];
        self.segs[Seg::Cs as usize] = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            ..data
        };
        self.set_cpl(0);
        self.set_eflags(2);
        self.refresh_segments();
        self.eip = RESET_EIP;
        self.tsc_offset = self.retired().wrapping_neg();
        self.last_loaded = 0;
        self.halted = false;
        self.at_point = true;
        self.broke_at = None;
        self.fault = None;
        self.sides.clear();
        self.reset_interrupts();
    }
}
