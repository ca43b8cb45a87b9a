//! System calls of a trace as registers and mailbox words.
//!
//! Numbers and argument registers are those of i386 Linux 2.6 (arch/i386/kernel/entry.S); file descriptors are replaced by
//! file ids. Calls without effect on memory, and calls that failed when recorded, get a number that has no body in the
//! guest kernel, so that they are entry, copies, exit.
//!
//! Invariant: marshalling depends on the call alone.

use crate::mailbox;
use emu_mmu::PhysMem;
use lowmem_abi::call as nr;
use lowmem_abi::mailbox::{EXEC_LIST_MAX, ExecMapping, Mailbox, NO_FILE, NO_RESULT};
use lowmem_report::Operation;
use lowmem_trace::{
    Advice, Assumptions, Call, CopiedBytes, ExecImage, FileRef, MapFlags, MappingKind, Prot,
    TaskId, Vfork,
};

pub use emu_cpu::CallRegs;

/// SHM_RDONLY (include/linux/shm.h).
const SHM_RDONLY: u32 = 0o10000;
/// madvise value that 2.6.7 refuses.
const MADV_UNKNOWN: u32 = 100;

/// A call ready to be made.
#[derive(Debug, Clone)]
pub struct Marshalled {
    /// The call.
    pub call: Call,
    /// Registers.
    pub regs: CallRegs,
    /// What eax must be afterwards, where the trace says it.
    pub expected: Option<u32>,
    /// In whose row the entry is counted.
    pub kind: Operation,
    /// Bytes copied from user memory.
    pub bytes_in: u32,
    /// Bytes copied to user memory.
    pub bytes_out: u32,
    /// Where both are.
    pub buffer: u32,
    result: u32,
    child: u32,
    segment: u32,
    segment_pages: u32,
    exec: Vec<ExecMapping>,
}

/// A call that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// More mappings than the mailbox holds.
    #[error("exec of {image:?} with {mappings} mappings, the mailbox holds {EXEC_LIST_MAX}")]
    ExecList {
        /// Program.
        image: String,
        /// How many.
        mappings: usize,
    },
}

/// Where the program of an exec image starts: its lowest executable mapping.
pub fn exec_entry(image: &ExecImage) -> u32 {
    let text = |m: &&lowmem_trace::ExecMapping| m.kind == MappingKind::Text;
    image
        .mappings
        .iter()
        .find(text)
        .or(image.mappings.first())
        .map_or(0, |m| m.start)
}

fn regs(eax: u32, args: &[u32]) -> CallRegs {
    let arg = |i: usize| args.get(i).copied().unwrap_or(0);
    CallRegs {
        eax,
        ebx: arg(0),
        ecx: arg(1),
        edx: arg(2),
        esi: arg(3),
        edi: arg(4),
        ebp: arg(5),
    }
}

fn file_words(file: &Option<FileRef>) -> (u32, u32) {
    file.as_ref()
        .map_or((NO_FILE, 0), |f| (f.file.0, f.page_offset))
}

fn exec_list(image: &ExecImage) -> Result<Vec<ExecMapping>, CallError> {
    if image.mappings.len() > EXEC_LIST_MAX as usize {
        return Err(CallError::ExecList {
            image: image.name.clone(),
            mappings: image.mappings.len(),
        });
    }
    let list = image.mappings.iter().map(|m| {
        let (file, pgoff) = file_words(&m.file);
        let mut flags = m.flags;
        if m.file.is_none() {
            flags = flags.union(MapFlags::ANONYMOUS);
        }
        if m.kind == MappingKind::Stack {
            flags = flags.union(MapFlags::GROWSDOWN);
        }
        ExecMapping {
            start: m.start,
            end: m.end,
            prot: u32::from(m.prot.0),
            flags: flags.0,
            file,
            pgoff,
        }
    });
    Ok(list.collect())
}

