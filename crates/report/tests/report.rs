//! Results made from synthetic measurements: sums hold, sets are closed, text fits, snapshots of every form.

use lowmem_cost::{Account, Event, Preset, Side};
use lowmem_report::config::{Rmap, Split};
use lowmem_report::result::{Document, TraceSummary, UserWork};
use lowmem_report::text::{Detail, render};
use lowmem_report::*;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// A measurement with plausible counts: `calls` null calls and `faults` page faults.
fn measurement(rmap: Rmap, split: Split, calls: u64, faults: u64) -> Measurement {
    let config = Config {
        rmap,
        split,
        ..Config::default()
    };
    let per_entry = |account: &mut Account, n: u64| {
        account.set_side(Side::EntryExit);
        account.add(Event::Instructions, 60 * n);
        account.add(Event::InsnSimple, 60 * n);
        account.add(Event::Iret, n);
        if split == Split::G4G4 {
            account.add(Event::InsnMovCr3, 2 * n);
            account.add(Event::FlushSplit, 2 * n);
            account.add(Event::PdpteLoad, 2 * n);
            account.add(Event::PdpteUncached, 8 * n);
            for (miss, flush, walk, l1) in [
                (
                    Event::DtlbMiss,
                    Event::DtlbFlush,
                    Event::DtlbWalk,
                    Event::DtlbWalkL1,
                ),
                (
                    Event::ItlbMiss,
                    Event::ItlbFlush,
                    Event::ItlbWalk,
                    Event::ItlbWalkL1,
                ),
            ] {
                account.add(miss, 9 * n);
                account.add(flush, 9 * n);
                account.add(walk, 9 * n);
                account.add(l1, 18 * n);
            }
        }
        account.add(Event::DtlbAccess, 90 * n);
        account.add(Event::ItlbAccess, 70 * n);
        account.set_side(Side::OtherKernel);
    };
    let mut null_call = Account::default();
    per_entry(&mut null_call, calls);
    null_call.add(Event::EntryInt, calls);
    let mut fault = Account::default();
    per_entry(&mut fault, faults);
    fault.add(Event::EntryPageFault, faults);
    fault.set_side(Side::Fault);
    fault.add(Event::InsnSimple, 900 * faults);
    fault.add(Event::Instructions, 900 * faults);
    fault.add(
        Event::LockRmw,
        if rmap == Rmap::PteChain { 6 } else { 4 } * faults,
    );
    fault.add(Event::LoadMemoryRandom, 2 * faults);
    fault.add(Event::DtlbMiss, faults);
    fault.add(Event::DtlbCold, faults);

    let mut account = Account::default();
    for part in [&null_call, &fault] {
        for &side in Side::ALL {
            account.set_side(side);
            for &event in Event::ALL {
                account.add(event, part.get(side, event));
            }
        }
    }
    let mut by_owner = [0; Owner::COUNT];
    by_owner[Owner::KernelImage as usize] = 3 << 20;
    by_owner[Owner::MemMap as usize] = 32 << 20;
    by_owner[Owner::Pte as usize] = faults * 8;
    let chains = if rmap == Rmap::PteChain {
        Owner::PteChain
    } else {
        Owner::AnonVma
    };
    by_owner[chains as usize] = faults * if rmap == Rmap::PteChain { 32 } else { 1 };
    let samples = (1..=64u32)
        .map(|i| {
            let mut parts = [(); 3].map(|()| Box::new([0; Event::COUNT]));
            parts[0][Event::InsnSimple as usize] = 200 + u64::from(i);
            parts[1][Event::LockRmw as usize] = 3;
            parts[2][Event::LoadMemoryRandom as usize] = u64::from(i % 7);
            UnmapSample {
                end: if i % 16 == 0 {
                    UnmapEnd::Young
                } else {
                    UnmapEnd::Unmapped
                },
                vmas_visited: 2 + i % 3,
                ptes_examined: 2,
                ptes_cleared: 1,
                parts,
            }
        })
        .collect();
    Measurement {
        config,
        mode: Mode::Cycle,
        outcome: Outcome::Complete,
        reason: None,
        account,
        operations: BTreeMap::from([
            (
                Operation::NullCall,
                OperationCount {
                    entries: calls,
                    account: null_call,
                },
            ),
            (
                Operation::PageFault,
                OperationCount {
                    entries: faults,
                    account: fault,
                },
            ),
        ]),
        kmap_wraps: 0,
        lowmem: LowmemUse {
            total_bytes: 896 << 20,
            peak_bytes: 40 << 20,
            by_owner,
            unmapped_bytes: 0,
        },
        unmap: UnmapMeasure::Sampled {
            source: UnmapSource::Probe,
            samples,
        },
        devices: DeviceUse::default(),
        memory_hash: Some(0x1234_5678_9abc),
        host: HostStats::default(),
    }
}

