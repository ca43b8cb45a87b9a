//! Lines of `perf script -F pid,tid,cpu,time,event,trace --show-mmap-events --show-task-events`.
//!
//! `PID/TID [CPU] SEC.NSEC: EVENT: FIELDS`. Known events are parsed to the last field, and a line of a known
//! event that does not parse is an error; other events and comments are skipped.
//!
//! Invariant: order of lines is kept, whatever their times.

use super::{input::Text, strace::nanoseconds};
use crate::error::TraceError;

/// One record.
#[derive(Clone, Debug)]
pub(super) struct Event<'a> {
    pub(super) time: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) what: What<'a>,
}

#[derive(Clone, Debug)]
pub(super) enum What<'a> {
    Fault {
        address: u64,
        ip: u64,
        error: u32,
        kernel: bool,
    },
    Switch {
        state: &'a str,
    },
    Enter {
        nr: u32,
    },
    Fork {
        pid: u32,
        tid: u32,
        parent_pid: u32,
        parent_tid: u32,
    },
    Exit,
    Comm {
        name: &'a str,
        tid: u32,
        exec: bool,
    },
    Mmap(Mmap<'a>),
    Lost,
}

/// `PERF_RECORD_MMAP2`.
#[derive(Clone, Debug)]
pub(super) struct Mmap<'a> {
    pub(super) tid: u32,
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) offset: u64,
    pub(super) device: &'a str,
    pub(super) inode: u64,
    pub(super) perms: &'a str,
    pub(super) path: &'a str,
}

/// Parses a whole file.
pub(super) fn parse(text: &Text) -> Result<Vec<Event<'_>>, TraceError> {
    let mut events = Vec::with_capacity(text.text.len() / 80);
    for (number, line) in text.text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |reason: &str| TraceError::Line {
            name: text.name.clone(),
            line: number as u64 + 1,
            reason: format!("{reason}: {line:.100}"),
        };
        let Some((pid, tid, time, name, fields)) = columns(line) else {
            return Err(bad("PID/TID [CPU] SEC.NSEC: EVENT: expected"));
        };
        let what = match name {
            "exceptions:page_fault_user" | "exceptions:page_fault_kernel" => {
                fault(fields, name.ends_with("kernel"))
                    .ok_or_else(|| bad("address= ip= error_code= expected"))?
            }
            "sched:sched_switch" => {
                let state = fields
                    .strip_prefix("prev_state=")
                    .ok_or_else(|| bad("prev_state= expected"))?;
                What::Switch {
                    state: state.trim(),
                }
            }
            "raw_syscalls:sys_enter" => {
                let nr = fields
                    .strip_prefix("NR ")
                    .and_then(|f| f.split(' ').next()?.parse().ok());
                What::Enter {
                    nr: nr.ok_or_else(|| bad("NR expected"))?,
                }
            }
            "PERF_RECORD_FORK" => {
                task(fields).ok_or_else(|| bad("(pid:tid):(ppid:ptid) expected"))?
            }
            "PERF_RECORD_EXIT" => What::Exit,
            "PERF_RECORD_COMM" => comm(fields).ok_or_else(|| bad("name:pid/tid expected"))?,
            "PERF_RECORD_MMAP2" => What::Mmap(mmap(fields).ok_or_else(|| bad("mapping expected"))?),
            "PERF_RECORD_LOST" => What::Lost,
            _ => continue,
        };
        events.push(Event {
            time,
            pid,
            tid,
            what,
        });
    }
    Ok(events)
}

