//! What reclaim, allocator, swap and slab do by number: watermarks, how much is scanned, runs of slots, sizes of arrays, when a kill comes.
//! The figures are those of the kernels that a version names.
#![allow(missing_docs, reason = "a test")]

mod harness;

use guest_vm::check;
use guest_vm::kernel::Kernel;
use guest_vm::layout::pg;
use guest_vm::lru::lru_add_drain;
use guest_vm::page;
use guest_vm::page_alloc::zone::{self, Zone};
use guest_vm::page_alloc::{Gfp, ZoneKind, pfn_to_page};
use guest_vm::percpu::{State, page_state};
use guest_vm::pgtable::{ACCESSED, Pte};
use guest_vm::ptr::Low;
use guest_vm::reclaim::{self, Control, Request, Version, Who, oom, scan};
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::swap_out::SwapOut;
use guest_vm::slab::{self, CacheId};
use guest_vm::swap::{self, SwapEntry};
use guest_vm::task::current;
use harness::{Direct, Harness};
use lowmem_abi::boot::{BootInfo, VECTOR_RESCHED};
use lowmem_abi::call;
use lowmem_abi::mailbox::{NO_FILE, NO_RESULT};
use lowmem_abi::owner::Owner;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

const PRIVATE_ANONYMOUS_FIXED: u32 = 0x32;
const READ_WRITE: u32 = 3;
const BASE: u32 = 0x0850_0000;

fn machine<R: Scheme>(ram_mb: u32, version: Version, swap_slots: u32) -> Harness<R, Direct> {
    let mut h = Harness::<R, Direct>::with_info(BootInfo {
        swap_slots,
        reclaim: version as u32,
        ..Harness::<R, Direct>::info(ram_mb)
    });
    h.boot();
    h.mailbox().result = NO_RESULT;
    h.mailbox().next = 1;
    h
}

fn fill<R: Scheme>(h: &mut Harness<R, Direct>, at: u32, pages: u32) {
    let args = [
        at,
        pages << 12,
        READ_WRITE,
        PRIVATE_ANONYMOUS_FIXED,
        NO_FILE,
        0,
    ];
    assert_eq!(h.syscall(call::MMAP2, args), at);
    for p in 0..pages {
        h.write_user(at + (p << 12), p | 1);
    }
}

fn marks(version: Version) -> [(u32, u32, u32); 3] {
    let h = machine::<AnonVmaMap>(2048, version, 0);
    ZoneKind::ALL.map(|kind| {
        let z = zone::zone(h.k, kind);
        (z.pages_min(h.k), z.pages_low(h.k), z.pages_high(h.k))
    })
}

/// 2.6.0: 1,024 kB for low memory; 2.6.7: sqrt(lowmem kB) = 957 kB; 2.4: a 128th of each zone, at most 255 pages.
#[test]
fn watermarks_by_version() {
    let by_min = |min: [u32; 3]| min.map(|m| (m, 2 * m, 3 * m));
    assert_eq!(marks(Version::V2_6_0), by_min([4, 251, 128]));
    assert_eq!(marks(Version::V2_6_7), by_min([4, 234, 128]));
    assert_eq!(marks(Version::V2_6_8), by_min([4, 234, 128]));
    assert_eq!(marks(Version::V2_4), by_min([32, 255, 255]));
}

/// The zone with most pages on its lists, per-CPU vectors emptied.
fn fullest<K: Kernel>(k: K) -> Low<Zone> {
    lru_add_drain(k);
    ZoneKind::ALL
        .map(|kind| zone::zone(k, kind))
        .into_iter()
        .max_by_key(|z| z.nr_active(k) + z.nr_inactive(k))
        .expect("three zones")
}

