//! Operations that contradict one another: the model refuses them and is never left with mappings that cannot be.

use lowmem_trace::model::Model;
use lowmem_trace::space::PAGE;
use lowmem_trace::*;
use proptest::prelude::*;

/// Where the mappings of these tests lie.
const BASE: u32 = 0x4000_0000;
/// User space of a trace ends here.
const USER_END: u64 = 0xc000_0000;

/// One task that has executed a program with a text, a heap behind it and a stack.
fn started() -> Model {
    let mut header = Header::new("contradiction", TraceKind::Synthetic);
    header.tasks.push(TaskInfo::default());
    header.segments.push(SegmentInfo {
        recorded_id: 0,
        bytes: 2 * PAGE_SIZE,
    });
    let mut model = Model::new(&header);
    let mapping = |start, end, kind| ExecMapping {
        start,
        end,
        prot: Prot::RW,
        flags: MapFlags::PRIVATE,
        file: None,
        kind,
    };
    let image = ExecImage {
        name: "program".to_owned(),
        mappings: vec![
            mapping(0x0804_8000, 0x0804_a000, MappingKind::Text),
            mapping(0xbfff_c000, 0xc000_0000, MappingKind::Stack),
        ],
        brk: 0x0804_a000,
        stack_top: 0xc000_0000,
    };
    let image = Box::new(image);
    model.apply(&Call::Exec { image }.into()).unwrap();
    model
}

fn mmap(page: u32, pages: u32) -> Op {
    Call::Mmap {
        hint: 0,
        len: pages * PAGE_SIZE,
        prot: Prot::RW,
        flags: MapFlags::PRIVATE,
        file: None,
        result: BASE + page * PAGE_SIZE,
    }
    .into()
}

fn mremap(old: u32, old_len: u32, new_len: u32, result: u32) -> Op {
    Call::Mremap {
        old,
        old_len,
        new_len,
        flags: RemapFlags::MAYMOVE,
        new_addr: 0,
        result,
    }
    .into()
}

/// What every address space is, whatever was done to it.
fn check(model: &Model) {
    let mm = model.mm(TaskId(0)).unwrap();
    let (mut behind, mut footprint, mut accessible) = (0, 0, 0);
    for area in mm.space.iter() {
        assert!(behind <= area.start && area.start < area.end, "{area:x?}");
        assert!(area.end <= USER_END && (area.start | area.end) % PAGE == 0);
        behind = area.end;
        footprint += area.end - area.start;
        if area.prot != Prot::NONE {
            accessible += area.end - area.start;
        }
    }
    assert_eq!(mm.space.footprint(), footprint);
    assert_eq!(mm.space.accessible(), accessible);
}

#[test]
fn impossible_results_are_refused() {
    let page = PAGE_SIZE;
    for (op, reason) in [
        (mmap(3, 2), "is occupied by"),
        (mremap(BASE, 4 * page, 6 * page, BASE), "mremap grows"),
        (mremap(BASE, 2 * page, 2 * page, BASE + page), "onto itself"),
        (
            mremap(BASE, page, page, BASE + 5 * page),
            "mremap moves 0x40000000 onto 0x40005000..0x40006000",
        ),
        (mremap(BASE + 1, page, 3 * page, BASE + 1), "Mremap"),
        (mremap(BASE, page, 0, BASE), "mremap to"),
        (
            Call::RemapFilePages {
                addr: BASE + 7,
                len: page,
                page_offset: 0,
            }
            .into(),
            "RemapFilePages",
        ),
        (
            Call::RemapFilePages {
                addr: BASE,
                len: u32::MAX,
                page_offset: 0,
            }
            .into(),
            "RemapFilePages",
        ),
        (
            Call::Munmap {
                addr: BASE + 0x801,
                len: page,
            }
            .into(),
            "Munmap",
        ),
        (
            Call::Brk {
                addr: 0,
                result: BASE + page,
            }
            .into(),
            "runs into",
        ),
    ] {
        let mut model = started();
        model.apply(&mmap(0, 4)).unwrap();
        model.apply(&mmap(5, 1)).unwrap();
        let before = model.mm(TaskId(0)).unwrap().space.len();
        let error = model.apply(&op).unwrap_err();
        assert!(error.reason.contains(reason), "{op:?}: {}", error.reason);
        assert_eq!(model.mm(TaskId(0)).unwrap().space.len(), before, "{op:?}");
        check(&model);
    }
}

/// An area of no bytes at the start of a mapping took the mapping's place.
#[test]
fn an_empty_range_of_remap_file_pages_changes_nothing() {
    let mut model = started();
    model.apply(&mmap(0, 4)).unwrap();
    let before: Vec<_> = model.mm(TaskId(0)).unwrap().space.iter().copied().collect();
    let empty = Call::RemapFilePages {
        addr: BASE,
        len: 0,
        page_offset: 9,
    };
    model.apply(&empty.into()).unwrap();
    let after: Vec<_> = model.mm(TaskId(0)).unwrap().space.iter().copied().collect();
    assert_eq!(before, after);
    check(&model);
}

fn address() -> impl Strategy<Value = u32> {
    prop_oneof![
        20 => (0u32..12).prop_map(|page| BASE + page * PAGE_SIZE),
        2 => (0u32..12).prop_map(|page| BASE + page * PAGE_SIZE + 0x7ff),
        2 => (0u32..6).prop_map(|page| 0xbfff_8000 + page * PAGE_SIZE),
        1 => proptest::sample::select(vec![0, 1, 0xbfff_ffff, 0xc000_0000, 0xffff_f000, u32::MAX]),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![
        10 => (0u32..6).prop_map(|pages| pages * PAGE_SIZE),
        2 => 0u32..20_000,
        1 => proptest::sample::select(vec![0x4000_0000, 0x8000_0000, 0xffff_f001, u32::MAX]),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let prot = proptest::sample::select(vec![Prot::NONE, Prot::READ, Prot::RW]);
    let fixed = proptest::sample::select(vec![
        MapFlags::PRIVATE,
        MapFlags::PRIVATE.union(MapFlags::FIXED),
        MapFlags::SHARED,
    ]);
    let moved = proptest::sample::select(vec![RemapFlags::MAYMOVE, RemapFlags::FIXED]);
    let (a, b) = (address(), address());
    (0u8..10, a, b, length(), length(), prot, fixed, moved).prop_map(
        |(kind, addr, result, len, new_len, prot, flags, remap)| match kind {
            0 | 1 => Call::Mmap {
                hint: 0,
                len,
                prot,
                flags,
                file: None,
                result,
            }
            .into(),
            2 => Call::Munmap { addr, len }.into(),
            3 => Call::Mprotect { addr, len, prot }.into(),
            4 => Call::Mremap {
                old: addr,
                old_len: len,
                new_len,
                flags: remap,
                new_addr: result,
                result,
            }
            .into(),
            5 => mremap(addr, len, new_len, addr),
            6 => Call::RemapFilePages {
                addr,
                len,
                page_offset: 3,
            }
            .into(),
            7 => Call::Brk { addr: 0, result }.into(),
            8 => Call::Mlock {
                addr,
                len: len % 0x2_0000,
            }
            .into(),
            _ => Op::Store { va: addr, len: 4 },
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_contradictory_trace_never_leaves_impossible_mappings(ops in proptest::collection::vec(op(), 1..60)) {
        let mut model = started();
        for op in ops {
            // What was refused ends a trace; here it did not happen.
            let before = model.clone();
            if model.apply(&op).is_err() {
                model = before;
            }
            check(&model);
        }
    }
}
