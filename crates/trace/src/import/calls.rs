//! What one printed system call did: its effect on the tally, and the event it becomes.
//!
//! Names and argument forms are those of strace 6 for i386 and x86-64. Counting follows the recordings' reference replay; a
//! failed call counts as such and becomes `Failed`, whatever it was.
//!
//! Invariant: each call emits one event, but for exec (its event is the `COMM exec` record), exit (its event is the exit record)
//! and a fork that perf reported first.

use super::{
    raw::Call,
    recorder::Recorder,
    strace::{Event, number},
    syscalls,
    tally::Sharing,
};
use crate::{
    error::TraceError,
    op::{Advice, FileRef, MapFlags, Prot},
    space::{Area, Object, PAGE, page_up},
};

/// Arguments of a call, with the place for error messages.
struct Args<'a> {
    list: Vec<&'a str>,
    line: u64,
    call: &'a str,
    name: &'a str,
}

impl<'a> Args<'a> {
    fn bad(&self, what: &str) -> TraceError {
        TraceError::Line {
            name: self.name.to_owned(),
            line: self.line,
            reason: format!(
                "{}: {what} expected in {:?}",
                self.call,
                self.list.join(", ")
            ),
        }
    }

    fn text(&self, at: usize) -> Result<&'a str, TraceError> {
        self.list
            .get(at)
            .copied()
            .ok_or_else(|| self.bad(&format!("argument {at}")))
    }

    fn number(&self, at: usize) -> Result<u64, TraceError> {
        number(self.text(at)?).ok_or_else(|| self.bad(&format!("number as argument {at}")))
    }

    fn prot(&self, at: usize) -> Result<Prot, TraceError> {
        let text = self.text(at)?;
        let bit = |name, bit| if text.contains(name) { bit } else { 0 };
        Ok(Prot(
            bit("PROT_READ", 1) | bit("PROT_WRITE", 2) | bit("PROT_EXEC", 4),
        ))
    }

    fn map_flags(&self, at: usize) -> Result<MapFlags, TraceError> {
        let text = self.text(at)?;
        let names = [
            ("MAP_SHARED", MapFlags::SHARED),
            ("MAP_PRIVATE", MapFlags::PRIVATE),
            ("MAP_FIXED", MapFlags::FIXED),
            ("MAP_ANONYMOUS", MapFlags::ANONYMOUS),
            ("MAP_GROWSDOWN", MapFlags::GROWSDOWN),
            ("MAP_DENYWRITE", MapFlags::DENYWRITE),
            ("MAP_EXECUTABLE", MapFlags::EXECUTABLE),
            ("MAP_LOCKED", MapFlags::LOCKED),
            ("MAP_NORESERVE", MapFlags::NORESERVE),
            ("MAP_POPULATE", MapFlags::POPULATE),
            ("MAP_NONBLOCK", MapFlags::NONBLOCK),
        ];
        let has = |name: &str| {
            text.split('|')
                .any(|f| f == name || f == format!("{name}_NOREPLACE"))
        };
        Ok(names
            .into_iter()
            .filter(|(n, _)| has(n))
            .fold(MapFlags(0), |all, (_, f)| all.union(f)))
    }
}

