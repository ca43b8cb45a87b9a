//! A plain native machine for tests: the guest kernel on flat low memory, without caches, timing or devices.
//!
//! Low memory is one mapping inside a 4 GiB reservation, so that a stray guest pointer faults; high frames are boxed pages made
//! on first write. User accesses walk the guest's tables, set A and D as the MMU would, and deliver page faults through
//! `kernel_main`. Invariant: everything the kernel sees goes through [`Native`].
#![allow(
    dead_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use guest_vm::axes::{Axes, BuildKind, CacheKind, ClusterKind, PteKind, SplitKind, StructKind};
use guest_vm::file;
use guest_vm::guest_struct::Layout;
use guest_vm::kernel::{CopyDir, Flush, Half, Kernel, Planted};
use guest_vm::layout::{Frame, Mapping};
use guest_vm::ptr::{Kmapped, Low};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::any::Any;
use guest_vm::{boot, trap};
use lowmem_abi::boot::{BootInfo, CpuStart};
use lowmem_abi::call;
use lowmem_abi::layout as phys;
use lowmem_abi::port::{ReportKind, Transfer, TransferKind, file_word};
use lowmem_abi::probe::Probe;
use proptest::prelude::ProptestConfig;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::marker::PhantomData;

/// An address-space split, chosen by type.
pub trait Access: 'static {
    const SPLIT: SplitKind;
    const PTE: PteKind = PteKind::Low;
    const BUILD: BuildKind = BuildKind::Smp;
    const CACHE: CacheKind = CacheKind::Tagged;
    const STRUCTS: StructKind = StructKind::V2_6;
    /// PAGE_MMUSHIFT of a clustered kernel; None: not clustered.
    const SHIFT: Option<u32> = None;
}
/// 3G/1G.
#[derive(Debug, Clone, Copy)]
pub enum Direct {}
impl Access for Direct {
    const SPLIT: SplitKind = SplitKind::G3G1;
}
/// 3G/1G with pte pages in high memory.
#[derive(Debug, Clone, Copy)]
pub enum DirectHigh {}
impl Access for DirectHigh {
    const SPLIT: SplitKind = SplitKind::G3G1;
    const PTE: PteKind = PteKind::High;
}
/// Like `A`, with pages of 2^N frames.
#[derive(Debug, Clone, Copy)]
pub struct Clustered<A, const N: u32>(PhantomData<A>);
impl<A: Access, const N: u32> Access for Clustered<A, N> {
    const SPLIT: SplitKind = A::SPLIT;
    const PTE: PteKind = A::PTE;
    const BUILD: BuildKind = A::BUILD;
    const CACHE: CacheKind = A::CACHE;
    const STRUCTS: StructKind = A::STRUCTS;
    const SHIFT: Option<u32> = Some(N);
}
/// 3G/1G without locks.
#[derive(Debug, Clone, Copy)]
pub enum DirectUp {}
impl Access for DirectUp {
    const SPLIT: SplitKind = SplitKind::G3G1;
    const BUILD: BuildKind = BuildKind::Up;
}
/// 4G/4G with pte pages in high memory.
#[derive(Debug, Clone, Copy)]
pub enum SplitHigh {}
impl Access for SplitHigh {
    const SPLIT: SplitKind = SplitKind::G4G4;
    const PTE: PteKind = PteKind::High;
}
/// 4G/4G.
#[derive(Debug, Clone, Copy)]
pub enum Split {}
impl Access for Split {
    const SPLIT: SplitKind = SplitKind::G4G4;
}

/// 3G/1G, with a page cache of lists.
#[derive(Debug, Clone, Copy)]
pub enum Listed {}
impl Access for Listed {
    const SPLIT: SplitKind = SplitKind::G3G1;
    const CACHE: CacheKind = CacheKind::Lists;
}

/// 3G/1G, with a page cache of lists and the structures of 2.4.
#[derive(Debug, Clone, Copy)]
pub enum Old {}
impl Access for Old {
    const SPLIT: SplitKind = SplitKind::G3G1;
    const CACHE: CacheKind = CacheKind::Lists;
    const STRUCTS: StructKind = StructKind::V2_4;
}

