//! Page tables among code: a walk that marks an entry accessed or dirty rewrites an instruction.
//!
//! SDM vol. 3, 4.8: the processor writes A and D whenever it uses an entry. Here the entry is part of
//! the instruction stream, in the block that is being executed. Invariant: the next instruction is
//! what memory holds then, in every engine.

use super::*;

/// Index in PT_USER of the entry that is executed, and the linear page it maps.
const INDEX: u32 = 64;
const PAGE: u32 = 0x40_0000 + INDEX * 4096;
/// Offset of the entry in its frame.
const ENTRY: u32 = INDEX * 8;

/// Runs from `eip`, with `code` at `at` of the page-table frame, on all machines; gives EAX.
fn run(at: u32, code: &[u8], eip: u32, regs: &[(usize, u32)], word: u32) -> u32 {
    let mut left = Vec::new();
    for (engine, plain) in [
        (Engine::Reference, true),
        (Engine::Reference, false),
        (Engine::Fast, true),
        (Engine::Fast, false),
    ] {
        let g = Geometry::pentium3();
        let mmu = if plain {
            Mmu::reference(memory(), &g)
        } else {
            Mmu::new(memory(), &g)
        };
        let mut cpu = machine_with(mmu.unwrap(), &g);
        place(&mut cpu, PT_USER as u32 + at, code);
        place(&mut cpu, VARS, &word.to_le_bytes());
        for &(n, value) in regs {
            cpu.regs[n] = value;
        }
        cpu.eip = eip;
        let exit = cpu.run(
            &mut EngineState::new(engine),
            &mut NoBus,
            &mut DecodeAll,
            100,
        );
        assert_eq!(exit, Exit::Halted);
        left.push(cpu);
    }
    for other in &left[1..] {
        compare("other engine", &left[0], other);
    }
    left[0].regs[regs::EAX]
}

#[test]
fn a_load_rewrites_the_next_instruction() {
    // mov edx, [PAGE]; then the entry: add eax, [ebx+ebx] with A clear, and eax, [ebx+ebx] with A set;
    // add al, al; hlt. The frame is 1b8000h.
    let mut code = vec![0x8b, 0x15];
    code.extend(PAGE.to_le_bytes());
    code.extend([0x03, 0x84, 0x1b, 0, 0, 0, 0, 0, 0xc0, 0xf4]);
    let at = ENTRY - 6;
    let eip = PT_USER as u32 + at;
    let regs = [(regs::EAX, 0xff), (regs::EBX, VARS / 2)];
    assert_eq!(run(at, &code, eip, &regs, 0x0f0f), 0x0f + 0x0f);
}

#[test]
fn a_store_rewrites_the_next_instruction() {
    // mov [PAGE], edx sets A and D: add (03) becomes arpl (63), which leaves EAX alone and raises the
    // RPL of the word to AX's.
    let mut code = vec![0x89, 0x15];
    code.extend(PAGE.to_le_bytes());
    code.extend([0x03, 0x84, 0x1b, 0, 0, 0, 0, 0, 0xc0, 0xf4]);
    let at = ENTRY - 6;
    let eip = PT_USER as u32 + at;
    let regs = [(regs::EAX, 0x13), (regs::EBX, VARS / 2)];
    assert_eq!(run(at, &code, eip, &regs, 0x0f0c), 0x13 + 0x13);
}

#[test]
fn a_fetch_rewrites_the_next_instruction() {
    // The entry maps its own frame, and is executed there: nop; add eax, [eax] or, once the fetch of
    // the nop has marked it, and eax, [eax]; add [eax], al twice; add al, al; hlt.
    let code = [0x90, 0x03, 0x40, 0, 0, 0, 0, 0, 0, 0xc0, 0xf4];
    let at = ENTRY - 1;
    let regs = [(regs::EAX, VARS)];
    assert_eq!(run(at, &code, PAGE + at, &regs, 0x1_f800), 0xf000);
}
