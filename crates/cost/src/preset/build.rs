//! From entries to a geometry, and to the plain numbers that prices are derived from.
//!
//! Invariant: everything a machine or a price list needs is asked for here, so a preset that builds is complete.

use super::schema::KEYS;
use super::value::{Entry, Milli, Value};
use super::{PresetError, Variant};
use crate::geometry::{
    BranchGeometry, CacheGeometry, FrontEnd, LargePages, PdpteRead, Replacement, SetAssoc,
    TlbGeometry,
};
use crate::{Event, Geometry};
use std::collections::BTreeMap;

type Entries = BTreeMap<&'static str, Entry>;

/// Looks values up and names what is missing.
struct Lookup<'a> {
    name: &'a str,
    entries: &'a Entries,
    variant: Variant,
}

impl Lookup<'_> {
    fn fail(&self, key: &'static str, message: impl Into<String>) -> PresetError {
        PresetError::Incomplete {
            name: self.name.to_owned(),
            key,
            message: message.into(),
        }
    }

    fn entry(&self, key: &'static str) -> Result<&Entry, PresetError> {
        debug_assert!(KEYS.iter().any(|k| k.name == key), "{key} is in the schema");
        self.entries
            .get(key)
            .ok_or_else(|| self.fail(key, "is missing"))
    }

    fn milli(&self, key: &'static str) -> Result<u64, PresetError> {
        match &self.entry(key)?.value {
            Value::Number { mid, bracket } => {
                let (low, high) = bracket.unwrap_or((*mid, *mid));
                let Milli(n) = match self.variant {
                    Variant::Low => low,
                    Variant::Mid => *mid,
                    Variant::High => high,
                };
                Ok(n)
            }
            Value::Word(_) | Value::Flag(_) => Err(self.fail(key, "must be a number")),
        }
    }

    fn integer(&self, key: &'static str) -> Result<u32, PresetError> {
        let n = self.milli(key)? / 1000;
        u32::try_from(n).map_err(|_| self.fail(key, "is too large"))
    }

    fn positive(&self, key: &'static str) -> Result<u32, PresetError> {
        match self.integer(key)? {
            0 => Err(self.fail(key, "must not be 0")),
            n => Ok(n),
        }
    }

    fn flag(&self, key: &'static str) -> Result<bool, PresetError> {
        match self.entry(key)?.value {
            Value::Flag(flag) => Ok(flag),
            _ => Err(self.fail(key, "must be true or false")),
        }
    }

    fn word(&self, key: &'static str) -> Result<&str, PresetError> {
        match &self.entry(key)?.value {
            Value::Word(word) => Ok(word),
            _ => Err(self.fail(key, "must be a word")),
        }
    }

    fn replacement(&self, key: &'static str) -> Result<Replacement, PresetError> {
        Ok(match self.word(key)? {
            "lru" => Replacement::Lru,
            _ => Replacement::Plru,
        })
    }

    fn set_assoc(
        &self,
        entries: &'static str,
        ways: &'static str,
    ) -> Result<SetAssoc, PresetError> {
        let out = SetAssoc {
            entries: self.positive(entries)?,
            ways: self.positive(ways)?,
        };
        if !out.entries.is_multiple_of(out.ways) {
            return Err(self.fail(ways, format!("must divide {} entries", out.entries)));
        }
        Ok(out)
    }

    fn tlb(&self, k: &TlbKeys) -> Result<TlbGeometry, PresetError> {
        let second = match self.integer(k.second_entries)? {
            0 => None,
            _ => Some(self.set_assoc(k.second_entries, k.second_ways)?),
        };
        let large = match self.word(k.large)? {
            "separate" => LargePages::Separate(self.set_assoc(k.large_entries, k.large_ways)?),
            "shared" => LargePages::Shared,
            _ => LargePages::Fragment4k,
        };
        Ok(TlbGeometry {
            small: self.set_assoc(k.entries, k.ways)?,
            large,
            second,
        })
    }

    fn cache(&self, k: &CacheKeys) -> Result<CacheGeometry, PresetError> {
        let out = CacheGeometry {
            kib: self.positive(k.kib)?,
            ways: self.positive(k.ways)?,
            line: self.positive(k.line)?,
        };
        if !out.line.is_power_of_two() || out.line < 16 {
            return Err(self.fail(k.line, "must be a power of two from 16"));
        }
        if !(u64::from(out.kib) * 1024).is_multiple_of(u64::from(out.line) * u64::from(out.ways)) {
            return Err(self.fail(k.ways, "does not divide the cache into whole sets"));
        }
        Ok(out)
    }

    /// Memory latency in thousandths of a cycle, stated in cycles or in ns.
    fn memory(&self, cycles: &'static str, ns: &'static str) -> Result<u64, PresetError> {
        if self.entries.contains_key(cycles) {
            return self.milli(cycles);
        }
        if !self.entries.contains_key(ns) {
            return Err(self.fail(cycles, format!("is missing, and so is {ns}")));
        }
        self.ns(ns)
    }

    /// A time in thousandths of a cycle.
    fn ns(&self, key: &'static str) -> Result<u64, PresetError> {
        Ok(self.milli(key)? * self.milli("clock_mhz")? / 1_000_000)
    }

    fn above(&self, key: &'static str, floor: u64) -> Result<u64, PresetError> {
        match self.milli(key)? {
            n if n < floor => Err(self.fail(key, "must not be less than the level before it")),
            n => Ok(n),
        }
    }

    fn rate(&self, key: &'static str) -> Result<u64, PresetError> {
        match self.milli(key)? {
            0 => Err(self.fail(key, "must not be 0")),
            n => Ok(n),
        }
    }
}

