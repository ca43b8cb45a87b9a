//! `lowmem run`: an image of the user's own on the bare machine.
//!
//! stdout has what the image writes to its console, stderr the report; with `--json` stdout has the report and stderr the
//! console. The exit status is the image's, if it gives one; all others are even, so that none can be taken for it.
//!
//! Invariant: image and options decide every byte of both, but for where Ctrl-C strikes.

use crate::axes;
use crate::cli::{ConsoleArg, EngineArg, FormatArg, RunImageArgs};
use crate::failure::Failure;
use crate::progress::Interrupt;
use emu_cpu::Engine;
use lowmem_cost::{Cause, Event, Preset, Variant};
use lowmem_machine::bare::{
    Bare, BareImage, BareOptions, Console, End, Format, ImageRefused, uncounted,
};
use lowmem_report::config::parse_bytes;
use lowmem_report::table::grouped;
use serde_json::{Map, Value, json};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// Schema of the JSON form.
const SCHEMA: &str = "lowmem.run/1";
/// Instructions between two looks at output and Ctrl-C: some milliseconds.
const SLICE: u64 = 1 << 20;
/// Instructions a second where no preset says: those of the `pentium4` preset.
const TIME_PRESET: &str = "pentium4";
/// No image is larger: what 32 bits address.
const IMAGE_BYTES: u64 = 1 << 32;
/// The preset that counts and prices nothing.
const NONE: &str = "none";

/// Why the run is over.
#[derive(Debug)]
enum Over {
    /// The machine ended.
    Ended(End),
    /// `--max-instructions`.
    Limit,
    /// Ctrl-C.
    Interrupted,
}

