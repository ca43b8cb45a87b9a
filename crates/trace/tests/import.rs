//! Importing: a small pair and a small lackey file whole, and recordings that are not whole.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use lowmem_trace::{
    Access, Call, MappingKind, Op, SliceEnd, TaskId, Trace, TraceError, TraceKind,
    import::{ImportOptions, import},
};

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn run(paths: &[PathBuf]) -> Result<Trace, TraceError> {
    import(paths, &ImportOptions::default(), |_, _| {})
}

/// Imports two texts as the halves of a pair called `t`.
fn pair(strace: &str, perf: &str) -> Result<Trace, TraceError> {
    let folder = tempfile::tempdir().unwrap();
    let (s, p) = (folder.path().join("t.strace"), folder.path().join("t.perf"));
    fs::write(&s, strace).unwrap();
    fs::write(&p, perf).unwrap();
    run(&[s, p])
}

#[test]
fn sort64_equals_its_totals_and_is_packed() {
    let trace = run(&[recording("sort64.perf.xz"), recording("sort64.strace.xz")]).unwrap();
    let want = BTreeMap::from([
        ("processes", 1),
        ("threads", 1),
        ("forks", 0),
        ("execs", 2),
        ("exits", 2),
        ("mmaps", 10),
        ("munmaps", 2),
        ("mprotects", 5),
        ("brks", 8),
        ("madvises", 1),
        ("syscalls_failed", 2),
        ("faults", 5440),
        ("faults_user", 3552),
        ("faults_kernel", 1888),
        ("faults_write", 5401),
        ("faults_exec", 22),
        ("faults_cow", 12),
        ("unresolved", 0),
        ("syscalls", 2312),
        ("ctxsw", 105),
        ("mmap2", 39),
        ("faults_file", 36),
        ("faults_anon", 5404),
        ("touched_pages_mm", 5436),
        ("max_vmas", 22),
        ("max_footprint_MiB", 34),
        ("addr_hi", 0xffff_ffff_ff60_1000),
    ]);
    let totals = &trace.header().totals;
    for (key, n) in want {
        assert_eq!(totals.get(key), n, "{key}");
    }
    assert_eq!(
        (trace.name(), trace.header().kind),
        ("sort64", TraceKind::FirstTouch)
    );
    assert!(trace.header().notes.iter().any(|n| n.contains("packed")));
    let s = trace.summary();
    assert_eq!(
        (s.touches, trace.info().recorded_switches, s.switches),
        (5440, 107, 106)
    );
    trace.check(|_| {}).unwrap();
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let paths = [recording("sort64.perf.xz"), recording("sort64.strace.xz")];
    let swapped = [paths[1].clone(), paths[0].clone()];
    assert_eq!(
        run(&paths).unwrap().sha256(),
        run(&swapped).unwrap().sha256()
    );
}

#[test]
fn half_a_pair_says_which_half_is_missing() {
    let text = run(&[recording("sort64.perf.xz")]).unwrap_err().to_string();
    assert!(
        text.contains("sort64.perf.xz") && text.contains("strace file is missing"),
        "{text}"
    );
    let text = run(&[recording("sort64.strace.xz")])
        .unwrap_err()
        .to_string();
    assert!(text.contains("perf script file is missing"), "{text}");
    let twice = run(&[recording("sort64.perf.xz"), recording("sort64.perf.xz")]);
    assert!(matches!(twice, Err(TraceError::Inputs(_))));
}

#[test]
fn a_child_of_which_the_parent_is_missing_stands_alone() {
    // The file of one forked process: its own image is inferred from what it touches.
    let trace = run(&[recording("lksh.32382.lackey.xz")]).unwrap();
    assert_eq!(trace.header().kind, TraceKind::EveryReference);
    assert_eq!(trace.summary().references, 20_742);
    for (key, n) in [
        ("I", 13_300),
        ("L", 3_795),
        ("S", 3_563),
        ("M", 84),
        ("syscalls", 7),
        ("32382.pages", 64),
    ] {
        assert_eq!(trace.header().totals.get(key), n, "{key}");
    }
}

#[test]
fn other_files_are_refused_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.strace");
    fs::write(&path, "hello\nworld\n").unwrap();
    assert!(
        run(std::slice::from_ref(&path))
            .unwrap_err()
            .to_string()
            .contains("not a recording")
    );
    fs::write(&path, b"\xfd7zXZ\0garbage").unwrap();
    assert!(
        run(&[path])
            .unwrap_err()
            .to_string()
            .contains("cannot decompress")
    );
    assert!(run(&[]).is_err());
    assert!(
        run(&[folder.path().join("none")])
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
}

