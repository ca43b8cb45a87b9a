//! The configurations in which a recording is replayed.
//!
//! Every reverse map runs on both splits. The other axes, how the vmas of a file are found and where page tables lie, make four
//! combinations: `spread` takes one of them for each map and split, and turns them with the recording's place in its folder, so that over
//! any four recordings each map has been run with all four on each split. `all` takes all four for every recording.
//!
//! Invariant: what a recording is run with does not depend on which others are asked for.

use lowmem_report::Config;
use lowmem_report::axis::Status;
use lowmem_report::config::{FileVmas, Highpte, Reclaim, Rmap, Split, bytes};

/// Which configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Matrix {
    /// pte_chain and anon_vma on both splits.
    Pairs,
    /// Every reverse map on both splits, file_vmas and highpte in turn: 18.
    Spread,
    /// Every reverse map, split, file_vmas and highpte: 68.
    All,
}

/// What all configurations of a recording have in common.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// CPU preset.
    pub(crate) cpu: &'a str,
    /// Cluster shifts, each with all configurations.
    pub(crate) clusters: &'a [u8],
    /// RAM.
    pub(crate) ram_bytes: u64,
}

/// file_vmas and highpte, neighbours unlike in both.
const COMBINATIONS: [(FileVmas, Highpte); 4] = [
    (FileVmas::PrioTree, Highpte::Off),
    (FileVmas::List, Highpte::On),
    (FileVmas::PrioTree, Highpte::On),
    (FileVmas::List, Highpte::Off),
];
const SPLITS: [Split; 2] = [Split::G3G1, Split::G4G4];

/// The configurations: each reverse map on each split, on one CPU.
pub(crate) fn configs(cpu: &str) -> Vec<Config> {
    let mut out = Vec::new();
    for rmap in [Rmap::PteChain, Rmap::AnonVma] {
        for split in SPLITS {
            out.push(config(cpu, (rmap, split), COMBINATIONS[0]));
        }
    }
    out
}

impl Matrix {
    /// The configurations of the recording that is number `place` in its folder, on `machine`.
    pub(crate) fn on(self, machine: &Machine<'_>, place: usize) -> Vec<Config> {
        let mut out = Vec::new();
        for &cluster in machine.clusters {
            for config in self.configs(machine.cpu, place) {
                // Its page names one vma; a clustered page may lie in two.
                if cluster > 0 && config.rmap == Rmap::AnonVmaRfc {
                    continue;
                }
                out.push(Config {
                    cluster,
                    ram_bytes: machine.ram_bytes,
                    ..config
                });
            }
        }
        out
    }

    fn configs(self, cpu: &str, place: usize) -> Vec<Config> {
        if self == Matrix::Pairs {
            return configs(cpu);
        }
        let maps = Rmap::VALUES
            .iter()
            .filter(|(.., status)| *status == Status::Built);
        let mut out = Vec::new();
        for (number, (_, rmap, _)) in maps.enumerate() {
            for (side, split) in SPLITS.into_iter().enumerate() {
                let own = (place + number + 2 * side) % COMBINATIONS.len();
                for (turn, combination) in COMBINATIONS.into_iter().enumerate() {
                    if self == Matrix::All || turn == own {
                        out.push(config(cpu, (*rmap, split), combination));
                    }
                }
            }
        }
        // The one without highpte may have made doubles.
        let mut distinct: Vec<Config> = Vec::new();
        for config in out {
            if !distinct.contains(&config) {
                distinct.push(config);
            }
        }
        distinct
    }
}

fn config(
    cpu: &str,
    (rmap, split): (Rmap, Split),
    (file_vmas, highpte): (FileVmas, Highpte),
) -> Config {
    Config {
        rmap,
        split,
        file_vmas,
        // January 2002's elements have no room for a pte in high memory.
        highpte: match rmap {
            Rmap::PteChainV1 => Highpte::Off,
            _ => highpte,
        },
        reclaim: match rmap {
            Rmap::SwapOut => Reclaim::V2_4,
            _ => Reclaim::V2_6_7,
        },
        cpu: cpu.to_owned(),
        ..Config::default()
    }
}

/// Short name of a configuration.
pub(crate) fn label(config: &Config) -> String {
    let mut name = format!("{}/{}", config.rmap, config.split);
    if config.file_vmas == FileVmas::List {
        name.push_str("/list");
    }
    if config.highpte == Highpte::On {
        name.push_str("/highpte");
    }
    if config.cluster > 0 {
        name.push_str(&format!("/cluster{}", config.cluster));
    }
    if config.ram_bytes != Config::default().ram_bytes {
        name.push_str(&format!("/{}", bytes(config.ram_bytes)));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn labels(configs: &[Config]) -> BTreeSet<String> {
        configs.iter().map(label).collect()
    }

    #[test]
    fn four_recordings_cover_everything() {
        let all = labels(&Matrix::All.configs("pentium4", 0));
        // pte_chain_v1 has two combinations instead of four.
        assert_eq!(all.len(), 8 * 2 * 4 + 2 * 2);
        let mut covered = BTreeSet::new();
        for place in 3..7 {
            let spread = Matrix::Spread.configs("pentium4", place);
            assert_eq!(spread.len(), 18);
            covered.extend(labels(&spread));
        }
        assert_eq!(covered, all);
    }

    #[test]
    fn every_configuration_has_a_label_of_its_own() {
        let machine = Machine {
            cpu: "pentium4",
            clusters: &[0, 3],
            ram_bytes: 24 << 20,
        };
        let configs = Matrix::All.on(&machine, 0);
        // anon_vma_rfc is not clustered.
        assert_eq!(configs.len(), 68 + 60);
        assert_eq!(labels(&configs).len(), configs.len());
        assert!(labels(&configs).contains("anonmm/4g4g/list/cluster3/24M"));
    }
}
