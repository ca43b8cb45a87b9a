//! Call gates, interrupt gates and virtual-8086 mode (SDM vol. 3A, sections 5.8, 6.12 and chapter 20).

use crate::program::*;
use iced_x86::code_asm::*;

/// Call gates from selector 0x30 on.
const GATES: [(&str, u16, u8, u16); 9] = [
    ("32-bit, no words", KCS, 0xEC, 0),
    ("32-bit, three", KCS, 0xEC, 3),
    ("32-bit, 31", KCS, 0xEC, 31),
    ("16-bit, two", KCS, 0xE4, 2),
    ("of ring 0", KCS, 0x8C, 0),
    ("absent", KCS, 0x6C, 0),
    ("to a null selector", 0, 0xEC, 0),
    ("to data", KDS, 0xEC, 0),
    ("to ring 3", UCS, 0xEC, 0),
];
const TO_ABSENT_CODE: u16 = 0x78;
const TO_CONFORMING: u16 = 0x80;
const ABSENT_CODE: u16 = 0x88;
const CONFORMING: u16 = 0x90;
/// The code behind the gates: below 64 KiB of the page that 16-bit gates can name.
const TARGET: u32 = FRAMES + 0x7000;
/// What it saw: ESP, EFLAGS, CS and SS, and its stack.
const SEEN: u32 = FRAMES;

/// Real-mode code of virtual-8086 tasks: where it is kept and where it runs.
const STORED: u32 = FRAMES + 0x8000;
const V86_SEGMENT: u32 = 0x2000;
const V86_SIZE: u32 = 0x40;

/// The program.
pub(crate) fn program() -> Program {
    let gates = GATES.iter().map(|&(_, selector, access, words)| {
        let offset = if access & 8 == 0 {
            TARGET & 0xFFFF
        } else {
            TARGET
        };
        gate(selector, offset, access) | u64::from(words) << 32
    });
    let mut more: Vec<u64> = gates.collect();
    more.extend([
        gate(ABSENT_CODE, TARGET, 0xEC),
        gate(CONFORMING, TARGET, 0xEC),
        descriptor(0, 0xF_FFFF, 0xC01A),
        descriptor(0, 0xF_FFFF, 0xC09E),
    ]);
    let mut p = Program::new(&more);
    p.place(TARGET, |a| {
        a.mov(edx, u32::from(UDS))?;
        a.mov(ds, edx)?;
        a.mov(dword_ptr(SEEN), esp)?;
        a.pushfd()?;
        a.pop(dword_ptr(SEEN + 4))?;
        a.mov(edx, cs)?;
        a.shl(edx, 16)?;
        a.mov(dx, ss)?;
        a.mov(dword_ptr(SEEN + 8), edx)?;
        a.mov(edx, dword_ptr(esp + 8))?;
        a.mov(dword_ptr(SEEN + 12), edx)?;
        a.int(i32::from(DONE))
    });
    for (vector, access) in [
        (0x90, 0xEE),
        (0x91, 0xEF),
        (0x92, 0x8E),
        (0x93, 0xE6),
        (0x94, 0xE7),
    ] {
        let offset = if access & 8 == 0 {
            TARGET & 0xFFFF
        } else {
            TARGET
        };
        p.put64(IDT + 8 * vector, gate(KCS, offset, access));
    }
    p.put64(IDT + 8 * 0x95, gate(CONFORMING, TARGET, 0xEE));
    p.put64(IDT + 8 * 0x96, gate(UCS, TARGET, 0xEE));
    p.put64(IDT + 8 * 0x97, gate(ABSENT_CODE, TARGET, 0xEE));
    p.put64(IDT + 8 * 0x98, gate(KDS, TARGET, 0xEE));
    p.put64(IDT + 8 * 0x99, gate(0, TARGET, 0xEE));
    calls(&mut p);
    interrupts(&mut p);
    virtual_8086(&mut p);
    p
}

