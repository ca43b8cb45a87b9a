//! A result as CSV: one line per configuration, every scalar of the JSON row a column named by its path.
//!
//! The columns are those of the JSON document, so the two cannot disagree. Invariant: the header is the same for every
//! row, because the JSON's keys are always all present.

use crate::result::Document;
use serde_json::Value;

/// The document as CSV with a header, RFC 4180 quoting, line feeds.
pub fn render(document: &Document) -> String {
    let rows = document.results.iter();
    let rows: Vec<Value> = rows
        .map(|row| serde_json::to_value(row).expect("a row has string keys"))
        .collect();
    render_rows(&rows)
}

/// JSON objects with equal keys as CSV: one line each.
pub fn render_rows(rows: &[Value]) -> String {
    let mut out = String::new();
    for (i, value) in rows.iter().enumerate() {
        let mut cells = Vec::new();
        flatten("", value, &mut cells);
        if i == 0 {
            let names: Vec<String> = cells.iter().map(|(name, _)| quote(name)).collect();
            out.push_str(&names.join(","));
            out.push('\n');
        }
        let values: Vec<String> = cells.iter().map(|(_, v)| quote(v)).collect();
        out.push_str(&values.join(","));
        out.push('\n');
    }
    out
}

/// Keys whose values are free-form maps: one cell, `key=value` pairs.
const MAPS: [&str; 2] = ["config.overrides", "config.cpu_overrides"];

fn flatten(path: &str, value: &Value, cells: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) if MAPS.contains(&path) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                .collect();
            cells.push((path.to_owned(), pairs.join(" ")));
        }
        Value::Object(map) => {
            for (key, value) in map {
                let path = match path {
                    "" => key.clone(),
                    _ => format!("{path}.{key}"),
                };
                flatten(&path, value, cells);
            }
        }
        Value::Null => cells.push((path.to_owned(), String::new())),
        Value::String(s) => cells.push((path.to_owned(), s.clone())),
        other => cells.push((path.to_owned(), other.to_string())),
    }
}

fn quote(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