struct TlbKeys {
    entries: &'static str,
    ways: &'static str,
    large: &'static str,
    large_entries: &'static str,
    large_ways: &'static str,
    second_entries: &'static str,
    second_ways: &'static str,
}

const ITLB: TlbKeys = TlbKeys {
    entries: "itlb.entries",
    ways: "itlb.ways",
    large: "itlb.large",
    large_entries: "itlb.large_entries",
    large_ways: "itlb.large_ways",
    second_entries: "itlb.second_entries",
    second_ways: "itlb.second_ways",
};
const DTLB: TlbKeys = TlbKeys {
    entries: "dtlb.entries",
    ways: "dtlb.ways",
    large: "dtlb.large",
    large_entries: "dtlb.large_entries",
    large_ways: "dtlb.large_ways",
    second_entries: "dtlb.second_entries",
    second_ways: "dtlb.second_ways",
};

struct CacheKeys {
    kib: &'static str,
    ways: &'static str,
    line: &'static str,
}

const L1I: CacheKeys = CacheKeys {
    kib: "l1i.kib",
    ways: "l1i.ways",
    line: "l1i.line",
};
const L1D: CacheKeys = CacheKeys {
    kib: "l1d.kib",
    ways: "l1d.ways",
    line: "l1d.line",
};
const L2: CacheKeys = CacheKeys {
    kib: "l2.kib",
    ways: "l2.ways",
    line: "l2.line",
};
const L3: CacheKeys = CacheKeys {
    kib: "l3.kib",
    ways: "l3.ways",
    line: "l3.line",
};

/// The geometry that `entries` state.
pub(super) fn geometry(name: &str, entries: &Entries) -> Result<Geometry, PresetError> {
    let l = Lookup {
        name,
        entries,
        variant: Variant::Mid,
    };
    let front_end = match l.word("front.kind")? {
        "l1i" => FrontEnd::L1i(l.cache(&L1I)?),
        _ => {
            let uops = l.positive("trace_cache.uops")?;
            let ways = l.positive("trace_cache.ways")?;
            let lines = uops / l.positive("trace_cache.uops_per_line")?;
            if lines == 0 || !lines.is_multiple_of(ways) {
                return Err(l.fail("trace_cache.ways", format!("must divide {lines} lines")));
            }
            let line_bytes = l.positive("trace_cache.line_bytes")?;
            if !line_bytes.is_power_of_two() {
                return Err(l.fail("trace_cache.line_bytes", "must be a power of two"));
            }
            FrontEnd::TraceCache {
                lines,
                ways,
                line_bytes,
                flush_on_cr3: l.flag("trace_cache.flush_on_cr3")?,
            }
        }
    };
    let maxphyaddr = l.integer("cpu.maxphyaddr")?;
    Ok(Geometry {
        maxphyaddr: u8::try_from(maxphyaddr)
            .map_err(|_| l.fail("cpu.maxphyaddr", "is too large"))?,
        nx: l.flag("cpu.nx")?,
        pge: l.flag("cpu.pge")?,
        sep: l.flag("cpu.sep")?,
        itlb: l.tlb(&ITLB)?,
        dtlb: l.tlb(&DTLB)?,
        tlb_replacement: l.replacement("tlb.replacement")?,
        pde_cache: l.integer("walk.pde_cache")?,
        pdpte_read: match l.word("pdpte.read")? {
            "cached" => PdpteRead::Cached,
            _ => PdpteRead::Uncached,
        },
        front_end,
        l1d: l.cache(&L1D)?,
        l2: l.cache(&L2)?,
        l3: match l.integer("l3.kib")? {
            0 => None,
            _ => Some(l.cache(&L3)?),
        },
        cache_replacement: l.replacement("cache.replacement")?,
        dram_page_bytes: l.positive("memory.dram_page_bytes")?,
        branch: BranchGeometry {
            btb_entries: l.positive("branch.btb_entries")?,
            return_stack: l.positive("branch.return_stack")?,
        },
    })
}

