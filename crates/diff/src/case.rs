//! A case: a short run of instructions and the state it starts from.
//!
//! Most are one to eight random legal instructions; some are raw random bytes, some have a byte
//! mutated. They start in the middle of a page, before its end, or so close to the end of the last
//! code page that they run off it. Invariant: a case is a function of seed and number.

use crate::exclude;
use crate::layout::{CODE, DATA, EXIT, LDT, Layout, PAGE, STACK, USER_CS, USER_DS, ldt_selector};
use crate::random::Random;
use crate::templates::{Template, code_selector, selector};
use crate::undefined;
use emu_cpu::flags::{AC, ARITH, DF, ID, IF, TF};
use emu_cpu::regs::{EBP, ECX, EDI, EDX, ESI, ESP};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic};

/// Most bytes of code.
pub const MAX_CODE: usize = 160;
/// Most instructions made from templates.
const MAX_INSTRUCTIONS: u32 = 8;

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Linear address of the first instruction.
    pub start: u32,
    /// Its code segment: [`USER_CS`] or an LDT selector.
    pub cs: u16,
    /// Instructions, then a jump to [`EXIT`] if it is `complete`.
    pub code: Vec<u8>,
    /// Length of `code` without the jump.
    pub body: usize,
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub regs: [u32; 8],
    /// EFLAGS.
    pub eflags: u32,
    /// DS, ES, FS, GS.
    pub data: [u16; 4],
    /// Words put into memory before: linear addresses in writable pages.
    pub words: Vec<(u32, u32)>,
}

impl Case {
    /// EIP at the start.
    pub fn eip(&self) -> u32 {
        self.start.wrapping_sub(code_base(self.cs))
    }

    /// Everything that is written into the image before the case, with image offsets; what lies
    /// outside it is left out.
    pub fn pokes<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = (usize, &'a [u8])> + 'a {
        // The two code pages are neighbours in the image too.
        let room = (CODE + 2 * PAGE - self.start) as usize;
        let offset = layout
            .offset(self.start)
            .expect("cases start in a code page");
        std::iter::once((offset, &self.code[..self.code.len().min(room)]))
    }

    /// The words to put into memory, with image offsets.
    pub fn stores<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = (usize, [u8; 4])> + 'a {
        self.words
            .iter()
            .filter_map(|&(at, word)| Some((layout.offset(at)?, word.to_le_bytes())))
    }
}

/// Linear address of offset 0 of a code segment.
pub fn code_base(cs: u16) -> u32 {
    match cs {
        USER_CS => 0,
        cs => LDT.get(usize::from(cs >> 3)).map_or(0, |e| e.base),
    }
}

/// Makes cases.
#[derive(Debug)]
pub struct Generator {
    templates: Vec<Template>,
    only: Vec<Template>,
}

impl Generator {
    /// Cases over all integer forms; with `only`, each case has one of these.
    pub fn new(only: &[Code]) -> Generator {
        let templates = crate::templates::all();
        let only = templates
            .iter()
            .filter(|t| only.contains(&t.code))
            .cloned()
            .collect();
        Generator { templates, only }
    }

