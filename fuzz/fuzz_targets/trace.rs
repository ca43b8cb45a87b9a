//! Any bytes given to the trace reader are a trace or an error.
//!
//! The input is tried as it is, and again with its CRCs made right, so that the checks behind them are reached. A trace that is accepted
//! is streamed and checked against the model, which may refuse it but must not panic.
//!
//! `cargo +nightly fuzz run trace -- -max_len=65536`, with `traces/*.lmt` as the first corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowmem_trace::Trace;

fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    }) ^ !0
}

/// Rows of the section table as (offset, stored length), as far as they lie in the file.
fn sections(bytes: &[u8]) -> Vec<(usize, usize, usize)> {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")) as usize);
    let count = word(12).unwrap_or(0).min(64);
    (0..count)
        .filter_map(|i| {
            let row = 32 + 32 * i;
            let (offset, len) = (word(row + 8)?, word(row + 16)?);
            (offset.checked_add(len)? <= bytes.len() && row + 32 <= bytes.len()).then_some((row, offset, len))
        })
        .collect()
}

fn repaired(input: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = input.to_vec();
    bytes.get(..32)?;
    bytes[..8].copy_from_slice(b"\x89LMT\r\n\x1a\n");
    let len = bytes.len() as u64;
    bytes[16..24].copy_from_slice(&len.to_le_bytes());
    for (row, offset, len) in sections(&bytes) {
        let crc = crc32(&bytes[offset..offset + len]);
        bytes[row + 28..row + 32].copy_from_slice(&crc.to_le_bytes());
    }
    let count = u32::from_le_bytes(bytes[12..16].try_into().ok()?) as usize;
    let crc = crc32(bytes.get(32..32usize.checked_add(count.checked_mul(32)?)?)?);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

fuzz_target!(|input: &[u8]| {
    for bytes in [Some(input.to_vec()), repaired(input)].into_iter().flatten() {
        if let Ok(trace) = Trace::from_bytes("fuzz", bytes) {
            assert_eq!(trace.ops().count() as u64, trace.len());
            let _ = trace.check(|_| {});
        }
    }
});
