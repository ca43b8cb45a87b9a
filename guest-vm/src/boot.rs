//! Boot: the kernel's page tables, mem_map, zones, slab, descriptor tables, the first task; ends by writing CpuStart.
//!
//! One function, run natively or on the CPU, and both leave the same memory. Order and places follow arch/i386/mm/init.c and
//! mm/bootmem.c of 2.6.7: what must exist before the allocator lies directly behind the image; mem_map goes to 16 MB upwards
//! (the goal of boot allocations, so that DMA memory stays free) if it fits there. Direct map by 2 MB pages, global on 3G/1G.
//! Leaves out: everything that is not memory management. Pages 640 kB to 1 MB are reserved as on a PC, although RAM is flat.
//!
//! Invariant: after boot each frame is either on a free list or reserved with an owner.

use crate::arch::{self, ArchRoot, GDT_BYTES, IDT_BYTES, SYSENTER_RETURN, SYSENTER_STACK, arch};
use crate::bug_on;
use crate::cluster;
use crate::guest_struct;
use crate::kernel::Kernel;
use crate::kmap::{self, FIX_VSYSCALL, LAST_PKMAP, fix_to_virt, pkmap_base};
use crate::layout::{Frame, page_struct_bytes, pg};
use crate::page_alloc::zone::{self, MAX_NR_ZONES, MAX_ORDER, ZoneKind, node};
use crate::page_alloc::{Zone, buddy, pcp, pfn_to_page};
use crate::pgtable::{ACCESSED, DIRTY, GLOBAL, PRESENT, PSE, Prot, Pte, RW, TABLE};
use crate::ptr::{Kmapped, Low};
use crate::rmap::ReverseMap;
use crate::root;
use crate::slab;
use lowmem_abi::boot::{BootInfo, CpuStart};
use lowmem_abi::layout::{BOOT_INFO, BOOT_STACK_END, CPU_START, IMAGE, PAGE_SIZE, ROOT, ROOT_END};
use lowmem_abi::owner::Owner;
use lowmem_abi::port::ReportKind;

guest_struct! {
    /// [`BootInfo`] as the guest reads it.
    pub struct Info [K] size 120;
    at 0 => word magic, set_magic: u32;
    at 4 => word ram_frames, set_ram_frames: u32;
    at 8 => word image_end_frame, set_image_end_frame: u32;
    at 12 => word cpus, set_cpus: u32;
    at 16 => word hz, set_hz: u32;
    at 20 => word entry, set_entry: u32;
    at 24 => word stack_bytes, set_stack_bytes: u32;
    at 28 => word young_flush, set_young_flush: u32;
    at 32 => word chain_line, set_chain_line: u32;
    at 36 => word file_vmas, set_file_vmas: u32;
    at 40 => word layout_seed, set_layout_seed: u32;
    at 44 => word swap_slots, set_swap_slots: u32;
    at 48 => word vfork_is_fork, set_vfork_is_fork: u32;
    at 52 => word nx, set_nx: u32;
    at 56 => part symbols: InfoSymbols;
    at 100 => word reclaim, set_reclaim: u32;
    at 104 => word anon_vma_reuse, set_anon_vma_reuse: u32;
    at 108 => word nonlinear, set_nonlinear: u32;
    at 112 => word cluster, set_cluster: u32;
    at 116 => word buffers, set_buffers: u32;
}

guest_struct! {
    /// [`lowmem_abi::boot::Symbols`] as the guest reads it.
    pub struct InfoSymbols [K] size 44;
    at 0 => word exception_stubs, set_exception_stubs: u32;
    at 4 => word system_call, set_system_call: u32;
    at 8 => word tick, set_tick: u32;
    at 12 => word resched, set_resched: u32;
    at 16 => word unmap, set_unmap: u32;
    at 20 => word sysenter, set_sysenter: u32;
    at 24 => word trampoline_start, set_trampoline_start: u32;
    at 28 => word trampoline_end, set_trampoline_end: u32;
    at 32 => word user_copy_start, set_user_copy_start: u32;
    at 36 => word user_copy_end, set_user_copy_end: u32;
    at 40 => word user_copy_fixup, set_user_copy_fixup: u32;
}

