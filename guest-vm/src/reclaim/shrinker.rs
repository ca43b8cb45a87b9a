//! shrink_slab (mm/vmscan.c) and the one shrinker there is: files nobody uses (fs/dcache.c, fs/inode.c).
//!
//! Pressure on slab follows that on the LRU: of each shrinker's objects the share `4 * scanned / seeks / lru pages`, in batches of 128.
//! The rebuilt kernel keeps one struct file, dentry and inode for every file of the trace. One that nobody maps stands for a dentry and
//! an inode on their unused lists and counts as an object of the shrinker; if no page of it is cached either, it is freed when it
//! is looked at, and made again at its next use. The number of such objects is kept, as in dentry_stat and inodes_stat, not
//! counted: to ask for it costs a load.
//! Left out: the second chance of DCACHE_REFERENCED, quota and other shrinkers.
//!
//! Invariant: a file that is freed has no page, no vma and no reference but the table's.

use super::state;
use crate::file;
use crate::kernel::Kernel;
use crate::page_alloc::zone;
use crate::page_alloc::zone::MAX_NR_ZONES;
use crate::percpu::{State, mod_page_state};

/// SHRINK_BATCH.
const BATCH: u32 = 128;
/// DEFAULT_SEEKS: what making an object again costs.
const SEEKS: u32 = 2;

/// shrink_slab after `scanned` pages were looked at.
pub fn shrink_slab<K: Kernel>(k: K, scanned: u32) {
    let mut lru = 1;
    let mut kind = 0;
    while kind < MAX_NR_ZONES {
        let z = zone::node(k).zone(k, kind);
        lru += z.nr_active(k) + z.nr_inactive(k);
        kind += 1;
    }
    let s = state(k);
    let delta = super::scan::mul_div(4 * (scanned / SEEKS), s.nr_unused(k), lru);
    let owed = s.shrinker_nr(k).saturating_add(delta);
    // 2.6.7 keeps what is not a whole batch for later.
    if owed <= BATCH {
        s.set_shrinker_nr(k, owed);
        return;
    }
    let mut left = owed;
    while left > 0 {
        let n = left.min(BATCH);
        let hand = file::prune(k, s.shrinker_hand(k), n);
        s.set_shrinker_hand(k, hand);
        mod_page_state(k, State::SlabsScanned, n);
        left -= n;
        if s.nr_unused(k) == 0 {
            break;
        }
    }
    s.set_shrinker_nr(k, left);
}
