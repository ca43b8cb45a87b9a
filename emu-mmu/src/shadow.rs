//! The shadow TLB: what a TLB of the same geometry would hold without the split's CR3 loads (decision D7).
//!
//! It sees every access and invlpg. Its entries are tagged by page-table root, because without flushes two roots' entries
//! lie side by side; global ones match any root. Its user entries go when the running mm changes and at every CR3 load
//! that is not the split's; supervisor entries then stay, as global pages would, and pass to the new root. A global flush
//! empties it. It never walks: on its own miss it takes what the real side found.
//!
//! Only the first level is shadowed; the classes split first-level misses. A page is *cold* until a translation of it was
//! first kept, so a faulting first touch and its retry both count as cold.
//!
//! Invariant: misses - shadow misses = flush + remap - spared; under one root a page is held at most once, so that a way to its slot
//! ([`crate::host_tlb`]) and a search find the same.

use crate::addr::{Region, VirtAddr};
use crate::entry::TlbEntry;
use crate::tlb::Tlb;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Root tag of a global entry.
const ANY_ROOT: u32 = u32::MAX;

/// The class of a real miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    /// The shadow holds the page with the same pte: lost to the split's flushes.
    Flush,
    /// The shadow holds another pte.
    Remap,
    /// Neither ever held it.
    Cold,
    /// Both have lost it.
    Capacity,
}

/// A shadow of one first-level TLB.
#[derive(Debug, Clone)]
pub(crate) struct Shadow {
    tlb: Tlb,
    roots: Box<[u32]>,
    root: u32,
    mm: u32,
    seen: Seen,
    misses: u64,
}

impl Shadow {
    /// `tlb` is empty and of the real one's geometry.
    pub(crate) fn new(tlb: Tlb) -> Shadow {
        Shadow {
            roots: vec![ANY_ROOT; tlb.len()].into(),
            tlb,
            root: 0,
            mm: 0,
            seen: Seen::default(),
            misses: 0,
        }
    }

    /// Its own misses.
    pub(crate) fn misses(&self) -> u64 {
        self.misses
    }

    /// The key in a slot, if it counts under the present root.
    #[inline(always)]
    pub(crate) fn key(&self, slot: u32) -> Option<u32> {
        self.visible(slot).then(|| self.tlb.key(slot))
    }

    /// Records a use.
    #[inline(always)]
    pub(crate) fn touch(&mut self, slot: u32) {
        self.tlb.touch(slot);
    }

    #[inline(always)]
    fn visible(&self, slot: u32) -> bool {
        let root = self.roots[slot as usize];
        root == self.root || root == ANY_ROOT
    }

    fn find(&self, va: VirtAddr) -> Option<u32> {
        self.tlb.find_where(va, |slot| self.visible(slot))
    }

    /// True if `va` is held. Changes nothing.
    pub(crate) fn holds(&self, va: VirtAddr) -> bool {
        self.find(va).is_some()
    }

    /// The real TLB hit. Gives the slot, and whether this one would have missed (*spared*).
    pub(crate) fn real_hit(&mut self, va: VirtAddr, entry: TlbEntry) -> (u32, Spared) {
        match self.find(va) {
            Some(slot) => {
                self.tlb.touch(slot);
                (slot, Spared::No)
            }
            None => {
                self.misses += 1;
                (self.insert(va, entry), Spared::Yes)
            }
        }
    }

    /// The real TLB missed and then found `outcome`, or a fault. Gives the class, and the slot if there was no fault.
    pub(crate) fn real_miss(
        &mut self,
        va: VirtAddr,
        outcome: Option<TlbEntry>,
    ) -> (Miss, Option<u32>) {
        match (self.find(va), outcome) {
            (Some(slot), Some(entry)) if self.tlb.entry(slot).same_page(entry) => {
                self.tlb.touch(slot);
                (Miss::Flush, Some(slot))
            }
            (Some(slot), outcome) => {
                self.tlb.clear(slot);
                (Miss::Remap, outcome.map(|entry| self.insert(va, entry)))
            }
            (None, Some(entry)) => {
                self.misses += 1;
                let class = self.first_time(va, entry);
                (class, Some(self.insert(va, entry)))
            }
            (None, None) => {
                self.misses += 1;
                let known = [self.mm.wrapping_add(1), 0];
                let known = known.iter().any(|&s| self.seen.contains(s, va.vpn()));
                (if known { Miss::Capacity } else { Miss::Cold }, None)
            }
        }
    }

