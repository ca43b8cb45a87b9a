//! The page cache's index: a radix tree of 64-way nodes with two tag bitmaps per node (lib/radix-tree.c of 2.6.6/2.6.7;
//! 2.6.0 had no bitmaps: an image with a page cache of lists has none).
//!
//! A set bit in an inner node means "some item below has this tag". Nodes come from their slab cache; the per-CPU
//! preload (7 nodes, filled before the tree lock is taken) stands behind it for the case that the slab is empty.
//!
//! Invariant: an inner tag bit is the OR of the child's bitmap; a node has `count` non-null slots and is freed at 0.

use crate::bug_on;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Page, RadixRoot};
use crate::lru::Pagevec;
use crate::page_alloc::Gfp;
use crate::page_cache::lists;
use crate::ptr::Low;
use crate::root;
use crate::slab::{self, CacheId};
use lowmem_abi::probe::Probe;

/// Bits of the index one level decides.
const MAP_SHIFT: u32 = 6;
/// Slots of a node.
pub const MAP_SIZE: u32 = 1 << MAP_SHIFT;
const MAP_MASK: u32 = MAP_SIZE - 1;
/// Most levels a 32-bit index needs, plus one: nodes in a full preload.
const MAX_PATH: u32 = 7;
/// Where the preload lies in the per-CPU area.
const PRELOAD: u32 = root::PER_CPU_OBJECTS + 0x100;

/// Which bitmap of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Tag {
    /// PAGECACHE_TAG_DIRTY.
    Dirty = 0,
    /// PAGECACHE_TAG_WRITEBACK.
    Writeback = 1,
}

/// Both tags.
pub const TAGS: [Tag; 2] = [Tag::Dirty, Tag::Writeback];

guest_struct! {
    /// radix_tree_node: count, 64 slots, two 64-bit tag bitmaps (276 bytes; 260 without, up to 2.6.5).
    pub struct RadixNode [K k] size if has_tags(k) { 276 } else { 260 };
    at 0 => word count, set_count: u32;
    at 4 => words slot, set_slot: u32, 64;
    at 260 => words tag_word, set_tag_word: u32, 4;
}

guest_struct! {
    /// radix_tree_preload: nodes held ready.
    pub struct Preload [K] size 32;
    at 0 => word nr, set_nr: u32;
    at 4 => words node, set_node: Low<RadixNode>, 7;
}

/// Whether nodes have tags.
#[inline(always)]
fn has_tags<K: Kernel>(k: K) -> bool {
    !lists::has_lists(k)
}

impl Low<RadixNode> {
    #[inline(always)]
    fn tag_bit<K: Kernel>(self, k: K, tag: Tag, offset: u32) -> bool {
        has_tags(k) && self.tag_word(k, (tag as u32) * 2 + (offset >> 5)) >> (offset & 31) & 1 != 0
    }
    #[inline(always)]
    fn tag_on<K: Kernel>(self, k: K, tag: Tag, offset: u32) {
        let i = (tag as u32) * 2 + (offset >> 5);
        if has_tags(k) {
            self.set_tag_word(k, i, self.tag_word(k, i) | 1 << (offset & 31));
        }
    }
    #[inline(always)]
    fn tag_off<K: Kernel>(self, k: K, tag: Tag, offset: u32) {
        let i = (tag as u32) * 2 + (offset >> 5);
        if has_tags(k) {
            self.set_tag_word(k, i, self.tag_word(k, i) & !(1 << (offset & 31)));
        }
    }
    /// Whether any item below has the tag.
    #[inline(always)]
    pub fn any_tag<K: Kernel>(self, k: K, tag: Tag) -> bool {
        has_tags(k)
            && self.tag_word(k, (tag as u32) * 2) | self.tag_word(k, (tag as u32) * 2 + 1) != 0
    }
    /// Whether slot `offset` has the tag; for checks.
    pub fn has_tag<K: Kernel>(self, k: K, tag: Tag, offset: u32) -> bool {
        self.tag_bit(k, tag, offset)
    }
}

/// Largest index a tree of `height` levels holds.
#[inline(always)]
pub fn max_index(height: u32) -> u32 {
    let bits = height.wrapping_mul(MAP_SHIFT);
    if bits >= 32 {
        u32::MAX
    } else {
        (1u32 << bits) - 1
    }
}

/// Makes an empty tree.
pub fn init<K: Kernel>(k: K, tree: Low<RadixRoot>) {
    tree.set_height(k, 0);
    tree.set_gfp_mask(k, 0);
    tree.set_rnode(k, 0);
}

/// radix_tree_preload: fills the per-CPU stock so that the coming insertion cannot fail under the tree lock.
/// Reclaim inside the allocation may fill the stock itself.
pub fn preload<K: Kernel>(k: K, gfp: Gfp) -> Result<(), Oom> {
    let stock = root::part::<K, Preload>(k, PRELOAD);
    while stock.nr(k) < MAX_PATH {
        let node: Low<RadixNode> = slab::kmem_cache_alloc(k, CacheId::RadixNode, gfp)?;
        let nr = stock.nr(k);
        if nr < MAX_PATH {
            stock.set_node(k, nr, node);
            stock.set_nr(k, nr + 1);
        } else {
            slab::kmem_cache_free(k, CacheId::RadixNode, node);
        }
    }
    Ok(())
}

