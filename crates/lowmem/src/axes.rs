//! From axis options to configurations.
//!
//! The matrix is the product of all lists, kernels outermost and splits innermost, so that rows to be compared stand
//! together. Axes that are not given take the kernel's value; `compare` without `--rmap` or `--split` compares all that
//! can be run.
//!
//! Invariant: the configurations are checked, distinct, and in an order that depends on the command line alone.

use crate::cli::AxisArgs;
use crate::failure::Failure;
use lowmem_cost::Preset;
use lowmem_report::config::{self, Config, Kernel, Rmap, Split};
use lowmem_report::kernels::config_of;
use std::collections::BTreeMap;
use std::str::FromStr;

/// What an axis that is not given means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unset {
    /// All values of rmap and split: `compare`.
    AllPairs,
    /// The default: `replay`.
    Default,
}

/// The configurations that `args` ask for, starting from `bases` (read back from a file) when there are some.
pub(crate) fn matrix(
    args: &AxisArgs,
    unset: Unset,
    bases: Vec<Config>,
) -> Result<Vec<Config>, Failure> {
    let from_file = !bases.is_empty();
    let mut rows = if from_file { bases } else { kernels(args)? };
    // A kernel has a reverse map and a split of its own.
    let free = !from_file && args.kernel.is_empty();
    let all = |given: bool| unset == Unset::AllPairs && free && !given;

    widen(&mut rows, &args.cpu, |c, v: &String| c.cpu.clone_from(v));
    if !from_file || !args.cpu.is_empty() {
        for row in &mut rows {
            row.chain_line = chain_line(&row.cpu);
        }
    }
    let ram = args.ram.iter().map(|text| {
        config::parse_bytes(text)
            .ok_or_else(|| Failure::Usage(format!("--ram {text:?}: not a size such as 896M or 4G")))
    });
    widen(&mut rows, &ram.collect::<Result<Vec<_>, _>>()?, |c, v| {
        c.ram_bytes = *v
    });
    widen(&mut rows, &args.hz, |c, v| c.hz = *v);
    widen(&mut rows, &args.cluster, |c, v| c.cluster = *v);
    widen(&mut rows, &args.chain_line, |c, v| c.chain_line = *v);
    widen(&mut rows, &parse(&args.entry)?, |c, v| c.entry = *v);
    widen(&mut rows, &parse(&args.stack)?, |c, v| c.stack = *v);
    widen(&mut rows, &parse(&args.file_vmas)?, |c, v| c.file_vmas = *v);
    widen(&mut rows, &parse(&args.nonlinear)?, |c, v| c.nonlinear = *v);
    widen(&mut rows, &parse(&args.page_cache)?, |c, v| {
        c.page_cache = *v
    });
    widen(&mut rows, &parse(&args.buffer_heads)?, |c, v| {
        c.buffer_heads = *v
    });
    widen(&mut rows, &parse(&args.highpte)?, |c, v| c.highpte = *v);
    widen(&mut rows, &parse(&args.build)?, |c, v| c.build = *v);
    widen(&mut rows, &parse(&args.reclaim)?, |c, v| c.reclaim = *v);
    widen(&mut rows, &parse(&args.young_flush)?, |c, v| {
        c.young_flush = *v
    });
    widen(&mut rows, &parse(&args.anon_vma_reuse)?, |c, v| {
        c.anon_vma_reuse = *v
    });
    let mut rmaps: Vec<Rmap> = parse(&args.rmap)?;
    if all(!rmaps.is_empty()) {
        rmaps = vec![Rmap::AnonVma, Rmap::PteChain];
    }
    widen(&mut rows, &rmaps, |c, v| c.rmap = *v);
    let mut splits: Vec<Split> = parse(&args.split)?;
    if all(!splits.is_empty()) {
        splits = vec![Split::G3G1, Split::G4G4];
    }
    widen(&mut rows, &splits, |c, v| c.split = *v);

    let set = settings(&args.set)?;
    for row in &mut rows {
        row.cpu_overrides.extend(set.clone());
        row.seed = args.seed.unwrap_or(row.seed);
        row.probe_unmap = args.probe_unmap.unwrap_or(row.probe_unmap);
        row.overrides = overrides(row);
        row.check()?;
    }
    let mut distinct: Vec<Config> = Vec::new();
    for row in rows {
        if !distinct.contains(&row) {
            distinct.push(row);
        }
    }
    Ok(distinct)
}

fn kernels(args: &AxisArgs) -> Result<Vec<Config>, Failure> {
    let kernels: Vec<Kernel> = parse(&args.kernel)?;
    Ok(match kernels.as_slice() {
        [] => vec![Config::default()],
        some => some.iter().map(|&k| config_of(k)).collect(),
    })
}

