//! Other modes than flat 32-bit code: 16-bit segments, virtual-8086 and real mode, and system
//! instructions among ordinary ones.
//!
//! Descriptors of every kind stand in the GDT, a second task and an LDT behind them, so that random
//! selectors find something. Code is a mix of likely instructions, system instructions and random
//! bytes.

use super::*;
use emu_cpu::segment::{CODE32, DATA32};

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As the program says: ring 0 or 3, flat.
    Flat,
    /// The same, with all the descriptors of this file.
    System,
    /// Ring 3, 16-bit code and data segments that are not flat.
    Narrow,
    /// Virtual-8086 mode, with this IOPL.
    Virtual8086(u32),
    /// Real mode.
    Real,
}

const TSS2: u32 = 0xa200;
const LDT: u32 = 0xa400;
const NARROW_CODE: u16 = 0x33;
const NARROW_DATA: u16 = 0x3b;
/// Linear address of code and of data in the modes below 1 MiB.
const LOW_CODE: u32 = 0x4_0000;
const LOW_DATA: u32 = 0x5_0000;

/// Selectors 30h to 88h.
fn descriptors() -> [Descriptor; 12] {
    let plain = |base: u32, limit: u32, access: u16| Descriptor::new(base, limit, access);
    [
        // Pages of linear addresses end inside it, and it ends inside a page.
        plain(USER_CODE + 0x7f5, 0xfff, 0xfb),
        plain(USER_DATA, 0xffff, 0xf3),
        // Expand-down, 32-bit, DPL 3.
        plain(0, 0x0fff_ffff, 0xc0f7),
        // A call gate with two parameters for everybody.
        Descriptor::gate(KCS, STUBS + 0x300, 0xc, 3).with_parameters(2),
        // 16-bit kernel code.
        plain(0, 0x1_ffff, 0x9b),
        plain(TSS2, 0x67, 0x89),
        // A task gate to it.
        Descriptor::gate(0x58, 0, 5, 3),
        // Conforming code.
        plain(0, u32::MAX, CODE32 | 4),
        plain(LDT, 0x1f, 0x82),
        // Absent data, DPL 3.
        plain(0, u32::MAX, DATA32 & !0x80 | 0x60),
        // A 16-bit call gate.
        Descriptor::gate(0x50, 0xb340, 4, 3),
        // A 16-bit TSS.
        plain(TSS2 + 0x80, 0x2b, 0x81),
    ]
}

trait Parameters {
    fn with_parameters(self, n: u64) -> Self;
}
impl Parameters for Descriptor {
    fn with_parameters(self, n: u64) -> Self {
        Descriptor(self.0 | n << 32)
    }
}

fn install(cpu: &mut Cpu) {
    for (i, d) in (6..).zip(descriptors()) {
        let at = u64::from(GDT) + i * 8;
        cpu.mmu.mem.write_u64(PhysAddr(at), d.0);
    }
    cpu.gdtr.limit = 8 * 18 - 1;
    for (i, d) in (0..).zip([
        Descriptor::new(USER_CODE, 0xfff, 0x40fb),
        Descriptor::new(USER_DATA, 0x1fff, 0x40f3),
        Descriptor::new(USER_DATA, 0xff, 0xf1),
    ]) {
        cpu.mmu.mem.write_u64(PhysAddr(u64::from(LDT) + i * 8), d.0);
    }
    // The second task: ring 3, at the start of the code.
    for (at, value) in [
        (0x1c, PDPT as u32),
        (0x20, USER_CODE),
        (0x24, 0x202),
        (0x38, USER_STACK_TOP),
        (0x3c, USER_DATA),
        (0x48, u32::from(UDS)),
        (0x4c, u32::from(UCS)),
        (0x50, u32::from(UDS)),
        (0x54, u32::from(UDS)),
        (0x60, 0x70),
        (4, KSTACK - 0x800),
        (8, u32::from(KDS)),
    ] {
        place(cpu, TSS2 + at, &value.to_le_bytes());
    }
    // Call gates: return and drop what was copied.
    place(cpu, STUBS + 0x300, &[0xca, 8, 0]);
    place(cpu, STUBS + 0x340, &[0xcb]);
    gate(cpu, 0x30, STUBS + 0x100, 5, 3);
    let task = Descriptor::gate(0x58, 0, 5, 3);
    let at = u64::from(IDT) + 0x30 * 8;
    cpu.mmu.mem.write_u64(PhysAddr(at), task.0);
    cpu.ldtr = Descriptor::new(LDT, 0x1f, 0x82).segment(0x70);
}

