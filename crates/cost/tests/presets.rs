//! Presets: the shipped ones are complete and price what was measured; hostile ones end in one clear error.

use lowmem_cost::geometry::PdpteRead;
use lowmem_cost::preset::{Milli, Value, schema};
use lowmem_cost::{Account, Cause, Event, Geometry, Preset, Prices, Side, Variant};
use proptest::prelude::*;

/// Cycles of a few events at the mid prices.
fn cycles(preset: &Preset, events: &[(Event, u64)]) -> u64 {
    let mut counts = [0; Event::COUNT];
    for &(event, n) in events {
        counts[event as usize] += n;
    }
    preset.prices(Variant::Mid).cycles(&counts)
}

#[test]
fn every_built_in_preset_opens_and_every_number_has_a_source() {
    for name in Preset::built_in() {
        let preset = Preset::open(name).unwrap();
        assert_eq!(preset.name(), name);
        assert!(preset.entries().all(|(_, e)| !e.source.is_empty()));
    }
}

#[test]
fn the_pentium3_preset_is_the_geometry_that_tests_use() {
    let preset = Preset::open("pentium3").unwrap();
    assert_eq!(preset.geometry(), &Geometry::pentium3());
}

/// A dependent load costs its instruction, the load-use delay and the difference to its level.
#[test]
fn a_pointer_chase_costs_the_measured_latency() {
    for (name, levels) in [
        ("pentium3", [3, 8, 8, 127, 184]),
        ("pentium4", [2, 18, 43, 250, 312]),
    ] {
        let preset = Preset::open(name).unwrap();
        let chase = [
            Event::LoadL1,
            Event::LoadL2,
            Event::LoadL3,
            Event::LoadMemoryOpen,
            Event::LoadMemoryRandom,
        ]
        .map(|e| {
            cycles(
                &preset,
                &[(Event::InsnSimple, 1), (Event::LoadUse, 1), (e, 1)],
            )
        });
        assert_eq!(chase, levels, "{name}");
    }
}

#[test]
fn a_tlb_miss_costs_the_measured_penalty() {
    let p3 = Preset::open("pentium3").unwrap();
    let p4 = Preset::open("pentium4").unwrap();
    // The pde comes from the P6's pde cache, NetBurst loads it.
    assert_eq!(
        cycles(&p3, &[(Event::DtlbWalk, 1), (Event::DtlbWalkL1, 1)]),
        5
    );
    assert_eq!(
        cycles(&p4, &[(Event::DtlbWalk, 1), (Event::DtlbWalkL1, 2)]),
        37
    );
}

/// Bytes per cycle as measured, to a thousandth: a price is rounded to 1/4096 cycle.
#[test]
fn rep_moves_its_bytes_per_cycle() {
    for (name, event, bytes) in [
        ("pentium4", Event::RepMovsBytes, 7_500_000),
        ("pentium4", Event::RepStosBytes, 4_250_000),
        ("pentium3", Event::RepMovsBytes, 9_500_000),
        ("pentium3", Event::RepStosBytes, 5_700_000),
    ] {
        let cost = cycles(&Preset::open(name).unwrap(), &[(event, bytes)]);
        assert!(
            cost.abs_diff(1_000_000) <= 1_000,
            "{name} {event:?}: {cost}"
        );
    }
}

/// A pae cr3 load: 160 + 4 x 150 ns = 759.6 on the P3; bracketed on the P4, its single reads not charged again.
#[test]
fn a_pae_load_of_cr3_costs_what_the_preset_says() {
    let load = [
        (Event::InsnMovCr3, 1),
        (Event::PdpteLoad, 1),
        (Event::PdpteUncached, 4),
    ];
    assert_eq!(cycles(&Preset::open("pentium3").unwrap(), &load), 160 + 760);
    let p4 = Preset::open("pentium4").unwrap();
    let mut counts = [0; Event::COUNT];
    for (event, n) in load {
        counts[event as usize] = n;
    }
    let all = Variant::ALL.map(|v| p4.prices(v).cycles(&counts));
    assert_eq!(all, [405 + 60, 405 + 1150, 405 + 2825]);
    assert_eq!(
        p4.brackets().map(|(k, _)| k.name).collect::<Vec<_>>(),
        ["pdpte.load"]
    );
}

