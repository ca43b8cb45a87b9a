//! What it costs to unmap one page, against the number of those that share it: the curve of each reverse map.
//!
//! The load is built in native mode; then the machine enters cycle mode, reclaim's sequence runs on two pages of no interest, an
//! anonymous one and one of a file, and then on the page measured. The kernel's text is warm then, and all data of the page
//! measured is cold, as that of a page that reclaim meets is. For this the two must be mapped by one process only, and be found without
//! a look at another's objects. (While the first of them was one that all n processes shared, maps that find anonymous pages through
//! mms and vmas came to a page of a file with mms, directories and page tables in the caches, and objrmap, which finds
//! them by chains, with none: at n = 100 it paid 20 to 35 % more for the same visits, 250 loads from closed rows of memory against 11.)
//! What does not come off at once is tried again, and all rounds count: a fresh nonlinear pte only becomes old in the first.
//!
//! - *shared_file*: one page of a file that n processes map and use;
//! - *shared_anonymous*: one page that n processes have from one parent and nobody wrote;
//! - *parent_private*: the parent's own page, written after n - 1 forks: its children's vmas match and do not map it;
//! - *few_of_many*: a file's page in n equal mappings, of which 3 use it (a page of libc);
//! - *orphan*: a page of a parent that has died, kept by the last of its n children alone, the others having copied it: the worst case of anonmm;
//! - *windows*: a page of a file of which one process maps n pages by a vma each, none beside another: the worst case of lists;
//! - *nonlinear*: one page of a file of n pages whose halves have changed places by remap_file_pages.
//!
//! The worst case of chains is no search but a removal: [`removals`] has the first of n processes unmap a file's page that all use.
//!
//! Invariant: every configuration unmaps the page of the same trace.

use super::{Pieces, natively};
use crate::error::MachineError;
use crate::machine::Machine;
use crate::replay::{cycle_options, preset};
use crate::replayer::{PauseAfter, pid};
use crate::walk;
use emu_cpu::{Engine, EngineState};
use guest_vm::pgtable::Pte;
use lowmem_cost::{Side, Variant};
use lowmem_report::{Config, UnmapEnd, UnmapPart};
use lowmem_trace::{FileRef, MapFlags, Prot, Trace, TraceBuilder};

/// Bytes of a page.
const PAGE: u32 = 4096;
/// Where the first page of no interest lies: a page table of its own.
const WARM_AT: u32 = 0x5000_0000;
/// Rounds after which a page is left mapped: a sweep of clusters of 32 pages through 1,000 needs 33.
const MOST_ROUNDS: u32 = 64;
/// Sharers (pages, with *nonlinear*) of a curve.
pub const COUNTS: [u32; 7] = [1, 3, 10, 30, 100, 300, 1000];

/// Who maps the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// See the module.
    SharedFile,
    /// See the module.
    SharedAnonymous,
    /// See the module.
    ParentPrivate,
    /// See the module.
    FewOfMany,
    /// See the module.
    Orphan,
    /// See the module.
    Windows,
    /// See the module.
    Nonlinear,
}

impl Case {
    /// All, in the order of the tables.
    pub const ALL: [Case; 7] = [
        Case::SharedFile,
        Case::SharedAnonymous,
        Case::ParentPrivate,
        Case::FewOfMany,
        Case::Orphan,
        Case::Windows,
        Case::Nonlinear,
    ];

    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Case::SharedFile => "shared_file",
            Case::SharedAnonymous => "shared_anonymous",
            Case::ParentPrivate => "parent_private",
            Case::FewOfMany => "few_of_many",
            Case::Orphan => "orphan",
            Case::Windows => "windows",
            Case::Nonlinear => "nonlinear",
        }
    }

    /// One sentence for tables.
    pub const fn sentence(self) -> &'static str {
        match self {
            Case::SharedFile => "A page of a file that n processes use",
            Case::SharedAnonymous => "An anonymous page that n processes share",
            Case::ParentPrivate => "A page of the parent's own, written after n - 1 forks",
            Case::FewOfMany => "A page of a file in n equal mappings, used by 3",
            Case::Orphan => {
                "A dead parent's page, kept by the last of n children, copied by the others"
            }
            Case::Windows => "A page of a file in one of n vmas that map other pages of it",
            Case::Nonlinear => "A page of a file of n pages, remapped by halves",
        }
    }
}

