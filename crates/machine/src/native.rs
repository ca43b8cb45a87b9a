//! The guest kernel's handle in native mode: the same kernel source, compiled into the host program, on the same guest
//! memory (decision D3).
//!
//! Low memory is one mapping inside a 4 GiB reservation, so a wild guest pointer faults instead of reaching the host. High
//! frames are reached through the slots that kmap and kmap_atomic set up: the guest writes the slot's pte as always and
//! tells the handle, which keeps slot -> frame, and reads and writes go to the frame's representation. TLB operations only
//! count. Left out: interrupts, time, privilege; kernel entries are calls.
//!
//! Invariant: a primitive leaves the same guest memory as its instruction on the emulated CPU.

use crate::decisions::{DecisionLog, Reserve};
use crate::device::Devices;
use crate::disk::DiskModel;
use crate::machine::Eviction;
use emu_mmu::{Pfn, PhysAddr, PhysMem};
use guest_vm::axes::Axes;
use guest_vm::kernel::{CopyDir, Decision, Flush, Half, Kernel};
use guest_vm::layout::Page;
use guest_vm::page_alloc::page_to_pfn;
use guest_vm::ptr::{Kmapped, Low};
use guest_vm::rmap::any::Any;
use lowmem_abi::owner::Owner as PageOwner;
use lowmem_abi::port::{ReportKind, Transfer};
use lowmem_abi::probe::Probe;
use std::backtrace::Backtrace;

/// First page of the windows (pkmap, fixmap) whose slots a handle follows; direct maps end below.
const WINDOW_START: u32 = 0xf700_0000;
/// Slot that shows nothing.
const NO_FRAME: u32 = u32::MAX;

/// What a native kernel works on, owned by the machine.
pub struct Host {
    mem: *mut PhysMem,
    low_base: *mut u8,
    low_bytes: u32,
    axes: Axes,
    page_offset: u32,
    slots: Box<[u32]>,
    /// Physical address of the page directory pointers in use.
    pub cr3: u32,
    /// Faulting address of the fault being handled.
    pub cr2: u32,
    /// Where files and swap lie.
    pub devices: Devices,
    /// Times each counting probe was passed and each path opened, by id.
    pub probes: [u64; 64],
    /// Paths open now, innermost last.
    pub paths: Vec<Probe>,
    /// TLB operations: pages, local, global.
    pub flushes: [u64; 3],
    /// Loads of CR3.
    pub cr3_loads: u64,
    /// What reclaim freed, in order.
    pub evictions: Vec<Eviction>,
    /// What reclaim decided, if it is to be kept.
    pub log: Option<Box<DecisionLog>>,
    /// Pages that are lent for slabs, if kernel objects are to take no memory.
    pub reserve: Option<Box<Reserve>>,
    /// Operation of the trace that runs.
    pub operation: u64,
    /// Every n-th trylock fails; 0: none.
    pub fail_trylock_every: u32,
    trylocks: u32,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("page_offset", &self.page_offset)
            .field("low_bytes", &self.low_bytes)
            .field("cr3", &self.cr3)
            .finish_non_exhaustive()
    }
}

// SAFETY: the raw pointers lead to memory that the same machine owns and moves along with its `Host`; nothing is shared
// between threads.
unsafe impl Send for Host {}

/// The guest reported that it cannot go on: payload of the unwinding that ends the native entry.
#[derive(Debug)]
pub struct GuestFatal {
    /// What kind.
    pub kind: ReportKind,
    /// See [`lowmem_abi::port::Report`].
    pub place: u32,
    /// See [`lowmem_abi::port::Report`].
    pub detail: u32,
    /// See [`lowmem_abi::port::Report`].
    pub value: u32,
    /// Where in the guest's source, if the host was asked for backtraces.
    pub backtrace: Backtrace,
}

impl Host {
    /// A host context over `mem`, which must outlive it at this address.
    pub(crate) fn new(mem: *mut PhysMem, axes: Axes, disk: DiskModel) -> Host {
        // SAFETY: the caller gives a valid pointer; the reference ends here.
        let (low_base, low_bytes) = unsafe { ((*mem).low_base(), (*mem).low_bytes() as u32) };
        Host {
            mem,
            low_base,
            low_bytes,
            axes,
            page_offset: axes.page_offset(),
            slots: vec![NO_FRAME; ((u32::MAX - WINDOW_START) >> 12) as usize + 1].into(),
            cr3: 0,
            cr2: 0,
            devices: Devices::new(disk),
            probes: [0; 64],
            paths: Vec::new(),
            flushes: [0; 3],
            cr3_loads: 0,
            evictions: Vec::new(),
            log: None,
            reserve: None,
            operation: 0,
            fail_trylock_every: 0,
            trylocks: 0,
        }
    }

