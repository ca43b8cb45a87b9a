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
//! memory that is compared, and by the log of file pages written.

use lowmem_machine::{Check, MachineError, ReplayOptions, replay, replay_keeping};
use lowmem_report::config::{Reclaim, Rmap, Split, YoungFlush};
use lowmem_report::{Config, Measurement, Mode, Outcome, Silent};
use lowmem_trace::{Trace, TraceBuilder};

const STORM: &[u8] = include_bytes!("../../../traces/swapstorm1.lmt");

fn storm() -> Trace {
    Trace::from_bytes("swapstorm1", STORM).expect("a committed trace")
}

fn options(mode: Mode) -> ReplayOptions {
    ReplayOptions {
        mode,
        check: Check::Off,
        ..ReplayOptions::default()
    }
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

/// Both modes, memory compared word by word.
fn both(trace: &Trace, config: &Config) -> Result<[Measurement; 2], MachineError> {
    let (native, kept) = replay_keeping(trace, config, &options(Mode::Native), &Silent)?;
    let (cycle, other) = replay_keeping(trace, config, &options(Mode::Cycle), &Silent)?;
    let (found, all) = kept.differences(&other, 8);
    assert_eq!(all, 0, "{} {}: {found:#x?}", config.rmap, config.split);
    assert!(kept.peak_digest().is_some());
    assert_eq!(
        kept.peak_digest(),
        other.peak_digest(),
        "{} {}",
        config.rmap,
        config.split
    );
    Ok([native, cycle])
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
