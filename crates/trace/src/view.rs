//! Operations as text, one line each, for `trace view` and messages.
//!
//! Invariant: addresses are hexadecimal, lengths decimal.

use std::fmt::{self, Display, Formatter};

use crate::op::{Access, Call, FileRef, Op, Origin, Prot, Span, TaskId};

impl Display for TaskId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.0)
    }
}

impl Display for Prot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let letter = |right, letter| if self.contains(right) { letter } else { '-' };
        write!(
            f,
            "{}{}{}",
            letter(Self::READ, 'r'),
            letter(Self::WRITE, 'w'),
            letter(Self::EXEC, 'x')
        )
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Touch {
                va,
                ip,
                access,
                origin,
                span,
            } => {
                let how = match access {
                    Access::Read => "read",
                    Access::Write => "write",
                    Access::Exec => "exec",
                };
                write!(f, "touch {how} {va:#x}")?;
                if *ip != 0 {
                    write!(f, " ip {ip:#x}")?;
                }
                if *origin == Origin::Kernel {
                    f.write_str(" by the kernel")?;
                }
                if *span == Span::Around {
                    f.write_str(" and around")?;
                }
                Ok(())
            }
            Self::Fetch { va, len } => write!(f, "fetch {va:#x},{len}"),
            Self::Load { va, len } => write!(f, "load {va:#x},{len}"),
            Self::Store { va, len } => write!(f, "store {va:#x},{len}"),
            Self::Modify { va, len } => write!(f, "modify {va:#x},{len}"),
            Self::Work { instructions } => write!(f, "work {instructions}"),
            Self::Call(call) => Display::fmt(call, f),
            Self::Switch { to, how } => write!(f, "switch to {to} ({how:?})"),
        }
    }
}

fn of_file(f: &mut Formatter<'_>, file: Option<FileRef>) -> fmt::Result {
    match file {
        Some(file) => write!(f, " file {} page {}", file.file.0, file.page_offset),
        None => Ok(()),
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Mmap {
                hint,
                len,
                prot,
                flags,
                file,
                result,
            } => {
                write!(f, " {hint:#x},{len} {prot} flags {:#x}", flags.0)?;
                of_file(f, *file)?;
                write!(f, " = {result:#x}")
            }
            Self::Munmap { addr, len }
            | Self::Mlock { addr, len }
            | Self::Munlock { addr, len } => {
                write!(f, " {addr:#x},{len}")
            }
            Self::Mprotect { addr, len, prot } => write!(f, " {addr:#x},{len} {prot}"),
            Self::Mremap {
                old,
                old_len,
                new_len,
                flags,
                new_addr,
                result,
            } => {
                write!(
                    f,
                    " {old:#x},{old_len} to {new_addr:#x},{new_len} flags {:#x} = {result:#x}",
                    flags.0
                )
            }
            Self::Brk { addr, result } => write!(f, " {addr:#x} = {result:#x}"),
            Self::Madvise { addr, len, advice } => write!(f, " {addr:#x},{len} {advice:?}"),
            Self::RemapFilePages {
                addr,
                len,
                page_offset,
            } => {
                write!(f, " {addr:#x},{len} page {page_offset}")
            }
            Self::Shmget { segment, len } => write!(f, " segment {},{len}", segment.0),
            Self::Shmat {
                segment,
                hint,
                prot,
                result,
            } => {
                write!(
                    f,
                    " segment {} at {hint:#x} {prot} = {result:#x}",
                    segment.0
                )
            }
            Self::Shmdt { addr } => write!(f, " {addr:#x}"),
            Self::Fork { child } | Self::Vfork { child } | Self::Clone { child } => {
                write!(f, " = {child}")
            }
            Self::Wait { child } => write!(f, " = {child}"),
            Self::Exec { image } => {
                let (n, brk) = (image.mappings.len(), image.brk);
                write!(
                    f,
                    " {} ({n} mappings, brk {brk:#x}, stack top {:#x})",
                    image.name, image.stack_top
                )
            }
            Self::Exit {} => Ok(()),
            Self::Other {
                nr,
                bytes_in,
                bytes_out,
            } => {
                write!(f, " call {nr}, {bytes_in} bytes in, {bytes_out} out")
            }
            Self::Failed { nr } => write!(f, " call {nr}"),
            Self::FileWrite {
                file,
                position,
                addr,
                len,
            } => write!(f, " file {} at {position:#x} from {addr:#x},{len}", file.0),
            Self::Fsync { file } => write!(f, " file {}", file.0),
            Self::Truncate { file, len } => write!(f, " file {} to {len}", file.0),
        }
    }
}
