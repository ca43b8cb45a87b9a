//! Red-black trees of embedded nodes, as 2.6 keeps its vmas (lib/rbtree.c: parent, colour, right, left).
//!
//! The caller finds the place (parent and link word), puts the node there with [`link`] and restores the colours with
//! [`insert_color`]. Left out: replacing a node in place, which the VM does not use.
//!
//! Invariant: no red node has a red child, and every path from the root to a leaf has the same number of black nodes.

use crate::kernel::Kernel;
use crate::layout::RbNode;
use crate::ptr::Low;

/// Colour red.
pub const RED: u32 = 0;
/// Colour black.
pub const BLACK: u32 = 1;

/// Address of a word that holds a node: a root, or a node's left or right child.
pub type Link = Low<Low<RbNode>>;

impl Low<RbNode> {
    /// Address of the word with the left child.
    #[inline(always)]
    pub fn left_link(self) -> Link {
        self.field(12)
    }
    /// Address of the word with the right child.
    #[inline(always)]
    pub fn right_link(self) -> Link {
        self.field(8)
    }
}

/// Puts `node` as a red leaf at `link`, a child word of `parent` (rb_link_node).
#[inline(always)]
pub fn link<K: Kernel>(k: K, node: Low<RbNode>, parent: Low<RbNode>, at: Link) {
    node.set_parent(k, parent);
    node.set_color(k, RED);
    node.set_left(k, Low::NULL);
    node.set_right(k, Low::NULL);
    at.write(k, node);
}

/// Puts `new` where `old` hangs under `parent` (null: at the root).
#[inline(always)]
fn replace_child<K: Kernel>(
    k: K,
    root: Link,
    parent: Low<RbNode>,
    old: Low<RbNode>,
    new: Low<RbNode>,
) {
    if parent.is_null() {
        root.write(k, new);
    } else if parent.left(k) == old {
        parent.set_left(k, new);
    } else {
        parent.set_right(k, new);
    }
}

fn rotate_left<K: Kernel>(k: K, node: Low<RbNode>, root: Link) {
    let right = node.right(k);
    let inner = right.left(k);
    node.set_right(k, inner);
    if !inner.is_null() {
        inner.set_parent(k, node);
    }
    right.set_left(k, node);
    let parent = node.parent(k);
    right.set_parent(k, parent);
    replace_child(k, root, parent, node, right);
    node.set_parent(k, right);
}

fn rotate_right<K: Kernel>(k: K, node: Low<RbNode>, root: Link) {
    let left = node.left(k);
    let inner = left.right(k);
    node.set_left(k, inner);
    if !inner.is_null() {
        inner.set_parent(k, node);
    }
    left.set_right(k, node);
    let parent = node.parent(k);
    left.set_parent(k, parent);
    replace_child(k, root, parent, node, left);
    node.set_parent(k, left);
}

/// Restores the colours after [`link`].
pub fn insert_color<K: Kernel>(k: K, node: Low<RbNode>, root: Link) {
    let mut node = node;
    loop {
        let parent = node.parent(k);
        if parent.is_null() || parent.color(k) == BLACK {
            break;
        }
        let grand = parent.parent(k);
        let parent_is_left = grand.left(k) == parent;
        let uncle = if parent_is_left {
            grand.right(k)
        } else {
            grand.left(k)
        };
        if !uncle.is_null() && uncle.color(k) == RED {
            uncle.set_color(k, BLACK);
            parent.set_color(k, BLACK);
            grand.set_color(k, RED);
            node = grand;
            continue;
        }
        let mut top = parent;
        if parent_is_left {
            if parent.right(k) == node {
                rotate_left(k, parent, root);
                top = node;
                node = parent;
            }
            top.set_color(k, BLACK);
            grand.set_color(k, RED);
            rotate_right(k, grand, root);
        } else {
            if parent.left(k) == node {
                rotate_right(k, parent, root);
                top = node;
                node = parent;
            }
            top.set_color(k, BLACK);
            grand.set_color(k, RED);
            rotate_left(k, grand, root);
        }
    }
    root.read(k).set_color(k, BLACK);
}

/// Takes `node` out of the tree (rb_erase).
pub fn erase<K: Kernel>(k: K, node: Low<RbNode>, root: Link) {
    let (left, right) = (node.left(k), node.right(k));
    if left.is_null() || right.is_null() {
        let child = if left.is_null() { right } else { left };
        let parent = node.parent(k);
        if !child.is_null() {
            child.set_parent(k, parent);
        }
        replace_child(k, root, parent, node, child);
        if node.color(k) == BLACK {
            erase_color(k, child, parent, root);
        }
        return;
    }
    // Two children: the successor takes the node's place and colour; what is missing is missing where it was.
    let mut next = right;
    loop {
        let l = next.left(k);
        if l.is_null() {
            break;
        }
        next = l;
    }
    let child = next.right(k);
    let color = next.color(k);
    let mut parent = next.parent(k);
    if parent == node {
        parent = next;
    } else {
        if !child.is_null() {
            child.set_parent(k, parent);
        }
        parent.set_left(k, child);
        next.set_right(k, right);
        right.set_parent(k, next);
    }
    let above = node.parent(k);
    next.set_parent(k, above);
    next.set_color(k, node.color(k));
    next.set_left(k, left);
    left.set_parent(k, next);
    replace_child(k, root, above, node, next);
    if color == BLACK {
        erase_color(k, child, parent, root);
    }
}

#[inline(always)]
fn is_black<K: Kernel>(k: K, node: Low<RbNode>) -> bool {
    node.is_null() || node.color(k) == BLACK
}

/// One black node is missing on the paths through `node` (perhaps null), a child of `parent`.
fn erase_color<K: Kernel>(k: K, node: Low<RbNode>, parent: Low<RbNode>, root: Link) {
    let (mut node, mut parent) = (node, parent);
    while is_black(k, node) && node != root.read(k) {
        if parent.left(k) == node {
            let mut other = parent.right(k);
            if other.color(k) == RED {
                other.set_color(k, BLACK);
                parent.set_color(k, RED);
                rotate_left(k, parent, root);
                other = parent.right(k);
            }
            if is_black(k, other.left(k)) && is_black(k, other.right(k)) {
                other.set_color(k, RED);
                node = parent;
                parent = node.parent(k);
                continue;
            }
            if is_black(k, other.right(k)) {
                other.left(k).set_color(k, BLACK);
                other.set_color(k, RED);
                rotate_right(k, other, root);
                other = parent.right(k);
            }
            other.set_color(k, parent.color(k));
            parent.set_color(k, BLACK);
            other.right(k).set_color(k, BLACK);
            rotate_left(k, parent, root);
        } else {
            let mut other = parent.left(k);
            if other.color(k) == RED {
                other.set_color(k, BLACK);
                parent.set_color(k, RED);
                rotate_right(k, parent, root);
                other = parent.left(k);
            }
            if is_black(k, other.left(k)) && is_black(k, other.right(k)) {
                other.set_color(k, RED);
                node = parent;
                parent = node.parent(k);
                continue;
            }
            if is_black(k, other.left(k)) {
                other.right(k).set_color(k, BLACK);
                other.set_color(k, RED);
                rotate_left(k, other, root);
                other = parent.left(k);
            }
            other.set_color(k, parent.color(k));
            parent.set_color(k, BLACK);
            other.left(k).set_color(k, BLACK);
            rotate_right(k, parent, root);
        }
        node = root.read(k);
        break;
    }
    if !node.is_null() {
        node.set_color(k, BLACK);
    }
}
