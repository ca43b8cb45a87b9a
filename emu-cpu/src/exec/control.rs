//! Control and debug registers, MSRs, and what CPUID tells of them.
//!
//! The CPU checks what makes a load #GP; flushes, PDPTE loads and the paging modes are the MMU's. Leaving protected
//! mode is not modelled: it answers #GP(0).

use crate::cpu::{
    CR0_AM, CR0_CD, CR0_EM, CR0_ET, CR0_MP, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_DE,
    CR4_PAE, CR4_PCE, CR4_PGE, CR4_PSE, CR4_TSD, Cpu, EFER_NXE,
};
use crate::debug::{DR6_BD, DR7_GD};
use crate::fault::{self, Fault, Raised};
use crate::flags::RF;
use crate::op::{Exec, Op, Out};
use crate::regs::{EAX, EBX, ECX, EDX};
use emu_mmu::{ControlError, Cr3Load};

/// Bits of CR0 that exist.
const CR0_ALL: u32 = CR0_PE
    | CR0_MP
    | CR0_EM
    | CR0_TS
    | CR0_ET
    | CR0_NE
    | CR0_WP
    | CR0_AM
    | CR0_NW
    | CR0_CD
    | CR0_PG;
/// CR4.OSFXSR and OSXMMEXCPT: stored without effect.
const CR4_FX: u32 = 3 << 9;

/// What CPUID leaf 1 and EDX after a reset say: family 6 model 11 stepping 1.
pub(crate) const SIGNATURE: u32 = 0x6b1;

/// IA32_TIME_STAMP_COUNTER.
const MSR_TSC: u32 = 0x10;
const MSR_SYSENTER_CS: u32 = 0x174;
const MSR_SYSENTER_ESP: u32 = 0x175;
const MSR_SYSENTER_EIP: u32 = 0x176;
const MSR_EFER: u32 = 0xc000_0080;

pub(crate) fn from_cr(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.need_cpl0()?;
    let v = match op.r2 {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        _ => return Err(cpu.ud()),
    };
    cpu.regs.set(op.r1, v);
    Ok(Out::Next)
}

pub(crate) fn to_cr(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.need_cpl0()?;
    let v = cpu.regs.get(op.r2);
    match op.r1 {
        0 => cpu.load_cr0(v)?,
        2 => cpu.cr2 = v,
        3 => cpu.load_cr3(v)?,
        4 => cpu.load_cr4(v)?,
        _ => return Err(cpu.ud()),
    }
    Ok(Out::Serial)
}

pub(crate) fn from_dr(cpu: &mut Cpu, op: &Op) -> Exec {
    let n = debug_register(cpu, op.r2)?;
    let v = cpu.dr[n];
    cpu.regs.set(op.r1, v);
    Ok(Out::Next)
}
pub(crate) fn to_dr(cpu: &mut Cpu, op: &Op) -> Exec {
    let n = debug_register(cpu, op.r1)?;
    let v = cpu.regs.get(op.r2);
    cpu.set_debug_register(n, v);
    Ok(Out::Serial)
}
/// DR4 and DR5 are other names of DR6 and DR7, or #UD with CR4.DE. With DR7.GD set every access is
/// a #DB.
fn debug_register(cpu: &mut Cpu, number: u8) -> Result<usize, Raised> {
    if matches!(number, 4 | 5) && cpu.cr4 & CR4_DE != 0 {
        return Err(cpu.ud());
    }
    cpu.need_cpl0()?;
    if cpu.dr[7] & DR7_GD != 0 {
        cpu.dr[6] |= DR6_BD;
        // A fault, but no instruction breakpoint: the handler's iret goes on behind this.
        cpu.other_flags |= RF;
        return Err(cpu.raise_fault(Fault::plain(fault::DB)));
    }
    Ok(match number {
        4 | 5 => usize::from(number) + 2,
        n => usize::from(n & 7),
    })
}

impl Cpu {
    pub(crate) fn accepted(&mut self, result: Result<(), ControlError>) -> Result<(), Raised> {
        match result {
            Ok(()) => Ok(()),
            Err(ControlError::GeneralProtection) => Err(self.gp(0)),
        }
    }

