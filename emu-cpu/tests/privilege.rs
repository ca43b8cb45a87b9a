//! Protection by the manual: exact vectors and error codes of selector loads, gates, returns and
//! task switches, and what a successful one leaves behind (SDM vol. 3, chapters 5 to 7; vol. 2,
//! CALL, JMP, IRET, INT).

mod common;

use common::*;
use emu_cpu::regs::{EAX, ECX, ESP};
use emu_cpu::segment::{CODE32, DATA32};
use emu_cpu::*;
use emu_mmu::PhysAddr;

const TSS2: u32 = 0xa200;
/// Selectors added to the GDT of `common`.
const ABSENT_DATA: u16 = 0x30;
const CONFORMING: u16 = 0x38;
const KERNEL_GATE: u16 = 0x40;
const USER_GATE: u16 = 0x48;
const ABSENT_GATE: u16 = 0x50;
const NULL_GATE: u16 = 0x58;
const NEW_TASK: u16 = 0x60;
const TASK_GATE: u16 = 0x68;
const SHORT_TASK: u16 = 0x70;
const LDT: u16 = 0x78;
const ABSENT_CODE: u16 = 0x80;
const ABSENT_STACK: u16 = 0x88;
const GATE16: u16 = 0x90;
const READ_ONLY: u16 = 0x98;

/// Where call gates lead: `mov ecx, [esp+8]; hlt`.
const GATE_CODE: u32 = STUBS + 0x700;

fn descriptors() -> [(u16, Descriptor); 14] {
    let user = 0x60;
    [
        (
            ABSENT_DATA,
            Descriptor::new(0, u32::MAX, DATA32 & !0x80 | user),
        ),
        (CONFORMING, Descriptor::new(0, u32::MAX, CODE32 | 4)),
        (KERNEL_GATE, Descriptor::gate(KCS, GATE_CODE, 0xc, 0)),
        // Two parameters.
        (
            USER_GATE,
            Descriptor(Descriptor::gate(KCS, GATE_CODE, 0xc, 3).0 | 2 << 32),
        ),
        (
            ABSENT_GATE,
            Descriptor(Descriptor::gate(KCS, GATE_CODE, 0xc, 3).0 & !(1 << 47)),
        ),
        (NULL_GATE, Descriptor::gate(0, GATE_CODE, 0xc, 3)),
        (NEW_TASK, Descriptor::new(TSS2, 0x67, 0x89)),
        (TASK_GATE, Descriptor::gate(NEW_TASK, 0, 5, 3)),
        (SHORT_TASK, Descriptor::new(TSS2, 0x66, 0x89)),
        (LDT, Descriptor::new(0xa400, 0xf, 0x82)),
        (ABSENT_CODE, Descriptor::new(0, u32::MAX, CODE32 & !0x80)),
        (ABSENT_STACK, Descriptor::new(0, u32::MAX, DATA32 & !0x80)),
        (GATE16, Descriptor::gate(KCS, GATE_CODE, 4, 3)),
        (READ_ONLY, Descriptor::new(0, u32::MAX, DATA32 & !2)),
    ]
}

/// Every vector halts at its own place.
fn prepared() -> Cpu {
    let mut cpu = machine();
    for (selector, d) in descriptors() {
        let at = u64::from(GDT) + u64::from(selector);
        cpu.mmu.mem.write_u64(PhysAddr(at), d.0);
    }
    cpu.gdtr.limit = 0x9f;
    for vector in 0..=0x30u8 {
        let at = STUBS + u32::from(vector) * 4;
        place(&mut cpu, at, &[0xf4]);
        gate(
            &mut cpu,
            vector,
            at,
            0xe,
            if vector == 0x30 { 3 } else { 0 },
        );
    }
    place(&mut cpu, GATE_CODE, &[0x8b, 0x4c, 0x24, 0x08, 0xf4]);
    // The second task halts at once, at CPL 0.
    for (at, value) in [
        (0x1c, cpu.cr3()),
        (0x20, GATE_CODE + 4),
        (0x24, 2),
        (0x28, 0x1111_1111),
        (0x38, KSTACK - 0x800),
        (0x48, u32::from(KDS)),
        (0x4c, u32::from(KCS)),
        (0x50, u32::from(KDS)),
        (0x54, u32::from(KDS)),
    ] {
        place(&mut cpu, TSS2 + at, &value.to_le_bytes());
    }
    cpu
}

