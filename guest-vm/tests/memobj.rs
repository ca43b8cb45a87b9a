//! Memory objects and reverse maps against brute force: after every random operation all invariants of `check` hold, every
//! unmapped page has lost exactly the ptes a scan found, and every read gives what a plain model of memory says.
#![allow(missing_docs, reason = "a test")]

mod harness;
mod workload;

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
use harness::Access;
use harness::Harness;
use harness::cases;
use harness::{Direct, DirectHigh, DirectUp, Listed, Old, OldSplitHigh, Split, SplitHigh};
use lowmem_abi::boot::BootInfo;
use proptest::prelude::*;
use workload::{Op, World, op};

/// One random history.
fn history<R: Scheme, U: Access>(info: BootInfo, ops: &[Op]) {
    World::<R, U>::new(info).history(ops);
}

fn info<U: Access>(file_vmas: u32, chain_line: u32) -> BootInfo {
    BootInfo {
        file_vmas,
        chain_line,
        swap_slots: 256,
        ..Harness::<AnonVmaMap, U>::info(24)
    }
}

proptest! {
    // User pages in highmem: every copy and clear goes through kmap_atomic's slots.
    #![proptest_config(cases(3))]
    #[test]
    fn anon_vma_with_highmem(ops in prop::collection::vec(op(), 1..60)) {
        history::<AnonVmaMap, Direct>(BootInfo { ram_frames: 1000 << 8, ..info::<Direct>(1, 128) }, &ops);
    }
    #[test]
    fn pte_chain_with_highmem(ops in prop::collection::vec(op(), 1..60)) {
        history::<PteChains, Direct>(BootInfo { ram_frames: 1000 << 8, ..info::<Direct>(1, 64) }, &ops);
    }
}

// Page tables in highmem too: each pte is reached through a slot.
proptest! {
    #![proptest_config(cases(6))]
    #[test]
    fn pte_chain_with_highpte(ops in prop::collection::vec(op(), 1..60)) {
        history::<PteChains, DirectHigh>(BootInfo { ram_frames: 1000 << 8, ..info::<DirectHigh>(1, 32) }, &ops);
    }
    #[test]
    fn pte_chain_with_highpte_4g4g(ops in prop::collection::vec(op(), 1..60)) {
        history::<PteChains, SplitHigh>(BootInfo { ram_frames: 4000 << 8, ..info::<SplitHigh>(0, 128) }, &ops);
    }
    #[test]
    fn pte_chain_dl_with_highpte(ops in prop::collection::vec(op(), 1..60)) {
        history::<DoubleChains, DirectHigh>(BootInfo { ram_frames: 1000 << 8, ..info::<DirectHigh>(1, 128) }, &ops);
    }
    #[test]
    fn objrmap_with_highpte(ops in prop::collection::vec(op(), 1..60)) {
        history::<Hybrid, DirectHigh>(BootInfo { ram_frames: 1000 << 8, ..info::<DirectHigh>(0, 64) }, &ops);
    }
    #[test]
    fn anon_vma_with_highpte(ops in prop::collection::vec(op(), 1..60)) {
        history::<AnonVmaMap, DirectHigh>(BootInfo { ram_frames: 1000 << 8, ..info::<DirectHigh>(1, 128) }, &ops);
    }
    #[test]
    fn anon_vma_with_highpte_4g4g(ops in prop::collection::vec(op(), 1..60)) {
        history::<AnonVmaMap, SplitHigh>(BootInfo { ram_frames: 4000 << 8, ..info::<SplitHigh>(1, 128) }, &ops);
    }
}

// Every scheme with every index of a file's vmas on every split; elements of all three sizes.
macro_rules! matrix {
    ($($name:ident: $Scheme:ty, $lines:expr;)*) => { $(
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(cases(10))]
                #[test]
                fn prio_tree_3g1g(ops in prop::collection::vec(op(), 1..180)) {
                    history::<$Scheme, Direct>(info::<Direct>(1, $lines[0]), &ops);
                }
                #[test]
                fn prio_tree_4g4g(ops in prop::collection::vec(op(), 1..180)) {
                    history::<$Scheme, Split>(info::<Split>(1, $lines[1]), &ops);
                }
                #[test]
                fn prio_tree_3g1g_up(ops in prop::collection::vec(op(), 1..120)) {
                    history::<$Scheme, DirectUp>(info::<DirectUp>(1, $lines[2]), &ops);
                }
                #[test]
                fn list_3g1g(ops in prop::collection::vec(op(), 1..180)) {
                    history::<$Scheme, Direct>(info::<Direct>(0, $lines[2]), &ops);
                }
                #[test]
                fn list_4g4g(ops in prop::collection::vec(op(), 1..180)) {
                    let nonlinear = 1;
                    history::<$Scheme, Split>(
                        BootInfo { nonlinear, ..info::<Split>(0, $lines[1]) }, &ops);
                }
            }
        }
    )* };
}

