//! Dirty inodes (fs/fs-writeback.c, 2.6.7): s_dirty by the time they became dirty, s_io for the pass at hand.
//!
//! One super block. An inode here carries I_DIRTY_PAGES only; I_LOCK marks the one being written. With lists, an inode needs more
//! writeback while io_pages has pages; with tags, while anything is tagged dirty.
//!
//! Invariant: an inode of a file is on exactly one of inode_in_use, s_dirty, s_io; a clean one on inode_in_use.

use crate::axes::CacheKind;
use crate::clock::now_ms;
use crate::file::{I_DATA, Inode};
use crate::kernel::Kernel;
use crate::layout::Mapping;
use crate::list::ListHead;
use crate::page_cache::lists;
use crate::ptr::Low;
use crate::radix_tree::{self, Tag};
use crate::writeback::writer::{self, Control, Patience, Sync};
use crate::writeback::{state, wake};

/// I_DIRTY_PAGES.
pub const I_DIRTY_PAGES: u32 = 4;
/// I_LOCK: being written.
pub const I_LOCK: u32 = 8;
/// Where i_list lies.
const I_LIST: u32 = 8;

/// The inode on a list.
#[inline(always)]
pub fn of_list(at: Low<ListHead>) -> Low<Inode> {
    at.container(I_LIST)
}

/// new_inode: a file's inode is in use.
pub fn inode_created<K: Kernel>(k: K, inode: Low<Inode>) {
    let w = state(k);
    w.inode_lock(k).lock(k);
    w.set_nr_inodes(k, w.nr_inodes(k) + 1);
    inode.i_list(k).add_to(k, w.inode_in_use(k));
    w.inode_lock(k).unlock(k);
}

/// The inode of an unused file goes (prune_icache): it has no pages, but may still wait on a dirty list.
pub fn inode_gone<K: Kernel>(k: K, inode: Low<Inode>) {
    let w = state(k);
    w.inode_lock(k).lock(k);
    w.set_nr_inodes(k, w.nr_inodes(k) - 1);
    inode.i_list(k).del(k);
    w.inode_lock(k).unlock(k);
}

/// __mark_inode_dirty(I_DIRTY_PAGES) of the inode that holds `mapping`.
pub fn mark_inode_dirty<K: Kernel>(k: K, mapping: Low<Mapping>) {
    let inode: Low<Inode> = Low::new(mapping.host(k));
    if inode.i_state(k) & I_DIRTY_PAGES != 0 {
        return;
    }
    let w = state(k);
    w.inode_lock(k).lock(k);
    let was = inode.i_state(k);
    inode.set_i_state(k, was | I_DIRTY_PAGES);
    if was & (I_LOCK | I_DIRTY_PAGES) == 0 {
        inode.set_dirtied_when(k, now_ms(k));
        list_move(k, inode, w.s_dirty(k));
    }
    w.inode_lock(k).unlock(k);
    wake(k);
}

#[inline(always)]
fn list_move<K: Kernel>(k: K, inode: Low<Inode>, head: Low<ListHead>) {
    inode.i_list(k).del(k);
    inode.i_list(k).add_to(k, head);
}

/// What a pass over dirty inodes found.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Pages that may still be written.
    pub left: u32,
    /// It ended because the queue was congested.
    pub congested: bool,
}

/// writeback_inodes: writes up to `control.nr_to_write` pages of dirty inodes, oldest first; `older`: only of those that became
/// dirty at or before that time.
pub fn writeback_inodes<K: Kernel>(k: K, control: Control, older: Option<u32>) -> Pass {
    let w = state(k);
    let mut pass = Pass {
        left: control.nr_to_write,
        congested: false,
    };
    w.inode_lock(k).lock(k);
    if control.patience != Patience::Periodic || w.s_io(k).is_empty(k) {
        lists::splice(k, w.s_dirty(k), w.s_io(k));
    }
    while !w.s_io(k).is_empty(k) {
        let inode = of_list(w.s_io(k).prev(k));
        if let Some(time) = older {
            if (inode.dirtied_when(k).wrapping_sub(time) as i32) > 0 {
                break;
            }
        }
        let one = Control {
            nr_to_write: pass.left,
            ..control
        };
        let (left, congested) = single_inode(k, inode, one);
        pass.left = left;
        if congested {
            pass.congested = true;
            break;
        }
        if left == 0 {
            break;
        }
    }
    w.inode_lock(k).unlock(k);
    pass
}

/// __sync_single_inode: writes the inode's pages, then puts it where it belongs. inode_lock is held on entry and exit, not
/// meanwhile.
fn single_inode<K: Kernel>(k: K, inode: Low<Inode>, control: Control) -> (u32, bool) {
    let w = state(k);
    let mapping: Low<Mapping> = inode.field(I_DATA);
    inode.set_i_state(k, inode.i_state(k) & !I_DIRTY_PAGES | I_LOCK);
    w.inode_lock(k).unlock(k);
    let flusher = w.flusher(k);
    writer::start(k, flusher, mapping, control);
    writer::finish(k, flusher);
    w.inode_lock(k).lock(k);
    inode.set_i_state(k, inode.i_state(k) & !I_LOCK);
    let (more, redirtied) = match k.axes().page_cache {
        CacheKind::Tagged => (
            radix_tree::tagged(k, mapping.page_tree(k), Tag::Dirty),
            false,
        ),
        CacheKind::Lists => {
            let l = lists::of(k, mapping);
            (!l.io_pages(k).is_empty(k), !l.dirty_pages(k).is_empty(k))
        }
    };
    if more && control.patience == Patience::Periodic {
        // It stays first in line for when the queue has room, its age unchanged.
        inode.set_i_state(k, inode.i_state(k) | I_DIRTY_PAGES);
        inode.i_list(k).del(k);
        match k.axes().page_cache {
            CacheKind::Tagged => inode.i_list(k).add_tail_to(k, w.s_dirty(k)),
            CacheKind::Lists => inode.i_list(k).add_tail_to(k, w.s_io(k)),
        }
    } else if more || redirtied {
        // Behind the others, so that they get some writeback too.
        inode.set_i_state(k, inode.i_state(k) | I_DIRTY_PAGES);
        inode.set_dirtied_when(k, now_ms(k));
        list_move(k, inode, w.s_dirty(k));
    } else if inode.i_state(k) & I_DIRTY_PAGES != 0 {
        list_move(k, inode, w.s_dirty(k));
    } else {
        list_move(k, inode, w.inode_in_use(k));
    }
    (flusher.nr_to_write(k), flusher.congestion(k) != 0)
}

/// How a task or pdflush writes pages without waiting for them.
pub fn background<K: Kernel>(_: K, nr_to_write: u32, patience: Patience) -> Control {
    Control {
        sync: Sync::None,
        nr_to_write,
        patience,
    }
}
