//! Buffer heads: who gets them, what they hold, and what takes them away, for each kernel's rule; and that the checks see what is
//! wrong with them.
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check::{self, Violation};
use guest_vm::io::complete_all;
use guest_vm::layout::{Page, pg};
use guest_vm::objects::objects;
use guest_vm::page;
use guest_vm::page_cache::buffers::{self, BufferHead, bh};
use guest_vm::page_cache::find_get_page;
use guest_vm::ptr::Low;
use guest_vm::reclaim::{Version, shrink_all};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use guest_vm::slab::CacheId;
use harness::{Access, Clustered, Direct, Harness, Listed, Old, OldSplitHigh};
use lowmem_abi::boot::BootInfo;
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};

type Machine = Harness<AnonVmaMap, Direct>;

const BUFFER: u32 = 0x0840_0000;
const MAPPED: u32 = 0x0880_0000;
const FILE: u32 = 7;
const ENOMEM: u32 = -12i32 as u32;

fn start<R: Scheme, U: Access>(kind: u32, version: Version) -> Harness<R, U> {
    let mut h = Harness::with_info(BootInfo {
        buffers: kind,
        reclaim: version as u32,
        swap_slots: 4096 << U::SHIFT.unwrap_or(0),
        ..Harness::<R, U>::info(64)
    });
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    let got = h.syscall(call::MMAP2, [BUFFER, 2 << 12, 3, 0x32, NO_FILE, 0]);
    assert_eq!(got, BUFFER);
    h
}

fn write<R: Scheme, U: Access>(h: &mut Harness<R, U>, at: u32, bytes: u32, word: u32) -> u32 {
    h.write_user(BUFFER, word);
    h.syscall(call::PWRITE64, [FILE, BUFFER, bytes, at, 0, 0])
}

/// The page at `index` of the file, without a reference.
fn cached<R: Scheme, U: Access>(h: &Harness<R, U>, index: u32) -> Low<Page> {
    let page = find_get_page(h.k, h.mapping(FILE), index);
    assert!(!page.is_null());
    page::put_page(h.k, page);
    page
}

/// b_state of each buffer of a page.
fn states<R: Scheme, U: Access>(h: &Harness<R, U>, page: Low<Page>) -> Vec<u32> {
    let mut found = Vec::new();
    buffers::each(h.k, page, |b| found.push(b.b_state(h.k)));
    found
}

fn map_shared<R: Scheme, U: Access>(h: &mut Harness<R, U>, pages: u32) {
    let got = h.syscall(call::MMAP2, [MAPPED, pages << 12, 3, 0x11, FILE, 0]);
    assert_eq!(got, MAPPED);
}

const VALID: u32 = 1 << bh::UPTODATE | 1 << bh::MAPPED;
const DIRTY: u32 = VALID | 1 << bh::DIRTY;
const SUBMITTED: u32 = VALID | 1 << bh::REQ;

#[test]
fn a_write_gives_a_page_its_buffers_and_a_reference() {
    let mut h = start::<AnonVmaMap, Direct>(1, Version::V2_6_7);
    assert_eq!(write(&mut h, 3 << 12, 4096, 5), 4096);
    let k = h.k;
    let page = cached(&h, 3);
    guest_vm::lru::lru_add_drain(k);
    assert_eq!(page.count(k), 2, "the cache's and the buffers'");
    assert!(page::test(k, page, pg::PRIVATE));
    assert_eq!(states(&h, page), [DIRTY]);
    let head = Low::<BufferHead>::new(page.private(k));
    assert_eq!((head.b_page(k), head.b_blocknr(k)), (page, 3));
    assert_eq!(buffers::count(k), 1);
    check::all(k).unwrap();
    // A second write finds them; a page that is only read, or only dirtied through a map, gets none.
    assert_eq!(write(&mut h, (3 << 12) + 16, 32, 6), 32);
    map_shared(&mut h, 8);
    assert_eq!(h.read_user(MAPPED + (3 << 12)), 5);
    h.read_user(MAPPED + (1 << 12));
    h.write_user(MAPPED + (2 << 12), 8);
    assert_eq!(buffers::count(k), 1);
    // Written by the flusher: clean, but kept.
    h.fsync(FILE);
    assert_eq!(states(&h, page), [VALID]);
    assert_eq!(buffers::count(k), 1);
    check::all(k).unwrap();
}

