//! Debug registers: instruction, data and I/O breakpoints, the general-detect fault, DR6 and DR7
//! (SDM vol. 3, chapter 17.2).
//!
//! While any breakpoint is enabled no segment is taken for flat and no decoded block is used, so
//! the fast path pays nothing for them: every data access comes through the checked way, which asks
//! here, and every instruction through the reference. Implicit accesses to descriptor tables, the
//! TSS and the stack of an interruption are not watched. That is an assumption: the manual does not
//! say whether they match (17.3.1.2), and Linux refuses such breakpoints rather than find out
//! (`within_cpu_entry_area` of arch/x86/kernel/hw_breakpoint.c). Bits B0-B3 are set for
//! enabled breakpoints only. Invariant: what is found waits in `debug_pending` until the instruction
//! has completed, and is dropped when it faults.

use crate::cpu::{CR4_DE, Cpu};
use crate::exec::access::Want;

/// DR6: an instruction accessed a debug register while DR7.GD was set.
pub(crate) const DR6_BD: u32 = 1 << 13;
/// DR6: single step.
pub(crate) const DR6_BS: u32 = 1 << 14;
/// DR6: task switch to a TSS with its T bit set.
pub(crate) const DR6_BT: u32 = 1 << 15;
/// DR7: accesses to debug registers fault.
pub(crate) const DR7_GD: u32 = 1 << 13;
/// DR7: the breakpoint enables, local and global.
const DR7_ENABLES: u32 = 0xff;
/// DR7: the local enables and LE, which a task switch clears.
pub(crate) const DR7_LOCAL: u32 = 0x155;

/// What a breakpoint waits for, the R/W field of DR7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Execute,
    Write,
    Io,
    ReadWrite,
}

impl Cpu {
    /// Any breakpoint is enabled.
    #[inline(always)]
    pub(crate) fn breakpoints_on(&self) -> bool {
        self.dr[7] & DR7_ENABLES != 0
    }

    /// The enabled breakpoints that `wanted` accepts and that overlap `size` bytes at `at`: their
    /// bits in DR6.
    fn hits(&self, at: u32, size: u32, wanted: impl Fn(Watch) -> bool) -> u32 {
        let dr7 = self.dr[7];
        let mut bits = 0;
        for n in 0..4 {
            if dr7 >> (n * 2) & 3 == 0 {
                continue;
            }
            let control = dr7 >> (16 + n * 4);
            let watch = match control & 3 {
                0 => Watch::Execute,
                1 => Watch::Write,
                2 => Watch::Io,
                _ => Watch::ReadWrite,
            };
            // Lengths 1, 2, 8 (here 4: it is undefined on this family) and 4.
            let len = match control >> 2 & 3 {
                0 => 1,
                1 => 2,
                _ => 4,
            };
            let start = self.dr[n as usize] & !(len - 1);
            let overlap = at.wrapping_sub(start) < len || start.wrapping_sub(at) < size;
            if wanted(watch) && overlap {
                bits |= 1 << n;
            }
        }
        bits
    }

    /// An instruction breakpoint at the linear address `at`.
    pub(crate) fn code_breakpoint(&self, at: u32) -> u32 {
        self.hits(at, 1, |w| w == Watch::Execute)
    }

    /// Notes data breakpoints that this access touches.
    pub(crate) fn watch_data(&mut self, at: u32, size: u32, want: Want) {
        let bits = self.hits(at, size, |w| match w {
            Watch::ReadWrite => true,
            Watch::Write => want == Want::Write,
            Watch::Execute | Watch::Io => false,
        });
        self.debug_pending |= bits;
    }

    /// Notes I/O breakpoints that this port access touches.
    pub(crate) fn watch_port(&mut self, port: u16, size: u8) {
        if self.breakpoints_on() && self.cr4 & CR4_DE != 0 {
            let bits = self.hits(u32::from(port), u32::from(size), |w| w == Watch::Io);
            self.debug_pending |= bits;
        }
    }

    /// mov to DR6 and DR7 leaves the reserved bits what they are.
    pub(crate) fn set_debug_register(&mut self, number: usize, value: u32) {
        self.dr[number] = match number {
            6 => value & 0xe00f | 0xffff_0ff0,
            7 => value & !0xd000 | 0x400,
            _ => value,
        };
        self.refresh_segments();
    }
}