/// The boot information.
#[inline(always)]
pub fn info<K: Kernel>(k: K) -> Low<Info> {
    root::low_at(k, BOOT_INFO)
}

impl Low<Info> {
    /// 4G/4G: first frame of the trampoline text, which the image holds as its first two pages; 0 without an image.
    pub fn trampoline_pfn<K: Kernel>(self, k: K) -> u32 {
        if self.symbols(k).trampoline_start(k) == 0 {
            0
        } else {
            IMAGE >> 12
        }
    }
}

/// Boot allocations before there is an allocator: upwards from the image's end.
struct Bootmem {
    next_pfn: u32,
}

impl Bootmem {
    /// `pages` pages, not cleared; their direct-map address.
    fn take<K: Kernel>(&mut self, k: K, pages: u32) -> u32 {
        let va = k.page_offset().wrapping_add(self.next_pfn << 12);
        self.next_pfn += pages;
        va
    }
    /// One cleared page.
    fn take_clear<K: Kernel>(&mut self, k: K) -> u32 {
        let va = self.take(k, 1);
        k.clear_page(Kmapped(va));
        va
    }
}

impl Bootmem {
    /// Leaves frames until a page begins.
    fn align<K: Kernel>(&mut self, k: K) {
        self.next_pfn = page_up(k, self.next_pfn);
    }
}

/// The first frame of a page, this one or behind it.
#[inline(always)]
fn page_up<K: Kernel>(k: K, pfn: u32) -> u32 {
    (pfn + cluster::mmu_count(k) - 1) & !(cluster::mmu_count(k) - 1)
}

/// The first frame of the page this frame is in.
#[inline(always)]
fn page_down<K: Kernel>(k: K, pfn: u32) -> u32 {
    pfn & !(cluster::mmu_count(k) - 1)
}

/// Where boot put things, in frames.
struct Plan {
    max_pfn: u32,
    max_low_pfn: u32,
    image_end: u32,
    boot_end: u32,
    slab_start: u32,
    slab_end: u32,
    mem_map: u32,
    mem_map_end: u32,
}

/// Brings the machine up and writes CpuStart; returns the first user frame, which is the next thing to run.
pub fn boot<K: Kernel>(k: K) -> Low<Frame> {
    boot_core(k);
    let first = start(k);
    finish(k);
    first
}

