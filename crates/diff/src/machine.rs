//! The emulated side: a machine whose ring 3 sees what a Linux process's 32-bit code sees.
//!
//! PAE paging with NX, the pages of [`Layout`] at their linear addresses, a GDT with Linux's user
//! segments, the LDT of [`LDT`], and an IDT whose gates lead to one stub a vector. A case ends in a
//! stub, at CPL 0; the frame on the kernel stack is the outcome. Nothing is set up again between two
//! cases but registers and what the case pokes into memory.
//!
//! Invariant: the supervisor's pages are outside [`Layout`]; a case that asks for one is dropped.

use crate::case::{Case, decode};
use crate::coverage::Coverage;
use crate::exclude::{self, Reason};
use crate::layout::{
    ALIAS, EXIT, KERNEL, LDT, Layout, PAGE, Rights, USER_CS, USER_CS64, USER_DS, is_harness,
};
use crate::outcome::{End, Outcome};
use crate::tolerate;
use crate::undefined;
use emu_cpu::cpu::{
    CR0_AM, CR0_ET, CR0_NE, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_TSD, EFER_NXE,
};
use emu_cpu::flags::{NT, TF};
use emu_cpu::regs::ESP;
use emu_cpu::segment::{CODE32, DATA32};
use emu_cpu::{
    Bus, Cpu, DecodeAll, Descriptor, Engine, EngineState, Exit, Flow, Seg, Segment, TableRegister,
};
use emu_mmu::{Mmu, PhysAddr, PhysMem, Privilege, VirtAddr};
use iced_x86::{Code, Mnemonic};
use lowmem_cost::Geometry;

/// RAM of the machine.
const RAM: u64 = 4 << 20;
const PDPT: u64 = 0x1000;
const DIRECTORIES: u64 = 0x2000;
const TABLES: u64 = 0x6000;
const GDT: u32 = 0x1_0000;
const IDT: u32 = 0x1_1000;
const TSS: u32 = 0x1_2000;
const LDT_AT: u32 = 0x1_3000;
const STUBS: u32 = 0x1_4000;
const STACK_TOP: u32 = 0x1_6000;
/// Supervisor pages from physical 0.
const KERNEL_PAGES: u64 = 0x18;
/// Physical address of the image.
const IMAGE: u64 = 0x10_0000;
/// Bytes of a stub: `out 0xf4, al`.
const STUB_BYTES: u32 = 4;

const KERNEL_CS: u16 = 0x10;
const KERNEL_DS: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x40;
const LDT_SELECTOR: u16 = 0x48;
/// Linux's per-CPU segment (its limit is the CPU's number); ours has AVL set to tell it.
const CPU_SELECTOR: u16 = 0x78;
const CPU_DESCRIPTOR: u64 = 0x0050_f500_0000_0000;
const AVL: u32 = 1 << 20;

/// Most instructions of a case.
const MAX_STEPS: usize = 48;

/// Why a case was not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// It came to an excluded instruction.
    Excluded(Reason),
    /// It did not end soon.
    Long,
    /// It touched what belongs to the harness.
    Harness,
    /// The host and the emulated machine may fault in different operands of the last instruction, or
    /// only one of them at all.
    Open,
    /// It read a flag, or a byte of the stack as data or as code, that an instruction had left
    /// undefined.
    ReadsUndefined,
}

/// An instruction that was executed.
#[derive(Debug, Clone, Copy)]
pub struct Executed {
    /// Its form.
    pub code: Code,
    /// It retired.
    pub completed: bool,
}

/// What the reference run knows besides the outcome.
#[derive(Debug, Default)]
pub struct Path {
    /// Instructions in order.
    pub executed: Vec<Executed>,
    /// Flags that are undefined at the end.
    pub undefined: u32,
    /// Image offsets of bytes that a host may write or leave alone.
    pub may_stay: Vec<usize>,
}

impl Path {
    /// Counts the instructions.
    pub fn cover(&self, coverage: &mut Coverage) {
        for e in &self.executed {
            coverage.add(e.code, e.completed);
        }
    }
}

/// Stops at the stub's `out`.
#[derive(Debug)]
struct Stubs;

impl Bus for Stubs {
    fn port_in(&mut self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32) -> Flow {
        Flow::Stop
    }
    fn probe(&mut self, _id: u16, _cpu: &mut Cpu) {}
}

/// An emulated machine.
#[derive(Debug)]
pub struct Machine {
    cpu: Cpu,
    engine: EngineState,
    layout: Layout,
}

