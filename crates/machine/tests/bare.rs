//! The bare machine against hostile images: random bytes in every format, on both engines.

use emu_cpu::Engine;
use lowmem_cost::Geometry;
use lowmem_machine::bare::{Bare, BareImage, BareOptions, ClockTime, End, Format};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// Work after which a case ends.
const WORK: u64 = 20_000;

fn options(engine: Engine) -> BareOptions {
    BareOptions {
        ram_bytes: 2 << 20,
        geometry: Geometry::pentium3(),
        per_second: 1_000_000_000,
        engine,
        start: ClockTime::default(),
        serial_in: b"input".to_vec(),
    }
}

/// What a run leaves.
#[derive(Debug, PartialEq)]
struct Left {
    end: Option<End>,
    dump: emu_cpu::Dump,
    account: lowmem_cost::Account,
    work: u64,
    output: Vec<u8>,
    memory: Vec<u8>,
}

fn run(image: &BareImage, engine: Engine) -> Left {
    let mut machine = Bare::new(image, &options(engine)).unwrap();
    let end = machine.run(WORK);
    let output = machine.board_mut().take_output();
    let cpu = machine.cpu();
    let mut memory = vec![0; 2 << 20];
    cpu.mmu.mem.read_bytes(emu_mmu::PhysAddr(0), &mut memory);
    Left {
        end,
        dump: cpu.dump(),
        account: cpu.mmu.account.clone(),
        work: machine.work(),
        output: output.into_iter().map(|(_, byte)| byte).collect(),
        memory,
    }
}

/// A ROM that begins with `code` at F000:0000, or at FFFF:0 if it is short, filled with `code` over and over.
fn rom(code: &[u8]) -> BareImage {
    let mut bytes: Vec<u8> = code.iter().copied().cycle().take(1 << 16).collect();
    bytes[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    BareImage::parse_as(bytes, Format::Rom).unwrap()
}

/// A flat image of `code` at 1 MiB.
fn flat(code: &[u8]) -> BareImage {
    let at = 0x10_0000u32;
    let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    for word in [1, at, 52, 0, 0] {
        bytes.extend(u32::to_le_bytes(word));
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    let n = code.len() as u32;
    for word in [1, 84, at, at, n, n, 7, 1] {
        bytes.extend(u32::to_le_bytes(word));
    }
    bytes.extend(code);
    BareImage::parse(bytes).unwrap()
}

/// Bytes that are more often instructions that do something.
fn code() -> impl Strategy<Value = Vec<u8>> {
    let chunk = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..8),
        // mov r32, imm32; prefixed string instructions; in and out; lgdt, lidt and their kin; moves to control registers.
        (0xb8..=0xbfu8, any::<[u8; 4]>()).prop_map(|(op, imm)| [vec![op], imm.to_vec()].concat()),
        (
            prop::sample::select(vec![
                0xa4u8, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xae, 0x6c, 0x6e
            ]),
            0xf2..=0xf3u8
        )
            .prop_map(|(op, rep)| vec![rep, op]),
        (0xe4..=0xe7u8, any::<u8>()).prop_map(|(op, port)| vec![op, port]),
        any::<[u8; 3]>().prop_map(|b| vec![0x0f, 0x01, b[0], b[1], b[2]]),
        (0x20..=0x23u8, any::<u8>()).prop_map(|(op, rm)| vec![0x0f, op, rm | 0xc0]),
        prop::sample::select(vec![
            vec![0xfbu8],
            vec![0xf4],
            vec![0xcf],
            vec![0x66],
            vec![0x67],
            vec![0x9d],
            vec![0xeb, 0xf0]
        ]),
    ];
    prop::collection::vec(chunk, 1..40).prop_map(|chunks| chunks.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn engines_agree_on_random_code(code in code(), real in any::<bool>()) {
        let image = if real { rom(&code) } else { flat(&code) };
        let fast = run(&image, Engine::Fast);
        let reference = run(&image, Engine::Reference);
        prop_assert!(fast.memory == reference.memory, "memory differs");
        let small = |left: Left| Left { memory: Vec::new(), ..left };
        prop_assert_eq!(small(fast), small(reference));
    }

    #[test]
    fn any_bytes_are_an_image_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..300), shape in 0..3u8) {
        if shape == 1 && bytes.len() > 20 {
            bytes[..20].copy_from_slice(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0");
        }
        if shape == 2 && bytes.len() > 12 {
            let (magic, flags) = (0x1bad_b002u32, 1 << 16);
            let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
            for (i, word) in [magic, flags, sum].into_iter().enumerate() {
                bytes[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        for format in [Format::Multiboot, Format::Elf, Format::Rom] {
            let _ = BareImage::parse_as(bytes.clone(), format);
        }
        if let Ok(image) = BareImage::parse(bytes)
            && let Ok(mut machine) = Bare::new(&image, &options(Engine::Fast))
        {
            machine.run(WORK);
        }
    }
}

/// The fuzz target's work a case, in the tree: `cargo test --release -p lowmem-machine --test bare -- --ignored`.
#[test]
#[ignore = "a minute"]
fn random_code_runs_for_ten_million_instructions() {
    const MOST: u64 = 10_000_000;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut ends = std::collections::BTreeMap::new();
    for case in 0..200 {
        let code = code().new_tree(&mut runner).unwrap().current();
        let image = if case % 2 == 0 {
            rom(&code)
        } else {
            flat(&code)
        };
        let mut machine = Bare::new(&image, &options(Engine::Fast)).unwrap();
        let end = machine.run(MOST).map(|end| format!("{end:?}"));
        let kind = end.map_or("limit".to_owned(), |e| e.chars().take(8).collect());
        *ends.entry(kind).or_insert(0) += 1;
        assert!(machine.work() < MOST + (1 << 28));
    }
    println!("{ends:?}");
}

/// Every slice length gives the same run.
#[test]
fn slices_change_nothing() {
    // mov ecx, 1000; again: push ecx; rep stosb; pop ecx; loop again; hlt
    let code = [
        0xb9, 0xe8, 3, 0, 0, 0xbc, 0, 0, 9, 0, 0xbf, 0, 0, 0x14, 0, 0x51, 0xf3, 0xaa, 0x59, 0xe2,
        0xfa, 0xf4,
    ];
    let image = flat(&code);
    let whole = {
        let mut m = Bare::new(&image, &options(Engine::Fast)).unwrap();
        assert_eq!(m.run(u64::MAX), Some(End::Halted));
        (m.cpu().dump(), m.cpu().mmu.account.clone(), m.work())
    };
    for slice in [1, 2, 7, 1000] {
        let mut m = Bare::new(&image, &options(Engine::Fast)).unwrap();
        while m.run(slice).is_none() {}
        assert_eq!(
            (m.cpu().dump(), m.cpu().mmu.account.clone(), m.work()),
            whole
        );
    }
    let mut m = Bare::new(&image, &options(Engine::Fast)).unwrap();
    let mut line = String::new();
    while m.trace_one(&mut line).is_none() {
        line.clear();
    }
    assert_eq!(
        (m.cpu().dump(), m.cpu().mmu.account.clone(), m.work()),
        whole
    );
}
