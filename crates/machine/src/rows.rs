//! From a configuration to the axes of a guest image, and to the name of that image (decision D11).
//!
//! Only what changes code or layout is here; everything else is a boot parameter. Invariant: two configurations have one image if and
//! only if their axes are equal.

use guest_vm::axes::{
    Axes, BuildKind, CacheKind, ClusterKind, MapKind, PteKind, SplitKind, StructKind,
};
use lowmem_report::Config;
use lowmem_report::config::{Build, Highpte, Kernel, PageCache, Reclaim, Rmap, Split};

/// The axes of a configuration; `Err` names a value that no image can have.
pub fn axes_of(config: &Config) -> Result<Axes, String> {
    if config.rmap == Rmap::PteChainV1 && config.highpte == Highpte::On {
        return Err("rmap pte_chain_v1 with highpte on: its kernels had no HIGHPTE".to_owned());
    }
    if config.reclaim == Reclaim::V2_4 && config.rmap != Rmap::SwapOut {
        return Err(format!(
            "reclaim 2.4 unmaps by scanning page tables: it needs rmap swap_out, not {}",
            config.rmap
        ));
    }
    if config.cluster != 0 && config.rmap == Rmap::AnonVmaRfc {
        return Err(
            "rmap anon_vma_rfc with page clustering: a page names one vma, and a clustered page may lie in two"
                .to_owned(),
        );
    }
    Ok(Axes {
        rmap: match config.rmap {
            Rmap::AnonVma => MapKind::AnonVma,
            Rmap::PteChain => MapKind::PteChain,
            Rmap::Anonmm => MapKind::Anonmm,
            Rmap::PteChainV1 => MapKind::PteChainV1,
            Rmap::PteChainDl => MapKind::PteChainDl,
            Rmap::Objrmap => MapKind::Objrmap,
            Rmap::AnonVmaRfc => MapKind::AnonVmaRfc,
            Rmap::SwapOut => MapKind::SwapOut,
            Rmap::AnonVmaChain => MapKind::AnonVmaChain,
        },
        split: match config.split {
            Split::G3G1 => SplitKind::G3G1,
            Split::G4G4 => SplitKind::G4G4,
            Split::G2G2 => SplitKind::G2G2,
            Split::G1G3 => SplitKind::G1G3,
        },
        page_cache: match config.page_cache {
            PageCache::Tagged => CacheKind::Tagged,
            PageCache::Lists => CacheKind::Lists,
        },
        build: match config.build {
            Build::Smp => BuildKind::Smp,
            Build::Up => BuildKind::Up,
        },
        pte: match config.highpte {
            Highpte::Off => PteKind::Low,
            Highpte::On => PteKind::High,
        },
        structs: structs_of(config),
        cluster: match config.cluster {
            0 => ClusterKind::Single,
            _ => ClusterKind::Clustered,
        },
    })
}

/// Structures of 2.4 belong to the presets of 2.4 as long as these keep their own reverse map and page cache; with another one they
/// are compared on the structures of 2.6.
fn structs_of(config: &Config) -> StructKind {
    match (config.kernel, config.rmap, config.page_cache) {
        (Kernel::V2_4Aa, Rmap::SwapOut, PageCache::Lists)
        | (Kernel::Rhel3Hugemem, Rmap::PteChain, PageCache::Lists) => StructKind::V2_4,
        _ => StructKind::V2_6,
    }
}

/// The image's name: reverse map, split, and what else differs from the default: `pte_chain-4g4g-highpte-lists`.
pub fn image_name(config: &Config) -> String {
    let mut name = format!("{}-{}", config.rmap, config.split);
    for (differs, text) in [
        (config.highpte == Highpte::On, "-highpte"),
        (config.page_cache == PageCache::Lists, "-lists"),
        (structs_of(config) == StructKind::V2_4, "-v2_4"),
        (config.build == Build::Up, "-up"),
        (config.cluster != 0, "-clustered"),
    ] {
        if differs {
            name.push_str(text);
        }
    }
    name
}

/// Low memory of a machine with this much RAM, in a kernel whose pages have 2^`cluster` frames.
pub fn low_bytes(axes: Axes, cluster: u8, ram_bytes: u64) -> u64 {
    ram_bytes.min(u64::from(axes.maxmem_of(u32::from(cluster))))
}
