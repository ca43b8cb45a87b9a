//! One level of an architectural TLB: translations of 4 KiB and large pages in sets and ways (decision D6).
//!
//! Large pages have 2 MiB or 4 MiB by paging mode, never both at a time: a change of mode empties every TLB. A page of 4
//! MiB takes one entry where one of 2 MiB would (AMD's processors give it two, which is left out). Large pages lie in entries of their own, share the small ones, or are broken into 4 KiB pieces, as the geometry says.
//! A slot number counts the small table first, then the large one. No counting and no rights here.
//!
//! Invariant: after [`Tlb::invalidate`] of an address no entry translates it, whatever its size, and no piece of a broken
//! large page that holds it is left.

use crate::addr::{Region, VirtAddr};
use crate::entry::TlbEntry;
use crate::sets::SetTable;
use lowmem_cost::geometry::{LargePages, Replacement, SetAssoc};

/// Where large pages go.
#[derive(Debug, Clone)]
enum Large {
    Separate(SetTable),
    Shared,
    Fragment,
    /// Not held here (a second level for 4 KiB pages only).
    Refused,
}

/// A table of translations.
#[derive(Debug, Clone)]
pub(crate) struct Tlb {
    small: SetTable,
    large: Large,
    entries: Box<[TlbEntry]>,
    /// A piece of a large page was ever kept: invalidation must look for its neighbours.
    has_pieces: bool,
    region: Region,
}

impl Tlb {
    pub(crate) fn new(small: SetAssoc, large: LargePages, replacement: Replacement) -> Tlb {
        let table = |g: SetAssoc| SetTable::new(g.entries, g.ways, replacement);
        let large = match large {
            LargePages::Separate(g) => Large::Separate(table(g)),
            LargePages::Shared => Large::Shared,
            LargePages::Fragment4k => Large::Fragment,
        };
        Self::build(table(small), large)
    }

    /// A second level, which holds 4 KiB pages (and pieces) only.
    pub(crate) fn second(small: SetAssoc, replacement: Replacement) -> Tlb {
        let small = SetTable::new(small.entries, small.ways, replacement);
        Self::build(small, Large::Refused)
    }

    fn build(small: SetTable, large: Large) -> Tlb {
        let extra = match &large {
            Large::Separate(t) => t.len(),
            Large::Shared | Large::Fragment | Large::Refused => 0,
        };
        Tlb {
            entries: vec![TlbEntry::default(); small.len() + extra].into(),
            small,
            large,
            has_pieces: false,
            region: Region::Mib2,
        }
    }

    /// Number of slots.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The slot that translates `va`.
    pub(crate) fn find(&self, va: VirtAddr) -> Option<u32> {
        self.find_where(va, |_| true)
    }

    /// The first slot that translates `va` and pleases `accept`.
    #[inline]
    pub(crate) fn find_where(&self, va: VirtAddr, accept: impl Fn(u32) -> bool) -> Option<u32> {
        let set = self.small.set_of(va.vpn());
        let small = self.small.find_where(set, va.vpn(), &accept);
        small.or_else(|| self.find_large(va, &accept))
    }

    fn find_large(&self, va: VirtAddr, accept: &impl Fn(u32) -> bool) -> Option<u32> {
        let region = self.region.of(va);
        let key = self.region.key(va);
        match &self.large {
            Large::Separate(t) => {
                let first = self.small.len() as u32;
                let slot = t.find_where(t.set_of(region), key, |s| accept(s + first))?;
                Some(slot + first)
            }
            Large::Shared => {
                let set = self.small.set_of(region);
                self.small.find_where(set, key, accept)
            }
            Large::Fragment | Large::Refused => None,
        }
    }

    /// Another slot with the key of `slot` that pleases `accept`.
    pub(crate) fn find_like(&self, slot: u32, accept: impl Fn(u32) -> bool) -> Option<u32> {
        let other = |s: u32| s != slot && accept(s);
        match &self.large {
            Large::Separate(t) if slot as usize >= self.small.len() => {
                let first = self.small.len() as u32;
                let found = t.find_like(slot - first, |s| other(s + first))?;
                Some(found + first)
            }
            _ => self.small.find_like(slot, other),
        }
    }

    /// What is kept in a slot.
    #[inline(always)]
    pub(crate) fn entry(&self, slot: u32) -> TlbEntry {
        self.entries[slot as usize]
    }

