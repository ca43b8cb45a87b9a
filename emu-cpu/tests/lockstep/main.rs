//! The engines in lockstep: equal registers, memory and counts, over random bytes, random
//! instructions and programs that rewrite themselves.
//!
//! Four machines run the same program: reference and fast engine, each over the MMU with and
//! without its shortcuts. They are compared after runs of random length. Faults go to a handler
//! that resumes at a pseudo-random place.

#[path = "../common/mod.rs"]
mod common;
mod modes;
mod tables;

use common::*;
use emu_cpu::*;
use emu_mmu::{Mmu, PhysAddr};
use iced_x86::code_asm::*;
use lowmem_cost::{Geometry, Side};
use proptest::prelude::*;

/// Bytes of user code that random jumps aim at.
const CODE_BYTES: usize = 0x1800;

#[derive(Debug, Default, PartialEq, Eq)]
struct Log(Vec<(u16, u64, u32)>);

impl Bus for Log {
    fn port_in(&mut self, port: u16, _: u8) -> u32 {
        u32::from(port).wrapping_mul(0x0101_0101)
    }
    fn port_out(&mut self, port: u16, _: u8, value: u32) -> Flow {
        self.0.push((port, u64::MAX, value));
        if value & 7 == 7 {
            Flow::Stop
        } else {
            Flow::Continue
        }
    }
    fn probe(&mut self, id: u16, cpu: &mut Cpu) {
        self.0.push((id, cpu.retired(), cpu.eip));
        let side = [Side::Fault, Side::Copy, Side::Unmap, Side::User][usize::from(id & 3)];
        cpu.mmu.account.set_side(side);
    }
}

#[derive(Debug, Clone)]
struct Program {
    code: Vec<u8>,
    regs: [u32; 8],
    geometry: Geometry,
    tick: u64,
    ring0: bool,
    /// What else than flat 32-bit code at CPL 0 or 3.
    mode: modes::Mode,
    /// The kernel's 2 MiB are one large page.
    large: bool,
    stops: Vec<u64>,
}

/// Handlers that go on at CODE + (count * 13 mod size), keeping all registers.
fn resume_stubs(cpu: &mut Cpu) {
    for vector in 0..=255u8 {
        let at = STUBS + if has_code(vector) { 0 } else { 0x100 };
        let dpl = if vector % 3 == 0 { 3 } else { 0 };
        gate(
            cpu,
            vector,
            at,
            if vector % 2 == 0 { 0xe } else { 0xf },
            dpl,
        );
    }
    gate(cpu, 0x20, STUBS + 0x200, 0xe, 0);
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
        a.add(eax, USER_CODE).unwrap();
        a.mov(dword_ptr(esp + 4), eax).unwrap();
        a.or(dword_ptr(esp + 12), 0x200).unwrap();
        a.and(dword_ptr(esp + 12), !0x4100u32 as i32).unwrap();
        a.pop(eax).unwrap();
        a.iretd().unwrap();
        place(cpu, at, &a.assemble(u64::from(at)).unwrap());
    }
    let mut a = CodeAssembler::new(32).unwrap();
    a.inc(dword_ptr(VARS + 4).ss()).unwrap();
    a.iretd().unwrap();
    place(
        cpu,
        STUBS + 0x200,
        &a.assemble(u64::from(STUBS + 0x200)).unwrap(),
    );
}

fn load(p: &Program, reference_mmu: bool) -> Cpu {
    let mmu = if reference_mmu {
        Mmu::reference(memory(), &p.geometry)
    } else {
        Mmu::new(memory(), &p.geometry)
    };
    let mut cpu = machine_with(mmu.unwrap(), &p.geometry);
    resume_stubs(&mut cpu);
    if p.large {
        // Present, writable, accessed, dirty, 2 MiB, global.
        cpu.mmu.mem.write_u64(PhysAddr(PD), 0x1e3);
    }
    place(&mut cpu, CODE_FRAME as u32, &p.code);
    cpu.probes = true;
    if p.ring0 {
        cpu.eip = USER_CODE;
    } else {
        enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
    }
    for (i, &v) in p.regs.iter().enumerate() {
        if i != regs::ESP {
            cpu.regs[i] = v;
        }
    }
    cpu.set_eflags(0x202);
    modes::enter(&mut cpu, p.mode);
    cpu.set_tick(p.tick, 0x20);
    cpu
}

