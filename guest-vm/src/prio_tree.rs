//! Radix priority search tree over the vmas of a file (mm/prio_tree.c of 2.6.7): radix index is the first page offset, heap index the
//! last; the node is the vma.
//!
//! Position follows the bits of the radix index from the top (1 = right), then, when those are used up, the bits of the
//! size; a parent's heap index is at least its children's, ties by smaller radix index. An empty child points to the
//! node itself, and so does the root's parent, so "parent word zero" means "not a tree node". Vmas of the same
//! range hang off one node's `head` as a circular list whose first member's `head` points back.
//!
//! Invariant: heap and bit order; each vma is in the tree or on exactly one such list.

use crate::bug_on;
use crate::kernel::Kernel;
use crate::layout::Vma;
use crate::list::ListHead;
use crate::ptr::Low;

/// Offset of the tree node in a vma.
const SHARED: u32 = 40;

/// Root: node, index_bits (8 bytes, where the list form has its head).
#[derive(Debug, Clone, Copy)]
pub struct PrioRoot(pub Low<ListHead>);

impl PrioRoot {
    /// Makes an empty tree.
    pub fn init<K: Kernel>(self, k: K) {
        self.set_node(k, Low::NULL);
        self.set_bits(k, 1);
    }
    /// Topmost node.
    #[inline(always)]
    pub fn node<K: Kernel>(self, k: K) -> Low<Vma> {
        self.0.field::<Low<Vma>>(0).read(k)
    }
    /// Whether no vma is in the tree.
    #[inline(always)]
    pub fn is_empty<K: Kernel>(self, k: K) -> bool {
        self.node(k).is_null()
    }
    #[inline(always)]
    fn set_node<K: Kernel>(self, k: K, v: Low<Vma>) {
        self.0.field::<Low<Vma>>(0).write(k, v);
    }
    /// Bits of the largest heap index the tree can hold.
    #[inline(always)]
    pub fn bits<K: Kernel>(self, k: K) -> u32 {
        self.0.field::<u32>(4).read(k)
    }
    #[inline(always)]
    fn set_bits<K: Kernel>(self, k: K, v: u32) {
        self.0.field::<u32>(4).write(k, v);
    }
}

/// Left child, or the node itself.
#[inline(always)]
pub fn left<K: Kernel>(k: K, v: Low<Vma>) -> Low<Vma> {
    v.field::<Low<Vma>>(SHARED).read(k)
}
/// Right child, or the node itself.
#[inline(always)]
pub fn right<K: Kernel>(k: K, v: Low<Vma>) -> Low<Vma> {
    v.field::<Low<Vma>>(SHARED + 4).read(k)
}
/// Parent, the node itself for the root, null for members of a node's list.
#[inline(always)]
pub fn parent<K: Kernel>(k: K, v: Low<Vma>) -> Low<Vma> {
    v.tree_parent(k)
}
#[inline(always)]
fn set_left<K: Kernel>(k: K, v: Low<Vma>, to: Low<Vma>) {
    v.field::<Low<Vma>>(SHARED).write(k, to);
}
#[inline(always)]
fn set_right<K: Kernel>(k: K, v: Low<Vma>, to: Low<Vma>) {
    v.field::<Low<Vma>>(SHARED + 4).write(k, to);
}
#[inline(always)]
fn set_parent<K: Kernel>(k: K, v: Low<Vma>, to: Low<Vma>) {
    v.set_tree_parent(k, to);
}
#[inline(always)]
fn node_init<K: Kernel>(k: K, v: Low<Vma>) {
    set_left(k, v, v);
    set_right(k, v, v);
    set_parent(k, v, v);
}

/// First page offset a vma maps.
#[inline(always)]
pub fn radix_index<K: Kernel>(k: K, v: Low<Vma>) -> u32 {
    v.pgoff(k)
}
/// Last page offset a vma maps.
#[inline(always)]
pub fn heap_index<K: Kernel>(k: K, v: Low<Vma>) -> u32 {
    v.pgoff(k)
        .wrapping_add((v.end(k).wrapping_sub(v.start(k)) >> 12).wrapping_sub(1))
}

#[inline(always)]
fn max_index(bits: u32) -> u32 {
    if bits >= 32 {
        u32::MAX
    } else {
        (1 << bits) - 1
    }
}

/// Puts `node` into the place of `old` (root, parent and children links).
fn replace<K: Kernel>(k: K, root: PrioRoot, old: Low<Vma>, node: Low<Vma>) {
    node_init(k, node);
    let up = parent(k, old);
    if up == old {
        root.set_node(k, node);
    } else {
        set_parent(k, node, up);
        if left(k, up) == old {
            set_left(k, up, node);
        } else {
            set_right(k, up, node);
        }
    }
    let l = left(k, old);
    if l != old {
        set_left(k, node, l);
        set_parent(k, l, node);
    }
    let r = right(k, old);
    if r != old {
        set_right(k, node, r);
        set_parent(k, r, node);
    }
}

