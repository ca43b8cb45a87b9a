//! `cargo xtask diff`: the emulated CPU against the host CPU, by random cases.
//!
//! The parent starts one worker process a job (an oracle owns its process's signals, LDT and low
//! addresses), adds up what they report once a second, and shows rate, time left and at the end the
//! coverage by form. A worker takes the batches of its number modulo the jobs, so the same command
//! compares the same cases. Invariant: exit status 0 only if no difference was found and, without
//! `--code`, every integer form was executed.

use iced_x86::Code;
use lowmem_diff::coverage::Count;
use lowmem_diff::exclude;
use lowmem_diff::minimise;
use lowmem_diff::session::{BATCH, Session, SetupError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Options of `cargo xtask diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Cases to compare (cases that cannot be compared come on top)
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Seed; a case is reproduced by seed and number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worker processes
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Only cases with this form in them, by the decoder's name (`Adc_rm32_r32`) or mnemonic (`Adc`)
    #[arg(long)]
    code: Option<String>,
    /// Run this one case again and show it
    #[arg(long, value_name = "NUMBER")]
    case: Option<u64>,
    /// Stop after this many differences (one is shown for each last instruction)
    #[arg(long, default_value_t = 1)]
    differences: usize,
    /// Print the result as JSON on stdout: counts of compared, generated, dropped (by reason) and unstable cases, ends by
    /// vector, `coverage` (by form: executed, and completed without a fault), `untested` forms, the table `excluded`
    #[arg(long)]
    json: bool,
    /// Be the worker of this number
    #[arg(long, hide = true)]
    worker: Option<u64>,
}

/// Why it ended otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No oracle.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Talking to a worker.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A worker said something else.
    #[error("worker's report: {0}")]
    Report(#[from] serde_json::Error),
    /// A worker ended without its last report.
    #[error("worker {0} died")]
    Died(u64),
    /// `--code`.
    #[error("no integer form is called {0}")]
    UnknownCode(String),
    /// The result.
    #[error("{0} differences")]
    Different(usize),
    /// Not all forms were executed.
    #[error("{0} integer forms were not executed")]
    Untested(usize),
}

/// What a worker has counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Totals {
    compared: u64,
    generated: u64,
    exits: u64,
    unstable: u64,
    vectors: BTreeMap<u8, u64>,
    dropped: BTreeMap<String, u64>,
}

/// Counts of a form, from a worker.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Executed {
    executed: u64,
    completed: u64,
}

/// A line from a worker.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Progress(Totals),
    Difference {
        number: u64,
        last: String,
        text: String,
    },
    Done(Totals, BTreeMap<String, Executed>),
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Result_<'a> {
    schema: &'static str,
    seed: u64,
    jobs: u64,
    #[serde(flatten)]
    totals: &'a Totals,
    differences: usize,
    untested: &'a [String],
    coverage: &'a BTreeMap<String, Executed>,
    excluded: Vec<(String, String, &'static str)>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let only = match &options.code {
        None => Vec::new(),
        Some(name) => forms(name)?,
    };
    if let Some(number) = options.case {
        return show(options, &only, number);
    }
    match options.worker {
        Some(worker) => work(options, &only, worker),
        None => lead(options, &only),
    }
}

fn forms(name: &str) -> Result<Vec<Code>, Error> {
    let found: Vec<Code> = exclude::integer_forms()
        .filter(|c| {
            format!("{c:?}").eq_ignore_ascii_case(name)
                || format!("{:?}", c.mnemonic()).eq_ignore_ascii_case(name)
        })
        .collect();
    match found.is_empty() {
        true => Err(Error::UnknownCode(name.to_owned())),
        false => Ok(found),
    }
}

/// One case, again.
fn show(options: &Options, only: &[Code], number: u64) -> Result<(), Error> {
    let mut session = Session::new(options.seed, only)?;
    match session.replay(number) {
        None => {
            println!("case {number} of seed {}: no difference", options.seed);
            Ok(())
        }
        Some(d) => {
            print!(
                "{}",
                minimise::describe(&mut session, options.seed, &d, &d.case)
            );
            let small = minimise::minimise(&mut session, &d);
            println!("minimised:");
            print!(
                "{}",
                minimise::describe(&mut session, options.seed, &d, &small)
            );
            Err(Error::Different(1))
        }
    }
}

/// A worker: compares its share and reports on stdout.
fn work(options: &Options, only: &[Code], worker: u64) -> Result<(), Error> {
    let mut session = Session::new(options.seed, only)?;
    let share = options.cases.div_ceil(options.jobs);
    let mut out = std::io::stdout().lock();
    let mut say = |report: &Report| -> Result<(), Error> {
        serde_json::to_writer(&mut out, report)?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    };
    let mut next = Instant::now() + Duration::from_secs(1);
    let mut batch = worker;
    let mut seen: Vec<String> = Vec::new();
    while session.tally.compared < share {
        for d in session.batch(batch) {
            let last = d.last.map_or("none".to_owned(), |c| format!("{c:?}"));
            if seen.contains(&last) {
                continue;
            }
            seen.push(last.clone());
            let small = minimise::minimise(&mut session, &d);
            let text = minimise::describe(&mut session, options.seed, &d, &small);
            say(&Report::Difference {
                number: d.number,
                last,
                text,
            })?;
        }
        batch += options.jobs;
        if seen.len() >= options.differences {
            break;
        }
        if Instant::now() >= next {
            next += Duration::from_secs(1);
            say(&Report::Progress(totals(&session)))?;
        }
    }
    let coverage = session.tally.coverage.counts();
    let coverage = coverage.into_iter().map(|(name, c)| (name, c.into()));
    say(&Report::Done(totals(&session), coverage.collect()))
}

impl From<Count> for Executed {
    fn from(c: Count) -> Executed {
        Executed {
            executed: c.executed,
            completed: c.completed,
        }
    }
}

fn totals(session: &Session) -> Totals {
    let t = &session.tally;
    Totals {
        compared: t.compared,
        generated: t.generated,
        exits: t.exits,
        unstable: t.unstable,
        vectors: t.vectors.clone(),
        dropped: t
            .dropped
            .iter()
            .map(|(k, v)| (format!("{k:?}"), *v))
            .collect(),
    }
}

/// Starts the workers and adds up.
fn lead(options: &Options, only: &[Code]) -> Result<(), Error> {
    let jobs = options.jobs.max(1);
    let (send, receive) = mpsc::channel();
    let mut children: Vec<Child> = Vec::new();
    for worker in 0..jobs {
        let mut child = spawn(options, jobs, worker)?;
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let send = send.clone();
        std::thread::spawn(move || {
            for line in lines {
                let report = line
                    .map_err(Error::from)
                    .and_then(|l| serde_json::from_str::<Report>(&l).map_err(Error::from));
                // The leader may have left after an error.
                if send.send((worker, Some(report))).is_err() {
                    return;
                }
            }
            let _ = send.send((worker, None));
        });
        children.push(child);
    }
    let start = Instant::now();
    let mut state: Vec<Totals> = vec![Totals::default(); jobs as usize];
    let mut done = vec![false; jobs as usize];
    let mut coverage: BTreeMap<String, Executed> = BTreeMap::new();
    let mut differences = 0;
    let mut open = jobs;
    let terminal = std::io::stderr().is_terminal();
    let mut shown = Instant::now();
    while open > 0 {
        let (worker, report) = receive.recv().expect("workers hold the channel");
        match report {
            None => {
                open -= 1;
                if !done[worker as usize] {
                    for child in &mut children {
                        // It may have ended by itself.
                        let _ = child.kill();
                    }
                    return Err(Error::Died(worker));
                }
            }
            Some(Err(error)) => return Err(error),
            Some(Ok(Report::Progress(t))) => state[worker as usize] = t,
            Some(Ok(Report::Difference { last, text, .. })) => {
                differences += 1;
                eprintln!("\n[{last}]\n{text}");
            }
            Some(Ok(Report::Done(t, counts))) => {
                state[worker as usize] = t;
                done[worker as usize] = true;
                for (name, c) in counts {
                    let sum = coverage.entry(name).or_default();
                    sum.executed += c.executed;
                    sum.completed += c.completed;
                }
            }
        }
        let pause = if terminal { 1 } else { 30 };
        if shown.elapsed() >= Duration::from_secs(pause) {
            shown = Instant::now();
            progress(options.cases, &sum(&state), start, terminal);
        }
    }
    for child in &mut children {
        child.wait()?;
    }
    finish(options, only, &sum(&state), &coverage, differences, start)
}

fn spawn(options: &Options, jobs: u64, worker: u64) -> Result<Child, Error> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("diff");
    for (name, value) in [
        ("--cases", options.cases),
        ("--seed", options.seed),
        ("--jobs", jobs),
        ("--differences", options.differences as u64),
        ("--worker", worker),
    ] {
        command.arg(name).arg(value.to_string());
    }
    if let Some(code) = &options.code {
        command.arg("--code").arg(code);
    }
    Ok(command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?)
}

fn sum(state: &[Totals]) -> Totals {
    let mut all = Totals::default();
    for t in state {
        all.compared += t.compared;
        all.generated += t.generated;
        all.exits += t.exits;
        all.unstable += t.unstable;
        for (k, v) in &t.vectors {
            *all.vectors.entry(*k).or_default() += v;
        }
        for (k, v) in &t.dropped {
            *all.dropped.entry(k.clone()).or_default() += v;
        }
    }
    all
}

fn progress(cases: u64, t: &Totals, start: Instant, terminal: bool) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = t.compared as f64 / seconds;
    let left = cases.saturating_sub(t.compared) as f64 / rate.max(1.0);
    let percent = t.compared as f64 * 100.0 / cases.max(1) as f64;
    let (begin, end) = if terminal { ("\r", "   ") } else { ("", "\n") };
    eprint!(
        "{begin}{} cases, {percent:.1} %, {rate:.0} cases/s, {left:.0} s left{end}",
        t.compared
    );
}

fn finish(
    options: &Options,
    only: &[Code],
    t: &Totals,
    coverage: &BTreeMap<String, Executed>,
    differences: usize,
    start: Instant,
) -> Result<(), Error> {
    let untested: Vec<String> = exclude::integer_forms()
        .filter(|c| only.is_empty() || only.contains(c))
        .map(|c| format!("{c:?}"))
        .filter(|name| coverage.get(name).is_none_or(|c| c.executed == 0))
        .collect();
    let excluded: Vec<_> = exclude::TABLE
        .iter()
        .map(|l| {
            (
                format!("{:?}", l.mnemonic),
                format!("{:?}", l.reason),
                l.because,
            )
        })
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "{} cases compared in {seconds:.1} s ({:.0} cases/s, {} jobs, batches of {BATCH}), {differences} differences",
        t.compared,
        t.compared as f64 / seconds,
        options.jobs
    );
    if options.json {
        let result = Result_ {
            schema: "lowmem.diff/1",
            seed: options.seed,
            jobs: options.jobs,
            totals: t,
            differences,
            untested: &untested,
            coverage,
            excluded,
        };
        println!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        println!("ended at the exit {}, by vector {:?}", t.exits, t.vectors);
        println!("not compared {:?}", t.dropped);
        println!("differences gone at the second run {}", t.unstable);
        println!("{:<32}{:>14}{:>14}", "form", "executed", "completed");
        for (name, c) in coverage.iter().filter(|(_, c)| c.executed != 0) {
            println!("{name:<32}{:>14}{:>14}", c.executed, c.completed);
        }
        println!("untested {untested:?}");
    }
    if differences != 0 {
        return Err(Error::Different(differences));
    }
    if !untested.is_empty() && options.cases >= 1_000_000 {
        return Err(Error::Untested(untested.len()));
    }
    Ok(())
}