/// Boot as far as this core goes: page tables, zones, slab, descriptor tables. Tests of the core stop here.
pub fn boot_core<K: Kernel>(k: K) {
    let i = info(k);
    bug_on!(k, Boot, i.magic(k) != BootInfo::MAGIC, i.magic(k));
    bug_on!(
        k,
        Boot,
        i.stack_bytes(k) != arch::THREAD_SIZE,
        i.stack_bytes(k)
    );
    let n = node(k);
    if cluster::clustered(k) {
        bug_on!(k, Boot, i.cluster(k) > cluster::MAX_SHIFT, i.cluster(k));
        n.set_mmu_shift(k, i.cluster(k));
    }
    let maxmem = k.axes().maxmem_of(cluster::mmu_shift(k)) >> 12;
    let max_pfn = page_down(k, i.ram_frames(k));
    let max_low_pfn = if max_pfn < maxmem { max_pfn } else { maxmem };
    n.set_max_pfn(k, max_pfn);
    n.set_max_low_pfn(k, max_low_pfn);
    n.set_l1_line(k, i.chain_line(k));

    let mut bootmem = Bootmem {
        next_pfn: i.image_end_frame(k),
    };
    paging_init(k, &mut bootmem, max_low_pfn);
    kmap::init(k);
    arch::map_shared_tables(k);
    arch::init_tables(k);
    vsyscall_page(k, &mut bootmem);
    let slab_pages = slab::boot_bytes(k).div_ceil(PAGE_SIZE);
    let slab_arrays = bootmem.take(k, slab_pages);
    let slab_start = bootmem.next_pfn - slab_pages;

    zones_init(k, &mut bootmem);
    bootmem.align(k);
    let struct_pages = max_pfn >> cluster::mmu_shift(k);
    let mem_map_pages = page_up(k, (struct_pages * page_struct_bytes(k)).div_ceil(PAGE_SIZE));
    let dma_end = zone_bounds(k, ZoneKind::Dma).1;
    // Goal of boot allocations: above the DMA zone.
    let goal = if bootmem.next_pfn > dma_end {
        bootmem.next_pfn
    } else {
        dma_end
    };
    let mem_map = if goal + mem_map_pages < max_low_pfn {
        goal
    } else {
        bootmem.next_pfn
    };
    if mem_map + mem_map_pages >= max_low_pfn {
        k.fatal(
            ReportKind::OutOfMemory,
            ZoneKind::Normal as u32,
            0,
            Owner::MemMap as u32,
        );
    }
    let plan = Plan {
        max_pfn,
        max_low_pfn,
        image_end: i.image_end_frame(k),
        boot_end: bootmem.next_pfn,
        slab_start,
        slab_end: slab_start + slab_pages,
        mem_map,
        mem_map_end: mem_map + mem_map_pages,
    };
    n.set_mem_map(k, k.page_offset().wrapping_add(mem_map << 12));
    mem_map_init(k, &plan);
    free_all(k, &plan);
    zone::setup_watermarks(k);
    slab::init(k, slab_arrays);
}

/// The parts above the core.
fn start<K: Kernel>(k: K) -> Low<Frame> {
    let made = crate::task::init(k)
        .and_then(|()| crate::objects::init(k))
        .and_then(|()| <K::Rmap as ReverseMap<K>>::boot(k))
        .and_then(|()| crate::task::start_first(k));
    match made {
        Ok(frame) => frame,
        Err(oom) => k.fatal(ReportKind::OutOfMemory, 0, 0, oom.owner as u32),
    }
}

/// The kernel's page directories, the direct map, the page tables of fixmap and kmap window (paging_init).
fn paging_init<K: Kernel>(k: K, bootmem: &mut Bootmem, max_low_pfn: u32) {
    let root: Low<ArchRoot> = arch(k);
    let first_slot = k.page_offset() >> 30;
    let empty = bootmem.take_clear(k);
    let mut slot = 0;
    while slot < 4 {
        let pmd = if slot < first_slot {
            empty
        } else {
            bootmem.take_clear(k)
        };
        let pa = pmd.wrapping_sub(k.page_offset());
        root.set_swapper(k, slot * 2, pa | PRESENT);
        root.set_swapper(k, slot * 2 + 1, 0);
        slot += 1;
    }
    let global = if k.two_tables() { 0 } else { GLOBAL };
    let large = PRESENT | RW | ACCESSED | DIRTY | PSE | global;
    let mut pfn = 0;
    while pfn < max_low_pfn {
        let va = k.page_offset().wrapping_add(pfn << 12);
        set_kernel_pmd(k, va, (pfn << 12) | large);
        pfn += 512;
    }
    let tables = if cluster::clustered(k) {
        kmap::cluster_tables(k)
    } else {
        1
    };
    let mut i = 0;
    while i < tables {
        let pkmap = bootmem.take_clear(k);
        if i == 0 {
            root.set_pkmap_pte(k, pkmap);
        }
        set_kernel_pmd(
            k,
            pkmap_base(k) + (i << 21),
            pkmap.wrapping_sub(k.page_offset()) | TABLE,
        );
        i += 1;
    }
    let fixmap = bootmem.take_clear(k);
    root.set_fixmap_pte(k, fixmap);
    set_kernel_pmd(
        k,
        fix_to_virt(0),
        fixmap.wrapping_sub(k.page_offset()) | TABLE,
    );
    root.set_top_pmd(k, k.page_offset().wrapping_add(root.swapper(k, 6) & !0xfff));
    bug_on!(k, Boot, LAST_PKMAP != 512);
    k.load_cr3(arch::swapper_pg_dir(k));
}