const STRACE: &str = "\
10 1.000100 brk(NULL) = 0x8060000
10 1.000200 brk(0x8062000) = 0x8062000
10 1.000300 fork() = 11
11 1.000400 munmap(0x8050000, 4096) = 0
11 1.000500 exit_group(0) = ?
11 1.000900 +++ exited with 0 +++
10 1.000600 wait4(-1, <unfinished ...>
10 1.001000 <... wait4 resumed>NULL, 0, NULL) = 11
10 1.001100 mmap2(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x40000000
10 1.001200 open_tree(1) = 5
10 1.001300 mremap(0x40000000, 8192, 8192, MREMAP_MAYMOVE|MREMAP_FIXED, 0x50000000) = -1 EFAULT (Bad address)
10 1.001400 exit_group(0) = ?
10 1.001500 +++ exited with 0 +++
";

const PERF: &str = "\
# perf script
0/0 [000] 0.000000000: PERF_RECORD_COMM: prog:10/10
0/0 [000] 0.000000000: PERF_RECORD_MMAP2 10/10: [0x8048000(0x2000) @ 0 fe:00 77 0]: r-xp /bin/prog
0/0 [000] 0.000000000: PERF_RECORD_MMAP2 10/10: [0x8050000(0x1000) @ 0x2000 fe:00 77 0]: rw-p /bin/prog
0/0 [000] 0.000000000: PERF_RECORD_MMAP2 10/10: [0xbfff0000(0x10000) @ 0 00:00 0 0]: rw-p [stack]
10/10 [000] 1.000150000: raw_syscalls:sys_enter: NR 45
10/10 [000] 1.000250000: raw_syscalls:sys_enter: NR 45
10/10 [000] 1.000260000: exceptions:page_fault_user: address=0x8061004 ip=0x8048010 error_code=0x6
10/10 [000] 1.000270000: exceptions:page_fault_user: address=0xbffe0ffc ip=0x8048010 error_code=0x6
10/10 [000] 1.000280000: exceptions:page_fault_user: address=0x8049000 ip=0x8049000 error_code=0x14
10/10 [000] 1.000290000: exceptions:page_fault_user: address=0x8048000 ip=0x8048000 error_code=0x7
10/10 [000] 1.000310000: raw_syscalls:sys_enter: NR 2
10/10 [000] 1.000320000: PERF_RECORD_FORK(11:11):(10:10)
11/11 [001] 1.000410000: raw_syscalls:sys_enter: NR 91
11/11 [001] 1.000420000: exceptions:page_fault_user: address=0x8061008 ip=0x8048010 error_code=0x7
10/10 [000] 1.000610000: raw_syscalls:sys_enter: NR 114
10/10 [000] 1.000620000: sched:sched_switch: prev_state=S
11/11 [001] 1.000510000: raw_syscalls:sys_enter: NR 252
11/11 [001] 1.000800000: PERF_RECORD_EXIT(11:11):(10:10)
10/10 [000] 1.001110000: raw_syscalls:sys_enter: NR 192
10/10 [000] 1.001210000: raw_syscalls:sys_enter: NR 3
10/10 [000] 1.001310000: raw_syscalls:sys_enter: NR 163
10/10 [000] 1.001410000: raw_syscalls:sys_enter: NR 252
10/10 [000] 1.001450000: PERF_RECORD_EXIT(10:10):(1:1)
";

#[test]
fn a_written_pair_becomes_exactly_these_operations() {
    let trace = pair(STRACE, PERF).unwrap();
    let ops: Vec<String> = trace.ops().map(|op| op.to_string()).collect();
    let want = [
        "exec prog (3 mappings, brk 0x8060000, stack top 0xc0000000)",
        "brk 0x0 = 0x8060000",
        "brk 0x8062000 = 0x8062000",
        "touch write 0x8061004 ip 0x8048010",
        "touch write 0xbffe0ffc ip 0x8048010",
        "touch exec 0x8049000 ip 0x8049000 and around",
        "fork = task 1",
        "switch to task 1 (Sleep)",
        "munmap 0x8050000,4096",
        "touch write 0x8061008 ip 0x8048010",
        "exit",
        "switch to task 0 (Exit)",
        "wait = task 1",
        "mmap 0x0,8192 rw- flags 0x22 = 0x40000000",
        "other call 3, 0 bytes in, 1024 out",
        "failed call 163",
        "exit",
    ];
    assert_eq!(ops, want);
    let totals = &trace.header().totals;
    for (key, n) in [
        ("forks", 1),
        ("exits", 2),
        ("brks", 2),
        ("faults", 5),
        ("faults_cow", 2),
        ("syscalls_failed", 3),
    ] {
        assert_eq!(totals.get(key), n, "{key}");
    }
    // The write to read-only text ended in a signal.
    assert_eq!(
        trace.header().notes,
        ["dropped: 1 faults without the right (ended in a signal)"]
    );
    let Some(Op::Call(call)) = trace.op(0) else {
        panic!("no exec")
    };
    let Call::Exec { image } = *call else {
        panic!("no exec")
    };
    let kinds: Vec<MappingKind> = image.mappings.iter().map(|m| m.kind).collect();
    assert_eq!(
        kinds,
        [MappingKind::Text, MappingKind::Data, MappingKind::Stack]
    );
    let switches: Vec<(TaskId, SliceEnd)> = trace
        .ops()
        .filter_map(|op| match op {
            Op::Switch { to, how } => Some((to, how)),
            _ => None,
        })
        .collect();
    assert_eq!(
        switches,
        [(TaskId(1), SliceEnd::Sleep), (TaskId(0), SliceEnd::Exit)]
    );
    assert!(trace.ops().any(|op| matches!(
        op,
        Op::Touch {
            access: Access::Exec,
            ..
        }
    )));
}

#[test]
fn bad_lines_name_file_and_line() {
    let text = pair("x y z\n10 1.0 brk(NULL) = 0x1\n", PERF)
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("t.strace: line 1: "), "{text}");
    let broken = PERF.replace("address=0x8061004", "address=oops");
    let text = pair(STRACE, &broken).unwrap_err().to_string();
    assert!(text.starts_with("t.perf: line 8: "), "{text}");
    let text = pair(
        &STRACE.replace("mmap2(NULL, 8192", "mmap2(NULL, many"),
        PERF,
    )
    .unwrap_err()
    .to_string();
    assert!(text.contains("line 9") && text.contains("mmap2"), "{text}");
}

#[test]
fn a_result_that_is_occupied_is_an_error() {
    let twice = STRACE.replace(
        "10 1.001200 open_tree(1) = 5",
        "10 1.001200 mmap2(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x40001000",
    );
    let text = pair(&twice, PERF).unwrap_err().to_string();
    assert!(
        text.contains("is occupied by 0x40000000..0x40002000"),
        "{text}"
    );
}
