//! Single steps, breakpoints and DR6 (SDM vol. 3B, chapter 17).
//!
//! A #DB is an exception like others; the attempt after it shows what it left in DR6, and clears DR7 before it looks at
//! the word that was watched. Left out: INT1, which QEMU 7.2 refuses.

use crate::program::*;
use iced_x86::code_asm::*;

/// The program.
pub(crate) fn program() -> Program {
    let mut p = Program::new(&[]);
    let word = FRAMES + 0x10;
    for ring in [Ring::Kernel, Ring::User] {
        let mut case = |name: &str, control: u32, f: fn(&mut CodeAssembler) -> Piece| {
            p.emit(|a| {
                a.mov(eax, word)?;
                a.mov(dr0, eax)?;
                a.xor(eax, eax)?;
                a.mov(dr6, eax)?;
                a.mov(eax, control)?;
                a.mov(dr7, eax)
            });
            p.attempt(ring, format!("{ring:?} {name}"), &[], f);
            p.attempt(
                Ring::Kernel,
                format!("{ring:?} {name}: dr6 and dr7"),
                &[word],
                |a| {
                    a.mov(eax, dr7)?;
                    a.mov(ecx, dr6)?;
                    a.rol(ecx, 16)?;
                    a.xor(eax, ecx)?;
                    a.xor(ecx, ecx)?;
                    a.mov(dr7, ecx)
                },
            );
        };
        case("step over a nop", 0, |a| {
            trap_flag(a)?;
            a.nop()?;
            a.inc(ecx)
        });
        case("step over a repeated string operation", 0, |a| {
            a.mov(edi, FRAMES + 0x40)?;
            a.mov(ecx, 3)?;
            trap_flag(a)?;
            a.rep().stosb()?;
            a.nop()
        });
        case("step over a load of ss", 0, |a| {
            a.mov(edx, ss)?;
            trap_flag(a)?;
            a.mov(ss, edx)?;
            a.inc(ecx)?;
            a.inc(ecx)
        });
        case("step over an interrupt", 0, |a| {
            trap_flag(a)?;
            a.int(i32::from(DONE))
        });
        case("step over pushfd", 0, |a| {
            trap_flag(a)?;
            a.pushfd()?;
            a.pop(ecx)
        });
        case("step over a fault", 0, |a| {
            trap_flag(a)?;
            a.ud2()
        });
        let one = |kind: u32, len: u32| 1 | kind << 16 | len << 18;
        case("break on a write: read", one(1, 3), |a| {
            a.mov(eax, dword_ptr(FRAMES + 0x10))
        });
        case("break on a write: write", one(1, 3), |a| {
            a.mov(dword_ptr(FRAMES + 0x10), ebx)
        });
        case("break on a write: last byte", one(1, 3), |a| {
            a.mov(byte_ptr(FRAMES + 0x13), bl)
        });
        case("break on a write: byte behind", one(1, 3), |a| {
            a.mov(byte_ptr(FRAMES + 0x14), bl)
        });
        case("break on a write: from before", one(1, 0), |a| {
            a.mov(dword_ptr(FRAMES + 0xE), ebx)
        });
        case("break on a byte: byte behind", one(1, 0), |a| {
            a.mov(byte_ptr(FRAMES + 0x11), bl)
        });
        case("break on access: read", one(3, 1), |a| {
            a.mov(al, byte_ptr(FRAMES + 0x11))
        });
        case("break on access: modify", one(3, 3), |a| {
            a.inc(dword_ptr(FRAMES + 0x10))
        });
        case("break on access: push", one(3, 3), |a| {
            a.mov(edx, esp)?;
            a.mov(esp, FRAMES + 0x14)?;
            a.push(ebx)?;
            a.mov(esp, edx)
        });
        case("break off", one(3, 3) & !1, |a| {
            a.mov(dword_ptr(FRAMES + 0x10), ebx)
        });
        case("break, global", (one(3, 3) & !1) | 2, |a| {
            a.mov(dword_ptr(FRAMES + 0x10), ebx)
        });
    }
    p
}

fn trap_flag(a: &mut CodeAssembler) -> Piece {
    a.pushfd()?;
    a.or(dword_ptr(esp), 0x100)?;
    a.popfd()
}
