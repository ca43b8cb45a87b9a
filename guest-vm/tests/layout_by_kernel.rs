//! Sizes and offsets of every kernel preset against the fact sheets (VM = "kernel-vm", more = its sequel), as far as these have figures.
//!
//! One row an object or field, one column a preset; [`NONE`] where the sheets have no figure. What is compared is what a booted guest
//! uses: its caches' object sizes, its offsets. `presets show` names what a preset does not have.

mod harness;

use guest_vm::arch::THREAD_SIZE;
use guest_vm::guest_struct::Layout;
use guest_vm::kernel::Kernel;
use guest_vm::layout::{Mapping, Mm, Page, ThreadInfo, Vma};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anon_vma_chain::AnonVmaChain;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::objrmap::Hybrid;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use guest_vm::slab::{self, CacheId};
use guest_vm::struct_page;
use harness::{Access, Direct, DirectHigh, Harness, Listed, Native, Old, OldSplitHigh};

/// The sheets have no figure.
const NONE: u32 = u32::MAX;
/// Columns.
const KERNELS: [&str; 9] = [
    "2.4-aa",
    "2.6.0",
    "2.6.5-aa",
    "2.6.6",
    "2.6.6-objrmap",
    "2.6-anonmm",
    "2.6.7",
    "rhel3-hugemem",
    "2.6.34",
];

/// What, where the sheets say so, and the figure for each kernel.
type Row = (&'static str, &'static str, [u32; 9]);

const SIZES: &[Row] = &[
    // 2.4-aa and rhel3: 48, and with pte union of 8 bytes and age 60.
    ("page", "VM 2.1", [48, 40, 40, 32, 32, 32, 32, 60, NONE]),
    // 2.4: read in RHEL3's header. 2.6.5-aa: 64 and 12 for anon_vma (VM 2.3, growth debate).
    (
        "vma",
        "VM 2.3, more 3",
        [68, 64, 76, 64, 64, 72, 84, 68, NONE],
    ),
    (
        "mm",
        "VM 2.3",
        [NONE, 528, 524, 524, 524, 528, 524, NONE, NONE],
    ),
    (
        "task",
        "VM 2.3",
        [NONE, 1584, 1456, 1424, 1424, 1424, 1424, NONE, NONE],
    ),
    (
        "thread_info",
        "VM 2.3",
        [NONE, 48, 48, 52, 52, 52, 52, NONE, NONE],
    ),
    ("stack", "VM 2.3", [8192; 9]),
    (
        "inode",
        "VM 2.3",
        [NONE, 348, 348, 336, 336, 324, 324, NONE, NONE],
    ),
    (
        "address_space",
        "VM 2.3",
        [NONE, 128, 124, 96, 96, 84, 84, NONE, NONE],
    ),
    (
        "dentry",
        "VM 2.3",
        [NONE, 160, 160, 152, 152, 152, 152, NONE, NONE],
    ),
    (
        "buffer_head",
        "VM 2.3",
        [NONE, 48, 48, 48, 48, 48, 48, NONE, NONE],
    ),
    (
        "file",
        "VM 2.3",
        [NONE, 136, 148, 148, 148, 148, 148, NONE, NONE],
    ),
    (
        "files",
        "VM 2.3",
        [NONE, 416, 416, 416, 416, 416, 416, NONE, NONE],
    ),
    (
        "sighand",
        "VM 2.3",
        [NONE, 1288, 1288, 1288, 1288, 1288, 1288, NONE, NONE],
    ),
    (
        "signal",
        "VM 2.3",
        [NONE, 44, 44, 72, 72, 72, 72, NONE, NONE],
    ),
    ("fs", "VM 2.3", [NONE, 36, 36, 36, 36, 36, 36, NONE, NONE]),
    (
        "radix_tree_node",
        "VM 2.3",
        [NONE, 260, 260, 276, 276, 276, 276, NONE, NONE],
    ),
    (
        "anon_vma",
        "VM 2.3",
        [NONE, NONE, 12, NONE, NONE, NONE, 12, NONE, NONE],
    ),
    ("anonmm", "VM 2.3", [0, 0, 0, 0, 0, 24, 0, 0, 0]),
    // One line of the CPU: 128 bytes here.
    (
        "pte_chain",
        "VM 2.2",
        [NONE, 128, NONE, 128, 128, NONE, NONE, 128, NONE],
    ),
    (
        "pgd",
        "VM 1, 2.3",
        [NONE, 32, 32, 32, 32, 32, 32, NONE, NONE],
    ),
];

