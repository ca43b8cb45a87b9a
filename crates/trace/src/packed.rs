//! A trace moved into a smaller user space: for splits that leave a process 2 GB or 1 GB.
//!
//! The ranges that any process ever maps are taken together; gaps between them close to what is left modulo 2 MB, so that every page
//! keeps its place in its page table, and the last range (the stack) ends where user space ends. The map is the same for all
//! processes and rising, so neighbours stay neighbours, searches find the same order, and fork-shared pages keep one address.
//!
//! Left out: a hint that asked for an address nobody mapped becomes 0.
//!
//! Invariant: a packed trace has the operations of the original, one for one.

use crate::error::TraceError;
use crate::format::TraceWriter;
use crate::model::{HUGE_USER_END, USER_END, user_end_of};
use crate::op::{Call, ExecImage, Op, PAGE_SIZE};
use crate::ranges::{Moved, Ranges};
use crate::space::{page_down, page_up};
use crate::trace::Trace;

/// Bytes that one page table maps.
const TABLE: u64 = 2 << 20;

/// Gaps up to this size stay as they are: guard pages, holes of a heap.
const KEPT_GAP: u64 = 1 << 20;

impl Trace {
    /// Address behind the highest byte that the trace uses.
    #[must_use]
    pub fn highest_address(&self) -> u64 {
        seen(self).iter().next_back().map_or(0, |(_, end)| end)
    }

    /// End of the user space that the trace is laid out for: that of 3G/1G, or of 4G/4G.
    #[must_use]
    pub fn user_end(&self) -> u64 {
        // All images are laid out alike, and the first operation is an exec.
        let first = self.ops().find_map(|op| match op {
            Op::Call(call) => match *call {
                Call::Exec { image } => Some(user_end_of(&image)),
                _ => None,
            },
            _ => None,
        });
        first.unwrap_or(USER_END)
    }

    /// The trace with all its addresses below `limit`.
    ///
    /// # Errors
    /// If what its processes map, taken together, is larger than that.
    pub fn packed(&self, limit: u64) -> Result<Trace, TraceError> {
        let places = Places::of(&seen(self), self.name(), limit)?;
        let mut header = self.header().clone();
        header.name = format!("{} packed below {limit:#x}", header.name);
        header
            .notes
            .push(format!("addresses packed below {limit:#x}"));
        let mut writer = TraceWriter::new(header);
        for op in self.ops() {
            writer.push(&places.op(op))?;
        }
        writer.finish()
    }
}

/// Every range that some process maps or touches.
fn seen(trace: &Trace) -> Ranges {
    let mut runs = Ranges::default();
    for op in trace.ops() {
        match op {
            Op::Touch { va, .. }
            | Op::Fetch { va, .. }
            | Op::Load { va, .. }
            | Op::Store { va, .. }
            | Op::Modify { va, .. } => note(&mut runs, va.into(), u64::from(va) + 1),
            Op::Call(call) => match *call {
                Call::Exec { image } => {
                    for m in &image.mappings {
                        note(&mut runs, m.start.into(), m.end.into());
                    }
                    note(&mut runs, image.brk.into(), u64::from(image.brk) + 1);
                }
                Call::Mmap { len, result, .. } => {
                    note(&mut runs, result.into(), u64::from(result) + u64::from(len));
                }
                Call::Mremap {
                    result, new_len, ..
                } => note(
                    &mut runs,
                    result.into(),
                    u64::from(result) + u64::from(new_len),
                ),
                Call::Brk { result, .. } => note(&mut runs, u64::from(result) - 1, result.into()),
                Call::Shmat {
                    segment, result, ..
                } => {
                    let len = trace.header().segments[segment.0 as usize].bytes;
                    note(&mut runs, result.into(), u64::from(result) + u64::from(len));
                }
                _ => {}
            },
            Op::Work { .. } | Op::Switch { .. } => {}
        }
    }
    runs
}

/// Adds the pages of a range, joined with all that lie nearer than [`KEPT_GAP`]. What lies above user space (the vsyscall page)
/// belongs to nobody.
fn note(runs: &mut Ranges, start: u64, end: u64) {
    let (start, end) = (page_down(start), page_up(end));
    if end <= HUGE_USER_END {
        runs.insert(start, end, KEPT_GAP);
    }
}

/// Where every range is packed to.
struct Places(Moved);

impl Places {
    fn of(runs: &Ranges, name: &str, limit: u64) -> Result<Places, TraceError> {
        let mut places = Moved::default();
        // From the top down, each range as high as its place modulo 2 MB lets it be.
        let mut top = limit;
        for (start, end) in runs.iter().rev() {
            let len = end - start;
            let highest = top.checked_sub(len);
            let place = highest.and_then(|h| {
                let off = (h % TABLE + TABLE - start % TABLE) % TABLE;
                h.checked_sub(off).filter(|&p| p >= u64::from(PAGE_SIZE))
            });
            let Some(place) = place else {
                return Err(TraceError::Recording {
                    name: name.to_owned(),
                    reason: format!(
                        "cannot be packed below {limit:#x}: {len} bytes at {start:#x} find no room"
                    ),
                });
            };
            places.insert(start, end, place);
            // At least a page between two ranges that were apart.
            top = place - u64::from(PAGE_SIZE);
        }
        Ok(Places(places))
    }

    /// Where `at` is now; itself where nobody maps it.
    fn at(&self, at: u32) -> u32 {
        self.0.address(at.into()).unwrap_or(at)
    }

    /// The same for an address that may stand just behind a range.
    fn end(&self, at: u32) -> u32 {
        match at {
            0 => 0,
            _ => self.at(at - 1) + 1,
        }
    }

