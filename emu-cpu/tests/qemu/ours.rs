//! The same image on the CPU and MMU here, entered as multiboot says: flat 32-bit segments, paging off.

use emu_cpu::cpu::{CR0_ET, CR0_PE};
use emu_cpu::segment::{CODE32, DATA32};
use emu_cpu::{Bus, Cpu, DecodeAll, Engine, EngineState, Exit, Flow, Seg, Segment};
use emu_mmu::{Mmu, PhysAddr, PhysMem};
use lowmem_cost::Geometry;

const RAM: u64 = 32 << 20;
/// Far more than any program needs.
const LIMIT: u64 = 20_000_000;

/// Port 0xE9 is the log, 0xF4 ends.
#[derive(Default)]
struct Ports(Vec<u8>);

impl Bus for Ports {
    fn port_in(&mut self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, port: u16, _size: u8, value: u32) -> Flow {
        match port {
            0xE9 => self.0.push(value as u8),
            0xF4 => return Flow::Stop,
            _ => {}
        }
        Flow::Continue
    }
    fn probe(&mut self, _id: u16, _cpu: &mut Cpu) {}
}

/// The log.
pub(crate) fn run(image: &[u8], engine: Engine, nx: bool) -> Vec<u8> {
    let geometry = Geometry {
        nx,
        ..Geometry::pentium3()
    };
    let mut mem = PhysMem::new(RAM, RAM).unwrap();
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    let (base, entry) = (word(0x10), word(0x1C));
    mem.write_bytes(PhysAddr(base.into()), image);
    let mut cpu = Cpu::new(Mmu::new(mem, &geometry).unwrap(), &geometry);
    cpu.set_control(CR0_PE | CR0_ET, 0, 0, 0).unwrap();
    cpu.set_segment(Seg::Cs, Segment::flat(8, CODE32));
    for seg in [Seg::Ss, Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
        cpu.set_segment(seg, Segment::flat(16, DATA32));
    }
    cpu.eip = entry;
    let mut ports = Ports::default();
    let mut state = EngineState::new(engine);
    let exit = cpu.run(&mut state, &mut ports, &mut DecodeAll, LIMIT);
    assert_eq!(
        exit,
        Exit::Port,
        "after {} bytes of log: {}",
        ports.0.len(),
        cpu.dump()
    );
    ports.0
}
