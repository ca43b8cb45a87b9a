//! What is not compared: one table, each line with its reason.
//!
//! An instruction that is not the integer machine's (x87, SSE, anything newer than the CPU that is
//! emulated), that would enter the host's kernel, or whose answer is the host's own. Nothing else is
//! excluded: a privileged instruction is compared by its #GP, an undefined one by its #UD.
//!
//! Invariant: the emulated machine judges each instruction before it executes it, so an excluded
//! one never reaches the host.

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic};
use serde::Serialize;

/// Why something is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It would enter the host's kernel or leave for 64-bit code.
    EntersHost,
    /// Its result is the host's own: time, identity, tables.
    HostsOwn,
    /// Not part of the integer machine: x87, MMX, SSE.
    NotInteger,
    /// Newer than the emulated CPU: the host knows it, an i686 does not.
    Newer,
    /// Long mode defines it otherwise than protected mode does.
    LongMode,
    /// The manual leaves its result (not only flags) undefined.
    UndefinedResult,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 6] = [
        Reason::EntersHost,
        Reason::HostsOwn,
        Reason::NotInteger,
        Reason::Newer,
        Reason::LongMode,
        Reason::UndefinedResult,
    ];
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// What.
    pub mnemonic: Mnemonic,
    /// Why.
    pub reason: Reason,
    /// In words, with source.
    pub because: &'static str,
}

const fn line(mnemonic: Mnemonic, reason: Reason, because: &'static str) -> Line {
    Line {
        mnemonic,
        reason,
        because,
    }
}

/// Mnemonics that are never compared.
pub const TABLE: &[Line] = &[
    line(
        Mnemonic::Sysenter,
        Reason::EntersHost,
        "enters the kernel (SDM vol. 2, SYSENTER)",
    ),
    line(
        Mnemonic::Syscall,
        Reason::EntersHost,
        "enters the kernel on AMD, #UD on Intel in compatibility mode (APM vol. 3, SYSCALL)",
    ),
    line(Mnemonic::Cpuid, Reason::HostsOwn, "names the host"),
    line(Mnemonic::Rdtsc, Reason::HostsOwn, "reads the host's clock"),
    line(
        Mnemonic::Rdpmc,
        Reason::HostsOwn,
        "CR4.PCE is the host kernel's choice",
    ),
    line(
        Mnemonic::Sgdt,
        Reason::HostsOwn,
        "CR4.UMIP is the host kernel's choice, and so is the table",
    ),
    line(Mnemonic::Sidt, Reason::HostsOwn, "as SGDT"),
    line(Mnemonic::Sldt, Reason::HostsOwn, "as SGDT"),
    line(Mnemonic::Str, Reason::HostsOwn, "as SGDT"),
    line(Mnemonic::Smsw, Reason::HostsOwn, "as SGDT"),
    line(
        Mnemonic::Sysexit,
        Reason::LongMode,
        "#UD on AMD in compatibility mode, #GP on Intel (APM vol. 3, SYSEXIT)",
    ),
];

/// What a bare set of features allows.
fn feature(f: CpuidFeature) -> Option<Reason> {
    use CpuidFeature::*;
    match f {
        INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | CMOV | CX8 | MULTIBYTENOP
        | PAUSE | SEP | TSC | MSR | CPUID | RDPMC | SMM | SYSCALL => None,
        FPU | FPU287 | FPU387 | MMX | SSE | SSE2 | FXSR => Some(Reason::NotInteger),
        _ => Some(Reason::Newer),
    }
}

/// Why a form is not compared; `None` if it is.
pub fn form(code: Code) -> Option<Reason> {
    // BSWAP of a 16-bit register: undefined result (SDM vol. 2, BSWAP).
    if code == Code::Bswap_r16 {
        return Some(Reason::UndefinedResult);
    }
    if let Some(l) = TABLE.iter().find(|l| l.mnemonic == code.mnemonic()) {
        return Some(l.reason);
    }
    code.cpuid_features().iter().find_map(|&f| feature(f))
}

/// The forms that must be tested: all that the decoder knows of 32-bit integer code and that are not
/// excluded.
pub fn integer_forms() -> impl Iterator<Item = Code> {
    Code::values().filter(|&c| {
        let o = c.op_code();
        o.is_instruction()
            && o.mode32()
            && o.encoding() == EncodingKind::Legacy
            && o.decoder_option() == 0
            // AMD's UD0 without ModRM: the decoder gives it only when asked for AMD's opcode map.
            && c != Code::Ud0
            && form(c).is_none()
    })
}

/// Judges the instruction that `bytes` decode to.
pub fn judge(i: &Instruction, bytes: &[u8]) -> Option<Reason> {
    match i.code() {
        Code::INVALID => newer_space(bytes),
        Code::Int_imm8 if i.immediate8() == 0x80 => Some(Reason::EntersHost),
        code => form(code),
    }
}

/// An undefined instruction that runs off the readable bytes: whether its missing tail or its opcode
/// faults first depends on the length the CPU gives it, which no manual tells.
pub fn is_undefined(i: &Instruction, bytes: &[u8]) -> bool {
    let mut longer = bytes.to_vec();
    longer.resize(15, 0);
    i.is_invalid() && crate::case::decode(&longer, 32).is_invalid()
}

/// Bytes that mean nothing on an i686 but something on newer hosts: VEX, EVEX, XOP, the three-byte
/// maps, `0F 01` with a register, `0F AE`/`0F C7` and MPX and CET corners of the two-byte map.
fn newer_space(bytes: &[u8]) -> Option<Reason> {
    let mut at = 0;
    while let Some(b) = bytes.get(at)
        && matches!(
            b,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3
        )
    {
        at += 1;
    }
    let get = |n: usize| bytes.get(at + n).copied().unwrap_or(0);
    match get(0) {
        0xc4 | 0xc5 | 0x62 | 0x8f if get(1) >= 0xc0 || get(0) == 0x8f => Some(Reason::Newer),
        0xc6 | 0xc7 if get(1) == 0xf8 => Some(Reason::Newer),
        0xd8..=0xdf => Some(Reason::NotInteger),
        0x0f => match get(1) {
            0x38 | 0x3a | 0x01 | 0xae | 0xc7 | 0x0d | 0x18..=0x1f => Some(Reason::Newer),
            // Two-byte opcodes of MMX and SSE with prefixes or operands that the decoder refuses.
            0x0e | 0x0f | 0x10..=0x17 | 0x28..=0x2f | 0x37 | 0x50..=0x7f | 0xc2..=0xc6 => {
                Some(Reason::NotInteger)
            }
            0xd0..=0xfe | 0xb8 | 0x36 | 0x39 | 0x3b..=0x3f => Some(Reason::NotInteger),
            _ => None,
        },
        _ => None,
    }
}