/// Inserts a node; returns the node that already has the same range, if any (then nothing is inserted).
fn raw_insert<K: Kernel>(k: K, root: PrioRoot, new: Low<Vma>) -> Option<Low<Vma>> {
    let (mut radix, mut heap) = (radix_index(k, new), heap_index(k, new));
    if root.node(k).is_null() || heap > max_index(root.bits(k)) {
        expand(k, root, new, heap);
        return None;
    }
    let mut carried = new;
    let mut cur = root.node(k);
    let mut mask = 1u32 << (root.bits(k) - 1);
    let mut by_size = false;
    loop {
        let (r, h) = (radix_index(k, cur), heap_index(k, cur));
        if r == radix && h == heap {
            return Some(cur);
        }
        if h < heap || (h == heap && r > radix) {
            replace(k, root, cur, carried);
            core::mem::swap(&mut cur, &mut carried);
            (radix, heap) = (r, h);
        }
        // All bits of both indices used up: only an equal range can be here.
        bug_on!(k, PrioTree, mask == 0, new.va());
        let index = if by_size {
            heap.wrapping_sub(radix)
        } else {
            radix
        };
        let to_right = index & mask != 0;
        let child = if to_right {
            right(k, cur)
        } else {
            left(k, cur)
        };
        if child == cur {
            node_init(k, carried);
            if to_right {
                set_right(k, cur, carried);
            } else {
                set_left(k, cur, carried);
            }
            set_parent(k, carried, cur);
            return None;
        }
        cur = child;
        mask >>= 1;
        if mask == 0 && !by_size {
            mask = 1 << (root.bits(k) - 1);
            by_size = true;
        }
    }
}

/// Makes room for a larger heap index: one bit more per step; after the first step each raises the old tree by taking its
/// root out into a chain of left children under the new node.
fn expand<K: Kernel>(k: K, root: PrioRoot, new: Low<Vma>, heap: u32) {
    let mut first: Low<Vma> = Low::NULL;
    let mut last: Low<Vma> = Low::NULL;
    if heap > max_index(root.bits(k)) {
        root.set_bits(k, root.bits(k) + 1);
    }
    while heap > max_index(root.bits(k)) {
        root.set_bits(k, root.bits(k) + 1);
        let top = root.node(k);
        if top.is_null() {
            continue;
        }
        raw_remove(k, root, top);
        node_init(k, top);
        if first.is_null() {
            first = top;
        } else {
            set_left(k, last, top);
            set_parent(k, top, last);
        }
        last = top;
    }
    node_init(k, new);
    if first.is_null() {
        last = new;
    } else {
        set_left(k, new, first);
        set_parent(k, first, new);
    }
    let rest = root.node(k);
    if !rest.is_null() {
        set_left(k, last, rest);
        set_parent(k, rest, last);
    }
    root.set_node(k, new);
}

/// Removes a tree node: down to a leaf by the larger heap index, detach the leaf, then each node of the way moves up.
fn raw_remove<K: Kernel>(k: K, root: PrioRoot, node: Low<Vma>) {
    let mut cur = node;
    loop {
        let (l, r) = (left(k, cur), right(k, cur));
        cur = if l == cur && r == cur {
            break;
        } else if l == cur || (r != cur && heap_index(k, r) > heap_index(k, l)) {
            r
        } else {
            l
        };
    }
    let up = parent(k, cur);
    if up == cur {
        bug_on!(k, PrioTree, cur != node || root.node(k) != cur, node.va());
        root.init(k);
        return;
    }
    if right(k, up) == cur {
        set_right(k, up, up);
    } else {
        set_left(k, up, up);
    }
    while cur != node {
        let above = parent(k, cur);
        replace(k, root, above, cur);
        cur = above;
    }
}

#[inline(always)]
fn list_of(v: Low<Vma>) -> Low<ListHead> {
    v.field(SHARED)
}

/// vma_prio_tree_insert. The caller holds i_mmap_lock.
pub fn insert<K: Kernel>(k: K, root: PrioRoot, vma: Low<Vma>) {
    vma.set_tree_head(k, Low::NULL);
    if let Some(same) = raw_insert(k, root, vma) {
        add(k, vma, same);
    }
}

/// vma_prio_tree_add: `vma` has the range of `old`, which is in the tree or on a node's list. O(1).
pub fn add<K: Kernel>(k: K, vma: Low<Vma>, old: Low<Vma>) {
    bug_on!(
        k,
        PrioTree,
        radix_index(k, vma) != radix_index(k, old) || heap_index(k, vma) != heap_index(k, old),
        vma.va()
    );
    set_parent(k, vma, Low::NULL);
    vma.set_tree_head(k, Low::NULL);
    if parent(k, old).is_null() {
        list_of(vma).add_to(k, list_of(old));
        return;
    }
    let head = old.tree_head(k);
    if head.is_null() {
        list_of(vma).init(k);
        vma.set_tree_head(k, old);
        old.set_tree_head(k, vma);
    } else {
        list_of(vma).add_tail_to(k, list_of(head));
    }
}