    /// A context with the same contents, to be attached to a clone of the memory before use.
    pub fn detached_copy(&self) -> Host {
        Host {
            mem: std::ptr::null_mut(),
            low_base: std::ptr::null_mut(),
            low_bytes: self.low_bytes,
            axes: self.axes,
            page_offset: self.page_offset,
            slots: self.slots.clone(),
            cr3: self.cr3,
            cr2: self.cr2,
            devices: self.devices.clone(),
            probes: self.probes,
            paths: Vec::new(),
            flushes: self.flushes,
            cr3_loads: self.cr3_loads,
            evictions: self.evictions.clone(),
            log: None,
            reserve: self.reserve.clone(),
            operation: self.operation,
            fail_trylock_every: self.fail_trylock_every,
            trylocks: self.trylocks,
        }
    }

    /// The memory has moved to another place, or is a clone's.
    pub(crate) fn attach(&mut self, mem: *mut PhysMem) {
        self.mem = mem;
        // SAFETY: the caller gives a valid pointer; the reference ends here.
        self.low_base = unsafe { (*mem).low_base() };
    }

    /// What the guest kernel is compiled for.
    pub fn axes(&self) -> Axes {
        self.axes
    }

    /// First address of the direct map.
    pub fn page_offset(&self) -> u32 {
        self.page_offset
    }

    #[inline(always)]
    fn place(&self, p: Kmapped) -> Place {
        let off = p.0.wrapping_sub(self.page_offset);
        if off < self.low_bytes {
            return Place::Low(self.low_base.wrapping_add(off as usize));
        }
        self.high(p)
    }

    #[inline]
    fn high(&self, p: Kmapped) -> Place {
        assert!(
            p.0 >= WINDOW_START,
            "guest address {:#x} is in no window",
            p.0
        );
        let pfn = self.slots[((p.0 - WINDOW_START) >> 12) as usize];
        assert!(
            pfn != NO_FRAME,
            "guest address {:#x}: the slot shows no frame",
            p.0
        );
        Place::High(PhysAddr((u64::from(pfn) << 12) | u64::from(p.0 & 0xfff)))
    }

    fn frame(&self, p: Kmapped) -> Pfn {
        match self.place(p) {
            Place::Low(_) => Pfn((p.0 - self.page_offset) >> 12),
            Place::High(pa) => pa.pfn(),
        }
    }
}

#[derive(Clone, Copy)]
enum Place {
    Low(*mut u8),
    High(PhysAddr),
}

/// The handle.
#[derive(Clone, Copy)]
pub struct Native {
    host: *mut Host,
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Native")
    }
}

impl Native {
    /// The handle over `host`, which must stay where it is while the handle is used.
    pub(crate) fn new(host: *mut Host) -> Self {
        Native { host }
    }

    #[inline(always)]
    #[allow(
        clippy::mut_from_ref,
        reason = "the handle is a copyable pointer by design"
    )]
    fn host(&self) -> &mut Host {
        // SAFETY: the machine keeps the host alive and in place while guest code runs, on one thread; no reference
        // obtained here lives across a call back into guest code.
        unsafe { &mut *self.host }
    }

    #[inline(always)]
    #[allow(
        clippy::mut_from_ref,
        reason = "the handle is a copyable pointer by design"
    )]
    fn mem(&self) -> &mut PhysMem {
        // SAFETY: as for `host`.
        unsafe { &mut *self.host().mem }
    }

    #[inline(always)]
    fn word(self, p: Low<u32>) -> *mut u32 {
        self.low(p.va()).cast()
    }

    #[inline(always)]
    fn update(self, p: Low<u32>, f: impl FnOnce(u32) -> u32) -> u32 {
        let w = self.word(p);
        // SAFETY: `low` yields a pointer inside the reservation.
        unsafe {
            let old = w.read_unaligned();
            w.write_unaligned(f(old));
            old
        }
    }

    #[inline(always)]
    fn update_byte(self, p: Low<u32>, f: impl FnOnce(u8) -> u8) -> u8 {
        let w = self.low(p.va());
        // SAFETY: as for `update`.
        unsafe {
            let old = w.read();
            w.write(f(old));
            old
        }
    }
}

/// Address and bit of the word that a bit operation on `p` reaches.
#[inline(always)]
fn bit_word(p: Low<u32>, bit: u32) -> (Low<u32>, u32) {
    (p.field((bit >> 5) * 4), 1 << (bit & 31))
}

impl Kernel for Native {
    type Rmap = Any;

