//! How fast the emulator is on this host: guest instructions a second in cycle mode, by both engines, and trace
//! operations a second in both modes.
//!
//! The machine under the benchmark is shared and noisy: compare rows of one run with each other, never two runs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use emu_cpu::Engine;
use lowmem_machine::{ReplayOptions, replay};
use lowmem_report::{Config, Mode, Silent};
use lowmem_trace::{Trace, TraceBuilder};

/// Forks, faults and calls in the mix of a small server.
fn workload() -> Trace {
    let mut t = TraceBuilder::new("host_speed");
    let parent = t.spawn();
    let shared = t.on(parent).mmap_anon(64 << 12);
    t.on(parent).write_pages(shared, 64 << 12);
    for _ in 0..20 {
        let child = t.on(parent).fork();
        t.on(child).write_pages(shared, 32 << 12);
        for _ in 0..50 {
            t.on(child).other(3, 64, 1024);
        }
        t.on(child).exit();
    }
    t.finish()
}

fn host(c: &mut Criterion) {
    let trace = workload();
    let config = Config {
        ram_bytes: 256 << 20,
        probe_unmap: 0,
        ..Config::default()
    };
    let options = |mode, engine| ReplayOptions {
        mode,
        engine,
        ..ReplayOptions::default()
    };
    let run = |o: &ReplayOptions| {
        replay(&trace, &config, o, &Silent)
            .expect("the workload replays")
            .host
            .instructions
    };
    let instructions = run(&options(Mode::Cycle, Engine::Fast));
    let mut group = c.benchmark_group("instructions");
    group.sample_size(10);
    group.throughput(Throughput::Elements(instructions));
    for (name, engine) in [("fast", Engine::Fast), ("reference", Engine::Reference)] {
        let o = options(Mode::Cycle, engine);
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| run(&o)));
    }
    group.finish();

    let mut group = c.benchmark_group("operations");
    group.sample_size(10);
    group.throughput(Throughput::Elements(trace.len()));
    for (name, mode) in [("native", Mode::Native), ("cycle", Mode::Cycle)] {
        let o = options(mode, Engine::Fast);
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| run(&o)));
    }
    group.finish();
}

criterion_group!(benches, host);
criterion_main!(benches);
