//! Segment loads, far transfers and the instructions that look at descriptors (SDM vol. 3A, chapter 5).
//!
//! Left out is what QEMU 7.2 does not check: limits and null selectors of data accesses, limits at far
//! transfers, LTR of a null selector.

use crate::program::*;
use iced_x86::code_asm::*;

/// A segment that does not reach the variables.
const SMALL: u16 = 0x58;
const LDT_SEL: u16 = 0x68;
const GATE: u16 = 0x78;
const BYTE_CODE: u16 = 0xB8;
/// A page of code with far returns at 0x100 and at its end.
const SMALL_CODE: u32 = FRAMES + 0x6000;

/// The descriptors from selector 0x30 on, with their names.
fn descriptors(gate_target: u32) -> Vec<(&'static str, u64)> {
    vec![
        ("data, absent", descriptor(0, 0xF_FFFF, 0xC012)),
        ("code, absent", descriptor(0, 0xF_FFFF, 0xC01A)),
        ("data, read-only", descriptor(0, 0xF_FFFF, 0xC090)),
        ("code, execute-only", descriptor(0, 0xF_FFFF, 0xC098)),
        ("code, conforming", descriptor(0, 0xF_FFFF, 0xC09E)),
        ("data, small", descriptor(FRAMES, 0xFF, 0x40F2)),
        ("data, expand-down", descriptor(FRAMES, 0xFF, 0x40F6)),
        ("ldt", descriptor(LDT, 0x1F, 0x0082)),
        ("system type 0", descriptor(0, 0, 0x0080)),
        ("call gate", gate(KCS, gate_target, 0xEC)),
        (
            "code of ring 3, execute-only",
            descriptor(0, 0xF_FFFF, 0xC0F8),
        ),
        ("tss, available", descriptor(OTHER_TSS, 0x67, 0x0089)),
        ("tss, busy", descriptor(OTHER_TSS, 0x67, 0x008B)),
        ("data of ring 3, accessed", descriptor(0, 0xF_FFFF, 0xC0F3)),
        ("interrupt gate", gate(KCS, gate_target, 0x8E)),
        ("ldt, absent", descriptor(LDT, 0x1F, 0x0002)),
        ("tss, absent", descriptor(OTHER_TSS, 0x67, 0x0009)),
        ("code, small", descriptor(SMALL_CODE, 0xFFF, 0x409A)),
        ("call gate, absent", gate(KCS, gate_target, 0x6C)),
        ("call gate of ring 0", gate(KCS, gate_target, 0x8C)),
        ("code, conforming, ring 3", descriptor(0, 0xF_FFFF, 0xC0FE)),
        ("data, ring 1", descriptor(0, 0xF_FFFF, 0xC0B2)),
        (
            "data, read-only, expand-down",
            descriptor(FRAMES, 0xFF, 0x40F4),
        ),
    ]
}

fn high(selector: u16) -> u32 {
    GDT + u32::from(selector & !7) + 4
}

/// Selectors to try, with their names: every descriptor by two RPLs, null, beyond the limit, in an LDT.
fn selectors() -> Vec<(String, u16)> {
    let names = [
        "null",
        "kernel code",
        "kernel data",
        "user code",
        "user data",
        "tss",
    ];
    let more = descriptors(0);
    let names = names.into_iter().chain(more.iter().map(|d| d.0));
    let mut all = Vec::new();
    for (i, name) in (0u16..).zip(names) {
        for rpl in [0, 3] {
            all.push((format!("{name}, rpl {rpl}"), (i * 8) | rpl));
        }
    }
    let end = all.len() as u16 / 2 * 8;
    all.push(("beyond the limit".to_owned(), end));
    all.push(("far beyond the limit".to_owned(), 0xFFF8));
    all.push(("ldt entry".to_owned(), 0x0C));
    all
}

/// A call gate of no use: ring 0 reaches `ret far`.
pub(crate) fn program() -> Program {
    let target = FRAMES + 0x5800;
    let more: Vec<u64> = descriptors(target).iter().map(|d| d.1).collect();
    let mut p = Program::new(&more);
    // xor eax, eax; retf, for the gate.
    p.put32(target, 0x00CB_C031);
    p.put32(SMALL_CODE + 0x100, 0xCB);
    p.put32(SMALL_CODE + 0xFFC, 0xCB00_0000);
    for i in 0..64 {
        p.put32(FRAMES + 4 * i, 0x0101_0101 * i);
    }
    loads(&mut p, &more);
    looks(&mut p);
    transfers(&mut p, target);
    p
}

/// What makes an attempt independent of those before it.
fn fresh(p: &mut Program, selector: u16, more: &[u64]) {
    if let Some(i) = usize::from(selector & !7).checked_sub(0x30)
        && let Some(d) = more.get(i / 8)
    {
        p.store(high(selector), (d >> 32) as u32);
    }
}

