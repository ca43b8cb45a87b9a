//! Integer instructions against the host CPU: random register operands and flags, every form that
//! is encoded alike in 64-bit mode.
//!
//! The instruction runs natively from an executable page between loads and stores of the registers;
//! flags that the manual (as the decoder's tables tell it) leaves undefined are not compared.
//! x86-64 Linux only.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use common::*;
use emu_cpu::*;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, Mnemonic, RflagsBits};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

const ARITH: u32 = flags::ARITH;

/// An executable page with the frame around the instruction under test.
struct Native {
    page: *mut u8,
    slot: usize,
}

/// EAX, ECX, EDX, EBX, ESP (unused), EBP, ESI, EDI, flags; the stub's layout.
type State = [u64; 9];

const PAGE: usize = 4096;
/// Bytes for the instruction, filled up with one-byte NOPs.
const SLOT: usize = 15;

impl Native {
    fn new() -> Self {
        let mut a = CodeAssembler::new(64).unwrap();
        a.push(rbx).unwrap();
        a.push(rbp).unwrap();
        a.mov(r8, rdi).unwrap();
        a.push(qword_ptr(r8 + 64)).unwrap();
        a.popfq().unwrap();
        let registers = [eax, ecx, edx, ebx, esp, ebp, esi, edi];
        let used = || registers.iter().enumerate().filter(|(i, _)| *i != 4);
        for (i, &r) in used() {
            a.mov(r, dword_ptr(r8 + i as i32 * 8)).unwrap();
        }
        let before = a.assemble(0).unwrap().len();
        a.db(&[0x90; SLOT]).unwrap();
        a.pushfq().unwrap();
        a.pop(r9).unwrap();
        for (i, &r) in used() {
            a.mov(dword_ptr(r8 + i as i32 * 8), r).unwrap();
        }
        a.mov(qword_ptr(r8 + 64), r9).unwrap();
        a.cld().unwrap();
        a.pop(rbp).unwrap();
        a.pop(rbx).unwrap();
        a.ret().unwrap();
        let code = a.assemble(0).unwrap();
        // SAFETY: a fresh anonymous mapping, owned by this value.
        let page = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC,
                MapFlags::PRIVATE,
            )
        }
        .expect("an executable page")
        .cast::<u8>();
        // SAFETY: the stub is far shorter than the page.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), page, code.len()) };
        Native { page, slot: before }
    }

    fn run(&mut self, bytes: &[u8], state: &mut State) {
        let mut slot = [0x90; SLOT];
        slot[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: the slot lies inside the page; the instruction touches only registers and flags.
        unsafe {
            std::ptr::copy_nonoverlapping(slot.as_ptr(), self.page.add(self.slot), SLOT);
            let f: extern "sysv64" fn(*mut State) = std::mem::transmute(self.page);
            f(state);
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, not used afterwards.
        unsafe { munmap(self.page.cast(), PAGE) }.expect("the page is mapped");
    }
}

/// xorshift: the same cases every time.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    /// Small, near a sign change, or anything.
    fn value(&mut self) -> u32 {
        let v = self.next() as u32;
        match self.below(6) {
            0 => v & 0x3f,
            1 => [
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0xffff,
                0x7fff_ffff,
                0x8000_0000,
            ][v as usize & 7],
            2 => (v & 3).wrapping_sub(2),
            _ => v,
        }
    }
    fn register(&mut self) -> u8 {
        [0, 1, 2, 3, 5, 6, 7][self.below(7) as usize]
    }
    /// A register-form ModRM byte; bytes avoid AH..BH only where that would be ESP's number.
    fn modrm(&mut self, wide: bool) -> u8 {
        let mut pick = || {
            if wide {
                self.register()
            } else {
                self.below(8) as u8
            }
        };
        0xc0 | pick() << 3 | pick()
    }
}