/// Where a program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ring {
    Zero,
    Three,
}
use Ring::{Three, Zero};

fn run(ring: Ring, code: &[u8], prepare: &dyn Fn(&mut Cpu)) -> Cpu {
    let mut both = Vec::new();
    for engine in [Engine::Reference, Engine::Fast] {
        let mut cpu = prepared();
        let code = [code, &[0xf4]].concat();
        match ring {
            Zero => place(&mut cpu, KERNEL, &code),
            Three => {
                place(&mut cpu, CODE_FRAME as u32, &code);
                enter_user(&mut cpu, USER_CODE, USER_STACK_TOP - 0x100);
            }
        }
        prepare(&mut cpu);
        let mut state = EngineState::new(engine);
        let exit = cpu.run(&mut state, &mut NoBus, &mut DecodeAll, 1000);
        assert_eq!(exit, Exit::Halted, "{}", cpu.dump());
        both.push(cpu);
    }
    assert_eq!(both[0].dump(), both[1].dump());
    assert_eq!(both[0].mmu.account, both[1].mmu.account);
    both.remove(0)
}

/// The vector whose handler halted, and the error code on its stack.
fn fault(ring: Ring, code: &[u8]) -> (u32, u32) {
    fault_with(ring, code, &|_| {})
}
fn fault_with(ring: Ring, code: &[u8], prepare: &dyn Fn(&mut Cpu)) -> (u32, u32) {
    let cpu = run(ring, code, prepare);
    let at = cpu.eip - 1 - STUBS;
    assert!(at <= 0x30 * 4, "no handler: {}", cpu.dump());
    (at / 4, read32(&cpu, cpu.regs[ESP]))
}

/// mov ax, selector; then `rest`.
fn with_ax(selector: u16, rest: &[u8]) -> Vec<u8> {
    let [low, high] = selector.to_le_bytes();
    [&[0x66, 0xb8, low, high], rest].concat()
}
const MOV_DS: &[u8] = &[0x8e, 0xd8];
const MOV_SS: &[u8] = &[0x8e, 0xd0];

/// A far call (9Ah) or jump (EAh) to `selector:0`.
fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let [low, high] = selector.to_le_bytes();
    vec![opcode, 0, 0, 0, 0, low, high]
}
const CALL: u8 = 0x9a;
const JMP: u8 = 0xea;

const TS: u32 = 10;
const NP: u32 = 11;
const SS: u32 = 12;
const GP: u32 = 13;

#[test]
fn data_segments() {
    let load = |ring, selector| fault(ring, &with_ax(selector, MOV_DS));
    assert_eq!(load(Three, KDS), (GP, 0x10), "more privileged");
    assert_eq!(load(Zero, KDS | 3), (GP, 0x10), "by its RPL");
    assert_eq!(load(Zero, ABSENT_DATA), (NP, 0x30));
    assert_eq!(load(Zero, TSS_SEL), (GP, 0x28), "a system segment");
    assert_eq!(load(Zero, 0xa0), (GP, 0xa0), "beyond the table");
    assert_eq!(load(Zero, 0x0c), (GP, 0x0c), "no LDT");
    // Conforming code is readable for everybody.
    let cpu = run(
        Three,
        &with_ax(CONFORMING | 3, &[0x8e, 0xd8, 0xcd, 0x30]),
        &|_| {},
    );
    assert_eq!(cpu.eip, STUBS + 0x30 * 4 + 1);
}

#[test]
fn stack_segments() {
    let load = |ring, selector| fault(ring, &with_ax(selector, MOV_SS));
    assert_eq!(load(Zero, 0), (GP, 0));
    assert_eq!(load(Zero, KDS | 1), (GP, 0x10), "RPL is not CPL");
    assert_eq!(load(Zero, UDS), (GP, 0x20));
    assert_eq!(load(Zero, READ_ONLY), (GP, 0x98));
    assert_eq!(load(Zero, ABSENT_STACK), (SS, 0x88));
}