impl Over {
    fn name(&self) -> &'static str {
        match self {
            Over::Ended(End::Exit(_)) => "exit",
            Over::Ended(End::Shutdown) => "shutdown",
            Over::Ended(End::TripleFault(_)) => "triple_fault",
            Over::Ended(End::Halted) => "halted",
            Over::Ended(End::StopAt(_)) => "stop_at",
            Over::Ended(End::Reset) => "reset",
            Over::Ended(End::Stuck) => "stuck",
            Over::Limit => "max_instructions",
            Over::Interrupted => "interrupted",
        }
    }

    /// The exit status: `--help` has the list.
    fn status(&self) -> u8 {
        match self {
            Over::Ended(End::Exit(status)) => *status,
            Over::Ended(End::Shutdown) => 0,
            Over::Ended(End::TripleFault(_)) => 4,
            Over::Ended(End::Halted) => 6,
            Over::Limit => 8,
            Over::Ended(End::StopAt(_)) => 10,
            Over::Ended(End::Reset) => 12,
            Over::Ended(End::Stuck) => 14,
            Over::Interrupted => 130,
        }
    }

    fn sentence(&self) -> String {
        match self {
            Over::Ended(End::Exit(status)) => format!("ended by port F4, status {status}"),
            Over::Ended(End::Shutdown) => "ended by port 8900".to_owned(),
            Over::Ended(End::TripleFault(_)) => {
                "triple fault: a fault while a double fault was delivered".to_owned()
            }
            Over::Ended(End::Halted) => {
                "halted with nothing to wake up for (interrupts off, or no timer running)"
                    .to_owned()
            }
            Over::Ended(End::StopAt(at)) => format!("stopped before {at:#x}"),
            Over::Ended(End::Reset) => "the image reset the machine, which has no rom".to_owned(),
            Over::Ended(End::Stuck) => {
                "stuck: fault upon fault, and no instruction completes".to_owned()
            }
            Over::Limit => "instruction limit reached".to_owned(),
            Over::Interrupted => "interrupted".to_owned(),
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &RunImageArgs) -> Result<ExitCode, Failure> {
    let image = read_image(&args.image, args.format)?;
    let preset = match args.cpu.as_str() {
        NONE => None,
        name => Some(open_preset(name, &args.set)?),
    };
    let options = options(args, preset.as_ref())?;
    let mut machine = Bare::new(&image, &options)
        .map_err(|e| Failure::Usage(format!("{}: {e}", args.image.display())))?;
    if let Some(at) = &args.stop_at {
        machine.stop_at(address(at)?);
    }
    let mut out = Outputs::new(args)?;
    let interrupt = Interrupt::listen();
    let begun = std::time::Instant::now();
    let over = drive(&mut machine, args.max_instructions, &interrupt, &mut out)?;
    out.finish()?;
    let seconds = begun.elapsed().as_secs_f64();
    let report = Report {
        args,
        image: &image,
        machine: &machine,
        preset: preset.as_ref(),
        over: &over,
        hidden: out.hidden,
    };
    match args.json {
        true => {
            crate::output::print(&format!("{:#}\n", report.json()))?;
        }
        false => eprint!("{}", report.text()),
    }
    if args.host_stats {
        let mips = machine.cpu().retired() as f64 / seconds.max(1e-9) / 1e6;
        eprintln!("host: {seconds:.2} s, {mips:.1} million instructions/s");
    }
    Ok(ExitCode::from(over.status()))
}

fn drive(
    machine: &mut Bare,
    most: Option<u64>,
    interrupt: &Interrupt,
    out: &mut Outputs,
) -> Result<Over, Failure> {
    let mut lines = String::new();
    loop {
        let left = most.map_or(u64::MAX, |most| most.saturating_sub(machine.work()));
        if left == 0 {
            return Ok(Over::Limit);
        }
        let end = match out.trace {
            None => machine.run(left.min(SLICE)),
            Some(_) => {
                lines.clear();
                machine.trace_one(&mut lines)
            }
        };
        out.trace(&lines)?;
        let reader = out.console(machine)?;
        if let Some(end) = end {
            return Ok(Over::Ended(end));
        }
        // Nobody reads on: as Ctrl-C.
        if interrupt.requested() || reader == crate::output::Reader::Gone {
            return Ok(Over::Interrupted);
        }
    }
}

fn open_preset(name: &str, set: &[String]) -> Result<Preset, Failure> {
    let mut preset = Preset::open(name)?;
    for (key, value) in axes::settings(set)? {
        preset = preset.set(&key, &value)?;
    }
    Ok(preset)
}

fn options(args: &RunImageArgs, preset: Option<&Preset>) -> Result<BareOptions, Failure> {
    let ram_bytes = parse_bytes(&args.ram).ok_or_else(|| {
        Failure::Usage(format!(
            "--ram {:?}: not a size such as 256M or 4G",
            args.ram
        ))
    })?;
    let serial_in = match &args.serial_in {
        None => Vec::new(),
        Some(path) => std::fs::read(path).map_err(|e| file_failure(path, &e))?,
    };
    let start = match &args.rtc {
        None => Default::default(),
        Some(text) => text
            .parse()
            .map_err(|e| Failure::Usage(format!("--rtc {e}")))?,
    };
    let time = match preset {
        Some(preset) => preset.instructions_per_tick(1),
        None => Preset::open(TIME_PRESET)?.instructions_per_tick(1),
    };
    Ok(BareOptions {
        ram_bytes,
        geometry: preset.map_or_else(uncounted, |p| p.geometry().clone()),
        per_second: time,
        engine: match args.engine {
            EngineArg::Fast => Engine::Fast,
            EngineArg::Reference => Engine::Reference,
        },
        start,
        serial_in,
    })
}

fn file_failure(path: &Path, e: &std::io::Error) -> Failure {
    Failure::Usage(format!("{}: {e}", path.display()))
}

/// A hexadecimal address, with 0x, or a decimal one.
fn address(text: &str) -> Result<u32, Failure> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|_| {
        Failure::Usage(format!(
            "--stop-at {text:?}: not a linear address such as 0x100000"
        ))
    })
}