/// The machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Memory.
    #[error(transparent)]
    Memory(#[from] emu_mmu::PhysError),
    /// Control registers.
    #[error("control registers refused: {0:?}")]
    Control(emu_mmu::ControlError),
}

impl Machine {
    /// A machine with this engine; `reference` also runs over the MMU without shortcuts.
    pub fn new(engine: Engine, layout: &Layout) -> Result<Machine, MachineError> {
        let mut g = Geometry::pentium3();
        g.nx = true;
        let mem = PhysMem::new(RAM, RAM)?;
        let mmu = match engine {
            Engine::Reference => Mmu::reference(mem, &g),
            Engine::Fast => Mmu::new(mem, &g),
        }
        .expect("the pentium3 geometry is sound");
        let mut cpu = Cpu::new(mmu, &g);
        page_tables(&mut cpu, layout);
        descriptors(&mut cpu);
        cpu.set_control(
            CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG,
            PDPT as u32,
            CR4_PAE | CR4_PGE | CR4_TSD,
            EFER_NXE,
        )
        .map_err(MachineError::Control)?;
        cpu.disable_watchdogs();
        Ok(Machine {
            cpu,
            engine: EngineState::new(engine),
            layout: layout.clone(),
        })
    }

    /// The image.
    pub fn image(&self) -> &[u8] {
        let base = self.cpu.mmu.mem.low_base();
        // SAFETY: all RAM is low memory, mapped from `low_base` on for as long as the machine lives;
        // the image lies inside it and `&self` keeps the emulator from writing meanwhile.
        unsafe { std::slice::from_raw_parts(base.add(IMAGE as usize), self.layout.image_bytes()) }
    }

    /// Replaces the image.
    pub fn load(&mut self, image: &[u8]) {
        self.cpu.mmu.mem.write_bytes(PhysAddr(IMAGE), image);
        if self.engine.engine() == Engine::Fast {
            self.engine.flush();
        }
    }

    /// Writes the case's code and words and sets all registers: the machine stands at CPL 3 at its
    /// first instruction.
    pub fn start(&mut self, case: &Case) {
        let cpu = &mut self.cpu;
        for (offset, bytes) in case.pokes(&self.layout) {
            // One byte a page through the MMU, so that decoded code is dropped.
            let last = offset + bytes.len() - 1;
            for at in [offset, last] {
                let va = VirtAddr(ALIAS + at as u32);
                cpu.mmu
                    .write(va, 1, u64::from(bytes[at - offset]), Privilege::Supervisor)
                    .expect("the alias is writable");
            }
            cpu.mmu
                .mem
                .write_bytes(PhysAddr(IMAGE + offset as u64), bytes);
        }
        for (offset, word) in case.stores(&self.layout) {
            cpu.mmu
                .mem
                .write_bytes(PhysAddr(IMAGE + offset as u64), &word);
        }
        cpu.set_segment(Seg::Cs, segment(case.cs));
        cpu.set_segment(Seg::Ss, segment(USER_DS));
        for (seg, selector) in [Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs]
            .into_iter()
            .zip(case.data)
        {
            cpu.set_segment(seg, segment(selector));
        }
        for (n, value) in case.regs.into_iter().enumerate() {
            cpu.regs[n] = value;
        }
        cpu.set_eflags(case.eflags);
        cpu.eip = case.eip();
    }

