//! What comparing random cases with a host CPU (`cargo xtask diff`) found, one small test each.
//!
//! Every case runs on both engines at CPL 3 and ends in an exception; expected is what an Intel CPU
//! of family 6 did in compatibility mode. Invariant: the names say what broke.

mod common;

use common::*;
use emu_cpu::cpu::{CR0_AM, CR0_ET, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE};
use emu_cpu::flags::{AC, CF, IF, OF, TF, ZF};
use emu_cpu::regs::{EAX, EBX, ECX, EDI, ESI};
use emu_cpu::*;

/// How a case ended.
#[derive(Debug)]
struct Seen {
    vector: u32,
    /// From the start of the code.
    eip: u32,
    eflags: u32,
    cr2: u32,
    regs: Regs,
}

/// The undefined instruction that ends a case without a fault of its own.
const UD2: [u8; 2] = [0x0f, 0x0b];
const UD: u32 = 6;

/// Runs `code` and UD2 at CPL 3 from what `setup` makes, on both engines.
fn run(code: &[u8], setup: impl Fn(&mut Cpu)) -> [Seen; 2] {
    [Engine::Reference, Engine::Fast].map(|engine| {
        let mut cpu = machine();
        for vector in 0..32u8 {
            let at = STUBS + u32::from(vector) * 16;
            place(&mut cpu, at, &[0xf4]);
            gate(&mut cpu, vector, at, 0xe, if vector == 3 { 3 } else { 0 });
        }
        place(&mut cpu, CODE_FRAME as u32, &[code, &UD2].concat());
        enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
        cpu.set_eflags(2 | IF);
        setup(&mut cpu);
        let mut state = EngineState::new(engine);
        let exit = cpu.run(&mut state, &mut NoBus, &mut DecodeAll, 1000);
        assert_eq!(exit, Exit::Halted, "{engine:?}");
        let vector = (cpu.eip - 1 - STUBS) / 16;
        let frame = cpu.regs[regs::ESP] + if has_code(vector as u8) { 4 } else { 0 };
        Seen {
            vector,
            eip: read32(&cpu, frame) - USER_CODE,
            eflags: read32(&cpu, frame + 8),
            cr2: cpu.cr2,
            regs: cpu.regs,
        }
    })
}

/// Physical address of a byte of the data pages.
fn data(offset: u32) -> u32 {
    DATA_FRAME as u32 + offset
}

#[test]
fn a_fault_in_a_repeated_comparison_restores_the_flags() {
    for seen in run(&[0xf2, 0xae], |cpu| {
        cpu.regs[EAX] = 1;
        cpu.regs[ECX] = 10;
        cpu.regs[EDI] = USER_DATA + 0x1ffe;
        cpu.set_eflags(2 | IF | ZF | OF);
    }) {
        assert_eq!(
            (seen.vector, seen.eip, seen.cr2),
            (14, 0, USER_DATA + 0x2000)
        );
        assert_eq!((seen.regs[ECX], seen.regs[EDI]), (8, USER_DATA + 0x2000));
        assert_eq!(seen.eflags & flags::ARITH, ZF | OF);
    }
}

#[test]
fn a_debug_trap_in_a_repeated_comparison_shows_the_flags_before_it() {
    for seen in run(&[0xf2, 0xae], |cpu| {
        cpu.regs[EAX] = 1;
        cpu.regs[ECX] = 3;
        cpu.regs[EDI] = USER_DATA;
        cpu.set_eflags(2 | IF | TF | ZF);
    }) {
        assert_eq!((seen.vector, seen.eip, seen.regs[ECX]), (1, 0, 2));
        assert_eq!(seen.eflags & flags::ARITH, ZF);
    }
}

#[test]
fn repeated_ins_and_outs_of_nothing_need_the_port_all_the_same() {
    for code in [[0xf3, 0x6c], [0xf3, 0x6d], [0xf3, 0x6e], [0xf3, 0x6f]] {
        for seen in run(&code, |cpu| {
            cpu.regs[ECX] = 0;
            // The I/O bitmap lies beyond the TSS's limit.
            place(cpu, TSS + 0x66, &[0x68, 0]);
        }) {
            assert_eq!((seen.vector, seen.eip), (13, 0));
        }
    }
}

