//! Events of a recording after they were understood and before they are scheduled and packed.
//!
//! Addresses still are those of the recording, up to 64 bits wide.
//!
//! Invariant: the events of one task stand in the order in which it made them.

use crate::{
    op::{Access, Advice, FileRef, MapFlags, MappingKind, Origin, Prot, SliceEnd, Span},
    space::{Area, page_up},
};

/// One event.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    /// Task.
    pub(super) task: u32,
    /// The family of address spaces that share addresses: one per exec, inherited by fork.
    pub(super) lineage: u32,
    /// The address space.
    pub(super) mm: u32,
    /// Time in ns.
    pub(super) time: u64,
    /// What.
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Touch {
        va: u64,
        ip: u64,
        access: Access,
        origin: Origin,
        span: Span,
    },
    Call(Box<Call>),
    /// Index of the image.
    Exec(u32),
    Exit,
    /// The task left the CPU.
    Switch(SliceEnd),
}

/// As [`crate::Call`], with wide addresses.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Mmap {
        hint: u64,
        len: u64,
        prot: Prot,
        flags: MapFlags,
        file: Option<FileRef>,
        result: u64,
    },
    Munmap {
        addr: u64,
        len: u64,
    },
    Mprotect {
        addr: u64,
        len: u64,
        prot: Prot,
    },
    Mremap {
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u8,
        new_addr: u64,
        result: u64,
    },
    Brk {
        addr: u64,
        result: u64,
        before: u64,
    },
    Madvise {
        addr: u64,
        len: u64,
        advice: Advice,
    },
    Mlock {
        addr: u64,
        len: u64,
    },
    Munlock {
        addr: u64,
        len: u64,
    },
    RemapFilePages {
        addr: u64,
        len: u64,
        page_offset: u32,
    },
    Shmget {
        segment: u32,
        len: u64,
    },
    Shmat {
        segment: u32,
        len: u64,
        hint: u64,
        prot: Prot,
        result: u64,
    },
    Shmdt {
        addr: u64,
        len: u64,
    },
    Fork {
        child: u32,
    },
    Vfork {
        child: u32,
    },
    Clone {
        child: u32,
    },
    Wait {
        child: u32,
    },
    Other {
        nr: u32,
    },
    Failed {
        nr: u32,
    },
}

impl Call {
    /// The ranges of the address space that the call maps, unmaps or changes.
    pub(super) fn changes(&self) -> [(u64, u64); 2] {
        let one = |addr: u64, len: u64| [(addr, addr.saturating_add(page_up(len))), (0, 0)];
        match *self {
            Self::Mmap { result, len, .. } | Self::Shmat { result, len, .. } => one(result, len),
            Self::Munmap { addr, len }
            | Self::Mprotect { addr, len, .. }
            | Self::Madvise { addr, len, .. }
            | Self::Mlock { addr, len }
            | Self::Munlock { addr, len }
            | Self::RemapFilePages { addr, len, .. }
            | Self::Shmdt { addr, len } => one(addr, len),
            Self::Mremap {
                old,
                old_len,
                new_len,
                result,
                ..
            } => [
                (old, old.saturating_add(page_up(old_len))),
                (result, result.saturating_add(page_up(new_len))),
            ],
            Self::Brk { result, before, .. } => [
                (page_up(before.min(result)), page_up(before.max(result))),
                (0, 0),
            ],
            // A copy of the whole address space.
            Self::Fork { .. } => [(0, u64::MAX), (0, 0)],
            Self::Shmget { .. }
            | Self::Vfork { .. }
            | Self::Clone { .. }
            | Self::Wait { .. }
            | Self::Other { .. }
            | Self::Failed { .. } => [(0, 0); 2],
        }
    }
}

/// What exec built.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) mappings: Vec<Mapping>,
    pub(super) brk: Option<u64>,
    pub(super) stack_top: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) area: Area,
    pub(super) kind: MappingKind,
    pub(super) file: Option<FileRef>,
}

/// Everything the recorder hands on.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) header: crate::Header,
    pub(super) events: Vec<Raw>,
    pub(super) images: Vec<Image>,
    /// Number of lineages.
    pub(super) lineages: u32,
}
