//! A result for people: a verdict in a few sentences, then tables.
//!
//! `compare` prints the verdict, the TLB, low-memory and unmap tables and the explanation of each pair of splits. `replay`
//! adds cycles by side and cause, and kernel entries by kind.
//!
//! Invariant: no line is wider than [`table::WIDTH`] columns; no percentage of run time is printed unless user work is
//! in the trace or was assumed.

use crate::Config;
use crate::explain::{Difference, Explanation, Line};
use crate::measurement::{Mode, Outcome, Owner};
use crate::result::{Document, Row};
use crate::table::{self, Table, count, ratio, short, size, tenths, wrap};
use crate::{balance, retouch_error, verdict};
use lowmem_cost::Cause;

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What fits a screen.
    Compare,
    /// Everything.
    Replay,
}

/// The document as text.
pub fn render(document: &Document, detail: Detail) -> String {
    let labels = labels(&document.results);
    let mut out = head(document);
    out.push('\n');
    for sentence in verdict::sentences(document, &labels) {
        wrap(&mut out, "", &sentence);
    }
    let mut tables = vec![
        tlb(document, &labels),
        lowmem(document, &labels),
        unmap(document, &labels),
    ];
    if !document.balances.is_empty() {
        tables.push(balances(document, &labels));
    }
    let pairs = document.splits.chunks(pairs_per_table(document, &labels));
    tables.extend(pairs.map(|pairs| splits(pairs, document, &labels)));
    if detail == Detail::Replay {
        for (row, label) in document.results.iter().zip(&labels) {
            tables.push(cycles(row, label));
            tables.push(operations(row, label));
        }
    }
    for table in tables {
        out.push('\n');
        out.push_str(&table.render());
    }
    out
}

/// A short name per row: rmap and split, and what else differs between rows.
pub fn labels(rows: &[Row]) -> Vec<String> {
    let configs = || rows.iter().map(|r| &r.config);
    configs().map(|c| c.label(configs())).collect()
}

/// Axes that labels or the words before name anyway.
const SAID: [&str; 7] = ["rmap", "split", "ram", "cpu", "hz", "entry", "build"];

fn head(document: &Document) -> String {
    let t = &document.trace;
    let mut line = format!(
        "{}: {} operations, {} processes",
        t.name,
        table::grouped(t.operations),
        table::grouped(t.processes)
    );
    if let Some(first) = document.results.first() {
        let c = &first.config;
        let all = |of: &dyn Fn(&Config) -> String| {
            let mut values: Vec<String> = Vec::new();
            for row in &document.results {
                let value = of(&row.config);
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            values.join(" and ")
        };
        line.push_str(&format!(
            "; kernel {}, {} build, {} RAM, cpu {}, {} Hz, {}",
            all(&|c| c.kernel.to_string()),
            all(&|c| c.build.to_string()),
            all(&|c| crate::config::bytes(c.ram_bytes)),
            all(&|c| c.cpu.clone()),
            all(&|c| c.hz.to_string()),
            all(&|c| c.entry.to_string()),
        ));
        // What every row sets, and no label therefore says.
        let same = |axis: &String, value: &String| {
            document
                .results
                .iter()
                .all(|r| r.config.overrides.get(axis) == Some(value))
        };
        for (axis, value) in &c.overrides {
            if !SAID.contains(&axis.as_str()) && same(axis, value) {
                line.push_str(&format!(", {axis} {value}"));
            }
        }
        if !c.cpu_overrides.is_empty() {
            let set: Vec<String> = c
                .cpu_overrides
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            line.push_str(&format!("; set {}", set.join(", ")));
        }
    }
    let mut out = String::new();
    wrap(&mut out, "", &line);
    out
}

/// Rows that ran at least in part.
fn ran<'a>(
    document: &'a Document,
    labels: &'a [String],
) -> impl Iterator<Item = (&'a Row, &'a String)> {
    let rows = document.results.iter().zip(labels);
    rows.filter(|(r, _)| r.outcome != Outcome::Refused)
}

/// The row's label, with a star unless it completed.
fn name(row: &Row, label: &str) -> String {
    match row.outcome {
        Outcome::Complete => label.to_owned(),
        _ => format!("{label} *"),
    }
}

