//! Rules 8 and 9: the vmas of every file in its tree or lists exactly once; page trees, their tags and counts.

use super::{Violation, each_mm, each_vma};
use crate::file;
use crate::kernel::Kernel;
use crate::layout::{File, Mapping, Vma, has_i_mmap_writable, vm};
use crate::objects::objects;
use crate::page;
use crate::prio_tree::{self, PrioRoot};
use crate::ptr::Low;
use crate::radix_tree::{RadixNode, TAGS};
use crate::rmap::ReverseMap;
use crate::rmap::file::{SHARED, i_mmap_is_free};
use crate::swap;
use std::collections::{BTreeMap, BTreeSet};

/// Calls `f` for every file of the table.
pub fn each_file<K: Kernel>(k: K, mut f: impl FnMut(Low<File>)) {
    for i in 0..1024 {
        let mut file = objects(k).file_hash(k, i);
        while !file.is_null() {
            f(file);
            file = file.hash_next(k);
        }
    }
}

pub(super) fn check<K: Kernel>(k: K) -> Result<(), Violation> {
    let mut by_file: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut bad = None;
    each_mm(k, |mm| {
        each_vma(k, mm, |vma| {
            if let Some(file) = vma.file(k).get() {
                by_file.entry(file.va()).or_default().insert(vma.va());
            }
            if let Err(what) = K::Rmap::check_vma(k, vma) {
                bad.get_or_insert(Violation::SchemeVma {
                    vma: vma.va(),
                    what,
                });
            }
        });
    });
    let none = BTreeSet::new();
    each_file(k, |file| {
        if bad.is_none() {
            let vmas = by_file.remove(&file.va());
            bad = one_file(k, file, vmas.as_ref().unwrap_or(&none)).err();
        }
    });
    if let Some(v) = bad {
        return Err(v);
    }
    if let Some((file, _)) = by_file.first_key_value() {
        return Err(Violation::FileVmas {
            file: 0,
            what: "file not in the table",
            value: *file,
        });
    }
    page_tree(k, swap::swapper_space(k), u32::MAX)
}

fn one_file<K: Kernel>(k: K, file: Low<File>, vmas: &BTreeSet<u32>) -> Result<(), Violation> {
    let id = file.id(k);
    let mapping = file::mapping(k, file);
    let wrong = |what, value| Violation::FileVmas {
        file: id,
        what,
        value,
    };
    if !i_mmap_is_free(k, mapping) {
        return Err(wrong("i_mmap_lock taken", mapping.va()));
    }
    let mut found = Vec::new();
    let tree = objects(k).file_vmas(k) != 0;
    if tree {
        found = prio_tree_order(k, PrioRoot(mapping.i_mmap(k))).map_err(|(w, v)| wrong(w, v))?;
    } else {
        list(k, mapping.i_mmap(k), &mut found);
        let private = found.len();
        list(k, mapping.i_mmap_shared(k), &mut found);
        let shared = |v: &Low<Vma>| v.flags(k) & vm::SHARED != 0;
        if found[..private].iter().any(shared) || !found[private..].iter().all(shared) {
            return Err(wrong("shared and private vmas on each other's list", 0));
        }
    }
    if found.iter().any(|v| v.flags(k) & vm::NONLINEAR != 0) {
        return Err(wrong("nonlinear vma among the linear", 0));
    }
    let linear = found.len();
    list(k, mapping.i_mmap_nonlinear(k), &mut found);
    if found[linear..]
        .iter()
        .any(|v| v.flags(k) & vm::NONLINEAR == 0)
    {
        return Err(wrong("linear vma among the nonlinear", 0));
    }
    let writable = found
        .iter()
        .filter(|v| v.flags(k) & vm::SHARED != 0)
        .count() as u32;
    if has_i_mmap_writable(k) && writable != mapping.i_mmap_writable(k) {
        return Err(wrong("i_mmap_writable", mapping.i_mmap_writable(k)));
    }
    let set: BTreeSet<u32> = found.iter().map(|v| v.va()).collect();
    if set.len() != found.len() {
        return Err(wrong("a vma is there twice", 0));
    }
    if let Some(v) = set.symmetric_difference(vmas).next() {
        return Err(wrong("a vma is missing or stale", *v));
    }
    page_tree(k, mapping, id)
}

/// All vmas of a tree, after checking heap and bit order and the lists of equal ranges.
pub fn prio_tree_order<K: Kernel>(
    k: K,
    root: PrioRoot,
) -> Result<Vec<Low<Vma>>, (&'static str, u32)> {
    let mut found = Vec::new();
    let top = root.node(k);
    if !top.is_null() {
        if prio_tree::parent(k, top) != top {
            return Err(("root's parent", top.va()));
        }
        let place = Place {
            mask: 1 << (root.bits(k) - 1),
            top: 1 << (root.bits(k) - 1),
            by_size: false,
        };
        subtree(k, top, place, &mut found)?;
    }
    Ok(found)
}

fn list<K: Kernel>(k: K, head: Low<crate::list::ListHead>, found: &mut Vec<Low<Vma>>) {
    let mut at = head.next(k);
    while at != head {
        found.push(at.container(SHARED));
        at = at.next(k);
    }
}

