//! Selectors that a host may move by two bytes where the emulated machine moves four.
//!
//! SDM vol. 2, PUSH and POP: with a 32-bit operand the upper half may stay as it is. Both shapes below came up once in 100
//! million cases. Invariant: a case whose way depends on that half does not reach the host.

use emu_cpu::Engine;
use emu_cpu::flags::{AC, IF};
use emu_cpu::regs::ESP;
use lowmem_diff::case::Case;
use lowmem_diff::layout::{CODE, EXIT, Layout, LowPages, STACK, USER_CS, USER_DS};
use lowmem_diff::machine::{Dropped, Machine, Path};
use lowmem_diff::outcome::{End, Outcome};

const START: u32 = CODE + 0x400;

/// How `body`, then a jump to the exit, ends on the reference.
fn run(body: &[u8], esp: u32, flags: u32) -> Result<Outcome, Dropped> {
    let mut code = body.to_vec();
    code.push(0xe9);
    let end = START + code.len() as u32 + 4;
    code.extend(EXIT.wrapping_sub(end).to_le_bytes());
    let mut regs = [0; 8];
    regs[ESP] = esp;
    let case = Case {
        start: START,
        cs: USER_CS,
        body: body.len(),
        code,
        regs,
        eflags: 2 | IF | flags,
        data: [USER_DS; 4],
        words: Vec::new(),
    };
    let mut machine = Machine::new(Engine::Reference, &Layout::new(LowPages::Refused)).unwrap();
    machine.start(&case);
    machine.step_through(&mut Path::default())
}

const PUSH_CS: &[u8] = &[0x0e];
const POP_DS: &[u8] = &[0x1f];

#[test]
fn an_even_address_is_aligned_for_two_bytes() {
    for code in [PUSH_CS, POP_DS] {
        let at = STACK + 0x402;
        assert_eq!(run(code, at, AC).unwrap_err(), Dropped::Open);
        let odd = run(code, at + 1, AC).unwrap();
        assert!(matches!(odd.end, End::Fault { vector: 17, .. }), "{odd}");
    }
    assert_eq!(run(PUSH_CS, STACK + 0x402, 0).unwrap().end, End::Exit);
}

#[test]
fn an_absent_upper_half_is_not_touched_by_two_bytes() {
    // The pages of the stack end two bytes on.
    let end = STACK + 0x2000;
    assert_eq!(run(POP_DS, end - 2, 0).unwrap_err(), Dropped::Open);
    let both = run(POP_DS, end - 1, 0).unwrap();
    assert!(
        matches!(both.end, End::Fault { vector: 14, cr2, .. } if cr2 == end),
        "{both}"
    );
}

#[test]
fn the_upper_half_is_not_executed() {
    // push ds into the code: the selector before the next instruction, the upper half over it.
    let esp = START + 1 - 2 + 4;
    assert_eq!(
        run(&[0x1e, 0x90, 0x90], esp, 0).unwrap_err(),
        Dropped::ReadsUndefined
    );
    // The same in front of the code.
    assert_eq!(run(&[0x1e, 0x90, 0x90], START, 0).unwrap().end, End::Exit);
}
