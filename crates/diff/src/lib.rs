//! Differential fuzzing of the emulated CPU: the host CPU is the oracle.
//!
//! Random instruction sequences, registers, flags, segments and memory go to the host CPU (32-bit
//! compatibility mode, ring 3), to the `reference` engine and to the `fast` engine. All registers,
//! EIP, EFLAGS, selectors, memory and, for an exception, vector, error code and CR2 must agree. What
//! is not compared stands in three tables, each line with its source: [`exclude::TABLE`]
//! (instructions that are not the integer machine's or the host's own), [`undefined::TABLE`] (flags
//! the manual leaves undefined) and [`tolerate::TABLE`] (what it leaves open about a fault).
//!
//! | module | owns |
//! |---|---|
//! | [`layout`] | linear memory, selectors and LDT of a case |
//! | [`templates`], [`random`], [`case`] | encodings, values, cases |
//! | [`exclude`], [`undefined`], [`tolerate`] | the three tables |
//! | [`host`], [`machine`] | the oracle, the emulated machines |
//! | [`outcome`], [`session`], [`coverage`] | ends, the loop, what was executed |
//! | [`minimise`] | a small case for a human |
//!
//! Left out: ring 0, gates, V86 and real mode (a user process has none), x87, MMX and SSE.
//!
//! Invariant: nothing runs on the host that did not end on the reference engine first.

pub mod case;
pub mod coverage;
pub mod exclude;
pub mod host;
pub mod layout;
pub mod machine;
pub mod minimise;
pub mod outcome;
pub mod random;
pub mod session;
pub mod templates;
pub mod tolerate;
pub mod undefined;
