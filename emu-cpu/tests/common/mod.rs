//! A small PAE machine for tests.
//!
//! Physical = linear for the first 2 MiB (supervisor), with tables, descriptor tables and kernel
//! code in it. From
//! `USER_CODE` four user pages, read-write; from `USER_DATA` sixteen pages that repeat the pattern
//! read-write, read-only, absent, supervisor. All other addresses are absent.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses a part"
)]

use emu_cpu::cpu::{CR0_ET, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE};
use emu_cpu::segment::{CODE32, DATA32};
use emu_cpu::*;
use emu_mmu::{Mmu, PhysAddr, PhysMem};
use lowmem_cost::Geometry;
use lowmem_cost::geometry::FrontEnd;

pub const RAM: u64 = 4 << 20;
pub const PDPT: u64 = 0x1000;
pub const PD: u64 = 0x2000;
pub const PT_LOW: u64 = 0x3000;
pub const PT_USER: u64 = 0x4000;
pub const GDT: u32 = 0x8000;
pub const IDT: u32 = 0x9000;
pub const TSS: u32 = 0xa000;
pub const STUBS: u32 = 0xb000;
pub const VARS: u32 = 0xf000;
pub const KERNEL: u32 = 0x1_0000;
pub const KSTACK: u32 = 0x2_0000;
pub const USER_CODE: u32 = 0x40_0000;
pub const USER_DATA: u32 = 0x41_0000;
pub const USER_STACK_TOP: u32 = 0x40_4000;
/// Frame of USER_CODE; the data frames follow at 0x130000.
pub const CODE_FRAME: u64 = 0x12_0000;
pub const DATA_FRAME: u64 = 0x13_0000;

pub const KCS: u16 = 0x08;
pub const KDS: u16 = 0x10;
pub const UCS: u16 = 0x1b;
pub const UDS: u16 = 0x23;
pub const TSS_SEL: u16 = 0x28;

/// The same hierarchy behind a trace cache.
pub fn trace_cache_geometry() -> Geometry {
    let mut g = Geometry::pentium3();
    g.front_end = FrontEnd::TraceCache {
        lines: 256,
        ways: 8,
        line_bytes: 32,
        flush_on_cr3: true,
    };
    g.nx = true;
    g
}

pub fn memory() -> PhysMem {
    PhysMem::new(RAM, RAM).expect("4 MiB of memory")
}

/// A machine with paging on, standing at CPL 0 at KERNEL with the stack at KSTACK.
pub fn machine_with(mmu: Mmu, g: &Geometry) -> Cpu {
    let mut cpu = Cpu::new(mmu, g);
    let m = &mut cpu.mmu.mem;
    m.write_u64(PhysAddr(PDPT), PD | 1);
    m.write_u64(PhysAddr(PD), PT_LOW | 0x27);
    m.write_u64(PhysAddr(PD + 16), PT_USER | 0x27);
    for i in 0..512 {
        m.write_u64(PhysAddr(PT_LOW + i * 8), i << 12 | 0x163);
    }
    for i in 0..4 {
        m.write_u64(PhysAddr(PT_USER + i * 8), (CODE_FRAME + (i << 12)) | 7);
    }
    for i in 0..16 {
        let frame = DATA_FRAME + (i << 12);
        let entry = match i % 4 {
            0 => frame | 7,
            1 => frame | 5,
            2 => 0,
            _ => frame | 3,
        };
        m.write_u64(PhysAddr(PT_USER + (16 + i) * 8), entry);
    }
    let descriptors = [
        Descriptor(0),
        Descriptor::new(0, u32::MAX, CODE32),
        Descriptor::new(0, u32::MAX, DATA32),
        Descriptor::new(0, u32::MAX, CODE32 | 0x60),
        Descriptor::new(0, u32::MAX, DATA32 | 0x60),
        Descriptor::new(TSS, 0x67, 0x89),
    ];
    for (i, d) in (0..).zip(descriptors) {
        m.write_u64(PhysAddr(u64::from(GDT) + i * 8), d.0);
    }
    m.write_u32(PhysAddr(u64::from(TSS) + 4), KSTACK);
    m.write_u32(PhysAddr(u64::from(TSS) + 8), u32::from(KDS));
    cpu.gdtr = TableRegister {
        base: GDT,
        limit: 8 * 6 - 1,
    };
    cpu.idtr = TableRegister {
        base: IDT,
        limit: 0x7ff,
    };
    cpu.tr = Descriptor::new(TSS, 0x67, 0x8b).segment(TSS_SEL);
    cpu.set_control(
        CR0_PE | CR0_ET | CR0_WP | CR0_PG,
        PDPT as u32,
        CR4_PAE | CR4_PGE,
        0,
    )
    .expect("sound page tables");
    cpu.regs[regs::ESP] = KSTACK;
    cpu.eip = KERNEL;
    cpu
}

pub fn machine() -> Cpu {
    let g = Geometry::pentium3();
    machine_with(Mmu::new(memory(), &g).expect("geometry"), &g)
}

/// Copies bytes to a physical address.
pub fn place(cpu: &mut Cpu, at: u32, bytes: &[u8]) {
    cpu.mmu.mem.write_bytes(PhysAddr(u64::from(at)), bytes);
}

/// An interrupt gate (type 0xE) or trap gate (0xF).
pub fn gate(cpu: &mut Cpu, vector: u8, offset: u32, kind: u8, dpl: u8) {
    let d = Descriptor::gate(KCS, offset, kind, dpl);
    cpu.mmu
        .mem
        .write_u64(PhysAddr(u64::from(IDT) + u64::from(vector) * 8), d.0);
}

/// Stands at CPL 3.
pub fn enter_user(cpu: &mut Cpu, eip: u32, esp: u32) {
    cpu.set_segment(Seg::Cs, Segment::flat(UCS, CODE32 | 0x60));
    for seg in [Seg::Ss, Seg::Ds, Seg::Es] {
        cpu.set_segment(seg, Segment::flat(UDS, DATA32 | 0x60));
    }
    cpu.eip = eip;
    cpu.regs[regs::ESP] = esp;
    cpu.mmu.account.set_side(lowmem_cost::Side::User);
}

pub fn read32(cpu: &Cpu, at: u32) -> u32 {
    cpu.mmu.mem.read_u32(PhysAddr(u64::from(at)))
}

/// Vectors that push an error code.
pub fn has_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14)
}