/// One point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnmapPoint {
    /// Which curve.
    pub case: Case,
    /// Sharers, or pages.
    pub n: u32,
    /// How it ended.
    pub end: UnmapEnd,
    /// Times that reclaim met the page.
    pub rounds: u32,
    /// Vmas visited.
    pub vmas_visited: u32,
    /// Ptes examined.
    pub ptes_examined: u32,
    /// Ptes cleared.
    pub ptes_cleared: u32,
    /// Cycles by [`UnmapPart`].
    pub cycles: [u64; UnmapPart::ALL.len()],
}

/// Measures one configuration at these numbers of sharers.
pub fn measure(config: &Config, counts: &[u32]) -> Result<Vec<UnmapPoint>, MachineError> {
    let mut points = Vec::new();
    for case in Case::ALL {
        for &n in counts {
            points.push(point(config, case, n)?);
        }
    }
    Ok(points)
}

fn load(case: Case, n: u32) -> Load {
    let mut t = TraceBuilder::new(case.name());
    let first = t.spawn();
    let pages = if case == Case::Nonlinear { n } else { 1 };
    let file = FileRef {
        // Every other page of a file is mapped by windows, so that none continues its neighbour.
        file: t.file("/page", if case == Case::Windows { 2 * n } else { pages }),
        page_offset: 0,
    };
    let len = pages * PAGE;
    let at = match case {
        Case::SharedAnonymous | Case::ParentPrivate | Case::Orphan => t.on(first).mmap_anon(len),
        Case::Windows => {
            let mut middle = 0;
            for i in 0..n {
                let page_offset = 2 * i;
                let window = FileRef {
                    page_offset,
                    ..file
                };
                let va = t
                    .on(first)
                    .mmap_file(window, len, Prot::RW, MapFlags::SHARED);
                if i == n / 2 {
                    middle = va;
                }
            }
            middle
        }
        Case::SharedFile | Case::Nonlinear => {
            t.on(first).mmap_file(file, len, Prot::RW, MapFlags::SHARED)
        }
        Case::FewOfMany => t
            .on(first)
            .mmap_file(file, len, Prot::RX, MapFlags::PRIVATE),
    };
    match case {
        Case::SharedFile | Case::Windows => {
            t.on(first).read_pages(at, len);
        }
        Case::SharedAnonymous | Case::ParentPrivate | Case::Orphan => {
            t.on(first).write_pages(at, len);
        }
        Case::FewOfMany => {}
        Case::Nonlinear => {
            let half = n / 2;
            let rest = n - half;
            // The first `rest` pages show the end of the file, the others its beginning.
            t.on(first).remap_file_pages(at, rest * PAGE, half);
            if half > 0 {
                t.on(first)
                    .remap_file_pages(at + rest * PAGE, half * PAGE, 0);
            }
        }
    }
    let mut tasks = vec![first];
    let children = match case {
        Case::Nonlinear | Case::Windows => 0,
        Case::Orphan => n,
        _ => n - 1,
    };
    for _ in 0..children {
        tasks.push(t.on(first).fork());
    }
    match case {
        Case::ParentPrivate => {
            t.on(first).write_pages(at, PAGE);
        }
        Case::FewOfMany => {
            let mut users = [0, tasks.len() / 2, tasks.len() - 1].to_vec();
            users.dedup();
            for user in users {
                t.on(tasks[user]).read_pages(at, PAGE);
            }
        }
        Case::Orphan => {
            for &copier in &tasks[1..tasks.len() - 1] {
                t.on(copier).write_pages(at, PAGE);
            }
            t.on(first).exit();
        }
        Case::SharedFile | Case::SharedAnonymous | Case::Windows | Case::Nonlinear => {}
    }
    let first = match case {
        Case::Orphan => tasks[tasks.len() - 1],
        _ => first,
    };
    // Made last, and far from other mappings: no child has it, no neighbour lends it an anon_vma.
    t.on(first).mmap_fixed(WARM_AT, PAGE, Prot::RW);
    t.on(first).write_pages(WARM_AT, PAGE);
    let other = FileRef {
        file: t.file("/warm", 1),
        page_offset: 0,
    };
    let file_page = t
        .on(first)
        .mmap_file(other, PAGE, Prot::RX, MapFlags::PRIVATE);
    t.on(first).read_pages(file_page, PAGE);
    t.on(first).null_call();
    Load {
        trace: t.finish(),
        owner: pid(first),
        warm: [WARM_AT, file_page],
        at: at + (pages / 2) * PAGE,
    }
}