/// Applies one call to the tally and emits its event.
pub(super) fn apply(
    r: &mut Recorder,
    event: &Event<'_>,
    name: &str,
    args: &str,
    result: &str,
) -> Result<(), TraceError> {
    let (tid, time) = (event.tid, event.time);
    let file_name = r.name.clone() + ".strace";
    let args = Args {
        list: args.split(", ").collect(),
        line: event.line,
        call: name,
        name: &file_name,
    };
    match name {
        "clone" | "fork" | "vfork" | "clone3" => {
            let child = result
                .split(' ')
                .next()
                .and_then(|c| c.parse::<u32>().ok())
                .unwrap_or(0);
            if child == 0 {
                failed(r, tid, time, name);
                return Ok(());
            }
            let has = |flag| args.list.iter().any(|a| a.contains(flag));
            let sharing = if name == "vfork" || has("CLONE_VM") && !has("CLONE_THREAD") {
                Sharing::Vfork
            } else if has("CLONE_VM") {
                Sharing::Thread
            } else {
                Sharing::Copy
            };
            r.fork(tid, child, None, sharing, time);
            return Ok(());
        }
        "execve" | "execveat" => {
            if result.starts_with('0') {
                r.tally.count("execs");
            } else {
                failed(r, tid, time, name);
            }
            return Ok(());
        }
        _ => {}
    }
    if result.starts_with("-1") || result.starts_with('?') {
        r.tally.count("syscalls_failed");
        match name {
            "exit" | "exit_group" => {}
            _ => failed(r, tid, time, name),
        }
        return Ok(());
    }
    if !r.tally.knows(tid) {
        // A call of a thread whose birth neither half shows.
        r.tally.count("unresolved");
        return Ok(());
    }
    let returned = || {
        let text = result.split(' ').next().unwrap_or("");
        number(text).ok_or_else(|| args.bad("number as result"))
    };
    let call = match name {
        "mmap" | "mmap2" | "old_mmap" => mmap(r, tid, time, &args, returned()?)?,
        "munmap" => {
            r.tally.count("munmaps");
            let (addr, len) = (args.number(0)?, args.number(1)?);
            r.tally.unmap(tid, addr, addr.saturating_add(page_up(len)));
            Call::Munmap { addr, len }
        }
        "mprotect" => {
            r.tally.count("mprotects");
            let (addr, len, prot) = (args.number(0)?, args.number(1)?, args.prot(2)?);
            r.tally
                .protect(tid, addr, addr.saturating_add(page_up(len)), prot);
            Call::Mprotect { addr, len, prot }
        }
        "brk" => {
            r.tally.count("brks");
            let (addr, result) = (args.number(0)?, returned()?);
            let before = match r.tally.brk(tid, result) {
                Some(before) => before,
                None => {
                    r.first_brk(tid, result);
                    result
                }
            };
            Call::Brk {
                addr,
                result,
                before,
            }
        }
        "mremap" => mremap(r, tid, &args, returned()?)?,
        "remap_file_pages" => remap_file_pages(r, tid, &args)?,
        "madvise" => {
            r.tally.count("madvises");
            let (addr, len) = (args.number(0)?, args.number(1)?);
            let advice = match args.text(2)? {
                "MADV_NORMAL" => Advice::Normal,
                "MADV_RANDOM" => Advice::Random,
                "MADV_SEQUENTIAL" => Advice::Sequential,
                "MADV_WILLNEED" => Advice::WillNeed,
                "MADV_DONTNEED" | "MADV_FREE" => {
                    r.tally
                        .discard(tid, addr, addr.saturating_add(page_up(len)));
                    Advice::DontNeed
                }
                _ => Advice::Other,
            };
            Call::Madvise { addr, len, advice }
        }
        "mlock" | "mlock2" => Call::Mlock {
            addr: args.number(0)?,
            len: args.number(1)?,
        },
        "munlock" => Call::Munlock {
            addr: args.number(0)?,
            len: args.number(1)?,
        },
        "shmget" => {
            let len = args.number(1)?;
            let segment = r.segment(returned()?);
            let known = &mut r.header.segments[segment as usize].bytes;
            // The page of a segment seen for the first time is a place-holder.
            *known = u32::try_from(len)
                .map_err(|_| args.bad("size below 4 GiB"))?
                .max(if *known == PAGE as u32 { 0 } else { *known });
            Call::Shmget { segment, len }
        }
        "shmat" => {
            r.tally.count("shmats");
            let (segment, result) = (r.segment(args.number(0)?), returned()?);
            let len = u64::from(r.header.segments[segment as usize].bytes);
            let object = r.sysv_object(segment);
            let prot = if args.text(2)?.contains("SHM_RDONLY") {
                Prot::READ
            } else {
                Prot::RW
            };
            let (start, end) = (result, result.saturating_add(page_up(len)));
            // The reference replay takes each attachment as writable.
            r.tally.map(
                tid,
                Area {
                    start,
                    end,
                    prot: Prot::RW,
                    object: Object::Shm(object),
                    offset: 0,
                },
            );
            r.tally.stat_of(tid);
            Call::Shmat {
                segment,
                len,
                hint: args.number(1)?,
                prot,
                result,
            }
        }
        "shmdt" => {
            let addr = args.number(0)?;
            let area = r.tally.mm(tid).and_then(|m| m.space.find(addr).copied());
            let len = area.map_or(0, |a| a.end - a.start);
            if let Some(a) = area {
                r.tally.unmap(tid, a.start, a.end);
            }
            Call::Shmdt { addr, len }
        }
        "wait4" | "waitpid" | "waitid" => {
            let child = number(result.split(' ').next().unwrap_or(""))
                .and_then(|pid| r.task_of(pid as u32));
            match child {
                Some(child) => Call::Wait { child },
                None => other(r, name),
            }
        }
        _ => {
            // A printed call without effect here; one whose number is not known comes from perf.
            if syscalls::recorded_number(name, r.abi).is_some() {
                let call = other(r, name);
                r.emit_call(tid, time, call);
            }
            return Ok(());
        }
    };
    r.emit_call(tid, time, call);
    Ok(())
}