#[test]
fn what_a_map_dirties_dirties_the_buffers_it_has() {
    let mut h = start::<AnonVmaMap, Direct>(1, Version::V2_6_7);
    write(&mut h, 0, 4096, 5);
    h.fsync(FILE);
    map_shared(&mut h, 1);
    h.write_user(MAPPED, 9);
    assert_eq!(h.syscall(call::MUNMAP, [MAPPED, 4096, 0, 0, 0, 0]), 0);
    let page = cached(&h, 0);
    assert!(page::test(h.k, page, pg::DIRTY));
    assert_eq!(states(&h, page), [DIRTY]);
    h.fsync(FILE);
    assert_eq!(h.k.on_disk((FILE, 0))[0], 9);
    check::all(h.k).unwrap();
}

/// Reclaim until nothing of the file is cached.
fn reclaim_all<R: Scheme, U: Access>(h: &mut Harness<R, U>) {
    for _ in 0..200 {
        shrink_all(h.k, 0);
        complete_all(h.k);
    }
    assert_eq!(h.mapping(FILE).nrpages(h.k), 0);
}

/// pageout of a page that only a map dirtied goes through buffers; they go with the page.
fn pageout<R: Scheme, U: Access>(kind: u32, version: Version) -> u32 {
    let mut h = start::<R, U>(kind, version);
    map_shared(&mut h, 4);
    for i in 0..4 {
        h.write_user(MAPPED + (i << 12), 40 + i);
    }
    assert_eq!(h.syscall(call::MUNMAP, [MAPPED, 4 << 12, 0, 0, 0, 0]), 0);
    let mut most = 0;
    // A list of few pages is looked at when 32 passes have asked for one of them.
    for _ in 0..200 {
        if h.mapping(FILE).nrpages(h.k) == 0 {
            break;
        }
        shrink_all(h.k, 0);
        check::all(h.k).unwrap();
        most = most.max(buffers::count(h.k));
        complete_all(h.k);
        check::all(h.k).unwrap();
    }
    assert_eq!(h.mapping(FILE).nrpages(h.k), 0);
    assert_eq!(buffers::count(h.k), 0);
    for i in 0..4 {
        assert_eq!(h.k.on_disk((FILE, i))[0], 40 + i);
    }
    most
}

#[test]
fn reclaim_writes_through_buffers_and_frees_them() {
    assert_eq!(pageout::<AnonVmaMap, Direct>(1, Version::V2_6_7), 4);
    assert_eq!(pageout::<PteChains, Listed>(1, Version::V2_6_0), 4);
    assert_eq!(pageout::<SwapOut, Old>(2, Version::V2_4), 4);
    assert_eq!(pageout::<PteChains, OldSplitHigh>(2, Version::V2_6_0), 4);
    assert_eq!(pageout::<AnonVmaMap, Direct>(0, Version::V2_6_7), 0);
    assert_eq!(
        pageout::<AnonVmaMap, Clustered<Direct, 3>>(1, Version::V2_6_7),
        8
    );
}

#[test]
fn reading_gives_buffers_in_2_4_alone() {
    fn read<R: Scheme, U: Access>(kind: u32, version: Version) -> u32 {
        let mut h = start::<R, U>(kind, version);
        map_shared(&mut h, 8);
        for i in 0..8 {
            h.read_user(MAPPED + (i << 12));
        }
        let n = buffers::count(h.k);
        if n != 0 {
            assert_eq!(states(&h, cached(&h, 0))[0], SUBMITTED);
        }
        check::all(h.k).unwrap();
        assert_eq!(h.syscall(call::MUNMAP, [MAPPED, 8 << 12, 0, 0, 0, 0]), 0);
        reclaim_all(&mut h);
        assert_eq!(buffers::count(h.k), 0);
        n
    }
    assert_eq!(read::<SwapOut, Old>(2, Version::V2_4), 8);
    assert_eq!(read::<PteChains, OldSplitHigh>(2, Version::V2_6_0), 8);
    assert_eq!(read::<AnonVmaMap, Direct>(1, Version::V2_6_7), 0);
    assert_eq!(read::<AnonVmaMap, Direct>(0, Version::V2_6_7), 0);
}