/// Level of a node: which bit decides below it.
#[derive(Clone, Copy)]
struct Place {
    mask: u32,
    top: u32,
    by_size: bool,
}

/// Heap and bit order below `node`, and its list.
fn subtree<K: Kernel>(
    k: K,
    node: Low<Vma>,
    place: Place,
    found: &mut Vec<Low<Vma>>,
) -> Result<(), (&'static str, u32)> {
    found.push(node);
    let key = |v| (prio_tree::radix_index(k, v), prio_tree::heap_index(k, v));
    let head = node.tree_head(k);
    if !head.is_null() {
        if head.tree_head(k) != node {
            return Err(("list head does not point back", head.va()));
        }
        let mut member = head;
        loop {
            if key(member) != key(node) {
                return Err(("list member of another range", member.va()));
            }
            if !prio_tree::parent(k, member).is_null() {
                return Err(("list member looks like a tree node", member.va()));
            }
            found.push(member);
            member = member.shared(k).list(k).next(k).container(SHARED);
            if member == head {
                break;
            }
            if !member.tree_head(k).is_null() {
                return Err(("second list head", member.va()));
            }
        }
    }
    let (left, right) = (prio_tree::left(k, node), prio_tree::right(k, node));
    for (child, is_right) in [(left, false), (right, true)] {
        if child == node {
            continue;
        }
        if prio_tree::parent(k, child) != node {
            return Err(("child's parent", child.va()));
        }
        let ((r, h), (cr, ch)) = (key(node), key(child));
        if ch > h || (ch == h && cr < r) {
            return Err(("heap order", child.va()));
        }
        if place.mask == 0 {
            return Err(("too deep", child.va()));
        }
        let mut keys = Vec::new();
        collect(k, child, &mut keys);
        for v in keys {
            let (r, h) = key(v);
            let index = if place.by_size { h - r } else { r };
            if (index & place.mask != 0) != is_right {
                return Err(("bit order", v.va()));
            }
        }
        let mut below = Place {
            mask: place.mask >> 1,
            ..place
        };
        if below.mask == 0 && !below.by_size {
            below = Place {
                mask: place.top,
                by_size: true,
                ..place
            };
        }
        subtree(k, child, below, found)?;
    }
    Ok(())
}

fn collect<K: Kernel>(k: K, node: Low<Vma>, out: &mut Vec<Low<Vma>>) {
    out.push(node);
    for child in [prio_tree::left(k, node), prio_tree::right(k, node)] {
        if child != node {
            collect(k, child, out);
        }
    }
}

/// The tree of one mapping: node counts, tags, items at their index, nrpages.
fn page_tree<K: Kernel>(k: K, mapping: Low<Mapping>, id: u32) -> Result<(), Violation> {
    if !mapping.tree_lock(k).is_free(k) {
        return Err(Violation::Locked {
            at: mapping.va(),
            what: "tree_lock",
        });
    }
    let tree = mapping.page_tree(k);
    let mut pages = 0;
    if tree.rnode(k) != 0 {
        let mut t = Tree {
            k,
            mapping,
            id,
            pages: 0,
        };
        t.node(Low::new(tree.rnode(k)), tree.height(k), 0)?;
        pages = t.pages;
    }
    if pages != mapping.nrpages(k) {
        return Err(Violation::PageTree {
            file: id,
            index: mapping.nrpages(k),
            what: "nrpages",
        });
    }
    Ok(())
}

struct Tree<K> {
    k: K,
    mapping: Low<Mapping>,
    id: u32,
    pages: u32,
}

impl<K: Kernel> Tree<K> {
    /// Returns which tags are set anywhere below.
    fn node(
        &mut self,
        node: Low<RadixNode>,
        level: u32,
        base: u32,
    ) -> Result<[bool; 2], Violation> {
        let k = self.k;
        let id = self.id;
        let wrong = |index, what| Violation::PageTree {
            file: id,
            index,
            what,
        };
        let mut any = [false; 2];
        let mut used = 0;
        for i in 0..64 {
            let slot = node.slot(k, i);
            let index = base | i << ((level - 1) * 6);
            let mut tags = [false; 2];
            if slot != 0 {
                used += 1;
                tags = if level > 1 {
                    self.node(Low::new(slot), level - 1, index)?
                } else {
                    self.item(Low::new(slot), index)?
                };
            }
            for tag in TAGS {
                if node.has_tag(k, tag, i) != tags[tag as usize] {
                    return Err(wrong(index, "tag"));
                }
                any[tag as usize] |= tags[tag as usize];
            }
        }
        if used != node.count(k) || used == 0 {
            return Err(wrong(base, "node count"));
        }
        Ok(any)
    }

    fn item(&mut self, p: Low<crate::layout::Page>, index: u32) -> Result<[bool; 2], Violation> {
        let k = self.k;
        self.pages += 1;
        let swap = self.mapping == swap::swapper_space(k);
        let at_home = if swap {
            page::swap_cached(k, p) && swap::entry_of(k, p).0 == index
        } else {
            p.mapping(k) == self.mapping.va() && p.index(k) == index
        };
        if !at_home {
            return Err(Violation::PageTree {
                file: self.id,
                index,
                what: "page not at home",
            });
        }
        Ok(super::cache::tags_of(k, p))
    }
}
