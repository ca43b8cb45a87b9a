//! Small generated loads, replayed as recordings are: one of each kind that `lowmem trace generate` makes.
//!
//! Small means seconds for a checked run. Invariant: each kind of load is there, and all names differ.

use lowmem_trace::Trace;
use lowmem_trace::generate::build::Compile;
use lowmem_trace::generate::pressure::{MremapFork, SwapStorm};
use lowmem_trace::generate::server::{Prefork, SharedSegment};
use lowmem_trace::generate::vmas::{Areas, ManyVmas, WorstCase};
use lowmem_trace::generate::{GenerateError, Workload, generate};

/// Seed of all loads.
const SEED: u64 = 1;

/// One load.
pub(super) struct Load(Box<dyn Workload + Send + Sync>);

impl Load {
    /// Name of its trace.
    pub(super) fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Its trace.
    pub(super) fn trace(&self) -> Result<Trace, GenerateError> {
        generate(self.0.as_ref(), SEED)
    }
}

/// All loads, in the order in which they are run; `only` those names unless it is empty.
pub(super) fn loads(only: &[String]) -> Vec<Load> {
    let vmas = |areas| -> Box<dyn Workload + Send + Sync> {
        Box::new(ManyVmas {
            areas,
            count: 200,
            pages: 8,
            processes: 3,
        })
    };
    let all: Vec<Box<dyn Workload + Send + Sync>> = vec![
        Box::new(SharedSegment {
            processes: 8,
            segment_pages: 1024,
            private_pages: 100,
            vmas: 12,
            ..SharedSegment::default()
        }),
        Box::new(Prefork {
            children: 6,
            parent_pages: 200,
            vmas: 20,
            requests: 60,
            per_child: 8,
            ..Prefork::default()
        }),
        Box::new(Compile {
            files: 6,
            cc1_pages: 400,
            ..Compile::default()
        }),
        Box::new(WorstCase {
            tasks: 12,
            vmas: 12,
            window_pages: 16,
            touched_pages: 4,
            sharers: 12,
        }),
        vmas(Areas::Guards),
        vmas(Areas::Stacks),
        vmas(Areas::Windows),
        vmas(Areas::Nonlinear),
        vmas(Areas::Locked),
        Box::new(SwapStorm {
            pages: 1500,
            ..SwapStorm::default()
        }),
        Box::new(MremapFork {
            pages: 60,
            ..MremapFork::default()
        }),
    ];
    all.into_iter()
        .map(Load)
        .filter(|load| only.is_empty() || only.iter().any(|name| name == load.name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_load_can_be_made_and_is_small() {
        let all = loads(&[]);
        for load in &all {
            let trace = load.trace().expect("its parameters are in range");
            assert!(trace.len() < 100_000, "{}: {}", load.name(), trace.len());
        }
        let names: BTreeSet<&str> = all.iter().map(Load::name).collect();
        assert_eq!(names.len(), 11);
        assert_eq!(loads(&["compile".to_owned()]).len(), 1);
    }
}