/// Writes the kernel's page-directory entry of `va`.
fn set_kernel_pmd<K: Kernel>(k: K, va: u32, entry: u32) {
    let pmd = k
        .page_offset()
        .wrapping_add(arch(k).swapper(k, (va >> 30) * 2) & !0xfff);
    let at: Low<u32> = Low::new(pmd.wrapping_add(((va >> 21) & 511) * 8));
    at.write(k, entry);
    at.field::<u32>(4).write(k, 0);
}

/// The user-readable page with the system-call sequence. Its bytes run only in an ELF-program ring 3; a trace source fetches
/// their addresses.
fn vsyscall_page<K: Kernel>(k: K, bootmem: &mut Bootmem) {
    let page = bootmem.take_clear(k);
    let pfn = bootmem.next_pfn - 1;
    let at = |offset: u32| Low::<u32>::new(page.wrapping_add(offset));
    if info(k).entry(k) == 0 {
        // int 0x80; ret
        at(0x400).write(k, 0x00c3_80cd);
    } else {
        // push ecx, edx, ebp; mov ebp, esp; sysenter; ...; at 0x410: pop ebp, edx, ecx; ret
        at(0x400).write(k, 0x8955_5251);
        at(0x404).write(k, 0x9034_0fe5);
        at(0x408).write(k, 0x9090_9090);
        at(0x40c).write(k, 0x9090_9090);
        at(SYSENTER_RETURN & 0xfff).write(k, 0xc359_5a5d);
    }
    // Present, user, read-only, accessed, dirty.
    kmap::set_fixmap_pte(k, fix_to_virt(FIX_VSYSCALL), Pte::new(pfn, Prot(0x065)));
}

/// First frame and end of a zone.
pub fn zone_bounds<K: Kernel>(k: K, kind: ZoneKind) -> (u32, u32) {
    let low = node(k).max_low_pfn(k);
    let dma_end = if low < 4096 { low } else { 4096 };
    match kind {
        ZoneKind::Dma => (0, dma_end),
        ZoneKind::Normal => (dma_end, low),
        ZoneKind::HighMem => (low, node(k).max_pfn(k)),
    }
}

/// Sizes, bitmaps, lists of every zone (free_area_init_core).
fn zones_init<K: Kernel>(k: K, bootmem: &mut Bootmem) {
    for kind in ZoneKind::ALL {
        let (start, end) = zone_bounds(k, kind);
        let zone = zone::zone(k, kind);
        zone.lock(k).init(k);
        zone.lru_lock(k).init(k);
        zone.set_kind(k, kind as u32);
        zone.set_zone_start_pfn(k, start);
        let span = (end - start) >> cluster::mmu_shift(k);
        zone.set_spanned_pages(k, span);
        zone.set_present_pages(k, span);
        zone.set_free_pages(k, 0);
        zone.active_list(k).init(k);
        zone.inactive_list(k).init(k);
        zone.set_prev_priority(k, 12);
        zone.set_temp_priority(k, 12);
        pcp::init(k, zone);
        let mut order = 0;
        while order < MAX_ORDER {
            let area = zone.free_area(k, order);
            area.free_list(k).init(k);
            let bits = span.div_ceil(2 << order);
            let pages = (bits / 8 + 8).div_ceil(PAGE_SIZE);
            // A bitmap of few bytes shares nothing with others here: a page each costs at most 33 pages.
            let map = bootmem.take(k, pages);
            let mut page = 0;
            while page < pages {
                k.clear_page(Kmapped(map.wrapping_add(page << 12)));
                page += 1;
            }
            area.set_map(k, Low::new(map));
            order += 1;
        }
    }
}

