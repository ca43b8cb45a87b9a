//! Operations as bytes: one explicit code per kind, then its fields by bincode's variable-length rule.
//!
//! Codes are append-only: a code is never reused and the fields behind it never change; a kind that needs
//! another field gets another code. bincode 2.0.1 is pinned and stands behind this table, so that its own
//! numbering of variants is never part of the format.
//!
//! Invariant: decoding what was encoded gives the same operation, and every code not in the tables is an error.

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{AllowedEnumVariants, DecodeError, EncodeError},
};

use crate::op::*;

/// The bincode rule of version 1, with a limit against lengths that lie.
pub(super) type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<{ super::layout::MAX_RAW_BYTES as usize }>,
>;

/// The value of [`Config`].
pub(super) const fn config() -> Config {
    bincode::config::standard().with_limit::<{ super::layout::MAX_RAW_BYTES as usize }>()
}

fn unknown<T>(type_name: &'static str, found: u8) -> Result<T, DecodeError> {
    Err(DecodeError::UnexpectedVariant {
        type_name,
        allowed: &AllowedEnumVariants::Range { min: 0, max: 0xff },
        found: u32::from(found),
    })
}

/// A one-byte enum: code = discriminant.
macro_rules! wire_byte {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        impl Encode for $name {
            fn encode<E: Encoder>(&self, e: &mut E) -> Result<(), EncodeError> {
                (*self as u8).encode(e)
            }
        }
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
                match u8::decode(d)? {
                    $(code if code == $name::$variant as u8 => Ok($name::$variant),)*
                    code => unknown(stringify!($name), code),
                }
            }
        }
    };
}

wire_byte!(Access { Read, Write, Exec });
wire_byte!(Origin { User, Kernel });
wire_byte!(Span { Page, Around });
wire_byte!(SliceEnd {
    Sleep,
    Preempt,
    Exit,
    Forced
});
wire_byte!(Advice {
    Normal,
    Random,
    Sequential,
    WillNeed,
    DontNeed,
    Other
});
wire_byte!(MappingKind {
    Text,
    Data,
    Bss,
    Stack,
    Heap,
    Special,
    Shared
});

/// A struct or newtype: its fields in order.
macro_rules! wire_struct {
    ($name:ident { $($field:tt),* $(,)? }) => {
        impl Encode for $name {
            fn encode<E: Encoder>(&self, e: &mut E) -> Result<(), EncodeError> {
                $(self.$field.encode(e)?;)*
                Ok(())
            }
        }
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
                Ok($name { $($field: Decode::decode(d)?),* })
            }
        }
    };
}

wire_struct!(TaskId { 0 });
wire_struct!(FileId { 0 });
wire_struct!(SegmentId { 0 });
wire_struct!(Prot { 0 });
wire_struct!(MapFlags { 0 });
wire_struct!(RemapFlags { 0 });
wire_struct!(FileRef { file, page_offset });

impl Encode for ExecMapping {
    fn encode<E: Encoder>(&self, e: &mut E) -> Result<(), EncodeError> {
        (
            self.start, self.end, self.prot, self.flags, self.file, self.kind,
        )
            .encode(e)
    }
}

impl<C> Decode<C> for ExecMapping {
    fn decode<D: Decoder<Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
        let (start, end, prot, flags, file, kind) = Decode::decode(d)?;
        Ok(Self {
            start,
            end,
            prot,
            flags,
            file,
            kind,
        })
    }
}

impl Encode for ExecImage {
    fn encode<E: Encoder>(&self, e: &mut E) -> Result<(), EncodeError> {
        self.name.encode(e)?;
        self.mappings.encode(e)?;
        (self.brk, self.stack_top).encode(e)
    }
}

impl<C> Decode<C> for ExecImage {
    fn decode<D: Decoder<Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
        let name = Decode::decode(d)?;
        let mappings = Decode::decode(d)?;
        let (brk, stack_top) = Decode::decode(d)?;
        Ok(Self {
            name,
            mappings,
            brk,
            stack_top,
        })
    }
}

/// An enum of struct variants: code, then the fields in order.
macro_rules! wire_enum {
    ($name:ident { $($code:literal => $variant:ident { $($field:ident),* }),* $(,)? }) => {
        impl Encode for $name {
            fn encode<E: Encoder>(&self, e: &mut E) -> Result<(), EncodeError> {
                match self {
                    $(Self::$variant { $($field),* } => {
                        <u8 as Encode>::encode(&$code, e)?;
                        $($field.encode(e)?;)*
                    })*
                }
                Ok(())
            }
        }
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
                match u8::decode(d)? {
                    $($code => {
                        $(let $field = Decode::decode(d)?;)*
                        Ok(Self::$variant { $($field),* })
                    })*
                    code => unknown(stringify!($name), code),
                }
            }
        }
    };
}

