//! The command line.
//!
//! Values of axes are taken as words and looked up later, so that a planned value is answered with "not yet".
//!
//! Invariant: every option of the design is here, built or not.

use crate::capacity_command::CapacityArgs;
use crate::generate_command::GenerateArgs;
use crate::workload::Layout;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lowmem_report::axis::Status;
use lowmem_report::config::{
    AnonVmaReuse, BufferHeads, Build, Entry, FileVmas, Highpte, Kernel, Nonlinear, PageCache,
    Reclaim, Rmap, Split, Stack, YoungFlush,
};
use std::path::PathBuf;

/// Replay a recorded workload on an emulated 32-bit PAE machine and report what each VM design costs.
#[derive(Debug, Parser)]
#[command(name = "lowmem", version, about, long_about = None, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 all rows complete or refused, 3 some row ended otherwise, \
                        2 bad command line, 1 anything else."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every combination of the given axes and compare them
    #[command(after_help = "Examples:\n  \
        lowmem compare\n  \
        lowmem compare traces/lksh.lmt --rmap anon_vma,pte_chain --split 3g1g,4g4g --jobs 2\n  \
        lowmem compare --cpu pentium3,pentium4 --set pdpte.each_ns=275 --json")]
    Compare(CompareArgs),
    /// Run one configuration and print all detail
    #[command(after_help = "Example:\n  \
        lowmem replay traces/mremapfork1.lmt --rmap pte_chain --split 4g4g --check")]
    Replay(ReplayArgs),
    /// Import, describe, print and check traces
    #[command(after_help = "Example:\n  \
        lowmem trace info traces/lksh.lmt")]
    Trace(TraceArgs),
    /// List CPU presets, or show one with the mark and source of every number
    #[command(after_help = "Example:\n  lowmem presets show pentium4 --set l2.latency=20")]
    Presets(PresetsArgs),
    /// Run an image of your own on the bare machine: multiboot, ELF32 or ROM
    #[command(
        after_help = "The machine: RAM flat from 0; COM1, port E9, two 8259s, an 8254, the CMOS clock, a keyboard\n\
        controller without keyboard. Ports where nobody is read ones, so does memory. The console goes\n\
        to stdout, the report to stderr; with --json the other way round. Time is instructions: the\n\
        timer runs at the preset's clock and its assumed cycles per instruction, hlt skips to the next\n\
        tick.\n\n\
        Exit status: odd ones are the image's own: a write of N to port F4 ends the run with\n\
        (N << 1 | 1) & FF, as QEMU's isa-debug-exit does (1 is also an output that cannot be written).\n  \
        0 'Shutdown' written to port 8900   8 --max-instructions reached\n  \
        2 bad command line or image        10 stopped by --stop-at\n  \
        4 triple fault                     12 reset of a machine without rom\n  \
        6 hlt with nothing to wait for     14 fault upon fault without an instruction between\n\
        130 Ctrl-C\n\n\
        Examples:\n  \
        lowmem run kernel.elf --ram 64M\n  \
        lowmem run bios.rom --cpu none --trace-exec=trace.txt --max-instructions 100000\n  \
        lowmem run kernel.elf --stop-at 0x100020 --json"
    )]
    Run(RunImageArgs),
    /// How many processes until memory is gone, and who had it
    #[command(after_help = "Examples:\n  \
        lowmem capacity --segment 256M --ram 8G --limit 200\n  \
        lowmem capacity --segment 2700M --ram 32G --highpte off,on --rmap pte_chain --split 3g1g,4g4g")]
    Capacity(CapacityArgs),
    /// One mechanism, on small workloads made for it
    #[command(after_help = "Example:\n  lowmem measure writeback --rmap pte_chain --json")]
    Measure(MeasureArgs),
    /// Published measurements against ours (not yet)
    #[command(after_help = "Example:\n  lowmem validate --cpu pentium3")]
    Validate(Later),
}

