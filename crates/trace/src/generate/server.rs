//! Servers: a database whose processes share a segment (Oracle on 32-bit Linux; PostgreSQL), and a prefork web server.

use super::{
    Draw, GenerateError, Scatter, Workload, Zipf, exponent, libraries, library_files, range,
};
use crate::builder::TraceBuilder;
use crate::model::{HUGE_USER_END, USER_END};
use crate::op::{Access, PAGE_SIZE, TaskId};

/// Where a big segment is attached: Oracle relinked and mapped_base lowered (the 2.7 GB layout of the fact sheet).
const LOW_BASE: u32 = 0x1000_0000;
/// Pages of a library area: the mean of text and data, and some.
const LIBRARY_PAGES: u64 = 36;
/// Kept below the end of user space for the stack.
const STACK_ROOM: u64 = 0x0100_0000;

/// Dedicated server processes over one shared segment.
#[derive(Debug, Clone)]
pub struct SharedSegment {
    /// Server processes.
    pub processes: u32,
    /// Pages of the segment.
    pub segment_pages: u32,
    /// Share of the segment that each process touches before its transactions, per mille; of less than all, each draws its own blocks by
    /// Zipf's law, the order of heat being the same for all.
    pub touched: u32,
    /// Private pages of each process (PGA), written once.
    pub private_pages: u32,
    /// Library areas of each process.
    pub vmas: u32,
    /// Transactions of each process, round robin.
    pub transactions: u32,
    /// Blocks of 8 KiB that a transaction uses, drawn by Zipf's law (assumption: 10).
    pub blocks: u32,
    /// Reads among these, per cent.
    pub reads: u32,
    /// System calls of a transaction.
    pub calls: u32,
    /// The exponent of Zipf's law, per mille; the fact sheet has 800 to 1000.
    pub exponent: u32,
}

impl Default for SharedSegment {
    fn default() -> Self {
        Self {
            processes: 100,
            segment_pages: (64 << 20) / PAGE_SIZE,
            touched: 250,
            private_pages: 1000,
            vmas: 60,
            transactions: 10,
            blocks: 10,
            reads: 80,
            calls: 16,
            exponent: 1000,
        }
    }
}

impl SharedSegment {
    fn touches(&self) -> u64 {
        u64::from(self.segment_pages) * u64::from(self.touched) / 1000
    }

    /// Pages of address space that a server process maps beside its program and stack.
    #[must_use]
    pub fn mapped_pages(&self) -> u64 {
        u64::from(self.segment_pages)
            + u64::from(self.private_pages)
            + u64::from(self.vmas) * LIBRARY_PAGES
    }

    /// Pages that it can map where user space ends at `user_end`.
    #[must_use]
    pub fn room(user_end: u64) -> u64 {
        (user_end - STACK_ROOM - u64::from(LOW_BASE)) / u64::from(PAGE_SIZE)
    }

    /// Whether only 4G/4G has room for a process.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.mapped_pages() > Self::room(USER_END)
    }
}

impl Workload for SharedSegment {
    fn name(&self) -> &'static str {
        "shared-segment"
    }

    fn operations(&self) -> u64 {
        let transaction = u64::from(self.blocks) * 2 + u64::from(self.calls) + 1;
        let each = self.touches()
            + u64::from(self.private_pages)
            + 2 * u64::from(self.vmas)
            + u64::from(self.transactions) * transaction
            + 10;
        u64::from(self.processes) * each
    }

    fn check(&self) -> Result<(), GenerateError> {
        range(
            "processes",
            self.processes.into(),
            (1, 10_000),
            "1 to 10000",
        )?;
        range(
            "touched",
            self.touched.into(),
            (0, 1000),
            "0 to 1000 (per mille)",
        )?;
        range("reads", self.reads.into(), (0, 100), "0 to 100 (per cent)")?;
        range(
            "segment pages",
            self.segment_pages.into(),
            (2, 1 << 20),
            "2 to 1048576",
        )?;
        exponent(self.exponent)?;
        let (used, room) = (self.mapped_pages(), Self::room(HUGE_USER_END));
        if used > room {
            return Err(GenerateError::NoRoom {
                what: "a server process",
                pages: used,
                room,
            });
        }
        Ok(())
    }

    fn build(&self, t: &mut TraceBuilder, seed: u64) -> Result<(), GenerateError> {
        t.set_unmapped_base(LOW_BASE);
        if self.is_huge() {
            t.set_huge();
        }
        let files = library_files(t, self.vmas);
        let segment = t.segment(self.segment_pages * PAGE_SIZE);
        let listener = t.spawn();
        let base = t.on(listener).shmget(segment).shmat(segment);
        let blocks = self.segment_pages / 2;
        let zipf = Zipf::new(blocks, self.exponent);
        let scatter = Scatter::new(blocks, &mut Draw::new(seed, 0));
        let mut servers: Vec<(TaskId, Draw)> = Vec::new();
        for i in 0..self.processes {
            let server = t.spawn();
            let at = t.on(server).shmat(segment);
            debug_assert_eq!(at, base);
            libraries(t, server, &files, self.vmas);
            if self.private_pages > 0 {
                let len = self.private_pages * PAGE_SIZE;
                let private = t.on(server).mmap_anon(len);
                t.on(server).write_pages(private, len);
            }
            let mut draw = Draw::new(seed, i + 1);
            let touches = self.touches() as u32;
            let ranks =
                (self.touched < 1000).then(|| zipf.distinct(touches.div_ceil(2), &mut draw));
            for n in 0..touches {
                let block = match &ranks {
                    Some(ranks) => scatter.at(ranks[(n / 2) as usize]),
                    None => n / 2,
                };
                let va = base + (block * 2 + n % 2).min(self.segment_pages - 1) * PAGE_SIZE;
                touch(t, server, va, self.reads, &mut draw);
            }
            servers.push((server, draw));
        }
        for _ in 0..self.transactions {
            for (server, draw) in &mut servers {
                for call in 0..self.calls.max(1) {
                    // Blocks are spread over the calls of the transaction; 3 and 4 are read and write.
                    let (from, to) = (
                        self.blocks * call / self.calls.max(1),
                        self.blocks * (call + 1) / self.calls.max(1),
                    );
                    for _ in from..to {
                        let block = scatter.at(zipf.draw(draw));
                        touch(t, *server, base + block * 2 * PAGE_SIZE, self.reads, draw);
                        touch(
                            t,
                            *server,
                            base + (block * 2 + 1) * PAGE_SIZE,
                            self.reads,
                            draw,
                        );
                    }
                    if call < self.calls {
                        t.on(*server).other(3 + call % 2, 64, 64);
                    }
                }
            }
        }
        Ok(())
    }
}