/// 4G/4G as RHEL3: pte pages in high memory, a page cache of lists, the structures of 2.4.
#[derive(Debug, Clone, Copy)]
pub enum OldSplitHigh {}
impl Access for OldSplitHigh {
    const SPLIT: SplitKind = SplitKind::G4G4;
    const PTE: PteKind = PteKind::High;
    const CACHE: CacheKind = CacheKind::Lists;
    const STRUCTS: StructKind = StructKind::V2_4;
}

/// Another split or kernel, built without locks.
#[derive(Debug, Clone, Copy)]
pub struct Up<U>(PhantomData<U>);
impl<U: Access> Access for Up<U> {
    const SPLIT: SplitKind = U::SPLIT;
    const PTE: PteKind = U::PTE;
    const BUILD: BuildKind = BuildKind::Up;
    const CACHE: CacheKind = U::CACHE;
    const STRUCTS: StructKind = U::STRUCTS;
    const SHIFT: Option<u32> = U::SHIFT;
}

const GIB4: usize = 1 << 32;

/// Counts a test may look at.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub flush_page: u64,
    pub flush_local: u64,
    pub flush_global: u64,
    pub cr3_loads: u64,
    /// Lock-prefixed read-modify-writes.
    pub locked: u64,
    pub faults: u64,
}

/// Pages of files by file and index.
type Disk = HashMap<(u32, u32), Box<[u32; 1024]>>;

/// One machine's memory and devices. Leaked, so that the handle can be `Copy` without a lifetime.
pub struct Context {
    base: *mut u8,
    axes: Axes,
    low_frames: u32,
    page_offset: u32,
    slots_start: u32,
    slots: RefCell<Vec<u32>>,
    high: RefCell<HashMap<u32, Box<[u32; 1024]>>>,
    swap: RefCell<HashMap<u32, Box<[u32; 1024]>>>,
    /// File pages on disk, by file and index, and from which page on a file reads as zeros.
    pub disk: RefCell<Disk>,
    pub ends: RefCell<HashMap<u32, u32>>,
    /// File pages in the order they were submitted.
    pub written: RefCell<Vec<(u32, u32)>>,
    pub counts: RefCell<Counts>,
    pub probes: RefCell<std::collections::BTreeMap<Probe, u64>>,
    paths: RefCell<Vec<Probe>>,
    cr2: Cell<u32>,
    cr3: Cell<u32>,
    /// Every n-th trylock fails; 0: none.
    pub fail_trylock: Cell<u32>,
    trylocks: Cell<u32>,
    /// Every n-th page allocation fails; 0: none.
    pub fail_alloc: Cell<u32>,
    allocs: Cell<u32>,
    /// So many page allocations succeed, then all fail.
    pub alloc_budget: Cell<Option<u32>>,
    /// A bug that the kernel has.
    pub planted: Cell<Option<Planted>>,
    /// (file or `u32::MAX`, page or slot) of each page that reclaim freed, in order.
    pub evictions: RefCell<Vec<(u32, u32)>>,
    /// Milliseconds that the kernel slept.
    pub waited_ms: Cell<u64>,
}

/// The handle: one type for all schemes and splits, so that the kernel is compiled once for each test file.
#[derive(Clone, Copy)]
pub struct Native {
    c: &'static Context,
}

