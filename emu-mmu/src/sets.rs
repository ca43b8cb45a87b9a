//! The set-associative table under every TLB and cache here: tags, sets of any count, ways of any count, replacement.
//!
//! Payload lies beside it, in arrays of the owner indexed by *slot* (set times ways plus way). True LRU keeps a time stamp
//! per slot, tree pseudo-LRU one tree of bits per set (up to 64 ways, a power of two; otherwise LRU is used, as
//! [`Replacement`] says). An empty way is filled before any is given up. Flushing costs in proportion to what was filled
//! since the last flush. Emptying a slot leaves the replacement state alone.
//!
//! Invariant: a key is in its set at most once, unless the owner inserts it twice on purpose (the shadow TLB does, under
//! different roots).

use lowmem_cost::geometry::Replacement;

/// Tag of an empty slot; no key has this value.
pub(crate) const EMPTY: u32 = u32::MAX;

/// Ways of a large set that are compared together.
const GROUP: usize = 16;

/// Tags and replacement state.
#[derive(Debug, Clone)]
pub(crate) struct SetTable {
    tags: Box<[u32]>,
    ways: u32,
    index: Index,
    recency: Recency,
    filled: Filled,
}

/// How a key chooses its set.
#[derive(Debug, Clone, Copy)]
enum Index {
    Mask(u32),
    Modulo(u32),
}

#[derive(Debug, Clone)]
enum Recency {
    Lru {
        stamps: Box<[u64]>,
        clock: u64,
    },
    /// Heap-ordered trees; a set bit says the right half is the older. `paths[way]` = (bits kept, bits set) by a use.
    Plru {
        trees: Box<[u64]>,
        paths: Box<[(u64, u64)]>,
        shift: u32,
    },
}

/// Which slots may hold something.
#[derive(Debug, Clone)]
enum Filled {
    Some(Vec<u32>),
    Any,
}

impl SetTable {
    /// A table of `entries / ways` sets. `ways` must divide `entries`, neither may be 0.
    pub(crate) fn new(entries: u32, ways: u32, replacement: Replacement) -> SetTable {
        assert!(ways > 0 && entries > 0 && entries.is_multiple_of(ways));
        let sets = entries / ways;
        let tree = replacement == Replacement::Plru && ways.is_power_of_two() && ways <= 64;
        let recency = if tree {
            Recency::Plru {
                trees: vec![0; sets as usize].into(),
                paths: (0..ways).map(|w| plru_path(w, ways)).collect(),
                shift: ways.trailing_zeros(),
            }
        } else {
            Recency::Lru {
                stamps: vec![0; entries as usize].into(),
                clock: 0,
            }
        };
        SetTable {
            tags: vec![EMPTY; entries as usize].into(),
            ways,
            index: if sets.is_power_of_two() {
                Index::Mask(sets - 1)
            } else {
                Index::Modulo(sets)
            },
            recency,
            filled: Filled::Some(Vec::new()),
        }
    }

    /// Number of slots.
    pub(crate) fn len(&self) -> usize {
        self.tags.len()
    }

    /// The set of an index value (low bits or remainder).
    #[inline(always)]
    pub(crate) fn set_of(&self, index: u32) -> u32 {
        match self.index {
            Index::Mask(mask) => index & mask,
            Index::Modulo(sets) => index % sets,
        }
    }

    /// The tag in a slot, [`EMPTY`] if none.
    #[inline(always)]
    pub(crate) fn tag(&self, slot: u32) -> u32 {
        self.tags[slot as usize]
    }

    /// The slot of `key` in `set`.
    #[inline(always)]
    pub(crate) fn find(&self, set: u32, key: u32) -> Option<u32> {
        self.find_where(set, key, |_| true)
    }

