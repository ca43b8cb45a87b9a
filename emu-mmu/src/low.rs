//! Low memory: one lazily backed host mapping inside a 4 GiB reservation (decision D9).
//!
//! A memfd is mapped shared at the start of 4 GiB (and a little) of inaccessible address space, so that natively run
//! guest code, which adds a 32-bit guest offset to [`LowMem::base`], can only fault, never reach the host. A *clone* maps
//! the same file copy-on-write; dropping its private pages brings the original content back in time proportional to what
//! it dirtied. The original must stand still while such clones live: its later writes would show through.
//!
//! Linux on a 64-bit host only. Invariant: `base .. base + bytes` is readable and writable memory for the whole life of
//! the value, the rest of the reservation never is.

use crate::phys::PhysError;
use rustix::fs::{MemfdFlags, SeekFrom};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// Reserved address space: every `base + u32`, and an access of up to 16 bytes there.
const RESERVED_BYTES: usize = (1 << 32) + (1 << 16);
const PAGE: usize = 4096;
/// Bit 61 of a `/proc/self/pagemap` entry: page of a file or shared memory (Linux, admin-guide/mm/pagemap).
const PAGEMAP_FILE: u64 = 1 << 61;
/// Bits 63 and 62: present, swapped.
const PAGEMAP_POPULATED: u64 = 3 << 62;

/// Whose content the mapping shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backing {
    /// Mapped shared: the memfd is the content.
    Original,
    /// Mapped private over the memfd.
    Clone,
}

/// The mapping of low memory.
#[derive(Debug)]
pub(crate) struct LowMem {
    base: NonNull<u8>,
    bytes: usize,
    file: Arc<OwnedFd>,
    backing: Backing,
}

// SAFETY: the mapping belongs to this value alone, has no thread affinity, and is changed only through `&mut self` or by
// native guest code whose caller holds the machine.
unsafe impl Send for LowMem {}
// SAFETY: `&self` only reads; no interior mutability.
unsafe impl Sync for LowMem {}

impl LowMem {
    /// `bytes` of zeroes (a multiple of the page size, at most 4 GiB).
    pub(crate) fn new(bytes: u64) -> Result<LowMem, PhysError> {
        let file = new_file(bytes)?;
        Self::map(Arc::new(file), bytes as usize, Backing::Original)
    }