fn why_empty(document: &Document) -> String {
    match (document.mode, document.results.is_empty()) {
        (_, true) => "no configuration finished".to_owned(),
        (Mode::Native, _) => "native mode keeps state only and counts no events".to_owned(),
        (Mode::Cycle, _) => match document.results.iter().find_map(|r| r.reason.clone()) {
            Some(reason) => format!("every configuration was refused: {reason}"),
            None => "cpu none: nothing is counted".to_owned(),
        },
    }
}

fn tlb(document: &Document, labels: &[String]) -> Table {
    let header = [
        "TLB", "", "accesses", "misses", "flush", "remap", "cold", "capacity", "spared",
    ];
    let mut table = Table::new(
        "TLB misses, by why: flush = only the split's CR3 loads had removed the entry",
        &header,
    );
    table.empty_because(why_empty(document));
    for (row, label) in ran(document, labels) {
        if row.tlb.dtlb.accesses == 0 && row.tlb.itlb.accesses == 0 {
            continue;
        }
        for (kind, t) in [("DTLB", &row.tlb.dtlb), ("ITLB", &row.tlb.itlb)] {
            let first = if kind == "DTLB" {
                name(row, label)
            } else {
                String::new()
            };
            let mut cells = vec![first, kind.to_owned()];
            let numbers = [
                t.accesses, t.misses, t.flush, t.remap, t.cold, t.capacity, t.spared,
            ];
            cells.extend(numbers.map(count));
            table.row(cells);
        }
    }
    let cpu = document.results.first().map_or("", |r| &r.config.cpu);
    if let Some(sentence) = retouch_error::sentence(&document.trace.assumptions, cpu) {
        table.note(sentence);
    }
    table
}

/// Owners by column of the low-memory table.
const GROUPS: [(&str, &[Owner]); 8] = [
    (
        "kernel",
        &[
            Owner::KernelImage,
            Owner::MemMap,
            Owner::Boot,
            Owner::Vmalloc,
        ],
    ),
    ("tables", &[Owner::Pgd, Owner::Pmd, Owner::Pte]),
    (
        "rmap",
        &[
            Owner::PteChain,
            Owner::AnonVma,
            Owner::Anonmm,
            Owner::AnonVmaChain,
        ],
    ),
    ("vma+mm", &[Owner::Vma, Owner::Mm]),
    ("tasks", &[Owner::Task, Owner::Stack, Owner::ProcessOther]),
    (
        "files",
        &[
            Owner::Inode,
            Owner::Dentry,
            Owner::BufferHead,
            Owner::RadixTree,
        ],
    ),
    ("slack", &[Owner::Kmalloc, Owner::SlabWaste, Owner::PerCpu]),
    ("pages", &[Owner::User, Owner::PageCache]),
];

fn lowmem(document: &Document, labels: &[String]) -> Table {
    let mut header = vec!["low memory"];
    header.extend(GROUPS.iter().map(|(name, _)| *name));
    header.extend(["used", "peak", "of"]);
    let mut table = Table::new(
        "Low memory at the trace's peak (the operation with most mappings), bytes by owner",
        &header,
    );
    table.empty_because(why_empty(document));
    let mut wasted: Vec<String> = Vec::new();
    for (row, label) in ran(document, labels) {
        let l = &row.lowmem;
        if l.total_bytes == 0 {
            continue;
        }
        let mut cells = vec![name(row, label)];
        cells.extend(GROUPS.iter().map(|(_, owners)| size(l.of(owners))));
        cells.extend([l.used_bytes, l.peak_bytes, l.total_bytes].map(size));
        table.row(cells);
        if l.unmapped_bytes != 0 {
            wasted.push(format!("{label} {}", size(l.unmapped_bytes)));
        }
    }
    if !wasted.is_empty() {
        table.note(format!(
            "In user pages of any zone, but mapped by no pte (page clustering): {}.",
            wasted.join("; ")
        ));
    }
    table
}

