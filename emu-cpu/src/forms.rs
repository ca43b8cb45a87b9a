//! The table of instruction forms: one line per mnemonic.
//!
//! A line says which family of handlers implements it, under which event it is counted, which flags
//! it reads and writes (checked against the decoder's own tables by a test) and what the engines
//! must know. What is not in the table, or not in a family's operand forms, is #UD.

use crate::exec::alu::{self, Adc, Add, And, Cmp, Or, Sbb, Sub, Test, Xor};
use crate::exec::shift::{Rcl, Rcr, Rol, Ror, Sar, Shl, Shr};
use crate::exec::{
    atomic, bcd, bits, branch, mov, muldiv, port, protect, shift, stack, string, system,
};
use crate::op::{END, Handler, SHADOW, SYNC};
use iced_x86::{Instruction, Mnemonic};
use lowmem_cost::Event;

/// Chooses the handler for an instruction's operands; `None` is #UD.
pub(crate) type Pick = fn(&Instruction) -> Option<Handler>;

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) mnemonic: Mnemonic,
    pub(crate) pick: Pick,
    pub(crate) class: Event,
    /// Flags read and written, in letters; `-` for none. Undefined ones count as written. For the
    /// reader, and checked by a test.
    #[cfg_attr(not(test), expect(dead_code, reason = "checked by a test"))]
    pub(crate) reads: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "checked by a test"))]
    pub(crate) writes: &'static str,
    pub(crate) marks: u8,
}

macro_rules! forms {
    ($($mnemonic:ident: $pick:expr, $class:ident, $reads:literal, $writes:literal, $marks:expr;)*) => {
        /// Every form.
        pub(crate) const FORMS: &[Form] = &[$(Form {
            mnemonic: Mnemonic::$mnemonic,
            pick: $pick,
            class: Event::$class,
            reads: $reads,
            writes: $writes,
            marks: $marks,
        }),*];
    };
}

const __: u8 = 0;
const ES: u8 = END | SYNC;

