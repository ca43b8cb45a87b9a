//! The oracle on x86-64 Linux: memory, LDT, signals, and the way in and out.
//!
//! All of the crate's contact with the host is here. The pages of a case are views of one memory
//! file, which the harness writes through a second view above 4 GiB. A watchdog thread ends a case
//! that runs for seconds (it would mean that the emulated machine was wrong about its end).
//!
//! Invariant: while a case runs the thread owns nothing below 4 GiB but the layout's pages, the exit
//! page and the save area; every exception in 32-bit code comes back to `lowmem_diff_back`.

use super::HostError;
use crate::case::Case;
use crate::layout::{
    AREA, EXIT, Kind, LDT, Layout, LowPages, PAGE, Rights, USER_CS64, USER_DS, Width,
};
use crate::outcome::{End, Outcome};
use std::io::Error;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

std::arch::global_asm!(include_str!("entry.s"), options(raw));

unsafe extern "C" {
    fn lowmem_diff_enter(area: *mut Area);
    fn lowmem_diff_exit();
    fn lowmem_diff_back();
}

/// Marks an end by jump in [`Area::trap`].
const BY_EXIT: u32 = u32::MAX;
/// Marks a case that the watchdog ended.
const BY_WATCHDOG: u32 = 0x100;
/// Bytes of the signal stack: AVX-512 and AMX frames are large.
const SIGNAL_STACK: usize = 256 << 10;
const SIGNALS: [i32; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGALRM,
];

/// Registers on the way in and out; `entry.s` knows the offsets.
#[repr(C)]
struct Area {
    regs: [u32; 8],
    eip: u32,
    eflags: u32,
    cs: u32,
    ss: u32,
    /// DS, ES, FS, GS.
    data: [u32; 4],
    trap: u32,
    error: u32,
    cr2: u32,
    unused: u32,
    host_rsp: u64,
    fs_base: u64,
    has_fsgsbase: u64,
    /// Number of the case that runs, 0 between two.
    running: AtomicU64,
    /// Number of the case that the watchdog wants to end.
    ended: AtomicU64,
}

const _: () = {
    assert!(std::mem::offset_of!(Area, eip) == 32);
    assert!(std::mem::offset_of!(Area, data) == 48);
    assert!(std::mem::offset_of!(Area, trap) == 64);
    assert!(std::mem::offset_of!(Area, host_rsp) == 80);
    assert!(std::mem::offset_of!(Area, fs_base) == 88);
    assert!(std::mem::offset_of!(Area, has_fsgsbase) == 96);
};

/// A mapping, unmapped with its owner.
#[derive(Debug)]
struct Mapping {
    at: *mut libc::c_void,
    bytes: usize,
}

impl Mapping {
    fn new(
        at: Option<u32>,
        bytes: usize,
        rights: i32,
        file: Option<(i32, usize)>,
    ) -> Result<Mapping, HostError> {
        let (fd, offset) = file.unwrap_or((-1, 0));
        let mut flags = match file {
            Some(_) => libc::MAP_SHARED,
            None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        };
        flags |= libc::MAP_POPULATE;
        if at.is_some() {
            flags |= libc::MAP_FIXED_NOREPLACE;
        }
        let want = at.unwrap_or(0) as usize as *mut libc::c_void;
        // SAFETY: a fresh mapping that replaces nothing.
        let got = unsafe { libc::mmap(want, bytes, rights, flags, fd, offset as i64) };
        if got == libc::MAP_FAILED {
            return Err(call("mmap"));
        }
        let mapping = Mapping { at: got, bytes };
        match at {
            Some(at) if got as usize != at as usize => Err(HostError::Mapped(format!("{at:#x}"))),
            _ => Ok(mapping),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody keeps a pointer beyond the owner.
        unsafe { libc::munmap(self.at, self.bytes) };
    }
}

fn call(what: &'static str) -> HostError {
    HostError::Call {
        what,
        source: Error::last_os_error(),
    }
}

/// The host CPU.
#[derive(Debug)]
pub struct Host {
    layout: Layout,
    image: Mapping,
    _pages: Vec<Mapping>,
    _exit: Mapping,
    _area: Mapping,
    _signal_stack: Mapping,
    old_stack: libc::stack_t,
    old_actions: Vec<(i32, libc::sigaction)>,
    cases: u64,
    stop: Arc<AtomicBool>,
    watchdog: Option<std::thread::JoinHandle<()>>,
    /// Signals, stack and FS base are this thread's.
    _thread: PhantomData<*mut ()>,
}

impl Host {
    /// Maps memory, loads the LDT, installs the signal handlers and starts the watchdog.
    pub fn new() -> Result<Host, HostError> {
        refuse_low_mappings()?;
        // SAFETY: creates a file descriptor that is closed below.
        let fd = unsafe { libc::memfd_create(c"lowmem-diff".as_ptr(), 0) };
        if fd < 0 {
            return Err(call("memfd_create"));
        }
        let made = map_image(fd);
        // SAFETY: ours; the mappings keep the file.
        unsafe { libc::close(fd) };
        let (layout, image, pages) = made?;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let exit = Mapping::new(Some(EXIT), PAGE as usize, rw, None)?;
        write_exit_stub();
        // SAFETY: the page was just mapped.
        if unsafe { libc::mprotect(exit.at, exit.bytes, libc::PROT_READ | libc::PROT_EXEC) } != 0 {
            return Err(call("mprotect"));
        }
        let area = Mapping::new(Some(AREA), PAGE as usize, rw, None)?;
        load_ldt()?;
        init_area()?;
        let signal_stack = Mapping::new(None, SIGNAL_STACK, rw, None)?;
        let (old_stack, old_actions) = install_handlers(&signal_stack)?;
        let stop = Arc::new(AtomicBool::new(false));
        let watchdog = watch(&stop);
        Ok(Host {
            layout,
            image,
            _pages: pages,
            _exit: exit,
            _area: area,
            _signal_stack: signal_stack,
            old_stack,
            old_actions,
            cases: 0,
            stop,
            watchdog: Some(watchdog),
            _thread: PhantomData,
        })
    }

