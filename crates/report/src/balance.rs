//! The low-memory balance of a reverse map against chains: what it saves in chain elements, and what it adds elsewhere.
//!
//! Article 3 of the debate claims that object-based schemes save low memory: true where pages are shared, and false where there are
//! many small vmas and little sharing. Each pair of complete rows that differ in the reverse map alone, one of them `pte_chain`,
//! gives one balance; a break-even says how many pages shared how often a vma must hold to pay for its growth.
//!
//! Invariant: `saved - added` is the difference of the owners named here, to the byte.

use crate::config::{Config, FileVmas, Rmap};
use crate::measurement::{Outcome, Owner};
use crate::result::Row;

/// Owners that grow with a scheme, in the table's order.
pub const ADDED: [Owner; 6] = [
    Owner::Vma,
    Owner::AnonVma,
    Owner::Anonmm,
    Owner::AnonVmaChain,
    Owner::Mm,
    Owner::SlabWaste,
];

/// One pair of rows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// Index of the row with chains.
    pub from: usize,
    /// Index of the other row.
    pub to: usize,
    /// Bytes of chain elements that the other row does not have.
    pub chains_saved: i64,
    /// Bytes that it has more, by owner ([`ADDED`]).
    pub added: Vec<(&'static str, i64)>,
    /// Saved less added: positive when the other row needs less low memory.
    pub net: i64,
    /// Shared pages that a vma must hold, on average, for chains to be as large as what the vma adds; by sharers. Empty where
    /// nothing is added.
    pub break_even: Vec<BreakEven>,
}

/// See [`Balance::break_even`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct BreakEven {
    /// How many ptes map a page.
    pub sharers: u64,
    /// Pages of that kind in each vma, rounded up.
    pub pages_per_vma: u64,
}

/// Sharers for which a break-even is given.
const SHARERS: [u64; 4] = [2, 7, 31, 100];

/// Bytes of a vma in a kernel with chains, whose books therefore say how many there are: 64, and 8 more with prio_tree.
fn chain_vma_bytes(config: &Config) -> u64 {
    match config.file_vmas {
        FileVmas::List => 64,
        FileVmas::PrioTree => 72,
    }
}

/// Bytes of chain elements for a page with that many mappings: none for one (PG_direct), else whole elements.
fn chain_bytes(config: &Config, sharers: u64) -> u64 {
    let line = u64::from(config.chain_line);
    let entry = match config.highpte {
        crate::config::Highpte::Off => 4,
        crate::config::Highpte::On => 8,
    };
    // A power of two less one: the index mask of next_and_idx.
    let entries = (u64::MAX >> ((line - 4) / entry + 1).leading_zeros()) >> 1;
    match sharers {
        0 | 1 => 0,
        n => n.div_ceil(entries) * line,
    }
}

/// Every balance of a result.
pub fn pairs(rows: &[Row]) -> Vec<Balance> {
    let complete = |row: &Row| row.outcome == Outcome::Complete && row.lowmem.total_bytes > 0;
    let mut out = Vec::new();
    for (from, base) in rows.iter().enumerate() {
        if base.config.rmap != Rmap::PteChain || !complete(base) {
            continue;
        }
        for (to, other) in rows.iter().enumerate() {
            let like = Config {
                rmap: base.config.rmap,
                overrides: base.config.overrides.clone(),
                kernel: base.config.kernel,
                ..other.config.clone()
            };
            if to != from && complete(other) && like == base.config {
                out.push(balance(rows, from, to));
            }
        }
    }
    out
}

fn balance(rows: &[Row], from: usize, to: usize) -> Balance {
    let more = |owner: Owner| {
        let bytes = |i: usize| rows[i].lowmem.of(&[owner]) as i64;
        bytes(to) - bytes(from)
    };
    let added: Vec<(&'static str, i64)> = ADDED.iter().map(|&o| (o.name(), more(o))).collect();
    let chains_saved = -more(Owner::PteChain);
    let sum: i64 = added.iter().map(|(_, n)| n).sum();
    let vmas = rows[from].lowmem.of(&[Owner::Vma]) / chain_vma_bytes(&rows[from].config);
    // What each vma adds on average: objects of the scheme counted to the vmas they serve.
    let growth = ADDED[..4].iter().map(|&o| more(o)).sum::<i64>().max(0) as u64;
    let break_even = match (vmas, growth) {
        (0, _) | (_, 0) => Vec::new(),
        _ => SHARERS
            .iter()
            .map(|&sharers| BreakEven {
                sharers,
                pages_per_vma: (growth * sharers)
                    .div_ceil(vmas * chain_bytes(&rows[from].config, sharers)),
            })
            .collect(),
    };
    Balance {
        from,
        to,
        chains_saved,
        added,
        net: chains_saved - sum,
        break_even,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_hold_a_power_of_two_less_one() {
        let of = |chain_line, highpte, sharers| {
            let config = Config {
                chain_line,
                highpte,
                ..Config::default()
            };
            chain_bytes(&config, sharers)
        };
        use crate::config::Highpte::{Off, On};
        assert_eq!(of(128, Off, 1), 0);
        assert_eq!((of(128, Off, 31), of(128, Off, 32)), (128, 256));
        assert_eq!((of(32, Off, 7), of(32, Off, 8)), (32, 64));
        assert_eq!((of(32, On, 3), of(32, On, 4)), (32, 64));
        assert_eq!((of(64, On, 7), of(64, On, 8)), (64, 128));
    }
}
