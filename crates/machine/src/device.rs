//! The devices behind the guest's transfer port: files with synthetic content, and one swap device.
//!
//! A file page that was never written has four non-zero words ([`lowmem_abi::port::file_word`]); what is written is kept
//! and read back. Shared-memory objects (file ids from [`SHMEM_FILES`] up) start as zeros. A transfer takes no time of its
//! own: the CPU pays only for the `out`. Writes to files are logged in the order in which they were submitted; how long a disk would
//! have needed for them is [`crate::disk`]'s to say. Behind a truncation a file reads as zeros. Left out: completion interrupts.
//!
//! Invariant: reading a page gives what was last written to it, on every clone on its own.

use crate::disk::DiskModel;
use emu_mmu::{Pfn, PhysMem};
use lowmem_abi::port::{Transfer, TransferKind, file_word};
use lowmem_report::DeviceUse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// First id of a file that is a shared-memory object.
pub const SHMEM_FILES: u32 = 0x8000_0000;

/// The non-zero words of a page: (byte offset, word).
type Words = Arc<[(u32, u32)]>;

/// What files and swap hold. Cloning shares pages.
#[derive(Debug, Clone)]
pub struct Devices {
    disk: DiskModel,
    files: BTreeMap<(u32, u32), Words>,
    swap: BTreeMap<u32, Words>,
    /// First page behind the shortest end a file ever had.
    ends: BTreeMap<u32, u32>,
    /// File pages in the order in which they were written.
    written: Vec<FilePage>,
    /// Pages read from files.
    pub file_reads: u64,
    /// Pages written to files.
    pub file_writes: u64,
    /// Pages read from swap.
    pub swap_reads: u64,
    /// Pages written to swap.
    pub swap_writes: u64,
    /// Milliseconds that the kernel slept.
    pub slept_ms: u64,
    swap_time: SwapTime,
}

/// How long the swap device was busy: [`DiskModel`], in the order in which the kernel asked. It is waiting, not work of the CPU.
#[derive(Debug, Clone, Copy, Default)]
struct SwapTime {
    /// Slot behind the head.
    next: u32,
    seeks: u64,
    us: u64,
}

impl SwapTime {
    fn transfer(&mut self, disk: DiskModel, slot: u32) {
        if slot != self.next {
            self.seeks += 1;
            self.us += disk.seek_us + disk.rotation_us;
        }
        self.us += disk.page_us;
        self.next = slot + 1;
    }
}

/// A page of a file on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePage {
    /// File id.
    pub file: u32,
    /// Page of the file.
    pub index: u32,
}

/// A transfer that no device can carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A kind that does not exist.
    #[error("transfer of unknown kind {0}")]
    Kind(u32),
    /// A frame beyond RAM.
    #[error("transfer to frame {0:#x} beyond ram")]
    Frame(u32),
    /// A swap slot that was never written.
    #[error("swap slot {0} read before it was written")]
    EmptySlot(u32),
}

/// The words a file page has that was never written.
pub fn synthetic_words(file: u32, index: u32) -> impl Iterator<Item = (u32, u32)> {
    let words = if file >= SHMEM_FILES { 0 } else { 4 };
    (0..words).map(move |n| (n * 1024, file_word(file, index, n)))
}

impl Devices {
    /// Files that were never written and empty swap, on this disk.
    pub fn new(disk: DiskModel) -> Self {
        Self {
            disk,
            files: BTreeMap::new(),
            swap: BTreeMap::new(),
            ends: BTreeMap::new(),
            written: Vec::new(),
            file_reads: 0,
            file_writes: 0,
            swap_reads: 0,
            swap_writes: 0,
            slept_ms: 0,
            swap_time: SwapTime::default(),
        }
    }

    /// The disk behind files and swap.
    pub fn disk(&self) -> DiskModel {
        self.disk
    }

    /// Carries out one transfer.
    pub fn transfer(&mut self, mem: &mut PhysMem, t: Transfer) -> Result<(), DeviceError> {
        if t.kind == TransferKind::Wait as u32 {
            self.slept_ms += u64::from(t.index);
            return Ok(());
        }
        let pfn = Pfn(t.pfn);
        if u64::from(t.pfn) << 12 >= mem.ram_bytes() {
            return Err(DeviceError::Frame(t.pfn));
        }
        match t.kind {
            k if k == TransferKind::FileRead as u32 => {
                self.file_reads += 1;
                let cut = self.ends.get(&t.file).is_some_and(|end| t.index >= *end);
                match self.files.get(&(t.file, t.index)) {
                    Some(words) => fill(mem, pfn, words.iter().copied()),
                    None if cut => mem.clear_page(pfn),
                    None => fill(mem, pfn, synthetic_words(t.file, t.index)),
                }
            }
            k if k == TransferKind::FileWrite as u32 => {
                self.file_writes += 1;
                let words: Words = mem.page_words(pfn).collect();
                self.files.insert((t.file, t.index), words);
                self.written.push(FilePage {
                    file: t.file,
                    index: t.index,
                });
            }
            k if k == TransferKind::FileTruncate as u32 => {
                let end = self.ends.entry(t.file).or_insert(t.index);
                *end = t.index.min(*end);
                self.files.retain(|at, _| at.0 != t.file || at.1 < t.index);
            }
            k if k == TransferKind::SwapRead as u32 => {
                self.swap_reads += 1;
                self.swap_time.transfer(self.disk, t.index);
                let words = self
                    .swap
                    .get(&t.index)
                    .ok_or(DeviceError::EmptySlot(t.index))?;
                fill(mem, pfn, words.iter().copied());
            }
            k if k == TransferKind::SwapWrite as u32 => {
                self.swap_writes += 1;
                self.swap_time.transfer(self.disk, t.index);
                let words: Words = mem.page_words(pfn).collect();
                self.swap.insert(t.index, words);
            }
            k => return Err(DeviceError::Kind(k)),
        }
        Ok(())
    }

    /// What was transferred so far.
    pub fn used(&self) -> DeviceUse {
        DeviceUse {
            swap_reads: self.swap_reads,
            swap_writes: self.swap_writes,
            file_reads: self.file_reads,
            file_writes: self.file_writes,
            slept_ms: self.slept_ms,
            swap_seeks: self.swap_time.seeks,
            swap_us: self.swap_time.us,
        }
    }

    /// The words in a swap slot.
    pub fn swap_slot(&self, slot: u32) -> Option<&[(u32, u32)]> {
        self.swap.get(&slot).map(|words| &words[..])
    }

    /// File pages in the order in which the kernel submitted them, since the machine was made.
    pub fn write_log(&self) -> &[FilePage] {
        &self.written
    }

    /// The file pages that were written back: (file, page) and words.
    pub fn written_pages(&self) -> impl Iterator<Item = ((u32, u32), &[(u32, u32)])> {
        self.files.iter().map(|(key, words)| (*key, &words[..]))
    }
}

fn fill(mem: &mut PhysMem, pfn: Pfn, words: impl Iterator<Item = (u32, u32)>) {
    mem.clear_page(pfn);
    for (offset, word) in words {
        mem.write_u32(pfn.base().plus(u64::from(offset)), word);
    }
}
