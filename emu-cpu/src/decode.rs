//! Bytes to operations.
//!
//! iced-x86 decodes; this picks the handler from the table of forms and packs operands, accounting
//! class and the registers that matter to the load-use rule into an [`Op`]. Undecodable bytes and
//! forms outside the table become an operation that raises #UD, fetched and restarted like any
//! other. What the family of CPUID's signature did not know is decoded as it did: prefixes that later
//! made other instructions (tzcnt, lzcnt, wbnoinvd) are ignored, 0F 0D and 0F 18-1F are NOPs.
//! Invariant: the same bytes in a code segment of the same size always give the same operation.

use crate::exec::{Kind, kind, system};
use crate::forms::{Form, form};
use crate::op::{ACCESSES, ADDR16, END, Op, PROBE, REP, REPNE, SHADOW, SYNC};
use crate::regs::ZERO;
use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess,
    OpKind, Register,
};
use lowmem_cost::Event;

/// Longest instruction.
pub(crate) const MAX_LEN: usize = 15;

/// Upper half of a probe's displacement (D10).
const PROBE_MAGIC: u32 = 0x4c4d;

/// See the module's text.
pub(crate) const OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP
    | DecoderOptions::NO_WBNOINVD
    | DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD;

/// Default operand and address size: D of the code segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeSize {
    Bits16 = 16,
    Bits32 = 32,
}

/// What decoding gave.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Decoded {
    Op(Op),
    /// The instruction goes on after the bytes given.
    MoreBytes,
}

/// Decodes instructions. Holds only scratch space.
pub(crate) struct Translator {
    info: InstructionInfoFactory,
}

impl std::fmt::Debug for Translator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Translator")
    }
}

/// True if these bytes are the beginning of an instruction only.
fn is_incomplete(bytes: &[u8], size: CodeSize) -> bool {
    let mut decoder = Decoder::with_ip(size as u32, bytes, 0, OPTIONS);
    let _ = decoder.decode();
    decoder.last_error() == DecoderError::NoMoreBytes
}

impl Translator {
    pub(crate) fn new() -> Self {
        Self {
            info: InstructionInfoFactory::new(),
        }
    }

    /// Decodes the instruction at the start of `bytes` (at most [`MAX_LEN`] count).
    pub(crate) fn decode(&mut self, bytes: &[u8], size: CodeSize, probes: bool) -> Decoded {
        let bytes = &bytes[..bytes.len().min(MAX_LEN)];
        let mut decoder = Decoder::with_ip(size as u32, bytes, 0, OPTIONS);
        let i = decoder.decode();
        match decoder.last_error() {
            DecoderError::NoMoreBytes if bytes.len() < MAX_LEN => return Decoded::MoreBytes,
            // Fifteen bytes and still not complete: too long, #GP(0).
            DecoderError::NoMoreBytes => return Decoded::Op(bare(MAX_LEN, system::too_long)),
            DecoderError::None => {}
            // The decoder calls that invalid, too. Such an instruction begins with a prefix; without it, it is just
            // not complete.
            _ if i.len() == MAX_LEN && is_incomplete(&bytes[1..], size) => {
                return Decoded::Op(bare(MAX_LEN, system::too_long));
            }
            _ => return Decoded::Op(bare(i.len().max(1), system::undefined)),
        }
        let op = form(i.mnemonic())
            .and_then(|f| self.pack(&i, f, probes))
            .unwrap_or_else(|| {
                bare(
                    i.len(),
                    if is_x87(&i) {
                        system::x87
                    } else {
                        system::undefined
                    },
                )
            });
        Decoded::Op(op)
    }

    fn pack(&mut self, i: &Instruction, form: &Form, probes: bool) -> Option<Op> {
        let run = (form.pick)(i)?;
        let mut op = bare(i.len(), run);
        op.marks = form.marks;
        op.class = class(i, form.class);
        if is_string(i) {
            op.x = match (i.has_repne_prefix(), i.has_rep_prefix()) {
                (true, _) => REPNE,
                (_, true) => REP,
                _ => 0,
            };
            op.seg = segment_number(i.memory_segment());
        }
        if let Some((element, address)) = port_string(i) {
            op.r1 = element;
            op.r2 = address;
            op.imm = u32::from(kind(i, 0) == Kind::Reg);
        }
        self.operands(i, &mut op);
        self.accounting(i, &mut op);
        if op.class == Event::RepStart {
            op.marks |= END;
        }
        if op.class == Event::InsnFar || is_to_special(i) {
            op.marks |= END | SYNC;
        }
        if kind(i, 0) == Kind::Sreg
            && i.op0_register() == Register::SS
            && op.class == Event::InsnLoadSeg
        {
            op.marks |= SHADOW;
        }
        if probes && is_probe(i) {
            op.marks |= PROBE | END | SYNC;
            op.imm = op.disp & 0xffff;
        }
        Some(op)
    }