/// A random register-only instruction.
fn instruction(r: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let prefix = r.below(3) == 0;
    if prefix {
        bytes.push(0x66);
    }
    let w = r.below(2) as u8;
    let wide = w == 1;
    let group = |r: &mut Random, op: u8, wide: bool| (r.modrm(wide) & !0x38) | op << 3;
    match r.below(14) {
        0..=2 => {
            let op = r.below(8) as u8;
            let direction = r.below(2) as u8 * 2;
            bytes.extend([op << 3 | direction | w, r.modrm(wide)]);
        }
        3 => {
            let op = r.below(8) as u8;
            let m = group(r, op, true);
            bytes.extend([0x83, m, r.value() as u8]);
        }
        4 => {
            let op = [0, 2, 3][r.below(3) as usize];
            let m = group(r, op, wide);
            bytes.extend([0xf6 | w, m]);
            if op == 0 {
                let imm = r.value().to_le_bytes();
                let n = match (wide, prefix) {
                    (false, _) => 1,
                    (true, true) => 2,
                    (true, false) => 4,
                };
                bytes.extend(&imm[..n]);
            }
        }
        5 => {
            let op = r.below(2) as u8;
            let m = group(r, op, wide);
            bytes.extend([0xfe | w, m]);
        }
        6 | 7 => {
            let op = [0, 1, 2, 3, 4, 5, 7][r.below(7) as usize];
            let m = group(r, op, wide);
            match r.below(3) {
                0 => bytes.extend([0xd0 | w, m]),
                1 => bytes.extend([0xd2 | w, m]),
                _ => bytes.extend([0xc0 | w, m, r.value() as u8]),
            }
        }
        8 => {
            let op = 4 + r.below(4) as u8;
            let m = group(r, op, wide);
            bytes.extend([0xf6 | w, m]);
        }
        9 => {
            let op = [0xa3, 0xab, 0xb3, 0xbb, 0xaf, 0xbc, 0xbd, 0xa5, 0xad][r.below(9) as usize];
            bytes.extend([0x0f, op, r.modrm(true)]);
        }
        10 => {
            let op = [0xa4, 0xac][r.below(2) as usize];
            bytes.extend([0x0f, op, r.modrm(true), r.value() as u8]);
        }
        11 => {
            let op = [0xb0, 0xc0][r.below(2) as usize];
            bytes.extend([0x0f, op | w, r.modrm(wide)]);
        }
        12 => {
            let cc = r.below(16) as u8;
            if wide {
                bytes.extend([0x0f, 0x40 | cc, r.modrm(true)]);
            } else {
                bytes.extend([0x0f, 0x90 | cc, r.modrm(false) & 0xc7]);
            }
        }
        _ => match r.below(8) {
            0 => bytes.extend([0x98]),
            1 => bytes.extend([0x99]),
            2 => {
                bytes.clear();
                bytes.extend([0x0f, 0xc8 | r.register()]);
            }
            3 => bytes.extend([0x9e]),
            4 => bytes.extend([0x9f]),
            5 => bytes.extend([[0xf5, 0xf8, 0xf9][r.below(3) as usize]]),
            6 => {
                let op = [0xb6, 0xbe][r.below(2) as usize];
                bytes.extend([0x0f, op, r.modrm(true) & !7 | r.below(8) as u8]);
            }
            _ => bytes.extend([0x86 | w, r.modrm(wide)]),
        },
    }
    bytes
}

/// Flags to compare after this instruction.
fn defined(i: &iced_x86::Instruction, count: u32) -> u32 {
    let undefined = i.rflags_undefined();
    let mut mask = 0;
    for (bit, flag) in [
        (RflagsBits::OF, flags::OF),
        (RflagsBits::SF, flags::SF),
        (RflagsBits::ZF, flags::ZF),
        (RflagsBits::AF, flags::AF),
        (RflagsBits::CF, flags::CF),
        (RflagsBits::PF, flags::PF),
    ] {
        if undefined & bit == 0 {
            mask |= flag;
        }
    }
    use Mnemonic::*;
    let bits = match i.op0_register().size() {
        1 => 8,
        2 => 16,
        _ => 32,
    };
    match i.mnemonic() {
        Shl | Sal | Shr | Sar | Shld | Shrd | Rol | Ror | Rcl | Rcr => match count & 31 {
            0 => ARITH,
            1 => mask | flags::OF,
            // CF of shl and shr is undefined from the operand's width on.
            n if n >= bits && matches!(i.mnemonic(), Shl | Sal | Shr) => {
                mask & !(flags::CF | flags::OF)
            }
            _ => mask & !flags::OF,
        },
        _ => mask,
    }
}

