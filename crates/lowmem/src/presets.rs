//! `lowmem presets`: name the CPU presets, or show one with the mark and source of every number.
//!
//! Invariant: every number that a preset states is shown.

use crate::cli::{PresetsArgs, PresetsCommand};
use crate::failure::Failure;
use crate::{axes, output};
use lowmem_cost::Preset;
use lowmem_cost::preset::Mark;
use lowmem_report::config::{Kernel, Rmap, Split};
use lowmem_report::kernels::{config_of, not_covered};
use lowmem_report::table::{WIDTH, wrap};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Schema of the JSON form.
const SCHEMA: &str = "lowmem.presets/1";

/// Columns of a name in the list: the longest has 14 letters.
const NAME: usize = 15;

/// Runs the subcommand.
pub(crate) fn run(args: &PresetsArgs) -> Result<ExitCode, Failure> {
    let text = match (&args.command, args.json) {
        (None | Some(PresetsCommand::List), false) => list()?,
        (None | Some(PresetsCommand::List), true) => list_json()?,
        (Some(PresetsCommand::Show { name, .. }), json) if name.parse::<Kernel>().is_ok() => {
            let kernel: Kernel = name.parse().expect("just parsed");
            match json {
                true => pretty(&kernel_json(kernel)),
                false => show_kernel(kernel),
            }
        }
        (Some(PresetsCommand::Show { name, set }), json) => {
            let mut preset = Preset::open(name)?;
            for (key, value) in axes::settings(set)? {
                preset = preset.set(&key, &value)?;
            }
            match json {
                true => pretty(&show_json(&preset)),
                false => show(&preset),
            }
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Marks counted: `84 verified, 12 derived, ...`.
fn marks(preset: &Preset) -> String {
    let count = |mark: Mark| preset.entries().filter(|(_, e)| e.mark == mark).count();
    let words: Vec<String> = Mark::ALL
        .into_iter()
        .filter(|&m| count(m) > 0)
        .map(|m| format!("{} {}", count(m), m.name()))
        .collect();
    words.join(", ")
}

fn list() -> Result<String, Failure> {
    let mut out = String::from("cpu\n");
    for name in Preset::built_in() {
        let preset = Preset::open(name)?;
        out.push_str(&format!("  {name:<NAME$} {}\n", preset.title()));
        out.push_str(&format!("  {:<NAME$} {}\n", "", marks(&preset)));
    }
    let mut axis = |title: &str, values: Vec<(&str, &str)>| {
        out.push_str(&format!("{title}\n"));
        for (name, sentence) in values {
            out.push_str(&format!("  {name:<NAME$} {sentence}\n"));
        }
    };
    axis("kernel", built(Kernel::VALUES, Kernel::sentence));
    axis("split", built(Split::VALUES, Split::sentence));
    axis("rmap", built(Rmap::VALUES, Rmap::sentence));
    Ok(out)
}

fn built<T: Copy>(
    values: &[(&'static str, T, lowmem_report::axis::Status)],
    sentence: fn(T) -> &'static str,
) -> Vec<(&'static str, &'static str)> {
    values
        .iter()
        .filter(|(.., status)| *status == lowmem_report::axis::Status::Built)
        .map(|(name, value, _)| (*name, sentence(*value)))
        .collect()
}

fn list_json() -> Result<String, Failure> {
    let presets: Vec<Value> = Preset::built_in()
        .map(|name| Preset::open(name).map(|p| show_json(&p)))
        .collect::<Result<_, _>>()?;
    Ok(pretty(&json!({ "schema": SCHEMA, "cpu": presets })))
}

/// A historic kernel: its axes, and what of it is not covered.
fn show_kernel(kernel: Kernel) -> String {
    let config = config_of(kernel);
    let mut out = format!("{kernel}: {}\n\n", kernel.sentence());
    for (axis, value) in axes::values(&config) {
        out.push_str(&format!("  {axis:<16}{value}\n"));
    }
    out.push_str("\nnot covered\n");
    for line in not_covered(kernel) {
        out.push_str(&item(line));
    }
    out
}

/// A list item, wrapped to the width of tables.
fn item(text: &str) -> String {
    let mut out = String::new();
    wrap(&mut out, "    ", text);
    out.replace_range(2..3, "-");
    out
}

fn kernel_json(kernel: Kernel) -> Value {
    json!({
        "schema": SCHEMA, "kernel": kernel.to_string(), "title": kernel.sentence(),
        "config": config_of(kernel), "not_covered": not_covered(kernel),
    })
}

fn show(preset: &Preset) -> String {
    let mut out = String::new();
    wrap(
        &mut out,
        "",
        &format!("{}: {}", preset.name(), preset.title()),
    );
    if !preset.inherits().is_empty() {
        out.push_str(&format!("inherits {}\n", preset.inherits().join(", ")));
    }
    out.push_str(&format!("{}\n", marks(preset)));
    let mut group = "";
    for (key, entry) in preset.entries() {
        let this = key.name.split_once('.').map_or("", |(g, _)| g);
        if this != group {
            out.push('\n');
            group = this;
        }
        let line = format!(
            "{:<30} {:>16} {:<12} {:<10}",
            key.name,
            entry.value.to_string(),
            key.unit,
            entry.mark.name()
        );
        // A long source goes below.
        match format!("{line} {}", entry.source) {
            whole if whole.chars().count() <= WIDTH => out.push_str(&format!("{whole}\n")),
            _ => {
                out.push_str(&format!("{}\n", line.trim_end()));
                wrap(&mut out, "    ", &entry.source);
            }
        }
    }
    out
}

fn show_json(preset: &Preset) -> Value {
    let entries: serde_json::Map<String, Value> = preset
        .entries()
        .map(|(key, e)| {
            let entry = json!({
                "value": e.value.to_string(), "unit": key.unit, "mark": e.mark.name(),
                "source": e.source, "stated_by": e.stated_by, "sentence": key.sentence,
            });
            (key.name.to_owned(), entry)
        })
        .collect();
    json!({
        "schema": SCHEMA, "name": preset.name(), "title": preset.title(),
        "inherits": preset.inherits(), "entries": entries,
    })
}