/// Pages of both lists that one scan at `priority` looks at.
fn scanned<R: Scheme>(version: Version, priority: u32) -> ((u32, u32), (u32, u32)) {
    let mut h = machine::<R>(24, version, 16384);
    fill(&mut h, BASE, 2500);
    let k = h.k;
    let z = fullest(k);
    let before = (z.nr_active(k), z.nr_inactive(k));
    assert!(before.0 > 1000, "{before:?}");
    z.set_nr_scan_active(k, 0);
    z.set_nr_scan_inactive(k, 0);
    let task = current(k);
    task.set_flags(k, task.flags(k) | reclaim::PF_MEMALLOC);
    let (refilled, looked) = (
        page_state(k, State::PgRefill),
        page_state(k, State::PgScanDirect),
    );
    let mut c = Control::new(k, Who::Direct, Gfp::Kernel, priority);
    match version {
        Version::V2_6_0 => scan::shrink_zone_2_6_0(k, z, &mut c, 32),
        _ => scan::shrink_zone(k, z, &mut c),
    }
    task.set_flags(k, task.flags(k) & !reclaim::PF_MEMALLOC);
    let after = (
        page_state(k, State::PgRefill) - refilled,
        page_state(k, State::PgScanDirect) - looked,
    );
    (before, after)
}

#[test]
fn how_much_of_the_active_list_a_scan_looks_at() {
    // 2.6.7: in proportion to the lists, at most four times the share of both; and one.
    let ((active, inactive), (refilled, _)) = scanned::<AnonVmaMap>(Version::V2_6_7, 4);
    let share = (active + inactive) >> 4;
    let proportion = if active >= 4 * (2 * inactive + 1) {
        4 * share
    } else {
        (u64::from(share) * u64::from(active) / u64::from(2 * inactive + 1)) as u32
    };
    assert_eq!(refilled, (proportion + 1).min(active));
    // 2.6.8: the same share of each list; and one.
    let ((active, _), (refilled, _)) = scanned::<AnonVmaMap>(Version::V2_6_8, 4);
    assert_eq!(refilled, (active >> 4) + 1);
    // 2.6.0: by what is wanted, 128 at once at most.
    let ((active, inactive), (refilled, _)) = scanned::<PteChains>(Version::V2_6_0, 4);
    let ratio = 32 * active / ((inactive | 1) * 2) + 1;
    assert!(ratio > 128, "{ratio}");
    assert_eq!(refilled, 128);
}

/// What is above 128 is owed: the next scan of 2.6.0 looks at 128 again, though the lists are even by then.
#[test]
fn the_refill_counter_of_2_6_0_keeps_what_is_above_128() {
    let mut h = machine::<PteChains>(24, Version::V2_6_0, 16384);
    fill(&mut h, BASE, 2500);
    let k = h.k;
    let z = fullest(k);
    let ratio = 32 * z.nr_active(k) / ((z.nr_inactive(k) | 1) * 2);
    let owed = reclaim::state(k).refill_counter(k, z.kind(k));
    let mut c = Control::new(k, Who::Direct, Gfp::Kernel, 12);
    scan::shrink_zone_2_6_0(k, z, &mut c, 32);
    let left = reclaim::state(k).refill_counter(k, z.kind(k));
    assert_eq!(left, owed + ratio + 1 - 128);
}

/// shrink_cache of 2.6.0 takes as many pages at once as are wanted; the others take 32.
#[test]
fn isolation_by_version() {
    for (version, wanted, at_once) in [(Version::V2_6_0, 200, 200), (Version::V2_6_0, 5, 32)] {
        let mut h = machine::<PteChains>(24, version, 16384);
        fill(&mut h, BASE, 2500);
        let k = h.k;
        for _ in 0..40 {
            let z = fullest(k);
            let mut c = Control::new(k, Who::Direct, Gfp::Atomic, 12);
            z.set_prev_priority(k, 0);
            scan::shrink_zone_2_6_0(k, z, &mut c, 1);
        }
        let z = fullest(k);
        assert!(z.nr_inactive(k) > 450, "{}", z.nr_inactive(k));
        let looked = page_state(k, State::PgScanDirect);
        // GFP_ATOMIC may not write: nothing is freed, so the scan goes on to twice what is wanted, at least 32, in whole pieces.
        let mut c = Control::new(k, Who::Direct, Gfp::Atomic, 12);
        scan::shrink_zone_2_6_0(k, z, &mut c, wanted);
        let looked = page_state(k, State::PgScanDirect) - looked;
        // pgscan counts the look that ends a piece.
        assert_eq!(looked % (at_once + 1), 0, "{looked}");
        assert!(looked >= (2 * wanted).max(32), "{looked}");
    }
}