forms! {
//  mnemonic   handlers                    class           reads     writes    marks
    Mov:       mov::mov,                   InsnSimple,     "-",      "-",      __;
    Movzx:     mov::movzx,                 InsnSimple,     "-",      "-",      __;
    Movsx:     mov::movsx,                 InsnSimple,     "-",      "-",      __;
    Lea:       mov::lea,                   InsnSimple,     "-",      "-",      __;
    Xchg:      mov::xchg,                  InsnSimple,     "-",      "-",      __;
    Bswap:     mov::bswap,                 InsnSimple,     "-",      "-",      __;
    Cbw:       mov::cbw,                   InsnSimple,     "-",      "-",      __;
    Cwde:      mov::cwde,                  InsnSimple,     "-",      "-",      __;
    Cwd:       mov::cwd,                   InsnSimple,     "-",      "-",      __;
    Cdq:       mov::cdq,                   InsnSimple,     "-",      "-",      __;
    Nop:       mov::nop,                   InsnSimple,     "-",      "-",      __;
    Pause:     mov::nop,                   InsnSimple,     "-",      "-",      __;
    Xlatb:     mov::xlat,                  InsnMicrocoded, "-",      "-",      __;
    Reservednop:mov::nop,                   InsnSimple,     "-",      "-",      __;
    Lds:       protect::load_pointer,      InsnLoadSeg,    "-",      "-",      __;
    Les:       protect::load_pointer,      InsnLoadSeg,    "-",      "-",      __;
    Lfs:       protect::load_pointer,      InsnLoadSeg,    "-",      "-",      __;
    Lgs:       protect::load_pointer,      InsnLoadSeg,    "-",      "-",      __;
    Lss:       protect::load_pointer,      InsnLoadSeg,    "-",      "-",      __;

    Daa:       bcd::daa,                   InsnMicrocoded, "ac",     "oszapc", __;
    Das:       bcd::das,                   InsnMicrocoded, "ac",     "oszapc", __;
    Aaa:       bcd::aaa,                   InsnMicrocoded, "a",      "oszapc", __;
    Aas:       bcd::aas,                   InsnMicrocoded, "a",      "oszapc", __;
    Aam:       bcd::aam,                   InsnMicrocoded, "-",      "oszapc", __;
    Aad:       bcd::aad,                   InsnMicrocoded, "-",      "oszapc", __;
    Salc:      bcd::salc,                  InsnMicrocoded, "c",      "-",      __;

    Add:       alu::pick::<Add>,           InsnSimple,     "-",      "oszapc", __;
    Or:        alu::pick::<Or>,            InsnSimple,     "-",      "oszapc", __;
    Adc:       alu::pick::<Adc>,           InsnSimple,     "c",      "oszapc", __;
    Sbb:       alu::pick::<Sbb>,           InsnSimple,     "c",      "oszapc", __;
    And:       alu::pick::<And>,           InsnSimple,     "-",      "oszapc", __;
    Sub:       alu::pick::<Sub>,           InsnSimple,     "-",      "oszapc", __;
    Xor:       alu::pick::<Xor>,           InsnSimple,     "-",      "oszapc", __;
    Cmp:       alu::pick::<Cmp>,           InsnSimple,     "-",      "oszapc", __;
    Test:      alu::pick::<Test>,          InsnSimple,     "-",      "oszapc", __;
    Inc:       alu::inc,                   InsnSimple,     "-",      "oszap",  __;
    Dec:       alu::dec,                   InsnSimple,     "-",      "oszap",  __;
    Neg:       alu::neg,                   InsnSimple,     "-",      "oszapc", __;
    Not:       alu::not,                   InsnSimple,     "-",      "-",      __;

    Rol:       shift::pick::<Rol>,         InsnSimple,     "-",      "oc",     __;
    Ror:       shift::pick::<Ror>,         InsnSimple,     "-",      "oc",     __;
    Rcl:       shift::pick::<Rcl>,         InsnSimple,     "c",      "oc",     __;
    Rcr:       shift::pick::<Rcr>,         InsnSimple,     "c",      "oc",     __;
    Shl:       shift::pick::<Shl>,         InsnSimple,     "-",      "oszapc", __;
    Sal:       shift::pick::<Shl>,         InsnSimple,     "-",      "oszapc", __;
    Shr:       shift::pick::<Shr>,         InsnSimple,     "-",      "oszapc", __;
    Sar:       shift::pick::<Sar>,         InsnSimple,     "-",      "oszapc", __;
    Shld:      shift::shld,                InsnShiftDouble, "-",     "oszapc", __;
    Shrd:      shift::shrd,                InsnShiftDouble, "-",     "oszapc", __;

    Mul:       muldiv::mul,                InsnMul,        "-",      "oszapc", __;
    Imul:      muldiv::imul,               InsnImul,       "-",      "oszapc", __;
    Div:       muldiv::div,                InsnDiv,        "-",      "oszapc", __;
    Idiv:      muldiv::idiv,               InsnDiv,        "-",      "oszapc", __;

    Bt:        bits::bt,                   InsnSimple,     "-",      "oszapc", __;
    Bts:       bits::bts,                  InsnSimple,     "-",      "oszapc", __;
    Btr:       bits::btr,                  InsnSimple,     "-",      "oszapc", __;
    Btc:       bits::btc,                  InsnSimple,     "-",      "oszapc", __;
    Bsf:       bits::bsf,                  InsnBitScan,    "-",      "oszapc", __;
    Bsr:       bits::bsr,                  InsnBitScan,    "-",      "oszapc", __;

    Cmpxchg:   atomic::cmpxchg,            InsnCmpxchg,    "-",      "oszapc", __;
    Cmpxchg8b: atomic::cmpxchg8b,          InsnCmpxchg8b,  "-",      "z",      __;
    Xadd:      atomic::xadd,               InsnCmpxchg,    "-",      "oszapc", __;

    Push:      stack::push,                InsnSimple,     "-",      "-",      __;
    Pop:       stack::pop,                 InsnSimple,     "-",      "-",      __;
    Pusha:     stack::pusha16,             InsnPusha,      "-",      "-",      __;
    Pushad:    stack::pusha32,             InsnPusha,      "-",      "-",      __;
    Popa:      stack::popa16,              InsnPusha,      "-",      "-",      __;
    Popad:     stack::popa32,              InsnPusha,      "-",      "-",      __;
    Pushf:     stack::pushf16,             InsnPushf,      "oszapcdi", "-",    __;
    Pushfd:    stack::pushf32,             InsnPushf,      "oszapcdi", "-",    __;
    Popf:      stack::popf16,              InsnPopf,       "-",      "oszapcdi", END;
    Popfd:     stack::popf32,              InsnPopf,       "-",      "oszapcdi", END;
    Enter:     stack::enter,               InsnMicrocoded, "-",      "-",      __;
    Leave:     stack::leave,               InsnMicrocoded, "-",      "-",      __;

    Jmp:       branch::jmp,                InsnTaken,      "-",      "-",      END;
    Call:      branch::call,               InsnTaken,      "-",      "-",      END;
    Ret:       branch::ret,                InsnTaken,      "-",      "-",      END;
    Retf:      branch::retf,               InsnFar,        "-",      "-",      ES;
    Jo:        branch::jcc,                InsnSimple,     "o",      "-",      END;
    Jno:       branch::jcc,                InsnSimple,     "o",      "-",      END;
    Jb:        branch::jcc,                InsnSimple,     "c",      "-",      END;
    Jae:       branch::jcc,                InsnSimple,     "c",      "-",      END;
    Je:        branch::jcc,                InsnSimple,     "z",      "-",      END;
    Jne:       branch::jcc,                InsnSimple,     "z",      "-",      END;
    Jbe:       branch::jcc,                InsnSimple,     "zc",     "-",      END;
    Ja:        branch::jcc,                InsnSimple,     "zc",     "-",      END;
    Js:        branch::jcc,                InsnSimple,     "s",      "-",      END;
    Jns:       branch::jcc,                InsnSimple,     "s",      "-",      END;
    Jp:        branch::jcc,                InsnSimple,     "p",      "-",      END;
    Jnp:       branch::jcc,                InsnSimple,     "p",      "-",      END;
    Jl:        branch::jcc,                InsnSimple,     "os",     "-",      END;
    Jge:       branch::jcc,                InsnSimple,     "os",     "-",      END;
    Jle:       branch::jcc,                InsnSimple,     "osz",    "-",      END;
    Jg:        branch::jcc,                InsnSimple,     "osz",    "-",      END;
    Jecxz:     branch::jcxz,               InsnSimple,     "-",      "-",      END;
    Jcxz:      branch::jcxz,               InsnSimple,     "-",      "-",      END;
    Loop:      branch::loop_,              InsnSimple,     "-",      "-",      END;
    Loope:     branch::loope,              InsnSimple,     "z",      "-",      END;
    Loopne:    branch::loopne,             InsnSimple,     "z",      "-",      END;
    Seto:      branch::setcc,              InsnSimple,     "o",      "-",      __;
    Setno:     branch::setcc,              InsnSimple,     "o",      "-",      __;
    Setb:      branch::setcc,              InsnSimple,     "c",      "-",      __;
    Setae:     branch::setcc,              InsnSimple,     "c",      "-",      __;
    Sete:      branch::setcc,              InsnSimple,     "z",      "-",      __;
    Setne:     branch::setcc,              InsnSimple,     "z",      "-",      __;
    Setbe:     branch::setcc,              InsnSimple,     "zc",     "-",      __;
    Seta:      branch::setcc,              InsnSimple,     "zc",     "-",      __;
    Sets:      branch::setcc,              InsnSimple,     "s",      "-",      __;
    Setns:     branch::setcc,              InsnSimple,     "s",      "-",      __;
    Setp:      branch::setcc,              InsnSimple,     "p",      "-",      __;
    Setnp:     branch::setcc,              InsnSimple,     "p",      "-",      __;
    Setl:      branch::setcc,              InsnSimple,     "os",     "-",      __;
    Setge:     branch::setcc,              InsnSimple,     "os",     "-",      __;
    Setle:     branch::setcc,              InsnSimple,     "osz",    "-",      __;
    Setg:      branch::setcc,              InsnSimple,     "osz",    "-",      __;
    Cmovo:     branch::cmovcc,             InsnSimple,     "o",      "-",      __;
    Cmovno:    branch::cmovcc,             InsnSimple,     "o",      "-",      __;
    Cmovb:     branch::cmovcc,             InsnSimple,     "c",      "-",      __;
    Cmovae:    branch::cmovcc,             InsnSimple,     "c",      "-",      __;
    Cmove:     branch::cmovcc,             InsnSimple,     "z",      "-",      __;
    Cmovne:    branch::cmovcc,             InsnSimple,     "z",      "-",      __;
    Cmovbe:    branch::cmovcc,             InsnSimple,     "zc",     "-",      __;
    Cmova:     branch::cmovcc,             InsnSimple,     "zc",     "-",      __;
    Cmovs:     branch::cmovcc,             InsnSimple,     "s",      "-",      __;
    Cmovns:    branch::cmovcc,             InsnSimple,     "s",      "-",      __;
    Cmovp:     branch::cmovcc,             InsnSimple,     "p",      "-",      __;
    Cmovnp:    branch::cmovcc,             InsnSimple,     "p",      "-",      __;
    Cmovl:     branch::cmovcc,             InsnSimple,     "os",     "-",      __;
    Cmovge:    branch::cmovcc,             InsnSimple,     "os",     "-",      __;
    Cmovle:    branch::cmovcc,             InsnSimple,     "osz",    "-",      __;
    Cmovg:     branch::cmovcc,             InsnSimple,     "osz",    "-",      __;

    Movsb:     string::movs,               InsnMicrocoded, "d",      "-",      __;
    Movsw:     string::movs,               InsnMicrocoded, "d",      "-",      __;
    Movsd:     string::movs,               InsnMicrocoded, "d",      "-",      __;
    Stosb:     string::stos,               InsnMicrocoded, "d",      "-",      __;
    Stosw:     string::stos,               InsnMicrocoded, "d",      "-",      __;
    Stosd:     string::stos,               InsnMicrocoded, "d",      "-",      __;
    Lodsb:     string::lods,               InsnMicrocoded, "d",      "-",      __;
    Lodsw:     string::lods,               InsnMicrocoded, "d",      "-",      __;
    Lodsd:     string::lods,               InsnMicrocoded, "d",      "-",      __;
    Scasb:     string::scas,               InsnMicrocoded, "d",      "oszapc", __;
    Scasw:     string::scas,               InsnMicrocoded, "d",      "oszapc", __;
    Scasd:     string::scas,               InsnMicrocoded, "d",      "oszapc", __;
    Cmpsb:     string::cmps,               InsnMicrocoded, "d",      "oszapc", __;
    Cmpsw:     string::cmps,               InsnMicrocoded, "d",      "oszapc", __;
    Cmpsd:     string::cmps,               InsnMicrocoded, "d",      "oszapc", __;

    Insb:      port::ins,                  InsnPort,       "d",      "-",      ES;
    Insw:      port::ins,                  InsnPort,       "d",      "-",      ES;
    Insd:      port::ins,                  InsnPort,       "d",      "-",      ES;
    Outsb:     port::outs,                 InsnPort,       "d",      "-",      ES;
    Outsw:     port::outs,                 InsnPort,       "d",      "-",      ES;
    Outsd:     port::outs,                 InsnPort,       "d",      "-",      ES;

    Clc:       system::clc,                InsnSimple,     "-",      "c",      __;
    Stc:       system::stc,                InsnSimple,     "-",      "c",      __;
    Cmc:       system::cmc,                InsnSimple,     "c",      "c",      __;
    Cld:       system::cld,                InsnCld,        "-",      "d",      __;
    Std:       system::std,                InsnCld,        "-",      "d",      __;
    Lahf:      system::lahf,               InsnLahf,       "szapc",  "-",      __;
    Sahf:      system::sahf,               InsnLahf,       "-",      "szapc",  __;
    Cli:       system::cli,                InsnCli,        "-",      "i",      __;
    Sti:       system::sti,                InsnSti,        "-",      "i",      SHADOW;
    Mfence:    system::fence,              InsnMfence,     "-",      "-",      __;
    Lfence:    system::fence,              InsnLfence,     "-",      "-",      __;
    Sfence:    system::fence,              InsnSfence,     "-",      "-",      __;
    Wait:      system::wait,               InsnSimple,     "-",      "-",      __;
    Ud0:       system::ud,                 InsnSimple,     "-",      "-",      END;
    Ud1:       system::ud,                 InsnSimple,     "-",      "-",      END;
    Ud2:       system::ud,                 InsnSimple,     "-",      "-",      END;

    Int:       system::int,                EntryInt,       "-",      "i",      ES;
    Int3:      system::int3,               EntryInt,       "-",      "i",      ES;
    Into:      system::into,               InsnMicrocoded, "o",      "i",      ES;
    Int1:      system::int1,               EntryInt,       "-",      "i",      ES;
    Iret:      system::iret,               Iret,           "-",      "oszapcdi",ES;
    Iretd:     system::iret,               Iret,           "-",      "oszapcdi", ES;
    Sysenter:  system::sysenter,           Sysenter,       "-",      "i",      ES;
    Sysexit:   system::sysexit,            Sysexit,        "-",      "-",      ES;
    Hlt:       system::hlt,                InsnHlt,        "-",      "-",      ES;
    In:        port::port_in,              InsnPort,       "-",      "-",      ES;
    Out:       port::port_out,             InsnPort,       "-",      "-",      ES;
    Rdtsc:     system::rdtsc,              InsnRdtsc,      "-",      "-",      ES;
    Cpuid:     system::cpuid,              InsnCpuid,      "-",      "-",      ES;
    Rdpmc:     system::rdpmc,              InsnRdtsc,      "-",      "-",      ES;
    Rdmsr:     system::rdmsr,              InsnRdmsr,      "-",      "-",      ES;
    Wrmsr:     system::wrmsr,              InsnWrmsr,      "-",      "-",      ES;
    Lgdt:      system::lgdt,               InsnLgdt,       "-",      "-",      ES;
    Lidt:      system::lidt,               InsnLidt,       "-",      "-",      ES;
    Sgdt:      system::sgdt,               InsnMicrocoded, "-",      "-",      __;
    Sidt:      system::sidt,               InsnMicrocoded, "-",      "-",      __;
    Lldt:      protect::lldt,              InsnLldt,       "-",      "-",      ES;
    Sldt:      system::sldt,               InsnMicrocoded, "-",      "-",      __;
    Ltr:       protect::ltr,               InsnLtr,        "-",      "-",      ES;
    Str:       system::str,                InsnMicrocoded, "-",      "-",      __;
    Lar:       protect::lar,               InsnMicrocoded, "-",      "z",      __;
    Lsl:       protect::lsl,               InsnMicrocoded, "-",      "z",      __;
    Verr:      protect::verr,              InsnMicrocoded, "-",      "z",      __;
    Verw:      protect::verw,              InsnMicrocoded, "-",      "z",      __;
    Arpl:      protect::arpl,              InsnMicrocoded, "-",      "z",      __;
    Bound:     protect::bound,             InsnMicrocoded, "-",      "-",      __;
    Lmsw:      system::lmsw,               InsnMovCr0,     "-",      "-",      ES;
    Smsw:      system::smsw,               InsnReadCr,     "-",      "-",      __;
    Clts:      system::clts,               InsnClts,       "-",      "-",      ES;
    Invlpg:    system::invlpg,             InsnInvlpg,     "-",      "-",      ES;
    Wbinvd:    system::wbinvd,             InsnWbinvd,     "-",      "-",      ES;
    Invd:      system::wbinvd,             InsnWbinvd,     "-",      "-",      ES;
}

