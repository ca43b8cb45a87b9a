//! The table of guest images: what each is called, and with which features and link script it is built (decision D11).
//!
//! A name is `RMAP-SPLIT` and what else differs from the default, in this order: `-highpte`, `-lists`, `-v2_4`, `-up`,
//! `-clustered`. Every such name can be
//! built; [`committed`] says which are committed.
//!
//! Invariant: one name, one image; `crates/machine/src/rows.rs` makes the same names from configurations.

/// One image.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name.
    pub(super) name: String,
    /// Its reverse map: also the name of the archive it is in.
    pub(super) rmap: &'static str,
    /// Features of guest-vm.
    pub(super) features: String,
    /// Its link script.
    pub(super) script: &'static str,
    /// Probes that this row need not have.
    pub(super) without: Vec<&'static str>,
}

/// A reverse map: its name, its feature of guest-vm, probes that it does not pass.
struct Scheme(&'static str, &'static str, &'static [&'static str]);

/// Only anonmm copies pages for mremap.
const CHAINS: &[&str] = &["chains_allocated", "chains_freed", "move_copied"];
/// Chains visit no vmas, and 2.6.0's try_to_unmap asks neither for young ptes nor for pinned swap-cache pages.
const ANON_VMAS: &[&str] = &[
    "anon_vmas_allocated",
    "anon_vmas_freed",
    "vmas_visited",
    "vmas_out_of_range",
    "unmap_young",
    "unmap_pinned",
    "move_copied",
];
const CHAINS_AND_HEADS: &[&str] = &[
    "chains_allocated",
    "chains_freed",
    "anon_vmas_allocated",
    "anon_vmas_freed",
    "unmap_pinned",
];

/// A trylock of an `up` build never fails.
const NEVER_FAILS: &str = "unmap_again";

/// 2.6.5-aa, which anon_vma with lists is, asks nobody for pins.
const NOT_ASKED: &str = "unmap_pinned";

/// File pages by object, anonymous ones by chains, without 2.6.7's look at pins.
const HYBRID: &[&str] = &[
    "anon_vmas_allocated",
    "anon_vmas_freed",
    "unmap_pinned",
    "move_copied",
];
/// The scan of 2.4 finds what is there: no vain vma, no pinned page, no heads, no early copies.
const SCANS: &[&str] = &[
    "chains_allocated",
    "chains_freed",
    "anon_vmas_allocated",
    "anon_vmas_freed",
    "vmas_out_of_range",
    "unmap_pinned",
    "move_copied",
];

const SCHEMES: &[Scheme] = &[
    Scheme("anon_vma", "", CHAINS),
    Scheme("pte_chain", "pte_chain", ANON_VMAS),
    Scheme("anonmm", "anonmm", CHAINS_AND_HEADS),
    Scheme("pte_chain_v1", "pte_chain_v1", ANON_VMAS),
    Scheme("pte_chain_dl", "pte_chain_dl", ANON_VMAS),
    Scheme("objrmap", "objrmap", HYBRID),
    Scheme("anon_vma_rfc", "anon_vma_rfc", CHAINS),
    Scheme("swap_out", "swap_out", SCANS),
    Scheme("anon_vma_chain", "anon_vma_chain", CHAINS),
];

/// A split: its name, its feature, its link script.
const SPLITS: &[(&str, &str, &str)] = &[
    ("3g1g", "", "link_3g1g.ld"),
    ("4g4g", "split_4g4g", "link_4g4g.ld"),
    ("2g2g", "split_2g2g", "link_2g2g.ld"),
    ("1g3g", "split_1g3g", "link_1g3g.ld"),
];

/// What may follow in a name, in this order; the feature has the same name.
const MORE: &[&str] = &["highpte", "lists", "v2_4", "up", "clustered"];

/// The row of a name, if it is one.
pub(super) fn parse(name: &str) -> Option<Row> {
    let mut parts = name.split('-');
    let scheme = parts.next()?;
    let Scheme(rmap, feature, without) = SCHEMES.iter().find(|s| s.0 == scheme)?;
    let split = parts.next()?;
    let (_, split_feature, script) = SPLITS.iter().find(|s| s.0 == split)?;
    let mut features = vec!["image"];
    features.extend([*feature, *split_feature].iter().filter(|f| !f.is_empty()));
    let mut left = MORE.iter();
    for part in parts {
        features.push(left.find(|m| **m == part)?);
    }
    let mut without = without.to_vec();
    if features.contains(&"up") {
        without.push(NEVER_FAILS);
    }
    if *rmap == "anon_vma" && features.contains(&"lists") {
        without.push(NOT_ASKED);
    }
    Some(Row {
        name: name.to_owned(),
        rmap,
        features: features.join(","),
        script,
        without,
    })
}

/// Images beside those that every reverse map has: what kernel presets stand for (lists).
const COMMITTED_TOO: &[&str] = &[
    "swap_out-3g1g-lists",
    "swap_out-4g4g-lists",
    "swap_out-3g1g-lists-v2_4",
    "swap_out-4g4g-lists-v2_4",
    "pte_chain-3g1g-lists",
    "pte_chain-4g4g-lists",
    "pte_chain-4g4g-highpte-lists",
    "pte_chain-3g1g-highpte-lists-v2_4",
    "pte_chain-4g4g-highpte-lists-v2_4",
    "anon_vma-3g1g-lists",
    "anon_vma-4g4g-lists",
    "swap_out-3g1g-lists-v2_4-up",
    "swap_out-4g4g-lists-v2_4-up",
    "pte_chain-3g1g-lists-up",
    "pte_chain-4g4g-lists-up",
    "pte_chain-4g4g-highpte-lists-v2_4-up",
    "anon_vma-3g1g-lists-up",
    "anon_vma-4g4g-lists-up",
];

/// Every image that is committed: of each reverse map both splits of the debate with highpte, clustered, both, and without SMP, and the
/// other splits; then those of kernel presets.
pub(super) fn committed() -> Vec<Row> {
    let mut rows = Vec::new();
    for Scheme(rmap, ..) in SCHEMES {
        for split in ["3g1g", "4g4g"] {
            rows.push(format!("{rmap}-{split}"));
            if *rmap != NARROW {
                rows.push(format!("{rmap}-{split}-highpte"));
            }
            if *rmap != ONE_VMA {
                rows.push(format!("{rmap}-{split}-clustered"));
            }
            if *rmap != NARROW && *rmap != ONE_VMA {
                rows.push(format!("{rmap}-{split}-highpte-clustered"));
            }
            rows.push(format!("{rmap}-{split}-up"));
        }
        for split in ["2g2g", "1g3g"] {
            rows.push(format!("{rmap}-{split}"));
        }
    }
    rows.extend(COMMITTED_TOO.iter().map(|name| (*name).to_owned()));
    rows.iter()
        .map(|name| parse(name).expect("a name of the table"))
        .collect()
}

/// The scheme whose elements have no room for a pte in high memory.
const NARROW: &str = "pte_chain_v1";

/// The scheme whose pages name one vma, where a clustered page may lie in two.
const ONE_VMA: &str = "anon_vma_rfc";

/// The reverse maps, in the table's order.
pub(super) fn schemes() -> impl Iterator<Item = &'static str> {
    SCHEMES.iter().map(|s| s.0)
}
