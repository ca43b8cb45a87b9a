//! The file format under damage, and the golden file of version 1.

use lowmem_trace::*;
use proptest::prelude::*;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.lmt");

/// A trace with every kind of operation and call.
fn every_kind() -> Trace {
    let page = PAGE_SIZE;
    let mut t = TraceBuilder::new("every-kind");
    let file = t.file("/lib/libc.so.6", 100);
    let segment = t.segment(3 * page);
    let p = t.spawn();
    let a = t.on(p).mmap_anon(4 * page);
    t.on(p)
        .write_pages(a, 2 * page)
        .read(a + 3 * page)
        .execute(0x0804_8000);
    let f = t.on(p).mmap_file(
        FileRef {
            file,
            page_offset: 7,
        },
        page,
        Prot::READ,
        MapFlags::PRIVATE,
    );
    t.on(p)
        .read(f)
        .mprotect(a, page, Prot::READ)
        .madvise(a, page, Advice::DontNeed);
    let s = t.on(p).mmap_shared(2 * page);
    t.on(p)
        .remap_file_pages(s, page, 1)
        .mlock(s, page)
        .munlock(s, page);
    t.push(Call::Shmget {
        segment,
        len: 3 * page,
    });
    let m = t.on(p).shmat(segment);
    t.on(p)
        .write(m)
        .shmdt(m)
        .null_call()
        .other(3, 0, 512)
        .failed(11);
    t.on(p).brk(5000);
    let grown = t.on(p).mremap(a, 4 * page, 9 * page);
    t.on(p).munmap(grown, page);
    t.on(p)
        .fetch(0x0804_8010, 3)
        .load(0x0805_8000, 4)
        .store(0x0805_8ffe, 4)
        .modify(0x0805_8000, 8)
        .work(17);
    let c = t.on(p).fork();
    t.on(c).write(s).exit();
    t.on(p).wait(c);
    let v = t.on(p).vfork();
    let image = t.image();
    t.on(v).exec(image);
    let th = t.on(p).clone_thread();
    t.on(th).read(s).exit();
    t.on(v);
    t.sleep(p);
    t.push(Op::Touch {
        va: f,
        ip: 0,
        access: Access::Read,
        origin: Origin::Kernel,
        span: Span::Around,
    });
    t.push(Op::Switch {
        to: v,
        how: SliceEnd::Forced,
    });
    t.on(v).exit();
    t.on(p).exit();
    t.finish()
}

/// A trace so small that every byte of its file can be tried.
fn tiny() -> Trace {
    let mut t = TraceBuilder::new("tiny");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(PAGE_SIZE);
    t.on(p).write(a).null_call().exit();
    t.finish()
}

fn parse(bytes: &[u8]) -> Result<Trace, TraceError> {
    Trace::from_bytes("x.lmt", bytes.to_vec())
}

#[test]
fn golden_file_of_version_1_reads_as_it_was_written() {
    let golden = Trace::open(GOLDEN).unwrap();
    let now = every_kind();
    assert_eq!(golden.header(), now.header());
    assert_eq!(golden.summary(), now.summary());
    let (old, new): (Vec<Op>, Vec<Op>) = (golden.ops().collect(), now.ops().collect());
    assert_eq!(old, new);
    golden.check(|_| {}).unwrap();
}

/// Makes the golden file. Never again for version 1: a change of format is a new version with a file of its own.
#[test]
#[ignore = "writes the golden file of the current version"]
fn write_golden() {
    every_kind()
        .save(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.lmt"))
        .unwrap();
}

#[test]
fn truncation_at_every_length_is_an_error_with_a_place() {
    let bytes = tiny().bytes().to_vec();
    for len in 0..bytes.len() {
        let text = parse(&bytes[..len]).expect_err("truncated").to_string();
        assert!(text.starts_with("x.lmt: "), "{text}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(parse(&longer).is_err());
}

#[test]
fn every_flipped_bit_is_an_error() {
    let mut bytes = tiny().bytes().to_vec();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(parse(&bytes).is_ok());
}

#[test]
fn sixty_four_overwritten_bytes_are_an_error() {
    let bytes = every_kind().bytes().to_vec();
    for at in 0..bytes.len() {
        for fill in [0u8, 0xff, 0x5a] {
            let mut damaged = bytes.clone();
            let end = (at + 64).min(bytes.len());
            damaged[at..end].fill(fill);
            assert!(damaged == bytes || parse(&damaged).is_err(), "{at}");
        }
    }
}

/// Changes a file and makes its CRCs right again, so that the checks behind them are reached.
fn forged(mut bytes: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut bytes);
    let sections = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    if let Some(table) = bytes.get(32..32 + 32 * sections) {
        let crc = crc32(table);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg())
        })
    }) ^ !0
}

