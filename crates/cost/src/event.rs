//! The closed list of events a simulation counts.
//!
//! Counting rules are decision D5 of the design: they are the same in every engine and do not depend on prices.
//! Instructions count at retirement; translation and cache events count when they happen, also for an access that
//! then faults and is retried.

/// The column under which an event's price is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Cause {
    /// Execution of instructions.
    Base,
    /// Page walks for instruction fetches.
    ItlbWalk,
    /// Page walks for data.
    DtlbWalk,
    /// Loads of CR3 and of the PDPTE registers.
    Cr3,
    /// First-level cache: load-use delay.
    L1,
    /// Second-level cache.
    L2,
    /// Third-level cache.
    L3,
    /// Main memory.
    Memory,
    /// Locked read-modify-writes.
    Lock,
    /// Mispredicted branches.
    Mispredict,
    /// Serialising and other system instructions.
    Serialise,
    /// String instructions.
    Rep,
    /// Delivery of interrupts and exceptions, and the return from them.
    Entry,
}

impl Cause {
    /// Every cause, in column order.
    pub const ALL: [Cause; 13] = [
        Cause::Base,
        Cause::ItlbWalk,
        Cause::DtlbWalk,
        Cause::Cr3,
        Cause::L1,
        Cause::L2,
        Cause::L3,
        Cause::Memory,
        Cause::Lock,
        Cause::Mispredict,
        Cause::Serialise,
        Cause::Rep,
        Cause::Entry,
    ];
    /// Machine name, the key in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Base => "base",
            Cause::ItlbWalk => "itlb_walk",
            Cause::DtlbWalk => "dtlb_walk",
            Cause::Cr3 => "cr3",
            Cause::L1 => "l1",
            Cause::L2 => "l2",
            Cause::L3 => "l3",
            Cause::Memory => "memory",
            Cause::Lock => "lock",
            Cause::Mispredict => "mispredict",
            Cause::Serialise => "serialise",
            Cause::Rep => "rep",
            Cause::Entry => "entry",
        }
    }
}

/// Why memory was accessed; together with the [`Level`] that answered it names an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A data load (the load half of a read-modify-write counts as a store).
    Load,
    /// A data store.
    Store,
    /// An instruction fetch, or the fill of a trace-cache line.
    Fetch,
    /// The walker, for the ITLB (accessed-bit updates included).
    ItlbWalk,
    /// The walker, for the DTLB (accessed- and dirty-bit updates included).
    DtlbWalk,
    /// Loading the four PDPTE registers.
    Pdpte,
}

/// Which level of the hierarchy answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// First level (data or instruction, as the purpose says).
    L1,
    /// Second level.
    L2,
    /// Third level.
    L3,
    /// Memory, in the DRAM page that was accessed last.
    MemoryOpen,
    /// Memory, in another DRAM page.
    MemoryRandom,
    /// Memory, third or later consecutive line of an ascending run: bandwidth, not latency.
    Stream,
    /// Memory, uncached.
    Uncached,
}

