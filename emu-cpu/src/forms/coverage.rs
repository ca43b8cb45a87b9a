//! Every form the decoder can yield in 16- and 32-bit code has a handler, or is #UD for a reason
//! named here.
//!
//! All opcodes of the four legacy maps are decoded with every ModRM byte, under the prefixes that
//! choose forms, for both code sizes: whatever [`Code`] comes out is looked up as the translator
//! does. Invariant: the tables of reasons name nothing that has a handler.

use super::form;
use crate::decode::OPTIONS;
use iced_x86::{Code, CpuidFeature, Decoder, Instruction, Mnemonic};
use std::collections::{BTreeMap, BTreeSet};

/// What the processor has; instructions of every other extension are #UD (x87: #NM where CR0 says
/// so), because CPUID does not tell of it.
const PRESENT: &[CpuidFeature] = {
    use CpuidFeature::*;
    &[
        INTEL8086,
        INTEL8086_ONLY,
        INTEL186,
        INTEL286,
        INTEL286_ONLY,
        INTEL386,
        INTEL386_ONLY,
        INTEL486,
        CPUID,
        CX8,
        CMOV,
        TSC,
        MSR,
        SEP,
        PAUSE,
        MULTIBYTENOP,
        RDPMC,
    ]
};

/// Executed though they belong to SSE and SSE2: presets price them, and a guest may measure them.
const FENCES: [Mnemonic; 3] = [Mnemonic::Lfence, Mnemonic::Mfence, Mnemonic::Sfence];

/// Instructions of the family that are #UD all the same.
const UNDEFINED: &[(Mnemonic, &str)] = &[(
    Mnemonic::Rsm,
    "there is no system management mode to return from",
)];

/// Every instruction of the legacy maps.
fn every_instruction(mut see: impl FnMut(u32, &[u8], &Instruction)) {
    const PREFIXES: [&[u8]; 10] = [
        &[],
        &[0x66],
        &[0x67],
        &[0x66, 0x67],
        &[0xf2],
        &[0xf3],
        &[0x66, 0xf2],
        &[0x66, 0xf3],
        &[0x67, 0xf3],
        &[0xf0],
    ];
    const MAPS: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    for bitness in [16, 32] {
        for prefix in PREFIXES {
            for map in MAPS {
                for rest in 0..=0xffffu16 {
                    let mut bytes = [1u8; 15];
                    let opcode = [prefix, map, &rest.to_be_bytes()].concat();
                    bytes[..opcode.len()].copy_from_slice(&opcode);
                    let i = Decoder::with_ip(bitness, &bytes, 0, OPTIONS).decode();
                    if i.code() != Code::INVALID {
                        see(bitness, &bytes, &i);
                    }
                }
            }
        }
    }
}

fn reason(i: &Instruction) -> Option<String> {
    if FENCES.contains(&i.mnemonic()) {
        return None;
    }
    if let Some((_, why)) = UNDEFINED.iter().find(|(m, _)| *m == i.mnemonic()) {
        return Some((*why).to_owned());
    }
    i.cpuid_features()
        .iter()
        .find(|f| !PRESENT.contains(f))
        .map(|f| format!("CPUID tells no {f:?}"))
}

#[test]
fn every_form_has_a_handler_or_a_reason() {
    let mut handled = BTreeSet::new();
    let mut contradicted = BTreeSet::new();
    let mut absent: BTreeMap<usize, String> = BTreeMap::new();
    let mut missing: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    every_instruction(|_, bytes, i| {
        let found = form(i.mnemonic()).and_then(|f| (f.pick)(i)).is_some();
        let name = format!("{:?}", i.code());
        match (found, reason(i)) {
            (true, None) => {
                handled.insert(i.code() as usize);
            }
            (false, Some(why)) => {
                absent.insert(i.code() as usize, why);
            }
            (true, Some(why)) => {
                contradicted.insert(format!("{name} has a handler, but {why}"));
            }
            (false, None) => {
                missing
                    .entry(name)
                    .or_insert_with(|| bytes[..i.len()].to_vec());
            }
        }
    });
    assert!(contradicted.is_empty(), "{contradicted:#?}");
    assert!(
        missing.is_empty(),
        "{} forms: {missing:02x?}",
        missing.len()
    );
    // No form is both: the same code with other operands must not fall through.
    let both: Vec<_> = absent.keys().filter(|c| handled.contains(c)).collect();
    assert!(both.is_empty(), "{both:?}");
    // So that an empty enumeration cannot pass.
    assert!(handled.len() > 500, "{} forms have handlers", handled.len());
}
