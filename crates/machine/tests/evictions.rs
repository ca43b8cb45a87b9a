//! Reverse maps take the same pages in the same order, but for the memory that they themselves take.

use lowmem_machine::decisions::{Decision, Probe};
use lowmem_machine::measure::evictions::{Cause, measure};
use lowmem_report::config::{FileVmas, Reclaim, Rmap};
use lowmem_report::{Config, Outcome, Owner};
use lowmem_trace::Trace;

const STORM: &[u8] = include_bytes!("../../../traces/swapstorm1.lmt");

fn storm() -> Trace {
    Trace::from_bytes("swapstorm1", STORM).expect("a committed trace")
}

fn small(rmap: Rmap) -> Config {
    Config {
        rmap,
        ram_bytes: 24 << 20,
        ..Config::default()
    }
}

/// Article 5: "the core decision-making code has not changed". With the maps' own memory out of play, none of some 90,000
/// decisions differs; with it, they differ from the first on, because a page of chains more is a page less until the watermark.
#[test]
fn maps_decide_alike_where_their_memory_does_not_count() {
    let maps = [
        Rmap::AnonVma,
        Rmap::PteChain,
        Rmap::Objrmap,
        Rmap::Anonmm,
        Rmap::AnonVmaRfc,
        Rmap::AnonVmaChain,
        Rmap::PteChainV1,
        Rmap::PteChainDl,
    ];
    for reclaim in [Reclaim::V2_6_7, Reclaim::V2_6_0] {
        let configs: Vec<Config> = maps
            .map(|m| Config {
                reclaim,
                ..small(m)
            })
            .to_vec();
        let rows = measure(&storm(), &configs).expect("they run");
        for row in &rows {
            let name = format!("{} {reclaim}", row.config.rmap);
            assert_eq!(row.outcome, Outcome::Complete, "{name}");
            assert_eq!(row.memory_hash, rows[0].memory_hash, "{name}");
            assert!(row.evictions > 4000, "{name}: {}", row.evictions);
            let same = matches!(row.cause, Cause::Same | Cause::Memory);
            assert!(same, "{name}: {:?} {:?}", row.first, row.leveled);
            if let Some(leveled) = row.leveled {
                assert!(leveled.equal.all, "{name}: {leveled:?}");
                assert!(leveled.evictions > 4000, "{name}: {leveled:?}");
            }
        }
        // The paper design's objects are anon_vma's: nothing tells the two apart, but the pages that their images take.
        let rfc = &rows[4];
        let images_differ = rfc.first.as_ref().is_some_and(|first| {
            first
                .owners
                .iter()
                .any(|(o, a, b)| *o == Owner::KernelImage && a != b)
        });
        assert!(rfc.equal.all || images_differ, "{:?}", rfc.first);
        let chains = &rows[1];
        assert_eq!(chains.cause, Cause::Memory, "{reclaim}");
        let first = chains.first.as_ref().expect("chains take memory");
        assert!(
            first
                .owners
                .iter()
                .any(|(o, a, b)| o.name() == "pte_chain" && a < b),
            "{:?}",
            first.owners
        );
    }
}

/// How a page's vmas are found is no memory: nothing differs at all.
#[test]
fn lists_and_prio_trees_decide_alike() {
    let list = Config {
        file_vmas: FileVmas::List,
        ..small(Rmap::AnonVma)
    };
    let rows = measure(&storm(), &[small(Rmap::AnonVma), list]).expect("they run");
    assert!(rows[1].equal.all);
    assert_eq!(rows[1].cause, Cause::Same);
}

/// Another reclaim decides otherwise, and is named as the cause.
#[test]
fn another_reclaim_is_named() {
    let other = Config {
        reclaim: Reclaim::V2_6_8,
        ..small(Rmap::AnonVma)
    };
    let rows = measure(&storm(), &[small(Rmap::AnonVma), other]).expect("they run");
    assert!(!rows[1].equal.all);
    assert_eq!(rows[1].cause, Cause::Reclaim);
}

/// Where forks share what is in swap, chains and objects may differ, by one answer: 2.6.7's try_to_unmap refuses a pinned page of the swap
/// cache, chains unmap it and keep it. Whether reclaim meets such a page depends on how much memory there is. The kinds of chains always
/// agree with each other.
#[test]
fn chains_do_not_ask_for_pins() {
    let bytes = include_bytes!("../../../traces/mremapfork1.lmt");
    let trace = Trace::from_bytes("mremapfork1", &bytes[..]).expect("a committed trace");
    let chains = [Rmap::PteChain, Rmap::Objrmap, Rmap::PteChainV1].map(small);
    for row in &measure(&trace, &chains).expect("they run")[1..] {
        assert_eq!(row.cause, Cause::Memory, "{}", row.config.rmap);
    }
    let mut met = 0;
    for megabytes in [24, 25, 26, 27, 28, 29] {
        let both = [Rmap::PteChain, Rmap::AnonVma].map(|rmap| Config {
            ram_bytes: megabytes << 20,
            ..small(rmap)
        });
        let rows = measure(&trace, &both).expect("they run");
        assert_eq!(rows[1].memory_hash, rows[0].memory_hash);
        let Some((chains, objects)) = rows[1].leveled.and_then(|l| l.first) else {
            continue;
        };
        met += 1;
        let (chains, objects) = (chains.expect("it goes on"), objects.expect("it goes on"));
        assert_eq!(chains.page, objects.page, "{megabytes} MB");
        assert_eq!((chains.what, chains.gave_up), (Decision::Kept, None));
        assert_eq!(
            (objects.what, objects.gave_up),
            (Decision::Activated, Some(Probe::UnmapPinned))
        );
    }
    assert!(met > 0, "no pinned page was met");
}
