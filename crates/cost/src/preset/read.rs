//! From TOML text to entries: every key known, every number with mark and source, every error with its line.
//!
//! Invariant: text is hostile; whatever it holds, the answer is entries or one error.

use super::schema::{self, KEYS};
use super::value::{Entry, Mark, Scalar, Value};
use super::{Place, PresetError};
use crate::suggest::nearest;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What one file states, before inheritance.
#[derive(Debug)]
pub(super) struct Stated {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) inherits: Option<String>,
    pub(super) entries: BTreeMap<&'static str, Entry>,
}

const TOP: [&str; 3] = ["name", "title", "inherits"];
const FIELDS: [&str; 5] = ["value", "low", "high", "mark", "source"];

/// Reads the text of a preset; `file` names it in errors.
pub(super) fn read(file: &str, text: &str) -> Result<Stated, PresetError> {
    let reader = Reader { file, text };
    let table = DeTable::parse(text).map_err(|e| PresetError::Syntax {
        at: reader.place(e.span().unwrap_or(0..0)),
        message: e.message().replace('\n', ", "),
    })?;
    let mut strings: BTreeMap<&str, String> = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        if let Some(known) = TOP.iter().find(|k| **k == name) {
            let text = value
                .get_ref()
                .as_str()
                .ok_or_else(|| reader.bad(value.span(), name, "must be a string".to_owned()))?;
            strings.insert(known, text.to_owned());
        } else {
            reader.flatten("", key, value, &mut entries)?;
        }
    }
    let name = strings
        .remove("name")
        .ok_or_else(|| reader.bad(0..0, "name", "is missing".to_owned()))?;
    for entry in entries.values_mut() {
        entry.stated_by.clone_from(&name);
    }
    Ok(Stated {
        title: strings.remove("title").unwrap_or_else(|| name.clone()),
        inherits: strings.remove("inherits"),
        name,
        entries,
    })
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or("");
        Place {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.len() - before.rfind('\n').map_or(0, |i| i + 1) + 1,
        }
    }

    fn bad(&self, span: Range<usize>, key: &str, message: String) -> PresetError {
        PresetError::Value {
            at: self.place(span),
            key: key.to_owned(),
            message,
        }
    }

    fn unknown<'k>(
        &self,
        span: Range<usize>,
        key: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> PresetError {
        PresetError::UnknownKey {
            at: self.place(span),
            key: key.to_owned(),
            hint: hint(key, known),
        }
    }

    /// Takes tables apart until a table with `value` is met.
    fn flatten<'i>(
        &self,
        prefix: &str,
        key: &Spanned<std::borrow::Cow<'i, str>>,
        value: &Spanned<DeValue<'i>>,
        entries: &mut BTreeMap<&'static str, Entry>,
    ) -> Result<(), PresetError> {
        let name = format!("{prefix}{}", key.get_ref());
        let known = schema::key(&name);
        let Some(table) = value.get_ref().as_table() else {
            return Err(match known {
                Some(_) => self.bad(
                    value.span(),
                    &name,
                    "must be { value = ..., mark = \"...\", source = \"...\" }".to_owned(),
                ),
                None => self.unknown(key.span(), &name, names()),
            });
        };
        if let Some(known) = known {
            let entry = self.entry(known, value.span(), table)?;
            entries.insert(known.name, entry);
            return Ok(());
        }
        let group = format!("{name}.");
        if !KEYS.iter().any(|k| k.name.starts_with(&group)) {
            return Err(self.unknown(key.span(), &name, names().into_iter().chain(groups())));
        }
        for (key, value) in table {
            self.flatten(&group, key, value, entries)?;
        }
        Ok(())
    }

    fn entry(
        &self,
        key: &schema::Key,
        span: Range<usize>,
        table: &DeTable<'_>,
    ) -> Result<Entry, PresetError> {
        let mut fields: BTreeMap<&str, (Scalar, Range<usize>)> = BTreeMap::new();
        for (field, value) in table {
            let name = field.get_ref().as_ref();
            let Some(known) = FIELDS.iter().find(|f| **f == name) else {
                let full = format!("{}.{name}", key.name);
                return Err(PresetError::UnknownKey {
                    at: self.place(field.span()),
                    key: full,
                    hint: hint(name, FIELDS),
                });
            };
            let scalar = match value.get_ref() {
                DeValue::Integer(n) if n.radix() == 10 => Scalar::Number(n.as_str().to_owned()),
                DeValue::Float(n) => Scalar::Number(n.as_str().to_owned()),
                DeValue::Boolean(b) => Scalar::Flag(*b),
                DeValue::String(s) => Scalar::Word(s.to_string()),
                _ => {
                    let message = format!("{name} must be a decimal number, a word or a flag");
                    return Err(self.bad(value.span(), key.name, message));
                }
            };
            fields.insert(known, (scalar, value.span()));
        }
        let text = |field: &str| match fields.get(field) {
            Some((Scalar::Word(text), _)) if !text.trim().is_empty() => Ok(text.clone()),
            Some((_, at)) => Err(self.bad(at.clone(), key.name, format!("{field} must be text"))),
            None => Err(self.bad(span.clone(), key.name, format!("{field} is missing"))),
        };
        let word = text("mark")?;
        let mark = Mark::ALL.into_iter().find(|m| m.name() == word);
        let mark = mark.ok_or_else(|| {
            let known: Vec<&str> = Mark::ALL.iter().map(|m| m.name()).collect();
            let message = format!("mark must be one of {}", known.join(", "));
            self.bad(fields["mark"].1.clone(), key.name, message)
        })?;
        let source = text("source")?;
        let Some((scalar, at)) = fields.get("value") else {
            return Err(self.bad(span, key.name, "value is missing".to_owned()));
        };
        let mut value = scalar
            .value(key)
            .map_err(|m| self.bad(at.clone(), key.name, m))?;
        match (fields.get("low"), fields.get("high"), &mut value) {
            (None, None, _) => {}
            (Some((low, a)), Some((high, b)), Value::Number { mid, bracket })
                if matches!(key.kind, schema::Kind::Decimal(..)) =>
            {
                let number = |s: &Scalar, at: &Range<usize>| {
                    s.number(key).map_err(|m| self.bad(at.clone(), key.name, m))
                };
                let (low, high) = (number(low, a)?, number(high, b)?);
                if low > *mid || high < *mid {
                    let message = "value must lie between low and high".to_owned();
                    return Err(self.bad(span, key.name, message));
                }
                *bracket = Some((low, high));
            }
            _ => {
                let message = "low and high go together, on a number of cycles".to_owned();
                return Err(self.bad(span, key.name, message));
            }
        }
        Ok(Entry {
            value,
            mark,
            source,
            stated_by: String::new(),
        })
    }
}

fn names() -> Vec<&'static str> {
    KEYS.iter().map(|k| k.name).collect()
}

fn groups() -> Vec<&'static str> {
    KEYS.iter()
        .filter_map(|k| k.name.split_once('.').map(|(group, _)| group))
        .collect()
}

/// `, did you mean ...?` or nothing.
pub(super) fn hint<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known)
        .map(|name| format!(", did you mean {name:?}?"))
        .unwrap_or_default()
}

/// The hint for an unknown schema key.
pub(super) fn key_hint(word: &str) -> String {
    hint(word, names())
}
