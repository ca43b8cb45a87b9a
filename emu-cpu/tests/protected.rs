//! A hand-assembled PAE image: faults with exact error codes, ring 3, int 0x80, sysenter,
//! interrupts, double and triple faults.

mod common;

use common::*;
use emu_cpu::regs::{EAX, EBX, ECX, EDX, ESP};
use emu_cpu::*;
use emu_mmu::{Mmu, PhysAddr};
use iced_x86::code_asm::*;
use lowmem_cost::{Event, Geometry, Side};

/// Assembles for `at` and places it there.
fn assemble(cpu: &mut Cpu, at: u32, phys: u32, f: impl FnOnce(&mut CodeAssembler)) {
    let mut a = CodeAssembler::new(32).unwrap();
    f(&mut a);
    let bytes = a.assemble(u64::from(at)).unwrap();
    place(cpu, phys, &bytes);
}

fn engines() -> [EngineState; 2] {
    [
        EngineState::new(Engine::Reference),
        EngineState::new(Engine::Fast),
    ]
}

/// Every vector goes to a stub that stores vector, error code (or ~0), EIP, CS and CR2 at VARS and
/// halts.
fn recording_stubs(cpu: &mut Cpu) {
    for vector in 0..=0x20u8 {
        let at = STUBS + u32::from(vector) * 64;
        assemble(cpu, at, at, |a| {
            if !has_code(vector) {
                a.push(-1).unwrap();
            }
            a.mov(dword_ptr(VARS), u32::from(vector)).unwrap();
            a.pop(dword_ptr(VARS + 4)).unwrap();
            a.pop(dword_ptr(VARS + 8)).unwrap();
            a.pop(dword_ptr(VARS + 12)).unwrap();
            a.mov(eax, cr2).unwrap();
            a.mov(dword_ptr(VARS + 16), eax).unwrap();
            a.hlt().unwrap();
        });
        gate(cpu, vector, at, 0xe, 0);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Recorded {
    vector: u32,
    code: u32,
    eip: u32,
    cs: u32,
}

fn recorded(cpu: &Cpu) -> Recorded {
    Recorded {
        vector: read32(cpu, VARS),
        code: read32(cpu, VARS + 4),
        eip: read32(cpu, VARS + 8),
        cs: read32(cpu, VARS + 12) & 0xffff,
    }
}

/// Runs user code and gives the first exception.
fn user_fault(f: impl Fn(&mut CodeAssembler)) -> (Recorded, u32) {
    let mut results = Vec::new();
    for mut engine in engines() {
        let mut cpu = machine();
        recording_stubs(&mut cpu);
        assemble(&mut cpu, USER_CODE, CODE_FRAME as u32, &f);
        enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
        let exit = cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 1000);
        assert_eq!(exit, Exit::Halted, "{}", cpu.dump());
        assert_eq!(cpu.cpl(), 0);
        results.push((recorded(&cpu), read32(&cpu, VARS + 16)));
    }
    assert_eq!(results[0], results[1]);
    results.remove(0)
}

fn kernel_fault(f: impl Fn(&mut CodeAssembler)) -> (Recorded, u32) {
    let mut results = Vec::new();
    for mut engine in engines() {
        let mut cpu = machine();
        recording_stubs(&mut cpu);
        assemble(&mut cpu, KERNEL, KERNEL, &f);
        let exit = cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 1000);
        assert_eq!(exit, Exit::Halted, "{}", cpu.dump());
        results.push((recorded(&cpu), read32(&cpu, VARS + 16)));
    }
    assert_eq!(results[0], results[1]);
    results.remove(0)
}