const OFFSETS: &[Row] = &[
    ("page.flags", "more 3", [24, 0, 0, 0, 0, 0, 0, 24, NONE]),
    ("page.count", "more 3", [20, 4, 4, 4, 4, 4, 4, 20, NONE]),
    (
        "page.list",
        "more 3",
        [0, 8, 8, NONE, NONE, NONE, NONE, 0, NONE],
    ),
    ("page.mapping", "more 3", [8, 16, 16, 8, 8, 16, 16, 8, NONE]),
    (
        "page.index",
        "more 3",
        [12, 20, 20, 12, 12, 20, 20, 12, NONE],
    ),
    ("page.lru", "more 3", [28, 24, 24, 16, 16, 24, 24, 28, NONE]),
    (
        "page.rmap",
        "more 3",
        [NONE, 32, 32, 24, 24, 8, 8, 36, NONE],
    ),
    (
        "page.private",
        "more 3",
        [40, 36, 36, 28, 28, 12, 12, 52, NONE],
    ),
    ("vma.mm", "more 3", [0, 0, 0, 0, 0, 0, 0, 0, NONE]),
    ("vma.start", "more 3", [4, 4, 4, 4, 4, 4, 4, 4, NONE]),
    ("vma.end", "more 3", [8, 8, 8, 8, 8, 8, 8, 8, NONE]),
    ("vma.next", "more 3", [12, 12, 12, 12, 12, 12, 12, 12, NONE]),
    (
        "vma.page_prot",
        "more 3",
        [16, 16, 16, 16, 16, 16, 16, 16, NONE],
    ),
    (
        "vma.flags",
        "more 3",
        [20, 20, 20, 20, 20, 20, 20, 20, NONE],
    ),
    ("vma.rb", "more 3", [24, 24, 24, 24, 24, 24, 24, 24, NONE]),
    (
        "vma.shared",
        "more 3",
        [40, 40, 40, 40, 40, 40, 40, 40, NONE],
    ),
    (
        "vma.tree_parent",
        "more 3",
        [NONE, NONE, NONE, NONE, NONE, 48, 48, NONE, NONE],
    ),
    (
        "vma.tree_head",
        "more 3",
        [NONE, NONE, NONE, NONE, NONE, 52, 52, NONE, NONE],
    ),
    // anon_vma_node; anon_vma follows at 64.
    (
        "vma.rmap_part",
        "more 3",
        [NONE, NONE, NONE, NONE, NONE, NONE, 56, NONE, NONE],
    ),
    ("vma.ops", "more 3", [48, 48, 60, 48, 48, 56, 68, 48, NONE]),
    (
        "vma.pgoff",
        "more 3",
        [52, 52, 64, 52, 52, 60, 72, 52, NONE],
    ),
    ("vma.file", "more 3", [56, 56, 68, 56, 56, 64, 76, 56, NONE]),
    (
        "vma.private",
        "more 3",
        [64, 60, 72, 60, 60, 68, 80, 64, NONE],
    ),
    // Of 2.6.7; the others use them too.
    ("mm.mmap_sem", "more 3", [32; 9]),
    ("mm.page_table_lock", "more 3", [48; 9]),
    ("mm.mmlist", "more 3", [52; 9]),
    ("mm.rss", "more 3", [104; 9]),
    ("mm.total_vm", "more 3", [108; 9]),
];

fn offset_of<T: Layout>(k: Native, field: &str) -> u32 {
    let mut found = NONE;
    T::fields(k, &mut |name, at, _| {
        if name == field {
            found = at;
        }
    });
    found
}

/// What the booted guest of a preset uses.
fn used(k: Native, what: &str) -> u32 {
    let of = |id: CacheId| id.object_bytes(k);
    if let Some((object, field)) = what.split_once('.') {
        return match object {
            "page" if field == "list" => struct_page::list(k.axes()),
            "page" => offset_of::<Page>(k, field),
            "vma" => offset_of::<Vma>(k, field),
            "mm" => offset_of::<Mm>(k, field),
            _ => panic!("{what}"),
        };
    }
    match what {
        "page" => Page::size(k),
        "address_space" => Mapping::size(k),
        "thread_info" => ThreadInfo::size(k),
        "stack" => THREAD_SIZE,
        "vma" => of(CacheId::Vma),
        "mm" => of(CacheId::Mm),
        "task" => of(CacheId::Task),
        "inode" => of(CacheId::Inode),
        "dentry" => of(CacheId::Dentry),
        "buffer_head" => of(CacheId::BufferHead),
        "file" => of(CacheId::Filp),
        "files" => of(CacheId::Files),
        "sighand" => of(CacheId::Sighand),
        "signal" => of(CacheId::Signal),
        "fs" => of(CacheId::Fs),
        "radix_tree_node" => of(CacheId::RadixNode),
        "anon_vma" => of(CacheId::AnonVma),
        "anonmm" => of(CacheId::Anonmm),
        "pte_chain" => of(CacheId::PteChain),
        "pgd" => of(CacheId::Pgd),
        _ => panic!("{what}"),
    }
}

