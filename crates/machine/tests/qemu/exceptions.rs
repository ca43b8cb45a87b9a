//! Exceptions, interrupts, privileged instructions and flags.
//!
//! Left out: reserved bits of CR4, at which QEMU 7.2 hangs, and LOCK before a MOV, which it
//! lets pass.

use crate::program::*;
use iced_x86::code_asm::*;

type Case = (&'static str, fn(&mut CodeAssembler) -> Piece);

/// Tried in both rings.
const CASES: &[Case] = &[
    ("div by zero", |a| {
        a.xor(ecx, ecx)?;
        a.div(ecx)
    }),
    ("div overflow", |a| {
        a.mov(edx, 5)?;
        a.mov(ecx, 5)?;
        a.div(ecx)
    }),
    ("idiv overflow", |a| {
        a.mov(eax, 0x8000_0000u32)?;
        a.cdq()?;
        a.mov(ecx, -1)?;
        a.idiv(ecx)
    }),
    ("aam 0", |a| a.aam(0)),
    ("ud2", |a| a.ud2()),
    ("lock add register", |a| a.db(&[0xF0, 0x01, 0xD8])),
    ("mov cs", |a| a.db(&[0x8E, 0xC8])),
    ("lea register", |a| a.db(&[0x8D, 0xC0])),
    ("int3", |a| a.int3()),
    ("int 0x81", |a| a.int(0x81)),
    ("int 0x21", |a| a.int(0x21)),
    ("int 0x0e", |a| a.int(0x0E)),
    ("int beyond the idt", |a| a.int(0xC8)),
    ("into, overflow", |a| {
        a.mov(ecx, 0x7FFF_FFFF)?;
        a.inc(ecx)?;
        a.into()
    }),
    ("into, none", |a| {
        a.xor(ecx, ecx)?;
        a.into()
    }),
    ("bound within", |a| {
        a.mov(ecx, 0x0101_0101)?;
        a.bound(ecx, dword_ptr(FRAMES))
    }),
    ("bound below", |a| {
        a.mov(ecx, -1)?;
        a.bound(ecx, dword_ptr(FRAMES))
    }),
    ("cli", |a| a.cli()),
    ("sti", |a| {
        a.sti()?;
        a.cli()
    }),
    ("in al", |a| {
        a.mov(edx, 0x5678)?;
        a.in_(al, dx)
    }),
    ("out", |a| a.out(0x80, al)),
    ("clts", |a| a.clts()),
    ("invd", |a| a.invd()),
    ("wbinvd", |a| a.wbinvd()),
    ("invlpg", |a| a.invlpg(dword_ptr(FRAMES))),
    ("lgdt", |a| a.lgdt(fword_ptr(FRAMES + 0x100))),
    ("lidt", |a| a.lidt(fword_ptr(FRAMES + 0x108))),
    ("sgdt", |a| {
        a.sgdt(fword_ptr(FRAMES + 0x40))?;
        a.mov(eax, dword_ptr(FRAMES + 0x40))
    }),
    ("sidt", |a| {
        a.sidt(fword_ptr(FRAMES + 0x40))?;
        a.mov(eax, dword_ptr(FRAMES + 0x42))
    }),
    ("smsw", |a| {
        a.smsw(eax)?;
        a.and(eax, 0xF)
    }),
    ("lmsw", |a| {
        a.smsw(eax)?;
        a.lmsw(ax)
    }),
    ("sldt", |a| a.sldt(eax)),
    ("str", |a| a.str(eax)),
    ("read cr0", |a| {
        a.mov(eax, cr0)?;
        a.and(eax, 1)
    }),
    ("write cr2", |a| {
        a.mov(cr2, ebx)?;
        a.mov(eax, cr2)
    }),
    ("read dr7", |a| a.mov(eax, dr7)),
    ("write dr0", |a| {
        a.mov(dr0, ebx)?;
        a.mov(eax, dr0)
    }),
    ("rdmsr of nothing", |a| {
        a.mov(ecx, 0x174)?;
        a.rdmsr()
    }),
    ("hlt in ring 3 only", |a| {
        let mut kernel = a.create_label();
        a.mov(eax, cs)?;
        a.test(al, 3)?;
        a.je(kernel)?;
        a.hlt()?;
        a.set_label(&mut kernel)?;
        a.nop()
    }),
    ("popfd of all", |a| {
        a.push(0x0024_7FD5 & !0x100)?;
        a.popfd()?;
        a.pushfd()?;
        a.pop(eax)
    }),
    ("popf of all", |a| {
        a.push(0x7ED5)?;
        a.popf()?;
        a.pushfd()?;
        a.pop(eax)
    }),
    ("single step", |a| {
        a.pushfd()?;
        a.or(dword_ptr(esp), 0x100)?;
        a.popfd()?;
        a.nop()?;
        a.nop()
    }),
    ("push at the end of the stack", |a| {
        a.mov(edx, esp)?;
        a.push(ebx)?;
        a.push(word_ptr(FRAMES))?;
        a.pop(ax)?;
        a.pop(eax)?;
        a.sub(edx, esp)
    }),
    ("enter and leave", |a| {
        a.enter(16, 2)?;
        a.mov(eax, ebp)?;
        a.sub(eax, esp)?;
        a.leave()
    }),
    ("rep movs", |a| {
        a.mov(esi, FRAMES)?;
        a.mov(edi, FRAMES + 0x800)?;
        a.mov(ecx, 9)?;
        a.rep().movsb()
    }),
    ("std lods", |a| {
        a.mov(esi, FRAMES + 0x10)?;
        a.std()?;
        a.lodsd()?;
        a.lodsw()?;
        a.cld()
    }),
    ("cmpxchg8b", |a| {
        a.mov(eax, dword_ptr(FRAMES))?;
        a.mov(edx, dword_ptr(FRAMES + 4))?;
        a.cmpxchg8b(qword_ptr(FRAMES))?;
        a.setz(al)
    }),
    ("cmpxchg8b register", |a| a.db(&[0x0F, 0xC7, 0xC8])),
    ("daa", |a| {
        a.mov(eax, 0x9A)?;
        a.add(al, 0x15)?;
        a.daa()?;
        a.test(eax, eax)
    }),
    ("aas", |a| {
        a.mov(eax, 0x020F)?;
        a.aas()?;
        // PF, SF, ZF and OF are undefined.
        a.test(eax, eax)
    }),
    ("arpl", |a| {
        a.mov(eax, 0x30)?;
        a.mov(edx, 0x1B)?;
        a.arpl(ax, dx)?;
        a.setz(ah)
    }),
    ("bts beyond", |a| {
        a.mov(ecx, 77)?;
        a.bts(dword_ptr(FRAMES + 0x80), ecx)?;
        a.mov(eax, dword_ptr(FRAMES + 0x88))
    }),
    ("15 bytes", |a| {
        a.db(&[
            0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
            0x90,
        ])
    }),
    ("16 bytes", |a| {
        a.db(&[
            0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
            0x66, 0x90,
        ])
    }),
];

/// Tried in ring 0 only.
const KERNEL: &[Case] = &[
    ("fnop with em", |a| {
        a.mov(eax, cr0)?;
        a.mov(edx, eax)?;
        a.or(eax, 4)?;
        a.mov(cr0, eax)?;
        a.fnop()
    }),
    ("fnop with ts", |a| {
        a.and(edx, !4)?;
        a.mov(eax, cr0)?;
        a.and(eax, !0xC)?;
        a.or(eax, 8)?;
        a.mov(cr0, eax)?;
        a.fnop()
    }),
    ("wait with ts and mp", |a| {
        a.mov(eax, cr0)?;
        a.or(eax, 0xA)?;
        a.mov(cr0, eax)?;
        a.wait()
    }),
    ("smsw after these", |a| {
        a.clts()?;
        a.mov(eax, cr0)?;
        a.and(eax, !6)?;
        a.mov(cr0, eax)?;
        a.smsw(eax)?;
        a.and(eax, 0xF)
    }),
    ("iret to ring 0 with flags", |a| {
        let mut here = a.create_label();
        a.push(0x4CD5)?;
        a.push(i32::from(KCS))?;
        a.call(here)?;
        a.set_label(&mut here)?;
        a.add(dword_ptr(esp), 5)?;
        a.iretd()?;
        a.pushfd()?;
        a.pop(eax)
    }),
    ("iret to a null cs", |a| {
        a.push(2)?;
        a.push(0)?;
        a.push(0)?;
        a.iretd()
    }),
    ("iret to ring 3 with a bad ss", |a| {
        a.push(i32::from(KDS))?;
        a.push(USTACK as i32)?;
        a.push(2)?;
        a.push(i32::from(UCS))?;
        a.push(0)?;
        a.iretd()
    }),
    ("iret to ring 3 beyond its limit of privilege", |a| {
        a.push(i32::from(UDS))?;
        a.push(USTACK as i32)?;
        a.push(2)?;
        a.push(i32::from(KCS) | 3)?;
        a.push(0)?;
        a.iretd()
    }),
];

/// The program.
pub(crate) fn program() -> Program {
    let mut p = Program::new(&[]);
    for i in 0..64 {
        p.put32(FRAMES + 4 * i, 0x0101_0101 * (i + 1));
    }
    // What lgdt and lidt load is what they already hold.
    p.put32(FRAMES + 0x100, 47 | GDT << 16);
    p.put32(FRAMES + 0x104, GDT >> 16);
    p.put32(FRAMES + 0x108, (8 * 0xC0 - 1) | IDT << 16);
    p.put32(FRAMES + 0x10C, IDT >> 16);
    // A gate that is absent.
    p.put64(IDT + 8 * 0x21, gate(KCS, 0, 0x6E));
    for ring in [Ring::Kernel, Ring::User] {
        for &(name, f) in CASES {
            p.attempt(
                ring,
                format!("{ring:?} {name}"),
                &[FRAMES, FRAMES + 0x808],
                f,
            );
        }
    }
    for &(name, f) in KERNEL {
        p.attempt(Ring::Kernel, name.to_owned(), &[], f);
    }
    p
}