/// A load, and where its pages are.
struct Load {
    trace: Trace,
    /// The process in which they are looked up.
    owner: u32,
    /// Pages to warm up with.
    warm: [u32; 2],
    /// The page measured.
    at: u32,
}

/// Cycles of one munmap of a page that n processes use, by the first of them: the oldest entry of a chain, which removal reaches last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Processes that use the page.
    pub n: u32,
    /// Cycles of the call's work.
    pub cycles: u64,
}

/// Measures [`Removal`] at these numbers of sharers.
pub fn removals(config: &Config, counts: &[u32]) -> Result<Vec<Removal>, MachineError> {
    counts.iter().map(|&n| removal(config, n)).collect()
}

fn removal(config: &Config, n: u32) -> Result<Removal, MachineError> {
    let mut t = TraceBuilder::new("removal");
    let first = t.spawn();
    let file = FileRef {
        file: t.file("/page", 2),
        page_offset: 0,
    };
    let at = t
        .on(first)
        .mmap_file(file, 2 * PAGE, Prot::RW, MapFlags::SHARED);
    t.on(first).read_pages(at, 2 * PAGE);
    for _ in 1..n {
        let child = t.on(first).fork();
        t.on(child).read_pages(at, 2 * PAGE);
    }
    // The second page warms the call up.
    t.on(first).munmap(at + PAGE, PAGE);
    t.on(first).null_call();
    let begin = t.len() as u64;
    t.on(first).munmap(at, PAGE);
    let end = t.len() as u64;
    t.on(first).null_call();
    let trace = t.finish();
    let mut run = Pieces::natively_until(&trace, config, begin - 2)?;
    run.until(begin)?;
    let piece = run.until(end)?;
    Ok(Removal {
        n,
        cycles: piece.cycles(Side::Mmap),
    })
}

fn point(config: &Config, case: Case, n: u32) -> Result<UnmapPoint, MachineError> {
    let Load {
        trace,
        owner,
        warm,
        at,
    } = load(case, n);
    let preset = preset(config)?;
    let (mut machine, replayer) = natively(&trace, config, &preset, PauseAfter::Never)?;
    let operation = replayer.operation();
    let lost = |what: &str| MachineError::Guest {
        operation,
        reason: format!("{} with {n}: {what}", case.name()),
    };
    let frame = |m: &Machine, va: u32| frame_of(m, owner, va).ok_or_else(|| lost("no pte"));
    let warm = [frame(&machine, warm[0])?, frame(&machine, warm[1])?];
    let page = frame(&machine, at)?;
    machine.enter_cycle(&cycle_options(&preset, config, Engine::Fast))?;
    let mut engine = EngineState::new(Engine::Fast);
    for pfn in warm {
        machine.unmap_one(&mut engine, pfn, operation)?;
    }
    let mut sum = UnmapPoint {
        case,
        n,
        end: UnmapEnd::Locked,
        rounds: 0,
        vmas_visited: 0,
        ptes_examined: 0,
        ptes_cleared: 0,
        cycles: [0; 3],
    };
    while sum.end != UnmapEnd::Unmapped && sum.rounds < MOST_ROUNDS {
        let sample = machine
            .unmap_one(&mut engine, page, operation)?
            .ok_or_else(|| lost("no candidate for reclaim"))?;
        sum.end = sample.end;
        sum.rounds += 1;
        sum.vmas_visited += sample.vmas_visited;
        sum.ptes_examined += sample.ptes_examined;
        sum.ptes_cleared += sample.ptes_cleared;
        for part in UnmapPart::ALL {
            sum.cycles[part as usize] += preset
                .prices(Variant::Mid)
                .cycles(&sample.parts[part as usize]);
        }
    }
    Ok(sum)
}

