//! The one schema of CPU presets: every key, its kind, its unit and one sentence.
//!
//! A preset states every key that applies to it. Which keys apply depends on others (a trace cache has no `l1i`
//! keys); `build` asks for what it needs and names what is missing.
//!
//! Invariant: a key that is not in [`KEYS`] cannot be stated, set or priced.

/// What values a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within bounds, inclusive.
    Integer(u32, u32),
    /// A number with up to three decimals within bounds, inclusive; may have a bracket (`low`, `high`).
    Decimal(u32, u32),
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Dotted name: `table.key`.
    pub name: &'static str,
    /// Its values.
    pub kind: Kind,
    /// Unit, or an empty string.
    pub unit: &'static str,
    /// One sentence.
    pub sentence: &'static str,
}

const fn integer(name: &'static str, max: u32, unit: &'static str, sentence: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Integer(0, max),
        unit,
        sentence,
    }
}

const fn cycles(name: &'static str, sentence: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Decimal(0, 1_000_000),
        unit: "cycles",
        sentence,
    }
}

const fn decimal(
    name: &'static str,
    bounds: (u32, u32),
    unit: &'static str,
    sentence: &'static str,
) -> Key {
    Key {
        name,
        kind: Kind::Decimal(bounds.0, bounds.1),
        unit,
        sentence,
    }
}

const fn word(name: &'static str, words: &'static [&'static str], sentence: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Word(words),
        unit: "",
        sentence,
    }
}

const fn flag(name: &'static str, sentence: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Flag,
        unit: "",
        sentence,
    }
}

const LARGE: &[&str] = &["separate", "shared", "fragment4k"];
const REPLACEMENT: &[&str] = &["lru", "plru"];

