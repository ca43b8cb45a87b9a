//! The loop of the bare machine, and the ways in which a run ends.
//!
//! A slice of instructions at a time, so that whoever runs the machine can show output, count, and stop it. Invariant: where a
//! slice ends changes nothing: slices end at interrupt points, where every engine looks up anyway.

use crate::bare::board::{Board, Request};
use crate::bare::cmos::ClockTime;
use crate::bare::image::{BareImage, Format, ImageRefused};
use crate::bare::{multiboot, trace};
use emu_cpu::exit::Dump;
use emu_cpu::{Cpu, DecodeAll, Engine, EngineState, Exit, regs};
use emu_mmu::{GeometryError, Mmu, PhysAddr, PhysError, PhysMem};
use lowmem_cost::Geometry;
use lowmem_cost::geometry::{CacheGeometry, FrontEnd, SetAssoc};

/// Most low memory: what one flat host mapping holds.
const LOW_BYTES: u64 = emu_mmu::phys::MAX_LOW_BYTES;

/// How a machine is made.
#[derive(Debug, Clone)]
pub struct BareOptions {
    /// RAM: flat from 0, a whole number of pages.
    pub ram_bytes: u64,
    /// TLBs and caches.
    pub geometry: Geometry,
    /// Instructions that make a second of the machine's time.
    pub per_second: u64,
    /// Interpreter.
    pub engine: Engine,
    /// What the CMOS clock shows at the start.
    pub start: ClockTime,
    /// Bytes that wait on COM1.
    pub serial_in: Vec<u8>,
}

