//! Real mode, 16-bit segments, ports, debug traps, alignment: the manual's rules, on both engines.
//!
//! Programs start in the reset state with the vector table's handlers at fixed places, or in the
//! small PAE machine of `common`.

mod common;

use common::*;
use emu_cpu::regs::{EAX, EBX, ECX, EDI, EDX, ESI, ESP};
use emu_cpu::*;
use emu_mmu::{Mmu, PhysAddr};
use iced_x86::code_asm::*;
use lowmem_cost::Geometry;

fn engines() -> [EngineState; 2] {
    [
        EngineState::new(Engine::Reference),
        EngineState::new(Engine::Fast),
    ]
}

fn assemble(bits: u32, at: u32, f: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    f(&mut a);
    a.assemble(u64::from(at)).unwrap()
}

/// Where real-mode test code lies, as an offset of segment 0.
const CODE: u32 = 0x1000;
/// Real-mode handlers: one byte each, `hlt`.
const HANDLERS: u32 = 0x600;

/// A reset CPU that jumps to 0:CODE; every vector leads to a hlt of its own.
fn real_machine(code: &[u8]) -> Cpu {
    let g = Geometry::pentium3();
    let mut cpu = Cpu::at_reset(Mmu::new(memory(), &g).expect("geometry"), &g);
    for vector in 0..256u32 {
        let m = &mut cpu.mmu.mem;
        m.write_u32(PhysAddr(u64::from(vector * 4)), HANDLERS + vector);
        m.write_u8(PhysAddr(u64::from(HANDLERS + vector)), 0xf4);
    }
    place(&mut cpu, CODE, code);
    let mut code_segment = cpu.segment(Seg::Cs);
    code_segment.selector = 0;
    code_segment.base = 0;
    cpu.set_segment(Seg::Cs, code_segment);
    cpu.eip = CODE;
    cpu.regs[ESP] = 0x8000;
    cpu
}

fn run(cpu: &mut Cpu, engine: &mut EngineState) -> Exit {
    cpu.run(engine, &mut NoBus, &mut DecodeAll, 10_000)
}

/// Runs real-mode code up to a hlt. The vector whose handler halted, if one did.
fn real(f: impl Fn(&mut CodeAssembler)) -> (Cpu, Option<u32>) {
    let mut both = Vec::new();
    for mut engine in engines() {
        let code = assemble(16, CODE, &f);
        let mut cpu = real_machine(&code);
        assert_eq!(run(&mut cpu, &mut engine), Exit::Halted, "{}", cpu.dump());
        both.push(cpu);
    }
    assert_eq!(both[0].dump(), both[1].dump());
    let cpu = both.remove(0);
    let vector = (HANDLERS..HANDLERS + 256)
        .contains(&(cpu.eip - 1))
        .then(|| cpu.eip - 1 - HANDLERS);
    (cpu, vector)
}

fn word(cpu: &Cpu, at: u32) -> u16 {
    cpu.mmu.mem.read_u16(PhysAddr(u64::from(at)))
}

#[test]
fn the_reset_state() {
    let g = Geometry::pentium3();
    let cpu = Cpu::at_reset(Mmu::new(memory(), &g).unwrap(), &g);
    let code = cpu.segment(Seg::Cs);
    assert_eq!(
        (code.selector, code.base, code.limit),
        (0xf000, 0xffff_0000, 0xffff)
    );
    assert_eq!((cpu.eip, cpu.eflags(), cpu.cpl()), (0xfff0, 2, 0));
    assert_eq!((cpu.cr0(), cpu.cr3(), cpu.cr4()), (0x6000_0010, 0, 0));
    assert_eq!((cpu.dr[6], cpu.dr[7]), (0xffff_0ff0, 0x400));
    assert_eq!((cpu.idtr.base, cpu.idtr.limit), (0, 0xffff));
    assert_eq!(cpu.regs[EDX], 0x6b1);
}