matrix! {
    anon_vma: AnonVmaMap, [128, 128, 128];
    pte_chain: PteChains, [64, 128, 32];
    anonmm: AnonmmMap, [128, 128, 128];
    pte_chain_v1: SingleChains, [128, 128, 128];
    pte_chain_dl: DoubleChains, [128, 128, 128];
    objrmap: Hybrid, [64, 128, 32];
    anon_vma_rfc: AnonVmaRfc, [128, 128, 128];
    swap_out: SwapOut, [128, 128, 128];
    anon_vma_chain: AnonVmaChain, [128, 128, 128];
}

// The structures of kernels with a page cache of lists: 2.6.0, 2.6.5-aa, 2.4, RHEL3; and with the other index of a file's vmas.
proptest! {
    #![proptest_config(cases(8))]
    #[test]
    fn structures_of_2_6_0(ops in prop::collection::vec(op(), 1..120)) {
        history::<PteChains, Listed>(info::<Listed>(0, 128), &ops);
    }
    #[test]
    fn structures_of_2_6_0_with_prio_tree(ops in prop::collection::vec(op(), 1..120)) {
        history::<Hybrid, Listed>(info::<Listed>(1, 128), &ops);
    }
    #[test]
    fn structures_of_2_6_5_aa(ops in prop::collection::vec(op(), 1..120)) {
        history::<AnonVmaMap, Listed>(BootInfo { nonlinear: 1, ..info::<Listed>(0, 128) }, &ops);
    }
    #[test]
    fn structures_of_2_6_5_aa_with_prio_tree(ops in prop::collection::vec(op(), 1..120)) {
        history::<AnonVmaRfc, Listed>(info::<Listed>(1, 128), &ops);
    }
    #[test]
    fn structures_of_2_4(ops in prop::collection::vec(op(), 1..120)) {
        history::<SwapOut, Old>(info::<Old>(0, 128), &ops);
    }
    #[test]
    fn structures_of_2_4_with_prio_tree(ops in prop::collection::vec(op(), 1..120)) {
        history::<SwapOut, Old>(info::<Old>(1, 128), &ops);
    }
    #[test]
    fn structures_of_rhel3(ops in prop::collection::vec(op(), 1..60)) {
        history::<PteChains, OldSplitHigh>(
            BootInfo { ram_frames: 4000 << 8, ..info::<OldSplitHigh>(0, 128) }, &ops);
    }
}

/// anon_vma_chain with the rule of 2015.
fn reusing<U: Access>(file_vmas: u32) -> BootInfo {
    BootInfo {
        anon_vma_reuse: 1,
        ..info::<U>(file_vmas, 128)
    }
}

proptest! {
    #![proptest_config(cases(20))]
    #[test]
    fn anon_vma_chain_reusing_prio_tree_4g4g(ops in prop::collection::vec(op(), 1..180)) {
        history::<AnonVmaChain, Split>(reusing::<Split>(1), &ops);
    }
    #[test]
    fn anon_vma_chain_reusing_list_3g1g(ops in prop::collection::vec(op(), 1..180)) {
        history::<AnonVmaChain, Direct>(reusing::<Direct>(0), &ops);
    }
}

// Page tables in highmem, for the schemes that walk them on occasions of their own.
proptest! {
    #![proptest_config(cases(4))]
    #[test]
    fn anonmm_with_highpte(ops in prop::collection::vec(op(), 1..60)) {
        history::<AnonmmMap, DirectHigh>(BootInfo { ram_frames: 1000 << 8, ..info::<DirectHigh>(1, 128) }, &ops);
    }
    #[test]
    fn anon_vma_rfc_with_highpte(ops in prop::collection::vec(op(), 1..60)) {
        history::<AnonVmaRfc, DirectHigh>(BootInfo { ram_frames: 1000 << 8, ..info::<DirectHigh>(1, 128) }, &ops);
    }
    #[test]
    fn swap_out_with_highpte(ops in prop::collection::vec(op(), 1..60)) {
        history::<SwapOut, DirectHigh>(BootInfo { ram_frames: 1000 << 8, ..info::<DirectHigh>(1, 128) }, &ops);
    }
}
