//! Lines of `strace -f -ttt -yy`.
//!
//! `PID SEC.USEC name(args) = result`, with calls of other processes in between printed in two halves that are joined here.
//! A call counts from its entry, except that a mapping exists, and a child is reaped, when its call returns.
//! Signals are skipped; `+++` ends a process.
//!
//! Invariant: events come out sorted by time, in line order where times are equal.

use std::borrow::Cow;
use std::collections::HashMap;

use super::input::Text;
use crate::error::TraceError;

/// One finished call, or the end of a process.
#[derive(Clone, Debug)]
pub(super) struct Event<'a> {
    /// Time that orders the event, in ns.
    pub(super) time: u64,
    /// Time of the call's entry, in ns.
    pub(super) entry: u64,
    /// Thread.
    pub(super) tid: u32,
    /// Line number, from 1.
    pub(super) line: u64,
    /// What happened.
    pub(super) what: What<'a>,
}

#[derive(Clone, Debug)]
pub(super) enum What<'a> {
    Call {
        name: &'a str,
        args: Cow<'a, str>,
        result: &'a str,
    },
    Exit,
}

/// Calls that have their effect when they return.
fn counts_from_return(name: &str) -> bool {
    name.starts_with("mmap")
        || matches!(
            name,
            "old_mmap" | "mremap" | "shmat" | "wait4" | "waitpid" | "waitid"
        )
}

/// Parses a whole file.
pub(super) fn parse(text: &Text) -> Result<Vec<Event<'_>>, TraceError> {
    let mut events = Vec::new();
    let mut halves: HashMap<u32, (u64, &str)> = HashMap::new();
    for (number, line) in text.text.lines().enumerate() {
        let number = number as u64 + 1;
        if line.is_empty() {
            continue;
        }
        let bad = |reason: &str| TraceError::Line {
            name: text.name.clone(),
            line: number,
            reason: format!("{reason}: {:.80}", line),
        };
        let (tid, rest) = line
            .split_once(' ')
            .ok_or_else(|| bad("no process number"))?;
        let tid: u32 = tid.parse().map_err(|_| bad("process number expected"))?;
        let (stamp, rest) = rest
            .trim_start()
            .split_once(' ')
            .ok_or_else(|| bad("no time stamp"))?;
        let time = nanoseconds(stamp).ok_or_else(|| bad("time in seconds expected"))?;
        if rest.starts_with("+++") {
            events.push(Event {
                time,
                entry: time,
                tid,
                line: number,
                what: What::Exit,
            });
            continue;
        }
        if rest.starts_with("---") {
            continue;
        }
        if let Some(head) = rest.trim_end().strip_suffix("<unfinished ...>") {
            halves.insert(tid, (time, head));
            continue;
        }
        let (entry, whole, resumed) = match rest.strip_prefix("<... ") {
            Some(tail) => {
                // A resumed call whose first half was before the recording began has no arguments.
                let Some((entry, head)) = halves.remove(&tid) else {
                    continue;
                };
                let (_, tail) = tail
                    .split_once(" resumed>")
                    .ok_or_else(|| bad("resumed call expected"))?;
                (
                    entry,
                    Cow::Owned(format!("{}{tail}", head.trim_end())),
                    Some(rest),
                )
            }
            None => (time, Cow::Borrowed(rest), None),
        };
        let Some((name_len, args, result_len)) = shape(&whole) else {
            continue;
        };
        let name_source = match resumed {
            Some(rest) => rest["<... ".len()..].split(' ').next().unwrap_or(""),
            None => &rest[..name_len],
        };
        // The result is the tail of the last half, hence borrowed from the text in either case.
        let result = &rest[rest.len() - result_len..];
        let args = match whole {
            Cow::Borrowed(w) => Cow::Borrowed(&w[args]),
            Cow::Owned(w) => Cow::Owned(w[args].to_owned()),
        };
        let time = if resumed.is_some() && !counts_from_return(name_source) {
            entry
        } else {
            time
        };
        events.push(Event {
            time,
            entry,
            tid,
            line: number,
            what: What::Call {
                name: name_source,
                args,
                result,
            },
        });
    }
    events.sort_by_key(|e| e.time);
    Ok(events)
}

/// Length of the name, range of the arguments and length of the result of `name(args) = result`.
fn shape(call: &str) -> Option<(usize, std::ops::Range<usize>, usize)> {
    let name_len = call
        .bytes()
        .position(|b| !(b.is_ascii_alphanumeric() || b == b'_'))?;
    if name_len == 0 || call.as_bytes()[name_len] != b'(' {
        return None;
    }
    // The last ")", blanks, "= ": arguments may hold the same.
    let bytes = call.as_bytes();
    let mut from = bytes.len();
    loop {
        let close = bytes[..from].iter().rposition(|&b| b == b')')?;
        let tail = &call[close + 1..];
        if let Some(result) = tail.trim_start_matches(' ').strip_prefix("= ") {
            return (close > name_len).then_some((name_len, name_len + 1..close, result.len()));
        }
        from = close;
    }
}

/// `SEC.FRACTION` in ns.
pub(super) fn nanoseconds(stamp: &str) -> Option<u64> {
    let (seconds, fraction) = stamp.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 10u64.pow(9 - fraction.len() as u32);
    let seconds: u64 = seconds.parse().ok()?;
    let fraction: u64 = fraction.parse().ok()?;
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(fraction * scale)
}

/// A number as strace prints it: decimal, hexadecimal, or `NULL`.
pub(super) fn number(arg: &str) -> Option<u64> {
    let arg = arg.split('<').next()?.trim();
    if arg == "NULL" {
        return Some(0);
    }
    if let Some(hex) = arg.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(rest) = arg.strip_prefix('-') {
        return rest.parse::<u64>().ok().map(u64::wrapping_neg);
    }
    arg.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_cut_at_its_last_result() {
        let s = "wait4(-1, [{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL) = 29351";
        let (name, args, result) = shape(s).unwrap();
        assert_eq!(&s[..name], "wait4");
        assert_eq!(
            &s[args],
            "-1, [{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL"
        );
        assert_eq!(&s[s.len() - result..], "29351");
        assert!(shape("exit_group(0").is_none());
    }

    #[test]
    fn times_and_numbers() {
        assert_eq!(nanoseconds("1394.208957"), Some(1_394_208_957_000));
        assert_eq!(nanoseconds("0.000000001"), Some(1));
        assert_eq!(nanoseconds("x.1"), None);
        assert_eq!(number("0x10"), Some(16));
        assert_eq!(number("NULL"), Some(0));
        assert_eq!(number("3</dev/zero>"), Some(3));
        assert_eq!(number("-1"), Some(u64::MAX));
    }
}