fn unmap(document: &Document, labels: &[String]) -> Table {
    let header = [
        "unmap", "pages", "unmapped", "vmas", "ptes", "cleared", "p50", "p99", "max", "ref",
        "swap", "unmap",
    ];
    let mut table = Table::new(
        "Unmapping a page as reclaim does, at the trace's peak: means per page, cycles per page",
        &header,
    );
    let (mut reasons, mut not_unmapped) = (Vec::<String>::new(), Vec::new());
    for (row, label) in ran(document, labels) {
        let u = &row.unmap;
        if let Some(reason) = &u.reason {
            if !reasons.contains(reason) {
                reasons.push(reason.clone());
            }
            continue;
        }
        let ends = |end: &str| *u.ends.get(end).unwrap_or(&0);
        let mut cells = vec![name(row, label), count(u.pages), count(ends("unmapped"))];
        cells.extend([u.vmas_visited, u.ptes_examined, u.ptes_cleared].map(|n| ratio(n, u.pages)));
        let p = u.cycles_per_page;
        cells.extend([p.p50, p.p99, p.max].map(count));
        let part = |i: usize| u.parts.0[i].1.checked_div(u.pages).unwrap_or(0);
        cells.extend([part(0), part(1), part(2)].map(count));
        table.row(cells);
        let failed: Vec<String> = ["young", "locked", "pinned"]
            .iter()
            .filter(|end| ends(end) > 0)
            .map(|end| format!("{} {end}", ends(end)))
            .collect();
        if !failed.is_empty() {
            not_unmapped.push(format!("{label} {}", failed.join(", ")));
        }
    }
    if !not_unmapped.is_empty() {
        table.note(format!("Not unmapped: {}.", not_unmapped.join("; ")));
    }
    match reasons.is_empty() {
        true => table.empty_because(why_empty(document)),
        false => table.empty_because(reasons.join("; ")),
    }
    table
}

/// What each scheme saves and adds against chains.
fn balances(document: &Document, labels: &[String]) -> Table {
    let mut header = vec!["against pte_chain", "saved", "vma"];
    header.extend(balance::ADDED[1..].iter().map(|o| o.name()));
    header.push("net");
    let mut table = Table::new(
        "Low memory that each reverse map saves in chains and adds elsewhere, bytes at the peak",
        &header,
    );
    for b in &document.balances {
        let mut cells = vec![name(&document.results[b.to], &labels[b.to])];
        cells.push(signed(b.chains_saved));
        cells.extend(b.added.iter().map(|(_, n)| signed(*n)));
        cells.push(signed(b.net));
        table.row(cells);
    }
    for b in &document.balances {
        if b.net < 0 {
            table.note(format!(
                "{} needs more low memory than chains: {} bytes.",
                labels[b.to],
                table::grouped(b.net.unsigned_abs())
            ));
        }
        let even: Vec<String> = b
            .break_even
            .iter()
            .map(|e| format!("{} by {}", e.pages_per_vma, e.sharers))
            .collect();
        if !even.is_empty() {
            table.note(format!(
                "{} breaks even with this many pages in each vma, shared by so many: {}.",
                labels[b.to],
                even.join(", ")
            ));
        }
    }
    table
}

/// A size with sign.
fn signed(n: i64) -> String {
    match n {
        0 => "0".to_owned(),
        n if n < 0 => format!("-{}", size(n.unsigned_abs())),
        n => size(n.unsigned_abs()),
    }
}

/// Most pairs of rows whose explanations stand side by side.
const PAIRS_PER_TABLE: usize = 3;
/// Columns of the lines' names, and of the numbers per null call beside each pair.
const LINE_COLUMNS: usize = 23;
/// See [`LINE_COLUMNS`].
const NULL_CALL_COLUMNS: usize = 11;

/// Pairs whose explanations fit side by side under the labels of the rows they begin with.
fn pairs_per_table(document: &Document, labels: &[String]) -> usize {
    let label = |e: &Explanation| labels[e.from].chars().count();
    let widest = document.splits.iter().map(label).max().unwrap_or(0);
    let each = widest + 2 + NULL_CALL_COLUMNS;
    ((table::WIDTH - LINE_COLUMNS) / each).clamp(1, PAIRS_PER_TABLE)
}