    /// Runs what was started one instruction at a time, judging each before it is executed.
    pub fn step_through(&mut self, path: &mut Path) -> Result<Outcome, Dropped> {
        path.executed.clear();
        path.undefined = 0;
        path.may_stay.clear();
        let mut stubs = Stubs;
        for _ in 0..MAX_STEPS {
            let cs = self.cpu.segment(Seg::Cs);
            let linear = cs.base.wrapping_add(self.cpu.eip);
            let wide = cs.access & 0x4000 != 0;
            let flags = self.cpu.eflags();
            if linear == EXIT && (flags & TF != 0 || !wide) {
                return Err(Dropped::Harness);
            }
            let (bytes, n) = self.bytes_at(linear);
            let i = decode(&bytes[..n], if wide { 32 } else { 16 });
            let known = n != 0 && !(i.is_invalid() && n < bytes.len());
            if known {
                if let Some(reason) = exclude::judge(&i, &bytes[..n]) {
                    return Err(Dropped::Excluded(reason));
                }
                let reads = undefined::eflags(i.rflags_read()) & path.undefined != 0;
                if reads || !path.may_stay.is_empty() && undefined::touches_memory(&i) {
                    return Err(Dropped::ReadsUndefined);
                }
                if path.may_stay.iter().any(|&at| {
                    let into = self.layout.linear(at).wrapping_sub(linear);
                    (into as usize) < i.len()
                }) {
                    return Err(Dropped::ReadsUndefined);
                }
                // Long mode has no nested tasks: #GP (SDM vol. 2, IRET).
                if flags & NT != 0 && matches!(i.mnemonic(), Mnemonic::Iret | Mnemonic::Iretd) {
                    return Err(Dropped::Excluded(Reason::LongMode));
                }
            } else if n != 0 && exclude::is_undefined(&i, &bytes[..n]) {
                return Err(Dropped::Excluded(Reason::UndefinedResult));
            }
            let before = self.cpu.regs;
            let selector = tolerate::selector_below_stack(i.code())
                .map(|below| stack_top(self.cpu.segment(Seg::Ss), before[ESP].wrapping_sub(below)));
            if let Some(reason) = known.then(|| undefined::result(&i, &before)).flatten() {
                return Err(Dropped::Excluded(reason));
            }
            let left = self.cpu.step(&mut self.engine, &mut stubs);
            let in_kernel = self.cpu.cpl() == 0;
            if left.is_some() {
                return Ok(self.broken());
            }
            // A repeated store over its own bytes: hardware goes on with the new ones when it notices,
            // after as many elements as it moves at once (SDM vol. 3, 12.1.3, self-modifying code).
            if known && i.is_string_instruction() && (i.has_rep_prefix() || i.has_repne_prefix()) {
                let (now, m) = self.bytes_at(linear);
                if m < i.len() || now[..i.len()] != bytes[..i.len()] {
                    return Err(Dropped::Excluded(Reason::UndefinedResult));
                }
            }
            let trapped = in_kernel && self.vector() == 1;
            let completed = !in_kernel || trapped;
            if let Some(at) = selector
                && !completed
                && tolerate::only_upper_half(at, self.outcome()?.end)
            {
                return Err(Dropped::Open);
            }
            if known && linear != EXIT {
                path.executed.push(Executed {
                    code: i.code(),
                    completed,
                });
                if completed {
                    if tolerate::pushes_selector(i.code()) {
                        if in_kernel {
                            return Err(Dropped::ReadsUndefined);
                        }
                        let top = self.stack_address();
                        let upper = [2, 3].map(|n| self.layout.offset(top.wrapping_add(n)));
                        path.may_stay.extend(upper.into_iter().flatten());
                    }
                    let e = undefined::effect(&i, &before);
                    path.undefined = path.undefined & !e.defined | e.undefined;
                    if matches!(i.mnemonic(), Mnemonic::Lar | Mnemonic::Lsl) && self.asked_cpu(&i) {
                        return Err(Dropped::Excluded(Reason::HostsOwn));
                    }
                }
            }
            if in_kernel {
                return self.outcome();
            }
            if self.cpu.segment(Seg::Cs).selector & !3 == USER_CS64 & !3 {
                return Err(Dropped::Excluded(Reason::EntersHost));
            }
            if self.uses(CPU_SELECTOR) {
                return Err(Dropped::Excluded(Reason::HostsOwn));
            }
        }
        Err(Dropped::Long)
    }

    /// Runs what was started to its end with the engine's own loop.
    pub fn run(&mut self) -> Outcome {
        let mut stubs = Stubs;
        let exit = self
            .cpu
            .run(&mut self.engine, &mut stubs, &mut DecodeAll, 1 << 20);
        if exit != Exit::Port || self.cpu.cpl() != 0 {
            return self.broken();
        }
        self.outcome().unwrap_or_else(|_| self.broken())
    }

    /// Some segment register holds this selector, whatever its RPL.
    fn uses(&self, selector: u16) -> bool {
        Seg::ALL
            .iter()
            .any(|&s| self.cpu.segment(s).selector & !3 == selector)
    }

    /// LAR or LSL answered for Linux's per-CPU segment.
    fn asked_cpu(&self, i: &iced_x86::Instruction) -> bool {
        let result = self.cpu.regs[i.op0_register().number() & 7];
        self.cpu.eflags() & emu_cpu::flags::ZF != 0
            && match i.mnemonic() {
                Mnemonic::Lar => result & AVL != 0 || result & 0xffff == 0xf500,
                _ => result & 0xffff == 0,
            }
    }