/// The member behind list head `head`, taken off to become head itself; null if `head` is alone.
fn next_head<K: Kernel>(k: K, head: Low<Vma>) -> Low<Vma> {
    let list = list_of(head);
    if list.is_empty(k) {
        return Low::NULL;
    }
    let new: Low<Vma> = list.next(k).container(SHARED);
    list.del_init(k);
    new
}

/// vma_prio_tree_remove. The caller holds i_mmap_lock; bounds are those of the insertion.
pub fn remove<K: Kernel>(k: K, root: PrioRoot, vma: Low<Vma>) {
    let other = vma.tree_head(k);
    let in_tree = !parent(k, vma).is_null();
    if other.is_null() {
        if in_tree {
            raw_remove(k, root, vma);
        } else {
            list_of(vma).del_init(k);
        }
        return;
    }
    bug_on!(k, PrioTree, other.tree_head(k) != vma, vma.va());
    let new = next_head(k, if in_tree { other } else { vma });
    if in_tree {
        // The first of the list takes the node's place.
        replace(k, root, vma, other);
        other.set_tree_head(k, new);
        if !new.is_null() {
            new.set_tree_head(k, other);
        }
    } else {
        other.set_tree_head(k, new);
        if !new.is_null() {
            new.set_tree_head(k, other);
        }
    }
}

/// A walk over all vmas that map page offsets `from..=to`: nodes in pre-order, each followed by its list.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    root: PrioRoot,
    from: u32,
    to: u32,
    /// Current tree node, null before the first.
    cur: Low<Vma>,
    mask: u32,
    value: u32,
    by_size: bool,
    /// Current member of the node's list, or null.
    member: Low<Vma>,
}

impl Walk {
    /// A walk over `from..=to`.
    pub fn new(root: PrioRoot, from: u32, to: u32) -> Self {
        Self {
            root,
            from,
            to,
            cur: Low::NULL,
            mask: 0,
            value: 0,
            by_size: false,
            member: Low::NULL,
        }
    }

    /// The next vma, or null.
    pub fn next<K: Kernel>(&mut self, k: K) -> Low<Vma> {
        if self.cur.is_null() {
            let top = self.root.node(k);
            if top.is_null() || heap_index(k, top) < self.from {
                return Low::NULL;
            }
            self.cur = top;
            self.mask = 1 << (self.root.bits(k) - 1);
            if radix_index(k, top) <= self.to {
                return top;
            }
            return self.next_node(k);
        }
        let head = self.cur.tree_head(k);
        if !head.is_null() {
            let next: Low<Vma> = if self.member.is_null() {
                head
            } else {
                list_of(self.member).next(k).container(SHARED)
            };
            if self.member.is_null() || next != head {
                self.member = next;
                return next;
            }
            self.member = Low::NULL;
        }
        self.next_node(k)
    }

    fn next_node<K: Kernel>(&mut self, k: K) -> Low<Vma> {
        loop {
            if !self.go_left(k) && !self.go_right(k) && !self.go_up_then_right(k) {
                return Low::NULL;
            }
            if radix_index(k, self.cur) <= self.to && heap_index(k, self.cur) >= self.from {
                return self.cur;
            }
        }
    }

    fn down<K: Kernel>(&mut self, k: K, child: Low<Vma>) {
        self.cur = child;
        self.mask >>= 1;
        if self.mask == 0 && !self.by_size {
            self.by_size = true;
            self.mask = 1 << (self.root.bits(k) - 1);
        }
    }

    fn go_left<K: Kernel>(&mut self, k: K) -> bool {
        let child = left(k, self.cur);
        if child == self.cur || heap_index(k, child) < self.from {
            return false;
        }
        self.down(k, child);
        true
    }

    fn go_right<K: Kernel>(&mut self, k: K) -> bool {
        let child = right(k, self.cur);
        if child == self.cur {
            return false;
        }
        let value = if self.by_size {
            self.value
        } else {
            self.value | self.mask
        };
        if value > self.to || heap_index(k, child) < self.from {
            return false;
        }
        self.value = value;
        self.down(k, child);
        true
    }

    /// Climbs until a right subtree can be entered; false at the root.
    fn go_up_then_right<K: Kernel>(&mut self, k: K) -> bool {
        loop {
            let up = parent(k, self.cur);
            if up == self.cur {
                return false;
            }
            let top = 1u32 << (self.root.bits(k) - 1);
            if self.mask == 0 {
                self.mask = 1;
            } else if self.by_size && self.mask == top {
                self.by_size = false;
                self.mask = 1;
            } else {
                self.mask <<= 1;
            }
            let was_right = right(k, up) == self.cur;
            self.cur = up;
            if was_right {
                if !self.by_size {
                    self.value &= !self.mask;
                }
            } else if self.go_right(k) {
                return true;
            }
        }
    }
}
