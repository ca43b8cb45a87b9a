//! Any bytes are an image that runs to an end or a limit, or an error.
//!
//! The first byte says how the rest is taken: as the file it is, as code of a ROM, as code of an ELF executable, and with which engine
//! it runs. Ten million instructions a case, each repetition of a string instruction counted as one. No input may panic or hang.
//!
//! `cargo +nightly fuzz run -s none image -- -max_len=65536 -timeout=60`; with the address sanitizer a case of the reference takes
//! most of a minute.
#![no_main]

use emu_cpu::Engine;
use libfuzzer_sys::fuzz_target;
use lowmem_machine::bare::{Bare, BareImage, BareOptions, ClockTime, Format, ImageRefused, uncounted};

/// Work of a case.
const WORK: u64 = 10_000_000;
/// Where code of an executable lies.
const LOAD: u32 = 0x10_0000;
/// Bytes of the headers before it.
const HEADERS: u32 = 52 + 32;

/// A ROM of `code` over and over, entered at F000:0000.
fn rom(code: &[u8]) -> Result<BareImage, ImageRefused> {
    let mut bytes: Vec<u8> = code.iter().copied().cycle().take(1 << 16).collect();
    bytes.resize(1 << 16, 0);
    bytes[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    BareImage::parse_as(bytes, Format::Rom)
}

/// An executable with one segment.
fn executable(code: &[u8]) -> Result<BareImage, ImageRefused> {
    let n = code.len() as u32;
    let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    bytes.extend([1, LOAD, 52, 0, 0].iter().flat_map(|w: &u32| w.to_le_bytes()));
    bytes.extend([52, 32, 1, 0, 0, 0].iter().flat_map(|h: &u16| h.to_le_bytes()));
    bytes.extend([1, HEADERS, LOAD, LOAD, n, n, 7, 1].iter().flat_map(|w: &u32| w.to_le_bytes()));
    bytes.extend(code);
    BareImage::parse_as(bytes, Format::Elf)
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, rest)) = input.split_first() else {
        return;
    };
    let image = match how & 3 {
        0 => BareImage::parse(rest.to_vec()),
        1 | 2 => rom(rest),
        _ => executable(rest),
    };
    let engine = match how & 4 {
        0 => Engine::Fast,
        _ => Engine::Reference,
    };
    let options = BareOptions {
        ram_bytes: 4 << 20,
        geometry: uncounted(),
        per_second: 1_000_000_000,
        engine,
        start: ClockTime::default(),
        serial_in: rest.iter().copied().take(64).collect(),
    };
    if let Ok(image) = image
        && let Ok(mut machine) = Bare::new(&image, &options)
    {
        machine.run(WORK);
        // A limit waits for the next interrupt point: at most a page of repeated string instructions away.
        assert!(machine.work() < WORK + (1 << 28));
    }
});