fn read_image(path: &Path, format: FormatArg) -> Result<BareImage, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(IMAGE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| file_failure(path, &e))?;
    let image = if bytes.len() as u64 > IMAGE_BYTES {
        return Err(Failure::Usage(format!(
            "{}: more than 4 GiB is no image",
            path.display()
        )));
    } else {
        match format {
            FormatArg::Auto => BareImage::parse(bytes),
            FormatArg::Multiboot => BareImage::parse_as(bytes, Format::Multiboot),
            FormatArg::Elf => BareImage::parse_as(bytes, Format::Elf),
            FormatArg::Rom => BareImage::parse_as(bytes, Format::Rom),
        }
    };
    image.map_err(|e: ImageRefused| Failure::Usage(format!("{}: {e}", path.display())))
}

/// Where the image's output and the trace go.
struct Outputs {
    console: Box<dyn Write>,
    chosen: ConsoleArg,
    trace: Option<Box<dyn Write>>,
    show_posts: bool,
    posts_shown: u64,
    /// Bytes of the console that was not shown.
    hidden: u64,
}

impl Outputs {
    fn new(args: &RunImageArgs) -> Result<Outputs, Failure> {
        let trace: Option<Box<dyn Write>> = match &args.trace_exec {
            None => None,
            Some(None) => Some(Box::new(BufWriter::new(std::io::stderr()))),
            Some(Some(path)) => {
                let file = std::fs::File::create(path).map_err(|e| file_failure(path, &e))?;
                Some(Box::new(BufWriter::with_capacity(1 << 16, file)))
            }
        };
        Ok(Outputs {
            console: match args.json {
                true => Box::new(std::io::stderr()),
                false => Box::new(std::io::stdout()),
            },
            chosen: args.console,
            trace,
            show_posts: args.post,
            posts_shown: 0,
            hidden: 0,
        })
    }

    /// Shows what the image wrote since last time.
    fn console(&mut self, machine: &mut Bare) -> Result<crate::output::Reader, Failure> {
        let (posts, _) = machine.board().posts();
        if self.show_posts {
            for code in &posts[self.posts_shown as usize..] {
                eprintln!("post {code:02x}");
            }
        }
        self.posts_shown = posts.len() as u64;
        let written = machine.board_mut().take_output();
        if written.is_empty() {
            return Ok(crate::output::Reader::There);
        }
        let mut bytes = Vec::with_capacity(written.len());
        for (from, byte) in written {
            // The first console that is used is the one that is shown.
            if self.chosen == ConsoleArg::Auto {
                self.chosen = match from {
                    Console::Serial => ConsoleArg::Serial,
                    Console::PortE9 => ConsoleArg::E9,
                };
            }
            let shown = match (self.chosen, from) {
                (ConsoleArg::Serial, Console::Serial) | (ConsoleArg::E9, Console::PortE9) => true,
                (choice, _) => choice == ConsoleArg::Both,
            };
            match shown {
                true => bytes.push(byte),
                false => self.hidden += 1,
            }
        }
        match self
            .console
            .write_all(&bytes)
            .and_then(|()| self.console.flush())
        {
            Ok(()) => Ok(crate::output::Reader::There),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(crate::output::Reader::Gone),
            Err(e) => Err(Failure::Output(e)),
        }
    }

    fn trace(&mut self, lines: &str) -> Result<(), Failure> {
        match &mut self.trace {
            Some(file) => file.write_all(lines.as_bytes()).map_err(Failure::Output),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match &mut self.trace {
            Some(file) => file.flush().map_err(Failure::Output),
            None => Ok(()),
        }
    }
}

/// What is said at the end.
struct Report<'a> {
    args: &'a RunImageArgs,
    image: &'a BareImage,
    machine: &'a Bare,
    preset: Option<&'a Preset>,
    over: &'a Over,
    hidden: u64,
}