    fn operands(&mut self, i: &Instruction, op: &mut Op) {
        let mut registers = [ZERO as u8; 3];
        for n in 0..i.op_count() {
            match i.op_kind(n) {
                OpKind::Register => {
                    let r = i.op_register(n);
                    let slot = if n == 0 { 0 } else { 1 };
                    // Third operands that are registers (shld by CL) are implied by the handler.
                    if n < 2 {
                        registers[slot] = register_number(r);
                    }
                }
                OpKind::Memory => memory(i, op),
                OpKind::NearBranch32 => {
                    op.imm = i.near_branch32().wrapping_sub(i.len() as u32);
                }
                OpKind::NearBranch16 => {
                    op.imm = u32::from(i.near_branch16().wrapping_sub(i.len() as u16));
                }
                OpKind::FarBranch16 => {
                    op.imm = u32::from(i.far_branch16());
                    op.disp = u32::from(i.far_branch_selector());
                }
                OpKind::Immediate8_2nd => op.disp = u32::from(i.immediate8_2nd()),
                OpKind::FarBranch32 => {
                    op.imm = i.far_branch32();
                    op.disp = u32::from(i.far_branch_selector());
                }
                _ => {
                    if let Ok(v) = i.try_immediate(n) {
                        op.imm = v as u32;
                    }
                }
            }
        }
        if port_string(i).is_none() {
            op.r1 = registers[0];
            op.r2 = registers[1];
        }
        let bytes = match kind(i, 0) {
            Kind::Reg => i.op0_register().size(),
            _ => i.memory_size().size(),
        };
        // Immediates are compared and combined with zero-extended values.
        match bytes {
            1 if kind(i, 1) == Kind::Imm => op.imm &= 0xff,
            2 if kind(i, 1) == Kind::Imm => op.imm &= 0xffff,
            _ => {}
        }
        match i.mnemonic() {
            iced_x86::Mnemonic::In => {
                op.x = i.op0_register().size() as u8;
                if i.op1_kind() == OpKind::Immediate8 {
                    op.x |= 0x80;
                    op.imm = u32::from(i.immediate8());
                }
            }
            iced_x86::Mnemonic::Out => {
                op.x = i.op1_register().size() as u8;
                if i.op0_kind() == OpKind::Immediate8 {
                    op.x |= 0x80;
                    op.imm = u32::from(i.immediate8());
                }
            }
            iced_x86::Mnemonic::Lldt
            | iced_x86::Mnemonic::Ltr
            | iced_x86::Mnemonic::Lmsw
            | iced_x86::Mnemonic::Verr
            | iced_x86::Mnemonic::Verw => {
                op.x = u8::from(kind(i, 0) == Kind::Reg);
            }
            iced_x86::Mnemonic::Les => op.x = 0,
            iced_x86::Mnemonic::Lss => op.x = 2,
            iced_x86::Mnemonic::Lds => op.x = 3,
            iced_x86::Mnemonic::Lfs => op.x = 4,
            iced_x86::Mnemonic::Lgs => op.x = 5,
            _ => {}
        }
    }

