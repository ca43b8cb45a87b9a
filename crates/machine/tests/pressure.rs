//! Replays in RAM too small for them: nothing is lost, under every reclaim version and reverse map; kills and livelocks are
//! outcomes with zone and owners.

use lowmem_machine::{Check, Eviction, ReplayOptions, replay, replay_evictions};
use lowmem_report::config::{FileVmas, Reclaim, Rmap, Split};
use lowmem_report::{Config, Measurement, Mode, Outcome, Silent};
use lowmem_trace::{PAGE_SIZE, Trace, TraceBuilder};

const STORM: &[u8] = include_bytes!("../../../traces/swapstorm1.lmt");

fn native(check: Check) -> ReplayOptions {
    ReplayOptions {
        mode: Mode::Native,
        check,
        ..ReplayOptions::default()
    }
}

fn storm() -> Trace {
    Trace::from_bytes("swapstorm1", STORM).expect("a committed trace")
}

/// A complete run; `None` if the built-in archives lack the image of this configuration (its symbols, which native boot needs).
fn complete_if_built(trace: &Trace, config: &Config) -> Option<Measurement> {
    let m = replay(trace, config, &native(Check::Doubling), &Silent)
        .unwrap_or_else(|e| panic!("{config:?}: {e}"));
    let missing = |reason: &String| reason.starts_with("no guest image");
    if m.outcome == Outcome::Refused && m.reason.as_ref().is_some_and(missing) {
        return None;
    }
    assert_eq!(m.outcome, Outcome::Complete, "{config:?}: {:?}", m.reason);
    Some(m)
}

fn complete(trace: &Trace, config: &Config) -> Measurement {
    complete_if_built(trace, config).expect("an image that is always there")
}

#[test]
fn a_swap_storm_loses_nothing() {
    let trace = storm();
    let hash = complete(&trace, &Config::default()).memory_hash;
    assert!(hash.is_some());
    let mut configs = Vec::new();
    for rmap in [
        Rmap::AnonVma,
        Rmap::PteChain,
        Rmap::Objrmap,
        Rmap::Anonmm,
        Rmap::AnonVmaRfc,
        Rmap::AnonVmaChain,
        Rmap::PteChainV1,
        Rmap::PteChainDl,
    ] {
        configs.push((rmap, Split::G3G1, FileVmas::PrioTree, Reclaim::V2_6_7));
        configs.push((rmap, Split::G4G4, FileVmas::List, Reclaim::V2_6_0));
    }
    configs.push((
        Rmap::AnonVma,
        Split::G3G1,
        FileVmas::PrioTree,
        Reclaim::V2_6_8,
    ));
    configs.push((
        Rmap::SwapOut,
        Split::G3G1,
        FileVmas::PrioTree,
        Reclaim::V2_4,
    ));
    for (rmap, split, file_vmas, reclaim) in configs {
        let config = Config {
            rmap,
            split,
            file_vmas,
            reclaim,
            ram_bytes: 24 << 20,
            ..Config::default()
        };
        let Some(m) = complete_if_built(&trace, &config) else {
            continue;
        };
        assert_eq!(m.memory_hash, hash, "{rmap} {split} {reclaim}");
        assert!(m.devices.swap_writes > 1000, "{rmap} {split} {reclaim}");
        assert!(m.devices.swap_reads > 1000, "{rmap} {split} {reclaim}");
    }
}

#[test]
fn reclaim_2_4_needs_the_scan() {
    let config = Config {
        reclaim: Reclaim::V2_4,
        ..Config::default()
    };
    let m = replay(&storm(), &config, &native(Check::Off), &Silent).expect("an outcome");
    assert_eq!(m.outcome, Outcome::Refused);
}

/// Eviction order of the storm in 24 MB.
fn order(rmap: Rmap, file_vmas: FileVmas) -> Vec<Eviction> {
    let config = Config {
        rmap,
        file_vmas,
        ram_bytes: 24 << 20,
        ..Config::default()
    };
    let (m, evictions) =
        replay_evictions(&storm(), &config, &native(Check::Off), &Silent).expect("it runs");
    assert_eq!(m.outcome, Outcome::Complete);
    evictions
}

#[test]
fn evictions_are_deterministic() {
    let a = order(Rmap::AnonVma, FileVmas::PrioTree);
    assert!(a.len() > 1000);
    assert_eq!(a, order(Rmap::AnonVma, FileVmas::PrioTree));
    assert!(a.iter().any(|e| matches!(e, Eviction::File { .. })));
    assert!(a.iter().any(|e| matches!(e, Eviction::Swap { .. })));
}

/// How a page's vmas are found does not decide which page goes.
#[test]
fn lists_and_prio_trees_evict_in_one_order() {
    for rmap in [Rmap::AnonVma, Rmap::PteChain] {
        assert_eq!(
            order(rmap, FileVmas::PrioTree),
            order(rmap, FileVmas::List),
            "{rmap}"
        );
    }
}

/// Private memory of twice the RAM, all locked: reclaim can do nothing although swap is free.
#[test]
fn locked_memory_ends_as_livelock_with_zone_and_owners() {
    let mut t = TraceBuilder::new("locked");
    let p = t.spawn();
    let bytes = 48 << 20;
    let a = t.on(p).mmap_anon(bytes);
    t.on(p).mlock(a, bytes);
    t.on(p).write_pages(a, bytes);
    let config = Config {
        ram_bytes: 24 << 20,
        ..Config::default()
    };
    let m = replay(&t.finish(), &config, &native(Check::Off), &Silent).expect("an outcome");
    assert_eq!(m.outcome, Outcome::Livelock, "{:?}", m.reason);
    let reason = m.reason.expect("why");
    for word in ["zone", "for user", "low memory: user", "kB"] {
        assert!(reason.contains(word), "{word} not in: {reason}");
    }
}

/// Swap is turned off while most of a working set is in it: private pages of two processes and a shared object.
#[test]
fn swapoff_in_a_trace_loses_nothing() {
    let mut t = TraceBuilder::new("swapoff");
    let p = t.spawn();
    let bytes = 3 << 20;
    let shared = t.on(p).mmap_shared(bytes);
    let private = t.on(p).mmap_anon(bytes);
    t.on(p)
        .write_pages(shared, bytes)
        .write_pages(private, bytes);
    let c = t.on(p).fork();
    // More than fits: pushes the rest out, and goes again.
    let big = 24 << 20;
    let a = t.on(c).mmap_anon(big);
    t.on(c).write_pages(a, big).munmap(a, big);
    t.on(c).other(lowmem_abi::call::SWAPOFF, 0, 0);
    t.on(c)
        .read_pages(private, bytes)
        .write_pages(private, bytes);
    t.on(c).exit();
    t.on(p).read_pages(shared, bytes).read_pages(private, bytes);
    t.on(p).munmap(private, PAGE_SIZE);
    let trace = t.finish();
    let small = |rmap| Config {
        rmap,
        ram_bytes: 24 << 20,
        ..Config::default()
    };
    let hash = complete(&trace, &Config::default()).memory_hash;
    for rmap in [Rmap::AnonVma, Rmap::PteChain, Rmap::Anonmm] {
        let Some(m) = complete_if_built(&trace, &small(rmap)) else {
            continue;
        };
        assert_eq!(m.memory_hash, hash, "{rmap}");
        assert!(m.devices.swap_writes > 500, "{rmap}: {:?}", m.devices);
    }
}
