//! The unmap probe: what reclaim would pay for sampled pages at the trace's peak, on a copy-on-write clone of the machine.
//!
//! Each sample is one interrupt of its own vector, for which the kernel runs reclaim's real sequence on the frame named in the
//! mailbox: lock the page, page_referenced, swap slot, try_to_unmap. Samples are drawn from all frames that present user ptes show
//! (anonymous and file pages; not the zero page), in an order drawn from the seed. The clone is thrown away, so the replay
//! goes on undisturbed. Caches and TLBs are as the replay left them; samples follow each other, as in reclaim.
//!
//! Invariant: the machine that is probed does not change.

use crate::books::{Books, Parts};
use crate::cycle::CycleState;
use crate::error::{MachineError, describe};
use crate::machine::{Machine, Memory};
use crate::mailbox;
use crate::replayer::Replayer;
use emu_cpu::{Cpu, Exit, Source, UserOp};
use guest_vm::cluster::mmu_count;
use guest_vm::layout::pg;
use guest_vm::page_alloc::{pfn_to_page, pfn_valid};
use lowmem_abi::boot::VECTOR_UNMAP;
use lowmem_abi::probe::Probe;
use lowmem_cost::{Account, Event};
use lowmem_report::{EventCounts, UnmapEnd, UnmapMeasure, UnmapSample, UnmapSource};
use lowmem_trace::retouch::mix;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Outcome words of the mailbox.
const SUCCESS: u32 = 1;
const AGAIN: u32 = 2;
const FAIL: u32 = 3;

impl Machine {
    /// Makes the measurement that the configuration asks for.
    pub fn probe_unmap(
        &self,
        cycle: Option<&CycleState>,
        replayer: &Replayer,
    ) -> Result<UnmapMeasure, MachineError> {
        let none = |reason: &str| {
            Ok(UnmapMeasure::None {
                reason: reason.to_owned(),
            })
        };
        if self.config.probe_unmap == 0 {
            return none("the probe is off");
        }
        let Some(state) = cycle else {
            return none("native mode counts no cycles");
        };
        let frames = self.sample_frames(replayer, self.config.probe_unmap as usize);
        if frames.is_empty() {
            return none("no page is mapped at the trace's peak");
        }
        let mut clone = self.clone_cow()?;
        let mut engine = emu_cpu::EngineState::new(state.engine.engine());
        let mut samples = Vec::with_capacity(frames.len());
        for pfn in frames {
            if let Some(sample) = clone.unmap_one(&mut engine, pfn, replayer.operation())? {
                samples.push(sample);
            }
        }
        Ok(UnmapMeasure::Sampled {
            source: UnmapSource::Probe,
            samples,
        })
    }

    /// Frames that user ptes of living address spaces show, at most `most`, in drawn order.
    pub fn sample_frames(&self, replayer: &Replayer, most: usize) -> Vec<u32> {
        let k = self.k;
        let mut frames = BTreeSet::new();
        for (_, pid, _) in replayer.living_spaces() {
            let task = guest_vm::task::find(k, pid);
            if task.is_null() || task.mm(k).is_null() {
                continue;
            }
            self.each_pte(task.mm(k), |_, pte, _| {
                if pte.present() && pfn_valid(k, pte.pfn()) {
                    let flags = pfn_to_page(k, pte.pfn()).flags(k);
                    if flags & (1 << pg::RESERVED) == 0 {
                        // One of a page's frames stands for it.
                        frames.insert(pte.pfn() & !(mmu_count(k) - 1));
                    }
                }
            });
        }
        let mut keyed: Vec<(u64, u32)> = frames
            .into_iter()
            .map(|pfn| (mix(self.config.seed, u64::from(pfn), 0x756e), pfn))
            .collect();
        keyed.sort_unstable();
        keyed.truncate(most);
        keyed.into_iter().map(|(_, pfn)| pfn).collect()
    }

    /// Unmaps one page in cycle mode; `None` if it was no candidate.
    pub(crate) fn unmap_one(
        &mut self,
        engine: &mut emu_cpu::EngineState,
        pfn: u32,
        operation: u64,
    ) -> Result<Option<UnmapSample>, MachineError> {
        let Memory::Cycle(cpu) = &mut self.memory else {
            panic!("the probe runs in cycle mode");
        };
        mailbox::update(&mut cpu.mmu.mem, |m| {
            m.unmap_pfn = pfn;
            m.unmap_outcome = 0;
            m.next = m.current;
            m.via_idle = 0;
        });
        let mut books = Books::default();
        books.parts = Some(Parts::default());
        let cell = RefCell::new(&mut books);
        let mut bus = crate::cycle::MachineBus { books: &cell };
        let mut source = OneInterrupt { left: 1 };
        let exit = cpu.run(engine, &mut bus, &mut source, 1 << 30);
        let failed = |reason: String| Err(MachineError::Guest { operation, reason });
        match exit {
            Exit::Stopped => {}
            Exit::Port => return failed(describe(&mailbox::report(&cpu.mmu.mem))),
            other => return failed(format!("unmap probe: {other:?}")),
        }
        let outcome = mailbox::read(&cpu.mmu.mem).unmap_outcome;
        let count = |p: Probe| books.probes[p as usize & 63] as u32;
        let end = match outcome {
            SUCCESS => UnmapEnd::Unmapped,
            AGAIN => UnmapEnd::Locked,
            FAIL if count(Probe::UnmapPinned) > 0 => UnmapEnd::Pinned,
            FAIL if count(Probe::UnmapLocked) > 0 => UnmapEnd::Locked,
            FAIL => UnmapEnd::Young,
            _ => return Ok(None),
        };
        let parts = books.parts.take().unwrap_or_default();
        Ok(Some(UnmapSample {
            end,
            vmas_visited: count(Probe::VmaVisited),
            ptes_examined: count(Probe::PteExamined),
            ptes_cleared: count(Probe::PteCleared),
            parts: [
                between(&parts.start, &parts.referenced),
                between(&parts.referenced, &parts.unmap_start),
                between(&parts.unmap_start, &parts.end),
            ],
        }))
    }
}

fn between(from: &Option<Account>, to: &Option<Account>) -> Box<EventCounts> {
    let mut counts = Box::new([0; Event::COUNT]);
    if let (Some(from), Some(to)) = (from, to) {
        for &event in Event::ALL {
            counts[event as usize] = to.total(event) - from.total(event);
        }
    }
    counts
}

/// Raises the unmap interrupt once, then stops.
struct OneInterrupt {
    left: u32,
}

impl Source for OneInterrupt {
    fn next(&mut self, cpu: &mut Cpu) -> UserOp {
        if self.left == 0 {
            return UserOp::Stop;
        }
        cpu.raise(VECTOR_UNMAP as u8);
        UserOp::Work(0)
    }
    fn done(&mut self, _cpu: &mut Cpu, _op: &UserOp, _value: u32) {}
    fn returned_to_user(&mut self, _cpu: &mut Cpu) {
        self.left = 0;
    }
}