/// Arguments of a subcommand that is not built.
#[derive(Debug, Args)]
pub(crate) struct Later {
    /// Anything.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<String>,
}

/// Help of an axis: what it is and its values that can be run, the default first.
fn one_of<T>(what: &str, values: &[(&'static str, T, Status)]) -> String {
    let built = values.iter().filter(|(.., s)| *s == Status::Built);
    let names: Vec<&str> = built.map(|(name, ..)| *name).collect();
    format!("{what}: {}", names.join(", "))
}

/// The axes: each takes a comma list in `compare`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Axes")]
pub(crate) struct AxisArgs {
    #[arg(long, value_delimiter = ',', value_name = "K", help = one_of("Historic kernels, each sets all axes below", Kernel::VALUES))]
    pub(crate) kernel: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "S", help = one_of("Address-space split", Split::VALUES))]
    pub(crate) split: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "R", help = one_of("Reverse mapping", Rmap::VALUES))]
    pub(crate) rmap: Vec<String>,
    /// RAM, 24M to 64G [default: 4G; 24M where a measurement is about want of memory]
    #[arg(long, value_delimiter = ',', value_name = "SIZE")]
    pub(crate) ram: Vec<String>,
    /// CPU preset: pentium4, pentium3, a .toml file, or none [default: pentium4]
    #[arg(long, value_delimiter = ',', value_name = "C")]
    pub(crate) cpu: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "E", help = one_of("Instruction of a system call", Entry::VALUES))]
    pub(crate) entry: Vec<String>,
    /// Timer interrupts per second [default: 1000]
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub(crate) hz: Vec<u32>,
    #[arg(long, value_delimiter = ',', value_name = "S", help = one_of("Kernel stacks", Stack::VALUES))]
    pub(crate) stack: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "I", help = one_of("Index of a file's vmas", FileVmas::VALUES))]
    pub(crate) file_vmas: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "V", help = one_of("What is unmapped of remapped (nonlinear) vmas to free a page", Nonlinear::VALUES))]
    pub(crate) nonlinear: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "I", help = one_of("Tracking of a file's dirty pages", PageCache::VALUES))]
    pub(crate) page_cache: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "V", help = one_of("Pages of files that have buffer heads", BufferHeads::VALUES))]
    pub(crate) buffer_heads: Vec<String>,
    /// Page clustering (PAGE_MMUSHIFT), log2 of the 4 KB frames of a page: 0 to 4
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub(crate) cluster: Vec<u8>,
    #[arg(long, value_delimiter = ',', value_name = "V", help = one_of("Pte pages in high memory", Highpte::VALUES))]
    pub(crate) highpte: Vec<String>,
    /// Bytes of a pte_chain element: 128, 64, 32 [default: what the cpu's kernel build takes]
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub(crate) chain_line: Vec<u32>,
    #[arg(long, value_delimiter = ',', value_name = "B", help = one_of("Locks and lock prefixes, or none", Build::VALUES))]
    pub(crate) build: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "R", help = one_of("Page reclaim; 2.4 with rmap swap_out", Reclaim::VALUES))]
    pub(crate) reclaim: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "V", help = one_of("TLB flush where page_referenced clears Accessed", YoungFlush::VALUES))]
    pub(crate) young_flush: Vec<String>,
    #[arg(long, value_delimiter = ',', value_name = "V", help = one_of("Fork reuses an ancestor's anon_vma (rmap anon_vma_chain)", AnonVmaReuse::VALUES))]
    pub(crate) anon_vma_reuse: Vec<String>,
    /// Set a number of the CPU preset (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Seed of everything that is drawn [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Pages the unmap probe samples at the trace's peak, 0 for none [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) probe_unmap: Option<u32>,
    /// Read configurations and assumptions back from a result (or one configuration from its echo)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What is assumed where the recording is silent.