wire_enum!(Call {
    1 => Mmap { hint, len, prot, flags, file, result },
    2 => Munmap { addr, len },
    3 => Mprotect { addr, len, prot },
    4 => Mremap { old, old_len, new_len, flags, new_addr, result },
    5 => Brk { addr, result },
    6 => Madvise { addr, len, advice },
    7 => Mlock { addr, len },
    8 => Munlock { addr, len },
    9 => RemapFilePages { addr, len, page_offset },
    10 => Shmget { segment, len },
    11 => Shmat { segment, hint, prot, result },
    12 => Shmdt { addr },
    13 => Fork { child },
    14 => Vfork { child },
    15 => Clone { child },
    16 => Exec { image },
    17 => Exit {},
    18 => Wait { child },
    19 => Other { nr, bytes_in, bytes_out },
    20 => Failed { nr },
    21 => FileWrite { file, position, addr, len },
    22 => Fsync { file },
    23 => Truncate { file, len },
});

const OP_TOUCH: u8 = 1;
const OP_FETCH: u8 = 2;
const OP_LOAD: u8 = 3;
const OP_STORE: u8 = 4;
const OP_MODIFY: u8 = 5;
const OP_WORK: u8 = 6;
const OP_CALL: u8 = 7;
const OP_SWITCH: u8 = 8;

impl Encode for Op {
    fn encode<E: Encoder>(&self, e: &mut E) -> Result<(), EncodeError> {
        match self {
            Self::Touch {
                va,
                ip,
                access,
                origin,
                span,
            } => {
                // One byte for three small fields: touches are most of a recording.
                let how = *access as u8 | (*origin as u8) << 2 | (*span as u8) << 3;
                (OP_TOUCH, how, *va, *ip).encode(e)
            }
            Self::Fetch { va, len } => (OP_FETCH, *len, *va).encode(e),
            Self::Load { va, len } => (OP_LOAD, *len, *va).encode(e),
            Self::Store { va, len } => (OP_STORE, *len, *va).encode(e),
            Self::Modify { va, len } => (OP_MODIFY, *len, *va).encode(e),
            Self::Work { instructions } => (OP_WORK, *instructions).encode(e),
            Self::Call(call) => {
                OP_CALL.encode(e)?;
                call.encode(e)
            }
            Self::Switch { to, how } => (OP_SWITCH, *how, *to).encode(e),
        }
    }
}

impl<C> Decode<C> for Op {
    fn decode<D: Decoder<Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
        Ok(match u8::decode(d)? {
            OP_TOUCH => {
                let how = u8::decode(d)?;
                let access = match how & 3 {
                    0 => Access::Read,
                    1 => Access::Write,
                    2 => Access::Exec,
                    _ => return unknown("Access", how),
                };
                let origin = if how & 4 == 0 {
                    Origin::User
                } else {
                    Origin::Kernel
                };
                let span = if how & 8 == 0 {
                    Span::Page
                } else {
                    Span::Around
                };
                if how >> 4 != 0 {
                    return unknown("Touch", how);
                }
                Self::Touch {
                    va: Decode::decode(d)?,
                    ip: Decode::decode(d)?,
                    access,
                    origin,
                    span,
                }
            }
            code @ OP_FETCH..=OP_MODIFY => {
                let len = u8::decode(d)?;
                let va = Decode::decode(d)?;
                match code {
                    OP_FETCH => Self::Fetch { va, len },
                    OP_LOAD => Self::Load { va, len },
                    OP_STORE => Self::Store { va, len },
                    _ => Self::Modify { va, len },
                }
            }
            OP_WORK => Self::Work {
                instructions: Decode::decode(d)?,
            },
            OP_CALL => Self::Call(Box::new(Decode::decode(d)?)),
            OP_SWITCH => {
                let how = Decode::decode(d)?;
                Self::Switch {
                    to: Decode::decode(d)?,
                    how,
                }
            }
            code => return unknown("Op", code),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((op, used)) = bincode::decode_from_slice::<Op, _>(&bytes, config()) {
                prop_assert!(used <= bytes.len());
                let again = bincode::encode_to_vec(&op, config()).unwrap();
                let (same, _) = bincode::decode_from_slice::<Op, _>(&again, config()).unwrap();
                prop_assert_eq!(op, same);
            }
        }

        #[test]
        fn calls_with_any_fields_decode_or_fail(code in 0u8..27, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let all: Vec<u8> = [OP_CALL, code].into_iter().chain(bytes).collect();
            let _ = bincode::decode_from_slice::<Op, _>(&all, config());
        }
    }
}