impl Report<'_> {
    fn count(&self, event: Event) -> u64 {
        self.machine.cpu().mmu.account.total(event)
    }

    fn text(&self) -> String {
        let cpu = self.machine.cpu();
        let tally = self.machine.board().tally();
        let mut out = format!(
            "lowmem: {} ({}): {}\n",
            self.args.image.display(),
            self.image.format().name(),
            self.over.sentence()
        );
        if let Over::Ended(End::TripleFault(dump)) = self.over {
            out.push_str(&registers(dump));
        } else {
            let cs = cpu.segment(emu_cpu::Seg::Cs);
            out.push_str(&format!(
                "at {:04x}:{:08x} (linear {:08x}), cpl {}\n",
                cs.selector,
                cpu.eip,
                cs.base.wrapping_add(cpu.eip),
                cpu.cpl()
            ));
        }
        out.push_str(&format!(
            "{} instructions, {} with each repetition of a string instruction counted as one\n",
            grouped(cpu.retired()),
            grouped(self.machine.work())
        ));
        if tally.interrupts != 0 || self.machine.board().skipped() != 0 {
            out.push_str(&format!(
                "{} interrupts, {} timer edges; {} instructions' worth of time skipped in hlt\n",
                grouped(tally.interrupts),
                grouped(tally.timer_edges),
                grouped(self.machine.board().skipped())
            ));
        }
        if self.hidden != 0 {
            out.push_str(&format!(
                "{} bytes of the other console not shown (--console both shows them)\n",
                grouped(self.hidden)
            ));
        }
        if let Some(preset) = self.preset {
            let prices = preset.prices(Variant::Mid);
            let table = prices.price(&cpu.mmu.account);
            out.push_str(&format!(
                "{} cycles on {}:",
                grouped(table.total()),
                preset.name()
            ));
            for cause in Cause::ALL {
                if table.cause(cause) != 0 {
                    out.push_str(&format!(
                        " {} {}",
                        cause.name(),
                        grouped(table.cause(cause))
                    ));
                }
            }
            out.push('\n');
            for (name, accesses, misses) in [
                ("ITLB", Event::ItlbAccess, Event::ItlbMiss),
                ("DTLB", Event::DtlbAccess, Event::DtlbMiss),
            ] {
                out.push_str(&format!(
                    "{name} {} accesses, {} misses; ",
                    grouped(self.count(accesses)),
                    grouped(self.count(misses))
                ));
            }
            let [loads, stores, fetches] = self.levels();
            out.push_str(&format!(
                "data L1 {}, L2 {}, L3 {}, memory {}; code L1 {}, L2 {}, L3 {}, memory {}\n",
                grouped(loads[0] + stores[0]),
                grouped(loads[1] + stores[1]),
                grouped(loads[2] + stores[2]),
                grouped(loads[3] + stores[3]),
                grouped(fetches[0]),
                grouped(fetches[1]),
                grouped(fetches[2]),
                grouped(fetches[3]),
            ));
        }
        out
    }

    /// Loads, stores, fetches by the level that answered: L1, L2, L3, memory.
    fn levels(&self) -> [[u64; 4]; 3] {
        use Event::*;
        let sum = |events: &[Event]| events.iter().map(|&e| self.count(e)).sum();
        [
            [
                sum(&[LoadL1]),
                sum(&[LoadL2]),
                sum(&[LoadL3]),
                sum(&[LoadMemoryOpen, LoadMemoryRandom, LoadStream]),
            ],
            [
                sum(&[StoreL1]),
                sum(&[StoreL2]),
                sum(&[StoreL3]),
                sum(&[StoreMemoryOpen, StoreMemoryRandom, StoreStream]),
            ],
            [
                sum(&[FetchL1]) + (self.count(TcAccess) - self.count(TcMiss)),
                sum(&[FetchL2]),
                sum(&[FetchL3]),
                sum(&[FetchMemoryOpen, FetchMemoryRandom, FetchStream]),
            ],
        ]
    }

    fn json(&self) -> Value {
        let cpu = self.machine.cpu();
        let board = self.machine.board();
        let tally = board.tally();
        let (posts, posts_in_all) = board.posts();
        let dump = match self.over {
            Over::Ended(End::TripleFault(dump)) => (**dump).clone(),
            _ => cpu.dump(),
        };
        let by_level = |n: [u64; 4]| json!({"l1": n[0], "l2": n[1], "l3": n[2], "memory": n[3]});
        let counted = self.preset.map(|preset| {
            let table = preset.prices(Variant::Mid).price(&cpu.mmu.account);
            let by: Map<String, Value> = Cause::ALL
                .iter()
                .map(|&c| (c.name().to_owned(), json!(table.cause(c))))
                .collect();
            let events: Map<String, Value> = Event::ALL
                .iter()
                .map(|&e| (e.name().to_owned(), json!(self.count(e))))
                .collect();
            let [loads, stores, fetches] = self.levels();
            json!({
                "cycles": {"total": table.total(), "by": by},
                "tlb": {
                    "itlb": {"accesses": self.count(Event::ItlbAccess), "misses": self.count(Event::ItlbMiss)},
                    "dtlb": {"accesses": self.count(Event::DtlbAccess), "misses": self.count(Event::DtlbMiss)},
                },
                "caches": {
                    "loads": by_level(loads), "stores": by_level(stores), "fetches": by_level(fetches),
                },
                "events": events,
            })
        });
        json!({
            "schema": SCHEMA,
            "tool": {"version": env!("CARGO_PKG_VERSION")},
            "image": {"format": self.image.format().name(), "bytes": self.image.bytes().len()},
            "machine": {
                "ram_bytes": cpu.mmu.mem.ram_bytes(),
                "cpu": self.preset.map_or(NONE, Preset::name),
            },
            "outcome": self.over.name(),
            "status": self.over.status(),
            "reason": self.over.sentence(),
            "registers": registers_json(&dump),
            "instructions": cpu.retired(),
            "rep_iterations": self.machine.work() - cpu.retired(),
            "skipped_instructions": board.skipped(),
            "interrupts": tally.interrupts,
            "timer_edges": tally.timer_edges,
            "resets": self.machine.resets(),
            "console": {
                "serial_bytes": tally.serial_bytes,
                "e9_bytes": tally.e9_bytes,
                "hidden_bytes": self.hidden,
            },
            "unmapped_port_accesses": tally.unmapped_ports,
            "post": {"codes": posts, "in_all": posts_in_all},
            "counted": counted,
        })
    }
}