    pub(crate) fn load_cr0(&mut self, new: u32) -> Result<(), Raised> {
        let new = new & CR0_ALL | CR0_ET;
        let pg_without_pe = new & CR0_PG != 0 && new & CR0_PE == 0;
        let nw_without_cd = new & CR0_NW != 0 && new & CR0_CD == 0;
        if pg_without_pe || nw_without_cd {
            return Err(self.gp(0));
        }
        let loaded = self.mmu.set_cr0(new);
        self.accepted(loaded)?;
        self.cr0 = new;
        self.refresh_segments();
        Ok(())
    }

    fn load_cr3(&mut self, new: u32) -> Result<(), Raised> {
        let at = self.segs[1].base.wrapping_add(self.eip);
        let why = if self.trampoline.contains(&at) {
            Cr3Load::Split
        } else {
            Cr3Load::Other
        };
        let loaded = self.mmu.set_cr3(new, why);
        self.accepted(loaded)?;
        self.cr3 = new;
        Ok(())
    }

    fn load_cr4(&mut self, new: u32) -> Result<(), Raised> {
        let mut exist = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PCE | CR4_FX;
        if self.features.pge {
            exist |= CR4_PGE;
        }
        if new & !exist != 0 {
            return Err(self.gp(0));
        }
        let loaded = self.mmu.set_cr4(new);
        self.accepted(loaded)?;
        self.cr4 = new;
        Ok(())
    }

    /// Time-stamp counter: retired instructions, so that it depends on nothing but the run (D4).
    pub(crate) fn tsc(&self) -> u64 {
        self.retired.wrapping_add(self.tsc_offset)
    }

    pub(crate) fn read_msr(&mut self) -> Result<(), Raised> {
        let v = match self.regs[ECX] {
            MSR_TSC => self.tsc(),
            MSR_SYSENTER_CS if self.features.sep => u64::from(self.sysenter.cs),
            MSR_SYSENTER_ESP if self.features.sep => u64::from(self.sysenter.esp),
            MSR_SYSENTER_EIP if self.features.sep => u64::from(self.sysenter.eip),
            MSR_EFER if self.features.nx => u64::from(self.efer),
            _ => return Err(self.gp(0)),
        };
        self.regs[EDX] = (v >> 32) as u32;
        self.regs[EAX] = v as u32;
        Ok(())
    }

    pub(crate) fn write_msr(&mut self) -> Result<(), Raised> {
        let (low, high) = (self.regs[EAX], self.regs[EDX]);
        match self.regs[ECX] {
            MSR_TSC => {
                let v = u64::from(high) << 32 | u64::from(low);
                self.tsc_offset = v.wrapping_sub(self.retired);
            }
            MSR_SYSENTER_CS if self.features.sep => self.sysenter.cs = low,
            MSR_SYSENTER_ESP if self.features.sep => self.sysenter.esp = low,
            MSR_SYSENTER_EIP if self.features.sep => self.sysenter.eip = low,
            MSR_EFER if self.features.nx => {
                if high != 0 || low & !EFER_NXE != 0 {
                    return Err(self.gp(0));
                }
                self.mmu.set_efer(low);
                self.efer = low;
            }
            _ => return Err(self.gp(0)),
        }
        Ok(())
    }

    /// Leaves 0, 1 and the extended ones; family 6 model 11 stepping 1 (the Tualatin of the default
    /// geometry) for all geometries.
    pub(crate) fn identify(&mut self) {
        let bit = |on: bool, n: u32| u32::from(on) << n;
        let f = self.features;
        let word = |s: &[u8; 4]| u32::from_le_bytes(*s);
        let [a, b, c, d] = match self.regs[EAX] {
            0 => [1, word(b"Lowm"), word(b"AE  "), word(b"em P")],
            1 => {
                // DE, PSE, TSC, MSR, PAE, CX8, CMOV; SEP and PGE where they exist.
                let d = bit(true, 2)
                    | bit(true, 3)
                    | bit(true, 4)
                    | bit(true, 5)
                    | bit(true, 6)
                    | bit(true, 8)
                    | bit(f.sep, 11)
                    | bit(f.pge, 13)
                    | bit(true, 15);
                [SIGNATURE, 0, 0, d]
            }
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            0x8000_0001 => [0, 0, 0, bit(f.nx, 20)],
            0x8000_0008 => [u32::from(f.maxphyaddr) | 32 << 8, 0, 0, 0],
            _ => [0; 4],
        };
        self.regs[EAX] = a;
        self.regs[EBX] = b;
        self.regs[ECX] = c;
        self.regs[EDX] = d;
    }
}