#[test]
fn a_clustered_page_has_a_buffer_for_each_of_its_blocks() {
    let mut h = start::<AnonVmaMap, Clustered<Direct, 3>>(1, Version::V2_6_7);
    // The third and fourth block of page 1, each in part.
    assert_eq!(write(&mut h, (10 << 12) + 2048, 4096, 5), 4096);
    let page = cached(&h, 1);
    // The rest was read.
    let dirty = SUBMITTED | 1 << bh::DIRTY;
    let mut expected = [SUBMITTED; 8];
    expected[2..4].fill(dirty);
    assert_eq!(states(&h, page), expected);
    assert_eq!(buffers::count(h.k), 8);
    // A page whose buffers are not all dirty is not written whole: through buffers.
    h.fsync(FILE);
    assert_eq!(states(&h, page), [SUBMITTED; 8]);
    check::all(h.k).unwrap();
    // Truncation into the middle of the page: what lies behind is void, the page keeps its buffers.
    write(&mut h, (12 << 12) + 8, 2 << 12, 6);
    assert_eq!(
        h.syscall(call::FTRUNCATE64, [FILE, 13 << 12, 0, 0, 0, 0]),
        0
    );
    check::all(h.k).unwrap();
    let dirty: Vec<bool> = states(&h, page)
        .iter()
        .map(|s| s & 1 << bh::DIRTY != 0)
        .collect();
    assert_eq!(
        dirty,
        [false, false, false, false, true, false, false, false]
    );
    assert_eq!(h.syscall(call::FTRUNCATE64, [FILE, 0, 0, 0, 0, 0]), 0);
    assert_eq!(buffers::count(h.k), 0);
    check::all(h.k).unwrap();
}

#[test]
fn truncation_frees_buffers_whatever_they_were_to_write() {
    fn truncate<R: Scheme, U: Access>(kind: u32, version: Version) {
        let mut h = start::<R, U>(kind, version);
        for i in 0..20 {
            write(&mut h, i << 12, 4096, i);
        }
        h.fsync(FILE);
        for i in 10..15 {
            write(&mut h, i << 12, 4096, i);
        }
        assert_eq!(buffers::count(h.k), 20);
        assert_eq!(h.syscall(call::FTRUNCATE64, [FILE, 5 << 12, 0, 0, 0, 0]), 0);
        assert_eq!(buffers::count(h.k), 5);
        check::all(h.k).unwrap();
    }
    truncate::<AnonVmaMap, Direct>(1, Version::V2_6_7);
    truncate::<PteChains, Listed>(1, Version::V2_6_0);
    truncate::<SwapOut, Old>(2, Version::V2_4);
}

