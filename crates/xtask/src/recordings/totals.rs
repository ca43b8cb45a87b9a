//! A trace's totals against `totals.json`, the output of the recordings' own reference replay.
//!
//! Invariant: every total of the file is compared but those that name no count (`seconds`, `top_syscalls`, names of programs).

use super::Error;
use lowmem_trace::Trace;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Totals that are no counts of the trace.
const NOT_COMPARED: [&str; 6] = [
    "name",
    "seconds",
    "top_syscalls",
    "max_vmas_comm",
    "footprint_comm",
    "fits_3G",
];

/// What `totals.json` says, by name of the recording.
#[derive(Debug, Default)]
pub(crate) struct Totals(BTreeMap<String, Value>);

impl Totals {
    /// Reads the file of `folder`; without one there is nothing to compare with.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join("totals.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let all: Vec<Value> = serde_json::from_str(&text).map_err(|e| Error::Totals {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        let name = |v: &Value| v["name"].as_str().map(str::to_owned);
        let entries = all.into_iter().filter_map(|v| match &v {
            Value::Object(_) => Some((name(&v)?, v)),
            // One file of a group: NAME.PID.lackey.xz.
            Value::Array(files) => {
                let first = name(files.first()?)?;
                Some((first.split('.').next()?.to_owned(), v))
            }
            _ => None,
        });
        Ok(Some(Self(entries.collect())))
    }

    /// Where the trace's totals differ, in words, and how many were compared.
    pub(crate) fn compare(&self, trace: &Trace) -> (Vec<String>, u32) {
        let (mut wrong, mut compared) = (Vec::new(), 0);
        match self.0.get(trace.name()) {
            None => wrong.push("totals.json has no such recording".to_owned()),
            Some(Value::Array(files)) => {
                for file in files.iter().filter_map(Value::as_object) {
                    let pid = file["name"].as_str().and_then(|n| n.split('.').nth(1));
                    let prefix = format!("{}.", pid.unwrap_or(""));
                    one(trace, &prefix, file, &mut wrong, &mut compared);
                }
            }
            Some(Value::Object(totals)) => one(trace, "", totals, &mut wrong, &mut compared),
            Some(_) => wrong.push("totals.json: neither totals nor a list of files".to_owned()),
        }
        (wrong, compared)
    }
}

fn one(
    trace: &Trace,
    prefix: &str,
    totals: &Map<String, Value>,
    wrong: &mut Vec<String>,
    compared: &mut u32,
) {
    let ours = &trace.header().totals;
    for (key, want) in totals {
        if NOT_COMPARED.contains(&key.as_str()) {
            continue;
        }
        let key = format!("{prefix}{key}");
        let count = || Value::from(ours.counts.get(&key).copied());
        let found = match want {
            Value::Object(_) => serde_json::to_value(&ours.max_sharers).unwrap_or(Value::Null),
            Value::String(_) => Value::from(format!("{:#x}", ours.get(&key))),
            _ => count(),
        };
        *compared += 1;
        if found != *want {
            wrong.push(format!("{key}: {want} wanted, {found} found"));
        }
    }
}
