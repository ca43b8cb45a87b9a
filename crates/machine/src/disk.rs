//! How long a disk needs for a list of page writes: one seek and half a revolution wherever the next page is not the one behind the last,
//! and one transfer a page.
//!
//! The numbers are the preset's (`disk.*`). Every file lies in one piece; which file is where does not matter, because
//! every seek takes the average time (short seeks are shorter: an assumption that makes all disorder cost alike). The disk
//! works in the order of submission, as with the noop elevator, or in the order of file and page within windows of so
//! many requests as a queue holds, which is what an elevator of 2.6 could make of them at best. Left out: the
//! disk's own cache, reads between the writes, journals.
//!
//! Invariant: the same pages in file-offset order never need longer than in any other order.

use crate::device::FilePage;
use lowmem_cost::{DiskKey, Preset};

/// A disk in three lines, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskModel {
    /// Average seek.
    pub seek_us: u64,
    /// Half a revolution.
    pub rotation_us: u64,
    /// Transfer of one page of 4 KB.
    pub page_us: u64,
}

impl DiskModel {
    /// The disk of a preset.
    pub fn of(preset: &Preset) -> Self {
        Self {
            seek_us: preset.disk_us(DiskKey::Seek),
            rotation_us: preset.disk_us(DiskKey::Rotation),
            page_us: preset.disk_us(DiskKey::Page),
        }
    }
}

/// In which order the disk takes what is in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elevator {
    /// As submitted.
    Noop,
    /// Sorted within each window of so many pages.
    Sorted(usize),
}

/// What the writes of a log come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskTime {
    /// Pages written.
    pub pages: u64,
    /// Times the head had to move.
    pub seeks: u64,
    /// Microseconds.
    pub us: u64,
}

impl DiskModel {
    /// What `log` takes.
    pub fn time(&self, log: &[FilePage], elevator: Elevator) -> DiskTime {
        let sorted;
        let order = match elevator {
            Elevator::Noop => log,
            Elevator::Sorted(window) => {
                let mut pages = log.to_vec();
                for part in pages.chunks_mut(window.max(1)) {
                    part.sort_unstable();
                }
                sorted = pages;
                &sorted
            }
        };
        let mut time = DiskTime::default();
        let mut head = None;
        for page in order {
            time.pages += 1;
            if head != Some((page.file, page.index)) {
                time.seeks += 1;
                time.us += self.seek_us + self.rotation_us;
            }
            time.us += self.page_us;
            head = page.index.checked_add(1).map(|next| (page.file, next));
        }
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowmem_trace::retouch::mix;
    use std::collections::BTreeSet;

    const DISK: DiskModel = DiskModel {
        seek_us: 8_500,
        rotation_us: 4_160,
        page_us: 71,
    };

    fn log(pages: &[(u32, u32)]) -> Vec<FilePage> {
        pages
            .iter()
            .map(|&(file, index)| FilePage { file, index })
            .collect()
    }

    #[test]
    fn a_run_is_one_seek() {
        let run = DISK.time(&log(&[(1, 4), (1, 5), (1, 6)]), Elevator::Noop);
        assert_eq!(
            (run.pages, run.seeks, run.us),
            (3, 1, 8_500 + 4_160 + 3 * 71)
        );
        let mixed = log(&[(1, 4), (2, 5), (1, 5), (2, 6)]);
        assert_eq!(DISK.time(&mixed, Elevator::Noop).seeks, 4);
        assert_eq!(DISK.time(&mixed, Elevator::Sorted(4)).seeks, 2);
        assert_eq!(DISK.time(&mixed, Elevator::Sorted(2)).seeks, 4);
    }

    #[test]
    fn file_order_is_never_slower() {
        for seed in 0..200u64 {
            let drawn: BTreeSet<(u32, u32)> = (0..mix(seed, 0, 0) as u32 % 60)
                .map(|i| {
                    let r = mix(seed, u64::from(i), 1);
                    ((r % 3) as u32, (r >> 32) as u32 % 40)
                })
                .collect();
            let mut shuffled: Vec<_> = drawn.into_iter().collect();
            shuffled.sort_by_key(|&(file, i)| mix(seed, (u64::from(file) << 32) | u64::from(i), 2));
            let shuffled = log(&shuffled);
            let noop = DISK.time(&shuffled, Elevator::Noop);
            let sorted = DISK.time(&shuffled, Elevator::Sorted(shuffled.len()));
            assert!(sorted.us <= noop.us, "{shuffled:?}");
            assert_eq!(sorted.pages, noop.pages);
        }
    }
}
