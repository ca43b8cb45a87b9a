//! "Did you mean": the nearest known name to a mistyped one.
//!
//! Invariant: nothing is suggested that differs in more than a third of its letters.

/// `, did you mean "x"?` for the nearest of `known`, or an empty string when none is near.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    lowmem_cost::suggest::nearest(word, known)
        .map(|name| format!(", did you mean {name:?}?"))
        .unwrap_or_default()
}
