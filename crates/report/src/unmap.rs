//! What reclaim's treatment of a page costs: samples with prices on.
//!
//! Percentiles are nearest-rank over the whole treatment of each page (page_referenced, add_to_swap, try_to_unmap).
//!
//! Invariant: the cycles of the parts sum to the cycles of all.

use crate::measurement::{UnmapEnd, UnmapMeasure, UnmapPart, UnmapSample};
use crate::result::{Ordered, source_name};
use lowmem_cost::{Preset, Variant};
use serde::Serialize;

/// Cycles per page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PerPage {
    /// Half of the pages cost no more.
    pub p50: u64,
    /// 99 of 100 pages cost no more.
    pub p99: u64,
    /// The dearest page.
    pub max: u64,
}

/// The unmap measurement, priced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unmap {
    /// `probe` or `replay`; null when nothing was measured.
    pub source: Option<&'static str>,
    /// Why nothing was measured; null when something was.
    pub reason: Option<String>,
    /// Pages treated.
    pub pages: u64,
    /// Cycles in all.
    pub cycles: u64,
    /// Vmas visited.
    pub vmas_visited: u64,
    /// Ptes examined.
    pub ptes_examined: u64,
    /// Ptes cleared.
    pub ptes_cleared: u64,
    /// Cycles per page.
    pub cycles_per_page: PerPage,
    /// What became of the pages.
    pub ends: Ordered<u64>,
    /// Cycles by part.
    pub parts: Ordered<u64>,
}

const ENDS: [(UnmapEnd, &str); 4] = [
    (UnmapEnd::Unmapped, "unmapped"),
    (UnmapEnd::Young, "young"),
    (UnmapEnd::Locked, "locked"),
    (UnmapEnd::Pinned, "pinned"),
];

impl Unmap {
    /// Prices a measurement.
    pub fn new(measure: &UnmapMeasure, preset: Option<&Preset>) -> Unmap {
        let (source, reason, samples): (_, _, &[UnmapSample]) = match measure {
            UnmapMeasure::Sampled { samples, .. } if samples.is_empty() => {
                (None, Some("no page was mapped at the peak".to_owned()), &[])
            }
            UnmapMeasure::Sampled { source, samples } => {
                (Some(source_name(*source)), None, samples)
            }
            UnmapMeasure::None { reason } => (None, Some(reason.clone()), &[]),
        };
        let cycles = |part: UnmapPart, s: &UnmapSample| {
            preset.map_or(0, |p| {
                p.prices(Variant::Mid).cycles(&s.parts[part as usize])
            })
        };
        let mut per_page: Vec<u64> = samples
            .iter()
            .map(|s| UnmapPart::ALL.iter().map(|&part| cycles(part, s)).sum())
            .collect();
        per_page.sort_unstable();
        let sum = |f: fn(&UnmapSample) -> u32| samples.iter().map(|s| u64::from(f(s))).sum();
        Unmap {
            source,
            reason,
            pages: samples.len() as u64,
            cycles: per_page.iter().sum(),
            vmas_visited: sum(|s| s.vmas_visited),
            ptes_examined: sum(|s| s.ptes_examined),
            ptes_cleared: sum(|s| s.ptes_cleared),
            cycles_per_page: PerPage {
                p50: percentile(&per_page, 50),
                p99: percentile(&per_page, 99),
                max: percentile(&per_page, 100),
            },
            ends: Ordered(
                ENDS.iter()
                    .map(|(end, name)| {
                        let n = samples.iter().filter(|s| s.end == *end).count();
                        (*name, n as u64)
                    })
                    .collect(),
            ),
            parts: Ordered(
                UnmapPart::ALL
                    .iter()
                    .map(|&part| (part.name(), samples.iter().map(|s| cycles(part, s)).sum()))
                    .collect(),
            ),
        }
    }
}

/// Nearest-rank percentile of sorted values; 0 of none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(percentile(&values, 50), 100);
        assert_eq!(percentile(&values, 99), 198);
        assert_eq!(percentile(&values, 100), 200);
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[], 99), 0);
    }
}