    /// The first slot of `key` in `set` that pleases `accept`.
    #[inline(always)]
    pub(crate) fn find_where(
        &self,
        set: u32,
        key: u32,
        accept: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let first = set * self.ways;
        let tags = &self.tags[first as usize..(first + self.ways) as usize];
        let (groups, rest) = tags.as_chunks::<GROUP>();
        let mut slot = first;
        for group in groups {
            // Compared all at once; a match is rare, so finding out which comes second.
            let hits = group
                .iter()
                .fold(0u32, |hits, &t| hits + u32::from(t == key));
            if hits != 0 {
                let found = (slot..).zip(group);
                let mut found = found.filter(|&(s, &t)| t == key && accept(s));
                if let Some((s, _)) = found.next() {
                    return Some(s);
                }
            }
            slot += GROUP as u32;
        }
        let mut rest = (slot..).zip(rest);
        rest.find(|&(s, &t)| t == key && accept(s)).map(|(s, _)| s)
    }

    /// A slot in the set of `slot`, with its key, that pleases `accept`.
    pub(crate) fn find_like(&self, slot: u32, accept: impl Fn(u32) -> bool) -> Option<u32> {
        self.find_where(slot / self.ways, self.tag(slot), accept)
    }

    /// Records a use of a slot.
    #[inline(always)]
    pub(crate) fn touch(&mut self, slot: u32) {
        match &mut self.recency {
            Recency::Lru { stamps, clock } => {
                *clock += 1;
                stamps[slot as usize] = *clock;
            }
            Recency::Plru {
                trees,
                paths,
                shift,
            } => {
                let (keep, set) = paths[(slot & ((1 << *shift) - 1)) as usize];
                let tree = &mut trees[(slot >> *shift) as usize];
                *tree = *tree & keep | set;
            }
        }
    }

    /// Puts `key` in an empty way of `set`, or in place of the oldest; uses it. Gives the slot.
    pub(crate) fn insert(&mut self, set: u32, key: u32) -> u32 {
        debug_assert_ne!(key, EMPTY);
        let slot = match self.find(set, EMPTY) {
            Some(slot) => {
                if let Filled::Some(list) = &mut self.filled {
                    list.push(slot);
                    if list.len() > self.tags.len() / 2 {
                        self.filled = Filled::Any;
                    }
                }
                slot
            }
            None => self.oldest(set),
        };
        self.tags[slot as usize] = key;
        self.touch(slot);
        slot
    }

    /// The slot whose content the next insertion into `set` gives up, if it gives one up.
    pub(crate) fn victim(&self, set: u32) -> Option<u32> {
        self.find(set, EMPTY).is_none().then(|| self.oldest(set))
    }

    fn oldest(&self, set: u32) -> u32 {
        let first = set * self.ways;
        match &self.recency {
            Recency::Lru { stamps, .. } => {
                let stamps = &stamps[first as usize..(first + self.ways) as usize];
                let least = stamps.iter().copied().fold(u64::MAX, u64::min);
                let way = stamps.iter().position(|&s| s == least);
                first + way.expect("a set has at least one way") as u32
            }
            Recency::Plru { trees, .. } => {
                let tree = trees[set as usize];
                let mut node = 1;
                while node < self.ways {
                    node = 2 * node + (tree >> node & 1) as u32;
                }
                first + node - self.ways
            }
        }
    }

    /// Empties a slot.
    #[inline]
    pub(crate) fn clear(&mut self, slot: u32) {
        self.tags[slot as usize] = EMPTY;
    }

    /// Empties every filled slot that `keep` does not want.
    pub(crate) fn flush(&mut self, keep: impl Fn(u32) -> bool) {
        let slots = self.tags.len() as u32;
        let tags = &mut self.tags;
        let mut stays = |slot: u32| {
            let stays = tags[slot as usize] != EMPTY && keep(slot);
            if !stays {
                tags[slot as usize] = EMPTY;
            }
            stays
        };
        match &mut self.filled {
            Filled::Some(list) => list.retain(|&slot| stays(slot)),
            Filled::Any => {
                let list = (0..slots).filter(|&s| stays(s)).collect();
                self.filled = Filled::Some(list);
            }
        }
    }

    /// The filled slots, in no particular order.
    pub(crate) fn filled(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.tags.len() as u32).filter(|&slot| self.tags[slot as usize] != EMPTY)
    }
}