/// ptes with the Accessed bit among the first `pages` pages.
fn young<R: Scheme>(h: &Harness<R, Direct>, pages: u32) -> u32 {
    let k = h.k;
    let mut n = 0;
    check::each_mm(k, |mm| {
        check::each_pte(k, mm, |m| {
            let inside = m.addr >= BASE && m.addr < BASE + (pages << 12);
            n += (inside && m.pte & u64::from(ACCESSED) != 0) as u32;
        });
    });
    n
}

/// Below 100 of swap_tendency, 2.6.7 puts mapped pages back unasked; 2.6.0 asks each, which clears its Accessed bits.
#[test]
fn who_is_asked_while_mapped_pages_are_not_wanted() {
    let asked = |version| {
        let mut h = machine::<PteChains>(24, version, 16384);
        fill(&mut h, BASE, 1000);
        let k = h.k;
        let z = fullest(k);
        z.set_prev_priority(k, 12);
        let before = young(&h, 1000);
        let (refilled, gone) = (
            page_state(k, State::PgRefill),
            page_state(k, State::PgDeactivate),
        );
        let mut c = Control::new(k, Who::Direct, Gfp::Kernel, 4);
        match version {
            Version::V2_6_0 => scan::shrink_zone_2_6_0(k, z, &mut c, 32),
            _ => scan::shrink_zone(k, z, &mut c),
        }
        assert!(page_state(k, State::PgRefill) - refilled >= 32);
        assert_eq!(page_state(k, State::PgDeactivate), gone, "none is wanted");
        before - young(&h, 1000)
    };
    assert_eq!(asked(Version::V2_6_7), 0);
    assert!(asked(Version::V2_6_0) >= 32);
}

/// kswapd of 2.6.0 never sleeps between rounds.
#[test]
fn kswapd_of_2_6_0_takes_no_nap() {
    let mut h = machine::<PteChains>(24, Version::V2_6_0, 16384);
    fill(&mut h, BASE, 2500);
    let k = h.k;
    let z = fullest(k);
    z.set_pages_high(k, z.free_pages(k) + 500);
    let slept = h.context().waited_ms.get();
    reclaim::kswapd::run(k);
    assert_eq!(h.context().waited_ms.get(), slept);
    assert_eq!(z.prev_priority(k), z.temp_priority(k));
    assert!(page_state(k, State::PgRefill) > 0);
}

/// New anonymous pages: active in 2.6, inactive in 2.4.
#[test]
fn the_list_of_a_new_anonymous_page() {
    fn is_active<R: Scheme>(version: Version) -> bool {
        let mut h = machine::<R>(24, version, 16384);
        fill(&mut h, BASE, 1);
        let frame = h.touch(BASE, true);
        lru_add_drain(h.k);
        page::test(h.k, pfn_to_page(h.k, frame), pg::ACTIVE)
    }
    assert!(is_active::<AnonVmaMap>(Version::V2_6_7));
    assert!(is_active::<PteChains>(Version::V2_6_0));
    assert!(!is_active::<SwapOut>(Version::V2_4));
}

