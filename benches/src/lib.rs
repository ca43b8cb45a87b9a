//! What the criterion benchmarks share: a measurement in guest cycles, and the scenarios measured by it.
//!
//! `cargo bench -p lowmem-benches --bench simulated` compares 3G/1G with 4G/4G in guest cycles, by criterion itself;
//! `--bench host` measures the emulator. `cargo run --release -p lowmem-benches --bin table` prints the README's
//! table from the same scenarios.

pub mod scenario;
pub mod simulated;
pub mod table;

use emu_cpu::Engine;
use lowmem_cost::{Account, Preset, Variant};
use lowmem_machine::MachineError;
use lowmem_machine::sample::Bench;
use lowmem_report::config::{Config, Rmap, Split};
use scenario::{Piece, Prepared, Scenario};

/// A scenario in one configuration, ready to be sampled.
#[derive(Debug)]
pub struct Sampler {
    bench: Bench,
    piece: Piece,
    preset: Preset,
}

impl Sampler {
    /// Prepares `scenario` under `config`.
    pub fn new(scenario: Scenario, config: &Config) -> Result<Self, MachineError> {
        let Prepared {
            trace,
            before,
            piece,
        } = scenario.prepare();
        Ok(Self {
            bench: Bench::prepare(&trace, config, Engine::Fast, before)?,
            piece,
            preset: lowmem_machine::replay::preset(config)?,
        })
    }

    /// Guest cycles of the scenario's piece in the state that `seed` gives.
    pub fn cycles(&self, seed: u64) -> Result<u64, MachineError> {
        match self.piece {
            Piece::Tail { divide } => {
                let account: Account = self.bench.sample(seed)?;
                Ok(self.preset.prices(Variant::Mid).price(&account).total() / divide)
            }
            Piece::Unmap { va } => {
                let sample = self.bench.sample_unmap(seed, va)?;
                Ok(sample
                    .parts
                    .iter()
                    .map(|counts| self.preset.prices(Variant::Mid).cycles(counts))
                    .sum())
            }
        }
    }
}

/// The configurations compared: both schemes on both splits, in the README's order.
pub fn configurations() -> Vec<(String, Config)> {
    let mut out = Vec::new();
    for rmap in [Rmap::PteChain, Rmap::AnonVma] {
        for split in [Split::G3G1, Split::G4G4] {
            let config = Config {
                rmap,
                split,
                ram_bytes: 1 << 30,
                ..Config::default()
            };
            out.push((format!("{} {}", rmap.name(), split.name()), config));
        }
    }
    out
}
