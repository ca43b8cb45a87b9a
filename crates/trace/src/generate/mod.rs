//! Synthetic workloads: the loads that the debate of 2003 and 2004 argued with, made to measure.
//!
//! Each is one type with its parameters and a function that builds the trace. Parameters have the defaults of the project's fact
//! sheet (trace formats and workloads, section 3), where their sources are; what the sheet does not give is marked as an
//! assumption at the field. Everything drawn comes from one seed through [`mix`], so a command line
//! always gives the same bytes.
//!
//! | module | loads |
//! |---|---|
//! | [`server`] | a database with a shared segment; a prefork web server |
//! | [`build`] | a compilation with make |
//! | [`vmas`] | many mappings of one file; thousands of vmas in one process; nonlinear windows |
//! | [`pressure`] | more memory wanted than there is; fork-shared pages moved by mremap |
//!
//! Invariant: a generated trace passes `Trace::check`, and the same parameters give the same bytes.

pub mod build;
pub mod pressure;
pub mod server;
pub mod vmas;

use crate::builder::TraceBuilder;
use crate::op::{FileId, PAGE_SIZE, TaskId};
use crate::retouch::mix;
use crate::{MapFlags, Prot, Trace, TraceError};

/// Most operations that a generated trace may have: some hours of replay.
pub const MAX_OPERATIONS: u64 = 4_000_000_000;

/// Why a load cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A parameter outside its range.
    #[error("{name} {value}: must be {range}")]
    Range {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
    /// Too long for a trace file made in memory.
    #[error("about {operations} operations: a generated trace has at most {MAX_OPERATIONS}")]
    TooLong {
        /// The estimate.
        operations: u64,
    },
    /// The address space of a process is full.
    #[error("{what} needs {pages} pages of address space, {room} are free")]
    NoRoom {
        /// What was to be mapped.
        what: &'static str,
        /// Its size.
        pages: u64,
        /// The free space.
        room: u64,
    },
    /// The format's limits.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// A load that can be generated.
pub trait Workload {
    /// Name of the trace.
    fn name(&self) -> &'static str;
    /// About how many operations it will have.
    fn operations(&self) -> u64;
    /// Checks the parameters.
    fn check(&self) -> Result<(), GenerateError>;
    /// Appends the operations.
    fn build(&self, t: &mut TraceBuilder, seed: u64) -> Result<(), GenerateError>;
}

/// The trace of a load.
///
/// # Errors
/// If a parameter is out of range or the trace would be too long.
pub fn generate(load: &dyn Workload, seed: u64) -> Result<Trace, GenerateError> {
    load.check()?;
    let operations = load.operations();
    if operations > MAX_OPERATIONS {
        return Err(GenerateError::TooLong { operations });
    }
    let mut t = TraceBuilder::new(load.name());
    load.build(&mut t, seed)?;
    Ok(t.try_finish()?)
}

/// Refuses a parameter outside `low..=high`.
fn range(
    name: &'static str,
    value: u64,
    (low, high): (u64, u64),
    range: &'static str,
) -> Result<(), GenerateError> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(GenerateError::Range { name, value, range })
    }
}

/// Numbers drawn one after the other.
#[derive(Debug, Clone)]
struct Draw {
    seed: u64,
    n: u64,
}

impl Draw {
    fn new(seed: u64, stream: u32) -> Self {
        Self {
            seed: mix(seed, 0, stream),
            n: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.n += 1;
        mix(self.seed, self.n, 0)
    }

    /// Uniform in `0..bound`; the bias of the multiplication is below bound / 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn per_cent(&mut self, share: u32) -> bool {
        self.below(100) < u64::from(share)
    }
}

/// Refuses an exponent of Zipf's law for which the last ranks of a large object would weigh nothing.
fn exponent(per_mille: u32) -> Result<(), GenerateError> {
    range(
        "exponent of Zipf's law",
        per_mille.into(),
        (0, 1500),
        "0 to 1500 (per mille)",
    )
}

/// Zipf's law over ranks `0..n`: rank k - 1 has the weight 1 / k^s. Weights are integers, and made by operations that IEEE 754
/// rounds in one way only, so that every host draws the same.
#[derive(Debug)]
struct Zipf {
    /// Sums of floor(2^32 / k^s).
    sums: Vec<u64>,
}

