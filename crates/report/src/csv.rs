//! A result as CSV: one line per configuration, every scalar of the JSON row a column named by its path; of a measure's result, one
//! line per row of its tables.
//!
//! The columns are those of the JSON document, so the two cannot disagree. Invariant: the header is the same for every
//! row, because the JSON's keys are always all present.

use crate::result::Document;
use serde_json::Value;

/// The document as CSV with a header, RFC 4180 quoting, line feeds.
pub fn render(document: &Document) -> String {
    let value = |row| serde_json::to_value(row).expect("a row has string keys");
    let rows: Vec<Value> = document.results.iter().map(value).collect();
    render_rows(&rows)
}

/// JSON objects with equal keys as CSV: one line each.
pub fn render_rows(rows: &[Value]) -> String {
    let mut out = rows.first().map_or_else(String::new, header);
    for row in rows {
        out.push_str(&line(row));
    }
    out
}

/// The line of column names for rows like this one.
fn header(row: &Value) -> String {
    join(cells(row).iter().map(|(name, _)| name))
}

/// One row.
fn line(row: &Value) -> String {
    join(cells(row).iter().map(|(_, value)| value))
}

/// Results that hold tables: one line per row of a table, after the columns of its result; the column `table` has its name. A
/// column is there if any line has it, and empty where a line has not.
pub fn tables(results: &[Value]) -> String {
    let mut lines: Vec<Cells> = Vec::new();
    for result in results {
        let (tables, own) = split(result);
        let own = cells(&own);
        if tables.is_empty() {
            lines.push(own);
            continue;
        }
        for (name, rows) in tables {
            for row in rows {
                let mut line = own.clone();
                line.push(("table".to_owned(), name.clone()));
                line.extend(cells(row));
                lines.push(line);
            }
        }
    }
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in lines.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // An object that is null in some lines is no column there: its parts are.
    let filled = |name: &String| {
        lines
            .iter()
            .flatten()
            .any(|(n, v)| n == name && !v.is_empty())
    };
    let of_object = |name: &String| {
        let prefix = format!("{name}.");
        !filled(name) && names.iter().any(|n| n.starts_with(&prefix))
    };
    let names: Vec<&String> = names.iter().copied().filter(|n| !of_object(n)).collect();
    let mut out = join(names.iter().copied());
    for line in &lines {
        let none = String::new();
        let cell = |name: &&String| line.iter().find(|(n, _)| n == *name).map(|(_, v)| v);
        out.push_str(&join(names.iter().map(|n| cell(n).unwrap_or(&none))));
    }
    out
}

/// A line's columns by name.
type Cells = Vec<(String, String)>;

/// The arrays of objects in a result, and the rest of it.
fn split(result: &Value) -> (Vec<(&String, &Vec<Value>)>, Value) {
    let (mut tables, mut own) = (Vec::new(), serde_json::Map::new());
    for (key, value) in result.as_object().into_iter().flatten() {
        match value.as_array() {
            Some(rows) if rows.iter().all(Value::is_object) => tables.push((key, rows)),
            _ => {
                own.insert(key.clone(), value.clone());
            }
        }
    }
    (tables, Value::Object(own))
}

fn cells(row: &Value) -> Cells {
    let mut out = Vec::new();
    flatten("", row, &mut out);
    out
}

fn join<'a>(cells: impl Iterator<Item = &'a String>) -> String {
    let quoted: Vec<String> = cells.map(|c| quote(c)).collect();
    format!("{}\n", quoted.join(","))
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
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            cells.push((path.to_owned(), items.join(" ")));
        }
        other => cells.push((path.to_owned(), other.to_string())),
    }
}

fn quote(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_of_tables_are_lines_after_the_columns_of_their_result() {
        let results = [
            json!({"a": {"x": 1}, "points": [{"n": 1, "end": "b,c"}, {"n": 2, "end": "d"}]}),
            json!({"a": {"x": 2}, "points": [{"n": 3, "end": "e"}], "removals": [{"n": 4}]}),
        ];
        assert_eq!(
            tables(&results),
            "a.x,table,end,n\n1,points,\"b,c\",1\n1,points,d,2\n2,points,e,3\n2,removals,,4\n"
        );
    }

    #[test]
    fn an_object_that_is_null_elsewhere_is_its_parts() {
        let results = [
            json!({"a": 1, "first": null}),
            json!({"a": 2, "first": {"page": 7, "free": [1, 2]}}),
        ];
        assert_eq!(tables(&results), "a,first.free,first.page\n1,,\n2,1 2,7\n");
    }
}
