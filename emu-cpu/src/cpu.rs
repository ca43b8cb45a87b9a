//! The CPU's state, and how the machine around it reads and sets it.
//!
//! Derived state (privilege, flat segments) is kept next to what it derives from and refreshed by
//! every setter; that is why segment and control registers are behind functions. Invariant:
//! `flat_reads`/`flat_writes` have a bit set exactly for segments where no check can fail.

use crate::engine::blocks::{FetchKind, FetchShape};
use crate::exit::Dump;
use crate::fault::{Fault, Raised};
use crate::flags::{self, Flags};
use crate::predict::Predictor;
use crate::regs::Regs;
use crate::segment::{CODE32, DATA32, Seg, Segment, TableRegister};
use crate::tick::Interrupts;
use crate::user::UserState;
use emu_mmu::{ControlError, Cr3Load, Mmu, PhysError, Privilege};
use lowmem_cost::geometry::FrontEnd;
use lowmem_cost::{Event, Geometry, Side};
use std::collections::BTreeSet;
use std::ops::Range;

/// CR0.PE.
pub const CR0_PE: u32 = 1 << 0;
/// CR0.MP.
pub const CR0_MP: u32 = 1 << 1;
/// CR0.EM.
pub const CR0_EM: u32 = 1 << 2;
/// CR0.TS.
pub const CR0_TS: u32 = 1 << 3;
/// CR0.ET, always one.
pub const CR0_ET: u32 = 1 << 4;
/// CR0.NE.
pub const CR0_NE: u32 = 1 << 5;
/// CR0.WP.
pub const CR0_WP: u32 = 1 << 16;
/// CR0.AM.
pub const CR0_AM: u32 = 1 << 18;
/// CR0.NW.
pub const CR0_NW: u32 = 1 << 29;
/// CR0.CD.
pub const CR0_CD: u32 = 1 << 30;
/// CR0.PG.
pub const CR0_PG: u32 = 1 << 31;
/// CR4.DE.
pub const CR4_DE: u32 = 1 << 3;
/// CR4.TSD.
pub const CR4_TSD: u32 = 1 << 2;
/// CR4.PSE.
pub const CR4_PSE: u32 = 1 << 4;
/// CR4.PAE.
pub const CR4_PAE: u32 = 1 << 5;
/// CR4.PGE.
pub const CR4_PGE: u32 = 1 << 7;
/// CR4.PCE.
pub const CR4_PCE: u32 = 1 << 8;
/// EFER.NXE.
pub const EFER_NXE: u32 = 1 << 11;

/// The MSRs of sysenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SysenterMsrs {
    /// IA32_SYSENTER_CS (174h).
    pub cs: u32,
    /// IA32_SYSENTER_ESP (175h).
    pub esp: u32,
    /// IA32_SYSENTER_EIP (176h).
    pub eip: u32,
}

/// What of the geometry the CPU itself needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    pub(crate) nx: bool,
    pub(crate) pge: bool,
    pub(crate) sep: bool,
    pub(crate) maxphyaddr: u8,
    /// Bytes of an L1D line.
    pub(crate) data_line: u32,
    pub(crate) fetch: FetchShape,
}

/// A 32-bit x86 CPU.
#[derive(Debug)]
pub struct Cpu {
    /// General registers.
    pub regs: Regs,
    /// Offset of the next instruction in CS. At CPL 3 with a trace source: the address of the last
    /// fetch.
    pub eip: u32,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
    /// LDTR with its hidden part.
    pub ldtr: Segment,
    /// TR with its hidden part.
    pub tr: Segment,
    /// CR2.
    pub cr2: u32,
    /// Debug registers. After writing DR7 from outside, [`Cpu::run`] sees it.
    pub dr: [u32; 8],
    /// The MSRs of sysenter.
    pub sysenter: SysenterMsrs,
    /// Added to the count of retired instructions by rdtsc, which so depends on nothing but the
    /// run.
    pub tsc_offset: u64,
    /// The 8-byte NOP `0F 1F 84 00` with 0x4C4D in its upper displacement half is a probe (D10).
    pub probes: bool,
    /// Execution stops before an instruction whose linear address is in here (slow while not empty).
    pub breakpoints: BTreeSet<u32>,
    /// Memory, TLBs, caches, account.
    pub mmu: Mmu,