/// The geometry of a machine whose costs nobody asks for: what the host gets through fastest. A Pentium III's, but with TLBs and
/// lines as large as they help; what is counted with it means nothing.
pub fn uncounted() -> Geometry {
    let line = |kib| CacheGeometry {
        kib,
        ways: 2,
        line: 4096,
    };
    let mut g = Geometry::pentium3();
    let small = |entries| SetAssoc { entries, ways: 2 };
    g.dtlb.small = small(4096);
    g.itlb.small = small(1024);
    g.front_end = FrontEnd::L1i(line(64));
    (g.l1d, g.l2) = (line(1024), line(4096));
    g
}

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    /// The image does not fit.
    #[error(transparent)]
    Image(#[from] ImageRefused),
    /// RAM.
    #[error(transparent)]
    Memory(#[from] PhysError),
    /// TLBs or caches.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Port F4: the image's status, always odd.
    Exit(u8),
    /// Port 8900.
    Shutdown,
    /// A reset of a machine without ROM.
    Reset,
    /// `hlt` with nothing to wake up for.
    Halted,
    /// A fault while a double fault was delivered.
    TripleFault(Box<Dump>),
    /// Faults follow each other, and no instruction completes between them.
    Stuck,
    /// The next instruction is the one asked for.
    StopAt(u32),
}

/// The machine.
#[derive(Debug)]
pub struct Bare {
    cpu: Box<Cpu>,
    engine: EngineState,
    board: Board,
    format: Format,
    resets: u64,
    disassembler: trace::Disassembler,
}

impl Bare {
    /// A machine with `image` loaded, before its first instruction.
    pub fn new(image: &BareImage, options: &BareOptions) -> Result<Bare, BareError> {
        let ram = options.ram_bytes;
        let mut mem = PhysMem::new(ram, ram.min(LOW_BYTES))?;
        for piece in &image.pieces {
            if piece.end() > ram {
                return Err(ImageRefused::OutsideRam {
                    start: piece.at,
                    end: piece.end(),
                    ram,
                }
                .into());
            }
            mem.write_bytes(
                PhysAddr(u64::from(piece.at)),
                &image.bytes[piece.file.clone()],
            );
        }
        let mut info = 0;
        match image.format {
            Format::Rom => {
                let rom = (1 << 32) - image.bytes.len() as u64;
                if ram > rom {
                    return Err(ImageRefused::RamOverRom { ram, rom }.into());
                }
                mem.install_rom(&image.bytes);
            }
            Format::Multiboot => info = multiboot::write_info(&mut mem, &image.pieces)?,
            Format::Elf => {}
        }
        let mmu = match options.engine {
            Engine::Fast => Mmu::new(mem, &options.geometry)?,
            Engine::Reference => Mmu::reference(mem, &options.geometry)?,
        };
        let mut cpu = Box::new(match image.format {
            Format::Rom => Cpu::at_reset(mmu, &options.geometry),
            Format::Multiboot | Format::Elf => Cpu::new(mmu, &options.geometry),
        });
        if image.format != Format::Rom {
            cpu.eip = image.entry;
        }
        if image.format == Format::Multiboot {
            cpu.regs[regs::EAX] = multiboot::BOOTED;
            cpu.regs[regs::EBX] = info;
        }
        cpu.disable_watchdogs();
        let (start, input) = (options.start, &options.serial_in);
        Ok(Bare {
            cpu,
            engine: EngineState::new(options.engine),
            board: Board::new(options.per_second, start, ram, input),
            format: image.format,
            resets: 0,
            disassembler: trace::Disassembler::new(),
        })
    }

    /// The CPU, with memory and counts.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The devices.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The devices, to take their output.
    pub fn board_mut(&mut self) -> &mut Board {
        &mut self.board
    }

    /// How often the image reset the machine.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Ends runs before the instruction at linear address `at`.
    pub fn stop_at(&mut self, at: u32) {
        self.cpu.breakpoints.insert(at);
    }

    /// What counts against a limit: instructions, and repetitions of string instructions beyond each one's first.
    pub fn work(&self) -> u64 {
        self.cpu.work()
    }

    /// Runs until the machine ends, or comes to an interrupt point with `budget` more [`Bare::work`] done.
    pub fn run(&mut self, budget: u64) -> Option<End> {
        let until = self.work().saturating_add(budget);
        while self.work() < until {
            let left = until - self.work();
            let exit = self
                .cpu
                .run(&mut self.engine, &mut self.board, &mut DecodeAll, left);
            if let Some(end) = self.handle(exit) {
                return Some(end);
            }
        }
        None
    }

    /// Executes one instruction, or takes what interrupts it, and writes a line about it.
    pub fn trace_one(&mut self, out: &mut String) -> Option<End> {
        let before = self.cpu.retired();
        if let Some(exit) = self.cpu.take_due(&mut self.board) {
            return self.handle(exit);
        }
        if let Some(exit) = self.cpu.breakpoint_due() {
            return self.handle(exit);
        }
        let seen = self.disassembler.look(&self.cpu);
        let exit = self.cpu.step(&mut self.engine, &mut self.board);
        let done = match self.cpu.retired() {
            now if now == before => trace::Done::Interrupted,
            _ => trace::Done::Retired,
        };
        self.disassembler.line(&seen, &self.cpu, done, out);
        exit.and_then(|exit| self.handle(exit))
    }

    fn handle(&mut self, exit: Exit) -> Option<End> {
        match exit {
            Exit::Limit | Exit::Stopped => None,
            Exit::Port => match self.board.request.take() {
                Some(Request::Exit(status)) => Some(End::Exit(status)),
                Some(Request::Shutdown) => Some(End::Shutdown),
                Some(Request::Reset) if self.format == Format::Rom => {
                    self.resets += 1;
                    self.cpu.reset();
                    self.board.reset();
                    None
                }
                Some(Request::Reset) => Some(End::Reset),
                None => None,
            },
            Exit::Halted => {
                let awake = self.cpu.eflags() & emu_cpu::flags::IF != 0;
                match self.board.skip().filter(|_| awake) {
                    Some(n) => {
                        self.cpu.tsc_offset = self.cpu.tsc_offset.wrapping_add(n);
                        None
                    }
                    None => Some(End::Halted),
                }
            }
            Exit::TripleFault(dump) => Some(End::TripleFault(dump)),
            Exit::Watchdog { .. } => Some(End::Stuck),
            Exit::Breakpoint(at) => Some(End::StopAt(at)),
        }
    }
}