impl Zipf {
    /// The exponent is given per mille; 0: all ranks alike.
    fn new(n: u32, exponent: u32) -> Self {
        let mut sum = 0;
        let sums = (1..=n).map(|k| {
            sum += match exponent {
                1000 => (1 << 32) / u64::from(k),
                _ => ((1u64 << 32) as f64 / power(k.into(), exponent)) as u64,
            };
            sum
        });
        Self {
            sums: sums.collect(),
        }
    }

    fn draw(&self, draw: &mut Draw) -> u32 {
        let all = self.sums.last().copied().unwrap_or(1);
        let at = draw.below(all);
        self.sums.partition_point(|&s| s <= at) as u32
    }

    /// `wanted` different ranks in the order in which they are first drawn. After [`DRAWS_EACH`] draws for each, what is still wanted are the
    /// hottest ranks that were not drawn.
    fn distinct(&self, wanted: u32, draw: &mut Draw) -> Vec<u32> {
        let wanted = (wanted as usize).min(self.sums.len());
        let mut seen = vec![false; self.sums.len()];
        let mut ranks = Vec::with_capacity(wanted);
        let mut left = DRAWS_EACH * wanted;
        while ranks.len() < wanted && left > 0 {
            left -= 1;
            let rank = self.draw(draw);
            if !std::mem::replace(&mut seen[rank as usize], true) {
                ranks.push(rank);
            }
        }
        let undrawn = (0..self.sums.len()).filter(|&rank| !seen[rank]);
        let missing = wanted - ranks.len();
        ranks.extend(undrawn.take(missing).map(|rank| rank as u32));
        ranks
    }
}

/// `x` to the power of `per_mille` / 1000, the fraction to 24 binary places: products of square roots of square roots. A host's `powf` may
/// round as it likes.
fn power(x: f64, per_mille: u32) -> f64 {
    let mut out = (0..per_mille / 1000).fold(1.0, |product, _| product * x);
    let mut fraction = (u64::from(per_mille % 1000) << PLACES) / 1000;
    let mut root = x;
    for _ in 0..PLACES {
        root = root.sqrt();
        fraction <<= 1;
        if fraction >> PLACES & 1 == 1 {
            out *= root;
        }
    }
    out
}

/// See [`power`].
const PLACES: u32 = 24;

/// See [`Zipf::distinct`].
const DRAWS_EACH: usize = 8;

/// A permutation of `0..n` without a table: multiplication by a unit of the ring of integers modulo n, and a shift.
#[derive(Debug, Clone, Copy)]
struct Scatter {
    n: u64,
    by: u64,
    shift: u64,
}

impl Scatter {
    fn new(n: u32, draw: &mut Draw) -> Self {
        let n = u64::from(n.max(1));
        let mut by = draw.below(n) | 1;
        while gcd(by, n) != 1 {
            by += 1;
        }
        Self {
            n,
            by,
            shift: draw.below(n),
        }
    }

    fn at(&self, i: u32) -> u32 {
        ((u64::from(i) * self.by + self.shift) % self.n) as u32
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Maps `vmas` areas of shared libraries into `task` and reads a page of each: text and data of one library by turns, as the
/// dynamic linker leaves them.
fn libraries(t: &mut TraceBuilder, task: TaskId, files: &[FileId], vmas: u32) {
    for i in 0..vmas {
        let file = files[(i / 2) as usize % files.len()];
        let (page_offset, prot) = if i % 2 == 0 {
            (0, Prot::RX)
        } else {
            (LIBRARY_TEXT, Prot::RW)
        };
        let at = crate::FileRef { file, page_offset };
        let pages = if i % 2 == 0 {
            LIBRARY_TEXT
        } else {
            LIBRARY_DATA
        };
        let va = t
            .on(task)
            .mmap_file(at, pages * PAGE_SIZE, prot, MapFlags::PRIVATE);
        if i % 2 == 0 {
            t.on(task).execute(va);
        } else {
            t.on(task).write(va);
        }
    }
}

/// Pages of a library's text and of its data: libc of 2004 has about 300 and 3 (assumed for the average: 64 and 4).
const LIBRARY_TEXT: u32 = 64;
/// See [`LIBRARY_TEXT`].
const LIBRARY_DATA: u32 = 4;

/// Files for [`libraries`].
fn library_files(t: &mut TraceBuilder, vmas: u32) -> Vec<FileId> {
    (0..vmas.div_ceil(2).max(1))
        .map(|i| t.file(&format!("/lib/lib{i}.so"), LIBRARY_TEXT + LIBRARY_DATA))
        .collect()
}

#[cfg(test)]
mod tests;