lowmem_stats::declare! {
    /// An event. Discriminants index an [`crate::Account`]'s rows.
    pub enum Event {
        /// Instructions retired by the CPU in ring 0 to 2, or decoded in ring 3.
        Instructions: "instructions", "instructions";
        /// Instructions retired by the trace source in ring 3.
        UserInstructions: "user_instructions", "instructions";
        /// One-cycle integer instructions: mov, add, lea, test, setcc, cmov, push, pop, jcc not taken ...
        InsnSimple: "insn_simple", "instructions";
        /// Taken jumps, calls and returns, near.
        InsnTaken: "insn_taken", "instructions";
        /// pusha, popa, pushad, popad.
        InsnPusha: "insn_pusha", "instructions";
        /// imul with a 32-bit result.
        InsnImul: "insn_imul", "instructions";
        /// mul and imul with a double-width result.
        InsnMul: "insn_mul", "instructions";
        /// div and idiv.
        InsnDiv: "insn_div", "instructions";
        /// bsf and bsr.
        InsnBitScan: "insn_bit_scan", "instructions";
        /// shld, shrd, rcl, rcr by more than one and variable rotates.
        InsnShiftDouble: "insn_shift_double", "instructions";
        /// cmpxchg and xadd without lock prefix.
        InsnCmpxchg: "insn_cmpxchg", "instructions";
        /// cmpxchg8b without lock prefix.
        InsnCmpxchg8b: "insn_cmpxchg8b", "instructions";
        /// Read-modify-writes with a lock prefix, cmpxchg8b apart.
        LockRmw: "lock_rmw", "instructions";
        /// xchg with memory (always locked).
        LockXchg: "lock_xchg", "instructions";
        /// cmpxchg8b with a lock prefix.
        LockCmpxchg8b: "lock_cmpxchg8b", "instructions";
        /// BCD adjustments, xlat, enter, leave, bound, into and other microcoded user instructions.
        InsnMicrocoded: "insn_microcoded", "instructions";
        /// cli.
        InsnCli: "insn_cli", "instructions";
        /// sti.
        InsnSti: "insn_sti", "instructions";
        /// pushf.
        InsnPushf: "insn_pushf", "instructions";
        /// popf.
        InsnPopf: "insn_popf", "instructions";
        /// cld and std.
        InsnCld: "insn_cld", "instructions";
        /// lahf and sahf.
        InsnLahf: "insn_lahf", "instructions";
        /// rdtsc.
        InsnRdtsc: "insn_rdtsc", "instructions";
        /// cpuid.
        InsnCpuid: "insn_cpuid", "instructions";
        /// rdmsr.
        InsnRdmsr: "insn_rdmsr", "instructions";
        /// wrmsr.
        InsnWrmsr: "insn_wrmsr", "instructions";
        /// mov from a control or debug register, smsw.
        InsnReadCr: "insn_read_cr", "instructions";
        /// mov to cr0, lmsw.
        InsnMovCr0: "insn_mov_cr0", "instructions";
        /// mov to cr2, or to a debug register.
        InsnMovCr2: "insn_mov_cr2", "instructions";
        /// mov to cr3, without the loading of the PDPTEs.
        InsnMovCr3: "insn_mov_cr3", "instructions";
        /// mov to cr4.
        InsnMovCr4: "insn_mov_cr4", "instructions";
        /// clts.
        InsnClts: "insn_clts", "instructions";
        /// invlpg.
        InsnInvlpg: "insn_invlpg", "instructions";
        /// lgdt.
        InsnLgdt: "insn_lgdt", "instructions";
        /// lidt.
        InsnLidt: "insn_lidt", "instructions";
        /// lldt.
        InsnLldt: "insn_lldt", "instructions";
        /// ltr.
        InsnLtr: "insn_ltr", "instructions";
        /// Loads of a segment register (mov, pop, lds ...).
        InsnLoadSeg: "insn_load_seg", "instructions";
        /// Far jumps, calls and returns.
        InsnFar: "insn_far", "instructions";
        /// in and out.
        InsnPort: "insn_port", "instructions";
        /// hlt.
        InsnHlt: "insn_hlt", "instructions";
        /// wbinvd and invd.
        InsnWbinvd: "insn_wbinvd", "instructions";
        /// mfence.
        InsnMfence: "insn_mfence", "instructions";
        /// lfence.
        InsnLfence: "insn_lfence", "instructions";
        /// sfence.
        InsnSfence: "insn_sfence", "instructions";
        /// String instructions with a repeat prefix, once each.
        RepStart: "rep_start", "instructions";
        /// Bytes moved by rep movs.
        RepMovsBytes: "rep_movs_bytes", "bytes";
        /// Bytes stored by rep stos.
        RepStosBytes: "rep_stos_bytes", "bytes";
        /// Elements of rep lods, scas, cmps, ins and outs.
        RepOther: "rep_other", "elements";
        /// Software interrupts (int n) delivered through an interrupt or trap gate.
        EntryInt: "entry_int", "deliveries";
        /// Exceptions other than #PF delivered.
        EntryException: "entry_exception", "deliveries";
        /// Page faults delivered.
        EntryPageFault: "entry_page_fault", "deliveries";
        /// External interrupts delivered.
        EntryIrq: "entry_irq", "deliveries";
        /// iret returning from a software interrupt or exception.
        Iret: "iret", "instructions";
        /// sysenter.
        Sysenter: "sysenter", "instructions";
        /// sysexit.
        Sysexit: "sysexit", "instructions";
        /// Branches whose direction or target was mispredicted.
        Mispredict: "mispredict", "branches";
        /// Loads whose result the next instruction reads (whatever level answered).
        LoadUse: "load_use", "loads";

        /// Accesses of the first-level ITLB.
        ItlbAccess: "itlb_access", "accesses";
        /// Misses of the first-level ITLB.
        ItlbMiss: "itlb_miss", "accesses";
        /// Misses of the ITLB that a TLB without the split's flushes would have hit, with the same pte.
        ItlbFlush: "itlb_flush", "accesses";
        /// Misses of the ITLB where such a TLB holds another pte.
        ItlbRemap: "itlb_remap", "accesses";
        /// Misses of the ITLB on a page never seen before by either.
        ItlbCold: "itlb_cold", "accesses";
        /// Misses of the ITLB where both had lost the page.
        ItlbCapacity: "itlb_capacity", "accesses";
        /// Hits of the ITLB that such a TLB would have missed.
        ItlbSpared: "itlb_spared", "accesses";
        /// Accesses of the second-level ITLB.
        Itlb2Access: "itlb2_access", "accesses";
        /// Misses of the second-level ITLB.
        Itlb2Miss: "itlb2_miss", "accesses";
        /// Page walks for fetches.
        ItlbWalk: "itlb_walk", "walks";
        /// Accesses of the first-level DTLB.
        DtlbAccess: "dtlb_access", "accesses";
        /// Misses of the first-level DTLB.
        DtlbMiss: "dtlb_miss", "accesses";
        /// Misses of the DTLB that a TLB without the split's flushes would have hit, with the same pte.
        DtlbFlush: "dtlb_flush", "accesses";
        /// Misses of the DTLB where such a TLB holds another pte.
        DtlbRemap: "dtlb_remap", "accesses";
        /// Misses of the DTLB on a page never seen before by either.
        DtlbCold: "dtlb_cold", "accesses";
        /// Misses of the DTLB where both had lost the page.
        DtlbCapacity: "dtlb_capacity", "accesses";
        /// Hits of the DTLB that such a TLB would have missed.
        DtlbSpared: "dtlb_spared", "accesses";
        /// Accesses of the second-level DTLB.
        Dtlb2Access: "dtlb2_access", "accesses";
        /// Misses of the second-level DTLB.
        Dtlb2Miss: "dtlb2_miss", "accesses";
        /// Page walks for data.
        DtlbWalk: "dtlb_walk", "walks";
        /// Writes that hit the DTLB with D=0 and set it in the pte.
        DirtyAssist: "dirty_assist", "accesses";
        /// Trace-cache look-ups (NetBurst front end).
        TcAccess: "tc_access", "accesses";
        /// Trace-cache misses.
        TcMiss: "tc_miss", "accesses";

        /// Loads answered by L1D.
        LoadL1: "load_l1", "lines";
        /// Loads answered by L2.
        LoadL2: "load_l2", "lines";
        /// Loads answered by L3.
        LoadL3: "load_l3", "lines";
        /// Loads answered by memory, open DRAM page.
        LoadMemoryOpen: "load_memory_open", "lines";
        /// Loads answered by memory, other DRAM page.
        LoadMemoryRandom: "load_memory_random", "lines";
        /// Loads answered by memory in an ascending run.
        LoadStream: "load_stream", "lines";
        /// Stores that hit L1D.
        StoreL1: "store_l1", "lines";
        /// Stores whose line came from L2.
        StoreL2: "store_l2", "lines";
        /// Stores whose line came from L3.
        StoreL3: "store_l3", "lines";
        /// Stores whose line came from memory, open DRAM page.
        StoreMemoryOpen: "store_memory_open", "lines";
        /// Stores whose line came from memory, other DRAM page.
        StoreMemoryRandom: "store_memory_random", "lines";
        /// Stores whose line came from memory in an ascending run.
        StoreStream: "store_stream", "lines";
        /// Fetches answered by L1I.
        FetchL1: "fetch_l1", "lines";
        /// Fetches (or trace-cache fills) answered by L2.
        FetchL2: "fetch_l2", "lines";
        /// Fetches answered by L3.
        FetchL3: "fetch_l3", "lines";
        /// Fetches answered by memory, open DRAM page.
        FetchMemoryOpen: "fetch_memory_open", "lines";
        /// Fetches answered by memory, other DRAM page.
        FetchMemoryRandom: "fetch_memory_random", "lines";
        /// Fetches answered by memory in an ascending run.
        FetchStream: "fetch_stream", "lines";
        /// ITLB walker accesses answered by L1D.
        ItlbWalkL1: "itlb_walk_l1", "lines";
        /// ITLB walker accesses answered by L2.
        ItlbWalkL2: "itlb_walk_l2", "lines";
        /// ITLB walker accesses answered by L3.
        ItlbWalkL3: "itlb_walk_l3", "lines";
        /// ITLB walker accesses answered by memory.
        ItlbWalkMemory: "itlb_walk_memory", "lines";
        /// DTLB walker accesses answered by L1D.
        DtlbWalkL1: "dtlb_walk_l1", "lines";
        /// DTLB walker accesses answered by L2.
        DtlbWalkL2: "dtlb_walk_l2", "lines";
        /// DTLB walker accesses answered by L3.
        DtlbWalkL3: "dtlb_walk_l3", "lines";
        /// DTLB walker accesses answered by memory.
        DtlbWalkMemory: "dtlb_walk_memory", "lines";
        /// Times the four PDPTE registers were loaded.
        PdpteLoad: "pdpte_load", "loads";
        /// Cached PDPTE reads answered by L1D.
        PdpteL1: "pdpte_l1", "lines";
        /// Cached PDPTE reads answered by L2.
        PdpteL2: "pdpte_l2", "lines";
        /// Cached PDPTE reads answered by L3.
        PdpteL3: "pdpte_l3", "lines";
        /// Cached PDPTE reads answered by memory.
        PdpteMemory: "pdpte_memory", "lines";
        /// PDPTE reads that bypassed the caches.
        PdpteUncached: "pdpte_uncached", "reads";

        /// CR3 loads of a split kernel's entry and exit trampoline.
        FlushSplit: "flush_split", "flushes";
        /// CR3 loads of a change of address space.
        FlushSwitch: "flush_switch", "flushes";
        /// Other CR3 loads (flush_tlb).
        FlushCr3: "flush_cr3", "flushes";
        /// invlpg executed.
        FlushInvlpg: "flush_invlpg", "flushes";
        /// Flushes of everything, global entries too (CR4.PGE toggled, kmap wrap).
        FlushGlobal: "flush_global", "flushes";
    }
}