    /// Linear address of the top of the user's stack, if the last instruction did not trap.
    fn stack_address(&self) -> u32 {
        stack_top(self.cpu.segment(Seg::Ss), self.cpu.regs[ESP])
    }

    /// Linear address of the top of the user's stack after a case.
    pub fn user_stack(&self, outcome: &Outcome) -> u32 {
        stack_top(segment(outcome.segments[1]), outcome.regs[ESP])
    }

    /// Copies bytes of the host's image.
    pub fn adopt(&mut self, offsets: &[usize], image: &[u8]) {
        for &at in offsets {
            let to = PhysAddr(IMAGE + at as u64);
            self.cpu.mmu.mem.write_u8(to, image[at]);
        }
    }

    fn vector(&self) -> u8 {
        (self.cpu.eip.wrapping_sub(KERNEL + STUBS) / STUB_BYTES) as u8
    }

    fn broken(&self) -> Outcome {
        Outcome {
            end: End::Broken,
            regs: self.cpu.regs.all(),
            eflags: self.cpu.eflags(),
            segments: [0; 5],
        }
    }

    /// The outcome, from the frame on the kernel stack.
    fn outcome(&self) -> Result<Outcome, Dropped> {
        let vector = self.vector();
        let mut at = self.cpu.regs[ESP].wrapping_sub(KERNEL);
        let mut pop = || {
            let word = self.cpu.mmu.mem.read_u32(PhysAddr(u64::from(at)));
            at += 4;
            word
        };
        let code = if matches!(vector, 8 | 10..=14 | 17) {
            pop()
        } else {
            0
        };
        let (eip, cs, eflags, esp, ss) = (pop(), pop() as u16, pop(), pop(), pop() as u16);
        if cs & !3 == USER_CS64 & !3 {
            return Err(Dropped::Excluded(Reason::EntersHost));
        }
        let base = self.linear_base(cs);
        let cr2 = if vector == 14 { self.cpu.cr2 } else { 0 };
        let end = if vector == 14 && cr2 == EXIT && base.wrapping_add(eip) == EXIT {
            End::Exit
        } else if vector == 14 && is_harness(cr2) {
            return Err(Dropped::Harness);
        } else if vector == 0x80 {
            return Err(Dropped::Excluded(Reason::EntersHost));
        } else {
            End::Fault {
                vector,
                code,
                cr2,
                eip,
                cs,
            }
        };
        let mut regs = self.cpu.regs.all();
        regs[ESP] = esp;
        let s = |seg| self.cpu.segment(seg).selector;
        Ok(Outcome {
            end,
            regs,
            eflags,
            segments: [s(Seg::Es), ss, s(Seg::Ds), s(Seg::Fs), s(Seg::Gs)],
        })
    }

    fn linear_base(&self, cs: u16) -> u32 {
        crate::case::code_base(cs)
    }

    /// Up to fifteen bytes of code.
    fn bytes_at(&self, linear: u32) -> ([u8; 15], usize) {
        let mut bytes = [0; 15];
        let mut n = 0;
        let image = self.image();
        while n < bytes.len() {
            let at = linear.wrapping_add(n as u32);
            let Some(offset) = self.layout.offset(at) else {
                break;
            };
            let rights = self.layout.pages[offset / PAGE as usize].rights;
            if !matches!(rights, Rights::Execute | Rights::WriteExecute) {
                break;
            }
            let take = ((PAGE - at % PAGE) as usize).min(bytes.len() - n);
            bytes[n..n + take].copy_from_slice(&image[offset..offset + take]);
            n += take;
        }
        (bytes, n)
    }
}

fn stack_top(ss: Segment, esp: u32) -> u32 {
    let wide = ss.access & 0x4000 != 0;
    ss.base.wrapping_add(if wide { esp } else { esp & 0xffff })
}

/// A segment register loaded with one of the selectors that cases start with.
fn segment(selector: u16) -> Segment {
    match selector {
        0..4 => Segment {
            selector,
            ..Segment::default()
        },
        USER_CS => Segment::flat(selector, CODE32 | 0x60),
        USER_DS => Segment::flat(selector, DATA32 | 0x60),
        _ => {
            let entry = LDT.get(usize::from(selector >> 3));
            Descriptor(entry.map_or(0, |e| e.descriptor())).segment(selector)
        }
    }
}

