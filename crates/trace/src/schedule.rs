//! Operations of several CPUs laid on one.
//!
//! Each task's entries are cut into slices at the recorded switches. Slices are laid on one CPU by their start time and run to
//! their end; a slice is split only where an entry needs another task's entry that has not run yet (a fork, a wait, an exec, an exit,
//! or a conflicting change of a shared address space). Merging entries by time alone would switch 6 to 11 times
//! too often.
//!
//! The end of a slice is one switch. Recorded switches = `sched_switch` records + task exits; forced splits come on top.
//!
//! Invariant: entries of one task keep their order, every entry runs once, and after whatever it needs.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use crate::op::SliceEnd;

/// What an entry does to the slice it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing: an operation.
    Event,
    /// An operation that ends the task and the slice.
    Exit,
    /// No operation: the task left the CPU.
    Leave(SliceEnd),
}

/// One recorded entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Task.
    pub task: u32,
    /// Time; any unit.
    pub time: u64,
    /// Its meaning.
    pub mark: Mark,
}

/// Entries that must run before others: for an entry, those it needs.
pub type Needs = BTreeMap<u32, Vec<u32>>;

/// A stretch of one task's entries that runs undisturbed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Task.
    pub task: u32,
    /// Indices of its operations; may be empty (the task woke and slept again).
    pub events: Vec<u32>,
    /// Why it ends.
    pub end: SliceEnd,
}

#[derive(Debug)]
struct Slice {
    start: u64,
    events: VecDeque<u32>,
    end: SliceEnd,
}

/// Cuts entries into slices, per task in order.
fn slices(entries: &[Entry]) -> BTreeMap<u32, VecDeque<Slice>> {
    let mut all: BTreeMap<u32, VecDeque<Slice>> = BTreeMap::new();
    let mut open: BTreeMap<u32, Slice> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let slice = open.entry(entry.task).or_insert_with(|| Slice {
            start: entry.time,
            events: VecDeque::new(),
            end: SliceEnd::Sleep,
        });
        let end = match entry.mark {
            Mark::Event => None,
            Mark::Exit => Some(SliceEnd::Exit),
            Mark::Leave(end) => Some(end),
        };
        if !matches!(entry.mark, Mark::Leave(_)) {
            slice.events.push_back(index as u32);
        }
        if let Some(end) = end
            && let Some(slice) = open.remove(&entry.task)
        {
            all.entry(entry.task)
                .or_default()
                .push_back(Slice { end, ..slice });
        }
    }
    for (task, slice) in open {
        all.entry(task).or_default().push_back(slice);
    }
    all
}

/// Lays the entries on one CPU.
///
/// # Panics
/// If `needs` has a cycle with the order inside tasks; needs that point to earlier entries never have one.
#[must_use]
pub fn schedule(entries: &[Entry], needs: &Needs) -> Vec<Portion> {
    let mut waiting = slices(entries);
    let mut ready: BinaryHeap<Reverse<(u64, u32)>> = waiting
        .iter()
        .filter_map(|(&task, queue)| Some(Reverse((queue.front()?.start, task))))
        .collect();
    let mut done = vec![false; entries.len()];
    // Tasks that stand at an entry until another one has run.
    let mut blocked: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut portions: Vec<Portion> = Vec::new();
    while let Some(Reverse((_, task))) = ready.pop() {
        let Some(slice) = waiting.get_mut(&task).and_then(VecDeque::front_mut) else {
            continue;
        };
        let mut events = Vec::new();
        let mut obstacle = None;
        while let Some(&index) = slice.events.front() {
            let need = needs
                .get(&index)
                .and_then(|n| n.iter().find(|&&n| !done[n as usize]));
            if let Some(&need) = need {
                obstacle = Some(need);
                break;
            }
            slice.events.pop_front();
            events.push(index);
            done[index as usize] = true;
        }
        let start = slice.start;
        let woken: Vec<u32> = events
            .iter()
            .filter_map(|e| blocked.remove(e))
            .flatten()
            .collect();
        match obstacle {
            Some(need) => {
                blocked.entry(need).or_default().push(task);
                if !events.is_empty() {
                    portions.push(Portion {
                        task,
                        events,
                        end: SliceEnd::Forced,
                    });
                }
            }
            None => {
                let end = slice.end;
                portions.push(Portion { task, events, end });
                let queue = waiting.get_mut(&task).expect("it was there above");
                queue.pop_front();
                if let Some(next) = queue.front() {
                    // A later slice never starts before an earlier one, whatever the stamps say.
                    ready.push(Reverse((next.start.max(start), task)));
                }
            }
        }
        for task in woken {
            if let Some(slice) = waiting.get(&task).and_then(VecDeque::front) {
                ready.push(Reverse((slice.start, task)));
            }
        }
    }
    assert!(blocked.is_empty(), "entries need each other in a circle");
    portions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(task: u32, time: u64) -> Entry {
        Entry {
            task,
            time,
            mark: Mark::Event,
        }
    }

    fn leave(task: u32, time: u64) -> Entry {
        Entry {
            task,
            time,
            mark: Mark::Leave(SliceEnd::Preempt),
        }
    }

    fn order(entries: &[Entry], needs: &Needs) -> Vec<(u32, Vec<u32>, SliceEnd)> {
        schedule(entries, needs)
            .into_iter()
            .map(|p| (p.task, p.events, p.end))
            .collect()
    }

    #[test]
    fn overlapping_slices_run_whole_by_start() {
        use SliceEnd::{Preempt, Sleep};
        let e = [
            entry(0, 1),
            entry(1, 2),
            entry(0, 3),
            entry(1, 4),
            leave(0, 5),
            entry(1, 6),
            entry(0, 7),
        ];
        assert_eq!(
            order(&e, &Needs::new()),
            [
                (0, vec![0, 2], Preempt),
                (1, vec![1, 3, 5], Sleep),
                (0, vec![6], Sleep)
            ]
        );
    }

    #[test]
    fn a_need_splits_once_and_the_rest_goes_on_first() {
        use SliceEnd::{Exit, Forced, Sleep};
        // Task 0 waits at its second entry for the exit of task 1; task 2 starts in between.
        let mut e = [entry(0, 1), entry(1, 2), entry(2, 3), entry(0, 4)];
        e[1].mark = Mark::Exit;
        let needs = Needs::from([(3, vec![1])]);
        assert_eq!(
            order(&e, &needs),
            [
                (0, vec![0], Forced),
                (1, vec![1], Exit),
                (0, vec![3], Sleep),
                (2, vec![2], Sleep)
            ]
        );
    }

    #[test]
    fn a_child_is_delayed_until_its_fork_without_a_split() {
        use SliceEnd::Sleep;
        let e = [entry(1, 1), entry(0, 2)];
        let needs = Needs::from([(0, vec![1])]);
        assert_eq!(
            order(&e, &needs),
            [(0, vec![1], Sleep), (1, vec![0], Sleep)]
        );
    }

    #[test]
    fn empty_slices_are_kept() {
        let e = [entry(0, 1), leave(0, 2), leave(0, 3), entry(0, 4)];
        let lens: Vec<usize> = schedule(&e, &Needs::new())
            .iter()
            .map(|p| p.events.len())
            .collect();
        assert_eq!(lens, [1, 0, 1]);
    }
}