#[test]
fn page_faults_push_exact_codes() {
    let ro = USER_DATA + 0x1000;
    let absent = USER_DATA + 0x2010;
    let supervisor = USER_DATA + 0x3000;
    let at = |address: u32, code: u32| {
        (
            Recorded {
                vector: 14,
                code,
                eip: USER_CODE,
                cs: u32::from(UCS),
            },
            address,
        )
    };
    assert_eq!(
        user_fault(|a| a.mov(eax, dword_ptr(absent)).unwrap()),
        at(absent, 4)
    );
    assert_eq!(
        user_fault(|a| a.mov(dword_ptr(absent), eax).unwrap()),
        at(absent, 6)
    );
    assert_eq!(
        user_fault(|a| a.mov(dword_ptr(ro), eax).unwrap()),
        at(ro, 7)
    );
    assert_eq!(user_fault(|a| a.add(dword_ptr(ro), 1).unwrap()), at(ro, 7));
    assert_eq!(
        user_fault(|a| a.mov(eax, dword_ptr(supervisor)).unwrap()),
        at(supervisor, 5)
    );
    // A page-crossing write reports the page that faults.
    assert_eq!(
        user_fault(|a| a.mov(dword_ptr(USER_DATA + 0xffe), eax).unwrap()),
        at(ro, 7)
    );
    // A fetch: no bit 4 without NXE; EIP is the target.
    let (r, address) = user_fault(|a| a.jmp(u64::from(absent)).unwrap());
    assert_eq!((r.code, r.eip, address), (4, absent, absent));
    // Kernel writes to a read-only page with WP=1.
    let (r, address) = kernel_fault(|a| a.mov(dword_ptr(ro), eax).unwrap());
    assert_eq!(
        (r.code, r.eip, r.cs, address),
        (3, KERNEL, u32::from(KCS), ro)
    );
}

#[test]
fn privileged_instructions_fault_in_ring_3() {
    let gp = |code| Recorded {
        vector: 13,
        code,
        eip: USER_CODE,
        cs: u32::from(UCS),
    };
    assert_eq!(user_fault(|a| a.hlt().unwrap()).0, gp(0));
    assert_eq!(user_fault(|a| a.cli().unwrap()).0, gp(0));
    assert_eq!(user_fault(|a| a.mov(eax, cr0).unwrap()).0, gp(0));
    assert_eq!(user_fault(|a| a.mov(cr3, eax).unwrap()).0, gp(0));
    assert_eq!(user_fault(|a| a.invlpg(dword_ptr(0)).unwrap()).0, gp(0));
    assert_eq!(user_fault(|a| a.wrmsr().unwrap()).0, gp(0));
    // Gates have DPL 0: #GP(vector*8 + 2).
    assert_eq!(user_fault(|a| a.int(0x20).unwrap()).0, gp(0x102));
    assert_eq!(user_fault(|a| a.int(0x80).unwrap()).0, gp(0x402));
    // The null selector, and one beyond the table.
    assert_eq!(
        user_fault(|a| {
            a.mov(eax, 0x1000).unwrap();
            a.mov(ds, eax).unwrap();
        })
        .0,
        Recorded {
            eip: USER_CODE + 5,
            ..gp(0x1000)
        }
    );
    assert_eq!(user_fault(|a| a.ud2().unwrap()).0.vector, 6);
    assert_eq!(
        user_fault(|a| {
            a.xor(ecx, ecx).unwrap();
            a.div(ecx).unwrap();
        })
        .0,
        Recorded {
            vector: 0,
            code: u32::MAX,
            eip: USER_CODE + 2,
            cs: u32::from(UCS)
        }
    );
}