#[test]
fn far_transfers_to_code() {
    for op in [CALL, JMP] {
        assert_eq!(fault(Zero, &far(op, 0)), (GP, 0));
        assert_eq!(fault(Zero, &far(op, 0x3000)), (GP, 0x3000));
        assert_eq!(fault(Zero, &far(op, KDS)), (GP, 0x10), "data");
        assert_eq!(fault(Three, &far(op, KCS)), (GP, 8), "more privileged");
        assert_eq!(fault(Zero, &far(op, UCS)), (GP, 0x18), "less privileged");
        assert_eq!(fault(Zero, &far(op, ABSENT_CODE)), (NP, 0x80));
    }
}

#[test]
fn call_gates() {
    for op in [CALL, JMP] {
        assert_eq!(fault(Three, &far(op, KERNEL_GATE)), (GP, 0x40), "by DPL");
        assert_eq!(fault(Zero, &far(op, KERNEL_GATE | 1)), (GP, 0x40), "by RPL");
        assert_eq!(fault(Three, &far(op, ABSENT_GATE)), (NP, 0x50));
        assert_eq!(fault(Three, &far(op, NULL_GATE)), (GP, 0));
    }
    assert_eq!(
        fault(Three, &far(JMP, USER_GATE)),
        (GP, 8),
        "a jump keeps the level"
    );
    // push 7; push 9; call gate: SS, ESP, both parameters, CS and EIP on the inner stack.
    let code = [&[0x6a, 7, 0x6a, 9][..], &far(CALL, USER_GATE)].concat();
    let cpu = run(Three, &code, &|_| {});
    assert_eq!((cpu.cpl(), cpu.eip), (0, GATE_CODE + 5));
    assert_eq!(cpu.regs[ESP], KSTACK - 24);
    assert_eq!(cpu.regs[ECX], 9, "the last parameter is on top");
    let words: Vec<u32> = (0..6).map(|n| read32(&cpu, KSTACK - 24 + n * 4)).collect();
    let esp = USER_STACK_TOP - 0x100 - 8;
    assert_eq!(
        words,
        [USER_CODE + 11, u32::from(UCS), 9, 7, esp, u32::from(UDS)]
    );
    // At the same level nothing but the return address; a 16-bit gate pushes words.
    let cpu = run(Zero, &far(CALL, KERNEL_GATE), &|_| {});
    assert_eq!(cpu.regs[ESP], KSTACK - 8);
    // The gate's offset is cut to 16 bits: STUBS lies below 64 KB.
    let cpu = run(Three, &far(CALL, GATE16), &|_| {});
    assert_eq!((cpu.cpl(), cpu.regs[ESP]), (0, KSTACK - 8));
}

#[test]
fn inner_stacks_that_are_bad() {
    let stack = |selector: u16| {
        fault_with(Three, &far(CALL, USER_GATE), &move |cpu| {
            // Of the interrupt that follows, too: it takes the stack of the same TSS. So the gate of
            // the fault runs on a task of its own.
            for vector in [10u8, 12] {
                let d = Descriptor::gate(NEW_TASK, 0, 5, 0);
                let at = u64::from(IDT) + u64::from(vector) * 8;
                cpu.mmu.mem.write_u64(PhysAddr(at), d.0);
                let at = STUBS + u32::from(vector) * 4;
                place(cpu, TSS2 + 0x20, &at.to_le_bytes());
                place(cpu, at, &[0xf4]);
            }
            // One place for both: which it was is told by the error code.
            place(cpu, TSS2 + 0x20, &(STUBS + 40).to_le_bytes());
            cpu.mmu
                .mem
                .write_u32(PhysAddr(u64::from(TSS) + 8), u32::from(selector));
        })
    };
    assert_eq!(stack(0), (TS, 0));
    assert_eq!(stack(0x3000), (TS, 0x3000));
    assert_eq!(stack(UDS), (TS, 0x20), "RPL and DPL are not the new CPL");
    assert_eq!(stack(READ_ONLY), (TS, 0x98));
    assert_eq!(
        stack(ABSENT_STACK),
        (TS, 0x88),
        "#SS, through the same task"
    );
}