/// Plain numbers, in thousandths of a cycle unless said: what [`crate::Prices::derive`] works on.
#[derive(Debug, Clone)]
pub(crate) struct Numbers {
    /// Cost of each event that is a key of its own; index by `Event as usize`.
    pub(crate) direct: [u64; Event::COUNT],
    /// Load to use of L1, L2, L3 (equal to L2's without one), open memory, random memory.
    pub(crate) l1: u64,
    pub(crate) l2: u64,
    pub(crate) l3: u64,
    pub(crate) open: u64,
    pub(crate) random: u64,
    /// A line of an ascending run.
    pub(crate) stream: u64,
    /// Percent of a store miss, and of a fetch answered by L2, that is charged.
    pub(crate) store_percent: u64,
    pub(crate) fetch_percent: u64,
    /// One uncached PDPTE read, and a load of all four when the preset states only that.
    pub(crate) pdpte_each: u64,
    pub(crate) pdpte_load: Option<u64>,
    /// Thousandths of a byte per cycle.
    pub(crate) movs_rate: u64,
    pub(crate) stos_rate: u64,
}

/// The numbers that `entries` state, at one end of their brackets.
pub(super) fn numbers(
    name: &str,
    entries: &Entries,
    variant: Variant,
) -> Result<Numbers, PresetError> {
    let l = Lookup {
        name,
        entries,
        variant,
    };
    let mut direct = [0; Event::COUNT];
    for &(event, key) in DIRECT {
        direct[event as usize] = l.milli(key)?;
    }
    // The machine counts one kind of iret; what an interrupt's costs more is charged at its delivery.
    direct[Event::EntryIrq as usize] += l
        .milli("entry.irq_iret")?
        .saturating_sub(l.milli("entry.iret")?);
    let second = |entries: &'static str, hit: &'static str| match l.integer(entries)? {
        0 => Ok(0),
        _ => l.milli(hit),
    };
    direct[Event::Itlb2Access as usize] = second("itlb.second_entries", "itlb.second_hit")?;
    direct[Event::Dtlb2Access as usize] = second("dtlb.second_entries", "dtlb.second_hit")?;
    if l.word("front.kind")? == "trace_cache" {
        direct[Event::TcMiss as usize] = l.milli("trace_cache.miss")?;
    }
    let l1 = l.above("l1d.latency", 1000)?;
    let l2 = l.above("l2.latency", l1)?;
    let l3 = match l.integer("l3.kib")? {
        0 => l2,
        _ => l.above("l3.latency", l2)?,
    };
    let open = l.memory("memory.open", "memory.open_ns")?;
    let random = l.memory("memory.random", "memory.random_ns")?;
    if open < l3 || random < open {
        return Err(l.fail(
            "memory.open",
            "memory must not be faster than the caches, nor random than open",
        ));
    }
    // Checked here because the tick and the disk are asked for later without a way to fail.
    l.rate("clock_mhz")?;
    l.rate("tick.cpi")?;
    for key in ["disk.seek_us", "disk.rotation_us", "disk.page_us"] {
        l.integer(key)?;
    }
    let line = u64::from(l.positive("l1d.line")?);
    let pdpte_load = match entries.contains_key("pdpte.load") {
        true => Some(l.milli("pdpte.load")?),
        false => None,
    };
    Ok(Numbers {
        direct,
        l1,
        l2,
        l3,
        open,
        random,
        stream: line * 1_000_000 / l.rate("memory.stream_bytes_per_cycle")?,
        store_percent: u64::from(l.integer("store.miss_percent")?),
        fetch_percent: u64::from(l.integer("fetch.l2_percent")?),
        pdpte_each: match (pdpte_load, l.word("pdpte.read")?) {
            (None, "uncached") => l.ns("pdpte.each_ns")?,
            _ => 0,
        },
        pdpte_load,
        movs_rate: l.rate("rep.movs_bytes_per_cycle")?,
        stos_rate: l.rate("rep.stos_bytes_per_cycle")?,
    })
}