fn summary(user_work: UserWork) -> TraceSummary {
    let assumptions = serde_json::json!({"retouch": {"data": 8, "code": 4}, "user_work": 0});
    TraceSummary {
        name: "synthetic".to_owned(),
        sha256: "00".repeat(32),
        operations: 12_000,
        events: 11_800,
        processes: 3,
        user_work,
        assumptions: assumptions.as_object().unwrap().clone(),
    }
}

fn document(rows: Vec<Measurement>) -> Document {
    let preset = Preset::open("pentium4").unwrap();
    let rows: Vec<_> = rows
        .into_iter()
        .map(|m| (m, Some(preset.clone())))
        .collect();
    Document::new("0.0.0", summary(UserWork::None), Mode::Cycle, &rows)
}

fn matrix() -> Document {
    let rows = [Rmap::AnonVma, Rmap::PteChain]
        .into_iter()
        .flat_map(|rmap| {
            [Split::G3G1, Split::G4G4].map(|split| measurement(rmap, split, 10_000, 2_000))
        });
    document(rows.collect())
}

#[test]
fn compare_prints_a_verdict_and_tables() {
    insta::assert_snapshot!(render(&matrix(), Detail::Compare));
}

#[test]
fn replay_prints_everything() {
    let one = measurement(Rmap::PteChain, Split::G4G4, 10_000, 2_000);
    insta::assert_snapshot!(render(&document(vec![one]), Detail::Replay));
}

#[test]
fn rows_that_did_not_finish_are_named_with_their_reason() {
    let mut short = measurement(Rmap::AnonVma, Split::G3G1, 100, 10);
    short.outcome = Outcome::Enomem;
    short.reason = Some("no page in zone Normal for pte, operation 77".to_owned());
    short.memory_hash = None;
    let refused = Measurement::refused(
        Config {
            split: Split::G4G4,
            ..Config::default()
        },
        Mode::Cycle,
        "needs packing".to_owned(),
    );
    let document = document(vec![short, refused]);
    assert!(!document.all_complete());
    insta::assert_snapshot!(render(&document, Detail::Compare));
}

#[test]
fn a_native_run_says_why_tables_are_empty() {
    let mut m = measurement(Rmap::AnonVma, Split::G3G1, 0, 0);
    m.mode = Mode::Native;
    m.account = Account::default();
    m.operations.clear();
    m.unmap = UnmapMeasure::None {
        reason: "native mode measures no cycles".to_owned(),
    };
    let document = Document::new("0.0.0", summary(UserWork::None), Mode::Native, &[(m, None)]);
    insta::assert_snapshot!(render(&document, Detail::Replay));
}

#[test]
fn json_has_the_promised_shape() {
    let one = measurement(Rmap::AnonVma, Split::G4G4, 10, 2);
    insta::assert_snapshot!(document(vec![one]).json());
}

#[test]
fn csv_has_one_line_per_configuration() {
    let text = csv::render(&matrix());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5);
    let columns = lines[0].split(',').count();
    assert!(lines[0].contains("config.rmap") && lines[0].contains("tlb.dtlb.misses"));
    assert!(lines.iter().all(|l| l.split(',').count() == columns));
}