fn touch(t: &mut TraceBuilder, task: TaskId, va: u32, reads: u32, draw: &mut Draw) {
    if draw.per_cent(reads) {
        t.on(task).read(va);
    } else {
        t.on(task).write(va);
    }
}

/// A prefork web server: children that share the parent's image by copy on write, and requests that fork and exec.
#[derive(Debug, Clone)]
pub struct Prefork {
    /// Children at work at once (StartServers to MaxClients).
    pub children: u32,
    /// Anonymous pages of the parent.
    pub parent_pages: u32,
    /// Library areas.
    pub vmas: u32,
    /// Requests, taken by the children in turn.
    pub requests: u32,
    /// Requests a child serves before it exits and another is forked (MaxRequestsPerChild).
    pub per_child: u32,
    /// Every n-th request is a CGI program: fork, exec, about 105 faults; 0 for none.
    pub cgi_every: u32,
    /// Pages of the parent's image that a request writes (assumption: 20).
    pub written: u32,
}

impl Default for Prefork {
    fn default() -> Self {
        Self {
            children: 50,
            parent_pages: 500,
            vmas: 60,
            requests: 2000,
            per_child: 100,
            cgi_every: 10,
            written: 20,
        }
    }
}

/// Faults of a CGI program as recorded in apache1.
const CGI_FAULTS: u32 = 105;

impl Workload for Prefork {
    fn name(&self) -> &'static str {
        "prefork"
    }

    fn operations(&self) -> u64 {
        let cgi = self.requests.checked_div(self.cgi_every).unwrap_or(0);
        u64::from(self.requests) * u64::from(self.written * 2 + 12)
            + u64::from(cgi) * u64::from(CGI_FAULTS + 80)
            + u64::from(self.parent_pages)
    }

    fn check(&self) -> Result<(), GenerateError> {
        range("children", self.children.into(), (1, 10_000), "1 to 10000")?;
        range(
            "per-child",
            self.per_child.into(),
            (1, 1 << 30),
            "at least 1",
        )?;
        range("vmas", self.vmas.into(), (2, 2000), "2 to 2000")?;
        range(
            "parent pages",
            self.parent_pages.into(),
            (1, 200_000),
            "1 to 200000",
        )
    }

    fn build(&self, t: &mut TraceBuilder, seed: u64) -> Result<(), GenerateError> {
        let files = library_files(t, self.vmas);
        let parent = t.spawn();
        libraries(t, parent, &files, self.vmas);
        let len = self.parent_pages * PAGE_SIZE;
        let heap = t.on(parent).mmap_anon(len);
        t.on(parent).write_pages(heap, len);
        let mut served = vec![0; self.children as usize];
        let mut children: Vec<TaskId> = Vec::new();
        for _ in 0..self.children {
            children.push(t.on(parent).fork());
        }
        let mut draw = Draw::new(seed, 0);
        for request in 0..self.requests {
            let i = (request % self.children) as usize;
            let child = children[i];
            for n in 0..self.written {
                let page = draw.below(u64::from(self.parent_pages)) as u32;
                let access = if n % 2 == 0 {
                    Access::Write
                } else {
                    Access::Read
                };
                match access {
                    Access::Write => t.on(child).write(heap + page * PAGE_SIZE),
                    _ => t.on(child).read(heap + page * PAGE_SIZE),
                };
            }
            for call in 0..8 {
                t.on(child).other(3 + call % 2, 128, 512);
            }
            if self.cgi_every > 0 && request % self.cgi_every == 0 {
                let cgi = t.on(child).fork();
                let image = t.image();
                t.on(cgi).exec(image);
                libraries(t, cgi, &files, 16);
                let len = (CGI_FAULTS - 16) * PAGE_SIZE;
                let memory = t.on(cgi).mmap_anon(len);
                t.on(cgi).write_pages(memory, len);
                t.on(cgi).exit();
                t.on(child).wait(cgi);
            }
            served[i] += 1;
            if served[i] == self.per_child {
                served[i] = 0;
                t.on(child).exit();
                t.on(parent).wait(child);
                children[i] = t.on(parent).fork();
            }
        }
        Ok(())
    }
}