fn node_alloc<K: Kernel>(k: K) -> Low<RadixNode> {
    if let Ok(node) = slab::kmem_cache_alloc(k, CacheId::RadixNode, Gfp::Atomic) {
        return node;
    }
    let stock = root::part::<K, Preload>(k, PRELOAD);
    let nr = stock.nr(k);
    bug_on!(k, RadixTree, nr == 0);
    stock.set_nr(k, nr - 1);
    stock.node(k, nr - 1)
}

fn extend<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32) {
    let mut height = tree.height(k) + 1;
    while index > max_index(height) {
        height += 1;
    }
    if tree.rnode(k) == 0 {
        tree.set_height(k, height);
        return;
    }
    while tree.height(k) < height {
        let node = node_alloc(k);
        let old = tree.rnode(k);
        node.set_slot(k, 0, old);
        for tag in TAGS {
            // At height 0 the root would be the item itself; the trees of this kernel never store one there.
            if Low::<RadixNode>::new(old).any_tag(k, tag) {
                node.tag_on(k, tag, 0);
            }
        }
        node.set_count(k, 1);
        tree.set_rnode(k, node.va());
        tree.set_height(k, tree.height(k) + 1);
    }
}

/// Stores `page` at `index`; false if something is there.
pub fn insert<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32, page: Low<Page>) -> bool {
    let height = tree.height(k);
    if height == 0 || index > max_index(height) {
        extend(k, tree, index);
    }
    let mut level = tree.height(k);
    let mut slot: Low<u32> = tree.field(8);
    let mut node: Low<RadixNode> = Low::NULL;
    while level > 0 {
        if slot.read(k) == 0 {
            let new = node_alloc(k);
            slot.write(k, new.va());
            if !node.is_null() {
                node.set_count(k, node.count(k) + 1);
            }
        }
        node = Low::new(slot.read(k));
        let offset = index >> ((level - 1) * MAP_SHIFT) & MAP_MASK;
        slot = node.field(4 + offset * 4);
        level -= 1;
    }
    if slot.read(k) != 0 {
        return false;
    }
    bug_on!(k, RadixTree, node.is_null());
    node.set_count(k, node.count(k) + 1);
    slot.write(k, page.va());
    true
}

/// The item at `index`, or null.
pub fn lookup<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32) -> Low<Page> {
    let mut level = tree.height(k);
    if level == 0 || index > max_index(level) {
        return Low::NULL;
    }
    let mut at = tree.rnode(k);
    while level > 0 {
        if at == 0 {
            return Low::NULL;
        }
        let offset = index >> ((level - 1) * MAP_SHIFT) & MAP_MASK;
        at = Low::<RadixNode>::new(at).slot(k, offset);
        level -= 1;
    }
    Low::new(at)
}

/// Sets `tag` on the item at `index`, which must be there: every level on the path, if not set.
pub fn tag_set<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32, tag: Tag) {
    let mut level = tree.height(k);
    let mut at = tree.rnode(k);
    bug_on!(k, RadixTree, level == 0 || index > max_index(level), index);
    while level > 0 {
        bug_on!(k, RadixTree, at == 0, index);
        let node = Low::<RadixNode>::new(at);
        let offset = index >> ((level - 1) * MAP_SHIFT) & MAP_MASK;
        if !node.tag_bit(k, tag, offset) {
            node.tag_on(k, tag, offset);
        }
        at = node.slot(k, offset);
        level -= 1;
    }
    bug_on!(k, RadixTree, at == 0, index);
}

/// The node on the path to `index` at `level` (1 = leaf); the path is known to exist.
fn node_at<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32, level: u32) -> Low<RadixNode> {
    let mut l = tree.height(k);
    let mut node = Low::<RadixNode>::new(tree.rnode(k));
    while l > level {
        node = Low::new(node.slot(k, index >> ((l - 1) * MAP_SHIFT) & MAP_MASK));
        l -= 1;
    }
    node
}

/// Clears `tag` of the item at `index`: leaf bit, then upwards while a node's bitmap is empty.
pub fn tag_clear<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32, tag: Tag) {
    if lookup(k, tree, index).is_null() {
        return;
    }
    clear_upwards(k, tree, index, tag);
}

fn clear_upwards<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32, tag: Tag) {
    let height = tree.height(k);
    let mut level = 1;
    while level <= height {
        let node = node_at(k, tree, index, level);
        node.tag_off(k, tag, index >> ((level - 1) * MAP_SHIFT) & MAP_MASK);
        if node.any_tag(k, tag) {
            break;
        }
        level += 1;
    }
}

/// Whether the item at `index` has the tag.
pub fn tag_get<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32, tag: Tag) -> bool {
    if lookup(k, tree, index).is_null() {
        return false;
    }
    node_at(k, tree, index, 1).tag_bit(k, tag, index & MAP_MASK)
}