#[test]
fn interrupts_tell_of_the_idt_and_of_external_causes() {
    assert_eq!(fault(Three, &[0xcd, 0x20]), (GP, 0x102), "the gate's DPL");
    assert_eq!(fault(Zero, &[0xcd, 0xff]), (GP, 0x7fa), "not a gate");
    let absent = |cpu: &mut Cpu| {
        let at = PhysAddr(u64::from(IDT) + 6 * 8);
        let gate = cpu.mmu.mem.read_u64(at);
        cpu.mmu.mem.write_u64(at, gate & !(1 << 47));
    };
    assert_eq!(
        fault_with(Zero, &[0x0f, 0x0b], &absent),
        (NP, 6 * 8 + 2 + 1),
        "EXT"
    );
    let to = |selector: u16| {
        move |cpu: &mut Cpu| {
            let d = Descriptor::gate(selector, STUBS, 0xe, 3);
            cpu.mmu
                .mem
                .write_u64(PhysAddr(u64::from(IDT) + 0x30 * 8), d.0);
        }
    };
    assert_eq!(fault_with(Zero, &[0xcd, 0x30], &to(0)), (GP, 0));
    assert_eq!(fault_with(Zero, &[0xcd, 0x30], &to(KDS)), (GP, 0x10));
    assert_eq!(
        fault_with(Zero, &[0xcd, 0x30], &to(ABSENT_CODE)),
        (NP, 0x80)
    );
    assert_eq!(
        fault_with(Zero, &[0xcd, 0x30], &to(UCS)),
        (GP, 0x18),
        "less privileged"
    );
}

#[test]
fn tasks() {
    for op in [CALL, JMP] {
        assert_eq!(fault(Three, &far(op, NEW_TASK)), (GP, 0x60), "by DPL");
        assert_eq!(fault(Zero, &far(op, SHORT_TASK)), (TS, 0x70));
    }
    let busy = |cpu: &Cpu, selector: u16| {
        let at = u64::from(GDT) + u64::from(selector) + 5;
        cpu.mmu.mem.read_u8(PhysAddr(at)) & 2 != 0
    };
    let set_busy = |cpu: &mut Cpu| {
        let at = u64::from(GDT) + u64::from(TSS_SEL) + 5;
        cpu.mmu.mem.write_u8(PhysAddr(at), 0x8b);
    };
    for op in [CALL, JMP] {
        assert_eq!(fault_with(Zero, &far(op, TSS_SEL), &set_busy), (GP, 0x28));
    }
    // A call nests: NT, the back link, both busy. Ring 3 may use the task gate.
    let cpu = run(Three, &far(CALL, TASK_GATE), &set_busy);
    assert_eq!((cpu.cpl(), cpu.eip), (0, GATE_CODE + 5));
    assert_eq!((cpu.tr.selector, cpu.regs[EAX]), (NEW_TASK, 0x1111_1111));
    assert_eq!(cpu.eflags() & flags::NT, flags::NT);
    assert_eq!(cpu.cr0() & cpu::CR0_TS, cpu::CR0_TS);
    assert_eq!(read32(&cpu, TSS2) & 0xffff, u32::from(TSS_SEL));
    assert!(busy(&cpu, TSS_SEL) && busy(&cpu, NEW_TASK));
    assert_eq!(read32(&cpu, TSS + 0x20), USER_CODE + 7, "where it goes on");
    assert_eq!(read32(&cpu, TSS + 0x4c) & 0xffff, u32::from(UCS));
    // A jump does not.
    let cpu = run(Zero, &far(JMP, NEW_TASK), &set_busy);
    assert!(!busy(&cpu, TSS_SEL) && busy(&cpu, NEW_TASK));
    assert_eq!(cpu.eflags() & flags::NT, 0);
    // iret in the new task comes back.
    let cpu = run(Zero, &far(CALL, NEW_TASK), &|cpu| {
        set_busy(cpu);
        place(cpu, GATE_CODE + 4, &[0xcf]);
    });
    assert_eq!((cpu.tr.selector, cpu.eip), (TSS_SEL, KERNEL + 8));
    assert!(busy(&cpu, TSS_SEL) && !busy(&cpu, NEW_TASK));
    // A bad segment of the new task is its own fault. The task is one of ring 3, so that the handler
    // has an inner stack: SS may not be loaded yet.
    let bad = |at: u32, selector: u16| {
        fault_with(Zero, &far(JMP, NEW_TASK), &move |cpu| {
            set_busy(cpu);
            for (at, value) in [
                (4, KSTACK),
                (8, u32::from(KDS)),
                (0x48, u32::from(UDS)),
                (0x4c, u32::from(UCS)),
                (0x50, u32::from(UDS)),
                (0x54, u32::from(UDS)),
            ] {
                place(cpu, TSS2 + at, &value.to_le_bytes());
            }
            place(cpu, TSS2 + at, &selector.to_le_bytes());
        })
    };
    assert_eq!(bad(0x60, KDS), (TS, 0x10), "no LDT");
    assert_eq!(bad(0x4c, UDS), (TS, 0x20), "CS is data");
    assert_eq!(bad(0x4c, KCS | 3), (TS, 8), "DPL is not RPL");
    assert_eq!(bad(0x50, KDS), (TS, 0x10), "SS of another level");
    assert_eq!(bad(0x54, ABSENT_DATA), (NP, 0x30));
    assert_eq!(bad(0x54, 0x3000), (TS, 0x3000));
}

