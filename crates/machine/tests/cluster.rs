//! Page clustering through whole replays: the memory of the processes is that of pages of 4 KB, with every reverse map, in native and in
//! cycle mode, in ample RAM and in RAM too small. Rows whose image is not in the built-in archives are passed over.

mod common;

use common::{Pages, both, random_load};
use lowmem_machine::identity::compare_modes;
use lowmem_machine::{Check, ReplayOptions, replay};
use lowmem_report::config::{FileVmas, Highpte, Rmap, Split, YoungFlush};
use lowmem_report::{Config, Measurement, Mode, Outcome, Owner, Silent};
use lowmem_trace::Trace;

const MAPS: [Rmap; 8] = [
    Rmap::AnonVma,
    Rmap::PteChain,
    Rmap::Objrmap,
    Rmap::Anonmm,
    Rmap::AnonVmaChain,
    Rmap::PteChainV1,
    Rmap::PteChainDl,
    Rmap::SwapOut,
];

fn recording(name: &str) -> Trace {
    let path = format!("{}/../../traces/{name}.lmt", env!("CARGO_MANIFEST_DIR"));
    Trace::open(path).unwrap_or_else(|e| panic!("{e}"))
}

/// A complete run; `None` if there is no image.
fn run(trace: &Trace, config: &Config, mode: Mode) -> Option<Measurement> {
    let options = ReplayOptions {
        mode,
        check: Check::Doubling,
        ..ReplayOptions::default()
    };
    let m = replay(trace, config, &options, &Silent).unwrap_or_else(|e| panic!("{config:?}: {e}"));
    let missing = |reason: &String| reason.starts_with("no guest image");
    if m.outcome == Outcome::Refused && m.reason.as_ref().is_some_and(missing) {
        return None;
    }
    assert_eq!(m.outcome, Outcome::Complete, "{config:?}: {:?}", m.reason);
    Some(m)
}

fn config(rmap: Rmap, cluster: u8, ram_mb: u64) -> Config {
    Config {
        rmap,
        cluster,
        ram_bytes: ram_mb << 20,
        probe_unmap: 16,
        ..Config::default()
    }
}

#[test]
fn processes_have_the_same_memory_whatever_the_page_size() {
    for name in ["mremapfork1", "sort64"] {
        let trace = recording(name);
        let plain = run(&trace, &config(Rmap::AnonVma, 0, 512), Mode::Native).expect("an image");
        for rmap in MAPS {
            for (split, cluster, file_vmas) in [
                (Split::G3G1, 3, FileVmas::PrioTree),
                (Split::G4G4, 4, FileVmas::List),
            ] {
                for highpte in [Highpte::Off, Highpte::On] {
                    let config = Config {
                        split,
                        file_vmas,
                        highpte,
                        ..config(rmap, cluster, 2048)
                    };
                    if rmap == Rmap::PteChainV1 && highpte == Highpte::On {
                        continue;
                    }
                    if let Some(m) = run(&trace, &config, Mode::Native) {
                        assert_eq!(m.memory_hash, plain.memory_hash, "{name} {config:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_swap_storm_in_pages_of_32_kb_loses_nothing() {
    let trace = recording("swapstorm1");
    let plain = run(&trace, &config(Rmap::AnonVma, 0, 4096), Mode::Native).expect("an image");
    for rmap in MAPS {
        if let Some(m) = run(&trace, &config(rmap, 3, 24), Mode::Native) {
            assert_eq!(m.memory_hash, plain.memory_hash, "{rmap}");
            assert!(m.devices.swap_writes > 1000, "{rmap}");
        }
    }
}

#[test]
fn struct_pages_take_an_eighth_and_the_waste_is_named() {
    let trace = recording("pygrow1");
    let plain = run(&trace, &config(Rmap::AnonVma, 0, 512), Mode::Native).expect("an image");
    assert_eq!(plain.lowmem.unmapped_bytes, 0);
    if let Some(m) = run(&trace, &config(Rmap::AnonVma, 3, 512), Mode::Native) {
        let bytes = |m: &Measurement| m.lowmem.owner(Owner::MemMap);
        assert_eq!(bytes(&m) * 8, bytes(&plain));
        assert!(m.lowmem.unmapped_bytes > 0);
        assert!(m.lowmem.unmapped_bytes.is_multiple_of(4096));
    }
}

#[test]
fn a_page_that_names_its_vma_cannot_be_clustered() {
    let options = ReplayOptions {
        mode: Mode::Native,
        ..ReplayOptions::default()
    };
    let trace = recording("mremapfork1");
    let m = replay(&trace, &config(Rmap::AnonVmaRfc, 1, 512), &options, &Silent);
    let m = m.expect("an outcome");
    assert_eq!(m.outcome, Outcome::Refused);
    let reason = m.reason.expect("a reason");
    assert!(reason.contains("a page names one vma"), "{reason}");
}

#[test]
fn both_modes_leave_the_same_memory() {
    let trace = recording("pygrow1");
    for (split, shift) in [(Split::G3G1, 3), (Split::G4G4, 2)] {
        let config = Config {
            split,
            young_flush: YoungFlush::On,
            probe_unmap: 0,
            ..config(Rmap::AnonVma, shift, 256)
        };
        if run(&trace, &config, Mode::Native).is_none() {
            continue;
        }
        let found = compare_modes(&trace, &config, &ReplayOptions::default())
            .unwrap_or_else(|e| panic!("{split}: {e}"));
        assert!(found.is_empty(), "{split}: {found:#x?}");
    }
}

/// Every reverse map in pages of 32 KB, on a tiny load; the split and the order of a file's vmas by turns.
#[test]
fn both_modes_leave_the_same_memory_with_every_reverse_map() {
    let pages = Pages {
        private: 150,
        shared: 60,
        file: 90,
    };
    let trace = random_load(1, pages, 16);
    for (i, rmap) in MAPS.into_iter().enumerate() {
        let turn = |n: usize| i % n == 0;
        let config = Config {
            split: [Split::G4G4, Split::G3G1][usize::from(turn(2))],
            file_vmas: [FileVmas::List, FileVmas::PrioTree][usize::from(turn(3))],
            young_flush: YoungFlush::On,
            probe_unmap: 0,
            ..config(rmap, 3, 64)
        };
        let [native, cycle] = both(&trace, &config).unwrap_or_else(|e| panic!("{rmap}: {e}"));
        assert!(native.memory_hash.is_some(), "{rmap}");
        assert_eq!(native.memory_hash, cycle.memory_hash, "{rmap}");
        assert_eq!(native.devices, cycle.devices, "{rmap}");
    }
}

/// Clustered pages that go to swap and come back, in both modes alike.
#[test]
fn both_modes_evict_clustered_pages_alike() {
    let pages = Pages {
        private: 4000,
        shared: 2500,
        file: 1500,
    };
    for (seed, rmap, split) in [
        (11, Rmap::AnonVma, Split::G3G1),
        (12, Rmap::PteChain, Split::G4G4),
    ] {
        let config = Config {
            split,
            young_flush: YoungFlush::On,
            probe_unmap: 0,
            ..config(rmap, 3, 24)
        };
        let trace = random_load(seed, pages, 12);
        let [native, cycle] = both(&trace, &config).unwrap_or_else(|e| panic!("{rmap}: {e}"));
        assert!(native.memory_hash.is_some(), "{rmap}");
        assert_eq!(native.memory_hash, cycle.memory_hash, "{rmap}");
        assert_eq!(native.devices, cycle.devices, "{rmap}");
        let d = native.devices;
        assert!(d.swap_writes > 500 && d.swap_reads > 100, "{rmap}: {d:?}");
    }
}
