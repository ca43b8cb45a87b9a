//! What an image must contain (every probe) and must not (x87, MMX, SSE: the guest's compiler is told to avoid them, and the
//! kernel saves no such state).
//!
//! Probes are found as the decoder finds them: by their eight bytes. Invariant: text holds no data, so a linear sweep meets every
//! instruction.

use super::Error;
use super::rows::Row;
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Mnemonic};
use lowmem_abi::probe::{END, MAGIC, Probe};
use object::{Object, ObjectSection, SectionKind};
use std::collections::BTreeSet;

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes of text.
    pub(super) text_bytes: u32,
    /// Bytes of these that are probes.
    pub(super) probe_bytes: u32,
}

/// First id that counts; those below open and close a path.
const FIRST_COUNT: u16 = 32;

/// Probes of parts that do not exist yet: nothing maps pages by kmap (only by kmap_atomic).
const NOT_YET: &[Probe] = &[Probe::KmapWrap];

/// Checks an image.
pub(super) fn inspect(row: &Row, bytes: &[u8]) -> Result<Found, Error> {
    let bad = |reason: String| Error::Image {
        image: row.name.to_owned(),
        reason,
    };
    let elf = object::File::parse(bytes).map_err(|e| bad(e.to_string()))?;
    let mut ids = BTreeSet::new();
    let mut found = Found {
        text_bytes: 0,
        probe_bytes: 0,
    };
    for section in elf.sections().filter(|s| s.kind() == SectionKind::Text) {
        let text = section.data().map_err(|e| bad(e.to_string()))?;
        found.text_bytes += text.len() as u32;
        let mut decoder = Decoder::with_ip(32, text, section.address(), DecoderOptions::NONE);
        for instruction in &mut decoder {
            if instruction.is_invalid() {
                return Err(bad(format!("no instruction at {:#x}", instruction.ip())));
            }
            if instruction.mnemonic() == Mnemonic::Nop && instruction.len() == 8 {
                let id = instruction.memory_displacement32();
                if id & 0xffff_0000 == MAGIC {
                    ids.insert(id as u16);
                    found.probe_bytes += 8;
                }
                continue;
            }
            for feature in instruction.cpuid_features() {
                if !matches!(
                    feature,
                    CpuidFeature::INTEL8086
                        | CpuidFeature::INTEL186
                        | CpuidFeature::INTEL286
                        | CpuidFeature::INTEL386
                        | CpuidFeature::INTEL486
                        | CpuidFeature::INTEL8086_ONLY
                        | CpuidFeature::CMOV
                        | CpuidFeature::CX8
                        | CpuidFeature::MSR
                        | CpuidFeature::TSC
                        | CpuidFeature::SEP
                        | CpuidFeature::MULTIBYTENOP
                ) {
                    return Err(bad(format!(
                        "instruction of {feature:?} at {:#x}",
                        instruction.ip()
                    )));
                }
            }
        }
    }
    let missing: Vec<&str> = Probe::ALL
        .iter()
        .filter(|p| !NOT_YET.contains(p) && !row.without.contains(&p.name()))
        .filter(|p| {
            let id = **p as u16;
            !ids.contains(&id) || (id < FIRST_COUNT && !ids.contains(&(id | END)))
        })
        .map(|p| p.name())
        .collect();
    if !missing.is_empty() {
        return Err(bad(format!(
            "probes that do not occur: {}",
            missing.join(", ")
        )));
    }
    Ok(found)
}