fn forget(p: &mut Program) {
    for i in 0..4 {
        p.store(SEEN + 4 * i, 0xEEEE_EEEE);
    }
}

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut bytes = vec![opcode, 0xEF, 0xBE, 0xAD, 0xDE];
    bytes.extend(selector.to_le_bytes());
    bytes
}

fn calls(p: &mut Program) {
    let seen = [SEEN, SEEN + 4, SEEN + 8, SEEN + 12];
    // Where the new stack ends: return address, caller's CS, words, caller's ESP and SS.
    let stack = [KSTACK - 4, KSTACK - 8, KSTACK - 12, KSTACK - 16];
    let names = GATES
        .iter()
        .map(|g| g.0)
        .chain(["to absent code", "to conforming code"]);
    for (i, name) in (0u16..).zip(names) {
        for ring in [Ring::Kernel, Ring::User] {
            for (verb, opcode) in [("call", 0x9A), ("jmp", 0xEA)] {
                for rpl in [0, 3] {
                    let selector = (0x30 + 8 * i) | rpl;
                    // The 16-bit target does not exist below 64 KiB.
                    if name.starts_with("16-bit") {
                        continue;
                    }
                    // QEMU 7.2 has #GP for #NP, and leaves ring 3 with conforming code.
                    let odd = [
                        ("jmp", Ring::Kernel, "to absent code"),
                        ("call", Ring::User, "to conforming code"),
                    ];
                    if odd.contains(&(verb, ring, name)) {
                        continue;
                    }
                    let bytes = far(opcode, selector);
                    for (what, watch) in [("seen", seen), ("stack", stack)] {
                        // Of a refused one, the stack would hold RF, which QEMU 7.2 does not push.
                        if what == "stack" && (i > 2 || verb == "jmp") {
                            continue;
                        }
                        forget(p);
                        let name = format!("{verb}, {ring:?}, rpl {rpl}, gate {name}: {what}");
                        p.attempt(ring, name, &watch, |a| {
                            a.push(0x1111)?;
                            a.push(0x2222)?;
                            a.push(0x3333)?;
                            a.stc()?;
                            a.db(&bytes)
                        });
                    }
                }
            }
        }
    }
    debug_assert_eq!(
        (TO_ABSENT_CODE, TO_CONFORMING),
        (0x30 + 8 * 9, 0x30 + 8 * 10)
    );
}

fn interrupts(p: &mut Program) {
    let seen = [SEEN, SEEN + 4, SEEN + 8, SEEN + 12];
    for vector in [0x90, 0x91, 0x92, 0x95, 0x96, 0x97, 0x98, 0x99] {
        for ring in [Ring::Kernel, Ring::User] {
            forget(p);
            p.attempt(ring, format!("{ring:?} int {vector:#x}"), &seen, |a| {
                a.int(vector)
            });
        }
    }
}

/// Code and whether it is to run with IOPL 3.
type Task = (&'static str, &'static [u8]);

