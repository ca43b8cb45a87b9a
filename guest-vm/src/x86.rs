//! The handle on the emulated CPU: zero-sized, its methods are instructions (asm-i386/{bitops,atomic,spinlock,system}.h of 2.6.7).
//!
//! Lock prefixes stand where an SMP build has them; an `up` build has the same instructions without. `asm!` that changes what an address shows (invlpg, CR3, CR4) or whether
//! an interrupt may come is a compiler barrier; so are the probes that open and close a path, lest work move across them. Counting
//! probes are no barriers. Page-table entries are volatile, because the MMU writes A and D.
//!
//! Leaves out: everything that is not the guest image (`cfg(target_os = "none")`).
//! Invariant: no x87, MMX or SSE instruction; the target forbids them.

use crate::axes::Axes;
use crate::kernel::{CopyDir, Flush, Half, Kernel};
use crate::ptr::{Kmapped, Low};
use crate::rmap::Scheme;
use core::arch::asm;
use core::marker::PhantomData;
use lowmem_abi::layout::REPORT;
use lowmem_abi::port::{self, Report, ReportKind, TRANSFER_OFFSET, Transfer};
use lowmem_abi::probe::{END, MAGIC, Probe};

/// The handle of an image with reverse map `S`; its other axes are [`Axes::of_image`].
#[derive(Debug)]
pub struct Bare<S>(PhantomData<fn() -> S>);

impl<S> Bare<S> {
    /// The handle.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}
impl<S> Default for Bare<S> {
    fn default() -> Self {
        Self::new()
    }
}
impl<S> Clone for Bare<S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Bare<S> {}

unsafe extern "C" {
    /// Copies between user and kernel memory (entry assembly); not 0: a bad address.
    fn user_copy(to: u32, from: u32, bytes: u32) -> u32;
}

/// The lock prefix of an SMP build (LOCK_PREFIX). Exchanges with memory and set_64bit are locked in both.
#[cfg(not(feature = "up"))]
macro_rules! lock {
    () => {
        "lock "
    };
}
#[cfg(feature = "up")]
macro_rules! lock {
    () => {
        ""
    };
}

/// One probe: an 8-byte NOP whose displacement is the magic and the id.
macro_rules! emit {
    ($id:expr, barrier) => {
        asm!(".byte 0x0f, 0x1f, 0x84, 0x00", ".long {}", const MAGIC | $id as u32,
            options(nostack, preserves_flags))
    };
    ($id:expr, count) => {
        asm!(".byte 0x0f, 0x1f, 0x84, 0x00", ".long {}", const MAGIC | $id as u32,
            options(nomem, nostack, preserves_flags))
    };
}

/// A match on a probe, constant at each call, that becomes one NOP.
macro_rules! by_probe {
    ($p:expr, $end:expr, $how:tt: $($Name:ident)*) => {
        match $p {
            // SAFETY: a NOP.
            $( Probe::$Name => unsafe { emit!(Probe::$Name as u16 | $end, $how) }, )*
            _ => {}
        }
    };
}

impl<S: Scheme> Kernel for Bare<S> {
    type Rmap = S::Map<Self>;

    #[inline(always)]
    fn axes(self) -> Axes {
        const AXES: Axes = Axes::of_image();
        AXES
    }
    #[inline(always)]
    fn low(self, va: u32) -> *mut u8 {
        va as *mut u8
    }

