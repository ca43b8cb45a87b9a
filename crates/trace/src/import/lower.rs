//! Understood events to operations: 32-bit addresses, schedule, file.
//!
//! Invariant: operations come out in scheduled order, and the writer's model accepts each of them.

use super::{
    order,
    pack::Map,
    raw::{Call, Image, Raw, Recording, What},
    syscalls,
};
use crate::{
    error::TraceError,
    format::TraceWriter,
    op::{
        self, ExecImage, ExecMapping, FileRef, MapFlags, MappingKind, Op, RemapFlags, SegmentId,
        TaskId,
    },
    schedule::{Entry, Mark, schedule},
    space::{PAGE, page_up},
    trace::Trace,
};

/// Schedules, packs and writes a recording.
pub(super) fn lower(
    mut recording: Recording,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Trace, TraceError> {
    let map = Map::of(&recording)?;
    if map.is_packed() {
        recording
            .header
            .notes
            .push("64-bit addresses were packed below 3 GiB".to_owned());
    }
    let entries: Vec<Entry> = recording
        .events
        .iter()
        .map(|e| Entry {
            task: e.task,
            time: e.time,
            mark: match e.what {
                What::Exit => Mark::Exit,
                What::Switch(end) => Mark::Leave(end),
                _ => Mark::Event,
            },
        })
        .collect();
    let portions = schedule(&entries, &order::needs(&recording.events));
    let total = recording.events.len() as u64;
    let Recording {
        header,
        events,
        images,
        ..
    } = recording;
    let lowering = Lowering {
        map,
        images,
        name: header.name.clone(),
    };
    let mut writer = TraceWriter::new(header);
    let mut ops = Vec::new();
    let mut done = 0;
    for (i, portion) in portions.iter().enumerate() {
        for &event in &portion.events {
            lowering.event(&events[event as usize], &mut ops)?;
            for op in ops.drain(..) {
                writer.push(&op)?;
            }
            done += 1;
            if done % 65_536 == 0 {
                progress(done, total);
            }
        }
        if let Some(next) = portions.get(i + 1) {
            writer.push(&Op::Switch {
                to: TaskId(next.task),
                how: portion.end,
            })?;
        }
    }
    progress(total, total);
    writer.finish()
}

struct Lowering {
    map: Map,
    images: Vec<Image>,
    name: String,
}

impl Lowering {
    fn event(&self, event: &Raw, out: &mut Vec<Op>) -> Result<(), TraceError> {
        let lineage = event.lineage;
        match &event.what {
            What::Touch {
                va,
                ip,
                access,
                origin,
                span,
            } => {
                let va = self.known(lineage, *va, "touch")?;
                let ip = self.map.address(lineage, *ip).unwrap_or(0);
                out.push(Op::Touch {
                    va,
                    ip,
                    access: *access,
                    origin: *origin,
                    span: *span,
                });
            }
            What::Call(call) => self.call(lineage, call, out)?,
            What::Exec(image) => {
                let image = Box::new(self.image(lineage, &self.images[*image as usize])?);
                out.push(op::Call::Exec { image }.into());
            }
            What::Exit => out.push(op::Call::Exit {}.into()),
            What::Switch(_) => {}
        }
        Ok(())
    }

    fn error(&self, reason: String) -> TraceError {
        TraceError::Recording {
            name: self.name.clone(),
            reason,
        }
    }

    fn known(&self, lineage: u32, at: u64, what: &str) -> Result<u32, TraceError> {
        self.map
            .address(lineage, at)
            .ok_or_else(|| self.error(format!("{what} at {at:#x} has no 32-bit address")))
    }

    fn end(&self, lineage: u32, at: u64, what: &str) -> Result<u32, TraceError> {
        self.map
            .end(lineage, at)
            .ok_or_else(|| self.error(format!("{what} at {at:#x} has no 32-bit address")))
    }

    fn length(&self, len: u64) -> Result<u32, TraceError> {
        u32::try_from(len).map_err(|_| self.error(format!("length {len:#x} has more than 32 bits")))
    }

    /// One call per kept part of a range; a call on dropped ranges only is a call without effect.
    fn parts(
        &self,
        lineage: u32,
        at: u64,
        len: u64,
        nr: u32,
        out: &mut Vec<Op>,
        call: impl Fn(u64, u32, u32) -> op::Call,
    ) {
        let parts = self.map.parts(lineage, at, len);
        if parts.is_empty() {
            out.push(other(nr));
        }
        out.extend(
            parts
                .into_iter()
                .map(|(offset, addr, len)| Op::from(call(offset, addr, len))),
        );
    }

    fn call(&self, lineage: u32, call: &Call, out: &mut Vec<Op>) -> Result<(), TraceError> {
        let single = match *call {
            Call::Mmap {
                hint,
                len,
                prot,
                flags,
                file,
                result,
            } => {
                self.parts(lineage, result, len, 192, out, |offset, addr, len| {
                    op::Call::Mmap {
                        // A hint that was taken stays one; another means nothing here.
                        hint: if hint == result {
                            addr
                        } else {
                            self.map
                                .address(lineage, hint)
                                .filter(|_| !self.map.is_packed())
                                .unwrap_or(0)
                        },
                        len,
                        prot,
                        flags,
                        file: file.map(|f| FileRef {
                            page_offset: f.page_offset + (offset / PAGE) as u32,
                            ..f
                        }),
                        result: addr,
                    }
                });
                return Ok(());
            }
            Call::Munmap { addr, len } => {
                self.parts(lineage, addr, len, 91, out, |_, addr, len| {
                    op::Call::Munmap { addr, len }
                });
                return Ok(());
            }
            Call::Mprotect { addr, len, prot } => {
                self.parts(lineage, addr, len, 125, out, |_, addr, len| {
                    op::Call::Mprotect { addr, len, prot }
                });
                return Ok(());
            }
            Call::Madvise { addr, len, advice } => {
                self.parts(lineage, addr, len, 219, out, |_, addr, len| {
                    op::Call::Madvise { addr, len, advice }
                });
                return Ok(());
            }
            Call::Mlock { addr, len } => {
                self.parts(lineage, addr, len, 150, out, |_, addr, len| {
                    op::Call::Mlock { addr, len }
                });
                return Ok(());
            }
            Call::Munlock { addr, len } => {
                self.parts(lineage, addr, len, 151, out, |_, addr, len| {
                    op::Call::Munlock { addr, len }
                });
                return Ok(());
            }
            Call::RemapFilePages {
                addr,
                len,
                page_offset,
            } => op::Call::RemapFilePages {
                addr: self.known(lineage, addr, "remap_file_pages")?,
                len: self.length(len)?,
                page_offset,
            },
            Call::Mremap {
                old,
                old_len,
                new_len,
                flags,
                new_addr,
                result,
            } => op::Call::Mremap {
                old: self.known(lineage, old, "mremap")?,
                old_len: self.length(old_len)?,
                new_len: self.length(new_len)?,
                flags: RemapFlags(flags),
                new_addr: if new_addr == 0 {
                    0
                } else {
                    self.known(lineage, new_addr, "mremap")?
                },
                result: self.known(lineage, result, "mremap")?,
            },
            Call::Brk { addr, result, .. } => op::Call::Brk {
                addr: if addr == 0 {
                    0
                } else {
                    self.map.end(lineage, addr).unwrap_or(0)
                },
                result: self.end(lineage, result, "brk")?,
            },
            Call::Shmget { segment, len } => op::Call::Shmget {
                segment: SegmentId(segment),
                len: self.length(len)?,
            },
            Call::Shmat {
                segment,
                hint,
                prot,
                result,
                ..
            } => op::Call::Shmat {
                segment: SegmentId(segment),
                hint: self.map.address(lineage, hint).unwrap_or(0),
                prot,
                result: self.known(lineage, result, "shmat")?,
            },
            Call::Shmdt { addr, .. } => op::Call::Shmdt {
                addr: self.known(lineage, addr, "shmdt")?,
            },
            Call::Fork { child } => op::Call::Fork {
                child: TaskId(child),
            },
            Call::Vfork { child } => op::Call::Vfork {
                child: TaskId(child),
            },
            Call::Clone { child } => op::Call::Clone {
                child: TaskId(child),
            },
            Call::Wait { child } => op::Call::Wait {
                child: TaskId(child),
            },
            Call::Other { nr } => {
                out.push(other(nr));
                return Ok(());
            }
            Call::Failed { nr } => op::Call::Failed { nr },
        };
        out.push(single.into());
        Ok(())
    }

    fn image(&self, lineage: u32, image: &Image) -> Result<ExecImage, TraceError> {
        let mut mappings = Vec::new();
        for m in &image.mappings {
            let len = m.area.end - m.area.start;
            for (offset, start, len) in self.map.parts(lineage, m.area.start, len) {
                let flags = match m.kind {
                    MappingKind::Shared => MapFlags::SHARED,
                    MappingKind::Stack => MapFlags::PRIVATE.union(MapFlags::GROWSDOWN),
                    _ => MapFlags::PRIVATE,
                };
                mappings.push(ExecMapping {
                    start,
                    end: start + len,
                    prot: m.area.prot,
                    flags: if m.file.is_none() {
                        flags.union(MapFlags::ANONYMOUS)
                    } else {
                        flags
                    },
                    file: m.file.map(|f| FileRef {
                        page_offset: f.page_offset + (offset / PAGE) as u32,
                        ..f
                    }),
                    kind: m.kind,
                });
            }
        }
        mappings.sort_by_key(|m| m.start);
        let brk = match image.brk {
            Some(brk) => self.end(lineage, brk, "brk")?,
            None => end_of_program(&mappings),
        };
        let stack_top = match image.stack_top {
            0 => 0,
            top => self.end(lineage, top, "stack")?,
        };
        Ok(ExecImage {
            name: image.name.clone(),
            mappings,
            brk,
            stack_top,
        })
    }
}

/// Where the heap of a program begins that never asked for it: behind its bss.
fn end_of_program(mappings: &[ExecMapping]) -> u32 {
    let program = mappings.iter().find_map(|m| m.file).map(|f| f.file);
    let mut end = 0;
    for m in mappings {
        let own = m.file.is_some() && m.file.map(|f| f.file) == program;
        if own || m.kind == MappingKind::Bss && m.start == end {
            end = m.end;
        }
    }
    page_up(u64::from(end)) as u32
}

fn other(nr: u32) -> Op {
    let (bytes_in, bytes_out) = syscalls::copied_bytes(nr);
    op::Call::Other {
        nr,
        bytes_in,
        bytes_out,
    }
    .into()
}