#[test]
fn a_rotate_through_carry_by_its_whole_length_leaves_the_flags() {
    // rcl al, 9; rcr al, 9; rcl ax, 17.
    for code in [
        &[0xc0, 0xd0, 9][..],
        &[0xc0, 0xd8, 9],
        &[0x66, 0xc1, 0xd0, 17],
    ] {
        for set in [0, OF, CF, OF | CF] {
            for seen in run(code, |cpu| {
                cpu.regs[EAX] = 0x80;
                cpu.set_eflags(2 | IF | set);
            }) {
                assert_eq!((seen.vector, seen.regs[EAX]), (UD, 0x80));
                assert_eq!(seen.eflags & flags::ARITH, set);
            }
        }
    }
}

#[test]
fn lar_gives_the_upper_bits_of_the_limit_too() {
    for seen in run(&[0x0f, 0x02, 0xc1], |cpu| cpu.regs[ECX] = u32::from(UDS)) {
        assert_eq!(seen.vector, UD);
        assert_eq!(seen.regs[EAX], 0x00cf_f300);
        assert_ne!(seen.eflags & ZF, 0);
    }
}

#[test]
fn int3_returns_behind_its_prefixes() {
    for seen in run(&[0x66, 0x3e, 0xcc], |_| {}) {
        assert_eq!((seen.vector, seen.eip), (3, 3));
    }
}

#[test]
fn bound_does_not_read_the_upper_bound_of_an_index_below_the_lower() {
    for seen in run(&[0x62, 0x03], |cpu| {
        place(cpu, data(0x1ffc), &5u32.to_le_bytes());
        cpu.regs[EBX] = USER_DATA + 0x1ffc;
    }) {
        assert_eq!((seen.vector, seen.eip), (5, 0));
    }
}

#[test]
fn movs_reads_before_it_looks_at_its_target() {
    // The source is absent and ES cannot be used: the source faults.
    for seen in run(&[0xa4], |cpu| {
        cpu.set_segment(Seg::Es, Segment::default());
        cpu.regs[ESI] = USER_DATA + 0x2000;
        cpu.regs[EDI] = USER_DATA;
    }) {
        assert_eq!((seen.vector, seen.cr2), (14, USER_DATA + 0x2000));
    }
}

#[test]
fn a_16_bit_far_pointer_is_aligned_like_a_word() {
    for (offset, vector) in [(2, UD), (1, 17)] {
        for seen in run(&[0x66, 0xc5, 0x03], |cpu| {
            let cr0 = CR0_PE | CR0_ET | CR0_WP | CR0_PG | CR0_AM;
            cpu.set_control(cr0, PDPT as u32, CR4_PAE | CR4_PGE, 0)
                .unwrap();
            place(cpu, data(offset), &[0x34, 0x12, UDS as u8, 0]);
            cpu.regs[EBX] = USER_DATA + offset;
            cpu.set_eflags(2 | IF | AC);
        }) {
            assert_eq!(seen.vector, vector);
            if vector == UD {
                assert_eq!(seen.regs[EAX], 0x1234);
            }
        }
    }
}

#[test]
fn parts_of_a_far_pointer_wrap_with_16_bit_addresses() {
    // lds eax, [0xfffc]: the offset is the last double word of the first data page, the selector at
    // offset 0, 64 KiB below (a code page), not in the second data page.
    for seen in run(&[0x67, 0xc5, 0x06, 0xfc, 0xff], |cpu| {
        let mut ds = cpu.segment(Seg::Ds);
        ds.base = USER_DATA + 0x1000 - 0x1_0000;
        assert_eq!(ds.base, USER_CODE + 0x1000);
        cpu.set_segment(Seg::Ds, ds);
        place(cpu, data(0xffc), &[0x78, 0x56, 0x34, 0x12]);
        place(cpu, CODE_FRAME as u32 + 0x1000, &[UDS as u8, 0]);
        place(cpu, data(0x1000), &[0xf3, 0xff]);
    }) {
        assert_eq!((seen.vector, seen.regs[EAX]), (UD, 0x1234_5678));
    }
}
