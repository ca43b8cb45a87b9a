//! Ring 3 as data: performing a source's operations.
//!
//! Every operation boundary is an interrupt point (D4). A fetch retires one instruction; the first
//! load and the first store (or read-modify-write) after it belong to it, any other data operation
//! retires one itself, `work(n)` retires n. They count as
//! `user_instructions` of class `insn_simple`. Data of 1, 2, 4 or 8 bytes is one access as an
//! instruction's would be; other lengths make one access per cache line, the rest of the line's
//! bytes moving uncounted. Invariant: [`Source::done`] is called exactly once per completed
//! operation; what faults leaves only memory changed.

use crate::cpu::Cpu;
use crate::engine::Step;
use crate::exit::Exit;
use crate::fault::Raised;
use crate::op::Exec;
use crate::regs::{EAX, EBP, EBX, ECX, EDI, EDX, ESI, ESP};
use crate::source::{CallRegs, SYSENTER_RETURN, Source, UserOp, Via, fold};
use emu_mmu::VirtAddr;
use lowmem_cost::Event;

/// Vector of the system call gate.
const SYSCALL_VECTOR: u8 = 0x80;
/// Bytes of `int 0x80`.
const INT_LEN: u8 = 2;
/// Bytes of push ecx, push edx, push ebp, mov ebp,esp, sysenter.
const STUB_LEN: u8 = 7;
/// Bytes of pop ebp, pop edx, pop ecx, ret.
const EPILOGUE_LEN: u8 = 4;

/// What the CPU remembers of a source's user code.
#[derive(Debug, Clone, Default)]
pub(crate) struct UserState {
    /// CPL 3 executes instructions.
    decoding: bool,
    /// The source has not been told of a return yet.
    returned: bool,
    /// The last fetch may still take a load, and a store.
    takes_load: bool,
    takes_store: bool,
    /// SYSENTER_RETURN, once a sysenter was made.
    sysenter_return: Option<u32>,
}

impl UserState {
    #[inline(always)]
    pub(crate) fn decoding(&self) -> bool {
        self.decoding
    }
    /// A return instruction led to CPL 3.
    pub(crate) fn returned(&mut self) {
        self.returned = true;
        self.decoding = false;
    }
    /// Did one, since this was asked last?
    #[inline(always)]
    pub(crate) fn take_returned(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }
}

/// What a piece of a data operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Load,
    Store(u64),
    Modify(u64),
}

impl Cpu {
    /// Performs one operation of the source.
    pub(crate) fn user_step<S: Source>(&mut self, source: &mut S) -> Step {
        self.last_loaded = 0;
        if self.user.sysenter_return == Some(self.eip) {
            return match self.sysenter_epilogue() {
                Ok(()) => Step::Point,
                Err(Raised) => self.faulted(),
            };
        }
        let op = source.next(self);
        let done = match op {
            UserOp::Fetch { va, len } => self.user_fetch(va, len).map(|()| 0),
            UserOp::Load { va, len } => self.user_data(va, len, Access::Load),
            UserOp::Store { va, len, value } => self.user_data(va, len, Access::Store(value)),
            UserOp::Modify { va, len, value } => self.user_data(va, len, Access::Modify(value)),
            UserOp::Work(n) => self.user_work(n).map(|()| 0),
            UserOp::Syscall { regs, via } => {
                self.pet_watchdog();
                return match self.user_call(&regs, via) {
                    Ok(_) => {
                        source.entered(self, &op);
                        Step::Point
                    }
                    Err(Raised) => self.faulted(),
                };
            }
            UserOp::Decode => {
                self.user.decoding = true;
                return Step::Point;
            }
            UserOp::Stop => {
                self.at_point = true;
                return Step::Leave(Exit::Stopped);
            }
        };
        match done {
            Ok(value) => {
                self.pet_watchdog();
                source.done(self, &op, value);
                Step::Point
            }
            Err(Raised) => self.faulted(),
        }
    }

    fn retire_user(&mut self, n: u64) {
        self.retired += n;
        self.mmu.account.add(Event::UserInstructions, n);
        self.mmu.account.add(Event::InsnSimple, n);
    }

    fn user_fetch(&mut self, va: u32, len: u8) -> Result<(), Raised> {
        self.eip = va;
        self.counted_fetch(VirtAddr(va), len)?;
        self.retire_user(1);
        self.user.takes_load = true;
        self.user.takes_store = true;
        Ok(())
    }

    fn user_work(&mut self, n: u32) -> Result<(), Raised> {
        if n > 0 {
            let va = VirtAddr(self.eip);
            self.mmu
                .fetch_many(va, 1, u64::from(n), self.privilege)
                .map_err(|f| self.page_fault(f))?;
            self.retire_user(u64::from(n));
        }
        self.user.takes_load = false;
        self.user.takes_store = false;
        Ok(())
    }

    fn user_data(&mut self, va: u32, len: u16, access: Access) -> Result<u32, Raised> {
        let value = self.user_access(va, len, access)?;
        let (load, store) = (&mut self.user.takes_load, &mut self.user.takes_store);
        let belongs = match access {
            Access::Load => std::mem::take(load),
            Access::Store(_) => std::mem::take(store),
            Access::Modify(_) => std::mem::take(load) & std::mem::take(store),
        };
        if !belongs {
            self.retire_user(1);
        }
        Ok(value)
    }

