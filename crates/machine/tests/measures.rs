//! What single mechanisms show: mremap of shared pages, nonlinear windows; and that their loads lose nothing.

use lowmem_machine::measure::{mremap, nonlinear};
use lowmem_machine::{Check, ReplayOptions, replay};
use lowmem_report::config::{Nonlinear, Reclaim, Rmap};
use lowmem_report::{Config, Mode, Outcome, Silent};
use lowmem_trace::{Assumptions, RetouchDepth, Trace};

const MAPS: [Rmap; 9] = [
    Rmap::AnonVma,
    Rmap::PteChain,
    Rmap::Objrmap,
    Rmap::Anonmm,
    Rmap::AnonVmaRfc,
    Rmap::AnonVmaChain,
    Rmap::PteChainV1,
    Rmap::PteChainDl,
    Rmap::SwapOut,
];

fn small(rmap: Rmap) -> Config {
    Config {
        rmap,
        reclaim: match rmap {
            Rmap::SwapOut => Reclaim::V2_4,
            _ => Reclaim::V2_6_7,
        },
        ram_bytes: mremap::RAM_BYTES,
        probe_unmap: 0,
        ..Config::default()
    }
}

fn hash(trace: &Trace, config: &Config) -> u128 {
    let options = ReplayOptions {
        mode: Mode::Native,
        check: Check::Doubling,
        assumptions: Assumptions {
            retouch: RetouchDepth::NONE,
            ..Assumptions::default()
        },
        ..ReplayOptions::default()
    };
    let name = format!("{} {}", trace.name(), config.rmap);
    let m = replay(trace, config, &options, &Silent).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(m.outcome, Outcome::Complete, "{name}: {:?}", m.reason);
    m.memory_hash.expect("a complete run has one")
}

/// anonmm copies every shared page that moves, at mremap or when it comes back; no other map copies one.
#[test]
fn only_anonmm_copies_what_moves() {
    let n = u64::from(mremap::PAGES);
    let others = u64::from(mremap::SHARERS) - 1;
    for rmap in MAPS {
        let config = small(rmap);
        let [resident, swapped, private] = mremap::Case::ALL.map(|case| {
            let load = mremap::load(case, config.ram_bytes);
            mremap::natively(&config, &load).unwrap_or_else(|e| panic!("{rmap}: {e}"))
        });
        let copies = |r: &mremap::Natively| (r.mremap_copies, r.swapoff_copies);
        assert_eq!(resident.resident, mremap::PAGES, "{rmap}");
        // 2.4 must meet a page once for each of its sharers, and does not within one pass.
        if rmap != Rmap::SwapOut {
            assert_eq!(swapped.resident, 0, "{rmap}");
        }
        let (early, late) = match rmap {
            // The parent comes back first, and no child can share its page at another address.
            Rmap::Anonmm => ((n, 0), (0, others * n)),
            _ => ((0, 0), (0, 0)),
        };
        assert_eq!(copies(&resident), early, "{rmap} {resident:?}");
        assert_eq!(copies(&swapped), late, "{rmap} {swapped:?}");
        assert_eq!(copies(&private), (0, 0), "{rmap} {private:?}");
        let frames = match rmap {
            Rmap::Anonmm => (2, mremap::SHARERS),
            _ => (1, 1),
        };
        assert_eq!(resident.frames, frames.0 * mremap::PAGES, "{rmap}");
        assert_eq!(swapped.frames, frames.1 * mremap::PAGES, "{rmap}");
        assert_eq!(private.frames, 2 * mremap::PAGES, "{rmap} {private:?}");
    }
}

/// On the CPU the counts are the same, and the copies show in mremap's cycles.
#[test]
fn copies_cost_cycles() {
    let rows = |rmap| mremap::measure(&small(rmap)).unwrap_or_else(|e| panic!("{rmap}: {e}"));
    let (anonmm, anon_vma) = (rows(Rmap::Anonmm), rows(Rmap::AnonVma));
    let copies = |r: &mremap::MoveRow| (r.mremap_copies, r.swapoff_copies);
    assert_eq!(copies(&anonmm[0]), (64, 0));
    assert_eq!(copies(&anonmm[1]), (0, 192));
    assert!(anon_vma.iter().all(|r| copies(r) == (0, 0)));
    assert!(anonmm[0].mremap_cycles > 5 * anon_vma[0].mremap_cycles);
}

#[test]
fn moved_pages_are_not_lost() {
    for case in mremap::Case::ALL {
        let load = mremap::load(case, mremap::RAM_BYTES);
        let first = hash(&load.trace, &Config::default());
        for rmap in MAPS {
            assert_eq!(hash(&load.trace, &small(rmap)), first, "{rmap} {case:?}");
        }
    }
}

#[test]
fn windows_in_any_form_show_the_same() {
    for way in nonlinear::Way::ALL {
        let load = nonlinear::load(way, &small(Rmap::AnonVma));
        let first = hash(&load.trace, &Config::default());
        for rmap in MAPS {
            assert_eq!(hash(&load.trace, &small(rmap)), first, "{rmap} {way:?}");
        }
    }
}

/// Chains find a page in a nonlinear vma; objects sweep; small vmas are found in the tree; what is locked stays.
#[test]
fn nonlinear_windows_are_swept() {
    let clusters = small(Rmap::AnonVma);
    let whole = Config {
        nonlinear: Nonlinear::Whole,
        ..clusters.clone()
    };
    let rows = |c: &Config| nonlinear::measure(c).expect("it runs");
    let (a, w, chains) = (rows(&clusters), rows(&whole), rows(&small(Rmap::PteChain)));
    for rows in [&a, &w, &chains] {
        let [nonlinear, many, locked] = rows[..] else {
            panic!("three ways");
        };
        assert!(many.vma_bytes > 8 * nonlinear.vma_bytes, "{many:?}");
        assert_eq!(locked.read_again, 0, "{locked:?}");
        assert!(nonlinear.read_again > 0, "{nonlinear:?}");
    }
    // A sweep clears ptes of pages that nobody asked for, and leaves pages of which it missed one.
    let wasted = |r: &nonlinear::WindowRow| r.ptes_cleared * 1000 / r.pages_unmapped;
    assert!(wasted(&a[0]) > wasted(&chains[0]) * 3 / 2, "{:?}", a[0]);
    assert!(wasted(&w[0]) > wasted(&chains[0]) * 3 / 2, "{:?}", w[0]);
    // Small vmas are found like chained ptes: nothing is cleared in vain.
    assert!(wasted(&a[1]) < wasted(&a[0]), "{:?}", a[1]);
    assert!(a[0].rmap_bytes < chains[0].rmap_bytes);
}
