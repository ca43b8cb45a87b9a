//! Physical addresses below 1 MiB that machine and guest agree on, and where the image lies.
//!
//! RAM is flat from 0. These pages are reserved from the first line of boot and counted as `boot` in low memory.

/// Bytes of a page.
pub const PAGE_SIZE: u32 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// [`crate::boot::BootInfo`], written by the machine.
pub const BOOT_INFO: u32 = 0x1000;
/// [`crate::mailbox::Mailbox`], written by the trace source, with the exec list behind it.
pub const MAILBOX: u32 = 0x2000;
/// End of the mailbox area.
pub const MAILBOX_END: u32 = 0x8000;
/// [`crate::boot::CpuStart`], written by boot.
pub const CPU_START: u32 = 0x8000;
/// [`crate::port::Report`] and [`crate::port::Transfer`], written by the guest.
pub const REPORT: u32 = 0x9000;
/// Boot stack, used only when boot runs on the CPU.
pub const BOOT_STACK: u32 = 0xa000;
/// End of the boot stack.
pub const BOOT_STACK_END: u32 = 0xe000;
/// The kernel's root object and per-CPU areas.
pub const ROOT: u32 = 0x1_0000;
/// End of the root area.
pub const ROOT_END: u32 = 0x8_0000;
/// Where the kernel image is loaded.
pub const IMAGE: u32 = 0x10_0000;

/// PAGE_OFFSET of the 4G/4G split (RHEL3/RHEL4: 32 MB).
pub const PAGE_OFFSET_4G4G: u32 = 0x0200_0000;
/// Most low memory a 4G/4G kernel maps: up to 128 MB below the shared 16 MB window.
pub const MAXMEM_4G4G: u32 = 0xff00_0000 - 0x0800_0000 - PAGE_OFFSET_4G4G;