fn columns(line: &str) -> Option<(u32, u32, u64, &str, &str)> {
    let (ids, rest) = line.split_once(' ')?;
    let (pid, tid) = ids.split_once('/')?;
    // Records of the tool itself carry -1.
    let id = |s: &str| {
        if s.starts_with('-') {
            Some(u32::MAX)
        } else {
            s.parse().ok()
        }
    };
    let rest = rest.strip_prefix('[')?;
    let (_, rest) = rest.split_once("] ")?;
    let (time, rest) = rest.split_once(": ")?;
    let (event, fields) = if rest.starts_with("PERF_RECORD_") {
        let end = rest
            .bytes()
            .position(|b| !(b.is_ascii_alphanumeric() || b == b'_'))
            .unwrap_or(rest.len());
        let (event, fields) = rest.split_at(end);
        (event, fields.trim_start_matches(':').trim_start())
    } else {
        rest.split_once(": ")?
    };
    Some((id(pid)?, id(tid)?, nanoseconds(time)?, event, fields))
}

fn hex(s: &str) -> Option<u64> {
    u64::from_str_radix(s.strip_prefix("0x").unwrap_or(s), 16).ok()
}

fn fault<'a>(fields: &str, kernel: bool) -> Option<What<'a>> {
    let field = |key: &str| fields.split(' ').find_map(|f| f.strip_prefix(key));
    Some(What::Fault {
        address: hex(field("address=")?)?,
        // The instruction of a kernel fault is a symbol.
        ip: field("ip=")
            .and_then(|ip| ip.starts_with("0x").then(|| hex(ip))?)
            .unwrap_or(0),
        error: hex(field("error_code=")?)? as u32,
        kernel,
    })
}

fn task<'a>(fields: &str) -> Option<What<'a>> {
    let mut numbers = fields
        .split(['(', ')', ':', ' '])
        .filter(|s| !s.is_empty())
        .map(|s| s.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    Some(What::Fork {
        pid: next()?,
        tid: next()?,
        parent_pid: next()?,
        parent_tid: next()?,
    })
}

fn comm(fields: &str) -> Option<What<'_>> {
    let (exec, rest) = match fields.strip_prefix("exec: ") {
        Some(rest) => (true, rest),
        None => (false, fields),
    };
    let (name, ids) = rest.rsplit_once(':')?;
    let (_, tid) = ids.split_once('/')?;
    Some(What::Comm {
        name,
        tid: tid.trim().parse().ok()?,
        exec,
    })
}

/// `pid/tid: [0xSTART(0xLEN) @ 0xOFF dev inode gen]: perms path`
fn mmap(fields: &str) -> Option<Mmap<'_>> {
    let (ids, rest) = fields.split_once(": [")?;
    let (_, tid) = ids.split_once('/')?;
    let (range, rest) = rest.split_once(") @ ")?;
    let (start, len) = range.split_once('(')?;
    let (place, rest) = rest.split_once("]: ")?;
    let mut place = place.split(' ');
    let (offset, device, inode) = (place.next()?, place.next()?, place.next()?);
    let (perms, path) = rest.split_once(' ')?;
    Some(Mmap {
        tid: tid.parse().ok()?,
        start: hex(start)?,
        len: hex(len)?,
        offset: hex(offset)?,
        device,
        inode: inode.parse().ok()?,
        perms,
        path: path.trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_every_kind() {
        let c = columns("5/6 [001] 1.000000002: sched:sched_switch: prev_state=S").unwrap();
        assert_eq!(
            c,
            (5, 6, 1_000_000_002, "sched:sched_switch", "prev_state=S")
        );
        let c = columns("5/6 [000] 1.000000002: PERF_RECORD_EXIT(5:5):(1:1)").unwrap();
        assert_eq!((c.3, c.4), ("PERF_RECORD_EXIT", "(5:5):(1:1)"));
        let c = columns("5/6 [000] 1.000000002: PERF_RECORD_FORK(7:7):(5:5)").unwrap();
        assert_eq!(c.3, "PERF_RECORD_FORK");
        let c = columns("5/6 [000] 1.000000002: PERF_RECORD_COMM exec: a b:5/6").unwrap();
        assert_eq!((c.3, c.4), ("PERF_RECORD_COMM", "exec: a b:5/6"));
    }
}