    /// The next case of a stream.
    pub fn case(&self, r: &mut Random) -> Case {
        let (mut code, first) = match r.below(100) {
            _ if !self.only.is_empty() => self.legal(r),
            0..=5 => {
                let n = 1 + r.below(15) as usize;
                ((0..n).map(|_| r.byte()).collect(), None)
            }
            6..=13 => {
                let (mut code, first) = self.legal(r);
                let at = r.below(code.len() as u32) as usize;
                code[at] = match r.below(3) {
                    0 => r.byte(),
                    1 => code[at] ^ 1 << r.below(8),
                    _ => code[at].wrapping_add(1),
                };
                (code, first)
            }
            _ => self.legal(r),
        };
        let body = code.len();
        let start = match r.below(20) {
            0..=15 => CODE + 0x100 + r.below(0x800),
            16 | 17 => CODE + PAGE - 1 - r.below(body as u32),
            18 => CODE + PAGE + r.below(0x800),
            _ => CODE + 2 * PAGE - 1 - r.below(body as u32 + 4),
        };
        let cs = match r.below(50) {
            0 => ldt_selector(6),
            1 => ldt_selector(7),
            2 | 3 => ldt_selector(8),
            _ => USER_CS,
        };
        if cs == ldt_selector(8) {
            // jmp rel32 with an operand-size prefix: 16-bit code cannot leave its segment.
            code.push(0xcc);
        } else {
            code.push(0xe9);
            let end = start.wrapping_add(code.len() as u32 + 4);
            code.extend(EXIT.wrapping_sub(end).to_le_bytes());
        }
        let mut case = Case {
            start,
            cs,
            code,
            body,
            regs: std::array::from_fn(|_| r.register()),
            eflags: 2 | IF | r.bits() as u32 & ARITH,
            data: [USER_DS; 4],
            words: Vec::new(),
        };
        self.registers(&mut case, r, first);
        case
    }

    fn registers(&self, case: &mut Case, r: &mut Random, first: Option<Mnemonic>) {
        case.regs[ESP] = match r.below(20) {
            0..=13 => STACK + 0x400 + r.below(0x1800),
            14 => STACK + r.below(64),
            15 => STACK + 2 * PAGE - r.below(64),
            16 => STACK + PAGE - 32 + r.below(64),
            17 => case.regs[ESP],
            _ => STACK + 0x400 + r.below(0x600) * 4,
        };
        if r.percent(50) {
            case.regs[ECX] = r.below(40);
        }
        if r.percent(60) {
            case.regs[ESI] = r.writable();
        }
        if r.percent(60) {
            case.regs[EDI] = r.writable();
        }
        if r.percent(30) {
            case.regs[EBP] = STACK + r.below(2 * PAGE);
        }
        if r.percent(5) {
            case.eflags |= DF;
        }
        if r.percent(3) {
            case.eflags |= TF;
        }
        if r.percent(3) {
            case.eflags |= ID;
        }
        if r.percent(2) {
            case.eflags |= AC;
        }
        for s in &mut case.data {
            if r.percent(6) {
                *s = loadable(r);
            }
        }
        // GS and FS are more often something else.
        if r.percent(20) {
            case.data[2] = loadable(r);
        }
        // A quotient that fits more often than random registers give.
        if matches!(first, Some(Mnemonic::Div | Mnemonic::Idiv)) && r.percent(60) {
            case.regs[EDX] = r.pick(&[0, 0, u32::MAX, 1]);
            case.regs[0] &= r.pick(&[0xff, 0x7fff, u32::MAX]);
        }
        self.stack(case, r, first);
    }

    /// What returns and pops find: an address, a selector, flags.
    fn stack(&self, case: &mut Case, r: &mut Random, first: Option<Mnemonic>) {
        let returns = matches!(
            first,
            Some(
                Mnemonic::Ret
                    | Mnemonic::Retf
                    | Mnemonic::Iret
                    | Mnemonic::Iretd
                    | Mnemonic::Popf
                    | Mnemonic::Popfd
                    | Mnemonic::Pop
            )
        );
        if !returns && !r.percent(10) {
            return;
        }
        let esp = case.regs[ESP];
        let target = if r.percent(70) {
            EXIT
        } else {
            case.start + r.below(case.code.len() as u32)
        };
        let flags = r.bits() as u32 & r.pick(&[ARITH | IF, ARITH | DF | IF, 0x0027_ffff]);
        let segment = u32::from(if first == Some(Mnemonic::Pop) {
            selector(r)
        } else {
            code_selector(r)
        });
        let words = match first {
            Some(Mnemonic::Popf | Mnemonic::Popfd) => [flags, target, segment, flags],
            Some(Mnemonic::Pop) => [segment, target, segment, flags],
            _ => [target, segment, flags, r.value()],
        };
        for (n, word) in (0..).zip(words) {
            let at = esp.wrapping_add(n * 4);
            if (STACK..STACK + 2 * PAGE - 3).contains(&at) && at & (PAGE - 1) <= PAGE - 4 {
                case.words.push((at, word));
            }
        }
    }

