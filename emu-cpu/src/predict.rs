//! Branch prediction, as small as the cost model needs.
//!
//! A direct-mapped branch target buffer with two-bit counters, and a return stack (sizes from the
//! geometry). A conditional jump that is not in the buffer is predicted statically: backward taken,
//! forward not (SDM optimisation manual, P6 and NetBurst). The target of a direct branch is always
//! known; an indirect one is predicted by the buffer. Left out: history, pollution by wrong paths,
//! flushing on address-space switches (the buffer is taken to be indexed by linear address).
//! Invariant: the outcome depends only on the sequence of retired branches.

use lowmem_cost::geometry::BranchGeometry;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Address of the branch; 0 with counter 0 is as good as empty.
    from: u32,
    to: u32,
    /// 0 and 1 predict not taken, 2 and 3 taken.
    counter: u8,
    valid: bool,
}

/// Branch target buffer and return stack.
#[derive(Debug, Clone)]
pub(crate) struct Predictor {
    entries: Box<[Entry]>,
    /// `entries.len() - 1` if that is a power of two.
    mask: Option<u32>,
    returns: Box<[u32]>,
    /// Slot of the next push; the stack wraps and overwrites its oldest entry.
    top: usize,
    depth: usize,
}

impl Predictor {
    pub(crate) fn new(geometry: &BranchGeometry) -> Self {
        let n = geometry.btb_entries.max(1);
        Self {
            entries: vec![Entry::default(); n as usize].into(),
            mask: n.is_power_of_two().then(|| n - 1),
            returns: vec![0; geometry.return_stack as usize].into(),
            top: 0,
            depth: 0,
        }
    }

    #[inline(always)]
    fn slot(&mut self, from: u32) -> &mut Entry {
        let index = match self.mask {
            Some(mask) => from & mask,
            None => from % self.entries.len() as u32,
        };
        &mut self.entries[index as usize]
    }

    /// A conditional jump retired. Returns true if it was mispredicted.
    #[inline(always)]
    pub(crate) fn conditional(&mut self, from: u32, to: u32, taken: bool) -> bool {
        let e = self.slot(from);
        if e.valid && e.from == from {
            let predicted = e.counter >= 2;
            e.counter = if taken {
                (e.counter + 1).min(3)
            } else {
                e.counter.saturating_sub(1)
            };
            predicted != taken
        } else {
            // Only taken branches get an entry: a never-taken one is right without.
            if taken {
                *e = Entry {
                    from,
                    to,
                    counter: 2,
                    valid: true,
                };
            }
            (to <= from) != taken
        }
    }

    /// An indirect jump or call retired.
    pub(crate) fn indirect(&mut self, from: u32, to: u32) -> bool {
        let e = self.slot(from);
        let hit = e.valid && e.from == from && e.to == to;
        *e = Entry {
            from,
            to,
            counter: 3,
            valid: true,
        };
        !hit
    }

    /// A near call retired; `back` is the address after it.
    #[inline(always)]
    pub(crate) fn call(&mut self, back: u32) {
        if self.returns.is_empty() {
            return;
        }
        self.returns[self.top] = back;
        self.top += 1;
        if self.top == self.returns.len() {
            self.top = 0;
        }
        self.depth = (self.depth + 1).min(self.returns.len());
    }

    /// A near return to `to` retired.
    #[inline(always)]
    pub(crate) fn ret(&mut self, to: u32) -> bool {
        if self.depth == 0 {
            return true;
        }
        self.depth -= 1;
        self.top = self.top.checked_sub(1).unwrap_or(self.returns.len() - 1);
        self.returns[self.top] != to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictor() -> Predictor {
        Predictor::new(&BranchGeometry {
            btb_entries: 16,
            return_stack: 2,
        })
    }

    #[test]
    fn loops_mispredict_their_end_only() {
        let mut p = predictor();
        let wrong: u32 = (0..3)
            .flat_map(|_| [true, true, true, false])
            .map(|taken| u32::from(p.conditional(0x100, 0x80, taken)))
            .sum();
        assert_eq!(wrong, 3);
        assert!(!p.conditional(0x204, 0x300, false), "forward, static");
        assert!(p.conditional(0x204, 0x300, true));
        assert!(!p.conditional(0x204, 0x300, true));
    }

    #[test]
    fn returns_and_indirect_targets() {
        let mut p = predictor();
        for back in [1, 2, 3] {
            p.call(back);
        }
        assert!(!p.ret(3) && !p.ret(2));
        assert!(p.ret(1), "the oldest of three fell out of a stack of two");
        assert!(p.indirect(7, 100) && !p.indirect(7, 100) && p.indirect(7, 200));
    }
}