/// Replaces each row by one per value; no values leave the rows alone.
fn widen<T>(rows: &mut Vec<Config>, values: &[T], set: impl Fn(&mut Config, &T)) {
    if values.is_empty() {
        return;
    }
    *rows = rows
        .iter()
        .flat_map(|row| {
            values.iter().map(|value| {
                let mut row = row.clone();
                set(&mut row, value);
                row
            })
        })
        .collect();
}

fn parse<T: FromStr<Err = lowmem_report::axis::AxisError>>(
    words: &[String],
) -> Result<Vec<T>, Failure> {
    words.iter().map(|w| Ok(w.trim().parse()?)).collect()
}

/// The element size that a 2.6 kernel built for this CPU uses: its L1 line, 128 bytes on NetBurst, whose L2 sector that is.
fn chain_line(cpu: &str) -> u32 {
    match Preset::open(cpu) {
        Ok(preset) => match preset.geometry().l1d.line {
            32 => 32,
            _ => 128,
        },
        Err(_) => Config::default().chain_line,
    }
}

/// `KEY=VALUE` options to a map.
pub(crate) fn settings(options: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    options
        .iter()
        .map(|option| match option.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
            None => Err(Failure::Usage(format!("--set {option:?}: not KEY=VALUE"))),
        })
        .collect()
}

/// The axes that differ from what the kernel alone would set.
pub(crate) fn overrides(row: &Config) -> BTreeMap<String, String> {
    values(row)
        .into_iter()
        .zip(values(&config_of(row.kernel)))
        .filter(|(own, kernel)| own != kernel)
        .map(|((axis, value), _)| (axis.to_owned(), value))
        .collect()
}

/// The axes that a kernel decides, by name.
pub(crate) fn values(c: &Config) -> Vec<(&'static str, String)> {
    vec![
        ("split", c.split.to_string()),
        ("rmap", c.rmap.to_string()),
        ("file_vmas", c.file_vmas.to_string()),
        ("nonlinear", c.nonlinear.to_string()),
        ("page_cache", c.page_cache.to_string()),
        ("buffer_heads", c.buffer_heads.to_string()),
        ("cluster", c.cluster.to_string()),
        ("highpte", c.highpte.to_string()),
        ("build", c.build.to_string()),
        ("reclaim", c.reclaim.to_string()),
        ("hz", c.hz.to_string()),
        ("stack", c.stack.to_string()),
        ("young_flush", c.young_flush.to_string()),
        ("anon_vma_reuse", c.anon_vma_reuse.to_string()),
    ]
}

/// The preset of a configuration with its settings on; `None` for `none`.
pub(crate) fn preset(config: &Config) -> Result<Option<Preset>, Failure> {
    if config.cpu == "none" {
        return Ok(None);
    }
    let mut preset = Preset::open(&config.cpu)?;
    for (key, value) in &config.cpu_overrides {
        preset = preset.set(key, value)?;
    }
    Ok(Some(preset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn rows(command: &str) -> Result<Vec<Config>, Failure> {
        let cli = crate::cli::Cli::parse_from(command.split_whitespace());
        let (crate::cli::Command::Compare(args), unset) = (cli.command, Unset::AllPairs) else {
            unreachable!("the tests compare");
        };
        matrix(&args.axes, unset, Vec::new())
    }

    #[test]
    fn compare_alone_is_four_rows() {
        let rows = rows("lowmem compare").unwrap();
        let names: Vec<String> = rows.iter().map(|r| r.label(&rows)).collect();
        assert_eq!(
            names,
            [
                "anon_vma 3g1g",
                "anon_vma 4g4g",
                "pte_chain 3g1g",
                "pte_chain 4g4g"
            ]
        );
        assert!(rows[0].overrides.is_empty());
        assert_eq!(rows[3].overrides.len(), 2);
    }

    #[test]
    fn the_matrix_is_the_product_of_its_lists_without_doubles() {
        let rows = rows("lowmem compare --rmap anon_vma --split 3g1g,4g4g,3g1g --ram 1G,4G --cpu pentium3,pentium4").unwrap();
        assert_eq!(rows.len(), 8);
        assert_eq!((rows[0].chain_line, rows[7].chain_line), (32, 128));
    }

    #[test]
    fn settings_are_echoed() {
        let rows = rows("lowmem compare --set l2.latency=20").unwrap();
        assert_eq!(rows[0].cpu_overrides["l2.latency"], "20");
        assert!(rows_fail("lowmem compare --set l2.latency").contains("not KEY=VALUE"));
        assert!(rows_fail("lowmem compare --ram 65G").contains("24M to 64G"));
        assert!(rows_fail("lowmem compare --ram lots").contains("not a size"));
    }

    fn rows_fail(command: &str) -> String {
        rows(command).unwrap_err().to_string()
    }
}
