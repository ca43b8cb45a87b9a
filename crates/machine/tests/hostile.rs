//! Traces that a hostile writer could make: well-formed files whose operations are extreme or impossible.
//!
//! Whatever a trace says, a replay ends as a result or as an error that names the operation: never with a panic, a BUG of the
//! guest kernel or a broken invariant. The operations are drawn around the edges: page 0, the end of user space, lengths that
//! wrap, mappings over mappings, dead tasks.

use lowmem_machine::{Check, MachineError, ReplayOptions, replay};
use lowmem_report::config::{Rmap, Split};
use lowmem_report::{Config, Mode, Outcome, Silent};
use lowmem_trace::format::TraceWriter;
use lowmem_trace::model::Model;
use lowmem_trace::{
    Access, Advice, Call, ExecImage, FileId, FileInfo, FileRef, Header, MapFlags, Op, Origin, Prot,
    RemapFlags, SegmentId, SegmentInfo, SliceEnd, Span, TaskId, TaskInfo, Trace, TraceBuilder,
    TraceKind,
};

/// Splitmix64: small, seeded, the same everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }
    fn address(&mut self) -> u32 {
        let base: u32 = self.of(&[
            0,
            0x1000,
            0x0804_8000,
            0x0806_0000,
            0x4000_0000,
            0x4000_0000,
            0x4001_0000,
            0x4040_0000,
            0x7fff_f000,
            0xbff0_0000,
            0xbfff_e000,
            0xbfff_f000,
            0xc000_0000,
            0xffff_f000,
        ]);
        let pages = self.below(20) << 12;
        let byte = self.of(&[0, 0, 0, 0, 0, 1, 0xffc, 0xfff]);
        base.wrapping_add(pages).wrapping_add(byte)
    }
    fn len(&mut self) -> u32 {
        let edge = self.of(&[
            0,
            1,
            0xfff,
            0x1000,
            0x4000_0000,
            0x8000_0000,
            0xffff_f000,
            0xffff_f001,
            u32::MAX,
        ]);
        match self.below(6) {
            0 => edge,
            _ => (1 + self.below(24)) << 12,
        }
    }
    fn task(&mut self) -> TaskId {
        TaskId(self.below(TASKS as u32))
    }
    fn file(&mut self) -> FileRef {
        FileRef {
            file: FileId(self.below(2)),
            page_offset: self.of(&[0, 1, 7, 1 << 20, u32::MAX]),
        }
    }
    fn op(&mut self, image: &ExecImage) -> Op {
        let prot = Prot(self.of(&[0, 1, 3, 3, 3, 5, 7, 255]));
        let (addr, len) = (self.address(), self.len());
        match self.below(26) {
            0..=4 => {
                let shared = self.of(&[MapFlags::SHARED, MapFlags::PRIVATE]);
                let fixed = self.of(&[MapFlags(0), MapFlags::FIXED]);
                let more = self.of(&[
                    MapFlags(0),
                    MapFlags(0),
                    MapFlags::LOCKED,
                    MapFlags::POPULATE,
                    MapFlags::GROWSDOWN,
                ]);
                let file = (self.below(3) == 0).then(|| self.file());
                let hint = self.of(&[0, addr]);
                let result = addr;
                Call::Mmap {
                    hint,
                    len,
                    prot,
                    flags: shared.union(fixed).union(more),
                    file,
                    result,
                }
                .into()
            }
            5 => Call::Munmap { addr, len }.into(),
            6 => Call::Mprotect { addr, len, prot }.into(),
            7 | 8 => {
                let result = self.of(&[addr, self.0 as u32 & !0xfff, 0x5000_0000]);
                let (flags, new_len) = (RemapFlags(self.below(4) as u8), self.len());
                Call::Mremap {
                    old: addr,
                    old_len: len,
                    new_len,
                    flags,
                    new_addr: result,
                    result,
                }
                .into()
            }
            9 => {
                let result = self.of(&[addr, 0x0806_1000, 0x0807_0000, 0]);
                Call::Brk {
                    addr: result,
                    result,
                }
                .into()
            }
            10 => {
                let advice = self.of(&[
                    Advice::DontNeed,
                    Advice::WillNeed,
                    Advice::Random,
                    Advice::Other,
                ]);
                Call::Madvise { addr, len, advice }.into()
            }
            11 => self
                .of(&[0, 1])
                .then(Call::Mlock { addr, len }, Call::Munlock { addr, len })
                .into(),
            12 => Call::RemapFilePages {
                addr,
                len,
                page_offset: self.file().page_offset,
            }
            .into(),
            13 => {
                let segment = SegmentId(self.below(3));
                Call::Shmat {
                    segment,
                    hint: 0,
                    prot,
                    result: addr,
                }
                .into()
            }
            14 => self
                .of(&[0, 1])
                .then(
                    Call::Shmdt { addr },
                    Call::Shmget {
                        segment: SegmentId(self.0 as u32 % 3),
                        len,
                    },
                )
                .into(),
            15 => {
                let child = self.task();
                match self.below(3) {
                    0 => Call::Fork { child }.into(),
                    1 => Call::Vfork { child }.into(),
                    _ => Call::Clone { child }.into(),
                }
            }
            16 => {
                let mut image = image.clone();
                match self.below(5) {
                    0 => image.mappings.clear(),
                    1 => image.brk = addr,
                    2 => image.stack_top = addr,
                    3 => {
                        let i = self.below(4) as usize;
                        image.mappings[i].prot = prot;
                    }
                    _ => {}
                }
                Call::Exec {
                    image: Box::new(image),
                }
                .into()
            }
            17 if self.below(3) == 0 => Call::Exit {}.into(),
            17 => Call::Wait { child: self.task() }.into(),
            18 => Call::Other {
                nr: self.next() as u32,
                bytes_in: len,
                bytes_out: self.len(),
            }
            .into(),
            19 => {
                let how = self.of(&[
                    SliceEnd::Sleep,
                    SliceEnd::Preempt,
                    SliceEnd::Exit,
                    SliceEnd::Forced,
                ]);
                Op::Switch {
                    to: self.task(),
                    how,
                }
            }
            20 => Op::Load {
                va: addr,
                len: self.next() as u8,
            },
            21 => Op::Modify {
                va: addr,
                len: self.next() as u8,
            },
            22 => Op::Fetch {
                va: addr,
                len: self.next() as u8,
            },
            _ => {
                let access = self.of(&[Access::Read, Access::Write, Access::Write, Access::Exec]);
                let span = self.of(&[Span::Page, Span::Around]);
                let origin = self.of(&[Origin::User, Origin::Kernel]);
                Op::Touch {
                    va: addr,
                    ip: self.address(),
                    access,
                    origin,
                    span,
                }
            }
        }
    }
}

