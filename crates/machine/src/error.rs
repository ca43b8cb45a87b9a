//! How a run can fail: what the host or the input did wrong, and bugs of ours that the guest found.
//!
//! What a *guest* may run into (no memory, an operation that never completes) is no error but an outcome of the
//! measurement (decision D17).

use crate::image::ImageError;
use guest_vm::bug::FILES;
use lowmem_abi::port::{Report, ReportKind};

/// Why a machine could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A configuration out of range.
    #[error(transparent)]
    Config(#[from] lowmem_report::ConfigError),
    /// A combination of values that cannot be.
    #[error("{0}")]
    Refused(String),
    /// The CPU preset.
    #[error("cpu preset: {0}")]
    Preset(String),
    /// The guest image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] emu_mmu::PhysError),
    /// The guest has too little memory to boot.
    #[error("boot: {reason}")]
    BootMemory {
        /// What it could not have.
        reason: String,
    },
    /// TLB and cache sizes that cannot be built.
    #[error(transparent)]
    Geometry(#[from] emu_mmu::GeometryError),
    /// The trace contradicts itself or the kernel.
    #[error("trace {trace}: operation {operation}: {reason}")]
    Trace {
        /// Name of the trace.
        trace: String,
        /// Number of the operation.
        operation: u64,
        /// What does not fit.
        reason: String,
    },
    /// The guest kernel found an invariant broken, or did something the machine cannot allow.
    #[error("guest kernel at operation {operation}: {reason}")]
    Guest {
        /// Number of the operation.
        operation: u64,
        /// What happened.
        reason: String,
    },
    /// `--check` found a broken invariant.
    #[error("check after operation {operation}: {reason}")]
    Check {
        /// Number of the operation.
        operation: u64,
        /// What does not hold.
        reason: String,
    },
    /// The user asked to stop.
    #[error("interrupted at operation {operation}")]
    Interrupted {
        /// Number of the operation.
        operation: u64,
    },
}

/// A request for memory in words.
fn request(zone: u32, order: u32, owner: u32) -> String {
    let zone = ["DMA", "NORMAL", "HIGHMEM"]
        .get(zone as usize)
        .copied()
        .unwrap_or("any");
    let owner = lowmem_abi::owner::Owner::from_u32(owner).map_or("unknown", |o| o.name());
    format!("zone {zone}, order {order}, for {owner}")
}

/// What a report of the guest says, in words.
pub fn describe(report: &Report) -> String {
    let Report {
        kind,
        place,
        detail,
        value,
    } = *report;
    match ReportKind::from_u32(kind) {
        Some(ReportKind::Bug) => {
            let file = FILES.get(place as usize).copied().unwrap_or("unknown file");
            format!("BUG at guest-vm/src/{file}:{detail}, value {value:#x}")
        }
        Some(ReportKind::OutOfMemory) => {
            format!("out of memory: {}", request(place, detail, value))
        }
        Some(ReportKind::BadAccess) => format!(
            "user access to {value:#x} outside every mapping or without the right (error code {detail:#x})"
        ),
        Some(ReportKind::BadResult) => {
            format!("recorded result {value:#x} cannot be had (call {place}, detail {detail:#x})")
        }
        Some(ReportKind::CallFailed) => format!(
            "call {place} failed with errno {} at {value:#x}, the recorded one succeeded",
            (detail as i32).unsigned_abs()
        ),
        Some(ReportKind::OomKill) => format!(
            "out of memory: {}: kills task {}",
            request(place, detail & 0xff, value),
            detail >> 8
        ),
        Some(ReportKind::Livelock) => format!(
            "reclaim frees nothing, and while swap is free nobody is killed: {}",
            request(place, detail & 0xff, value)
        ),
        None => format!("unknown report {kind} ({place}, {detail}, {value:#x})"),
    }
}
