//! Native mode: small programs on every row leave the same user memory.

use lowmem_machine::{Check, ReplayOptions, replay};
use lowmem_report::config::{Rmap, Split};
use lowmem_report::{Config, Measurement, Mode, Outcome, Silent};
use lowmem_trace::{PAGE_SIZE, Prot, Trace, TraceBuilder};

fn run(trace: &Trace, rmap: Rmap, split: Split) -> Measurement {
    let config = Config {
        rmap,
        split,
        ram_bytes: 2 << 30,
        ..Config::default()
    };
    let options = ReplayOptions {
        mode: Mode::Native,
        check: Check::Every,
        ..ReplayOptions::default()
    };
    replay(trace, &config, &options, &Silent).unwrap_or_else(|e| panic!("{rmap} {split}: {e}"))
}

fn same_everywhere(trace: &Trace) {
    let mut hashes = Vec::new();
    for rmap in [Rmap::AnonVma, Rmap::PteChain] {
        for split in [Split::G3G1, Split::G4G4] {
            let m = run(trace, rmap, split);
            assert_eq!(
                m.outcome,
                Outcome::Complete,
                "{rmap} {split}: {:?}",
                m.reason
            );
            let hash = m.memory_hash.expect("complete runs have a hash");
            hashes.push((rmap, split, hash));
        }
    }
    assert!(hashes.iter().all(|h| h.2 == hashes[0].2), "{hashes:x?}");
}

#[test]
fn one_process_writes_and_reads() {
    let mut t = TraceBuilder::new("one");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(8 * PAGE_SIZE);
    t.on(p).write_pages(a, 8 * PAGE_SIZE).read(a);
    t.on(p).null_call().munmap(a, PAGE_SIZE);
    same_everywhere(&t.finish());
}

#[test]
fn fork_copies_on_write() {
    let mut t = TraceBuilder::new("fork");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(8 * PAGE_SIZE);
    t.on(p).write_pages(a, 8 * PAGE_SIZE);
    let c = t.on(p).fork();
    t.on(c).write(a).load(a + PAGE_SIZE, 4);
    t.on(p).write(a + PAGE_SIZE).load(a, 4);
    t.on(c).load(a + PAGE_SIZE, 4).exit();
    t.on(p)
        .wait(c)
        .mprotect(a, PAGE_SIZE, Prot::READ)
        .load(a, 4);
    let b = t.on(p).mremap(a + PAGE_SIZE, PAGE_SIZE, 4 * PAGE_SIZE);
    t.on(p).load(b, 4).write(b + 3 * PAGE_SIZE).exit();
    same_everywhere(&t.finish());
}
