//! System calls by sysenter, from end to end: the same programs leave the same user memory as by int 0x80, on every row and in
//! both modes, and a call costs less.
//!
//! The stub pushes on the caller's stack and pops after the return. What can come between: a fault in the pushes, a switch
//! inside the call, an exec that replaces the stack, a fork that copies it, an exit after which nobody returns.

use lowmem_cost::preset::Variant;
use lowmem_cost::{Event, Preset, Side};
use lowmem_machine::identity::compare_modes;
use lowmem_machine::{Check, ReplayOptions, replay};
use lowmem_report::config::{Entry, Rmap, Split};
use lowmem_report::{Config, Measurement, Mode, Operation, Outcome, Silent};
use lowmem_trace::{PAGE_SIZE, Prot, Trace, TraceBuilder};

const RMAPS: [Rmap; 2] = [Rmap::AnonVma, Rmap::PteChain];
const SPLITS: [Split; 2] = [Split::G3G1, Split::G4G4];
const ENTRIES: [Entry; 2] = [Entry::Int80, Entry::Sysenter];

fn config(rmap: Rmap, split: Split, entry: Entry) -> Config {
    Config {
        rmap,
        split,
        entry,
        ram_bytes: 128 << 20,
        probe_unmap: 0,
        ..Config::default()
    }
}

fn run(trace: &Trace, config: &Config, mode: Mode) -> Measurement {
    let options = ReplayOptions {
        mode,
        check: Check::Doubling,
        ..ReplayOptions::default()
    };
    let name = format!("{} {} {} {mode:?}", config.rmap, config.split, config.entry);
    let m = replay(trace, config, &options, &Silent).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(m.outcome, Outcome::Complete, "{name}: {:?}", m.reason);
    m
}

/// One hash, whatever the row, the entry and the mode; and identical memory in both modes.
fn same_everywhere(trace: &Trace) {
    let mut first = None;
    for rmap in RMAPS {
        for split in SPLITS {
            for entry in ENTRIES {
                let config = config(rmap, split, entry);
                for mode in [Mode::Native, Mode::Cycle] {
                    let hash = run(trace, &config, mode).memory_hash;
                    assert_eq!(
                        *first.get_or_insert(hash),
                        hash,
                        "{rmap} {split} {entry} {mode:?}"
                    );
                }
            }
            let config = config(rmap, split, Entry::Sysenter);
            let found = compare_modes(trace, &config, &ReplayOptions::default())
                .unwrap_or_else(|e| panic!("{rmap} {split}: {e}"));
            assert!(found.is_empty(), "{rmap} {split}: {found:#x?}");
        }
    }
}

/// Calls that end asleep, by turns: each task is switched away from inside its call and pops its own words later.
#[test]
fn sleeps_inside_calls() {
    let mut t = TraceBuilder::new("sleeps");
    let p = t.spawn();
    let q = t.spawn();
    let a = t.on(p).mmap_anon(4 * PAGE_SIZE);
    t.on(p).write_pages(a, 4 * PAGE_SIZE);
    for _ in 0..4 {
        t.on(p).null_call();
        t.sleep(q);
        t.on(q).null_call();
        t.sleep(p);
        // Asleep, and nobody else to run: through idle and back.
        t.on(p).other(3, 0, 64);
        t.sleep(p);
        t.on(p).write(a).load(a, 4);
    }
    t.on(q).exit();
    t.on(p).exit();
    same_everywhere(&t.finish());
}

/// A fork write-protects the stack: parent and child both fault in the first push of their next call, which sleeps.
#[test]
fn faults_in_the_stub_of_a_call_that_sleeps() {
    let mut t = TraceBuilder::new("stub-faults");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(2 * PAGE_SIZE);
    t.on(p).write_pages(a, 2 * PAGE_SIZE);
    for _ in 0..3 {
        let c = t.on(p).fork();
        // The parent's next call faults in its stub while the mailbox would already name the child.
        t.on(p).null_call();
        t.sleep(c);
        t.on(c).null_call();
        t.sleep(p);
        t.on(p).write(a).null_call();
        t.on(c).load(a, 4).write(a + PAGE_SIZE).exit();
        t.on(p).wait(c);
    }
    t.on(p).exit();
    same_everywhere(&t.finish());
}

