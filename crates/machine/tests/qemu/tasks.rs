//! Task switches (SDM vol. 3A, chapter 7): by JMP, CALL, IRET, interrupts and task gates, with and without paging, and
//! the faults before and within them.
//!
//! The other task notes what it sees in memory and goes back the way the attempt says. Left out: 16-bit task-state
//! segments, and the debug trap, which QEMU 7.2 does not have.

use crate::program::*;
use iced_x86::code_asm::*;

/// The other task's descriptors: usual, and with one thing wrong each.
const OTHER: u16 = 0x30;
const SHORT: u16 = 0x38;
const ABSENT: u16 = 0x40;
const BUSY: u16 = 0x48;
const TASK_GATE: u16 = 0x50;
const ABSENT_DATA: u16 = 0x58;
const TASK_GATE_3: u16 = 0x60;

/// Stack and code of the other task.
const STACK: u32 = FRAMES + 0x9000;
const CODE: u32 = FRAMES + 0xA000;
/// What the other task saw: EFLAGS, TR and machine status, ESP, top of stack, CR3, a word that paging moves.
const SEEN: u32 = FRAMES;
const DIRECTORIES: [u32; 2] = [TABLES, TABLES + 0x1000];
/// Maps to 4 MiB or 8 MiB by directory; without paging it is what it is.
const MOVED: u32 = 0x0180_0000;

fn high(selector: u16) -> u32 {
    GDT + u32::from(selector & !7) + 4
}

/// How the other task gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    Jump,
    Return,
    /// To ring 0 by the interrupt that ends an attempt of ring 3.
    Done,
    /// As `Return`, without the error code and with a selector in the first task's EAX that loads: it tries its
    /// instruction again.
    Mend,
}

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut bytes = vec![opcode, 0, 0, 0, 0];
    bytes.extend(selector.to_le_bytes());
    bytes
}

fn task_code(a: &mut CodeAssembler, back: Back) -> Piece {
    a.mov(dword_ptr(SEEN + 8), esp)?;
    a.mov(ebx, dword_ptr(esp).ss())?;
    a.mov(dword_ptr(SEEN + 12), ebx)?;
    a.pushfd()?;
    a.pop(dword_ptr(SEEN))?;
    a.str(ebx)?;
    a.smsw(ecx)?;
    a.shl(ecx, 16)?;
    a.or(ebx, ecx)?;
    a.mov(dword_ptr(SEEN + 4), ebx)?;
    if back != Back::Done {
        a.mov(ecx, cr3)?;
        a.mov(dword_ptr(SEEN + 16), ecx)?;
        a.mov(ecx, dword_ptr(MOVED))?;
        a.mov(dword_ptr(SEEN + 20), ecx)?;
    }
    // QEMU 7.2 saves flags that it has not computed yet, unless something makes it.
    a.pushfd()?;
    a.popfd()?;
    match back {
        Back::Jump => a.db(&far(0xEA, TSS_SEL)),
        Back::Mend => {
            a.mov(dword_ptr(TSS + 0x28), u32::from(KDS))?;
            a.pop(eax)?;
            a.iretd()
        }
        Back::Return => a.iretd(),
        Back::Done => a.int(i32::from(DONE)),
    }
}

/// The program, with paging or without.
pub(crate) fn program(paging: bool) -> Program {
    let mut p = Program::new(&[
        descriptor(OTHER_TSS, 0x67, 0x0089),
        descriptor(OTHER_TSS, 0x66, 0x0089),
        descriptor(OTHER_TSS, 0x67, 0x0009),
        descriptor(OTHER_TSS, 0x67, 0x008B),
        gate(OTHER, 0, 0x85),
        descriptor(0, 0xF_FFFF, 0xC012),
        gate(OTHER, 0, 0xE5),
    ]);
    p.put64(IDT + 8 * 0x90, gate(OTHER, 0, 0xE5));
    for (i, back) in (0..).zip([Back::Jump, Back::Return, Back::Done, Back::Mend]) {
        p.place(CODE + 0x100 * i, |a| task_code(a, back));
    }
    if paging {
        turn_paging_on(&mut p);
    }
    switches(&mut p);
    refusals(&mut p);
    faults_within(&mut p);
    p
}

fn turn_paging_on(p: &mut Program) {
    for (i, at) in (1..).zip(DIRECTORIES) {
        p.put32(at, 0xE7);
        p.put32(at + 4 * (MOVED >> 22), (i << 22) | 0xE7);
        p.put32(at + 4, (1 << 22) | 0xE7);
        p.put32(at + 8, (2 << 22) | 0xE7);
    }
    p.store(0x40_0000, 0x1234_0001);
    p.store(0x80_0000, 0x1234_0002);
    p.emit(|a| {
        a.mov(eax, 0x10)?;
        a.mov(cr4, eax)?;
        a.mov(eax, DIRECTORIES[0])?;
        a.mov(cr3, eax)?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)
    });
}