fn number_of(r: &Recorder, name: &str) -> Option<u32> {
    syscalls::recorded_number(name, r.abi).map(|nr| syscalls::i386_number(nr, r.abi))
}

fn other(r: &Recorder, name: &str) -> Call {
    Call::Other {
        nr: number_of(r, name).unwrap_or(crate::Call::FOREIGN),
    }
}

fn failed(r: &mut Recorder, tid: u32, time: u64, name: &str) {
    if let Some(nr) = number_of(r, name) {
        r.emit_call(tid, time, Call::Failed { nr });
    }
}

/// `3</path>` to `/path`.
fn path_of(fd: &str) -> &str {
    let path = fd
        .split_once('<')
        .map_or("", |(_, p)| p.strip_suffix('>').unwrap_or(p));
    path.split("<char").next().unwrap_or("")
}

fn mmap(
    r: &mut Recorder,
    tid: u32,
    time: u64,
    args: &Args<'_>,
    result: u64,
) -> Result<Call, TraceError> {
    r.tally.count("mmaps");
    let (hint, len, prot, mut flags) = (
        args.number(0)?,
        args.number(1)?,
        args.prot(2)?,
        args.map_flags(3)?,
    );
    let offset = args.number(args.list.len() - 1)?;
    let shared = flags.contains(MapFlags::SHARED) || args.text(3)?.contains("MAP_SHARED");
    let (start, end) = (result, result.saturating_add(page_up(len)));
    let path = path_of(args.text(4)?);
    let mut file = None;
    let (object, offset) = if flags.contains(MapFlags::ANONYMOUS) {
        if shared {
            (Object::Shm(r.tally.fresh_object()), offset)
        } else {
            (Object::Anon, 0)
        }
    } else if path.starts_with("/dev/zero") {
        flags = flags.union(MapFlags::ANONYMOUS);
        (Object::Anon, 0)
    } else {
        let end_page = offset.saturating_add(page_up(len)) / PAGE;
        let (object, id) = r.path(path, time, end_page);
        file = Some(FileRef {
            file: id,
            page_offset: (offset / PAGE) as u32,
        });
        (
            if shared {
                Object::FileShared(object)
            } else {
                Object::FilePrivate(object)
            },
            offset,
        )
    };
    r.tally.map(
        tid,
        Area {
            start,
            end,
            prot,
            object,
            offset,
        },
    );
    r.tally.stat_of(tid);
    Ok(Call::Mmap {
        hint,
        len,
        prot,
        flags,
        file,
        result,
    })
}

fn mremap(r: &mut Recorder, tid: u32, args: &Args<'_>, result: u64) -> Result<Call, TraceError> {
    r.tally.count("mremaps");
    let (old, old_len, new_len) = (args.number(0)?, args.number(1)?, args.number(2)?);
    let flags = args.text(3)?;
    let bit = |name, bit| if flags.contains(name) { bit } else { 0 };
    let flags = bit("MREMAP_MAYMOVE", 1) | bit("MREMAP_FIXED", 2);
    let new_addr = if args.list.len() > 4 {
        args.number(4)?
    } else {
        0
    };
    r.tally
        .remap(tid, old, page_up(old_len), result, page_up(new_len));
    Ok(Call::Mremap {
        old,
        old_len,
        new_len,
        flags,
        new_addr,
        result,
    })
}

fn remap_file_pages(r: &mut Recorder, tid: u32, args: &Args<'_>) -> Result<Call, TraceError> {
    r.tally.count("remaps");
    let (addr, len, page) = (args.number(0)?, args.number(1)?, args.number(3)?);
    let (start, end) = (addr, addr.saturating_add(page_up(len)));
    if let Some(area) = r.tally.mm(tid).and_then(|m| m.space.find(start).copied()) {
        r.tally.map(
            tid,
            Area {
                start,
                end,
                offset: page.wrapping_mul(PAGE),
                ..area
            },
        );
        r.tally.stat_of(tid);
    }
    Ok(Call::RemapFilePages {
        addr,
        len,
        page_offset: page as u32,
    })
}
