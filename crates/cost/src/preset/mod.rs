//! CPU presets: what a CPU is (its [`Geometry`]) and what its events cost (its [`Prices`]), with a mark and a source for
//! every number.
//!
//! A preset is a TOML file of one schema ([`schema`]). It may inherit from another; what it states itself wins. Where
//! one quantity can be stated in cycles or in nanoseconds, stating one displaces an inherited other.
//!
//! | module | owns |
//! |---|---|
//! | [`schema`] | the keys |
//! | [`value`] | numbers, marks, sources |
//! | `read` | TOML to entries |
//! | `build` | entries to geometry, and to the numbers that prices are derived from |
//!
//! Invariant: a [`Preset`] that exists is complete; its geometry and prices were built once and cannot fail.

mod build;
mod read;
pub mod schema;
pub mod value;

use crate::{Geometry, Prices};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
pub use value::{Entry, Mark, Milli, Value};

pub(crate) use build::Numbers;

/// The presets that are built in: name and text.
const BUILT_IN: [(&str, &str); 2] = [
    (
        "pentium4",
        include_str!("../../../../presets/cpu/pentium4.toml"),
    ),
    (
        "pentium3",
        include_str!("../../../../presets/cpu/pentium3.toml"),
    ),
];

/// Presets of the design that have no file yet.
const PLANNED: [&str; 3] = ["pentium3-celeron525", "opteron", "zen4"];

/// Keys of which only one can hold: stating one removes an inherited other.
const ALTERNATIVES: [(&str, &str); 3] = [
    ("memory.open", "memory.open_ns"),
    ("memory.random", "memory.random_ns"),
    ("pdpte.load", "pdpte.each_ns"),
];

/// Longest chain of `inherits`.
const MAX_DEPTH: usize = 8;

/// Largest preset file read.
const MAX_BYTES: u64 = 1 << 20;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File or preset name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Why a preset cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// No built-in preset and no file of this name.
    #[error("unknown cpu preset {name:?}{hint} (built in: {known}; or a file ending in .toml)")]
    Unknown {
        /// The name asked for.
        name: String,
        /// `, did you mean ...?` or nothing.
        hint: String,
        /// The built-in names.
        known: String,
    },
    /// Part of the design, not written yet.
    #[error("cpu {name}: not yet")]
    NotYet {
        /// The name asked for.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read preset {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Not TOML.
    #[error("{at}: {message}")]
    Syntax {
        /// Where.
        at: Place,
        /// What the parser says.
        message: String,
    },
    /// A key that the schema does not have.
    #[error("{at}: unknown key {key:?}{hint}")]
    UnknownKey {
        /// Where.
        at: Place,
        /// The key.
        key: String,
        /// `, did you mean ...?` or nothing.
        hint: String,
    },
    /// A value that the schema does not allow.
    #[error("{at}: {key}: {message}")]
    Value {
        /// Where.
        at: Place,
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// `inherits` leads in a circle or too far.
    #[error("preset {name}: inherits more than {MAX_DEPTH} presets deep")]
    Depth {
        /// The preset asked for.
        name: String,
    },
    /// A number is missing or does not fit the others.
    #[error("preset {name}: {key}: {message}")]
    Incomplete {
        /// The preset.
        name: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        message: String,
    },
    /// `--set` with an unknown key.
    #[error("unknown preset key {key:?}{hint}")]
    UnknownSetting {
        /// The key.
        key: String,
        /// `, did you mean ...?` or nothing.
        hint: String,
    },
    /// `--set` with a value that the schema does not allow.
    #[error("{key}={value}: {message}")]
    Setting {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What is wrong.
        message: String,
    },
}

/// Which end of the brackets of uncertain numbers a price list takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// The low ends.
    Low,
    /// The values themselves.
    Mid,
    /// The high ends.
    High,
}

impl Variant {
    /// Every variant, low to high.
    pub const ALL: [Variant; 3] = [Variant::Low, Variant::Mid, Variant::High];
    /// Name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Variant::Low => "low",
            Variant::Mid => "mid",
            Variant::High => "high",
        }
    }
}

/// A CPU: geometry and prices.
#[derive(Debug, Clone)]
pub struct Preset {
    name: String,
    title: String,
    inherits: Vec<String>,
    entries: BTreeMap<&'static str, Entry>,
    geometry: Geometry,
    prices: [Prices; 3],
}

impl Preset {
    /// Names of the built-in presets, default first.
    pub fn built_in() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The built-in preset called `name`, or the one in the file `name` when that looks like a path.
    pub fn open(name: &str) -> Result<Preset, PresetError> {
        let stated = stated(name)?;
        let mut preset = (stated.name, stated.title, stated.entries);
        let mut chain = Vec::new();
        let mut parent = stated.inherits;
        while let Some(next) = parent {
            if chain.len() == MAX_DEPTH {
                return Err(PresetError::Depth { name: preset.0 });
            }
            let stated = stated_from(name, &next)?;
            inherit(&mut preset.2, stated.entries);
            chain.push(next);
            parent = stated.inherits;
        }
        Preset::build(preset.0, preset.1, chain, preset.2)
    }

    /// A preset from text, `file` naming it in errors. It may inherit built-in presets.
    pub fn from_text(file: &str, text: &str) -> Result<Preset, PresetError> {
        let stated = read::read(file, text)?;
        let mut entries = stated.entries;
        let mut chain = Vec::new();
        if let Some(parent) = stated.inherits {
            let base = Preset::open(&parent)?;
            inherit(&mut entries, base.entries);
            chain.push(parent);
            chain.extend(base.inherits);
        }
        Preset::build(stated.name, stated.title, chain, entries)
    }

