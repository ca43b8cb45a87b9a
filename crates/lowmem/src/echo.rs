//! Reading configurations back: `--config FILE` takes a whole result, or the `config` object of one row.
//!
//! Invariant: what is read back is what was echoed; a key that is unknown or a value that is not one is an error with its
//! place.

use crate::failure::Failure;
use lowmem_report::Config;
use lowmem_trace::Assumptions;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    /// The configurations, in its order.
    pub(crate) configs: Vec<Config>,
    /// The assumptions, when the file is a whole result.
    pub(crate) assumptions: Option<Assumptions>,
}

/// Largest file read.
const MAX_BYTES: u64 = 64 << 20;

/// Reads `path`.
pub(crate) fn read(path: &Path) -> Result<Echo, Failure> {
    let fail = |message: String| Failure::ConfigFile {
        path: path.to_owned(),
        message,
    };
    // A device or pipe has no size to ask for: the limit is on what is read.
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(|e| fail(e.to_string()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(fail(format!("more than {MAX_BYTES} bytes")));
    }
    let value: Value = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
    let Some(results) = value.get("results") else {
        let config =
            serde_json::from_str(&text).map_err(|e| fail(format!("not a configuration: {e}")))?;
        return Ok(Echo {
            configs: vec![config],
            assumptions: None,
        });
    };
    match value.get("schema").and_then(Value::as_str) {
        Some(lowmem_report::result::SCHEMA) => {}
        other => {
            let found = other.unwrap_or("none");
            let known = lowmem_report::result::SCHEMA;
            return Err(fail(format!("schema {found}, not {known}")));
        }
    }
    let rows = results
        .as_array()
        .filter(|rows| !rows.is_empty())
        .ok_or_else(|| fail("results: must be a list with at least one row".to_owned()))?;
    let configs = rows.iter().enumerate().map(|(i, row)| {
        let config = row.get("config").cloned().unwrap_or_default();
        serde_json::from_value(config).map_err(|e| fail(format!("results[{i}].config: {e}")))
    });
    let assumptions = match value.get("trace").and_then(|t| t.get("assumptions")) {
        None => None,
        Some(value) => Some(
            serde_json::from_value(value.clone())
                .map_err(|e| fail(format!("trace.assumptions: {e}")))?,
        ),
    };
    Ok(Echo {
        configs: configs.collect::<Result<_, _>>()?,
        assumptions,
    })
}