/// Turns a recorded call into registers and mailbox words.
pub fn marshal(call: &Call, assumptions: Assumptions) -> Result<Marshalled, CallError> {
    let mut m = Marshalled {
        call: call.clone(),
        regs: CallRegs::default(),
        expected: Some(0),
        kind: Operation::NullCall,
        bytes_in: 0,
        bytes_out: 0,
        buffer: 0,
        result: NO_RESULT,
        child: 0,
        segment: 0,
        segment_pages: 0,
        exec: Vec::new(),
    };
    let mut set = |kind: Operation, regs: CallRegs| {
        m.kind = kind;
        m.regs = regs;
    };
    let child_id = |t: &TaskId| crate::replayer::pid(*t);
    match call {
        Call::Mmap {
            hint,
            len,
            prot,
            flags,
            file,
            result,
        } => {
            let (id, pgoff) = file_words(file);
            let mut flags = *flags;
            if file.is_none() {
                flags = flags.union(MapFlags::ANONYMOUS);
            }
            let args = [*hint, *len, u32::from(prot.0), flags.0, id, pgoff];
            set(Operation::Mmap, regs(nr::MMAP2, &args));
            m.result = *result;
            m.expected = Some(*result);
        }
        Call::Munmap { addr, len } => set(Operation::Munmap, regs(nr::MUNMAP, &[*addr, *len])),
        Call::Mprotect { addr, len, prot } => set(
            Operation::Mprotect,
            regs(nr::MPROTECT, &[*addr, *len, u32::from(prot.0)]),
        ),
        Call::Mremap {
            old,
            old_len,
            new_len,
            flags,
            new_addr,
            result,
        } => {
            let args = [*old, *old_len, *new_len, u32::from(flags.0), *new_addr];
            set(Operation::Mremap, regs(nr::MREMAP, &args));
            m.result = *result;
            m.expected = Some(*result);
        }
        Call::Brk { addr, result } => {
            set(Operation::Brk, regs(nr::BRK, &[*addr]));
            m.result = *result;
            m.expected = Some(*result);
        }
        Call::Madvise { addr, len, advice } => {
            let value = match advice {
                Advice::Normal => 0,
                Advice::Random => 1,
                Advice::Sequential => 2,
                Advice::WillNeed => 3,
                Advice::DontNeed => 4,
                Advice::Other => MADV_UNKNOWN,
            };
            set(Operation::Advice, regs(nr::MADVISE, &[*addr, *len, value]));
            // Advice is compared only where 2.6.7 knows it and cannot refuse it.
            m.expected = (*advice == Advice::DontNeed).then_some(0);
        }
        Call::Mlock { addr, len } => set(Operation::Advice, regs(nr::MLOCK, &[*addr, *len])),
        Call::Munlock { addr, len } => set(Operation::Advice, regs(nr::MUNLOCK, &[*addr, *len])),
        Call::RemapFilePages {
            addr,
            len,
            page_offset,
        } => set(
            Operation::Advice,
            regs(nr::REMAP_FILE_PAGES, &[*addr, *len, 0, *page_offset, 0]),
        ),
        Call::Shmget { segment, len } => {
            set(
                Operation::NullCall,
                regs(nr::IPC, &[nr::IPC_SHMGET, segment.0, *len]),
            );
            m.segment = segment.0;
            m.segment_pages = len.div_ceil(4096);
            m.expected = None;
        }
        Call::Shmat {
            segment,
            hint,
            prot,
            result,
        } => {
            let flags = if prot.contains(Prot::WRITE) {
                0
            } else {
                SHM_RDONLY
            };
            let args = [nr::IPC_SHMAT, segment.0, flags, 0, *hint];
            set(Operation::Mmap, regs(nr::IPC, &args));
            m.segment = segment.0;
            m.result = *result;
            m.expected = None;
        }
        Call::Shmdt { addr } => {
            let args = [nr::IPC_SHMDT, 0, 0, 0, *addr];
            set(Operation::Munmap, regs(nr::IPC, &args));
        }
        Call::Fork { child } => {
            set(Operation::Fork, regs(nr::FORK, &[]));
            m.child = child_id(child);
            m.expected = Some(m.child);
        }
        Call::Vfork { child } => {
            let number = match assumptions.vfork {
                Vfork::Share => nr::VFORK,
                Vfork::Fork => nr::FORK,
            };
            set(Operation::Fork, regs(number, &[]));
            m.child = child_id(child);
            m.expected = Some(m.child);
        }
        Call::Clone { child } => {
            set(Operation::Fork, regs(nr::CLONE, &[nr::CLONE_VM]));
            m.child = child_id(child);
            m.expected = Some(m.child);
        }
        Call::Exec { image } => {
            set(Operation::Exec, regs(nr::EXECVE, &[]));
            m.exec = exec_list(image)?;
            m.expected = None;
        }
        Call::Exit {} => {
            set(Operation::Exit, regs(nr::EXIT, &[]));
            m.expected = None;
        }
        Call::Wait { .. } => {
            set(Operation::NullCall, regs(nr::WAITPID, &[]));
            m.expected = None;
        }
        Call::Other {
            nr,
            bytes_in,
            bytes_out,
        } => {
            let (bytes_in, bytes_out) = match assumptions.copied_bytes {
                CopiedBytes::None => (0, 0),
                CopiedBytes::ByClass => (*bytes_in, *bytes_out),
            };
            let kind = if bytes_in != 0 || bytes_out != 0 {
                Operation::CopyCall
            } else {
                Operation::NullCall
            };
            set(kind, regs(without_body(*nr), &[]));
            (m.bytes_in, m.bytes_out) = (bytes_in, bytes_out);
            m.expected = None;
        }
        Call::FileWrite {
            file,
            position,
            addr,
            len,
        } => {
            let args = [
                file.0,
                *addr,
                *len,
                *position as u32,
                (position >> 32) as u32,
            ];
            set(Operation::FileWrite, regs(nr::PWRITE64, &args));
            m.result = *len;
            m.expected = Some(*len);
        }
        Call::Fsync { file } => set(Operation::Fsync, regs(nr::FSYNC, &[file.0])),
        Call::Truncate { file, len } => set(
            Operation::Truncate,
            regs(nr::FTRUNCATE64, &[file.0, *len as u32, (len >> 32) as u32]),
        ),
        Call::Failed { nr } => {
            set(Operation::NullCall, regs(without_body(*nr), &[]));
            m.expected = None;
        }
    }
    Ok(m)
}

