//! Images for the cross-check: multiboot programs of numbered attempts, each of which leaves one record in a log.
//!
//! An attempt is a few instructions in ring 0 or ring 3. Whether they fault or not, the program goes on behind them, and
//! the record says what happened: vector, error code, CR2 and registers of the last exception, the value of EAX if the end
//! was reached, and what some words of memory hold then. At its end the program writes the log to port 0xE9 and stops by
//! port 0xF4.
//!
//! Everything lies below 2 MiB, linear = physical. Code is assembled piece by piece at known addresses, so no piece needs
//! a label of another.

use iced_x86::code_asm::*;

/// Where the image is loaded; code follows the multiboot header.
pub(crate) const BASE: u32 = 0x10_0000;
pub(crate) const GDT: u32 = 0x17_0000;
pub(crate) const IDT: u32 = 0x17_1000;
pub(crate) const TSS: u32 = 0x17_2000;
pub(crate) const LDT: u32 = 0x17_3000;
pub(crate) const OTHER_TSS: u32 = 0x17_4000;
const VARS: u32 = 0x17_5000;
pub(crate) const KSTACK: u32 = 0x17_8000;
pub(crate) const USTACK: u32 = 0x17_9000;
/// Sixteen pages for tables, sixteen for data.
pub(crate) const TABLES: u32 = 0x18_0000;
pub(crate) const FRAMES: u32 = 0x19_0000;
/// The log; nothing of it is in the image.
const LOG: u32 = 0x1A_0000;
const LOG_END: u32 = 0x20_0000;

pub(crate) const KCS: u16 = 0x08;
pub(crate) const KDS: u16 = 0x10;
pub(crate) const UCS: u16 = 0x1B;
pub(crate) const UDS: u16 = 0x23;
pub(crate) const TSS_SEL: u16 = 0x28;

/// The vector by which ring 3 says that it has come to its end.
pub(crate) const DONE: u8 = 0x80;

/// Words of a record.
pub(crate) const FIELDS: [&str; 16] = [
    "id", "vector", "code", "cr2", "eip", "cs", "eflags", "esp", "ecx", "esi", "edi", "value",
    "word 0", "word 1", "word 2", "word 3",
];
/// Words kept in variables; the rest are read from memory at the end of an attempt.
const KEPT: u32 = 12;

/// Where the word of a record is kept.
const fn var(field: u32) -> u32 {
    VARS + 4 * field
}
const RESUME: u32 = VARS + 0x100;
/// Where the next record goes.
const NEXT: u32 = VARS + 0x104;

/// Of EFLAGS in a record: the arithmetic flags, TF, IF, DF, IOPL, NT, VM and AC.
const FLAGS: u32 = 0x0006_7FD5;

/// What ends a piece of code: nothing went wrong while assembling.
pub(crate) type Piece = Result<(), iced_x86::IcedError>;

/// A program under construction.
pub(crate) struct Program {
    /// The image from [`BASE`] on.
    bytes: Vec<u8>,
    /// Where the next piece of code goes.
    at: u32,
    names: Vec<String>,
}

/// Whose rights an attempt has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ring {
    Kernel,
    User,
}

impl Program {
    /// A program that has set up descriptor tables, stacks and handlers. The GDT has the five usual segments and a TSS;
    /// `more` are its further descriptors.
    pub(crate) fn new(more: &[u64]) -> Program {
        let mut p = Program {
            bytes: vec![0; (LOG - BASE) as usize],
            at: BASE + 0x40,
            names: Vec::new(),
        };
        p.header();
        let gdt = [
            0,
            descriptor(0, 0xF_FFFF, 0xC09A),
            descriptor(0, 0xF_FFFF, 0xC092),
            descriptor(0, 0xF_FFFF, 0xC0FA),
            descriptor(0, 0xF_FFFF, 0xC0F2),
            descriptor(TSS, 0x67, 0x0089),
        ];
        for (i, d) in (0..).zip(gdt.iter().chain(more)) {
            p.put64(GDT + 8 * i, *d);
        }
        let limits = [8 * (gdt.len() + more.len()) as u32 - 1, 8 * 0xC0 - 1];
        for (i, (limit, base)) in (0..).zip([(limits[0], GDT), (limits[1], IDT)]) {
            p.put32(VARS + 0x200 + 8 * i, limit | base << 16);
            p.put32(VARS + 0x204 + 8 * i, base >> 16);
        }
        for tss in [TSS, OTHER_TSS] {
            p.put32(tss + 4, KSTACK);
            p.put32(tss + 8, KDS.into());
            p.put32(tss + 0x64, 0x68 << 16);
        }
        p.handlers();
        p.start();
        p
    }