/// The frame that `va` of a process shows.
pub(super) fn frame_of(machine: &Machine, pid: u32, va: u32) -> Option<u32> {
    let k = machine.k;
    let task = guest_vm::task::find(k, pid);
    if task.is_null() || task.mm(k).is_null() {
        return None;
    }
    let root = task
        .mm(k)
        .pgd(k)
        .va()
        .wrapping_sub(machine.host.page_offset());
    let pte = Pte(walk::lookup(machine.mem(), root, va)?.entry);
    pte.present().then(|| pte.pfn())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowmem_report::config::{FileVmas, Rmap};

    fn at(rmap: Rmap, case: Case, n: u32) -> UnmapPoint {
        let config = Config {
            rmap,
            ..Config::default()
        };
        let point = point(&config, case, n).expect("measured");
        assert_eq!(point.end, UnmapEnd::Unmapped, "{point:?}");
        point
    }

    #[test]
    fn visits_follow_the_order_of_search() {
        // page_referenced and try_to_unmap each visit.
        let p = at(Rmap::AnonVma, Case::ParentPrivate, 20);
        assert_eq!((p.vmas_visited, p.ptes_cleared), (40, 1));
        let p = at(Rmap::PteChain, Case::ParentPrivate, 20);
        assert_eq!((p.vmas_visited, p.ptes_examined, p.ptes_cleared), (1, 2, 1));
        let p = at(Rmap::AnonVma, Case::SharedFile, 20);
        assert_eq!((p.vmas_visited, p.ptes_cleared), (40, 20));
        // prio_tree is no better than a list where all ranges are equal.
        let p = at(Rmap::AnonVma, Case::FewOfMany, 20);
        assert!(p.vmas_visited > 20, "{p:?}");
        assert_eq!(p.ptes_cleared, 3);
        assert_eq!(at(Rmap::PteChain, Case::FewOfMany, 20).ptes_examined, 6);
    }

    #[test]
    fn each_scheme_has_its_worst_case() {
        // A list asks every window, the tree that of the page.
        let of = |file_vmas| {
            let config = Config {
                file_vmas,
                ..Config::default()
            };
            point(&config, Case::Windows, 20).expect("measured")
        };
        assert_eq!(of(FileVmas::List).vmas_visited, 40 - 2 * 9);
        assert_eq!(of(FileVmas::PrioTree).vmas_visited, 2);
        // The dead parent's and all children's, once: page_referenced then gives the page to the mm that has it.
        assert_eq!(at(Rmap::Anonmm, Case::Orphan, 20).vmas_visited, 21 + 1);
        // A chain is walked to its oldest entry; a count goes down by one.
        let cost = |rmap| {
            let config = Config {
                rmap,
                ..Config::default()
            };
            let r = removals(&config, &[1, 300]).expect("measured");
            r[1].cycles as i64 - r[0].cycles as i64
        };
        let (chain, double, count) = (
            cost(Rmap::PteChain),
            cost(Rmap::PteChainDl),
            cost(Rmap::AnonVma),
        );
        assert!(
            chain > 10 * count.abs().max(double.abs()),
            "{chain} {double} {count}"
        );
    }

    #[test]
    fn a_nonlinear_page_takes_rounds_under_objects_and_none_under_chains() {
        let p = at(Rmap::AnonVma, Case::Nonlinear, 128);
        // Ageing, then clusters until that of the page.
        assert!(p.rounds > 2, "{p:?}");
        let p = at(Rmap::PteChain, Case::Nonlinear, 128);
        assert_eq!((p.rounds, p.ptes_cleared), (1, 1));
    }
}