    /// The pages that exist.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The image.
    pub fn image(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self`; cases write it only inside `run`, which takes
        // `&mut self`.
        unsafe { std::slice::from_raw_parts(self.image.at.cast(), self.image.bytes) }
    }

    /// The image, to write.
    pub fn image_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `image`.
        unsafe { std::slice::from_raw_parts_mut(self.image.at.cast(), self.image.bytes) }
    }

    /// Puts the case into memory and runs it. It must have ended on the emulated machine.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let image = self.image.at.cast::<u8>();
        for (offset, bytes) in case.pokes(&self.layout) {
            // SAFETY: offsets of the layout lie inside the image.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), image.add(offset), bytes.len())
            };
        }
        for (offset, word) in case.stores(&self.layout) {
            // SAFETY: as above; words do not cross their page.
            unsafe { std::ptr::copy_nonoverlapping(word.as_ptr(), image.add(offset), 4) };
        }
        self.cases += 1;
        let area = AREA as usize as *mut Area;
        // SAFETY: the area is mapped while `self` lives and this thread alone uses its plain fields;
        // `lowmem_diff_enter` saves what the ABI wants saved and comes back by jump or signal.
        unsafe {
            (*area).regs = case.regs;
            (*area).eip = case.eip();
            (*area).eflags = case.eflags;
            (*area).cs = u32::from(case.cs);
            (*area).ss = u32::from(USER_DS);
            (*area).data = case.data.map(u32::from);
            (*area).running.store(self.cases, Ordering::Relaxed);
            lowmem_diff_enter(area);
            (*area).running.store(0, Ordering::Relaxed);
            outcome(&*area)
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.watchdog.take() {
            thread.thread().unpark();
            // Its only panic would be a bug of ours; nothing depends on it here.
            let _ = thread.join();
        }
        for (signal, action) in &self.old_actions {
            // SAFETY: what was installed before.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
        // SAFETY: the stack that was there before.
        unsafe { libc::sigaltstack(&self.old_stack, std::ptr::null_mut()) };
    }
}

fn outcome(a: &Area) -> Outcome {
    let end = match a.trap {
        BY_EXIT => End::Exit,
        BY_WATCHDOG => End::Hang,
        trap => End::Fault {
            vector: trap as u8,
            code: if matches!(trap, 8 | 10..=14 | 17) {
                a.error
            } else {
                0
            },
            cr2: if trap == 14 { a.cr2 } else { 0 },
            eip: a.eip,
            cs: a.cs as u16,
        },
    };
    Outcome {
        end,
        regs: a.regs,
        eflags: a.eflags,
        segments: [a.data[1], a.ss, a.data[0], a.data[2], a.data[3]].map(|s| s as u16),
    }
}

/// A wild store of a case must not find anything.
fn refuse_low_mappings() -> Result<(), HostError> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|source| HostError::Call {
        what: "reading /proc/self/maps",
        source,
    })?;
    let low = maps.lines().find(|l| {
        let start = l.split('-').next().unwrap_or("");
        u64::from_str_radix(start, 16).is_ok_and(|a| a < 1 << 32)
    });
    match low {
        Some(line) => Err(HostError::Mapped(line.to_owned())),
        None => Ok(()),
    }
}

fn map_image(fd: i32) -> Result<(Layout, Mapping, Vec<Mapping>), HostError> {
    let full = Layout::new(LowPages::Mapped);
    // SAFETY: a file of ours.
    if unsafe { libc::ftruncate(fd, full.image_bytes() as i64) } != 0 {
        return Err(call("ftruncate"));
    }
    let try_map = |layout: &Layout| -> Result<Vec<Mapping>, HostError> {
        let pages = layout.pages.iter().enumerate();
        pages
            .map(|(n, page)| {
                let rights = match page.rights {
                    Rights::Write => libc::PROT_READ | libc::PROT_WRITE,
                    Rights::Read => libc::PROT_READ,
                    Rights::WriteExecute => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                    Rights::Execute => libc::PROT_READ | libc::PROT_EXEC,
                };
                let file = Some((fd, n * PAGE as usize));
                Mapping::new(Some(page.at), PAGE as usize, rights, file)
            })
            .collect()
    };
    let (layout, pages) = match try_map(&full) {
        Ok(pages) => (full, pages),
        Err(_) => {
            let layout = Layout::new(LowPages::Refused);
            let pages = try_map(&layout)?;
            (layout, pages)
        }
    };
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let image = Mapping::new(None, layout.image_bytes(), rw, Some((fd, 0)))?;
    Ok((layout, image, pages))
}

/// `EXIT`: ljmp 0x33:EXIT+16; there: mov r15, AREA; mov r14, lowmem_diff_exit; jmp r14.
fn write_exit_stub() {
    let mut code = vec![0xea];
    code.extend((EXIT + 16).to_le_bytes());
    code.extend(USER_CS64.to_le_bytes());
    code.resize(16, 0x90);
    code.extend([0x49, 0xbf]);
    code.extend(u64::from(AREA).to_le_bytes());
    code.extend([0x49, 0xbe]);
    code.extend((lowmem_diff_exit as *const () as u64).to_le_bytes());
    code.extend([0x41, 0xff, 0xe6]);
    // SAFETY: the exit page is mapped and larger.
    unsafe {
        std::ptr::copy_nonoverlapping(code.as_ptr(), EXIT as usize as *mut u8, code.len());
    }
}

/// `struct user_desc` (`arch/x86/include/uapi/asm/ldt.h`).
#[repr(C)]
struct UserDesc {
    entry_number: u32,
    base_addr: u32,
    limit: u32,
    /// seg_32bit:1, contents:2, read_exec_only:1, limit_in_pages:1, seg_not_present:1, useable:1.
    bits: u32,
}

fn load_ldt() -> Result<(), HostError> {
    for (n, e) in (0..).zip(&LDT) {
        let (contents, read_only) = match e.kind {
            Kind::Data => (0, 0),
            Kind::ReadOnly => (0, 1),
            Kind::ExpandDown => (1, 0),
            Kind::Code => (2, 0),
            Kind::ExecuteOnly => (2, 1),
            Kind::Conforming => (3, 0),
        };
        let desc = UserDesc {
            entry_number: n,
            base_addr: e.base,
            limit: e.limit,
            bits: u32::from(e.width == Width::Bits32)
                | contents << 1
                | read_only << 3
                | u32::from(e.pages) << 4
                | u32::from(!e.present) << 5,
        };
        let size = std::mem::size_of::<UserDesc>();
        // SAFETY: modify_ldt(write new style) reads the structure.
        let result = unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, &raw const desc, size) };
        if result != 0 {
            // The kernel gives a 32-bit negative number back.
            return Err(HostError::Call {
                what: "modify_ldt",
                source: Error::from_raw_os_error(-(result as i32)),
            });
        }
    }
    Ok(())
}

fn init_area() -> Result<(), HostError> {
    /// HWCAP2_FSGSBASE (`arch/x86/include/uapi/asm/hwcap2.h`).
    const HWCAP2_FSGSBASE: u64 = 2;
    const ARCH_GET_FS: u32 = 0x1003;
    let area = AREA as usize as *mut Area;
    let mut base = 0u64;
    // SAFETY: asks for this thread's FS base.
    if unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut base) } != 0 {
        return Err(call("arch_prctl"));
    }
    // SAFETY: the area is mapped, and zeroes are a valid `Area`.
    unsafe {
        (*area).fs_base = base;
        (*area).has_fsgsbase = libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE;
    }
    Ok(())
}

type Installed = (libc::stack_t, Vec<(i32, libc::sigaction)>);

fn install_handlers(stack: &Mapping) -> Result<Installed, HostError> {
    // SAFETY: plain structures of the C library; zeroes are valid.
    unsafe {
        let new = libc::stack_t {
            ss_sp: stack.at,
            ss_flags: 0,
            ss_size: stack.bytes,
        };
        let mut old: libc::stack_t = std::mem::zeroed();
        if libc::sigaltstack(&new, &mut old) != 0 {
            return Err(call("sigaltstack"));
        }
        let mut actions = Vec::new();
        for signal in SIGNALS {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, &action, &mut before) != 0 {
                return Err(call("sigaction"));
            }
            actions.push((signal, before));
        }
        Ok((old, actions))
    }
}

/// Tells every two seconds whether a case still runs that ran before, and ends it.
fn watch(stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let stop = Arc::clone(stop);
    // SAFETY: no arguments.
    let (pid, tid) = unsafe { (libc::getpid(), libc::syscall(libc::SYS_gettid) as i32) };
    std::thread::spawn(move || {
        let area = AREA as usize as *const Area;
        let mut last = 0;
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_secs(2));
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // SAFETY: the area is unmapped only after this thread was joined.
            let (running, ended) = unsafe { (&(*area).running, &(*area).ended) };
            let now = running.load(Ordering::Relaxed);
            if now != 0 && now == last {
                ended.store(now, Ordering::Relaxed);
                // SAFETY: sends a signal that has a handler.
                unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGALRM) };
            }
            last = now;
        }
    })
}

/// An exception in 64-bit code: a crash of the harness. Says what it knows and ends the process,
/// without the C library, whose thread-local data may be out of reach.
fn die(words: &[u64]) -> ! {
    let mut text = [b' '; 256];
    let title = b"lowmem-diff: exception in the harness: case vector error rip cr2 eflags cs:\n";
    let mut at = title.len();
    text[..at].copy_from_slice(title);
    for word in words {
        for nibble in (0..16).rev() {
            text[at] = b"0123456789abcdef"[(word >> (nibble * 4) & 15) as usize];
            at += 1;
        }
        at += 1;
    }
    text[at] = b'\n';
    // SAFETY: write(2) of a local buffer, then exit_group(70).
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") 1u64 => _, in("rdi") 2, in("rsi") text.as_ptr(),
            in("rdx") at + 1, out("rcx") _, out("r11") _);
        std::arch::asm!("syscall", in("rax") 231, in("rdi") 70, options(noreturn));
    }
}

/// An exception in a case. Runs with whatever FS base the case left: no thread-local data here.
extern "C" fn on_signal(signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's own context. The area is mapped while handlers are installed. For 32-bit
    // code there is no frame of ours below, so leaving by jump skips no destructor.
    unsafe {
        let g = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let reg = |n: i32| g[n as usize];
        let cs = reg(libc::REG_CSGSFS) as u16;
        let area = AREA as usize as *mut Area;
        if cs == USER_CS64 {
            if signal != libc::SIGALRM {
                die(&[
                    (*area).running.load(Ordering::Relaxed),
                    reg(libc::REG_TRAPNO) as u64,
                    reg(libc::REG_ERR) as u64,
                    reg(libc::REG_RIP) as u64,
                    reg(libc::REG_CR2) as u64,
                    reg(libc::REG_EFL) as u64,
                    reg(libc::REG_CSGSFS) as u64,
                ]);
            }
            return;
        }
        if signal == libc::SIGALRM
            && (*area).ended.load(Ordering::Relaxed) != (*area).running.load(Ordering::Relaxed)
        {
            return;
        }
        use libc::{REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RSI, REG_RSP};
        let order = [
            REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        ];
        for (slot, n) in (*area).regs.iter_mut().zip(order) {
            *slot = reg(n) as u32;
        }
        (*area).eip = reg(libc::REG_RIP) as u32;
        (*area).eflags = reg(libc::REG_EFL) as u32;
        (*area).cs = u32::from(cs);
        (*area).ss = u32::from((reg(libc::REG_CSGSFS) as u64 >> 48) as u16);
        (*area).trap = match signal {
            libc::SIGALRM => BY_WATCHDOG,
            _ => reg(libc::REG_TRAPNO) as u32,
        };
        (*area).error = reg(libc::REG_ERR) as u32;
        (*area).cr2 = reg(libc::REG_CR2) as u32;
        let (ds, es, fs, gs): (u32, u32, u32, u32);
        std::arch::asm!(
            "mov {0:e}, ds", "mov {1:e}, es", "mov {2:e}, fs", "mov {3:e}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs,
            options(nomem, nostack, preserves_flags)
        );
        (*area).data = [ds, es, fs, gs];
        std::arch::asm!(
            "mov r15, {area}", "jmp {back}",
            area = in(reg) area, back = sym lowmem_diff_back,
            options(noreturn)
        );
    }
}