/// Handlers resume at an offset of CS, not at a linear address.
fn resume_at_offsets(cpu: &mut Cpu) {
    for (at, pop) in [(STUBS, 4), (STUBS + 0x100, 0)] {
        let mut a = CodeAssembler::new(32).unwrap();
        if pop != 0 {
            a.add(esp, pop).unwrap();
        }
        a.push(eax).unwrap();
        a.mov(eax, dword_ptr(VARS).ss()).unwrap();
        a.add(eax, 13).unwrap();
        a.and(eax, 0xfff).unwrap();
        a.mov(dword_ptr(VARS).ss(), eax).unwrap();
        a.mov(dword_ptr(esp + 4), eax).unwrap();
        a.or(dword_ptr(esp + 12), 0x200).unwrap();
        a.and(dword_ptr(esp + 12), !0x4100u32 as i32).unwrap();
        a.pop(eax).unwrap();
        a.iretd().unwrap();
        place(cpu, at, &a.assemble(u64::from(at)).unwrap());
    }
}

/// The vector table of real mode, and a handler that resumes like those of protected mode.
fn real_handlers(cpu: &mut Cpu) {
    for vector in 0..256u32 {
        place(cpu, vector * 4, &STUBS.to_le_bytes());
    }
    let mut a = CodeAssembler::new(16).unwrap();
    a.push(bp).unwrap();
    a.mov(bp, sp).unwrap();
    a.push(ax).unwrap();
    a.mov(ax, word_ptr(VARS).cs()).unwrap();
    a.add(ax, 13).unwrap();
    a.and(ax, 0xfff).unwrap();
    a.mov(word_ptr(VARS).cs(), ax).unwrap();
    a.mov(word_ptr(bp + 2), ax).unwrap();
    a.mov(word_ptr(bp + 4), LOW_CODE >> 4).unwrap();
    a.and(word_ptr(bp + 6), !0x4100u32 & 0xffff).unwrap();
    a.pop(ax).unwrap();
    a.pop(bp).unwrap();
    a.iret().unwrap();
    place(cpu, STUBS, &a.assemble(u64::from(STUBS)).unwrap());
}

fn plain_segments(cpu: &mut Cpu, access: u16) {
    for (seg, at) in [
        (Seg::Cs, LOW_CODE + 0x130),
        (Seg::Ss, LOW_DATA),
        (Seg::Ds, LOW_DATA),
        (Seg::Es, LOW_DATA),
        (Seg::Fs, LOW_DATA + 0x1000),
        (Seg::Gs, LOW_CODE),
    ] {
        let s = Segment {
            selector: (at >> 4) as u16,
            base: at,
            limit: 0xffff,
            access,
        };
        cpu.set_segment(seg, s);
    }
    cpu.eip = 0;
    cpu.regs[regs::ESP] = 0xff0;
}