#[test]
fn the_tick_is_counted_in_instructions() {
    let p4 = Preset::open("pentium4").unwrap();
    assert_eq!(p4.instructions_per_tick(1000), 1_200_000);
    assert_eq!(p4.instructions_per_tick(100), 12_000_000);
}

#[test]
fn one_number_can_be_set() {
    let p4 = Preset::open("pentium4").unwrap();
    let set = p4.clone().set("pdpte.load", "2000").unwrap();
    assert_eq!(set.brackets().count(), 0);
    assert_eq!(cycles(&set, &[(Event::PdpteLoad, 1)]), 2000);
    // A time displaces the cycles it stands for.
    let set = p4.clone().set("pdpte.each_ns", "100").unwrap();
    assert_eq!(
        cycles(&set, &[(Event::PdpteLoad, 1), (Event::PdpteUncached, 4)]),
        960
    );
    let set = p4.clone().set("pdpte.read", "cached").unwrap();
    assert_eq!(set.geometry().pdpte_read, PdpteRead::Cached);

    for (key, value, message) in [
        (
            "l2.latncy",
            "20",
            "unknown preset key \"l2.latncy\", did you mean \"l2.latency\"?",
        ),
        (
            "l2.latency",
            "fast",
            "l2.latency=fast: must be a number from 0 to 1000000 with at most three decimals",
        ),
        (
            "l2.latency",
            "1",
            "preset pentium4: l2.latency: must not be less than the level before it",
        ),
        (
            "dtlb.ways",
            "7",
            "preset pentium4: dtlb.ways: must divide 64 entries",
        ),
        (
            "pdpte.read",
            "maybe",
            "pdpte.read=maybe: must be one of cached, uncached",
        ),
        (
            "l2.kib",
            "1.5",
            "l2.kib=1.5: must be a whole number from 0 to 1048576",
        ),
    ] {
        let error = p4.clone().set(key, value).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn a_file_may_inherit_and_errors_name_the_place() {
    let number = "{ value = 525, mark = \"verified\", source = \"G4\" }";
    let text = format!(
        "name = \"celeron\"\ninherits = \"pentium3\"\nclock_mhz = {number}\n\n[memory]\nopen_ns = {number}\nrandom_ns = {number}\n"
    );
    let preset = Preset::from_text("c.toml", &text).unwrap();
    assert_eq!(preset.inherits(), ["pentium3"]);
    assert!(
        preset.entry("memory.open").is_none(),
        "displaced by the time"
    );
    assert_eq!(
        preset.entry("clock_mhz").unwrap().value,
        Value::Number {
            mid: Milli(525_000),
            bracket: None
        }
    );

    let with = |line: &str| format!("name = \"x\"\ninherits = \"pentium3\"\n[l2]\n{line}\n");
    for (line, message) in [
        (
            "latncy = { value = 1, mark = \"verified\", source = \"s\" }",
            "x.toml:4:1: unknown key \"l2.latncy\", did you mean \"l2.latency\"?",
        ),
        (
            "latency = 8",
            "x.toml:4:11: l2.latency: must be { value = ..., mark = \"...\", source = \"...\" }",
        ),
        (
            "latency = { value = 8, mark = \"verified\" }",
            "x.toml:4:11: l2.latency: source is missing",
        ),
        (
            "latency = { value = 8, mark = \"sure\", source = \"s\" }",
            "x.toml:4:31: l2.latency: mark must be one of verified, derived, recalled, measured, assumption",
        ),
        (
            "latency = { value = 8, low = 9, high = 10, mark = \"verified\", source = \"s\" }",
            "x.toml:4:11: l2.latency: value must lie between low and high",
        ),
        (
            "latency = { value = 8, sorce = \"s\" }",
            "x.toml:4:24: unknown key \"l2.latency.sorce\", did you mean \"source\"?",
        ),
    ] {
        let error = Preset::from_text("x.toml", &with(line)).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let error = Preset::from_text("x.toml", "name = \"x\"\n[l2\n").unwrap_err();
    assert!(error.to_string().starts_with("x.toml:2:"), "{error}");
    let error = Preset::from_text("x.toml", "name = \"x\"\n").unwrap_err();
    assert_eq!(error.to_string(), "preset x: front.kind: is missing");
}

#[test]
fn inheritance_in_a_circle_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("loop.toml");
    std::fs::write(&path, "name = \"loop\"\ninherits = \"loop.toml\"\n").unwrap();
    let error = Preset::open(path.to_str().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "preset loop: inherits more than 8 presets deep"
    );
    let error = Preset::open("pentum4").unwrap_err().to_string();
    assert!(error.contains("did you mean \"pentium4\"?"), "{error}");
    assert_eq!(
        Preset::open("zen4").unwrap_err().to_string(),
        "cpu zen4: not yet"
    );
}

#[test]
fn no_schema_key_is_stated_twice() {
    let mut names: Vec<&str> = schema::KEYS.iter().map(|k| k.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), schema::KEYS.len());
}

proptest! {
    /// Parts sum to totals along both axes, and pricing two halves is pricing the whole to within rounding.
    #[test]
    fn pricing_is_linear_and_its_parts_sum(
        counts in prop::collection::vec((0..Side::COUNT, 0..Event::COUNT, 0u64..1 << 40), 0..60),
        split in 0usize..60,
    ) {
        let preset = Preset::open("pentium4").unwrap();
        let prices: &Prices = preset.prices(Variant::Mid);
        let account = |part: &[(usize, usize, u64)]| {
            let mut a = Account::default();
            for &(side, event, n) in part {
                a.set_side(Side::ALL[side]);
                a.add(Event::ALL[event], n);
            }
            prices.price(&a)
        };
        let whole = account(&counts);
        prop_assert_eq!(Side::ALL.iter().map(|&s| whole.side(s)).sum::<u64>(), whole.total());
        prop_assert_eq!(Cause::ALL.iter().map(|&c| whole.cause(c)).sum::<u64>(), whole.total());
        let split = split.min(counts.len());
        let halves = account(&counts[..split]).total() + account(&counts[split..]).total();
        let cells = (Side::COUNT * Cause::COUNT) as u64;
        prop_assert!(halves.abs_diff(whole.total()) <= cells);
    }

    /// Whatever the text, reading it ends in a preset or in one error.
    #[test]
    fn hostile_text_never_panics(text in "\\PC{0,200}", cut in 0usize..20_000) {
        let _ = Preset::from_text("t", &text);
        let shipped = include_str!("../../../presets/cpu/pentium4.toml");
        let cut = (0..=cut.min(shipped.len())).rev().find(|&i| shipped.is_char_boundary(i)).unwrap_or(0);
        let _ = Preset::from_text("t", &shipped[..cut]);
        let _ = Preset::from_text("t", &format!("{}{text}{}", &shipped[..cut], &shipped[cut..]));
    }
}

/// Events that cost nothing are only counts, or their cost is in others; all others have a price.
#[test]
fn only_counts_are_free() {
    use Event::*;
    let counts = [
        Instructions,
        ItlbAccess,
        ItlbMiss,
        ItlbFlush,
        ItlbRemap,
        ItlbCold,
        ItlbCapacity,
        ItlbSpared,
        Itlb2Access,
        Itlb2Miss,
        DtlbAccess,
        DtlbMiss,
        DtlbFlush,
        DtlbRemap,
        DtlbCold,
        DtlbCapacity,
        DtlbSpared,
        Dtlb2Access,
        Dtlb2Miss,
        TcAccess,
        LoadL1,
        StoreL1,
        FetchL1,
        FlushSplit,
        FlushSwitch,
        FlushCr3,
        FlushInvlpg,
        FlushGlobal,
    ];
    let p3 = [TcMiss, PdpteLoad];
    let p4 = [PdpteL1, PdpteL2, PdpteL3, PdpteMemory, PdpteUncached];
    for (name, more) in [("pentium3", &p3[..]), ("pentium4", &p4)] {
        let preset = Preset::open(name).unwrap();
        for &event in Event::ALL {
            let free = preset.prices(Variant::Mid).get(event) == 0;
            let expected = counts.contains(&event) || more.contains(&event);
            assert_eq!(free, expected, "{name}: {event:?}");
        }
    }
}