/// What a use of `way` does to its set's tree: every node on the path points to the other half.
fn plru_path(way: u32, ways: u32) -> (u64, u64) {
    let (mut keep, mut set, mut node) = (u64::MAX, 0, 1u32);
    for level in (0..ways.trailing_zeros()).rev() {
        let right = way >> level & 1;
        keep &= !(1 << node);
        set |= u64::from(right == 0) << node;
        node = 2 * node + right;
    }
    (keep, set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The textbook form: an ordered list, or a recursive tree.
    #[derive(Clone)]
    enum Naive {
        Lru(Vec<u32>),
        Plru {
            keys: Vec<u32>,
            older_right: Vec<bool>,
        },
    }

    impl Naive {
        /// Uses `key`; true if it was there.
        fn access(&mut self, key: u32, ways: usize) -> bool {
            match self {
                Naive::Lru(list) => {
                    let hit = list.contains(&key);
                    list.retain(|&k| k != key);
                    list.insert(0, key);
                    list.truncate(ways);
                    hit
                }
                Naive::Plru { keys, older_right } => {
                    let found = keys.iter().position(|&k| k == key);
                    let way = found
                        .or_else(|| keys.iter().position(|&k| k == EMPTY))
                        .unwrap_or_else(|| Self::victim(older_right, 0, 0, ways));
                    keys[way] = key;
                    Self::mark(older_right, 0, 0, ways, way);
                    found.is_some()
                }
            }
        }

        /// `node` covers ways `low .. low + n`; children of node i are 2i + 1 and 2i + 2.
        fn victim(tree: &[bool], node: usize, low: usize, n: usize) -> usize {
            if n == 1 {
                low
            } else if tree[node] {
                Self::victim(tree, 2 * node + 2, low + n / 2, n / 2)
            } else {
                Self::victim(tree, 2 * node + 1, low, n / 2)
            }
        }

        fn mark(tree: &mut [bool], node: usize, low: usize, n: usize, way: usize) {
            if n > 1 {
                let right = way >= low + n / 2;
                tree[node] = !right;
                let low = if right { low + n / 2 } else { low };
                Self::mark(tree, 2 * node + 1 + usize::from(right), low, n / 2, way);
            }
        }
    }

    proptest! {
        #[test]
        fn hits_equal_the_textbook(
            (sets, ways) in prop_oneof![Just((16u32, 4u32)), Just((3, 4)), Just((1, 64)), Just((2, 3)), Just((5, 1)), Just((1, 72))],
            lru in any::<bool>(),
            keys in prop::collection::vec(0u32..200, 1..600),
        ) {
            let replacement = if lru { Replacement::Lru } else { Replacement::Plru };
            let tree = !lru && ways.is_power_of_two();
            let one = if tree {
                Naive::Plru { keys: vec![EMPTY; ways as usize], older_right: vec![false; ways as usize] }
            } else {
                Naive::Lru(Vec::new())
            };
            let mut naive = vec![one; sets as usize];
            let mut table = SetTable::new(sets * ways, ways, replacement);
            for key in keys {
                let set = table.set_of(key);
                prop_assert_eq!(set, key % sets);
                let hit = match table.find(set, key) {
                    Some(slot) => { table.touch(slot); true }
                    None => { table.insert(set, key); false }
                };
                prop_assert_eq!(hit, naive[set as usize].access(key, ways as usize));
            }
        }

        #[test]
        fn a_flush_leaves_exactly_what_it_keeps(
            rounds in prop::collection::vec((prop::collection::vec(0u32..300, 0..80), any::<u8>()), 1..20),
        ) {
            let mut table = SetTable::new(64, 4, Replacement::Plru);
            for (keys, rule) in rounds {
                for key in keys {
                    let set = table.set_of(key);
                    if table.find(set, key).is_none() {
                        table.insert(set, key);
                    }
                }
                let wanted = |t: u32| t & 3 == u32::from(rule & 3);
                let before: Vec<u32> = table.filled().map(|s| table.tag(s)).filter(|&t| wanted(t)).collect();
                let tags = table.tags.clone();
                table.flush(|slot| wanted(tags[slot as usize]));
                let after: Vec<u32> = table.filled().map(|s| table.tag(s)).collect();
                prop_assert_eq!(before, after);
            }
        }
    }
}
