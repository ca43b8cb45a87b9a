//! Ring 3 as data (decision D2): where the operations of user code come from.
//!
//! At CPL 3 with nothing else to do the CPU asks the source for the next operation and performs it
//! with user rights: through ITLB and L1I for fetches, DTLB and caches for data. Faults, system
//! calls and interrupts enter the guest kernel exactly as an instruction at CS:EIP would, where EIP
//! is the address of the last fetch (it lives in the task's saved frame, so it follows the task).
//! An operation that faulted is asked for again after the return.

use crate::cpu::Cpu;

/// How a system call enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// `int 0x80`; EIP + 2 is pushed.
    Int80,
    /// The vsyscall page's stub at this address: push ecx, push edx, push ebp, mov ebp,esp,
    /// sysenter. The kernel's sysexit must land at the address `stub + `[`SYSENTER_RETURN`], where
    /// three pops and a ret follow.
    Sysenter {
        /// Address of the stub in the vsyscall page.
        stub: u32,
    },
}

/// Offset of SYSENTER_RETURN from the first instruction of the stub, as in the 2.6 vsyscall page.
pub const SYSENTER_RETURN: u32 = 0x10;

/// The registers a system call is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallRegs {
    /// Call number.
    pub eax: u32,
    /// First argument.
    pub ebx: u32,
    /// Second argument.
    pub ecx: u32,
    /// Third argument.
    pub edx: u32,
    /// Fourth argument.
    pub esi: u32,
    /// Fifth argument.
    pub edi: u32,
    /// Sixth argument (int 0x80 only; the sysenter stub puts the stack pointer here).
    pub ebp: u32,
}

/// One operation of user code. Lengths are 1 to 4096 bytes; accesses of more than 8 bytes count as
/// one memory operand per page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserOp {
    /// An instruction of `len` bytes is fetched: retires one instruction and sets EIP.
    Fetch {
        /// Linear address.
        va: u32,
        /// Bytes, 1 to 15.
        len: u8,
    },
    /// A load. The first load and the first store after a fetch belong to the fetched instruction;
    /// any further one retires an instruction of its own.
    Load {
        /// Linear address.
        va: u32,
        /// Bytes.
        len: u16,
    },
    /// A store of `value`, little-endian, repeated every 8 bytes.
    Store {
        /// Linear address.
        va: u32,
        /// Bytes.
        len: u16,
        /// What is stored.
        value: u64,
    },
    /// A read-modify-write that leaves `value`: one access, a write.
    Modify {
        /// Linear address.
        va: u32,
        /// Bytes.
        len: u16,
        /// What is stored.
        value: u64,
    },
    /// This many instructions that touch no memory, in the line of the last fetch.
    Work(u32),
    /// A system call.
    Syscall {
        /// Registers at the call.
        regs: CallRegs,
        /// The way in.
        via: Via,
    },
    /// Execute the instructions at CS:EIP, decoding them, until CPL 3 is left.
    Decode,
    /// Leave [`Cpu::run`] with [`crate::Exit::Stopped`].
    Stop,
}

/// Where ring 3 comes from.
pub trait Source {
    /// The next operation. Called at CPL 3 with no interrupt to take; asked again, it must answer
    /// the same until [`Source::done`] or [`Source::returned_to_user`].
    fn next(&mut self, cpu: &mut Cpu) -> UserOp;

    /// `op` (never a system call) was completed. `value`: what a load or read-modify-write found;
    /// up to 4 bytes as they are, longer ones folded by [`fold`].
    fn done(&mut self, cpu: &mut Cpu, op: &UserOp, value: u32);

    /// The system call `op` has entered the kernel (its stub may have faulted before, and then it
    /// was asked for again).
    fn entered(&mut self, cpu: &mut Cpu, op: &UserOp) {
        let _ = (cpu, op);
    }

    /// A return instruction has just led to CPL 3; called for every one, before the next interrupt
    /// is taken and before the sysenter stub's epilogue. A system call of the task that now runs
    /// and that has [`Source::entered`] is complete; its result is in EAX.
    fn returned_to_user(&mut self, cpu: &mut Cpu);
}

/// Ring 3 as ordinary machine code.
#[derive(Debug, Clone, Copy, Default)]
pub struct DecodeAll;

impl Source for DecodeAll {
    fn next(&mut self, _cpu: &mut Cpu) -> UserOp {
        UserOp::Decode
    }
    fn done(&mut self, _cpu: &mut Cpu, _op: &UserOp, _value: u32) {}
    fn returned_to_user(&mut self, _cpu: &mut Cpu) {}
}

/// Folds the next four bytes of a longer access into a value: rotate left by one, xor.
pub fn fold(value: u32, next: u32) -> u32 {
    value.rotate_left(1) ^ next
}
