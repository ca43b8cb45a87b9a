//! 3G/1G against 4G/4G in guest cycles, by criterion.
//!
//! Every iteration is a clone of the machine perturbed by its own seed; iterations are numbered across samples, so a
//! benchmark gives the same samples whenever it runs, and a change of its figures is a change of the project.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lowmem_benches::scenario::Scenario;
use lowmem_benches::simulated::SimulatedCycles;
use lowmem_benches::{Sampler, configurations};
use std::cell::Cell;
use std::time::Duration;

fn simulated(c: &mut Criterion<SimulatedCycles>) {
    for scenario in Scenario::ALL {
        let mut group = c.benchmark_group(scenario.name());
        // Samples are counted, not timed: the fewest that criterion's statistics accept at their default settings.
        group.sample_size(20);
        group.warm_up_time(Duration::from_millis(1));
        group.measurement_time(Duration::from_millis(1));
        group.sampling_mode(criterion::SamplingMode::Flat);
        for (label, config) in configurations() {
            let sampler = Sampler::new(scenario, &config).expect("a scenario runs on every row");
            let next = Cell::new(0_u64);
            group.bench_function(BenchmarkId::from_parameter(label), |b| {
                b.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| {
                            let seed = next.replace(next.get() + 1);
                            sampler.cycles(seed).expect("a prepared piece runs")
                        })
                        .sum()
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(SimulatedCycles);
    targets = simulated
}
criterion_main!(benches);