#[derive(Debug, Args)]
#[command(next_help_heading = "Assumptions")]
pub(crate) struct AssumptionArgs {
    /// Pages touched again after each return from the kernel [default: 8,4; none where every
    /// reference is recorded]
    #[arg(long, value_name = "DATA,CODE")]
    pub(crate) retouch: Option<String>,
    /// User instructions between kernel entries [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) user_work: Option<u32>,
    /// What one recorded read fault on a file or shared page stands for: none, resident, all
    #[arg(long, value_name = "F")]
    pub(crate) fault_around: Option<String>,
    /// What a recorded vfork becomes: share (as recorded) or fork (a copy)
    #[arg(long, value_name = "V")]
    pub(crate) vfork: Option<String>,
    /// What calls without effect on mappings copy: by_class or none
    #[arg(long, value_name = "C")]
    pub(crate) copied_bytes: Option<String>,
}

/// `lowmem measure`.
#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: MeasureCommand,
}

/// `lowmem measure ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum MeasureCommand {
    /// Unmapping one page against the number of its sharers: cycles, vmas visited, ptes examined of each reverse map
    #[command(
        after_help = "Example:\n  lowmem measure unmap --rmap pte_chain,anon_vma --split 3g1g --sharers 1,100,1000"
    )]
    Unmap(UnmapArgs),
    /// Page cache with tags and with lists: order and time on a disk, the search for dirty pages, fsync beside a flusher
    #[command(after_help = "Example:\n  lowmem measure writeback --rmap pte_chain --split 3g1g")]
    Writeback(WritebackArgs),
    /// Which pages reclaim takes from a trace in too little RAM, by reverse map, decision by decision; where two maps differ, and why
    #[command(
        after_help = "Examples:\n  lowmem measure evictions\n  lowmem measure evictions traces/pygrow1.lmt --ram 24M --rmap anon_vma,pte_chain"
    )]
    Evictions(EvictionArgs),
    /// mremap of pages that fork shared, then swapoff: what each reverse map has to copy
    #[command(after_help = "Example:\n  lowmem measure mremap --rmap anonmm,anon_vma")]
    Mremap(PlainMeasureArgs),
    /// A file shown in another order, under pressure: one nonlinear vma against many vmas against mlock, both sweeps
    #[command(
        after_help = "Example:\n  lowmem measure nonlinear --rmap anon_vma,pte_chain --nonlinear clusters,whole"
    )]
    Nonlinear(PlainMeasureArgs),
}

/// Output forms of `lowmem measure`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct MeasureOutput {
    /// JSON, schema lowmem.measure/1
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// CSV, one line per row of each configuration's tables
    #[arg(long)]
    pub(crate) csv: bool,
}

/// `lowmem measure evictions`.
#[derive(Debug, Args)]
pub(crate) struct EvictionArgs {
    /// The trace [default: swapstorm1, built in]
    pub(crate) trace: Option<PathBuf>,
    /// Axes; every reverse map where none is named, 24M of RAM where none is given.
    #[command(flatten)]
    pub(crate) axes: AxisArgs,
    /// Output.
    #[command(flatten)]
    pub(crate) output: MeasureOutput,
}

/// `lowmem measure mremap` and `nonlinear`.
#[derive(Debug, Args)]
pub(crate) struct PlainMeasureArgs {
    /// Axes; every reverse map where none is named, 24M of RAM where none is given.
    #[command(flatten)]
    pub(crate) axes: AxisArgs,
    /// Output.
    #[command(flatten)]
    pub(crate) output: MeasureOutput,
}

/// `lowmem measure unmap`.
#[derive(Debug, Args)]
pub(crate) struct UnmapArgs {
    /// Axes; the built-in pair of reverse maps and splits where none is named.
    #[command(flatten)]
    pub(crate) axes: AxisArgs,
    /// Sharers of the page, 1 to 5000 [default: 1,3,10,30,100,300,1000]
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub(crate) sharers: Vec<u32>,
    /// Output.
    #[command(flatten)]
    pub(crate) output: MeasureOutput,
}