const REGISTERS: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
const CONTROL: [&str; 4] = ["cr0", "cr2", "cr3", "cr4"];

/// A dump in four lines.
fn registers(d: &emu_cpu::Dump) -> String {
    let line = |names: &[&str], values: &[u32], width: usize| {
        let parts: Vec<String> = names
            .iter()
            .zip(values)
            .map(|(n, v)| format!("{n} {v:0width$x}"))
            .collect();
        format!("  {}\n", parts.join("  "))
    };
    let selectors = d.selectors.map(u32::from);
    let vectors: Vec<String> = d.vectors.iter().map(|v| format!("{v:#x}")).collect();
    [
        line(&REGISTERS[..4], &d.regs[..4], 8),
        line(&REGISTERS[4..], &d.regs[4..], 8),
        format!(
            "  eip {:08x}  eflags {:08x}  cpl {}  vectors that could not be delivered: {}\n",
            d.eip,
            d.eflags,
            d.cpl,
            vectors.join(", ")
        ),
        line(&SEGMENTS, &selectors, 4),
        line(&CONTROL, &d.control, 8),
    ]
    .concat()
}

fn registers_json(d: &emu_cpu::Dump) -> Value {
    let mut map = Map::new();
    let mut put = |name: &str, value: u32| {
        map.insert(name.to_owned(), json!(value));
    };
    for (n, v) in REGISTERS.iter().zip(d.regs) {
        put(n, v);
    }
    put("eip", d.eip);
    put("eflags", d.eflags);
    put("cpl", d.cpl.into());
    for (n, v) in SEGMENTS.iter().zip(d.selectors) {
        put(n, v.into());
    }
    for (n, v) in CONTROL.iter().zip(d.control) {
        put(n, v);
    }
    Value::Object(map)
}
