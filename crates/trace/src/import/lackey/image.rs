//! What exec had mapped, inferred from the pages that were touched.
//!
//! lackey prints no mappings. Pages that no call mapped and that lie outside heap and stack belong to the program (or to an
//! interpreter that the kernel loaded): runs of them with small holes are taken as its segments, executable up to the last fetched
//! page, writable from the first stored or protected one, read-only between. The heap begins where the first `brk(0)` says.
//!
//! Left out: the border between data and bss; both are one private file mapping, so that bss pages are copied instead of zeroed.
//!
//! Invariant: every touched page is in the image, the heap, the stack, or a mapping made by a call.

use std::collections::BTreeMap;

use super::parse::{EXECUTED, Process, STORED};
use crate::{
    error::TraceError,
    model::USER_END,
    op::{
        Call, ExecImage, ExecMapping, FileId, FileRef, MapFlags, MappingKind, Op, PAGE_SIZE, Prot,
    },
};

/// Holes of up to this many untouched pages are inside a segment.
const HOLE_PAGES: usize = 1024;
/// Pages of stack that exec makes at least: 128 KiB and the page of arguments, as Linux since 2.6.23 does.
const STACK_PAGES: u32 = 33;
/// Pages this far below the top of the stack are its own.
const STACK_REACH_PAGES: usize = 2048;

pub(super) struct Inferred {
    pub(super) exec: ExecImage,
    pub(super) file_pages: u32,
}

/// Infers the image of the root process.
pub(super) fn infer(
    program: &str,
    processes: &BTreeMap<u32, Process>,
    root: u32,
) -> Result<Inferred, TraceError> {
    let mut pages = vec![0u8; 1 << 20];
    let (mut brk, mut brk_end) = (None, 0u32);
    for p in processes.values() {
        for (page, used) in pages.iter_mut().zip(&p.pages) {
            *page |= used;
        }
    }
    let calls = processes
        .values()
        .flat_map(|p| &p.ops)
        .filter_map(|op| match op {
            Op::Call(call) => Some(&**call),
            _ => None,
        });
    let mut mapped: Vec<(u32, u32)> = Vec::new();
    let mut protected: Vec<(u32, u32)> = Vec::new();
    for call in calls {
        match *call {
            Call::Brk { result, .. } => {
                brk.get_or_insert(result);
                brk_end = brk_end.max(result);
            }
            Call::Mmap { result, len, .. } => mapped.push((result, len)),
            Call::Mremap {
                result, new_len, ..
            } => mapped.push((result, new_len)),
            Call::Mprotect { addr, len, .. } => protected.push((addr, len)),
            _ => {}
        }
    }
    let range = |addr: u32, len: u32| {
        let end = (u64::from(addr) + u64::from(len))
            .div_ceil(u64::from(PAGE_SIZE))
            .min(1 << 20);
        addr as usize >> 12..end as usize
    };
    for (addr, len) in protected {
        pages[range(addr, len)]
            .iter_mut()
            .filter(|p| **p != 0)
            .for_each(|p| *p |= STORED);
    }
    for (addr, len) in mapped {
        pages[range(addr, len)].fill(0);
    }
    let heap = brk.unwrap_or(0);
    let heap_page = heap.div_ceil(PAGE_SIZE) as usize;
    pages[heap_page..(brk_end.div_ceil(PAGE_SIZE) as usize).max(heap_page)].fill(0);

    let nothing = || TraceError::Inputs(format!("{program}: process {root} references nothing"));
    let top = pages.iter().rposition(|&p| p != 0).ok_or_else(nothing)?;
    let stack_top = (top as u32 + 1) * PAGE_SIZE;
    if u64::from(stack_top) > USER_END {
        return Err(TraceError::Inputs(format!(
            "{program}: references above 3 GiB, at {stack_top:#x}"
        )));
    }
    let low = top.saturating_sub(STACK_REACH_PAGES);
    let lowest = (low..=top).find(|&p| pages[p] != 0).unwrap_or(top);
    let stack_start = (lowest as u32 * PAGE_SIZE).min(stack_top - STACK_PAGES * PAGE_SIZE);
    pages[low..].fill(0);

    let mut mappings = Vec::new();
    let mut file_pages = 0;
    for (first, last) in runs(&pages) {
        // The program's own segments reach to the heap.
        let last = if heap_page > last && heap_page - last <= HOLE_PAGES {
            heap_page
        } else {
            last
        };
        segments(&pages[first..last], first as u32, file_pages, &mut mappings);
        file_pages += (last - first) as u32;
    }
    mappings.push(ExecMapping {
        start: stack_start,
        end: stack_top,
        prot: Prot::RW,
        flags: MapFlags::PRIVATE
            .union(MapFlags::ANONYMOUS)
            .union(MapFlags::GROWSDOWN),
        file: None,
        kind: MappingKind::Stack,
    });
    let name = program.rsplit('/').next().unwrap_or("").to_owned();
    let brk = brk.unwrap_or_else(|| mappings.iter().rev().nth(1).map_or(PAGE_SIZE, |m| m.end));
    Ok(Inferred {
        exec: ExecImage {
            name,
            mappings,
            brk,
            stack_top,
        },
        file_pages,
    })
}

/// Runs of touched pages with small holes, as (first, behind the last).
fn runs(pages: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (page, _) in pages.iter().enumerate().filter(|(_, p)| **p != 0) {
        match runs.last_mut() {
            Some((_, end)) if page - *end <= HOLE_PAGES => *end = page + 1,
            _ => runs.push((page, page + 1)),
        }
    }
    runs
}

/// Cuts a run into executable, read-only and writable segments.
fn segments(pages: &[u8], first: u32, offset: u32, out: &mut Vec<ExecMapping>) {
    let text = pages
        .iter()
        .rposition(|p| p & EXECUTED != 0)
        .map_or(0, |p| p + 1);
    let data = (text..pages.len())
        .find(|&p| pages[p] & STORED != 0)
        .unwrap_or(pages.len());
    let parts = [
        (0, text, Prot::RX, MappingKind::Text),
        (text, data, Prot::READ, MappingKind::Data),
        (data, pages.len(), Prot::RW, MappingKind::Data),
    ];
    for (from, to, prot, kind) in parts {
        if from < to {
            out.push(ExecMapping {
                start: (first + from as u32) * PAGE_SIZE,
                end: (first + to as u32) * PAGE_SIZE,
                prot,
                flags: MapFlags::PRIVATE,
                file: Some(FileRef {
                    file: FileId(0),
                    page_offset: offset + from as u32,
                }),
                kind,
            });
        }
    }
}