#[test]
fn interrupts_in_real_mode_push_three_words() {
    let (cpu, vector) = real(|a| {
        a.stc().unwrap();
        a.sti().unwrap();
        a.int(0x21).unwrap();
    });
    assert_eq!(vector, Some(0x21));
    assert_eq!(cpu.regs[ESP], 0x7ffa);
    assert_eq!(word(&cpu, 0x7ffa), CODE as u16 + 4, "behind the int");
    assert_eq!(word(&cpu, 0x7ffc), 0);
    assert_eq!(word(&cpu, 0x7ffe), 0x203, "IF and CF");
    assert_eq!(cpu.eflags() & flags::IF, 0);
}

#[test]
fn real_mode_faults_push_no_code() {
    // A word at the end of a segment.
    let (cpu, vector) = real(|a| {
        a.mov(bx, 0xffffu32).unwrap();
        a.mov(ax, word_ptr(bx)).unwrap();
    });
    assert_eq!((vector, cpu.regs[ESP]), (Some(13), 0x7ffa));
    assert_eq!(word(&cpu, 0x7ffa), CODE as u16 + 3, "EIP of the fault");
    // The same through SS.
    let (_, vector) = real(|a| {
        a.mov(bp, 0xffffu32).unwrap();
        a.mov(ax, word_ptr(bp)).unwrap();
    });
    assert_eq!(vector, Some(12));
    // Instructions that need descriptors.
    assert_eq!(real(|a| a.verr(ax).unwrap()).1, Some(6));
    assert_eq!(real(|a| a.sldt(ax).unwrap()).1, Some(6));
    assert_eq!(real(|a| a.lar(ax, cx).unwrap()).1, Some(6));
    assert_eq!(
        real(|a| {
            a.xor(cx, cx).unwrap();
            a.div(cx).unwrap();
        })
        .1,
        Some(0)
    );
    assert_eq!(
        real(|a| a.db(&[0xf0, 0x90]).unwrap()).1,
        Some(6),
        "lock nop"
    );
}

