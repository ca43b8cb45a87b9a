//! The fast engine: decoded blocks, linked inside a page, static counts added once per block.
//!
//! Exactly what the reference does, with these shortcuts: an instruction is decoded once per place;
//! of a run of instructions in one line of the front end only the first is looked up, the others
//! are hits that change no state (D5); what retires is counted once per block. Everything unusual
//! (breakpoints, single-stepping, instructions over the end of a page or of the code segment)
//! goes one instruction at a time through the reference. Invariant: at every interrupt point and
//! whenever a handler marked `SYNC` runs, account and count of retired instructions are the
//! reference's.

use super::blocks::{Block, BlockId, Blocks, FetchKind, FetchShape, Key, count_prefix};
use super::{Step, taken_class};
use crate::bus::Bus;
use crate::cpu::{CR0_PG, Cpu};
use crate::decode::Translator;
use crate::fault::Raised;
use crate::flags::{RF, TF};
use crate::op::{ACCESSES, NEW_LINE, Op, Out, PROBE, SHADOW, SYNC};
use emu_mmu::PhysAddr;
use lowmem_cost::Event;

/// How a block ended.
enum End {
    /// By its last operation. `taken`: not by falling through.
    Done { step: Step, taken: bool, sync: bool },
    /// Before an operation, because code was written.
    Cut,
    /// By a fault, or an instruction that was not where it was expected.
    Other(Step),
}

impl Cpu {
    /// Executes instructions up to an interrupt point where something is due, a change to a
    /// source's ring 3, or an exit.
    pub(super) fn run_fast<B: Bus>(
        &mut self,
        blocks: &mut Blocks,
        translator: &mut Translator,
        bus: &mut B,
    ) -> Step {
        let fetch = self.features.fetch;
        if blocks.probes != self.probes {
            blocks.clear();
            blocks.probes = self.probes;
        }
        blocks.forget_pages();
        if self.mmu.code_written() {
            blocks.drop_written(&mut self.mmu);
        }
        let mut previous: Option<(BlockId, u32, usize)> = None;
        loop {
            let Some(id) = self.next_block(blocks, translator, &fetch, previous) else {
                // Not a block: one instruction by the reference.
                previous = None;
                let step = self.one_by_reference(translator, bus);
                blocks.forget_pages();
                if self.mmu.code_written() {
                    blocks.drop_written(&mut self.mmu);
                }
                match step {
                    Step::Next => continue,
                    Step::Point if !self.must_leave() => continue,
                    step => return step,
                }
            };
            let from = self.code_address().0;
            let step = match self.run_block(blocks, id, translator, bus) {
                End::Done { step, taken, sync } => {
                    if sync {
                        blocks.forget_pages();
                        previous = None;
                    } else {
                        previous = Some((id, from, usize::from(taken)));
                    }
                    step
                }
                End::Cut => {
                    previous = None;
                    Step::Next
                }
                End::Other(step) => {
                    blocks.forget_pages();
                    previous = None;
                    step
                }
            };
            if self.mmu.code_written() {
                blocks.drop_written(&mut self.mmu);
                previous = None;
            }
            match step {
                Step::Next => {}
                Step::Point => {
                    if self.must_leave() {
                        return Step::Point;
                    }
                }
                leave => return leave,
            }
        }
    }

    /// At an interrupt point: is there anything but the next instruction to do?
    #[inline(always)]
    fn must_leave(&self) -> bool {
        self.attention_due() || self.halted || (self.cpl == 3 && !self.user.decoding())
    }

    fn one_by_reference<B: Bus>(&mut self, translator: &mut Translator, bus: &mut B) -> Step {
        if let Some(exit) = self.breakpoint_here() {
            return Step::Leave(exit);
        }
        self.step_reference(translator, bus)
    }

