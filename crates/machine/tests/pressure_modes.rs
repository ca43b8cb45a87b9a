//! Native and cycle mode under memory pressure: the same pages go, in the same order, and the same memory is left.
//!
//! With `young_flush=on` (2.6.8's rule) this is exact: whoever clears an Accessed bit flushes the page's TLB entry, so that the next
//! reference sets it again, as the native walk does. With `young_flush=off` (2.6.0 to 2.6.7) a reference through a TLB entry
//! that outlived the clearing leaves the bit clear on the CPU; natively, where there is no TLB, it is set. A page in use is then older on the
//! CPU than natively, and the modes may evict other pages; what processes see is the same all the same.
//!
//! 2.4's scan of page tables (`swap_out`) clears Accessed bits without a flush whatever the rule is, as 2.4 did: there, too, only what the
//! processes see is equal.
//!
//! Order is held by the swap device's seeks and time, which depend on the sequence of slots, by the LRU lists and the swap map in the
//! memory that is compared, and by what left the lists in each operation (`lowmem_machine::reclaimed`).

mod common;

use common::{Pages, both, fitted, options, random_load};
use lowmem_machine::reclaimed::reclaimed;
use lowmem_machine::replay;
use lowmem_report::config::{Reclaim, Rmap, Split, YoungFlush};
use lowmem_report::{Config, Mode, Outcome, Silent};
use lowmem_trace::{Trace, TraceBuilder};

const STORM: &[u8] = include_bytes!("../../../traces/swapstorm1.lmt");

fn storm() -> Trace {
    Trace::from_bytes("swapstorm1", STORM).expect("a committed trace")
}

fn small(rmap: Rmap, split: Split, young_flush: YoungFlush) -> Config {
    Config {
        rmap,
        split,
        young_flush,
        ram_bytes: 24 << 20,
        probe_unmap: 0,
        ..Config::default()
    }
}

fn storm_is_identical(rmap: Rmap, split: Split, reclaim: Reclaim) {
    let config = Config {
        reclaim,
        ..small(rmap, split, YoungFlush::On)
    };
    let [native, cycle] = both(&storm(), &config).unwrap_or_else(|e| panic!("{rmap} {split}: {e}"));
    assert_eq!(native.outcome, Outcome::Complete, "{:?}", native.reason);
    assert_eq!(cycle.outcome, Outcome::Complete, "{:?}", cycle.reason);
    assert!(native.memory_hash.is_some());
    assert_eq!(native.memory_hash, cycle.memory_hash, "{rmap} {split}");
    assert_eq!(native.devices, cycle.devices, "{rmap} {split}");
    assert!(
        native.devices.swap_writes > 1000,
        "{rmap} {split}: {:?}",
        native.devices
    );
}

#[test]
fn a_storm_evicts_alike_with_anon_vma() {
    storm_is_identical(Rmap::AnonVma, Split::G3G1, Reclaim::V2_6_8);
}

#[test]
fn a_storm_evicts_alike_with_chains_on_4g4g() {
    storm_is_identical(Rmap::PteChain, Split::G4G4, Reclaim::V2_6_7);
}

#[test]
fn a_storm_evicts_alike_with_anonmm_and_the_scan_of_2_6_0() {
    storm_is_identical(Rmap::Anonmm, Split::G3G1, Reclaim::V2_6_0);
}

/// What reclaim takes, operation by operation, and the order in which it leaves the rest, are no other on the CPU. So many operations in
/// which it ran, so many pages gone.
fn reclaimed_alike(trace: &Trace, config: &Config, row: &str) -> (usize, usize) {
    let log =
        |mode| reclaimed(trace, config, &options(mode)).unwrap_or_else(|e| panic!("{row}: {e}"));
    let (native, cycle) = (log(Mode::Native), log(Mode::Cycle));
    let differ = native.iter().zip(&cycle).find(|(a, b)| a != b);
    assert!(differ.is_none(), "{row}: {differ:#x?}");
    assert_eq!(native.len(), cycle.len(), "{row}");
    (native.len(), native.iter().map(|r| r.gone.len()).sum())
}

#[test]
fn a_storm_is_reclaimed_alike_operation_by_operation() {
    for (rmap, split) in [(Rmap::AnonVma, Split::G4G4), (Rmap::PteChain, Split::G3G1)] {
        let config = small(rmap, split, YoungFlush::On);
        let (_, gone) = reclaimed_alike(&storm(), &config, &format!("{rmap} {split}"));
        assert!(gone > 4000, "{rmap} {split}: {gone}");
    }
}

