//! A machine: guest memory with a booted kernel, at a boundary, in native or in cycle mode.
//!
//! Boot always runs natively (it also runs on the CPU in a test). At a boundary the running task stands at CPL 3 with no work
//! pending; its registers are in its frame (native) or in the CPU (cycle). Machines share nothing (decision D16).
//!
//! Invariant: between calls a machine is at a boundary, or dead: after an error it must not be run on.

use crate::disk::DiskModel;
use crate::error::{MachineError, describe};
use crate::identity::{DeadTasks, clear_dead};
use crate::image::Image;
use crate::mailbox;
use crate::native::{GuestFatal, Host, Native};
use crate::rows;
use emu_mmu::PhysMem;
use guest_vm::kernel::Kernel;
use guest_vm::layout::Frame;
use guest_vm::ptr::Low;
use lowmem_abi::boot::{BootInfo, CpuStart};
use lowmem_abi::call;
use lowmem_abi::port::{Report, ReportKind};
use lowmem_cost::Preset;
use lowmem_report::config::{
    AnonVmaReuse, BufferHeads, Entry, FileVmas, Nonlinear, Reclaim, Stack, YoungFlush,
};
use lowmem_report::{Config, Outcome};
use std::backtrace::BacktraceStatus;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Slots of the swap device: 2 GB, as large as 2.4's devices could be.
const SWAP_SLOTS: u32 = 1 << 19;

/// A machine.
pub struct Machine {
    pub(crate) config: Config,
    pub(crate) image: Arc<Image>,
    pub(crate) host: Box<Host>,
    pub(crate) k: Native,
    pub(crate) memory: Memory,
    /// Frame of the running task, native mode.
    pub(crate) frame: Low<Frame>,
    /// What boot left for the CPU.
    pub(crate) start: CpuStart,
    /// What was seen at each return to CPL 3.
    pub(crate) seen: Seen,
}

/// What a machine keeps of its past.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Most low pages ever in use.
    pub(crate) low_peak_pages: u32,
    /// What becomes of a dead task's words that differ between modes.
    pub(crate) dead_tasks: DeadTasks,
}

impl Seen {
    /// Looks at free memory, and after a task that has exited.
    pub(crate) fn look(&mut self, k: Native, low_pages: u32) {
        self.low_peak_pages = self
            .low_peak_pages
            .max(crate::lowmem::low_pages_used(k, low_pages));
        if self.dead_tasks == DeadTasks::Cleared {
            clear_dead(k);
        }
    }
}

/// Who has the guest memory.
#[derive(Debug)]
pub(crate) enum Memory {
    /// Native mode.
    Native(Box<PhysMem>),
    /// Cycle mode.
    Cycle(Box<emu_cpu::Cpu>),
    /// On its way from one to the other.
    Moving,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("image", &self.image.name)
            .field("ram_bytes", &self.config.ram_bytes)
            .finish_non_exhaustive()
    }
}

/// A page that reclaim freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// A page of a file.
    File {
        /// The file's id.
        file: u32,
        /// Its page.
        index: u32,
    },
    /// A page of the swap cache: private memory, or of a shared object.
    Swap {
        /// Its slot.
        slot: u32,
    },
}

/// What a kernel and its devices must know of a preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardware {
    /// NX is there.
    pub nx: bool,
    /// The disk that swap and files are on.
    pub disk: DiskModel,
}

impl Hardware {
    /// Of a preset.
    pub fn of(preset: &Preset) -> Self {
        Self {
            nx: preset.geometry().nx,
            disk: DiskModel::of(preset),
        }
    }
}

/// How a native entry ended that did not return.
#[derive(Debug)]
pub struct Ended {
    /// What the guest reported.
    pub report: Report,
    /// Where in its source, if known.
    pub backtrace: Option<String>,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&describe(&self.report))?;
        match &self.backtrace {
            Some(text) => write!(f, "\n{text}"),
            None => Ok(()),
        }
    }
}

impl From<Report> for Ended {
    fn from(report: Report) -> Self {
        Ended {
            report,
            backtrace: None,
        }
    }
}

/// Runs guest code, catching its fatal report.
pub(crate) fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, Ended> {
    std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        match payload.downcast::<GuestFatal>() {
            Ok(fatal) => Ended {
                report: Report {
                    kind: fatal.kind as u32,
                    place: fatal.place,
                    detail: fatal.detail,
                    value: fatal.value,
                },
                backtrace: (fatal.backtrace.status() == BacktraceStatus::Captured)
                    .then(|| fatal.backtrace.to_string()),
            },
            // A panic is a bug of ours: pass it on.
            Err(other) => std::panic::resume_unwind(other),
        }
    })
}

impl Machine {
    /// Makes a machine and boots its kernel natively.
    pub fn boot(
        config: &Config,
        image: Arc<Image>,
        hardware: Hardware,
    ) -> Result<Self, MachineError> {
        config.check()?;
        let axes = rows::axes_of(config).map_err(MachineError::Refused)?;
        let mut mem = Box::new(PhysMem::new(
            config.ram_bytes,
            rows::low_bytes(axes, config.cluster, config.ram_bytes),
        )?);
        image.load(&mut mem);
        mailbox::write_boot_info(&mut mem, &boot_info(config, &image, hardware));
        let mut host = Box::new(Host::new(&raw mut *mem, axes, hardware.disk));
        let k = Native::new(&raw mut *host);
        guarded(|| guest_vm::boot::boot(k)).map_err(|e| {
            let reason = e.to_string();
            if is_out_of_memory(&e.report) {
                MachineError::BootMemory { reason }
            } else {
                MachineError::Guest {
                    operation: 0,
                    reason: format!("boot: {reason}"),
                }
            }
        })?;
        let start = mailbox::cpu_start(&mem);
        if start.magic != CpuStart::MAGIC {
            return Err(MachineError::Guest {
                operation: 0,
                reason: "boot left no cpu state".to_owned(),
            });
        }
        let frame = guest_vm::task::current(k).frame(k);
        Ok(Self {
            config: config.clone(),
            image,
            host,
            k,
            memory: Memory::Native(mem),
            frame,
            start,
            seen: Seen::default(),
        })
    }

