//! The 32-bit x86 CPU: decode, execute, exceptions and interrupts.
//!
//! Protected mode, rings 0 and 3, 32-bit code segments, operands of 8, 16 and 32 bits, over the PAE
//! memory of `emu_mmu`. Every instruction has one implementation; the two engines differ in how
//! they find it: `reference` decodes each instruction when it comes to it, `fast` keeps decoded
//! blocks (D15). Everything an engine does counts events into the MMU's account by the rules of
//! decisions D4 and D5, so both engines count alike.
//!
//! Not modelled (answers #UD or #GP as said where it is decided): real and virtual-8086 mode,
//! 16-bit code segments, call gates, task gates and task switches, x87/SSE, BCD adjustments, I/O
//! strings, hardware breakpoints, alignment checks.
//!
//! | module | owns |
//! |---|---|
//! | [`cpu`] | the state, and how the machine sets it |
//! | [`regs`], [`flags`], [`segment`] | general registers, EFLAGS, segment registers and descriptors |
//! | [`bus`], [`source`], [`exit`] | what the CPU needs from the machine, and why it comes back |
//! | `forms`, `decode`, `op` | the table of instruction forms; bytes to operations |
//! | `exec` | semantics, a file per family |
//! | `deliver`, `transfer`, `tick` | interrupts and exceptions, returns and far transfers, when interrupts are taken |
//! | `user` | ring 3 as data |
//! | `engine` | the loops |

pub mod bus;
pub mod cpu;
pub mod exit;
pub mod fault;
pub mod flags;
pub mod regs;
pub mod segment;
pub mod source;

mod decode;
mod deliver;
mod engine;
mod exec;
mod forms;
mod op;
mod predict;
mod reset;
mod tick;
mod transfer;
mod user;
mod word;

pub use bus::{Bus, Flow, NoBus};
pub use cpu::{Cpu, SysenterMsrs};
pub use engine::{Engine, EngineState};
pub use exit::{Dump, Exit, Watchdog};
pub use fault::Fault;
pub use regs::Regs;
pub use segment::{Descriptor, Seg, Segment, TableRegister};
pub use source::{CallRegs, DecodeAll, SYSENTER_RETURN, Source, UserOp, Via};