/// What the other task starts with.
#[derive(Clone, Copy)]
struct State {
    back: Back,
    cs: u16,
    ss: u16,
    ds: u16,
    ldt: u16,
    eflags: u32,
}

const KERNEL: State = State {
    back: Back::Jump,
    cs: KCS,
    ss: KDS,
    ds: KDS,
    ldt: 0,
    eflags: 2,
};

/// Both tasks as they are before an attempt: this one busy, the other one ready.
fn prepare(p: &mut Program, s: State) {
    p.store(high(TSS_SEL), 0x0000_8900 | TSS >> 16 & 0xFF);
    for (selector, kind, tss) in [
        (OTHER, 0x8900, OTHER_TSS),
        (SHORT, 0x8900, OTHER_TSS),
        (BUSY, 0x8B00, OTHER_TSS),
    ] {
        p.store(high(selector), kind | tss >> 16 & 0xFF);
    }
    p.emit(|a| {
        a.mov(eax, u32::from(TSS_SEL))?;
        a.ltr(ax)?;
        a.clts()?;
        a.xor(eax, eax)?;
        a.lldt(ax)
    });
    let eip = CODE + 0x100 * s.back as u32;
    for i in 0..6 {
        p.store(SEEN + 4 * i, 0xEEEE_EEEE);
    }
    p.store(STACK, 0x7777_7777);
    let words = [
        (0x00, 0),
        (0x1C, DIRECTORIES[1]),
        (0x20, eip),
        (0x24, s.eflags),
        (0x28, 0xA),
        (0x2C, 0xC),
        (0x30, 0xD),
        (0x34, 0xB),
        (0x38, STACK),
        (0x3C, 0xBB),
        (0x40, 0x51),
        (0x44, 0xD1),
        (0x48, s.ds.into()),
        (0x4C, s.cs.into()),
        (0x50, s.ss.into()),
        (0x54, s.ds.into()),
        (0x58, s.ds.into()),
        (0x5C, 0),
        (0x60, s.ldt.into()),
    ];
    for (offset, value) in words {
        p.store(OTHER_TSS + offset, value);
    }
    // This task comes back with the registers and the CR3 that it had.
    p.store(TSS + 0x1C, DIRECTORIES[0]);
    p.store(TSS + 0x60, 0);
    p.store(TSS, 0);
}

fn attempt(
    p: &mut Program,
    name: &str,
    s: State,
    watch: &[u32],
    f: impl FnOnce(&mut CodeAssembler) -> Piece,
) {
    prepare(p, s);
    p.attempt(Ring::Kernel, name.to_owned(), watch, f);
}