/// exec replaces the stack under the pending epilogue; the new image's first call faults in the stub and sleeps.
#[test]
fn exec_drops_the_epilogue() {
    let mut t = TraceBuilder::new("exec");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(2 * PAGE_SIZE);
    t.on(p).write_pages(a, 2 * PAGE_SIZE);
    let image = t.image();
    for share in [false, true] {
        let c = if share {
            t.on(p).vfork()
        } else {
            t.on(p).fork()
        };
        t.sleep(c);
        t.on(c).exec(image.clone()).null_call();
        t.sleep(p);
        t.on(p).null_call();
        let b = t.on(c).mmap_anon(PAGE_SIZE);
        t.on(c).write(b).exec(image.clone());
        t.sleep(p);
        t.on(p).write(a);
        t.on(c).exit();
        t.on(p).wait(c);
    }
    t.on(p).exec(image).null_call();
    t.on(p).exit();
    same_everywhere(&t.finish());
}

/// Threads share stack and stub words; calls of one come between another's pushes and pops.
#[test]
fn threads_share_a_stack() {
    let mut t = TraceBuilder::new("threads");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(4 * PAGE_SIZE);
    let c = t.on(p).clone_thread();
    t.on(c).write(a).null_call();
    t.sleep(p);
    t.on(p)
        .write(a + PAGE_SIZE)
        .mprotect(a, PAGE_SIZE, Prot::READ);
    t.sleep(c);
    t.on(c).load(a, 4).exit();
    t.on(p).load(a, 4).munmap(a, 4 * PAGE_SIZE).exit();
    same_everywhere(&t.finish());
}

/// A program that reads the words below the top of its stack finds there what the entry leaves; the hash must not tell.
#[test]
fn loads_of_the_stub_words_stay_out_of_the_hash() {
    let mut t = TraceBuilder::new("stub-words");
    let p = t.spawn();
    let top = t.image().stack_top;
    t.on(p).store(top - 16, 8).null_call().load(top - 12, 4);
    t.on(p)
        .load(top - 8, 8)
        .load(top - 16, 4)
        .modify(top - 4, 4);
    t.on(p).null_call().load(top - 20, 8).exit();
    same_everywhere(&t.finish());
}

/// All calls but the first exec and the last exit, which have no stack to return to, and each of them once.
#[test]
fn every_call_enters_once() {
    let mut t = TraceBuilder::new("count");
    let p = t.spawn();
    for _ in 0..10 {
        t.on(p).null_call();
    }
    let c = t.on(p).fork();
    t.on(p).null_call();
    t.sleep(c);
    let image = t.image();
    t.on(c).exec(image).null_call().exit();
    t.on(p).wait(c).exit();
    let trace = t.finish();
    let calls = trace.summary().calls;
    for split in SPLITS {
        let m = run(
            &trace,
            &config(Rmap::AnonVma, split, Entry::Sysenter),
            Mode::Cycle,
        );
        assert_eq!(m.account.total(Event::Sysenter), calls - 2, "{split}");
        assert_eq!(m.account.total(Event::EntryInt), 2, "{split}");
        // Another task's frame was left instead, by iret: behind the call that slept and the child's exit.
        assert_eq!(m.account.total(Event::Sysexit), calls - 2 - 2, "{split}");
        let int = run(
            &trace,
            &config(Rmap::AnonVma, split, Entry::Int80),
            Mode::Cycle,
        );
        assert_eq!(int.account.total(Event::Sysenter), 0);
        assert_eq!(int.account.total(Event::EntryInt), calls);
        for (kind, count) in &m.operations {
            if *kind != Operation::PageFault {
                assert_eq!(count.entries, int.operations[kind].entries, "{kind:?}");
            }
        }
    }
}

/// Mean cycles of a null call from its entry to its return, the stub's user instructions left out.
fn null_call(cpu: &str, entry: Entry) -> u64 {
    let mut t = TraceBuilder::new("null");
    let p = t.spawn();
    for _ in 0..400 {
        t.on(p).null_call();
    }
    let config = Config {
        cpu: cpu.to_owned(),
        ..config(Rmap::AnonVma, Split::G3G1, entry)
    };
    let m = run(&t.finish(), &config, Mode::Cycle);
    let calls = &m.operations[&Operation::NullCall];
    let prices = Preset::open(cpu).unwrap();
    let table = prices.prices(Variant::Mid).price(&calls.account);
    assert_eq!(table.side(Side::User), 0);
    table.total() / calls.entries
}

/// Published for a Pentium 4: 641 against 1761 cycles for the whole call.
#[test]
fn a_null_call_is_cheaper_than_by_int80() {
    for cpu in ["pentium4", "pentium3"] {
        let int = null_call(cpu, Entry::Int80);
        let sysenter = null_call(cpu, Entry::Sysenter);
        assert!(sysenter < int, "{cpu}: {sysenter} against {int}");
    }
}
