//! A load whose kernel objects do not fit into the reserve of the counterfactual: that is said, and nothing panics.

use lowmem_machine::measure::evictions::{Cause, measure};
use lowmem_report::Config;
use lowmem_report::config::Rmap;
use lowmem_trace::generate::generate;
use lowmem_trace::generate::vmas::{Areas, ManyVmas};

#[test]
fn more_objects_than_the_reserve_leave_the_cause_unknown() {
    let load = ManyVmas {
        areas: Areas::Windows,
        count: 32_000,
        pages: 2,
        processes: 2,
    };
    let trace = generate(&load, 1).expect("a trace");
    let configs = [Rmap::AnonVma, Rmap::PteChain].map(|rmap| Config {
        rmap,
        ram_bytes: 24 << 20,
        ..Config::default()
    });
    let rows = measure(&trace, &configs).expect("they run");
    assert!(!rows[1].equal.all, "chains take memory");
    assert_eq!(rows[1].cause, Cause::Unknown);
    assert!(rows[1].leveled.expect("made").objects_pages > 1000);
}
