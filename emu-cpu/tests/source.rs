//! Ring 3 as data: operations of a source, their faults, calls, retirement and counts.

mod common;

use common::*;
use emu_cpu::regs::{EAX, ECX, EDX, ESP};
use emu_cpu::*;
use emu_mmu::PhysAddr;
use iced_x86::code_asm::*;
use lowmem_cost::{Event, Side};

/// A list of operations, done one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Script {
    ops: Vec<UserOp>,
    at: usize,
    values: Vec<u32>,
    in_call: bool,
    returns: u32,
    eips: Vec<u32>,
}

impl Source for Script {
    fn next(&mut self, _: &mut Cpu) -> UserOp {
        self.ops.get(self.at).copied().unwrap_or(UserOp::Stop)
    }
    fn done(&mut self, cpu: &mut Cpu, op: &UserOp, value: u32) {
        assert_eq!(*op, self.ops[self.at]);
        self.at += 1;
        self.values.push(value);
        self.eips.push(cpu.eip);
    }
    fn entered(&mut self, _: &mut Cpu, _: &UserOp) {
        self.in_call = true;
    }
    fn returned_to_user(&mut self, cpu: &mut Cpu) {
        self.returns += 1;
        self.eips.push(cpu.eip);
        if std::mem::take(&mut self.in_call) {
            self.at += 1;
            self.values.push(cpu.regs[EAX]);
        }
    }
}

/// #PF stores code, EIP and CR2 at VARS and maps the page of CR2 to its own frame; int 0x80 adds
/// one, sysenter two to EAX; vector 20h counts.
fn kernel() -> Cpu {
    let mut cpu = machine();
    let put = |cpu: &mut Cpu, at: u32, f: &dyn Fn(&mut CodeAssembler)| {
        let mut a = CodeAssembler::new(32).unwrap();
        f(&mut a);
        place(cpu, at, &a.assemble(u64::from(at)).unwrap());
    };
    put(&mut cpu, STUBS, &|a| {
        a.pop(dword_ptr(VARS).ss()).unwrap();
        a.push(eax).unwrap();
        a.push(ecx).unwrap();
        a.mov(eax, dword_ptr(esp + 8)).unwrap();
        a.mov(dword_ptr(VARS + 4).ss(), eax).unwrap();
        a.mov(ecx, cr2).unwrap();
        a.mov(dword_ptr(VARS + 8).ss(), ecx).unwrap();
        a.invlpg(byte_ptr(ecx)).unwrap();
        a.shr(ecx, 12).unwrap();
        a.and(ecx, 511).unwrap();
        a.mov(eax, ecx).unwrap();
        a.shl(eax, 12).unwrap();
        a.add(eax, (CODE_FRAME as u32) | 7).unwrap();
        a.mov(dword_ptr(ecx * 8 + PT_USER as u32).ss(), eax)
            .unwrap();
        a.pop(ecx).unwrap();
        a.pop(eax).unwrap();
        a.iretd().unwrap();
    });
    gate(&mut cpu, 14, STUBS, 0xe, 0);
    put(&mut cpu, STUBS + 0x100, &|a| {
        a.inc(eax).unwrap();
        a.iretd().unwrap();
    });
    gate(&mut cpu, 0x80, STUBS + 0x100, 0xf, 3);
    put(&mut cpu, STUBS + 0x200, &|a| {
        a.add(eax, 2).unwrap();
        a.mov(edx, USER_CODE + SYSENTER_RETURN).unwrap();
        a.mov(ecx, ebp).unwrap();
        a.sti().unwrap();
        a.sysexit().unwrap();
    });
    put(&mut cpu, STUBS + 0x300, &|a| {
        a.inc(dword_ptr(VARS + 12).ss()).unwrap();
        a.iretd().unwrap();
    });
    gate(&mut cpu, 0x20, STUBS + 0x300, 0xe, 0);
    cpu.sysenter = SysenterMsrs {
        cs: u32::from(KCS),
        esp: KSTACK,
        eip: STUBS + 0x200,
    };
    enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
    cpu.set_eflags(0x202);
    cpu
}

/// Runs to the end of the script: the reference on a clone, then the fast engine, which must do and
/// count the same.
fn run(cpu: &mut Cpu, script: &mut Script) {
    let expected = {
        let mut copy = cpu.clone_cow().expect("a clone");
        let mut script = script.clone();
        finish(Engine::Reference, &mut copy, &mut script);
        (copy.dump(), copy.mmu.account.clone(), script)
    };
    finish(Engine::Fast, cpu, script);
    assert_eq!(
        expected,
        (cpu.dump(), cpu.mmu.account.clone(), script.clone())
    );
}