#[test]
fn returns() {
    // push words (last first) and iretd.
    let iret = |words: &[u32]| {
        let mut code = Vec::new();
        for w in words {
            code.push(0x68);
            code.extend(w.to_le_bytes());
        }
        code.push(0xcf);
        code
    };
    let (ucs, uds) = (u32::from(UCS), u32::from(UDS));
    assert_eq!(fault(Zero, &iret(&[2, 0, KERNEL])), (GP, 0));
    assert_eq!(fault(Zero, &iret(&[2, u32::from(KDS), KERNEL])), (GP, 0x10));
    assert_eq!(
        fault(Three, &iret(&[2, u32::from(KCS), KERNEL])),
        (GP, 8),
        "inwards"
    );
    assert_eq!(
        fault(Zero, &iret(&[2, u32::from(ABSENT_CODE), KERNEL])),
        (NP, 0x80)
    );
    assert_eq!(
        fault(Zero, &iret(&[0, 0x1000, 2, ucs, USER_CODE])),
        (GP, 0),
        "null SS"
    );
    assert_eq!(
        fault(Zero, &iret(&[u32::from(KDS), 0x1000, 2, ucs, USER_CODE])),
        (GP, 0x10)
    );
    // Outwards: data segments of the inner level become null, IOPL and IF are taken over.
    let code = iret(&[uds, USER_STACK_TOP, 0x3202, ucs, USER_CODE]);
    let cpu = run(Zero, &code, &|cpu| {
        // mov ax, ds; int 30h
        place(cpu, CODE_FRAME as u32, &[0x8c, 0xd8, 0xcd, 0x30]);
        cpu.regs[EAX] = u32::MAX;
    });
    assert_eq!(cpu.regs[EAX], 0);
    let frame: Vec<u32> = (0..5).map(|n| read32(&cpu, KSTACK - 20 + n * 4)).collect();
    assert_eq!(frame, [USER_CODE + 4, ucs, 0x3202, USER_STACK_TOP, uds]);
}