/// Over the limit, pages lose their buffers when they are written and when they are deactivated.
#[test]
fn too_many_buffers_are_stripped() {
    let mut h = start::<AnonVmaMap, Direct>(1, Version::V2_6_7);
    let k = h.k;
    let low = 64 << 8;
    let limit = objects(k).max_buffer_heads(k);
    assert!(
        limit <= low / 10 * 85 && limit > low * 9 / 100 * 85,
        "{limit}"
    );
    objects(k).set_max_buffer_heads(k, 100);
    for i in 0..4097 {
        write(&mut h, i << 12, 4096, i);
    }
    assert!(buffers::over_limit(k), "looked at every 4,096 changes");
    check::all(k).unwrap();
    let before = buffers::count(k);
    assert!(before > 100);
    h.fsync(FILE);
    // All that was dirty lost its buffers on the way to the disk, but for what the throttled writers had written before the limit passed.
    let clean = buffers::count(k);
    assert!(clean < before, "{clean} of {before}");
    check::all(k).unwrap();
    // Twice looked at, then on the active list; reclaim deactivates and strips.
    map_shared(&mut h, 4097);
    for _ in 0..2 {
        for i in 0..4097 {
            h.read_user(MAPPED + (i << 12));
        }
    }
    assert_eq!(h.syscall(call::MUNMAP, [MAPPED, 4097 << 12, 0, 0, 0, 0]), 0);
    let active = |h: &Harness<_, _>| -> Vec<Low<Page>> {
        (0..4097)
            .map(|i| cached(h, i))
            .filter(|p| page::test(k, *p, pg::ACTIVE) && buffers::has(k, *p))
            .collect()
    };
    let before = active(&h);
    assert!(before.len() > 1000, "{}", before.len());
    shrink_all(k, 3);
    check::all(k).unwrap();
    let deactivated: Vec<_> = before
        .iter()
        .filter(|p| !page::test(k, **p, pg::ACTIVE))
        .collect();
    assert!(deactivated.len() > 100, "{}", deactivated.len());
    assert!(deactivated.iter().all(|p| !buffers::has(k, **p)));
    let kept = before.iter().filter(|p| buffers::has(k, **p)).count();
    assert_eq!(kept, before.len() - deactivated.len());
}

#[test]
fn a_write_without_memory_for_buffers_leaves_a_valid_page() {
    let mut h = start::<AnonVmaMap, Direct>(1, Version::V2_6_7);
    map_shared(&mut h, 4);
    let want: Vec<u32> = (0..4).map(|i| h.read_user(MAPPED + (i << 12))).collect();
    h.write_user(BUFFER, 77);
    h.context().fail_alloc.set(1);
    let got = h.syscall(call::PWRITE64, [FILE, BUFFER, 4096, 2 << 12, 0, 0]);
    h.context().fail_alloc.set(0);
    assert_eq!(got, ENOMEM);
    let now: Vec<u32> = (0..4).map(|i| h.read_user(MAPPED + (i << 12))).collect();
    assert_eq!(now, want);
    assert_eq!(buffers::count(h.k), 0);
    check::all(h.k).unwrap();
}

#[test]
fn the_cache_holds_what_its_kernel_had() {
    let h = start::<AnonVmaMap, Direct>(1, Version::V2_6_7);
    assert_eq!(CacheId::BufferHead.object_bytes(h.k), 48);
    let h = start::<SwapOut, Old>(2, Version::V2_4);
    assert_eq!(CacheId::BufferHead.object_bytes(h.k), 96);
}

#[test]
fn wrong_buffers_are_caught() {
    let spoil = |f: &dyn Fn(&Machine, Low<BufferHead>)| {
        let mut h = start::<AnonVmaMap, Direct>(1, Version::V2_6_7);
        write(&mut h, 0, 4096, 1);
        write(&mut h, 4096, 4096, 1);
        h.fsync(FILE);
        check::all(h.k).unwrap();
        let head = Low::<BufferHead>::new(cached(&h, 0).private(h.k));
        f(&h, head);
        match check::all(h.k) {
            Err(Violation::PageTree { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        spoil(&|h, b| b.set_b_state(h.k, DIRTY)),
        "dirty buffer, clean page"
    );
    assert_eq!(
        spoil(&|h, b| b.set_b_state(h.k, VALID | 1 << bh::LOCK)),
        "locked buffer"
    );
    assert_eq!(spoil(&|h, b| b.set_b_count(h.k, 1)), "buffer in use");
    assert_eq!(
        spoil(&|h, b| b.set_b_page(h.k, cached(h, 1))),
        "buffer of another page"
    );
    assert_eq!(
        spoil(&|h, b| {
            let other = Low::<BufferHead>::new(cached(h, 1).private(h.k));
            other.set_b_page(h.k, cached(h, 0));
            b.set_b_this_page(h.k, other);
        }),
        "ring of buffers"
    );
}
