//! Both engines agree in registers, memory and every event count over a whole recording.

use lowmem_machine::ReplayOptions;
use lowmem_machine::lockstep::compare_engines;
use lowmem_report::Config;
use lowmem_report::config::{Entry, Rmap, Split};
use lowmem_trace::Trace;

fn agree(rmap: Rmap, split: Split, entry: Entry) {
    let path = format!(
        "{}/../../traces/mremapfork1.lmt",
        env!("CARGO_MANIFEST_DIR")
    );
    let trace = Trace::open(path).unwrap_or_else(|e| panic!("{e}"));
    let config = Config {
        rmap,
        split,
        entry,
        // Low memory is compared byte by byte.
        ram_bytes: 256 << 20,
        ..Config::default()
    };
    let found = compare_engines(&trace, &config, &ReplayOptions::default(), 4)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(found.differences.is_empty(), "{:#?}", found.differences);
    assert_eq!(found.compared, 5);
    assert!(found.instructions > 30_000_000, "{}", found.instructions);
}

#[test]
fn engines_agree_over_mremapfork1() {
    agree(Rmap::AnonVma, Split::G4G4, Entry::Int80);
}

#[test]
#[ignore = "long: the other configurations"]
fn engines_agree_over_mremapfork1_everywhere() {
    for entry in [Entry::Int80, Entry::Sysenter] {
        for split in [Split::G3G1, Split::G4G4] {
            for rmap in [Rmap::AnonVma, Rmap::PteChain] {
                agree(rmap, split, entry);
            }
        }
    }
}