    fn build(
        name: String,
        title: String,
        inherits: Vec<String>,
        entries: BTreeMap<&'static str, Entry>,
    ) -> Result<Preset, PresetError> {
        let geometry = build::geometry(&name, &entries)?;
        let price = |variant| build::numbers(&name, &entries, variant).map(|n| Prices::derive(&n));
        let prices = [
            price(Variant::Low)?,
            price(Variant::Mid)?,
            price(Variant::High)?,
        ];
        Ok(Preset {
            name,
            title,
            inherits,
            entries,
            geometry,
            prices,
        })
    }

    /// This preset with one number set on the command line. It is marked as an assumption and has no bracket.
    pub fn set(mut self, key: &str, text: &str) -> Result<Preset, PresetError> {
        let Some(known) = schema::key(key) else {
            return Err(PresetError::UnknownSetting {
                key: key.to_owned(),
                hint: read::key_hint(key),
            });
        };
        let value = value::Scalar::from_option(known, text)
            .value(known)
            .map_err(|message| PresetError::Setting {
                key: known.name,
                value: text.to_owned(),
                message,
            })?;
        let entry = Entry {
            value,
            mark: Mark::Assumption,
            source: "set on the command line".to_owned(),
            stated_by: "--set".to_owned(),
        };
        remove_alternative(&mut self.entries, known.name);
        self.entries.insert(known.name, entry);
        Preset::build(self.name, self.title, self.inherits, self.entries)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One line about it.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The presets it inherits from, nearest first.
    pub fn inherits(&self) -> &[String] {
        &self.inherits
    }

    /// What a key is set to, if it is.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Every entry in schema order.
    pub fn entries(&self) -> impl Iterator<Item = (&'static schema::Key, &Entry)> {
        schema::KEYS
            .iter()
            .filter_map(|k| self.entries.get(k.name).map(|e| (k, e)))
    }

    /// Which events happen.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What they cost.
    pub fn prices(&self, variant: Variant) -> &Prices {
        &self.prices[variant as usize]
    }

    /// The keys with a bracket: when there are none the variants are equal.
    pub fn brackets(&self) -> impl Iterator<Item = (&'static schema::Key, &Entry)> {
        self.entries().filter(|(_, e)| {
            matches!(
                e.value,
                Value::Number {
                    bracket: Some(_),
                    ..
                }
            )
        })
    }

    /// Instructions between two timer interrupts at `hz`: clock / HZ / cycles per instruction (`tick.cpi`, an
    /// assumption). Nothing that a replay does may depend on prices, so the tick is counted in instructions (D4).
    pub fn instructions_per_tick(&self, hz: u32) -> u64 {
        let per_second = self.milli("clock_mhz") * 1_000_000 / self.milli("tick.cpi").max(1);
        (per_second / u64::from(hz.max(1))).max(1)
    }

    /// A number of the disk, microseconds: `seek_us`, `rotation_us` or `page_us`.
    pub fn disk_us(&self, key: DiskKey) -> u64 {
        let key = match key {
            DiskKey::Seek => "disk.seek_us",
            DiskKey::Rotation => "disk.rotation_us",
            DiskKey::Page => "disk.page_us",
        };
        self.milli(key) / 1000
    }

    /// A number that `build` has asked for, in thousandths.
    fn milli(&self, key: &str) -> u64 {
        match self.entries.get(key).map(|e| &e.value) {
            Some(Value::Number { mid, .. }) => mid.0,
            _ => unreachable!("{key} is a number that build() has asked for"),
        }
    }
}

/// What a disk's time is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKey {
    /// Average seek.
    Seek,
    /// Half a revolution.
    Rotation,
    /// Transfer of 4 KB.
    Page,
}

/// Fills in what `entries` does not state itself.
fn inherit(entries: &mut BTreeMap<&'static str, Entry>, base: BTreeMap<&'static str, Entry>) {
    for (key, entry) in base {
        let displaced = ALTERNATIVES.iter().any(|(a, b)| {
            (key == *a && entries.contains_key(b)) || (key == *b && entries.contains_key(a))
        });
        if !displaced {
            entries.entry(key).or_insert(entry);
        }
    }
}

fn remove_alternative(entries: &mut BTreeMap<&'static str, Entry>, key: &str) {
    for (a, b) in ALTERNATIVES {
        if key == a {
            entries.remove(b);
        } else if key == b {
            entries.remove(a);
        }
    }
}

fn is_path(name: &str) -> bool {
    name.ends_with(".toml") || name.contains('/')
}

fn stated(name: &str) -> Result<read::Stated, PresetError> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(n, _)| *n == name) {
        return read::read(&format!("presets/cpu/{name}.toml"), text);
    }
    if PLANNED.contains(&name) {
        return Err(PresetError::NotYet {
            name: name.to_owned(),
        });
    }
    if !is_path(name) {
        return Err(PresetError::Unknown {
            name: name.to_owned(),
            hint: read::hint(name, Preset::built_in()),
            known: Preset::built_in().collect::<Vec<_>>().join(", "),
        });
    }
    let fail = |error| PresetError::Read {
        path: name.to_owned(),
        error,
    };
    // A device or pipe has no size to ask for: the limit is on what is read.
    let mut text = String::new();
    std::fs::File::open(name)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(fail)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(fail(std::io::Error::other(format!(
            "more than {MAX_BYTES} bytes"
        ))));
    }
    read::read(name, &text)
}

/// A parent named in the file `child`: relative to it when it is a path.
fn stated_from(child: &str, parent: &str) -> Result<read::Stated, PresetError> {
    if is_path(child) && is_path(parent) && Path::new(parent).is_relative() {
        let directory = Path::new(child).parent().unwrap_or(Path::new("."));
        return stated(&directory.join(parent).to_string_lossy());
    }
    stated(parent)
}
