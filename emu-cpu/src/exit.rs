//! Why [`crate::Cpu::run`] came back, and what a dying machine looked like.

/// The state printed with a fatal end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub regs: [u32; 8],
    /// EIP.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// Selectors of ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    /// CR0, CR2, CR3, CR4.
    pub control: [u32; 4],
    /// Current privilege level.
    pub cpl: u8,
    /// Instructions retired.
    pub retired: u64,
    /// Vectors that could not be delivered, first one first.
    pub vectors: Vec<u8>,
}

impl std::fmt::Display for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
        for (name, value) in names.iter().zip(self.regs) {
            write!(f, "{name} {value:08x} ")?;
        }
        write!(
            f,
            "eip {:08x} eflags {:08x} cs {:04x} ss {:04x} ds {:04x} cpl {} cr0 {:08x} cr2 {:08x} cr3 {:08x} cr4 {:08x} retired {} vectors {:?}",
            self.eip,
            self.eflags,
            self.selectors[1],
            self.selectors[2],
            self.selectors[3],
            self.cpl,
            self.control[0],
            self.control[1],
            self.control[2],
            self.control[3],
            self.retired,
            self.vectors
        )
    }
}

/// Which watchdog barked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watchdog {
    /// 2^30 instructions since [`crate::Cpu::pet_watchdog`] or the last completed operation of the
    /// source.
    Operation,
    /// 2^27 instructions without IF=1.
    InterruptsOff,
    /// 65,536 faults, and no instruction completed between them. Cannot be turned off.
    Faults,
}

/// Why [`crate::Cpu::run`] came back. EIP is that of the next instruction unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The source said [`crate::UserOp::Stop`].
    Stopped,
    /// The bus stopped at a port write.
    Port,
    /// `hlt` with nothing to wake up for.
    Halted,
    /// The instruction limit was reached; comes at the first interrupt point at or after it.
    Limit,
    /// A fault while delivering a double fault. EIP is that of the faulting instruction.
    TripleFault(Box<Dump>),
    /// Too many instructions without progress.
    Watchdog {
        /// Which rule.
        which: Watchdog,
        /// Where.
        eip: u32,
    },
    /// The linear address of the next instruction is in [`crate::Cpu::breakpoints`]; it was not
    /// executed.
    Breakpoint(u32),
}
