//! Workload traces: what programs did, in a form that any configuration of the machine can replay.
//!
//! Principles:
//! 1. A trace holds *recorded* facts in *scheduled* order. What a recording lacks (re-references, copied bytes,
//!    user work, neighbours mapped by fault-around) is added at replay by named [`Assumptions`].
//! 2. A trace file is hostile input: everything is checked before the first operation is handed
//!    out, and an error names file, place and reason.
//! 3. Addresses are 32 bits wide and below 3 GiB after import; 64-bit recordings are packed.
//!
//! Map: [`op`] the operations · [`header`] the tables they refer to · [`trace`] an opened trace and its stream ·
//! [`format`](mod@format) the `.lmt` file · [`import`] recordings to traces · [`schedule`] two CPUs to one ·
//! [`space`] mappings of one address space · [`model`] the plain model that checks a trace and finds its peak ·
//! [`builder`] traces made by a program ·
//! [`generate`](mod@generate) synthetic loads · [`assumptions`] and [`retouch`] what replay adds ·
//! [`reduce`] every reference to first touches.

pub mod assumptions;
pub mod builder;
pub mod error;
pub mod format;
pub mod generate;
pub mod header;
pub mod import;
pub mod model;
pub mod op;
mod packed;
mod ranges;
pub mod reduce;
pub mod retouch;
pub mod schedule;
pub mod space;
pub mod trace;
mod view;

pub use assumptions::{Assumptions, CopiedBytes, FaultAround, RetouchDepth, Vfork};
pub use builder::TraceBuilder;
pub use error::TraceError;
pub use header::{
    FileInfo, Header, Info, Input, SegmentInfo, Summary, TaskInfo, Totals, TraceKind,
};
pub use op::{
    Access, Advice, Call, ExecImage, ExecMapping, FileId, FileRef, MapFlags, MappingKind, Op,
    Origin, PAGE_SIZE, Prot, RemapFlags, SegmentId, SliceEnd, Span, TaskId,
};
pub use retouch::Retouch;
pub use trace::{OpStream, Trace};