fn ram(cpu: &Cpu) -> Vec<u8> {
    let mut bytes = vec![0; 0x14_0000];
    cpu.mmu.mem.read_bytes(PhysAddr(0), &mut bytes);
    bytes
}

fn compare(name: &str, a: &Cpu, b: &Cpu) {
    let state = |c: &Cpu| {
        let segs = Seg::ALL.map(|s| c.segment(s));
        (
            c.dump(),
            segs,
            c.dr,
            c.gdtr,
            c.idtr,
            c.tr,
            c.ldtr,
            c.sysenter,
        )
    };
    assert_eq!(state(a), state(b), "{name}");
    let (x, y) = (&a.mmu.account, &b.mmu.account);
    if x != y {
        let (x, y) = (format!("{x:#?}"), format!("{y:#?}"));
        let differ: Vec<_> = x.lines().zip(y.lines()).filter(|(l, r)| l != r).collect();
        panic!("{name}: accounts differ at {}: {differ:?}", a.dump());
    }
    let (x, y) = (ram(a), ram(b));
    if let Some(at) = (0..x.len()).find(|&i| x[i] != y[i]) {
        panic!("{name}: memory differs at {at:#x}: {} {}", x[at], y[at]);
    }
}

fn run_all(p: &Program) {
    let kinds = [
        ("reference", Engine::Reference, true),
        ("reference, mmu shortcuts", Engine::Reference, false),
        ("fast", Engine::Fast, false),
        ("fast, plain mmu", Engine::Fast, true),
    ];
    let mut machines: Vec<_> = kinds
        .iter()
        .map(|&(name, engine, plain)| {
            (
                name,
                load(p, plain),
                EngineState::new(engine),
                Log::default(),
            )
        })
        .collect();
    for &limit in &p.stops {
        let exits: Vec<Exit> = machines
            .iter_mut()
            .map(|(_, cpu, engine, bus)| cpu.run(engine, bus, &mut DecodeAll, limit))
            .collect();
        let (first, rest) = machines.split_first().unwrap();
        for (other, exit) in rest.iter().zip(&exits[1..]) {
            assert_eq!(&exits[0], exit, "{}", other.0);
            compare(other.0, &first.1, &other.1);
            assert_eq!(first.3, other.3, "{}", other.0);
        }
        if matches!(exits[0], Exit::TripleFault(_) | Exit::Halted) {
            break;
        }
    }
}

fn geometry() -> impl Strategy<Value = Geometry> {
    prop_oneof![Just(Geometry::pentium3()), Just(trace_cache_geometry())]
}

/// Mostly addresses in the mapped pages.
fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => (0u32..0x1_0000).prop_map(|o| USER_DATA + o),
        2 => (0u32..0x1000).prop_map(|o| USER_CODE + o),
        1 => 0u32..64,
        1 => any::<u32>(),
    ]
}

fn program(
    code: impl Strategy<Value = Vec<u8>>,
    ring0: impl Strategy<Value = bool>,
) -> impl Strategy<Value = Program> {
    (
        code,
        proptest::array::uniform8(value()),
        geometry(),
        prop_oneof![Just(0u64), 1u64..200],
        ring0,
        any::<bool>(),
        proptest::collection::vec(1u64..400, 1..8),
    )
        .prop_map(
            |(code, regs, geometry, tick, ring0, large, stops)| Program {
                code,
                regs,
                geometry,
                tick,
                ring0,
                mode: modes::Mode::Flat,
                large,
                stops,
            },
        )
}