    /// Multiboot 1 with addresses, so that the rest is a flat binary.
    fn header(&mut self) {
        let flags = 1 << 16;
        let magic = 0x1BAD_B002u32;
        let words = [
            magic,
            flags,
            0u32.wrapping_sub(magic).wrapping_sub(flags),
            BASE,
            BASE,
            LOG,
            LOG_END,
            0,
        ];
        for (i, w) in (0..).zip(words) {
            self.put32(BASE + 4 * i, w);
        }
    }

    /// Stores a word in the image.
    pub(crate) fn put32(&mut self, at: u32, value: u32) {
        let at = (at - BASE) as usize;
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Stores a double word in the image.
    pub(crate) fn put64(&mut self, at: u32, value: u64) {
        self.put32(at, value as u32);
        self.put32(at + 4, (value >> 32) as u32);
    }

    /// Adds a piece of code; gives its address.
    pub(crate) fn emit(&mut self, f: impl FnOnce(&mut CodeAssembler) -> Piece) -> u32 {
        let at = self.at;
        let bytes = assemble(at, f);
        self.append(&bytes);
        at
    }

    /// Puts a piece of code elsewhere in the image.
    pub(crate) fn place(&mut self, at: u32, f: impl FnOnce(&mut CodeAssembler) -> Piece) {
        let bytes = assemble(at, f);
        let at = (at - BASE) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        let at = (self.at - BASE) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len() as u32;
        assert!(self.at < GDT, "the code is too long");
    }

    fn handlers(&mut self) {
        let common = self.emit(|a| {
            a.pushad()?;
            a.mov(eax, u32::from(KDS))?;
            a.mov(ds, eax)?;
            // vector, code, eip, cs, eflags lie above the registers.
            for (field, at) in [
                (1, 32),
                (2, 36),
                (4, 40),
                (5, 44),
                (6, 48),
                (8, 24),
                (9, 4),
                (10, 0),
            ] {
                a.mov(eax, dword_ptr(esp + at))?;
                if field == 5 {
                    a.movzx(eax, ax)?;
                }
                if field == 6 {
                    a.and(eax, FLAGS)?;
                }
                a.mov(dword_ptr(var(field)), eax)?;
            }
            let (mut same, mut other) = (a.create_label(), a.create_label());
            a.lea(eax, dword_ptr(esp + 52))?;
            a.test(dword_ptr(esp + 44), 3)?;
            a.je(same)?;
            a.mov(eax, dword_ptr(esp + 52))?;
            a.set_label(&mut same)?;
            a.mov(dword_ptr(var(7)), eax)?;
            a.xor(eax, eax)?;
            a.cmp(dword_ptr(esp + 32), 14)?;
            a.jne(other)?;
            a.mov(eax, cr2)?;
            a.set_label(&mut other)?;
            a.mov(dword_ptr(var(3)), eax)?;
            a.jmp(dword_ptr(RESUME))
        });
        for vector in 0..0xC0u8 {
            let stub = self.emit(|a| {
                if !matches!(vector, 8 | 10..=14 | 17) {
                    a.push(0)?;
                }
                a.push(i32::from(vector))?;
                a.jmp(u64::from(common))
            });
            let dpl = if vector == DONE { 3 } else { 0 };
            self.put64(
                IDT + 8 * u32::from(vector),
                gate(KCS, stub, 0x8E | dpl << 5),
            );
        }
    }

    /// The entry point is the first byte after the handlers.
    fn start(&mut self) {
        let entry = self.emit(|a| {
            a.cli()?;
            a.cld()?;
            a.lgdt(fword_ptr(VARS + 0x200))?;
            a.lidt(fword_ptr(VARS + 0x208))
        });
        self.put32(BASE + 0x1C, entry);
        self.restore();
        self.emit(|a| {
            a.mov(eax, u32::from(TSS_SEL))?;
            a.ltr(ax)?;
            a.mov(dword_ptr(NEXT), LOG)?;
            // All lines of both interrupt controllers are masked.
            a.mov(al, 0xFF)?;
            a.out(0x21, al)?;
            a.out(0xA1, al)
        });
    }

    /// Usual segments, stack and flags, whatever was left.
    fn restore(&mut self) {
        let target = self.at + 7;
        let mut far = vec![0xEA];
        far.extend(target.to_le_bytes());
        far.extend(KCS.to_le_bytes());
        self.append(&far);
        self.emit(|a| {
            a.mov(eax, u32::from(KDS))?;
            a.mov(ds, eax)?;
            a.mov(es, eax)?;
            a.mov(ss, eax)?;
            a.mov(fs, eax)?;
            a.mov(gs, eax)?;
            a.mov(esp, KSTACK)?;
            a.push(2)?;
            a.popfd()
        });
    }

    /// `mov dword [at], value` in a running program.
    pub(crate) fn store(&mut self, at: u32, value: u32) {
        self.emit(|a| a.mov(dword_ptr(at), value));
    }

    /// One attempt: these instructions, then the words of memory at `watch`.
    pub(crate) fn attempt(
        &mut self,
        ring: Ring,
        name: String,
        watch: &[u32],
        f: impl FnOnce(&mut CodeAssembler) -> Piece,
    ) {
        self.store(var(0), self.names.len() as u32);
        self.names.push(name);
        self.emit(|a| {
            a.mov(edi, var(1))?;
            a.xor(eax, eax)?;
            a.dec(eax)?;
            a.mov(ecx, KEPT - 1)?;
            a.rep().stosd()?;
            a.mov(eax, 0x1111_1111)?;
            a.mov(ebx, 0x2222_2222)?;
            a.mov(ecx, 3)?;
            a.mov(edx, 0x4444_4444)?;
            a.mov(esi, 0x5555_5555)?;
            a.mov(edi, 0x6666_6666)
        });
        // mov dword [RESUME], imm32 has ten bytes.
        let body_at = self.at + 10;
        let body = match ring {
            Ring::Kernel => assemble(body_at, |a| {
                f(a)?;
                a.mov(dword_ptr(var(11)).ss(), eax)
            }),
            Ring::User => {
                // Five pushes of five bytes and the iret.
                let inside = body_at + 26;
                let mut bytes = Vec::new();
                for word in [u32::from(UDS), USTACK, 2, u32::from(UCS), inside] {
                    bytes.push(0x68);
                    bytes.extend(word.to_le_bytes());
                }
                bytes.push(0xCF);
                bytes.extend(assemble(inside, |a| {
                    a.mov(eax, u32::from(UDS))?;
                    a.mov(ds, eax)?;
                    a.mov(es, eax)?;
                    a.mov(eax, 0x1111_1111)?;
                    f(a)?;
                    a.mov(dword_ptr(var(11)).ss(), eax)?;
                    a.int(i32::from(DONE))
                }));
                bytes
            }
        };
        let after = body_at + body.len() as u32;
        self.append(&[0xC7, 0x05]);
        self.append(&RESUME.to_le_bytes());
        self.append(&after.to_le_bytes());
        self.append(&body);
        assert_eq!(self.at, after);
        self.restore();
        assert!(watch.len() <= FIELDS.len() - KEPT as usize);
        self.emit(|a| {
            a.mov(edi, dword_ptr(NEXT))?;
            a.mov(esi, var(0))?;
            a.mov(ecx, KEPT)?;
            a.rep().movsd()?;
            for i in 0..FIELDS.len() - KEPT as usize {
                match watch.get(i) {
                    Some(&at) => a.mov(eax, dword_ptr(at))?,
                    None => a.xor(eax, eax)?,
                }
                a.stosd()?;
            }
            a.mov(dword_ptr(NEXT), edi)
        });
    }

    /// Ends the program. Gives the image and the names of its attempts.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        let words = (self.names.len() * FIELDS.len()) as u32;
        assert!(LOG + 4 * words < LOG_END, "the log is too long");
        self.emit(|a| {
            let mut next = a.create_label();
            a.mov(esi, LOG)?;
            a.set_label(&mut next)?;
            a.lodsb()?;
            a.out(0xE9, al)?;
            a.cmp(esi, dword_ptr(NEXT))?;
            a.jne(next)?;
            a.xor(eax, eax)?;
            a.out(0xF4, al)?;
            a.cli()?;
            a.hlt()
        });
        (self.bytes, self.names)
    }
}

fn assemble(at: u32, f: impl FnOnce(&mut CodeAssembler) -> Piece) -> Vec<u8> {
    let mut a = CodeAssembler::new(32).expect("32 bits are supported");
    f(&mut a).expect("every operand of these programs can be encoded");
    a.assemble(at.into()).expect("short branches reach")
}

/// A segment descriptor: base, limit as stored, and bits 55:40 (G, D, AVL, -, limit, P, DPL, S, type).
pub(crate) fn descriptor(base: u32, limit: u32, access: u16) -> u64 {
    let (base, limit, access) = (u64::from(base), u64::from(limit), u64::from(access));
    limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | (access & 0xF0FF) << 40
        | (limit >> 16 & 0xF) << 48
        | (base >> 24) << 56
}

/// A gate; `access` is bits 47:40.
pub(crate) fn gate(selector: u16, offset: u32, access: u8) -> u64 {
    u64::from(offset & 0xFFFF)
        | u64::from(selector) << 16
        | u64::from(access) << 40
        | u64::from(offset >> 16) << 48
}