/// The kernel of the ring-3 tests: #PF maps the page by flipping its entry and returns; int 0x80
/// returns eax + 1.
fn small_kernel(cpu: &mut Cpu) {
    assemble(cpu, STUBS, STUBS, |a| {
        // #PF: entry of CR2 in PT_USER gets frame DATA_FRAME + 0xf000, rights 7.
        a.push(eax).unwrap();
        a.push(ecx).unwrap();
        a.mov(ecx, cr2).unwrap();
        a.invlpg(byte_ptr(ecx)).unwrap();
        a.shr(ecx, 12).unwrap();
        a.and(ecx, 511).unwrap();
        a.mov(eax, (DATA_FRAME + 0xf000) as u32 | 7).unwrap();
        a.mov(dword_ptr(ecx * 8 + PT_USER as u32), eax).unwrap();
        a.inc(dword_ptr(VARS)).unwrap();
        a.pop(ecx).unwrap();
        a.pop(eax).unwrap();
        a.add(esp, 4).unwrap();
        a.iretd().unwrap();
    });
    gate(cpu, 14, STUBS, 0xe, 0);
    assemble(cpu, STUBS + 0x100, STUBS + 0x100, |a| {
        a.inc(eax).unwrap();
        a.iretd().unwrap();
    });
    gate(cpu, 0x80, STUBS + 0x100, 0xe, 3);
    assemble(cpu, STUBS + 0x200, STUBS + 0x200, |a| {
        // sysenter: return to edx with stack ecx, eax + 2.
        a.add(eax, 2).unwrap();
        a.sti().unwrap();
        a.sysexit().unwrap();
    });
    assemble(cpu, STUBS + 0x300, STUBS + 0x300, |a| {
        a.inc(dword_ptr(VARS + 4)).unwrap();
        a.iretd().unwrap();
    });
    gate(cpu, 0x20, STUBS + 0x300, 0xe, 0);
    cpu.sysenter = SysenterMsrs {
        cs: u32::from(KCS),
        esp: KSTACK,
        eip: STUBS + 0x200,
    };
    gate(cpu, 3, STUBS + 0x100, 0xe, 3);
}

#[test]
fn ring_3_faults_calls_and_returns() {
    for mut engine in engines() {
        let mut cpu = machine();
        small_kernel(&mut cpu);
        let absent = USER_DATA + 0x2000;
        assemble(&mut cpu, USER_CODE, CODE_FRAME as u32, |a| {
            let mut back = a.create_label();
            a.mov(eax, 40).unwrap();
            a.int(0x80).unwrap();
            a.mov(dword_ptr(absent), eax).unwrap();
            a.mov(ebx, dword_ptr(absent)).unwrap();
            a.mov(eax, 100).unwrap();
            a.mov(ecx, esp).unwrap();
            a.call(back).unwrap();
            a.set_label(&mut back).unwrap();
            a.pop(edx).unwrap();
            a.add(edx, 8).unwrap();
            a.sysenter().unwrap();
            a.nop().unwrap();
            a.nop().unwrap();
            a.int3().unwrap();
            let mut forever = a.create_label();
            a.set_label(&mut forever).unwrap();
            a.jmp(forever).unwrap();
        });
        enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
        cpu.set_eflags(0x202);
        let exit = cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 60);
        assert_eq!(exit, Exit::Limit);
        assert_eq!(cpu.cpl(), 3);
        assert_eq!(cpu.regs[EBX], 41);
        assert_eq!(cpu.regs[EAX], 103, "sysenter added 2, int3 added 1");
        assert_eq!(cpu.regs[ESP], USER_STACK_TOP);
        assert_eq!(read32(&cpu, VARS), 1, "one page fault");
        assert_eq!(cpu.mmu.mem.read_u32(PhysAddr(DATA_FRAME + 0xf000)), 41);
        let a = &cpu.mmu.account;
        assert_eq!(a.total(Event::EntryPageFault), 1);
        assert_eq!(a.total(Event::EntryInt), 2);
        assert_eq!(a.total(Event::Iret), 3);
        assert_eq!(
            (
                a.get(Side::EntryExit, Event::Sysenter),
                a.get(Side::EntryExit, Event::Sysexit)
            ),
            (1, 1)
        );
        assert_eq!(a.total(Event::Instructions), cpu.retired());
        assert_eq!(a.get(Side::EntryExit, Event::InsnInvlpg), 1);
        assert_eq!(a.get(Side::User, Event::InsnInvlpg), 0);
    }
}