fn switches(p: &mut Program) {
    let seen = [SEEN, SEEN + 4, SEEN + 8, SEEN + 12];
    let after = [high(TSS_SEL), high(OTHER), OTHER_TSS, TSS + 0x24];
    let saved = [TSS + 0x20, TSS + 0x28, TSS + 0x38, OTHER_TSS + 0x20];
    let flags = [OTHER_TSS + 0x24, OTHER_TSS + 0x28, OTHER_TSS + 0x38, TSS];
    let root = [SEEN + 16, SEEN + 20, MOVED, TSS + 0x1C];
    let ways: [(&str, Back, Vec<u8>); 6] = [
        ("jmp", Back::Jump, far(0xEA, OTHER)),
        ("call", Back::Return, far(0x9A, OTHER)),
        ("call, jmp back", Back::Jump, far(0x9A, OTHER)),
        ("int through a task gate", Back::Return, vec![0xCD, 0x90]),
        ("call to a task gate", Back::Return, far(0x9A, TASK_GATE)),
        ("jmp to a task gate", Back::Jump, far(0xEA, TASK_GATE)),
    ];
    for (name, back, bytes) in ways {
        for (what, watch) in [
            ("seen", seen),
            ("after", after),
            ("saved", saved),
            ("flags", flags),
            ("root", root),
        ] {
            let s = State { back, ..KERNEL };
            attempt(p, &format!("{name}: {what}"), s, &watch, |a| a.db(&bytes));
        }
        let s = State {
            back: Back::Done,
            cs: UCS,
            ss: UDS,
            ds: UDS,
            eflags: 0x3046,
            ..KERNEL
        };
        // IF, then the interrupt's gate clears it.
        let s = State {
            eflags: s.eflags & !0x200,
            ..s
        };
        attempt(p, &format!("{name} to ring 3"), s, &after, |a| a.db(&bytes));
        attempt(p, &format!("{name} to ring 3: seen"), s, &seen, |a| {
            a.db(&bytes)
        });
    }
    // The task's flags and those it leaves.
    for eflags in [0x0CD7, 0x4002] {
        let s = State { eflags, ..KERNEL };
        let jump = far(0xEA, OTHER);
        attempt(p, &format!("jmp, eflags {eflags:#x}"), s, &flags, |a| {
            a.db(&jump)
        });
    }
    // An error code goes to the new task's stack.
    p.emit(|a| {
        a.mov(eax, dword_ptr(IDT + 8 * 13))?;
        a.mov(dword_ptr(FRAMES + 0x40), eax)?;
        a.mov(eax, dword_ptr(IDT + 8 * 13 + 4))?;
        a.mov(dword_ptr(FRAMES + 0x44), eax)
    });
    let s = State {
        back: Back::Mend,
        ..KERNEL
    };
    prepare(p, s);
    let task = gate(OTHER, 0, 0x85);
    p.store(IDT + 8 * 13, task as u32);
    p.store(IDT + 8 * 13 + 4, (task >> 32) as u32);
    p.attempt(
        Ring::Kernel,
        "#GP through a task gate".to_owned(),
        &seen,
        |a| {
            a.mov(eax, u32::from(TSS_SEL))?;
            a.mov(fs, eax)
        },
    );
    p.emit(|a| {
        a.mov(eax, dword_ptr(FRAMES + 0x40))?;
        a.mov(dword_ptr(IDT + 8 * 13), eax)?;
        a.mov(eax, dword_ptr(FRAMES + 0x44))?;
        a.mov(dword_ptr(IDT + 8 * 13 + 4), eax)
    });
}

/// Found before the switch: nothing has changed.
fn refusals(p: &mut Program) {
    let watch = [high(TSS_SEL), high(OTHER), OTHER_TSS, TSS + 0x20];
    for opcode in [0xEA, 0x9A] {
        for (name, selector) in [
            ("too short", SHORT),
            ("absent", ABSENT),
            ("busy", BUSY),
            ("of the running task", TSS_SEL),
        ] {
            let bytes = far(opcode, selector);
            attempt(p, &format!("{opcode:x} tss {name}"), KERNEL, &watch, |a| {
                a.db(&bytes)
            });
        }
        for selector in [OTHER, OTHER | 3, TASK_GATE, TASK_GATE_3] {
            let bytes = far(opcode, selector);
            let s = State {
                back: Back::Done,
                cs: UCS,
                ss: UDS,
                ds: UDS,
                ..KERNEL
            };
            prepare(p, s);
            let name = format!("{opcode:x} from ring 3 to {selector:#x}");
            p.attempt(Ring::User, name, &watch, |a| a.db(&bytes));
        }
    }
    // IRET of a task that was not called.
    for link in [0, OTHER, u32::from(BUSY) as u16, ABSENT, KDS, 0xFFF8] {
        prepare(p, KERNEL);
        p.store(TSS, link.into());
        let name = format!("iret with nt, back link {link:#x}");
        // The busy one is the other task, to which it returns and which jumps back.
        p.attempt(Ring::Kernel, name, &watch, |a| {
            a.pushfd()?;
            a.or(dword_ptr(esp), 0x4000)?;
            a.popfd()?;
            a.iretd()
        });
    }
    prepare(p, KERNEL);
    p.attempt(
        Ring::User,
        "iret with nt in ring 3".to_owned(),
        &watch,
        |a| {
            a.pushfd()?;
            a.or(dword_ptr(esp), 0x4000)?;
            a.popfd()?;
            a.iretd()
        },
    );
}

/// Found in the new task, by the segments it names.
fn faults_within(p: &mut Program) {
    let watch = [high(TSS_SEL), high(OTHER), TSS + 0x20, OTHER_TSS];
    for (name, data) in [
        ("a tss", OTHER),
        ("absent", ABSENT_DATA),
        ("beyond the limit", 0x1000),
        ("of ring 3", UDS),
    ] {
        let s = State {
            back: Back::Done,
            ds: data,
            ..KERNEL
        };
        for (how, bytes) in [("jmp", far(0xEA, OTHER)), ("call", far(0x9A, OTHER))] {
            attempt(p, &format!("{how}, data segments {name}"), s, &watch, |a| {
                a.db(&bytes)
            });
        }
    }
}