/// The added cycles of a null call are exactly what the synthetic counts and the preset make them.
#[test]
fn the_explanation_is_exact() {
    let document = matrix();
    assert_eq!(document.splits.len(), 2);
    let null = document.splits[0].null_call.as_ref().unwrap();
    assert_eq!(null.entries, 10_000);
    let line = |name: &str| null.lines.get(name).copied().unwrap();
    assert_eq!(line("cr3_loads"), 2 * 405 * 10_000);
    assert_eq!(line("pdpte_loads"), 2 * 1150 * 10_000);
    assert_eq!(line("dtlb_refills"), 9 * 37 * 10_000);
    assert_eq!(line("itlb_refills"), 9 * 37 * 10_000);
    assert_eq!(line("trampoline"), 0);
    assert_eq!(null.total, (810 + 2300 + 666) * 10_000);
    assert_eq!(null.low, (810 + 120 + 666) * 10_000);
    assert_eq!(null.high, (810 + 5650 + 666) * 10_000);
}

#[test]
fn a_share_of_run_time_is_printed_only_with_user_work() {
    let preset = Preset::open("pentium4").unwrap();
    let rows: Vec<_> = [Split::G3G1, Split::G4G4]
        .map(|s| {
            (
                measurement(Rmap::AnonVma, s, 1000, 10),
                Some(preset.clone()),
            )
        })
        .into();
    for (work, share) in [
        (UserWork::None, false),
        (UserWork::Assumed, true),
        (UserWork::InTrace, true),
    ] {
        let document = Document::new("0.0.0", summary(work), Mode::Cycle, &rows);
        assert_eq!(render(&document, Detail::Compare).contains('%'), share);
    }
}

/// Every side and cause in use: the widest table there can be.
#[test]
fn the_widest_table_fits() {
    let mut m = measurement(Rmap::PteChain, Split::G4G4, 10, 2);
    for &side in Side::ALL {
        m.account.set_side(side);
        for &event in Event::ALL {
            m.account.add(event, 99_999_999_999);
        }
    }
    for line in render(&document(vec![m]), Detail::Replay).lines() {
        assert!(line.chars().count() <= table::WIDTH, "{line}");
    }
}

/// Checks the sums that the schema promises on a JSON row.
fn check_sums(row: &Value) {
    let n = |v: &Value| v.as_u64().unwrap();
    let sum = |v: &Value| v.as_object().unwrap().values().map(n).sum::<u64>();
    let by = row["cycles"]["by"].as_object().unwrap();
    assert_eq!(by.len(), Side::COUNT);
    assert!(by.values().all(|c| c.as_object().unwrap().len() == 13));
    assert_eq!(
        by.values().map(sum).sum::<u64>(),
        n(&row["cycles"]["total"])
    );
    assert_eq!(
        sum(&row["lowmem"]["by_owner"]),
        n(&row["lowmem"]["used_bytes"])
    );
    assert_eq!(row["lowmem"]["by_owner"].as_object().unwrap().len(), 25);
    for tlb in ["dtlb", "itlb", "dtlb2", "itlb2"] {
        let t = &row["tlb"][tlb];
        assert_eq!(n(&t["hits"]) + n(&t["misses"]), n(&t["accesses"]));
    }
    assert_eq!(sum(&row["unmap"]["parts"]), n(&row["unmap"]["cycles"]));
    assert_eq!(sum(&row["unmap"]["ends"]), n(&row["unmap"]["pages"]));
    let i = &row["instructions"];
    assert_eq!(n(&i["user"]) + n(&i["kernel"]), n(&i["total"]));
}

proptest! {
    #[test]
    fn sums_hold_and_text_fits(calls in 0u64..1 << 36, faults in 0u64..1 << 26) {
        let rows = [Rmap::AnonVma, Rmap::PteChain].into_iter().flat_map(|rmap| {
            [Split::G3G1, Split::G4G4].map(|split| measurement(rmap, split, calls, faults))
        });
        let document = document(rows.collect());
        let json: Value = serde_json::from_str(&document.json()).unwrap();
        for row in json["results"].as_array().unwrap() {
            check_sums(row);
        }
        for e in &document.splits {
            let lines: i64 = e.run.lines.0.iter().map(|(_, n)| n).sum();
            prop_assert_eq!(lines, e.run.total);
        }
        for detail in [Detail::Compare, Detail::Replay] {
            for line in render(&document, detail).lines() {
                prop_assert!(line.chars().count() <= table::WIDTH, "{}", line);
            }
        }
        // The echo of every configuration is valid input.
        for row in json["results"].as_array().unwrap() {
            serde_json::from_value::<Config>(row["config"].clone()).unwrap();
        }
    }
}
