//! Nothing is lost, whatever the outcome: a run that is checked is compared with the plain model where it ends (`lowmem_machine::plain`),
//! be it complete, without memory for a call, killed or locked up.

use lowmem_abi::call::SWAPOFF;
use lowmem_machine::{Check, ReplayOptions, replay};
use lowmem_report::config::{Reclaim, Rmap, Split};
use lowmem_report::{Config, Measurement, Mode, Outcome, Silent};
use lowmem_trace::{FileRef, MapFlags, PAGE_SIZE, Prot, TaskId, Trace, TraceBuilder};

const MAPS: [Rmap; 9] = [
    Rmap::AnonVma,
    Rmap::PteChain,
    Rmap::Objrmap,
    Rmap::Anonmm,
    Rmap::AnonVmaRfc,
    Rmap::AnonVmaChain,
    Rmap::PteChainV1,
    Rmap::PteChainDl,
    Rmap::SwapOut,
];

fn small(rmap: Rmap) -> Config {
    Config {
        rmap,
        reclaim: match rmap {
            Rmap::SwapOut => Reclaim::V2_4,
            _ => Reclaim::V2_6_7,
        },
        ram_bytes: 24 << 20,
        probe_unmap: 0,
        ..Config::default()
    }
}

fn checked(trace: &Trace, config: &Config, mode: Mode) -> Measurement {
    let options = ReplayOptions {
        mode,
        check: Check::Doubling,
        ..ReplayOptions::default()
    };
    let name = format!("{} {} {}", trace.name(), config.rmap, config.split);
    replay(trace, config, &options, &Silent).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Processes with private, shared and file memory, some of it copied, moved, dropped, written to the file.
fn processes(t: &mut TraceBuilder) -> TaskId {
    let p = t.spawn();
    let bytes = 64 * PAGE_SIZE;
    let file = t.file("/data", 64);
    let whole = FileRef {
        file,
        page_offset: 0,
    };
    let anon = t.on(p).mmap_anon(bytes);
    let shared = t.on(p).mmap_shared(bytes);
    let private_file = t.on(p).mmap_file(whole, bytes, Prot::RW, MapFlags::PRIVATE);
    let shared_file = t.on(p).mmap_file(whole, bytes, Prot::RW, MapFlags::SHARED);
    t.on(p)
        .write_pages(anon, bytes)
        .write_pages(shared, bytes / 2)
        .write_pages(private_file, bytes / 4)
        .write_pages(shared_file + bytes / 2, bytes / 4);
    let c = t.on(p).fork();
    t.on(c)
        .write_pages(anon, bytes / 2)
        .write_pages(private_file, bytes / 2)
        .write_pages(shared, bytes);
    let d = t.on(c).fork();
    t.on(d).mremap_fixed(anon, bytes, 0x6000_0000);
    t.on(d)
        .madvise(0x6000_0000, bytes / 8, lowmem_trace::Advice::DontNeed)
        .write_pages(0x6000_0000 + bytes / 2, bytes / 4);
    t.on(c).file_write(file, 5 * 4096 + 100, anon, 6000);
    t.on(d).munmap(shared, bytes / 2);
    t.on(p).read_pages(anon, bytes).read_pages(shared, bytes);
    p
}

/// Twice as much private memory as there is.
fn hog(t: &mut TraceBuilder, p: TaskId) -> u32 {
    let a = t.on(p).mmap_anon(40 << 20);
    t.on(p).write_pages(a, 40 << 20);
    a
}

#[test]
fn complete_runs_lose_nothing() {
    let mut t = TraceBuilder::new("complete");
    let p = processes(&mut t);
    let a = hog(&mut t, p);
    t.on(p).read_pages(a, 8 << 20);
    let trace = t.finish();
    for rmap in MAPS {
        for split in [Split::G3G1, Split::G4G4] {
            let m = checked(
                &trace,
                &Config {
                    split,
                    ..small(rmap)
                },
                Mode::Native,
            );
            assert_eq!(m.outcome, Outcome::Complete, "{rmap}: {:?}", m.reason);
            assert!(m.devices.swap_writes > 1000, "{rmap}");
        }
    }
    let m = checked(&trace, &small(Rmap::AnonVma), Mode::Cycle);
    assert_eq!(m.outcome, Outcome::Complete);
}

/// Pages of eight frames, of which a process may have changed any one alone.
#[test]
fn clustered_pages_lose_nothing() {
    let mut t = TraceBuilder::new("clustered");
    let p = processes(&mut t);
    let a = hog(&mut t, p);
    t.on(p).read_pages(a, 8 << 20);
    let trace = t.finish();
    for rmap in MAPS {
        let config = Config {
            cluster: 3,
            ..small(rmap)
        };
        let m = checked(&trace, &config, Mode::Native);
        // anon_vma_rfc has no clustered pages, and not every such image is committed.
        if m.outcome == Outcome::Refused {
            continue;
        }
        assert_eq!(m.outcome, Outcome::Complete, "{rmap}: {:?}", m.reason);
        assert!(m.devices.swap_writes > 100, "{rmap}");
    }
}

#[test]
fn livelocks_lose_nothing() {
    let mut t = TraceBuilder::new("livelock");
    let p = processes(&mut t);
    let a = t.on(p).mmap_anon(40 << 20);
    t.on(p).mlock(a, 40 << 20);
    t.on(p).write_pages(a, 40 << 20);
    let trace = t.finish();
    for rmap in MAPS {
        let m = checked(&trace, &small(rmap), Mode::Native);
        assert_eq!(m.outcome, Outcome::Livelock, "{rmap}: {:?}", m.reason);
    }
}

/// Without swap a private page has nowhere to go, and the kernel kills.
#[test]
fn kills_lose_nothing_before_them() {
    let mut t = TraceBuilder::new("kill");
    let p = processes(&mut t);
    t.on(p).other(SWAPOFF, 0, 0);
    // In pieces that the kernel's estimate of memory lets pass.
    for _ in 0..10 {
        let a = t.on(p).mmap_anon(4 << 20);
        t.on(p).write_pages(a, 4 << 20);
    }
    let trace = t.finish();
    for rmap in MAPS {
        let m = checked(&trace, &small(rmap), Mode::Native);
        assert_eq!(m.outcome, Outcome::OomKill, "{rmap}: {:?}", m.reason);
    }
}

/// One vma more than a process may have: the one request of the recorded calls that 2.6 refuses instead of going round.
#[test]
fn refused_calls_lose_nothing() {
    let mut t = TraceBuilder::new("enomem");
    let p = processes(&mut t);
    for i in 0..65_540 {
        t.on(p)
            .mmap_fixed(0x7000_0000 + i * 2 * PAGE_SIZE, PAGE_SIZE, Prot::RW);
    }
    let trace = t.finish();
    for rmap in [Rmap::AnonVma, Rmap::PteChain, Rmap::Anonmm] {
        let m = checked(&trace, &small(rmap), Mode::Native);
        assert_eq!(m.outcome, Outcome::Enomem, "{rmap}: {:?}", m.reason);
    }
}

/// The recordings that come with the sources, each compared with the plain model at its end.
#[test]
fn recordings_equal_the_plain_model() {
    for name in ["mremapfork1", "java64", "sort64", "pygrow1", "swapstorm1"] {
        let path = format!("{}/../../traces/{name}.lmt", env!("CARGO_MANIFEST_DIR"));
        let trace = Trace::open(path).expect("a committed trace");
        let m = checked(&trace, &Config::default(), Mode::Native);
        assert_eq!(m.outcome, Outcome::Complete, "{name}");
    }
}
