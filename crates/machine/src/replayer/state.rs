//! Where a replayer stands and what it knows of tasks and mappings: for the plain model that is compared with a machine.
//!
//! Invariant: asking changes nothing.

use super::Replayer;
use crate::call::Marshalled;
use crate::plain::Living;
use lowmem_trace::TaskId;
use lowmem_trace::space::Area;

/// A place in a trace, to the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Operation.
    pub operation: u64,
    /// Steps of it that are queued.
    pub left: usize,
    /// Whether its re-touches are queued.
    pub retouched: bool,
}

impl Replayer {
    /// Where it stands.
    pub fn position(&self) -> Position {
        Position {
            operation: self.op,
            left: self.steps.len(),
            retouched: self.retouched,
        }
    }

    /// The call that is the step at hand.
    pub(crate) fn pending(&self) -> Option<&Marshalled> {
        self.call.as_ref()
    }

    /// Number of a task's address space.
    pub(crate) fn space_of(&self, task: TaskId) -> Option<u32> {
        let task = self.tasks.get(task.index())?.as_ref()?;
        Some(task.mm as u32)
    }

    /// Living address spaces.
    pub(crate) fn living(&self) -> impl Iterator<Item = Living> + '_ {
        let spaces = self.spaces.iter().enumerate().filter(|(_, s)| s.users > 0);
        spaces.filter_map(|(i, s)| {
            Some(Living {
                space: i as u32,
                task: TaskId(*s.tasks.first()?),
                stack_top: s.stack_top,
            })
        })
    }

    /// The mapping of a task that holds `va`, as it is after the operation at hand.
    pub(crate) fn area_of(&self, task: TaskId, va: u32) -> Option<Area> {
        self.model.mm(task)?.space.find(u64::from(va)).copied()
    }

    /// The running task's first mapping at `va` or above.
    pub(crate) fn area_above(&self, va: u32) -> Option<Area> {
        let space = &self.model.mm(self.current)?.space;
        match space.find(u64::from(va)) {
            Some(area) => Some(*area),
            None => space.above(u64::from(va)).copied(),
        }
    }

    /// All mappings of a task.
    pub(crate) fn areas_of(&self, task: TaskId) -> impl Iterator<Item = Area> + '_ {
        let space = self.model.mm(task).map(|mm| &mm.space);
        space.into_iter().flat_map(|s| s.iter().copied())
    }
}