/// Slots come in runs: what is freed behind is not taken again before the run is used up.
#[test]
fn swap_slots_come_in_runs_of_256() {
    let h = machine::<AnonVmaMap>(24, Version::V2_6_7, 4096);
    let k = h.k;
    let take = |n: u32| -> Vec<u32> {
        (0..n)
            .map(|_| swap::get_swap_page(k).expect("free slots").0)
            .collect()
    };
    let first = take(100);
    assert_eq!(first, (1..=100).collect::<Vec<_>>());
    swap::swap_free(k, SwapEntry(10));
    // The first slot of a run, and 256 more.
    assert_eq!(take(157), (101..=257).collect::<Vec<_>>());
    // The next run is the first that is wholly free, not the hole.
    assert_eq!(take(257), (258..=514).collect::<Vec<_>>());
    assert_eq!(swap::map_count(k, SwapEntry(10)), 0);
}

/// Slots of the pages that are out, by slot; of pages that are in no cache.
fn out<K: Kernel>(k: K) -> BTreeMap<u32, u32> {
    let mut at = BTreeMap::new();
    check::each_mm(k, |mm| {
        check::each_pte(k, mm, |m| {
            let pte = Pte(m.pte);
            if !pte.present() {
                let entry = SwapEntry::of_pte(pte);
                if swap::map_count(k, entry) == 1 {
                    at.insert(entry.0, m.addr);
                }
            }
        });
    });
    at
}

#[test]
fn read_ahead_takes_the_aligned_eight_up_to_a_free_slot() {
    let mut h = machine::<AnonVmaMap>(24, Version::V2_6_7, 16384);
    fill(&mut h, BASE, 600);
    for _ in 0..4 {
        reclaim::shrink_all(h.k, 0);
        h.enter(VECTOR_RESCHED);
    }
    let k = h.k;
    let out = out(k);
    let whole: Vec<u32> = (1..2000)
        .map(|n| n * 8)
        .filter(|first| (*first..first + 8).all(|s| out.contains_key(&s)))
        .collect();
    assert!(whole.len() >= 2, "{whole:?}");
    let read = page_state(k, State::PswpIn);
    swap::swapin_readahead(k, SwapEntry(whole[0] + 5));
    assert_eq!(page_state(k, State::PswpIn) - read, 8);
    let hole = out[&(whole[1] + 3)];
    assert_eq!(h.syscall(call::MUNMAP, [hole, 4096, 0, 0, 0, 0]), 0);
    let read = page_state(k, State::PswpIn);
    swap::swapin_readahead(k, SwapEntry(whole[1] + 6));
    assert_eq!(page_state(k, State::PswpIn) - read, 3);
}

#[test]
fn slab_arrays_by_size_and_what_stays_free() {
    let h = machine::<AnonVmaMap>(512, Version::V2_6_7, 0);
    let k = h.k;
    for id in CacheId::ALL.iter().filter(|id| id.exists(k)) {
        let c = slab::cache(k, *id);
        let limit = match c.objsize(k) {
            0..=256 => 120,
            257..=1024 => 54,
            1025..=4096 => 24,
            _ => 8,
        };
        assert_eq!(c.limit(k), limit, "{}", id.name());
        assert_eq!(c.batchcount(k), limit / 2, "{}", id.name());
        assert_eq!(c.free_limit(k), limit + c.num(k), "{}", id.name());
    }
}

/// Objects given back stay in arrays and free slabs; the clock brings the memory back.
#[test]
fn the_clock_trims_slab() {
    let h = machine::<AnonVmaMap>(512, Version::V2_6_7, 0);
    let k = h.k;
    let id = CacheId::Vma;
    let objects: Vec<Low<u32>> = (0..2000)
        .map(|_| slab::kmem_cache_alloc(k, id, Gfp::Kernel).expect("memory"))
        .collect();
    for o in objects {
        slab::kmem_cache_free(k, id, o);
    }
    let held = slab::usage(k, id).0;
    let used = slab::usage(k, id).1;
    assert_eq!(slab::reap::reap_if_due(k), 0, "nothing is due");
    let mut given = 0;
    for _ in 0..100 {
        // 2 s are 200 ticks of 1,024 operations.
        h.mailbox().clock += 200;
        given += slab::reap::reap_if_due(k);
        assert_eq!(slab::reap::reap_if_due(k), 0, "once each 2 s");
    }
    let (left, still, _) = slab::usage(k, id);
    assert!(held - left > 0 && given >= held - left, "{held} {left}");
    assert_eq!(still, used);
    let c = slab::cache(k, id);
    assert!(c.slabs_free(k).is_empty(k));
    check::all(k).expect("slabs and owners agree");
}