    fn first_time(&mut self, va: VirtAddr, entry: TlbEntry) -> Miss {
        let space = if entry.has(TlbEntry::U) {
            self.mm.wrapping_add(1)
        } else {
            0
        };
        let page = if entry.has(TlbEntry::LARGE) {
            self.tlb.region().key(va)
        } else {
            va.vpn()
        };
        if self.seen.insert(space, page) {
            Miss::Cold
        } else {
            Miss::Capacity
        }
    }

    fn insert(&mut self, va: VirtAddr, entry: TlbEntry) -> u32 {
        if entry.has(TlbEntry::G) {
            // It is seen under every root: what other roots had there must not be seen beside it.
            self.tlb.invalidate(va);
        }
        let (slot, _) = self
            .tlb
            .insert(va, entry)
            .expect("a first level holds every page size");
        self.roots[slot as usize] = if entry.has(TlbEntry::G) {
            ANY_ROOT
        } else {
            self.root
        };
        slot
    }

    /// The split's own CR3 load: only the root changes.
    pub(crate) fn load_split(&mut self, root: u32) {
        self.root = root;
    }

    /// Any other CR3 load: user entries go, supervisor entries pass to the new root.
    pub(crate) fn load_other(&mut self, root: u32) {
        self.flush_user();
        if root != self.root {
            let old = std::mem::replace(&mut self.root, root);
            let slots: Vec<u32> = self.tlb.filled().collect();
            for slot in slots {
                if self.roots[slot as usize] != old {
                    continue;
                }
                if self.tlb.find_like(slot, |s| self.visible(s)).is_some() {
                    // The new root has this page already.
                    self.tlb.clear(slot);
                } else {
                    self.roots[slot as usize] = root;
                }
            }
        }
    }

    /// Another mm runs from now on.
    pub(crate) fn set_running_mm(&mut self, mm: u32) {
        if self.mm != mm {
            self.mm = mm;
            self.flush_user();
        }
    }

    fn flush_user(&mut self) {
        self.tlb.flush(|_, entry| !entry.has(TlbEntry::U));
    }

    /// Empties it; from now on large pages cover `region`.
    pub(crate) fn flush_all(&mut self, region: Region) {
        self.tlb.reset(region);
    }

    /// invlpg, or a #PF: drops `va` under every root.
    pub(crate) fn invalidate(&mut self, va: VirtAddr) {
        self.tlb.invalidate(va);
    }

    /// Forgets which pages of an mm were ever seen: it is gone, its id may be used again.
    pub(crate) fn forget_mm(&mut self, mm: u32) {
        self.seen.forget(mm.wrapping_add(1));
    }
}

/// Whether a real hit would have been a miss of the shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spared {
    /// It would have missed.
    Yes,
    /// It hit as well.
    No,
}

/// The pages ever kept, by address space (0: the kernel's).
#[derive(Debug, Clone, Default)]
struct Seen(HashMap<u64, [u64; 8], BuildHasherDefault<Mix>>);

impl Seen {
    fn place(space: u32, page: u32) -> (u64, usize, u64) {
        let key = u64::from(space) << 32 | u64::from(page >> 9);
        (key, (page >> 6 & 7) as usize, 1 << (page & 63))
    }

    /// True if it is new.
    fn insert(&mut self, space: u32, page: u32) -> bool {
        let (key, word, bit) = Self::place(space, page);
        let word = &mut self.0.entry(key).or_default()[word];
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn contains(&self, space: u32, page: u32) -> bool {
        let (key, word, bit) = Self::place(space, page);
        self.0.get(&key).is_some_and(|chunk| chunk[word] & bit != 0)
    }

    fn forget(&mut self, space: u32) {
        for chunk in 0..1u64 << 12 {
            self.0.remove(&(u64::from(space) << 32 | chunk));
        }
    }
}

/// Multiplicative hash of one integer; nothing depends on its order.
#[derive(Debug, Clone, Copy, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u64(&mut self, n: u64) {
        // 2^64 / golden ratio; the high half decides, so it is folded down.
        let h = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = h ^ h >> 32;
    }
}
