//! Recorded addresses to 32-bit ones.
//!
//! Recordings of i386 programs need no change. Those of 64-bit programs are packed below 3 GiB: for each family of address
//! spaces (one exec and the forks that follow it) the ranges ever mapped are collected; runs longer than
//! [`RESERVATION_BYTES`] that are never accessible (a JVM reserves gigabytes) are dropped; what is left keeps its lengths and its
//! neighbours and is placed in first-seen order from [`FIRST_ADDRESS`] up, the stack at the top.
//!
//! Left out: ranges that live at different times do not share packed addresses.
//!
//! Invariant: two addresses of one kept run keep their distance.

use super::raw::{Call, Recording, What};
use crate::{
    error::TraceError,
    model::USER_END,
    op::{MappingKind, Prot},
    ranges::{Moved, Ranges},
    space::{PAGE, page_down, page_up},
};

/// Longest inaccessible run that is kept: guard areas are shorter, reservations longer.
pub(super) const RESERVATION_BYTES: u64 = 1 << 20;
/// Where packing begins: i386 program text.
const FIRST_ADDRESS: u64 = 0x0804_8000;
/// Distance between packed runs, so that they never become neighbours.
const GAP: u64 = 16 * PAGE;

/// Addresses of a recording.
pub(super) enum Map {
    /// They are 32-bit ones.
    Same,
    /// The kept runs of each lineage.
    Packed(Vec<Moved>),
}

impl Map {
    /// Decides whether a recording must be packed, and packs it.
    pub(super) fn of(recording: &Recording) -> Result<Self, TraceError> {
        let fits = recording.header.totals.get("addr_hi") <= USER_END;
        if fits {
            return Ok(Self::Same);
        }
        let mut seen: Vec<Seen> = (0..recording.lineages).map(|_| Seen::default()).collect();
        for event in &recording.events {
            if let Some(seen) = seen.get_mut(event.lineage as usize) {
                seen.note(&event.what, recording);
            }
        }
        let name = &recording.header.name;
        seen.into_iter()
            .map(|s| s.place(name))
            .collect::<Result<_, _>>()
            .map(Self::Packed)
    }

    pub(super) const fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// The packed address.
    pub(super) fn address(&self, lineage: u32, at: u64) -> Option<u32> {
        match self {
            Self::Same => u32::try_from(at).ok().filter(|&a| u64::from(a) < USER_END),
            Self::Packed(runs) => runs.get(lineage as usize)?.address(at),
        }
    }

    /// An address that may stand just behind a run: the end of a heap or a stack.
    pub(super) fn end(&self, lineage: u32, at: u64) -> Option<u32> {
        match self {
            Self::Same => u32::try_from(at).ok().filter(|&a| u64::from(a) <= USER_END),
            Self::Packed(_) => self
                .address(lineage, at)
                .or_else(|| Some(self.address(lineage, at.checked_sub(1)?)? + 1)),
        }
    }

    /// The kept parts of a range, as (offset from its start, packed start, length).
    pub(super) fn parts(&self, lineage: u32, start: u64, len: u64) -> Vec<(u64, u32, u32)> {
        match self {
            Self::Same => match (u32::try_from(start), u32::try_from(len)) {
                (Ok(a), Ok(l)) if start + len <= USER_END => vec![(0, a, l)],
                _ => Vec::new(),
            },
            Self::Packed(runs) => runs.get(lineage as usize).map_or_else(Vec::new, |r| {
                r.parts(start, start.saturating_add(len))
                    .map(|p| (p.from - start, p.to, p.len))
                    .collect()
            }),
        }
    }
}

/// What one lineage ever mapped.
#[derive(Default)]
struct Seen {
    mapped: Ranges,
    accessible: Ranges,
    /// Starts in order of first appearance.
    order: Vec<u64>,
    stack_top: Option<u64>,
}

impl Seen {
    fn add(&mut self, start: u64, end: u64, prot: Prot) {
        // Pages above the user half (vsyscall) belong to nobody.
        if end > 1 << 47 || start >= end {
            return;
        }
        self.mapped.insert(start, end, 0);
        if prot != Prot::NONE {
            self.accessible.insert(start, end, 0);
        }
        self.order.push(start);
    }

