//! GDT, IDT, TSS, and the stack on which an entry from user mode lands (arch/i386/kernel/{cpu/common,traps,process}.c;
//! 4G/4G: fact sheet VM 7.1 and "4G/4G step by step").
//!
//! The tables lie in the root object. On 4G/4G they are also mapped in the shared top 16 MB, and the CPU is given those
//! addresses, because the direct map is gone in user mode. Selectors are those of 2.6's GDT. Leaves out: LDT, TLS, I/O bitmap,
//! the double-fault task.
//!
//! Invariant: esp0 of the TSS is the end of the running task's stack: real on 3G/1G, virtual on 4G/4G.

use crate::guest_struct;
use crate::kernel::Kernel;
use crate::kmap::{self, FIX_GDT, FIX_IDT, FIX_TRAMPOLINE, FIX_TSS, KmType, fix_to_virt};
use crate::layout::ThreadInfo;
use crate::pgtable::{Prot, Pte};
use crate::ptr::Low;
use crate::root;
use lowmem_abi::boot::{STUB_BYTES, VECTOR_RESCHED, VECTOR_SYSTEM_CALL, VECTOR_TICK, VECTOR_UNMAP};

/// Kernel code selector (2.6's GDT).
pub const KERNEL_CS: u32 = 0x60;
/// Kernel data selector.
pub const KERNEL_DS: u32 = 0x68;
/// User code selector, RPL 3.
pub const USER_CS: u32 = 0x73;
/// User data selector, RPL 3.
pub const USER_DS: u32 = 0x7b;
/// TSS selector.
pub const TSS: u32 = 0x80;
/// Bytes of a kernel stack.
pub const THREAD_SIZE: u32 = 8192;
/// Bytes of the GDT: 32 descriptors.
pub const GDT_BYTES: u32 = 256;
/// Bytes of the IDT: 256 gates.
pub const IDT_BYTES: u32 = 2048;
/// Where in the TSS page SYSENTER_ESP points: behind the TSS proper, so that the first instruction of the sysenter
/// path finds esp0 at a fixed distance below.
pub const SYSENTER_STACK: u32 = 256;
/// Where sysexit lands in the vsyscall page (the address seen in backtraces of 2.6; recalled).
pub const SYSENTER_RETURN: u32 = 0xffff_e410;

guest_struct! {
    /// This module's part of the root object: table addresses and the kernel's own page directories.
    pub struct ArchRoot [K] size 0x1_4000;
    at 0x0000 => words gdt, set_gdt: u32, 64;
    /// Kernel's page-directory pointers (swapper_pg_dir), 32-byte aligned.
    at 0x0800 => words swapper, set_swapper: u32, 8;
    at 0x1000 => words idt, set_idt: u32, 512;
    at 0x2000 => part tss: Tss;
    /// Direct-map address of the page table of the fixmap.
    at 0x3000 => word fixmap_pte, set_fixmap_pte: u32;
    /// Direct-map address of the page table of the kmap window.
    at 0x3004 => word pkmap_pte, set_pkmap_pte: u32;
    /// Direct-map address of the page directory of the last GB.
    at 0x300c => word top_pmd, set_top_pmd: u32;
}

impl ArchRoot {
    /// Offset of the kmap window's state.
    pub const PKMAP: u32 = 0x4000;
}

guest_struct! {
    /// The hardware part of the TSS.
    pub struct Tss [K] size 104;
    at 4 => word esp0, set_esp0: u32;
    at 8 => word ss0, set_ss0: u32;
    at 12 => word esp1, set_esp1: u32;
    at 16 => word ss1, set_ss1: u32;
    /// I/O map base in the upper half: outside the segment, no map.
    at 100 => word io_map, set_io_map: u32;
}

/// This module's part of the root object.
#[inline(always)]
pub fn arch<K: Kernel>(k: K) -> Low<ArchRoot> {
    root::part(k, root::ARCH)
}

/// Where the CPU finds the tables: (GDT, IDT, TSS).
pub fn table_addresses<K: Kernel>(k: K) -> (u32, u32, u32) {
    if k.two_tables() {
        (
            fix_to_virt(FIX_GDT),
            fix_to_virt(FIX_IDT),
            fix_to_virt(FIX_TSS),
        )
    } else {
        let at = arch(k).va();
        (at, at + 0x1000, at + 0x2000)
    }
}