#[test]
fn a_trace_from_the_future_says_so() {
    let future = forged(tiny().bytes().to_vec(), |b| b[8] = 9);
    let error = parse(&future).unwrap_err();
    assert!(
        matches!(
            error,
            TraceError::FromTheFuture {
                found: 9,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("newer lowmem"));
}

#[test]
fn unknown_sections_are_skipped_unless_required() {
    // The footer's row becomes an unknown kind: then the footer is missing, or the kind must be understood.
    let bytes = tiny().bytes().to_vec();
    let sections = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let row = 32 + 32 * (sections - 1);
    let required = parse(&forged(bytes.clone(), |b| b[row] = 77))
        .unwrap_err()
        .to_string();
    assert!(required.contains("unknown section kind 77"), "{required}");
    let optional = parse(&forged(bytes, |b| {
        b[row] = 77;
        b[row + 4] = 0;
    }));
    assert!(
        optional
            .unwrap_err()
            .to_string()
            .contains("no footer section")
    );
}

#[test]
fn lying_lengths_allocate_nothing() {
    let bytes = tiny().bytes().to_vec();
    for (field, value) in [
        (12, u32::MAX),
        (32 + 16, u32::MAX),
        (32 + 20, u32::MAX),
        (64 + 24, u32::MAX),
    ] {
        let lie = forged(bytes.clone(), |b| {
            b[field..field + 4].copy_from_slice(&value.to_le_bytes())
        });
        assert!(
            matches!(parse(&lie), Err(TraceError::Damaged { .. })),
            "{field}"
        );
    }
}

#[test]
fn other_files_are_not_traces() {
    for bytes in [&b""[..], b"PK\x03\x04", b"\xfd7zXZ\0", &[0; 4096]] {
        assert!(matches!(parse(bytes), Err(TraceError::NotATrace { .. })));
    }
}

#[test]
fn saving_replaces_whole_files_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.lmt");
    std::fs::write(&path, b"what was there").unwrap();
    let trace = tiny();
    trace.save(&path).unwrap();
    assert_eq!(Trace::open(&path).unwrap().sha256(), trace.sha256());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("missing").join("a.lmt");
    assert!(
        trace
            .save(&nowhere)
            .unwrap_err()
            .to_string()
            .contains("a.lmt")
    );
    // A folder under the final name cannot be replaced; the temporary file goes.
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    assert!(trace.save(&taken).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_file_that_cannot_be_opened_names_itself() {
    let text = Trace::open("/nonexistent/x.lmt").unwrap_err().to_string();
    assert!(
        text.starts_with("/nonexistent/x.lmt: cannot read"),
        "{text}"
    );
}

#[test]
fn random_access_agrees_with_the_stream() {
    let trace = every_kind();
    let all: Vec<Op> = trace.ops().collect();
    let mut stream = trace.ops();
    for (i, op) in all.iter().enumerate().rev() {
        assert_eq!(stream.get(i as u64), Some(op));
        assert_eq!(trace.op(i as u64).as_ref(), Some(op));
    }
    stream.seek(3);
    assert_eq!(
        (stream.peek().cloned(), stream.position()),
        (Some(all[3].clone()), 3)
    );
    assert_eq!(stream.peek_ahead(1), Some(&all[4]));
    stream.seek(u64::MAX);
    assert_eq!(stream.peek(), None);
    assert_eq!(stream.position(), trace.len());
    assert!(all.iter().all(|op| !op.to_string().is_empty()));
}

#[test]
fn many_chunks_stream_whole() {
    let mut t = TraceBuilder::new("long");
    let p = t.spawn();
    let a = t.on(p).mmap_anon(1 << 20);
    for i in 0..600_000u32 {
        t.on(p).load(a + (i.wrapping_mul(40_503) & 0xf_fffc), 4);
    }
    let trace = t.finish();
    let mut n = 0;
    for (i, op) in trace.ops().skip(2).enumerate() {
        let want = a + ((i as u32).wrapping_mul(40_503) & 0xf_fffc);
        assert_eq!(op, Op::Load { va: want, len: 4 });
        n += 1;
    }
    assert_eq!(n, 600_000);
    assert_eq!(trace.op(400_000), trace.ops().nth(400_000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_behind_the_magic_are_refused_without_panic(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"\x89LMT\r\n\x1a\n".to_vec();
        bytes.extend(tail);
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn forged_tables_never_panic(
        changes in proptest::collection::vec((0usize..160, any::<u8>()), 1..6)
    ) {
        let bytes = forged(tiny().bytes().to_vec(), |b| {
            for (at, value) in changes {
                if at >= 8 && at < b.len() {
                    b[at] = value;
                }
            }
        });
        let _ = parse(&bytes);
    }

    #[test]
    fn references_round_trip(refs in proptest::collection::vec((0u8..5, 0u32..0x3_0000, 1u8..=16), 0..300)) {
        let mut t = TraceBuilder::new("round");
        let p = t.spawn();
        let a = t.on(p).mmap_anon(0x4_0000);
        let mut want = Vec::new();
        for (kind, offset, len) in refs {
            let va = a + offset;
            let op = match kind {
                0 => Op::Fetch { va, len },
                1 => Op::Load { va, len },
                2 => Op::Store { va, len },
                3 => Op::Modify { va, len },
                _ => Op::Touch { va, ip: va ^ 0x55, access: Access::Write, origin: Origin::User, span: Span::Page },
            };
            t.push(op.clone());
            want.push(op);
        }
        let found: Vec<Op> = t.finish().ops().skip(2).collect();
        prop_assert_eq!(found, want);
    }
}