/// The first failure starts the clock, those of the first second do not count, the tenth after it kills; place, owner and victim
/// are told.
#[test]
fn when_a_kill_comes() {
    let mut h = machine::<AnonVmaMap>(24, Version::V2_6_7, 0);
    fill(&mut h, BASE, 4);
    let k = h.k;
    let r = Request {
        gfp: Gfp::HighUser,
        order: 0,
        owner: Owner::User,
    };
    let tick = || h.mailbox().clock += 1;
    oom::out_of_memory(k, &r);
    for _ in 0..99 {
        tick();
        oom::out_of_memory(k, &r);
    }
    for _ in 0..9 {
        tick();
        oom::out_of_memory(k, &r);
    }
    tick();
    let killed = catch_unwind(AssertUnwindSafe(|| oom::out_of_memory(k, &r)));
    let text = *killed
        .expect_err("killed")
        .downcast::<String>()
        .expect("a text");
    let owner = Owner::User as u32;
    assert_eq!(
        text,
        format!("OomKill: place 2, detail 0x100, value {owner:#x}")
    );
}

/// More than 5 s without a failure begins anew.
#[test]
fn a_gap_starts_the_count_again() {
    let h = machine::<AnonVmaMap>(24, Version::V2_6_7, 0);
    let r = Request {
        gfp: Gfp::Kernel,
        order: 1,
        owner: Owner::Stack,
    };
    for _ in 0..40 {
        h.mailbox().clock += 501;
        oom::out_of_memory(h.k, &r);
    }
}

/// A request for low memory that hangs names its zone and its owner.
#[test]
fn a_livelock_names_zone_and_owner() {
    let h = machine::<AnonVmaMap>(24, Version::V2_6_7, 16384);
    let k = h.k;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        loop {
            guest_vm::page_alloc::alloc_pages(k, Gfp::Kernel, 0, Owner::Vmalloc)
                .expect("goes round");
        }
    }));
    let text = *ended
        .expect_err("hangs")
        .downcast::<String>()
        .expect("a text");
    let owner = Owner::Vmalloc as u32;
    assert_eq!(
        text,
        format!("Livelock: place 1, detail 0x0, value {owner:#x}")
    );
}

/// munmap frees page tables of whole, empty gigabytes only; the others stay until exit.
#[test]
fn page_tables_stay_after_munmap() {
    let mut h = machine::<AnonVmaMap>(64, Version::V2_6_7, 0);
    let k = h.k;
    let tables = || page_state(k, State::NrPageTablePages);
    fill(&mut h, BASE + 0x1000_0000, 1);
    let before = tables();
    fill(&mut h, BASE, 1024);
    assert!(tables() > before);
    let with = tables();
    assert_eq!(h.syscall(call::MUNMAP, [BASE, 1024 << 12, 0, 0, 0, 0]), 0);
    assert_eq!(tables(), with, "the gigabyte has other areas");
    const WHOLE: u32 = 0x5000_0000;
    fill(&mut h, WHOLE, 1024);
    assert!(tables() > with);
    assert_eq!(h.syscall(call::MUNMAP, [WHOLE, 1024 << 12, 0, 0, 0, 0]), 0);
    assert_eq!(tables(), with, "nothing else lies in the second gigabyte");
    check::all(k).expect("after munmap");
}