/// Fills GDT, IDT and TSS. The TSS descriptor is left as `ltr` leaves it: busy.
pub fn init_tables<K: Kernel>(k: K) {
    let root = arch(k);
    let (_, _, tss) = table_addresses(k);
    // Flat segments, 4 GB, already accessed; then the TSS.
    segment(k, KERNEL_CS, 0x00cf_9b00, 0x0000_ffff);
    segment(k, KERNEL_DS, 0x00cf_9300, 0x0000_ffff);
    segment(k, USER_CS, 0x00cf_fb00, 0x0000_ffff);
    segment(k, USER_DS, 0x00cf_f300, 0x0000_ffff);
    let high = (tss & 0xff00_0000) | 0x0000_8b00 | ((tss >> 16) & 0xff);
    segment(k, TSS, high, (tss << 16) | (SYSENTER_STACK - 1));

    let t = root.tss(k);
    t.set_ss0(k, KERNEL_DS);
    t.set_ss1(k, KERNEL_CS);
    t.set_esp1(k, tss + SYSENTER_STACK);
    t.set_io_map(k, 0x8000 << 16);

    let symbols = crate::boot::info(k).symbols(k);
    let mut vector = 0;
    while vector < 32 {
        // Breakpoint, overflow and bound may be raised by user code; NMI, debug and page fault enter with interrupts off.
        let access = match vector {
            3..=5 => 0xef00,
            1 | 2 | 14 => 0x8e00,
            _ => 0x8f00,
        };
        gate(
            k,
            vector,
            symbols.exception_stubs(k).wrapping_add(vector * STUB_BYTES),
            access,
        );
        vector += 1;
    }
    gate(k, VECTOR_SYSTEM_CALL, symbols.system_call(k), 0xef00);
    gate(k, VECTOR_TICK, symbols.tick(k), 0x8e00);
    gate(k, VECTOR_RESCHED, symbols.resched(k), 0x8e00);
    gate(k, VECTOR_UNMAP, symbols.unmap(k), 0x8e00);
}

fn segment<K: Kernel>(k: K, selector: u32, high: u32, low: u32) {
    let i = (selector >> 3) * 2;
    arch(k).set_gdt(k, i, low);
    arch(k).set_gdt(k, i + 1, high);
}

fn gate<K: Kernel>(k: K, vector: u32, handler: u32, access: u32) {
    arch(k).set_idt(k, vector * 2, (KERNEL_CS << 16) | (handler & 0xffff));
    arch(k).set_idt(k, vector * 2 + 1, (handler & 0xffff_0000) | access);
}

/// 4G/4G: shows the tables and the trampoline text in the shared top 16 MB.
pub fn map_shared_tables<K: Kernel>(k: K) {
    if !k.two_tables() {
        return;
    }
    // Not global, not for user mode: the same pages under both page tables.
    let kernel = Prot(0x063);
    let read_only = Prot(0x061);
    let pfn = (root::ARCH + lowmem_abi::layout::ROOT) >> 12;
    kmap::set_fixmap_pte(k, fix_to_virt(FIX_GDT), Pte::new(pfn, kernel));
    kmap::set_fixmap_pte(k, fix_to_virt(FIX_IDT), Pte::new(pfn + 1, kernel));
    kmap::set_fixmap_pte(k, fix_to_virt(FIX_TSS), Pte::new(pfn + 2, kernel));
    // The trampoline is linked to run at its fixmap address and loaded at this physical one.
    let start = crate::boot::info(k).trampoline_pfn(k);
    let mut i = 0;
    while i < 2 && start != 0 {
        let va = fix_to_virt(FIX_TRAMPOLINE) + (i << 12);
        kmap::set_fixmap_pte(k, va, Pte::new(start + i, read_only));
        i += 1;
    }
}

/// Makes the next entry from user mode land on `ti`'s stack: esp0 of the TSS; 4G/4G also maps the stack's pages into the
/// virtual-stack slots where they differ and sets `virtual_stack` (part of __switch_to).
pub fn load_esp0<K: Kernel>(k: K, ti: Low<ThreadInfo>) {
    let stack = if k.two_tables() {
        let pfn = ti.real_stack(k).wrapping_sub(k.page_offset()) >> 12;
        let base = kmap::slot_va(k, KmType::VstackBase);
        let top = kmap::slot_va(k, KmType::VstackTop);
        kmap::map_slot(k, base, Pte::new(pfn, Prot(0x063)));
        kmap::map_slot(k, top, Pte::new(pfn + 1, Prot(0x063)));
        ti.set_virtual_stack(k, base);
        base
    } else {
        ti.va()
    };
    arch(k).tss(k).set_esp0(k, stack.wrapping_add(THREAD_SIZE));
}

/// Physical address of the kernel's own page-directory pointers (swapper_pg_dir).
#[inline(always)]
pub fn swapper_pg_dir<K: Kernel>(k: K) -> u32 {
    let _ = k;
    lowmem_abi::layout::ROOT + root::ARCH + 0x800
}