    fn note(&mut self, what: &What, recording: &Recording) {
        match what {
            What::Exec(image) => {
                let image = &recording.images[*image as usize];
                for m in &image.mappings {
                    self.add(m.area.start, m.area.end, m.area.prot);
                    if m.kind == MappingKind::Stack {
                        self.stack_top = Some(m.area.end);
                    }
                }
                if let Some(brk) = image.brk {
                    self.add(page_down(brk), page_down(brk) + PAGE, Prot::RW);
                }
            }
            What::Touch { va, .. } => {
                let page = page_down(*va);
                if self.mapped.gaps(page, page + PAGE).is_empty() {
                    self.accessible.insert(page, page + PAGE, 0);
                } else {
                    self.add(page, page + PAGE, Prot::RW);
                }
            }
            What::Call(call) => match **call {
                Call::Mmap {
                    result, len, prot, ..
                }
                | Call::Shmat {
                    result, len, prot, ..
                } => {
                    self.add(result, result.saturating_add(page_up(len)), prot);
                }
                Call::Mprotect { addr, len, prot } if prot != Prot::NONE => {
                    self.accessible
                        .insert(addr, addr.saturating_add(page_up(len)), 0);
                }
                Call::Mremap {
                    result, new_len, ..
                } => {
                    self.add(result, result.saturating_add(page_up(new_len)), Prot::RW);
                }
                Call::Brk { result, before, .. } => {
                    self.add(
                        page_down(before.min(result)),
                        page_up(before.max(result)),
                        Prot::RW,
                    );
                }
                _ => {}
            },
            What::Exit | What::Switch(_) => {}
        }
    }

    fn place(self, name: &str) -> Result<Moved, TraceError> {
        let mut kept = Ranges::default();
        for (start, end) in self.mapped.iter() {
            let mut at = start;
            for (from, to) in self.accessible.gaps(start, end) {
                if to - from > RESERVATION_BYTES {
                    kept.insert(at, from, 0);
                    at = to;
                }
            }
            kept.insert(at, end, 0);
        }
        let mut runs = Moved::default();
        let (mut low, mut high) = (FIRST_ADDRESS, USER_END);
        let mut place = |runs: &mut Moved, start: u64, end: u64, is_stack: bool| {
            let len = end - start;
            let room = high.saturating_sub(low);
            if len + GAP > room {
                return Err(TraceError::Recording {
                    name: name.to_owned(),
                    reason: format!(
                        "cannot be packed below 3 GiB: {len} bytes at {start:#x} find {room} bytes of room"
                    ),
                });
            }
            let packed = if is_stack {
                high -= len + GAP;
                high + GAP
            } else {
                low += len + GAP;
                low - len - GAP
            };
            runs.insert(start, end, packed);
            Ok(())
        };
        if let Some((start, end)) = self.stack_top.and_then(|top| kept.containing(top - 1)) {
            place(&mut runs, start, end, true)?;
        }
        // A range may begin inside a dropped run: its kept parts come when something else shows them, or at the end.
        let starts = self.order.iter().filter_map(|&at| kept.containing(at));
        for (start, end) in starts.chain(kept.iter()) {
            if !runs.has(start) {
                place(&mut runs, start, end, false)?;
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_go_guards_stay_and_distances_are_kept() {
        let mut seen = Seen::default();
        let base = 0x7f00_0000_0000;
        seen.add(base, base + (1 << 30), Prot::NONE);
        seen.accessible
            .insert(base + (512 << 20), base + (513 << 20), 0);
        seen.add(base - (1 << 40), base - (1 << 40) + PAGE, Prot::NONE);
        let runs = seen.place("x").unwrap();
        let kept: Vec<(u64, u32)> = runs.parts(0, u64::MAX).map(|p| (p.from, p.len)).collect();
        assert_eq!(
            kept,
            [
                (base - (1 << 40), PAGE as u32),
                (base + (512 << 20), 1 << 20)
            ]
        );
        assert_eq!(runs.address(base), None);
        let a = runs.address(base + (512 << 20)).unwrap();
        assert_eq!(runs.address(base + (512 << 20) + 5000), Some(a + 5000));
        let map = Map::Packed(vec![runs]);
        assert_eq!(map.parts(0, base, 1 << 30), [(512 << 20, a, 1 << 20)]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut seen = Seen::default();
        seen.add(1 << 40, (1 << 40) + (3 << 30), Prot::RW);
        assert!(seen.place("big").is_err());
    }
}
