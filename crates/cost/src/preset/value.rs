//! A value of a preset with its mark and source.
//!
//! Numbers are kept in thousandths, exactly as written: no binary fraction is ever involved.

use super::schema::{Key, Kind};
use std::fmt;

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Read in the source that is named.
    Verified,
    /// Computed from verified data; the source says how.
    Derived,
    /// From memory of a text that could not be opened.
    Recalled,
    /// Measured for this project.
    Measured,
    /// Nobody's figure: a guess that is said to be one.
    Assumption,
}

impl Mark {
    /// Every mark.
    pub const ALL: [Mark; 5] = [
        Mark::Verified,
        Mark::Derived,
        Mark::Recalled,
        Mark::Measured,
        Mark::Assumption,
    ];
    /// The word in a preset file.
    pub const fn name(self) -> &'static str {
        match self {
            Mark::Verified => "verified",
            Mark::Derived => "derived",
            Mark::Recalled => "recalled",
            Mark::Measured => "measured",
            Mark::Assumption => "assumption",
        }
    }
}

/// A number in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Milli(pub u64);

impl Milli {
    /// Reads `12`, `0.84`, `1_000`: at most three decimals, no sign.
    pub fn parse(text: &str) -> Option<Milli> {
        let text = text.replace('_', "");
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let fraction = fraction.trim_end_matches('0');
        if !digits(whole) || fraction.len() > 3 || !(fraction.is_empty() || digits(fraction)) {
            return None;
        }
        let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
        Some(Milli(
            whole
                .parse::<u64>()
                .ok()?
                .checked_mul(1000)?
                .checked_add(thousandths)?,
        ))
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 % 1000 {
            0 => (self.0 / 1000).to_string(),
            rest => format!("{}.{rest:03}", self.0 / 1000)
                .trim_end_matches('0')
                .to_owned(),
        };
        f.pad(&text)
    }
}

/// What a key is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number, with the ends of its bracket when it is uncertain.
    Number {
        /// The value used.
        mid: Milli,
        /// Low and high end of the bracket.
        bracket: Option<(Milli, Milli)>,
    },
    /// A word of a closed set.
    Word(String),
    /// A flag.
    Flag(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number { mid, bracket: None } => mid.fmt(f),
            Value::Number {
                mid,
                bracket: Some((low, high)),
            } => f.pad(&format!("{mid} ({low}-{high})")),
            Value::Word(word) => f.pad(word),
            Value::Flag(flag) => f.pad(if *flag { "true" } else { "false" }),
        }
    }
}

/// A value as stated somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// How far it can be trusted.
    pub mark: Mark,
    /// The source, or why the assumption.
    pub source: String,
    /// The preset or option that stated it.
    pub stated_by: String,
}

/// A scalar before it is known which key it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    /// Digits, perhaps with a point.
    Number(String),
    /// A string.
    Word(String),
    /// A boolean.
    Flag(bool),
}

impl Scalar {
    /// Reads an option's right-hand side: the key's kind says what it must be.
    pub(super) fn from_option(key: &Key, text: &str) -> Scalar {
        match key.kind {
            Kind::Integer(..) | Kind::Decimal(..) => Scalar::Number(text.to_owned()),
            Kind::Flag if text == "true" || text == "false" => Scalar::Flag(text == "true"),
            Kind::Flag | Kind::Word(_) => Scalar::Word(text.to_owned()),
        }
    }

    /// The number for `key`, or what is wrong with it.
    pub(super) fn number(&self, key: &Key) -> Result<Milli, String> {
        let (Kind::Integer(min, max) | Kind::Decimal(min, max)) = key.kind else {
            return Err(expected(key));
        };
        let Scalar::Number(text) = self else {
            return Err(expected(key));
        };
        let n = Milli::parse(text).ok_or_else(|| expected(key))?;
        let whole = matches!(key.kind, Kind::Decimal(..)) || n.0.is_multiple_of(1000);
        if !whole || n.0 < u64::from(min) * 1000 || n.0 > u64::from(max) * 1000 {
            return Err(expected(key));
        }
        Ok(n)
    }

    /// The value for `key`, or what is wrong with it.
    pub(super) fn value(&self, key: &Key) -> Result<Value, String> {
        match (key.kind, self) {
            (Kind::Integer(..) | Kind::Decimal(..), _) => Ok(Value::Number {
                mid: self.number(key)?,
                bracket: None,
            }),
            (Kind::Flag, Scalar::Flag(flag)) => Ok(Value::Flag(*flag)),
            (Kind::Word(words), Scalar::Word(word)) if words.contains(&word.as_str()) => {
                Ok(Value::Word(word.clone()))
            }
            (Kind::Flag | Kind::Word(_), _) => Err(expected(key)),
        }
    }
}

/// What a key's value must be.
fn expected(key: &Key) -> String {
    match key.kind {
        Kind::Integer(min, max) => format!("must be a whole number from {min} to {max}"),
        Kind::Decimal(min, max) => {
            format!("must be a number from {min} to {max} with at most three decimals")
        }
        Kind::Word(words) => format!("must be one of {}", words.join(", ")),
        Kind::Flag => "must be true or false".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_thousandths() {
        for (text, n) in [
            ("12", 12_000),
            ("0.84", 840),
            ("1_000", 1_000_000),
            ("9.50", 9_500),
        ] {
            assert_eq!(Milli::parse(text), Some(Milli(n)), "{text}");
        }
        for bad in ["", "-1", "1e3", "1.2345", ".5", "0x10", "inf", "1.x"] {
            assert_eq!(Milli::parse(bad), None, "{bad}");
        }
        assert_eq!(Milli(840).to_string(), "0.84");
        assert_eq!(Milli(1_266_000).to_string(), "1266");
    }
}