    fn map(file: Arc<OwnedFd>, bytes: usize, backing: Backing) -> Result<LowMem, PhysError> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                RESERVED_BYTES,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|e| host("reserve", RESERVED_BYTES as u64, e.into()))?;
        let base = NonNull::new(base.cast::<u8>()).expect("mmap never returns address 0 unasked");
        let low = LowMem {
            base,
            bytes,
            file,
            backing,
        };
        if bytes != 0 {
            let kind = match backing {
                Backing::Original => MapFlags::SHARED,
                Backing::Clone => MapFlags::PRIVATE,
            };
            // SAFETY: replaces the first `bytes` of the reservation made above, which nobody uses yet.
            unsafe {
                rustix::mm::mmap(
                    base.as_ptr().cast(),
                    bytes,
                    ProtFlags::READ | ProtFlags::WRITE,
                    kind | MapFlags::FIXED | MapFlags::NORESERVE,
                    &low.file,
                    0,
                )
            }
            .map_err(|e| host("map", bytes as u64, e.into()))?;
        }
        Ok(low)
    }

    /// Host address of guest-physical 0.
    #[inline(always)]
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// A copy-on-write copy. Of an original it costs one mapping; of a clone, a copy of every page that has content.
    pub(crate) fn clone_cow(&self) -> Result<LowMem, PhysError> {
        match self.backing {
            Backing::Original => Self::map(self.file.clone(), self.bytes, Backing::Clone),
            Backing::Clone => {
                let mut copy = LowMem::new(self.bytes as u64)?;
                let in_file = file_ranges(&self.file, self.bytes)
                    .map_err(|e| host("list", self.bytes as u64, e))?;
                let private = self.private_pages()?;
                let pages = in_file.into_iter().flatten().chain(private);
                for page in pages {
                    copy.page_mut(page).copy_from_slice(self.page(page));
                }
                Self::map(copy.file.clone(), self.bytes, Backing::Clone)
            }
        }
    }

    /// True if this is a clone, which can be [`LowMem::reset`].
    pub(crate) fn is_clone(&self) -> bool {
        self.backing == Backing::Clone
    }

    /// Drops everything a clone has written.
    pub(crate) fn reset(&mut self) {
        assert!(self.is_clone(), "only a clone can be reset");
        if self.bytes == 0 {
            return;
        }
        // SAFETY: the range is ours, mapped private: its private pages go, the file's content shows again. No reference
        // into it is alive, because `&mut self` is held.
        unsafe {
            rustix::mm::madvise(self.base.as_ptr().cast(), self.bytes, Advice::LinuxDontNeed)
        }
        .expect("madvise on our own private mapping succeeds");
    }

    /// Host memory used: blocks of the memfd for an original, private pages for a clone.
    pub(crate) fn resident_bytes(&self) -> u64 {
        match self.backing {
            Backing::Original => {
                rustix::fs::fstat(&*self.file).map_or(0, |s| s.st_blocks as u64 * 512)
            }
            Backing::Clone => self
                .private_pages()
                .map_or(0, |p| p.len() as u64 * PAGE as u64),
        }
    }

    /// Numbers of the pages that may hold anything but zeroes, ascending. Reading the others would make the host back
    /// them.
    pub(crate) fn touched_pages(&self) -> Vec<usize> {
        let ranges = file_ranges(&self.file, self.bytes)
            .unwrap_or_else(|_| std::iter::once(0..self.bytes / PAGE).collect());
        let mut pages: Vec<usize> = ranges.into_iter().flatten().collect();
        if self.is_clone() {
            match self.private_pages() {
                Ok(private) => pages.extend(private),
                Err(_) => pages.extend(0..self.bytes / PAGE),
            }
            pages.sort_unstable();
            pages.dedup();
        }
        pages
    }

    /// Pages a clone has copied by writing to them.
    fn private_pages(&self) -> Result<Vec<usize>, PhysError> {
        let read = || -> std::io::Result<Vec<usize>> {
            let mut pagemap = File::open("/proc/self/pagemap")?;
            let first = self.base.as_ptr() as u64 / PAGE as u64;
            pagemap.seek(std::io::SeekFrom::Start(first * 8))?;
            let mut raw = vec![0; self.bytes / PAGE * 8];
            pagemap.read_exact(&mut raw)?;
            let entries = raw.chunks_exact(8).enumerate();
            Ok(entries
                .filter(|(_, e)| {
                    let e = u64::from_le_bytes((*e).try_into().expect("chunks of 8"));
                    e & PAGEMAP_POPULATED != 0 && e & PAGEMAP_FILE == 0
                })
                .map(|(i, _)| i)
                .collect())
        };
        read().map_err(|e| host("list", self.bytes as u64, e))
    }

    /// The bytes of a page.
    #[inline]
    pub(crate) fn page(&self, page: usize) -> &[u8; PAGE] {
        assert!((page + 1) * PAGE <= self.bytes);
        // SAFETY: inside the mapping (asserted); readable for the life of `self`.
        unsafe { &*self.base.as_ptr().add(page * PAGE).cast() }
    }

    /// The bytes of a page, to change.
    #[inline]
    pub(crate) fn page_mut(&mut self, page: usize) -> &mut [u8; PAGE] {
        assert!((page + 1) * PAGE <= self.bytes);
        // SAFETY: as `page`; exclusive through `&mut self`.
        unsafe { &mut *self.base.as_ptr().add(page * PAGE).cast() }
    }

    /// Copies one low page to another.
    pub(crate) fn copy_page(&mut self, to: usize, from: usize) {
        assert!((to.max(from) + 1) * PAGE <= self.bytes);
        let base = self.base.as_ptr();
        // SAFETY: both pages lie in the mapping (asserted); `copy` allows them to be the same.
        unsafe { std::ptr::copy(base.add(from * PAGE), base.add(to * PAGE), PAGE) }
    }

    /// Reads `N` bytes at an offset.
    #[inline(always)]
    pub(crate) fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        debug_assert!(at + N <= self.bytes);
        // SAFETY: the caller checked `at + N <= bytes`; byte arrays have no alignment.
        unsafe { self.base.as_ptr().add(at).cast::<[u8; N]>().read() }
    }

    /// Writes `N` bytes at an offset.
    #[inline(always)]
    pub(crate) fn write<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        debug_assert!(at + N <= self.bytes);
        // SAFETY: as `read`; exclusive through `&mut self`.
        unsafe { self.base.as_ptr().add(at).cast::<[u8; N]>().write(value) }
    }
}

impl Drop for LowMem {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly the reservation made in `map`; no borrow outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), RESERVED_BYTES) };
    }
}

fn new_file(bytes: u64) -> Result<OwnedFd, PhysError> {
    let file = rustix::fs::memfd_create("guest-low-memory", MemfdFlags::CLOEXEC)
        .map_err(|e| host("create a file of", bytes, e.into()))?;
    rustix::fs::ftruncate(&file, bytes).map_err(|e| host("size a file to", bytes, e.into()))?;
    Ok(file)
}

/// Ranges of pages of the memfd that have been allocated.
fn file_ranges(file: &OwnedFd, bytes: usize) -> std::io::Result<Vec<Range<usize>>> {
    let (mut ranges, mut at) = (Vec::new(), 0u64);
    while at < bytes as u64 {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        ranges.push(start as usize / PAGE..(at as usize).div_ceil(PAGE));
    }
    Ok(ranges)
}

fn host(what: &'static str, bytes: u64, source: std::io::Error) -> PhysError {
    PhysError::Host {
        what,
        bytes,
        source,
    }
}
