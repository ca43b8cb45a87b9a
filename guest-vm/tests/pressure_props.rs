//! Random histories under memory pressure: reclaim with injected failures, swap-in, swapoff, fork, mremap, remap_file_pages, mlock,
//! truncation, pinned pages, the death of objects and exit, interleaved, with too few pages and objects for some calls; after every operation all invariants of `check` hold, and nothing that a process
//! wrote is ever lost. A scheme joins by one line.
#![allow(missing_docs, reason = "a test")]

mod harness;
mod workload;

use guest_vm::kernel::Planted;
use guest_vm::page_alloc::{Gfp, ZoneKind, alloc_pages, zone};
use guest_vm::reclaim::Version;
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anon_vma_chain::AnonVmaChain;
use guest_vm::rmap::anon_vma_rfc::AnonVmaRfc;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::objrmap::Hybrid;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::pte_chain_dl::DoubleChains;
use guest_vm::rmap::pte_chain_v1::SingleChains;
use guest_vm::rmap::swap_out::SwapOut;
use harness::{
    Access, Clustered, Direct, DirectHigh, Harness, Listed, Old, OldSplitHigh, Split, SplitHigh,
    Up, cases,
};
use lowmem_abi::boot::BootInfo;
use lowmem_abi::owner::Owner;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use workload::{Op, World, pressure_op};

fn info<U: Access>(version: Version, file_vmas: u32) -> BootInfo {
    BootInfo {
        file_vmas,
        swap_slots: 2048 << U::SHIFT.unwrap_or(0),
        reclaim: version as u32,
        ..Harness::<AnonVmaMap, U>::info(24)
    }
}

/// Leaves only so many pages above the watermarks.
fn take_all_but<R: Scheme, U: Access>(w: &World<R, U>, pages: u32) {
    let k = w.h.k;
    let above = || -> i64 {
        ZoneKind::ALL
            .iter()
            .map(|z| zone::zone(k, *z))
            .map(|z| i64::from(z.free_pages(k)) - i64::from(z.pages_high(k)))
            .sum()
    };
    while above() > i64::from(pages) {
        alloc_pages(k, Gfp::Kernel, 0, Owner::Kmalloc).expect("above the watermarks");
    }
}

macro_rules! schemes {
    ($($name:ident: $scheme:ty, $access:ty, $version:ident, $file_vmas:literal $(, $set:ident = $to:literal)*;)*) => {
        proptest! {
            #![proptest_config(cases(16))]
            $(
            #[test]
            fn $name(ops in prop::collection::vec(pressure_op(), 1..120)) {
                let mut w = World::<$scheme, $access>::new(BootInfo {
                    $($set: $to,)*
                    ..info::<$access>(Version::$version, $file_vmas)
                });
                w.history(&ops);
            }
            )*
        }
        mod scarce {
            use super::*;
            proptest! {
                #![proptest_config(cases(8))]
                $(
                #[test]
                fn $name(ops in prop::collection::vec(pressure_op(), 60..160)) {
                    let mut w = World::<$scheme, $access>::new(BootInfo {
                    $($set: $to,)*
                    ..info::<$access>(Version::$version, $file_vmas)
                });
                    take_all_but(&w, 200);
                    // Locked pages and too few others are a livelock, as they were.
                    let ops: Vec<Op> = ops
                        .into_iter()
                        .filter(|op| match op {
                            Op::WithFew { op, .. } => !matches!(**op, Op::Lock { .. }),
                            op => !matches!(op, Op::Lock { .. } | Op::SwapOff),
                        })
                        .collect();
                    w.history(&ops);
                }
                )*
            }
        }
    };
}

