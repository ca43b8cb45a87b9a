//! Reading and writing the abi's blocks in guest memory.
//!
//! Blocks are structures of 32-bit words ([`lowmem_abi`]); they are copied word by word, so no byte order or alignment of
//! the host enters. Invariant: a block read after it was written is equal.

use emu_mmu::{PhysAddr, PhysMem};
use lowmem_abi::boot::{BootInfo, CpuStart};
use lowmem_abi::layout;
use lowmem_abi::mailbox::{EXEC_LIST, ExecMapping, Mailbox};
use lowmem_abi::port::{Report, TRANSFER_OFFSET, Transfer};

/// A block of 32-bit words.
trait Block: Copy + Default {}
impl Block for Mailbox {}
impl Block for BootInfo {}
impl Block for CpuStart {}
impl Block for Report {}
impl Block for Transfer {}
impl Block for ExecMapping {}

fn read_block<T: Block>(mem: &PhysMem, at: u32) -> T {
    let mut value = T::default();
    let words = size_of::<T>() / 4;
    let p = (&raw mut value).cast::<u32>();
    for i in 0..words {
        let word = mem.read_u32(PhysAddr(u64::from(at) + i as u64 * 4));
        // SAFETY: `T` is a `repr(C)` structure of `words` u32 fields, valid for any bits.
        unsafe { p.add(i).write(word) };
    }
    value
}

fn write_block<T: Block>(mem: &mut PhysMem, at: u32, value: &T) {
    let p = std::ptr::from_ref(value).cast::<u32>();
    for i in 0..size_of::<T>() / 4 {
        // SAFETY: as in `read_block`.
        let word = unsafe { p.add(i).read() };
        mem.write_u32(PhysAddr(u64::from(at) + i as u64 * 4), word);
    }
}

/// The mailbox.
pub fn read(mem: &PhysMem) -> Mailbox {
    read_block(mem, layout::MAILBOX)
}

/// Changes the mailbox.
pub fn update(mem: &mut PhysMem, f: impl FnOnce(&mut Mailbox)) {
    let mut m = read(mem);
    f(&mut m);
    write_block(mem, layout::MAILBOX, &m);
}

/// Writes the exec list.
pub fn write_exec_list(mem: &mut PhysMem, list: &[ExecMapping]) {
    for (i, mapping) in list.iter().enumerate() {
        write_block(mem, EXEC_LIST + i as u32 * 24, mapping);
    }
}

/// Writes the boot information.
pub fn write_boot_info(mem: &mut PhysMem, info: &BootInfo) {
    write_block(mem, layout::BOOT_INFO, info);
}

/// What boot left for the CPU.
pub fn cpu_start(mem: &PhysMem) -> CpuStart {
    read_block(mem, layout::CPU_START)
}

/// The guest's last report.
pub fn report(mem: &PhysMem) -> Report {
    read_block(mem, layout::REPORT)
}

/// The transfer asked for.
pub fn transfer(mem: &PhysMem) -> Transfer {
    read_block(mem, layout::REPORT + TRANSFER_OFFSET)
}

/// Leaves a transfer request where the guest leaves it on the CPU.
pub fn write_transfer(mem: &mut PhysMem, t: &Transfer) {
    write_block(mem, layout::REPORT + TRANSFER_OFFSET, t);
}
