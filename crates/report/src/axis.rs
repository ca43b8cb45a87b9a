//! The axes of a configuration: closed sets of named values.
//!
//! An axis lists every value of the design, also those that no machine can run yet: asking for one of these is
//! answered with "not yet" and the name, not with "unknown". Invariant: `parse(name(v)) == v` for every built value.

use crate::suggest::suggestion;

/// Why a value of an axis cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AxisError {
    /// The value is planned, but no machine can run it.
    #[error("{axis} {value}: not yet")]
    NotYet {
        /// The axis.
        axis: &'static str,
        /// The value asked for.
        value: String,
    },
    /// The axis has no such value.
    #[error("unknown {axis} {value:?}{hint} (one of {known})")]
    Unknown {
        /// The axis.
        axis: &'static str,
        /// The value asked for.
        value: String,
        /// `, did you mean ...?` or nothing.
        hint: String,
        /// The values there are.
        known: String,
    },
}

/// Looks `value` up among `values`: (name, member, can be run).
pub(crate) fn parse<T: Copy>(
    axis: &'static str,
    value: &str,
    values: &[(&'static str, T, Status)],
) -> Result<T, AxisError> {
    match values.iter().find(|(name, ..)| *name == value) {
        Some((_, member, Status::Built)) => Ok(*member),
        Some((_, _, Status::Planned)) => Err(AxisError::NotYet {
            axis,
            value: value.to_owned(),
        }),
        None => {
            let built: Vec<&str> = values
                .iter()
                .filter(|(.., s)| *s == Status::Built)
                .map(|(name, ..)| *name)
                .collect();
            Err(AxisError::Unknown {
                axis,
                value: value.to_owned(),
                hint: suggestion(value, values.iter().map(|(name, ..)| *name)),
                known: built.join(", "),
            })
        }
    }
}

/// Whether a value can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It can.
    Built,
    /// It is part of the design, and answered with "not yet".
    Planned,
}

/// Declares an axis: an enum whose members have a name and a [`Status`], with parsing and serde by name.
macro_rules! axis {
    (
        $(#[$outer:meta])*
        pub enum $Enum:ident ($axis:literal) {
            $( #[doc = $sentence:literal] $Variant:ident : $name:literal, $status:ident ; )*
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Enum { $( #[doc = $sentence] $Variant, )* }
        impl $Enum {
            /// The name of the axis.
            pub const AXIS: &'static str = $axis;
            /// Every value with its name and whether it can be run, default first.
            pub const VALUES: &'static [(&'static str, $Enum, $crate::axis::Status)] =
                &[ $( ($name, $Enum::$Variant, $crate::axis::Status::$status), )* ];
            /// The name of this value.
            pub const fn name(self) -> &'static str {
                match self { $( $Enum::$Variant => $name, )* }
            }
            /// One sentence about this value.
            pub const fn sentence(self) -> &'static str {
                match self { $( $Enum::$Variant => $sentence.trim_ascii_start(), )* }
            }
        }
        impl Default for $Enum {
            fn default() -> Self { Self::VALUES[0].1 }
        }
        impl std::str::FromStr for $Enum {
            type Err = $crate::axis::AxisError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                $crate::axis::parse(Self::AXIS, s, Self::VALUES)
            }
        }
        impl std::fmt::Display for $Enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
        impl serde::Serialize for $Enum {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.name())
            }
        }
        impl<'de> serde::Deserialize<'de> for $Enum {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = String::deserialize(d)?;
                s.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use axis;