/// A number for which the guest kernel has no body: the recorded one, or getpid's where the guest would act.
fn without_body(number: u32) -> u32 {
    const WITH_BODY: &[u32] = &[
        nr::EXIT,
        nr::FORK,
        nr::EXECVE,
        nr::BRK,
        nr::MUNMAP,
        nr::IPC,
        nr::CLONE,
        nr::MPROTECT,
        nr::MLOCK,
        nr::MUNLOCK,
        nr::MREMAP,
        nr::VFORK,
        nr::MMAP2,
        nr::MADVISE,
        nr::EXIT_GROUP,
        nr::REMAP_FILE_PAGES,
        nr::FSYNC,
        nr::FDATASYNC,
        nr::PWRITE64,
        nr::FTRUNCATE64,
    ];
    if WITH_BODY.contains(&number) || number >= Call::FOREIGN {
        nr::GETPID
    } else {
        number
    }
}

impl Marshalled {
    /// Writes what the mailbox must say.
    pub fn post(&self, m: &mut Mailbox) {
        m.result = self.result;
        m.child = self.child;
        m.shm_segment = self.segment;
        m.shm_pages = self.segment_pages;
        m.copy_in_addr = self.buffer;
        m.copy_in_bytes = self.bytes_in;
        m.copy_out_addr = self.buffer;
        m.copy_out_bytes = self.bytes_out;
        if let Call::Exec { image } = &self.call {
            m.exec_count = self.exec.len() as u32;
            m.exec_brk = image.brk;
            m.exec_stack_top = image.stack_top;
            m.exec_entry = exec_entry(image);
        }
    }

    /// Writes exec's list of mappings, if it is one.
    pub fn post_exec_list(&self, mem: &mut PhysMem) {
        mailbox::write_exec_list(mem, &self.exec);
    }
}