/// `lowmem measure writeback`.
#[derive(Debug, Args)]
pub(crate) struct WritebackArgs {
    /// Axes; both page caches where none is named.
    #[command(flatten)]
    pub(crate) axes: AxisArgs,
    /// Output.
    #[command(flatten)]
    pub(crate) output: MeasureOutput,
}

/// How to run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Running")]
pub(crate) struct RunArgs {
    /// cycle counts everything; native keeps state only; sampled is not yet
    #[arg(long, value_name = "M", default_value = "cycle")]
    pub(crate) mode: ModeArg,
    /// The interpreter; both count the same
    #[arg(long, value_name = "E", default_value = "fast")]
    pub(crate) engine: EngineArg,
    /// Verify the guest's books against its page tables while running, and what the processes see at
    /// the end, whatever it is, against a plain model of the trace
    #[arg(long)]
    pub(crate) check: bool,
    /// Configurations run at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) jobs: usize,
    /// Say on stderr what the host needed: seconds, memory, operations and instructions per second
    #[arg(long)]
    pub(crate) host_stats: bool,
    /// Repeat with K seeded layouts and give the spread (not yet)
    #[arg(long, value_name = "K")]
    pub(crate) layouts: Option<u32>,
    /// Recorded addresses: as they are, or packed below the smallest user space compared (2g2g, 1g3g)
    #[arg(long, value_name = "L", default_value = "recorded")]
    pub(crate) layout: Layout,
}

/// Output forms.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// JSON, schema lowmem.result/1
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// CSV, one line per configuration
    #[arg(long)]
    pub(crate) csv: bool,
}

/// Run modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// Everything emulated and counted.
    Cycle,
    /// The kernel as host code.
    Native,
    /// Not yet.
    Sampled,
}

/// Interpreters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    /// Blocks, lazy flags.
    Fast,
    /// The plain twin.
    Reference,
}

/// `lowmem compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The trace [default: one recorded from a real program, built in]
    pub(crate) trace: Option<PathBuf>,
    /// Axes.
    #[command(flatten)]
    pub(crate) axes: AxisArgs,
    /// Assumptions.
    #[command(flatten)]
    pub(crate) assumptions: AssumptionArgs,
    /// How to run.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Output.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `lowmem replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Everything `compare` takes; one value per axis.
    #[command(flatten)]
    pub(crate) compare: CompareArgs,
    /// A time series (not yet)
    #[arg(long, value_name = "OPERATIONS")]
    pub(crate) interval: Option<u64>,
}

/// `lowmem trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: TraceCommand,
}

/// `lowmem trace ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Make a trace of recordings: a strace and perf pair, or lackey files; formats are told from content
    #[command(after_help = "Example:\n  \
        lowmem trace import NAME.strace.xz NAME.perf.xz -o NAME.lmt\n  \
        lowmem trace import NAME.*.lackey.xz -o NAME.lmt")]
    Import(ImportArgs),
    /// What is in a trace
    #[command(after_help = "Example:\n  lowmem trace info traces/pygrow1.lmt")]
    Info(InfoArgs),
    /// Print operations, numbers in hexadecimal
    #[command(
        after_help = "Example:\n  lowmem trace view traces/pygrow1.lmt --from 1000 --count 20"
    )]
    View(ViewArgs),
    /// Verify every byte and every operation of a trace
    #[command(after_help = "Example:\n  lowmem trace check traces/pygrow1.lmt")]
    Check(FileArgs),
    /// Make a trace of a described workload
    #[command(
        after_help = "Example:\n  lowmem trace generate worst-case --tasks 50 --vmas 50 -o worst.lmt"
    )]
    Generate(GenerateArgs),
    /// Rewrite a trace in the current format (not yet)
    #[command(after_help = "Example:\n  lowmem trace upgrade old.lmt")]
    Upgrade(Later),
}