    pub(crate) flags: Flags,
    /// EFLAGS without the arithmetic flags; bit 1 is set.
    pub(crate) other_flags: u32,
    /// How often IF was set: tells the watchdog that interrupts were on in between.
    pub(crate) if_sets: u64,
    pub(crate) segs: [Segment; 6],
    pub(crate) flat_reads: u32,
    pub(crate) flat_writes: u32,
    /// The part of ESP that the stack uses: all, or 16 bits.
    pub(crate) stack_mask: u32,
    /// Highest EIP.
    pub(crate) code_limit: u32,
    /// Debug conditions (bits of DR6) that trap when the instruction has completed.
    pub(crate) debug_pending: u32,
    /// The last instruction loaded SS: no debug exception before the next one has completed.
    pub(crate) debug_shadow: bool,
    pub(crate) cpl: u8,
    pub(crate) privilege: Privilege,
    pub(crate) cr0: u32,
    pub(crate) cr3: u32,
    pub(crate) cr4: u32,
    pub(crate) efer: u32,
    pub(crate) fault: Option<Fault>,
    pub(crate) retired: u64,
    /// Registers that the last retired instruction loaded from memory, a bit each.
    pub(crate) last_loaded: u8,
    pub(crate) predictor: Predictor,
    pub(crate) irq: Interrupts,
    pub(crate) halted: bool,
    /// The next instruction starts at an interrupt point.
    pub(crate) at_point: bool,
    /// Count of retired instructions at the last breakpoint exit.
    pub(crate) broke_at: Option<u64>,
    /// Sides interrupted at CPL 0, innermost last.
    pub(crate) sides: Vec<Side>,
    pub(crate) trampoline: Range<u32>,
    pub(crate) user: UserState,
    pub(crate) features: Features,
}

impl Cpu {
    /// A CPU as a multiboot loader leaves it: protected mode, paging off, flat 4 GiB segments (CS
    /// selector 8, the others 10h), CPL 0, IF=0, no tables, registers zero. The geometry must be
    /// the MMU's.
    pub fn new(mmu: Mmu, geometry: &Geometry) -> Cpu {
        let mut segs = [Segment::flat(0x10, DATA32); 6];
        segs[Seg::Cs as usize] = Segment::flat(8, CODE32);
        let mut cpu = Cpu {
            regs: Regs::default(),
            eip: 0,
            gdtr: TableRegister::default(),
            idtr: TableRegister::default(),
            ldtr: Segment::default(),
            tr: Segment::default(),
            cr2: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            sysenter: SysenterMsrs::default(),
            tsc_offset: 0,
            probes: false,
            breakpoints: BTreeSet::new(),
            mmu,
            flags: Flags::default(),
            other_flags: 2,
            if_sets: 0,
            segs,
            flat_reads: 0,
            flat_writes: 0,
            stack_mask: u32::MAX,
            code_limit: u32::MAX,
            debug_pending: 0,
            debug_shadow: false,
            cpl: 0,
            privilege: Privilege::Supervisor,
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            fault: None,
            retired: 0,
            last_loaded: 0,
            predictor: Predictor::new(&geometry.branch),
            irq: Interrupts::default(),
            halted: false,
            at_point: true,
            broke_at: None,
            sides: Vec::new(),
            trampoline: 0..0,
            user: UserState::default(),
            features: Features {
                nx: geometry.nx,
                pge: geometry.pge,
                sep: geometry.sep,
                maxphyaddr: geometry.maxphyaddr,
                data_line: geometry.l1d.line,
                fetch: match geometry.front_end {
                    FrontEnd::L1i(cache) => FetchShape {
                        line: cache.line,
                        kind: FetchKind::L1i,
                    },
                    FrontEnd::TraceCache { line_bytes, .. } => FetchShape {
                        line: line_bytes,
                        kind: FetchKind::TraceCache,
                    },
                },
            },
        };
        cpu.refresh_segments();
        cpu
    }

    /// A copy of the whole machine state; memory is shared copy-on-write (D9).
    pub fn clone_cow(&self) -> Result<Cpu, PhysError> {
        Ok(Cpu {
            mmu: self.mmu.clone_cow()?,
            regs: self.regs,
            breakpoints: self.breakpoints.clone(),
            flags: self.flags,
            predictor: self.predictor.clone(),
            irq: self.irq.clone(),
            sides: self.sides.clone(),
            trampoline: self.trampoline.clone(),
            user: self.user.clone(),
            ..*self
        })
    }

    /// EFLAGS.
    pub fn eflags(&self) -> u32 {
        self.other_flags | self.flags.arith()
    }

    /// Sets all of EFLAGS that exists, without checks.
    pub fn set_eflags(&mut self, value: u32) {
        use flags::*;
        const OTHER: u32 = TF | IF | DF | IOPL | NT | RF | VM | AC | ID;
        let before = self.other_flags;
        if value & IF != 0 && self.other_flags & IF == 0 {
            self.if_sets += 1;
        }
        self.flags.set_arith(value);
        self.other_flags = value & OTHER | 2;
        if (before ^ self.other_flags) & AC != 0 {
            self.refresh_segments();
        }
    }