    /// Makes the access; gives what was there, as [`Source::done`] wants it.
    fn user_access(&mut self, va: u32, len: u16, access: Access) -> Result<u32, Raised> {
        if matches!(len, 1 | 2 | 4 | 8) {
            let old = self.user_piece(VirtAddr(va), len as u8, access)?;
            return Ok(match len {
                8 => fold(fold(0, old as u32), (old >> 32) as u32),
                _ => old as u32,
            });
        }
        let (mut value, mut word, mut done) = (0, 0, 0);
        let line = self.features.data_line;
        while done < u32::from(len) {
            let at = va.wrapping_add(done);
            let here = (line - at % line).min(u32::from(len) - done);
            let counted = 1 << (31 - here.min(8).leading_zeros());
            // The pattern repeats every 8 bytes of the operation.
            let turned = match access {
                Access::Load => Access::Load,
                Access::Store(v) => Access::Store(v.rotate_right(done % 8 * 8)),
                Access::Modify(v) => Access::Modify(v.rotate_right(done % 8 * 8)),
            };
            let old = self.user_piece(VirtAddr(at), counted as u8, turned)?;
            let page = self.mmu.peek(VirtAddr(at));
            for i in 0..here {
                let byte = if i < counted {
                    (old >> (i * 8)) as u8
                } else if let Some(pa) = page {
                    let pa = pa.plus(u64::from(i));
                    let byte = self.mmu.mem.read_u8(pa);
                    match access {
                        Access::Load => {}
                        Access::Store(v) | Access::Modify(v) => {
                            let new = v.to_le_bytes()[((done + i) % 8) as usize];
                            self.mmu.mem.write_u8(pa, new);
                        }
                    }
                    byte
                } else {
                    0
                };
                let n = done + i;
                word |= u32::from(byte) << (n % 4 * 8);
                if n % 4 == 3 || n + 1 == u32::from(len) {
                    value = if len <= 4 { word } else { fold(value, word) };
                    word = 0;
                }
            }
            done += here;
        }
        // A store has found nothing worth telling.
        Ok(match access {
            Access::Store(_) => 0,
            _ => value,
        })
    }

    fn user_piece(&mut self, va: VirtAddr, size: u8, access: Access) -> Result<u64, Raised> {
        let rights = self.privilege;
        match access {
            Access::Load => self.mmu.read(va, size, rights),
            Access::Store(v) => self.mmu.write(va, size, v, rights).map(|()| 0),
            Access::Modify(v) => self.mmu.modify(va, size, rights, |_| Some(v)),
        }
        .map_err(|f| self.page_fault(f))
    }

    fn user_call(&mut self, r: &CallRegs, via: Via) -> Exec {
        for (register, value) in [
            (EAX, r.eax),
            (EBX, r.ebx),
            (ECX, r.ecx),
            (EDX, r.edx),
            (ESI, r.esi),
            (EDI, r.edi),
            (EBP, r.ebp),
        ] {
            self.regs[register] = value;
        }
        let out = match via {
            Via::Int80 => self.enter_by_int(SYSCALL_VECTOR, INT_LEN, Event::UserInstructions)?,
            Via::Sysenter { stub } => self.user_sysenter(stub)?,
        };
        self.retired += 1;
        self.user.takes_load = false;
        self.user.takes_store = false;
        Ok(out)
    }

    /// The vsyscall page's stub up to and with sysenter.
    fn user_sysenter(&mut self, stub: u32) -> Exec {
        if !self.features.sep {
            return Err(self.ud());
        }
        let selector = self.sysenter.cs as u16 & !3;
        self.eip = stub;
        self.counted_fetch(VirtAddr(stub), STUB_LEN)?;
        if selector == 0 {
            return Err(self.gp(0));
        }
        let esp = self.regs[ESP];
        for (slot, register) in [(4, ECX), (8, EDX), (12, EBP)] {
            let word = u64::from(self.regs[register]);
            self.user_piece(VirtAddr(esp.wrapping_sub(slot)), 4, Access::Store(word))?;
        }
        self.regs[ESP] = esp.wrapping_sub(12);
        self.regs[EBP] = self.regs[ESP];
        self.retire_user(4);
        self.mmu.account.add(Event::UserInstructions, 1);
        self.user.sysenter_return = Some(stub.wrapping_add(SYSENTER_RETURN));
        self.enter_by_sysenter(selector);
        Ok(crate::op::Out::Far)
    }

    /// pop ebp, pop edx, pop ecx, ret. The ret leads to the next fetch.
    fn sysenter_epilogue(&mut self) -> Result<(), Raised> {
        self.counted_fetch(VirtAddr(self.eip), EPILOGUE_LEN)?;
        let esp = self.regs[ESP];
        let mut words = [0; 3];
        for (slot, word) in (0..).zip(&mut words) {
            *word = self.user_piece(VirtAddr(esp.wrapping_add(slot * 4)), 4, Access::Load)? as u32;
        }
        self.regs[EBP] = words[0];
        self.regs[EDX] = words[1];
        self.regs[ECX] = words[2];
        self.regs[ESP] = esp.wrapping_add(12);
        self.eip = self.eip.wrapping_add(u32::from(EPILOGUE_LEN) - 1);
        self.retire_user(4);
        Ok(())
    }
}
