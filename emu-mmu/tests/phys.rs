//! Physical memory against a plain array of bytes: every representation must be exact.

use emu_mmu::{Pfn, PhysAddr, PhysMem};
use proptest::prelude::*;

const RAM: u64 = 1 << 20;
const LOW: u64 = 512 << 10;

/// One step. Frames are chosen among few, on both sides of the end of low memory, so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    Write {
        frame: u32,
        offset: u32,
        size: u8,
        value: u64,
    },
    Bytes {
        frame: u32,
        offset: u32,
        len: u16,
        seed: u8,
    },
    /// Page-table entries in halves, high word first, as PAE kernels write them.
    Entries {
        frame: u32,
        first: u16,
        count: u16,
        base: u64,
        step: u64,
    },
    Clear(u32),
    Copy(u32, u32),
    Full(u32),
    Clone,
    Reset,
    /// Drops the clone and goes on with the original.
    Drop,
}

fn frame() -> impl Strategy<Value = u32> {
    prop_oneof![126u32..=133, Just(255)]
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
    let offset = prop_oneof![0u32..4096, (0u32..32).prop_map(|i| i * 4), 4090u32..4096];
    let value = prop_oneof![any::<u64>(), Just(0), 0u64..256];
    prop_oneof![
        8 => (frame(), offset, size, value)
            .prop_map(|(frame, offset, size, value)| Step::Write { frame, offset, size, value }),
        2 => (frame(), 0u32..4096, 0u16..5000, any::<u8>())
            .prop_map(|(frame, offset, len, seed)| Step::Bytes { frame, offset, len, seed }),
        4 => (frame(), 0u16..512, 0u16..512, any::<u64>(), prop_oneof![Just(4096u64), Just(0), any::<u64>()])
            .prop_map(|(frame, first, count, base, step)| Step::Entries { frame, first, count, base, step }),
        1 => frame().prop_map(Step::Clear),
        2 => (frame(), frame()).prop_map(|(a, b)| Step::Copy(a, b)),
        1 => frame().prop_map(Step::Full),
        1 => Just(Step::Clone),
        1 => Just(Step::Reset),
        1 => Just(Step::Drop),
    ]
}

fn at(frame: u32, offset: u32) -> usize {
    (frame * 4096 + offset) as usize
}

/// Writes to both, dropping what lies beyond RAM.
fn put(mem: &mut PhysMem, model: &mut [u8], a: usize, bytes: &[u8]) {
    match *bytes {
        [b] => mem.write_u8(PhysAddr(a as u64), b),
        [a0, a1] => mem.write_u16(PhysAddr(a as u64), u16::from_le_bytes([a0, a1])),
        [a0, a1, a2, a3] => {
            mem.write_u32(PhysAddr(a as u64), u32::from_le_bytes([a0, a1, a2, a3]));
        }
        _ if bytes.len() == 8 => {
            mem.write_u64(
                PhysAddr(a as u64),
                u64::from_le_bytes(bytes.try_into().unwrap()),
            );
        }
        _ => mem.write_bytes(PhysAddr(a as u64), bytes),
    }
    for (i, b) in bytes.iter().enumerate() {
        if let Some(m) = model.get_mut(a + i) {
            *m = *b;
        }
    }
}

fn apply(mem: &mut PhysMem, model: &mut [u8], step: &Step) {
    match *step {
        Step::Write {
            frame,
            offset,
            size,
            value,
        } => {
            put(
                mem,
                model,
                at(frame, offset),
                &value.to_le_bytes()[..usize::from(size)],
            );
        }
        Step::Bytes {
            frame,
            offset,
            len,
            seed,
        } => {
            let bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(seed)).collect();
            put(mem, model, at(frame, offset), &bytes);
        }
        Step::Entries {
            frame,
            first,
            count,
            base,
            step,
        } => {
            for i in 0..count.min(512 - first) {
                let value = base
                    .wrapping_add(step.wrapping_mul(u64::from(i)))
                    .to_le_bytes();
                let a = at(frame, u32::from(first + i) * 8);
                put(mem, model, a + 4, &value[4..]);
                put(mem, model, a, &value[..4]);
            }
        }
        Step::Clear(f) => {
            mem.clear_page(Pfn(f));
            model[at(f, 0)..at(f, 0) + 4096].fill(0);
        }
        Step::Copy(to, from) => {
            mem.copy_page(Pfn(to), Pfn(from));
            model.copy_within(at(from, 0)..at(from, 0) + 4096, at(to, 0));
        }
        Step::Full(f) => assert!(mem.make_full(Pfn(f)).is_some()),
        Step::Clone | Step::Reset | Step::Drop => unreachable!("handled by the caller"),
    }
}