const MNEMONICS: usize = 2048;

/// Index into [`FORMS`] plus one, by mnemonic.
const BY_MNEMONIC: [u8; MNEMONICS] = {
    let mut table = [0; MNEMONICS];
    let mut i = 0;
    while i < FORMS.len() {
        table[FORMS[i].mnemonic as usize] = i as u8 + 1;
        i += 1;
    }
    table
};

/// The line of a mnemonic.
pub(crate) fn form(mnemonic: Mnemonic) -> Option<&'static Form> {
    let i = usize::from(*BY_MNEMONIC.get(mnemonic as usize)?);
    i.checked_sub(1).map(|i| &FORMS[i])
}

#[cfg(test)]
mod coverage;

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Decoder, DecoderOptions, RflagsBits};

    fn bits(letters: &str) -> u32 {
        letters
            .chars()
            .map(|c| match c {
                'o' => RflagsBits::OF,
                's' => RflagsBits::SF,
                'z' => RflagsBits::ZF,
                'a' => RflagsBits::AF,
                'p' => RflagsBits::PF,
                'c' => RflagsBits::CF,
                'd' => RflagsBits::DF,
                'i' => RflagsBits::IF,
                '-' => 0,
                c => panic!("flag {c}"),
            })
            .sum()
    }

    /// Register forms of all one- and two-byte opcodes, and the same with memory operands.
    fn every_opcode() -> impl Iterator<Item = iced_x86::Instruction> {
        (0..=0xffu8)
            .flat_map(|op| [vec![op], vec![0x0f, op]])
            .flat_map(|opcode| {
                (0..=0xffu8).map(move |modrm| {
                    [opcode.clone(), vec![modrm, 1, 2, 3, 4, 5, 6, 7, 8]].concat()
                })
            })
            .map(|bytes| Decoder::with_ip(32, &bytes, 0, DecoderOptions::NONE).decode())
            .filter(|i| i.code() != Code::INVALID)
    }

    #[test]
    fn flags_agree_with_the_decoder() {
        const ALL: u32 = RflagsBits::OF
            | RflagsBits::SF
            | RflagsBits::ZF
            | RflagsBits::AF
            | RflagsBits::PF
            | RflagsBits::CF
            | RflagsBits::DF
            | RflagsBits::IF;
        let mut seen = std::collections::BTreeSet::new();
        for i in every_opcode() {
            let Some(f) = form(i.mnemonic()) else {
                continue;
            };
            if (f.pick)(&i).is_none() {
                continue;
            }
            seen.insert(i.mnemonic() as usize);
            // One form of a mnemonic may touch fewer flags than the line says, never more.
            // mov to and from control registers leaves them undefined.
            let modified = i.rflags_modified() & !i.rflags_undefined() & ALL;
            assert_eq!(
                modified & !bits(f.writes),
                0,
                "{:?} writes {modified:#x}",
                i.code()
            );
            let read = i.rflags_read() & ALL;
            assert_eq!(read & !bits(f.reads), 0, "{:?} reads {read:#x}", i.code());
        }
        assert!(seen.len() > 150, "{} forms exercised", seen.len());
    }

    #[test]
    fn one_line_per_mnemonic() {
        let mut all: Vec<_> = FORMS.iter().map(|f| f.mnemonic as usize).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), FORMS.len());
        assert!(FORMS.len() < 255 && iced_x86::Mnemonic::values().len() <= MNEMONICS);
    }
}