/// Every key, in the order in which a preset is shown.
pub const KEYS: &[Key] = &[
    decimal("clock_mhz", (1, 100_000), "MHz", "Core clock."),
    Key {
        name: "cpu.maxphyaddr",
        kind: Kind::Integer(32, 52),
        unit: "bits",
        sentence: "Physical address bits.",
    },
    flag("cpu.nx", "EFER.NXE can be set."),
    flag("cpu.pge", "Global pages exist."),
    flag("cpu.sep", "sysenter exists."),
    integer(
        "itlb.entries",
        65_536,
        "entries",
        "Instruction TLB for 4 KB pages.",
    ),
    integer(
        "itlb.ways",
        65_536,
        "ways",
        "Its associativity; as many as entries is full.",
    ),
    word("itlb.large", LARGE, "Where 2 MB pages of code go."),
    integer(
        "itlb.large_entries",
        65_536,
        "entries",
        "Separate entries for 2 MB pages of code.",
    ),
    integer("itlb.large_ways", 65_536, "ways", "Their associativity."),
    integer(
        "itlb.second_entries",
        65_536,
        "entries",
        "Second-level instruction TLB, 0 for none.",
    ),
    integer("itlb.second_ways", 65_536, "ways", "Its associativity."),
    cycles(
        "itlb.second_hit",
        "A first-level miss that looks into the second level.",
    ),
    integer(
        "dtlb.entries",
        65_536,
        "entries",
        "Data TLB for 4 KB pages.",
    ),
    integer(
        "dtlb.ways",
        65_536,
        "ways",
        "Its associativity; as many as entries is full.",
    ),
    word("dtlb.large", LARGE, "Where 2 MB pages of data go."),
    integer(
        "dtlb.large_entries",
        65_536,
        "entries",
        "Separate entries for 2 MB pages of data.",
    ),
    integer("dtlb.large_ways", 65_536, "ways", "Their associativity."),
    integer(
        "dtlb.second_entries",
        65_536,
        "entries",
        "Second-level data TLB, 0 for none.",
    ),
    integer("dtlb.second_ways", 65_536, "ways", "Its associativity."),
    cycles(
        "dtlb.second_hit",
        "A first-level miss that looks into the second level.",
    ),
    word(
        "tlb.replacement",
        REPLACEMENT,
        "Which entry a full set gives up.",
    ),
    integer(
        "walk.pde_cache",
        4096,
        "entries",
        "Cached page-directory entries, 0 for none.",
    ),
    cycles("walk.base", "A page walk apart from its loads."),
    cycles("walk.dirty_assist", "Setting D on a TLB hit."),
    word(
        "pdpte.read",
        &["cached", "uncached"],
        "How the four PDPTEs are read at a CR3 load.",
    ),
    decimal(
        "pdpte.each_ns",
        (0, 100_000),
        "ns",
        "One uncached PDPTE read.",
    ),
    cycles(
        "pdpte.load",
        "Loading the PDPTEs in all; replaces the price of the single reads.",
    ),
    word(
        "front.kind",
        &["l1i", "trace_cache"],
        "What feeds the decoder.",
    ),
    integer("l1i.kib", 65_536, "KiB", "First-level instruction cache."),
    integer("l1i.ways", 1024, "ways", "Its associativity."),
    integer("l1i.line", 4096, "bytes", "Its line."),
    integer("trace_cache.uops", 1_000_000, "micro-ops", "Trace cache."),
    integer(
        "trace_cache.uops_per_line",
        64,
        "micro-ops",
        "Micro-ops in a trace line.",
    ),
    integer("trace_cache.ways", 1024, "ways", "Its associativity."),
    integer(
        "trace_cache.line_bytes",
        4096,
        "bytes",
        "Code that one trace line is taken to hold.",
    ),
    flag("trace_cache.flush_on_cr3", "A CR3 load empties it."),
    cycles(
        "trace_cache.miss",
        "Decoding one trace line, its bytes being at hand.",
    ),
    integer("l1d.kib", 65_536, "KiB", "First-level data cache."),
    integer("l1d.ways", 1024, "ways", "Its associativity."),
    integer("l1d.line", 4096, "bytes", "Its line."),
    cycles("l1d.latency", "Load to use, first level."),
    integer("l2.kib", 1_048_576, "KiB", "Second-level cache."),
    integer("l2.ways", 1024, "ways", "Its associativity."),
    integer("l2.line", 4096, "bytes", "Its line."),
    cycles("l2.latency", "Load to use, second level."),
    integer("l3.kib", 1_048_576, "KiB", "Third-level cache, 0 for none."),
    integer("l3.ways", 1024, "ways", "Its associativity."),
    integer("l3.line", 4096, "bytes", "Its line."),
    cycles("l3.latency", "Load to use, third level."),
    word(
        "cache.replacement",
        REPLACEMENT,
        "Which line a full set gives up.",
    ),
    cycles(
        "memory.open",
        "Load to use, memory in an open DRAM page (or memory.open_ns).",
    ),
    decimal("memory.open_ns", (0, 100_000), "ns", "The same in time."),
    cycles(
        "memory.random",
        "Load to use, memory in another DRAM page (or memory.random_ns).",
    ),
    decimal("memory.random_ns", (0, 100_000), "ns", "The same in time."),
    decimal(
        "memory.stream_bytes_per_cycle",
        (0, 1000),
        "bytes/cycle",
        "Bandwidth of an ascending run.",
    ),
    integer("memory.dram_page_bytes", 1 << 20, "bytes", "A DRAM page."),
    integer(
        "store.miss_percent",
        100,
        "%",
        "Share of a store miss that the store buffer does not hide.",
    ),
    integer(
        "fetch.l2_percent",
        100,
        "%",
        "Share of a fetch answered by L2 that is not hidden; deeper ones are charged in full.",
    ),
    integer(
        "branch.btb_entries",
        1 << 20,
        "entries",
        "Branch target buffer.",
    ),
    integer("branch.return_stack", 1024, "entries", "Return stack."),
    cycles("branch.mispredict", "A mispredicted branch."),
    decimal(
        "tick.cpi",
        (0, 1000),
        "cycles",
        "Cycles per instruction, to turn HZ into instructions per tick.",
    ),
    cycles("insn.user", "An instruction of a trace in ring 3."),
    cycles(
        "insn.simple",
        "mov, add, lea, test, push, pop, jcc not taken ...",
    ),
    cycles("insn.taken", "A taken jump, call or return."),
    cycles("insn.pusha", "pusha, popa."),
    cycles("insn.imul", "imul with a 32-bit result."),
    cycles("insn.mul", "mul, imul with a double-width result."),
    cycles("insn.div", "div, idiv."),
    cycles("insn.bit_scan", "bsf, bsr."),
    cycles(
        "insn.shift_double",
        "shld, shrd and long rotates through carry.",
    ),
    cycles("insn.cmpxchg", "cmpxchg, xadd without lock."),
    cycles("insn.cmpxchg8b", "cmpxchg8b without lock."),
    cycles("insn.microcoded", "leave, enter, bound, xlat and the like."),
    cycles("insn.cli", "cli."),
    cycles("insn.sti", "sti."),
    cycles("insn.pushf", "pushf."),
    cycles("insn.popf", "popf."),
    cycles("insn.cld", "cld, std."),
    cycles("insn.lahf", "lahf, sahf."),
    cycles("insn.rdtsc", "rdtsc."),
    cycles("insn.cpuid", "cpuid."),
    cycles("insn.rdmsr", "rdmsr."),
    cycles("insn.wrmsr", "wrmsr."),
    cycles("insn.read_cr", "mov from a control register."),
    cycles("insn.mov_cr0", "mov to cr0, lmsw."),
    cycles("insn.mov_cr2", "mov to cr2."),
    cycles("insn.mov_cr3", "mov to cr3, without the PDPTEs."),
    cycles("insn.mov_cr4", "mov to cr4."),
    cycles("insn.clts", "clts."),
    cycles("insn.invlpg", "invlpg."),
    cycles("insn.lgdt", "lgdt."),
    cycles("insn.lidt", "lidt."),
    cycles("insn.lldt", "lldt."),
    cycles("insn.ltr", "ltr."),
    cycles("insn.load_seg", "Loading a segment register."),
    cycles("insn.far", "A far jump, call or return."),
    cycles("insn.port", "in, out."),
    cycles("insn.hlt", "hlt."),
    cycles("insn.wbinvd", "wbinvd."),
    cycles("insn.mfence", "mfence."),
    cycles("insn.lfence", "lfence."),
    cycles("insn.sfence", "sfence."),
    cycles("lock.rmw", "A locked read-modify-write."),
    cycles("lock.xchg", "xchg with memory."),
    cycles("lock.cmpxchg8b", "lock cmpxchg8b."),
    cycles("rep.start", "Starting a repeated string instruction."),
    decimal(
        "rep.movs_bytes_per_cycle",
        (0, 1000),
        "bytes/cycle",
        "rep movs in L1.",
    ),
    decimal(
        "rep.stos_bytes_per_cycle",
        (0, 1000),
        "bytes/cycle",
        "rep stos in L1.",
    ),
    cycles(
        "rep.other",
        "An element of rep lods, scas, cmps, ins, outs.",
    ),
    cycles("entry.int", "int n through a gate."),
    cycles("entry.exception", "An exception other than #PF."),
    cycles("entry.page_fault", "A page fault."),
    cycles("entry.irq", "An external interrupt."),
    cycles("entry.iret", "iret from a call or fault."),
    cycles("entry.irq_iret", "iret from an interrupt."),
    cycles("entry.sysenter", "sysenter."),
    cycles("entry.sysexit", "sysexit."),
    integer(
        "disk.seek_us",
        1_000_000,
        "us",
        "Average seek of the disk that swap and files are on.",
    ),
    integer("disk.rotation_us", 1_000_000, "us", "Half a revolution."),
    integer(
        "disk.page_us",
        1_000_000,
        "us",
        "Transfer of 4 KB where the last one ended.",
    ),
];

/// The key called `name`.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}