impl Native {
    fn low_word(self, va: u32) -> *mut u32 {
        let pa = va.wrapping_sub(self.c.page_offset);
        assert!(
            pa >> 12 < self.c.low_frames,
            "guest address {va:#x} outside low memory"
        );
        // SAFETY: below the end of the mapping, checked above.
        unsafe { self.c.base.add(pa as usize).cast() }
    }
    /// Runs `f` on the word at physical (pfn, offset).
    fn word_at(self, pfn: u32, offset: u32, write: Option<u32>) -> u32 {
        if pfn < self.c.low_frames {
            // SAFETY: the frame is in the mapping.
            unsafe {
                let p = self
                    .c
                    .base
                    .add(((pfn as usize) << 12) + offset as usize)
                    .cast::<u32>();
                if let Some(v) = write {
                    p.write_unaligned(v);
                }
                return p.read_unaligned();
            }
        }
        assert!(offset % 4 == 0);
        let mut high = self.c.high.borrow_mut();
        match write {
            Some(v) => {
                high.entry(pfn).or_insert_with(|| Box::new([0; 1024]))[offset as usize / 4] = v;
                v
            }
            None => high.get(&pfn).map_or(0, |p| p[offset as usize / 4]),
        }
    }
    fn resolve(self, p: Kmapped) -> (u32, u32) {
        if p.0 >= self.c.slots_start {
            let pfn = self.c.slots.borrow()[((p.0 - self.c.slots_start) >> 12) as usize];
            assert_ne!(pfn, u32::MAX, "slot {:#x} shows no frame", p.0);
            (pfn, p.0 & 0xfff)
        } else {
            (p.0.wrapping_sub(self.c.page_offset) >> 12, p.0 & 0xfff)
        }
    }
    /// What the disk has of a page of a file.
    pub fn on_disk(self, (file, index): (u32, u32)) -> Box<[u32; 1024]> {
        if let Some(page) = self.c.disk.borrow().get(&(file, index)) {
            return page.clone();
        }
        let mut page = Box::new([0; 1024]);
        if index < self.c.ends.borrow().get(&file).copied().unwrap_or(u32::MAX) {
            for n in 0..4 {
                page[n as usize * 256] = file_word(file, index, n);
            }
        }
        page
    }
    pub fn read_page(self, pfn: u32) -> Box<[u32; 1024]> {
        let mut page = Box::new([0; 1024]);
        for (i, w) in page.iter_mut().enumerate() {
            *w = self.word_at(pfn, i as u32 * 4, None);
        }
        page
    }
    pub fn write_page(self, pfn: u32, page: &[u32; 1024]) {
        for (i, w) in page.iter().enumerate() {
            self.word_at(pfn, i as u32 * 4, Some(*w));
        }
    }
    /// A lock prefix, which an `up` build leaves out.
    fn locked(self) {
        if self.smp() {
            self.always_locked();
        }
    }
    /// An exchange with memory, or a compare-exchange with an explicit prefix.
    fn always_locked(self) {
        self.c.counts.borrow_mut().locked += 1;
    }
    fn rmw(self, p: Low<u32>, f: impl FnOnce(u32) -> u32) -> u32 {
        self.locked();
        let at = self.low_word(p.va());
        // SAFETY: `low_word` checked it.
        unsafe {
            let old = at.read_unaligned();
            at.write_unaligned(f(old));
            old
        }
    }
}

impl Kernel for Native {
    type Rmap = Any;