    #[inline(always)]
    fn axes(self) -> Axes {
        self.host().axes
    }
    #[inline(always)]
    fn page_offset(self) -> u32 {
        self.host().page_offset
    }

    #[inline(always)]
    fn low(self, va: u32) -> *mut u8 {
        let host = self.host();
        // A null or user address wraps to far above low memory: reserved, and faults there.
        host.low_base
            .wrapping_add(va.wrapping_sub(host.page_offset) as usize)
    }

    #[inline(always)]
    fn kread(self, p: Kmapped) -> u32 {
        match self.host().place(p) {
            // SAFETY: inside low memory.
            Place::Low(w) => unsafe { w.cast::<u32>().read_unaligned() },
            Place::High(pa) => self.mem().read_u32(pa),
        }
    }

    #[inline(always)]
    fn kwrite(self, p: Kmapped, v: u32) {
        match self.host().place(p) {
            // SAFETY: inside low memory.
            Place::Low(w) => unsafe { w.cast::<u32>().write_unaligned(v) },
            Place::High(pa) => self.mem().write_u32(pa, v),
        }
    }

    fn clear_page(self, p: Kmapped) {
        let pfn = self.host().frame(p);
        self.mem().clear_page(pfn);
    }

    fn copy_page(self, to: Kmapped, from: Kmapped) {
        let (to, from) = (self.host().frame(to), self.host().frame(from));
        self.mem().copy_page(to, from);
    }

    fn copy_bytes(self, to: Kmapped, from: Kmapped, bytes: u32) {
        let pa = |p: Kmapped| self.host().frame(p).base().plus(u64::from(p.0 & 0xfff));
        let mut buffer = [0; 4096];
        let part = &mut buffer[..bytes as usize];
        self.mem().read_bytes(pa(from), part);
        self.mem().write_bytes(pa(to), part);
    }

    fn slot_mapped(self, slot_va: u32, pfn: u32) {
        assert!(slot_va >= WINDOW_START, "slot {slot_va:#x} is in no window");
        self.host().slots[((slot_va - WINDOW_START) >> 12) as usize] = pfn;
    }

    #[inline(always)]
    fn pte_read(self, p: Kmapped) -> u64 {
        match self.host().place(p) {
            // SAFETY: inside low memory.
            Place::Low(w) => unsafe { w.cast::<u64>().read_unaligned() },
            Place::High(pa) => self.mem().read_u64(pa),
        }
    }

    #[inline(always)]
    fn pte_write_half(self, p: Kmapped, half: Half, v: u32) {
        match half {
            Half::Low => self.kwrite(p, v),
            Half::High => self.kwrite(p.at(4), v),
        }
    }

    #[inline(always)]
    fn pte_xchg_low(self, p: Kmapped, v: u32) -> u32 {
        let old = self.kread(p);
        self.kwrite(p, v);
        old
    }

    #[inline(always)]
    fn pte_test_and_clear_bit(self, p: Kmapped, bit: u32) -> bool {
        let old = self.kread(p);
        self.kwrite(p, old & !(1 << bit));
        old >> bit & 1 != 0
    }

    fn pte_set_64(self, p: Kmapped, v: u64) {
        match self.host().place(p) {
            // SAFETY: inside low memory.
            Place::Low(w) => unsafe { w.cast::<u64>().write_unaligned(v) },
            Place::High(pa) => self.mem().write_u64(pa, v),
        }
    }

    #[inline(always)]
    fn atomic_add(self, p: Low<u32>, v: u32) {
        self.update(p, |old| old.wrapping_add(v));
    }
    #[inline(always)]
    fn atomic_add_return(self, p: Low<u32>, v: u32) -> u32 {
        self.update(p, |old| old.wrapping_add(v)).wrapping_add(v)
    }
    #[inline(always)]
    fn atomic_dec_and_test(self, p: Low<u32>) -> bool {
        self.update(p, |old| old.wrapping_sub(1)) == 1
    }
    #[inline(always)]
    fn set_bit(self, p: Low<u32>, bit: u32) {
        let (p, mask) = bit_word(p, bit);
        self.update(p, |old| old | mask);
    }
    #[inline(always)]
    fn clear_bit(self, p: Low<u32>, bit: u32) {
        let (p, mask) = bit_word(p, bit);
        self.update(p, |old| old & !mask);
    }
    #[inline(always)]
    fn test_and_set_bit(self, p: Low<u32>, bit: u32) -> bool {
        let (p, mask) = bit_word(p, bit);
        self.update(p, |old| old | mask) & mask != 0
    }
    #[inline(always)]
    fn test_and_clear_bit(self, p: Low<u32>, bit: u32) -> bool {
        let (p, mask) = bit_word(p, bit);
        self.update(p, |old| old & !mask) & mask != 0
    }
    #[inline(always)]
    fn spin_lock_byte(self, p: Low<u32>) -> bool {
        self.update_byte(p, |old| old.wrapping_sub(1)) == 1
    }
    #[inline(always)]
    fn spin_trylock_byte(self, p: Low<u32>) -> bool {
        self.update_byte(p, |_| 0) == 1
    }
    #[inline(always)]
    fn spin_unlock_byte(self, p: Low<u32>) {
        self.update_byte(p, |_| 1);
    }
    #[inline(always)]
    fn irq_save(self) -> u32 {
        0
    }
    #[inline(always)]
    fn irq_restore(self, _: u32) {}

