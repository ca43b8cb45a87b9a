//! Many vmas: the worst case everyone quoted (N tasks with M windows each on one file), and thousands of vmas in one process as
//! Electric Fence, thread stacks and the windows of a "very large memory" buffer cache make them.

use super::{Draw, GenerateError, Workload, range};
use crate::builder::TraceBuilder;
use crate::op::{FileRef, MapFlags, PAGE_SIZE, Prot};

/// N tasks, each with M mappings of windows of one file (rmap-test of April 2003: 100 x 100 windows of 600 pages).
#[derive(Debug, Clone)]
pub struct WorstCase {
    /// Tasks.
    pub tasks: u32,
    /// Windows that each task maps.
    pub vmas: u32,
    /// Pages of a window; windows lie one behind the other in the file, the same for every task.
    pub window_pages: u32,
    /// Pages of each window that are touched.
    pub touched_pages: u32,
    /// Tasks that touch them; the others only map.
    pub sharers: u32,
}

impl Default for WorstCase {
    fn default() -> Self {
        Self {
            tasks: 100,
            vmas: 100,
            window_pages: 600,
            touched_pages: 6,
            sharers: 100,
        }
    }
}

impl Workload for WorstCase {
    fn name(&self) -> &'static str {
        "worst-case"
    }

    fn operations(&self) -> u64 {
        u64::from(self.tasks) * u64::from(self.vmas)
            + u64::from(self.sharers) * u64::from(self.vmas) * u64::from(self.touched_pages)
    }

    fn check(&self) -> Result<(), GenerateError> {
        range("tasks", self.tasks.into(), (1, 10_000), "1 to 10000")?;
        range(
            "vmas",
            self.vmas.into(),
            (1, 65_000),
            "1 to 65000 (map_count)",
        )?;
        range(
            "sharers",
            self.sharers.into(),
            (0, self.tasks.into()),
            "at most the tasks",
        )?;
        range(
            "window pages",
            self.window_pages.into(),
            (1, 500_000),
            "1 to 500000",
        )?;
        range(
            "touched pages",
            self.touched_pages.into(),
            (0, self.window_pages.into()),
            "at most the window",
        )?;
        let pages = u64::from(self.vmas) * u64::from(self.window_pages);
        if pages > 500_000 {
            return Err(GenerateError::NoRoom {
                what: "all windows",
                pages,
                room: 500_000,
            });
        }
        Ok(())
    }

    fn build(&self, t: &mut TraceBuilder, _: u64) -> Result<(), GenerateError> {
        let file = t.file("/data/object", self.vmas * self.window_pages);
        let len = self.window_pages * PAGE_SIZE;
        for task in 0..self.tasks {
            let p = t.spawn();
            // From the last window down: from the first one up, neighbours would merge into one vma.
            for window in (0..self.vmas).rev() {
                let page_offset = window * self.window_pages;
                let at = FileRef { file, page_offset };
                let va = t.on(p).mmap_file(at, len, Prot::RW, MapFlags::SHARED);
                if task < self.sharers {
                    t.on(p).write_pages(va, self.touched_pages * PAGE_SIZE);
                }
            }
        }
        Ok(())
    }
}

/// What the vmas of one process are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Areas {
    /// Each allocation has pages of its own and a guard page behind them (Electric Fence).
    Guards,
    /// Thread stacks: a guard below, a few pages used at the top.
    Stacks,
    /// Windows on a large object, one vma each.
    Windows,
    /// The same windows by remap_file_pages in one vma.
    Nonlinear,
    /// The same windows in one vma each, locked in memory.
    Locked,
}

/// One process with thousands of areas.
#[derive(Debug, Clone)]
pub struct ManyVmas {
    /// What they are.
    pub areas: Areas,
    /// How many.
    pub count: u32,
    /// Pages of each.
    pub pages: u32,
    /// Processes that have them.
    pub processes: u32,
}

impl Default for ManyVmas {
    fn default() -> Self {
        Self {
            areas: Areas::Windows,
            count: 8192,
            pages: 16,
            processes: 1,
        }
    }
}

impl Workload for ManyVmas {
    fn name(&self) -> &'static str {
        match self.areas {
            Areas::Guards => "vmas-guards",
            Areas::Stacks => "vmas-stacks",
            Areas::Windows => "vmas-windows",
            Areas::Nonlinear => "vmas-nonlinear",
            Areas::Locked => "vmas-locked",
        }
    }

    fn operations(&self) -> u64 {
        u64::from(self.processes) * u64::from(self.count) * (u64::from(self.pages) + 3)
    }

    fn check(&self) -> Result<(), GenerateError> {
        range("processes", self.processes.into(), (1, 1000), "1 to 1000")?;
        range(
            "count",
            self.count.into(),
            (1, 32_000),
            "1 to 32000 (map_count)",
        )?;
        range("pages", self.pages.into(), (2, 1 << 16), "2 to 65536")?;
        let pages = u64::from(self.count) * (u64::from(self.pages) + 1);
        if pages > 500_000 {
            return Err(GenerateError::NoRoom {
                what: "all areas",
                pages,
                room: 500_000,
            });
        }
        Ok(())
    }

    fn build(&self, t: &mut TraceBuilder, seed: u64) -> Result<(), GenerateError> {
        // The object is four times as large as what is seen of it: 62 GB behind 512 MB were the extreme.
        let file = t.file("/dev/shm/buffers", self.count * self.pages * 4);
        let len = self.pages * PAGE_SIZE;
        for process in 0..self.processes {
            let p = t.spawn();
            let mut draw = Draw::new(seed, process);
            let window =
                |draw: &mut Draw| draw.below(u64::from(self.count) * 4) as u32 * self.pages;
            let one = match self.areas {
                Areas::Nonlinear => {
                    let at = FileRef {
                        file,
                        page_offset: 0,
                    };
                    t.on(p)
                        .mmap_file(at, self.count * len, Prot::RW, MapFlags::SHARED)
                }
                _ => 0,
            };
            for i in 0..self.count {
                match self.areas {
                    Areas::Guards => {
                        let va = t.on(p).mmap_anon(len + PAGE_SIZE);
                        t.on(p)
                            .mprotect(va + len, PAGE_SIZE, Prot::NONE)
                            .write_pages(va, len);
                    }
                    Areas::Stacks => {
                        let va = t.on(p).mmap_anon(len + PAGE_SIZE);
                        t.on(p)
                            .mprotect(va, PAGE_SIZE, Prot::NONE)
                            .write(va + len)
                            .write(va + len - PAGE_SIZE / 2);
                    }
                    Areas::Windows | Areas::Locked => {
                        let page_offset = window(&mut draw);
                        let at = FileRef { file, page_offset };
                        let va = t.on(p).mmap_file(at, len, Prot::RW, MapFlags::SHARED);
                        if self.areas == Areas::Locked {
                            t.on(p).mlock(va, len);
                        }
                        t.on(p).write_pages(va, len);
                    }
                    Areas::Nonlinear => {
                        let va = one + i * len;
                        t.on(p)
                            .remap_file_pages(va, len, window(&mut draw))
                            .write_pages(va, len);
                    }
                }
            }
        }
        Ok(())
    }
}