#[test]
fn integer_instructions_agree_with_the_host() {
    let mut native = Native::new();
    let mut cpu = machine();
    let mut engine = EngineState::new(Engine::Reference);
    let mut r = Random(0x1234_5678_9abc_def1);
    let (mut compared, mut divided) = (0u32, 0u32);
    for _ in 0..300_000 {
        let bytes = instruction(&mut r);
        let i = Decoder::with_ip(32, &bytes, 0, DecoderOptions::NONE).decode();
        if i.is_invalid() || i.len() != bytes.len() {
            continue;
        }
        let mut state: State = [0; 9];
        for (n, slot) in state.iter_mut().enumerate().take(8) {
            let v = r.value();
            *slot = u64::from(v);
            cpu.regs[n] = v;
        }
        cpu.regs[regs::ESP] = KSTACK;
        let before = cpu.regs;
        let set = r.next() as u32 & ARITH;
        state[8] = u64::from(set | 2);
        cpu.set_eflags(set | 2);
        cpu.eip = KERNEL;
        place(&mut cpu, KERNEL, &bytes);
        // A divide error ends in a triple fault here (there are no gates); the host is not asked
        // then.
        if cpu.step(&mut engine, &mut NoBus).is_some() {
            assert!(
                matches!(i.mnemonic(), Mnemonic::Div | Mnemonic::Idiv),
                "{i:?}"
            );
            assert!(divide_overflows(&i, &before), "{i:?} {before:x?}");
            divided += 1;
            continue;
        }
        let count = match i.op_count() {
            3 if i.op2_register() == iced_x86::Register::CL => before[regs::ECX],
            3 => i.try_immediate(2).unwrap_or(0) as u32,
            2 if i.op1_register() == iced_x86::Register::CL => before[regs::ECX],
            2 => i.try_immediate(1).unwrap_or(0) as u32,
            _ => 0,
        };
        let double = matches!(i.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
        if double && i.op0_register().size() == 2 && count & 31 > 16 {
            continue;
        }
        native.run(&bytes, &mut state);
        let mask = defined(&i, count);
        let got = cpu.regs.all();
        for n in (0..8).filter(|&n| n != regs::ESP) {
            assert_eq!(
                got[n],
                state[n] as u32,
                "register {n} after {bytes:02x?} {:?} from {before:x?} flags {set:#x}",
                i.code()
            );
        }
        assert_eq!(
            cpu.eflags() & mask,
            state[8] as u32 & mask,
            "flags after {bytes:02x?} {:?} from {before:x?} flags {set:#x}",
            i.code()
        );
        compared += 1;
    }
    assert!(compared > 250_000 && divided > 1000, "{compared} {divided}");
}

/// Whether the quotient does not fit, by wide arithmetic.
fn divide_overflows(i: &iced_x86::Instruction, regs: &Regs) -> bool {
    let size = i.op0_register().size();
    let n = i.op0_register().number();
    let divisor = match size {
        1 => regs[n & 3] >> ((n & 4) * 2) & 0xff,
        2 => regs[n] & 0xffff,
        _ => regs[n],
    };
    let bits = size as u32 * 8;
    let dividend = match size {
        1 => u128::from(regs[regs::EAX] & 0xffff),
        2 => u128::from(regs[regs::EDX] & 0xffff) << 16 | u128::from(regs[regs::EAX] & 0xffff),
        _ => u128::from(regs[regs::EDX]) << 32 | u128::from(regs[regs::EAX]),
    };
    if divisor == 0 {
        return true;
    }
    if i.mnemonic() == Mnemonic::Div {
        return (dividend / u128::from(divisor)) >> bits != 0;
    }
    let sign = |v: u128, bits: u32| (v << (128 - bits)) as i128 >> (128 - bits);
    let q = sign(dividend, bits * 2) / sign(u128::from(divisor), bits);
    q != sign(q as u128, bits)
}