    fn axes(self) -> Axes {
        self.c.axes
    }
    fn low(self, va: u32) -> *mut u8 {
        let pa = va.wrapping_sub(self.c.page_offset);
        assert!(
            pa >> 12 < self.c.low_frames,
            "guest address {va:#x} outside low memory"
        );
        // SAFETY: inside the reservation.
        unsafe { self.c.base.add(pa as usize) }
    }
    fn kread(self, p: Kmapped) -> u32 {
        let (pfn, offset) = self.resolve(p);
        self.word_at(pfn, offset, None)
    }
    fn kwrite(self, p: Kmapped, v: u32) {
        let (pfn, offset) = self.resolve(p);
        self.word_at(pfn, offset, Some(v));
    }
    fn clear_page(self, p: Kmapped) {
        let (pfn, offset) = self.resolve(p);
        assert_eq!(offset, 0);
        if pfn >= self.c.low_frames {
            self.c.high.borrow_mut().remove(&pfn);
            return;
        }
        self.write_page(pfn, &[0; 1024]);
    }
    fn copy_page(self, to: Kmapped, from: Kmapped) {
        let page = self.read_page(self.resolve(from).0);
        self.write_page(self.resolve(to).0, &page);
    }
    fn copy_bytes(self, to: Kmapped, from: Kmapped, bytes: u32) {
        for i in 0..bytes {
            let (pfn, at) = self.resolve(from);
            let at = at + i;
            let byte = self.word_at(pfn, at & !3, None).to_le_bytes()[(at & 3) as usize];
            let (pfn, at) = self.resolve(to);
            let at = at + i;
            let mut word = self.word_at(pfn, at & !3, None).to_le_bytes();
            word[(at & 3) as usize] = byte;
            self.word_at(pfn, at & !3, Some(u32::from_le_bytes(word)));
        }
    }
    fn slot_mapped(self, slot_va: u32, pfn: u32) {
        self.c.slots.borrow_mut()[((slot_va - self.c.slots_start) >> 12) as usize] = pfn;
    }
    fn pte_read(self, p: Kmapped) -> u64 {
        u64::from(self.kread(p)) | u64::from(self.kread(p.at(4))) << 32
    }
    fn pte_write_half(self, p: Kmapped, half: Half, v: u32) {
        match half {
            Half::Low => self.kwrite(p, v),
            Half::High => self.kwrite(p.at(4), v),
        }
    }
    fn pte_xchg_low(self, p: Kmapped, v: u32) -> u32 {
        self.always_locked();
        let old = self.kread(p);
        self.kwrite(p, v);
        old
    }
    fn pte_test_and_clear_bit(self, p: Kmapped, bit: u32) -> bool {
        self.locked();
        let old = self.kread(p);
        self.kwrite(p, old & !(1 << bit));
        old & 1 << bit != 0
    }
    fn pte_set_64(self, p: Kmapped, v: u64) {
        self.always_locked();
        self.kwrite(p, v as u32);
        self.kwrite(p.at(4), (v >> 32) as u32);
    }
    fn atomic_add(self, p: Low<u32>, v: u32) {
        self.rmw(p, |x| x.wrapping_add(v));
    }
    fn atomic_add_return(self, p: Low<u32>, v: u32) -> u32 {
        self.rmw(p, |x| x.wrapping_add(v)).wrapping_add(v)
    }
    fn atomic_dec_and_test(self, p: Low<u32>) -> bool {
        self.rmw(p, |x| x.wrapping_sub(1)) == 1
    }
    fn set_bit(self, p: Low<u32>, bit: u32) {
        self.rmw(p, |x| x | 1 << bit);
    }
    fn clear_bit(self, p: Low<u32>, bit: u32) {
        self.rmw(p, |x| x & !(1 << bit));
    }
    fn test_and_set_bit(self, p: Low<u32>, bit: u32) -> bool {
        self.rmw(p, |x| x | 1 << bit) & 1 << bit != 0
    }
    fn test_and_clear_bit(self, p: Low<u32>, bit: u32) -> bool {
        self.rmw(p, |x| x & !(1 << bit)) & 1 << bit != 0
    }
    fn spin_lock_byte(self, p: Low<u32>) -> bool {
        self.rmw(p, |x| (x & !0xff) | (x.wrapping_sub(1) & 0xff)) & 0xff == 1
    }
    fn spin_trylock_byte(self, p: Low<u32>) -> bool {
        self.rmw(p, |x| x & !0xff) & 0xff == 1
    }
    fn spin_unlock_byte(self, p: Low<u32>) {
        let at = self.low_word(p.va());
        // SAFETY: `low_word` checked it.
        unsafe { at.write_unaligned(at.read_unaligned() & !0xff | 1) }
    }
    fn irq_save(self) -> u32 {
        0
    }
    fn irq_restore(self, _: u32) {}
    fn flush(self, flush: Flush) {
        let mut c = self.c.counts.borrow_mut();
        match flush {
            Flush::Page(_) => c.flush_page += 1,
            Flush::Local => c.flush_local += 1,
            Flush::Global => c.flush_global += 1,
        }
    }
    fn load_cr3(self, root: u32) {
        assert_eq!(root & 31, 0);
        self.c.counts.borrow_mut().cr3_loads += 1;
        self.c.cr3.set(root);
    }
    fn read_cr3(self) -> u32 {
        self.c.cr3.get()
    }
    fn read_cr2(self) -> u32 {
        self.c.cr2.get()
    }
    fn idle(self) {}
    fn direct_copy(self, dir: CopyDir, user: u32, kernel: Kmapped, bytes: u32) -> u32 {
        let mut done = 0;
        while done < bytes {
            let at = user + done;
            let n = (4096 - (at & 0xfff)).min(bytes - done);
            let write = dir == CopyDir::ToUser;
            let mut tries = 0;
            let pfn = loop {
                match self.mmu(at, write, Ring::Kernel) {
                    Ok(pfn) => break pfn,
                    Err(error) => {
                        tries += 1;
                        assert!(tries < 8, "copy at {at:#x} does not get on");
                        self.c.cr2.set(at);
                        self.c.counts.borrow_mut().faults += 1;
                        if !trap::kernel_fault(self, at, error) {
                            return bytes - done;
                        }
                    }
                }
            };
            for i in 0..n {
                let (user_at, kernel_at) = ((at & 0xfff) + i, self.resolve(kernel.at(done + i)));
                let (from, to) = match dir {
                    CopyDir::FromUser => ((pfn, user_at), kernel_at),
                    CopyDir::ToUser => (kernel_at, (pfn, user_at)),
                };
                let byte =
                    self.word_at(from.0, from.1 & !3, None).to_le_bytes()[(from.1 & 3) as usize];
                let mut word = self.word_at(to.0, to.1 & !3, None).to_le_bytes();
                word[(to.1 & 3) as usize] = byte;
                self.word_at(to.0, to.1 & !3, Some(u32::from_le_bytes(word)));
            }
            done += n;
        }
        0
    }
    fn probe(self, p: Probe) {
        *self.c.probes.borrow_mut().entry(p).or_default() += 1;
    }
    fn begin(self, p: Probe) {
        *self.c.probes.borrow_mut().entry(p).or_default() += 1;
        self.c.paths.borrow_mut().push(p);
    }
    fn end(self, p: Probe) {
        let open = self.c.paths.borrow_mut().pop();
        assert_eq!(open, Some(p), "paths do not pair");
    }
    fn transfer(self, t: Transfer) {
        let place = (t.file, t.index);
        if t.kind == TransferKind::FileRead as u32 {
            let page = self.on_disk(place);
            self.write_page(t.pfn, &page);
        } else if t.kind == TransferKind::FileWrite as u32 {
            let page = self.read_page(t.pfn);
            self.c.disk.borrow_mut().insert(place, page);
            self.c.written.borrow_mut().push(place);
        } else if t.kind == TransferKind::FileTruncate as u32 {
            let mut disk = self.c.disk.borrow_mut();
            disk.retain(|at, _| at.0 != t.file || at.1 < t.index);
            let mut ends = self.c.ends.borrow_mut();
            let end = ends.entry(t.file).or_insert(u32::MAX);
            *end = t.index.min(*end);
        } else if t.kind == TransferKind::Wait as u32 {
            self.c
                .waited_ms
                .set(self.c.waited_ms.get() + u64::from(t.index));
        } else if t.kind == TransferKind::SwapWrite as u32 {
            self.c
                .swap
                .borrow_mut()
                .insert(t.index, self.read_page(t.pfn));
        } else if t.kind == TransferKind::SwapRead as u32 {
            let page = self.c.swap.borrow()[&t.index].clone();
            self.write_page(t.pfn, &page);
        }
    }
    fn fatal(self, kind: ReportKind, place: u32, detail: u32, value: u32) -> ! {
        match kind {
            ReportKind::Bug => panic!(
                "BUG at {}:{detail}, value {value:#x}",
                guest_vm::bug::FILES.get(place as usize).unwrap_or(&"?")
            ),
            _ => panic!("{kind:?}: place {place}, detail {detail:#x}, value {value:#x}"),
        }
    }
    fn frame_word(self, pfn: u32, offset: u32) -> u32 {
        self.word_at(pfn, offset, None)
    }