    #[inline]
    fn flush(self, flush: Flush) {
        let kind = match flush {
            Flush::Page(_) => 0,
            Flush::Local => 1,
            Flush::Global => 2,
        };
        self.host().flushes[kind] += 1;
    }
    fn load_cr3(self, root: u32) {
        let host = self.host();
        host.cr3 = root;
        host.cr3_loads += 1;
    }
    fn read_cr3(self) -> u32 {
        self.host().cr3
    }
    fn read_cr2(self) -> u32 {
        self.host().cr2
    }
    fn idle(self) {}

    fn direct_copy(self, dir: CopyDir, user: u32, kernel: Kmapped, bytes: u32) -> u32 {
        crate::user_copy::direct_copy(self, dir, user, kernel, bytes)
    }

    #[inline]
    fn probe(self, p: Probe) {
        self.host().probes[p as usize & 63] += 1;
    }
    #[inline]
    fn begin(self, p: Probe) {
        let host = self.host();
        host.probes[p as usize & 63] += 1;
        host.paths.push(p);
        if p == Probe::Reclaim
            && let Some(log) = &mut host.log
        {
            log.begun(self, host.operation);
        }
    }
    #[inline]
    fn end(self, p: Probe) {
        let open = self.host().paths.pop();
        assert!(
            open == Some(p),
            "path {} closed while {open:?} is open",
            p.name()
        );
    }

    fn transfer(self, t: Transfer) {
        let host = self.host();
        // On the CPU the request lies in memory: it does so here, too.
        crate::mailbox::write_transfer(self.mem(), &t);
        if let Err(e) = host.devices.transfer(self.mem(), t) {
            panic!("guest kernel: {e}");
        }
    }

    fn fatal(self, kind: ReportKind, place: u32, detail: u32, value: u32) -> ! {
        // Unwinds to the machine without the panic hook: this is the guest's end, not a panic of ours (decision D17).
        std::panic::resume_unwind(Box::new(GuestFatal {
            kind,
            place,
            detail,
            value,
            backtrace: Backtrace::capture(),
        }))
    }

    fn frame_word(self, pfn: u32, offset: u32) -> u32 {
        self.mem().read_u32(Pfn(pfn).base().plus(u64::from(offset)))
    }

    fn evicted(self, file: u32, index: u32) {
        self.host().evictions.push(if file == u32::MAX {
            Eviction::Swap { slot: index }
        } else {
            Eviction::File { file, index }
        });
    }

    fn decided(self, page: Low<Page>, what: Decision) {
        let host = self.host();
        if let Some(log) = &mut host.log {
            log.decided(self, page, what, &host.probes);
        }
    }

    fn handed_out(self, page: Low<Page>, owner: PageOwner) {
        let host = self.host();
        if let Some(log) = &mut host.log {
            log.handed_out(page_to_pfn(self, page), owner, (host.operation, host.cr2));
        }
    }

    fn lend(self, order: u32, owner: PageOwner) -> Option<Low<Page>> {
        self.host().reserve.as_mut()?.lend(self, order, owner)
    }

    fn take_back(self, page: Low<Page>) -> bool {
        match &mut self.host().reserve {
            Some(reserve) => reserve.take_back(page),
            None => false,
        }
    }

    fn inject_trylock_failure(self) -> bool {
        let host = self.host();
        if host.fail_trylock_every == 0 {
            return false;
        }
        host.trylocks += 1;
        host.trylocks.is_multiple_of(host.fail_trylock_every)
    }
}

impl Native {
    /// Guest memory, for code that belongs to the handle.
    pub(crate) fn memory(&self) -> &mut PhysMem {
        self.mem()
    }
    /// The frame and offset behind `p`.
    pub(crate) fn physical(&self, p: Kmapped) -> PhysAddr {
        self.host().frame(p).base().plus(u64::from(p.0 & 0xfff))
    }
    /// Sets CR2, as a page fault does.
    pub(crate) fn set_cr2(&self, addr: u32) {
        self.host().cr2 = addr;
    }
}