    /// A segment register.
    pub fn segment(&self, seg: Seg) -> Segment {
        self.segs[seg as usize]
    }

    /// Sets a segment register with its hidden part, without checks. CS sets the CPL: from its
    /// selector in protected mode, 3 in virtual-8086 mode (set VM in EFLAGS before).
    pub fn set_segment(&mut self, seg: Seg, value: Segment) {
        self.segs[seg as usize] = value;
        if seg == Seg::Cs && self.v86() {
            self.set_cpl(3);
        } else if seg == Seg::Cs && self.protected() {
            self.set_cpl((value.selector & 3) as u8);
        }
        self.refresh_segments();
    }

    /// Selectors name descriptors: protected mode, but not virtual-8086 mode.
    #[inline(always)]
    pub(crate) fn protected(&self) -> bool {
        self.cr0 & CR0_PE != 0 && !self.v86()
    }
    /// Virtual-8086 mode.
    #[inline(always)]
    pub(crate) fn v86(&self) -> bool {
        self.other_flags & flags::VM != 0
    }

    /// Current privilege level.
    pub fn cpl(&self) -> u8 {
        self.cpl
    }

    pub(crate) fn set_cpl(&mut self, cpl: u8) {
        self.cpl = cpl;
        self.privilege = if cpl == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        };
    }

    pub(crate) fn refresh_segments(&mut self) {
        self.flat_reads = 0;
        self.flat_writes = 0;
        let cs = self.segs[Seg::Cs as usize];
        self.code_limit = cs.limit;
        self.stack_mask = if self.segs[Seg::Ss as usize].is_32bit() {
            u32::MAX
        } else {
            0xffff
        };
        // With something to check at every access there is no short way.
        if self.breakpoints_on() || self.checks_alignment() {
            return;
        }
        for (i, s) in self.segs.iter().enumerate() {
            if s.flat_for_reads() {
                self.flat_reads |= 1 << i;
                if s.writable() {
                    self.flat_writes |= 1 << i;
                }
            }
        }
    }

    /// Unaligned accesses raise #AC.
    pub(crate) fn checks_alignment(&self) -> bool {
        self.cpl == 3 && self.cr0 & CR0_AM != 0 && self.other_flags & flags::AC != 0
    }

    /// CR0.
    pub fn cr0(&self) -> u32 {
        self.cr0
    }
    /// CR3.
    pub fn cr3(&self) -> u32 {
        self.cr3
    }
    /// CR4.
    pub fn cr4(&self) -> u32 {
        self.cr4
    }
    /// EFER.
    pub fn efer(&self) -> u32 {
        self.efer
    }

    /// Sets EFER, CR3, CR4 and CR0 (in that order) as a machine does that enters cycle mode. The
    /// loads are counted by the MMU like any other.
    pub fn set_control(
        &mut self,
        cr0: u32,
        cr3: u32,
        cr4: u32,
        efer: u32,
    ) -> Result<(), ControlError> {
        self.mmu.set_efer(efer);
        self.efer = efer;
        if self.cr0 & CR0_PG != 0 {
            self.mmu.set_cr4(cr4)?;
            self.cr4 = cr4;
            self.mmu.set_cr3(cr3, Cr3Load::Other)?;
            self.cr3 = cr3;
        } else {
            self.mmu.set_cr3(cr3, Cr3Load::Other)?;
            self.cr3 = cr3;
            self.mmu.set_cr4(cr4)?;
            self.cr4 = cr4;
        }
        self.mmu.set_cr0(cr0)?;
        self.cr0 = cr0;
        self.refresh_segments();
        Ok(())
    }

    /// Instructions retired, in all rings and by the source.
    pub fn retired(&self) -> u64 {
        self.retired
    }

    /// The linear range of the split kernel's trampoline text: CR3 loads inside it count as the
    /// split's (D7).
    pub fn set_trampoline(&mut self, range: Range<u32>) {
        self.trampoline = range;
    }

    /// The state a fatal report prints.
    pub fn dump(&self) -> Dump {
        Dump {
            regs: self.regs.all(),
            eip: self.eip,
            eflags: self.eflags(),
            selectors: self.segs.map(|s| s.selector),
            control: [self.cr0, self.cr2, self.cr3, self.cr4],
            cpl: self.cpl,
            retired: self.retired,
            vectors: Vec::new(),
        }
    }

    /// Stores a fault for delivery.
    #[cold]
    pub(crate) fn raise_fault(&mut self, fault: Fault) -> Raised {
        self.fault = Some(fault);
        Raised
    }

    #[inline(always)]
    pub(crate) fn count(&mut self, event: Event) {
        self.mmu.account.add(event, 1);
    }
}