fn finish(engine: Engine, cpu: &mut Cpu, script: &mut Script) {
    let mut state = EngineState::new(engine);
    let exit = cpu.run(&mut state, &mut NoBus, script, 100_000);
    assert_eq!(exit, Exit::Stopped, "{}", cpu.dump());
}

#[test]
fn operations_access_and_retire() {
    let mut cpu = kernel();
    let d = USER_DATA;
    let mut s = Script {
        ops: vec![
            UserOp::Fetch {
                va: USER_CODE + 5,
                len: 3,
            },
            UserOp::Store {
                va: d,
                len: 4,
                value: 0x1122_3344,
            },
            UserOp::Load { va: d + 1, len: 2 },
            UserOp::Modify {
                va: d + 2,
                len: 1,
                value: 0xff,
            },
            UserOp::Load { va: d, len: 4 },
            UserOp::Work(10),
            UserOp::Store {
                va: d + 0x10,
                len: 12,
                value: 0x0807_0605_0403_0201,
            },
            UserOp::Load {
                va: d + 0x10,
                len: 12,
            },
            UserOp::Load {
                va: d + 0x10,
                len: 8,
            },
        ],
        ..Script::default()
    };
    let before = cpu.mmu.account.clone();
    run(&mut cpu, &mut s);
    let long = source::fold(
        source::fold(source::fold(0, 0x0403_0201), 0x0807_0605),
        0x0403_0201,
    );
    let eight = source::fold(source::fold(0, 0x0403_0201), 0x0807_0605);
    assert_eq!(
        s.values,
        [0, 0, 0x2233, 0x22, 0x11ff_3344, 0, 0, long, eight]
    );
    let a = cpu.mmu.account.since(&before);
    // The fetch with its store and load; modify, load, ten of work, store, load, load.
    assert_eq!(cpu.retired(), 1 + 1 + 1 + 10 + 1 + 1 + 1);
    assert_eq!(a.get(Side::User, Event::UserInstructions), cpu.retired());
    assert_eq!(a.get(Side::User, Event::InsnSimple), cpu.retired());
    assert_eq!(a.total(Event::Instructions), 0);
    assert_eq!(a.total(Event::ItlbAccess), 11);
    assert_eq!(a.total(Event::DtlbAccess), 7);
    assert_eq!(s.eips, [USER_CODE + 5; 9]);
}

#[test]
fn faults_carry_the_last_fetch_and_are_retried() {
    let mut cpu = kernel();
    let absent = USER_DATA + 0x2000;
    let mut s = Script {
        ops: vec![
            UserOp::Fetch {
                va: USER_CODE + 0x123,
                len: 2,
            },
            UserOp::Store {
                va: absent + 8,
                len: 4,
                value: 5,
            },
            UserOp::Load {
                va: absent + 8,
                len: 4,
            },
        ],
        ..Script::default()
    };
    run(&mut cpu, &mut s);
    assert_eq!(s.values, [0, 0, 5]);
    assert_eq!(s.returns, 1);
    assert_eq!(
        (
            read32(&cpu, VARS),
            read32(&cpu, VARS + 4),
            read32(&cpu, VARS + 8)
        ),
        (6, USER_CODE + 0x123, absent + 8)
    );
    assert_eq!(cpu.eip, USER_CODE + 0x123);
    assert_eq!(cpu.mmu.account.total(Event::UserInstructions), 1);
    assert_eq!(
        cpu.mmu.account.get(Side::EntryExit, Event::EntryPageFault),
        1
    );
    assert!(cpu.mmu.account.get(Side::User, Event::DtlbMiss) > 0);

    // A fetch fault: code 4 (no NX), EIP is the target.
    let mut s = Script {
        ops: vec![UserOp::Fetch {
            va: USER_DATA + 0x6010,
            len: 2,
        }],
        ..Script::default()
    };
    run(&mut cpu, &mut s);
    assert_eq!(
        (
            read32(&cpu, VARS),
            read32(&cpu, VARS + 4),
            read32(&cpu, VARS + 8)
        ),
        (4, USER_DATA + 0x6010, USER_DATA + 0x6010)
    );
}

