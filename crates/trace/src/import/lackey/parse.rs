//! One lackey file: references and system calls of one process.
//!
//! `I  addr,size`, ` L addr,size`, ` S addr,size`, ` M addr,size`; `==PID==` comments; `SYSCALL[pid,tid](nr) name ( args ) --> result`. A call that may block
//! prints its result on a later line; text of other tools may stand between, so calls are found by their shape, not by
//! column.
//!
//! Invariant: a marker points to the operation that stands in its place, a call without effect.

use crate::{
    error::TraceError,
    import::{input::Text, syscalls},
    op::{Advice, Call, FileId, FileRef, MapFlags, Op, Prot, RemapFlags},
};

/// How a page was used.
pub(super) const EXECUTED: u8 = 1;
pub(super) const LOADED: u8 = 2;
pub(super) const STORED: u8 = 4;

/// A place where another process comes in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Marker {
    Fork { child: u32 },
    Wait,
}

impl Marker {
    pub(super) const fn child(self) -> Option<u32> {
        match self {
            Self::Fork { child } => Some(child),
            Self::Wait => None,
        }
    }
}

/// One process.
pub(super) struct Process {
    pub(super) pid: u32,
    /// The command, its first word.
    pub(super) command: String,
    pub(super) ops: Vec<Op>,
    pub(super) markers: Vec<(usize, Marker)>,
    /// Use of each page of the 32-bit space.
    pub(super) pages: Vec<u8>,
    /// Descriptors mapped, at most this number.
    pub(super) files: u32,
    pub(super) counts: Vec<(&'static str, u64)>,
}

impl Process {
    pub(super) fn comm(&self) -> String {
        self.command.rsplit('/').next().unwrap_or("").to_owned()
    }
}

struct Parser<'a> {
    text: &'a Text,
    line: u64,
    process: Process,
    references: [u64; 4],
    calls: u64,
    /// The summary was met that lackey prints when the process ends.
    ended: bool,
    /// The call whose result has not been printed: its operation and number.
    pending: Option<(usize, u32)>,
}

/// Parses a whole file.
pub(super) fn parse(text: &Text) -> Result<Process, TraceError> {
    let mut p = Parser {
        text,
        line: 0,
        process: Process {
            pid: 0,
            command: String::new(),
            ops: Vec::with_capacity(text.text.len() / 14),
            markers: Vec::new(),
            pages: vec![0; 1 << 20],
            files: 0,
            counts: Vec::new(),
        },
        references: [0; 4],
        calls: 0,
        ended: false,
        pending: None,
    };
    for line in text.text.lines() {
        p.line += 1;
        p.one(line)?;
    }
    p.finish()
}