/// One instruction out of the families compilers use, over random registers and addresses.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let modrm_mem = (0u8..8, value(), 0u8..3).prop_map(|(reg, address, how)| match how {
        // [disp32]
        0 => {
            let mut v = vec![reg << 3 | 5];
            v.extend(address.to_le_bytes());
            v
        }
        // [esi + disp8]
        1 => vec![0x46 | reg << 3, address as u8],
        // [ebx + ecx*2]... masked by what the registers are
        _ => vec![0x04 | reg << 3, 0x4b],
    });
    let modrm_reg = (0u8..8, 0u8..8).prop_map(|(a, b)| {
        // ESP stays what it is.
        let fix = |r: u8| if r == 4 { 0 } else { r };
        vec![0xc0 | fix(a) << 3 | fix(b)]
    });
    let modrm = prop_oneof![modrm_mem, modrm_reg].boxed();
    let prefix = prop_oneof![6 => Just(vec![]), 1 => Just(vec![0x66u8]), 1 => Just(vec![0xf0u8])];
    let alu_ops: Vec<u8> = (0..8u8)
        .flat_map(|o| (0..4).map(move |f| o << 3 | f))
        .collect();
    let two: Vec<u8> = vec![
        0x40, 0x4c, 0x92, 0x9f, 0xa3, 0xab, 0xb3, 0xbb, 0xaf, 0xb0, 0xb1, 0xb6, 0xb7, 0xbc, 0xbd,
        0xbe, 0xbf, 0xc0, 0xc1, 0xa5, 0xad, 0x1f, 0xc7,
    ];
    prop_oneof![
        6 => (prefix.clone(), proptest::sample::select(alu_ops), modrm.clone())
            .prop_map(|(p, op, m)| [p, vec![op], m].concat()),
        6 => (prefix.clone(), prop_oneof![Just(0x88u8), Just(0x89), Just(0x8a), Just(0x8b), Just(0x8d), Just(0x84), Just(0x85), Just(0x86), Just(0x87)], modrm.clone())
            .prop_map(|(p, op, m)| [p, vec![op], m].concat()),
        4 => (prefix.clone(), proptest::sample::select(two), modrm.clone())
            .prop_map(|(p, op, m)| [p, vec![0x0f, op], m].concat()),
        3 => (prefix.clone(), prop_oneof![Just(0xd0u8), Just(0xd1), Just(0xd2), Just(0xd3), Just(0xf6), Just(0xf7), Just(0xfe), Just(0xff), Just(0x8f)], modrm.clone())
            .prop_map(|(p, op, m)| [p, vec![op], m].concat()),
        3 => (prop_oneof![Just(0x80u8), Just(0x83), Just(0xc0), Just(0xc1), Just(0xc6), Just(0x6b)], modrm.clone(), any::<u8>())
            .prop_map(|(op, m, i)| [vec![op], m, vec![i]].concat()),
        2 => (prop_oneof![Just(0x81u8), Just(0xc7), Just(0x69)], modrm, value())
            .prop_map(|(op, m, i)| [vec![op], m, i.to_le_bytes().to_vec()].concat()),
        2 => (0u8..8, value()).prop_filter_map("esp", |(r, v)| (r != 4)
            .then(|| [vec![0xb8 | r], v.to_le_bytes().to_vec()].concat())),
        3 => (0u8..16, any::<i8>()).prop_map(|(cc, d)| vec![0x70 | cc, d as u8]),
        1 => any::<i8>().prop_map(|d| vec![0xeb, d as u8]),
        1 => any::<i8>().prop_map(|d| vec![0xe2, d as u8]),
        1 => (-1000i32..1000).prop_map(|d| [vec![0xe8], d.to_le_bytes().to_vec()].concat()),
        1 => Just(vec![0xc3]),
        1 => Just(vec![0xc9]),
        2 => (0x50u8..0x60).prop_filter_map("pop esp", |b| (b != 0x5c).then_some(vec![b])),
        1 => (0u16..300, prop_oneof![Just(0xa4u8), Just(0xa5), Just(0xaa), Just(0xab), Just(0xa6), Just(0xae), Just(0xac)], prop_oneof![Just(0xf2u8), Just(0xf3)])
            .prop_map(|(n, op, rep)| {
                let mut v = vec![0xb9];
                v.extend(u32::from(n).to_le_bytes());
                v.extend([rep, op]);
                v
            }),
        1 => prop_oneof![Just(0x9cu8), Just(0x9d), Just(0x60), Just(0x61), Just(0xfc), Just(0xfd), Just(0x99), Just(0x98), Just(0x9e), Just(0x9f), Just(0xf5), Just(0xcd), Just(0xcc), Just(0xce), Just(0xfa), Just(0xf4), Just(0xec), Just(0xef)].prop_map(|b| vec![b]),
        1 => (0u16..8).prop_map(|id| {
            let mut v = vec![0x0f, 0x1f, 0x84, 0x00];
            v.extend((0x4c4d_0000 | u32::from(id)).to_le_bytes());
            v
        }),
        1 => Just(vec![0x0f, 0x31]),
        1 => Just(vec![0x0f, 0xa2]),
    ]
}