    fn evicted(self, file: u32, index: u32) {
        self.c.evictions.borrow_mut().push((file, index));
    }
    fn inject_alloc_failure(self) -> bool {
        if let Some(left) = self.c.alloc_budget.get() {
            self.c.alloc_budget.set(Some(left.saturating_sub(1)));
            return left == 0;
        }
        let every = self.c.fail_alloc.get();
        if every == 0 {
            return false;
        }
        self.c.allocs.set(self.c.allocs.get() + 1);
        self.c.allocs.get() % every == 0
    }
    fn planted(self, bug: Planted) -> bool {
        self.c.planted.get() == Some(bug)
    }
    fn inject_trylock_failure(self) -> bool {
        let every = self.c.fail_trylock.get();
        if every == 0 {
            return false;
        }
        self.c.trylocks.set(self.c.trylocks.get() + 1);
        self.c.trylocks.get() % every == 0
    }
}

/// Who accesses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    Kernel,
    User,
}

impl Native {
    /// The MMU: walks the running mm's tables, sets A and D; the frame, or the error code of a page fault.
    pub fn mmu(self, va: u32, write: bool, ring: Ring) -> Result<u32, u32> {
        let k = self;
        let mut error = (u32::from(write) << 1) | (u32::from(ring == Ring::User) << 2);
        let mm = guest_vm::mm::current_mm(k);
        let pmd = guest_vm::pgtable::pmd_offset(k, mm, va);
        let (low, high) = (pmd.read(k), pmd.field::<u32>(4).read(k));
        if low & 1 == 0 {
            return Err(error);
        }
        let (table, at) = (low >> 12 | high << 20, ((va >> 12) & 511) * 8);
        let half = |at: u32| u64::from(k.word_at(table, at, None));
        let entry = half(at) | half(at + 4) << 32;
        if entry & 1 == 0 {
            return Err(error);
        }
        error |= 1;
        if entry & 4 == 0 || (write && entry & 2 == 0) {
            return Err(error);
        }
        let ad = 0x20 | if write { 0x40 } else { 0 };
        k.word_at(table, at, Some(entry as u32 | ad));
        Ok((entry >> 12) as u32)
    }
}

