//! Native mode: steps of the trace on guest memory, kernel entries as calls.
//!
//! A reference walks the running task's page tables in software, sets A and D in the leaf as the MMU would, and enters the
//! kernel's `kernel_main` with vector 14 where the MMU would fault. There is no TLB: natively every access sees the
//! tables as they are. On the emulated CPU a stale entry could be used after a pte was changed without a flush; where kernels
//! do that is design decision D3's business.
//!
//! Invariant: after a step the machine is at a boundary.

use crate::call::CallRegs;
use crate::machine::{Ended, Machine, guarded};
use crate::replayer::{Entry, Next, Pause, ReplayError, Replayer, Step};
use crate::walk::{self, Access};
use emu_mmu::{PhysAddr, PhysMem};
use guest_vm::arch::SYSENTER_RETURN;
use guest_vm::layout::Frame;
use guest_vm::ptr::Low;
use lowmem_abi::boot::{VECTOR_RESCHED, VECTOR_SYSENTER, VECTOR_SYSTEM_CALL};
use lowmem_report::config::Entry as CallEntry;

/// Vector of a page fault.
const VECTOR_PAGE_FAULT: u32 = 14;
/// EFLAGS of user code: IF and the fixed bit.
const USER_EFLAGS: u32 = 0x202;

/// Why driving stopped.
#[derive(Debug)]
pub enum Stop {
    /// The replayer asks for a pause.
    Pause(Pause),
    /// The guest ended.
    Guest(Ended),
    /// Trace and guest disagree.
    Replay(ReplayError),
}

impl From<ReplayError> for Stop {
    fn from(e: ReplayError) -> Self {
        Stop::Replay(e)
    }
}

impl Machine {
    /// Runs natively to the next pause.
    pub fn run_native(&mut self, replayer: &mut Replayer) -> Stop {
        loop {
            match self.native_step(replayer) {
                Ok(None) => {}
                Ok(Some(pause)) => return Stop::Pause(pause),
                Err(stop) => return stop,
            }
        }
    }

    fn native_step(&mut self, replayer: &mut Replayer) -> Result<Option<Pause>, Stop> {
        let step = match replayer.next(self.mem_mut())? {
            Next::Pause(pause) => return Ok(Some(pause)),
            Next::Step(step) => step,
        };
        self.host.operation = replayer.operation();
        match step {
            Step::Fetch { va, len } => {
                self.access(replayer, va, u32::from(len), Access::Read, Data::Nothing)?;
            }
            Step::Load { va, len } => {
                self.access(replayer, va, u32::from(len), Access::Read, Data::Load)?;
            }
            Step::Store { va, len, value } => {
                let data = Data::Store(value);
                self.access(replayer, va, u32::from(len), Access::Write, data)?;
            }
            Step::Modify { va, len, value } => {
                let data = Data::Modify(value);
                self.access(replayer, va, u32::from(len), Access::Write, data)?;
            }
            Step::Work(_) => replayer.done(0),
            Step::Call(regs) => self.call(replayer, &regs)?,
            Step::Resched => {
                self.fill_frame(replayer.ip(), &CallRegs::default());
                self.enter(replayer, VECTOR_RESCHED, Entry::Asked)?;
            }
        }
        Ok(None)
    }

    /// Writes what the CPU would push into the running task's frame.
    fn fill_frame(&mut self, eip: u32, regs: &CallRegs) {
        let (k, f, s) = (self.k, self.frame, self.start);
        f.set_ebx(k, regs.ebx);
        f.set_ecx(k, regs.ecx);
        f.set_edx(k, regs.edx);
        f.set_esi(k, regs.esi);
        f.set_edi(k, regs.edi);
        f.set_ebp(k, regs.ebp);
        f.set_eax(k, regs.eax);
        f.set_orig_eax(k, regs.eax);
        f.set_eip(k, eip);
        f.set_eflags(k, USER_EFLAGS);
        f.set_cs(k, s.user_cs);
        f.set_ss(k, s.user_ds);
        f.set_ds(k, s.user_ds);
        f.set_es(k, s.user_ds);
    }

    fn call(&mut self, replayer: &mut Replayer, regs: &CallRegs) -> Result<(), Stop> {
        let esp = self.frame.esp(self.k);
        // sysenter needs a stack: the first exec of all, which makes one, is called by int 0x80; and so is the last exit,
        // after which nobody is left to run the stub's epilogue.
        if self.config.entry == CallEntry::Int80 || esp == 0 || replayer.is_last_exit() {
            self.fill_frame(replayer.ip().wrapping_add(2), regs);
            replayer.entered(self.mem_mut());
            return self.enter(replayer, VECTOR_SYSTEM_CALL, Entry::Asked);
        }
        // push ecx, push edx, push ebp, mov ebp,esp, sysenter: as the stub in the vsyscall page.
        for (slot, word) in [(4, regs.ecx), (8, regs.edx), (12, regs.ebp)] {
            let at = esp.wrapping_sub(slot);
            match walk::user_leaf(self.mem(), self.user_root(), at, Access::Write) {
                Ok(leaf) => {
                    walk::touch(self.mem_mut(), &leaf, Access::Write);
                    let pa = leaf.frame(at).base().plus(u64::from(at & 0xfff));
                    self.mem_mut().write_u32(pa, word);
                }
                // The call is made again after the fault; it is not posted yet, so nobody is switched to.
                Err(code) => return self.page_fault(replayer, at, code),
            }
        }
        let below = esp.wrapping_sub(12);
        self.fill_frame(
            SYSENTER_RETURN,
            &CallRegs {
                ebp: below,
                ..*regs
            },
        );
        self.frame.set_esp(self.k, below);
        replayer.entered(self.mem_mut());
        self.enter(replayer, VECTOR_SYSENTER, Entry::Asked)
    }