#[test]
fn ticks_come_every_so_many_instructions() {
    let mut counts = Vec::new();
    for mut engine in engines() {
        let mut cpu = machine();
        small_kernel(&mut cpu);
        assemble(&mut cpu, USER_CODE, CODE_FRAME as u32, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            for _ in 0..7 {
                a.inc(esi).unwrap();
            }
            a.dec(edi).unwrap();
            a.jne(top).unwrap();
            a.int3().unwrap();
            a.jmp(top).unwrap();
        });
        enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
        cpu.regs[regs::EDI] = 1000;
        cpu.set_eflags(0x202);
        cpu.set_tick(100, 0x20);
        assert_eq!(
            cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 5000),
            Exit::Limit
        );
        let ticks = read32(&cpu, VARS + 4);
        assert!((48..=50).contains(&ticks), "{ticks}");
        assert_eq!(cpu.mmu.account.total(Event::EntryIrq), u64::from(ticks));
        counts.push((cpu.retired(), cpu.eip, cpu.mmu.account.clone()));
    }
    assert_eq!(counts[0], counts[1]);
}

#[test]
fn sti_shadow_and_hlt() {
    for mut engine in engines() {
        let mut cpu = machine();
        small_kernel(&mut cpu);
        assemble(&mut cpu, KERNEL, KERNEL, |a| {
            a.sti().unwrap();
            a.hlt().unwrap();
            a.inc(ebx).unwrap();
            a.hlt().unwrap();
        });
        cpu.raise(0x20);
        // IF=0: nothing happens before sti; the interrupt wakes the first hlt, the second has
        // nothing to wait for.
        let exit = cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100);
        assert_eq!(exit, Exit::Halted);
        assert_eq!((cpu.regs[EBX], read32(&cpu, VARS + 4)), (1, 1));
        cpu.raise(0x20);
        cpu.mmu.mem.write_u8(PhysAddr(u64::from(cpu.eip)), 0xf4);
        engine.flush();
        assert_eq!(
            cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100),
            Exit::Halted
        );
        assert_eq!(read32(&cpu, VARS + 4), 2);
    }
}

#[test]
fn the_shadow_of_sti_reaches_over_a_page_end() {
    for mut engine in engines() {
        let mut cpu = machine();
        small_kernel(&mut cpu);
        assemble(&mut cpu, KERNEL + 0xfff, KERNEL + 0xfff, |a| {
            a.sti().unwrap();
            a.mov(ebx, dword_ptr(VARS + 4)).unwrap();
            let mut next = a.create_label();
            a.jmp(next).unwrap();
            a.set_label(&mut next).unwrap();
            a.mov(ecx, dword_ptr(VARS + 4)).unwrap();
            a.cli().unwrap();
            a.hlt().unwrap();
        });
        cpu.eip = KERNEL + 0xfff;
        cpu.raise(0x20);
        let exit = cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100);
        assert_eq!(exit, Exit::Halted);
        assert_eq!((cpu.regs[EBX], cpu.regs[ECX]), (0, 1));
    }
}

#[test]
fn double_and_triple_faults() {
    for mut engine in engines() {
        // #UD whose gate is not present: #NP while delivering a benign exception is delivered as
        // #NP.
        engine.flush();
        let mut cpu = machine();
        recording_stubs(&mut cpu);
        cpu.mmu.mem.write_u64(
            PhysAddr(u64::from(IDT) + 6 * 8),
            0x8e00_0008_0000 & !(1 << 47),
        );
        assemble(&mut cpu, KERNEL, KERNEL, |a| a.ud2().unwrap());
        cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100);
        assert_eq!(
            recorded(&cpu),
            Recorded {
                vector: 11,
                code: 6 * 8 + 2 + 1,
                eip: KERNEL,
                cs: u32::from(KCS)
            }
        );
        // A page fault on the stack of a page fault: double fault with code 0 on... the same bad
        // stack: triple.
        engine.flush();
        let mut cpu = machine();
        recording_stubs(&mut cpu);
        assemble(&mut cpu, KERNEL, KERNEL, |a| {
            a.mov(esp, 0x5000_0000).unwrap();
            a.push(eax).unwrap();
        });
        let exit = cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100);
        let Exit::TripleFault(dump) = exit else {
            panic!("{exit:?}")
        };
        assert_eq!(dump.vectors, [14, 8, 14]);
        assert_eq!((dump.eip, dump.control[1]), (KERNEL + 5, 0x4fff_fffc));
        // From ring 3 the double fault finds a good stack: make the #PF gate's segment bad (#GP is
        // contributory).
        engine.flush();
        let mut cpu = machine();
        recording_stubs(&mut cpu);
        let bad = Descriptor::gate(0x1000, STUBS, 0xe, 0);
        cpu.mmu
            .mem
            .write_u64(PhysAddr(u64::from(IDT) + 14 * 8), bad.0);
        assemble(&mut cpu, USER_CODE, CODE_FRAME as u32, |a| {
            a.mov(eax, dword_ptr(0x7000_0000)).unwrap()
        });
        enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
        cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100);
        assert_eq!(
            recorded(&cpu),
            Recorded {
                vector: 8,
                code: 0,
                eip: USER_CODE,
                cs: u32::from(UCS)
            }
        );
    }
}