/// Puts a machine that stands in flat code into the mode.
pub(crate) fn enter(cpu: &mut Cpu, mode: Mode) {
    if mode != Mode::Flat {
        install(cpu);
    }
    match mode {
        Mode::Flat | Mode::System => {}
        Mode::Narrow => {
            resume_at_offsets(cpu);
            let user = |i: usize, selector| descriptors()[i].segment(selector);
            for seg in [Seg::Ss, Seg::Ds, Seg::Es] {
                cpu.set_segment(seg, user(1, NARROW_DATA));
            }
            cpu.set_segment(Seg::Cs, user(0, NARROW_CODE));
            cpu.eip = 0;
            cpu.regs[regs::ESP] = 0xff0;
        }
        Mode::Virtual8086(iopl) => {
            resume_at_offsets(cpu);
            // The user's frames, also below 1 MiB.
            for i in 0..16u64 {
                let (code, data) = (u64::from(LOW_CODE >> 12) + i, u64::from(LOW_DATA >> 12) + i);
                let entry = |frame: u64| (frame + (i << 12)) | 7;
                let m = &mut cpu.mmu.mem;
                m.write_u64(PhysAddr(PT_LOW + code * 8), entry(CODE_FRAME));
                let data_entry = if i % 4 == 2 { 0 } else { entry(DATA_FRAME) };
                m.write_u64(PhysAddr(PT_LOW + data * 8), data_entry);
            }
            cpu.mmu.mem.write_u64(PhysAddr(PD), PT_LOW | 0x27);
            cpu.mmu.mem.write_u16(PhysAddr(u64::from(TSS) + 0x66), 0x68);
            cpu.set_eflags(0x2_0202 | iopl << 12);
            plain_segments(cpu, 0xf3);
        }
        Mode::Real => {
            real_handlers(cpu);
            let mut code = vec![0; CODE_BYTES];
            cpu.mmu.mem.read_bytes(PhysAddr(CODE_FRAME), &mut code);
            place(cpu, LOW_CODE, &code);
            let root = cpu.cr3();
            cpu.set_control(0x10, root, 0, 0).unwrap();
            cpu.set_eflags(0x202);
            cpu.idtr = TableRegister {
                base: 0,
                limit: 0x3ff,
            };
            cpu.set_segment(Seg::Cs, Segment::flat(KCS, CODE32));
            plain_segments(cpu, 0x93);
        }
    }
}

fn selector() -> impl Strategy<Value = u16> {
    prop_oneof![
        8 => (0u16..18, 0u16..4).prop_map(|(i, rpl)| (i << 3) | rpl),
        2 => (0u16..4, 0u16..4).prop_map(|(i, rpl)| (i << 3) | 4 | rpl),
        1 => any::<u16>(),
    ]
}