/// A booted guest with lists (0) or prio_tree (1).
fn boot<R: Scheme, U: Access>(file_vmas: u32, line: u32) -> Native {
    let mut info = Harness::<R, U>::info(256);
    info.file_vmas = file_vmas;
    info.chain_line = line;
    let mut h = Harness::<R, U>::with_info(info);
    h.boot();
    h.k
}

/// The handle of each column.
fn guests(line: u32) -> [Native; 9] {
    [
        boot::<SwapOut, Old>(0, line),
        boot::<PteChains, Listed>(0, line),
        boot::<AnonVmaMap, Listed>(0, line),
        boot::<PteChains, Direct>(0, line),
        boot::<Hybrid, Direct>(0, line),
        boot::<AnonmmMap, Direct>(1, line),
        boot::<AnonVmaMap, Direct>(1, line),
        boot::<PteChains, OldSplitHigh>(0, line),
        boot::<AnonVmaChain, Direct>(1, line),
    ]
}

#[test]
fn sizes_and_offsets_of_every_preset_are_those_of_the_sheets() {
    let guests = guests(128);
    let mut wrong = Vec::new();
    for (what, section, figures) in SIZES.iter().chain(OFFSETS) {
        for ((kernel, k), figure) in KERNELS.iter().zip(guests).zip(figures) {
            let is = used(k, what);
            if *figure != NONE && is != *figure {
                wrong.push(format!("{kernel}: {what} is {is}, {figure} in {section}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// HIGHPTE widens the direct pte: 36 bytes in 2.6.6, 44 in 2.6.0, 32 still from 2.6.7 on (VM 2.1).
#[test]
fn highpte_widens_struct_page_of_chains_only() {
    enum ListedHigh {}
    impl Access for ListedHigh {
        const SPLIT: guest_vm::axes::SplitKind = guest_vm::axes::SplitKind::G3G1;
        const PTE: guest_vm::axes::PteKind = guest_vm::axes::PteKind::High;
        const CACHE: guest_vm::axes::CacheKind = guest_vm::axes::CacheKind::Lists;
    }
    assert_eq!(Page::size(boot::<PteChains, DirectHigh>(0, 128)), 36);
    assert_eq!(Page::size(boot::<Hybrid, DirectHigh>(0, 128)), 36);
    assert_eq!(Page::size(boot::<PteChains, ListedHigh>(0, 128)), 44);
    assert_eq!(Page::size(boot::<AnonVmaMap, DirectHigh>(1, 128)), 32);
    assert_eq!(Page::size(boot::<AnonmmMap, DirectHigh>(1, 128)), 32);
}

/// Objects of a 4 KB slab (VM 2.2, 2.3; 32-byte lines as there).
#[test]
fn slabs_hold_as_many_objects_as_the_sheets_say() {
    let [_, v2_6_0, _, v2_6_6, _, anonmm, v2_6_7, ..] = guests(32);
    let num = |k: Native, id: CacheId| slab::cache(k, id).num(k);
    for (k, id, n) in [
        (v2_6_0, CacheId::Vma, 61),
        (v2_6_0, CacheId::RadixNode, 15),
        (v2_6_0, CacheId::PteChain, 119),
        (v2_6_6, CacheId::Vma, 61),
        (v2_6_7, CacheId::Vma, 47),
        (v2_6_7, CacheId::Mm, 7),
        (v2_6_7, CacheId::Inode, 11),
        (v2_6_7, CacheId::BufferHead, 81),
        (v2_6_7, CacheId::RadixNode, 14),
        (v2_6_7, CacheId::AnonVma, 290),
        (v2_6_7, CacheId::Pgd, 119),
        (anonmm, CacheId::Anonmm, 156),
    ] {
        let cachep = slab::cache(k, id);
        assert_eq!(num(k, id) >> cachep.gfporder(k), n, "{}", id.name());
    }
    let by_line = [(32, 119), (64, 61), (128, 31)];
    for (line, n) in by_line {
        let k = boot::<PteChains, Listed>(0, line);
        assert_eq!(num(k, CacheId::PteChain), n, "chains of {line} bytes");
    }
}

/// Where lists and trees are crossed with a kernel that did not have them, sizes follow: 8 bytes more for a tree node.
#[test]
fn an_index_that_a_kernel_never_had_changes_only_the_end_of_a_vma() {
    let (list, tree) = (
        boot::<PteChains, Direct>(0, 128),
        boot::<PteChains, Direct>(1, 128),
    );
    assert_eq!((Vma::size(list), Vma::size(tree)), (64, 72));
    for field in ["ops", "pgoff", "file", "private", "rmap_part"] {
        assert_eq!(offset_of::<Vma>(list, field), offset_of::<Vma>(tree, field));
    }
    assert_eq!(offset_of::<Vma>(tree, "tree_parent"), 64);
    assert_eq!((Mapping::size(list), Mapping::size(tree)), (96, 84));
}