#[test]
fn system_calls_both_ways() {
    let mut cpu = kernel();
    let regs = CallRegs {
        eax: 40,
        ebx: 1,
        ecx: 2,
        edx: 3,
        esi: 4,
        edi: 5,
        ebp: 6,
    };
    let call = |via| UserOp::Syscall { regs, via };
    // The stack of the stub lies on an absent page: it faults once and is asked for again.
    let stack = USER_DATA + 0x2800;
    cpu.regs[ESP] = stack;
    let mut s = Script {
        ops: vec![
            UserOp::Fetch {
                va: USER_CODE + 0x500,
                len: 2,
            },
            call(Via::Int80),
            call(Via::Sysenter { stub: USER_CODE }),
            UserOp::Fetch {
                va: USER_CODE + 0x502,
                len: 2,
            },
        ],
        ..Script::default()
    };
    let before = cpu.mmu.account.clone();
    run(&mut cpu, &mut s);
    assert_eq!(s.values, [0, 41, 42, 0]);
    assert_eq!(s.returns, 3, "int 0x80, the stub's fault, sysexit");
    assert_eq!(s.eips[1], USER_CODE + 0x502, "EIP + 2 was pushed");
    assert_eq!(read32(&cpu, VARS + 8), stack - 4);
    assert_eq!((cpu.regs[ESP], cpu.regs[ECX], cpu.regs[EDX]), (stack, 2, 3));
    let a = cpu.mmu.account.since(&before);
    // fetch, int, four and sysenter, three pops and ret, fetch
    assert_eq!(a.total(Event::UserInstructions), 1 + 1 + 5 + 4 + 1);
    assert_eq!(
        (
            a.get(Side::EntryExit, Event::EntryInt),
            a.get(Side::EntryExit, Event::Sysenter)
        ),
        (1, 1)
    );
    assert_eq!((a.total(Event::Iret), a.total(Event::Sysexit)), (2, 1));
    assert_eq!(
        a.total(Event::UserInstructions) + a.total(Event::Instructions),
        cpu.retired()
    );
}

#[test]
fn every_operation_boundary_is_an_interrupt_point() {
    let mut cpu = kernel();
    cpu.set_tick(1000, 0x20);
    let mut s = Script {
        ops: vec![UserOp::Work(1500); 8],
        ..Script::default()
    };
    run(&mut cpu, &mut s);
    assert_eq!(
        read32(&cpu, VARS + 12),
        8,
        "one after each operation, the missed ones are lost"
    );
    assert_eq!(cpu.mmu.account.get(Side::EntryExit, Event::EntryIrq), 8);
    assert_eq!(s.returns, 8);
}

#[test]
fn decoding_goes_on_until_ring_3_is_left() {
    let mut cpu = kernel();
    place(&mut cpu, CODE_FRAME as u32, &[0xb8, 7, 0, 0, 0, 0xcd, 0x80]);
    struct Once(bool, u32);
    impl Source for Once {
        fn next(&mut self, cpu: &mut Cpu) -> UserOp {
            if std::mem::replace(&mut self.0, true) {
                self.1 = cpu.regs[EAX];
                UserOp::Stop
            } else {
                UserOp::Decode
            }
        }
        fn done(&mut self, _: &mut Cpu, _: &UserOp, _: u32) {}
        fn returned_to_user(&mut self, _: &mut Cpu) {}
    }
    let mut once = Once(false, 0);
    let mut engine = EngineState::new(Engine::Fast);
    assert_eq!(
        cpu.run(&mut engine, &mut NoBus, &mut once, 1000),
        Exit::Stopped
    );
    assert_eq!((once.1, cpu.eip), (8, USER_CODE + 7));
}

#[test]
fn clones_go_their_own_way() {
    let mut cpu = kernel();
    cpu.mmu.mem.write_u32(PhysAddr(DATA_FRAME), 1);
    let mut copy = cpu.clone_cow().unwrap();
    let store = |value| Script {
        ops: vec![
            UserOp::Store {
                va: USER_DATA,
                len: 4,
                value,
            },
            UserOp::Load {
                va: USER_DATA,
                len: 4,
            },
        ],
        ..Script::default()
    };
    let mut s = store(2);
    run(&mut copy, &mut s);
    assert_eq!(s.values, [0, 2]);
    assert_eq!(read32(&cpu, DATA_FRAME as u32), 1);
}