/// A system instruction, or one that only 16-bit code uses; `wide` code needs a prefix for a 16-bit
/// immediate.
fn system_instruction(wide: bool) -> impl Strategy<Value = Vec<u8>> {
    let load16 = move |v: u16| {
        let mut bytes = if wide { vec![0x66] } else { vec![] };
        bytes.push(0xb8);
        bytes.extend(v.to_le_bytes());
        bytes
    };
    let load32 = move |v: u32| {
        let mut bytes = if wide { vec![] } else { vec![0x66] };
        bytes.push(0xb8);
        bytes.extend(v.to_le_bytes());
        bytes
    };
    let flags = prop_oneof![
        Just(0x0000_0302u32),
        Just(0x0000_0202),
        Just(0x0000_4202),
        Just(0x0004_0202),
        Just(0x0001_0302),
        Just(0x0000_3202),
        Just(0x0002_0202),
        any::<u32>()
    ];
    let control = prop_oneof![
        Just(0x8001_0011u32),
        Just(0x8005_0011),
        Just(0x8000_001f),
        Just(0x8005_0033),
        Just(0xe001_0011)
    ];
    prop_oneof![
        4 => (selector(), proptest::sample::select(vec![0u8, 2, 3, 4, 5]))
            .prop_map(move |(s, seg)| [load16(s), vec![0x8e, 0xc0 | seg << 3]].concat()),
        3 => (selector(), 0u8..6).prop_map(move |(s, what)| [load16(s), vec![0x0f, 0x00, 0xc0 | what << 3]].concat()),
        3 => (selector(), 2u8..4).prop_map(move |(s, op)| [load16(s), vec![0x0f, op, 0xc8]].concat()),
        3 => (selector(), 0u16..0x1000, prop_oneof![Just(0x9au8), Just(0xea)]).prop_map(move |(s, o, op)| {
            let mut v = vec![op];
            v.extend(o.to_le_bytes());
            if wide {
                v.extend([0x40, 0]);
            }
            v.extend(s.to_le_bytes());
            v
        }),
        2 => (flags, any::<bool>()).prop_map(move |(f, iret)| {
            // push eax; popf, or an iret frame.
            if iret {
                [load32(f), vec![0x50, 0x0e, 0x6a, 0x20, 0xcf]].concat()
            } else {
                [load32(f), vec![0x66, 0x50, 0x66, 0x9d]].concat()
            }
        }),
        1 => (control, prop_oneof![Just(0xc0u8), Just(0xd8), Just(0xe0)]).prop_map(move |(v, cr)| {
            let v = match cr {
                0xd8 => PDPT as u32 | v & 0x18,
                0xe0 => 0x20 | v & 0x98,
                _ => v,
            };
            [load32(v), vec![0x0f, 0x22, cr]].concat()
        }),
        1 => (proptest::sample::select(vec![0x401u32, 0x402, 0xd_0401, 0x1_0401, 0x3_0402, 0x400, 0x2400]))
            .prop_map(move |v| [load32(v), vec![0x0f, 0x23, 0xf8]].concat()),
        1 => value().prop_map(move |v| [load32(v), vec![0x0f, 0x23, 0xc0]].concat()),
        2 => (any::<u8>(), 0u8..32).prop_map(|(size, level)| vec![0xc8, size, 0, level]),
        4 => proptest::sample::select(vec![
            0x27u8, 0x2f, 0x37, 0x3f, 0xd6, 0xd7, 0xcf, 0xcb, 0xce, 0xf1, 0xcc, 0x06, 0x07, 0x0e,
            0x16, 0x17, 0x1e, 0x1f, 0x60, 0x61, 0x9c, 0x9d, 0xc9, 0xc3, 0x6c, 0x6d, 0x6e, 0x6f,
            0xfa, 0xfb, 0x9b,
        ])
        .prop_map(|op| vec![op]),
        2 => (proptest::sample::select(vec![0xd4u8, 0xd5, 0xcd, 0xe4, 0xe6]), any::<u8>())
            .prop_map(|(op, i)| vec![op, i]),
        1 => Just(vec![0xcd, 0x30]),
        2 => (proptest::sample::select(vec![0x62u8, 0x63, 0xc4, 0xc5]), 0u8..8)
            .prop_map(|(op, reg)| vec![op, 0x46 | reg << 3, 0x10]),
        1 => (proptest::sample::select(vec![0xb2u8, 0xb4, 0xb5]), 0u8..8)
            .prop_map(|(op, reg)| vec![0x0f, op, 0x46 | reg << 3, 0x10]),
        2 => (0u8..40, proptest::sample::select(vec![0x6cu8, 0x6e, 0xa4, 0xa5, 0xaa, 0xae, 0xa6, 0xac]), any::<bool>())
            .prop_map(|(n, op, other)| {
                let mut v = vec![0xb1, n, 0xf3];
                if other {
                    v.push(0x67);
                }
                v.push(op);
                v
            }),
        2 => (0x70u8..0x80, any::<i8>()).prop_map(|(op, d)| vec![op, d as u8]),
        2 => (0xe0u8..0xe4, any::<i8>()).prop_map(|(op, d)| vec![0x67, op, d as u8]),
        2 => any::<[u8; 4]>().prop_map(|b| b.to_vec()),
    ]
}

fn mixed(wide: bool) -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![2 => instruction(), 3 => system_instruction(wide)];
    proptest::collection::vec(one, 50..300).prop_map(|v| {
        let mut bytes = v.concat();
        while bytes.len() < CODE_BYTES {
            bytes.extend_from_within(..);
        }
        bytes.truncate(CODE_BYTES);
        bytes
    })
}

fn in_mode(wide: bool, ring0: bool, mode: Mode) -> impl Strategy<Value = Program> {
    program(mixed(wide), Just(ring0)).prop_map(move |p| Program {
        mode,
        large: false,
        ..p
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn system_instructions_in_ring_3(p in in_mode(true, false, Mode::System)) {
        run_all(&p);
    }

    #[test]
    fn system_instructions_in_ring_0(p in in_mode(true, true, Mode::System)) {
        run_all(&p);
    }

    #[test]
    fn narrow_segments(p in in_mode(false, false, Mode::Narrow)) {
        run_all(&p);
    }

    #[test]
    fn virtual_8086_mode(p in prop_oneof![in_mode(false, false, Mode::Virtual8086(0)), in_mode(false, false, Mode::Virtual8086(3))]) {
        run_all(&p);
    }

    #[test]
    fn real_mode(p in in_mode(false, true, Mode::Real)) {
        run_all(&p);
    }
}