    /// pop ebp, pop edx, pop ecx, ret: where sysexit leads.
    fn sysenter_epilogue(&mut self, replayer: &mut Replayer) -> Result<(), Stop> {
        let (k, esp) = (self.k, self.frame.esp(self.k));
        for slot in [0, 4, 8] {
            let at = esp.wrapping_add(slot);
            for _ in 0..8 {
                match walk::user_leaf(self.mem(), self.user_root(), at, Access::Read) {
                    Ok(leaf) => {
                        walk::touch(self.mem_mut(), &leaf, Access::Read);
                        break;
                    }
                    Err(code) => {
                        replayer.faulted(at)?;
                        self.host.cr2 = at;
                        self.frame.set_orig_eax(k, code);
                        self.kernel(VECTOR_PAGE_FAULT)?;
                    }
                }
            }
        }
        self.frame.set_esp(k, esp.wrapping_add(12));
        self.frame.set_eip(k, SYSENTER_RETURN.wrapping_add(3));
        Ok(())
    }

    fn enter(&mut self, replayer: &mut Replayer, vector: u32, entry: Entry) -> Result<(), Stop> {
        self.kernel(vector)?;
        let (k, back) = (self.k, self.frame);
        let eax = back.eax(k);
        if back.eip(k) == SYSENTER_RETURN && self.config.entry == CallEntry::Sysenter {
            self.sysenter_epilogue(replayer)?;
        }
        replayer.returned(self.mem_mut(), entry, eax)?;
        Ok(())
    }

    /// Enters the kernel and takes the frame it returns.
    fn kernel(&mut self, vector: u32) -> Result<(), Stop> {
        let (k, frame) = (self.k, self.frame);
        let back: Low<Frame> =
            guarded(|| guest_vm::trap::kernel_main(k, frame, vector)).map_err(Stop::Guest)?;
        assert!(
            self.host.paths.is_empty(),
            "paths {:?} are open at a return to user mode",
            self.host.paths
        );
        self.frame = back;
        let low_pages = self.low_pages();
        self.seen.look(k, low_pages);
        Ok(())
    }

    fn page_fault(&mut self, replayer: &mut Replayer, va: u32, code: u32) -> Result<(), Stop> {
        replayer.faulted(va)?;
        self.host.cr2 = va;
        self.fill_frame(replayer.ip(), &CallRegs::default());
        self.frame.set_orig_eax(self.k, code);
        self.enter(replayer, VECTOR_PAGE_FAULT, Entry::Unasked)
    }

    /// One reference of ring 3; enters the kernel if it faults, and is then not done.
    fn access(
        &mut self,
        replayer: &mut Replayer,
        va: u32,
        len: u32,
        access: Access,
        data: Data,
    ) -> Result<(), Stop> {
        let root = self.user_root();
        let mut parts = [None; 2];
        let first = len.min(4096 - (va & 0xfff));
        for (part, (at, n)) in parts
            .iter_mut()
            .zip([(va, first), (va.wrapping_add(first), len - first)])
        {
            if n == 0 {
                continue;
            }
            match walk::user_leaf(self.mem(), root, at, access) {
                Ok(leaf) => {
                    walk::touch(self.mem_mut(), &leaf, access);
                    let pa = leaf.frame(at).base().plus(u64::from(at & 0xfff));
                    *part = Some((pa, n));
                }
                Err(code) => return self.page_fault(replayer, at, code),
            }
        }
        let value = match data {
            Data::Nothing => 0,
            Data::Load => load(self.mem(), parts),
            Data::Store(v) => {
                store(self.mem_mut(), parts, v);
                0
            }
            Data::Modify(v) => {
                let old = load(self.mem(), parts);
                store(self.mem_mut(), parts, v);
                old
            }
        };
        replayer.done(value);
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Data {
    Nothing,
    Load,
    Store(u64),
    Modify(u64),
}

type Parts = [Option<(PhysAddr, u32)>; 2];

fn bytes_of(parts: Parts) -> impl Iterator<Item = PhysAddr> {
    parts
        .into_iter()
        .flatten()
        .flat_map(|(pa, n)| (0..n).map(move |i| pa.plus(u64::from(i))))
}

fn load(mem: &PhysMem, parts: Parts) -> u32 {
    if let [Some((pa, 4)), None] = parts {
        return mem.read_u32(pa);
    }
    fold_bytes(bytes_of(parts).map(|pa| mem.read_u8(pa)))
}

/// Up to four bytes as they are, more folded by [`emu_cpu::source::fold`].
pub(crate) fn fold_bytes(bytes: impl Iterator<Item = u8>) -> u32 {
    let mut value = 0;
    let mut word = 0u32;
    let mut n = 0;
    for byte in bytes {
        word |= u32::from(byte) << (8 * (n & 3));
        n += 1;
        if n & 3 == 0 {
            value = if n == 4 {
                word
            } else {
                emu_cpu::source::fold(value, word)
            };
            word = 0;
        }
    }
    match n {
        0..=3 => word,
        n if n & 3 == 0 => value,
        _ => emu_cpu::source::fold(value, word),
    }
}

/// Little-endian, repeated every 8 bytes.
fn store(mem: &mut PhysMem, parts: Parts, value: u64) {
    if let [Some((pa, 4)), None] = parts {
        mem.write_u32(pa, value as u32);
        return;
    }
    let bytes = value.to_le_bytes();
    for (i, pa) in bytes_of(parts).enumerate() {
        mem.write_u8(pa, bytes[i & 7]);
    }
}
