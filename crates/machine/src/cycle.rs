//! Cycle mode: the guest kernel's image on the emulated CPU, ring 3 from the trace.
//!
//! Entering loads what boot left ([`lowmem_abi::boot::CpuStart`]) and the running task's frame into a CPU with empty TLBs and
//! caches; it then stands at CPL 3. There is no way back to native mode. Ports stop the CPU;
//! transfers are carried out between instructions.
//!
//! A resched interrupt is raised when its step comes up and is taken at that operation boundary. A call is posted to the mailbox
//! only once it has entered the kernel: a page fault in the pushes of the sysenter stub finds the running task named as
//! the next one, switches nothing, and the call is made again. What the return belongs to is kept in [`CycleState`]: a slice of
//! instructions may end inside the kernel.
//!
//! Invariant: both modes pass the same steps in the same order.

use crate::books::{Books, FirstPath};
use crate::drive_native::Stop;
use crate::error::MachineError;
use crate::machine::{Machine, Memory};
use crate::mailbox;
use crate::replayer::{Entry, Next, ReplayError, Replayer, Step};
use crate::walk;
use emu_cpu::{
    Bus, Cpu, Descriptor, Engine, EngineState, Exit, Flow, Seg, Segment, Source, SysenterMsrs,
    TableRegister, UserOp, Via, regs,
};
use emu_mmu::{Mmu, PhysMem};
use lowmem_abi::boot::{VECTOR_RESCHED, VECTOR_TICK};
use lowmem_abi::port;
use lowmem_cost::{Account, Geometry, Side};
use lowmem_report::Operation;
use std::cell::RefCell;

/// Instructions between two looks at the user's wish to stop.
pub const SLICE: u64 = 1 << 26;

/// What cycle mode needs beside the machine.
#[derive(Debug)]
pub struct CycleState {
    /// The engine with its decoded code.
    pub engine: EngineState,
    /// Counters.
    pub books: Books,
    /// System calls by sysenter through the stub at this address, or by int 0x80.
    pub via: Via,
    slice: u64,
    asked: Asked,
}

impl CycleState {
    /// For a clone of a machine whose CPU is `cpu`: nothing decoded, counters at zero.
    pub(crate) fn restarted(&self, cpu: &Cpu) -> Self {
        let mut books = Books::default();
        books.restart(&cpu.mmu.account);
        Self {
            engine: EngineState::new(self.engine.engine()),
            books,
            via: self.via,
            slice: self.slice,
            asked: Asked::No,
        }
    }
}

/// How the CPU is made and driven.
#[derive(Debug, Clone)]
pub struct CycleOptions {
    /// TLBs and caches.
    pub geometry: Geometry,
    /// Engine.
    pub engine: Engine,
    /// Instructions between two timer ticks; 0: none.
    pub instructions_per_tick: u64,
    /// How system calls are made.
    pub via: Via,
    /// Instructions after which [`Machine::run_cycle`] comes back; changes nothing else.
    pub slice: u64,
}

impl Machine {
    /// Hands the memory to a CPU that stands where the running task stands.
    pub fn enter_cycle(&mut self, options: &CycleOptions) -> Result<CycleState, MachineError> {
        let placeholder = Memory::Moving;
        let Memory::Native(mem) = std::mem::replace(&mut self.memory, placeholder) else {
            panic!("a machine enters cycle mode from native mode only");
        };
        let mmu = match options.engine {
            Engine::Fast => Mmu::new(*mem, &options.geometry)?,
            Engine::Reference => Mmu::reference(*mem, &options.geometry)?,
        };
        let mut cpu = Box::new(Cpu::new(mmu, &options.geometry));
        self.load_cpu(&mut cpu)?;
        cpu.set_tick(options.instructions_per_tick, VECTOR_TICK as u8);
        cpu.mmu.account = Account::default();
        cpu.mmu.account.set_side(Side::User);
        self.memory = Memory::Cycle(cpu);
        self.attach();
        Ok(CycleState {
            engine: EngineState::new(options.engine),
            books: Books::default(),
            via: options.via,
            slice: options.slice,
            asked: Asked::No,
        })
    }

