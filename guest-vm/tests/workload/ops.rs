//! The operations of random histories, and how often each is drawn.
//!
//! Invariant: places meet often enough that operations overlap.

use proptest::prelude::*;

/// One operation; numbers are reduced to what makes sense.
#[derive(Debug, Clone)]
pub enum Op {
    Map {
        at: u32,
        pages: u32,
        kind: u8,
        prot: u32,
        offset: u32,
    },
    Unmap {
        at: u32,
        pages: u32,
    },
    Protect {
        at: u32,
        pages: u32,
        prot: u32,
    },
    Remap {
        at: u32,
        pages: u32,
        grown: u32,
        to: u32,
    },
    Nonlinear {
        at: u32,
        pages: u32,
        offset: u32,
    },
    DontNeed {
        at: u32,
        pages: u32,
    },
    Lock {
        at: u32,
        pages: u32,
        on: bool,
    },
    Touch {
        at: u32,
        write: bool,
    },
    TouchMany {
        at: u32,
        pages: u32,
        write: bool,
    },
    Fork,
    Exit,
    Switch {
        to: usize,
    },
    UnmapProbe {
        which: prop::sample::Index,
        fail: u32,
    },
    PageOut {
        which: prop::sample::Index,
    },
    /// Reclaim everywhere, with every n-th trylock and page allocation failing (0: none); writes it begins stay under way.
    Reclaim {
        rounds: u32,
        fail_trylock: u32,
        fail_alloc: u32,
    },
    /// Swap off and on again.
    SwapOff,
    /// Cuts a file off.
    Truncate {
        file: u32,
        first: u32,
    },
    /// A call or fault (`Touch`) with so few pages, and so few objects in each cache, that it may fail.
    WithFew {
        op: Box<Op>,
        pages: u32,
        objects: u32,
    },
    /// Somebody writes to a private page and keeps a reference, as get_user_pages does.
    Pin {
        at: u32,
    },
    /// All these references go.
    Unpin,
}

/// Operations under memory pressure.
pub fn pressure_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => op(),
        4 => (1u32..4, prop_oneof![3 => Just(0u32), 1 => 1u32..5], prop_oneof![3 => Just(0u32), 1 => 1u32..4])
            .prop_map(|(rounds, fail_trylock, fail_alloc)| Op::Reclaim { rounds, fail_trylock, fail_alloc }),
        1 => Just(Op::SwapOff),
        3 => (refusable(), few(), 0u32..4)
            .prop_map(|(op, pages, objects)| Op::WithFew { op: Box::new(op), pages, objects }),
        1 => place().prop_map(|at| Op::Pin { at }),
        1 => Just(Op::Unpin),
    ]
}

/// Addresses that often meet: few clusters of pages in the window.
fn place() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..24, 500u32..530, 1020u32..1040]
}

/// None, a few, or more than most calls need.
fn few() -> impl Strategy<Value = u32> {
    prop_oneof![2 => 0u32..3, 1 => 0u32..24]
}

/// Operations that need memory and say so if there is none.
fn refusable() -> impl Strategy<Value = Op> {
    let len = 1u32..12;
    prop_oneof![
        2 => map(),
        2 => (place(), len.clone(), place())
            .prop_map(|(at, pages, to)| Op::Remap { at, pages, grown: 0, to }),
        2 => (place(), len.clone()).prop_map(|(at, pages)| Op::Unmap { at, pages }),
        3 => (place(), len.clone(), 0u32..4)
            .prop_map(|(at, pages, prot)| Op::Protect { at, pages, prot }),
        1 => (place(), len, any::<bool>()).prop_map(|(at, pages, on)| Op::Lock { at, pages, on }),
        1 => nonlinear(),
        3 => (place(), any::<bool>()).prop_map(|(at, write)| Op::Touch { at, write }),
        2 => Just(Op::Fork),
    ]
}

fn map() -> impl Strategy<Value = Op> {
    (place(), 1u32..12, 0u8..7, 0u32..8, 0u32..20).prop_map(|(at, pages, kind, prot, offset)| {
        Op::Map {
            at,
            pages,
            kind,
            prot,
            offset,
        }
    })
}

fn nonlinear() -> impl Strategy<Value = Op> {
    (place(), 1u32..4, 0u32..20).prop_map(|(at, pages, offset)| Op::Nonlinear { at, pages, offset })
}

pub fn op() -> impl Strategy<Value = Op> {
    let len = 1u32..12;
    prop_oneof![
        4 => map(),
        2 => (place(), len.clone()).prop_map(|(at, pages)| Op::Unmap { at, pages }),
        2 => (place(), len.clone(), 0u32..4).prop_map(|(at, pages, prot)| Op::Protect { at, pages, prot }),
        2 => (place(), len.clone(), 0u32..6, place())
            .prop_map(|(at, pages, grown, to)| Op::Remap { at, pages, grown, to }),
        1 => nonlinear(),
        1 => (1u32..3, 0u32..32).prop_map(|(file, first)| Op::Truncate { file, first }),
        1 => (place(), len.clone()).prop_map(|(at, pages)| Op::DontNeed { at, pages }),
        1 => (place(), len.clone(), any::<bool>()).prop_map(|(at, pages, on)| Op::Lock { at, pages, on }),
        8 => (place(), any::<bool>()).prop_map(|(at, write)| Op::Touch { at, write }),
        5 => (place(), len, any::<bool>()).prop_map(|(at, pages, write)| Op::TouchMany { at, pages, write }),
        3 => Just(Op::Fork),
        1 => Just(Op::Exit),
        3 => (0usize..8).prop_map(|to| Op::Switch { to }),
        4 => (any::<prop::sample::Index>(), prop_oneof![3 => Just(0u32), 1 => 1u32..4])
            .prop_map(|(which, fail)| Op::UnmapProbe { which, fail }),
        2 => any::<prop::sample::Index>().prop_map(|which| Op::PageOut { which }),
    ]
}