impl Event {
    /// The event of an access for `purpose` answered by `level`. Walker and PDPTE accesses do not tell kinds of
    /// memory access apart.
    #[inline]
    pub const fn of(purpose: Purpose, level: Level) -> Event {
        use Level::*;
        match (purpose, level) {
            (Purpose::Load, L1) => Event::LoadL1,
            (Purpose::Load, L2) => Event::LoadL2,
            (Purpose::Load, L3) => Event::LoadL3,
            (Purpose::Load, MemoryOpen) => Event::LoadMemoryOpen,
            (Purpose::Load, MemoryRandom | Uncached) => Event::LoadMemoryRandom,
            (Purpose::Load, Stream) => Event::LoadStream,
            (Purpose::Store, L1) => Event::StoreL1,
            (Purpose::Store, L2) => Event::StoreL2,
            (Purpose::Store, L3) => Event::StoreL3,
            (Purpose::Store, MemoryOpen) => Event::StoreMemoryOpen,
            (Purpose::Store, MemoryRandom | Uncached) => Event::StoreMemoryRandom,
            (Purpose::Store, Stream) => Event::StoreStream,
            (Purpose::Fetch, L1) => Event::FetchL1,
            (Purpose::Fetch, L2) => Event::FetchL2,
            (Purpose::Fetch, L3) => Event::FetchL3,
            (Purpose::Fetch, MemoryOpen) => Event::FetchMemoryOpen,
            (Purpose::Fetch, MemoryRandom | Uncached) => Event::FetchMemoryRandom,
            (Purpose::Fetch, Stream) => Event::FetchStream,
            (Purpose::ItlbWalk, L1) => Event::ItlbWalkL1,
            (Purpose::ItlbWalk, L2) => Event::ItlbWalkL2,
            (Purpose::ItlbWalk, L3) => Event::ItlbWalkL3,
            (Purpose::ItlbWalk, _) => Event::ItlbWalkMemory,
            (Purpose::DtlbWalk, L1) => Event::DtlbWalkL1,
            (Purpose::DtlbWalk, L2) => Event::DtlbWalkL2,
            (Purpose::DtlbWalk, L3) => Event::DtlbWalkL3,
            (Purpose::DtlbWalk, _) => Event::DtlbWalkMemory,
            (Purpose::Pdpte, L1) => Event::PdpteL1,
            (Purpose::Pdpte, L2) => Event::PdpteL2,
            (Purpose::Pdpte, L3) => Event::PdpteL3,
            (Purpose::Pdpte, Uncached) => Event::PdpteUncached,
            (Purpose::Pdpte, _) => Event::PdpteMemory,
        }
    }
}
