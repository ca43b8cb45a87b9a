//! A compilation with make: for each file a shell's vfork, the compiler driver, cc1 and the assembler, as recorded in zlibmake and
//! luamake (3 processes a file) and described for 2004.

use super::{Draw, GenerateError, Workload, libraries, library_files, range};
use crate::builder::TraceBuilder;
use crate::op::PAGE_SIZE;

/// `make -jN`.
#[derive(Debug, Clone)]
pub struct Compile {
    /// Files compiled.
    pub files: u32,
    /// Compilations at once.
    pub jobs: u32,
    /// Pages that cc1 writes: 5 to 25 MB in 2004.
    pub cc1_pages: u32,
    /// Library areas of each program.
    pub vmas: u32,
}

impl Default for Compile {
    fn default() -> Self {
        Self {
            files: 40,
            jobs: 4,
            cc1_pages: 2500,
            vmas: 12,
        }
    }
}

impl Workload for Compile {
    fn name(&self) -> &'static str {
        "compile"
    }

    fn operations(&self) -> u64 {
        u64::from(self.files)
            * (u64::from(self.cc1_pages) * 5 / 4 + 3 * (u64::from(self.vmas) * 2 + 60))
    }

    fn check(&self) -> Result<(), GenerateError> {
        range("jobs", self.jobs.into(), (1, 1000), "1 to 1000")?;
        range("vmas", self.vmas.into(), (2, 500), "2 to 500")?;
        range(
            "cc1 pages",
            self.cc1_pages.into(),
            (8, 400_000),
            "8 to 400000",
        )
    }

    fn build(&self, t: &mut TraceBuilder, seed: u64) -> Result<(), GenerateError> {
        let files = library_files(t, self.vmas);
        let make = t.spawn();
        libraries(t, make, &files, self.vmas);
        let mut draw = Draw::new(seed, 0);
        let mut done = 0;
        while done < self.files {
            let batch = self.jobs.min(self.files - done);
            let mut running = Vec::new();
            for _ in 0..batch {
                let driver = t.on(make).vfork();
                let image = t.image();
                t.on(driver).exec(image);
                libraries(t, driver, &files, self.vmas);
                let cc1 = t.on(driver).vfork();
                let image = t.image();
                t.on(cc1).exec(image);
                libraries(t, cc1, &files, self.vmas);
                // The heap grows by 128 KiB at a time, as malloc asks for it; cc1 is larger or smaller by a quarter.
                let size = self.cc1_pages * 3 / 4
                    + draw.below(u64::from(self.cc1_pages / 2).max(1)) as u32;
                running.push((driver, cc1, size, 0));
            }
            // Slices of 32 heap pages in turn: preempted, as with more jobs than CPUs.
            while running.iter().any(|r| r.3 < r.2) {
                for (_, cc1, size, at) in running.iter_mut().filter(|r| r.3 < r.2) {
                    let pages = 32.min(*size - *at);
                    let end = t.on(*cc1).brk((pages * PAGE_SIZE) as i32);
                    t.on(*cc1)
                        .write_pages(end - pages * PAGE_SIZE, pages * PAGE_SIZE)
                        .other(3, 0, 4096);
                    *at += pages;
                }
            }
            for (driver, cc1, ..) in running {
                t.on(cc1).exit();
                t.on(driver).wait(cc1);
                let assembler = t.on(driver).vfork();
                let image = t.image();
                t.on(assembler).exec(image);
                libraries(t, assembler, &files, self.vmas);
                t.on(assembler).exit();
                t.on(driver).wait(assembler).exit();
                t.on(make).wait(driver);
            }
            done += batch;
        }
        Ok(())
    }
}
