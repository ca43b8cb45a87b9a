//! Large machines: 64 GiB boots in seconds, and thousands of processes fit the host.

use lowmem_machine::{ReplayOptions, replay};
use lowmem_report::config::{Rmap, Split};
use lowmem_report::{Config, Measurement, Mode, Outcome, Silent};
use lowmem_trace::{Call, PAGE_SIZE, Trace, TraceBuilder};

fn native(trace: &Trace, rmap: Rmap, ram_bytes: u64) -> Measurement {
    let config = Config {
        rmap,
        split: Split::G4G4,
        ram_bytes,
        ..Config::default()
    };
    let options = ReplayOptions {
        mode: Mode::Native,
        ..ReplayOptions::default()
    };
    replay(trace, &config, &options, &Silent).unwrap_or_else(|e| panic!("{e}"))
}

/// `processes` children of one parent, each with `private` pages of its own and a shared segment that it reads whole.
fn dedicated_servers(processes: u32, private: u32, segment_pages: u32) -> Trace {
    let mut t = TraceBuilder::new("servers");
    let segment = t.segment(segment_pages * PAGE_SIZE);
    let root = t.spawn();
    t.push(Call::Shmget {
        segment,
        len: segment_pages * PAGE_SIZE,
    });
    let shared = t.on(root).shmat(segment);
    t.on(root).write_pages(shared, segment_pages * PAGE_SIZE);
    for _ in 0..processes {
        let child = t.on(root).fork();
        let own = t.on(child).mmap_anon(private * PAGE_SIZE);
        t.on(child)
            .write_pages(own, private * PAGE_SIZE)
            .read_pages(shared, segment_pages * PAGE_SIZE);
    }
    t.finish()
}

#[test]
fn sixty_four_gib_boots_in_seconds() {
    let mut t = TraceBuilder::new("small");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(PAGE_SIZE);
    t.on(p).write(a);
    let m = native(&t.finish(), Rmap::AnonVma, 64 << 30);
    assert_eq!(m.outcome, Outcome::Complete);
    // struct page: 32 bytes for each of 16 Mi frames.
    assert_eq!(m.lowmem.owner(lowmem_report::Owner::MemMap), 512 << 20);
    assert!(m.host.peak_bytes < 2 << 30, "{} bytes", m.host.peak_bytes);
}

/// The full size is run by `--ignored`: it takes a minute or two.
#[test]
#[ignore = "5,000 processes take minutes on two slow cores"]
fn five_thousand_processes() {
    let m = native(&dedicated_servers(5_000, 50, 4096), Rmap::AnonVma, 32 << 30);
    assert_eq!(m.outcome, Outcome::Complete, "{:?}", m.reason);
    eprintln!(
        "{:.1} s, {} operations, host peak {} MB, low memory {} MB",
        m.host.seconds,
        m.host.operations,
        m.host.peak_bytes >> 20,
        m.lowmem.used_bytes() >> 20
    );
}

#[test]
fn a_hundred_processes_share_a_segment() {
    let trace = dedicated_servers(100, 50, 256);
    let a = native(&trace, Rmap::AnonVma, 4 << 30);
    let p = native(&trace, Rmap::PteChain, 4 << 30);
    assert_eq!(a.outcome, Outcome::Complete);
    assert_eq!(a.memory_hash, p.memory_hash);
}