    /// The block at EIP. `None` if the reference must execute what is there.
    #[inline(always)]
    fn next_block(
        &mut self,
        blocks: &mut Blocks,
        translator: &mut Translator,
        fetch: &FetchShape,
        previous: Option<(BlockId, u32, usize)>,
    ) -> Option<BlockId> {
        let va = self.code_address().0;
        if let Some((id, from, which)) = previous
            && (va ^ from) >> 12 == 0
            && self.other_flags & (TF | RF) == 0
        {
            // A block before this one that did not end with `SYNC`: CS is what it was.
            let key = blocks.block(id).key.in_page(va);
            let next = match blocks.linked(id, which, key) {
                Some(next) => next,
                None => {
                    let next = blocks.find(va, key, &mut self.mmu, translator, fetch);
                    blocks.link(id, which, next);
                    next
                }
            };
            return self.runs(blocks.block(next)).then_some(next);
        }
        self.find_block(blocks, translator, fetch)
    }

    /// There is something in the block, and it lies within the code segment's limit.
    #[inline(always)]
    fn runs(&self, block: &Block) -> bool {
        let end = u64::from(self.eip) + u64::from(block.bytes);
        let inside = self.code_limit == u32::MAX || end <= u64::from(self.code_limit) + 1;
        block.bytes != 0 && inside
    }

    #[inline(never)]
    fn find_block(
        &mut self,
        blocks: &mut Blocks,
        translator: &mut Translator,
        fetch: &FetchShape,
    ) -> Option<BlockId> {
        let watched =
            self.other_flags & (TF | RF) != 0 || self.breakpoints_on() || self.debug_pending != 0;
        if watched || !self.breakpoints.is_empty() {
            return None;
        }
        let va = self.code_address();
        let frame = match blocks.page(va.vpn()) {
            Some(frame) => frame,
            None => {
                let at = self.mmu.peek_code(va, self.privilege).ok()?;
                blocks.set_page(va.vpn(), at.pfn());
                at.pfn()
            }
        };
        let at = frame.base().plus(u64::from(va.offset()));
        let key = Key::new(at, &self.segs[1]);
        let id = blocks.find(va.0, key, &mut self.mmu, translator, fetch);
        self.runs(blocks.block(id)).then_some(id)
    }

    /// Executes a block from its start.
    #[inline(always)]
    fn run_block<B: Bus>(
        &mut self,
        blocks: &Blocks,
        id: BlockId,
        translator: &mut Translator,
        bus: &mut B,
    ) -> End {
        let block = blocks.block(id);
        let start = self.eip;
        let linear = self.code_address();
        let (last, prefix) = block.ops.split_last().expect("blocks are not empty");
        for (i, op) in prefix.iter().enumerate() {
            if op.marks & NEW_LINE != 0 {
                let va = linear.wrapping_add(u32::from(op.at));
                match self.mmu.fetch(va, op.len, self.privilege) {
                    Ok(at) if at.0 == block.at.0 + u64::from(op.at) => {}
                    Ok(at) => {
                        self.commit(&prefix[..i]);
                        self.eip = start.wrapping_add(u32::from(op.at));
                        return End::Other(self.executed_elsewhere(translator, at, bus));
                    }
                    Err(f) => {
                        self.commit(&prefix[..i]);
                        self.eip = start.wrapping_add(u32::from(op.at));
                        self.page_fault(f);
                        return End::Other(self.faulted());
                    }
                }
            }
            match (op.run)(self, op) {
                Ok(out) => debug_assert_eq!(out, Out::Next),
                Err(Raised) => {
                    self.commit(&prefix[..i]);
                    self.count_fetch(op);
                    self.eip = start.wrapping_add(u32::from(op.at));
                    return End::Other(self.faulted());
                }
            }
            // A load or a fetch writes too, if its walk marks a table entry that lies among code.
            if op.marks & (ACCESSES | NEW_LINE) != 0 && self.mmu.code_written() {
                self.commit(&prefix[..=i]);
                self.eip = start
                    .wrapping_add(u32::from(op.at))
                    .wrapping_add(u32::from(op.len));
                return End::Cut;
            }
        }
        if let Some(before) = prefix.last() {
            if self.last_loaded & prefix[0].reads != 0 {
                self.count(Event::LoadUse);
            }
            for &(event, n) in &block.counts {
                self.mmu.account.add(event, n);
            }
            self.count_line_hits(block.line_hits);
            self.retired += prefix.len() as u64;
            self.last_loaded = before.loads;
            self.eip = start.wrapping_add(u32::from(last.at));
        }
        self.run_last(last, block.at.plus(u64::from(last.at)), translator, bus)
    }

