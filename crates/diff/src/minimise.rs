//! Making a difference small, and showing it.
//!
//! Instructions are removed, then registers, segments, flags and words set to plain values, as long
//! as the machines still disagree. Invariant: what is shown still differs.

use crate::case::{Case, decode};
use crate::layout::{DATA, EXIT, STACK, USER_CS, USER_DS};
use crate::outcome::NAMES;
use crate::session::{Difference, Session};
use emu_cpu::regs::ESP;
use iced_x86::FastFormatter;
use std::fmt::Write;

/// A smaller case with a difference, over the same memory.
pub fn minimise(session: &mut Session, d: &Difference) -> Case {
    let mut best = d.case.clone();
    let mut try_it = |candidate: Case, best: &mut Case| {
        if session.examine(&candidate, &d.image).is_some() {
            *best = candidate;
            true
        } else {
            false
        }
    };
    loop {
        let mut smaller = false;
        let mut at = 0;
        while at < best.body {
            let i = decode(&best.code[at..best.body], 32);
            let n = i.len().clamp(1, best.body - at);
            if n < best.body && try_it(without(&best, at, n), &mut best) {
                smaller = true;
            } else {
                at += n;
            }
        }
        if !smaller {
            break;
        }
    }
    for n in 0..8 {
        for plain in [0, 1, DATA + 0x800] {
            let mut c = best.clone();
            c.regs[n] = if n == ESP { STACK + 0x1000 } else { plain };
            if c.regs[n] == best.regs[n] || try_it(c, &mut best) {
                break;
            }
        }
    }
    for n in 0..4 {
        let mut c = best.clone();
        c.data[n] = USER_DS;
        try_it(c, &mut best);
    }
    for bit in 0..32 {
        let mut c = best.clone();
        c.eflags &= !(1 << bit) | 0x202;
        try_it(c, &mut best);
    }
    let mut c = best.clone();
    c.words.clear();
    try_it(c, &mut best);
    best
}

/// The case without some bytes; the jump to the exit moves along.
fn without(case: &Case, at: usize, n: usize) -> Case {
    let mut c = case.clone();
    c.code.drain(at..at + n);
    c.body -= n;
    if c.cs == USER_CS || c.code.get(c.body) == Some(&0xe9) {
        let end = c.start.wrapping_add(c.body as u32 + 5);
        c.code.truncate(c.body + 1);
        c.code.extend(EXIT.wrapping_sub(end).to_le_bytes());
    }
    c
}

/// A difference in words: bytes, disassembly, the state before, all three after.
pub fn describe(session: &mut Session, seed: u64, d: &Difference, case: &Case) -> String {
    let mut s = String::new();
    let found = session.examine(case, &d.image);
    let changes = session.memory_changes(&d.image);
    let (what, outcomes) = match found {
        Some((_, what, outcomes)) => (what, outcomes),
        None => (d.what.clone(), d.outcomes),
    };
    let line = |s: &mut String, text: String| {
        s.push_str(&text);
        s.push('\n');
    };
    line(
        &mut s,
        format!("difference in {what}: seed {seed} case {}", d.number),
    );
    let mut formatter = FastFormatter::new();
    let mut at = 0;
    while at < case.body {
        let mut i = decode(
            &case.code[at..case.body],
            if case.cs & 4 != 0 && case.cs >> 3 == 8 {
                16
            } else {
                32
            },
        );
        let n = i.len().clamp(1, case.body - at);
        i.set_ip(u64::from(case.eip()) + at as u64);
        let mut text = String::new();
        formatter.format(&i, &mut text);
        let bytes: String = case.code[at..at + n]
            .iter()
            .fold(String::new(), |mut t, b| {
                let _ = write!(t, "{b:02x} ");
                t
            });
        line(
            &mut s,
            format!("  {:08x}  {bytes:<46}{text}", case.start as usize + at),
        );
        at += n;
    }
    let mut before = String::new();
    for (name, value) in NAMES.iter().zip(case.regs) {
        let _ = write!(before, "{name} {value:08x} ");
    }
    line(
        &mut s,
        format!(
            "  before     {before}eflags {:08x} cs {:04x} ds {:04x} es {:04x} fs {:04x} gs {:04x}",
            case.eflags, case.cs, case.data[0], case.data[1], case.data[2], case.data[3]
        ),
    );
    for (at, word) in &case.words {
        line(&mut s, format!("             [{at:08x}] = {word:08x}"));
    }
    for (name, outcome) in ["host", "reference", "fast"].iter().zip(outcomes) {
        line(&mut s, format!("  {name:<10} {outcome}"));
    }
    for (at, [b, h, r, f]) in changes.iter().take(48) {
        line(
            &mut s,
            format!("  [{at:08x}] before {b:02x} host {h:02x} reference {r:02x} fast {f:02x}"),
        );
    }
    s
}
