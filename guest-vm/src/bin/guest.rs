//! The guest image: entry assembly, the function it calls, and boot on the CPU.
//!
//! Which reverse map and split it has is chosen by features, one image a row (`cargo xtask guest`). Built for
//! `i686-guest` only. Handover from the machine, for a boot on the CPU: image loaded at 1 MiB, BootInfo filled in, flat
//! protected mode, paging and interrupts off, EIP at the ELF entry; no stack needed.
//!
//! Invariant: what [`boot_entry`] loads into the CPU is what CpuStart says.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program, no library")]

use core::arch::{asm, global_asm};
use guest_vm::bug::File;
use guest_vm::kernel::{Flush, Kernel};
use guest_vm::ptr::Low;
use guest_vm::x86::{Bare, out};
use guest_vm::{arch, boot, root, trap};
use lowmem_abi::layout::CPU_START;
use lowmem_abi::port::{BOOTED, ReportKind};

#[cfg(feature = "pte_chain")]
type Map = guest_vm::rmap::pte_chain::PteChains;
#[cfg(feature = "anonmm")]
type Map = guest_vm::rmap::anonmm::AnonmmMap;
#[cfg(feature = "pte_chain_v1")]
type Map = guest_vm::rmap::pte_chain_v1::SingleChains;
#[cfg(feature = "pte_chain_dl")]
type Map = guest_vm::rmap::pte_chain_dl::DoubleChains;
#[cfg(feature = "objrmap")]
type Map = guest_vm::rmap::objrmap::Hybrid;
#[cfg(feature = "anon_vma_rfc")]
type Map = guest_vm::rmap::anon_vma_rfc::AnonVmaRfc;
#[cfg(feature = "swap_out")]
type Map = guest_vm::rmap::swap_out::SwapOut;
#[cfg(feature = "anon_vma_chain")]
type Map = guest_vm::rmap::anon_vma_chain::AnonVmaChain;
#[cfg(not(any(
    feature = "pte_chain",
    feature = "anonmm",
    feature = "pte_chain_v1",
    feature = "pte_chain_dl",
    feature = "objrmap",
    feature = "anon_vma_rfc",
    feature = "swap_out",
    feature = "anon_vma_chain"
)))]
type Map = guest_vm::rmap::anon_vma::AnonVmaMap;

type Image = Bare<Map>;
const K: Image = Bare::new();

/// Where the direct map starts, and in which slot of the page-directory pointers (boot on the CPU).
#[cfg(feature = "split_2g2g")]
macro_rules! boot_start {
    () => {
        "BOOT_START 0x80000000, 2, 0"
    };
}
#[cfg(feature = "split_1g3g")]
macro_rules! boot_start {
    () => {
        "BOOT_START 0x40000000, 1, 0"
    };
}
#[cfg(not(any(feature = "split_4g4g", feature = "split_2g2g", feature = "split_1g3g")))]
macro_rules! boot_start {
    () => {
        "BOOT_START 0xc0000000, 3, 0"
    };
}

#[cfg(feature = "split_4g4g")]
global_asm!(
    include_str!("../../image/frame.s"),
    include_str!("../../image/entry_4g4g.s"),
    options(att_syntax, raw)
);
#[cfg(not(feature = "split_4g4g"))]
global_asm!(
    include_str!("../../image/frame.s"),
    include_str!("../../image/entry_3g1g.s"),
    boot_start!(),
    options(att_syntax, raw)
);

unsafe extern "C" {
    /// Loads segment and task registers from the GDT.
    fn load_segments();
}

/// Called by every entry stub.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(frame: u32, vector: u32) -> u32 {
    trap::kernel_main(K, Low::new(frame), vector).va()
}

/// Called by `_start`: boots, loads the CPU's tables, and returns the first user frame.
#[unsafe(no_mangle)]
extern "C" fn boot_entry() -> u32 {
    let frame = boot::boot(K);
    K.flush(Flush::Global);
    let word = |i: u32| {
        root::low_at::<Image, u32>(K, CPU_START)
            .field::<u32>(i * 4)
            .read(K)
    };
    // `ltr` wants the TSS descriptor available, and sets it busy as boot left it.
    let tss = arch::arch(K).gdt(K, arch::TSS / 4 + 1);
    arch::arch(K).set_gdt(K, arch::TSS / 4 + 1, tss & !0x200);
    // SAFETY: boot filled the tables; segments stay flat.
    unsafe {
        table(Table::Gdt, word(5), word(6));
        table(Table::Idt, word(7), word(8));
        load_segments();
        for (msr, value) in [(0x174, word(14)), (0x175, word(15)), (0x176, word(16))] {
            wrmsr(msr, value);
        }
        if word(4) != 0 {
            wrmsr(0xc000_0080, word(4));
        }
        out(BOOTED, 0);
    }
    frame.va()
}

/// A descriptor table register.
enum Table {
    Gdt,
    Idt,
}

/// # Safety
/// The table must be filled in.
unsafe fn table(which: Table, base: u32, limit: u32) {
    let operand = [(limit as u16), base as u16, (base >> 16) as u16];
    // SAFETY: the caller's.
    unsafe {
        match which {
            Table::Gdt => asm!("lgdt [{}]", in(reg) &operand, options(nostack)),
            Table::Idt => asm!("lidt [{}]", in(reg) &operand, options(nostack)),
        }
    }
}

/// # Safety
/// The register must exist and the value be sensible.
unsafe fn wrmsr(msr: u32, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value, in("edx") 0, options(nostack, preserves_flags));
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, core::panic::Location::line);
    K.fatal(ReportKind::Bug, File::Panic as u32, line, 0)
}