#[test]
fn system_registers_and_tables() {
    for mut engine in engines() {
        let mut cpu = machine();
        recording_stubs(&mut cpu);
        assemble(&mut cpu, KERNEL, KERNEL, |a| {
            a.sgdt(dword_ptr(VARS + 0x100)).unwrap();
            a.lgdt(dword_ptr(VARS + 0x100)).unwrap();
            a.mov(eax, u32::from(TSS_SEL)).unwrap();
            a.ltr(ax).unwrap();
            a.str(ebx).unwrap();
            a.mov(ecx, 0x174).unwrap();
            a.mov(eax, 0x1234).unwrap();
            a.xor(edx, edx).unwrap();
            a.wrmsr().unwrap();
            a.xor(eax, eax).unwrap();
            a.rdmsr().unwrap();
            a.mov(esi, eax).unwrap();
            a.mov(eax, cr4).unwrap();
            a.xor(eax, 0x80).unwrap();
            a.mov(cr4, eax).unwrap();
            a.mov(edi, cr3).unwrap();
            a.mov(cr3, edi).unwrap();
            a.rdtsc().unwrap();
            a.hlt().unwrap();
        });
        assert_eq!(
            cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100),
            Exit::Halted,
            "{}",
            cpu.dump()
        );
        assert_eq!(cpu.regs[EBX], u32::from(TSS_SEL), "{:?}", recorded(&cpu));
        assert_eq!(cpu.regs[regs::ESI], 0x1234);
        assert_eq!(
            (cpu.regs[EAX], cpu.regs[EDX], cpu.regs[ECX]),
            (17, 0, 0x174)
        );
        let a = &cpu.mmu.account;
        assert_eq!(a.total(Event::FlushGlobal), 1);
        assert_eq!(a.total(Event::InsnMovCr3), 1);
        assert_eq!(cpu.retired(), 19);
        // A busy TSS cannot be loaded again.
        assert_eq!(
            kernel_fault(|a| {
                a.mov(eax, u32::from(TSS_SEL)).unwrap();
                a.ltr(ax).unwrap();
                a.ltr(ax).unwrap();
            })
            .0,
            Recorded {
                vector: 13,
                code: u32::from(TSS_SEL),
                eip: KERNEL + 9,
                cs: u32::from(KCS)
            }
        );
    }
}

#[test]
fn segment_limits_are_checked() {
    for mut engine in engines() {
        let mut cpu = machine();
        recording_stubs(&mut cpu);
        let mut s = Segment::flat(UDS, 0x4093 | 0x60);
        s.base = USER_DATA;
        s.limit = 0xfff;
        assemble(&mut cpu, USER_CODE, CODE_FRAME as u32, |a| {
            a.mov(eax, dword_ptr(0xffc).fs()).unwrap();
            a.mov(eax, dword_ptr(0xffd).fs()).unwrap();
        });
        cpu.mmu.mem.write_u32(PhysAddr(DATA_FRAME + 0xffc), 77);
        enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
        cpu.set_segment(Seg::Fs, s);
        cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100);
        let r = recorded(&cpu);
        assert_eq!((r.vector, r.code, r.eip), (13, 0, USER_CODE + 6));
    }
}