    /// The part of `[start, start + len)` from its first to its last mapped byte; `None` if there is none.
    fn range(&self, start: u32, len: u32) -> Option<(u32, u32)> {
        let mut parts = self
            .0
            .parts(start.into(), u64::from(start) + u64::from(len));
        let first = parts.next()?;
        let last = parts.next_back().unwrap_or(first);
        Some((first.to, last.to - first.to + last.len))
    }

    /// A hint or a fixed address: 0 where nobody maps it.
    fn hint(&self, at: u32) -> u32 {
        self.0.address(at.into()).unwrap_or(0)
    }

    fn op(&self, op: Op) -> Op {
        match op {
            Op::Touch {
                va,
                ip,
                access,
                origin,
                span,
            } => Op::Touch {
                va: self.at(va),
                ip: self.at(ip),
                access,
                origin,
                span,
            },
            Op::Fetch { va, len } => Op::Fetch {
                va: self.at(va),
                len,
            },
            Op::Load { va, len } => Op::Load {
                va: self.at(va),
                len,
            },
            Op::Store { va, len } => Op::Store {
                va: self.at(va),
                len,
            },
            Op::Modify { va, len } => Op::Modify {
                va: self.at(va),
                len,
            },
            Op::Call(call) => Op::from(self.call(*call)),
            other @ (Op::Work { .. } | Op::Switch { .. }) => other,
        }
    }

    fn call(&self, mut call: Call) -> Call {
        if let Some(nr) = self.concerns_nothing(&call) {
            return Call::Other {
                nr,
                bytes_in: 0,
                bytes_out: 0,
            };
        }
        match &mut call {
            Call::Mmap { hint, result, .. } | Call::Shmat { hint, result, .. } => {
                *hint = self.hint(*hint);
                *result = self.at(*result);
            }
            Call::Munmap { addr, len }
            | Call::Mprotect { addr, len, .. }
            | Call::Madvise { addr, len, .. }
            | Call::Mlock { addr, len }
            | Call::Munlock { addr, len } => {
                if let Some((a, l)) = self.range(*addr, *len) {
                    (*addr, *len) = (a, l);
                }
            }
            Call::Mremap {
                old,
                new_addr,
                result,
                ..
            } => {
                *old = self.at(*old);
                *new_addr = self.hint(*new_addr);
                *result = self.at(*result);
            }
            Call::Brk { addr, result } => {
                *addr = match *addr {
                    0 => 0,
                    a => self.end(a),
                };
                *result = self.end(*result);
            }
            Call::RemapFilePages { addr, .. }
            | Call::Shmdt { addr }
            | Call::FileWrite { addr, .. } => *addr = self.at(*addr),
            Call::Exec { image } => self.image(image),
            Call::Shmget { .. }
            | Call::Fork { .. }
            | Call::Vfork { .. }
            | Call::Clone { .. }
            | Call::Exit {}
            | Call::Wait { .. }
            | Call::Fsync { .. }
            | Call::Truncate { .. }
            | Call::Other { .. }
            | Call::Failed { .. } => {}
        }
        call
    }

    /// Number of a call on a range that nobody maps: it succeeds and does nothing.
    fn concerns_nothing(&self, call: &Call) -> Option<u32> {
        let (nr, addr, len) = match *call {
            Call::Munmap { addr, len } => (91, addr, len),
            Call::Mprotect { addr, len, .. } => (125, addr, len),
            Call::Mlock { addr, len } => (150, addr, len),
            Call::Munlock { addr, len } => (151, addr, len),
            Call::Madvise { addr, len, .. } => (219, addr, len),
            _ => return None,
        };
        self.range(addr, len).is_none().then_some(nr)
    }

    fn image(&self, image: &mut ExecImage) {
        for m in &mut image.mappings {
            (m.start, m.end) = (self.at(m.start), self.end(m.end));
        }
        image.brk = self.end(image.brk);
        image.stack_top = self.end(image.stack_top);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::TraceBuilder;

    fn small() -> Trace {
        let mut t = TraceBuilder::new("small");
        let p = t.spawn();
        let a = t.on(p).mmap_anon(5 << 20);
        t.on(p).write_pages(a, 5 << 20);
        t.on(p).mmap_fixed(0x9000_3000, 0x5000, crate::Prot::RW);
        t.on(p).write_pages(0x9000_3000, 0x5000);
        t.on(p).brk(0x3000);
        let c = t.on(p).fork();
        let b = t.on(c).mremap(a, 5 << 20, 6 << 20);
        t.on(c).munmap(b, 6 << 20).exit();
        t.finish()
    }

    #[test]
    fn a_packed_trace_is_valid_and_has_the_same_operations() {
        let trace = small();
        assert_eq!(trace.highest_address(), USER_END);
        for limit in [0x8000_0000, 0x4000_0000] {
            let packed = trace.packed(limit).unwrap();
            assert_eq!(packed.check(|_| {}).unwrap(), *packed.summary());
            assert_eq!(packed.len(), trace.len());
            assert_eq!(packed.highest_address(), limit);
            let (a, b) = (trace.summary(), packed.summary());
            assert_eq!((a.peak_ptes, a.touches), (b.peak_ptes, b.touches));
        }
    }

    #[test]
    fn pages_keep_their_place_in_their_page_table() {
        let trace = small();
        let packed = trace.packed(0x4000_0000).unwrap();
        for (a, b) in trace.ops().zip(packed.ops()) {
            if let (Op::Touch { va: a, .. }, Op::Touch { va: b, .. }) = (a, b) {
                assert_eq!(u64::from(a) % TABLE, u64::from(b) % TABLE);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let e = small().packed(8 << 20).unwrap_err().to_string();
        assert!(e.contains("cannot be packed below 0x800000"), "{e}");
    }
}