    #[inline(always)]
    fn kread(self, p: Kmapped) -> u32 {
        // SAFETY: a mapped slot or the direct map.
        unsafe { (p.0 as *const u32).read_unaligned() }
    }
    #[inline(always)]
    fn kwrite(self, p: Kmapped, v: u32) {
        // SAFETY: a mapped slot or the direct map.
        unsafe { (p.0 as *mut u32).write_unaligned(v) }
    }
    #[inline(always)]
    fn clear_page(self, p: Kmapped) {
        // SAFETY: `p` is the start of a mapped page.
        unsafe {
            asm!("rep stosd", inout("edi") p.0 => _, inout("ecx") 1024 => _, in("eax") 0,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn copy_page(self, to: Kmapped, from: Kmapped) {
        // SAFETY: both are starts of mapped pages. esi cannot be named (LLVM may keep it for itself),
        // so it is put aside; and no operand may be left to choice, or it might be esi.
        unsafe {
            asm!("xchg eax, esi", "rep movsd", "mov esi, eax",
                inout("eax") from.0 => _, inout("edi") to.0 => _, inout("ecx") 1024 => _,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn copy_bytes(self, to: Kmapped, from: Kmapped, bytes: u32) {
        // SAFETY: `bytes` from each lie in mapped pages.
        unsafe {
            asm!("xchg eax, esi", "rep movsd", "mov ecx, edx", "rep movsb", "mov esi, eax",
                inout("eax") from.0 => _, in("edx") bytes & 3, inout("edi") to.0 => _, inout("ecx") bytes >> 2 => _,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn slot_mapped(self, _: u32, _: u32) {}

    #[inline(always)]
    fn pte_read(self, p: Kmapped) -> u64 {
        // SAFETY: an entry in a mapped page.
        let (low, high) = unsafe {
            (
                (p.0 as *const u32).read_volatile(),
                ((p.0 + 4) as *const u32).read_volatile(),
            )
        };
        u64::from(low) | (u64::from(high) << 32)
    }
    #[inline(always)]
    fn pte_write_half(self, p: Kmapped, high: Half, v: u32) {
        let at = match high {
            Half::Low => p.0,
            Half::High => p.0 + 4,
        };
        // SAFETY: an entry in a mapped page.
        unsafe { (at as *mut u32).write_volatile(v) }
    }
    #[inline(always)]
    fn pte_xchg_low(self, p: Kmapped, v: u32) -> u32 {
        let mut v = v;
        // SAFETY: an entry in a mapped page.
        unsafe {
            asm!("xchg dword ptr [{p}], {v}", p = in(reg) p.0, v = inout(reg) v,
                options(nostack, preserves_flags));
        }
        v
    }
    #[inline(always)]
    fn pte_test_and_clear_bit(self, p: Kmapped, bit: u32) -> bool {
        self.test_and_clear_bit(Low::new(p.0), bit)
    }
    #[inline(always)]
    fn pte_set_64(self, p: Kmapped, v: u64) {
        // SAFETY: an entry in a mapped page; the loop of set_64bit.
        unsafe {
            asm!("mov eax, dword ptr [edi]", "mov edx, dword ptr [edi + 4]",
                "2: lock cmpxchg8b qword ptr [edi]", "jnz 2b",
                in("edi") p.0, in("ebx") v as u32, in("ecx") (v >> 32) as u32,
                out("eax") _, out("edx") _, options(nostack));
        }
    }

    #[inline(always)]
    fn atomic_add(self, p: Low<u32>, v: u32) {
        // SAFETY: a word of the direct map.
        unsafe {
            asm!(concat!(lock!(), "add dword ptr [{p}], {v}"), p = in(reg) p.va(), v = in(reg) v, options(nostack));
        }
    }
    #[inline(always)]
    fn atomic_add_return(self, p: Low<u32>, v: u32) -> u32 {
        let mut old = v;
        // SAFETY: a word of the direct map.
        unsafe {
            asm!(concat!(lock!(), "xadd dword ptr [{p}], {v}"), p = in(reg) p.va(), v = inout(reg) old,
                options(nostack));
        }
        old.wrapping_add(v)
    }
    #[inline(always)]
    fn atomic_dec_and_test(self, p: Low<u32>) -> bool {
        let zero: u8;
        // SAFETY: a word of the direct map.
        unsafe {
            asm!(concat!(lock!(), "dec dword ptr [{p}]"), "sete {z}", p = in(reg) p.va(), z = out(reg_byte) zero,
                options(nostack));
        }
        zero != 0
    }
    #[inline(always)]
    fn set_bit(self, p: Low<u32>, bit: u32) {
        // SAFETY: a word of the direct map.
        unsafe {
            asm!(concat!(lock!(), "bts dword ptr [{p}], {b}"), p = in(reg) p.va(), b = in(reg) bit, options(nostack));
        }
    }
    #[inline(always)]
    fn clear_bit(self, p: Low<u32>, bit: u32) {
        // SAFETY: a word of the direct map.
        unsafe {
            asm!(concat!(lock!(), "btr dword ptr [{p}], {b}"), p = in(reg) p.va(), b = in(reg) bit, options(nostack));
        }
    }
    #[inline(always)]
    fn test_and_set_bit(self, p: Low<u32>, bit: u32) -> bool {
        let old: u8;
        // SAFETY: a word of the direct map.
        unsafe {
            asm!(concat!(lock!(), "bts dword ptr [{p}], {b}"), "setc {o}", p = in(reg) p.va(), b = in(reg) bit,
                o = out(reg_byte) old, options(nostack));
        }
        old != 0
    }
    #[inline(always)]
    fn test_and_clear_bit(self, p: Low<u32>, bit: u32) -> bool {
        let old: u8;
        // SAFETY: a word of the direct map.
        unsafe {
            asm!(concat!(lock!(), "btr dword ptr [{p}], {b}"), "setc {o}", p = in(reg) p.va(), b = in(reg) bit,
                o = out(reg_byte) old, options(nostack));
        }
        old != 0
    }
    #[inline(always)]
    fn spin_lock_byte(self, p: Low<u32>) -> bool {
        let free: u8;
        // SAFETY: a lock of the direct map.
        unsafe {
            asm!(concat!(lock!(), "dec byte ptr [{p}]"), "setns {f}", p = in(reg) p.va(), f = out(reg_byte) free,
                options(nostack));
        }
        free != 0
    }
    #[inline(always)]
    fn spin_trylock_byte(self, p: Low<u32>) -> bool {
        let mut old = 0u8;
        // SAFETY: a lock of the direct map.
        unsafe {
            asm!("xchg byte ptr [{p}], {v}", p = in(reg) p.va(), v = inout(reg_byte) old,
                options(nostack, preserves_flags));
        }
        old == 1
    }
    #[inline(always)]
    fn spin_unlock_byte(self, p: Low<u32>) {
        // SAFETY: a lock of the direct map.
        unsafe {
            asm!("mov byte ptr [{p}], 1", p = in(reg) p.va(), options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn irq_save(self) -> u32 {
        let flags: u32;
        // SAFETY: the caller restores it, or leaves the kernel with interrupts off.
        unsafe { asm!("pushfd", "pop {f}", "cli", f = out(reg) flags) };
        flags
    }
    #[inline(always)]
    fn irq_restore(self, flags: u32) {
        // SAFETY: EFLAGS as they were.
        unsafe { asm!("push {f}", "popfd", f = in(reg) flags) };
    }

    #[inline(always)]
    fn flush(self, flush: Flush) {
        // SAFETY: TLB operations change no memory; all are compiler barriers.
        unsafe {
            match flush {
                Flush::Page(va) => asm!("invlpg [{v}]", v = in(reg) va, options(nostack)),
                Flush::Local => {
                    asm!("mov {t}, cr3", "mov cr3, {t}", t = out(reg) _, options(nostack));
                }
                // CR4 without and with PGE, CR3 between (__flush_tlb_global).
                Flush::Global => asm!(
                    "mov {t}, cr4", "and {t}, -129", "mov cr4, {t}",
                    "mov {c}, cr3", "mov cr3, {c}", "or {t}, 128", "mov cr4, {t}",
                    t = out(reg) _, c = out(reg) _, options(nostack)
                ),
            }
        }
    }
    #[inline(always)]
    fn load_cr3(self, root: u32) {
        // SAFETY: the kernel's own mappings are the same in every root it loads.
        unsafe { asm!("mov cr3, {r}", r = in(reg) root, options(nostack)) };
    }
    #[inline(always)]
    fn read_cr3(self) -> u32 {
        let root: u32;
        // SAFETY: reads a register.
        unsafe { asm!("mov {r}, cr3", r = out(reg) root, options(nostack, preserves_flags)) };
        root
    }
    #[inline(always)]
    fn read_cr2(self) -> u32 {
        let va: u32;
        // SAFETY: reads a register.
        unsafe { asm!("mov {r}, cr2", r = out(reg) va, options(nostack, preserves_flags)) };
        va
    }
    #[inline(always)]
    fn idle(self) {
        // SAFETY: an interrupt returns here.
        unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    }

    #[inline(always)]
    fn direct_copy(self, dir: CopyDir, user: u32, kernel: Kmapped, bytes: u32) -> u32 {
        let (to, from) = match dir {
            CopyDir::FromUser => (kernel.0, user),
            CopyDir::ToUser => (user, kernel.0),
        };
        // SAFETY: a bad user address ends in the routine's fix-up; the caller checked the range.
        if unsafe { user_copy(to, from, bytes) } == 0 {
            0
        } else {
            bytes
        }
    }

    #[inline(always)]
    fn probe(self, p: Probe) {
        by_probe!(p, 0, count: VmaVisited VmaOutOfRange PteExamined PteCleared PageUnmapped UnmapYoung
            UnmapLocked UnmapPinned UnmapAgain CowCopied CowReused KmapAtomic KmapWrap ChainAllocated
            ChainFreed AnonVmaAllocated AnonVmaFreed MajorFault VmaMerged VmaSplit MoveCopied
            DirtyScanned PageWritten);
    }
    #[inline(always)]
    fn begin(self, p: Probe) {
        by_probe!(p, 0, barrier: Fault Fork Exit Mmap Copy Switch Reclaim Unmap Writeback Tick NullCall
            Idle PageReferenced TryToUnmap);
    }
    #[inline(always)]
    fn end(self, p: Probe) {
        by_probe!(p, END, barrier: Fault Fork Exit Mmap Copy Switch Reclaim Unmap Writeback Tick NullCall
            Idle PageReferenced TryToUnmap);
    }

    fn transfer(self, t: Transfer) {
        let at = (self.page_offset() + REPORT + TRANSFER_OFFSET) as *mut Transfer;
        // SAFETY: the block is the machine's and this kernel's alone.
        unsafe {
            at.write_volatile(t);
            out(port::TRANSFER, 0);
        }
    }
    #[cold]
    fn fatal(self, kind: ReportKind, place: u32, detail: u32, value: u32) -> ! {
        let at = (self.page_offset() + REPORT) as *mut Report;
        // SAFETY: the block is the machine's and this kernel's alone.
        unsafe {
            at.write_volatile(Report {
                kind: kind as u32,
                place,
                detail,
                value,
            });
            out(port::FATAL, kind as u32);
        }
        loop {
            // SAFETY: stops; the machine does not come back from the port.
            unsafe { asm!("cli", "hlt") };
        }
    }
    #[inline(always)]
    fn inject_trylock_failure(self) -> bool {
        false
    }
}

/// Writes a dword to a port of the machine.
///
/// # Safety
/// What the port asks for must be ready in memory.
#[inline(always)]
pub unsafe fn out(port: u16, value: u32) {
    // SAFETY: the caller's; a compiler barrier, because the machine reads memory.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags))
    };
}
