//! Prints the README's table of simulated cycles; with `--write FILE` it replaces what stands between the table's two
//! marker lines in FILE.

use lowmem_benches::table::{BEGIN, END, markdown, split};
use std::process::ExitCode;

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (None, _) => print!("{}", markdown()?),
        (Some("--write"), Some(file)) => {
            let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
            let (head, _, tail) = split(&text)
                .ok_or_else(|| format!("{file}: no line {BEGIN}, or no {END} behind it"))?;
            std::fs::write(&file, format!("{head}{BEGIN}\n{}{END}{tail}", markdown()?))?;
        }
        _ => return Err("usage: table [--write FILE]".into()),
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