/// Events whose price is a key of its own.
const DIRECT: &[(Event, &str)] = &[
    (Event::UserInstructions, "insn.user"),
    (Event::InsnSimple, "insn.simple"),
    (Event::InsnTaken, "insn.taken"),
    (Event::InsnPusha, "insn.pusha"),
    (Event::InsnImul, "insn.imul"),
    (Event::InsnMul, "insn.mul"),
    (Event::InsnDiv, "insn.div"),
    (Event::InsnBitScan, "insn.bit_scan"),
    (Event::InsnShiftDouble, "insn.shift_double"),
    (Event::InsnCmpxchg, "insn.cmpxchg"),
    (Event::InsnCmpxchg8b, "insn.cmpxchg8b"),
    (Event::InsnMicrocoded, "insn.microcoded"),
    (Event::InsnCli, "insn.cli"),
    (Event::InsnSti, "insn.sti"),
    (Event::InsnPushf, "insn.pushf"),
    (Event::InsnPopf, "insn.popf"),
    (Event::InsnCld, "insn.cld"),
    (Event::InsnLahf, "insn.lahf"),
    (Event::InsnRdtsc, "insn.rdtsc"),
    (Event::InsnCpuid, "insn.cpuid"),
    (Event::InsnRdmsr, "insn.rdmsr"),
    (Event::InsnWrmsr, "insn.wrmsr"),
    (Event::InsnReadCr, "insn.read_cr"),
    (Event::InsnMovCr0, "insn.mov_cr0"),
    (Event::InsnMovCr2, "insn.mov_cr2"),
    (Event::InsnMovCr3, "insn.mov_cr3"),
    (Event::InsnMovCr4, "insn.mov_cr4"),
    (Event::InsnClts, "insn.clts"),
    (Event::InsnInvlpg, "insn.invlpg"),
    (Event::InsnLgdt, "insn.lgdt"),
    (Event::InsnLidt, "insn.lidt"),
    (Event::InsnLldt, "insn.lldt"),
    (Event::InsnLtr, "insn.ltr"),
    (Event::InsnLoadSeg, "insn.load_seg"),
    (Event::InsnFar, "insn.far"),
    (Event::InsnPort, "insn.port"),
    (Event::InsnHlt, "insn.hlt"),
    (Event::InsnWbinvd, "insn.wbinvd"),
    (Event::InsnMfence, "insn.mfence"),
    (Event::InsnLfence, "insn.lfence"),
    (Event::InsnSfence, "insn.sfence"),
    (Event::LockRmw, "lock.rmw"),
    (Event::LockXchg, "lock.xchg"),
    (Event::LockCmpxchg8b, "lock.cmpxchg8b"),
    (Event::RepStart, "rep.start"),
    (Event::RepOther, "rep.other"),
    (Event::EntryInt, "entry.int"),
    (Event::EntryException, "entry.exception"),
    (Event::EntryPageFault, "entry.page_fault"),
    (Event::EntryIrq, "entry.irq"),
    (Event::Iret, "entry.iret"),
    (Event::Sysenter, "entry.sysenter"),
    (Event::Sysexit, "entry.sysexit"),
    (Event::Mispredict, "branch.mispredict"),
    (Event::ItlbWalk, "walk.base"),
    (Event::DtlbWalk, "walk.base"),
    (Event::DirtyAssist, "walk.dirty_assist"),
];