fn loads(p: &mut Program, more: &[u64]) {
    for ring in [Ring::Kernel, Ring::User] {
        for (name, selector) in selectors() {
            let words = if usize::from(selector) < 0x30 + 8 * more.len() && selector > 7 {
                vec![high(selector)]
            } else {
                vec![]
            };
            let number = u32::from(selector);
            let mut attempt = |what: &str, f: fn(&mut CodeAssembler) -> Piece| {
                fresh(p, selector, more);
                p.attempt(ring, format!("{ring:?} {what}: {name}"), &words, |a| {
                    a.mov(edx, number)?;
                    f(a)
                });
            };
            attempt("mov ds", |a| {
                a.mov(ds, edx)?;
                a.mov(eax, ds)
            });
            attempt("mov es", |a| a.mov(es, edx));
            if selector & !7 != SMALL {
                attempt("mov ss", |a| a.mov(ss, edx));
            }
            attempt("pop fs", |a| {
                a.push(edx)?;
                a.pop(fs)?;
                a.mov(eax, fs)
            });
            attempt("mov gs", |a| a.mov(gs, edx));
            attempt("lldt", |a| {
                a.lldt(dx)?;
                a.sldt(eax)
            });
            if selector & !3 != 0 {
                // A valid one becomes the task register, whose busy bit is seen.
                attempt("ltr", |a| {
                    a.ltr(dx)?;
                    a.str(eax)
                });
            }
        }
    }
    // The task register as the rest of the program wants it.
    p.store(
        high(TSS_SEL),
        0x0000_8900 | (TSS >> 24 << 24) | (TSS >> 16 & 0xFF),
    );
    p.emit(|a| {
        a.mov(eax, u32::from(TSS_SEL))?;
        a.ltr(ax)?;
        a.xor(eax, eax)?;
        a.lldt(ax)
    });
}

/// lar, lsl, verr, verw.
fn looks(p: &mut Program) {
    for ring in [Ring::Kernel, Ring::User] {
        for (name, selector) in selectors() {
            let number = u32::from(selector);
            p.attempt(ring, format!("{ring:?} lar and lsl: {name}"), &[], |a| {
                a.mov(edx, number)?;
                a.mov(ecx, 0)?;
                a.mov(esi, 0x7777)?;
                a.mov(edi, 0x8888)?;
                a.lar(esi, edx)?;
                a.setz(cl)?;
                // Bits 19:16 are undefined (SDM, LAR): Intel's processors pass the limit's, QEMU clears them.
                a.and(esi, 0x00f0_ff00)?;
                a.lsl(edi, edx)?;
                a.setz(ch)?;
                a.mov(eax, esi)?;
                a.rol(eax, 7)?;
                a.xor(eax, edi)?;
                a.rol(eax, 7)?;
                a.xor(eax, ecx)
            });
            p.attempt(ring, format!("{ring:?} verr and verw: {name}"), &[], |a| {
                a.mov(edx, number)?;
                a.xor(eax, eax)?;
                a.verr(dx)?;
                a.setz(al)?;
                a.verw(dx)?;
                a.setz(ah)
            });
        }
    }
}

fn far(opcode: &[u8], offset: u32, selector: u16) -> Vec<u8> {
    let mut bytes = opcode.to_vec();
    bytes.extend(offset.to_le_bytes());
    bytes.extend(selector.to_le_bytes());
    bytes
}

/// Far calls, jumps and returns to every selector. Calls reach a far return, so that they come back.
fn transfers(p: &mut Program, target: u32) {
    for ring in [Ring::Kernel, Ring::User] {
        for (name, selector) in selectors() {
            // Through these, a task switch.
            if matches!(selector & !7, 0x28 | 0x88 | 0x90 | 0xB0) {
                continue;
            }
            // Beyond the limit QEMU 7.2 names the selector or sees nothing, where the manual has #GP(0).
            if selector & !7 == BYTE_CODE {
                continue;
            }
            let call = far(&[0x9A], target, selector);
            p.attempt(ring, format!("{ring:?} call far: {name}"), &[], |a| {
                a.db(&call)
            });
            // A far return to the same place, with the caller's address under the target's.
            p.attempt(ring, format!("{ring:?} ret far: {name}"), &[], |a| {
                let number = u32::from(selector);
                a.mov(edx, cs)?;
                a.push(edx)?;
                let mut here = a.create_label();
                a.call(here)?;
                a.set_label(&mut here)?;
                // What the call pushed becomes the address behind the retf below, 18 bytes on.
                a.add(dword_ptr(esp), 4 + 5 + 5 + 1)?;
                a.push(number as i32 | 0x1000_0000)?;
                a.push(target as i32)?;
                a.retf()
            });
        }
    }
    for offset in [0x100u32, 0xFFF] {
        let call = far(&[0x9A], offset, BYTE_CODE);
        p.attempt(
            Ring::Kernel,
            format!("call far within the limit {offset:#x}"),
            &[],
            |a| {
                a.db(&call)?;
                a.nop()
            },
        );
    }
    for selector in [GATE | 3, LDT_SEL] {
        let jump = far(&[0xEA], target, selector);
        p.attempt(Ring::User, format!("jmp far to {selector:#x}"), &[], |a| {
            a.db(&jump)
        });
    }
}
