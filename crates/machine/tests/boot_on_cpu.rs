//! The same boot natively and on the emulated CPU: equal memory, and the CPU then stands at the first user frame as CpuStart
//! says. Both engines agree in registers and every count.

use emu_cpu::{Bus, Cpu, Engine, EngineState, Exit, Flow, Source, UserOp};
use emu_mmu::{Mmu, Pfn, PhysAddr, PhysMem};
use lowmem_abi::boot::{BootInfo, CpuStart};
use lowmem_abi::layout::{BOOT_INFO, BOOT_STACK, BOOT_STACK_END, PAGE_SHIFT, REPORT};
use lowmem_abi::port;
use lowmem_cost::Geometry;
use lowmem_machine::image::Image;
use lowmem_machine::machine::{Hardware, Machine};
use lowmem_machine::replay;
use lowmem_machine::rows;
use lowmem_report::Config;
use lowmem_report::config::{Rmap, Split};
use std::sync::Arc;

const RAM: u64 = 64 << 20;

struct Ports {
    last: Option<u16>,
}
impl Bus for Ports {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, port: u16, _: u8, _: u32) -> Flow {
        self.last = Some(port);
        Flow::Stop
    }
    fn probe(&mut self, _: u16, _: &mut Cpu) {}
}

/// Ring 3 that ends at once.
struct Nothing;
impl Source for Nothing {
    fn next(&mut self, _: &mut Cpu) -> UserOp {
        UserOp::Stop
    }
    fn done(&mut self, _: &mut Cpu, _: &UserOp, _: u32) {}
    fn returned_to_user(&mut self, _: &mut Cpu) {}
}

fn native(rmap: Rmap, split: Split) -> (Machine, Arc<Image>) {
    let config = Config {
        rmap,
        split,
        ram_bytes: RAM,
        ..Config::default()
    };
    let offset = rows::axes_of(&config).expect("axes").page_offset();
    let image = Image::for_row(&rows::image_name(&config), offset).expect("an image");
    let image = Arc::new(image);
    let preset = replay::preset(&config).expect("a preset");
    let machine = Machine::boot(&config, image.clone(), Hardware::of(&preset));
    (machine.expect("boots natively"), image)
}

/// Boots on the CPU to its first user instruction; also memory as it was when boot said it was done.
fn on_cpu(native: &Machine, image: &Image, engine: Engine) -> (Cpu, PhysMem) {
    let mut mem = PhysMem::new(RAM, RAM).expect("memory");
    image.load(&mut mem);
    let mut info = [0; size_of::<BootInfo>()];
    native
        .mem()
        .read_bytes(PhysAddr(BOOT_INFO.into()), &mut info);
    mem.write_bytes(PhysAddr(BOOT_INFO.into()), &info);
    let geometry = Geometry::pentium3();
    let mmu = match engine {
        Engine::Fast => Mmu::new(mem, &geometry),
        Engine::Reference => Mmu::reference(mem, &geometry),
    };
    let mut cpu = Cpu::new(mmu.expect("an MMU"), &geometry);
    cpu.probes = true;
    cpu.eip = image.start.expect("the image has a start");
    let mut state = EngineState::new(engine);
    let mut ports = Ports { last: None };
    let exit = cpu.run(&mut state, &mut ports, &mut Nothing, 1 << 28);
    let report: [u32; 4] = std::array::from_fn(|i| {
        cpu.mmu
            .mem
            .read_u32(PhysAddr(u64::from(REPORT) + 4 * i as u64))
    });
    assert!(
        matches!(exit, Exit::Port),
        "{exit:?} at {}",
        image.place(cpu.eip)
    );
    assert_eq!(
        ports.last,
        Some(port::BOOTED),
        "report {report:x?} at {}",
        image.place(cpu.eip)
    );
    let booted = cpu.mmu.mem.clone_cow().expect("a clone");
    let mut copy = PhysMem::new(RAM, RAM).expect("memory");
    let mut page = vec![0; 4096];
    for pfn in 0..(RAM >> PAGE_SHIFT) as u32 {
        booted.read_bytes(Pfn(pfn).base(), &mut page);
        copy.write_bytes(Pfn(pfn).base(), &page);
    }
    drop(booted);
    let exit = cpu.run(&mut state, &mut ports, &mut Nothing, 1 << 20);
    assert!(
        matches!(exit, Exit::Stopped),
        "{exit:?} at {}",
        image.place(cpu.eip)
    );
    (cpu, copy)
}

fn same(rmap: Rmap, split: Split) {
    let (native, image) = native(rmap, split);
    let (cpu, booted) = on_cpu(&native, &image, Engine::Reference);
    let mut words = Vec::new();
    for pfn in 0..(RAM >> PAGE_SHIFT) as u32 {
        let pa = pfn << PAGE_SHIFT;
        if (BOOT_STACK..BOOT_STACK_END).contains(&pa) {
            continue;
        }
        for at in (0..4096).step_by(4) {
            let pa = PhysAddr(u64::from(pa + at));
            let (n, c) = (native.mem().read_u32(pa), booted.read_u32(pa));
            if n != c {
                words.push((pa.0, n, c));
            }
        }
    }
    assert!(
        words.is_empty(),
        "{}: {} words differ: {:x?}",
        image.name,
        words.len(),
        &words[..words.len().min(16)]
    );

    let mut start = [0; size_of::<CpuStart>()];
    booted.read_bytes(PhysAddr(lowmem_abi::layout::CPU_START.into()), &mut start);
    let word = |i: usize| u32::from_le_bytes(start[i * 4..i * 4 + 4].try_into().expect("4 bytes"));
    assert_eq!(word(0), CpuStart::MAGIC);
    assert_eq!((cpu.cr0(), cpu.cr4()), (word(1), word(3)));
    assert_eq!(cpu.cpl(), 3);
    assert_eq!(cpu.cr3(), native.user_root());
    assert_eq!((cpu.gdtr.base, cpu.idtr.base), (word(5), word(7)));
    assert_eq!(cpu.sysenter.esp, word(15));
    let k = native.handle();
    let frame = guest_vm::task::current(k).frame(k);
    assert_eq!(cpu.eip, frame.eip(k));

    let (fast, _) = on_cpu(&native, &image, Engine::Fast);
    assert_eq!(fast.regs.all(), cpu.regs.all());
    assert_eq!((fast.eip, fast.retired()), (cpu.eip, cpu.retired()));
    assert_eq!(fast.mmu.account, cpu.mmu.account, "counts of the engines");
}

#[test]
fn anon_vma_3g1g() {
    same(Rmap::AnonVma, Split::G3G1);
}
#[test]
fn anon_vma_4g4g() {
    same(Rmap::AnonVma, Split::G4G4);
}
#[test]
fn pte_chain_3g1g() {
    same(Rmap::PteChain, Split::G3G1);
}
#[test]
fn pte_chain_4g4g() {
    same(Rmap::PteChain, Split::G4G4);
}