/// Random loads that want more than twice the RAM there is: seed, reverse map, split and scan of each.
const RANDOM: [(u64, Rmap, Split, Reclaim); 10] = [
    (1, Rmap::AnonVma, Split::G4G4, Reclaim::V2_6_7),
    (2, Rmap::PteChain, Split::G3G1, Reclaim::V2_6_0),
    (3, Rmap::Objrmap, Split::G2G2, Reclaim::V2_6_7),
    (4, Rmap::Anonmm, Split::G4G4, Reclaim::V2_6_8),
    (5, Rmap::AnonVmaRfc, Split::G3G1, Reclaim::V2_6_7),
    (6, Rmap::AnonVmaChain, Split::G4G4, Reclaim::V2_6_8),
    (7, Rmap::PteChainV1, Split::G3G1, Reclaim::V2_6_0),
    (8, Rmap::PteChainDl, Split::G1G3, Reclaim::V2_6_7),
    (9, Rmap::AnonVma, Split::G1G3, Reclaim::V2_6_8),
    (10, Rmap::PteChain, Split::G2G2, Reclaim::V2_6_7),
];

#[test]
fn random_loads_evict_alike() {
    random_rows(&RANDOM[..5]);
}

#[test]
fn more_random_loads_evict_alike() {
    random_rows(&RANDOM[5..]);
}

fn random_rows(rows: &[(u64, Rmap, Split, Reclaim)]) {
    let pages = Pages {
        private: 4000,
        shared: 2500,
        file: 1500,
    };
    for (seed, rmap, split, reclaim) in rows.iter().copied() {
        let row = format!("seed {seed} {rmap} {split} {reclaim}");
        let config = Config {
            reclaim,
            ..small(rmap, split, YoungFlush::On)
        };
        let trace = fitted(random_load(seed, pages, 12), split);
        let [native, cycle] = both(&trace, &config).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert!(native.memory_hash.is_some(), "{row}");
        assert_eq!(native.memory_hash, cycle.memory_hash, "{row}");
        assert_eq!(native.devices, cycle.devices, "{row}");
        let d = native.devices;
        assert!(d.swap_writes > 500 && d.swap_reads > 100, "{row}: {d:?}");
        let (runs, gone) = reclaimed_alike(&trace, &config, &row);
        assert!(runs > 5 && gone > 500, "{row}: {runs} {gone}");
        let ample = Config {
            ram_bytes: 256 << 20,
            ..config
        };
        let roomy = replay(&trace, &ample, &options(Mode::Native), &Silent)
            .unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!(roomy.devices.swap_writes, 0, "{row}");
        assert_eq!(roomy.memory_hash, native.memory_hash, "{row}");
    }
}

/// Accessed bits that a stale TLB entry keeps clear may change which pages go; never what the processes see.
#[test]
fn without_the_flush_memory_is_the_same_for_the_processes() {
    let off = small(Rmap::AnonVma, Split::G3G1, YoungFlush::Off);
    let scan = Config {
        reclaim: Reclaim::V2_4,
        ..small(Rmap::SwapOut, Split::G3G1, YoungFlush::On)
    };
    for config in [off, scan] {
        let run = |mode| {
            replay(&storm(), &config, &options(mode), &Silent).unwrap_or_else(|e| panic!("{e}"))
        };
        let (native, cycle) = (run(Mode::Native), run(Mode::Cycle));
        assert_eq!(native.outcome, Outcome::Complete, "{}", config.rmap);
        assert_eq!(cycle.outcome, Outcome::Complete, "{}", config.rmap);
        assert!(native.memory_hash.is_some());
        assert_eq!(native.memory_hash, cycle.memory_hash, "{}", config.rmap);
    }
}

/// Where a run ends for want of memory, it ends in both modes at the same operation, in the same zone, with the same owners.
#[test]
fn both_modes_end_alike_when_memory_is_locked() {
    let mut t = TraceBuilder::new("locked");
    let p = t.spawn();
    let bytes = 48 << 20;
    let a = t.on(p).mmap_anon(bytes);
    t.on(p).mlock(a, bytes);
    t.on(p).write_pages(a, bytes);
    let trace = t.finish();
    let config = small(Rmap::AnonVma, Split::G3G1, YoungFlush::On);
    let run =
        |mode| replay(&trace, &config, &options(mode), &Silent).unwrap_or_else(|e| panic!("{e}"));
    let (native, cycle) = (run(Mode::Native), run(Mode::Cycle));
    assert_eq!(native.outcome, Outcome::Livelock, "{:?}", native.reason);
    assert_eq!(native.outcome, cycle.outcome, "{:?}", cycle.reason);
    assert_eq!(native.reason, cycle.reason);
    assert_eq!(native.devices, cycle.devices);
}