    /// Random legal instructions, none of them excluded, none reading a flag that an earlier one may
    /// have left undefined; and the first one's mnemonic.
    fn legal(&self, r: &mut Random) -> (Vec<u8>, Option<Mnemonic>) {
        let n = match r.below(10) {
            0..=4 => 1,
            5 | 6 => 2,
            7 => 3,
            _ => 1 + r.below(MAX_INSTRUCTIONS),
        };
        let mut code = Vec::with_capacity(MAX_CODE);
        let mut first = None;
        let mut pending = 0;
        let special = r.below(n);
        for k in 0..n {
            for _ in 0..20 {
                let from = if k == special && !self.only.is_empty() {
                    &self.only
                } else {
                    &self.templates
                };
                let t = &from[r.below(from.len() as u32) as usize];
                let at = code.len();
                t.encode(r, CODE + 0x400 + at as u32, &mut code);
                let i = decode(&code[at..], 32);
                if i.is_invalid() && r.percent(90) || exclude::judge(&i, &code[at..]).is_some() {
                    code.truncate(at);
                    continue;
                }
                if undefined::eflags(i.rflags_read()) & pending != 0 {
                    // cmp between two registers defines every flag.
                    let fresh = [0x39, 0xc0 | r.byte() & 0x3f];
                    code.splice(at..at, fresh);
                    pending = 0;
                }
                pending |= undefined::eflags(i.rflags_undefined());
                first = first.or(Some(i.mnemonic()));
                break;
            }
        }
        if code.is_empty() {
            code.push(0x90);
        }
        (code, first)
    }
}

/// A data selector that loads without a fault on every host.
fn loadable(r: &mut Random) -> u16 {
    loop {
        let s = match r.below(4) {
            0 => r.pick(&[0, USER_DS, USER_CS]),
            _ => ldt_selector(r.below(LDT.len() as u32) as u16),
        };
        if s & 4 == 0 {
            return s;
        }
        let e = LDT[usize::from(s >> 3)];
        if e.present && e.kind != crate::layout::Kind::ExecuteOnly {
            return s;
        }
    }
}

/// Decodes as the emulated machine does.
pub fn decode(bytes: &[u8], bitness: u32) -> Instruction {
    let bytes = &bytes[..bytes.len().min(15)];
    Decoder::with_ip(bitness, bytes, 0, DecoderOptions::NONE).decode()
}

/// Fills an image: random words, small ones, selectors, code addresses, pointers.
pub fn fill(r: &mut Random, image: &mut [u8]) {
    // A table of plausible words of this batch; most of memory is drawn from it and from the stream.
    let table: [u32; 64] = std::array::from_fn(|n| {
        let b = r.bits() as u32;
        match n % 16 {
            0..=2 => b & 0x3f,
            3 => EXIT,
            4 => CODE + 0x100 + (b & 0x7ff),
            5 => DATA + (b & 0x5fff),
            6 => STACK + (b & 0x1fff),
            7 => (b as i8) as u32,
            8 => 0x7fff_ffff + (b & 1),
            9 => b >> (b & 31),
            10 | 11 => u32::from(USER_CS),
            12 => u32::from(USER_DS),
            13 => u32::from(ldt_selector((b & 15) as u16)),
            14 => b & 0xff,
            _ => b,
        }
    });
    for chunk in image.chunks_exact_mut(16) {
        let v = r.bits();
        let mut words = [
            v as u32,
            (v >> 32) as u32,
            v.rotate_left(13) as u32,
            v.rotate_left(45) as u32,
        ];
        // Two of four words from the table: an address and its selector side by side.
        let from = v as usize & 63;
        words[v as usize >> 6 & 3] = table[from];
        words[((v as usize >> 6) + 1) & 3] = table[(v >> 8) as usize & 63];
        for (to, word) in chunk.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
}