schemes! {
    anon_vma_2_6_7: AnonVmaMap, Direct, V2_6_7, 1;
    anon_vma_2_6_8_list: AnonVmaMap, Split, V2_6_8, 0;
    pte_chain_2_6_0: PteChains, Direct, V2_6_0, 0;
    pte_chain_2_6_7: PteChains, Split, V2_6_7, 1;
    anonmm_2_6_7: AnonmmMap, Direct, V2_6_7, 1;
    objrmap_2_6_7: Hybrid, Direct, V2_6_7, 0;
    pte_chain_v1_2_6_0: SingleChains, Direct, V2_6_0, 0;
    pte_chain_dl_2_6_7: DoubleChains, Direct, V2_6_7, 1;
    lists_of_2_6_0: PteChains, Listed, V2_6_0, 0;
    lists_of_2_6_0_objrmap: Hybrid, Listed, V2_6_0, 0;
    // By the rules of rmap/object_aa.rs.
    aa: AnonVmaMap, Listed, V2_6_0, 0, nonlinear = 1;
    aa_2_6_8_prio_tree: AnonVmaMap, Listed, V2_6_8, 1, young_flush = 1;
    aa_up: AnonVmaMap, Up<Listed>, V2_6_0, 0, nonlinear = 1;
    aa_clustered: AnonVmaMap, Clustered<Listed, 3>, V2_6_0, 0, nonlinear = 1;
    lists_of_2_4: SwapOut, Old, V2_4, 0, buffers = 2;
    lists_of_rhel3: PteChains, OldSplitHigh, V2_6_0, 0, buffers = 2;
    anon_vma_rfc_2_6_0: AnonVmaRfc, Listed, V2_6_0, 0;
    anon_vma_rfc_2_6_7: AnonVmaRfc, Split, V2_6_7, 1;
    anon_vma_chain_2_6_8: AnonVmaChain, Direct, V2_6_8, 1;
    anon_vma_chain_2_6_8_reusing: AnonVmaChain, Split, V2_6_8, 0, anon_vma_reuse = 1;
    whole_vmas_objrmap: Hybrid, Split, V2_6_7, 1, nonlinear = 1;
    whole_vmas_anonmm: AnonmmMap, Split, V2_6_7, 0, nonlinear = 1;
    up_anon_vma: AnonVmaMap, Up<Direct>, V2_6_7, 1;
    up_anon_vma_rfc: AnonVmaRfc, Up<Direct>, V2_6_7, 0, nonlinear = 1;
    up_anon_vma_chain: AnonVmaChain, Up<Direct>, V2_6_8, 1, anon_vma_reuse = 1;
    up_anonmm: AnonmmMap, Up<Split>, V2_6_7, 0, buffers = 0;
    up_objrmap: Hybrid, Up<Listed>, V2_6_0, 0;
    up_pte_chain: PteChains, Up<Split>, V2_6_0, 0;
    up_pte_chain_v1: SingleChains, Up<Direct>, V2_6_0, 1;
    up_pte_chain_dl: DoubleChains, Up<Direct>, V2_6_7, 0;
    up_swap_out: SwapOut, Up<Old>, V2_4, 0;
    clustered_anon_vma: AnonVmaMap, Clustered<Direct, 3>, V2_6_7, 1;
    clustered_anon_vma_chain: AnonVmaChain, Clustered<Split, 2>, V2_6_8, 0;
    clustered_pte_chain: PteChains, Clustered<Direct, 3>, V2_6_0, 0;
    clustered_anonmm: AnonmmMap, Clustered<Direct, 3>, V2_6_7, 1;
    clustered_objrmap: Hybrid, Clustered<Direct, 3>, V2_6_7, 1;
    clustered_pte_chain_v1: SingleChains, Clustered<Direct, 3>, V2_6_0, 0;
    clustered_pte_chain_dl: DoubleChains, Clustered<Direct, 3>, V2_6_7, 1;
}

macro_rules! highpte {
    ($($name:ident: $scheme:ty, $access:ty, $version:ident, $ram_mb:literal;)*) => {
        // Page tables in highmem, so that each pte is reached through a slot. Most of the time goes into checks of all frames.
        mod highpte {
            use super::*;
            proptest! {
                #![proptest_config(cases(3))]
                $(
                #[test]
                fn $name(ops in prop::collection::vec(pressure_op(), 20..60)) {
                    let mut w = World::<$scheme, $access>::new(BootInfo {
                        ram_frames: $ram_mb << 8,
                        ..info::<$access>(Version::$version, 1)
                    });
                    w.history(&ops);
                }
                )*
            }
        }
    };
}

highpte! {
    anon_vma: AnonVmaMap, DirectHigh, V2_6_7, 920;
    anon_vma_rfc: AnonVmaRfc, DirectHigh, V2_6_7, 920;
    anon_vma_chain: AnonVmaChain, DirectHigh, V2_6_8, 920;
    anonmm: AnonmmMap, DirectHigh, V2_6_7, 920;
    objrmap: Hybrid, DirectHigh, V2_6_7, 920;
    pte_chain: PteChains, DirectHigh, V2_6_0, 920;
    pte_chain_dl: DoubleChains, DirectHigh, V2_6_7, 920;
    swap_out: SwapOut, DirectHigh, V2_4, 920;
    pte_chain_4g4g: PteChains, SplitHigh, V2_6_7, 4000;
}

/// A kernel whose try_to_unmap does not ask who pins a page of the swap cache, among the histories above.
#[test]
fn a_missing_pin_check_is_caught() {
    let config = ProptestConfig {
        max_shrink_iters: 0,
        ..cases(200)
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let histories = prop::collection::vec(pressure_op(), 60..160);
    let result = TestRunner::new_with_rng(config, rng).run(&histories, |ops| {
        let mut w = World::<AnonVmaMap, Direct>::new(info::<Direct>(Version::V2_6_7, 1));
        w.h.context().planted.set(Some(Planted::NoPinCheck));
        w.history(&ops);
        Ok(())
    });
    let caught = match &result {
        Err(TestError::Fail(why, _)) => why.message().contains("a pinned page was unmapped"),
        _ => false,
    };
    assert!(caught, "{result:?}");
}