/// Whether any item has the tag.
pub fn tagged<K: Kernel>(k: K, tree: Low<RadixRoot>, tag: Tag) -> bool {
    tree.rnode(k) != 0 && Low::<RadixNode>::new(tree.rnode(k)).any_tag(k, tag)
}

/// Removes and returns the item at `index`, or null: both tags first, then empty nodes upwards. The height drops
/// only when the tree becomes empty.
pub fn delete<K: Kernel>(k: K, tree: Low<RadixRoot>, index: u32) -> Low<Page> {
    let page = lookup(k, tree, index);
    if page.is_null() {
        return page;
    }
    if has_tags(k) {
        for tag in TAGS {
            clear_upwards(k, tree, index, tag);
        }
    }
    let height = tree.height(k);
    let mut level = 1;
    while level <= height {
        let node = node_at(k, tree, index, level);
        node.set_slot(k, index >> ((level - 1) * MAP_SHIFT) & MAP_MASK, 0);
        let count = node.count(k) - 1;
        node.set_count(k, count);
        if count != 0 {
            return page;
        }
        // Constructed cache: a node goes back with empty slots and tags, as it is now.
        if level == height {
            tree.set_rnode(k, 0);
            tree.set_height(k, 0);
        }
        slab::kmem_cache_free(k, CacheId::RadixNode, node);
        level += 1;
    }
    page
}

/// Smallest index at or above `from` whose item exists (or, with `tag`, has the tag); and the item.
pub fn next<K: Kernel>(
    k: K,
    tree: Low<RadixRoot>,
    from: u32,
    tag: Option<Tag>,
) -> Option<(u32, Low<Page>)> {
    let height = tree.height(k);
    if height == 0 || tree.rnode(k) == 0 || from > max_index(height) {
        return None;
    }
    let mut index = from;
    loop {
        let mut level = height;
        let mut at = tree.rnode(k);
        // Descend by the first candidate slot; on a dead end go on behind the subtree just scanned.
        loop {
            let node = Low::<RadixNode>::new(at);
            let shift = (level - 1) * MAP_SHIFT;
            let mut offset = index >> shift & MAP_MASK;
            while offset < MAP_SIZE {
                let live = match tag {
                    Some(t) => node.tag_bit(k, t, offset),
                    None => node.slot(k, offset) != 0,
                };
                if live {
                    break;
                }
                offset += 1;
                // Everything below the next slot is a candidate.
                index = (index >> shift).wrapping_add(1).wrapping_shl(shift);
                if index == 0 {
                    return None;
                }
            }
            if offset == MAP_SIZE {
                if index > max_index(height) {
                    return None;
                }
                break;
            }
            at = node.slot(k, offset);
            level -= 1;
            if level == 0 {
                return Some((index, Low::new(at)));
            }
        }
    }
}

/// radix_tree_gang_lookup_tag: appends items with `tag` from `from` on to `pvec` until it holds `most`; where to go on, 0
/// behind the last index there is. Each leaf is reached from the root, and within it bit after bit is looked at (counted by a
/// probe, on every level).
pub fn gang_lookup_tag<K: Kernel>(
    k: K,
    tree: Low<RadixRoot>,
    (from, most): (u32, u32),
    tag: Tag,
    pvec: Low<Pagevec>,
) -> u32 {
    let height = tree.height(k);
    let mut index = from;
    if tree.rnode(k) == 0 {
        return index;
    }
    while pvec.nr(k) < most && index <= max_index(height) {
        index = lookup_tag_leaf(k, tree, (index, most), tag, pvec);
        if index == 0 {
            break;
        }
    }
    index
}

/// __lookup_tag: the tagged items of one leaf, or the end of a subtree without any.
fn lookup_tag_leaf<K: Kernel>(
    k: K,
    tree: Low<RadixRoot>,
    (from, most): (u32, u32),
    tag: Tag,
    pvec: Low<Pagevec>,
) -> u32 {
    let mut index = from;
    let mut level = tree.height(k);
    let mut node = Low::<RadixNode>::new(tree.rnode(k));
    while level > 1 {
        let shift = (level - 1) * MAP_SHIFT;
        let mut offset = index >> shift & MAP_MASK;
        loop {
            k.probe(Probe::DirtyScanned);
            if node.tag_bit(k, tag, offset) {
                break;
            }
            index = (index >> shift).wrapping_add(1).wrapping_shl(shift);
            offset += 1;
            if offset == MAP_SIZE || index == 0 {
                return index;
            }
        }
        node = Low::new(node.slot(k, offset));
        level -= 1;
    }
    let mut offset = index & MAP_MASK;
    while offset < MAP_SIZE {
        k.probe(Probe::DirtyScanned);
        let found = node.tag_bit(k, tag, offset);
        index = index.wrapping_add(1);
        if found {
            let nr = pvec.nr(k);
            pvec.set_page(k, nr, Low::new(node.slot(k, offset)));
            pvec.set_nr(k, nr + 1);
            if nr + 1 == most {
                break;
            }
        }
        offset += 1;
    }
    index
}
