//! The bare machine: an image of the user's own on CPU, memory and the few devices of a PC that small kernels and ROMs use.
//!
//! No guest kernel of ours, no trace, no host code: what runs is what the image says. Formats: multiboot 1, plain ELF32, ROMs of
//! 64 and 128 KB ([`image`]). Devices: two 8259s, an 8254, the CMOS clock, a 16550, the keyboard controller as far as resets and
//! self-tests go, and the debug ports of QEMU and Bochs ([`board`]).
//!
//! Time is instructions: the timer runs at a fixed number of instructions a second, so a run depends on nothing but image and
//! options. `hlt` skips to the next timer edge. Left out: DMA, disks, video, PCI (ports read all ones), APICs, A20 (always on),
//! ACPI.
//!
//! | module | owns |
//! |---|---|
//! | [`image`], `elf`, `multiboot` | bytes to what must lie where, or an error that names the place |
//! | [`board`] | ports, and who answers them |
//! | `pic`, `pit`, `cmos`, `serial`, `keyboard` | a device each |
//! | [`machine`] | the loop, and how a run ends |
//! | `trace` | a line per executed instruction |
//!
//! Invariant: equal image and options give equal output, counts and end, on both engines.

pub mod board;
mod cmos;
mod elf;
pub mod image;
mod keyboard;
pub mod machine;
mod multiboot;
mod pic;
mod pit;
mod serial;
mod trace;

pub use board::{Board, Console};
pub use cmos::{ClockError, ClockTime};
pub use image::{BareImage, Format, ImageRefused};
pub use machine::{Bare, BareError, BareOptions, End, uncounted};
