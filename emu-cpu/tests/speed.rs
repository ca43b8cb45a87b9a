//! Host speed of the engines on kernel-like code: calls, list walks, table updates, bit operations.
//! Prints, asserts nothing:
//! `cargo test --release -p emu-cpu --test speed -- --ignored --nocapture`.

mod common;

use common::*;
use emu_cpu::*;
use iced_x86::code_asm::*;
use std::time::Instant;

/// A loop of about 60 instructions: walk a list of 16 nodes, update a table by hash, call a leaf
/// twice.
fn code() -> Vec<u8> {
    let mut a = CodeAssembler::new(32).unwrap();
    let (mut top, mut walk, mut leaf, mut skip) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.set_label(&mut top).unwrap();
    a.mov(esi, 0x8_0000).unwrap();
    a.xor(eax, eax).unwrap();
    a.set_label(&mut walk).unwrap();
    a.add(eax, dword_ptr(esi + 8)).unwrap();
    a.mov(edx, dword_ptr(esi + 4)).unwrap();
    a.test(edx, 3).unwrap();
    a.jne(skip).unwrap();
    a.inc(dword_ptr(esi + 12)).unwrap();
    a.set_label(&mut skip).unwrap();
    a.mov(esi, dword_ptr(esi)).unwrap();
    a.test(esi, esi).unwrap();
    a.jne(walk).unwrap();
    a.push(eax).unwrap();
    a.call(leaf).unwrap();
    a.push(ebx).unwrap();
    a.call(leaf).unwrap();
    a.add(esp, 8).unwrap();
    a.dec(edi).unwrap();
    a.jne(top).unwrap();
    a.hlt().unwrap();
    a.set_label(&mut leaf).unwrap();
    a.push(ebp).unwrap();
    a.mov(ebp, esp).unwrap();
    a.mov(ecx, dword_ptr(ebp + 8)).unwrap();
    a.imul_3(ecx, ecx, 0x9e37_79b1u32 as i32).unwrap();
    a.shr(ecx, 20).unwrap();
    a.lea(edx, dword_ptr(ecx * 8 + 0x9_0000)).unwrap();
    a.movzx(ebx, byte_ptr(edx)).unwrap();
    a.mov(dword_ptr(edx + 4), ebx).unwrap();
    a.bts(dword_ptr(0xa_0000), 5).unwrap();
    a.sbb(ebx, ebx).unwrap();
    a.pop(ebp).unwrap();
    a.ret().unwrap();
    a.assemble(u64::from(KERNEL)).unwrap()
}

#[test]
#[ignore = "measures, asserts nothing"]
fn speed() {
    for (engine, rounds) in [(Engine::Fast, 500_000), (Engine::Reference, 20_000)] {
        for geometry in [lowmem_cost::Geometry::pentium3(), trace_cache_geometry()] {
            let mut cpu = machine_with(emu_mmu::Mmu::new(memory(), &geometry).unwrap(), &geometry);
            place(&mut cpu, KERNEL, &code());
            for i in 0..16u32 {
                let at = 0x8_0000 + i * 0x140;
                let next = if i == 15 { 0 } else { at + 0x140 };
                for (o, v) in [(0, next), (4, i), (8, i * 3), (12, 0)] {
                    place(&mut cpu, at + o, &v.to_le_bytes());
                }
            }
            cpu.regs[regs::EDI] = rounds;
            let mut state = EngineState::new(engine);
            let start = Instant::now();
            let exit = cpu.run(&mut state, &mut NoBus, &mut DecodeAll, u64::MAX);
            let t = start.elapsed().as_secs_f64();
            assert_eq!(exit, Exit::Halted);
            let n = cpu.retired() as f64;
            println!(
                "{engine:?} {:?}: {:.1} M instructions/s ({:.1} M in {t:.2} s)",
                std::mem::discriminant(&geometry.front_end),
                n / t / 1e6,
                n / 1e6
            );
        }
    }
}