/// Every struct page: zone and owner, no reference, on no list (memmap_init_zone).
fn mem_map_init<K: Kernel>(k: K, plan: &Plan) {
    let (boot, image) = (Owner::Boot, Owner::KernelImage);
    reserve(k, (0, ROOT_END >> 12), boot);
    init_pages(k, (page_up(k, ROOT_END >> 12), 0xa0), 0);
    reserve(k, (0xa0, IMAGE >> 12), boot);
    reserve(k, (IMAGE >> 12, plan.image_end), image);
    reserve(k, (plan.image_end, plan.slab_start), boot);
    reserve(k, (plan.slab_start, plan.slab_end), Owner::PerCpu);
    reserve(k, (plan.slab_end, plan.boot_end), boot);
    init_pages(k, (plan.boot_end, plan.mem_map), 0);
    reserve(k, (plan.mem_map, plan.mem_map_end), Owner::MemMap);
    init_pages(k, (plan.mem_map_end, plan.max_pfn), 0);
    for kind in ZoneKind::ALL {
        let zone = zone::zone(k, kind);
        zone.set_zone_mem_map(k, pfn_to_page(k, zone.zone_start_pfn(k)).va());
    }
    let high = plan.max_pfn - plan.max_low_pfn;
    node(k).set_totalhigh_pages(k, high >> cluster::mmu_shift(k));
}

fn reserve<K: Kernel>(k: K, range: (u32, u32), owner: Owner) {
    // A page with a frame in use is in use; of two owners the later has it.
    let range = (page_down(k, range.0), page_up(k, range.1));
    init_pages(
        k,
        range,
        (1 << pg::RESERVED) | ((owner as u32) << pg::OWNER_SHIFT),
    );
}

fn init_pages<K: Kernel>(k: K, (from, to): (u32, u32), flags: u32) {
    for kind in ZoneKind::ALL {
        let (start, end) = zone_bounds(k, kind);
        let from = if from > start { from } else { start };
        let to = if to < end { to } else { end };
        let high = if kind == ZoneKind::HighMem {
            1 << pg::HIGHMEM
        } else {
            0
        };
        let flags = flags | ((kind as u32) << pg::ZONE_SHIFT) | high;
        let mut page = pfn_to_page(k, from);
        let mut pfn = from;
        while pfn < to {
            page.set_flags(k, flags);
            page.set_count(k, 0);
            page.init_rmap(k);
            page.set_private(k, 0);
            page.set_mapping(k, 0);
            page.set_index(k, 0);
            page.lru(k).init(k);
            page = page.field(page_struct_bytes(k));
            pfn += cluster::mmu_count(k);
        }
    }
}

/// Hands everything that is not reserved to the buddy allocator (free_all_bootmem and the highmem loop), by blocks.
fn free_all<K: Kernel>(k: K, plan: &Plan) {
    let ranges = [
        (page_up(k, ROOT_END >> 12), 0xa0),
        (plan.boot_end, plan.mem_map),
        (plan.mem_map_end, plan.max_pfn),
    ];
    let mut total = 0;
    for (from, to) in ranges {
        for kind in ZoneKind::ALL {
            let (start, end) = zone_bounds(k, kind);
            let from = if from > start { from } else { start };
            let to = if to < end { to } else { end };
            if from < to {
                let shift = cluster::mmu_shift(k);
                let pages = (from >> shift, to >> shift);
                total += pages.1 - pages.0;
                free_range(k, zone::zone(k, kind), pages);
            }
        }
    }
    node(k).set_totalram_pages(k, total);
}

