//! Boot information (machine to guest) and CPU start state (guest to machine).

/// Parameters of one boot, at physical [`crate::layout::BOOT_INFO`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BootInfo {
    /// [`BootInfo::MAGIC`].
    pub magic: u32,
    /// RAM in 4 KB frames, from frame 0.
    pub ram_frames: u32,
    /// First frame behind the image (text, rodata, data).
    pub image_end_frame: u32,
    /// CPUs: 1.
    pub cpus: u32,
    /// Timer interrupts a second of emulated time.
    pub hz: u32,
    /// 0: int 0x80, 1: sysenter.
    pub entry: u32,
    /// Kernel stack of a task in bytes: 8192 or 4096.
    pub stack_bytes: u32,
    /// 1: page_referenced flushes what it clears (the 2.6.8 rule).
    pub young_flush: u32,
    /// Bytes of a pte_chain block: 32, 64 or 128.
    pub chain_line: u32,
    /// 0: i_mmap lists, 1: prio_tree.
    pub file_vmas: u32,
    /// Seed of the free lists' initial order; 0: in order of address.
    pub layout_seed: u32,
    /// Swap slots of the one swap device.
    pub swap_slots: u32,
    /// 1: fork gives every vfork child an mm of its own.
    pub vfork_is_fork: u32,
    /// 1: EFER.NXE is set at boot.
    pub nx: u32,
    /// Addresses of the image's symbols that native boot needs for IDT and MSRs, see [`Symbols`].
    pub symbols: Symbols,
    /// Whose reclaim: 0 2.6.7, 1 2.6.0, 2 2.6.8, 3 2.4.
    pub reclaim: u32,
    /// anon_vma_chain: 1: fork may reuse an ancestor's anon_vma (the rule of 2015).
    pub anon_vma_reuse: u32,
    /// What is unmapped of nonlinear vmas to free a page: 0 clusters of 32 pages round-robin (2.6.7), 1 whole vmas (2.6.5-aa).
    pub nonlinear: u32,
    /// PAGE_MMUSHIFT of a clustered kernel: log2 of the frames of a page, 0 to 4.
    pub cluster: u32,
    /// Which pages of files have buffer heads: 0 none, 1 those that are written, 2 those that are read as well.
    pub buffers: u32,
}

impl BootInfo {
    /// "LMBI".
    pub const MAGIC: u32 = 0x4942_4d4c;
}

/// Virtual addresses in the image, taken from its symbol table by the machine.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Symbols {
    /// First of 32 exception stubs, [`STUB_BYTES`] apart.
    pub exception_stubs: u32,
    /// Stub of `int 0x80`.
    pub system_call: u32,
    /// Stub of the timer interrupt.
    pub tick: u32,
    /// Stub of the reschedule interrupt.
    pub resched: u32,
    /// Stub of the unmap probe.
    pub unmap: u32,
    /// SYSENTER_EIP.
    pub sysenter: u32,
    /// Start and end of the text that runs with either page table (4G/4G); both 0 on 3G/1G.
    pub trampoline_start: u32,
    /// See `trampoline_start`.
    pub trampoline_end: u32,
    /// First and last instruction address of the direct user copy, and where it continues after a bad address.
    pub user_copy_start: u32,
    /// See `user_copy_start`.
    pub user_copy_end: u32,
    /// See `user_copy_start`.
    pub user_copy_fixup: u32,
}

/// Distance between two exception stubs.
pub const STUB_BYTES: u32 = 16;

/// What the CPU holds when the first user frame is about to run, at physical [`crate::layout::CPU_START`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuStart {
    /// [`CpuStart::MAGIC`] once boot is done.
    pub magic: u32,
    /// Control registers.
    pub cr0: u32,
    /// Page directory pointers of the kernel (swapper).
    pub cr3: u32,
    /// See `cr0`.
    pub cr4: u32,
    /// EFER, low word.
    pub efer: u32,
    /// GDTR base and limit.
    pub gdt_base: u32,
    /// See `gdt_base`.
    pub gdt_limit: u32,
    /// IDTR base and limit.
    pub idt_base: u32,
    /// See `idt_base`.
    pub idt_limit: u32,
    /// Selector in TR.
    pub tr: u32,
    /// Selectors of kernel code, kernel data, user code, user data.
    pub kernel_cs: u32,
    /// See `kernel_cs`.
    pub kernel_ds: u32,
    /// See `kernel_cs`.
    pub user_cs: u32,
    /// See `kernel_cs`.
    pub user_ds: u32,
    /// SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP.
    pub sysenter_cs: u32,
    /// See `sysenter_cs`.
    pub sysenter_esp: u32,
    /// See `sysenter_cs`.
    pub sysenter_eip: u32,
}

impl CpuStart {
    /// "LMCS".
    pub const MAGIC: u32 = 0x5343_4d4c;
}

/// Vector of `int 0x80`.
pub const VECTOR_SYSTEM_CALL: u32 = 0x80;
/// Vector of the timer interrupt.
pub const VECTOR_TICK: u32 = 0x20;
/// Vector of the reschedule interrupt.
pub const VECTOR_RESCHED: u32 = 0x21;
/// Vector by which the machine has one page unmapped as reclaim would (the unmap probe).
pub const VECTOR_UNMAP: u32 = 0x22;
/// Pseudo vector with which the sysenter stub enters the kernel.
pub const VECTOR_SYSENTER: u32 = 0x100;