fn page_tables(cpu: &mut Cpu, layout: &Layout) {
    let m = &mut cpu.mmu.mem;
    for i in 0..4 {
        m.write_u64(PhysAddr(PDPT + i * 8), (DIRECTORIES + (i << 12)) | 1);
    }
    let mut tables: Vec<u32> = Vec::new();
    let mut map = |linear: u32, entry: u64| {
        let region = linear >> 21;
        let n = tables.iter().position(|&r| r == region).unwrap_or_else(|| {
            tables.push(region);
            tables.len() - 1
        }) as u64;
        let table = TABLES + (n << 12);
        // Present, writable, user, accessed.
        m.write_u64(PhysAddr(DIRECTORIES + u64::from(region) * 8), table | 0x27);
        m.write_u64(PhysAddr(table + u64::from(linear >> 12 & 511) * 8), entry);
    };
    const NX: u64 = 1 << 63;
    for (n, page) in (0..).zip(&layout.pages) {
        let frame = IMAGE + (n << 12);
        let bits = match page.rights {
            Rights::Write => 7 | NX,
            Rights::Read => 5 | NX,
            Rights::WriteExecute => 7,
            Rights::Execute => 5,
        };
        map(page.at, frame | bits | 0x60);
        map(ALIAS + (n as u32) * PAGE, frame | 0x63);
    }
    for n in 0..KERNEL_PAGES {
        map(KERNEL + (n as u32) * PAGE, n << 12 | 0x63);
    }
    assert!(tables.len() as u64 <= (u64::from(GDT) - TABLES) >> 12);
}

fn descriptors(cpu: &mut Cpu) {
    let m = &mut cpu.mmu.mem;
    let mut set = |table: u32, index: u32, d: u64| {
        m.write_u64(PhysAddr(u64::from(table) + u64::from(index) * 8), d);
    };
    let gdt = |selector: u16| u32::from(selector >> 3);
    set(GDT, gdt(KERNEL_CS), Descriptor::new(0, u32::MAX, CODE32).0);
    set(GDT, gdt(KERNEL_DS), Descriptor::new(0, u32::MAX, DATA32).0);
    set(
        GDT,
        gdt(USER_CS),
        Descriptor::new(0, u32::MAX, CODE32 | 0x60).0,
    );
    set(
        GDT,
        gdt(USER_DS),
        Descriptor::new(0, u32::MAX, DATA32 | 0x60).0,
    );
    // 64-bit code as Linux has it: L=1, D=0.
    set(GDT, gdt(USER_CS64), 0x00af_fb00_0000_ffff);
    let tss = Descriptor::new(KERNEL + TSS, 0x67, 0x8b);
    set(GDT, gdt(TSS_SELECTOR), tss.0);
    let limit = LDT.len() as u32 * 8 - 1;
    let ldt = Descriptor::new(KERNEL + LDT_AT, limit, 0x82);
    set(GDT, gdt(LDT_SELECTOR), ldt.0);
    set(GDT, gdt(CPU_SELECTOR), CPU_DESCRIPTOR);
    for (n, e) in (0..).zip(&LDT) {
        set(LDT_AT, n, e.descriptor());
    }
    for vector in 0..=255u8 {
        let at = KERNEL + STUBS + u32::from(vector) * STUB_BYTES;
        let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
        let gate = Descriptor::gate(KERNEL_CS, at, 0xe, dpl);
        set(IDT, u32::from(vector), gate.0);
    }
    for vector in 0..256u64 {
        let at = u64::from(STUBS) + vector * u64::from(STUB_BYTES);
        m.write_bytes(PhysAddr(at), &[0xe6, 0xf4, 0xf4, 0xf4]);
    }
    m.write_u32(PhysAddr(u64::from(TSS) + 4), KERNEL + STACK_TOP);
    m.write_u32(PhysAddr(u64::from(TSS) + 8), u32::from(KERNEL_DS));
    // The I/O bitmap lies beyond the limit: every port is refused.
    m.write_u32(PhysAddr(u64::from(TSS) + 0x64), 0x68 << 16);
    // Linux's GDT has 16 entries.
    cpu.gdtr = TableRegister {
        base: KERNEL + GDT,
        limit: 127,
    };
    cpu.idtr = TableRegister {
        base: KERNEL + IDT,
        limit: 0x7ff,
    };
    cpu.tr = tss.segment(TSS_SELECTOR);
    cpu.ldtr = ldt.segment(LDT_SELECTOR);
}