#[test]
fn addresses_of_16_bits_wrap_and_operands_of_32_bits_work() {
    let (cpu, vector) = real(|a| {
        a.mov(eax, 0x1234_5678u32).unwrap();
        a.mov(bx, 0xfff0u32).unwrap();
        // bx + 0x2010 wraps to 0x2000.
        a.mov(dword_ptr(bx + 0x2010), eax).unwrap();
        a.push(eax).unwrap();
        a.pop(ecx).unwrap();
        a.mov(cx, 2u32).unwrap();
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.inc(dx).unwrap();
        a.loop_(top).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(vector, None);
    assert_eq!(read32(&cpu, 0x2000), 0x1234_5678);
    assert_eq!(cpu.regs[ECX], 0x1234_0000, "only CX counts");
    assert_eq!(cpu.regs[EDX] & 0xffff, 0x6b1 + 2);
}

#[test]
fn far_transfers_in_real_mode() {
    let (cpu, vector) = real(|a| {
        // call 0100:0100, which is linear 0x1100; it returns.
        a.db(&[0x9a, 0x00, 0x01, 0x00, 0x01]).unwrap();
        a.mov(bx, cs).unwrap();
        a.hlt().unwrap();
        a.nops_with_size(0x1100 - 0x1008).unwrap();
        a.mov(ax, cs).unwrap();
        a.db(&[0xcb]).unwrap();
    });
    assert_eq!(vector, None);
    assert_eq!((cpu.regs[EAX] & 0xffff, cpu.regs[EBX] & 0xffff), (0x100, 0));
    assert_eq!(cpu.regs[ESP], 0x8000);
}

#[test]
fn unreal_mode_keeps_the_limit() {
    for mut engine in engines() {
        let code = assemble(16, CODE, |a| {
            a.lgdt(fword_ptr(0x500)).unwrap();
            a.mov(eax, cr0).unwrap();
            a.inc(ax).unwrap();
            a.mov(cr0, eax).unwrap();
            a.mov(bx, 8u32).unwrap();
            a.mov(ds, bx).unwrap();
            a.dec(ax).unwrap();
            a.mov(cr0, eax).unwrap();
            a.mov(bx, 0x10u32).unwrap();
            a.mov(ds, bx).unwrap();
            a.mov(ebx, 0x20_0000u32).unwrap();
            a.mov(dword_ptr(ebx), ebx).unwrap();
            a.hlt().unwrap();
        });
        let mut cpu = real_machine(&code);
        let flat = Descriptor::new(0, u32::MAX, emu_cpu::segment::DATA32);
        cpu.mmu.mem.write_u64(PhysAddr(0x708), flat.0);
        place(&mut cpu, 0x500, &[0x0f, 0, 0, 7, 0, 0]);
        assert_eq!(run(&mut cpu, &mut engine), Exit::Halted, "{}", cpu.dump());
        assert_eq!(cpu.segment(Seg::Ds).base, 0x100);
        assert_eq!(read32(&cpu, 0x20_0100), 0x20_0000, "far beyond 64 KB");
    }
}

#[test]
fn a_vector_table_that_is_too_short_shuts_down() {
    for mut engine in engines() {
        let code = assemble(16, CODE, |a| {
            a.lidt(fword_ptr(0x500)).unwrap();
            a.int3().unwrap();
        });
        let mut cpu = real_machine(&code);
        place(&mut cpu, 0x500, &[0x0b, 0, 0, 0, 0, 0]);
        let Exit::TripleFault(dump) = run(&mut cpu, &mut engine) else {
            panic!("{}", cpu.dump())
        };
        assert_eq!(dump.vectors, [13, 8, 13], "#GP, #DF, and no more");
        // What a PC does then.
        cpu.reset();
        assert_eq!((cpu.eip, cpu.segment(Seg::Cs).base), (0xfff0, 0xffff_0000));
    }
}

/// A device that wants attention at a count of instructions, behind an interrupt controller.
#[derive(Debug, Default)]
struct Device {
    due: u64,
    line: bool,
    acknowledged: u32,
    input: u8,
    written: Vec<u32>,
}
impl Bus for Device {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        self.input += 1;
        u32::from(self.input)
    }
    fn port_out(&mut self, _: u16, _: u8, value: u32) -> Flow {
        self.written.push(value);
        Flow::Continue
    }
    fn probe(&mut self, _: u16, _: &mut Cpu) {}
    fn clock(&mut self, retired: u64) {
        if retired >= self.due {
            self.due = u64::MAX;
            self.line = true;
        }
    }
    fn next_event(&self) -> u64 {
        self.due
    }
    fn intr(&self) -> bool {
        self.line
    }
    fn acknowledge(&mut self) -> u8 {
        self.acknowledged += 1;
        self.line = false;
        0x40
    }
}

#[test]
fn the_interrupt_line_is_acknowledged_once() {
    for mut engine in engines() {
        let code = assemble(16, CODE, |a| {
            a.sti().unwrap();
            let mut top = a.create_label();
            a.set_label(&mut top).unwrap();
            a.inc(cx).unwrap();
            a.jmp(top).unwrap();
        });
        let mut cpu = real_machine(&code);
        let mut device = Device {
            due: 100,
            ..Device::default()
        };
        let exit = cpu.run(&mut engine, &mut device, &mut DecodeAll, 1000);
        assert_eq!(exit, Exit::Halted);
        assert_eq!(cpu.eip, HANDLERS + 0x40 + 1);
        assert_eq!(device.acknowledged, 1);
        assert_eq!(
            cpu.regs[ECX], 50,
            "two instructions a round, seen at the jump"
        );
        // An NMI wakes the halted CPU with IF=0; a second one waits for iret.
        cpu.raise_nmi();
        assert_eq!(run(&mut cpu, &mut engine), Exit::Halted);
        assert_eq!(cpu.eip, HANDLERS + 2 + 1);
        cpu.raise_nmi();
        let before = cpu.regs[ESP];
        assert_eq!(run(&mut cpu, &mut engine), Exit::Halted);
        assert_eq!(cpu.regs[ESP], before, "blocked");
    }
}

#[test]
fn port_strings_keep_their_progress_over_a_fault() {
    for mut engine in engines() {
        let mut cpu = machine();
        place(&mut cpu, KERNEL, &[0xf3, 0x6c, 0xf4]);
        place(&mut cpu, STUBS, &[0xf4]);
        gate(&mut cpu, 14, STUBS, 0xe, 0);
        // Three bytes fit before the absent page.
        cpu.regs[EDI] = 0x20_0000 - 3;
        cpu.regs[ECX] = 5;
        let mut device = Device {
            due: u64::MAX,
            ..Device::default()
        };
        let exit = cpu.run(&mut engine, &mut device, &mut DecodeAll, 100);
        assert_eq!((exit, cpu.eip), (Exit::Halted, STUBS + 1));
        assert_eq!((cpu.regs[EDI], cpu.regs[ECX]), (0x20_0000, 2));
        assert_eq!(
            device.input, 3,
            "no byte is taken for the page that is absent"
        );
        assert_eq!(read32(&cpu, KSTACK - 12), KERNEL, "restarts at the prefix");
        assert_eq!(cpu.cr2, 0x20_0000);
        // rep outsd of two words.
        engine.flush();
        place(&mut cpu, KERNEL, &[0xf3, 0x6f, 0xf4]);
        place(&mut cpu, 0x8_0000, &[1, 0, 0, 0, 2, 0, 0, 0]);
        (cpu.eip, cpu.regs[ESI], cpu.regs[ECX]) = (KERNEL, 0x8_0000, 2);
        cpu.raise_nmi();
        gate(&mut cpu, 2, STUBS + 8, 0xe, 0);
        place(&mut cpu, STUBS + 8, &[0xcf]);
        let exit = cpu.run(&mut engine, &mut device, &mut DecodeAll, 100);
        assert_eq!((exit, cpu.eip), (Exit::Halted, KERNEL + 3));
        assert_eq!(device.written, [1, 2]);
    }
}

/// Every exception is counted at VARS + 4 * vector, DR6 is kept at VARS + 0x100 and EIP and EFLAGS
/// of the last one behind it; handlers return.
fn counting_stubs(cpu: &mut Cpu) {
    for vector in 0..=0x20u8 {
        let at = STUBS + u32::from(vector) * 64;
        let code = assemble(32, at, |a| {
            if has_code(vector) || vector == 17 {
                a.add(esp, 4).unwrap();
            }
            a.push(eax).unwrap();
            a.inc(dword_ptr(VARS + u32::from(vector) * 4)).unwrap();
            if vector == 1 {
                a.mov(eax, dr6).unwrap();
                a.mov(dword_ptr(VARS + 0x100), eax).unwrap();
            }
            a.mov(eax, dword_ptr(esp + 4)).unwrap();
            a.mov(dword_ptr(VARS + 0x104), eax).unwrap();
            a.mov(eax, dword_ptr(esp + 12)).unwrap();
            a.mov(dword_ptr(VARS + 0x108), eax).unwrap();
            a.pop(eax).unwrap();
            if vector == 17 || vector == 13 {
                a.hlt().unwrap();
            }
            a.iretd().unwrap();
        });
        assert!(code.len() <= 64);
        place(cpu, at, &code);
        gate(cpu, vector, at, 0xe, 0);
    }
}

fn kernel(code: &[u8], prepare: impl Fn(&mut Cpu)) -> Cpu {
    let mut both = Vec::new();
    for mut engine in engines() {
        let mut cpu = machine();
        counting_stubs(&mut cpu);
        place(&mut cpu, KERNEL, code);
        prepare(&mut cpu);
        let exit = run(&mut cpu, &mut engine);
        assert_eq!(exit, Exit::Halted, "{}", cpu.dump());
        both.push(cpu);
    }
    assert_eq!(both[0].dump(), both[1].dump());
    assert_eq!(both[0].mmu.account, both[1].mmu.account);
    both.remove(0)
}

fn counted(cpu: &Cpu, vector: u32) -> u32 {
    read32(cpu, VARS + vector * 4)
}

#[test]
fn a_single_step_comes_between_the_elements_of_a_string() {
    // rep stosb; nop; hlt: three elements, the nop; popf sets TF and is itself not stepped.
    let code = [0x9d, 0xf3, 0xaa, 0x90, 0xf4];
    let cpu = kernel(&code, |cpu| {
        cpu.regs[ESP] = KSTACK - 4;
        cpu.mmu
            .mem
            .write_u32(PhysAddr(u64::from(KSTACK) - 4), 0x102);
        cpu.regs[EDI] = 0x8_0000;
        cpu.regs[ECX] = 3;
    });
    // Two between elements, one after the last, one after the nop; hlt ends the run before its own.
    assert!(counted(&cpu, 1) >= 4, "{}", counted(&cpu, 1));
    assert_eq!(read32(&cpu, VARS + 0x100) & 0xf00f, 0x4000, "DR6.BS");
    assert_eq!(cpu.regs[ECX], 0);
}

#[test]
fn instruction_breakpoints_fault_and_rf_lets_the_instruction_go() {
    let code = [0x90, 0x40, 0x90, 0xf4];
    let cpu = kernel(&code, |cpu| {
        cpu.dr[0] = KERNEL + 1;
        cpu.dr[7] = 0x401;
        // The handler must set RF itself: #DB of an instruction breakpoint pushes it clear.
        let code = assemble(32, STUBS + 64, |a| {
            a.inc(dword_ptr(VARS + 4)).unwrap();
            a.push(dword_ptr(esp + 8)).unwrap();
            a.pop(dword_ptr(VARS + 0x108)).unwrap();
            a.or(dword_ptr(esp + 8), 0x1_0000).unwrap();
            a.iretd().unwrap();
        });
        place(cpu, STUBS + 64, &code);
    });
    assert_eq!((counted(&cpu, 1), cpu.regs[EAX]), (1, 1));
    assert_eq!(read32(&cpu, VARS + 0x108) & 0x1_0000, 0);
    assert_eq!(cpu.dr[6] & 0xf, 1);
}

#[test]
fn data_breakpoints_trap_after_the_access() {
    // mov [0x80004], al; mov al, [0x80005]; nop; hlt, with DR1 on four bytes for writes.
    let mut code = assemble(32, KERNEL, |a| {
        a.mov(byte_ptr(0x8_0004), al).unwrap();
        a.mov(al, byte_ptr(0x8_0005)).unwrap();
        a.mov(dword_ptr(0x8_0002), eax).unwrap();
    });
    let third = code.len() as u32;
    code.extend([0x90, 0xf4]);
    let cpu = kernel(&code, |cpu| {
        cpu.dr[1] = 0x8_0004;
        cpu.dr[7] = 0x404 | 0xd << 20;
    });
    assert_eq!(counted(&cpu, 1), 2, "both writes, not the read");
    assert_eq!(cpu.dr[6] & 0xf, 2);
    assert_eq!(
        read32(&cpu, VARS + 0x104),
        KERNEL + third,
        "behind the write"
    );
}

#[test]
fn general_detect_comes_before_the_access() {
    let code = assemble(32, KERNEL, |a| {
        a.mov(eax, dr7).unwrap();
        a.mov(ebx, 5u32).unwrap();
        a.hlt().unwrap();
    });
    let cpu = kernel(&code, |cpu| {
        cpu.dr[7] = 0x2400;
    });
    // GD is cleared on entry, so the handler may read DR6 and the instruction then succeeds.
    assert_eq!((counted(&cpu, 1), cpu.regs[EAX]), (1, 0x400));
    assert_eq!(read32(&cpu, VARS + 0x100) & 0x2000, 0x2000);
}

#[test]
fn a_load_of_ss_holds_debug_exceptions_off() {
    // popf (TF); mov ss, ax; nop; hlt: stepped after the nop, not after mov ss.
    let code = [0x9d, 0x8e, 0xd0, 0x90, 0x43, 0xf4];
    let cpu = kernel(&code, |cpu| {
        cpu.regs[ESP] = KSTACK - 4;
        cpu.regs[EAX] = u32::from(KDS);
        cpu.mmu
            .mem
            .write_u32(PhysAddr(u64::from(KSTACK) - 4), 0x102);
        let code = assemble(32, STUBS + 64, |a| {
            let mut again = a.create_label();
            a.cmp(dword_ptr(VARS + 4), 0).unwrap();
            a.jne(again).unwrap();
            a.push(dword_ptr(esp)).unwrap();
            a.pop(dword_ptr(VARS + 0x104)).unwrap();
            a.set_label(&mut again).unwrap();
            a.inc(dword_ptr(VARS + 4)).unwrap();
            a.iretd().unwrap();
        });
        place(cpu, STUBS + 64, &code);
    });
    assert_eq!(read32(&cpu, VARS + 0x104), KERNEL + 4, "behind the nop");
}

#[test]
fn unaligned_accesses_of_ring_3_are_checked_when_asked_for() {
    let code = assemble(32, USER_CODE, |a| {
        a.pushfd().unwrap();
        a.or(dword_ptr(esp), 0x4_0000).unwrap();
        a.popfd().unwrap();
        a.mov(ax, word_ptr(USER_DATA + 2)).unwrap();
        a.mov(eax, dword_ptr(USER_DATA + 2)).unwrap();
    });
    for mut engine in engines() {
        let mut cpu = machine();
        counting_stubs(&mut cpu);
        place(&mut cpu, CODE_FRAME as u32, &code);
        let new = cpu.cr0() | cpu::CR0_AM;
        cpu.set_control(new, cpu.cr3(), cpu.cr4(), 0).unwrap();
        enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
        assert_eq!(run(&mut cpu, &mut engine), Exit::Halted, "{}", cpu.dump());
        assert_eq!(counted(&cpu, 17), 1);
        let fault = USER_CODE + code.len() as u32 - 5;
        assert_eq!(read32(&cpu, VARS + 0x104), fault, "the double word");
    }
}

#[test]
fn ports_ask_the_bitmap_of_the_task() {
    for (port, allowed) in [(0x10u8, true), (0x11, false)] {
        for mut engine in engines() {
            let mut cpu = machine();
            counting_stubs(&mut cpu);
            // in al, port; then a fault that ends the run.
            place(&mut cpu, CODE_FRAME as u32, &[0xe4, port, 0xf4]);
            let tss = u64::from(TSS);
            cpu.tr.limit = 0x6f;
            cpu.mmu.mem.write_u16(PhysAddr(tss + 0x66), 0x68);
            cpu.mmu.mem.write_u32(PhysAddr(tss + 0x68), 0xfffe_ffff);
            enter_user(&mut cpu, USER_CODE, USER_STACK_TOP);
            let mut device = Device {
                due: u64::MAX,
                ..Device::default()
            };
            let exit = cpu.run(&mut engine, &mut device, &mut DecodeAll, 100);
            assert_eq!(exit, Exit::Halted);
            assert_eq!(device.input, u8::from(allowed));
            let at = USER_CODE + if allowed { 2 } else { 0 };
            assert_eq!(read32(&cpu, VARS + 0x104), at);
        }
    }
}

#[test]
fn coprocessor_escapes_fault_as_cr0_says() {
    use cpu::{CR0_EM, CR0_MP, CR0_TS};
    for (set, code, vector) in [
        (0, &[0xdb, 0xe3][..], 6),
        (CR0_EM, &[0xdb, 0xe3], 7),
        (CR0_TS, &[0xd9, 0xe8], 7),
        (CR0_TS | CR0_MP, &[0x9b], 7),
        (CR0_EM | CR0_TS, &[0x0f, 0x77], 6),
        (CR0_EM, &[0x0f, 0x57, 0xc0], 6),
    ] {
        let code = [code, &[0xf4]].concat();
        let len = code.len() as u32 - 1;
        let cpu = kernel(&code, |cpu| {
            let new = cpu.cr0() | set;
            cpu.set_control(new, cpu.cr3(), cpu.cr4(), 0).unwrap();
            // The handler goes on behind the instruction.
            for vector in [6u32, 7] {
                let at = STUBS + vector * 64;
                let code = assemble(32, at, |a| {
                    a.inc(dword_ptr(VARS + vector * 4)).unwrap();
                    a.add(dword_ptr(esp), len as i32).unwrap();
                    a.iretd().unwrap();
                });
                place(cpu, at, &code);
            }
        });
        assert_eq!(counted(&cpu, vector), 1, "{code:02x?} with {set:x}");
    }
}
