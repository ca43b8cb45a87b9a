//! Every structure of guest memory against the fact tables: sizes and offsets of Linux 2.6.7 (SMP, PAE, no NUMA); fields neither
//! overlap nor leave their structure; what the guest reads as boot information is what the abi declares.

mod harness;

use guest_vm::arch::{ArchRoot, Tss};
use guest_vm::boot::{Info, InfoSymbols};
use guest_vm::guest_struct::Layout;
use guest_vm::kernel::Kernel;
use guest_vm::kmap::{self, KmType, Pkmap};
use guest_vm::layout::{
    File, Frame, Mapping, Mm, Page, Pgd, RadixRoot, RbNode, Task, ThreadInfo, Vma, VmaShared,
};
use guest_vm::list::ListHead;
use guest_vm::page_alloc::zone::{FreeArea, Node, PerCpuPages, Zone};
use guest_vm::percpu::PerCpu;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::slab::{ArrayCache, Cache, Slab};
use guest_vm::sync::{RwSem, SpinLock};
use harness::{Direct, Harness, Native, Split};
use lowmem_abi::boot::{BootInfo, Symbols};
use std::mem::offset_of;

/// anon_vma on 3G/1G.
enum Anon {}
/// pte_chain on 3G/1G.
enum Chain {}

/// A handle whose axes are asked and nothing else.
trait Shape {
    fn shape() -> Native;
}
impl Shape for Anon {
    fn shape() -> Native {
        Harness::<AnonVmaMap, Direct>::new(64).k
    }
}
impl Shape for Chain {
    fn shape() -> Native {
        Harness::<PteChains, Direct>::new(64).k
    }
}

fn fields<T: Layout, K: Shape>() -> Vec<(&'static str, u32, u32)> {
    let mut all = Vec::new();
    T::fields(K::shape(), &mut |name, at, bytes| {
        all.push((name, at, bytes))
    });
    all
}

fn offset<T: Layout, K: Shape>(field: &str) -> u32 {
    let all = fields::<T, K>();
    all.iter()
        .find(|f| f.0 == field)
        .unwrap_or_else(|| panic!("no field {field}"))
        .1
}

/// Apart from each other, inside.
fn sound<T: Layout, K: Shape>(name: &str) {
    let mut end = 0;
    let mut all = fields::<T, K>();
    all.sort_by_key(|f| f.1);
    for (field, at, bytes) in all {
        assert!(
            at >= end,
            "{name}.{field} at {at} overlaps what ends at {end}"
        );
        end = at + bytes;
    }
    assert!(
        end <= T::size(K::shape()),
        "{name} ends at {end}, its size is {}",
        T::size(K::shape())
    );
}

#[test]
fn fields_do_not_overlap() {
    macro_rules! all { ($K:ty: $($T:ty),*) => { $( sound::<$T, $K>(stringify!($T)); )* } }
    all!(Anon: File, Frame, Mapping, Mm, Page, Pgd, RadixRoot, RbNode, Task, ThreadInfo, Vma, VmaShared, ListHead,
        FreeArea, Node, PerCpuPages, Zone, PerCpu, ArrayCache, Cache, Slab, RwSem, SpinLock, ArchRoot, Tss, Pkmap,
        Info, InfoSymbols);
    all!(Chain: Vma, Mm, Task, Page);
}

#[test]
fn sizes_are_historic() {
    fn size<T: Layout, K: Shape>() -> u32 {
        T::size(K::shape())
    }
    assert_eq!(size::<Page, Anon>(), 32);
    // 2.6.7 with prio_tree and anon_vma; without anon_vma's 12 bytes.
    assert_eq!(size::<Vma, Anon>(), 84);
    assert_eq!(size::<Vma, Chain>(), 72);
    assert_eq!(size::<Mm, Anon>(), 524);
    assert_eq!(size::<Task, Anon>(), 1424);
    assert_eq!(size::<ThreadInfo, Anon>(), 52);
    assert_eq!(size::<Mapping, Anon>(), 84);
    assert_eq!(size::<File, Anon>(), 148);
    assert_eq!(size::<Pgd, Anon>(), 32);
    assert_eq!(size::<Slab, Anon>(), 24);
    assert_eq!(size::<Zone, Anon>(), 2048);
    assert_eq!(size::<Frame, Anon>(), 60);
    assert_eq!(size::<RwSem, Anon>(), 16);
}

#[test]
fn offsets_are_historic() {
    for (field, at) in [
        ("flags", 0),
        ("count", 4),
        ("rmap", 8),
        ("private", 12),
        ("mapping", 16),
        ("index", 20),
        ("lru", 24),
    ] {
        assert_eq!(offset::<Page, Anon>(field), at, "page.{field}");
    }
    for (field, at) in [
        ("mm", 0),
        ("start", 4),
        ("end", 8),
        ("next", 12),
        ("page_prot", 16),
        ("flags", 20),
        ("rb", 24),
        ("shared", 40),
        ("rmap_part", 56),
        ("ops", 68),
        ("pgoff", 72),
        ("file", 76),
        ("private", 80),
    ] {
        assert_eq!(offset::<Vma, Anon>(field), at, "vma.{field}");
    }
    for (field, at) in [
        ("mmap", 0),
        ("mm_rb", 4),
        ("mmap_cache", 8),
        ("free_area_cache", 12),
        ("pgd", 16),
        ("users", 20),
        ("count", 24),
        ("map_count", 28),
        ("mmap_sem", 32),
        ("page_table_lock", 48),
        ("mmlist", 52),
        ("start_code", 60),
        ("rss", 104),
        ("total_vm", 108),
        ("locked_vm", 112),
    ] {
        assert_eq!(offset::<Mm, Anon>(field), at, "mm.{field}");
    }
}

#[test]
fn the_guest_reads_boot_information_where_the_abi_puts_it() {
    assert_eq!(
        <Info as Layout>::size(Anon::shape()) as usize,
        size_of::<BootInfo>()
    );
    assert_eq!(
        <InfoSymbols as Layout>::size(Anon::shape()) as usize,
        size_of::<Symbols>()
    );
    macro_rules! same { ($T:ty, $A:ty: $($f:ident),*) => { $(
        assert_eq!(offset::<$T, Anon>(stringify!($f)) as usize, offset_of!($A, $f), stringify!($f));
    )* } }
    same!(Info, BootInfo: magic, ram_frames, image_end_frame, cpus, hz, entry, stack_bytes, young_flush, chain_line,
        file_vmas, layout_seed, swap_slots, vfork_is_fork, nx, symbols, anon_vma_reuse, nonlinear, cluster, buffers);
    same!(InfoSymbols, Symbols: exception_stubs, system_call, tick, resched, unmap, sysenter, trampoline_start,
        trampoline_end, user_copy_start, user_copy_end, user_copy_fixup);
}

/// The virtual stack is aligned to its size, and every slot of the shared top lies in the fixmap's page table.
#[test]
fn fixmap_slots() {
    fn check<K: Kernel>(k: K) {
        let base = kmap::slot_va(k, KmType::VstackBase);
        assert_eq!(kmap::slot_va(k, KmType::VstackTop), base + 4096);
        for ty in [
            KmType::BounceRead,
            KmType::Pte0,
            KmType::UserCopy,
            KmType::VstackBase,
        ] {
            assert!(kmap::slot_va(k, ty) >= 0xffe0_0000);
        }
        if k.two_tables() {
            assert_eq!(base % 8192, 0);
        }
    }
    check(Harness::<AnonVmaMap, Direct>::new(64).k);
    check(Harness::<AnonVmaMap, Split>::new(64).k);
}