impl Parser<'_> {
    fn error(&self, reason: String) -> TraceError {
        TraceError::Line {
            name: self.text.name.clone(),
            line: self.line,
            reason,
        }
    }

    fn one(&mut self, line: &str) -> Result<(), TraceError> {
        let bytes = line.as_bytes();
        let kind = match bytes {
            [b'I', b' ', b' ', ..] => 0,
            [b' ', b'L', b' ', ..] => 1,
            [b' ', b'S', b' ', ..] => 2,
            [b' ', b'M', b' ', ..] => 3,
            _ if line.starts_with("SYSCALL[") => return self.call(line),
            _ if line.starts_with("==") => {
                self.comment(line);
                return Ok(());
            }
            _ if line.contains("Success(") || line.contains("Failure(") => {
                return self.result_line(line);
            }
            // Valgrind's own messages and empty lines.
            _ if line.starts_with("--") || line.starts_with("**") || line.trim().is_empty() => {
                return Ok(());
            }
            _ => return Err(self.error(format!("no line of lackey: {line:.80}"))),
        };
        let (va, len) = reference(&bytes[3..])
            .ok_or_else(|| self.error(format!("address,size expected: {line:.80}")))?;
        self.reference(kind, va, len);
        Ok(())
    }

    fn reference(&mut self, kind: usize, va: u32, len: u32) {
        self.references[kind] += 1;
        let last = va.saturating_add(len.max(1) - 1);
        for page in [va >> 12, last >> 12] {
            self.process.pages[page as usize] |= match kind {
                0 => EXECUTED,
                1 => LOADED,
                _ => STORED,
            };
        }
        let mut va = va;
        let mut left = len;
        loop {
            let len = left.min(255) as u8;
            self.process.ops.push(match kind {
                0 => Op::Fetch { va, len },
                1 => Op::Load { va, len },
                2 => Op::Store { va, len },
                _ => Op::Modify { va, len },
            });
            left -= u32::from(len);
            va = va.wrapping_add(u32::from(len));
            if left == 0 {
                break;
            }
        }
    }

    fn comment(&mut self, line: &str) {
        let Some((pid, rest)) = line[2..].split_once("==") else {
            return;
        };
        if self.process.pid == 0 {
            self.process.pid = pid.parse().unwrap_or(0);
        }
        self.ended |= rest.trim_start().starts_with("Exit code:");
        if let Some(command) = rest.trim_start().strip_prefix("Command: ") {
            command
                .split(' ')
                .next()
                .unwrap_or("")
                .clone_into(&mut self.process.command);
        }
    }

    fn call(&mut self, line: &str) -> Result<(), TraceError> {
        self.calls += 1;
        let shape = || {
            let (_, rest) = line.split_once("](")?;
            let (nr, rest) = rest.split_once(')')?;
            Some((nr.parse::<u32>().ok()?, rest.trim_start()))
        };
        let (nr, rest) = shape()
            .ok_or_else(|| self.error(format!("SYSCALL[pid,tid](nr) expected: {line:.80}")))?;
        if rest.starts_with("...") {
            return self.result_line(line);
        }
        let args = Arguments::of(rest);
        let result = Outcome::of(rest);
        let at = self.process.ops.len();
        let mut marker = None;
        let call = match nr {
            2 | 120 | 190 if line.contains("created child") => {
                let child = line
                    .split_once("created child ")
                    .and_then(|(_, c)| c.split(' ').next()?.trim().parse().ok())
                    .ok_or_else(|| self.error("child process number expected".to_owned()))?;
                marker = Some(Marker::Fork { child });
                other(nr)
            }
            7 | 114 if args.get(2) & 1 == 0 => {
                marker = Some(Marker::Wait);
                other(nr)
            }
            11 | 358 if !matches!(result, Some(Outcome::Failure)) => {
                return Err(
                    self.error("exec inside a recorded process cannot be imported".to_owned())
                );
            }
            1 | 252 => Call::Exit {},
            _ => match result {
                Some(Outcome::Failure) => Call::Failed { nr },
                Some(Outcome::Success(value)) => self.success(nr, &args, value),
                None => other(nr),
            },
        };
        self.process.ops.push(call.into());
        if let Some(marker) = marker {
            self.process.markers.push((at, marker));
        }
        self.pending = match result {
            // What may block reports later; a fork's result is the child already known.
            None if !matches!(marker, Some(Marker::Fork { .. })) => Some((at, nr)),
            _ => None,
        };
        Ok(())
    }

    /// The call that a successful result makes of a number.
    fn success(&mut self, nr: u32, args: &Arguments, result: u32) -> Call {
        match nr {
            45 => Call::Brk {
                addr: args.get(0),
                result,
            },
            90 | 192 => {
                let flags = MapFlags(args.get(3));
                let file = (!flags.contains(MapFlags::ANONYMOUS)).then(|| {
                    let fd = args.get(4);
                    self.process.files = self.process.files.max(fd + 1);
                    // mmap2 counts its offset in pages, the old call in bytes.
                    let page_offset = if nr == 192 {
                        args.get(5)
                    } else {
                        args.get(5) >> 12
                    };
                    FileRef {
                        file: FileId(1 + fd),
                        page_offset,
                    }
                });
                let prot = Prot(args.get(2) as u8 & 7);
                Call::Mmap {
                    hint: args.get(0),
                    len: args.get(1),
                    prot,
                    flags,
                    file,
                    result,
                }
            }
            91 => Call::Munmap {
                addr: args.get(0),
                len: args.get(1),
            },
            125 => Call::Mprotect {
                addr: args.get(0),
                len: args.get(1),
                prot: Prot(args.get(2) as u8 & 7),
            },
            163 => Call::Mremap {
                old: args.get(0),
                old_len: args.get(1),
                new_len: args.get(2),
                flags: RemapFlags(args.get(3) as u8 & 3),
                new_addr: if args.get(3) & 2 != 0 { args.get(4) } else { 0 },
                result,
            },
            219 => {
                let advice = match args.get(2) {
                    0 => Advice::Normal,
                    1 => Advice::Random,
                    2 => Advice::Sequential,
                    3 => Advice::WillNeed,
                    4 | 8 => Advice::DontNeed,
                    _ => Advice::Other,
                };
                Call::Madvise {
                    addr: args.get(0),
                    len: args.get(1),
                    advice,
                }
            }
            150 => Call::Mlock {
                addr: args.get(0),
                len: args.get(1),
            },
            151 => Call::Munlock {
                addr: args.get(0),
                len: args.get(1),
            },
            // read and write say how much they copied.
            3 | 180 => Call::Other {
                nr,
                bytes_in: 0,
                bytes_out: result,
            },
            4 | 181 => Call::Other {
                nr,
                bytes_in: result,
                bytes_out: 0,
            },
            _ => other(nr),
        }
    }

    /// The result of an earlier call, on a line of its own.
    fn result_line(&mut self, line: &str) -> Result<(), TraceError> {
        let Some((at, nr)) = self.pending.take() else {
            return Ok(());
        };
        match Outcome::of(line) {
            Some(Outcome::Failure) => {
                self.process.ops[at] = Call::Failed { nr }.into();
                self.process.markers.retain(|(m, _)| *m != at);
            }
            Some(Outcome::Success(value)) if matches!(nr, 3 | 4 | 180 | 181) => {
                self.process.ops[at] = self.success(nr, &Arguments(Vec::new()), value).into();
            }
            Some(Outcome::Success(_)) if matches!(nr, 45 | 90 | 91 | 125 | 163 | 192) => {
                return Err(self.error(format!(
                    "call {nr} changes mappings, but prints its result apart"
                )));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Process, TraceError> {
        if self.process.pid == 0 {
            return Err(self.error("no ==PID== line in the file".to_owned()));
        }
        if !self.ended {
            let reason = "the file ends before lackey's summary (\"Exit code:\")".to_owned();
            return Err(self.error(reason));
        }
        let p = &mut self.process;
        if let Some(exit) = p
            .ops
            .iter()
            .position(|op| matches!(op, Op::Call(c) if **c == Call::Exit {}))
        {
            p.ops.truncate(exit + 1);
        }
        let pages = |mask: u8| p.pages.iter().filter(|&&u| u & mask != 0).count() as u64;
        let high = p.pages.iter().rposition(|&u| u != 0).unwrap_or(0) as u64;
        let [i, l, s, m] = self.references;
        p.counts = vec![
            ("refs", i + l + s + m),
            ("I", i),
            ("L", l),
            ("S", s),
            ("M", m),
            // A line that is not understood ends the import; the count stays because recordings' totals have it.
            ("bad", 0),
            ("syscalls", self.calls),
            ("pages", pages(0xff)),
            ("code_pages", pages(EXECUTED)),
            ("written_pages", pages(STORED)),
            ("addr_hi", high << 12),
        ];
        Ok(self.process)
    }
}

fn other(nr: u32) -> Call {
    let (bytes_in, bytes_out) = syscalls::copied_bytes(nr);
    Call::Other {
        nr,
        bytes_in,
        bytes_out,
    }
}

/// `addr,size`.
fn reference(bytes: &[u8]) -> Option<(u32, u32)> {
    let comma = bytes.iter().position(|&b| b == b',')?;
    let mut va = 0u32;
    if comma == 0 {
        return None;
    }
    for &b in &bytes[..comma] {
        va = va.checked_mul(16)? | (b as char).to_digit(16)?;
    }
    let mut size = 0u32;
    let digits = bytes[comma + 1..].trim_ascii();
    if digits.is_empty() {
        return None;
    }
    for &b in digits {
        size = size
            .checked_mul(10)?
            .checked_add((b as char).to_digit(10)?)?;
    }
    // Nothing an instruction accesses is larger (fxsave: 512 bytes).
    (size <= 4096).then_some((va, size))
}

/// Leading numbers of the arguments.
struct Arguments(Vec<u32>);

impl Arguments {
    fn of(call: &str) -> Self {
        let list = call.split_once('(').map_or("", |(_, a)| a);
        Self(list.split(',').map(leading_number).collect())
    }

    fn get(&self, at: usize) -> u32 {
        self.0.get(at).copied().unwrap_or(0)
    }
}

fn leading_number(arg: &str) -> u32 {
    let arg = arg.trim_start();
    if let Some(hex) = arg.strip_prefix("0x") {
        let end = hex
            .bytes()
            .position(|b| !b.is_ascii_hexdigit())
            .unwrap_or(hex.len());
        return u32::from_str_radix(&hex[..end], 16).unwrap_or(0);
    }
    let (negative, digits) = match arg.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, arg),
    };
    let end = digits
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(digits.len());
    let value = digits[..end].parse::<u64>().unwrap_or(0) as u32;
    if negative {
        value.wrapping_neg()
    } else {
        value
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Success(u32),
    Failure,
}

impl Outcome {
    fn of(text: &str) -> Option<Self> {
        if text.contains("Failure(") {
            return Some(Self::Failure);
        }
        text.split_once("Success(")
            .map(|(_, v)| Self::Success(leading_number(v)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_and_their_refusals() {
        assert_eq!(reference(b"08049570,2"), Some((0x0804_9570, 2)));
        assert_eq!(reference(b"bee998c0,16"), Some((0xbee9_98c0, 16)));
        for bad in [
            &b"08049570"[..],
            b",2",
            b"0804957g,2",
            b"108049570,2",
            b"08049570,",
            b"08049570,99999",
        ] {
            assert_eq!(reference(bad), None);
        }
    }

    #[test]
    fn arguments_may_show_what_they_point_to() {
        let a = Arguments::of(
            "sys_readlink ( 0x820ad39(/proc/self/exe), 0xbeb7b780, 4096 ) --> [pre-success] Success(0x10) ",
        );
        assert_eq!((a.get(0), a.get(2), a.get(9)), (0x0820_ad39, 4096, 0));
        assert_eq!(leading_number("-1, x"), u32::MAX);
    }
}