/// `lowmem trace import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The recording's files
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The trace to write
    #[arg(short, long, value_name = "OUT.lmt")]
    pub(crate) output: PathBuf,
    /// Name of the trace [default: what the files' names have in common]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// A trace to read.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The trace [default: the built-in one]
    pub(crate) trace: Option<PathBuf>,
}

/// `lowmem trace info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The trace [default: the built-in one]
    pub(crate) trace: Option<PathBuf>,
    /// JSON, schema lowmem.trace/1
    #[arg(long)]
    pub(crate) json: bool,
}

/// `lowmem trace view`.
#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// The trace [default: the built-in one]
    pub(crate) trace: Option<PathBuf>,
    /// First operation
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) from: u64,
    /// How many operations
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) count: u64,
    /// One JSON value per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Formats of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// What the content says.
    Auto,
    /// Multiboot 1.
    Multiboot,
    /// ELF32 executable.
    Elf,
    /// ROM of 64 or 128 KB.
    Rom,
}

/// Consoles of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConsoleArg {
    /// The one the image writes to first.
    Auto,
    /// COM1.
    Serial,
    /// Port E9.
    E9,
    /// Both, as they come.
    Both,
}

/// `lowmem run`.
#[derive(Debug, Args)]
pub(crate) struct RunImageArgs {
    /// The image: multiboot 1 (by ELF or address fields), ELF32 for i386, or a ROM of 64 or 128 KB
    pub(crate) image: PathBuf,
    /// How to load it
    #[arg(long, value_name = "F", default_value = "auto")]
    pub(crate) format: FormatArg,
    /// RAM, 1M to 64G; a ROM needs less than 4G
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub(crate) ram: String,
    /// CPU preset: pentium4, pentium3, a .toml file, or none: no costs, and faster
    #[arg(long, value_name = "C", default_value = "pentium4")]
    pub(crate) cpu: String,
    /// Set a number of the CPU preset (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// The interpreter; both count the same
    #[arg(long, value_name = "E", default_value = "fast")]
    pub(crate) engine: EngineArg,
    /// End after so many instructions, each repetition of a string instruction counted as one, at
    /// the next transfer, page crossing or serialising instruction
    #[arg(long, value_name = "N")]
    pub(crate) max_instructions: Option<u64>,
    /// End before the instruction at this linear address (slow)
    #[arg(long, value_name = "ADDR")]
    pub(crate) stop_at: Option<String>,
    /// A line per instruction: address, bytes, text, changed registers; to stderr or a file (slow)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub(crate) trace_exec: Option<Option<PathBuf>>,
    /// Which of the image's consoles is shown: COM1, port E9
    #[arg(long, value_name = "C", default_value = "auto")]
    pub(crate) console: ConsoleArg,
    /// Bytes that wait to be read from COM1
    #[arg(long, value_name = "FILE")]
    pub(crate) serial_in: Option<PathBuf>,
    /// What the CMOS clock shows at the start [default: 2004-06-16T00:00:00]
    #[arg(long, value_name = "TIME")]
    pub(crate) rtc: Option<String>,
    /// Show codes written to ports 80 and 190 on stderr
    #[arg(long)]
    pub(crate) post: bool,
    /// Say on stderr what the host needed
    #[arg(long)]
    pub(crate) host_stats: bool,
    /// JSON, schema lowmem.run/1
    #[arg(long)]
    pub(crate) json: bool,
}

/// `lowmem presets`.
#[derive(Debug, Args)]
pub(crate) struct PresetsArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<PresetsCommand>,
    /// JSON, schema lowmem.presets/1
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// `lowmem presets ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum PresetsCommand {
    /// Name the presets
    #[command(after_help = "Example:\n  lowmem presets list")]
    List,
    /// Every number of one CPU preset with mark and source, or the axes of a kernel and what of it is not covered
    #[command(
        after_help = "Examples:\n  lowmem presets show pentium3\n  lowmem presets show 2.6.5-aa"
    )]
    Show {
        /// Name of a CPU or kernel preset, or a .toml file
        name: String,
        /// Set a number first (repeatable)
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
}