    fn load_cpu(&self, cpu: &mut Cpu) -> Result<(), MachineError> {
        let (s, k, f) = (self.start, self.k, self.frame);
        let at_boot = |reason: String| MachineError::Guest {
            operation: 0,
            reason,
        };
        cpu.probes = true;
        cpu.gdtr = TableRegister {
            base: s.gdt_base,
            limit: s.gdt_limit as u16,
        };
        cpu.idtr = TableRegister {
            base: s.idt_base,
            limit: s.idt_limit as u16,
        };
        cpu.sysenter = SysenterMsrs {
            cs: s.sysenter_cs,
            esp: s.sysenter_esp,
            eip: s.sysenter_eip,
        };
        let symbols = self.image.symbols;
        cpu.set_trampoline(symbols.trampoline_start..symbols.trampoline_end);
        let descriptor = |selector: u32| {
            let va = s.gdt_base.wrapping_add(selector & !7);
            let leaf = walk::lookup(self.host_mem(cpu), s.cr3, va)?;
            let pa = leaf.frame(va).base().plus(u64::from(va & 0xfff));
            let raw = self.host_mem(cpu).read_u64(pa);
            Some(Descriptor(raw).segment(selector as u16))
        };
        let segment = |selector: u32| {
            descriptor(selector)
                .ok_or_else(|| at_boot(format!("descriptor {selector:#x} is not mapped")))
        };
        let mut tr = segment(s.tr)?;
        // Busy, as ltr leaves it.
        tr.access |= 2;
        let code = segment(s.user_cs)?;
        let data = segment(s.user_ds)?;
        cpu.tr = tr;
        cpu.ldtr = Segment::default();
        let root = self.user_root();
        cpu.set_control(s.cr0, root, s.cr4, s.efer)
            .map_err(|e| at_boot(format!("control registers: {e}")))?;
        cpu.set_segment(Seg::Cs, code);
        for seg in [Seg::Ss, Seg::Ds, Seg::Es] {
            cpu.set_segment(seg, data);
        }
        let values = [
            (regs::EAX, f.eax(k)),
            (regs::ECX, f.ecx(k)),
            (regs::EDX, f.edx(k)),
            (regs::EBX, f.ebx(k)),
            (regs::ESP, f.esp(k)),
            (regs::EBP, f.ebp(k)),
            (regs::ESI, f.esi(k)),
            (regs::EDI, f.edi(k)),
        ];
        for (register, value) in values {
            cpu.regs[register] = value;
        }
        cpu.eip = f.eip(k);
        cpu.set_eflags(f.eflags(k) | 0x202);
        cpu.mmu.set_running_mm(0);
        Ok(())
    }

    fn host_mem<'a>(&self, cpu: &'a Cpu) -> &'a PhysMem {
        &cpu.mmu.mem
    }

    /// The CPU, in cycle mode.
    pub fn cpu(&self) -> Option<&Cpu> {
        match &self.memory {
            Memory::Cycle(cpu) => Some(cpu),
            _ => None,
        }
    }

    /// Runs on the CPU to the next pause. `None`: a slice of instructions is over, look whether to go on.
    pub fn run_cycle(&mut self, replayer: &mut Replayer, state: &mut CycleState) -> Option<Stop> {
        let Memory::Cycle(cpu) = &mut self.memory else {
            panic!("the machine is not in cycle mode");
        };
        let books = RefCell::new(&mut state.books);
        let mut bus = MachineBus { books: &books };
        let (k, low_pages) = (self.k, (cpu.mmu.mem.low_bytes() >> 12) as u32);
        let seen = &mut self.seen;
        let mut look = || seen.look(k, low_pages);
        let mut source = TraceSource {
            replayer,
            books: &books,
            via: state.via,
            stop: None,
            asked: &mut state.asked,
            look: &mut look,
        };
        loop {
            let exit = cpu.run(&mut state.engine, &mut bus, &mut source, state.slice);
            let stop = source.stop.take();
            if let Some(mismatch) = books.borrow_mut().mismatch.take() {
                return Some(Stop::Replay(ReplayError::Mismatch(mismatch)));
            }
            match exit {
                Exit::Stopped => return stop,
                Exit::Port => {
                    let port = books.borrow_mut().port.take();
                    match port {
                        Some(port::TRANSFER) => {
                            let t = mailbox::transfer(&cpu.mmu.mem);
                            if let Err(e) = self.host.devices.transfer(&mut cpu.mmu.mem, t) {
                                return Some(Stop::Replay(ReplayError::Mismatch(e.to_string())));
                            }
                        }
                        Some(port::FATAL) => {
                            return Some(Stop::Guest(mailbox::report(&cpu.mmu.mem).into()));
                        }
                        _ => {}
                    }
                }
                Exit::Limit => return None,
                // Idle: the next timer tick wakes the CPU.
                Exit::Halted if cpu.until_tick().is_some() => cpu.tick_now(),
                Exit::Halted => cpu.raise(VECTOR_TICK as u8),
                Exit::Watchdog { which, eip } => {
                    return Some(Stop::Replay(ReplayError::Livelock(format!(
                        "watchdog {which:?} at {}",
                        self.image.place(eip)
                    ))));
                }
                Exit::TripleFault(dump) => {
                    return Some(Stop::Replay(ReplayError::Mismatch(format!(
                        "triple fault at {}: {dump}",
                        self.image.place(dump.eip)
                    ))));
                }
                Exit::Breakpoint(eip) => {
                    return Some(Stop::Replay(ReplayError::Mismatch(format!(
                        "breakpoint at {}",
                        self.image.place(eip)
                    ))));
                }
            }
        }
    }
}