/// A machine.
pub struct Harness<R, U> {
    pub k: Native,
    _p: PhantomData<fn() -> (R, U)>,
    frame: Low<Frame>,
}

impl<R, U> Harness<R, U>
where
    R: Scheme,
    U: Access,
{
    /// A machine of `ram_mb`, with the parameters of [`Self::info`].
    pub fn new(ram_mb: u32) -> Self {
        Self::with_info(Self::info(ram_mb))
    }

    pub fn info(ram_mb: u32) -> BootInfo {
        BootInfo {
            magic: BootInfo::MAGIC,
            ram_frames: ram_mb << 8,
            image_end_frame: 0x140,
            cpus: 1,
            hz: 1000,
            stack_bytes: 8192,
            chain_line: 128,
            file_vmas: 1,
            swap_slots: 4096,
            buffers: 1,
            ..BootInfo::default()
        }
    }

    pub fn with_info(info: BootInfo) -> Self {
        let axes = Axes {
            rmap: R::KIND,
            split: U::SPLIT,
            pte: U::PTE,
            build: U::BUILD,
            page_cache: U::CACHE,
            structs: U::STRUCTS,
            cluster: match U::SHIFT {
                None => ClusterKind::Single,
                Some(_) => ClusterKind::Clustered,
            },
        };
        let info = BootInfo {
            cluster: U::SHIFT.unwrap_or(0),
            ..info
        };
        let (page_offset, maxmem) = (axes.page_offset(), axes.maxmem_of(info.cluster));
        let low_frames = info.ram_frames.min(maxmem >> 12);
        let slots_start = axes.pkmap_base();
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
        // SAFETY: a fresh private mapping, never unmapped (the context is leaked with it).
        let base = unsafe {
            let base = rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                GIB4,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
            .expect("address space for a reservation");
            rustix::mm::mprotect(
                base,
                (low_frames as usize) << 12,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
            .expect("low memory");
            base.cast::<u8>()
        };
        let slots = ((u64::from(u32::MAX) + 1 - u64::from(slots_start)) >> 12) as usize;
        let c: &'static Context = Box::leak(Box::new(Context {
            base,
            axes,
            low_frames,
            page_offset,
            slots_start,
            slots: RefCell::new(vec![u32::MAX; slots]),
            high: RefCell::default(),
            swap: RefCell::default(),
            disk: RefCell::default(),
            ends: RefCell::default(),
            written: RefCell::default(),
            counts: RefCell::default(),
            probes: RefCell::default(),
            paths: RefCell::default(),
            cr2: Cell::new(0),
            cr3: Cell::new(0),
            fail_trylock: Cell::new(0),
            trylocks: Cell::new(0),
            fail_alloc: Cell::new(0),
            allocs: Cell::new(0),
            alloc_budget: Cell::new(None),
            planted: Cell::new(None),
            evictions: RefCell::default(),
            waited_ms: Cell::new(0),
        }));
        // SAFETY: BOOT_INFO lies in low memory, and BootInfo is made of words.
        unsafe {
            base.add(phys::BOOT_INFO as usize)
                .cast::<BootInfo>()
                .write(info)
        };
        Harness {
            k: Native { c },
            _p: PhantomData,
            frame: Low::NULL,
        }
    }

    pub fn context(&self) -> &'static Context {
        self.k.c
    }

    /// Boots; the first task stands at its first user instruction, with an empty mm.
    pub fn boot(&mut self) {
        self.frame = boot::boot(self.k);
    }

    pub fn cpu_start(&self) -> CpuStart {
        // SAFETY: boot wrote it; it is made of words.
        unsafe {
            self.k
                .c
                .base
                .add(phys::CPU_START as usize)
                .cast::<CpuStart>()
                .read()
        }
    }

    /// Writes a word of the mailbox by field.
    pub fn mailbox(&self) -> &'static mut lowmem_abi::mailbox::Mailbox {
        // SAFETY: in low memory, made of words; tests do not hold two at once.
        unsafe { &mut *self.k.c.base.add(phys::MAILBOX as usize).cast() }
    }

    /// Writes the list of mappings for the next exec.
    pub fn exec_list(&self, list: &[lowmem_abi::mailbox::ExecMapping]) {
        let at = lowmem_abi::mailbox::EXEC_LIST as usize;
        for (i, m) in list.iter().enumerate() {
            // SAFETY: the list lies in low memory; the caller keeps to EXEC_LIST_MAX.
            unsafe {
                self.k
                    .c
                    .base
                    .add(at)
                    .cast::<lowmem_abi::mailbox::ExecMapping>()
                    .add(i)
                    .write(*m)
            };
        }
        self.mailbox().exec_count = list.len() as u32;
    }

    /// Enters the kernel and takes the frame it returns.
    pub fn enter(&mut self, vector: u32) {
        self.frame = trap::kernel_main(self.k, self.frame, vector);
        assert!(self.k.c.paths.borrow().is_empty(), "paths left open");
        assert_eq!(guest_vm::percpu::this_cpu(self.k).preempt_count(self.k), 0);
    }

    /// A system call of the running task; eax of the task that runs afterwards.
    pub fn syscall(&mut self, nr: u32, args: [u32; 6]) -> u32 {
        let (k, f) = (self.k, self.frame);
        f.set_eax(k, nr);
        f.set_orig_eax(k, nr);
        f.set_ebx(k, args[0]);
        f.set_ecx(k, args[1]);
        f.set_edx(k, args[2]);
        f.set_esi(k, args[3]);
        f.set_edi(k, args[4]);
        f.set_ebp(k, args[5]);
        self.enter(lowmem_abi::boot::VECTOR_SYSTEM_CALL);
        self.frame.eax(k)
    }

    pub fn frame(&self) -> Low<Frame> {
        self.frame
    }

    /// A user access; faults are delivered until it succeeds. The frame that was reached.
    pub fn touch(&mut self, va: u32, write: bool) -> u32 {
        for _ in 0..8 {
            match self.k.mmu(va, write, Ring::User) {
                Ok(pfn) => return pfn,
                Err(error) => {
                    self.k.c.cr2.set(va);
                    self.k.c.counts.borrow_mut().faults += 1;
                    self.frame.set_orig_eax(self.k, error);
                    self.enter(trap::VECTOR_PAGE_FAULT);
                }
            }
        }
        panic!("access to {va:#x} does not complete");
    }

    pub fn read_user(&mut self, va: u32) -> u32 {
        let pfn = self.touch(va, false);
        self.k.word_at(pfn, va & 0xffc, None)
    }

    pub fn write_user(&mut self, va: u32, v: u32) {
        let pfn = self.touch(va, true);
        self.k.word_at(pfn, va & 0xffc, Some(v));
    }

    /// fsync of a file, which must succeed.
    pub fn fsync(&mut self, file: u32) {
        assert_eq!(self.syscall(call::FSYNC, [file, 0, 0, 0, 0, 0]), 0);
    }

    /// The address_space of a file.
    pub fn mapping(&self, file: u32) -> Low<Mapping> {
        let f = file::fget(self.k, file).unwrap();
        let m = f.f_mapping(self.k);
        file::fput(self.k, f);
        m
    }

    pub fn counts(&self) -> Counts {
        self.k.c.counts.borrow().clone()
    }

    pub fn probe_count(&self, p: Probe) -> u64 {
        self.k.c.probes.borrow().get(&p).copied().unwrap_or(0)
    }
}

/// For tests of the core alone: any scheme will do.
pub type NoRmap = AnonVmaMap;

/// Size of a layout in the image of `K`.
pub fn size_of<T: Layout, K: Kernel>(k: K) -> u32 {
    T::size(k)
}

/// A property test of that many cases, without files beside the tests.
pub fn cases(n: u32) -> ProptestConfig {
    ProptestConfig {
        cases: n,
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
