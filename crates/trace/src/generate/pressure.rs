//! Memory pressure: processes that together want more memory than there is; and mremap of pages that fork has shared.

use super::{Draw, GenerateError, Workload, Zipf, exponent, range};
use crate::builder::TraceBuilder;
use crate::op::PAGE_SIZE;

/// In which order a process uses its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after the other, again and again: the worst for any LRU.
    Cyclic,
    /// By Zipf's law.
    Zipf,
}

/// Equal processes with more memory between them than the machine has.
#[derive(Debug, Clone)]
pub struct SwapStorm {
    /// Processes.
    pub processes: u32,
    /// Anonymous pages of each.
    pub pages: u32,
    /// How often each uses as many pages as it has.
    pub rounds: u32,
    /// In which order.
    pub order: Order,
    /// Pages a process uses before the next one runs (assumption: 256).
    pub slice: u32,
    /// The exponent of Zipf's law, per mille.
    pub exponent: u32,
}

impl Default for SwapStorm {
    fn default() -> Self {
        Self {
            processes: 3,
            pages: 4096,
            rounds: 3,
            order: Order::Cyclic,
            slice: 256,
            exponent: 1000,
        }
    }
}

impl Workload for SwapStorm {
    fn name(&self) -> &'static str {
        "swap-storm"
    }

    fn operations(&self) -> u64 {
        u64::from(self.processes) * u64::from(self.pages) * (u64::from(self.rounds) + 1)
    }

    fn check(&self) -> Result<(), GenerateError> {
        range(
            "processes",
            self.processes.into(),
            (1, 10_000),
            "1 to 10000",
        )?;
        range("pages", self.pages.into(), (1, 500_000), "1 to 500000")?;
        exponent(self.exponent)?;
        range("slice", self.slice.into(), (1, 1 << 30), "at least 1")
    }

    fn build(&self, t: &mut TraceBuilder, seed: u64) -> Result<(), GenerateError> {
        let mut all = Vec::new();
        for i in 0..self.processes {
            let p = t.spawn();
            let va = t.on(p).mmap_anon(self.pages * PAGE_SIZE);
            all.push((p, va, Draw::new(seed, i), 0u64));
        }
        let zipf = Zipf::new(self.pages, self.exponent);
        let total = u64::from(self.pages) * (u64::from(self.rounds) + 1);
        while all[0].3 < total {
            for (p, va, draw, done) in &mut all {
                for _ in 0..self.slice {
                    if *done == total {
                        break;
                    }
                    let first = *done < u64::from(self.pages);
                    let page = match self.order {
                        Order::Zipf if !first => zipf.draw(draw),
                        _ => (*done % u64::from(self.pages)) as u32,
                    };
                    let at = *va + page * PAGE_SIZE;
                    // The first use writes; later ones write every third time.
                    if first || *done % 3 == 0 {
                        t.on(*p).write(at);
                    } else {
                        t.on(*p).read(at);
                    }
                    *done += 1;
                }
            }
        }
        Ok(())
    }
}

/// Segments that are moved and grown by mremap while children of fork share their pages (the recorded mremapfork1, made to
/// measure): 2/8 grow and move, 1/8 move to a fixed place, 1/8 shrink, 3/8 write, 1/8 read.
#[derive(Debug, Clone)]
pub struct MremapFork {
    /// Segments.
    pub segments: u32,
    /// Most pages of a segment.
    pub pages: u32,
    /// Children that keep sharing.
    pub children: u32,
    /// Steps of the parent between two forks.
    pub steps: u32,
}

impl Default for MremapFork {
    fn default() -> Self {
        Self {
            segments: 8,
            pages: 600,
            children: 8,
            steps: 40,
        }
    }
}

/// Where fixed moves go: far above what the search for free space reaches here.
const FIXED: u32 = 0x9000_0000;

impl Workload for MremapFork {
    fn name(&self) -> &'static str {
        "mremap-fork"
    }

    fn operations(&self) -> u64 {
        let step = u64::from(self.pages) / 2;
        (u64::from(self.segments) + u64::from(self.children) * u64::from(self.steps)) * step
    }

    fn check(&self) -> Result<(), GenerateError> {
        range("segments", self.segments.into(), (1, 100), "1 to 100")?;
        range("pages", self.pages.into(), (2, 2000), "2 to 2000")?;
        range("children", self.children.into(), (1, 5000), "1 to 5000")
    }

    fn build(&self, t: &mut TraceBuilder, seed: u64) -> Result<(), GenerateError> {
        let mut draw = Draw::new(seed, 0);
        let p = t.spawn();
        let mut segments = Vec::new();
        for _ in 0..self.segments {
            let pages = 1 + draw.below(u64::from(self.pages)) as u32;
            let va = t.on(p).mmap_anon(pages * PAGE_SIZE);
            t.on(p).write_pages(va, pages * PAGE_SIZE);
            segments.push((va, pages));
        }
        let mut children = Vec::new();
        for _ in 0..self.children {
            children.push(t.on(p).fork());
            for _ in 0..self.steps {
                let i = draw.below(u64::from(self.segments)) as usize;
                let (va, pages) = segments[i];
                let len = pages * PAGE_SIZE;
                segments[i] = match draw.below(8) {
                    0 | 1 => {
                        let more = (pages + 1 + pages / 2).min(self.pages);
                        (t.on(p).mremap(va, len, more * PAGE_SIZE), more)
                    }
                    2 => {
                        let to = FIXED + i as u32 * (self.pages + 1) * 2 * PAGE_SIZE;
                        let to = if to == va {
                            to + (self.pages + 1) * PAGE_SIZE
                        } else {
                            to
                        };
                        t.on(p).mremap_fixed(va, len, to);
                        (to, pages)
                    }
                    3 => {
                        let less = pages / 2 + 1;
                        (t.on(p).mremap(va, len, less * PAGE_SIZE), less)
                    }
                    4..=6 => {
                        t.on(p).write_pages(va, len);
                        (va, pages)
                    }
                    _ => {
                        t.on(p).read_pages(va, len);
                        (va, pages)
                    }
                };
            }
        }
        for child in children {
            t.on(child).exit();
            t.on(p).wait(child);
        }
        Ok(())
    }
}