#[test]
fn virtual_8086_mode() {
    // Code at 4000:0, which is a page of the user.
    let enter = |iopl: u32| {
        move |cpu: &mut Cpu| {
            cpu.mmu
                .mem
                .write_u64(PhysAddr(PT_LOW + 0x40 * 8), CODE_FRAME | 7);
            cpu.mmu
                .mem
                .write_u64(PhysAddr(PT_LOW + 0x41 * 8), DATA_FRAME | 7);
            cpu.mmu.mem.write_u64(PhysAddr(PD), PT_LOW | 0x27);
            cpu.set_eflags(0x2_0002 | iopl << 12);
            for seg in Seg::ALL {
                let s = Segment {
                    selector: 0x4000,
                    base: 0x4_0000,
                    limit: 0xffff,
                    access: 0xf3,
                };
                cpu.set_segment(seg, s);
            }
            cpu.eip = 0;
            cpu.regs[ESP] = 0x1f00;
        }
    };
    // What the monitor must see: cli, sti, pushf, popf, int n, iret.
    for code in [
        &[0xfa][..],
        &[0xfb],
        &[0x9c],
        &[0x9d],
        &[0xcd, 0x30],
        &[0xcf],
    ] {
        assert_eq!(fault_with(Three, code, &enter(0)), (GP, 0), "{code:02x?}");
    }
    assert_eq!(fault_with(Three, &[0xf4], &enter(3)), (GP, 0), "hlt");
    assert_eq!(
        fault_with(Three, &[0xe4, 0x10], &enter(3)),
        (GP, 0),
        "ports ask the bitmap"
    );
    assert_eq!(
        fault_with(Three, &[0x0f, 0x00, 0xc0], &enter(3)).0,
        6,
        "sldt"
    );
    assert_eq!(fault_with(Three, &[0x63, 0xc0], &enter(3)).0, 6, "arpl");
    // int 30h with IOPL 3: nine words, data segments null.
    let cpu = run(Three, &[0xcd, 0x30], &enter(3));
    assert_eq!((cpu.cpl(), cpu.eflags() & flags::VM), (0, 0));
    let frame: Vec<u32> = (0..9).map(|n| read32(&cpu, KSTACK - 36 + n * 4)).collect();
    let seg = 0x4000;
    assert_eq!(frame, [2, seg, 0x2_3002, 0x1f00, seg, seg, seg, seg, seg]);
    for seg in [Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
        assert_eq!(cpu.segment(seg).selector, 0);
    }
    // And back: iretd, then cli faults in the 8086 program again.
    let cpu = run(Three, &[0xcd, 0x30, 0xfa], &|cpu| {
        enter(3)(cpu);
        let at = STUBS + 0x30 * 4;
        // and byte [esp+9], 0CFh (IOPL 0); iretd
        place(cpu, at, &[0x80, 0x64, 0x24, 0x09, 0xcf, 0xcf]);
    });
    assert_eq!(cpu.eip, STUBS + 13 * 4 + 1);
    assert_eq!(read32(&cpu, KSTACK - 36), 2, "EIP of the cli");
    assert_eq!(read32(&cpu, KSTACK - 28) & 0x2_3000, 0x2_0000);
}

#[test]
fn ldt_and_task_registers() {
    let lldt = |selector| fault(Zero, &with_ax(selector, &[0x0f, 0x00, 0xd0]));
    assert_eq!(lldt(KDS), (GP, 0x10));
    assert_eq!(lldt(0x0c), (GP, 0x0c), "not from the LDT");
    let ltr = |selector| fault(Zero, &with_ax(selector, &[0x0f, 0x00, 0xd8]));
    assert_eq!(ltr(0), (GP, 0));
    assert_eq!(ltr(KCS), (GP, 8));
    assert_eq!(fault(Three, &[0x0f, 0x00, 0xd0]), (GP, 0));
    // A loaded LDT serves selectors with TI set; its second entry is data.
    let cpu = run(
        Zero,
        &with_ax(LDT, &[0x0f, 0x00, 0xd0, 0xb0, 0x0c, 0x8e, 0xd8]),
        &|cpu| {
            let d = Descriptor::new(0x1234, 0xff, 0x4093);
            cpu.mmu.mem.write_u64(PhysAddr(0xa408), d.0);
        },
    );
    assert_eq!(
        (cpu.ldtr.selector, cpu.segment(Seg::Ds).base),
        (LDT, 0x1234)
    );
}