    /// Which registers are read and loaded, and whether memory is accessed.
    fn accounting(&mut self, i: &Instruction, op: &mut Op) {
        let info = self.info.info(i);
        for used in info.used_registers() {
            let reads = matches!(
                used.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            if reads && used.register().is_gpr() {
                op.reads |= 1 << used.register().full_register32().number();
            }
        }
        let (mut loads, mut stores) = (false, false);
        for used in info.used_memory() {
            match used.access() {
                OpAccess::Read | OpAccess::CondRead => loads = true,
                OpAccess::NoMemAccess | OpAccess::None => {}
                _ => stores = true,
            }
        }
        let destination = kind(i, 0) == Kind::Reg
            && matches!(
                info.op0_access(),
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            );
        if loads || stores {
            op.marks |= ACCESSES;
        }
        if loads && destination && !stores {
            op.loads = 1 << i.op0_register().full_register32().number();
        }
    }
}

/// An operation without operands.
fn bare(len: usize, run: crate::op::Handler) -> Op {
    Op {
        run,
        imm: 0,
        disp: 0,
        at: 0,
        len: len as u8,
        marks: END,
        base: ZERO as u8,
        index: ZERO as u8,
        scale: 0,
        seg: 0,
        r1: ZERO as u8,
        r2: ZERO as u8,
        x: 0,
        reads: 0,
        loads: 0,
        class: Event::InsnSimple,
    }
}

fn register_number(r: Register) -> u8 {
    (r.number() & 15) as u8
}

fn segment_number(r: Register) -> u8 {
    match r {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}

fn memory(i: &Instruction, op: &mut Op) {
    let part = |r: Register| match r {
        Register::None => ZERO as u8,
        r => register_number(r),
    };
    op.base = part(i.memory_base());
    op.index = part(i.memory_index());
    op.scale = i.memory_index_scale().trailing_zeros() as u8;
    op.disp = i.memory_displacement32();
    op.seg = segment_number(i.memory_segment());
    let sixteen = |r: Register| r != Register::None && r.size() == 2;
    let bare16 = i.memory_base() == Register::None
        && i.memory_index() == Register::None
        && i.memory_displ_size() == 2;
    if sixteen(i.memory_base()) || sixteen(i.memory_index()) || bare16 {
        op.seg |= ADDR16;
    }
}

/// `0F 1F 84 00` with the magic number in the displacement's upper half: nop [eax+eax+disp32] in
/// exactly eight bytes.
fn is_probe(i: &Instruction) -> bool {
    i.code() == Code::Reservednop_rm32_r32_0F1F
        && i.op1_register() == Register::EAX
        && i.len() == 8
        && i.memory_base() == Register::EAX
        && i.memory_index() == Register::EAX
        && i.memory_index_scale() == 1
        && i.memory_displacement32() >> 16 == PROBE_MAGIC
}

fn is_string(i: &Instruction) -> bool {
    i.is_string_instruction()
}

/// ins and outs: bytes of an element, bytes of the address registers.
fn port_string(i: &Instruction) -> Option<(u8, u8)> {
    use iced_x86::Mnemonic::*;
    let element = match i.mnemonic() {
        Insb | Outsb => 1,
        Insw | Outsw => 2,
        Insd | Outsd => 4,
        _ => return None,
    };
    let narrow = |n| matches!(i.op_kind(n), OpKind::MemorySegSI | OpKind::MemoryESDI);
    Some((element, if narrow(0) || narrow(1) { 2 } else { 4 }))
}

/// An escape to the coprocessor (fwait has a form of its own).
fn is_x87(i: &Instruction) -> bool {
    use iced_x86::CpuidFeature::{FPU, FPU287, FPU387};
    i.cpuid_features()
        .iter()
        .any(|f| matches!(f, &FPU | &FPU287 | &FPU387))
}

/// mov to a control or debug register, or to a segment register by mov or pop.
fn is_to_special(i: &Instruction) -> bool {
    matches!(kind(i, 0), Kind::Cr | Kind::Dr)
}

/// The accounting class where the operands decide.
fn class(i: &Instruction, plain: Event) -> Event {
    use iced_x86::Mnemonic::*;
    let lock = i.has_lock_prefix();
    match i.mnemonic() {
        Xchg if kind(i, 0) == Kind::Mem => Event::LockXchg,
        Cmpxchg8b if lock => Event::LockCmpxchg8b,
        _ if lock => Event::LockRmw,
        Imul if i.op_count() == 1 => Event::InsnMul,
        Rol | Ror if kind(i, 1) == Kind::Reg => Event::InsnShiftDouble,
        Rcl | Rcr if kind(i, 1) == Kind::Reg || i.immediate8() != 1 => Event::InsnShiftDouble,
        _ if is_string(i)
            && port_string(i).is_none()
            && (i.has_rep_prefix() || i.has_repne_prefix()) =>
        {
            Event::RepStart
        }
        Jmp | Call
            if matches!(
                i.code(),
                Code::Jmp_ptr1632
                    | Code::Jmp_m1632
                    | Code::Call_ptr1632
                    | Code::Call_m1632
                    | Code::Jmp_ptr1616
                    | Code::Jmp_m1616
                    | Code::Call_ptr1616
                    | Code::Call_m1616
            ) =>
        {
            Event::InsnFar
        }
        Mov | Pop if kind(i, 0) == Kind::Sreg => Event::InsnLoadSeg,
        Mov if matches!(kind(i, 1), Kind::Cr | Kind::Dr) => Event::InsnReadCr,
        Mov if kind(i, 0) == Kind::Dr => Event::InsnMovCr2,
        Mov if kind(i, 0) == Kind::Cr => match i.op0_register() {
            Register::CR0 => Event::InsnMovCr0,
            Register::CR3 => Event::InsnMovCr3,
            Register::CR4 => Event::InsnMovCr4,
            _ => Event::InsnMovCr2,
        },
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The long NOPs that compilers emit read no register and no memory for the load-use rule.
    #[test]
    fn long_nops_use_nothing() {
        for bytes in [
            &[0x0f, 0x1f, 0x00][..],
            &[0x0f, 0x1f, 0x44, 0x18, 0x00],
            &[0x66, 0x0f, 0x1f, 0x84, 0x11, 0, 0, 0, 0],
        ] {
            let mut factory = InstructionInfoFactory::new();
            let plain = Decoder::with_ip(32, bytes, 0, DecoderOptions::NONE).decode();
            let reads: Vec<_> = factory.info(&plain).used_registers().to_vec();
            let forced = Decoder::with_ip(32, bytes, 0, OPTIONS).decode();
            assert_eq!(factory.info(&forced).used_registers(), reads, "{forced:?}");
        }
    }
}