trait Then {
    fn then<T>(self, zero: T, other: T) -> T;
}
impl Then for i32 {
    fn then<T>(self, zero: T, other: T) -> T {
        if self == 0 { zero } else { other }
    }
}

const TASKS: usize = 4;

/// A trace of `count` operations that the model accepts, and perhaps one behind them that it refuses.
fn hostile(seed: u64, count: usize) -> Trace {
    let mut draw = Draw(seed);
    let image = TraceBuilder::new("image").image();
    let mut header = Header::new("hostile", TraceKind::Synthetic);
    for pid in 1..=TASKS as u32 {
        header.tasks.push(TaskInfo {
            name: "t".to_owned(),
            pid,
            tid: pid,
        });
    }
    for pages in [64, draw.of(&[0, 1, u32::MAX])] {
        header.files.push(FileInfo {
            path: "/f".to_owned(),
            device: "00:00".to_owned(),
            inode: u64::from(pages),
            pages,
        });
    }
    for bytes in [0x8000, draw.of(&[0, 1, u32::MAX]), 0x20_0000] {
        header.segments.push(SegmentInfo {
            recorded_id: 0,
            bytes,
        });
    }
    let mut model = Model::new(&header);
    let mut writer = TraceWriter::new(header);
    let first: Op = Call::Exec {
        image: Box::new(image.clone()),
    }
    .into();
    model.apply(&first).expect("exec is possible");
    writer.push(&first).expect("exec is possible");
    let mut accepted = 0;
    for _ in 0..count * 20 {
        let op = draw.op(&image);
        // A refused operation leaves the model unspecified.
        let mut after = model.clone();
        if after.apply(&op).is_ok() {
            model = after;
            writer
                .push(&op)
                .expect("the same model has just accepted it");
            accepted += 1;
            if accepted == count {
                break;
            }
        } else if draw.below(400) == 0 {
            writer.push_unchecked(&op).expect("the chunk is small");
            break;
        }
    }
    writer.finish().expect("the file is well formed")
}

/// Replays, and fails on everything that is not a result or a fault of the trace.
fn survive(seed: u64, mode: Mode) -> &'static str {
    let count = [3, 8, 20, 60][(seed >> 3) as usize & 3];
    let trace = hostile(seed, count);
    let config = Config {
        rmap: [Rmap::AnonVma, Rmap::PteChain][seed as usize & 1],
        split: [Split::G3G1, Split::G4G4][seed as usize >> 1 & 1],
        ram_bytes: [32 << 20, 1 << 30][seed as usize >> 2 & 1],
        probe_unmap: 4,
        ..Config::default()
    };
    let options = ReplayOptions {
        mode,
        check: Check::Every,
        ..ReplayOptions::default()
    };
    match replay(&trace, &config, &options, &Silent) {
        Ok(m) => match m.outcome {
            Outcome::Complete => "complete",
            Outcome::Enomem => "enomem",
            other => panic!("seed {seed}: {other:?} {:?}", m.reason),
        },
        Err(MachineError::Trace { reason, .. }) => {
            if std::env::var_os("HOSTILE_SEEDS").is_some() {
                println!("seed {seed}: {reason}");
            }
            "trace"
        }
        Err(e @ MachineError::Guest { .. }) => {
            let text = e.to_string();
            // What the guest says of a trace that contradicts it, not of itself.
            let known = [
                "recorded result",
                "failed with errno",
                "user access to",
                "exec of",
            ];
            if std::env::var_os("HOSTILE_SEEDS").is_some() {
                println!("seed {seed}: {text}");
            }
            assert!(
                known.iter().any(|k| text.contains(k)),
                "seed {seed}: {text}"
            );
            "guest"
        }
        Err(e) => panic!("seed {seed}: {e}"),
    }
}

#[test]
fn hostile_traces_end_as_results_or_errors_natively() {
    let seeds: u64 = std::env::var("HOSTILE_SEEDS").map_or(200, |n| n.parse().unwrap());
    let mut ends = std::collections::BTreeMap::new();
    for seed in 0..seeds {
        *ends.entry(survive(seed, Mode::Native)).or_insert(0) += 1;
    }
    println!("{ends:?}");
    assert!(ends["complete"] > 0, "{ends:?}");
}

#[test]
fn hostile_traces_end_as_results_or_errors_in_cycle_mode() {
    for seed in 0..12 {
        survive(seed, Mode::Cycle);
    }
}