fn instructions() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(instruction(), 50..400).prop_map(|v| {
        let mut bytes = v.concat();
        // Repeated, so that resuming anywhere finds code and the page boundary is run over.
        while bytes.len() < CODE_BYTES {
            bytes.extend_from_within(..);
        }
        bytes.truncate(CODE_BYTES);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_instructions_in_ring_3(p in program(instructions(), Just(false))) {
        run_all(&p);
    }

    #[test]
    fn random_instructions_in_ring_0(p in program(instructions(), Just(true))) {
        run_all(&p);
    }

    #[test]
    fn random_bytes(p in program(proptest::collection::vec(any::<u8>(), CODE_BYTES), any::<bool>())) {
        run_all(&p);
    }
}

#[test]
fn code_that_rewrites_itself() {
    let mut a = CodeAssembler::new(32).unwrap();
    let mut top = a.create_label();
    a.mov(ecx, 50).unwrap();
    a.set_label(&mut top).unwrap();
    // The immediate of the next instruction (its second byte), in the same block, and of one in the
    // page after.
    a.inc(byte_ptr(USER_CODE + 0x13)).unwrap();
    a.inc(byte_ptr(USER_CODE + 0x1001)).unwrap();
    a.add(eax, 0x100).unwrap();
    let here = a.instructions().iter().count();
    assert_eq!(here, 4);
    a.call(u64::from(USER_CODE) + 0x1000).unwrap();
    a.dec(ecx).unwrap();
    a.jne(top).unwrap();
    a.int3().unwrap();
    let mut code = a.assemble(u64::from(USER_CODE)).unwrap();
    assert_eq!(code[0x12..0x14], [0x00, 0x01], "the add's immediate");
    code.resize(0x1000, 0x90);
    // add al, imm8; ret
    code.extend([0x04, 0x10, 0xc3]);
    for geometry in [Geometry::pentium3(), trace_cache_geometry()] {
        run_all(&Program {
            code: code.clone(),
            regs: [0; 8],
            geometry,
            tick: 37,
            ring0: false,
            mode: modes::Mode::Flat,
            large: false,
            stops: vec![10, 100, 7, 200, 500],
        });
    }
}

#[test]
fn remapped_code_is_seen() {
    // The kernel swaps the frames of two code pages and says so by invlpg: the second call runs
    // other code.
    let mut outcomes = Vec::new();
    for engine in [Engine::Reference, Engine::Fast] {
        let mut cpu = machine();
        place(&mut cpu, CODE_FRAME as u32, &[0xb0, 1, 0xc3]);
        place(&mut cpu, CODE_FRAME as u32 + 0x1000, &[0xb4, 2, 0xc3]);
        let mut a = CodeAssembler::new(32).unwrap();
        a.call(u64::from(USER_CODE)).unwrap();
        a.mov(dword_ptr(PT_USER as u32), (CODE_FRAME + 0x1000) as u32 | 7)
            .unwrap();
        a.invlpg(dword_ptr(USER_CODE)).unwrap();
        a.call(u64::from(USER_CODE)).unwrap();
        a.hlt().unwrap();
        place(&mut cpu, KERNEL, &a.assemble(u64::from(KERNEL)).unwrap());
        let mut state = EngineState::new(engine);
        assert_eq!(
            cpu.run(&mut state, &mut NoBus, &mut DecodeAll, 100),
            Exit::Halted
        );
        assert_eq!(cpu.regs[regs::EAX], 0x201);
        outcomes.push(cpu);
    }
    compare("fast", &outcomes[0], &outcomes[1]);
}