    /// Guest memory.
    pub fn mem(&self) -> &PhysMem {
        match &self.memory {
            Memory::Native(mem) => mem,
            Memory::Cycle(cpu) => &cpu.mmu.mem,
            Memory::Moving => unreachable!("memory moves inside one function only"),
        }
    }

    /// Guest memory, to be written.
    pub fn mem_mut(&mut self) -> &mut PhysMem {
        match &mut self.memory {
            Memory::Native(mem) => mem,
            Memory::Cycle(cpu) => &mut cpu.mmu.mem,
            Memory::Moving => unreachable!("memory moves inside one function only"),
        }
    }

    /// The handle, for reading guest structures at a boundary.
    pub fn handle(&self) -> Native {
        self.k
    }

    /// What reclaim freed so far in native mode, in order.
    pub fn evictions(&self) -> &[Eviction] {
        &self.host.evictions
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Physical address of the running task's page directory pointers.
    pub fn user_root(&self) -> u32 {
        let mm = guest_vm::task::current(self.k).mm(self.k);
        mm.pgd(self.k).va().wrapping_sub(self.k.page_offset())
    }

    /// A copy of the machine whose memory is shared copy-on-write with this one, which must stand still while the copy
    /// lives. Native mode only.
    pub fn clone_cow(&self) -> Result<Self, MachineError> {
        let memory = match &self.memory {
            Memory::Native(mem) => Memory::Native(Box::new(mem.clone_cow()?)),
            Memory::Cycle(cpu) => Memory::Cycle(Box::new(cpu.clone_cow()?)),
            Memory::Moving => unreachable!("memory moves inside one function only"),
        };
        let mut clone = Self {
            config: self.config.clone(),
            image: Arc::clone(&self.image),
            host: Box::new(self.host.detached_copy()),
            k: self.k,
            memory,
            frame: self.frame,
            start: self.start,
            seen: self.seen.clone(),
        };
        clone.k = Native::new(&raw mut *clone.host);
        clone.attach();
        Ok(clone)
    }

    /// Tells the handle where memory is now.
    pub(crate) fn attach(&mut self) {
        let mem: *mut PhysMem = self.mem_mut();
        self.host.attach(mem);
    }
}

fn boot_info(config: &Config, image: &Image, hardware: Hardware) -> BootInfo {
    BootInfo {
        magic: BootInfo::MAGIC,
        ram_frames: (config.ram_bytes >> 12) as u32,
        image_end_frame: image.end_frame,
        cpus: 1,
        hz: config.hz,
        entry: match config.entry {
            Entry::Int80 => 0,
            Entry::Sysenter => 1,
        },
        stack_bytes: match config.stack {
            Stack::K8 => 8192,
            Stack::K4 => 4096,
        },
        young_flush: match config.young_flush {
            YoungFlush::Off => 0,
            YoungFlush::On => 1,
        },
        anon_vma_reuse: match config.anon_vma_reuse {
            AnonVmaReuse::Off => 0,
            AnonVmaReuse::On => 1,
        },
        chain_line: config.chain_line,
        file_vmas: match config.file_vmas {
            FileVmas::List => 0,
            FileVmas::PrioTree => 1,
        },
        layout_seed: 0,
        swap_slots: SWAP_SLOTS,
        vfork_is_fork: 0,
        nx: u32::from(hardware.nx),
        symbols: image.symbols,
        reclaim: match config.reclaim {
            Reclaim::V2_6_7 => 0,
            Reclaim::V2_6_0 => 1,
            Reclaim::V2_6_8 => 2,
            Reclaim::V2_4 => 3,
        },
        nonlinear: match config.nonlinear {
            Nonlinear::Clusters => 0,
            Nonlinear::Whole => 1,
        },
        buffers: match config.buffer_heads {
            BufferHeads::None => 0,
            BufferHeads::Written => 1,
            BufferHeads::All => 2,
        },
        cluster: u32::from(config.cluster),
    }
}

/// Whether a report is the guest's end for want of memory.
pub fn is_out_of_memory(report: &Report) -> bool {
    want_of_memory(report).is_some()
}

/// The outcome of a run that the guest ended for want of memory; `None`: it ended for another reason.
pub fn want_of_memory(report: &Report) -> Option<Outcome> {
    match ReportKind::from_u32(report.kind)? {
        ReportKind::OutOfMemory => Some(Outcome::Enomem),
        ReportKind::CallFailed if says_enomem(report.place, report.detail) => Some(Outcome::Enomem),
        ReportKind::OomKill => Some(Outcome::OomKill),
        ReportKind::Livelock => Some(Outcome::Livelock),
        ReportKind::Bug
        | ReportKind::BadAccess
        | ReportKind::BadResult
        | ReportKind::CallFailed => None,
    }
}

/// Whether a call that fails with `errno` wants memory. mlock says so in three ways: a page behind the first that it cannot have is a
/// bare -1, a vma that cannot be split EAGAIN.
const fn says_enomem(nr: u32, errno: u32) -> bool {
    const EPERM: u32 = 1;
    const EAGAIN: u32 = 11;
    const ENOMEM: u32 = 12;
    match nr {
        call::MLOCK | call::MUNLOCK => matches!(errno, EPERM | EAGAIN | ENOMEM),
        _ => errno == ENOMEM,
    }
}