fn splits(pairs: &[Explanation], document: &Document, labels: &[String]) -> Table {
    let entries: Vec<String> = pairs
        .iter()
        .map(|e| table::grouped(e.run.entries))
        .collect();
    let to = document.results[pairs[0].to].config.split;
    let title = format!(
        "What {to} adds: cycles per kernel entry ({} entries), and per null call",
        entries.join(", ")
    );
    let mut header = vec!["added by"];
    for e in pairs {
        header.extend([labels[e.from].as_str(), "null call"]);
    }
    let mut table = Table::new(title, &header);
    let mut rows: Vec<Vec<String>> = Line::ALL
        .iter()
        .map(|&l| line_words(l))
        .chain(["total"])
        .map(|words| vec![words.to_owned()])
        .collect();
    for e in pairs {
        for difference in [Some(&e.run), e.null_call.as_ref()] {
            let cells = match difference.map(Difference::tenths_per_entry) {
                Some((lines, total)) => {
                    let values = lines.into_iter().map(|(_, n)| n).chain([total]);
                    values.map(tenths).collect()
                }
                None => vec!["-".to_owned(); rows.len()],
            };
            for (row, cell) in rows.iter_mut().zip(cells) {
                row.push(cell);
            }
        }
    }
    for row in rows {
        table.row(row);
    }
    let ranges: Vec<String> = pairs
        .iter()
        .filter(|e| e.run.low != e.run.high)
        .map(|e| {
            let per = |n: i64| {
                let d = i64::try_from(e.run.entries.max(1)).unwrap_or(i64::MAX);
                table::grouped((n / d).unsigned_abs())
            };
            format!("{} to {}", per(e.run.low), per(e.run.high))
        })
        .collect();
    if !ranges.is_empty() {
        table.note(format!(
            "The preset's uncertain numbers put the totals per entry at {} (low to high).",
            ranges.join(" and ")
        ));
    }
    match pairs.iter().all(|e| e.null_call.is_none()) {
        true => table.note("The trace has no null call."),
        false => table.note(
            "A null call is counted from entry to return; the refills that follow in user mode are in \
             the other columns.",
        ),
    }
    table
}

fn line_words(line: Line) -> &'static str {
    match line {
        Line::Cr3Loads => "CR3 loads",
        Line::PdpteLoads => "PDPTE loads",
        Line::ItlbRefills => "ITLB refills",
        Line::DtlbRefills => "DTLB refills",
        Line::Trampoline => "trampoline and stubs",
        Line::PageFlushes => "page flushes (invlpg)",
        Line::UserCopy => "user copies",
        Line::Caches => "caches elsewhere",
        Line::Rest => "rest",
    }
}

fn cycles(row: &Row, label: &str) -> Table {
    let used: Vec<&str> = Cause::ALL
        .iter()
        .map(|c| c.name())
        .filter(|c| {
            let sides = row.cycles.by.0.iter();
            sides.clone().any(|(_, causes)| causes.get(c) != Some(&0))
        })
        .collect();
    let mut header = vec!["side", "cycles"];
    header.extend(used.iter().map(|c| match *c {
        "itlb_walk" => "itlb",
        "dtlb_walk" => "dtlb",
        "mispredict" => "mispr",
        "serialise" => "ser",
        "memory" => "mem",
        other => other,
    }));
    let mut table = Table::new(format!("{label}: cycles by side and cause"), &header).tight();
    for (side, causes) in &row.cycles.by.0 {
        let total: u64 = causes.0.iter().map(|(_, n)| n).sum();
        if total == 0 {
            continue;
        }
        let mut cells = vec![(*side).to_owned(), short(total)];
        cells.extend(used.iter().map(|c| short(*causes.get(c).unwrap_or(&0))));
        table.row(cells);
    }
    table
}

fn operations(row: &Row, label: &str) -> Table {
    let header = [
        "entered by",
        "entries",
        "cycles each",
        "cr3 split",
        "cr3 flush",
        "cr3 switch",
        "invlpg",
    ];
    let mut table = Table::new(
        format!("{label}: kernel entries, from entry to return; flushes per entry"),
        &header,
    );
    for (operation, op) in &row.operations.0 {
        if op.entries == 0 {
            continue;
        }
        let mut cells = vec![(*operation).to_owned(), count(op.entries)];
        cells.push(count(op.cycles / op.entries));
        let f = op.flushes;
        cells.extend([f.split, f.cr3, f.switch, f.invlpg].map(|n| ratio(n, op.entries)));
        table.row(cells);
    }
    table
}