#[test]
fn split_cr3_loads_are_told_apart() {
    for mut engine in engines() {
        let g = Geometry::pentium3();
        let mut cpu = machine_with(Mmu::new(memory(), &g).unwrap(), &g);
        assemble(&mut cpu, KERNEL, KERNEL, |a| {
            a.mov(eax, cr3).unwrap();
            a.mov(cr3, eax).unwrap();
            a.mov(cr3, eax).unwrap();
            a.hlt().unwrap();
        });
        cpu.set_trampoline(KERNEL + 6..KERNEL + 9);
        let before = cpu.mmu.account.clone();
        cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100);
        let a = cpu.mmu.account.since(&before);
        assert_eq!(a.total(Event::FlushSplit), 1);
        assert_eq!(a.total(Event::FlushCr3), 1);
    }
}

#[test]
fn probes_cost_nothing() {
    struct Probes(Vec<(u16, u64)>);
    impl Bus for Probes {
        fn port_in(&mut self, port: u16, size: u8) -> u32 {
            u32::from(port) << 8 | u32::from(size)
        }
        fn port_out(&mut self, port: u16, _: u8, value: u32) -> Flow {
            self.0.push((port, u64::from(value)));
            Flow::Stop
        }
        fn probe(&mut self, id: u16, cpu: &mut Cpu) {
            self.0.push((id, cpu.retired()));
            cpu.mmu.account.set_side(Side::Unmap);
        }
    }
    let mut accounts = Vec::new();
    for mut engine in engines() {
        let mut cpu = machine();
        cpu.probes = true;
        assemble(&mut cpu, KERNEL, KERNEL, |a| {
            a.mov(eax, 1).unwrap();
            a.mov(ebx, 2).unwrap();
            a.db(&[0x0f, 0x1f, 0x84, 0x00, 0x34, 0x12, 0x4d, 0x4c])
                .unwrap();
            a.inc(eax).unwrap();
            a.mov(edx, 0x3f8).unwrap();
            a.out(dx, al).unwrap();
            a.in_(eax, 0x42).unwrap();
            a.hlt().unwrap();
        });
        let mut bus = Probes(Vec::new());
        assert_eq!(
            cpu.run(&mut engine, &mut bus, &mut DecodeAll, 100),
            Exit::Port
        );
        assert_eq!(bus.0, [(0x1234, 2), (0x3f8, 2)]);
        assert_eq!(
            cpu.run(&mut engine, &mut bus, &mut DecodeAll, 100),
            Exit::Halted
        );
        assert_eq!((cpu.regs[EAX], cpu.retired()), (0x4204, 7));
        let a = cpu.mmu.account.clone();
        assert_eq!(a.get(Side::OtherKernel, Event::Instructions), 2);
        assert_eq!(a.get(Side::Unmap, Event::Instructions), 5);
        assert_eq!(a.total(Event::ItlbAccess), 7);
        accounts.push(a);
    }
    assert_eq!(accounts[0], accounts[1]);
}

#[test]
fn breakpoints_and_limits() {
    for mut engine in engines() {
        let mut cpu = machine();
        assemble(&mut cpu, KERNEL, KERNEL, |a| {
            a.inc(eax).unwrap();
            a.inc(eax).unwrap();
            a.hlt().unwrap();
        });
        cpu.breakpoints.insert(KERNEL + 1);
        let mut run = |cpu: &mut Cpu| cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, 100);
        assert_eq!(run(&mut cpu), Exit::Breakpoint(KERNEL + 1));
        assert_eq!(cpu.regs[EAX], 1);
        assert_eq!(run(&mut cpu), Exit::Halted);
        assert_eq!(cpu.regs[EAX], 2);
    }
}

#[test]
fn watchdog_of_interrupts_off() {
    let mut cpu = machine();
    place(&mut cpu, KERNEL, &[0xeb, 0xfe]);
    let mut engine = EngineState::new(Engine::Fast);
    let exit = cpu.run(&mut engine, &mut NoBus, &mut DecodeAll, u64::MAX);
    assert_eq!(
        exit,
        Exit::Watchdog {
            which: Watchdog::InterruptsOff,
            eip: KERNEL
        }
    );
    let n = cpu.retired();
    assert!((1 << 27..(1 << 27) + (2 << 20)).contains(&n), "{n}");
}