/// Ends by int 0x80 where that is allowed.
const TASKS: &[Task] = &[
    (
        "segments",
        &[0xB8, 0x34, 0x12, 0x8E, 0xD8, 0x8C, 0xDB, 0x8C, 0xC9],
    ),
    (
        "memory",
        &[0x2E, 0xA1, 0x00, 0x00, 0x36, 0x8B, 0x0E, 0x02, 0x00],
    ),
    (
        "stack",
        &[
            0x6A, 0x55, 0x66, 0x68, 0x78, 0x56, 0x34, 0x12, 0x66, 0x58, 0x5F,
        ],
    ),
    ("cli and sti", &[0xFA, 0xFB, 0xFA]),
    ("pushf", &[0x9C, 0x58]),
    ("pushfd", &[0x66, 0x9C, 0x66, 0x58]),
    ("popf", &[0x68, 0xD5, 0x7E, 0x9D]),
    ("int 0x21", &[0xCD, 0x21]),
    ("int3", &[0xCC]),
    (
        "iret",
        &[
            0x9C, 0x0E, 0xE8, 0x00, 0x00, 0x58, 0x05, 0x06, 0x00, 0x50, 0xCF, 0xF4,
        ],
    ),
    ("in al", &[0xE4, 0x80]),
    ("out", &[0xE6, 0x80]),
    ("hlt", &[0xF4]),
    ("arpl", &[0x63, 0xC8]),
    ("lar", &[0x0F, 0x02, 0xC1]),
    ("verr", &[0x0F, 0x00, 0xE0]),
    ("str", &[0x0F, 0x00, 0xC8]),
    ("lldt", &[0x0F, 0x00, 0xD0]),
    ("mov from cr0", &[0x0F, 0x20, 0xC0]),
    ("clts", &[0x0F, 0x06]),
    ("lgdt", &[0x0F, 0x01, 0x16, 0x00, 0x00]),
    (
        "sgdt",
        &[0x66, 0x0F, 0x01, 0x06, 0x80, 0x00, 0xA1, 0x80, 0x00],
    ),
    ("smsw", &[0x0F, 0x01, 0xE0]),
    ("div by zero", &[0x31, 0xC9, 0xF7, 0xF1]),
    ("ud2", &[0x0F, 0x0B]),
    ("far call", &[0x9A, 0x30, 0x00, 0x00, 0x20, 0x8C, 0xC9]),
    (
        "rep movs",
        &[
            0xFC, 0xB9, 0x05, 0x00, 0x31, 0xF6, 0xBF, 0x90, 0x00, 0xF3, 0xA4,
        ],
    ),
    (
        "32-bit address",
        &[0x67, 0x66, 0x8B, 0x05, 0x04, 0x00, 0x00, 0x00],
    ),
    ("enter", &[0xC8, 0x08, 0x00, 0x02, 0x89, 0xE0, 0xC9]),
    ("lds", &[0xC5, 0x36, 0x02, 0x00, 0x8C, 0xD9]),
    ("bound", &[0xB8, 0x05, 0x00, 0x62, 0x06, 0x00, 0x00]),
];

fn virtual_8086(p: &mut Program) {
    for (i, (_, code)) in (0..).zip(TASKS) {
        let mut bytes = [0xF4; V86_SIZE as usize];
        bytes[..code.len()].copy_from_slice(code);
        // The far call comes to 0x30.
        bytes[0x30] = 0xCB;
        bytes[code.len()..code.len() + 2].copy_from_slice(&[0xCD, DONE]);
        for (j, word) in (0..).zip(bytes.chunks_exact(4)) {
            let word = u32::from_le_bytes(word.try_into().expect("four bytes"));
            p.put32(STORED + i * V86_SIZE + 4 * j, word);
        }
    }
    for iopl in [0u32, 3] {
        for (i, (name, _)) in (0..).zip(TASKS) {
            let name = format!("v86, iopl {iopl}: {name}");
            let linear = V86_SEGMENT * 16;
            // What the interrupt pushed: GS, FS, DS, ES above SS:ESP.
            let watch = [KSTACK - 12, KSTACK - 16, KSTACK - 20, linear + 0x90];
            p.attempt(Ring::Kernel, name, &watch, |a| {
                a.mov(esi, STORED + i * V86_SIZE)?;
                a.mov(edi, linear)?;
                a.mov(ecx, V86_SIZE)?;
                a.rep().movsb()?;
                for word in [0x1111, 0x2222, V86_SEGMENT, 0x3333, V86_SEGMENT] {
                    a.push(word as i32)?;
                }
                a.push(0x400)?;
                a.push((2 | 1 << 17 | iopl << 12) as i32)?;
                a.push(V86_SEGMENT as i32)?;
                a.push(0)?;
                a.xor(eax, eax)?;
                a.mov(ecx, 0x4444)?;
                a.iretd()
            });
        }
    }
}
