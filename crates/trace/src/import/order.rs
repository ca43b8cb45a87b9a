//! Which recorded events must keep their order across tasks.
//!
//! A child's first event needs its fork; a wait needs the child's exit; the parent's next event after a vfork needs the
//! child's exec or exit; an attachment needs the segment's creation; and inside one address space shared by threads
//! (or with a vfork child) a change of mappings and whatever else concerns the same pages keep their recorded order.
//!
//! Invariant: needs point to events earlier in recorded order, but for a vfork's, a wait's, which point to another task's past.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::raw::{Call, Raw, What};
use crate::{schedule::Needs, space::page_down};

/// Finds all needs.
pub(super) fn needs(events: &[Raw]) -> Needs {
    let mut needs = Needs::new();
    lives(events, &mut needs);
    let mut users: HashMap<u32, BTreeSet<u32>> = HashMap::new();
    for e in events {
        users.entry(e.mm).or_default().insert(e.task);
    }
    let mut spaces: HashMap<u32, Conflicts> = HashMap::new();
    for (index, e) in events.iter().enumerate() {
        if users.get(&e.mm).is_some_and(|u| u.len() > 1) {
            let me = At {
                task: e.task,
                index: index as u32,
            };
            let found = spaces.entry(e.mm).or_default().note(me, &e.what);
            needs_of(&mut needs, me.index).extend(found);
        }
    }
    needs.retain(|_, n| {
        n.sort_unstable();
        n.dedup();
        !n.is_empty()
    });
    needs
}

fn needs_of(needs: &mut Needs, index: u32) -> &mut Vec<u32> {
    needs.entry(index).or_default()
}

/// Births, deaths and segments.
fn lives(events: &[Raw], needs: &mut Needs) {
    let mut births: HashMap<u32, u32> = HashMap::new();
    let mut exits: HashMap<u32, u32> = HashMap::new();
    let mut segments: HashMap<u32, u32> = HashMap::new();
    for (index, e) in events.iter().enumerate() {
        let index = index as u32;
        match &e.what {
            What::Exit => {
                exits.insert(e.task, index);
            }
            What::Call(call) => match **call {
                Call::Fork { child } | Call::Vfork { child } | Call::Clone { child } => {
                    births.insert(child, index);
                }
                Call::Shmget { segment, .. } => {
                    segments.entry(segment).or_insert(index);
                }
                _ => {}
            },
            _ => {}
        }
    }
    let mut begun = BTreeSet::new();
    // Parents in a vfork, with the child; and each vfork child's release.
    let mut suspended: HashMap<u32, u32> = HashMap::new();
    let mut releases: HashMap<u32, u32> = HashMap::new();
    for (index, e) in events.iter().enumerate().rev() {
        if matches!(e.what, What::Exec(_) | What::Exit) {
            releases.insert(e.task, index as u32);
        }
    }
    for (index, e) in events.iter().enumerate() {
        let index = index as u32;
        if matches!(e.what, What::Switch(_)) {
            continue;
        }
        if begun.insert(e.task)
            && let Some(&birth) = births.get(&e.task)
        {
            needs_of(needs, index).push(birth);
        }
        if let Some(child) = suspended.remove(&e.task)
            && let Some(&release) = releases.get(&child)
        {
            needs_of(needs, index).push(release);
        }
        if let What::Call(call) = &e.what {
            match **call {
                Call::Vfork { child } => {
                    suspended.insert(e.task, child);
                }
                Call::Wait { child } => needs_of(needs, index).extend(exits.get(&child)),
                Call::Shmat { segment, .. } => {
                    needs_of(needs, index).extend(segments.get(&segment).filter(|&&s| s < index));
                }
                _ => {}
            }
        }
    }
}

#[derive(Clone, Copy)]
struct At {
    task: u32,
    index: u32,
}

/// The last events that concerned each part of one address space.
#[derive(Default)]
struct Conflicts {
    /// Start -> end and last change.
    changes: BTreeMap<u64, (u64, At)>,
    /// Page -> touches since its last change, the last one of each task.
    touches: BTreeMap<u64, Vec<At>>,
}

impl Conflicts {
    fn note(&mut self, me: At, what: &What) -> Vec<u32> {
        let mut found = Vec::new();
        match what {
            What::Touch { va, .. } => {
                let page = page_down(*va);
                if let Some((_, &(end, at))) = self.changes.range(..=page).next_back()
                    && page < end
                    && at.task != me.task
                {
                    found.push(at.index);
                }
                let touches = self.touches.entry(page).or_default();
                touches.retain(|t| t.task != me.task);
                touches.push(me);
            }
            What::Call(call) => {
                for (start, end) in call.changes() {
                    if start < end {
                        self.change(me, start, end, &mut found);
                    }
                }
            }
            What::Exec(_) | What::Exit | What::Switch(_) => {}
        }
        found
    }

    fn change(&mut self, me: At, start: u64, end: u64, found: &mut Vec<u32>) {
        self.split(start);
        self.split(end);
        let inside: Vec<u64> = self.changes.range(start..end).map(|(&k, _)| k).collect();
        let others = inside
            .iter()
            .filter_map(|k| self.changes.remove(k))
            .map(|(_, at)| at);
        found.extend(others.filter(|at| at.task != me.task).map(|at| at.index));
        let pages: Vec<u64> = self.touches.range(start..end).map(|(&k, _)| k).collect();
        let touches = pages
            .iter()
            .filter_map(|p| self.touches.remove(p))
            .flatten();
        found.extend(touches.filter(|at| at.task != me.task).map(|at| at.index));
        self.changes.insert(start, (end, me));
    }

    fn split(&mut self, at: u64) {
        if let Some((&start, &(end, who))) = self.changes.range(..at).next_back()
            && at < end
        {
            self.changes.insert(start, (at, who));
            self.changes.insert(at, (end, who));
        }
    }
}
