//! The 32-bit x86 CPU: decode, execute, exceptions and interrupts.
//!
//! The integer instructions of an i686 in real, protected and virtual-8086 mode, 16- and 32-bit
//! segments, gates, tasks, debug registers, over the memory of `emu_mmu`. Every instruction has one implementation; the two engines differ in how
//! they find it: `reference` decodes each instruction when it comes to it, `fast` keeps decoded
//! blocks (D15). Everything an engine does counts events into the MMU's account by the rules of
//! decisions D4 and D5, so both engines count alike.
//!
//! Not modelled: x87, MMX and SSE (#NM or #UD), virtual-8086 mode extensions, system management
//! mode, machine checks, performance counters, the A20 gate.
//!
//! | module | owns |
//! |---|---|
//! | [`cpu`] | the state, and how the machine sets it |
//! | [`regs`], [`flags`], [`segment`] | general registers, EFLAGS, segment registers and descriptors |
//! | [`bus`], [`source`], [`exit`] | what the CPU needs from the machine, and why it comes back |
//! | `forms`, `decode`, `op` | the table of instruction forms; bytes to operations |
//! | `exec` | semantics, a file per family |
//! | `reset` | the state after RESET# |
//! | `load`, `stacks` | loading segment registers; inner stacks |
//! | `deliver`, `tick` | interrupts and exceptions, and when interrupts are taken |
//! | `far`, `returns`, `sysenter`, `task` | far transfers, iret and retf, sysenter, task switches |
//! | `debug` | breakpoints and debug traps |
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

mod debug;
mod decode;
mod deliver;
mod engine;
mod exec;
mod far;
mod forms;
mod load;
mod op;
mod predict;
mod reset;
mod returns;
mod stacks;
mod sysenter;
mod task;
mod tick;
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