    /// Executes the last operation of a block; everything before is counted.
    #[inline(always)]
    fn run_last<B: Bus>(
        &mut self,
        op: &Op,
        expected: PhysAddr,
        translator: &mut Translator,
        bus: &mut B,
    ) -> End {
        if op.marks & PROBE != 0 {
            self.eip = self.eip.wrapping_add(u32::from(op.len));
            bus.probe(op.imm as u16, self);
            return End::Done {
                step: Step::Next,
                taken: false,
                sync: true,
            };
        }
        if op.marks & NEW_LINE != 0 {
            let va = self.code_address();
            match self.mmu.fetch(va, op.len, self.privilege) {
                Ok(at) if at == expected => {}
                Ok(at) => return End::Other(self.executed_elsewhere(translator, at, bus)),
                Err(f) => {
                    self.page_fault(f);
                    return End::Other(self.faulted());
                }
            }
        } else {
            self.count_fetch(op);
        }
        if op.marks & SYNC != 0 {
            let step = self.execute(op, bus);
            return End::Done {
                step,
                taken: false,
                sync: true,
            };
        }
        let from = self.eip;
        match (op.run)(self, op) {
            Ok(Out::Taken) => {
                self.retire(op, taken_class(op));
                End::Done {
                    step: Step::Point,
                    taken: true,
                    sync: false,
                }
            }
            // Many repetitions: the instruction begins anew behind an interrupt point.
            Ok(Out::Again) => End::Done {
                step: Step::Point,
                taken: false,
                sync: true,
            },
            Ok(out) => {
                debug_assert!(matches!(out, Out::Next | Out::Serial));
                self.eip = from.wrapping_add(u32::from(op.len));
                self.retire(op, op.class);
                let crossed = self.crossed_page(from) && op.marks & SHADOW == 0;
                let step = if crossed || out == Out::Serial {
                    Step::Point
                } else {
                    Step::Next
                };
                End::Done {
                    step,
                    taken: false,
                    sync: out == Out::Serial,
                }
            }
            Err(Raised) => End::Other(self.faulted()),
        }
    }

    /// A fetch was answered from elsewhere: execute what is there.
    #[cold]
    #[inline(never)]
    fn executed_elsewhere<B: Bus>(
        &mut self,
        translator: &mut Translator,
        at: PhysAddr,
        bus: &mut B,
    ) -> Step {
        match self.decode_found(translator, self.code_address(), at) {
            Ok(found) => self.execute(&found.op, bus),
            Err(Raised) => self.faulted(),
        }
    }

    /// Counts operations at the start of a block as retired, when the block is left early.
    #[cold]
    #[inline(never)]
    fn commit(&mut self, ops: &[Op]) {
        let (Some(first), Some(last)) = (ops.first(), ops.last()) else {
            return;
        };
        if self.last_loaded & first.reads != 0 {
            self.count(Event::LoadUse);
        }
        let account = &mut self.mmu.account;
        let line_hits = count_prefix(ops, |event| account.add(event, 1));
        self.count_line_hits(line_hits);
        self.retired += ops.len() as u64;
        self.last_loaded = last.loads;
    }

    /// Counts the fetch of an operation whose line was looked up before.
    #[inline(always)]
    fn count_fetch(&mut self, op: &Op) {
        if op.marks & NEW_LINE == 0 {
            self.count_line_hits(1);
        }
    }

    /// Counts fetches that hit the line of the fetch before them: what the MMU counts for them, and
    /// no state changes.
    #[inline(always)]
    fn count_line_hits(&mut self, n: u64) {
        match self.features.fetch.kind {
            FetchKind::L1i => {
                if self.cr0 & CR0_PG != 0 {
                    self.mmu.account.add(Event::ItlbAccess, n);
                }
                self.mmu.account.add(Event::FetchL1, n);
            }
            FetchKind::TraceCache => self.mmu.account.add(Event::TcAccess, n),
        }
    }
}
