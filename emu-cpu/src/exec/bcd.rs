//! Decimal and ASCII adjustments, salc (SDM vol. 2: DAA, DAS, AAA, AAS, AAM, AAD).
//!
//! What the manual leaves undefined: OF is clear; SF, ZF and PF after aaa and aas, and the carries
//! after aam and aad, come from the result in AL and are clear.

use crate::cpu::Cpu;
use crate::fault::{self, Fault};
use crate::flags::{AF, CF};
use crate::op::{Exec, Handler, Op, Out};
use crate::regs::EAX;
use crate::word::{Byte, Word};
use iced_x86::Instruction;

const AL: u8 = 0;
const AH: u8 = 4;

impl Cpu {
    /// SF, ZF and PF from AL, AF and CF as told, OF clear.
    fn adjusted(&mut self, al: u32, carries: u32) {
        self.flags.logic::<Byte>(al);
        let flags = self.flags.arith() | carries;
        self.flags.set_arith(flags);
    }
}

macro_rules! plain {
    ($($pick:ident, $run:ident, |$cpu:ident, $op:ident| $body:block;)*) => {$(
        pub(crate) fn $pick(_: &Instruction) -> Option<Handler> {
            Some($run)
        }
        fn $run($cpu: &mut Cpu, $op: &Op) -> Exec {
            $body
            Ok(Out::Next)
        }
    )*};
}

/// What daa adds and das subtracts, and the carries: from AL and the flags before.
fn decimal(al: u32, af: bool, cf: bool) -> (u32, u32) {
    let mut by = 0;
    let mut carries = 0;
    if al & 0xf > 9 || af {
        by |= 6;
        carries |= AF;
    }
    if al > 0x99 || cf {
        by |= 0x60;
        carries |= CF;
    }
    (by, carries)
}

plain! {
    daa, run_daa, |cpu, _op| {
        let al = cpu.regs.get8(AL);
        let (by, carries) = decimal(al, cpu.flags.af(), cpu.flags.cf());
        let r = al.wrapping_add(by) & 0xff;
        cpu.regs.set8(AL, r);
        cpu.adjusted(r, carries);
    };
    das, run_das, |cpu, _op| {
        let al = cpu.regs.get8(AL);
        let (by, mut carries) = decimal(al, cpu.flags.af(), cpu.flags.cf());
        // The first step's borrow stays when the second does nothing.
        if by == 6 && al < 6 {
            carries |= CF;
        }
        let r = al.wrapping_sub(by) & 0xff;
        cpu.regs.set8(AL, r);
        cpu.adjusted(r, carries);
    };
    aaa, run_aaa, |cpu, _op| {
        let ax = cpu.regs[EAX] & 0xffff;
        let adjust = ax & 0xf > 9 || cpu.flags.af();
        let r = if adjust { ax.wrapping_add(0x106) } else { ax };
        cpu.regs.set16(EAX as u8, r & 0xff0f);
        cpu.adjusted(r & 0xf, if adjust { AF | CF } else { 0 });
    };
    aas, run_aas, |cpu, _op| {
        let ax = cpu.regs[EAX] & 0xffff;
        let adjust = ax & 0xf > 9 || cpu.flags.af();
        let r = if adjust { ax.wrapping_sub(0x106) } else { ax };
        cpu.regs.set16(EAX as u8, r & 0xff0f);
        cpu.adjusted(r & 0xf, if adjust { AF | CF } else { 0 });
    };
    aam, run_aam, |cpu, op| {
        let base = op.imm & 0xff;
        if base == 0 {
            return Err(cpu.raise_fault(Fault::plain(fault::DE)));
        }
        let al = cpu.regs.get8(AL);
        cpu.regs.set8(AH, al / base);
        cpu.regs.set8(AL, al % base);
        cpu.adjusted(al % base, 0);
    };
    aad, run_aad, |cpu, op| {
        let r = (cpu.regs.get8(AL) + cpu.regs.get8(AH) * (op.imm & 0xff)) & 0xff;
        cpu.regs.set16(EAX as u8, r);
        cpu.adjusted(r, 0);
    };
    salc, run_salc, |cpu, _op| {
        let v = if cpu.flags.cf() { Byte::MASK } else { 0 };
        cpu.regs.set8(AL, v);
    };
}