/// Frees a range of one zone, in pages: ragged ends by their natural blocks, whole blocks of the largest order in seeded order.
fn free_range<K: Kernel>(k: K, zone: Low<Zone>, (from, to): (u32, u32)) {
    let base = zone.zone_start_pfn(k) >> cluster::mmu_shift(k);
    let block = 1 << (MAX_ORDER - 1);
    let first_whole = base + ((from - base).next_multiple_of(block));
    let last_whole = base + ((to - base) & !(block - 1));
    if first_whole >= last_whole {
        free_ragged(k, zone, (from, to));
        return;
    }
    free_ragged(k, zone, (from, first_whole));
    free_ragged(k, zone, (last_whole, to));
    let n = (last_whole - first_whole) / block;
    let (step, offset) = permutation(info(k).layout_seed(k), n);
    let mut i = 0;
    let mut at = offset;
    while i < n {
        let page = first_whole + at * block;
        buddy::free_block(k, zone, nth_page(k, page), MAX_ORDER - 1);
        at += step;
        if at >= n {
            at -= n;
        }
        i += 1;
    }
}

fn free_ragged<K: Kernel>(k: K, zone: Low<Zone>, (from, to): (u32, u32)) {
    let base = zone.zone_start_pfn(k) >> cluster::mmu_shift(k);
    let mut page = from;
    while page < to {
        let mut order = 0;
        while order < MAX_ORDER - 1
            && (page - base) & ((2 << order) - 1) == 0
            && page + (2 << order) <= to
        {
            order += 1;
        }
        buddy::free_block(k, zone, nth_page(k, page), order);
        page += 1 << order;
    }
}

/// A page by its number.
#[inline(always)]
fn nth_page<K: Kernel>(k: K, n: u32) -> Low<crate::layout::Page> {
    pfn_to_page(k, n << cluster::mmu_shift(k))
}

/// Step and start of a walk that visits 0..n once each: 1 and 0 for seed 0.
fn permutation(seed: u32, n: u32) -> (u32, u32) {
    if seed == 0 || n < 3 {
        return (1, 0);
    }
    let mut x = seed.wrapping_mul(0x9e37_79b1) ^ (seed >> 16);
    x = (x ^ (x >> 15)).wrapping_mul(0x2c1b_3c6d);
    x ^= x >> 12;
    let mut step = 1 + x % (n - 1);
    while gcd(step, n) != 1 {
        step = if step + 1 >= n { 1 } else { step + 1 };
    }
    (step, (x >> 8) % n)
}

const fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Leaves what only boot needed clear, and writes the state in which the CPU runs the first user frame.
fn finish<K: Kernel>(k: K) {
    // The page tables with which boot starts on the CPU; zero anyway natively.
    let mut at = BOOT_STACK_END;
    while at < ROOT {
        k.clear_page(Kmapped(k.page_offset().wrapping_add(at)));
        at += PAGE_SIZE;
    }
    let (gdt, idt, tss) = arch::table_addresses(k);
    let words = [
        CpuStart::MAGIC,
        // PE, MP, ET, NE, WP, AM, PG.
        0x8005_0033,
        arch::swapper_pg_dir(k),
        // PSE, PAE, PGE.
        0x0000_00b0,
        if info(k).nx(k) != 0 { 0x800 } else { 0 },
        gdt,
        GDT_BYTES - 1,
        idt,
        IDT_BYTES - 1,
        arch::TSS,
        arch::KERNEL_CS,
        arch::KERNEL_DS,
        arch::USER_CS,
        arch::USER_DS,
        arch::KERNEL_CS,
        tss + SYSENTER_STACK,
        info(k).symbols(k).sysenter(k),
    ];
    let start: Low<u32> = root::low_at(k, CPU_START);
    for (i, word) in words.iter().enumerate() {
        start.field::<u32>(i as u32 * 4).write(k, *word);
    }
    bug_on!(k, Boot, MAX_NR_ZONES != 3);
}