pub(crate) struct MachineBus<'a> {
    pub(crate) books: &'a RefCell<&'a mut Books>,
}

impl Bus for MachineBus<'_> {
    fn port_in(&mut self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, port: u16, _size: u8, _value: u32) -> Flow {
        match port {
            port::FATAL | port::TRANSFER | port::BOOTED => {
                self.books.borrow_mut().port = Some(port);
                Flow::Stop
            }
            _ => Flow::Continue,
        }
    }
    fn probe(&mut self, id: u16, cpu: &mut Cpu) {
        let mut books = self.books.borrow_mut();
        books.probe(id, &mut cpu.mmu.account);
    }
}

/// What the source has asked the kernel for, and has not got yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Nothing: the kernel was entered by a fault or the tick, if it was.
    No,
    /// A call that has entered the kernel.
    Call,
    /// A resched interrupt.
    Resched,
}

struct TraceSource<'a> {
    replayer: &'a mut Replayer,
    books: &'a RefCell<&'a mut Books>,
    via: Via,
    stop: Option<Stop>,
    asked: &'a mut Asked,
    look: &'a mut dyn FnMut(),
}

impl Source for TraceSource<'_> {
    fn next(&mut self, cpu: &mut Cpu) -> UserOp {
        if self.stop.is_some() {
            return UserOp::Stop;
        }
        *self.asked = Asked::No;
        let step = match self.replayer.next(&mut cpu.mmu.mem) {
            Ok(Next::Step(step)) => step,
            Ok(Next::Pause(pause)) => {
                self.stop = Some(Stop::Pause(pause));
                return UserOp::Stop;
            }
            Err(e) => {
                self.stop = Some(e.into());
                return UserOp::Stop;
            }
        };
        match step {
            Step::Fetch { va, len } => UserOp::Fetch { va, len },
            Step::Load { va, len } => UserOp::Load { va, len },
            Step::Store { va, len, value } => UserOp::Store { va, len, value },
            Step::Modify { va, len, value } => UserOp::Modify { va, len, value },
            Step::Work(n) => UserOp::Work(n),
            // sysenter needs a stack: the first exec of all, which makes one, is called by int 0x80; and so is the
            // last exit, after which nobody is left to run the stub's epilogue.
            Step::Call(call) => UserOp::Syscall {
                regs: call,
                via: if cpu.regs[regs::ESP] == 0 || self.replayer.is_last_exit() {
                    Via::Int80
                } else {
                    self.via
                },
            },
            Step::Resched => {
                *self.asked = Asked::Resched;
                cpu.raise(VECTOR_RESCHED as u8);
                UserOp::Work(0)
            }
        }
    }

    fn done(&mut self, cpu: &mut Cpu, _op: &UserOp, value: u32) {
        if *self.asked == Asked::No {
            cpu.pet_watchdog();
            self.replayer.done(value);
        }
    }

    fn entered(&mut self, cpu: &mut Cpu, _op: &UserOp) {
        *self.asked = Asked::Call;
        self.replayer.entered(&mut cpu.mmu.mem);
    }

    fn returned_to_user(&mut self, cpu: &mut Cpu) {
        let first = self.books.borrow().first;
        let (entry, kind) = match (*self.asked, first) {
            (Asked::Call | Asked::Resched, _) => (Entry::Asked, self.replayer.kind()),
            (Asked::No, Some(FirstPath::Tick)) => (Entry::Unasked, Operation::Tick),
            (Asked::No, _) => (Entry::Unasked, Operation::PageFault),
        };
        *self.asked = Asked::No;
        self.books.borrow_mut().entry(kind, &cpu.mmu.account);
        (self.look)();
        let eax = cpu.regs[regs::EAX];
        let cr2 = cpu.cr2;
        let result = match kind {
            Operation::PageFault if entry == Entry::Unasked => self.replayer.faulted(cr2),
            _ => Ok(()),
        }
        .and_then(|()| self.replayer.returned(&mut cpu.mmu.mem, entry, eax));
        // Ids of address spaces are never used again, as the shadow TLB needs them (D7).
        cpu.mmu.set_running_mm(self.replayer.space_id());
        if let Err(e) = result {
            self.stop = Some(e.into());
        }
    }
}
