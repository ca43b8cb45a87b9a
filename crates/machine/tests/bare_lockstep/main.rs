//! Fast engine and reference in lockstep over whole images, as `lowmem run` runs them.
//!
//! Two machines take the same slices of work; after each, registers, segments, events, output and devices' counts are
//! equal, and memory now and then and at the end. The images here are small ones of every kind of code. Any other image is
//! named by the environment, on this crate's longest test:
//!
//! `LOWMEM_IMAGE=bench.rom cargo test --release -p lowmem-machine --test bare_lockstep -- --ignored --nocapture`
//!
//! Invariant: the two machines share nothing but the image; the reference's MMU has no shortcuts.

mod images;

use emu_cpu::{Engine, Seg};
use emu_mmu::PhysAddr;
use lowmem_cost::Geometry;
use lowmem_cost::geometry::FrontEnd;
use lowmem_machine::bare::{Bare, BareImage, BareOptions, ClockTime, End, uncounted};

/// How a pair of machines is run.
struct Pair {
    ram: u64,
    geometry: Geometry,
    /// Work between two comparisons.
    slice: u64,
    /// Slices between two comparisons of memory.
    memory: u64,
    /// Work after which an image that goes on is left.
    most: u64,
}

/// What both came to.
#[derive(Debug)]
struct Same {
    end: Option<End>,
    instructions: u64,
    output: Vec<u8>,
    interrupts: u64,
}

fn small(geometry: Geometry) -> Pair {
    Pair {
        ram: 8 << 20,
        geometry,
        slice: 9_973,
        memory: 100,
        most: 20_000_000,
    }
}

fn trace_cache() -> Geometry {
    let mut g = Geometry::pentium3();
    g.front_end = FrontEnd::TraceCache {
        lines: 256,
        ways: 8,
        line_bytes: 32,
        flush_on_cr3: true,
    };
    g
}

fn machine(image: &BareImage, pair: &Pair, engine: Engine) -> Bare {
    let options = BareOptions {
        ram_bytes: pair.ram,
        geometry: pair.geometry.clone(),
        per_second: 50_000_000,
        engine,
        start: ClockTime::default(),
        serial_in: Vec::new(),
    };
    Bare::new(image, &options).unwrap()
}

/// All of RAM, a piece at a time.
fn compare_memory(a: &Bare, b: &Bare, ram: u64) {
    const PIECE: usize = 1 << 20;
    let (mut x, mut y) = (vec![0; PIECE], vec![0; PIECE]);
    for at in (0..ram).step_by(PIECE) {
        a.cpu().mmu.mem.read_bytes(PhysAddr(at), &mut x);
        b.cpu().mmu.mem.read_bytes(PhysAddr(at), &mut y);
        if x != y {
            let i = (0..PIECE).find(|&i| x[i] != y[i]).unwrap();
            panic!(
                "memory differs at {:#x}: {:#x} {:#x}",
                at + i as u64,
                x[i],
                y[i]
            );
        }
    }
}

fn compare(fast: &Bare, reference: &Bare) {
    let (a, b) = (fast.cpu(), reference.cpu());
    assert_eq!(a.dump(), b.dump());
    assert_eq!(a.dr, b.dr);
    assert_eq!(
        (a.gdtr, a.idtr, a.ldtr, a.tr),
        (b.gdtr, b.idtr, b.ldtr, b.tr)
    );
    for seg in Seg::ALL {
        assert_eq!(a.segment(seg), b.segment(seg), "{seg:?} at {}", a.dump());
    }
    assert_eq!(a.mmu.account, b.mmu.account, "at {}", a.dump());
    assert_eq!(fast.work(), reference.work());
    assert_eq!(fast.board().tally(), reference.board().tally());
}

/// Runs both to the end.
fn lockstep(image: &BareImage, pair: &Pair) -> Same {
    let mut fast = machine(image, pair, Engine::Fast);
    let mut reference = machine(image, pair, Engine::Reference);
    let mut output = Vec::new();
    let mut slices = 0;
    let end = loop {
        let end = fast.run(pair.slice);
        assert_eq!(end, reference.run(pair.slice), "at {}", fast.cpu().dump());
        compare(&fast, &reference);
        let written = fast.board_mut().take_output();
        assert_eq!(written, reference.board_mut().take_output());
        output.extend(written.into_iter().map(|(_, byte)| byte));
        slices += 1;
        if slices % pair.memory == 0 {
            compare_memory(&fast, &reference, pair.ram);
        }
        if end.is_some() || fast.work() >= pair.most {
            break end;
        }
    };
    compare_memory(&fast, &reference, pair.ram);
    Same {
        end,
        instructions: fast.cpu().retired(),
        output,
        interrupts: fast.board().tally().interrupts,
    }
}

#[test]
fn pae_paging_arithmetic_lists_strings_and_code_that_changes() {
    let image = images::protected();
    for geometry in [Geometry::pentium3(), trace_cache(), uncounted()] {
        let same = lockstep(&image, &small(geometry));
        assert_eq!(same.end, Some(End::Exit(1)));
        assert_eq!(same.output, images::protected_output());
        assert!(same.instructions > 1_000_000, "{same:?}");
    }
}

#[test]
fn real_mode_with_a_timer_in_a_segment_that_no_page_starts() {
    let image = images::real();
    for geometry in [Geometry::pentium3(), trace_cache()] {
        let same = lockstep(&image, &small(geometry));
        assert_eq!(same.end, Some(End::Exit(1)));
        assert_eq!(same.output, b"ok");
        assert!(same.interrupts > 100, "{same:?}");
        assert!(same.instructions > 400_000, "{same:?}");
    }
}

/// Both engines over an image of the user's.
#[test]
#[ignore = "needs LOWMEM_IMAGE; some minutes for 400 million instructions"]
fn image_of_the_environment() {
    let path = std::env::var("LOWMEM_IMAGE").expect("LOWMEM_IMAGE names an image");
    let image = BareImage::parse(std::fs::read(&path).unwrap()).unwrap();
    let pair = Pair {
        ram: 256 << 20,
        geometry: Geometry::pentium3(),
        slice: 1_000_003,
        memory: 64,
        most: 1 << 30,
    };
    let same = lockstep(&image, &pair);
    println!(
        "{path}: {:?} after {} instructions, {} interrupts, equal all the way",
        same.end, same.instructions, same.interrupts
    );
    println!(
        "{}",
        String::from_utf8_lossy(&same.output[..same.output.len().min(400)])
    );
}