fn check(mem: &PhysMem, model: &[u8]) -> Result<(), TestCaseError> {
    let mut bytes = vec![0; model.len()];
    mem.read_bytes(PhysAddr(0), &mut bytes);
    prop_assert!(bytes == *model, "bytes differ");
    for a in (0..RAM - 8).step_by(509) {
        let want = u64::from_le_bytes(model[a as usize..a as usize + 8].try_into().unwrap());
        prop_assert_eq!(mem.read_u64(PhysAddr(a)), want);
        prop_assert_eq!(mem.read_u32(PhysAddr(a)), want as u32);
        prop_assert_eq!(mem.read_u16(PhysAddr(a)), want as u16);
        prop_assert_eq!(mem.read_u8(PhysAddr(a)), want as u8);
    }
    let touched: Vec<Pfn> = mem.touched_frames().collect();
    prop_assert!(touched.is_sorted());
    for f in 0..(RAM / 4096) as u32 {
        let words: Vec<(u32, u32)> = mem.page_words(Pfn(f)).collect();
        let page = &model[at(f, 0)..at(f, 0) + 4096];
        let want: Vec<(u32, u32)> = page
            .chunks_exact(4)
            .enumerate()
            .map(|(i, w)| (i as u32 * 4, u32::from_le_bytes(w.try_into().unwrap())))
            .filter(|&(_, w)| w != 0)
            .collect();
        prop_assert_eq!(&words, &want);
        prop_assert!(want.is_empty() || touched.binary_search(&Pfn(f)).is_ok());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn equals_a_plain_array(steps in prop::collection::vec(step(), 1..60)) {
        // A stack of memories, each a clone of the one below, with what it holds and what it was cloned from.
        let mut stack = vec![(PhysMem::new(RAM, LOW).unwrap(), vec![0u8; RAM as usize], None)];
        for step in &steps {
            let depth = stack.len();
            let top = stack.last_mut().unwrap();
            match step {
                Step::Clone if depth < 4 => {
                    let clone = top.0.clone_cow().unwrap();
                    let model = top.1.clone();
                    stack.push((clone, model.clone(), Some(model)));
                }
                Step::Clone => {}
                Step::Reset => {
                    if let Some(base) = &top.2 {
                        top.0.reset();
                        top.1.clone_from(base);
                    }
                }
                Step::Drop => {
                    if depth > 1 {
                        stack.pop();
                    }
                }
                _ => apply(&mut top.0, &mut top.1, step),
            }
        }
        for (mem, model, _) in &stack {
            check(mem, model)?;
        }
    }
}

#[test]
fn sizes_are_checked() {
    let bad = [
        (RAM - 4096, 0),
        (RAM + 1, 0),
        ((64 << 30) + 4096, 0),
        (RAM, RAM + 4096),
        (RAM, 1),
    ];
    for (ram, low) in bad {
        assert!(PhysMem::new(ram, low).is_err(), "{ram} {low}");
    }
    let most = (4u64 << 30) - (32 << 20);
    assert!(PhysMem::new(64 << 30, most + 4096).is_err());
    assert!(PhysMem::new(64 << 30, most).is_ok());
    assert!(PhysMem::new(RAM, 0).is_ok());
}

#[test]
fn beyond_ram_is_an_empty_bus() {
    let mut mem = PhysMem::new(RAM, LOW).unwrap();
    mem.write_u32(PhysAddr(RAM), 1);
    mem.write_u64(PhysAddr(RAM - 4), 0x1122_3344_5566_7788);
    assert_eq!(mem.read_u64(PhysAddr(RAM - 4)), 0xFFFF_FFFF_5566_7788);
    assert_eq!(mem.read_u32(PhysAddr(RAM)), u32::MAX);
    assert_eq!(mem.read_u8(PhysAddr(u64::MAX)), 0xFF);
    assert_eq!(mem.read_u64(PhysAddr(1 << 51)), u64::MAX);
    assert!(mem.host_page(Pfn(256)).is_none());
    assert_eq!(mem.page_words(Pfn(u32::MAX)).count(), 0);
}

#[test]
fn sixty_four_gigabytes_cost_little_until_touched() {
    let mut mem = PhysMem::new(64 << 30, 896 << 20).unwrap();
    assert!(mem.resident_bytes() < 1 << 20, "{}", mem.resident_bytes());
    // A page table of 512 consecutive entries stays affine; 16 words stay compact.
    for i in 0..512u64 {
        mem.write_u32(PhysAddr((40 << 30) + 8 * i + 4), 1);
        mem.write_u32(PhysAddr((40 << 30) + 8 * i), (i as u32) << 12 | 0x67);
    }
    for i in 0..16u64 {
        mem.write_u32(PhysAddr((50 << 30) + 256 * i), 7);
    }
    assert!(mem.resident_bytes() < 1 << 20, "{}", mem.resident_bytes());
    assert!(mem.host_page(PhysAddr(40 << 30).pfn()).is_none());
    let clone = mem.clone_cow().unwrap();
    assert_eq!(clone.read_u64(PhysAddr((40 << 30) + 8)), 1 << 32 | 0x1067);
    assert_eq!(clone.page_words(PhysAddr(40 << 30).pfn()).count(), 1024);
}

#[test]
fn a_clone_shares_until_written() {
    let mut mem = PhysMem::new(64 << 20, 32 << 20).unwrap();
    for f in 0..(64u32 << 8) {
        mem.write_bytes(Pfn(f).base(), &[f as u8 | 1; 4096]);
    }
    assert!(mem.resident_bytes() >= 64 << 20);
    let mut clone = mem.clone_cow().unwrap();
    clone.write_u8(PhysAddr(5), 200);
    clone.write_u8(PhysAddr((32 << 20) + 5), 201);
    assert_eq!(mem.read_u8(PhysAddr(5)), 1);
    assert_eq!(mem.read_u8(PhysAddr((32 << 20) + 5)), 1);
    clone.reset();
    assert_eq!(clone.read_u8(PhysAddr(5)), 1);
    assert_eq!(clone.read_u8(PhysAddr((32 << 20) + 5)), 1);
}

#[test]
fn a_clone_that_was_cloned_itself_still_resets() {
    let original = PhysMem::new(RAM, LOW).unwrap();
    let mut clone = original.clone_cow().unwrap();
    clone.write_u8(PhysAddr(LOW), 1);
    drop(clone.clone_cow().unwrap());
    clone.write_u8(PhysAddr(LOW + 1), 1);
    clone.reset();
    assert_eq!(clone.read_u16(PhysAddr(LOW)), 0);
}

#[test]
fn memory_can_change_threads() {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<PhysMem>();
}
