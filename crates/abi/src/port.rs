//! I/O ports through which guest code reaches the machine, and the blocks it leaves at [`crate::layout::REPORT`].

/// `out` of a dword: the guest cannot go on; [`Report`] says why.
pub const FATAL: u16 = 0x4c00;
/// `out` of a dword: carry out the [`Transfer`] now (a device with DMA; costs the CPU only the `out`).
pub const TRANSFER: u16 = 0x4c04;
/// `out` of a dword: boot is complete, [`crate::boot::CpuStart`] is valid.
pub const BOOTED: u16 = 0x4c08;

/// Why the guest cannot go on.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// A [`ReportKind`] as a number.
    pub kind: u32,
    /// BUG: number of the source file in `guest_vm::bug::FILES`; out of memory: zone.
    pub place: u32,
    /// BUG: line; out of memory: order wanted.
    pub detail: u32,
    /// Address or value concerned.
    pub value: u32,
}

/// Kinds of report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ReportKind {
    /// An invariant of the kernel does not hold.
    Bug = 1,
    /// Out of memory: no page in any zone allowed.
    OutOfMemory = 2,
    /// A user access outside every mapping, or without the right: the trace does not fit the kernel.
    BadAccess = 3,
    /// A recorded address is occupied or out of range.
    BadResult = 4,
    /// No memory left for the task's system call, which the recording says succeeded.
    CallFailed = 5,
    /// out_of_memory kills a process. Place: zone of the request; detail: its order, the victim's id above bit 8; value: owner.
    OomKill = 6,
    /// A request loops for ever: reclaim frees nothing and nothing may be killed. Fields as for `OomKill`, no victim.
    Livelock = 7,
}

impl ReportKind {
    /// The kind with this number.
    pub const fn from_u32(n: u32) -> Option<Self> {
        match n {
            1 => Some(Self::Bug),
            2 => Some(Self::OutOfMemory),
            3 => Some(Self::BadAccess),
            4 => Some(Self::BadResult),
            5 => Some(Self::CallFailed),
            6 => Some(Self::OomKill),
            7 => Some(Self::Livelock),
            _ => None,
        }
    }
}

/// A page to be filled or written by a device, at [`crate::layout::REPORT`] + 0x100.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transfer {
    /// A [`TransferKind`] as a number.
    pub kind: u32,
    /// Frame.
    pub pfn: u32,
    /// File id, or swap device.
    pub file: u32,
    /// Page of the file, or swap slot.
    pub index: u32,
}

/// Offset of the [`Transfer`] block behind [`crate::layout::REPORT`].
pub const TRANSFER_OFFSET: u32 = 0x100;

/// Kinds of transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum TransferKind {
    /// Fill the frame with a file page's synthetic content.
    FileRead = 1,
    /// Write a file page: its content is forgotten by the device, the machine keeps dirtied pages.
    FileWrite = 2,
    /// Read a swap slot.
    SwapRead = 3,
    /// Write a swap slot.
    SwapWrite = 4,
    /// The kernel sleeps for `index` milliseconds of VM time: no page is concerned.
    Wait = 5,
    /// The file ends before page `index` from now on: what the device has from there on is gone, and reads as zeros.
    FileTruncate = 6,
}

/// The four non-zero words of a file page that was never written: at byte offsets 0, 1024, 2048 and 3072.
pub const fn file_word(file: u32, index: u32, n: u32) -> u32 {
    let x = file.wrapping_mul(0x9e37_79b1)
        ^ index.wrapping_mul(0x85eb_ca77)
        ^ (n + 1).wrapping_mul(0xc2b2_ae3d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x2c1b_3c6d);
    (x ^ (x >> 13)) | 1
}