    /// Replaces what is kept in a slot, for a page of the same size.
    pub(crate) fn set_entry(&mut self, slot: u32, entry: TlbEntry) {
        self.entries[slot as usize] = entry;
    }

    /// The key in a slot, to recognise later that it still holds the same page.
    #[inline(always)]
    pub(crate) fn key(&self, slot: u32) -> u32 {
        match &self.large {
            Large::Separate(t) if slot as usize >= self.small.len() => {
                t.tag(slot - self.small.len() as u32)
            }
            _ => self.small.tag(slot),
        }
    }

    /// Records a use.
    #[inline(always)]
    pub(crate) fn touch(&mut self, slot: u32) {
        match &mut self.large {
            Large::Separate(t) if slot as usize >= self.small.len() => {
                t.touch(slot - self.small.len() as u32);
            }
            _ => self.small.touch(slot),
        }
    }

    /// Keeps a translation of `va`. Gives its slot and the entry as kept (a piece of a large page, say), or nothing if
    /// this level does not hold such pages.
    pub(crate) fn insert(&mut self, va: VirtAddr, entry: TlbEntry) -> Option<(u32, TlbEntry)> {
        let (region, key) = (self.region.of(va), self.region.key(va));
        let (slot, entry) = match (&mut self.large, entry.has(TlbEntry::LARGE)) {
            (Large::Separate(t), true) => {
                let slot = t.insert(t.set_of(region), key);
                (slot + self.small.len() as u32, entry)
            }
            (Large::Shared, true) => {
                let set = self.small.set_of(region);
                (self.small.insert(set, key), entry)
            }
            (Large::Refused, true) => return None,
            (Large::Fragment, true) => {
                let set = self.small.set_of(va.vpn());
                (self.small.insert(set, va.vpn()), entry.fragment(va))
            }
            (_, false) => {
                let set = self.small.set_of(va.vpn());
                (self.small.insert(set, va.vpn()), entry)
            }
        };
        self.entries[slot as usize] = entry;
        self.has_pieces |= entry.has(TlbEntry::FRAGMENT);
        Some((slot, entry))
    }

    /// Empties a slot.
    pub(crate) fn clear(&mut self, slot: u32) {
        match &mut self.large {
            Large::Separate(t) if slot as usize >= self.small.len() => {
                t.clear(slot - self.small.len() as u32);
            }
            _ => self.small.clear(slot),
        }
    }

    /// Drops every entry for `va`, global ones too.
    pub(crate) fn invalidate(&mut self, va: VirtAddr) {
        while let Some(slot) = self.find(va) {
            self.clear(slot);
        }
        // The piece that holds `va` need not be there while others of its page are.
        if self.has_pieces {
            self.invalidate_fragments(va);
        }
    }

    fn invalidate_fragments(&mut self, va: VirtAddr) {
        let pieces: Vec<u32> = self
            .small
            .filled()
            .filter(|&s| {
                let piece = self.entries[s as usize].has(TlbEntry::FRAGMENT);
                piece && self.region.of_page(self.small.tag(s)) == self.region.of(va)
            })
            .collect();
        for slot in pieces {
            self.small.clear(slot);
        }
    }

    /// Drops everything; from now on large pages cover `region`.
    pub(crate) fn reset(&mut self, region: Region) {
        self.flush(|_, _| false);
        self.region = region;
    }

    /// What large pages cover.
    pub(crate) fn region(&self) -> Region {
        self.region
    }

    /// Drops every entry that `keep` does not want.
    pub(crate) fn flush(&mut self, keep: impl Fn(u32, TlbEntry) -> bool) {
        let (entries, first) = (&self.entries, self.small.len() as u32);
        self.small.flush(|slot| keep(slot, entries[slot as usize]));
        if let Large::Separate(t) = &mut self.large {
            t.flush(|s| keep(s + first, entries[(s + first) as usize]));
        }
    }

    /// The filled slots.
    pub(crate) fn filled(&self) -> impl Iterator<Item = u32> + '_ {
        let first = self.small.len() as u32;
        let large = match &self.large {
            Large::Separate(t) => Some(t),
            _ => None,
        };
        let large = large
            .into_iter()
            .flat_map(move |t| t.filled().map(move |s| s + first));
        self.small.filled().chain(large)
    }
}
