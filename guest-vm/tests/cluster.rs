//! Page clustering: the random histories of `memobj` and `pressure_props` with pages of several frames. Every read gives what a plain model of
//! 4 KB memory says, whatever the page size; after every operation all invariants of `check` hold, with its rules for sub-pages.
#![allow(missing_docs, reason = "a test")]

mod harness;
mod workload;

use guest_vm::reclaim::Version;
use guest_vm::rmap::Scheme;
use guest_vm::rmap::anon_vma::AnonVmaMap;
use guest_vm::rmap::anon_vma_chain::AnonVmaChain;
use guest_vm::rmap::anonmm::AnonmmMap;
use guest_vm::rmap::objrmap::Hybrid;
use guest_vm::rmap::pte_chain::PteChains;
use guest_vm::rmap::pte_chain_dl::DoubleChains;
use guest_vm::rmap::pte_chain_v1::SingleChains;
use guest_vm::rmap::swap_out::SwapOut;
use harness::{Access, Clustered, Direct, DirectHigh, Harness, Listed, Old, SplitHigh, cases};
use lowmem_abi::boot::BootInfo;
use proptest::prelude::*;
use workload::{Op, World, op, pressure_op};

/// One random history.
fn history<R: Scheme, U: Access>(info: BootInfo, ops: &[Op]) {
    World::<R, U>::new(info).history(ops);
}

fn info<U: Access>(file_vmas: u32, chain_line: u32, ram_mb: u32) -> BootInfo {
    BootInfo {
        file_vmas,
        chain_line,
        swap_slots: 256 << U::SHIFT.unwrap_or(0),
        ..Harness::<AnonVmaMap, U>::info(ram_mb)
    }
}

macro_rules! matrix {
    ($($name:ident: $Scheme:ty, $lines:expr;)*) => { $(
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(cases(6))]
                #[test]
                fn prio_tree_3(ops in prop::collection::vec(op(), 1..150)) {
                    history::<$Scheme, Clustered<Direct, 3>>(info::<Clustered<Direct, 3>>(1, $lines[0], 48), &ops);
                }
                #[test]
                fn list_1(ops in prop::collection::vec(op(), 1..150)) {
                    history::<$Scheme, Clustered<Direct, 1>>(info::<Clustered<Direct, 1>>(0, $lines[1], 48), &ops);
                }
                #[test]
                fn prio_tree_4g4g_highpte_4(ops in prop::collection::vec(op(), 1..80)) {
                    history::<$Scheme, Clustered<SplitHigh, 4>>(
                        info::<Clustered<SplitHigh, 4>>(1, $lines[1], 4000), &ops);
                }
                #[test]
                fn list_highpte_2(ops in prop::collection::vec(op(), 1..100)) {
                    history::<$Scheme, Clustered<DirectHigh, 2>>(
                        info::<Clustered<DirectHigh, 2>>(0, $lines[0], 1000), &ops);
                }
                #[test]
                fn pressure_3(ops in prop::collection::vec(pressure_op(), 1..120)) {
                    let info = BootInfo {
                        reclaim: Version::V2_6_7 as u32,
                        swap_slots: 2048 << 3,
                        ..info::<Clustered<Direct, 3>>(1, $lines[0], 48)
                    };
                    history::<$Scheme, Clustered<Direct, 3>>(info, &ops);
                }
            }
        }
    )* };
}

matrix! {
    anon_vma: AnonVmaMap, [128, 128];
    pte_chain: PteChains, [64, 32];
    anonmm: AnonmmMap, [128, 128];
    pte_chain_v1: SingleChains, [128, 128];
    pte_chain_dl: DoubleChains, [128, 128];
    objrmap: Hybrid, [64, 32];
    swap_out: SwapOut, [128, 128];
    anon_vma_chain: AnonVmaChain, [128, 128];
}

proptest! {
    #![proptest_config(cases(6))]
    #[test]
    fn one_frame_a_page(ops in prop::collection::vec(op(), 1..150)) {
        history::<AnonVmaMap, Clustered<Direct, 0>>(info::<Clustered<Direct, 0>>(1, 128, 48), &ops);
    }
    #[test]
    fn a_page_cache_of_lists(ops in prop::collection::vec(op(), 1..150)) {
        history::<PteChains, Clustered<Listed, 3>>(info::<Clustered<Listed, 3>>(0, 128, 48), &ops);
    }
    #[test]
    fn structures_of_2_4(ops in prop::collection::vec(op(), 1..150)) {
        history::<SwapOut, Clustered<Old, 3>>(info::<Clustered<Old, 3>>(0, 128, 48), &ops);
    }
}
