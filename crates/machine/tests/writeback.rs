//! Traces that write, sync, map and truncate files: the same memory with tags and with lists, in little RAM and in much, natively and on
//! the CPU; and what `measure writeback` claims.

use lowmem_machine::identity::compare_modes;
use lowmem_machine::measure::writeback::{self, Writers};
use lowmem_machine::{Check, ReplayOptions, replay};
use lowmem_report::config::{PageCache, Rmap, Split, YoungFlush};
use lowmem_report::{Config, Mode, Outcome, Silent};
use lowmem_trace::retouch::mix;
use lowmem_trace::{FileRef, MapFlags, Prot, Trace, TraceBuilder};

const PAGE: u32 = 4096;

fn config(page_cache: PageCache) -> Config {
    Config {
        page_cache,
        ram_bytes: 128 << 20,
        probe_unmap: 0,
        ..Config::default()
    }
}

/// Two tasks write `pages` pages of three files by call and by store, in drawn order, and sync, unmap and truncate now and then.
fn busy(seed: u64, steps: u32, pages: u32) -> Trace {
    let mut t = TraceBuilder::new("busy");
    let first = t.spawn();
    let buffer = t.on(first).mmap_anon(4 * PAGE);
    t.on(first).write_pages(buffer, 4 * PAGE);
    let files = [
        t.file("/a", pages),
        t.file("/b", pages),
        t.file("/c", pages),
    ];
    let window = 64.min(pages);
    let shared = FileRef {
        file: files[0],
        page_offset: 0,
    };
    let map = t
        .on(first)
        .mmap_file(shared, window * PAGE, Prot::RW, MapFlags::SHARED);
    let second = t.on(first).fork();
    t.on(second).write_pages(buffer, 4 * PAGE);
    for n in 0..steps {
        let draw = |what: u32| mix(seed, u64::from(n), what);
        let task = [first, second][(draw(1) % 2) as usize];
        let file = files[(draw(2) % 3) as usize];
        let index = (draw(3) % u64::from(pages)) as u32;
        let at = u64::from(index * PAGE);
        match draw(4) % 64 {
            0 => {
                t.on(task).fsync(file);
            }
            1 => {
                t.on(task).truncate(file, at);
            }
            2..=20 => {
                t.on(task).write(map + (index % window) * PAGE);
            }
            21..=24 => {
                // A part of a page, across two pages of the file.
                t.on(task).file_write(file, at + 4000, buffer + 2000, 300);
            }
            25 => {
                t.on(task).file_write(file, at, buffer, 4 * PAGE);
            }
            _ => {
                t.on(task).file_write(file, at, buffer, PAGE);
            }
        }
    }
    t.on(first).munmap(map, window * PAGE);
    t.on(second).munmap(map, window * PAGE);
    for file in files {
        t.on(first).fsync(file);
    }
    t.finish()
}

fn hash(trace: &Trace, config: &Config, check: Check) -> u128 {
    let options = ReplayOptions {
        mode: Mode::Native,
        check,
        ..ReplayOptions::default()
    };
    let m = replay(trace, config, &options, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(m.outcome, Outcome::Complete, "{:?}", m.reason);
    m.memory_hash.expect("a complete run has a hash")
}

#[test]
fn tags_and_lists_leave_the_same_memory() {
    for seed in 0..4 {
        let trace = busy(seed, 1_500, 200);
        let want = hash(&trace, &config(PageCache::Tagged), Check::Doubling);
        for split in [Split::G3G1, Split::G4G4] {
            for rmap in [Rmap::AnonVma, Rmap::PteChain] {
                for page_cache in [PageCache::Tagged, PageCache::Lists] {
                    // Images of lists are committed for 3G/1G only.
                    if page_cache == PageCache::Lists && split == Split::G4G4 {
                        continue;
                    }
                    let c = Config {
                        split,
                        rmap,
                        ..config(page_cache)
                    };
                    assert_eq!(hash(&trace, &c, Check::Off), want, "{seed} {c:?}");
                }
            }
        }
    }
}

#[test]
fn every_step_of_a_busy_trace_checks() {
    for page_cache in [PageCache::Tagged, PageCache::Lists] {
        hash(&busy(9, 300, 80), &config(page_cache), Check::Every);
    }
}

/// 48 MB of files in 32 MB of RAM: thresholds, throttling and reclaim at once.
#[test]
fn nothing_is_lost_in_little_memory() {
    let trace = busy(5, 16_000, 4_096);
    let want = hash(&trace, &config(PageCache::Tagged), Check::Off);
    for page_cache in [PageCache::Tagged, PageCache::Lists] {
        let c = Config {
            ram_bytes: 32 << 20,
            ..config(page_cache)
        };
        assert_eq!(hash(&trace, &c, Check::Doubling), want, "{page_cache}");
    }
}

#[test]
fn modes_leave_identical_memory() {
    let c = Config {
        young_flush: YoungFlush::On,
        ..config(PageCache::Tagged)
    };
    let found = compare_modes(&busy(7, 800, 100), &c, &ReplayOptions::default())
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(found.is_empty(), "{found:#x?}");
}

#[test]
fn measure_writeback_shows_the_claims() {
    let [tagged, lists] = [PageCache::Tagged, PageCache::Lists].map(|page_cache| {
        writeback::measure(&config(page_cache)).unwrap_or_else(|e| panic!("{e}"))
    });
    for (t, l) in tagged.orders.iter().zip(&lists.orders) {
        assert_eq!((t.writers, t.disk.pages), (l.writers, l.disk.pages));
        let (want_tagged, want_lists) = match t.writers {
            Writers::Sequential => (1, 1),
            // In file order whatever the order of writing; in dirtying order nearly every page is a seek.
            Writers::Random => (1, u64::from(writeback::ORDER_PAGES) - 1),
            Writers::TwoOneFile => (1, u64::from(writeback::ORDER_PAGES)),
            Writers::TwoFiles => (2, 2),
        };
        assert_eq!(t.disk.seeks, want_tagged, "{:?}", t.writers);
        assert!(
            l.disk.seeks + 2 >= want_lists && l.disk.seeks <= want_lists + 1,
            "{l:?}"
        );
        assert!(t.disk.us <= l.disk.us);
    }
    for (t, l) in tagged.densities.iter().zip(&lists.densities) {
        assert_eq!(t.dirty, l.dirty);
        assert!(l.looked_at >= u64::from(l.dirty));
    }
    assert!(tagged.race.iter().all(|r| r.durable));
    let durable: Vec<bool> = lists.race.iter().map(|r| r.durable).collect();
    assert_eq!(durable, [true, false, false]);
}
