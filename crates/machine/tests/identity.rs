//! Native and cycle mode leave identical guest memory, and both engines count alike, over whole recordings.

mod common;

use common::{Pages, both, fitted, random_load};
use emu_cpu::Engine;
use lowmem_machine::identity::compare_modes;
use lowmem_machine::{ReplayOptions, replay};
use lowmem_report::config::{Entry, Kernel, Rmap, Split};
use lowmem_report::kernels::config_of;
use lowmem_report::{Config, Measurement, Silent};
use lowmem_trace::Trace;

fn recording(name: &str) -> Trace {
    let path = format!("{}/../../traces/{name}.lmt", env!("CARGO_MANIFEST_DIR"));
    Trace::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn config(rmap: Rmap, split: Split) -> Config {
    Config {
        rmap,
        split,
        ram_bytes: 256 << 20,
        probe_unmap: 0,
        ..Config::default()
    }
}

fn identical(name: &str, config: &Config) {
    let found = compare_modes(&recording(name), config, &ReplayOptions::default())
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(
        found.is_empty(),
        "{name} {} {}: {found:#x?}",
        config.rmap,
        config.split
    );
}

#[test]
fn memory_is_identical_anon_vma_3g1g() {
    identical("mremapfork1", &config(Rmap::AnonVma, Split::G3G1));
}

#[test]
fn memory_is_identical_pte_chain_4g4g() {
    identical("mremapfork1", &config(Rmap::PteChain, Split::G4G4));
}

#[test]
fn memory_is_identical_with_threads() {
    identical("java64", &config(Rmap::AnonVma, Split::G4G4));
}

/// Kernels with structures of their own: lists and semaphores of 2.6.0, 2.4's struct page, RHEL3's with chains in high page tables.
#[test]
fn memory_is_identical_with_structures_of_older_kernels() {
    for kernel in [Kernel::V2_6_0, Kernel::V2_4Aa, Kernel::Rhel3Hugemem] {
        let config = Config {
            cpu: "pentium3".to_owned(),
            probe_unmap: 0,
            ..config_of(kernel)
        };
        identical("mremapfork1", &config);
    }
}

#[test]
fn memory_is_identical_with_sysenter() {
    for split in [Split::G3G1, Split::G4G4] {
        let config = Config {
            entry: Entry::Sysenter,
            ..config(Rmap::AnonVma, split)
        };
        identical("sort64", &config);
    }
}

/// Splits whose user space is smaller than the recorded one: a random load, packed.
#[test]
fn memory_is_identical_2g2g_and_1g3g() {
    let pages = Pages {
        private: 150,
        shared: 60,
        file: 90,
    };
    for (rmap, split) in [(Rmap::AnonVma, Split::G2G2), (Rmap::PteChain, Split::G1G3)] {
        let trace = fitted(random_load(2, pages, 16), split);
        let [native, cycle] =
            both(&trace, &config(rmap, split)).unwrap_or_else(|e| panic!("{split}: {e}"));
        assert!(native.memory_hash.is_some(), "{split}");
        assert_eq!(native.memory_hash, cycle.memory_hash, "{split}");
        assert_eq!(native.devices, cycle.devices, "{split}");
        assert!(cycle.host.instructions > 0, "{split}");
    }
}

fn run(name: &str, config: &Config, engine: Engine) -> Measurement {
    let options = ReplayOptions {
        engine,
        ..ReplayOptions::default()
    };
    replay(&recording(name), config, &options, &Silent).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn engines_agree_in_every_count() {
    let config = config(Rmap::AnonVma, Split::G4G4);
    let fast = run("sort64", &config, Engine::Fast);
    let reference = run("sort64", &config, Engine::Reference);
    assert_eq!(fast.memory_hash, reference.memory_hash);
    assert_eq!(fast.account, reference.account);
    for (kind, count) in &fast.operations {
        assert_eq!(
            count.account, reference.operations[kind].account,
            "{kind:?}"
        );
    }
}
