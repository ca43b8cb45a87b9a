//! The rows of the image table: which types make up each image (decision D11).
//!
//! Only what changes code or layout is here; everything else is a boot parameter. Invariant: every built combination of
//! configuration values has exactly one row, and each row one image.

use crate::native::Row;
use guest_vm::kernel::Kernel;
use guest_vm::uaccess_direct::Direct;
use guest_vm::uaccess_split::Split as SplitAccess;
use lowmem_abi::layout::{MAXMEM_3G1G, MAXMEM_4G4G, PAGE_OFFSET_3G1G, PAGE_OFFSET_4G4G};
use lowmem_report::Config;
use lowmem_report::config::{Rmap, Split};

macro_rules! rows {
    ($($(#[$doc:meta])* $Name:ident: $rmap:ty, $user:ty, $split:literal, $text:literal;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $Name {}
        impl Row for $Name {
            type Rmap<K: Kernel> = $rmap;
            type User<K: Kernel> = $user;
            const SPLIT: bool = $split;
            const NAME: &'static str = $text;
        }
    )* };
}

rows! {
    /// anon_vma, 3G/1G.
    AnonVma3g1g: guest_vm::rmap::anon_vma::AnonVmaMap, Direct, false, "anon_vma-3g1g";
    /// anon_vma, 4G/4G.
    AnonVma4g4g: guest_vm::rmap::anon_vma::AnonVmaMap, SplitAccess, true, "anon_vma-4g4g";
    /// pte_chain, 3G/1G.
    PteChain3g1g: guest_vm::rmap::pte_chain::PteChains, Direct, false, "pte_chain-3g1g";
    /// pte_chain, 4G/4G.
    PteChain4g4g: guest_vm::rmap::pte_chain::PteChains, SplitAccess, true, "pte_chain-4g4g";
}

/// Which row a configuration needs, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowName {
    /// See [`AnonVma3g1g`].
    AnonVma3g1g,
    /// See [`AnonVma4g4g`].
    AnonVma4g4g,
    /// See [`PteChain3g1g`].
    PteChain3g1g,
    /// See [`PteChain4g4g`].
    PteChain4g4g,
}

/// The row of a configuration; `Err` names the values that have no image.
pub fn row_of(config: &Config) -> Result<RowName, String> {
    match (config.rmap, config.split) {
        (Rmap::AnonVma, Split::G3G1) => Ok(RowName::AnonVma3g1g),
        (Rmap::AnonVma, Split::G4G4) => Ok(RowName::AnonVma4g4g),
        (Rmap::PteChain, Split::G3G1) => Ok(RowName::PteChain3g1g),
        (Rmap::PteChain, Split::G4G4) => Ok(RowName::PteChain4g4g),
        (rmap, split) => Err(format!("no guest image for rmap {rmap} with split {split}")),
    }
}

/// Runs `$body` with the row type of `$name` as `$Row`.
#[macro_export]
macro_rules! with_row {
    ($name:expr, $Row:ident => $body:expr) => {
        match $name {
            $crate::rows::RowName::AnonVma3g1g => {
                type $Row = $crate::rows::AnonVma3g1g;
                $body
            }
            $crate::rows::RowName::AnonVma4g4g => {
                type $Row = $crate::rows::AnonVma4g4g;
                $body
            }
            $crate::rows::RowName::PteChain3g1g => {
                type $Row = $crate::rows::PteChain3g1g;
                $body
            }
            $crate::rows::RowName::PteChain4g4g => {
                type $Row = $crate::rows::PteChain4g4g;
                $body
            }
        }
    };
}

/// PAGE_OFFSET of a split row or a direct one.
pub const fn page_offset<I: Row>() -> u32 {
    if I::SPLIT {
        PAGE_OFFSET_4G4G
    } else {
        PAGE_OFFSET_3G1G
    }
}

/// Low memory of a machine with this much RAM.
pub fn low_bytes<I: Row>(ram_bytes: u64) -> u64 {
    let most = if I::SPLIT { MAXMEM_4G4G } else { MAXMEM_3G1G };
    ram_bytes.min(u64::from(most))
}
